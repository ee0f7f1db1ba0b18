/* See batonctl.h: the verbs other than `status` and `queue`. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/control/batonctl.h"
#include "node/control/text.h"
#include "node/smtp/users_crypt.h"

int cli_say(const struct cli *c, int code, json_t *done)
{
    if (code == EXIT_DONE && c->json) {
        char *all = json_dumps(done, JSON_INDENT(2));
        puts(all ? all : "");
        free(all);
    } else if (code == EXIT_DONE) {
        put_text(stdout, json_string_value(json_object_get(done, "text")));
        fputc('\n', stdout);
    }
    json_decref(done);
    return code;
}

static int ask_and_say(const struct cli *c, json_t *request)
{
    json_t *done = NULL;
    int code = cli_ask(c, request, false, NULL, NULL, &done);
    return cli_say(c, code, done);
}

int verb_pair(const struct cli *c)
{
    return ask_and_say(c, cli_request(c, c->verb));
}

/* The option is asked for: nobody should serve alone by a word typed in passing. */
int verb_start(const struct cli *c)
{
    if (!c->alone) {
        fprintf(stderr, "usage: batonctl start --alone\n");
        return EXIT_USAGE;
    }
    return verb_pair(c);
}

int verb_takeover(const struct cli *c)
{
    bool on = c->n_args == 1 && strcmp(c->args[0], "on") == 0;
    if (c->n_args != 1 || (!on && strcmp(c->args[0], "off") != 0) || (on && c->for_ms)) {
        fprintf(stderr, "usage: batonctl takeover on | off [--for 2h]\n");
        return EXIT_USAGE;
    }
    json_t *r = cli_request(c, "takeover");
    json_object_set_new(r, "on", json_boolean(on));
    json_object_set_new(r, "for_ms", json_integer((json_int_t)c->for_ms));
    return ask_and_say(c, r);
}

static bool answered_yes(const struct cli *c)
{
    char answer[16] = "";
    if (c->yes)
        return true;
    fprintf(stderr, "Type \"yes\" to go on: ");
    fflush(stderr);
    if (fgets(answer, sizeof answer, stdin) && strncmp(answer, "yes\n", 4) == 0)
        return true;
    fprintf(stderr, "\nbatonctl %s: not confirmed, nothing was done\n", c->verb);
    return false;
}

/* Says what a forced takeover may cost, from what this node knows; true: go on. */
static bool confirmed(const struct cli *c)
{
    int code;
    json_t *s = cli_ask_one(c, cli_request(c, "status"), &code);
    if (!s)
        return false;
    json_t *peer = json_object_get(s, "peer");
    const char *node = json_string_value(json_object_get(peer, "node"));
    fprintf(stderr,
            "A forced takeover makes this node primary although it may not hold all acknowledged "
            "mail,\nor although the other node may still be serving:\n");
    if (json_is_true(json_object_get(peer, "reachable")))
        fprintf(stderr, "  - node %s ANSWERS: both would deliver, and mail would go out twice\n",
                node ? node : "?");
    else
        fprintf(stderr,
                "  - if node %s is alive but cut off, it goes on delivering: mail goes out twice\n",
                node ? node : "?");
    fprintf(stderr,
            "  - what only the other node holds (this one is %lld changes behind, as far as it "
            "knows)\n    stays there until it comes back; then it is merged. If its disk is lost, "
            "that mail is lost\n",
            (long long)json_integer_value(json_object_get(peer, "lag_changes")));
    json_decref(s);
    if (!c->yes)
        fprintf(stderr, "Make sure that the other node is off. ");
    return answered_yes(c);
}

int verb_rejoin(const struct cli *c)
{
    if (c->merge == c->discard) {
        fprintf(stderr, "usage: batonctl rejoin --merge | --discard [--yes]\n");
        return EXIT_USAGE;
    }
    if (c->discard) {
        int code;
        json_t *r = cli_request(c, "rejoin");
        json_object_set_new(r, "count", json_true());
        json_t *told = cli_ask_one(c, r, &code);
        if (!told)
            return code;
        fprintf(stderr,
                "%lld unfinished message%s that the primary doesn't have will be given up.\n",
                (long long)json_integer_value(json_object_get(told, "messages")),
                json_integer_value(json_object_get(told, "messages")) == 1 ? "" : "s");
        json_decref(told);
        if (!answered_yes(c))
            return EXIT_REFUSED;
    }
    json_t *r = cli_request(c, "rejoin");
    json_object_set_new(r, "discard", json_boolean(c->discard));
    return ask_and_say(c, r);
}

int verb_failover(const struct cli *c)
{
    if (c->force) {
        int code;
        json_t *s = cli_ask_one(c, cli_request(c, "status"), &code);
        json_decref(s);
        if (code != EXIT_DONE)
            return code;
        if (!confirmed(c))
            return EXIT_REFUSED;
    }
    json_t *r = cli_request(c, "failover");
    json_object_set_new(r, "force", json_boolean(c->force));
    return ask_and_say(c, r);
}

static uint64_t field(const json_t *o, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(o, key));
}

static void print_verify(const json_t *v, FILE *f)
{
    fprintf(f, "%llu compared, %llu differing, %llu repaired, %llu unrepairable\n",
            (unsigned long long)field(v, "compared"), (unsigned long long)field(v, "differing"),
            (unsigned long long)field(v, "repaired"), (unsigned long long)field(v, "unrepairable"));
    fflush(f);
}

/* The comparison as status tells of it, owned; NULL: *code. */
static json_t *ask_verify(const struct cli *c, int *code)
{
    json_t *s = cli_ask_one(c, cli_request(c, "status"), code);
    json_t *v = json_incref(json_object_get(s, "verify"));
    json_decref(s);
    return v;
}

/* It has begun; the node goes on with it whether we look or not. */
static int watch_verify(const struct cli *c, uint64_t before)
{
    enum { LOOK_MS = 250, PRINT_LOOKS = 8, BEGIN_LOOKS = 80 };
    bool seen = false;
    for (unsigned looks = 1;; looks++) {
        int code;
        json_t *v = ask_verify(c, &code);
        if (!v)
            return code ? code : EXIT_REFUSED;
        bool running = json_is_true(json_object_get(v, "running"));
        const char *why = json_string_value(json_object_get(v, "why"));
        seen = seen || running;
        if (!running && (seen || field(v, "run") != before)) {
            bool good = !field(v, "unrepairable") && !(why && *why);
            if (c->json) {
                char *all = json_dumps(v, JSON_INDENT(2));
                puts(all ? all : "");
                free(all);
            } else {
                print_verify(v, stdout);
            }
            if (why && *why)
                fprintf(stderr, "batonctl verify: failed: it ended early: %s\n", why);
            else if (!good)
                fprintf(stderr, "batonctl verify: failed: some messages could not be repaired; the "
                                "log names them\n");
            json_decref(v);
            return good ? EXIT_DONE : EXIT_REFUSED;
        }
        if (!running && looks == BEGIN_LOOKS) {
            fprintf(stderr, "batonctl verify: failed: the primary didn't begin\n");
            json_decref(v);
            return EXIT_REFUSED;
        }
        if (running && !c->json && looks % PRINT_LOOKS == 0)
            print_verify(v, stdout);
        json_decref(v);
        cli_sleep_ms(LOOK_MS);
    }
}

int verb_verify(const struct cli *c)
{
    int code;
    json_t *v = ask_verify(c, &code);
    if (!v)
        return code ? code : EXIT_REFUSED;
    uint64_t before = field(v, "run");
    json_decref(v);
    code = cli_ask(c, cli_request(c, "verify"), false, NULL, NULL, NULL);
    return code == EXIT_DONE ? watch_verify(c, before) : code;
}

static void event(void *ctx, json_t *data)
{
    char *line = json_dumps(data, JSON_COMPACT);
    puts(line ? line : "");
    free(line);
    fflush(stdout);
}

/* What is in the events file already: the last lines, or all that name --id. */
static int events_past(const struct cli *c)
{
    enum { LAST = 100 };
    char **last = xcalloc(LAST, sizeof *last), *line = NULL, match[40] = "";
    size_t cap = 0, n = 0;
    if (!c->events) {
        fprintf(stderr, "batonctl events: no events file in %s; use --follow\n", c->config);
        free(last);
        return EXIT_REFUSED;
    }
    FILE *f = fopen(c->events, "re");
    if (!f) {
        fprintf(stderr, "batonctl events: %s: %s\n", c->events, strerror(errno));
        free(last);
        return EXIT_REFUSED;
    }
    uint64_t id;
    char hex[17];
    if (c->id && text_parse_id(c->id, &id))
        snprintf(match, sizeof match, "\"id\":\"%s\"", text_id(hex, id));
    while (getline(&line, &cap, f) > 0) {
        if (c->id) {
            if (strstr(line, match))
                fputs(line, stdout);
        } else {
            free(last[n % LAST]);
            last[n++ % LAST] = xstrdup(line);
        }
    }
    for (size_t i = n > LAST ? n - LAST : 0; i < n; i++)
        fputs(last[i % LAST], stdout);
    for (size_t i = 0; i < LAST; i++)
        free(last[i]);
    free(last);
    free(line);
    fclose(f);
    return EXIT_DONE;
}

int verb_events(const struct cli *c)
{
    if (!c->follow)
        return events_past(c);
    return cli_ask(c, cli_request(c, "events"), true, event, NULL, NULL);
}

int verb_keygen(const struct cli *c)
{
    char err[400];
    if (!crypto_key_create(c->args[0], err, sizeof err)) {
        fprintf(stderr, "batonctl keygen: %s\n", err);
        return EXIT_REFUSED;
    }
    printf("%s: a new cluster key, mode 0600; copy it to both nodes and the witness\n", c->args[0]);
    return EXIT_DONE;
}

int verb_passwd(const struct cli *c)
{
    char one[512], two[512], err[400];
    bool tty = isatty(STDIN_FILENO);
    if (!cli_read_secret("Password: ", one, sizeof one) || !*one) {
        fprintf(stderr, "batonctl passwd: no password; nothing was changed\n");
        return EXIT_REFUSED;
    }
    if (tty && (!cli_read_secret("Again: ", two, sizeof two) || strcmp(one, two) != 0)) {
        fprintf(stderr, "batonctl passwd: the two differ; nothing was changed\n");
        return EXIT_REFUSED;
    }
    bool ok = smtp_users_set(c->args[0], c->args[1], one, err, sizeof err);
    explicit_bzero(one, sizeof one);
    explicit_bzero(two, sizeof two);
    if (!ok) {
        fprintf(stderr, "batonctl passwd: %s\n", err);
        return EXIT_REFUSED;
    }
    printf("%s: password of %s is set; take it into use with: batonctl reload\n", c->args[0],
           c->args[1]);
    return EXIT_DONE;
}
