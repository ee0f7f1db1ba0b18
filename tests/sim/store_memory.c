/* See store_memory.h. A slot is the place of one key; it lives as long as the store, its row comes
 * and goes. Slots of one message hang together in a group. */
#include "sim/store_memory.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct cell { /* one version of one row; immutable but for the mark */
    struct row row;
    uint8_t *bytes; /* what row borrows from */
    size_t n;
    uint8_t unmerged;
};

struct slot {
    struct cell *cell; /* NULL: no such row */
    bool told;         /* the watcher has heard of it in this round */
};

struct slots {
    struct slot **at; /* by index; entries may be NULL */
    unsigned n;
};

struct group { /* one message */
    uint64_t id;
    struct slot message;
    struct slots rcpts, chunks;
};

struct named { /* one opstate row */
    char *key;
    size_t n;
    struct slot slot;
};

struct undo {
    struct slot *slot;
    struct cell *was; /* owned */
};

struct txn {
    struct store_meta meta; /* before it */
    struct undo *undo;
    unsigned n, cap;
};

struct memory {
    struct store store; /* first */
    struct store_meta meta;
    struct group **table; /* hash by id */
    unsigned n_table, n_groups;
    struct group **order; /* by id, when sorted */
    bool sorted;
    struct named **named; /* sorted by key */
    unsigned n_named;
    struct txn *tail; /* unsynced, oldest first */
    unsigned n_tail, cap_tail;
    struct txn open;
    bool in_txn, suspended, defer;
    store_memory_watch_fn watch;
    void *watch_ctx;
};

static struct memory *memory_of(const struct store *s)
{
    return (struct memory *)(uintptr_t)s;
}

static void cell_free(struct cell *c)
{
    if (c)
        free(c->bytes);
    free(c);
}

static struct cell *cell_new(const struct row *r, uint8_t unmerged)
{
    struct buf b;
    buf_init(&b, 1 << 20); /* a row is at most one inline body and its envelope */
    bool ok = row_encode(&b, r);
    struct cell *c = xcalloc(1, sizeof *c);
    c->bytes = b.data;
    c->n = b.len;
    c->unmerged = unmerged;
    struct wire_reader w = wire_read(slice_of(c->bytes, c->n));
    ok = ok && row_decode(&w, &c->row) && wire_done(&w);
    assert(ok && "a row that can be put can be encoded");
    (void)ok;
    return c;
}

static unsigned hash(uint64_t id)
{
    return (unsigned)((id * 0x9e3779b97f4a7c15u) >> 40);
}

static struct group *group_find(const struct memory *m, uint64_t id)
{
    for (unsigned i = hash(id); m->n_table; i++) {
        struct group *g = m->table[i & (m->n_table - 1)];
        if (!g || g->id == id)
            return g;
    }
    return NULL;
}

static void table_insert(struct memory *m, struct group *g)
{
    unsigned i = hash(g->id);
    while (m->table[i & (m->n_table - 1)])
        i++;
    m->table[i & (m->n_table - 1)] = g;
}

static struct group *group_make(struct memory *m, uint64_t id)
{
    struct group *g = group_find(m, id);
    if (g)
        return g;
    if (2 * (m->n_groups + 1) > m->n_table) {
        free(m->table);
        m->n_table = m->n_table ? 2 * m->n_table : 64;
        m->table = xcalloc(m->n_table, sizeof *m->table);
        for (unsigned i = 0; i < m->n_groups; i++)
            table_insert(m, m->order[i]);
        m->order = xrealloc(m->order, m->n_table * sizeof *m->order);
    }
    g = xcalloc(1, sizeof *g);
    g->id = id;
    table_insert(m, g);
    if (m->n_groups && m->order[m->n_groups - 1]->id > id)
        m->sorted = false;
    m->order[m->n_groups++] = g;
    return g;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = (*(struct group *const *)a)->id, y = (*(struct group *const *)b)->id;
    return (x > y) - (x < y);
}

static void sort_groups(struct memory *m)
{
    if (!m->sorted)
        qsort(m->order, m->n_groups, sizeof *m->order, by_id);
    m->sorted = true;
}

static struct slot *slots_at(struct slots *s, uint32_t index, bool make)
{
    if (index >= s->n) {
        if (!make)
            return NULL;
        assert(index < 1u << 20 && "recipients and chunks of one message are capped far below");
        s->at = xrealloc(s->at, (index + 1) * sizeof *s->at);
        while (s->n <= index)
            s->at[s->n++] = NULL;
    }
    if (!s->at[index] && make)
        s->at[index] = xcalloc(1, sizeof(struct slot));
    return s->at[index];
}

static struct slot *named_slot(struct memory *m, struct slice key, bool make)
{
    unsigned i = 0;
    for (; i < m->n_named; i++) {
        struct slice k = slice_of(m->named[i]->key, m->named[i]->n);
        size_t n = k.n < key.n ? k.n : key.n;
        int c = n ? memcmp(k.p, key.p, n) : 0;
        if (!c)
            c = (k.n > key.n) - (k.n < key.n);
        if (!c)
            return &m->named[i]->slot;
        if (c > 0)
            break;
    }
    if (!make)
        return NULL;
    struct named *x = xcalloc(1, sizeof *x);
    x->key = slice_dup(key);
    x->n = key.n;
    m->named = xrealloc(m->named, (m->n_named + 1) * sizeof *m->named);
    memmove(m->named + i + 1, m->named + i, (m->n_named - i) * sizeof *m->named);
    m->named[i] = x;
    m->n_named++;
    return &x->slot;
}

static struct slot *slot_of(struct memory *m, const struct row *key, bool make)
{
    struct group *g;
    switch (key->type) {
    case ROW_MESSAGE:
        g = make ? group_make(m, key->message.id) : group_find(m, key->message.id);
        return g ? &g->message : NULL;
    case ROW_RECIPIENT:
        g = make ? group_make(m, key->recipient.id) : group_find(m, key->recipient.id);
        return g ? slots_at(&g->rcpts, key->recipient.index, make) : NULL;
    case ROW_CHUNK:
        g = make ? group_make(m, key->chunk.id) : group_find(m, key->chunk.id);
        return g ? slots_at(&g->chunks, key->chunk.index, make) : NULL;
    case ROW_OPSTATE:
        return named_slot(m, key->opstate.key, make);
    }
    return NULL;
}

/* --- transactions --- */

static void replace(struct memory *m, struct slot *slot, struct cell *now)
{
    assert(m->in_txn && !m->suspended);
    if (!slot->cell && !now)
        return;
    struct txn *t = &m->open;
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 8;
        t->undo = xrealloc(t->undo, t->cap * sizeof *t->undo);
    }
    t->undo[t->n++] = (struct undo){.slot = slot, .was = slot->cell};
    slot->cell = now;
}

static void txn_undo(struct memory *m, struct txn *t)
{
    for (unsigned i = t->n; i-- > 0;) {
        cell_free(t->undo[i].slot->cell);
        t->undo[i].slot->cell = t->undo[i].was;
    }
    m->meta = t->meta;
    free(t->undo);
    *t = (struct txn){.n = 0};
}

static void tell_change(struct memory *m, const struct undo *u)
{
    if (!u->slot->told)
        m->watch(m->watch_ctx, u->was ? &u->was->row : NULL,
                 u->slot->cell ? &u->slot->cell->row : NULL);
    u->slot->told = true;
}

/* What is there now, beside what was there before all of it. */
static void txn_tell(struct memory *m, const struct txn *t)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->undo[i].slot->cell)
            tell_change(m, &t->undo[i]);
}

/* What went, as it was at last. */
static void txn_tell_gone(struct memory *m, const struct txn *t)
{
    for (unsigned i = t->n; i-- > 0;)
        if (!t->undo[i].slot->cell)
            tell_change(m, &t->undo[i]);
}

static void txn_keep(struct txn *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        t->undo[i].slot->told = false;
        cell_free(t->undo[i].was);
    }
    free(t->undo);
    *t = (struct txn){.n = 0};
}

/* Before and after change places, so that the rest of the world sees what is committed. */
static void txn_swap(struct txn *t, unsigned i)
{
    struct cell *c = t->undo[i].slot->cell;
    t->undo[i].slot->cell = t->undo[i].was;
    t->undo[i].was = c;
}

void store_memory_suspend(struct store *s)
{
    struct memory *m = memory_of(s);
    assert(m->in_txn && !m->suspended);
    for (unsigned i = m->open.n; i-- > 0;)
        txn_swap(&m->open, i);
    struct store_meta meta = m->meta;
    m->meta = m->open.meta;
    m->open.meta = meta;
    m->suspended = true;
}

void store_memory_resume(struct store *s)
{
    struct memory *m = memory_of(s);
    assert(m->suspended);
    for (unsigned i = 0; i < m->open.n; i++)
        txn_swap(&m->open, i);
    struct store_meta meta = m->meta;
    m->meta = m->open.meta;
    m->open.meta = meta;
    m->suspended = false;
}

static int op_begin(struct store *s)
{
    struct memory *m = memory_of(s);
    assert(!m->in_txn);
    m->in_txn = true;
    m->open = (struct txn){.meta = m->meta};
    return STORE_OK;
}

static int op_commit(struct store *s)
{
    struct memory *m = memory_of(s);
    assert(m->in_txn);
    m->in_txn = false;
    if (m->n_tail == m->cap_tail) {
        m->cap_tail = m->cap_tail ? 2 * m->cap_tail : 4;
        m->tail = xrealloc(m->tail, m->cap_tail * sizeof *m->tail);
    }
    m->tail[m->n_tail++] = m->open;
    m->open = (struct txn){.n = 0};
    if (!m->defer)
        store_memory_sync(s);
    return STORE_OK;
}

static void op_rollback(struct store *s)
{
    struct memory *m = memory_of(s);
    assert(m->in_txn);
    m->in_txn = false;
    txn_undo(m, &m->open);
}

void store_memory_sync(struct store *s)
{
    struct memory *m = memory_of(s);
    for (unsigned i = 0; m->watch && i < m->n_tail; i++)
        txn_tell(m, &m->tail[i]);
    for (unsigned i = m->n_tail; m->watch && i-- > 0;)
        txn_tell_gone(m, &m->tail[i]);
    for (unsigned i = 0; i < m->n_tail; i++)
        txn_keep(&m->tail[i]);
    m->n_tail = 0;
}

void store_memory_lose(struct store *s, unsigned n)
{
    struct memory *m = memory_of(s);
    if (m->suspended)
        store_memory_resume(s);
    if (m->in_txn)
        op_rollback(s);
    for (; n && m->n_tail; n--)
        txn_undo(m, &m->tail[--m->n_tail]);
    store_memory_sync(s);
}

void store_memory_defer(struct store *s, bool defer)
{
    memory_of(s)->defer = defer;
}

unsigned store_memory_unsynced(const struct store *s)
{
    return memory_of(s)->n_tail;
}

void store_memory_watch(struct store *s, store_memory_watch_fn fn, void *ctx)
{
    memory_of(s)->watch = fn;
    memory_of(s)->watch_ctx = ctx;
}

/* --- rows --- */

static void op_get_meta(struct store *s, struct store_meta *out)
{
    *out = memory_of(s)->meta;
}

static int op_set_meta(struct store *s, const struct store_meta *meta)
{
    assert(memory_of(s)->in_txn);
    uint64_t purged = memory_of(s)->meta.purged;
    memory_of(s)->meta = *meta;
    if (meta->purged < purged)
        memory_of(s)->meta.purged = purged;
    return STORE_OK;
}

static bool message_done(const struct group *g)
{
    return g && g->message.cell && g->message.cell->row.message.state == MESSAGE_DONE;
}

static void drop_chunks(struct memory *m, struct group *g)
{
    for (unsigned i = 0; i < g->chunks.n; i++)
        if (g->chunks.at[i])
            replace(m, g->chunks.at[i], NULL);
}

static int op_put(struct store *s, const struct row *r, enum unmerged_class unmerged)
{
    struct memory *m = memory_of(s);
    if (r->type == ROW_CHUNK && message_done(group_find(m, r->chunk.id)))
        return STORE_OK;
    struct row copy = *r;
    if (r->type == ROW_MESSAGE && r->message.state == MESSAGE_DONE) {
        copy.message.body = (struct slice){NULL, 0};
        drop_chunks(m, group_make(m, r->message.id));
    }
    replace(m, slot_of(m, r, true), cell_new(&copy, (uint8_t)unmerged));
    return STORE_OK;
}

static int op_get(struct store *s, const struct row *key, struct row *out,
                  enum unmerged_class *unmerged)
{
    struct slot *slot = slot_of(memory_of(s), key, false);
    if (!slot || !slot->cell)
        return STORE_NOT_FOUND;
    *out = slot->cell->row;
    if (unmerged)
        *unmerged = (enum unmerged_class)slot->cell->unmerged;
    return STORE_OK;
}

static int op_get_head(struct store *s, uint64_t id, struct row *out)
{
    struct row key = {.type = ROW_MESSAGE, .message.id = id};
    int err = op_get(s, &key, out, NULL);
    out->message.body = (struct slice){NULL, 0};
    return err;
}

static bool tell(const struct slot *slot, store_row_fn fn, void *ctx)
{
    if (!slot || !slot->cell)
        return true;
    return fn(ctx, &slot->cell->row, (enum unmerged_class)slot->cell->unmerged);
}

static bool tell_all(const struct slots *s, store_row_fn fn, void *ctx)
{
    for (unsigned i = 0; i < s->n; i++)
        if (!tell(s->at[i], fn, ctx))
            return false;
    return true;
}

static int op_each_recipient(struct store *s, uint64_t id, store_row_fn fn, void *ctx)
{
    struct group *g = group_find(memory_of(s), id);
    if (g)
        tell_all(&g->rcpts, fn, ctx);
    return STORE_OK;
}

struct list {
    const struct cell **at;
    size_t n, cap;
    uint64_t after;
};

static void list_add(struct list *l, const struct slot *slot)
{
    if (!slot || !slot->cell || row_pos(&slot->cell->row).lsn <= l->after)
        return;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 64;
        l->at = xrealloc(l->at, l->cap * sizeof *l->at);
    }
    l->at[l->n++] = slot->cell;
}

static int by_lsn(const void *a, const void *b)
{
    const struct cell *x = *(const struct cell *const *)a, *y = *(const struct cell *const *)b;
    uint64_t p = row_pos(&x->row).lsn, q = row_pos(&y->row).lsn;
    return (p > q) - (p < q);
}

static int op_changes_after(struct store *s, uint64_t after, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    struct list l = {.after = after};
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        list_add(&l, &g->message);
        for (unsigned j = 0; j < g->rcpts.n; j++)
            list_add(&l, g->rcpts.at[j]);
        for (unsigned j = 0; j < g->chunks.n; j++)
            list_add(&l, g->chunks.at[j]);
    }
    for (unsigned i = 0; i < m->n_named; i++)
        list_add(&l, &m->named[i]->slot);
    if (l.n)
        qsort(l.at, l.n, sizeof *l.at, by_lsn);
    for (size_t i = 0; i < l.n; i++)
        if (!fn(ctx, &l.at[i]->row, (enum unmerged_class)l.at[i]->unmerged))
            break;
    free(l.at);
    return STORE_OK;
}

static void mark(struct memory *m, struct slot *slot, enum unmerged_class c)
{
    if (slot && slot->cell && slot->cell->unmerged != (uint8_t)c)
        replace(m, slot, cell_new(&slot->cell->row, (uint8_t)c));
}

typedef enum unmerged_class (*classify_fn)(void *ctx, struct pos pos, struct pos born);

static void judge(struct memory *m, struct slot *slot, uint64_t shared, struct pos born,
                  classify_fn classify, void *ctx)
{
    if (slot && slot->cell && slot->cell->unmerged == UNMERGED_TAKEN)
        mark(m, slot, UNMERGED_QUEUED);
    if (!slot || !slot->cell || slot->cell->unmerged)
        return;
    struct pos p = row_pos(&slot->cell->row);
    /* A body shipped ahead of a message that is divergent is wanted as a whole. */
    bool ahead = slot->cell->row.type == ROW_CHUNK && born.lsn > shared;
    if (p.lsn > shared || ahead)
        mark(m, slot, classify(ctx, p, born));
}

static int op_mark_unmerged(struct store *s, struct pos shared, classify_fn classify, void *ctx)
{
    struct memory *m = memory_of(s);
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        struct pos born = {0, 0};
        if (g->message.cell)
            born = g->message.cell->row.message.born;
        judge(m, &g->message, shared.lsn, born, classify, ctx);
        for (unsigned k = 0; k < g->rcpts.n; k++)
            judge(m, g->rcpts.at[k], shared.lsn, born, classify, ctx);
        for (unsigned k = 0; k < g->chunks.n; k++)
            judge(m, g->chunks.at[k], shared.lsn, born, classify, ctx);
    }
    for (unsigned i = 0; i < m->n_named; i++)
        judge(m, &m->named[i]->slot, shared.lsn, (struct pos){0, 0}, classify, ctx);
    return STORE_OK;
}

struct only_unmerged {
    store_row_fn fn;
    void *ctx;
};

static bool filter(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct only_unmerged *o = ctx;
    if (unmerged == UNMERGED_TAKEN)
        unmerged = UNMERGED_QUEUED;
    return unmerged == UNMERGED_NONE || o->fn(o->ctx, r, unmerged);
}

static int op_each_unmerged(struct store *s, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    struct only_unmerged o = {fn, ctx};
    sort_groups(m);
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        if (!tell_all(&g->chunks, filter, &o) || !tell(&g->message, filter, &o) ||
            !tell_all(&g->rcpts, filter, &o))
            return STORE_OK;
    }
    for (unsigned i = 0; i < m->n_named; i++)
        if (!tell(&m->named[i]->slot, filter, &o))
            break;
    return STORE_OK;
}

static int op_unmark(struct store *s, const struct row *key)
{
    struct memory *m = memory_of(s);
    mark(m, slot_of(m, key, false), UNMERGED_NONE);
    return STORE_OK;
}

struct count {
    uint32_t total, open;
};

static bool count_one(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    (void)unmerged;
    struct count *c = ctx;
    c->total++;
    c->open += !rcpt_terminal(r->recipient.state);
    return true;
}

static int op_count_recipients(struct store *s, uint64_t id, uint32_t *total, uint32_t *open)
{
    struct count c = {0, 0};
    int err = op_each_recipient(s, id, count_one, &c);
    *total = c.total;
    *open = c.open;
    return err;
}

static int op_find_twin(struct store *s, const struct row_message *x, uint64_t above, uint64_t *id)
{
    struct memory *m = memory_of(s);
    sort_groups(m);
    *id = 0;
    for (unsigned i = 0; i < m->n_groups; i++) {
        const struct cell *c = m->order[i]->message.cell;
        if (!c || m->order[i]->id <= above)
            continue;
        const struct row_message *y = &c->row.message;
        if (y->size == x->size && y->recipients == x->recipients &&
            memcmp(y->sha256, x->sha256, 32) == 0 && slice_eq(y->sender, x->sender)) {
            *id = y->id;
            break;
        }
    }
    return STORE_OK;
}

static int op_each_bounce(struct store *s, uint64_t parent, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    sort_groups(m);
    for (unsigned i = 0; i < m->n_groups; i++) {
        const struct cell *c = m->order[i]->message.cell;
        if (c && c->row.message.parent == parent &&
            !fn(ctx, &c->row, (enum unmerged_class)c->unmerged))
            break;
    }
    return STORE_OK;
}

static int op_each_noted(struct store *s, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    sort_groups(m);
    for (unsigned i = 0; i < m->n_groups; i++)
        for (unsigned k = 0; k < m->order[i]->rcpts.n; k++) {
            const struct slot *slot = m->order[i]->rcpts.at[k];
            const struct cell *c = slot ? slot->cell : NULL;
            if (c && c->row.recipient.state == RCPT_QUEUED &&
                c->row.recipient.in_doubt == DOUBT_NOTED &&
                !fn(ctx, &c->row, (enum unmerged_class)c->unmerged))
                return STORE_OK;
        }
    return STORE_OK;
}

static void drop_group(struct memory *m, struct group *g)
{
    replace(m, &g->message, NULL);
    for (unsigned i = 0; i < g->rcpts.n; i++)
        if (g->rcpts.at[i])
            replace(m, g->rcpts.at[i], NULL);
    drop_chunks(m, g);
}

static bool marked(const struct group *g)
{
    bool any = g->message.cell && g->message.cell->unmerged;
    for (unsigned i = 0; i < g->rcpts.n; i++)
        any |= g->rcpts.at[i] && g->rcpts.at[i]->cell && g->rcpts.at[i]->cell->unmerged;
    return any;
}

static void drop_orphans(struct memory *m, struct group *g)
{
    for (unsigned i = 0; !g->message.cell && i < g->chunks.n; i++) {
        const struct cell *c = g->chunks.at[i] ? g->chunks.at[i]->cell : NULL;
        if (c && !c->unmerged && c->row.chunk.pos.epoch < m->meta.end.epoch)
            replace(m, g->chunks.at[i], NULL);
    }
}

static int op_purge(struct store *s, int64_t before_ms, uint64_t below, unsigned limit, bool *more)
{
    struct memory *m = memory_of(s);
    *more = false;
    unsigned n = 0;
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        drop_orphans(m, g);
        if (!message_done(g) || g->message.cell->row.message.done_ms >= before_ms || marked(g) ||
            g->message.cell->row.message.pos.lsn >= below)
            continue;
        if (n++ == limit) {
            *more = true;
            break;
        }
        if (g->message.cell->row.message.pos.lsn > m->meta.purged)
            m->meta.purged = g->message.cell->row.message.pos.lsn;
        drop_group(m, g);
    }
    return STORE_OK;
}

static int op_wipe(struct store *s, const struct store_id *fresh)
{
    struct memory *m = memory_of(s);
    for (unsigned i = 0; i < m->n_groups; i++)
        drop_group(m, m->order[i]);
    for (unsigned i = 0; i < m->n_named; i++)
        replace(m, &m->named[i]->slot, NULL);
    uint32_t seen = m->meta.epoch_seen;
    m->meta = (struct store_meta){.id = *fresh, .copying = true, .epoch_seen = seen};
    return STORE_OK;
}

static const struct store_ops ops = {
    .get_meta = op_get_meta,
    .begin = op_begin,
    .commit = op_commit,
    .rollback = op_rollback,
    .set_meta = op_set_meta,
    .put = op_put,
    .get = op_get,
    .get_head = op_get_head,
    .each_recipient = op_each_recipient,
    .changes_after = op_changes_after,
    .mark_unmerged = op_mark_unmerged,
    .each_unmerged = op_each_unmerged,
    .unmark = op_unmark,
    .count_recipients = op_count_recipients,
    .find_twin = op_find_twin,
    .each_bounce = op_each_bounce,
    .each_noted = op_each_noted,
    .purge = op_purge,
    .wipe = op_wipe,
};

struct store *store_memory_new(const struct store_id *id)
{
    struct memory *m = xcalloc(1, sizeof *m);
    m->store.ops = &ops;
    m->meta.id = *id;
    m->sorted = true;
    return &m->store;
}

static void copy_slot(struct memory *to, const struct slot *slot)
{
    if (slot && slot->cell)
        replace(to, slot_of(to, &slot->cell->row, true),
                cell_new(&slot->cell->row, slot->cell->unmerged));
}

struct store *store_memory_copy(const struct store *s)
{
    struct memory *m = memory_of(s);
    assert(!m->in_txn || m->suspended);
    struct store *copy = store_memory_new(&m->meta.id);
    struct memory *to = memory_of(copy);
    op_begin(copy);
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        copy_slot(to, &g->message);
        for (unsigned k = 0; k < g->rcpts.n; k++)
            copy_slot(to, g->rcpts.at[k]);
        for (unsigned k = 0; k < g->chunks.n; k++)
            copy_slot(to, g->chunks.at[k]);
    }
    for (unsigned i = 0; i < m->n_named; i++)
        copy_slot(to, &m->named[i]->slot);
    to->meta = m->meta;
    op_commit(copy);
    return copy;
}

static void slots_free(struct slots *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->at[i])
            cell_free(s->at[i]->cell);
        free(s->at[i]);
    }
    free(s->at);
}

void store_memory_free(struct store *s)
{
    if (!s)
        return;
    struct memory *m = memory_of(s);
    m->watch = NULL;
    store_memory_lose(s, 0);
    for (unsigned i = 0; i < m->n_groups; i++) {
        cell_free(m->order[i]->message.cell);
        slots_free(&m->order[i]->rcpts);
        slots_free(&m->order[i]->chunks);
        free(m->order[i]);
    }
    for (unsigned i = 0; i < m->n_named; i++) {
        cell_free(m->named[i]->slot.cell);
        free(m->named[i]->key);
        free(m->named[i]);
    }
    free(m->named);
    free(m->order);
    free(m->table);
    free(m->tail);
    free(m);
}

/* --- what only the simulator and tests ask --- */

const struct row_message *store_memory_message(const struct store *s, uint64_t id)
{
    struct group *g = group_find(memory_of(s), id);
    return g && g->message.cell ? &g->message.cell->row.message : NULL;
}

const struct row_recipient *store_memory_recipient(const struct store *s, uint64_t id,
                                                   uint32_t index)
{
    struct group *g = group_find(memory_of(s), id);
    struct slot *x = g ? slots_at(&g->rcpts, index, false) : NULL;
    return x && x->cell ? &x->cell->row.recipient : NULL;
}

const struct row_opstate *store_memory_opstate(const struct store *s, struct slice key)
{
    struct slot *x = named_slot(memory_of(s), key, false);
    return x && x->cell ? &x->cell->row.opstate : NULL;
}

bool store_memory_has_chunk(const struct store *s, uint64_t id, uint32_t index)
{
    struct group *g = group_find(memory_of(s), id);
    struct slot *x = g ? slots_at(&g->chunks, index, false) : NULL;
    return x && x->cell;
}

static struct slice first_body(const struct group *g)
{
    if (!g || !g->message.cell || message_done(g))
        return (struct slice){NULL, 0};
    if (g->message.cell->row.message.body.n)
        return g->message.cell->row.message.body;
    for (unsigned i = 0; i < g->chunks.n; i++)
        if (g->chunks.at[i] && g->chunks.at[i]->cell)
            return g->chunks.at[i]->cell->row.chunk.data;
    return (struct slice){NULL, 0};
}

bool store_memory_rot(struct store *s, uint64_t id)
{
    struct slice b = first_body(group_find(memory_of(s), id));
    if (!b.n)
        return false;
    *(uint8_t *)(uintptr_t)b.p |= 0x80;
    return true;
}

static bool ascii(struct slice b)
{
    for (size_t i = 0; i < b.n; i++)
        if (b.p[i] & 0x80)
            return false;
    return true;
}

bool store_memory_body_good(const struct store *s, uint64_t id)
{
    const struct group *g = group_find(memory_of(s), id);
    if (!g || !g->message.cell)
        return false;
    const struct row_message *m = &g->message.cell->row.message;
    if (m->state == MESSAGE_DONE)
        return true;
    for (uint32_t i = 0; i < m->chunks; i++) {
        const struct slot *x = i < g->chunks.n ? g->chunks.at[i] : NULL;
        if (!x || !x->cell || !ascii(x->cell->row.chunk.data))
            return false;
    }
    return ascii(m->body) && (m->chunks || m->body.n);
}

const struct store_meta *store_memory_meta(const struct store *s)
{
    return &memory_of(s)->meta;
}

void store_memory_each(const struct store *s, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    sort_groups(m);
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        if (!tell(&g->message, fn, ctx) || !tell_all(&g->rcpts, fn, ctx) ||
            !tell_all(&g->chunks, fn, ctx))
            return;
    }
    for (unsigned i = 0; i < m->n_named; i++)
        if (!tell(&m->named[i]->slot, fn, ctx))
            return;
}

void store_memory_each_live(const struct store *s, store_row_fn fn, void *ctx)
{
    struct memory *m = memory_of(s);
    sort_groups(m);
    for (unsigned i = 0; i < m->n_groups; i++) {
        struct group *g = m->order[i];
        if (g->message.cell && !message_done(g) && !tell_all(&g->rcpts, fn, ctx))
            return;
    }
}

struct rows {
    const struct row **at;
    size_t n, cap;
    bool unmerged;
};

static bool collect(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct rows *l = ctx;
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->at = xrealloc(l->at, l->cap * sizeof *l->at);
    }
    l->at[l->n++] = r;
    l->unmerged |= unmerged != UNMERGED_NONE;
    return true;
}

static void row_text(char *out, size_t n, const struct row *r)
{
    struct pos p = row_pos(r);
    if (r->type == ROW_OPSTATE)
        snprintf(out, n, "opstate %.*s at %" PRIu32 ":%" PRIu64, (int)r->opstate.key.n,
                 (const char *)r->opstate.key.p, p.epoch, p.lsn);
    else if (r->type == ROW_RECIPIENT)
        snprintf(out, n,
                 "recipient %" PRIx64 "/%u %s, held %u, in doubt %u, %u attempts, at %" PRIu32
                 ":%" PRIu64,
                 r->recipient.id, r->recipient.index, rcpt_state_name(r->recipient.state),
                 r->recipient.held, r->recipient.in_doubt, r->recipient.attempts, p.epoch, p.lsn);
    else
        snprintf(out, n, "%s %" PRIx64 " at %" PRIu32 ":%" PRIu64,
                 r->type == ROW_CHUNK ? "chunk" : "message",
                 r->type == ROW_CHUNK ? r->chunk.id : r->message.id, p.epoch, p.lsn);
}

static bool same_row(const struct row *a, const struct row *b)
{
    struct buf x, y;
    buf_init(&x, 1 << 20);
    buf_init(&y, 1 << 20);
    bool same = row_encode(&x, a) && row_encode(&y, b) && slice_eq(buf_slice(&x), buf_slice(&y));
    buf_free(&x);
    buf_free(&y);
    return same;
}

/* A chunk that was damaged on one store, and came up for a message that is done: no message names
 * it (rejoin.c, merge_one_chunk()), and the next purge takes it. */
static bool same_orphan(const struct store *a, const struct store *b, const struct row *x,
                        const struct row *y)
{
    return x->type == ROW_CHUNK && y->type == ROW_CHUNK && x->chunk.id == y->chunk.id &&
           x->chunk.index == y->chunk.index && pos_cmp(row_pos(x), row_pos(y)) == 0 &&
           !store_memory_message(a, x->chunk.id) && !store_memory_message(b, x->chunk.id);
}

bool store_memory_equal(const struct store *a, const struct store *b, char *why, size_t n)
{
    struct rows x = {0}, y = {0};
    store_memory_each(a, collect, &x);
    store_memory_each(b, collect, &y);
    char left[160] = "nothing", right[160] = "nothing";
    size_t i = 0;
    while (i < x.n && i < y.n &&
           (same_row(x.at[i], y.at[i]) || same_orphan(a, b, x.at[i], y.at[i])))
        i++;
    bool same = i == x.n && i == y.n;
    if (!same) {
        if (i < x.n)
            row_text(left, sizeof left, x.at[i]);
        if (i < y.n)
            row_text(right, sizeof right, y.at[i]);
        snprintf(why, n, "%s against %s", left, right);
    } else if (x.unmerged || y.unmerged) {
        same = false;
        snprintf(why, n, "rows still marked unmerged");
    } else if (pos_cmp(memory_of(a)->meta.end, memory_of(b)->meta.end) != 0) {
        same = false;
        snprintf(why, n, "ends %" PRIu32 ":%" PRIu64 " against %" PRIu32 ":%" PRIu64,
                 memory_of(a)->meta.end.epoch, memory_of(a)->meta.end.lsn,
                 memory_of(b)->meta.end.epoch, memory_of(b)->meta.end.lsn);
    }
    free(x.at);
    free(y.at);
    return same;
}
