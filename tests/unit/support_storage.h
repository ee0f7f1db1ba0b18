/* The storage thread with a real disk, as tests use it: what it tells is kept in a rig, and each
 * question waits for its answer, with a time-out. */
#ifndef BATON_TESTS_SUPPORT_STORAGE_H
#define BATON_TESTS_SUPPORT_STORAGE_H

#include <pthread.h>
#include <uv.h>

#include "node/queue/storage_uv.h"

struct rig {
    struct config config;
    struct storage *storage;
    struct store_meta meta;
    uv_loop_t loop;
    struct mailbox *mail;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct pos batched, durable;
    pthread_t batched_by, durable_by;
    bool order_broken;
    uint64_t n_rows;
    struct store_reply replies[64];
    unsigned n_replies, taken;
    struct mail *back[256];
    unsigned n_back;
    _Atomic int failed;
    char opstate[64];
    int fd; /* of the child: durable positions go to the parent */
};

void rig_start(struct rig *r, const char *path);
void rig_start_alone(struct rig *r, const char *path); /* nobody wants its batches */
void rig_stop(struct rig *r);
struct store_reply rig_ask(struct rig *r, struct store_request q);
uint32_t rig_promote(struct rig *r, uint32_t epoch);
void *rig_next(struct rig *r);
struct storage_op *rig_op(struct rig *r, enum storage_op_type type, uint32_t epoch);
struct storage_op *rig_add(struct rig *r, uint32_t epoch, uint64_t id, unsigned seed, unsigned n);
enum op_result rig_wait(struct rig *r);
struct storage_read *rig_get(struct rig *r, struct storage_read q);
int rig_state(struct rig *r, uint64_t id, uint32_t index, uint8_t *message_state);
#endif
