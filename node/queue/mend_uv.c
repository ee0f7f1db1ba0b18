/* Comparing and mending, on the storage thread and its reader (replication/verify.h). What is put
 * back was checked against its checksum before; it takes the place of what is here under the same
 * positions, so that the feed knows nothing of it. */
#include <stdlib.h>

#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/queue/internal_uv.h"

enum { ANSWER_CAP = 12 << 20, PIECE_BYTES = 1 << 20 };

void reader_digests(struct storage *s, struct store *store, const struct store_request *r)
{
    struct store_reply out = {.type = SR_DIGESTS, .cookie = r->cookie};
    struct buf b;
    buf_init(&b, ANSWER_CAP);
    out.err = store->ops->begin(store);
    if (!out.err) {
        out.err = store_sqlite_digests(store, r->first, r->pos.lsn, r->live, (unsigned)r->limit, &b,
                                       &out.first, &out.more);
        store->ops->rollback(store);
    }
    if (!out.err)
        out.bytes = shared_new(buf_slice(&b));
    buf_free(&b);
    s->hooks.reply(s->hooks.ctx, &out);
}

void reader_rows(struct storage *s, struct store *store, const struct store_request *r)
{
    struct store_reply out = {.type = SR_ROWS, .cookie = r->cookie};
    struct buf b;
    uint32_t next = 0;
    buf_init(&b, ANSWER_CAP);
    out.err = store->ops->begin(store);
    if (!out.err) {
        out.err = store_sqlite_rows(store, r->first, r->skip, r->limit, &b, &next, &out.more);
        store->ops->rollback(store);
    }
    out.first = next;
    if (!out.err)
        out.bytes = shared_new(buf_slice(&b));
    buf_free(&b);
    s->hooks.reply(s->hooks.ctx, &out);
}

/* The message among rows that came, its body checked. STORE_CORRUPT: that copy is no better. */
static int check_theirs(struct slice rows, struct row *message)
{
    struct wire_reader r = wire_read(rows);
    struct sha256 *h = sha256_new();
    uint64_t size = 0;
    uint8_t sum[32];
    bool found = false;
    while (r.n && !r.bad) {
        struct row row;
        if (!row_decode(&r, &row))
            break;
        if (row.type == ROW_MESSAGE) {
            *message = row;
            found = true;
        }
        struct slice part = row.type == ROW_CHUNK     ? row.chunk.data
                            : row.type == ROW_MESSAGE ? row.message.body
                                                      : (struct slice){NULL, 0};
        sha256_update(h, part);
        size += part.n;
    }
    sha256_final(h, sum);
    bool right = found && !r.bad && size == message->message.size &&
                 memcmp(sum, message->message.sha256, 32) == 0;
    return right ? STORE_OK : STORE_CORRUPT;
}

static int put_one(struct store *store, const struct row *theirs)
{
    struct row here, row = *theirs;
    enum unmerged_class mark = UNMERGED_NONE;
    if (row.type != ROW_CHUNK && row.type != ROW_MESSAGE)
        return STORE_OK;
    int err = store->ops->get(store, theirs, &here, &mark);
    if (err && (err != STORE_NOT_FOUND || row.type == ROW_MESSAGE))
        return err;
    if (!err && row.type == ROW_CHUNK) {
        if (slice_eq(here.chunk.data, row.chunk.data))
            return STORE_OK;
        row.chunk.pos = here.chunk.pos;
    }
    if (row.type == ROW_MESSAGE) {
        if (here.message.state == MESSAGE_DONE)
            return STORE_OK;
        row = here; /* only its body is in question */
        row.message.body = theirs->message.body;
    }
    return store->ops->put(store, &row, mark);
}

/* In bounded transactions, so that nothing waits long behind it; done in part it does no harm. */
static int put_back(struct storage *s, struct slice rows)
{
    struct store *store = s->store;
    struct wire_reader r = wire_read(rows);
    int err = STORE_OK;
    while (!err && r.n) {
        size_t start = r.n;
        storage_begun(s);
        err = store->ops->begin(store);
        if (err)
            return err;
        while (!err && r.n && start - r.n < PIECE_BYTES) {
            struct row row;
            err = row_decode(&r, &row) ? put_one(store, &row) : STORE_CORRUPT;
        }
        if (!err)
            err = store->ops->commit(store);
        else
            store->ops->rollback(store);
        storage_ended(s);
    }
    return err;
}

int writer_mend(struct storage *s, const struct store_request *r)
{
    struct slice rows = r->bytes ? slice_of(r->bytes->data, r->bytes->n) : slice_of(NULL, 0);
    struct row theirs, key = {.type = ROW_MESSAGE, .message.id = r->first}, here;
    enum unmerged_class mark;
    int err = check_theirs(rows, &theirs);
    if (err)
        return err;
    if (theirs.message.id != r->first)
        return STORE_CONFLICT;
    err = s->store->ops->get(s->store, &key, &here, &mark);
    if (err || here.message.state == MESSAGE_DONE)
        return err;
    bool same = memcmp(here.message.sha256, theirs.message.sha256, 32) == 0 &&
                here.message.size == theirs.message.size &&
                here.message.chunks == theirs.message.chunks;
    /* Another message under this id: its body must not come under these recipients. */
    if (!same)
        return STORE_CONFLICT;
    err = put_back(s, rows);
    if (!err)
        log_warn("storage.mended", "id=%016llx why=\"its body failed its checksum\"",
                 (unsigned long long)r->first);
    return err;
}
