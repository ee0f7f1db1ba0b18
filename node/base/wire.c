/* See wire.h. */
#include "node/base/wire.h"

bool wire_put_u8(struct buf *b, uint8_t v)
{
    return buf_append(b, &v, 1);
}

static bool put_be(struct buf *b, uint64_t v, unsigned bytes)
{
    uint8_t out[8];
    for (unsigned i = 0; i < bytes; i++)
        out[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
    return buf_append(b, out, bytes);
}

bool wire_put_u16(struct buf *b, uint16_t v)
{
    return put_be(b, v, 2);
}

bool wire_put_u32(struct buf *b, uint32_t v)
{
    return put_be(b, v, 4);
}

bool wire_put_u64(struct buf *b, uint64_t v)
{
    return put_be(b, v, 8);
}

bool wire_put_raw(struct buf *b, const void *p, size_t n)
{
    return buf_append(b, p, n);
}

bool wire_put_bytes(struct buf *b, struct slice s)
{
    if (s.n > UINT32_MAX || !buf_reserve(b, s.n + 4))
        return false;
    return wire_put_u32(b, (uint32_t)s.n) && buf_append_slice(b, s);
}

static const uint8_t *take(struct wire_reader *r, size_t n)
{
    if (r->bad || r->n < n) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    r->n -= n;
    return p;
}

static uint64_t get_be(struct wire_reader *r, unsigned bytes)
{
    const uint8_t *p = take(r, bytes);
    uint64_t v = 0;
    for (unsigned i = 0; p && i < bytes; i++)
        v = v << 8 | p[i];
    return v;
}

uint8_t wire_get_u8(struct wire_reader *r)
{
    return (uint8_t)get_be(r, 1);
}

uint16_t wire_get_u16(struct wire_reader *r)
{
    return (uint16_t)get_be(r, 2);
}

uint32_t wire_get_u32(struct wire_reader *r)
{
    return (uint32_t)get_be(r, 4);
}

uint64_t wire_get_u64(struct wire_reader *r)
{
    return get_be(r, 8);
}

void wire_get_raw(struct wire_reader *r, void *out, size_t n)
{
    const uint8_t *p = take(r, n);
    if (p)
        memcpy(out, p, n);
    else
        memset(out, 0, n);
}

struct slice wire_get_bytes(struct wire_reader *r, size_t max)
{
    uint32_t n = wire_get_u32(r);
    if (n > max)
        r->bad = true;
    const uint8_t *p = take(r, n);
    return (struct slice){p, p ? n : 0};
}
