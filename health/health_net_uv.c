/* See health_net_uv.h. Plain sockets with uv_poll rather than uv_udp: they can be drained at a
 * chosen moment. */
#include "health/health_net_uv.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/base/stream_uv.h"

enum {
    SOCKETS_MAX = CONFIG_ADDRESSES_MAX + 1, /* and one for the witness */
    DRAIN_MAX = 256,     /* a socket's datagrams in one go: a flood must not stop the loop */
    LOOKUP_EVERY_S = 10, /* of a silent witness's name */
    LOOKUP_FIRST_S = 1,  /* after a look-up that failed */
};

struct socket {
    struct health_net *net;
    uv_poll_t poll;
    int fd;
    sa_family_t family;
};

struct health_net {
    uv_loop_t *loop;
    const struct config *config;
    struct datagram_seal seal;
    struct datagram_refused refused;
    health_net_receive receive;
    void *ctx;
    struct socket socket[SOCKETS_MAX];
    unsigned n_sockets, n_open; /* n_open: handles whose close callback is due */
    struct sockaddr_storage peer[CONFIG_ADDRESSES_MAX];
    unsigned n_peer;
    struct sockaddr_storage witness;
    struct socket *to_witness; /* NULL: not looked up yet */
    uv_getaddrinfo_t lookup;
    bool looking, closing;
    uint64_t lookup_ns; /* earliest next */
    char witness_host[256], witness_port[8];
    struct buf out;
};

static bool parse_address(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    return uv_ip4_addr(text, port, (struct sockaddr_in *)out) == 0 ||
           uv_ip6_addr(text, port, (struct sockaddr_in6 *)out) == 0;
}

static socklen_t address_size(const struct sockaddr_storage *a)
{
    return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static void take(struct health_net *net, struct slice bytes, const struct sockaddr_storage *from)
{
    struct datagram d;
    enum datagram_refusal why = REFUSED_NOISE;
    enum datagram_fault fault = datagram_parse(bytes, &d);
    if (fault == DATAGRAM_OTHER_VERSION)
        why = REFUSED_VERSION;
    if (fault != DATAGRAM_OK || !datagram_open(&net->seal, &d, &why)) {
        char source[64];
        address_print(source, (const struct sockaddr *)from);
        datagram_refused(&net->refused, why, source, d.cluster, clock_boot_ns());
        return;
    }
    net->receive(net->ctx, &d);
}

static void drain_socket(struct socket *s)
{
    for (unsigned i = 0; i < DRAIN_MAX; i++) {
        uint8_t bytes[DATAGRAM_BYTES_MAX + 1];
        struct sockaddr_storage from;
        socklen_t from_n = sizeof from;
        ssize_t n = recvfrom(s->fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &from_n);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n >= 0) /* else: an ICMP error of an earlier send; the silence tells */
            take(s->net, slice_of(bytes, (size_t)n), &from);
    }
}

void health_net_drain(struct health_net *net)
{
    for (unsigned i = 0; i < net->n_sockets; i++)
        drain_socket(&net->socket[i]);
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    (void)events;
    if (status == 0)
        drain_socket(p->data);
}

/* bind_to may be NULL. A negative errno on failure. */
static int open_socket(struct health_net *net, sa_family_t family,
                       const struct sockaddr_storage *bind_to)
{
    assert(net->n_sockets < SOCKETS_MAX);
    struct socket *s = &net->socket[net->n_sockets];
    s->net = net;
    s->family = family;
    s->fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return -errno;
    int one = 1, rc = 0;
    if (family == AF_INET6)
        setsockopt(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind_to && bind(s->fd, (const struct sockaddr *)bind_to, address_size(bind_to)) != 0) {
        rc = -errno;
        if (rc == -EADDRNOTAVAIL) {
            /* A path whose interface is down must not keep the others from working. */
            if (family == AF_INET6)
                setsockopt(s->fd, IPPROTO_IPV6, IPV6_FREEBIND, &one, sizeof one);
            else
                setsockopt(s->fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof one);
            if (bind(s->fd, (const struct sockaddr *)bind_to, address_size(bind_to)) == 0) {
                char text[64];
                log_warn("health.address_missing",
                         "address=%s isn't on this machine now; heartbeats use it once it is",
                         address_print(text, (const struct sockaddr *)bind_to));
                rc = 0;
            }
        }
    }
    if (rc == 0)
        rc = uv_poll_init(net->loop, &s->poll, s->fd);
    if (rc != 0) {
        close(s->fd);
        return rc;
    }
    s->poll.data = s;
    uv_poll_start(&s->poll, UV_READABLE, on_readable);
    net->n_sockets++;
    net->n_open++;
    return 0;
}

static void send_to(struct socket *s, const struct sockaddr_storage *to, struct slice bytes)
{
    /* A full buffer or a missing route is loss; what matters is sent again. */
    ssize_t ignored =
        sendto(s->fd, bytes.p, bytes.n, 0, (const struct sockaddr *)to, address_size(to));
    (void)ignored;
}

static struct socket *socket_for(struct health_net *net, sa_family_t family, unsigned wish)
{
    unsigned own = config_self(net->config)->n_addresses;
    if (wish < own && net->socket[wish].family == family)
        return &net->socket[wish];
    for (unsigned i = 0; i < own; i++)
        if (net->socket[i].family == family)
            return &net->socket[i];
    return NULL;
}

/* Path i: from the own i-th address to the peer's. Where one has fewer, its first that fits. */
static void send_to_peer(struct health_net *net, struct slice bytes)
{
    unsigned own = config_self(net->config)->n_addresses;
    for (unsigned i = 0; i < own || i < net->n_peer; i++) {
        if (i < net->n_peer) {
            struct socket *s = socket_for(net, net->peer[i].ss_family, i);
            if (s)
                send_to(s, &net->peer[i], bytes);
            continue;
        }
        for (unsigned j = 0; j < net->n_peer; j++) {
            if (net->peer[j].ss_family == net->socket[i].family) {
                send_to(&net->socket[i], &net->peer[j], bytes);
                break;
            }
        }
    }
}

static unsigned peer_of(const struct health_net *net)
{
    return net->seal.self == NODE_A ? NODE_B : NODE_A;
}

void health_net_send_heartbeat(struct health_net *net, struct slice payload)
{
    buf_clear(&net->out);
    datagram_seal_payload(&net->seal, &net->out, DATAGRAM_HEARTBEAT, peer_of(net), payload);
    send_to_peer(net, buf_slice(&net->out));
}

void health_net_send_register(struct health_net *net, unsigned to, const struct register_msg *m)
{
    if (to == WITNESS && !net->to_witness)
        return;
    buf_clear(&net->out);
    datagram_seal_register(&net->seal, &net->out, to, m);
    if (to == WITNESS)
        send_to(net->to_witness, &net->witness, buf_slice(&net->out));
    else
        send_to_peer(net, buf_slice(&net->out));
}

/* ---- the witness's address ---- */

static void use_witness(struct health_net *net, const struct sockaddr *a)
{
    struct sockaddr_storage fresh = {0};
    memcpy(&fresh, a,
           a->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    if (net->to_witness && memcmp(&fresh, &net->witness, sizeof fresh) == 0)
        return;
    /* Unbound: the addresses of `nodes` may be of a link that doesn't lead to the witness. */
    if (!net->to_witness || net->to_witness->family != fresh.ss_family) {
        if (net->to_witness) {
            log_error("witness.family_changed", "restart to use the witness's new address");
            return;
        }
        int rc = open_socket(net, fresh.ss_family, NULL);
        if (rc != 0) {
            log_error("witness.socket", "error=\"%s\"", uv_strerror(rc));
            return;
        }
        net->to_witness = &net->socket[net->n_sockets - 1];
    }
    net->witness = fresh;
    char text[64];
    log_info("witness.address", "address=%s", address_print(text, a));
}

static void free_net(struct health_net *net)
{
    if (!net->closing || net->looking || net->n_open > 0)
        return;
    buf_free(&net->out);
    free(net);
}

static void on_lookup(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    struct health_net *net = req->data;
    net->looking = false;
    if (!net->closing && status == 0 && res) {
        use_witness(net, res->ai_addr);
    } else if (!net->closing) {
        log_warn("witness.lookup_failed", "host=%s error=\"%s\" tried again", net->witness_host,
                 status ? uv_strerror(status) : "no address");
        net->lookup_ns = clock_boot_ns() + LOOKUP_FIRST_S * (uint64_t)1000000000;
    }
    uv_freeaddrinfo(res);
    free_net(net);
}

static void look_up(struct health_net *net)
{
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_ADDRCONFIG};
    net->lookup_ns = clock_boot_ns() + LOOKUP_EVERY_S * (uint64_t)1000000000;
    net->lookup.data = net;
    net->looking = uv_getaddrinfo(net->loop, &net->lookup, on_lookup, net->witness_host,
                                  net->witness_port, &hints) == 0;
}

/* "host:port", "[::1]:port"; NULL: there is no witness. */
static bool begin_witness(struct health_net *net, const char *address, char *err, size_t n)
{
    if (!address)
        return true;
    struct sockaddr_storage literal;
    if (strchr(address, ':') && address_parse(address, &literal)) {
        use_witness(net, (struct sockaddr *)&literal);
        return true;
    }
    const char *colon = strrchr(address, ':');
    if (!colon || (size_t)(colon - address) >= sizeof net->witness_host ||
        strlen(colon + 1) >= sizeof net->witness_port) {
        snprintf(err, n, "arbiter.address \"%s\": not host:port", address);
        return false;
    }
    memcpy(net->witness_host, address, (size_t)(colon - address));
    snprintf(net->witness_port, sizeof net->witness_port, "%s", colon + 1);
    look_up(net);
    return true;
}

void health_net_tick(struct health_net *net, bool witness_reachable)
{
    if (net->witness_host[0] && !witness_reachable && !net->looking && !net->closing &&
        clock_boot_ns() >= net->lookup_ns)
        look_up(net);
}

/* ---- life ---- */

static void on_closed(uv_handle_t *h)
{
    struct socket *s = h->data;
    close(s->fd);
    s->net->n_open--;
    free_net(s->net);
}

void health_net_close(struct health_net *net)
{
    net->closing = true;
    if (net->looking)
        uv_cancel((uv_req_t *)&net->lookup);
    for (unsigned i = 0; i < net->n_sockets; i++)
        uv_close((uv_handle_t *)&net->socket[i].poll, on_closed);
    free_net(net);
}

static bool bind_own(struct health_net *net, char *err, size_t n)
{
    const struct config_node *self = config_self(net->config);
    for (unsigned i = 0; i < self->n_addresses; i++) {
        struct sockaddr_storage a;
        if (!parse_address(self->addresses[i], self->health_port, &a)) {
            snprintf(err, n, "nodes.%c.addresses: \"%s\" isn't an IP address", self->name,
                     self->addresses[i]);
            return false;
        }
        int rc = open_socket(net, a.ss_family, &a);
        if (rc != 0) {
            snprintf(err, n, "health port %s:%u (UDP): %s%s", self->addresses[i], self->health_port,
                     uv_strerror(rc),
                     rc == UV_EADDRINUSE ? "; is another batond running with this file? Else "
                                           "change health_port in both files"
                                         : "");
            return false;
        }
    }
    return true;
}

struct health_net *health_net_open(uv_loop_t *loop, const struct config *c,
                                   const uint8_t cluster_key[32], health_net_receive receive,
                                   void *ctx, char *err, size_t n)
{
    struct health_net *net = xcalloc(1, sizeof *net);
    net->loop = loop;
    net->config = c;
    net->receive = receive;
    net->ctx = ctx;
    buf_init(&net->out, DATAGRAM_BYTES_MAX);
    datagram_seal_init(&net->seal, c->node == 'a' ? NODE_A : NODE_B, c->cluster, cluster_key);
    const struct config_node *peer = config_peer(c);
    bool ok = bind_own(net, err, n);
    for (unsigned i = 0; ok && i < peer->n_addresses; i++) {
        ok = parse_address(peer->addresses[i], peer->health_port, &net->peer[i]);
        if (!ok)
            snprintf(err, n, "nodes.%c.addresses: \"%s\" isn't an IP address", peer->name,
                     peer->addresses[i]);
        net->n_peer = i + 1;
    }
    if (ok && c->arbiter.type == ARBITER_WITNESS)
        ok = begin_witness(net, c->arbiter.address, err, n);
    if (ok)
        return net;
    health_net_close(net);
    return NULL;
}
