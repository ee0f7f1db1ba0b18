/* See mx.h. */
#include "node/delivery/mx.h"

#include <assert.h>

/* A small generator (splitmix64): the order needs to be spread, not secret. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void swap(struct mx_record *a, struct mx_record *b)
{
    struct mx_record t = *a;
    *a = *b;
    *b = t;
}

static void sort_by_preference(struct mx_record *r, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned k = i; k && r[k].preference < r[k - 1].preference; k--)
            swap(&r[k], &r[k - 1]);
}

static struct slice without_dot(struct slice s)
{
    if (s.n && s.p[s.n - 1] == '.')
        s.n--;
    return s;
}

enum mx_verdict mx_order(struct mx_record *r, unsigned *n, struct slice domain, const char *self,
                         uint64_t seed)
{
    assert(*n <= MX_MAX);
    if (*n == 1 && r[0].name[0] == 0)
        return MX_NULL;
    unsigned kept = 0;
    for (unsigned i = 0; i < *n; i++)
        if (r[i].name[0]) /* a root beside real hosts is a mistake: RFC 7505 3 */
            r[kept++] = r[i];
    *n = kept;
    if (kept == 0) {
        struct slice name = without_dot(domain);
        r[0].preference = 0;
        size_t len = name.n < MX_NAME_MAX ? name.n : MX_NAME_MAX - 1;
        memcpy(r[0].name, name.p, len);
        r[0].name[len] = 0;
        *n = kept = 1;
    }
    for (unsigned i = kept; i > 1; i--) /* shuffle all, then sort stably by preference */
        swap(&r[i - 1], &r[next_random(&seed) % i]);
    sort_by_preference(r, kept);
    for (unsigned i = 0; i < kept; i++) {
        if (!slice_ieq(slice_str(r[i].name), without_dot(slice_str(self))))
            continue;
        while (i && r[i - 1].preference == r[i].preference)
            i--;
        *n = i;
        break;
    }
    return *n ? MX_OK : MX_LOOP;
}

bool mx_literal(struct slice domain, char *out, size_t n)
{
    if (domain.n < 3 || domain.p[0] != '[' || domain.p[domain.n - 1] != ']')
        return false;
    struct slice s = slice_of(domain.p + 1, domain.n - 2);
    if (slice_istarts(s, SLICE_LIT("IPv6:")))
        s = slice_of(s.p + 5, s.n - 5);
    if (s.n == 0 || s.n >= n)
        return false;
    memcpy(out, s.p, s.n);
    out[s.n] = 0;
    return true;
}
