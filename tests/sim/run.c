/* One run: a pair that starts as new, a time with faults, then a time without, in which all must
 * come to rest (protocol 11, invariants 7 and 9). */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

enum {
    PURGING = 8,         /* of so many seeds one keeps tombstones for seconds only */
    REST_S = 75,         /* bound of the time without faults, beside the quarantine: retries,
                            take-overs, a take-back that was put off, full copies */
    SERVE_S = 15,        /* by then some node serves (invariant 9) */
    STOP_S = 30,         /* longer, where a node was being stopped: it finishes that, and starts */
    ORDER_S = 30,        /* longer, where it takes an operator's order: an earlier one that can't be
                            carried out is given up after 20 s first */
    EVENTS_MAX = 6000000 /* a run with more goes round in circles */
};

static void set_up(struct sim *s)
{
    s->books.chosen = -1;
    s->books.server = NOBODY;
    s->plan.out = NOBODY;
    for (unsigned i = 0; i < PROCESSES; i++)
        s->box[i] = (struct task){.a = i, .p = s};
    plan_draw(s);
    none_draw(s);
    etcd_draw(s);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->node[i];
        struct store_id id;
        for (unsigned k = 0; k < sizeof id.b; k++)
            id.b[k] = (uint8_t)rng_u64(&s->rng);
        n->self = i;
        n->rate = s->plan.rate[i];
        n->clock_base = rng_range(&s->rng, SEC, 1000 * SEC);
        n->wall_offset_ms = (int64_t)rng_below(&s->rng, 2000) - 1000;
        n->disk.store = store_memory_new(&id);
        books_watch(s, n);
    }
    if (s->none)
        s->witness.up = true; /* only the machine that probes ask */
    else
        witness_start(s);
    node_start(s, NODE_A);
    node_start(s, NODE_B);
    clients_start(s);
    faults_start(s);
}

static void tear_down(struct sim *s)
{
    for (unsigned i = 0; i < NODES; i++) {
        node_crash(s, i, true, "at the end of the run");
        store_memory_free(s->node[i].disk.store);
        store_memory_free(s->node[i].disk.old);
        store_memory_free(s->node[i].disk.snapshot);
        store_memory_free(s->node[i].disk.gone);
    }
    witness_crash(s);
    net_free(s);
    sim_loop_free(s);
    books_free(s);
    free(s->message);
}

static void run_until(struct sim *s, uint64_t until)
{
    while (!s->failed && s->n_heap && s->heap[0]->at <= until) {
        sim_run_one(s);
        if (s->count.events > EVENTS_MAX)
            sim_fail(s, "9", "too many events: something goes round in circles");
    }
    if (s->now < until && !s->failed)
        s->now = until;
}

/* Who may stay down when the faults end (protocol 2.4): the other two hold their votes, and one of
 * them is a node whose store is in in_sync, whatever becomes of changes under way. */
static unsigned draw_out(struct sim *s)
{
    unsigned out = (unsigned)rng_below(&s->rng, PROCESSES + 1);
    const bool votes[PROCESSES] = {s->node[0].disk.voter.voting, s->node[1].disk.voter.voting,
                                   s->witness.voter.voting};
    if (out == NOBODY || s->books.forced)
        return NOBODY;
    for (unsigned i = 0; i < s->books.n_accepts; i++)
        if (s->books.accepts[i].record.forced) /* nobody knows yet, and it may come to count */
            return NOBODY;
    const struct record *p;
    for (unsigned i = 0; (p = etcd_pending(s, i)); i++)
        if (p->forced)
            return NOBODY;
    if (s->etcd) /* which has to be one of the two */
        return out != WITNESS && etcd_spare(s) && books_spare(s, out) ? out : NOBODY;
    for (unsigned i = 0; i < PROCESSES; i++)
        if (i != out && !votes[i])
            return NOBODY;
    return out == WITNESS || books_spare(s, out) ? out : NOBODY;
}

static void leave_down(struct sim *s, unsigned out)
{
    if (out < NODES)
        node_crash(s, out, rng_chance(&s->rng, 0.5), "and stays down");
    else if (out == WITNESS && s->witness.up)
        witness_crash(s);
    if (out != NOBODY)
        TRACE(s, "world", "the other two have to do without %s", process_name(out));
    s->plan.out = out;
    s->count.rest[out]++;
}

static void come_back(struct sim *s)
{
    unsigned out = s->plan.out;
    s->plan.out = NOBODY;
    if (out < NODES)
        node_start(s, out);
    else
        witness_start(s);
    TRACE(s, "world", "all three are up");
}

/* Until somebody serves, everything there is is delivered, and both copies are equal. */
static void settle(struct sim *s)
{
    char why[400] = "";
    bool stopping = s->node[0].stopping || s->node[1].stopping;
    uint64_t began = s->now, bound = began + REST_S * SEC + s->plan.quarantine_ms * MS;
    if (s->with_purge) /* one store may still hold up what is purged from the other */
        bound += PURGE_HOLD_MS * MS;
    while (!s->failed && s->now < bound) {
        run_until(s, s->now + 100 * MS);
        if (s->failed || books_settled_down(s, why, sizeof why))
            return;
        uint64_t serve_s = SERVE_S + (operator_needed(s) ? ORDER_S : 0) + (stopping ? STOP_S : 0);
        if (s->now > began + serve_s * SEC && strncmp(why, "9: nobody", 9) == 0)
            break;
    }
    if (!s->failed && !books_settled_down(s, why, sizeof why))
        sim_fail(s, "of rest", "%.1f s after the faults ended%s%s: %s",
                 (double)(s->now - began) / 1e9, s->plan.out == NOBODY ? "" : ", without ",
                 s->plan.out == NOBODY ? "" : process_name(s->plan.out), why);
}

/* The liveness phase (invariants 7 and 9): two of the three first, then all. */
static void come_to_rest(struct sim *s)
{
    leave_down(s, draw_out(s));
    faults_end(s);
    if (s->plan.out != NOBODY) {
        settle(s);
        if (!s->failed)
            come_back(s);
    }
    if (!s->failed)
        settle(s);
    if (!s->failed)
        books_end(s);
}

bool sim_run(uint64_t seed, const struct sim_options *o, FILE *trace, struct counters *count,
             char *verdict, size_t n)
{
    struct sim *s = xcalloc(1, sizeof *s);
    s->seed = seed;
    s->rng.s = rng_mix(seed + 1);
    s->trace = trace;
    s->with_force = o->with_force;
    s->none = o->none;
    s->harsh = o->harsh;
    s->with_purge = o->with_purge || seed % PURGING == 0;
    s->etcd = o->etcd;
    set_up(s);
    run_until(s, s->plan.duration);
    if (!s->failed)
        come_to_rest(s);
    bool ok = !s->failed;
    if (verdict)
        snprintf(verdict, n, "%s", s->verdict);
    s->count.virtual_ns = s->now;
    *count = s->count;
    s->trace = NULL;
    s->failed = true;
    tear_down(s);
    free(s);
    return ok;
}
