/* The commands: what each needs is in the table, what it does in its function. Core; see session.h.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "node/smtp/address.h"
#include "node/smtp/params.h"
#include "node/smtp/session_state.h"

static void cmd_helo(struct smtp_session *s, struct slice args);
static void cmd_ehlo(struct smtp_session *s, struct slice args);
static void cmd_mail(struct smtp_session *s, struct slice args);
static void cmd_rcpt(struct smtp_session *s, struct slice args);
static void cmd_data(struct smtp_session *s, struct slice args);
static void cmd_bdat(struct smtp_session *s, struct slice args);
static void cmd_rset(struct smtp_session *s, struct slice args);
static void cmd_noop(struct smtp_session *s, struct slice args);
static void cmd_vrfy(struct smtp_session *s, struct slice args);
static void cmd_help(struct smtp_session *s, struct slice args);
static void cmd_quit(struct smtp_session *s, struct slice args);
static void cmd_starttls(struct smtp_session *s, struct slice args);
static void cmd_off(struct smtp_session *s, struct slice args);
static void cmd_http(struct smtp_session *s, struct slice args);

enum command_flags {
    C_HELO = 1,  /* after HELO or EHLO */
    C_EHLO = 2,  /* after EHLO: an extension */
    C_IN_TX = 4, /* within a transaction */
    C_NOT_IN_TX = 8,
    C_BEFORE_TEXT = 16, /* not between the chunks of a message */
    C_NO_ARGS = 32,
    C_ARGS = 64,
    C_JUNK = 128,   /* does nothing for mail: many of them are errors */
    C_ALWAYS = 256, /* also on a node that is no primary */
};

static const struct command {
    const char *verb;
    unsigned flags;
    void (*run)(struct smtp_session *s, struct slice args);
} commands[] = {
    {"MAIL", C_HELO | C_NOT_IN_TX | C_ARGS, cmd_mail},
    {"RCPT", C_HELO | C_IN_TX | C_BEFORE_TEXT | C_ARGS, cmd_rcpt},
    {"DATA", C_HELO | C_IN_TX | C_BEFORE_TEXT | C_NO_ARGS, cmd_data},
    {"BDAT", C_ARGS, cmd_bdat}, /* its chunk has to be read over whatever is wrong */
    {"EHLO", C_ARGS | C_JUNK, cmd_ehlo},
    {"HELO", C_ARGS | C_JUNK, cmd_helo},
    {"RSET", C_NO_ARGS | C_JUNK, cmd_rset},
    {"NOOP", C_JUNK, cmd_noop},
    {"QUIT", C_NO_ARGS | C_ALWAYS, cmd_quit},
    {"STARTTLS", C_HELO | C_EHLO | C_NOT_IN_TX | C_NO_ARGS, cmd_starttls},
    {"AUTH", C_HELO | C_EHLO | C_NOT_IN_TX | C_ARGS, auth_begin},
    {"VRFY", C_ARGS | C_JUNK, cmd_vrfy},
    {"HELP", C_JUNK, cmd_help},
    {"EXPN", C_JUNK, cmd_off},
    {"ETRN", C_JUNK, cmd_off},
    {"TURN", C_JUNK, cmd_off},
    {"GET", C_ALWAYS, cmd_http},
    {"POST", C_ALWAYS, cmd_http},
    {"PUT", C_ALWAYS, cmd_http},
    {"HEAD", C_ALWAYS, cmd_http},
    {"OPTIONS", C_ALWAYS, cmd_http},
    {"CONNECT", C_ALWAYS, cmd_http},
};

size_t session_line_max(const struct smtp_session *s, struct slice line)
{
    return s->state == ST_AUTH || slice_istarts(line, SLICE_LIT("AUTH ")) ? AUTH_LINE_MAX_BYTES
                                                                          : LINE_MAX_BYTES;
}

/* Why a command can't be run now; NULL: it can. */
static const char *objection(const struct smtp_session *s, const struct command *c, bool args)
{
    if ((c->flags & C_HELO) && !s->helo)
        return "503 5.5.1 Send HELO or EHLO first";
    if ((c->flags & C_EHLO) && !s->esmtp)
        return "503 5.5.1 Send EHLO first";
    if ((c->flags & C_IN_TX) && !s->tx)
        return "503 5.5.1 Send MAIL first";
    if ((c->flags & C_NOT_IN_TX) && s->tx)
        return "503 5.5.1 Not within a transaction";
    if ((c->flags & C_BEFORE_TEXT) && s->tx && s->tx->text)
        return "503 5.5.1 The text is under way by BDAT";
    if ((c->flags & C_NO_ARGS) && args)
        return "501 5.5.4 This command takes no parameter";
    if ((c->flags & C_ARGS) && !args)
        return "501 5.5.4 This command needs a parameter";
    return NULL;
}

void session_command(struct smtp_session *s, struct slice line)
{
    while (line.n && (line.p[line.n - 1] == ' ' || line.p[line.n - 1] == '\t'))
        line.n--;
    const uint8_t *space = line.n ? memchr(line.p, ' ', line.n) : NULL;
    struct slice verb = slice_of(line.p, space ? (size_t)(space - line.p) : line.n);
    struct slice args = slice_of(line.p + verb.n, line.n - verb.n);
    while (args.n && args.p[0] == ' ')
        args.p++, args.n--;
    const struct command *c = NULL;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0] && !c; i++)
        if (slice_ieq(verb, slice_str(commands[i].verb)))
            c = &commands[i];
    if (s->policy->gate == SMTP_NOT_PRIMARY && !(c && (c->flags & C_ALWAYS))) {
        session_bye(s, false, "421 4.3.2 %s Service not available, try the other node",
                    s->policy->hostname);
        return;
    }
    if (!c) {
        session_error(s, "500 5.5.2 Command not recognized");
        return;
    }
    const char *reply = objection(s, c, args.n > 0);
    if (!reply && (c->flags & C_JUNK) && ++s->junk > JUNK_MAX)
        reply = "450 4.7.0 Too many commands without mail";
    if (!reply)
        c->run(s, args);
    else if (c->run == cmd_bdat)
        session_bye(s, true, "%s", reply);
    else
        session_error(s, reply);
}

/* False: not a name that anybody could mean. */
static bool take_helo(struct smtp_session *s, struct slice args)
{
    if (args.n > HELO_MAX_BYTES || memchr(args.p, ' ', args.n)) {
        session_error(s, "501 5.5.4 Syntax: EHLO hostname");
        return false;
    }
    free(s->helo);
    s->helo = slice_dup(args);
    for (char *c = s->helo; *c; c++)
        if (*c <= ' ' || *c >= 127)
            *c = '?';
    session_forget(s);
    return true;
}

static void cmd_helo(struct smtp_session *s, struct slice args)
{
    if (!take_helo(s, args))
        return;
    s->esmtp = false;
    session_reply(s, "250 %s", s->policy->hostname);
}

static void cmd_ehlo(struct smtp_session *s, struct slice args)
{
    if (!take_helo(s, args))
        return;
    s->esmtp = true;
    session_reply(s, "250-%s", s->policy->hostname);
    session_reply(s, "250-PIPELINING");
    session_reply(s, "250-SIZE %" PRIu64, s->policy->message_bytes);
    session_reply(s, "250-8BITMIME");
    session_reply(s, "250-SMTPUTF8");
    session_reply(s, "250-CHUNKING");
    session_reply(s, "250-DSN");
    session_reply(s, "250-LIMITS RCPTMAX=%u", s->policy->recipients);
    if (s->client.starttls && !s->tls)
        session_reply(s, "250-STARTTLS");
    if (s->client.auth && s->tls)
        session_reply(s, "250-AUTH PLAIN LOGIN");
    session_reply(s, "250 ENHANCEDSTATUSCODES");
}

/* Moves args behind "FROM:" or "TO:" and the spaces that many clients put there. */
static bool after_keyword(struct slice *args, struct slice keyword)
{
    if (!slice_istarts(*args, keyword))
        return false;
    args->p += keyword.n, args->n -= keyword.n;
    while (args->n && args->p[0] == ' ')
        args->p++, args->n--;
    return true;
}

/* May this client send at all, now? */
static const char *mail_objection(const struct smtp_session *s)
{
    if (s->client.auth_required && !s->user)
        return s->tls ? "530 5.7.0 Authentication required"
                      : "530 5.7.0 Issue STARTTLS and authenticate first";
    if (s->policy->gate == SMTP_ALONE)
        return "451 4.3.2 No new mail while the standby is away, try again later";
    if (s->policy->gate == SMTP_FULL)
        return "452 4.3.1 Insufficient system storage";
    return NULL;
}

static const char *mail_check(const struct smtp_session *s, const struct smtp_path *path,
                              const struct mail_params *p)
{
    if (path->utf8 && !p->utf8)
        return "553 5.6.7 This address needs SMTPUTF8";
    if (p->size > s->policy->message_bytes)
        return "552 5.3.4 Message size exceeds the limit";
    return NULL;
}

static void cmd_mail(struct smtp_session *s, struct slice args)
{
    struct smtp_path path;
    struct mail_params p;
    const char *reply = mail_objection(s);
    if (!reply && (!after_keyword(&args, SLICE_LIT("FROM:"))))
        reply = "501 5.5.4 Syntax: MAIL FROM:<address>";
    if (!reply && !smtp_path_parse(&args, true, &path))
        reply = "501 5.1.7 Bad sender address syntax";
    if (!reply)
        reply = mail_params_parse(args, &p);
    if (!reply)
        reply = mail_check(s, &path, &p);
    if (reply) {
        session_refuse(s, reply);
        return;
    }
    struct transaction *tx = s->tx = xcalloc(1, sizeof *tx);
    buf_init(&tx->arena, ENVELOPE_MAX_BYTES);
    tx->flags = (p.eightbit ? (unsigned)MSG_8BIT : 0) | (p.utf8 ? (unsigned)MSG_UTF8 : 0) |
                (p.ret_full ? (unsigned)MSG_RET_FULL : 0) |
                (p.ret_hdrs ? (unsigned)MSG_RET_HDRS : 0);
    buf_append_slice(&tx->arena, path.address);
    buf_append_slice(&tx->arena, p.envid);
    tx->sender_n = (uint32_t)path.address.n;
    tx->envid_n = (uint32_t)p.envid.n;
    session_reply(s, "250 2.1.0 Ok");
}

/* FNV-1a over the local part as given and the domain in lower case: what makes addresses equal. */
static uint32_t hash_bytes(struct slice a)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < a.n; i++)
        h = (h ^ a.p[i]) * 16777619u;
    return h;
}

static bool has_rcpt(const struct transaction *tx, const struct rcpt_note *r)
{
    const uint8_t *b = tx->arena.data;
    size_t local = (size_t)r->address_n - r->domain_n;
    for (unsigned i = 0; i < tx->n; i++) {
        const struct rcpt_note *x = &tx->rcpts[i];
        if (x->hash == r->hash && x->address_n == r->address_n && x->domain_n == r->domain_n &&
            memcmp(b + x->at, b + r->at, local) == 0 &&
            memcmp(b + x->at + x->address_n, b + r->at + r->address_n, r->domain_n) == 0)
            return true;
    }
    return false;
}

/* Adds the recipient, once; false: no room. */
static bool add_rcpt(struct smtp_session *s, const struct smtp_path *path,
                     const struct rcpt_params *p)
{
    struct transaction *tx = s->tx;
    struct slice host = slice_str(s->policy->hostname);
    struct slice domain = path->domain.n ? path->domain : host; /* <postmaster> is ours */
    struct rcpt_note r = {.at = (uint32_t)tx->arena.len, .notify = p->notify};
    bool ok =
        buf_append_slice(&tx->arena, path->address) &&
        (path->domain.n || (buf_append(&tx->arena, "@", 1) && buf_append_slice(&tx->arena, host)));
    r.address_n = (uint16_t)(tx->arena.len - r.at);
    ok = ok && buf_append_slice(&tx->arena, domain) && buf_append_slice(&tx->arena, p->orcpt);
    if (!ok) {
        tx->arena.len = r.at;
        return false;
    }
    r.domain_n = (uint16_t)domain.n;
    r.orcpt_n = (uint16_t)p->orcpt.n;
    uint8_t *at = tx->arena.data + r.at;
    for (size_t i = 0; i < domain.n; i++)
        if (at[r.address_n + i] >= 'A' && at[r.address_n + i] <= 'Z')
            at[r.address_n + i] |= 32;
    r.hash = hash_bytes(slice_of(at, (size_t)r.address_n - domain.n)) ^
             hash_bytes(slice_of(at + r.address_n, domain.n)) * 31;
    if (has_rcpt(tx, &r)) {
        tx->arena.len = r.at;
        return true;
    }
    if (tx->n == tx->cap) {
        tx->cap = tx->cap ? tx->cap * 2 : 4;
        tx->rcpts = xrealloc(tx->rcpts, tx->cap * sizeof tx->rcpts[0]);
    }
    tx->rcpts[tx->n++] = r;
    return true;
}

static void cmd_rcpt(struct smtp_session *s, struct slice args)
{
    struct smtp_path path;
    struct rcpt_params p;
    const char *reply = NULL;
    if (!after_keyword(&args, SLICE_LIT("TO:")))
        reply = "501 5.5.4 Syntax: RCPT TO:<address>";
    else if (!smtp_path_parse(&args, false, &path))
        reply = "501 5.1.3 Bad recipient address syntax";
    else
        reply = rcpt_params_parse(args, &p);
    if (!reply && path.utf8 && !(s->tx->flags & MSG_UTF8))
        reply = "553 5.6.7 This address needs SMTPUTF8";
    if (!reply && !session_may_relay(s))
        reply = "550 5.7.1 Relaying denied";
    if (reply) {
        session_refuse(s, reply);
        return;
    }
    if (s->tx->n >= s->policy->recipients || !add_rcpt(s, &path, &p)) {
        /* Bulk clients split their lists by this; only persistence is an error. */
        if (++s->tx->overshoot > OVERSHOOT_MAX)
            session_error(s, "452 4.5.3 Too many recipients");
        else
            session_reply(s, "452 4.5.3 Too many recipients");
        return;
    }
    session_reply(s, "250 2.1.5 Ok");
}

static void cmd_data(struct smtp_session *s, struct slice args)
{
    (void)args;
    if (!s->tx->n) {
        session_error(s, "554 5.5.1 No valid recipients");
        return;
    }
    session_reply(s, "354 End data with <CR><LF>.<CR><LF>");
    text_begin(s, false);
    session_set(s, ST_DATA);
}

/* "SIZE" or "SIZE LAST" */
static bool parse_bdat(struct slice args, uint64_t *n, bool *last)
{
    size_t i = 0;
    *n = 0;
    while (i < args.n && i < 19 && args.p[i] >= '0' && args.p[i] <= '9')
        *n = *n * 10 + (uint64_t)(args.p[i++] - '0');
    if (i == 0)
        return false;
    *last = i < args.n;
    return i == args.n || slice_ieq(slice_of(args.p + i, args.n - i), SLICE_LIT(" LAST"));
}

static void cmd_bdat(struct smtp_session *s, struct slice args)
{
    uint64_t n;
    bool last;
    if (!parse_bdat(args, &n, &last)) {
        /* Nobody can tell text from commands any more. */
        session_bye(s, true, "501 5.5.4 Syntax: BDAT size [LAST]");
        return;
    }
    const char *refusal = NULL;
    if (!s->tx)
        refusal = s->helo ? "503 5.5.1 Send MAIL first" : "503 5.5.1 Send HELO or EHLO first";
    else if (!s->tx->n)
        refusal = "554 5.5.1 No valid recipients";
    text_bdat(s, n, last, refusal);
}

static void cmd_rset(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_forget(s);
    session_reply(s, "250 2.0.0 Ok");
}

static void cmd_noop(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_reply(s, "250 2.0.0 Ok");
}

static void cmd_vrfy(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_reply(s, "252 2.0.0 Send some mail, I'll try my best");
}

static void cmd_help(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_reply(s,
                  "214 2.0.0 RFC 5321: EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT STARTTLS AUTH VRFY");
}

static void cmd_quit(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_bye(s, false, "221 2.0.0 Bye");
}

static void cmd_starttls(struct smtp_session *s, struct slice args)
{
    (void)args;
    if (s->tls || !s->client.starttls) {
        session_error(s, s->tls ? "503 5.5.1 TLS is on already" : "502 5.5.1 TLS isn't offered");
        return;
    }
    session_reply(s, "220 2.0.0 Ready to start TLS");
    /* RFC 3207 4.2: what was learned in the clear is forgotten. */
    free(s->helo);
    s->helo = NULL;
    s->esmtp = false;
    session_set(s, ST_TLS);
}

static void cmd_off(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_error(s, "502 5.5.1 Command not implemented");
}

/* A web client, or somebody who makes one speak SMTP: its next lines must not be taken for
 * commands.
 */
static void cmd_http(struct smtp_session *s, struct slice args)
{
    (void)args;
    session_bye(s, true, "521 5.5.1 %s This is a mail server", s->policy->hostname);
}
