/* The inside of a session, shared by session.c (states, input, time), commands.c (one function a
 * command), text.c (DATA, BDAT, the finished message) and auth.c. Nobody else includes it. Core. */
#ifndef BATON_SMTP_SESSION_STATE_H
#define BATON_SMTP_SESSION_STATE_H

#include "node/smtp/data.h"
#include "node/smtp/header.h"
#include "node/smtp/session.h"

enum {
    LINE_MAX_BYTES = 2048, /* MAIL and RCPT with all their extensions fit (RFC 5321 4.5.3.1.4) */
    AUTH_LINE_MAX_BYTES = 12288, /* RFC 4954 4.1 */
    HELO_MAX_BYTES = 255,
    /* What may wait unread while a verdict or fate is due: one read of the stream and a part of a
     * line. */
    INPUT_MAX_BYTES = 2 * 65536 + AUTH_LINE_MAX_BYTES,
    REPLIES_MAX_BYTES = 1 << 20,  /* of one step; 64 KiB of the shortest commands answer less */
    ENVELOPE_MAX_BYTES = 1 << 20, /* addresses of one message; beyond it 452 4.5.3 */
    JUNK_MAX = 100,     /* NOOP, RSET, VRFY, HELP between two messages, then each is an error */
    AUTH_TRIES_MAX = 3, /* a session */
    AUTH_DELAY_MS = 1000,
    AUTH_WAIT_MS = 60000,
    COMMIT_WAIT_MS = 600000,     /* no client waits longer (RFC 5321 4.5.3.2.6) */
    LEAVING_MS = 10000,          /* to end a text that will be refused with 421 */
    DATA_RATE_BYTES_PER_S = 500, /* slower clients run out of time, as with Postfix's
                                    smtpd_min_data_rate */
    SKIP_MAX_BYTES = 1 << 20, /* read over for a message that is refused, beyond the size limit */
    OVERSHOOT_MAX = 1000,     /* recipients over the limit, then each is an error */
};

enum smtp_state {
    ST_START,   /* connected, not greeted: whatever comes is an early talker's */
    ST_COMMAND, /* a command line is due */
    ST_AUTH,    /* a response to our challenge is due */
    ST_VERIFY,  /* the driver checks a password */
    ST_PENALTY, /* it was wrong; the answer waits */
    ST_TLS,     /* handshake */
    ST_DATA,    /* text until the final dot */
    ST_BDAT,    /* text, bdat_left bytes of it */
    ST_COMMIT,  /* the queue has the message */
    ST_CLOSED,
};
enum { ST_COUNT = ST_CLOSED + 1 };

struct rcpt_note { /* bytes in the arena, one after the other: address, domain, orcpt */
    uint32_t at, hash;
    uint16_t address_n, domain_n, orcpt_n;
    uint8_t notify;
};

struct text { /* from DATA or the first BDAT on */
    struct data_decoder decoder;
    struct header_scan header;
    uint64_t size, skipped;
    const char *doom; /* reply that refuses it at its end */
    bool doom_close;
    bool chunked; /* by BDAT */
};

struct transaction {  /* from MAIL on */
    uint32_t flags;   /* enum message_flags */
    struct buf arena; /* sender, envid, then recipients */
    uint32_t sender_n, envid_n;
    struct rcpt_note *rcpts;
    unsigned n, cap, overshoot;
    struct text *text;
};

enum auth_step { AUTH_PLAIN, AUTH_LOGIN_USER, AUTH_LOGIN_PASSWORD };

struct smtp_session {
    const struct smtp_policy *policy;
    struct smtp_client client;
    smtp_emit emit;
    void *ctx;
    enum smtp_state state;
    uint64_t now_ms, deadline_ms;
    bool busy, eof, esmtp;
    char *helo, *user;
    const char *tls; /* NULL: plaintext */
    unsigned errors, junk, auth_failures;
    struct buf in;  /* unread; empty and without memory most of the time */
    size_t scanned; /* bytes of `in` known to hold no line's end */
    bool skip_line; /* the rest of a line that was too long */
    struct buf out; /* replies of this step */
    struct transaction *tx;
    enum auth_step auth_step;
    char *auth_user;
    uint64_t bdat_left, bdat_size;
    bool bdat_last;
    const char *bdat_refusal; /* the chunk is read over, then answered with this */
    uint64_t message_id;
};

/* session.c */
void session_set(struct smtp_session *s, enum smtp_state state);
void session_emit(struct smtp_session *s, enum smtp_effect_type type, struct slice bytes);
void session_flush(struct smtp_session *s);
void session_reply(struct smtp_session *s, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Replies; counts an error, the one too many ends the session. */
void session_error(struct smtp_session *s, const char *reply);
/* The same for what turns a transaction away: counted and logged too. */
void session_refuse(struct smtp_session *s, const char *reply);
/* Says it and closes. */
void session_bye(struct smtp_session *s, bool linger, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void session_close(struct smtp_session *s, bool linger); /* without a word */
void session_forget(struct smtp_session *s);             /* the transaction */
static inline bool session_may_relay(const struct smtp_session *s)
{
    return s->client.may_relay || s->user;
}

/* commands.c: one line without its CRLF */
void session_command(struct smtp_session *s, struct slice line);
size_t session_line_max(const struct smtp_session *s, struct slice line);

/* text.c */
void text_begin(struct smtp_session *s, bool chunked);
size_t text_data(struct smtp_session *s, struct slice in);
void text_bdat(struct smtp_session *s, uint64_t n, bool last, const char *refusal);
size_t text_bdat_input(struct smtp_session *s, struct slice in);
void text_doom(struct smtp_session *s, const char *reply, bool close);

/* auth.c */
void auth_begin(struct smtp_session *s, struct slice args);
void auth_line(struct smtp_session *s, struct slice line);
void auth_verdict(struct smtp_session *s, enum smtp_verdict verdict);
void auth_penalty_over(struct smtp_session *s);
void auth_forget(struct smtp_session *s);
#endif
