/* From the queue into memory: messages as they are committed, and what lies on disk. A pass over
 * the disk goes through all domains with something due (round robin: some rows of each); a next hop
 * that has emptied half of its share of memory is read by itself. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/delivery/delivery_private_uv.h"

static bool memory_full(const struct delivery *d)
{
    return d->hand.n >= IN_HAND_RECIPIENTS_MAX || d->bytes >= IN_HAND_BYTES_MAX;
}

static bool domain_paused(const struct delivery *d, const char *name)
{
    return pauses_has(&d->pauses, OPSTATE_DESTINATION, slice_str(name));
}

bool intake_paused(const struct target *t, const struct row_message *m,
                   const struct row_recipient *r)
{
    const struct pauses *p = &t->d->pauses;
    return p->n && (pauses_has(p, OPSTATE_DESTINATION, slice_str(t->key)) ||
                    pauses_has(p, OPSTATE_DESTINATION, r->domain) ||
                    (m->campaign.n && pauses_has(p, OPSTATE_CAMPAIGN, m->campaign)));
}

static bool has_room(const struct target *t)
{
    return !domain_paused(t->d, t->key) && t->n_rcpts < TARGET_RECIPIENTS_MAX &&
           !destination_backing_off(&t->core, delivery_now(t->d));
}

static struct letter *letter_new(struct delivery *d, size_t bytes)
{
    struct letter *l = xcalloc(1, sizeof *l);
    l->d = d;
    l->refs = 1;
    l->bytes = sizeof *l + bytes;
    d->bytes += l->bytes;
    return l;
}

static struct job *job_new(struct letter *l, unsigned n)
{
    struct job *j = xcalloc(1, sizeof *j + n * sizeof j->rcpts[0]);
    j->letter = l;
    l->refs++;
    return j;
}

/* Takes rows of one letter for their targets, as far as there is room; the rest stays on disk. */
static void distribute(struct letter *l, struct row_recipient *rows, unsigned n)
{
    struct delivery *d = l->d;
    bool *seen = xcalloc(n, sizeof *seen);
    for (unsigned i = 0; i < n; i++) {
        if (seen[i] || rows[i].state != RCPT_QUEUED)
            continue;
        struct target *t = target_get(d, rows[i].domain);
        if (t && intake_paused(t, &l->m, &rows[i]))
            continue; /* read again when it goes on */
        if (!t || memory_full(d)) {
            d->scan.left = true;
            continue;
        }
        if (!has_room(t)) {
            t->left = true;
            continue;
        }
        unsigned room = n - i < CLIENT_RECIPIENTS_MAX ? n - i : CLIENT_RECIPIENTS_MAX;
        struct job *j = job_new(l, room);
        for (unsigned k = i; k < n && j->n < room; k++) {
            if (seen[k] || rows[k].state != RCPT_QUEUED ||
                (k != i && target_get(d, rows[k].domain) != t) || intake_paused(t, &l->m, &rows[k]))
                continue;
            seen[k] = true;
            if (hand_add(&d->hand, rows[k].id, rows[k].index))
                j->rcpts[j->n++] = rows[k];
        }
        if (j->n == 0) {
            job_free(j);
            continue;
        }
        target_push(t, j, false);
        target_pump(t);
    }
    free(seen);
}

void intake_fresh(void *ctx, struct queued *q)
{
    struct delivery *d = ctx;
    if (!d->running || memory_full(d)) {
        d->scan.left = true;
        queued_free(q);
        return;
    }
    struct letter *l = letter_new(d, q->memory.cap + q->n_rcpts * sizeof *q->rcpts);
    l->fresh = q;
    l->m = q->message;
    distribute(l, q->rcpts, q->n_rcpts);
    letter_unref(l);
}

/* --- the disk --- */

static void scan_go(struct delivery *d);

static void scan_read_done(struct delivery *d)
{
    struct scan *s = &d->scan;
    s->busy = false;
    for (size_t i = 0; i < s->n_leaving; i++)
        hand_remove(&d->hand, s->leaving[i].id, s->leaving[i].index);
    s->n_leaving = 0;
}

/* A read that began before an outcome was settled may still show the row as due: such rows leave
 * only when that read has been used. */
void intake_leave(struct delivery *d, uint64_t id, uint32_t index)
{
    struct scan *s = &d->scan;
    if (!s->busy) {
        hand_remove(&d->hand, id, index);
        return;
    }
    if (s->n_leaving == s->cap_leaving) {
        s->cap_leaving = s->cap_leaving ? 2 * s->cap_leaving : 64;
        s->leaving = xrealloc(s->leaving, s->cap_leaving * sizeof *s->leaving);
    }
    s->leaving[s->n_leaving++] = (struct hand_key){id, index};
}

void intake_leave_job(struct delivery *d, struct job *j)
{
    for (unsigned i = 0; i < j->n; i++)
        intake_leave(d, j->rcpts[i].id, j->rcpts[i].index);
    job_free(j);
}

static struct storage_read *new_read(struct delivery *d, enum read_type type, const char *domain,
                                     void (*done)(struct storage_read *))
{
    struct storage_read *r = xcalloc(1, sizeof *r);
    r->type = type;
    r->domain = domain ? xstrdup(domain) : NULL;
    r->due_ms = clock_wall_ms();
    r->ctx = d;
    r->done = done;
    d->scan.busy = true;
    d->refs++;
    return r;
}

static void free_domains(struct scan *s)
{
    for (unsigned i = 0; i < s->n_domains; i++)
        free(s->domains[i]);
    free(s->domains);
    s->domains = NULL;
    s->n_domains = s->at = 0;
}

static void pass_over(struct scan *s)
{
    free_domains(s);
    free(s->after);
    s->after = NULL;
    s->in_pass = s->more_domains = false;
}

/* Common to all reads: is its result still of use? */
static bool usable(struct delivery *d, struct storage_read *r)
{
    struct scan *s = &d->scan;
    bool ok = d->running && !s->discard && (r->err == STORE_OK || r->err == STORE_NOT_FOUND);
    if (d->running && !s->discard && !ok)
        log_warn("delivery.scan_failed", "type=%d err=%d", r->type, r->err);
    return ok;
}

static void finish_read(struct delivery *d, struct storage_read *r)
{
    scan_read_done(d);
    storage_read_free(r);
    if (d->scan.discard) {
        d->scan.discard = false;
        pass_over(&d->scan);
        free(d->scan.domain);
        d->scan.domain = NULL;
    }
    scan_go(d);
    delivery_unref(d);
}

/* The pairs (message row, recipient row) of one message, from `at`: *n recipients, what is behind
 * them in *end. False: malformed. */
static bool group(const struct wire_reader *at, struct row_recipient *last, unsigned *n,
                  struct wire_reader *end)
{
    uint64_t id = 0;
    struct wire_reader r = *at;
    *n = 0;
    while (r.n && *n < CLIENT_RECIPIENTS_MAX) {
        struct wire_reader before = r;
        struct row m, rcpt;
        if (!row_decode(&r, &m) || !row_decode(&r, &rcpt) || m.type != ROW_MESSAGE ||
            rcpt.type != ROW_RECIPIENT)
            return false;
        if (*n && m.message.id != id) {
            r = before;
            break;
        }
        id = m.message.id;
        *last = rcpt.recipient;
        (*n)++;
    }
    *end = r;
    return *n > 0;
}

/* Old mail that was tried ends here, without waiting for another attempt. */
static unsigned expire_old(struct letter *l, struct row_recipient *rows, unsigned n)
{
    struct delivery *d = l->d;
    struct schedule s = {.expire_ms = d->config->delivery.expire_ms,
                         .may_expire = !d->hooks.may_expire || d->hooks.may_expire(d->hooks.ctx)};
    struct result over[CLIENT_RECIPIENTS_MAX];
    unsigned kept = 0, n_over = 0;
    int64_t now = clock_wall_ms();
    struct row_recipient old[CLIENT_RECIPIENTS_MAX];
    for (unsigned i = 0; i < n; i++) {
        if (!schedule_expired(&s, &rows[i], l->m.received_ms, now)) {
            rows[kept++] = rows[i];
        } else if (hand_add(&d->hand, rows[i].id, rows[i].index)) {
            old[n_over] = rows[i];
            over[n_over] = (struct result){.row = &old[n_over]};
            n_over++;
        }
    }
    if (n_over)
        outcome_record(d, NULL, l, over, n_over);
    return kept;
}

/* Their addresses are never sent to: they end here. */
static void end_suppressed(struct letter *l, struct row_recipient *rows, unsigned n)
{
    struct delivery *d = l->d;
    struct result over[CLIENT_RECIPIENTS_MAX];
    unsigned n_over = 0;
    for (unsigned i = 0; i < n; i++) {
        if (!hand_add(&d->hand, rows[i].id, rows[i].index))
            continue;
        rows[i].state = RCPT_QUEUED; /* as it is in the store */
        over[n_over++] = (struct result){.row = &rows[i], .suppressed = true};
    }
    if (n_over)
        outcome_record(d, NULL, l, over, n_over);
}

static void take_group(struct delivery *d, struct wire_reader from, size_t bytes, unsigned n)
{
    struct letter *l = letter_new(d, bytes + n * sizeof(struct row_recipient));
    struct row_recipient rows[CLIENT_RECIPIENTS_MAX], never[CLIENT_RECIPIENTS_MAX];
    unsigned n_never = 0;
    buf_init(&l->memory, bytes);
    bool ok = buf_append(&l->memory, from.p, bytes);
    struct wire_reader r = wire_read(buf_slice(&l->memory));
    unsigned kept = 0;
    for (unsigned i = 0; ok && i < n; i++) {
        struct row m, rcpt;
        ok = row_decode(&r, &m) && row_decode(&r, &rcpt);
        if (!ok)
            break;
        l->m = m.message;
        if (hand_has(&d->hand, rcpt.recipient.id, rcpt.recipient.index))
            continue;
        if (rcpt.recipient.state == RCPT_QUEUED)
            rows[kept++] = rcpt.recipient;
        else if (rcpt.recipient.state == RCPT_SUPPRESSED)
            never[n_never++] = rcpt.recipient;
    }
    assert(ok); /* it was decoded once already */
    end_suppressed(l, never, n_never);
    kept = kept ? expire_old(l, rows, kept) : 0;
    if (kept)
        distribute(l, rows, kept);
    letter_unref(l);
}

static void on_due(struct storage_read *r)
{
    struct delivery *d = r->ctx;
    struct scan *s = &d->scan;
    bool more = false;
    if (usable(d, r)) {
        struct wire_reader at = wire_read(buf_slice(&r->bytes)), end;
        struct row_recipient last = {0};
        unsigned n = 0;
        while (at.n && !memory_full(d) && group(&at, &last, &n, &end)) {
            take_group(d, at, at.n - end.n, n);
            at = end;
        }
        struct target *t = target_get(d, slice_str(s->domain));
        if (at.n && !memory_full(d))
            log_error("delivery.scan_malformed", "bytes=%zu", at.n);
        more = r->more && at.n == 0;
        if (memory_full(d) || !t) {
            s->left |= more || at.n;
            more = false;
        } else if (!has_room(t)) {
            t->left |= more;
            more = false;
        }
        s->cursor.next_ms = r->cursor.next_ms;
        s->cursor.id = r->cursor.id;
        s->cursor.index = r->cursor.index;
    }
    if (!more) {
        free(s->domain);
        s->domain = NULL;
    }
    finish_read(d, r);
}

static void on_domains(struct storage_read *r)
{
    struct delivery *d = r->ctx;
    struct scan *s = &d->scan;
    if (usable(d, r)) {
        free_domains(s);
        struct wire_reader at = wire_read(buf_slice(&r->bytes));
        s->domains = xcalloc(SCAN_DOMAINS, sizeof *s->domains);
        while (at.n && s->n_domains < SCAN_DOMAINS) {
            struct slice name = wire_get_bytes(&at, 1024);
            (void)wire_get_u64(&at);
            if (at.bad)
                break;
            s->domains[s->n_domains++] = slice_dup(name);
        }
        s->more_domains = r->more && s->n_domains;
        if (s->n_domains) {
            free(s->after);
            s->after = xstrdup(s->domains[s->n_domains - 1]);
        }
    } else {
        s->more_domains = false;
    }
    finish_read(d, r);
}

static void on_next_due(struct storage_read *r)
{
    struct delivery *d = r->ctx;
    /* What came due while this was read counts too: nothing else would look before the next rescan.
     */
    if (usable(d, r) && r->err == STORE_OK && r->due_ms)
        delivery_due_at(d, r->due_ms);
    finish_read(d, r);
}

/* The next domain to be read, of those waiting by themselves or of the pass. False: none now. */
static bool next_domain(struct delivery *d)
{
    struct scan *s = &d->scan;
    while (s->targets) {
        struct target *t = s->targets;
        s->targets = t->next_scan;
        if (!s->targets)
            s->last = NULL;
        t->want_scan = false;
        if (has_room(t))
            s->domain = xstrdup(t->key);
        else
            t->left = true;
        if (s->domain)
            return true;
    }
    while (s->in_pass && s->at < s->n_domains) {
        const char *name = s->domains[s->at++];
        if (domain_paused(d, name))
            continue;
        struct target *t = target_get(d, slice_str(name));
        if (!t)
            s->left = true;
        else if (!has_room(t))
            t->left = true;
        else
            s->domain = xstrdup(name);
        if (s->domain)
            return true;
    }
    return false;
}

static void stop_for_memory(struct delivery *d)
{
    struct scan *s = &d->scan;
    s->left |= s->in_pass || s->want_all || s->targets;
    pass_over(s);
    s->want_all = false;
    for (struct target *t = s->targets; t; t = t->next_scan)
        t->want_scan = false;
    s->targets = s->last = NULL;
}

static void read_due(struct delivery *d)
{
    struct scan *s = &d->scan;
    struct storage_read *r = new_read(d, READ_DUE, s->domain, on_due);
    r->limit = SCAN_ROWS;
    r->cursor.next_ms = s->cursor.next_ms;
    r->cursor.id = s->cursor.id;
    r->cursor.index = s->cursor.index;
    queue_read(d->queue, 0, r);
}

static void scan_go(struct delivery *d)
{
    struct scan *s = &d->scan;
    if (s->busy || !d->running || d->closing)
        return;
    if (!s->domain && memory_full(d)) {
        stop_for_memory(d);
        return;
    }
    if (!s->domain && next_domain(d))
        memset(&s->cursor, 0, sizeof s->cursor);
    if (s->domain) {
        read_due(d);
        return;
    }
    if (s->in_pass && !s->more_domains) {
        pass_over(s);
        struct storage_read *next = new_read(d, READ_NEXT_DUE, NULL, on_next_due);
        next->due_ms = s->began_ms; /* a domain read early in the pass may have more by now */
        queue_read(d->queue, 0, next);
        return;
    }
    if (!s->in_pass) {
        if (!s->want_all)
            return;
        s->want_all = s->left = false;
        s->in_pass = true;
        s->began_ms = clock_wall_ms();
    }
    struct storage_read *r = new_read(d, READ_DOMAINS, s->after ? s->after : "", on_domains);
    r->limit = SCAN_DOMAINS;
    queue_read(d->queue, 0, r);
}

void intake_scan_all(struct delivery *d)
{
    d->scan.want_all = true;
    scan_go(d);
}

void intake_scan_target(struct target *t)
{
    struct scan *s = &t->d->scan;
    if (t->kind != ROUTE_MX) { /* its mail lies under many domains */
        intake_scan_all(t->d);
        return;
    }
    if (!t->want_scan) {
        t->want_scan = true;
        t->next_scan = NULL;
        if (s->last)
            s->last->next_scan = t;
        else
            s->targets = t;
        s->last = t;
    }
    scan_go(t->d);
}

void intake_room(struct delivery *d, struct target *t)
{
    struct scan *s = &d->scan;
    if (t && t->left && t->n_rcpts < TARGET_RECIPIENTS_MAX / 2 && has_room(t)) {
        t->left = false;
        intake_scan_target(t);
    }
    if (s->left && d->hand.n < IN_HAND_RECIPIENTS_MAX / 2 && d->bytes < IN_HAND_BYTES_MAX / 2)
        intake_scan_all(d);
}

void intake_forget_waiting(struct delivery *d)
{
    for (struct target *t = d->targets; t; t = t->next) {
        struct job *j;
        while ((j = target_pop(t))) {
            for (unsigned i = 0; i < j->n; i++)
                hand_remove(&d->hand, j->rcpts[i].id, j->rcpts[i].index);
            job_free(j);
        }
    }
    if (d->scan.busy)
        d->scan.discard = true; /* what it brings may be of before */
}

void intake_reset(struct delivery *d)
{
    struct scan *s = &d->scan;
    intake_forget_waiting(d);
    mend_reset(d);
    hand_clear(&d->hand);
    s->n_leaving = 0;
    pass_over(s);
    for (struct target *t = s->targets; t; t = t->next_scan)
        t->want_scan = false;
    s->targets = s->last = NULL;
    s->want_all = s->left = false;
    free(s->domain);
    s->domain = NULL;
}
