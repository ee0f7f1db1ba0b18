/* Collects what a node tells about itself (status.h) from the views that each part publishes. Any
 * thread; waits for nobody but the operators' reader of the store. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "health/wall.h"
#include "node/base/clock_posix.h"
#include "node/node_uv.h"

#define MS 1000000ull

enum { ALIVE_MS = 5000 };

static uint64_t resident_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct status_check *check(struct node_status *s, const char *name, bool ok)
{
    static struct status_check spare;
    struct status_check *c = s->n_checks < STATUS_CHECKS_MAX ? &s->checks[s->n_checks++] : &spare;
    c->name = name;
    c->ok = ok;
    return c;
}

static void check_threads(struct node *n, struct node_status *s, uint64_t now)
{
    bool relay = now - atomic_load(&n->relay_alive_ns) < ALIVE_MS * MS;
    bool health = health_alive(n->health, ALIVE_MS * MS);
    bool replication = replication_alive(n->replication, ALIVE_MS * MS);
    s->alive = relay && health && replication && s->storage.stalled_ms < ALIVE_MS;
    struct status_check *c = check(s, "relay", relay);
    snprintf(c->detail, sizeof c->detail, relay ? "its loop makes progress" : "its loop is stuck");
    c = check(s, "health", health);
    snprintf(c->detail, sizeof c->detail, health ? "its loop makes progress" : "its loop is stuck");
}

static void check_storage(struct node_status *s)
{
    unsigned limit = s->config->health.stall_timeout_ms;
    struct status_check *c =
        check(s, "storage", !s->storage.failure && s->storage.stalled_ms < limit);
    if (s->storage.failure)
        snprintf(c->detail, sizeof c->detail, "%s",
                 s->storage.failure == STORE_FULL
                     ? "the disk was full; this node ends, to be started anew, when there is space"
                     : "a write or flush failed: check the disk, then restart this node");
    else if (c->ok)
        snprintf(c->detail, sizeof c->detail, "commit p50 %.1f ms, p99 %.1f ms",
                 (double)s->storage.commit_p50_us / 1e3, (double)s->storage.commit_p99_us / 1e3);
    else
        snprintf(c->detail, sizeof c->detail, "a commit has been under way for %llu ms",
                 (unsigned long long)s->storage.stalled_ms);
}

static void check_arbiter(struct node_status *s)
{
    const struct arbiter_view *a = &s->arbiter;
    bool etcd = s->config->arbiter.type == ARBITER_ETCD;
    struct status_check *c = check(s, "arbiter", a->reachable[WITNESS] && !a->behind);
    const char *says = a->behind ? "has lost the record (emptied, or restored from a backup)"
                       : c->ok   ? "answers"
                       : etcd    ? "doesn't answer: nothing can change hands"
                                 : "doesn't answer: only both nodes together can change the record";
    snprintf(c->detail, sizeof c->detail, "%s%s%.150s", says, a->detail[0] ? ": " : "", a->detail);
}

/* Without an arbiter: whether anything answers that tells a dead peer from a cut cable. */
static void check_none(struct node_status *s)
{
    if (!s->config->arbiter.takeover_auto)
        return;
    snprintf(check(s, "probes", s->arbiter.reachable[WITNESS])->detail, sizeof s->checks->detail,
             "%.100s", s->arbiter.detail);
}

static void check_pair(struct node_status *s)
{
    const struct pair_view *v = &s->pair;
    if (s->config->n_nodes < 2)
        return;
    struct status_check *c = check(s, "pair", v->mode == PAIR_PAIRED && v->role != ROLE_FENCED);
    snprintf(c->detail, sizeof c->detail, "%.100s", v->why);
    if (s->config->arbiter.type == ARBITER_NONE)
        check_none(s);
    else
        check_arbiter(s);
    int64_t skew = v->peer_wall_skew_ms;
    c = check(s, "clock", skew < WALL_APART_MS && skew > -WALL_APART_MS);
    if (v->silent_ns == UINT64_MAX)
        snprintf(c->detail, sizeof c->detail, "the other node hasn't been heard since the start");
    else
        snprintf(c->detail, sizeof c->detail, "the other node's wall clock is %+.1f s off",
                 (double)skew / 1e3);
    const struct config_arbiter *a = &s->config->arbiter;
    bool manual = a->type == ARBITER_NONE && !a->takeover_auto;
    c = check(s, "auto_takeover", v->auto_takeover || manual);
    snprintf(c->detail, sizeof c->detail,
             manual  ? "takeover = \"manual\": an operator decides"
             : c->ok ? "on"
                     : "off: nobody takes over by itself (batonctl takeover on)");
}

/* What a store waits for is nothing that the roles know of. */
static void check_rejoin(struct node_status *s)
{
    if (!s->replica.rejoin_waits)
        return;
    snprintf(s->pair.why, sizeof s->pair.why,
             "this store was away for longer than `retention` and holds what the primary hasn't: "
             "batonctl queue list shows it, batonctl rejoin --merge | --discard decides");
    snprintf(check(s, "rejoin", false)->detail, sizeof s->checks->detail,
             "waits for batonctl rejoin --merge | --discard");
}

static void check_bodies(struct node_status *s)
{
    if (!s->delivery.damaged)
        return;
    snprintf(check(s, "bodies", false)->detail, sizeof s->checks->detail,
             "%llu messages held: damaged on both nodes (batonctl queue list --state held)",
             (unsigned long long)s->delivery.damaged);
}

static void check_disk(struct node_status *s, uint64_t free_bytes)
{
    struct status_check *c = check(s, "disk", free_bytes >= s->config->queue.disk_reserve_bytes);
    snprintf(c->detail, sizeof c->detail, "%llu MiB free, %llu MiB are reserved",
             (unsigned long long)(free_bytes >> 20),
             (unsigned long long)(s->config->queue.disk_reserve_bytes >> 20));
}

static void refusal(struct node_status *s, enum smtp_gate gate)
{
    static const char *const why[] = {
        [SMTP_OPEN] = "",
        [SMTP_NOT_PRIMARY] = "this node doesn't accept mail now",
        [SMTP_ALONE] = "solo, and when_alone = \"refuse\"",
        [SMTP_FULL] = "below the disk reserve",
    };
    s->refusing = gate != SMTP_OPEN;
    snprintf(s->refusing_why, sizeof s->refusing_why, "%s", why[gate]);
}

static void take_snapshot(struct node_status *s, const struct relay_snapshot *r)
{
    s->smtp.sessions = r->smtp.sessions;
    s->smtp.connections_total = r->smtp.connections_total;
    s->smtp.accepted_total = r->smtp.accepted_total;
    s->smtp.refused_total = r->smtp.refused_total;
    s->smtp.bytes_total = r->smtp.bytes_total;
    s->delivery.connections = r->delivery.connections;
    s->delivery.delivered_total = r->delivery.delivered_total;
    s->delivery.failed_total = r->delivery.failed_total;
    s->delivery.deferred_total = r->delivery.deferred_total;
    s->delivery.damaged = r->delivery.damaged;
    s->delivery.delivered_per_s = r->delivery.delivered_per_s;
}

static void take_storage(struct node *n, struct node_status *s)
{
    struct storage_stats st;
    storage_stats(n->storage, &st);
    s->storage.commits = st.commits;
    s->storage.rows = st.rows;
    s->storage.bytes = st.bytes;
    s->storage.commit_p50_us = st.commit_p50_us;
    s->storage.commit_p99_us = st.commit_p99_us;
    s->storage.stalled_ms = st.stalled_ms;
    s->storage.waiting = st.waiting;
    s->storage.failure = st.failure;
    struct queue_counts q = {0};
    if (!storage_counts(n->storage, &q))
        return;
    s->queue.messages = q.messages;
    s->queue.queued = q.queued;
    s->queue.deferred = q.deferred;
    s->queue.held = q.held;
    s->queue.quarantined = q.quarantined;
    s->queue.in_doubt = q.in_doubt;
    if (q.oldest_ms && q.oldest_ms < s->wall_ms)
        s->queue.oldest_s = (double)(s->wall_ms - q.oldest_ms) / 1e3;
}

void node_status(void *node, struct node_status *out)
{
    struct node *n = node;
    uint64_t now = clock_boot_ns();
    char checking[200];
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&n->lock);
    struct relay_snapshot r = n->snapshot;
    out->config = n->config;
    pthread_mutex_unlock(&n->lock);
    out->wall_ms = clock_wall_ms();
    out->uptime_s = (double)(now - n->started_ns) / 1e9;
    health_view(n->health, &out->pair);
    out->takeover_until_ms = atomic_load(&n->takeover_until_ms);
    health_arbiter(n->health, &out->arbiter);
    replication_view(n->replication, &out->replica);
    out->own_lsn = out->replica.own_lsn;
    out->committed_lsn = out->replica.committed;
    take_snapshot(out, &r);
    take_storage(n, out);
    refusal(out, r.gate);
    out->rss_bytes = resident_bytes();
    out->events_dropped = events_dropped(n->events);
    check_threads(n, out, now);
    check_storage(out);
    if (storage_checking(n->storage, checking, sizeof checking))
        snprintf(out->pair.why, sizeof out->pair.why, "%s", checking);
    check_rejoin(out);
    check_bodies(out);
    check_pair(out);
    check_disk(out, r.disk_free_bytes);
}
