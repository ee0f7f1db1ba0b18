/* Virtual time: a heap of tasks, ordered by (time, order of posting). */
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>

#include "sim/sim.h"

static bool before(const struct task *a, const struct task *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void heap_push(struct sim *s, struct task *t)
{
    if (s->n_heap == s->cap_heap) {
        s->cap_heap = s->cap_heap ? 2 * s->cap_heap : 256;
        s->heap = xrealloc(s->heap, s->cap_heap * sizeof *s->heap);
    }
    size_t i = s->n_heap++;
    for (; i && before(t, s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = t;
}

static struct task *heap_pop(struct sim *s)
{
    struct task *top = s->heap[0], *t = s->heap[--s->n_heap];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= s->n_heap)
            break;
        if (c + 1 < s->n_heap && before(s->heap[c + 1], s->heap[c]))
            c++;
        if (!before(s->heap[c], t))
            break;
        s->heap[i] = s->heap[c];
        i = c;
    }
    if (s->n_heap)
        s->heap[i] = t;
    return top;
}

static uint32_t life_of(const struct sim *s, unsigned process)
{
    return process < NODES ? s->node[process].life : process == WITNESS ? s->witness.life : 0;
}

struct task *sim_at(struct sim *s, uint64_t at, unsigned process, task_fn fn)
{
    struct task *t = s->free_tasks;
    if (t)
        s->free_tasks = t->next_free;
    else
        t = xmalloc(sizeof *t);
    *t = (struct task){.at = at < s->now ? s->now : at,
                       .order = s->order++,
                       .fn = fn,
                       .process = process,
                       .life = life_of(s, process)};
    heap_push(s, t);
    return t;
}

struct task *sim_at_thread(struct sim *s, uint64_t at, unsigned process, enum thread thread,
                           task_fn fn)
{
    struct task *t = sim_at(s, at, process, fn);
    t->thread = (uint8_t)thread;
    return t;
}

static void task_end(struct sim *s, struct task *t)
{
    t->next_free = s->free_tasks;
    s->free_tasks = t;
}

/* Until when the task has to wait because its process or its thread stands still; 0: not. */
static uint64_t paused_until(struct sim *s, const struct task *t)
{
    uint64_t until = 0, hangs = 0;
    if (t->process < NODES) {
        const struct node *n = &s->node[t->process];
        until = n->paused ? n->pause_until : 0;
        hangs = t->thread ? n->thread_until[t->thread] : 0;
    } else if (t->process == WITNESS && s->witness.paused) {
        until = s->witness.pause_until;
    }
    s->count.effect[F_PAUSE] += until > s->now;
    s->count.effect[F_THREAD] += hangs > s->now;
    if (hangs > until)
        until = hangs;
    return until > s->now ? until : 0;
}

bool sim_run_one(struct sim *s)
{
    if (!s->n_heap)
        return false;
    struct task *t = heap_pop(s);
    assert(t->at >= s->now);
    s->now = t->at;
    bool dead = t->process != NOBODY && t->life != life_of(s, t->process);
    uint64_t wake = dead ? 0 : paused_until(s, t);
    if (wake) { /* found when it wakes; what was posted first still comes first */
        t->at = wake;
        heap_push(s, t);
        return true;
    }
    if (dead) {
        if (t->drop)
            t->drop(t);
    } else {
        s->count.events++;
        t->fn(s, t);
        if (!s->failed)
            books_check(s);
    }
    task_end(s, t);
    return true;
}

void sim_loop_free(struct sim *s)
{
    for (size_t i = 0; i < s->n_heap; i++) {
        if (s->heap[i]->drop)
            s->heap[i]->drop(s->heap[i]);
        free(s->heap[i]);
    }
    while (s->free_tasks) {
        struct task *t = s->free_tasks;
        s->free_tasks = t->next_free;
        free(t);
    }
    free(s->heap);
}

void sim_trace(struct sim *s, const char *who, const char *fmt, ...)
{
    if (!s->trace)
        return;
    fprintf(s->trace, "%10.4f %-7s ", (double)s->now / 1e9, who);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(s->trace, fmt, ap);
    va_end(ap);
    fputc('\n', s->trace);
}

void sim_fail(struct sim *s, const char *invariant, const char *fmt, ...)
{
    if (s->failed)
        return;
    s->failed = true;
    char text[440];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(s->verdict, sizeof s->verdict, "at %.4f s%s: invariant %s: %s", (double)s->now / 1e9,
             s->books.forced ? " (after a forced takeover)" : "", invariant, text);
    TRACE(s, "BROKEN", "%s", s->verdict);
}
