/* The replication thread: its own loop; listens on the replication port, dials the peer over every
 * configured address, TLS 1.3 with a pre-shared key per direction (protocol 10); runs replica.c;
 * carries out its effects in their order. */
#ifndef BATON_REPLICATION_REPLICATION_UV_H
#define BATON_REPLICATION_REPLICATION_UV_H

#include "node/base/config.h"
#include "replication/replica.h"

struct replication;

struct replication_hooks {
    void *ctx;
    void (*store)(void *ctx,
                  const struct store_request
                      *r); /* post to the storage thread (SR_CHANGES: its reader); copied */
    void (*report)(void *ctx, const struct pair_event *ev); /* post to health */
    void (*watermark)(void *ctx, uint32_t epoch, uint64_t committed, uint64_t settled,
                      uint64_t noted); /* post to relay and health_set_lsn */
    void (*epoch_over)(void *ctx);
    /* What became of a body that failed its checksum (enum verify_mended). */
    void (*mended)(void *ctx, uint64_t id, int how);
    void (*op_done)(void *ctx, uint64_t op, bool ok, const char *text); /* to an operator */
};

struct replication *replication_start(const struct config *c, const uint8_t cluster_key[32],
                                      const struct store_meta *meta,
                                      const struct replication_hooks *hooks, char *err, size_t n);
/* Any thread; all are posted in order. */
void replication_pair(struct replication *r, const struct pair_effect *fx);
void replication_reply(struct replication *r,
                       const struct store_reply *reply); /* takes reply->bytes */
void replication_batch(struct replication *r,
                       const struct own_batch *b); /* takes its own reference on b->rows */
/* Without another node it comes to the core with the next tick: nobody waits for it. */
void replication_durable(struct replication *r, struct pos end);
/* The operator's word about a store that was away for too long; answered by hooks.op_done. */
void replication_rejoin(struct replication *r, bool discard, uint64_t op);
void replication_notes(struct replication *r, struct slice frame); /* RE_NOTES; copied */
void replication_verify(struct replication *r, uint64_t op);       /* answered likewise */
void replication_mend(struct replication *r, uint64_t id);         /* answered by hooks.mended */
void replication_view(const struct replication *r,
                      struct replica_view *out); /* last published, at most 100 ms old */
bool replication_alive(const struct replication *r, uint64_t max_age_ns);
void replication_stop(struct replication *r);
#endif
