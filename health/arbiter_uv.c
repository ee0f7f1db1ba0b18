/* See arbiter_uv.h. For the register of three votes: its durable row, the thread that writes it,
 * its datagrams. For etcd: what was seen there, in a row of the same form, and HTTP. */
#include "health/arbiter_uv.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/etcd_curl.h"
#include "health/register_etcd.h"
#include "health/voter_posix.h"
#include "health/voter_writer_uv.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"

struct arbiter_uv {
    struct arbiter_place place;
    struct arbiter *arbiter; /* one of the kinds below */
    struct arbiter_voters voters;
    struct register_etcd *etcd;
    struct etcd_curl *curl;
    struct voter_writer *writer;
    char path[PATH_MAX];
};

/* ---- three votes ---- */

static void on_register(void *ctx, const struct register_fx *fx)
{
    struct arbiter_uv *u = ctx;
    if (fx->type == REG_FX_SEND)
        health_net_send_register(u->place.net, fx->to, &fx->msg);
    else if (fx->type == REG_FX_PERSIST)
        voter_writer_put(u->writer, &fx->state);
    else
        arbiter_voters_result(&u->voters, fx);
}

static void on_written(void *ctx, bool ok)
{
    struct arbiter_uv *u = ctx;
    register_persisted(u->voters.reg, ok, clock_boot_ns());
}

/* The row's file, and the thread that writes it. */
static bool open_row(struct arbiter_uv *u, const char *ending, struct voter_state *state,
                     voter_written done, char *err, size_t n)
{
    const struct config *c = u->place.config;
    uint64_t fresh_id;
    crypto_random(&fresh_id, sizeof fresh_id);
    snprintf(u->path, sizeof u->path, "%s.%s", c->store, ending);
    enum voter_file f = voter_file_load(u->path, c->cluster, fresh_id, state, err, n);
    if (f == VOTER_FILE_FOREIGN || f == VOTER_FILE_ERROR)
        return false;
    if (f == VOTER_FILE_DAMAGED)
        log_error("voter.damaged", "error=\"%s\"", err);
    /* Shows now, and not at the first takeover, that the file can't be written. */
    if (!voter_file_store(u->path, c->cluster, state, err, n))
        return false;
    u->writer = voter_writer_new(u->place.loop, u->path, c->cluster, done, u);
    return true;
}

static bool open_voters(struct arbiter_uv *u, char *err, size_t n)
{
    struct voter_state state;
    uint64_t random;
    crypto_random(&random, sizeof random);
    if (!open_row(u, "voter", &state, on_written, err, n))
        return false;
    arbiter_voters_init(&u->voters,
                        register_new(u->place.self, &state, false, random, on_register, u),
                        &u->place.events);
    u->arbiter = &u->voters.arbiter;
    return true;
}

/* ---- etcd ---- */

static void on_etcd(void *ctx, const struct register_etcd_fx *fx)
{
    struct arbiter_uv *u = ctx;
    switch (fx->type) {
    case ETCD_FX_REQUEST:
        etcd_curl_request(u->curl, fx);
        break;
    case ETCD_FX_CANCEL:
        etcd_curl_cancel(u->curl, fx->id);
        break;
    case ETCD_FX_PERSIST:
        voter_writer_put(u->writer, &fx->state);
        break;
    }
}

static void on_answer(void *ctx, uint64_t id, const struct etcd_answer *a)
{
    struct arbiter_uv *u = ctx;
    register_etcd_answer(u->etcd, id, a, clock_boot_ns());
}

static void on_seen_written(void *ctx, bool ok)
{
    struct arbiter_uv *u = ctx;
    register_etcd_persisted(u->etcd, ok, clock_boot_ns());
}

static bool open_etcd(struct arbiter_uv *u, char *err, size_t n)
{
    const struct config_arbiter *a = &u->place.config->arbiter;
    struct register_etcd_config c = {.self = u->place.self,
                                     .endpoint = (const char *const *)a->endpoints,
                                     .n_endpoints = a->n_endpoints,
                                     .authenticate = a->user != NULL};
    crypto_random(&c.random, sizeof c.random);
    if (!open_row(u, "etcd", &c.seen, on_seen_written, err, n))
        return false;
    u->curl = etcd_curl_new(u->place.loop, u->place.config, on_answer, u, err, n);
    if (!u->curl)
        return false;
    u->etcd = register_etcd_new(&c, &u->place.events, on_etcd, u);
    u->arbiter = register_etcd_arbiter(u->etcd);
    return true;
}

/* ---- life ---- */

struct arbiter_uv *arbiter_uv_open(const struct arbiter_place *place, char *err, size_t n)
{
    struct arbiter_uv *u = xcalloc(1, sizeof *u);
    u->place = *place;
    bool ok = false;
    switch (place->config->arbiter.type) {
    case ARBITER_WITNESS:
        ok = open_voters(u, err, n);
        break;
    case ARBITER_ETCD:
        ok = open_etcd(u, err, n);
        break;
    case ARBITER_NONE:
        snprintf(err, n, "arbiter: this version needs type = \"witness\" for two nodes");
        break;
    }
    if (ok)
        return u;
    arbiter_uv_close(u);
    free(u);
    return NULL;
}

struct arbiter *arbiter_uv_core(struct arbiter_uv *u)
{
    return u->arbiter;
}

void arbiter_uv_receive(struct arbiter_uv *u, unsigned from, const struct register_msg *m)
{
    if (u->voters.reg)
        register_receive(u->voters.reg, from, m, clock_boot_ns());
}

void arbiter_uv_close(struct arbiter_uv *u)
{
    if (u->curl)
        etcd_curl_close(u->curl);
    if (u->writer)
        voter_writer_close(u->writer);
    u->curl = NULL;
    u->writer = NULL;
}

void arbiter_uv_free(struct arbiter_uv *u)
{
    if (u->voters.reg)
        register_free(u->voters.reg);
    if (u->etcd)
        register_etcd_free(u->etcd);
    free(u);
}
