/* Group commit (protocol 4.1), in two steps: the storage thread puts a transaction together and
 * writes it to the log; a thread of its own flushes it. Meanwhile the storage thread puts the next
 * one together from what arrives, and commits that when the flush has ended, so neither the disk
 * nor the work on rows waits for the other. Where flushes are quick the storage thread does them
 * itself: handing them over costs more than it saves.
 *
 * Nothing is answered before the flush of its transaction has ended. One flush is under way at a
 * time, and no commit beside it (pages that the cache has no room for may be written; they count
 * for nothing before theirs). When it fails all that isn't answered fails with it (protocol 6), the
 * transaction that is open included: nobody was told of that one yet. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/queue/internal_uv.h"

enum { APART_NS = 700000 }; /* a flush of less time isn't handed over */

static void answer(struct storage *s, struct group *g)
{
    if (g->n_rows)
        storage_committed(s, s->flushed_ns - g->closed_ns, g->n_rows, g->bytes);
    g->kind->durable(s, g);
    g->answered = true;
}

/* One at a time, on whichever thread; who waits for it is answered by that one, at once. */
static int flush(struct storage *s, struct group *g)
{
    uint64_t began = clock_boot_ns();
    int err = store_sqlite_flush(s->store);
    s->flushed_ns = clock_boot_ns();
    s->flush_ns += ((int64_t)(s->flushed_ns - began) - s->flush_ns) / 8;
    if (!err)
        answer(s, g);
    return err;
}

/* --- the flusher --- */

static void *run_flusher(void *arg)
{
    struct storage *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->flusher_stop) {
        if (atomic_load(&s->flush) != FLUSH_DUE) {
            pthread_cond_wait(&s->flush_wake, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        int err = flush(s, s->written); /* nobody else touches that until this has ended */
        pthread_mutex_lock(&s->lock);
        s->flush_err = err;
        atomic_store(&s->flush, FLUSH_ENDED);
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

int flusher_start(struct storage *s)
{
    return pthread_create(&s->flusher, NULL, run_flusher, s);
}

void flusher_stop(struct storage *s)
{
    assert(!s->written);
    pthread_mutex_lock(&s->lock);
    s->flusher_stop = true;
    pthread_cond_signal(&s->flush_wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->flusher, NULL);
}

static void hand_over(struct storage *s, struct group *g)
{
    s->written = g;
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->flush, FLUSH_DUE);
    pthread_cond_signal(&s->flush_wake);
    pthread_mutex_unlock(&s->lock);
}

/* --- groups, on the storage thread --- */

struct group *group_open(struct storage *s, const struct group_kind *kind)
{
    assert(!s->open);
    struct group *g = s->open = xcalloc(1, sizeof *g);
    g->kind = kind;
    list_init(&g->items);
    s->store->ops->get_meta(s->store, &g->before);
    return g;
}

/* What this process may say of the store is what is known to be on the disk. */
static void forget_unflushed(struct storage *s, const struct group *g)
{
    s->store->ops->rollback(s->store); /* what is open: given up below */
    store_sqlite_unflushed(s->store, &g->before);
}

static void flush_ended(struct storage *s, struct group *g, int err)
{
    if (err) {
        forget_unflushed(s, g);
        storage_fail(s, err, "a flush of the log failed");
    } else {
        store_sqlite_flushed(s->store);
    }
}

static void end(struct storage *s, struct group *g, int err)
{
    if (!err && !g->answered) /* its commit did all, or there was none */
        answer(s, g);
    g->kind->ended(s, g, err);
    assert(!g->items.head);
    free(g);
    storage_ended(s);
}

static void give_up(struct storage *s, int err)
{
    struct group *g = s->open;
    s->open = NULL;
    g->kind->given_up(s, g, err);
    assert(!g->items.head);
    free(g);
    storage_ended(s);
}

void group_look(struct storage *s)
{
    if (atomic_load(&s->flush) != FLUSH_ENDED)
        return;
    struct group *g = s->written;
    int err = s->flush_err;
    s->written = NULL;
    atomic_store(&s->flush, FLUSH_NONE);
    flush_ended(s, g, err);
    end(s, g, err);
    if (err && s->open)
        give_up(s, err);
}

/* A disk that hangs holds it here, as it would hold a commit; storage_stalled_ms() tells. */
static void wait_for_flush(struct storage *s)
{
    if (!s->written)
        return;
    pthread_mutex_lock(&s->lock);
    while (atomic_load(&s->flush) != FLUSH_ENDED)
        pthread_cond_wait(&s->wake, &s->lock);
    pthread_mutex_unlock(&s->lock);
    group_look(s);
}

/* What is before it is answered first: that is as durable as ever. */
void group_spoilt(struct storage *s, int err)
{
    if (s->open)
        snprintf(s->open->why, sizeof s->open->why, "%s", store_sqlite_error(s->store));
    wait_for_flush(s);
    if (s->open)
        give_up(s, err);
}

static void checkpoint_when_due(struct storage *s)
{
    if (s->written && store_sqlite_checkpoint_overdue(s->store))
        wait_for_flush(s);
    if (!s->written)
        storage_checkpoint(s);
}

void group_close(struct storage *s)
{
    wait_for_flush(s);
    struct group *g = s->open;
    if (!g)
        return; /* given up: the flush has failed */
    if (s->failed) {
        give_up(s, STORE_IO);
        return;
    }
    s->open = NULL;
    g->closed_ns = s->flushed_ns = clock_boot_ns();
    bool deferred = store_sqlite_defer(s->store, true);
    int err = g->kind->commit(s, g);
    store_sqlite_defer(s->store, false);
    bool unflushed = !err && deferred && !g->nothing;
    if (!deferred)
        s->flushed_ns = clock_boot_ns();
    if (unflushed && s->flush_ns >= APART_NS) {
        hand_over(s, g);
    } else {
        if (unflushed) {
            err = flush(s, g);
            flush_ended(s, g, err);
        }
        end(s, g, err);
    }
    checkpoint_when_due(s);
}

void group_settle(struct storage *s)
{
    if (s->open)
        group_close(s);
    wait_for_flush(s);
}
