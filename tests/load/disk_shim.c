/* A disk that can be slow, hang, fail, fill up and lose power, for any program: LD_PRELOAD.
 *
 *   DISK_SHIM_PREFIX    files whose path begins with it are on this disk (all of a store's do)
 *   DISK_SHIM_CONTROL   the control file (disk_shim.h), mapped: orders take effect at once
 *   DISK_SHIM_JOURNAL   optional: the undo journal, for power loss
 *
 * Slow (mb_s): what a file was written since its last flush goes to the disk with the next one, or
 * with a sync_file_range, behind all that was sent there before, of any process; a flush waits for
 * it.
 *
 * Power loss: SIGKILL leaves everything in the kernel's cache, so a kill alone shows nothing.
 * Before each change the shim writes down how to take it back, and forgets that once an fsync or
 * fdatasync of the file has succeeded (for names: an fsync of the directory). After a SIGKILL
 * disk.py applies what is left, and the files are as if only what was flushed had reached the disk.
 * A failed flush is never made good by a later one, as Linux has it.
 *
 * One lock around each change and its record keeps their order; flushes run outside of it. Memory
 * maps aren't seen: SQLite's -shm is no durable state. One process writes a journal. */
#include "disk_shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FDS = 65536, INODES = 256, LINKS = 64, OLD_BYTES = 1 << 20 };
enum fd_kind { FD_OTHER, FD_FILE, FD_DIRECTORY };

/* What of a file isn't on disk. */
struct inode {
    uint64_t inode, first, last; /* records; 0: clean */
    bool spoiled;                /* a flush failed */
};

static struct {
    pthread_mutex_t lock;
    char prefix[PATH_MAX], directory[PATH_MAX], journal_path[PATH_MAX];
    size_t prefix_n;
    volatile struct disk_control *control;
    int journal;
    uint64_t number;       /* of the newest record */
    uint64_t names[LINKS]; /* records about names that aren't on disk */
    unsigned n_names;
    unsigned char kind[FDS];
    struct inode inodes[INODES];
    unsigned n_inodes;
    _Atomic uint64_t dirty[256]; /* bytes, by inode */
} shim = {.lock = PTHREAD_MUTEX_INITIALIZER, .journal = -1};

static struct {
    int (*open)(const char *, int, ...);
    int (*openat)(int, const char *, int, ...);
    int (*close)(int);
    ssize_t (*write)(int, const void *, size_t);
    ssize_t (*writev)(int, const struct iovec *, int);
    ssize_t (*pwrite)(int, const void *, size_t, off_t);
    ssize_t (*pwritev)(int, const struct iovec *, int, off_t);
    int (*fsync)(int);
    int (*fdatasync)(int);
    int (*sync_file_range)(int, off_t, off_t, unsigned);
    int (*ftruncate)(int, off_t);
    int (*fallocate)(int, int, off_t, off_t);
    int (*posix_fallocate)(int, off_t, off_t);
    int (*rename)(const char *, const char *);
    int (*unlink)(const char *);
} real;

static void find(const char *name, void *to)
{
    void *at = dlsym(RTLD_NEXT, name);
    memcpy(to, &at, sizeof at);
}

static struct inode *inode_of(uint64_t number);

/* A process before this one left something that isn't on disk: its end by itself flushes nothing.
 */
static void resume(void)
{
    struct disk_undo u;
    off_t at = 0;
    while (pread(shim.journal, &u, sizeof u, at) == sizeof u) {
        struct stat st;
        if (fstat(shim.journal, &st) < 0 || at + (off_t)(sizeof u + u.bytes) > st.st_size)
            break; /* cut by the end of that process */
        at += (off_t)(sizeof u + u.bytes);
        shim.number = u.number;
        struct inode *i =
            u.type == UNDO_CONTENT || u.type == UNDO_SYNCED ? inode_of(u.inode) : NULL;
        if (u.type == UNDO_CONTENT) {
            i->last = u.number;
            i->first = i->first ? i->first : u.number;
        } else if (u.type == UNDO_SYNCED) {
            i->first = i->last > u.offset ? u.offset + 1 : 0;
        } else if (u.type == UNDO_NAMES_SYNCED) {
            unsigned left = 0;
            for (unsigned k = 0; k < shim.n_names; k++)
                if (shim.names[k] > u.offset)
                    shim.names[left++] = shim.names[k];
            shim.n_names = left;
        } else if (shim.n_names < LINKS) {
            shim.names[shim.n_names++] = u.number;
        }
    }
    if (real.ftruncate(shim.journal, at) < 0)
        abort();
}

__attribute__((constructor)) static void begin(void)
{
    if (real.open)
        return;
    find("openat", &real.openat);
    find("close", &real.close);
    find("write", &real.write);
    find("writev", &real.writev);
    find("pwrite", &real.pwrite);
    find("pwritev", &real.pwritev);
    find("fsync", &real.fsync);
    find("fdatasync", &real.fdatasync);
    find("sync_file_range", &real.sync_file_range);
    find("ftruncate", &real.ftruncate);
    find("fallocate", &real.fallocate);
    find("posix_fallocate", &real.posix_fallocate);
    find("rename", &real.rename);
    find("unlink", &real.unlink);
    find("open", &real.open);
    const char *prefix = getenv("DISK_SHIM_PREFIX"), *control = getenv("DISK_SHIM_CONTROL"),
               *journal = getenv("DISK_SHIM_JOURNAL");
    if (!prefix || !control)
        return;
    int fd = real.open(control, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED
                      : mmap(NULL, sizeof *shim.control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "disk_shim: %s: %s\n", control, strerror(errno));
        abort();
    }
    real.close(fd);
    shim.control = at;
    shim.prefix_n = strlen(prefix);
    snprintf(shim.prefix, sizeof shim.prefix, "%s", prefix);
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", prefix);
    snprintf(shim.directory, sizeof shim.directory, "%s", dirname(copy));
    if (!journal)
        return;
    snprintf(shim.journal_path, sizeof shim.journal_path, "%s", journal);
    shim.journal = real.open(journal, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (shim.journal < 0)
        abort();
    resume();
}

/* ---- the journal ---- */

static uint64_t record(struct disk_undo u, const void *payload, size_t n)
{
    u.bytes = (uint32_t)n;
    u.number = ++shim.number;
    struct iovec v[2] = {{&u, sizeof u}, {(void *)payload, n}};
    if (real.writev(shim.journal, v, 2) != (ssize_t)(sizeof u + n)) {
        fprintf(stderr, "disk_shim: %s: %s\n", shim.journal_path, strerror(errno));
        abort();
    }
    return u.number;
}

static struct inode *inode_of(uint64_t number)
{
    for (unsigned i = 0; i < shim.n_inodes; i++)
        if (shim.inodes[i].inode == number)
            return &shim.inodes[i];
    if (shim.n_inodes == INODES)
        abort();
    shim.inodes[shim.n_inodes] = (struct inode){.inode = number};
    return &shim.inodes[shim.n_inodes++];
}

/* All is on disk: the journal begins anew. */
static void shrink(void)
{
    for (unsigned i = 0; i < shim.n_inodes; i++)
        if (shim.inodes[i].first)
            return;
    if (shim.n_names)
        return;
    shim.n_inodes = 0;
    if (real.ftruncate(shim.journal, 0) < 0)
        abort();
}

/* What lies in [offset, offset + n), and the size, before that is changed. */
static void keep_content(int fd, off_t offset, size_t n)
{
    static uint8_t old[OLD_BYTES];
    struct stat st;
    if (shim.journal < 0 || fstat(fd, &st) < 0)
        return;
    struct inode *i = inode_of((uint64_t)st.st_ino);
    off_t end = offset + (off_t)n < st.st_size ? offset + (off_t)n : st.st_size;
    do {
        size_t here = offset < end ? (size_t)(end - offset) : 0;
        if (here > sizeof old)
            here = sizeof old;
        if (here && pread(fd, old, here, offset) != (ssize_t)here)
            abort();
        i->last = record((struct disk_undo){.type = UNDO_CONTENT,
                                            .inode = i->inode,
                                            .offset = (uint64_t)offset,
                                            .size = (uint64_t)st.st_size},
                         old, here);
        if (!i->first)
            i->first = i->last;
        offset += (off_t)here;
    } while (offset < end);
}

/* Strings one after the other, each with its \0. */
static void record_names(enum disk_undo_type type, const char *one, const char *two,
                         const char *three)
{
    const char *all[] = {one, two, three};
    char payload[3 * PATH_MAX];
    size_t n = 0;
    for (unsigned i = 0; i < 3; i++) {
        size_t k = all[i] ? strlen(all[i]) + 1 : 0;
        if (k)
            memcpy(payload + n, all[i], k);
        n += k;
    }
    if (shim.n_names == LINKS)
        abort();
    shim.names[shim.n_names++] = record((struct disk_undo){.type = type}, payload, n);
}

/* The link beside the journal that keeps what the record of that number is about. */
static void link_name(uint64_t number, char out[PATH_MAX])
{
    if ((size_t)snprintf(out, PATH_MAX, "%s.%llu", shim.journal_path, (unsigned long long)number) >=
        PATH_MAX)
        abort();
}

/* Keeps what is about to lose its name in the next record. False: there is nothing. */
static bool keep_file(const char *path, char out[PATH_MAX])
{
    link_name(shim.number + 1, out);
    real.unlink(out);
    return link(path, out) == 0;
}

/* The directory is on disk: files without a name are gone for good. */
static void names_on_disk(uint64_t upto)
{
    unsigned left = 0;
    for (unsigned i = 0; i < shim.n_names; i++) {
        char path[PATH_MAX];
        struct stat st;
        if (shim.names[i] > upto) {
            shim.names[left++] = shim.names[i];
            continue;
        }
        link_name(shim.names[i], path);
        if (stat(path, &st) == 0) {
            struct inode *gone = inode_of((uint64_t)st.st_ino);
            if (st.st_nlink == 1 && gone->first) {
                record((struct disk_undo){.type = UNDO_SYNCED,
                                          .inode = gone->inode,
                                          .offset = shim.number},
                       NULL, 0);
                gone->first = 0;
            }
            real.unlink(path);
        }
    }
    shim.n_names = left;
    record((struct disk_undo){.type = UNDO_NAMES_SYNCED, .offset = upto}, NULL, 0);
}

/* ---- orders ---- */

static void hang(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    if (!shim.control->stall)
        return;
    __atomic_add_fetch(&shim.control->stalled, 1, __ATOMIC_RELAXED);
    while (shim.control->stall)
        nanosleep(&pause, NULL);
}

/* Takes one of *count failures: its errno, or 0. */
static int failure(volatile uint32_t *error, volatile uint32_t *count)
{
    uint32_t left = *count;
    if (!*error || !left)
        return 0;
    if (left != UINT32_MAX)
        *count = left - 1;
    shim.control->failed++;
    return (int)*error;
}

static bool ours(const char *path)
{
    char whole[PATH_MAX];
    if (!shim.control || !path)
        return false;
    if (path[0] != '/' && shim.journal < 0) { /* a peer that works in its spool's directory */
        size_t n = getcwd(whole, sizeof whole) ? strlen(whole) : 0;
        if (n == 0 || n + 1 + strlen(path) >= sizeof whole)
            return false;
        whole[n] = '/';
        strcpy(whole + n + 1, path);
        path = whole;
    }
    if (strncmp(path, shim.prefix, shim.prefix_n) != 0)
        return false;
    size_t n = strlen(path);
    return n < 4 || strcmp(path + n - 4, "-shm") != 0; /* SQLite's memory, no state */
}

static enum fd_kind kind_of(int fd)
{
    return fd >= 0 && fd < FDS ? (enum fd_kind)shim.kind[fd] : FD_OTHER;
}

/* Where bytes of that file are counted which no flush has sent to the disk; NULL: they aren't. */
static _Atomic uint64_t *dirty_of(int fd)
{
    struct stat st;
    if (!shim.control->mb_s || fstat(fd, &st) < 0)
        return NULL;
    return &shim.dirty[st.st_ino % (sizeof shim.dirty / sizeof shim.dirty[0])];
}

static void written(int fd, size_t n)
{
    _Atomic uint64_t *dirty = dirty_of(fd);
    if (dirty)
        *dirty += n;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What was written to it goes to the disk now. Returns when all of that will be there, 0: is. The
 * order is read once: it may be taken back meanwhile. */
static uint64_t sent_until(int fd)
{
    uint32_t mb_s = shim.control->mb_s;
    _Atomic uint64_t *dirty = mb_s ? dirty_of(fd) : NULL;
    uint64_t bytes = dirty ? __atomic_exchange_n((uint64_t *)dirty, 0, __ATOMIC_RELAXED) : 0;
    volatile uint64_t *busy = &shim.control->busy_until_ns;
    uint64_t was = *busy, until, now = now_ns();
    do
        until = (was > now ? was : now) + (bytes ? bytes * 1000 / mb_s : 0);
    while (bytes && !__atomic_compare_exchange_n(busy, &was, until, false, __ATOMIC_RELAXED,
                                                 __ATOMIC_RELAXED));
    return dirty ? until : 0;
}

static void wait_until(uint64_t ns)
{
    const struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u),
                               .tv_nsec = (long)(ns % 1000000000u)};
    while (ns && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* Before a write: it may hang, and fail. With the lock held if it returns true. */
static bool may_write(void)
{
    hang();
    pthread_mutex_lock(&shim.lock);
    shim.control->writes++;
    int e = failure(&shim.control->write_errno, &shim.control->write_count);
    if (!e)
        return true;
    pthread_mutex_unlock(&shim.lock);
    errno = e;
    return false;
}

#define WITH_LOCK_HELD(type, call)                                                                 \
    type result_ = (call);                                                                         \
    int error_ = errno;                                                                            \
    pthread_mutex_unlock(&shim.lock);                                                              \
    errno = error_;                                                                                \
    return result_

/* ---- files ---- */

static int open_here(int at, const char *path, int flags, mode_t mode)
{
    begin();
    if (!ours(path)) {
        int fd = real.openat(at, path, flags, mode);
        bool directory = fd >= 0 && fd < FDS && shim.control && strcmp(path, shim.directory) == 0;
        if (fd >= 0 && fd < FDS)
            shim.kind[fd] = directory ? FD_DIRECTORY : FD_OTHER;
        return fd;
    }
    if (!(flags & (O_CREAT | O_TRUNC))) {
        int fd = real.openat(at, path, flags, mode);
        if (fd >= 0 && fd < FDS)
            shim.kind[fd] = FD_FILE;
        return fd;
    }
    hang();
    pthread_mutex_lock(&shim.lock);
    struct stat st;
    bool there = stat(path, &st) == 0;
    if (there && (flags & O_TRUNC) && shim.journal >= 0) {
        int old = real.openat(at, path, O_RDWR | O_CLOEXEC);
        if (old >= 0) {
            keep_content(old, 0, (size_t)st.st_size);
            inode_of((uint64_t)st.st_ino)->spoiled = false; /* nothing of the old is left */
            real.close(old);
        }
    }
    if (!there && shim.journal >= 0)
        record_names(UNDO_CREATED, path, NULL, NULL);
    int fd = real.openat(at, path, flags, mode);
    if (fd >= 0 && fd < FDS)
        shim.kind[fd] = FD_FILE;
    WITH_LOCK_HELD(int, fd);
}

#define MODE_OF(flags)                                                                             \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                         \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode = va_arg(ap, mode_t);                                                                 \
        va_end(ap);                                                                                \
    }

int open(const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_here(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE_OF(flags)
    return open_here(at, path, flags, mode);
}

int close(int fd)
{
    begin();
    if (fd >= 0 && fd < FDS)
        shim.kind[fd] = FD_OTHER;
    return real.close(fd);
}

static size_t bytes_of(const struct iovec *v, int n)
{
    size_t sum = 0;
    for (int i = 0; i < n; i++)
        sum += v[i].iov_len;
    return sum;
}

static off_t place_of(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return lseek(fd, 0, flags >= 0 && (flags & O_APPEND) ? SEEK_END : SEEK_CUR);
}

ssize_t write(int fd, const void *p, size_t n)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.write(fd, p, n);
    if (!may_write())
        return -1;
    keep_content(fd, place_of(fd), n);
    written(fd, n);
    WITH_LOCK_HELD(ssize_t, real.write(fd, p, n));
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.writev(fd, v, n);
    if (!may_write())
        return -1;
    keep_content(fd, place_of(fd), bytes_of(v, n));
    written(fd, bytes_of(v, n));
    WITH_LOCK_HELD(ssize_t, real.writev(fd, v, n));
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t offset)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.pwrite(fd, p, n, offset);
    if (!may_write())
        return -1;
    keep_content(fd, offset, n);
    written(fd, n);
    WITH_LOCK_HELD(ssize_t, real.pwrite(fd, p, n, offset));
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t offset)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.pwritev(fd, v, n, offset);
    if (!may_write())
        return -1;
    keep_content(fd, offset, bytes_of(v, n));
    written(fd, bytes_of(v, n));
    WITH_LOCK_HELD(ssize_t, real.pwritev(fd, v, n, offset));
}

int ftruncate(int fd, off_t size)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.ftruncate(fd, size);
    if (!may_write())
        return -1;
    struct stat st;
    if (fstat(fd, &st) == 0)
        keep_content(fd, size, st.st_size > size ? (size_t)(st.st_size - size) : 0);
    WITH_LOCK_HELD(int, real.ftruncate(fd, size));
}

int fallocate(int fd, int mode, off_t offset, off_t n)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.fallocate(fd, mode, offset, n);
    if (!may_write())
        return -1;
    keep_content(fd, offset, (size_t)n);
    WITH_LOCK_HELD(int, real.fallocate(fd, mode, offset, n));
}

int posix_fallocate(int fd, off_t offset, off_t n)
{
    begin();
    if (kind_of(fd) != FD_FILE)
        return real.posix_fallocate(fd, offset, n);
    if (!may_write())
        return errno;
    keep_content(fd, offset, 0);
    WITH_LOCK_HELD(int, real.posix_fallocate(fd, offset, n));
}

/* ---- flushing ---- */

static void flushed(int fd, uint64_t upto, bool good)
{
    struct stat st;
    pthread_mutex_lock(&shim.lock);
    if (kind_of(fd) == FD_DIRECTORY && good && shim.n_names) {
        names_on_disk(upto);
    } else if (kind_of(fd) == FD_FILE && fstat(fd, &st) == 0) {
        struct inode *i = inode_of((uint64_t)st.st_ino);
        i->spoiled = i->spoiled || (!good && i->first);
        if (good && !i->spoiled && i->first) {
            record((struct disk_undo){.type = UNDO_SYNCED, .inode = i->inode, .offset = upto}, NULL,
                   0);
            i->first = i->last > upto ? upto + 1 : 0; /* written while it was flushed: not yet */
        }
    }
    shrink();
    pthread_mutex_unlock(&shim.lock);
}

static int flush(int fd, int (*really)(int))
{
    if (kind_of(fd) == FD_OTHER)
        return really(fd);
    hang();
    pthread_mutex_lock(&shim.lock);
    uint64_t upto = shim.number;
    __atomic_fetch_add(&shim.control->syncs, 1, __ATOMIC_RELAXED); /* of several processes */
    int e = failure(&shim.control->sync_errno, &shim.control->sync_count);
    pthread_mutex_unlock(&shim.lock);
    wait_until(sent_until(fd));
    uint32_t ms = shim.control->flush_ms;
    const struct timespec slow = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
    if (ms)
        nanosleep(&slow, NULL);
    int rc = e ? -1 : really(fd);
    e = e ? e : errno;
    hang(); /* what hangs in the disk isn't there when the power goes */
    if (shim.journal >= 0)
        flushed(fd, upto, rc == 0);
    errno = e;
    return rc;
}

int fsync(int fd)
{
    begin();
    return flush(fd, real.fsync);
}

int fdatasync(int fd)
{
    begin();
    return flush(fd, real.fdatasync);
}

int sync_file_range(int fd, off_t offset, off_t n, unsigned flags)
{
    begin();
    if (kind_of(fd) == FD_FILE && (flags & SYNC_FILE_RANGE_WRITE))
        (void)sent_until(fd);
    return real.sync_file_range(fd, offset, n, flags);
}

/* ---- names ---- */

int rename(const char *from, const char *to)
{
    begin();
    if (!ours(from) && !ours(to))
        return real.rename(from, to);
    if (!may_write())
        return -1;
    if (shim.journal >= 0) {
        char kept[PATH_MAX];
        bool there = keep_file(to, kept);
        record_names(UNDO_RENAMED, from, to, there ? kept : "");
    }
    WITH_LOCK_HELD(int, real.rename(from, to));
}

int unlink(const char *path)
{
    begin();
    if (!ours(path))
        return real.unlink(path);
    if (!may_write())
        return -1;
    char kept[PATH_MAX];
    if (shim.journal >= 0 && keep_file(path, kept))
        record_names(UNDO_UNLINKED, path, kept, NULL);
    WITH_LOCK_HELD(int, real.unlink(path));
}

/* Programs for large files call these; on 64 bit they are the same. */
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat64(int at, const char *path, int flags, ...) __attribute__((alias("openat")));
ssize_t pwrite64(int fd, const void *p, size_t n, off_t offset) __attribute__((alias("pwrite")));
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t offset)
    __attribute__((alias("pwritev")));
int ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));
int fallocate64(int fd, int mode, off_t offset, off_t n) __attribute__((alias("fallocate")));
