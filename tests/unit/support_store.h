/* Rows and stores for tests of what works on a store. */
#ifndef BATON_TESTS_SUPPORT_STORE_H
#define BATON_TESTS_SUPPORT_STORE_H

#include "replication/store.h"

struct store *support_store_new(void);    /* on SQLite, in a directory of its own */
void support_store_free(struct store *s); /* and removes it */
const char *support_store_path(void);     /* of the newest */
struct store *support_store_reopen(struct store *s);

/* A live message with an inline body made from `seed` (equal seeds: equal sender and body). */
struct row support_message(uint64_t id, unsigned seed, uint32_t recipients);
struct row support_recipient(uint64_t id, uint32_t index, uint8_t state);
/* In a transaction of its own, at (epoch, lsn); meta.end follows. Fails the test on error. */
void support_put(struct store *s, struct row r, struct pos p, enum unmerged_class mark);
bool support_get_message(struct store *s, uint64_t id, struct row *out);
/* State of a recipient; -1: not there. */
int support_state(struct store *s, uint64_t id, uint32_t index);
bool support_marked(struct store *s, const struct row *key);
/* Everything that the store holds, encoded with its marks; equal stores give equal bytes. With
 * positions false, positions are left out (content only). */
void support_dump(struct store *s, struct buf *out, bool positions);
#endif
