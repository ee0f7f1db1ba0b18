/* The primary's commit rule and what changes it (protocol 4 and the order columns of 5). Core.
 *
 * committed = waiting ? min(own, what the store that is waited for has durable) : own, and never
 * falls. An acknowledgement counts only from the attached link of this epoch, and only from the
 * store that the record, or the pending take-back, names (incidents 3 and 8): feed.c sees to the
 * first, commit_standby() to the second.
 *
 * noted = waiting ? what the store that is waited for has heard of : all. Final dots wait for it
 * (section 9).
 *
 * A new epoch that waits begins with what was known to be committed before it, not with 0 and not
 * with the own end (incident 6).
 *
 * Drop: history row "solo" durable -> stop waiting -> release -> PE_SOLO_DURABLE.
 * Take back: wait -> its durable lsn >= own durable end of that moment -> history row "paired"
 * durable here -> and there -> PE_TAKE_BACK_READY. The store detaches meanwhile: PE_TAKE_BACK_LOST,
 * and the waiting goes on until PX_DROP, since the record may have changed already (incident 1).
 * Failure of a history row: PE_STORAGE_FAILED, nothing is released. */
#include <assert.h>

#include "node/base/mutant.h"
#include "replication/replica_state.h"

bool commit_standby(const struct primary *p)
{
    return p->waiting && p->feed.state >= FEED_READING &&
           BATON_MUTANT(ACK_FROM_ANY_STORE, true, store_id_eq(&p->feed.store, &p->waits_for));
}

static uint64_t lower(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void tell_watermark(struct replica *r)
{
    struct replica_effect fx = {.type = RX_WATERMARK,
                                .epoch = r->p.epoch,
                                .committed = r->p.committed,
                                .settled = r->p.settled,
                                .noted = r->p.noted};
    replica_emit_fx(r, &fx);
}

static void wait_for(struct primary *p, const struct store_id *store, uint64_t now)
{
    p->waiting = true;
    p->waits_for = *store;
    p->waiting_since_ns = now;
    p->slow_told = false;
}

/* What is known to be committed of the time before this epoch, as far as this store has it. */
static struct pos known_before(const struct replica *r, const struct store_meta *promoted)
{
    struct pos known = r->meta.committed;
    if (pos_cmp(promoted->committed, known) > 0 && promoted->committed.epoch < r->p.epoch)
        known = promoted->committed;
    if (pos_cmp(r->f.committed, known) > 0)
        known = r->f.committed;
    uint64_t end = history_epoch_end(&promoted->history, known.epoch, promoted->end);
    known.lsn = lower(known.lsn, end);
    return known;
}

void commit_begin(struct replica *r, const struct store_reply *reply)
{
    struct primary *p = &r->p;
    struct ring ring = p->ring;
    assert(ring.n == 0 && p->feed.state == FEED_NONE);
    uint32_t epoch = p->epoch;
    *p = (struct primary){.epoch = epoch, .first = reply->first, .ring = ring};
    p->own = p->numbered = reply->meta.end.lsn;
    p->known = known_before(r, &reply->meta);
    p->in_doubt = reply->n_rows;
    p->purged = reply->meta.purged;
    p->detached_ns = r->now;
    p->committed = p->own;
    if (r->promote_paired) {
        wait_for(p, &r->promote_waits_for, r->now);
        p->committed = BATON_MUTANT(RESTART_ALL_COMMITTED, p->own, lower(p->known.lsn, p->own));
    }
    p->settled = p->committed;
    replica_report(r, PE_PROMOTED, NULL);
    tell_watermark(r);
}

/* ---- take back ---- */

static void take_back_lost(struct replica *r)
{
    r->p.take_back = TB_NONE;
    r->p.take_back_cookie = 0;
    replica_report(r, PE_TAKE_BACK_LOST, NULL);
}

void commit_take_back(struct replica *r, const struct store_id *store)
{
    struct primary *p = &r->p;
    if (p->feed.state != FEED_RING || !store_id_eq(&p->feed.store, store)) {
        replica_report(r, PE_TAKE_BACK_LOST, NULL);
        return;
    }
    p->drop_cookie = 0; /* an earlier drop's row must not end this wait */
    wait_for(p, store, r->now);
    p->take_back = TB_DURABLE;
    p->take_back_target = p->own; /* all that was released before the waiting began */
    p->take_back_notes = p->note_number;
    commit_update(r);
}

static void take_back_step(struct replica *r)
{
    struct primary *p = &r->p;
    const struct feed *d = &p->feed;
    assert(p->take_back == TB_NONE || p->take_back == TB_READY || commit_standby(p));
    if (p->take_back == TB_DURABLE && d->durable >= p->take_back_target) {
        struct store_request q = {.type = SR_MODE,
                                  .epoch = p->epoch,
                                  .mode = MODE_PAIRED,
                                  .committed = {p->epoch, p->committed}};
        p->take_back = TB_MODE;
        p->take_back_cookie = replica_store(r, &q);
    }
    if (p->take_back == TB_BOTH && !d->history_due && d->taken >= d->history_at &&
        d->noted >= p->take_back_notes) {
        p->take_back = TB_READY;
        replica_report(r, PE_TAKE_BACK_READY, &p->waits_for);
    }
}

void commit_paired(struct replica *r, const struct store_id *store)
{
    struct primary *p = &r->p;
    p->take_back = TB_NONE;
    if (!p->waiting || !store_id_eq(&p->waits_for, store))
        wait_for(p, store, r->now);
    p->slow_told = false;
    p->waiting_since_ns = r->now;
    commit_update(r);
}

void commit_feed_lost(struct replica *r)
{
    r->p.detached_ns = r->now;
    if (r->p.take_back != TB_NONE)
        take_back_lost(r);
}

/* ---- drop ---- */

static void dropped(struct replica *r)
{
    struct primary *p = &r->p;
    p->drop_cookie = 0;
    p->waiting = false;
    p->waits_for = (struct store_id){{0}};
    commit_update(r);
    replica_report(r, PE_SOLO_DURABLE, NULL);
}

void commit_drop(struct replica *r)
{
    struct primary *p = &r->p;
    uint64_t first = p->committed + 1 > p->first ? p->committed + 1 : p->first;
    p->take_back = TB_NONE;
    p->take_back_cookie = 0;
    struct store_request q = {.type = SR_MODE,
                              .epoch = p->epoch,
                              .mode = MODE_SOLO,
                              .first = first,
                              .committed = {p->epoch, p->committed}};
    p->drop_cookie = replica_store(r, &q);
    if (BATON_MUTANT(HISTORY_AFTER_REPLY, true, false))
        dropped(r);
}

/* ---- hand-over ---- */

void commit_drain(struct replica *r)
{
    r->p.draining = true;
    r->p.drained = false;
    struct store_request q = {.type = SR_CLOSE, .epoch = r->p.epoch};
    r->p.drain_cookie = replica_store(r, &q);
}

static void drain_step(struct replica *r)
{
    struct primary *p = &r->p;
    if (!p->draining || p->drained || !p->writer_closed || !commit_standby(p))
        return;
    if (p->own < p->numbered || p->feed.durable < p->numbered || p->feed.noted < p->note_number)
        return;
    p->drained = true;
    replica_report(r, PE_DRAINED, &p->feed.store);
}

/* ---- what moves ---- */

void commit_update(struct replica *r)
{
    struct primary *p = &r->p;
    assert(r->role == PRIMARY);
    bool standby = commit_standby(p);
    uint64_t durable = p->own, received = p->own;
    if (p->waiting) {
        durable = standby ? lower(p->own, p->feed.durable) : 0;
        durable = BATON_MUTANT(REPLY_BEFORE_STANDBY, p->own, durable);
        received = standby ? lower(p->own, p->feed.received) : 0;
        received = BATON_MUTANT(SETTLED_ALONE, p->own, received);
    }
    uint64_t committed = durable > p->committed ? durable : p->committed;
    uint64_t settled = received > p->settled ? received : p->settled;
    if (committed > settled)
        settled = committed;
    uint64_t told = !p->waiting ? p->note_number : standby ? p->feed.noted : 0;
    told = BATON_MUTANT(NOTE_AFTER_DOT, p->note_number, told);
    uint64_t noted = told > p->noted ? told : p->noted;
    bool moved = committed != p->committed || settled != p->settled || noted != p->noted;
    p->committed = committed;
    p->settled = settled;
    p->noted = noted;
    if (moved)
        tell_watermark(r);
    take_back_step(r);
    drain_step(r);
    upload_merged(r);
}

bool commit_reply(struct replica *r, const struct store_reply *reply)
{
    struct primary *p = &r->p;
    if (reply->type == SR_CLOSE && reply->cookie == p->drain_cookie) {
        p->drain_cookie = 0;
        p->writer_closed = true;
        drain_step(r);
        return true;
    }
    if (reply->type != SR_MODE)
        return false;
    if (reply->err) {
        replica_log(r, false, "a row of the history can't be written (error %d)", reply->err);
        replica_report(r, PE_STORAGE_FAILED, NULL);
        return true;
    }
    p->feed.history_due = p->feed.state >= FEED_WELCOMED;
    if (reply->cookie == p->drop_cookie) {
        dropped(r);
    } else if (reply->cookie == p->take_back_cookie) {
        p->take_back_cookie = 0;
        p->take_back = TB_BOTH;
        commit_update(r);
    }
    feed_pump(r);
    return true;
}

/* Since when the standby owes something; 0: it doesn't. */
static uint64_t owes_since(const struct primary *p)
{
    if (!commit_standby(p))
        return p->detached_ns;
    if (p->feed.durable >= p->numbered)
        return 0;
    const struct ring_batch *oldest = ring_above(&p->ring, p->feed.durable);
    uint64_t since = oldest ? oldest->at_ns : 0;
    return since > p->feed.since_ns ? since : p->feed.since_ns;
}

/* With the store's next transaction: a restart begins with it, and a rejoin judges by it. */
static void keep_committed(struct replica *r)
{
    struct primary *p = &r->p;
    if (p->committed <= p->committed_kept)
        return;
    p->committed_kept = p->committed;
    struct store_request q = {
        .type = SR_COMMITTED, .epoch = p->epoch, .committed = {p->epoch, p->committed}};
    replica_store(r, &q);
}

void commit_tick(struct replica *r)
{
    struct primary *p = &r->p;
    keep_committed(r);
    if (!p->waiting || p->drop_cookie)
        return;
    uint64_t since = owes_since(p);
    if (!since) {
        p->slow_told = false;
        return;
    }
    if (since < p->waiting_since_ns)
        since = p->waiting_since_ns;
    if (p->slow_told || r->now < since + r->cfg.standby_timeout_ns)
        return;
    p->slow_told = true;
    replica_log(r, false, "the standby %s",
                commit_standby(p) ? "acknowledges too slowly" : "isn't attached");
    replica_report(r, PE_SLOW, NULL);
}
