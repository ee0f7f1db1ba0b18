/* See events_uv.h. One writer thread; callers only copy bytes under a short lock. A line is lost
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
    EVENTS_LINE_BYTES = 64 << 10,   /* a reply is at most 512 bytes, an address 320 (RFC 5321) */
    EVENTS_FIELD_BYTES = 1024,      /* longer slices are cut: escaped six-fold, seven fit a line */
    EVENTS_FOLLOWERS = 32,          /* as many as the control socket has clients */
    EVENTS_COMPLAIN_MS = 10000,     /* at most one log line in that time about lost lines */
};

struct entry {
    struct entry *next;
    size_t size;
    struct event ev; /* its slices point into bytes */
    int64_t wall_ms;
    uint32_t epoch;
    uint8_t bytes[];
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
    struct entry *head, **tail;
    size_t queued_bytes;
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

/* Formats and writes a list of entries in their order, frees them. */
static void write_entries(struct events *e, struct entry *list, struct buf *out)
{
    unsigned lines = 0;
    for (struct entry *next; list; list = next) {
        next = list->next;
        if (out->max - out->len < EVENTS_LINE_BYTES)
            flush(e, out, &lines);
        size_t at = out->len;
        bool ok = event_line(out, &list->ev, list->wall_ms, e->node, list->epoch);
        assert(ok); /* EVENTS_FIELD_BYTES keeps a line below EVENTS_LINE_BYTES */
        (void)ok;
        lines++;
        call_followers(e, slice_of(out->data + at, out->len - at));
        free(list);
    }
    flush(e, out, &lines);
}

static void writer(void *arg)
{
    struct events *e = arg;
    struct buf out;
    buf_init(&out, EVENTS_WRITE_BYTES);
    for (bool closing = false; !closing;) {
        uv_mutex_lock(&e->lock);
        while (!e->head && !e->closing && !e->reopen)
            uv_cond_wait(&e->wake, &e->lock);
        struct entry *list = e->head;
        bool reopen = e->reopen;
        e->head = NULL;
        e->tail = &e->head;
        e->queued_bytes = 0;
        e->reopen = false;
        closing = e->closing;
        uv_mutex_unlock(&e->lock);
        if (reopen)
            reopen_file(e);
        write_entries(e, list, &out);
        complain(e, 0);
    }
    buf_free(&out);
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
    e->tail = &e->head;
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

static struct entry *entry_copy(const struct event *ev, uint32_t epoch)
{
    struct entry *x;
    size_t n = cut(ev->sender) + cut(ev->recipient) + cut(ev->campaign) + cut(ev->remote) +
               cut(ev->enhanced) + cut(ev->reply) + cut(ev->tls);
    x = xmalloc(sizeof *x + n);
    *x = (struct entry){
        .size = sizeof *x + n, .ev = *ev, .wall_ms = clock_wall_ms(), .epoch = epoch};
    struct slice *field[] = {&x->ev.sender,   &x->ev.recipient, &x->ev.campaign, &x->ev.remote,
                             &x->ev.enhanced, &x->ev.reply,     &x->ev.tls};
    uint8_t *at = x->bytes;
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        size_t len = cut(*field[i]);
        if (len)
            memcpy(at, field[i]->p, len);
        *field[i] = slice_of(at, len);
        at += len;
    }
    return x;
}

void events_emit(struct events *e, uint32_t epoch, const struct event *ev)
{
    struct entry *x = entry_copy(ev, epoch);
    uv_mutex_lock(&e->lock);
    assert(!e->closing);
    bool room = x->size <= EVENTS_QUEUE_BYTES - e->queued_bytes;
    if (room) {
        if (!e->head)
            uv_cond_signal(&e->wake);
        *e->tail = x;
        e->tail = &x->next;
        e->queued_bytes += x->size;
    }
    uv_mutex_unlock(&e->lock);
    if (!room) {
        free(x);
        atomic_fetch_add(&e->dropped, 1);
    }
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
    assert(!e->head);
    if (e->fd >= 0)
        close(e->fd);
    uv_cond_destroy(&e->wake);
    uv_mutex_destroy(&e->follow_lock);
    uv_mutex_destroy(&e->lock);
    free(e->file);
    free(e);
}
