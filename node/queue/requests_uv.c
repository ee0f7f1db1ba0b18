/* What replication asks of the storage thread (replication/port.h). In the order of the line, each
 * answered once, on this thread or by the flusher before it goes on: an answer never overtakes a
 * batch or a durable position. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/queue/internal_uv.h"

enum {
    FOLLOW_BYTES = 8 << 20, /* batches that share one transaction on the standby */
    FOLLOW_MAX = 256,
    UNMERGED_CAP = 8 << 20, /* below FRAME_MAX, whatever the request's limit */
    CHANGES_CAP = 8 << 20
};

static struct slice bytes_of(const struct store_request *r)
{
    return r->bytes ? slice_of(r->bytes->data, r->bytes->n) : slice_of(NULL, 0);
}

/* Is there anything that health should hear of? */
static bool differs(const struct store_meta *a, const struct store_meta *b)
{
    return !store_id_eq(&a->id, &b->id) || a->copying != b->copying || a->unfit != b->unfit ||
           a->epoch_seen != b->epoch_seen || a->end.epoch != b->end.epoch ||
           a->history.n != b->history.n ||
           (a->history.n && memcmp(&a->history.row[a->history.n - 1],
                                   &b->history.row[b->history.n - 1], sizeof a->history.row[0]));
}

static void reply(struct storage *s, const struct store_request *r, struct store_reply *out)
{
    out->type = r->type;
    out->cookie = r->cookie;
    s->store->ops->get_meta(s->store, &out->meta);
    s->hooks.reply(s->hooks.ctx, out);
}

static void tell_if_changed(struct storage *s, const struct store_meta *before)
{
    struct store_meta now;
    s->store->ops->get_meta(s->store, &now);
    if (differs(before, &now))
        s->hooks.changed(s->hooks.ctx, &now);
}

static bool is_disk_error(int err)
{
    return err == STORE_IO || err == STORE_FULL;
}

void writer_tell_opstate(struct storage *s, struct slice rows)
{
    struct wire_reader r = wire_read(rows);
    struct row row, here;
    enum unmerged_class mark;
    while (r.n && row_decode(&r, &row))
        if (row.type == ROW_OPSTATE &&
            s->store->ops->get(s->store, &row, &here, &mark) == STORE_OK) {
            storage_note_opstate(s, here.opstate.key);
            s->hooks.opstate(s->hooks.ctx, here.opstate.key, here.opstate.value);
        }
}

/* --- following: batches share a transaction as operations do, each gets its answer --- */

struct followed {
    struct batch batch;
    struct store_reply answer;
};

static bool has_opstate(const struct batch *b, bool *purge)
{
    struct wire_reader r = wire_read(b->rows);
    struct row row;
    int64_t before_ms;
    bool any = false;
    while (r.n && row_decode(&r, &row)) {
        any = any || row.type == ROW_OPSTATE;
        *purge = *purge || apply_is_purge(&row, &before_ms);
    }
    return any;
}

static void answer_followed(struct storage *s, struct item *i, int err)
{
    struct followed *f = i->followed;
    f->answer.type = SR_FOLLOW;
    f->answer.cookie = i->request.cookie;
    f->answer.err = err;
    if (err)
        s->store->ops->get_meta(s->store, &f->answer.meta);
    s->hooks.reply(s->hooks.ctx, &f->answer);
    item_free(i);
}

static void tell_followed(struct storage *s, const struct item *i)
{
    if (has_opstate(&i->followed->batch, &s->purging))
        writer_tell_opstate(s, i->followed->batch.rows);
}

static int commit_followed(struct storage *s, struct group *g)
{
    struct store *store = s->store;
    int err = store->ops->set_meta(store, &g->meta);
    if (err)
        store->ops->rollback(store);
    else
        err = store->ops->commit(store);
    for (const struct item *i = g->items.head; !err && i; i = i->next)
        tell_followed(s, i);
    return err;
}

static int follow_one(struct storage *s, struct item *i)
{
    const struct batch *b = &i->followed->batch;
    uint64_t began = clock_boot_ns();
    storage_begun(s);
    int err = apply_follow(s->store, b, clock_wall_ms());
    storage_ended(s);
    if (err)
        return err;
    storage_committed(s, clock_boot_ns() - began, b->n_rows, b->rows.n);
    tell_followed(s, i);
    return STORE_OK;
}

/* Not all of them together: which of them, then? */
static void follow_each(struct storage *s, struct group *g, int err)
{
    bool one = g->n_items == 1;
    s->store->cursor = g->cursor;
    s->store->behind = g->behind;
    for (struct item *i; (i = list_pop(&g->items));) {
        assert(!s->open || s->failed);
        if (!one && !s->failed && !is_disk_error(err))
            err = follow_one(s, i);
        if (is_disk_error(err) && !s->failed) /* final for this store, whichever batch it hit */
            storage_fail(s, err, g->why[0] ? g->why : store_sqlite_error(s->store));
        if (!err)
            s->store->ops->get_meta(s->store, &i->followed->answer.meta);
        answer_followed(s, i, err);
    }
    tell_if_changed(s, &g->before);
}

static void followed_durable(struct storage *s, struct group *g)
{
    for (struct item *i; (i = list_pop(&g->items));)
        answer_followed(s, i, STORE_OK);
}

static void followed_ended(struct storage *s, struct group *g, int err)
{
    if (err)
        follow_each(s, g, err);
    else
        tell_if_changed(s, &g->before);
}

static void followed_given_up(struct storage *s, struct group *g, int err)
{
    s->store->ops->rollback(s->store);
    follow_each(s, g, err);
}

static const struct group_kind followed = {.commit = commit_followed,
                                           .durable = followed_durable,
                                           .ended = followed_ended,
                                           .given_up = followed_given_up};

static int begin_followed(struct storage *s)
{
    struct store *store = s->store;
    storage_begun(s);
    int err = store->ops->begin(store);
    if (err)
        storage_ended(s);
    if (is_disk_error(err) && !s->failed)
        storage_fail(s, err, store_sqlite_error(store));
    if (err)
        return err;
    struct group *g = group_open(s, &followed);
    g->meta = g->before;
    g->cursor = store->cursor;
    g->behind = store->behind;
    return STORE_OK;
}

bool writer_committed(struct storage *s, struct list *line)
{
    struct item *i = line->head;
    if (!i || i->op || i->request.type != SR_COMMITTED)
        return false;
    if (pos_cmp(i->request.committed, s->committed) > 0)
        s->committed = i->request.committed;
    item_free(list_pop(line));
    return true;
}

/* One batch into the group that is open. */
static void follow(struct storage *s, struct item *i)
{
    struct followed *f = i->followed = xcalloc(1, sizeof *f);
    struct wire_reader r = wire_read(bytes_of(&i->request));
    int err = batch_decode(&r, &f->batch) ? STORE_OK : STORE_CORRUPT;
    if (!err)
        err = s->failed ? STORE_IO : s->epoch ? STORE_CONFLICT : STORE_OK;
    if (!err && !s->open)
        err = begin_followed(s);
    if (err) { /* in order */
        group_settle(s);
        answer_followed(s, i, err);
        return;
    }
    struct group *g = s->open;
    list_push(&g->items, i);
    g->n_items++;
    g->n_rows += f->batch.n_rows;
    g->bytes += f->batch.rows.n;
    err = apply_follow_rows(s->store, &f->batch, clock_wall_ms(), &g->meta);
    f->answer.meta = g->meta;
    if (err)
        group_spoilt(s, err);
    else if (g->n_items == FOLLOW_MAX || g->bytes >= FOLLOW_BYTES)
        group_close(s);
}

static void follow_line(struct storage *s, struct list *line)
{
    while (line->head) {
        group_look(s);
        if (writer_committed(s, line))
            continue;
        if (line->head->op || line->head->request.type != SR_FOLLOW)
            break;
        follow(s, list_pop(line));
    }
}

/* --- the others --- */

static int promote(struct storage *s, const struct store_request *r, struct store_reply *out)
{
    struct promotion p = {.epoch = r->epoch,
                          .mode = (enum history_mode)r->mode,
                          .wall_ms = clock_wall_ms(),
                          .quarantine_ms = (int64_t)s->quarantine_ms,
                          .in_doubt_wait_ms = (int64_t)s->in_doubt_wait_ms,
                          .noted = bytes_of(r)};
    struct promoted done;
    if (r->mode == MODE_UNKNOWN || r->mode > MODE_FORCED)
        return STORE_CONFLICT;
    int err = apply_promote(s->store, &p, &done);
    if (err)
        return err;
    out->first = done.first;
    out->n_rows = done.in_doubt;
    s->epoch = r->epoch;
    s->committed = (struct pos){0, 0};
    s->twins_stale = true;
    return STORE_OK;
}

static int mode(struct storage *s, const struct store_request *r, struct store_reply *out)
{
    struct store_meta meta;
    s->store->ops->get_meta(s->store, &meta);
    out->first = r->first ? r->first : meta.end.lsn + 1;
    return apply_mode(s->store, r->epoch, (enum history_mode)r->mode, out->first, r->committed);
}

static int adopt(struct storage *s, const struct store_request *r)
{
    struct history h;
    struct wire_reader w = wire_read(bytes_of(r));
    if (s->epoch)
        return STORE_CONFLICT;
    if (!history_decode(&w, &h))
        return STORE_CORRUPT;
    return apply_adopt(s->store, r->pos, &h, r->committed, slice_of(w.p, w.n));
}

static int unmark(struct storage *s, const struct store_request *r)
{
    struct store *store = s->store;
    struct wire_reader w = wire_read(bytes_of(r));
    int err = store->ops->begin(store);
    if (err)
        return err;
    while (!err && w.n) {
        struct row row;
        err = row_decode(&w, &row) ? store->ops->unmark(store, &row) : STORE_CORRUPT;
    }
    if (!err)
        return store->ops->commit(store);
    store->ops->rollback(store);
    return err;
}

struct unmerged_read {
    struct buf out;
    size_t limit;
    uint32_t skip, n;
    bool more;
};

static bool read_unmerged(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct unmerged_read *u = ctx;
    if (u->skip) {
        u->skip--;
        return true;
    }
    size_t start = u->out.len;
    if ((u->n && u->out.len >= u->limit) || !wire_put_u8(&u->out, (uint8_t)mark) ||
        !row_encode(&u->out, r)) {
        u->out.len = start;
        u->more = true;
        return false;
    }
    u->n++;
    return true;
}

static int unmerged(struct storage *s, const struct store_request *r, struct store_reply *out)
{
    struct unmerged_read u = {.skip = r->skip, .limit = r->limit};
    buf_init(&u.out, UNMERGED_CAP);
    int err = s->store->ops->each_unmerged(s->store, read_unmerged, &u);
    out->bytes = shared_new(buf_slice(&u.out));
    out->n_rows = u.n;
    out->more = u.more;
    buf_free(&u.out);
    return err;
}

static int set_meta(struct store *store, struct store_meta *meta)
{
    int err = store->ops->begin(store);
    if (!err)
        err = store->ops->set_meta(store, meta);
    if (!err)
        return store->ops->commit(store);
    store->ops->rollback(store);
    return err;
}

static int epoch_seen(struct storage *s, uint32_t epoch)
{
    struct store_meta meta;
    s->store->ops->get_meta(s->store, &meta);
    if (epoch <= meta.epoch_seen)
        return STORE_OK;
    meta.epoch_seen = epoch;
    return set_meta(s->store, &meta);
}

static int wipe(struct storage *s, const struct store_id *fresh)
{
    struct store_meta old, meta;
    s->store->ops->get_meta(s->store, &old);
    if (!old.unfit)
        return apply_wipe(s->store, fresh);
    meta = (struct store_meta){.id = *fresh, .epoch_seen = old.epoch_seen, .copying = true};
    int err = store_sqlite_replace(s->store, &meta);
    s->store->cursor = 0;
    s->store->behind = true;
    pthread_mutex_lock(&s->lock);
    s->generation++;
    pthread_mutex_unlock(&s->lock);
    return err;
}

static int carry_out(struct storage *s, const struct store_request *r, struct store_reply *out)
{
    if (s->failed && r->type != SR_CLOSE && r->type != SR_META)
        return STORE_IO;
    switch (r->type) {
    case SR_PROMOTE:
        return promote(s, r, out);
    case SR_MODE:
        return mode(s, r, out);
    case SR_CLOSE:
        s->epoch = 0;
        return s->failed ? STORE_OK : apply_committed(s->store, r->committed);
    case SR_ADOPT:
        return adopt(s, r);
    case SR_WIPE:
        return s->epoch ? STORE_CONFLICT : wipe(s, &r->store);
    case SR_MERGE:
        return writer_merge(s, r);
    case SR_UNMARK:
        return unmark(s, r);
    case SR_UNMERGED:
        return unmerged(s, r, out);
    case SR_EPOCH_SEEN:
        return epoch_seen(s, r->epoch);
    case SR_META:
        return STORE_OK;
    case SR_MEND:
        return writer_mend(s, r);
    case SR_COMMITTED:
    case SR_FOLLOW:
    case SR_CHANGES:
    case SR_DIGESTS:
    case SR_ROWS:
        break;
    }
    assert(!"request elsewhere");
    return STORE_CONFLICT;
}

void writer_requests(struct storage *s, struct list *line)
{
    assert(line->head && !line->head->op);
    if (line->head->request.type == SR_FOLLOW) {
        follow_line(s, line);
        return;
    }
    if (writer_committed(s, line))
        return;
    group_settle(s);
    struct item *i = list_pop(line);
    struct store_request *r = &i->request;
    struct store_reply out = {.err = STORE_OK};
    struct store_meta before;
    s->store->ops->get_meta(s->store, &before);
    storage_begun(s);
    out.err = carry_out(s, r, &out);
    if (r->type == SR_CLOSE)
        atomic_fetch_sub(&s->closing, 1);
    if (r->type == SR_WIPE && !out.err) /* nothing of what the operators ordered is here now */
        s->hooks.opstate(s->hooks.ctx, slice_of(NULL, 0), slice_of(NULL, 0));
    reply(s, r, &out);
    if (is_disk_error(out.err) && !s->failed)
        storage_fail(s, out.err, store_sqlite_error(s->store));
    storage_ended(s);
    tell_if_changed(s, &before);
    item_free(i);
}

/* --- the feed's reader (protocol 10) --- */

struct changes {
    struct buf rows;
    size_t limit;
    uint64_t last;
    uint32_t n;
    bool cut;
};

static bool add_change(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct changes *c = ctx;
    if (mark != UNMERGED_NONE) /* not of this history yet */
        return true;
    if ((c->n && c->rows.len >= c->limit) || !row_encode(&c->rows, r)) {
        c->cut = true;
        return false;
    }
    c->last = row_pos(r).lsn;
    c->n++;
    return true;
}

static void note_reading(struct storage *s, uint64_t unread_from)
{
    pthread_mutex_lock(&s->reading_lock);
    s->unread_from = unread_from;
    s->read_ns = unread_from ? clock_boot_ns() : 0;
    pthread_mutex_unlock(&s->reading_lock);
}

/* One snapshot. Complete: all rows up to the end of the store, as it is in that snapshot, were
 * read. Their flush may still be under way; replication was given them before their commit, and
 * counts them as durable when it is told so. */
void reader_changes(struct storage *s, struct store *store, const struct store_request *r)
{
    if (!r->limit) {
        note_reading(s, 0);
        return;
    }
    struct store_reply out = {.type = SR_CHANGES, .cookie = r->cookie};
    struct changes c = {.limit = r->limit, .last = r->first};
    struct buf all, history;
    buf_init(&c.rows, CHANGES_CAP);
    buf_init(&all, CHANGES_CAP + (1 << 16));
    buf_init(&history, 1 << 14);
    note_reading(s, r->copies ? 1 : r->first + 1);
    out.err = store->ops->begin(store);
    if (!out.err) {
        store->ops->get_meta(store, &out.meta);
        out.err = store->ops->changes_after(store, r->first, add_change, &c);
        store->ops->rollback(store);
    }
    struct batch b = {.epoch = out.meta.end.epoch,
                      .first = r->first + 1,
                      .last = c.last,
                      .complete = !c.cut,
                      .committed = out.meta.committed,
                      .rows = buf_slice(&c.rows),
                      .n_rows = c.n};
    if (b.complete) {
        b.last = out.meta.end.lsn > r->first ? out.meta.end.lsn : r->first;
        if (history_encode(&history, &out.meta.history))
            b.history = buf_slice(&history);
    }
    if (!out.err && !batch_encode(&all, &b))
        out.err = STORE_FULL;
    note_reading(s, r->copies && c.cut ? 1 : b.last + 1);
    out.more = c.cut;
    out.n_rows = c.n;
    if (!out.err)
        out.bytes = shared_new(buf_slice(&all));
    buf_free(&c.rows);
    buf_free(&all);
    buf_free(&history);
    s->hooks.reply(s->hooks.ctx, &out);
}
