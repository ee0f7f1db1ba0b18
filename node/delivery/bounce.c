/* See bounce.h. */
#include "node/delivery/bounce.h"

#include <assert.h>
#include <stdio.h>

bool bounce_wanted(enum bounce_kind kind, const struct row_message *m, const struct bounce_rcpt *r)
{
    uint8_t notify = r->row->notify;
    /* Never about a notification: RFC 5321 6.1, RFC 3464 2. */
    if (m->sender.n == 0 || (m->flags & MSG_BOUNCE) || (notify & NOTIFY_NEVER))
        return false;
    bool failed = r->verdict == VERDICT_FAILED || r->verdict == VERDICT_EXPIRED;
    if (kind == BOUNCE_FAILURE)
        return failed && (notify == 0 || (notify & NOTIFY_FAILURE));
    if (kind == BOUNCE_RELAYED)
        return r->verdict == VERDICT_DELIVERED && (notify & NOTIFY_SUCCESS) && !r->dsn_passed_on;
    return r->verdict == VERDICT_DEFERRED && (notify & NOTIFY_DELAY);
}

static const struct {
    const char *subject, *intro, *action;
} words[] = {
    [BOUNCE_FAILURE] = {"Undelivered Mail Returned to Sender",
                        "I'm sorry to have to tell you that your message could not be delivered to "
                        "the\r\nrecipients below. It will not be tried again.",
                        "failed"},
    [BOUNCE_DELAY] = {"Delayed Mail (still being tried)",
                      "Your message could not be delivered yet to the recipients below. You need "
                      "not send\r\nit again: delivery goes on being tried.",
                      "delayed"},
    [BOUNCE_RELAYED] = {"Successful Mail Delivery Report",
                        "Your message was passed on to the mail servers of the recipients "
                        "below.\r\nThese may or may not report more.",
                        "relayed"},
};

/* One line's worth of s: no control character may begin a new header or part. */
static bool put_clean(struct buf *b, struct slice s, size_t max)
{
    bool ok = true;
    if (s.n > max)
        s.n = max;
    for (size_t i = 0; ok && i < s.n; i++) {
        uint8_t ch = s.p[i] < 0x20 || s.p[i] == 0x7f ? ' ' : s.p[i];
        ok = buf_append(b, &ch, 1);
    }
    return ok;
}

static int hex(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* xtext (RFC 3461 4) as plain text; a bad escape stays as it is. */
static bool put_xtext(struct buf *b, struct slice s)
{
    bool ok = true;
    for (size_t i = 0; ok && i < s.n; i++) {
        uint8_t ch = s.p[i];
        if (ch == '+' && i + 2 < s.n && hex(s.p[i + 1]) >= 0 && hex(s.p[i + 2]) >= 0) {
            ch = (uint8_t)(hex(s.p[i + 1]) << 4 | hex(s.p[i + 2]));
            i += 2;
        }
        ok = put_clean(b, slice_of(&ch, 1), 1);
    }
    return ok;
}

static bool has_8bit(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] > 0x7f)
            return true;
    return false;
}

static bool put_human(struct buf *b, enum bounce_kind kind, const struct bounce_context *c,
                      const struct bounce_rcpt *r, unsigned n)
{
    bool ok = buf_printf(b,
                         "Content-Type: text/plain; charset=utf-8\r\n"
                         "Content-Transfer-Encoding: 8bit\r\n\r\n"
                         "This is the mail system at %s.\r\n\r\n%s\r\n",
                         c->hostname, words[kind].intro);
    for (unsigned i = 0; ok && i < n; i++) {
        const struct row_recipient *row = r[i].row;
        ok = buf_append_str(b, "\r\n<") && put_clean(b, row->address, 320) &&
             buf_append_str(b, ">\r\n    ");
        if (row->remote.n)
            ok = ok && put_clean(b, row->remote, 300) && buf_append_str(b, " said: ");
        if (row->code)
            ok = ok && buf_printf(b, "%u ", row->code);
        if (row->enhanced.n)
            ok = ok && put_clean(b, row->enhanced, 12) && buf_append_str(b, " ");
        ok = ok && put_clean(b, row->reply, 512) && buf_append_str(b, "\r\n");
        if (r[i].verdict == VERDICT_EXPIRED)
            ok = ok && buf_append_str(b, "    (it was tried for as long as mail is kept)\r\n");
    }
    return ok;
}

static bool put_status(struct buf *b, const struct bounce_rcpt *r)
{
    const struct row_recipient *row = r->row;
    char wanted = r->verdict == VERDICT_DELIVERED ? '2' : r->verdict == VERDICT_FAILED ? '5' : '4';
    if (row->enhanced.n && row->enhanced.p[0] == wanted && r->verdict != VERDICT_EXPIRED)
        return buf_append_str(b, "Status: ") && put_clean(b, row->enhanced, 12) &&
               buf_append_str(b, "\r\n");
    if (r->verdict == VERDICT_EXPIRED)
        return buf_append_str(b, "Status: 4.4.7\r\n");
    return buf_printf(b, "Status: %c.0.0\r\n", wanted);
}

/* The name in "host [addr]:port". */
static struct slice remote_host(struct slice remote)
{
    const uint8_t *space = remote.n ? memchr(remote.p, ' ', remote.n) : NULL;
    return space ? slice_of(remote.p, (size_t)(space - remote.p)) : remote;
}

static bool put_fields(struct buf *b, enum bounce_kind kind, const struct bounce_context *c,
                       const struct bounce_rcpt *r)
{
    const struct row_recipient *row = r->row;
    bool ok = buf_append_str(b, "\r\n");
    if (row->orcpt.n)
        ok = ok && buf_append_str(b, "Original-Recipient: ") && put_xtext(b, row->orcpt) &&
             buf_append_str(b, "\r\n");
    ok = ok &&
         buf_printf(b, "Final-Recipient: %s; ", has_8bit(row->address) ? "utf-8" : "rfc822") &&
         put_clean(b, row->address, 900) && buf_append_str(b, "\r\n") &&
         buf_printf(b, "Action: %s\r\n", words[kind].action) && put_status(b, r);
    if (row->remote.n)
        ok = ok && buf_append_str(b, "Remote-MTA: dns; ") &&
             put_clean(b, remote_host(row->remote), 255) && buf_append_str(b, "\r\n");
    if (row->code) {
        ok = ok && buf_printf(b, "Diagnostic-Code: smtp; %u ", row->code);
        if (row->enhanced.n)
            ok = ok && put_clean(b, row->enhanced, 12) && buf_append_str(b, " ");
    } else {
        ok = ok && buf_append_str(b, "Diagnostic-Code: X-Baton; ");
    }
    ok = ok && put_clean(b, row->reply, 512) &&
         buf_printf(b, "\r\nLast-Attempt-Date: %s\r\n", c->last_attempt);
    if (kind == BOUNCE_DELAY && c->retry_until)
        ok = ok && buf_printf(b, "Will-Retry-Until: %s\r\n", c->retry_until);
    return ok;
}

/* Length of the header block of s, its last CRLF included, the empty line not. */
static size_t headers_length(struct slice s)
{
    if (s.n >= 2 && s.p[0] == '\r' && s.p[1] == '\n')
        return 0;
    for (size_t i = 0; i + 3 < s.n; i++)
        if (s.p[i] == '\r' && s.p[i + 1] == '\n' && s.p[i + 2] == '\r' && s.p[i + 3] == '\n')
            return i + 2;
    return s.n;
}

/* At most max bytes of s, cut behind a line. */
static struct slice whole_lines(struct slice s, size_t max)
{
    if (s.n > max)
        s.n = max;
    while (s.n && s.p[s.n - 1] != '\n')
        s.n--;
    return s;
}

static bool put_original(struct buf *b, enum bounce_kind kind, const struct row_message *m,
                         struct slice head, bool body_whole)
{
    bool utf8 = m->flags & MSG_UTF8;
    bool full = kind == BOUNCE_FAILURE && (m->flags & MSG_RET_FULL) && body_whole &&
                m->prefix.n + head.n <= BOUNCE_FULL_MAX;
    struct slice rest =
        full ? head : whole_lines(slice_of(head.p, headers_length(head)), BOUNCE_HEADERS_MAX);
    const char *type = full ? (utf8 ? "message/global" : "message/rfc822")
                            : (utf8 ? "message/global-headers" : "text/rfc822-headers");
    bool eight = has_8bit(m->prefix) || has_8bit(rest);
    return buf_printf(b,
                      "Content-Description: Undelivered Message%s\r\nContent-Type: %s\r\n"
                      "Content-Transfer-Encoding: %s\r\n\r\n",
                      full ? "" : " Headers", type, eight ? "8bit" : "7bit") &&
           buf_append_slice(b, whole_lines(m->prefix, BOUNCE_HEADERS_MAX)) &&
           buf_append_slice(b, rest);
}

/* A boundary that occurs nowhere in what it separates (RFC 2046 5.1.1). */
static void make_boundary(char *out, size_t n, uint64_t id, const struct row_message *m,
                          struct slice head)
{
    for (unsigned i = 0;; i++) {
        snprintf(out, n, "=_baton_%llx_%u", (unsigned long long)id, i);
        bool there = (head.n && memmem(head.p, head.n, out, strlen(out))) ||
                     (m->prefix.n && memmem(m->prefix.p, m->prefix.n, out, strlen(out)));
        if (!there)
            return;
    }
}

static bool put_headers(struct buf *b, enum bounce_kind kind, const struct bounce_context *c,
                        const struct row_message *m, const char *boundary)
{
    return buf_printf(b, "Date: %s\r\nFrom: MAILER-DAEMON@%s (Mail Delivery System)\r\nTo: <",
                      c->date, c->hostname) &&
           put_clean(b, m->sender, 900) &&
           buf_printf(b,
                      ">\r\nSubject: %s\r\nMessage-ID: <%llx.dsn@%s>\r\n"
                      "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
                      "Content-Type: multipart/report; report-type=delivery-status;\r\n"
                      "\tboundary=\"%s\"\r\n\r\n"
                      "This is a MIME-encapsulated message.\r\n",
                      words[kind].subject, (unsigned long long)c->id, c->hostname, boundary);
}

bool bounce_build(struct buf *out, enum bounce_kind kind, const struct bounce_context *c,
                  const struct row_message *m, struct slice head, bool body_whole,
                  const struct bounce_rcpt *r, unsigned n)
{
    assert(n >= 1 && n <= BOUNCE_RECIPIENTS_MAX);
    char boundary[64];
    make_boundary(boundary, sizeof boundary, c->id, m, head);
    bool utf8 = m->flags & MSG_UTF8;
    bool ok = put_headers(out, kind, c, m, boundary) && buf_printf(out, "\r\n--%s\r\n", boundary) &&
              put_human(out, kind, c, r, n) &&
              buf_printf(out,
                         "\r\n--%s\r\nContent-Description: Delivery report\r\n"
                         "Content-Type: message/%sdelivery-status\r\n%s\r\n"
                         "Reporting-MTA: dns; %s\r\n",
                         boundary, utf8 ? "global-" : "",
                         utf8 ? "Content-Transfer-Encoding: 8bit\r\n" : "", c->hostname);
    if (m->envid.n)
        ok = ok && buf_append_str(out, "Original-Envelope-Id: ") && put_xtext(out, m->envid) &&
             buf_append_str(out, "\r\n");
    ok = ok && buf_printf(out, "Arrival-Date: %s\r\n", c->arrival);
    for (unsigned i = 0; ok && i < n; i++)
        ok = put_fields(out, kind, c, &r[i]);
    return ok && buf_printf(out, "\r\n--%s\r\n", boundary) &&
           put_original(out, kind, m, head, body_whole) &&
           buf_printf(out, "\r\n--%s--\r\n", boundary);
}
