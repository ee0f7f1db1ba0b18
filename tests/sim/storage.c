/* Model of the storage thread (node/queue/storage_uv.h): one writer, group commit, requests and
 * operations in the order in which they came, a batch handed to replication before its commit, a
 * reader that sees what is committed. A commit takes a while; a crash meanwhile finds it either
 * whole on the disk or not at all. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/mutant.h"
#include "replication/own.h"
#include "sim/harm.h"

enum { GROUP_MAX = 16 };

struct item {
    struct item *next;
    struct op *op; /* or */
    struct store_request req;
    int err;                /* FOLLOW: its answer */
    struct store_meta meta; /* and how things stood after it */
};

struct own_under_way {
    struct own own;
    bool open;
};

static void next_item(struct sim *s, struct node *n);

void op_free(struct op *op)
{
    if (op)
        buf_free(&op->memory);
    free(op);
}

static void item_free(struct item *i)
{
    if (!i)
        return;
    op_free(i->op);
    shared_unref(i->req.bytes);
    free(i);
}

static struct item *pop(struct storage_model *m)
{
    struct item *i = m->head;
    m->head = i->next;
    if (!m->head)
        m->tail = NULL;
    i->next = NULL;
    return i;
}

static void push(struct sim *s, struct node *n, struct item *i)
{
    struct storage_model *m = &n->storage;
    if (m->tail)
        m->tail->next = i;
    else
        m->head = i;
    m->tail = i;
    next_item(s, n);
}

static uint64_t commit_time(struct sim *s, struct node *n)
{
    if (s->now < n->slow_until) {
        s->count.effect[F_DISK]++;
        return rng_range(&s->rng, MS, n->slow_max);
    }
    return rng_skewed(&s->rng, s->plan.commit_min, s->plan.commit_max);
}

/* --- a disk that fails (node/queue: storage_fail) --- */

/* The next transaction meets this fault. */
static enum disk_fault fault_due(struct sim *s, struct node *n)
{
    enum disk_fault f = n->disk_fault;
    if (f == DISK_OK && s->now < n->full_until)
        f = DISK_FULL;
    n->disk_fault = DISK_OK;
    if (f == DISK_WRITE)
        s->count.effect[F_WRITE]++;
    else if (f == DISK_FSYNC)
        s->count.effect[F_FSYNC]++;
    else if (f == DISK_FULL)
        s->count.effect[F_FULL]++;
    return f;
}

static void failure_arrives(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process], &(struct pair_event){.type = PE_STORAGE_FAILED});
}

/* Final until the process is started anew and the store checked: an operator sees to that. */
static void storage_fail(struct sim *s, struct node *n, enum disk_fault f)
{
    static const char *const what[] = {"?", "a write fails", "an fsync fails", "no space left"};
    if (n->storage.failed)
        return;
    TRACE(s, process_name(n->self), "disk: %s; this store writes nothing any more", what[f]);
    /* The driver's part of incident 32: after a failure it writes nothing (storage_uv.c). */
    n->storage.failed = BATON_MUTANT(FAILED_STORE_GOES_ON, false, true);
    node_mail(s, n, STORAGE_TO_HEALTH, failure_arrives);
    faults_repair_later(s, n);
}

/* True: the disk hangs; the task comes again when it answers. */
static bool hangs(struct sim *s, struct node *n, task_fn fn)
{
    if (s->now >= n->stall_until)
        return false;
    s->count.effect[F_STALL]++;
    sim_at(s, n->stall_until, n->self, fn);
    return true;
}

/* --- answers --- */

static void drop_reply(struct task *t)
{
    struct store_reply *r = t->p;
    shared_unref(r->bytes);
    free(r);
}

static void reply_arrives(struct sim *s, struct task *t)
{
    struct store_reply *r = t->p;
    replication_step(s, &s->node[t->process],
                     &(struct replica_event){.type = RE_STORE, .reply = r});
    drop_reply(t);
}

static void reply_meta(struct sim *s, struct node *n, enum channel c,
                       const struct store_request *req, struct store_reply r,
                       const struct store_meta *meta)
{
    struct store_reply *copy = xmalloc(sizeof *copy);
    r.type = req->type;
    r.cookie = req->cookie;
    r.meta = *meta;
    *copy = r;
    struct task *t = node_mail(s, n, c, reply_arrives);
    t->p = copy;
    t->drop = drop_reply;
}

static void reply(struct sim *s, struct node *n, enum channel c, const struct store_request *req,
                  struct store_reply r)
{
    reply_meta(s, n, c, req, r, store_memory_meta(n->disk.store));
}

static void drop_op(struct task *t)
{
    op_free(t->p);
}

static void op_arrives(struct sim *s, struct task *t)
{
    relay_op_back(s, &s->node[t->process], t->p);
}

static void op_back(struct sim *s, struct node *n, struct op *op, enum op_fate fate)
{
    op->fate = fate;
    struct task *t = node_mail(s, n, TO_RELAY, op_arrives);
    t->p = op;
    t->drop = drop_op;
}

static void drop_batch(struct task *t)
{
    struct own_batch *b = t->p;
    shared_unref(b->rows);
    free(b);
}

static void batch_arrives(struct sim *s, struct task *t)
{
    replication_step(s, &s->node[t->process],
                     &(struct replica_event){.type = RE_BATCH, .batch = t->p});
    drop_batch(t);
}

static struct own *own_of(struct node *n)
{
    return n->storage.own;
}

/* Everything that is in the open transaction. */
static void hand_over(struct sim *s, struct node *n)
{
    struct own_batch *b = xmalloc(sizeof *b);
    *b = own_batch(own_of(n), true);
    books_number(s, n, b->epoch);
    rules_numbers(s, n, b);
    struct task *t = node_mail(s, n, STORAGE_TO_REPLICATION, batch_arrives);
    t->p = b;
    t->drop = drop_batch;
}

static void durable_arrives(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct pos end = {(uint32_t)t->a, t->b};
    n->lsn_own = end.lsn;
    replication_step(s, n, &(struct replica_event){.type = RE_DURABLE, .pos = end});
}

static void durable(struct sim *s, struct node *n)
{
    struct pos end = store_memory_meta(n->disk.store)->end;
    struct task *t = node_mail(s, n, STORAGE_TO_REPLICATION, durable_arrives);
    t->a = end.epoch;
    t->b = end.lsn;
}

static void changed_arrives(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process], t->p);
    free(t->p);
}

static void drop_p(struct task *t)
{
    free(t->p);
}

static void tell_health(struct sim *s, struct node *n, const struct store_meta *m)
{
    struct pair_event *ev = xcalloc(1, sizeof *ev);
    ev->type = PE_STORE;
    ev->store =
        (struct pair_store){.open = true,
                            .fit = !m->copying && !m->unfit,
                            .virgin = m->history.n == 0 && m->epoch_seen == 0 && !m->copying,
                            .id = m->id,
                            .end = m->end,
                            .committed = m->committed,
                            .epoch_seen = m->epoch_seen,
                            .forced = history_forced(&m->history)};
    struct task *t = node_mail(s, n, STORAGE_TO_HEALTH, changed_arrives);
    t->p = ev;
    t->drop = drop_p;
}

static void takeover_told(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process],
                &(struct pair_event){.type = PE_AUTO_TAKEOVER, .flag = t->a});
}

void storage_tells_takeover(struct sim *s, struct node *n, bool on)
{
    node_mail(s, n, STORAGE_TO_HEALTH, takeover_told)->a = on;
}

/* --- own transactions --- */

static int put_rows(struct own *o, struct op *op)
{
    int err = STORE_OK;
    bool write = true, late = false;
    if (op->kind == OP_OUTCOME)
        err = own_outcome(o, &op->row[0].recipient, &write, &late);
    if (!write)
        return err; /* nor its bounce */
    for (unsigned i = 0; i < op->n_rows && !err; i++)
        err = own_put(o, &op->row[i]);
    return err || !late ? err : own_recall(o, op->copy_id);
}

static int put_twins(struct own *o, const struct row_message *m)
{
    uint64_t twin = 0, n = 0;
    int err = STORE_OK;
    while (!err && !(err = o->store->ops->find_twin(o->store, m, twin, &twin)) && twin)
        err = own_supersede(o, twin, m, &n);
    return err;
}

struct due {
    struct row rows[8];
    unsigned n;
    int64_t wall_ms, ahead_ms;
};

/* A quarantine that is over; and what no schedule of this clock's could have put so far ahead. */
static bool collect_due(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct due *d = ctx;
    const struct row_recipient *x = &r->recipient;
    bool due = x->state == RCPT_QUARANTINED && x->next_ms <= d->wall_ms;
    bool ahead = !rcpt_terminal(x->state) && x->next_ms > d->wall_ms + d->ahead_ms;
    if (unmerged == UNMERGED_NONE && (due || ahead))
        d->rows[d->n++] = *r;
    return d->n < 8;
}

static int release_due(struct own *o, int64_t ahead_ms)
{
    struct due d = {.wall_ms = o->wall_ms, .ahead_ms = ahead_ms};
    store_memory_each_live(o->store, collect_due, &d);
    int err = STORE_OK;
    for (unsigned i = 0; i < d.n && !err; i++) {
        struct row_recipient *x = &d.rows[i].recipient;
        if (x->next_ms <= d.wall_ms)
            x->state = RCPT_QUEUED;
        else if (x->state == RCPT_QUARANTINED)
            x->next_ms = d.wall_ms + ahead_ms;
        else
            x->next_ms = d.wall_ms;
        err = own_put(o, &d.rows[i]);
    }
    return err;
}

/* node/queue/writer_uv.c, write_selected(): the rows of one message. */
static int write_selected(struct own *o, const struct op *op)
{
    const struct selector all = {.all = true};
    int err = STORE_OK;
    for (uint32_t i = 0; i < MESSAGE_RCPTS && !err; i++) {
        struct row key = {.type = ROW_RECIPIENT, .recipient = {.id = op->copy_id, .index = i}}, row;
        err = o->store->ops->get(o->store, &key, &row, NULL);
        if (err == STORE_NOT_FOUND) {
            err = STORE_OK;
            continue;
        }
        if (!err && selector_apply(op->action, &all, &row.recipient, o->wall_ms))
            err = own_put(o, &row);
        if (!err && op->action == SELECT_CANCEL)
            err = own_finish(o, op->copy_id);
    }
    return err;
}

/* Beyond the longest retry and the quarantine (deliver.c, plan_draw). */
enum { AHEAD_MS = 15000 };

static int put_note(struct own *o, struct op *op)
{
    const struct row_recipient *p = &op->row[0].recipient;
    return own_note(o, p->id, p->index, (enum doubt)p->in_doubt, &op->noted);
}

static int write_op(struct own *o, struct op *op)
{
    int err = op->kind == OP_RELEASE_DUE ? release_due(o, AHEAD_MS)
              : op->kind == OP_NOTE      ? put_note(o, op)
              : op->kind == OP_SELECT    ? write_selected(o, op)
                                         : put_rows(o, op);
    for (unsigned i = 0; op->kind == OP_ADD && i < op->n_rows && !err; i++)
        if (op->row[i].type == ROW_MESSAGE)
            err = put_twins(o, &op->row[i].message);
    if (op->kind == OP_OUTCOME && !err)
        err = own_finish(o, op->copy_id);
    op->pos = (struct pos){o->epoch, o->next - 1};
    return err;
}

static int write_merge(struct own *o, const struct store_request *req, int64_t quarantine_ms)
{
    struct wire_reader r = wire_read(slice_of(req->bytes->data, req->bytes->n));
    int err = STORE_OK;
    for (uint32_t i = 0; i < req->n_rows && !err; i++) {
        uint8_t as = wire_get_u8(&r);
        struct row row;
        if (!row_decode(&r, &row))
            return STORE_CORRUPT;
        err = own_merge(o, &row, (enum unmerged_class)as, quarantine_ms);
    }
    return err;
}

/* The batch is with replication, its commit failed: whether it is here, a restart will tell. */
static void commit_failed(struct sim *s, struct node *n, enum disk_fault f)
{
    struct storage_model *m = &n->storage;
    store_memory_resume(n->disk.store);
    if (f == DISK_FSYNC && rng_chance(&s->rng, 0.5))
        own_commit(m->own, m->committed);
    else
        own_abort(m->own);
    m->own_open = m->busy = false;
    store_memory_sync(n->disk.store);
    for (struct item *i = m->under_way, *next; i; i = next) {
        next = i->next;
        if (i->op) {
            op_back(s, n, i->op, OP_FAILED);
            i->op = NULL;
        } else {
            reply(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = STORE_IO});
        }
        item_free(i);
    }
    m->under_way = NULL;
    storage_fail(s, n, f);
    next_item(s, n);
}

static void commit_done(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct storage_model *m = &n->storage;
    if (hangs(s, n, commit_done))
        return;
    enum disk_fault f = fault_due(s, n);
    if (f) {
        commit_failed(s, n, f);
        return;
    }
    bool done = true;
    bool dies = node_dies_here(s, n, &done);
    store_memory_resume(n->disk.store);
    if (done) {
        int err = own_commit(own_of(n), m->committed);
        assert(!err);
        (void)err;
    } else {
        own_abort(own_of(n));
    }
    m->own_open = false;
    store_memory_sync(n->disk.store);
    if (dies) {
        node_crash(s, n->self, n->crash_silent, "at a commit");
        faults_restart_later(s, n->self);
        return;
    }
    m->busy = false;
    durable(s, n);
    operator_tell(s, n);
    struct item *i = m->under_way;
    m->under_way = NULL;
    while (i) {
        struct item *next = i->next;
        if (i->op) {
            op_back(s, n, i->op, OP_DURABLE);
            i->op = NULL;
        } else {
            reply(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = STORE_OK});
        }
        item_free(i);
        i = next;
    }
    next_item(s, n);
}

/* Everything under way is in the open transaction: it goes to replication, then to the disk. */
static void commit_own(struct sim *s, struct node *n)
{
    struct own *o = own_of(n);
    struct storage_model *m = &n->storage;
    if (own_count(o))
        hand_over(s, n);
    m->busy = m->own_open = true;
    m->busy_since = node_now(s, n);
    store_memory_suspend(n->disk.store);
    sim_at(s, s->now + commit_time(s, n), n->self, commit_done);
}

static void add_under_way(struct storage_model *m, struct item *i)
{
    struct item **at = &m->under_way;
    while (*at)
        at = &(*at)->next;
    *at = i;
}

static void start_ops(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    struct own *o = own_of(n);
    bool begun = false;
    for (unsigned k = 0; k < GROUP_MAX && m->head && m->head->op; k++) {
        struct item *i = pop(m);
        if (i->op->epoch != m->writer || !m->writer || m->failed) {
            op_back(s, n, i->op, OP_NOT_PRIMARY);
            i->op = NULL;
            item_free(i);
            continue;
        }
        if (!begun && own_begin(o, n->disk.store, m->writer, node_wall(s, n)))
            assert(!"memory doesn't fail");
        begun = true;
        if (write_op(o, i->op))
            assert(!"memory doesn't fail");
        add_under_way(m, i);
    }
    if (!begun) {
        next_item(s, n);
    } else if (n->disk_fault == DISK_WRITE && rng_chance(&s->rng, 0.5)) {
        own_abort(o); /* nothing was handed over: its numbers were not given out */
        for (struct item *i = m->under_way, *next; i; i = next) {
            next = i->next;
            op_back(s, n, i->op, OP_NOT_PRIMARY);
            i->op = NULL;
            item_free(i);
        }
        m->under_way = NULL;
        storage_fail(s, n, fault_due(s, n));
        next_item(s, n);
    } else {
        commit_own(s, n);
    }
}

static void start_merge(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    struct own *o = own_of(n);
    struct item *i = pop(m);
    if (m->writer != i->req.epoch || !m->writer || m->failed ||
        store_memory_meta(n->disk.store)->purged > i->req.first) {
        reply(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = STORE_CONFLICT});
        item_free(i);
        next_item(s, n);
        return;
    }
    m->merged_at = s->now;
    int err = own_begin(o, n->disk.store, m->writer, node_wall(s, n));
    unsigned restricts = operator_restricts(n);
    if (!err)
        err = write_merge(o, &i->req, (int64_t)s->plan.quarantine_ms);
    if (err) {
        own_abort(o);
        reply(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = err});
        item_free(i);
        next_item(s, n);
        return;
    }
    rules_merged(s, n, restricts);
    add_under_way(m, i);
    commit_own(s, n);
}

/* --- requests --- */

struct unmerged_read {
    struct buf out;
    uint32_t skip, n;
    size_t limit;
    bool more;
};

static bool read_unmerged(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct unmerged_read *u = ctx;
    if (u->skip) {
        u->skip--;
        return true;
    }
    if (u->n && u->out.len >= u->limit) {
        u->more = true;
        return false;
    }
    u->n++;
    return wire_put_u8(&u->out, (uint8_t)unmerged) && row_encode(&u->out, r);
}

static int unmark_rows(struct store *st, const struct store_request *req)
{
    struct wire_reader r = wire_read(slice_of(req->bytes->data, req->bytes->n));
    int err = st->ops->begin(st);
    for (uint32_t i = 0; i < req->n_rows && !err; i++) {
        struct row row;
        err = row_decode(&r, &row) ? st->ops->unmark(st, &row) : STORE_CORRUPT;
    }
    if (err)
        st->ops->rollback(st);
    return err ? err : st->ops->commit(st);
}

static int epoch_seen(struct store *st, uint32_t epoch)
{
    struct store_meta m;
    st->ops->get_meta(st, &m);
    if (epoch <= m.epoch_seen)
        return STORE_OK;
    m.epoch_seen = epoch;
    int err = st->ops->begin(st);
    if (!err)
        err = st->ops->set_meta(st, &m);
    return err ? err : st->ops->commit(st);
}

static int follow(struct sim *s, struct node *n, const struct store_request *req)
{
    struct wire_reader r = wire_read(slice_of(req->bytes->data, req->bytes->n));
    struct batch b;
    if (!batch_decode(&r, &b))
        return STORE_CORRUPT;
    return n->storage.writer ? STORE_CONFLICT : apply_follow(n->disk.store, &b, node_wall(s, n));
}

/* Batches that wait share a transaction; any error: none of them (node/queue/requests_uv.c). */
static int follow_together(struct sim *s, struct node *n, struct item *first)
{
    struct store *st = n->disk.store;
    struct store_meta meta;
    uint64_t cursor = st->cursor;
    bool behind = st->behind;
    st->ops->get_meta(st, &meta);
    int err = st->ops->begin(st);
    for (struct item *i = first; i && !err; i = i->next) {
        struct wire_reader r = wire_read(slice_of(i->req.bytes->data, i->req.bytes->n));
        struct batch b;
        err = !batch_decode(&r, &b) ? STORE_CORRUPT
              : n->storage.writer   ? STORE_CONFLICT
                                    : apply_follow_rows(st, &b, node_wall(s, n), &meta);
        i->meta = meta;
    }
    if (!err)
        err = st->ops->set_meta(st, &meta);
    if (!err)
        return st->ops->commit(st);
    st->ops->rollback(st);
    st->cursor = cursor;
    st->behind = behind;
    return err;
}

static int adopt(struct node *n, const struct store_request *req)
{
    struct wire_reader r = wire_read(slice_of(req->bytes->data, req->bytes->n));
    struct history h;
    if (!history_decode(&r, &h))
        return STORE_CORRUPT;
    return apply_adopt(n->disk.store, req->pos, &h, req->committed, slice_of(r.p, r.n));
}

static void promote(struct sim *s, struct node *n, const struct store_request *req,
                    struct store_reply *r)
{
    struct promotion p = {.epoch = req->epoch,
                          .mode = (enum history_mode)req->mode,
                          .wall_ms = node_wall(s, n),
                          .quarantine_ms = (int64_t)s->plan.quarantine_ms,
                          .in_doubt_wait_ms = (int64_t)s->plan.in_doubt_wait_ms};
    struct promoted done;
    if (req->bytes)
        p.noted = slice_of(req->bytes->data, req->bytes->n);
    r->err = rules_promotion(s, n, &p, &done);
    if (r->err)
        return;
    r->first = done.first;
    r->n_rows = done.in_doubt;
    s->count.in_doubt += done.in_doubt;
    n->storage.writer = req->epoch;
    n->storage.committed = (struct pos){0, 0};
}

static struct store_reply carry_out(struct sim *s, struct node *n, const struct store_request *req)
{
    struct store *st = n->disk.store;
    struct storage_model *m = &n->storage;
    struct store_reply r = {.err = STORE_OK};
    switch (req->type) {
    case SR_PROMOTE:
        promote(s, n, req, &r);
        break;
    case SR_MODE:
        r.first = req->first ? req->first : store_memory_meta(st)->end.lsn + 1;
        r.err = apply_mode(st, req->epoch, (enum history_mode)req->mode, r.first, req->committed);
        break;
    case SR_CLOSE:
        m->writer = 0;
        r.err = m->failed ? STORE_OK : apply_committed(st, req->committed);
        break;
    case SR_ADOPT:
        r.err = m->writer ? STORE_CONFLICT : adopt(n, req);
        break;
    case SR_WIPE:
        if (!m->writer)
            rot_wiped(s, n);
        r.err = m->writer ? STORE_CONFLICT : apply_wipe(st, &req->store);
        break;
    case SR_UNMARK:
        r.err = unmark_rows(st, req);
        break;
    case SR_UNMERGED: {
        struct unmerged_read u = {.skip = req->skip, .limit = req->limit};
        buf_init(&u.out, FRAME_MAX);
        st->ops->each_unmerged(st, read_unmerged, &u);
        r.bytes = shared_new(buf_slice(&u.out));
        r.n_rows = u.n;
        r.more = u.more;
        buf_free(&u.out);
        break;
    }
    case SR_MEND:
        r.err = rot_put_back(st, req);
        break;
    case SR_EPOCH_SEEN:
        r.err = epoch_seen(st, req->epoch);
        break;
    default:
        assert(req->type == SR_META);
    }
    return r;
}

static bool tells_health(const struct store_meta *a, const struct store_meta *b)
{
    return !store_id_eq(&a->id, &b->id) || a->copying != b->copying || a->unfit != b->unfit ||
           a->epoch_seen != b->epoch_seen ||
           memcmp(&a->history, &b->history, sizeof a->history) != 0;
}

/* Death during a request: what it had committed by then is there, each transaction as a whole. */
static void die_in_request(struct sim *s, struct node *n, bool done)
{
    struct store *st = n->disk.store;
    if (done)
        store_memory_sync(st);
    else
        store_memory_lose(st, (unsigned)rng_range(&s->rng, 1, store_memory_unsynced(st) + 1));
    node_crash(s, n->self, n->crash_silent, "at a store request");
    faults_restart_later(s, n->self);
}

/* f: DISK_OK: the store has failed before. */
static void follow_failed(struct sim *s, struct node *n, enum disk_fault f)
{
    struct storage_model *m = &n->storage;
    struct store *st = n->disk.store;
    store_memory_defer(st, true);
    if (f == DISK_FSYNC && rng_chance(&s->rng, 0.5))
        follow_together(s, n, m->under_way);
    store_memory_sync(st);
    while (m->under_way) {
        struct item *i = m->under_way;
        m->under_way = i->next;
        reply(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = STORE_IO});
        item_free(i);
    }
    m->busy = false;
    if (f)
        storage_fail(s, n, f);
    s->books.check_all = true;
    next_item(s, n);
}

static void follow_done(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct storage_model *m = &n->storage;
    struct store *st = n->disk.store;
    if (hangs(s, n, follow_done))
        return;
    enum disk_fault f = m->failed ? DISK_OK : fault_due(s, n);
    if (f || m->failed) {
        follow_failed(s, n, f);
        return;
    }
    bool done = true, dies = node_dies_here(s, n, &done);
    struct store_meta before = *store_memory_meta(st);
    store_memory_defer(st, true);
    int err = follow_together(s, n, m->under_way);
    if (dies) {
        die_in_request(s, n, done);
        return;
    }
    store_memory_sync(st);
    while (m->under_way) {
        struct item *i = m->under_way;
        m->under_way = i->next;
        if (err) {
            i->err = follow(s, n, &i->req);
            store_memory_sync(st);
            i->meta = *store_memory_meta(st);
        }
        TRACE(s, process_name(n->self), "store: follow%s, end %u:%llu", i->err ? " fails" : "",
              i->meta.end.epoch, (unsigned long long)i->meta.end.lsn);
        reply_meta(s, n, STORAGE_TO_REPLICATION, &i->req, (struct store_reply){.err = i->err},
                   &i->meta);
        item_free(i);
    }
    m->busy = false;
    operator_tell(s, n);
    if (tells_health(&before, store_memory_meta(st)))
        tell_health(s, n, store_memory_meta(st));
    n->lsn_own = store_memory_meta(st)->end.lsn;
    s->books.check_all = true;
    next_item(s, n);
}

static void start_follow(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    for (unsigned k = 0; k < GROUP_MAX && m->head && !m->head->op; k++) {
        if (m->head->req.type != SR_FOLLOW)
            break;
        add_under_way(m, pop(m));
    }
    m->busy = true;
    m->busy_since = node_now(s, n);
    sim_at(s, s->now + commit_time(s, n), n->self, follow_done);
}

static bool only_reads(const struct node *n, const struct store_request *r)
{
    if (r->type == SR_CLOSE)
        return pos_cmp(r->committed, store_memory_meta(n->disk.store)->committed) <= 0;
    return r->type == SR_META || r->type == SR_UNMERGED;
}

static void request_done(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct storage_model *m = &n->storage;
    struct item *i = m->under_way;
    bool writes = !only_reads(n, &i->req);
    if (writes && hangs(s, n, request_done))
        return;
    enum disk_fault f = writes && !m->failed ? fault_due(s, n) : DISK_OK;
    bool done = true, dies = node_dies_here(s, n, &done);
    struct store_meta before = *store_memory_meta(n->disk.store);
    store_memory_defer(n->disk.store, true);
    struct store_reply r = {.err = STORE_IO};
    if (!m->failed || i->req.type == SR_CLOSE || i->req.type == SR_META)
        r = carry_out(s, n, &i->req);
    if (dies) {
        shared_unref(r.bytes);
        die_in_request(s, n, done);
        return;
    }
    if (f) {
        if (f != DISK_FSYNC || rng_chance(&s->rng, 0.5))
            store_memory_lose(n->disk.store, store_memory_unsynced(n->disk.store));
        r.err = STORE_IO;
        m->writer = 0;
        storage_fail(s, n, f);
    }
    store_memory_sync(n->disk.store);
    m->under_way = NULL;
    m->busy = false;
    operator_tell(s, n);
    const struct store_meta *after = store_memory_meta(n->disk.store);
    if (tells_health(&before, after) && !m->failed)
        tell_health(s, n, after);
    n->lsn_own = after->end.lsn;
    static const char *const names[] = {
        "?",        "promote", "mode",      "close", "follow",  "adopt", "wipe", "merge",  "unmark",
        "unmerged", "epoch",   "committed", "meta",  "digests", "rows",  "mend", "changes"};
    TRACE(s, process_name(n->self), "store: %s%s, end %u:%llu%s", names[i->req.type],
          r.err ? " fails" : "", after->end.epoch, (unsigned long long)after->end.lsn,
          after->copying ? ", copying" : "");
    reply(s, n, STORAGE_TO_REPLICATION, &i->req, r);
    item_free(i);
    s->books.check_all = true;
    next_item(s, n);
}

static void start_request(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    if (m->head->req.type == SR_MERGE) {
        start_merge(s, n);
        return;
    }
    if (m->head->req.type == SR_FOLLOW) {
        start_follow(s, n);
        return;
    }
    struct item *i = pop(m);
    if (i->req.type == SR_COMMITTED) {
        if (pos_cmp(i->req.committed, m->committed) > 0)
            m->committed = i->req.committed;
        item_free(i);
        next_item(s, n);
        return;
    }
    m->busy = true;
    m->busy_since = node_now(s, n);
    m->under_way = i;
    sim_at(s, s->now + (only_reads(n, &i->req) ? 100 * US : commit_time(s, n)), n->self,
           request_done);
}

static bool holds_up(const struct sim *s, uint64_t at)
{
    return at && s->now < at + PURGE_HOLD_MS * MS;
}

static void next_item(struct sim *s, struct node *n);

static void purge_on(struct sim *s, struct task *t)
{
    next_item(s, &s->node[t->process]);
}

/* An order to purge that is new here is carried out piece by piece, each before whatever else there
 * is to do. */
static void purge_some(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    struct store *st = n->disk.store;
    const struct row_opstate *x = store_memory_opstate(st, SLICE_LIT("purge"));
    if (x && x->pos.lsn != m->purged_by) {
        m->purged_by = x->pos.lsn;
        m->purging = true;
    }
    if (!m->purging || m->failed)
        return;
    uint64_t below = UINT64_MAX;
    if (m->writer)
        below = m->committed.epoch == m->writer ? m->committed.lsn + 1 : 0;
    if (holds_up(s, m->merged_at))
        below = 0;
    if (holds_up(s, m->read_at) && m->unread_from < below)
        below = m->unread_from;
    m->purging = false;
    if (below && apply_purge(st, below, (unsigned)rng_range(&s->rng, 1, 5), &m->purging))
        assert(!"memory doesn't fail");
    store_memory_sync(st);
    if (m->purging && !m->head)
        sim_at(s, s->now + rng_range(&s->rng, 100 * US, 2 * MS), n->self, purge_on);
}

static void next_item(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    if (m->busy)
        return;
    purge_some(s, n);
    if (!m->head)
        return;
    if (m->head->op)
        start_ops(s, n);
    else
        start_request(s, n);
}

/* --- the reader --- */

struct changes {
    struct buf rows;
    size_t limit;
    uint64_t last;
    uint32_t n;
    bool complete;
};

static bool add_change(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct changes *c = ctx;
    if (unmerged != UNMERGED_NONE) /* not of this history yet */
        return true;
    if (c->n && c->rows.len >= c->limit) {
        c->complete = false;
        return false;
    }
    c->n++;
    c->last = row_pos(r).lsn;
    return row_encode(&c->rows, r);
}

static void read_changes(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct item *i = t->p;
    struct store *st = n->disk.store;
    if (!i->req.limit) {
        n->storage.read_at = 0;
        item_free(i);
        return;
    }
    const struct store_meta *m = store_memory_meta(st);
    struct changes c = {.limit = i->req.limit, .complete = true, .last = i->req.first};
    buf_init(&c.rows, FRAME_MAX);
    st->ops->changes_after(st, i->req.first, add_change, &c);
    struct buf history, out;
    buf_init(&history, 1 << 16);
    buf_init(&out, FRAME_MAX);
    history_encode(&history, &m->history);
    struct batch x = {.epoch = m->end.epoch,
                      .first = i->req.first + 1,
                      .last = !c.complete                 ? c.last
                              : m->end.lsn > i->req.first ? m->end.lsn
                                                          : i->req.first,
                      .complete = c.complete,
                      .committed = m->committed,
                      .rows = buf_slice(&c.rows),
                      .n_rows = c.n,
                      .history = buf_slice(&history)};
    bool ok = batch_encode(&out, &x);
    assert(ok);
    (void)ok;
    n->storage.unread_from = i->req.copies && !c.complete ? 1 : x.last + 1;
    n->storage.read_at = s->now;
    reply(s, n, READER_TO_REPLICATION, &i->req,
          (struct store_reply){
              .more = !c.complete, .n_rows = c.n, .bytes = shared_new(buf_slice(&out))});
    buf_free(&c.rows);
    buf_free(&history);
    buf_free(&out);
    item_free(i);
}

/* A comparison reads, too: each answer as the store is at one moment. */
static void read_one(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct item *i = t->p;
    reply(s, n, READER_TO_REPLICATION, &i->req,
          i->req.type == SR_DIGESTS ? rot_digests(s, n, &i->req)
                                    : rot_rows(n->disk.store, &i->req));
    item_free(i);
}

static void drop_item(struct task *t)
{
    item_free(t->p);
}

/* --- from other threads --- */

static void request_arrives(struct sim *s, struct task *t)
{
    push(s, &s->node[t->process], t->p);
}

void storage_request(struct sim *s, struct node *n, const struct store_request *r)
{
    struct item *i = xcalloc(1, sizeof *i);
    i->req = *r;
    struct task *t;
    if (r->type == SR_CHANGES) /* the reader takes the store as it is when its turn comes */
        t = sim_at(s, s->now + rng_skewed(&s->rng, 100 * US, 20 * MS), n->self, read_changes);
    else if (r->type == SR_DIGESTS || r->type == SR_ROWS)
        t = sim_at(s, s->now + rng_skewed(&s->rng, 100 * US, 20 * MS), n->self, read_one);
    else
        t = node_mail(s, n, REPLICATION_TO_STORAGE, request_arrives);
    t->p = i;
    t->drop = drop_item;
}

void storage_submit(struct sim *s, struct node *n, struct op *op)
{
    struct item *i = xcalloc(1, sizeof *i);
    i->op = op;
    struct task *t = node_mail(s, n, RELAY_TO_STORAGE, request_arrives);
    t->p = i;
    t->drop = drop_item;
}

void storage_start(struct sim *s, struct node *n)
{
    n->storage = (struct storage_model){.own = xcalloc(1, sizeof(struct own))};
    own_init(n->storage.own);
    n->disk.store->cursor = 0;
    n->disk.store->behind = false;
    store_memory_defer(n->disk.store, true);
    n->storage.committed = store_memory_meta(n->disk.store)->committed;
    n->lsn_own = store_memory_meta(n->disk.store)->end.lsn;
    tell_health(s, n, store_memory_meta(n->disk.store));
    n->auto_told = true; /* as the pair core begins */
    operator_tell(s, n);
}

/* The process is gone; an own transaction that was on its way is on the disk or isn't. */
void storage_stop(struct sim *s, struct node *n)
{
    struct storage_model *m = &n->storage;
    if (m->own_open) {
        store_memory_resume(n->disk.store);
        if (rng_chance(&s->rng, 0.5))
            own_commit(m->own, m->committed);
        else
            own_abort(m->own);
    }
    store_memory_sync(n->disk.store);
    while (m->head)
        item_free(pop(m));
    while (m->under_way) {
        struct item *i = m->under_way;
        m->under_way = i->next;
        item_free(i);
    }
    own_free(m->own);
    free(m->own);
    *m = (struct storage_model){0};
}
