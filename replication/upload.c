/* The primary merges what only its follower has (protocol 8). Core.
 *
 * One piece at a time: UNMERGED -> SR_MERGE -> durable, and committed as the mode asks -> MERGED ->
 * the follower unmarks those rows, then sends the next piece; the last one is empty (PE_MERGED).
 *
 * Operator state is told twice. While a row is marked at the follower, the more restrictive of both
 * values stays there; the primary's row that came of the merge may reach it before it unmarks its
 * own, or, changed by an operator since, only as a newer one that tells nothing of the merge. Once
 * the next piece has come, the marks of this one are gone: the primary's rows of the same keys get
 * new numbers, and count. */
#include <assert.h>

#include "replication/replica_state.h"

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

/* What is uploaded, with the operator state of the piece before it: without a value and older than
 * anything, such a row loses against the primary's in every merge, which gives that a new number.
 * *n counts both. */
static struct shared *with_told_again(struct feed *d, struct slice rows, uint32_t *n)
{
    struct buf all, keys;
    buf_init(&all, FRAME_MAX);
    buf_init(&keys, FRAME_MAX);
    struct wire_reader x = wire_read(d->told_again ? slice_of(d->told_again->data, d->told_again->n)
                                                   : (struct slice){NULL, 0});
    bool ok = buf_append_slice(&all, rows);
    struct row row;
    for (; ok && x.n; ++*n) {
        (void)wire_get_u8(&x);
        ok = row_decode(&x, &row);
    }
    if (d->told_again)
        ok = ok && buf_append(&all, d->told_again->data, d->told_again->n);
    shared_unref(d->told_again);
    d->told_again = NULL;
    x = wire_read(rows);
    while (ok && x.n) {
        uint8_t class = wire_get_u8(&x);
        if (!row_decode(&x, &row))
            break; /* the merge will say so */
        if (row.type != ROW_OPSTATE)
            continue;
        row.opstate.value = (struct slice){NULL, 0};
        row.opstate.pos = (struct pos){0, 0};
        ok = wire_put_u8(&keys, class) && row_encode(&keys, &row);
    }
    if (ok && keys.len)
        d->told_again = shared_new(buf_slice(&keys));
    struct shared *s = ok ? shared_new(buf_slice(&all)) : NULL;
    buf_free(&all);
    buf_free(&keys);
    return s;
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
    if (u.n_rows == 0 && !d->told_again) {
        d->merge_waits = true; /* all before it are committed, or weren't answered yet */
        upload_merged(r);
        return;
    }
    raise_notes(r, u.rows);
    struct store_request q = {.type = SR_MERGE,
                              .epoch = r->p.epoch,
                              .committed = {r->p.epoch, r->p.committed},
                              .n_rows = u.n_rows};
    q.bytes = with_told_again(d, u.rows, &q.n_rows);
    if (!q.bytes) {
        feed_lost(r, "an upload that is too large");
        return;
    }
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
    if (reply->err) {
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
