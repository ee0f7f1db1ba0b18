/* Operator state that the relay heeds (keys: replication/row.h): what is paused, which addresses
 * are never sent to. The value is the wall clock (ms) of the order; empty: taken back. Core. */
#ifndef BATON_QUEUE_OPSTATE_H
#define BATON_QUEUE_OPSTATE_H

#include "node/base/buf.h"

enum opstate_kind { OPSTATE_DESTINATION, OPSTATE_CAMPAIGN, OPSTATE_SUPPRESS };
enum { OPSTATE_NAME_MAX = 1024 }; /* a domain, a campaign, an address: what their rows hold */

const char *opstate_prefix(enum opstate_kind kind);
/* Appends the key for a name; domains and addresses in lower case. False: too long. */
bool opstate_key(struct buf *b, enum opstate_kind kind, struct slice name);
/* Is it a key of that kind? Then *name is what it is about. */
bool opstate_is(struct slice key, enum opstate_kind kind, struct slice *name);

/* What is paused, in memory: few names, typed by people. */
struct pauses {
    struct buf *key; /* sorted */
    size_t n, cap;
};
enum { PAUSES_MAX = 10000 }; /* more than anybody pauses by hand; each costs some 100 bytes */
/* Takes a row of operator state. True: something else is paused now. An empty key: nothing is. */
bool pauses_take(struct pauses *p, struct slice key, struct slice value);
bool pauses_has(const struct pauses *p, enum opstate_kind kind, struct slice name);
void pauses_free(struct pauses *p);
#endif
