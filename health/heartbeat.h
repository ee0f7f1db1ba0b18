/* Which heartbeats count as a sign of life (protocol 6: old, replayed, forged, foreign: no effect).
 * Core. The driver has checked who sent it; this rule decides whether it was sent lately.
 *
 * What a heartbeat proves by itself is only that the peer once sent it. Two things make it a sign
 * of life: it is newer than all heard before, by (boot counter, sequence); and it repeats our own
 * boot and a sequence that we sent lately, so it was made after that. Recorded datagrams of an
 * earlier life of ours, or of a path that was cut for a while, fail the second. A first contact
 * can't have an echo yet: it is answered (so the next one has), and counts for nothing else.
 *
 * "Lately" is counted in our own sequence numbers, not in time: a node that was frozen has sent
 * nothing meanwhile, so what waits in its sockets when it wakes still counts (incident 24). */
#ifndef BATON_HEALTH_HEARTBEAT_H
#define BATON_HEALTH_HEARTBEAT_H

#include "health/pair.h"

struct heartbeat_guard {
    uint64_t own_boot, own_seq; /* own_seq: newest sent */
    uint64_t window;            /* echoes of our last `window` heartbeats are recent */
    uint64_t peer_counter, peer_boot, peer_seq; /* newest heard, alive or not; counter 0: none */
    bool alive;                                 /* the newest heard was a sign of life */
};

enum heartbeat_verdict {
    HEARTBEAT_ALIVE,   /* give it to the pair core */
    HEARTBEAT_CONTACT, /* newer than all before, but doesn't prove that it was sent lately: answer
                        */
    HEARTBEAT_OLD,     /* heard already, or overtaken, or of an earlier boot */
};

/* takeover_after and heartbeat as configured; own_boot: boot_random of this process. */
void heartbeat_guard_init(struct heartbeat_guard *g, uint64_t own_boot, uint64_t takeover_after_ns,
                          uint64_t heartbeat_ns);
enum heartbeat_verdict heartbeat_guard_receive(struct heartbeat_guard *g,
                                               const struct heartbeat *h);
/* Completes the heartbeat that is about to be sent: echoes the newest heard. What the pair core
 * hasn't been given it can't have acknowledged: then the acknowledgement is taken out, for a lease
 * must never rest on a heartbeat from which the standby doesn't count its wait. */
void heartbeat_guard_send(struct heartbeat_guard *g, struct heartbeat *h);
#endif
