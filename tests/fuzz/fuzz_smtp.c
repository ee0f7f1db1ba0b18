/* Fuzzes the SMTP session core: a client's bytes, once in one piece and once in small ones, with
 * the driver answering at once and later. Both must give the same replies and the same messages,
 * and no message may hold what strict CRLF forbids. */
#include <stdio.h>
#include <stdlib.h>

#include "node/smtp/session.h"

struct world {
    struct smtp_policy policy;
    struct smtp_client client;
    struct smtp_session *s;
    uint64_t now;
    bool sync, verify_due, commit_due, tls_due, tls_seen, closed;
    struct buf replies, body, messages;
    uint64_t next_id;
};

static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void check_body(const struct world *w)
{
    struct slice b = buf_slice(&w->body);
    for (size_t i = 0; i < b.n; i++) {
        must(b.p[i] != 0, "NUL in a message");
        must(b.p[i] != '\n' || (i && b.p[i - 1] == '\r'), "bare LF in a message");
        must(b.p[i] != '\r' || (i + 1 < b.n && b.p[i + 1] == '\n'), "bare CR in a message");
    }
    must(!b.n || b.p[b.n - 1] == '\n', "unfinished line in a message");
}

static void take_message(struct world *w)
{
    struct smtp_message m;
    check_body(w);
    smtp_session_message(w->s, w->next_id++, 1700000000000, "Fri, 02 Jan 2026 03:04:05 +0000", &m);
    must(m.n >= 1 && m.n <= w->policy.recipients, "recipients");
    must(m.row.size == w->body.len && m.row.size <= w->policy.message_bytes, "size");
    struct row row = {.type = ROW_MESSAGE, .message = m.row};
    must(row_encode(&w->messages, &row), "encode the message");
    struct wire_reader r = wire_read(buf_slice(&w->messages));
    while (r.n)
        must(row_decode(&r, &row), "decode what was encoded");
    for (unsigned i = 0; i < m.n; i++) {
        row = (struct row){.type = ROW_RECIPIENT, .recipient = m.rcpts[i]};
        must(row_encode(&w->messages, &row), "encode a recipient");
    }
    struct row chunk = {.type = ROW_CHUNK, .chunk = {.data = buf_slice(&w->body)}};
    must(row_encode(&w->messages, &chunk), "encode the body");
    buf_clear(&w->body);
    smtp_message_free(&m);
}

static void answer(struct world *w)
{
    if (w->tls_due) {
        w->tls_due = false;
        smtp_session_tls(w->s, "TLSv1.3 SUITE", w->now);
    }
    if (w->verify_due) {
        w->verify_due = false;
        smtp_session_verified(w->s, w->next_id % 2 ? SMTP_VERIFIED : SMTP_WRONG, w->now);
    }
    if (w->commit_due) {
        w->commit_due = false;
        take_message(w);
        smtp_session_fate(w->s, SMTP_COMMITTED, w->now);
    }
}

static void on_effect(void *ctx, const struct smtp_effect *fx)
{
    struct world *w = ctx;
    must(!w->closed, "nothing happens after close");
    switch (fx->type) {
    case SMTP_FX_WRITE:
        must(fx->bytes.n >= 2 && fx->bytes.p[fx->bytes.n - 1] == '\n', "whole reply lines");
        must(buf_append_slice(&w->replies, fx->bytes), "replies fit");
        return;
    case SMTP_FX_START_TLS:
        w->tls_due = w->tls_seen = true;
        return;
    case SMTP_FX_VERIFY:
        w->verify_due = true;
        break;
    case SMTP_FX_BODY:
        must(buf_append_slice(&w->body, fx->bytes), "text within its limit");
        return;
    case SMTP_FX_DISCARD:
        buf_clear(&w->body);
        return;
    case SMTP_FX_COMPLETE:
        w->commit_due = true;
        break;
    case SMTP_FX_REFUSED:
        return;
    case SMTP_FX_CLOSE:
        w->closed = true;
        return;
    }
    if (w->sync)
        answer(w);
}

static void run(struct world *w, uint8_t options, struct slice in, size_t piece)
{
    w->policy = (struct smtp_policy){.hostname = "mx.test",
                                     .message_bytes = 4096,
                                     .recipients = 5,
                                     .hops = 3,
                                     .errors = 20,
                                     .greeting_ms = 30000,
                                     .command_ms = 300000,
                                     .data_ms = 300000};
    w->client = (struct smtp_client){.peer = "192.0.2.9",
                                     .may_relay = options & 1,
                                     .starttls = options & 2,
                                     .implicit = options & 4,
                                     .auth = true,
                                     .auth_required = options & 8};
    w->now = 1000;
    w->next_id = 1;
    buf_init(&w->replies, 16 << 20);
    buf_init(&w->body, 8192);
    buf_init(&w->messages, 16 << 20);
    w->s = smtp_session_new(&w->policy, &w->client, on_effect, w, w->now);
    if (w->client.implicit)
        smtp_session_tls(w->s, "TLSv1.3 SUITE", w->now);
    smtp_session_greet(w->s, SMTP_ADMIT, w->now);
    while (in.n && !w->closed) {
        size_t n = piece < in.n ? piece : in.n;
        smtp_session_input(w->s, slice_of(in.p, n), w->now);
        in.p += n, in.n -= n;
        for (unsigned i = 0; i < 10000 && !w->closed; i++) {
            answer(w);
            if (smtp_session_wants_input(w->s) && !w->tls_due)
                break;
            w->now += 1000; /* a wrong password's delay */
            smtp_session_tick(w->s, w->now);
        }
    }
}

static void end(struct world *w)
{
    smtp_session_free(w->s);
    buf_free(&w->replies);
    buf_free(&w->body);
    buf_free(&w->messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world a = {.sync = true}, b = {.sync = false};
    if (size < 2 || size > 60000)
        return 0;
    struct slice in = slice_of(data + 2, size - 2);
    run(&a, data[0], in, SIZE_MAX);
    run(&b, data[0], in, 1 + data[1] % 7);
    /* Behind STARTTLS, what comes in the same flight differs by design. */
    if (!a.tls_seen && !b.tls_seen) {
        must(slice_eq(buf_slice(&a.replies), buf_slice(&b.replies)), "same replies");
        must(slice_eq(buf_slice(&a.messages), buf_slice(&b.messages)), "same messages");
    }
    end(&a);
    end(&b);
    return 0;
}
