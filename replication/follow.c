/* The follower's side of the link (protocol 5 "a node never follows a record below the highest it
 * has seen", 8, 10). Core.
 *
 * PX_FOLLOW -> epoch durable here -> dial -> link -> writes of earlier links are through -> HELLO
 * -> WELCOME: adopt (or, once the primary has taken from it what is whole only here, empty the
 * store for a copy) -> first ACK: attached. Then each BATCH goes to storage and is acknowledged
 * twice: received at once, durable when it is. Beside it what is unmerged is uploaded, one piece at
 * a time: UNMERGED -> MERGED -> unmarked.
 *
 * Whatever goes wrong (a gap, an error, a frame out of turn) closes the link; the next one starts
 * over from the last consistent lsn. Only the primary of the followed epoch is listened to. After
 * PX_PROMOTE nothing is acknowledged; batches under way get into the store before the promotion, in
 * the storage thread's order. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/mutant.h"
#include "node/base/protocol.h"
#include "replication/replica_state.h"

/* Whether the store may be emptied for a full copy is for the pair core to say: it may be about to
 * be taken over with. */
static void tell_empty(struct replica *r, uint64_t session, bool wants)
{
    struct replica_effect fx = {.type = RX_REPORT,
                                .report = {.type = PE_EMPTY, .op = session, .flag = wants}};
    replica_emit_fx(r, &fx);
}

static void ask_to_empty(struct replica *r)
{
    r->f.asks_to_empty = true;
    tell_empty(r, r->f.session, true);
}

/* A body may have rotted at the primary, unnoticed, and be whole here: it goes there first
 * (verify.h). */
void follow_part(struct replica *r)
{
    struct follow *f = &r->f;
    /* Of an unfinished copy it may be whole here, too. */
    bool nothing = r->blank || (!r->meta.history.n && !r->meta.copying);
    if (nothing || f->version != PROTOCOL || BATON_MUTANT(EMPTIED_UNSEEN, true, false)) {
        ask_to_empty(r);
        return;
    }
    f->parting = true;
    f->parting_ns = r->now;
    replica_send(r, f->link, FRAME_VERIFY, NULL);
}

void follow_begin(struct replica *r, const struct record *record)
{
    follow_stop(r);
    struct follow *f = &r->f;
    struct pos committed = f->committed;
    *f =
        (struct follow){.epoch = record->epoch, .primary = record->primary, .committed = committed};
    if (record->primary == r->cfg.self)
        return; /* follows nobody */
    if (record->epoch < r->meta.epoch_seen) {
        replica_log(r, false, "the record of epoch %u isn't followed: this store has seen epoch %u",
                    (unsigned)record->epoch, (unsigned)r->meta.epoch_seen);
        return;
    }
    struct store_request q = {.type = SR_EPOCH_SEEN, .epoch = record->epoch};
    f->cookie = replica_store(r, &q);
}

void follow_stop(struct replica *r)
{
    struct replica_effect fx = {.type = RX_HANG_UP};
    replica_emit_fx(r, &fx);
    follow_lost(r, "the epoch is over");
    r->f.state = FOLLOW_SEEN;
    r->f.cookie = 0;
}

void follow_lost(struct replica *r, const char *why)
{
    struct follow *f = &r->f;
    uint64_t link = f->link;
    if (!link)
        return;
    if (f->asks_to_empty)
        tell_empty(r, f->session, false);
    f->asks_to_empty = f->parting = false;
    r->verify.view.running = false; /* as far as this node is told */
    f->link = 0;
    f->state = FOLLOW_DIAL;
    f->session = 0;
    f->cookie = 0;
    upload_forget(r);
    verify_forget(r);
    if (why)
        replica_close_link(r, link, why);
}

/* ---- the handshake ---- */

static void send_hello(struct replica *r, bool unmerged)
{
    struct follow *f = &r->f;
    assert(f->state == FOLLOW_SETTLE && !r->writes);
    struct frame_hello h = {.version = PROTOCOL_OLDEST,
                            .speaks = PROTOCOL,
                            .cluster = slice_str(r->cluster),
                            .node = (uint8_t)r->cfg.self,
                            .epoch = f->epoch,
                            .store = r->meta.id,
                            .end = r->meta.end,
                            .committed = pos_cmp(f->committed, r->meta.committed) > 0
                                             ? f->committed
                                             : r->meta.committed,
                            .copying = r->meta.copying,
                            .unfit = r->meta.unfit,
                            .unmerged = unmerged,
                            .rejoin = (uint8_t)r->order,
                            .written_ms = r->meta.written_ms,
                            .purged = r->meta.purged,
                            .reached = r->reached,
                            .history = r->meta.history};
    bool ok = hello_encode(&r->out, &h);
    assert(ok);
    (void)ok;
    f->state = FOLLOW_HELLO;
    f->told_purged = r->meta.purged;
    replica_send(r, f->link, FRAME_HELLO, NULL);
}

/* Earlier writes are through: the rest of what HELLO tells is asked for. */
static void settle(struct replica *r)
{
    struct store_request q = {.type = SR_UNMERGED, .limit = 1};
    assert(r->f.state == FOLLOW_SETTLE && !r->writes);
    r->f.cookie = replica_store(r, &q);
}

void follow_link_up(struct replica *r, uint64_t link)
{
    struct follow *f = &r->f;
    if (f->state == FOLLOW_SEEN) {
        replica_close_link(r, link, "not dialled");
        return;
    }
    follow_lost(r, "a newer connection replaces this one");
    f->link = link;
    f->session = ++r->sessions;
    f->state = FOLLOW_SETTLE;
    f->received = f->durable = f->taken = f->noted = f->held = 0;
    f->upload_sequence = 0;
    f->upload_skip = 0;
    f->uploaded = f->copy_after = false;
    if (!r->writes)
        settle(r);
}

static void send_ack(struct replica *r)
{
    struct follow *f = &r->f;
    assert(r->role == FOLLOWS && f->state == FOLLOW_ATTACHED);
    struct frame_ack a = {.store = r->meta.id,
                          .epoch = f->epoch,
                          .received = f->received,
                          .durable = BATON_MUTANT(RECEIVED_IS_DURABLE, f->received, f->durable),
                          .taken = f->taken,
                          .noted = f->noted};
    bool ok = ack_encode(&r->out, &a);
    assert(ok);
    (void)ok;
    replica_send(r, f->link, FRAME_ACK, NULL);
}

uint64_t follow_write(struct replica *r, struct store_request *q)
{
    r->writes++;
    return replica_store(r, q);
}

static void attached(struct replica *r)
{
    struct follow *f = &r->f;
    f->state = FOLLOW_ATTACHED;
    f->received = f->durable = r->meta.end.lsn;
    send_ack(r);
    upload_more(r);
}

/* A new id for a store that is emptied: this process's random bytes, and a counter mixed in
 * (splitmix64). */
static struct store_id fresh_id(struct replica *r)
{
    struct store_id id;
    uint64_t z = 0x9e3779b97f4a7c15ull * ++r->ids;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    for (unsigned i = 0; i < STORE_ID_BYTES; i++)
        id.b[i] = (uint8_t)(r->cfg.random[i] ^ (z >> 8 * (i % 8)));
    return id;
}

void follow_may_empty(struct replica *r, uint64_t session)
{
    struct follow *f = &r->f;
    if (!f->asks_to_empty || session != f->session || f->cookie)
        return; /* of a link that is gone */
    /* From here on the link doesn't matter: storage has it to do. */
    f->asks_to_empty = false;
    r->emptying = session;
    replica_log(r, true, "this store is emptied and gets a full copy from the primary");
    struct store_request q = {.type = SR_WIPE, .epoch = f->epoch, .store = fresh_id(r)};
    f->cookie = follow_write(r, &q);
}

static void adopt(struct replica *r, const struct frame_welcome *w)
{
    struct buf b;
    buf_init(&b, FRAME_SMALL_MAX);
    bool ok = history_encode(&b, &w->history);
    assert(ok);
    (void)ok;
    /* Of the primary's running epoch: its deliveries are still its own to settle. */
    bool forgotten = r->noted_in && r->noted_in < w->epoch;
    struct store_request q = {.type = SR_ADOPT,
                              .epoch = w->epoch,
                              .pos = w->shared,
                              .committed = w->known,
                              .bytes = forgotten ? replica_noted(r, buf_slice(&b))
                                                 : shared_new(buf_slice(&b))};
    buf_free(&b);
    r->f.cookie = follow_write(r, &q);
}

/* ---- away for longer than `retention` (protocol 8) ---- */

static void dial(struct replica *r)
{
    struct replica_effect fx = {.type = RX_DIAL};
    r->f.dial_at_ns = 0;
    replica_emit_fx(r, &fx);
}

static void dial_later(struct replica *r, const char *why)
{
    follow_lost(r, why);
    struct replica_effect fx = {.type = RX_HANG_UP};
    replica_emit_fx(r, &fx);
    r->f.dial_at_ns = r->now + WAIT_DIAL_NS;
}

static void wait_for_order(struct replica *r, struct pos shared)
{
    r->waits = true;
    r->order = REJOIN_NONE; /* given to another primary, or of a store that has changed since */
    r->waits_shared = shared;
    replica_log(r, false,
                "this store was away for longer than `retention` and holds what the primary "
                "hasn't: batonctl rejoin --merge | --discard decides");
    dial_later(r, "waits for the operator's word");
}

void follow_tick(struct replica *r)
{
    if (r->f.dial_at_ns && r->now >= r->f.dial_at_ns)
        dial(r);
    if (r->f.parting && r->now > r->f.parting_ns + PARTING_MS_MAX * 1000000ull)
        dial_later(r, "the primary tells nothing of its bodies");
}

void follow_rejoin(struct replica *r, bool discard, uint64_t op)
{
    struct replica_effect fx = {.type = RX_OP_DONE, .op = op};
    fx.ok = r->role == FOLLOWS && r->waits;
    if (!fx.ok) {
        snprintf(fx.text, sizeof fx.text,
                 "this store doesn't wait for a decision; batonctl status tells what it does");
        replica_emit_fx(r, &fx);
        return;
    }
    r->order = discard ? REJOIN_DISCARD : REJOIN_MERGE;
    replica_log(r, true, "the operator's word: %s", discard ? "discard" : "merge");
    snprintf(fx.text, sizeof fx.text,
             discard ? "nothing of this store is merged; it gets a full copy from the primary"
                     : "what only this store has is merged; then it gets a full copy");
    replica_emit_fx(r, &fx);
    follow_lost(r, "the operator has decided");
    if (r->f.state == FOLLOW_DIAL)
        dial(r);
}

static void on_welcome(struct replica *r, struct slice payload)
{
    struct follow *f = &r->f;
    struct frame_welcome w;
    if (!welcome_decode(payload, &w)) {
        if (w.version && !protocol_reads(w.version))
            replica_log(r, false,
                        "the primary speaks version %u of the replication protocol, this node "
                        "versions %d to %d: upgrade one release after the other, the standby first",
                        (unsigned)w.speaks, (int)PROTOCOL_OLDEST, (int)PROTOCOL);
        follow_lost(r, "malformed WELCOME, or of another version");
        return;
    }
    bool fits = w.epoch == f->epoch && w.node == f->primary && w.shared.lsn <= r->meta.end.lsn &&
                (w.plan != PLAN_RESUME || r->reached.epoch == f->epoch);
    if (!fits) {
        follow_lost(r, "this isn't the primary of the followed epoch");
        return;
    }
    f->version = w.version;
    f->primary_last = w.last;
    if (w.plan == PLAN_WAIT) {
        wait_for_order(r, w.shared);
        return;
    }
    r->waits = false;
    /* Not needed after all (a clock was put right): the next time asks anew. */
    if (w.plan == PLAN_ADOPT || w.plan == PLAN_RESUME)
        r->order = REJOIN_NONE;
    f->copy_after = w.plan == PLAN_UPLOAD_COPY;
    f->state = FOLLOW_ADOPT;
    if (w.plan == PLAN_RESUME) {
        attached(r);
    } else if (w.plan == PLAN_COPY) {
        follow_part(r);
    } else {
        adopt(r, &w);
    }
}

static void on_refused(struct replica *r, struct slice payload)
{
    char text[REFUSAL_MAX + 1];
    size_t n = payload.n < REFUSAL_MAX ? payload.n : REFUSAL_MAX;
    for (size_t i = 0; i < n; i++)
        text[i] = payload.p[i] >= 0x20 && payload.p[i] < 0x7f ? (char)payload.p[i] : '?';
    text[n] = 0;
    replica_log(r, false, "the primary refuses this node: %.170s", text);
    follow_lost(r, "refused by the primary");
}

/* ---- batches ---- */

static void push_pending(struct replica *r, const struct batch *x, size_t bytes)
{
    if (r->head_pending && r->head_pending + r->n_pending == r->cap_pending) {
        memmove(r->pending, r->pending + r->head_pending, r->n_pending * sizeof *r->pending);
        r->head_pending = 0;
    }
    if (r->n_pending == r->cap_pending) {
        r->cap_pending = r->cap_pending ? r->cap_pending * 2 : 64;
        r->pending = xrealloc(r->pending, r->cap_pending * sizeof *r->pending);
    }
    r->pending[r->head_pending + r->n_pending++] = (struct pending){.session = r->f.session,
                                                                    .last = x->last,
                                                                    .bytes = bytes,
                                                                    .epoch = x->epoch,
                                                                    .complete = x->complete};
}

static struct pending pop_pending(struct replica *r)
{
    assert(r->n_pending);
    struct pending x = r->pending[r->head_pending++];
    if (--r->n_pending == 0)
        r->head_pending = 0;
    return x;
}

static void note_committed(struct follow *f, struct pos committed)
{
    if (pos_cmp(committed, f->committed) > 0)
        f->committed = committed;
}

static void on_batch(struct replica *r, struct slice payload)
{
    struct follow *f = &r->f;
    struct wire_reader in = wire_read(payload);
    struct batch x;
    if (!batch_decode(&in, &x) || !wire_done(&in) || x.epoch != f->epoch ||
        x.committed.epoch > f->epoch || f->held + payload.n > HELD_MAX) {
        follow_lost(r, "malformed batch, or of another epoch");
        return;
    }
    f->held += payload.n;
    push_pending(r, &x, payload.n);
    struct store_request q = {.type = SR_FOLLOW,
                              .epoch = x.epoch,
                              .committed = x.committed,
                              .bytes = shared_new(payload),
                              .n_rows = x.n_rows};
    follow_write(r, &q);
    note_committed(f, x.committed);
    if (x.last > f->primary_last)
        f->primary_last = x.last;
    if (x.complete && x.last > f->received) {
        f->received = x.last;
        send_ack(r);
    }
}

static void on_followed(struct replica *r, const struct store_reply *reply)
{
    struct follow *f = &r->f;
    struct pending x = pop_pending(r);
    r->blank = false;
    if (reply->err)
        r->reached = (struct pos){0, 0};
    else
        r->reached = x.complete ? (struct pos){0, 0} : (struct pos){x.epoch, x.last};
    if (r->role != FOLLOWS || !f->link || x.session != f->session)
        return;
    if (reply->err) {
        replica_log(r, false,
                    "a batch up to lsn %llu doesn't fit what is here (error %d): starting over "
                    "from lsn %llu",
                    (unsigned long long)x.last, reply->err,
                    (unsigned long long)reply->meta.end.lsn);
        follow_lost(r, "a batch doesn't fit");
        return;
    }
    assert(f->held >= x.bytes);
    f->held -= x.bytes;
    f->taken += x.bytes;
    if (reply->meta.end.lsn > f->durable)
        f->durable = reply->meta.end.lsn;
    if (f->durable > f->received)
        f->received = f->durable;
    send_ack(r);
}

static void on_committed(struct replica *r, struct slice payload)
{
    struct pos c;
    if (!committed_decode(payload, &c) || c.epoch != r->f.epoch) {
        follow_lost(r, "malformed frame");
        return;
    }
    note_committed(&r->f, c);
    struct store_request q = {.type = SR_COMMITTED, .epoch = c.epoch, .committed = c};
    replica_store(r, &q);
}

/* Kept in memory, acknowledged at once: what has no outcome here when this node takes over is in
 * doubt (protocol 9). */
static void on_note(struct replica *r, struct slice payload)
{
    struct frame_note n;
    if (!note_decode(payload, &n) || n.epoch != r->f.epoch || !notes_take(&r->notes, &n)) {
        follow_lost(r, "malformed note, or too many, or of another epoch");
        return;
    }
    r->noted_in = r->f.epoch;
    if (n.number <= r->f.noted)
        return;
    r->f.noted = n.number;
    send_ack(r);
}

/* ---- replies ---- */

static void unmerged_read(struct replica *r, struct store_reply *reply)
{
    r->f.cookie = 0;
    if (r->f.state == FOLLOW_SETTLE)
        send_hello(r, reply->err || reply->n_rows);
    else
        upload_rows(r, reply);
}

static void step_done(struct replica *r, const struct store_reply *reply)
{
    struct follow *f = &r->f;
    f->cookie = 0;
    if (reply->err) {
        replica_log(r, false, "the store can't take what the primary asks for (error %d)",
                    reply->err);
        follow_lost(r, "the store failed");
        return;
    }
    switch (reply->type) {
    case SR_EPOCH_SEEN: {
        struct replica_effect fx = {.type = RX_DIAL};
        f->state = FOLLOW_DIAL;
        replica_emit_fx(r, &fx);
        break;
    }
    case SR_ADOPT:
        if (reply->meta.purged != f->told_purged) {
            follow_lost(r, "it has forgotten more than it had told");
        } else if (f->copy_after) {
            f->state = FOLLOW_UPLOAD;
            upload_more(r);
        } else {
            attached(r);
        }
        break;
    case SR_WIPE:
        if (f->copy_after)
            follow_lost(r, "uploaded and emptied: comes back for a full copy");
        else
            attached(r);
        break;
    case SR_UNMARK:
        upload_more(r);
        break;
    default:
        assert(!"a step of the follower");
    }
}

bool follow_reply(struct replica *r, struct store_reply *reply)
{
    struct follow *f = &r->f;
    bool current = r->role == FOLLOWS && f->cookie && reply->cookie == f->cookie;
    switch (reply->type) {
    case SR_FOLLOW:
        r->writes--;
        on_followed(r, reply);
        break;
    case SR_ADOPT:
    case SR_WIPE:
        if (reply->type == SR_WIPE && !reply->err) {
            r->order = REJOIN_NONE; /* carried out; asked again if this process ends before */
            r->blank = true;
        }
        if (reply->type == SR_WIPE && reply->err)
            tell_empty(r, r->emptying, false);
        r->reached = (struct pos){0, 0};
        r->writes--;
        if (current)
            step_done(r, reply);
        break;
    case SR_UNMARK:
        r->writes--;
        if (current)
            step_done(r, reply);
        break;
    case SR_EPOCH_SEEN:
        if (current)
            step_done(r, reply);
        break;
    case SR_UNMERGED:
        if (current)
            unmerged_read(r, reply);
        break;
    default:
        return false;
    }
    if (r->role == FOLLOWS && f->state == FOLLOW_SETTLE && !r->writes && !f->cookie)
        settle(r);
    return true;
}

static void on_verified(struct replica *r, struct slice payload)
{
    const struct verify_view *v = &r->verify.view;
    if (!verified_decode(payload, &r->verify.view)) {
        follow_lost(r, "malformed frame");
    } else if (r->f.parting && !v->running && *v->why) {
        dial_later(r, "the primary couldn't look its bodies over");
    } else if (r->f.parting && v->running) {
        r->f.parting_ns = r->now;
    } else if (r->f.parting) {
        r->f.parting = false;
        ask_to_empty(r);
    }
}

void follow_frame(struct replica *r, uint8_t type, struct slice payload)
{
    struct follow *f = &r->f;
    bool talks = f->state == FOLLOW_ATTACHED || f->state == FOLLOW_UPLOAD;
    bool compares = f->state == FOLLOW_ATTACHED || f->parting;
    if (type == FRAME_REFUSED)
        on_refused(r, payload);
    else if (type == FRAME_WELCOME && f->state == FOLLOW_HELLO)
        on_welcome(r, payload);
    else if (type == FRAME_BATCH && f->state == FOLLOW_ATTACHED)
        on_batch(r, payload);
    else if (type == FRAME_COMMITTED && f->state == FOLLOW_ATTACHED)
        on_committed(r, payload);
    else if (type == FRAME_NOTE && f->state == FOLLOW_ATTACHED)
        on_note(r, payload);
    else if (type == FRAME_ASK && compares)
        verify_asked(r, payload);
    else if (type == FRAME_VERIFIED && compares)
        on_verified(r, payload);
    else if (type == FRAME_MERGED && talks)
        upload_taken(r, payload);
    else
        follow_lost(r, "a frame out of turn");
}
