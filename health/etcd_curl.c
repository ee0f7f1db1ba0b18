/* See etcd_curl.h. The loop's thread leaves the one request in a slot and wakes the other thread,
 * which takes it, drops whatever it had under way, and posts what came of it. An answer is told if
 * its request is still the newest. */
#include "health/etcd_curl.h"

#include <assert.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "node/base/log.h"
#include "node/base/mailbox_uv.h"

enum {
    POLL_MS = 1000,
    CLOSE_WAIT_S = 3, /* a name server that doesn't answer must not keep a process from ending */
    KEY_BYTES_MAX = 300,
};

struct call {
    uint64_t id; /* 0: none */
    unsigned endpoint;
    enum etcd_request request;
    long timeout_ms;
    struct buf body;
};

struct etcd_curl {
    struct mailbox *mailbox;
    etcd_curl_answer answer;
    void *ctx;
    uint64_t asked; /* loop's thread: the newest request not cancelled; 0: none */
    char key[KEY_BYTES_MAX];

    pthread_t thread;
    pthread_mutex_t lock;
    bool closing, fresh; /* under lock; fresh: `next` has to be taken, id 0: only drop */
    struct call next;
    CURLM *multi; /* curl_multi_wakeup() by any thread, all else by the other one */

    /* copies: the thread may outlive the configuration on a hung name server */
    char *endpoint[16], *ca, *cert, *tls_key, *user, *password;
    unsigned n_endpoints;

    /* the other thread */
    struct call call;
    CURL *easy;
    struct curl_slist *headers;
    struct buf reply;
    char token[ETCD_TOKEN_BYTES_MAX], error[CURL_ERROR_SIZE];
};

struct answer_mail {
    struct mail mail;
    uint64_t id;
    struct etcd_reply reply;
};

/* ---- the other thread ---- */

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct etcd_curl *e = ctx;
    return buf_append(&e->reply, p, size * n) ? size * n : 0;
}

static void drop(struct etcd_curl *e)
{
    if (e->easy) {
        curl_multi_remove_handle(e->multi, e->easy);
        curl_easy_cleanup(e->easy);
    }
    curl_slist_free_all(e->headers);
    e->easy = NULL;
    e->headers = NULL;
    e->call.id = 0;
    buf_clear(&e->call.body);
    buf_clear(&e->reply);
}

static void set_tls(struct etcd_curl *e, CURL *c)
{
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (e->ca)
        curl_easy_setopt(c, CURLOPT_CAINFO, e->ca);
    if (e->cert)
        curl_easy_setopt(c, CURLOPT_SSLCERT, e->cert);
    if (e->tls_key)
        curl_easy_setopt(c, CURLOPT_SSLKEY, e->tls_key);
}

static void header(struct etcd_curl *e, const char *line)
{
    struct curl_slist *all = curl_slist_append(e->headers, line);
    if (all)
        e->headers = all;
}

static void start(struct etcd_curl *e)
{
    char url[512], line[ETCD_TOKEN_BYTES_MAX + 32];
    const char *base = e->endpoint[e->call.endpoint];
    size_t n = strlen(base);
    while (n > 0 && base[n - 1] == '/')
        n--;
    snprintf(url, sizeof url, "%.*s%s", (int)n, base, etcd_json_path(e->call.request));
    CURL *c = e->easy = curl_easy_init();
    if (!c)
        abort(); /* exhausted memory */
    header(e, "Content-Type: application/json");
    header(e, "Expect:");
    if (e->token[0] && e->call.request != ETCD_AUTHENTICATE) {
        snprintf(line, sizeof line, "Authorization: %s", e->token);
        header(e, line);
    }
    e->error[0] = 0;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, e->headers);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)e->call.body.len);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, (char *)e->call.body.data);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, e);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, e->error);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, e->call.timeout_ms);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, ""); /* whatever the environment says */
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    set_tls(e, c);
    curl_multi_add_handle(e->multi, c);
}

static void report(struct etcd_curl *e, CURLcode code)
{
    struct answer_mail *m = xcalloc(1, sizeof *m);
    long status = 0, sent = 0;
    m->id = e->call.id;
    curl_easy_getinfo(e->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(e->easy, CURLINFO_REQUEST_SIZE, &sent);
    if (code == CURLE_OK) {
        etcd_json_reply(&m->reply, e->call.request, status, buf_slice(&e->reply));
        if (e->call.request == ETCD_AUTHENTICATE && m->reply.answer.what == ETCD_ANSWERED)
            memcpy(e->token, m->reply.token, sizeof e->token);
    } else {
        m->reply.answer.what = sent ? ETCD_LOST : ETCD_NOT_SENT;
        snprintf(m->reply.error, sizeof m->reply.error, "%s",
                 e->error[0] ? e->error : curl_easy_strerror(code));
    }
    drop(e);
    pthread_mutex_lock(&e->lock);
    if (e->closing)
        free(m);
    else
        mailbox_post(e->mailbox, &m->mail);
    pthread_mutex_unlock(&e->lock);
}

/* False: closing. */
static bool take(struct etcd_curl *e)
{
    pthread_mutex_lock(&e->lock);
    bool on = !e->closing, fresh = e->fresh;
    if (on && fresh) {
        drop(e);
        struct call old = e->call;
        e->call = e->next;
        e->next = old; /* its buffer is used again */
        e->next.id = 0;
        e->fresh = false;
    }
    pthread_mutex_unlock(&e->lock);
    if (on && fresh && e->call.id)
        start(e);
    return on;
}

static void *run(void *arg)
{
    struct etcd_curl *e = arg;
    while (take(e)) {
        int running = 0, left = 0;
        curl_multi_perform(e->multi, &running);
        for (CURLMsg *m; (m = curl_multi_info_read(e->multi, &left));)
            if (m->msg == CURLMSG_DONE && m->easy_handle == e->easy) {
                report(e, m->data.result);
                break; /* there is one request at a time, and m is gone with it */
            }
        curl_multi_poll(e->multi, NULL, 0, POLL_MS, NULL);
    }
    drop(e);
    return NULL;
}

/* ---- the loop's thread ---- */

static void on_mail(void *ctx, struct mail *mail)
{
    struct etcd_curl *e = ctx;
    struct answer_mail *m = (struct answer_mail *)mail;
    /* Pointers into the reply are set here: it has moved. */
    m->reply.answer.error = m->reply.error;
    m->reply.answer.value = slice_of(m->reply.value, m->reply.answer.value.n);
    if (m->id == e->asked) {
        e->asked = 0;
        e->answer(e->ctx, m->id, &m->reply.answer);
    }
    free(m);
}

static void leave(struct etcd_curl *e, const struct register_etcd_fx *fx)
{
    pthread_mutex_lock(&e->lock);
    e->fresh = true;
    buf_clear(&e->next.body);
    e->next.id = 0;
    if (fx) {
        struct etcd_account account = {e->key, e->user, e->password};
        e->next.id = fx->id;
        e->next.endpoint = fx->endpoint;
        e->next.request = fx->request;
        e->next.timeout_ms = (long)(fx->timeout_ns / 1000000) + 1;
        bool fits = etcd_json_request(&e->next.body, &account, fx);
        assert(fits);
        (void)fits;
    }
    pthread_mutex_unlock(&e->lock);
    curl_multi_wakeup(e->multi);
}

void etcd_curl_request(struct etcd_curl *e, const struct register_etcd_fx *fx)
{
    assert(fx->id && fx->endpoint < e->n_endpoints);
    e->asked = fx->id;
    leave(e, fx);
}

void etcd_curl_cancel(struct etcd_curl *e, uint64_t id)
{
    if (e->asked != id)
        return;
    e->asked = 0;
    leave(e, NULL);
}

static char *copy(const char *s)
{
    return s ? xstrdup(s) : NULL;
}

static void free_all(struct etcd_curl *e)
{
    if (e->multi)
        curl_multi_cleanup(e->multi);
    for (unsigned i = 0; i < e->n_endpoints; i++)
        free(e->endpoint[i]);
    free(e->ca);
    free(e->cert);
    free(e->tls_key);
    free(e->user);
    free(e->password);
    buf_free(&e->call.body);
    buf_free(&e->next.body);
    buf_free(&e->reply);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

struct etcd_curl *etcd_curl_new(uv_loop_t *loop, const struct config *config,
                                etcd_curl_answer answer, void *ctx, char *err, size_t n)
{
    const struct config_arbiter *a = &config->arbiter;
    struct etcd_curl *e = xcalloc(1, sizeof *e);
    e->answer = answer;
    e->ctx = ctx;
    snprintf(e->key, sizeof e->key, "/baton/%s/record", config->cluster);
    for (; e->n_endpoints < a->n_endpoints && e->n_endpoints < 16; e->n_endpoints++)
        e->endpoint[e->n_endpoints] = xstrdup(a->endpoints[e->n_endpoints]);
    e->ca = copy(a->ca);
    e->cert = copy(a->cert);
    e->tls_key = copy(a->key);
    e->user = copy(a->user);
    e->password = copy(a->password);
    buf_init(&e->call.body, ETCD_BODY_BYTES_MAX);
    buf_init(&e->next.body, ETCD_BODY_BYTES_MAX);
    buf_init(&e->reply, ETCD_REPLY_BYTES_MAX);
    pthread_mutex_init(&e->lock, NULL);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == 0)
        e->multi = curl_multi_init();
    if (!e->multi || pthread_create(&e->thread, NULL, run, e) != 0) {
        snprintf(err, n, "etcd: libcurl doesn't start");
        free_all(e);
        return NULL;
    }
    e->mailbox = mailbox_new(loop, on_mail, e);
    return e;
}

void etcd_curl_close(struct etcd_curl *e)
{
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_mutex_unlock(&e->lock);
    curl_multi_wakeup(e->multi);
    mailbox_close(e->mailbox);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_WAIT_S;
    if (pthread_timedjoin_np(e->thread, NULL, &until) != 0) {
        log_warn("etcd.stalled", "its thread doesn't end; leaving without it");
        pthread_detach(e->thread); /* it still uses e */
        return;
    }
    free_all(e);
}
