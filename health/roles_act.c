/* See roles_act.h: what is done on the way from phase to phase (protocol 5 "order" column, 6, 7).
 */
#include "health/roles_act.h"

#include <assert.h>
#include <stdio.h>

#include "health/roles_when.h"
#include "node/base/mutant.h"

#define MS 1000000ull

enum {
    HOLD_FIRST_MS = 1000, /* lease held before a take-back; doubles when it flaps */
    HOLD_MAX_MS = 60000,
    HOLD_FORGET_MS = 300000, /* paired for so long: the patience starts anew */
    FORCED_EPOCHS = 1000,    /* protocol 5: forced epochs lie this far above all seen */
};

void act_nothing(struct pair *p)
{
    (void)p;
}

void act_look_again(struct pair *p)
{
    p->want_read = !p->cfg.single;
    p->read_at = p->now;
}

void act_settle_and_look(struct pair *p)
{
    pair_change_settled(p);
    act_look_again(p);
}

/* A failover is asked for once, so this is its answer. */
void act_not_won(struct pair *p)
{
    bool heard = p->peer_rx && p->now - p->peer_rx < p->cfg.takeover_after_ns;
    bool failover = p->intent == FOR_TAKEOVER && p->warrant == WARRANT_ORDERED &&
                    !p->alone_wanted && !p->force_wanted;
    if (failover && p->cfg.none && heard)
        pair_op_done(p, false,
                     "no takeover: %c gives signs of life, but no vote, so it may have gone on "
                     "alone; see that it is off and say it again (or --force)",
                     node_letter(pair_peer(p)));
    else if (failover && p->behind)
        pair_op_done(p, false,
                     "no takeover: the arbiter has lost the record; if %c is dead: batonctl "
                     "failover --force",
                     node_letter(pair_peer(p)));
    else if (failover)
        pair_op_done(p, false, "no takeover yet: the voters didn't answer in time; say it again");
    act_settle_and_look(p);
}

void roles_watch_follower(struct pair *p)
{
    p->lease_from = p->follower;
    p->lease_base = p->lease_end = p->acked_since = 0;
}

/* What belongs to one epoch starts anew. */
static void begin_epoch(struct pair *p, uint32_t epoch)
{
    p->epoch = epoch;
    p->epoch_since = p->now;
    p->epoch_first_seq = p->seq + 1;
    p->lease_base = p->lease_end = p->acked_since = 0;
    p->promoted = p->promote_failed = p->tail_released = p->superseded = false;
    p->attached = p->caught_up = p->merged = p->slow = p->ready = p->lost = false;
    p->solo_durable = p->drained = p->closed = p->idle = false;
    p->detached_since = p->now;
    p->quiesced_at = 0;
    p->lease_from = p->rec.store[pair_peer(p)];
}

void act_promote(struct pair *p)
{
    if (p->change == CH_DONE)
        pair_change_settled(p);
    begin_epoch(p, p->rec.epoch);
    pair_fx(p, (struct pair_effect){.type = PX_PROMOTE,
                                    .epoch = p->epoch,
                                    .mode = record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO,
                                    .record = p->rec});
}

void act_promote_single(struct pair *p)
{
    struct record r = {.version = 1,
                       .epoch = epoch_next(p->store.epoch_seen, p->cfg.self),
                       .primary = (uint8_t)p->cfg.self,
                       .tag = 1};
    r.in_sync[p->cfg.self] = true;
    r.store[p->cfg.self] = p->store.id;
    p->rec = r;
    p->order_at = p->now;
    p->from = 0;
    act_promote(p);
}

static uint32_t highest_epoch(const struct pair *p)
{
    uint32_t e = fact_seen(p);
    return p->heard && p->peer.epoch > e ? p->peer.epoch : e;
}

static void claim(struct pair *p, enum intent intent, enum warrant warrant, uint64_t cause_at)
{
    bool keep_peer = intent == FOR_RESTART && !p->alone_wanted;
    uint32_t above = p->cfg.none ? highest_epoch(p) : fact_seen(p);
    if (p->alone_wanted) /* nobody was asked what was used already: as far above as a forced one */
        above = highest_epoch(p) + BATON_MUTANT(EPOCH_USED_AGAIN, 0, FORCED_EPOCHS);
    /* While it isn't with the voters, a forced record is replaced by a forced one. */
    struct record to = {.epoch = epoch_next(above, p->cfg.self),
                        .primary = (uint8_t)p->cfg.self,
                        .forced = p->rec_local};
    unsigned peer = pair_peer(p);
    to.in_sync[p->cfg.self] = true;
    to.store[p->cfg.self] = p->store.id;
    if (keep_peer && p->rec.in_sync[peer]) {
        to.in_sync[peer] = true;
        to.store[peer] = p->rec.store[peer];
    }
    p->order_at = cause_at;
    p->from = node_letter(p->rec.primary);
    pair_change(p, intent, p->alone_wanted ? WARRANT_ORDERED : warrant, &to);
}

void act_claim_restart(struct pair *p)
{
    /* A store that was promoted in the epoch that is replaced has waited out the lease before it;
     * its own ended with its process, or was ended by it. An epoch that was decided but never
     * promoted is another matter: the primary before it may still deliver. */
    p->no_lease_wait = p->store.end.epoch == p->rec.epoch;
    snprintf(p->reason, sizeof p->reason, "%s",
             p->alone_wanted ? "started alone by the operator" : "restart of the primary");
    claim(p, FOR_RESTART, WARRANT_NONE,
          p->alone_wanted  ? p->op_since
          : p->epoch_since ? p->now
                           : p->started);
}

void act_claim_given_up(struct pair *p)
{
    p->no_lease_wait = true;
    snprintf(p->reason, sizeof p->reason,
             p->relinquished_paused_ms ? "planned hand-over by %c" : "%c stalled or failed",
             node_letter(pair_peer(p)));
    /* Without an arbiter its word is worth a vote, unless it went on alone before it gave up. */
    claim(p, FOR_TAKEOVER, p->peer.mode == PAIR_PAIRED ? WARRANT_GIVEN_UP : WARRANT_NONE,
          p->now - p->relinquished_paused_ms * MS);
}

void act_claim_ordered(struct pair *p)
{
    p->no_lease_wait = false;
    p->failover_wanted = false;
    snprintf(p->reason, sizeof p->reason, "%s",
             p->alone_wanted ? "started alone by the operator" : "ordered by the operator");
    claim(p, FOR_TAKEOVER, WARRANT_ORDERED, p->op_since);
}

void act_claim_silent(struct pair *p)
{
    p->no_lease_wait = false;
    uint64_t since = fact_last_life(p);
    snprintf(p->reason, sizeof p->reason, "no sign of life from %c for %.2f s",
             node_letter(pair_peer(p)), (double)(p->now - since) / 1e9);
    claim(p, FOR_TAKEOVER, WARRANT_SILENT, since);
}

/* The forced record as it was before this process started. */
void act_recall_forced(struct pair *p)
{
    p->rec = (struct record){.version = p->voters.version + 1,
                             .epoch = p->store.forced,
                             .primary = (uint8_t)p->cfg.self,
                             .forced = true};
    p->rec.in_sync[p->cfg.self] = true;
    p->rec.store[p->cfg.self] = p->store.id;
    p->rec_local = true;
}

/* Protocol 5, "forced": the operator says that the other node is dead; epochs are left out so that
 * whatever it may have done meanwhile stays below. */
void act_claim_forced(struct pair *p)
{
    struct record to = {.epoch = epoch_next(highest_epoch(p) + FORCED_EPOCHS, p->cfg.self),
                        .primary = (uint8_t)p->cfg.self,
                        .forced = true};
    to.in_sync[p->cfg.self] = true;
    to.store[p->cfg.self] = p->store.id;
    if (p->change != CH_NONE && p->change != CH_PENDING)
        pair_change_settled(p);
    p->no_lease_wait = false;
    p->force_wanted = false;
    p->order_at = p->op_since;
    p->from = p->rec.version ? node_letter(p->rec.primary) : 0;
    snprintf(p->reason, sizeof p->reason, "forced by the operator");
    /* What was followed so far must not empty or change this store any more. */
    pair_fx(p, (struct pair_effect){.type = PX_FOLLOW, .record = to, .epoch = to.epoch});

    pair_change(p, FOR_FORCE, WARRANT_FORCED, &to);
}

/* The voters can't be asked: the record is kept here alone, and offered to them later. */
void act_adopt_forced(struct pair *p)
{
    p->rec = p->want;
    p->rec_local = true;
    p->change = CH_NONE;
    p->intent = FOR_NOTHING;
    p->want_read = true;
    p->read_at = p->now + 1000 * MS;
}

/* The register couldn't tell the fate of an earlier change; the operator's word goes past it. */
void act_force_stuck(struct pair *p)
{
    p->change = CH_NONE;
    p->want = p->rec;
    p->want.version = p->rec.version + 1;
    p->want.epoch = epoch_next(highest_epoch(p) + FORCED_EPOCHS, p->cfg.self);
    p->want.primary = (uint8_t)p->cfg.self;
    p->want.forced = true;
    p->want.in_sync[pair_peer(p)] = false;
    p->want.in_sync[p->cfg.self] = true;
    p->want.store[p->cfg.self] = p->store.id;
    p->want.tag = p->want.tag * 6364136223846793005ull + p->cfg.boot_random;
    p->no_lease_wait = p->force_wanted = false;
    p->order_at = p->op_since;
    snprintf(p->reason, sizeof p->reason, "forced by the operator");
    act_adopt_forced(p);
}

/* The operator's order stands as long as it is unanswered; with the store as it is now. */
void act_force_other(struct pair *p)
{
    if (p->rec_local) {
        p->rec = p->voters;
        p->rec_local = false;
    }
    p->force_wanted = p->forcing;
    act_look_again(p);
}

void act_force_again(struct pair *p)
{
    struct record to = p->want;
    pair_change_settled(p);
    pair_change(p, FOR_FORCE, WARRANT_FORCED, &to);
}

void act_settled(struct pair *p)
{
    pair_change_settled(p);
}

void act_follow(struct pair *p)
{
    if (p->change != CH_NONE && p->change != CH_PENDING && p->change != CH_UNKNOWN)
        pair_change_settled(p);
    p->followed = p->rec;
    pair_fx(p, (struct pair_effect){.type = PX_FOLLOW, .record = p->rec, .epoch = p->rec.epoch});
}

static void note_takeover(struct pair *p)
{
    memmove(p->takeovers + 1, p->takeovers, sizeof p->takeovers - sizeof p->takeovers[0]);
    struct pair_takeover *t = &p->takeovers[0];
    *t = (struct pair_takeover){.from = p->from, .to = node_letter(p->cfg.self)};
    t->duration_ns = p->now - p->order_at;
    t->in_doubt = p->in_doubt;
    memcpy(t->reason, p->reason, sizeof t->reason);
    if (p->n_takeovers < PAIR_TAKEOVERS)
        p->n_takeovers++;
}

void act_release_tail(struct pair *p)
{
    p->tail_released = true;
    pair_fx(p, (struct pair_effect){.type = PX_RELEASE_TAIL, .epoch = p->epoch});
}

static void serve(struct pair *p)
{
    pair_fx(p, (struct pair_effect){.type = PX_SERVE, .epoch = p->epoch, .record = p->rec});
    if (p->from && p->from != node_letter(p->cfg.self))
        note_takeover(p);
    pair_hook(p, "promoted");
    pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
    double took_ms = (double)(p->now - p->order_at) / 1e6;
    char self = node_letter(p->cfg.self), peer = node_letter(pair_peer(p));
    if (p->rec.forced)
        pair_op_done(p, true,
                     "%c is primary now, by force, %.0f ms after the order; what only %c holds is "
                     "missing until it returns, what both send goes out twice",
                     self, took_ms, peer);
    else if (p->no_lease_wait)
        pair_op_done(p, true, "%c is primary now; delivery paused %.0f ms", self, took_ms);
    else if (p->cfg.none)
        pair_op_done(p, true,
                     "%c is primary now, %.0f ms after the order. Without an arbiter nobody can "
                     "tell whether %c went on alone: what only %c holds is missing until it "
                     "returns, what it sent meanwhile goes out twice",
                     self, took_ms, peer, peer);
    else
        pair_op_done(p, true, "%c took over, %.0f ms after the order", self, took_ms);
}

void act_serve_solo(struct pair *p)
{
    pair_publish_lease(p); /* must be there before delivery starts */
    serve(p);
    p->alone_wanted = false;
    act_release_tail(p);
    pair_hook(p, "solo");
}

void act_serve_paired(struct pair *p)
{
    serve(p);
    pair_hook(p, "paired");
}

void act_take_back(struct pair *p)
{
    p->ready = p->lost = p->slow = false;
    pair_fx(p,
            (struct pair_effect){.type = PX_TAKE_BACK, .epoch = p->epoch, .follower = p->follower});
}

void act_ask_take_back(struct pair *p)
{
    struct record to = p->rec;
    unsigned peer = pair_peer(p);
    to.in_sync[peer] = true;
    to.store[peer] = p->lease_from;
    p->ready = false;
    pair_change(p, FOR_TAKE_BACK, WARRANT_NONE, &to);
}

static void drop_durably(struct pair *p)
{
    p->solo_durable = false;
    p->slow = false;
    pair_fx(p, (struct pair_effect){.type = PX_DROP, .epoch = p->epoch, .record = p->rec});
}

void act_undo_take_back(struct pair *p)
{
    if (p->change != CH_NONE)
        pair_change_settled(p);
    p->hold_ns = p->hold_ns * 2 < HOLD_MAX_MS * MS ? p->hold_ns * 2 : HOLD_MAX_MS * MS;
    drop_durably(p);
}

void act_paired(struct pair *p)
{
    pair_change_settled(p);
    p->paired_at = p->now;
    p->slow = false;
    pair_fx(p,
            (struct pair_effect){.type = PX_PAIRED, .epoch = p->epoch, .follower = p->lease_from});
    pair_hook(p, "paired");
}

void act_back(struct pair *p)
{
    if (p->alone_wanted)
        pair_op_done(p, true, "the standby is back: nobody has to go on alone");
    pair_fx(p,
            (struct pair_effect){.type = PX_PAIRED, .epoch = p->epoch, .follower = p->lease_from});
}

/* The voters learn of a forced record, over a lower one only (protocol 5, "never blindly"). */
void act_offer(struct pair *p)
{
    struct record to = p->rec;
    pair_change(p, FOR_FORCE, WARRANT_FORCED, &to);
    p->want_read = true; /* until they hold it */
}

void act_ask_drop(struct pair *p)
{
    struct record to = p->rec;
    to.in_sync[pair_peer(p)] = false;
    to.store[pair_peer(p)] = (struct store_id){{0}};
    pair_change(p, FOR_DROP, p->alone_wanted ? WARRANT_ORDERED : WARRANT_SERVING, &to);
}

void act_dropped(struct pair *p)
{
    if (p->change != CH_NONE)
        pair_change_settled(p);
    if (p->paired_at && p->now - p->paired_at > HOLD_FORGET_MS * MS)
        p->hold_ns = HOLD_FIRST_MS * MS;
    else if (p->paired_at)
        p->hold_ns = p->hold_ns * 2 < HOLD_MAX_MS * MS ? p->hold_ns * 2 : HOLD_MAX_MS * MS;
    drop_durably(p);
}

void act_alone(struct pair *p)
{
    if (p->attached)
        roles_watch_follower(p);
    if (!p->tail_released)
        act_release_tail(p);
    pair_hook(p, "solo");
    if (p->alone_wanted)
        pair_op_done(p, true, "%c goes on alone", node_letter(p->cfg.self));
}

void act_quiesce(struct pair *p)
{
    p->idle = false;
    p->handover_wanted = false;
    p->quiesced_at = p->now;
    p->op_epoch = p->epoch;
    pair_fx(p, (struct pair_effect){.type = PX_QUIESCE, .epoch = p->epoch});
}

void act_resume(struct pair *p)
{
    p->quiesced_at = 0;
    pair_op_done(p, false, "the standby went away during the switchover; this node goes on");
    if (p->tail_released) /* else it waits to be merged, or for the drop */
        act_release_tail(p);
}

void act_drain(struct pair *p)
{
    p->drained = false;
    pair_fx(p, (struct pair_effect){.type = PX_DRAIN, .epoch = p->epoch});
}

/* End own lease first, then say so (incident 16). */
void act_relinquish(struct pair *p)
{
    pair_publish_lease(p);
    pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
}

void act_step_down(struct pair *p)
{
    pair_publish_lease(p);
    p->closed = false;
    if (p->change != CH_NONE && p->change != CH_PENDING && p->change != CH_UNKNOWN)
        pair_change_settled(p);
    pair_fx(p, (struct pair_effect){.type = PX_STEP_DOWN, .epoch = p->epoch});
    pair_hook(p, "demoted");
}

void act_epoch_ended(struct pair *p)
{
    p->epoch = 0;
    p->followed = (struct record){0};
    p->rec_read = false;
    act_look_again(p);
}

void act_fail(struct pair *p)
{
    pair_publish_lease(p);
    if (p->epoch) {
        pair_fx(p, (struct pair_effect){.type = PX_STEP_DOWN, .epoch = p->epoch});
        pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
        pair_hook(p, "demoted");
    }
    pair_op_done(p, false, "the store failed");
}

void act_leave(struct pair *p)
{
    pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
}

void act_stopped(struct pair *p)
{
    pair_fx(p, (struct pair_effect){.type = PX_STOPPED});
}
