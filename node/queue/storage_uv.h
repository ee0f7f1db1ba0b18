/* The storage thread: the only writer of the store (protocol 4.1: group commit), and its readers.
 */
#ifndef BATON_QUEUE_STORAGE_UV_H
#define BATON_QUEUE_STORAGE_UV_H

#include "node/base/config.h"
#include "node/base/mailbox_uv.h"
#include "node/queue/selector.h"
#include "replication/port.h"

struct storage;

struct storage_hooks {
    void *ctx; /* called on the storage thread (replies of SR_CHANGES on the reader's; what was
                  flushed, on the flusher's): post and return */
    /* Before its commit. NULL: there is no other node, and nobody wants it. */
    void (*batch)(void *ctx, const struct own_batch *b);
    void (*durable)(void *ctx, struct pos end);
    void (*reply)(void *ctx, const struct store_reply *r);
    void (*changed)(
        void *ctx,
        const struct store_meta *m); /* id, fitness or history changed: for health (PE_STORE) */
    void (*failed)(void *ctx, int err, const char *why); /* a commit failed: the epoch ends */
    /* The opstate row was written or replicated (also each one at open). An empty key: all of it is
     * gone, with the rest of the store. */
    void (*opstate)(void *ctx, struct slice key, struct slice value);
    /* Rows of the follower were merged, up to here: mail may be due among them. */
    void (*merged)(void *ctx, struct pos end);
};

/* Opens (or creates) and checks the store; refuses another cluster's, a newer schema's, one in use
 * by another process, each with one line that names the remedy. virgin: it has never held a
 * history. */
struct storage *storage_open(const struct config *c, struct store_meta *meta, bool *virgin,
                             char *err, size_t n);
void storage_start(struct storage *s, const struct storage_hooks *hooks);
void storage_stop(struct storage *s);
void storage_request(struct storage *s,
                     const struct store_request *r); /* any thread; copied; takes r->bytes */

/* An operation of the relay in epoch `epoch`. Posted back to `reply_to` (as struct mail) when
 * durable or refused. */
enum storage_op_type {
    OP_ADD, /* rows as given: message, recipients, chunks; also chunks alone, ahead of their message
             */
    OP_OUTCOME, /* changed recipient rows, plus rows to add with them (a bounce with its recipient)
                   in the same transaction; the store adds DONE message rows */
    OP_NOTE, /* recipient rows, of which id, index and in_doubt (DOUBT_NOTED or DOUBT_NONE) count:
                written where the recipient is queued and not in doubt; n_changed */
    OP_OPSTATE, /* one row */
    OP_SELECT,  /* hold, release, retry, cancel by selector, in bounded steps; count in n_changed.
                   `changed` gets up to 1 MiB of (encoded message row without body, recipient row)
                   pairs of what was cancelled, for their events */
    OP_RELEASE_DUE, /* quarantined recipients whose next_ms has come are queued; n_changed */
};
enum op_result {
    OP_DURABLE,
    OP_NOT_PRIMARY /* never numbered: refuse it */,
    OP_FAILED /* fate unknown */
};
struct storage_op {
    struct mail mail; /* first: posted back to reply_to; mail.type is the caller's */
    struct mailbox *reply_to;
    enum storage_op_type type;
    uint32_t epoch;
    struct row *rows; /* malloc'ed array; the slices borrow from `memory` */
    unsigned n_rows;
    struct buf memory; /* owned backing bytes */
    struct selector selector;
    enum select_action action;
    struct slice
        reason; /* SELECT_HOLD by the relay itself: static text that the rows get as reply */
    void *ctx;  /* the caller's */
    void (*done)(struct storage_op *op); /* the caller's; storage doesn't call it */
    void *owner;                         /* of who passes the operation on for the caller */
    /* result */
    enum op_result result;
    struct pos pos; /* of its last row */
    uint64_t n_changed;
    struct buf changed;
};
void storage_submit(struct storage *s,
                    struct storage_op *op); /* any thread; ownership until posted back */
void storage_op_free(struct storage_op *op);

/* Reads, each on a read-only connection of a reader thread; posted back likewise. */
enum read_type {
    READ_BODY,    /* id, offset, limit bytes -> bytes (body only, without prefix); verified against
                     sha256 when it is the whole body */
    READ_MESSAGE, /* id -> message row and all recipient rows, encoded */
    READ_DOMAINS, /* up to `limit` domains above `domain` in order, with a queued, unheld recipient
                     due at or before due_ms (index skip-scan): encoded as (bytes domain, u64
                     earliest next_ms) */
    READ_DUE, /* recipients of `domain` queued, not held, next_ms <= due_ms, ordered by (next_ms,
                 id, index), after the cursor (next_ms, id, index), at most `limit`: encoded as
                 pairs (message row without body, recipient row). Paused campaigns are left out;
                 the recipient of an address that is never sent to comes as RCPT_SUPPRESSED. cursor:
                 the last one looked at; there may be more although nothing is here */
    READ_NEXT_DUE, /* earliest next_ms of any queued recipient or quarantined release above due_ms
                      -> due_ms */
    READ_LIST,    /* selector, cursor (id, index), limit -> like READ_DUE, ordered by (id, index) */
    READ_SUMMARY, /* by = "domain" | "sender" | "campaign" | "state" | "age" -> JSON text in bytes:
                     an array of {<by>, recipients, queued, deferred, held, quarantined, in_doubt,
                     oldest_s}, most recipients first; at most `limit` (0: 1,000). Domains and
                     campaigns have "paused" as well, and are listed for it alone */
    READ_ONLY_HERE, /* id = lsn up to which the other node has everything -> JSON text in bytes:
                       {"messages": unfinished ones that were taken after it} */
    READ_OPSTATES,  /* with key prefix `domain`, above the key `by`: encoded opstate rows */
};
struct queue_counts { /* messages, in disjoint states */
    uint64_t messages, queued, deferred, held, quarantined, in_doubt;
    int64_t oldest_ms; /* received_ms of the oldest live message; 0: none */
};
struct storage_read {
    struct mail mail;
    struct mailbox *reply_to;
    enum read_type type;
    uint64_t id, offset;
    size_t limit;
    int64_t due_ms;
    uint64_t up_to_lsn; /* READ_DUE: rows changed after it are left out; 0: none are */
    char *domain, *by;
    struct {
        int64_t next_ms;
        uint64_t id;
        uint32_t index;
    } cursor;
    struct selector selector;
    void *ctx;
    void (*done)(struct storage_read *r);
    /* result */
    int err; /* enum store_err */
    struct buf bytes;
    unsigned n_rows;
    bool more;
    bool checked; /* READ_BODY: bytes are the whole body, and its checksum is right */
};
/* lane 0: the relay's (bodies, due); lane 1: operators'; each is a thread of its own. */
void storage_read(struct storage *s, unsigned lane, struct storage_read *r);
void storage_read_free(struct storage_read *r);
/* Counts for status: any thread; waits for its own reader at most 1 s; the answer may be 100 ms
 * old. */
bool storage_counts(struct storage *s, struct queue_counts *out);
/* Statistics for metrics and checks: commits, rows, bytes, commit time p50/p99 in us over the last
 * minute, age of the commit under way in ms. */
struct storage_stats {
    uint64_t commits, rows, bytes, commit_p50_us, commit_p99_us, stalled_ms, waiting;
    int failure; /* enum store_error that ended this store's service; 0: none */
};
void storage_stats(const struct storage *s, struct storage_stats *out);
/* Is it being checked after an error? Then it counts as not open yet; text (size n): how far. */
bool storage_checking(struct storage *s, char *text, size_t n);
/* Age of the commit under way in ms, 0: none. Any thread, without a lock. */
uint64_t storage_stalled_ms(const struct storage *s);
#endif
