/* See hand.h. Linear probing; a removal moves later entries of its run back, so that no tombstones
 * pile up. */
#include "node/delivery/hand.h"

#include <assert.h>
#include <stdlib.h>

#include "node/base/buf.h"

void hand_init(struct hand *h)
{
    h->n = 0;
    h->cap = 1024;
    h->slot = xcalloc(h->cap, sizeof *h->slot);
}

void hand_free(struct hand *h)
{
    free(h->slot);
    *h = (struct hand){0};
}

static size_t home(const struct hand *h, uint64_t id, uint32_t index)
{
    /* A message has up to a thousand recipients: their indexes must reach the low bits, too. */
    uint64_t x = (id * 0x9e3779b97f4a7c15u + index) * 0x9e3779b97f4a7c15u;
    return (size_t)(x >> 32) & (h->cap - 1);
}

static size_t find(const struct hand *h, uint64_t id, uint32_t index)
{
    size_t i = home(h, id, index);
    while (h->slot[i].used && (h->slot[i].key.id != id || h->slot[i].key.index != index))
        i = (i + 1) & (h->cap - 1);
    return i;
}

static void grow(struct hand *h)
{
    struct hand_slot *old = h->slot;
    size_t n = h->cap;
    h->cap *= 2;
    h->slot = xcalloc(h->cap, sizeof *h->slot);
    for (size_t i = 0; i < n; i++)
        if (old[i].used)
            h->slot[find(h, old[i].key.id, old[i].key.index)] = old[i];
    free(old);
}

bool hand_add(struct hand *h, uint64_t id, uint32_t index)
{
    if (2 * (h->n + 1) > h->cap)
        grow(h);
    size_t i = find(h, id, index);
    if (h->slot[i].used)
        return false;
    h->slot[i] = (struct hand_slot){{id, index}, true};
    h->n++;
    return true;
}

bool hand_has(const struct hand *h, uint64_t id, uint32_t index)
{
    return h->slot[find(h, id, index)].used;
}

bool hand_remove(struct hand *h, uint64_t id, uint32_t index)
{
    size_t i = find(h, id, index), mask = h->cap - 1;
    if (!h->slot[i].used)
        return false;
    assert(h->n);
    h->n--;
    for (size_t k = (i + 1) & mask; h->slot[k].used; k = (k + 1) & mask) {
        size_t from = home(h, h->slot[k].key.id, h->slot[k].key.index);
        if (((k - from) & mask) >= ((k - i) & mask)) {
            h->slot[i] = h->slot[k];
            i = k;
        }
    }
    h->slot[i].used = false;
    return true;
}

void hand_clear(struct hand *h)
{
    hand_free(h);
    hand_init(h);
}
