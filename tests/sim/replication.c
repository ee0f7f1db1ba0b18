/* Model of the replication thread (replication/replication_uv.h): runs the real replica core,
 * carries its effects out in their order, dials until told to hang up. */
#include <assert.h>
#include <stdlib.h>

#include "sim/harm.h"

enum { TICK_MS = 50 };

static void drop_p(struct task *t)
{
    free(t->p);
}

static void report_arrives(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process], t->p);
    free(t->p);
}

static void report(struct sim *s, struct node *n, const struct pair_event *ev)
{
    struct pair_event *copy = xmalloc(sizeof *copy);
    *copy = *ev;
    struct task *t = node_mail(s, n, REPLICATION_TO_HEALTH, report_arrives);
    t->p = copy;
    t->drop = drop_p;
}

static void watermark_arrives(struct sim *s, struct task *t)
{
    uint64_t *x = t->p;
    relay_watermark(s, &s->node[t->process], (uint32_t)t->a, x[0], x[1], x[2]);
    free(x);
}

static void epoch_over_arrives(struct sim *s, struct task *t)
{
    relay_epoch_over(s, &s->node[t->process]);
}

static void dial_now(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    if (n->dialing && !n->link_out)
        net_dial(s, n->self, 1 - n->self);
}

void replication_dial_again(struct sim *s, struct node *n, uint64_t after)
{
    sim_at_thread(s, s->now + after, n->self, T_REPLICATION, dial_now);
    n->dial_backoff = n->dial_backoff * 2 < SEC ? n->dial_backoff * 2 : SEC;
}

static void watermark(struct sim *s, struct node *n, const struct replica_effect *fx)
{
    books_watermark(s, n, fx->epoch, fx->committed);
    uint64_t *x = xmalloc(3 * sizeof *x);
    x[0] = fx->committed;
    x[1] = fx->settled;
    x[2] = fx->noted;
    struct task *t = node_mail(s, n, TO_RELAY, watermark_arrives);
    t->a = fx->epoch;
    t->p = x;
    t->drop = drop_p;
}

static const char *frame_name(uint8_t type)
{
    static const char *const names[] = {"?",   "hello",     "welcome",  "refused", "batch",
                                        "ack", "committed", "unmerged", "merged",  "note"};
    return type < sizeof names / sizeof names[0] ? names[type] : "ping";
}

static void on_replica(void *ctx, const struct replica_effect *fx)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    const char *who = process_name(n->self);
    switch (fx->type) {
    case RX_SEND:
        if (fx->frame != FRAME_PING && fx->frame != FRAME_COMMITTED)
            TRACE(s, who, "sends %s on link %llu", frame_name(fx->frame),
                  (unsigned long long)fx->link);
        net_send(s, n->self, fx->link, fx->frame, fx->payload,
                 fx->shared ? slice_of(fx->shared->data, fx->shared->n) : (struct slice){0});
        break;
    case RX_DIAL:
        if (!n->dialing) {
            n->dialing = true;
            n->dial_backoff = 50 * MS;
            if (!n->link_out)
                replication_dial_again(s, n, 0);
        }
        break;
    case RX_HANG_UP:
        n->dialing = false;
        break;
    case RX_CLOSE:
        TRACE(s, who, "closes link %llu: %s", (unsigned long long)fx->link, fx->text);
        net_close(s, n->self, fx->link);
        break;
    case RX_STORE:
        storage_request(s, n, fx->request);
        break;
    case RX_WATERMARK:
        watermark(s, n, fx);
        break;
    case RX_EPOCH_OVER:
        node_mail(s, n, TO_RELAY, epoch_over_arrives);
        break;
    case RX_REPORT:
        if (fx->report.type == PE_EMPTY && fx->report.flag)
            harm_at_wipe(s, n); /* health hears of it before it hears the question */
        if (fx->report.type == PE_ATTACHED)
            rules_attached(s, n, &fx->report.follower);
        report(s, n, &fx->report);
        break;
    case RX_MENDED:
        rot_mended(s, n, fx->id, fx->mended);
        break;
    case RX_OP_DONE:
        TRACE(s, who, "operator: %s: %s", fx->ok ? "done" : "no", fx->text);
        break;
    case RX_LOG:
        TRACE(s, who, "replication: %s", fx->text);
        break;
    }
}

void replication_step(struct sim *s, struct node *n, struct replica_event *ev)
{
    if (ev->type == RE_FRAME && ev->frame == FRAME_NOTE)
        n->notes_at = s->now;
    if (ev->type == RE_FRAME)
        rules_frame(n, ev->link, ev->frame, ev->payload);
    replica_step(n->replica, ev, node_now(s, n), node_wall(s, n));
}

static void tick(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    replication_step(s, n, &(struct replica_event){.type = RE_TICK});
    operator_rejoin(s, n);
    sim_at_thread(s, s->now + TICK_MS * MS, n->self, T_REPLICATION, tick);
}

void replication_start(struct sim *s, struct node *n)
{
    struct replica_config c = {.self = n->self,
                               .standby_timeout_ns = s->plan.standby_timeout,
                               .retention_ms = s->plan.retention_ms,
                               .quarantine_ms = s->plan.quarantine_ms,
                               .ring_bytes = s->plan.ring_bytes,
                               .catch_up_bytes = s->plan.catch_up_bytes,
                               .window_bytes = s->plan.window_bytes};
    for (unsigned i = 0; i < sizeof c.random; i++)
        c.random[i] = (uint8_t)rng_u64(&s->rng);
    n->dialing = false;
    n->link_out = 0;
    n->replica =
        replica_new(&c, "sim", store_memory_meta(n->disk.store), on_replica, &s->box[n->self]);
    sim_at_thread(s, s->now + rng_below(&s->rng, TICK_MS * MS), n->self, T_REPLICATION, tick);
}

void replication_stop(struct node *n)
{
    replica_free(n->replica);
    n->replica = NULL;
}
