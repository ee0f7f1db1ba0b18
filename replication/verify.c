/* See verify.h: the primary's side. */
#include "replication/verify.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "node/base/protocol.h"
#include "replication/replica_state.h"

#define MS 1000000ull
enum {
    ANSWER_MS = 30000, /* a 50 MiB body read from a busy disk */
    SETTLE_MS = 10000, /* the standby gets what we have; else it isn't a standby for long */
    LOOK_MS = 200,     /* between two looks at a message that changes */
    BREATH_MS = 5,     /* between two ranges: comparing is nobody's first concern */
};

static struct verify *of(struct replica *r)
{
    return &r->verify;
}

static bool peer_ready(const struct replica *r)
{
    const struct feed *d = &r->p.feed;
    bool talks = d->state >= FEED_READING || (d->state > FEED_HELLO && r->verify.parting);
    return r->role == PRIMARY && talks && d->version == PROTOCOL;
}

/* ---- endings ---- */

static void publish(struct replica *r)
{
    if (!peer_ready(r))
        return;
    bool ok = verified_encode(&r->out, &of(r)->view);
    assert(ok);
    (void)ok;
    replica_send(r, r->p.feed.link, FRAME_VERIFIED, NULL);
}

static void end_run(struct replica *r, const char *why)
{
    struct verify *v = of(r);
    if (!v->view.running)
        return;
    v->view.running = false;
    snprintf(v->view.why, sizeof v->view.why, "%s", why);
    replica_log(r, !*why && !v->view.unrepairable,
                "verify: %" PRIu64 " messages compared, %" PRIu64 " differed, %" PRIu64
                " repaired, %" PRIu64 " can't be%s%.60s",
                v->view.compared, v->view.differing, v->view.repaired, v->view.unrepairable,
                *why ? "; ended early: " : "", why);
    publish(r);
    v->parting = false;
}

static void idle(struct verify *v)
{
    v->stage = VS_IDLE;
    v->cookie = v->token = 0;
    v->merging = v->for_delivery = false;
    buf_free(&v->rows);
}

static void forget_own(struct verify *v)
{
    shared_unref(v->own);
    v->own = NULL;
}

static void told_relay(struct replica *r, uint64_t id, enum verify_mended how)
{
    struct replica_effect fx = {.type = RX_MENDED, .id = id, .mended = (uint8_t)how};
    replica_emit_fx(r, &fx);
}

/* The message in hand is done with. */
static void finish(struct replica *r, enum verify_mended how)
{
    struct verify *v = of(r);
    bool body = v->for_delivery || how == VERIFY_NO_COPY;
    if (v->view.running && !v->for_delivery) {
        v->view.repaired += how == VERIFY_MENDED;
        v->view.unrepairable += how == VERIFY_NO_COPY || how == VERIFY_AWAY;
    }
    replica_log(r, how == VERIFY_MENDED || how == VERIFY_SAME, "message %016" PRIx64 ": %s", v->id,
                how == VERIFY_MENDED    ? "repaired from the other copy"
                : how == VERIFY_SAME    ? "both copies are alike"
                : how == VERIFY_NO_COPY ? "neither copy of its body is what was accepted"
                                        : "can't be repaired now");
    uint64_t id = v->id;
    idle(v);
    if (body)
        told_relay(r, id, how);
    if (how == VERIFY_AWAY && v->parting) /* the store that has it must not be emptied yet */
        verify_lost(r, "a body that is whole only at the standby can't be had now");
}

void verify_lost(struct replica *r, const char *why)
{
    struct verify *v = of(r);
    if (v->stage >= VS_LOOK && v->for_delivery)
        told_relay(r, v->id, VERIFY_AWAY);
    for (unsigned i = 0; i < v->n_wanted; i++)
        told_relay(r, v->wanted[i], VERIFY_AWAY);
    v->n_wanted = v->n_todo = 0;
    forget_own(v);
    idle(v);
    end_run(r, why);
}

/* ---- questions ---- */

static void ask_store(struct replica *r, struct store_request *q, enum verify_stage stage)
{
    struct verify *v = of(r);
    v->stage = stage;
    v->asked_ns = r->now;
    v->cookie = replica_store(r, q);
}

static void ask_peer(struct replica *r, const struct frame_ask *a, enum verify_stage stage)
{
    struct verify *v = of(r);
    struct frame_ask q = *a;
    q.token = v->token = ++r->cookies;
    bool ok = ask_encode(&r->out, &q);
    assert(ok);
    (void)ok;
    v->stage = stage;
    v->asked_ns = r->now;
    replica_send(r, r->p.feed.link, FRAME_ASK, NULL);
}

static void digests_here(struct replica *r, uint64_t after, uint64_t upto, enum verify_stage stage)
{
    struct store_request q = {.type = SR_DIGESTS,
                              .first = after,
                              .pos = {.lsn = upto},
                              .live = of(r)->parting, /* only these have bodies */
                              .limit = VERIFY_RANGE};
    ask_store(r, &q, stage);
}

static void digests_there(struct replica *r, uint64_t after, uint64_t upto, enum verify_stage stage)
{
    struct frame_ask a = {.what = ASK_DIGESTS, .id = after, .upto = upto};
    ask_peer(r, &a, stage);
}

static void look(struct replica *r)
{
    digests_here(r, of(r)->id - 1, of(r)->id, VS_LOOK);
}

static void fetch(struct replica *r, uint32_t page)
{
    of(r)->page = page;
    struct frame_ask a = {.what = ASK_ROWS, .id = of(r)->id, .from = page};
    ask_peer(r, &a, VS_FETCH);
}

static void read_rows(struct replica *r, uint32_t page)
{
    of(r)->page = page;
    struct store_request q = {
        .type = SR_ROWS, .first = of(r)->id, .skip = page, .limit = VERIFY_PAGE};
    ask_store(r, &q, VS_READ);
}

static void begin(struct replica *r, uint64_t id, bool for_delivery)
{
    struct verify *v = of(r);
    assert(v->stage == VS_IDLE);
    v->id = id;
    v->for_delivery = for_delivery;
    v->tries = v->mends = 0;
    v->merging = false;
    buf_free(&v->rows);
    buf_init(&v->rows, r->cfg.repair_bytes);
    if (for_delivery || v->parting) /* its body is known to be bad */
        fetch(r, 0);
    else
        look(r);
}

/* ---- one message ---- */

/* Pages of rows, each as (class, row)s for SR_MERGE: of no class, for both copies are of one
 * history. */
static void merge_page(struct replica *r, struct slice rows)
{
    struct buf pairs;
    struct wire_reader in = wire_read(rows);
    buf_init(&pairs, FRAME_MAX);
    bool ok = true;
    uint32_t n = 0;
    while (ok && in.n) {
        struct row row;
        const uint8_t *start = in.p;
        ok = row_decode(&in, &row) && wire_put_u8(&pairs, UNMERGED_NONE) &&
             buf_append(&pairs, start, (size_t)(in.p - start));
        n++;
    }
    if (ok) {
        struct store_request q = {.type = SR_MERGE,
                                  .first = UINT64_MAX,
                                  .epoch = r->p.epoch,
                                  .committed = {r->p.epoch, r->p.committed},
                                  .bytes = shared_new(buf_slice(&pairs)),
                                  .n_rows = n};
        ask_store(r, &q, VS_MERGE);
    }
    buf_free(&pairs);
    if (!ok)
        finish(r, VERIFY_AWAY);
}

/* Rows differ: the merge rule decides, on what both have; where the bodies are alike they stay. */
static void settle_rows(struct replica *r)
{
    struct verify *v = of(r);
    bool both = v->has_here && v->has_there;
    v->merging = true;
    v->reading_own = !v->has_there;
    uint32_t page = both ? ROWS_WITHOUT_CHUNKS : 0;
    if (v->has_there)
        fetch(r, page);
    else
        read_rows(r, page);
}

static void judge(struct replica *r)
{
    struct verify *v = of(r);
    bool bad_here = v->has_here && v->here.body_bad, bad_there = v->has_there && v->there.body_bad;
    bool alike = v->has_here == v->has_there && (!v->has_here || v->here.sum == v->there.sum);
    if (alike && !bad_here && !bad_there) {
        finish(r, v->mends ? VERIFY_MENDED : VERIFY_SAME);
        return;
    }
    if (!v->mends)
        v->view.differing++;
    if ((bad_here && bad_there) || (bad_here && !v->has_there)) {
        finish(r, VERIFY_NO_COPY);
    } else if (v->mends++ == VERIFY_MENDS) {
        finish(r, VERIFY_AWAY);
    } else if (bad_here) {
        fetch(r, 0);
    } else if (bad_there && v->has_here) {
        read_rows(r, 0);
    } else if (bad_there) {
        finish(r, VERIFY_NO_COPY); /* only there, and bad */
    } else {
        settle_rows(r);
    }
}

/* The standby couldn't answer. */
static void no_answer(struct replica *r, uint8_t err)
{
    verify_lost(r, err == STORE_FULL ? "the standby is at an earlier question still"
                                     : "the standby's store can't be read");
}

/* Both sides have answered, and ours hasn't changed meanwhile? */
static void compare_one(struct replica *r, bool has, const struct digest *again)
{
    struct verify *v = of(r);
    bool same = has == v->has_here &&
                (!has || (again->sum == v->here.sum && again->body_bad == v->here.body_bad));
    if (same) {
        judge(r);
    } else if (++v->tries == VERIFY_TRIES) {
        finish(r, VERIFY_SAME); /* it lives: every change of it goes to both */
    } else {
        v->stage = VS_SETTLE;
        v->settle_lsn = UINT64_MAX; /* look again, in a while */
        v->not_before_ns = r->now + LOOK_MS * MS;
    }
}

static void again(struct replica *r)
{
    struct verify *v = of(r);
    buf_clear(&v->rows);
    v->merging = false;
    v->stage = VS_SETTLE;
    v->settle_lsn = UINT64_MAX;
    v->asked_ns = r->now;
    v->not_before_ns = r->now + LOOK_MS * MS;
}

/* ---- whole stores ---- */

static bool add_todo(struct verify *v, uint64_t id)
{
    if (v->n_todo == VERIFY_TODO)
        return false;
    v->todo[v->n_todo++] = id;
    return true;
}

/* Both lists are in order of id and end at `upto`. False: there is no more room. */
static bool compare_ranges(struct verify *v, struct slice mine, struct slice theirs, uint64_t upto)
{
    struct wire_reader a = wire_read(mine), b = wire_read(theirs);
    struct digest x = {0}, y = {0};
    bool has_x = a.n && digest_decode(&a, &x), has_y = b.n && digest_decode(&b, &y);
    while ((has_x && x.id <= upto) || (has_y && y.id <= upto)) {
        bool take_x = has_x && (!has_y || x.id <= y.id), take_y = has_y && (!has_x || y.id <= x.id);
        bool same = take_x && take_y && x.sum == y.sum && !x.body_bad && !y.body_bad;
        if (!same && !add_todo(v, take_x ? x.id : y.id))
            return false;
        v->view.compared++;
        v->after = take_x ? x.id : y.id;
        if (take_x)
            has_x = a.n && digest_decode(&a, &x);
        if (take_y)
            has_y = b.n && digest_decode(&b, &y);
    }
    v->after = upto;
    return true;
}

/* Before the other store is emptied: what is bad here. */
static void note_bad(struct verify *v, struct slice mine, uint64_t upto)
{
    struct wire_reader in = wire_read(mine);
    struct digest x;
    static_assert(VERIFY_RANGE <= VERIFY_TODO, "all of a range");
    assert(!v->n_todo);
    while (in.n && digest_decode(&in, &x)) {
        v->view.compared++;
        v->view.differing += x.body_bad;
        if (x.body_bad)
            add_todo(v, x.id);
    }
    v->after = upto;
}

static void start_next(struct replica *r)
{
    struct verify *v = of(r);
    if (v->n_wanted) {
        uint64_t id = v->wanted[--v->n_wanted];
        begin(r, id, true);
        return;
    }
    if (!v->view.running || r->now < v->not_before_ns)
        return;
    if (v->n_todo && (v->parting || v->after == UINT64_MAX || v->n_todo > VERIFY_TODO / 2)) {
        uint64_t id = v->todo[--v->n_todo];
        begin(r, id, false);
    } else if (v->after != UINT64_MAX) {
        digests_here(r, v->after, UINT64_MAX, VS_OWN);
    } else {
        end_run(r, "");
    }
}

/* ---- time ---- */

void verify_go(struct replica *r)
{
    struct verify *v = of(r);
    if (r->role != PRIMARY)
        return;
    if (v->stage == VS_IDLE) {
        if (peer_ready(r))
            start_next(r);
        return;
    }
    if (v->stage == VS_SETTLE) {
        if (r->now < v->not_before_ns)
            return;
        if (v->settle_lsn == UINT64_MAX)
            look(r);
        else if (r->p.feed.durable >= v->settle_lsn)
            digests_there(r, v->id - 1, v->id, VS_ASK);
        else if (r->now > v->asked_ns + SETTLE_MS * MS)
            verify_lost(r, "the standby doesn't get what changes here");
        return;
    }
    if (r->now > v->asked_ns + ANSWER_MS * MS)
        verify_lost(r, "no answer in time");
}

/* ---- answers ---- */

static bool first_digest(struct slice s, struct digest *d)
{
    struct wire_reader in = wire_read(s);
    return in.n && digest_decode(&in, d);
}

/* Rows of one side came: collected for mending, or merged page by page. */
static void rows_came(struct replica *r, struct slice rows, bool more, uint32_t next)
{
    struct verify *v = of(r);
    if (v->merging) {
        v->own_more = more;
        v->page = next;
        if (rows.n)
            merge_page(r, rows);
        else
            again(r);
        return;
    }
    if (!buf_append_slice(&v->rows, rows)) {
        replica_log(r, false,
                    "message %016" PRIx64 " is larger than what is held in memory to repair it; "
                    "raise `message_size`",
                    v->id);
        finish(r, VERIFY_AWAY);
        return;
    }
    if (more) {
        fetch(r, next);
        return;
    }
    struct store_request q = {
        .type = SR_MEND, .first = v->id, .bytes = shared_new(buf_slice(&v->rows))};
    buf_clear(&v->rows);
    ask_store(r, &q, VS_MEND);
}

static void merged(struct replica *r)
{
    struct verify *v = of(r);
    uint32_t without = v->has_here && v->has_there ? ROWS_WITHOUT_CHUNKS : 0;
    if (v->own_more && v->reading_own)
        read_rows(r, v->page);
    else if (v->own_more)
        fetch(r, v->page);
    else if (!v->reading_own && v->has_here) {
        v->reading_own = true; /* then ours: winners and losers alike get a new place */
        read_rows(r, without);
    } else
        again(r);
}

static void here_came(struct replica *r, struct store_reply *reply)
{
    struct verify *v = of(r);
    struct slice bytes =
        reply->bytes ? slice_of(reply->bytes->data, reply->bytes->n) : (struct slice){NULL, 0};
    struct digest d = {0};
    switch (v->stage) {
    case VS_OWN:
        v->own = reply->bytes;
        reply->bytes = NULL;
        v->own_upto = reply->more ? reply->first : UINT64_MAX;
        if (v->parting) {
            note_bad(v, bytes, v->own_upto);
            forget_own(v);
            v->stage = VS_IDLE;
            publish(r); /* it is going on */
            start_next(r);
            break;
        }
        digests_there(r, v->after, v->own_upto, VS_THEIRS);
        break;
    case VS_LOOK:
        v->has_here = first_digest(bytes, &v->here);
        v->stage = VS_SETTLE;
        v->settle_lsn = r->p.numbered;
        v->asked_ns = r->now;
        v->not_before_ns = r->now;
        verify_go(r);
        break;
    case VS_AGAIN: {
        bool has = first_digest(bytes, &d);
        compare_one(r, has, &d);
        break;
    }
    default:
        assert(!"digests out of turn");
    }
}

bool verify_reply(struct replica *r, struct store_reply *reply)
{
    struct verify *v = of(r);
    if (!v->cookie || reply->cookie != v->cookie)
        return false;
    v->cookie = 0;
    if (reply->err && reply->type != SR_MEND) {
        replica_log(r, false, "verify: the store can't be read (error %d)", reply->err);
        if (reply->type == SR_ROWS && reply->err == STORE_CORRUPT)
            finish(r, VERIFY_NO_COPY);
        else
            verify_lost(r, "the store can't be read");
        return true;
    }
    struct slice bytes =
        reply->bytes ? slice_of(reply->bytes->data, reply->bytes->n) : (struct slice){NULL, 0};
    if (reply->type == SR_DIGESTS) {
        here_came(r, reply);
    } else if (reply->type == SR_MERGE) {
        merged(r);
    } else if (reply->type == SR_MEND) {
        if (reply->err)
            finish(r, reply->err == STORE_CORRUPT || reply->err == STORE_CONFLICT ? VERIFY_NO_COPY
                                                                                  : VERIFY_AWAY);
        else if (v->for_delivery || v->parting)
            finish(r, VERIFY_MENDED);
        else
            again(r);
    } else if (v->merging) {
        rows_came(r, bytes, reply->more, (uint32_t)reply->first);
    } else {
        struct frame_ask a = {.what = ASK_MEND, .id = v->id, .more = reply->more, .rows = bytes};
        v->own_more = reply->more;
        v->page = (uint32_t)reply->first;
        ask_peer(r, &a, VS_SEND);
    }
    return true;
}

/* What a damaged store can't give now it never will. */
static bool gone_there(const struct replica *r, uint8_t err)
{
    return err == STORE_CORRUPT || err == STORE_NOT_FOUND || (r->p.feed.unfit && err != STORE_FULL);
}

void verify_told(struct replica *r, struct slice payload)
{
    struct verify *v = of(r);
    struct frame_told t;
    if (!told_decode(payload, &t)) {
        feed_lost(r, "malformed answer");
        return;
    }
    if (!v->token || t.token != v->token)
        return; /* of a question that was given up */
    v->token = 0;
    switch (v->stage) {
    case VS_THEIRS:
        if (t.err) {
            no_answer(r, t.err);
            break;
        }
        compare_ranges(v, slice_of(v->own->data, v->own->n), t.bytes,
                       t.more && t.next < v->own_upto ? t.next : v->own_upto);
        forget_own(v);
        v->stage = VS_IDLE;
        v->not_before_ns = r->now + BREATH_MS * MS;
        publish(r);
        break;
    case VS_ASK:
        if (t.err) {
            no_answer(r, t.err);
            break;
        }
        v->has_there = first_digest(t.bytes, &v->there);
        digests_here(r, v->id - 1, v->id, VS_AGAIN);
        break;
    case VS_FETCH:
        if (t.err)
            finish(r, gone_there(r, t.err) ? VERIFY_NO_COPY : VERIFY_AWAY);
        else
            rows_came(r, t.bytes, t.more, (uint32_t)t.next);
        break;
    case VS_SEND:
        if (t.err)
            finish(r, VERIFY_AWAY);
        else if (v->own_more)
            read_rows(r, v->page);
        else
            again(r);
        break;
    default:
        break;
    }
}

/* ---- orders ---- */

static void begin_run(struct verify *v)
{
    v->view = (struct verify_view){.run = v->view.run + 1, .running = true};
    v->after = 0;
    v->n_todo = 0;
    v->not_before_ns = 0;
}

void verify_start(struct replica *r, uint64_t op)
{
    struct verify *v = of(r);
    struct replica_effect fx = {.type = RX_OP_DONE, .op = op, .ok = true};
    const char *no = NULL;
    if (r->role == FOLLOWS && r->f.state == FOLLOW_ATTACHED) {
        replica_send(r, r->f.link, FRAME_VERIFY, NULL);
        snprintf(fx.text, sizeof fx.text, "the primary compares both stores");
    } else if (!peer_ready(r)) {
        no = "there is no standby attached to compare with, or it runs another release";
    } else if (!r->p.feed.merged) {
        /* What only it has is judged as it is merged: some of it nobody acknowledged (protocol 8).
         * Found by a comparison it would be merged as queued. */
        no = "the standby still hands over what only it has; try again when it has";
    } else if (v->view.running) {
        no = "a comparison is under way already";
    } else {
        begin_run(v);
        replica_log(r, true, "verify: comparing both stores");
        publish(r);
        snprintf(fx.text, sizeof fx.text, "comparing both stores");
    }
    if (no) {
        fx.ok = false;
        snprintf(fx.text, sizeof fx.text, "%s", no);
    }
    if (op)
        replica_emit_fx(r, &fx);
    else if (no) /* the standby's operator asked, and looks at what we tell it */
        publish(r);
}

void verify_part(struct replica *r)
{
    struct verify *v = of(r);
    if (v->view.running) {
        feed_lost(r, "a frame out of turn");
        return;
    }
    begin_run(v);
    v->parting = true;
    replica_log(r, true,
                "looking for bodies that have rotted here, before the standby's store is "
                "emptied for a full copy");
    publish(r);
    start_next(r);
}

void verify_mend(struct replica *r, uint64_t id)
{
    struct verify *v = of(r);
    if (r->cfg.single)
        told_relay(r, id, VERIFY_NO_COPY);
    else if (!peer_ready(r) || v->n_wanted == VERIFY_WANTED)
        told_relay(r, id, VERIFY_AWAY);
    else {
        v->wanted[v->n_wanted++] = id;
        verify_go(r);
    }
}
