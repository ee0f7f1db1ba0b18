/* See queue_uv.h. Every operation goes to the storage thread and comes back when it is durable
 * here; it then waits in order of its position until the watermarks (replication's; on a single
 * node what is durable) pass it: additions and operators' words for `committed`, outcomes for
 * `settled` (protocol 4.3, 4.5). When the epoch ends first, its fate is undecided.
 *
 * Lifetimes: an operation belongs to the queue from queue_*() to its done callback; callbacks are
 * never called from within the function that was given them. */
#include "node/queue/queue_uv.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"

enum {
    RELEASE_MS = 1000,
    SET_BACK_MS =
        60000,          /* a wall clock that was set back by more: what it had put off is redated */
    PURGE_MS = 60000,   /* at most; a short retention is looked after more often */
    OUTCOMES_MAX = 256, /* that share a transaction by waiting; more go at once */
};

enum mail_kind { /* mail.type of what comes back */
                 MAIL_ADD = 1,
                 MAIL_CHUNK,
                 MAIL_OUTCOME,
                 MAIL_NOTE,
                 MAIL_OPERATE,
                 MAIL_RELEASE,
                 MAIL_SILENT, /* nobody waits for it: purge, abort */
                 MAIL_READ,
};

struct waiting { /* op->ctx of what queue_*() made */
    queue_done done;
    void *ctx;
    size_t bytes;
    uint64_t body_sum; /* see queued */
};

struct line { /* operations by position */
    struct storage_op *head, *tail;
};

struct queue {
    uv_loop_t *loop;
    struct storage *storage;
    struct events *events;
    struct mailbox *mail;
    uv_timer_t outcome_timer, release_timer, purge_timer;
    unsigned closing;
    uint64_t outcome_delay_ms, retention_ms;
    uint32_t epoch; /* 0: not serving */
    uint64_t sequence, committed, settled;
    uint64_t merged; /* rows up to here came by a merge, and aren't committed yet; 0: none */
    bool caught_up;  /* what was here before this epoch is committed in it */
    bool releasing, keeps_tombstones;
    uint64_t ahead_ms;    /* no schedule of ours puts anything further ahead */
    int64_t wall_less_ms; /* wall clock less the one that only runs on, at the epoch's last look */
    struct line to_commit, to_settle;
    struct line outcomes; /* not yet given to storage */
    unsigned n_outcomes;
    queue_new_fn on_new;
    void *new_ctx;
    queue_scan_fn on_scan;
    void *scan_ctx;
    void (*on_quiet)(void *ctx);
    void *quiet_ctx;
    struct queue_stats stats;
};

static void line_add(struct line *l, struct storage_op *op)
{
    op->mail.next = NULL;
    if (l->tail)
        l->tail->mail.next = &op->mail;
    else
        l->head = op;
    l->tail = op;
}

static struct storage_op *line_take(struct line *l)
{
    struct storage_op *op = l->head;
    if (!op)
        return NULL;
    l->head = (struct storage_op *)op->mail.next;
    if (!l->head)
        l->tail = NULL;
    op->mail.next = NULL;
    return op;
}

static void scan(struct queue *q)
{
    if (q->on_scan)
        q->on_scan(q->scan_ctx);
}

/* --- building operations --- */

static struct storage_op *op_new(struct queue *q, enum storage_op_type type, enum mail_kind kind,
                                 unsigned n_rows)
{
    struct storage_op *op = xcalloc(1, sizeof *op);
    op->type = type;
    op->mail.type = (int)kind;
    op->reply_to = q->mail;
    op->epoch = q->epoch;
    op->rows = xcalloc(n_rows ? n_rows : 1, sizeof *op->rows);
    return op;
}

static struct waiting *wait_for(struct queue *q, struct storage_op *op, queue_done done, void *ctx)
{
    struct waiting *w = xcalloc(1, sizeof *w);
    w->done = done;
    w->ctx = ctx;
    w->bytes = op->memory.cap + op->n_rows * sizeof *op->rows;
    op->ctx = w;
    q->stats.waiting_bytes += w->bytes;
    return w;
}

/* Copies *s into memory that was reserved, and points it there. */
static void take_slice(struct buf *memory, struct slice *s)
{
    assert(memory->len + s->n <= memory->cap || s->n == 0);
    size_t at = memory->len, n = s->n;
    buf_append_slice(memory, *s);
    *s = slice_of(n ? memory->data + at : NULL, n);
}

static size_t message_bytes(const struct row_message *m)
{
    return m->sender.n + m->envid.n + m->campaign.n + m->origin.n + m->prefix.n + m->body.n;
}

static size_t recipient_bytes(const struct row_recipient *p)
{
    return p->address.n + p->domain.n + p->orcpt.n + p->enhanced.n + p->reply.n + p->remote.n;
}

static void add_message(struct storage_op *op, const struct row_message *m)
{
    struct row *r = &op->rows[op->n_rows++];
    *r = (struct row){.type = ROW_MESSAGE, .message = *m};
    struct slice *fields[] = {&r->message.sender, &r->message.envid,  &r->message.campaign,
                              &r->message.origin, &r->message.prefix, &r->message.body};
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++)
        take_slice(&op->memory, fields[i]);
}

static void add_recipient(struct storage_op *op, const struct row_recipient *p)
{
    struct row *r = &op->rows[op->n_rows++];
    *r = (struct row){.type = ROW_RECIPIENT, .recipient = *p};
    struct slice *fields[] = {&r->recipient.address,  &r->recipient.domain, &r->recipient.orcpt,
                              &r->recipient.enhanced, &r->recipient.reply,  &r->recipient.remote};
    for (unsigned i = 0; i < sizeof fields / sizeof *fields; i++)
        take_slice(&op->memory, fields[i]);
}

static void grow(struct buf *memory, size_t n)
{
    memory->max = memory->len + n > memory->cap ? memory->len + n : memory->cap;
    bool ok = buf_reserve(memory, n);
    assert(ok);
    (void)ok;
}

static void reserve(struct buf *memory, size_t n)
{
    buf_init(memory, n ? n : 1);
    grow(memory, n);
}

static void send_outcomes(struct queue *q)
{
    uv_timer_stop(&q->outcome_timer);
    q->n_outcomes = 0;
    for (struct storage_op *op; (op = line_take(&q->outcomes));)
        storage_submit(q->storage, op);
}

void queue_add(struct queue *q, const struct row_message *m, const struct row_recipient *rcpts,
               unsigned n, struct buf *body, uint64_t body_sum, queue_done done, void *ctx)
{
    struct storage_op *op = op_new(q, OP_ADD, MAIL_ADD, n + 1);
    size_t bytes = message_bytes(m), body_n = body->len;
    assert(!m->body.n);
    for (unsigned i = 0; i < n; i++)
        bytes += recipient_bytes(&rcpts[i]);
    op->memory = *body; /* and the rest behind it */
    buf_init(body, body->max);
    grow(&op->memory, bytes);
    add_message(op, m);
    op->rows[0].message.body = slice_of(body_n ? op->memory.data : NULL, body_n);
    op->rows[0].message.recipients = n;
    for (unsigned i = 0; i < n; i++) {
        add_recipient(op, &rcpts[i]);
        assert(rcpts[i].id == m->id);
    }
    wait_for(q, op, done, ctx)->body_sum = body_sum;
    q->stats.waiting_commit++;
    storage_submit(q->storage, op);
    if (q->n_outcomes) /* a transaction for them to share */
        send_outcomes(q);
}

void queue_add_chunk(struct queue *q, uint64_t id, uint32_t index, struct slice data,
                     queue_done done, void *ctx)
{
    assert(data.n <= BODY_CHUNK_BYTES);
    struct storage_op *op = op_new(q, OP_ADD, MAIL_CHUNK, 1);
    reserve(&op->memory, data.n);
    op->rows[0] = (struct row){.type = ROW_CHUNK, .chunk = {.id = id, .index = index}};
    op->rows[0].chunk.data = data;
    take_slice(&op->memory, &op->rows[0].chunk.data);
    op->n_rows = 1;
    wait_for(q, op, done, ctx);
    storage_submit(q->storage, op);
}

void queue_abort(struct queue *q, uint64_t id)
{
    if (!q->epoch || MESSAGE_EPOCH(id) != q->epoch)
        return; /* not ours any more: its chunks go with the purge of orphans */
    struct storage_op *op = op_new(q, OP_ADD, MAIL_SILENT, 1);
    int64_t now = clock_wall_ms();
    op->rows[0] = (struct row){
        .type = ROW_MESSAGE,
        .message = {.id = id, .state = MESSAGE_DONE, .received_ms = now, .done_ms = now}};
    op->n_rows = 1;
    storage_submit(q->storage, op);
}

static void on_outcome_timer(uv_timer_t *t)
{
    send_outcomes(t->data);
}

void queue_outcome(struct queue *q, const struct row_recipient *rcpts, unsigned n,
                   const struct row_message *bounce, const struct row_recipient *bounce_rcpt,
                   queue_done done, void *ctx)
{
    struct storage_op *op = op_new(q, OP_OUTCOME, MAIL_OUTCOME, n + 2);
    size_t bytes = bounce ? message_bytes(bounce) + recipient_bytes(bounce_rcpt) : 0;
    for (unsigned i = 0; i < n; i++)
        bytes += recipient_bytes(&rcpts[i]);
    reserve(&op->memory, bytes);
    for (unsigned i = 0; i < n; i++)
        add_recipient(op, &rcpts[i]);
    if (bounce) {
        add_message(op, bounce);
        add_recipient(op, bounce_rcpt);
    }
    wait_for(q, op, done, ctx);
    line_add(&q->outcomes, op);
    q->n_outcomes++;
    if (q->outcome_delay_ms == 0 || q->n_outcomes >= OUTCOMES_MAX)
        send_outcomes(q);
    else if (!uv_is_active((uv_handle_t *)&q->outcome_timer))
        uv_timer_start(&q->outcome_timer, on_outcome_timer, q->outcome_delay_ms, 0);
}

void queue_note(struct queue *q, const struct row_recipient *rcpts, unsigned n, bool noted,
                queue_done done, void *ctx)
{
    struct storage_op *op = op_new(q, OP_NOTE, MAIL_NOTE, n);
    for (unsigned i = 0; i < n; i++)
        op->rows[op->n_rows++] =
            (struct row){.type = ROW_RECIPIENT,
                         .recipient = {.id = rcpts[i].id,
                                       .index = rcpts[i].index,
                                       .in_doubt = noted ? DOUBT_NOTED : DOUBT_NONE}};
    wait_for(q, op, done, ctx);
    storage_submit(q->storage, op);
}

void queue_operate(struct queue *q, struct storage_op *op)
{
    op->mail.type = MAIL_OPERATE;
    op->reply_to = q->mail;
    op->epoch = q->epoch;
    storage_submit(q->storage, op);
}

/* --- what comes back --- */

static void hand_on(struct queue *q, struct storage_op *op, uint64_t body_sum)
{
    struct queued *fresh = xcalloc(1, sizeof *fresh);
    fresh->message = op->rows[0].message;
    fresh->n_rcpts = op->n_rows - 1;
    fresh->rcpts = xcalloc(fresh->n_rcpts ? fresh->n_rcpts : 1, sizeof *fresh->rcpts);
    for (unsigned i = 0; i < fresh->n_rcpts; i++)
        fresh->rcpts[i] = op->rows[i + 1].recipient;
    fresh->body_sum = body_sum;
    fresh->memory = op->memory; /* the slices point into it */
    buf_init(&op->memory, 0);
    q->on_new(q->new_ctx, fresh);
}

void queued_free(struct queued *x)
{
    if (!x)
        return;
    free(x->rcpts);
    buf_free(&x->memory);
    free(x);
}

static void tell_cancelled(struct queue *q, const struct storage_op *op)
{
    struct wire_reader r = wire_read(buf_slice(&op->changed));
    int64_t now = clock_wall_ms();
    struct row m, p;
    while (r.n && row_decode(&r, &m) && row_decode(&r, &p)) {
        struct event ev = {.type = EVENT_CANCELLED,
                           .id = m.message.id,
                           .sender = m.message.sender,
                           .recipient = p.recipient.address,
                           .campaign = m.message.campaign,
                           .attempt = p.recipient.attempts,
                           .delay_ms = now - m.message.received_ms};
        if (q->events)
            events_emit(q->events, op->epoch, &ev);
    }
}

static void tell_suppressed(struct queue *q, const struct storage_op *op)
{
    const struct row_message *m = &op->rows[0].message;
    for (unsigned i = 1; i < op->n_rows; i++) {
        const struct row_recipient *p = &op->rows[i].recipient;
        struct event ev = {.type = EVENT_SUPPRESSED,
                           .id = m->id,
                           .sender = m->sender,
                           .recipient = p->address,
                           .campaign = m->campaign,
                           .reply = p->reply,
                           .delay_ms = 0};
        if (p->state == RCPT_SUPPRESSED && q->events)
            events_emit(q->events, op->epoch, &ev);
    }
}

/* The operation's end: result is final. */
static void end(struct queue *q, struct storage_op *op, enum queue_outcome outcome)
{
    int kind = op->mail.type;
    if (kind == MAIL_OPERATE) {
        op->result = outcome == QUEUE_OK            ? OP_DURABLE
                     : outcome == QUEUE_NOT_PRIMARY ? OP_NOT_PRIMARY
                                                    : OP_FAILED;
        /* Also after a hold: delivery lets go of what it has read and not begun. */
        bool changed = outcome == QUEUE_OK && (op->type == OP_OPSTATE || op->n_changed);
        if (outcome == QUEUE_OK && op->type == OP_SELECT && op->action == SELECT_CANCEL)
            tell_cancelled(q, op);
        op->done(op);
        if (changed)
            scan(q);
        return;
    }
    struct waiting *w = op->ctx;
    uint64_t n_changed = op->n_changed, body_sum = w ? w->body_sum : 0;
    if (kind == MAIL_ADD) {
        q->stats.waiting_commit--;
        if (outcome == QUEUE_OK)
            q->stats.accepted_total++;
    }
    if (kind == MAIL_RELEASE) {
        if (outcome == QUEUE_OK && n_changed)
            scan(q);
    }
    if (w) {
        q->stats.waiting_bytes -= w->bytes;
        if (w->done)
            w->done(w->ctx, outcome, n_changed);
        free(w);
    }
    /* After the reply: what delivery does with it may take its time. */
    if (kind == MAIL_ADD && outcome == QUEUE_OK)
        tell_suppressed(q, op);
    if (kind == MAIL_ADD && outcome == QUEUE_OK && q->on_new && q->epoch == op->epoch)
        hand_on(q, op, body_sum);
    storage_op_free(op);
    if (kind == MAIL_ADD && !q->stats.waiting_commit && q->on_quiet)
        q->on_quiet(q->quiet_ctx);
}

static void release(struct queue *q, struct line *l, uint64_t up_to)
{
    while (l->head && l->head->pos.lsn <= up_to) {
        q->caught_up = true;
        end(q, line_take(l), QUEUE_OK);
    }
}

static void abandon(struct queue *q, struct line *l)
{
    struct line taken = *l;
    *l = (struct line){NULL, NULL};
    for (struct storage_op *op; (op = line_take(&taken));)
        end(q, op, QUEUE_UNDECIDED);
}

static void came_back(struct queue *q, struct storage_op *op)
{
    if (op->mail.type == MAIL_RELEASE)
        q->releasing = false;
    if (op->result == OP_NOT_PRIMARY) {
        end(q, op, QUEUE_NOT_PRIMARY);
        return;
    }
    if (op->result == OP_FAILED || !q->epoch || op->epoch != q->epoch) {
        end(q, op, QUEUE_UNDECIDED);
        return;
    }
    bool settles = op->mail.type == MAIL_OUTCOME;
    struct line *l = settles ? &q->to_settle : &q->to_commit;
    /* Operators' searches come back later than what was submitted after them: in order all the
     * same, by the position they were given. */
    assert(!l->tail || l->tail->pos.lsn <= op->pos.lsn);
    line_add(l, op);
    release(q, l, settles ? q->settled : q->committed);
}

static void on_mail(void *ctx, struct mail *m)
{
    struct queue *q = ctx;
    if (m->type == MAIL_READ) {
        struct storage_read *r = (struct storage_read *)m;
        r->done(r);
        return;
    }
    came_back(q, (struct storage_op *)m);
}

void queue_watermark(struct queue *q, uint32_t epoch, uint64_t committed, uint64_t settled)
{
    if (!q->epoch || epoch != q->epoch)
        return;
    bool rose = committed > q->committed;
    q->committed = committed > q->committed ? committed : q->committed;
    q->settled = settled > q->settled ? settled : q->settled;
    bool fresh = !q->caught_up;
    release(q, &q->to_commit, q->committed);
    release(q, &q->to_settle, q->settled);
    bool merged = q->merged && q->committed >= q->merged;
    if (merged)
        q->merged = 0;
    /* What lay here before the epoch, or was merged, may have become committed only now. */
    if ((fresh && rose) || merged)
        scan(q);
}

void queue_merged(struct queue *q, struct pos end)
{
    if (!q->epoch || end.epoch != q->epoch)
        return;
    if (end.lsn <= q->committed)
        scan(q);
    else if (end.lsn > q->merged)
        q->merged = end.lsn;
}

/* --- roles and timers --- */

static int64_t wall_less_boot_ms(void)
{
    return clock_wall_ms() - (int64_t)(clock_boot_ns() / 1000000);
}

/* What was put off by a clock that was ahead (the other node's, or this one's before it was set
 * right) must not wait until that clock's time comes. */
static void redate(struct queue *q)
{
    struct storage_op *op = op_new(q, OP_SELECT, MAIL_RELEASE, 0);
    op->selector = (struct selector){.all = true, .ahead_ms = q->ahead_ms};
    op->action = SELECT_REDATE;
    storage_submit(q->storage, op);
}

static void on_release_timer(uv_timer_t *t)
{
    struct queue *q = t->data;
    int64_t less = wall_less_boot_ms();
    if (q->epoch && less < q->wall_less_ms - SET_BACK_MS)
        redate(q);
    q->wall_less_ms = less;
    if (!q->epoch || q->releasing)
        return;
    q->releasing = true;
    struct storage_op *op = op_new(q, OP_RELEASE_DUE, MAIL_RELEASE, 0);
    storage_submit(q->storage, op);
}

static void on_purge_timer(uv_timer_t *t)
{
    struct queue *q = t->data;
    char value[32];
    if (!q->epoch || q->keeps_tombstones)
        return;
    int n = snprintf(value, sizeof value, "%" PRId64, clock_wall_ms() - (int64_t)q->retention_ms);
    struct storage_op *op = op_new(q, OP_OPSTATE, MAIL_SILENT, 1);
    reserve(&op->memory, (size_t)n);
    op->rows[0] = (struct row){.type = ROW_OPSTATE, .opstate.key = SLICE_LIT("purge")};
    op->rows[0].opstate.value = slice_of(value, (size_t)n);
    take_slice(&op->memory, &op->rows[0].opstate.value);
    op->n_rows = 1;
    storage_submit(q->storage, op);
}

void queue_serve(struct queue *q, uint32_t epoch)
{
    assert(epoch);
    if (q->epoch == epoch)
        return;
    if (q->epoch)
        queue_epoch_over(q);
    q->epoch = epoch;
    q->sequence = 0;
    q->committed = q->settled = q->merged = 0;
    q->caught_up = false;
    q->wall_less_ms = INT64_MAX; /* whose clock put off what lies here isn't known: see redate() */
    uv_timer_start(&q->release_timer, on_release_timer, RELEASE_MS, RELEASE_MS);
    uint64_t every = q->retention_ms / 8 < PURGE_MS ? q->retention_ms / 8 : PURGE_MS;
    every = every < 1000 ? 1000 : every;
    uv_timer_start(&q->purge_timer, on_purge_timer, every, every);
    scan(q);
}

void queue_epoch_over(struct queue *q)
{
    q->epoch = 0;
    uv_timer_stop(&q->release_timer);
    uv_timer_stop(&q->purge_timer);
    uv_timer_stop(&q->outcome_timer);
    q->n_outcomes = 0;
    abandon(q, &q->outcomes);
    abandon(q, &q->to_commit);
    abandon(q, &q->to_settle);
}

void queue_let_purge(struct queue *q, bool may)
{
    q->keeps_tombstones = !may;
}

uint32_t queue_epoch(const struct queue *q)
{
    return q->epoch;
}

uint64_t queue_next_id(struct queue *q)
{
    return MESSAGE_ID(q->epoch, ++q->sequence);
}

void queue_on_new(struct queue *q, queue_new_fn fn, void *ctx)
{
    q->on_new = fn;
    q->new_ctx = ctx;
}

void queue_on_scan(struct queue *q, queue_scan_fn fn, void *ctx)
{
    q->on_scan = fn;
    q->scan_ctx = ctx;
}

void queue_on_quiet(struct queue *q, void (*fn)(void *ctx), void *ctx)
{
    q->on_quiet = fn;
    q->quiet_ctx = ctx;
}

void queue_read(struct queue *q, unsigned lane, struct storage_read *r)
{
    r->mail.type = MAIL_READ;
    r->reply_to = q->mail;
    if (r->type == READ_DUE) /* lsn 0 is no change: 1 lets nothing through that may wait */
        r->up_to_lsn = q->committed ? q->committed : 1;
    storage_read(q->storage, lane, r);
}

void queue_stats(const struct queue *q, struct queue_stats *out)
{
    *out = q->stats;
}

struct queue *queue_new(uv_loop_t *loop, struct storage *storage, struct events *events,
                        const struct config *c)
{
    struct queue *q = xcalloc(1, sizeof *q);
    q->loop = loop;
    q->storage = storage;
    q->events = events;
    q->outcome_delay_ms = c->queue.outcome_delay_ms;
    q->retention_ms = c->queue.retention_ms;
    q->ahead_ms = c->queue.quarantine_ms > c->queue.in_doubt_wait_ms ? c->queue.quarantine_ms
                                                                     : c->queue.in_doubt_wait_ms;
    for (unsigned i = 0; i < c->delivery.n_retry; i++)
        if (c->delivery.retry_ms[i] > q->ahead_ms)
            q->ahead_ms = c->delivery.retry_ms[i];
    q->ahead_ms += q->ahead_ms / 5 + SET_BACK_MS; /* retries vary by a tenth */
    q->mail = mailbox_new(loop, on_mail, q);
    uv_timer_t *timers[] = {&q->outcome_timer, &q->release_timer, &q->purge_timer};
    for (unsigned i = 0; i < 3; i++) {
        uv_timer_init(loop, timers[i]);
        timers[i]->data = q;
    }
    return q;
}

static void closed(uv_handle_t *h)
{
    struct queue *q = h->data;
    if (--q->closing == 0)
        free(q);
}

void queue_close(struct queue *q)
{
    queue_epoch_over(q);
    mailbox_close(q->mail);
    q->closing = 3;
    uv_close((uv_handle_t *)&q->outcome_timer, closed);
    uv_close((uv_handle_t *)&q->release_timer, closed);
    uv_close((uv_handle_t *)&q->purge_timer, closed);
}
