/* What a comparison of two stores and the mending of bodies read (replication/verify.h). Bodies are
 * read chunk by chunk; a call looks at a bounded number of bytes. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/internal_sqlite.h"
#include "replication/digest.h"
#include "replication/port.h"

enum { DIGEST_BODY_BYTES = 4 << 20, IDS_MAX = 4096 };

static int get_message(struct store *s, uint64_t id, struct row *out)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = id};
    enum unmerged_class mark;
    return sqlite_get(s, &key, out, &mark);
}

static int get_chunk(struct store *s, uint64_t id, uint32_t index, struct row *out)
{
    struct row key = {.type = ROW_CHUNK, .chunk = {.id = id, .index = index}};
    enum unmerged_class mark;
    return sqlite_get(s, &key, out, &mark);
}

int store_sqlite_body(struct store *s, const struct row_message *m)
{
    uint8_t sum[32], expected[32];
    uint64_t size = m->size, seen = m->body.n;
    if (m->state == MESSAGE_DONE)
        return STORE_OK;
    memcpy(expected, m->sha256, 32);
    struct sha256 *h = sha256_new();
    sha256_update(h, m->body);
    int err = STORE_OK;
    for (uint32_t i = 0; !err && i < m->chunks && seen <= size; i++) {
        struct row c;
        err = get_chunk(s, m->id, i, &c);
        if (err)
            break;
        sha256_update(h, c.chunk.data);
        seen += c.chunk.data.n;
    }
    sha256_final(h, sum);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_CORRUPT : err;
    return seen == size && memcmp(sum, expected, 32) == 0 ? STORE_OK : STORE_CORRUPT;
}

static bool add_recipient(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    digest_add(ctx, r);
    return true;
}

static int digest_of(struct store *s, uint64_t id, struct buf *out, uint64_t *bytes)
{
    struct row m;
    struct digest d = {.id = id};
    int err = get_message(s, id, &m);
    if (err)
        return err;
    digest_add(&d, &m);
    *bytes += m.message.state == MESSAGE_LIVE ? m.message.size : 0;
    err = store_sqlite_body(s, &m.message);
    d.body_bad = err == STORE_CORRUPT;
    if (!err || d.body_bad)
        err = sqlite_each_recipient(s, id, add_recipient, &d);
    if (!err && !digest_encode(out, &d))
        err = STORE_FULL;
    return err;
}

int store_sqlite_digests(struct store *s, uint64_t after, uint64_t upto, bool live, unsigned limit,
                         struct buf *out, uint64_t *last, bool *more)
{
    uint64_t *ids = xcalloc(IDS_MAX, sizeof *ids), bytes = 0;
    unsigned n = 0;
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), live ? ST_MESSAGE_LIVE_IDS : ST_MESSAGE_IDS);
    int rc = SQLITE_ERROR;
    limit = limit < IDS_MAX ? limit : IDS_MAX - 1;
    if (st) {
        sqlite3_bind_int64(st, 1, (int64_t)after);
        sqlite3_bind_int64(st, 2, upto < INT64_MAX ? (int64_t)upto : INT64_MAX);
        sqlite3_bind_int64(st, 3, (int64_t)limit + 1);
        while ((rc = sqlite3_step(st)) == SQLITE_ROW)
            ids[n++] = (uint64_t)sqlite3_column_int64(st, 0);
        sqlite3_reset(st);
    }
    int err = sqlite_error(rc);
    unsigned i = 0;
    *last = after;
    for (; !err && i < n && i < limit && bytes < DIGEST_BODY_BYTES; i++) {
        err = digest_of(s, ids[i], out, &bytes);
        *last = ids[i];
    }
    *more = i < n;
    free(ids);
    return err;
}

/* A page of recipients: from an index on, as many as fit, at least one. */
struct page {
    struct buf *out;
    uint32_t from, next;
    size_t limit;
    bool any, more, full;
};

static bool add_recipient_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct page *p = ctx;
    (void)mark;
    if (r->recipient.index < p->from)
        return true;
    p->next = r->recipient.index;
    p->more = p->any && p->out->len >= p->limit;
    if (p->more)
        return false;
    p->any = true;
    p->full = !row_encode(p->out, r);
    return !p->full;
}

/* skip: of ROWS_WITHOUT_CHUNKS. */
static int recipient_rows(struct store *s, uint64_t id, uint32_t skip, size_t limit,
                          struct buf *out, uint32_t *next, bool *more)
{
    struct page p = {.out = out, .from = skip - ROWS_WITHOUT_CHUNKS, .limit = limit};
    int err = sqlite_each_recipient(s, id, add_recipient_row, &p);
    *more = p.more;
    *next = p.more ? ROWS_WITHOUT_CHUNKS + p.next : 0;
    return err ? err : p.full ? STORE_FULL : STORE_OK;
}

int store_sqlite_rows(struct store *s, uint64_t id, uint32_t from, size_t limit, struct buf *out,
                      uint32_t *next, bool *more)
{
    struct row m, c;
    int err = get_message(s, id, &m);
    *more = false;
    *next = 0;
    if (err)
        return err;
    if (from > ROWS_WITHOUT_CHUNKS)
        return recipient_rows(s, id, from, limit, out, next, more);
    uint32_t chunks = m.message.state == MESSAGE_LIVE ? m.message.chunks : 0;
    if (!from && (err = store_sqlite_body(s, &m.message)))
        return err;
    for (uint32_t i = from; i < chunks; i++) { /* none from ROWS_WITHOUT_CHUNKS on */
        if (out->len >= limit) {
            *next = i;
            *more = true;
            return STORE_OK;
        }
        err = get_chunk(s, id, i, &c);
        if (!err && !row_encode(out, &c))
            err = STORE_FULL;
        if (err)
            return err;
    }
    err = get_message(s, id, &m);
    if (!err && !row_encode(out, &m))
        err = STORE_FULL;
    return err ? err : recipient_rows(s, id, ROWS_WITHOUT_CHUNKS, limit, out, next, more);
}
