/* Bodies that failed their checksum before the final dot: their transaction was given up, and the
 * recipients wait here, in hand, until the other node's copy has been put back (protocol 3).
 * Neither copy right: the message is held, with the reason, and an alarm tells of it. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/delivery/delivery_private_uv.h"

static void unlink_mending(struct delivery *d, struct mending *m)
{
    struct mending **p = &d->mending;
    while (*p != m)
        p = &(*p)->next;
    *p = m->next;
    free(m);
}

/* Out of hand: what is due of it is read anew. */
static void let_go(struct delivery *d, struct mending *m)
{
    intake_leave_job(d, m->job);
    unlink_mending(d, m);
}

/* As an attempt that failed here: another one comes by itself. */
static void defer(struct delivery *d, struct mending *m)
{
    struct job *j = m->job;
    struct result results[CLIENT_RECIPIENTS_MAX];
    struct reply why;
    reply_set(&why, 0, "4.3.0",
              "the stored body is damaged, and the other node can't be asked now");
    for (unsigned i = 0; i < j->n; i++)
        results[i] = (struct result){.row = &j->rcpts[i], .reply = &why};
    outcome_record(d, NULL, j->letter, results, j->n);
    job_free(j);
    unlink_mending(d, m);
}

static void on_held(struct storage_op *op)
{
    struct delivery *d = op->owner;
    struct mending *next;
    if (op->result == OP_DURABLE && op->n_changed)
        d->totals.damaged++;
    for (struct mending *m = d->mending; m; m = next) {
        next = m->next;
        if (m->holding && m->job->letter->m.id == op->selector.id)
            let_go(d, m);
    }
    storage_op_free(op);
    delivery_unref(d);
}

static void hold(struct delivery *d, uint64_t id)
{
    log_error("delivery.held", "id=%016llx why=\"neither node has its body as it was accepted\"",
              (unsigned long long)id);
    struct storage_op *op = xcalloc(1, sizeof *op);
    op->type = OP_SELECT;
    op->action = SELECT_HOLD;
    op->selector.id = id;
    op->reason = SLICE_LIT("the body is damaged on both nodes, so it isn't sent");
    op->owner = d;
    op->done = on_held;
    d->refs++;
    queue_operate(d->queue, op);
}

void mend_begin(struct link *l, struct job *j)
{
    struct delivery *d = l->d;
    struct mending *m = xcalloc(1, sizeof *m);
    *m = (struct mending){
        .next = d->mending, .job = j, .since_ms = delivery_now(d), .generation = d->generation};
    d->mending = m;
    if (d->hooks.mend)
        d->hooks.mend(d->hooks.ctx, j->letter->m.id);
    else
        defer(d, m);
}

void mend_tick(struct delivery *d)
{
    struct mending *next;
    for (struct mending *m = d->mending; m; m = next) {
        next = m->next;
        if (!m->holding && delivery_now(d) - m->since_ms > MEND_MS)
            defer(d, m);
    }
}

void mend_reset(struct delivery *d)
{
    while (d->mending) {
        job_free(d->mending->job);
        unlink_mending(d, d->mending);
    }
}

void delivery_mended(struct delivery *d, uint64_t id, enum delivery_mend how)
{
    struct mending *next;
    if (!d->running)
        return;
    if (how == MEND_HOLD)
        hold(d, id);
    for (struct mending *m = d->mending; m; m = next) {
        next = m->next;
        if (m->job->letter->m.id != id || m->holding)
            continue;
        if (how == MEND_HOLD)
            m->holding = true;
        else if (how == MEND_RETRY)
            let_go(d, m);
        else
            defer(d, m);
    }
    if (how == MEND_RETRY)
        intake_scan_all(d);
}
