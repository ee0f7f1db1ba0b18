/* The tables of all settings: names, defaults, bounds and what to tell somebody who got one wrong.
 * Core: data only. */
#include "node/base/config_rows.h"

#define HELP_DURATION "a number with a unit in quotes, like \"1s\" (ms, s, m, h, d)"
#define HELP_SIZE     "a number with a unit in quotes, like \"50MiB\" (B, KB, MB, GB, KiB, MiB, GiB)"
#define HELP_ADDRESS  "an IP address and a port, like \"127.0.0.1:25\" or \"[::1]:25\""
#define HELP_DOMAIN                                                                                \
    "a domain like \"example.com\", \".example.com\" for all below it, or \"*\" for all"

#define SECOND 1000ull
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)

#define AT(field)            offsetof(struct config, field)
#define STRING(nm, field, h) .name = nm, .kind = SETTING_STRING, .at = AT(field), .help = h
#define MS(nm, field, d, lo, hi)                                                                   \
    {                                                                                              \
        .name = nm, .kind = SETTING_TEXT, .at = AT(field), .def = d, .min = lo, .max = hi,         \
        .set = value_set_duration, .item = sizeof((struct config *)0)->field,                      \
        .help = HELP_DURATION                                                                      \
    }
#define NUMBER(nm, field, d, lo, hi)                                                               \
    {                                                                                              \
        .name = nm, .kind = SETTING_NUMBER, .at = AT(field), .def = d, .min = lo, .max = hi,       \
        .help = "a whole number"                                                                   \
    }
#define WORD(nm, type, field, d, w, h)                                                             \
    {                                                                                              \
        .name = nm, .kind = SETTING_TEXT, .at = offsetof(type, field), .def = d,                   \
        .set = value_set_word, .words = w, .item = sizeof((type *)0)->field, .help = h             \
    }

/* Widths that value_set_word relies on. */
_Static_assert(sizeof(enum arbiter_type) == sizeof(unsigned), "enums are as wide as unsigned");

static const char *const words_arbiter[] = {"witness", "etcd", "none", NULL};
static const char *const words_takeover[] = {"manual", "auto", NULL};
static const char *const words_alone[] = {"accept", "refuse", NULL};
static const char *const words_in_doubt[] = {"resend", "hold", NULL};
static const char *const words_listener_tls[] = {"none", "starttls", "implicit", NULL};
static const char *const words_auth[] = {"off", "optional", "required", NULL};
static const char *const words_tls[] = {"none", "opportunistic", NULL};

/* Bounds: a heartbeat below 10 ms costs more than it tells; above a minute nothing takes over. */
static const struct setting health_rows[] = {
    MS("heartbeat", health.heartbeat_ms, "100ms", 10, 60 * SECOND),
    MS("lease", health.lease_ms, "1s", 100, 600 * SECOND),
    MS("takeover_after", health.takeover_after_ms, "1s", 100, 600 * SECOND),
    MS("standby_timeout", health.standby_timeout_ms, "1s", 100, 600 * SECOND),
    MS("stall_timeout", health.stall_timeout_ms, "1s", 100, 600 * SECOND),
    {0}};

#define HOOK_HELP "the absolute path of an executable file, like \"/etc/baton/promoted\""
static const struct setting hook_rows[] = {
    {STRING("promoted", hooks.promoted, HOOK_HELP), .set = value_check_path},
    {STRING("demoted", hooks.demoted, HOOK_HELP), .set = value_check_path},
    {STRING("solo", hooks.solo, HOOK_HELP), .set = value_check_path},
    {STRING("paired", hooks.paired, HOOK_HELP), .set = value_check_path},
    {0}};

static const struct setting queue_rows[] = {
    MS("retention", queue.retention_ms, "7d", SECOND, 3650 * DAY),
    MS("quarantine", queue.quarantine_ms, "4h", SECOND, 365 * DAY),
    WORD("in_doubt", struct config, queue.in_doubt_hold, "resend", words_in_doubt,
         "\"resend\" (at least once) or \"hold\" (at most once)"),
    MS("in_doubt_wait", queue.in_doubt_wait_ms, "30s", 0, DAY),
    MS("outcome_delay", queue.outcome_delay_ms, "2ms", 0, SECOND),
    {.name = "disk_reserve",
     .kind = SETTING_TEXT,
     .at = AT(queue.disk_reserve_bytes),
     .def = "64MiB",
     .max = UINT64_MAX,
     .set = value_set_size,
     .item = sizeof(uint64_t),
     .help = HELP_SIZE},
    {0}};

static const struct setting arbiter_rows[] = {
    {.name = "type",
     .kind = SETTING_TEXT,
     .at = AT(arbiter.type),
     .set = value_set_word,
     .words = words_arbiter,
     .item = sizeof(enum arbiter_type),
     .required = true,
     .help = "\"witness\" (our own third voter), \"etcd\" or \"none\""},
    {STRING("address", arbiter.address,
            "the witness's IP address and port, like \"10.0.0.3:7627\""),
     .set = value_check_endpoint},
    {.name = "endpoints",
     .kind = SETTING_STRINGS,
     .at = AT(arbiter.endpoints),
     .count_at = AT(arbiter.n_endpoints),
     .max = 16,
     .set = value_check_url,
     .help = "URLs, like [ \"http://10.0.0.3:2379\" ]"},
    {STRING("ca", arbiter.ca, "the absolute path of a PEM file"), .set = value_check_path},
    {STRING("cert", arbiter.cert, "the absolute path of a PEM file"), .set = value_check_path},
    {STRING("key", arbiter.key, "the absolute path of a PEM file"), .set = value_check_path},
    {STRING("user", arbiter.user, "etcd's user name")},
    {STRING("password", arbiter.password, "etcd's password")},
    WORD("takeover", struct config, arbiter.takeover_auto, NULL, words_takeover,
         "\"manual\" or \"auto\""),
    {.name = "probes",
     .kind = SETTING_STRINGS,
     .at = AT(arbiter.probes),
     .count_at = AT(arbiter.n_probes),
     .max = 8, /* JUDGE_PROBES_MAX */
     .set = value_check_endpoint,
     .help = "addresses to reach, like [ \"10.0.0.254:53\" ]"},
    {STRING("fence", arbiter.fence, HOOK_HELP), .set = value_check_path},
    {0}};

static const struct setting dns_rows[] = {{.name = "servers",
                                           .kind = SETTING_STRINGS,
                                           .at = AT(dns_servers),
                                           .count_at = AT(n_dns_servers),
                                           .max = 8,
                                           .set = value_check_endpoint,
                                           .help = "addresses, like [ \"127.0.0.1:53\" ]"},
                                          {0}};

#define LOG_HELP "\"debug\", \"info\", \"warn\" or \"error\""
static const struct setting log_rows[] = {
    {STRING("level", log_level, LOG_HELP), .def = "info", .set = value_check_level}, {0}};
static const struct setting http_rows[] = {{STRING("listen", http_listen, HELP_ADDRESS),
                                            .def = "127.0.0.1:8025", .set = value_check_endpoint},
                                           {0}};
static const struct setting tls_rows[] = {
    {STRING("cert", tls_cert, "the absolute path of a PEM file"), .set = value_check_path,
     .required = true},
    {STRING("key", tls_key, "the absolute path of a PEM file"), .set = value_check_path,
     .required = true},
    {0}};
static const struct setting auth_rows[] = {
    {STRING("users", auth_users, "the absolute path of a file made by `batonctl passwd FILE USER`"),
     .set = value_check_path, .required = true},
    {0}};

/* Bounds: memory and file descriptors that one machine can have. */
static const struct setting limit_rows[] = {
    {.name = "message_size",
     .kind = SETTING_TEXT,
     .at = AT(limits.message_bytes),
     .def = "50MiB",
     .min = 1024,
     .max = 1024ull * 1024 * 1024,
     .set = value_set_size,
     .item = sizeof(uint64_t),
     .help = HELP_SIZE},
    NUMBER("recipients", limits.recipients, "1000", 1, 50000),
    NUMBER("sessions", limits.sessions, "2000", 1, 100000),
    NUMBER("sessions_per_address", limits.sessions_per_address, "50", 1, 100000),
    NUMBER("received_hops", limits.received_hops, "50", 1, 1000),
    {0}};

#define SECONDS(nm, field, d)                                                                      \
    {                                                                                              \
        .name = nm, .kind = SETTING_TEXT, .at = AT(field), .def = d, .min = SECOND, .max = HOUR,   \
        .set = value_set_seconds, .item = sizeof(unsigned), .help = HELP_DURATION                  \
    }
static const struct setting smtp_rows[] = {SECONDS("greeting", smtp.greeting_s, "30s"),
                                           SECONDS("command", smtp.command_s, "300s"),
                                           SECONDS("data", smtp.data_s, "300s"),
                                           NUMBER("errors", smtp.errors, "20", 1, 1000),
                                           {0}};

static const struct setting delivery_rows[] = {
    NUMBER("connections", delivery.connections, "500", 1, 20000),
    {.name = "retry",
     .kind = SETTING_TEXTS,
     .at = AT(delivery.retry_ms),
     .count_at = AT(delivery.n_retry),
     .def = "1m 5m 15m 1h 4h",
     .min = 100,
     .max = 7 * DAY,
     .set = value_set_duration,
     .item = sizeof(uint64_t),
     .help = "durations, like [ \"1m\", \"5m\", \"1h\" ]; the last one is repeated"},
    MS("expire", delivery.expire_ms, "5d", SECOND, 365 * DAY),
    WORD("tls", struct config, delivery.tls, "opportunistic", words_tls,
         "\"opportunistic\" or \"none\""),
    {0}};

#undef AT
#define AT(type, field) offsetof(struct type, field)

const struct setting config_node_rows[] = {{.name = "addresses",
                                            .kind = SETTING_STRINGS,
                                            .at = AT(config_node, addresses),
                                            .count_at = AT(config_node, n_addresses),
                                            .max = CONFIG_ADDRESSES_MAX,
                                            .set = value_check_ip,
                                            .inplace = true,
                                            .help = "IP addresses, like [ \"10.0.0.1\" ]"},
                                           {.name = "replication_port",
                                            .kind = SETTING_PORT,
                                            .at = AT(config_node, replication_port),
                                            .def = "7625",
                                            .min = 1,
                                            .max = 65535,
                                            .help = "a port number"},
                                           {.name = "health_port",
                                            .kind = SETTING_PORT,
                                            .at = AT(config_node, health_port),
                                            .def = "7626",
                                            .min = 1,
                                            .max = 65535,
                                            .help = "a port number"},
                                           {0}};

static const struct setting listener_rows[] = {
    {.name = "address",
     .kind = SETTING_STRING,
     .at = AT(config_listener, address),
     .set = value_check_endpoint,
     .required = true,
     .help = HELP_ADDRESS},
    WORD("tls", struct config_listener, tls, "none", words_listener_tls,
         "\"none\", \"starttls\" or \"implicit\""),
    WORD("auth", struct config_listener, auth, "off", words_auth,
         "\"off\", \"optional\" or \"required\""),
    {0}};

#define DOMAIN(type)                                                                               \
    {                                                                                              \
        .name = "domain", .kind = SETTING_STRING, .at = AT(type, domain),                          \
        .set = value_check_domain, .required = true, .help = HELP_DOMAIN                           \
    }
static const struct setting route_rows[] = {
    DOMAIN(config_route),
    {.name = "via",
     .kind = SETTING_VIA,
     .set = value_set_via,
     .required = true,
     .help = "\"mx\", or \"smtp://HOST:PORT\" with a name, an address or [an IPv6 address]"},
    {0}};

static const struct setting destination_rows[] = {
    DOMAIN(config_destination),
    {.name = "connections",
     .kind = SETTING_NUMBER,
     .at = AT(config_destination, connections),
     .def = "20",
     .min = 1,
     .max = 10000,
     .help = "a whole number"},
    {.name = "messages_per_connection",
     .kind = SETTING_NUMBER,
     .at = AT(config_destination, messages_per_connection),
     .def = "100",
     .min = 1,
     .max = 1000000,
     .help = "a whole number"},
    {.name = "rate",
     .kind = SETTING_TEXT,
     .at = AT(config_destination, rate_per_s),
     .set = value_set_rate,
     .item = sizeof(double),
     .help = "messages in a time, like \"100/s\" (/s, /m, /h, /d)"},
    {0}};

static const struct setting dkim_rows[] = {DOMAIN(config_dkim),
                                           {.name = "selector",
                                            .kind = SETTING_STRING,
                                            .at = AT(config_dkim, selector),
                                            .set = value_check_host,
                                            .required = true,
                                            .help = "the selector's name, like \"s1\""},
                                           {.name = "key",
                                            .kind = SETTING_STRING,
                                            .at = AT(config_dkim, key),
                                            .set = value_check_path,
                                            .required = true,
                                            .help = "the absolute path of a PEM file"},
                                           {0}};

#define LIST(nm, field, type, r)                                                                   \
    .name = nm, .kind = SETTING_LIST, .at = AT(config, field), .count_at = AT(config, n_##field),  \
    .max = 10000, .rows = r, .item = sizeof(struct type), .help = "a list: ( { ... }, { ... } )"
#define GROUP(nm, r) .name = nm, .kind = SETTING_GROUP, .rows = r, .help = "a group: { ... }"
#define PATH(nm, field, h)                                                                         \
    .name = nm, .kind = SETTING_STRING, .at = AT(config, field), .set = value_check_path, .help = h

const struct setting config_settings[] = {
    {.name = "cluster",
     .kind = SETTING_STRING,
     .at = AT(config, cluster),
     .set = value_check_word,
     .required = true,
     .restart = true,
     .help =
         "a name of letters, digits, '-', '_' and '.', the same on both nodes, like \"mail-1\""},
    {.name = "node",
     .kind = SETTING_TEXT,
     .at = AT(config, node),
     .set = value_set_node,
     .item = sizeof(char),
     .required = true,
     .restart = true,
     .help = "\"a\" or \"b\""},
    {.name = "hostname",
     .kind = SETTING_STRING,
     .at = AT(config, hostname),
     .set = value_check_host,
     .restart = true,
     .help = "the name to greet with, like \"mx1.example.com\""},
    {PATH("key_file", key_file, "the absolute path of a file made by `batonctl keygen FILE`"),
     .required = true, .restart = true},
    {PATH("store", store, "an absolute path, like \"/var/lib/baton/a.db\""), .required = true,
     .restart = true},
    {PATH("control", control, "an absolute path, like \"/run/baton/control.sock\""),
     .def = "/run/baton/control.sock", .restart = true},
    {PATH("events", events, "an absolute path, like \"/var/log/baton/events.jsonl\""),
     .restart = true},
    {.name = "user",
     .kind = SETTING_STRING,
     .at = AT(config, user),
     .set = value_check_word,
     .restart = true,
     .help = "a user of this machine, like \"baton\""},
    {.name = "nodes",
     .kind = SETTING_NODES,
     .at = AT(config, nodes),
     .count_at = AT(config, n_nodes),
     .rows = config_node_rows,
     .item = sizeof(struct config_node),
     .required = true,
     .restart = true,
     .help = "nodes = { a = { addresses = [ \"10.0.0.1\" ]; }; b = { addresses = [ \"10.0.0.2\" ]; "
             "}; }"},
    {GROUP("arbiter", arbiter_rows), .restart = true},
    {GROUP("health", health_rows), .restart = true},
    WORD("when_alone", struct config, when_alone, "accept", words_alone,
         "\"accept\" or \"refuse\""),
    {GROUP("hooks", hook_rows), .restart = true},
    {GROUP("queue", queue_rows), .restart = true},
    {GROUP("dns", dns_rows), .restart = true},
    {GROUP("log", log_rows)},
    {GROUP("http", http_rows), .restart = true},
    {LIST("listeners", listeners, config_listener, listener_rows), .required = true,
     .restart = true},
    {GROUP("tls", tls_rows)},
    {GROUP("auth", auth_rows)},
    {.name = "relay_networks",
     .kind = SETTING_TEXTS,
     .at = AT(config, relay_networks),
     .count_at = AT(config, n_relay_networks),
     .def = "127.0.0.0/8 ::1/128",
     .max = UINT64_MAX,
     .set = value_set_network,
     .item = sizeof(struct config_network),
     .help = "networks, like [ \"127.0.0.0/8\", \"::1/128\" ]"},
    {GROUP("limits", limit_rows)},
    {GROUP("smtp", smtp_rows)},
    {LIST("routes", routes, config_route, route_rows)},
    {GROUP("delivery", delivery_rows)},
    {LIST("destinations", destinations, config_destination, destination_rows)},
    {LIST("dkim", dkim, config_dkim, dkim_rows)},
    {0}};

static const struct setting witness_cluster_rows[] = {
    {.name = "name",
     .kind = SETTING_STRING,
     .at = AT(witness_cluster, name),
     .set = value_check_word,
     .required = true,
     .help = "the cluster's name, as in the nodes' files"},
    {.name = "key_file",
     .kind = SETTING_STRING,
     .at = AT(witness_cluster, key_file),
     .set = value_check_path,
     .required = true,
     .help = "the absolute path of a copy of that cluster's key file"},
    {0}};

static const struct setting witness_log_rows[] = {{.name = "level",
                                                   .kind = SETTING_STRING,
                                                   .at = AT(witness_config, log_level),
                                                   .def = "info",
                                                   .set = value_check_level,
                                                   .help = LOG_HELP},
                                                  {0}};

const struct setting witness_settings[] = {{.name = "listen",
                                            .kind = SETTING_STRING,
                                            .at = AT(witness_config, listen),
                                            .def = "0.0.0.0:7627",
                                            .set = value_check_endpoint,
                                            .help = HELP_ADDRESS},
                                           {.name = "store",
                                            .kind = SETTING_STRING,
                                            .at = AT(witness_config, store),
                                            .set = value_check_path,
                                            .required = true,
                                            .help = "an absolute path, like "
                                                    "\"/var/lib/baton-witness/witness.db\""},
                                           {.name = "user",
                                            .kind = SETTING_STRING,
                                            .at = AT(witness_config, user),
                                            .set = value_check_word,
                                            .help = "a user of this machine, like \"baton\""},
                                           {GROUP("log", witness_log_rows)},
                                           {.name = "clusters",
                                            .kind = SETTING_LIST,
                                            .at = AT(witness_config, clusters),
                                            .count_at = AT(witness_config, n_clusters),
                                            .max = 1000,
                                            .rows = witness_cluster_rows,
                                            .item = sizeof(struct witness_cluster),
                                            .required = true,
                                            .help = "clusters = ( { name = \"mail-1\"; key_file = "
                                                    "\"/etc/baton/cluster.key\"; } )"},
                                           {0}};
