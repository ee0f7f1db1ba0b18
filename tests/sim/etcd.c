/* Runs with etcd, a share of the seeds: the real core (health/register_etcd.h) and a model of etcd
 * in the witness's place: one linearizable key with revisions, reached through a few endpoints of
 * which some may be dead, that answers seconds late, loses requests before or after they take
 * effect, is down, emptied, or restored from a backup.
 *
 * What is left out: an etcd that loses what a node can't see lost (its row of what was seen is
 * gone, too, or older than the backup), and one that loses it again before both nodes have seen it
 * there again. Two losses at once need an operator. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

enum { ETCD_PERCENT = 15, FRESH_REVISIONS = 20 };

static const char *const endpoint_names[ETCD_MODEL_ENDPOINTS] = {"one", "two", "three"};

/* By the seed itself, so that the draws of all other seeds stay what they are. */
void etcd_draw(struct sim *s)
{
    uint64_t x = rng_mix(s->seed * 2 + 0x65746364) % 100;
    if (s->none || s->with_force || (!s->etcd && x >= ETCD_PERCENT))
        return;
    s->etcd = true;
    s->count.etcd_runs++;
    struct etcd_model *m = &s->etcd_model;
    m->n_endpoints = (unsigned)rng_range(&s->rng, 1, ETCD_MODEL_ENDPOINTS);
    m->dead = m->n_endpoints > 1 && rng_chance(&s->rng, 0.4)
                  ? 1u << rng_below(&s->rng, m->n_endpoints)
                  : 0;
    m->black_hole = rng_chance(&s->rng, 0.5);
    m->clock = rng_range(&s->rng, 1, 5);
    if (rng_chance(&s->rng, 0.5))
        s->plan.weight[F_EMPTY_VOTER] += 0.3;
    if (s->plan.weight[F_FORCE] > 0)
        s->plan.weight[F_EMPTY_VOTER] = 0;
}

/* --- the key --- */

static struct ballot place(const struct etcd_key *k)
{
    return (struct ballot){.counter = k->value.lineage, .voter = k->revision};
}

static void loses_again(struct sim *s, struct task *t)
{
    (void)t;
    if (!s->quiet && s->witness.up)
        etcd_loses(s);
}

static void put(struct sim *s, struct etcd_model *m, const struct call *c)
{
    bool lost = m->lost, known = etcd_value_decode(slice_of(c->value, c->n_value), &m->key.value);
    assert(known);
    (void)known;
    m->key.revision = ++m->clock;
    m->n_sent = 0;
    memcpy(m->key.bytes, c->value, c->n_value);
    m->key.n = c->n_value;
    m->lost = false;
    s->count.etcd_put_back += lost;
    if (lost && rng_chance(&s->rng, 0.3)) /* and soon once more */
        sim_at(s, s->now + rng_skewed(&s->rng, 10 * MS, 3 * SEC), NOBODY, loses_again);
    books_etcd(s, place(&m->key), &m->key.value.record);
    if (rng_chance(&s->rng, 0.2))
        m->backup = m->key;
}

static void serve(struct sim *s, struct etcd_model *m, struct call *c)
{
    bool same = c->expect_any ||
                (c->expect_revision == m->key.revision &&
                 (!m->key.revision ||
                  (c->n_expect == m->key.n && memcmp(c->expect, m->key.bytes, m->key.n) == 0)));
    c->put = c->request == ETCD_PUT && same;
    if (c->put)
        put(s, m, c);
    c->found = m->key;
}

/* --- the way there and back --- */

static void drop_call(struct task *t)
{
    free(t->p);
}

static struct task *carry(struct sim *s, uint64_t at, unsigned process, task_fn fn, struct call *c)
{
    struct task *t = sim_at(s, at, process, fn);
    t->p = c;
    t->drop = drop_call;
    return t;
}

static uint64_t one_way(struct sim *s)
{
    uint64_t d = rng_range(&s->rng, s->weather.delay_min, s->weather.delay_max);
    if (rng_chance(&s->rng, s->weather.loss)) /* TCP sends it again */
        d += rng_range(&s->rng, 200 * MS, 900 * MS);
    return d;
}

static void answer_arrives(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    struct call *c = t->p;
    struct etcd_answer a = {.what = c->what, .error = "an error"};
    if (c->what == ETCD_ANSWERED) {
        a.put = c->put;
        a.revision = c->found.revision;
        a.value = slice_of(c->found.bytes, c->found.n);
    }
    register_etcd_answer(n->register_etcd, c->id, &a, node_now(s, n));
    free(c);
}

static void answer(struct sim *s, struct call *c, int what)
{
    c->what = what;
    if (c->life != s->node[c->from].life || s->cut[WITNESS][c->from][TCP]) {
        free(c);
        return;
    }
    carry(s, s->now + one_way(s), c->from, answer_arrives, c);
}

static void request_takes_effect(struct sim *s, struct task *t)
{
    struct call *c = t->p;
    serve(s, &s->etcd_model, c);
    if (rng_chance(&s->rng, s->weather.loss * 0.3)) { /* after its effect */
        if (rng_chance(&s->rng, 0.5))
            answer(s, c, ETCD_LOST);
        else
            free(c);
        return;
    }
    answer(s, c, ETCD_ANSWERED);
}

static void request_arrives(struct sim *s, struct task *t)
{
    struct call *c = t->p;
    uint64_t takes = rng_skewed(&s->rng, 200 * US, 20 * MS);
    if (s->now < s->witness.late_until) {
        takes = rng_range(&s->rng, 100 * MS, 5 * SEC);
        s->count.effect[F_LATE_WITNESS]++;
    }
    if (rng_chance(&s->rng, s->weather.loss * 0.3)) /* before its effect: no leader, say */
        answer(s, c, ETCD_LOST);
    else
        carry(s, s->now + takes, WITNESS, request_takes_effect, c);
}

static void note_sent(struct etcd_model *m, const struct call *c)
{
    struct etcd_value v;
    if (c->request != ETCD_PUT || c->expect_revision != m->key.revision ||
        m->n_sent == ETCD_MODEL_SENT || !etcd_value_decode(slice_of(c->value, c->n_value), &v))
        return;
    m->sent[m->n_sent++] = v.record;
}

const struct record *etcd_pending(const struct sim *s, unsigned i)
{
    return i < s->etcd_model.n_sent ? &s->etcd_model.sent[i] : NULL;
}

static size_t keep(uint8_t to[ETCD_VALUE_BYTES_MAX], struct slice from)
{
    assert(from.n <= ETCD_VALUE_BYTES_MAX);
    if (from.n)
        memcpy(to, from.p, from.n);
    return from.n;
}

static void send(struct sim *s, struct node *n, const struct register_etcd_fx *fx)
{
    struct etcd_model *m = &s->etcd_model;
    struct call *c = xcalloc(1, sizeof *c);
    c->id = fx->id;
    c->from = n->self;
    c->life = n->life;
    c->request = fx->request;
    c->expect_revision = fx->expect_revision;
    c->expect_any = fx->expect_any;
    c->n_expect = keep(c->expect, fx->expect);
    c->n_value = keep(c->value, fx->value);
    bool dead = m->dead & 1u << fx->endpoint, black = m->black_hole;
    if (s->cut[n->self][WITNESS][TCP] || (dead && black)) {
        s->count.effect[F_CUT] += !dead;
        free(c);
    } else if (dead || !s->witness.up) {
        answer(s, c, ETCD_NOT_SENT);
    } else {
        note_sent(m, c);
        carry(s, s->now + one_way(s), WITNESS, request_arrives, c);
    }
}

/* --- a node's side --- */

static void on_etcd(void *ctx, const struct register_etcd_fx *fx)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    if (fx->type == ETCD_FX_REQUEST)
        send(s, n, fx);
    else if (fx->type == ETCD_FX_PERSIST)
        health_persist(s, n, &fx->state);
}

void etcd_start(struct sim *s, struct node *n, const struct arbiter_events *events)
{
    struct register_etcd_config c = {.self = n->self,
                                     .endpoint = endpoint_names,
                                     .n_endpoints = s->etcd_model.n_endpoints,
                                     .seen = n->disk.voter,
                                     .random = rng_u64(&s->rng)};
    n->register_etcd = register_etcd_new(&c, events, on_etcd, &s->box[n->self]);
    n->arbiter = register_etcd_arbiter(n->register_etcd);
}

void etcd_persisted(struct sim *s, struct node *n, bool ok)
{
    register_etcd_persisted(n->register_etcd, ok, node_now(s, n));
}

void etcd_stop(struct node *n)
{
    if (n->register_etcd)
        register_etcd_free(n->register_etcd);
    n->register_etcd = NULL;
}

/* --- what it loses --- */

/* Each node, should it come up now, would see that this isn't what it saw; and has seen that what
 * was lost before is there again. */
static bool seen_as_lost(const struct sim *s, const struct etcd_key *k)
{
    for (unsigned i = 0; i < NODES; i++) {
        const struct voter_state *seen = &s->node[i].disk.voter;
        if (!seen->record.version || seen->accepted.counter != s->etcd_model.key.value.lineage ||
            (k->revision && ballot_cmp(place(k), seen->accepted) >= 0))
            return false;
    }
    return true;
}

/* Nobody has seen more than it holds, nor less than is needed to see a loss. */
bool etcd_spare(const struct sim *s)
{
    return !s->etcd_model.lost;
}

/* In the place of an emptied voter: the key is gone, or as it was at some time. Every request under
 * way ends with the process that it was sent to. */
void etcd_loses(struct sim *s)
{
    struct etcd_model *m = &s->etcd_model;
    static const struct etcd_key nothing;
    const struct etcd_key *k =
        m->backup.revision && rng_chance(&s->rng, 0.6) ? &m->backup : &nothing;
    if (m->lost || !seen_as_lost(s, k))
        return;
    s->count.effect[F_EMPTY_VOTER]++;
    s->count.etcd_losses++;
    TRACE(s, "witness", "etcd is %s", k == &nothing ? "emptied" : "restored from a backup");
    witness_crash(s);
    m->key = *k;
    m->lost = true;
    m->n_sent = 0;
    m->clock = k->revision + rng_range(&s->rng, 1, FRESH_REVISIONS);
    sim_at(s, s->now + rng_skewed(&s->rng, 10 * MS, 4 * SEC), NOBODY, etcd_back);
}

void etcd_back(struct sim *s, struct task *t)
{
    (void)t;
    if (!s->witness.up)
        witness_start(s);
}
