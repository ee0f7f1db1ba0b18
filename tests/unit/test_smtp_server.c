/* The SMTP server over loopback, with real TLS, real passwords and blocking clients; the queue is
 * this file's, so that a test decides when a message is committed. */
#include <check.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/sum_xxhash.h"
#include "node/smtp/server_uv.h"
#include "node/smtp/users_crypt.h"

/* ---- the queue ---- */

enum { HELD_MAX = 64 };
struct held {
    queue_done done;
    void *ctx;
};
struct queue { /* all on the loop's thread */
    uint32_t epoch;
    uint64_t seq, aborted, waiting_bytes;
    bool hold_messages, hold_chunks;
    enum queue_outcome outcome;
    struct held held[HELD_MAX];
    unsigned n_held, most_held;
    unsigned messages;
    struct row_message last;
    char last_rcpt[256];
    struct buf body, prefix, origin;
};
static struct queue fake;

uint32_t queue_epoch(const struct queue *q)
{
    return q->epoch;
}

uint64_t queue_next_id(struct queue *q)
{
    return MESSAGE_ID(q->epoch, ++q->seq);
}

static void hold(struct queue *q, bool wait, queue_done done, void *ctx)
{
    if (!wait) {
        done(ctx, q->outcome, 1);
        return;
    }
    ck_assert_uint_lt(q->n_held, HELD_MAX);
    q->held[q->n_held++] = (struct held){done, ctx};
    if (q->n_held > q->most_held)
        q->most_held = q->n_held;
}

void queue_add(struct queue *q, const struct row_message *m, const struct row_recipient *rcpts,
               unsigned n, struct buf *body, uint64_t body_sum, queue_done done, void *ctx)
{
    uint8_t sha[32];
    q->messages++;
    q->last = *m;
    buf_clear(&q->prefix);
    buf_append_slice(&q->prefix, m->prefix);
    buf_clear(&q->origin);
    buf_append_slice(&q->origin, m->origin);
    if (!m->chunks) {
        buf_clear(&q->body);
        buf_append_slice(&q->body, buf_slice(body));
        ck_assert_uint_eq(body_sum, sum_bytes(buf_slice(body)));
    }
    ck_assert_uint_eq(m->body.n, 0);
    buf_free(body);
    ck_assert_uint_eq(n, m->recipients);
    ck_assert_uint_eq(m->size, q->body.len);
    crypto_sha256(buf_slice(&q->body), sha);
    ck_assert_mem_eq(sha, m->sha256, 32);
    snprintf(q->last_rcpt, sizeof q->last_rcpt, "%.*s", (int)rcpts[0].address.n,
             rcpts[0].address.p);
    hold(q, q->hold_messages, done, ctx);
}

void queue_add_chunk(struct queue *q, uint64_t id, uint32_t index, struct slice data,
                     queue_done done, void *ctx)
{
    if (index == 0)
        buf_clear(&q->body);
    ck_assert_uint_eq(q->body.len, (uint64_t)index * BODY_CHUNK_BYTES);
    ck_assert(buf_append_slice(&q->body, data));
    hold(q, q->hold_chunks, done, ctx);
}

void queue_abort(struct queue *q, uint64_t id)
{
    q->aborted = id;
}

void queue_stats(const struct queue *q, struct queue_stats *out)
{
    *out = (struct queue_stats){.waiting_bytes = q->waiting_bytes};
}

/* ---- the server on a thread of its own ---- */

static char dir[] = "/tmp/baton-smtp-XXXXXX", cert[64], key[64], users[64], log_file[64];
static struct config config;
static struct config_listener listeners[3];
static struct config_network loopback = {.addr = {[10] = 0xff, 0xff, 127}, .bits = 104};
static int port;
static uv_loop_t loop;
static uv_async_t async;
static pthread_t thread;
static struct smtp_server *server;
static struct events *events;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    void (*fn)(void *);
    void *arg;
} job = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL};

static void on_async(uv_async_t *a)
{
    pthread_mutex_lock(&job.lock);
    if (job.fn)
        job.fn(job.arg);
    job.fn = NULL;
    pthread_cond_broadcast(&job.cond);
    pthread_mutex_unlock(&job.lock);
}

/* Runs fn on the loop's thread and waits for it. */
static void on_loop(void (*fn)(void *), void *arg)
{
    pthread_mutex_lock(&job.lock);
    job.fn = fn;
    job.arg = arg;
    uv_async_send(&async);
    while (job.fn)
        pthread_cond_wait(&job.cond, &job.lock);
    pthread_mutex_unlock(&job.lock);
}

static void *run_loop(void *arg)
{
    uv_run(&loop, UV_RUN_DEFAULT);
    return NULL;
}

static void set_gate(void *gate)
{
    smtp_server_set_gate(server, *(enum smtp_gate *)gate);
}

static void gate(enum smtp_gate g)
{
    on_loop(set_gate, &g);
}

static void make_files(void)
{
    char command[512], err[200];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    snprintf(users, sizeof users, "%s/users", dir);
    snprintf(log_file, sizeof log_file, "%s/events", dir);
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
             "-subj /CN=mx.test -keyout %s -out %s 2>/dev/null",
             key, cert);
    ck_assert_int_eq(system(command), 0);
    ck_assert_msg(smtp_users_set(users, "joe", "secret", err, sizeof err), "%s", err);
}

/* A port that is free now, and the two after it are likely to be. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a, n) == 0 &&
              getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    close(fd);
    return ntohs(a.sin_port) < 65000 ? ntohs(a.sin_port) : 40000;
}

static void setup(void)
{
    static char addresses[3][32];
    static const enum listener_tls tls[] = {LISTENER_STARTTLS, LISTENER_IMPLICIT, LISTENER_PLAIN};
    char err[300] = "";
    log_set_level("error");
    signal(SIGPIPE, SIG_IGN);
    make_files();
    memset(&fake, 0, sizeof fake);
    fake.epoch = 4;
    buf_init(&fake.body, 64 << 20);
    buf_init(&fake.prefix, 65536);
    buf_init(&fake.origin, 65536);
    config = (struct config){.hostname = (char *)"mx.test",
                             .node = 'a',
                             .listeners = listeners,
                             .n_listeners = 3,
                             .tls_cert = cert,
                             .tls_key = key,
                             .auth_users = users,
                             .relay_networks = &loopback,
                             .n_relay_networks = 1};
    config.limits.message_bytes = 50 << 20;
    config.limits.recipients = 1000;
    config.limits.sessions = 100;
    config.limits.sessions_per_address = 20;
    config.limits.received_hops = 50;
    config.smtp.greeting_s = 30;
    config.smtp.command_s = config.smtp.data_s = 300;
    config.smtp.errors = 20;
    uv_loop_init(&loop);
    uv_async_init(&loop, &async, on_async);
    events = events_open(log_file, 'a', err, sizeof err);
    ck_assert_msg(events != NULL, "%s", err);
    for (unsigned tries = 0; !server && tries < 20; tries++) {
        port = free_port();
        for (int i = 0; i < 3; i++) {
            snprintf(addresses[i], sizeof addresses[i], "127.0.0.1:%d", port + i);
            listeners[i] = (struct config_listener){addresses[i], tls[i],
                                                    i == 1   ? AUTH_REQUIRED
                                                    : i == 0 ? AUTH_OPTIONAL
                                                             : AUTH_OFF};
        }
        server = smtp_server_new(&loop, &config, &fake, events, err, sizeof err);
    }
    ck_assert_msg(server != NULL, "%s", err);
    pthread_create(&thread, NULL, run_loop, NULL);
    gate(SMTP_OPEN);
}

static bool server_gone;

static void on_server_closed(void *ctx)
{
    server = NULL;
    server_gone = true;
    uv_close((uv_handle_t *)&async, NULL);
}

static void close_server(void *arg)
{
    smtp_server_close(server, on_server_closed, NULL);
}

static void teardown(void)
{
    char command[100];
    on_loop(close_server, NULL);
    pthread_join(thread, NULL);
    ck_assert(server_gone);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    events_close(events);
    buf_free(&fake.body);
    buf_free(&fake.prefix);
    buf_free(&fake.origin);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

/* ---- clients ---- */

struct peer {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
    char in[70000];
    size_t n;
};

static struct peer *peer_connect(int offset)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)(port + offset)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 20};
    struct peer *p = xcalloc(1, sizeof *p);
    p->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ck_assert_int_eq(connect(p->fd, (struct sockaddr *)&a, sizeof a), 0);
    return p;
}

static void peer_tls(struct peer *p)
{
    p->ctx = SSL_CTX_new(TLS_client_method());
    p->ssl = SSL_new(p->ctx);
    SSL_set_fd(p->ssl, p->fd);
    ck_assert_int_eq(SSL_connect(p->ssl), 1);
}

static bool peer_send(struct peer *p, const void *data, size_t n)
{
    const char *c = data;
    while (n) {
        ssize_t w =
            p->ssl ? SSL_write(p->ssl, c, (int)(n < 16384 ? n : 16384)) : write(p->fd, c, n);
        if (w <= 0)
            return false;
        c += w;
        n -= (size_t)w;
    }
    return true;
}

static void say(struct peer *p, const char *text)
{
    ck_assert(peer_send(p, text, strlen(text)));
}

/* Next reply (the last line of it); "" at the end of the connection. */
static const char *hear(struct peer *p)
{
    static char line[1024];
    for (;;) {
        char *lf = memchr(p->in, '\n', p->n);
        if (lf) {
            size_t n = (size_t)(lf - p->in) + 1;
            snprintf(line, sizeof line, "%.*s", (int)n - 2, p->in);
            memmove(p->in, p->in + n, p->n - n);
            p->n -= n;
            if (line[3] == '-')
                continue;
            return line;
        }
        ssize_t r = p->ssl ? SSL_read(p->ssl, p->in + p->n, (int)(sizeof p->in - p->n))
                           : read(p->fd, p->in + p->n, sizeof p->in - p->n);
        if (r <= 0)
            return "";
        p->n += (size_t)r;
    }
}

#define expect(p, start)                                                                           \
    do {                                                                                           \
        const char *got_ = hear(p);                                                                \
        ck_assert_msg(strncmp(got_, start, strlen(start)) == 0, "got \"%s\", want \"%s\"", got_,   \
                      start);                                                                      \
    } while (0)
#define expect_end(p) ck_assert_str_eq(hear(p), "")

static void peer_close(struct peer *p)
{
    SSL_free(p->ssl);
    SSL_CTX_free(p->ctx);
    close(p->fd);
    free(p);
}

static void open_transaction(struct peer *p)
{
    say(p, "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
    expect(p, "250 2.1.0");
    expect(p, "250 2.1.5");
    expect(p, "354");
}

/* Waits until cond(arg), evaluated on the loop's thread, is true. */
struct waiting {
    bool (*cond)(void);
    bool is;
};
static void look(void *arg)
{
    struct waiting *w = arg;
    w->is = w->cond();
}
static void wait_until(bool (*cond)(void))
{
    struct waiting w = {.cond = cond};
    for (uint64_t end = clock_boot_ns() + 20000000000u; clock_boot_ns() < end;) {
        on_loop(look, &w);
        if (w.is)
            return;
        poll(NULL, 0, 2);
    }
    ck_abort_msg("nothing came of it in 20 s");
}

static void release(void *outcome)
{
    struct held held[HELD_MAX];
    unsigned n = fake.n_held;
    memcpy(held, fake.held, sizeof held);
    fake.n_held = 0;
    for (unsigned i = 0; i < n; i++)
        held[i].done(held[i].ctx, *(enum queue_outcome *)outcome, 1);
}

static bool one_held(void)
{
    return fake.n_held > 0;
}

static void events_text(char *out, size_t n)
{
    /* The writer has a thread of its own: wait for its line. */
    for (unsigned i = 0; i < 2000; i++) {
        FILE *f = fopen(log_file, "r");
        size_t got = f ? fread(out, 1, n - 1, f) : 0;
        if (f)
            fclose(f);
        out[got] = 0;
        if (got)
            return;
        poll(NULL, 0, 5);
    }
}

/* ---- tests ---- */

START_TEST(test_250_only_when_committed)
{
    char text[4096];
    enum queue_outcome ok = QUEUE_OK;
    fake.hold_messages = true;
    struct peer *p = peer_connect(0);
    expect(p, "220 mx.test");
    say(p, "EHLO x\r\n");
    expect(p, "250 ");
    open_transaction(p);
    say(p, "hello\r\n.\r\nNOOP\r\n");
    wait_until(one_held);
    struct pollfd readable = {.fd = p->fd, .events = POLLIN};
    ck_assert_int_eq(poll(&readable, 1, 100), 0);
    on_loop(release, &ok);
    expect(p, "250 2.0.0 Ok: queued as 0000040000000001");
    expect(p, "250 2.0.0");
    events_text(text, sizeof text);
    ck_assert(strstr(text, "\"event\":\"accepted\"") || strstr(text, "\"event\": \"accepted\""));
    ck_assert(strstr(text, "0000040000000001") && strstr(text, "c@d.test"));
    ck_assert_str_eq(fake.last_rcpt, "c@d.test");
    say(p, "QUIT\r\n");
    expect(p, "221");
    expect_end(p);
    peer_close(p);
}
END_TEST

START_TEST(test_fates_without_250)
{
    static const enum queue_outcome not_primary = QUEUE_NOT_PRIMARY, undecided = QUEUE_UNDECIDED;
    fake.hold_messages = true;
    for (int i = 0; i < 2; i++) {
        struct peer *p = peer_connect(0);
        expect(p, "220");
        say(p, "HELO x\r\n");
        expect(p, "250");
        open_transaction(p);
        say(p, ".\r\n");
        wait_until(one_held);
        on_loop(release, (void *)(uintptr_t)(i ? &undecided : &not_primary));
        if (i == 0)
            expect(p, "421 4.3.2");
        expect_end(p);
        peer_close(p);
    }
}
END_TEST

static bool nobody_here(void)
{
    struct smtp_stats s;
    smtp_server_stats(server, &s);
    return s.sessions == 0;
}

START_TEST(test_client_gone_before_commit)
{
    char text[4096];
    enum queue_outcome ok = QUEUE_OK;
    fake.hold_messages = true;
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "HELO x\r\n");
    expect(p, "250");
    open_transaction(p);
    say(p, ".\r\n");
    wait_until(one_held);
    struct linger reset = {.l_onoff = 1};
    setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    peer_close(p);
    on_loop(release, &ok); /* accepted all the same, and told */
    events_text(text, sizeof text);
    ck_assert(strstr(text, "accepted"));
    wait_until(nobody_here);
}
END_TEST

#define PLAIN_OK  "AGpvZQBzZWNyZXQ="
#define PLAIN_BAD "AGpvZQB3cm9uZw=="
#define NOBODY    "AG5vYm9keQBzZWNyZXQ="

START_TEST(test_starttls_and_auth)
{
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    say(p, "AUTH PLAIN " PLAIN_OK "\r\n");
    expect(p, "538 5.7.11");
    say(p, "STARTTLS\r\n");
    expect(p, "220 2.0.0");
    peer_tls(p);
    say(p, "EHLO x\r\n");
    expect(p, "250");
    say(p, "AUTH PLAIN " PLAIN_OK "\r\n");
    expect(p, "235");
    open_transaction(p);
    say(p, "Subject: x\r\n\r\ny\r\n.\r\n");
    expect(p, "250 2.0.0");
    ck_assert(buf_append(&fake.prefix, "", 1) && buf_append(&fake.origin, "", 1));
    ck_assert(strstr((char *)fake.prefix.data, "with ESMTPSA id"));
    ck_assert(strstr((char *)fake.prefix.data, "(using TLSv1.3 "));
    ck_assert_str_eq((char *)fake.origin.data, "joe, x [127.0.0.1]");
    peer_close(p);
}
END_TEST

START_TEST(test_implicit_tls_and_wrong_passwords)
{
    static const char *const wrong[] = {PLAIN_BAD, NOBODY, PLAIN_BAD};
    struct peer *p = peer_connect(1);
    peer_tls(p);
    expect(p, "220");
    say(p, "EHLO x\r\nMAIL FROM:<a@b>\r\n");
    expect(p, "250");
    expect(p, "530 5.7.0");
    for (int i = 0; i < 3; i++) {
        uint64_t before = clock_boot_ns();
        char line[100];
        snprintf(line, sizeof line, "AUTH PLAIN %s\r\n", wrong[i]);
        say(p, line);
        expect(p, i < 2 ? "535 5.7.8" : "421 4.7.0");
        ck_assert_uint_ge(clock_boot_ns() - before, 900000000u);
    }
    expect_end(p);
    peer_close(p);
}
END_TEST

START_TEST(test_plaintext_behind_starttls)
{
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    say(p, "STARTTLS\r\nRSET\r\n");
    expect_end(p);
    peer_close(p);
}
END_TEST

static char *big_text(size_t lines, size_t *n)
{
    char *text = xmalloc(lines * 80 + 1);
    *n = 0;
    for (size_t i = 0; i < lines; i++)
        *n += (size_t)sprintf(text + *n, "%070zu......\r\n", i * 7919);
    return text;
}

/* Inline up to a size, in chunks of half of it beyond. */
START_TEST(test_where_chunks_begin)
{
    static const struct {
        size_t n;
        unsigned chunks;
    } at[] = {{BODY_CHUNK_BYTES + 1, 0},    {BODY_INLINE_MAX, 0},
              {BODY_INLINE_MAX + 1, 3},     {BODY_INLINE_MAX + BODY_CHUNK_BYTES, 3},
              {2 * BODY_INLINE_MAX + 1, 5}, {2, 0}};
    size_t all;
    char *text = big_text(4000, &all);
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        size_t n = at[i].n;
        ck_assert_uint_lt(n, all);
        char *part = xmalloc(n);
        memcpy(part, text, n);
        memcpy(part + n - 2, "\r\n", 2);
        if (n > 3 && part[n - 3] == '\r') /* a line's end is cut through */
            part[n - 3] = '.';
        open_transaction(p);
        ck_assert(peer_send(p, part, n));
        say(p, ".\r\n");
        expect(p, "250 2.0.0");
        ck_assert_uint_eq(fake.last.size, n);
        ck_assert_uint_eq(fake.last.chunks, at[i].chunks);
        ck_assert_mem_eq(fake.body.data, part, n);
        free(part);
    }
    free(text);
    peer_close(p);
}
END_TEST

START_TEST(test_large_message_in_chunks)
{
    for (int tls = 0; tls < 2; tls++) {
        size_t n;
        char *text = big_text(60000, &n);
        struct peer *p = peer_connect(0);
        expect(p, "220");
        if (tls) {
            say(p, "EHLO x\r\nSTARTTLS\r\n");
            expect(p, "250");
            expect(p, "220");
            peer_tls(p);
        }
        say(p, "EHLO x\r\n");
        expect(p, "250");
        open_transaction(p);
        ck_assert(peer_send(p, text, n));
        say(p, ".\r\n");
        expect(p, "250 2.0.0");
        ck_assert_uint_eq(fake.last.size, n);
        ck_assert_uint_eq(fake.last.chunks, (n + BODY_CHUNK_BYTES - 1) / BODY_CHUNK_BYTES);
        ck_assert_mem_eq(fake.body.data, text, n);
        free(text);
        peer_close(p);
    }
}
END_TEST

struct sender {
    struct peer *p;
    char *text;
    size_t n;
    bool ok;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    s->ok = peer_send(s->p, s->text, s->n);
    return NULL;
}

static bool four_held(void)
{
    return fake.n_held >= 4;
}

/* The queue is slow: what a session has in flight stays bounded, and it goes on afterwards. */
START_TEST(test_back_pressure)
{
    enum queue_outcome ok = QUEUE_OK;
    pthread_t t;
    struct sender s = {.p = peer_connect(0)};
    s.text = big_text(200000, &s.n);
    expect(s.p, "220");
    say(s.p, "EHLO x\r\n");
    expect(s.p, "250");
    open_transaction(s.p);
    fake.hold_chunks = true;
    pthread_create(&t, NULL, send_all, &s);
    for (size_t i = 0; i < s.n / BODY_CHUNK_BYTES / 8; i++) {
        wait_until(four_held);
        on_loop(release, &ok);
    }
    ck_assert_uint_le(fake.most_held, 6);
    on_loop(release, &ok);
    fake.hold_chunks = false;
    on_loop(release, &ok);
    pthread_join(t, NULL);
    ck_assert(s.ok);
    say(s.p, ".\r\n");
    expect(s.p, "250 2.0.0");
    ck_assert_mem_eq(fake.body.data, s.text, s.n);
    free(s.text);
    peer_close(s.p);
}
END_TEST

static bool aborted(void)
{
    return fake.aborted != 0;
}

START_TEST(test_large_message_given_up)
{
    size_t n;
    char *text = big_text(20000, &n);
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    open_transaction(p);
    ck_assert(peer_send(p, text, n));
    peer_close(p);
    wait_until(aborted);
    ck_assert_uint_eq(fake.messages, 0);
    wait_until(nobody_here);
    fake.aborted = 0; /* refused at its end: the chunks go too */
    p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    open_transaction(p);
    ck_assert(peer_send(p, text, n));
    say(p, "bare\nlf\r\n.\r\n");
    expect(p, "550 5.6.0");
    wait_until(aborted);
    fake.aborted = 0; /* the epoch ends meanwhile */
    open_transaction(p);
    ck_assert(peer_send(p, text, n));
    fake.outcome = QUEUE_UNDECIDED;
    ck_assert(peer_send(p, text, n));
    say(p, ".\r\n");
    expect(p, "421 4.3.2");
    wait_until(aborted);
    free(text);
    peer_close(p);
}
END_TEST

static void set_waiting(void *bytes)
{
    fake.waiting_bytes = *(uint64_t *)bytes;
}

START_TEST(test_full_queue_stops_reading)
{
    uint64_t much = (uint64_t)1 << 30, none = 0;
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\n");
    expect(p, "250");
    on_loop(set_waiting, &much);
    say(p, "NOOP\r\n");
    expect(p, "250"); /* notices with this */
    say(p, "NOOP\r\n");
    struct pollfd readable = {.fd = p->fd, .events = POLLIN};
    ck_assert_int_eq(poll(&readable, 1, 100), 0);
    on_loop(set_waiting, &none);
    expect(p, "250");
    peer_close(p);
}
END_TEST

START_TEST(test_gate)
{
    struct peer *p = peer_connect(0), *q = peer_connect(0);
    expect(p, "220");
    expect(q, "220");
    say(q, "HELO x\r\n");
    expect(q, "250");
    gate(SMTP_NOT_PRIMARY);
    expect(p, "421 4.3.2");
    expect_end(p);
    expect(q, "421 4.3.2");
    expect_end(q);
    peer_close(p);
    peer_close(q);
    p = peer_connect(0);
    expect(p, "421 4.3.2");
    expect_end(p);
    peer_close(p);
    p = peer_connect(1);
    peer_tls(p);
    expect(p, "421 4.3.2");
    peer_close(p);
    gate(SMTP_ALONE);
    p = peer_connect(2);
    expect(p, "220");
    say(p, "HELO x\r\nMAIL FROM:<a@b>\r\n");
    expect(p, "250");
    expect(p, "451 4.3.2");
    peer_close(p);
}
END_TEST

START_TEST(test_session_limits)
{
    struct peer *p[21];
    for (int i = 0; i < 20; i++) {
        p[i] = peer_connect(0);
        expect(p[i], "220");
    }
    p[20] = peer_connect(0);
    expect(p[20], "421 4.7.0");
    expect_end(p[20]);
    for (int i = 0; i < 21; i++)
        peer_close(p[i]);
    wait_until(nobody_here);
    p[0] = peer_connect(0);
    expect(p[0], "220");
    peer_close(p[0]);
}
END_TEST

static void connect_and_talk(void *arg)
{
    /* The loop stands still meanwhile, so the bytes are there when it accepts. */
    struct peer **p = arg;
    *p = peer_connect(2);
    ck_assert(peer_send(*p, "HELO x\r\n", 8));
}

START_TEST(test_early_talker)
{
    struct peer *p;
    on_loop(connect_and_talk, &p);
    expect(p, "521 5.5.1");
    expect_end(p);
    peer_close(p);
}
END_TEST

struct reload {
    const struct config *config;
    bool ok;
    char err[300];
};
static void do_reload(void *arg)
{
    struct reload *r = arg;
    r->ok = smtp_server_reload(server, r->config, r->err, sizeof r->err);
}

START_TEST(test_reload)
{
    char err[200];
    struct config fresh = config;
    struct reload r = {.config = &fresh};
    fresh.tls_cert = (char *)"/nonexistent/cert.pem";
    on_loop(do_reload, &r);
    ck_assert(!r.ok && strstr(r.err, "/nonexistent/cert.pem"));
    fresh.tls_cert = cert;
    fresh.n_relay_networks = 0;
    ck_assert(smtp_users_set(users, "nobody", "secret", err, sizeof err));
    on_loop(do_reload, &r);
    ck_assert_msg(r.ok, "%s", r.err);
    struct peer *p = peer_connect(0);
    expect(p, "220");
    say(p, "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\nSTARTTLS\r\n");
    expect(p, "250");
    expect(p, "250");
    expect(p, "550 5.7.1");
    expect(p, "250");
    expect(p, "220");
    peer_tls(p);
    say(p, "EHLO x\r\nAUTH PLAIN " NOBODY "\r\n");
    expect(p, "250");
    expect(p, "235");
    open_transaction(p);
    peer_close(p);
    wait_until(nobody_here);
    r.config = &config;
    on_loop(do_reload, &r);
    ck_assert(r.ok);
}
END_TEST

START_TEST(test_close_leaves_an_open_fate_open)
{
    static const enum queue_outcome undecided = QUEUE_UNDECIDED;
    fake.hold_messages = true;
    struct peer *p = peer_connect(0), *q = peer_connect(0);
    expect(p, "220");
    expect(q, "220");
    say(p, "HELO x\r\n");
    expect(p, "250");
    open_transaction(p);
    say(p, ".\r\n");
    wait_until(one_held);
    teardown();
    expect_end(p);
    expect(q, "421 4.3.2");
    expect_end(q);
    peer_close(p);
    peer_close(q);
    release((void *)(uintptr_t)&undecided); /* the queue closes after the server */
}
END_TEST

struct failure {
    struct config config;
    char err[300];
    struct smtp_server *s;
};
static void try_new(void *arg)
{
    struct failure *f = arg;
    f->s = smtp_server_new(&loop, &f->config, &fake, events, f->err, sizeof f->err);
}

START_TEST(test_start_failures_name_the_remedy)
{
    struct failure f = {.config = config};
    on_loop(try_new, &f);
    ck_assert(!f.s && strstr(f.err, "another program listens there"));
    f.config.auth_users = (char *)"/nonexistent/users";
    on_loop(try_new, &f);
    ck_assert(!f.s && strstr(f.err, "batonctl passwd"));
    f.config = config;
    f.config.tls_cert = NULL;
    on_loop(try_new, &f);
    ck_assert(!f.s && strstr(f.err, "tls = {"));
}
END_TEST

START_TEST(test_users_file)
{
    char err[300], file[100], text[1000] = "";
    struct stat st;
    struct smtp_users u;
    snprintf(file, sizeof file, "%s/more", dir);
    ck_assert(smtp_users_set(file, "a", "one", err, sizeof err));
    ck_assert(smtp_users_set(file, "ab", "two", err, sizeof err));
    ck_assert(stat(file, &st) == 0 && (st.st_mode & 07777) == 0640);
    ck_assert(smtp_users_load(file, &u, err, sizeof err));
    char *old = xstrdup(smtp_users_find(&u, "ab")->hash);
    char *first = xstrdup(smtp_users_find(&u, "a")->hash);
    ck_assert(strncmp(old, "$y$", 3) == 0);
    smtp_users_free(&u);
    ck_assert(smtp_users_set(file, "a", "three", err, sizeof err));
    ck_assert(smtp_users_load(file, &u, err, sizeof err));
    ck_assert_uint_eq(u.n, 2);
    ck_assert_str_eq(smtp_users_find(&u, "ab")->hash, old);
    ck_assert_str_ne(smtp_users_find(&u, "a")->hash, first);
    ck_assert_ptr_null(smtp_users_find(&u, "b"));
    smtp_users_free(&u);
    free(old);
    free(first);
    ck_assert(!smtp_users_set(file, "a:b", "x", err, sizeof err));
    ck_assert(!smtp_users_set(file, "", "x", err, sizeof err));
    ck_assert(!smtp_users_set(file, "a\nb", "x", err, sizeof err));
    ck_assert(!smtp_users_set(file, "a", "", err, sizeof err));
    FILE *f = fopen(file, "a");
    fputs("broken line\n", f);
    fclose(f);
    ck_assert(!smtp_users_load(file, &u, err, sizeof err));
    snprintf(text, sizeof text, "%s:3: ", file);
    ck_assert_msg(strncmp(err, text, strlen(text)) == 0, "%s", err);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("smtp_server");
    TCase *t = tcase_create("server");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_250_only_when_committed);
    tcase_add_test(t, test_fates_without_250);
    tcase_add_test(t, test_client_gone_before_commit);
    tcase_add_test(t, test_starttls_and_auth);
    tcase_add_test(t, test_implicit_tls_and_wrong_passwords);
    tcase_add_test(t, test_plaintext_behind_starttls);
    tcase_add_test(t, test_where_chunks_begin);
    tcase_add_test(t, test_large_message_in_chunks);
    tcase_add_test(t, test_back_pressure);
    tcase_add_test(t, test_large_message_given_up);
    tcase_add_test(t, test_full_queue_stops_reading);
    tcase_add_test(t, test_gate);
    tcase_add_test(t, test_session_limits);
    tcase_add_test(t, test_early_talker);
    tcase_add_test(t, test_reload);
    tcase_add_test(t, test_start_failures_name_the_remedy);
    tcase_add_test(t, test_users_file);
    suite_add_tcase(s, t);
    TCase *end = tcase_create("end");
    tcase_set_timeout(end, 60);
    tcase_add_checked_fixture(end, setup, NULL);
    tcase_add_test(end, test_close_leaves_an_open_fate_open);
    suite_add_tcase(s, end);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
