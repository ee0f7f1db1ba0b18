/* SMTP replies as they come off the wire: RFC 5321 4.2, RFC 3463 codes. Core. */
#ifndef BATON_DELIVERY_REPLY_H
#define BATON_DELIVERY_REPLY_H

#include "node/base/buf.h"

enum {
    /* RFC 5321 4.5.3.1.5 allows 512 bytes a line; real servers send more in explanations. */
    REPLY_LINE_MAX = 2048,
    /* An EHLO answer has some 20 lines; this ends a server that never ends. */
    REPLY_LINES_MAX = 128,
    REPLY_RAW_MAX = 8192, /* of all lines; what is beyond is dropped, not an error */
    REPLY_TEXT_MAX = 512, /* what a recipient's row keeps */
    ENHANCED_MAX = 12,    /* "5.123.123" */
};

/* What a server said, or what we found out ourselves (code 0 then). */
struct reply {
    uint16_t code;
    uint16_t text_n;
    char enhanced[ENHANCED_MAX]; /* "" when there was none */
    char text[REPLY_TEXT_MAX];   /* printable ASCII, lines joined by a space, without the codes */
};

enum reply_status { REPLY_MORE, REPLY_DONE, REPLY_BAD };

struct reply_parser {
    uint8_t line[REPLY_LINE_MAX];
    size_t line_n;
    unsigned lines;
    bool done; /* a reply was handed out: the next byte begins another */
    uint16_t code;
    char raw[REPLY_RAW_MAX]; /* lines without code, each ended by \n */
    size_t raw_n;
};

void reply_reset(struct reply_parser *p);
/* Takes bytes until one reply is complete; *used says how many. After REPLY_DONE, `out` holds it
 * and p->raw its lines until the next call. REPLY_BAD: not SMTP; the connection is of no use. */
enum reply_status reply_feed(struct reply_parser *p, struct slice in, size_t *used,
                             struct reply *out);
/* Fills in a reply of our own. enhanced may be "". */
void reply_set(struct reply *r, uint16_t code, const char *enhanced, const char *text);
#endif
