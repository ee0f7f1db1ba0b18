/* See arbiter.h: the question every kind is asked, and the register of three votes as one of them.
 * Core. */
#include "health/arbiter.h"

#include <assert.h>
#include <stdio.h>

void arbiter_ask(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns)
{
    assert(fx->type == PX_READ || fx->type == PX_CHANGE);
    if (a->ops->ask(a, fx, now_ns))
        return;
    struct pair_event ev = {.type = PE_REGISTER, .outcome = REG_NOT_DONE};
    a->events.event(a->events.ctx, &ev);
}

void arbiter_unask(struct arbiter *a)
{
    if (a->ops->unask)
        a->ops->unask(a);
}

/* ---- three votes ---- */

static struct arbiter_voters *voters(const struct arbiter *a)
{
    return (struct arbiter_voters *)a;
}

static bool voters_ask(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns)
{
    uint64_t timeout = fx->until_ns > now_ns ? fx->until_ns - now_ns : 0;
    struct reg *reg = voters(a)->reg;
    return fx->type == PX_READ ? register_read(reg, timeout, now_ns)
                               : register_change(reg, fx->from_tag, &fx->record, timeout, now_ns);
}

static void voters_bootstrap(struct arbiter *a, const struct record *first, uint64_t op,
                             uint64_t now_ns)
{
    char why[160];
    bool ok = register_bootstrap(voters(a)->reg, first, why, sizeof why, now_ns);
    if (ok)
        snprintf(why, sizeof why, "the first record is written: %c is primary, alone",
                 first->primary == NODE_A ? 'a' : 'b');
    a->events.bootstrapped(a->events.ctx, op, ok, why);
}

static void voters_tick(struct arbiter *a, uint64_t now_ns)
{
    register_tick(voters(a)->reg, now_ns);
}

static void voters_heard(struct arbiter *a, uint64_t now_ns)
{
    (void)a; /* its votes are all that counts */
    (void)now_ns;
}

static void voters_set_virgin(struct arbiter *a, bool virgin)
{
    register_set_virgin(voters(a)->reg, virgin);
}

static bool voters_all_virgin(const struct arbiter *a, uint64_t now_ns)
{
    return register_all_virgin(voters(a)->reg, now_ns);
}

static void voters_view(const struct arbiter *a, uint64_t now_ns, struct arbiter_view *out)
{
    *out = (struct arbiter_view){0};
    register_view(voters(a)->reg, now_ns, out->reachable, out->voting);
}

void arbiter_voters_init(struct arbiter_voters *v, struct reg *reg,
                         const struct arbiter_events *events)
{
    static const struct arbiter_ops ops = {
        .ask = voters_ask,
        .bootstrap = voters_bootstrap,
        .tick = voters_tick,
        .heard = voters_heard,
        .set_virgin = voters_set_virgin,
        .all_virgin = voters_all_virgin,
        .view = voters_view,
    };
    *v = (struct arbiter_voters){{.ops = &ops, .events = *events}, .reg = reg};
}

bool arbiter_voters_result(struct arbiter_voters *v, const struct register_fx *fx)
{
    struct pair_event ev = {.record = fx->record};
    switch (fx->type) {
    case REG_FX_SEND:
    case REG_FX_PERSIST:
        return false;
    case REG_FX_RESULT:
        ev.type = PE_REGISTER;
        ev.outcome = (int)fx->outcome;
        break;
    case REG_FX_HINT:
        ev.type = PE_HINT;
        break;
    case REG_FX_BOOTSTRAPPED:
        ev.type = PE_BOOTSTRAPPED;
        break;
    }
    v->arbiter.events.event(v->arbiter.events.ctx, &ev);
    return true;
}
