/* The storage thread and damage: what was seen at run time is remembered beside the store, which is
 * checked at the next start, before it counts as open (protocol 5, 6). A store that fails is unfit:
 * never promoted; it merges up what can be read of it and gets a full copy (protocol 8). */
#include <stdio.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/queue/internal_uv.h"

static bool progress(void *ctx, const char *table, unsigned i, unsigned tables)
{
    struct storage *s = ctx;
    pthread_mutex_lock(&s->lock);
    snprintf(s->check_table, sizeof s->check_table, "%s", table);
    s->check_i = i;
    s->check_n = tables;
    bool go = !s->stop;
    pthread_mutex_unlock(&s->lock);
    return go;
}

static void set_unfit(struct storage *s)
{
    struct store *store = s->store;
    struct store_meta meta;
    store->ops->get_meta(store, &meta);
    meta.unfit = true;
    int err = store->ops->begin(store);
    if (!err)
        err = store->ops->set_meta(store, &meta);
    if (!err)
        err = store->ops->commit(store);
    if (err) /* it is checked again at the next start, then */
        storage_fail(s, err, "its unfitness can't be written down");
    else
        store_sqlite_unmark_check(s->path);
}

void storage_check(struct storage *s)
{
    char detail[240] = "";
    struct store_meta meta;
    log_warn("storage.check", "store=%s why=\"an error was seen; it is checked before it is used\"",
             s->path);
    int err = store_sqlite_check(s->store, progress, s, detail, sizeof detail);
    if (err == STORE_CONFLICT)
        return; /* stopped: the mark stays */
    if (err) {
        log_error("storage.unfit",
                  "store=%s why=\"%s\"; what can be read of it is merged, then it gets a full copy",
                  s->path, detail);
        set_unfit(s);
    } else {
        log_info("storage.checked", "store=%s it is whole", s->path);
        store_sqlite_unmark_check(s->path);
    }
    (void)store_sqlite_saw_damage();
    pthread_mutex_lock(&s->lock);
    s->checking = false;
    pthread_mutex_unlock(&s->lock);
    s->store->ops->get_meta(s->store, &meta);
    s->hooks.changed(s->hooks.ctx, &meta);
}

void storage_watch_damage(struct storage *s)
{
    struct store_meta meta;
    if (s->failed || !store_sqlite_saw_damage())
        return;
    s->store->ops->get_meta(s->store, &meta);
    if (!meta.unfit) /* else it is known */
        storage_fail(s, STORE_CORRUPT, "the database is damaged");
}

bool storage_checking(struct storage *s, char *text, size_t n)
{
    pthread_mutex_lock(&s->lock);
    bool yes = s->checking;
    if (yes)
        snprintf(text, n, "the store is checked after an error: table %s (%u of %u), %llu s so far",
                 s->check_table, s->check_i + 1, s->check_n,
                 (unsigned long long)((clock_boot_ns() - s->check_since_ns) / 1000000000));
    pthread_mutex_unlock(&s->lock);
    return yes;
}
