/* From replies to rows: outcomes with the notifications that they cause, handed to the queue in one
 * call (protocol 3: a bounce is committed with its outcome), and their events once they are
 * settled. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/delivery/delivery_private_uv.h"

struct outcome {
    struct delivery *d;
    uint64_t generation;
    uint32_t epoch;
    struct link *link;
    struct outcome *next_of_link;
    struct noting *noting; /* held until this is settled; NULL: no transaction */
    struct letter *letter;
    unsigned n;
    struct row_recipient *rows;
    struct bounce_rcpt *told; /* verdicts, beside rows */
    struct reply *replies;
    char remote[MX_NAME_MAX + 80], tls[80];
    int kind; /* enum bounce_kind, or -1: none */
    uint64_t bounce_id;
    struct buf text;
    struct slice head;
    bool head_whole;
};

static void outcome_free(struct outcome *o)
{
    letter_unref(o->letter);
    buf_free(&o->text);
    free(o->rows);
    free(o->told);
    free(o->replies);
    free(o);
}

static void forget_link(struct outcome *o)
{
    struct outcome **p = &o->link->outcomes;
    while (*p != o)
        p = &(*p)->next_of_link;
    *p = o->next_of_link;
    o->link = NULL;
}

void outcome_unlink(struct link *l)
{
    for (struct outcome *o = l->outcomes; o; o = o->next_of_link)
        o->link = NULL;
    l->outcomes = NULL;
}

static void emit(const struct outcome *o)
{
    static const enum event_type types[] = {[VERDICT_DELIVERED] = EVENT_DELIVERED,
                                            [VERDICT_DEFERRED] = EVENT_DEFERRED,
                                            [VERDICT_FAILED] = EVENT_FAILED,
                                            [VERDICT_EXPIRED] = EVENT_EXPIRED,
                                            [VERDICT_SUPPRESSED] = EVENT_SUPPRESSED};
    const struct row_message *m = &o->letter->m;
    for (unsigned i = 0; i < o->n; i++) {
        const struct row_recipient *r = &o->rows[i];
        struct event ev = {.type = types[o->told[i].verdict],
                           .id = m->id,
                           .sender = m->sender,
                           .recipient = r->address,
                           .campaign = m->campaign,
                           .remote = r->remote,
                           .enhanced = r->enhanced,
                           .reply = r->reply,
                           .tls = slice_str(o->tls),
                           .code = r->code,
                           .attempt = r->attempts,
                           .delay_ms = r->last_ms ? r->last_ms - m->received_ms : -1};
        if (o->d->events)
            events_emit(o->d->events, o->epoch, &ev);
        delivery_count(o->d, o->told[i].verdict);
    }
}

/* A notification of ours enters the queue like any other message. */
static void emit_bounce(const struct outcome *o)
{
    struct event ev = {.type = EVENT_ACCEPTED,
                       .id = o->bounce_id,
                       .recipient = o->letter->m.sender,
                       .reply = SLICE_LIT("delivery status notification"),
                       .delay_ms = 0};
    if (o->d->events)
        events_emit(o->d->events, o->epoch, &ev);
}

static void on_settled(void *ctx, enum queue_outcome result, uint64_t n_changed)
{
    struct outcome *o = ctx;
    struct delivery *d = o->d;
    (void)n_changed;
    assert(d->n_outcomes);
    d->n_outcomes--;
    struct link *l = o->link;
    if (l)
        forget_link(o);
    /* Anything but OK: its fate is unknown and the epoch over; it stays in hand until the abort. */
    noting_unref(o->noting, result == QUEUE_OK);
    o->noting = NULL;
    if (o->generation == d->generation && !d->closing && result == QUEUE_OK) {
        emit(o);
        d->totals.bounced_total += o->kind >= 0;
        for (unsigned i = 0; i < o->n; i++) {
            intake_leave(d, o->rows[i].id, o->rows[i].index);
            if (o->told[i].verdict == VERDICT_DEFERRED)
                delivery_due_at(d, o->rows[i].next_ms);
        }
        if (o->kind >= 0) {
            emit_bounce(o);
            delivery_due_at(d, clock_wall_ms() + 1000); /* the notification is mail as well */
        }
        if (l)
            link_settled(l);
    } else if (l && l->conn) {
        conn_quit(l->conn);
    }
    outcome_free(o);
    delivery_check_idle(d);
    delivery_unref(d);
}

static void build_bounce(struct outcome *o, struct row_message *m, struct row_recipient *r)
{
    struct delivery *d = o->d;
    const struct row_message *about = &o->letter->m;
    char date[40], arrival[40], until[40];
    int64_t now = clock_wall_ms();
    struct bounce_context c = {
        .hostname = d->hostname,
        .id = queue_next_id(d->queue),
        .date = clock_rfc5322(date, now),
        .arrival = clock_rfc5322(arrival, about->received_ms),
        .last_attempt = date,
        .retry_until =
            clock_rfc5322(until, about->received_ms + (int64_t)d->config->delivery.expire_ms),
    };
    if (!bounce_build(&o->text, (enum bounce_kind)o->kind, &c, about, o->head, o->head_whole,
                      o->told, o->n)) {
        buf_clear(&o->text); /* too much to return: without the original's headers it fits */
        bool ok = bounce_build(&o->text, (enum bounce_kind)o->kind, &c, about, slice_of(NULL, 0),
                               false, o->told, o->n);
        if (!ok)
            log_error("delivery.bounce_too_large", "id=%llx", (unsigned long long)about->id);
    }
    *m = (struct row_message){.id = c.id,
                              .flags = MSG_BOUNCE | MSG_8BIT | (about->flags & MSG_UTF8),
                              .received_ms = now,
                              .size = o->text.len,
                              .recipients = 1,
                              .parent = about->id,
                              .origin = SLICE_LIT("bounce"),
                              .body = buf_slice(&o->text)};
    crypto_sha256(m->body, m->sha256);
    *r = (struct row_recipient){.id = c.id,
                                .state = RCPT_QUEUED,
                                .next_ms = now,
                                .notify = NOTIFY_NEVER,
                                .address = about->sender};
}

/* The sender's domain in lower case, in out. */
static struct slice domain_of(struct slice address, char *out, size_t n)
{
    size_t at = address.n;
    while (at && address.p[at - 1] != '@')
        at--;
    size_t len = address.n - at < n ? address.n - at : n;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = address.p[at + i];
        out[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    return slice_of(out, at ? len : 0);
}

static void submit(struct outcome *o)
{
    struct delivery *d = o->d;
    if (o->generation != d->generation || d->closing) { /* given up while the body was read */
        on_settled(o, QUEUE_UNDECIDED, 0);
        return;
    }
    if (o->kind < 0) {
        queue_outcome(d->queue, o->rows, o->n, NULL, NULL, on_settled, o);
        return;
    }
    struct row_message m;
    struct row_recipient r;
    char domain[256];
    build_bounce(o, &m, &r);
    o->bounce_id = m.id;
    r.domain = domain_of(r.address, domain, sizeof domain);
    queue_outcome(d->queue, o->rows, o->n, &m, &r, on_settled, o);
}

static void on_head(struct storage_read *r)
{
    struct outcome *o = r->ctx;
    o->head = buf_slice(&r->bytes);
    o->head_whole = r->err == STORE_OK && r->bytes.len == o->letter->m.size;
    if (r->err)
        log_warn("delivery.bounce_without_original", "id=%llx err=%d",
                 (unsigned long long)o->letter->m.id, r->err);
    submit(o);
    storage_read_free(r);
}

/* A notification wants to see the beginning of the message. */
static void find_head(struct outcome *o)
{
    const struct row_message *m = &o->letter->m;
    if (m->body.n || m->size == 0) {
        o->head =
            slice_of(m->body.p, m->body.n < BOUNCE_HEAD_BYTES ? m->body.n : BOUNCE_HEAD_BYTES);
        o->head_whole = o->head.n == m->body.n;
        submit(o);
        return;
    }
    struct storage_read *r = xcalloc(1, sizeof *r);
    r->type = READ_BODY;
    r->id = m->id;
    r->limit = m->size < BOUNCE_HEAD_BYTES ? (size_t)m->size : BOUNCE_HEAD_BYTES;
    r->ctx = o;
    r->done = on_head;
    queue_read(o->d->queue, 0, r);
}

static struct outcome *outcome_new(struct delivery *d, struct link *link, struct letter *letter,
                                   unsigned n, int kind)
{
    struct outcome *o = xcalloc(1, sizeof *o);
    *o = (struct outcome){.d = d,
                          .generation = d->generation,
                          .epoch = queue_epoch(d->queue),
                          .letter = letter,
                          .kind = kind};
    letter->refs++;
    o->rows = xcalloc(n, sizeof *o->rows);
    o->told = xcalloc(n, sizeof *o->told);
    o->replies = xcalloc(n, sizeof *o->replies);
    buf_init(&o->text, BODY_CHUNK_BYTES);
    if (link) {
        snprintf(o->remote, sizeof o->remote, "%s", link->remote);
        snprintf(o->tls, sizeof o->tls, "%s", link->tls);
        o->link = link;
        o->next_of_link = link->outcomes;
        link->outcomes = o;
        o->noting = noting_ref(link->noting);
    }
    d->n_outcomes++;
    d->refs++;
    return o;
}

static int kind_of(const struct row_message *m, const struct bounce_rcpt *told, bool delay_due)
{
    if (bounce_wanted(BOUNCE_FAILURE, m, told))
        return BOUNCE_FAILURE;
    if (bounce_wanted(BOUNCE_RELAYED, m, told))
        return BOUNCE_RELAYED;
    return delay_due && bounce_wanted(BOUNCE_DELAY, m, told) ? BOUNCE_DELAY : -1;
}

/* Applies one result to a copy of its row; the kind of notification it calls for. */
static int judge(struct delivery *d, const struct letter *letter, const struct result *res,
                 int64_t now, struct row_recipient *row, struct bounce_rcpt *told)
{
    struct schedule s = {.retry_ms = d->config->delivery.retry_ms,
                         .n_retry = d->config->delivery.n_retry,
                         .expire_ms = d->config->delivery.expire_ms,
                         .may_expire = !d->hooks.may_expire || d->hooks.may_expire(d->hooks.ctx)};
    bool delay_due = false;
    *row = *res->row;
    *told = (struct bounce_rcpt){.row = row, .dsn_passed_on = res->dsn_passed_on};
    if (res->suppressed) {
        schedule_suppress(row, now);
        told->verdict = VERDICT_SUPPRESSED;
        return -1;
    }
    if (res->reply) {
        int64_t before = row->last_ms;
        told->verdict = schedule_apply(&s, row, res->reply, row->remote, letter->m.received_ms, now,
                                       delivery_random(d));
        delay_due = schedule_delay_due(row, before, letter->m.received_ms, now);
        if (res->in_doubt && told->verdict == VERDICT_DEFERRED) {
            row->in_doubt = DOUBT_YES;
            row->held |= HELD_DOUBT;
        }
    } else {
        schedule_expire(row);
        told->verdict = VERDICT_EXPIRED;
    }
    return kind_of(&letter->m, told, delay_due);
}

/* Takes a judged row into o, with bytes of its own behind it. */
static void take(struct outcome *o, const struct row_recipient *row, const struct bounce_rcpt *told,
                 const struct reply *reply)
{
    struct row_recipient *r = &o->rows[o->n];
    *r = *row;
    if (reply) {
        struct reply *copy = &o->replies[o->n];
        *copy = *reply;
        r->enhanced = slice_str(copy->enhanced);
        r->reply = slice_of(copy->text, copy->text_n);
        r->remote = slice_str(o->remote);
    }
    o->told[o->n] = *told;
    o->told[o->n].row = r;
    o->n++;
}

void outcome_record(struct delivery *d, struct link *link, struct letter *letter,
                    struct result *results, unsigned n)
{
    /* One outcome for each kind of notification, for the queue takes one with each. */
    struct outcome *by_kind[4] = {NULL, NULL, NULL, NULL};
    int64_t now = clock_wall_ms();
    for (unsigned i = 0; i < n; i++) {
        struct row_recipient row;
        struct bounce_rcpt told;
        int kind = judge(d, letter, &results[i], now, &row, &told);
        struct outcome **o = &by_kind[kind + 1];
        if (!*o)
            *o = outcome_new(d, link, letter, n - i, kind);
        take(*o, &row, &told, results[i].reply);
    }
    for (int k = 0; k < 4; k++) {
        if (!by_kind[k])
            continue;
        if (by_kind[k]->kind < 0)
            submit(by_kind[k]);
        else
            find_head(by_kind[k]);
    }
}

void outcome_fail_waiting(struct target *t, const struct reply *why)
{
    struct delivery *d = t->d;
    struct job *j;
    while ((j = target_pop(t))) {
        struct result results[CLIENT_RECIPIENTS_MAX];
        assert(j->n <= CLIENT_RECIPIENTS_MAX);
        for (unsigned i = 0; i < j->n; i++)
            results[i] = (struct result){.row = &j->rcpts[i], .reply = why};
        outcome_record(d, NULL, j->letter, results, j->n);
        job_free(j);
    }
}
