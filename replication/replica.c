/* See replica.h. This file: events come in, roles change, effects go out. commit.c has the commit
 * rule, feed.c the primary's side of the link, follow.c the follower's; the frames are in frames.c.
 *
 * Roles: IDLE -> FOLLOWS (PX_FOLLOW) -> PROMOTING (PX_PROMOTE) -> PRIMARY -> CLOSING (PX_STEP_DOWN)
 * -> IDLE. What can go wrong: SR_PROMOTE fails -> PE_PROMOTE_FAILED, IDLE. A step-down overtakes a
 * promotion: its reply is ignored, SR_CLOSE runs after it in the storage thread's order. A follow
 * order while the writer is still closing waits until it is closed.
 *
 * Touches memory only; time, wall clock and randomness are passed in. */
#include "replication/replica.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/replica_state.h"

struct replica *replica_new(const struct replica_config *c, const char *cluster,
                            const struct store_meta *meta, replica_emit emit, void *ctx)
{
    struct replica *r = xcalloc(1, sizeof *r);
    r->cfg = *c;
    if (!r->cfg.ring_bytes)
        r->cfg.ring_bytes = 64 << 20;
    if (!r->cfg.catch_up_bytes)
        r->cfg.catch_up_bytes = 1 << 20;
    if (!r->cfg.window_bytes)
        r->cfg.window_bytes = WINDOW_BYTES;
    if (!r->cfg.repair_bytes)
        r->cfg.repair_bytes = 64 << 20;
    assert(r->cfg.window_bytes <= WINDOW_BYTES); /* what the other side bears with */
    assert(r->cfg.catch_up_bytes + BODY_CHUNK_BYTES * 2 < FRAME_MAX);
    snprintf(r->cluster, sizeof r->cluster, "%s", cluster);
    r->meta = *meta;
    r->emit = emit;
    r->ctx = ctx;
    buf_init(&r->out, FRAME_MAX);
    ring_init(&r->p.ring, r->cfg.ring_bytes);
    return r;
}

void replica_free(struct replica *r)
{
    if (!r)
        return;
    ring_clear(&r->p.ring);
    notes_clear(&r->notes);
    upload_epoch_over(r);
    shared_unref(r->p.feed.merging);
    shared_unref(r->f.uploading);
    shared_unref(r->verify.own);
    buf_free(&r->verify.rows);
    buf_free(&r->answering.rows);
    free(r->pending);
    buf_free(&r->out);
    free(r);
}

void replica_emit_fx(struct replica *r, const struct replica_effect *fx)
{
    r->emit(r->ctx, fx);
}

void replica_log(struct replica *r, bool ok, const char *fmt, ...)
{
    struct replica_effect fx = {.type = RX_LOG, .ok = ok};
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(fx.text, sizeof fx.text, fmt, ap);
    va_end(ap);
    replica_emit_fx(r, &fx);
}

void replica_report(struct replica *r, enum pair_event_type type, const struct store_id *store)
{
    struct replica_effect fx = {.type = RX_REPORT, .report = {.type = type, .epoch = r->p.epoch}};
    if (store)
        fx.report.follower = *store;
    if (type == PE_PROMOTED) {
        fx.report.pos = (struct pos){r->p.epoch, r->p.own};
        fx.report.in_doubt = r->p.in_doubt;
    }
    replica_emit_fx(r, &fx);
}

void replica_close_link(struct replica *r, uint64_t link, const char *why)
{
    struct replica_effect fx = {.type = RX_CLOSE, .link = link};
    snprintf(fx.text, sizeof fx.text, "%s", why);
    replica_emit_fx(r, &fx);
}

void replica_send(struct replica *r, uint64_t link, enum frame_type type, struct shared *rest)
{
    assert(link);
    struct replica_effect fx = {.type = RX_SEND,
                                .link = link,
                                .frame = (uint8_t)type,
                                .payload = buf_slice(&r->out),
                                .shared = rest};
    replica_emit_fx(r, &fx);
    buf_clear(&r->out);
}

uint64_t replica_store(struct replica *r, struct store_request *q)
{
    q->cookie = ++r->cookies;
    struct replica_effect fx = {.type = RX_STORE, .request = q};
    replica_emit_fx(r, &fx);
    return q->cookie;
}

/* ---- what the pair core orders ---- */

struct shared *replica_noted(const struct replica *r, struct slice before)
{
    struct buf b;
    size_t from = 0;
    buf_init(&b, before.n + NOTES_BYTES_MAX);
    bool ok = buf_append_slice(&b, before) && notes_encode(&r->notes, &b, &from, NOTES_BYTES_MAX);
    assert(ok && from == r->notes.n);
    (void)ok;
    struct shared *s = shared_new(buf_slice(&b));
    buf_free(&b);
    return s;
}

static void promote(struct replica *r, const struct pair_effect *fx)
{
    assert(r->role == IDLE || r->role == FOLLOWS);
    if (r->role == FOLLOWS)
        follow_stop(r);
    r->role = PROMOTING;
    r->reached = (struct pos){0, 0};
    r->follow_later = false;
    r->waits = false;
    r->order = REJOIN_NONE;
    r->promote_paired = fx->mode == PAIR_PAIRED;
    r->promote_waits_for = fx->record.store[1 - r->cfg.self];
    r->p.epoch = fx->epoch;
    struct store_request q = {.type = SR_PROMOTE,
                              .epoch = fx->epoch,
                              .mode = r->promote_paired   ? MODE_PAIRED
                                      : fx->record.forced ? MODE_FORCED
                                                          : MODE_SOLO,
                              .bytes = replica_noted(r, (struct slice){NULL, 0})};
    r->promote_cookie = replica_store(r, &q);
}

static void step_down(struct replica *r)
{
    if (r->role != PRIMARY && r->role != PROMOTING)
        return;
    bool was_primary = r->role == PRIMARY;
    /* From here on no acknowledgement counts and no watermark is given. */
    r->role = CLOSING;
    struct replica_effect over = {.type = RX_EPOCH_OVER, .epoch = r->p.epoch};
    replica_emit_fx(r, &over);
    feed_lost(r, "this node isn't primary any more");
    ring_clear(&r->p.ring);
    upload_epoch_over(r);
    /* What was acknowledged must be judged as that at the next meeting, even where no transaction
     * came after it that could have carried it to the disk. */
    struct store_request q = {.type = SR_CLOSE, .epoch = r->p.epoch};
    if (was_primary)
        q.committed = (struct pos){r->p.epoch, r->p.committed};
    r->closing_cookie = replica_store(r, &q);
}

static void follow(struct replica *r, const struct record *record)
{
    if (r->role == PRIMARY || r->role == PROMOTING)
        step_down(r);
    if (r->role == CLOSING) {
        r->follow_later = true;
        r->follow_record = *record;
        return;
    }
    r->follow_later = false;
    r->role = FOLLOWS;
    follow_begin(r, record);
}

static void on_pair(struct replica *r, const struct pair_effect *fx)
{
    if (fx->epoch && fx->epoch != r->p.epoch && fx->type != PX_PROMOTE && fx->type != PX_FOLLOW &&
        fx->type != PX_EPOCH_SEEN)
        return; /* of an epoch that is over */
    bool primary = r->role == PRIMARY;
    switch (fx->type) {
    case PX_PROMOTE:
        promote(r, fx);
        break;
    case PX_FOLLOW:
        follow(r, &fx->record);
        break;
    case PX_STEP_DOWN:
        step_down(r);
        break;
    case PX_DROP:
        if (primary)
            commit_drop(r);
        break;
    case PX_TAKE_BACK:
        if (primary)
            commit_take_back(r, &fx->follower);
        break;
    case PX_PAIRED:
        if (primary)
            commit_paired(r, &fx->follower);
        break;
    case PX_DRAIN:
        if (primary)
            commit_drain(r);
        break;
    case PX_EPOCH_SEEN: {
        struct store_request q = {.type = SR_EPOCH_SEEN, .epoch = fx->epoch};
        replica_store(r, &q);
        break;
    }
    case PX_EMPTY:
        if (r->role == FOLLOWS)
            follow_may_empty(r, fx->op);
        break;
    default:
        break; /* not for replication */
    }
}

/* ---- what storage says ---- */

static void promoted(struct replica *r, const struct store_reply *reply)
{
    r->promote_cookie = 0;
    if (r->role != PROMOTING)
        return; /* stepped down meanwhile: SR_CLOSE follows */
    if (reply->err) {
        r->role = IDLE;
        replica_log(r, false, "the store can't be promoted (error %d)", reply->err);
        replica_report(r, PE_PROMOTE_FAILED, NULL);
        return;
    }
    r->role = PRIMARY;
    notes_clear(&r->notes);
    commit_begin(r, reply);
}

static void closed(struct replica *r)
{
    r->closing_cookie = 0;
    assert(r->role == CLOSING);
    r->role = IDLE;
    replica_report(r, PE_CLOSED, NULL);
    r->p.epoch = 0;
    if (r->follow_later)
        follow(r, &r->follow_record);
}

static void on_store(struct replica *r, struct store_reply *reply)
{
    if (reply->type == SR_PROMOTE && reply->cookie == r->promote_cookie)
        promoted(r, reply); /* sees the meta of before, too */
    /* Readers answer beside the storage thread: their meta may be older. */
    if (reply->type != SR_CHANGES && reply->type != SR_UNMERGED && reply->type != SR_DIGESTS &&
        reply->type != SR_ROWS)
        r->meta = reply->meta;
    if (reply->meta.purged > r->p.purged)
        r->p.purged = reply->meta.purged;
    if (reply->type == SR_CLOSE && reply->cookie == r->closing_cookie)
        closed(r);
    else if ((r->role == PRIMARY && verify_reply(r, reply)) || verify_answer(r, reply))
        ;
    else if (!follow_reply(r, reply) && r->role == PRIMARY && !commit_reply(r, reply))
        feed_reply(r, reply); /* or it is of a link or an epoch that is over */
    shared_unref(reply->bytes);
    reply->bytes = NULL;
}

static void on_batch(struct replica *r, const struct own_batch *b)
{
    struct primary *p = &r->p;
    if (r->role != PRIMARY || b->epoch != p->epoch)
        return;
    assert(!r->cfg.single && b->first == p->numbered + 1 && b->last >= b->first);
    struct ring_batch x = {b->first, b->last, b->n_rows, b->rows, r->now};
    ring_push(&p->ring, &x);
    p->numbered = b->last;
    feed_pump(r);
}

static void on_durable(struct replica *r, struct pos end)
{
    struct primary *p = &r->p;
    if (r->role != PRIMARY || end.epoch != p->epoch || end.lsn <= p->own)
        return;
    if (r->cfg.single)
        p->numbered = end.lsn; /* nobody was to be told before */
    assert(end.lsn <= p->numbered);
    p->own = end.lsn;
    commit_update(r);
    feed_pump(r);
}

static void on_notes(struct replica *r, struct slice payload)
{
    struct primary *p = &r->p;
    struct frame_note f;
    bool ok = note_decode(payload, &f);
    assert(ok);
    if (r->role != PRIMARY || f.epoch != p->epoch)
        return;
    assert(f.number == p->note_number + 1 && !f.anew);
    ok = notes_take(&r->notes, &f);
    assert(ok); /* delivery keeps to its connections */
    (void)ok;
    p->note_number = f.number;
    r->noted_in = p->epoch;
    feed_note(r, payload);
    upload_noted(r);
    commit_update(r);
}

/* ---- links ---- */

static void on_link_up(struct replica *r, const struct replica_event *ev)
{
    assert(ev->link);
    if (ev->outgoing && r->role == FOLLOWS)
        follow_link_up(r, ev->link);
    else if (!ev->outgoing && r->role == PRIMARY)
        feed_link_up(r, ev->link);
    else
        replica_close_link(r, ev->link, "this node isn't primary");
}

static void on_link_down(struct replica *r, uint64_t link)
{
    if (r->role == FOLLOWS && r->f.link == link)
        follow_lost(r, NULL);
    else if (r->role == PRIMARY && r->p.feed.link == link)
        feed_lost(r, NULL);
}

static void on_frame(struct replica *r, const struct replica_event *ev)
{
    if (ev->frame == FRAME_PING)
        return;
    if (r->role == FOLLOWS && r->f.link == ev->link)
        follow_frame(r, ev->frame, ev->payload);
    else if (r->role == PRIMARY && r->p.feed.link == ev->link)
        feed_frame(r, ev->frame, ev->payload);
}

static void on_tick(struct replica *r)
{
    if (r->role == FOLLOWS)
        follow_tick(r);
    if (r->role != PRIMARY)
        return;
    commit_tick(r);
    feed_committed(r);
    feed_pump(r);
    verify_go(r);
}

/* ---- invariants ---- */

static void assert_replica(const struct replica *r)
{
    const struct primary *p = &r->p;
    const struct feed *d = &p->feed;
    if (r->role == PRIMARY) {
        assert(p->epoch && p->first);
        assert(p->committed <= p->own && p->own <= p->numbered); /* invariant 5 */
        assert(p->settled <= p->own);
        assert(p->noted <= p->note_number && d->noted <= d->notes_sent &&
               d->notes_sent <= p->note_number);
        assert(!p->waiting || !store_id_eq(&p->waits_for, &(struct store_id){{0}}));
        assert(p->take_back == TB_NONE || p->waiting);
        assert((d->state == FEED_NONE) == (d->link == 0));
        assert(d->durable <= d->received && d->received <= p->numbered);
        assert(d->taken <= d->sent);
        assert(d->state != FEED_RING || d->cursor <= p->numbered);
        assert(p->ring.bytes <= p->ring.max_bytes || p->ring.n == 1); /* invariant 10 */
    } else {
        assert(d->state == FEED_NONE);
        assert(p->ring.n == 0);
    }
    if (r->role == FOLLOWS) {
        assert((r->f.state <= FOLLOW_DIAL) == (r->f.link == 0));
        assert(r->f.durable <= r->f.received);
        assert(r->f.held <= HELD_MAX); /* invariant 10 */
    }
    assert(r->notes.n <= NOTES_MAX && r->notes.n_rcpts <= NOTES_RECIPIENTS_MAX); /* invariant 10 */
    assert(r->f.link == 0 || r->role == FOLLOWS);
    (void)p;
    (void)d;
}

void replica_step(struct replica *r, const struct replica_event *ev, uint64_t now_ns,
                  int64_t wall_ms)
{
    r->now = now_ns;
    r->wall_ms = wall_ms;
    switch (ev->type) {
    case RE_PAIR:
        on_pair(r, ev->fx);
        break;
    case RE_STORE:
        on_store(r, ev->reply);
        break;
    case RE_BATCH:
        on_batch(r, ev->batch);
        break;
    case RE_DURABLE:
        on_durable(r, ev->pos);
        break;
    case RE_NOTES:
        on_notes(r, ev->payload);
        break;
    case RE_LINK_UP:
        on_link_up(r, ev);
        break;
    case RE_LINK_DOWN:
        on_link_down(r, ev->link);
        break;
    case RE_FRAME:
        on_frame(r, ev);
        break;
    case RE_DRAINED_OUT:
        if (r->role == PRIMARY && r->p.feed.link == ev->link)
            feed_pump(r);
        break;
    case RE_TICK:
        on_tick(r);
        break;
    case RE_VERIFY:
        verify_start(r, ev->op);
        break;
    case RE_MEND:
        verify_mend(r, ev->id);
        break;
    case RE_REJOIN:
        follow_rejoin(r, ev->flag, ev->op);
        break;
    }
    assert_replica(r);
}

/* ---- for status ---- */

static void view_primary(const struct replica *r, uint64_t now_ns, struct replica_view *out)
{
    const struct primary *p = &r->p;
    const struct feed *d = &p->feed;
    out->attached = d->state >= FEED_READING;
    out->caught_up = d->state == FEED_RING;
    out->waiting = p->waiting;
    out->own_lsn = p->own;
    out->committed = p->committed;
    out->standby_received = d->received;
    out->standby_durable = d->durable;
    out->follower = d->store;
    if (!out->attached) {
        if (r->verify.parting)
            snprintf(out->progress, sizeof out->progress,
                     "looking for rotten bodies, before the standby's store is emptied");
        else if (d->state == FEED_UPLOAD)
            snprintf(out->progress, sizeof out->progress, "the standby uploads what only it has");
        return;
    }
    out->lag_changes = p->numbered - d->durable;
    const struct ring_batch *oldest = ring_above(&p->ring, d->durable);
    if (oldest && now_ns > oldest->at_ns)
        out->lag_ns = now_ns - oldest->at_ns;
    if (d->state == FEED_READING)
        snprintf(out->progress, sizeof out->progress, "%s: at %llu of %llu changes",
                 d->plan == PLAN_COPY ? "full copy" : "catching up", (unsigned long long)d->cursor,
                 (unsigned long long)p->numbered);
}

static void view_follower(const struct replica *r, struct replica_view *out)
{
    const struct follow *f = &r->f;
    static const char *const doing[] = {
        [FOLLOW_SEEN] = "remembers the epoch",
        [FOLLOW_DIAL] = "connecting to the primary",
        [FOLLOW_SETTLE] = "connected, finishing earlier writes",
        [FOLLOW_HELLO] = "connected, comparing histories",
        [FOLLOW_ADOPT] = "adopting the primary's history",
        [FOLLOW_UPLOAD] = "uploading what only this store has, before a full copy",
        [FOLLOW_ATTACHED] = ""};
    out->attached = f->state == FOLLOW_ATTACHED;
    out->caught_up = out->attached && !r->reached.lsn && f->durable >= f->primary_last;
    out->own_lsn = r->meta.end.lsn;
    out->committed = f->committed.lsn;
    out->standby_received = f->received;
    out->standby_durable = f->durable;
    out->follower = r->meta.id;
    uint64_t at = r->reached.lsn > out->own_lsn ? r->reached.lsn : out->own_lsn;
    out->lag_changes = f->primary_last > at ? f->primary_last - at : 0;
    out->rejoin_waits = r->waits;
    out->shared_lsn = r->waits_shared.lsn;
    if (r->waits && !r->order)
        snprintf(out->progress, sizeof out->progress,
                 "away for longer than `retention`: batonctl rejoin --merge | --discard");
    else if (out->attached && r->reached.lsn)
        snprintf(out->progress, sizeof out->progress, "%s: at %llu of %llu changes",
                 r->meta.copying ? "full copy" : "catching up", (unsigned long long)at,
                 (unsigned long long)f->primary_last);
    else
        snprintf(out->progress, sizeof out->progress, "%s",
                 f->parting ? "the primary looks for bodies that are whole only here"
                            : doing[f->state]);
}

void replica_view(const struct replica *r, uint64_t now_ns, struct replica_view *out)
{
    memset(out, 0, sizeof *out);
    out->verify = r->verify.view;
    if (r->role == PRIMARY)
        view_primary(r, now_ns, out);
    else if (r->role == FOLLOWS)
        view_follower(r, out);
    else
        out->own_lsn = r->meta.end.lsn;
}
