/* The control socket (a thread and loop of its own): one JSON request line in, JSON lines out;
 * what batonctl speaks (control.h has the form). */
#ifndef BATON_CONTROL_CONTROL_UV_H
#define BATON_CONTROL_CONTROL_UV_H

#include "node/control/events_uv.h"
#include "node/control/status.h"
#include "node/queue/storage_uv.h"

struct control;

/* Provided by the composition; all may be called on the control thread. */
struct control_hooks {
    void *ctx;
    void (*status)(void *ctx, struct node_status *out);
    /* Operators' events for the pair core; answered later by control_op_done() with ev->op. */
    void (*operate)(void *ctx, const struct pair_event *ev);
    /* Runs an operation of the queue on the relay's loop: OP_SELECT or OP_OPSTATE in op (epoch is
     * filled in). control_queue_done() follows when it is committed, or refused. */
    void (*queue)(void *ctx, struct storage_op *op);
    /* Reads on the operators' lane; r->done is not used: control_read_done() follows. */
    void (*read)(void *ctx, struct storage_read *r);
    /* Per-destination JSON array, control_text_done() follows. queued: READ_SUMMARY by domain. */
    void (*destinations)(void *ctx, uint64_t op, struct slice queued);
    /* Reload: control_op_done() follows; its text lists what was taken and what needs a restart. */
    void (*reload)(void *ctx, uint64_t op);
    /* Compare both stores; control_op_done() follows when it has begun, status tells the rest. */
    void (*verify)(void *ctx, uint64_t op);
    /* The word about a store that was away for too long; control_op_done() follows. */
    void (*rejoin)(void *ctx, bool discard, uint64_t op);
};

/* Binds c->control (mode 0660; a stale socket file is replaced, a live one is an error) and starts
 * the thread. c and events must outlive it. NULL: err (size n) has one line with the remedy. */
struct control *control_start(const struct config *c, struct events *events,
                              const struct control_hooks *hooks, char *err, size_t n);
/* Any thread. */
void control_op_done(struct control *c, uint64_t op, bool ok, const char *text);
void control_text_done(struct control *c, uint64_t op, struct slice text);
void control_queue_done(struct control *c, struct storage_op *op); /* ownership comes back */
void control_read_done(struct control *c, struct storage_read *r);
/* Joins the thread and removes the socket file. To be called while queue and storage still answer:
 * it waits up to 2 s for operations and reads that are out. No call may follow. */
void control_stop(struct control *c);
#endif
