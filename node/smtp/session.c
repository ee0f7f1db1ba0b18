/* See session.h. States and their time-outs, input, effects; what a command does is in commands.c.
 */
#include "node/smtp/session_state.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

/* What each state waits for, how long, and what is said when it was in vain. */
static const struct {
    size_t policy_at;            /* offset of the time-out in struct smtp_policy, or */
    uint64_t fixed_ms;           /* this one */
    const char *enhanced, *text; /* of the 421; NULL: close without a word */
    bool reads;                  /* takes input */
} states[ST_COUNT] = {
    [ST_START] = {offsetof(struct smtp_policy, greeting_ms), 0, NULL, NULL, true},
    [ST_COMMAND] = {offsetof(struct smtp_policy, command_ms), 0, "4.4.2", "Timed out", true},
    [ST_AUTH] = {offsetof(struct smtp_policy, command_ms), 0, "4.4.2", "Timed out", true},
    [ST_VERIFY] = {0, AUTH_WAIT_MS, "4.7.0", "Authentication takes too long", false},
    [ST_PENALTY] = {0, AUTH_DELAY_MS, NULL, NULL, false},
    [ST_TLS] = {offsetof(struct smtp_policy, greeting_ms), 0, NULL, NULL, false},
    [ST_DATA] = {offsetof(struct smtp_policy, data_ms), 0, "4.4.2", "Timed out", true},
    [ST_BDAT] = {offsetof(struct smtp_policy, data_ms), 0, "4.4.2", "Timed out", true},
    [ST_COMMIT] = {0, COMMIT_WAIT_MS, NULL, NULL, false},
    [ST_CLOSED] = {0, UINT64_MAX, NULL, NULL, false},
};

static uint64_t state_timeout(const struct smtp_session *s)
{
    if (states[s->state].fixed_ms)
        return states[s->state].fixed_ms;
    uint64_t ms;
    memcpy(&ms, (const char *)s->policy + states[s->state].policy_at, sizeof ms);
    return ms;
}

void session_set(struct smtp_session *s, enum smtp_state state)
{
    assert(s->state != ST_CLOSED);
    s->state = state;
    uint64_t ms = state_timeout(s);
    s->deadline_ms = ms > UINT64_MAX - s->now_ms ? UINT64_MAX : s->now_ms + ms;
}

void session_emit(struct smtp_session *s, enum smtp_effect_type type, struct slice bytes)
{
    s->emit(s->ctx, &(struct smtp_effect){.type = type, .bytes = bytes});
}

void session_flush(struct smtp_session *s)
{
    if (!s->out.len)
        return;
    struct buf now = s->out;
    buf_init(&s->out, REPLIES_MAX_BYTES);
    session_emit(s, SMTP_FX_WRITE, buf_slice(&now));
    buf_free(&now);
}

void session_reply(struct smtp_session *s, const char *fmt, ...)
{
    char line[600];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 2, fmt, ap);
    va_end(ap);
    assert(n > 0);
    if ((size_t)n > sizeof line - 3)
        n = sizeof line - 3;
    memcpy(line + n, "\r\n", 2);
    bool ok = buf_append(&s->out, line, (size_t)n + 2);
    assert(ok); /* the cap is above what one step of input can ask for */
    (void)ok;
}

void session_close(struct smtp_session *s, bool linger)
{
    if (s->state == ST_CLOSED)
        return;
    session_forget(s);
    session_flush(s);
    session_set(s, ST_CLOSED);
    s->emit(s->ctx, &(struct smtp_effect){.type = SMTP_FX_CLOSE, .linger = linger});
}

void session_bye(struct smtp_session *s, bool linger, const char *fmt, ...)
{
    char line[400];
    if (s->state == ST_CLOSED)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (line[0] != '2')
        session_emit(s, SMTP_FX_REFUSED, slice_str(line));
    session_reply(s, "%s", line);
    session_close(s, linger);
}

void session_error(struct smtp_session *s, const char *reply)
{
    session_reply(s, "%s", reply);
    if (++s->errors > s->policy->errors)
        session_bye(s, true, "421 4.7.0 %s Too many errors", s->policy->hostname);
}

void session_refuse(struct smtp_session *s, const char *reply)
{
    session_emit(s, SMTP_FX_REFUSED, slice_str(reply));
    session_error(s, reply);
}

void session_forget(struct smtp_session *s)
{
    struct transaction *tx = s->tx;
    if (!tx)
        return;
    s->tx = NULL;
    if (tx->text && !tx->text->doom && s->state != ST_COMMIT)
        session_emit(s, SMTP_FX_DISCARD, slice_of(NULL, 0));
    free(tx->text);
    free(tx->rcpts);
    buf_free(&tx->arena);
    free(tx);
}

struct smtp_session *smtp_session_new(const struct smtp_policy *policy,
                                      const struct smtp_client *client, smtp_emit emit, void *ctx,
                                      uint64_t now_ms)
{
    struct smtp_session *s = xcalloc(1, sizeof *s);
    s->policy = policy;
    s->client = *client;
    s->emit = emit;
    s->ctx = ctx;
    s->now_ms = now_ms;
    buf_init(&s->in, INPUT_MAX_BYTES);
    buf_init(&s->out, REPLIES_MAX_BYTES);
    session_set(s, ST_START);
    return s;
}

void smtp_session_free(struct smtp_session *s)
{
    if (!s)
        return;
    if (s->tx) {
        free(s->tx->text);
        free(s->tx->rcpts);
        buf_free(&s->tx->arena);
        free(s->tx);
    }
    auth_forget(s);
    if (s->in.data)
        explicit_bzero(s->in.data, s->in.cap);
    buf_free(&s->in);
    buf_free(&s->out);
    free(s->helo);
    free(s->user);
    free(s);
}

/* A line end is CR LF; a lone CR or LF, or a NUL, ends the session: what follows it could be read
 * in two ways. */
static bool line_broken(struct slice line)
{
    return memchr(line.p, 0, line.n) || memchr(line.p, '\r', line.n);
}

static void take_line(struct smtp_session *s, struct slice line)
{
    if (line_broken(line)) {
        session_bye(s, true, "521 5.5.2 %s Bare CR or NUL in a command", s->policy->hostname);
        return;
    }
    session_set(s, s->state); /* its time begins anew with each whole line, not with each byte */
    if (s->state == ST_AUTH)
        auth_line(s, line);
    else
        session_command(s, line);
}

/* One line at the front of `in`, of which the first `from` bytes hold no LF. Returns the bytes
 * used; 0: more are needed. */
static size_t line_input(struct smtp_session *s, struct slice in, size_t from)
{
    const uint8_t *lf = memchr(in.p + from, '\n', in.n - from);
    size_t max = session_line_max(s, in);
    size_t n = lf ? (size_t)(lf - in.p) + 1 : in.n;
    if (lf && (lf == in.p || lf[-1] != '\r')) {
        session_bye(s, true, "521 5.5.2 %s Lines must end with CR LF", s->policy->hostname);
        return n;
    }
    if (n > max || s->skip_line) {
        /* Read over the rest, keeping a CR that its LF may follow. */
        s->skip_line = true;
        if (!lf)
            return n > 1 ? n - 1 : 0;
        s->skip_line = false;
        session_set(s, s->state);
        if (s->state == ST_AUTH) {
            auth_forget(s);
            session_set(s, ST_COMMAND);
            session_error(s, "500 5.5.6 Authentication exchange line is too long");
        } else {
            session_error(s, "500 5.5.2 Line too long");
        }
        return n;
    }
    if (!lf)
        return 0;
    take_line(s, slice_of(in.p, n - 2));
    return n;
}

static void early(struct smtp_session *s)
{
    session_bye(s, true, "521 5.5.1 %s Protocol error: you talked before the greeting",
                s->policy->hostname);
}

static size_t consume(struct smtp_session *s, struct slice in, size_t scanned)
{
    switch (s->state) {
    case ST_DATA:
        return text_data(s, in);
    case ST_BDAT:
        return text_bdat_input(s, in);
    case ST_START:
        early(s);
        return in.n;
    default:
        return line_input(s, in, scanned);
    }
}

static bool reading(const struct smtp_session *s)
{
    return states[s->state].reads;
}

/* Takes what can be taken from the front of `in`; returns how much. */
static size_t drain(struct smtp_session *s, struct slice in, size_t scanned)
{
    size_t used = 0;
    while (used < in.n && reading(s)) {
        size_t said = s->out.len, n = consume(s, slice_of(in.p + used, in.n - used), scanned);
        if (n == 0)
            break;
        used += n;
        scanned = 0;
        if (s->state == ST_TLS && used < in.n) {
            /* RFC 3207 4.2 and CVE-2011-0411: what came in the clear behind STARTTLS isn't the
             * client's we will know. Nobody honest sends it. What was answered before it stands;
             * our own "220 ready" doesn't. */
            s->out.len = said < s->out.len ? said : s->out.len;
            session_close(s, false);
        }
    }
    return used;
}

static bool idle(const struct smtp_session *s)
{
    return (s->state == ST_COMMAND || s->state == ST_AUTH) && !s->in.len && !s->skip_line;
}

/* Ends a step: all that follows from what happened, then one write. */
static void finish(struct smtp_session *s)
{
    if (s->in.len) {
        size_t used = drain(s, buf_slice(&s->in), s->scanned);
        buf_consume(&s->in, used);
    }
    s->scanned = 0;
    if (s->in.len && reading(s) && s->state != ST_DATA && s->state != ST_BDAT)
        s->scanned = s->in.len;
    if (!s->in.len || s->state == ST_CLOSED)
        buf_free(&s->in);
    if (s->policy->gate == SMTP_NOT_PRIMARY && idle(s))
        session_bye(s, false, "421 4.3.2 %s Service not available, try the other node",
                    s->policy->hostname);
    if (s->eof && reading(s))
        session_close(s, false);
    if (s->state == ST_TLS && s->out.len) {
        session_flush(s);
        session_emit(s, SMTP_FX_START_TLS, slice_of(NULL, 0));
    }
    session_flush(s);
}

/* Begins a step; false: one is under way (the driver answered from within emit) and will go on by
 * itself. */
static bool enter(struct smtp_session *s, uint64_t now_ms)
{
    s->now_ms = now_ms > s->now_ms ? now_ms : s->now_ms;
    if (s->busy)
        return false;
    s->busy = true;
    return true;
}

static void leave(struct smtp_session *s, bool entered)
{
    if (!entered)
        return;
    finish(s);
    s->busy = false;
}

void smtp_session_greet(struct smtp_session *s, enum smtp_admission admission, uint64_t now_ms)
{
    if (s->state != ST_START)
        return;
    bool entered = enter(s, now_ms);
    const char *host = s->policy->hostname;
    if (s->policy->gate == SMTP_NOT_PRIMARY) {
        session_bye(s, false, "421 4.3.2 %s Service not available, try the other node", host);
    } else if (admission == SMTP_TOO_MANY) {
        session_bye(s, false, "421 4.7.0 %s Too many connections", host);
    } else if (admission == SMTP_TOO_MANY_FROM_ADDRESS) {
        session_bye(s, false, "421 4.7.0 %s Too many connections from your address", host);
    } else {
        session_reply(s, "220 %s ESMTP Baton", host);
        session_set(s, ST_COMMAND);
    }
    leave(s, entered);
}

void smtp_session_input(struct smtp_session *s, struct slice bytes, uint64_t now_ms)
{
    if (s->state == ST_CLOSED || bytes.n == 0)
        return;
    bool entered = enter(s, now_ms);
    assert(entered);        /* input never comes from within emit */
    if (s->state == ST_TLS) /* in the clear: it must never be taken for a command under TLS */
        session_close(s, false);
    size_t used = 0;
    if (!s->in.len) /* the usual case: no copy */
        used = drain(s, bytes, 0);
    if (s->state != ST_CLOSED && used < bytes.n) {
        bool first = !s->in.len;
        if (!buf_append(&s->in, bytes.p + used, bytes.n - used))
            session_close(s, false); /* more than a paused client can have sent */
        else if (first && reading(s) && s->state != ST_DATA && s->state != ST_BDAT)
            s->scanned = s->in.len;
    }
    leave(s, entered);
}

void smtp_session_eof(struct smtp_session *s, uint64_t now_ms)
{
    bool entered = enter(s, now_ms);
    s->eof = true;
    leave(s, entered);
}

void smtp_session_tls(struct smtp_session *s, const char *describe, uint64_t now_ms)
{
    if (s->state == ST_CLOSED)
        return;
    bool entered = enter(s, now_ms);
    s->tls = describe;
    if (s->state == ST_TLS)
        session_set(s, ST_COMMAND);
    leave(s, entered);
}

void smtp_session_verified(struct smtp_session *s, enum smtp_verdict verdict, uint64_t now_ms)
{
    if (s->state != ST_VERIFY)
        return;
    bool entered = enter(s, now_ms);
    auth_verdict(s, verdict);
    leave(s, entered);
}

void smtp_session_fate(struct smtp_session *s, enum smtp_fate fate, uint64_t now_ms)
{
    if (s->state != ST_COMMIT)
        return;
    bool entered = enter(s, now_ms);
    session_forget(s);
    if (fate == SMTP_COMMITTED) {
        s->junk = 0;
        session_reply(s, "250 2.0.0 Ok: queued as %016" PRIx64, s->message_id);
        session_set(s, ST_COMMAND);
    } else if (fate == SMTP_NEVER_NUMBERED) {
        session_bye(s, false, "421 4.3.2 %s Service not available, try the other node",
                    s->policy->hostname);
    } else {
        session_close(s, false);
    }
    leave(s, entered);
}

void smtp_session_body_lost(struct smtp_session *s, uint64_t now_ms)
{
    bool entered = enter(s, now_ms);
    if (s->tx && s->tx->text && s->state != ST_COMMIT)
        text_doom(s, "421 4.3.2 Service not available, try the other node", true);
    leave(s, entered);
}

void smtp_session_gate(struct smtp_session *s, uint64_t now_ms)
{
    bool entered = enter(s, now_ms);
    if (s->policy->gate == SMTP_NOT_PRIMARY && s->tx && s->tx->text &&
        (s->state == ST_DATA || s->state == ST_BDAT)) {
        text_doom(s, "421 4.3.2 Service not available, try the other node", true);
        if (s->deadline_ms > s->now_ms + LEAVING_MS)
            s->deadline_ms = s->now_ms + LEAVING_MS;
    }
    leave(s, entered);
}

void smtp_session_tick(struct smtp_session *s, uint64_t now_ms)
{
    if (s->state == ST_CLOSED || now_ms < s->deadline_ms)
        return;
    bool entered = enter(s, now_ms);
    bool in_text = s->state == ST_DATA || s->state == ST_BDAT;
    if (s->state == ST_PENALTY)
        auth_penalty_over(s);
    else if (s->tx && s->tx->text && s->tx->text->doom_close)
        session_bye(s, true, "%s", s->tx->text->doom);
    else if (states[s->state].text)
        session_bye(s, in_text, "421 %s %s %s", states[s->state].enhanced, s->policy->hostname,
                    states[s->state].text);
    else
        session_close(s, false);
    leave(s, entered);
}

uint64_t smtp_session_deadline(const struct smtp_session *s)
{
    return s->state == ST_CLOSED ? UINT64_MAX : s->deadline_ms;
}

void smtp_session_touch(struct smtp_session *s, uint64_t now_ms)
{
    bool doomed = s->tx && s->tx->text && s->tx->text->doom_close;
    if (!reading(s) || doomed)
        return;
    s->now_ms = now_ms > s->now_ms ? now_ms : s->now_ms;
    session_set(s, s->state);
}

void smtp_session_stop(struct smtp_session *s, uint64_t now_ms)
{
    bool entered = enter(s, now_ms);
    if (s->state == ST_COMMIT || s->state == ST_TLS || s->state == ST_START)
        session_close(s, false); /* nothing can be said: the fate is open, or it isn't our turn */
    else
        session_bye(s, false, "421 4.3.2 %s Shutting down, try the other node",
                    s->policy->hostname);
    leave(s, entered);
}

bool smtp_session_wants_input(const struct smtp_session *s)
{
    return reading(s) || s->state == ST_TLS; /* the handshake reads */
}

bool smtp_session_holds_input(const struct smtp_session *s)
{
    return s->in.len > 0;
}

bool smtp_session_closed(const struct smtp_session *s)
{
    return s->state == ST_CLOSED;
}

bool smtp_session_committing(const struct smtp_session *s)
{
    return s->state == ST_COMMIT;
}
