/* A TCP connection with optional TLS on a libuv loop: one type for SMTP in, SMTP out and the
 * replication link. Lifetime: a stream is freed by itself after on_close has been called, exactly
 * once, and nothing is called after it. */
#ifndef BATON_BASE_STREAM_UV_H
#define BATON_BASE_STREAM_UV_H

#include <uv.h>

#include "node/base/buf.h"
#include "node/base/tls_openssl.h"

struct stream;

struct stream_events {
    /* Connected (outgoing) and, where TLS was asked for at once, handshake done. */
    void (*on_open)(void *ctx, struct stream *s);
    /* Plaintext arrived; all of it must be taken or copied. */
    void (*on_data)(void *ctx, struct stream *s, struct slice data);
    /* The TLS handshake asked for by stream_start_tls() is done. May be NULL. */
    void (*on_tls)(void *ctx, struct stream *s);
    /* Everything written so far has been handed to the kernel (edge: pending fell to 0). May be
     * NULL. */
    void (*on_drain)(void *ctx, struct stream *s);
    /* The peer sent FIN (or close_notify); writing may still work. May be NULL: the stream is
     * closed then. */
    void (*on_eof)(void *ctx, struct stream *s);
    /* Gone. why: one line for a person, never NULL ("closed" when we did it). */
    void (*on_close)(void *ctx, struct stream *s, const char *why);
};

/* Accepted connection of a listening uv_tcp_t (call in its connection callback). NULL when accept
 * failed. tls: implicit TLS from the first byte, or NULL. */
struct stream *stream_accept(uv_stream_t *listener, struct tls_ctx *tls,
                             const struct stream_events *ev, void *ctx);
/* Connects to addr, from local (NULL: any). Time-out in ms covers connect and implicit TLS. */
struct stream *stream_connect(uv_loop_t *loop, const struct sockaddr *addr,
                              const struct sockaddr *local, struct tls_ctx *tls, const char *sni,
                              uint64_t timeout_ms, const struct stream_events *ev, void *ctx);
/* Copies and queues. False once closed or when more than stream_set_cap() bytes wait: the stream
 * then closes itself. */
bool stream_write(struct stream *s, struct slice data);
/* Bytes not yet taken by the kernel. */
size_t stream_pending(const struct stream *s);
/* Does any byte still wait for the kernel? It never leaves if the stream is closed now. Unlike
 * stream_pending() it doesn't wait for callbacks. */
bool stream_unsent(const struct stream *s);
/* Nothing waits here, and the kernel has room for more: a third of its buffer. */
bool stream_has_room(const struct stream *s);
/* Bytes that one write hands to the kernel as a whole while nothing waits there; 0: no telling.
 * Each segment takes some 1300 bytes of the kernel's buffer beside its own, of the usual sizes (536
 * or more) the content is a quarter or more. Not a promise: the kernel may have less later. */
size_t stream_takes(struct stream *s);
/* Cap in bytes of what may wait for a slow peer; default 4 MiB. */
void stream_set_cap(struct stream *s, size_t bytes);
/* Collects small writes between cork and uncork into one. Nestable. */
void stream_cork(struct stream *s);
void stream_uncork(struct stream *s);
/* Upgrades in place. Whatever has arrived and was not yet handed to on_data is refused by the
 * caller's own means: call this from within on_data only if nothing is left of the current data. */
void stream_start_tls(struct stream *s, struct tls_ctx *tls, bool server, const char *sni);
void stream_pause(struct stream *s); /* stop reading: back-pressure */
void stream_resume(struct stream *s);
/* Flushes what waits (at most linger_ms), then closes. */
void stream_shutdown(struct stream *s, uint64_t linger_ms);
/* Closes at once; on_close follows from the loop, never from within this call. */
void stream_close(struct stream *s, const char *why);
const char *stream_tls_describe(const struct stream *s); /* "" without TLS */
/* Peer address as text without port, e.g. "192.0.2.1" or "2001:db8::1"; valid while s lives. */
const char *stream_peer(const struct stream *s);
const struct sockaddr *stream_peer_addr(const struct stream *s);
/* Parses "1.2.3.4:25" or "[::1]:25" (a bare port number listens on all). False: not an address. */
bool address_parse(const char *text, struct sockaddr_storage *out);
/* Text with port; out has at least 64 bytes. Returns out. */
char *address_print(char *out, const struct sockaddr *a);
/* Binds and listens (SO_REUSEADDR). 0 or a libuv error. */
int stream_listen(uv_loop_t *loop, uv_tcp_t *h, const struct sockaddr *a, int backlog,
                  uv_connection_cb cb);
#endif
