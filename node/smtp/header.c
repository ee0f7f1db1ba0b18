/* See header.h. */
#include "node/smtp/header.h"

void header_begin(struct header_scan *h)
{
    memset(h, 0, sizeof *h);
}

static bool name_is(const struct header_scan *h, struct slice name)
{
    return h->name_n <= HEADER_NAME_MAX && slice_ieq(slice_of(h->name, h->name_n), name);
}

static void field(struct header_scan *h)
{
    h->started = true;
    h->state = HEADER_VALUE;
    while (h->name_n && h->name_n <= HEADER_NAME_MAX && h->name[h->name_n - 1] == ' ')
        h->name_n--; /* RFC 5322 4.5: old senders put spaces before the colon */
    if (name_is(h, SLICE_LIT("Received")))
        h->received++;
    else if (name_is(h, SLICE_LIT("Date")))
        h->date = true;
    else if (name_is(h, SLICE_LIT("Message-ID")))
        h->message_id = true;
    else if (name_is(h, SLICE_LIT("X-Campaign")) || name_is(h, SLICE_LIT("X-Baton-Campaign")))
        h->capture = h->campaign_n == 0;
}

static void name_byte(struct header_scan *h, uint8_t c)
{
    if (c == ':' && h->name_n) {
        field(h);
    } else if (h->name_n == 0 && (c == ' ' || c == '\t') && h->started) {
        h->state = HEADER_VALUE; /* folded */
    } else if (c > ' ' && c != ':' && c < 127) {
        if (h->name_n < HEADER_NAME_MAX)
            h->name[h->name_n] = c;
        if (h->name_n <= HEADER_NAME_MAX)
            h->name_n++;
    } else if (c == ' ' && h->name_n) {
        if (h->name_n < HEADER_NAME_MAX)
            h->name[h->name_n++] = ' ';
    } else {
        /* The empty line, or text without a header in front of it. */
        h->none = !h->started && !(c == '\r' && h->name_n == 0);
        h->state = HEADER_END;
    }
}

static void value_bytes(struct header_scan *h, struct slice s)
{
    for (size_t i = 0; h->capture && i < s.n; i++) {
        uint8_t c = s.p[i];
        bool plain = c > ' ' && c != 127;
        if (h->campaign_n < HEADER_CAMPAIGN_MAX && (plain || (c == ' ' && h->campaign_n)))
            h->campaign[h->campaign_n++] = c;
    }
}

void header_feed(struct header_scan *h, struct slice bytes)
{
    const uint8_t *p = bytes.p, *end = bytes.p + bytes.n;
    while (p < end && h->state != HEADER_END) {
        if (h->state == HEADER_NAME) {
            name_byte(h, *p++);
            continue;
        }
        const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
        const uint8_t *stop = lf ? lf : end;
        value_bytes(h, slice_of(p, (size_t)(stop - p)));
        p = lf ? lf + 1 : end;
        if (!lf)
            break;
        while (h->campaign_n && h->campaign[h->campaign_n - 1] == ' ')
            h->campaign_n--;
        h->capture = false;
        h->state = HEADER_NAME;
        h->name_n = 0;
    }
}

const char *header_with(bool esmtp, bool tls, bool auth, bool utf8)
{
    static const char *const names[2][4] = {
        {"ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"},
        {"UTF8SMTP", "UTF8SMTPS", "UTF8SMTPA", "UTF8SMTPSA"},
    };
    return esmtp ? names[utf8][(tls ? 1 : 0) + (auth ? 2 : 0)] : "SMTP";
}

/* What a client calls itself goes into a header only as far as it can't break it. */
static bool put_helo(struct buf *out, struct slice helo)
{
    bool ok = helo.n > 0 || buf_append_str(out, "unknown");
    for (size_t i = 0; ok && i < helo.n; i++) {
        uint8_t c = helo.p[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
                     (c && strchr("-._[]:", c));
        ok = buf_append(out, plain ? (const void *)&helo.p[i] : "?", 1);
    }
    return ok;
}

/* Each message has these lines, so they are put together without printf. */
static bool put_all(struct buf *out, const char *const *text)
{
    bool ok = true;
    for (; ok && *text; text++)
        ok = buf_append_str(out, *text);
    return ok;
}

static const char *hex(char out[17], uint64_t value, unsigned digits)
{
    unsigned n = 16;
    out[16] = 0;
    do {
        out[--n] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value || n > 16 - digits);
    return out + n;
}

bool header_prefix(struct buf *out, const struct header_scan *h, const struct header_origin *o)
{
    char id_hex[17], when_hex[17];
    const char *id = hex(id_hex, o->id, 16), *when = hex(when_hex, (uint64_t)o->wall_ms, 1);
    const char *kind = strchr(o->peer, ':') ? "IPv6:" : "";
    bool ok = buf_append_str(out, "Received: from ") && put_helo(out, o->helo) &&
              put_all(out, (const char *const[]){" ([", kind, o->peer, "])\r\n\tby ", o->hostname,
                                                 " (Baton) with ",
                                                 header_with(o->esmtp, o->tls[0], o->auth, o->utf8),
                                                 " id ", id, NULL});
    if (ok && o->tls[0])
        ok = buf_printf(out, "\r\n\t(using %s)", o->tls);
    if (ok && o->only_rcpt.n)
        ok = buf_append_str(out, "\r\n\tfor <") && buf_append_slice(out, o->only_rcpt) &&
             buf_append_str(out, ">");
    ok = ok && put_all(out, (const char *const[]){";\r\n\t", o->date, "\r\n", NULL});
    if (ok && !h->date)
        ok = put_all(out, (const char *const[]){"Date: ", o->date, "\r\n", NULL});
    if (ok && !h->message_id)
        ok = put_all(out, (const char *const[]){"Message-ID: <", id, ".", when, "@", o->hostname,
                                                ">\r\n", NULL});
    /* Text that has no header of its own must not become part of ours. */
    if (ok && h->none)
        ok = buf_append_str(out, "\r\n");
    return ok;
}
