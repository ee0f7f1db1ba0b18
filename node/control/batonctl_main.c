/* batonctl: the operator's command (contract, "batonctl"). Reads the command line, finds the verb
 * in one table, calls it; each verb's options are checked against the table. */
#include <getopt.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

#include "node/base/config.h"
#include "node/control/batonctl.h"
#include "node/control/control.h"
#include "node/control/text.h"

enum option_bit {
    O_WATCH = 1 << 0,
    O_FORCE = 1 << 1,
    O_YES = 1 << 2,
    O_FOR = 1 << 3,
    O_LIMIT = 1 << 4,
    O_BY = 1 << 5,
    O_ID = 1 << 6,
    O_SELECTOR = 1 << 7, /* --domain --sender --campaign --state --older-than --all */
    O_FOLLOW = 1 << 8,
    O_REJOIN = 1 << 10, /* --merge, --discard */
    O_ALONE = 1 << 11,
};

struct verb {
    const char *name; /* one or two words */
    int min_args, max_args;
    unsigned options;
    bool local; /* needs no node, nor its configuration */
    int (*run)(const struct cli *c);
    const char *usage, *help;
};

#define SELECTOR_HELP                                                                              \
    "\nSELECTOR, several are ANDed:\n"                                                             \
    "  --id ID            one message\n"                                                           \
    "  --domain D         recipients at D\n"                                                       \
    "  --sender S         messages from S\n"                                                       \
    "  --campaign C       messages of campaign C\n"                                                \
    "  --state STATE      queued, deferred, held, quarantined or in-doubt\n"                       \
    "  --older-than 4h    received longer ago than that\n"                                         \
    "  --all              everything\n"

static const struct verb verbs[] = {
    {"status", 0, 0, O_WATCH, false, verb_status, "status [--watch]",
     "Both nodes, arbiter, roles, mode, lag, queue and rates; alarms first.\n"
     "  --watch    again every second\n"},
    {"switchover", 0, 0, 0, false, verb_pair, "switchover",
     "Planned change of primary, asked of either node; waits, and prints how long delivery\n"
     "paused. Nothing is lost, nothing is sent twice.\n"},
    {"failover", 0, 0, O_FORCE | O_YES, false, verb_failover, "failover [--force] [--yes]",
     "On the standby: take over now, because the primary is dead.\n"
     "  --force    even if this node is not in sync, or without arbiter; says what may be lost or\n"
     "             doubled, and asks\n"
     "  --yes      don't ask\n"},
    {"takeover", 1, 1, O_FOR, false, verb_takeover, "takeover on|off [--for 2h]",
     "Suspends automatic takeover, for maintenance; on both nodes, also over restarts. status\n"
     "shows it until it is on again.\n"
     "  --for D    on again by itself after that time\n"},
    {"bootstrap", 0, 0, 0, false, verb_pair, "bootstrap",
     "First start with one node only: this node becomes primary without waiting for the other.\n"},
    {"start", 0, 0, O_ALONE, false, verb_start, "start --alone",
     "With arbiter = none, on a node that waits for the other one after its start, or is fenced:\n"
     "serve without it. What only the other one holds is missing until it returns, and then\n"
     "merged; what it sent since they last met goes out again.\n"},
    {"rejoin", 0, 0, O_REJOIN | O_YES, false, verb_rejoin, "rejoin --merge|--discard [--yes]",
     "The word that a node waits for whose store was away for longer than `retention` and holds\n"
     "what the primary hasn't (batonctl queue list there shows it).\n"
     "  --merge    merge that into the primary's queue, then copy all from there. What was\n"
     "             delivered meanwhile and is forgotten by now goes out again\n"
     "  --discard  give it up; says how many messages that are, and asks\n"
     "  --yes      don't ask\n"},
    {"verify", 0, 0, 0, false, verb_verify, "verify",
     "Compares both stores message by message and checks every body, beside all other work; "
     "repairs\n"
     "what fails from the other copy. Prints progress and totals; exits 1 when something could "
     "not\n"
     "be repaired. On either node.\n"},
    {"queue list", 0, 0, O_ID | O_SELECTOR | O_LIMIT, false, verb_queue_list,
     "queue list [SELECTOR] [--limit N]",
     "Messages with their recipients: state, attempts, next attempt and the last reply.\n"
     "  --limit N  at most N messages (default 100)\n" SELECTOR_HELP},
    {"queue show", 1, 1, 0, false, verb_queue_show, "queue show ID",
     "One message: why it is still here, or how it ended. Finished ones are known for the\n"
     "retention time.\n"},
    {"queue body", 1, 1, 0, false, verb_queue_body, "queue body ID",
     "The message as it is sent, to stdout.\n"},
    {"queue summary", 0, 0, O_BY, false, verb_queue_summary,
     "queue summary [--by domain|sender|campaign|state|age]", "Counts, like qshape.\n"},
    {"queue hold", 0, 0, O_ID | O_SELECTOR, false, verb_queue_select, "queue hold SELECTOR",
     "Keeps recipients from being tried until they are released.\n" SELECTOR_HELP},
    {"queue release", 0, 0, O_ID | O_SELECTOR, false, verb_queue_select, "queue release SELECTOR",
     "Lets held and quarantined recipients go.\n" SELECTOR_HELP},
    {"queue retry", 0, 0, O_ID | O_SELECTOR, false, verb_queue_select, "queue retry SELECTOR",
     "Tries deferred recipients now instead of at their next time.\n" SELECTOR_HELP},
    {"queue cancel", 0, 0, O_ID | O_SELECTOR, false, verb_queue_select, "queue cancel SELECTOR",
     "Ends recipients for good: not sent, no bounce.\n" SELECTOR_HELP},
    {"destination list", 0, 0, 0, false, verb_destination_list, "destination list",
     "Per destination: queued, connections, rate, back-off and why.\n"},
    {"destination pause", 1, 1, 0, false, verb_order, "destination pause D",
     "Starts nothing new to destination D: a domain of recipients, or a next hop as `destination\n"
     "list` names it. Kept over restarts and takeovers.\n"},
    {"destination resume", 1, 1, 0, false, verb_order, "destination resume D", "Ends a pause.\n"},
    {"campaign list", 0, 0, 0, false, verb_campaign_list, "campaign list",
     "Per campaign: what is queued, and whether it is paused.\n"},
    {"campaign pause", 1, 1, 0, false, verb_order, "campaign pause C",
     "Starts nothing new of campaign C. Kept over restarts and takeovers.\n"},
    {"campaign resume", 1, 1, 0, false, verb_order, "campaign resume C", "Ends a pause.\n"},
    {"suppress add", 1, 1, 0, false, verb_order, "suppress add ADDR",
     "Never sends to ADDR: its recipients end as suppressed, those that are queued and those to\n"
     "come.\n"},
    {"suppress remove", 1, 1, 0, false, verb_order, "suppress remove ADDR",
     "Takes ADDR off the list. What ended as suppressed stays so.\n"},
    {"suppress list", 0, 0, 0, false, verb_suppress_list, "suppress list", "The list.\n"},
    {"suppress import", 1, 1, 0, false, verb_suppress_import, "suppress import FILE",
     "Adds the addresses of a file, one a line; what follows # is ignored.\n"},
    {"events", 0, 0, O_FOLLOW | O_ID, false, verb_events, "events [--follow] [--id ID]",
     "Delivery events, one JSON object a line: the newest 100 of the events file.\n"
     "  --follow   as they happen, until interrupted\n"
     "  --id ID    only those of one message (all of them)\n"},
    {"keygen", 1, 1, 0, true, verb_keygen, "keygen FILE",
     "Makes a new cluster key (mode 0600). Never overwrites.\n"},
    {"passwd", 2, 2, 0, true, verb_passwd, "passwd FILE USER",
     "Sets the password of a SMTP AUTH user; asks for it twice, or reads one line of stdin.\n"},
    {"reload", 0, 0, 0, false, verb_pair, "reload",
     "As SIGHUP: reads the configuration again. With a mistake in it nothing changes; says what\n"
     "needs a restart.\n"},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static void help(FILE *f)
{
    fputs("usage: batonctl [-c FILE] [--json] [--timeout 30s] VERB …\n\n", f);
    for (unsigned i = 0; i < N_VERBS; i++)
        fprintf(f, "  %s\n", verbs[i].usage);
    fputs("\n  -c, --config FILE  the node's configuration (default /etc/baton/baton.conf)\n"
          "      --json         for programs\n"
          "      --timeout D    how long to wait for a decision (default 30s)\n"
          "      --help         of a verb: batonctl VERB --help\n"
          "      --version\n\n"
          "Exit codes: 0 done; 1 refused, failed or undecided (stderr says which, and why);\n"
          "2 usage; 3 the node does not answer.\n",
          f);
}

enum {
    L_JSON = 256,
    L_TIMEOUT,
    L_VERSION,
    L_WATCH,
    L_FORCE,
    L_YES,
    L_FOR,
    L_LIMIT,
    L_BY,
    L_ID,
    L_DOMAIN,
    L_SENDER,
    L_CAMPAIGN,
    L_STATE,
    L_OLDER,
    L_ALL,
    L_FOLLOW,
    L_MERGE,
    L_DISCARD,
    L_ALONE
};

static const struct option longopts[] = {
    {"config", required_argument, NULL, 'c'},
    {"json", no_argument, NULL, L_JSON},
    {"timeout", required_argument, NULL, L_TIMEOUT},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, L_VERSION},
    {"watch", no_argument, NULL, L_WATCH},
    {"force", no_argument, NULL, L_FORCE},
    {"yes", no_argument, NULL, L_YES},
    {"for", required_argument, NULL, L_FOR},
    {"limit", required_argument, NULL, L_LIMIT},
    {"by", required_argument, NULL, L_BY},
    {"id", required_argument, NULL, L_ID},
    {"domain", required_argument, NULL, L_DOMAIN},
    {"sender", required_argument, NULL, L_SENDER},
    {"campaign", required_argument, NULL, L_CAMPAIGN},
    {"state", required_argument, NULL, L_STATE},
    {"older-than", required_argument, NULL, L_OLDER},
    {"all", no_argument, NULL, L_ALL},
    {"follow", no_argument, NULL, L_FOLLOW},
    {"alone", no_argument, NULL, L_ALONE},
    {"merge", no_argument, NULL, L_MERGE},
    {"discard", no_argument, NULL, L_DISCARD},
    {NULL, 0, NULL, 0},
};

static bool duration(const char *name, const char *text, uint64_t *ms)
{
    if (config_parse_duration(text, ms) && *ms > 0)
        return true;
    fprintf(stderr, "batonctl: --%s %s: a duration like 30s, 5m, 4h, 2d is needed\n", name, text);
    return false;
}

static bool limit(const char *text, uint64_t *n)
{
    char *end;
    *n = strtoull(text, &end, 10);
    if (*end == 0 && *text >= '0' && *text <= '9' && *n > 0 && *n <= CONTROL_LIMIT_MAX)
        return true;
    fprintf(stderr, "batonctl: --limit %s: a number from 1 to %d is needed\n", text,
            CONTROL_LIMIT_MAX);
    return false;
}

/* What an option sets as it stands, and its bit of what a verb takes; 0: any verb. */
static const struct {
    int o;
    unsigned bit;
    size_t flag, text; /* where in struct cli; 0: not such a thing (`config` is read elsewhere) */
} options_of[] = {{L_JSON, 0, offsetof(struct cli, json), 0},
                  {L_WATCH, O_WATCH, offsetof(struct cli, watch), 0},
                  {L_FORCE, O_FORCE, offsetof(struct cli, force), 0},
                  {L_YES, O_YES, offsetof(struct cli, yes), 0},
                  {L_FOLLOW, O_FOLLOW, offsetof(struct cli, follow), 0},
                  {L_ALONE, O_ALONE, offsetof(struct cli, alone), 0},
                  {L_MERGE, O_REJOIN, offsetof(struct cli, merge), 0},
                  {L_DISCARD, O_REJOIN, offsetof(struct cli, discard), 0},
                  {L_ALL, O_SELECTOR, offsetof(struct cli, all), 0},
                  {L_BY, O_BY, 0, offsetof(struct cli, by)},
                  {L_ID, O_ID, 0, offsetof(struct cli, id)},
                  {L_DOMAIN, O_SELECTOR, 0, offsetof(struct cli, domain)},
                  {L_SENDER, O_SELECTOR, 0, offsetof(struct cli, sender)},
                  {L_CAMPAIGN, O_SELECTOR, 0, offsetof(struct cli, campaign)},
                  {L_STATE, O_SELECTOR, 0, offsetof(struct cli, state)},
                  {L_FOR, O_FOR, 0, 0},
                  {L_LIMIT, O_LIMIT, 0, 0},
                  {L_OLDER, O_SELECTOR, 0, 0}};

/* Sets one option; *used collects which were given. False: usage. */
static bool take_option(struct cli *c, int o, unsigned *used, bool *want_help, bool *want_version)
{
    bool known = false;
    for (size_t i = 0; i < sizeof options_of / sizeof *options_of; i++) {
        if (options_of[i].o != o)
            continue;
        *used |= options_of[i].bit;
        if (options_of[i].flag)
            *(bool *)((char *)c + options_of[i].flag) = true;
        if (options_of[i].text)
            *(const char **)(void *)((char *)c + options_of[i].text) = optarg;
        known = true;
    }
    uint64_t id;
    switch (o) {
    case 'c':
        c->config = optarg;
        return true;
    case 'h':
        *want_help = true;
        return true;
    case L_VERSION:
        *want_version = true;
        return true;
    case L_TIMEOUT:
        return duration("timeout", optarg, &c->timeout_ms);
    case L_FOR:
        return duration("for", optarg, &c->for_ms);
    case L_LIMIT:
        return limit(optarg, &c->limit);
    case L_OLDER:
        return duration("older-than", optarg, &c->older_than_ms);
    case L_ID:
        if (text_parse_id(optarg, &id))
            return true;
        fprintf(stderr, "batonctl: --id %s: not a message id (16 hex digits)\n", optarg);
        return false;
    default:
        return known; /* '?': getopt has said what is wrong */
    }
}

/* The verb of one or two words; *words tells how many. */
static const struct verb *find_verb(char **args, int n, int *words)
{
    for (unsigned i = 0; n > 0 && i < N_VERBS; i++) {
        const char *space = strchr(verbs[i].name, ' ');
        size_t first = space ? (size_t)(space - verbs[i].name) : strlen(verbs[i].name);
        if (strlen(args[0]) != first || strncmp(args[0], verbs[i].name, first) != 0)
            continue;
        if (!space || (n > 1 && strcmp(args[1], space + 1) == 0)) {
            *words = space ? 2 : 1;
            return &verbs[i];
        }
    }
    return NULL;
}

static int unknown_verb(char **args, int n)
{
    if (n == 0) {
        help(stderr);
        return EXIT_USAGE;
    }
    bool group = false;
    for (unsigned i = 0; i < N_VERBS; i++) {
        size_t len = strlen(args[0]);
        if (strncmp(verbs[i].name, args[0], len) == 0 && verbs[i].name[len] == ' ') {
            fprintf(stderr, "%s batonctl %s\n", group ? "      " : "usage:", verbs[i].usage);
            group = true;
        }
    }
    if (!group)
        fprintf(stderr, "batonctl: unknown verb \"%s\"; batonctl --help lists them\n", args[0]);
    return EXIT_USAGE;
}

static int verb_usage(const struct verb *v)
{
    fprintf(stderr, "usage: batonctl %s\n", v->usage);
    return EXIT_USAGE;
}

static int run(struct cli *c, const struct verb *v)
{
    char err[400];
    c->verb = v->name;
    if (!v->local && !cli_load(c, err, sizeof err)) {
        fprintf(stderr, "batonctl: %s\n", err);
        return EXIT_USAGE;
    }
    int code = v->run(c);
    if (fflush(stdout) != 0 || ferror(stdout))
        code = code ? code : EXIT_REFUSED;
    free(c->control);
    free(c->events);
    return code;
}

int main(int argc, char **argv)
{
    struct cli c = {.config = "/etc/baton/baton.conf",
                    .timeout_ms = CONTROL_TIMEOUT_MS,
                    .limit = CONTROL_LIMIT};
    unsigned used = 0;
    bool want_help = false, want_version = false;
    signal(SIGPIPE, SIG_IGN);
    for (int o; (o = getopt_long(argc, argv, "c:h", longopts, NULL)) != -1;)
        if (!take_option(&c, o, &used, &want_help, &want_version))
            return EXIT_USAGE;
    if (want_version) {
        printf("batonctl %s\n", BATON_VERSION);
        return EXIT_DONE;
    }
    int words = 0;
    const struct verb *v = find_verb(argv + optind, argc - optind, &words);
    if (want_help) {
        if (v)
            printf("usage: batonctl %s\n\n%s", v->usage, v->help);
        else
            help(stdout);
        return EXIT_DONE;
    }
    if (!v)
        return unknown_verb(argv + optind, argc - optind);
    c.args = (const char **)(argv + optind + words);
    c.n_args = argc - optind - words;
    if ((used & ~v->options) || c.n_args < v->min_args || c.n_args > v->max_args)
        return verb_usage(v);
    return run(&c, v);
}
