/* See address.h. */
#include "node/smtp/address.h"

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_alnum(uint8_t c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* RFC 5322 3.2.3 */
static bool is_atext(uint8_t c)
{
    return is_alnum(c) || (c && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

size_t utf8_length(const uint8_t *p, size_t n)
{
    if (n == 0)
        return 0;
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xc2 && p[0] <= 0xdf   ? 2
                 : p[0] >= 0xe0 && p[0] <= 0xef ? 3
                 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4
                                                : 0;
    if (len == 0 || n < len)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    /* RFC 3629 4: no overlong forms, no surrogates, nothing above U+10FFFF */
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

/* Each of these returns how many bytes of its kind stand at the front of s; 0: none, or malformed.
 */
static size_t quoted_length(struct slice s)
{
    size_t i = 1;
    if (s.n < 2 || s.p[0] != '"')
        return 0;
    while (i < s.n && s.p[i] != '"') {
        size_t step = utf8_length(s.p + i, s.n - i);
        if (s.p[i] == '\\') { /* quoted-pairSMTP */
            i++;
            step = i < s.n && s.p[i] >= 32 && s.p[i] <= 126;
        } else if (s.p[i] < 32 || s.p[i] == 127) {
            step = 0;
        }
        if (step == 0)
            return 0;
        i += step;
    }
    return i < s.n ? i + 1 : 0;
}

static size_t dot_string_length(struct slice s)
{
    size_t i = 0, atom = 0;
    for (;;) {
        if (i < s.n && s.p[i] == '.' && atom) {
            atom = 0;
            i++;
            continue;
        }
        size_t step = i < s.n ? utf8_length(s.p + i, s.n - i) : 0;
        if (step == 0 || (step == 1 && !is_atext(s.p[i])))
            break;
        atom += step;
        i += step;
    }
    return atom ? i : 0;
}

static size_t label_length(struct slice s)
{
    size_t i = 0;
    while (i < s.n) {
        size_t step = utf8_length(s.p + i, s.n - i);
        /* Underscores aren't allowed in host names but seen in the field. */
        if (step == 0 || (step == 1 && !is_alnum(s.p[i]) && s.p[i] != '-' && s.p[i] != '_'))
            break;
        i += step;
    }
    return i && i <= ADDRESS_LABEL_MAX && s.p[0] != '-' && s.p[i - 1] != '-' ? i : 0;
}

static size_t name_length(struct slice s)
{
    size_t i = 0;
    for (;;) {
        size_t n = label_length(slice_of(s.p + i, s.n - i));
        if (n == 0)
            return 0;
        i += n;
        if (i == s.n || s.p[i] != '.')
            return i;
        i++;
    }
}

/* dotted quad, all of s */
static bool ipv4_valid(struct slice s)
{
    unsigned part = 0, digits = 0, value = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.') {
            if (digits == 0 || ++part > 3)
                return false;
            digits = value = 0;
        } else {
            value = value * 10 + (unsigned)(s.p[i] - '0');
            if (!is_digit(s.p[i]) || ++digits > 3 || value > 255)
                return false;
        }
    }
    return part == 3 && digits > 0;
}

static bool is_hex(uint8_t c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* RFC 4291 2.2, all of s */
static bool ipv6_valid(struct slice s)
{
    unsigned groups = 0;
    bool gap = false;
    size_t i = 0;
    while (i < s.n) {
        if (s.n - i >= 2 && s.p[i] == ':' && s.p[i + 1] == ':') {
            if (gap)
                return false;
            gap = true;
            i += 2;
            continue;
        }
        if (groups && s.p[i] == ':' && s.p[i - 1] != ':')
            i++;
        size_t start = i;
        while (i < s.n && is_hex(s.p[i]))
            i++;
        if (i < s.n && s.p[i] == '.') {
            groups += 2;
            return ipv4_valid(slice_of(s.p + start, s.n - start)) &&
                   (gap ? groups < 8 : groups == 8);
        }
        if (i == start || i - start > 4 || ++groups > 8 || (i < s.n && s.p[i] != ':'))
            return false;
    }
    return gap ? groups < 8 : groups == 8 && s.p[s.n - 1] != ':';
}

bool smtp_literal_valid(struct slice s)
{
    if (s.n < 3 || s.p[0] != '[' || s.p[s.n - 1] != ']')
        return false;
    struct slice in = slice_of(s.p + 1, s.n - 2);
    if (slice_istarts(in, SLICE_LIT("IPv6:")))
        return ipv6_valid(slice_of(in.p + 5, in.n - 5));
    return ipv4_valid(in);
}

bool smtp_domain_valid(struct slice s)
{
    return s.n && s.n <= ADDRESS_DOMAIN_MAX && name_length(s) == s.n;
}

static size_t domain_length(struct slice s)
{
    size_t n;
    if (s.n && s.p[0] == '[') {
        const uint8_t *end = memchr(s.p, ']', s.n);
        n = end ? (size_t)(end - s.p) + 1 : 0;
        return n && smtp_literal_valid(slice_of(s.p, n)) ? n : 0;
    }
    n = name_length(s);
    return n <= ADDRESS_DOMAIN_MAX ? n : 0;
}

/* `@a,@b:` in front of an address is understood and ignored (RFC 5321 4.1.1.3, appendix C).
 * Returns its length; SIZE_MAX: malformed. */
static size_t route_length(struct slice s)
{
    size_t i = 0;
    if (s.n == 0 || s.p[0] != '@')
        return 0;
    for (;;) {
        if (i >= s.n || s.p[i] != '@')
            return SIZE_MAX;
        i++;
        size_t n = domain_length(slice_of(s.p + i, s.n - i));
        i += n;
        if (n == 0 || i >= s.n || (s.p[i] != ',' && s.p[i] != ':'))
            return SIZE_MAX;
        if (s.p[i++] == ':')
            return i;
    }
}

static bool has_utf8(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] >= 0x80)
            return true;
    return false;
}

bool smtp_path_parse(struct slice *in, bool reverse, struct smtp_path *out)
{
    struct slice s = *in;
    memset(out, 0, sizeof *out);
    if (s.n < 2 || s.p[0] != '<')
        return false;
    s.p++, s.n--;
    if (reverse && s.p[0] == '>') {
        *in = slice_of(s.p + 1, s.n - 1);
        return true;
    }
    size_t route = route_length(s);
    if (route == SIZE_MAX)
        return false;
    s.p += route, s.n -= route;
    size_t n = s.n && s.p[0] == '"' ? quoted_length(s) : dot_string_length(s);
    if (n == 0 || n > ADDRESS_LOCAL_MAX || n >= s.n)
        return false;
    out->local = slice_of(s.p, n);
    if (s.p[n] == '@') {
        size_t d = domain_length(slice_of(s.p + n + 1, s.n - n - 1));
        if (d == 0)
            return false;
        out->domain = slice_of(s.p + n + 1, d);
        n += 1 + d;
    } else if (reverse || route || !slice_ieq(out->local, SLICE_LIT("postmaster"))) {
        return false; /* only <postmaster> goes without a domain (RFC 5321 4.1.1.3) */
    }
    out->address = slice_of(s.p, n);
    out->utf8 = has_utf8(out->address);
    if (n >= s.n || s.p[n] != '>')
        return false;
    *in = slice_of(s.p + n + 1, s.n - n - 1);
    return true;
}
