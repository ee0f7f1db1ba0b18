/* The health thread: its own loop, UDP sockets, timers, the arbiter; runs pair.c and
 * register.c (protocol 6: load elsewhere can't delay it). Other threads post events; effects for
 * them come through callbacks on the health thread, which must only post. */
#ifndef BATON_HEALTH_HEALTH_UV_H
#define BATON_HEALTH_HEALTH_UV_H

#include "health/arbiter.h"
#include "health/pair.h"
#include "node/base/config.h"

struct health;

struct health_hooks {
    void *ctx;
    /* Every pair effect that isn't health's own (all but HEARTBEAT, READ, CHANGE, BOOTSTRAP, LEASE,
     * VIEW). Health thread: post and return. */
    void (*effect)(void *ctx, const struct pair_effect *fx);
    /* Does the rest of the node make no progress (protocol 6)? Asked every tick; must not wait. May
     * be NULL. */
    bool (*stalled)(void *ctx);
    /* The published view changed (also at least once a second). Health thread. */
    void (*view)(void *ctx, const struct pair_view *v);
    /* Run the fence command (arbiter = none), then health_fenced(); not run: kill it, if it still
     * runs. Health thread: start and return. */
    void (*fence)(void *ctx, bool run);
};

/* Opens the arbiter (with the witness: the voter file `<store>.voter`), binds the health port on
 * every own address, starts the thread. NULL: err has one line. */
struct health *health_start(const struct config *c, const uint8_t cluster_key[32],
                            const struct health_hooks *hooks, char *err, size_t n);
void health_post(struct health *h, const struct pair_event *ev); /* any thread; copied */
/* The fence command has ended; done: with exit 0, in time. Any thread. */
void health_fenced(struct health *h, bool done);
void health_set_lsn(struct health *h, uint64_t own, uint64_t committed); /* any thread; atomic */
/* Does the right to deliver in that epoch still hold? now_ns: clock_boot_ns(). A thread that was
 * held up may not know yet that its epoch is over, when this node serves in a later one. Any
 * thread; read right before each act (protocol 6). */
bool health_may_deliver(const struct health *h, uint32_t epoch, uint64_t now_ns);
void health_view(const struct health *h,
                 struct pair_view *out); /* any thread: the last published view */
void health_arbiter(const struct health *h, struct arbiter_view *out); /* any thread */
bool health_alive(const struct health *h, uint64_t max_age_ns); /* its loop ran within max_age */
void health_stop(struct health *h);                             /* joins the thread */
#endif
