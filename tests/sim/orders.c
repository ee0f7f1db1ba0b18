/* An operator and single messages: hold, release, retry, cancel, at any time, over whoever serves
 * (protocol 3). What was answered is in the books: a message that is held starts no delivery, on
 * whatever node, until somebody says otherwise; nothing is cancelled that nobody cancelled. */
#include <stdlib.h>

#include "sim/sim.h"

static void submit(struct sim *s, struct node *n, struct copy *c, enum select_action action)
{
    static const char *const names[] = {"hold", "release", "retry", "cancel"};
    struct op *op = xcalloc(1, sizeof *op);
    op->kind = OP_SELECT;
    op->epoch = n->relay.epoch;
    op->copy_id = c->id;
    op->action = action;
    op->said = ++c->said;
    c->held = false; /* until this one is answered nothing is known */
    c->let_go |= action == SELECT_RELEASE;
    if (action == SELECT_RELEASE)
        c->let_go_at = s->now;
    c->cancelled |= action == SELECT_CANCEL;
    TRACE(s, process_name(n->self), "operator: %s %llx", names[action], (unsigned long long)c->id);
    storage_submit(s, n, op);
}

static bool reachable(const struct sim *s, const struct node *n)
{
    return n->up && !(n->paused && n->pause_until > s->now) && n->relay.epoch && n->gate;
}

/* Most often about a message that still waits: one of the newest. */
void orders_draw(struct sim *s)
{
    struct books *b = &s->books;
    for (unsigned i = 0; i < NODES && b->n_copies; i++) {
        struct node *n = &s->node[i];
        if (!reachable(s, n))
            continue;
        uint64_t back = rng_skewed(&s->rng, 0, b->n_copies - 1);
        double u = rng_unit(&s->rng);
        submit(s, n, &b->copy[b->n_copies - 1 - back],
               u < 0.5    ? SELECT_HOLD
               : u < 0.75 ? SELECT_RELEASE
               : u < 0.9  ? SELECT_RETRY
                          : SELECT_CANCEL);
        return;
    }
}

/* Its change is committed: the operator has the answer. Recipients that were finished, or not yet
 * there, are not held. */
void orders_answered(struct sim *s, struct node *n, const struct op *op)
{
    struct copy *c = books_find(s, op->copy_id);
    s->count.effect[F_QUEUE]++;
    s->count.cancelled += op->action == SELECT_CANCEL;
    if (op->said != c->said || op->action != SELECT_HOLD)
        return;
    c->held = orders_hold(n, c);
    TRACE(s, process_name(n->self), "operator: answered, %llx is held%s", (unsigned long long)c->id,
          c->held ? "" : " no more");
}

bool orders_hold(const struct node *n, const struct copy *c)
{
    for (uint32_t i = 0; i < c->rcpts; i++) {
        const struct row_recipient *x = store_memory_recipient(n->disk.store, c->id, i);
        if (!x || (!rcpt_terminal(x->state) && !(x->held & HELD_OPERATOR)))
            return false;
    }
    return true;
}

/* Invariant 1 for what an operator was answered: it is on every store that in_sync names. */
void orders_check(struct sim *s, const bool required[NODES])
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        const struct copy *c = &s->books.copy[i];
        for (unsigned k = 0; c->held && k < NODES; k++)
            if (required[k] && !c->purged && !orders_hold(&s->node[k], c))
                sim_fail(s, "1 (operator state)",
                         "%llx, held as answered, is not on the store of %s",
                         (unsigned long long)c->id, process_name(k));
    }
}

void orders_starts(struct sim *s, struct node *n, const struct copy *c)
{
    if (c->held && !s->books.forced && !s->books.split && !s->node[0].disk.lost_at &&
        !s->node[1].disk.lost_at)
        sim_fail(s, "1 (incident 22)", "node %s delivers %llx, which is held",
                 process_name(n->self), (unsigned long long)c->id);
}

void orders_end(struct sim *s, struct node *n)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        struct copy *c = &s->books.copy[i];
        for (uint32_t k = 0; k < c->rcpts; k++) {
            const struct row_recipient *x = store_memory_recipient(n->disk.store, c->id, k);
            if (x && !rcpt_terminal(x->state) && x->held & HELD_OPERATOR) {
                submit(s, n, c, SELECT_RELEASE);
                break;
            }
        }
    }
}
