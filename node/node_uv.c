/* The wiring of a node (node_uv.h). Threads and what they tell each other:
 *
 *   storage      -> replication: own batches, durable, replies     -> health: store changed, failed
 *                -> relay: watermarks, on a single node
 *   replication  -> storage: requests     -> health: reports       -> relay: watermarks, epoch over
 *   health       -> replication, relay: the pair core's effects    -> control: operators' answers
 *   control      -> health, relay: operators' orders
 *
 * Each arrow is a post to the receiver's mailbox; nobody waits for anybody. The relay's own state
 * (may mail be taken, may it be delivered) follows from the newest view and two orders, SERVE and
 * RELEASE_TAIL; it ends with STEP_DOWN or the epoch's end, whichever comes first. */
#include "node/node_uv.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/node_calls_uv.h"
#include "node/notify_systemd.h"
#include "node/privileges_posix.h"

#define MS 1000000ull

enum {
    ALARM_MS = 60000, /* a primary that is solo says so once a minute */
    STOP_MS = 20000,  /* a clean stop that takes longer ends all the same */
    FILES_WANTED = 65536,
    HOOKS_STOP_MS = 2000,
};

/* ---- the relay's state ---- */

static enum smtp_gate gate(const struct node *n)
{
    if (!n->serving || !n->view.serving || n->ended)
        return SMTP_NOT_PRIMARY;
    bool alone = !n->single && n->view.mode == PAIR_SOLO;
    if (alone && n->config->when_alone == ALONE_REFUSE)
        return SMTP_ALONE;
    return n->disk_low ? SMTP_FULL : SMTP_OPEN;
}

static void publish(struct node *n)
{
    struct relay_snapshot s = {.gate = gate(n), .disk_free_bytes = n->disk_free_bytes};
    smtp_server_stats(n->smtp, &s.smtp);
    delivery_stats(n->delivery, &s.delivery);
    queue_stats(n->queue, &s.queue);
    pthread_mutex_lock(&n->lock);
    n->snapshot = s;
    pthread_mutex_unlock(&n->lock);
}

static void settle_gate(struct node *n)
{
    smtp_server_set_gate(n->smtp, gate(n));
    publish(n);
}

static void take_mark(struct node *n)
{
    queue_watermark(n->queue, n->mark.epoch, n->mark.committed, n->mark.settled);
    delivery_noted(n->delivery, n->mark.epoch, n->mark.noted);
}

static void serve(struct node *n, uint32_t epoch)
{
    n->serving = epoch;
    n->serving_ns = clock_boot_ns();
    n->tail_released = false;
    queue_serve(n->queue, epoch);
    if (n->mark.epoch == epoch) /* it came before the order did */
        take_mark(n);
    settle_gate(n);
}

static void epoch_over(struct node *n)
{
    if (!n->serving)
        return;
    n->serving = 0;
    n->tail_released = n->quiesce = false;
    delivery_abort(n->delivery);
    queue_epoch_over(n->queue);
    settle_gate(n);
}

/* What a sender has handed over gets its reply before the role ends: a message that is stored and
 * not answered is sent again. */
static void tell_idle(void *ctx)
{
    struct node *n = ctx;
    struct queue_stats q;
    queue_stats(n->queue, &q);
    if (!n->quiesce || !n->deliveries_ended || q.waiting_commit || gate(n) == SMTP_OPEN)
        return;
    n->quiesce = false;
    health_post(n->health, &(struct pair_event){.type = PE_DELIVERY_IDLE});
}

static void deliveries_ended(void *ctx)
{
    struct node *n = ctx;
    n->deliveries_ended = true;
    tell_idle(n);
}

static void shut_down(struct node *n);

static void on_effect(struct node *n, const struct pair_effect *fx)
{
    switch (fx->type) {
    case PX_SERVE:
        serve(n, fx->epoch);
        break;
    case PX_RELEASE_TAIL:
        if (n->serving != fx->epoch)
            break;
        n->tail_released = true;
        n->quiesce = false;
        delivery_start(n->delivery);
        break;
    case PX_QUIESCE:
        n->quiesce = true;
        n->deliveries_ended = false;
        delivery_quiesce(n->delivery, deliveries_ended, n);
        break;
    case PX_STEP_DOWN:
        epoch_over(n);
        break;
    case PX_STOPPED:
        shut_down(n);
        break;
    default:
        assert(!"effect for the relay");
    }
}

static void on_view(struct node *n, const struct pair_view *v)
{
    n->view = *v;
    queue_let_purge(n->queue, node_may_expire(n));
    settle_gate(n);
    delivery_wake(n->delivery);
    tell_idle(n);
}

static void op_done(struct storage_op *op)
{
    struct node *n = op->owner;
    if (n->control)
        control_queue_done(n->control, op);
    else
        storage_op_free(op);
}

static void send_destinations(struct node *n, uint64_t token, const char *queued)
{
    struct buf text;
    buf_init(&text, 4 << 20);
    delivery_destinations(n->delivery, queued, &text);
    control_text_done(n->control, token, buf_slice(&text));
    buf_free(&text);
}

/* ---- reload ---- */

static bool take_config(struct node *n, struct config *fresh, char *why, size_t size)
{
    if (n->n_configs == CONFIGS_MAX) {
        snprintf(why, size, "%d reloads in one life; restart the node", CONFIGS_MAX);
        return false;
    }
    if (!smtp_server_reload(n->smtp, fresh, why, size))
        return false;
    if (!delivery_reload(n->delivery, fresh, why, size)) {
        char again[200];
        smtp_server_reload(n->smtp, n->config, again, sizeof again);
        return false;
    }
    n->configs[n->n_configs++] = fresh;
    pthread_mutex_lock(&n->lock);
    n->config = fresh;
    pthread_mutex_unlock(&n->lock);
    log_set_level(fresh->log_level);
    return true;
}

static bool reload(struct node *n, char *text, size_t size)
{
    struct config_mistakes mistakes = {0};
    notify_reloading();
    events_reopen(n->events);
    struct config *fresh = config_load(n->config->file, &mistakes);
    bool ok = false;
    if (!fresh) {
        snprintf(text, size, "nothing changed: %s%s", mistakes.n ? mistakes.text[0] : "unreadable",
                 mistakes.n > 1 ? " (and more: batond --check)" : "");
    } else {
        char restart[400];
        config_needs_restart(n->config, fresh, restart, sizeof restart);
        ok = take_config(n, fresh, text, size);
        if (!ok)
            config_free(fresh);
        else
            snprintf(text, size, "reloaded%s%s", restart[0] ? "; needs a restart: " : "", restart);
    }
    config_mistakes_free(&mistakes);
    log_event(ok ? LOG_INFO_ : LOG_ERROR_, "config.reload", "%s", text);
    notify_ready();
    return ok;
}

static void on_reload(struct node *n, uint64_t token)
{
    char text[600];
    bool ok = reload(n, text, sizeof text);
    if (token)
        control_op_done(n->control, token, ok, text);
}

static void on_mail(void *ctx, struct mail *mail)
{
    struct node *n = ctx;
    if (mail->type == MAIL_READ) {
        if (n->control)
            control_read_done(n->control, (struct storage_read *)mail);
        else
            storage_read_free((struct storage_read *)mail);
        return;
    }
    struct node_mail *m = (struct node_mail *)mail;
    if (n->ended) {
        if (mail->type == MAIL_OPERATE)
            storage_op_free(m->op);
        if (mail->type == MAIL_DESTINATIONS)
            free(m->text);
        if (mail->type == MAIL_OPSTATE)
            free(m->opstate.bytes);
        free(m);
        return;
    }
    switch (mail->type) {
    case MAIL_EFFECT:
        on_effect(n, &m->effect);
        break;
    case MAIL_VIEW:
        on_view(n, &m->view);
        break;
    case MAIL_MARK:
        /* A single node's marks come from two threads. */
        if (m->mark.epoch == n->mark.epoch && m->mark.committed < n->mark.committed)
            break;
        n->mark.epoch = m->mark.epoch;
        n->mark.committed = m->mark.committed;
        n->mark.settled = m->mark.settled;
        n->mark.noted = m->mark.noted;
        if (n->serving == m->mark.epoch)
            take_mark(n);
        break;
    case MAIL_EPOCH_OVER:
        epoch_over(n);
        break;
    case MAIL_OPERATE:
        m->op->owner = n;
        m->op->done = op_done;
        queue_operate(n->queue, m->op);
        break;
    case MAIL_DESTINATIONS:
        send_destinations(n, m->token, m->text);
        free(m->text);
        break;
    case MAIL_RELOAD:
        on_reload(n, m->token);
        break;
    case MAIL_MENDED:
        delivery_mended(n->delivery, m->mended.id,
                        m->mended.how == VERIFY_NO_COPY ? MEND_HOLD
                        : m->mended.how == VERIFY_AWAY  ? MEND_LATER
                                                        : MEND_RETRY);
        break;
    case MAIL_MERGED:
        queue_merged(n->queue, m->merged);
        break;
    case MAIL_OPSTATE:
        delivery_opstate(n->delivery, slice_of(m->opstate.bytes, m->opstate.n_key),
                         slice_of(m->opstate.bytes + m->opstate.n_key, m->opstate.n_value));
        free(m->opstate.bytes);
        break;
    default:
        assert(!"mail type");
    }
    free(m);
}

/* ---- time and signals ---- */

static void begin_stop(struct node *n)
{
    notify_stopping();
    n->stopping = true;
    n->stop_by_ns = clock_boot_ns() + STOP_MS * MS;
    struct pair_event ev = {.type = PE_OP_STOP};
    health_post(n->health, &ev);
}

/* A failed store is final for a process, but a full disk is no damaged one: with both nodes full,
 * as equal queues make likely, nobody would deliver ever again (incident 28). */
static void start_anew_with_space(struct node *n)
{
    if (!atomic_load(&n->store_full) || n->disk_low || n->stopping)
        return;
    log_warn("disk.again", "there is space again: ending with status %d to be started anew",
             NODE_EXIT_AGAIN);
    n->exit_status = NODE_EXIT_AGAIN;
    begin_stop(n);
}

static void check_disk(struct node *n)
{
    struct statvfs v;
    if (statvfs(n->config->store, &v) != 0)
        return;
    n->disk_free_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    bool low = n->disk_free_bytes < n->config->queue.disk_reserve_bytes;
    if (low != n->disk_low) {
        n->disk_low = low;
        if (low)
            log_warn("disk.reserve",
                     "free_bytes=%llu below the reserve: new mail gets 452, "
                     "delivery goes on",
                     (unsigned long long)n->disk_free_bytes);
        else
            log_info("disk.ok", "free_bytes=%llu", (unsigned long long)n->disk_free_bytes);
        settle_gate(n);
    }
    start_anew_with_space(n);
}

static void alarm_if_alone(struct node *n, uint64_t now)
{
    bool alone = !n->single && n->view.serving && n->view.mode == PAIR_SOLO;
    if (!alone) {
        n->last_alarm_ns = now;
        return;
    }
    if (now - n->last_alarm_ns < ALARM_MS * MS)
        return;
    n->last_alarm_ns = now;
    log_warn("solo", "%s", n->view.why);
}

static void on_timer(uv_timer_t *t)
{
    struct node *n = t->data;
    uint64_t now = clock_boot_ns();
    atomic_store(&n->relay_alive_ns, now);
    if (n->ended)
        return;
    delivery_wake(n->delivery);
    publish(n);
    bool fenced;
    if (n->fence && hooks_fence_ended(n->fence, &fenced))
        health_fenced(n->health, fenced);
    if (n->ticks++ % (1000 / NODE_TICK_MS) == 0) {
        check_disk(n);
        alarm_if_alone(n, now);
        node_end_takeover_off(n);
        notify_status(n->view.why);
    }
    uint64_t every = notify_watchdog_interval_ms();
    if (every && n->ticks * NODE_TICK_MS % every < NODE_TICK_MS &&
        health_alive(n->health, 2000 * MS) && replication_alive(n->replication, 2000 * MS))
        notify_watchdog();
    if (n->stopping && now > n->stop_by_ns) {
        log_warn("stop", "the clean stop took longer than %d s; ending now", STOP_MS / 1000);
        if (storage_stalled_ms(n->storage) > 0)
            _exit(1); /* its thread can't be waited for */
        shut_down(n);
    }
}

static void on_signal(uv_signal_t *h, int number)
{
    struct node *n = h->data;
    if (number == SIGHUP) {
        if (!n->ended)
            on_reload(n, 0);
        return;
    }
    if (number == SIGPIPE)
        return;
    if (n->stopping) {
        /* Nothing is owed to anybody but what is on the disk already; a hung disk must not hold us.
         */
        log_warn("stop", "second signal: ending at once");
        _exit(1);
    }
    log_info("stop", "signal=%d", number);
    begin_stop(n);
}

/* ---- start and end ---- */

static bool open_parts(struct node *n, struct store_meta *meta, bool *virgin, char *err,
                       size_t size)
{
    struct config *c = n->config;
    if (!crypto_key_load(c->key_file, n->key, err, size))
        return false;
    bool fence = c->arbiter.type == ARBITER_NONE && c->arbiter.fence;
    n->hooks = hooks_start(c, HOOK_LIMIT_MS, err, size);
    if (n->hooks && fence)
        n->fence = hooks_start(c, HOOK_LIMIT_MS, err, size);
    if (!n->hooks || (fence && !n->fence) || !privileges_assume(c->user, err, size))
        return false;
    umask(0077); /* bodies and voters' rows are nobody else's business */
    n->storage = storage_open(c, meta, virgin, err, size);
    umask(0027);
    n->events = n->storage ? events_open(c->events, c->node, err, size) : NULL;
    privileges_resume();
    if (!n->events)
        return false;
    n->queue = queue_new(n->loop, n->storage, n->events, c);
    queue_on_quiet(n->queue, tell_idle, n);
    n->smtp = smtp_server_new(n->loop, c, n->queue, n->events, err, size);
    if (!n->smtp)
        return false;
    struct delivery_hooks dh = node_delivery_hooks(n);
    n->delivery = delivery_new(n->loop, c, n->queue, n->events, &dh, err, size);
    return n->delivery && privileges_drop(c->user, err, size);
}

static bool start_threads(struct node *n, const struct store_meta *meta, char *err, size_t size)
{
    struct config *c = n->config;
    struct control_hooks ch = node_control_hooks(n);
    struct replication_hooks rh = node_replication_hooks(n);
    struct health_hooks hh = node_health_hooks(n);
    /* A thread may call into a later one only once the pair core moves: after the PE_STORE that
     * node_start() posts when all of them run. */
    n->replication = replication_start(c, n->key, meta, &rh, err, size);
    n->health = n->replication ? health_start(c, n->key, &hh, err, size) : NULL;
    n->control = n->health ? control_start(c, n->events, &ch, err, size) : NULL;
    n->http = n->control ? http_start(c->http_listen, node_answer_http, n, err, size) : NULL;
    return n->http != NULL;
}

static void start_signals(struct node *n)
{
    struct {
        uv_signal_t *h;
        int number;
    } list[] = {
        {&n->sigterm, SIGTERM}, {&n->sigint, SIGINT}, {&n->sighup, SIGHUP}, {&n->sigpipe, SIGPIPE}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        uv_signal_init(n->loop, list[i].h);
        list[i].h->data = n;
        uv_signal_start(list[i].h, on_signal, list[i].number);
    }
    uv_timer_init(n->loop, &n->timer);
    n->timer.data = n;
    uv_timer_start(&n->timer, on_timer, NODE_TICK_MS, NODE_TICK_MS);
}

struct node *node_start(uv_loop_t *loop, struct config *c, char *err, size_t size)
{
    struct node *n = xcalloc(1, sizeof *n);
    struct store_meta *meta = xcalloc(1, sizeof *meta);
    bool virgin = false;
    n->loop = loop;
    n->config = n->configs[n->n_configs++] = c;
    n->single = c->n_nodes < 2;
    n->started_ms = clock_wall_ms();
    n->started_ns = clock_boot_ns();
    atomic_store(&n->relay_alive_ns, n->started_ns);
    pthread_mutex_init(&n->lock, NULL);
    pthread_rwlock_init(&n->running, NULL);
    signal(SIGPIPE, SIG_IGN);
    privileges_raise_files(FILES_WANTED);
    n->mail = mailbox_new(loop, on_mail, n);
    if (!open_parts(n, meta, &virgin, err, size) || !start_threads(n, meta, err, size)) {
        free(meta);
        return NULL; /* the process ends; what was opened needs no more care than its exit */
    }
    struct storage_hooks sh = node_storage_hooks(n);
    atomic_store(&n->virgin, virgin);
    char text[200];
    bool checking = storage_checking(n->storage, text, sizeof text); /* then it tells itself */
    storage_start(n->storage, &sh);
    start_signals(n);
    check_disk(n);
    settle_gate(n);
    if (!checking)
        node_post_store(n, meta);
    free(meta);
    log_info("start", "version=%s cluster=%s store=%s", BATON_VERSION, c->cluster, c->store);
    notify_ready();
    return n;
}

static void part_closed(void *ctx)
{
    struct node *n = ctx;
    assert(n->closing);
    if (--n->closing == 0)
        uv_stop(n->loop);
}

/* Operators first: their threads ask the others. Then nobody calls anybody, and the rest ends in
 * any order; sessions and connections close last. */
static void shut_down(struct node *n)
{
    if (n->ended)
        return;
    epoch_over(n);
    n->ended = true;
    smtp_server_set_gate(n->smtp, SMTP_NOT_PRIMARY);
    http_stop(n->http);
    pthread_rwlock_wrlock(&n->running);
    n->calls_over = true;
    pthread_rwlock_unlock(&n->running);
    control_stop(n->control);
    n->control = NULL;
    health_stop(n->health);
    replication_stop(n->replication);
    storage_stop(n->storage);
    n->closing = 2;
    smtp_server_close(n->smtp, part_closed, n);
    delivery_close(n->delivery, part_closed, n);
}

int node_run(struct node *n)
{
    uv_run(n->loop, UV_RUN_DEFAULT);
    queue_close(n->queue);
    mailbox_close(n->mail);
    uv_close((uv_handle_t *)&n->timer, NULL);
    uv_close((uv_handle_t *)&n->sigterm, NULL);
    uv_close((uv_handle_t *)&n->sigint, NULL);
    uv_close((uv_handle_t *)&n->sighup, NULL);
    uv_close((uv_handle_t *)&n->sigpipe, NULL);
    uv_run(n->loop, UV_RUN_DEFAULT);
    events_close(n->events);
    hooks_stop(n->hooks, HOOKS_STOP_MS);
    hooks_stop(n->fence, HOOKS_STOP_MS);
    for (unsigned i = 0; i < n->n_configs; i++)
        config_free(n->configs[i]);
    pthread_mutex_destroy(&n->lock);
    pthread_rwlock_destroy(&n->running);
    log_info("stopped", "after %.1f s", (double)(clock_boot_ns() - n->started_ns) / 1e9);
    int status = n->exit_status;
    free(n);
    return status;
}
