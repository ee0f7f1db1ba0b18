/* The reads of storage_uv.h on a read-only connection. Each is one snapshot, and bounded. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/internal_sqlite.h"
#include "node/queue/storage_uv.h"

enum { ROWS_MAX = 10000, DUE_LOOKS = 5000 };

static int message_head(struct store_sqlite *x, uint64_t id, struct row *out, sqlite3_stmt **open)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_HEAD);
    *open = st;
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)id);
    enum unmerged_class mark;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        sqlite_read_message(st, 0, false, out, &mark);
        return STORE_OK;
    }
    sqlite3_reset(st);
    return sqlite_error(rc) ? sqlite_error(rc) : STORE_NOT_FOUND;
}

static int read_inline(struct store_sqlite *x, struct storage_read *r, size_t n)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_BODY_INLINE);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)r->id);
    sqlite3_bind_int64(st, 2, (int64_t)r->offset + 1);
    sqlite3_bind_int64(st, 3, (int64_t)n);
    int rc = sqlite3_step(st), err = sqlite_error(rc);
    if (rc == SQLITE_ROW && !buf_append_slice(&r->bytes, sqlite_slice(st, 0)))
        err = STORE_FULL;
    sqlite3_reset(st);
    return err;
}

static int read_chunks(struct store_sqlite *x, struct storage_read *r, size_t n)
{
    int err = STORE_OK;
    uint64_t at = r->offset;
    while (!err && r->bytes.len < n) {
        struct row key = {.type = ROW_CHUNK}, row;
        enum unmerged_class mark;
        key.chunk.id = r->id;
        key.chunk.index = (uint32_t)(at / BODY_CHUNK_BYTES);
        size_t skip = at % BODY_CHUNK_BYTES, want = n - r->bytes.len;
        err = sqlite_get(&x->base, &key, &row, &mark);
        if (err || row.chunk.data.n <= skip)
            return err && err != STORE_NOT_FOUND ? err : STORE_CORRUPT;
        size_t part = row.chunk.data.n - skip < want ? row.chunk.data.n - skip : want;
        if (!buf_append(&r->bytes, row.chunk.data.p + skip, part))
            err = STORE_FULL;
        at += part;
    }
    return err;
}

static int read_body(struct store_sqlite *x, struct storage_read *r)
{
    struct row m;
    sqlite3_stmt *st;
    int err = message_head(x, r->id, &m, &st);
    if (err)
        return err;
    uint64_t size = m.message.size;
    bool inlined = m.message.chunks == 0, done = m.message.state == MESSAGE_DONE;
    uint8_t expected[32], hash[32];
    memcpy(expected, m.message.sha256, 32);
    sqlite3_reset(st);
    if (done)
        return STORE_NOT_FOUND;
    if (r->offset >= size)
        return STORE_OK;
    uint64_t left = size - r->offset;
    size_t n = r->limit && r->limit < left ? r->limit : (size_t)left;
    if (!buf_reserve(&r->bytes, n))
        return STORE_FULL;
    err = inlined ? read_inline(x, r, n) : read_chunks(x, r, n);
    if (err)
        return err;
    if (r->bytes.len != n)
        return STORE_CORRUPT;
    r->more = r->offset + n < size;
    if (r->offset || n != size)
        return STORE_OK;
    crypto_sha256(buf_slice(&r->bytes), hash);
    r->checked = memcmp(hash, expected, 32) == 0;
    return r->checked ? STORE_OK : STORE_CORRUPT;
}

static bool append_row(void *ctx, const struct row *row, enum unmerged_class mark)
{
    struct storage_read *r = ctx;
    (void)mark;
    r->more = !row_encode(&r->bytes, row);
    r->n_rows += !r->more;
    return !r->more;
}

static int read_message(struct store_sqlite *x, struct storage_read *r)
{
    struct row m;
    sqlite3_stmt *st;
    int err = message_head(x, r->id, &m, &st);
    if (err)
        return err;
    bool ok = append_row(r, &m, UNMERGED_NONE);
    sqlite3_reset(st);
    return ok ? sqlite_each_recipient(&x->base, r->id, append_row, r) : STORE_FULL;
}

/* Next domain after `after` with a queued, unheld recipient, and its earliest next_ms. */
static int next_domain(struct store_sqlite *x, char **after, int64_t *next_ms)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_DOMAIN_NEXT);
    if (!st)
        return STORE_IO;
    sqlite_bind(st, 1, slice_str(*after));
    int rc = sqlite3_step(st), err = sqlite_error(rc);
    if (rc == SQLITE_ROW) {
        char *domain = slice_dup(sqlite_slice(st, 0));
        *next_ms = sqlite3_column_int64(st, 1);
        sqlite3_reset(st);
        free(*after);
        *after = domain;
        return STORE_OK;
    }
    sqlite3_reset(st);
    return err ? err : STORE_NOT_FOUND;
}

/* Domains that have nothing due cost one step each: a call looks at so many of them at most. */
enum { DOMAIN_STEPS = 20000 };

static int read_domains(struct store_sqlite *x, struct storage_read *r)
{
    char *domain = xstrdup(r->domain ? r->domain : "");
    int64_t next_ms;
    int err = STORE_OK;
    size_t limit = r->limit && r->limit < ROWS_MAX ? r->limit : ROWS_MAX;
    for (unsigned i = 0; !err && r->n_rows < limit; i++) {
        err = next_domain(x, &domain, &next_ms);
        if (err || next_ms > r->due_ms)
            continue;
        size_t start = r->bytes.len;
        if (!wire_put_bytes(&r->bytes, slice_str(domain)) ||
            !wire_put_u64(&r->bytes, (uint64_t)next_ms)) {
            r->bytes.len = start;
            break;
        }
        r->n_rows++;
    }
    r->more = !err;
    free(domain);
    return err == STORE_NOT_FOUND ? STORE_OK : err;
}

int sqlite_ordered(struct store_sqlite *x, enum opstate_kind kind, struct slice name, bool *yes)
{
    struct buf key;
    int err = STORE_OK;
    *yes = false;
    buf_init(&key, OPSTATE_NAME_MAX + 64);
    sqlite3_stmt *st = sqlite_statement(x, ST_OPSTATE_VALUE);
    if (!st) {
        err = STORE_IO;
    } else if (opstate_key(&key, kind, name)) {
        sqlite_bind(st, 1, buf_slice(&key));
        int rc = sqlite3_step(st);
        *yes = rc == SQLITE_ROW && sqlite3_column_int(st, 0);
        err = sqlite_error(rc);
        sqlite3_reset(st);
    }
    buf_free(&key);
    return err;
}

int store_sqlite_suppressed(struct store *s, struct slice address, bool *yes)
{
    return sqlite_ordered(sqlite_of(s), OPSTATE_SUPPRESS, address, yes);
}

/* What the operators' orders make of a row that is due. */
static int heed_orders(struct store_sqlite *x, const struct row *m, struct row *rcpt, bool *skip)
{
    bool suppressed;
    int err = sqlite_ordered(x, OPSTATE_SUPPRESS, rcpt->recipient.address, &suppressed);
    *skip = false;
    if (err)
        return err;
    if (suppressed)
        rcpt->recipient.state = RCPT_SUPPRESSED; /* also of a paused campaign: it isn't sent */
    else if (m->message.campaign.n)
        err = sqlite_ordered(x, OPSTATE_CAMPAIGN, m->message.campaign, skip);
    return err;
}

static int read_due(struct store_sqlite *x, struct storage_read *r)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_DUE);
    if (!st)
        return STORE_IO;
    size_t limit = r->limit && r->limit < ROWS_MAX ? r->limit : ROWS_MAX;
    sqlite_bind(st, 1, slice_str(r->domain ? r->domain : ""));
    sqlite3_bind_int64(st, 2, r->due_ms);
    sqlite3_bind_int64(st, 3, r->cursor.id ? r->cursor.next_ms : INT64_MIN);
    sqlite3_bind_int64(st, 4, (int64_t)r->cursor.id);
    sqlite3_bind_int64(st, 5, r->cursor.index);
    sqlite3_bind_int64(st, 6, r->up_to_lsn ? (int64_t)r->up_to_lsn : INT64_MAX);
    int rc = SQLITE_DONE, err = STORE_OK;
    unsigned looks = 0;
    bool full = false;
    while (!err && r->n_rows < limit && looks++ < DUE_LOOKS &&
           (rc = sqlite3_step(st)) == SQLITE_ROW) {
        bool skip = false;
        struct row rcpt, m;
        enum unmerged_class mark;
        sqlite3_stmt *head;
        sqlite_read_recipient(st, 0, &rcpt, &mark);
        err = message_head(x, rcpt.recipient.id, &m, &head);
        if (err == STORE_NOT_FOUND) { /* a copy in progress: the message comes later */
            err = STORE_OK;
            continue;
        }
        if (!err)
            err = heed_orders(x, &m, &rcpt, &skip);
        size_t start = r->bytes.len;
        full = !err && !skip && (!row_encode(&r->bytes, &m) || !row_encode(&r->bytes, &rcpt));
        if (head)
            sqlite3_reset(head);
        if (err || full) {
            r->bytes.len = start;
            break;
        }
        r->n_rows += !skip;
        r->cursor.next_ms = rcpt.recipient.next_ms;
        r->cursor.id = rcpt.recipient.id;
        r->cursor.index = rcpt.recipient.index;
    }
    r->more = !err && (r->n_rows == limit || rc == SQLITE_ROW);
    sqlite3_reset(st);
    if (!err && !r->n_rows && full)
        err = STORE_FULL; /* not even one pair fits */
    return err ? err : sqlite_error(rc);
}

static int earliest(sqlite3_stmt *st, int64_t *best)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW && (*best == 0 || sqlite3_column_int64(st, 0) < *best))
        *best = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

static int read_next_due(struct store_sqlite *x, struct storage_read *r)
{
    int64_t best = 0, next_ms;
    char *domain = xstrdup("");
    int err = STORE_OK;
    for (unsigned i = 0; !err && i < DOMAIN_STEPS; i++) {
        err = next_domain(x, &domain, &next_ms);
        if (err)
            break;
        if (next_ms > r->due_ms) {
            best = best && best < next_ms ? best : next_ms;
            continue;
        }
        sqlite3_stmt *st = sqlite_statement(x, ST_NEXT_DUE);
        if (!st) {
            err = STORE_IO;
            break;
        }
        sqlite_bind(st, 1, slice_str(domain));
        sqlite3_bind_int64(st, 2, r->due_ms);
        err = earliest(st, &best);
    }
    bool cut = !err; /* more domains than one look may take: ask again soon */
    free(domain);
    err = err == STORE_NOT_FOUND ? STORE_OK : err;
    sqlite3_stmt *st = sqlite_statement(x, ST_NEXT_QUARANTINED);
    if (!err && st) {
        sqlite3_bind_int64(st, 1, r->due_ms);
        err = earliest(st, &best);
    }
    if (cut && (best == 0 || best > r->due_ms + 10000))
        best = r->due_ms + 10000;
    r->due_ms = best;
    return err;
}

static int read_only_here(struct store_sqlite *x, struct storage_read *r)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_ONLY_HERE);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)r->id);
    int rc = sqlite3_step(st), err = sqlite_error(rc);
    if (rc == SQLITE_ROW &&
        !buf_printf(&r->bytes, "{\"messages\":%lld}", (long long)sqlite3_column_int64(st, 0)))
        err = STORE_FULL;
    sqlite3_reset(st);
    return err;
}

static int read_opstates(struct store_sqlite *x, struct storage_read *r)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_OPSTATE_PREFIX);
    if (!st)
        return STORE_IO;
    sqlite_bind(st, 1, slice_str(r->domain ? r->domain : ""));
    sqlite_bind(st, 2, slice_str(r->by ? r->by : ""));
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row row;
        enum unmerged_class mark;
        sqlite_read_opstate(st, &row, &mark);
        if (!append_row(r, &row, mark))
            break;
    }
    sqlite3_reset(st);
    return sqlite_error(rc);
}

void store_sqlite_read(struct store *s, struct storage_read *r, int64_t now_ms)
{
    struct store_sqlite *x = sqlite_of(s);
    if (!r->bytes.max)
        buf_init(&r->bytes, 4 << 20); /* as much as one answer may hold in memory */
    r->n_rows = 0;
    r->more = false;
    r->err = s->ops->begin(s);
    if (r->err)
        return;
    switch (r->type) {
    case READ_BODY:
        r->err = read_body(x, r);
        break;
    case READ_MESSAGE:
        r->err = read_message(x, r);
        break;
    case READ_DOMAINS:
        r->err = read_domains(x, r);
        break;
    case READ_DUE:
        r->err = read_due(x, r);
        break;
    case READ_NEXT_DUE:
        r->err = read_next_due(x, r);
        break;
    case READ_LIST:
        r->err = sqlite_read_list(x, r, now_ms);
        break;
    case READ_SUMMARY:
        r->err = sqlite_read_summary(x, r, now_ms);
        break;
    case READ_ONLY_HERE:
        r->err = read_only_here(x, r);
        break;
    case READ_OPSTATES:
        r->err = read_opstates(x, r);
        break;
    }
    s->ops->rollback(s);
    if (r->err)
        buf_clear(&r->bytes);
}

int store_sqlite_due_quarantined(struct store *s, int64_t now_ms, unsigned limit, struct buf *rows)
{
    int err = sqlite_flush(sqlite_of(s));
    if (err)
        return err;
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_RELEASE_DUE);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, now_ms);
    sqlite3_bind_int64(st, 2, limit);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row row;
        enum unmerged_class mark;
        sqlite_read_recipient(st, 0, &row, &mark);
        if (!row_encode(rows, &row))
            break;
    }
    sqlite3_reset(st);
    return sqlite_error(rc);
}

int store_sqlite_quarantined(struct store *s, unsigned limit, store_sqlite_quarantined_fn fn,
                             void *ctx)
{
    int err = sqlite_flush(sqlite_of(s));
    if (err)
        return err;
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_QUARANTINED_IDS);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, limit);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct slice hash = sqlite_slice(st, 1);
        uint64_t prefix = 0;
        for (unsigned i = 0; i < 8 && i < hash.n; i++)
            prefix = prefix << 8 | hash.p[i];
        fn(ctx, prefix, (uint64_t)sqlite3_column_int64(st, 0));
    }
    sqlite3_reset(st);
    return sqlite_error(rc);
}
