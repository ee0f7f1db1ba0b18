/* Looks into the header of a message while it passes, and builds the lines that we put in front of
 * it: Received (RFC 5321 4.4, "with" by RFC 3848 and 6531), Date and Message-ID where they are
 * missing (RFC 6409 8). Core. */
#ifndef BATON_SMTP_HEADER_H
#define BATON_SMTP_HEADER_H

#include "node/base/buf.h"

enum { HEADER_CAMPAIGN_MAX = 128, HEADER_NAME_MAX = 24 };

enum header_state { HEADER_NAME, HEADER_VALUE, HEADER_END };

struct header_scan {
    enum header_state state;
    bool started; /* a field was seen */
    bool none;    /* the text begins without a header */
    bool date, message_id;
    bool capture;      /* the value under way is the campaign */
    unsigned received; /* hops so far */
    uint8_t name[HEADER_NAME_MAX];
    uint8_t name_n; /* HEADER_NAME_MAX + 1: longer than any that we look for */
    uint8_t campaign_n;
    uint8_t campaign[HEADER_CAMPAIGN_MAX]; /* X-Campaign or X-Baton-Campaign, trimmed */
};

void header_begin(struct header_scan *h);
/* Takes the next bytes of the message (strict CRLF). Cheap once the header has ended. */
void header_feed(struct header_scan *h, struct slice bytes);

struct header_origin {
    struct slice helo;
    const char *peer; /* address text */
    const char *hostname;
    const char *tls;  /* "" without */
    const char *date; /* RFC 5322 */
    bool esmtp, auth, utf8;
    uint64_t id;
    int64_t wall_ms;
    struct slice only_rcpt; /* named when there is one; with several it would give them away */
};
/* Appends the lines; false: out's cap. */
bool header_prefix(struct buf *out, const struct header_scan *h, const struct header_origin *o);
/* The protocol's name in "with": SMTP, ESMTP, ESMTPS, ESMTPA, ESMTPSA, UTF8SMTP… */
const char *header_with(bool esmtp, bool tls, bool auth, bool utf8);
#endif
