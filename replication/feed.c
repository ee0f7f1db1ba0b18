/* The primary's side of the link (protocol 8 and 10). Core.
 *
 * HELLO -> plan -> WELCOME -> first ACK: attached (PE_ATTACHED) -> reads the store from where the
 * follower ends, piece by piece -> a piece that is complete up to t, and the ring holds t + 1 or t
 * is the newest number: from the ring (PE_CAUGHT_UP). Beside it the follower uploads what only it
 * has (upload.c).
 *
 * Back-pressure: A window of batches is on its way at most; the follower tells how many
 * bytes it has applied. A follower that falls out of the ring is reported (PE_SLOW) before it is
 * read to again. Anything malformed, out of order or of another epoch closes the link; the follower
 * comes back and starts over from its last consistent lsn. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "node/base/mutant.h"
#include "node/base/protocol.h"
#include "replication/replica_state.h"

void feed_link_up(struct replica *r, uint64_t link)
{
    /* The new connection closes the old one before its handshake. */
    feed_lost(r, "a newer connection of the standby replaces this one");
    r->p.feed = (struct feed){.state = FEED_HELLO, .link = link, .since_ns = r->now};
}

void feed_lost(struct replica *r, const char *why)
{
    struct feed *d = &r->p.feed;
    if (d->state == FEED_NONE)
        return;
    bool attached = d->state >= FEED_READING;
    uint64_t link = d->link;
    shared_unref(d->merging);
    *d = (struct feed){.state = FEED_NONE};
    if (why)
        replica_close_link(r, link, why);
    verify_lost(r, "the standby went away");
    if (!attached || r->role != PRIMARY)
        return;
    commit_feed_lost(r);
    replica_report(r, PE_DETACHED, NULL);
}

/* ---- the handshake ---- */

static void refuse(struct replica *r, const char *text)
{
    buf_append_str(&r->out, text);
    replica_send(r, r->p.feed.link, FRAME_REFUSED, NULL);
    replica_log(r, false, "the standby is refused: %.170s", text);
    feed_lost(r, text);
}

static bool has_epoch(const struct history *h, uint32_t epoch)
{
    for (unsigned i = 0; i < h->n; i++)
        if (h->row[i].epoch == epoch)
            return true;
    return false;
}

/* A store that ends before what it once acknowledged, or what was committed in an epoch of which it
 * was primary (section 8). */
static bool lost_data(const struct replica *r, const struct frame_hello *h, struct pos shared)
{
    const struct primary *p = &r->p;
    if (BATON_MUTANT(ROLLED_BACK_IS_FINE, true, false))
        return false;
    /* What it has beyond the shared point are other changes, whatever their numbers. */
    if (store_id_eq(&h->store, &p->acked_store) && shared.lsn < p->acked)
        return true;
    uint32_t epoch = p->known.epoch;
    return epoch && (epoch & 1) == h->node && has_epoch(&h->history, epoch) &&
           history_epoch_end(&h->history, epoch, h->end) < p->known.lsn;
}

/* What both have: in the running epoch that is all the follower has of it, even what isn't durable
 * here yet. */
static struct pos shared_point(const struct replica *r, const struct frame_hello *h)
{
    struct pos end = {r->p.epoch, r->p.numbered};
    return history_shared(&r->meta.history, end, &h->history, h->end);
}

static enum frame_plan plan(const struct replica *r, const struct frame_hello *h,
                            struct pos *shared)
{
    *shared = shared_point(r, h);
    bool resumes =
        h->reached.lsn && h->reached.epoch == r->p.epoch && h->reached.lsn <= r->p.numbered;
    if (!h->history.n && !resumes)
        return PLAN_COPY;
    /* This very store on both nodes: the file was copied. Two stores of one id would count for each
     * other. */
    bool clone = store_id_eq(&h->store, &r->meta.id);
    if (h->unfit || clone || lost_data(r, h, *shared))
        return PLAN_UPLOAD_COPY;
    if (resumes)
        return PLAN_RESUME;
    if (h->copying)
        return PLAN_COPY; /* what it has is a part of a copy: nothing of its own */
    return shared->epoch ? PLAN_ADOPT : PLAN_UPLOAD_COPY;
}

static void refuse_version(struct replica *r, unsigned speaks)
{
    char text[REFUSAL_MAX];
    snprintf(text, sizeof text,
             "it speaks version %u of the replication protocol, this node versions %d to %d: "
             "upgrade one release after the other, the standby first",
             speaks, (int)PROTOCOL_OLDEST, (int)PROTOCOL);
    refuse(r, text);
}

static bool hello_fits(struct replica *r, struct slice payload, struct frame_hello *h)
{
    if (!hello_decode(payload, h)) {
        if (h->version && !protocol_reads(h->version)) {
            refuse_version(r, h->speaks);
        } else {
            feed_lost(r, "malformed HELLO");
        }
        return false;
    }
    r->p.feed.version = (uint16_t)protocol_common(h->speaks);
    if (!r->p.feed.version) {
        refuse_version(r, h->speaks);
        return false;
    }
    if (!slice_eq(h->cluster, slice_str(r->cluster))) {
        char text[REFUSAL_MAX];
        snprintf(text, sizeof text,
                 "it belongs to another cluster than \"%s\": cluster, nodes and key_file must "
                 "belong together in both configurations",
                 r->cluster);
        refuse(r, text);
        return false;
    }
    if (h->node != 1 - r->cfg.self) {
        refuse(r, "both nodes have the same name: `node` must be \"a\" on one and \"b\" on the "
                  "other");
        return false;
    }
    if (h->epoch != r->p.epoch) {
        feed_lost(r, "the standby follows another epoch");
        return false;
    }
    return true;
}

static bool too_old(const struct replica *r, const struct frame_hello *h)
{
    if (BATON_MUTANT(ANY_AGE_IS_MERGED, true, false))
        return false;
    if (!h->history.n || h->copying || !h->written_ms || !r->cfg.retention_ms)
        return false;
    return r->wall_ms > h->written_ms &&
           (uint64_t)(r->wall_ms - h->written_ms) > r->cfg.retention_ms;
}

/* How one comes back whose messages may be forgotten here, or that has itself forgotten some. What
 * was done above the shared point and is purged no change will tell of: where one side did that, a
 * full copy has to. And what the follower alone holds may then be mail that was finished here: it
 * needs the operator's word, as after an absence for longer than the retention; without it
 * nothing of it counts. (Where nothing was purged it catches up, however long it was away: a copy
 * would take with it a body that may have rotted here.) A store that this node waits for is merged
 * all the same, for nothing was delivered without it, and is emptied once it was dropped. */
static enum frame_plan plan_forgotten(const struct replica *r, const struct frame_hello *h,
                                      struct pos shared, enum frame_plan planned)
{
    const struct primary *p = &r->p;
    bool waited_for = feed_waited_for(r, &h->store);
    if (planned == PLAN_RESUME && h->copying) /* of this very copy; nothing was purged since */
        return store_id_eq(&h->store, &p->copy_store) && p->copy_purged == p->purged ? PLAN_RESUME
                                                                                     : PLAN_COPY;
    bool forgotten = BATON_MUTANT(ANY_AGE_IS_MERGED, false, p->purged > shared.lsn);
    bool forgot = BATON_MUTANT(FORGOT_IS_FINE, false, h->purged > shared.lsn);
    if (!waited_for && h->end.lsn <= shared.lsn && !h->unmerged)
        return forgotten || forgot ? PLAN_COPY : planned;
    if (waited_for || !(forgotten || too_old(r, h)))
        return forgotten || forgot ? PLAN_UPLOAD_COPY : planned;
    static const enum frame_plan by_order[] = {
        [REJOIN_NONE] = PLAN_WAIT, [REJOIN_MERGE] = PLAN_UPLOAD_COPY, [REJOIN_DISCARD] = PLAN_COPY};
    return by_order[h->rejoin];
}

/* Up to where the follower's divergent mail was committed. A primary that ends before what the
 * follower knows to be committed has lost its end (it was rolled back; protocol 8 would have it
 * step down, but it has no right to wait for: whatever it lacks is merged before it delivers). It
 * can't tell any more what else was acknowledged of that epoch: all of it counts. */
static struct pos known_committed(struct replica *r, const struct frame_hello *h)
{
    const struct primary *p = &r->p;
    struct pos c = h->committed, own = {p->epoch, p->numbered};
    bool was_here = (c.epoch & 1) == r->cfg.self || has_epoch(&r->meta.history, c.epoch);
    if (c.epoch && was_here && history_epoch_end(&r->meta.history, c.epoch, own) < c.lsn) {
        replica_log(r, false,
                    "this store ends before what was committed in epoch %u: it was rolled back; "
                    "what it lacks is merged from the standby",
                    (unsigned)c.epoch);
        return (struct pos){c.epoch, h->end.lsn};
    }
    return p->known.epoch == h->end.epoch ? p->known : (struct pos){p->epoch, p->committed};
}

static void on_hello(struct replica *r, struct slice payload)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    struct frame_hello h;
    if (!hello_fits(r, payload, &h))
        return;
    struct pos shared;
    enum frame_plan way = plan(r, &h, &shared);
    if (way != PLAN_COPY)
        way = plan_forgotten(r, &h, shared, way);
    bool any_age = BATON_MUTANT(ANY_AGE_IS_MERGED, true, h.rejoin == REJOIN_MERGE);
    d->remembers = any_age ? UINT64_MAX : shared.lsn;
    d->store = h.store;
    d->plan = (uint8_t)way;
    d->unfit = h.unfit;
    d->copies = way == PLAN_COPY || (way == PLAN_RESUME && h.copying);
    d->start = way == PLAN_ADOPT ? shared.lsn : way == PLAN_RESUME ? h.reached.lsn : 0;
    d->state = way == PLAN_UPLOAD_COPY ? FEED_UPLOAD : FEED_WELCOMED;
    struct pos known = known_committed(r, &h);
    struct frame_welcome w = {.version = d->version,
                              .speaks = PROTOCOL,
                              .node = (uint8_t)r->cfg.self,
                              .epoch = p->epoch,
                              .plan = (uint8_t)way,
                              .shared = shared,
                              .known = known,
                              .last = p->numbered,
                              .history = r->meta.history};
    bool ok = welcome_encode(&r->out, &w);
    assert(ok);
    (void)ok;
    replica_send(r, d->link, FRAME_WELCOME, NULL);
    static const char *const names[] = {[PLAN_ADOPT] = "catches up",
                                        [PLAN_RESUME] = "goes on where it was cut off",
                                        [PLAN_COPY] = "gets a full copy",
                                        [PLAN_UPLOAD_COPY] = "uploads, then gets a full copy",
                                        [PLAN_WAIT] = "was away for longer than `retention` and "
                                                      "waits for batonctl rejoin there"};
    replica_log(r, true,
                "the standby %s: ends at %u/%" PRIu64 ", shared %u/%" PRIu64
                ", this node at %u/%" PRIu64,
                names[way], (unsigned)h.end.epoch, h.end.lsn, (unsigned)shared.epoch, shared.lsn,
                (unsigned)p->epoch, p->numbered);
    if (way == PLAN_WAIT)
        feed_lost(r, "the standby waits for its operator");
}

/* ---- notes (protocol 9) ---- */

/* All that is noted: what the follower had noted before doesn't count. */
void feed_send_notes(struct replica *r)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    size_t from = 0;
    bool anew = true, ok = true;
    do {
        struct buf records;
        buf_init(&records, NOTES_BYTES_MAX);
        ok = notes_encode(&r->notes, &records, &from, NOTES_FRAME_BYTES);
        bool last = from == r->notes.n;
        ok = ok && note_encode_head(&r->out, p->epoch, anew, last ? p->note_number : 0) &&
             buf_append_slice(&r->out, buf_slice(&records));
        buf_free(&records);
        assert(ok);
        replica_send(r, d->link, FRAME_NOTE, NULL);
        anew = false;
    } while (ok && from < r->notes.n);
    d->notes_sent = p->note_number;
    d->notes_due = false;
}

void feed_note(struct replica *r, struct slice frame)
{
    struct feed *d = &r->p.feed;
    if (d->state < FEED_READING)
        return; /* all is told when it attaches */
    d->notes_due = d->notes_due || d->notes_sent - d->noted >= NOTE_FRAMES_MAX;
    if (d->notes_due)
        return;
    bool ok = buf_append_slice(&r->out, frame);
    assert(ok);
    (void)ok;
    replica_send(r, d->link, FRAME_NOTE, NULL);
    d->notes_sent = r->p.note_number;
}

static void on_noted(struct replica *r, uint64_t number)
{
    struct feed *d = &r->p.feed;
    if (number > d->noted)
        d->noted = number;
    if (d->notes_due && d->noted == d->notes_sent)
        feed_send_notes(r);
}

/* ---- acknowledgements ---- */

/* What it can't end before any more (lost_data()). */
static void remember_acked(struct primary *p)
{
    if (!store_id_eq(&p->acked_store, &p->feed.store)) {
        p->acked_store = p->feed.store;
        p->acked = 0;
    }
    if (p->feed.durable > p->acked)
        p->acked = p->feed.durable;
}

static void attach(struct replica *r, const struct frame_ack *a)
{
    struct feed *d = &r->p.feed;
    bool fresh = !store_id_eq(&a->store, &d->store);
    if (fresh != (d->plan == PLAN_COPY) || a->durable > d->start || a->taken) {
        feed_lost(r, "the standby didn't do as planned");
        return;
    }
    d->store = a->store;
    if (fresh)
        r->p.copy_store = a->store;
    d->state = FEED_READING;
    d->since_ns = r->now;
    d->cursor = d->start;
    d->received = d->durable = a->durable;
    remember_acked(&r->p);
    if (BATON_MUTANT(NOTE_NOT_RESENT, false, true))
        feed_send_notes(r);
    replica_report(r, PE_ATTACHED, &d->store);
    commit_update(r);
    feed_pump(r);
}

static void on_ack(struct replica *r, struct slice payload)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    struct frame_ack a;
    if (!ack_decode(payload, &a) || a.epoch != p->epoch) {
        feed_lost(r, "malformed acknowledgement, or of another epoch");
        return;
    }
    if (d->state == FEED_WELCOMED) {
        attach(r, &a);
        return;
    }
    if (d->state < FEED_READING || !store_id_eq(&a.store, &d->store) || a.received > d->cursor ||
        a.taken > d->sent || a.noted > d->notes_sent) {
        feed_lost(r, "the standby acknowledges what it never got");
        return;
    }
    if (a.received > d->received)
        d->received = a.received;
    if (a.durable > d->durable)
        d->durable = a.durable;
    if (a.taken > d->taken)
        d->taken = a.taken;
    on_noted(r, a.noted);
    remember_acked(p);
    commit_update(r);
    feed_pump(r);
}

/* ---- the feed ---- */

static bool room(const struct replica *r, size_t n)
{
    const struct feed *d = &r->p.feed;
    /* One batch is always let through: it may be larger than the window. */
    return d->sent == d->taken || d->sent - d->taken + n <= r->cfg.window_bytes;
}

/* x: rows NULL where `rest` has them. */
static void send_batch(struct replica *r, struct batch *x, struct shared *rest)
{
    struct feed *d = &r->p.feed;
    x->epoch = r->p.epoch;
    x->committed = (struct pos){r->p.epoch, r->p.committed};
    if (rest)
        x->rows = slice_of(rest->data, rest->n);
    struct buf older;
    buf_init(&older, FRAME_MAX);
    if (d->version != PROTOCOL) { /* a standby that isn't upgraded yet */
        if (!rows_recode(&older, x->rows, false, d->version)) {
            buf_free(&older);
            feed_lost(r, "rows that its release can't hold");
            return;
        }
        x->rows = buf_slice(&older);
        rest = NULL;
    }
    bool ok = batch_encode_head(&r->out, x) && (rest || buf_append_slice(&r->out, x->rows));
    assert(ok);
    (void)ok;
    d->sent += r->out.len + (rest ? rest->n : 0);
    d->committed_sent = r->p.committed;
    r->p.committed_told_ns = r->now;
    replica_send(r, d->link, FRAME_BATCH, rest);
    buf_free(&older);
}

static void read_on(struct replica *r)
{
    struct feed *d = &r->p.feed;
    /* What this follower has ahead of the own disk can't be read yet. */
    if (d->read || d->cursor > r->p.own || !room(r, r->cfg.catch_up_bytes))
        return;
    struct store_request q = {.type = SR_CHANGES,
                              .epoch = r->p.epoch,
                              .first = d->cursor,
                              .copies = d->copies,
                              .limit = r->cfg.catch_up_bytes};
    d->read = replica_store(r, &q);
}

/* Switch from reading to the ring (protocol 10; incident 2). */
static bool reaches_ring(const struct primary *p)
{
    return p->feed.cursor == p->numbered || ring_find(&p->ring, p->feed.cursor + 1);
}

static void on_changes(struct replica *r, const struct store_reply *reply)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    d->read = 0;
    struct wire_reader in = wire_read(reply->bytes ? slice_of(reply->bytes->data, reply->bytes->n)
                                                   : (struct slice){NULL, 0});
    struct batch x;
    if (reply->err || !batch_decode(&in, &x) || !wire_done(&in) || x.last > p->numbered) {
        replica_log(r, false, "the store can't be read for the standby (error %d)", reply->err);
        feed_lost(r, "the primary can't read its store");
        return;
    }
    if (d->copies && d->cursor == 0)
        p->copy_purged = reply->meta.purged;
    bool unread = d->copies ? reply->meta.purged != p->copy_purged : reply->meta.purged > d->cursor;
    if (BATON_MUTANT(PURGED_UNREAD, false, unread)) {
        feed_lost(r, "what it hasn't read yet is done and purged");
        return;
    }
    d->copies = d->copies && !x.complete;
    /* It covers all from what was sent before to where it ends, so the follower sees a gap only
     * where there is one. */
    x.first = d->cursor + 1;
    if (x.last < d->cursor)
        x.last = d->cursor;
    d->cursor = x.last;
    bool progress = x.n_rows > 0; /* else: when the own end moves, or at the next tick */
    send_batch(r, &x, NULL);
    if (BATON_MUTANT(RING_TOO_EARLY, true, x.complete) && reaches_ring(p)) {
        d->state = FEED_RING;
        struct store_request all_read = {.type = SR_CHANGES, .epoch = p->epoch};
        replica_store(r, &all_read);
        replica_report(r, PE_CAUGHT_UP, &d->store);
    }
    if (progress)
        feed_pump(r);
}

static void send_history(struct replica *r)
{
    struct feed *d = &r->p.feed;
    struct buf b;
    buf_init(&b, FRAME_SMALL_MAX);
    bool ok = history_encode(&b, &r->meta.history);
    assert(ok);
    (void)ok;
    struct batch x = {
        .first = d->cursor + 1, .last = d->cursor, .complete = true, .history = buf_slice(&b)};
    send_batch(r, &x, NULL);
    buf_free(&b);
    d->history_due = false;
    d->history_at = d->sent;
}

static void fell_out(struct replica *r)
{
    struct primary *p = &r->p;
    if (commit_standby(p) && !p->slow_told && !p->drop_cookie) {
        p->slow_told = true;
        replica_report(r, PE_SLOW, NULL);
    }
    replica_log(r, false,
                "the standby is slower than the ring is long: it catches up from the "
                "store");
    p->feed.state = FEED_READING;
    read_on(r);
}

void feed_pump(struct replica *r)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    if (r->role != PRIMARY)
        return;
    if (d->state == FEED_READING)
        read_on(r);
    while (d->state == FEED_RING) {
        if (d->history_due && room(r, 0))
            send_history(r);
        if (d->cursor == p->numbered)
            return;
        const struct ring_batch *b = ring_find(&p->ring, d->cursor + 1);
        if (!b) {
            fell_out(r);
            return;
        }
        if (!room(r, b->rows->n))
            return;
        struct batch x = {
            .first = b->first, .last = b->last, .complete = true, .n_rows = b->n_rows};
        d->cursor = b->last;
        send_batch(r, &x, b->rows);
    }
}

void feed_committed(struct replica *r)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    if (d->state < FEED_READING || d->committed_sent >= p->committed ||
        r->now < p->committed_told_ns + COMMITTED_EVERY_NS)
        return;
    bool ok = committed_encode(&r->out, (struct pos){p->epoch, p->committed});
    assert(ok);
    (void)ok;
    d->committed_sent = p->committed;
    p->committed_told_ns = r->now;
    replica_send(r, d->link, FRAME_COMMITTED, NULL);
}

bool feed_reply(struct replica *r, struct store_reply *reply)
{
    struct feed *d = &r->p.feed;
    if (reply->type == SR_CHANGES && reply->cookie == d->read) {
        on_changes(r, reply);
        return true;
    }
    return upload_reply(r, reply);
}

void feed_frame(struct replica *r, uint8_t type, struct slice payload)
{
    struct feed *d = &r->p.feed;
    assert(d->state != FEED_NONE);
    if (type == FRAME_HELLO && d->state == FEED_HELLO)
        on_hello(r, payload);
    else if (type == FRAME_ACK && d->state == FEED_UPLOAD)
        return; /* nothing is fed on this link */
    else if (type == FRAME_ACK && d->state != FEED_HELLO)
        on_ack(r, payload);
    else if (type == FRAME_UNMERGED)
        upload_frame(r, payload);
    else if (type == FRAME_TOLD)
        verify_told(r, payload);
    else if (type == FRAME_VERIFY && d->state >= FEED_READING)
        verify_start(r, 0);
    else if (type == FRAME_VERIFY && d->state != FEED_HELLO)
        verify_part(r);
    else
        feed_lost(r, "a frame out of turn");
}
