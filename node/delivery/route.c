/* See route.h. */
#include "node/delivery/route.h"

#include <assert.h>
#include <stdio.h>

/* How well a pattern fits: 0 not at all; "*" least, an exact name most. */
static size_t fit(const char *pattern, struct slice domain)
{
    size_t n = strlen(pattern);
    if (n == 1 && pattern[0] == '*')
        return 1;
    struct slice p = slice_of(pattern, n);
    if (slice_ieq(p, domain))
        return SIZE_MAX;
    if (n > 1 && pattern[0] == '.' && domain.n > n &&
        slice_ieq(p, slice_of(domain.p + domain.n - n, n)))
        return 1 + n;
    return 0;
}

const struct config_route *route_find(const struct config_route *routes, unsigned n,
                                      struct slice domain)
{
    const struct config_route *best = NULL;
    size_t best_fit = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t f = fit(routes[i].domain, domain);
        if (f > best_fit) {
            best = &routes[i];
            best_fit = f;
        }
    }
    return best;
}

bool route_key(const struct config_route *r, struct slice domain, char *out)
{
    int n;
    if (r && r->kind == ROUTE_HOST)
        n = snprintf(out, ROUTE_KEY_MAX, "smtp://%s:%u", r->host, r->port);
    else
        n = snprintf(out, ROUTE_KEY_MAX, "%.*s", (int)(domain.n < 1000 ? domain.n : 1000),
                     domain.n ? (const char *)domain.p : "");
    assert(n >= 0);
    return n > 0 && n < ROUTE_KEY_MAX;
}

struct config_destination route_limits(const struct config_destination *list, unsigned n,
                                       const struct config_route *r, struct slice domain,
                                       struct config_destination fallback)
{
    const struct config_destination *any = NULL, *host = NULL;
    for (unsigned i = 0; i < n; i++) {
        struct slice name = slice_str(list[i].domain);
        if (slice_ieq(name, domain))
            return list[i];
        if (!host && r && r->kind == ROUTE_HOST &&
            (slice_ieq(name, slice_str(r->host)) ||
             (strcmp(r->domain, "*") != 0 && slice_ieq(name, slice_str(r->domain)))))
            host = &list[i];
        if (!any && strcmp(list[i].domain, "*") == 0)
            any = &list[i];
    }
    return host ? *host : any ? *any : fallback;
}
