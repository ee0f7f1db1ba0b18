/* What a node tells about itself, and its forms: JSON (contract), Prometheus text, the page for
 * people, and what the health endpoints answer. Core: plain data in, text out. */
#ifndef BATON_CONTROL_STATUS_H
#define BATON_CONTROL_STATUS_H

#include "health/arbiter.h"
#include "health/pair.h"
#include "node/base/config.h"
#include "replication/replica.h"

struct status_check { /* one of "checks": storage, replication, health, relay, disk, clock, ... */
    const char *name; /* static */
    bool ok;
    char detail[200];
};
enum { STATUS_CHECKS_MAX = 12 };

/* A snapshot; collected by the composition, any thread. */
struct node_status {
    const struct config *config;
    int64_t wall_ms;
    double uptime_s;
    bool alive; /* every thread made progress lately: /livez */
    struct pair_view pair;
    int64_t takeover_until_ms; /* automatic takeover is off until then; 0: no such time */
    struct replica_view replica;
    struct arbiter_view arbiter;
    uint64_t own_lsn, committed_lsn;
    bool refusing; /* new mail is refused (gate isn't SMTP_OPEN): /primary says 503 */
    char refusing_why[120];
    struct {
        uint64_t messages, queued, deferred, held, quarantined, in_doubt;
        double oldest_s;
    } queue;
    struct {
        uint64_t sessions, connections_total, accepted_total, refused_total, bytes_total;
    } smtp;
    struct {
        uint64_t connections, delivered_total, failed_total, deferred_total, damaged;
        double delivered_per_s;
    } delivery;
    struct {
        uint64_t commits, rows, bytes, commit_p50_us, commit_p99_us, stalled_ms, waiting;
        int failure; /* enum store_error that ended its service; 0: none */
    } storage;
    uint64_t rss_bytes, events_dropped;
    struct status_check checks[STATUS_CHECKS_MAX];
    unsigned n_checks;
};

/* What wants an operator's eye now, most urgent first: solo, fenced, automatic takeover off, a
 * check that failed, ... One list for JSON, page, metrics and batonctl. */
struct status_alarm {
    const char *name; /* static, snake_case: also a metric's label */
    bool critical;    /* false: a warning */
    char text[240];   /* one line for a person, with what to do where there is something */
};
enum { STATUS_ALARMS_MAX = 12 + STATUS_CHECKS_MAX };
unsigned status_alarms(const struct node_status *s, struct status_alarm out[STATUS_ALARMS_MAX]);

/* Each appends to out; false: out's cap. status_page() needs up to STATUS_PAGE_BYTES. */
enum { STATUS_PAGE_BYTES = 256 << 10 };
bool status_json(struct buf *out, const struct node_status *s, bool indent);
bool status_metrics(struct buf *out, const struct node_status *s);
bool status_page(struct buf *out, const struct node_status *s);
/* 404 for any other path. 200 or 503 for "/livez", "/readyz", "/primary", "/standby"; *why: one
 * line, appended to out. */
int status_endpoint(const char *path, const struct node_status *s, struct buf *out);
#endif
