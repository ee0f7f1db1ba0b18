/* From a session's text to the queue and back to its fate. Small bodies go with their message row,
 * large ones ahead of it in chunks; the row follows when all its chunks are safe (protocol 4.7). */
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/smtp/server_state_uv.h"

static void intake_free(struct intake *in)
{
    if (in->conn || in->in_flight)
        return;
    sha256_free(in->sha);
    sum_free(in->sum);
    buf_free(&in->part);
    free(in);
}

/* Lets go of the intake; its chunks in flight come back to nobody. */
static void intake_detach(struct conn *c)
{
    struct intake *in = c->intake;
    c->intake = NULL;
    in->conn = NULL;
    intake_free(in);
}

void intake_drop(struct conn *c)
{
    struct intake *in = c->intake;
    if (!in)
        return;
    if (in->chunks)
        queue_abort(in->queue, in->id);
    intake_detach(c);
}

static void submit(struct conn *c);

static void on_chunk(void *ctx, enum queue_outcome outcome, uint64_t n_changed)
{
    struct intake *in = ctx;
    (void)n_changed;
    in->in_flight--;
    if (outcome != QUEUE_OK)
        in->lost = true;
    struct conn *c = in->conn;
    if (in->adding)
        return; /* from within queue_add_chunk(): its caller looks */
    if (!c) {
        intake_free(in);
        return;
    }
    uint64_t now = uv_now(c->server->loop);
    if (in->complete && in->in_flight == 0)
        submit(c);
    else if (in->lost && !in->complete)
        smtp_session_body_lost(c->session, now);
    server_check_memory(c->server);
    conn_update(c);
}

static void write_chunk(struct intake *in, struct slice bytes)
{
    if (!in->id && queue_epoch(in->queue))
        in->id = queue_next_id(in->queue);
    if (in->id && !in->lost) {
        in->in_flight++;
        in->adding = true;
        queue_add_chunk(in->queue, in->id, in->chunks++, bytes, on_chunk, in);
        in->adding = false;
    } else {
        in->lost = true; /* no epoch to write in: it ends with 421 */
    }
}

static void write_ahead(struct intake *in)
{
    struct slice left = buf_slice(&in->part);
    while (left.n) {
        size_t n = left.n < BODY_CHUNK_BYTES ? left.n : BODY_CHUNK_BYTES;
        write_chunk(in, slice_of(left.p, n));
        left = slice_of(left.p + n, left.n - n);
    }
    buf_clear(&in->part);
}

static struct intake *intake_of(struct conn *c)
{
    if (!c->intake) {
        struct intake *in = c->intake = xcalloc(1, sizeof *in);
        in->conn = c;
        in->queue = c->server->queue;
        in->sha = sha256_new();
        in->sum = sum_new();
        buf_init(&in->part, BODY_INLINE_MAX);
    }
    return c->intake;
}

void intake_body(struct conn *c, struct slice bytes)
{
    struct intake *in = intake_of(c);
    sha256_update(in->sha, bytes);
    sum_update(in->sum, bytes);
    c->server->stats.bytes_total += bytes.n;
    while (bytes.n) {
        size_t most = in->chunks || in->lost ? BODY_CHUNK_BYTES : BODY_INLINE_MAX;
        if (in->part.len == most) {
            write_ahead(in);
            most = BODY_CHUNK_BYTES;
        }
        size_t room = most - in->part.len;
        size_t n = bytes.n < room ? bytes.n : room;
        buf_append(&in->part, bytes.p, n);
        bytes.p += n, bytes.n -= n;
    }
    if (in->lost)
        smtp_session_body_lost(c->session, uv_now(c->server->loop));
}

void intake_complete(struct conn *c)
{
    struct intake *in = intake_of(c);
    if (in->chunks)
        write_ahead(in);
    in->complete = true;
    if (in->in_flight == 0)
        submit(c);
}

static void submission_free(struct submission *sub)
{
    if (sub->link) {
        *sub->link = sub->next;
        if (sub->next)
            sub->next->link = sub->link;
    }
    smtp_message_free(&sub->message);
    free(sub);
}

void submission_detach(struct conn *c)
{
    if (c->submission)
        c->submission->conn = NULL;
    c->submission = NULL;
}

static void say_accepted(const struct submission *sub)
{
    const struct row_message *m = &sub->message.row;
    char reply[64];
    snprintf(reply, sizeof reply, "Ok: queued as %016llx", (unsigned long long)m->id);
    for (unsigned i = 0; i < sub->message.n; i++) {
        struct event ev = {
            .type = EVENT_ACCEPTED,
            .id = m->id,
            .sender = m->sender,
            .recipient = sub->message.rcpts[i].address,
            .campaign = m->campaign,
            .remote = slice_str(sub->remote),
            .code = 250,
            .enhanced = SLICE_LIT("2.0.0"),
            .reply = slice_str(reply),
            .tls = slice_str(sub->tls),
            .delay_ms = clock_wall_ms() - m->received_ms,
        };
        if (ev.delay_ms < 0)
            ev.delay_ms = 0;
        events_emit(sub->server->events, MESSAGE_EPOCH(m->id), &ev);
    }
}

static void on_fate(void *ctx, enum queue_outcome outcome, uint64_t n_changed)
{
    static const enum smtp_fate fates[] = {[QUEUE_OK] = SMTP_COMMITTED,
                                           [QUEUE_NOT_PRIMARY] = SMTP_NEVER_NUMBERED,
                                           [QUEUE_UNDECIDED] = SMTP_UNDECIDED};
    struct submission *sub = ctx;
    struct smtp_server *s = sub->server;
    struct conn *c = sub->conn;
    (void)n_changed;
    if (c)
        c->submission = NULL;
    if (s && outcome == QUEUE_OK) {
        s->stats.accepted_total++;
        say_accepted(sub);
    }
    submission_free(sub);
    if (c)
        smtp_session_fate(c->session, fates[outcome], uv_now(s->loop));
    if (s)
        server_check_memory(s);
    if (c)
        conn_update(c);
}

/* The message was not given to the queue and won't be. */
static void never_numbered(struct conn *c)
{
    intake_drop(c);
    smtp_session_fate(c->session, SMTP_NEVER_NUMBERED, uv_now(c->server->loop));
}

static void submit(struct conn *c)
{
    struct smtp_server *s = c->server;
    struct intake *in = c->intake;
    uint32_t epoch = queue_epoch(s->queue);
    if (!in->id && epoch)
        in->id = queue_next_id(s->queue);
    if (in->lost || !epoch || MESSAGE_EPOCH(in->id) != epoch) {
        never_numbered(c);
        return;
    }
    struct submission *sub = xcalloc(1, sizeof *sub);
    char date[40];
    int64_t wall_ms = clock_wall_ms();
    smtp_session_message(c->session, in->id, wall_ms, clock_rfc5322(date, wall_ms), &sub->message);
    struct row_message *m = &sub->message.row;
    sha256_final(in->sha, m->sha256);
    uint64_t body_sum = sum_final(in->sum);
    in->sha = NULL;
    in->sum = NULL;
    m->chunks = in->chunks;
    if (s->config->queue.in_doubt_hold)
        m->flags |= MSG_IN_DOUBT_HOLD; /* the policy travels with the message (protocol 9) */
    sub->server = s;
    sub->conn = c;
    c->submission = sub;
    snprintf(sub->remote, sizeof sub->remote, "%s", stream_peer(c->stream));
    snprintf(sub->tls, sizeof sub->tls, "%s", stream_tls_describe(c->stream));
    sub->next = s->submissions;
    sub->link = &s->submissions;
    if (sub->next)
        sub->next->link = &sub->next;
    s->submissions = sub;
    struct buf body = in->part;
    buf_init(&in->part, BODY_INLINE_MAX);
    if (in->chunks) /* which have it; large, and empty */
        buf_free(&body);
    intake_detach(c);
    queue_add(s->queue, m, sub->message.rcpts, sub->message.n, &body, body_sum, on_fate, sub);
}
