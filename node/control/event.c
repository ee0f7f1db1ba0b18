/* See event.h. Written by hand rather than with jansson or printf: this runs twice a message, and
 * its fields come out in the order in which people read them. */
#include "node/control/event.h"

#include <assert.h>

#include "node/control/text.h"

const char *event_type_name(enum event_type t)
{
    static const char *const names[] = {"accepted", "delivered",  "deferred", "failed",
                                        "expired",  "suppressed", "cancelled"};
    assert((unsigned)t < sizeof names / sizeof *names);
    return names[t];
}

static bool key(struct buf *out, const char *name)
{
    return buf_append_str(out, ",\"") && buf_append_str(out, name) && buf_append_str(out, "\":");
}

/* Every field is in every line: scripts look them up without asking. */
static bool number(struct buf *out, const char *name, uint64_t value)
{
    return key(out, name) && (value ? buf_append_u64(out, value) : buf_append_str(out, "null"));
}

static bool field(struct buf *out, const char *name, struct slice value)
{
    return key(out, name) && (value.n ? text_json_string(out, value) : buf_append_str(out, "null"));
}

static bool delay(struct buf *out, uint64_t ms)
{
    const char fraction[] = {'.', (char)('0' + ms / 100 % 10), (char)('0' + ms / 10 % 10),
                             (char)('0' + ms % 10)};
    return buf_append_str(out, ",\"delay_s\":") && buf_append_u64(out, ms / 1000) &&
           buf_append(out, fraction, sizeof fraction);
}

bool event_line(struct buf *out, const struct event *ev, int64_t wall_ms, char node, uint32_t epoch)
{
    char when[32], id[17];
    bool ok =
        buf_append_str(out, "{\"time\":\"") && buf_append_str(out, text_rfc3339(when, wall_ms)) &&
        buf_append_str(out, "\",\"event\":\"") && buf_append_str(out, event_type_name(ev->type)) &&
        buf_append_str(out, "\",\"id\":\"") && buf_append_str(out, text_id(id, ev->id)) &&
        buf_append_str(out, "\",\"sender\":") && text_json_string(out, ev->sender) &&
        field(out, "recipient", ev->recipient) && field(out, "campaign", ev->campaign) &&
        field(out, "remote", ev->remote);
    ok = ok && number(out, "code", ev->code);
    ok = ok && field(out, "enhanced", ev->enhanced) && field(out, "reply", ev->reply);
    ok = ok && number(out, "attempt", ev->attempt);
    if (ev->delay_ms < 0)
        ok = ok && buf_append_str(out, ",\"delay_s\":null");
    else
        ok = ok && delay(out, (uint64_t)ev->delay_ms);
    return ok && field(out, "tls", ev->tls) && buf_append_str(out, ",\"node\":\"") &&
           buf_append(out, &node, 1) && buf_append_str(out, "\",\"epoch\":") &&
           buf_append_u64(out, epoch) && buf_append_str(out, "}\n");
}
