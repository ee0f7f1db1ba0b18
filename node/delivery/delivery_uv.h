/* Delivery: takes due recipients from the queue, finds where they go (routes, DNS), talks SMTP to
 * the next hop over reused connections and records outcomes. On the relay's loop; decisions live in
 * the cores beside it. */
#ifndef BATON_DELIVERY_DELIVERY_UV_H
#define BATON_DELIVERY_DELIVERY_UV_H

#include "node/control/events_uv.h"
#include "node/queue/queue_uv.h"

struct delivery;

struct delivery_hooks {
    void *ctx;
    /* May this node deliver now? Reads the lease and the clock; called right before each start of a
     * transaction and each final dot, its answer is never kept (protocol 6). */
    bool (*may_deliver)(void *ctx);
    /* May recipients expire now? Not within an hour after a takeover with clocks apart (protocol
     * 6). NULL: always. */
    bool (*may_expire)(void *ctx);
    /* A frame of notes (replication/notes.h) for the standby; delivery_noted() answers. NULL:
     * nobody is told; then no final dot goes out but under `hold`, or alone. */
    void (*note)(void *ctx, struct slice frame);
    /* There is no other node: nobody has to be told before a final dot. */
    bool alone;
    /* The body of this message fails its checksum: fetch it from the other node.
     * delivery_mended() follows. NULL: there is none. */
    void (*mend)(void *ctx, uint64_t id);
};

struct delivery_stats {
    unsigned connections; /* open to next hops */
    uint64_t active;      /* recipients in delivery's hands */
    uint64_t delivered_total, failed_total, deferred_total, bounced_total;
    uint64_t damaged;       /* messages held in this epoch: no copy of their body is right */
    double delivered_per_s; /* over the last 10 s */
};

/* NULL: err (size n) has one line. Idle until delivery_start(). */
struct delivery *delivery_new(uv_loop_t *loop, const struct config *c, struct queue *queue,
                              struct events *events, const struct delivery_hooks *hooks, char *err,
                              size_t n);
/* From now on deliver (PX_RELEASE_TAIL or PX_SERVE without a tail): takes new messages as they are
 * committed and, a moment later, scans what is due on disk. */
void delivery_start(struct delivery *d);
/* The epoch is over: drops every transaction at once (connections close without QUIT where a final
 * dot is open) and forgets what it held. Outcomes not yet settled are the queue's to abandon. */
void delivery_abort(struct delivery *d);
/* Planned switchover: no new transaction; idle is called once when no final dot is open and every
 * outcome was handed to the queue and settled; at once, before this returns, if that is so already.
 * delivery_start() resumes. */
void delivery_quiesce(struct delivery *d, void (*idle)(void *ctx), void *ctx);
/* Lease ran out or came back: with may_deliver() false transactions wait; call this when it may
 * have become true again so that they go on. */
void delivery_wake(struct delivery *d);
/* A row of operator state was written or replicated; an empty key: all of it is gone. What was
 * paused starts nothing new from here on; what is under way ends. */
void delivery_opstate(struct delivery *d, struct slice key, struct slice value);
/* Frames of notes up to `number` of that epoch have come to the standby, or needn't. */
void delivery_noted(struct delivery *d, uint32_t epoch, uint64_t number);
/* The body is right now (retry), both copies are damaged (hold: never sent, never dropped), or the
 * other node can't be asked (neither: it is tried again later). Also for what `verify` finds. */
enum delivery_mend { MEND_RETRY, MEND_HOLD, MEND_LATER };
void delivery_mended(struct delivery *d, uint64_t id, enum delivery_mend how);
bool delivery_reload(struct delivery *d, const struct config *c, char *err, size_t n);
void delivery_stats(const struct delivery *d, struct delivery_stats *out);
/* Per destination, as a JSON array text appended to out (jansson), for `destination list`. queued:
 * READ_SUMMARY by domain. */
void delivery_destinations(struct delivery *d, const char *queued, struct buf *out);
void delivery_close(struct delivery *d, void (*done)(void *ctx), void *ctx); /* frees d */
#endif
