/* One SMTP session on the receiving side (RFC 5321 with PIPELINING 2920, SIZE 1870, 8BITMIME 6152,
 * SMTPUTF8 6531, CHUNKING 3030, ENHANCEDSTATUSCODES 2034, DSN 3461, STARTTLS 3207, AUTH 4954,
 * LIMITS 9422). Core: bytes and time in, effects out; no sockets, no clock, no queue.
 *
 * The happy path: new -> greet -> input (EHLO, MAIL, RCPT, DATA, text) -> SMTP_FX_BODY … ->
 * SMTP_FX_COMPLETE; the driver takes the message with smtp_session_message(), queues it, and tells
 * its fate by smtp_session_fate(); only then does `250` go out and the next pipelined command
 * begin (protocol 4.3, 4.6). All replies of one step leave in one SMTP_FX_WRITE. */
#ifndef BATON_SMTP_SESSION_H
#define BATON_SMTP_SESSION_H

#include "replication/row.h"

/* What a client may do now; decided by the composition from role, mode and disk. */
enum smtp_gate {
    SMTP_OPEN,        /* 220, mail is taken */
    SMTP_NOT_PRIMARY, /* standby, fenced, handing over: greet 421 4.3.2 and close; sessions under
                         way get 421 4.3.2 at their next command (at once when idle); one whose
                         message is with the queue waits for its fate */
    SMTP_ALONE,       /* solo with when_alone = "refuse": 451 4.3.2 at MAIL FROM */
    SMTP_FULL,        /* below the disk reserve: 452 4.3.1 at MAIL FROM */
};

/* Settings shared by the sessions of a server; may change under them (reload). */
struct smtp_policy {
    const char *hostname;
    uint64_t message_bytes;
    unsigned recipients; /* a message */
    unsigned hops;       /* Received headers */
    unsigned errors;     /* bad commands a session */
    uint64_t greeting_ms, command_ms, data_ms;
    enum smtp_gate gate;
};

/* What is known of a client when it connects. Copied. */
struct smtp_client {
    const char *peer; /* address text; borrowed as long as the session lives */
    bool may_relay;   /* relay_networks */
    bool starttls;    /* is offered */
    bool implicit; /* TLS is on from the first byte; told by smtp_session_tls() before greeting */
    bool auth, auth_required;
};

enum smtp_effect_type {
    SMTP_FX_WRITE,     /* bytes: to the client */
    SMTP_FX_START_TLS, /* after what was written; then smtp_session_tls() */
    SMTP_FX_VERIFY,    /* user, password: check, then smtp_session_verified() */
    SMTP_FX_BODY,      /* bytes: next part of the message's text */
    SMTP_FX_DISCARD,   /* the text so far won't be used */
    SMTP_FX_COMPLETE,  /* take the message, then smtp_session_fate() */
    SMTP_FX_REFUSED, /* bytes: the reply by which a transaction or client was refused: to count and
                      * log
                      */
    SMTP_FX_CLOSE, /* flush and close; linger: read on for a moment, so that the reply isn't lost to
                      a reset */
};
struct smtp_effect {
    enum smtp_effect_type type;
    struct slice bytes; /* all slices are borrowed until emit returns */
    struct slice user, password;
    bool linger;
};
typedef void (*smtp_emit)(void *ctx, const struct smtp_effect *fx);

enum smtp_admission { SMTP_ADMIT, SMTP_TOO_MANY, SMTP_TOO_MANY_FROM_ADDRESS };
enum smtp_verdict { SMTP_VERIFIED, SMTP_WRONG, SMTP_CANNOT_TELL };
enum smtp_fate {
    SMTP_COMMITTED,      /* 250 */
    SMTP_NEVER_NUMBERED, /* 421 4.3.2: no store will ever hold it */
    SMTP_UNDECIDED,      /* closed without a reply: it may be delivered yet */
};

struct smtp_session;

/* policy outlives the session. */
struct smtp_session *smtp_session_new(const struct smtp_policy *policy,
                                      const struct smtp_client *client, smtp_emit emit, void *ctx,
                                      uint64_t now_ms);
void smtp_session_free(struct smtp_session *s);
/* 220, or the reply that turns the client away. What comes before it (input) is an early talker's.
 */
void smtp_session_greet(struct smtp_session *s, enum smtp_admission admission, uint64_t now_ms);
void smtp_session_input(struct smtp_session *s, struct slice bytes, uint64_t now_ms);
void smtp_session_eof(struct smtp_session *s, uint64_t now_ms);
/* describe: "TLSv1.3 TLS_AES_256_GCM_SHA384"; borrowed as long as the session lives. */
void smtp_session_tls(struct smtp_session *s, const char *describe, uint64_t now_ms);
void smtp_session_verified(struct smtp_session *s, enum smtp_verdict verdict, uint64_t now_ms);
void smtp_session_fate(struct smtp_session *s, enum smtp_fate fate, uint64_t now_ms);
/* A part of the text could not be written ahead: 421 at the end of the text. */
void smtp_session_body_lost(struct smtp_session *s, uint64_t now_ms);
/* policy->gate has changed. */
void smtp_session_gate(struct smtp_session *s, uint64_t now_ms);
void smtp_session_tick(struct smtp_session *s, uint64_t now_ms);
/* Time when smtp_session_tick() will do something; UINT64_MAX: never. */
uint64_t smtp_session_deadline(const struct smtp_session *s);
/* We did not read for a while (back-pressure): the client's time begins anew. */
void smtp_session_touch(struct smtp_session *s, uint64_t now_ms);
/* Closes in an orderly way: 421 with text, e.g. at shutdown. */
void smtp_session_stop(struct smtp_session *s, uint64_t now_ms);
/* False while it waits for a verdict or a fate, and once closed: don't read. */
bool smtp_session_wants_input(const struct smtp_session *s);
/* Input that came while it wasn't wanted lies here? One more piece of at most 64 KiB still fits. */
bool smtp_session_holds_input(const struct smtp_session *s);
bool smtp_session_closed(const struct smtp_session *s);
/* Waits for the fate of a message? */
bool smtp_session_committing(const struct smtp_session *s);

/* A complete message as rows. sha256, chunks and body are the driver's to fill in. */
struct smtp_message {
    struct row_message row;
    struct row_recipient *rcpts; /* n, malloc'ed */
    unsigned n;
    struct buf memory; /* backs all slices */
};
/* Once for each SMTP_FX_COMPLETE; the caller frees with smtp_message_free(). date: RFC 5322. */
void smtp_session_message(struct smtp_session *s, uint64_t id, int64_t wall_ms, const char *date,
                          struct smtp_message *out);
void smtp_message_free(struct smtp_message *m);
#endif
