/* See own.h. */
#include "replication/own.h"

#include <assert.h>
#include <stdlib.h>

#include "replication/judge.h"

void own_init(struct own *o)
{
    memset(o, 0, sizeof *o);
    buf_init(&o->rows, OWN_CAP);
    buf_init(&o->scratch, OWN_CAP);
}

void own_free(struct own *o)
{
    buf_free(&o->rows);
    buf_free(&o->scratch);
}

int own_begin(struct own *o, struct store *s, uint32_t epoch, int64_t wall_ms)
{
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    assert(meta.end.epoch == epoch); /* apply_promote() made it ours */
    o->store = s;
    o->epoch = epoch;
    o->first = o->next = meta.end.lsn + 1;
    o->wall_ms = wall_ms;
    o->purge = o->has_opstate = false;
    buf_clear(&o->rows);
    return s->ops->begin(s);
}

bool own_full(const struct own *o)
{
    return o->next - o->first >= OWN_ROWS_MAX || o->rows.len >= OWN_BYTES_MAX;
}

int own_put(struct own *o, struct row *r)
{
    int64_t before_ms;
    if (!apply_number(&o->rows, r, 1, o->epoch, &o->next))
        return STORE_FULL;
    o->has_opstate = o->has_opstate || r->type == ROW_OPSTATE;
    o->purge = o->purge || apply_is_purge(r, &before_ms);
    return o->store->ops->put(o->store, r, UNMERGED_NONE);
}

/* Decodes what is in scratch and writes it. Rows of one merge; their slices live in scratch. */
static int put_scratch(struct own *o)
{
    struct wire_reader r = wire_read(buf_slice(&o->scratch));
    int err = STORE_OK;
    while (!err && r.n) {
        struct row row;
        err = row_decode(&r, &row) ? own_put(o, &row) : STORE_CORRUPT;
    }
    return err;
}

int own_finish(struct own *o, uint64_t id)
{
    struct store *s = o->store;
    uint32_t total, open;
    int err = s->ops->count_recipients(s, id, &total, &open);
    if (err || open)
        return err;
    struct row row;
    err = s->ops->get_head(s, id, &row);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    if (row.message.recipients != total)
        return STORE_OK;
    /* One that was done is written again: a message's row stands behind those of its recipients.
     * Where it was purged already they come back together, and go together. */
    if (row.message.state != MESSAGE_DONE)
        row.message.done_ms = o->wall_ms;
    row.message.state = MESSAGE_DONE;
    buf_clear(&o->scratch);
    return row_encode(&o->scratch, &row) ? put_scratch(o) : STORE_FULL;
}

int own_merge(struct own *o, const struct row *theirs, enum unmerged_class as,
              int64_t quarantine_ms)
{
    uint32_t n = 0;
    buf_clear(&o->scratch);
    int err = apply_merge(o->store, theirs, as, o->wall_ms, quarantine_ms, &o->scratch, &n);
    struct wire_reader r = wire_read(buf_slice(&o->scratch));
    struct row row;
    uint64_t id = 0;
    /* The merged recipient may stand under another id than theirs. */
    if (!err && n && theirs->type == ROW_RECIPIENT && row_decode(&r, &row))
        id = row.recipient.id;
    bool delivered = id && row.recipient.state == RCPT_DELIVERED;
    if (!err)
        err = put_scratch(o);
    if (!err && delivered)
        err = own_recall(o, id);
    return err || !id ? err : own_finish(o, id);
}

struct cancelling {
    struct own *own;
    bool full;
};

static bool see_open(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct cancelling *x = ctx;
    (void)mark;
    if (rcpt_terminal(r->recipient.state))
        return true;
    struct row row = *r;
    row.recipient.state = RCPT_CANCELLED;
    x->full = !row_encode(&x->own->scratch, &row);
    return !x->full;
}

int own_recall(struct own *o, uint64_t parent)
{
    struct store *s = o->store;
    uint64_t id[BOUNCES_MAX];
    unsigned n;
    int err = judge_recalled(s, parent, id, &n);
    for (unsigned i = 0; !err && i < n; i++) {
        struct cancelling x = {.own = o};
        buf_clear(&o->scratch);
        err = s->ops->each_recipient(s, id[i], see_open, &x);
        if (!err)
            err = x.full ? STORE_FULL : put_scratch(o);
        if (!err)
            err = own_finish(o, id[i]);
    }
    return err;
}

struct accepted {
    struct buf addresses; /* (bytes) each */
    bool full;
};

static bool see_accepted(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct accepted *a = ctx;
    (void)mark;
    if (r->recipient.state != RCPT_QUARANTINED && r->recipient.state != RCPT_SUPERSEDED)
        a->full = !wire_put_bytes(&a->addresses, r->recipient.address);
    return !a->full;
}

struct superseding {
    const struct accepted *accepted;
    struct own *own;
    uint64_t n;
    bool full;
};

static bool see_quarantined(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct superseding *x = ctx;
    (void)mark;
    if (r->recipient.state != RCPT_QUARANTINED)
        return true;
    struct wire_reader w = wire_read(buf_slice(&x->accepted->addresses));
    while (w.n && !w.bad) {
        if (!slice_eq(wire_get_bytes(&w, w.n), r->recipient.address))
            continue;
        struct row row = *r;
        row.recipient.state = RCPT_SUPERSEDED;
        x->full = !row_encode(&x->own->scratch, &row);
        x->n++;
        break;
    }
    return !x->full;
}

int own_supersede(struct own *o, uint64_t twin, const struct row_message *accepted, uint64_t *n)
{
    struct store *s = o->store;
    struct row row;
    *n = 0;
    int err = s->ops->get_head(s, twin, &row);
    if (err || twin == accepted->id)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    const struct row_message *m = &row.message;
    if (memcmp(m->sha256, accepted->sha256, 32) || m->size != accepted->size ||
        m->recipients != accepted->recipients || !slice_eq(m->sender, accepted->sender))
        return STORE_OK;
    struct accepted a = {.full = false};
    buf_init(&a.addresses, OWN_CAP);
    struct superseding x = {.accepted = &a, .own = o};
    buf_clear(&o->scratch);
    err = s->ops->each_recipient(s, accepted->id, see_accepted, &a);
    if (!err)
        err = s->ops->each_recipient(s, twin, see_quarantined, &x);
    if (!err && (a.full || x.full))
        err = STORE_FULL;
    buf_free(&a.addresses);
    if (!err && x.n)
        err = put_scratch(o);
    *n = x.n;
    return err || !x.n ? err : own_finish(o, twin);
}

int own_note(struct own *o, uint64_t id, uint32_t index, enum doubt wanted, bool *done)
{
    struct row key = {.type = ROW_RECIPIENT, .recipient = {.id = id, .index = index}}, here;
    enum unmerged_class mark;
    *done = false;
    int err = o->store->ops->get(o->store, &key, &here, &mark);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    struct row_recipient *p = &here.recipient;
    if (p->state != RCPT_QUEUED || p->held & HELD_IN_DOUBT)
        return STORE_OK;
    *done = true;
    if (p->in_doubt == wanted)
        return STORE_OK;
    p->in_doubt = (uint8_t)wanted;
    buf_clear(&o->scratch); /* the store's answer ends with the next call */
    return row_encode(&o->scratch, &here) ? put_scratch(o) : STORE_FULL;
}

int own_outcome(struct own *o, struct row_recipient *p, bool *write, bool *late)
{
    struct row key = {.type = ROW_RECIPIENT}, here;
    enum unmerged_class mark;
    key.recipient.id = p->id;
    key.recipient.index = p->index;
    *write = *late = false;
    int err = o->store->ops->get(o->store, &key, &here, &mark);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    const struct row_recipient *now = &here.recipient;
    *late = rcpt_terminal(now->state);
    if (rcpt_terminal(now->state) && (p->state != RCPT_DELIVERED || now->state == RCPT_DELIVERED))
        return STORE_OK;
    if (now->state == RCPT_QUARANTINED && p->state == RCPT_QUEUED)
        return STORE_OK;
    *write = true;
    if (rcpt_terminal(p->state)) {
        p->held = 0;
        return STORE_OK;
    }
    p->held = (uint8_t)((now->held & HELD_OPERATOR) | (p->held & HELD_DOUBT));
    if (now->held & HELD_IN_DOUBT) {
        p->held |= now->held & HELD_DOUBT;
        p->in_doubt = DOUBT_YES;
    }
    return STORE_OK;
}

struct own_batch own_batch(const struct own *o, bool with_rows)
{
    assert(o->next > o->first);
    return (struct own_batch){.epoch = o->epoch,
                              .first = o->first,
                              .last = o->next - 1,
                              .n_rows = own_count(o),
                              .rows = with_rows ? shared_new(buf_slice(&o->rows)) : NULL};
}

int own_commit(struct own *o, struct pos committed)
{
    struct store *s = o->store;
    struct store_meta meta;
    s->ops->get_meta(s, &meta);
    meta.end = (struct pos){o->epoch, o->next - 1};
    if (pos_cmp(committed, meta.committed) > 0)
        meta.committed = committed;
    meta.written_ms = o->wall_ms;
    int err = s->ops->set_meta(s, &meta);
    if (err) {
        s->ops->rollback(s);
        return err;
    }
    return s->ops->commit(s);
}

void own_abort(struct own *o)
{
    o->store->ops->rollback(o->store);
}
