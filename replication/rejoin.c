/* See apply.h: taking the store over with what is unmerged in it, and merging what a returning node
 * holds. Protocol 5 ("take over", "restart") and 8. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/base/mutant.h"
#include "replication/apply.h"
#include "replication/merge.h"
#include "replication/moved.h"
#include "replication/notes.h"

enum { ROW_BYTES_MAX = 1 << 20 }; /* one encoded row: 64 KiB of body, 16 KiB of prefix, text */

static int finish(struct store *s, int err)
{
    if (!err)
        return s->ops->commit(s);
    s->ops->rollback(s);
    return err;
}

static int get_message(struct store *s, uint64_t id, struct row *out)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = id};
    enum unmerged_class mark;
    return s->ops->get(s, &key, out, &mark);
}

/* --- twins: the sender of a quarantined message has no 250 and tries again (section 8) --- */

struct twin_search {
    struct slice address;
    bool accepted;
};

static bool see_twin_recipient(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct twin_search *t = ctx;
    (void)mark;
    uint8_t state = r->recipient.state;
    if (state == RCPT_QUARANTINED || state == RCPT_SUPERSEDED ||
        !slice_eq(r->recipient.address, t->address))
        return true;
    t->accepted = true;
    return false;
}

/* Has the same envelope and body been accepted later, for this recipient? */
static int has_twin(struct store *s, const struct row_recipient *p, bool *twin)
{
    *twin = false;
    struct row found;
    int err = get_message(s, p->id, &found);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    /* find_twin() needs these fields only; the sender's bytes must outlive the next calls. */
    struct row_message m = found.message;
    char *sender = slice_dup(m.sender);
    m.sender.p = (const uint8_t *)sender;
    struct twin_search t = {p->address, false};
    uint64_t id = p->id;
    while (!err && !t.accepted) {
        err = s->ops->find_twin(s, &m, id, &id);
        if (err || !id)
            break;
        err = s->ops->each_recipient(s, id, see_twin_recipient, &t);
    }
    free(sender);
    *twin = t.accepted;
    return err;
}

/* --- bounces --- */

/* Is recipient `index` in "0-4,7"? Empty: all. (What a bounce is about stands in its envid.) */
static bool covers(struct slice list, uint32_t index)
{
    if (!list.n)
        return true;
    size_t i = 0;
    while (i < list.n) {
        uint32_t from = 0, to;
        for (; i < list.n && list.p[i] >= '0' && list.p[i] <= '9'; i++)
            from = from * 10 + (uint32_t)(list.p[i] - '0');
        to = from;
        if (i < list.n && list.p[i] == '-')
            for (i++, to = 0; i < list.n && list.p[i] >= '0' && list.p[i] <= '9'; i++)
                to = to * 10 + (uint32_t)(list.p[i] - '0');
        if (index >= from && index <= to)
            return true;
        i++; /* the comma, or whatever stands there */
    }
    return false;
}

enum { BOUNCES_MAX = 64 }; /* other bounces of one message that are looked at */
struct bounce_search {
    struct slice list; /* of the bounce in question */
    bool seen[BOUNCES_MAX];
    uint64_t self, other[BOUNCES_MAX];
    char *lists[BOUNCES_MAX];
    unsigned n;
    bool wanted, failed_any;
};

static bool see_bounce(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct bounce_search *b = ctx;
    (void)mark;
    if (r->message.id != b->self) {
        b->other[b->n] = r->message.id;
        b->lists[b->n++] = slice_dup(r->message.envid);
    }
    return b->n < BOUNCES_MAX;
}

static bool see_live(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    if (r->recipient.state != RCPT_CANCELLED)
        *(bool *)ctx = true;
    return true;
}

static bool see_failed(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct bounce_search *b = ctx;
    (void)mark;
    if ((r->recipient.state != RCPT_FAILED && r->recipient.state != RCPT_EXPIRED) ||
        !covers(b->list, r->recipient.index))
        return true;
    bool covered = false;
    for (unsigned i = 0; i < b->n; i++)
        covered = covered || (b->seen[i] && covers(slice_str(b->lists[i]), r->recipient.index));
    b->wanted = b->wanted || !covered;
    return !b->wanted;
}

int apply_bounce_wanted(struct store *s, uint64_t id, bool *wanted)
{
    struct row row;
    *wanted = true;
    int err = get_message(s, id, &row);
    if (err || !(row.message.flags & MSG_BOUNCE) || !row.message.parent)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    uint64_t parent = row.message.parent;
    char *list = slice_dup(row.message.envid);
    struct bounce_search b = {.self = id, .list = slice_str(list)};
    err = get_message(s, parent, &row);
    if (err) {
        free(list);
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    }
    err = s->ops->each_bounce(s, parent, see_bounce, &b);
    for (unsigned i = 0; !err && i < b.n; i++)
        err = s->ops->each_recipient(s, b.other[i], see_live, &b.seen[i]);
    if (!err)
        err = s->ops->each_recipient(s, parent, see_failed, &b);
    for (unsigned i = 0; i < b.n; i++)
        free(b.lists[i]);
    free(list);
    *wanted = b.wanted;
    return err;
}

/* --- what becomes of a divergent recipient --- */

static int judge(struct store *s, struct row_recipient *p, enum unmerged_class as, int64_t wall_ms,
                 int64_t quarantine_ms)
{
    bool yes;
    if (rcpt_terminal(p->state))
        return STORE_OK;
    struct row row;
    int err = get_message(s, p->id, &row);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    if (row.message.flags & MSG_BOUNCE) {
        err = apply_bounce_wanted(s, p->id, &yes);
        if (!err && BATON_MUTANT(EVERY_BOUNCE_STAYS, false, !yes))
            p->state = RCPT_CANCELLED;
        return err;
    }
    if (as != UNMERGED_QUARANTINE)
        return STORE_OK;
    err = has_twin(s, p, &yes);
    if (err)
        return err;
    p->state = yes ? RCPT_SUPERSEDED : RCPT_QUARANTINED;
    if (!yes)
        p->next_ms = wall_ms + quarantine_ms;
    return STORE_OK;
}

/* --- promotion --- */

struct keys {
    struct buf b; /* encoded rows, bodies and data left out */
    bool full, unmarked_only;
};

static bool collect(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct keys *k = ctx;
    if (k->unmarked_only && mark != UNMERGED_NONE)
        return true;
    struct row key = *r;
    if (key.type == ROW_MESSAGE)
        key.message.body = key.message.prefix = (struct slice){NULL, 0};
    if (key.type == ROW_CHUNK)
        key.chunk.data = (struct slice){NULL, 0};
    k->full = !row_encode(&k->b, &key);
    return !k->full;
}

static int renumber_row(struct store *s, const struct row *key, uint32_t epoch, uint64_t *next,
                        int64_t wall_ms, int64_t quarantine_ms, struct buf *copy)
{
    struct row here, row;
    enum unmerged_class mark;
    int err = s->ops->get(s, key, &here, &mark);
    if (err)
        return err;
    buf_clear(copy);
    struct wire_reader r;
    if (!row_encode(copy, &here) || (r = wire_read(buf_slice(copy)), !row_decode(&r, &row)))
        return STORE_CORRUPT;
    if (row.type == ROW_RECIPIENT)
        err = judge(s, &row.recipient, mark, wall_ms, quarantine_ms);
    row_set_pos(&row, BATON_MUTANT(UNMERGED_KEEP_LSN, row_pos(&row), ((struct pos){epoch, *next})));
    if (!err)
        err = s->ops->put(s, &row, UNMERGED_NONE);
    ++*next;
    if (err || row.type != ROW_RECIPIENT)
        return err;
    /* A merge by pieces may have left a message whose recipients are all done. */
    uint32_t total, open;
    uint64_t id = row.recipient.id;
    err = s->ops->count_recipients(s, id, &total, &open);
    if (err || open)
        return err;
    err = get_message(s, id, &here);
    if (err || here.message.state == MESSAGE_DONE || here.message.recipients != total)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    here.message.state = MESSAGE_DONE;
    here.message.done_ms = wall_ms;
    here.message.body = (struct slice){NULL, 0};
    buf_clear(copy);
    if (!row_encode(copy, &here) || (r = wire_read(buf_slice(copy)), !row_decode(&r, &row)))
        return STORE_CORRUPT;
    row_set_pos(&row, (struct pos){epoch, *next});
    ++*next;
    return s->ops->put(s, &row, UNMERGED_NONE);
}

static int renumber(struct store *s, const struct store_meta *meta, const struct promotion *p,
                    uint64_t *next)
{
    struct keys k = {.full = false};
    /* Few rows by protocol 5: what one rejoin left unmerged. The cap keeps a takeover that finds
     * more from taking the memory of the machine: 1 GiB of keys is some five million rows. */
    buf_init(&k.b, (size_t)1 << 30);
    struct buf copy;
    buf_init(&copy, ROW_BYTES_MAX);
    int err = s->ops->each_unmerged(s, collect, &k);
    k.unmarked_only = true; /* rows of an unfinished catch-up: beyond the end, not of our making */
    if (!err && !k.full)
        err = s->ops->changes_after(s, meta->end.lsn, collect, &k);
    if (k.full)
        err = STORE_FULL;
    struct wire_reader r = wire_read(buf_slice(&k.b));
    while (!err && r.n) {
        struct row key;
        err = row_decode(&r, &key)
                  ? renumber_row(s, &key, p->epoch, next, p->wall_ms, p->quarantine_ms, &copy)
                  : STORE_CORRUPT;
    }
    buf_free(&copy);
    buf_free(&k.b);
    return err;
}

/* --- what is in doubt (section 9) --- */

bool apply_orphan_note(struct row_recipient *p)
{
    if (p->state != RCPT_QUEUED || p->in_doubt != DOUBT_NOTED)
        return false;
    p->in_doubt = DOUBT_YES;
    p->held |= HELD_IN_DOUBT;
    return true;
}

/* Under `resend` it goes out again, but not at once: an old primary that comes right back knows
 * what became of it. What was in doubt already, and was on the wire again, is so anew. */
static bool doubt_resend(struct row_recipient *p, uint32_t attempts, int64_t next_ms)
{
    if (p->state != RCPT_QUEUED || p->attempts != attempts)
        return false;
    p->in_doubt = DOUBT_YES;
    if (p->next_ms < next_ms)
        p->next_ms = next_ms;
    return true;
}

/* attempts NULL: a durable note. */
static int doubt_row(struct store *s, uint64_t id, uint32_t index, const uint32_t *attempts,
                     const struct promotion *p, uint64_t *next, uint32_t *n)
{
    struct row key = {.type = ROW_RECIPIENT, .recipient = {.id = id, .index = index}}, row;
    enum unmerged_class mark;
    int err = s->ops->get(s, &key, &row, &mark);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err; /* finished, and purged */
    bool yes = attempts ? doubt_resend(&row.recipient, *attempts, p->wall_ms + p->in_doubt_wait_ms)
                        : apply_orphan_note(&row.recipient);
    if (!yes)
        return STORE_OK;
    /* The answer of the store ends with the next call. */
    struct buf copy;
    buf_init(&copy, ROW_BYTES_MAX);
    struct row own;
    bool ok = row_encode(&copy, &row);
    struct wire_reader r = wire_read(buf_slice(&copy));
    ok = ok && row_decode(&r, &own);
    if (ok) {
        row_set_pos(&own, (struct pos){p->epoch, *next});
        ++*next;
        ++*n;
    }
    err = ok ? s->ops->put(s, &own, UNMERGED_NONE) : STORE_CORRUPT;
    buf_free(&copy);
    return err;
}

/* As many as there were connections: it doesn't grow with the queue. */
static int doubt(struct store *s, const struct promotion *p, uint64_t *next, uint32_t *n)
{
    struct keys k = {.full = false};
    buf_init(&k.b, (size_t)1 << 30);
    int err = s->ops->each_noted(s, collect, &k);
    if (!err && k.full)
        err = STORE_FULL;
    struct wire_reader r = wire_read(buf_slice(&k.b));
    while (!err && r.n) {
        struct row key;
        err = row_decode(&r, &key)
                  ? doubt_row(s, key.recipient.id, key.recipient.index, NULL, p, next, n)
                  : STORE_CORRUPT;
    }
    buf_free(&k.b);
    struct note_reader notes = {.r = wire_read(p->noted)};
    struct note_recipient x;
    uint64_t id;
    while (!err && notes_next(&notes, &id, &x))
        err = doubt_row(s, id, x.index, &x.attempts, p, next, n);
    return err;
}

int apply_promote(struct store *s, const struct promotion *p, struct promoted *out)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    if (meta.copying || meta.unfit || p->epoch < meta.epoch_seen || p->epoch <= meta.end.epoch)
        return STORE_CONFLICT;
    int err = s->ops->begin(s);
    if (err)
        return err;
    uint64_t next = meta.end.lsn + 1;
    *out = (struct promoted){.first = next};
    err = renumber(s, &meta, p, &next);
    if (!err)
        err = doubt(s, p, &next, &out->in_doubt);
    /* Adopted history beyond the own end describes nothing that is here. */
    struct history *h = &meta.history;
    while (h->n &&
           (h->row[h->n - 1].first_lsn > meta.end.lsn + 1 || h->row[h->n - 1].epoch >= p->epoch))
        h->n--;
    history_add(h, (struct history_row){p->epoch, (uint8_t)p->mode, out->first});
    meta.end = (struct pos){p->epoch, next - 1};
    meta.epoch_seen = p->epoch;
    meta.written_ms = p->wall_ms;
    err = finish(s, err ? err : s->ops->set_meta(s, &meta));
    if (err)
        return err;
    s->cursor = 0;
    out->end = meta.end;
    return STORE_OK;
}

/* --- merging, on the primary --- */

static int emit(struct buf *out, uint32_t *n_rows, const struct row *r)
{
    if (!row_encode(out, r))
        return STORE_FULL;
    ++*n_rows;
    return STORE_OK;
}

/* The body of a moved message: chunks that were alike stayed under the old id. */
static int complete_moved(struct store *s, const struct row_message *m, struct buf *out,
                          uint32_t *n_rows)
{
    int err = STORE_OK;
    for (uint32_t i = 0; !err && i < m->chunks; i++) {
        struct row key = {.type = ROW_CHUNK, .chunk = {.id = MOVED_ID(m->id), .index = i}}, row;
        enum unmerged_class mark;
        err = s->ops->get(s, &key, &row, &mark);
        if (err != STORE_NOT_FOUND)
            continue;
        key.chunk.id = m->id;
        err = s->ops->get(s, &key, &row, &mark);
        if (err)
            return err == STORE_NOT_FOUND ? STORE_OK : err;
        row.chunk.id = MOVED_ID(m->id);
        err = emit(out, n_rows, &row);
    }
    return err;
}

static int merge_one_message(struct store *s, const struct row *theirs, struct buf *out,
                             uint32_t *n_rows)
{
    struct row here, merged = *theirs;
    bool same;
    int err = get_message(s, theirs->message.id, &here);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, theirs);
    if (err)
        return err;
    merge_message(&here.message, &theirs->message, &merged.message, &same);
    if (same) {
        /* Their outcomes follow as rows of their own; until then the body may be needed here. */
        if (here.message.state == MESSAGE_LIVE)
            merged = here;
        return emit(out, n_rows, &merged);
    }
    if (theirs->message.id & MOVED_BIT) {
        log_error("merge.conflict", "id=%016llx three messages with this id; rejoin stops here",
                  (unsigned long long)theirs->message.id);
        return STORE_CONFLICT;
    }
    struct row moved = *theirs;
    moved.message.id = MOVED_ID(theirs->message.id);
    log_warn("merge.moved",
             "id=%016llx new_id=%016llx why=\"two messages with one id: a store was "
             "cloned or rolled back\"",
             (unsigned long long)theirs->message.id, (unsigned long long)moved.message.id);
    err = complete_moved(s, &theirs->message, out, n_rows);
    return err ? err : merge_one_message(s, &moved, out, n_rows);
}

static int merge_one_chunk(struct store *s, const struct row *theirs, struct buf *out,
                           uint32_t *n_rows)
{
    struct row here;
    enum unmerged_class mark;
    int err = get_message(s, theirs->chunk.id, &here);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, theirs);
    if (err)
        return err;
    err = s->ops->get(s, theirs, &here, &mark);
    if (!err && slice_eq(here.chunk.data, theirs->chunk.data))
        return emit(out, n_rows, &here);
    if (err && err != STORE_NOT_FOUND)
        return err;
    /* Either the message is done here, and this is dropped with the next purge; or it is another
     * message, which its row will tell. */
    struct row moved = *theirs;
    moved.chunk.id = MOVED_ID(theirs->chunk.id);
    return emit(out, n_rows, &moved);
}

static int merge_one_recipient(struct store *s, const struct row *theirs, enum unmerged_class as,
                               int64_t wall_ms, int64_t quarantine_ms, struct buf *out,
                               uint32_t *n_rows)
{
    struct row own = *theirs, here, merged = *theirs;
    enum unmerged_class mark;
    int err = get_message(s, MOVED_ID(own.recipient.id), &here);
    if (!err)
        own.recipient.id = MOVED_ID(own.recipient.id);
    else if (err == STORE_NOT_FOUND)
        err = get_message(s, own.recipient.id, &here);
    if (err) /* not here: it was done, and purged */
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    /* What is live here was judged before, by a store that knew more: one that was rolled back has
     * forgotten how much of its epoch was acknowledged. */
    err = s->ops->get(s, &own, &here, &mark);
    if (!err && here.recipient.state == RCPT_QUEUED)
        as = UNMERGED_QUEUED;
    if (!err || err == STORE_NOT_FOUND)
        err = judge(s, &own.recipient, as, wall_ms, quarantine_ms);
    if (err)
        return err;
    apply_orphan_note(&own.recipient);
    err = s->ops->get(s, &own, &here, &mark);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, &own);
    if (err)
        return err;
    merge_recipient(&here.recipient, &own.recipient, &merged.recipient);
    return emit(out, n_rows, &merged);
}

int apply_merge(struct store *s, const struct row *theirs, enum unmerged_class as, int64_t wall_ms,
                int64_t quarantine_ms, struct buf *out, uint32_t *n_rows)
{
    struct row here, merged = *theirs;
    enum unmerged_class mark;
    int err;
    switch (theirs->type) {
    case ROW_MESSAGE:
        return merge_one_message(s, theirs, out, n_rows);
    case ROW_CHUNK:
        return merge_one_chunk(s, theirs, out, n_rows);
    case ROW_RECIPIENT:
        return merge_one_recipient(s, theirs, as, wall_ms, quarantine_ms, out, n_rows);
    case ROW_OPSTATE:
        err = s->ops->get(s, theirs, &here, &mark);
        if (err && err != STORE_NOT_FOUND)
            return err;
        if (!err)
            merge_opstate(&here.opstate, &theirs->opstate, &merged.opstate);
        return emit(out, n_rows, &merged);
    }
    return STORE_CORRUPT;
}

/* --- moved ids, on the node that copies --- */

static bool collect_rows(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    return row_encode(ctx, r);
}

int moved_local(struct store *s, uint64_t id, enum unmerged_class mark)
{
    struct buf rows;
    buf_init(&rows, 64 << 20);
    struct row row;
    if (id & MOVED_BIT)
        return STORE_CONFLICT;
    log_warn("merge.moved",
             "id=%016llx new_id=%016llx why=\"two messages with one id: a store was "
             "cloned or rolled back\"",
             (unsigned long long)id, (unsigned long long)MOVED_ID(id));
    int err = get_message(s, id, &row);
    uint32_t chunks = row.message.chunks;
    for (uint32_t i = 0; !err && i < chunks; i++) {
        struct row key = {.type = ROW_CHUNK, .chunk = {.id = id, .index = i}}, chunk;
        enum unmerged_class m;
        err = s->ops->get(s, &key, &chunk, &m);
        chunk.chunk.id = MOVED_ID(id);
        if (!err && !row_encode(&rows, &chunk))
            err = STORE_FULL;
        if (err == STORE_NOT_FOUND)
            err = STORE_OK;
    }
    if (!err)
        err = get_message(s, id, &row);
    if (!err && !row_encode(&rows, &row))
        err = STORE_FULL;
    if (!err)
        err = s->ops->each_recipient(s, id, collect_rows, &rows);
    struct wire_reader r = wire_read(buf_slice(&rows));
    while (!err && r.n) {
        if (!row_decode(&r, &row)) {
            err = STORE_CORRUPT;
            break;
        }
        if (row.type == ROW_MESSAGE)
            row.message.id = MOVED_ID(id);
        if (row.type == ROW_RECIPIENT)
            row.recipient.id = MOVED_ID(id);
        err = s->ops->put(s, &row, mark);
    }
    buf_free(&rows);
    return err;
}
