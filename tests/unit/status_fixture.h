/* A node's status as the tests need it: a paired primary with some mail, to be changed from there.
 */
#ifndef BATON_TESTS_STATUS_FIXTURE_H
#define BATON_TESTS_STATUS_FIXTURE_H

#include <stdio.h>

#include "node/control/status.h"

static inline const struct config *fixture_config(void)
{
    static char cluster[] = "mail-1", socket[] = "/tmp/unused", address[] = "127.0.0.1:7627";
    static struct config c;
    c.cluster = cluster;
    c.node = 'a';
    c.control = socket;
    c.nodes[0].name = 'a';
    c.nodes[1].name = 'b';
    c.n_nodes = 2;
    c.arbiter.type = ARBITER_WITNESS;
    c.arbiter.address = address;
    return &c;
}

static inline void fixture_check(struct node_status *s, const char *name, bool ok, const char *text)
{
    struct status_check *c = &s->checks[s->n_checks++];
    c->name = name;
    c->ok = ok;
    snprintf(c->detail, sizeof c->detail, "%s", text);
}

static inline void fixture_takeover(struct node_status *s, char from, char to, uint64_t ms,
                                    const char *reason)
{
    struct pair_takeover *t = &s->pair.takeovers[s->pair.n_takeovers++];
    t->at_ms = s->wall_ms - 3600000 * (int64_t)s->pair.n_takeovers;
    t->from = from;
    t->to = to;
    t->duration_ns = ms * 1000000;
    t->in_doubt = 2;
    snprintf(t->reason, sizeof t->reason, "%s", reason);
}

static inline struct node_status fixture_status(void)
{
    struct node_status s = {.config = fixture_config(),
                            .wall_ms = 1767323045678,
                            .uptime_s = 8000.5,
                            .alive = true,
                            .own_lsn = 1234,
                            .committed_lsn = 1230,
                            .rss_bytes = 48 << 20};
    struct pair_view *p = &s.pair;
    p->role = ROLE_PRIMARY;
    p->mode = PAIR_PAIRED;
    p->serving = p->in_sync = p->auto_takeover = p->peer_reachable = true;
    p->epoch = p->record.epoch = 4;
    p->record.version = 7;
    p->record.primary = NODE_A;
    p->record.in_sync[NODE_A] = p->record.in_sync[NODE_B] = true;
    p->peer_role = ROLE_STANDBY;
    p->peer_lsn = 1230;
    p->silent_ns = 40000000;
    snprintf(p->why, sizeof p->why, "serves; the standby is in sync");
    s.replica = (struct replica_view){.attached = true,
                                      .caught_up = true,
                                      .waiting = true,
                                      .own_lsn = 1234,
                                      .committed = 1230,
                                      .standby_received = 1232,
                                      .standby_durable = 1230,
                                      .lag_changes = 4,
                                      .lag_ns = 2000000};
    for (unsigned i = 0; i < VOTERS; i++)
        s.arbiter.reachable[i] = s.arbiter.voting[i] = true;
    s.queue.messages = 10;
    s.queue.queued = 6;
    s.queue.deferred = 2;
    s.queue.held = 1;
    s.queue.in_doubt = 1;
    s.queue.oldest_s = 3.25;
    s.smtp.sessions = 3;
    s.smtp.connections_total = 40;
    s.smtp.accepted_total = 100;
    s.smtp.refused_total = 1;
    s.smtp.bytes_total = 102400;
    s.delivery.connections = 5;
    s.delivery.delivered_total = 90;
    s.delivery.deferred_total = 3;
    s.delivery.delivered_per_s = 45;
    s.storage.commits = 500;
    s.storage.rows = 1500;
    s.storage.bytes = 900000;
    s.storage.commit_p50_us = 850;
    s.storage.commit_p99_us = 4200;
    fixture_check(&s, "storage", true, "commit p99 4.2 ms");
    fixture_check(&s, "disk", true, "81920 MiB free, 64 MiB are reserved");
    fixture_takeover(&s, 'b', 'a', 1043, "no heartbeat of b for 1.0 s");
    return s;
}

/* The same pair seen from b. */
static inline struct node_status fixture_standby(void)
{
    static struct config c;
    struct node_status s = fixture_status();
    c = *s.config;
    c.node = 'b';
    s.config = &c;
    s.pair.role = ROLE_STANDBY;
    s.pair.serving = false;
    s.pair.peer_role = ROLE_PRIMARY;
    s.own_lsn = 1230;
    s.pair.peer_lsn = 1234;
    s.refusing = true;
    return s;
}
#endif
