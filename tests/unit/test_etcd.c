/* The record in a real etcd, by core and driver together: first record, reads, changes, refusals,
 * an etcd that is stopped, emptied or older; TLS; users. */
#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "health/arbiter_uv.h"
#include "health/etcd_json_curl.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"

enum { WAIT_S = 20 };
#define SECOND 1000000000ull

static struct world {
    uv_loop_t loop;
    uv_timer_t tick;
    struct config config;
    struct arbiter_uv *uv;
    char dir[64], url[3][64], store[96], *endpoint[3];
    char ca[96], cert[96], key[96], cluster[8], user[8], password[8];
    pid_t etcd;
    unsigned port;
    const char *scheme;
    bool answered, bootstrapped, bootstrap_ok, behind, give_back;
    struct pair_event result;
    struct record hint;
    char text[200];
} w;

/* ---- etcd ---- */

static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(bind(fd, (struct sockaddr *)&a, n) == 0);
    ck_assert(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void etcd_start(const char *data)
{
    char client[64], peer[64], initial[80], dir[128], log[128];
    snprintf(client, sizeof client, "%s://127.0.0.1:%u", w.scheme, w.port);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%u", free_port());
    snprintf(initial, sizeof initial, "one=%s", peer);
    snprintf(dir, sizeof dir, "%s/%s", w.dir, data);
    snprintf(log, sizeof log, "%s/etcd.log", w.dir);
    bool tls = strcmp(w.scheme, "https") == 0;
    w.etcd = fork();
    if (w.etcd == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        execlp("etcd", "etcd", "--name", "one", "--data-dir", dir, "--listen-client-urls", client,
               "--advertise-client-urls", client, "--listen-peer-urls", peer,
               "--initial-advertise-peer-urls", peer, "--initial-cluster", initial,
               tls ? "--cert-file" : NULL, w.cert, "--key-file", w.key, "--trusted-ca-file", w.ca,
               "--client-cert-auth", NULL);
        _exit(127);
    }
}

static void etcd_stop(void)
{
    if (w.etcd <= 0)
        return;
    kill(w.etcd, SIGCONT);
    kill(w.etcd, SIGKILL);
    waitpid(w.etcd, NULL, 0);
    w.etcd = 0;
}

static void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *fmt, ...)
{
    char command[1500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

/* ---- the arbiter ---- */

static void on_event(void *ctx, const struct pair_event *ev)
{
    (void)ctx;
    if (ev->type == PE_REGISTER) {
        w.answered = true;
        w.result = *ev;
    } else if (ev->type == PE_HINT) {
        w.hint = ev->record;
    } else if (ev->type == PE_BEHIND) {
        w.behind = true;
    }
}

static bool may_give_back(void *ctx, uint64_t now_ns)
{
    (void)ctx;
    (void)now_ns;
    return w.give_back;
}

static void on_bootstrapped(void *ctx, uint64_t op, bool ok, const char *text)
{
    (void)ctx;
    (void)op;
    w.bootstrapped = true;
    w.bootstrap_ok = ok;
    snprintf(w.text, sizeof w.text, "%s", text);
}

static struct arbiter *arbiter(void)
{
    return arbiter_uv_core(w.uv);
}

static void on_tick(uv_timer_t *t)
{
    (void)t;
    arbiter()->ops->tick(arbiter(), clock_boot_ns());
}

static void arbiter_open(void)
{
    char err[300] = "";
    uv_loop_init(&w.loop);
    struct arbiter_place place = {.loop = &w.loop,
                                  .config = &w.config,
                                  .self = NODE_A,
                                  .events = {.event = on_event,
                                             .may_give_back = may_give_back,
                                             .bootstrapped = on_bootstrapped}};
    w.uv = arbiter_uv_open(&place, err, sizeof err);
    ck_assert_msg(w.uv != NULL, "%s", err);
    arbiter()->ops->set_virgin(arbiter(), true);
    uv_timer_init(&w.loop, &w.tick);
    uv_timer_start(&w.tick, on_tick, 0, 10);
}

static void arbiter_close(void)
{
    uv_close((uv_handle_t *)&w.tick, NULL);
    arbiter_uv_close(w.uv);
    uv_run(&w.loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&w.loop), 0);
    arbiter_uv_free(w.uv);
}

static struct arbiter_view view(void)
{
    struct arbiter_view v;
    arbiter()->ops->view(arbiter(), clock_boot_ns(), &v);
    return v;
}

#define run_until(condition)                                                                       \
    do {                                                                                           \
        uint64_t until_ns = clock_boot_ns() + WAIT_S * SECOND;                                     \
        while (!(condition)) {                                                                     \
            ck_assert_msg(clock_boot_ns() < until_ns, #condition ": %s", view().detail);           \
            uv_run(&w.loop, UV_RUN_ONCE);                                                          \
        }                                                                                          \
    } while (0)

static int ask(struct pair_effect fx)
{
    w.answered = false;
    fx.until_ns = clock_boot_ns() + SECOND;
    arbiter_ask(arbiter(), &fx, clock_boot_ns());
    run_until(w.answered);
    return w.result.outcome;
}

static int read_record(bool give_back)
{
    w.give_back = give_back;
    return ask((struct pair_effect){.type = PX_READ});
}

static int change(uint64_t from, const struct record *to)
{
    return ask((struct pair_effect){.type = PX_CHANGE, .from_tag = from, .record = *to});
}

static struct record record(uint64_t version, uint32_t epoch, uint64_t tag)
{
    struct record r = {.version = version, .epoch = epoch, .tag = tag, .in_sync = {true, false}};
    memset(r.store[0].b, 7, STORE_ID_BYTES);
    return r;
}

static void bootstrap(const struct record *first)
{
    run_until(arbiter()->ops->all_virgin(arbiter(), clock_boot_ns()));
    w.bootstrapped = false;
    arbiter()->ops->bootstrap(arbiter(), first, 1, clock_boot_ns());
    run_until(w.bootstrapped);
}

static void setup(const char *scheme)
{
    memset(&w, 0, sizeof w);
    strcpy(w.dir, "/tmp/baton-etcd-XXXXXX");
    ck_assert(mkdtemp(w.dir) != NULL);
    w.scheme = scheme;
    w.port = free_port();
    snprintf(w.store, sizeof w.store, "%s/a.db", w.dir);
    snprintf(w.ca, sizeof w.ca, "%s/ca.pem", w.dir);
    snprintf(w.cert, sizeof w.cert, "%s/cert.pem", w.dir);
    snprintf(w.key, sizeof w.key, "%s/key.pem", w.dir);
    /* 1: nobody listens. */
    snprintf(w.url[0], sizeof w.url[0], "%s://127.0.0.1:%u", scheme, free_port());
    snprintf(w.url[1], sizeof w.url[1], "%s://127.0.0.1:%u/", scheme, w.port);
    w.endpoint[0] = w.url[0];
    w.endpoint[1] = w.url[1];
    w.config.cluster = w.cluster;
    strcpy(w.cluster, "mail-1");
    w.config.store = w.store;
    w.config.arbiter.type = ARBITER_ETCD;
    w.config.arbiter.endpoints = w.endpoint;
    w.config.arbiter.n_endpoints = 2;
}

static void setup_plain(void)
{
    setup("http");
}

static void teardown(void)
{
    etcd_stop();
    shell("rm -rf %s", w.dir);
}

START_TEST(a_record_is_made_read_and_changed)
{
    etcd_start("data");
    arbiter_open();
    struct record first = record(1, 2, 11), second = record(2, 4, 12), third = record(3, 6, 13);
    bootstrap(&first);
    ck_assert_msg(w.bootstrap_ok, "%s", w.text);
    ck_assert_int_eq(read_record(false), REG_DONE);
    ck_assert_uint_eq(w.result.record.tag, 11);
    ck_assert_mem_eq(&w.result.record.store[0], &first.store[0], STORE_ID_BYTES);
    ck_assert_int_eq(change(11, &second), REG_DONE);
    ck_assert_int_eq(change(11, &third), REG_MISMATCH);
    ck_assert_uint_eq(w.result.record.tag, 12);
    run_until(w.hint.tag == 12);
    ck_assert(view().reachable[WITNESS] && view().voting[WITNESS] && !view().behind);
    w.bootstrapped = false;
    arbiter()->ops->bootstrap(arbiter(), &first, 1, clock_boot_ns());
    run_until(w.bootstrapped);
    ck_assert(!w.bootstrap_ok && strstr(w.text, "holds a record already"));
    arbiter_close();
    /* What was seen is durable. */
    arbiter_open();
    ck_assert(!arbiter()->ops->all_virgin(arbiter(), clock_boot_ns()));
    ck_assert_int_eq(read_record(false), REG_DONE);
    ck_assert_uint_eq(w.result.record.tag, 12);
    arbiter_close();
}
END_TEST

START_TEST(while_etcd_is_away_nothing_is_done)
{
    struct record first = record(1, 2, 11), second = record(2, 4, 12);
    arbiter_open();
    ck_assert_int_eq(read_record(false), REG_NOT_DONE);
    ck_assert_msg(strstr(view().detail, "127.0.0.1") != NULL, "%s", view().detail);
    ck_assert(!view().reachable[WITNESS]);
    etcd_start("data");
    bootstrap(&first);
    ck_assert_int_eq(read_record(false), REG_DONE);
    kill(w.etcd, SIGSTOP); /* it hangs */
    int outcome = change(11, &second);
    ck_assert(outcome == REG_NOT_DONE || outcome == REG_UNKNOWN);
    run_until(!view().reachable[WITNESS]);
    kill(w.etcd, SIGCONT);
    while (read_record(false) != REG_DONE)
        ;
    ck_assert(w.result.record.tag == 11 || w.result.record.tag == 12);
    ck_assert_int_eq(
        change(w.result.record.tag, &(struct record){.version = 3, .epoch = 6, .tag = 13}),
        REG_DONE);
    arbiter_close();
}
END_TEST

START_TEST(an_emptied_etcd_and_a_backup_are_not_followed)
{
    struct record first = record(1, 2, 11), second = record(2, 2, 12), third = record(3, 4, 13);
    etcd_start("data");
    arbiter_open();
    bootstrap(&first);
    ck_assert_int_eq(read_record(false), REG_DONE);
    shell("ETCDCTL_API=3 etcdctl --endpoints=http://127.0.0.1:%u snapshot save %s/backup "
          ">%s/etcdctl.log 2>&1",
          w.port, w.dir, w.dir);
    ck_assert_int_eq(change(11, &second), REG_DONE);
    etcd_stop();
    shell("ETCDCTL_API=3 etcdctl snapshot restore %s/backup --name one --data-dir %s/restored "
          "--initial-cluster one=http://127.0.0.1:1 --initial-advertise-peer-urls "
          "http://127.0.0.1:1 >>%s/etcdctl.log 2>&1",
          w.dir, w.dir, w.dir);
    etcd_start("restored");
    run_until(w.behind);
    ck_assert(view().behind && !view().voting[WITNESS]);
    ck_assert_int_eq(change(11, &third), REG_BEHIND);
    ck_assert_int_eq(read_record(false), REG_BEHIND);
    ck_assert_uint_eq(w.result.record.tag, 12);
    ck_assert_int_eq(read_record(true), REG_DONE);
    ck_assert_uint_eq(w.result.record.tag, 12);
    ck_assert_int_eq(change(12, &third), REG_DONE);
    etcd_stop();
    w.behind = false;
    etcd_start("emptied");
    run_until(w.behind);
    ck_assert_int_eq(read_record(false), REG_BEHIND);
    ck_assert(!arbiter()->ops->all_virgin(arbiter(), clock_boot_ns()));
    ck_assert_int_eq(read_record(true), REG_DONE);
    ck_assert_uint_eq(w.result.record.tag, 13);
    ck_assert(!view().behind);
    arbiter_close();
}
END_TEST

static void make_certificates(void)
{
    shell("cd %s && exec >openssl.log 2>&1 && "
          "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj "
          "/CN=ca && openssl req -newkey rsa:2048 -nodes -keyout key.pem -out req.pem -subj "
          "/O=baton && printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,"
          "clientAuth' >ext && openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key "
          "-CAcreateserial -days 2 -extfile ext -out cert.pem",
          w.dir);
}

START_TEST(tls_and_users)
{
    w.scheme = "https";
    snprintf(w.url[0], sizeof w.url[0], "https://127.0.0.1:%u", free_port());
    snprintf(w.url[1], sizeof w.url[1], "https://127.0.0.1:%u", w.port);
    make_certificates();
    etcd_start("data");
    /* A certificate that nobody vouches for is refused. */
    arbiter_open();
    run_until(strstr(view().detail, "ertificate"));
    ck_assert_int_eq(read_record(false), REG_NOT_DONE);
    arbiter_close();
    w.config.arbiter.ca = w.ca;
    w.config.arbiter.cert = w.cert;
    w.config.arbiter.key = w.key;
    char ctl[400];
    snprintf(
        ctl, sizeof ctl,
        "env ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:%u --cacert=%s --cert=%s --key=%s",
        w.port, w.ca, w.cert, w.key);
    shell("exec >>%s/etcdctl.log 2>&1; c='%s'; $c user add root:r && $c role add root; $c user "
          "grant-role root root; $c role add baton && $c role "
          "grant-permission baton readwrite --prefix /baton/ && $c user add baton:secret && $c "
          "user grant-role baton baton && $c auth enable",
          w.dir, ctl);
    /* (Its gateway refuses client certificates with a CommonName then.)
     * TLS without a user, a wrong password, then the right one. */
    arbiter_open();
    run_until(strstr(view().detail, "set user and password"));
    arbiter_close();
    strcpy(w.user, "baton");
    w.config.arbiter.user = w.user;
    strcpy(w.password, "wrong");
    w.config.arbiter.password = w.password;
    arbiter_open();
    run_until(strstr(view().detail, "check user and password"));
    arbiter_close();
    strcpy(w.password, "secret");
    arbiter_open();
    struct record first = record(1, 2, 11), second = record(2, 4, 12);
    bootstrap(&first);
    ck_assert_msg(w.bootstrap_ok, "%s", w.text);
    ck_assert_int_eq(read_record(false), REG_DONE);
    /* A token that ends: another is fetched within the same operation. */
    etcd_stop();
    etcd_start("data");
    run_until(view().reachable[WITNESS]);
    while (read_record(false) != REG_DONE)
        ;
    ck_assert_int_eq(change(11, &second), REG_DONE);
    arbiter_close();
}
END_TEST

/* A put that was "cancelled" or "aborted" may have gone on to the other servers: counted as
 * refused, a take-back would have been given up that then took effect (incident 1). */
START_TEST(only_what_was_not_done_is_refused)
{
    static const long refused[] = {400, 403, 404, 412},
                      open_[] = {408, 409, 429, 499, 500, 502, 503};
    struct slice body = SLICE_LIT("{\"error\":\"context canceled\",\"code\":1}");
    struct etcd_reply *r = xcalloc(1, sizeof *r);
    for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++) {
        etcd_json_reply(r, ETCD_PUT, refused[i], body);
        ck_assert_int_eq(r->answer.what, ETCD_REFUSED);
    }
    for (unsigned i = 0; i < sizeof open_ / sizeof *open_; i++) {
        etcd_json_reply(r, ETCD_PUT, open_[i], body);
        ck_assert_int_eq(r->answer.what, ETCD_LOST);
    }
    free(r);
}
END_TEST

int main(void)
{
    if (system("etcd --version >/dev/null 2>&1") != 0) {
        puts("etcd isn't installed: deploy/install-deps tests");
        return 1;
    }
    Suite *s = suite_create("etcd");
    TCase *t = tcase_create("etcd");
    tcase_add_checked_fixture(t, setup_plain, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_record_is_made_read_and_changed);
    tcase_add_test(t, while_etcd_is_away_nothing_is_done);
    tcase_add_test(t, an_emptied_etcd_and_a_backup_are_not_followed);
    tcase_add_test(t, tls_and_users);
    suite_add_tcase(s, t);
    TCase *j = tcase_create("replies");
    tcase_add_test(j, only_what_was_not_done_is_refused);
    suite_add_tcase(s, j);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
