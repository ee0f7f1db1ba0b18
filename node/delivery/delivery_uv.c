/* See delivery_uv.h. Life, timers and what others see of it; the work is in intake_uv.c, link_uv.c
 * and outcome_uv.c. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/delivery/delivery_private_uv.h"

enum { BUCKETS = 8192 };

uint32_t delivery_random(struct delivery *d)
{
    d->random = d->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->random >> 32);
}

bool delivery_active(const struct delivery *d)
{
    return d->running && !d->quiescing && !d->closing;
}

/* Says that it is closed when its handles and connections are gone; the memory lives until the
 * queue has answered everything. */
static void maybe_free(struct delivery *d)
{
    if (!d->closing || d->handles || d->n_links)
        return;
    void (*closed)(void *ctx) = d->closed;
    d->closed = NULL;
    if (closed)
        closed(d->closed_ctx);
    if (d->refs)
        return;
    while (d->targets)
        target_free(d->targets);
    intake_reset(d);
    noting_forget(d);
    buf_free(&d->note_frame);
    hand_free(&d->hand);
    pauses_free(&d->pauses);
    free(d->scan.leaving);
    free(d->bucket);
    free(d->hostname);
    tls_ctx_unref(d->tls);
    free(d);
}

void delivery_unref(struct delivery *d)
{
    assert(d->refs);
    d->refs--;
    maybe_free(d);
}

void delivery_count(struct delivery *d, enum verdict v)
{
    if (v == VERDICT_DELIVERED) {
        d->totals.delivered_total++;
        d->per_second[d->second_at]++;
    } else if (v == VERDICT_DEFERRED) {
        d->totals.deferred_total++;
    } else if (v != VERDICT_SUPPRESSED) {
        d->totals.failed_total++;
    }
}

static void on_due(uv_timer_t *t)
{
    struct delivery *d = t->data;
    d->due_at_ms = 0;
    delivery_due_at(d, clock_wall_ms() + RESCAN_MS);
    intake_scan_all(d);
}

void delivery_due_at(struct delivery *d, int64_t wall_ms)
{
    if (d->closing || (d->due_at_ms && d->due_at_ms <= wall_ms))
        return;
    int64_t wait = wall_ms - clock_wall_ms();
    d->due_at_ms = wall_ms;
    /* A little late rather than early: all that is due within the moment comes in one scan. */
    uv_timer_start(&d->due, on_due, (wait < 0 ? 0 : (uint64_t)wait) + DUE_GRACE_MS, 0);
}

static void close_idle(struct delivery *d, uint64_t idle_for_ms)
{
    for (struct target *t = d->targets; t; t = t->next)
        if (t->idle)
            target_close_idle(t, idle_for_ms);
}

static void on_tick(uv_timer_t *timer)
{
    struct delivery *d = timer->data;
    struct target *t = d->waiting;
    if (t && d->n_links >= d->config->delivery.connections)
        close_idle(d, 0); /* somebody needs the place more */
    d->waiting = d->waiting_last = NULL;
    while (t) {
        struct target *next = t->next_waiting;
        t->waiting = false;
        target_pump(t);
        t = next;
    }
    if (!d->waiting)
        uv_timer_stop(timer);
}

void delivery_tick_soon(struct delivery *d)
{
    if (!d->closing && !uv_is_active((uv_handle_t *)&d->tick))
        uv_timer_start(&d->tick, on_tick, TICK_MS, TICK_MS);
}

void delivery_check_idle(struct delivery *d)
{
    if (!d->quiescing || !d->idle || d->dots || d->n_outcomes)
        return;
    void (*idle)(void *ctx) = d->idle;
    d->idle = NULL;
    idle(d->idle_ctx);
}

static void on_housekeeping(uv_timer_t *timer)
{
    struct delivery *d = timer->data;
    struct target *next;
    uint64_t now = delivery_now(d);
    /* With very many next hops the quiet ones make room at once. */
    uint64_t linger = d->n_targets > TARGETS_MAX / 2 ? 0 : TARGET_LINGER_MS;
    d->second_at = (d->second_at + 1) % RATE_SECONDS;
    d->per_second[d->second_at] = 0;
    close_idle(d, IDLE_MS);
    for (struct target *t = d->targets; t; t = next) {
        next = t->next;
        if (destination_backing_off(&t->core, now))
            continue;
        if (t->left)
            intake_room(d, t);
        if (t->head)
            target_pump(t);
        if (!t->links && !t->head && !t->resolving && !t->waiting && !t->want_scan && !t->left &&
            now - t->idle_since_ms >= linger)
            target_free(t);
    }
    intake_room(d, NULL);
    mend_tick(d);
}

static void on_scan(void *ctx)
{
    struct delivery *d = ctx;
    /* An operator may have held or cancelled what waits here: read it anew. */
    intake_forget_waiting(d);
    intake_scan_all(d);
}

static void on_round(uv_prepare_t *h)
{
    noting_flush(h->data);
}

static bool take_tls(struct delivery *d, const struct config *c, char *err, size_t n)
{
    struct tls_ctx *tls = NULL;
    if (c->delivery.tls == TLS_POLICY_OPPORTUNISTIC && !(tls = tls_ctx_client(err, n)))
        return false;
    tls_ctx_unref(d->tls);
    d->tls = tls;
    return true;
}

struct delivery *delivery_new(uv_loop_t *loop, const struct config *c, struct queue *queue,
                              struct events *events, const struct delivery_hooks *hooks, char *err,
                              size_t n)
{
    struct delivery *d = xcalloc(1, sizeof *d);
    *d = (struct delivery){.loop = loop,
                           .config = c,
                           .queue = queue,
                           .events = events,
                           .hooks = *hooks,
                           .generation = 1,
                           .n_buckets = BUCKETS};
    if (!take_tls(d, c, err, n) ||
        !(d->dns = dns_new(loop, c->dns_servers, c->n_dns_servers, err, n))) {
        tls_ctx_unref(d->tls);
        free(d);
        return NULL;
    }
    d->hostname = xstrdup(c->hostname);
    d->bucket = xcalloc(d->n_buckets, sizeof *d->bucket);
    crypto_random(&d->random, sizeof d->random);
    hand_init(&d->hand);
    uv_timer_init(loop, &d->tick);
    uv_timer_init(loop, &d->housekeeping);
    uv_timer_init(loop, &d->due);
    uv_prepare_init(loop, &d->round);
    d->tick.data = d->housekeeping.data = d->due.data = d->round.data = d;
    d->handles = 5; /* these and dns */
    buf_init(&d->note_frame, NOTES_FRAME_BYTES);
    uv_prepare_start(&d->round, on_round);
    uv_timer_start(&d->housekeeping, on_housekeeping, HOUSEKEEPING_MS, HOUSEKEEPING_MS);
    queue_on_new(queue, intake_fresh, d);
    queue_on_scan(queue, on_scan, d);
    return d;
}

void delivery_start(struct delivery *d)
{
    d->running = true;
    d->quiescing = false;
    d->idle = NULL;
    noting_resume(d);
    /* DUE_GRACE_MS later, when what a new role brings (heartbeats, the record, the other node's
     * link) is through: a long look through the queue would hold it up. New mail doesn't wait. */
    d->due_at_ms = 0; /* what an earlier role waits for counts no more */
    delivery_due_at(d, clock_wall_ms());
    delivery_wake(d);
}

void delivery_abort(struct delivery *d)
{
    d->running = false;
    d->quiescing = false;
    d->idle = NULL;
    d->generation++;
    noting_forget(d);
    for (struct target *t = d->targets; t; t = t->next)
        links_drop(t);
    intake_reset(d);
}

void delivery_quiesce(struct delivery *d, void (*idle)(void *ctx), void *ctx)
{
    d->quiescing = true;
    d->idle = idle;
    d->idle_ctx = ctx;
    noting_pause(d);
    delivery_check_idle(d);
}

void delivery_wake(struct delivery *d)
{
    for (struct target *t = d->targets; t; t = t->next) {
        for (struct link *l = t->links, *next; l; l = next) {
            next = l->next;
            link_try_dot(l);
        }
        target_pump(t);
    }
}

bool delivery_reload(struct delivery *d, const struct config *c, char *err, size_t n)
{
    if (!take_tls(d, c, err, n))
        return false;
    d->config = c;
    /* Routes may lead elsewhere now: what has no transaction yet is read and sorted anew. */
    intake_forget_waiting(d);
    for (struct target *t = d->targets; t; t = t->next) {
        struct slice domain = slice_str(t->kind == ROUTE_MX ? t->key : t->host);
        struct config_route r = {.domain = t->host, .kind = t->kind, .host = t->host};
        struct config_destination limits = target_limits(d, &r, domain);
        destination_limit(&t->core, &limits);
    }
    intake_scan_all(d);
    return true;
}

void delivery_stats(const struct delivery *d, struct delivery_stats *out)
{
    *out = d->totals;
    out->connections = d->n_links;
    out->active = d->hand.n;
    double sum = 0;
    for (unsigned i = 0; i < RATE_SECONDS; i++)
        sum += d->per_second[i];
    out->delivered_per_s = sum / RATE_SECONDS;
}

void delivery_opstate(struct delivery *d, struct slice key, struct slice value)
{
    if (!pauses_take(&d->pauses, key, value) || !d->running)
        return;
    intake_forget_waiting(d);
    intake_scan_all(d);
}

static void handle_gone(struct delivery *d)
{
    assert(d->handles);
    d->handles--;
    maybe_free(d);
}

void delivery_link_gone(struct delivery *d)
{
    maybe_free(d);
}

static void timer_closed(uv_handle_t *h)
{
    handle_gone(h->data);
}

static void dns_closed(void *ctx)
{
    handle_gone(ctx);
}

void delivery_close(struct delivery *d, void (*done)(void *ctx), void *ctx)
{
    delivery_abort(d);
    d->closing = true;
    d->closed = done;
    d->closed_ctx = ctx;
    queue_on_new(d->queue, NULL, NULL);
    queue_on_scan(d->queue, NULL, NULL);
    for (struct target *t = d->targets; t; t = t->next)
        target_unresolve(t);
    for (struct target *t = d->waiting; t; t = t->next_waiting)
        t->waiting = false;
    d->waiting = NULL;
    uv_close((uv_handle_t *)&d->round, timer_closed);
    uv_close((uv_handle_t *)&d->tick, timer_closed);
    uv_close((uv_handle_t *)&d->housekeeping, timer_closed);
    uv_close((uv_handle_t *)&d->due, timer_closed);
    dns_close(d->dns, dns_closed, d);
}
