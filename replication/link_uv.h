/* One authenticated connection of the replication link: frames over TLS 1.3 with a pre-shared key
 * (protocol 10). Driver: frames in, frames out; what they mean is replica.c's.
 *
 * Lifetime: a link is freed by itself after on_down, which is called once and last. A link that is
 * silent for LINK_SILENT_MS is closed; both sides send FRAME_PING. */
#ifndef BATON_REPLICATION_LINK_UV_H
#define BATON_REPLICATION_LINK_UV_H

#include "node/base/stream_uv.h"
#include "replication/replica.h"

struct link;

enum {
    LINK_PING_MS = 200,
    LINK_SILENT_MS = 2000,
    LINK_DIAL_MS = 1000, /* connect and TLS handshake */
};

struct link_events {
    void (*on_up)(void *ctx, struct link *l); /* authenticated */
    void (*on_frame)(void *ctx, struct link *l, uint8_t type, struct slice payload);
    void (*on_drain)(void *ctx, struct link *l);
    /* Gone. secured: it had been up. why: one line, never NULL. */
    void (*on_down)(void *ctx, struct link *l, bool secured, const char *why);
};

/* id: not 0, never used again in this process. */
struct link *link_dial(uv_loop_t *loop, const struct sockaddr *to, struct tls_ctx *tls, uint64_t id,
                       const struct link_events *ev, void *ctx);
struct link *link_accept(uv_stream_t *listener, struct tls_ctx *tls, uint64_t id,
                         const struct link_events *ev, void *ctx); /* NULL: accept failed */
uint64_t link_id(const struct link *l);
bool link_outgoing(const struct link *l);
bool link_is_up(const struct link *l); /* authenticated, and not being closed */
const char *link_peer(const struct link *l);
/* Queues one frame: payload, then `rest` (NULL: nothing). Goes out with link_flush(). */
void link_send(struct link *l, uint8_t type, struct slice payload, const struct shared *rest);
void link_flush(struct link *l);
/* Pings and closes what is silent. paused: this process itself was, so silence proves nothing. */
void link_tick(struct link *l, uint64_t now_ns, bool paused);
void link_close(struct link *l, const char *why); /* what is queued still goes out */
void link_kill(struct link *l);                   /* at once */
#endif
