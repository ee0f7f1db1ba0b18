/* A queue of messages from any thread to one libuv loop. Messages are intrusive and arrive in
 * order. */
#ifndef BATON_BASE_MAILBOX_UV_H
#define BATON_BASE_MAILBOX_UV_H

#include <stdbool.h>
#include <uv.h>

/* First member of every message type; the sender allocates, the receiver frees. */
struct mail {
    struct mail *next;
    int type; /* meaning is the receiver's */
};

struct mailbox;
typedef void (*mailbox_fn)(void *ctx, struct mail *m);

/* Made on the loop's thread before others post. on_mail runs on the loop's thread, once a message.
 */
struct mailbox *mailbox_new(uv_loop_t *loop, mailbox_fn on_mail, void *ctx);
/* Any thread. Takes ownership of m. */
void mailbox_post(struct mailbox *mb, struct mail *m);
/* Likewise, but the loop isn't woken: it comes with the next that wakes it, or mailbox_drain(). */
void mailbox_post_quietly(struct mailbox *mb, struct mail *m);
/* Loop's thread: delivers what is there. */
void mailbox_drain(struct mailbox *mb);
/* Loop's thread; no posts may follow. Unread messages are freed with free(). Frees mb after its
 * close callback. */
void mailbox_close(struct mailbox *mb);
/* Does the mailbox keep the loop alive? Default yes. */
void mailbox_unref(struct mailbox *mb);
#endif
