/* What operators ask of the pair core, and what they are answered (protocol 5, 7). */
#include <assert.h>
#include <stdio.h>

#include "health/pair_state.h"
#include "health/roles_when.h"
#include "node/base/mutant.h"

#define MS 1000000ull

enum { SWITCHOVER_TIMEOUT_MS = 20000 };

static void refuse(struct pair *p, uint64_t op, const char *text)
{
    struct pair_effect fx = {.type = PX_OP_DONE, .op = op, .ok = false};
    snprintf(fx.text, sizeof fx.text, "%s", text);
    pair_fx(p, fx);
}

static void on_switchover(struct pair *p)
{
    if (p->phase == PH_PAIRED) {
        pair_want_handover(p);
    } else if (p->phase == PH_FOLLOW && record_names(&p->rec, p->cfg.self, &p->store.id)) {
        p->ask_token = pair_next_tag(p);
        pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
    } else {
        char why[160];
        roles_why(p, why, sizeof why);
        pair_op_done(p, false, "no switchover: the pair isn't in sync (%s)", why);
    }
}

/* Incident 26: a node that starts without an arbiter waits for the other one, or for this word. */
static void on_start_alone(struct pair *p)
{
    bool alive = p->peer_rx && p->now - p->peer_rx < p->cfg.takeover_after_ns;
    bool waits = p->phase == PH_START || p->phase == PH_FENCED || p->phase == PH_DROP;
    if (!p->cfg.none)
        pair_op_done(p, false, "start --alone is for arbiter = none");
    else if (alive)
        pair_op_done(p, false, "the other node answers: this one needs nobody's word to start");
    else if (!waits)
        pair_op_done(p, false, "this node doesn't wait to be started (%s)",
                     p->phase == PH_FOLLOW ? "to take over: batonctl failover"
                     : roles_serves(p)     ? "it serves"
                                           : "try again");
    else if (!p->store.open || !p->store.fit)
        pair_op_done(p, false, "this node's store can't serve: it is incomplete or damaged");
    else if (p->store.virgin)
        pair_op_done(p, false,
                     "this store has never held anything: wait for the other node, or, if there "
                     "never was one, batonctl bootstrap");
    else {
        p->alone_wanted = true;
        p->want_read = true;
        p->read_at = p->now;
    }
}

static void on_failover(struct pair *p, bool force)
{
    bool alive = p->serving_rx && p->now - p->serving_rx < p->cfg.takeover_after_ns;
    if (p->epoch)
        pair_op_done(p, false, "this node is the primary already");
    else if (p->emptying)
        pair_op_done(p, false,
                     "this node's store is being emptied for a full copy from the primary; "
                     "batonctl status tells how that goes");
    else if (!p->store.open || !p->store.fit)
        pair_op_done(p, false, "this node's store can't serve: it is empty, incomplete or damaged");
    else if (force && !p->store.end.epoch)
        pair_op_done(p, false,
                     "this store has never held anything: it would begin with an empty queue");
    else if (force)
        p->force_wanted = p->forcing = true;
    else if (alive)
        pair_op_done(p, false, "the primary is alive; use `batonctl switchover`, or --force");
    else if (p->cfg.none && p->phase == PH_START)
        pair_op_done(p, false,
                     "this node hasn't met the other one since it started, so it can't know who "
                     "was primary last; batonctl start --alone, if the other one is gone");
    else if (p->phase != PH_FOLLOW || !record_names(&p->rec, p->cfg.self, &p->store.id) ||
             fact_left_behind(p))
        pair_op_done(p, false,
                     "this node isn't known to hold every acknowledged message (not in sync); "
                     "--force takes over all the same and may lose what it never got");
    else
        p->failover_wanted = true;
}

void pair_on_operator(struct pair *p, const struct pair_event *ev)
{
    if (p->op_token) {
        refuse(p, ev->op, "another operation is under way");
        return;
    }
    if (p->cfg.single && ev->type != PE_OP_STOP) {
        refuse(p, ev->op, "this is a single node: there is no other to hand over to");
        return;
    }
    p->op_token = ev->op;
    p->op_since = p->now;
    p->op_epoch = p->rec.epoch;
    switch (ev->type) {
    case PE_OP_SWITCHOVER:
        on_switchover(p);
        break;
    case PE_OP_FAILOVER:
        on_failover(p, ev->flag);
        break;
    case PE_OP_START_ALONE:
        on_start_alone(p);
        break;
    default:
        assert(!"operator event");
    }
}

/* The first epoch of a pair. Whoever is bootstrapped without having met the other node may be an
 * emptied one whose old epochs live on over there; with an arbiter to ask that can't be, without
 * one it begins somewhere in 2^22 rather than at 2 (incident 31: no epoch is used twice). */
static uint32_t first_epoch(struct pair *p, bool met)
{
    uint32_t above = p->store.epoch_seen;
    if (BATON_MUTANT(EPOCH_USED_AGAIN, false, p->cfg.none && !met))
        above += (uint32_t)(1000 + pair_next_tag(p) % (1u << 22));
    return epoch_next(above, p->cfg.self);
}

void pair_bootstrap(struct pair *p, uint64_t op)
{
    if (!p->store.open || p->rec.version || p->cfg.single || p->op != REG_OP_NONE) {
        if (op)
            refuse(p, op,
                   p->rec.version ? "the voters hold a record already: this pair was started before"
                                  : "not now: the store isn't open yet, or this is a single node");
        return;
    }
    struct record first = {.version = 1,
                           .epoch = first_epoch(p, op == 0 || p->peer_rx),
                           .primary = (uint8_t)p->cfg.self,
                           .tag = pair_next_tag(p)};
    first.in_sync[p->cfg.self] = true;
    first.store[p->cfg.self] = p->store.id;
    /* The operator's word goes for what follows as well, unless the other node is heard. */
    p->alone_wanted |= p->cfg.none && op;
    pair_fx(p, (struct pair_effect){.type = PX_BOOTSTRAP, .record = first, .op = op});
}

/* An operation that outlives its patience: the answer is "undecided", and nothing is undone. */
void pair_operator_timeouts(struct pair *p)
{
    if (!p->op_token)
        return;
    bool peer_serves =
        p->heard && p->peer.serving && p->now - p->peer_rx < p->cfg.takeover_after_ns;
    bool named = record_names(&p->rec, p->cfg.self, &p->store.id);
    if (p->alone_wanted && !named && (p->phase == PH_ORPHAN || p->phase == PH_FOLLOW)) {
        pair_op_done(p, false,
                     "this node isn't known to hold every acknowledged message (not in sync); "
                     "batonctl failover --force starts it all the same");
    } else if (p->op_epoch && peer_serves && p->peer.epoch > p->op_epoch && !p->epoch) {
        uint64_t paused = p->quiesced_at ? p->now - p->quiesced_at : 0;
        pair_op_done(p, true, "%c is primary now; delivery paused %llu ms",
                     node_letter(pair_peer(p)), (unsigned long long)(paused / MS));
    } else if (p->now - p->op_since > SWITCHOVER_TIMEOUT_MS * MS) {
        char why[160];
        roles_why(p, why, sizeof why);
        pair_op_done(p, false, "undecided after %d s: %s", SWITCHOVER_TIMEOUT_MS / 1000, why);
    }
}
