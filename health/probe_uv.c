/* See probe_uv.h. A probe's socket lives for one try; its result is told when the handle is closed,
 * so the next round finds everything free. */
#include "health/probe_uv.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/buf.h"
#include "node/base/clock_posix.h"
#include "node/base/stream_uv.h"

enum {
    PROBE_TIMEOUT_MS = 400, /* well below takeover_after: a takeover waits for the answer */
};

struct probe {
    struct probes *all;
    unsigned index;
    struct sockaddr_storage to;
    uv_tcp_t tcp;
    uv_timer_t limit;
    uv_connect_t connect;
    uint64_t begun_ns;
    bool busy, answered;
};

struct probes {
    uv_loop_t *loop;
    probe_result result;
    void *ctx;
    bool closing;
    unsigned n, handles; /* handles that are not closed yet */
    struct probe probe[];
};

static void free_if_closed(struct probes *p)
{
    if (p->closing && p->handles == 0)
        free(p);
}

static void on_closed(uv_handle_t *h)
{
    struct probe *q = h->data;
    struct probes *p = q->all;
    p->handles--;
    q->busy = false;
    if (p->closing)
        free_if_closed(p);
    else
        p->result(p->ctx, q->index, q->answered, q->begun_ns);
}

static void end(struct probe *q, bool answered)
{
    if (uv_is_closing((uv_handle_t *)&q->tcp))
        return;
    q->answered = answered;
    uv_timer_stop(&q->limit);
    uv_close((uv_handle_t *)&q->tcp, on_closed);
}

static void on_connect(uv_connect_t *c, int status)
{
    /* Refused: by the address asked, so it is there. */
    end(c->data, status == 0 || status == UV_ECONNREFUSED || status == UV_ECONNRESET);
}

static void on_limit(uv_timer_t *t)
{
    end(t->data, false);
}

struct probes *probes_new(uv_loop_t *loop, char *const *addresses, unsigned n_addresses,
                          probe_result result, void *ctx, char *err, size_t n)
{
    struct probes *p = xcalloc(1, sizeof *p + n_addresses * sizeof p->probe[0]);
    p->loop = loop;
    p->result = result;
    p->ctx = ctx;
    p->n = n_addresses;
    for (unsigned i = 0; i < n_addresses; i++) {
        struct probe *q = &p->probe[i];
        q->all = p;
        q->index = i;
        if (!address_parse(addresses[i], &q->to)) {
            snprintf(err, n, "arbiter.probes: %s is not an address with a port", addresses[i]);
            free(p);
            return NULL;
        }
    }
    for (unsigned i = 0; i < n_addresses; i++) {
        struct probe *q = &p->probe[i];
        uv_timer_init(loop, &q->limit);
        q->limit.data = q->connect.data = q;
        p->handles++;
    }
    return p;
}

static void run(struct probe *q)
{
    struct probes *p = q->all;
    assert(!q->busy);
    q->busy = true;
    q->answered = false;
    q->begun_ns = clock_boot_ns();
    int rc = uv_tcp_init(p->loop, &q->tcp);
    assert(rc == 0);
    (void)rc;
    q->tcp.data = q;
    p->handles++;
    uv_timer_start(&q->limit, on_limit, PROBE_TIMEOUT_MS, 0);
    if (uv_tcp_connect(&q->connect, &q->tcp, (struct sockaddr *)&q->to, on_connect) != 0)
        end(q, false);
}

void probes_run(struct probes *p)
{
    assert(!p->closing);
    for (unsigned i = 0; i < p->n; i++)
        run(&p->probe[i]);
}

static void on_timer_closed(uv_handle_t *h)
{
    struct probe *q = h->data;
    q->all->handles--;
    free_if_closed(q->all);
}

void probes_close(struct probes *p)
{
    p->closing = true;
    for (unsigned i = 0; i < p->n; i++) {
        struct probe *q = &p->probe[i];
        if (q->busy)
            end(q, false);
        uv_close((uv_handle_t *)&q->limit, on_timer_closed);
    }
    free_if_closed(p); /* no probes, no handles */
}
