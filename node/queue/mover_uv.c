/* The log's way into the database. Most of it is moved by a thread and a connection of its own
 * while commits go on: a flush of the database, and writing its pages, would else hold up whoever
 * waits for a 250. SQLite begins the log anew only once all of it was moved and nothing was added,
 * which never happens by itself under load: so the writer moves the rest now and then, which by
 * then is little. */
#include "node/base/log.h"
#include "node/queue/internal_uv.h"

static void connect_anew(struct mover *m, const char *path)
{
    char err[300];
    store_sqlite_close(m->store);
    m->store = store_sqlite_open_mover(path, err, sizeof err);
    if (!m->store)
        log_error("storage.mover", "error=\"%s\"", err); /* the writer moves all of it, then */
}

static void *run_mover(void *arg)
{
    struct storage *s = arg;
    struct mover *m = &s->mover;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        if (!m->due) {
            pthread_cond_wait(&m->wake, &s->lock);
            continue;
        }
        bool anew = !m->store || m->generation != s->generation;
        m->generation = s->generation;
        pthread_mutex_unlock(&s->lock);
        if (anew)
            connect_anew(m, s->path);
        int err = m->store ? store_sqlite_checkpoint(m->store) : STORE_OK;
        pthread_mutex_lock(&s->lock);
        m->due = false;
        m->err = m->err ? m->err : err;
        pthread_cond_signal(&m->idle);
    }
    m->due = false; /* nobody waits for what isn't done any more */
    pthread_cond_signal(&m->idle);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void mover_init(struct storage *s)
{
    pthread_cond_init(&s->mover.wake, NULL);
    pthread_cond_init(&s->mover.idle, NULL);
}

bool mover_start(struct storage *s)
{
    return pthread_create(&s->mover.thread, NULL, run_mover, s) == 0;
}

void mover_free(struct storage *s)
{
    store_sqlite_close(s->mover.store);
    pthread_cond_destroy(&s->mover.wake);
    pthread_cond_destroy(&s->mover.idle);
}

static int error_of(struct storage *s)
{
    pthread_mutex_lock(&s->lock);
    int err = s->mover.err;
    pthread_mutex_unlock(&s->lock);
    return err;
}

void mover_rest(struct storage *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->mover.due && !s->stop)
        pthread_cond_wait(&s->mover.idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

void mover_watch(struct storage *s)
{
    int err = s->failed ? STORE_OK : error_of(s);
    if (err)
        storage_fail(s, err, "the log can't be moved into the database");
}

/* The writer's part. Its time counts like a transaction's: a disk that hangs here holds up the next
 * one. */
static void cut(struct storage *s)
{
    storage_begun(s);
    mover_rest(s);
    int err = store_sqlite_checkpoint(s->store);
    if (err)
        storage_fail(s, err, store_sqlite_error(s->store));
    else
        storage_ended(s, 0, 0);
}

void mover_log(struct storage *s)
{
    mover_watch(s);
    enum store_sqlite_log need = s->failed ? LOG_IS_SHORT : store_sqlite_log(s->store);
    if (need == LOG_TO_CUT) {
        cut(s);
    } else if (need == LOG_TO_MOVE) {
        pthread_mutex_lock(&s->lock);
        s->mover.due = true;
        pthread_cond_signal(&s->mover.wake);
        pthread_mutex_unlock(&s->lock);
    }
}
