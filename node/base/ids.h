/* The two identities that every part shares: a place in the history and a store's name. Core. */
#ifndef BATON_BASE_IDS_H
#define BATON_BASE_IDS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Place of a change in the one history; always compared as (epoch, lsn). */
struct pos {
    uint32_t epoch;
    uint64_t lsn;
};
static inline int pos_cmp(struct pos a, struct pos b)
{
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return a.lsn < b.lsn ? -1 : a.lsn > b.lsn;
}

enum { STORE_ID_BYTES = 16 };
/* Random, made with the store file, new whenever a store is emptied or replaced. All zeros: none.
 */
struct store_id {
    uint8_t b[STORE_ID_BYTES];
};
static inline bool store_id_eq(const struct store_id *a, const struct store_id *b)
{
    return memcmp(a->b, b->b, STORE_ID_BYTES) == 0;
}
#endif
