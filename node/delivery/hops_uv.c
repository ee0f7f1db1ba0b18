/* See hops_uv.h. Asks for MX, then for the addresses of one host after the other until there are
 * enough; libunbound's cache makes the repetition cheap. */
#include "node/delivery/hops_uv.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/delivery/domain_idn2.h"

struct hops_query {
    struct dns *dns;
    struct dns_query *under_way;
    uv_timer_t soon; /* answers that need no DNS still come from the loop */
    char *domain, *self;
    uint64_t seed;
    uint16_t port;
    unsigned n, at; /* hosts, in order */
    struct mx_record host[MX_MAX];
    bool implicit, temporary;
    char why[200];
    struct hops hops;
    hops_done done;
    void *ctx;
};

static void soon_closed(uv_handle_t *h)
{
    struct hops_query *q = h->data;
    free(q->domain);
    free(q->self);
    free(q);
}

void hops_cancel(struct hops_query *q)
{
    if (q->under_way)
        dns_cancel(q->under_way);
    q->under_way = NULL;
    uv_close((uv_handle_t *)&q->soon, soon_closed);
}

static void answer(struct hops_query *q)
{
    assert(q->hops.n || q->hops.failure.enhanced[0]);
    q->done(q->ctx, &q->hops);
    uv_close((uv_handle_t *)&q->soon, soon_closed);
}

static void answer_failure(struct hops_query *q, const char *enhanced, const char *text)
{
    q->hops.n = 0;
    reply_set(&q->hops.failure, 0, enhanced, text);
    answer(q);
}

static void add(struct hops_query *q, const struct sockaddr_storage *a, const char *host)
{
    if (q->hops.n == HOPS_MAX)
        return;
    struct hop *h = &q->hops.hop[q->hops.n++];
    *h = (struct hop){.address = *a};
    memcpy(h->host, host, strnlen(host, sizeof h->host - 1)); /* the rest is zeros */
    if (a->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&h->address)->sin6_port = htons(q->port);
    else
        ((struct sockaddr_in *)&h->address)->sin_port = htons(q->port);
}

static bool literal(struct hops_query *q, const char *text)
{
    struct sockaddr_storage a = {0};
    if (uv_ip4_addr(text, 0, (struct sockaddr_in *)&a) &&
        uv_ip6_addr(text, 0, (struct sockaddr_in6 *)&a))
        return false;
    add(q, &a, text);
    return true;
}

static void next_host(struct hops_query *q);

static void on_addresses(void *ctx, const struct dns_answer *a)
{
    struct hops_query *q = ctx;
    q->under_way = NULL;
    if (a->status == DNS_OK)
        for (unsigned i = 0; i < a->n; i++)
            add(q, &a->address[i], q->host[q->at].name);
    else
        snprintf(q->why, sizeof q->why, "%s", a->why);
    q->temporary |= a->status == DNS_FAILED;
    q->at++;
    next_host(q);
}

static void next_host(struct hops_query *q)
{
    if (q->at < q->n && q->hops.n < HOPS_MAX) {
        q->under_way = dns_addresses(q->dns, q->host[q->at].name, on_addresses, q);
        return;
    }
    if (q->hops.n)
        answer(q);
    else if (q->temporary || !q->domain)
        answer_failure(q, "4.4.3", q->why); /* a smarthost's name is our own configuration */
    else
        answer_failure(q, q->implicit ? "5.1.2" : "5.4.4", q->why);
}

static void on_mx(void *ctx, const struct dns_answer *a)
{
    struct hops_query *q = ctx;
    q->under_way = NULL;
    if (a->status == DNS_FAILED || a->status == DNS_NO_DOMAIN) {
        answer_failure(q, a->status == DNS_FAILED ? "4.4.3" : "5.1.2", a->why);
        return;
    }
    q->n = a->status == DNS_OK ? a->n : 0;
    q->implicit = q->n == 0;
    memcpy(q->host, a->mx, q->n * sizeof *q->host);
    switch (mx_order(q->host, &q->n, slice_str(q->domain), q->self, q->seed)) {
    case MX_NULL:
        answer_failure(q, "5.1.10", "the domain accepts no mail (null MX)");
        break;
    case MX_LOOP:
        answer_failure(q, "5.4.6", "mail for this domain loops back to ourselves");
        break;
    case MX_OK:
        next_host(q);
        break;
    }
}

static void on_soon(uv_timer_t *t)
{
    answer(t->data);
}

struct hops_query *hops_resolve(struct dns *dns, uv_loop_t *loop, const char *domain,
                                const char *host, uint16_t port, const char *self, uint64_t seed,
                                hops_done done, void *ctx)
{
    struct hops_query *q = xcalloc(1, sizeof *q);
    char text[MX_NAME_MAX];
    *q = (struct hops_query){.dns = dns,
                             .domain = domain ? xstrdup(domain) : NULL,
                             .self = xstrdup(self),
                             .seed = seed,
                             .port = domain ? 25 : port,
                             .done = done,
                             .ctx = ctx};
    uv_timer_init(loop, &q->soon);
    q->soon.data = q;
    if (domain && domain[0] == '[') {
        if (!mx_literal(slice_str(domain), text, sizeof text) || !literal(q, text))
            reply_set(&q->hops.failure, 0, "5.1.3", "the address literal is no address");
        uv_timer_start(&q->soon, on_soon, 0, 0);
    } else if (domain && !domain_to_ascii(domain, text, sizeof text)) {
        reply_set(&q->hops.failure, 0, "5.1.2", "the domain is no valid name");
        uv_timer_start(&q->soon, on_soon, 0, 0);
    } else if (domain) {
        free(q->domain);
        q->domain = xstrdup(text);
        q->under_way = dns_mx(dns, q->domain, on_mx, q);
    } else if (literal(q, host)) {
        uv_timer_start(&q->soon, on_soon, 0, 0);
    } else {
        q->n = 1;
        snprintf(q->host[0].name, MX_NAME_MAX, "%s", host);
        next_host(q);
    }
    return q;
}
