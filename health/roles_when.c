/* See roles_when.h: when a node leaves a phase (protocol 5, 6, 7). */
#include "health/roles_when.h"

#include "node/base/mutant.h"

#define MS 1000000ull

enum {
    QUIESCE_TIMEOUT_MS = 5000,    /* final dots of slow receivers; then they count as in doubt */
    DRAIN_TIMEOUT_MS = 2000,      /* the standby acknowledges what it got */
    RELINQUISH_TIMEOUT_MS = 3000, /* the standby's change; then the record is read */
    LEAVE_TIMEOUT_MS = 1500,      /* the primary drops us */
    STOP_TIMEOUT_MS = 6000,       /* a hand-over at a clean stop */
    HANDOVER_EXPIRES_MS = 10000,  /* an order that couldn't be carried out is forgotten */
};

static uint64_t in_phase(const struct pair *p)
{
    return p->now - p->phase_since;
}

bool fact_silent(const struct pair *p, uint64_t since, uint64_t limit_ns)
{
    return p->now >= since + limit_ns;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

bool fact_named(const struct pair *p)
{
    return record_names(&p->rec, p->cfg.self, &p->store.id);
}

/* Never followed below (protocol 5): the record, the own history, and what the peer was heard to
 * serve in, be it by an operator's force that the voters don't know of. */
uint32_t fact_seen(const struct pair *p)
{
    uint32_t seen = p->rec.version ? p->rec.epoch : 0;
    if (p->store.epoch_seen > seen)
        seen = p->store.epoch_seen;
    return BATON_MUTANT(CLAIM_BELOW_SEEN, false, p->served_seen > seen) ? p->served_seen : seen;
}

bool fact_below_seen(const struct pair *p)
{
    uint32_t epoch = p->rec_local ? p->rec.epoch : p->voters.epoch;
    return p->rec.version && epoch < fact_seen(p);
}

static bool can_follow_record(const struct pair *p)
{
    return p->store.open && p->rec_read && p->rec.version && !fact_below_seen(p);
}

static bool idle_register(const struct pair *p)
{
    return p->op == REG_OP_NONE && p->change == CH_NONE && p->now >= p->retry_at;
}

bool when_superseded(const struct pair *p)
{
    return p->superseded;
}

bool when_store_failed(const struct pair *p)
{
    return p->store_failed || p->promote_failed;
}

bool when_stopping(const struct pair *p)
{
    return p->stopping;
}

/* Lease over, by acknowledgements. */
static bool lease_over(const struct pair *p)
{
    return p->now >= pair_lease_end(p);
}

/* Reasons to go on without the standby (protocol 5, "drop standby"). */
static bool standby_gone(const struct pair *p)
{
    unsigned peer = pair_peer(p);
    uint64_t heard = later(p->lease_base, p->epoch_since);
    if (fact_silent(p, heard, pair_lease_length(p) * 7 / 10) || p->slow)
        return true;
    if (!p->attached)
        return (p->heard && p->peer.leaving) ||
               fact_silent(p, later(p->detached_since, p->epoch_since), p->cfg.standby_timeout_ns);
    return !store_id_eq(&p->follower, &p->rec.store[peer]) || p->peer.leaving;
}

bool when_standby_back(const struct pair *p)
{
    return !standby_gone(p) && !lease_over(p) && p->change == CH_NONE && p->op == REG_OP_NONE &&
           record_paired(&p->rec);
}

bool when_drop_due(const struct pair *p)
{
    return !p->cfg.single && standby_gone(p);
}

bool when_changed(const struct pair *p)
{
    return p->change == CH_DONE;
}
bool when_refused(const struct pair *p)
{
    return p->change == CH_REFUSED;
}
bool when_not_done(const struct pair *p)
{
    return p->change == CH_NOT_DONE;
}

/* ---- conditions ---- */

bool when_start_single(const struct pair *p)
{
    return p->cfg.single && p->store.open && p->store.fit;
}

bool when_start_own(const struct pair *p)
{
    return !p->stalled && can_follow_record(p) && p->rec.primary == p->cfg.self && fact_named(p) &&
           p->store.fit && idle_register(p);
}

bool when_start_orphan(const struct pair *p)
{
    return can_follow_record(p) && p->rec.primary == p->cfg.self &&
           !(fact_named(p) && p->store.fit);
}

bool when_start_follow(const struct pair *p)
{
    return can_follow_record(p) && p->rec.primary == pair_peer(p);
}

bool when_orphan_over(const struct pair *p)
{
    return !when_start_orphan(p);
}

/* This store was promoted by force, and the voters still don't know of it: so the word that was
 * given then stands (protocol 5, "forced": stored locally). It takes a read, which shows that no
 * later change got past that epoch. */
bool when_forced_before(const struct pair *p)
{
    uint32_t forced = p->store.forced;
    return BATON_MUTANT(FORCE_FORGOTTEN, false, !p->rec_local) && p->rec_read && p->store.open &&
           p->store.fit && forced && (forced & 1) == p->cfg.self && forced == p->store.end.epoch &&
           forced == fact_seen(p) && p->voters.version && p->voters.epoch < forced &&
           idle_register(p);
}

bool when_forced(const struct pair *p)
{
    return p->force_wanted && p->store.open && p->store.fit && p->op == REG_OP_NONE &&
           p->change != CH_UNKNOWN;
}

/* The primary said that it goes on alone, and the record couldn't be read since (one direction of
 * the link may be cut). With an arbiter the change of the record would show it; a judgement that
 * remembers nothing would not. */
bool fact_left_behind(const struct pair *p)
{
    return p->cfg.none && p->heard_alone;
}

static bool may_take_over(const struct pair *p)
{
    return p->rec.primary == pair_peer(p) && !fact_below_seen(p) && !fact_left_behind(p) &&
           BATON_MUTANT(TAKEOVER_OUT_OF_SYNC, true, fact_named(p)) && p->store.open &&
           p->store.fit && !p->store_failed && !p->stalled && idle_register(p);
}

bool when_given_up(const struct pair *p)
{
    return may_take_over(p) &&
           BATON_MUTANT(ANY_RELINQUISH, p->relinquished != 0, p->relinquished == p->rec.epoch);
}

bool when_ordered(const struct pair *p)
{
    return may_take_over(p) && (p->failover_wanted || p->alone_wanted);
}

/* Since when the record's primary is silent at the longest. */
uint64_t fact_last_life(const struct pair *p)
{
    return later(p->serving_rx ? p->serving_rx : later(p->started, p->rec_since),
                 BATON_MUTANT(OWN_SILENCE, 0, p->woke));
}

/* Without an arbiter: whether anybody may agree. A primary that is heard, but doesn't serve, votes
 * itself; for one that isn't heard it is the judgement. */
static bool may_be_granted(const struct pair *p)
{
    return !p->cfg.none || p->judged == JUDGED_GONE ||
           (p->peer_rx && !fact_silent(p, p->peer_rx, p->cfg.takeover_after_ns));
}

bool when_primary_silent(const struct pair *p)
{
    return may_take_over(p) && p->auto_takeover &&
           fact_silent(p, fact_last_life(p), p->cfg.takeover_after_ns) && may_be_granted(p);
}

bool when_follow_other(const struct pair *p)
{
    return p->rec.version &&
           (p->rec.epoch != p->followed.epoch || p->rec.primary != p->followed.primary);
}

bool when_store_gone(const struct pair *p)
{
    return p->store_failed;
}

bool when_old_lease_over(const struct pair *p)
{
    uint64_t lease = p->cfg.lease_ns;
    if (p->heard && BATON_MUTANT(OWN_LEASE, false, p->peer.lease_ns > lease))
        lease = p->peer.lease_ns;
    uint64_t wait = lease + lease / 50 + 10 * MS; /* x 1.02 + 10 ms: clock rates differ */
    return BATON_MUTANT(NO_LEASE_WAIT, true, p->no_lease_wait) ||
           fact_silent(p, later(p->acked_rx, p->started), wait);
}

bool when_beaten(const struct pair *p)
{
    return p->rec.primary != p->cfg.self || fact_below_seen(p);
}

/* Not by a full copy (pair.c, let_empty()); but a store may be found damaged meanwhile. */
bool when_store_other(const struct pair *p)
{
    return !fact_named(p) || !p->store.fit;
}

bool when_promoted_paired(const struct pair *p)
{
    return p->promoted && record_paired(&p->rec);
}

bool when_promoted_solo(const struct pair *p)
{
    return p->promoted && !record_paired(&p->rec);
}

bool when_take_back_due(const struct pair *p)
{
    return !p->rec_local && p->attached && p->caught_up && idle_register(p) && !p->stopping &&
           p->peer.fit && !p->peer.leaving && store_id_eq(&p->peer.store, &p->follower) &&
           p->acked_since && p->now - p->acked_since >= p->hold_ns;
}

bool when_take_back_lost(const struct pair *p)
{
    return p->change == CH_NONE && p->op == REG_OP_NONE &&
           (p->lost || p->slow || !p->peer.fit || lease_over(p));
}

bool when_take_back_ready(const struct pair *p)
{
    return BATON_MUTANT(TAKE_BACK_UNCHECKED, true, p->ready) && p->change == CH_NONE &&
           idle_register(p) && !p->lost && !lease_over(p);
}

bool when_solo_durable(const struct pair *p)
{
    return p->solo_durable;
}

bool when_tail_due(const struct pair *p)
{
    return !p->tail_released && BATON_MUTANT(TAIL_UNMERGED, p->attached, p->merged);
}

/* The fate of a change is known, and the record says alone. */
bool when_record_alone(const struct pair *p)
{
    return p->op != REG_OP_CHANGE && p->change != CH_UNKNOWN && p->change != CH_PENDING &&
           p->rec.epoch == p->epoch && !record_paired(&p->rec);
}

bool when_taken_back(const struct pair *p)
{
    return p->change == CH_DONE && record_paired(&p->rec);
}

bool when_settleable(const struct pair *p)
{
    return p->change == CH_DONE || p->change == CH_REFUSED || p->change == CH_NOT_DONE;
}

bool when_take_back_stuck(const struct pair *p)
{
    return p->change == CH_UNKNOWN && lease_over(p);
}

bool when_fence_due(const struct pair *p)
{
    return lease_over(p) && (p->change == CH_UNKNOWN || p->change == CH_NOT_DONE ||
                             in_phase(p) >= p->cfg.lease_ns * 2);
}

bool when_drop_again(const struct pair *p)
{
    return p->op == REG_OP_NONE && p->change == CH_NONE && p->now >= p->retry_at &&
           (standby_gone(p) || lease_over(p));
}

bool when_handover_due(const struct pair *p)
{
    bool wanted =
        p->handover_wanted && !fact_silent(p, p->handover_since, HANDOVER_EXPIRES_MS * MS);
    return (wanted || p->stopping) && p->attached && p->caught_up && p->peer.fit &&
           !standby_gone(p);
}

/* Giving up the role: only to a standby that says it can take it (protocol 6, incident 28). */
bool when_stalled(const struct pair *p)
{
    return p->stalled && p->attached && p->caught_up && p->peer.fit && !standby_gone(p);
}

bool when_delivery_idle(const struct pair *p)
{
    return p->idle || in_phase(p) >= QUIESCE_TIMEOUT_MS * MS;
}

bool when_handover_lost(const struct pair *p)
{
    return standby_gone(p) && !p->stopping;
}

bool when_drained(const struct pair *p)
{
    return p->drained;
}

bool when_drain_late(const struct pair *p)
{
    return in_phase(p) >= DRAIN_TIMEOUT_MS * MS || standby_gone(p);
}

bool when_taken_over(const struct pair *p)
{
    return p->superseded || p->rec.epoch > p->epoch;
}

bool when_not_taken_over(const struct pair *p)
{
    return in_phase(p) >= RELINQUISH_TIMEOUT_MS * MS;
}

/* A forced record that the voters don't hold yet. */
bool when_offer_due(const struct pair *p)
{
    return p->rec_local && p->voters.version && p->voters.epoch < p->rec.epoch && !p->want_read &&
           idle_register(p);
}

bool when_forced_stuck(const struct pair *p)
{
    return p->force_wanted && p->change == CH_UNKNOWN && p->store.open && p->store.fit;
}

bool when_stop_late(const struct pair *p)
{
    return p->stopping && in_phase(p) >= STOP_TIMEOUT_MS * MS;
}

bool when_closed_stopping(const struct pair *p)
{
    return p->closed && p->stopping;
}

bool when_closed(const struct pair *p)
{
    return p->closed;
}

bool when_dropped_by_primary(const struct pair *p)
{
    bool primary_alive = p->serving_rx && !fact_silent(p, p->serving_rx, p->cfg.takeover_after_ns);
    return !fact_named(p) || !primary_alive || p->peer.mode == PAIR_SOLO ||
           in_phase(p) >= LEAVE_TIMEOUT_MS * MS;
}

bool when_force_locally(const struct pair *p)
{
    return p->intent == FOR_FORCE && (p->change == CH_NOT_DONE || p->change == CH_UNKNOWN);
}

bool when_force_refused(const struct pair *p)
{
    return p->intent == FOR_FORCE && p->change == CH_REFUSED && p->rec.epoch < p->want.epoch &&
           p->op == REG_OP_NONE;
}
