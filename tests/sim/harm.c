/* What goes wrong with nodes, their disks and their clocks; when, is drawn in faults.c. Operators
 * are here, too: who starts what failed, orders a switchover, exchanges a disk. */
#include <assert.h>
#include <stdlib.h>

#include "sim/harm.h"

static uint64_t ms(struct sim *s, uint64_t lo, uint64_t hi)
{
    return rng_skewed(&s->rng, lo * MS, hi * MS);
}

/* --- crash and restart --- */

void harm_crash_at_step(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    n->crash_after_steps = (unsigned)rng_range(&s->rng, 1, 12);
    n->crash_before = rng_chance(&s->rng, 0.5);
    n->crash_silent = rng_chance(&s->rng, 0.5);
}

static void restart_node(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a];
    if (n->up || (s->quiet && s->plan.out == n->self))
        return;
    node_start(s, n->self);
    if (!s->quiet && rng_chance(&s->rng, 0.2)) /* it isn't over yet */
        harm_crash_at_step(s, n->self);
}

void faults_restart_later(struct sim *s, unsigned self)
{
    uint64_t after = rng_chance(&s->rng, 0.3) ? ms(s, 10, 500) : ms(s, 100, 9000);
    sim_at(s, s->now + after, NOBODY, restart_node)->a = self;
}

void harm_crash(struct sim *s, unsigned self)
{
    s->count.effect[F_CRASH] += s->node[self].up;
    node_crash(s, self, rng_chance(&s->rng, 0.5), "at random");
    faults_restart_later(s, self);
}

/* "Restart it to have the store checked": somebody does, after a while. */
static void repair(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    TRACE(s, process_name(n->self), "operator: restarts it, its store has failed");
    node_crash(s, n->self, false, "by an operator");
    sim_at(s, s->now + ms(s, 10, 1000), NOBODY, restart_node)->a = n->self;
}

void faults_repair_later(struct sim *s, struct node *n)
{
    sim_at(s, s->now + ms(s, 500, s->quiet ? 1000 : 9000), n->self, repair);
}

/* --- disks --- */

void harm_disk(struct sim *s, unsigned self, enum fault_kind kind)
{
    struct node *n = &s->node[self];
    const char *who = process_name(self);
    switch (kind) {
    case F_DISK:
        n->slow_until = s->now + ms(s, 100, 6000);
        n->slow_max = ms(s, 20, 2500) + MS;
        TRACE(s, who, "its disk is slow");
        break;
    case F_WRITE:
        if (rng_chance(&s->rng, 0.3))
            n->voter_fault = true;
        else
            n->disk_fault = DISK_WRITE;
        break;
    case F_FSYNC:
        n->disk_fault = DISK_FSYNC;
        break;
    case F_STALL:
        n->stall_until = s->now + ms(s, 50, 8000);
        TRACE(s, who, "its disk hangs for %.3f s", (double)(n->stall_until - s->now) / 1e9);
        break;
    default:
        assert(kind == F_FULL);
        /* Both hold the same queue: they fill together (incident 28). */
        for (unsigned i = 0, both = rng_chance(&s->rng, 0.5); i < NODES; i++)
            if (i == self || both) {
                s->node[i].low_until = s->now + ms(s, 500, 10000);
                TRACE(s, process_name(i), "its disk is below the reserve");
            }
        if (rng_chance(&s->rng, 0.2)) {
            n->full_until = s->now + ms(s, 50, 3000);
            TRACE(s, who, "its disk is full");
        }
    }
}

void harm_thread(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    enum thread t = rng_chance(&s->rng, 0.5) ? T_RELAY : T_REPLICATION;
    if (!n->up || n->thread_until[t] > s->now)
        return;
    n->thread_since[t] = s->now;
    n->thread_until[t] = s->now + ms(s, 50, 6000);
    TRACE(s, process_name(self), "its %s thread hangs for %.3f s",
          t == T_RELAY ? "relay" : "replication", (double)(n->thread_until[t] - s->now) / 1e9);
}

void harm_slow_peer(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    n->late_until = s->now + ms(s, 200, 8000);
    n->late_max = ms(s, 20, 900) + MS;
    TRACE(s, process_name(self), "is slow: its threads answer up to %.3f s late",
          (double)n->late_max / 1e9);
}

void harm_clock(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    int64_t by = (int64_t)rng_skewed(&s->rng, 500, 6ull * 86400 * 1000);
    if (rng_chance(&s->rng, 0.5))
        by = -by;
    if (n->wall_offset_ms > 60000 || n->wall_offset_ms < -60000)
        by = -n->wall_offset_ms; /* somebody sets it right */
    n->wall_offset_ms += by;
    s->count.effect[F_CLOCK] += by > 60000 || by < -60000;
    TRACE(s, process_name(self), "its wall clock jumps by %.3f s", (double)by / 1e3);
}

/* --- voters and stores that are lost --- */

static bool all_vote(const struct sim *s)
{
    if (s->none)
        return none_row_spare(s);
    if (s->etcd)
        return etcd_spare(s);
    /* One that was put back to an older state counts as emptied until it has met the others. */
    bool behind = ballot_cmp(s->witness.voter.accepted, s->witness.forgot) < 0;
    return s->node[0].disk.voter.voting && s->node[1].disk.voter.voting &&
           s->witness.voter.voting && !behind;
}

static void lose_voter(struct sim *s, unsigned v)
{
    if (!s->etcd)
        books_voter_emptied(s, v);
    struct voter_state *row = v == WITNESS ? &s->witness.voter : &s->node[v].disk.voter;
    *row = (struct voter_state){.voter_id = 0};
    if (v == WITNESS)
        s->witness.has_voter = false;
    else
        s->node[v].disk.has_voter = false;
}

static void empty_voter(struct sim *s, unsigned v)
{
    TRACE(s, process_name(v), "its voter's file is lost");
    s->count.effect[F_EMPTY_VOTER]++;
    if (v == WITNESS) {
        witness_crash(s);
        lose_voter(s, v);
        sim_at(s, s->now + ms(s, 10, 4000), NOBODY, harm_witness_back);
        return;
    }
    node_crash(s, v, true, "with its voter's file");
    lose_voter(s, v);
    faults_restart_later(s, v);
}

void harm_empty_voter(struct sim *s)
{
    if (!all_vote(s)) /* two emptied at once need the operator (protocol 5) */
        return;
    if (s->etcd && rng_chance(&s->rng, 0.7)) {
        etcd_loses(s);
        return;
    }
    if (!s->none && !s->etcd && rng_chance(&s->rng, 0.3)) {
        s->at_accept = true;
        return;
    }
    empty_voter(s, (unsigned)rng_below(&s->rng, s->none || s->etcd ? NODES : PROCESSES));
}

static void empty_at_accept(struct sim *s, struct task *t)
{
    if (!s->quiet && all_vote(s))
        empty_voter(s, (unsigned)t->a);
}

/* A voter is emptied while it is asked to accept, and the proposer can't reach the third: what the
 * emptied one takes over from its row is all that the proposer sees for a while (incident 10). */
void harm_at_accept(struct sim *s, unsigned proposer, unsigned voter)
{
    unsigned third = 3 - proposer - voter;
    s->at_accept = false;
    if (s->quiet || !all_vote(s))
        return;
    uint64_t until = s->now + ms(s, 300, 3000);
    TRACE(s, "world", "cut %s-%s, for %.3f s", process_name(proposer), process_name(third),
          (double)(until - s->now) / 1e9);
    faults_cut(s, proposer, third, UDP, until);
    faults_cut(s, third, proposer, UDP, until);
    sim_at(s, s->now, NOBODY, empty_at_accept)->a = voter;
}

void harm_witness_back(struct sim *s, struct task *t)
{
    (void)t;
    if (s->witness.up || (s->quiet && s->plan.out == WITNESS))
        return;
    TRACE(s, "witness", "starts");
    witness_start(s);
}

/* The witness has one kind of durable step: its row, before each promise and each vote. */
void harm_witness_crash_at_step(struct sim *s)
{
    s->witness.crash_after_steps = (unsigned)rng_range(&s->rng, 1, 8);
    s->witness.crash_before = rng_chance(&s->rng, 0.5);
}

/* Does no vote depend on what the witness remembers beside one node alone? Both nodes have accepted
 * the record that counts and promised what the witness has promised, nothing above is on its way,
 * and nobody waits for a vote. */
static bool votes_without_witness(const struct sim *s)
{
    const struct books *b = &s->books;
    if (s->none || s->etcd || b->chosen < 0 || b->split)
        return false;
    const struct accept_log *a = &b->accepts[b->chosen];
    for (unsigned i = 0; i < NODES; i++) {
        const struct node *n = &s->node[i];
        if (!n->disk.voter.voting || n->disk.voter.record.tag != a->record.tag ||
            ballot_cmp(n->disk.voter.promised, s->witness.voter.promised) < 0 ||
            ballot_cmp(n->disk.voter.promised, a->ballot) < 0 || /* a file may be lost already */
            (n->up && register_busy(n->reg)))
            return false;
    }
    for (unsigned i = 0; i < b->n_accepts; i++)
        if (!b->accepts[i].chosen && ballot_cmp(b->accepts[i].ballot, a->ballot) > 0)
            return false;
    return true;
}

/* The first time a copy of its file is made, the next time it is put back. baton-witness(8) says
 * "never"; what is promised all the same is that nothing is lost while both nodes hold the record
 * that counts. A node that is away as well would be the second failure. */
void harm_witness_backup(struct sim *s)
{
    struct witness *w = &s->witness;
    if (!w->backup.record.version) {
        if (w->has_voter && w->voter.voting)
            w->backup = w->voter;
        return;
    }
    if (!votes_without_witness(s)) {
        s->count.backups_refused++;
        return;
    }
    TRACE(s, "witness", "gets an older state of its file, of version %llu",
          (unsigned long long)w->backup.record.version);
    s->count.effect[F_WITNESS_BACKUP]++;
    witness_crash(s);
    w->forgot = s->books.accepts[s->books.chosen].ballot;
    w->voter = w->backup;
    w->has_voter = true;
    w->backup.record.version = 0;
    /* A restore outlasts any datagram that is on its way to what it forgets. */
    sim_at(s, s->now + ms(s, 3000, 7000), NOBODY, harm_witness_back);
}

void harm_witness_down(struct sim *s)
{
    if (!s->witness.up)
        return;
    TRACE(s, "witness", "is down");
    s->count.effect[F_WITNESS]++;
    witness_crash(s);
    sim_at(s, s->now + ms(s, 50, 10000), NOBODY, harm_witness_back);
}

static void random_id(struct sim *s, struct store_id *id)
{
    for (unsigned i = 0; i < sizeof id->b; i++)
        id->b[i] = (uint8_t)rng_u64(&s->rng);
}

/* The disk that was taken out is put in again, if nothing needs the one that is there. */
static bool old_disk_back(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    if (!n->disk.old || !books_spare(s, self))
        return false;
    s->count.effect[F_EMPTY_STORE]++;
    node_crash(s, self, true, "and gets its old disk back");
    const struct store_meta *now = store_memory_meta(n->disk.store);
    struct store_id id = now->id;
    struct pos end = now->end;
    harm_ends(n);
    store_memory_free(n->disk.store);
    n->disk.store = n->disk.old;
    n->disk.old = NULL;
    n->emptied_at = s->now; /* outcomes settled meanwhile are not on it */
    /* A snapshot of the same store was put back in between, and is in use or was until it was lost
     * as well: then this is another roll-back of the store that in_sync names. */
    if (store_id_eq(&id, &store_memory_meta(n->disk.store)->id) || books_required(s, self))
        books_rolled_back(s, n, end);
    s->books.check_all = true;
    faults_restart_later(s, self);
    return true;
}

static void throw_away(struct node *n)
{
    store_memory_free(n->disk.gone);
    n->disk.gone = n->disk.store;
}

/* Only where another copy holds everything, and one at a time. Somebody may think that a copy of
 * the other's file will do: one store on both nodes (protocol 3). */
void harm_empty_store(struct sim *s, unsigned self)
{
    if (rng_chance(&s->rng, 0.4) && old_disk_back(s, self))
        return;
    if (!books_spare(s, self))
        return;
    struct node *n = &s->node[self];
    bool voter = rng_chance(&s->rng, 0.5) && all_vote(s);
    node_crash(s, self, true, voter ? "with its disk" : "with its store");
    s->count.effect[F_EMPTY_STORE]++;
    struct store_id id;
    random_id(s, &id);
    harm_ends(n);
    if (n->disk.lost) /* it doesn't tell what it held before it was rolled back */
        store_memory_free(n->disk.store);
    else if (!n->disk.old && rng_chance(&s->rng, 0.5))
        n->disk.old = n->disk.store; /* it may come back */
    else
        throw_away(n);
    const struct store *other = s->node[1 - self].disk.store;
    bool twin = rng_chance(&s->rng, 0.2) && !store_memory_meta(other)->copying;
    if (twin)
        TRACE(s, process_name(self), "gets a copy of the other's store");
    n->disk.store = twin ? store_memory_copy(other) : store_memory_new(&id);
    n->emptied_at = s->now;
    books_watch(s, n);
    if (voter)
        lose_voter(s, self);
    faults_restart_later(s, self);
    if (voter && s->none && s->harsh && rng_chance(&s->rng, 0.4))
        sim_at(s, s->now + ms(s, 100, 6000), NOBODY, none_bootstrap)->a = self;
}

/* --- operators --- */

void harm_order(struct sim *s, unsigned self, enum fault_kind kind)
{
    static const struct {
        enum pair_event_type type;
        const char *text;
        bool force;
    } order[F_KINDS] = {[F_SWITCHOVER] = {PE_OP_SWITCHOVER, "switchover", false},
                        [F_FAILOVER] = {PE_OP_FAILOVER, "failover", false},
                        [F_FORCE] = {PE_OP_FAILOVER, "failover --force", true}};
    struct node *n = &s->node[self];
    if (!n->up || (n->paused && n->pause_until > s->now))
        return;
    if (s->none && kind == F_FAILOVER) {
        none_operator(s, n);
        return;
    }
    TRACE(s, process_name(self), "operator: %s", order[kind].text);
    n->order = kind;
    health_post(s, n,
                &(struct pair_event){
                    .type = order[kind].type, .flag = order[kind].force, .op = ++s->serial});
}

/* Where operators force, one does it right when the store is about to be emptied for a full copy.
 */
void harm_at_wipe(struct sim *s, struct node *n)
{
    bool empty = store_memory_meta(n->disk.store)->history.n == 0; /* and may not be promoted */
    if (!s->quiet && !empty && s->plan.weight[F_FORCE] > 0 && rng_chance(&s->rng, 0.5)) {
        s->count.injected[F_FORCE]++;
        harm_order(s, n->self, F_FORCE);
    }
}

static void stop_is_late(struct sim *s, struct task *t)
{
    node_crash(s, (unsigned)t->a, false, "as its clean stop takes too long");
    faults_restart_later(s, (unsigned)t->a);
}

void harm_stop(struct sim *s, unsigned self)
{
    struct node *n = &s->node[self];
    if (!n->up || n->stopping || (n->paused && n->pause_until > s->now))
        return;
    TRACE(s, process_name(self), "operator: stops it");
    n->stopping = true;
    sim_at(s, s->now + 20 * SEC, self, stop_is_late)->a = self;
    health_post(s, n, &(struct pair_event){.type = PE_OP_STOP});
}
