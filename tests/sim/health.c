/* Model of the health thread (health/health_uv.h) and of the witness: runs the real pair core,
 * register and rule for heartbeats, with a disk of its own for the voter's row. */
#include <assert.h>
#include <stdlib.h>

#include "sim/harm.h"

enum { TICK_MS = 20, DATAGRAM_HEARTBEAT = 1, DATAGRAM_REGISTER = 2 };

static void tick(struct sim *s, struct task *t);

/* --- datagrams --- */

static void send_register(struct sim *s, unsigned self, unsigned to, const struct register_msg *m)
{
    struct buf b;
    buf_init(&b, 4096);
    if (m->type == REG_ACCEPTED)
        books_accepted(s, self, m->accepted, &m->record);
    if (m->type == REG_ACCEPT && s->at_accept)
        harm_at_accept(s, self, to);
    bool ok = wire_put_u8(&b, DATAGRAM_REGISTER) && register_msg_encode(&b, m);
    assert(ok);
    (void)ok;
    net_datagram(s, self, to, buf_slice(&b));
    buf_free(&b);
}

static void send_heartbeat(struct sim *s, struct node *n)
{
    struct heartbeat h;
    struct buf b;
    pair_set_lsn(n->pair, n->lsn_own, n->relay.committed);
    pair_heartbeat(n->pair, node_now(s, n), node_wall(s, n), &h);
    heartbeat_guard_send(&n->guard, &h);
    buf_init(&b, 4096);
    bool ok = wire_put_u8(&b, DATAGRAM_HEARTBEAT) && heartbeat_encode(&b, &h);
    assert(ok);
    (void)ok;
    net_datagram(s, n->self, 1 - n->self, buf_slice(&b));
    buf_free(&b);
}

static void on_heartbeat(struct sim *s, struct node *n, const struct heartbeat *h)
{
    struct pair_event ev = {
        .type = PE_HEARTBEAT, .heartbeat = *h, .wall_ms = node_wall(s, n), .flag = true};
    switch (heartbeat_guard_receive(&n->guard, h)) {
    case HEARTBEAT_ALIVE:
        n->heard_peer = true;
        n->heard_at = s->now;
        n->heard_skew_ms = h->wall_ms - ev.wall_ms;
        rules_heard(n, h);
        if (s->none)
            judge_heard(n->without.judge, node_now(s, n));
        health_post(s, n, &ev);
        break;
    case HEARTBEAT_CONTACT:
        ev.flag = false;
        health_post(s, n, &ev);
        send_heartbeat(s, n);
        break;
    case HEARTBEAT_OLD:
        break;
    }
}

void health_datagram(struct sim *s, unsigned process, unsigned from, struct slice bytes)
{
    struct wire_reader r = wire_read(bytes);
    uint8_t kind = wire_get_u8(&r);
    if (kind == DATAGRAM_HEARTBEAT) {
        struct heartbeat h;
        bool ok = heartbeat_decode(&r, &h) && wire_done(&r);
        assert(ok);
        if (ok)
            on_heartbeat(s, &s->node[process], &h);
        return;
    }
    struct register_msg m;
    bool ok = register_msg_decode(&r, &m) && wire_done(&r);
    assert(ok);
    if (!ok)
        return;
    if (s->none)
        judge_received(s->node[process].without.judge, &m, node_now(s, &s->node[process]));
    if (process == WITNESS)
        register_receive(s->witness.reg, from, &m, s->now);
    else
        register_receive(s->node[process].reg, from, &m, node_now(s, &s->node[process]));
}

/* --- the register's effects --- */

static void drop_p(struct task *t)
{
    free(t->p);
}

static void row_written(struct sim *s, struct task *t)
{
    struct voter_state *row = t->p;
    struct node *n = &s->node[t->process];
    if (s->now < n->stall_until) { /* the same disk */
        struct task *again = sim_at(s, n->stall_until, n->self, row_written);
        again->p = row;
        again->drop = drop_p;
        s->count.effect[F_STALL]++;
        return;
    }
    bool fails = n->voter_fault, kept = !fails || rng_chance(&s->rng, 0.5);
    n->voter_fault = false;
    bool done = true, dies = node_dies_here(s, n, &done);
    if (done && kept) {
        struct voter_state before = n->disk.voter;
        n->disk.voter = *row;
        n->disk.has_voter = true;
        if (!s->etcd)
            books_voter(s, n->self, &before, row);
    }
    free(row);
    if (fails) {
        s->count.effect[F_WRITE]++;
        TRACE(s, process_name(n->self), "disk: the voter's row can't be written (%s)",
              kept ? "it is there all the same" : "the old one stays");
    }
    if (!dies) {
        if (s->etcd)
            etcd_persisted(s, n, !fails);
        else
            register_persisted(n->reg, !fails, node_now(s, n));
        return;
    }
    node_crash(s, n->self, n->crash_silent, "at a write of the voter's row");
    faults_restart_later(s, n->self);
}

static void witness_row_written(struct sim *s, struct task *t)
{
    struct voter_state *row = t->p;
    struct witness *w = &s->witness;
    bool dies = w->crash_after_steps && !--w->crash_after_steps;
    if (!dies || !w->crash_before) {
        struct voter_state before = w->voter;
        w->voter = *row;
        w->has_voter = true;
        books_voter(s, WITNESS, &before, row);
    }
    free(row);
    if (!dies) {
        register_persisted(w->reg, true, s->now);
        return;
    }
    TRACE(s, "witness", "dies %s a write of its row", w->crash_before ? "before" : "behind");
    s->count.effect[F_CRASH_STEP]++;
    witness_crash(s);
    sim_at(s, s->now + rng_skewed(&s->rng, 10 * MS, 4 * SEC), NOBODY, harm_witness_back);
}

static void post_later(struct sim *s, struct task *t)
{
    health_post(s, &s->node[t->process], t->p);
    free(t->p);
}

static void post_soon(struct sim *s, struct node *n, const struct pair_event *ev)
{
    struct pair_event *copy = xmalloc(sizeof *copy);
    *copy = *ev;
    struct task *t = sim_at(s, s->now, n->self, post_later);
    t->p = copy;
    t->drop = drop_p;
}

static void persist(struct sim *s, unsigned self, const struct voter_state *state, task_fn fn)
{
    /* Through the encoding, as on the disk. */
    struct buf b;
    buf_init(&b, 4096);
    struct voter_state *copy = xmalloc(sizeof *copy);
    bool ok = voter_state_encode(&b, state) && voter_state_decode(buf_slice(&b), copy);
    assert(ok);
    (void)ok;
    buf_free(&b);
    uint64_t delay = rng_skewed(&s->rng, s->plan.commit_min, s->plan.commit_max);
    if (self < NODES && s->now < s->node[self].slow_until)
        delay = rng_range(&s->rng, MS, s->node[self].slow_max);
    struct task *t = sim_at(s, s->now + delay, self, fn);
    t->p = copy;
    t->drop = drop_p;
}

void health_persist(struct sim *s, struct node *n, const struct voter_state *row)
{
    persist(s, n->self, row, row_written);
}

static void on_register(void *ctx, const struct register_fx *fx)
{
    struct task *box = ctx; /* who it is: process in a, sim in p */
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    if (s->none && arbiter_none_took(&n->without, fx, node_now(s, n)))
        return;
    if (fx->type == REG_FX_SEND)
        send_register(s, n->self, fx->to, &fx->msg);
    else if (fx->type == REG_FX_PERSIST)
        persist(s, n->self, &fx->state, row_written);
    else
        arbiter_voters_result(s->none ? &n->without.voters : &n->voters, fx);
}

static bool may_give_back(void *ctx, uint64_t now_ns)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    return pair_may_give_back(s->node[box->a].pair, now_ns);
}

static void on_arbiter(void *ctx, const struct pair_event *ev)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    const struct record *r = &ev->record;
    if (ev->type == PE_REGISTER)
        rules_register(s, n, ev);
    if (ev->type == PE_REGISTER)
        TRACE(s, process_name(n->self),
              "register: %s, version %llu epoch %u primary %c in_sync %s%s",
              ev->outcome == REG_DONE       ? "done"
              : ev->outcome == REG_MISMATCH ? "refused"
              : ev->outcome == REG_NOT_DONE ? "not done"
              : ev->outcome == REG_BEHIND   ? "lost what was seen"
                                            : "unknown",
              (unsigned long long)r->version, r->epoch, r->primary ? 'b' : 'a',
              r->in_sync[0] ? "a" : "", r->in_sync[1] ? "b" : "");
    post_soon(s, n, ev);
}

static void on_bootstrapped(void *ctx, uint64_t op, bool ok, const char *text)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    (void)op;
    TRACE(s, process_name((unsigned)box->a), "bootstrap: %s: %s", ok ? "done" : "no", text);
}

static void on_witness_register(void *ctx, const struct register_fx *fx)
{
    struct sim *s = ctx;
    if (fx->type == REG_FX_SEND)
        send_register(s, WITNESS, fx->to, &fx->msg);
    else if (fx->type == REG_FX_PERSIST)
        persist(s, WITNESS, &fx->state, witness_row_written);
}

/* --- the pair core's effects --- */

static void relay_gets(struct sim *s, struct task *t)
{
    relay_effect(s, &s->node[t->process], t->p);
    free(t->p);
}

static void replication_gets(struct sim *s, struct task *t)
{
    replication_step(s, &s->node[t->process], &(struct replica_event){.type = RE_PAIR, .fx = t->p});
    free(t->p);
}

static void post_effect(struct sim *s, struct node *n, const struct pair_effect *fx,
                        enum channel channel, task_fn fn)
{
    struct pair_effect *copy = xmalloc(sizeof *copy);
    *copy = *fx;
    struct task *t = node_mail(s, n, channel, fn);
    t->p = copy;
    t->drop = drop_p;
}

static void view_arrives(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    n->gate = t->a;
    if (n->relay.epoch)
        deliver_tick(s, n);
}

static void ask_register(struct sim *s, struct node *n, const struct pair_effect *fx)
{
    if (fx->type == PX_CHANGE)
        rules_claim(s, n, fx);
    if (fx->type == PX_CHANGE)
        TRACE(s, process_name(n->self), "asks for version %llu epoch %u primary %c in_sync %s%s%s",
              (unsigned long long)fx->record.version, fx->record.epoch,
              fx->record.primary ? 'b' : 'a', fx->record.in_sync[0] ? "a" : "",
              fx->record.in_sync[1] ? "b" : "", fx->record.forced ? " forced" : "");
    arbiter_ask(n->arbiter, fx, node_now(s, n));
}

static void publish_view(struct sim *s, struct node *n)
{
    struct pair_view v;
    pair_view(n->pair, node_now(s, n), &v);
    n->role = v.role;
    struct task *t = node_mail(s, n, TO_RELAY, view_arrives);
    t->a = v.serving;
}

static void stopped(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a];
    s->count.effect[F_STOP]++;
    node_crash(s, n->self, false, "by itself: a clean stop");
    faults_restart_later(s, n->self);
}

static void on_pair(void *ctx, const struct pair_effect *fx)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    struct node *n = &s->node[box->a];
    switch (fx->type) {
    case PX_HEARTBEAT:
        send_heartbeat(s, n);
        break;
    case PX_READ:
    case PX_CHANGE:
        ask_register(s, n, fx);
        break;
    case PX_UNASK:
        arbiter_unask(n->arbiter);
        break;
    case PX_BOOTSTRAP:
        n->arbiter->ops->bootstrap(n->arbiter, &fx->record, fx->op, node_now(s, n));
        break;
    case PX_VIEW:
        publish_view(s, n);
        break;
    case PX_LEASE:
        n->lease_epoch = fx->epoch;
        n->lease_until = fx->until_ns;
        break;
    case PX_SERVE:
        s->count.takeovers++;
        n->serving_ns = node_now(s, n);
        if (fx->record.forced && fx->record.epoch == fx->epoch)
            books_forced(s, n, fx->epoch);
        books_serve(s, n, fx->epoch);
        rules_serve(s, n, fx);
        /* fall through */
    case PX_STEP_DOWN:
        post_effect(s, n, fx, HEALTH_TO_REPLICATION, replication_gets);
        post_effect(s, n, fx, TO_RELAY, relay_gets);
        break;
    case PX_RELEASE_TAIL:
    case PX_QUIESCE:
        post_effect(s, n, fx, TO_RELAY, relay_gets);
        break;
    case PX_LOG:
        TRACE(s, process_name(n->self), "%s", fx->text);
        break;
    case PX_OP_DONE:
        TRACE(s, process_name(n->self), "operator: %s: %s", fx->ok ? "done" : "no", fx->text);
        s->count.effect[n->order] += fx->ok;
        break;
    case PX_HOOK:
        break;
    case PX_STOPPED:
        sim_at(s, s->now, n->self, stopped)->a = n->self;
        break;
    default: /* PROMOTE, FOLLOW, DROP, TAKE_BACK, PAIRED, DRAIN, EPOCH_SEEN */
        if (fx->type == PX_PROMOTE)
            rules_promote(s, n, &fx->record);
        s->count.drops += fx->type == PX_DROP;
        s->count.take_backs += fx->type == PX_TAKE_BACK;
        post_effect(s, n, fx, HEALTH_TO_REPLICATION, replication_gets);
    }
}

void health_post(struct sim *s, struct node *n, const struct pair_event *ev)
{
    if (ev->type == PE_STORE)
        n->arbiter->ops->set_virgin(n->arbiter, ev->store.virgin);
    pair_step(n->pair, ev, node_now(s, n));
}

/* --- time --- */

/* What node_calls_uv.c asks of the other threads: does one make no progress? */
static bool stalled(const struct sim *s, const struct node *n)
{
    const struct storage_model *m = &n->storage;
    uint64_t limit = s->plan.stall_timeout, now = node_now(s, n);
    if (m->busy && !m->failed && now - m->busy_since > limit)
        return true;
    for (unsigned i = T_RELAY; i < THREADS; i++)
        if (s->now < n->thread_until[i] && s->now - n->thread_since[i] > limit + 100 * MS)
            return true;
    return false;
}

static void watch_others(struct sim *s, struct node *n)
{
    bool now = stalled(s, n);
    if (now == n->stalled)
        return;
    n->stalled = now;
    TRACE(s, process_name(n->self), "health: %s",
          now ? "no progress of a thread or of the disk" : "progress again");
    health_post(s, n, &(struct pair_event){.type = PE_STALLED, .flag = now});
}

static void tick(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    uint64_t now = node_now(s, n);
    watch_others(s, n);
    n->arbiter->ops->tick(n->arbiter, now);
    if (!n->up)
        return;
    if (n->arbiter->ops->all_virgin(n->arbiter, now))
        health_post(s, n, &(struct pair_event){.type = PE_VIRGIN});
    health_post(s, n, &(struct pair_event){.type = PE_TICK});
    sim_at(s, s->now + TICK_MS * MS, n->self, tick);
}

static void beat(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    send_heartbeat(s, n);
    sim_at(s, s->now + s->plan.heartbeat, n->self, beat);
}

static void witness_tick(struct sim *s, struct task *t)
{
    (void)t;
    register_tick(s->witness.reg, s->now);
    sim_at(s, s->now + TICK_MS * MS, WITNESS, witness_tick);
}

static struct task *box(struct sim *s, unsigned process)
{
    struct task *t = &s->box[process];
    t->a = process;
    t->p = s;
    return t;
}

static void fresh_voter(struct sim *s, struct voter_state *v)
{
    *v = (struct voter_state){.voter_id = rng_u64(&s->rng) | 1};
}

void health_start(struct sim *s, struct node *n)
{
    uint64_t boot = rng_u64(&s->rng) | 1;
    n->disk.boot_counter++;
    struct pair_config c = {.self = n->self,
                            .heartbeat_ns = s->plan.heartbeat,
                            .lease_ns = s->plan.lease[n->self],
                            .takeover_after_ns = s->plan.takeover_after,
                            .standby_timeout_ns = s->plan.standby_timeout,
                            .none = s->none,
                            .manual = s->manual,
                            .boot_random = boot,
                            .boot_counter = n->disk.boot_counter};
    if (!n->disk.has_voter) {
        fresh_voter(s, &n->disk.voter);
        n->disk.has_voter = true;
    }
    const struct store_meta *m = store_memory_meta(n->disk.store);
    bool virgin = m->history.n == 0 && m->epoch_seen == 0 && !m->copying;
    n->pair = pair_new(&c, on_pair, box(s, n->self));
    uint64_t random = rng_u64(&s->rng);
    if (!s->etcd)
        n->reg =
            register_new(n->self, &n->disk.voter, virgin, random, on_register, box(s, n->self));
    struct arbiter_events events = {.ctx = box(s, n->self),
                                    .event = on_arbiter,
                                    .may_give_back = may_give_back,
                                    .bootstrapped = on_bootstrapped};
    if (s->etcd) {
        etcd_start(s, n, &events);
    } else if (s->none) {
        none_start(s, n, &events);
    } else {
        arbiter_voters_init(&n->voters, n->reg, &events);
        n->arbiter = &n->voters.arbiter;
    }
    heartbeat_guard_init(&n->guard, boot, s->plan.takeover_after, s->plan.heartbeat);
    n->lease_until = 0;
    n->gate = false;
    sim_at(s, s->now + rng_below(&s->rng, TICK_MS * MS), n->self, tick);
    sim_at(s, s->now + rng_below(&s->rng, s->plan.heartbeat), n->self, beat);
}

void health_stop(struct node *n)
{
    pair_free(n->pair);
    if (n->without.judge)
        arbiter_none_done(&n->without);
    etcd_stop(n);
    register_free(n->reg);
    n->pair = NULL;
    n->reg = NULL;
    n->lease_until = 0;
}

void witness_start(struct sim *s)
{
    struct witness *w = &s->witness;
    if (s->none || s->etcd) {
        w->up = true;
        return;
    }
    if (!w->has_voter) {
        fresh_voter(s, &w->voter);
        w->has_voter = true;
    }
    w->up = true;
    w->reg = register_new(WITNESS, &w->voter, !w->voter.voting, rng_u64(&s->rng),
                          on_witness_register, s);
    sim_at(s, s->now + rng_below(&s->rng, TICK_MS * MS), WITNESS, witness_tick);
}

void witness_crash(struct sim *s)
{
    struct witness *w = &s->witness;
    if (!w->up)
        return;
    w->up = w->paused = false;
    w->life++;
    if (w->reg)
        register_free(w->reg);
    w->reg = NULL;
}
