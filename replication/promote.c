/* See apply.h: taking the store over, with what is unmerged in it and what is in doubt. Protocol 5
 * ("take over", "restart"), 8 and 9. */
#include "node/base/mutant.h"
#include "replication/apply.h"
#include "replication/judge.h"
#include "replication/notes.h"

enum { ROW_BYTES_MAX = 1 << 20 }; /* one encoded row: 128 KiB of body, 16 KiB of prefix, text */

static int finish(struct store *s, int err)
{
    if (!err)
        return s->ops->commit(s);
    s->ops->rollback(s);
    return err;
}

/* --- new numbers for what is unmerged --- */

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

static bool collect_open(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    return rcpt_terminal(r->recipient.state) || collect(ctx, r, UNMERGED_NONE);
}

/* The old primary failed it and queued the bounce, which came here; the delivery is this store's
 * own, and counts from now on (as in own_recall()). */
static int collect_bounces(struct store *s, const struct row *key, struct keys *k)
{
    uint64_t id[BOUNCES_MAX];
    unsigned n = 0;
    int err = STORE_OK;
    if (key->type == ROW_RECIPIENT && key->recipient.state == RCPT_DELIVERED)
        err = judge_recalled(s, key->recipient.id, id, &n);
    for (unsigned i = 0; !err && i < n; i++)
        err = s->ops->each_recipient(s, id[i], collect_open, k);
    return k->full ? STORE_FULL : err;
}

/* A durable note of this node's own, made while it was alone: nobody else has that attempt's
 * outcome, whatever they know of attempts of theirs. (Of one made while paired the standby may.) */
static bool own_attempt(const struct store_meta *meta, struct pos noted, uint32_t epoch)
{
    return noted.epoch && noted.epoch != epoch && (noted.epoch & 1) == (epoch & 1) &&
           history_mode_at(&meta->history, noted) != MODE_PAIRED;
}

static int renumber_row(struct store *s, const struct store_meta *meta, const struct row *key,
                        uint32_t epoch, uint64_t *next, int64_t wall_ms, int64_t quarantine_ms,
                        struct buf *copy)
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
    if (row.type == ROW_RECIPIENT) {
        err = judge_recipient(s, &row.recipient, mark, wall_ms, quarantine_ms);
        if (row.recipient.in_doubt == DOUBT_NOTED && own_attempt(meta, row_pos(&row), epoch))
            row.recipient.held |= HELD_OWN_DOUBT;
        if (row.recipient.state == RCPT_QUARANTINED)
            apply_orphan_note(&row.recipient); /* each_noted() finds what is queued */
    }
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
    err = s->ops->get_head(s, id, &here);
    if (err || here.message.state == MESSAGE_DONE || here.message.recipients != total)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    here.message.state = MESSAGE_DONE;
    here.message.done_ms = wall_ms;
    buf_clear(copy);
    if (!row_encode(copy, &here) || (r = wire_read(buf_slice(copy)), !row_decode(&r, &row)))
        return STORE_CORRUPT;
    row_set_pos(&row, (struct pos){epoch, *next});
    ++*next;
    return s->ops->put(s, &row, UNMERGED_NONE);
}

/* bounces: NULL, or where the keys of those go that what is renumbered may recall. */
static int renumber_keys(struct store *s, const struct store_meta *meta, const struct keys *k,
                         struct keys *bounces, const struct promotion *p, uint64_t *next)
{
    struct buf copy;
    buf_init(&copy, ROW_BYTES_MAX);
    struct wire_reader r = wire_read(buf_slice(&k->b));
    int err = STORE_OK;
    while (!err && r.n) {
        struct row key;
        err = row_decode(&r, &key)
                  ? renumber_row(s, meta, &key, p->epoch, next, p->wall_ms, p->quarantine_ms, &copy)
                  : STORE_CORRUPT;
        if (!err && bounces)
            err = collect_bounces(s, &key, bounces);
    }
    buf_free(&copy);
    return err;
}

static int renumber(struct store *s, const struct store_meta *meta, const struct promotion *p,
                    uint64_t *next)
{
    struct keys k = {.full = false}, bounces = {.full = false};
    /* Few rows by protocol 5: what one rejoin left unmerged. The cap keeps a takeover that finds
     * more from taking the memory of the machine: 1 GiB of keys is some five million rows. */
    buf_init(&k.b, (size_t)1 << 30);
    buf_init(&bounces.b, (size_t)1 << 30);
    int err = s->ops->each_unmerged(s, collect, &k);
    k.unmarked_only = true; /* rows of an unfinished catch-up: beyond the end, not of our making */
    if (!err && !k.full)
        err = s->ops->changes_after(s, meta->end.lsn, collect, &k);
    if (k.full)
        err = STORE_FULL;
    if (!err)
        err = renumber_keys(s, meta, &k, &bounces, p, next);
    if (!err)
        err = renumber_keys(s, meta, &bounces, NULL, p, next);
    buf_free(&bounces.b);
    buf_free(&k.b);
    return err;
}

/* --- what is in doubt (section 9) --- */

bool apply_orphan_note(struct row_recipient *p)
{
    if (rcpt_terminal(p->state) || p->in_doubt != DOUBT_NOTED)
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
static int doubt_row(struct store *s, const struct store_meta *meta, uint64_t id, uint32_t index,
                     const uint32_t *attempts, const struct promotion *p, uint64_t *next,
                     uint32_t *n)
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
    if (!attempts && own_attempt(meta, row.recipient.pos, p->epoch))
        row.recipient.held |= HELD_OWN_DOUBT;
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
static int doubt(struct store *s, const struct store_meta *meta, const struct promotion *p,
                 uint64_t *next, uint32_t *n)
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
                  ? doubt_row(s, meta, key.recipient.id, key.recipient.index, NULL, p, next, n)
                  : STORE_CORRUPT;
    }
    buf_free(&k.b);
    struct note_reader notes = {.r = wire_read(p->noted)};
    struct note_recipient x;
    uint64_t id;
    while (!err && notes_next(&notes, &id, &x))
        err = doubt_row(s, meta, id, x.index, &x.attempts, p, next, n);
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
        err = doubt(s, &meta, p, &next, &out->in_doubt);
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
    s->behind = false;
    out->end = meta.end;
    return STORE_OK;
}
