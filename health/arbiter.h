/* Whatever keeps the record (protocol 5), as the pair core sees it: the register of three votes,
 * etcd's one key, or the two nodes by themselves. pair.c asks by effects and is answered by events;
 * here one struct of operations stands between, so that a driver, or the simulator, plugs in any of
 * them. Core. */
#ifndef BATON_HEALTH_ARBITER_H
#define BATON_HEALTH_ARBITER_H

#include "health/pair.h"
#include "health/register.h"

/* For status: who answered within the last 3 s and votes; the arbiter is at WITNESS. */
struct arbiter_view {
    bool reachable[VOTERS], voting[VOTERS];
    bool behind; /* it holds less than this node has seen: restored from a backup, or emptied */
    char detail[200]; /* one line for a person: which endpoint, its error; "" where there is none */
};

/* What comes back; either may be called from within arbiter_ask() or arbiter_bootstrap(). */
struct arbiter_events {
    void *ctx;
    /* PE_REGISTER for each operation begun; PE_HINT, PE_BOOTSTRAPPED, PE_SEEN, PE_BEHIND. */
    void (*event)(void *ctx, const struct pair_event *ev);
    /* pair_may_give_back(), asked right before an arbiter that lost what it held gets it back.
     * NULL: never. */
    bool (*may_give_back)(void *ctx, uint64_t now_ns);
    /* The answer to PX_BOOTSTRAP. op: the operator's token, 0: none waits. */
    void (*bootstrapped)(void *ctx, uint64_t op, bool ok, const char *text);
};

struct arbiter;
struct arbiter_ops {
    /* PX_READ or PX_CHANGE begins. False: it can't now, and no event follows. */
    bool (*ask)(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns);
    void (*unask)(struct arbiter *a); /* PX_UNASK; NULL: its votes never rest on a judgement */
    void (*bootstrap)(struct arbiter *a, const struct record *first, uint64_t op, uint64_t now_ns);
    void (*tick)(struct arbiter *a, uint64_t now_ns);
    void (*heard)(struct arbiter *a, uint64_t now_ns); /* a proven sign of life of the other node */
    void (*set_virgin)(struct arbiter *a, bool virgin); /* the own store never held a history */
    /* Nothing that keeps the record ever held one, nor did the own store. */
    bool (*all_virgin)(const struct arbiter *a, uint64_t now_ns);
    void (*view)(const struct arbiter *a, uint64_t now_ns, struct arbiter_view *out);
};
/* First member of what implements it. */
struct arbiter {
    const struct arbiter_ops *ops;
    struct arbiter_events events;
};

/* Begins PX_READ or PX_CHANGE; what can't begin is answered REG_NOT_DONE. */
void arbiter_ask(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns);

void arbiter_unask(struct arbiter *a);

/* The register of three votes. Its messages and writes are its driver's; results go through
 * arbiter_voters_result(). */
struct arbiter_voters {
    struct arbiter arbiter;
    struct reg *reg;
};
void arbiter_voters_init(struct arbiter_voters *v, struct reg *reg,
                         const struct arbiter_events *events);
/* True: fx was a result, and has been told; else it is for the driver (SEND, PERSIST). */
bool arbiter_voters_result(struct arbiter_voters *v, const struct register_fx *fx);
#endif
