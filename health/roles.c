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
#include "health/roles_act.h"
#include "health/roles_when.h"
#include "node/base/mutant.h"

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

enum {
    RULES_PER_STEP = 24 /* more in a row would be a loop in the table */
};

enum role roles_role(const struct pair *p)
{
    if (p->phase == PH_FOLLOW && !fact_named(p))
        return ROLE_REJOINING; /* a standby is only who may be promoted */
    return phases[p->phase].role;
}

/* ---- the table ---- */

static const struct rule {
    enum phase from, to;
    bool (*when)(const struct pair *p);
    const char *reason;
    void (*act)(struct pair *p);
} rules[] = {
    /* A node that isn't primary. */
    {PH_START, PH_STOPPED, when_stopping, "clean stop", act_stopped},
    {PH_START, PH_CLAIM, when_forced, "forced by the operator", act_claim_forced},
    {PH_START, PH_PROMOTE, when_start_single, "a single node", act_promote_single},
    {PH_START, PH_START, when_forced_before, "promoted by force, and the voters don't know it yet",
     act_recall_forced},
    {PH_START, PH_CLAIM, when_start_own, "the record names this node: a new epoch",
     act_claim_restart},
    {PH_START, PH_ORPHAN, when_start_orphan, "named primary, but not with this store", act_nothing},
    {PH_START, PH_FOLLOW, when_start_follow, "the other node is primary", act_follow},
    {PH_ORPHAN, PH_STOPPED, when_stopping, "clean stop", act_stopped},
    {PH_ORPHAN, PH_CLAIM, when_forced, "forced by the operator", act_claim_forced},
    {PH_ORPHAN, PH_START, when_orphan_over, "the record changed", act_nothing},
    {PH_FOLLOW, PH_LEAVING, when_stopping, "clean stop: the primary is told first", act_leave},
    {PH_FOLLOW, PH_FAILED, when_store_gone, "the store failed", act_fail},
    {PH_FOLLOW, PH_CLAIM, when_forced, "forced by the operator", act_claim_forced},
    {PH_FOLLOW, PH_START, when_start_own, "the record names this node", act_nothing},
    {PH_FOLLOW, PH_START, when_start_orphan, "the record names this node", act_nothing},
    {PH_FOLLOW, PH_FOLLOW, when_follow_other, "another epoch", act_follow},
    {PH_FOLLOW, PH_CLAIM, when_given_up, "the primary gave up its role", act_claim_given_up},
    {PH_FOLLOW, PH_CLAIM, when_ordered, "failover ordered by the operator", act_claim_ordered},
    {PH_FOLLOW, PH_CLAIM, when_primary_silent, "the primary is silent", act_claim_silent},
    {PH_LEAVING, PH_STOPPED, when_dropped_by_primary, "dropped, or nobody to tell", act_stopped},

    /* Becoming primary. */
    {PH_CLAIM, PH_LEASE_WAIT, when_changed, "the record is ours", act_settled},
    {PH_CLAIM, PH_CLAIM, when_force_refused, "forced over an older record", act_force_again},
    {PH_CLAIM, PH_LEASE_WAIT, when_force_locally, "forced without the voters", act_adopt_forced},
    {PH_CLAIM, PH_LEASE_WAIT, when_forced_stuck, "forced by the operator", act_force_stuck},
    {PH_CLAIM, PH_STOPPED, when_stop_late, "clean stop", act_stopped},
    {PH_CLAIM, PH_START, when_refused, "the record says otherwise", act_settle_and_look},
    {PH_CLAIM, PH_START, when_not_done, "no majority", act_not_won},
    {PH_LEASE_WAIT, PH_START, when_beaten, "the record changed", act_look_again},
    {PH_LEASE_WAIT, PH_START, when_store_other, "the store became another meanwhile",
     act_force_other},
    {PH_LEASE_WAIT, PH_PROMOTE, when_old_lease_over, "the old lease is over", act_promote},
    {PH_PROMOTE, PH_FAILED, when_store_failed, "the store can't be promoted", act_fail},
    {PH_PROMOTE, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_PROMOTE, PH_PAIRED, when_promoted_paired, "serving, paired", act_serve_paired},
    {PH_PROMOTE, PH_SOLO, when_promoted_solo, "serving, alone", act_serve_solo},

    /* Primary, alone. */
    {PH_SOLO, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_SOLO, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_SOLO, PH_FINISH, when_stopping, "clean stop, nobody to hand over to", act_quiesce},
    {PH_SOLO, PH_SOLO, when_settleable, "", act_settled},
    {PH_SOLO, PH_SOLO, when_offer_due, "", act_offer},
    {PH_SOLO, PH_TAKE_BACK, when_take_back_due, "the standby has caught up", act_take_back},
    {PH_TAKE_BACK, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_TAKE_BACK, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_TAKE_BACK, PH_PAIRED, when_taken_back, "the standby is in sync", act_paired},
    {PH_TAKE_BACK, PH_RELEASE, when_refused, "take-back refused", act_undo_take_back},
    {PH_TAKE_BACK, PH_RELEASE, when_not_done, "take-back without majority", act_undo_take_back},
    {PH_TAKE_BACK, PH_FENCED, when_take_back_stuck, "lease over and no majority", act_nothing},
    {PH_TAKE_BACK, PH_RELEASE, when_take_back_lost, "the standby went away", act_undo_take_back},
    {PH_TAKE_BACK, PH_TAKE_BACK, when_take_back_ready, "", act_ask_take_back},

    /* Primary, paired. */
    {PH_PAIRED, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_PAIRED, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_PAIRED, PH_PAIRED, when_tail_due, "", act_release_tail},
    {PH_PAIRED, PH_RELINQUISHED, when_stalled, "no progress here: the standby is to take over",
     act_relinquish},
    {PH_PAIRED, PH_DROP, when_drop_due, "the standby is silent, slow or gone", act_nothing},
    {PH_PAIRED, PH_QUIESCE, when_handover_due, "hand-over", act_quiesce},
    {PH_PAIRED, PH_FINISH, when_stop_late, "clean stop, the standby can't take over", act_quiesce},
    {PH_DROP, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_DROP, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_DROP, PH_RELEASE, when_record_alone, "the record says alone", act_dropped},
    {PH_DROP, PH_FENCED, when_fence_due, "lease over and no majority", act_nothing},
    {PH_DROP, PH_DROP, when_settleable, "", act_settled},
    {PH_DROP, PH_PAIRED, when_standby_back, "the standby is back", act_back},
    {PH_DROP, PH_DROP, when_drop_again, "", act_ask_drop},
    {PH_RELEASE, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_RELEASE, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_RELEASE, PH_SOLO, when_solo_durable, "serving alone", act_alone},
    {PH_FENCED, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_FENCED, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_FENCED, PH_STEP, when_stopping, "clean stop", act_step_down},
    {PH_FENCED, PH_RELEASE, when_record_alone, "majority again: the record says alone",
     act_dropped},
    {PH_FENCED, PH_FENCED, when_settleable, "", act_settled},
    {PH_FENCED, PH_PAIRED, when_standby_back, "the standby is back", act_back},
    {PH_FENCED, PH_FENCED, when_drop_again, "", act_ask_drop},

    /* Hand-over. */
    {PH_QUIESCE, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_QUIESCE, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_QUIESCE, PH_PAIRED, when_handover_lost, "the standby went away", act_resume},
    {PH_QUIESCE, PH_DRAIN, when_delivery_idle, "no final dot is open", act_drain},
    {PH_DRAIN, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_DRAIN, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_DRAIN, PH_RELINQUISHED, when_drained, "the standby has everything", act_relinquish},
    {PH_DRAIN, PH_STEP, when_drain_late, "the standby doesn't follow: a new epoch", act_step_down},
    {PH_RELINQUISHED, PH_STEP, when_taken_over, "the other node took over", act_step_down},
    {PH_RELINQUISHED, PH_STEP, when_not_taken_over, "nobody took over", act_step_down},
    {PH_FINISH, PH_FAILED, when_store_failed, "the store failed", act_fail},
    {PH_FINISH, PH_STEP, when_superseded, "another epoch", act_step_down},
    {PH_FINISH, PH_STEP, when_delivery_idle, "no final dot is open", act_step_down},
    {PH_STEP, PH_FAILED, when_store_failed, "the store failed", act_nothing},
    {PH_STEP, PH_STOPPED, when_closed_stopping, "clean stop", act_stopped},
    {PH_STEP, PH_START, when_closed, "the old epoch is closed", act_epoch_ended},
    {PH_FAILED, PH_STOPPED, when_stopping, "clean stop", act_stopped},
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
    /* Invariant 1: alone only while the record names no other store. */
    assert(p->phase != PH_SOLO || p->superseded || !record_paired(r));
    assert(p->phase != PH_CLAIM || p->change != CH_NONE);
    /* Invariant 8: an unlimited lease needs a record that names no other store (protocol 6). */
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
