/* What a node's threads call of each other (node_calls_uv.h). Each call posts and returns.
 *
 * At the end threads stop one after the other while the rest still run: shut_down() first closes a
 * gate, n->running with calls_over, so that none calls into one that is gone. */
#include "node/node_calls_uv.h"

#include <assert.h>
#include <stdlib.h>

#include "health/wall.h"
#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/control/takeover.h"
#include "node/queue/opstate.h"

#define MS 1000000ull

void node_post(struct node *n, enum node_mail_type type, const struct node_mail *content)
{
    struct node_mail *m = xmalloc(sizeof *m);
    *m = content ? *content : (struct node_mail){0};
    m->mail.type = (int)type;
    mailbox_post(n->mail, &m->mail);
}

static bool enter(struct node *n)
{
    pthread_rwlock_rdlock(&n->running);
    if (!n->calls_over)
        return true;
    pthread_rwlock_unlock(&n->running);
    return false;
}

static void leave(struct node *n)
{
    pthread_rwlock_unlock(&n->running);
}

static void storage_batch(void *ctx, const struct own_batch *b)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    replication_batch(n->replication, b);
    leave(n);
}

static void storage_durable(void *ctx, struct pos end)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    atomic_store(&n->own_lsn, end.lsn);
    if (n->single) { /* no other disk to wait for: it is committed */
        struct node_mail m = {
            .mark = {.epoch = end.epoch, .committed = end.lsn, .settled = end.lsn}};
        node_post(n, MAIL_MARK, &m);
    }
    replication_durable(n->replication, end);
    leave(n);
}

static void storage_reply(void *ctx, const struct store_reply *r)
{
    struct node *n = ctx;
    if (!enter(n)) {
        shared_unref(r->bytes);
        return;
    }
    /* A follower's own end moves with what it applies; heartbeats tell it to the primary. */
    if ((r->type == SR_FOLLOW || r->type == SR_ADOPT || r->type == SR_WIPE) && !r->err) {
        atomic_store(&n->own_lsn, r->meta.end.lsn);
        health_set_lsn(n->health, r->meta.end.lsn, r->meta.committed.lsn);
    }
    replication_reply(n->replication, r);
    leave(n);
}

static void tell_health(struct node *n, const struct pair_event *ev)
{
    if (!enter(n))
        return;
    health_post(n->health, ev);
    leave(n);
}

void node_post_store(struct node *n, const struct store_meta *m)
{
    char text[200];
    struct pair_event ev = {.type = PE_STORE,
                            .store = {.open = !storage_checking(n->storage, text, sizeof text),
                                      .fit = !m->copying && !m->unfit,
                                      .virgin = atomic_load(&n->virgin),
                                      .id = m->id,
                                      .end = m->end,
                                      .committed = m->committed,
                                      .epoch_seen = m->epoch_seen,
                                      .forced = history_forced(&m->history)}};
    tell_health(n, &ev);
}

static void storage_changed(void *ctx, const struct store_meta *m)
{
    struct node *n = ctx;
    if (m->history.n || m->epoch_seen || m->copying)
        atomic_store(&n->virgin, false);
    node_post_store(n, m);
}

static void storage_failed(void *ctx, int err, const char *why)
{
    struct node *n = ctx;
    bool full = err == STORE_FULL;
    log_error("storage.failed", "error=%d %s; this node gives up its role%s", err, why,
              full ? " until there is space" : ": restart it to have the store checked");
    atomic_store(&n->store_full, full);
    struct pair_event ev = {.type = PE_STORAGE_FAILED};
    tell_health(n, &ev);
}

static void relay_opstate(struct node *n, struct slice key, struct slice value)
{
    struct slice name;
    bool pause = opstate_is(key, OPSTATE_DESTINATION, &name) ||
                 opstate_is(key, OPSTATE_CAMPAIGN, &name) || !key.n;
    if (!pause || !enter(n))
        return;
    struct node_mail m = {
        .opstate = {.bytes = xmalloc(key.n + value.n + 1), .n_key = key.n, .n_value = value.n}};
    if (key.n)
        memcpy(m.opstate.bytes, key.p, key.n);
    if (value.n)
        memcpy(m.opstate.bytes + key.n, value.p, value.n);
    node_post(n, MAIL_OPSTATE, &m);
    leave(n);
}

static void storage_merged(void *ctx, struct pos end)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    node_post(n, MAIL_MERGED, &(struct node_mail){.merged = end});
    leave(n);
}

static void storage_opstate(void *ctx, struct slice key, struct slice value)
{
    struct node *n = ctx;
    if (!slice_eq(key, SLICE_LIT(TAKEOVER_KEY))) {
        relay_opstate(n, key, value);
        return;
    }
    int64_t until = 0;
    struct pair_event ev = {.type = PE_AUTO_TAKEOVER,
                            .flag = takeover_is_on(value, clock_wall_ms(), &until)};
    atomic_store(&n->takeover_until_ms, until);
    tell_health(n, &ev);
}

/* `takeover off --for 2h`: each node turns it on again by itself when the time has come. */
void node_end_takeover_off(struct node *n)
{
    int64_t until = atomic_load(&n->takeover_until_ms);
    if (!until || clock_wall_ms() < until ||
        !atomic_compare_exchange_strong(&n->takeover_until_ms, &until, 0))
        return;
    log_info("takeover.on", "why=\"the time given to takeover off is over\"");
    struct pair_event ev = {.type = PE_AUTO_TAKEOVER, .flag = true};
    tell_health(n, &ev);
}

static void replication_store(void *ctx, const struct store_request *r)
{
    struct node *n = ctx;
    if (!enter(n)) {
        shared_unref(r->bytes);
        return;
    }
    storage_request(n->storage, r);
    leave(n);
}

static void replication_report(void *ctx, const struct pair_event *ev)
{
    tell_health(ctx, ev);
}

static void replication_watermark(void *ctx, uint32_t epoch, uint64_t committed, uint64_t settled,
                                  uint64_t noted)
{
    struct node *n = ctx;
    struct node_mail m = {
        .mark = {.epoch = epoch, .committed = committed, .settled = settled, .noted = noted}};
    if (!enter(n))
        return;
    health_set_lsn(n->health, atomic_load(&n->own_lsn), committed);
    node_post(n, MAIL_MARK, &m);
    leave(n);
}

static void replication_epoch_over(void *ctx)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    node_post(n, MAIL_EPOCH_OVER, NULL);
    leave(n);
}

static void replication_mended(void *ctx, uint64_t id, int how)
{
    struct node *n = ctx;
    struct node_mail m = {.mended = {.id = id, .how = how}};
    if (!enter(n))
        return;
    node_post(n, MAIL_MENDED, &m);
    leave(n);
}

static void replication_op_done(void *ctx, uint64_t op, bool ok, const char *text)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    control_op_done(n->control, op, ok, text);
    leave(n);
}

static void run_hook(struct node *n, const struct pair_effect *fx)
{
    static const struct {
        const char *name;
        enum hook hook;
    } names[] = {{"promoted", HOOK_PROMOTED},
                 {"demoted", HOOK_DEMOTED},
                 {"solo", HOOK_SOLO},
                 {"paired", HOOK_PAIRED}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(fx->name, names[i].name) == 0)
            hooks_run(n->hooks, names[i].hook, fx->epoch);
}

static void route_effect(struct node *n, const struct pair_effect *fx)
{
    struct node_mail m = {.effect = *fx};
    switch (fx->type) {
    case PX_PROMOTE:
    case PX_FOLLOW:
    case PX_DROP:
    case PX_TAKE_BACK:
    case PX_PAIRED:
    case PX_DRAIN:
    case PX_EPOCH_SEEN:
    case PX_EMPTY:
        replication_pair(n->replication, fx);
        break;
    case PX_SERVE:
    case PX_STEP_DOWN:
        replication_pair(n->replication, fx);
        node_post(n, MAIL_EFFECT, &m);
        break;
    case PX_RELEASE_TAIL:
    case PX_QUIESCE:
    case PX_STOPPED:
        node_post(n, MAIL_EFFECT, &m);
        break;
    case PX_HOOK:
        run_hook(n, fx);
        break;
    case PX_LOG:
        log_event(fx->ok ? LOG_INFO_ : LOG_WARN_, "role", "%s", fx->text);
        break;
    case PX_OP_DONE:
        control_op_done(n->control, fx->op, fx->ok, fx->text);
        break;
    default:
        assert(!"effect of health's own");
    }
}

static void health_effect(void *ctx, const struct pair_effect *fx)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    route_effect(n, fx);
    leave(n);
}

/* What a healthy disk and a healthy loop never reach; a fresh start or reload may keep the relay's
 * loop a little longer, which costs at worst a hand-over. */
static bool stalled(void *ctx)
{
    struct node *n = ctx;
    uint64_t limit = n->configs[0]->health.stall_timeout_ms; /* a reload does not change it */
    if (!enter(n))
        return false;
    bool yes = storage_stalled_ms(n->storage) > limit ||
               clock_boot_ns() - atomic_load(&n->relay_alive_ns) > (limit + NODE_TICK_MS) * MS ||
               !replication_alive(n->replication, (limit + NODE_TICK_MS) * MS);
    leave(n);
    return yes;
}

static void health_viewed(void *ctx, const struct pair_view *v)
{
    struct node *n = ctx;
    struct node_mail m = {.view = *v};
    if (!enter(n))
        return;
    node_post(n, MAIL_VIEW, &m);
    leave(n);
}

static void control_operate(void *ctx, const struct pair_event *ev)
{
    tell_health(ctx, ev);
}

static void control_queue(void *ctx, struct storage_op *op)
{
    struct node_mail m = {.op = op};
    node_post(ctx, MAIL_OPERATE, &m);
}

static void control_read(void *ctx, struct storage_read *r)
{
    struct node *n = ctx;
    r->mail.type = MAIL_READ;
    r->reply_to = n->mail;
    storage_read(n->storage, 1, r);
}

static void control_destinations(void *ctx, uint64_t op, struct slice queued)
{
    struct node_mail m = {.token = op, .text = slice_dup(queued)};
    node_post(ctx, MAIL_DESTINATIONS, &m);
}

static void control_reload(void *ctx, uint64_t op)
{
    struct node_mail m = {.token = op};
    node_post(ctx, MAIL_RELOAD, &m);
}

static void control_rejoin(void *ctx, bool discard, uint64_t op)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    replication_rejoin(n->replication, discard, op);
    leave(n);
}

static void control_verify(void *ctx, uint64_t op)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    replication_verify(n->replication, op);
    leave(n);
}

static void delivery_mend(void *ctx, uint64_t id)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    replication_mend(n->replication, id);
    leave(n);
}

static bool may_deliver(void *ctx)
{
    const struct node *n = ctx;
    return n->serving && n->tail_released &&
           health_may_deliver(n->health, n->serving, clock_boot_ns());
}

/* On the relay's loop; replication stops after the relay has nothing more to note. */
static void note(void *ctx, struct slice frame)
{
    struct node *n = ctx;
    if (!enter(n))
        return;
    replication_notes(n->replication, frame);
    leave(n);
}

/* A takeover with wall clocks apart must not expire what the old primary would have sent
 * (protocol 6, incident 27). A single node has one clock. */
bool node_may_expire(const struct node *n)
{
    return n->single || wall_may_expire(&n->view, n->serving_ns, clock_boot_ns(), clock_wall_ms());
}

static bool may_expire(void *ctx)
{
    return node_may_expire(ctx);
}

int node_answer_http(void *ctx, const char *path, struct buf *body, const char **content_type)
{
    struct node_status *s = xmalloc(sizeof *s);
    node_status(ctx, s);
    int code = 200;
    *content_type = "text/plain; charset=utf-8";
    if (strcmp(path, "/status") == 0) {
        *content_type = "application/json";
        status_json(body, s, true);
    } else if (strcmp(path, "/metrics") == 0) {
        *content_type = "text/plain; version=0.0.4; charset=utf-8";
        status_metrics(body, s);
    } else if (strcmp(path, "/") == 0) {
        *content_type = "text/html; charset=utf-8";
        status_page(body, s);
    } else {
        code = status_endpoint(path, s, body);
    }
    free(s);
    return code;
}

/* ---- as each part takes them ---- */

struct storage_hooks node_storage_hooks(struct node *n)
{
    return (struct storage_hooks){.ctx = n,
                                  .batch = n->single ? NULL : storage_batch,
                                  .durable = storage_durable,
                                  .reply = storage_reply,
                                  .changed = storage_changed,
                                  .failed = storage_failed,
                                  .opstate = storage_opstate,
                                  .merged = storage_merged};
}

struct replication_hooks node_replication_hooks(struct node *n)
{
    return (struct replication_hooks){.ctx = n,
                                      .store = replication_store,
                                      .report = replication_report,
                                      .watermark = replication_watermark,
                                      .epoch_over = replication_epoch_over,
                                      .mended = replication_mended,
                                      .op_done = replication_op_done};
}

static void fence(void *ctx, bool run)
{
    struct node *n = ctx;
    if (!n->fence) /* its helper was there before all threads */
        return;
    if (run)
        hooks_run(n->fence, HOOK_FENCE, 0);
    else
        hooks_kill(n->fence);
}

struct health_hooks node_health_hooks(struct node *n)
{
    return (struct health_hooks){.ctx = n,
                                 .effect = health_effect,
                                 .stalled = stalled,
                                 .view = health_viewed,
                                 .fence = fence};
}

struct control_hooks node_control_hooks(struct node *n)
{
    return (struct control_hooks){.ctx = n,
                                  .status = node_status,
                                  .operate = control_operate,
                                  .queue = control_queue,
                                  .read = control_read,
                                  .destinations = control_destinations,
                                  .reload = control_reload,
                                  .verify = control_verify,
                                  .rejoin = control_rejoin};
}

struct delivery_hooks node_delivery_hooks(struct node *n)
{
    return (struct delivery_hooks){.ctx = n,
                                   .may_deliver = may_deliver,
                                   .may_expire = may_expire,
                                   .note = note,
                                   .alone = n->single,
                                   .mend = delivery_mend};
}
