/* What replication asks of the storage thread, and what it hears from it. The storage thread
 * (node/queue/storage_uv.c) serves it; the simulator serves it from memory. Requests run in the
 * order in which they were posted; each is answered by exactly one reply. Core: plain data. */
#ifndef BATON_REPLICATION_PORT_H
#define BATON_REPLICATION_PORT_H

#include "replication/apply.h"

/* SR_ROWS, `skip`: no chunks; what is added to it: recipients from that index on, without the
 * message's own row. */
#define ROWS_WITHOUT_CHUNKS 0x80000000u

/* How a comparison of both stores stands (verify.h). */
struct verify_view {
    uint64_t run; /* how many there were in this process of the primary, with this one */
    bool running;
    uint64_t compared, differing, repaired, unrepairable; /* messages */
    char why[100]; /* it ended early, because; "": it didn't */
};

/* Bytes shared between threads; freed with the last reference (atomic count). */
struct shared {
    _Atomic unsigned refs;
    size_t n;
    uint8_t data[];
};
struct shared *shared_new(struct slice s);
struct shared *shared_ref(struct shared *s);
void shared_unref(struct shared *s);

/* An own batch on its way: given to replication before its transaction is committed here
 * (protocol 4.1). */
struct own_batch {
    uint32_t epoch;
    uint64_t first, last;
    uint32_t n_rows;
    struct shared *rows; /* encoded rows; NULL where there is no other node */
};

enum store_request_type {
    SR_PROMOTE = 1, /* apply_promote(epoch, mode, bytes = what is noted); n_rows of the reply: put
                       in doubt; opens the writer: relay's operations are taken from now on */
    SR_MODE,        /* apply_mode(epoch, mode, first); first = 0: the next lsn */
    SR_CLOSE,       /* closes the writer: operations not yet numbered fail with "not primary"; then
                       apply_committed(committed); answered after the last commit */
    SR_FOLLOW,      /* apply_follow(bytes = encoded batch) */
    SR_ADOPT, /* apply_adopt(pos = shared, bytes = encoded history and what was noted, committed) */
    SR_WIPE,  /* apply_wipe(store) */
    SR_MERGE, /* bytes = n_rows times (u8 class, encoded row): apply_merge each, write the result as
                 an own batch in this epoch; cookie = last sequence. STORE_CONFLICT when what was
                 done above lsn `first` is forgotten here (meta.purged) */
    SR_UNMARK,     /* bytes = rows whose keys are unmarked */
    SR_UNMERGED,   /* read: up to `limit` bytes of unmerged rows as (u8 class, row) after skipping
                      `skip` rows; more */
    SR_EPOCH_SEEN, /* meta.epoch_seen = max(., epoch), durable */
    SR_COMMITTED,  /* remember meta.committed with the next transaction; not answered */
    SR_META,       /* just tell the meta */
    SR_DIGESTS,    /* served by a reader of its own: digests (digest.h) of messages with ids above
                      `first` up to pos.lsn, at most `limit`; reply.first: the last id covered, more */
    SR_ROWS, /* likewise: rows of message `first` from chunk `skip` on, about `limit` bytes; chunks,
                then the message, then its recipients; reply.first: the next `skip`, more. From 0:
                not before its body was found to be right, else STORE_CORRUPT */
    SR_MEND, /* bytes: SR_ROWS of message `first` from the other node: its body is put back here,
                under the positions that its rows have here. STORE_CORRUPT: that copy is bad, too */
    SR_CHANGES, /* served by a reader: rows after lsn `first`, at most `limit` bytes, as one encoded
                   batch whose `complete` says that everything up to the store's end was read. With
                   limit 0, not answered: the standby has read all, and holds no purge up any more
                 */
};
struct store_request {
    enum store_request_type type;
    uint64_t cookie; /* comes back in the reply */
    uint32_t epoch;
    uint8_t mode; /* enum history_mode */
    bool copies;  /* CHANGES: of a full copy, during which nothing is purged */
    bool live;    /* DIGESTS: of messages that aren't done only */
    uint64_t first;
    struct pos pos, committed;
    struct store_id store;
    struct shared *bytes; /* ownership goes to the storage thread */
    uint32_t n_rows, skip;
    size_t limit;
};
struct store_reply {
    enum store_request_type type;
    uint64_t cookie;
    int err;        /* enum store_err */
    uint64_t first; /* PROMOTE, MODE: first lsn of the epoch or mode */
    bool more;      /* CHANGES, UNMERGED */
    uint32_t n_rows;
    struct shared *bytes;   /* CHANGES, UNMERGED; the receiver unrefs */
    struct store_meta meta; /* after the request */
};
#endif
