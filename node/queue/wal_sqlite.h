/* How SQLite's write-ahead log reaches the disk: in few large writes. SQLite writes each page of it
 * by two calls, some five a message; here what is contiguous is gathered and written when the log
 * is flushed, which a commit does (synchronous=FULL) before anybody is shown its pages. */
#ifndef BATON_QUEUE_WAL_SQLITE_H
#define BATON_QUEUE_WAL_SQLITE_H

/* Name of the VFS, for sqlite3_open_v2(): the default one, but for the log. Registers it at first
 * use; NULL: it can't be. Any thread. */
const char *wal_sqlite_vfs(void);

#endif
