/* Runs without an arbiter (protocol 5, "arbiter = none"), a share of the seeds: the real judgement
 * in the witness's place, probes that ask the machine on which the witness would run, a fence
 * command that takes the other's power, and operators who say `failover` and `start --alone`,
 * rightly or not.
 *
 * What is excused: where a node goes on without knowing what the other one did alone, the record
 * forks (both may serve), mail may go out twice, and what one of them took is missing on the other
 * until they meet. With takeover = "manual" that takes an operator's word; counted as "both went
 * on". Losing anything is never excused. */
#include "sim/sim.h"

enum { MANUAL_PERCENT = 12, AUTO_PERCENT = 12, PROBE_TIMEOUT_MS = 400, FENCE_LIMIT_MS = 30000 };

/* By the seed itself, so that the draws of all other seeds stay what they are. */
void none_draw(struct sim *s)
{
    uint64_t x = rng_mix(s->seed * 2 + 0x6e6f6e65) % (s->none ? MANUAL_PERCENT * 2 : 100);
    if (s->with_force || s->etcd || x >= MANUAL_PERCENT + AUTO_PERCENT)
        return;
    s->none = true;
    s->manual = x < MANUAL_PERCENT;
    s->count.none_runs++;
    struct plan *p = &s->plan;
    if (s->manual && rng_chance(&s->rng, 0.5))
        p->weight[F_FAILOVER] = 0;  /* nobody says anything: as strict as with an arbiter */
    if (rng_chance(&s->rng, 0.7)) { /* time to be in sync, and to fall apart */
        p->burst = 0;
        p->fault_every = rng_range(&s->rng, SEC, 8 * SEC);
        p->weight[F_CUT] += 0.3;
        p->weight[F_CRASH] += 0.2;
        p->weight[F_EMPTY_VOTER] *= 0.2;
    }
    s->fence = !s->manual && rng_chance(&s->rng, 0.4);
    s->fence_fails = rng_chance(&s->rng, 0.5) ? rng_unit(&s->rng) : 0;
}

/* --- probes --- */

static void probe_ends(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    judge_probed(n->without.judge, 0, t->a, t->b, node_now(s, n));
}

static void probe(struct sim *s, struct node *n)
{
    bool there = s->witness.up && !s->witness.paused && !s->cut[n->self][WITNESS][UDP] &&
                 !s->cut[WITNESS][n->self][UDP] && !s->cut[n->self][WITNESS][TCP] &&
                 !s->cut[WITNESS][n->self][TCP];
    uint64_t takes = there ? rng_range(&s->rng, 100 * US, 80 * MS) : PROBE_TIMEOUT_MS * MS;
    struct task *t = sim_at(s, s->now + takes, n->self, probe_ends);
    t->a = there;
    t->b = node_now(s, n);
}

/* --- the fence command --- */

static void fence_ended(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    judge_fenced(n->without.judge, t->a, node_now(s, n));
}

static void tell_later(struct sim *s, struct node *n, bool done)
{
    n->fence_run = 0;
    sim_at(s, s->now + rng_range(&s->rng, MS, 60 * MS), n->self, fence_ended)->a = done;
}

/* A process of its own: it goes on while the node stands still, and ends with it. */
static void fence_ends(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a], *other = &s->node[1 - t->a];
    if (!n->up || t->b != n->fence_run)
        return; /* it was killed */
    bool works = n->fence_works;
    if (works && n->heard_at > n->fence_began) {
        sim_fail(s, "of the fence command", "%s shoots %s, which it heard %.1f s ago",
                 process_name(n->self), process_name(other->self),
                 (double)(s->now - n->heard_at) / 1e9);
        return;
    }
    if (works && other->up) {
        node_crash(s, other->self, true, "at the other's fence command");
        faults_restart_later(s, other->self);
    }
    tell_later(s, n, works);
}

static void fence(struct sim *s, struct node *n)
{
    n->fence_works = !rng_chance(&s->rng, s->fence_fails);
    bool hangs = !n->fence_works && rng_chance(&s->rng, 0.2);
    uint64_t takes = hangs ? FENCE_LIMIT_MS * MS : rng_range(&s->rng, 50 * MS, 5 * SEC);
    TRACE(s, process_name(n->self), "its fence command runs, and will %s",
          n->fence_works ? "exit 0" : "fail");
    struct task *t = sim_at(s, s->now + takes, NOBODY, fence_ends);
    t->a = n->self;
    t->b = n->fence_run = ++s->serial;
    n->fence_began = s->now;
}

static void fence_kill(struct sim *s, struct node *n)
{
    if (!n->fence_run)
        return; /* its end is on its way */
    s->count.fence_killed++;
    tell_later(s, n, false);
}

/* --- the judgement --- */

static void on_judge(void *ctx, const struct judge_fx *fx)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    const char *who = process_name(n->self);
    switch (fx->type) {
    case JUDGE_FX_VOTE:
        s->count.none_judged++;
        TRACE(s, who, "votes by judgement: %s",
              fx->msg.type == REG_PROMISE ? "promise" : "accepted");
        if (fx->msg.type == REG_ACCEPTED)
            books_accepted(s, WITNESS, fx->msg.accepted, &fx->msg.record);
        break;
    case JUDGE_FX_PROBE:
        probe(s, n);
        break;
    case JUDGE_FX_FENCE:
        fence(s, n);
        break;
    case JUDGE_FX_FENCE_END:
        TRACE(s, who, "ends its fence command: the other node is heard");
        fence_kill(s, n);
        break;
    case JUDGE_FX_JUDGED:
        TRACE(s, who, "judges: %s", judgement_words(fx->judgement));
        break;
    case JUDGE_FX_GIVE_UP:
        TRACE(s, who, "gives up its takeover: the grounds are gone");
        break;
    case JUDGE_FX_LOG:
        TRACE(s, who, "%s", fx->text);
        break;
    }
}

void none_start(struct sim *s, struct node *n, const struct arbiter_events *events)
{
    struct judge_config c = {.automatic = !s->manual,
                             .probes = s->manual ? 0 : 1,
                             .fence = s->fence,
                             .takeover_after_ns = s->plan.takeover_after};
    n->fence_run = 0;
    arbiter_none_init(&n->without, n->reg, &c, events, on_judge, &s->box[n->self]);
    n->arbiter = &n->without.voters.arbiter;
}

/* --- operators --- */

void none_operator(struct sim *s, struct node *n)
{
    bool alone = rng_chance(&s->rng, 0.5);
    TRACE(s, process_name(n->self), "operator: %s", alone ? "start --alone" : "failover");
    health_post(s, n,
                &(struct pair_event){.type = alone ? PE_OP_START_ALONE : PE_OP_FAILOVER,
                                     .op = ++s->serial});
}

void none_bootstrap(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a];
    if (!n->up || s->quiet || (n->paused && n->pause_until > s->now))
        return;
    TRACE(s, process_name(n->self), "operator: bootstrap");
    s->books.split |= store_memory_meta(n->disk.store)->history.n == 0;
    health_post(s, n, &(struct pair_event){.type = PE_OP_BOOTSTRAP, .op = ++s->serial});
}

/* --- the books --- */

/* Before anybody may act on it: it would count as pending. Where a word, or a probe, was the
 * reason, that is the price of having no arbiter; where nobody gave any, it is a fault like any
 * other. */
void none_accepted(struct sim *s, const struct record *r, bool late)
{
    const struct record *was = books_record(s);
    bool in_line =
        r->tag == was->tag ||
        (r->version == was->version + 1 &&
         (r->epoch == was->epoch || (was->in_sync[r->primary] &&
                                     store_id_eq(&was->store[r->primary], &r->store[r->primary]))));
    /* The other one may have asked to take over while this primary was starting anew and served
     * nobody, which takes no word and no probe, and have died before it was answered. */
    bool overtaken = books_overtaken(s, r);
    /* Or have stood still, and accept it now, when this one has gone on alone. */
    bool excused = late || overtaken || !s->manual || s->plan.weight[F_FAILOVER] > 0 || r->forced;
    if ((in_line && !overtaken) || s->books.split || !excused)
        return;
    s->books.split = true;
    s->count.none_splits++;
    TRACE(s, "record", "forks: %s goes on without what the other one holds",
          process_name(r->primary));
}

bool none_row_spare(const struct sim *s)
{
    const struct voter_state *a = &s->node[0].disk.voter, *b = &s->node[1].disk.voter;
    return a->voting && b->voting && a->record.tag == b->record.tag;
}
