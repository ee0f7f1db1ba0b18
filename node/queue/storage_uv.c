/* See storage_uv.h: the threads, their lines, statistics. What the writer does is in writer_uv.c
 * and requests_uv.c. The writer thread alone touches the store (but for the flushes of group_uv.c);
 * it also does the checkpoints, between transactions. Readers have a connection and a thread each.
 * Nothing here runs a loop of libuv: answers are posted to the mailboxes of those who asked. */
#include "node/queue/storage_uv.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/queue/internal_uv.h"
#include "node/queue/opstate.h"

enum { SEARCH_STEP = 1000, PURGE_STEP = 500 };

void list_init(struct list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

void list_push(struct list *l, struct item *i)
{
    i->next = NULL;
    *l->tail = i;
    l->tail = &i->next;
}

struct item *list_pop(struct list *l)
{
    struct item *i = l->head;
    if (!i)
        return NULL;
    l->head = i->next;
    if (!l->head)
        l->tail = &l->head;
    return i;
}

void item_free(struct item *i)
{
    if (i->op)
        storage_op_free(i->op);
    else
        shared_unref(i->request.bytes);
    buf_free(&i->keys);
    free(i->followed);
    free(i);
}

static void selector_clear(struct selector *s)
{
    free(s->domain);
    free(s->sender);
    free(s->campaign);
}

void storage_op_free(struct storage_op *op)
{
    if (!op)
        return;
    selector_clear(&op->selector);
    free(op->rows);
    buf_free(&op->memory);
    buf_free(&op->changed);
    free(op);
}

void storage_read_free(struct storage_read *r)
{
    if (!r)
        return;
    selector_clear(&r->selector);
    free(r->domain);
    free(r->by);
    buf_free(&r->bytes);
    free(r);
}

/* --- posting --- */

void storage_post(struct storage *s, struct item *i)
{
    pthread_mutex_lock(&s->lock);
    list_push(&s->items, i);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void post_to_lane(struct storage *s, unsigned lane, struct item *i)
{
    struct lane *l = &s->lanes[lane];
    pthread_mutex_lock(&s->lock);
    list_push(&l->items, i);
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&s->lock);
}

void storage_search(struct storage *s, struct item *i)
{
    post_to_lane(s, 1, i);
}

/* One note of what is committed is enough: a line behind a hung disk must not grow by them. */
static bool joins_last(struct storage *s, const struct store_request *r)
{
    bool joins = false;
    pthread_mutex_lock(&s->lock);
    if (s->items.head) {
        struct item *last = (struct item *)((char *)s->items.tail - offsetof(struct item, next));
        joins = !last->op && last->request.type == SR_COMMITTED;
        if (joins)
            last->request = *r;
    }
    pthread_mutex_unlock(&s->lock);
    return joins;
}

void storage_request(struct storage *s, const struct store_request *r)
{
    if (r->type == SR_COMMITTED && joins_last(s, r))
        return;
    struct item *i = xcalloc(1, sizeof *i);
    i->request = *r;
    if (r->type == SR_CLOSE) /* what is not numbered yet is refused from now on */
        atomic_fetch_add(&s->closing, 1);
    if (r->type == SR_CHANGES)
        post_to_lane(s, LANE_CHANGES, i);
    else if (r->type == SR_DIGESTS || r->type == SR_ROWS)
        post_to_lane(s, LANE_VERIFY, i);
    else
        storage_post(s, i);
}

void storage_submit(struct storage *s, struct storage_op *op)
{
    struct item *i = xcalloc(1, sizeof *i);
    i->op = op;
    buf_init(&i->keys, SEARCH_STEP * 12);
    op->result = OP_FAILED;
    op->n_changed = 0;
    pthread_mutex_lock(&s->lock);
    s->waiting++;
    pthread_mutex_unlock(&s->lock);
    if (op->type == OP_SELECT)
        storage_search(s, i);
    else
        storage_post(s, i);
}

void storage_answer(struct storage *s, struct storage_op *op, enum op_result result)
{
    op->result = result;
    pthread_mutex_lock(&s->lock);
    s->waiting--;
    pthread_mutex_unlock(&s->lock);
    mailbox_post(op->reply_to, &op->mail);
}

void storage_read(struct storage *s, unsigned lane, struct storage_read *r)
{
    assert(lane < LANE_CHANGES);
    struct lane *l = &s->lanes[lane];
    r->mail.next = NULL;
    pthread_mutex_lock(&s->lock);
    *l->reads_tail = &r->mail;
    l->reads_tail = &r->mail.next;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&s->lock);
}

/* --- statistics --- */

void storage_begun(struct storage *s)
{
    uint64_t none = 0;
    atomic_compare_exchange_strong(&s->busy_since_ns, &none, clock_boot_ns());
}

void storage_ended(struct storage *s)
{
    atomic_store(&s->busy_since_ns, s->open || s->written ? clock_boot_ns() : 0);
}

void storage_committed(struct storage *s, uint64_t ns, uint64_t rows, uint64_t bytes)
{
    uint64_t us = ns / 1000;
    pthread_mutex_lock(&s->lock);
    s->commits++;
    s->rows += rows;
    s->bytes += bytes;
    unsigned k = s->times.n++ % COMMIT_TIMES;
    s->times.at_ns[k] = clock_boot_ns();
    s->times.us[k] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    pthread_mutex_unlock(&s->lock);
}

void storage_fail(struct storage *s, int err, const char *why)
{
    if (!s->written) /* its flush may hang */
        atomic_store(&s->busy_since_ns, 0);
    if (s->failed)
        return;
    s->failed = true;
    atomic_store(&s->failure, err);
    if (err != STORE_FULL) /* a full disk says nothing about what is on it */
        store_sqlite_mark(s->path);
    s->hooks.failed(s->hooks.ctx, err, why);
}

/* Counts for status: at most ten times a second, and once more when all is quiet. */
void storage_publish(struct storage *s, bool now)
{
    uint64_t t = clock_boot_ns(), class[CLASSES];
    if (s->failed || (!now && t - s->published_ns < 100000000))
        return;
    s->published_ns = t;
    store_sqlite_counts(s->store, class);
    struct queue_counts c = {.queued = class[CLASS_QUEUED],
                             .deferred = class[CLASS_DEFERRED],
                             .held = class[CLASS_HELD],
                             .quarantined = class[CLASS_QUARANTINED],
                             .in_doubt = class[CLASS_IN_DOUBT],
                             .oldest_ms = store_sqlite_oldest(s->store)};
    c.messages = c.queued + c.deferred + c.held + c.quarantined + c.in_doubt;
    pthread_mutex_lock(&s->lock);
    s->counts = c;
    pthread_mutex_unlock(&s->lock);
}

bool storage_counts(struct storage *s, struct queue_counts *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    pthread_mutex_unlock(&s->lock);
    return true;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void storage_stats(const struct storage *cs, struct storage_stats *out)
{
    struct storage *s = (struct storage *)cs; /* the lock is not part of what is read */
    uint32_t *us = xmalloc(COMMIT_TIMES * sizeof *us);
    uint64_t now = clock_boot_ns();
    unsigned n = 0;
    pthread_mutex_lock(&s->lock);
    *out = (struct storage_stats){
        .commits = s->commits, .rows = s->rows, .bytes = s->bytes, .waiting = s->waiting};
    unsigned have = s->times.n < COMMIT_TIMES ? s->times.n : COMMIT_TIMES;
    for (unsigned i = 0; i < have; i++)
        if (now - s->times.at_ns[i] < UINT64_C(60000000000))
            us[n++] = s->times.us[i];
    pthread_mutex_unlock(&s->lock);
    if (n) {
        qsort(us, n, sizeof *us, by_value);
        out->commit_p50_us = us[n / 2];
        out->commit_p99_us = us[n * 99 / 100];
    }
    out->stalled_ms = storage_stalled_ms(s);
    out->failure = atomic_load(&s->failure);
    free(us);
}

uint64_t storage_stalled_ms(const struct storage *s)
{
    uint64_t since = atomic_load(&s->busy_since_ns), now = clock_boot_ns();
    return since && now > since ? (now - since) / 1000000 : 0;
}

/* --- the writer --- */

static bool holds_up(uint64_t at_ns)
{
    return at_ns && clock_boot_ns() < at_ns + PURGE_HOLD_MS * UINT64_C(1000000);
}

/* As a primary: only what is committed, and nothing while rows of another node are being merged,
 * which may be of something that is done here. A reading that begins waits for the step, or the
 * step knows of it. */
static int purge_some(struct storage *s, bool *more)
{
    uint64_t below = UINT64_MAX;
    if (s->epoch)
        below = s->committed.epoch == s->epoch ? s->committed.lsn + 1 : 0;
    if (holds_up(s->merged_ns))
        below = 0;
    pthread_mutex_lock(&s->reading_lock);
    if (holds_up(s->read_ns) && s->unread_from < below)
        below = s->unread_from;
    int err = below ? apply_purge(s->store, below, PURGE_STEP, more) : STORE_OK;
    pthread_mutex_unlock(&s->reading_lock);
    return err;
}

static void purge_step(struct storage *s)
{
    bool more = false;
    if (!s->failed)
        storage_begun(s);
    int err = s->failed ? STORE_OK : purge_some(s, &more);
    if (err)
        storage_fail(s, err, store_sqlite_error(s->store));
    else if (!s->failed)
        storage_ended(s);
    s->purging = more && !err;
}

/* Waits for work, or the end of a flush. False: stop. */
static bool take(struct storage *s, struct list *line)
{
    pthread_mutex_lock(&s->lock);
    while (!s->stop && !s->items.head && !s->purging && atomic_load(&s->flush) != FLUSH_ENDED) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
        if (s->items.head || s->written)
            continue;
        pthread_mutex_unlock(&s->lock);
        storage_watch_damage(s);
        storage_publish(s, true);
        pthread_mutex_lock(&s->lock);
    }
    bool go = !s->stop || s->items.head;
    *line = s->items;
    if (!line->head)
        line->tail = &line->head;
    list_init(&s->items);
    pthread_mutex_unlock(&s->lock);
    return go;
}

/* Its time counts like a transaction's: a disk that hangs here holds up the next one. */
void storage_checkpoint(struct storage *s)
{
    if (s->failed)
        return;
    storage_begun(s);
    int err = store_sqlite_checkpoint(s->store);
    if (err)
        storage_fail(s, err, store_sqlite_error(s->store));
    else
        storage_ended(s);
}

/* Woken, it doesn't push aside who runs: on a busy machine that is mostly the relay, and what that
 * is about to bring shares the transaction. Only a hint: it may be refused. */
static void be_patient(void)
{
    struct sched_param p = {0};
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &p);
}

static void *run_writer(void *arg)
{
    struct storage *s = arg;
    struct list line;
    be_patient();
    if (s->checking)
        storage_check(s);
    while (take(s, &line)) {
        group_look(s);
        if (s->purging) {
            group_settle(s);
            purge_step(s);
            storage_checkpoint(s);
        }
        while (line.head) {
            if (line.head->op)
                writer_operations(s, &line);
            else
                writer_requests(s, &line);
        }
        storage_watch_damage(s);
        if (s->open && !s->written)
            group_close(s);
        if (!s->open && !s->written)
            storage_checkpoint(s);
        storage_publish(s, false);
    }
    group_settle(s);
    return NULL;
}

/* --- readers --- */

static void search(struct lane *l, struct item *i)
{
    int err = l->store->ops->begin(l->store);
    if (!err) {
        err = store_sqlite_select(l->store, &i->op->selector, clock_wall_ms(), &i->cursor_id,
                                  &i->cursor_index, SEARCH_STEP, &i->keys, &i->more);
        l->store->ops->rollback(l->store);
    }
    if (err) {
        log_warn("storage.select", "error=%d %s", err, store_sqlite_error(l->store));
        i->more = false;
    }
    storage_post(l->storage, i);
}

/* The store's file was replaced: the connection still reads the one that was moved away. */
static void open_anew(struct lane *l)
{
    char err[300];
    struct store *fresh = store_sqlite_open_reader(l->storage->path, err, sizeof err);
    if (!fresh) {
        log_error("storage.reader", "error=\"%s\"", err);
        return;
    }
    store_sqlite_close(l->store);
    l->store = fresh;
}

static void *run_reader(void *arg)
{
    struct lane *l = arg;
    struct storage *s = l->storage;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        while (!s->stop && !l->reads && !l->items.head)
            pthread_cond_wait(&l->wake, &s->lock);
        struct storage_read *r = (struct storage_read *)l->reads;
        struct item *i = NULL;
        if (s->stop) {
            pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        if (r) {
            l->reads = r->mail.next;
            if (!l->reads)
                l->reads_tail = &l->reads;
        } else {
            i = list_pop(&l->items);
        }
        bool anew = l->generation != s->generation;
        l->generation = s->generation;
        pthread_mutex_unlock(&s->lock);
        if (anew)
            open_anew(l);
        if (r) {
            store_sqlite_read(l->store, r, clock_wall_ms());
            mailbox_post(r->reply_to, &r->mail);
        } else if (i->op) {
            search(l, i);
        } else {
            if (i->request.type == SR_DIGESTS)
                reader_digests(s, l->store, &i->request);
            else if (i->request.type == SR_ROWS)
                reader_rows(s, l->store, &i->request);
            else
                reader_changes(s, l->store, &i->request);
            item_free(i);
        }
    }
}

/* --- life --- */

struct storage *storage_open(const struct config *c, struct store_meta *meta, bool *virgin,
                             char *err, size_t n)
{
    struct storage *s = xcalloc(1, sizeof *s);
    s->path = xstrdup(c->store);
    s->retention_ms = c->queue.retention_ms;
    s->quarantine_ms = c->queue.quarantine_ms;
    s->in_doubt_wait_ms = c->queue.in_doubt_wait_ms;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->reading_lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    pthread_cond_init(&s->flush_wake, NULL);
    list_init(&s->items);
    own_init(&s->own);
    s->twins_stale = true;
    for (unsigned i = 0; i < LANES; i++) {
        struct lane *l = &s->lanes[i];
        l->storage = s;
        pthread_cond_init(&l->wake, NULL);
        l->reads_tail = &l->reads;
        list_init(&l->items);
    }
    s->store = store_sqlite_open(c->store, c->cluster, err, n);
    for (unsigned i = 0; s->store && i < LANES; i++) {
        s->lanes[i].store = store_sqlite_open_reader(c->store, err, n);
        if (!s->lanes[i].store) {
            storage_stop(s);
            return NULL;
        }
    }
    if (!s->store) {
        storage_stop(s);
        return NULL;
    }
    s->store->ops->get_meta(s->store, meta);
    s->checking = store_sqlite_marked(c->store);
    s->check_since_ns = clock_boot_ns();
    *virgin = !meta->history.n && !meta->epoch_seen && !meta->copying && !meta->end.lsn;
    storage_publish(s, true);
    return s;
}

void storage_note_opstate(struct storage *s, struct slice key)
{
    struct slice name;
    s->suppressing = s->suppressing || opstate_is(key, OPSTATE_SUPPRESS, &name);
}

/* All of it, page by page: the list of suppressed addresses may be long. */
static void tell_opstates(struct storage *s)
{
    char *after = NULL;
    bool more = true;
    while (more) {
        struct storage_read r = {.type = READ_OPSTATES, .by = after};
        store_sqlite_read(s->lanes[0].store, &r, clock_wall_ms());
        struct wire_reader w = wire_read(buf_slice(&r.bytes));
        struct row row;
        more = r.more;
        while (w.n && row_decode(&w, &row)) {
            storage_note_opstate(s, row.opstate.key);
            s->hooks.opstate(s->hooks.ctx, row.opstate.key, row.opstate.value);
            if (w.n || !more)
                continue;
            free(after);
            after = slice_dup(row.opstate.key);
        }
        buf_free(&r.bytes);
    }
    free(after);
}

void storage_start(struct storage *s, const struct storage_hooks *hooks)
{
    s->hooks = *hooks;
    s->started = true;
    s->purging = true; /* the rest of a purge that was cut off by the end of the last process */
    tell_opstates(s);
    int rc = flusher_start(s) | pthread_create(&s->thread, NULL, run_writer, s);
    for (unsigned i = 0; i < LANES; i++)
        rc |= pthread_create(&s->lanes[i].thread, NULL, run_reader, &s->lanes[i]);
    assert(rc == 0);
    (void)rc;
}

void storage_stop(struct storage *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    for (unsigned i = 0; i < LANES; i++)
        pthread_cond_signal(&s->lanes[i].wake);
    pthread_mutex_unlock(&s->lock);
    if (s->started) {
        for (unsigned i = 0; i < LANES; i++) /* they post to the writer */
            pthread_join(s->lanes[i].thread, NULL);
        pthread_join(s->thread, NULL);
        flusher_stop(s);
    }
    for (unsigned k = 0; k < LANES; k++) {
        struct lane *l = &s->lanes[k];
        for (struct item *i; (i = list_pop(&l->items));)
            item_free(i);
        for (struct mail *m = l->reads, *next; m; m = next) {
            next = m->next;
            storage_read_free((struct storage_read *)m);
        }
        store_sqlite_close(l->store);
        pthread_cond_destroy(&l->wake);
    }
    for (struct item *i; (i = list_pop(&s->items));)
        item_free(i);
    store_sqlite_close(s->store);
    own_free(&s->own);
    free(s->twins);
    free(s->path);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->flush_wake);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->reading_lock);
    free(s);
}
