/* A node as a process: its clocks, its threads' mailboxes, start, crash and pause. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

enum { WALL_BASE_MS_HIGH = 1790000000 }; /* seconds since 1970 at the start of a run */

const char *process_name(unsigned process)
{
    static const char *const names[] = {"a", "b", "witness", "world"};
    return names[process];
}

/* CLOCK_BOOTTIME of that machine: its own rate, from its own start. */
uint64_t node_now(const struct sim *s, const struct node *n)
{
    return n->clock_base + (uint64_t)((double)(s->now - n->clock_from) * n->rate);
}

int64_t node_wall(const struct sim *s, const struct node *n)
{
    return (int64_t)WALL_BASE_MS_HIGH * 1000 + n->wall_offset_ms + (int64_t)(s->now / MS);
}

struct task *node_mail(struct sim *s, struct node *n, enum channel c, task_fn fn)
{
    static const enum thread reader[CHANNELS] = {[STORAGE_TO_REPLICATION] = T_REPLICATION,
                                                 [READER_TO_REPLICATION] = T_REPLICATION,
                                                 [HEALTH_TO_REPLICATION] = T_REPLICATION,
                                                 [TO_RELAY] = T_RELAY};
    uint64_t at = s->now + rng_skewed(&s->rng, 5 * US, s->plan.mail_delay_max);
    if (s->now < n->late_until) {
        at += rng_below(&s->rng, n->late_max);
        s->count.effect[F_SLOW_PEER]++;
    }
    if (at <= n->last[c])
        at = n->last[c] + 1;
    n->last[c] = at;
    return sim_at_thread(s, at, n->self, reader[c], fn);
}

void node_start(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    assert(!n->up);
    n->up = true;
    n->started_at = s->now;
    memset(n->last, 0, sizeof n->last);
    const struct store_meta *m = store_memory_meta(n->disk.store);
    TRACE(s, process_name(self), "starts with store %02x%02x, end %u:%llu%s", m->id.b[0],
          m->id.b[1], m->end.epoch, (unsigned long long)m->end.lsn,
          m->copying ? ", a copy in progress" : "");
    n->crash_after_steps = 0;
    n->stalled = n->stopping = n->heard_peer = false;
    n->disk_fault = DISK_OK;
    n->voter_fault = false;
    memset(n->thread_until, 0, sizeof n->thread_until);
    n->serving_ns = 0;
    rules_process_starts(n);
    relay_start(s, n);
    health_start(s, n);
    replication_start(s, n);
    storage_start(s, n);
    net_process_back(s, self);
    s->books.check_all = true;
}

void node_crash(struct sim *s, unsigned self, bool silent, const char *why)
{
    struct node *n = &s->node[self];
    if (!n->up) {
        TRACE(s, process_name(self), "(is down) %s", why);
        return;
    }
    TRACE(s, process_name(self), "%s %s", silent ? "loses power" : "is killed", why);
    s->count.crashes++;
    n->up = n->paused = false;
    n->life++;
    n->crashed_at = s->now;
    n->crash_after_steps = 0;
    relay_stop(s, n);
    storage_stop(s, n);
    replication_stop(n);
    health_stop(n);
    net_process_died(s, self, silent);
    if (silent) { /* the machine boots anew, and its clock with it */
        n->clock_base = rng_range(&s->rng, SEC, 100 * SEC);
        n->clock_from = s->now;
    }
    s->books.check_all = true;
}

void process_pause(struct sim *s, unsigned process, uint64_t until)
{
    bool *paused = process == WITNESS ? &s->witness.paused : &s->node[process].paused;
    uint64_t *at = process == WITNESS ? &s->witness.pause_until : &s->node[process].pause_until;
    bool up = process == WITNESS ? s->witness.up : s->node[process].up;
    if (!up || (*paused && *at > s->now))
        return;
    TRACE(s, process_name(process), "is frozen for %.3f s", (double)(until - s->now) / 1e9);
    *paused = true;
    *at = until;
    if (process != WITNESS)
        s->node[process].frozen_for = (uint64_t)((double)(until - s->now) * s->node[process].rate);
}

bool node_dies_here(struct sim *s, struct node *n, bool *done)
{
    if (!n->crash_after_steps || --n->crash_after_steps)
        return false;
    *done = !n->crash_before;
    s->count.effect[F_CRASH_STEP]++;
    return true;
}
