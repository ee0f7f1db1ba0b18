/* See health_uv.h. One loop; every source of events (datagrams, timers, other threads, the voter's
 * writer) ends in feed(), and every effect of the pair core in on_effect(). The order that
 * matters: sockets are read before any timer's work (protocol 6, incident 24); a lease is published
 * within the step that decides it; heartbeats leave after the step, so they tell its result. */
#include "health/health_uv.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <uv.h>

#include "health/arbiter_uv.h"
#include "health/health_net_uv.h"
#include "health/heartbeat.h"
#include "health/voter_posix.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/mailbox_uv.h"

#define MS(n) ((uint64_t)(n)*1000000u)

enum {
    TICK_MS = 10,
    PAUSED_MS = 300,   /* the loop stood still for this long: worth a line in the log */
    EVENTS_MAX = 64,   /* raised while the core is stepping; a few at most, see defer() */
    ANSWER_GAP_MS = 20 /* between heartbeats out of turn */
};

struct health {
    const struct config *config;
    struct health_hooks hooks;
    unsigned self;
    bool single;
    uv_loop_t loop;
    pthread_t thread;
    uv_timer_t tick, heartbeat;
    struct mailbox *mailbox;
    struct health_net *net;
    struct pair *pair;
    struct arbiter_uv *arbiter_uv; /* NULL: a single node */
    struct arbiter *arbiter;
    struct heartbeat_guard guard;
    bool stepping, send_heartbeat, publish, stalled;
    struct pair_event event[EVENTS_MAX];
    unsigned event_head, event_n;
    uint64_t last_tick_ns, last_sent_ns, second_ns;
    struct pair_takeover raw[PAIR_TAKEOVERS];       /* as the core has them, to see a new one */
    struct pair_takeover takeovers[PAIR_TAKEOVERS]; /* with their wall time */
    pthread_mutex_t lock;                           /* both views: for other threads */
    struct pair_view view;
    struct arbiter_view arbiter_view;
    _Atomic uint32_t lease_epoch;
    _Atomic uint64_t lease_until_ns, own_lsn, committed_lsn, alive_ns;
};

enum { MAIL_EVENT, MAIL_FENCED, MAIL_STOP };
struct health_mail {
    struct mail mail;
    struct pair_event event;
};

/* ---- the core ---- */

/* Raised from within a step (the register answers, say): taken after it. */
static void defer(struct health *h, const struct pair_event *ev)
{
    /* Each kind comes at most once a step or a datagram; hints alone may be dropped. */
    if (h->event_n == EVENTS_MAX) {
        assert(ev->type == PE_HINT);
        return;
    }
    h->event[(h->event_head + h->event_n++) % EVENTS_MAX] = *ev;
}

static void note_takeovers(struct health *h, struct pair_view *v)
{
    if (memcmp(&v->takeovers[0], &h->raw[0], sizeof h->raw[0]) != 0 && v->n_takeovers > 0) {
        memmove(h->takeovers + 1, h->takeovers, sizeof h->takeovers - sizeof h->takeovers[0]);
        h->takeovers[0] = v->takeovers[0];
        h->takeovers[0].at_ms = clock_wall_ms();
    }
    memcpy(h->raw, v->takeovers, sizeof h->raw);
    memcpy(v->takeovers, h->takeovers, sizeof v->takeovers);
}

static void publish(struct health *h)
{
    uint64_t now = clock_boot_ns();
    struct pair_view v;
    struct arbiter_view av = {0};
    pair_view(h->pair, now, &v);
    note_takeovers(h, &v);
    if (h->arbiter)
        h->arbiter->ops->view(h->arbiter, now, &av);
    pthread_mutex_lock(&h->lock);
    h->view = v;
    h->arbiter_view = av;
    pthread_mutex_unlock(&h->lock);
    h->publish = false;
    h->hooks.view(h->hooks.ctx, &v);
}

static void send_heartbeat(struct health *h)
{
    h->send_heartbeat = false;
    if (h->single)
        return;
    struct heartbeat hb;
    pair_set_lsn(h->pair, atomic_load(&h->own_lsn), atomic_load(&h->committed_lsn));
    uint64_t now = clock_boot_ns();
    pair_heartbeat(h->pair, now, clock_wall_ms(), &hb);
    heartbeat_guard_send(&h->guard, &hb);
    struct buf b;
    buf_init(&b, 512);
    bool fits = heartbeat_encode(&b, &hb);
    assert(fits);
    (void)fits;
    health_net_send_heartbeat(h->net, buf_slice(&b));
    buf_free(&b);
    h->last_sent_ns = now;
}

static void feed(struct health *h, const struct pair_event *first)
{
    defer(h, first);
    if (h->stepping)
        return;
    h->stepping = true;
    while (h->event_n > 0) {
        struct pair_event ev = h->event[h->event_head];
        h->event_head = (h->event_head + 1) % EVENTS_MAX;
        h->event_n--;
        pair_step(h->pair, &ev, clock_boot_ns());
    }
    h->stepping = false;
    if (h->send_heartbeat)
        send_heartbeat(h);
    if (h->publish)
        publish(h);
}

static void on_bootstrapped(void *ctx, uint64_t op, bool ok, const char *text)
{
    struct health *h = ctx;
    struct pair_effect done = {.type = PX_OP_DONE, .op = op, .ok = ok};
    snprintf(done.text, sizeof done.text, "%s", text);
    log_info("register.bootstrap", "ok=%d text=\"%s\"", ok, text);
    if (op)
        h->hooks.effect(h->hooks.ctx, &done);
}

static void on_arbiter(void *ctx, const struct pair_event *ev)
{
    struct health *h = ctx;
    if (ev->type == PE_BOOTSTRAPPED)
        log_info("register.votes", "version=%llu this voter votes now",
                 (unsigned long long)ev->record.version);
    feed(h, ev);
}

static bool may_give_back(void *ctx, uint64_t now_ns)
{
    const struct health *h = ctx;
    return pair_may_give_back(h->pair, now_ns);
}

static void on_effect(void *ctx, const struct pair_effect *fx)
{
    struct health *h = ctx;
    switch (fx->type) {
    case PX_HEARTBEAT:
        h->send_heartbeat = true;
        break;
    case PX_READ:
    case PX_CHANGE:
        arbiter_ask(h->arbiter, fx, clock_boot_ns());
        break;
    case PX_UNASK:
        arbiter_unask(h->arbiter);
        break;
    case PX_BOOTSTRAP:
        h->arbiter->ops->bootstrap(h->arbiter, &fx->record, fx->op, clock_boot_ns());
        break;
    case PX_LEASE:
        atomic_store(&h->lease_epoch, fx->epoch); /* before the time: see health_may_deliver() */
        atomic_store(&h->lease_until_ns, fx->until_ns);
        break;
    case PX_VIEW:
        h->publish = true;
        break;
    default:
        h->hooks.effect(h->hooks.ctx, fx);
    }
}

/* ---- datagrams ---- */

static void on_heartbeat(struct health *h, const struct datagram *d)
{
    struct pair_event ev = {.type = PE_HEARTBEAT, .wall_ms = clock_wall_ms()};
    struct wire_reader r = wire_read(d->payload);
    if (d->from == WITNESS || !heartbeat_decode(&r, &ev.heartbeat) || !wire_done(&r))
        return;
    enum heartbeat_verdict v = heartbeat_guard_receive(&h->guard, &ev.heartbeat);
    if (v == HEARTBEAT_OLD)
        return;
    ev.flag = v == HEARTBEAT_ALIVE;
    if (ev.flag && h->arbiter)
        h->arbiter->ops->heard(h->arbiter, clock_boot_ns());
    /* The peer can't count ours as life before we echo its boot: don't let it wait for its turn. */
    if (!ev.flag && clock_boot_ns() - h->last_sent_ns >= MS(ANSWER_GAP_MS))
        h->send_heartbeat = true;
    feed(h, &ev);
}

static void on_datagram(void *ctx, const struct datagram *d)
{
    struct health *h = ctx;
    if (d->kind == DATAGRAM_HEARTBEAT) {
        on_heartbeat(h, d);
        return;
    }
    struct register_msg m;
    struct wire_reader r = wire_read(d->payload);
    if (register_msg_decode(&r, &m) && wire_done(&r))
        arbiter_uv_receive(h->arbiter_uv, d->from, &m);
}

/* ---- time ---- */

static void read_first(struct health *h)
{
    if (h->net)
        health_net_drain(h->net);
}

static void each_second(struct health *h, uint64_t now)
{
    h->second_ns = now + MS(1000);
    if (h->arbiter) {
        struct arbiter_view v;
        h->arbiter->ops->view(h->arbiter, now, &v);
        health_net_tick(h->net, v.reachable[WITNESS]);
        if (h->arbiter->ops->all_virgin(h->arbiter, now))
            feed(h, &(struct pair_event){.type = PE_VIRGIN});
    }
    publish(h);
}

static void watch_others(struct health *h)
{
    bool stalled = h->hooks.stalled && h->hooks.stalled(h->hooks.ctx);
    if (stalled == h->stalled)
        return;
    h->stalled = stalled;
    feed(h, &(struct pair_event){.type = PE_STALLED, .flag = stalled});
}

static void on_tick(uv_timer_t *t)
{
    struct health *h = t->data;
    uint64_t now = clock_boot_ns();
    if (h->last_tick_ns && now - h->last_tick_ns > MS(PAUSED_MS))
        log_warn("health.paused", "ms=%llu this process stood still; it reads what came meanwhile",
                 (unsigned long long)((now - h->last_tick_ns) / MS(1)));
    h->last_tick_ns = now;
    read_first(h);
    now = clock_boot_ns();
    atomic_store(&h->alive_ns, now);
    if (h->arbiter)
        h->arbiter->ops->tick(h->arbiter, now);
    watch_others(h);
    feed(h, &(struct pair_event){.type = PE_TICK});
    if (now >= h->second_ns)
        each_second(h, now);
}

static void on_heartbeat_due(uv_timer_t *t)
{
    struct health *h = t->data;
    read_first(h); /* the echo tells the newest */
    send_heartbeat(h);
}

/* ---- other threads ---- */

static void stop(struct health *h)
{
    uv_close((uv_handle_t *)&h->tick, NULL);
    uv_close((uv_handle_t *)&h->heartbeat, NULL);
    mailbox_close(h->mailbox);
    atomic_store(&h->lease_until_ns, 0);
    if (h->net)
        health_net_close(h->net);
    if (h->arbiter_uv)
        arbiter_uv_close(h->arbiter_uv);
}

static void on_mail(void *ctx, struct mail *mail)
{
    struct health *h = ctx;
    struct health_mail *m = (struct health_mail *)mail;
    if (mail->type == MAIL_STOP) {
        stop(h);
    } else if (mail->type == MAIL_FENCED) {
        arbiter_uv_fenced(h->arbiter_uv, m->event.flag);
    } else {
        if (m->event.type == PE_STORE && h->arbiter)
            h->arbiter->ops->set_virgin(h->arbiter, m->event.store.virgin);
        feed(h, &m->event);
    }
    free(m);
}

static void post(struct health *h, int type, const struct pair_event *ev)
{
    struct health_mail *m = xcalloc(1, sizeof *m);
    m->mail.type = type;
    if (ev)
        m->event = *ev;
    mailbox_post(h->mailbox, &m->mail);
}

void health_post(struct health *h, const struct pair_event *ev)
{
    post(h, MAIL_EVENT, ev);
}

void health_fenced(struct health *h, bool done)
{
    post(h, MAIL_FENCED, &(struct pair_event){.flag = done});
}

void health_set_lsn(struct health *h, uint64_t own, uint64_t committed)
{
    atomic_store(&h->own_lsn, own);
    atomic_store(&h->committed_lsn, committed);
}

bool health_may_deliver(const struct health *h, uint32_t epoch, uint64_t now_ns)
{
    /* The epoch is stored first and read last: a time of another epoch is never taken for one of
     * this. */
    bool in_time = now_ns < atomic_load(&h->lease_until_ns);
    return in_time && atomic_load(&h->lease_epoch) == epoch;
}

void health_view(const struct health *h, struct pair_view *out)
{
    struct health *w = (struct health *)h; /* the lock isn't part of what it guards */
    pthread_mutex_lock(&w->lock);
    *out = h->view;
    pthread_mutex_unlock(&w->lock);
}

void health_arbiter(const struct health *h, struct arbiter_view *out)
{
    struct health *w = (struct health *)h;
    pthread_mutex_lock(&w->lock);
    *out = h->arbiter_view;
    pthread_mutex_unlock(&w->lock);
}

bool health_alive(const struct health *h, uint64_t max_age_ns)
{
    uint64_t at = atomic_load(&h->alive_ns), now = clock_boot_ns();
    return now <= at || now - at <= max_age_ns;
}

/* ---- life ---- */

static void *run(void *arg)
{
    struct health *h = arg;
    /* A little ahead of SMTP and storage where the machine is short of cores; a wish, no need. */
    (void)setpriority(PRIO_PROCESS, 0, -10);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    return NULL;
}

static bool start_arbiter(struct health *h, const uint8_t cluster_key[32], char *err, size_t n)
{
    h->net = health_net_open(&h->loop, h->config, cluster_key, on_datagram, h, err, n);
    if (!h->net)
        return false;
    struct arbiter_place place = {
        .loop = &h->loop,
        .config = h->config,
        .self = h->self,
        .net = h->net,
        .events = {.ctx = h,
                   .event = on_arbiter,
                   .may_give_back = may_give_back,
                   .bootstrapped = on_bootstrapped},
        .fence = h->hooks.fence,
        .fence_ctx = h->hooks.ctx,
    };
    h->arbiter_uv = arbiter_uv_open(&place, err, n);
    if (h->arbiter_uv)
        h->arbiter = arbiter_uv_core(h->arbiter_uv);
    return h->arbiter_uv != NULL;
}

static bool start_pair(struct health *h, char *err, size_t n)
{
    const struct config *c = h->config;
    struct pair_config p = {
        .self = h->self,
        .single = h->single,
        .none = !h->single && c->arbiter.type == ARBITER_NONE,
        .manual = !h->single && c->arbiter.type == ARBITER_NONE && !c->arbiter.takeover_auto,
        .heartbeat_ns = MS(c->health.heartbeat_ms),
        .lease_ns = MS(c->health.lease_ms),
        .takeover_after_ns = MS(c->health.takeover_after_ms),
        .standby_timeout_ns = MS(c->health.standby_timeout_ms),
    };
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.boot", c->store);
    if (!boot_counter_next(path, (uint64_t)(clock_wall_ms() / 1000), &p.boot_counter, err, n))
        return false;
    crypto_random(&p.boot_random, sizeof p.boot_random);
    heartbeat_guard_init(&h->guard, p.boot_random, p.takeover_after_ns, p.heartbeat_ns);
    h->pair = pair_new(&p, on_effect, h);
    pair_view(h->pair, clock_boot_ns(), &h->view);
    return true;
}

static void free_health(struct health *h)
{
    int rc = uv_loop_close(&h->loop);
    assert(rc == 0);
    (void)rc;
    if (h->arbiter_uv)
        arbiter_uv_free(h->arbiter_uv);
    if (h->pair)
        pair_free(h->pair);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static bool start_thread(struct health *h)
{
    /* Signals are the main thread's. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&h->thread, NULL, run, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0;
}

struct health *health_start(const struct config *c, const uint8_t cluster_key[32],
                            const struct health_hooks *hooks, char *err, size_t n)
{
    struct health *h = xcalloc(1, sizeof *h);
    h->config = c;
    h->hooks = *hooks;
    h->self = c->node == 'a' ? NODE_A : NODE_B;
    h->single = c->n_nodes < 2;
    pthread_mutex_init(&h->lock, NULL);
    uv_loop_init(&h->loop);
    h->mailbox = mailbox_new(&h->loop, on_mail, h);
    uv_timer_init(&h->loop, &h->tick);
    uv_timer_init(&h->loop, &h->heartbeat);
    h->tick.data = h->heartbeat.data = h;
    bool ok = start_pair(h, err, n);
    ok = ok && (h->single || start_arbiter(h, cluster_key, err, n));
    if (ok) {
        uv_timer_start(&h->tick, on_tick, 0, TICK_MS);
        uv_timer_start(&h->heartbeat, on_heartbeat_due, 0, c->health.heartbeat_ms);
        atomic_store(&h->alive_ns, clock_boot_ns());
        ok = start_thread(h);
        if (!ok)
            snprintf(err, n, "no thread for health: %s", strerror(errno));
    }
    if (ok)
        return h;
    stop(h);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    free_health(h);
    return NULL;
}

void health_stop(struct health *h)
{
    post(h, MAIL_STOP, NULL);
    pthread_join(h->thread, NULL);
    free_health(h);
}
