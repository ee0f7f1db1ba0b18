/* See stream_uv.h.
 *
 * States: CONNECTING (outgoing TCP) -> SECURING (TLS handshake under way) -> OPEN -> CLOSING. The
 * memory goes when the close callbacks of both handles (TCP and timer) have run; until then every
 * callback that is still due finds the stream alive. */
#include "node/base/stream_uv.h"

#include <arpa/inet.h>
#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

enum { READ_BYTES = 65536, DEFAULT_CAP = 4 << 20, TLS_TIMEOUT_MS = 30000 };

enum state { CONNECTING, SECURING, OPEN, CLOSING };

struct stream {
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_connect_t connect;
    struct stream_events ev;
    void *ctx;
    enum state state;
    unsigned handles, corked;
    bool announced; /* on_open was called, or isn't due (accepted) */
    bool paused, reading, lingering, tls_asked;
    struct tls *tls;
    struct buf out;   /* ciphertext or plaintext that waits for a write */
    struct buf plain; /* decrypted, on its way to on_data */
    size_t in_flight, cap;
    struct sockaddr_storage peer;
    char peer_text[INET6_ADDRSTRLEN];
    char why[160];
};

struct write_req {
    uv_write_t req;
    struct stream *s;
    uint8_t *data;
    size_t n;
};

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b);
static void start_reading(struct stream *s);
static void flush(struct stream *s);

static void handle_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    if (--s->handles)
        return;
    s->ev.on_close(s->ctx, s, s->why[0] ? s->why : "closed");
    tls_free(s->tls);
    buf_free(&s->out);
    buf_free(&s->plain);
    free(s);
}

void stream_close(struct stream *s, const char *why)
{
    if (s->state == CLOSING)
        return;
    s->state = CLOSING;
    snprintf(s->why, sizeof s->why, "%s", why ? why : "closed");
    uv_timer_stop(&s->timer);
    uv_close((uv_handle_t *)&s->tcp, handle_closed);
    uv_close((uv_handle_t *)&s->timer, handle_closed);
}

static void on_timer(uv_timer_t *t)
{
    struct stream *s = t->data;
    if (s->lingering)
        stream_close(s, "closed");
    else
        stream_close(s,
                     s->state == CONNECTING ? "connection timed out" : "TLS handshake timed out");
}

static void on_alloc(uv_handle_t *h, size_t hint, uv_buf_t *b)
{
    /* One buffer for all streams of a thread: its bytes are consumed before the next read. */
    static _Thread_local char shared[READ_BYTES];
    (void)h;
    (void)hint;
    *b = uv_buf_init(shared, sizeof shared);
}

static void opened(struct stream *s)
{
    uv_timer_stop(&s->timer);
    s->state = OPEN;
    if (!s->announced) {
        s->announced = true;
        if (s->ev.on_open)
            s->ev.on_open(s->ctx, s);
    } else if (s->tls_asked) {
        s->tls_asked = false;
        if (s->ev.on_tls)
            s->ev.on_tls(s->ctx, s);
    }
}

static void deliver_plain(struct stream *s)
{
    while (s->plain.len && s->state == OPEN && !s->paused) {
        /* The callback may pause, write, or start closing; the bytes must stay put meanwhile. */
        struct buf now = s->plain;
        buf_init(&s->plain, now.max);
        s->ev.on_data(s->ctx, s, buf_slice(&now));
        if (s->plain.data) {
            buf_free(&now);
        } else {
            now.len = 0;
            s->plain = now;
        }
    }
}

static void tls_bytes(struct stream *s, const void *p, size_t n)
{
    enum tls_status st;
    do {
        st = tls_input(s->tls, p, n, &s->plain, &s->out);
        p = NULL;
        n = 0;
        flush(s);
        if (s->state == SECURING && tls_ready(s->tls))
            opened(s);
        if (s->state == CLOSING)
            return;
        if (st == TLS_FAILED) {
            char why[sizeof s->why];
            snprintf(why, sizeof why, "%s", tls_error(s->tls));
            stream_close(s, why[0] ? why : "TLS failed");
            return;
        }
        if (!s->plain.len)
            break;
        deliver_plain(s);
    } while (s->state == OPEN && !s->paused && s->tls);
    if (!s->plain.len)
        buf_free(&s->plain); /* thousands of idle sessions don't each keep 16 KiB */
    if (st == TLS_CLOSED && s->state == OPEN && !s->plain.len) {
        if (s->ev.on_eof)
            s->ev.on_eof(s->ctx, s);
        else
            stream_close(s, "closed by the peer");
    }
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b)
{
    struct stream *s = h->data;
    if (s->state == CLOSING || n == 0)
        return;
    if (n < 0) {
        s->reading = false;
        uv_read_stop(h);
        if (n == UV_EOF && s->state == OPEN && s->ev.on_eof)
            s->ev.on_eof(s->ctx, s);
        else
            stream_close(s, n == UV_EOF ? "closed by the peer" : uv_strerror((int)n));
        return;
    }
    if (s->tls)
        tls_bytes(s, b->base, (size_t)n);
    else
        s->ev.on_data(s->ctx, s, slice_of(b->base, (size_t)n));
}

static void start_reading(struct stream *s)
{
    if (s->reading || s->state == CLOSING || s->state == CONNECTING)
        return;
    int rc = uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read);
    if (rc)
        stream_close(s, uv_strerror(rc));
    else
        s->reading = true;
}

static void on_written(uv_write_t *req, int status)
{
    struct write_req *w = (struct write_req *)req;
    struct stream *s = w->s;
    s->in_flight -= w->n;
    free(w->data);
    free(w);
    if (s->state == CLOSING)
        return;
    if (status) {
        stream_close(s, uv_strerror(status));
        return;
    }
    flush(s);
    if (s->state == CLOSING || s->in_flight || s->out.len)
        return;
    if (s->lingering)
        stream_close(s, "closed");
    else if (s->state == OPEN && s->ev.on_drain)
        s->ev.on_drain(s->ctx, s);
}

/* Hands s->out to the kernel: straight away as far as it takes it, the rest by a write request. */
static void flush(struct stream *s)
{
    if (s->corked || s->state == CLOSING || s->state == CONNECTING || !s->out.len)
        return;
    if (!s->in_flight) {
        uv_buf_t b = uv_buf_init((char *)s->out.data, (unsigned)s->out.len);
        int n = uv_try_write((uv_stream_t *)&s->tcp, &b, 1);
        if (n < 0 && n != UV_EAGAIN) {
            stream_close(s, uv_strerror(n));
            return;
        }
        if (n > 0)
            buf_consume(&s->out, (size_t)n);
        if (!s->out.len)
            return;
    }
    struct write_req *w = xcalloc(1, sizeof *w);
    w->s = s;
    w->data = s->out.data;
    w->n = s->out.len;
    size_t max = s->out.max;
    buf_init(&s->out, max);
    s->in_flight += w->n;
    uv_buf_t b = uv_buf_init((char *)w->data, (unsigned)w->n);
    int rc = uv_write(&w->req, (uv_stream_t *)&s->tcp, &b, 1, on_written);
    if (rc) {
        s->in_flight -= w->n;
        free(w->data);
        free(w);
        stream_close(s, uv_strerror(rc));
    }
}

/* What the kernel takes of data at once, nothing being due before it. */
static size_t write_through(struct stream *s, struct slice data)
{
    if (s->tls || s->corked || s->in_flight || s->out.len || s->state != OPEN || !data.n)
        return 0;
    uv_buf_t b = uv_buf_init((char *)data.p, (unsigned)data.n);
    int n = uv_try_write((uv_stream_t *)&s->tcp, &b, 1);
    return n > 0 ? (size_t)n : 0; /* an error shows again when the rest is flushed */
}

bool stream_write(struct stream *s, struct slice data)
{
    if (s->state == CLOSING || s->lingering)
        return false;
    size_t gone = write_through(s, data);
    if (gone && gone == data.n)
        return true;
    data = slice_of(data.p + gone, data.n - gone);
    bool ok = s->in_flight + s->out.len + data.n <= s->cap;
    if (ok && s->tls && tls_ready(s->tls))
        ok = tls_output(s->tls, data, &s->out) == TLS_OK;
    else if (ok)
        ok = buf_append_slice(&s->out, data);
    if (!ok) {
        stream_close(s, "the peer reads too slowly");
        return false;
    }
    flush(s);
    return s->state != CLOSING;
}

size_t stream_pending(const struct stream *s)
{
    return s->in_flight + s->out.len;
}

bool stream_unsent(const struct stream *s)
{
    return s->out.len || uv_stream_get_write_queue_size((const uv_stream_t *)&s->tcp);
}

bool stream_has_room(const struct stream *s)
{
    struct pollfd p = {.events = POLLOUT};
    return s->state == OPEN && !stream_pending(s) &&
           uv_fileno((const uv_handle_t *)&s->tcp, &p.fd) == 0 && poll(&p, 1, 0) == 1;
}

size_t stream_takes(struct stream *s)
{
    int bytes = 0; /* asks for it */
    if (s->state != OPEN || stream_pending(s))
        return 0;
    return uv_send_buffer_size((uv_handle_t *)&s->tcp, &bytes) ? 0 : (size_t)bytes / 4;
}

void stream_set_cap(struct stream *s, size_t bytes)
{
    s->cap = bytes;
    /* TLS adds up to 22 bytes to each record of at most 16 KiB, and handshake flights. */
    s->out.max = bytes + bytes / 64 + (1 << 18);
}

void stream_cork(struct stream *s)
{
    s->corked++;
}

void stream_uncork(struct stream *s)
{
    assert(s->corked);
    if (--s->corked == 0)
        flush(s);
}

static void begin_tls(struct stream *s, struct tls_ctx *ctx, const char *sni, uint64_t timeout_ms)
{
    s->tls = tls_new(ctx, sni);
    s->state = SECURING;
    uv_timer_start(&s->timer, on_timer, timeout_ms, 0);
}

static void secure(struct stream *s, bool server)
{
    if (!server && tls_start(s->tls, &s->out) == TLS_FAILED) {
        stream_close(s, tls_error(s->tls));
        return;
    }
    flush(s);
    start_reading(s);
}

void stream_start_tls(struct stream *s, struct tls_ctx *tls, bool server, const char *sni)
{
    assert(s->state == OPEN && !s->tls);
    unsigned corked = s->corked;
    s->corked = 0;
    flush(s); /* our own "220 ready" goes out in the clear */
    s->corked = corked;
    if (s->state == CLOSING)
        return;
    s->tls_asked = true;
    begin_tls(s, tls, sni, TLS_TIMEOUT_MS);
    secure(s, server);
}

static struct stream *stream_new(uv_loop_t *loop, const struct stream_events *ev, void *ctx)
{
    struct stream *s = xcalloc(1, sizeof *s);
    s->ev = *ev;
    s->ctx = ctx;
    uv_tcp_init(loop, &s->tcp);
    uv_timer_init(loop, &s->timer);
    s->tcp.data = s->timer.data = s;
    s->handles = 2;
    buf_init(&s->plain, READ_BYTES);
    stream_set_cap(s, DEFAULT_CAP);
    return s;
}

static void note_peer(struct stream *s, const struct sockaddr *a)
{
    const void *addr = a->sa_family == AF_INET6
                           ? (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr
                           : (const void *)&((const struct sockaddr_in *)a)->sin_addr;
    memcpy(&s->peer, a,
           a->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    if (!inet_ntop(a->sa_family, addr, s->peer_text, sizeof s->peer_text))
        snprintf(s->peer_text, sizeof s->peer_text, "unknown");
    if (strncmp(s->peer_text, "::ffff:", 7) == 0)
        memmove(s->peer_text, s->peer_text + 7, strlen(s->peer_text + 7) + 1);
}

static void ignore_close(void *ctx, struct stream *s, const char *why)
{
    (void)ctx;
    (void)s;
    (void)why;
}

struct stream *stream_accept(uv_stream_t *listener, struct tls_ctx *tls,
                             const struct stream_events *ev, void *ctx)
{
    struct stream *s = stream_new(listener->loop, ev, ctx);
    s->announced = true;
    struct sockaddr_storage a = {.ss_family = AF_INET};
    int n = sizeof a;
    if (uv_accept(listener, (uv_stream_t *)&s->tcp) ||
        uv_tcp_getpeername(&s->tcp, (struct sockaddr *)&a, &n)) {
        /* The caller never learns of this stream, so it must not hear of its end either. */
        s->ev.on_close = ignore_close;
        stream_close(s, "accept failed");
        return NULL;
    }
    note_peer(s, (struct sockaddr *)&a);
    uv_tcp_nodelay(&s->tcp, 1);
    s->state = OPEN;
    if (tls) {
        s->tls_asked = true;
        begin_tls(s, tls, NULL, TLS_TIMEOUT_MS);
    }
    start_reading(s);
    return s;
}

static void on_connected(uv_connect_t *req, int status)
{
    struct stream *s = req->data;
    if (s->state == CLOSING)
        return;
    if (status) {
        stream_close(s, uv_strerror(status));
        return;
    }
    uv_tcp_nodelay(&s->tcp, 1);
    if (s->tls) {
        s->state = SECURING;
        secure(s, false);
        return;
    }
    opened(s);
    if (s->state == OPEN && !s->paused)
        start_reading(s);
}

struct stream *stream_connect(uv_loop_t *loop, const struct sockaddr *addr,
                              const struct sockaddr *local, struct tls_ctx *tls, const char *sni,
                              uint64_t timeout_ms, const struct stream_events *ev, void *ctx)
{
    struct stream *s = stream_new(loop, ev, ctx);
    s->state = CONNECTING;
    s->connect.data = s;
    note_peer(s, addr);
    uv_timer_start(&s->timer, on_timer, timeout_ms, 0);
    if (tls)
        s->tls = tls_new(tls, sni);
    int rc = local ? uv_tcp_bind(&s->tcp, local, 0) : 0;
    if (!rc)
        rc = uv_tcp_connect(&s->connect, &s->tcp, addr, on_connected);
    if (rc)
        stream_close(s, uv_strerror(rc));
    return s;
}

void stream_pause(struct stream *s)
{
    s->paused = true;
    if (s->reading) {
        s->reading = false;
        uv_read_stop((uv_stream_t *)&s->tcp);
    }
}

void stream_resume(struct stream *s)
{
    if (!s->paused || s->state == CLOSING)
        return;
    s->paused = false;
    if (s->tls && s->state == OPEN)
        tls_bytes(s, NULL, 0); /* what was decrypted, or waits inside, comes first */
    if (!s->paused && s->state != CLOSING)
        start_reading(s);
}

void stream_shutdown(struct stream *s, uint64_t linger_ms)
{
    if (s->state == CLOSING || s->lingering)
        return;
    if (s->state != OPEN) {
        stream_close(s, "closed");
        return;
    }
    if (s->tls)
        tls_close(s->tls, &s->out);
    s->corked = 0;
    flush(s);
    if (s->state == CLOSING)
        return;
    if (!s->in_flight) {
        stream_close(s, "closed");
        return;
    }
    s->lingering = true;
    stream_pause(s);
    uv_timer_start(&s->timer, on_timer, linger_ms, 0);
}

const char *stream_tls_describe(const struct stream *s)
{
    return s->tls ? tls_describe(s->tls) : "";
}

const char *stream_peer(const struct stream *s)
{
    return s->peer_text;
}

const struct sockaddr *stream_peer_addr(const struct stream *s)
{
    return (const struct sockaddr *)&s->peer;
}

bool address_parse(const char *text, struct sockaddr_storage *out)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    const char *port_text = colon ? colon + 1 : text;
    char *end;
    unsigned long port = strtoul(port_text, &end, 10);
    if (!*port_text || *end || port > 65535 || port_text[0] < '0' || port_text[0] > '9')
        return false;
    memset(out, 0, sizeof *out);
    if (!colon)
        return uv_ip6_addr("::", (int)port, (struct sockaddr_in6 *)out) == 0;
    size_t n = (size_t)(colon - text);
    bool brackets = n >= 2 && text[0] == '[' && text[n - 1] == ']';
    if (brackets) {
        text++;
        n -= 2;
    }
    if (n >= sizeof host)
        return false;
    memcpy(host, text, n);
    host[n] = 0;
    if (brackets)
        return uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)out) == 0;
    return uv_ip4_addr(host, (int)port, (struct sockaddr_in *)out) == 0;
}

char *address_print(char *out, const struct sockaddr *a)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(out, 64, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(out, 64, "%s:%u", host, ntohs(in->sin_port));
    }
    return out;
}

int stream_listen(uv_loop_t *loop, uv_tcp_t *h, const struct sockaddr *a, int backlog,
                  uv_connection_cb cb)
{
    int rc = uv_tcp_init_ex(loop, h, (unsigned)a->sa_family);
    if (!rc)
        rc = uv_tcp_bind(h, a, 0);
    if (!rc)
        rc = uv_listen((uv_stream_t *)h, backlog, cb);
    return rc;
}
