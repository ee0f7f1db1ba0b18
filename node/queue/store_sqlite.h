/* The store on SQLite (protocol 3, 4): implements replication/store.h. One writer connection, used
 * by one thread, does commits and checkpoints; any number of read-only ones, each for one thread at
 * a time. Only files *_sqlite.c include sqlite3.h. */
#ifndef BATON_QUEUE_STORE_SQLITE_H
#define BATON_QUEUE_STORE_SQLITE_H

#include "replication/store.h"

/* A message is in the first of these that one of its unfinished recipients is in. */
enum message_class {
    CLASS_HELD,
    CLASS_QUARANTINED,
    CLASS_IN_DOUBT,
    CLASS_DEFERRED,
    CLASS_QUEUED,
    CLASSES
};

/* Opens or creates the store at path for writing and takes it for this process (flock on
 * `path.lock`). NULL: err (size n) holds one line with the remedy. */
struct store *store_sqlite_open(const char *path, const char *cluster, char *err, size_t n);
/* A read-only connection to a store that is open for writing in this process. Its begin() takes a
 * snapshot (get_meta() tells the meta of it), rollback() ends it; nothing else changes anything. */
struct store *store_sqlite_open_reader(const char *path, char *err, size_t n);
void store_sqlite_close(struct store *s);

/* A store that saw an error of its disk, or found itself damaged, is checked when it is opened the
 * next time: PATH.check beside it, durably, says so. */
void store_sqlite_mark(const char *path);
bool store_sqlite_marked(const char *path);
void store_sqlite_unmark_check(const char *path);
/* Whether any connection of this process has found damage since this was asked last. */
bool store_sqlite_saw_damage(void);
/* SQLite's quick_check, table by table; progress is called before each of them and now and then in
 * between, and ends the check by returning false (STORE_CONFLICT). STORE_CORRUPT: the store is
 * damaged; detail (size n) has the first finding. */
typedef bool (*store_sqlite_progress_fn)(void *ctx, const char *table, unsigned i, unsigned tables);
int store_sqlite_check(struct store *s, store_sqlite_progress_fn progress, void *ctx, char *detail,
                       size_t n);
/* A damaged file can't be emptied: it is moved to PATH.damaged (an earlier one goes) and a new
 * store takes its place, as after a wipe: meta is what it begins with. Readers have to open anew.
 */
int store_sqlite_replace(struct store *s, const struct store_meta *meta);

/* Messages per class; kept with every change, exact, without those of an open transaction. */
void store_sqlite_counts(struct store *s, uint64_t out[CLASSES]);
/* received_ms of the oldest live message; 0: none. */
int64_t store_sqlite_oldest(struct store *s);
/* Moves the WAL into the database when it has grown; between transactions only. STORE_OK, or an
 * error after which this store must not be written to (a flush failed). */
int store_sqlite_checkpoint(struct store *s);
/* It has grown by so much that the next transaction had better wait. */
bool store_sqlite_checkpoint_overdue(const struct store *s);
/* Commits in two steps: while `on`, commit() writes, and is durable once store_sqlite_flush() has
 * returned STORE_OK, which is to be told to store_sqlite_flushed() before the next commit or
 * checkpoint. False: this store can't, and commits as ever. */
bool store_sqlite_defer(struct store *s, bool on);
int store_sqlite_flush(const struct store *s); /* any thread, beside a transaction */
void store_sqlite_flushed(struct store *s);
/* It has failed: meta is again what it was before those commits. */
void store_sqlite_unflushed(struct store *s, const struct store_meta *before);
/* Unfinished recipients that a selector means, after (id, index), as (u64 id, u32 index) appended
 * to keys; at most limit. On a reader. */
struct selector;
int store_sqlite_select(struct store *s, const struct selector *what, int64_t now_ms, uint64_t *id,
                        uint32_t *index, unsigned limit, struct buf *keys, bool *more);
/* Is the body of this live message, as its row stands here, what its checksum says? STORE_CORRUPT:
 * no. A message without body: it is. */
int store_sqlite_body(struct store *s, const struct row_message *m);
/* Digests (replication/digest.h) of messages with ids above `after` up to `upto`, appended to out:
 * at most `limit`, and not much more than 4 MiB of bodies. live: without those that are done.
 * *last: the last one looked at; *more. */
int store_sqlite_digests(struct store *s, uint64_t after, uint64_t upto, bool live, unsigned limit,
                         struct buf *out, uint64_t *last, bool *more);
/* Rows of one message (SR_ROWS in replication/port.h). */
int store_sqlite_rows(struct store *s, uint64_t id, uint32_t from, size_t limit, struct buf *out,
                      uint32_t *next, bool *more);
/* Is this address never sent to? */
int store_sqlite_suppressed(struct store *s, struct slice address, bool *yes);
/* Quarantined, unheld recipients whose next_ms has come, encoded; at most limit. */
int store_sqlite_due_quarantined(struct store *s, int64_t now_ms, unsigned limit, struct buf *rows);
/* (first 8 bytes of the body's hash, id) of every message with a quarantined recipient. */
typedef void (*store_sqlite_quarantined_fn)(void *ctx, uint64_t prefix, uint64_t id);
int store_sqlite_quarantined(struct store *s, unsigned limit, store_sqlite_quarantined_fn fn,
                             void *ctx);
/* One read of storage_uv.h, into r's result fields. On a reader. */
struct storage_read;
void store_sqlite_read(struct store *s, struct storage_read *r, int64_t now_ms);
/* The last error of SQLite, for the log. */
const char *store_sqlite_error(struct store *s);
#endif
