/* See client_uv.h. */
#include "node/delivery/client_uv.h"

#include <assert.h>
#include <stdlib.h>

enum {
    CONNECT_TIMEOUT_MS = 30000,
    /* More waits for the network before the next piece of a body is asked for. */
    PENDING_LOW_BYTES = 65536,
    /* A body up to this leaves as a whole, together with its final dot, also when that has to wait:
     * with segments of the usual size it goes in one flight anyway (ten of them, RFC 6928). */
    TOGETHER_BYTES = 14000,
    LINGER_MS = 2000,
    /* While a final dot waits for room in the kernel: looked for this often, given up after. */
    ROOM_MS = 100,
    NO_ROOM_MS = 180000,
};

struct conn {
    struct smtp_client core;
    struct stream *stream;
    uv_timer_t timer;
    struct tls_ctx *tls;
    char *sni;
    struct conn_events ev;
    void *ctx;
    unsigned depth;
    size_t together;     /* at most TOGETHER_BYTES, and what the kernel takes at once */
    bool body_asked;     /* wanted by the core, not yet by us: the network is behind */
    uint64_t full_until; /* core.no_room: when that ends the session, by uv_now() */
    bool body_begun;     /* a part of the body under way was given to the network */
    bool closing, stream_gone, timer_gone;
};

static void apply(struct conn *c, unsigned effects);

static void maybe_free(struct conn *c)
{
    if (!c->stream_gone || !c->timer_gone || c->depth)
        return;
    c->ev.on_closed(c->ctx, c, &c->core.failure, c->core.announced, c->core.tls_failed);
    smtp_client_free(&c->core);
    tls_ctx_unref(c->tls);
    free(c->sni);
    free(c);
}

static void timer_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    c->timer_gone = true;
    maybe_free(c);
}

static void on_timer(uv_timer_t *t)
{
    struct conn *c = t->data;
    if (!c->core.no_room)
        apply(c, smtp_client_timed_out(&c->core));
    else if (uv_now(t->loop) < c->full_until)
        apply(c, CLIENT_WANT_DOT);
    else
        apply(c, smtp_client_stuck(&c->core));
}

/* False: the stream is closing, which comes back as on_close. */
static bool flush(struct conn *c)
{
    bool ok = true;
    if (!c->core.out.len || c->stream_gone)
        return !c->stream_gone;
    c->body_begun = c->core.state == CLIENT_BODY || c->core.state == CLIENT_DOT_WAIT;
    ok = stream_write(c->stream, buf_slice(&c->core.out));
    buf_clear(&c->core.out);
    if (c->core.out.cap > PENDING_LOW_BYTES)
        buf_free(&c->core.out); /* idle connections keep no large buffers */
    return ok;
}

static void ask_body(struct conn *c)
{
    if (c->core.state != CLIENT_BODY || c->closing)
        return;
    if (c->core.out.len > PENDING_LOW_BYTES)
        flush(c); /* smaller pieces wait for what follows them */
    if (!c->stream_gone && stream_pending(c->stream) > PENDING_LOW_BYTES) {
        c->body_asked = true;
        return;
    }
    c->body_asked = false;
    c->ev.on_body(c->ctx, c);
}

static bool goes_with_dot(const struct conn *c)
{
    return c->core.state == CLIENT_DOT_WAIT && !c->closing && !c->stream_gone && !c->body_begun &&
           c->core.out.len <= c->together && !stream_pending(c->stream);
}

static void ask_dot(struct conn *c)
{
    if (c->closing || c->stream_gone)
        return;
    if (!goes_with_dot(c) && !flush(c))
        return;
    /* A final dot must not wait in a queue of ours past the lease. */
    bool full = !goes_with_dot(c) && !stream_has_room(c->stream);
    if (full && !c->core.no_room)
        c->full_until = uv_now(c->timer.loop) + NO_ROOM_MS;
    c->core.no_room = full;
    if (!full)
        c->ev.on_dot(c->ctx, c);
}

static void close_now(struct conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    flush(c);
    uv_close((uv_handle_t *)&c->timer, timer_closed);
    if (!c->stream_gone)
        stream_shutdown(c->stream, LINGER_MS);
}

/* The one place where effects are carried out, in their order. */
static void apply(struct conn *c, unsigned effects)
{
    struct client_transaction *over = NULL;
    c->depth++;
    if (effects & CLIENT_START_TLS) {
        if (flush(c))
            stream_start_tls(c->stream, c->tls, false, c->sni);
    }
    if (effects & CLIENT_DONE) {
        over = c->core.done;
        assert(over);
        c->core.done = NULL;
        c->ev.on_done(c->ctx, c, over);
    }
    if ((effects & CLIENT_CAN_SEND) && c->core.state == CLIENT_READY)
        c->ev.on_ready(c->ctx, c);
    if (effects & CLIENT_WANT_BODY)
        ask_body(c);
    if ((effects & CLIENT_WANT_DOT) && c->core.state == CLIENT_DOT_WAIT)
        ask_dot(c);
    if (effects & CLIENT_CLOSE)
        close_now(c);
    c->depth--;
    if (c->depth)
        return;
    if (!goes_with_dot(c))
        flush(c);
    if (!c->closing)
        uv_timer_start(&c->timer, on_timer,
                       c->core.no_room ? ROOM_MS : smtp_client_timeout_ms(&c->core), 0);
    maybe_free(c);
}

static void on_data(void *ctx, struct stream *s, struct slice data)
{
    struct conn *c = ctx;
    (void)s;
    apply(c, smtp_client_input(&c->core, data));
}

static void on_tls(void *ctx, struct stream *s)
{
    struct conn *c = ctx;
    (void)s;
    if (!c->closing)
        apply(c, smtp_client_secured(&c->core));
}

static void on_drain(void *ctx, struct stream *s)
{
    struct conn *c = ctx;
    (void)s;
    if (c->body_asked) {
        apply(c, CLIENT_WANT_BODY);
    } else if (c->core.no_room) {
        c->core.no_room = false; /* it has taken something: its time runs anew */
        apply(c, CLIENT_WANT_DOT);
    }
}

static void on_open(void *ctx, struct stream *s)
{
    struct conn *c = ctx;
    size_t taken = stream_takes(s);
    c->together = taken < TOGETHER_BYTES ? taken : TOGETHER_BYTES;
    apply(c, smtp_client_opened(&c->core));
}

static void on_close(void *ctx, struct stream *s, const char *why)
{
    struct conn *c = ctx;
    (void)s;
    c->stream_gone = true;
    apply(c, smtp_client_lost(&c->core, why) | CLIENT_CLOSE);
}

struct conn *conn_open(uv_loop_t *loop, const struct sockaddr *addr, struct tls_ctx *tls,
                       const char *sni, const char *helo, const struct conn_events *ev, void *ctx)
{
    static const struct stream_events events = {.on_open = on_open,
                                                .on_data = on_data,
                                                .on_tls = on_tls,
                                                .on_drain = on_drain,
                                                .on_close = on_close};
    struct conn *c = xcalloc(1, sizeof *c);
    smtp_client_init(&c->core, helo, tls != NULL);
    c->tls = tls_ctx_ref(tls);
    c->sni = sni ? xstrdup(sni) : NULL;
    c->ev = *ev;
    c->ctx = ctx;
    uv_timer_init(loop, &c->timer);
    c->timer.data = c;
    c->stream = stream_connect(loop, addr, NULL, NULL, NULL, CONNECT_TIMEOUT_MS, &events, c);
    return c;
}

void conn_send(struct conn *c, struct client_transaction *tx)
{
    apply(c, smtp_client_send(&c->core, tx));
}

void conn_body(struct conn *c, struct slice piece, bool last)
{
    if (c->core.state == CLIENT_BODY)
        apply(c, smtp_client_body(&c->core, piece, last));
}

void conn_dot(struct conn *c)
{
    if (c->core.state != CLIENT_DOT_WAIT || c->core.no_room)
        return;
    unsigned effects = smtp_client_dot(&c->core);
    /* Now, under the lease that was just looked at, or never. */
    if (!flush(c) || stream_unsent(c->stream)) {
        stream_close(c->stream, "the receiver took no more");
        effects = smtp_client_stuck(&c->core);
    }
    apply(c, effects);
}

void conn_quit(struct conn *c)
{
    if (!c->closing)
        apply(c, smtp_client_quit(&c->core));
}

bool conn_idle(const struct conn *c)
{
    return !c->closing && !c->stream_gone && c->core.state == CLIENT_READY;
}

bool conn_dot_open(const struct conn *c)
{
    return c->core.state == CLIENT_DOT_SENT;
}

bool conn_offers(const struct conn *c, enum client_extension ext)
{
    return c->core.extensions & ext;
}

uint64_t conn_sent(const struct conn *c)
{
    return c->core.transactions;
}

const char *conn_tls(const struct conn *c)
{
    return c->stream_gone ? "" : stream_tls_describe(c->stream);
}
