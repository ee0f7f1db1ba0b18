/* What goes wrong, drawn from the seed: how the run is set up, and a fault every now and then. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

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
    for (unsigned i = 0; i < F_KINDS; i++)
        p->weight[i] = rng_chance(r, 0.5) ? rng_unit(r) * rng_unit(r) + 0.02 : 0;
    p->weight[rng_below(r, F_FORCE)] += 0.3;
    double force = rng_chance(r, 0.1) ? 0.2 * rng_unit(r) : 0;
    p->weight[F_FORCE] = s->with_force ? force : 0;
    if (p->weight[F_FORCE] > 0) /* nobody forces an empty store into service */
        p->weight[F_EMPTY_STORE] = 0;
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
        p->rate[i] = rng_chance(r, 0.5) ? 1.0 : 0.9905 + 0.019 * rng_unit(r);
    }
    p->commit_min = rng_skewed(r, 100 * US, 3 * MS);
    p->commit_max = p->commit_min + rng_skewed(r, MS, 60 * MS);
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
    p->catch_up_bytes = rng_chance(r, 0.5) ? 1 << 20 : (size_t)rng_range(r, 300, 5000);
}

/* --- each kind --- */

static void crash_at_step(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    n->crash_after_steps = (unsigned)rng_range(&s->rng, 1, 12);
    n->crash_before = rng_chance(&s->rng, 0.5);
    n->crash_silent = rng_chance(&s->rng, 0.5);
}

static void restart_node(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a];
    if (n->up)
        return;
    node_start(s, n->self);
    if (!s->quiet && rng_chance(&s->rng, 0.2)) /* it isn't over yet */
        crash_at_step(s, n->self);
}

void faults_restart_later(struct sim *s, unsigned self)
{
    uint64_t after = rng_chance(&s->rng, 0.3) ? ms(s, 10, 500) : ms(s, 100, 9000);
    sim_at(s, s->now + after, NOBODY, restart_node)->a = self;
}

static void crash(struct sim *s, unsigned self)
{
    node_crash(s, self, rng_chance(&s->rng, 0.5), "at random");
    faults_restart_later(s, self);
}

static void end_cut(struct sim *s, struct task *t)
{
    unsigned from = (unsigned)t->a & 3, to = (unsigned)t->a >> 2, kind = (unsigned)t->b;
    if (s->now >= s->cut_until[from][to][kind])
        s->cut[from][to][kind] = false;
}

static void cut(struct sim *s, unsigned from, unsigned to, unsigned kind, uint64_t until)
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
        cut(s, from, to, UDP, until);
        break;
    case 1: /* both ways, all */
        for (unsigned k = 0; k < 2; k++) {
            cut(s, from, to, k, until);
            cut(s, to, from, k, until);
        }
        break;
    case 2: /* one direction, all */
        cut(s, from, to, UDP, until);
        cut(s, from, to, TCP, until);
        break;
    case 3: /* connections only, or datagrams only, between the nodes */
        from = (unsigned)rng_below(r, 2);
        cut(s, 0, 1, from, until);
        cut(s, 1, 0, from, until);
        break;
    default: /* one process from all others */
        for (unsigned i = 0; i < PROCESSES; i++)
            for (unsigned k = 0; k < 2 && i != from; k++) {
                cut(s, from, i, k, until);
                cut(s, i, from, k, until);
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

static void witness_back(struct sim *s, struct task *t)
{
    (void)t;
    if (!s->witness.up) {
        TRACE(s, "witness", "starts");
        witness_start(s);
    }
}

static bool all_vote(const struct sim *s)
{
    return s->node[0].disk.voter.voting && s->node[1].disk.voter.voting && s->witness.voter.voting;
}

static void empty_voter(struct sim *s)
{
    if (!all_vote(s)) /* two emptied at once need the operator (protocol 5) */
        return;
    unsigned v = (unsigned)rng_below(&s->rng, PROCESSES);
    TRACE(s, process_name(v), "its voter's file is lost");
    books_voter_emptied(s, v);
    s->count.emptied++;
    if (v == WITNESS) {
        witness_crash(s);
        s->witness.has_voter = false;
        s->witness.voter = (struct voter_state){.voter_id = 0};
        sim_at(s, s->now + ms(s, 10, 4000), NOBODY, witness_back);
        return;
    }
    node_crash(s, v, true, "with its voter's file");
    s->node[v].disk.has_voter = false;
    s->node[v].disk.voter = (struct voter_state){.voter_id = 0};
    faults_restart_later(s, v);
}

/* Only where another copy holds everything, and one at a time. */
static void empty_store(struct sim *s)
{
    unsigned self = (unsigned)rng_below(&s->rng, NODES);
    if (!books_spare(s, self))
        return;
    struct node *n = &s->node[self];
    bool voter = rng_chance(&s->rng, 0.5) && all_vote(s);
    node_crash(s, self, true, voter ? "with its disk" : "with its store");
    s->count.emptied++;
    struct store_id id;
    for (unsigned i = 0; i < sizeof id.b; i++)
        id.b[i] = (uint8_t)rng_u64(&s->rng);
    if (!n->disk.old && rng_chance(&s->rng, 0.5))
        n->disk.old = n->disk.store; /* it may come back */
    else
        store_memory_free(n->disk.store);
    n->disk.store = store_memory_new(&id);
    n->emptied_at = s->now;
    books_watch(s, n);
    if (voter) {
        books_voter_emptied(s, self);
        n->disk.has_voter = false;
        n->disk.voter = (struct voter_state){.voter_id = 0};
    }
    faults_restart_later(s, self);
}

/* The disk that was taken out is put in again, if nothing needs the one that is there. */
static bool old_disk_back(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    if (!n->disk.old || !books_spare(s, self))
        return false;
    node_crash(s, self, true, "and gets its old disk back");
    store_memory_free(n->disk.store);
    n->disk.store = n->disk.old;
    n->disk.old = NULL;
    n->emptied_at = s->now; /* outcomes settled meanwhile are not on it */
    s->books.check_all = true;
    faults_restart_later(s, self);
    return true;
}

static void operator_asks(struct sim *s, enum pair_event_type type)
{
    unsigned self = (unsigned)rng_below(&s->rng, NODES);
    struct node *n = &s->node[self];
    if (!n->up || n->paused)
        return;
    TRACE(s, process_name(self), "operator: %s",
          type == PE_OP_SWITCHOVER ? "switchover" : "failover");
    health_post(s, n, &(struct pair_event){.type = type, .op = ++s->serial});
}

static void operator_forces(struct sim *s)
{
    unsigned self = (unsigned)rng_below(&s->rng, NODES);
    struct node *n = &s->node[self];
    if (!n->up || n->paused)
        return;
    TRACE(s, process_name(self), "operator: failover --force");
    health_post(s, n,
                &(struct pair_event){.type = PE_OP_FAILOVER, .flag = true, .op = ++s->serial});
}

static void one_fault(struct sim *s, enum fault_kind kind)
{
    unsigned self = (unsigned)rng_below(&s->rng, NODES);
    s->count.faults++;
    switch (kind) {
    case F_CRASH:
        crash(s, self);
        break;
    case F_CRASH_STEP:
        crash_at_step(s, self);
        break;
    case F_PAUSE:
        process_pause(s, (unsigned)rng_below(&s->rng, PROCESSES), s->now + ms(s, 20, 6000));
        break;
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
    case F_DISK:
        s->node[self].slow_until = s->now + ms(s, 100, 6000);
        s->node[self].slow_max = ms(s, 20, 2500) + MS;
        TRACE(s, process_name(self), "its disk is slow");
        break;
    case F_WITNESS:
        if (s->witness.up) {
            TRACE(s, "witness", "is down");
            witness_crash(s);
            sim_at(s, s->now + ms(s, 50, 10000), NOBODY, witness_back);
        }
        break;
    case F_EMPTY_VOTER:
        empty_voter(s);
        break;
    case F_EMPTY_STORE:
        if (!rng_chance(&s->rng, 0.4) || !old_disk_back(s, self))
            empty_store(s);
        break;
    case F_SWITCHOVER:
        operator_asks(s, PE_OP_SWITCHOVER);
        break;
    case F_FAILOVER:
        operator_asks(s, PE_OP_FAILOVER);
        break;
    case F_FORCE:
        operator_forces(s);
        break;
    case F_KINDS:
        break;
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
    net_heal(s);
    s->plan.weather = s->weather;
    s->plan.client_impatient = s->plan.client_gives_up = 0;
    s->plan.transaction_max = 60 * MS;
    s->plan.defer = 0;
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->node[i];
        n->slow_until = 0;
        n->crash_after_steps = 0;
        if (!n->up)
            node_start(s, i);
    }
    if (!s->witness.up)
        witness_start(s);
}
