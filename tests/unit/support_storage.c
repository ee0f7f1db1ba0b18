/* See support_storage.h. */
#include "support_storage.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "support_store.h"

enum { WAIT_MS = 20000 };

static void on_batch(void *ctx, const struct own_batch *b)
{
    struct rig *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->order_broken |= b->first != r->batched.lsn + 1 && r->batched.lsn != 0;
    r->batched = (struct pos){b->epoch, b->last};
    r->batched_by = pthread_self();
    r->n_rows += b->n_rows;
    pthread_mutex_unlock(&r->lock);
}

static void on_merged(void *ctx, struct pos end) {}

static void on_durable(void *ctx, struct pos end)
{
    struct rig *r = ctx;
    pthread_mutex_lock(&r->lock);
    r->order_broken |= r->batched.lsn && pos_cmp(end, r->batched) != 0;
    r->durable = end;
    r->durable_by = pthread_self();
    pthread_mutex_unlock(&r->lock);
    if (r->fd > 0 && write(r->fd, &end.lsn, sizeof end.lsn) < 0)
        _exit(1);
}

static void on_reply(void *ctx, const struct store_reply *p)
{
    struct rig *r = ctx;
    pthread_mutex_lock(&r->lock);
    ck_assert_uint_lt(r->n_replies, 64);
    r->replies[r->n_replies++] = *p;
    pthread_cond_broadcast(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

static void on_changed(void *ctx, const struct store_meta *m)
{
    (void)ctx;
    (void)m;
}

static void on_failed(void *ctx, int err, const char *why)
{
    (void)why;
    ((struct rig *)ctx)->failed = err;
}

static void on_opstate(void *ctx, struct slice key, struct slice value)
{
    struct rig *r = ctx;
    snprintf(r->opstate, sizeof r->opstate, "%.*s=%.*s", (int)key.n, (const char *)key.p,
             (int)value.n, (const char *)value.p);
}

static void on_mail(void *ctx, struct mail *m)
{
    struct rig *r = ctx;
    ck_assert_uint_lt(r->n_back, 256);
    r->back[r->n_back++] = m;
}

static void start(struct rig *r, const char *path, bool alone)
{
    char err[300];
    bool virgin;
    memset(r, 0, sizeof *r);
    r->config.store = xstrdup(path);
    r->config.cluster = xstrdup("test");
    r->config.queue.retention_ms = 1000;
    r->config.queue.quarantine_ms = 50;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    uv_loop_init(&r->loop);
    r->mail = mailbox_new(&r->loop, on_mail, r);
    r->storage = storage_open(&r->config, &r->meta, &virgin, err, sizeof err);
    ck_assert_msg(r->storage != NULL, "%s", err);
    struct storage_hooks h = {.ctx = r,
                              .batch = alone ? NULL : on_batch,
                              .durable = on_durable,
                              .reply = on_reply,
                              .changed = on_changed,
                              .failed = on_failed,
                              .opstate = on_opstate,
                              .merged = on_merged};
    storage_start(r->storage, &h);
}

void rig_start(struct rig *r, const char *path)
{
    start(r, path, false);
}

void rig_start_alone(struct rig *r, const char *path)
{
    start(r, path, true);
}

void rig_stop(struct rig *r)
{
    storage_stop(r->storage);
    mailbox_close(r->mail);
    uv_run(&r->loop, UV_RUN_DEFAULT);
    uv_loop_close(&r->loop);
    free(r->config.store);
    free(r->config.cluster);
}

struct store_reply rig_ask(struct rig *r, struct store_request q)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    storage_request(r->storage, &q);
    pthread_mutex_lock(&r->lock);
    while (r->taken == r->n_replies)
        ck_assert_int_eq(pthread_cond_timedwait(&r->wake, &r->lock, &until), 0);
    struct store_reply p = r->replies[r->taken++];
    if (r->taken == r->n_replies)
        r->taken = r->n_replies = 0;
    pthread_mutex_unlock(&r->lock);
    ck_assert_int_eq(p.type, q.type);
    return p;
}

uint32_t rig_promote(struct rig *r, uint32_t epoch)
{
    struct store_reply p =
        rig_ask(r, (struct store_request){.type = SR_PROMOTE, .epoch = epoch, .mode = MODE_SOLO});
    ck_assert_int_eq(p.err, STORE_OK);
    return epoch;
}

static void on_time_out(uv_timer_t *t)
{
    (void)t;
    ck_abort_msg("time-out");
}

/* The next thing that comes back. */
void *rig_next(struct rig *r)
{
    uv_timer_t timer;
    uv_timer_init(&r->loop, &timer);
    uv_timer_start(&timer, on_time_out, WAIT_MS, 0);
    while (!r->n_back)
        uv_run(&r->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&timer, NULL);
    uv_run(&r->loop, UV_RUN_NOWAIT);
    void *m = r->back[0];
    memmove(r->back, r->back + 1, --r->n_back * sizeof *r->back);
    return m;
}

struct storage_op *rig_op(struct rig *r, enum storage_op_type type, uint32_t epoch)
{
    struct storage_op *op = xcalloc(1, sizeof *op);
    op->type = type;
    op->epoch = epoch;
    op->reply_to = r->mail;
    op->rows = xcalloc(16, sizeof *op->rows);
    return op;
}

struct storage_op *rig_add(struct rig *r, uint32_t epoch, uint64_t id, unsigned seed, unsigned n)
{
    struct storage_op *op = rig_op(r, OP_ADD, epoch);
    op->rows[op->n_rows++] = support_message(id, seed, n);
    for (unsigned i = 0; i < n; i++)
        op->rows[op->n_rows++] = support_recipient(id, i, RCPT_QUEUED);
    storage_submit(r->storage, op);
    return op;
}

enum op_result rig_wait(struct rig *r)
{
    struct storage_op *op = rig_next(r);
    enum op_result result = op->result;
    storage_op_free(op);
    return result;
}

struct storage_read *rig_get(struct rig *r, struct storage_read q)
{
    struct storage_read *p = xmalloc(sizeof *p);
    *p = q;
    p->reply_to = r->mail;
    storage_read(r->storage, 0, p);
    struct storage_read *back = rig_next(r);
    ck_assert_ptr_eq(back, p);
    return p;
}

int rig_state(struct rig *r, uint64_t id, uint32_t index, uint8_t *message_state)
{
    struct storage_read *q = rig_get(r, (struct storage_read){.type = READ_MESSAGE, .id = id});
    struct wire_reader w = wire_read(buf_slice(&q->bytes));
    struct row m, p;
    int state = -1;
    if (q->err == STORE_OK && row_decode(&w, &m)) {
        *message_state = m.message.state;
        while (w.n && row_decode(&w, &p))
            if (p.recipient.index == index)
                state = p.recipient.state;
    }
    storage_read_free(q);
    return state;
}
