/* baton-witness: the arbiter that we ship. Reads its file, binds, drops privileges, answers until
 * SIGTERM. See contract: `baton-witness -c FILE`, --check, --help, --version. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "health/witness_uv.h"
#include "node/base/log.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct running {
    struct witness *witness;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t watchdog;
};

static void usage(FILE *out)
{
    fputs("usage: baton-witness -c FILE [--check]\n"
          "The third voter of Baton clusters: decides with each node which of them is primary.\n"
          "  -c, --config FILE  configuration\n"
          "      --check        print every mistake in FILE and exit: 0 none, 2 some\n"
          "      --help, --version\n",
          out);
}

static bool drop_privileges(const char *user, char *err, size_t n)
{
    if (!user || !*user || geteuid() != 0)
        return true;
    struct passwd *p = getpwnam(user);
    if (!p) {
        snprintf(err, n, "user = \"%s\": no such user; make one: useradd --system %s", user, user);
        return false;
    }
    if (initgroups(user, p->pw_gid) != 0 || setgid(p->pw_gid) != 0 || setuid(p->pw_uid) != 0) {
        snprintf(err, n, "user = \"%s\": %s", user, strerror(errno));
        return false;
    }
    return true;
}

static void close_signals(struct running *r)
{
    uv_close((uv_handle_t *)&r->term, NULL);
    uv_close((uv_handle_t *)&r->interrupt, NULL);
    uv_close((uv_handle_t *)&r->hangup, NULL);
    uv_close((uv_handle_t *)&r->watchdog, NULL);
}

/* The loop runs, so it is well: all that the witness does is done on it. */
static void on_watchdog(uv_timer_t *t)
{
    sd_notify(0, "WATCHDOG=1");
}

static void start_watchdog(uv_loop_t *loop, struct running *r)
{
    uint64_t limit_us = 0;
    uv_timer_init(loop, &r->watchdog);
    if (sd_watchdog_enabled(0, &limit_us) > 0)
        uv_timer_start(&r->watchdog, on_watchdog, limit_us / 2000, limit_us / 2000);
}

static void on_signal(uv_signal_t *s, int number)
{
    struct running *r = s->data;
    if (number == SIGHUP) {
        log_warn("witness.no_reload", "the file is read at start only; restart to use it anew");
        return;
    }
    sd_notify(0, "STOPPING=1");
    log_info("witness.stopping", "signal=%d", number);
    witness_close(r->witness);
    close_signals(r);
}

static int serve(const struct witness_config *c)
{
    char err[512];
    uv_loop_t loop;
    uv_loop_init(&loop);
    struct running r = {.witness = witness_new(&loop, c, err, sizeof err)};
    bool ok = r.witness && drop_privileges(c->user, err, sizeof err) &&
              witness_start(r.witness, err, sizeof err);
    if (ok) {
        uv_signal_init(&loop, &r.term);
        uv_signal_init(&loop, &r.interrupt);
        uv_signal_init(&loop, &r.hangup);
        r.term.data = r.interrupt.data = r.hangup.data = &r;
        uv_signal_start(&r.term, on_signal, SIGTERM);
        uv_signal_start(&r.interrupt, on_signal, SIGINT);
        uv_signal_start(&r.hangup, on_signal, SIGHUP);
        start_watchdog(&loop, &r);
        log_info("witness.started", "version=%s listen=%s clusters=%u", BATON_VERSION, c->listen,
                 c->n_clusters);
        sd_notify(0, "READY=1");
    } else {
        log_error("witness.failed", "error=\"%s\"", err);
        if (r.witness)
            witness_close(r.witness);
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    return ok ? EXIT_SUCCESS : EXIT_FAILED;
}

static int run(const char *file, bool check)
{
    struct config_mistakes mistakes = {0};
    struct witness_config *c = witness_config_load(file, &mistakes);
    for (unsigned i = 0; i < mistakes.n; i++)
        fprintf(stderr, "%s\n", mistakes.text[i]);
    config_mistakes_free(&mistakes);
    if (!c)
        return EXIT_USAGE;
    log_set_node("witness");
    if (c->log_level)
        log_set_level(c->log_level);
    int rc = check ? EXIT_SUCCESS : serve(c);
    witness_config_free(c);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"check", no_argument, NULL, 'k'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'v'},
                                            {0}};
    const char *file = NULL;
    bool check = false;
    for (int o; (o = getopt_long(argc, argv, "c:", options, NULL)) != -1;) {
        switch (o) {
        case 'c':
            file = optarg;
            break;
        case 'k':
            check = true;
            break;
        case 'h':
            usage(stdout);
            return EXIT_SUCCESS;
        case 'v':
            puts("baton-witness " BATON_VERSION);
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_USAGE;
        }
    }
    if (!file || optind < argc) {
        usage(stderr);
        return EXIT_USAGE;
    }
    signal(SIGPIPE, SIG_IGN);
    return run(file, check);
}
