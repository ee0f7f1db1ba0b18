/* See control.h: what a message and its recipients look like to operators. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "node/control/control.h"
#include "node/control/text.h"

static json_t *text(struct slice s)
{
    struct buf b;
    buf_init(&b, 64 << 10);
    text_utf8(&b, slice_of(s.p, s.n < 8192 ? s.n : 8192));
    json_t *j = json_stringn(b.len ? (const char *)b.data : "", b.len);
    buf_free(&b);
    return j;
}

static json_t *moment(int64_t ms)
{
    char when[32];
    return ms ? json_string(text_rfc3339(when, ms)) : json_null();
}

static void set(json_t *o, const char *key, json_t *value)
{
    int rc = json_object_set_new(o, key, value ? value : json_null());
    assert(rc == 0);
    (void)rc;
}

json_t *control_message_json(const struct row_message *m, int64_t now_ms)
{
    char id[17];
    json_t *o = json_object();
    set(o, "id", json_string(text_id(id, m->id)));
    set(o, "sender", text(m->sender));
    set(o, "campaign", m->campaign.n ? text(m->campaign) : json_null());
    set(o, "received", moment(m->received_ms));
    set(o, "age_s", json_real((double)(now_ms - m->received_ms) / 1e3));
    set(o, "size", json_integer((json_int_t)m->size));
    set(o, "state", json_string(m->state == MESSAGE_DONE ? "done" : "live"));
    set(o, "done", moment(m->done_ms));
    set(o, "recipients_total", json_integer(m->recipients));
    set(o, "origin", text(m->origin));
    set(o, "envid", m->envid.n ? text(m->envid) : json_null());
    set(o, "parent", m->parent ? json_string(text_id(id, m->parent)) : json_null());
    set(o, "bounce", json_boolean(m->flags & MSG_BOUNCE));
    set(o, "epoch", json_integer(MESSAGE_EPOCH(m->id)));
    set(o, "recipients", json_array());
    return o;
}

/* "; mx.example.net [192.0.2.1]:25 said: 451 4.7.1 try later" when there was a reply. */
static void reply_of(const struct row_recipient *r, const char *before, struct buf *out)
{
    if (!r->reply.n && !r->code)
        return;
    buf_append_str(out, before);
    if (r->remote.n) {
        buf_append_slice(out, r->remote);
        buf_append_str(out, " said: ");
    }
    if (r->code)
        buf_printf(out, "%u ", r->code);
    if (r->enhanced.n) {
        buf_append_slice(out, r->enhanced);
        buf_append_str(out, " ");
    }
    buf_append_slice(out, r->reply);
}

static void when_next(const struct row_recipient *r, int64_t now_ms, struct buf *out)
{
    char d[32];
    if (r->next_ms > now_ms)
        buf_printf(out, "next attempt in %s", text_duration(d, r->next_ms - now_ms));
    else
        buf_append_str(out, "due now");
}

void control_recipient_why(const struct row_recipient *r, uint64_t id, int64_t now_ms,
                           struct buf *out)
{
    char d[32], hex[17];
    text_id(hex, id);
    if (rcpt_terminal(r->state)) {
        buf_append_str(out, rcpt_state_name(r->state));
        if (r->last_ms)
            buf_printf(out, " %s ago", text_duration(d, now_ms - r->last_ms));
        if (r->attempts)
            buf_printf(out, " at attempt %" PRIu32, r->attempts);
        reply_of(r, "; ", out);
    } else if (r->held & HELD_OPERATOR && !r->code &&
               slice_eq(r->enhanced, SLICE_LIT(REASON_ENHANCED))) {
        buf_append_str(out, "held: ");
        buf_append_slice(out, r->reply);
        buf_printf(out, "; tried again after: batonctl queue release --id %s", hex);
    } else if (r->held & HELD_OPERATOR) {
        buf_printf(out, "held by an operator; release: batonctl queue release --id %s", hex);
        reply_of(r, "; last: ", out);
    } else if (r->state == RCPT_QUARANTINED) {
        buf_printf(out,
                   "quarantined: taken before a takeover and never acknowledged, so its sender may "
                   "have sent it again; released by itself in %s, or now: batonctl queue release "
                   "--id %s",
                   text_duration(d, r->next_ms - now_ms), hex);
    } else if (r->held & HELD_IN_DOUBT) {
        buf_printf(out,
                   "in doubt: its receiver may have it, and its policy is to be sent at most once; "
                   "again all the same: batonctl queue release --id %s, or not: queue cancel",
                   hex);
        reply_of(r, "; last: ", out);
    } else if (r->in_doubt == DOUBT_YES) {
        buf_append_str(out, "in doubt: it was being delivered when the primary changed; ");
        when_next(r, now_ms, out);
    } else if (!r->attempts) {
        buf_append_str(out, "waits for its first attempt: ");
        when_next(r, now_ms, out);
        reply_of(r, "; ", out);
    } else {
        buf_printf(out, "tried %" PRIu32 " time%s, last %s ago; ", r->attempts,
                   r->attempts == 1 ? "" : "s", text_duration(d, now_ms - r->last_ms));
        when_next(r, now_ms, out);
        reply_of(r, "; ", out);
    }
}

json_t *control_recipient_json(const struct row_recipient *r, int64_t now_ms)
{
    json_t *o = json_object();
    struct buf why;
    buf_init(&why, 4096);
    control_recipient_why(r, r->id, now_ms, &why);
    set(o, "index", json_integer(r->index));
    set(o, "address", text(r->address));
    set(o, "domain", text(r->domain));
    set(o, "state", json_string(selector_state(r)));
    set(o, "held", json_boolean(r->held));
    set(o, "in_doubt", json_boolean(r->in_doubt == DOUBT_YES));
    set(o, "attempts", json_integer(r->attempts));
    set(o, "next", rcpt_terminal(r->state) || r->held ? json_null() : moment(r->next_ms));
    set(o, "next_s", json_real((double)(r->next_ms - now_ms) / 1e3));
    set(o, "last", moment(r->last_ms));
    set(o, "code", r->code ? json_integer(r->code) : json_null());
    set(o, "enhanced", r->enhanced.n ? text(r->enhanced) : json_null());
    set(o, "reply", r->reply.n ? text(r->reply) : json_null());
    set(o, "remote", r->remote.n ? text(r->remote) : json_null());
    set(o, "why", text(buf_slice(&why)));
    buf_free(&why);
    return o;
}
