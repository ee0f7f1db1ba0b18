/* See arbiter_none.h. Core. */
#include "health/arbiter_none.h"

#include <stdio.h>

static struct arbiter_none *none_of(struct arbiter *a)
{
    return (struct arbiter_none *)a;
}

static bool none_ask(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns)
{
    struct arbiter_none *n = none_of(a);
    judge_begin(n->judge, fx->warrant, now_ns);
    uint64_t timeout = fx->until_ns > now_ns ? fx->until_ns - now_ns : 0;
    struct reg *reg = n->voters.reg;
    return fx->type == PX_READ ? register_read(reg, timeout, now_ns)
                               : register_change(reg, fx->from_tag, &fx->record, timeout, now_ns);
}

static void none_unask(struct arbiter *a)
{
    judge_end(none_of(a)->judge); /* the operation itself ends by its time-out, or by the other */
}

static void none_tick(struct arbiter *a, uint64_t now_ns)
{
    struct arbiter_none *n = none_of(a);
    n->now = now_ns;
    register_tick(n->voters.reg, now_ns);
    judge_tick(n->judge, now_ns);
}

static void none_heard(struct arbiter *a, uint64_t now_ns)
{
    judge_heard(none_of(a)->judge, now_ns);
}

static void none_view(const struct arbiter *a, uint64_t now_ns, struct arbiter_view *out)
{
    const struct arbiter_none *n = (const struct arbiter_none *)a;
    static const char *const fence[] = {[FENCE_NEVER] = "",
                                        [FENCE_RUNS] = "; the fence command runs",
                                        [FENCE_DONE] = "; the last fence command exited 0",
                                        [FENCE_FAILED] = "; the last fence command FAILED",
                                        [FENCE_ENDED] = "; the last fence command was ended: the "
                                                        "other node was heard"};
    struct judge_view v;
    *out = (struct arbiter_view){0};
    register_view(n->voters.reg, now_ns, out->reachable, out->voting);
    judge_view(n->judge, now_ns, &v);
    /* There is nobody to reach but what the probes ask. */
    out->reachable[WITNESS] = v.answering > 0;
    out->voting[WITNESS] = false;
    if (v.automatic)
        snprintf(out->detail, sizeof out->detail, "%u of %u probes answer%s", v.answering, v.probes,
                 fence[v.fence]);
    else
        snprintf(out->detail, sizeof out->detail, "takeover = \"manual\": an operator decides");
}

static void on_judge(void *ctx, const struct judge_fx *fx)
{
    struct arbiter_none *n = ctx;
    n->driver(n->ctx, fx);
    if (fx->type == JUDGE_FX_VOTE) {
        register_receive(n->voters.reg, WITNESS, &fx->msg, n->now);
    } else if (fx->type == JUDGE_FX_GIVE_UP) {
        register_give_up(n->voters.reg);
    } else if (fx->type == JUDGE_FX_JUDGED) {
        struct pair_event ev = {.type = PE_JUDGED, .outcome = (int)fx->judgement};
        n->voters.arbiter.events.event(n->voters.arbiter.events.ctx, &ev);
    }
}

bool arbiter_none_took(struct arbiter_none *n, const struct register_fx *fx, uint64_t now_ns)
{
    n->now = now_ns > n->now ? now_ns : n->now;
    if (fx->type == REG_FX_RESULT)
        judge_end(n->judge);
    if (fx->type != REG_FX_SEND || fx->to != WITNESS)
        return false;
    judge_ask(n->judge, &fx->msg);
    return true;
}

void arbiter_none_init(struct arbiter_none *n, struct reg *reg, const struct judge_config *c,
                       const struct arbiter_events *events, judge_emit driver, void *ctx)
{
    *n = (struct arbiter_none){.driver = driver, .ctx = ctx};
    arbiter_voters_init(&n->voters, reg, events);
    n->ops = *n->voters.arbiter.ops;
    n->ops.ask = none_ask;
    n->ops.unask = none_unask;
    n->ops.tick = none_tick;
    n->ops.heard = none_heard;
    n->ops.view = none_view;
    n->voters.arbiter.ops = &n->ops;
    register_set_none(reg);
    n->judge = judge_new(c, on_judge, n);
}

void arbiter_none_done(struct arbiter_none *n)
{
    judge_free(n->judge);
    n->judge = NULL;
}
