/* See batonctl.h: `status`, from the same JSON that GET /status gives. */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/control/batonctl.h"
#include "node/control/text.h"

static const json_t *at(const json_t *o, const char *path)
{
    char key[64];
    while (o && *path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return o;
}

static const char *str(const json_t *o, const char *path, const char *otherwise)
{
    const char *s = json_string_value(at(o, path));
    return s ? s : otherwise;
}

static long long num(const json_t *o, const char *path)
{
    return (long long)json_integer_value(at(o, path));
}

static double real(const json_t *o, const char *path)
{
    return json_number_value(at(o, path));
}

static bool yes(const json_t *o, const char *path)
{
    return json_is_true(at(o, path));
}

static bool in_sync(const json_t *s, const char *node)
{
    size_t i;
    json_t *one;
    json_array_foreach(at(s, "in_sync"), i, one)
    {
        if (strcmp(json_string_value(one), node) == 0)
            return true;
    }
    return false;
}

static void print_head(const json_t *s, FILE *f)
{
    char up[32];
    const char *mode = str(s, "mode", NULL);
    fprintf(f, "%s, node %s: %s%s%s, epoch %lld, up %s\n", str(s, "cluster", "?"),
            str(s, "node", "?"), str(s, "role", "?"), mode ? ", " : "", mode ? mode : "",
            num(s, "epoch"), text_duration(up, (int64_t)(real(s, "uptime_s") * 1000)));
    put_text(f, str(s, "why", ""));
    fputs("\n\n", f);
}

static void print_alarms(const json_t *s, FILE *f)
{
    size_t i;
    json_t *a;
    bool colour = cli_colour(f);
    json_array_foreach(at(s, "alarms"), i, a)
    {
        bool critical = yes(a, "critical");
        fprintf(f, "%s%s%s  ", colour ? critical ? "\033[1;31m" : "\033[1;33m" : "",
                critical ? "ALARM  " : "WARNING", colour ? "\033[0m" : "");
        put_text(f, str(a, "text", ""));
        fputc('\n', f);
    }
    if (i)
        fputc('\n', f);
}

static void node_row(struct table *t, const json_t *s, const char *node, const char *role,
                     bool answers, long long lsn)
{
    bool primary = strcmp(str(s, "primary", ""), node) == 0,
         self = !strcmp(str(s, "node", ""), node);
    char lag[64] = "-", d[32];
    if (!primary && answers)
        snprintf(lag, sizeof lag, "%lld change%s, %s", num(s, "peer.lag_changes"),
                 num(s, "peer.lag_changes") == 1 ? "" : "s",
                 text_duration(d, (int64_t)(real(s, "peer.lag_s") * 1000)));
    table_cell(t, "%s%s", node, self ? " (this)" : "");
    table_cell(t, "%s", role);
    table_cell(t, "%s", answers ? in_sync(s, node) ? "in sync" : "not in sync" : "no answer");
    table_cell(t, "%lld", lsn);
    table_cell(t, "%s", lag);
}

static void print_nodes(const json_t *s, FILE *f)
{
    struct table *t = table_new(5, "lllrl");
    static const char *const head[] = {"NODE", "ROLE", "STORE", "LSN", "BEHIND"};
    for (unsigned i = 0; i < 5; i++)
        table_cell(t, "%s", head[i]);
    const char *self = str(s, "node", "?"), *peer = str(s, "peer.node", NULL);
    bool self_first = !peer || strcmp(self, peer) < 0;
    for (unsigned i = 0; i < 2; i++) {
        if ((i == 0) == self_first)
            node_row(t, s, self, str(s, "role", "?"), true, num(s, "lsn"));
        else if (peer)
            node_row(t, s, peer, str(s, "peer.role", "-"), yes(s, "peer.reachable"),
                     num(s, "peer.lsn"));
    }
    table_print(t, f);
    fputc('\n', f);
}

/* "  (12.3/s)" between two looks; nothing at the first. */
static const char *rate(char out[32], const json_t *s, const json_t *before, const char *path)
{
    double seconds = real(s, "uptime_s") - real(before, "uptime_s");
    *out = 0;
    if (before && seconds > 0.1)
        snprintf(out, 32, " (%.1f/s)", (double)(num(s, path) - num(before, path)) / seconds);
    return out;
}

static void print_facts(const json_t *s, const json_t *before, FILE *f)
{
    struct table *t = table_new(2, "ll");
    char d[32], r[32];
    table_cell(t, "arbiter");
    const char *detail = str(s, "arbiter.detail", NULL);
    if (strcmp(str(s, "arbiter.type", ""), "none") == 0)
        table_cell(t, "none%s%s", detail ? ", " : "", detail ? detail : "");
    else
        table_cell(t, "%s%s", str(s, "arbiter.type", "?"),
                   yes(s, "arbiter.reachable") ? ", answers" : ", does not answer");
    table_cell(t, "takeover");
    const char *until = str(s, "auto_takeover_until", NULL);
    table_cell(t, "%s%s%s",
               yes(s, "auto_takeover") ? "automatic"
               : strcmp(str(s, "arbiter.takeover", ""), "manual") == 0
                   ? "by an operator"
                   : "automatic takeover is off",
               until ? ", on again at " : "", until ? until : "");
    table_cell(t, "queue");
    table_cell(t,
               "%lld message%s: %lld queued, %lld deferred, %lld held, %lld quarantined, %lld in "
               "doubt; oldest %s",
               num(s, "queue.messages"), num(s, "queue.messages") == 1 ? "" : "s",
               num(s, "queue.queued"), num(s, "queue.deferred"), num(s, "queue.held"),
               num(s, "queue.quarantined"), num(s, "queue.in_doubt"),
               num(s, "queue.messages")
                   ? text_duration(d, (int64_t)(real(s, "queue.oldest_s") * 1000))
                   : "-");
    table_cell(t, "smtp");
    table_cell(t, "%lld session%s, %lld accepted%s, %lld refused%s%s", num(s, "smtp.sessions"),
               num(s, "smtp.sessions") == 1 ? "" : "s", num(s, "smtp.accepted_total"),
               rate(r, s, before, "smtp.accepted_total"), num(s, "smtp.refused_total"),
               at(s, "refusing") && !json_is_null(at(s, "refusing")) ? "; refuses new mail: " : "",
               str(s, "refusing", ""));
    table_cell(t, "delivery");
    table_cell(t, "%lld connection%s, %lld delivered (%.1f/s), %lld deferred, %lld failed",
               num(s, "delivery.connections"), num(s, "delivery.connections") == 1 ? "" : "s",
               num(s, "delivery.delivered_total"), real(s, "delivery.delivered_per_s"),
               num(s, "delivery.deferred_total"), num(s, "delivery.failed_total"));
    table_cell(t, "storage");
    table_cell(t, "commit %.1f ms, p99 %.1f ms; %s in memory", real(s, "storage.commit_p50_ms"),
               real(s, "storage.commit_p99_ms"), text_size(d, (uint64_t)num(s, "memory_bytes")));
    const char *progress = str(s, "replication.progress", NULL);
    if (progress) {
        table_cell(t, "replication");
        table_cell(t, "%s", progress);
    }
    table_print(t, f);
}

static void print_checks(const json_t *s, FILE *f)
{
    size_t i;
    json_t *c;
    struct table *t = table_new(3, "lll");
    json_array_foreach(at(s, "checks"), i, c)
    {
        table_cell(t, "%s", i ? "" : "checks");
        table_cell(t, "%s %s", yes(c, "ok") ? "ok  " : "FAIL", str(c, "name", "?"));
        table_cell(t, "%s", str(c, "detail", ""));
    }
    if (i)
        fputc('\n', f);
    table_print(t, f);
}

static void print_takeovers(const json_t *s, FILE *f)
{
    enum { SHOWN = 5 };
    size_t n = json_array_size(at(s, "takeovers"));
    if (!n)
        return;
    fputs("\nlast changes of primary\n", f);
    struct table *t = table_new(6, "lllrrl");
    static const char *const head[] = {"AT", "FROM", "TO", "TOOK", "IN DOUBT", "REASON"};
    for (unsigned i = 0; i < 6; i++)
        table_cell(t, "%s", head[i]);
    for (size_t i = 0; i < n && i < SHOWN; i++) {
        const json_t *o = json_array_get(at(s, "takeovers"), i);
        char d[32];
        table_cell(t, "%s", str(o, "at", "-"));
        table_cell(t, "%s", str(o, "from", "-"));
        table_cell(t, "%s", str(o, "to", "-"));
        table_cell(t, "%s", text_duration(d, num(o, "duration_ms")));
        table_cell(t, "%lld", num(o, "in_doubt"));
        table_cell(t, "%s", str(o, "reason", ""));
    }
    table_print(t, f);
}

void print_status(const json_t *s, const json_t *before, FILE *f)
{
    print_head(s, f);
    print_alarms(s, f);
    print_nodes(s, f);
    print_facts(s, before, f);
    print_checks(s, f);
    print_takeovers(s, f);
}

static void print_json(const json_t *j, bool indent)
{
    char *text = json_dumps(j, indent ? JSON_INDENT(2) : JSON_COMPACT);
    puts(text ? text : "");
    free(text);
}

int verb_status(const struct cli *c)
{
    json_t *before = NULL;
    int code;
    do {
        json_t *s = cli_ask_one(c, cli_request(c, "status"), &code);
        if (c->watch && cli_colour(stdout))
            fputs("\033[H\033[2J", stdout);
        if (s && c->json)
            print_json(s, !c->watch);
        else if (s)
            print_status(s, before, stdout);
        json_decref(before);
        before = s;
        if (c->watch && !c->json && s)
            fputc('\n', stdout);
        fflush(stdout);
        /* A node that restarts is what one watches for: go on. */
        if (c->watch)
            cli_sleep_ms(1000);
    } while (c->watch && !ferror(stdout));
    json_decref(before);
    return code;
}
