/* See status.h: the page for people. status_page.html is the frame, embedded at build time; what
 * stands in {{braces}} there is filled in here, so the page reads without JavaScript as well. */
#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "node/control/status.h"
#include "node/control/status_forms.h"
#include "node/control/text.h"
#include "status_page_html.h"

static const char *tone(const struct node_status *s)
{
    struct status_alarm alarm[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, alarm);
    const char *t = s->pair.role == ROLE_STARTING || s->pair.role == ROLE_PROMOTING ? "warn" : "ok";
    for (unsigned i = 0; i < n; i++) {
        if (alarm[i].critical)
            return "bad";
        t = "warn";
    }
    return t;
}

static void put(struct buf *out, const char *s)
{
    text_html(out, s);
}

static void put_title(struct buf *out, const struct node_status *s)
{
    const char *mode = status_mode(s);
    struct status_alarm alarm[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, alarm);
    if (n)
        buf_printf(out, "(%u) ", n);
    buf_printf(out, "%c: %s%s%s – ", s->config->node, role_name(s->pair.role), mode ? ", " : "",
               mode ? mode : "");
    put(out, s->config->cluster);
}

static void put_icon(struct buf *out, const struct node_status *s)
{
    const char *t = tone(s);
    buf_append_str(out, t[0] == 'o' ? "0b7a4b" : t[0] == 'w' ? "b97a00" : "c8322a");
}

static void put_cluster(struct buf *out, const struct node_status *s)
{
    put(out, s->config->cluster);
}

static void put_node(struct buf *out, const struct node_status *s)
{
    buf_printf(out, "%c", s->config->node);
}

static void put_version(struct buf *out, const struct node_status *s)
{
    put(out, BATON_VERSION);
}

static void put_time(struct buf *out, const struct node_status *s)
{
    char when[32];
    text_rfc3339(when, s->wall_ms);
    buf_printf(out, "%.10s %.8s UTC", when, when + 11);
}

static void put_tone(struct buf *out, const struct node_status *s)
{
    buf_append_str(out, tone(s));
}

static void put_state(struct buf *out, const struct node_status *s)
{
    char up[32];
    char name[16];
    /* Elsewhere than in these two roles the mode is not this node's. */
    bool has_mode = s->pair.role == ROLE_PRIMARY || s->pair.role == ROLE_STANDBY;
    const char *mode = !has_mode          ? NULL
                       : status_single(s) ? "alone by configuration"
                                          : status_mode(s);
    snprintf(name, sizeof name, "%s", role_name(s->pair.role));
    if (name[0] >= 'a' && name[0] <= 'z')
        name[0] = (char)(name[0] - 32);
    buf_printf(out, "<h1>%s", name);
    if (mode)
        buf_printf(out, " <span class=\"mode\">%s</span>", mode);
    buf_append_str(out, "</h1><p>");
    put(out, s->pair.why[0] ? s->pair.why : "No word from the pair yet.");
    buf_printf(out, "</p><p>Epoch %" PRIu32 ", up %s, automatic takeover %s%s</p>", s->pair.epoch,
               text_duration(up, (int64_t)(s->uptime_s * 1000)),
               s->pair.auto_takeover ? "on" : "off",
               status_serving(s) ? s->refusing ? ", new mail is refused" : ", accepts mail" : "");
}

static void put_alarms(struct buf *out, const struct node_status *s)
{
    struct status_alarm alarm[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, alarm);
    if (!n)
        return;
    buf_append_str(out, "<ul>");
    for (unsigned i = 0; i < n; i++) {
        buf_printf(out, "<li class=\"%s\"><b>%s</b>", alarm[i].critical ? "bad" : "warn",
                   alarm[i].critical ? "Alarm" : "Warning");
        put(out, alarm[i].text);
        buf_append_str(out, "</li>");
    }
    buf_append_str(out, "</ul>");
}

static void term(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "<dt>%s</dt><dd>", name);
    put(out, value);
    buf_append_str(out, "</dd>");
}

static void badge(struct buf *out, const char *class, const char *text)
{
    buf_printf(out, "<span class=\"badge %s\">%s</span>", class, text);
}

static void node_card(struct buf *out, const struct node_status *s, const struct config_node *node)
{
    bool self = node->name == s->config->node, answers = self || s->pair.peer_reachable;
    const char *role = self      ? role_name(s->pair.role)
                       : answers ? role_name(s->pair.peer_role)
                                 : "no answer";
    bool sync = s->pair.record.version ? s->pair.record.in_sync[node->name == 'a' ? NODE_A : NODE_B]
                                       : self && s->pair.serving;
    char n[32];
    buf_printf(out,
               "<div class=\"card node\"><div class=\"top\"><span class=\"letter\">%c</span>"
               "<span class=\"role\">%s</span>%s</div>",
               node->name, role, self ? "<span class=\"this\">this node</span>" : "");
    badge(out, sync ? answers ? "ok" : "warn" : "bad", sync ? "in sync" : "not in sync");
    buf_append_str(out, "<dl>");
    snprintf(n, sizeof n, "%" PRIu64, self ? s->own_lsn : s->pair.peer_lsn);
    term(out, "newest change", n);
    if (self) {
        snprintf(n, sizeof n, "%" PRIu64, s->committed_lsn);
        term(out, "committed", n);
    } else {
        bool heard = s->pair.silent_ns != UINT64_MAX;
        term(out, answers ? "last heard" : "silent for",
             heard ? text_duration(n, (int64_t)(s->pair.silent_ns / 1000000)) : "since the start");
    }
    buf_append_str(out, "</dl></div>");
}

static void put_nodes(struct buf *out, const struct node_status *s)
{
    node_card(out, s, &s->config->nodes[0]);
    if (status_single(s))
        return;
    char d[32];
    bool linked = s->replica.attached && s->pair.peer_reachable;
    uint64_t lag = status_lag_changes(s);
    buf_printf(out, "<div class=\"link %s\">%s<span class=\"wire\" aria-hidden=\"true\"></span>",
               linked ? s->pair.mode == PAIR_PAIRED ? "ok" : "warn" : "bad",
               linked ? "replicating" : "not connected");
    buf_printf(out, "%" PRIu64 " change%s behind", lag, lag == 1 ? "" : "s");
    if (lag && s->replica.lag_ns)
        buf_printf(out, ", %s", text_duration(d, (int64_t)(s->replica.lag_ns / 1000000)));
    buf_append_str(out, "</div>");
    node_card(out, s, &s->config->nodes[1]);
    if (s->config->arbiter.type == ARBITER_NONE)
        return;
    bool arbiter = s->arbiter.reachable[WITNESS];
    buf_printf(out,
               "<div class=\"link %s\" aria-hidden=\"true\"><span class=\"wire\"></span></div>"
               "<div class=\"card node\"><div class=\"top\"><span class=\"role\">Arbiter</span>"
               "</div>",
               arbiter ? "ok" : "bad");
    badge(out, arbiter ? "ok" : "bad", arbiter ? "answers" : "no answer");
    buf_append_str(out, "<dl>");
    term(out, "type", status_arbiter_type(s));
    term(out, "votes", s->arbiter.voting[WITNESS] ? "yes" : "not yet");
    buf_append_str(out, "</dl></div>");
}

__attribute__((format(printf, 4, 5))) static void number(struct buf *out, const char *label,
                                                         const char *extra, const char *fmt, ...)
{
    char value[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    buf_printf(out,
               "<div class=\"card number\"><div class=\"value\">%s</div><div class=\"label\">%s"
               "</div><div class=\"extra\">%s</div></div>",
               value, label, extra);
}

static void put_numbers(struct buf *out, const struct node_status *s)
{
    char extra[96], d[32];
    snprintf(extra, sizeof extra, "%" PRIu64 " refused", s->smtp.refused_total);
    number(out, "accepted", extra, "%" PRIu64, s->smtp.accepted_total);
    snprintf(extra, sizeof extra, "%" PRIu64 " deferred, %" PRIu64 " failed",
             s->delivery.deferred_total, s->delivery.failed_total);
    number(out, "delivered", extra, "%" PRIu64, s->delivery.delivered_total);
    number(out, "delivered a second", "last 10 s", "%.1f", s->delivery.delivered_per_s);
    snprintf(extra, sizeof extra, "oldest %s",
             s->queue.messages ? text_duration(d, (int64_t)(s->queue.oldest_s * 1000)) : "–");
    number(out, "in the queue", extra, "%" PRIu64, s->queue.messages);
    snprintf(extra, sizeof extra, "%" PRIu64 " to next hops", s->delivery.connections);
    number(out, "SMTP sessions", extra, "%" PRIu64, s->smtp.sessions);
    snprintf(extra, sizeof extra, "p99 %.1f ms", (double)s->storage.commit_p99_us / 1e3);
    number(out, "median commit", extra, "%.1f ms", (double)s->storage.commit_p50_us / 1e3);
}

static void put_queue(struct buf *out, const struct node_status *s)
{
    const struct {
        const char *class, *name, *meaning;
        uint64_t n;
    } state[] = {
        {"queued", "queued", "waiting for their first attempt", s->queue.queued},
        {"deferred", "deferred", "tried, to be tried again", s->queue.deferred},
        {"held", "held", "by an operator", s->queue.held},
        {"quarantined", "quarantined", "unacknowledged before a takeover", s->queue.quarantined},
        {"in_doubt", "in doubt", "may have been delivered before a takeover", s->queue.in_doubt},
    };
    enum { STATES = sizeof state / sizeof *state };
    buf_append_str(out, "<h2>Queue by state</h2><div class=\"bar\" aria-hidden=\"true\">");
    for (unsigned i = 0; i < STATES; i++)
        if (state[i].n)
            buf_printf(out, "<span class=\"s-%s\" style=\"flex:%" PRIu64 "\"></span>",
                       state[i].class, state[i].n);
    buf_append_str(out, "</div><table><thead><tr><th scope=\"col\">State</th>"
                        "<th scope=\"col\">Meaning</th>"
                        "<th scope=\"col\" class=\"r\">Messages</th></tr></thead><tbody>");
    for (unsigned i = 0; i < STATES; i++)
        buf_printf(out,
                   "<tr><td class=\"nowrap\"><span class=\"dot s-%s\" aria-hidden=\"true\"></span>"
                   "%s</td><td>%s</td><td class=\"r\">%" PRIu64 "</td></tr>",
                   state[i].class, state[i].name, state[i].meaning, state[i].n);
    buf_append_str(out, "</tbody></table>");
}

static void put_checks(struct buf *out, const struct node_status *s)
{
    buf_append_str(out, "<h2>Checks</h2><div class=\"scroll\"><table><thead><tr>"
                        "<th scope=\"col\">Check</th><th scope=\"col\">Result</th>"
                        "<th scope=\"col\">Detail</th></tr></thead><tbody>");
    for (unsigned i = 0; i < s->n_checks && i < STATUS_CHECKS_MAX; i++) {
        buf_append_str(out, "<tr><td class=\"nowrap\">");
        put(out, s->checks[i].name);
        buf_append_str(out, "</td><td>");
        badge(out, s->checks[i].ok ? "ok" : "bad", s->checks[i].ok ? "ok" : "failed");
        buf_append_str(out, "</td><td>");
        put(out, s->checks[i].detail);
        buf_append_str(out, "</td></tr>");
    }
    buf_append_str(out, "</tbody></table></div>");
}

static void put_takeovers(struct buf *out, const struct node_status *s)
{
    const struct pair_view *p = &s->pair;
    buf_append_str(out, "<h2>Changes of primary</h2>");
    if (!p->n_takeovers) {
        buf_append_str(out, "<p class=\"none\">None since this node was started.</p>");
        return;
    }
    buf_append_str(out, "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">When (UTC)</th>"
                        "<th scope=\"col\">From</th><th scope=\"col\">To</th>"
                        "<th scope=\"col\" class=\"r\">Took</th>"
                        "<th scope=\"col\" class=\"r\">In doubt</th>"
                        "<th scope=\"col\">Reason</th></tr></thead><tbody>");
    for (unsigned i = 0; i < p->n_takeovers && i < PAIR_TAKEOVERS; i++) {
        const struct pair_takeover *t = &p->takeovers[i];
        char when[32], took[32];
        text_rfc3339(when, t->at_ms);
        text_duration(took, (int64_t)(t->duration_ns / 1000000));
        buf_printf(out,
                   "<tr><td class=\"nowrap\">%.10s %.8s</td><td>%c</td><td>%c</td>"
                   "<td class=\"r\">%s</td><td class=\"r\">%" PRIu64 "</td><td>",
                   when, when + 11, t->from ? t->from : '-', t->to ? t->to : '-', took,
                   t->in_doubt);
        put(out, t->reason);
        buf_append_str(out, "</td></tr>");
    }
    buf_append_str(out, "</tbody></table></div>");
}

/* For the page's script; without '<' nothing in it can end the element early. */
static void put_json(struct buf *out, const struct node_status *s)
{
    struct buf json;
    buf_init(&json, STATUS_PAGE_BYTES);
    bool ok = status_json(&json, s, false);
    for (size_t i = 0; ok && i < json.len; i++) {
        if (json.data[i] == '<')
            buf_append_str(out, "\\u003c");
        else
            buf_append(out, json.data + i, 1);
    }
    buf_free(&json);
}

static const struct {
    const char *key;
    void (*put)(struct buf *out, const struct node_status *s);
} places[] = {
    {"title", put_title},   {"icon", put_icon},           {"cluster", put_cluster},
    {"node", put_node},     {"version", put_version},     {"time", put_time},
    {"tone", put_tone},     {"state", put_state},         {"alarms", put_alarms},
    {"nodes", put_nodes},   {"numbers", put_numbers},     {"queue", put_queue},
    {"checks", put_checks}, {"takeovers", put_takeovers}, {"json", put_json},
};

static void put_place(struct buf *out, const struct node_status *s, struct slice key)
{
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (slice_eq(slice_str(places[i].key), key)) {
            places[i].put(out, s);
            return;
        }
    assert(!"a place in status_page.html that nobody fills");
}

bool status_page(struct buf *out, const struct node_status *s)
{
    struct buf page; /* a cap of its own: then only the last append has to be checked */
    buf_init(&page, STATUS_PAGE_BYTES);
    const char *p = (const char *)status_page_html, *end = p + sizeof status_page_html;
    while (p < end) {
        const char *open = memmem(p, (size_t)(end - p), "{{", 2);
        buf_append(&page, p, (size_t)((open ? open : end) - p));
        if (!open)
            break;
        const char *close = memmem(open, (size_t)(end - open), "}}", 2);
        assert(close);
        put_place(&page, s, slice_of(open + 2, (size_t)(close - open - 2)));
        p = close + 2;
    }
    bool ok = page.len < page.max && buf_append_slice(out, buf_slice(&page));
    buf_free(&page);
    return ok;
}
