/* Two replica cores with their stores, in one thread and virtual time: a storage thread each, its
 * reader, and a link between them, each a queue of its own; a seed decides what moves next. The
 * stores are memory, what is done to them is the real apply.c and own.c. */
#ifndef BATON_TESTS_SUPPORT_REPLICA_H
#define BATON_TESTS_SUPPORT_REPLICA_H

#include "replication/replica.h"
#include "tests/sim/rng.h"
#include "tests/sim/store_memory.h"

enum { WORLD_REPORTS = 4096 };

struct world_node {
    struct world *world;
    unsigned self;
    struct store *store;
    struct replica *core;
    struct replica_config cfg;
    bool up, dialling;
    uint32_t writer;  /* epoch; 0: closed */
    bool fail_commit; /* the next own transaction fails after it was handed over */
    /* queues */
    struct job *jobs, **jobs_end;   /* storage thread */
    struct job *reads, **reads_end; /* its reader */
    struct job *inbox, **inbox_end; /* to the core */
    struct own *own;
    bool own_open, stalled, reads_stalled;
    uint64_t sequence;   /* of message ids */
    uint32_t recipients; /* of a message that is added; 0: one */
    /* what it was told */
    uint32_t epoch;
    uint64_t committed, settled, noted, epoch_overs, logs, op_answers;
    bool op_ok;                   /* the newest answer to an operator */
    uint64_t mended_id, n_mended; /* the newest RX_MENDED, how many */
    enum verify_mended mended;
    struct pos remembered;            /* by storage, for its next transaction */
    bool wants_to_empty, keeps_store; /* PE_EMPTY stands; it is never answered */
    bool serving_waits;               /* the record (or a pending change) names the other */
    struct pair_event reports[WORLD_REPORTS];
    unsigned n_reports, seen_reports;
};

struct world {
    struct rng rng;
    uint64_t now;
    struct world_node node[2];
    /* The connection: dialled by `dialler`; one id at each end. */
    bool linked, cut;
    unsigned dialler;
    uint64_t id[2], ids;
    struct job *wire[2], **wire_end[2]; /* wire[i]: on its way to node i */
    uint64_t frames[2];                 /* delivered to it */
    bool hold[2];                       /* nothing is delivered to it */
};

void world_init(struct world *w, uint64_t seed, size_t ring_bytes);
void world_free(struct world *w);
/* One thing happens somewhere. False: nothing is left but the passing of time. */
bool world_step(struct world *w);
/* Until nothing moves any more; time goes on by `ms` in ticks. */
void world_run(struct world *w, unsigned ms);
void world_cut(struct world *w); /* the connection breaks; frames on their way are lost */
/* The process ends: what isn't synced is lost. Comes back with world_start(). */
void world_crash(struct world *w, unsigned node);
void world_start(struct world *w, unsigned node);
void world_new_disk(struct world *w, unsigned node); /* while it is down */

void world_pair(struct world *w, unsigned node, struct pair_effect fx);
void world_promote(struct world *w, unsigned node, uint32_t epoch, bool paired);
void world_follow(struct world *w, unsigned node, uint32_t epoch);
/* The storage thread of `node` alone has one turn. */
void world_storage(struct world *w, unsigned node);
/* Adds a message with one recipient; its id, or 0 when the writer is closed. */
uint64_t world_add(struct world *w, unsigned node);
void world_deliver(struct world *w, unsigned node, uint64_t id); /* its outcome */
void world_defer(struct world *w, unsigned node, uint64_t id);   /* one more attempt that failed */
/* Operator state; both texts outlive the world. */
void world_say(struct world *w, unsigned node, const char *key, const char *value);
/* Delivery notes that message, under this key and in the frame of that number; id 0: withdraws. */
void world_note(struct world *w, unsigned node, uint64_t number, uint64_t key, uint64_t id);

/* One request of the storage thread or its reader, carried out at once on n's store; false: it
 * isn't answered. What a merge writes goes into n's queues. */
bool world_serve(struct world_node *n, const struct store_request *q, struct store_reply *reply);
/* Puts a message with one recipient and a body of that size into n's open transaction. */
int world_put_message(struct world_node *n, uint64_t id, size_t body_bytes);

/* What a comparison asks of n's store (SR_DIGESTS, SR_ROWS, SR_MEND). The body of message id is
 * right if it is world_body(id). */
void world_compare(struct world_node *n, const struct store_request *q, struct store_reply *reply);
void world_body(uint8_t *p, size_t n, uint64_t id);
/* A byte of that message's body is another one from now on. */
void world_rot(struct world *w, unsigned node, uint64_t id);

const struct store_meta *world_meta(const struct world *w, unsigned node);
struct store_id world_store_id(const struct world *w, unsigned node);
/* The next report of that type that wasn't looked at; NULL: none. Skips others. */
const struct pair_event *world_report(struct world *w, unsigned node, enum pair_event_type type);
unsigned world_count(const struct world *w, unsigned node, enum pair_event_type type);
bool world_has(const struct world *w, unsigned node, uint64_t id);
/* State of its recipient; -1: not there. */
int world_state(const struct world *w, unsigned node, uint64_t id);
/* Both stores hold the same rows, and nothing is unmerged. */
bool world_equal(const struct world *w);
bool world_stores_equal(const struct store *a, const struct store *b);
#endif
