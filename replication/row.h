/* The rows a store holds and a pair exchanges (protocol 3 and 10): whole rows, each standing for
 * itself. Core. Slices in a decoded row borrow from the bytes it was decoded from. */
#ifndef BATON_REPLICATION_ROW_H
#define BATON_REPLICATION_ROW_H

#include "node/base/buf.h"
#include "node/base/ids.h"
#include "node/base/wire.h"

enum { BODY_INLINE_MAX = 131072, BODY_CHUNK_BYTES = 65536, HISTORY_MAX = 256 };

enum row_type { ROW_MESSAGE = 1, ROW_RECIPIENT, ROW_CHUNK, ROW_OPSTATE };

/* Message id = epoch (24 bits) . sequence (40 bits). */
#define MESSAGE_ID(epoch, seq) ((uint64_t)(epoch) << 40 | (uint64_t)(seq))
#define MESSAGE_EPOCH(id)      ((uint32_t)((id) >> 40))

enum message_flags {
    MSG_8BIT = 1,     /* BODY=8BITMIME */
    MSG_UTF8 = 2,     /* SMTPUTF8 */
    MSG_RET_FULL = 4, /* RET=FULL */
    MSG_RET_HDRS = 8,
    MSG_BOUNCE = 16, /* we made it; parent names the message it is about */
    MSG_IN_DOUBT_HOLD = 32,
};
enum message_state {
    MESSAGE_LIVE = 0,
    MESSAGE_DONE = 1, /* tombstone: every recipient terminal, the body gone */
};

/* Immutable but for state, done_ms and pos. */
struct row_message {
    uint64_t id;
    struct pos pos;  /* last change */
    struct pos born; /* creation: what section 8 judges a divergent message by */
    struct store_id creator;
    uint8_t state; /* enum message_state */
    uint32_t flags;
    int64_t received_ms; /* wall clock */
    int64_t done_ms;     /* wall clock; 0 while live */
    uint64_t size;       /* body bytes, as the client sent them */
    uint32_t
        chunks; /* 0: body is inline; else that many ROW_CHUNKs of BODY_CHUNK_BYTES but the last */
    uint32_t recipients;
    uint64_t parent;     /* bounce: the message it is about */
    uint8_t sha256[32];  /* of the body */
    struct slice sender; /* reverse-path without <>; empty: null sender */
    struct slice envid;  /* DSN ENVID as received (xtext), may be empty */
    struct slice campaign;
    struct slice origin; /* client as text, "host [addr]" or auth user: for people */
    struct slice prefix; /* header lines we add in front: Received, Date, Message-ID */
    struct slice body;   /* inline body (at most BODY_INLINE_MAX); empty when chunks > 0 or done */
};

enum recipient_state {
    RCPT_QUARANTINED = 0,
    RCPT_QUEUED = 1,
    RCPT_FAILED = 2,
    RCPT_EXPIRED = 3,
    RCPT_CANCELLED = 4,
    RCPT_SUPPRESSED = 5,
    RCPT_SUPERSEDED = 6,
    RCPT_DELIVERED = 7,
};
static inline bool rcpt_terminal(uint8_t state)
{
    return state >= RCPT_FAILED;
}
const char *rcpt_state_name(uint8_t state);

enum notify_flags {
    NOTIFY_NEVER = 1,
    NOTIFY_SUCCESS = 2,
    NOTIFY_FAILURE = 4,
    NOTIFY_DELAY = 8
}; /* 0: not given */

/* What keeps it from being sent. */
enum held_flags {
    HELD_OPERATOR = 1,
    HELD_IN_DOUBT = 2, /* policy `hold`: it may have been sent; an operator decides (section 9) */
    HELD_OWN_DOUBT =
        4, /* with it: an attempt that a node made while it was alone, and whose outcome
              it never knew: no other has it, whatever it knows of attempts of its own */
    HELD_DOUBT = HELD_IN_DOUBT | HELD_OWN_DOUBT
};
/* Section 9. Of two copies the higher one is the more careful. */
enum doubt {
    DOUBT_NONE,
    DOUBT_NOTED, /* policy `hold`: its final dot may go out at any moment */
    DOUBT_YES,   /* it may have been sent before a takeover, or its reply was lost under `hold` */
};

struct row_recipient {
    uint64_t id;    /* message */
    uint32_t index; /* 0.. within the message */
    struct pos pos;
    uint8_t state;    /* enum recipient_state */
    uint8_t held;     /* enum held_flags; HELD_IN_DOUBT only with DOUBT_YES */
    uint8_t notify;   /* enum notify_flags */
    uint8_t in_doubt; /* enum doubt */
    uint32_t attempts;
    int64_t next_ms;       /* wall clock: next attempt, or release from quarantine */
    int64_t last_ms;       /* wall clock: last attempt; 0: none */
    uint16_t code;         /* last SMTP reply, 0: none */
    struct slice address;  /* local@domain as given */
    struct slice domain;   /* lower case, for routing and grouping */
    struct slice orcpt;    /* DSN ORCPT as received, may be empty */
    struct slice enhanced; /* "4.7.1" of the last reply, may be empty */
    struct slice reply;    /* text of the last reply or of our own finding; at most 512 bytes */
    struct slice remote;   /* who said it: "host [addr]:port" */
};

/* One piece of a body over BODY_INLINE_MAX, written and shipped ahead of its message row. */
struct row_chunk {
    uint64_t id;
    uint32_t index;
    struct pos pos;
    struct slice data;
};

/* Operator state: small named values; newest wins, between diverged copies the more restrictive.
 * Known keys: "takeover" ("on" | "off" | "off until=<wall ms>"), "purge" (<wall ms>: tombstones
 * done before it, and written before this row, go), "pause/destination/<domain>",
 * "pause/campaign/<name>", "suppress/<address>": value "" means removed. */
struct row_opstate {
    struct slice key, value;
    struct pos pos;
};

struct row {
    enum row_type type;
    union {
        struct row_message message;
        struct row_recipient recipient;
        struct row_chunk chunk;
        struct row_opstate opstate;
    };
};
struct pos row_pos(const struct row *r);
void row_set_pos(struct row *r, struct pos p);

/* Appends the row (with type byte and version). False: b's cap. */
bool row_encode(struct buf *b, const struct row *r);
/* Appends rows, back to back as row_encode made them (classed: each behind a byte of enum
 * unmerged_class), in the form of `version`, for a peer that reads no newer one. False: b's cap, or
 * malformed. */
bool rows_recode(struct buf *b, struct slice rows, bool classed, unsigned version);
/* Reads one row; false (and r->bad) on anything malformed: lengths, enums and caps are all checked.
 */
bool row_decode(struct wire_reader *r, struct row *out);

/* FORCED: solo, and begun by an operator's force: the voters may not know of that epoch. */
enum history_mode { MODE_UNKNOWN = 0, MODE_PAIRED = 1, MODE_SOLO = 2, MODE_FORCED = 3 };
struct history_row {
    uint32_t epoch;
    uint8_t mode; /* enum history_mode */
    uint64_t first_lsn;
};
/* Sorted by (epoch, first_lsn). */
struct history {
    unsigned n;
    struct history_row row[HISTORY_MAX];
};
bool history_encode(struct buf *b, const struct history *h);
bool history_decode(struct wire_reader *r, struct history *h);
/* Appends a row (coalescing the oldest when full). Replaces rows of that epoch at or above its
 * first lsn. */
void history_add(struct history *h, struct history_row row);
/* Mode in which (epoch, lsn) was written. MODE_UNKNOWN when the history doesn't cover it. */
enum history_mode history_mode_at(const struct history *h, struct pos p);
/* The newest epoch, if it was begun by force; else 0. */
uint32_t history_forced(const struct history *h);
/* Last lsn of `epoch` in a store that ends at `end`: one below the next epoch's first lsn, or
 * end.lsn. 0: epoch not in h. */
uint64_t history_epoch_end(const struct history *h, uint32_t epoch, struct pos end);
/* Section 8: the smaller end in the highest common epoch. {0,0} when there is none. */
struct pos history_shared(const struct history *a, struct pos a_end, const struct history *b,
                          struct pos b_end);
#endif
