/* batonctl's parts: what was asked on the command line, the connection to the node, the tables that
 * it prints, and one function a verb. Private to batonctl. */
#ifndef BATON_CONTROL_BATONCTL_H
#define BATON_CONTROL_BATONCTL_H

#include <jansson.h>
#include <stdio.h>

#include "node/base/buf.h"

/* Exit codes (contract). */
enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2, EXIT_SILENT = 3 };

struct cli {
    const char *config; /* file */
    bool json, watch, follow, force, yes, all, merge, discard, alone;
    uint64_t timeout_ms, for_ms, older_than_ms, limit;
    const char *by, *id, *domain, *sender, *campaign, *state;
    const char *verb;  /* for messages: "queue list" */
    const char **args; /* what follows the verb */
    int n_args;
    char *control, *events; /* from the file; owned */
};

/* batonctl_libconfig.c: control and events of the file; the rest of it is batond's business (an
 * operator may not be allowed to read the key). False: err has one line. */
bool cli_load(struct cli *c, char *err, size_t n);

/* batonctl_posix.c */
typedef void (*cli_line_fn)(void *ctx, json_t *data); /* borrowed */
/* Sends the request (reference taken), calls fn for each {"data"}, writes {"bytes"} to stdout, and
 * prints why it failed to stderr. *done (may be NULL) gets the last line, owned. No time-out but
 * the node's own when endless. Returns an exit code. */
int cli_ask(const struct cli *c, json_t *request, bool endless, cli_line_fn fn, void *ctx,
            json_t **done);
/* For verbs whose answer is one data object: it, owned, or NULL and *code. */
json_t *cli_ask_one(const struct cli *c, json_t *request, int *code);
/* {"verb": verb} with the selector and the time-out of the command line. */
json_t *cli_request(const struct cli *c, const char *verb);
/* Prints the text of the answer's last line (owned), or the line itself with --json; returns code.
 */
int cli_say(const struct cli *c, int code, json_t *done);
bool cli_colour(FILE *f); /* a terminal, and NO_COLOR isn't set */
/* Reads one line without echo on a terminal, or a line of stdin; false at its end. */
bool cli_read_secret(const char *prompt, char *out, size_t n);
void cli_sleep_ms(unsigned ms);

/* batonctl_table.c: cells are copied; columns are as wide as their widest cell. */
struct table;
struct table *table_new(unsigned columns, const char *right); /* "lrl": alignment a column */
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(struct table *t, FILE *f); /* frees t */
/* Any array of objects: a column a key of the first one. */
void table_print_json(const json_t *array, FILE *f);
/* Text for a terminal: control characters of strangers are shown as '?'. */
void put_text(FILE *f, const char *s);

/* verbs; each returns an exit code */
int verb_status(const struct cli *c);
int verb_pair(const struct cli *c); /* switchover, bootstrap, reload */
int verb_failover(const struct cli *c);
int verb_takeover(const struct cli *c);
int verb_rejoin(const struct cli *c);
int verb_start(const struct cli *c);
int verb_verify(const struct cli *c);
int verb_queue_list(const struct cli *c);
int verb_queue_show(const struct cli *c);
int verb_queue_body(const struct cli *c);
int verb_queue_summary(const struct cli *c);
int verb_queue_select(const struct cli *c);
int verb_destination_list(const struct cli *c);
int verb_campaign_list(const struct cli *c);
int verb_order(const struct cli *c); /* destination and campaign pause, resume; suppress */
int verb_suppress_list(const struct cli *c);
int verb_suppress_import(const struct cli *c);
int verb_events(const struct cli *c);
int verb_keygen(const struct cli *c);
int verb_passwd(const struct cli *c);
void print_status(const json_t *s, const json_t *before, FILE *f);
#endif
