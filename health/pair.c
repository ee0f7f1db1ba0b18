/* See pair.h. Events become facts here (pair_state.h), then the table of roles decides (roles.c).
 * Also here, because every phase needs them: heartbeats and the lease they carry (protocol 6), and
 * the one operation on the register that may be under way (protocol 5).
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
    READ_RETRY_MS = 150,
    RETRY_MS = 100, /* of a change that was not done; doubles up to 1 s */
    RETRY_MAX_MS = 1000,
    SWITCHOVER_TIMEOUT_MS = 20000,
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
    p->handover_wanted = p->failover_wanted = p->force_wanted = false;
    pair_fx(p, fx);
}

/* ---- the register ---- */

static uint64_t next_tag(struct pair *p)
{
    /* splitmix64 over this boot's random number: unique a boot, unpredictable enough to be unique.
     */
    uint64_t z = p->cfg.boot_random + 0x9e3779b97f4a7c15ull * ++p->tags;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return z ? z : 1;
}

void pair_change(struct pair *p, enum intent intent, const struct record *to)
{
    assert(p->op == REG_OP_NONE && p->change != CH_UNKNOWN);
    p->want = *to;
    p->want.version = p->voters.version + 1;
    p->want.tag = next_tag(p);
    p->intent = intent;
    p->change = CH_PENDING;
    p->op = REG_OP_CHANGE;
    pair_fx(p, (struct pair_effect){.type = PX_CHANGE,
                                    .from_tag = p->voters.tag,
                                    .record = p->want,
                                    .until_ns = p->now + REGISTER_TIMEOUT_MS * MS});
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
    uint32_t seen = p->rec.version ? p->rec.epoch : 0;
    if (p->store.epoch_seen > seen)
        seen = p->store.epoch_seen;
    p->rec_below_seen = r->epoch < seen;
    p->voters = *r;
    if (p->rec_below_seen && p->rec.version)
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

static void on_register(struct pair *p, const struct pair_event *ev)
{
    enum reg_op op = p->op;
    p->op = REG_OP_NONE;
    bool decided = ev->outcome == REG_DONE || ev->outcome == REG_MISMATCH;
    if (decided) {
        learn(p, &ev->record);
        p->rec_read = true;
        p->want_read = false;
    } else {
        p->read_at = p->now + READ_RETRY_MS * MS;
    }
    if (op == REG_OP_CHANGE) {
        assert(p->change == CH_PENDING);
        p->change = ev->outcome == REG_DONE       ? CH_DONE
                    : ev->outcome == REG_MISMATCH ? CH_REFUSED
                    : ev->outcome == REG_NOT_DONE
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

static void read_if_wanted(struct pair *p)
{
    if (!p->want_read || p->op != REG_OP_NONE || p->now < p->read_at || p->cfg.single ||
        p->phase == PH_STOPPED)
        return;
    p->op = REG_OP_READ;
    pair_fx(p,
            (struct pair_effect){.type = PX_READ, .until_ns = p->now + REGISTER_TIMEOUT_MS * MS});
}

/* ---- heartbeats and the lease ---- */

uint64_t pair_lease_length(const struct pair *p)
{
    uint64_t own = p->cfg.lease_ns;
    return p->heard && p->peer.lease_ns && p->peer.lease_ns < own ? p->peer.lease_ns : own;
}

uint64_t pair_lease_end(const struct pair *p)
{
    return p->lease_end;
}

/* The right to deliver as this phase has it (protocol 5 table and 6). */
static uint64_t lease_now(const struct pair *p)
{
    switch (p->phase) {
    case PH_SOLO:
    case PH_RELEASE:
        return UINT64_MAX; /* the record names no other store: nobody else may be promoted */
    case PH_TAKE_BACK:
    case PH_PAIRED:
    case PH_DROP:
    case PH_FENCED:
    case PH_QUIESCE:
    case PH_DRAIN:
        return pair_lease_end(p);
    case PH_FINISH:
        return record_paired(&p->rec) ? pair_lease_end(p) : UINT64_MAX;
    default:
        return 0;
    }
}

void pair_publish_lease(struct pair *p)
{
    uint64_t until = lease_now(p);
    if (until == p->lease_published)
        return;
    p->lease_published = until;
    pair_fx(p, (struct pair_effect){.type = PX_LEASE, .until_ns = until});
}

static bool acknowledges(const struct pair *p)
{
    switch (p->phase) {
    case PH_FOLLOW:
    case PH_LEAVING:
        return true;
    case PH_CLAIM: /* an undecided takeover goes on acknowledging in the old epoch */
        return p->rec.primary == pair_peer(p) && p->change != CH_DONE;
    default:
        return false;
    }
}

void pair_heartbeat(struct pair *p, uint64_t now_ns, int64_t wall_ms, struct heartbeat *out)
{
    bool ours = p->epoch != 0;
    p->seq++;
    p->sent_at[p->seq % SENDS] = now_ns;
    *out = (struct heartbeat){
        .boot_counter = p->cfg.boot_counter,
        .boot_random = p->cfg.boot_random,
        .seq = p->seq,
        .epoch = ours ? p->epoch : p->rec.epoch,
        .role = (uint8_t)roles_role(p),
        .fit = p->store.open && p->store.fit && !p->store_failed && !p->stalled && !p->stopping,
        .own_lsn = p->lsn_own,
        .committed_lsn = p->lsn_committed,
        .store = p->store.id,
        .lease_ns = p->cfg.lease_ns,
        .wall_ms = wall_ms,
        .echo_boot_random = p->heard ? p->peer.boot_random : 0,
        .echo_seq = p->heard ? p->peer.seq : 0,
        /* Only what the wait for the old lease is counted from (acked_rx). */
        .ack_epoch = acknowledges(p) && p->acked_rx == p->peer_rx ? p->rec.epoch : 0,
        .ask_handover = p->ask_token,
        .leaving = p->phase == PH_LEAVING,
        .virgin = p->store.open && p->store.virgin,
    };
    /* A fenced primary serves nobody: the standby, if it can, should (protocol 2.4). */
    out->serving = roles_serves(p) || p->phase == PH_QUIESCE || p->phase == PH_DRAIN;
    out->mode = p->rec.version ? (uint8_t)(record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO)
                               : (uint8_t)PAIR_NONE;
    if (p->phase == PH_RELINQUISHED || p->phase == PH_FAILED) {
        out->relinquish_epoch = p->epoch;
        out->relinquish_boot = p->cfg.boot_random;
        uint64_t paused = p->quiesced_at ? p->phase_since - p->quiesced_at : 0;
        out->paused_ms = (uint32_t)(paused / MS);
    }
}

static void note_acknowledgement(struct pair *p, const struct heartbeat *h)
{
    bool counts = p->epoch && h->ack_epoch == p->epoch &&
                  h->echo_boot_random == p->cfg.boot_random && h->echo_seq <= p->seq &&
                  h->echo_seq >= p->epoch_first_seq && p->seq - h->echo_seq < SENDS &&
                  store_id_eq(&h->store, &p->lease_from);
    if (!counts)
        return;
    uint64_t sent = p->sent_at[h->echo_seq % SENDS];
    if (!p->acked_since || p->now >= pair_lease_end(p))
        p->acked_since = p->now;
    sent = BATON_MUTANT(LEASE_FROM_RECEIPT, p->now, sent);
    /* From the send, not from the receipt: the other's clock starts later. And with the settings
     * that this very acknowledgement was given under. */
    uint64_t length = h->lease_ns && h->lease_ns < p->cfg.lease_ns ? h->lease_ns : p->cfg.lease_ns;
    if (sent > p->lease_base)
        p->lease_base = sent;
    if (sent + length > p->lease_end)
        p->lease_end = sent + length;
}

static void want_handover(struct pair *p)
{
    p->handover_wanted = true;
    p->handover_since = p->now;
}

static void on_heartbeat(struct pair *p, const struct pair_event *ev)
{
    const struct heartbeat *h = &ev->heartbeat;
    bool proven = ev->flag;
    bool reborn = !p->heard || h->boot_random != p->peer.boot_random;
    if (!proven) {
        /* Only tells what to echo; a replayed one must not count as life. */
        if (reborn) {
            p->heard = true;
            p->peer = (struct heartbeat){.boot_random = h->boot_random, .seq = h->seq};
            p->relinquished = 0;
        } else if (h->seq > p->peer.seq) {
            p->peer.seq = h->seq;
        }
        return;
    }
    if (!reborn && h->seq < p->peer.seq)
        return;
    if (reborn || h->role != p->peer.role || h->mode != p->peer.mode ||
        !store_id_eq(&h->store, &p->peer.store))
        p->view_changed = true;
    p->heard = true;
    p->peer = *h;
    p->peer_rx = p->now;
    if (ev->wall_ms)
        p->peer_skew_ms = h->wall_ms - ev->wall_ms;
    note_acknowledgement(p, h);
    if (p->rec.version && p->rec.primary == pair_peer(p) && h->epoch == p->rec.epoch) {
        if (h->serving)
            p->serving_rx = p->now;
        if (acknowledges(p))
            p->acked_rx = p->now;
    }
    if (h->relinquish_epoch && h->relinquish_boot == h->boot_random &&
        h->relinquish_epoch > p->relinquished) {
        p->relinquished = h->relinquish_epoch;
        p->relinquished_paused_ms = h->paused_ms;
    }
    if (h->serving && p->epoch && h->epoch > p->epoch)
        p->superseded = true; /* ends the service at once; the record is read afterwards */
    /* Another epoch, or the same one in another mode: the record changed, and we don't know it. */
    bool other_mode = p->rec.version && h->epoch == p->rec.epoch && !p->epoch &&
                      h->mode != (record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO);
    if ((h->epoch > p->rec.epoch || other_mode) && (h->serving || h->relinquish_epoch))
        p->want_read = true;
    if (h->ask_handover && h->ask_handover != p->ask_seen) {
        p->ask_seen = h->ask_handover;
        if (p->phase == PH_PAIRED)
            want_handover(p);
    }
}

static void lease_gap(struct pair *p)
{
    if (p->acked_since && p->now >= pair_lease_end(p))
        p->acked_since = 0;
}

/* ---- replication, relay, operators ---- */

static void on_replication(struct pair *p, const struct pair_event *ev)
{
    if (ev->epoch && p->epoch && ev->epoch != p->epoch)
        return; /* of an epoch that is over */
    switch (ev->type) {
    case PE_PROMOTED:
        p->promoted = true;
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

static void refuse(struct pair *p, uint64_t op, const char *text)
{
    struct pair_effect fx = {.type = PX_OP_DONE, .op = op, .ok = false};
    snprintf(fx.text, sizeof fx.text, "%s", text);
    pair_fx(p, fx);
}

static void on_switchover(struct pair *p)
{
    if (p->phase == PH_PAIRED) {
        want_handover(p);
    } else if (p->phase == PH_FOLLOW && record_names(&p->rec, p->cfg.self, &p->store.id)) {
        p->ask_token = next_tag(p);
        pair_fx(p, (struct pair_effect){.type = PX_HEARTBEAT});
    } else {
        char why[160];
        roles_why(p, why, sizeof why);
        pair_op_done(p, false, "no switchover: the pair isn't in sync (%s)", why);
    }
}

static void on_failover(struct pair *p, bool force)
{
    bool alive = p->serving_rx && p->now - p->serving_rx < p->cfg.takeover_after_ns;
    if (p->epoch)
        pair_op_done(p, false, "this node is the primary already");
    else if (!p->store.open || !p->store.fit)
        pair_op_done(p, false, "this node's store can't serve: it is empty, incomplete or damaged");
    else if (force && p->store.virgin)
        pair_op_done(p, false,
                     "this store has never held anything: it would begin with an empty queue");
    else if (force)
        p->force_wanted = true;
    else if (alive)
        pair_op_done(p, false, "the primary is alive; use `batonctl switchover`, or --force");
    else if (p->phase != PH_FOLLOW || !record_names(&p->rec, p->cfg.self, &p->store.id))
        pair_op_done(p, false,
                     "this node isn't known to hold every acknowledged message (not in sync); "
                     "--force takes over all the same and may lose what it never got");
    else
        p->failover_wanted = true;
}

static void on_operator(struct pair *p, const struct pair_event *ev)
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
        pair_op_done(p, false, "start --alone is for arbiter = none");
        break;
    default:
        assert(!"operator event");
    }
}

static void bootstrap(struct pair *p, uint64_t op)
{
    if (!p->store.open || p->rec.version || p->cfg.single || p->op != REG_OP_NONE) {
        if (op)
            refuse(p, op,
                   p->rec.version ? "the voters hold a record already: this pair was started before"
                                  : "not now: the store isn't open yet, or this is a single node");
        return;
    }
    struct record first = {.version = 1,
                           .epoch = epoch_next(p->store.epoch_seen, p->cfg.self),
                           .primary = (uint8_t)p->cfg.self,
                           .tag = next_tag(p)};
    first.in_sync[p->cfg.self] = true;
    first.store[p->cfg.self] = p->store.id;
    pair_fx(p, (struct pair_effect){.type = PX_BOOTSTRAP, .record = first, .op = op});
}

static void on_store(struct pair *p, const struct pair_store *s)
{
    p->store = *s;
    p->view_changed = true;
}

static void on_hint(struct pair *p, const struct record *r)
{
    if (r->version > p->rec.version || (p->rec_local && r->version))
        p->want_read = true;
}

/* An operation that outlives its patience: the answer is "undecided", and nothing is undone. */
static void operator_timeouts(struct pair *p)
{
    if (!p->op_token)
        return;
    bool peer_serves =
        p->heard && p->peer.serving && p->now - p->peer_rx < p->cfg.takeover_after_ns;
    if (p->op_epoch && peer_serves && p->peer.epoch > p->op_epoch && !p->epoch) {
        uint64_t paused = p->quiesced_at ? p->now - p->quiesced_at : 0;
        pair_op_done(p, true, "%c is primary now; delivery paused %llu ms",
                     node_letter(pair_peer(p)), (unsigned long long)(paused / MS));
    } else if (p->now - p->op_since > SWITCHOVER_TIMEOUT_MS * MS) {
        char why[160];
        roles_why(p, why, sizeof why);
        pair_op_done(p, false, "undecided after %d s: %s", SWITCHOVER_TIMEOUT_MS / 1000, why);
    }
}

static void take_event(struct pair *p, const struct pair_event *ev)
{
    switch (ev->type) {
    case PE_TICK:
        break;
    case PE_HEARTBEAT:
        on_heartbeat(p, ev);
        break;
    case PE_STORE:
        on_store(p, &ev->store);
        break;
    case PE_REGISTER:
        on_register(p, ev);
        break;
    case PE_HINT:
        on_hint(p, &ev->record);
        break;
    case PE_BOOTSTRAPPED:
        p->want_read = true;
        p->read_at = p->now;
        break;
    case PE_VIRGIN:
        /* One of both, lest they duel; and only while the other says the same of itself. */
        if (p->cfg.self == NODE_A && p->store.virgin && p->peer_rx && p->peer.virgin &&
            !fact_silent(p, p->peer_rx, p->cfg.takeover_after_ns))
            bootstrap(p, 0);
        break;
    case PE_OP_BOOTSTRAP:
        bootstrap(p, ev->op);
        break;
    case PE_DELIVERY_IDLE:
        p->idle = true;
        break;
    case PE_STORAGE_FAILED:
        p->store_failed = true;
        break;
    case PE_STALLED:
        p->view_changed |= p->stalled != ev->flag;
        p->stalled = ev->flag;
        break;
    case PE_OP_SWITCHOVER:
    case PE_OP_FAILOVER:
    case PE_OP_START_ALONE:
        on_operator(p, ev);
        break;
    case PE_OP_STOP:
        p->stopping = true;
        break;
    case PE_AUTO_TAKEOVER:
        p->view_changed |= p->auto_takeover != ev->flag;
        p->auto_takeover = ev->flag;
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
    lease_gap(p);
    take_event(p, ev);
    roles_settle(p);
    operator_timeouts(p);
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
        .auto_takeover = p->auto_takeover,
        .peer_role = p->peer.role,
        .peer_lsn = p->peer.own_lsn,
        .peer_wall_skew_ms = p->peer_skew_ms,
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
