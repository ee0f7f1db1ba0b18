/* One delivery event as a line of JSON (contract, "Events"). Core. */
#ifndef BATON_CONTROL_EVENT_H
#define BATON_CONTROL_EVENT_H

#include "node/control/events_uv.h"

const char *event_type_name(enum event_type t);
/* Appends the line with its newline. sender is always there ("" is the null sender); the other
 * slices only when they aren't empty. False: out's cap; out may hold a part of the line then. */
bool event_line(struct buf *out, const struct event *ev, int64_t wall_ms, char node,
                uint32_t epoch);
#endif
