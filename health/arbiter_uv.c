/* See arbiter_uv.h. For the register of three votes: its durable row, the thread that writes it,
 * its datagrams. For etcd: what was seen there, in a row of the same form, and HTTP. */
#include "health/arbiter_uv.h"
#include "health/arbiter_none.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/etcd_curl.h"
#include "health/probe_uv.h"
#include "health/register_etcd.h"
#include "health/voter_posix.h"
#include "health/voter_writer_uv.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"

struct arbiter_uv {
    struct arbiter_place place;
    struct arbiter *arbiter;  /* one of the kinds below */
    struct arbiter_none none; /* its voters are used whether there is a witness or not */
    struct arbiter_voters *voters;
    struct register_etcd *etcd;
    struct etcd_curl *curl;
    struct voter_writer *writer;
    struct probes *probes; /* none, takeover = "auto"; else NULL */
    char path[PATH_MAX];
};

/* ---- three votes ---- */

static void on_register(void *ctx, const struct register_fx *fx)
{
    struct arbiter_uv *u = ctx;
    if (u->none.judge && arbiter_none_took(&u->none, fx, clock_boot_ns()))
        return;
    if (fx->type == REG_FX_SEND)
        health_net_send_register(u->place.net, fx->to, &fx->msg);
    else if (fx->type == REG_FX_PERSIST)
        voter_writer_put(u->writer, &fx->state);
    else
        arbiter_voters_result(u->voters, fx);
}

static void on_written(void *ctx, bool ok)
{
    struct arbiter_uv *u = ctx;
    register_persisted(u->voters->reg, ok, clock_boot_ns());
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

static struct reg *open_register(struct arbiter_uv *u, char *err, size_t n)
{
    struct voter_state state;
    uint64_t random;
    crypto_random(&random, sizeof random);
    if (!open_row(u, "voter", &state, on_written, err, n))
        return NULL;
    return register_new(u->place.self, &state, false, random, on_register, u);
}

static bool open_voters(struct arbiter_uv *u, char *err, size_t n)
{
    struct reg *reg = open_register(u, err, n);
    if (!reg)
        return false;
    u->voters = &u->none.voters;
    arbiter_voters_init(u->voters, reg, &u->place.events);
    u->arbiter = &u->voters->arbiter;
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

/* ---- none: two votes and a judgement ---- */

static void on_judge(void *ctx, const struct judge_fx *fx)
{
    struct arbiter_uv *u = ctx;
    switch (fx->type) {
    case JUDGE_FX_PROBE:
        probes_run(u->probes);
        break;
    case JUDGE_FX_FENCE:
    case JUDGE_FX_FENCE_END:
        u->place.fence(u->place.fence_ctx, fx->type == JUDGE_FX_FENCE);
        break;
    case JUDGE_FX_LOG:
        if (fx->ok)
            log_info("arbiter.none", "%s", fx->text);
        else
            log_warn("arbiter.none", "%s", fx->text);
        break;
    case JUDGE_FX_JUDGED:
        log_info("arbiter.none", "judgement: %s", judgement_words(fx->judgement));
        break;
    case JUDGE_FX_VOTE:
        log_info("arbiter.none", "the other node doesn't answer: %s by judgement",
                 fx->msg.type == REG_PROMISE ? "promised" : "accepted");
        break;
    case JUDGE_FX_GIVE_UP:
        log_info("arbiter.none", "no takeover: its grounds are gone");
        break;
    }
}

static void on_probe(void *ctx, unsigned i, bool answered, uint64_t begun_ns)
{
    struct arbiter_uv *u = ctx;
    judge_probed(u->none.judge, i, answered, begun_ns, clock_boot_ns());
}

static bool open_none(struct arbiter_uv *u, char *err, size_t n)
{
    const struct config *c = u->place.config;
    struct judge_config judge = {
        .automatic = c->arbiter.takeover_auto,
        .probes = c->arbiter.takeover_auto ? c->arbiter.n_probes : 0,
        .fence = c->arbiter.takeover_auto && c->arbiter.fence && u->place.fence,
        .takeover_after_ns = (uint64_t)c->health.takeover_after_ms * 1000000u,
    };
    struct reg *reg = open_register(u, err, n);
    if (!reg)
        return false;
    u->voters = &u->none.voters;
    arbiter_none_init(&u->none, reg, &judge, &u->place.events, on_judge, u);
    u->arbiter = &u->voters->arbiter;
    u->probes = judge.probes ? probes_new(u->place.loop, c->arbiter.probes, judge.probes, on_probe,
                                          u, err, n)
                             : NULL;
    return u->probes || !judge.probes;
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
        ok = open_none(u, err, n);
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
    if (u->none.judge) {
        if (from == WITNESS)
            return; /* there is none: its votes are the judgement's */
        judge_received(u->none.judge, m, clock_boot_ns());
    }
    if (u->voters)
        register_receive(u->voters->reg, from, m, clock_boot_ns());
}

void arbiter_uv_fenced(struct arbiter_uv *u, bool done)
{
    if (u->none.judge)
        judge_fenced(u->none.judge, done, clock_boot_ns());
}

void arbiter_uv_close(struct arbiter_uv *u)
{
    if (u->curl)
        etcd_curl_close(u->curl);
    if (u->writer)
        voter_writer_close(u->writer);
    u->curl = NULL;
    u->writer = NULL;
    if (u->probes)
        probes_close(u->probes);
    u->probes = NULL;
}

void arbiter_uv_free(struct arbiter_uv *u)
{
    if (u->none.judge)
        arbiter_none_done(&u->none);
    if (u->voters)
        register_free(u->voters->reg);
    if (u->etcd)
        register_etcd_free(u->etcd);
    free(u);
}
