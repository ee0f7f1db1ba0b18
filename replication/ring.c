/* See ring.h. */
#include "replication/ring.h"

#include <assert.h>
#include <stdlib.h>

/* Small batches cost their bookkeeping too; without it a ring of single outcomes would grow far
 * beyond its cap. */
enum { OVERHEAD_BYTES = sizeof(struct ring_batch) + sizeof(struct shared) + 32, FIRST_CAP = 256 };

static struct ring_batch *slot(const struct ring *g, size_t i)
{
    assert(i < g->n);
    return &g->at[(g->head + i) % g->cap];
}

void ring_init(struct ring *g, size_t max_bytes)
{
    *g = (struct ring){.max_bytes = max_bytes};
}

static void drop_oldest(struct ring *g)
{
    struct ring_batch *b = slot(g, 0);
    g->bytes -= b->rows->n + OVERHEAD_BYTES;
    shared_unref(b->rows);
    g->head = (g->head + 1) % g->cap;
    g->n--;
}

void ring_clear(struct ring *g)
{
    while (g->n)
        drop_oldest(g);
    free(g->at);
    ring_init(g, g->max_bytes);
}

static void grow(struct ring *g)
{
    size_t cap = g->cap ? g->cap * 2 : FIRST_CAP;
    struct ring_batch *at = xcalloc(cap, sizeof *at);
    for (size_t i = 0; i < g->n; i++)
        at[i] = *slot(g, i);
    free(g->at);
    g->at = at;
    g->cap = cap;
    g->head = 0;
}

void ring_push(struct ring *g, const struct ring_batch *b)
{
    assert(b->first && b->last >= b->first && b->rows);
    assert(!g->n || slot(g, g->n - 1)->last + 1 == b->first);
    if (g->n == g->cap)
        grow(g);
    g->n++;
    *slot(g, g->n - 1) = *b;
    shared_ref(b->rows);
    g->bytes += b->rows->n + OVERHEAD_BYTES;
    while (g->bytes > g->max_bytes && g->n > 1)
        drop_oldest(g);
}

/* Index of the oldest batch whose last is above lsn; n: none. */
static size_t search(const struct ring *g, uint64_t lsn)
{
    size_t lo = 0, hi = g->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (slot(g, mid)->last > lsn)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

const struct ring_batch *ring_above(const struct ring *g, uint64_t lsn)
{
    size_t i = search(g, lsn);
    return i < g->n ? slot(g, i) : NULL;
}

const struct ring_batch *ring_find(const struct ring *g, uint64_t first)
{
    assert(first);
    const struct ring_batch *b = ring_above(g, first - 1);
    return b && b->first == first ? b : NULL;
}

uint64_t ring_first(const struct ring *g)
{
    return g->n ? slot(g, 0)->first : 0;
}
