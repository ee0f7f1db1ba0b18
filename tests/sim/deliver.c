/* Model of delivery (node/delivery/delivery_uv.h): a few connections, each with one transaction at
 * a time; only committed recipients; the lease is asked right before a transaction starts and right
 * before its final dot; the next one begins when the outcome of the last is settled (protocol 4.4,
 * 4.5, 6). */
#include <assert.h>
#include <stdlib.h>

#include "health/wall.h"
#include "replication/notes.h"
#include "sim/sim.h"

enum { LEASE_PATIENCE_MS = 3000, MEND_MS = 10000 };

static bool may_deliver(const struct sim *s, const struct node *n)
{
    const struct relay *r = &n->relay;
    return r->epoch && r->delivering && r->epoch == n->lease_epoch &&
           node_now(s, n) < n->lease_until;
}

struct pick {
    struct sim *s;
    const struct node *n;
    int64_t wall_ms;
    uint64_t committed, id;
    uint32_t rcpt;
};

static bool in_hands(const struct relay *r, uint64_t id, uint32_t rcpt)
{
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (r->conn[i].id == id && r->conn[i].rcpt == rcpt)
            return true;
    return false;
}

static bool pick_one(void *ctx, const struct row *row, enum unmerged_class unmerged)
{
    struct pick *p = ctx;
    const struct row_recipient *x = &row->recipient;
    if (x->state != RCPT_QUEUED || x->held || unmerged != UNMERGED_NONE ||
        x->next_ms > p->wall_ms || x->pos.lsn > p->committed ||
        in_hands(&p->n->relay, x->id, x->index))
        return true;
    const struct row_message *m = store_memory_message(p->n->disk.store, x->id);
    if (!m || m->pos.lsn > p->committed)
        return true;
    const struct copy *c = books_find(p->s, x->id);
    if (!c->bounce && operator_paused(p->n, c->message))
        return true;
    p->id = x->id;
    p->rcpt = x->index;
    return false;
}

static void dot(struct sim *s, struct task *t);

static struct delivery_conn *conn_of(struct sim *s, struct task *t)
{
    struct relay *r = &s->node[t->process].relay;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (r->conn[i].id && r->conn[i].serial == t->a)
            return &r->conn[i];
    return NULL;
}

static void expire(struct sim *s, struct task *t);

/* As node/delivery/schedule.c has it: too old, tried once, and the clock may be believed. */
static bool expires(struct sim *s, struct node *n, const struct pick *p)
{
    const struct row_recipient *x = store_memory_recipient(n->disk.store, p->id, p->rcpt);
    const struct row_message *m = store_memory_message(n->disk.store, p->id);
    if (!x->attempts || p->wall_ms - m->received_ms < (int64_t)s->plan.expire_ms)
        return false;
    struct pair_view v;
    pair_view(n->pair, node_now(s, n), &v);
    return wall_may_expire(&v, n->serving_ns, node_now(s, n), node_wall(s, n));
}

/* --- notes (node/delivery/notes_uv.c) --- */

static void drop_frame(struct task *t)
{
    shared_unref(t->p);
}

static void note_arrives(struct sim *s, struct task *t)
{
    struct shared *b = t->p;
    replication_step(s, &s->node[t->process],
                     &(struct replica_event){.type = RE_NOTES, .payload = slice_of(b->data, b->n)});
    shared_unref(b);
}

/* rcpt NULL: withdrawn. */
static void send_note(struct sim *s, struct node *n, const struct delivery_conn *c,
                      const struct note_recipient *rcpt)
{
    struct buf b;
    buf_init(&b, 256);
    bool ok =
        note_encode_head(&b, n->relay.epoch, false, ++n->relay.note_number) &&
        (rcpt ? note_put(&b, c->note_key, c->id, rcpt, 1) : note_put_withdrawn(&b, c->note_key));
    assert(ok);
    (void)ok;
    struct task *t = node_mail(s, n, RELAY_TO_REPLICATION, note_arrives);
    t->p = shared_new(buf_slice(&b));
    t->drop = drop_frame;
    buf_free(&b);
}

static void write_note(struct sim *s, struct node *n, const struct delivery_conn *c, uint8_t wanted)
{
    struct op *op = xcalloc(1, sizeof *op);
    op->kind = OP_NOTE;
    op->epoch = n->relay.epoch;
    op->copy_id = c->id;
    op->rcpt = c->rcpt;
    op->row[op->n_rows++] = (struct row){
        .type = ROW_RECIPIENT, .recipient = {.id = c->id, .index = c->rcpt, .in_doubt = wanted}};
    storage_submit(s, n, op);
}

static void note(struct sim *s, struct node *n, struct delivery_conn *c)
{
    const struct store *st = n->disk.store;
    const struct row_message *m = store_memory_message(st, c->id);
    const struct row_recipient *x = store_memory_recipient(st, c->id, c->rcpt);
    c->dot.hold = m->flags & MSG_IN_DOUBT_HOLD;
    if (c->dot.hold) {
        write_note(s, n, c, DOUBT_NOTED);
        return;
    }
    c->note_key = ++n->relay.note_key;
    send_note(s, n, c, &(struct note_recipient){c->rcpt, x->attempts});
    c->dot.note = n->relay.note_number;
}

static void end(struct sim *s, struct node *n, struct delivery_conn *c);

void deliver_noted(struct sim *s, struct node *n, struct op *op)
{
    if (op->row[0].recipient.in_doubt != DOUBT_NOTED)
        return;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct delivery_conn *c = &n->relay.conn[i];
        if (c->id != op->copy_id || c->rcpt != op->rcpt || c->dot.committed)
            continue;
        c->dot.committed = op->noted;
        if (!op->noted)
            end(s, n, c); /* it is finished or in doubt: nothing to send */
    }
}

static void start(struct sim *s, struct node *n, struct delivery_conn *c, const struct pick *p)
{
    *c = (struct delivery_conn){
        .id = p->id, .rcpt = p->rcpt, .serial = ++s->serial, .since = s->now};
    c->deadline = s->now + LEASE_PATIENCE_MS * MS;
    if (expires(s, n, p)) {
        books_expire(s, n, p->id, p->rcpt); /* now: it may be frozen before it writes that down */
        sim_at_thread(s, s->now, n->self, T_RELAY, expire)->a = c->serial;
        return;
    }
    books_start(s, n, n->relay.epoch);
    books_begin(s, n, p->id, p->rcpt);
    note(s, n, c);
    const struct copy *x = books_find(s, p->id);
    if (!x->bounce)
        operator_starts(s, n, x->message);
    orders_starts(s, n, x);
    struct task *t = sim_at_thread(s, s->now + rng_skewed(&s->rng, MS, s->plan.transaction_max),
                                   n->self, T_RELAY, dot);
    t->a = c->serial;
}

void deliver_tick(struct sim *s, struct node *n)
{
    struct relay *r = &n->relay;
    for (unsigned i = 0; i < s->plan.connections; i++) {
        if (r->conn[i].id || r->quiescing || r->mark_epoch != r->epoch || !may_deliver(s, n))
            continue;
        struct pick p = {.s = s, .n = n, .wall_ms = node_wall(s, n), .committed = r->committed};
        store_memory_each_live(n->disk.store, pick_one, &p);
        if (!p.id)
            return;
        start(s, n, &r->conn[i], &p);
    }
}

static void end(struct sim *s, struct node *n, struct delivery_conn *c)
{
    if (c->note_key)
        send_note(s, n, c, NULL);
    else if (!c->dotted && c->dot.committed)
        write_note(s, n, c, DOUBT_NONE);
    *c = (struct delivery_conn){.id = 0};
    deliver_idle_check(s, n);
}

/* --- what the receiver says --- */

enum answer { ANSWER_250, ANSWER_4XX, ANSWER_5XX, ANSWER_NONE, EXPIRED };

static void submit_outcome(struct sim *s, struct node *n, struct delivery_conn *c, enum answer a)
{
    const struct row_recipient *here = store_memory_recipient(n->disk.store, c->id, c->rcpt);
    if (!here) { /* wiped under us: the epoch is over, the news is on its way */
        end(s, n, c);
        return;
    }
    struct op *op = xcalloc(1, sizeof *op);
    buf_init(&op->memory, 4096);
    buf_reserve(&op->memory, 1024);
    struct row_recipient x = *here;
    buf_append_slice(&op->memory, here->address);
    x.address = slice_of(op->memory.data, here->address.n);
    buf_append_slice(&op->memory, here->domain);
    x.domain = slice_of(op->memory.data + here->address.n, here->domain.n);
    x.reply = x.enhanced = x.remote = x.orcpt = (struct slice){NULL, 0};
    x.attempts++;
    x.last_ms = node_wall(s, n);
    bool bounce = store_memory_message(n->disk.store, c->id)->flags & MSG_BOUNCE;
    op->kind = OP_OUTCOME;
    op->epoch = n->relay.epoch;
    op->copy_id = c->id;
    op->rcpt = c->rcpt;
    x.state = a == ANSWER_250   ? RCPT_DELIVERED
              : a == ANSWER_5XX ? RCPT_FAILED
              : a == EXPIRED    ? RCPT_EXPIRED
                                : RCPT_QUEUED;
    if (x.state == RCPT_QUEUED)
        x.next_ms = x.last_ms + (int64_t)rng_range(&s->rng, 300, 2500);
    bool doubt = a == ANSWER_NONE && c->dot.hold; /* not to be sent twice */
    x.in_doubt = doubt ? DOUBT_YES : DOUBT_NONE;
    x.held = doubt ? HELD_DOUBT : 0;
    op->row[op->n_rows++] = (struct row){.type = ROW_RECIPIENT, .recipient = x};
    if ((x.state == RCPT_FAILED || x.state == RCPT_EXPIRED) && !bounce)
        relay_add_bounce(s, n, op, c->id, c->rcpt);
    TRACE(s, process_name(n->self), "outcome of %llx/%u: %s", (unsigned long long)c->id, c->rcpt,
          a == ANSWER_250   ? "delivered"
          : a == ANSWER_5XX ? "failed"
          : a == ANSWER_4XX ? "deferred"
          : a == EXPIRED    ? "expired"
                            : "unknown, will try again");
    storage_submit(s, n, op);
}

static void expire(struct sim *s, struct task *t)
{
    struct delivery_conn *c = conn_of(s, t);
    if (!c)
        return;
    submit_outcome(s, &s->node[t->process], c, EXPIRED);
}

static void answered(struct sim *s, struct task *t)
{
    struct delivery_conn *c = conn_of(s, t);
    if (!c)
        return;
    struct node *n = &s->node[t->process];
    struct rcpt_book *x = &books_find(s, c->id)->rcpt[c->rcpt];
    if (t->b != ANSWER_NONE && x->node == n->self && x->epoch == n->relay.epoch)
        x->reply_seen = true;
    submit_outcome(s, n, c, (enum answer)t->b);
}

static void dot(struct sim *s, struct task *t)
{
    struct delivery_conn *c = conn_of(s, t);
    struct node *n = &s->node[t->process];
    if (!c)
        return;
    if (c->mending) {
        c->mending = s->now < c->deadline;
        if (!c->mending) /* as an attempt that failed here */
            submit_outcome(s, n, c, ANSWER_4XX);
        else
            sim_at_thread(s, s->now + 20 * MS, n->self, T_RELAY, dot)->a = c->serial;
        return;
    }
    if (!store_memory_body_good(n->disk.store, c->id) && may_deliver(s, n)) {
        c->mending = true;
        c->deadline = s->now + MEND_MS * MS;
        rot_mend(s, n, c->id);
        sim_at_thread(s, s->now + 20 * MS, n->self, T_RELAY, dot)->a = c->serial;
        return;
    }
    c->dot.noted = n->relay.mark_epoch == n->relay.epoch ? n->relay.noted : 0;
    if (!dot_may_go(&c->dot) || !may_deliver(s, n)) {
        if (s->now >= c->deadline) {
            end(s, n, c); /* RSET; it is found again later */
            return;
        }
        struct task *again = sim_at_thread(s, s->now + 20 * MS, n->self, T_RELAY, dot);
        again->a = c->serial;
        return;
    }
    double u = rng_unit(&s->rng), reject = s->quiet ? 0 : s->plan.reject;
    enum answer a = u < reject ? ANSWER_5XX : u < reject + s->plan.defer ? ANSWER_4XX : ANSWER_250;
    bool lost = !s->quiet && rng_chance(&s->rng, s->plan.reply_lost);
    bool arrives = !lost || rng_chance(&s->rng, 0.5);
    c->dotted = true;
    rules_noted(s, n, c);
    books_dot(s, n, n->relay.epoch, c->id, c->rcpt, arrives && a == ANSWER_250,
              arrives && a == ANSWER_5XX);
    struct rcpt_book *book = &books_find(s, c->id)->rcpt[c->rcpt];
    book->reply_lost = lost;
    book->noted_at = c->since;
    struct task *x = sim_at_thread(
        s,
        s->now + (lost ? rng_range(&s->rng, 100 * MS, 2 * SEC) : rng_skewed(&s->rng, MS, 400 * MS)),
        n->self, T_RELAY, answered);
    x->a = c->serial;
    x->b = lost ? ANSWER_NONE : a;
}

/* node/delivery/mend_uv.c: put back: found again; neither copy right: an operator's; else later. */
void deliver_mended(struct sim *s, struct node *n, uint64_t id, uint8_t how)
{
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
        struct delivery_conn *c = &n->relay.conn[i];
        if (!c->mending || c->id != id)
            continue;
        if (how == VERIFY_AWAY)
            c->deadline = s->now;
        else
            end(s, n, c);
    }
}

void deliver_settled(struct sim *s, struct node *n, struct op *op)
{
    struct relay *r = &n->relay;
    books_settled(s, n, op->copy_id, op->rcpt);
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (r->conn[i].id == op->copy_id && r->conn[i].rcpt == op->rcpt)
            end(s, n, &r->conn[i]);
}

void deliver_abort(struct sim *s, struct node *n)
{
    (void)s;
    memset(n->relay.conn, 0, sizeof n->relay.conn);
}

static void idle_arrives(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process], &(struct pair_event){.type = PE_DELIVERY_IDLE});
}

void deliver_idle_check(struct sim *s, struct node *n)
{
    struct relay *r = &n->relay;
    if (!r->quiescing || r->idle_told)
        return;
    for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
        if (r->conn[i].id)
            return;
    r->idle_told = true;
    node_mail(s, n, RELAY_TO_HEALTH, idle_arrives);
}
