/* The configuration as plain data: what the file says, checked, with defaults filled in. Core:
 * config_libconfig.c reads the file. All strings belong to the config and live as long as it.
 * Durations in ms, sizes in bytes. */
#ifndef BATON_BASE_CONFIG_H
#define BATON_BASE_CONFIG_H

#include "node/base/buf.h"

enum { CONFIG_NODES_MAX = 2, CONFIG_ADDRESSES_MAX = 4 };

struct config_node {
    char name; /* 'a' or 'b' */
    char *addresses[CONFIG_ADDRESSES_MAX];
    unsigned n_addresses;
    uint16_t replication_port, health_port;
};

enum arbiter_type { ARBITER_WITNESS, ARBITER_ETCD, ARBITER_NONE };

struct config_arbiter {
    enum arbiter_type type;
    char *address;    /* witness: host:port */
    char **endpoints; /* etcd */
    unsigned n_endpoints;
    char *ca, *cert, *key, *user, *password;
    bool takeover_auto; /* none: takeover = "auto" */
    char **probes;
    unsigned n_probes;
    char *fence;
};

enum listener_tls { LISTENER_PLAIN, LISTENER_STARTTLS, LISTENER_IMPLICIT };
enum auth_mode { AUTH_OFF, AUTH_OPTIONAL, AUTH_REQUIRED };

struct config_listener {
    char *address; /* host:port */
    enum listener_tls tls;
    enum auth_mode auth;
};

struct config_network { /* CIDR */
    uint8_t addr[16];   /* IPv4 as v4-mapped */
    unsigned bits;      /* 0..128, counted on the 16 bytes */
};

enum route_kind { ROUTE_MX, ROUTE_HOST };
struct config_route {
    char *domain; /* lower case; "*" matches all; ".example.com" matches subdomains */
    enum route_kind kind;
    char *host; /* ROUTE_HOST: name or address literal without brackets */
    uint16_t port;
};

struct config_destination {
    char *domain; /* lower case; "*" is the default */
    unsigned connections, messages_per_connection;
    double rate_per_s; /* 0: no limit */
};

struct config_dkim {
    char *domain, *selector, *key;
};

enum when_alone { ALONE_ACCEPT, ALONE_REFUSE };
enum tls_policy { TLS_POLICY_NONE, TLS_POLICY_OPPORTUNISTIC };

struct config {
    char *file;
    char *cluster, *hostname, *key_file, *store, *control, *events, *user;
    char node; /* 'a' or 'b' */
    struct config_node nodes[CONFIG_NODES_MAX];
    unsigned n_nodes;
    struct config_arbiter arbiter;
    struct {
        unsigned heartbeat_ms, lease_ms, takeover_after_ms, standby_timeout_ms, stall_timeout_ms;
    } health;
    enum when_alone when_alone;
    struct {
        char *promoted, *demoted, *solo, *paired;
    } hooks;
    struct {
        uint64_t retention_ms, quarantine_ms, in_doubt_wait_ms, outcome_delay_ms;
        bool in_doubt_hold;
        uint64_t disk_reserve_bytes;
    } queue;
    char **dns_servers; /* host:port */
    unsigned n_dns_servers;
    char *log_level;
    char *http_listen; /* host:port */
    struct config_listener *listeners;
    unsigned n_listeners;
    char *tls_cert, *tls_key; /* NULL without TLS */
    char *auth_users;
    struct config_network *relay_networks;
    unsigned n_relay_networks;
    struct {
        uint64_t message_bytes;
        unsigned recipients, sessions, sessions_per_address;
        unsigned received_hops; /* loop limit, default 50 */
    } limits;
    struct {
        unsigned greeting_s, command_s, data_s; /* receiving time-outs; defaults 30, 300, 300 */
        unsigned errors;                        /* bad commands before 421; default 20 */
    } smtp;
    struct config_route *routes;
    unsigned n_routes;
    struct {
        unsigned connections;
        uint64_t *retry_ms;
        unsigned n_retry;
        uint64_t expire_ms;
        enum tls_policy tls;
    } delivery;
    struct config_destination *destinations;
    unsigned n_destinations;
    struct config_dkim *dkim;
    unsigned n_dkim;
};

struct witness_cluster {
    char *name, *key_file;
};
struct witness_config {
    char *file, *listen, *store, *user, *log_level;
    struct witness_cluster *clusters;
    unsigned n_clusters;
};

/* One mistake: "FILE:LINE: text". config_load collects all that it finds, up to
 * CONFIG_MISTAKES_MAX. */
enum { CONFIG_MISTAKES_MAX = 100 };
struct config_mistakes {
    char *text[CONFIG_MISTAKES_MAX];
    unsigned n;
};
void config_mistakes_free(struct config_mistakes *m);

/* NULL if there is any mistake. Also checks that named files (key, certificate, users, hooks) can
 * be read and fit, that unknown keys are mistakes (with the nearest known name as remedy), and that
 * values lie in range. */
struct config *config_load(const char *file, struct config_mistakes *m);
void config_free(struct config *c);
struct witness_config *witness_config_load(const char *file, struct config_mistakes *m);
void witness_config_free(struct witness_config *c);
/* What differs between two configurations and needs a restart (store, node, addresses, listeners,
 * ...), as comma-separated names in out; empty when a reload can take all of it. */
const char *config_needs_restart(const struct config *old, const struct config *fresh, char *out,
                                 size_t n);

/* "1s", "100ms", "5m", "4h", "7d", "2ms" -> ms; false: not a duration. */
bool config_parse_duration(const char *text, uint64_t *ms);
/* "64MiB", "10KB", "512" -> bytes. */
bool config_parse_size(const char *text, uint64_t *bytes);
/* "100/s", "6000/m" -> per second. */
bool config_parse_rate(const char *text, double *per_s);
/* Who may relay: address as 16 bytes, IPv4 v4-mapped. */
bool config_network_contains(const struct config_network *nets, unsigned n, const uint8_t addr[16]);
static inline const struct config_node *config_self(const struct config *c)
{
    return &c->nodes[c->n_nodes == 2 && c->nodes[1].name == c->node];
}
static inline const struct config_node *config_peer(const struct config *c)
{
    return c->n_nodes < 2 ? 0 : &c->nodes[c->nodes[0].name == c->node];
}
#endif
