/* See wal_sqlite.h. Gathered bytes are written before the log is flushed, read, measured, cut or
 * closed, and when a write doesn't continue them, so that whoever asks this file finds what was
 * written to it. Other connections read the log only as far as a commit has shown it in the shared
 * index, which is after the flush. Flushing again what was flushed is left out: who moves the log
 * into the database flushes it first, which the commits have done. An error of a write that was put
 * off is the answer of the call that carries it out, and of the next flush, too: a transaction that
 * went on after a read failed for it would else be committed with pages that aren't there. */
#include "node/queue/wal_sqlite.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>

enum {
    /* Some fifteen pages in one write. SQLite's own file system layer takes less than 128 KiB at
       once. */
    GATHER_BYTES = 124 << 10
};

struct log_file {
    sqlite3_file base;
    sqlite3_file *real;
    unsigned char *bytes; /* GATHER_BYTES */
    int n;
    sqlite3_int64 at; /* where they belong */
    int failed;       /* of a write that was put off, until a flush has told it */
    bool flushed;     /* nothing was written since */
};

static sqlite3_vfs vfs, *real_vfs;

static struct log_file *log_of(sqlite3_file *f)
{
    return (struct log_file *)f;
}

static int carry_out(struct log_file *l)
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
    struct log_file *l = log_of(f);
    if (l->n && (at != l->at + l->n || n > GATHER_BYTES - l->n)) {
        int rc = carry_out(l);
        if (rc != SQLITE_OK)
            return rc;
    }
    l->flushed = false;
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
    struct log_file *l = log_of(f);
    int rc = carry_out(l);
    return rc != SQLITE_OK ? rc : l->real->pMethods->xRead(l->real, p, n, at);
}

static int on_sync(sqlite3_file *f, int flags)
{
    struct log_file *l = log_of(f);
    carry_out(l);
    int rc = l->failed;
    l->failed = SQLITE_OK;
    if (rc == SQLITE_OK && !l->flushed)
        rc = l->real->pMethods->xSync(l->real, flags);
    l->flushed = rc == SQLITE_OK;
    return rc;
}

static int on_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    struct log_file *l = log_of(f);
    int rc = carry_out(l);
    l->flushed = false;
    return rc != SQLITE_OK ? rc : l->real->pMethods->xTruncate(l->real, size);
}

static int on_size(sqlite3_file *f, sqlite3_int64 *size)
{
    struct log_file *l = log_of(f);
    int rc = carry_out(l);
    return rc != SQLITE_OK ? rc : l->real->pMethods->xFileSize(l->real, size);
}

static int on_close(sqlite3_file *f)
{
    struct log_file *l = log_of(f);
    int rc = carry_out(l);
    int closed = l->real->pMethods->xClose(l->real);
    sqlite3_free(l->bytes);
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
    struct log_file *l = log_of(f);
    memset(l, 0, sizeof *l);
    l->real = (sqlite3_file *)(l + 1);
    l->bytes = sqlite3_malloc(GATHER_BYTES);
    int rc = l->bytes ? real->xOpen(real, name, l->real, flags, out) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        l->base.pMethods = &methods;
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
    vfs.szOsFile = (int)sizeof(struct log_file) + real_vfs->szOsFile;
    vfs.xOpen = on_open;
    if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK)
        vfs.zName = NULL;
}

const char *wal_sqlite_vfs(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up);
    return vfs.zName;
}
