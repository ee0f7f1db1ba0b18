/* What the files of the storage thread share. */
#ifndef BATON_QUEUE_INTERNAL_UV_H
#define BATON_QUEUE_INTERNAL_UV_H

#include <pthread.h>
#include <stdatomic.h>

#include "node/queue/storage_uv.h"
#include "node/queue/store_sqlite.h"
#include "replication/own.h"

/* What waits for the writer, in order: an operation or a request. */
struct followed;
struct item {
    struct item *next;
    struct storage_op *op;
    struct store_request request; /* when op is NULL */
    struct followed *followed;    /* SR_FOLLOW: its batch and answer */
    /* OP_SELECT: what a reader found, to be changed by the writer; then the reader goes on. */
    struct buf keys;
    uint64_t cursor_id;
    uint32_t cursor_index;
    bool more;
    uint64_t n_durable; /* changed by its earlier steps */
};

struct list {
    struct item *head, **tail;
};

/* What shares a transaction (group_uv.c): operations, or batches of the primary that is followed.
 */
struct group;
struct group_kind {
    /* Sets n_rows and bytes and commits, or rolls back `nothing`. Returns enum store_err. */
    int (*commit)(struct storage *s, struct group *g);
    /* It is on the disk: answers. By the thread that flushed it, so it leaves the store alone. */
    void (*durable)(struct storage *s, struct group *g);
    /* The transaction is over, after durable(); or err, of the commit or its flush: answers. */
    void (*ended)(struct storage *s, struct group *g, int err);
    /* Instead of all three: rolls back, and answers. err: what of, in `why` or of an earlier flush.
     */
    void (*given_up)(struct storage *s, struct group *g, int err);
};
struct group {
    const struct group_kind *kind;
    struct list items; /* to be answered */
    unsigned n_items;
    uint64_t n_rows, bytes, closed_ns;
    struct store_meta before;
    char why[120];          /* nothing comes of it, where that is an error of the store */
    struct own_batch batch; /* of operations, as it was handed over */
    bool nothing;
    bool answered;
    /* of batches that are followed: */
    struct store_meta meta;
    uint64_t cursor; /* store->cursor and behind, before */
    bool behind;
};
enum flush { FLUSH_NONE, FLUSH_DUE, FLUSH_ENDED };

enum { LANES = 4, LANE_CHANGES = 2, LANE_VERIFY = 3 };

struct lane { /* a reader thread */
    struct storage *storage;
    struct store *store;
    pthread_t thread;
    pthread_cond_t wake;
    unsigned generation;              /* of the file that its connection has open */
    struct mail *reads, **reads_tail; /* struct storage_read */
    struct list items;                /* SR_CHANGES, and searches of OP_SELECT */
};

enum { COMMIT_TIMES = 4096 };
struct times { /* of the last commits */
    uint64_t at_ns[COMMIT_TIMES];
    uint32_t us[COMMIT_TIMES];
    unsigned n;
};

struct twin { /* a quarantined message, by its body's hash */
    uint64_t prefix, id;
};

struct storage {
    struct storage_hooks hooks;
    char *path;
    uint64_t retention_ms, quarantine_ms, in_doubt_wait_ms;
    pthread_t thread;
    bool started;
    struct lane lanes[LANES];

    pthread_mutex_t lock; /* guards what follows, down to what is atomic */
    pthread_cond_t wake;
    bool stop;
    struct list items;
    unsigned generation; /* of the store's file: grows when it is replaced */
    bool checking;       /* after an error, before anything else */
    char check_table[16];
    unsigned check_i, check_n;
    uint64_t check_since_ns;
    uint64_t waiting; /* operations not yet answered */
    struct queue_counts counts;
    uint64_t commits, rows, bytes;
    struct times times;

    _Atomic uint64_t busy_since_ns; /* since when a transaction is under way; 0: none is */
    _Atomic unsigned closing;       /* SR_CLOSE requests that are posted and not yet done */

    pthread_mutex_t reading_lock; /* held by a piece of a purge, and around the next two */
    uint64_t unread_from;         /* first lsn that the feed's reader has not come to */
    uint64_t read_ns;             /* when it read last; 0: never */

    pthread_t flusher;
    pthread_cond_t flush_wake; /* with `lock` */
    bool flusher_stop;
    int flush_err;       /* of the one that has ended */
    uint64_t flushed_ns; /* and when */
    int64_t flush_ns;    /* what the last ones took, smoothed */
    _Atomic int flush;   /* enum flush: of what is `written` */

    /* the writer's own */
    struct store *store;
    struct group *open; /* is being put together; NULL: none */
    /* Its flush is under way; NULL: none's. While that is FLUSH_DUE, the group, flushed_ns and
     * flush_ns are the flusher's. */
    struct group *written;
    struct own own;
    uint32_t epoch;       /* whose operations are taken; 0: no one's */
    struct pos committed; /* from SR_COMMITTED and the requests */
    bool failed;
    _Atomic int failure; /* enum store_error behind it, for other threads; 0: none */
    bool purging;
    uint64_t merged_ns; /* the newest merge of another node's rows; 0: none */
    bool suppressing;   /* there are, or were, addresses that are never sent to */
    struct twin *twins; /* sorted by prefix; may hold some that are no longer quarantined */
    size_t n_twins;
    bool twins_stale;
    uint64_t published_ns;
};

void list_init(struct list *l);
void list_push(struct list *l, struct item *i);
struct item *list_pop(struct list *l);
void item_free(struct item *i);

/* storage_uv.c */
void storage_post(struct storage *s, struct item *i);   /* to the writer's end of the line */
void storage_search(struct storage *s, struct item *i); /* to the operators' reader */
void storage_answer(struct storage *s, struct storage_op *op, enum op_result result);
void storage_begun(struct storage *s); /* a transaction starts */
void storage_ended(struct storage *s); /* one has ended */
void storage_committed(struct storage *s, uint64_t ns, uint64_t rows, uint64_t bytes);
void storage_checkpoint(struct storage *s); /* between transactions, nothing unflushed */
void storage_note_opstate(struct storage *s, struct slice key); /* it is in the store, or will be */
void storage_fail(struct storage *s, int err, const char *why);
void storage_publish(struct storage *s, bool now); /* counts */

/* group_uv.c */
int flusher_start(struct storage *s); /* errno */
void flusher_stop(struct storage *s);
/* A new group is `open`; its transaction is the caller's to begin. */
struct group *group_open(struct storage *s, const struct group_kind *kind);
void group_close(struct storage *s);           /* commits what is open; its flush may go on */
void group_spoilt(struct storage *s, int err); /* nothing comes of what is open */
void group_look(struct storage *s);   /* has the flush ended? Answers, then; doesn't wait */
void group_settle(struct storage *s); /* nothing is open or unflushed any more */

/* check_uv.c: the check that an earlier error ordered; before anything else. */
void storage_check(struct storage *s);
/* Has anybody found damage? Then this store has failed, and is checked at the next start. */
void storage_watch_damage(struct storage *s);

/* writer_uv.c: takes operations off the front of `line` into the group that is open. */
void writer_operations(struct storage *s, struct list *line);
/* A merge request of the primary; settled. Returns enum store_err. */
int writer_merge(struct storage *s, const struct store_request *r);
/* requests_uv.c: carries out the request at the front of `line` (SR_FOLLOW: those behind it, too)
 * and answers. */
void writer_requests(struct storage *s, struct list *line);
void reader_digests(struct storage *s, struct store *store, const struct store_request *r);
void reader_rows(struct storage *s, struct store *store, const struct store_request *r);
/* SR_COMMITTED at the front of `line`, which the next transaction keeps, or the one that is being
 * put together: it must not split a group. False: something else is there. */
bool writer_committed(struct storage *s, struct list *line);
/* mend_uv.c: SR_MEND, on the writer. Returns enum store_err. */
int writer_mend(struct storage *s, const struct store_request *r);
void reader_changes(struct storage *s, struct store *store, const struct store_request *r);
/* Tells hooks.opstate of the operator state among encoded rows, as it stands in the store. */
void writer_tell_opstate(struct storage *s, struct slice rows);
#endif
