/* Notes (protocol 9): deliveries that may get their final dot at any moment, as a primary tells its
 * standby. Core.
 *
 * A note is about one transaction with a receiver: a message, some of its recipients, and how often
 * each had been tried before. It is withdrawn when no dot is open any more and all outcomes are
 * with the standby. What an outcome has settled needs no withdrawal to be harmless: the row then
 * counts one attempt more than the note (apply_promote()).
 *
 * Notes go in frames, each with a number; the standby acknowledges the highest number that came.
 * A frame that begins anew replaces all that was noted. */
#ifndef BATON_REPLICATION_NOTES_H
#define BATON_REPLICATION_NOTES_H

#include "node/base/wire.h"

enum {
    NOTE_RECIPIENTS_MAX = 100, /* of one transaction (delivery's own cap) */
    /* A connection has a transaction under way and may have one whose outcomes aren't settled;
     * there are at most 20,000 connections (delivery.connections). */
    NOTES_MAX = 40000,
    /* Most have one recipient; this many of them take 8 MiB. */
    NOTES_RECIPIENTS_MAX = 1 << 20,
    NOTES_FRAME_BYTES = 1 << 20, /* more goes into another frame */
    NOTES_BYTES_MAX = NOTES_MAX * 20 + NOTES_RECIPIENTS_MAX * 8,
};

struct note_recipient {
    uint32_t index, attempts; /* attempts: as in the row before this one */
};
struct note {
    uint64_t key; /* grows; names the note in its withdrawal */
    uint64_t id;  /* message */
    uint32_t n;
    struct note_recipient rcpts[];
};
struct notes {
    struct note **at; /* by key */
    size_t n, cap, n_rcpts;
};
void notes_clear(struct notes *s);

struct frame_note {
    uint32_t epoch;
    bool anew;       /* forget what was noted before */
    uint64_t number; /* 0: acknowledges nothing, another frame follows */
    struct slice records;
};
bool note_encode_head(struct buf *b, uint32_t epoch, bool anew, uint64_t number);
bool note_decode(struct slice s, struct frame_note *out);

/* Records behind the head. */
bool note_put(struct buf *b, uint64_t key, uint64_t id, const struct note_recipient *rcpts,
              uint32_t n);
bool note_put_withdrawn(struct buf *b, uint64_t key);
/* Carries a frame's records out on the set. False: malformed, or too many. */
bool notes_take(struct notes *s, const struct frame_note *f);
/* The row of a recipient that may be noted gets `attempts` from the other node's row: what is noted
 * is about the attempt after those. True: a note was raised. */
bool notes_raise(struct notes *s, uint64_t id, uint32_t index, uint32_t attempts);
/* All of it as records, from *from on, as far as `limit` bytes go; moves *from. */
bool notes_encode(const struct notes *s, struct buf *b, size_t *from, size_t limit);
/* The next recipient among records; false: no more (or r->bad). *left: of the note at hand, 0 at
 * first. */
struct note_reader {
    struct wire_reader r;
    uint64_t id;
    uint32_t left;
};
bool notes_next(struct note_reader *x, uint64_t *id, struct note_recipient *out);
#endif
