/* What a node's parts and threads call of each other, and what they post to the relay's loop.
 * Between node_uv.c and node_calls_uv.c. */
#ifndef BATON_NODE_NODE_CALLS_UV_H
#define BATON_NODE_NODE_CALLS_UV_H

#include "node/node_uv.h"

enum { NODE_TICK_MS = 100 }; /* of the relay's timer: how old its sign of life may be */

enum node_mail_type {
    MAIL_EFFECT = 1,
    MAIL_VIEW,
    MAIL_MARK,
    MAIL_EPOCH_OVER,
    MAIL_OPERATE,
    MAIL_READ, /* storage_read coming back for the operators */
    MAIL_DESTINATIONS,
    MAIL_RELOAD,
    MAIL_OPSTATE,
    MAIL_MENDED,
    MAIL_MERGED,
};

struct node_mail {
    struct mail mail;
    union {
        struct pair_effect effect;
        struct pair_view view;
        struct storage_op *op;
        struct {
            uint64_t token;
            char *text; /* DESTINATIONS: what is queued; owned */
        };
        struct {
            uint64_t id;
            int how; /* enum verify_mended */
        } mended;
        struct {
            char *bytes; /* owned: the key, then the value */
            size_t n_key, n_value;
        } opstate;
        struct pos merged;
        struct {
            uint32_t epoch;
            uint64_t committed, settled, noted;
        } mark;
    };
};

/* Any thread; content is copied, NULL: nothing but the type. */
void node_post(struct node *n, enum node_mail_type type, const struct node_mail *content);

struct storage_hooks node_storage_hooks(struct node *n);
struct replication_hooks node_replication_hooks(struct node *n);
struct health_hooks node_health_hooks(struct node *n);
struct control_hooks node_control_hooks(struct node *n);
struct delivery_hooks node_delivery_hooks(struct node *n);
/* Whether the wall clock may decide that mail is too old, and history (health/wall.h). */
bool node_may_expire(const struct node *n);
int node_answer_http(void *ctx, const char *path, struct buf *body, const char **content_type);

/* Tells health what the store is. */
void node_post_store(struct node *n, const struct store_meta *m);
/* `takeover off --for` has ended? Relay's loop, once a second. */
void node_end_takeover_off(struct node *n);
#endif
