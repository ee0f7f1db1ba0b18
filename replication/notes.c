/* See notes.h. A record: u64 key, u64 message id, u32 n, n times (u32 index, u32 attempts); a
 * withdrawal is one with id 0 and n 0. */
#include "replication/notes.h"

#include <assert.h>
#include <stdlib.h>

bool note_encode_head(struct buf *b, uint32_t epoch, bool anew, uint64_t number)
{
    return wire_put_u32(b, epoch) && wire_put_u8(b, anew) && wire_put_u64(b, number);
}

bool note_decode(struct slice s, struct frame_note *out)
{
    struct wire_reader r = wire_read(s);
    out->epoch = wire_get_u32(&r);
    uint8_t anew = wire_get_u8(&r);
    out->anew = anew == 1;
    out->number = wire_get_u64(&r);
    out->records = slice_of(r.p, r.n);
    return !r.bad && anew <= 1;
}

bool note_put(struct buf *b, uint64_t key, uint64_t id, const struct note_recipient *rcpts,
              uint32_t n)
{
    size_t start = b->len;
    assert(id && n && n <= NOTE_RECIPIENTS_MAX);
    bool ok = wire_put_u64(b, key) && wire_put_u64(b, id) && wire_put_u32(b, n);
    for (uint32_t i = 0; ok && i < n; i++)
        ok = wire_put_u32(b, rcpts[i].index) && wire_put_u32(b, rcpts[i].attempts);
    if (!ok)
        b->len = start;
    return ok;
}

bool note_put_withdrawn(struct buf *b, uint64_t key)
{
    size_t start = b->len;
    bool ok = wire_put_u64(b, key) && wire_put_u64(b, 0) && wire_put_u32(b, 0);
    if (!ok)
        b->len = start;
    return ok;
}

void notes_clear(struct notes *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->at[i]);
    free(s->at);
    *s = (struct notes){0};
}

/* The first note whose key isn't below. */
static size_t find(const struct notes *s, uint64_t key)
{
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->at[mid]->key < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void withdraw(struct notes *s, uint64_t key)
{
    size_t i = find(s, key);
    if (i == s->n || s->at[i]->key != key)
        return;
    s->n_rcpts -= s->at[i]->n;
    free(s->at[i]);
    s->n--;
    memmove(s->at + i, s->at + i + 1, (s->n - i) * sizeof *s->at);
}

/* Keys grow, so a new one goes to the end. */
static bool add(struct notes *s, struct note *x)
{
    if ((s->n && s->at[s->n - 1]->key >= x->key) || s->n == NOTES_MAX ||
        s->n_rcpts + x->n > NOTES_RECIPIENTS_MAX)
        return false;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->at = xrealloc(s->at, s->cap * sizeof *s->at);
    }
    s->at[s->n++] = x;
    s->n_rcpts += x->n;
    return true;
}

bool notes_take(struct notes *s, const struct frame_note *f)
{
    struct wire_reader r = wire_read(f->records);
    if (f->anew)
        notes_clear(s);
    while (r.n && !r.bad) {
        uint64_t key = wire_get_u64(&r), id = wire_get_u64(&r);
        uint32_t n = wire_get_u32(&r);
        if (r.bad || n > NOTE_RECIPIENTS_MAX || (n == 0) != (id == 0))
            return false;
        if (n == 0) {
            withdraw(s, key);
            continue;
        }
        struct note *x = xmalloc(sizeof *x + n * sizeof x->rcpts[0]);
        *x = (struct note){.key = key, .id = id, .n = n};
        for (uint32_t i = 0; i < n; i++) {
            x->rcpts[i].index = wire_get_u32(&r);
            x->rcpts[i].attempts = wire_get_u32(&r);
        }
        if (r.bad || !add(s, x)) {
            free(x);
            return false;
        }
    }
    return !r.bad;
}

bool notes_raise(struct notes *s, uint64_t id, uint32_t index, uint32_t attempts)
{
    bool raised = false;
    for (size_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; s->at[i]->id == id && k < s->at[i]->n; k++) {
            struct note_recipient *x = &s->at[i]->rcpts[k];
            if (x->index == index && x->attempts < attempts) {
                x->attempts = attempts;
                raised = true;
            }
        }
    return raised;
}

bool notes_encode(const struct notes *s, struct buf *b, size_t *from, size_t limit)
{
    size_t start = b->len;
    for (; *from < s->n && b->len - start < limit; ++*from) {
        const struct note *x = s->at[*from];
        if (!note_put(b, x->key, x->id, x->rcpts, x->n))
            return false;
    }
    return true;
}

bool notes_next(struct note_reader *x, uint64_t *id, struct note_recipient *out)
{
    while (!x->left) {
        if (!x->r.n || x->r.bad)
            return false;
        (void)wire_get_u64(&x->r);
        x->id = wire_get_u64(&x->r);
        x->left = wire_get_u32(&x->r);
    }
    x->left--;
    *id = x->id;
    out->index = wire_get_u32(&x->r);
    out->attempts = wire_get_u32(&x->r);
    return !x->r.bad;
}
