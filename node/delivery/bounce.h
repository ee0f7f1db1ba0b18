/* Delivery status notifications: RFC 3464 in RFC 6522's multipart/report, asked for as RFC 3461
 * says. Core. */
#ifndef BATON_DELIVERY_BOUNCE_H
#define BATON_DELIVERY_BOUNCE_H

#include "node/delivery/schedule.h"

enum {
    BOUNCE_RECIPIENTS_MAX = 100, /* those of one transaction */
    BOUNCE_HEADERS_MAX = 16384,  /* of the original, returned with it */
    /* RET=FULL is honoured up to this size; the notification stays inline (BODY_CHUNK_BYTES). */
    BOUNCE_FULL_MAX = 24576,
    BOUNCE_HEAD_BYTES = 32768, /* of the original's body that the builder wants to see */
};

enum bounce_kind { BOUNCE_FAILURE, BOUNCE_DELAY, BOUNCE_RELAYED };

struct bounce_rcpt {
    const struct row_recipient *row;
    enum verdict verdict;
    bool dsn_passed_on; /* the next hop took NOTIFY: it reports success itself */
};

/* Does this outcome of r call for a notification of this kind to the sender of m? */
bool bounce_wanted(enum bounce_kind kind, const struct row_message *m, const struct bounce_rcpt *r);

struct bounce_context {
    const char *hostname;
    uint64_t id;         /* of the notification */
    const char *date;    /* RFC 5322, now */
    const char *arrival; /* RFC 5322, of the message */
    const char *last_attempt;
    const char *retry_until; /* for a delay; NULL otherwise */
};

/* Appends the whole notification (CRLF lines, headers first) about the n recipients to out. head:
 * the beginning of the original's body, whole if body_whole. False: out's cap. */
bool bounce_build(struct buf *out, enum bounce_kind kind, const struct bounce_context *c,
                  const struct row_message *m, struct slice head, bool body_whole,
                  const struct bounce_rcpt *r, unsigned n);
#endif
