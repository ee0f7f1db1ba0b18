/* An outgoing SMTP connection: stream, timer and the client core; carries out what the core asks.
 * Nothing of the owner's is called from within a call of the owner's, but for effects of
 * conn_send, conn_body and conn_dot, which are the last thing these do. */
#ifndef BATON_DELIVERY_CLIENT_UV_H
#define BATON_DELIVERY_CLIENT_UV_H

#include "node/base/stream_uv.h"
#include "node/delivery/client.h"

struct conn;

struct conn_events {
    void (*on_ready)(void *ctx, struct conn *c); /* conn_send() may be called now, or later */
    void (*on_body)(void *ctx, struct conn *c);  /* conn_body() wanted, now or later */
    void (*on_dot)(void *ctx, struct conn *c);   /* conn_dot() when it is allowed */
    void (*on_done)(void *ctx, struct conn *c, struct client_transaction *tx);
    /* The connection is over; freed after this. failure: why; announced: the next hop had answered
     * EHLO; tls_failed: the handshake did it. */
    void (*on_closed)(void *ctx, struct conn *c, const struct reply *failure, bool announced,
                      bool tls_failed);
};

/* tls NULL: never. helo lives as long as the connection. */
struct conn *conn_open(uv_loop_t *loop, const struct sockaddr *addr, struct tls_ctx *tls,
                       const char *sni, const char *helo, const struct conn_events *ev, void *ctx);
void conn_send(struct conn *c, struct client_transaction *tx);
void conn_body(struct conn *c, struct slice piece, bool last);
void conn_dot(struct conn *c);
/* QUIT and close when idle; otherwise closes at once, the transaction ends as lost. */
void conn_quit(struct conn *c);
bool conn_idle(const struct conn *c);     /* conn_send() is legal now */
bool conn_dot_open(const struct conn *c); /* a final dot is out, its reply isn't in */
bool conn_offers(const struct conn *c, enum client_extension ext);
uint64_t conn_sent(const struct conn *c);   /* transactions so far */
const char *conn_tls(const struct conn *c); /* "" in the clear */
#endif
