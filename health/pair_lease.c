/* Heartbeats and the lease that they carry (protocol 6): what is told to the peer, what its
 * datagrams prove, and until when this node may deliver. Part of the pair core (pair.h).
 *
 * The lease counts from the sending of the newest heartbeat that was acknowledged, and its end is
 * fixed by that acknowledgement; the wait of whoever takes over counts from a receipt. */
#include "health/pair_state.h"
#include "node/base/mutant.h"

#define MS 1000000ull

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
    case PH_RELINQUISHED:
        if (BATON_MUTANT(RELINQUISH_FIRST, true, false) ||
            BATON_MUTANT(RESUMES_IN_ITS_EPOCH, p->lease_base > p->phase_since, false))
            return pair_lease_end(p);
        return 0;
    case PH_FINISH:
        return record_paired(&p->rec) ? pair_lease_end(p) : UINT64_MAX;
    default:
        return 0;
    }
}

void pair_publish_lease(struct pair *p)
{
    uint64_t until = lease_now(p);
    if (until == p->lease_published && p->epoch == p->lease_epoch)
        return;
    p->lease_published = until;
    p->lease_epoch = p->epoch;
    pair_fx(p, (struct pair_effect){.type = PX_LEASE, .epoch = p->epoch, .until_ns = until});
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
        .knows_seen = p->knows_seen,
        .seen_epoch = p->rec.epoch > p->seen.epoch ? p->rec.epoch : p->seen.epoch,
        .seen_version = p->rec.epoch > p->seen.epoch ? p->rec.version : p->seen.version,
    };
    /* A fenced primary serves nobody: the standby, if it can, should (protocol 2.4). */
    out->serving = roles_serves(p) || p->phase == PH_QUIESCE || p->phase == PH_DRAIN;
    out->mode = p->rec.version ? (uint8_t)(record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO)
                               : (uint8_t)PAIR_NONE;
    if (p->phase == PH_RELINQUISHED || p->phase == PH_FAILED) {
        out->relinquish_epoch = p->epoch;
        out->relinquish_boot = p->cfg.boot_random;
        /* Begun milliseconds: not 0 says that it was planned. */
        if (p->quiesced_at)
            out->paused_ms = (uint32_t)((p->phase_since - p->quiesced_at) / MS + 1);
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
    length = BATON_MUTANT(OWN_LEASE, p->cfg.lease_ns, length);
    if (sent > p->lease_base)
        p->lease_base = sent;
    if (sent + length > p->lease_end)
        p->lease_end = sent + length;
}

void pair_want_handover(struct pair *p)
{
    p->handover_wanted = true;
    p->handover_since = p->now;
}

void pair_on_heartbeat(struct pair *p, const struct pair_event *ev)
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
    p->alone_wanted = false; /* it votes itself: nobody's word is needed */
    if (ev->wall_ms)
        p->peer_skew_ms = h->wall_ms - ev->wall_ms;
    p->peer_wall_base_ms = h->wall_ms - (int64_t)(p->now / MS);
    note_acknowledgement(p, h);
    if (p->rec.version && p->rec.primary == pair_peer(p) && h->epoch == p->rec.epoch) {
        if (BATON_MUTANT(ANY_LIFE, true, h->serving))
            p->serving_rx = p->now;
        if (acknowledges(p))
            p->acked_rx = p->now;
    }
    if (h->relinquish_epoch && h->relinquish_boot == h->boot_random &&
        h->relinquish_epoch > p->relinquished) {
        p->relinquished = h->relinquish_epoch;
        p->relinquished_paused_ms = h->paused_ms;
    }
    if (h->serving && h->epoch > p->served_seen)
        p->served_seen = h->epoch;
    if (h->serving && p->epoch && h->epoch > p->epoch)
        p->superseded = true; /* ends the service at once; the record is read afterwards */
    /* Another epoch, or the same one in another mode: the record changed, and we don't know it. */
    bool other_mode = p->rec.version && h->epoch == p->rec.epoch && !p->epoch &&
                      h->mode != (record_paired(&p->rec) ? PAIR_PAIRED : PAIR_SOLO);
    if ((h->epoch > p->rec.epoch || other_mode) && (h->serving || h->relinquish_epoch))
        p->want_read = true;
    if (other_mode && h->mode == PAIR_SOLO) {
        /* It may be the one that is behind. Only without an arbiter anything depends on it. */
        p->want_read |= p->cfg.none && !p->heard_alone;
        p->heard_alone = true;
    } else if (h->serving && h->epoch == p->rec.epoch && !other_mode) {
        p->heard_alone = false; /* it hadn't heard yet of what is read here */
    }
    if (h->ask_handover && h->ask_handover != p->ask_seen) {
        p->ask_seen = h->ask_handover;
        if (p->phase == PH_PAIRED)
            pair_want_handover(p);
    }
}

void pair_lease_gap(struct pair *p)
{
    if (p->acked_since && p->now >= pair_lease_end(p))
        p->acked_since = 0;
}
