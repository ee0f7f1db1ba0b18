/* The record and the ballots of the register (protocol 1 and 5). Core. */
#ifndef BATON_HEALTH_RECORD_H
#define BATON_HEALTH_RECORD_H

#include "node/base/buf.h"
#include "node/base/ids.h"
#include "node/base/wire.h"

enum { NODE_A = 0, NODE_B = 1, NODES = 2, WITNESS = 2, VOTERS = 3 };

struct record {
    uint64_t version; /* 0: no record yet */
    uint32_t epoch;
    uint8_t primary; /* NODE_A or NODE_B */
    bool in_sync[NODES];
    struct store_id store[NODES]; /* which store of that node is meant; meaningful where in_sync */
    bool forced;
    uint64_t tag; /* random; names this very record */
};

struct ballot { /* (counter, node, voter id), compared in that order; all zeros: none */
    uint64_t counter;
    uint8_t node;
    uint64_t voter;
};
int ballot_cmp(struct ballot a, struct ballot b);

/* What an operation on the register rests on where the other node doesn't answer. Only asked for
 * when there is no arbiter (register_none.h); a third voter needs no reasons. */
enum warrant {
    WARRANT_NONE,     /* nothing: needs the other node's vote */
    WARRANT_SERVING,  /* a primary in its own epoch goes on, or drops the standby */
    WARRANT_SILENT,   /* the primary is silent */
    WARRANT_GIVEN_UP, /* its primary gave up exactly the epoch that is replaced */
    WARRANT_ORDERED,  /* an operator's word: the other node is dead */
    WARRANT_FORCED,   /* an operator's --force */
};

bool record_encode(struct buf *b, const struct record *r);
bool record_decode(struct wire_reader *r, struct record *out);
bool ballot_encode(struct buf *b, struct ballot x);
struct ballot ballot_decode(struct wire_reader *r);
static inline bool record_names(const struct record *r, unsigned node, const struct store_id *store)
{
    return r->version && r->in_sync[node] && store_id_eq(&r->store[node], store);
}
static inline bool record_paired(const struct record *r)
{
    return r->in_sync[0] && r->in_sync[1];
}
/* Of two records that were accepted without the other node's knowledge (arbiter = none) the one of
 * the higher epoch goes on, then that of the higher version. < 0: a is older. */
int record_cmp(const struct record *a, const struct record *b);
/* The next epoch of that node above `above`: a uses even, b odd numbers. */
uint32_t epoch_next(uint32_t above, unsigned node);
#endif
