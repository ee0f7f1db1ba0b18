/* See pair.h. Events become facts here (pair_state.h), then the table of roles decides (roles.c).
 * Also here, because every phase needs it: the one operation on the register that may be under way
 * (protocol 5). Heartbeats and the lease are in pair_lease.c.
 *
 * While a change is unknown, nothing is concluded from it: the phase stays where the stricter of
 * both outcomes holds, and reads until the register tells (protocol 5, "While a change is
 * unknown"). */
#include "health/pair_state.h"
#include "health/roles_when.h"
#include "node/base/mutant.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MS 1000000ull

enum {
    REGISTER_TIMEOUT_MS = 1000, /* of one operation on the register */
    JUDGED_TIMEOUT_MS = 40000,  /* the standby's delay, a fence command's 30 s, and then some */
    READ_RETRY_MS = 150,
    RETRY_MS = 100, /* of a change that was not done; doubles up to 1 s */
    RETRY_MAX_MS = 1000,
    HOLD_FIRST_MS = 1000, /* lease held before the first take-back */
};

struct pair *pair_new(const struct pair_config *c, pair_emit emit, void *ctx)
{
    assert(c->self == NODE_A || c->self == NODE_B);
    struct pair *p = xcalloc(1, sizeof *p);
    p->cfg = *c;
    p->emit = emit;
    p->ctx = ctx;
    p->phase = PH_START;
    p->want_read = !c->single;
    p->auto_takeover = true;
    p->hold_ns = HOLD_FIRST_MS * MS;
    p->retry_ns = RETRY_MS * MS;
    p->view_changed = true;
    return p;
}

void pair_free(struct pair *p)
{
    free(p);
}

void pair_fx(struct pair *p, struct pair_effect fx)
{
    p->emit(p->ctx, &fx);
}

void pair_log(struct pair *p, bool ok, const char *fmt, ...)
{
    struct pair_effect fx = {.type = PX_LOG, .ok = ok};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fx.text, sizeof fx.text, fmt, ap);
    va_end(ap);
    pair_fx(p, fx);
}

void pair_hook(struct pair *p, const char *name)
{
    pair_fx(p, (struct pair_effect){.type = PX_HOOK, .name = name, .epoch = p->epoch});
}

void pair_op_done(struct pair *p, bool ok, const char *fmt, ...)
{
    if (!p->op_token)
        return;
    struct pair_effect fx = {.type = PX_OP_DONE, .op = p->op_token, .ok = ok};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fx.text, sizeof fx.text, fmt, ap);
    va_end(ap);
    p->op_token = 0;
    p->ask_token = 0;
    p->handover_wanted = p->failover_wanted = p->force_wanted = p->forcing = p->alone_wanted =
        false;
    pair_fx(p, fx);
}

/* ---- the register ---- */

uint64_t pair_next_tag(struct pair *p)
{
    /* splitmix64 over this boot's random number: unique a boot, unpredictable enough to be unique.
     */
    uint64_t z = p->cfg.boot_random + 0x9e3779b97f4a7c15ull * ++p->tags;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return z ? z : 1;
}

void pair_change(struct pair *p, enum intent intent, enum warrant warrant, const struct record *to)
{
    assert(p->op == REG_OP_NONE && p->change != CH_UNKNOWN);
    p->want = *to;
    p->want.version = p->voters.version + 1;
    p->want.tag = pair_next_tag(p);
    p->intent = intent;
    p->warrant = p->asked = warrant;
    p->change = CH_PENDING;
    p->op = REG_OP_CHANGE;
    /* Where a fence command may have to run first, the judgement ends it if it has to. */
    bool judged = p->cfg.none && warrant == WARRANT_SILENT;
    uint64_t timeout_ms = judged ? JUDGED_TIMEOUT_MS : REGISTER_TIMEOUT_MS;
    pair_fx(p, (struct pair_effect){.type = PX_CHANGE,
                                    .from_tag = p->voters.tag,
                                    .record = p->want,
                                    .warrant = warrant,
                                    .until_ns = p->now + timeout_ms * MS});
}

/* The outcome of the last change has been acted upon. */
void pair_change_settled(struct pair *p)
{
    assert(p->change != CH_PENDING && p->change != CH_UNKNOWN);
    if (p->change == CH_NOT_DONE) {
        p->retry_at = p->now + p->retry_ns;
        p->retry_ns = p->retry_ns * 2 < RETRY_MAX_MS * MS ? p->retry_ns * 2 : RETRY_MAX_MS * MS;
    } else {
        p->retry_ns = RETRY_MS * MS;
        p->retry_at = 0;
    }
    p->change = CH_NONE;
    p->intent = FOR_NOTHING;
}

static void learn(struct pair *p, const struct record *r)
{
    if (!r->version)
        return;
    p->voters = *r;
    if (r->epoch >= p->seen.epoch)
        p->seen = *r;
    if (p->rec.version && r->epoch < fact_seen(p))
        return; /* an arbiter from a backup, or voters that missed a forced takeover */
    if (r->epoch != p->rec.epoch) {
        p->serving_rx = 0; /* acked_rx stays: what was acknowledged last bounds every older lease */
        p->rec_since = p->now;
    }
    p->rec = *r;
    p->rec_local = false;
    p->view_changed = true;
    if (p->epoch && r->epoch > p->epoch)
        p->superseded = true;
}

/* The arbiter was emptied or restored from a backup. It counts as empty: whoever serves goes on,
 * nothing changes hands, until it has been given back the newest record there is. */
static void note_behind(struct pair *p, const struct record *seen)
{
    p->seen = *seen;
    p->want_read = true;
    if (p->behind)
        return;
    p->behind = true;
    p->behind_seq = p->seq + 1;
    p->view_changed = true;
    pair_log(p, false,
             "the arbiter has lost the record of epoch %u (emptied, or restored from a backup): it "
             "isn't followed",
             (unsigned)seen->epoch);
}

/* So says the primary itself while the record names no other store; else both nodes have to say
 * what they have seen, after the loss was noticed: what is changed later is changed in the arbiter
 * as it is now, and noticed there. Records of one epoch follow each other: its primary alone
 * changes them, and acts upon none that isn't on its disk.
 *
 * The other node's word holds as long as it can't have taken over from silence since: it heard this
 * one half of takeover_after ago, or later. (By an order it may have; that etcd loses everything
 * once more before both have seen it back is left out, promises.md.) */
bool pair_may_give_back(const struct pair *p, uint64_t now_ns)
{
    if (!p->behind || !p->seen.version)
        return false;
    /* What it asked for last may have been decided, and the standby have taken over by that. */
    bool maybe_paired = p->change == CH_UNKNOWN && record_paired(&p->want);
    bool alone = p->epoch && p->seen.epoch == p->epoch && !record_paired(&p->seen);
    if (p->rec_local || (alone && !maybe_paired))
        return true;
    uint64_t echo = p->peer.echo_seq;
    bool told = p->peer_rx && p->peer.knows_seen && echo >= p->behind_seq &&
                p->peer.echo_boot_random == p->cfg.boot_random && p->seq - echo < SENDS;
    if (!told || now_ns > p->sent_at[echo % SENDS] + p->cfg.takeover_after_ns / 2)
        return false;
    if (p->peer.seen_epoch != p->seen.epoch)
        return p->peer.seen_epoch < p->seen.epoch;
    if (p->peer.seen_version != p->seen.version)
        return p->peer.seen_version < p->seen.version;
    return p->seen.primary == p->cfg.self;
}

static void on_register(struct pair *p, const struct pair_event *ev)
{
    enum reg_op op = p->op;
    p->op = REG_OP_NONE;
    bool decided = ev->outcome == REG_DONE || ev->outcome == REG_MISMATCH;
    if (decided) {
        learn(p, &ev->record);
        p->rec_read = true;
        p->want_read = p->behind = p->heard_alone = false;
    } else {
        p->read_at = p->now + READ_RETRY_MS * MS;
    }
    if (ev->outcome == REG_BEHIND)
        note_behind(p, &ev->record);
    if (op == REG_OP_CHANGE) {
        assert(p->change == CH_PENDING);
        p->change = ev->outcome == REG_DONE       ? CH_DONE
                    : ev->outcome == REG_MISMATCH ? CH_REFUSED
                    : ev->outcome == REG_NOT_DONE || ev->outcome == REG_BEHIND
                        ? CH_NOT_DONE
                        : BATON_MUTANT(UNKNOWN_IS_REFUSED, CH_NOT_DONE, CH_UNKNOWN);
        if (p->change == CH_UNKNOWN) {
            p->want_read = true;
            p->read_at = p->now;
        }
    } else if (op == REG_OP_READ && decided && p->change == CH_UNKNOWN) {
        /* The read fenced: what it found is the fate of the change. */
        p->change = ev->record.tag == p->want.tag ? CH_DONE : CH_REFUSED;
    }
}

static bool holds_role(const struct pair *p)
{
    return p->epoch && !p->superseded && p->phase != PH_RELINQUISHED && p->phase != PH_STEP &&
           p->phase != PH_FAILED;
}

/* A node that gave up its role must not come to be alone in the record by its own judgement: the
 * other was told, and takes over by its own. */
static void unask_if_given_up(struct pair *p)
{
    if (p->op == REG_OP_NONE || p->asked != WARRANT_SERVING || holds_role(p))
        return;
    p->asked = WARRANT_NONE;
    pair_fx(p, (struct pair_effect){.type = PX_UNASK});
}

/* What a read rests on where the other node doesn't answer: the change that it is to settle, an
 * operator, or that this node serves. */
static enum warrant read_warrant(const struct pair *p)
{
    if (p->alone_wanted)
        return WARRANT_ORDERED;
    if (p->phase == PH_CLAIM)
        return p->change == CH_UNKNOWN ? p->warrant : WARRANT_NONE;
    return holds_role(p) ? WARRANT_SERVING : WARRANT_NONE;
}

static void read_if_wanted(struct pair *p)
{
    if (!p->want_read || p->op != REG_OP_NONE || p->now < p->read_at || p->cfg.single ||
        p->phase == PH_STOPPED)
        return;
    p->op = REG_OP_READ;
    p->asked = read_warrant(p);
    pair_fx(p, (struct pair_effect){.type = PX_READ,
                                    .warrant = p->asked,
                                    .until_ns = p->now + REGISTER_TIMEOUT_MS * MS});
}

/* ---- replication, relay ---- */

static void on_replication(struct pair *p, const struct pair_event *ev)
{
    if (ev->epoch && p->epoch && ev->epoch != p->epoch)
        return; /* of an epoch that is over */
    switch (ev->type) {
    case PE_PROMOTED:
        p->promoted = true;
        p->in_doubt = ev->in_doubt;
        break;
    case PE_PROMOTE_FAILED:
        p->promote_failed = true;
        break;
    case PE_ATTACHED:
        if (p->attached && !store_id_eq(&p->follower, &ev->follower))
            p->lost = true;
        p->attached = true;
        p->caught_up = p->merged = false;
        p->follower = ev->follower;
        if (p->phase == PH_SOLO)
            roles_watch_follower(p);
        break;
    case PE_MERGED:
        p->merged = true;
        break;
    case PE_CAUGHT_UP:
        p->caught_up = true;
        break;
    case PE_DETACHED:
        p->attached = p->caught_up = p->merged = false;
        p->lost = true;
        p->detached_since = p->now;
        break;
    case PE_SLOW:
        p->slow = true;
        break;
    case PE_TAKE_BACK_READY:
        p->ready = store_id_eq(&ev->follower, &p->lease_from);
        break;
    case PE_TAKE_BACK_LOST:
        p->lost = true;
        break;
    case PE_SOLO_DURABLE:
        p->solo_durable = true;
        break;
    case PE_DRAINED:
        p->drained = true;
        break;
    default:
        assert(ev->type == PE_CLOSED);
        p->closed = true;
    }
    p->view_changed = true;
}

static void on_store(struct pair *p, const struct pair_store *s)
{
    p->emptying = p->emptying && store_id_eq(&p->store.id, &s->id);
    p->store = *s;
    p->fit_told = s->fit;
    p->store.fit = s->fit && !p->emptying;
    p->view_changed = true;
}

/* Replication wants to empty the store, or doesn't any more. */
static void on_empty(struct pair *p, const struct pair_event *ev)
{
    if (ev->flag) {
        p->empty_asked = ev->op;
    } else if (p->empty_asked == ev->op) {
        p->empty_asked = 0;
        p->emptying = false;
        p->store.fit = p->fit_told;
    }
}

/* A store that may just be on its way to be promoted isn't emptied under it, and one that is to be
 * emptied is never promoted again: whichever is first. */
static void let_empty(struct pair *p)
{
    bool wanted = p->force_wanted || p->failover_wanted || p->alone_wanted;
    if (!p->empty_asked || p->empty_asked == p->empty_granted || p->phase != PH_FOLLOW ||
        p->change != CH_NONE || wanted)
        return;
    p->empty_granted = p->empty_asked;
    p->emptying = true;
    p->store.fit = false;
    pair_fx(p, (struct pair_effect){.type = PX_EMPTY, .op = p->empty_asked});
}

static void on_hint(struct pair *p, const struct pair_event *ev)
{
    const struct record *r = &ev->record;
    bool news = ev->flag ? r->tag != p->rec.tag : r->version > p->rec.version;
    if (news || (p->rec_local && r->version) || (p->cfg.none && record_cmp(r, &p->rec) > 0))
        p->want_read = true;
}

static void take_event(struct pair *p, const struct pair_event *ev)
{
    switch (ev->type) {
    case PE_TICK:
        break;
    case PE_HEARTBEAT:
        pair_on_heartbeat(p, ev);
        break;
    case PE_STORE:
        on_store(p, &ev->store);
        break;
    case PE_EMPTY:
        on_empty(p, ev);
        break;
    case PE_REGISTER:
        on_register(p, ev);
        break;
    case PE_HINT:
        on_hint(p, ev);
        break;
    case PE_SEEN:
        p->knows_seen = true;
        p->seen = ev->record;
        break;
    case PE_BEHIND:
        note_behind(p, &ev->record);
        break;
    case PE_BOOTSTRAPPED:
        p->want_read = true;
        p->read_at = p->now;
        break;
    case PE_VIRGIN:
        /* One of both, lest they duel; and only while the other says the same of itself. */
        if (p->cfg.self == NODE_A && p->store.virgin && p->peer_rx && p->peer.virgin &&
            !fact_silent(p, p->peer_rx, p->cfg.takeover_after_ns))
            pair_bootstrap(p, 0);
        break;
    case PE_OP_BOOTSTRAP:
        pair_bootstrap(p, ev->op);
        break;
    case PE_DELIVERY_IDLE:
        p->idle = true;
        break;
    case PE_STORAGE_FAILED:
        p->store_failed = BATON_MUTANT(FAILED_STORE_GOES_ON, false, true);
        break;
    case PE_STALLED:
        p->view_changed |= p->stalled != ev->flag;
        p->stalled = ev->flag;
        break;
    case PE_OP_SWITCHOVER:
    case PE_OP_FAILOVER:
    case PE_OP_START_ALONE:
        pair_on_operator(p, ev);
        break;
    case PE_OP_STOP:
        p->stopping = true;
        break;
    case PE_AUTO_TAKEOVER:
        p->view_changed |= p->auto_takeover != ev->flag;
        p->auto_takeover = ev->flag;
        break;
    case PE_JUDGED:
        p->view_changed |= p->judged != (enum judgement)ev->outcome;
        p->judged = (enum judgement)ev->outcome;
        break;
    default:
        on_replication(p, ev);
    }
}

void pair_step(struct pair *p, const struct pair_event *ev, uint64_t now_ns)
{
    assert(!p->stepping);
    p->stepping = true;
    if (p->started && now_ns > p->now + p->cfg.takeover_after_ns / 2)
        p->woke = now_ns; /* a silence of our own making (incident 24): counted anew */
    p->now = now_ns > p->now ? now_ns : p->now;
    if (!p->started)
        p->started = p->phase_since = p->now;
    pair_lease_gap(p);
    take_event(p, ev);
    let_empty(p);
    roles_settle(p);
    let_empty(p);
    unask_if_given_up(p);
    pair_operator_timeouts(p);
    read_if_wanted(p);
    pair_publish_lease(p);
    if (p->view_changed) {
        p->view_changed = false;
        pair_fx(p, (struct pair_effect){.type = PX_VIEW});
    }
    p->stepping = false;
}

void pair_set_lsn(struct pair *p, uint64_t own, uint64_t committed)
{
    p->lsn_own = own;
    p->lsn_committed = committed;
}

void pair_view(const struct pair *p, uint64_t now_ns, struct pair_view *out)
{
    *out = (struct pair_view){
        .role = roles_role(p),
        .serving = roles_serves(p),
        .epoch = p->epoch ? p->epoch : p->rec.epoch,
        .record = p->rec,
        .auto_takeover = p->auto_takeover && !p->cfg.manual,
        .peer_role = p->peer.role,
        .peer_lsn = p->peer.own_lsn,
        .peer_wall_skew_ms = p->peer_skew_ms,
        .peer_wall_base_ms = p->peer_wall_base_ms,
        .silent_ns = p->peer_rx ? now_ns - p->peer_rx : UINT64_MAX,
        .n_takeovers = p->n_takeovers,
    };
    if (p->rec.version)
        out->mode = record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO;
    out->peer_reachable = p->peer_rx && out->silent_ns < p->cfg.takeover_after_ns;
    out->in_sync = p->phase == PH_FOLLOW && record_names(&p->rec, p->cfg.self, &p->store.id) &&
                   p->peer.serving && out->peer_reachable;
    roles_why(p, out->why, sizeof out->why);
    memcpy(out->takeovers, p->takeovers, sizeof out->takeovers);
}
