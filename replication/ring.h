/* The ring of recent own batches (protocol 10): consecutive, shared with storage and the link, not
 * copied; capped in bytes, the oldest fall out. Core. */
#ifndef BATON_REPLICATION_RING_H
#define BATON_REPLICATION_RING_H

#include "replication/port.h"

struct ring_batch {
    uint64_t first, last;
    uint32_t n_rows;
    struct shared *rows;
    uint64_t at_ns; /* when it was handed over: how long it has waited for the standby */
};
struct ring {
    struct ring_batch *at; /* circular */
    size_t cap, head, n;
    size_t bytes, max_bytes;
};
void ring_init(struct ring *g, size_t max_bytes);
void ring_clear(struct ring *g); /* forgets all; usable again */
/* Takes its own reference on rows. Must follow the newest batch without a gap. */
void ring_push(struct ring *g, const struct ring_batch *b);
/* The batch that begins at lsn, or NULL. */
const struct ring_batch *ring_find(const struct ring *g, uint64_t first);
/* The oldest batch that ends above lsn, or NULL. */
const struct ring_batch *ring_above(const struct ring *g, uint64_t lsn);
/* First lsn held; 0: empty. */
uint64_t ring_first(const struct ring *g);
#endif
