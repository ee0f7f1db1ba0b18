/* The record as one key in etcd (protocol 5, the paragraph on etcd): which request goes to which
 * endpoint, what an answer means, time-outs, repetition. Core: answers, time and "persisted" in,
 * effects out; HTTP, JSON and TLS are the driver's (etcd_curl.c). One of the kinds of arbiter.h.
 *
 * Happy path of a change: range -> compare by tag -> put, if the key's revision and bytes are still
 * those -> what was seen is durable here -> done. A read is range and a put of the same record
 * under a new seal: no earlier change of anybody, compared with what was there before, can take
 * effect afterwards. Failure: nothing was put: not done; a put was sent and its answer didn't come:
 * unknown, until a read.
 *
 * An etcd that holds less than this node has seen was emptied or restored from a backup. It counts
 * as empty: a change is not done, a read ends as REG_BEHIND, until pair.c says, as the read finds
 * that, that the newest record seen here is the newest there is (arbiter_events.may_give_back): it
 * then puts that one back, in the next lineage. Lineages and revisions order what was seen: a
 * restored etcd gives the same revisions out again, but in an older lineage. Never followed in any
 * lineage: an epoch below one that was seen.
 *
 * What was seen is durable before an outcome is told. So whatever a node has acted upon is known to
 * it after a crash, and of all records that anybody acted upon, the newest is known to a node. */
#ifndef BATON_HEALTH_REGISTER_ETCD_H
#define BATON_HEALTH_REGISTER_ETCD_H

#include "health/arbiter.h"
#include "health/etcd_value.h"

/* What was seen last, kept in a voter's row: accepted = promised = (lineage, 0, revision). */
struct register_etcd_config {
    unsigned self;
    const char *const *endpoint; /* names for people; outlive it */
    unsigned n_endpoints;
    bool authenticate; /* a user is configured */
    struct voter_state seen;
    uint64_t random;
};

enum etcd_request { ETCD_AUTHENTICATE, ETCD_RANGE, ETCD_PUT };
struct register_etcd_fx {
    enum { ETCD_FX_REQUEST, ETCD_FX_CANCEL, ETCD_FX_PERSIST } type;
    uint64_t id; /* REQUEST, CANCEL: the request under way; there is one at most */
    unsigned endpoint;
    enum etcd_request request;
    uint64_t timeout_ns; /* for the driver's own care; the core cancels by itself */
    /* PUT: `value`, if the key's modification revision and value are these (revision 0: there is no
     * key), else what is there is asked for in the same transaction. */
    uint64_t expect_revision;
    struct slice expect, value;
    bool expect_any;          /* never; a mutant of the simulator */
    struct voter_state state; /* PERSIST: write durably, then register_etcd_persisted() */
};
/* Must not answer from within. */
typedef void (*register_etcd_emit)(void *ctx, const struct register_etcd_fx *fx);

struct etcd_answer {
    enum {
        ETCD_ANSWERED,
        ETCD_NOT_SENT, /* nothing of it can have reached etcd */
        ETCD_LOST,     /* sent, perhaps, and no answer, or one that leaves it open */
        ETCD_REFUSED,  /* etcd says that it didn't do it */
        ETCD_NO_TOKEN, /* the same, for want of a valid token */
    } what;
    bool put;           /* PUT: the comparison held, and it is done */
    uint64_t revision;  /* of the key: as put, or as found; 0: there is no key */
    struct slice value; /* as found */
    const char *error;  /* one line, where it wasn't answered */
};

struct register_etcd;
/* The arbiter is its first member. Nothing is emitted before the first tick. */
struct register_etcd *register_etcd_new(const struct register_etcd_config *c,
                                        const struct arbiter_events *events,
                                        register_etcd_emit emit, void *ctx);
void register_etcd_free(struct register_etcd *r);
struct arbiter *register_etcd_arbiter(struct register_etcd *r);
/* id: of the request; answers to others than the one under way are ignored. */
void register_etcd_answer(struct register_etcd *r, uint64_t id, const struct etcd_answer *a,
                          uint64_t now_ns);
void register_etcd_persisted(struct register_etcd *r, bool ok, uint64_t now_ns);
#endif
