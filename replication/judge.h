/* What becomes of a recipient that one store has and the other hasn't, and of a bounce whose parent
 * was delivered after all (protocol 3 and 8): promotions and merges ask. Core. */
#ifndef BATON_REPLICATION_JUDGE_H
#define BATON_REPLICATION_JUDGE_H

#include "replication/store.h"

/* Sets p->state, and next_ms of what is quarantined. A bounce follows its parent. Reads only; enum
 * store_error. */
int judge_recipient(struct store *s, struct row_recipient *p, enum unmerged_class as,
                    int64_t wall_ms, int64_t quarantine_ms);

enum { BOUNCES_MAX = 64 }; /* of one message that are looked at */
/* The live bounces of `parent` that aren't wanted any more (apply_bounce_wanted()). Reads only. */
int judge_recalled(struct store *s, uint64_t parent, uint64_t id[BOUNCES_MAX], unsigned *n);
#endif
