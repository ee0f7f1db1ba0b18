/* The inside of the SMTP server, shared by server_uv.c (listeners, lists, limits), conn_uv.c (one
 * session's driver) and intake_uv.c (from text to queue). Nobody else includes it. */
#ifndef BATON_SMTP_SERVER_STATE_UV_H
#define BATON_SMTP_SERVER_STATE_UV_H

#include "node/base/crypto_openssl.h"
#include "node/base/stream_uv.h"
#include "node/base/sum_xxhash.h"
#include "node/smtp/auth_crypt_uv.h"
#include "node/smtp/server_uv.h"

enum {
    SMTP_BUCKETS = 1024,         /* of client addresses */
    SMTP_REFUSALS_MAX = 64,      /* sessions over the limit that may hear why at one time */
    SMTP_TICK_MS = 250,          /* precision of session time-outs */
    SMTP_LINGER_MS = 2000,       /* read on after the last word, against a reset */
    SMTP_FLUSH_MS = 5000,        /* for a slow client to take the last word */
    SMTP_CHUNKS_IN_FLIGHT = 4,   /* of a session: 256 KiB */
    SMTP_UNSENT_MAX = 65536,     /* replies a client may leave unread before we stop reading */
    SMTP_STREAM_CAP = 2 << 20,   /* one step's replies at most, above what the core produces */
    SMTP_WAITING_MAX = 64 << 20, /* bytes before the queue's commit: above it nobody is read */
};

struct listener {
    uv_tcp_t tcp;
    struct smtp_server *server;
    enum listener_tls tls;
    enum auth_mode auth;
};

/* The text of one message on its way: up to BODY_INLINE_MAX in memory, else written ahead. */
struct intake {
    struct conn *conn; /* NULL: given up, or the client is gone */
    struct queue *queue;
    struct sha256 *sha;
    struct sum *sum;
    struct buf part;
    uint64_t id;
    uint32_t chunks;
    unsigned in_flight;
    bool complete, lost, adding;
};

/* A message the queue has, until its fate is known; outlives its client and, at the end, its
 * server. */
struct submission {
    struct submission *next, **link;
    struct smtp_server *server; /* NULL: closed */
    struct conn *conn;          /* NULL: gone */
    struct smtp_message message;
    char remote[64], tls[80];
};

struct conn {
    struct smtp_server *server;
    struct stream *stream;
    struct smtp_session *session;
    struct conn *next, **link;               /* all */
    struct conn *bucket_next, **bucket_link; /* same hash of address */
    struct conn *greet_next, **greet_link;   /* waits for its greeting; NULL link: no */
    uint8_t key[16];                         /* address; IPv6: its /64 */
    bool admitted, paused, held;             /* held: back-pressure; its time stands still */
    enum smtp_admission admission;
    uint64_t linger_until_ms; /* 0: no */
    struct intake *intake;
    struct submission *submission;
    struct auth_check *check;
};

struct smtp_server {
    uv_loop_t *loop;
    const struct config *config;
    struct queue *queue;
    struct events *events;
    struct smtp_policy policy;
    char *hostname;
    struct tls_ctx *tls;
    struct auth *auth;
    struct listener *listeners;
    unsigned n_listeners, n_handles; /* open handles, for the end */
    uv_timer_t timer;
    uv_check_t check;
    uv_idle_t idle;
    struct conn *conns, *greet_fresh, *greet_due;
    struct conn *buckets[SMTP_BUCKETS];
    struct submission *submissions;
    unsigned n_conns, n_admitted;
    bool stalled, closing;
    struct smtp_stats stats;
    void (*done)(void *ctx);
    void *done_ctx;
};

/* conn_uv.c */
void conn_accept(struct listener *l);
void conn_greet(struct conn *c);
void conn_tick(struct conn *c, uint64_t now_ms);
void conn_update(struct conn *c); /* reads, or not, as session and memory ask for */
void conn_stop(struct conn *c);

/* server_uv.c */
enum smtp_admission server_admit(struct smtp_server *s, struct conn *c);
void server_forget(struct smtp_server *s, struct conn *c);
void server_greet_later(struct smtp_server *s, struct conn *c);
void server_check_memory(struct smtp_server *s);

/* intake_uv.c */
void intake_body(struct conn *c, struct slice bytes);
void intake_complete(struct conn *c);
void intake_drop(struct conn *c); /* the text so far goes, written chunks too */
void submission_detach(struct conn *c);
#endif
