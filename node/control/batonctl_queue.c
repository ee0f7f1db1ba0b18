/* See batonctl.h: `queue …`. */
#include <inttypes.h>
#include <stdlib.h>

#include "node/control/batonctl.h"
#include "node/control/text.h"

static const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static const char *seconds(char out[32], const json_t *o, const char *key)
{
    return text_duration(out, (int64_t)(json_number_value(json_object_get(o, key)) * 1000));
}

static void print_json(const json_t *j)
{
    char *text = json_dumps(j, JSON_INDENT(2));
    puts(text ? text : "");
    free(text);
}

/* "<>" is the null sender, of bounces. */
static const char *sender_of(const json_t *m)
{
    return *str(m, "sender") ? str(m, "sender") : "<>";
}

struct listing {
    json_t *all; /* with --json: everything, one array */
    uint64_t n;
};

/* One line a recipient; the widths are fixed, so that a long queue prints as it is read. */
static void list_message(void *ctx, json_t *m)
{
    struct listing *l = ctx;
    if (l->all) {
        json_array_append(l->all, m);
        return;
    }
    if (!l->n++)
        printf("%-16s  %8s  %8s  %-11s  %5s  %8s  %s\n", "ID", "AGE", "SIZE", "STATE", "TRIES",
               "NEXT IN", "SENDER -> RECIPIENT");
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(m, "recipients"), i, r)
    {
        char age[32], size[32], next[32] = "-";
        if (!json_is_null(json_object_get(r, "next")))
            seconds(next, r, "next_s");
        if (next[0] == '0')
            snprintf(next, sizeof next, "now");
        printf("%-16s  %8s  %8s  %-11s  %5lld  %8s  ", str(m, "id"), seconds(age, m, "age_s"),
               text_size(size, (uint64_t)json_integer_value(json_object_get(m, "size"))),
               str(r, "state"), (long long)json_integer_value(json_object_get(r, "attempts")),
               next);
        put_text(stdout, sender_of(m));
        fputs(" -> ", stdout);
        put_text(stdout, str(r, "address"));
        fputc('\n', stdout);
        if (*str(r, "reply")) {
            printf("%18s", "");
            const json_t *code = json_object_get(r, "code");
            if (json_is_integer(code))
                printf("%lld ", (long long)json_integer_value(code));
            if (*str(r, "enhanced"))
                printf("%s ", str(r, "enhanced"));
            put_text(stdout, str(r, "reply"));
            if (*str(r, "remote")) {
                fputs(" (", stdout);
                put_text(stdout, str(r, "remote"));
                fputc(')', stdout);
            }
            fputc('\n', stdout);
        }
    }
}

int verb_queue_list(const struct cli *c)
{
    struct listing l = {.all = c->json ? json_array() : NULL};
    json_t *done = NULL, *r = cli_request(c, "list");
    json_object_set_new(r, "limit", json_integer((json_int_t)c->limit));
    int code = cli_ask(c, r, false, list_message, &l, &done);
    const char *more = str(done, "text");
    if (code == EXIT_DONE && l.all)
        print_json(l.all);
    else if (code == EXIT_DONE && !l.n)
        puts("no messages");
    fflush(stdout); /* what is left out is said behind what is there */
    if (code == EXIT_DONE && *more)
        fprintf(stderr, "%s; --limit shows more, a selector fewer\n", more);
    json_decref(l.all);
    json_decref(done);
    return code;
}

static void fact(struct table *t, const char *name, const char *value)
{
    if (!*value)
        return;
    table_cell(t, "%s", name);
    table_cell(t, "%s", value);
}

static void print_message(const json_t *m)
{
    struct table *t = table_new(2, "ll");
    char d[32], received[80], size[32];
    snprintf(received, sizeof received, "%s, %s ago", str(m, "received"), seconds(d, m, "age_s"));
    fact(t, "id", str(m, "id"));
    fact(t, "sender", sender_of(m));
    fact(t, "received", received);
    fact(t, "from", str(m, "origin"));
    fact(t, "size", text_size(size, (uint64_t)json_integer_value(json_object_get(m, "size"))));
    fact(t, "campaign", str(m, "campaign"));
    fact(t, "envid", str(m, "envid"));
    fact(t, "bounce of", str(m, "parent"));
    fact(t, "done", str(m, "done"));
    table_print(t, stdout);
    fputc('\n', stdout);
    size_t i;
    json_t *r;
    json_array_foreach(json_object_get(m, "recipients"), i, r)
    {
        printf("%-11s  ", str(r, "state"));
        put_text(stdout, str(r, "address"));
        printf("\n%13s", "");
        put_text(stdout, str(r, "why"));
        fputc('\n', stdout);
    }
}

int verb_queue_show(const struct cli *c)
{
    struct cli with_id = *c;
    with_id.id = c->args[0];
    int code;
    json_t *m = cli_ask_one(c, cli_request(&with_id, "show"), &code);
    if (m && c->json)
        print_json(m);
    else if (m)
        print_message(m);
    json_decref(m);
    return code;
}

int verb_queue_body(const struct cli *c)
{
    struct cli with_id = *c;
    with_id.id = c->args[0];
    return cli_ask(c, cli_request(&with_id, "body"), false, NULL, NULL, NULL);
}

/* The node's age groups, youngest first, with their bounds written out. */
static json_t *age_order(json_t *all)
{
    static const char *const group[][2] = {{"5m", "under 5m"},     {"20m", "5m to 20m"},
                                           {"80m", "20m to 80m"},  {"320m", "80m to 5h 20m"},
                                           {"1280m", "5h to 21h"}, {"older", "over 21h"}};
    json_t *sorted = json_array(), *row;
    for (size_t g = 0; g < sizeof group / sizeof *group; g++) {
        size_t i;
        json_array_foreach(all, i, row)
        {
            if (strcmp(str(row, "age"), group[g][0]) != 0)
                continue;
            json_object_set_new(row, "age", json_string(group[g][1]));
            json_array_append(sorted, row);
        }
    }
    json_decref(all);
    return sorted;
}

int verb_queue_summary(const struct cli *c)
{
    json_t *r = cli_request(c, "summary");
    json_object_set_new(r, "by", json_string(c->by ? c->by : "domain"));
    int code;
    json_t *all = cli_ask_one(c, r, &code);
    if (all && c->json)
        print_json(all);
    else if (json_array_size(all) && c->by && strcmp(c->by, "age") == 0)
        table_print_json(all = age_order(all), stdout);
    else if (json_array_size(all))
        table_print_json(all, stdout);
    else if (all)
        puts("no messages");
    json_decref(all);
    return code;
}

static void keep_changed(void *ctx, json_t *data)
{
    json_object_update(ctx, data); /* {"changed": N} */
}

int verb_queue_select(const struct cli *c)
{
    json_t *done = NULL, *counted = json_object(), *r = cli_request(c, "select");
    json_object_set_new(r, "action", json_string(strchr(c->verb, ' ') + 1));
    int code = cli_ask(c, r, false, keep_changed, counted, &done);
    if (done)
        json_object_update(done, counted);
    json_decref(counted);
    if (code == EXIT_DONE && c->json)
        print_json(done);
    else if (code == EXIT_DONE)
        printf("%s\n", str(done, "text"));
    json_decref(done);
    return code;
}
