/* One row in, one row out (store.h: put, get, unmark), and the tallies: how many recipients of a
 * message are in which class. The counts that status shows are kept with every change here, so that
 * ten million rows cost no query. */
#include <assert.h>

#include "node/queue/internal_sqlite.h"

static enum message_class class_of(int state, int held, int in_doubt, int64_t attempts)
{
    if (rcpt_terminal((uint8_t)state))
        return CLASSES;
    if (held & HELD_OPERATOR)
        return CLASS_HELD;
    if (state == RCPT_QUARANTINED)
        return CLASS_QUARANTINED;
    if (in_doubt == DOUBT_YES)
        return CLASS_IN_DOUBT;
    return attempts ? CLASS_DEFERRED : CLASS_QUEUED;
}

static enum message_class message_class(const struct tally *t)
{
    for (unsigned i = 0; i < CLASSES; i++)
        if (t->n[i])
            return (enum message_class)i;
    return CLASSES;
}

static enum message_class column_class(sqlite3_stmt *st)
{
    return class_of(sqlite3_column_int(st, 0), sqlite3_column_int(st, 1), sqlite3_column_int(st, 2),
                    sqlite3_column_int64(st, 3));
}

/* Ids grow, so most of what is asked about a new message needs no look at the disk. Rows that went
 * leave the mark where it is, which costs a look and no more. */
static int find_highest(struct store_sqlite *x)
{
    if (x->highest.known)
        return STORE_OK;
    sqlite3_stmt *st = sqlite_statement(x, ST_HIGHEST);
    if (!st)
        return STORE_IO;
    int rc = sqlite3_step(st);
    x->highest.known = rc == SQLITE_ROW;
    int64_t *mark[] = {&x->highest.recipient, &x->highest.chunk};
    for (int i = 0; x->highest.known && i < 2; i++)
        *mark[i] =
            sqlite3_column_type(st, i) == SQLITE_NULL ? INT64_MIN : sqlite3_column_int64(st, i);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

static void note_id(int64_t *highest, uint64_t id)
{
    if ((int64_t)id > *highest)
        *highest = (int64_t)id;
}

struct tally *sqlite_tally(struct store_sqlite *x, uint64_t id, int *err)
{
    struct tally *t = &x->tallies[(id ^ id >> 40) % TALLIES];
    *err = STORE_OK;
    if (id && t->id == id)
        return t;
    memset(t, 0, sizeof *t);
    *err = find_highest(x);
    if (*err)
        return NULL;
    if ((int64_t)id > x->highest.recipient) {
        t->id = id;
        t->fresh = true;
        return t;
    }
    *err = sqlite_flush(x);
    if (*err)
        return NULL;
    sqlite3_stmt *st = sqlite_statement(x, ST_RECIPIENT_CLASSES);
    if (!st) {
        *err = STORE_IO;
        return NULL;
    }
    sqlite3_bind_int64(st, 1, (int64_t)id);
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW)
        t->n[column_class(st)]++;
    sqlite3_reset(st);
    *err = sqlite_error(rc);
    if (*err)
        return NULL;
    t->id = id;
    return t;
}

/* Moves one recipient from class `from` (CLASSES + 1: it is new) to `to`. */
static void move(struct store_sqlite *x, struct tally *t, unsigned from, unsigned to)
{
    enum message_class before = message_class(t);
    if (from <= CLASSES) {
        assert(t->n[from]);
        t->n[from]--;
    }
    t->n[to]++;
    enum message_class after = message_class(t);
    if (before == after)
        return;
    if (before < CLASSES) {
        assert(x->counts[before]);
        x->counts[before]--;
    }
    if (after < CLASSES)
        x->counts[after]++;
}

int sqlite_forget(struct store_sqlite *x, uint64_t id)
{
    int err;
    struct tally *t = sqlite_tally(x, id, &err);
    if (!t)
        return err;
    enum message_class class = message_class(t);
    if (class < CLASSES) {
        assert(x->counts[class]);
        x->counts[class]--;
    }
    memset(t, 0, sizeof *t);
    return STORE_OK;
}

static void bind_message(sqlite3_stmt *st, const struct row_message *m, int mark)
{
    sqlite3_bind_int64(st, 1, (int64_t)m->id);
    sqlite3_bind_int64(st, 2, m->pos.epoch);
    sqlite3_bind_int64(st, 3, (int64_t)m->pos.lsn);
    sqlite3_bind_int(st, 4, mark);
    sqlite3_bind_int(st, 5, m->state);
    sqlite3_bind_int64(st, 6, m->done_ms);
    sqlite3_bind_int64(st, 7, m->received_ms);
    sqlite3_bind_int64(st, 8, (int64_t)m->size);
    sqlite3_bind_int64(st, 9, m->chunks);
    sqlite3_bind_int64(st, 10, m->recipients);
    sqlite3_bind_int64(st, 11, m->flags);
    sqlite3_bind_int64(st, 12, (int64_t)m->parent);
    sqlite3_bind_int64(st, 13, m->born.epoch);
    sqlite3_bind_int64(st, 14, (int64_t)m->born.lsn);
    sqlite3_bind_blob(st, 15, m->creator.b, STORE_ID_BYTES, SQLITE_STATIC);
    sqlite3_bind_blob(st, 16, m->sha256, 32, SQLITE_STATIC);
    sqlite_bind(st, 17, m->sender);
}

static void bind_message_rest(sqlite3_stmt *st, const struct row_message *m)
{
    sqlite_bind(st, 18, m->envid);
    sqlite_bind(st, 19, m->campaign);
    sqlite_bind(st, 20, m->origin);
    sqlite3_bind_blob(st, 21, m->prefix.n ? m->prefix.p : NULL, (int)m->prefix.n, SQLITE_STATIC);
    bool body = m->state == MESSAGE_LIVE && m->body.n;
    sqlite3_bind_blob(st, 22, body ? m->body.p : NULL, body ? (int)m->body.n : 0, SQLITE_STATIC);
}

static int delete_chunks(struct store_sqlite *x, uint64_t id)
{
    int err = find_highest(x);
    if (err || (int64_t)id > x->highest.chunk)
        return err;
    sqlite3_stmt *st = sqlite_statement(x, ST_CHUNK_DELETE);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)id);
    return sqlite_run(st);
}

static int put_message(struct store_sqlite *x, const struct row_message *m, int mark)
{
    sqlite3_stmt *st;
    int err;
    if (m->state == MESSAGE_DONE) {
        err = delete_chunks(x, m->id);
        if (err || !(st = sqlite_statement(x, ST_MESSAGE_DONE)))
            return err ? err : STORE_IO;
        bind_message(st, m, mark);
        err = sqlite_run(st);
        if (err || sqlite3_changes(x->db))
            return err;
    }
    st = sqlite_statement(x, ST_MESSAGE_INSERT);
    if (!st)
        return STORE_IO;
    bind_message(st, m, mark);
    bind_message_rest(st, m);
    err = sqlite_run(st);
    if (err || sqlite3_changes(x->db))
        return err;
    st = sqlite_statement(x, ST_MESSAGE_UPDATE);
    if (!st)
        return STORE_IO;
    bind_message(st, m, mark);
    bind_message_rest(st, m);
    return sqlite_run(st);
}

static int run_recipient(struct store_sqlite *x, enum statement how, const struct row_recipient *p,
                         int mark)
{
    sqlite3_stmt *st = sqlite_statement(x, how);
    if (!st)
        return STORE_IO;
    sqlite_bind_recipient(st, 0, p, mark);
    return sqlite_run(st);
}

/* The class it has on disk; CLASSES + 1: it isn't there. */
static int find_class(struct store_sqlite *x, const struct row_recipient *p, unsigned *class)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_RECIPIENT_CLASS);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)p->id);
    sqlite3_bind_int64(st, 2, p->index);
    int rc = sqlite3_step(st);
    *class = rc == SQLITE_ROW ? column_class(st) : CLASSES + 1;
    sqlite3_reset(st);
    return sqlite_error(rc);
}

static unsigned row_class(const struct row_recipient *p)
{
    return class_of(p->state, p->held, p->in_doubt, p->attempts);
}

/* here: recipients of its message. from: class it had; CLASSES + 1: it is new. */
static int insert_or_update(struct store_sqlite *x, const struct row_recipient *p, int mark,
                            uint32_t here, unsigned *from)
{
    int err = sqlite_flush(x);
    if (!err && p->index >= here) {
        err = run_recipient(x, ST_RECIPIENT_INSERT, p, mark);
        if (err || sqlite3_changes(x->db))
            return err;
    }
    if (!err && here)
        err = find_class(x, p, from);
    if (err)
        return err;
    sqlite_changes(x, p);
    return run_recipient(x, *from > CLASSES ? ST_RECIPIENT_INSERT : ST_RECIPIENT_UPDATE, p, mark);
}

static int put_recipient(struct store_sqlite *x, const struct row_recipient *p, int mark)
{
    int err;
    struct tally *t = sqlite_tally(x, p->id, &err);
    if (!t)
        return err;
    const struct row_recipient *seen = sqlite_seen(x, p, mark);
    unsigned from = seen ? row_class(seen) : CLASSES + 1;
    uint32_t here = 0;
    note_id(&x->highest.recipient, p->id);
    for (unsigned i = 0; i <= CLASSES; i++)
        here += t->n[i];
    /* They come in order with their message: whose index is beyond those that are here is new. */
    t->fresh = t->fresh && p->index == here;
    err = t->fresh ? sqlite_gather_new(x, p, mark)
          : seen   ? sqlite_gather_outcome(x, p)
                   : insert_or_update(x, p, mark, here, &from);
    if (!err)
        move(x, t, from, row_class(p));
    return err;
}

static int put_chunk(struct store_sqlite *x, const struct row_chunk *c, int mark)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_STATE);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)c->id);
    int rc = sqlite3_step(st);
    bool done = rc == SQLITE_ROW && sqlite3_column_int(st, 0) == MESSAGE_DONE;
    sqlite3_reset(st);
    if (done || sqlite_error(rc))
        return sqlite_error(rc);
    st = sqlite_statement(x, ST_CHUNK_PUT);
    int err = find_highest(x);
    if (!st || err)
        return err ? err : STORE_IO;
    note_id(&x->highest.chunk, c->id);
    sqlite3_bind_int64(st, 1, (int64_t)c->id);
    sqlite3_bind_int64(st, 2, c->index);
    sqlite3_bind_int64(st, 3, c->pos.epoch);
    sqlite3_bind_int64(st, 4, (int64_t)c->pos.lsn);
    sqlite3_bind_int(st, 5, mark);
    sqlite3_bind_blob(st, 6, c->data.n ? c->data.p : NULL, (int)c->data.n, SQLITE_STATIC);
    return sqlite_run(st);
}

static int put_opstate(struct store_sqlite *x, const struct row_opstate *o, int mark)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_OPSTATE_PUT);
    if (!st)
        return STORE_IO;
    sqlite_bind(st, 1, o->key);
    sqlite_bind(st, 2, o->value);
    sqlite3_bind_int64(st, 3, o->pos.epoch);
    sqlite3_bind_int64(st, 4, (int64_t)o->pos.lsn);
    sqlite3_bind_int(st, 5, mark);
    return sqlite_run(st);
}

int sqlite_put(struct store *s, const struct row *r, enum unmerged_class unmerged)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(x->in_transaction && x->lock_fd >= 0);
    switch (r->type) {
    case ROW_MESSAGE:
        return put_message(x, &r->message, unmerged);
    case ROW_RECIPIENT:
        return put_recipient(x, &r->recipient, unmerged);
    case ROW_CHUNK:
        return put_chunk(x, &r->chunk, unmerged);
    case ROW_OPSTATE:
        return put_opstate(x, &r->opstate, unmerged);
    }
    return STORE_CORRUPT;
}

void sqlite_read_message(sqlite3_stmt *st, int at, bool body, struct row *out,
                         enum unmerged_class *mark)
{
    memset(out, 0, sizeof *out);
    out->type = ROW_MESSAGE;
    struct row_message *m = &out->message;
    m->id = (uint64_t)sqlite3_column_int64(st, at);
    m->pos.epoch = (uint32_t)sqlite3_column_int64(st, at + 1);
    m->pos.lsn = (uint64_t)sqlite3_column_int64(st, at + 2);
    *mark = (enum unmerged_class)sqlite3_column_int(st, at + 3);
    m->state = (uint8_t)sqlite3_column_int(st, at + 4);
    m->done_ms = sqlite3_column_int64(st, at + 5);
    m->received_ms = sqlite3_column_int64(st, at + 6);
    m->size = (uint64_t)sqlite3_column_int64(st, at + 7);
    m->chunks = (uint32_t)sqlite3_column_int64(st, at + 8);
    m->recipients = (uint32_t)sqlite3_column_int64(st, at + 9);
    m->flags = (uint32_t)sqlite3_column_int64(st, at + 10);
    m->parent = (uint64_t)sqlite3_column_int64(st, at + 11);
    m->born.epoch = (uint32_t)sqlite3_column_int64(st, at + 12);
    m->born.lsn = (uint64_t)sqlite3_column_int64(st, at + 13);
    struct slice creator = sqlite_slice(st, at + 14), hash = sqlite_slice(st, at + 15);
    if (creator.n == STORE_ID_BYTES)
        memcpy(m->creator.b, creator.p, STORE_ID_BYTES);
    if (hash.n == 32)
        memcpy(m->sha256, hash.p, 32);
    m->sender = sqlite_slice(st, at + 16);
    m->envid = sqlite_slice(st, at + 17);
    m->campaign = sqlite_slice(st, at + 18);
    m->origin = sqlite_slice(st, at + 19);
    m->prefix = sqlite_slice(st, at + 20);
    if (body)
        m->body = sqlite_slice(st, at + MESSAGE_HEAD_N);
}

void sqlite_read_recipient(sqlite3_stmt *st, int at, struct row *out, enum unmerged_class *mark)
{
    memset(out, 0, sizeof *out);
    out->type = ROW_RECIPIENT;
    struct row_recipient *p = &out->recipient;
    p->id = (uint64_t)sqlite3_column_int64(st, at);
    p->index = (uint32_t)sqlite3_column_int64(st, at + 1);
    p->pos.epoch = (uint32_t)sqlite3_column_int64(st, at + 2);
    p->pos.lsn = (uint64_t)sqlite3_column_int64(st, at + 3);
    *mark = (enum unmerged_class)sqlite3_column_int(st, at + 4);
    p->state = (uint8_t)sqlite3_column_int(st, at + 5);
    p->held = (uint8_t)sqlite3_column_int(st, at + 6);
    p->notify = (uint8_t)sqlite3_column_int(st, at + 7);
    p->in_doubt = (uint8_t)sqlite3_column_int(st, at + 8);
    p->attempts = (uint32_t)sqlite3_column_int64(st, at + 9);
    p->next_ms = sqlite3_column_int64(st, at + 10);
    p->last_ms = sqlite3_column_int64(st, at + 11);
    p->code = (uint16_t)sqlite3_column_int(st, at + 12);
    p->address = sqlite_slice(st, at + 13);
    p->domain = sqlite_slice(st, at + 14);
    p->orcpt = sqlite_slice(st, at + 15);
    p->enhanced = sqlite_slice(st, at + 16);
    p->reply = sqlite_slice(st, at + 17);
    p->remote = sqlite_slice(st, at + 18);
}

void sqlite_read_chunk(sqlite3_stmt *st, struct row *out, enum unmerged_class *mark)
{
    memset(out, 0, sizeof *out);
    out->type = ROW_CHUNK;
    out->chunk.id = (uint64_t)sqlite3_column_int64(st, 0);
    out->chunk.index = (uint32_t)sqlite3_column_int64(st, 1);
    out->chunk.pos.epoch = (uint32_t)sqlite3_column_int64(st, 2);
    out->chunk.pos.lsn = (uint64_t)sqlite3_column_int64(st, 3);
    *mark = (enum unmerged_class)sqlite3_column_int(st, 4);
    out->chunk.data = sqlite_slice(st, 5);
}

void sqlite_read_opstate(sqlite3_stmt *st, struct row *out, enum unmerged_class *mark)
{
    memset(out, 0, sizeof *out);
    out->type = ROW_OPSTATE;
    out->opstate.key = sqlite_slice(st, 0);
    out->opstate.value = sqlite_slice(st, 1);
    out->opstate.pos.epoch = (uint32_t)sqlite3_column_int64(st, 2);
    out->opstate.pos.lsn = (uint64_t)sqlite3_column_int64(st, 3);
    *mark = (enum unmerged_class)sqlite3_column_int(st, 4);
}

/* Slices of the row are moved into scratch, so that the statement can be reset: an open one would
 * hold the snapshot. */
static int keep(struct store_sqlite *x, struct slice *const *fields, unsigned n)
{
    size_t total = 0;
    for (unsigned i = 0; i < n; i++)
        total += fields[i]->n;
    buf_clear(&x->scratch);
    if (!buf_reserve(&x->scratch, total))
        return STORE_CORRUPT;
    for (unsigned i = 0; i < n; i++) {
        size_t at = x->scratch.len, len = fields[i]->n;
        buf_append_slice(&x->scratch, *fields[i]);
        *fields[i] = slice_of(len ? x->scratch.data + at : NULL, len);
    }
    return STORE_OK;
}

static int keep_row(struct store_sqlite *x, struct row *r)
{
    struct row_message *m = &r->message;
    switch (r->type) {
    case ROW_MESSAGE:
        return keep(x,
                    (struct slice *[]){&m->sender, &m->envid, &m->campaign, &m->origin, &m->prefix,
                                       &m->body},
                    6);
    case ROW_RECIPIENT:
        break; /* read_ahead() */
    case ROW_CHUNK:
        return keep(x, (struct slice *[]){&r->chunk.data}, 1);
    case ROW_OPSTATE:
        return keep(x, (struct slice *[]){&r->opstate.key, &r->opstate.value}, 2);
    }
    return STORE_CORRUPT;
}

static sqlite3_stmt *find(struct store_sqlite *x, const struct row *key)
{
    static const enum statement by_type[] = {
        [ROW_MESSAGE] = ST_MESSAGE_GET, [ROW_CHUNK] = ST_CHUNK_GET, [ROW_OPSTATE] = ST_OPSTATE_GET};
    sqlite3_stmt *st = sqlite_statement(x, by_type[key->type]);
    if (!st)
        return NULL;
    if (key->type == ROW_MESSAGE)
        sqlite3_bind_int64(st, 1, (int64_t)key->message.id);
    else if (key->type == ROW_OPSTATE)
        sqlite_bind(st, 1, key->opstate.key);
    else {
        sqlite3_bind_int64(st, 1, (int64_t)key->chunk.id);
        sqlite3_bind_int64(st, 2, key->chunk.index);
    }
    return st;
}

int sqlite_get(struct store *s, const struct row *key, struct row *out,
               enum unmerged_class *unmerged)
{
    struct store_sqlite *x = sqlite_of(s);
    enum row_type type = key->type;
    if (type == ROW_RECIPIENT)
        return sqlite_get_recipient(x, &key->recipient, out, unmerged);
    sqlite3_stmt *st = find(x, key);
    if (!st)
        return STORE_IO;
    int rc = sqlite3_step(st), err = sqlite_error(rc);
    if (rc == SQLITE_ROW) {
        if (type == ROW_MESSAGE)
            sqlite_read_message(st, 0, true, out, unmerged);
        else if (type == ROW_CHUNK)
            sqlite_read_chunk(st, out, unmerged);
        else
            sqlite_read_opstate(st, out, unmerged);
        err = keep_row(x, out);
    } else if (!err) {
        err = STORE_NOT_FOUND;
    }
    sqlite3_reset(st);
    return err;
}

int sqlite_get_head(struct store *s, uint64_t id, struct row *out)
{
    struct store_sqlite *x = sqlite_of(s);
    sqlite3_stmt *st = sqlite_statement(x, ST_MESSAGE_HEAD);
    enum unmerged_class mark;
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)id);
    int rc = sqlite3_step(st), err = sqlite_error(rc);
    if (rc == SQLITE_ROW) {
        sqlite_read_message(st, 0, false, out, &mark);
        err = keep_row(x, out);
    } else if (!err) {
        err = STORE_NOT_FOUND;
    }
    sqlite3_reset(st);
    return err;
}

int sqlite_each_recipient(struct store *s, uint64_t id, store_row_fn fn, void *ctx)
{
    int err = sqlite_flush(sqlite_of(s));
    if (err)
        return err;
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_RECIPIENT_EACH);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, (int64_t)id);
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

int sqlite_count_recipients(struct store *s, uint64_t id, uint32_t *total, uint32_t *open)
{
    int err;
    struct tally *t = sqlite_tally(sqlite_of(s), id, &err);
    *total = *open = 0;
    if (!t)
        return err;
    for (unsigned i = 0; i < CLASSES; i++)
        *open += t->n[i];
    *total = *open + t->n[CLASSES];
    return STORE_OK;
}

int sqlite_unmark(struct store *s, const struct row *key)
{
    struct store_sqlite *x = sqlite_of(s);
    static const enum statement by_type[] = {[ROW_MESSAGE] = ST_MESSAGE_MARK,
                                             [ROW_RECIPIENT] = ST_RECIPIENT_MARK,
                                             [ROW_CHUNK] = ST_CHUNK_MARK,
                                             [ROW_OPSTATE] = ST_OPSTATE_MARK};
    int err = sqlite_flush(x);
    if (err)
        return err;
    sqlite3_stmt *st = sqlite_statement(x, by_type[key->type]);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int(st, 2, UNMERGED_NONE);
    if (key->type == ROW_OPSTATE)
        sqlite_bind(st, 1, key->opstate.key);
    else if (key->type == ROW_MESSAGE)
        sqlite3_bind_int64(st, 1, (int64_t)key->message.id);
    else {
        bool chunk = key->type == ROW_CHUNK;
        sqlite3_bind_int64(st, 1, (int64_t)(chunk ? key->chunk.id : key->recipient.id));
        sqlite3_bind_int64(st, 3, chunk ? key->chunk.index : key->recipient.index);
    }
    return sqlite_run(st);
}
