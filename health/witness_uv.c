/* See witness_uv.h. */
#include "health/witness_uv.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/datagram_openssl.h"
#include "health/voter_posix.h"
#include "health/voter_writer_uv.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/stream_uv.h"

enum { TICK_MS = 20 };

struct cluster {
    struct witness *witness;
    char *name; /* the configuration's */
    char path[PATH_MAX];
    struct datagram_seal seal;
    struct reg *reg;
    struct voter_writer *writer;
    struct sockaddr_storage node[NODES]; /* where each spoke from last; family 0: not yet */
};

struct witness {
    const struct witness_config *config;
    uv_udp_t udp;
    uv_timer_t tick;
    unsigned n_open;
    bool closing;
    struct datagram_refused refused;
    struct cluster *cluster;
    unsigned n_clusters;
    struct buf out;
};

static void on_effect(void *ctx, const struct register_fx *fx)
{
    struct cluster *c = ctx;
    struct witness *w = c->witness;
    switch (fx->type) {
    case REG_FX_SEND: {
        const struct sockaddr_storage *to = &c->node[fx->to];
        if (to->ss_family == 0)
            break;
        buf_clear(&w->out);
        datagram_seal_register(&c->seal, &w->out, fx->to, &fx->msg);
        uv_buf_t b = uv_buf_init((char *)w->out.data, (unsigned)w->out.len);
        /* What doesn't leave is lost like any datagram; the node asks again. */
        (void)uv_udp_try_send(&w->udp, &b, 1, (const struct sockaddr *)to);
        break;
    }
    case REG_FX_PERSIST:
        voter_writer_put(c->writer, &fx->state);
        break;
    case REG_FX_BOOTSTRAPPED:
        log_info("witness.votes", "cluster=%s version=%llu", c->name,
                 (unsigned long long)fx->record.version);
        break;
    case REG_FX_HINT:
        if (fx->from == WITNESS)
            log_info("witness.accepted", "cluster=%s version=%llu epoch=%u primary=%s paired=%d",
                     c->name, (unsigned long long)fx->record.version, fx->record.epoch,
                     voter_name(fx->record.primary), record_paired(&fx->record));
        break;
    case REG_FX_RESULT:
        assert(false); /* a witness proposes nothing */
    }
}

static void on_written(void *ctx, bool ok)
{
    struct cluster *c = ctx;
    register_persisted(c->reg, ok, clock_boot_ns());
}

static struct cluster *find(struct witness *w, struct slice name)
{
    for (unsigned i = 0; i < w->n_clusters; i++)
        if (slice_eq(slice_str(w->cluster[i].name), name))
            return &w->cluster[i];
    return NULL;
}

static void take(struct witness *w, struct slice bytes, const struct sockaddr *from)
{
    struct datagram d;
    enum datagram_refusal why = REFUSED_NOISE;
    enum datagram_fault fault = datagram_parse(bytes, &d);
    struct cluster *c = NULL;
    if (fault == DATAGRAM_OTHER_VERSION) {
        why = REFUSED_VERSION;
    } else if (fault == DATAGRAM_OK) {
        why = REFUSED_CLUSTER;
        c = find(w, d.cluster);
    }
    if (!c || !datagram_open(&c->seal, &d, &why)) {
        char source[64];
        datagram_refused(&w->refused, why, address_print(source, from), d.cluster, clock_boot_ns());
        return;
    }
    struct register_msg m;
    struct wire_reader r = wire_read(d.payload);
    if (d.kind != DATAGRAM_REGISTER || !register_msg_decode(&r, &m) || !wire_done(&r))
        return;
    assert(d.from < NODES);
    memset(&c->node[d.from], 0, sizeof c->node[d.from]);
    memcpy(&c->node[d.from], from,
           from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    register_receive(c->reg, d.from, &m, clock_boot_ns());
}

static void on_alloc(uv_handle_t *h, size_t wish, uv_buf_t *b)
{
    static char bytes[DATAGRAM_BYTES_MAX + 1]; /* one loop, one datagram at a time */
    (void)h;
    (void)wish;
    *b = uv_buf_init(bytes, sizeof bytes);
}

static void on_receive(uv_udp_t *udp, ssize_t n, const uv_buf_t *b, const struct sockaddr *from,
                       unsigned flags)
{
    if (n > 0 && from && !(flags & UV_UDP_PARTIAL))
        take(udp->data, slice_of(b->base, (size_t)n), from);
}

static void on_tick(uv_timer_t *t)
{
    struct witness *w = t->data;
    uint64_t now = clock_boot_ns();
    for (unsigned i = 0; i < w->n_clusters; i++)
        register_tick(w->cluster[i].reg, now);
}

/* The cluster's name becomes part of a file's name. */
static bool plain_name(const char *s)
{
    size_t n = strlen(s);
    return n > 0 && n <= DATAGRAM_CLUSTER_BYTES_MAX && !strchr(s, '/') && s[0] != '.';
}

static bool add_cluster(struct witness *w, const struct witness_cluster *from, char *err, size_t n)
{
    uint8_t key[CLUSTER_KEY_BYTES];
    if (!plain_name(from->name)) {
        snprintf(err, n,
                 "%s: cluster \"%s\": a name has 1 to %d bytes, no \"/\" and no \".\" at "
                 "its beginning",
                 w->config->file, from->name, DATAGRAM_CLUSTER_BYTES_MAX);
        return false;
    }
    if (!crypto_key_load(from->key_file, key, err, n))
        return false;
    struct cluster *c = &w->cluster[w->n_clusters++];
    c->witness = w;
    c->name = from->name;
    datagram_seal_init(&c->seal, WITNESS, c->name, key);
    snprintf(c->path, sizeof c->path, "%s.%s", w->config->store, c->name);
    return true;
}

struct witness *witness_new(uv_loop_t *loop, const struct witness_config *config, char *err,
                            size_t n)
{
    struct witness *w = xcalloc(1, sizeof *w);
    w->config = config;
    w->cluster = xcalloc(config->n_clusters ? config->n_clusters : 1, sizeof *w->cluster);
    buf_init(&w->out, DATAGRAM_BYTES_MAX);
    w->udp.data = w->tick.data = w;
    uv_timer_init(loop, &w->tick);
    uv_udp_init(loop, &w->udp);
    w->n_open = 2;
    struct sockaddr_storage a;
    bool ok = address_parse(config->listen, &a);
    int rc = ok ? uv_udp_bind(&w->udp, (struct sockaddr *)&a, 0) : UV_EINVAL;
    if (rc != 0) {
        snprintf(err, n, "%s: listen = \"%s\": %s%s", config->file, config->listen,
                 ok ? uv_strerror(rc) : "not an IP address and port, like \"0.0.0.0:7627\"",
                 rc == UV_EADDRINUSE ? "; is another baton-witness running?" : "");
        ok = false;
    }
    for (unsigned i = 0; ok && i < config->n_clusters; i++)
        ok = add_cluster(w, &config->clusters[i], err, n);
    if (ok)
        return w;
    witness_close(w);
    return NULL;
}

static bool start_cluster(struct cluster *c, char *err, size_t n)
{
    uint64_t random[2];
    crypto_random(random, sizeof random);
    struct voter_state state;
    enum voter_file f = voter_file_load(c->path, c->name, random[0], &state, err, n);
    if (f == VOTER_FILE_FOREIGN || f == VOTER_FILE_ERROR)
        return false;
    if (f == VOTER_FILE_DAMAGED)
        log_error("voter.damaged", "cluster=%s error=\"%s\"", c->name, err);
    /* Shows now, and not at the first takeover, that the file can't be written. */
    if (!voter_file_store(c->path, c->name, &state, err, n))
        return false;
    c->writer = voter_writer_new(c->witness->tick.loop, c->path, c->name, on_written, c);
    c->reg = register_new(WITNESS, &state, true, random[1], on_effect, c);
    log_info("witness.cluster", "cluster=%s votes=%d version=%llu", c->name, state.voting,
             (unsigned long long)state.record.version);
    return true;
}

bool witness_start(struct witness *w, char *err, size_t n)
{
    for (unsigned i = 0; i < w->n_clusters; i++)
        if (!start_cluster(&w->cluster[i], err, n))
            return false;
    uv_udp_recv_start(&w->udp, on_alloc, on_receive);
    uv_timer_start(&w->tick, on_tick, 0, TICK_MS);
    return true;
}

static void on_closed(uv_handle_t *h)
{
    struct witness *w = h->data;
    if (--w->n_open > 0)
        return;
    for (unsigned i = 0; i < w->n_clusters; i++)
        if (w->cluster[i].reg)
            register_free(w->cluster[i].reg);
    buf_free(&w->out);
    free(w->cluster);
    free(w);
}

void witness_close(struct witness *w)
{
    if (w->closing)
        return;
    w->closing = true;
    for (unsigned i = 0; i < w->n_clusters; i++)
        if (w->cluster[i].writer)
            voter_writer_close(w->cluster[i].writer);
    uv_close((uv_handle_t *)&w->udp, on_closed);
    uv_close((uv_handle_t *)&w->tick, on_closed);
}
