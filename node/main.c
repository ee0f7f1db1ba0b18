/* batond: one node of a pair, in the foreground. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/log.h"
#include "node/node_uv.h"

static const char usage[] =
    "usage: batond -c FILE [--check]\n"
    "\n"
    "Runs one node of a Baton pair in the foreground; logs to stderr.\n"
    "\n"
    "  -c, --config FILE  the configuration, baton.conf(5)\n"
    "      --check        print every mistake in FILE and exit: 0 none, 2 some\n"
    "      --version      print the version\n"
    "  -h, --help         print this\n"
    "\n"
    "SIGTERM stops cleanly (a primary hands over first), SIGHUP reloads.\n";

static struct config *load(const char *file)
{
    struct config_mistakes mistakes = {0};
    struct config *c = config_load(file, &mistakes);
    for (unsigned i = 0; i < mistakes.n; i++)
        fprintf(stderr, "%s\n", mistakes.text[i]);
    config_mistakes_free(&mistakes);
    return c;
}

static int run(struct config *c)
{
    char err[600] = "";
    char name[2] = {c->node, 0};
    log_set_node(name);
    log_set_level(c->log_level);
    uv_loop_t *loop = uv_default_loop();
    struct node *n = node_start(loop, c, err, sizeof err);
    if (!n) {
        log_error("start", "%s", err);
        return 1;
    }
    return node_run(n);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"check", no_argument, NULL, 'k'},
                                            {"version", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *file = NULL;
    bool check = false;
    for (int o; (o = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
        switch (o) {
        case 'c':
            file = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'v':
            printf("batond %s\n", BATON_VERSION);
            return 0;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (!file || optind != argc) {
        fputs(usage, stderr);
        return 2;
    }
    struct config *c = load(file);
    if (!c)
        return 2;
    if (check) {
        printf("%s: no mistakes\n", file);
        config_free(c);
        return 0;
    }
    return run(c);
}
