/* See wal_sqlite.h. Gathered bytes are written before the log is flushed, read, measured, cut or
 * closed, and when a write doesn't continue them, so that whoever asks this file finds what was
 * written to it. Other connections read the log only as far as a commit has shown it in the shared
 * index, which is after that. Flushing again what was flushed is left out: who moves the log
 * into the database flushes it first, which the commits have done. An error of a write that was put
 * off is the answer of the call that carries it out, and of the next flush, too: a transaction that
 * went on after a read failed for it would else be committed with pages that aren't there.
 *
 * Deferred, a commit's flush is left to somebody else (group_uv.c answers for it). What a crash
 * leaves of the log is read up to the first frame that doesn't fit the checksums before it, so
 * later commits never stand without earlier ones. The flush of the head of a log that is begun anew
 * is never left out: behind an old head new frames would be taken for what they aren't. */
#include "node/queue/wal_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum {
    /* Some fifteen pages in one write. SQLite's own file system layer takes less than 128 KiB at
       once. */
    GATHER_BYTES = 124 << 10
};

struct wal_log {
    sqlite3_file base;
    sqlite3_file *real;
    unsigned char *bytes; /* GATHER_BYTES */
    int n;
    sqlite3_int64 at;          /* where they belong */
    int failed;                /* of a write that was put off, until a flush has told it */
    bool flushed;              /* nothing was written since */
    int fd;                    /* of its own, to flush beside SQLite; -1: none */
    bool deferring, head;      /* head: the log was begun anew, and that isn't flushed */
    uint64_t writes, deferred; /* so many there were; at the last flush that was left out */
};

static sqlite3_vfs vfs, *real_vfs;

static struct wal_log *log_of(sqlite3_file *f)
{
    return (struct wal_log *)f;
}

static int carry_out(struct wal_log *l)
{
    int n = l->n, rc = SQLITE_OK;
    l->n = 0;
    if (n) {
        l->flushed = false;
        rc = l->real->pMethods->xWrite(l->real, l->bytes, n, l->at);
    }
    if (rc != SQLITE_OK)
        l->failed = rc;
    return rc;
}

static int on_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    struct wal_log *l = log_of(f);
    if (l->n && (at != l->at + l->n || n > GATHER_BYTES - l->n)) {
        int rc = carry_out(l);
        if (rc != SQLITE_OK)
            return rc;
    }
    l->flushed = false;
    l->head = l->head || at == 0;
    l->writes++;
    if (n > GATHER_BYTES)
        return l->real->pMethods->xWrite(l->real, p, n, at);
    if (!l->n)
        l->at = at;
    memcpy(l->bytes + l->n, p, (size_t)n);
    l->n += n;
    return SQLITE_OK;
}

static int on_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
    struct wal_log *l = log_of(f);
    int rc = carry_out(l);
    return rc != SQLITE_OK ? rc : l->real->pMethods->xRead(l->real, p, n, at);
}

static int on_sync(sqlite3_file *f, int flags)
{
    struct wal_log *l = log_of(f);
    carry_out(l);
    int rc = l->failed;
    l->failed = SQLITE_OK;
    if (rc == SQLITE_OK && l->deferring && !l->head) {
        l->deferred = l->writes;
        return SQLITE_OK;
    }
    if (rc == SQLITE_OK && !l->flushed)
        rc = l->real->pMethods->xSync(l->real, flags);
    l->flushed = rc == SQLITE_OK;
    l->head = l->head && !l->flushed;
    return rc;
}

static int on_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    struct wal_log *l = log_of(f);
    int rc = carry_out(l);
    l->flushed = false;
    return rc != SQLITE_OK ? rc : l->real->pMethods->xTruncate(l->real, size);
}

static int on_size(sqlite3_file *f, sqlite3_int64 *size)
{
    struct wal_log *l = log_of(f);
    int rc = carry_out(l);
    return rc != SQLITE_OK ? rc : l->real->pMethods->xFileSize(l->real, size);
}

static int on_close(sqlite3_file *f)
{
    struct wal_log *l = log_of(f);
    int rc = carry_out(l);
    int closed = l->real->pMethods->xClose(l->real);
    sqlite3_free(l->bytes);
    if (l->fd >= 0)
        close(l->fd);
    return rc != SQLITE_OK ? rc : closed;
}

static int on_lock(sqlite3_file *f, int level)
{
    return log_of(f)->real->pMethods->xLock(log_of(f)->real, level);
}

static int on_unlock(sqlite3_file *f, int level)
{
    return log_of(f)->real->pMethods->xUnlock(log_of(f)->real, level);
}

static int on_check_lock(sqlite3_file *f, int *out)
{
    return log_of(f)->real->pMethods->xCheckReservedLock(log_of(f)->real, out);
}

static int on_control(sqlite3_file *f, int op, void *arg)
{
    return log_of(f)->real->pMethods->xFileControl(log_of(f)->real, op, arg);
}

static int on_sector(sqlite3_file *f)
{
    return log_of(f)->real->pMethods->xSectorSize(log_of(f)->real);
}

static int on_character(sqlite3_file *f)
{
    return log_of(f)->real->pMethods->xDeviceCharacteristics(log_of(f)->real);
}

static const sqlite3_io_methods methods = {
    .iVersion = 1,
    .xClose = on_close,
    .xRead = on_read,
    .xWrite = on_write,
    .xTruncate = on_truncate,
    .xSync = on_sync,
    .xFileSize = on_size,
    .xLock = on_lock,
    .xUnlock = on_unlock,
    .xCheckReservedLock = on_check_lock,
    .xFileControl = on_control,
    .xSectorSize = on_sector,
    .xDeviceCharacteristics = on_character,
};

static int on_open(sqlite3_vfs *v, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
    sqlite3_vfs *real = real_vfs;
    (void)v;
    if (!(flags & SQLITE_OPEN_WAL))
        return real->xOpen(real, name, f, flags, out);
    struct wal_log *l = log_of(f);
    memset(l, 0, sizeof *l);
    l->real = (sqlite3_file *)(l + 1);
    l->bytes = sqlite3_malloc(GATHER_BYTES);
    int rc = l->bytes ? real->xOpen(real, name, l->real, flags, out) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        l->base.pMethods = &methods;
        l->fd = open(name, O_RDONLY | O_CLOEXEC);
    } else {
        if (l->bytes && l->real->pMethods)
            l->real->pMethods->xClose(l->real);
        sqlite3_free(l->bytes);
    }
    return rc;
}

static void set_up(void)
{
    /* Statistics of memory cost a lock at each of some seventy allocations a message. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    real_vfs = sqlite3_vfs_find(NULL);
    if (!real_vfs)
        return;
    vfs = *real_vfs; /* whatever else it does it does for the other files, too */
    vfs.pNext = NULL;
    vfs.zName = "baton";
    vfs.szOsFile = (int)sizeof(struct wal_log) + real_vfs->szOsFile;
    vfs.xOpen = on_open;
    if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK)
        vfs.zName = NULL;
}

struct wal_log *wal_sqlite_log(void *db)
{
    sqlite3_file *f = NULL;
    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &f) != SQLITE_OK || !f ||
        f->pMethods != &methods || log_of(f)->fd < 0)
        return NULL;
    return log_of(f);
}

void wal_sqlite_defer(struct wal_log *l, bool on)
{
    l->deferring = on;
}

int wal_sqlite_flush(const struct wal_log *l)
{
    return fdatasync(l->fd) == 0 ? 0 : errno;
}

void wal_sqlite_flushed(struct wal_log *l)
{
    l->flushed = l->flushed || l->writes == l->deferred;
}

const char *wal_sqlite_vfs(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up);
    return vfs.zName;
}
