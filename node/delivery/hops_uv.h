/* From a next hop's name to the addresses that can be tried, in order: MX, implicit MX, literals,
 * smarthosts (RFC 5321 5.1). */
#ifndef BATON_DELIVERY_HOPS_UV_H
#define BATON_DELIVERY_HOPS_UV_H

#include "node/delivery/dns_unbound.h"
#include "node/delivery/reply.h"

/* Addresses tried for one connection before the next hop counts as down. */
enum { HOPS_MAX = 20 };

struct hop {
    struct sockaddr_storage address; /* with port */
    char host[MX_NAME_MAX];
    bool no_tls; /* a handshake failed with it: plaintext next time (RFC 7435) */
    bool bad;    /* the last connection to it failed */
};

struct hops {
    unsigned n; /* 0: none, and failure says why */
    struct hop hop[HOPS_MAX];
    struct reply failure; /* code 0; enhanced 5.x: for good, 4.x: for now */
};

struct hops_query;
typedef void (*hops_done)(void *ctx, const struct hops *h);

/* domain NULL: host and port are a smarthost (name or address); else the domain's mail hosts, port
 * 25. self: our own name, which must not be delivered to. done is called once, from the loop,
 * unless cancelled. */
struct hops_query *hops_resolve(struct dns *dns, uv_loop_t *loop, const char *domain,
                                const char *host, uint16_t port, const char *self, uint64_t seed,
                                hops_done done, void *ctx);
void hops_cancel(struct hops_query *q);
#endif
