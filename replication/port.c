/* See port.h. */
#include "replication/port.h"

#include <stdatomic.h>
#include <stdlib.h>

struct shared *shared_new(struct slice s)
{
    struct shared *x = xmalloc(sizeof *x + s.n);
    atomic_init(&x->refs, 1);
    x->n = s.n;
    if (s.n)
        memcpy(x->data, s.p, s.n);
    return x;
}

struct shared *shared_ref(struct shared *s)
{
    if (s)
        atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void shared_unref(struct shared *s)
{
    if (s && atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) == 1)
        free(s);
}
