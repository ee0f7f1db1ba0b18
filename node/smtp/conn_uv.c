/* One client: stream, session core and what goes between them. */
#include <netinet/in.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/smtp/server_state_uv.h"

static uint64_t now_of(const struct conn *c)
{
    return uv_now(c->server->loop);
}

/* IPv4 as v4-mapped, in 16 bytes. */
static void address_bytes(const struct sockaddr *a, uint8_t out[16])
{
    if (a->sa_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)a)->sin6_addr, 16);
        return;
    }
    memset(out, 0, 10);
    out[10] = out[11] = 0xff;
    memcpy(out + 12, &((const struct sockaddr_in *)a)->sin_addr, 4);
}

void conn_update(struct conn *c)
{
    const struct intake *in = c->intake;
    if (c->linger_until_ms || smtp_session_closed(c->session))
        return;
    bool held = c->server->stalled || (in && in->in_flight >= SMTP_CHUNKS_IN_FLIGHT);
    bool unread = stream_pending(c->stream) > SMTP_UNSENT_MAX; /* its own fault: time runs on */
    if (c->held && !held)
        smtp_session_touch(c->session, now_of(c));
    c->held = held;
    /* Who waits for the fate of a message says nothing meanwhile: to stop reading, for each
     * message, costs more than to take what comes all the same once. */
    bool silent = smtp_session_committing(c->session) && !smtp_session_holds_input(c->session);
    bool pause = held || unread || !(smtp_session_wants_input(c->session) || silent);
    if (pause == c->paused)
        return;
    c->paused = pause;
    if (pause)
        stream_pause(c->stream);
    else
        stream_resume(c->stream); /* may bring data at once */
}

static void on_verified(void *ctx, bool right)
{
    struct conn *c = ctx;
    c->check = NULL;
    if (!right) {
        c->server->stats.auth_failed_total++;
        log_info("smtp.auth", "client=%s result=wrong", stream_peer(c->stream));
    }
    smtp_session_verified(c->session, right ? SMTP_VERIFIED : SMTP_WRONG, now_of(c));
    conn_update(c);
}

static void verify(struct conn *c, const struct smtp_effect *fx)
{
    struct auth *a = c->server->auth;
    c->check = a ? auth_verify(a, fx->user, fx->password, on_verified, c) : NULL;
    if (!c->check)
        smtp_session_verified(c->session, SMTP_CANNOT_TELL, now_of(c));
}

static void refused(struct conn *c, struct slice reply)
{
    char text[300];
    c->server->stats.refused_total++;
    /* Balancers ask a standby every second: nothing to tell a person. */
    if (c->server->policy.gate == SMTP_NOT_PRIMARY)
        return;
    log_info("smtp.refused", "client=%s reply=%s", stream_peer(c->stream),
             log_quote(text, sizeof text, reply));
}

static void close_stream(struct conn *c, bool linger)
{
    if (!linger) {
        stream_shutdown(c->stream, SMTP_FLUSH_MS);
        return;
    }
    c->linger_until_ms = now_of(c) + SMTP_LINGER_MS;
    if (c->paused)
        stream_resume(c->stream);
    c->paused = false;
}

static void on_effect(void *ctx, const struct smtp_effect *fx)
{
    struct conn *c = ctx;
    switch (fx->type) {
    case SMTP_FX_WRITE:
        stream_write(c->stream, fx->bytes);
        return;
    case SMTP_FX_START_TLS:
        stream_start_tls(c->stream, c->server->tls, true, NULL);
        return;
    case SMTP_FX_VERIFY:
        verify(c, fx);
        return;
    case SMTP_FX_BODY:
        intake_body(c, fx->bytes);
        return;
    case SMTP_FX_DISCARD:
        intake_drop(c);
        return;
    case SMTP_FX_COMPLETE:
        intake_complete(c);
        return;
    case SMTP_FX_REFUSED:
        refused(c, fx->bytes);
        return;
    case SMTP_FX_CLOSE:
        close_stream(c, fx->linger);
        return;
    }
}

static void on_data(void *ctx, struct stream *st, struct slice data)
{
    struct conn *c = ctx;
    (void)st;
    if (c->linger_until_ms)
        return;
    smtp_session_input(c->session, data, now_of(c));
    server_check_memory(c->server);
    conn_update(c);
}

static void on_tls(void *ctx, struct stream *st)
{
    struct conn *c = ctx;
    c->server->stats.tls_total++;
    smtp_session_tls(c->session, stream_tls_describe(st), now_of(c));
    server_greet_later(c->server, c); /* implicit TLS; the others have been greeted */
    /* A handshake needs reading; the session's commands follow it. */
    conn_update(c);
}

static void on_drain(void *ctx, struct stream *st)
{
    (void)st;
    conn_update(ctx);
}

static void on_eof(void *ctx, struct stream *st)
{
    struct conn *c = ctx;
    if (c->linger_until_ms) {
        stream_shutdown(st, SMTP_FLUSH_MS);
        return;
    }
    smtp_session_eof(c->session, now_of(c));
    conn_update(c);
}

static void on_close(void *ctx, struct stream *st, const char *why)
{
    struct conn *c = ctx;
    log_debug("smtp.closed", "client=%s why=\"%s\"", stream_peer(st), why);
    intake_drop(c);
    submission_detach(c);
    if (c->check)
        auth_forget_check(c->check);
    smtp_session_free(c->session);
    c->session = NULL;
    server_forget(c->server, c); /* frees c */
}

void conn_accept(struct listener *l)
{
    static const struct stream_events events = {.on_data = on_data,
                                                .on_tls = on_tls,
                                                .on_drain = on_drain,
                                                .on_eof = on_eof,
                                                .on_close = on_close};
    struct smtp_server *s = l->server;
    struct conn *c = xcalloc(1, sizeof *c);
    c->server = s;
    c->stream = stream_accept((uv_stream_t *)&l->tcp, l->tls == LISTENER_IMPLICIT ? s->tls : NULL,
                              &events, c);
    if (!c->stream) {
        free(c);
        return;
    }
    stream_set_cap(c->stream, SMTP_STREAM_CAP);
    uint8_t address[16];
    address_bytes(stream_peer_addr(c->stream), address);
    memcpy(c->key, address, sizeof c->key);
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    if (memcmp(address, mapped, sizeof mapped) != 0)
        memset(c->key + 8, 0, 8); /* one customer has a /64 */
    struct smtp_client client = {
        .peer = stream_peer(c->stream),
        .may_relay = config_network_contains(s->config->relay_networks, s->config->n_relay_networks,
                                             address),
        .starttls = l->tls == LISTENER_STARTTLS && s->tls,
        .implicit = l->tls == LISTENER_IMPLICIT,
        .auth = l->auth != AUTH_OFF && s->auth,
        .auth_required = l->auth == AUTH_REQUIRED,
    };
    c->session = smtp_session_new(&s->policy, &client, on_effect, c, uv_now(s->loop));
    s->stats.connections_total++;
    c->admission = server_admit(s, c);
    if (c->admission != SMTP_ADMIT && s->n_conns - s->n_admitted > SMTP_REFUSALS_MAX)
        stream_close(c->stream, "too many connections");
    else if (l->tls != LISTENER_IMPLICIT)
        server_greet_later(s, c);
}

void conn_greet(struct conn *c)
{
    smtp_session_greet(c->session, c->admission, now_of(c));
    conn_update(c);
}

void conn_tick(struct conn *c, uint64_t now_ms)
{
    if (c->linger_until_ms) {
        if (now_ms >= c->linger_until_ms)
            stream_shutdown(c->stream, SMTP_FLUSH_MS);
        return;
    }
    if (c->held)
        return;
    smtp_session_tick(c->session, now_ms);
    conn_update(c);
}

void conn_stop(struct conn *c)
{
    smtp_session_stop(c->session, now_of(c));
    if (c->linger_until_ms)
        stream_shutdown(c->stream, SMTP_FLUSH_MS);
}
