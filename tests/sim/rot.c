/* Bit rot (protocol 3: "every body is checked before it goes anywhere; a copy that fails is fetched
 * again from the peer"): a byte of a stored body is another one. The core that compares and mends
 * is the real one (replication/verify.c); what it asks of the stores is here, as
 * node/queue/verify_sqlite.c and mend_uv.c do it. Part of invariant 1: of what was acknowledged a
 * good copy is left, and no damaged one is delivered. */
#include <assert.h>
#include <stdlib.h>

#include "replication/digest.h"
#include "sim/sim.h"

enum { ANSWER_MAX = 1 << 20 };

#define ID(x) ((unsigned long long)(x))

/* --- the fault, and the books --- */

/* Where the other store has its body, and right. */
static void rot_body(struct sim *s, struct node *n)
{
    struct books *b = &s->books;
    if (!b->n_copies)
        return;
    struct copy *c = &b->copy[b->n_copies - 1 - rng_skewed(&s->rng, 0, b->n_copies - 1)];
    const struct store *other = s->node[1 - n->self].disk.store;
    const struct row_message *there = store_memory_message(other, c->id);
    if (!there || there->state != MESSAGE_LIVE || !store_memory_body_good(other, c->id) ||
        !store_memory_rot(n->disk.store, c->id))
        return;
    c->rotten = true;
    c->rotten_at = s->now;
    s->count.effect[F_ROT]++;
    TRACE(s, process_name(n->self), "a byte of the body of %llx rots on its disk", ID(c->id));
}

/* And nothing else may be needed from this one: one failure at a time. */
void rot_one(struct sim *s, struct node *n)
{
    if (books_spare(s, n->self))
        rot_body(s, n);
}

/* That node's store will be emptied for a full copy: what rots on the other by then has to be taken
 * from it. */
void rot_apart(struct sim *s, const struct node *n)
{
    if (rng_chance(&s->rng, 0.5))
        rot_body(s, &s->node[1 - n->self]);
}

bool rot_was_done(struct sim *s, uint64_t id)
{
    const struct copy *c = books_find(s, id);
    return c && c->rotten && c->purged && !store_memory_body_good(s->node[0].disk.store, id) &&
           !store_memory_body_good(s->node[1].disk.store, id);
}

void rot_check(struct sim *s)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        const struct copy *c = &s->books.copy[i];
        if (c->rotten && c->acked && !c->purged && !c->rot_excused &&
            !store_memory_body_good(s->node[0].disk.store, c->id) &&
            !store_memory_body_good(s->node[1].disk.store, c->id))
            sim_fail(s, "1 (bit rot)", "no good copy of acknowledged %llx is left", ID(c->id));
    }
}

/* For a full copy, of which the other store is the only one until it has ended: no copy survives
 * what rots there after it was looked at for this one. */
void rot_wiped(struct sim *s, const struct node *n)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        struct copy *c = &s->books.copy[i];
        if (!c->rotten || !store_memory_body_good(n->disk.store, c->id) ||
            store_memory_body_good(s->node[1 - n->self].disk.store, c->id) ||
            c->looked_at[1 - n->self] < n->linked_at || c->rotten_at < c->looked_at[1 - n->self])
            continue;
        c->rot_excused = true;
        s->count.damaged_gone++;
    }
}

bool rot_spare(const struct sim *s, unsigned node)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        const struct copy *c = &s->books.copy[i];
        if (c->rotten && store_memory_body_good(s->node[node].disk.store, c->id) &&
            !store_memory_body_good(s->node[1 - node].disk.store, c->id))
            return false;
    }
    return true;
}

/* --- between the relay and replication --- */

static void mend_arrives(struct sim *s, struct task *t)
{
    replication_step(s, &s->node[t->process], &(struct replica_event){.type = RE_MEND, .id = t->a});
}

void rot_mend(struct sim *s, struct node *n, uint64_t id)
{
    TRACE(s, process_name(n->self), "the body of %llx fails its checksum", ID(id));
    node_mail(s, n, RELAY_TO_REPLICATION, mend_arrives)->a = id;
}

static void mended_arrives(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->process];
    deliver_mended(s, n, t->a, (uint8_t)t->b);
    if (t->b != VERIFY_NO_COPY || !n->relay.epoch)
        return;
    struct op *op = xcalloc(1, sizeof *op);
    op->kind = OP_SELECT;
    op->epoch = n->relay.epoch;
    op->copy_id = t->a;
    op->action = SELECT_HOLD;
    s->count.damaged_held++;
    storage_submit(s, n, op);
}

void rot_mended(struct sim *s, struct node *n, uint64_t id, uint8_t how)
{
    s->count.mended += how == VERIFY_MENDED;
    struct task *t = node_mail(s, n, TO_RELAY, mended_arrives);
    t->a = id;
    t->b = how;
}

void rot_verify(struct sim *s, struct node *n)
{
    TRACE(s, process_name(n->self), "operator: verify");
    s->count.compared++;
    replication_step(s, n, &(struct replica_event){.type = RE_VERIFY, .op = ++s->serial});
}

void rot_end(struct sim *s, struct node *n)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        const struct copy *c = &s->books.copy[i];
        bool hopeless = !c->rotten || rot_was_done(s, c->id);
        for (unsigned k = 0; k < NODES && !hopeless; k++) {
            const struct store *st = s->node[k].disk.store;
            if (store_memory_message(st, c->id) && !store_memory_body_good(st, c->id)) {
                rot_verify(s, n);
                return;
            }
        }
    }
}

/* --- what the core asks of a store --- */

static bool add_recipient(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    digest_add(ctx, r);
    return true;
}

struct digests {
    const struct store_request *req;
    struct store *st;
    struct buf out;
    uint64_t last;
    unsigned n;
    bool more;
};

static bool add_digest(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    struct digests *d = ctx;
    if (r->type != ROW_MESSAGE || r->message.id <= d->req->first ||
        r->message.id > d->req->pos.lsn || (d->req->live && r->message.state == MESSAGE_DONE))
        return true;
    if (d->n++ == d->req->limit) {
        d->more = true;
        return false;
    }
    struct digest x = {.id = r->message.id};
    digest_add(&x, r);
    x.body_bad = !store_memory_body_good(d->st, x.id);
    d->st->ops->each_recipient(d->st, x.id, add_recipient, &x);
    d->last = x.id;
    return digest_encode(&d->out, &x);
}

struct store_reply rot_digests(struct sim *s, struct node *n, const struct store_request *req)
{
    struct store *st = n->disk.store;
    struct digests d = {.req = req, .st = st, .last = req->first};
    buf_init(&d.out, ANSWER_MAX);
    store_memory_each(st, add_digest, &d);
    for (unsigned i = 0; i < s->books.n_copies; i++)
        if (s->books.copy[i].id > req->first &&
            s->books.copy[i].id <= (d.more ? d.last : req->pos.lsn))
            s->books.copy[i].looked_at[n->self] = s->now;
    struct store_reply r = {
        .first = d.last, .more = d.more, .bytes = shared_new(buf_slice(&d.out))};
    buf_free(&d.out);
    return r;
}

static bool add_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    return row_encode(ctx, r);
}

/* Bodies are small here: all of a message in one page. */
struct store_reply rot_rows(struct store *st, const struct store_request *req)
{
    struct row m, key = {.type = ROW_MESSAGE, .message.id = req->first};
    struct store_reply r = {.err = st->ops->get(st, &key, &m, NULL)};
    if (!r.err && !req->skip && !store_memory_body_good(st, req->first))
        r.err = STORE_CORRUPT;
    if (r.err)
        return r;
    struct buf out;
    buf_init(&out, ANSWER_MAX);
    uint32_t chunks = m.message.state == MESSAGE_LIVE ? m.message.chunks : 0;
    bool ok = true;
    for (uint32_t i = req->skip; i < chunks && ok; i++) { /* none from ROWS_WITHOUT_CHUNKS on */
        struct row c, at = {.type = ROW_CHUNK, .chunk = {.id = req->first, .index = i}};
        r.err = st->ops->get(st, &at, &c, NULL);
        ok = !r.err && row_encode(&out, &c);
    }
    ok = ok && row_encode(&out, &m);
    assert(ok || r.err);
    st->ops->each_recipient(st, req->first, add_row, &out);
    if (!r.err)
        r.bytes = shared_new(buf_slice(&out));
    buf_free(&out);
    return r;
}

static bool ascii(struct slice b)
{
    for (size_t i = 0; i < b.n; i++)
        if (b.p[i] & 0x80)
            return false;
    return true;
}

static int put_one(struct store *st, const struct row *theirs)
{
    struct row here, row = *theirs;
    enum unmerged_class mark = UNMERGED_NONE;
    if (row.type != ROW_CHUNK && row.type != ROW_MESSAGE)
        return STORE_OK;
    int err = st->ops->get(st, theirs, &here, &mark);
    if (err && (err != STORE_NOT_FOUND || row.type == ROW_MESSAGE))
        return err;
    if (!err && row.type == ROW_CHUNK)
        row.chunk.pos = here.chunk.pos;
    if (row.type == ROW_MESSAGE) {
        row = here; /* only its body is in question */
        row.message.body = theirs->message.body;
    }
    return st->ops->put(st, &row, mark);
}

int rot_put_back(struct store *st, const struct store_request *req)
{
    struct slice rows = slice_of(req->bytes->data, req->bytes->n);
    struct wire_reader r = wire_read(rows);
    struct row row;
    const struct row_message *here = store_memory_message(st, req->first);
    bool found = false, good = true;
    while (r.n && row_decode(&r, &row)) {
        found |= row.type == ROW_MESSAGE && row.message.id == req->first;
        /* Of one that is done there the body is gone: to check_theirs() its checksum is wrong. */
        good &= row.type != ROW_MESSAGE ||
                (row.message.state == MESSAGE_LIVE && ascii(row.message.body));
        good &= row.type != ROW_CHUNK || ascii(row.chunk.data);
    }
    if (!found || !good || r.bad)
        return STORE_CORRUPT;
    if (!here || here->state == MESSAGE_DONE)
        return here ? STORE_OK : STORE_NOT_FOUND;
    int err = st->ops->begin(st);
    for (r = wire_read(rows); !err && r.n;)
        err = row_decode(&r, &row) ? put_one(st, &row) : STORE_CORRUPT;
    if (err)
        st->ops->rollback(st);
    return err ? err : st->ops->commit(st);
}
