/* Automatic takeover as operator state: the row "takeover" with the value "on", "off", or
 * "off until=<wall ms>" (on again by itself then). Core. */
#ifndef BATON_CONTROL_TAKEOVER_H
#define BATON_CONTROL_TAKEOVER_H

#include "node/base/buf.h"

#define TAKEOVER_KEY "takeover"

/* until_ms 0: without end. out has at least 40 bytes. Returns out. */
char *takeover_value(char *out, bool on, int64_t until_ms);
/* What the value means at now_ms. *until_ms: when it is on again by itself, 0 when it is on or when
 * only an operator can turn it on. Anything unknown is on, the default. */
bool takeover_is_on(struct slice value, int64_t now_ms, int64_t *until_ms);
#endif
