/* See apply.h: following, modes, adopting, wiping. The merge half is in rejoin.c, a primary's own
 * transactions in own.c. Protocol 4, 5, 8, 10. */
#include "replication/apply.h"

#include <assert.h>
#include <stdlib.h>

#include "node/base/mutant.h"
#include "replication/merge.h"
#include "replication/moved.h"
#include "replication/notes.h"

/* A frame holds one batch (FRAME_MAX in replica.h). */
enum { BATCH_BYTES_MAX = 16 << 20, HISTORY_BYTES_MAX = 16384 };

bool batch_encode_head(struct buf *b, const struct batch *x)
{
    return wire_put_u32(b, x->epoch) && wire_put_u64(b, x->first) && wire_put_u64(b, x->last) &&
           wire_put_u8(b, x->complete) && wire_put_u32(b, x->committed.epoch) &&
           wire_put_u64(b, x->committed.lsn) && wire_put_u32(b, x->n_rows) &&
           wire_put_bytes(b, x->history) && wire_put_u32(b, (uint32_t)x->rows.n);
}

bool batch_encode(struct buf *b, const struct batch *x)
{
    return batch_encode_head(b, x) && buf_append_slice(b, x->rows);
}

bool batch_decode(struct wire_reader *r, struct batch *out)
{
    memset(out, 0, sizeof *out);
    out->epoch = wire_get_u32(r);
    out->first = wire_get_u64(r);
    out->last = wire_get_u64(r);
    uint8_t complete = wire_get_u8(r);
    out->complete = complete == 1;
    out->committed.epoch = wire_get_u32(r);
    out->committed.lsn = wire_get_u64(r);
    out->n_rows = wire_get_u32(r);
    out->history = wire_get_bytes(r, HISTORY_BYTES_MAX);
    out->rows = wire_get_bytes(r, BATCH_BYTES_MAX);
    if (complete > 1 || out->last + 1 < out->first || out->n_rows > out->rows.n)
        r->bad = true;
    return !r->bad;
}

bool apply_number(struct buf *b, struct row *rows, unsigned n, uint32_t epoch, uint64_t *next)
{
    size_t start = b->len;
    for (unsigned i = 0; i < n; i++) {
        struct pos p = {epoch, *next + i};
        row_set_pos(&rows[i], p);
        if (rows[i].type == ROW_MESSAGE && rows[i].message.born.lsn == 0)
            rows[i].message.born = p;
        if (!row_encode(b, &rows[i])) {
            b->len = start;
            return false;
        }
    }
    *next += n;
    return true;
}

static int finish(struct store *s, int err)
{
    if (!err)
        return s->ops->commit(s);
    s->ops->rollback(s);
    return err;
}

static int64_t number(struct slice v)
{
    int64_t n = 0;
    for (size_t i = 0; i < v.n && i < 18 && v.p[i] >= '0' && v.p[i] <= '9'; i++)
        n = n * 10 + (v.p[i] - '0');
    return n;
}

bool apply_is_purge(const struct row *r, int64_t *before_ms)
{
    if (r->type != ROW_OPSTATE || !slice_eq(r->opstate.key, SLICE_LIT("purge")))
        return false;
    *before_ms = number(r->opstate.value) + BATON_MUTANT(PURGED_EARLY, 5000, 0);
    return true;
}

static int newest_purge(struct store *s, uint64_t *lsn)
{
    struct row key = {.type = ROW_OPSTATE, .opstate.key = SLICE_LIT("purge")}, row;
    enum unmerged_class mark;
    int err = s->ops->get(s, &key, &row, &mark);
    *lsn = err ? 0 : row.opstate.pos.lsn;
    return err == STORE_NOT_FOUND ? STORE_OK : err;
}

int apply_purge(struct store *s, uint64_t below, unsigned limit, bool *more)
{
    struct row key = {.type = ROW_OPSTATE, .opstate.key = SLICE_LIT("purge")}, row;
    enum unmerged_class mark;
    *more = false;
    /* Of what was done long ago here a later change may be on its way: it would come to a message
     * that is gone. The next order finds it. */
    if (s->behind)
        return STORE_OK;
    int err = s->ops->get(s, &key, &row, &mark);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    int64_t before_ms;
    if (!apply_is_purge(&row, &before_ms))
        return STORE_CORRUPT;
    err = s->ops->begin(s);
    if (err)
        return err;
    if (below > row.opstate.pos.lsn)
        below = row.opstate.pos.lsn;
    return finish(s, s->ops->purge(s, before_ms, below, limit, more));
}

int apply_own(struct store *s, const struct batch *x, int64_t wall_ms)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    assert(x->first == meta.end.lsn + 1 && x->epoch == meta.end.epoch);
    int err = s->ops->begin(s);
    if (err)
        return err;
    struct wire_reader r = wire_read(x->rows);
    uint64_t lsn = x->first;
    for (; !err && r.n; lsn++) {
        struct row row;
        if (!row_decode(&r, &row))
            err = STORE_CORRUPT;
        else {
            assert(row_pos(&row).epoch == x->epoch && row_pos(&row).lsn == lsn);
            err = s->ops->put(s, &row, UNMERGED_NONE);
        }
    }
    assert(err || lsn == x->last + 1);
    meta.end = (struct pos){x->epoch, x->last};
    if (pos_cmp(x->committed, meta.committed) > 0)
        meta.committed = x->committed;
    meta.written_ms = wall_ms;
    return finish(s, err ? err : s->ops->set_meta(s, &meta));
}

static bool found_one(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)r;
    (void)mark;
    *(bool *)ctx = true;
    return false;
}

/* True: every row here is unmarked and at or below `end`: what comes after it in order can be
 * written without looking. */
static int is_plain(struct store *s, struct pos end, bool *plain)
{
    bool any = false;
    int err = s->ops->each_unmerged(s, found_one, &any);
    if (!err && !any)
        err = s->ops->changes_after(s, end.lsn, found_one, &any);
    *plain = !any;
    return err;
}

/* In the steady state a recipient's message is here before it (protocol 10). */
static int check_parent(struct store *s, const struct row *r, uint64_t last_message)
{
    if (r->type != ROW_RECIPIENT || r->recipient.id == last_message)
        return STORE_OK;
    uint32_t total, open;
    int err = s->ops->count_recipients(s, r->recipient.id, &total, &open);
    if (err || total)
        return err;
    struct row row;
    err = store_get_message(s, r->recipient.id, &row);
    return err == STORE_NOT_FOUND ? STORE_CONFLICT : err;
}

/* `r` borrows from the store's own answer, which does not outlive the next call. */
static int put_copy(struct store *s, const struct row *r, enum unmerged_class mark)
{
    struct buf copy;
    buf_init(&copy, 1 << 20);
    struct row own;
    bool ok = row_encode(&copy, r);
    struct wire_reader w = wire_read(buf_slice(&copy));
    int err = ok && row_decode(&w, &own) ? s->ops->put(s, &own, mark) : STORE_CORRUPT;
    buf_free(&copy);
    return err;
}

/* A body never changes, and one of both copies may have rotted: what is here stays here, so that a
 * damaged copy of the primary doesn't replace the good one that it would be mended from (protocol
 * 3). The other way round the primary's mends this one: `verify`, or the delivery that needs it. Of
 * another message under the same id (a cloned store) the chunks that are here are moved with it;
 * the primary's come from there when they are needed. */
static bool keeps_body(const struct row *in, const struct row *here, struct row *out)
{
    *out = *in;
    if (in->type == ROW_CHUNK && in->chunk.data.n == here->chunk.data.n)
        out->chunk.data = here->chunk.data;
    else if (in->type == ROW_MESSAGE && in->message.state == MESSAGE_LIVE &&
             here->message.state == MESSAGE_LIVE && here->message.body.n &&
             in->message.size == here->message.size &&
             memcmp(in->message.sha256, here->message.sha256, sizeof in->message.sha256) == 0)
        out->message.body = here->message.body;
    else
        return false;
    return true;
}

static bool row_equal(const struct row *a, const struct row *b)
{
    struct buf x, y;
    buf_init(&x, 1 << 20);
    buf_init(&y, 1 << 20);
    bool equal = row_encode(&x, a) && row_encode(&y, b) && slice_eq(buf_slice(&x), buf_slice(&y));
    buf_free(&x);
    buf_free(&y);
    return equal;
}

/* A row of the primary meets a row here that it may not have yet: both are kept, in one. */
static int follow_marked(struct store *s, const struct row *in, const struct row *here,
                         enum unmerged_class mark)
{
    struct row out = *in;
    bool same = true;
    switch (in->type) {
    case ROW_MESSAGE:
        merge_message(&here->message, &in->message, &out.message, &same);
        /* Both may have finished it, each by its own clock; the primary's row is what stays. */
        if (in->message.state == MESSAGE_DONE)
            out.message.done_ms = in->message.done_ms;
        break;
    case ROW_RECIPIENT: {
        /* As the primary judges it (rejoin.c): else its quarantined row would lose to the queued
         * one here, and the copies would differ once the mark is gone. */
        struct row_recipient own = here->recipient;
        apply_orphan_note(&own);
        if (mark == UNMERGED_QUARANTINE && own.state == RCPT_QUEUED)
            own.state = RCPT_QUARANTINED;
        merge_recipient(&own, &in->recipient, &out.recipient);
        /* Merged there, and perhaps changed since: what an operator released is not to be put in
         * doubt again by what was his to judge. */
        if (mark == UNMERGED_TAKEN)
            out = pos_cmp(row_pos(in), row_pos(here)) > 0 ? *in : *here;
        else if (mark == UNMERGED_QUEUED && row_equal(&out, in))
            mark = UNMERGED_TAKEN;
        break;
    }
    case ROW_OPSTATE:
        /* Both from one primary's history: the newest. It may well be less restrictive, and goes on
         * from what was merged into it. */
        if (here->opstate.pos.epoch == in->opstate.pos.epoch)
            out.opstate = here->opstate.pos.lsn > in->opstate.pos.lsn ? here->opstate : in->opstate;
        else
            merge_opstate(&here->opstate, &in->opstate, &out.opstate);
        break;
    case ROW_CHUNK:
        keeps_body(in, here, &out);
        break;
    }
    if (!same) {
        /* One id for two messages (a cloned store): ours goes on under another one. */
        int err = moved_local(s, in->message.id, mark);
        return err ? err : s->ops->put(s, in, UNMERGED_NONE);
    }
    return put_copy(s, &out, mark);
}

static int follow_row(struct store *s, const struct row *in)
{
    struct row here;
    enum unmerged_class mark;
    int err = s->ops->get(s, in, &here, &mark);
    if (err == STORE_NOT_FOUND)
        return s->ops->put(s, in, UNMERGED_NONE);
    if (err)
        return err;
    if (mark != UNMERGED_NONE)
        return follow_marked(s, in, &here, mark);
    if (pos_cmp(row_pos(in), row_pos(&here)) <= 0)
        return STORE_OK;
    /* An outcome that was merged is on its way back; what the primary wrote of that recipient
     * before it knew must not undo it here meanwhile (invariant 4). */
    if (in->type == ROW_RECIPIENT && rcpt_terminal(here.recipient.state) &&
        !rcpt_terminal(in->recipient.state))
        return follow_marked(s, in, &here, UNMERGED_NONE);
    struct row out;
    return keeps_body(in, &here, &out) ? put_copy(s, &out, UNMERGED_NONE)
                                       : s->ops->put(s, in, UNMERGED_NONE);
}

/* Can it be written without looking at what is here? Not a change of an older recipient that is
 * still open: it may meet an outcome. Nor a message that was written before, in this epoch or, of
 * which a merge tells, in an earlier one: see keeps_body(). */
static bool is_new(const struct row *r, uint64_t last_message)
{
    const struct row_message *m = &r->message;
    if (r->type == ROW_MESSAGE)
        return m->state == MESSAGE_DONE ||
               (pos_cmp(m->born, m->pos) == 0 && MESSAGE_EPOCH(m->id) == m->pos.epoch);
    if (r->type == ROW_CHUNK)
        return MESSAGE_EPOCH(r->chunk.id) == r->chunk.pos.epoch;
    return r->type != ROW_RECIPIENT || rcpt_terminal(r->recipient.state) ||
           r->recipient.id == last_message;
}

static int follow_rows(struct store *s, const struct batch *x, bool plain)
{
    struct wire_reader r = wire_read(x->rows);
    uint64_t last_message = 0, last_lsn = 0;
    int err = STORE_OK;
    uint32_t n = 0;
    /* What was read from a store has gaps: a message that is done by now comes after a recipient
     * that isn't touched any more. Only where every change is there, a message comes first. */
    bool every_change = x->n_rows == x->last - x->first + 1;
    while (!err && r.n) {
        struct row row;
        if (!row_decode(&r, &row))
            return STORE_CORRUPT;
        uint64_t lsn = row_pos(&row).lsn;
        if (lsn <= last_lsn || lsn > x->last || lsn < x->first)
            return STORE_CORRUPT;
        last_lsn = lsn;
        if (row.type == ROW_MESSAGE)
            last_message = row.message.id;
        err = every_change && plain ? check_parent(s, &row, last_message) : STORE_OK;
        if (!err)
            err = plain && is_new(&row, last_message) ? s->ops->put(s, &row, UNMERGED_NONE)
                                                      : follow_row(s, &row);
        n++;
    }
    return err ? err : n == x->n_rows ? STORE_OK : STORE_CORRUPT;
}

int apply_follow_rows(struct store *s, const struct batch *x, int64_t wall_ms,
                      struct store_meta *meta)
{
    uint64_t reach = meta->end.lsn > s->cursor ? meta->end.lsn : s->cursor;
    if (x->epoch < meta->end.epoch || x->first > reach + 1)
        return STORE_CONFLICT;
    bool plain = false;
    int err = STORE_OK;
    if (!s->cursor && x->complete && x->first == meta->end.lsn + 1)
        err = is_plain(s, meta->end, &plain);
    if (!err)
        err = follow_rows(s, x, plain);
    if (err)
        return err;
    if (BATON_MUTANT(CURSOR_IS_END, false, !x->complete)) {
        if (x->last > s->cursor)
            s->cursor = x->last;
        return STORE_OK;
    }
    s->cursor = 0;
    s->behind = false;
    struct pos end = {x->epoch, x->last > meta->end.lsn ? x->last : meta->end.lsn};
    if (pos_cmp(end, meta->end) > 0)
        meta->end = end;
    if (x->history.n) {
        struct wire_reader r = wire_read(x->history);
        if (!history_decode(&r, &meta->history))
            return STORE_CORRUPT;
    }
    /* What the primary had forgotten by then isn't here either. */
    if (meta->copying)
        err = newest_purge(s, &meta->purged);
    if (err)
        return err;
    meta->copying = false;
    meta->written_ms = wall_ms; /* not before: until then it has been away */
    if (pos_cmp(x->committed, meta->committed) > 0)
        meta->committed = x->committed;
    if (x->epoch > meta->epoch_seen)
        meta->epoch_seen = x->epoch;
    return STORE_OK;
}

int apply_follow(struct store *s, const struct batch *x, int64_t wall_ms)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    uint64_t cursor = s->cursor;
    bool behind = s->behind;
    int err = s->ops->begin(s);
    if (err)
        return err;
    err = apply_follow_rows(s, x, wall_ms, &meta);
    err = finish(s, err ? err : s->ops->set_meta(s, &meta));
    if (err) {
        s->cursor = cursor;
        s->behind = behind;
    }
    return err;
}

int apply_mode(struct store *s, uint32_t epoch, enum history_mode mode, uint64_t first,
               struct pos committed)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    if (!first)
        first = meta.end.lsn + 1;
    if (meta.history.n && meta.history.row[meta.history.n - 1].epoch > epoch)
        return STORE_CONFLICT;
    history_add(&meta.history, (struct history_row){epoch, (uint8_t)mode, first});
    if (pos_cmp(committed, meta.committed) > 0)
        meta.committed = committed;
    int err = s->ops->begin(s);
    return err ? err : finish(s, s->ops->set_meta(s, &meta));
}

int apply_committed(struct store *s, struct pos committed)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    if (pos_cmp(committed, meta.committed) <= 0)
        return STORE_OK;
    meta.committed = committed;
    int err = s->ops->begin(s);
    return err ? err : finish(s, s->ops->set_meta(s, &meta));
}

/* What section 8 needs to know of the time before the meeting. */
struct judge {
    const struct store_meta *own; /* as it was */
    struct pos shared, primary_committed;
    const struct history *primary;
};

static enum unmerged_class classify(void *ctx, struct pos pos, struct pos born)
{
    const struct judge *j = ctx;
    /* Rows of an unfinished catch-up lie beyond the end. As long as the primary's history has that
     * place they are its own. */
    struct pos open_end = {UINT32_MAX, UINT64_MAX};
    if (pos.lsn > j->own->end.lsn &&
        pos.lsn <= history_epoch_end(j->primary, pos.epoch, open_end) &&
        history_mode_at(j->primary, pos) != MODE_UNKNOWN)
        return UNMERGED_NONE;
    if (born.lsn <= j->shared.lsn)
        return UNMERGED_QUEUED;
    if (history_mode_at(&j->own->history, born) != MODE_PAIRED)
        return BATON_MUTANT(SOLO_IS_QUARANTINED, UNMERGED_QUARANTINE, UNMERGED_QUEUED);
    /* Both: an epoch that began with rows of an earlier one that weren't committed has, to begin
     * with, a committed lsn below its own first. */
    if (born.epoch <= j->own->committed.epoch && born.lsn <= j->own->committed.lsn)
        return UNMERGED_QUEUED;
    if (born.epoch == j->primary_committed.epoch && born.lsn <= j->primary_committed.lsn)
        return UNMERGED_QUEUED;
    return UNMERGED_QUARANTINE;
}

static int doubt_noted(struct store *s, struct slice noted)
{
    struct note_reader notes = {.r = wire_read(noted)};
    struct note_recipient x;
    uint64_t id;
    int err = STORE_OK;
    while (!err && notes_next(&notes, &id, &x)) {
        struct row key = {.type = ROW_RECIPIENT, .recipient = {.id = id, .index = x.index}}, row;
        enum unmerged_class mark;
        err = s->ops->get(s, &key, &row, &mark);
        if (err == STORE_NOT_FOUND) {
            err = STORE_OK; /* finished, and purged */
            continue;
        }
        if (err || row.recipient.state != RCPT_QUEUED || row.recipient.attempts != x.attempts ||
            row.recipient.in_doubt != DOUBT_NONE)
            continue;
        row.recipient.in_doubt = DOUBT_YES;
        err = put_copy(s, &row, mark == UNMERGED_NONE ? UNMERGED_QUEUED : mark);
    }
    return err || !notes.r.bad ? err : STORE_CORRUPT;
}

int apply_adopt(struct store *s, struct pos shared, const struct history *primary,
                struct pos primary_committed, struct slice noted)
{
    struct store_meta meta, old;
    s->ops->get_meta(s, &old);
    if (shared.lsn > old.end.lsn)
        return STORE_CONFLICT;
    struct judge j = {&old, shared, primary_committed, primary};
    int err = s->ops->begin(s);
    if (err)
        return err;
    err = s->ops->mark_unmerged(s, shared, classify, &j);
    if (!err)
        err = doubt_noted(s, noted);
    meta = old;
    meta.end = shared;
    meta.history = *primary;
    if (pos_cmp(meta.committed, shared) > 0)
        meta.committed = shared;
    if (primary->n && primary->row[primary->n - 1].epoch > meta.epoch_seen)
        meta.epoch_seen = primary->row[primary->n - 1].epoch;
    err = finish(s, err ? err : s->ops->set_meta(s, &meta));
    if (!err) {
        s->cursor = 0;
        s->behind = true;
    }
    return err;
}

int apply_wipe(struct store *s, const struct store_id *fresh)
{
    struct store_meta old, meta;
    s->ops->get_meta(s, &old);
    int err = s->ops->begin(s);
    if (err)
        return err;
    err = s->ops->wipe(s, fresh);
    if (!err) {
        s->ops->get_meta(s, &meta);
        meta.epoch_seen = old.epoch_seen; /* what was seen stays seen (protocol 5) */
        meta.copying = true;
        meta.unfit = false;
        err = s->ops->set_meta(s, &meta);
    }
    err = finish(s, err);
    if (!err) {
        s->cursor = 0;
        s->behind = true;
    }
    return err;
}
