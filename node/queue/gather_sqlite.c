/* Recipients come with their message, one after the other, and mostly leave it so, too. SQLite
 * takes several rows in one statement for much less than one by one: so new ones gather here,
 * neighbours with the same outcome gather here, and neighbours are read ahead. */
#include <assert.h>

#include "node/base/log.h"
#include "node/queue/internal_sqlite.h"

static_assert(GATHERED_MAX == 16, "as the statements have it");

static bool same_row(const struct row_recipient *p, const struct row_recipient *q)
{
    return p->id == q->id && p->index == q->index;
}

static void clear(struct gathered *g)
{
    g->n = 0;
    buf_clear(&g->text);
}

/* Copies p. False: no room for it. In an empty one there always is, for what row_decode() takes. */
static bool add(struct gathered *g, const struct row_recipient *p, int mark)
{
    size_t n = p->address.n + p->domain.n + p->orcpt.n + p->enhanced.n + p->reply.n + p->remote.n;
    struct buf *text = &g->text;
    if (g->n == GATHERED_MAX || text->len + n > GATHERED_BYTES ||
        !buf_reserve(text, GATHERED_BYTES - text->len))
        return false;
    struct row_recipient *own = &g->row[g->n];
    *own = *p;
    struct slice *const fields[] = {&own->address,  &own->domain, &own->orcpt,
                                    &own->enhanced, &own->reply,  &own->remote};
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++) {
        size_t at = text->len, len = fields[i]->n;
        buf_append_slice(text, *fields[i]);
        *fields[i] = slice_of(len ? text->data + at : NULL, len);
    }
    g->mark[g->n++] = mark;
    return true;
}

void sqlite_gather_init(struct store_sqlite *x)
{
    buf_init(&x->inserts.text, GATHERED_BYTES);
    buf_init(&x->outcomes.text, GATHERED_BYTES);
    buf_init(&x->ahead.text, GATHERED_BYTES);
}

void sqlite_gather_free(struct store_sqlite *x)
{
    buf_free(&x->inserts.text);
    buf_free(&x->outcomes.text);
    buf_free(&x->ahead.text);
}

void sqlite_forget_gathered(struct store_sqlite *x)
{
    x->failed = STORE_OK;
    clear(&x->inserts);
    clear(&x->outcomes);
    clear(&x->ahead);
    x->run = 0;
}

/* ---- new ones ---- */

void sqlite_bind_recipient(sqlite3_stmt *st, int at, const struct row_recipient *p, int mark)
{
    sqlite3_bind_int64(st, at + 1, (int64_t)p->id);
    sqlite3_bind_int64(st, at + 2, p->index);
    sqlite3_bind_int64(st, at + 3, p->pos.epoch);
    sqlite3_bind_int64(st, at + 4, (int64_t)p->pos.lsn);
    sqlite3_bind_int(st, at + 5, mark);
    sqlite3_bind_int(st, at + 6, p->state);
    sqlite3_bind_int(st, at + 7, p->held);
    sqlite3_bind_int(st, at + 8, p->notify);
    sqlite3_bind_int(st, at + 9, p->in_doubt);
    sqlite3_bind_int64(st, at + 10, p->attempts);
    sqlite3_bind_int64(st, at + 11, p->next_ms);
    sqlite3_bind_int64(st, at + 12, p->last_ms);
    sqlite3_bind_int(st, at + 13, p->code);
    sqlite_bind(st, at + 14, p->address);
    sqlite_bind(st, at + 15, p->domain);
    sqlite_bind(st, at + 16, p->orcpt);
    sqlite_bind(st, at + 17, p->enhanced);
    sqlite_bind(st, at + 18, p->reply);
    sqlite_bind(st, at + 19, p->remote);
}

static int flush_inserts(struct store_sqlite *x)
{
    static const struct {
        unsigned n;
        enum statement id;
    } by_size[] = {
        {16, ST_RECIPIENT_INSERT_16}, {4, ST_RECIPIENT_INSERT_4}, {1, ST_RECIPIENT_INSERT}};
    unsigned done = 0, size = 0;
    int err = STORE_OK;
    while (!err && done < x->inserts.n) {
        while (by_size[size].n > x->inserts.n - done)
            size++;
        sqlite3_stmt *st = sqlite_statement(x, by_size[size].id);
        for (unsigned i = 0; st && i < by_size[size].n; i++, done++)
            sqlite_bind_recipient(st, (int)i * RECIPIENT_N, &x->inserts.row[done],
                                  x->inserts.mark[done]);
        err = sqlite_run(st);
    }
    clear(&x->inserts);
    return err;
}

int sqlite_gather_new(struct store_sqlite *x, const struct row_recipient *p, int mark)
{
    if (add(&x->inserts, p, mark))
        return STORE_OK;
    int err = sqlite_flush(x);
    return err || add(&x->inserts, p, mark) ? err : STORE_CORRUPT;
}

/* ---- outcomes ---- */

/* Of p, and of the n - 1 recipients behind it, each at the next position. */
static int update_outcomes(struct store_sqlite *x, const struct row_recipient *p, unsigned n)
{
    sqlite3_stmt *st = sqlite_statement(x, n == 1 ? ST_RECIPIENT_OUTCOME : ST_RECIPIENT_OUTCOMES);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)p->id);
    sqlite3_bind_int64(st, 2, p->index);
    sqlite3_bind_int64(st, 3, p->pos.epoch);
    sqlite3_bind_int64(st, 4, (int64_t)p->pos.lsn);
    sqlite3_bind_int(st, 5, p->state);
    sqlite3_bind_int64(st, 6, p->attempts);
    sqlite3_bind_int64(st, 7, p->next_ms);
    sqlite3_bind_int64(st, 8, p->last_ms);
    sqlite3_bind_int(st, 9, p->code);
    sqlite_bind(st, 10, p->enhanced);
    sqlite_bind(st, 11, p->reply);
    sqlite_bind(st, 12, p->remote);
    if (n > 1)
        sqlite3_bind_int64(st, 13, p->index + (int64_t)n - 1);
    int err = sqlite_run(st);
    if (err || (unsigned)sqlite3_changes(x->db) == n)
        return err;
    log_error("storage.outcomes", "id=%016llx index=%u recipients=%u changed=%d",
              (unsigned long long)p->id, p->index, n, sqlite3_changes(x->db));
    return STORE_CORRUPT;
}

static int flush_outcomes(struct store_sqlite *x)
{
    unsigned n = x->run;
    if (!n)
        return STORE_OK;
    x->run = 0;
    int err = update_outcomes(x, &x->outcomes.row[0], n);
    clear(&x->outcomes);
    return err;
}

static bool continues_run(const struct store_sqlite *x, const struct row_recipient *p)
{
    const struct row_recipient *q = &x->outcomes.row[0];
    return x->run && p->id == q->id && p->index == q->index + x->run &&
           p->pos.epoch == q->pos.epoch && p->pos.lsn == q->pos.lsn + x->run &&
           p->state == q->state && p->attempts == q->attempts && p->next_ms == q->next_ms &&
           p->last_ms == q->last_ms && p->code == q->code && slice_eq(p->enhanced, q->enhanced) &&
           slice_eq(p->reply, q->reply) && slice_eq(p->remote, q->remote);
}

int sqlite_gather_outcome(struct store_sqlite *x, const struct row_recipient *p)
{
    x->ahead_taken = true;
    if (continues_run(x, p)) {
        x->run++;
        return STORE_OK;
    }
    int err = sqlite_flush(x);
    if (!err && !add(&x->outcomes, p, 0))
        err = STORE_CORRUPT;
    x->run = !err;
    return err;
}

int sqlite_flush(struct store_sqlite *x)
{
    if (!x->failed)
        x->failed = flush_outcomes(x);
    if (!x->failed)
        x->failed = flush_inserts(x);
    return x->failed;
}

/* ---- reading ahead ---- */

static bool is_at(const struct store_sqlite *x, const struct row_recipient *p)
{
    return x->ahead_at < x->ahead.n && same_row(&x->ahead.row[x->ahead_at], p);
}

void sqlite_changes(struct store_sqlite *x, const struct row_recipient *p)
{
    if (is_at(x, p))
        x->ahead_taken = true;
    else
        clear(&x->ahead);
}

const struct row_recipient *sqlite_seen(const struct store_sqlite *x, const struct row_recipient *p,
                                        int mark)
{
    const struct row_recipient *here = &x->ahead.row[x->ahead_at];
    bool outcome = is_at(x, p) && !x->ahead_taken && x->ahead.mark[x->ahead_at] == mark &&
                   here->held == p->held && here->in_doubt == p->in_doubt &&
                   here->notify == p->notify && slice_eq(here->address, p->address) &&
                   slice_eq(here->domain, p->domain) && slice_eq(here->orcpt, p->orcpt);
    return outcome ? here : NULL;
}

/* Is what was read ahead the answer? Then that row is the one that was looked at last. */
static bool is_at_hand(struct store_sqlite *x, const struct row_recipient *key)
{
    for (unsigned i = x->ahead_at + x->ahead_taken; i < x->ahead.n && i <= x->ahead_at + 1; i++)
        if (same_row(&x->ahead.row[i], key)) {
            x->ahead_taken = false;
            x->ahead_at = i;
            return true;
        }
    return false;
}

/* From this recipient on. It alone unless the one before it was asked for just now. */
static int read_ahead(struct store_sqlite *x, const struct row_recipient *key, struct row *out,
                      enum unmerged_class *mark)
{
    bool next = x->asked.id == key->id && key->index == x->asked.index + 1;
    clear(&x->ahead);
    x->ahead_at = 0;
    x->ahead_taken = false;
    sqlite3_stmt *st = sqlite_statement(x, next ? ST_RECIPIENT_AHEAD : ST_RECIPIENT_GET);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)key->id);
    sqlite3_bind_int64(st, 2, key->index);
    struct row row;
    enum unmerged_class row_mark;
    int rc;
    bool room = true;
    while (room && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        sqlite_read_recipient(st, 0, &row, &row_mark);
        room = add(&x->ahead, &row.recipient, (int)row_mark);
    }
    sqlite3_reset(st);
    if (is_at(x, key)) { /* whatever is the matter with those behind it */
        *out = (struct row){.type = ROW_RECIPIENT, .recipient = x->ahead.row[0]};
        *mark = (enum unmerged_class)x->ahead.mark[0];
        return STORE_OK;
    }
    if (!room && x->ahead.n == 0)
        return STORE_CORRUPT; /* it is longer than any can be */
    return sqlite_error(rc) ? sqlite_error(rc) : STORE_NOT_FOUND;
}

int sqlite_get_recipient(struct store_sqlite *x, const struct row_recipient *key, struct row *out,
                         enum unmerged_class *mark)
{
    assert(x->in_transaction || x->lock_fd >= 0); /* else nothing here ends with the snapshot */
    int err = STORE_OK;
    if (is_at_hand(x, key)) {
        *out = (struct row){.type = ROW_RECIPIENT, .recipient = x->ahead.row[x->ahead_at]};
        *mark = (enum unmerged_class)x->ahead.mark[x->ahead_at];
    } else {
        err = sqlite_flush(x);
        err = err ? err : read_ahead(x, key, out, mark);
    }
    x->asked.id = key->id;
    x->asked.index = key->index;
    return err;
}
