/* See replication_uv.h. One thread with one loop; everything that comes from other threads comes as
 * mail, in order. The core decides; carry_out() is the one place where its effects happen.
 *
 * Dialling: one outgoing connection at a time, over the peer's addresses in turn, with a back-off
 * that doubles from 50 ms to 1 s and starts anew when a link has worked or the core asks anew.
 * A peer that can't be authenticated (another key, cluster name or node name) never gets past TLS;
 * the log says so at most every 30 s. */
#include "replication/replication_uv.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/mailbox_uv.h"
#include "replication/link_uv.h"

#define MS 1000000ull

enum {
    TICK_MS = 20,
    VIEW_MS = 50,
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 1000,
    BACKOFF_SECURED_MS = 200, /* the peer is there, but isn't ready for us */
    LINKS_MAX = 8,            /* one in, one out, and what is still closing or in its handshake */
    BACKLOG = 16,
    PAUSED_MS = 500, /* a gap between ticks that is this process's own */
    LOG_EVERY_MS = 30000,
    LOG_KEYS = 16,
    LOG_KEY_BYTES = 48
};

struct replication {
    uv_loop_t loop;
    uv_timer_t timer;
    uv_prepare_t prepare;
    uv_tcp_t listeners[CONFIG_ADDRESSES_MAX];
    unsigned n_listeners;
    pthread_t thread;
    struct mailbox *mailbox;
    struct replica *core;
    struct replication_hooks hooks;
    struct tls_ctx *tls_in, *tls_out;
    struct link *links[LINKS_MAX];
    uint64_t links_made;
    struct link *out; /* the outgoing link, also while it connects; NULL: none */
    struct sockaddr_storage to[CONFIG_ADDRESSES_MAX];
    unsigned n_to, to_next;
    bool dialling, stopping;
    bool single; /* nobody is there to replicate to */
    uint64_t dial_at_ns, backoff_ms, ticked_ns, viewed_ns;
    struct {
        char key[LOG_KEY_BYTES];
        uint64_t at_ns;
    } logged[LOG_KEYS];
    pthread_mutex_t view_lock;
    struct replica_view view;
    _Atomic uint64_t alive_ns;
};

/* ---- the log, without floods ---- */

static bool may_log(struct replication *r, const char *key)
{
    uint64_t now = clock_boot_ns();
    unsigned oldest = 0;
    for (unsigned i = 0; i < LOG_KEYS; i++) {
        if (strncmp(r->logged[i].key, key, LOG_KEY_BYTES - 1) == 0) {
            if (now < r->logged[i].at_ns + LOG_EVERY_MS * MS)
                return false;
            r->logged[i].at_ns = now;
            return true;
        }
        if (r->logged[i].at_ns < r->logged[oldest].at_ns)
            oldest = i;
    }
    snprintf(r->logged[oldest].key, LOG_KEY_BYTES, "%s", key);
    r->logged[oldest].at_ns = now;
    return true;
}

static void log_down(struct replication *r, const struct link *l, bool secured, const char *why)
{
    char quoted[256], key[LOG_KEY_BYTES];
    if (r->stopping)
        return;
    log_quote(quoted, sizeof quoted, slice_str(why));
    bool tls = !secured && strncmp(why, "TLS", 3) == 0;
    snprintf(key, sizeof key, "%d%d %.20s %s", secured, link_outgoing(l), why, link_peer(l));
    if (!may_log(r, key)) {
        log_debug("replication.down", "peer=%s why=%s", link_peer(l), quoted);
    } else if (secured) {
        log_info("replication.down", "peer=%s why=%s", link_peer(l), quoted);
    } else if (tls) {
        log_warn("replication.refused",
                 "peer=%s why=%s: it isn't the other node of this cluster: key_file, cluster "
                 "and the nodes' names must be the same in both configurations",
                 link_peer(l), quoted);
    } else if (link_outgoing(l)) {
        log_warn("replication.unreachable", "peer=%s why=%s: trying again", link_peer(l), quoted);
    }
}

/* ---- links ---- */

static void step(struct replication *r, const struct replica_event *ev)
{
    replica_step(r->core, ev, clock_boot_ns(), clock_wall_ms());
}

static struct link *find(struct replication *r, uint64_t id)
{
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (r->links[i] && link_id(r->links[i]) == id)
            return r->links[i];
    return NULL;
}

static struct link **free_slot(struct replication *r)
{
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (!r->links[i])
            return &r->links[i];
    return NULL;
}

static void on_up(void *ctx, struct link *l)
{
    struct replication *r = ctx;
    log_event(may_log(r, link_outgoing(l) ? "up out" : "up in") ? LOG_INFO_ : LOG_DEBUG_,
              "replication.up", "peer=%s direction=%s", link_peer(l),
              link_outgoing(l) ? "out" : "in");
    struct replica_event ev = {
        .type = RE_LINK_UP, .link = link_id(l), .outgoing = link_outgoing(l)};
    step(r, &ev);
}

static void on_frame(void *ctx, struct link *l, uint8_t type, struct slice payload)
{
    struct replication *r = ctx;
    /* A frame means that the peer took us up: the next break starts with a short back-off. */
    if (link_outgoing(l) && type != FRAME_REFUSED)
        r->backoff_ms = BACKOFF_FIRST_MS;
    struct replica_event ev = {
        .type = RE_FRAME, .link = link_id(l), .frame = type, .payload = payload};
    step(r, &ev);
}

static void on_drain(void *ctx, struct link *l)
{
    struct replica_event ev = {.type = RE_DRAINED_OUT, .link = link_id(l)};
    step(ctx, &ev);
}

static void dial_later(struct replication *r, bool secured)
{
    r->dial_at_ns = clock_boot_ns() + r->backoff_ms * MS;
    uint64_t max = secured ? BACKOFF_SECURED_MS : BACKOFF_MAX_MS;
    r->backoff_ms = r->backoff_ms * 2 < max ? r->backoff_ms * 2 : max;
    if (!secured && r->n_to)
        r->to_next = (r->to_next + 1) % r->n_to;
}

static void on_down(void *ctx, struct link *l, bool secured, const char *why)
{
    struct replication *r = ctx;
    log_down(r, l, secured, why);
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (r->links[i] == l)
            r->links[i] = NULL;
    if (r->out == l) {
        r->out = NULL;
        dial_later(r, secured);
    }
    if (r->stopping || !secured)
        return;
    struct replica_event ev = {.type = RE_LINK_DOWN, .link = link_id(l)};
    step(r, &ev);
}

static const struct link_events link_hooks = {
    .on_up = on_up, .on_frame = on_frame, .on_drain = on_drain, .on_down = on_down};

static void dial(struct replication *r)
{
    struct link **slot = free_slot(r);
    if (!slot || !r->n_to)
        return;
    *slot = link_dial(&r->loop, (struct sockaddr *)&r->to[r->to_next], r->tls_out, ++r->links_made,
                      &link_hooks, r);
    r->out = *slot;
}

static void free_refused(uv_handle_t *h)
{
    free(h);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct replication *r = listener->data;
    if (status < 0) {
        if (may_log(r, "accept"))
            log_warn("replication.accept", "error=%s", uv_strerror(status));
        return;
    }
    struct link **slot = free_slot(r);
    if (!slot) {
        /* Strangers in their handshake; the oldest of them makes room. */
        for (unsigned i = 0; i < LINKS_MAX; i++)
            if (r->links[i] && !link_is_up(r->links[i]) && r->links[i] != r->out)
                link_kill(r->links[i]);
        uv_tcp_t *refused = xcalloc(1, sizeof *refused);
        uv_tcp_init(&r->loop, refused);
        (void)uv_accept(listener, (uv_stream_t *)refused); /* taken off the backlog */
        uv_close((uv_handle_t *)refused, free_refused);
        return;
    }
    *slot = link_accept(listener, r->tls_in, ++r->links_made, &link_hooks, r);
}

/* ---- effects ---- */

static void send_frame(struct replication *r, const struct replica_effect *fx)
{
    struct link *l = find(r, fx->link);
    if (l)
        link_send(l, fx->frame, fx->payload, fx->shared);
}

static void close_link(struct replication *r, const struct replica_effect *fx)
{
    struct link *l = find(r, fx->link);
    if (!l)
        return;
    log_event(may_log(r, fx->text) ? LOG_INFO_ : LOG_DEBUG_, "replication.close",
              "peer=%s why=\"%s\"", link_peer(l), fx->text);
    link_close(l, fx->text);
}

static void carry_out(void *ctx, const struct replica_effect *fx)
{
    struct replication *r = ctx;
    switch (fx->type) {
    case RX_SEND:
        send_frame(r, fx);
        break;
    case RX_DIAL:
        r->dialling = true;
        r->backoff_ms = BACKOFF_FIRST_MS;
        r->dial_at_ns = 0;
        if (!r->out)
            dial(r);
        break;
    case RX_HANG_UP:
        r->dialling = false;
        if (r->out && !link_is_up(r->out))
            link_kill(r->out);
        break;
    case RX_CLOSE:
        close_link(r, fx);
        break;
    case RX_STORE:
        r->hooks.store(r->hooks.ctx, fx->request);
        break;
    case RX_WATERMARK:
        r->hooks.watermark(r->hooks.ctx, fx->epoch, fx->committed, fx->settled, fx->noted);
        break;
    case RX_EPOCH_OVER:
        r->hooks.epoch_over(r->hooks.ctx);
        break;
    case RX_REPORT:
        r->hooks.report(r->hooks.ctx, &fx->report);
        break;
    case RX_MENDED:
        r->hooks.mended(r->hooks.ctx, fx->id, fx->mended);
        break;
    case RX_OP_DONE:
        r->hooks.op_done(r->hooks.ctx, fx->op, fx->ok, fx->text);
        break;
    case RX_LOG:
        if (may_log(r, fx->text))
            log_event(fx->ok ? LOG_INFO_ : LOG_WARN_, "replication", "%s", fx->text);
        break;
    }
}

/* ---- the loop ---- */

static void publish(struct replication *r, uint64_t now)
{
    if (now < r->viewed_ns + VIEW_MS * MS)
        return;
    r->viewed_ns = now;
    struct replica_view v;
    replica_view(r->core, now, &v);
    pthread_mutex_lock(&r->view_lock);
    r->view = v;
    pthread_mutex_unlock(&r->view_lock);
}

static void on_tick(uv_timer_t *t)
{
    struct replication *r = t->data;
    uint64_t now = clock_boot_ns();
    bool paused = r->ticked_ns && now > r->ticked_ns + PAUSED_MS * MS;
    r->ticked_ns = now;
    atomic_store(&r->alive_ns, now);
    mailbox_drain(r->mailbox);
    if (r->stopping)
        return;
    struct replica_event ev = {.type = RE_TICK};
    step(r, &ev);
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (r->links[i])
            link_tick(r->links[i], now, paused);
    if (r->dialling && !r->out && now >= r->dial_at_ns)
        dial(r);
    publish(r, now);
}

/* Before the loop waits: what the events of this round have queued goes out together. */
static void on_prepare(uv_prepare_t *h)
{
    struct replication *r = h->data;
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (r->links[i])
            link_flush(r->links[i]);
}

enum mail_type {
    MAIL_PAIR,
    MAIL_REPLY,
    MAIL_BATCH,
    MAIL_DURABLE,
    MAIL_EVENT,
    MAIL_NOTES,
    MAIL_STOP
};
struct letter {
    struct mail mail;
    union {
        struct pair_effect fx;
        struct store_reply reply;
        struct own_batch batch;
        struct pos pos;
        struct replica_event event; /* one without pointers */
        struct shared *notes;
    };
};

static void stop(struct replication *r)
{
    r->stopping = true;
    r->dialling = false;
    uv_close((uv_handle_t *)&r->timer, NULL);
    uv_close((uv_handle_t *)&r->prepare, NULL);
    for (unsigned i = 0; i < r->n_listeners; i++)
        uv_close((uv_handle_t *)&r->listeners[i], NULL);
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if (r->links[i])
            link_kill(r->links[i]);
    mailbox_close(r->mailbox);
}

static void on_mail(void *ctx, struct mail *m)
{
    struct replication *r = ctx;
    struct letter *x = (struct letter *)m;
    struct replica_event ev;
    switch ((enum mail_type)m->type) {
    case MAIL_PAIR:
        ev = (struct replica_event){.type = RE_PAIR, .fx = &x->fx};
        step(r, &ev);
        break;
    case MAIL_REPLY:
        ev = (struct replica_event){.type = RE_STORE, .reply = &x->reply};
        step(r, &ev);
        break;
    case MAIL_BATCH:
        ev = (struct replica_event){.type = RE_BATCH, .batch = &x->batch};
        step(r, &ev);
        shared_unref(x->batch.rows);
        break;
    case MAIL_DURABLE:
        ev = (struct replica_event){.type = RE_DURABLE, .pos = x->pos};
        step(r, &ev);
        break;
    case MAIL_EVENT:
        step(r, &x->event);
        break;
    case MAIL_NOTES:
        ev = (struct replica_event){.type = RE_NOTES,
                                    .payload = slice_of(x->notes->data, x->notes->n)};
        step(r, &ev);
        shared_unref(x->notes);
        break;
    case MAIL_STOP:
        stop(r);
        break;
    }
    free(x);
}

static void *run(void *ctx)
{
    struct replication *r = ctx;
    uv_run(&r->loop, UV_RUN_DEFAULT);
    return NULL;
}

/* ---- start and stop ---- */

static bool parse(const char *address, uint16_t port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    return uv_ip4_addr(address, port, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(address, port, (struct sockaddr_in6 *)out) == 0;
}

static bool listen_all(struct replication *r, const struct config_node *self, char *err, size_t n)
{
    for (unsigned i = 0; i < self->n_addresses; i++) {
        struct sockaddr_storage a;
        uv_tcp_t *h = &r->listeners[r->n_listeners];
        int rc = UV_EINVAL;
        if (parse(self->addresses[i], self->replication_port, &a)) {
            rc = stream_listen(&r->loop, h, (struct sockaddr *)&a, BACKLOG, on_connection);
            h->data = r;
            r->n_listeners++; /* initialised: has to be closed in either case */
        }
        if (!rc)
            continue;
        snprintf(err, n, "nodes.%c: can't listen for the other node on %s port %u: %s; %s",
                 self->name, self->addresses[i], (unsigned)self->replication_port, uv_strerror(rc),
                 rc == UV_EADDRINUSE
                     ? "stop what uses it, or choose another replication_port in both files"
                 : rc == UV_EADDRNOTAVAIL
                     ? "this machine doesn't have that address: correct `addresses` or `node`"
                     : "correct `addresses` and `replication_port`");
        return false;
    }
    return true;
}

static struct tls_ctx *direction(const struct config *c, const uint8_t key[32], char from, char to,
                                 bool server, char *err, size_t n)
{
    char label[128], identity[128];
    uint8_t derived[32];
    /* One key for both directions would let an attacker reflect a node to itself. */
    snprintf(label, sizeof label, "replication/%s/%c>%c", c->cluster, from, to);
    snprintf(identity, sizeof identity, "%s/%c>%c", c->cluster, from, to);
    crypto_derive(key, label, derived);
    return tls_ctx_psk(server, derived, identity, err, n);
}

static bool set_up_peer(struct replication *r, const struct config *c, const uint8_t key[32],
                        char *err, size_t n)
{
    const struct config_node *self = config_self(c), *peer = config_peer(c);
    if (!peer)
        return true; /* a single node: nobody to replicate to */
    r->tls_in = direction(c, key, peer->name, self->name, true, err, n);
    r->tls_out = direction(c, key, self->name, peer->name, false, err, n);
    if (!r->tls_in || !r->tls_out)
        return false;
    for (unsigned i = 0; i < peer->n_addresses; i++)
        if (parse(peer->addresses[i], peer->replication_port, &r->to[r->n_to]))
            r->n_to++;
    return listen_all(r, self, err, n);
}

static void free_all(struct replication *r)
{
    int rc = uv_loop_close(&r->loop);
    assert(rc == 0);
    (void)rc;
    replica_free(r->core);
    tls_ctx_unref(r->tls_in);
    tls_ctx_unref(r->tls_out);
    pthread_mutex_destroy(&r->view_lock);
    free(r);
}

struct replication *replication_start(const struct config *c, const uint8_t cluster_key[32],
                                      const struct store_meta *meta,
                                      const struct replication_hooks *hooks, char *err, size_t n)
{
    struct replication *r = xcalloc(1, sizeof *r);
    r->hooks = *hooks;
    r->single = c->n_nodes < 2;
    r->backoff_ms = BACKOFF_FIRST_MS;
    pthread_mutex_init(&r->view_lock, NULL);
    uv_loop_init(&r->loop);
    uv_timer_init(&r->loop, &r->timer);
    uv_prepare_init(&r->loop, &r->prepare);
    r->timer.data = r->prepare.data = r;
    r->mailbox = mailbox_new(&r->loop, on_mail, r);
    struct replica_config rc = {.self = c->node == 'b' ? NODE_B : NODE_A,
                                .standby_timeout_ns = c->health.standby_timeout_ms * MS,
                                .retention_ms = c->queue.retention_ms,
                                .quarantine_ms = c->queue.quarantine_ms,
                                .single = r->single,
                                .repair_bytes = c->limits.message_bytes + (16 << 20)};
    crypto_random(rc.random, sizeof rc.random);
    r->core = replica_new(&rc, c->cluster, meta, carry_out, r);
    atomic_store(&r->alive_ns, clock_boot_ns());
    bool ok = set_up_peer(r, c, cluster_key, err, n);
    if (ok) {
        uv_timer_start(&r->timer, on_tick, TICK_MS, TICK_MS);
        uv_prepare_start(&r->prepare, on_prepare);
        int failed = pthread_create(&r->thread, NULL, run, r);
        if (failed)
            snprintf(err, n, "can't start the replication thread: %s", strerror(failed));
        ok = !failed;
    }
    if (!ok) {
        stop(r);
        uv_run(&r->loop, UV_RUN_DEFAULT);
        free_all(r);
        return NULL;
    }
    return r;
}

/* Only as large as its content: a reply carries a history, a durable position is sent at each
 * commit.
 */
static struct letter *letter(enum mail_type type, size_t content)
{
    struct letter *x = xcalloc(1, offsetof(struct letter, fx) + content);
    x->mail.type = (int)type;
    return x;
}

void replication_pair(struct replication *r, const struct pair_effect *fx)
{
    struct letter *x = letter(MAIL_PAIR, sizeof x->fx);
    x->fx = *fx;
    mailbox_post(r->mailbox, &x->mail);
}

void replication_reply(struct replication *r, const struct store_reply *reply)
{
    struct letter *x = letter(MAIL_REPLY, sizeof x->reply);
    x->reply = *reply;
    mailbox_post(r->mailbox, &x->mail);
}

void replication_batch(struct replication *r, const struct own_batch *b)
{
    struct letter *x = letter(MAIL_BATCH, sizeof x->batch);
    x->batch = *b;
    shared_ref(b->rows);
    mailbox_post(r->mailbox, &x->mail);
}

void replication_durable(struct replication *r, struct pos end)
{
    struct letter *x = letter(MAIL_DURABLE, sizeof x->pos);
    x->pos = end;
    if (!r->single)
        mailbox_post(r->mailbox, &x->mail);
    else
        mailbox_post_quietly(r->mailbox, &x->mail);
}

void replication_rejoin(struct replication *r, bool discard, uint64_t op)
{
    struct letter *x = letter(MAIL_EVENT, sizeof x->event);
    x->event = (struct replica_event){.type = RE_REJOIN, .flag = discard, .op = op};
    mailbox_post(r->mailbox, &x->mail);
}

void replication_notes(struct replication *r, struct slice frame)
{
    struct letter *x = letter(MAIL_NOTES, sizeof x->notes);
    x->notes = shared_new(frame);
    mailbox_post(r->mailbox, &x->mail);
}

void replication_verify(struct replication *r, uint64_t op)
{
    struct letter *x = letter(MAIL_EVENT, sizeof x->event);
    x->event = (struct replica_event){.type = RE_VERIFY, .op = op};
    mailbox_post(r->mailbox, &x->mail);
}

void replication_mend(struct replication *r, uint64_t id)
{
    struct letter *x = letter(MAIL_EVENT, sizeof x->event);
    x->event = (struct replica_event){.type = RE_MEND, .id = id};
    mailbox_post(r->mailbox, &x->mail);
}

void replication_view(const struct replication *r, struct replica_view *out)
{
    struct replication *m = (struct replication *)r; /* the lock */
    pthread_mutex_lock(&m->view_lock);
    *out = m->view;
    pthread_mutex_unlock(&m->view_lock);
}

bool replication_alive(const struct replication *r, uint64_t max_age_ns)
{
    uint64_t seen = atomic_load(&((struct replication *)r)->alive_ns), now = clock_boot_ns();
    return now < seen + max_age_ns;
}

void replication_stop(struct replication *r)
{
    if (!r)
        return;
    struct letter *x = letter(MAIL_STOP, 0);
    mailbox_post(r->mailbox, &x->mail);
    pthread_join(r->thread, NULL);
    free_all(r);
}
