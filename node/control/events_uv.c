/* See events_uv.h. One writer thread, which gathers for EVENTS_GATHER_MS what comes; callers only
 * copy bytes under a short lock, and wake nobody but the first. A line is lost
 * only when the disk doesn't keep up for longer than EVENTS_QUEUE_BYTES last, or refuses to write;
 * that is counted (events_dropped) and said in the log, never waited for: mail goes on. */
#include "node/control/events_uv.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <uv.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/control/event.h"

enum {
    EVENTS_QUEUE_BYTES = 16 << 20,  /* two seconds of 20,000 events of 400 bytes */
    EVENTS_WRITE_BYTES = 256 << 10, /* one write(2): enough to make its cost vanish */
    EVENTS_GATHER_MS = 10,        /* nobody who reads them sees it; waking twice a message costs */
    EVENTS_KEEP_BYTES = 1 << 20,  /* of memory, once it was needed */
    EVENTS_LINE_BYTES = 64 << 10, /* a reply is at most 512 bytes, an address 320 (RFC 5321) */
    EVENTS_FIELD_BYTES = 1024,    /* longer slices are cut: escaped six-fold, seven fit a line */
    EVENTS_FOLLOWERS = 32,        /* as many as the control socket has clients */
    EVENTS_COMPLAIN_MS = 10000,   /* at most one log line in that time about lost lines */
};

/* As it lies in the queue; the bytes of its fields follow. */
struct entry {
    size_t size;     /* with them */
    struct event ev; /* the slices have lengths only: the queue moves as it grows */
    int64_t wall_ms;
    uint32_t epoch;
};

struct follower {
    uint64_t token; /* 0: free */
    events_line_fn fn;
    void *ctx;
};

struct events {
    char *file;
    char node;
    int fd; /* writer's, after events_open; -1: only followers */
    uv_thread_t thread;

    uv_mutex_t lock; /* guards the queue and closing */
    uv_cond_t wake;
    struct buf queue; /* entries */
    bool closing, reopen;

    uv_mutex_t follow_lock; /* held while followers are called: see events_unfollow */
    struct follower follower[EVENTS_FOLLOWERS];
    uint64_t next_token;

    _Atomic uint64_t dropped;
    uint64_t complained; /* writer's: value of dropped that the log knows */
    int64_t complained_ms;
    bool torn; /* writer's: the file ends within a line after a short write */
};

static int open_file(const char *file)
{
    return open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
}

static void reopen_file(struct events *e)
{
    if (!e->file)
        return;
    int fd = open_file(e->file);
    if (fd < 0) {
        log_error("events.reopen_failed", "file=%s error=%s remedy=\"the old file stays in use\"",
                  e->file, strerror(errno));
        return;
    }
    if (e->fd >= 0)
        close(e->fd);
    e->fd = fd;
    e->torn = false;
}

/* True if all of it is in the file. */
static bool write_all(struct events *e, struct slice s)
{
    if (e->torn && write(e->fd, "\n", 1) == 1)
        e->torn = false;
    size_t done = 0;
    while (done < s.n) {
        ssize_t n = write(e->fd, s.p + done, s.n - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            e->torn = e->torn || (done > 0 && s.p[done - 1] != '\n');
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static void complain(struct events *e, int error)
{
    uint64_t dropped = atomic_load(&e->dropped);
    int64_t now = clock_wall_ms();
    if (dropped == e->complained || (e->complained_ms && now >= e->complained_ms &&
                                     now - e->complained_ms < EVENTS_COMPLAIN_MS))
        return;
    log_error("events.dropped", "lines=%llu total=%llu file=%s error=\"%s\"",
              (unsigned long long)(dropped - e->complained), (unsigned long long)dropped,
              e->file ? e->file : "-", error ? strerror(error) : "the disk does not keep up");
    e->complained = dropped;
    e->complained_ms = now;
}

static void call_followers(struct events *e, struct slice line)
{
    uv_mutex_lock(&e->follow_lock);
    for (unsigned i = 0; i < EVENTS_FOLLOWERS; i++)
        if (e->follower[i].token)
            e->follower[i].fn(e->follower[i].ctx, line);
    uv_mutex_unlock(&e->follow_lock);
}

static void flush(struct events *e, struct buf *out, unsigned *lines)
{
    if (out->len && e->fd >= 0 && !write_all(e, buf_slice(out))) {
        int error = errno;
        atomic_fetch_add(&e->dropped, *lines);
        complain(e, error);
    }
    buf_clear(out);
    *lines = 0;
}

enum { FIELDS = 7 };

static void fields_of(struct event *ev, struct slice *out[FIELDS])
{
    struct slice *all[FIELDS] = {&ev->sender,   &ev->recipient, &ev->campaign, &ev->remote,
                                 &ev->enhanced, &ev->reply,     &ev->tls};
    memcpy(out, all, sizeof all);
}

/* Formats and writes what was queued, in its order. */
static void write_entries(struct events *e, struct slice queue, struct buf *out)
{
    unsigned lines = 0;
    struct entry x;
    for (size_t from = 0; from < queue.n; from += x.size) {
        memcpy(&x, queue.p + from, sizeof x);
        const uint8_t *p = queue.p + from + sizeof x;
        struct slice *field[FIELDS];
        fields_of(&x.ev, field);
        for (unsigned i = 0; i < FIELDS; p += field[i]->n, i++)
            field[i]->p = p;
        if (out->max - out->len < EVENTS_LINE_BYTES)
            flush(e, out, &lines);
        size_t at = out->len;
        bool ok = event_line(out, &x.ev, x.wall_ms, e->node, x.epoch);
        assert(ok); /* EVENTS_FIELD_BYTES keeps a line below EVENTS_LINE_BYTES */
        (void)ok;
        lines++;
        call_followers(e, slice_of(out->data + at, out->len - at));
    }
    flush(e, out, &lines);
}

static void writer(void *arg)
{
    struct events *e = arg;
    struct buf out, taken;
    buf_init(&out, EVENTS_WRITE_BYTES);
    buf_init(&taken, EVENTS_QUEUE_BYTES);
    for (bool closing = false; !closing;) {
        uv_mutex_lock(&e->lock);
        while (!e->queue.len && !e->closing && !e->reopen)
            uv_cond_wait(&e->wake, &e->lock);
        if (!e->closing && !e->reopen)
            uv_cond_timedwait(&e->wake, &e->lock, EVENTS_GATHER_MS * UINT64_C(1000000));
        struct buf empty = taken;
        taken = e->queue;
        e->queue = empty;
        bool reopen = e->reopen;
        e->reopen = false;
        closing = e->closing;
        uv_mutex_unlock(&e->lock);
        if (reopen)
            reopen_file(e);
        write_entries(e, buf_slice(&taken), &out);
        buf_clear(&taken);
        if (taken.cap > EVENTS_KEEP_BYTES)
            buf_free(&taken);
        complain(e, 0);
    }
    buf_free(&out);
    buf_free(&taken);
}

struct events *events_open(const char *file, char node, char *err, size_t n)
{
    int fd = -1;
    if (file && (fd = open_file(file)) < 0) {
        snprintf(err, n, "events file %s: %s; create its folder, writable for this user", file,
                 strerror(errno));
        return NULL;
    }
    struct events *e = xcalloc(1, sizeof *e);
    e->file = file ? xstrdup(file) : NULL;
    e->node = node;
    e->fd = fd;
    buf_init(&e->queue, EVENTS_QUEUE_BYTES);
    e->next_token = 1;
    int rc = uv_mutex_init(&e->lock);
    rc |= uv_mutex_init(&e->follow_lock);
    rc |= uv_cond_init(&e->wake);
    assert(rc == 0);
    rc = uv_thread_create(&e->thread, writer, e);
    if (rc != 0) {
        snprintf(err, n, "events thread: %s", uv_strerror(rc));
        uv_cond_destroy(&e->wake);
        uv_mutex_destroy(&e->follow_lock);
        uv_mutex_destroy(&e->lock);
        if (fd >= 0)
            close(fd);
        free(e->file);
        free(e);
        return NULL;
    }
    return e;
}

static size_t cut(struct slice s)
{
    return s.n < EVENTS_FIELD_BYTES ? s.n : EVENTS_FIELD_BYTES;
}

/* False: no room for it. */
static bool put_entry(struct buf *queue, const struct event *ev, int64_t wall_ms, uint32_t epoch)
{
    struct entry x = {.size = sizeof x, .ev = *ev, .wall_ms = wall_ms, .epoch = epoch};
    struct slice *field[FIELDS];
    const uint8_t *from[FIELDS];
    fields_of(&x.ev, field);
    for (unsigned i = 0; i < FIELDS; i++) {
        from[i] = field[i]->p;
        *field[i] = slice_of(NULL, cut(*field[i]));
        x.size += field[i]->n;
    }
    if (!buf_reserve(queue, x.size))
        return false;
    buf_append(queue, &x, sizeof x);
    for (unsigned i = 0; i < FIELDS; i++)
        buf_append(queue, from[i], field[i]->n);
    return true;
}

void events_emit(struct events *e, uint32_t epoch, const struct event *ev)
{
    int64_t wall_ms = clock_wall_ms();
    uv_mutex_lock(&e->lock);
    assert(!e->closing);
    bool first = !e->queue.len;
    bool room = put_entry(&e->queue, ev, wall_ms, epoch);
    if (first && room)
        uv_cond_signal(&e->wake);
    uv_mutex_unlock(&e->lock);
    if (!room)
        atomic_fetch_add(&e->dropped, 1);
}

void events_reopen(struct events *e)
{
    uv_mutex_lock(&e->lock);
    e->reopen = true;
    uv_cond_signal(&e->wake);
    uv_mutex_unlock(&e->lock);
}

uint64_t events_follow(struct events *e, events_line_fn fn, void *ctx)
{
    uint64_t token = 0;
    uv_mutex_lock(&e->follow_lock);
    for (unsigned i = 0; i < EVENTS_FOLLOWERS && !token; i++) {
        if (!e->follower[i].token) {
            token = e->next_token++;
            e->follower[i] = (struct follower){.token = token, .fn = fn, .ctx = ctx};
        }
    }
    uv_mutex_unlock(&e->follow_lock);
    return token;
}

void events_unfollow(struct events *e, uint64_t token)
{
    uv_mutex_lock(&e->follow_lock);
    for (unsigned i = 0; i < EVENTS_FOLLOWERS && token; i++)
        if (e->follower[i].token == token)
            e->follower[i] = (struct follower){0};
    uv_mutex_unlock(&e->follow_lock);
}

uint64_t events_dropped(const struct events *e)
{
    return atomic_load(&e->dropped);
}

void events_close(struct events *e)
{
    if (!e)
        return;
    uv_mutex_lock(&e->lock);
    e->closing = true;
    uv_cond_signal(&e->wake);
    uv_mutex_unlock(&e->lock);
    uv_thread_join(&e->thread);
    assert(!e->queue.len);
    buf_free(&e->queue);
    if (e->fd >= 0)
        close(e->fd);
    uv_cond_destroy(&e->wake);
    uv_mutex_destroy(&e->follow_lock);
    uv_mutex_destroy(&e->lock);
    free(e->file);
    free(e);
}
