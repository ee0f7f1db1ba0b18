/* One SMTP client session: RFC 5321, 2920 (PIPELINING), 3207 (STARTTLS), 1870 (SIZE), 6152
 * (8BITMIME), 6531 (SMTPUTF8), 3461 (DSN). Core: bytes and events in, bytes and effects out.
 *
 *   CONNECTING -> GREETING -> EHLO [-> HELO] [-> STARTTLS -> SECURING -> EHLO] -> READY
 *   READY -> ENVELOPE -> BODY -> DOT_WAIT -> DOT_SENT -> READY ...     any -> QUITTING -> CLOSED
 *
 * From ENVELOPE and from DOT_SENT also back to READY, with the outcome. */
#ifndef BATON_DELIVERY_CLIENT_H
#define BATON_DELIVERY_CLIENT_H

#include "node/delivery/reply.h"
#include "replication/row.h"

enum {
    /* RFC 5321 4.5.3.1.8: a server takes at least 100. */
    CLIENT_RECIPIENTS_MAX = 100,
    /* One envelope in one flight: 100 x (address 1024 + ORCPT 500 at most by the row's caps). */
    CLIENT_OUT_MAX = 1 << 20,
};

enum client_extension {
    EXT_PIPELINING = 1,
    EXT_8BITMIME = 2,
    EXT_SMTPUTF8 = 4,
    EXT_SIZE = 8,
    EXT_DSN = 16,
    EXT_STARTTLS = 32,
    EXT_ENHANCED = 64,
};

enum client_state {
    CLIENT_CONNECTING,
    CLIENT_GREETING,
    CLIENT_EHLO,
    CLIENT_HELO,
    CLIENT_STARTTLS,
    CLIENT_SECURING,
    CLIENT_READY,
    CLIENT_ENVELOPE,
    CLIENT_BODY,
    CLIENT_DOT_WAIT,
    CLIENT_DOT_SENT,
    CLIENT_QUITTING,
    CLIENT_CLOSED,
};

/* What a step asks for, to be carried out in this order. */
enum client_effect {
    CLIENT_WRITE = 1,      /* out has bytes for the network */
    CLIENT_START_TLS = 2,  /* handshake as a client, then smtp_client_secured() */
    CLIENT_DONE = 4,       /* the transaction is over; its results are filled in */
    CLIENT_CAN_SEND = 8,   /* smtp_client_send() may be called */
    CLIENT_WANT_BODY = 16, /* smtp_client_body() may be called */
    CLIENT_WANT_DOT = 32,  /* only the final dot is missing: smtp_client_dot() when it is allowed */
    CLIENT_CLOSE = 64,     /* close the connection; why says the reason */
};

enum client_end {
    CLIENT_ANSWERED,   /* every recipient has a result */
    CLIENT_LOST,       /* ended before the final dot: recipients without result were not sent */
    CLIENT_LOST_AFTER, /* ended after the final dot, without reply: it may have been taken */
};

struct client_recipient {
    struct slice address, orcpt; /* borrowed until the transaction is over */
    uint8_t notify;              /* enum notify_flags */
    bool accepted, decided;
    struct reply result; /* valid when decided */
};

struct client_transaction {
    struct slice sender, envid; /* borrowed */
    uint32_t flags;             /* enum message_flags */
    uint64_t size;              /* bytes of prefix and body */
    unsigned n;                 /* 1..CLIENT_RECIPIENTS_MAX */
    struct client_recipient *rcpts;
    enum client_end end;
    bool dot_withheld; /* lost while it waited for permission: nobody's fault */
    struct reply last; /* CLIENT_LOST*: why, with the server's code if it said one (421) */
};

struct smtp_client {
    enum client_state state;
    const char *helo; /* our name; lives as long as the client */
    bool tls_wanted, secured, tls_failed;
    bool announced; /* ready at least once: the next hop works */
    unsigned extensions;
    uint64_t size_limit; /* of SIZE; 0: none */
    bool rset_due;
    unsigned sent, got, last_step; /* steps of the envelope */
    bool mail_ok;
    unsigned accepted;
    unsigned line_pos; /* dot-stuffing: 2 at the start of a line, 1 after CR */
    uint64_t transactions;
    struct client_transaction *tx;
    struct client_transaction *done; /* the one CLIENT_DONE is about; the driver clears it */
    bool no_room; /* the driver's, in CLIENT_DOT_WAIT: the network hasn't taken the text yet */
    struct reply_parser parser;
    struct reply failure; /* why the session ended */
    struct buf out;
};

void smtp_client_init(struct smtp_client *c, const char *helo, bool tls_wanted);
void smtp_client_free(struct smtp_client *c);
/* Each returns a set of enum client_effect. */
unsigned smtp_client_opened(struct smtp_client *c); /* the connection stands */
unsigned smtp_client_input(struct smtp_client *c, struct slice bytes);
unsigned smtp_client_secured(struct smtp_client *c);
/* In CLIENT_READY only. tx lives until CLIENT_DONE. */
unsigned smtp_client_send(struct smtp_client *c, struct client_transaction *tx);
/* In CLIENT_BODY only; stuffs dots. last: nothing follows. */
unsigned smtp_client_body(struct smtp_client *c, struct slice piece, bool last);
/* In CLIENT_DOT_WAIT only. */
unsigned smtp_client_dot(struct smtp_client *c);
/* In CLIENT_DOT_WAIT, or in CLIENT_DOT_SENT when the end of that dot has not left this process and
 * never will: the network takes no more. The session is given up, the message wasn't sent. */
unsigned smtp_client_stuck(struct smtp_client *c);
unsigned smtp_client_quit(struct smtp_client *c); /* in CLIENT_READY; elsewhere closes at once */
unsigned smtp_client_lost(struct smtp_client *c, const char *why); /* the connection ended */
unsigned smtp_client_timed_out(struct smtp_client *c);
/* How long the current state may go without progress, in ms (RFC 5321 4.5.3.2). */
uint64_t smtp_client_timeout_ms(const struct smtp_client *c);
#endif
