/* The store in memory (replication/store.h): for the simulator and for unit tests. Rows are kept as
 * encoded bytes; a transaction is a list of what it replaced. What is committed but not yet synced
 * can be lost: any suffix of those transactions, each as a whole (protocol, issue of the crash). */
#ifndef BATON_SIM_STORE_MEMORY_H
#define BATON_SIM_STORE_MEMORY_H

#include "replication/store.h"

/* A new, empty store of that id. Each commit is synced at once until store_memory_defer(). */
struct store *store_memory_new(const struct store_id *id);
void store_memory_free(struct store *s);

/* true: commits stay in the unsynced tail until store_memory_sync(). */
void store_memory_defer(struct store *s, bool defer);
void store_memory_sync(struct store *s);
unsigned store_memory_unsynced(const struct store *s);
/* Power loss: the last n unsynced transactions are gone, the others are durable; an open
 * transaction is rolled back. */
void store_memory_lose(struct store *s, unsigned n);

/* While a transaction is open: everybody sees the store as it was before it, until resumed. A
 * reader on another connection sees no more than that. */
void store_memory_suspend(struct store *s);
void store_memory_resume(struct store *s);

/* Called at each sync for each row that was written since the last: before (NULL: was not there)
 * and after; or, with after NULL, for each that went, as it was at last. For the books of the
 * simulator. */
typedef void (*store_memory_watch_fn)(void *ctx, const struct row *before, const struct row *after);
void store_memory_watch(struct store *s, store_memory_watch_fn fn, void *ctx);

/* Borrowed, valid until the store changes; NULL: not there. */
const struct row_message *store_memory_message(const struct store *s, uint64_t id);
const struct row_recipient *store_memory_recipient(const struct store *s, uint64_t id,
                                                   uint32_t index);
const struct row_opstate *store_memory_opstate(const struct store *s, struct slice key);
bool store_memory_has_chunk(const struct store *s, uint64_t id, uint32_t index);
/* Bit rot: a byte of that message's body is another one from now on. False: it has none. Bodies of
 * the simulator are ASCII; a byte that is not is what a checksum would notice. */
bool store_memory_rot(struct store *s, uint64_t id);
/* Its body is all there and as it was accepted, or it is done and needs none; false: or no such
 * message. */
bool store_memory_body_good(const struct store *s, uint64_t id);
const struct store_meta *store_memory_meta(const struct store *s);
/* Every row: messages by id, each with its recipients and chunks, then operator state by key. */
void store_memory_each(const struct store *s, store_row_fn fn, void *ctx);
/* Like the queue's index: every recipient of every live message, by id. */
void store_memory_each_live(const struct store *s, store_row_fn fn, void *ctx);
/* Another store of the same id with the same rows, marks and meta, as a reader sees them now. */
struct store *store_memory_copy(const struct store *s);
/* True if both hold the same rows at the same positions, none unmerged, and end at the same
 * position; else why (size n) tells the first difference. */
bool store_memory_equal(const struct store *a, const struct store *b, char *why, size_t n);
#endif
