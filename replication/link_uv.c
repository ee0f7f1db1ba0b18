/* See link_uv.h. Frames: u32 length of what follows, u8 type, payload. */
#include "replication/link_uv.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/wire.h"

enum {
    HEAD_BYTES = 5,
    /* The core keeps at most its window (8 MiB) or one batch on its way, and an upload; this is
     * above both, so that back-pressure and not this cap is what a slow peer meets. */
    OUT_MAX = 2 * FRAME_MAX + (8 << 20),
    LINGER_MS = 500,
    PEER_TEXT = 64
};

struct link {
    struct stream *stream;
    struct link_events ev;
    void *ctx;
    uint64_t id;
    bool outgoing, up, closing, corked;
    uint64_t heard_ns, pinged_ns;
    struct buf in;   /* an unfinished frame */
    struct buf head; /* scratch */
    char peer[PEER_TEXT];
};

static bool frame_length(struct slice s, uint32_t *n)
{
    struct wire_reader r = wire_read(slice_of(s.p, 4));
    *n = wire_get_u32(&r);
    return *n >= 1 && *n <= FRAME_MAX + 1u;
}

/* Hands on all whole frames in s; gives back how many bytes they were. */
static size_t deliver(struct link *l, struct slice s)
{
    size_t done = 0;
    uint32_t n;
    while (s.n - done >= 4 && !l->closing) {
        if (!frame_length(slice_of(s.p + done, 4), &n)) {
            link_close(l, "a frame of impossible length");
            return done;
        }
        if (s.n - done - 4 < n)
            break;
        const uint8_t *p = s.p + done + 4;
        done += 4 + (size_t)n;
        if (p[0] != FRAME_PING)
            l->ev.on_frame(l->ctx, l, p[0], slice_of(p + 1, n - 1));
    }
    return done;
}

static void on_data(void *ctx, struct stream *s, struct slice data)
{
    struct link *l = ctx;
    (void)s;
    l->heard_ns = clock_boot_ns();
    if (l->closing)
        return;
    if (!l->in.len) { /* the usual case: no copy */
        size_t done = deliver(l, data);
        data.p += done;
        data.n -= done;
    }
    if (l->closing || !data.n)
        return;
    if (!buf_append_slice(&l->in, data)) {
        link_close(l, "a frame beyond its cap");
        return;
    }
    buf_consume(&l->in, deliver(l, buf_slice(&l->in)));
    if (!l->in.len)
        buf_free(&l->in); /* idle links don't hold a large frame's memory */
}

static void came_up(struct link *l)
{
    l->up = true;
    l->heard_ns = l->pinged_ns = clock_boot_ns();
    l->ev.on_up(l->ctx, l);
}

static void on_open(void *ctx, struct stream *s)
{
    (void)s;
    came_up(ctx);
}

static void on_drain(void *ctx, struct stream *s)
{
    struct link *l = ctx;
    (void)s;
    if (l->up && !l->closing)
        l->ev.on_drain(l->ctx, l);
}

static void on_close(void *ctx, struct stream *s, const char *why)
{
    struct link *l = ctx;
    (void)s;
    l->stream = NULL;
    l->ev.on_down(l->ctx, l, l->up, why);
    buf_free(&l->in);
    buf_free(&l->head);
    free(l);
}

static const struct stream_events events = {.on_open = on_open,
                                            .on_data = on_data,
                                            .on_tls = on_open,
                                            .on_drain = on_drain,
                                            .on_close = on_close};

static struct link *link_new(uint64_t id, bool outgoing, const struct link_events *ev, void *ctx)
{
    assert(id);
    struct link *l = xcalloc(1, sizeof *l);
    l->id = id;
    l->outgoing = outgoing;
    l->ev = *ev;
    l->ctx = ctx;
    buf_init(&l->in, FRAME_MAX + 2 * 65536);
    buf_init(&l->head, FRAME_MAX + HEAD_BYTES);
    return l;
}

struct link *link_dial(uv_loop_t *loop, const struct sockaddr *to, struct tls_ctx *tls, uint64_t id,
                       const struct link_events *ev, void *ctx)
{
    struct link *l = link_new(id, true, ev, ctx);
    address_print(l->peer, to);
    l->stream = stream_connect(loop, to, NULL, tls, NULL, LINK_DIAL_MS, &events, l);
    stream_set_cap(l->stream, OUT_MAX);
    return l;
}

struct link *link_accept(uv_stream_t *listener, struct tls_ctx *tls, uint64_t id,
                         const struct link_events *ev, void *ctx)
{
    struct link *l = link_new(id, false, ev, ctx);
    l->stream = stream_accept(listener, tls, &events, l);
    if (!l->stream) {
        free(l);
        return NULL;
    }
    stream_set_cap(l->stream, OUT_MAX);
    snprintf(l->peer, sizeof l->peer, "%s", stream_peer(l->stream));
    return l;
}

uint64_t link_id(const struct link *l)
{
    return l->id;
}

bool link_outgoing(const struct link *l)
{
    return l->outgoing;
}

bool link_is_up(const struct link *l)
{
    return l->up && !l->closing;
}

const char *link_peer(const struct link *l)
{
    return l->peer;
}

void link_send(struct link *l, uint8_t type, struct slice payload, const struct shared *rest)
{
    if (l->closing || !l->up)
        return;
    size_t n = payload.n + (rest ? rest->n : 0);
    assert(n <= FRAME_MAX);
    buf_clear(&l->head);
    bool ok = wire_put_u32(&l->head, (uint32_t)n + 1) && wire_put_u8(&l->head, type) &&
              buf_append_slice(&l->head, payload);
    assert(ok);
    (void)ok;
    if (!l->corked) {
        l->corked = true;
        stream_cork(l->stream);
    }
    /* A failed write closes the stream; on_close tells. */
    if (stream_write(l->stream, buf_slice(&l->head)) && rest)
        stream_write(l->stream, slice_of(rest->data, rest->n));
}

void link_flush(struct link *l)
{
    if (!l->corked)
        return;
    l->corked = false;
    stream_uncork(l->stream);
}

void link_tick(struct link *l, uint64_t now_ns, bool paused)
{
    if (!l->up || l->closing)
        return;
    if (paused)
        l->heard_ns = now_ns;
    if (now_ns > l->heard_ns + LINK_SILENT_MS * 1000000ull) {
        link_kill(l);
        return;
    }
    if (now_ns >= l->pinged_ns + LINK_PING_MS * 1000000ull) {
        l->pinged_ns = now_ns;
        link_send(l, FRAME_PING, (struct slice){NULL, 0}, NULL);
    }
}

void link_close(struct link *l, const char *why)
{
    if (l->closing)
        return;
    (void)why;
    link_flush(l);
    l->closing = true;
    stream_shutdown(l->stream, LINGER_MS);
}

void link_kill(struct link *l)
{
    l->closing = true;
    stream_close(l->stream, l->up ? "the link was silent" : "closed");
}
