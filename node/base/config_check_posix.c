/* What one setting alone doesn't tell: relations between settings, and whether the files,
 * directories and users that they name are there. Reads the file system and the user database;
 * changes nothing. */
#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/base/config_rows.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/tls_openssl.h"

static void check_directory(struct config_reading *r, const char *path, const char *file)
{
    struct stat st;
    const char *slash = file ? strrchr(file, '/') : NULL;
    if (!slash)
        return;
    char dir[4096];
    snprintf(dir, sizeof dir, "%.*s", (int)(slash == file ? 1 : slash - file), file);
    if (stat(dir, &st) != 0)
        config_mistake(r, path, "%s: %s: %s; create the directory", path, dir, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        config_mistake(r, path, "%s: %s is not a directory; name a file in one", path, dir);
    else if (stat(file, &st) == 0 && !S_ISREG(st.st_mode))
        config_mistake(r, path, "%s: %s is there and not a regular file; name a file", path, file);
}

static bool check_readable(struct config_reading *r, const char *path, const char *file)
{
    struct stat st;
    if (stat(file, &st) != 0)
        config_mistake(r, path, "%s: %s: %s; create it or correct the path", path, file,
                       strerror(errno));
    else if (!S_ISREG(st.st_mode))
        config_mistake(r, path, "%s: %s is not a regular file; name a file", path, file);
    else if (access(file, R_OK) != 0)
        config_mistake(r, path, "%s: %s: %s; let this user read it", path, file, strerror(errno));
    else
        return true;
    return false;
}

static void check_command(struct config_reading *r, const char *path, const char *file)
{
    struct stat st;
    if (!file)
        return;
    if (stat(file, &st) != 0)
        config_mistake(r, path, "%s: %s: %s; create it or correct the path", path, file,
                       strerror(errno));
    else if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
        config_mistake(r, path, "%s: %s is not executable; chmod +x %s", path, file, file);
}

static void check_user(struct config_reading *r, const char *user)
{
    if (user && !getpwnam(user))
        config_mistake(r, "user",
                       "user: there is no user \"%s\" here; create it with `useradd "
                       "--system %s` or correct the name",
                       user, user);
}

void config_check_key(struct config_reading *r, const char *path, const char *file,
                      const char *user)
{
    if (!file)
        return;
    /* The key is read at the start, before privileges are dropped, and never again: a reload as
     * that user need not be able to read it. */
    const struct passwd *pw = user ? getpwnam(user) : NULL;
    if (pw && pw->pw_uid != 0 && pw->pw_uid == geteuid() && access(file, R_OK) != 0 &&
        errno == EACCES)
        return;
    uint8_t key[CLUSTER_KEY_BYTES];
    char err[400];
    if (!crypto_key_load(file, key, err, sizeof err))
        config_mistake(r, path, "key_file: %s", err);
    memset(key, 0, sizeof key);
}

static bool is_wildcard(const char *endpoint, const char *colon)
{
    size_t n = (size_t)(colon - endpoint);
    return (n == 7 && strncmp(endpoint, "0.0.0.0", n) == 0) ||
           (n == 4 && strncmp(endpoint, "[::]", n) == 0);
}

/* Would binding both fail? Compared as text; both were checked to be addresses with ports. */
static bool endpoints_clash(const char *a, const char *b)
{
    const char *pa = strrchr(a, ':'), *pb = strrchr(b, ':');
    if (strtoul(pa + 1, NULL, 10) != strtoul(pb + 1, NULL, 10))
        return false;
    if (pa - a == pb - b && strncasecmp(a, b, (size_t)(pa - a)) == 0)
        return true;
    return is_wildcard(a, pa) || is_wildcard(b, pb);
}

struct bound { /* TCP endpoints of this node */
    char path[60], text[80];
};
enum { BOUND_MAX = 64 };

static void add_bound(struct bound *all, unsigned *n, const char *path, const char *text)
{
    if (*n >= BOUND_MAX || !text)
        return;
    struct bound *b = &all[(*n)++];
    snprintf(b->path, sizeof b->path, "%s", path);
    snprintf(b->text, sizeof b->text, "%s", text);
}

static void check_ports(struct config_reading *r, const struct config *c)
{
    struct bound all[BOUND_MAX];
    unsigned n = 0;
    char path[60], text[80];
    const struct config_node *self = config_self(c);
    for (unsigned i = 0; c->n_nodes == 2 && i < self->n_addresses; i++) {
        const char *a = self->addresses[i];
        snprintf(text, sizeof text, a && strchr(a, ':') ? "[%s]:%u" : "%s:%u", a ? a : "",
                 self->replication_port);
        snprintf(path, sizeof path, "nodes.%c.replication_port", self->name);
        if (a)
            add_bound(all, &n, path, text);
    }
    add_bound(all, &n, "http.listen", c->http_listen);
    for (unsigned i = 0; i < c->n_listeners; i++) {
        snprintf(path, sizeof path, "listeners.[%u].address", i);
        add_bound(all, &n, path, c->listeners[i].address);
    }
    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j < i; j++) {
            if (endpoints_clash(all[i].text, all[j].text)) {
                config_mistake(r, all[i].path,
                               "%s: %s is taken by %s (%s) already; give it another port",
                               all[i].path, all[i].text, all[j].path, all[j].text);
                break;
            }
        }
    }
}

static void check_listeners(struct config_reading *r, struct config *c)
{
    bool auth = false;
    if (config_given(r, "listeners") && c->n_listeners == 0)
        config_mistake(r, "listeners",
                       "listeners is empty; write listeners = ( { address = "
                       "\"0.0.0.0:25\"; } )");
    for (unsigned i = 0; i < c->n_listeners; i++) {
        struct config_listener *l = &c->listeners[i];
        char path[60];
        snprintf(path, sizeof path, "listeners.[%u].tls", i);
        if (l->tls != LISTENER_PLAIN && !config_given(r, "tls"))
            config_mistake(r, path,
                           "this listener speaks TLS, but there is no tls = { cert = ...; key = "
                           "...; }; add it or set tls = \"none\"");
        snprintf(path, sizeof path, "listeners.[%u].auth", i);
        /* Users are there and TLS is: whoever can log in may. */
        if (!config_given(r, path) && c->auth_users && l->tls != LISTENER_PLAIN)
            l->auth = AUTH_OPTIONAL;
        if (l->auth == AUTH_OFF)
            continue;
        auth = true;
        if (l->tls == LISTENER_PLAIN)
            config_mistake(r, path,
                           "AUTH is offered only under TLS; set tls = \"starttls\" or "
                           "\"implicit\" for this listener");
        if (!config_given(r, "auth"))
            config_mistake(r, path,
                           "this listener asks for AUTH, but there is no auth = { users = "
                           "...; }; add it (the file comes from `batonctl passwd`)");
    }
    if (c->auth_users && check_readable(r, "auth.users", c->auth_users) && !auth)
        log_warn("config.unused", "setting=auth why=\"no listener has auth\"");
    if (!c->tls_cert || !c->tls_key)
        return;
    bool cert = check_readable(r, "tls.cert", c->tls_cert);
    if (check_readable(r, "tls.key", c->tls_key) && cert) {
        char err[400];
        struct tls_ctx *t = tls_ctx_server(c->tls_cert, c->tls_key, err, sizeof err);
        if (t)
            tls_ctx_unref(t);
        else
            config_mistake(r, "tls.cert",
                           "tls: %s; certificate and key must be PEM and belong "
                           "together",
                           err);
    }
}

static void check_health(struct config_reading *r, const struct config *c)
{
    unsigned hb = c->health.heartbeat_ms;
    /* A lease must outlive two lost heartbeats, or each lost datagram drops the standby. */
    if (hb * 3 > c->health.lease_ms)
        config_mistake(r, config_given(r, "health.lease") ? "health.lease" : "health.heartbeat",
                       "health.lease (%u ms) must be at least three heartbeats (3 x %u ms); make "
                       "it longer or the heartbeat shorter",
                       c->health.lease_ms, hb);
    if (hb * 3 > c->health.takeover_after_ms)
        config_mistake(
            r,
            config_given(r, "health.takeover_after") ? "health.takeover_after" : "health.heartbeat",
            "health.takeover_after (%u ms) must be at least three heartbeats (3 x %u ms); make it "
            "longer or the heartbeat shorter",
            c->health.takeover_after_ms, hb);
}

static void check_etcd(struct config_reading *r, const struct config_arbiter *a)
{
    bool tls = false;
    for (unsigned i = 0; i < a->n_endpoints; i++)
        tls |= a->endpoints[i] && strncmp(a->endpoints[i], "https://", 8) == 0;
    if (a->n_endpoints == 0)
        config_mistake(r, "arbiter",
                       "arbiter.endpoints is missing; write endpoints = [ "
                       "\"http://10.0.0.3:2379\" ]");
    if (a->n_endpoints && !tls && (a->ca || a->cert || a->key))
        config_mistake(r, "arbiter.endpoints",
                       "arbiter.ca, cert and key are for TLS, but no endpoint begins with "
                       "https://; write https:// or remove them");
    if ((a->cert == NULL) != (a->key == NULL))
        config_mistake(r, a->cert ? "arbiter.cert" : "arbiter.key",
                       "arbiter.cert and arbiter.key belong together; give both or none");
    if ((a->user == NULL) != (a->password == NULL))
        config_mistake(r, a->user ? "arbiter.user" : "arbiter.password",
                       "arbiter.user and arbiter.password belong together; give both or none");
    if (a->ca)
        check_readable(r, "arbiter.ca", a->ca);
    if (a->cert)
        check_readable(r, "arbiter.cert", a->cert);
    if (a->key)
        check_readable(r, "arbiter.key", a->key);
}

static void check_arbiter(struct config_reading *r, const struct config *c)
{
    const struct config_arbiter *a = &c->arbiter;
    bool given = config_given(r, "arbiter.type");
    if (c->n_nodes < 2) {
        if (given && a->type != ARBITER_NONE)
            config_mistake(r, "arbiter.type",
                           "a single node has no arbiter; set arbiter = { type "
                           "= \"none\"; } or add the second node to nodes");
        return;
    }
    if (!config_given(r, "arbiter")) {
        config_mistake(r, "nodes",
                       "two nodes need an arbiter; add arbiter = { type = \"witness\"; "
                       "address = \"10.0.0.3:7627\"; }");
        return;
    }
    if (!given)
        return;
    if (a->type == ARBITER_WITNESS && !config_given(r, "arbiter.address"))
        config_mistake(r, "arbiter",
                       "arbiter.address is missing; write the witness's address and "
                       "port, like \"10.0.0.3:7627\"");
    if (a->type == ARBITER_ETCD)
        check_etcd(r, a);
    if (a->type == ARBITER_NONE) {
        if (!config_given(r, "arbiter.takeover"))
            config_mistake(r, "arbiter",
                           "without an arbiter there is no default for takeover: "
                           "choose \"manual\" or \"auto\"");
        else if (a->takeover_auto && a->n_probes == 0)
            config_mistake(r, "arbiter.takeover",
                           "takeover = \"auto\" needs probes, so that a node that is cut off "
                           "itself doesn't take the other one for dead; add probes = [ "
                           "\"10.0.0.254:53\" ] (addresses that both nodes can reach)");
        else if (!a->takeover_auto && (a->n_probes || a->fence))
            config_mistake(r, a->n_probes ? "arbiter.probes" : "arbiter.fence",
                           "is used with takeover = \"auto\" only; remove it or change takeover");
        check_command(r, "arbiter.fence", a->fence);
    }
}

static void check_nodes(struct config_reading *r, const struct config *c)
{
    if (c->n_nodes == 0)
        return;
    bool listed = false;
    for (unsigned i = 0; i < c->n_nodes; i++) {
        const struct config_node *node = &c->nodes[i];
        char path[40];
        snprintf(path, sizeof path, "nodes.%c", node->name);
        listed |= node->name == c->node;
        if (c->n_nodes == 2 && node->n_addresses == 0)
            config_mistake(r, path, "%s.addresses is missing; write %s", path,
                           config_node_rows[0].help);
    }
    if (c->node && !listed)
        config_mistake(r, "node", "node \"%c\" is not in nodes; add it there or correct the name",
                       c->node);
    if (c->n_nodes < 2)
        return;
    const struct config_node *a = &c->nodes[0], *b = &c->nodes[1];
    for (unsigned i = 0; i < a->n_addresses; i++) {
        for (unsigned j = 0; j < b->n_addresses; j++) {
            if (a->addresses[i] && b->addresses[j] &&
                strcmp(a->addresses[i], b->addresses[j]) == 0 &&
                (a->replication_port == b->replication_port || a->health_port == b->health_port))
                config_mistake(r, "nodes.b.addresses",
                               "both nodes have the address %s and the same ports; correct the "
                               "address, or give b ports of its own",
                               b->addresses[j]);
        }
    }
}

static void lower(char *s)
{
    for (; s && *s; s++)
        *s = (char)tolower((unsigned char)*s);
}

/* The second of two entries for one domain would never be used. */
static void check_twice(struct config_reading *r, const char *list, unsigned i, const char *domain,
                        const char *other)
{
    char path[60];
    if (!domain || !other || strcmp(domain, other) != 0)
        return;
    snprintf(path, sizeof path, "%s.[%u].domain", list, i);
    config_mistake(r, path, "%s: \"%s\" is there twice; remove one", list, domain);
}

static void check_domains(struct config_reading *r, struct config *c)
{
    for (unsigned i = 0; i < c->n_routes; i++) {
        lower(c->routes[i].domain);
        for (unsigned j = 0; j < i; j++)
            check_twice(r, "routes", i, c->routes[i].domain, c->routes[j].domain);
    }
    for (unsigned i = 0; i < c->n_destinations; i++) {
        lower(c->destinations[i].domain);
        for (unsigned j = 0; j < i; j++)
            check_twice(r, "destinations", i, c->destinations[i].domain, c->destinations[j].domain);
    }
    for (unsigned i = 0; i < c->n_dkim; i++) {
        char path[60];
        lower(c->dkim[i].domain);
        snprintf(path, sizeof path, "dkim.[%u].key", i);
        if (c->dkim[i].key)
            check_readable(r, path, c->dkim[i].key);
    }
    if (c->n_dkim)
        log_warn("config.unused", "setting=dkim why=\"this version doesn't sign\"");
}

void config_check(struct config_reading *r, struct config *c)
{
    struct sockaddr_un un;
    check_nodes(r, c);
    check_arbiter(r, c);
    check_health(r, c);
    if (c->n_nodes > 0)
        check_ports(r, c);
    check_listeners(r, c);
    check_domains(r, c);
    if (config_given(r, "delivery.retry") && c->delivery.n_retry == 0)
        config_mistake(r, "delivery.retry",
                       "delivery.retry is empty; write retry = [ \"1m\", "
                       "\"5m\", \"1h\" ]");
    check_user(r, c->user);
    config_check_key(r, "key_file", c->key_file, c->user);
    check_directory(r, "store", c->store);
    check_directory(r, "events", c->events);
    if (c->control && strlen(c->control) >= sizeof un.sun_path)
        config_mistake(r, "control",
                       "control: a socket's path has at most %zu bytes; use a "
                       "shorter one",
                       sizeof un.sun_path - 1);
    check_command(r, "hooks.promoted", c->hooks.promoted);
    check_command(r, "hooks.demoted", c->hooks.demoted);
    check_command(r, "hooks.solo", c->hooks.solo);
    check_command(r, "hooks.paired", c->hooks.paired);
}

void witness_config_check(struct config_reading *r, struct witness_config *c)
{
    if (config_given(r, "clusters") && c->n_clusters == 0)
        config_mistake(r, "clusters",
                       "clusters is empty; write clusters = ( { name = \"mail-1\"; "
                       "key_file = \"/etc/baton/cluster.key\"; } )");
    for (unsigned i = 0; i < c->n_clusters; i++) {
        char path[60];
        for (unsigned j = 0; j < i; j++) {
            if (c->clusters[i].name && c->clusters[j].name &&
                strcmp(c->clusters[i].name, c->clusters[j].name) == 0) {
                snprintf(path, sizeof path, "clusters.[%u].name", i);
                config_mistake(r, path, "cluster \"%s\" is there twice; remove one",
                               c->clusters[i].name);
            }
        }
        snprintf(path, sizeof path, "clusters.[%u].key_file", i);
        config_check_key(r, path, c->clusters[i].key_file, c->user);
    }
    check_user(r, c->user);
    check_directory(r, "store", c->store);
}
