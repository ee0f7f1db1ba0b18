/* See support_replica.h: the storage driver's part in comparing and mending, on a store in memory;
 * node/queue/verify_sqlite.c and mend_uv.c have their own test. */
#include <assert.h>
#include <stdlib.h>

#include "replication/digest.h"
#include "support_replica.h"

enum { ROWS_MAX = 1 << 20 };

static bool body_right(const struct row_message *m)
{
    if (m->state == MESSAGE_DONE)
        return true;
    uint8_t *right = xmalloc(m->size + 8);
    world_body(right, m->size, m->id);
    bool same = slice_eq(m->body, slice_of(right, m->size));
    free(right);
    return same;
}

struct pass {
    const struct store_request *q;
    struct store_reply *reply;
    struct buf b;
    struct digest d;
    unsigned n;
    bool in_page;
};

static void put_digest(struct pass *p)
{
    if (p->d.id) {
        bool ok = digest_encode(&p->b, &p->d);
        assert(ok);
        (void)ok;
        p->reply->first = p->d.id;
    }
    p->d = (struct digest){0};
}

static bool add_digest(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct pass *p = ctx;
    (void)mark;
    if (r->type == ROW_MESSAGE) {
        put_digest(p);
        if (r->message.id <= p->q->first || r->message.id > p->q->pos.lsn)
            return true;
        p->reply->more = p->n++ == p->q->limit;
        if (p->reply->more)
            return false;
        p->d = (struct digest){.id = r->message.id, .body_bad = !body_right(&r->message)};
    }
    if (p->d.id && (r->type == ROW_MESSAGE || r->type == ROW_RECIPIENT))
        digest_add(&p->d, r);
    return true;
}

/* Pages are small: the message with its first recipient, then one recipient each. */
static bool add_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct pass *p = ctx;
    uint32_t from = p->q->skip > ROWS_WITHOUT_CHUNKS ? p->q->skip - ROWS_WITHOUT_CHUNKS : 0;
    (void)mark;
    if (r->type == ROW_RECIPIENT && r->recipient.id == p->q->first) {
        if (r->recipient.index > from) {
            p->reply->more = true;
            p->reply->first = ROWS_WITHOUT_CHUNKS + r->recipient.index;
            return false;
        }
        if (r->recipient.index < from)
            return true;
    } else if (r->type != ROW_MESSAGE || r->message.id != p->q->first || from) {
        return true;
    }
    bool ok = row_encode(&p->b, r);
    assert(ok);
    (void)ok;
    return true;
}

static int mend(struct world_node *n, const struct store_request *q)
{
    struct wire_reader in = wire_read(slice_of(q->bytes->data, q->bytes->n));
    struct row row, here;
    enum unmerged_class mark;
    while (in.n && row_decode(&in, &row) && row.type != ROW_MESSAGE) {
    }
    if (row.type != ROW_MESSAGE || !body_right(&row.message))
        return STORE_CORRUPT;
    int err = n->store->ops->get(n->store, &row, &here, &mark);
    if (err)
        return err;
    if (memcmp(here.message.sha256, row.message.sha256, 32) != 0)
        return STORE_CONFLICT;
    here.message.body = row.message.body;
    err = n->store->ops->begin(n->store);
    if (!err)
        err = n->store->ops->put(n->store, &here, mark);
    return err ? err : n->store->ops->commit(n->store);
}

void world_compare(struct world_node *n, const struct store_request *q, struct store_reply *reply)
{
    struct pass p = {.q = q, .reply = reply};
    if (q->type == SR_MEND) {
        reply->err = mend(n, q);
        return;
    }
    const struct row_message *m = store_memory_message(n->store, q->first);
    if (q->type == SR_ROWS && !m)
        reply->err = STORE_NOT_FOUND;
    else if (q->type == SR_ROWS && !q->skip && !body_right(m))
        reply->err = STORE_CORRUPT;
    if (reply->err)
        return;
    buf_init(&p.b, ROWS_MAX);
    reply->first = q->type == SR_DIGESTS ? q->first : 0;
    store_memory_each(n->store, q->type == SR_DIGESTS ? add_digest : add_row, &p);
    if (q->type == SR_DIGESTS && !reply->more)
        put_digest(&p);
    reply->bytes = shared_new(buf_slice(&p.b));
    buf_free(&p.b);
}

void world_rot(struct world *w, unsigned node, uint64_t id)
{
    struct store *s = w->node[node].store;
    struct row r = {.type = ROW_MESSAGE, .message = *store_memory_message(s, id)};
    uint8_t *body = xmalloc(r.message.body.n);
    memcpy(body, r.message.body.p, r.message.body.n);
    body[7] ^= 1;
    r.message.body.p = body;
    int err = s->ops->begin(s);
    if (!err)
        err = s->ops->put(s, &r, UNMERGED_NONE);
    if (!err)
        err = s->ops->commit(s);
    assert(!err);
    (void)err;
    free(body);
}
