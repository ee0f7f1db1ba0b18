/* See voter_posix.h. Row: "BTNV", format u8, cluster, voter state (register_msg.c), SHA-256. */
#include "health/voter_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/base/protocol.h"

enum { ROW_BYTES_MAX = 1024, SUM_BYTES = 32, CLUSTER_BYTES_MAX = 255 };
static const char row_magic[4] = {'B', 'T', 'N', 'V'};
static const char boot_magic[4] = {'B', 'T', 'N', 'B'};

static bool sync_directory(const char *path)
{
    char *copy = xstrdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return ok;
}

static bool write_all(int fd, struct slice s)
{
    while (s.n) {
        ssize_t n = write(fd, s.p, s.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        s.p += n;
        s.n -= (size_t)n;
    }
    return true;
}

static bool replace(const char *path, struct slice s, char *err, size_t n)
{
    char temp[PATH_MAX];
    if ((size_t)snprintf(temp, sizeof temp, "%s.new", path) >= sizeof temp) {
        snprintf(err, n, "%s: the path is too long", path);
        return false;
    }
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && write_all(fd, s) && fsync(fd) == 0;
    if (fd >= 0 && close(fd) != 0)
        ok = false;
    ok = ok && rename(temp, path) == 0 && sync_directory(path);
    if (!ok)
        snprintf(err, n, "%s: can't be written: %s", path, strerror(errno));
    return ok;
}

/* Bytes read; -1: err is set, or *missing. */
static ssize_t slurp(const char *path, uint8_t out[ROW_BYTES_MAX], bool *missing, char *err,
                     size_t n)
{
    *missing = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, out, ROW_BYTES_MAX) : -1;
    if (got < 0) {
        *missing = errno == ENOENT;
        snprintf(err, n, "%s: can't be read: %s", path, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return got;
}

/* Cuts the checksum off; false if it doesn't fit. */
static bool checked(struct slice *s)
{
    if (s->n < SUM_BYTES)
        return false;
    uint8_t sum[SUM_BYTES];
    s->n -= SUM_BYTES;
    crypto_sha256(*s, sum);
    return memcmp(sum, s->p + s->n, SUM_BYTES) == 0;
}

static bool seal(struct buf *b)
{
    uint8_t sum[SUM_BYTES];
    crypto_sha256(buf_slice(b), sum);
    return buf_append(b, sum, SUM_BYTES);
}

static enum voter_file parse(const char *path, const char *cluster, struct slice s,
                             struct voter_state *state, char *err, size_t n)
{
    if (!checked(&s) || s.n < 5 || memcmp(s.p, row_magic, 4) != 0)
        return VOTER_FILE_DAMAGED;
    if (!protocol_reads(s.p[4])) {
        snprintf(err, n,
                 "%s: written by another version (format %u, this program reads %d to %d); "
                 "install that version again",
                 path, s.p[4], (int)PROTOCOL_OLDEST, (int)PROTOCOL);
        return VOTER_FILE_FOREIGN;
    }
    struct wire_reader r = wire_read(slice_of(s.p + 5, s.n - 5));
    struct slice name = wire_get_bytes(&r, CLUSTER_BYTES_MAX);
    if (!r.bad && !slice_eq(name, slice_str(cluster))) {
        snprintf(err, n,
                 "%s: belongs to cluster \"%.*s\", not to \"%s\"; give this one a store "
                 "of its own",
                 path, (int)name.n, (const char *)name.p, cluster);
        return VOTER_FILE_FOREIGN;
    }
    if (r.bad || !voter_state_decode(slice_of(r.p, r.n), state))
        return VOTER_FILE_DAMAGED;
    return VOTER_FILE_READ;
}

enum voter_file voter_file_load(const char *path, const char *cluster, uint64_t fresh_id,
                                struct voter_state *state, char *err, size_t n)
{
    uint8_t bytes[ROW_BYTES_MAX];
    bool missing;
    ssize_t got = slurp(path, bytes, &missing, err, n);
    if (got < 0 && !missing)
        return VOTER_FILE_ERROR;
    enum voter_file what = VOTER_FILE_FRESH;
    if (got >= 0)
        what = parse(path, cluster, slice_of(bytes, (size_t)got), state, err, n);
    if (what == VOTER_FILE_DAMAGED) {
        char aside[PATH_MAX];
        if ((size_t)snprintf(aside, sizeof aside, "%s.damaged", path) >= sizeof aside ||
            rename(path, aside) != 0) {
            snprintf(err, n, "%s: damaged, and can't be moved aside: %s", path, strerror(errno));
            return VOTER_FILE_ERROR;
        }
        snprintf(err, n,
                 "%s: damaged, kept as %s.damaged; this voter counts as emptied and votes "
                 "again once it has met both others",
                 path, path);
    }
    if (what == VOTER_FILE_FRESH || what == VOTER_FILE_DAMAGED)
        *state = (struct voter_state){.voter_id = fresh_id};
    return what;
}

bool voter_file_store(const char *path, const char *cluster, const struct voter_state *state,
                      char *err, size_t n)
{
    struct buf b;
    buf_init(&b, ROW_BYTES_MAX);
    bool ok = wire_put_raw(&b, row_magic, 4) && wire_put_u8(&b, PROTOCOL) &&
              wire_put_bytes(&b, slice_str(cluster)) && voter_state_encode(&b, state) && seal(&b);
    if (!ok)
        snprintf(err, n, "%s: the cluster's name is too long", path);
    ok = ok && replace(path, buf_slice(&b), err, n);
    buf_free(&b);
    return ok;
}

bool boot_counter_next(const char *path, uint64_t wall_s, uint64_t *counter, char *err, size_t n)
{
    uint8_t bytes[ROW_BYTES_MAX];
    bool missing;
    ssize_t got = slurp(path, bytes, &missing, err, n);
    if (got < 0 && !missing)
        return false;
    uint64_t last = 0;
    struct slice s = slice_of(bytes, got < 0 ? 0 : (size_t)got);
    /* A damaged one is as good as none: the wall clock stands in. */
    if (checked(&s) && s.n == 12 && memcmp(s.p, boot_magic, 4) == 0) {
        struct wire_reader r = wire_read(slice_of(s.p + 4, 8));
        last = wire_get_u64(&r);
    }
    *counter = last + 1 > wall_s ? last + 1 : wall_s;
    struct buf b;
    buf_init(&b, ROW_BYTES_MAX);
    bool ok = wire_put_raw(&b, boot_magic, 4) && wire_put_u64(&b, *counter) && seal(&b) &&
              replace(path, buf_slice(&b), err, n);
    buf_free(&b);
    return ok;
}
