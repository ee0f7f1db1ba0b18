/* See mailbox_uv.h. */
#include "node/base/mailbox_uv.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "node/base/buf.h"

struct mailbox {
    uv_async_t async;
    pthread_mutex_t lock;
    struct mail *head, **tail;
    bool woken; /* the loop is about to take all */
    mailbox_fn on_mail;
    void *ctx;
    bool closing; /* loop's thread only */
};

static struct mail *take_all(struct mailbox *mb)
{
    pthread_mutex_lock(&mb->lock);
    struct mail *all = mb->head;
    mb->head = NULL;
    mb->tail = &mb->head;
    mb->woken = false;
    pthread_mutex_unlock(&mb->lock);
    return all;
}

void mailbox_drain(struct mailbox *mb)
{
    for (struct mail *m = take_all(mb), *next; m; m = next) {
        next = m->next;
        m->next = NULL;
        if (mb->closing)
            free(m);
        else
            mb->on_mail(mb->ctx, m);
    }
}

static void deliver(uv_async_t *async)
{
    mailbox_drain(async->data);
}

struct mailbox *mailbox_new(uv_loop_t *loop, mailbox_fn on_mail, void *ctx)
{
    struct mailbox *mb = xcalloc(1, sizeof *mb);
    mb->tail = &mb->head;
    mb->on_mail = on_mail;
    mb->ctx = ctx;
    pthread_mutex_init(&mb->lock, NULL);
    mb->async.data = mb;
    int rc = uv_async_init(loop, &mb->async, deliver);
    assert(rc == 0);
    (void)rc;
    return mb;
}

static void post(struct mailbox *mb, struct mail *m, bool wake)
{
    m->next = NULL;
    pthread_mutex_lock(&mb->lock);
    *mb->tail = m;
    mb->tail = &m->next;
    wake = wake && !mb->woken;
    mb->woken = mb->woken || wake;
    pthread_mutex_unlock(&mb->lock);
    if (wake)
        uv_async_send(&mb->async);
}

void mailbox_post(struct mailbox *mb, struct mail *m)
{
    post(mb, m, true);
}

void mailbox_post_quietly(struct mailbox *mb, struct mail *m)
{
    post(mb, m, false);
}

static void closed(uv_handle_t *h)
{
    struct mailbox *mb = h->data;
    for (struct mail *m = take_all(mb), *next; m; m = next) {
        next = m->next;
        free(m);
    }
    pthread_mutex_destroy(&mb->lock);
    free(mb);
}

void mailbox_close(struct mailbox *mb)
{
    mb->closing = true;
    uv_close((uv_handle_t *)&mb->async, closed);
}

void mailbox_unref(struct mailbox *mb)
{
    uv_unref((uv_handle_t *)&mb->async);
}
