/* What the files *_sqlite.c of the store share. */
#ifndef BATON_QUEUE_INTERNAL_SQLITE_H
#define BATON_QUEUE_INTERNAL_SQLITE_H

#include <sqlite3.h>

#include "node/queue/opstate.h"
#include "node/queue/store_sqlite.h"

enum statement {
    ST_BEGIN,
    ST_BEGIN_READ,
    ST_COMMIT,
    ST_ROLLBACK,
    ST_META_GET,
    ST_META_SET,
    ST_MESSAGE_INSERT,
    ST_MESSAGE_UPDATE,
    ST_MESSAGE_DONE,
    ST_MESSAGE_GET,
    ST_MESSAGE_HEAD, /* without body */
    ST_MESSAGE_STATE,
    ST_MESSAGE_CHANGES,
    ST_MESSAGE_MARKED,
    ST_MESSAGE_BORN,
    ST_MESSAGE_BEYOND,
    ST_MESSAGE_MARK,
    ST_MESSAGE_DELETE,
    ST_MESSAGE_NEXT,
    ST_MESSAGE_IDS,
    ST_MESSAGE_LIVE_IDS,
    ST_MESSAGE_TWIN,
    ST_MESSAGE_BOUNCES,
    ST_MESSAGE_TOMBSTONES,
    ST_MESSAGE_OLDEST,
    ST_MESSAGE_ONLY_HERE,
    ST_RECIPIENT_INSERT,
    ST_RECIPIENT_INSERT_4,
    ST_RECIPIENT_INSERT_16,
    ST_RECIPIENT_OUTCOME,
    ST_RECIPIENT_OUTCOMES,
    ST_RECIPIENT_UPDATE,
    ST_RECIPIENT_GET,
    ST_RECIPIENT_AHEAD,
    ST_RECIPIENT_CLASS,
    ST_RECIPIENT_CLASSES,
    ST_RECIPIENT_EACH,
    ST_HIGHEST,
    ST_RECIPIENT_NOTED,
    ST_RECIPIENT_CHANGES,
    ST_RECIPIENT_MARKED,
    ST_RECIPIENT_BEYOND,
    ST_RECIPIENT_MARK,
    ST_RECIPIENT_TAKEN,
    ST_RECIPIENT_DELETE,
    ST_CHUNK_PUT,
    ST_CHUNK_GET,
    ST_CHUNK_CHANGES,
    ST_CHUNK_MARKED,
    ST_CHUNK_BEYOND,
    ST_CHUNK_MARK,
    ST_CHUNK_DELETE,
    ST_CHUNK_IDS,
    ST_CHUNK_ORPHANS,
    ST_OPSTATE_PUT,
    ST_OPSTATE_GET,
    ST_OPSTATE_CHANGES,
    ST_OPSTATE_MARKED,
    ST_OPSTATE_BEYOND,
    ST_OPSTATE_MARK,
    ST_OPSTATE_PREFIX,
    ST_OPSTATE_VALUE,
    ST_DOMAIN_NEXT,
    ST_DUE,
    ST_BODY_INLINE,
    ST_NEXT_DUE,
    ST_NEXT_QUARANTINED,
    ST_QUARANTINED_IDS,
    ST_AHEAD,
    ST_RELEASE_DUE,
    STATEMENTS
};

/* Recipients of one message by class; CLASSES counts the terminal ones. */
struct tally {
    uint64_t id; /* 0: unused */
    bool fresh;  /* all of them were put through this store, in order, when none was there */
    uint32_t n[CLASSES + 1];
};
/* Recipients on their way to or from SQLite (gather_sqlite.c). */
enum { TALLIES = 4096, GATHERED_MAX = 16, GATHERED_BYTES = 16384 };
struct gathered {
    struct row_recipient row[GATHERED_MAX];
    int mark[GATHERED_MAX];
    unsigned n;
    struct buf text; /* what their slices point to; never grows */
};

struct store_sqlite {
    struct store base; /* first */
    sqlite3 *db;
    int lock_fd; /* -1: a reader */
    sqlite3_stmt *st[STATEMENTS];
    struct store_meta meta, saved_meta;
    uint64_t counts[CLASSES], saved_counts[CLASSES];
    char *path, *cluster; /* of a writer */
    bool in_transaction, dirty;
    struct tally *tallies; /* direct-mapped by id */
    /* New recipients that no statement has written yet; the first of `run` outcomes that say the
     * same, unwritten as well: sqlite_flush(). */
    struct gathered inserts, outcomes;
    unsigned run;
    int failed; /* a flush did, in this transaction: rows are missing from it */
    /* Recipients as they are, the one that get() was last asked for at ahead_at, the next ones
     * behind it. */
    struct gathered ahead;
    unsigned ahead_at;
    bool ahead_taken; /* that one has been changed since */
    struct {
        uint64_t id;
        uint32_t index;
    } asked; /* of get() */
    struct {
        bool known;
        int64_t recipient, chunk; /* as SQLite orders ids */
    } highest;                    /* ids of which there may be such rows: what is above has none */
    struct buf scratch;           /* the row of the last get() */
    struct buf encoded;           /* meta on its way to disk */
    int wal_pages, wal_tried;     /* in the log; when it was last moved, or was to be */
    uint64_t orphans_id; /* chunks without a message were looked for up to here; 0: none yet */
    sqlite3 *pin;        /* a reader of the writer's own; NULL: not opened */
    sqlite3_stmt *pin_st;
    bool pinned; /* it is at a row, and so keeps the log from being begun anew */
    bool log_short;
    struct wal_log *log; /* whose flush is left to store_sqlite_flush(); NULL: none is */
    int fd; /* of the database, to order what SQLite's own can't be asked for; -1: none */
};

static inline struct store_sqlite *sqlite_of(struct store *s)
{
    return (struct store_sqlite *)s;
}
/* The statement, reset, without bindings; NULL: could not be prepared. */
sqlite3_stmt *sqlite_statement(struct store_sqlite *x, enum statement id);
int sqlite_error(int rc);         /* SQLite's result code as enum store_err */
int sqlite_run(sqlite3_stmt *st); /* step to the end, reset */
void sqlite_bind(sqlite3_stmt *st, int i, struct slice s); /* text, borrowed until the reset */
struct slice sqlite_slice(sqlite3_stmt *st, int i);

/* Column lists, in the order that the readers below expect. */
#define MESSAGE_HEAD                                                                               \
    "id,epoch,lsn,mark,state,done_ms,received_ms,size,chunks,recipients,flags,parent,born_epoch,"  \
    "born_lsn,creator,sha256,sender,envid,campaign,origin,prefix"
#define MESSAGE_COLUMNS MESSAGE_HEAD ",body"
enum { MESSAGE_HEAD_N = 21 };
#define RECIPIENT_COLUMNS                                                                          \
    "id,idx,epoch,lsn,mark,state,held,notify,in_doubt,attempts,next_ms,last_ms,code,address,"      \
    "domain,orcpt,enhanced,reply,remote"
enum { RECIPIENT_N = 19 };
#define CHUNK_COLUMNS   "id,idx,epoch,lsn,mark,data"
#define OPSTATE_COLUMNS "key,value,epoch,lsn,mark"

/* Rows as they lie in st from column `at` on; slices borrow until the next step or reset. */
void sqlite_read_message(sqlite3_stmt *st, int at, bool body, struct row *out,
                         enum unmerged_class *mark);
void sqlite_read_recipient(sqlite3_stmt *st, int at, struct row *out, enum unmerged_class *mark);
void sqlite_read_chunk(sqlite3_stmt *st, struct row *out, enum unmerged_class *mark);
void sqlite_read_opstate(sqlite3_stmt *st, struct row *out, enum unmerged_class *mark);

/* gather_sqlite.c. Every operation that may look at recipients begins with this: it writes what has
 * gathered. An error, perhaps of an earlier put, stays until the transaction is rolled back. */
int sqlite_flush(struct store_sqlite *x);
void sqlite_gather_init(struct store_sqlite *x);
void sqlite_gather_free(struct store_sqlite *x);
void sqlite_forget_gathered(struct store_sqlite *x); /* written or not */
int sqlite_gather_new(struct store_sqlite *x, const struct row_recipient *p, int mark);
/* The recipient as it was when get() was last asked for one, if it has not been changed since and p
 * changes nothing but its outcome; else NULL. */
const struct row_recipient *sqlite_seen(const struct store_sqlite *x, const struct row_recipient *p,
                                        int mark);
int sqlite_gather_outcome(struct store_sqlite *x, const struct row_recipient *p); /* of one seen */
int sqlite_get_recipient(struct store_sqlite *x, const struct row_recipient *key, struct row *out,
                         enum unmerged_class *mark);
/* at: parameters before this row's. */
void sqlite_bind_recipient(sqlite3_stmt *st, int at, const struct row_recipient *p, int mark);
/* That recipient is changed now, by a statement of its own. */
void sqlite_changes(struct store_sqlite *x, const struct row_recipient *p);

/* rows_sqlite.c and walk_sqlite.c: the operations of store.h. */
int sqlite_put(struct store *s, const struct row *r, enum unmerged_class unmerged);
int sqlite_get_head(struct store *s, uint64_t id, struct row *out);
int sqlite_get(struct store *s, const struct row *key, struct row *out,
               enum unmerged_class *unmerged);
int sqlite_each_recipient(struct store *s, uint64_t id, store_row_fn fn, void *ctx);
int sqlite_count_recipients(struct store *s, uint64_t id, uint32_t *total, uint32_t *open);
int sqlite_unmark(struct store *s, const struct row *key);
int sqlite_changes_after(struct store *s, uint64_t after, store_row_fn fn, void *ctx);
int sqlite_each_unmerged(struct store *s, store_row_fn fn, void *ctx);
int sqlite_mark_unmerged(struct store *s, struct pos shared,
                         enum unmerged_class (*classify)(void *ctx, struct pos pos,
                                                         struct pos born),
                         void *ctx);
int sqlite_find_twin(struct store *s, const struct row_message *m, uint64_t above, uint64_t *id);
int sqlite_each_bounce(struct store *s, uint64_t parent, store_row_fn fn, void *ctx);
int sqlite_each_noted(struct store *s, store_row_fn fn, void *ctx);
int sqlite_purge(struct store *s, int64_t before_ms, uint64_t below, unsigned limit, bool *more);
/* Is there an order of that kind about the name? (opstate.h) */
int sqlite_ordered(struct store_sqlite *x, enum opstate_kind kind, struct slice name, bool *yes);
/* select_sqlite.c, for read_sqlite.c. */
struct storage_read;
int sqlite_read_list(struct store_sqlite *x, struct storage_read *r, int64_t now_ms);
int sqlite_read_summary(struct store_sqlite *x, struct storage_read *r, int64_t now_ms);
/* The tally of a message (loaded when it isn't at hand); NULL: error. */
struct tally *sqlite_tally(struct store_sqlite *x, uint64_t id, int *err);
/* The message is gone: takes it out of the counts. */
int sqlite_forget(struct store_sqlite *x, uint64_t id);
#endif
