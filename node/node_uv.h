/* One node, put together: which thread hears of what. Decides nothing that a core could decide; see
 * node_uv.c for the wiring. */
#ifndef BATON_NODE_NODE_UV_H
#define BATON_NODE_NODE_UV_H

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#include "health/health_uv.h"
#include "health/http_mhd.h"
#include "node/control/control_uv.h"
#include "node/delivery/delivery_uv.h"
#include "node/hooks_posix.h"
#include "node/smtp/server_uv.h"
#include "replication/replication_uv.h"

enum { CONFIGS_MAX = 1024 }; /* reloads in one life; each keeps its configuration until the end */

/* What the relay's loop publishes for other threads. */
struct relay_snapshot {
    struct smtp_stats smtp;
    struct delivery_stats delivery;
    struct queue_stats queue;
    enum smtp_gate gate;
    uint64_t disk_free_bytes;
};

struct node {
    uv_loop_t *loop;
    struct config *config;
    struct config *configs[CONFIGS_MAX]; /* all of this life: threads hold pointers into them */
    unsigned n_configs;
    bool single; /* there is no other node; as this life began, whatever a reload says */
    uint8_t key[32];
    int64_t started_ms;
    uint64_t started_ns;

    struct storage *storage;
    struct queue *queue;
    struct smtp_server *smtp;
    struct delivery *delivery;
    struct events *events;
    struct hooks *hooks;
    struct hooks *fence; /* a helper of its own: never behind a slow hook. NULL: no fence command */
    struct replication *replication;
    struct health *health;
    struct control *control;
    struct http *http;
    struct mailbox *mail; /* other threads to the relay's loop */
    uv_timer_t timer;
    uv_signal_t sigterm, sigint, sighup, sigpipe;

    /* relay's loop */
    struct pair_view view;
    uint32_t serving;               /* epoch the queue takes operations in; 0: none */
    bool quiesce, deliveries_ended; /* PX_QUIESCE isn't answered yet; what it waits for */
    bool tail_released, disk_low, stopping, ended;
    int exit_status;
    struct { /* the newest heard; may come before the order to serve */
        uint32_t epoch;
        uint64_t committed, settled, noted;
    } mark;
    uint64_t ticks, last_alarm_ns, stop_by_ns;
    uint64_t serving_ns; /* since when it serves in its newest epoch; 0: not in this life */
    uint64_t disk_free_bytes;
    unsigned closing; /* parts whose close callback is still due */

    _Atomic uint64_t relay_alive_ns, own_lsn;
    _Atomic int64_t takeover_until_ms; /* when automatic takeover is on again; 0: no such time */
    _Atomic bool store_full;           /* the store failed for want of space */
    _Atomic bool virgin;               /* the store has never held a history */
    pthread_rwlock_t
        running;          /* held for reading by every call from thread to thread; see enter() */
    bool calls_over;      /* guarded by it */
    pthread_mutex_t lock; /* guards snapshot and config */
    struct relay_snapshot snapshot;
};

/* Opens, binds and starts everything; takes c. NULL: err (size n) has one line. */
struct node *node_start(uv_loop_t *loop, struct config *c, char *err, size_t n);
/* Runs until a stop has ended, then frees the node. The process's exit status: 0, or
 * NODE_EXIT_AGAIN for whoever supervises it to start it anew. */
enum { NODE_EXIT_AGAIN = 75 };
int node_run(struct node *n);

/* node_status_posix.c: any thread. */
void node_status(void *node, struct node_status *out);
#endif
