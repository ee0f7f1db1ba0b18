/* See params.h. */
#include "node/smtp/params.h"

#include "node/smtp/address.h"
#include "replication/row.h"

enum { ENVID_MAX = 100, ORCPT_MAX = 500, AUTH_MAX = 500 }; /* RFC 3461 4.3-4.4, RFC 4954 5 */

static const char bad_syntax[] = "501 5.5.4 Malformed parameter";
static const char unknown[] = "555 5.5.4 Unsupported option";
static const char twice[] = "501 5.5.4 Parameter given twice";

/* Next "KEY[=VALUE]"; false at the end. A malformed one has an empty key. */
static bool next_param(struct slice *in, struct slice *key, struct slice *value, bool *has_value)
{
    while (in->n && in->p[0] == ' ')
        in->p++, in->n--;
    if (in->n == 0)
        return false;
    const uint8_t *space = memchr(in->p, ' ', in->n);
    struct slice one = slice_of(in->p, space ? (size_t)(space - in->p) : in->n);
    in->p += one.n, in->n -= one.n;
    const uint8_t *eq = memchr(one.p, '=', one.n);
    *key = slice_of(one.p, eq ? (size_t)(eq - one.p) : one.n);
    *has_value = eq != NULL;
    *value = eq ? slice_of(eq + 1, one.n - key->n - 1) : slice_of(NULL, 0);
    if (eq && value->n == 0)
        key->n = 0;
    for (size_t i = 0; i < key->n; i++) {
        uint8_t c = key->p[i] | 32;
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-')
            key->n = 0;
    }
    for (size_t i = 0; i < value->n;) {
        size_t step = utf8_length(value->p + i, value->n - i);
        if (step == 0 || value->p[i] < 33 || value->p[i] == 127) {
            key->n = 0;
            break;
        }
        i += step;
    }
    return true;
}

static bool upper_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

/* RFC 3461 4 */
static bool xtext_valid(struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < 33 || s.p[i] > 126 || s.p[i] == '=')
            return false;
        if (s.p[i] == '+') {
            if (s.n - i < 3 || !upper_hex(s.p[i + 1]) || !upper_hex(s.p[i + 2]))
                return false;
            i += 2;
        }
    }
    return true;
}

static bool parse_size(struct slice v, uint64_t *out)
{
    *out = 0;
    if (v.n == 0 || v.n > 20)
        return false;
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return false;
        uint64_t digit = v.p[i] - '0';
        *out = *out > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *out * 10 + digit;
    }
    return true;
}

enum { SEEN_SIZE = 1, SEEN_BODY = 2, SEEN_UTF8 = 4, SEEN_RET = 8, SEEN_ENVID = 16, SEEN_AUTH = 32 };

static const char *body_param(struct slice v, struct mail_params *out)
{
    if (slice_ieq(v, SLICE_LIT("8BITMIME")))
        out->eightbit = true;
    else if (slice_ieq(v, SLICE_LIT("BINARYMIME")))
        return "555 5.6.1 BODY=BINARYMIME is not supported";
    else if (!slice_ieq(v, SLICE_LIT("7BIT")))
        return "501 5.5.4 Unknown BODY value";
    return NULL;
}

static const char *mail_param(struct slice k, struct slice v, bool has, struct mail_params *out,
                              unsigned *seen)
{
    unsigned bit;
    const char *err = NULL;
    bool ok = has;
    if (slice_ieq(k, SLICE_LIT("SIZE"))) {
        bit = SEEN_SIZE;
        ok = has && parse_size(v, &out->size);
        out->has_size = true;
    } else if (slice_ieq(k, SLICE_LIT("BODY"))) {
        bit = SEEN_BODY;
        err = has ? body_param(v, out) : NULL;
    } else if (slice_ieq(k, SLICE_LIT("SMTPUTF8"))) {
        bit = SEEN_UTF8;
        ok = !has;
        out->utf8 = true;
    } else if (slice_ieq(k, SLICE_LIT("RET"))) {
        bit = SEEN_RET;
        out->ret_full = slice_ieq(v, SLICE_LIT("FULL"));
        out->ret_hdrs = slice_ieq(v, SLICE_LIT("HDRS"));
        ok = out->ret_full || out->ret_hdrs;
    } else if (slice_ieq(k, SLICE_LIT("ENVID"))) {
        bit = SEEN_ENVID;
        out->envid = v;
        ok = has && v.n <= ENVID_MAX && xtext_valid(v);
    } else if (slice_ieq(k, SLICE_LIT("AUTH"))) {
        /* Who wrote it first; nobody here acts on it, and it isn't passed on (RFC 4954 5). */
        bit = SEEN_AUTH;
        ok = has && v.n <= AUTH_MAX && xtext_valid(v);
    } else {
        return unknown;
    }
    if (*seen & bit)
        return twice;
    *seen |= bit;
    return err ? err : ok ? NULL : bad_syntax;
}

const char *mail_params_parse(struct slice in, struct mail_params *out)
{
    struct slice k, v;
    bool has;
    unsigned seen = 0;
    memset(out, 0, sizeof *out);
    if (in.n && in.p[0] != ' ')
        return bad_syntax;
    while (next_param(&in, &k, &v, &has)) {
        const char *err = k.n ? mail_param(k, v, has, out, &seen) : bad_syntax;
        if (err)
            return err;
    }
    return NULL;
}

static bool parse_notify(struct slice v, uint8_t *out)
{
    *out = 0;
    for (;;) {
        const uint8_t *comma = v.n ? memchr(v.p, ',', v.n) : NULL;
        struct slice one = slice_of(v.p, comma ? (size_t)(comma - v.p) : v.n);
        if (slice_ieq(one, SLICE_LIT("NEVER")))
            *out |= NOTIFY_NEVER;
        else if (slice_ieq(one, SLICE_LIT("SUCCESS")))
            *out |= NOTIFY_SUCCESS;
        else if (slice_ieq(one, SLICE_LIT("FAILURE")))
            *out |= NOTIFY_FAILURE;
        else if (slice_ieq(one, SLICE_LIT("DELAY")))
            *out |= NOTIFY_DELAY;
        else
            return false;
        if (!comma)
            break;
        v.p += one.n + 1, v.n -= one.n + 1;
    }
    return !(*out & NOTIFY_NEVER) || *out == NOTIFY_NEVER; /* NEVER stands alone */
}

/* addr-type ";" xtext (RFC 3461 4.2); with type utf-8 the text may be UTF-8 (RFC 6533 3). */
static bool orcpt_valid(struct slice v)
{
    const uint8_t *semi = v.n ? memchr(v.p, ';', v.n) : NULL;
    if (!semi || semi == v.p || v.n > ORCPT_MAX)
        return false;
    struct slice type = slice_of(v.p, (size_t)(semi - v.p));
    struct slice text = slice_of(semi + 1, v.n - type.n - 1);
    if (text.n == 0)
        return false;
    return slice_ieq(type, SLICE_LIT("utf-8")) || xtext_valid(text);
}

const char *rcpt_params_parse(struct slice in, struct rcpt_params *out)
{
    struct slice k, v;
    bool has, notify = false, orcpt = false;
    memset(out, 0, sizeof *out);
    if (in.n && in.p[0] != ' ')
        return bad_syntax;
    while (next_param(&in, &k, &v, &has)) {
        bool *seen = slice_ieq(k, SLICE_LIT("NOTIFY"))  ? &notify
                     : slice_ieq(k, SLICE_LIT("ORCPT")) ? &orcpt
                                                        : NULL;
        if (k.n == 0)
            return bad_syntax;
        if (!seen)
            return unknown;
        if (*seen)
            return twice;
        *seen = true;
        if (!(seen == &notify ? parse_notify(v, &out->notify) : orcpt_valid(v)))
            return bad_syntax;
        if (seen == &orcpt)
            out->orcpt = v;
    }
    return NULL;
}
