/* One id for two messages: a cloned or rolled-back store gave it out again (protocol 3). The one
 * that comes to a primary gets another id, made from the old one, so that every row of it, and
 * every repetition, finds the same. Core. */
#ifndef BATON_REPLICATION_MOVED_H
#define BATON_REPLICATION_MOVED_H

#include "replication/store.h"

/* Epochs in use stay far below 2^22: this bit of an id marks the moved ones. */
#define MOVED_BIT    (UINT64_C(1) << 62)
#define MOVED_ID(id) ((id) | MOVED_BIT)

/* Copies message `id` of this store, with recipients and chunks, to its moved id, marked `mark`.
 * Inside a transaction. */
int moved_local(struct store *s, uint64_t id, enum unmerged_class mark);
#endif
