/* What only the follower has: both ends (protocol 8). Core.
 *
 * One piece at a time: UNMERGED -> SR_MERGE -> durable, and committed as the mode asks -> MERGED ->
 * the follower unmarks those rows, then sends the next piece; the last one is empty (PE_MERGED).
 *
 * What the stricter of both decides (operator state; a recipient's hold, and its doubt) is told
 * twice. While such a row is marked at the follower, the more restrictive value stays there; the
 * primary's row that came of the merge may reach it before it unmarks its own, or, changed by an
 * operator since, only as a newer one that tells nothing of the merge. Once the next piece has
 * come, on this link or the next one, the marks of this one are gone, or come again with it: the
 * primary's rows of the same keys get new numbers, and count. */
#include <assert.h>

#include "node/base/protocol.h"
#include "replication/replica_state.h"

/* ---- at the primary ---- */

/* An outcome of the follower's own time is about to count here, while a dot of this epoch may be
 * open: without this the note would look settled by it. It goes out before the merged rows do. */
static void raise_notes(struct replica *r, struct slice rows)
{
    struct feed *d = &r->p.feed;
    struct wire_reader x = wire_read(rows);
    bool raised = false;
    struct row row;
    while (r->notes.n && x.n) {
        (void)wire_get_u8(&x);
        if (!row_decode(&x, &row))
            break; /* the merge will say so */
        const struct row_recipient *p = &row.recipient;
        if (row.type == ROW_RECIPIENT && p->state == RCPT_QUEUED && p->attempts > 0)
            raised = notes_raise(&r->notes, p->id, p->index, p->attempts) || raised;
    }
    if (raised && d->state >= FEED_READING && !d->notes_due)
        feed_send_notes(r);
}

/* The key of a row that is to be told again, as a row that loses against the primary's in every
 * merge, which gives that one a new number. False: it needs not be. */
static bool loses(struct row *row)
{
    struct pos never = {0, 0};
    if (row->type == ROW_OPSTATE) {
        row->opstate.value = (struct slice){NULL, 0};
        row->opstate.pos = never;
        return true;
    }
    struct row_recipient *p = &row->recipient;
    if (row->type != ROW_RECIPIENT || rcpt_terminal(p->state) || !(p->held || p->in_doubt))
        return false;
    p->state = RCPT_QUARANTINED;
    p->pos = never;
    p->held = p->in_doubt = 0;
    p->attempts = 0;
    return true;
}

static void forget_told(struct primary *p)
{
    shared_unref(p->told_again);
    p->told_again = NULL;
}

/* What is uploaded, with what has to be told again of the piece before it. *n counts both. */
static struct shared *with_told_again(struct replica *r, struct slice rows, uint32_t *n)
{
    struct primary *p = &r->p;
    struct buf all, keys;
    buf_init(&all, FRAME_MAX);
    buf_init(&keys, FRAME_MAX);
    struct wire_reader x = wire_read(p->told_again ? slice_of(p->told_again->data, p->told_again->n)
                                                   : (struct slice){NULL, 0});
    bool ok = buf_append_slice(&all, rows) && buf_append(&all, x.p, x.n);
    struct row row;
    for (; ok && x.n; ++*n) {
        (void)wire_get_u8(&x);
        ok = row_decode(&x, &row);
    }
    forget_told(p);
    x = wire_read(rows);
    while (ok && x.n) {
        (void)wire_get_u8(&x);
        if (!row_decode(&x, &row))
            break; /* the merge will say so */
        if (loses(&row))
            ok = wire_put_u8(&keys, UNMERGED_QUEUED) && row_encode(&keys, &row);
    }
    if (ok && keys.len) {
        p->told_again = shared_new(buf_slice(&keys));
        p->told_store = p->feed.store;
    }
    struct shared *s = ok ? shared_new(buf_slice(&all)) : NULL;
    buf_free(&all);
    buf_free(&keys);
    return s;
}

void upload_noted(struct replica *r)
{
    const struct shared *m = r->p.feed.merging;
    if (m)
        raise_notes(r, slice_of(m->data, m->n));
}

void upload_epoch_over(struct replica *r)
{
    forget_told(&r->p);
}

void upload_frame(struct replica *r, struct slice payload)
{
    struct feed *d = &r->p.feed;
    struct frame_unmerged u;
    bool turn = d->state == FEED_UPLOAD || d->state >= FEED_READING;
    if (!unmerged_decode(payload, &u) || !turn || u.sequence != d->merge_sequence + 1 ||
        d->merge_cookie || d->merge_waits || d->merged || (u.n_rows == 0 && !u.last)) {
        feed_lost(r, "malformed or untimely upload");
        return;
    }
    d->merge_sequence = u.sequence;
    d->merge_last = u.last;
    if (!store_id_eq(&r->p.told_store, &d->store))
        forget_told(&r->p);
    if (u.n_rows == 0 && !r->p.told_again) {
        d->merge_waits = true; /* all before it are committed, or weren't answered yet */
        upload_merged(r);
        return;
    }
    raise_notes(r, u.rows);
    struct store_request q = {.type = SR_MERGE,
                              .epoch = r->p.epoch,
                              .first = feed_waited_for(r, &d->store) ? UINT64_MAX : d->remembers,
                              .committed = {r->p.epoch, r->p.committed},
                              .n_rows = u.n_rows};
    q.bytes = with_told_again(r, u.rows, &q.n_rows);
    if (!q.bytes) {
        feed_lost(r, "an upload that is too large");
        return;
    }
    d->merging = shared_ref(q.bytes);
    d->merge_cookie = replica_store(r, &q);
}

void upload_merged(struct replica *r)
{
    struct primary *p = &r->p;
    struct feed *d = &p->feed;
    if (!d->merge_waits || d->merge_lsn > p->committed)
        return;
    /* It empties its store next. One that in_sync names may be promoted: it is dropped first. */
    if (d->merge_last && d->state == FEED_UPLOAD && p->waiting &&
        store_id_eq(&d->store, &p->waits_for))
        return;
    d->merge_waits = false;
    bool ok = merged_encode(&r->out, d->merge_sequence);
    assert(ok);
    (void)ok;
    replica_send(r, d->link, FRAME_MERGED, NULL);
    if (!d->merge_last)
        return;
    d->merged = true;
    if (d->state >= FEED_READING)
        replica_report(r, PE_MERGED, &d->store);
}

bool upload_reply(struct replica *r, struct store_reply *reply)
{
    struct feed *d = &r->p.feed;
    if (reply->type != SR_MERGE || reply->cookie != d->merge_cookie)
        return false;
    d->merge_cookie = 0;
    shared_unref(d->merging);
    d->merging = NULL;
    if (reply->err) {
        forget_told(&r->p); /* nothing of it is here to be told again */
        replica_log(r, false, "rows of the standby can't be merged (error %d)", reply->err);
        feed_lost(r, "the primary can't merge what was uploaded");
        return true;
    }
    /* Its rows were numbered before it was answered. */
    d->merge_lsn = r->p.numbered;
    d->merge_waits = true;
    upload_merged(r);
    return true;
}

/* ---- at the follower ---- */

void upload_forget(struct replica *r)
{
    shared_unref(r->f.uploading);
    r->f.uploading = NULL;
    r->f.uploading_rows = 0;
}

void upload_more(struct replica *r)
{
    struct store_request q = {.type = SR_UNMERGED, .limit = UPLOAD_BYTES, .skip = r->f.upload_skip};
    r->f.cookie = replica_store(r, &q);
}

void upload_rows(struct replica *r, struct store_reply *reply)
{
    struct follow *f = &r->f;
    if (reply->err) {
        replica_log(r, false, "what is unmerged can't be read (error %d)", reply->err);
        follow_lost(r, "the store can't be read");
        return;
    }
    assert(!f->uploading);
    struct slice rows = {NULL, 0};
    if (reply->n_rows) {
        f->uploading = reply->bytes;
        f->uploading_rows = reply->n_rows;
        reply->bytes = NULL;
        rows = slice_of(f->uploading->data, f->uploading->n);
    }
    struct buf older;
    buf_init(&older, FRAME_MAX);
    bool ok = true;
    if (f->version != PROTOCOL) { /* a primary that isn't upgraded yet */
        ok = rows_recode(&older, rows, true, f->version);
        rows = buf_slice(&older);
    }
    struct frame_unmerged u = {.sequence = ++f->upload_sequence,
                               .last = reply->n_rows == 0,
                               .n_rows = reply->n_rows,
                               .rows = rows};
    ok = ok && unmerged_encode(&r->out, &u);
    assert(ok); /* they came from the own store */
    (void)ok;
    replica_send(r, f->link, FRAME_UNMERGED, NULL);
    buf_free(&older);
}

/* The rows without their class bytes. NULL: they don't decode. */
static struct shared *only_rows(const struct shared *pairs)
{
    struct buf b;
    buf_init(&b, pairs->n);
    struct wire_reader in = wire_read(slice_of(pairs->data, pairs->n));
    bool ok = true;
    while (ok && in.n) {
        struct row row;
        wire_get_u8(&in);
        const uint8_t *start = in.p;
        ok = row_decode(&in, &row) && buf_append(&b, start, (size_t)(in.p - start));
    }
    struct shared *rows = ok ? shared_new(buf_slice(&b)) : NULL;
    buf_free(&b);
    return rows;
}

static void upload_done(struct replica *r)
{
    struct follow *f = &r->f;
    f->uploaded = true;
    if (!f->copy_after)
        return;
    replica_log(r, true, "all that only this store had is with the primary");
    follow_part(r);
}

void upload_taken(struct replica *r, struct slice payload)
{
    struct follow *f = &r->f;
    uint64_t sequence;
    if (!merged_decode(payload, &sequence) || sequence != f->upload_sequence || f->cookie ||
        f->uploaded || !sequence) {
        follow_lost(r, "malformed or untimely frame");
        return;
    }
    if (!f->uploading) {
        upload_done(r);
        return;
    }
    /* A damaged store can't be relied on to write that down: it is copied anew. */
    if (r->meta.unfit) {
        f->upload_skip += f->uploading_rows;
        upload_forget(r);
        upload_more(r);
        return;
    }
    struct store_request q = {.type = SR_UNMARK,
                              .epoch = f->epoch,
                              .bytes = only_rows(f->uploading),
                              .n_rows = f->uploading_rows};
    upload_forget(r);
    if (!q.bytes) {
        follow_lost(r, "unmerged rows don't decode");
        return;
    }
    f->cookie = follow_write(r, &q);
}
