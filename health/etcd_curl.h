/* HTTP(S) to etcd, by libcurl on a thread of its own: a slow etcd, a slow name server or a TLS
 * handshake can't delay a heartbeat (protocol 6). Keeps the token; decides nothing. */
#ifndef BATON_HEALTH_ETCD_CURL_H
#define BATON_HEALTH_ETCD_CURL_H

#include <uv.h>

#include "health/etcd_json_curl.h"
#include "node/base/config.h"

struct etcd_curl;
/* On the loop's thread, once for each request that wasn't cancelled. */
typedef void (*etcd_curl_answer)(void *ctx, uint64_t id, const struct etcd_answer *a);

/* config outlives it. NULL: err has one line. */
struct etcd_curl *etcd_curl_new(uv_loop_t *loop, const struct config *config,
                                etcd_curl_answer answer, void *ctx, char *err, size_t n);
/* One at a time: not again before its answer or its cancellation. */
void etcd_curl_request(struct etcd_curl *e, const struct register_etcd_fx *fx);
void etcd_curl_cancel(struct etcd_curl *e, uint64_t id);
/* Loop's thread; answers nothing any more. */
void etcd_curl_close(struct etcd_curl *e);
#endif
