/* What replication asks of a store: a set of rows with positions, changed in transactions (protocol
 * 3, 8, 10). Two implementations, held against each other by tests: node/queue/store_sqlite.c and
 * tests/sim/store_memory.c. All calls are synchronous and come from one thread. int results: 0, or
 * an enum store_err. After an error inside a transaction only rollback is legal. A commit that
 * failed leaves the store's fate unknown: the caller ends the epoch. */
#ifndef BATON_REPLICATION_STORE_H
#define BATON_REPLICATION_STORE_H

#include "replication/row.h"

enum store_err {
    STORE_OK = 0,
    STORE_IO,
    STORE_FULL,
    STORE_CORRUPT,
    STORE_NOT_FOUND,
    STORE_CONFLICT
};

/* Durable facts about the store itself; written with the transaction in which they change. */
struct store_meta {
    struct store_id id;
    struct pos end;       /* last consistent position: everything at or below is here */
    struct pos committed; /* highest known committed position of end.epoch's history */
    uint32_t epoch_seen;  /* highest epoch ever seen in a record or frame that was followed */
    bool copying;         /* a full copy is in progress: never promoted */
    bool unfit;           /* failed its check: never promoted, wants a full copy */
    int64_t written_ms;   /* wall clock of the last transaction (roughly): how long it was away */
    /* Highest lsn of a message that was done and is forgotten here, as far as that may be news to
     * somebody: what purge() removed, and what the primary had of which this store is a copy.
     * set_meta() never lowers it. */
    uint64_t purged;
    struct history history;
};

/* Where an unmerged row came from, decided when it was marked (section 8). */
enum unmerged_class {
    UNMERGED_NONE = 0,
    UNMERGED_QUEUED = 1,
    UNMERGED_QUARANTINE = 2,
    /* Of recipients: QUEUED, and the primary's row has all of it by now; until the next adoption,
     * for that primary may lose it again. */
    UNMERGED_TAKEN = 3
};

struct store;

/* Called with each row found; false stops the walk. The row is valid during the call only. */
typedef bool (*store_row_fn)(void *ctx, const struct row *r, enum unmerged_class unmerged);

struct store_ops {
    void (*get_meta)(struct store *s, struct store_meta *out);
    int (*begin)(struct store *s);
    int (*commit)(struct store *s); /* durable when it returns 0, unless its owner flushes apart */
    void (*rollback)(struct store *s);
    int (*set_meta)(struct store *s, const struct store_meta *m); /* inside a transaction */

    /* Upserts the row as given, position included. A message row with state DONE drops its body and
     * chunks. The unmerged mark is set to `unmerged`. A chunk of a message that is done is ignored.
     * It may be written later: then a later call of this transaction has the error. */
    int (*put)(struct store *s, const struct row *r, enum unmerged_class unmerged);
    /* Finds one row: key fields of `key` filled in. STORE_NOT_FOUND. The row in *out is valid until
     * the next call. */
    int (*get)(struct store *s, const struct row *key, struct row *out,
               enum unmerged_class *unmerged);
    /* The same of a message, without its body, which may be long. */
    int (*get_head)(struct store *s, uint64_t id, struct row *out);
    /* All recipients of a message, by index. */
    int (*each_recipient)(struct store *s, uint64_t id, store_row_fn fn, void *ctx);
    /* Rows with pos.lsn > after, in lsn order (epochs of one history never overlap in lsn), until
     * fn stops. */
    int (*changes_after)(struct store *s, uint64_t after, store_row_fn fn, void *ctx);
    /* (Chunks count by their message's born position too: shipped ahead of it, they may be gone at
     * the other node.) Marks rows with pos.lsn > shared.lsn that carry no mark yet with what
     * classify says about the row's own pos and `born`: the born position of its message for a
     * message, its recipients and chunks ({0,0} when the message isn't here, and for operator
     * state). UNMERGED_NONE: the row is left alone. UNMERGED_TAKEN becomes UNMERGED_QUEUED. */
    int (*mark_unmerged)(struct store *s, struct pos shared,
                         enum unmerged_class (*classify)(void *ctx, struct pos pos,
                                                         struct pos born),
                         void *ctx);
    /* Unmerged rows in an order that allows merging: by message id; per message its chunks, the
     * message, its recipients; opstate last. UNMERGED_TAKEN is given as UNMERGED_QUEUED. */
    int (*each_unmerged)(struct store *s, store_row_fn fn, void *ctx);
    int (*unmark)(struct store *s, const struct row *key);
    /* Recipient rows of the message that are here, and how many of them are not terminal. */
    int (*count_recipients)(struct store *s, uint64_t id, uint32_t *total, uint32_t *open);
    /* The lowest id above `above` of a message, live or done, with the same sender, recipients
     * count, size and body hash as m; 0: none. For the supersession of quarantined twins. */
    int (*find_twin)(struct store *s, const struct row_message *m, uint64_t above, uint64_t *id);
    /* Messages whose parent is `parent` (bounces), by id. */
    int (*each_bounce)(struct store *s, uint64_t parent, store_row_fn fn, void *ctx);
    /* Every queued recipient with DOUBT_NOTED (there are as many as connections). */
    int (*each_noted)(struct store *s, store_row_fn fn, void *ctx);
    /* Deletes tombstones with done_ms < before_ms and lsn < below with all their rows, and chunks
     * without a message that were written (pos) in an epoch below meta.end.epoch; nothing that is
     * marked unmerged. At most limit messages; *more says that there are others. Raises
     * meta.purged. */
    int (*purge)(struct store *s, int64_t before_ms, uint64_t below, unsigned limit, bool *more);
    /* Empties the store: all rows, history, positions; takes the new id; sets copying. Inside a
     * transaction. */
    int (*wipe)(struct store *s, const struct store_id *fresh);
};

struct store {
    const struct store_ops *ops;
    /* Volatile, apply.c's: how far the rows of an unfinished catch-up have come; 0: none. */
    uint64_t cursor;
    bool behind; /* likewise: it follows, and hasn't got all of its primary yet */
};

/* Valid until the next call, as with get(). */
static inline int store_get_message(struct store *s, uint64_t id, struct row *out)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = id};
    enum unmerged_class mark;
    return s->ops->get(s, &key, out, &mark);
}
#endif
