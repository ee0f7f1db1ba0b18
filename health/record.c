/* Encodings of the record and of ballots, the same on the wire and in the voter's file (protocol 1
 * and 5). Core: touches memory only. */
#include "health/record.h"

#include <assert.h>

int ballot_cmp(struct ballot a, struct ballot b)
{
    if (a.counter != b.counter)
        return a.counter < b.counter ? -1 : 1;
    if (a.node != b.node)
        return a.node < b.node ? -1 : 1;
    return a.voter < b.voter ? -1 : a.voter > b.voter;
}

bool ballot_encode(struct buf *b, struct ballot x)
{
    return wire_put_u64(b, x.counter) && wire_put_u8(b, x.node) && wire_put_u64(b, x.voter);
}

struct ballot ballot_decode(struct wire_reader *r)
{
    struct ballot x;
    x.counter = wire_get_u64(r);
    x.node = wire_get_u8(r);
    x.voter = wire_get_u64(r);
    if (x.node >= VOTERS)
        r->bad = true;
    return x;
}

enum { RECORD_IN_SYNC_A = 1, RECORD_IN_SYNC_B = 2, RECORD_FORCED = 4, RECORD_FLAGS = 7 };

bool record_encode(struct buf *b, const struct record *r)
{
    assert(r->primary < NODES);
    uint8_t flags =
        (uint8_t)((r->in_sync[NODE_A] ? RECORD_IN_SYNC_A : 0) |
                  (r->in_sync[NODE_B] ? RECORD_IN_SYNC_B : 0) | (r->forced ? RECORD_FORCED : 0));
    return wire_put_u64(b, r->version) && wire_put_u32(b, r->epoch) && wire_put_u8(b, r->primary) &&
           wire_put_u8(b, flags) && wire_put_raw(b, r->store[NODE_A].b, STORE_ID_BYTES) &&
           wire_put_raw(b, r->store[NODE_B].b, STORE_ID_BYTES) && wire_put_u64(b, r->tag);
}

bool record_decode(struct wire_reader *r, struct record *out)
{
    *out = (struct record){0};
    out->version = wire_get_u64(r);
    out->epoch = wire_get_u32(r);
    out->primary = wire_get_u8(r);
    uint8_t flags = wire_get_u8(r);
    out->in_sync[NODE_A] = flags & RECORD_IN_SYNC_A;
    out->in_sync[NODE_B] = flags & RECORD_IN_SYNC_B;
    out->forced = flags & RECORD_FORCED;
    wire_get_raw(r, out->store[NODE_A].b, STORE_ID_BYTES);
    wire_get_raw(r, out->store[NODE_B].b, STORE_ID_BYTES);
    out->tag = wire_get_u64(r);
    if (out->primary >= NODES || flags & ~RECORD_FLAGS)
        r->bad = true;
    return !r->bad;
}

int record_cmp(const struct record *a, const struct record *b)
{
    if (a->epoch != b->epoch)
        return a->epoch < b->epoch ? -1 : 1;
    return a->version < b->version ? -1 : a->version > b->version;
}

uint32_t epoch_next(uint32_t above, unsigned node)
{
    assert(node < NODES);
    assert(above < UINT32_MAX - 2);
    uint32_t next = above + 1;
    return next % 2 == node ? next : next + 1;
}
