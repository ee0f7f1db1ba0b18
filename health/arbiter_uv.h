/* The arbiter that the configuration names, with the files, threads and connections that it needs:
 * health_uv.c knows it only by this. All on the health loop's thread. */
#ifndef BATON_HEALTH_ARBITER_UV_H
#define BATON_HEALTH_ARBITER_UV_H

#include <uv.h>

#include "health/arbiter.h"
#include "health/health_net_uv.h"

struct arbiter_uv;
struct arbiter_place {
    uv_loop_t *loop;
    const struct config *config; /* outlives it */
    unsigned self;
    struct health_net *net;
    struct arbiter_events events;
    /* Run the fence command, then arbiter_uv_fenced(); not run: kill it, if it still runs. */
    void (*fence)(void *ctx, bool run);
    void *fence_ctx;
};
/* NULL: err has one line. */
struct arbiter_uv *arbiter_uv_open(const struct arbiter_place *place, char *err, size_t n);
struct arbiter *arbiter_uv_core(struct arbiter_uv *u);
/* A datagram of the register, from another voter. */
void arbiter_uv_receive(struct arbiter_uv *u, unsigned from, const struct register_msg *m);
/* The fence command has ended; done: with exit 0. */
void arbiter_uv_fenced(struct arbiter_uv *u, bool done);
/* Handles close on the loop; nothing is told any more. Freed after the loop has ended. */
void arbiter_uv_close(struct arbiter_uv *u);
void arbiter_uv_free(struct arbiter_uv *u);
#endif
