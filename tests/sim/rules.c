/* Rules of the protocol, checked where they are kept and not only where breaking them costs
 * something: what they prevent takes a second fault in the right millisecond, which a seed in a
 * thousand has. Each is a part of an invariant of protocol 11 that can be seen at one moment, from
 * outside; the operator's force, and a fork without an arbiter, give up what they rest on. */
#include "replication/apply.h"
#include "replication/frames.h"
#include "replication/notes.h"
#include "sim/sim.h"

#define ID(x) ((unsigned long long)(x))

static bool given_up(const struct sim *s)
{
    return s->books.forced || s->books.split;
}

void rules_process_starts(struct node *n)
{
    n->heard_epoch = n->acked_epoch = n->numbers.epoch = n->note_epoch = 0;
    n->note_number = 0;
}

/* --- invariant 8 --- */

/* The order of a takeover (protocol 5): record, old lease surely over, promotion. "Surely" is on
 * the other's own clock, whatever that node is doing. */
void rules_promote(struct sim *s, struct node *n, const struct record *r)
{
    struct node *other = &s->node[1 - n->self];
    n->acked_epoch = 0;
    const struct record *newest = books_record(s);
    if (given_up(s) || r->forced || !other->up || !other->lease_until)
        return;
    if (newest && newest->epoch > r->epoch)
        return; /* decided while it was frozen: the other's lease is that of the newer epoch */
    uint64_t now = node_now(s, other);
    if (now < other->lease_until)
        sim_fail(s, "8", "node %s is promoted in epoch %u, the lease of %s runs for another %.3f s",
                 process_name(n->self), r->epoch, process_name(other->self),
                 other->lease_until == UINT64_MAX ? 1e9 : (double)(other->lease_until - now) / 1e9);
}

/* --- invariant 2: never below what was seen --- */

void rules_heard(struct node *n, const struct heartbeat *h)
{
    if (h->serving && h->epoch > n->heard_epoch)
        n->heard_epoch = h->epoch;
}

static void check_heard(struct sim *s, const struct node *n, uint32_t epoch, const char *what)
{
    if (epoch < n->heard_epoch)
        sim_fail(s, "2 (incident 25)",
                 "node %s %s in epoch %u, and has heard the other serve in %u",
                 process_name(n->self), what, epoch, n->heard_epoch);
}

/* Both nodes' word for it, and the store's: the record that was promoted names it. */
void rules_serve(struct sim *s, const struct node *n, const struct pair_effect *fx)
{
    check_heard(s, n, fx->epoch, "serves");
    const struct store_id *here = &store_memory_meta(n->disk.store)->id;
    if (!store_id_eq(&fx->record.store[n->self], here))
        sim_fail(s, "6 (incident 7)",
                 "node %s serves epoch %u with another store than its record names",
                 process_name(n->self), fx->epoch);
}

void rules_delivers(struct sim *s, const struct node *n, uint32_t epoch)
{
    check_heard(s, n, epoch, "delivers");
}

/* --- invariant 2: what counts was accepted by two voters in one ballot --- */

void rules_register(struct sim *s, const struct node *n, const struct pair_event *ev)
{
    if (s->none || s->etcd || ev->outcome != REG_DONE)
        return;
    for (unsigned i = s->books.n_accepts; i-- > 0;)
        if (s->books.accepts[i].record.tag == ev->record.tag && s->books.accepts[i].chosen)
            return;
    sim_fail(s, "2 (incident 10)",
             "node %s is told that version %llu of the record counts, and no two voters accepted "
             "it in one ballot",
             process_name(n->self), ID(ev->record.version));
}

/* --- protocol 6: a node that was frozen reads its socket before it judges --- */

/* The driver reads before each tick (health_uv.c), which isn't modelled: what the core alone
 * promises is to count anew. */
void rules_claim(struct sim *s, const struct node *n, const struct pair_effect *fx)
{
    /* A moment's standstill isn't told from a busy machine (pair.c, woke). */
    if (fx->warrant != WARRANT_SILENT || fx->record.primary != n->self ||
        n->frozen_for <= s->plan.takeover_after / 2)
        return;
    if (net_waits(s, n->self, 1 - n->self))
        sim_fail(s, "9 (incident 24)",
                 "node %s takes the other for silent, and a datagram of it waits in the socket",
                 process_name(n->self));
}

/* --- protocol 9: a final dot is noted where it would be in doubt --- */

static void hear_note(struct node *n, struct slice payload)
{
    struct frame_note f;
    if (!note_decode(payload, &f))
        return;
    if (f.epoch != n->note_epoch)
        n->note_number = 0;
    n->note_epoch = f.epoch;
    if (f.number > n->note_number)
        n->note_number = f.number;
}

void rules_noted(struct sim *s, const struct node *n, const struct delivery_conn *c)
{
    const struct node *other = &s->node[1 - n->self];
    const struct record *r = books_record(s);
    if (given_up(s) || c->dot.hold || !r || r->epoch != n->relay.epoch ||
        !record_names(r, other->self, &store_memory_meta(other->disk.store)->id) || !other->up ||
        other->started_at >= c->since)
        return;
    if (other->note_epoch != r->epoch || other->note_number < c->dot.note)
        sim_fail(s, "listed (protocol 9)",
                 "node %s sends the final dot of %llx/%u, and its standby was not told",
                 process_name(n->self), ID(c->id), c->rcpt);
}

/* --- protocol 4: a number is used once --- */

void rules_numbers(struct sim *s, struct node *n, const struct own_batch *x)
{
    if (n->numbers.epoch == x->epoch && x->first <= n->numbers.lsn)
        sim_fail(s, "5 (incident 32)", "node %s gives out number %llu of epoch %u again",
                 process_name(n->self), ID(x->first), x->epoch);
    n->numbers = (struct pos){x->epoch, x->last};
}

/* --- protocol 8: a promotion takes what is unmerged into its own epoch --- */

struct unmerged_keys {
    struct {
        uint64_t id;
        uint32_t index;
    } rcpt[64];
    unsigned n;
};

static bool collect_unmerged(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct unmerged_keys *k = ctx;
    if (r->type != ROW_RECIPIENT || unmerged == UNMERGED_NONE)
        return true;
    k->rcpt[k->n].id = r->recipient.id;
    k->rcpt[k->n++].index = r->recipient.index;
    return k->n < sizeof k->rcpt / sizeof k->rcpt[0];
}

int rules_promotion(struct sim *s, struct node *n, const struct promotion *p, struct promoted *done)
{
    struct store *st = n->disk.store;
    struct unmerged_keys k = {.n = 0};
    st->ops->each_unmerged(st, collect_unmerged, &k);
    int err = apply_promote(st, p, done);
    for (unsigned i = 0; !err && i < k.n; i++) {
        const struct row_recipient *x = store_memory_recipient(st, k.rcpt[i].id, k.rcpt[i].index);
        if (x && x->pos.epoch != p->epoch)
            sim_fail(s, "7 (incident 20)",
                     "%llx/%u was unmerged at the promotion of %s in epoch %u and stays at %u:%llu",
                     ID(x->id), x->index, process_name(n->self), p->epoch, x->pos.epoch,
                     ID(x->pos.lsn));
    }
    return err;
}

/* --- protocol 3: between diverged copies the more restrictive wins --- */

/* What restricts before the rows of a follower are merged restricts afterwards. */
void rules_merged(struct sim *s, const struct node *n, unsigned before)
{
    if (before & ~operator_restricts(n))
        sim_fail(s, "1 (incident 22)", "a merge lifts what an operator had said on node %s",
                 process_name(n->self));
}

/* --- protocol 8: a store that lost what it acknowledged --- */

void rules_frame(struct node *n, uint64_t link, uint8_t type, struct slice payload)
{
    n->heard_link = link;
    struct frame_ack a;
    if (type == FRAME_NOTE)
        hear_note(n, payload);
    if (type != FRAME_ACK || !ack_decode(payload, &a) || a.epoch < n->acked_epoch)
        return;
    if (a.epoch > n->acked_epoch || !store_id_eq(&a.store, &n->acked_store)) {
        n->acked_epoch = a.epoch;
        n->acked_store = a.store;
        n->acked = 0;
    }
    if (a.durable > n->acked)
        n->acked = a.durable;
}

/* The primary has attached that follower. */
void rules_attached(struct sim *s, const struct node *n, const struct store_id *store)
{
    const struct node *other = &s->node[1 - n->self];
    const struct store_meta *m = store_memory_meta(other->disk.store);
    /* What was said on a link that is gone was true then: it may have got another disk since. */
    if (!other->up || !net_whole(s, n->heard_link))
        return;
    if (!n->acked_epoch || !store_id_eq(store, &n->acked_store) || !store_id_eq(store, &m->id))
        return;
    if (m->end.epoch <= n->acked_epoch && m->end.lsn < n->acked)
        sim_fail(
            s, "1 (incident 8)",
            "node %s attaches the store of %s, which ends at %u:%llu and had acknowledged %llu",
            process_name(n->self), process_name(other->self), m->end.epoch, ID(m->end.lsn),
            ID(n->acked));
}

/* --- protocol 8: a restarted primary delivers with its standby's tail merged --- */

struct tail {
    struct sim *s;
    const struct node *n;
};

static bool check_tail(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    const struct tail *t = ctx;
    const struct row_recipient *here = &r->recipient;
    const struct row_recipient *there =
        store_memory_recipient(t->s->node[1 - t->n->self].disk.store, here->id, here->index);
    /* Of this node's own epoch (cancelled, or superseded by what it took again), and only durable
     * there before it is here: no outcome that it waits for. */
    if (unmerged == UNMERGED_NONE && !rcpt_terminal(here->state) && there &&
        rcpt_terminal(there->state) && there->pos.epoch < t->n->relay.epoch)
        sim_fail(t->s, "8 (incident 17)",
                 "node %s begins to deliver in epoch %u, and the standby in in_sync holds the "
                 "outcome of %llx/%u",
                 process_name(t->n->self), t->n->relay.epoch, ID(here->id), here->index);
    return true;
}

/* For the first time in that epoch. */
void rules_tail_released(struct sim *s, const struct node *n)
{
    const struct node *other = &s->node[1 - n->self];
    const struct record *r = books_record(s);
    struct tail t = {s, n};
    if (given_up(s) || n->disk.lost || other->disk.lost || !r || r->epoch != n->relay.epoch ||
        !record_names(r, other->self, &store_memory_meta(other->disk.store)->id))
        return;
    store_memory_each_live(n->disk.store, check_tail, &t);
}

/* --- invariant 1, at a 250 --- */

/* A store that nobody runs any more is waited for as long as a record names it: the disk may be
 * put in again. The store that is there now is checked with all others (checks.c). */
static void check_named(struct sim *s, const struct copy *c, const struct record *r)
{
    for (unsigned node = 0; node < NODES; node++) {
        const struct disk *d = &s->node[node].disk;
        const struct store *shelf[] = {d->old, d->gone};
        if (record_names(r, node, &store_memory_meta(d->store)->id))
            continue;                     /* what is on a shelf is an older state of it */
        bool there = false, held = false; /* there may be two states of it */
        for (unsigned i = 0; i < 2; i++)
            if (shelf[i] && record_names(r, node, &store_memory_meta(shelf[i])->id)) {
                there = true;
                held = held || books_holds(shelf[i], c);
            }
        if (there && !held)
            sim_fail(s, "1 (incident 8)",
                     "a 250 for %llx, and the store of %s that in_sync names never had it",
                     ID(c->id), process_name(node));
    }
}

/* What only this store holds is judged by its history when it comes back as another's follower. */
static void check_history(struct sim *s, const struct node *n, const struct copy *c)
{
    const struct node *other = &s->node[1 - n->self];
    const struct store_meta *m = store_memory_meta(n->disk.store);
    const struct row_message *x = store_memory_message(n->disk.store, c->id);
    if (!x || books_holds(other->disk.store, c) || other->disk.lost || n->disk.lost ||
        (other->emptied_at && s->now < other->emptied_at + 10 * SEC))
        return;
    if (history_mode_at(&m->history, x->born) == MODE_PAIRED && pos_cmp(x->born, m->committed) > 0)
        sim_fail(s, "1 (incident 4)",
                 "a 250 for %llx, which only the store of %s holds, and by its history that one is "
                 "paired",
                 ID(c->id), process_name(n->self));
}

void rules_ack(struct sim *s, const struct node *n, const struct copy *c)
{
    if (given_up(s) || c->away)
        return;
    books_each_countable(s, c, check_named);
    check_history(s, n, c);
}
