/* See batonctl.h: what operators pause, resume and suppress. */
#include <errno.h>
#include <stdlib.h>

#include "node/control/batonctl.h"
#include "node/control/control.h"

enum {
    BATCH_NAMES = 500,
    BATCH_BYTES = 40 << 10, /* with its quotes below what the node takes as one request */
    LINE_MAX_BYTES = 4096,
};

static int order(const struct cli *c, const char *kind, bool on, json_t *names, bool quiet)
{
    json_t *r = cli_request(c, "order"), *done = NULL;
    json_object_set_new(r, "kind", json_string(kind));
    json_object_set_new(r, "on", json_boolean(on));
    json_object_set_new(r, "names", names);
    int code = cli_ask(c, r, false, NULL, NULL, &done);
    if (quiet) {
        json_decref(done);
        return code;
    }
    return cli_say(c, code, done);
}

/* The verb is "KIND ACTION". */
int verb_order(const struct cli *c)
{
    char kind[32];
    const char *space = strchr(c->verb, ' ');
    snprintf(kind, sizeof kind, "%.*s", (int)(space - c->verb), c->verb);
    bool on = strcmp(space, " pause") == 0 || strcmp(space, " add") == 0;
    json_t *names = json_pack("[s]", c->args[0]);
    if (!names) {
        fprintf(stderr, "batonctl %s: that isn't UTF-8\n", c->verb);
        return EXIT_USAGE;
    }
    return order(c, kind, on, names, false);
}

static void list(void *ctx, json_t *data)
{
    const struct cli *c = ctx;
    if (c->json) {
        char *all = json_dumps(data, JSON_INDENT(2));
        puts(all ? all : "");
        free(all);
    } else if (json_array_size(data)) {
        table_print_json(data, stdout);
    } else {
        printf("no %ss: nothing is queued, nothing is paused\n",
               strncmp(c->verb, "campaign", 8) == 0 ? "campaign" : "destination");
    }
}

int verb_destination_list(const struct cli *c)
{
    return cli_ask(c, cli_request(c, "destinations"), false, list, (void *)(uintptr_t)c, NULL);
}

int verb_campaign_list(const struct cli *c)
{
    return cli_ask(c, cli_request(c, "campaigns"), false, list, (void *)(uintptr_t)c, NULL);
}

static void suppressed(void *ctx, json_t *data)
{
    const struct cli *c = ctx;
    const char *address = json_string_value(json_object_get(data, "address"));
    if (c->json) {
        char *all = json_dumps(data, JSON_COMPACT);
        puts(all ? all : "");
        free(all);
    } else if (address) {
        put_text(stdout, address);
        fputc('\n', stdout);
    }
}

int verb_suppress_list(const struct cli *c)
{
    return cli_ask(c, cli_request(c, "suppressed"), false, suppressed, (void *)(uintptr_t)c, NULL);
}

/* The address on a line, in place; NULL: none there. */
static char *address_of(char *line)
{
    char *s = line + strspn(line, " \t");
    s[strcspn(s, " \t\r\n#,;")] = 0;
    return *s ? s : NULL;
}

/* All lines are looked at before anything is sent. False: a mistake was printed. */
static bool check_file(const struct cli *c, FILE *f)
{
    char line[LINE_MAX_BYTES];
    bool ok = true;
    for (unsigned n = 1; fgets(line, sizeof line, f); n++) {
        char *a = address_of(line);
        json_t *text = a ? json_string(a) : NULL;
        if (a && (!text || !strchr(a, '@') || strlen(a) > OPSTATE_NAME_MAX)) {
            fprintf(stderr, "batonctl suppress import: %s:%u: no address\n", c->args[0], n);
            ok = false;
        }
        json_decref(text);
    }
    rewind(f);
    return ok;
}

int verb_suppress_import(const struct cli *c)
{
    char line[LINE_MAX_BYTES];
    FILE *f = fopen(c->args[0], "re");
    if (!f) {
        fprintf(stderr, "batonctl suppress import: %s: %s\n", c->args[0], strerror(errno));
        return EXIT_REFUSED;
    }
    int code = check_file(c, f) ? EXIT_DONE : EXIT_REFUSED;
    unsigned long total = 0;
    size_t bytes = 0;
    json_t *names = json_array();
    while (code == EXIT_DONE) {
        bool more = fgets(line, sizeof line, f) != NULL;
        char *a = more ? address_of(line) : NULL;
        if (a) {
            json_array_append_new(names, json_string(a));
            bytes += 2 * strlen(a) + 4; /* quoted */
        }
        size_t n = json_array_size(names);
        if (n && (!more || n == BATCH_NAMES || bytes > BATCH_BYTES)) {
            code = order(c, "suppress", true, names, true);
            total += code == EXIT_DONE ? n : 0;
            names = json_array();
            bytes = 0;
        }
        if (!more)
            break;
    }
    json_decref(names);
    fclose(f);
    if (code == EXIT_DONE)
        printf("%lu address%s suppressed: never sent to\n", total, total == 1 ? "" : "es");
    else if (total)
        fprintf(stderr, "batonctl suppress import: %lu were taken before that\n", total);
    return code;
}
