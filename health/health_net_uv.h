/* The health thread's sockets: one on every own address for the peer, one more towards the
 * witness; the witness's name is looked up here, and again while it is silent. Decides nothing. */
#ifndef BATON_HEALTH_HEALTH_NET_UV_H
#define BATON_HEALTH_HEALTH_NET_UV_H

#include <uv.h>

#include "health/datagram_openssl.h"
#include "node/base/config.h"

struct health_net;
/* An authentic datagram, its kind and sender checked. */
typedef void (*health_net_receive)(void *ctx, const struct datagram *d);

/* Binds. NULL: err has one line. c must outlive it. */
struct health_net *health_net_open(uv_loop_t *loop, const struct config *c,
                                   const uint8_t cluster_key[32], health_net_receive receive,
                                   void *ctx, char *err, size_t n);
/* Everything that waits in the sockets, up to a cap: called before any timer's work, so that a node
 * that was frozen reads before it judges (protocol 6, incident 24). */
void health_net_drain(struct health_net *net);
void health_net_send_heartbeat(struct health_net *net, struct slice payload);
void health_net_send_register(struct health_net *net, unsigned to, const struct register_msg *m);
/* Once a second or so: looks the witness up again while it is silent. */
void health_net_tick(struct health_net *net, bool witness_reachable);
/* Handles close on the loop; frees itself after the last. */
void health_net_close(struct health_net *net);
#endif
