/* Walks over many rows of the store (store.h): changes in lsn order, what is unmerged, marking,
 * twins, bounces, purge. */
#include <assert.h>
#include <stdlib.h>

#include "node/queue/internal_sqlite.h"

enum { TABLES = 4, TWIN_BUCKET_BITS = 11, ORPHAN_STEP = 4096 };

/* One row of one table, read ahead; the walk takes the smallest of them each time. */
struct cursor {
    sqlite3_stmt *st;
    struct row row;
    enum unmerged_class mark;
    bool here;
};

static int advance(struct cursor *c, unsigned type)
{
    int rc = sqlite3_step(c->st);
    c->here = rc == SQLITE_ROW;
    if (!c->here)
        return sqlite_error(rc);
    if (type == ROW_MESSAGE)
        sqlite_read_message(c->st, 0, true, &c->row, &c->mark);
    else if (type == ROW_RECIPIENT)
        sqlite_read_recipient(c->st, 0, &c->row, &c->mark);
    else if (type == ROW_CHUNK)
        sqlite_read_chunk(c->st, &c->row, &c->mark);
    else
        sqlite_read_opstate(c->st, &c->row, &c->mark);
    return STORE_OK;
}

static uint64_t row_id(const struct row *r)
{
    switch (r->type) {
    case ROW_MESSAGE:
        return r->message.id;
    case ROW_RECIPIENT:
        return r->recipient.id;
    case ROW_CHUNK:
        return r->chunk.id;
    case ROW_OPSTATE:
        break;
    }
    return UINT64_MAX;
}

static bool by_lsn(const struct row *a, const struct row *b)
{
    struct pos x = row_pos(a), y = row_pos(b);
    return x.lsn != y.lsn ? x.lsn < y.lsn : x.epoch < y.epoch;
}

static bool by_message(const struct row *a, const struct row *b)
{
    static const int order[] = {
        [ROW_CHUNK] = 0, [ROW_MESSAGE] = 1, [ROW_RECIPIENT] = 2, [ROW_OPSTATE] = 3};
    uint64_t x = row_id(a), y = row_id(b);
    return x != y ? x < y : order[a->type] < order[b->type];
}

/* Of a store that failed its check all is read that can be: a table ends where its damage begins.
 */
static int step(struct cursor *c, unsigned type, bool unfit)
{
    int err = c->st ? advance(c, type) : STORE_IO;
    if (err != STORE_CORRUPT || !unfit)
        return err;
    c->here = false;
    return STORE_OK;
}

static int walk(struct cursor *cursors, bool unfit,
                bool (*before)(const struct row *, const struct row *), store_row_fn fn, void *ctx)
{
    int err = STORE_OK;
    for (unsigned i = 0; !err && i < TABLES; i++)
        err = step(&cursors[i], i + 1, unfit);
    while (!err) {
        struct cursor *first = NULL;
        for (unsigned i = 0; i < TABLES; i++)
            if (cursors[i].here && (!first || before(&cursors[i].row, &first->row)))
                first = &cursors[i];
        if (!first || !fn(ctx, &first->row, first->mark))
            break;
        err = step(first, (unsigned)(first - cursors) + 1, unfit);
    }
    for (unsigned i = 0; i < TABLES; i++)
        if (cursors[i].st)
            sqlite3_reset(cursors[i].st);
    return err;
}

int sqlite_changes_after(struct store *s, uint64_t after, store_row_fn fn, void *ctx)
{
    struct store_sqlite *x = sqlite_of(s);
    int err = sqlite_flush(x);
    if (err)
        return err;
    struct cursor c[TABLES] = {{.st = sqlite_statement(x, ST_MESSAGE_CHANGES)},
                               {.st = sqlite_statement(x, ST_RECIPIENT_CHANGES)},
                               {.st = sqlite_statement(x, ST_CHUNK_CHANGES)},
                               {.st = sqlite_statement(x, ST_OPSTATE_CHANGES)}};
    for (unsigned i = 0; i < TABLES; i++)
        if (c[i].st)
            sqlite3_bind_int64(c[i].st, 1, (int64_t)after);
    return walk(c, false, by_lsn, fn, ctx);
}

struct as_queued {
    store_row_fn fn;
    void *ctx;
};

static bool give_as_queued(void *ctx, const struct row *r, enum unmerged_class mark)
{
    const struct as_queued *x = ctx;
    return x->fn(x->ctx, r, mark == UNMERGED_TAKEN ? UNMERGED_QUEUED : mark);
}

int sqlite_each_unmerged(struct store *s, store_row_fn fn, void *ctx)
{
    struct store_sqlite *x = sqlite_of(s);
    struct as_queued taken = {fn, ctx};
    int err = sqlite_flush(x);
    if (err)
        return err;
    struct cursor c[TABLES] = {{.st = sqlite_statement(x, ST_MESSAGE_MARKED)},
                               {.st = sqlite_statement(x, ST_RECIPIENT_MARKED)},
                               {.st = sqlite_statement(x, ST_CHUNK_MARKED)},
                               {.st = sqlite_statement(x, ST_OPSTATE_MARKED)}};
    return walk(c, x->meta.unfit, by_message, give_as_queued, &taken);
}

/* What is to be marked is collected first: an update under the walk would change its index. */
struct mark {
    uint64_t id, index;
    enum unmerged_class class;
};
struct marks {
    struct mark *v;
    size_t n, cap;
};

static void add_mark(struct marks *m, uint64_t id, uint64_t index, enum unmerged_class class)
{
    if (class == UNMERGED_NONE)
        return;
    if (m->n == m->cap) {
        m->cap = m->cap ? m->cap * 2 : 256;
        m->v = xrealloc(m->v, m->cap * sizeof *m->v);
    }
    m->v[m->n++] = (struct mark){id, index, class};
}

/* Damage of a store that is known to be damaged ends nothing: what can be read counts. */
static int readable(const struct store_sqlite *x, int err)
{
    return err == STORE_CORRUPT && x->meta.unfit ? STORE_OK : err;
}

typedef enum unmerged_class (*classify_fn)(void *ctx, struct pos pos, struct pos born);

static struct pos column_pos(sqlite3_stmt *st, int at)
{
    return (struct pos){(uint32_t)sqlite3_column_int64(st, at),
                        (uint64_t)sqlite3_column_int64(st, at + 1)};
}

/* Messages, recipients, chunks: `beyond` gives id, pos, born and (but for messages) the index. */
static int mark_table(struct store_sqlite *x, enum statement beyond, enum statement mark,
                      uint64_t after, classify_fn classify, void *ctx)
{
    struct marks m = {0};
    sqlite3_stmt *st = sqlite_statement(x, beyond);
    if (!st)
        return STORE_IO;
    bool indexed = beyond != ST_MESSAGE_BEYOND;
    sqlite3_bind_int64(st, 1, (int64_t)after);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        add_mark(&m, (uint64_t)sqlite3_column_int64(st, 0),
                 indexed ? (uint64_t)sqlite3_column_int64(st, 5) : 0,
                 classify(ctx, column_pos(st, 1), column_pos(st, 3)));
    sqlite3_reset(st);
    int err = readable(x, sqlite_error(rc));
    for (size_t i = 0; !err && i < m.n; i++) {
        st = sqlite_statement(x, mark);
        if (!st) {
            err = STORE_IO;
            break;
        }
        sqlite3_bind_int64(st, 1, (int64_t)m.v[i].id);
        sqlite3_bind_int(st, 2, m.v[i].class);
        if (indexed)
            sqlite3_bind_int64(st, 3, (int64_t)m.v[i].index);
        err = readable(x, sqlite_run(st));
    }
    free(m.v);
    return err;
}

static int mark_opstate(struct store_sqlite *x, uint64_t after, classify_fn classify, void *ctx)
{
    struct buf keys; /* (u8 class, bytes key) */
    buf_init(&keys, 64 << 20);
    sqlite3_stmt *st = sqlite_statement(x, ST_OPSTATE_BEYOND);
    int rc = SQLITE_ERROR, err = STORE_OK;
    if (st) {
        sqlite3_bind_int64(st, 1, (int64_t)after);
        while ((rc = sqlite3_step(st)) == SQLITE_ROW && !err) {
            enum unmerged_class class = classify(ctx, column_pos(st, 1), (struct pos){0, 0});
            if (class != UNMERGED_NONE && (!wire_put_u8(&keys, (uint8_t) class) ||
                                           !wire_put_bytes(&keys, sqlite_slice(st, 0))))
                err = STORE_FULL;
        }
        sqlite3_reset(st);
    }
    if (!err)
        err = readable(x, sqlite_error(rc));
    struct wire_reader r = wire_read(buf_slice(&keys));
    while (!err && r.n) {
        int class = wire_get_u8(&r);
        struct slice key = wire_get_bytes(&r, r.n);
        st = sqlite_statement(x, ST_OPSTATE_MARK);
        if (!st) {
            err = STORE_IO;
            break;
        }
        sqlite_bind(st, 1, key);
        sqlite3_bind_int(st, 2, class);
        err = readable(x, sqlite_run(st));
    }
    buf_free(&keys);
    return err;
}

int sqlite_mark_unmerged(struct store *s, struct pos shared, classify_fn classify, void *ctx)
{
    struct store_sqlite *x = sqlite_of(s);
    static_assert(UNMERGED_QUEUED == 1 && UNMERGED_TAKEN == 3, "as the statement says");
    int err = sqlite_flush(x);
    if (!err)
        err = readable(x, sqlite_run(sqlite_statement(x, ST_RECIPIENT_TAKEN)));
    if (!err)
        err = mark_table(x, ST_CHUNK_BEYOND, ST_CHUNK_MARK, shared.lsn, classify, ctx);
    if (!err)
        err = mark_table(x, ST_RECIPIENT_BEYOND, ST_RECIPIENT_MARK, shared.lsn, classify, ctx);
    if (!err)
        err = mark_table(x, ST_MESSAGE_BEYOND, ST_MESSAGE_MARK, shared.lsn, classify, ctx);
    return err ? err : mark_opstate(x, shared.lsn, classify, ctx);
}

/* First column of the first row as a number; *found: there is one. */
static int first_number(sqlite3_stmt *st, uint64_t *out, bool *found)
{
    int rc = sqlite3_step(st);
    *found = rc == SQLITE_ROW;
    if (*found)
        *out = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

int sqlite_find_twin(struct store *s, const struct row_message *m, uint64_t above, uint64_t *id)
{
    struct store_sqlite *x = sqlite_of(s);
    uint64_t next = above + 1;
    bool found;
    *id = 0;
    for (;;) { /* bucket by bucket of message_twin */
        sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_NEXT);
        if (!st)
            return STORE_IO;
        sqlite3_bind_int64(st, 1, (int64_t)next);
        int err = first_number(st, &next, &found);
        if (err || !found)
            return err;
        st = sqlite_statement(x, ST_MESSAGE_TWIN);
        if (!st)
            return STORE_IO;
        sqlite3_bind_int64(st, 1, (int64_t)(next >> TWIN_BUCKET_BITS));
        sqlite3_bind_blob(st, 2, m->sha256, 32, SQLITE_STATIC);
        sqlite3_bind_int64(st, 3, (int64_t)above);
        sqlite3_bind_int64(st, 4, (int64_t)m->size);
        sqlite3_bind_int64(st, 5, m->recipients);
        sqlite_bind(st, 6, m->sender);
        err = first_number(st, id, &found);
        if (err || found)
            return err;
        *id = 0;
        next = ((next >> TWIN_BUCKET_BITS) + 1) << TWIN_BUCKET_BITS;
    }
}

int sqlite_each_bounce(struct store *s, uint64_t parent, store_row_fn fn, void *ctx)
{
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_MESSAGE_BOUNCES);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)parent);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row row;
        enum unmerged_class mark;
        sqlite_read_message(st, 0, true, &row, &mark);
        if (!fn(ctx, &row, mark))
            break;
    }
    sqlite3_reset(st);
    return sqlite_error(rc);
}

int sqlite_each_noted(struct store *s, store_row_fn fn, void *ctx)
{
    static_assert(DOUBT_NOTED == 1 && RCPT_QUEUED == 1, "as the statement says");
    int err = sqlite_flush(sqlite_of(s));
    if (err)
        return err;
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_RECIPIENT_NOTED);
    if (!st)
        return STORE_IO;
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row row;
        enum unmerged_class mark;
        sqlite_read_recipient(st, 0, &row, &mark);
        if (!fn(ctx, &row, mark))
            break;
    }
    sqlite3_reset(st);
    return sqlite_error(rc);
}

static int delete_by_id(struct store_sqlite *x, enum statement what, uint64_t id)
{
    sqlite3_stmt *st = sqlite_statement(x, what);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)id);
    return sqlite_run(st);
}

static bool see_marked(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)r;
    *(bool *)ctx = mark != UNMERGED_NONE;
    return !*(bool *)ctx;
}

static int collect_ids(sqlite3_stmt *st, uint64_t *ids, unsigned *n, unsigned cap)
{
    int rc;
    *n = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && *n < cap)
        ids[(*n)++] = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

/* Chunks whose message never came: bounded steps over all ids that have chunks; each series of
 * purges goes through them once. */
static int purge_orphans(struct store_sqlite *x, bool *more)
{
    static_assert(ORPHAN_STEP * sizeof(uint64_t) <= 65536, "lives on the stack");
    uint64_t ids[ORPHAN_STEP], message;
    unsigned n;
    sqlite3_stmt *st = sqlite_statement(x, ST_CHUNK_IDS);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)x->orphans_id);
    sqlite3_bind_int(st, 2, ORPHAN_STEP);
    int err = collect_ids(st, ids, &n, ORPHAN_STEP);
    for (unsigned i = 0; !err && i < n; i++) {
        bool found;
        st = sqlite_statement(x, ST_MESSAGE_STATE);
        if (!st)
            return STORE_IO;
        sqlite3_bind_int64(st, 1, (int64_t)ids[i]);
        err = first_number(st, &message, &found);
        if (err || found)
            continue;
        st = sqlite_statement(x, ST_CHUNK_ORPHANS);
        if (!st)
            return STORE_IO;
        sqlite3_bind_int64(st, 1, (int64_t)ids[i]);
        sqlite3_bind_int64(st, 2, x->meta.end.epoch);
        err = sqlite_run(st);
    }
    x->orphans_id = n == ORPHAN_STEP ? ids[n - 1] : 0;
    *more = *more || x->orphans_id;
    return err;
}

struct tombstone {
    uint64_t id, lsn;
};

/* Up to one more than limit. */
static int find_tombstones(struct store_sqlite *x, int64_t before_ms, uint64_t below,
                           unsigned limit, struct tombstone *out, unsigned *n)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_TOMBSTONES);
    int rc;
    *n = 0;
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, before_ms);
    sqlite3_bind_int64(st, 2, (int64_t)limit + 1);
    sqlite3_bind_int64(st, 3, below < INT64_MAX ? (int64_t)below : INT64_MAX);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && *n <= limit)
        out[(*n)++] = (struct tombstone){(uint64_t)sqlite3_column_int64(st, 0),
                                         (uint64_t)sqlite3_column_int64(st, 1)};
    sqlite3_reset(st);
    return sqlite_error(rc);
}

static int forget_message(struct store_sqlite *x, const struct tombstone *t)
{
    int err = sqlite_forget(x, t->id);
    if (!err)
        err = delete_by_id(x, ST_RECIPIENT_DELETE, t->id);
    if (!err)
        err = delete_by_id(x, ST_CHUNK_DELETE, t->id);
    if (!err)
        err = delete_by_id(x, ST_MESSAGE_DELETE, t->id);
    if (!err && t->lsn > x->meta.purged) {
        x->meta.purged = t->lsn;
        x->dirty = true;
    }
    return err;
}

int sqlite_purge(struct store *s, int64_t before_ms, uint64_t below, unsigned limit, bool *more)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(x->in_transaction);
    *more = false;
    struct tombstone *t = xmalloc((limit + 1) * sizeof *t);
    unsigned n, gone = 0;
    int err = find_tombstones(x, before_ms, below, limit, t, &n);
    for (unsigned i = 0; !err && i < n && i < limit; i++) {
        bool marked = false;
        err = sqlite_each_recipient(s, t[i].id, see_marked, &marked);
        if (err || marked)
            continue;
        err = forget_message(x, &t[i]);
        gone++;
    }
    /* Marked ones stay until they are merged; nothing is gained by asking again before. */
    *more = n > limit && gone;
    free(t);
    return err ? err : purge_orphans(x, more);
}
