/* See frames.h. */
#include "replication/frames.h"

#include "node/base/protocol.h"
#include "replication/replica.h"

static const uint8_t magic[4] = {'B', 'T', 'N', 'R'};

static bool put_pos(struct buf *b, struct pos p)
{
    return wire_put_u32(b, p.epoch) && wire_put_u64(b, p.lsn);
}

static struct pos get_pos(struct wire_reader *r)
{
    struct pos p;
    p.epoch = wire_get_u32(r);
    p.lsn = wire_get_u64(r);
    return p;
}

/* Both greetings begin alike in all versions, so that each side can say what the other speaks. */
static bool put_version(struct buf *b, uint16_t version, uint16_t speaks)
{
    return wire_put_raw(b, magic, sizeof magic) && wire_put_u16(b, version) &&
           wire_put_u16(b, speaks);
}

static bool get_version(struct wire_reader *r, uint16_t *version, uint16_t *speaks)
{
    uint8_t m[4];
    wire_get_raw(r, m, sizeof m);
    *version = wire_get_u16(r);
    *speaks = wire_get_u16(r);
    if (r->bad || memcmp(m, magic, sizeof m) != 0)
        *version = 0;
    return protocol_reads(*version);
}

static bool get_flag(struct wire_reader *r)
{
    uint8_t v = wire_get_u8(r);
    if (v > 1)
        r->bad = true;
    return v == 1;
}

bool hello_encode(struct buf *b, const struct frame_hello *h)
{
    return put_version(b, h->version, h->speaks) && wire_put_bytes(b, h->cluster) &&
           wire_put_u8(b, h->node) && wire_put_u32(b, h->epoch) &&
           wire_put_raw(b, h->store.b, STORE_ID_BYTES) && put_pos(b, h->end) &&
           put_pos(b, h->committed) && wire_put_u8(b, h->copying) && wire_put_u8(b, h->unfit) &&
           wire_put_u8(b, h->unmerged) && wire_put_u8(b, h->rejoin) &&
           wire_put_u64(b, (uint64_t)h->written_ms) && wire_put_u64(b, h->purged) &&
           put_pos(b, h->reached) && history_encode(b, &h->history);
}

bool hello_decode(struct slice s, struct frame_hello *h)
{
    memset(h, 0, sizeof *h);
    struct wire_reader r = wire_read(s);
    if (!get_version(&r, &h->version, &h->speaks))
        return false;
    h->cluster = wire_get_bytes(&r, CLUSTER_NAME_MAX);
    h->node = wire_get_u8(&r);
    h->epoch = wire_get_u32(&r);
    wire_get_raw(&r, h->store.b, STORE_ID_BYTES);
    h->end = get_pos(&r);
    h->committed = get_pos(&r);
    h->copying = get_flag(&r);
    h->unfit = get_flag(&r);
    h->unmerged = get_flag(&r);
    h->rejoin = wire_get_u8(&r);
    h->written_ms = (int64_t)wire_get_u64(&r);
    h->purged = wire_get_u64(&r);
    h->reached = get_pos(&r);
    return history_decode(&r, &h->history) && wire_done(&r) && h->rejoin <= REJOIN_DISCARD;
}

bool welcome_encode(struct buf *b, const struct frame_welcome *w)
{
    return put_version(b, w->version, w->speaks) && wire_put_u8(b, w->node) &&
           wire_put_u32(b, w->epoch) && wire_put_u8(b, w->plan) && put_pos(b, w->shared) &&
           put_pos(b, w->known) && wire_put_u64(b, w->last) && history_encode(b, &w->history);
}

bool welcome_decode(struct slice s, struct frame_welcome *w)
{
    memset(w, 0, sizeof *w);
    struct wire_reader r = wire_read(s);
    if (!get_version(&r, &w->version, &w->speaks))
        return false;
    w->node = wire_get_u8(&r);
    w->epoch = wire_get_u32(&r);
    w->plan = wire_get_u8(&r);
    w->shared = get_pos(&r);
    w->known = get_pos(&r);
    w->last = wire_get_u64(&r);
    return history_decode(&r, &w->history) && wire_done(&r) && w->plan >= PLAN_ADOPT &&
           w->plan <= PLAN_WAIT;
}

bool ack_encode(struct buf *b, const struct frame_ack *a)
{
    return wire_put_raw(b, a->store.b, STORE_ID_BYTES) && wire_put_u32(b, a->epoch) &&
           wire_put_u64(b, a->received) && wire_put_u64(b, a->durable) &&
           wire_put_u64(b, a->taken) && wire_put_u64(b, a->noted);
}

bool ack_decode(struct slice s, struct frame_ack *a)
{
    struct wire_reader r = wire_read(s);
    wire_get_raw(&r, a->store.b, STORE_ID_BYTES);
    a->epoch = wire_get_u32(&r);
    a->received = wire_get_u64(&r);
    a->durable = wire_get_u64(&r);
    a->taken = wire_get_u64(&r);
    a->noted = wire_get_u64(&r);
    return wire_done(&r) && a->durable <= a->received;
}

bool committed_encode(struct buf *b, struct pos committed)
{
    return put_pos(b, committed);
}

bool committed_decode(struct slice s, struct pos *committed)
{
    struct wire_reader r = wire_read(s);
    *committed = get_pos(&r);
    return wire_done(&r);
}

bool unmerged_encode(struct buf *b, const struct frame_unmerged *u)
{
    return wire_put_u64(b, u->sequence) && wire_put_u8(b, u->last) && wire_put_u32(b, u->n_rows) &&
           wire_put_bytes(b, u->rows);
}

bool unmerged_decode(struct slice s, struct frame_unmerged *u)
{
    struct wire_reader r = wire_read(s);
    u->sequence = wire_get_u64(&r);
    u->last = get_flag(&r);
    u->n_rows = wire_get_u32(&r);
    u->rows = wire_get_bytes(&r, FRAME_MAX);
    return wire_done(&r) && u->n_rows <= u->rows.n && (u->n_rows > 0) == (u->rows.n > 0);
}

bool merged_encode(struct buf *b, uint64_t sequence)
{
    return wire_put_u64(b, sequence);
}

bool merged_decode(struct slice s, uint64_t *sequence)
{
    struct wire_reader r = wire_read(s);
    *sequence = wire_get_u64(&r);
    return wire_done(&r);
}

bool ask_encode(struct buf *b, const struct frame_ask *a)
{
    return wire_put_u64(b, a->token) && wire_put_u8(b, a->what) && wire_put_u64(b, a->id) &&
           wire_put_u64(b, a->upto) && wire_put_u32(b, a->from) && wire_put_u8(b, a->more) &&
           wire_put_bytes(b, a->rows);
}

bool ask_decode(struct slice s, struct frame_ask *a)
{
    struct wire_reader r = wire_read(s);
    a->token = wire_get_u64(&r);
    a->what = wire_get_u8(&r);
    a->id = wire_get_u64(&r);
    a->upto = wire_get_u64(&r);
    a->from = wire_get_u32(&r);
    a->more = get_flag(&r);
    a->rows = wire_get_bytes(&r, FRAME_MAX);
    return wire_done(&r) && a->what >= ASK_DIGESTS && a->what <= ASK_MEND;
}

bool told_encode(struct buf *b, const struct frame_told *t)
{
    return wire_put_u64(b, t->token) && wire_put_u8(b, t->err) && wire_put_u8(b, t->more) &&
           wire_put_u64(b, t->next) && wire_put_bytes(b, t->bytes);
}

bool told_decode(struct slice s, struct frame_told *t)
{
    struct wire_reader r = wire_read(s);
    t->token = wire_get_u64(&r);
    t->err = wire_get_u8(&r);
    t->more = get_flag(&r);
    t->next = wire_get_u64(&r);
    t->bytes = wire_get_bytes(&r, FRAME_MAX);
    return wire_done(&r);
}

bool verified_encode(struct buf *b, const struct verify_view *v)
{
    return wire_put_u64(b, v->run) && wire_put_u8(b, v->running) && wire_put_u64(b, v->compared) &&
           wire_put_u64(b, v->differing) && wire_put_u64(b, v->repaired) &&
           wire_put_u64(b, v->unrepairable) && wire_put_bytes(b, slice_str(v->why));
}

bool verified_decode(struct slice s, struct verify_view *v)
{
    struct wire_reader r = wire_read(s);
    memset(v, 0, sizeof *v);
    v->run = wire_get_u64(&r);
    v->running = get_flag(&r);
    v->compared = wire_get_u64(&r);
    v->differing = wire_get_u64(&r);
    v->repaired = wire_get_u64(&r);
    v->unrepairable = wire_get_u64(&r);
    struct slice why = wire_get_bytes(&r, sizeof v->why - 1);
    if (why.n)
        memcpy(v->why, why.p, why.n);
    return wire_done(&r);
}
