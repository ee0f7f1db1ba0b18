/* The storage thread's own transactions: operations of the relay, and merges (protocol 4.1, 8).
 *
 * One transaction takes what waits, up to a cap (group_uv.c). Its rows are numbered and put into
 * the store as they are built; complete, the batch goes to replication, and only then is it
 * committed here, so that both disks write side by side. Before that hand-over an error costs
 * nothing but the operations in it; from the hand-over on, a failure ends the epoch (incident 32).
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/queue/internal_uv.h"
#include "node/queue/opstate.h"

enum {
    SELECT_STEP = 1000,      /* recipients that one transaction changes for an operator */
    RELEASE_STEP = 500,      /* or lets out of quarantine */
    TWINS_MAX = 200000,      /* quarantined messages that are looked for; the others wait it out */
    CHANGED_MAX = 1 << 20,   /* cancelled rows that an operation tells of */
    COVERED_MAX = 900,       /* of a bounce's envid; its field holds 1,024 bytes */
    ONE_OPERATION_MAX = 2000 /* rows: what must still fit when a transaction is full */
};
static_assert((int)OWN_ROWS_MAX > (int)ONE_OPERATION_MAX, "an operation fits");

/* --- quarantined twins --- */

static int by_prefix(const void *a, const void *b)
{
    const struct twin *x = a, *y = b;
    return x->prefix != y->prefix ? (x->prefix > y->prefix) - (x->prefix < y->prefix)
                                  : (x->id > y->id) - (x->id < y->id);
}

static void add_twin(void *ctx, uint64_t prefix, uint64_t id)
{
    struct storage *s = ctx;
    if (s->n_twins % 1024 == 0)
        s->twins = xrealloc(s->twins, (s->n_twins + 1024) * sizeof *s->twins);
    s->twins[s->n_twins++] = (struct twin){prefix, id};
}

static int load_twins(struct storage *s)
{
    s->n_twins = 0;
    int err = store_sqlite_quarantined(s->store, TWINS_MAX, add_twin, s);
    s->twins_stale = err != STORE_OK;
    if (!err && s->n_twins)
        qsort(s->twins, s->n_twins, sizeof *s->twins, by_prefix);
    return err;
}

/* A sender tried again: what lies quarantined of the first try is superseded. Costs nothing while
 * nothing is quarantined. */
static int supersede_twins(struct storage *s, const struct row_message *m)
{
    int err = s->twins_stale ? load_twins(s) : STORE_OK;
    if (err || !s->n_twins)
        return err;
    uint64_t prefix = 0, n;
    for (unsigned i = 0; i < 8; i++)
        prefix = prefix << 8 | m->sha256[i];
    size_t low = 0, high = s->n_twins;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->twins[mid].prefix < prefix)
            low = mid + 1;
        else
            high = mid;
    }
    for (; !err && low < s->n_twins && s->twins[low].prefix == prefix; low++) {
        err = own_supersede(&s->own, s->twins[low].id, m, &n);
        if (!err && n)
            log_info("queue.superseded", "id=%016llx by=%016llx recipients=%llu",
                     (unsigned long long)s->twins[low].id, (unsigned long long)m->id,
                     (unsigned long long)n);
    }
    return err;
}

/* --- operations --- */

/* An address that is never sent to ends here, in the transaction that takes the message. */
static int suppress(struct storage *s, struct row_recipient *p)
{
    if (!s->suppressing || p->state != RCPT_QUEUED)
        return STORE_OK;
    bool yes;
    int err = store_sqlite_suppressed(s->store, p->address, &yes);
    if (err || !yes)
        return err;
    p->state = RCPT_SUPPRESSED;
    p->next_ms = 0;
    p->last_ms = s->own.wall_ms;
    p->reply = SLICE_LIT("the address is on the list of those that are never sent to");
    return STORE_OK;
}

static int add_rows(struct storage *s, struct storage_op *op)
{
    int err = STORE_OK;
    bool terminal = false;
    const struct row_message *m = NULL;
    for (unsigned i = 0; !err && i < op->n_rows; i++) {
        struct row *r = &op->rows[i];
        struct store_meta meta;
        if (r->type == ROW_MESSAGE) {
            s->store->ops->get_meta(s->store, &meta);
            r->message.creator = meta.id;
            m = &r->message;
        }
        if (r->type == ROW_RECIPIENT)
            err = suppress(s, &r->recipient);
        if (r->type == ROW_OPSTATE)
            storage_note_opstate(s, r->opstate.key);
        terminal = terminal || (r->type == ROW_RECIPIENT && rcpt_terminal(r->recipient.state));
        if (!err)
            err = own_put(&s->own, r);
    }
    if (!err && m && m->state == MESSAGE_LIVE)
        err = supersede_twins(s, m);
    return err || !m || !terminal ? err : own_finish(&s->own, m->id);
}

static int write_notes(struct storage *s, struct storage_op *op)
{
    int err = STORE_OK;
    for (unsigned i = 0; !err && i < op->n_rows; i++) {
        const struct row_recipient *p = &op->rows[i].recipient;
        bool done;
        err = own_note(&s->own, p->id, p->index, (enum doubt)p->in_doubt, &done);
        op->n_changed += done;
    }
    return err;
}

/* "0-4,7": the recipients that a bounce is about, where it fits (rejoin.c reads it). */
static void cover(struct buf *list, uint32_t index, uint32_t *last)
{
    /* Indexes come in order: a range grows at its end. */
    if (list->len && index == *last + 1) {
        size_t at = list->len;
        while (at && list->data[at - 1] != ',' && list->data[at - 1] != '-')
            at--;
        if (at && list->data[at - 1] == '-')
            list->len = at - 1;
        *last = index;
        buf_printf(list, "-%u", index);
        return;
    }
    buf_printf(list, "%s%u", list->len ? "," : "", index);
    *last = index;
}

static int put_outcomes(struct storage *s, struct storage_op *op, struct buf *covered)
{
    uint64_t bounced = 0, changed = 0;
    uint32_t last = 0;
    int err = STORE_OK;
    for (unsigned i = 0; !err && i < op->n_rows; i++)
        if (op->rows[i].type == ROW_MESSAGE)
            bounced = op->rows[i].message.id;
    for (unsigned i = 0; !err && i < op->n_rows; i++) {
        struct row *r = &op->rows[i];
        bool write, late;
        if (r->type != ROW_RECIPIENT || (bounced && r->recipient.id == bounced))
            continue;
        err = own_outcome(&s->own, &r->recipient, &write, &late);
        if (err || !write)
            continue;
        if (r->recipient.state == RCPT_FAILED || r->recipient.state == RCPT_EXPIRED)
            cover(covered, r->recipient.index, &last);
        err = own_put(&s->own, r);
        if (!err && late)
            err = own_recall(&s->own, r->recipient.id);
        changed++;
    }
    op->n_changed = changed;
    return err;
}

/* The bounce of this operation, with what it covers. */
static int put_bounce(struct storage *s, struct storage_op *op, struct slice covered)
{
    uint64_t id = 0;
    int err = STORE_OK;
    for (unsigned i = 0; !err && i < op->n_rows; i++) {
        struct row *r = &op->rows[i];
        if (r->type == ROW_MESSAGE) {
            struct store_meta meta;
            s->store->ops->get_meta(s->store, &meta);
            r->message.creator = meta.id;
            r->message.envid = covered;
            id = r->message.id;
        }
        if (id && (r->type == ROW_MESSAGE || r->recipient.id == id))
            err = own_put(&s->own, r);
    }
    return err;
}

static int write_outcome(struct storage *s, struct storage_op *op)
{
    struct buf covered;
    buf_init(&covered, COVERED_MAX);
    int err = put_outcomes(s, op, &covered);
    if (covered.len > COVERED_MAX - 16) /* no room for the next: all of them, then */
        buf_clear(&covered);
    /* When nothing of the outcome was taken (cancelled meanwhile) there is nothing to tell. */
    if (!err && op->n_changed)
        err = put_bounce(s, op, buf_slice(&covered));
    uint64_t finished = 0;
    for (unsigned i = 0; !err && i < op->n_rows; i++) {
        const struct row_recipient *p = &op->rows[i].recipient;
        if (op->rows[i].type != ROW_RECIPIENT || !rcpt_terminal(p->state) || p->id == finished)
            continue;
        finished = p->id;
        err = own_finish(&s->own, p->id);
    }
    buf_free(&covered);
    return err;
}

static void tell_changed(struct storage *s, struct storage_op *op, const struct row *r)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = r->recipient.id}, m;
    enum unmerged_class mark;
    if (s->store->ops->get(s->store, &key, &m, &mark))
        return;
    m.message.body = (struct slice){NULL, 0};
    size_t start = op->changed.len;
    if (!row_encode(&op->changed, &m) || !row_encode(&op->changed, r))
        op->changed.len = start;
}

static int write_selected(struct storage *s, struct item *i)
{
    struct storage_op *op = i->op;
    struct wire_reader r = wire_read(buf_slice(&i->keys));
    struct buf copy;
    buf_init(&copy, 1 << 20);
    if (!op->changed.max)
        buf_init(&op->changed, CHANGED_MAX);
    int err = STORE_OK;
    while (!err && r.n && !r.bad) {
        struct row key = {.type = ROW_RECIPIENT}, here, row;
        enum unmerged_class mark;
        key.recipient.id = wire_get_u64(&r);
        key.recipient.index = wire_get_u32(&r);
        err = s->store->ops->get(s->store, &key, &here, &mark);
        if (err == STORE_NOT_FOUND) {
            err = STORE_OK;
            continue;
        }
        if (err || !selector_fits(&op->selector, &here.recipient) ||
            !selector_apply(op->action, &op->selector, &here.recipient, s->own.wall_ms))
            continue;
        buf_clear(&copy); /* the store's answer ends with the next call */
        struct wire_reader w;
        if (!row_encode(&copy, &here) || (w = wire_read(buf_slice(&copy)), !row_decode(&w, &row))) {
            err = STORE_CORRUPT;
            continue;
        }
        if (op->reason.n) {
            row.recipient.code = 0;
            row.recipient.reply = op->reason;
            row.recipient.enhanced = SLICE_LIT(REASON_ENHANCED);
            row.recipient.remote = slice_of(NULL, 0);
        }
        err = own_put(&s->own, &row);
        op->n_changed++;
        if (!err && op->action == SELECT_CANCEL) {
            tell_changed(s, op, &row);
            err = own_finish(&s->own, row.recipient.id);
        }
    }
    buf_free(&copy);
    return err;
}

static int release_due(struct storage *s, struct storage_op *op)
{
    struct buf rows;
    buf_init(&rows, 8 << 20);
    int err = store_sqlite_due_quarantined(s->store, s->own.wall_ms, RELEASE_STEP, &rows);
    struct wire_reader r = wire_read(buf_slice(&rows));
    while (!err && r.n) {
        struct row row;
        if (!row_decode(&r, &row)) {
            err = STORE_CORRUPT;
            break;
        }
        row.recipient.state = RCPT_QUEUED;
        err = own_put(&s->own, &row);
        op->n_changed++;
    }
    buf_free(&rows);
    return err;
}

static int write_item(struct storage *s, struct item *i)
{
    int err = STORE_CORRUPT;
    switch (i->op->type) {
    case OP_ADD:
    case OP_OPSTATE:
        err = add_rows(s, i->op);
        break;
    case OP_OUTCOME:
        err = write_outcome(s, i->op);
        break;
    case OP_NOTE:
        err = write_notes(s, i->op);
        break;
    case OP_SELECT:
        err = write_selected(s, i);
        break;
    case OP_RELEASE_DUE:
        err = release_due(s, i->op);
        break;
    }
    i->op->pos = (struct pos){s->own.epoch, s->own.next - 1};
    return err;
}

static size_t op_bytes(const struct item *i)
{
    size_t n = i->keys.len / 12 * 1024;
    for (unsigned k = 0; k < i->op->n_rows; k++)
        n += 512;
    return n + i->op->memory.len;
}

static void answer(struct storage *s, struct item *i, enum op_result result)
{
    struct storage_op *op = i->op;
    if (result == OP_DURABLE && op->type == OP_SELECT && i->more) {
        i->n_durable = op->n_changed;
        buf_clear(&i->keys);
        storage_search(s, i); /* the next step */
        return;
    }
    /* Steps of it are done already: it is not simply refused. */
    if (result == OP_NOT_PRIMARY && op->type == OP_SELECT) {
        op->n_changed = i->n_durable;
        result = i->n_durable ? OP_FAILED : OP_NOT_PRIMARY;
    }
    i->op = NULL;
    item_free(i);
    storage_answer(s, op, result);
}

static void answer_all(struct storage *s, struct list *taken, enum op_result result)
{
    for (struct item *i; (i = list_pop(taken));)
        answer(s, i, result);
}

/* Hands the batch over and commits. While the writer is being closed no operations are handed over
 * any more: STORE_CONFLICT. They are refused, outcomes as well, like those that still wait. */
static int commit_operations(struct storage *s, struct group *g)
{
    struct own *o = &s->own;
    if (!own_count(o)) { /* nothing was left to write: what they saw is durable already */
        own_abort(o);
        g->nothing = true;
        return STORE_OK;
    }
    if (g->items.head && atomic_load(&s->closing)) {
        own_abort(o);
        return STORE_CONFLICT;
    }
    g->batch = own_batch(o, s->hooks.batch != NULL);
    g->n_rows = g->batch.n_rows;
    g->bytes = o->rows.len;
    if (s->hooks.batch)
        s->hooks.batch(s->hooks.ctx, &g->batch);
    int err = own_commit(o, s->committed);
    if (err) {
        storage_fail(s, err, store_sqlite_error(s->store));
        return err;
    }
    if (o->has_opstate) /* now: later there may be the next group's changes on top */
        writer_tell_opstate(s, buf_slice(&o->rows));
    s->purging = s->purging || o->purge;
    return STORE_OK;
}

static void operations_durable(struct storage *s, struct group *g)
{
    const struct own_batch *b = &g->batch;
    if (!g->nothing)
        s->hooks.durable(s->hooks.ctx, (struct pos){b->epoch, b->last});
    answer_all(s, &g->items, OP_DURABLE);
}

static void operations_ended(struct storage *s, struct group *g, int err)
{
    shared_unref(g->batch.rows);
    if (err)
        answer_all(s, &g->items, g->batch.last ? OP_FAILED : OP_NOT_PRIMARY);
}

/* Nothing was handed over: its numbers were not given out, and nobody has seen it. A merge answers
 * for itself. */
static void operations_given_up(struct storage *s, struct group *g, int err)
{
    bool failed = g->items.head != NULL;
    own_abort(&s->own);
    answer_all(s, &g->items, OP_NOT_PRIMARY);
    if (failed)
        storage_fail(s, err, g->why);
}

static const struct group_kind operations = {.commit = commit_operations,
                                             .durable = operations_durable,
                                             .ended = operations_ended,
                                             .given_up = operations_given_up};

static int begin_operations(struct storage *s)
{
    storage_begun(s);
    int err = own_begin(&s->own, s->store, s->epoch, clock_wall_ms());
    if (!err)
        group_open(s, &operations);
    else
        storage_ended(s);
    return err;
}

static bool has_room(const struct storage *s, const struct item *i)
{
    return !own_full(&s->own) && s->own.rows.len + op_bytes(i) <= OWN_BYTES_MAX &&
           own_count(&s->own) + i->op->n_rows <= OWN_ROWS_MAX;
}

void writer_operations(struct storage *s, struct list *line)
{
    while (line->head) {
        group_look(s);
        struct item *i = line->head;
        if (writer_committed(s, line))
            continue;
        if (!i->op)
            break;
        if (s->failed || !s->epoch || i->op->epoch != s->epoch || atomic_load(&s->closing)) {
            answer(s, list_pop(line), OP_NOT_PRIMARY);
            continue;
        }
        if (s->open && !has_room(s, i)) {
            group_close(s);
            continue;
        }
        list_pop(line);
        int err = s->open ? STORE_OK : begin_operations(s);
        if (err) {
            answer(s, i, OP_NOT_PRIMARY);
            storage_fail(s, err, store_sqlite_error(s->store));
            continue;
        }
        list_push(&s->open->items, i);
        err = write_item(s, i);
        if (err)
            group_spoilt(s, err);
    }
}

int writer_merge(struct storage *s, const struct store_request *r)
{
    struct store_meta meta;
    s->store->ops->get_meta(s->store, &meta);
    if (s->failed || !s->epoch || r->epoch != s->epoch || !r->bytes || meta.purged > r->first)
        return STORE_CONFLICT;
    s->merged_ns = clock_boot_ns();
    struct wire_reader w = wire_read(slice_of(r->bytes->data, r->bytes->n));
    int err = STORE_OK;
    while (!err && w.n) {
        err = begin_operations(s);
        while (!err && w.n && !own_full(&s->own)) {
            struct row row;
            uint8_t as = wire_get_u8(&w);
            if (!row_decode(&w, &row) || as > UNMERGED_QUARANTINE)
                err = STORE_CORRUPT;
            else
                err = own_merge(&s->own, &row, (enum unmerged_class)as, (int64_t)s->quarantine_ms);
        }
        if (err)
            group_spoilt(s, err);
        else
            group_close(s);
        if (s->failed)
            err = STORE_IO;
    }
    group_settle(s);
    if (s->failed)
        err = STORE_IO;
    s->twins_stale = true;
    if (!err) {
        s->store->ops->get_meta(s->store, &meta);
        s->hooks.merged(s->hooks.ctx, meta.end);
    }
    return err;
}
