/* See server_uv.h: listeners, limits, the clients' lists, and what a reload changes. */
#include "node/smtp/server_uv.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/smtp/server_state_uv.h"

enum { LISTEN_BACKLOG = 1024 };

/* ---- the clients' lists ---- */

static unsigned bucket_of(const uint8_t key[16])
{
    uint32_t h = 2166136261u;
    for (unsigned i = 0; i < 16; i++)
        h = (h ^ key[i]) * 16777619u;
    return h % SMTP_BUCKETS;
}

enum smtp_admission server_admit(struct smtp_server *s, struct conn *c)
{
    struct conn **bucket = &s->buckets[bucket_of(c->key)];
    unsigned same = 0;
    for (const struct conn *x = *bucket; x; x = x->bucket_next)
        same += x->admitted && memcmp(x->key, c->key, sizeof c->key) == 0;
    enum smtp_admission a = s->n_admitted >= s->config->limits.sessions ? SMTP_TOO_MANY
                            : same >= s->config->limits.sessions_per_address
                                ? SMTP_TOO_MANY_FROM_ADDRESS
                                : SMTP_ADMIT;
    c->admitted = a == SMTP_ADMIT;
    s->n_admitted += c->admitted;
    c->bucket_next = *bucket;
    c->bucket_link = bucket;
    if (c->bucket_next)
        c->bucket_next->bucket_link = &c->bucket_next;
    *bucket = c;
    c->next = s->conns;
    c->link = &s->conns;
    if (c->next)
        c->next->link = &c->next;
    s->conns = c;
    s->n_conns++;
    return a;
}

static void greet_unlink(struct conn *c)
{
    if (!c->greet_link)
        return;
    *c->greet_link = c->greet_next;
    if (c->greet_next)
        c->greet_next->greet_link = c->greet_link;
    c->greet_link = NULL;
}

static void finish_close(struct smtp_server *s)
{
    if (!s->closing || s->n_conns || s->n_handles)
        return;
    for (struct submission *sub = s->submissions, *next; sub; sub = next) {
        next = sub->next;
        sub->server = NULL;
        sub->link = NULL;
    }
    tls_ctx_unref(s->tls);
    auth_close(s->auth);
    free(s->listeners);
    free(s->hostname);
    void (*done)(void *) = s->done;
    void *ctx = s->done_ctx;
    free(s);
    done(ctx);
}

void server_forget(struct smtp_server *s, struct conn *c)
{
    greet_unlink(c);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    *c->bucket_link = c->bucket_next;
    if (c->bucket_next)
        c->bucket_next->bucket_link = c->bucket_link;
    s->n_conns--;
    s->n_admitted -= c->admitted;
    free(c);
    finish_close(s);
}

/* ---- greeting: one round of the loop after the connection, so that who talks first is seen ----
 */

static void on_idle(uv_idle_t *h)
{
    (void)h; /* keeps the loop from sleeping before the next check */
}

static void on_check(uv_check_t *h)
{
    struct smtp_server *s = h->data;
    struct conn *due = s->greet_due, *next;
    s->greet_due = NULL;
    for (; due; due = next) {
        next = due->greet_next;
        due->greet_link = NULL;
        conn_greet(due);
    }
    s->greet_due = s->greet_fresh;
    s->greet_fresh = NULL;
    if (s->greet_due)
        s->greet_due->greet_link = &s->greet_due;
    else
        uv_check_stop(&s->check), uv_idle_stop(&s->idle);
}

void server_greet_later(struct smtp_server *s, struct conn *c)
{
    if (s->closing || c->greet_link)
        return;
    c->greet_next = s->greet_fresh;
    c->greet_link = &s->greet_fresh;
    if (c->greet_next)
        c->greet_next->greet_link = &c->greet_next;
    s->greet_fresh = c;
    uv_check_start(&s->check, on_check);
    uv_idle_start(&s->idle, on_idle);
}

/* ---- time and memory ---- */

static void update_all(struct smtp_server *s)
{
    /* A session may end meanwhile, but its memory goes in a later round of the loop. */
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_update(c);
    }
}

void server_check_memory(struct smtp_server *s)
{
    struct queue_stats q;
    queue_stats(s->queue, &q);
    /* Two thresholds, so that one commit doesn't wake everybody for one read. */
    if (!s->stalled && q.waiting_bytes > SMTP_WAITING_MAX) {
        s->stalled = true;
    } else if (s->stalled && q.waiting_bytes <= SMTP_WAITING_MAX / 2) {
        s->stalled = false;
        update_all(s);
    }
}

static void on_tick(uv_timer_t *t)
{
    struct smtp_server *s = t->data;
    uint64_t now = uv_now(s->loop);
    server_check_memory(s);
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_tick(c, now);
    }
}

/* ---- life ---- */

static void on_connection(uv_stream_t *h, int status)
{
    struct listener *l = h->data;
    if (status == 0 && !l->server->closing)
        conn_accept(l);
    else if (status)
        log_warn("smtp.accept", "error=\"%s\"", uv_strerror(status));
}

static void on_handle_closed(uv_handle_t *h)
{
    struct smtp_server *s = h->type == UV_TCP ? ((struct listener *)h->data)->server : h->data;
    s->n_handles--;
    finish_close(s);
}

static bool listen_on(struct smtp_server *s, struct listener *l, const struct config_listener *from,
                      char *err, size_t n)
{
    struct sockaddr_storage a;
    l->server = s;
    l->tls = from->tls;
    l->auth = from->auth;
    l->tcp.data = l;
    if (!address_parse(from->address, &a)) {
        snprintf(err, n, "listener %s: not an address and port", from->address);
        return false;
    }
    if (from->tls != LISTENER_PLAIN && !s->tls) {
        snprintf(err, n, "listener %s: TLS needs tls = { cert = ...; key = ...; }", from->address);
        return false;
    }
    if (from->auth != AUTH_OFF && !s->auth) {
        snprintf(err, n,
                 "listener %s: auth needs auth = { users = ...; }, made with `batonctl passwd`",
                 from->address);
        return false;
    }
    int rc =
        stream_listen(s->loop, &l->tcp, (const struct sockaddr *)&a, LISTEN_BACKLOG, on_connection);
    l->tcp.data = l;
    s->n_handles++; /* initialised whatever came of it */
    if (rc) {
        snprintf(err, n, "listener %s: %s%s", from->address, uv_strerror(rc),
                 rc == UV_EADDRINUSE ? "; another program listens there: see `ss -ltnp`"
                 : rc == UV_EACCES   ? "; start as root and set user = \"baton\", or take a port "
                                       "above 1023"
                                     : "");
        return false;
    }
    return true;
}

static void take_policy(struct smtp_server *s, const struct config *c)
{
    free(s->hostname);
    s->hostname = xstrdup(c->hostname);
    enum smtp_gate gate = s->policy.gate;
    s->policy = (struct smtp_policy){
        .hostname = s->hostname,
        .message_bytes = c->limits.message_bytes,
        .recipients = c->limits.recipients,
        .hops = c->limits.received_hops,
        .errors = c->smtp.errors,
        .greeting_ms = c->smtp.greeting_s * (uint64_t)1000,
        .command_ms = c->smtp.command_s * (uint64_t)1000,
        .data_ms = c->smtp.data_s * (uint64_t)1000,
        .gate = gate,
    };
    s->config = c;
}

static void nobody(void *ctx)
{
    (void)ctx;
}

struct smtp_server *smtp_server_new(uv_loop_t *loop, const struct config *c, struct queue *queue,
                                    struct events *events, char *err, size_t n)
{
    struct smtp_server *s = xcalloc(1, sizeof *s);
    s->loop = loop;
    s->queue = queue;
    s->events = events;
    s->policy.gate = SMTP_NOT_PRIMARY;
    take_policy(s, c);
    uv_timer_init(loop, &s->timer);
    uv_check_init(loop, &s->check);
    uv_idle_init(loop, &s->idle);
    s->timer.data = s->check.data = s->idle.data = s;
    s->n_handles = 3;
    bool ok = true;
    if (c->tls_cert)
        ok = (s->tls = tls_ctx_server(c->tls_cert, c->tls_key, err, n)) != NULL;
    if (ok && c->auth_users)
        ok = (s->auth = auth_open(loop, c->auth_users, err, n)) != NULL;
    s->listeners = xcalloc(c->n_listeners, sizeof s->listeners[0]);
    for (unsigned i = 0; ok && i < c->n_listeners; i++) {
        ok = listen_on(s, &s->listeners[i], &c->listeners[i], err, n);
        s->n_listeners += s->n_handles == 3 + i + 1;
    }
    if (!ok) {
        smtp_server_close(s, nobody, NULL);
        return NULL;
    }
    uv_timer_start(&s->timer, on_tick, SMTP_TICK_MS, SMTP_TICK_MS);
    return s;
}

void smtp_server_set_gate(struct smtp_server *s, enum smtp_gate gate)
{
    if (s->policy.gate == gate || s->closing)
        return;
    s->policy.gate = gate;
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        smtp_session_gate(c->session, uv_now(s->loop));
        conn_update(c);
    }
}

bool smtp_server_reload(struct smtp_server *s, const struct config *c, char *err, size_t n)
{
    struct tls_ctx *tls = NULL;
    struct auth *auth = NULL;
    if (c->tls_cert && !(tls = tls_ctx_server(c->tls_cert, c->tls_key, err, n)))
        return false;
    bool ok = true;
    if (c->auth_users && s->auth)
        ok = auth_reload(s->auth, c->auth_users, err, n);
    else if (c->auth_users)
        ok = (auth = auth_open(s->loop, c->auth_users, err, n)) != NULL;
    if (!ok) {
        tls_ctx_unref(tls);
        return false;
    }
    if (tls) {
        tls_ctx_unref(s->tls);
        s->tls = tls;
    }
    if (auth)
        s->auth = auth;
    take_policy(s, c);
    return true;
}

void smtp_server_stats(const struct smtp_server *s, struct smtp_stats *out)
{
    *out = s->stats;
    out->sessions = s->n_admitted;
}

void smtp_server_close(struct smtp_server *s, void (*done)(void *ctx), void *ctx)
{
    assert(!s->closing);
    s->closing = true;
    s->done = done;
    s->done_ctx = ctx;
    for (unsigned i = 0; i < s->n_listeners; i++)
        uv_close((uv_handle_t *)&s->listeners[i].tcp, on_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_handle_closed);
    uv_close((uv_handle_t *)&s->check, on_handle_closed);
    uv_close((uv_handle_t *)&s->idle, on_handle_closed);
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_stop(c);
    }
}
