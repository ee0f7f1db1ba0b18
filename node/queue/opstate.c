/* See opstate.h. */
#include "node/queue/opstate.h"

#include <assert.h>
#include <stdlib.h>

#include "node/base/log.h"

static const char *const prefixes[] = {[OPSTATE_DESTINATION] = "pause/destination/",
                                       [OPSTATE_CAMPAIGN] = "pause/campaign/",
                                       [OPSTATE_SUPPRESS] = "suppress/"};
enum { KEY_MAX = OPSTATE_NAME_MAX + 32 };

const char *opstate_prefix(enum opstate_kind kind)
{
    return prefixes[kind];
}

bool opstate_key(struct buf *b, enum opstate_kind kind, struct slice name)
{
    size_t start = b->len;
    if (name.n > OPSTATE_NAME_MAX || !buf_append_str(b, prefixes[kind]) ||
        !buf_append_slice(b, name)) {
        b->len = start;
        return false;
    }
    for (size_t i = start; kind != OPSTATE_CAMPAIGN && i < b->len; i++)
        if (b->data[i] >= 'A' && b->data[i] <= 'Z')
            b->data[i] = (uint8_t)(b->data[i] + 32);
    return true;
}

bool opstate_is(struct slice key, enum opstate_kind kind, struct slice *name)
{
    size_t n = strlen(prefixes[kind]);
    if (key.n <= n || memcmp(key.p, prefixes[kind], n) != 0)
        return false;
    *name = slice_of(key.p + n, key.n - n);
    return true;
}

static int compare(struct slice a, struct slice b)
{
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

/* Where the key is, or belongs. */
static size_t place(const struct pauses *p, struct slice key, bool *here)
{
    size_t low = 0, high = p->n;
    *here = false;
    while (low < high && !*here) {
        size_t mid = (low + high) / 2;
        int c = compare(buf_slice(&p->key[mid]), key);
        *here = c == 0;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return high;
}

void pauses_free(struct pauses *p)
{
    for (size_t i = 0; i < p->n; i++)
        buf_free(&p->key[i]);
    free(p->key);
    *p = (struct pauses){NULL, 0, 0};
}

static bool add(struct pauses *p, size_t at, struct slice key)
{
    if (p->n == PAUSES_MAX) {
        log_error("pauses", "more than %d destinations and campaigns are paused: this one isn't",
                  PAUSES_MAX);
        return false;
    }
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 16;
        p->key = xrealloc(p->key, p->cap * sizeof *p->key);
    }
    memmove(p->key + at + 1, p->key + at, (p->n - at) * sizeof *p->key);
    buf_init(&p->key[at], KEY_MAX);
    bool ok = buf_append_slice(&p->key[at], key);
    assert(ok);
    p->n++;
    return ok;
}

bool pauses_take(struct pauses *p, struct slice key, struct slice value)
{
    struct slice name;
    bool here;
    if (!key.n) {
        here = p->n > 0;
        pauses_free(p);
        return here;
    }
    if ((!opstate_is(key, OPSTATE_DESTINATION, &name) &&
         !opstate_is(key, OPSTATE_CAMPAIGN, &name)) ||
        key.n > KEY_MAX)
        return false;
    size_t at = place(p, key, &here);
    if (here == (value.n > 0))
        return false;
    if (!here)
        return add(p, at, key);
    buf_free(&p->key[at]);
    p->n--;
    memmove(p->key + at, p->key + at + 1, (p->n - at) * sizeof *p->key);
    return true;
}

bool pauses_has(const struct pauses *p, enum opstate_kind kind, struct slice name)
{
    if (!p->n)
        return false;
    struct buf key;
    bool here = false;
    buf_init(&key, KEY_MAX);
    if (opstate_key(&key, kind, name))
        place(p, buf_slice(&key), &here);
    buf_free(&key);
    return here;
}
