/* The recipients that delivery has in hand, by (message, index): what keeps one from being sent
 * twice by this process. Core: an open-addressing hash set. */
#ifndef BATON_DELIVERY_HAND_H
#define BATON_DELIVERY_HAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hand_key {
    uint64_t id;
    uint32_t index;
};
struct hand {
    struct hand_slot {
        struct hand_key key;
        bool used;
    } * slot;
    size_t n, cap; /* cap is a power of two */
};

void hand_init(struct hand *h);
void hand_free(struct hand *h);
bool hand_add(struct hand *h, uint64_t id, uint32_t index); /* false: it is there already */
bool hand_has(const struct hand *h, uint64_t id, uint32_t index);
bool hand_remove(struct hand *h, uint64_t id, uint32_t index);
void hand_clear(struct hand *h);
#endif
