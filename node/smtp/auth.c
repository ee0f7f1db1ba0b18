/* AUTH PLAIN (RFC 4616) and LOGIN, under TLS only (RFC 4954). Core; the driver checks passwords. */
#include <assert.h>
#include <stdlib.h>

#include "node/smtp/session_state.h"

enum { AUTH_NAME_MAX = 255 };

static int base64_digit(uint8_t c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648 4, padding required; out has room for in.n bytes. */
static bool base64_decode(struct slice in, uint8_t *out, size_t *n)
{
    *n = 0;
    if (in.n % 4)
        return false;
    for (size_t i = 0; i < in.n; i += 4) {
        bool final = i + 4 == in.n;
        unsigned pad = final && in.p[i + 3] == '=' ? 1 + (in.p[i + 2] == '=') : 0;
        uint32_t v = 0;
        for (unsigned k = 0; k < 4; k++) {
            int d = k >= 4 - pad ? 0 : base64_digit(in.p[i + k]);
            if (d < 0)
                return false;
            v = v << 6 | (uint32_t)d;
        }
        if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff)))
            return false;
        for (unsigned k = 0; k < 3 - pad; k++)
            out[(*n)++] = (uint8_t)(v >> (16 - 8 * k));
    }
    return true;
}

void auth_forget(struct smtp_session *s)
{
    free(s->auth_user);
    s->auth_user = NULL;
}

static void verify(struct smtp_session *s, struct slice user, struct slice password)
{
    free(s->auth_user);
    s->auth_user = slice_dup(user);
    session_set(s, ST_VERIFY);
    s->emit(s->ctx,
            &(struct smtp_effect){.type = SMTP_FX_VERIFY, .user = user, .password = password});
}

static void bad_response(struct smtp_session *s)
{
    auth_forget(s);
    session_set(s, ST_COMMAND);
    session_error(s, "501 5.5.2 Malformed authentication response");
}

static bool name_ok(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 33 || s.p[i] == 127 || s.p[i] == ':')
            return false;
    return s.n > 0 && s.n <= AUTH_NAME_MAX;
}

/* authzid NUL authcid NUL password */
static void plain(struct smtp_session *s, struct slice in)
{
    const uint8_t *a = in.n ? memchr(in.p, 0, in.n) : NULL;
    const uint8_t *b = a ? memchr(a + 1, 0, in.n - (size_t)(a + 1 - in.p)) : NULL;
    if (!b) {
        bad_response(s);
        return;
    }
    struct slice as = slice_of(in.p, (size_t)(a - in.p));
    struct slice user = slice_of(a + 1, (size_t)(b - a - 1));
    struct slice password = slice_of(b + 1, in.n - (size_t)(b + 1 - in.p));
    if (!name_ok(user) || !password.n || memchr(password.p, 0, password.n) ||
        (as.n && !slice_eq(as, user)))
        bad_response(s);
    else
        verify(s, user, password);
}

static void respond(struct smtp_session *s, struct slice in)
{
    switch (s->auth_step) {
    case AUTH_PLAIN:
        plain(s, in);
        return;
    case AUTH_LOGIN_USER:
        if (!name_ok(in)) {
            bad_response(s);
            return;
        }
        s->auth_user = slice_dup(in);
        s->auth_step = AUTH_LOGIN_PASSWORD;
        session_set(s, ST_AUTH);
        session_reply(s, "334 UGFzc3dvcmQ6");
        return;
    case AUTH_LOGIN_PASSWORD: {
        char *user = s->auth_user;
        s->auth_user = NULL;
        if (!in.n || memchr(in.p, 0, in.n))
            bad_response(s);
        else
            verify(s, slice_str(user), in);
        free(user);
        return;
    }
    }
    assert(!"auth step");
}

void auth_line(struct smtp_session *s, struct slice line)
{
    if (slice_eq(line, SLICE_LIT("*"))) {
        auth_forget(s);
        session_set(s, ST_COMMAND);
        session_error(s, "501 5.7.0 Authentication cancelled");
        return;
    }
    size_t n;
    uint8_t *decoded = xmalloc(line.n + 1);
    if (base64_decode(line, decoded, &n))
        respond(s, slice_of(decoded, n));
    else
        bad_response(s);
    explicit_bzero(decoded, line.n + 1);
    free(decoded);
}

static const char *auth_objection(const struct smtp_session *s)
{
    if (!s->client.auth)
        return "502 5.5.1 Authentication isn't offered";
    if (!s->tls)
        return "538 5.7.11 Encryption required for authentication";
    if (s->user)
        return "503 5.5.1 Already authenticated";
    return NULL;
}

void auth_begin(struct smtp_session *s, struct slice args)
{
    const uint8_t *space = memchr(args.p, ' ', args.n);
    struct slice mechanism = slice_of(args.p, space ? (size_t)(space - args.p) : args.n);
    struct slice initial = slice_of(space ? space + 1 : NULL, space ? args.n - mechanism.n - 1 : 0);
    const char *reply = auth_objection(s);
    bool is_plain = slice_ieq(mechanism, SLICE_LIT("PLAIN"));
    if (!reply && !is_plain && !slice_ieq(mechanism, SLICE_LIT("LOGIN")))
        reply = "504 5.5.4 Unknown authentication mechanism";
    if (reply) {
        session_error(s, reply);
        return;
    }
    s->auth_step = is_plain ? AUTH_PLAIN : AUTH_LOGIN_USER;
    session_set(s, ST_AUTH);
    if (slice_eq(initial, SLICE_LIT("="))) /* an empty response, RFC 4954 4 */
        respond(s, slice_of(NULL, 0));
    else if (initial.n)
        auth_line(s, initial);
    else
        session_reply(s, is_plain ? "334 " : "334 VXNlcm5hbWU6");
}

void auth_verdict(struct smtp_session *s, enum smtp_verdict verdict)
{
    assert(s->state == ST_VERIFY && s->auth_user && !s->user);
    if (verdict == SMTP_WRONG) {
        session_set(s, ST_PENALTY);
        return;
    }
    session_set(s, ST_COMMAND);
    if (verdict == SMTP_VERIFIED) {
        s->user = s->auth_user;
        s->auth_user = NULL;
        session_reply(s, "235 2.7.0 Authentication successful");
    } else {
        auth_forget(s);
        session_reply(s, "454 4.7.0 Temporary authentication failure");
    }
}

void auth_penalty_over(struct smtp_session *s)
{
    assert(s->state == ST_PENALTY);
    auth_forget(s);
    if (++s->auth_failures >= AUTH_TRIES_MAX) {
        session_bye(s, false, "421 4.7.0 %s Too many authentication failures", s->policy->hostname);
        return;
    }
    session_set(s, ST_COMMAND);
    session_error(s, "535 5.7.8 Authentication credentials invalid");
}
