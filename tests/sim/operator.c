/* Operator state (protocol 3): campaigns are paused and resumed, automatic takeover is turned off
 * and on again, over whoever serves. What was answered is in the books: a paused campaign stays
 * paused, whatever node serves, until somebody says otherwise (incident 22). */
#include <stdlib.h>

#include "sim/harm.h"

static const char *const keys[OPERATOR_KEYS] = {"pause/campaign/c0", "pause/campaign/c1",
                                                "pause/campaign/c2", "takeover"};
enum { KEY_TAKEOVER = 3 };

/* As the store has it: does it restrict? */
static bool restricted(const struct store *st, unsigned key)
{
    const struct row_opstate *x = store_memory_opstate(st, slice_str(keys[key]));
    return x && (key == KEY_TAKEOVER ? slice_istarts(x->value, SLICE_LIT("off")) : x->value.n > 0);
}

unsigned operator_restricts(const struct node *n)
{
    unsigned bits = 0;
    for (unsigned k = 0; k < OPERATOR_KEYS; k++)
        bits |= (unsigned)restricted(n->disk.store, k) << k;
    return bits;
}

bool operator_paused(const struct node *n, unsigned message)
{
    return restricted(n->disk.store, message % KEY_TAKEOVER);
}

static void submit(struct sim *s, struct node *n, unsigned key, bool restrict_it)
{
    struct operator_word *w = &s->books.word[key];
    struct op *op = xcalloc(1, sizeof *op);
    op->kind = OP_STATE;
    op->epoch = n->relay.epoch;
    op->rcpt = key;
    op->copy_id = ++w->said;
    w->restricts = restrict_it;
    w->answered = false;
    const char *value = key == KEY_TAKEOVER ? (restrict_it ? "off" : "on") : restrict_it ? "1" : "";
    op->row[op->n_rows++] = (struct row){
        .type = ROW_OPSTATE, .opstate = {.key = slice_str(keys[key]), .value = slice_str(value)}};
    TRACE(s, process_name(n->self), "operator: %s = \"%s\"", keys[key], value);
    storage_submit(s, n, op);
}

void harm_operator(struct sim *s)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->node[i];
        if (!n->up || (n->paused && n->pause_until > s->now) || !n->relay.epoch || !n->gate)
            continue;
        submit(s, n, (unsigned)rng_below(&s->rng, OPERATOR_KEYS), rng_chance(&s->rng, 0.6));
        return;
    }
}

/* Its change is committed: the operator has the answer. */
void operator_answered(struct sim *s, struct node *n, const struct op *op)
{
    struct operator_word *w = &s->books.word[op->rcpt];
    if (op->copy_id != w->said)
        return; /* somebody has said something else since */
    w->answered = true;
    s->count.effect[F_OPERATOR]++;
    TRACE(s, process_name(n->self), "operator: answered, %s", keys[op->rcpt]);
}

/* What the newest word, if it restricts and was answered, says of that store. */
void operator_check(struct sim *s, const bool required[NODES])
{
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned k = 0; required[i] && k < OPERATOR_KEYS; k++) {
            const struct operator_word *w = &s->books.word[k];
            if (w->restricts && w->answered && !restricted(s->node[i].disk.store, k))
                sim_fail(s, "1 (operator state)", "%s, as answered, is not on the store of %s",
                         keys[k], process_name(i));
        }
}

bool operator_holds(const struct sim *s, unsigned node)
{
    for (unsigned k = 0; k < OPERATOR_KEYS; k++) {
        const struct operator_word *w = &s->books.word[k];
        if (w->restricts && w->answered && !restricted(s->node[node].disk.store, k))
            return false;
    }
    return true;
}

void operator_starts(struct sim *s, struct node *n, unsigned message)
{
    const struct operator_word *w = &s->books.word[message % KEY_TAKEOVER];
    /* Without an arbiter both went on alone: the word waits on the other store for the merge. */
    bool elsewhere = s->books.split && operator_paused(&s->node[1 - n->self], message);
    if (w->restricts && w->answered && !operator_paused(n, message) && !elsewhere &&
        !s->books.forced && !s->node[0].disk.lost_at && !s->node[1].disk.lost_at)
        sim_fail(s, "1 (incident 22)", "node %s delivers message %u of a paused campaign",
                 process_name(n->self), message);
}

/* The hook of storage: what the store says of automatic takeover is told to health. */
void operator_tell(struct sim *s, struct node *n)
{
    bool on = !restricted(n->disk.store, KEY_TAKEOVER);
    if (on == n->auto_told)
        return;
    n->auto_told = on;
    storage_tells_takeover(s, n, on);
}

/* batonctl rejoin: a store that was away for longer than the retention waits for a word. Thrown
 * away is only what the other copy holds, too. */
void operator_rejoin(struct sim *s, struct node *n)
{
    struct replica_view v;
    if (s->now < n->asked_at)
        return;
    n->asked_at = s->now + rng_range(&s->rng, 300 * MS, 2 * SEC);
    replica_view(n->replica, node_now(s, n), &v);
    if (!v.rejoin_waits)
        return;
    bool discard = rng_chance(&s->rng, 0.5) && books_spare(s, n->self) && !n->disk.lost;
    TRACE(s, process_name(n->self), "operator: rejoin --%s", discard ? "discard" : "merge");
    s->count.rejoined++;
    s->books.rejoined = true;
    rot_apart(s, n);
    replication_step(
        s, n, &(struct replica_event){.type = RE_REJOIN, .flag = discard, .link = ++s->serial});
}

/* An etcd from a backup was given back the newest record that anybody still knows, and the stores
 * that this one names are gone: no node in in_sync is up, so invariant 9 waits for an operator
 * (deploy/docs/promises.md). */
static void force_where_nobody_may(struct sim *s)
{
    const struct record *r = books_record(s);
    if (!r || !s->books.put_back)
        return;
    for (unsigned i = 0; i < NODES; i++)
        if (record_names(r, i, &store_memory_meta(s->node[i].disk.store)->id))
            return;
    s->count.rest_forced += !s->quiet_forced;
    s->quiet_forced = true;
    harm_order(s, 1 - r->primary, F_FORCE);
}

/* Without an arbiter an order forks the history of a node that stands still, or was cut off, and
 * goes on: this operator looks for a while before. */
static bool looks(struct sim *s)
{
    if (!s->none)
        return false;
    for (unsigned i = 0; i < NODES; i++)
        if (s->node[i].up && s->node[i].paused && s->node[i].pause_until > s->now)
            s->still_at = s->now;
    return s->now < s->still_at + 3 * SEC;
}

/* When the faults have ended: all goes on, and where nobody takes over by itself, by order. */
static void end_it(struct sim *s, struct task *t)
{
    (void)t;
    bool served = false;
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->node[i];
        bool serves = n->up && n->relay.epoch && n->gate;
        served |= serves;
        if (serves)
            orders_end(s, n), rot_end(s, n);
        for (unsigned k = 0; serves && k < OPERATOR_KEYS; k++)
            if (restricted(n->disk.store, k))
                submit(s, n, k, false);
    }
    bool waits = looks(s);
    for (unsigned i = 0; !served && !waits && i < NODES; i++)
        if (s->node[i].up && restricted(s->node[i].disk.store, KEY_TAKEOVER))
            harm_order(s, i, F_FAILOVER);
    if (!served)
        force_where_nobody_may(s);
    sim_at(s, s->now + 700 * MS, NOBODY, end_it);
}

bool operator_needed(const struct sim *s)
{
    return restricted(s->node[0].disk.store, KEY_TAKEOVER) ||
           restricted(s->node[1].disk.store, KEY_TAKEOVER);
}

void operator_ends(struct sim *s)
{
    sim_at(s, s->now, NOBODY, end_it);
}
