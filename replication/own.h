/* A primary's own transaction, while it is built: every row is numbered, encoded for the follower
 * and put into the store (protocol 4.1). Core; the storage thread and the simulator use it.
 *
 * own_begin -> own_put, own_finish, own_merge, own_supersede ... -> own_close (the batch is
 * complete: hand it to replication) -> own_commit. Any error: own_abort; if the batch was handed
 * over already, the epoch is over (incident 32). */
#ifndef BATON_REPLICATION_OWN_H
#define BATON_REPLICATION_OWN_H

#include "replication/apply.h"
#include "replication/port.h"

/* Below FRAME_MAX, with room for a message of 1,000 recipients at the end. */
enum { OWN_ROWS_MAX = 4096, OWN_BYTES_MAX = 4 << 20, OWN_CAP = 12 << 20 };

struct own {
    struct store *store;
    uint32_t epoch;
    uint64_t first, next; /* lsns: next - first rows so far */
    int64_t wall_ms;
    struct buf rows;    /* encoded */
    struct buf scratch; /* rows on their way through a merge */
    bool purge;         /* a purge row is in it: apply_purge() is due after the commit */
    bool has_opstate;   /* operator state is */
};
void own_init(struct own *o);
void own_free(struct own *o);
/* Starts a transaction in `epoch`, from meta.end.lsn + 1. */
int own_begin(struct own *o, struct store *s, uint32_t epoch, int64_t wall_ms);
static inline uint32_t own_count(const struct own *o)
{
    return (uint32_t)(o->next - o->first);
}
/* True: close it here; the rest goes into the next transaction. */
bool own_full(const struct own *o);
/* Sets the row's position (and a message's born where it has none) and writes it. STORE_FULL with
 * nothing changed: the encoded batch would grow beyond its cap. */
int own_put(struct own *o, struct row *r);
/* Adds the message's DONE row if it is live and all its recipients are here and terminal. */
int own_finish(struct own *o, uint64_t id);
/* apply_merge() and its rows. */
int own_merge(struct own *o, const struct row *theirs, enum unmerged_class as,
              int64_t quarantine_ms);
/* `accepted` (with its recipients) has just been put: its quarantined recipients in the message
 * `twin` are superseded, if that is the same message. *n counts them. */
int own_supersede(struct own *o, uint64_t twin, const struct row_message *accepted, uint64_t *n);
/* A recipient of message `parent` that had failed turns out to be delivered: bounces that nothing
 * is left to tell of are cancelled, if they are still queued (protocol 3, incident 21). */
int own_recall(struct own *o, uint64_t parent);
/* Policy `hold` (section 9): the recipient is noted durably, or, wanted = DOUBT_NONE, was not sent
 * after all. *done: it stands there as wanted; false: it is finished or in doubt, and left alone.
 */
int own_note(struct own *o, uint64_t id, uint32_t index, enum doubt wanted, bool *done);
/* An outcome of this node's own attempt meets what happened to the recipient meanwhile: a hold
 * stays, what is terminal never becomes queued again (invariant 4), and a doubt that was merged is
 * about another attempt than this one. *p: as it is to be written. *write false: nothing of it is
 * left to write. *late: it was delivered after all, and a bounce may say otherwise: own_recall().
 */
int own_outcome(struct own *o, struct row_recipient *p, bool *write, bool *late);
/* What is in it, for replication; with_rows: a copy of the rows, which the receiver unrefs. */
struct own_batch own_batch(const struct own *o, bool with_rows);
/* Writes meta.end and commits. */
int own_commit(struct own *o, struct pos committed);
void own_abort(struct own *o);
#endif
