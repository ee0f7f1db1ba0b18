/* The table of roles (protocol 5, 6, 7): what a node does in each phase, and every way from one
 * phase to another with its condition, its reason and its action. The reason is the operator's log
 * line; `roles_dot()` draws the diagram from the same rows; a test walks the table to prove that
 * every phase can be left.
 *
 *   start -> follow -> claim -> lease-wait -> promote -> solo | paired
 *   solo -> take-back -> paired -> drop -> release -> solo
 *   paired -> quiesce -> drain -> relinquished -> start        (hand-over)
 *   any serving phase -> step -> start                          (another epoch)
 *
 * Rules are tried in the order of the table after every event, until none holds. A condition only
 * reads facts; an action emits effects and begins what the new phase waits for. */
#include "health/roles.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "health/pair_state.h"
#include "node/base/mutant.h"

#define MS 1000000ull

enum {
    QUIESCE_TIMEOUT_MS = 5000,    /* final dots of slow receivers; then they count as in doubt */
    DRAIN_TIMEOUT_MS = 2000,      /* the standby acknowledges what it got */
    RELINQUISH_TIMEOUT_MS = 3000, /* the standby's change; then the record is read */
    LEAVE_TIMEOUT_MS = 1500,      /* the primary drops us */
    STOP_TIMEOUT_MS = 6000,       /* a hand-over at a clean stop */
    HANDOVER_EXPIRES_MS = 10000,  /* an order that couldn't be carried out is forgotten */
    HOLD_FIRST_MS = 1000,         /* lease held before a take-back; doubles when it flaps */
    HOLD_MAX_MS = 60000,
    HOLD_FORGET_MS = 300000, /* paired for so long: the patience starts anew */
    FORCED_EPOCHS = 1000,    /* protocol 5: forced epochs lie this far above all seen */
    RULES_PER_STEP = 24      /* more in a row would be a loop in the table */
};

/* ---- what phases mean ---- */

static const struct {
    const char *name;
    enum role role;
    bool serves;   /* accepts mail */
    bool in_epoch; /* own epoch under way: must be closed by PH_STEP */
} phases[PHASES] = {
    [PH_START] = {"start", ROLE_STARTING, false, false},
    [PH_ORPHAN] = {"orphan", ROLE_REJOINING, false, false},
    [PH_FOLLOW] = {"follow", ROLE_STANDBY, false, false},
    [PH_CLAIM] = {"claim", ROLE_PROMOTING, false, false},
    [PH_LEASE_WAIT] = {"lease-wait", ROLE_PROMOTING, false, false},
    [PH_PROMOTE] = {"promote", ROLE_PROMOTING, false, true},
    [PH_SOLO] = {"solo", ROLE_PRIMARY, true, true},
    [PH_TAKE_BACK] = {"take-back", ROLE_PRIMARY, true, true},
    [PH_PAIRED] = {"paired", ROLE_PRIMARY, true, true},
    [PH_DROP] = {"drop", ROLE_PRIMARY, true, true},
    [PH_RELEASE] = {"release", ROLE_PRIMARY, true, true},
    [PH_FENCED] = {"fenced", ROLE_FENCED, false, true},
    [PH_QUIESCE] = {"quiesce", ROLE_PRIMARY, false, true},
    [PH_DRAIN] = {"drain", ROLE_PRIMARY, false, true},
    [PH_RELINQUISHED] = {"relinquished", ROLE_REJOINING, false, true},
    [PH_FINISH] = {"finish", ROLE_PRIMARY, false, true},
    [PH_STEP] = {"step", ROLE_REJOINING, false, true},
    [PH_FAILED] = {"failed", ROLE_FENCED, false, true},
    [PH_LEAVING] = {"leaving", ROLE_STANDBY, false, false},
    [PH_STOPPED] = {"stopped", ROLE_STARTING, false, false},
};

const char *role_name(enum role r)
{
    static const char *const names[] = {"starting", "standby", "promoting",
                                        "primary",  "fenced",  "rejoining"};
    return names[r];
}

const char *roles_phase_name(unsigned ph)
{
    assert(ph < PHASES);
    return phases[ph].name;
}

bool roles_serves(const struct pair *p)
{
    return phases[p->phase].serves;
}

/* ---- facts that conditions read ---- */

static uint64_t in_phase(const struct pair *p)
{
    return p->now - p->phase_since;
}

static bool silent(const struct pair *p, uint64_t since, uint64_t limit_ns)
{
    return p->now >= since + limit_ns;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static bool named(const struct pair *p)
{
    return record_names(&p->rec, p->cfg.self, &p->store.id);
}

enum role roles_role(const struct pair *p)
{
    if (p->phase == PH_FOLLOW && !named(p))
        return ROLE_REJOINING; /* a standby is only who may be promoted */
    return phases[p->phase].role;
}

static bool can_follow_record(const struct pair *p)
{
    return p->store.open && p->rec_read && p->rec.version && !p->rec_below_seen;
}

static bool idle_register(const struct pair *p)
{
    return p->op == REG_OP_NONE && p->change == CH_NONE && p->now >= p->retry_at;
}

static bool superseded(const struct pair *p)
{
    return p->superseded;
}

static bool store_failed(const struct pair *p)
{
    return p->store_failed || p->promote_failed;
}

static bool stopping(const struct pair *p)
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
    if (silent(p, heard, pair_lease_length(p) * 7 / 10) || p->slow)
        return true;
    if (!p->attached)
        return (p->heard && p->peer.leaving) ||
               silent(p, later(p->detached_since, p->epoch_since), p->cfg.standby_timeout_ns);
    return !store_id_eq(&p->follower, &p->rec.store[peer]) || p->peer.leaving;
}

static bool standby_back(const struct pair *p)
{
    return !standby_gone(p) && !lease_over(p) && p->change == CH_NONE && p->op == REG_OP_NONE &&
           record_paired(&p->rec);
}

static bool drop_due(const struct pair *p)
{
    return !p->cfg.single && standby_gone(p);
}

static bool changed(const struct pair *p)
{
    return p->change == CH_DONE;
}
static bool refused(const struct pair *p)
{
    return p->change == CH_REFUSED;
}
static bool not_done(const struct pair *p)
{
    return p->change == CH_NOT_DONE;
}

/* ---- conditions ---- */

static bool start_single(const struct pair *p)
{
    return p->cfg.single && p->store.open && p->store.fit;
}

static bool start_own(const struct pair *p)
{
    return !p->stalled && can_follow_record(p) && p->rec.primary == p->cfg.self && named(p) &&
           p->store.fit && idle_register(p);
}

static bool start_orphan(const struct pair *p)
{
    return can_follow_record(p) && p->rec.primary == p->cfg.self && !(named(p) && p->store.fit);
}

static bool start_follow(const struct pair *p)
{
    return can_follow_record(p) && p->rec.primary == pair_peer(p);
}

static bool orphan_over(const struct pair *p)
{
    return !start_orphan(p);
}

static bool forced(const struct pair *p)
{
    return p->force_wanted && p->store.open && p->store.fit && p->op == REG_OP_NONE &&
           p->change != CH_UNKNOWN;
}

static bool may_take_over(const struct pair *p)
{
    return p->rec.primary == pair_peer(p) && BATON_MUTANT(TAKEOVER_OUT_OF_SYNC, true, named(p)) &&
           p->store.open && p->store.fit && !p->store_failed && !p->stalled && idle_register(p);
}

static bool given_up(const struct pair *p)
{
    return may_take_over(p) &&
           BATON_MUTANT(ANY_RELINQUISH, p->relinquished != 0, p->relinquished == p->rec.epoch);
}

static bool ordered(const struct pair *p)
{
    return may_take_over(p) && p->failover_wanted;
}

/* Since when the record's primary is silent at the longest. */
static uint64_t last_life(const struct pair *p)
{
    return later(p->serving_rx ? p->serving_rx : later(p->started, p->rec_since), p->woke);
}

static bool primary_silent(const struct pair *p)
{
    return may_take_over(p) && p->auto_takeover &&
           silent(p, last_life(p), p->cfg.takeover_after_ns);
}

static bool follow_other(const struct pair *p)
{
    return p->rec.version &&
           (p->rec.epoch != p->followed.epoch || p->rec.primary != p->followed.primary);
}

static bool store_gone(const struct pair *p)
{
    return p->store_failed;
}

static bool old_lease_over(const struct pair *p)
{
    uint64_t lease = p->cfg.lease_ns;
    if (p->heard && p->peer.lease_ns > lease)
        lease = p->peer.lease_ns;
    uint64_t wait = lease + lease / 50 + 10 * MS; /* x 1.02 + 10 ms: clock rates differ */
    return BATON_MUTANT(NO_LEASE_WAIT, true, p->no_lease_wait) ||
           silent(p, later(p->acked_rx, p->started), wait);
}

static bool beaten(const struct pair *p)
{
    return p->rec.primary != p->cfg.self;
}

static bool promoted_paired(const struct pair *p)
{
    return p->promoted && record_paired(&p->rec);
}

static bool promoted_solo(const struct pair *p)
{
    return p->promoted && !record_paired(&p->rec);
}

static bool take_back_due(const struct pair *p)
{
    return !p->rec_local && p->attached && p->caught_up && idle_register(p) && !p->stopping &&
           p->peer.fit && !p->peer.leaving && store_id_eq(&p->peer.store, &p->follower) &&
           p->acked_since && p->now - p->acked_since >= p->hold_ns;
}

static bool take_back_lost(const struct pair *p)
{
    return p->change == CH_NONE && p->op == REG_OP_NONE &&
           (p->lost || p->slow || !p->peer.fit || lease_over(p));
}

static bool take_back_ready(const struct pair *p)
{
    return p->ready && p->change == CH_NONE && idle_register(p) && !p->lost && !lease_over(p);
}

static bool solo_durable(const struct pair *p)
{
    return p->solo_durable;
}

static bool tail_due(const struct pair *p)
{
    return !p->tail_released && p->merged;
}

/* The fate of a change is known, and the record says alone. */
static bool record_alone(const struct pair *p)
{
    return p->op != REG_OP_CHANGE && p->change != CH_UNKNOWN && p->change != CH_PENDING &&
           p->rec.epoch == p->epoch && !record_paired(&p->rec);
}

static bool taken_back(const struct pair *p)
{
    return p->change == CH_DONE && record_paired(&p->rec);
}

static bool settleable(const struct pair *p)
{
    return p->change == CH_DONE || p->change == CH_REFUSED || p->change == CH_NOT_DONE;
}

static bool take_back_stuck(const struct pair *p)
{
    return p->change == CH_UNKNOWN && lease_over(p);
}

static bool fence_due(const struct pair *p)
{
    return lease_over(p) && (p->change == CH_UNKNOWN || p->change == CH_NOT_DONE ||
                             in_phase(p) >= p->cfg.lease_ns * 2);
}

static bool drop_again(const struct pair *p)
{
    return p->op == REG_OP_NONE && p->change == CH_NONE && p->now >= p->retry_at &&
           (standby_gone(p) || lease_over(p));
}

static bool handover_due(const struct pair *p)
{
    bool wanted = p->handover_wanted && !silent(p, p->handover_since, HANDOVER_EXPIRES_MS * MS);
    return (wanted || p->stopping) && p->attached && p->caught_up && p->peer.fit &&
           !standby_gone(p);
}

/* Giving up the role: only to a standby that says it can take it (protocol 6, incident 28). */
static bool stalled(const struct pair *p)
{
    return p->stalled && p->attached && p->caught_up && p->peer.fit && !standby_gone(p);
}

static bool delivery_idle(const struct pair *p)
{
    return p->idle || in_phase(p) >= QUIESCE_TIMEOUT_MS * MS;
}

static bool handover_lost(const struct pair *p)
{
    return standby_gone(p) && !p->stopping;
}

static bool drained(const struct pair *p)
{
    return p->drained;
}

static bool drain_late(const struct pair *p)
{
    return in_phase(p) >= DRAIN_TIMEOUT_MS * MS || standby_gone(p);
}

static bool taken_over(const struct pair *p)
{
    return p->superseded || p->rec.epoch > p->epoch;
}

static bool not_taken_over(const struct pair *p)
{
    return in_phase(p) >= RELINQUISH_TIMEOUT_MS * MS;
}

/* A forced record that the voters don't hold yet. */
static bool offer_due(const struct pair *p)
{
    return p->rec_local && p->voters.version && p->voters.epoch < p->rec.epoch && !p->want_read &&
           idle_register(p);
}

static bool forced_stuck(const struct pair *p)
{
    return p->force_wanted && p->change == CH_UNKNOWN && p->store.open && p->store.fit;
}

static bool stop_late(const struct pair *p)
{
    return p->stopping && in_phase(p) >= STOP_TIMEOUT_MS * MS;
}

static bool closed_stopping(const struct pair *p)
{
    return p->closed && p->stopping;
}

static bool closed(const struct pair *p)
{
    return p->closed;
}

static bool dropped_by_primary(const struct pair *p)
{
    bool primary_alive = p->serving_rx && !silent(p, p->serving_rx, p->cfg.takeover_after_ns);
    return !named(p) || !primary_alive || p->peer.mode == PAIR_SOLO ||
           in_phase(p) >= LEAVE_TIMEOUT_MS * MS;
}

/* ---- actions ---- */

static void nothing(struct pair *p)
{
    (void)p;
}

static void look_again(struct pair *p)
{
    p->want_read = !p->cfg.single;
    p->read_at = p->now;
}

static void settle_and_look(struct pair *p)
{
    pair_change_settled(p);
    look_again(p);
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

static void promote(struct pair *p)
{
    if (p->change == CH_DONE)
        pair_change_settled(p);
    begin_epoch(p, p->rec.epoch);
    pair_fx(p, (struct pair_effect){.type = PX_PROMOTE,
                                    .epoch = p->epoch,
                                    .mode = record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO,
                                    .record = p->rec});
}

static void promote_single(struct pair *p)
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
    promote(p);
}

static uint32_t highest_epoch(const struct pair *p)
{
    uint32_t e = p->rec.epoch > p->store.epoch_seen ? p->rec.epoch : p->store.epoch_seen;
    return p->heard && p->peer.epoch > e ? p->peer.epoch : e;
}

static void claim(struct pair *p, enum intent intent, bool keep_peer, uint64_t cause_at)
{
    struct record to = {.epoch = epoch_next(highest_epoch(p), p->cfg.self),
                        .primary = (uint8_t)p->cfg.self};
    unsigned peer = pair_peer(p);
    to.in_sync[p->cfg.self] = true;
    to.store[p->cfg.self] = p->store.id;
    if (keep_peer && p->rec.in_sync[peer]) {
        to.in_sync[peer] = true;
        to.store[peer] = p->rec.store[peer];
    }
    p->order_at = cause_at;
    p->from = node_letter(p->rec.primary);
    pair_change(p, intent, &to);
}

static void claim_restart(struct pair *p)
{
    /* A store that was promoted in the epoch that is replaced has waited out the lease before it;
     * its own ended with its process, or was ended by it. An epoch that was decided but never
     * promoted is another matter: the primary before it may still deliver. */
    p->no_lease_wait = p->store.end.epoch == p->rec.epoch;
    snprintf(p->reason, sizeof p->reason, "restart of the primary");
    claim(p, FOR_RESTART, true, p->epoch_since ? p->now : p->started);
}

static void claim_given_up(struct pair *p)
{
    p->no_lease_wait = true;
    snprintf(p->reason, sizeof p->reason, "planned hand-over by %c", node_letter(pair_peer(p)));
    claim(p, FOR_TAKEOVER, false, p->now - p->relinquished_paused_ms * MS);
}

static void claim_ordered(struct pair *p)
{
    p->no_lease_wait = false;
    p->failover_wanted = false;
    snprintf(p->reason, sizeof p->reason, "ordered by the operator");
    claim(p, FOR_TAKEOVER, false, p->op_since);
}

static void claim_silent(struct pair *p)
{
    p->no_lease_wait = false;
    uint64_t since = last_life(p);
    snprintf(p->reason, sizeof p->reason, "no sign of life from %c for %.2f s",
             node_letter(pair_peer(p)), (double)(p->now - since) / 1e9);
    claim(p, FOR_TAKEOVER, false, since);
}

/* Protocol 5, "forced": the operator says that the other node is dead; epochs are left out so that
 * whatever it may have done meanwhile stays below. */
static void claim_forced(struct pair *p)
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
    pair_change(p, FOR_FORCE, &to);
}

static bool force_locally(const struct pair *p)
{
    return p->intent == FOR_FORCE && (p->change == CH_NOT_DONE || p->change == CH_UNKNOWN);
}

static bool force_refused(const struct pair *p)
{
    return p->intent == FOR_FORCE && p->change == CH_REFUSED && p->rec.epoch < p->want.epoch &&
           p->op == REG_OP_NONE;
}

/* The voters can't be asked: the record is kept here alone, and offered to them later. */
static void adopt_forced(struct pair *p)
{
    p->rec = p->want;
    p->rec_local = true;
    p->change = CH_NONE;
    p->intent = FOR_NOTHING;
    p->want_read = true;
    p->read_at = p->now + 1000 * MS;
}

/* The register couldn't tell the fate of an earlier change; the operator's word goes past it. */
static void force_stuck(struct pair *p)
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
    adopt_forced(p);
}

static void force_again(struct pair *p)
{
    struct record to = p->want;
    pair_change_settled(p);
    pair_change(p, FOR_FORCE, &to);
}

static void settled(struct pair *p)
{
    pair_change_settled(p);
}

static void follow(struct pair *p)
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
    memcpy(t->reason, p->reason, sizeof t->reason);
    if (p->n_takeovers < PAIR_TAKEOVERS)
        p->n_takeovers++;
}

static void release_tail(struct pair *p)
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
    else
        pair_op_done(p, true, "%c took over, %.0f ms after the order", self, took_ms);
}

static void serve_solo(struct pair *p)
{
    pair_publish_lease(p); /* must be there before delivery starts */
    serve(p);
    release_tail(p);
    pair_hook(p, "solo");
}

static void serve_paired(struct pair *p)
{
    serve(p);
    pair_hook(p, "paired");
}

static void take_back(struct pair *p)
{
    p->ready = p->lost = p->slow = false;
    pair_fx(p,
            (struct pair_effect){.type = PX_TAKE_BACK, .epoch = p->epoch, .follower = p->follower});
}

static void ask_take_back(struct pair *p)
{
    struct record to = p->rec;
    unsigned peer = pair_peer(p);
    to.in_sync[peer] = true;
    to.store[peer] = p->lease_from;
    p->ready = false;
    pair_change(p, FOR_TAKE_BACK, &to);
}

static void drop_durably(struct pair *p)
{
    p->solo_durable = false;
    p->slow = false;
    pair_fx(p, (struct pair_effect){.type = PX_DROP, .epoch = p->epoch, .record = p->rec});
}

static void undo_take_back(struct pair *p)
{
    if (p->change != CH_NONE)
        pair_change_settled(p);
    p->hold_ns = p->hold_ns * 2 < HOLD_MAX_MS * MS ? p->hold_ns * 2 : HOLD_MAX_MS * MS;
    drop_durably(p);
}

static void paired(struct pair *p)
{
    pair_change_settled(p);
    p->paired_at = p->now;
    p->slow = false;
    pair_fx(p,
            (struct pair_effect){.type = PX_PAIRED, .epoch = p->epoch, .follower = p->lease_from});
    pair_hook(p, "paired");
}

static void back(struct pair *p)
{
    pair_fx(p,
            (struct pair_effect){.type = PX_PAIRED, .epoch = p->epoch, .follower = p->lease_from});
}

/* The voters learn of a forced record, over a lower one only (protocol 5, "never blindly"). */
static void offer(struct pair *p)
{
    struct record to = p->rec;
    pair_change(p, FOR_FORCE, &to);
    p->want_read = true; /* until they hold it */
}

static void ask_drop(struct pair *p)
{
    struct record to = p->rec;
    to.in_sync[pair_peer(p)] = false;
    to.store[pair_peer(p)] = (struct store_id){{0}};
    pair_change(p, FOR_DROP, &to);
}

static void dropped(struct pair *p)
{
    if (p->change != CH_NONE)
        pair_change_settled(p);
    if (p->paired_at && p->now - p->paired_at > HOLD_FORGET_MS * MS)
        p->hold_ns = HOLD_FIRST_MS * MS;
    else if (p->paired_at)
        p->hold_ns = p->hold_ns * 2 < HOLD_MAX_MS * MS ? p->hold_ns * 2 : HOLD_MAX_MS * MS;
    drop_durably(p);
}

static void alone(struct pair *p)
{
    if (p->attached)
        roles_watch_follower(p);
    if (!p->tail_released)
        release_tail(p);
    pair_hook(p, "solo");
}

static void quiesce(struct pair *p)
{
    p->idle = false;
    p->handover_wanted = false;
    p->quiesced_at = p->now;
    p->op_epoch = p->epoch;
    pair_fx(p, (struct pair_effect){.type = PX_QUIESCE, .epoch = p->epoch});
}

static void resume(struct pair *p)
{
    p->quiesced_at = 0;
    pair_op_done(p, false, "the standby went away during the switchover; this node goes on");
    if (p->tail_released) /* else it waits to be merged, or for the drop */
        release_tail(p);
}

static void drain(struct pair *p)
{
    p->drained = false;
    pair_fx(p, (struct pair_effect){.type = PX_DRAIN, .epoch = p->epoch});
}

/* End own lease first, then say so (incident 16). */
static void relinquish(struct pair *p)
{
    pair_publish_lease(p);
    pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
}

static void step_down(struct pair *p)
{
    pair_publish_lease(p);
    p->closed = false;
    if (p->change != CH_NONE && p->change != CH_PENDING && p->change != CH_UNKNOWN)
        pair_change_settled(p);
    pair_fx(p, (struct pair_effect){.type = PX_STEP_DOWN, .epoch = p->epoch});
    pair_hook(p, "demoted");
}

static void epoch_ended(struct pair *p)
{
    p->epoch = 0;
    p->followed = (struct record){0};
    p->rec_read = false;
    look_again(p);
}

static void fail(struct pair *p)
{
    pair_publish_lease(p);
    if (p->epoch) {
        pair_fx(p, (struct pair_effect){.type = PX_STEP_DOWN, .epoch = p->epoch});
        pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
        pair_hook(p, "demoted");
    }
    pair_op_done(p, false, "the store failed");
}

static void leave(struct pair *p)
{
    pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
}

static void stopped(struct pair *p)
{
    pair_fx(p, (struct pair_effect){.type = PX_STOPPED});
}

/* ---- the table ---- */

static const struct rule {
    enum phase from, to;
    bool (*when)(const struct pair *p);
    const char *reason;
    void (*act)(struct pair *p);
} rules[] = {
    /* A node that isn't primary. */
    {PH_START, PH_STOPPED, stopping, "clean stop", stopped},
    {PH_START, PH_CLAIM, forced, "forced by the operator", claim_forced},
    {PH_START, PH_PROMOTE, start_single, "a single node", promote_single},
    {PH_START, PH_CLAIM, start_own, "the record names this node: a new epoch", claim_restart},
    {PH_START, PH_ORPHAN, start_orphan, "named primary, but not with this store", nothing},
    {PH_START, PH_FOLLOW, start_follow, "the other node is primary", follow},
    {PH_ORPHAN, PH_STOPPED, stopping, "clean stop", stopped},
    {PH_ORPHAN, PH_CLAIM, forced, "forced by the operator", claim_forced},
    {PH_ORPHAN, PH_START, orphan_over, "the record changed", nothing},
    {PH_FOLLOW, PH_LEAVING, stopping, "clean stop: the primary is told first", leave},
    {PH_FOLLOW, PH_FAILED, store_gone, "the store failed", fail},
    {PH_FOLLOW, PH_CLAIM, forced, "forced by the operator", claim_forced},
    {PH_FOLLOW, PH_START, start_own, "the record names this node", nothing},
    {PH_FOLLOW, PH_START, start_orphan, "the record names this node", nothing},
    {PH_FOLLOW, PH_FOLLOW, follow_other, "another epoch", follow},
    {PH_FOLLOW, PH_CLAIM, given_up, "the primary gave up its role", claim_given_up},
    {PH_FOLLOW, PH_CLAIM, ordered, "failover ordered by the operator", claim_ordered},
    {PH_FOLLOW, PH_CLAIM, primary_silent, "the primary is silent", claim_silent},
    {PH_LEAVING, PH_STOPPED, dropped_by_primary, "dropped, or nobody to tell", stopped},

    /* Becoming primary. */
    {PH_CLAIM, PH_LEASE_WAIT, changed, "the record is ours", settled},
    {PH_CLAIM, PH_CLAIM, force_refused, "forced over an older record", force_again},
    {PH_CLAIM, PH_LEASE_WAIT, force_locally, "forced without the voters", adopt_forced},
    {PH_CLAIM, PH_LEASE_WAIT, forced_stuck, "forced by the operator", force_stuck},
    {PH_CLAIM, PH_STOPPED, stop_late, "clean stop", stopped},
    {PH_CLAIM, PH_START, refused, "the record says otherwise", settle_and_look},
    {PH_CLAIM, PH_START, not_done, "no majority", settle_and_look},
    {PH_LEASE_WAIT, PH_START, beaten, "the record changed", look_again},
    {PH_LEASE_WAIT, PH_PROMOTE, old_lease_over, "the old lease is over", promote},
    {PH_PROMOTE, PH_FAILED, store_failed, "the store can't be promoted", fail},
    {PH_PROMOTE, PH_STEP, superseded, "another epoch", step_down},
    {PH_PROMOTE, PH_PAIRED, promoted_paired, "serving, paired", serve_paired},
    {PH_PROMOTE, PH_SOLO, promoted_solo, "serving, alone", serve_solo},

    /* Primary, alone. */
    {PH_SOLO, PH_FAILED, store_failed, "the store failed", fail},
    {PH_SOLO, PH_STEP, superseded, "another epoch", step_down},
    {PH_SOLO, PH_FINISH, stopping, "clean stop, nobody to hand over to", quiesce},
    {PH_SOLO, PH_SOLO, settleable, "", settled},
    {PH_SOLO, PH_SOLO, offer_due, "", offer},
    {PH_SOLO, PH_TAKE_BACK, take_back_due, "the standby has caught up", take_back},
    {PH_TAKE_BACK, PH_FAILED, store_failed, "the store failed", fail},
    {PH_TAKE_BACK, PH_STEP, superseded, "another epoch", step_down},
    {PH_TAKE_BACK, PH_PAIRED, taken_back, "the standby is in sync", paired},
    {PH_TAKE_BACK, PH_RELEASE, refused, "take-back refused", undo_take_back},
    {PH_TAKE_BACK, PH_RELEASE, not_done, "take-back without majority", undo_take_back},
    {PH_TAKE_BACK, PH_FENCED, take_back_stuck, "lease over and no majority", nothing},
    {PH_TAKE_BACK, PH_RELEASE, take_back_lost, "the standby went away", undo_take_back},
    {PH_TAKE_BACK, PH_TAKE_BACK, take_back_ready, "", ask_take_back},

    /* Primary, paired. */
    {PH_PAIRED, PH_FAILED, store_failed, "the store failed", fail},
    {PH_PAIRED, PH_STEP, superseded, "another epoch", step_down},
    {PH_PAIRED, PH_PAIRED, tail_due, "", release_tail},
    {PH_PAIRED, PH_RELINQUISHED, stalled, "no progress here: the standby is to take over",
     relinquish},
    {PH_PAIRED, PH_DROP, drop_due, "the standby is silent, slow or gone", nothing},
    {PH_PAIRED, PH_QUIESCE, handover_due, "hand-over", quiesce},
    {PH_PAIRED, PH_FINISH, stop_late, "clean stop, the standby can't take over", quiesce},
    {PH_DROP, PH_FAILED, store_failed, "the store failed", fail},
    {PH_DROP, PH_STEP, superseded, "another epoch", step_down},
    {PH_DROP, PH_RELEASE, record_alone, "the record says alone", dropped},
    {PH_DROP, PH_FENCED, fence_due, "lease over and no majority", nothing},
    {PH_DROP, PH_DROP, settleable, "", settled},
    {PH_DROP, PH_PAIRED, standby_back, "the standby is back", back},
    {PH_DROP, PH_DROP, drop_again, "", ask_drop},
    {PH_RELEASE, PH_FAILED, store_failed, "the store failed", fail},
    {PH_RELEASE, PH_STEP, superseded, "another epoch", step_down},
    {PH_RELEASE, PH_SOLO, solo_durable, "serving alone", alone},
    {PH_FENCED, PH_FAILED, store_failed, "the store failed", fail},
    {PH_FENCED, PH_STEP, superseded, "another epoch", step_down},
    {PH_FENCED, PH_STEP, stopping, "clean stop", step_down},
    {PH_FENCED, PH_RELEASE, record_alone, "majority again: the record says alone", dropped},
    {PH_FENCED, PH_FENCED, settleable, "", settled},
    {PH_FENCED, PH_PAIRED, standby_back, "the standby is back", back},
    {PH_FENCED, PH_FENCED, drop_again, "", ask_drop},

    /* Hand-over. */
    {PH_QUIESCE, PH_FAILED, store_failed, "the store failed", fail},
    {PH_QUIESCE, PH_STEP, superseded, "another epoch", step_down},
    {PH_QUIESCE, PH_PAIRED, handover_lost, "the standby went away", resume},
    {PH_QUIESCE, PH_DRAIN, delivery_idle, "no final dot is open", drain},
    {PH_DRAIN, PH_FAILED, store_failed, "the store failed", fail},
    {PH_DRAIN, PH_STEP, superseded, "another epoch", step_down},
    {PH_DRAIN, PH_RELINQUISHED, drained, "the standby has everything", relinquish},
    {PH_DRAIN, PH_STEP, drain_late, "the standby doesn't follow: a new epoch", step_down},
    {PH_RELINQUISHED, PH_STEP, taken_over, "the other node took over", step_down},
    {PH_RELINQUISHED, PH_STEP, not_taken_over, "nobody took over", step_down},
    {PH_FINISH, PH_FAILED, store_failed, "the store failed", fail},
    {PH_FINISH, PH_STEP, superseded, "another epoch", step_down},
    {PH_FINISH, PH_STEP, delivery_idle, "no final dot is open", step_down},
    {PH_STEP, PH_FAILED, store_failed, "the store failed", nothing},
    {PH_STEP, PH_STOPPED, closed_stopping, "clean stop", stopped},
    {PH_STEP, PH_START, closed, "the old epoch is closed", epoch_ended},
    {PH_FAILED, PH_STOPPED, stopping, "clean stop", stopped},
};
enum { RULES = sizeof rules / sizeof rules[0] };

/* ---- running the table ---- */

static void assert_pair(const struct pair *p)
{
    const struct record *r = &p->rec;
    assert(p->phase < PHASES);
    assert(!phases[p->phase].serves ||
           p->epoch); /* invariant 2: serves only in an epoch of its own */
    assert(!phases[p->phase].serves || p->superseded || r->primary == p->cfg.self);
    assert(p->phase != PH_PAIRED || record_paired(r));
    assert(p->phase != PH_SOLO || p->superseded || !record_paired(r));
    assert(p->phase != PH_CLAIM || p->change != CH_NONE);
    /* An unlimited lease needs a record that names no other store (protocol 6). */
    assert(p->lease_published != UINT64_MAX || p->superseded || p->phase == PH_TAKE_BACK ||
           !phases[p->phase].serves || !record_paired(r));
    assert((p->change == CH_PENDING) == (p->op == REG_OP_CHANGE));
    (void)r;
}

static void enter(struct pair *p, const struct rule *r)
{
    enum role before = roles_role(p);
    bool moved = r->to != p->phase;
    p->phase = r->to;
    if (moved)
        p->phase_since = p->now;
    r->act(p);
    p->view_changed = true;
    if (!r->reason[0])
        return;
    char why[160];
    roles_why(p, why, sizeof why);
    bool alarm = r->to == PH_FENCED || r->to == PH_FAILED || r->to == PH_DROP;
    pair_log(p, !alarm, "%s -> %s (%s): %s%s%s; epoch %u", role_name(before),
             role_name(roles_role(p)), phases[r->to].name, r->reason, r->to == PH_CLAIM ? ": " : "",
             r->to == PH_CLAIM ? p->reason : "", (unsigned)(p->epoch ? p->epoch : p->rec.epoch));
}

void roles_settle(struct pair *p)
{
    unsigned fired = 0;
    for (unsigned i = 0; i < RULES;) {
        const struct rule *r = &rules[i];
        if (r->from != p->phase || !r->when(p)) {
            i++;
            continue;
        }
        enter(p, r);
        i = 0;
        fired++;
        assert(fired < RULES_PER_STEP);
    }
    assert_pair(p);
}

bool roles_dot(struct buf *out)
{
    bool ok = buf_append_str(out, "digraph roles {\n  rankdir=LR;\n");
    for (unsigned i = 0; i < PHASES && ok; i++)
        ok = buf_printf(out, "  \"%s\" [label=\"%s\\n%s\"];\n", phases[i].name, phases[i].name,
                        role_name(phases[i].role));
    for (unsigned i = 0; i < RULES && ok; i++)
        if (rules[i].from != rules[i].to)
            ok = buf_printf(out, "  \"%s\" -> \"%s\" [label=\"%s\"];\n", phases[rules[i].from].name,
                            phases[rules[i].to].name, rules[i].reason);
    return ok && buf_append_str(out, "}\n");
}

bool roles_rule(unsigned i, unsigned *from, unsigned *to)
{
    if (i >= RULES)
        return false;
    *from = rules[i].from;
    *to = rules[i].to;
    return true;
}

unsigned roles_last_phase(void)
{
    return PH_STOPPED;
}

/* ---- one line for a person ---- */

static void why_follow(const struct pair *p, char *out, size_t n)
{
    char peer = node_letter(pair_peer(p));
    bool alive = p->serving_rx && !silent(p, p->serving_rx, p->cfg.takeover_after_ns);
    if (named(p) && alive)
        snprintf(out, n, "in sync with primary %c%s", peer,
                 p->auto_takeover ? "" : "; automatic takeover is off");
    else if (named(p) && !p->auto_takeover)
        snprintf(out, n, "primary %c is silent; automatic takeover is off: batonctl failover",
                 peer);
    else if (named(p))
        snprintf(out, n, "primary %c is silent; taking over as soon as a majority agrees", peer);
    else if (alive)
        snprintf(out, n, "follows primary %c, not in sync yet", peer);
    else
        snprintf(out, n,
                 "waits for primary %c: this store isn't known to hold every acknowledged message",
                 peer);
}

static void why_start(const struct pair *p, char *out, size_t n)
{
    if (!p->store.open)
        snprintf(out, n, "the store is being opened and checked");
    else if (p->rec_below_seen)
        snprintf(
            out, n,
            "the voters' record (epoch %u) is older than what this node has seen (epoch %u): an "
            "arbiter from a backup? batonctl failover --force decides",
            (unsigned)p->voters.epoch, (unsigned)p->store.epoch_seen);
    else if (!p->rec_read)
        snprintf(out, n,
                 "asks the voters who is primary; needs two of three (new pair: both nodes "
                 "and the witness, or batonctl bootstrap)");
    else
        snprintf(out, n, "deciding");
}

static void why_solo(const struct pair *p, char *out, size_t n)
{
    char peer = node_letter(pair_peer(p));
    if (p->cfg.single)
        snprintf(out, n, "a single node: no second copy is configured");
    else if (!p->attached)
        snprintf(out, n, "serving ALONE: %c isn't connected; new mail has one copy only%s", peer,
                 p->rec_local ? "; forced, and the voters don't know it yet" : "");
    else if (!p->caught_up)
        snprintf(out, n, "serving ALONE: %c is catching up", peer);
    else
        snprintf(out, n, "serving ALONE: %c has caught up and is watched before it counts", peer);
}

void roles_why(const struct pair *p, char *out, size_t n)
{
    static const char *const fixed[PHASES] = {
        [PH_ORPHAN] =
            "named primary by the record, but with another store: the other node has to take "
            "over (batonctl failover --force there, if it doesn't)",
        [PH_CLAIM] = "asks the voters to make this node primary",
        [PH_LEASE_WAIT] = "waits for the old primary's lease to end",
        [PH_PROMOTE] = "takes the store into the new epoch",
        [PH_TAKE_BACK] = "serving, taking the standby back",
        [PH_PAIRED] = "serving, the standby is in sync",
        [PH_DROP] = "serving, the standby is silent or slow: going on without it as soon as the "
                    "voters agree",
        [PH_RELEASE] = "serving, going on alone",
        [PH_FENCED] = "FENCED: neither the standby nor a majority of the voters answers",
        [PH_QUIESCE] = "switchover: the last deliveries end",
        [PH_DRAIN] = "switchover: the standby gets the rest",
        [PH_RELINQUISHED] = "gave up its role: the standby takes over",
        [PH_FINISH] = "clean stop: the last deliveries end",
        [PH_STEP] = "steps down",
        [PH_FAILED] = "FENCED: the store failed; restart this node to have it checked",
        [PH_LEAVING] = "clean stop: tells the primary",
        [PH_STOPPED] = "stopped",
    };
    switch (p->phase) {
    case PH_START:
        why_start(p, out, n);
        break;
    case PH_FOLLOW:
        why_follow(p, out, n);
        break;
    case PH_SOLO:
        why_solo(p, out, n);
        break;
    default:
        snprintf(out, n, "%s", fixed[p->phase]);
    }
}
