/* Before a final dot: what others must know of it (protocol 9, dot.h).
 *
 * Under `resend` the standby is told as the transaction begins, with what else begins in this round
 * of the loop; while it is needed, its answer lets the dot out. The note is withdrawn when the
 * transaction is over and its outcomes are settled. A node without a peer has nobody to tell. Under
 * `hold` the note is a change of the row itself, committed before the dot; the outcome takes it
 * away, or, for a recipient that goes back to wait without one, another change.
 *
 * Lifetime: a noting lives as long as its link's transaction, each outcome of it, and the answer
 * that is due, whichever is last. */
#include <assert.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/delivery/delivery_private_uv.h"

static_assert((int)NOTE_RECIPIENTS_MAX >= (int)CLIENT_RECIPIENTS_MAX, "a transaction fits");

struct noting {
    struct delivery *d;
    struct noting *next; /* of d->notings, by number: the answer is due */
    struct link *link;   /* NULL: its transaction is over */
    uint64_t generation, key, number;
    unsigned refs;     /* the link, outcomes */
    bool due;          /* the answer */
    bool hold, stands; /* stands: an outcome's fate is unknown, so it isn't withdrawn */
    bool committed;
};

static bool is_hold(const struct letter *letter)
{
    return letter->m.flags & MSG_IN_DOUBT_HOLD;
}

static void maybe_free(struct noting *x)
{
    if (!x->refs && !x->due)
        free(x);
}

void noting_flush(struct delivery *d)
{
    if (!d->note_frame.len)
        return;
    struct buf frame = d->note_frame; /* an answer at once may begin the next */
    buf_init(&d->note_frame, NOTES_FRAME_BYTES);
    if (d->hooks.note)
        d->hooks.note(d->hooks.ctx, buf_slice(&frame));
    buf_free(&frame);
}

/* Room for another record, under the number of the frame that carries it. */
static bool open_frame(struct delivery *d)
{
    uint32_t epoch = queue_epoch(d->queue);
    if (!epoch)
        return false; /* it is over; the news is on its way */
    if (d->note_frame.len > NOTES_FRAME_BYTES / 2)
        noting_flush(d);
    if (epoch != d->note_epoch) {
        d->note_epoch = epoch;
        d->note_number = d->noted = 0;
        buf_clear(&d->note_frame);
    }
    if (!d->note_frame.len)
        note_encode_head(&d->note_frame, epoch, false, ++d->note_number);
    return true;
}

static void tell(struct noting *x, const struct job *j)
{
    struct delivery *d = x->d;
    struct note_recipient rcpts[NOTE_RECIPIENTS_MAX];
    for (unsigned i = 0; i < j->n; i++)
        rcpts[i] = (struct note_recipient){j->rcpts[i].index, j->rcpts[i].attempts};
    if (!open_frame(d))
        return;
    x->key = ++d->note_key;
    x->number = d->note_number;
    bool ok = note_put(&d->note_frame, x->key, j->letter->m.id, rcpts, j->n);
    assert(ok);
    (void)ok;
    x->due = true;
    x->next = NULL;
    if (d->notings)
        d->notings_last->next = x;
    else
        d->notings = x;
    d->notings_last = x;
}

static void withdraw(struct noting *x)
{
    struct delivery *d = x->d;
    if (x->hold || x->stands || !x->key || x->generation != d->generation || d->closing)
        return;
    if (!open_frame(d))
        return;
    bool ok = note_put_withdrawn(&d->note_frame, x->key);
    assert(ok);
    (void)ok;
}

/* --- `hold`: on disk --- */

static void on_committed(void *ctx, enum queue_outcome result, uint64_t n_changed)
{
    struct noting *x = ctx;
    struct delivery *d = x->d;
    struct link *l = x->link;
    assert(x->due); /* keeps x until the end: the link may be over before these return */
    if (l && result == QUEUE_OK && x->generation == d->generation) {
        /* A row that was cancelled or put in doubt meanwhile must not be sent. */
        x->committed = n_changed == l->job->n;
        if (x->committed)
            link_try_dot(l);
        else
            link_refuse(l);
    }
    x->due = false;
    maybe_free(x);
    delivery_unref(d);
}

static void on_taken_back(void *ctx, enum queue_outcome result, uint64_t n_changed)
{
    struct delivery *d = ctx;
    (void)result;
    (void)n_changed;
    d->n_outcomes--;
    delivery_check_idle(d);
    delivery_unref(d);
}

void noting_take_back(struct delivery *d, const struct letter *letter,
                      const struct row_recipient *rows, unsigned n)
{
    if (!n || !is_hold(letter))
        return;
    d->n_outcomes++; /* a hand-over waits for it */
    d->refs++;
    queue_note(d->queue, rows, n, false, on_taken_back, d);
}

/* --- both --- */

void noting_start(struct link *l)
{
    struct delivery *d = l->d;
    struct job *j = l->job;
    assert(j && !l->noting);
    bool hold = is_hold(j->letter);
    if (d->hooks.alone && !hold)
        return;
    struct noting *x = xcalloc(1, sizeof *x);
    *x = (struct noting){.d = d, .link = l, .generation = d->generation, .refs = 1, .hold = hold};
    l->noting = x;
    if (x->hold) {
        x->due = true;
        d->refs++;
        queue_note(d->queue, j->rcpts, j->n, true, on_committed, x);
    } else {
        tell(x, j);
    }
}

void noting_end(struct link *l)
{
    struct noting *x = l->noting;
    if (!x)
        return;
    l->noting = NULL;
    x->link = NULL;
    noting_unref(x, true);
}

struct noting *noting_ref(struct noting *x)
{
    if (x)
        x->refs++;
    return x;
}

void noting_unref(struct noting *x, bool settled)
{
    if (!x)
        return;
    assert(x->refs);
    x->stands = x->stands || !settled;
    if (--x->refs == 0)
        withdraw(x);
    maybe_free(x);
}

struct dot noting_dot(const struct link *l)
{
    const struct noting *x = l->noting;
    struct dot dot = {.unsettled = l->outcomes != NULL,
                      .hold = is_hold(l->job->letter),
                      .alone = l->d->hooks.alone,
                      .noted = l->d->noted};
    if (x) {
        dot.committed = x->committed;
        dot.note = x->number;
    }
    return dot;
}

void delivery_noted(struct delivery *d, uint32_t epoch, uint64_t number)
{
    if (epoch != d->note_epoch || number <= d->noted)
        return;
    d->noted = number;
    while (d->notings && d->notings->number <= number) {
        struct noting *x = d->notings;
        d->notings = x->next;
        x->due = false;
        struct link *l = x->generation == d->generation ? x->link : NULL;
        maybe_free(x);
        if (l)
            link_try_dot(l);
    }
}

/* Nothing new goes out: whoever takes over has no reason to doubt what has no dot. */
void noting_pause(struct delivery *d)
{
    for (struct target *t = d->targets; t; t = t->next)
        for (struct link *l = t->links; l; l = l->next)
            if (l->job && !l->dot_out) {
                noting_take_back(d, l->job->letter, l->job->rcpts, l->job->n);
                noting_end(l);
            }
    noting_flush(d);
}

void noting_resume(struct delivery *d)
{
    for (struct target *t = d->targets; t; t = t->next)
        for (struct link *l = t->links; l; l = l->next)
            if (l->job && !l->noting && l->generation == d->generation)
                noting_start(l);
}

void noting_forget(struct delivery *d)
{
    buf_clear(&d->note_frame);
    while (d->notings) {
        struct noting *x = d->notings;
        d->notings = x->next;
        x->due = false;
        maybe_free(x);
    }
}
