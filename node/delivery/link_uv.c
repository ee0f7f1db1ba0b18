/* Connections to next hops and the transactions on them. The rules of protocol 4.5 and 6 are held
 * in two places: target_pump() starts nothing and link_try_dot() lets no final dot out while this
 * node may not deliver; the latter also waits for the link's earlier outcomes, and for its note
 * (protocol 9). */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/sum_xxhash.h"
#include "node/delivery/delivery_private_uv.h"

struct link_read {
    struct link *link; /* NULL: it is gone */
    struct delivery *d;
};

static const struct conn_events conn_hooks;

/* --- the body --- */

static bool body_in_memory(const struct letter *l)
{
    return l->m.body.n > 0 || l->m.size == 0;
}

static void body_damaged(struct link *l, const char *why)
{
    log_error("delivery.body_damaged", "id=%llx %s", (unsigned long long)l->job->letter->m.id, why);
    l->damaged = true;
    conn_quit(l->conn);
}

static void give_body(struct link *l);

static void on_piece(struct storage_read *r)
{
    struct link_read *lr = r->ctx;
    struct delivery *d = lr->d;
    struct link *l = lr->link;
    free(lr);
    if (l) {
        l->read = NULL;
        const struct row_message *m = &l->job->letter->m;
        if (r->err || r->bytes.len == 0) {
            body_damaged(l, r->err == STORE_CORRUPT ? "checksum" : "it can't be read");
        } else {
            assert(l->piece.len == 0 && l->body_asked + r->bytes.len <= m->size);
            l->body_asked += r->bytes.len;
            buf_free(&l->piece);
            l->piece = r->bytes;
            l->checked = r->checked;
            buf_init(&r->bytes, 0);
            if (l->body_wanted)
                give_body(l);
        }
    }
    storage_read_free(r);
    delivery_unref(d);
}

/* Reads one piece ahead of what was given. */
static void read_ahead(struct link *l)
{
    const struct row_message *m = &l->job->letter->m;
    if (l->read || l->piece.len || l->body_asked == m->size || body_in_memory(l->job->letter))
        return;
    uint64_t left = m->size - l->body_asked;
    struct storage_read *r = xcalloc(1, sizeof *r);
    r->type = READ_BODY;
    r->id = m->id;
    r->offset = l->body_asked;
    r->limit = left < BODY_PIECE_BYTES ? (size_t)left : BODY_PIECE_BYTES;
    l->read = xcalloc(1, sizeof *l->read);
    *l->read = (struct link_read){.link = l, .d = l->d};
    r->ctx = l->read;
    r->done = on_piece;
    l->d->refs++;
    queue_read(l->d->queue, 0, r);
}

/* The whole body has passed: is it what was accepted? Asked before its last piece goes out. */
static bool body_right(struct link *l, struct slice piece)
{
    const struct row_message *m = &l->job->letter->m;
    const struct queued *fresh = l->job->letter->fresh;
    uint8_t sum[32];
    if (fresh && m->body.n) /* in memory since it was accepted */
        return sum_bytes(piece) == fresh->body_sum;
    if (l->checked) /* by the reader's thread, which had all of it at once */
        return true;
    if (!l->sha)
        l->sha = sha256_new();
    sha256_update(l->sha, piece);
    if (l->body_given + piece.n < m->size)
        return true;
    sha256_final(l->sha, sum);
    l->sha = NULL;
    return memcmp(sum, m->sha256, sizeof sum) == 0;
}

static void give_body(struct link *l)
{
    const struct letter *letter = l->job->letter;
    const struct row_message *m = &letter->m;
    l->body_wanted = false;
    if (l->stage == 0) {
        l->stage = m->size ? 1 : 2;
        conn_body(l->conn, m->prefix, m->size == 0);
        return;
    }
    struct slice piece = body_in_memory(letter) ? m->body : buf_slice(&l->piece);
    if (piece.n == 0) {
        l->body_wanted = true;
        read_ahead(l);
        return;
    }
    if (!body_right(l, piece)) {
        body_damaged(l, "checksum");
        return;
    }
    struct buf holds = l->piece; /* conn_body may come back for more */
    buf_init(&l->piece, BODY_PIECE_BYTES);
    l->body_given += piece.n;
    bool last = l->body_given == m->size;
    if (last)
        l->stage = 2;
    else
        read_ahead(l);
    conn_body(l->conn, piece, last);
    buf_free(&holds);
}

static void on_body(void *ctx, struct conn *c)
{
    (void)c;
    give_body(ctx);
}

/* --- transactions --- */

static void link_start(struct link *l, struct job *j)
{
    const struct row_message *m = &j->letter->m;
    assert(!l->job && l->ready);
    l->job = j;
    l->t->idle--;
    l->stage = 0;
    l->body_given = l->body_asked = 0;
    l->checked = l->damaged = l->dot_wanted = l->refused = false;
    l->tx = (struct client_transaction){.sender = m->sender,
                                        .envid = m->envid,
                                        .flags = m->flags,
                                        .size = m->prefix.n + m->size,
                                        .n = j->n,
                                        .rcpts = xcalloc(j->n, sizeof *l->tx.rcpts)};
    for (unsigned i = 0; i < j->n; i++)
        l->tx.rcpts[i] = (struct client_recipient){.address = j->rcpts[i].address,
                                                   .orcpt = j->rcpts[i].orcpt,
                                                   .notify = j->rcpts[i].notify};
    noting_start(l); /* well ahead of the dot that waits for it */
    read_ahead(l);
    conn_send(l->conn, &l->tx);
}

/* Starts the next job on an idle link, if there is one and it may. */
static void link_next(struct link *l)
{
    struct target *t = l->t;
    struct delivery *d = l->d;
    if (!l->ready || l->job || l->quitting || !conn_idle(l->conn) || !t->head ||
        !delivery_active(d) || destination_backing_off(&t->core, delivery_now(d)))
        return;
    if (!d->hooks.may_deliver(d->hooks.ctx))
        return; /* delivery_wake() comes back */
    if (!destination_take(&t->core, delivery_now(d))) {
        target_wait(t);
        return;
    }
    link_start(l, target_pop(t));
}

void link_try_dot(struct link *l)
{
    struct delivery *d = l->d;
    if (!l->dot_wanted || !delivery_active(d))
        return;
    struct dot dot = noting_dot(l);
    if (!dot_may_go(&dot))
        return;
    if (!d->hooks.may_deliver(d->hooks.ctx))
        return;
    l->dot_wanted = false;
    l->dot_out = true;
    d->dots++;
    conn_dot(l->conn);
}

static void on_dot(void *ctx, struct conn *c)
{
    struct link *l = ctx;
    (void)c;
    l->dot_wanted = true;
    link_try_dot(l);
}

void link_refuse(struct link *l)
{
    assert(l->job && !l->dot_out);
    l->refused = true;
    conn_quit(l->conn);
}

static void link_free(struct link *l);

/* A closed connection keeps its place until its last outcome is settled: reconnecting must not let
 * more deliveries be unsettled than there are connections (protocol 4.5). */
void link_settled(struct link *l)
{
    struct target *t = l->t;
    if (l->conn) {
        link_try_dot(l);
    } else if (!l->outcomes) {
        link_free(l);
        target_pump(t);
    }
}

static void end_body(struct link *l)
{
    if (l->read)
        l->read->link = NULL;
    l->read = NULL;
    buf_free(&l->piece);
    sha256_free(l->sha);
    l->sha = NULL;
    l->body_wanted = l->dot_wanted = false;
    if (l->dot_out) {
        l->dot_out = false;
        assert(l->d->dots);
        l->d->dots--;
    }
}

/* What happens to a recipient that got no answer. NULL: it waits for another connection. */
static const struct reply *unanswered(struct link *l, struct job *j, struct client_transaction *tx,
                                      struct reply *made)
{
    if (l->damaged)
        return NULL; /* it waits for the other node's copy */
    if (tx->end == CLIENT_LOST_AFTER) {
        char text[400];
        bool hold = j->letter->m.flags & MSG_IN_DOUBT_HOLD;
        snprintf(text, sizeof text, "%.*s; it may have been delivered%s",
                 (int)(tx->last.text_n < 300 ? tx->last.text_n : 300), tx->last.text,
                 hold ? ", so it waits for an operator" : "");
        reply_set(made, 0, "4.4.2", text);
        return made;
    }
    if (tx->dot_withheld || !delivery_active(l->d))
        return NULL;
    if (++j->tries < TRIES_MAX)
        return NULL;
    return &tx->last;
}

static void put_back(struct link *l, struct job *j, const struct row_recipient *rows, unsigned n)
{
    memcpy(j->rcpts, rows, n * sizeof *rows);
    j->n = n;
    if (intake_paused(l->t, &j->letter->m, &rows[0])) { /* since it was begun */
        intake_leave_job(l->d, j);
        return;
    }
    target_push(l->t, j, true);
}

/* Parts the recipients into those with a result, which is recorded, and those to be tried again. */
static void take_results(struct link *l, struct job *j, struct client_transaction *tx)
{
    struct result results[CLIENT_RECIPIENTS_MAX];
    struct row_recipient again[CLIENT_RECIPIENTS_MAX];
    struct reply made;
    unsigned n = 0, n_again = 0;
    bool open = false, asked = false;
    bool doubt =
        tx->end == CLIENT_LOST_AFTER && !l->damaged && (j->letter->m.flags & MSG_IN_DOUBT_HOLD);
    const struct reply *rest = NULL;
    for (unsigned i = 0; i < tx->n; i++)
        open |= !tx->rcpts[i].decided;
    if (open)
        rest = unanswered(l, j, tx, &made);
    for (unsigned i = 0; i < tx->n; i++) {
        const struct client_recipient *r = &tx->rcpts[i];
        const struct reply *reply = r->decided ? &r->result : rest;
        asked |= r->decided;
        if (reply)
            results[n++] = (struct result){.row = &j->rcpts[i],
                                           .reply = reply,
                                           .in_doubt = doubt && !r->decided,
                                           .dsn_passed_on = conn_offers(l->conn, EXT_DSN)};
        else
            again[n_again++] = j->rcpts[i];
    }
    if (asked)
        destination_succeeded(&l->t->core);
    if (n)
        outcome_record(l->d, l, j->letter, results, n);
    noting_take_back(l->d, j->letter, again, n_again);
    if (n_again && l->damaged && delivery_active(l->d)) {
        memcpy(j->rcpts, again, n_again * sizeof *again);
        j->n = n_again;
        if (j->letter->m.body.n) { /* in memory: what the disk has may be right */
            intake_leave_job(l->d, j);
            intake_scan_all(l->d);
            /* Once more: what takes its note back may not be committed yet. */
            delivery_due_at(l->d, clock_wall_ms() + 1000);
        } else {
            mend_begin(l, j);
        }
    } else if (n_again)
        put_back(l, j, again, n_again);
    else
        job_free(j);
}

/* What was noted of it is taken back; the disk tells what became of it. */
static void let_go(struct link *l, struct job *j)
{
    noting_take_back(l->d, j->letter, j->rcpts, j->n);
    intake_leave_job(l->d, j);
}

static void on_done(void *ctx, struct conn *c, struct client_transaction *tx)
{
    struct link *l = ctx;
    struct job *j = l->job;
    (void)c;
    assert(tx == &l->tx && j);
    end_body(l);
    l->job = NULL;
    l->t->idle++;
    l->idle_since_ms = delivery_now(l->d);
    if (l->generation != l->d->generation || l->d->closing) {
        job_free(j); /* after an abort nothing is recorded */
    } else if (l->refused) {
        let_go(l, j);
    } else {
        if (tx->end != CLIENT_ANSWERED && tx->last.code == 421)
            destination_crowded(&l->t->core);
        take_results(l, j, tx);
        intake_room(l->d, l->t);
    }
    noting_end(l);
    free(tx->rcpts);
    tx->rcpts = NULL;
    delivery_check_idle(l->d);
}

static void on_ready(void *ctx, struct conn *c)
{
    struct link *l = ctx;
    struct target *t = l->t;
    if (!l->ready) {
        l->ready = true;
        assert(t->opening);
        t->opening--;
        t->idle++;
        l->idle_since_ms = delivery_now(l->d);
        snprintf(l->tls, sizeof l->tls, "%s", conn_tls(c));
    }
    if (l->quitting)
        return;
    if (destination_worn(&t->core, conn_sent(c)) || l->generation != l->d->generation) {
        l->quitting = true;
        conn_quit(c);
        return;
    }
    link_next(l);
}

/* --- connections --- */

static void link_connect(struct link *l)
{
    struct delivery *d = l->d;
    struct hop *h = &l->t->hop[l->hop];
    char addr[64];
    bool named = strspn(h->host, "0123456789.") != strlen(h->host) && !strchr(h->host, ':');
    snprintf(l->remote, sizeof l->remote, "%s %s", h->host,
             address_print(addr, (struct sockaddr *)&h->address));
    /* "host [addr]:port" also for IPv4 */
    if (addr[0] != '[') {
        char *colon = strrchr(addr, ':');
        *colon = 0;
        snprintf(l->remote, sizeof l->remote, "%s [%s]:%s", h->host, addr, colon + 1);
    }
    l->conn = conn_open(d->loop, (struct sockaddr *)&h->address, h->no_tls ? NULL : d->tls,
                        named ? h->host : NULL, d->hostname, &conn_hooks, l);
}

/* First hop at or behind `from` whose last attempt didn't fail. */
static unsigned good_hop(const struct target *t, unsigned from)
{
    while (from < t->n_hops && t->hop[from].bad)
        from++;
    return from;
}

static void link_free(struct link *l)
{
    struct target *t = l->t;
    struct delivery *d = l->d;
    struct link **p = &t->links;
    while (*p != l)
        p = &(*p)->next;
    *p = l->next;
    outcome_unlink(l);
    assert(!l->conn && !l->job && !l->read && t->core.open && d->n_links);
    t->core.open--;
    d->n_links--;
    t->idle_since_ms = delivery_now(d);
    free(l);
    if (d->waiting)
        delivery_tick_soon(d); /* somebody may wait for a connection */
}

/* No way to this next hop: what waits ends with the reason, the rest of its mail stays on disk. */
static void target_down(struct target *t, const struct reply *why)
{
    struct delivery *d = t->d;
    bool permanent = why->enhanced[0] == '5'; /* DNS said so */
    if (!permanent) {
        char text[200], quoted[300];
        snprintf(text, sizeof text, "%.*s", (int)(why->text_n < 199 ? why->text_n : 199),
                 why->text);
        destination_failed(&t->core, delivery_now(d), delivery_random(d), text);
        log_info("delivery.destination_down", "destination=%s why=%s", t->key,
                 log_quote(quoted, sizeof quoted, slice_str(text)));
    }
    for (unsigned i = 0; i < t->n_hops; i++)
        t->hop[i].bad = false;
    outcome_fail_waiting(t, why);
    if (permanent)
        intake_room(d, t); /* what is on disk ends the same way */
}

static void on_closed(void *ctx, struct conn *c, const struct reply *why, bool announced,
                      bool tls_failed)
{
    struct link *l = ctx;
    struct target *t = l->t;
    struct delivery *d = l->d;
    (void)c;
    assert(!l->job);
    l->conn = NULL;
    bool current = l->generation == d->generation && !d->closing && !l->quitting;
    if (!announced && current && l->hop < t->n_hops) {
        struct hop *h = &t->hop[l->hop];
        if (tls_failed && !h->no_tls) {
            h->no_tls = true;
        } else {
            h->bad = true;
            l->hop = good_hop(t, l->hop + 1);
        }
        if (l->hop < t->n_hops && delivery_active(d)) {
            link_connect(l);
            return;
        }
        struct reply said;
        char text[500];
        int n = (int)(why->text_n < 300 ? why->text_n : 300);
        if (why->code)
            snprintf(text, sizeof text, "%s said: %u %.*s", l->remote, why->code, n, why->text);
        else
            snprintf(text, sizeof text, "%s: %.*s", l->remote, n, why->text);
        /* A refusal of us, not of a message, even with 5xx: it may take us later, or another host
         * will (as Postfix has it). */
        reply_set(&said, 0, why->enhanced[0] == '4' ? why->enhanced : "4.3.0", text);
        bool working = t->core.open > t->opening;
        t->opening--;
        link_free(l);
        if (working)
            destination_crowded(&t->core);
        else if (t->opening == 0)
            target_down(t, &said);
        return;
    }
    if (l->ready)
        t->idle--;
    else
        t->opening--;
    l->ready = false;
    if (l->outcomes && l->generation == d->generation && !d->closing)
        return; /* link_settled() goes on */
    link_free(l);
    if (d->closing)
        delivery_link_gone(d);
    else
        target_pump(t);
}

static const struct conn_events conn_hooks = {.on_ready = on_ready,
                                              .on_body = on_body,
                                              .on_dot = on_dot,
                                              .on_done = on_done,
                                              .on_closed = on_closed};

static void link_open(struct target *t)
{
    struct delivery *d = t->d;
    struct link *l = xcalloc(1, sizeof *l);
    l->d = d;
    l->t = t;
    l->generation = d->generation;
    buf_init(&l->piece, BODY_PIECE_BYTES);
    l->hop = good_hop(t, 0);
    if (l->hop == t->n_hops)
        l->hop = 0;
    l->next = t->links;
    t->links = l;
    t->core.open++;
    t->opening++;
    d->n_links++;
    link_connect(l);
}

static void on_hops(void *ctx, const struct hops *h)
{
    struct target *t = ctx;
    t->resolving = NULL;
    t->d->n_resolving--;
    free(t->hop);
    t->hop = NULL;
    t->n_hops = h->n;
    if (h->n == 0) {
        if (t->core.open == 0)
            target_down(t, &h->failure);
        return;
    }
    t->hop = xcalloc(h->n, sizeof *t->hop);
    memcpy(t->hop, h->hop, h->n * sizeof *t->hop);
    t->hops_until_ms = delivery_now(t->d) + HOPS_LIFE_MS;
    target_pump(t);
}

/* Are the addresses known? If not, asks for them; target_pump() is called again then. */
static bool target_resolved(struct target *t)
{
    struct delivery *d = t->d;
    if (t->resolving)
        return false;
    /* Links on their way use the table: it changes only between them. */
    if (t->n_hops && (delivery_now(d) < t->hops_until_ms || t->opening))
        return true;
    if (d->n_resolving >= RESOLVING_MAX) {
        target_wait(t);
        return false;
    }
    bool mx = t->kind == ROUTE_MX;
    d->n_resolving++;
    uint64_t seed = (uint64_t)delivery_random(d) << 32 | delivery_random(d);
    t->resolving = hops_resolve(d->dns, d->loop, mx ? t->key : NULL, mx ? NULL : t->host, t->port,
                                d->hostname, seed, on_hops, t);
    return false;
}

void target_pump(struct target *t)
{
    struct delivery *d = t->d;
    struct link *next;
    if (!delivery_active(d))
        return;
    for (struct link *l = t->links; l && t->head && t->idle; l = next) {
        next = l->next;
        if (l->generation == d->generation)
            link_next(l);
    }
    while (destination_may_open(&t->core, delivery_now(d), t->n_jobs, t->idle + t->opening)) {
        if (d->n_links >= d->config->delivery.connections) {
            target_wait(t);
            return;
        }
        if (t->waiting || !target_resolved(t))
            return;
        link_open(t);
    }
}

void links_drop(struct target *t)
{
    for (struct link *l = t->links, *next; l; l = next) {
        next = l->next;
        l->quitting = true;
        if (l->conn) {
            conn_quit(l->conn);
        } else {
            outcome_unlink(l);
            link_free(l);
        }
    }
}

void target_close_idle(struct target *t, uint64_t idle_for_ms)
{
    uint64_t now = delivery_now(t->d);
    for (struct link *l = t->links, *next; l; l = next) {
        next = l->next;
        if (!l->ready || l->job || l->quitting || !l->conn || now - l->idle_since_ms < idle_for_ms)
            continue;
        l->quitting = true;
        conn_quit(l->conn);
    }
}
