/* The SMTP listeners and their sessions, on the relay's loop: drives session.c (the core), hands
 * messages to the queue and replies once they are committed (protocol 4.3, 4.6). */
#ifndef BATON_SMTP_SERVER_UV_H
#define BATON_SMTP_SERVER_UV_H

#include "node/control/events_uv.h"
#include "node/queue/queue_uv.h"
#include "node/smtp/session.h" /* enum smtp_gate */

struct smtp_server;

struct smtp_stats {
    unsigned sessions;
    uint64_t connections_total, accepted_total, refused_total; /* messages; transactions refused */
    uint64_t bytes_total, auth_failed_total, tls_total;
};

/* Binds every listener (before privileges are dropped) and loads certificate and users. The gate is
 * SMTP_NOT_PRIMARY at first. NULL: err (size n) has one line that names the listener or file and
 * the remedy. c must outlive the server or be replaced by smtp_server_reload(). */
struct smtp_server *smtp_server_new(uv_loop_t *loop, const struct config *c, struct queue *queue,
                                    struct events *events, char *err, size_t n);
void smtp_server_set_gate(struct smtp_server *s, enum smtp_gate gate);
/* Takes what a reload may change (certificate, users, networks, limits, time-outs); sessions under
 * way keep their TLS. False: nothing changed, err has one line. */
bool smtp_server_reload(struct smtp_server *s, const struct config *c, char *err, size_t n);
void smtp_server_stats(const struct smtp_server *s, struct smtp_stats *out);
/* Closes listeners and sessions (421); done after the last close callback; s is freed then. */
void smtp_server_close(struct smtp_server *s, void (*done)(void *ctx), void *ctx);
#endif
