/* The merge rule (protocol 3 and 8): one function for rejoin, restart's tail, full copy and verify.
 * Core. It is commutative, associative and idempotent on content; positions are the caller's
 * business. */
#ifndef BATON_REPLICATION_MERGE_H
#define BATON_REPLICATION_MERGE_H

#include "replication/row.h"

/* Both rows have the same key. *out borrows from a and b; its pos is that of the winner. True if
 * the content of `a` changes by it. */
bool merge_recipient(const struct row_recipient *a, const struct row_recipient *b,
                     struct row_recipient *out);
/* DONE wins over LIVE. False in *same: same id, other content (hash, sender, size): the caller
 * gives a new id. */
bool merge_message(const struct row_message *a, const struct row_message *b,
                   struct row_message *out, bool *same);
bool merge_opstate(const struct row_opstate *a, const struct row_opstate *b,
                   struct row_opstate *out);
/* The more restrictive of two operator values of that key: pause over none, takeover off over on,
 * suppression over none, higher purge. */
#endif
