/* What batonctl asks and what it gets: one JSON object as request line, JSON lines as answer.
 * Core: text in, struct out, and rows in, JSON out.
 *
 * Request: {"verb": "...", ...}; fields by verb, see control_parse(). Answer: any number of
 * {"data": ...} lines (and {"bytes": N} lines, each followed by N raw bytes and a newline, for
 * bodies), then one {"done": true, "ok": true|false, "kind": "...", "text": "..."}: kind names
 * why it isn't ok. One request a connection. */
#ifndef BATON_CONTROL_CONTROL_H
#define BATON_CONTROL_CONTROL_H

#include <jansson.h>

#include "node/queue/opstate.h"
#include "node/queue/selector.h"
#include "replication/row.h"

enum control_verb {
    CONTROL_STATUS,
    CONTROL_SWITCHOVER,
    CONTROL_FAILOVER, /* force */
    CONTROL_BOOTSTRAP,
    CONTROL_START_ALONE,
    CONTROL_TAKEOVER, /* on, for_ms */
    CONTROL_LIST,     /* selector, limit */
    CONTROL_SHOW,     /* id */
    CONTROL_BODY,     /* id */
    CONTROL_SUMMARY,  /* by */
    CONTROL_SELECT,   /* action, selector */
    CONTROL_DESTINATIONS,
    CONTROL_EVENTS, /* id or 0: follow */
    CONTROL_RELOAD,
    CONTROL_VERIFY,     /* compare both stores */
    CONTROL_ORDER,      /* kind, on, names: pause, resume, suppress */
    CONTROL_CAMPAIGNS,  /* what is queued and paused, per campaign */
    CONTROL_SUPPRESSED, /* the addresses */
    CONTROL_REJOIN,     /* discard; count: only tells what would be given up */
};

enum {
    CONTROL_TIMEOUT_MS = 30000,      /* default of pair operations */
    CONTROL_TIMEOUT_MAX_MS = 600000, /* longer than any takeover; frees the client's place */
    CONTROL_LIMIT = 100,             /* default of `queue list` */
    CONTROL_LIMIT_MAX = 1000000,
    CONTROL_NAMES_MAX = 1000, /* of one order: what fits one operation of the store */
};

struct control_request {
    enum control_verb verb;
    bool force, on, discard, count;
    uint64_t for_ms, id, limit, timeout_ms;
    enum select_action action;
    struct selector selector; /* strings owned */
    char by[16];
    enum opstate_kind kind;
    char **names; /* owned */
    unsigned n_names;
};
/* False: err (size n) has one line; nothing to free then. */
bool control_parse(struct slice line, struct control_request *out, char *err, size_t n);
void control_request_free(struct control_request *r);
/* The selector with its strings copied, for an operation that outlives the request. */
struct selector control_selector_copy(const struct selector *s);

/* Answers' last line; kind NULL when ok. */
json_t *control_done(bool ok, const char *kind, const char *text);
/* A message and its recipients as operators see them; now_ms for ages and times to go. */
json_t *control_message_json(const struct row_message *m, int64_t now_ms);
json_t *control_recipient_json(const struct row_recipient *r, int64_t now_ms);
/* One line: why this recipient is still here, or how it ended. */
void control_recipient_why(const struct row_recipient *r, uint64_t id, int64_t now_ms,
                           struct buf *out);
#endif
