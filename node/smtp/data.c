/* See data.h. */
#include "node/smtp/data.h"

#include <assert.h>

void data_begin(struct data_decoder *d, bool stuffed)
{
    *d = (struct data_decoder){.state = DATA_LINE_START, .stuffed = stuffed};
}

static void put(struct data_decoder *d, const uint8_t *from, const uint8_t *to, data_emit emit,
                void *ctx)
{
    assert(from <= to);
    if (from < to && !d->bad)
        emit(ctx, slice_of(from, (size_t)(to - from)));
}

/* Goes over whole lines from p, which is inside a line or at its start: up to the first place where
 * a decision is due (a line's start with a dot, a CR that is the last byte, the end). Bytes from p
 * to what is returned belong to the message. */
static const uint8_t *skim(struct data_decoder *d, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        if (d->state == DATA_LINE_START && d->stuffed && *p == '.')
            break;
        const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
        const uint8_t *stop = lf ? lf : end;
        const uint8_t *cr = memchr(p, '\r', (size_t)(stop - p));
        d->state = DATA_IN_LINE;
        bool open_cr =
            !lf && end[-1] == '\r'; /* held back: what follows tells whether it is bare */
        if (lf ? cr != lf - 1 : cr && !(open_cr && cr == end - 1))
            d->bad = true;
        if (!lf)
            return open_cr ? end - 1 : end;
        /* Lines end by CR LF only, also in a message that is lost already. */
        d->state = lf > p && lf[-1] == '\r' ? DATA_LINE_START : DATA_IN_LINE;
        p = lf + 1;
    }
    return p;
}

/* One byte in a state in which something was held back. Returns the bytes used: 0 or 1. */
static size_t resolve(struct data_decoder *d, uint8_t c, data_emit emit, void *ctx)
{
    static const uint8_t crlf[] = "\r\n";
    switch (d->state) {
    case DATA_CR:
        if (c == '\n') {
            put(d, crlf, crlf + 2, emit, ctx);
            d->state = DATA_LINE_START;
            return 1;
        }
        d->bad = true;
        if (c == '\r')
            return 1; /* this one may be a line's end yet */
        d->state = DATA_IN_LINE;
        return 0;
    case DATA_DOT:
        d->state = c == '\r' ? DATA_DOT_CR : DATA_IN_LINE; /* a stuffed dot falls away */
        return c == '\r';
    case DATA_DOT_CR:
        if (c == '\n') {
            d->ended = true;
            return 1;
        }
        d->bad = true;
        if (c == '\r') {
            d->state = DATA_CR;
            return 1;
        }
        d->state = DATA_IN_LINE;
        return 0;
    default:
        assert(!"nothing held back");
        return 1;
    }
}

size_t data_decode(struct data_decoder *d, struct slice in, data_emit emit, void *ctx)
{
    const uint8_t *p = in.p, *end = in.p + in.n;
    bool nul_free = in.n == 0 || memchr(in.p, 0, in.n) == NULL;
    while (p < end && !d->ended) {
        if (d->state == DATA_LINE_START || d->state == DATA_IN_LINE) {
            const uint8_t *from = p;
            bool was_bad = d->bad;
            p = skim(d, p, end);
            if (!nul_free && !was_bad && from < p && memchr(from, 0, (size_t)(p - from)))
                d->bad = true;
            put(d, from, p, emit, ctx);
            if (p == end)
                break;
            d->state = *p == '\r' ? DATA_CR : DATA_DOT;
            p++;
        } else {
            p += resolve(d, *p, emit, ctx);
        }
    }
    return (size_t)(p - in.p);
}

void data_finish(struct data_decoder *d, data_emit emit, void *ctx)
{
    static const uint8_t crlf[] = "\r\n";
    assert(!d->stuffed);
    if (d->state == DATA_CR)
        d->bad = true;
    if (d->state == DATA_IN_LINE)
        put(d, crlf, crlf + 2, emit, ctx);
}
