/* See dns_unbound.h. A query of ours is one (MX) or two (AAAA and A) of libunbound's; what the
 * callback of libunbound gets is `struct ask`, which outlives a cancelled query. */
#include "node/delivery/dns_unbound.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unbound.h>

enum { TYPE_A = 1, TYPE_MX = 15, TYPE_AAAA = 28, CLASS_IN = 1, RCODE_NXDOMAIN = 3 };

struct ask { /* one of libunbound's questions */
    struct dns_query *query;
    int id;
    bool pending;
    struct ub_result *result;
    int err;
};

struct dns_query {
    struct dns *dns;
    struct dns_query *next, *prev;
    uv_timer_t timer;
    struct ask ask[2];
    unsigned asks;
    bool mx, over;
    char *name;
    dns_done done;
    void *ctx;
};

struct dns {
    uv_loop_t *loop;
    struct ub_ctx *ub;
    uv_poll_t poll;
    struct dns_query *list;
    unsigned n;
    unsigned handles; /* open ones, the queries' timers included */
    bool closing;
    void (*closed)(void *ctx);
    void *closed_ctx;
};

static void released(struct dns *d)
{
    assert(d->handles);
    if (--d->handles || !d->closing)
        return;
    ub_ctx_delete(d->ub);
    if (d->closed)
        d->closed(d->closed_ctx);
    free(d);
}

static void poll_closed(uv_handle_t *h)
{
    released(h->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct dns *d = p->data;
    (void)status;
    (void)events;
    ub_process(d->ub);
}

static bool configure(struct dns *d, char *const *servers, unsigned n_servers, char *err, size_t n)
{
    int rc = ub_ctx_async(d->ub, 1); /* 1: a thread, 0 would fork */
    if (!rc)
        rc = ub_ctx_set_option(d->ub, "do-not-query-localhost:", "no");
    if (!rc)
        rc = ub_ctx_set_option(d->ub, "cache-max-negative-ttl:", "60");
    for (unsigned i = 0; !rc && i < n_servers; i++) {
        char addr[128];
        const char *colon = strrchr(servers[i], ':');
        const char *from = servers[i][0] == '[' ? servers[i] + 1 : servers[i];
        size_t host = colon ? (size_t)(colon - from) : strlen(from);
        if (host && from[host - 1] == ']')
            host--;
        snprintf(addr, sizeof addr, "%.*s@%s", (int)host, from, colon ? colon + 1 : "53");
        rc = ub_ctx_set_fwd(d->ub, addr);
        /* Whoever names servers has their zones in mind, also below names reserved for tests,
         * which libunbound would answer by itself. */
        ub_ctx_zone_remove(d->ub, "test.");
        ub_ctx_zone_remove(d->ub, "invalid.");
    }
    if (rc) {
        snprintf(err, n, "dns: %s", ub_strerror(rc));
        return false;
    }
    /* Neither file has to be there: without servers libunbound resolves from the root. */
    if (!n_servers && (rc = ub_ctx_resolvconf(d->ub, NULL)))
        snprintf(err, n, "dns: /etc/resolv.conf: %s", ub_strerror(rc));
    (void)ub_ctx_hosts(d->ub, NULL);
    return true;
}

struct dns *dns_new(uv_loop_t *loop, char *const *servers, unsigned n_servers, char *err, size_t n)
{
    struct dns *d = xcalloc(1, sizeof *d);
    d->loop = loop;
    d->ub = ub_ctx_create();
    if (!d->ub) {
        snprintf(err, n, "dns: libunbound can't start");
        free(d);
        return NULL;
    }
    if (!configure(d, servers, n_servers, err, n) || uv_poll_init(loop, &d->poll, ub_fd(d->ub))) {
        ub_ctx_delete(d->ub);
        free(d);
        return NULL;
    }
    d->poll.data = d;
    d->handles = 1;
    uv_poll_start(&d->poll, UV_READABLE, on_poll);
    return d;
}

static void query_closed(uv_handle_t *h)
{
    struct dns_query *q = h->data;
    struct dns *d = q->dns;
    for (unsigned i = 0; i < q->asks; i++)
        ub_resolve_free(q->ask[i].result);
    free(q->name);
    free(q);
    released(d);
}

/* Takes q out of use; its memory goes with its timer. */
static void retire(struct dns_query *q)
{
    if (q->over)
        return;
    q->over = true;
    for (unsigned i = 0; i < q->asks; i++) {
        if (q->ask[i].pending)
            ub_cancel(q->dns->ub, q->ask[i].id); /* its callback won't be called any more */
        q->ask[i].pending = false;
    }
    if (q->prev)
        q->prev->next = q->next;
    else
        q->dns->list = q->next;
    if (q->next)
        q->next->prev = q->prev;
    q->dns->n--;
    uv_close((uv_handle_t *)&q->timer, query_closed);
}

/* A name in wire format as text without the final dot; false: malformed, or not a host name. */
static bool name_from_wire(const uint8_t *p, size_t n, char *out)
{
    size_t o = 0, i = 0;
    while (i < n && p[i]) {
        size_t label = p[i++];
        if (label > 63 || i + label > n || o + label + 1 >= MX_NAME_MAX)
            return false;
        if (o)
            out[o++] = '.';
        for (size_t k = 0; k < label; k++, i++) {
            uint8_t c = p[i];
            if (c <= ' ' || c >= 0x7f || c == '.')
                return false;
            out[o++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
    }
    out[o] = 0;
    return i < n;
}

static void take_mx(struct dns_answer *a, const struct ub_result *r)
{
    for (int i = 0; r->data[i] && a->n < MX_MAX; i++) {
        const uint8_t *p = (const uint8_t *)r->data[i];
        size_t n = (size_t)r->len[i];
        if (n < 3 || !name_from_wire(p + 2, n - 2, a->mx[a->n].name))
            continue;
        a->mx[a->n++].preference = (uint16_t)(p[0] << 8 | p[1]);
    }
}

static void take_addresses(struct dns_answer *a, const struct ub_result *r)
{
    for (int i = 0; r->data[i] && a->n < DNS_ADDRESSES_MAX; i++) {
        struct sockaddr_storage *s = &a->address[a->n];
        memset(s, 0, sizeof *s);
        if (r->qtype == TYPE_A && r->len[i] == 4) {
            s->ss_family = AF_INET;
            memcpy(&((struct sockaddr_in *)s)->sin_addr, r->data[i], 4);
        } else if (r->qtype == TYPE_AAAA && r->len[i] == 16) {
            s->ss_family = AF_INET6;
            memcpy(&((struct sockaddr_in6 *)s)->sin6_addr, r->data[i], 16);
        } else {
            continue;
        }
        a->n++;
    }
}

/* Status of one result; the strongest over all asks decides where no data came. */
static enum dns_status judge(const struct dns_query *q, const struct ask *k, struct dns_answer *a)
{
    const struct ub_result *r = k->result;
    if (k->err || !r || r->bogus || (r->rcode != 0 && r->rcode != RCODE_NXDOMAIN)) {
        snprintf(a->why, sizeof a->why, "DNS lookup of %.120s failed: %s", q->name,
                 k->err               ? ub_strerror(k->err)
                 : r && r->bogus      ? "DNSSEC validation failed"
                 : r && r->rcode == 2 ? "server failure"
                                      : "refused");
        return DNS_FAILED;
    }
    if (r->nxdomain || r->rcode == RCODE_NXDOMAIN)
        return DNS_NO_DOMAIN;
    return r->havedata ? DNS_OK : DNS_NO_DATA;
}

static void finish(struct dns_query *q)
{
    struct dns_answer a = {.status = DNS_OK};
    enum dns_status worst = DNS_OK;
    for (unsigned i = 0; i < q->asks; i++) {
        enum dns_status st = judge(q, &q->ask[i], &a);
        if (st == DNS_OK && q->mx)
            take_mx(&a, q->ask[i].result);
        else if (st == DNS_OK)
            take_addresses(&a, q->ask[i].result);
        if (st > worst)
            worst = st;
    }
    if (a.n == 0) {
        a.status = worst == DNS_OK ? DNS_FAILED : worst;
        if (worst == DNS_OK)
            snprintf(a.why, sizeof a.why, "no record of %.120s can be used", q->name);
        if (a.status == DNS_NO_DOMAIN)
            snprintf(a.why, sizeof a.why, "domain %.120s does not exist", q->name);
        else if (a.status == DNS_NO_DATA)
            snprintf(a.why, sizeof a.why, "%.120s has no %s", q->name, q->mx ? "MX" : "address");
    }
    dns_done done = q->done;
    void *ctx = q->ctx;
    retire(q);
    done(ctx, &a);
}

static void on_timer(uv_timer_t *t);

static void on_resolved(void *data, int err, struct ub_result *result)
{
    struct ask *k = data;
    k->pending = false;
    k->err = err;
    k->result = result;
    for (unsigned i = 0; i < k->query->asks; i++)
        if (k->query->ask[i].pending)
            return;
    /* Delivered from the timer: the first of two may be answered while the second is asked, and
     * the owner must not be called from within its own call. */
    uv_timer_start(&k->query->timer, on_timer, 0, 0);
}

static void on_timer(uv_timer_t *t)
{
    struct dns_query *q = t->data;
    bool pending = false;
    for (unsigned i = 0; i < q->asks; i++)
        pending |= q->ask[i].pending;
    if (!pending) {
        finish(q);
        return;
    }
    struct dns_answer a = {.status = DNS_FAILED};
    snprintf(a.why, sizeof a.why, "DNS lookup of %.120s timed out after %d s", q->name,
             DNS_TIMEOUT_MS / 1000);
    dns_done done = q->done;
    void *ctx = q->ctx;
    retire(q);
    done(ctx, &a);
}

static struct dns_query *ask(struct dns *d, const char *name, const int *types, unsigned n,
                             dns_done done, void *ctx)
{
    struct dns_query *q = xcalloc(1, sizeof *q);
    assert(!d->closing && n <= 2);
    *q = (struct dns_query){.dns = d,
                            .next = d->list,
                            .asks = n,
                            .mx = types[0] == TYPE_MX,
                            .name = xstrdup(name),
                            .done = done,
                            .ctx = ctx};
    if (d->list)
        d->list->prev = q;
    d->list = q;
    d->n++;
    d->handles++;
    uv_timer_init(d->loop, &q->timer);
    q->timer.data = q;
    uv_timer_start(&q->timer, on_timer, DNS_TIMEOUT_MS, 0);
    bool any = false;
    for (unsigned i = 0; i < n; i++)
        q->ask[i] = (struct ask){.query = q, .pending = true};
    for (unsigned i = 0; i < n; i++) {
        int rc = d->n > DNS_QUERIES_MAX ? UB_NOMEM
                                        : ub_resolve_async(d->ub, name, types[i], CLASS_IN,
                                                           &q->ask[i], on_resolved, &q->ask[i].id);
        if (rc) {
            q->ask[i].pending = false;
            q->ask[i].err = rc;
        }
        any |= q->ask[i].pending;
    }
    if (!any)
        uv_timer_start(&q->timer, on_timer, 0, 0);
    return q;
}

struct dns_query *dns_mx(struct dns *d, const char *name, dns_done done, void *ctx)
{
    static const int types[] = {TYPE_MX};
    return ask(d, name, types, 1, done, ctx);
}

struct dns_query *dns_addresses(struct dns *d, const char *name, dns_done done, void *ctx)
{
    static const int types[] = {TYPE_AAAA, TYPE_A};
    return ask(d, name, types, 2, done, ctx);
}

void dns_cancel(struct dns_query *q)
{
    retire(q);
}

void dns_close(struct dns *d, void (*closed)(void *ctx), void *ctx)
{
    d->closed = closed;
    d->closed_ctx = ctx;
    d->closing = true;
    while (d->list)
        retire(d->list);
    uv_close((uv_handle_t *)&d->poll, poll_closed);
}
