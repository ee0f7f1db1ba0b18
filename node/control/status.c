/* See status.h: alarms, the JSON of the contract, and the codes of the health endpoints. The other
 * forms are in metrics.c and status_page.c. */
#include "node/control/status.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/control/status_forms.h"
#include "node/control/text.h"

enum {
    SKEW_ALARM_MS = 60000, /* protocol 6: wall clocks more than a minute apart */
};

bool status_single(const struct node_status *s)
{
    return s->config->n_nodes < 2;
}

char status_primary(const struct node_status *s)
{
    const struct pair_view *p = &s->pair;
    if (p->record.version)
        return p->record.primary == NODE_A ? 'a' : 'b';
    return p->serving ? s->config->node : 0;
}

static bool node_in_sync(const struct node_status *s, char node)
{
    if (!s->pair.record.version)
        return s->pair.serving && node == s->config->node;
    return s->pair.record.in_sync[node == 'a' ? NODE_A : NODE_B];
}

const char *status_arbiter_type(const struct node_status *s)
{
    static const char *const names[] = {"witness", "etcd", "none"};
    return names[s->config->arbiter.type];
}

bool status_manual(const struct node_status *s)
{
    const struct config *c = s->config;
    return c->n_nodes > 1 && c->arbiter.type == ARBITER_NONE && !c->arbiter.takeover_auto;
}

const char *status_mode(const struct node_status *s)
{
    static const char *const names[] = {NULL, "paired", "solo"};
    return names[s->pair.mode];
}

bool status_serving(const struct node_status *s)
{
    return s->pair.role == ROLE_PRIMARY && s->pair.serving;
}

bool status_standby_in_sync(const struct node_status *s)
{
    return s->pair.role == ROLE_STANDBY && s->pair.in_sync;
}

uint64_t status_lag_changes(const struct node_status *s)
{
    if (s->pair.role == ROLE_PRIMARY)
        return s->replica.lag_changes;
    return s->pair.peer_lsn > s->own_lsn ? s->pair.peer_lsn - s->own_lsn : 0;
}

__attribute__((format(printf, 5, 6))) static void alarm_add(struct status_alarm *out, unsigned *n,
                                                            const char *name, bool critical,
                                                            const char *fmt, ...)
{
    if (*n == STATUS_ALARMS_MAX)
        return;
    struct status_alarm *a = &out[(*n)++];
    a->name = name;
    a->critical = critical;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(a->text, sizeof a->text, fmt, ap);
    va_end(ap);
}

static void pair_alarms(const struct node_status *s, struct status_alarm *out, unsigned *n)
{
    const struct pair_view *p = &s->pair;
    char when[32];
    if (p->role == ROLE_FENCED)
        alarm_add(out, n, "fenced", true, "fenced: serves nobody. %s", p->why);
    if (status_single(s))
        return;
    if (p->role == ROLE_PRIMARY && p->mode == PAIR_SOLO)
        alarm_add(out, n, "solo", true,
                  "solo: new mail is kept on this node only, until the standby is back in sync");
    else if (p->role == ROLE_STANDBY && p->mode == PAIR_SOLO)
        alarm_add(out, n, "solo", true,
                  "the primary is solo: new mail is kept on it only, until this node is in sync");
    /* Named by the record but not connected: it would take over, so only the link is amiss. */
    if (p->role == ROLE_STANDBY && !p->in_sync && node_in_sync(s, s->config->node))
        alarm_add(out, n, "replication_down", false, "no replication from the primary: %s",
                  s->replica.progress[0] ? s->replica.progress : "not connected");
    else if (p->role == ROLE_STANDBY && !p->in_sync)
        alarm_add(out, n, "not_in_sync", true, "not in sync: this node would not take over%s%s",
                  s->replica.progress[0] ? "; " : "", s->replica.progress);
    if (p->role == ROLE_REJOINING)
        alarm_add(out, n, "rejoining", true, "rejoining: %s", p->why);
    if (!p->peer_reachable && p->silent_ns == UINT64_MAX)
        alarm_add(out, n, "peer_unreachable", true,
                  "the other node hasn't been heard since this one started");
    else if (!p->peer_reachable)
        alarm_add(out, n, "peer_unreachable", true, "the other node is silent for %s",
                  text_duration(when, (int64_t)(p->silent_ns / 1000000)));
    if (!p->auto_takeover && s->takeover_until_ms > s->wall_ms)
        alarm_add(out, n, "auto_takeover_off", false, "automatic takeover is off for another %s",
                  text_duration(when, s->takeover_until_ms - s->wall_ms));
    else if (!p->auto_takeover && !status_manual(s))
        alarm_add(out, n, "auto_takeover_off", false,
                  "automatic takeover is off; back on with: batonctl takeover on");
    if (llabs((long long)p->peer_wall_skew_ms) > SKEW_ALARM_MS)
        alarm_add(out, n, "clock_skew", false, "the nodes' clocks differ by %s: check NTP",
                  text_duration(when, llabs((long long)p->peer_wall_skew_ms)));
    if (p->record.version && p->record.forced)
        alarm_add(out, n, "forced", false,
                  "the takeover was forced: copies may differ until both nodes are paired again");
}

/* Checks whose failure is told by an alarm with more to say. */
static bool has_own_alarm(const char *check)
{
    static const char *const names[] = {"pair", "arbiter", "clock", "auto_takeover"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], check) == 0)
            return true;
    return false;
}

static void arbiter_alarms(const struct arbiter_view *a, struct status_alarm *out, unsigned *n)
{
    if (a->behind)
        alarm_add(out, n, "arbiter_behind", true,
                  "the arbiter was emptied or restored from a backup: it isn't followed, and no "
                  "takeover is possible until both nodes have met, or the primary serves alone");
    else if (!a->reachable[WITNESS])
        alarm_add(out, n, "arbiter_unreachable", false,
                  "the arbiter does not answer: no takeover is possible if a node fails now%s%s",
                  a->detail[0] ? ": " : "", a->detail);
}

unsigned status_alarms(const struct node_status *s, struct status_alarm out[STATUS_ALARMS_MAX])
{
    unsigned n = 0;
    if (!s->alive)
        alarm_add(out, &n, "stalled", true, "a thread of this node makes no progress");
    pair_alarms(s, out, &n);
    if (status_serving(s) && s->refusing)
        alarm_add(out, &n, "refusing_mail", true, "new mail is refused: %s", s->refusing_why);
    if (s->config->arbiter.type != ARBITER_NONE && !status_single(s))
        arbiter_alarms(&s->arbiter, out, &n);
    for (unsigned i = 0; i < s->n_checks && i < STATUS_CHECKS_MAX; i++)
        if (!s->checks[i].ok && !has_own_alarm(s->checks[i].name))
            alarm_add(out, &n, s->checks[i].name, true, "%s: %s", s->checks[i].name,
                      s->checks[i].detail);
    return n;
}

/* A string from anywhere; "" stays "", NULL becomes null. */
static json_t *text(const char *s)
{
    if (!s)
        return json_null();
    struct buf b;
    buf_init(&b, 4096);
    text_utf8(&b, slice_of(s, strnlen(s, 1024)));
    json_t *j = json_stringn((const char *)b.data, b.len);
    buf_free(&b);
    return j;
}

static json_t *letter(char c)
{
    return c ? json_stringn(&c, 1) : json_null();
}

/* Seconds with ms; counters beyond 2^63 can't be. */
static json_t *seconds(double s)
{
    return json_real((double)(int64_t)(s * 1000 + 0.5) / 1000);
}

static json_t *count(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static void set(json_t *o, const char *key, json_t *value)
{
    int rc = json_object_set_new(o, key, value ? value : json_null());
    assert(rc == 0);
    (void)rc;
}

static json_t *verify_json(const struct verify_view *v)
{
    json_t *o = json_object();
    set(o, "run", count(v->run));
    set(o, "running", json_boolean(v->running));
    set(o, "compared", count(v->compared));
    set(o, "differing", count(v->differing));
    set(o, "repaired", count(v->repaired));
    set(o, "unrepairable", count(v->unrepairable));
    set(o, "why", text(v->why));
    return o;
}

static json_t *peer_json(const struct node_status *s)
{
    const struct config_node *peer = config_peer(s->config);
    if (!peer)
        return json_null();
    const struct pair_view *p = &s->pair;
    json_t *o = json_object();
    set(o, "node", letter(peer->name));
    set(o, "reachable", json_boolean(p->peer_reachable));
    set(o, "role", p->peer_reachable ? text(role_name(p->peer_role)) : json_null());
    set(o, "lsn", count(p->peer_lsn));
    set(o, "lag_changes", count(status_lag_changes(s)));
    set(o, "lag_s", seconds((double)s->replica.lag_ns / 1e9));
    bool heard = p->silent_ns != UINT64_MAX;
    set(o, "silent_s", heard ? seconds((double)p->silent_ns / 1e9) : json_null());
    set(o, "clock_skew_s", heard ? seconds((double)p->peer_wall_skew_ms / 1e3) : json_null());
    return o;
}

static json_t *voters_json(const struct node_status *s)
{
    json_t *all = json_object();
    static const char *const names[VOTERS] = {"a", "b", "arbiter"};
    for (unsigned i = 0; i < VOTERS; i++) {
        json_t *o = json_object();
        set(o, "reachable", json_boolean(s->arbiter.reachable[i]));
        set(o, "voting", json_boolean(s->arbiter.voting[i]));
        set(all, names[i], o);
    }
    return all;
}

static json_t *takeovers_json(const struct pair_view *p)
{
    json_t *all = json_array();
    for (unsigned i = 0; i < p->n_takeovers && i < PAIR_TAKEOVERS; i++) {
        const struct pair_takeover *t = &p->takeovers[i];
        json_t *o = json_object();
        char when[32];
        set(o, "at", text(text_rfc3339(when, t->at_ms)));
        set(o, "from", letter(t->from));
        set(o, "to", letter(t->to));
        set(o, "reason", text(t->reason));
        set(o, "duration_ms", count((t->duration_ns + 500000) / 1000000));
        set(o, "in_doubt", count(t->in_doubt));
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *checks_json(const struct node_status *s)
{
    json_t *all = json_array();
    for (unsigned i = 0; i < s->n_checks && i < STATUS_CHECKS_MAX; i++) {
        json_t *o = json_object();
        set(o, "name", text(s->checks[i].name));
        set(o, "ok", json_boolean(s->checks[i].ok));
        set(o, "detail", text(s->checks[i].detail));
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *alarms_json(const struct node_status *s)
{
    struct status_alarm alarm[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, alarm);
    json_t *all = json_array();
    for (unsigned i = 0; i < n; i++) {
        json_t *o = json_object();
        set(o, "name", text(alarm[i].name));
        set(o, "critical", json_boolean(alarm[i].critical));
        set(o, "text", text(alarm[i].text));
        json_array_append_new(all, o);
    }
    return all;
}

static json_t *replication_json(const struct replica_view *r)
{
    json_t *o = json_object();
    set(o, "attached", json_boolean(r->attached));
    set(o, "caught_up", json_boolean(r->caught_up));
    set(o, "waits_for_standby", json_boolean(r->waiting));
    set(o, "standby_received", count(r->standby_received));
    set(o, "standby_durable", count(r->standby_durable));
    set(o, "progress", r->progress[0] ? text(r->progress) : json_null());
    return o;
}

static void pair_json(json_t *o, const struct node_status *s)
{
    const struct pair_view *p = &s->pair;
    char when[32];
    set(o, "cluster", text(s->config->cluster));
    set(o, "node", letter(s->config->node));
    set(o, "version", text(BATON_VERSION));
    set(o, "time", text(text_rfc3339(when, s->wall_ms)));
    set(o, "uptime_s", seconds(s->uptime_s));
    set(o, "role", text(role_name(p->role)));
    set(o, "mode", text(status_mode(s)));
    set(o, "why", text(p->why));
    set(o, "epoch", count(p->epoch));
    set(o, "primary", letter(status_primary(s)));
    json_t *in_sync = json_array();
    for (unsigned i = 0; i < s->config->n_nodes; i++)
        if (node_in_sync(s, s->config->nodes[i].name))
            json_array_append_new(in_sync, letter(s->config->nodes[i].name));
    set(o, "in_sync", in_sync);
    set(o, "lsn", count(s->own_lsn));
    set(o, "committed", count(s->committed_lsn));
    set(o, "auto_takeover", json_boolean(p->auto_takeover));
    set(o, "auto_takeover_until",
        s->takeover_until_ms ? text(text_rfc3339(when, s->takeover_until_ms)) : json_null());
    set(o, "serving", json_boolean(status_serving(s)));
    /* Of a primary: that others take no mail is what they are for. */
    set(o, "refusing", status_serving(s) && s->refusing ? text(s->refusing_why) : json_null());
    set(o, "alarms", alarms_json(s));
    set(o, "peer", peer_json(s));
    json_t *arbiter = json_object();
    set(arbiter, "type", text(status_arbiter_type(s)));
    set(arbiter, "reachable", json_boolean(s->arbiter.reachable[WITNESS]));
    if (s->config->arbiter.type == ARBITER_NONE && !status_single(s))
        set(arbiter, "takeover", text(status_manual(s) ? "manual" : "auto"));
    if (s->arbiter.detail[0])
        set(arbiter, "detail", text(s->arbiter.detail));
    set(o, "arbiter", arbiter);
    set(o, "voters", voters_json(s));
    set(o, "replication", replication_json(&s->replica));
}

static void counters_json(json_t *o, const struct node_status *s)
{
    json_t *q = json_object();
    set(q, "messages", count(s->queue.messages));
    set(q, "queued", count(s->queue.queued));
    set(q, "deferred", count(s->queue.deferred));
    set(q, "held", count(s->queue.held));
    set(q, "quarantined", count(s->queue.quarantined));
    set(q, "in_doubt", count(s->queue.in_doubt));
    set(q, "oldest_s", seconds(s->queue.oldest_s));
    set(o, "queue", q);
    json_t *smtp = json_object();
    set(smtp, "sessions", count(s->smtp.sessions));
    set(smtp, "connections_total", count(s->smtp.connections_total));
    set(smtp, "accepted_total", count(s->smtp.accepted_total));
    set(smtp, "refused_total", count(s->smtp.refused_total));
    set(smtp, "bytes_total", count(s->smtp.bytes_total));
    set(o, "smtp", smtp);
    json_t *d = json_object();
    set(d, "connections", count(s->delivery.connections));
    set(d, "delivered_total", count(s->delivery.delivered_total));
    set(d, "failed_total", count(s->delivery.failed_total));
    set(d, "deferred_total", count(s->delivery.deferred_total));
    set(d, "delivered_per_s", seconds(s->delivery.delivered_per_s));
    set(o, "delivery", d);
    json_t *st = json_object();
    set(st, "commits_total", count(s->storage.commits));
    set(st, "rows_total", count(s->storage.rows));
    set(st, "bytes_total", count(s->storage.bytes));
    set(st, "commit_p50_ms", seconds((double)s->storage.commit_p50_us / 1e3));
    set(st, "commit_p99_ms", seconds((double)s->storage.commit_p99_us / 1e3));
    set(st, "stalled_ms", count(s->storage.stalled_ms));
    set(st, "waiting", count(s->storage.waiting));
    set(o, "storage", st);
    set(o, "memory_bytes", count(s->rss_bytes));
    set(o, "events_dropped_total", count(s->events_dropped));
}

bool status_json(struct buf *out, const struct node_status *s, bool indent)
{
    json_t *o = json_object();
    pair_json(o, s);
    counters_json(o, s);
    set(o, "takeovers", takeovers_json(&s->pair));
    set(o, "verify", verify_json(&s->replica.verify));
    set(o, "checks", checks_json(s));
    char *all = json_dumps(o, (indent ? JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(12));
    json_decref(o);
    assert(all); /* text() lets nothing through that can't be dumped */
    bool ok = buf_append_str(out, all) && buf_append_str(out, "\n");
    free(all);
    return ok;
}

/* Why this node does not do what its role asks for. */
static void not_ready(const struct node_status *s, struct buf *out)
{
    bool behind = s->pair.role == ROLE_STANDBY && !status_standby_in_sync(s);
    buf_printf(out, "%s%s%s%s%s\n", role_name(s->pair.role), behind ? ", not in sync" : "",
               s->pair.why[0] ? ": " : "", s->pair.why,
               s->pair.role == ROLE_STANDBY ? s->replica.progress : "");
}

int status_endpoint(const char *path, const struct node_status *s, struct buf *out)
{
    if (strcmp(path, "/livez") == 0) {
        buf_append_str(out, s->alive ? "ok\n" : "a thread makes no progress\n");
        return s->alive ? 200 : 503;
    }
    bool standby = status_standby_in_sync(s), serving = status_serving(s);
    if (strcmp(path, "/readyz") == 0) {
        if (serving || standby)
            buf_printf(out, "ok: %s\n", serving ? "serving primary" : "standby in sync");
        else
            not_ready(s, out);
        return serving || standby ? 200 : 503;
    }
    if (strcmp(path, "/standby") == 0) {
        if (standby)
            buf_append_str(out, "ok: standby in sync\n");
        else
            not_ready(s, out);
        return standby ? 200 : 503;
    }
    if (strcmp(path, "/primary") != 0) {
        buf_append_str(out, "not found; there are / /status /metrics /livez /readyz /primary "
                            "/standby\n");
        return 404;
    }
    if (serving && !s->refusing)
        buf_append_str(out, "ok: accepts mail\n");
    else if (serving)
        buf_printf(out, "new mail is refused: %s\n", s->refusing_why);
    else
        not_ready(s, out);
    return serving && !s->refusing ? 200 : 503;
}
