/* The network: datagrams that get lost, doubled and overtaken; connections that deliver in order,
 * break, hang half open, or stay open and carry nothing. Each direction between two processes can
 * be cut by itself, datagrams and connections apart. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

/* Bytes that the kernel takes from a sender before it pushes back. */
enum { SOCKET_BUFFER = 256 << 10 };

static bool is_up(const struct sim *s, unsigned process)
{
    return process < NODES ? s->node[process].up : s->witness.up;
}

static uint32_t life(const struct sim *s, unsigned process)
{
    return process < NODES ? s->node[process].life : s->witness.life;
}

static uint64_t one_way(struct sim *s)
{
    return rng_skewed(&s->rng, s->weather.delay_min, s->weather.delay_max);
}

/* --- datagrams --- */

static void drop_bytes(struct task *t)
{
    free(t->p);
}

static void datagram_arrives(struct sim *s, struct task *t)
{
    health_datagram(s, (unsigned)(t->a & 3), (unsigned)(t->a >> 2), slice_of(t->p, t->b));
    free(t->p);
}

static void datagram_lands(struct sim *s, struct task *t)
{
    unsigned to = (unsigned)(t->a & 3);
    if (!is_up(s, to)) {
        free(t->p);
        return;
    }
    struct task *x = sim_at(s, s->now, to, datagram_arrives);
    x->a = t->a;
    x->b = t->b;
    x->p = t->p;
    x->drop = drop_bytes;
}

void net_datagram(struct sim *s, unsigned from, unsigned to, struct slice bytes)
{
    assert(from != to && from < PROCESSES && to < PROCESSES);
    if (s->cut[from][to][UDP]) {
        s->count.effect[F_CUT]++;
        return;
    }
    unsigned copies = 1 + rng_chance(&s->rng, s->weather.dup);
    while (copies--) {
        if (rng_chance(&s->rng, s->weather.loss)) {
            s->count.effect[F_WEATHER]++;
            continue;
        }
        uint64_t delay = one_way(s);
        if (rng_chance(&s->rng, s->weather.late))
            delay += rng_below(&s->rng, SEC);
        if (from == WITNESS && s->now < s->witness.late_until) {
            delay += rng_range(&s->rng, SEC, 5 * SEC);
            s->count.effect[F_LATE_WITNESS]++;
        }
        struct task *t = sim_at(s, s->now + delay, NOBODY, datagram_lands);
        t->a = to | (uint64_t)from << 2;
        t->b = bytes.n;
        t->p = xmalloc(bytes.n);
        memcpy(t->p, bytes.p, bytes.n);
        t->drop = drop_bytes;
    }
}

bool net_waits(const struct sim *s, unsigned to, unsigned from)
{
    for (size_t i = 0; i < s->n_heap; i++) {
        const struct task *t = s->heap[i];
        if (t->fn == datagram_arrives && t->process == to && t->a >> 2 == from && t->at <= s->now &&
            t->life == life(s, to))
            return true;
    }
    return false;
}

/* --- connections --- */

static struct conn *conn_find(struct sim *s, uint64_t id)
{
    struct conn *c = s->conns;
    while (c && c->id != id)
        c = c->next;
    return c;
}

static bool end_alive(const struct sim *s, const struct conn *c, unsigned end)
{
    return c->open[end] && is_up(s, c->end[end]) && life(s, c->end[end]) == c->life[end];
}

bool net_whole(struct sim *s, uint64_t link)
{
    const struct conn *c = conn_find(s, link);
    return c && end_alive(s, c, 0) && end_alive(s, c, 1);
}

static void pipe_clear(struct pipe *p)
{
    while (p->head) {
        struct frame *f = p->head;
        p->head = f->next;
        free(f);
    }
    p->tail = NULL;
    p->bytes = 0;
}

static void conn_sweep(struct sim *s)
{
    for (struct conn **at = &s->conns; *at;) {
        struct conn *c = *at;
        bool idle = !c->pipe[0].pumping && !c->pipe[1].pumping;
        if (end_alive(s, c, 0) || end_alive(s, c, 1) || !idle) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        pipe_clear(&c->pipe[0]);
        pipe_clear(&c->pipe[1]);
        free(c);
    }
}

static void tell_down(struct sim *s, struct task *t)
{
    struct node *n = &s->node[t->a];
    TRACE(s, process_name(n->self), "link %llu is down", (unsigned long long)t->b);
    if (n->link_out == t->b) {
        n->link_out = 0;
        if (n->dialing)
            replication_dial_again(s, n, 50 * MS);
    }
    replication_step(s, n, &(struct replica_event){.type = RE_LINK_DOWN, .link = t->b});
}

/* That end hears that the connection is over. */
static void end_down(struct sim *s, struct conn *c, unsigned end)
{
    if (!c->open[end])
        return;
    bool alive = end_alive(s, c, end);
    c->open[end] = false;
    pipe_clear(&c->pipe[end]);
    if (!alive)
        return;
    struct task *t = sim_at_thread(s, s->now, c->end[end], T_REPLICATION, tell_down);
    t->a = c->end[end];
    t->b = c->id;
}

struct arrival {
    uint64_t link;
    uint8_t type;
    size_t n;
    uint8_t data[];
};

static void frame_arrives(struct sim *s, struct task *t)
{
    struct arrival *x = t->p;
    struct conn *c = conn_find(s, x->link);
    unsigned self = (unsigned)t->a;
    if (c && c->open[c->end[0] == self ? 0 : 1])
        replication_step(s, &s->node[self],
                         &(struct replica_event){.type = RE_FRAME,
                                                 .link = x->link,
                                                 .frame = x->type,
                                                 .payload = slice_of(x->data, x->n)});
    free(x);
}

static void tell_drained(struct sim *s, struct task *t)
{
    struct conn *c = conn_find(s, t->b);
    if (c && c->open[c->end[0] == t->a ? 0 : 1])
        replication_step(s, &s->node[t->a],
                         &(struct replica_event){.type = RE_DRAINED_OUT, .link = t->b});
}

static void drained(struct sim *s, struct conn *c, unsigned end)
{
    struct task *t = sim_at_thread(s, s->now + 10 * US, c->end[end], T_REPLICATION, tell_drained);
    t->a = c->end[end];
    t->b = c->id;
}

static void pump(struct sim *s, struct task *t);

static void pump_at(struct sim *s, struct conn *c, unsigned end, uint64_t at)
{
    c->pipe[end].pumping = true;
    struct task *t = sim_at(s, at, NOBODY, pump);
    t->a = end;
    t->b = c->id;
}

static void pump_one(struct sim *s, struct conn *c, unsigned end)
{
    struct pipe *p = &c->pipe[end];
    struct frame *f = p->head;
    unsigned to = 1 - end;
    p->head = f->next;
    if (!p->head)
        p->tail = NULL;
    p->bytes -= f->n;
    if (f->fin || !end_alive(s, c, to)) {
        /* Nobody there any more: the answer to whatever is sent is a reset. */
        if (f->fin)
            end_down(s, c, to);
        else if (is_up(s, c->end[to]))
            end_down(s, c, end);
    } else {
        struct arrival *x = xmalloc(sizeof *x + f->n);
        *x = (struct arrival){.link = c->id, .type = f->type, .n = f->n};
        memcpy(x->data, f->data, f->n);
        struct task *t = sim_at_thread(s, s->now, c->end[to], T_REPLICATION, frame_arrives);
        t->a = c->end[to];
        t->p = x;
        t->drop = drop_bytes;
    }
    free(f);
    if (p->full && p->bytes < SOCKET_BUFFER) {
        p->full = false;
        drained(s, c, end);
    }
}

static void pump(struct sim *s, struct task *t)
{
    struct conn *c = conn_find(s, t->b);
    if (!c)
        return;
    unsigned end = (unsigned)t->a;
    struct pipe *p = &c->pipe[end];
    p->pumping = false;
    while (p->head && p->head->due <= s->now) {
        /* Data needs its way and the acknowledgements theirs. */
        bool stuck = c->mute || s->cut[c->end[end]][c->end[1 - end]][TCP] ||
                     s->cut[c->end[1 - end]][c->end[end]][TCP];
        if (stuck) {
            s->count.effect[c->mute ? F_MUTE : F_CUT]++;
            if (end_alive(s, c, 0) || end_alive(s, c, 1))
                pump_at(s, c, end, s->now + rng_range(&s->rng, 20 * MS, 200 * MS));
            return;
        }
        pump_one(s, c, end);
    }
    if (p->head)
        pump_at(s, c, end, p->head->due);
    else
        conn_sweep(s);
}

static void push(struct sim *s, struct conn *c, unsigned end, struct frame *f)
{
    struct pipe *p = &c->pipe[end];
    f->due = s->now + one_way(s);
    if (f->due < p->last_due)
        f->due = p->last_due;
    p->last_due = f->due;
    f->next = NULL;
    if (p->tail)
        p->tail->next = f;
    else
        p->head = f;
    p->tail = f;
    p->bytes += f->n;
    if (!p->pumping)
        pump_at(s, c, end, f->due);
}

static unsigned end_of(const struct conn *c, unsigned process)
{
    return c->end[0] == process ? 0 : 1;
}

void net_send(struct sim *s, unsigned from, uint64_t link, uint8_t type, struct slice payload,
              struct slice more)
{
    struct conn *c = conn_find(s, link);
    if (!c || !c->open[end_of(c, from)])
        return; /* it broke, and the core hasn't heard yet */
    unsigned end = end_of(c, from);
    struct frame *f = xmalloc(sizeof *f + payload.n + more.n);
    *f = (struct frame){.type = type, .n = payload.n + more.n};
    if (payload.n)
        memcpy(f->data, payload.p, payload.n);
    if (more.n)
        memcpy(f->data + payload.n, more.p, more.n);
    push(s, c, end, f);
    if (c->pipe[end].bytes >= SOCKET_BUFFER)
        c->pipe[end].full = true;
    else
        drained(s, c, end);
}

static void send_fin(struct sim *s, struct conn *c, unsigned end)
{
    struct frame *f = xcalloc(1, sizeof *f);
    f->fin = true;
    push(s, c, end, f);
}

void net_close(struct sim *s, unsigned from, uint64_t link)
{
    struct conn *c = conn_find(s, link);
    if (!c || !c->open[end_of(c, from)])
        return;
    send_fin(s, c, end_of(c, from));
    c->open[end_of(c, from)] = false;
    struct node *n = &s->node[from];
    if (n->link_out == link) {
        n->link_out = 0;
        if (n->dialing)
            replication_dial_again(s, n, 50 * MS);
    }
}

static void tell_up(struct sim *s, struct task *t)
{
    struct conn *c = conn_find(s, t->b);
    struct node *n = &s->node[t->a & 1];
    bool outgoing = t->a & 2;
    if (!c || !c->open[outgoing ? 0 : 1]) { /* over before it was noticed */
        if (outgoing && n->dialing && !n->link_out)
            replication_dial_again(s, n, 50 * MS);
        return;
    }
    if (outgoing) {
        n->link_out = c->id;
        n->dial_backoff = 50 * MS;
        n->linked_at = s->now;
    }
    TRACE(s, process_name(n->self), "link %llu is up, %s", (unsigned long long)c->id,
          outgoing ? "dialled" : "accepted");
    replication_step(
        s, n, &(struct replica_event){.type = RE_LINK_UP, .link = c->id, .outgoing = outgoing});
}

/* After its handshake; ends learn of it at different times. */
static void dial_lands(struct sim *s, struct task *t)
{
    unsigned from = (unsigned)t->a & 3, to = (unsigned)t->a >> 2;
    struct node *n = &s->node[from];
    bool dialler_alive = n->up && n->life == t->b;
    bool cut = s->cut[from][to][TCP] || s->cut[to][from][TCP];
    if (!dialler_alive || cut || !is_up(s, to)) {
        if (dialler_alive)
            replication_dial_again(s, n, cut ? SEC : n->dial_backoff);
        return;
    }
    struct conn *c = xcalloc(1, sizeof *c);
    *c = (struct conn){.id = ++s->serial,
                       .next = s->conns,
                       .end = {from, to},
                       .life = {life(s, from), life(s, to)},
                       .open = {true, true}};
    s->conns = c;
    for (unsigned end = 0; end < 2; end++) {
        struct task *x =
            sim_at_thread(s, s->now + (end ? one_way(s) : 0), c->end[end], T_REPLICATION, tell_up);
        x->a = c->end[end] | (end ? 0 : 2);
        x->b = c->id;
        if (end) /* the accepting end hears of it before the first frame */
            c->pipe[0].last_due = x->at + 1;
    }
}

void net_dial(struct sim *s, unsigned from, unsigned to)
{
    struct task *t = sim_at(s, s->now + one_way(s) + one_way(s) + one_way(s), NOBODY, dial_lands);
    t->a = from | to << 2;
    t->b = s->node[from].life;
}

/* silent: power loss, no kernel is left to say goodbye. */
void net_process_died(struct sim *s, unsigned process, bool silent)
{
    for (struct conn *c = s->conns; c; c = c->next)
        for (unsigned end = 0; end < 2; end++)
            if (c->end[end] == process && c->open[end]) {
                c->open[end] = false;
                if (!silent)
                    send_fin(s, c, end);
            }
    conn_sweep(s);
}

/* A side that has nothing to send would never hear that the other was away: keepalive tells. */
void net_process_back(struct sim *s, unsigned process)
{
    for (struct conn *c = s->conns; c; c = c->next)
        for (unsigned end = 0; end < 2; end++)
            if (c->end[end] == process && c->life[end] != life(s, process) && c->open[1 - end])
                send_fin(s, c, end);
}

void net_break_links(struct sim *s)
{
    for (struct conn *c = s->conns; c; c = c->next) {
        bool one_side = rng_chance(&s->rng, 0.3);
        unsigned first = (unsigned)rng_below(&s->rng, 2);
        s->count.effect[F_BREAK]++;
        end_down(s, c, first);
        if (one_side)
            send_fin(s, c, first); /* the other hears of it in time */
        else
            end_down(s, c, 1 - first);
    }
}

void net_mute_links(struct sim *s, bool mute)
{
    for (struct conn *c = s->conns; c; c = c->next)
        c->mute = mute;
}

void net_heal(struct sim *s)
{
    memset(s->cut, 0, sizeof s->cut);
    net_mute_links(s, false);
    s->weather = (struct weather){.delay_min = 100 * US, .delay_max = 5 * MS};
}

void net_free(struct sim *s)
{
    while (s->conns) {
        struct conn *c = s->conns;
        s->conns = c->next;
        pipe_clear(&c->pipe[0]);
        pipe_clear(&c->pipe[1]);
        free(c);
    }
}
