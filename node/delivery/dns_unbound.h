/* DNS on the relay's loop, by libunbound. Its resolver runs on a thread of its own (never a forked
 * process) and wakes the loop through a pipe; it keeps the cache. */
#ifndef BATON_DELIVERY_DNS_UNBOUND_H
#define BATON_DELIVERY_DNS_UNBOUND_H

#include <uv.h>

#include "node/delivery/mx.h"

enum {
    /* Own deadline: a dead server would take libunbound 17 s. */
    DNS_TIMEOUT_MS = 10000,
    DNS_ADDRESSES_MAX = 16, /* of one host; more is an attempt to keep us busy */
    /* Questions under way; more wait in the caller (a destination asks one at a time). */
    DNS_QUERIES_MAX = 2000,
};

enum dns_status { DNS_OK, DNS_NO_DOMAIN, DNS_NO_DATA, DNS_FAILED /* for now */ };

struct dns_answer {
    enum dns_status status;
    unsigned n; /* of the kind asked for; DNS_OK has at least one */
    union {
        struct mx_record mx[MX_MAX];
        struct sockaddr_storage address[DNS_ADDRESSES_MAX]; /* IPv6 first; port 0 */
    };
    char why[200]; /* one line when the status isn't DNS_OK */
};

struct dns;
struct dns_query;
typedef void (*dns_done)(void *ctx, const struct dns_answer *a);

/* servers: "addr:port" each, none: what /etc/resolv.conf says. NULL: err (size n) has one line. */
struct dns *dns_new(uv_loop_t *loop, char *const *servers, unsigned n_servers, char *err, size_t n);
/* done is called once, from the loop, unless the query is cancelled before; never from within this
 * call. name is copied. */
struct dns_query *dns_mx(struct dns *d, const char *name, dns_done done, void *ctx);
struct dns_query *dns_addresses(struct dns *d, const char *name, dns_done done, void *ctx);
void dns_cancel(struct dns_query *q);
/* Cancels what is under way; frees d when its handles are closed, then calls closed(ctx). */
void dns_close(struct dns *d, void (*closed)(void *ctx), void *ctx);
#endif
