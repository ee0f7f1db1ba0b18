/* What goes wrong, drawn from the seed: how the run is set up, and a fault every now and then. */
#include <assert.h>

#include "sim/harm.h"

/* Their quotient is 1.02, the bound that the lease's arithmetic allows for (protocol 6). */
static const double RATE_SLOW = 0.99014754, RATE_FAST = 1.00995049;

static uint64_t ms(struct sim *s, uint64_t lo, uint64_t hi)
{
    return rng_skewed(&s->rng, lo * MS, hi * MS);
}

static void draw_weather(struct sim *s, struct weather *w)
{
    struct rng *r = &s->rng;
    *w = (struct weather){.delay_min = rng_skewed(r, 20 * US, 5 * MS)};
    w->delay_max = w->delay_min + rng_skewed(r, 100 * US, 80 * MS);
    if (rng_chance(r, 0.4))
        w->loss = rng_unit(r) * 0.3;
    if (rng_chance(r, 0.3))
        w->dup = rng_unit(r) * 0.3;
    if (rng_chance(r, 0.3))
        w->late = rng_unit(r) * 0.1;
}

static void draw_faults(struct sim *s)
{
    struct plan *p = &s->plan;
    struct rng *r = &s->rng;
    /* Some seeds know one kind of fault, most know several, each more or less often. */
    double known = rng_chance(r, 0.3) ? 0.1 : 0.5;
    for (unsigned i = 0; i < F_KINDS; i++)
        p->weight[i] = rng_chance(r, known) ? rng_unit(r) * rng_unit(r) + 0.02 : 0;
    p->weight[rng_below(r, F_FORCE)] += 0.3;
    double force = rng_chance(r, s->with_force ? 0.6 : 0.04) ? 0.02 + 0.4 * rng_unit(r) : 0;
    p->weight[F_FORCE] = force;
    if (p->weight[F_FORCE] >
        0) /* what a forced primary takes is on one store, till the other is back */
        p->weight[F_EMPTY_STORE] = p->weight[F_ROLLBACK] = p->weight[F_CLONE] = 0;
    if (force > 0 && s->harsh && rng_chance(r, 0.4)) /* until somebody does (rollback.c) */
        p->weight[F_ROLLBACK] = 0.1 + 0.3 * rng_unit(r);
    if (s->with_purge) /* a copy may take the good one of a body with it (promises.md) */
        p->weight[F_ROT] = 0;
    p->burst = rng_chance(r, 0.5) ? 0.6 * rng_unit(r) : 0;
    p->fault_every = rng_skewed(r, 150 * MS, 6 * SEC);
    draw_weather(s, &p->weather);
    s->weather = p->weather;
}

void plan_draw(struct sim *s)
{
    struct plan *p = &s->plan;
    struct rng *r = &s->rng;
    p->duration = rng_range(r, 5 * SEC, 40 * SEC);
    draw_faults(s);
    p->heartbeat = 100 * MS;
    p->takeover_after = SEC;
    p->standby_timeout = rng_chance(r, 0.7) ? SEC : rng_range(r, 300 * MS, 2 * SEC);
    /* A lease longer than the silence that means death, and settings that differ, as while a new
     * configuration is rolled out (incident 23). */
    uint64_t lease = rng_chance(r, 0.7) ? SEC : rng_range(r, 500 * MS, 3 * SEC);
    for (unsigned i = 0; i < NODES; i++) {
        p->lease[i] = rng_chance(r, 0.85) ? lease : rng_range(r, 500 * MS, 3 * SEC);
        p->rate[i] = rng_chance(r, 0.5) ? 1.0 : RATE_SLOW + (RATE_FAST - RATE_SLOW) * rng_unit(r);
    }
    if (rng_chance(r, 0.3)) { /* at the bound: one is 2 % faster than the other */
        unsigned fast = (unsigned)rng_below(r, NODES);
        p->rate[fast] = RATE_FAST;
        p->rate[1 - fast] = RATE_SLOW;
    }
    p->stall_timeout = rng_chance(r, 0.7) ? SEC : rng_range(r, 300 * MS, 2 * SEC);
    p->expire_ms = rng_range(r, 3600, 86400) * 1000;
    p->commit_min = rng_skewed(r, 100 * US, 3 * MS);
    p->commit_max = p->commit_min + rng_skewed(r, MS, 60 * MS);
    p->in_doubt_wait_ms = rng_range(r, 100, 8000);
    p->hold = rng_chance(r, 0.4) ? rng_unit(r) : 0;
    p->retention_ms = s->with_purge ? rng_range(r, 2000, 30000) : 7ull * 86400 * 1000;
    p->quarantine_ms = rng_range(r, 1000, 12000);
    p->messages = (unsigned)rng_skewed(r, 5, 160);
    p->clients = (unsigned)rng_range(r, 1, 6);
    p->connections = (unsigned)rng_range(r, 1, CONNECTIONS_MAX);
    p->reject = rng_chance(r, 0.5) ? 0.15 * rng_unit(r) : 0;
    p->defer = rng_chance(r, 0.5) ? 0.3 * rng_unit(r) : 0;
    p->reply_lost = rng_chance(r, 0.3) ? 0.1 * rng_unit(r) : 0;
    p->client_impatient = rng_chance(r, 0.4) ? 0.3 * rng_unit(r) : 0;
    p->client_gives_up = rng_chance(r, 0.3) ? 0.5 * rng_unit(r) : 0;
    p->transaction_max = rng_chance(r, 0.6) ? 60 * MS : rng_range(r, 60 * MS, 4 * SEC);
    p->chunked = rng_chance(r, 0.4) ? 0.5 * rng_unit(r) : 0;
    p->mail_delay_max = rng_chance(r, 0.7) ? MS : rng_range(r, MS, 60 * MS);
    p->think_max = p->duration * p->clients / (p->messages ? p->messages : 1) * 3;
    p->ring_bytes = rng_chance(r, 0.7) ? 64 << 20 : (size_t)rng_range(r, 2000, 40000);
    p->window_bytes = rng_chance(r, 0.5) ? 0 : (size_t)rng_range(r, 1000, 60000);
    p->catch_up_bytes = rng_chance(r, 0.5) ? 1 << 20 : (size_t)rng_range(r, 300, 5000);
}

/* --- the network --- */

static void end_cut(struct sim *s, struct task *t)
{
    unsigned from = (unsigned)t->a & 3, to = (unsigned)t->a >> 2, kind = (unsigned)t->b;
    if (s->now >= s->cut_until[from][to][kind])
        s->cut[from][to][kind] = false;
}

void faults_cut(struct sim *s, unsigned from, unsigned to, enum traffic kind, uint64_t until)
{
    s->cut[from][to][kind] = true;
    if (until > s->cut_until[from][to][kind])
        s->cut_until[from][to][kind] = until;
    struct task *t = sim_at(s, until, NOBODY, end_cut);
    t->a = from | to << 2;
    t->b = kind;
}

static void cut_something(struct sim *s)
{
    struct rng *r = &s->rng;
    uint64_t until = s->now + ms(s, 50, 8000);
    unsigned from = (unsigned)rng_below(r, 3), to = (from + 1 + (unsigned)rng_below(r, 2)) % 3;
    unsigned how = (unsigned)rng_below(r, 5);
    TRACE(s, "world", "cut %s-%s, way %u, for %.3f s", process_name(from), process_name(to), how,
          (double)(until - s->now) / 1e9);
    switch (how) {
    case 0: /* one direction of datagrams */
        faults_cut(s, from, to, UDP, until);
        break;
    case 1: /* both ways, all */
        for (unsigned k = 0; k < 2; k++) {
            faults_cut(s, from, to, k, until);
            faults_cut(s, to, from, k, until);
        }
        break;
    case 2: /* one direction, all */
        faults_cut(s, from, to, UDP, until);
        faults_cut(s, from, to, TCP, until);
        break;
    case 3: /* connections only, or datagrams only, between the nodes */
        from = (unsigned)rng_below(r, 2);
        faults_cut(s, 0, 1, from, until);
        faults_cut(s, 1, 0, from, until);
        break;
    default: /* one process from all others */
        for (unsigned i = 0; i < PROCESSES; i++)
            for (unsigned k = 0; k < 2 && i != from; k++) {
                faults_cut(s, from, i, k, until);
                faults_cut(s, i, from, k, until);
            }
    }
}

static void end_weather(struct sim *s, struct task *t)
{
    (void)t;
    s->weather = s->plan.weather;
}

static void end_mute(struct sim *s, struct task *t)
{
    (void)t;
    net_mute_links(s, false);
}

/* What lies between the processes. False: another kind. */
static bool network_fault(struct sim *s, enum fault_kind kind)
{
    switch (kind) {
    case F_CUT:
        cut_something(s);
        break;
    case F_WEATHER:
        draw_weather(s, &s->weather);
        sim_at(s, s->now + ms(s, 200, 8000), NOBODY, end_weather);
        break;
    case F_BREAK:
        TRACE(s, "world", "the replication link breaks");
        net_break_links(s);
        break;
    case F_MUTE:
        TRACE(s, "world", "the replication link carries nothing");
        net_mute_links(s, true);
        sim_at(s, s->now + ms(s, 100, 8000), NOBODY, end_mute);
        break;
    case F_LATE_WITNESS:
        s->witness.late_until = s->now + ms(s, 500, 10000);
        TRACE(s, "witness", "answers seconds late");
        break;
    default:
        return false;
    }
    return true;
}

static void one_fault(struct sim *s, enum fault_kind kind)
{
    unsigned self = (unsigned)rng_below(&s->rng, NODES);
    s->count.faults++;
    s->count.injected[kind]++;
    if (network_fault(s, kind))
        return;
    switch (kind) {
    case F_CRASH:
        harm_crash(s, self);
        break;
    case F_CRASH_STEP:
        if (rng_chance(&s->rng, 0.25))
            harm_witness_crash_at_step(s);
        else
            harm_crash_at_step(s, self);
        break;
    case F_PAUSE:
        process_pause(s, (unsigned)rng_below(&s->rng, PROCESSES), s->now + ms(s, 20, 6000));
        break;
    case F_DISK:
    case F_WRITE:
    case F_FSYNC:
    case F_FULL:
    case F_STALL:
        harm_disk(s, self, kind);
        break;
    case F_THREAD:
        harm_thread(s, self);
        break;
    case F_SLOW_PEER:
        harm_slow_peer(s, self);
        break;
    case F_CLOCK:
        harm_clock(s, self);
        break;
    case F_WITNESS:
        harm_witness_down(s);
        break;
    case F_EMPTY_VOTER:
        harm_empty_voter(s);
        break;
    case F_EMPTY_STORE:
        harm_empty_store(s, self);
        break;
    case F_SWITCHOVER:
    case F_FAILOVER:
    case F_FORCE:
        harm_order(s, self, kind);
        break;
    case F_STOP:
        harm_stop(s, self);
        break;
    case F_OPERATOR:
        harm_operator(s);
        break;
    case F_ROT:
        rot_one(s, &s->node[self]);
        break;
    case F_QUEUE:
        orders_draw(s);
        break;
    case F_WITNESS_BACKUP:
        harm_witness_backup(s);
        break;
    case F_ROLLBACK:
    case F_CLONE:
        harm_rollback(s, self, kind);
        break;
    default:
        assert(0);
    }
}

static void next_fault(struct sim *s, struct task *t)
{
    (void)t;
    if (s->quiet)
        return;
    double sum = 0, at;
    for (unsigned i = 0; i < F_KINDS; i++)
        sum += s->plan.weight[i];
    at = rng_unit(&s->rng) * sum;
    for (unsigned i = 0; i < F_KINDS; i++) {
        at -= s->plan.weight[i];
        if (at <= 0 && s->plan.weight[i] > 0) {
            one_fault(s, (enum fault_kind)i);
            break;
        }
    }
    uint64_t gap = rng_chance(&s->rng, s->plan.burst)
                       ? rng_skewed(&s->rng, 0, 400 * MS)
                       : rng_skewed(&s->rng, 5 * MS, s->plan.fault_every * 2);
    sim_at(s, s->now + gap, NOBODY, next_fault);
}

void faults_start(struct sim *s)
{
    sim_at(s, s->now + rng_range(&s->rng, SEC, 4 * SEC), NOBODY, next_fault);
}

/* Everything is well from now on; who is frozen wakes in time. */
void faults_end(struct sim *s)
{
    TRACE(s, "world", "faults end");
    s->quiet = true;
    s->still_at = s->now;
    net_heal(s);
    s->plan.weather = s->weather;
    s->plan.client_impatient = s->plan.client_gives_up = 0;
    s->plan.transaction_max = 60 * MS;
    s->plan.defer = 0;
    s->witness.late_until = 0;
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->node[i];
        n->slow_until = n->stall_until = n->low_until = n->full_until = n->late_until = 0;
        n->disk_fault = DISK_OK;
        n->voter_fault = false;
        n->crash_after_steps = 0;
        s->witness.crash_after_steps = 0;
        n->wall_offset_ms = (int64_t)rng_below(&s->rng, 2000) - 1000;
        if (!n->up && s->plan.out != i)
            node_start(s, i);
    }
    if (!s->witness.up && s->plan.out != WITNESS)
        witness_start(s);
    operator_ends(s);
}
