/* What somebody who edits a configuration relies on: the documented example is taken as it is
 * written, each mistake names its line and a remedy, and a reload says what it can't take. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/base/config.h"
#include "node/base/crypto_openssl.h"

static char dir[64], file[96];

static const char *in_dir(const char *name)
{
    static char path[4][128];
    static unsigned i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
    return path[i];
}

static void put(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    ck_assert_int_eq(chmod(path, mode), 0);
}

static void setup(void)
{
    char err[300], cmd[400];
    snprintf(dir, sizeof dir, "/tmp/baton-config-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/a.conf", dir);
    ck_assert_msg(crypto_key_create(in_dir("cluster.key"), err, sizeof err), "%s", err);
    put(in_dir("users"), "", 0600);
    put(in_dir("hook"), "#!/bin/sh\n", 0755);
    snprintf(
        cmd, sizeof cmd,
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x "
        "-keyout %s/key.pem -out %s/cert.pem 2>/dev/null",
        dir, dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void teardown(void)
{
    char cmd[100];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}

/* The documented example; @ stands for the test's directory. */
static const char example[] =
    "cluster  = \"mail-1\";\n"                                                        /* 1 */
    "node     = \"a\";                          # the one line that differs\n"        /* 2 */
    "hostname = \"mx1.example.com\";\n"                                               /* 3 */
    "key_file = \"@/cluster.key\";     # from batonctl keygen\n"                      /* 4 */
    "store    = \"@/a.db\";\n"                                                        /* 5 */
    "control  = \"/run/baton/control.sock\";\n"                                       /* 6 */
    "events   = \"@/events.jsonl\";\n"                                                /* 7 */
    "user     = \"nobody\";\n"                                                        /* 8 */
    "nodes = {\n"                                                                     /* 9 */
    "  a = { addresses = [ \"10.0.0.1\", \"192.168.9.1\" ]; replication_port = 7625;" /* 10 */
    " health_port = 7626; };\n"
    "  b = { addresses = [ \"10.0.0.2\", \"192.168.9.2\" ]; replication_port = 7625;" /* 11 */
    " health_port = 7626; };\n"
    "};\n"                                                                       /* 12 */
    "arbiter = { type = \"witness\"; address = \"10.0.0.3:7627\"; };\n"          /* 13 */
    "health = { heartbeat = \"100ms\"; lease = \"1s\"; takeover_after = \"1s\";" /* 14 */
    " standby_timeout = \"1s\"; stall_timeout = \"1s\"; };\n"
    "when_alone = \"accept\";\n"                                                /* 15 */
    "hooks = { promoted = \"@/hook\"; demoted = \"@/hook\"; };\n"               /* 16 */
    "queue = { retention = \"7d\"; quarantine = \"4h\"; in_doubt = \"resend\";" /* 17 */
    " in_doubt_wait = \"30s\"; outcome_delay = \"2ms\"; disk_reserve = \"64MiB\"; };\n"
    "dns = { servers = [ \"127.0.0.1:53\" ]; };\n"                                   /* 18 */
    "log = { level = \"info\"; };\n"                                                 /* 19 */
    "http = { listen = \"127.0.0.1:8025\"; };\n"                                     /* 20 */
    "listeners = ( { address = \"0.0.0.0:25\"; tls = \"starttls\"; },\n"             /* 21 */
    "  { address = \"0.0.0.0:465\"; tls = \"implicit\"; auth = \"required\"; } );\n" /* 22 */
    "tls = { cert = \"@/cert.pem\"; key = \"@/key.pem\"; };\n"                       /* 23 */
    "auth = { users = \"@/users\"; };\n"                                             /* 24 */
    "relay_networks = [ \"127.0.0.0/8\", \"::1/128\" ];\n"                           /* 25 */
    "limits = { message_size = \"50MiB\"; recipients = 1000; sessions = 2000;"       /* 26 */
    " sessions_per_address = 50; };\n"
    "routes = ( { domain = \"example.net\"; via = \"smtp://10.1.1.1:2525\"; },\n"          /* 27 */
    "  { domain = \"*\"; via = \"mx\"; } );\n"                                             /* 28 */
    "delivery = { connections = 500; retry = [ \"1m\", \"5m\", \"15m\", \"1h\", \"4h\" ];" /* 29 */
    " expire = \"5d\"; tls = \"opportunistic\"; };\n"
    "destinations = ( { domain = \"*\"; connections = 20;" /* 30 */
    " messages_per_connection = 100; rate = \"100/s\"; } );\n"
    "dkim = ( { domain = \"example.com\"; selector = \"s1\"; key = \"@/key.pem\"; } );\n"; /* 31 */

/* text with @ replaced by the directory, and the first `from` by `to`; the caller frees. */
static char *fill(const char *text, const char *from, const char *to)
{
    char *out = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&out, &n);
    const char *hit = from ? strstr(text, from) : NULL;
    ck_assert_msg(!from || hit, "\"%s\" is not in the example", from);
    for (const char *p = text; *p; p++) {
        const char *piece = p, *end = p + 1;
        if (p == hit) {
            piece = to;
            end = to + strlen(to);
            p += strlen(from) - 1;
        }
        for (; piece < end; piece++) {
            if (*piece == '@' && strncmp(piece, "@include", 8) != 0)
                fputs(dir, f);
            else
                fputc(*piece, f);
        }
    }
    fclose(f);
    return out;
}

static struct config *load(const char *from, const char *to, struct config_mistakes *m)
{
    char *text = fill(example, from, to);
    put(file, text, 0644);
    free(text);
    m->n = 0;
    return config_load(file, m);
}

static void assert_no_mistakes(const struct config_mistakes *m)
{
    ck_assert_msg(m->n == 0, "%s", m->n ? m->text[0] : "");
}

START_TEST(test_example)
{
    struct config_mistakes m;
    struct config *c = load(NULL, NULL, &m);
    assert_no_mistakes(&m);
    ck_assert_str_eq(c->cluster, "mail-1");
    ck_assert_int_eq(c->node, 'a');
    ck_assert_uint_eq(c->n_nodes, 2);
    ck_assert_str_eq(config_self(c)->addresses[1], "192.168.9.1");
    ck_assert_int_eq(config_peer(c)->name, 'b');
    ck_assert_uint_eq(config_peer(c)->health_port, 7626);
    ck_assert_int_eq(c->arbiter.type, ARBITER_WITNESS);
    ck_assert_str_eq(c->arbiter.address, "10.0.0.3:7627");
    ck_assert_uint_eq(c->health.heartbeat_ms, 100);
    ck_assert_uint_eq(c->health.lease_ms, 1000);
    ck_assert(c->queue.retention_ms == 7ull * 24 * 3600 * 1000);
    ck_assert(c->queue.disk_reserve_bytes == 64u << 20);
    ck_assert(!c->queue.in_doubt_hold);
    ck_assert_uint_eq(c->n_listeners, 2);
    ck_assert_int_eq(c->listeners[1].tls, LISTENER_IMPLICIT);
    ck_assert_int_eq(c->listeners[1].auth, AUTH_REQUIRED);
    ck_assert_int_eq(c->listeners[0].auth, AUTH_OPTIONAL); /* users and TLS are there */
    ck_assert_uint_eq(c->n_relay_networks, 2);
    ck_assert(c->limits.message_bytes == 50u << 20);
    ck_assert_uint_eq(c->limits.received_hops, 50);
    ck_assert_uint_eq(c->smtp.command_s, 300);
    ck_assert_uint_eq(c->n_routes, 2);
    ck_assert_int_eq(c->routes[0].kind, ROUTE_HOST);
    ck_assert_str_eq(c->routes[0].host, "10.1.1.1");
    ck_assert_uint_eq(c->routes[0].port, 2525);
    ck_assert_int_eq(c->routes[1].kind, ROUTE_MX);
    ck_assert_uint_eq(c->delivery.n_retry, 5);
    ck_assert(c->delivery.retry_ms[4] == 4ull * 3600 * 1000);
    ck_assert_int_eq(c->delivery.tls, TLS_POLICY_OPPORTUNISTIC);
    ck_assert_double_eq(c->destinations[0].rate_per_s, 100);
    ck_assert_str_eq(c->dkim[0].selector, "s1");
    config_free(c);
}
END_TEST

START_TEST(test_least_configuration_has_defaults)
{
    struct config_mistakes m = {.n = 0};
    char *text =
        fill("cluster = \"c\"; node = \"b\"; key_file = \"@/cluster.key\"; store = "
             "\"@/b.db\"; nodes = { b = { }; }; listeners = ( { address = \"[::1]:2525\"; } );",
             NULL, NULL);
    put(file, text, 0644);
    free(text);
    struct config *c = config_load(file, &m);
    assert_no_mistakes(&m);
    ck_assert_int_eq(c->arbiter.type, ARBITER_NONE);
    ck_assert_int_eq(config_self(c)->name, 'b');
    ck_assert(config_peer(c) == NULL);
    ck_assert_uint_eq(c->nodes[0].replication_port, 7625);
    ck_assert_str_eq(c->http_listen, "127.0.0.1:8025");
    ck_assert_uint_eq(c->n_routes, 1);
    ck_assert_uint_eq(c->n_destinations, 1);
    ck_assert_uint_eq(c->n_relay_networks, 2);
    ck_assert_uint_eq(c->delivery.n_retry, 5);
    ck_assert_uint_gt(strlen(c->hostname), 0);
    ck_assert(c->events == NULL);
    config_free(c);
}
END_TEST

/* One edit to the example, the line that is to be named, and what it must say. */
static const struct {
    const char *from, *to;
    unsigned line;
    const char *says;
} mistakes[] = {
    {"hostname", "hostnam", 3, "did you mean \"hostname\"?"},
    {"lease =", "leese =", 14, "unknown setting \"leese\" in health; did you mean \"lease\"?"},
    {"when_alone", "zzzzzzzz", 15, "unknown setting \"zzzzzzzz\"; remove it"},
    {"auth = \"required\"", "autj = \"required\"", 22, "did you mean \"auth\"?"},
    {"cluster  =", "#", 1, "cluster is missing"},
    {"\"mail-1\"", "5", 1, "must be a string in quotes"},
    {"\"mail-1\"", "\"mail 1\"", 1, "is not a plain name"},
    {"\"a\"; ", "\"c\"; ", 2, "is not a node; write \"a\" or \"b\""},
    {"cluster.key", "none.key", 4, "batonctl keygen"},
    {"@/a.db", "@/none/a.db", 5, "create the directory"},
    {"@/a.db", "a.db", 5, "not an absolute path"},
    {"events.jsonl", "no/events.jsonl", 7, "create the directory"},
    {"nobody", "no-such-user", 8, "there is no user \"no-such-user\""},
    {"  b = {", "  c = {", 11, "the nodes are called a and b"},
    {"10.0.0.2", "10.0.0.1", 11, "both nodes have the address 10.0.0.1"},
    {"10.0.0.2", "ten", 11, "is not an IP address"},
    {"= 7626", "= 76260", 10, "out of range"},
    {"= 7626", "= \"7626\"", 10, "without quotes"},
    {"addresses = [ \"10.0.0.2\", \"192.168.9.2\" ];", "", 11, "nodes.b.addresses is missing"},
    {"arbiter =", "#", 9, "two nodes need an arbiter"},
    {"address = \"10.0.0.3:7627\";", "", 13, "arbiter.address is missing"},
    {"10.0.0.3:7627", "10.0.0.3", 13, "not an address with a port"},
    {"10.0.0.3:7627", "10.0.0.3:70000", 13, "not an address with a port"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"", "type = \"etcd\"", 13,
     "arbiter.endpoints is missing"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"etcd\"; endpoints = [ \"http://10.0.0.3:2379\" ]; user = \"baton\"", 13,
     "give both or none"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"etcd\"; endpoints = [ \"https://10.0.0.3:2379\" ]; cert = \"/etc/hostname\"", 13,
     "give both or none"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"etcd\"; endpoints = [ \"http://10.0.0.3:2379\" ]; ca = \"/etc/hostname\"", 13,
     "write https://"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"etcd\"; endpoints = [ \"https://10.0.0.3:2379\" ]; ca = \"/nowhere/ca.pem\"", 13,
     "correct the path"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"", "type = \"none\"; takeover = \"auto\"", 13,
     "needs probes"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"none\"; takeover = \"manual\"; probes = [ \"10.0.0.254:53\" ]", 13, "with takeover"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"",
     "type = \"none\"; takeover = \"auto\"; probes = [ \"gateway:53\" ]", 13,
     "address with a port"},
    {"type = \"witness\"; address = \"10.0.0.3:7627\"", "type = \"none\"", 13,
     "choose \"manual\" or \"auto\""},
    {"heartbeat = \"100ms\"", "heartbeat = \"500ms\"", 14, "at least three heartbeats"},
    {"heartbeat = \"100ms\"", "heartbeat = 100", 14, "heartbeat = 100 has no unit"},
    {"heartbeat = \"100ms\"", "heartbeat = \"100\"", 14, "is not a duration"},
    {"heartbeat = \"100ms\"", "heartbeat = \"1ms\"", 14, "out of range"},
    {"\"accept\"", "\"perhaps\"", 15, "write \"accept\" or \"refuse\""},
    {"demoted = \"@/hook\"", "demoted = \"@/users\"", 16, "chmod +x"},
    {"demoted = \"@/hook\"", "demoted = \"@/nothing\"", 16, "No such file"},
    {"\"64MiB\"", "\"64Mb\"", 17, "is not a size"},
    {"\"64MiB\"", "67108864", 17, "has no unit"},
    {"\"7d\"", "7000000000", 17, "too large for a plain number"},
    {"[ \"127.0.0.1:53\" ]", "[ \"localhost\" ]", 18, "not an address with a port"},
    {"[ \"127.0.0.1:53\" ]", "\"127.0.0.1:53\"", 18, "servers must be addresses"},
    {"\"info\"", "\"loud\"", 19, "is not a log level"},
    {"127.0.0.1:8025", "127.0.0.1:25", 21, "is taken by http.listen"},
    {"0.0.0.0:465", "10.0.0.1:25", 22, "is taken by listeners.[0].address"},
    {"\"implicit\"", "\"none\"", 22, "only under TLS"},
    {"tls = { cert = \"@/cert.pem\"; key = \"@/key.pem\"; };", "", 21, "there is no tls ="},
    {"auth = { users = \"@/users\"; };", "", 22, "there is no auth ="},
    {"cert.pem", "none.pem", 23, "No such file"},
    {"cert.pem", "users", 23, "must be PEM"},
    {"@/users", "@", 24, "not a regular file"},
    {"127.0.0.0/8", "127.0.0.1/8", 25, "name the network, not a host in it"},
    {"127.0.0.0/8", "127.0.0.0/33", 25, "between 0 and 32"},
    {"127.0.0.0/8", "anywhere", 25, "is not a network"},
    {"recipients = 1000", "recipients = 0", 26, "from 1 to 50000"},
    {"recipients = 1000", "recipients = -1", 26, "out of range"},
    {"recipients = 1000", "recipients = 4294967297", 26, "too large"},
    {"smtp://10.1.1.1:2525", "10.1.1.1", 27, "write \"mx\", or \"smtp://HOST:PORT\""},
    {"\"*\"; via", "\"Example.NET\"; via", 28, "\"example.net\" is there twice"},
    {"\"*\"; via", "\"*.com\"; via", 28, "is not a domain"},
    {"[ \"1m\", \"5m\", \"15m\", \"1h\", \"4h\" ]", "[ ]", 29, "delivery.retry is empty"},
    {"[ \"1m\", \"5m\"", "[ \"1m\", \"5\"", 29, "is not a duration"},
    {"\"100/s\"", "\"100\"", 30, "like \"100/s\""},
    {"\"@/key.pem\"; } );", "\"@/none.pem\"; } );", 31, "No such file"},
    {"= \"mx1.example.com\";", "= ;", 3, "syntax error"},
    {"auth = { users", "/* auth = { users", 24, "never closed"},
    {"\"@/key.pem\"; } );", "\"@/key.pem; } );", 31, "never closed"},
    {"log = { level = \"info\"; };", "@include \"@\"", 19, "not a regular file"},
    {"log = { level = \"info\"; };", "  @include \"@/none\"", 19, "No such file"},
    {"log = { level = \"info\"; };", "@include \"more.conf\"", 19, "absolute path"},
    {"log = { level = \"info\"; };", "@include \"@/a.conf\"", 19, "files deep"},
};

START_TEST(test_mistake_names_line_and_remedy)
{
    struct config_mistakes m;
    struct config *c = load(mistakes[_i].from, mistakes[_i].to, &m);
    ck_assert_ptr_null(c);
    char at[120];
    snprintf(at, sizeof at, "%s:%u: ", file, mistakes[_i].line);
    bool found = false;
    for (unsigned i = 0; i < m.n && !found; i++)
        found = strncmp(m.text[i], at, strlen(at)) == 0 && strstr(m.text[i], mistakes[_i].says);
    ck_assert_msg(found, "no \"%s...%s\", but \"%s\" (of %u)", at, mistakes[_i].says,
                  m.n ? m.text[0] : "", m.n);
    config_mistakes_free(&m);
}
END_TEST

START_TEST(test_all_mistakes_are_collected)
{
    struct config_mistakes m;
    struct config *c = load("cluster  = \"mail-1\";\n", "clutser = \"x\"; nodess = 1;\n", &m);
    ck_assert_ptr_null(c);
    ck_assert_uint_eq(m.n, 3); /* two unknown names, cluster missing */
    config_mistakes_free(&m);
}
END_TEST

START_TEST(test_included_file_is_named)
{
    struct config_mistakes m;
    put(in_dir("more.conf"), "\nlog = { level = \"loud\"; };\n", 0644);
    struct config *c = load("log = { level = \"info\"; };", "@include \"@/more.conf\"", &m);
    ck_assert_ptr_null(c);
    ck_assert_uint_eq(m.n, 1);
    ck_assert_msg(strstr(m.text[0], "more.conf:2: level") != NULL, "%s", m.text[0]);
    config_mistakes_free(&m);
}
END_TEST

START_TEST(test_open_key_file_is_refused)
{
    struct config_mistakes m;
    ck_assert_int_eq(chmod(in_dir("cluster.key"), 0644), 0);
    struct config *c = load(NULL, NULL, &m);
    ck_assert_ptr_null(c);
    ck_assert_uint_eq(m.n, 1);
    ck_assert_msg(strstr(m.text[0], ":4: ") && strstr(m.text[0], "chmod 0600"), "%s", m.text[0]);
    config_mistakes_free(&m);
}
END_TEST

START_TEST(test_not_a_file)
{
    struct config_mistakes m = {.n = 0};
    ck_assert_ptr_null(config_load(dir, &m));
    ck_assert_ptr_null(config_load(in_dir("nothing.conf"), &m));
    ck_assert_uint_eq(m.n, 2);
    ck_assert(strstr(m.text[0], "not a regular file") != NULL);
    ck_assert(strstr(m.text[1], "No such file") != NULL);
    config_mistakes_free(&m);
}
END_TEST

START_TEST(test_reload_says_what_needs_a_restart)
{
    struct config_mistakes m;
    char out[200];
    struct config *old = load(NULL, NULL, &m), *fresh = load(NULL, NULL, &m);
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "");
    config_free(fresh);
    fresh = load("recipients = 1000", "recipients = 10", &m);
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "");
    config_free(fresh);
    fresh = load("smtp://10.1.1.1:2525", "smtp://[2001:db8::1]:25", &m);
    assert_no_mistakes(&m);
    ck_assert_str_eq(fresh->routes[0].host, "2001:db8::1");
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "");
    config_free(fresh);
    fresh = load("0.0.0.0:465", "0.0.0.0:587", &m);
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "listeners");
    config_free(fresh);
    fresh = load("@/a.db\";\n", "@/b.db\"; dns = {};\nhealth = { lease = \"2s\"; };#", &m);
    ck_assert_ptr_null(fresh); /* settings twice: libconfig's own mistake, at their line */
    ck_assert_msg(m.n == 1 && strstr(m.text[0], "duplicate"), "%s", m.text[0]);
    config_mistakes_free(&m);
    fresh = load("192.168.9.2", "192.168.9.3", &m);
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "nodes");
    config_free(fresh);
    fresh = load("lease = \"1s\"", "lease = \"2s\"", &m);
    ck_assert_str_eq(config_needs_restart(old, fresh, out, sizeof out), "health");
    config_free(fresh);
    config_free(old);
}
END_TEST

START_TEST(test_witness)
{
    struct config_mistakes m = {.n = 0};
    char *text =
        fill("listen = \"0.0.0.0:7627\"; store = \"@/w.db\";\nclusters = ( { name = \"mail-1\";"
             " key_file = \"@/cluster.key\"; } );\n",
             NULL, NULL);
    put(file, text, 0644);
    struct witness_config *c = witness_config_load(file, &m);
    assert_no_mistakes(&m);
    ck_assert_str_eq(c->listen, "0.0.0.0:7627");
    ck_assert_uint_eq(c->n_clusters, 1);
    ck_assert_str_eq(c->clusters[0].name, "mail-1");
    ck_assert_str_eq(c->log_level, "info");
    witness_config_free(c);
    free(text);
    text = fill(
        "store = \"@/w.db\";\nclusters = ( { name = \"mail-1\"; key_file = \"@/cluster.key\"; },\n"
        "{ name = \"mail-1\"; key_file = \"@/no.key\"; } );\nlisten = \"7627\";",
        NULL, NULL);
    put(file, text, 0644);
    free(text);
    ck_assert_ptr_null(witness_config_load(file, &m));
    ck_assert_uint_eq(m.n, 3);
    config_mistakes_free(&m);
}
END_TEST

/* The shipped examples, with the places they name moved into the test's directory. */
static void copy_example(const char *name, const char *to)
{
    char cmd[700];
    snprintf(cmd, sizeof cmd,
             "sed -e 's,/etc/baton/,%s/,g; s,/var/lib/baton[a-z-]*/,%s/,; s,/var/log/baton/,%s/,' "
             "-e '/^user/s,\"baton\",\"nobody\",' '" BATON_SOURCE_DIR "/deploy/examples/%s' >%s",
             dir, dir, dir, name, to);
    ck_assert_int_eq(system(cmd), 0);
}

START_TEST(test_shipped_examples)
{
    static const char *const names[] = {"a.conf", "b.conf", "single.conf", "none.conf"};
    struct config_mistakes m = {.n = 0};
    char fence[300];
    snprintf(fence, sizeof fence, "%s/fence", dir);
    put(fence, "#!/bin/sh\n", 0755);
    for (unsigned i = 0; i < 4; i++) {
        copy_example(names[i], file);
        struct config *c = config_load(file, &m);
        assert_no_mistakes(&m);
        ck_assert_uint_eq(c->n_nodes, i == 2 ? 1 : 2);
        ck_assert_int_eq(c->node, i == 1 ? 'b' : 'a');
        config_free(c);
    }
    copy_example("witness.conf", file);
    struct witness_config *w = witness_config_load(file, &m);
    assert_no_mistakes(&m);
    witness_config_free(w);
}
END_TEST

START_TEST(test_durations_sizes_rates)
{
    uint64_t v;
    double rate;
    ck_assert(config_parse_duration("0s", &v) && v == 0);
    ck_assert(config_parse_duration("250ms", &v) && v == 250);
    ck_assert(config_parse_duration("7d", &v) && v == 604800000);
    ck_assert(!config_parse_duration("", &v) && !config_parse_duration("5", &v));
    ck_assert(!config_parse_duration("-5s", &v) && !config_parse_duration("5 weeks", &v));
    ck_assert(!config_parse_duration("99999999999999999999d", &v));
    ck_assert(!config_parse_duration("999999999999999d", &v));
    ck_assert(config_parse_size("512", &v) && v == 512);
    ck_assert(config_parse_size("10KB", &v) && v == 10000);
    ck_assert(config_parse_size("64MiB", &v) && v == 64u << 20);
    ck_assert(!config_parse_size("64M", &v) && !config_parse_size("MiB", &v));
    ck_assert(config_parse_rate("100/s", &rate) && rate == 100);
    ck_assert(config_parse_rate("6000/m", &rate) && rate == 100);
    ck_assert(!config_parse_rate("100", &rate));
}
END_TEST

START_TEST(test_networks)
{
    struct config_mistakes m;
    struct config *c = load("\"127.0.0.0/8\"", "\"10.1.2.128/25\", \"192.0.2.7\"", &m);
    assert_no_mistakes(&m);
    static const struct {
        uint8_t tail[4];
        bool in;
    } v4[] = {{{10, 1, 2, 128}, true}, {{10, 1, 2, 255}, true}, {{10, 1, 2, 127}, false},
              {{192, 0, 2, 7}, true},  {{192, 0, 2, 6}, false}, {{127, 0, 0, 1}, false}};
    uint8_t addr[16] = {[10] = 0xff, [11] = 0xff};
    for (unsigned i = 0; i < sizeof v4 / sizeof *v4; i++) {
        memcpy(addr + 12, v4[i].tail, 4);
        ck_assert(config_network_contains(c->relay_networks, c->n_relay_networks, addr) ==
                  v4[i].in);
    }
    uint8_t v6[16] = {[15] = 1}; /* ::1 */
    ck_assert(config_network_contains(c->relay_networks, c->n_relay_networks, v6));
    v6[0] = 0x20;
    ck_assert(!config_network_contains(c->relay_networks, c->n_relay_networks, v6));
    config_free(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_example);
    tcase_add_test(t, test_least_configuration_has_defaults);
    tcase_add_loop_test(t, test_mistake_names_line_and_remedy, 0,
                        (int)(sizeof mistakes / sizeof *mistakes));
    tcase_add_test(t, test_all_mistakes_are_collected);
    tcase_add_test(t, test_included_file_is_named);
    tcase_add_test(t, test_open_key_file_is_refused);
    tcase_add_test(t, test_not_a_file);
    tcase_add_test(t, test_reload_says_what_needs_a_restart);
    tcase_add_test(t, test_witness);
    tcase_add_test(t, test_shipped_examples);
    tcase_add_test(t, test_durations_sizes_rates);
    tcase_add_test(t, test_networks);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
