/* Model of the relay's loop: SMTP's gate, the queue that releases what the watermarks allow, as in
 * node/node_uv.c and node/queue/queue_uv.h. Delivery is in deliver.c. */
#include <assert.h>
#include <stdlib.h>

#include "health/wall.h"
#include "sim/sim.h"

enum { TICK_MS = 40, RELEASE_EVERY_MS = 1000 };

/* Housekeeping of the primary, as node/queue/queue_uv.c has it: by the wall clock, and only where
 * that may be believed. */
static void purge(struct sim *s, struct node *n)
{
    struct pair_view v;
    pair_view(n->pair, node_now(s, n), &v);
    if (!wall_may_expire(&v, n->serving_ns, node_now(s, n), node_wall(s, n)))
        return;
    struct op *op = xcalloc(1, sizeof *op);
    buf_init(&op->memory, 64);
    buf_reserve(&op->memory, 64);
    op->kind = OP_PURGE;
    op->epoch = n->relay.epoch;
    buf_printf(&op->memory, "%lld", (long long)(node_wall(s, n) - (int64_t)s->plan.retention_ms));
    op->row[op->n_rows++] =
        (struct row){.type = ROW_OPSTATE,
                     .opstate = {.key = SLICE_LIT("purge"), .value = buf_slice(&op->memory)}};
    storage_submit(s, n, op);
}

static void tick(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct relay *r = &n->relay;
    if (r->epoch) {
        deliver_tick(s, n);
        if (s->now >= r->release_at) {
            r->release_at = s->now + RELEASE_EVERY_MS * MS;
            struct op *op = xcalloc(1, sizeof *op);
            op->kind = OP_RELEASE_DUE;
            op->epoch = r->epoch;
            storage_submit(s, n, op);
            if (s->plan.retention_ms < 60000)
                purge(s, n);
        }
    }
    sim_at_thread(s, s->now + TICK_MS * MS, n->self, T_RELAY, tick);
}

void relay_start(struct sim *s, struct node *n)
{
    n->relay = (struct relay){.epoch = 0};
    sim_at_thread(s, s->now + rng_below(&s->rng, TICK_MS * MS), n->self, T_RELAY, tick);
}

static void forget(struct sim *s, struct node *n)
{
    struct relay *r = &n->relay;
    while (r->head) {
        struct waiting *w = r->head;
        r->head = w->next;
        if (w->op->kind == OP_ADD)
            clients_reply(s, w->op->session, false);
        op_free(w->op);
        free(w);
    }
    r->tail = NULL;
}

void relay_stop(struct sim *s, struct node *n)
{
    deliver_abort(s, n);
    forget(s, n);
    n->relay.epoch = 0;
    clients_close_all(s, n->self);
}

void relay_epoch_over(struct sim *s, struct node *n)
{
    struct relay *r = &n->relay;
    if (!r->epoch)
        return;
    TRACE(s, process_name(n->self), "relay: epoch %u is over", r->epoch);
    r->epoch = 0;
    r->delivering = r->quiescing = false;
    deliver_abort(s, n);
    forget(s, n);
    clients_close_all(s, n->self);
}

static void released(struct sim *s, struct node *n, struct op *op)
{
    if (op->kind == OP_ADD) {
        books_ack(s, n, op->copy_id);
        clients_reply(s, op->session, true);
    } else if (op->kind == OP_STATE) {
        operator_answered(s, n, op);
    } else if (op->kind == OP_SELECT) {
        orders_answered(s, n, op);
    } else if (op->kind == OP_OUTCOME) {
        deliver_settled(s, n, op);
    } else if (op->kind == OP_NOTE) {
        deliver_noted(s, n, op);
    }
}

static void release(struct sim *s, struct node *n)
{
    struct relay *r = &n->relay;
    if (r->mark_epoch != r->epoch)
        return;
    for (struct waiting **at = &r->head; *at;) {
        struct waiting *w = *at;
        uint64_t mark = w->op->kind == OP_OUTCOME ? r->settled : r->committed;
        assert(w->op->pos.epoch == r->epoch);
        if (w->op->pos.lsn > mark) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        r->tail = NULL;
        released(s, n, w->op);
        op_free(w->op);
        free(w);
    }
    for (struct waiting *w = r->head; w; w = w->next)
        r->tail = w;
    deliver_tick(s, n);
}

void relay_watermark(struct sim *s, struct node *n, uint32_t epoch, uint64_t committed,
                     uint64_t settled, uint64_t noted)
{
    struct relay *r = &n->relay;
    r->mark_epoch = epoch;
    r->committed = committed;
    r->settled = settled;
    r->noted = noted;
    if (r->epoch == epoch)
        release(s, n);
}

void relay_effect(struct sim *s, struct node *n, const struct pair_effect *fx)
{
    struct relay *r = &n->relay;
    switch (fx->type) {
    case PX_SERVE:
        TRACE(s, process_name(n->self), "relay: serves in epoch %u", fx->epoch);
        r->epoch = fx->epoch;
        r->next_seq = 1;
        r->note_number = 0;
        r->delivering = r->quiescing = false;
        release(s, n);
        break;
    case PX_RELEASE_TAIL:
        if (r->epoch != fx->epoch)
            break;
        if (!r->delivering)
            rules_tail_released(s, n);
        r->delivering = true;
        r->quiescing = false;
        deliver_tick(s, n);
        break;
    case PX_QUIESCE:
        r->quiescing = true;
        r->idle_told = false;
        deliver_idle_check(s, n);
        break;
    default:
        assert(fx->type == PX_STEP_DOWN);
        relay_epoch_over(s, n);
    }
}

void relay_op_back(struct sim *s, struct node *n, struct op *op)
{
    struct relay *r = &n->relay;
    if (op->fate != OP_DURABLE || op->epoch != r->epoch || op->kind == OP_RELEASE_DUE ||
        op->kind == OP_PURGE) {
        if (op->kind == OP_ADD)
            clients_reply(s, op->session, false);
        op_free(op);
        return;
    }
    struct waiting *w = xcalloc(1, sizeof *w);
    w->op = op;
    if (r->tail)
        r->tail->next = w;
    else
        r->head = w;
    r->tail = w;
    release(s, n);
}

static struct slice keep(struct op *op, const char *text)
{
    size_t at = op->memory.len;
    buf_append_str(&op->memory, text);
    return slice_of((const uint8_t *)op->memory.data + at, op->memory.len - at);
}

static void add_recipient(struct op *op, uint64_t id, uint32_t index, unsigned number, int64_t wall)
{
    char address[64];
    snprintf(address, sizeof address, "r%u@example.net", number);
    op->row[op->n_rows++] = (struct row){.type = ROW_RECIPIENT,
                                         .recipient = {.id = id,
                                                       .index = index,
                                                       .state = RCPT_QUEUED,
                                                       .next_ms = wall,
                                                       .address = keep(op, address),
                                                       .domain = keep(op, "example.net")}};
}

bool relay_submit(struct sim *s, struct node *n, unsigned message, unsigned session)
{
    struct relay *r = &n->relay;
    if (!n->gate || !r->epoch)
        return false;
    if (s->now < n->low_until) { /* 452: below the disk reserve */
        s->count.effect[F_FULL]++;
        return false;
    }
    const struct message *m = &s->message[message];
    uint64_t id = MESSAGE_ID(r->epoch, r->next_seq++);
    struct op *op = xcalloc(1, sizeof *op);
    buf_init(&op->memory, 4096);
    buf_reserve(&op->memory, 1024); /* slices into it must stay */
    op->kind = OP_ADD;
    op->epoch = r->epoch;
    op->copy_id = id;
    op->session = session;
    char text[64];
    snprintf(text, sizeof text, "body of message %u", message);
    struct row_message row = {.id = id,
                              .creator = store_memory_meta(n->disk.store)->id,
                              .received_ms = node_wall(s, n),
                              .size = strlen(text),
                              .recipients = m->rcpts,
                              .sender = keep(op, "sender@example.com")};
    body_hash(message, row.sha256);
    if (m->hold)
        row.flags |= MSG_IN_DOUBT_HOLD;
    if (m->chunked) {
        row.chunks = 2;
        for (uint32_t i = 0; i < 2; i++)
            op->row[op->n_rows++] = (struct row){
                .type = ROW_CHUNK, .chunk = {.id = id, .index = i, .data = keep(op, text)}};
    } else {
        row.body = keep(op, text);
    }
    op->row[op->n_rows++] = (struct row){.type = ROW_MESSAGE, .message = row};
    for (uint32_t i = 0; i < m->rcpts; i++)
        add_recipient(op, id, i, message * 10 + i, node_wall(s, n));
    struct copy *c = books_new(s, id, message, n->self, m->rcpts);
    c->chunked = m->chunked;
    c->hold = m->hold;
    TRACE(s, process_name(n->self), "takes message %u as %llx", message, (unsigned long long)id);
    storage_submit(s, n, op);
    return true;
}

/* A failed recipient's sender is told, in the same transaction. */
void relay_add_bounce(struct sim *s, struct node *n, struct op *op, uint64_t parent, uint32_t index)
{
    struct relay *r = &n->relay;
    uint64_t id = MESSAGE_ID(r->epoch, r->next_seq++);
    char text[32];
    snprintf(text, sizeof text, "%u", index);
    struct row_message row = {.id = id,
                              .creator = store_memory_meta(n->disk.store)->id,
                              .flags = MSG_BOUNCE,
                              .received_ms = node_wall(s, n),
                              .recipients = 1,
                              .parent = parent,
                              .envid = keep(op, text),
                              .body = keep(op, "it did not work")};
    row.size = row.body.n;
    body_hash(parent * 8 + index + (1ull << 60), row.sha256);
    op->row[op->n_rows++] = (struct row){.type = ROW_MESSAGE, .message = row};
    add_recipient(op, id, 0, 0, node_wall(s, n));
    struct copy *c = books_new(s, id, index, n->self, 1);
    c->bounce = true;
    c->parent = parent;
}
