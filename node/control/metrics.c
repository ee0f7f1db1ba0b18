/* A status as Prometheus text (exposition format 0.0.4): base units, `_total` for counters, each
 * metric with HELP and TYPE. Names are part of the outside: alert rules use them. */
#include <inttypes.h>

#include "node/control/status.h"
#include "node/control/status_forms.h"

static bool metric_head(struct buf *out, const char *name, const char *type, const char *help)
{
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static bool gauge(struct buf *out, const char *name, double v, const char *help)
{
    return metric_head(out, name, "gauge", help) && buf_printf(out, "%s %.15g\n", name, v);
}

static bool counter(struct buf *out, const char *name, uint64_t v, const char *help)
{
    return metric_head(out, name, "counter", help) && buf_printf(out, "%s %" PRIu64 "\n", name, v);
}

static bool sample(struct buf *out, const char *name, const char *label, const char *value,
                   double v)
{
    return buf_printf(out, "%s{%s=\"%s\"} %.15g\n", name, label, value, v);
}

/* A label value: backslash, quote and newline are escaped. */
static bool label_value(struct buf *out, const char *s)
{
    bool ok = true;
    for (; *s && ok; s++)
        ok = *s == '\\'   ? buf_append_str(out, "\\\\")
             : *s == '"'  ? buf_append_str(out, "\\\"")
             : *s == '\n' ? buf_append_str(out, "\\n")
                          : buf_append(out, s, 1);
    return ok;
}

static bool identity(struct buf *out, const struct node_status *s)
{
    return metric_head(out, "baton_info", "gauge", "Cluster, node and version; always 1.") &&
           buf_append_str(out, "baton_info{cluster=\"") && label_value(out, s->config->cluster) &&
           buf_printf(out, "\",node=\"%c\",version=\"%s\"} 1\n", s->config->node, BATON_VERSION) &&
           gauge(out, "process_start_time_seconds", (double)s->wall_ms / 1e3 - s->uptime_s,
                 "Start time of the process since the Unix epoch.") &&
           gauge(out, "process_resident_memory_bytes", (double)s->rss_bytes,
                 "Resident memory of the process.") &&
           gauge(out, "baton_alive", s->alive, "1 while every thread makes progress.");
}

static bool roles(struct buf *out, const struct node_status *s)
{
    bool ok = metric_head(out, "baton_role", "gauge", "1 for the role that this node has.");
    for (int r = ROLE_STARTING; r <= ROLE_REJOINING; r++)
        ok = ok &&
             sample(out, "baton_role", "role", role_name((enum role)r), (int)s->pair.role == r);
    const char *mode = status_mode(s);
    ok = ok && metric_head(out, "baton_mode", "gauge",
                           "1 for the mode: paired (mail is on both nodes before it is "
                           "acknowledged) or solo.");
    return ok && sample(out, "baton_mode", "mode", "paired", mode && mode[0] == 'p') &&
           sample(out, "baton_mode", "mode", "solo", mode && mode[0] == 's') &&
           gauge(out, "baton_serving", status_serving(s), "1 on a primary that serves.") &&
           gauge(out, "baton_accepting_mail", status_serving(s) && !s->refusing,
                 "1 on the node that accepts new mail now.") &&
           gauge(out, "baton_in_sync", status_serving(s) || status_standby_in_sync(s),
                 "1 while this node holds all acknowledged mail: serving primary, or standby in "
                 "sync.") &&
           gauge(out, "baton_epoch", s->pair.epoch,
                 "Epoch; grows at each change of primary and each restart of a primary.") &&
           gauge(out, "baton_lsn", (double)s->own_lsn, "Newest change that is durable here.") &&
           gauge(out, "baton_committed_lsn", (double)s->committed_lsn,
                 "Newest change that is as durable as the mode asks for.") &&
           gauge(out, "baton_auto_takeover_enabled", s->pair.auto_takeover || status_manual(s),
                 "0 while automatic takeover is suspended by an operator.");
}

static bool last_takeover(struct buf *out, const struct pair_view *p)
{
    if (!p->n_takeovers)
        return true;
    const struct pair_takeover *t = &p->takeovers[0];
    return gauge(out, "baton_last_takeover_timestamp_seconds", (double)t->at_ms / 1e3,
                 "When the primary last changed, since the Unix epoch.") &&
           gauge(out, "baton_last_takeover_duration_seconds", (double)t->duration_ns / 1e9,
                 "How long the last takeover took, from the last sign of life, or the order, to "
                 "serving.") &&
           gauge(out, "baton_last_takeover_in_doubt", (double)t->in_doubt,
                 "Deliveries in doubt after the last takeover.");
}

static bool pair(struct buf *out, const struct node_status *s)
{
    const struct pair_view *p = &s->pair;
    bool ok = last_takeover(out, p);
    if (status_single(s))
        return ok;
    ok =
        ok &&
        gauge(out, "baton_peer_reachable", p->peer_reachable,
              "1 while the other node's heartbeats arrive.") &&
        metric_head(out, "baton_peer_silence_seconds", "gauge",
                    "Time since the other node's last sign of life; +Inf: none since the start.") &&
        (p->silent_ns == UINT64_MAX
             ? buf_printf(out, "baton_peer_silence_seconds +Inf\n")
             : buf_printf(out, "baton_peer_silence_seconds %.15g\n", (double)p->silent_ns / 1e9)) &&
        gauge(out, "baton_peer_lsn", (double)p->peer_lsn,
              "Newest change that is durable on the other node.") &&
        gauge(out, "baton_peer_clock_skew_seconds", (double)p->peer_wall_skew_ms / 1e3,
              "How far the other node's wall clock is ahead.") &&
        gauge(out, "baton_replication_attached", s->replica.attached,
              "1 while the two nodes are connected for replication.") &&
        gauge(out, "baton_replication_lag_changes", (double)status_lag_changes(s),
              "Changes that the standby has not acknowledged.") &&
        gauge(out, "baton_replication_lag_seconds", (double)s->replica.lag_ns / 1e9,
              "Age of the oldest change that the standby has not acknowledged.") &&
        metric_head(out, "baton_voter_reachable", "gauge", "1 while this voter answers.");
    static const char *const voter[VOTERS] = {"a", "b", "arbiter"};
    unsigned voters = s->config->arbiter.type == ARBITER_NONE ? NODES : VOTERS;
    for (unsigned i = 0; i < voters; i++)
        ok = ok && sample(out, "baton_voter_reachable", "voter", voter[i], s->arbiter.reachable[i]);
    ok = ok && metric_head(out, "baton_voter_voting", "gauge",
                           "1 while this voter votes (an emptied one waits for both others).");
    for (unsigned i = 0; i < voters; i++)
        ok = ok && sample(out, "baton_voter_voting", "voter", voter[i], s->arbiter.voting[i]);
    return ok;
}

static bool mail(struct buf *out, const struct node_status *s)
{
    static const char name[] = "baton_queue_messages";
    bool ok = metric_head(out, name, "gauge", "Messages in the queue by state; disjoint.") &&
              sample(out, name, "state", "queued", (double)s->queue.queued) &&
              sample(out, name, "state", "deferred", (double)s->queue.deferred) &&
              sample(out, name, "state", "held", (double)s->queue.held) &&
              sample(out, name, "state", "quarantined", (double)s->queue.quarantined) &&
              sample(out, name, "state", "in_doubt", (double)s->queue.in_doubt) &&
              gauge(out, "baton_queue_oldest_seconds", s->queue.oldest_s,
                    "Age of the oldest message in the queue.") &&
              gauge(out, "baton_smtp_sessions", (double)s->smtp.sessions, "Open SMTP sessions.") &&
              counter(out, "baton_smtp_connections_total", s->smtp.connections_total,
                      "SMTP connections taken.") &&
              counter(out, "baton_smtp_messages_accepted_total", s->smtp.accepted_total,
                      "Messages acknowledged with 250.") &&
              counter(out, "baton_smtp_transactions_refused_total", s->smtp.refused_total,
                      "SMTP transactions refused.") &&
              counter(out, "baton_smtp_received_bytes_total", s->smtp.bytes_total,
                      "Bytes of message data received.") &&
              gauge(out, "baton_delivery_connections", (double)s->delivery.connections,
                    "Open connections to next hops.");
    static const char result[] = "baton_delivery_results_total";
    return ok &&
           metric_head(out, result, "counter", "Recipients by outcome of a delivery attempt.") &&
           sample(out, result, "result", "delivered", (double)s->delivery.delivered_total) &&
           sample(out, result, "result", "failed", (double)s->delivery.failed_total) &&
           sample(out, result, "result", "deferred", (double)s->delivery.deferred_total);
}

static bool storage(struct buf *out, const struct node_status *s)
{
    static const char name[] = "baton_storage_commit_seconds";
    return counter(out, "baton_storage_commits_total", s->storage.commits,
                   "Transactions committed to the store.") &&
           counter(out, "baton_storage_rows_total", s->storage.rows,
                   "Rows written to the store.") &&
           counter(out, "baton_storage_written_bytes_total", s->storage.bytes,
                   "Bytes of rows written to the store.") &&
           metric_head(out, name, "summary",
                       "From COMMIT to the end of its flush, over the last minute.") &&
           sample(out, name, "quantile", "0.5", (double)s->storage.commit_p50_us / 1e6) &&
           sample(out, name, "quantile", "0.99", (double)s->storage.commit_p99_us / 1e6) &&
           gauge(out, "baton_storage_commit_age_seconds", (double)s->storage.stalled_ms / 1e3,
                 "Age of the commit under way; 0 when there is none.") &&
           gauge(out, "baton_storage_waiting_operations", (double)s->storage.waiting,
                 "Operations that wait for the storage thread.") &&
           counter(out, "baton_events_dropped_total", s->events_dropped,
                   "Delivery events that could not be written.");
}

static bool checks(struct buf *out, const struct node_status *s)
{
    static const char check[] = "baton_check_ok", alarm[] = "baton_alarm";
    bool ok = true;
    if (s->n_checks)
        ok = metric_head(out, check, "gauge", "1 while this check of the node is well.");
    for (unsigned i = 0; i < s->n_checks && i < STATUS_CHECKS_MAX; i++)
        ok = ok && sample(out, check, "check", s->checks[i].name, s->checks[i].ok);
    struct status_alarm a[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, a);
    if (n)
        ok = ok && metric_head(out, alarm, "gauge", "1 for what wants an operator's eye now.");
    for (unsigned i = 0; i < n; i++)
        ok = ok && buf_printf(out, "%s{alarm=\"%s\",severity=\"%s\"} 1\n", alarm, a[i].name,
                              a[i].critical ? "critical" : "warning");
    return ok;
}

bool status_metrics(struct buf *out, const struct node_status *s)
{
    return identity(out, s) && roles(out, s) && pair(out, s) && mail(out, s) && storage(out, s) &&
           checks(out, s);
}
