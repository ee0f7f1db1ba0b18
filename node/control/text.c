/* See text.h. */
#include "node/control/text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

/* Length of the well-formed UTF-8 sequence at p (RFC 3629: no overlongs, no surrogates, at most
 * U+10FFFF); 0 when there is none. */
static size_t utf8_length(const uint8_t *p, size_t n)
{
    uint8_t c = p[0], low = 0x80, high = 0xBF;
    size_t len;
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF) {
        len = 2;
    } else if (c >= 0xE0 && c <= 0xEF) {
        len = 3;
        low = c == 0xE0 ? 0xA0 : 0x80;
        high = c == 0xED ? 0x9F : 0xBF;
    } else if (c >= 0xF0 && c <= 0xF4) {
        len = 4;
        low = c == 0xF0 ? 0x90 : 0x80;
        high = c == 0xF4 ? 0x8F : 0xBF;
    } else {
        return 0;
    }
    if (n < len || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return len;
}

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

static bool put_escaped(struct buf *out, uint8_t c)
{
    switch (c) {
    case '"':
        return buf_append_str(out, "\\\"");
    case '\\':
        return buf_append_str(out, "\\\\");
    case '\n':
        return buf_append_str(out, "\\n");
    case '\r':
        return buf_append_str(out, "\\r");
    case '\t':
        return buf_append_str(out, "\\t");
    default:
        return buf_printf(out, "\\u%04x", c);
    }
}

static bool is_plain(uint8_t c)
{
    return c >= ' ' && c < 0x7F && c != '"' && c != '\\';
}

bool text_json_string(struct buf *out, struct slice s)
{
    bool ok = buf_append(out, "\"", 1);
    size_t from = 0, i = 0;
    while (i < s.n && ok) {
        uint8_t c = s.p[i];
        if (is_plain(c)) {
            i++;
            continue;
        }
        size_t len = utf8_length(s.p + i, s.n - i);
        if (len && c >= ' ' && c != '"' && c != '\\' && c != 0x7F) {
            i += len;
            continue;
        }
        ok = buf_append(out, s.p + from, i - from) &&
             (len ? put_escaped(out, c) : buf_append_str(out, replacement));
        from = ++i;
    }
    return ok && buf_append(out, s.p ? s.p + from : NULL, i - from) && buf_append(out, "\"", 1);
}

bool text_utf8(struct buf *out, struct slice s)
{
    bool ok = true;
    for (size_t i = 0; i < s.n && ok;) {
        size_t len = utf8_length(s.p + i, s.n - i);
        if (len && s.p[i] != 0) {
            ok = buf_append(out, s.p + i, len);
            i += len;
        } else {
            ok = buf_append_str(out, replacement);
            i++;
        }
    }
    return ok;
}

bool text_html(struct buf *out, const char *s)
{
    bool ok = true;
    struct slice all = slice_str(s);
    for (size_t i = 0; i < all.n && ok;) {
        size_t len = utf8_length(all.p + i, all.n - i);
        const char *entity = !len               ? replacement
                             : all.p[i] == '<'  ? "&lt;"
                             : all.p[i] == '>'  ? "&gt;"
                             : all.p[i] == '&'  ? "&amp;"
                             : all.p[i] == '"'  ? "&quot;"
                             : all.p[i] == '\'' ? "&#39;"
                                                : NULL;
        ok = entity ? buf_append_str(out, entity) : buf_append(out, all.p + i, len);
        i += len ? len : 1;
    }
    return ok;
}

/* n decimal digits, then what follows them; where the next ones go. */
static char *digits(char *p, unsigned value, unsigned n, char then)
{
    for (unsigned i = n; i-- > 0; value /= 10)
        p[i] = (char)('0' + value % 10);
    p[n] = then;
    return p + n + 1;
}

char *text_rfc3339(char *out, int64_t wall_ms)
{
    if (wall_ms < 0)
        wall_ms = 0;
    int64_t seconds = wall_ms / 1000, days = seconds / 86400, rest = seconds % 86400;
    /* Days to a civil date, counted in eras of 400 years that begin on 1 March, so that the leap
     * day is the last of its year. */
    int64_t z = days + 719468, era = z / 146097, doe = z % 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    int64_t day = doy - (153 * mp + 2) / 5 + 1, month = mp < 10 ? mp + 3 : mp - 9;
    int64_t year = yoe + era * 400 + (month <= 2);
    char *p = digits(out, (unsigned)(year % 10000), 4, '-');
    p = digits(p, (unsigned)month, 2, '-');
    p = digits(p, (unsigned)day, 2, 'T');
    p = digits(p, (unsigned)(rest / 3600), 2, ':');
    p = digits(p, (unsigned)(rest / 60 % 60), 2, ':');
    p = digits(p, (unsigned)(rest % 60), 2, '.');
    digits(p, (unsigned)(wall_ms % 1000), 3, 'Z')[0] = 0;
    return out;
}

char *text_duration(char *out, int64_t ms)
{
    int64_t s = ms / 1000;
    if (ms <= 0)
        snprintf(out, 32, "0 s");
    else if (ms < 1000)
        snprintf(out, 32, "%" PRId64 " ms", ms);
    else if (s < 60)
        snprintf(out, 32, "%" PRId64 ".%" PRId64 " s", s, ms % 1000 / 100);
    else if (s < 3600)
        snprintf(out, 32, "%" PRId64 "m %02" PRId64 "s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, 32, "%" PRId64 "h %02" PRId64 "m", s / 3600, s / 60 % 60);
    else
        snprintf(out, 32, "%" PRId64 "d %" PRId64 "h", s / 86400, s / 3600 % 24);
    return out;
}

char *text_size(char *out, uint64_t bytes)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    unsigned u = 0;
    while (v >= 1024 && u < sizeof unit / sizeof *unit - 1) {
        v /= 1024;
        u++;
    }
    snprintf(out, 32, u && v < 10 ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return out;
}

char *text_id(char *out, uint64_t id)
{
    for (unsigned i = 16; i-- > 0; id >>= 4)
        out[i] = "0123456789abcdef"[id & 15];
    out[16] = 0;
    return out;
}

bool text_parse_id(const char *s, uint64_t *id)
{
    uint64_t v = 0;
    unsigned n = 0;
    for (; s[n]; n++) {
        char c = s[n];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0 || n >= 16)
            return false;
        v = v << 4 | (unsigned)digit;
    }
    *id = v;
    return v != 0;
}
