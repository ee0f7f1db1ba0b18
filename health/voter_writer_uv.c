/* See voter_writer_uv.h. */
#include "health/voter_writer_uv.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "health/voter_posix.h"
#include "node/base/log.h"
#include "node/base/mailbox_uv.h"

enum { CLOSE_WAIT_S = 5 }; /* a disk that stalls for longer must not keep a process from ending */

struct voter_writer {
    struct mailbox *mailbox;
    char *path, *cluster;
    voter_written done;
    void *ctx;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool full, closing; /* under lock */
    struct voter_state row;
};

struct written {
    struct mail mail;
    bool ok;
};

static void *run(void *arg)
{
    struct voter_writer *w = arg;
    bool failing = false; /* told once: it is tried again many times a second */
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->full && !w->closing)
            pthread_cond_wait(&w->wake, &w->lock);
        if (w->closing)
            break;
        struct voter_state row = w->row;
        w->full = false;
        pthread_mutex_unlock(&w->lock);
        char err[512];
        struct written *m = xcalloc(1, sizeof *m);
        m->ok = voter_file_store(w->path, w->cluster, &row, err, sizeof err);
        if (!m->ok && !failing)
            log_error("voter.write_failed", "error=\"%s\"", err);
        else if (m->ok && failing)
            log_info("voter.written", "file=%s can be written again", w->path);
        failing = !m->ok;
        pthread_mutex_lock(&w->lock);
        if (w->closing)
            free(m);
        else
            mailbox_post(w->mailbox, &m->mail);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void on_mail(void *ctx, struct mail *m)
{
    struct voter_writer *w = ctx;
    bool ok = ((struct written *)m)->ok;
    free(m);
    w->done(w->ctx, ok);
}

struct voter_writer *voter_writer_new(uv_loop_t *loop, const char *path, const char *cluster,
                                      voter_written done, void *ctx)
{
    struct voter_writer *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path); /* of its own: it may outlive the rest on a hung disk */
    w->cluster = xstrdup(cluster);
    w->done = done;
    w->ctx = ctx;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    w->mailbox = mailbox_new(loop, on_mail, w);
    if (pthread_create(&w->thread, NULL, run, w) != 0)
        abort(); /* no thread at start: the machine is out of everything */
    return w;
}

void voter_writer_put(struct voter_writer *w, const struct voter_state *state)
{
    pthread_mutex_lock(&w->lock);
    assert(!w->full);
    w->row = *state;
    w->full = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

void voter_writer_close(struct voter_writer *w)
{
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    mailbox_close(w->mailbox);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_WAIT_S;
    if (pthread_timedjoin_np(w->thread, NULL, &until) != 0) {
        log_error("voter.stalled", "file=%s the disk doesn't answer; leaving without it", w->path);
        pthread_detach(w->thread); /* it still uses w */
        return;
    }
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w->path);
    free(w->cluster);
    free(w);
}
