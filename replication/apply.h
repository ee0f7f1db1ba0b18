/* What is done to a store, as whole transactions on the store interface (protocol 4, 5, 8, 10).
 * Core: synchronous calls to struct store_ops, nothing else; runs on the storage thread and in the
 * simulator. Every function is one transaction (or a bounded series, each consistent) and gives 0
 * or an enum store_err; the store is rolled back on error. */
#ifndef BATON_REPLICATION_APPLY_H
#define BATON_REPLICATION_APPLY_H

#include "replication/store.h"

/* A batch: consecutive changes of one epoch under the primary's numbers; what the ring holds and
 * what goes over the link. */
struct batch {
    uint32_t epoch;
    uint64_t first, last; /* lsn range; last - first + 1 rows, or a subset of it in catch-up (whole
                             rows, in lsn order) */
    bool complete;        /* true: after this the store is consistent up to `last` */
    struct pos committed; /* the sender's committed position */
    struct slice rows;    /* encoded rows, back to back, pos inside */
    uint32_t n_rows;
    struct slice history; /* encoded history of the sender, taken over with a complete batch; empty:
                             unchanged. SR_CHANGES adds it; the ring's batches need it only when a
                             history row was written since */
};
bool batch_encode(struct buf *b, const struct batch *x);
/* All but the row bytes, for a sender that has them already: they follow as they are. */
bool batch_encode_head(struct buf *b, const struct batch *x);
bool batch_decode(struct wire_reader *r, struct batch *out);

/* Primary: gives each row of `rows` (already encoded with pos.epoch = epoch and consecutive lsns by
 * apply_number) to the store in one transaction. */
int apply_own(struct store *s, const struct batch *x, int64_t wall_ms);
/* Standby: the same rows under the primary's numbers. Rows marked unmerged here are merged, not
 * overwritten, and stay marked. After a row that apply_is_purge() apply_purge() is due. complete
 * moves meta.end; otherwise only the rows are written and the place reached is kept in memory.
 * Older rows than what is here are skipped. STORE_CONFLICT: a gap (x->first is beyond the end and
 * beyond what the running catch-up has reached) or an epoch below the end's; the follower starts
 * over from meta.end. */
int apply_follow(struct store *s, const struct batch *x, int64_t wall_ms);
/* Several batches in one transaction (group commit on the standby): apply_follow_rows inside
 * begin/commit of the caller; *meta is carried from one to the next and written by the caller. */
int apply_follow_rows(struct store *s, const struct batch *x, int64_t wall_ms,
                      struct store_meta *meta);
/* Is it the order to purge? Then tombstones done before *before_ms go with apply_purge(). */
bool apply_is_purge(const struct row *r, int64_t *before_ms);
/* A piece of the purge that the store's newest order asks for: at most `limit` messages, one
 * transaction. Each store does that for itself, when it likes. What was done after the order, by
 * whatever clock, isn't under it: a copy would carry that out, and its source not. Nothing goes at
 * or above lsn `below`: what isn't committed, or what a standby that reads changes hasn't come to.
 * No change would tell of it, and the standby would keep what it has of that message. */
int apply_purge(struct store *s, uint64_t below, unsigned limit, bool *more);
/* How long a reading that doesn't go on, or a merge, holds purges up: a standby that is gone holds
 * up nothing. */
enum { PURGE_HOLD_MS = 60000 };
/* Numbers rows consecutively from *next (pos = {epoch, (*next)++}) while encoding them into b; born
 * is set too where it is {0,0}. */
bool apply_number(struct buf *b, struct row *rows, unsigned n, uint32_t epoch, uint64_t *next);

/* Takeover or restart (section 5): first lsn = end + 1; history row (epoch, mode); new lsns for all
 * unmerged rows, which are live from now on (quarantined where their class says so); what was
 * noted and has no outcome here is in doubt (section 9), also in what is noted durably;
 * meta.epoch_seen. Refuses (STORE_CONFLICT) a copying or unfit store. */
struct promotion {
    uint32_t epoch;
    enum history_mode mode;
    int64_t wall_ms, quarantine_ms, in_doubt_wait_ms;
    struct slice noted; /* records of notes.h */
};
struct promoted {
    uint64_t first; /* lsn of the epoch */
    struct pos end;
    uint32_t in_doubt; /* recipients */
};
int apply_promote(struct store *s, const struct promotion *p, struct promoted *out);
/* As it stands under a primary that is no more: what it had noted durably may have been sent. True:
 * the row is in doubt now. */
bool apply_orphan_note(struct row_recipient *p);
/* History row of the running epoch from `first`, replacing rows of that epoch at or above it. */
int apply_mode(struct store *s, uint32_t epoch, enum history_mode mode, uint64_t first,
               struct pos committed);
/* Raises meta.committed; nothing is written where it is as high already. */
int apply_committed(struct store *s, struct pos committed);

/* Rejoin, follower's side: in one transaction marks what is behind `shared` as unmerged and adopts
 * the primary's history (all of it: rows beyond the own end describe nothing here yet, and are cut
 * off by a promotion); meta.end = shared. primary_committed: the primary's knowledge for the epoch.
 * noted: records of notes.h, what an earlier primary had told; without an outcome here it is in
 * doubt, and goes up with the rest, since one that restarts has forgotten it (section 9). */
int apply_adopt(struct store *s, struct pos shared, const struct history *primary,
                struct pos primary_committed, struct slice noted);
/* Rejoin, primary's side: merges one unmerged row of the follower. Appends to `out` the rows
 * (without positions) that must be written as new changes: the merged row, winners and losers
 * alike. `as` is its class: quarantine sets recipients' state and next_ms; a quarantined twin of an
 * accepted message is superseded; a bounce follows its parent. UNMERGED_NONE: a row of a copy that
 * follows this node, found to differ (verify.h). Nothing is written here: the rows go through the
 * primary's usual batch. They must be in the store (same transaction) before the next row of that
 * message is merged: own_merge() does both. */
int apply_merge(struct store *s, const struct row *theirs, enum unmerged_class as, int64_t wall_ms,
                int64_t quarantine_ms, struct buf *out, uint32_t *n_rows);
/* A bounce follows its parent: wanted if a failure is what came out for a recipient that it is
 * about and no other bounce tells of that one (protocol 3, incident 21). Reads only. */
int apply_bounce_wanted(struct store *s, uint64_t id, bool *wanted);
/* Full copy, follower's side: empties the store under a new id and marks it copying; the first
 * complete batch ends that. */
int apply_wipe(struct store *s, const struct store_id *fresh);
#endif
