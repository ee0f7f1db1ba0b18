/* Senders: each has messages to get rid of, tries one node and then the other, goes on until it has
 * a 250, and sends the same bytes again when a session ends without one (RFC 5321 4.5.4.1). */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

static void try_now(struct sim *s, struct task *t);

static void try_at(struct sim *s, unsigned client, uint64_t at)
{
    struct task *t = sim_at(s, at, NOBODY, try_now);
    t->a = client;
}

static uint64_t soon(struct sim *s)
{
    return s->now + rng_skewed(&s->rng, 5 * MS, 600 * MS);
}

static void take_next(struct sim *s, struct client *c)
{
    for (unsigned i = 0; i < s->plan.messages; i++)
        if (!s->message[i].started) {
            s->message[i].started = true;
            c->message = i;
            return;
        }
    c->message = UINT32_MAX;
}

static void impatient(struct sim *s, struct task *t)
{
    struct client *c = &s->client[t->a];
    if (c->session == t->b) /* no answer for so long: it may be queued, or not */
        clients_reply(s, (unsigned)t->b, false);
}

static void lands(struct sim *s, struct task *t)
{
    struct client *c = &s->client[t->a];
    if (c->session != t->b)
        return;
    struct node *n = &s->node[t->process];
    if (!relay_submit(s, n, c->message, (unsigned)t->b)) {
        c->session = 0; /* 421 */
        c->target = 1 - c->target;
        try_at(s, (unsigned)t->a, soon(s));
    }
}

static void try_now(struct sim *s, struct task *t)
{
    unsigned client = (unsigned)t->a;
    struct client *c = &s->client[client];
    if (c->session)
        return;
    if (c->message == UINT32_MAX)
        take_next(s, c);
    if (c->message == UINT32_MAX)
        return;
    struct node *n = &s->node[c->target];
    if (!n->up) {
        c->target = 1 - c->target;
        try_at(s, client, soon(s));
        return;
    }
    c->session = ++s->serial;
    s->message[c->message].attempts++;
    struct task *x =
        sim_at_thread(s, s->now + rng_skewed(&s->rng, 200 * US, 20 * MS), n->self, T_RELAY, lands);
    x->a = client;
    x->b = c->session;
    uint64_t patience = rng_chance(&s->rng, s->plan.client_impatient)
                            ? rng_range(&s->rng, 20 * MS, 500 * MS)
                            : rng_range(&s->rng, 4 * SEC, 10 * SEC);
    struct task *y = sim_at(s, s->now + patience, NOBODY, impatient);
    y->a = client;
    y->b = c->session;
}

void clients_reply(struct sim *s, unsigned session, bool ok)
{
    for (unsigned i = 0; i < s->plan.clients; i++) {
        struct client *c = &s->client[i];
        if (!session || c->session != session)
            continue;
        c->session = 0;
        struct message *m = &s->message[c->message];
        bool heard = ok && !rng_chance(&s->rng, s->plan.client_impatient / 4);
        if (heard) {
            c->message = UINT32_MAX;
            try_at(s, i, s->now + rng_skewed(&s->rng, MS, s->plan.think_max));
        } else {
            TRACE(s, "client", "%u got no 250 for message %u", i, c->message);
            c->target = 1 - c->target;
            if (rng_chance(&s->rng, s->plan.client_gives_up)) {
                m->abandoned = true;
                c->message = UINT32_MAX;
            }
            try_at(s, i, soon(s));
        }
    }
}

void clients_close_all(struct sim *s, unsigned node)
{
    for (unsigned i = 0; i < s->plan.clients; i++)
        if (s->client[i].session && s->client[i].target == node)
            clients_reply(s, (unsigned)s->client[i].session, false);
}

void clients_start(struct sim *s)
{
    s->message = xcalloc(s->plan.messages, sizeof *s->message);
    for (unsigned i = 0; i < s->plan.messages; i++) {
        s->message[i].rcpts =
            rng_chance(&s->rng, 0.7) ? 1 : (unsigned)rng_range(&s->rng, 1, MESSAGE_RCPTS);
        s->message[i].chunked = rng_chance(&s->rng, s->plan.chunked);
        s->message[i].hold = rng_chance(&s->rng, s->plan.hold);
    }
    for (unsigned i = 0; i < s->plan.clients; i++) {
        s->client[i].message = UINT32_MAX;
        s->client[i].target = (unsigned)rng_below(&s->rng, 2);
        try_at(s, i, rng_below(&s->rng, SEC));
    }
}

bool clients_done(const struct sim *s)
{
    for (unsigned i = 0; i < s->plan.clients; i++)
        if (s->client[i].message != UINT32_MAX)
            return false;
    for (unsigned i = 0; i < s->plan.messages; i++)
        if (!s->message[i].started)
            return false;
    return true;
}
