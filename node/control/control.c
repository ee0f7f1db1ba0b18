/* See control.h: requests. What rows look like is in control_rows.c. */
#include "node/control/control.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/control/text.h"

static const struct {
    const char *name;
    enum control_verb verb;
} verbs[] = {
    {"status", CONTROL_STATUS},
    {"switchover", CONTROL_SWITCHOVER},
    {"failover", CONTROL_FAILOVER},
    {"bootstrap", CONTROL_BOOTSTRAP},
    {"start", CONTROL_START_ALONE},
    {"takeover", CONTROL_TAKEOVER},
    {"list", CONTROL_LIST},
    {"show", CONTROL_SHOW},
    {"body", CONTROL_BODY},
    {"summary", CONTROL_SUMMARY},
    {"select", CONTROL_SELECT},
    {"destinations", CONTROL_DESTINATIONS},
    {"events", CONTROL_EVENTS},
    {"reload", CONTROL_RELOAD},
    {"rejoin", CONTROL_REJOIN},
    {"order", CONTROL_ORDER},
    {"verify", CONTROL_VERIFY},
    {"campaigns", CONTROL_CAMPAIGNS},
    {"suppressed", CONTROL_SUPPRESSED},
};
static const char *const actions[] = {"hold", "release", "retry", "cancel"};
static const char *const states[] = {"queued", "deferred", "held", "quarantined", "in-doubt"};
static const char *const bys[] = {"domain", "sender", "campaign", "state", "age"};

static const char *const kinds[] = {[OPSTATE_DESTINATION] = "destination",
                                    [OPSTATE_CAMPAIGN] = "campaign",
                                    [OPSTATE_SUPPRESS] = "suppress"};

static int find(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}
#define FIND(names, name) find(names, sizeof names / sizeof *names, name)

static const char *string(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && *s ? s : NULL;
}

/* Numbers below 0 count as 0. */
static uint64_t number(const json_t *o, const char *key, uint64_t otherwise)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v))
        return otherwise;
    json_int_t i = json_integer_value(v);
    return i < 0 ? 0 : (uint64_t)i;
}

static char *lower_dup(const char *s)
{
    char *copy = s ? xstrdup(s) : NULL;
    for (char *c = copy; c && *c; c++)
        if (*c >= 'A' && *c <= 'Z')
            *c = (char)(*c + 32);
    return copy;
}

static bool parse_selector(const json_t *o, struct selector *s, char *err, size_t n)
{
    const char *id = string(o, "id"), *state = string(o, "state");
    if (id && !text_parse_id(id, &s->id)) {
        snprintf(err, n, "\"%.40s\" is not a message id (16 hex digits, as in `Ok: queued as`)",
                 id);
        return false;
    }
    if (state && FIND(states, state) < 0) {
        snprintf(err, n, "unknown state \"%.40s\": queued, deferred, held, quarantined, in-doubt",
                 state);
        return false;
    }
    snprintf(s->state, sizeof s->state, "%s", state ? state : "");
    s->all = json_is_true(json_object_get(o, "all"));
    s->older_than_ms = number(o, "older_than_ms", 0);
    s->domain = lower_dup(string(o, "domain"));
    s->sender = string(o, "sender") ? xstrdup(string(o, "sender")) : NULL;
    s->campaign = string(o, "campaign") ? xstrdup(string(o, "campaign")) : NULL;
    return true;
}

static bool selects_nothing(const struct selector *s)
{
    return !s->all && !s->id && !s->domain && !s->sender && !s->campaign && !s->state[0] &&
           !s->older_than_ms;
}

static bool parse_order(const json_t *o, struct control_request *r, char *err, size_t n)
{
    int kind = FIND(kinds, string(o, "kind"));
    const json_t *names = json_object_get(o, "names"), *name;
    size_t count = json_array_size(names), i;
    if (kind < 0 || !count || count > CONTROL_NAMES_MAX) {
        snprintf(err, n, "an order needs its kind and 1 to %d names", CONTROL_NAMES_MAX);
        return false;
    }
    r->kind = (enum opstate_kind)kind;
    r->names = xcalloc(count, sizeof *r->names);
    json_array_foreach(names, i, name)
    {
        const char *text = json_string_value(name);
        if (!text || !*text || strlen(text) > OPSTATE_NAME_MAX ||
            (kind == OPSTATE_SUPPRESS && !strchr(text, '@'))) {
            snprintf(err, n, "\"%.80s\" is no %s", text ? text : "",
                     kind == OPSTATE_SUPPRESS ? "address" : "name");
            return false;
        }
        r->names[r->n_names++] = xstrdup(text);
    }
    return true;
}

static bool parse_fields(const json_t *o, struct control_request *r, char *err, size_t n)
{
    r->force = json_is_true(json_object_get(o, "force"));
    r->on = json_is_true(json_object_get(o, "on"));
    r->discard = json_is_true(json_object_get(o, "discard"));
    r->count = json_is_true(json_object_get(o, "count"));
    r->for_ms = number(o, "for_ms", 0);
    r->limit = number(o, "limit", CONTROL_LIMIT);
    r->timeout_ms = number(o, "timeout_ms", CONTROL_TIMEOUT_MS);
    if (r->timeout_ms == 0 || r->timeout_ms > CONTROL_TIMEOUT_MAX_MS)
        r->timeout_ms = CONTROL_TIMEOUT_MAX_MS;
    if (r->limit == 0 || r->limit > CONTROL_LIMIT_MAX)
        r->limit = CONTROL_LIMIT_MAX;
    if (!parse_selector(o, &r->selector, err, n))
        return false;
    r->id = r->selector.id;
    if ((r->verb == CONTROL_SHOW || r->verb == CONTROL_BODY) && !r->id) {
        snprintf(err, n, "a message id is needed");
        return false;
    }
    if (r->verb == CONTROL_SUMMARY) {
        const char *by = string(o, "by");
        if (by && FIND(bys, by) < 0) {
            snprintf(err, n, "unknown summary \"%.40s\": domain, sender, campaign, state, age", by);
            return false;
        }
        snprintf(r->by, sizeof r->by, "%s", by ? by : "domain");
    }
    if (r->verb == CONTROL_ORDER && !parse_order(o, r, err, n))
        return false;
    if (r->verb == CONTROL_SELECT) {
        int action = FIND(actions, string(o, "action"));
        if (action < 0 || selects_nothing(&r->selector)) {
            snprintf(err, n, action < 0 ? "unknown action" : "a selector is needed, --all for all");
            return false;
        }
        r->action = (enum select_action)action;
    }
    return true;
}

bool control_parse(struct slice line, struct control_request *out, char *err, size_t n)
{
    json_error_t error;
    json_t *o = json_loadb((const char *)line.p, line.n, JSON_REJECT_DUPLICATES, &error);
    const char *name = string(o, "verb");
    struct control_request r = {0};
    bool ok = false;
    if (!json_is_object(o) || !name) {
        snprintf(err, n, "not a request");
        goto out;
    }
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs && !ok; i++) {
        ok = strcmp(verbs[i].name, name) == 0;
        r.verb = verbs[i].verb;
    }
    if (!ok)
        snprintf(err, n, "this node does not know \"%.40s\": batonctl is newer than batond", name);
    ok = ok && parse_fields(o, &r, err, n);
    if (ok)
        *out = r;
    else
        control_request_free(&r);
out:
    json_decref(o);
    return ok;
}

void control_request_free(struct control_request *r)
{
    free(r->selector.domain);
    free(r->selector.sender);
    free(r->selector.campaign);
    for (unsigned i = 0; i < r->n_names; i++)
        free(r->names[i]);
    free(r->names);
    *r = (struct control_request){0};
}

struct selector control_selector_copy(const struct selector *s)
{
    struct selector c = *s;
    c.domain = s->domain ? xstrdup(s->domain) : NULL;
    c.sender = s->sender ? xstrdup(s->sender) : NULL;
    c.campaign = s->campaign ? xstrdup(s->campaign) : NULL;
    return c;
}

json_t *control_done(bool ok, const char *kind, const char *text)
{
    assert(ok == (kind == NULL));
    struct buf clean;
    buf_init(&clean, 64 << 10);
    text_utf8(&clean, slice_str(text));
    json_t *o = json_pack("{s:b, s:b, s:s?, s:s%}", "done", 1, "ok", ok, "kind", kind, "text",
                          clean.len ? (const char *)clean.data : "", clean.len);
    buf_free(&clean);
    assert(o);
    return o;
}
