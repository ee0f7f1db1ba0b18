/* Group commit (protocol 4.1), in two steps: the storage thread puts a transaction together and
 * writes it to the log; a thread of its own flushes it. Meanwhile the storage thread puts the next
 * one together from what arrives, and commits that when the flush has ended, so neither the disk
 * nor the work on rows waits for the other. Where flushes are quick the storage thread does them
 * itself: handing them over costs more than it saves.
 *
 * Nothing is answered before the flush of its transaction has ended. One flush is under way at a
 * time, and nothing is written to the log beside it. When it fails all that isn't answered fails
 * with it (protocol 6), the transaction that is open included: nobody was told of that one yet. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/queue/internal_uv.h"

enum { APART_NS = 700000 }; /* a flush of less time isn't handed over */

/* One at a time, on whichever thread. */
static int flush(struct storage *s)
{
    uint64_t began = clock_boot_ns();
    int err = store_sqlite_flush(s->store);
    int64_t took = (int64_t)(clock_boot_ns() - began);
    s->flush_ns += (took - s->flush_ns) / 8;
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
        int err = flush(s);
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
    storage_begun(s);
    return g;
}

static void flushed(struct storage *s, int err)
{
    if (err)
        storage_fail(s, err, "a flush of the log failed");
    else
        store_sqlite_flushed(s->store);
}

static void end(struct storage *s, struct group *g, int err)
{
    if (!err && g->n_rows)
        storage_committed(s, clock_boot_ns() - g->closed_ns, g->n_rows, g->bytes);
    storage_ended(s);
    g->kind->ended(s, g, err);
    assert(!g->items.head);
    free(g);
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
    flushed(s, err);
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
    wait_for_flush(s);
    if (s->open)
        give_up(s, err);
}

void group_close(struct storage *s)
{
    wait_for_flush(s);
    struct group *g = s->open;
    if (!g)
        return; /* given up: the flush has failed */
    s->open = NULL;
    g->closed_ns = clock_boot_ns();
    bool deferred = store_sqlite_defer(s->store, true);
    int err = g->kind->commit(s, g);
    store_sqlite_defer(s->store, false);
    bool unflushed = !err && deferred && !g->nothing;
    if (unflushed && s->flush_ns >= APART_NS) {
        hand_over(s, g);
    } else {
        if (unflushed)
            flushed(s, err = flush(s));
        end(s, g, err);
    }
    if (store_sqlite_checkpoint_due(s->store)) {
        wait_for_flush(s);
        storage_checkpoint(s);
    }
}

void group_settle(struct storage *s)
{
    if (s->open)
        group_close(s);
    wait_for_flush(s);
}
