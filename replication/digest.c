/* See digest.h. FNV-1a, 64 bits, over the encoded row. */
#include "replication/digest.h"

#include <assert.h>

enum { ROW_HEAD_MAX = 1 << 16 };

void digest_add(struct digest *d, const struct row *r)
{
    struct row row = *r;
    struct buf b;
    uint64_t lsn = row_pos(r).lsn;
    assert(row.type == ROW_MESSAGE || row.type == ROW_RECIPIENT);
    if (lsn > d->lsn)
        d->lsn = lsn;
    row_set_pos(&row, (struct pos){0, 0});
    if (row.type == ROW_MESSAGE) {
        row.message.born = (struct pos){0, 0};
        row.message.body = (struct slice){NULL, 0}; /* its checksum is in the row */
    }
    buf_init(&b, ROW_HEAD_MAX);
    bool ok = row_encode(&b, &row);
    uint64_t h = d->sum ? d->sum : 14695981039346656037u;
    for (size_t i = 0; ok && i < b.len; i++)
        h = (h ^ b.data[i]) * 1099511628211u;
    d->sum = ok ? h : 0;
    buf_free(&b);
}

bool digest_encode(struct buf *b, const struct digest *d)
{
    return wire_put_u64(b, d->id) && wire_put_u64(b, d->sum) && wire_put_u64(b, d->lsn) &&
           wire_put_u8(b, d->body_bad);
}

bool digest_decode(struct wire_reader *r, struct digest *d)
{
    d->id = wire_get_u64(r);
    d->sum = wire_get_u64(r);
    d->lsn = wire_get_u64(r);
    uint8_t bad = wire_get_u8(r);
    d->body_bad = bad == 1;
    if (bad > 1)
        r->bad = true;
    return !r->bad;
}
