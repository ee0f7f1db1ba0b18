/* Delivery events: one JSON object a line into the events file, and to followers (`batonctl events
 * --follow`). Emitting never blocks the caller on the disk: lines go to a writer thread through a
 * bounded queue; what overflows is counted and said in the log. */
#ifndef BATON_CONTROL_EVENTS_UV_H
#define BATON_CONTROL_EVENTS_UV_H

#include "node/base/buf.h"

enum event_type {
    EVENT_ACCEPTED,
    EVENT_DELIVERED,
    EVENT_DEFERRED,
    EVENT_FAILED,
    EVENT_EXPIRED,
    EVENT_SUPPRESSED,
    EVENT_CANCELLED
};

/* Fields of the contract; time, node and epoch are added by events_emit(). Unset slices are left
 * out of the line, but for sender, which is always there (empty: the null sender); recipient of
 * `accepted`: one event a recipient. Bytes that aren't UTF-8 come out as U+FFFD; slices longer than
 * 1024 bytes are cut. */
struct event {
    enum event_type type;
    uint64_t id;
    struct slice sender, recipient, campaign, remote, enhanced, reply, tls;
    uint16_t code;    /* 0: none */
    uint32_t attempt; /* 1..; 0: null */
    int64_t delay_ms; /* since received; negative: null */
};

struct events;
/* file NULL: only followers hear. Opens for appending (created 0640). NULL: err (size n). */
struct events *events_open(const char *file, char node, char *err, size_t n);
/* Any thread; what ev points to is copied. epoch: the one the caller serves in. */
void events_emit(struct events *e, uint32_t epoch, const struct event *ev);
void events_reopen(struct events *e); /* after logrotate; any thread */
/* fn is called on the writer's thread with each line (with its newline) until
 * events_unfollow(token) has returned; it must not call events_unfollow() itself. Returns the
 * token, 0 when there are too many followers. */
typedef void (*events_line_fn)(void *ctx, struct slice line);
uint64_t events_follow(struct events *e, events_line_fn fn, void *ctx);
void events_unfollow(struct events *e, uint64_t token);
uint64_t events_dropped(const struct events *e);
void events_close(struct events *e); /* writes what waits, then frees */
#endif
