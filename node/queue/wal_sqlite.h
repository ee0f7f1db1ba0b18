/* How SQLite's write-ahead log reaches the disk: in few large writes. SQLite writes each page of it
 * by two calls, some five a message; here what is contiguous is gathered and written when a commit
 * asks for its flush (synchronous=FULL), before anybody is shown its pages. */
#ifndef BATON_QUEUE_WAL_SQLITE_H
#define BATON_QUEUE_WAL_SQLITE_H

#include <stdbool.h>

/* Name of the VFS, for sqlite3_open_v2(): the default one, but for the log. Registers it at first
 * use; NULL: it can't be. Any thread. */
const char *wal_sqlite_vfs(void);

/* Flushes apart from commits, so that work goes on beside them. Between wal_sqlite_defer(true) and
 * (false) a commit writes and returns, and other connections see what isn't on the disk yet; it is
 * durable once a wal_sqlite_flush() that began behind it has returned 0. All but the flush itself:
 * on the thread of the connection. */
struct wal_log;
/* The log of a writing connection; valid until that is closed. NULL: it isn't open yet, or can't be
 * flushed apart. */
struct wal_log *wal_sqlite_log(void *db);
void wal_sqlite_defer(struct wal_log *l, bool on);
/* Any thread, one at a time, no commit beside it. 0, or errno. */
int wal_sqlite_flush(const struct wal_log *l);
/* The flush of all deferred commits so far has returned 0. */
void wal_sqlite_flushed(struct wal_log *l);

#endif
