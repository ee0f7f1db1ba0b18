/* See takeover.h. */
#include "node/control/takeover.h"

#include <inttypes.h>
#include <stdio.h>

char *takeover_value(char *out, bool on, int64_t until_ms)
{
    if (on)
        snprintf(out, 40, "on");
    else if (until_ms)
        snprintf(out, 40, "off until=%" PRId64, until_ms);
    else
        snprintf(out, 40, "off");
    return out;
}

bool takeover_is_on(struct slice value, int64_t now_ms, int64_t *until_ms)
{
    static const char until[] = "off until=";
    const size_t n = sizeof until - 1;
    *until_ms = 0;
    if (value.n < 3 || memcmp(value.p, "off", 3) != 0)
        return true;
    if (value.n <= n || memcmp(value.p, until, n) != 0)
        return false;
    int64_t end = 0;
    for (size_t i = n; i < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9' || end > INT64_MAX / 10 - 10)
            return false;
        end = end * 10 + (value.p[i] - '0');
    }
    if (end <= now_ms)
        return true;
    *until_ms = end;
    return false;
}
