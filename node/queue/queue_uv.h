/* The queue as the relay sees it, on the relay's loop: takes messages from SMTP, tells when they
 * are committed, feeds delivery, records outcomes. Keeps operations in order of their position
 * until replication's watermarks release them (protocol 4). */
#ifndef BATON_QUEUE_QUEUE_UV_H
#define BATON_QUEUE_QUEUE_UV_H

#include <uv.h>

#include "node/control/events_uv.h"
#include "node/queue/storage_uv.h"

struct queue;

/* One message with some recipients, owned; what delivery works on. */
struct queued {
    struct row_message message;  /* body is inline when it was in memory or small; else read it */
    struct row_recipient *rcpts; /* those due, same domain or not */
    unsigned n_rcpts;
    struct buf memory;
    uint64_t body_sum; /* sum_bytes() of the whole body, as it was accepted */
};
void queued_free(struct queued *q);

enum queue_outcome { QUEUE_OK, QUEUE_NOT_PRIMARY, QUEUE_UNDECIDED };
typedef void (*queue_done)(void *ctx, enum queue_outcome outcome, uint64_t n_changed);

struct queue *queue_new(uv_loop_t *loop, struct storage *storage, struct events *events,
                        const struct config *c);
void queue_close(struct queue *q);
/* Role: from PX_SERVE until RX_EPOCH_OVER operations are accepted and tagged with epoch. On epoch
 * over all that waits ends QUEUE_UNDECIDED. */
void queue_serve(struct queue *q, uint32_t epoch);
/* Whether tombstones may be purged: what says how old they are is the wall clock, so the rule is
 * that of expiry (health/wall.h). They may, until told otherwise. */
void queue_let_purge(struct queue *q, bool may);
void queue_epoch_over(struct queue *q);
void queue_watermark(struct queue *q, uint32_t epoch, uint64_t committed, uint64_t settled);
/* What the storage thread has merged up to there is looked at once it is committed. */
void queue_merged(struct queue *q, struct pos end);
uint32_t queue_epoch(const struct queue *q); /* 0: not serving */
uint64_t queue_next_id(struct queue *q);     /* MESSAGE_ID(epoch, sequence) */

/* Adds a message with its recipients (rows copied). Its body is in `body`, whose bytes are taken
 * and which is empty afterwards; or in chunks that queue_add_chunk added before. body_sum: see
 * queued. done after it is committed. */
void queue_add(struct queue *q, const struct row_message *m, const struct row_recipient *rcpts,
               unsigned n, struct buf *body, uint64_t body_sum, queue_done done, void *ctx);
void queue_add_chunk(struct queue *q, uint64_t id, uint32_t index, struct slice data,
                     queue_done done, void *ctx);
/* A message given up after chunks were written: a tombstone without recipients takes them away. */
void queue_abort(struct queue *q, uint64_t id);

/* Outcome of an attempt: changed recipient rows of one message, optionally a bounce to add in the
 * same transaction. done when settled: durable here and received by the standby (protocol 4.5).
 * Waits up to outcome_delay to share a transaction, or until a message is added. */
void queue_outcome(struct queue *q, const struct row_recipient *rcpts, unsigned n,
                   const struct row_message *bounce, const struct row_recipient *bounce_rcpt,
                   queue_done done, void *ctx);
/* Policy `hold` (protocol 9): these recipients are about to get their final dot, or (noted = false)
 * were not sent after all. done when committed; n_changed: rows that carry the note, or lost it. A
 * row that is finished or in doubt is left alone. */
void queue_note(struct queue *q, const struct row_recipient *rcpts, unsigned n, bool noted,
                queue_done done, void *ctx);
/* An operator's operation (OP_SELECT, OP_OPSTATE; op->epoch is filled in). op->done(op) runs on the
 * loop when it is committed, refused or undecided (op->result); the op goes back to the caller.
 * Events of cancelled recipients are emitted here. */
void queue_operate(struct queue *q, struct storage_op *op);

/* Each message as it becomes committed (own epoch only): delivery may take it, or leave it to be
 * found by queue_fetch later. */
typedef void (*queue_new_fn)(void *ctx, struct queued *fresh /* owned by the callee */);
void queue_on_new(struct queue *q, queue_new_fn fn, void *ctx);
/* After promote and after each operator's change: what lies on disk should be scanned again, and
 * what was read but not begun may be stale. */
typedef void (*queue_scan_fn)(void *ctx);
void queue_on_scan(struct queue *q, queue_scan_fn fn, void *ctx);
/* fn is called whenever no message waits for its commit any more: after the last one's done. */
void queue_on_quiet(struct queue *q, void (*fn)(void *ctx), void *ctx);
/* Reads on the relay's lane; r->done is called on the loop. Rows above the committed watermark are
 * left out of READ_DUE. */
void queue_read(struct queue *q, unsigned lane, struct storage_read *r);

struct queue_stats {
    uint64_t waiting_commit, waiting_bytes, accepted_total;
};
void queue_stats(const struct queue *q, struct queue_stats *out);
#endif
