/* See support_store.h. */
#include "support_store.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/store_sqlite.h"

static char path[256];

struct store *support_store_new(void)
{
    char dir[] = "/tmp/baton-store-XXXXXX", err[300];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.db", dir);
    struct store *s = store_sqlite_open(path, "test", err, sizeof err);
    ck_assert_msg(s != NULL, "%s", err);
    return s;
}

const char *support_store_path(void)
{
    return path;
}

struct store *support_store_reopen(struct store *s)
{
    char err[300];
    store_sqlite_close(s);
    s = store_sqlite_open(path, "test", err, sizeof err);
    ck_assert_msg(s != NULL, "%s", err);
    return s;
}

void support_store_free(struct store *s)
{
    static const char *const suffix[] = {"", "-wal", "-shm", ".lock"};
    char file[300];
    store_sqlite_close(s);
    for (unsigned i = 0; i < 4; i++) {
        snprintf(file, sizeof file, "%s%s", path, suffix[i]);
        unlink(file);
    }
}

/* Slots for as many rows as a test has under way at once. */
struct row support_message(uint64_t id, unsigned seed, uint32_t recipients)
{
    static char bodies[128][64], senders[128][64];
    static unsigned next;
    char *body = bodies[next % 128], *sender = senders[next++ % 128];
    snprintf(body, 64, "Subject: %u\r\n\r\nbody %u\r\n", seed, seed);
    snprintf(sender, 64, "sender%u@example.org", seed % 7);
    struct row r = {.type = ROW_MESSAGE};
    r.message = (struct row_message){.id = id,
                                     .received_ms = 1700000000000 + (int64_t)seed,
                                     .recipients = recipients,
                                     .sender = slice_str(sender),
                                     .campaign = SLICE_LIT("spring"),
                                     .origin = SLICE_LIT("host [192.0.2.1]"),
                                     .prefix = SLICE_LIT("Received: by test\r\n"),
                                     .body = slice_str(body)};
    r.message.size = r.message.body.n;
    crypto_sha256(r.message.body, r.message.sha256);
    return r;
}

struct row support_recipient(uint64_t id, uint32_t index, uint8_t state)
{
    static char addresses[128][64];
    static unsigned next;
    char *address = addresses[next++ % 128];
    snprintf(address, 64, "rcpt%u@example.net", index);
    struct row r = {.type = ROW_RECIPIENT};
    r.recipient = (struct row_recipient){.id = id,
                                         .index = index,
                                         .state = state,
                                         .next_ms = 1700000000000,
                                         .address = slice_str(address),
                                         .domain = SLICE_LIT("example.net")};
    return r;
}

void support_put(struct store *s, struct row r, struct pos p, enum unmerged_class mark)
{
    struct store_meta m;
    row_set_pos(&r, p);
    if (r.type == ROW_MESSAGE && !r.message.born.lsn)
        r.message.born = p;
    s->ops->get_meta(s, &m);
    ck_assert_int_eq(s->ops->begin(s), STORE_OK);
    ck_assert_int_eq(s->ops->put(s, &r, mark), STORE_OK);
    if (pos_cmp(p, m.end) > 0)
        m.end = p;
    ck_assert_int_eq(s->ops->set_meta(s, &m), STORE_OK);
    ck_assert_int_eq(s->ops->commit(s), STORE_OK);
}

bool support_get_message(struct store *s, uint64_t id, struct row *out)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = id};
    enum unmerged_class mark;
    return s->ops->get(s, &key, out, &mark) == STORE_OK;
}

int support_state(struct store *s, uint64_t id, uint32_t index)
{
    struct row key = {.type = ROW_RECIPIENT, .recipient = {.id = id, .index = index}}, out;
    enum unmerged_class mark;
    return s->ops->get(s, &key, &out, &mark) == STORE_OK ? out.recipient.state : -1;
}

bool support_marked(struct store *s, const struct row *key)
{
    struct row out;
    enum unmerged_class mark;
    ck_assert_int_eq(s->ops->get(s, key, &out, &mark), STORE_OK);
    return mark != UNMERGED_NONE;
}

/* Sorted by key, so that stores whose rows have other positions can be compared. */
struct dump {
    struct buf rows[4096];
    char key[4096][128];
    unsigned n;
    bool positions;
};

static bool dump_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct dump *d = ctx;
    struct row row = *r;
    ck_assert_uint_lt(d->n, 4096);
    char *key = d->key[d->n];
    if (row.type == ROW_OPSTATE)
        snprintf(key, 128, "9 %.*s", (int)row.opstate.key.n, (const char *)row.opstate.key.p);
    else
        snprintf(key, 128, "%d %020llu %u", row.type,
                 (unsigned long long)(row.type == ROW_MESSAGE     ? row.message.id
                                      : row.type == ROW_RECIPIENT ? row.recipient.id
                                                                  : row.chunk.id),
                 row.type == ROW_MESSAGE     ? 0
                 : row.type == ROW_RECIPIENT ? row.recipient.index
                                             : row.chunk.index);
    if (!d->positions) {
        row_set_pos(&row, (struct pos){0, 0});
        if (row.type == ROW_MESSAGE)
            row.message.born = (struct pos){0, 0};
    }
    struct buf *b = &d->rows[d->n++];
    buf_init(b, 1 << 20);
    ck_assert(wire_put_u8(b, (uint8_t)mark) && row_encode(b, &row));
    return true;
}

static struct dump *sorting;
static int by_key(const void *a, const void *b)
{
    return strcmp(sorting->key[*(const unsigned *)a], sorting->key[*(const unsigned *)b]);
}

void support_dump(struct store *s, struct buf *out, bool positions)
{
    struct dump *d = xcalloc(1, sizeof *d);
    d->positions = positions;
    ck_assert_int_eq(s->ops->changes_after(s, 0, dump_row, d), STORE_OK);
    unsigned order[4096];
    for (unsigned i = 0; i < d->n; i++)
        order[i] = i;
    sorting = d;
    qsort(order, d->n, sizeof *order, by_key);
    buf_init(out, 64 << 20);
    for (unsigned i = 0; i < d->n; i++) {
        ck_assert(buf_append_slice(out, buf_slice(&d->rows[order[i]])));
        buf_free(&d->rows[order[i]]);
    }
    free(d);
}
