/* Explicit big-endian encoding for everything that goes to disk or to a peer. Core.
 * A reader never runs past its end: the first short or over-long field sets `bad`, later gets give
 * zeros, and the caller checks once with wire_done() or `bad`. */
#ifndef BATON_BASE_WIRE_H
#define BATON_BASE_WIRE_H

#include "node/base/buf.h"

/* Writers give false when the buffer's cap is reached. */
bool wire_put_u8(struct buf *b, uint8_t v);
bool wire_put_u16(struct buf *b, uint16_t v);
bool wire_put_u32(struct buf *b, uint32_t v);
bool wire_put_u64(struct buf *b, uint64_t v);
/* Raw bytes of a length both sides know. */
bool wire_put_raw(struct buf *b, const void *p, size_t n);
/* u32 length, then the bytes. */
bool wire_put_bytes(struct buf *b, struct slice s);

struct wire_reader {
    const uint8_t *p;
    size_t n;
    bool bad;
};

static inline struct wire_reader wire_read(struct slice s)
{
    return (struct wire_reader){s.p, s.n, false};
}
uint8_t wire_get_u8(struct wire_reader *r);
uint16_t wire_get_u16(struct wire_reader *r);
uint32_t wire_get_u32(struct wire_reader *r);
uint64_t wire_get_u64(struct wire_reader *r);
/* Copies n raw bytes out (zeros when bad). */
void wire_get_raw(struct wire_reader *r, void *out, size_t n);
/* u32 length, then bytes; the slice borrows from the reader's input. Longer than max: bad. */
struct slice wire_get_bytes(struct wire_reader *r, size_t max);
/* True if all was well and nothing is left over. */
static inline bool wire_done(const struct wire_reader *r)
{
    return !r->bad && r->n == 0;
}
#endif
