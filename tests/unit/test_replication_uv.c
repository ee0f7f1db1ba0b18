/* Two replication threads over loopback with TLS, each with a store in memory: the way through real
 * sockets, and what strangers and mistakes meet. */
#include <arpa/inet.h>
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "replication/own.h"
#include "replication/replication_uv.h"
#include "support_replica.h"

enum { A = 0, B = 1, WAIT_MS = 40000 };

/* One end: its thread, and the store behind a lock. */
struct end {
    struct world_node node;
    struct world world; /* for the clock that the store's functions ask for */
    struct own own;
    struct config config;
    struct replication *thread;
    pthread_mutex_t lock;
    uint64_t committed;
    unsigned reports[64];
    struct store_id follower; /* of the last report */
    uint64_t added;
};
static struct end ends[2];
static uint16_t ports[2];
static uint8_t key[32];

static void on_store(void *ctx, const struct store_request *q)
{
    struct end *e = ctx;
    struct store_reply r;
    pthread_mutex_lock(&e->lock);
    bool answered = world_serve(&e->node, q, &r);
    pthread_mutex_unlock(&e->lock);
    if (answered)
        replication_reply(e->thread, &r);
    shared_unref(q->bytes);
}

static void on_report(void *ctx, const struct pair_event *ev)
{
    struct end *e = ctx;
    pthread_mutex_lock(&e->lock);
    e->reports[ev->type]++;
    e->follower = ev->follower;
    pthread_mutex_unlock(&e->lock);
    if (ev->type == PE_EMPTY && ev->flag)
        replication_pair(e->thread, &(struct pair_effect){.type = PX_EMPTY, .op = ev->op});
}

static void on_watermark(void *ctx, uint32_t epoch, uint64_t committed, uint64_t settled,
                         uint64_t noted)
{
    struct end *e = ctx;
    (void)epoch;
    (void)settled;
    (void)noted;
    pthread_mutex_lock(&e->lock);
    e->committed = committed;
    pthread_mutex_unlock(&e->lock);
}

static void on_epoch_over(void *ctx)
{
    (void)ctx;
}

/* Waits for a condition on the end, under its lock. */
static bool reported(struct end *e, int type)
{
    return e->reports[type] > 0;
}
static bool committed(struct end *e, int unused)
{
    (void)unused;
    return e->committed >= store_memory_meta(e->node.store)->end.lsn;
}
static bool ends_at(struct end *e, int lsn)
{
    return store_memory_meta(e->node.store)->end.lsn >= (uint64_t)lsn;
}
static void wait_until(struct end *e, bool (*cond)(struct end *, int), int arg, const char *what)
{
    uint64_t end = clock_boot_ns() + WAIT_MS * 1000000ull;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        bool ok = cond(e, arg);
        pthread_mutex_unlock(&e->lock);
        if (ok)
            return;
        ck_assert_msg(clock_boot_ns() < end, "waited in vain for: %s", what);
        usleep(2000);
    }
}

static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 &&
              getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void configure(struct end *e, char node)
{
    e->config = (struct config){.cluster = (char *)(uintptr_t) "test",
                                .node = node,
                                .n_nodes = 2,
                                .health.standby_timeout_ms = 5000,
                                .queue = {.retention_ms = 86400000, .quarantine_ms = 3600000}};
    for (unsigned i = 0; i < 2; i++)
        e->config.nodes[i] = (struct config_node){.name = (char)('a' + i),
                                                  .addresses = {(char *)(uintptr_t) "127.0.0.1"},
                                                  .n_addresses = 1,
                                                  .replication_port = ports[i]};
}

static bool start(struct end *e, const uint8_t with[32], char *err, size_t n)
{
    static const struct replication_hooks hooks = {.store = on_store,
                                                   .report = on_report,
                                                   .watermark = on_watermark,
                                                   .epoch_over = on_epoch_over};
    struct replication_hooks h = hooks;
    h.ctx = e;
    /* Requests come only after something was posted, so the thread's name is known by then. */
    e->thread = replication_start(&e->config, with, store_memory_meta(e->node.store), &h, err, n);
    return e->thread != NULL;
}

static void set_up(void)
{
    crypto_random(key, sizeof key);
    for (unsigned i = 0; i < 2; i++)
        ports[i] = free_port();
    for (unsigned i = 0; i < 2; i++) {
        struct end *e = &ends[i];
        memset(e, 0, sizeof *e);
        pthread_mutex_init(&e->lock, NULL);
        struct store_id id;
        crypto_random(&id, sizeof id);
        e->node.self = i;
        e->node.world = &e->world;
        e->node.store = store_memory_new(&id);
        e->node.own = &e->own;
        own_init(&e->own);
        configure(e, (char)('a' + i));
    }
}

static void tear_down(void)
{
    for (unsigned i = 0; i < 2; i++) {
        replication_stop(ends[i].thread);
        own_free(&ends[i].own);
        store_memory_free(ends[i].node.store);
    }
}

static void start_both(void)
{
    char err[300] = "";
    for (unsigned i = 0; i < 2; i++)
        ck_assert_msg(start(&ends[i], key, err, sizeof err), "%s", err);
}

static void promote(uint32_t epoch)
{
    struct pair_effect fx = {.type = PX_PROMOTE, .epoch = epoch, .mode = PAIR_SOLO};
    replication_pair(ends[A].thread, &fx);
    wait_until(&ends[A], reported, PE_PROMOTED, "promotion");
}

static void follow(uint32_t epoch)
{
    struct pair_effect fx = {.type = PX_FOLLOW,
                             .epoch = epoch,
                             .record = {.version = 1, .epoch = epoch, .primary = NODE_A}};
    replication_pair(ends[B].thread, &fx);
}

/* One transaction of n messages, handed over before it is committed. */
static uint64_t add(unsigned n, size_t body_bytes)
{
    struct end *e = &ends[A];
    pthread_mutex_lock(&e->lock);
    ck_assert_int_eq(own_begin(&e->own, e->node.store, e->node.writer, 1), 0);
    for (unsigned i = 0; i < n; i++)
        ck_assert_int_eq(
            world_put_message(&e->node, MESSAGE_ID(e->node.writer, ++e->added), body_bytes), 0);
    struct own_batch b = own_batch(&e->own, true);
    replication_batch(e->thread, &b);
    shared_unref(b.rows);
    ck_assert_int_eq(own_commit(&e->own, (struct pos){0, 0}), 0);
    struct pos end = store_memory_meta(e->node.store)->end;
    replication_durable(e->thread, end);
    pthread_mutex_unlock(&e->lock);
    return end.lsn;
}

static void equal_at(uint64_t lsn)
{
    wait_until(&ends[B], ends_at, (int)lsn, "the standby has everything");
    pthread_mutex_lock(&ends[A].lock);
    pthread_mutex_lock(&ends[B].lock);
    ck_assert(world_stores_equal(ends[A].node.store, ends[B].node.store));
    pthread_mutex_unlock(&ends[B].lock);
    pthread_mutex_unlock(&ends[A].lock);
}

static void take_back(void)
{
    struct pair_effect fx = {.type = PX_TAKE_BACK, .epoch = 2, .follower = ends[A].follower};
    replication_pair(ends[A].thread, &fx);
    wait_until(&ends[A], reported, PE_TAKE_BACK_READY, "taken back");
    fx.type = PX_PAIRED;
    replication_pair(ends[A].thread, &fx);
}

START_TEST(test_a_pair_over_tls)
{
    start_both();
    promote(2);
    add(50, 1000);
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up");
    take_back();
    uint64_t last = 0;
    for (unsigned i = 0; i < 200; i++)
        last = add(1, 500);
    wait_until(&ends[A], committed, 0, "committed on both");
    equal_at(last);
    struct replica_view v;
    replication_view(ends[A].thread, &v);
    ck_assert(replication_alive(ends[A].thread, 2000000000));
    ck_assert_uint_eq(ends[A].reports[PE_SLOW], 0);
}
END_TEST

/* More than the window, in batches of several MB. */
START_TEST(test_large_batches)
{
    start_both();
    promote(2);
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up");
    uint64_t last = 0;
    for (unsigned i = 0; i < 6; i++)
        last = add(40, 60000);
    equal_at(last);
}
END_TEST

START_TEST(test_standby_comes_back)
{
    start_both();
    promote(2);
    add(10, 100);
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up");
    replication_stop(ends[B].thread);
    wait_until(&ends[A], reported, PE_DETACHED, "detached");
    uint64_t last = add(100, 3000);
    ends[A].reports[PE_CAUGHT_UP] = 0;
    char err[300];
    ck_assert(start(&ends[B], key, err, sizeof err));
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up again");
    equal_at(last);
}
END_TEST

/* The first address leads nowhere. */
START_TEST(test_every_address_is_tried)
{
    struct config_node *a = &ends[B].config.nodes[0];
    a->addresses[0] = (char *)(uintptr_t) "127.0.0.99";
    a->addresses[1] = (char *)(uintptr_t) "127.0.0.1";
    a->n_addresses = 2;
    start_both();
    promote(2);
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up");
}
END_TEST

/* What the log says meanwhile; stderr goes to a file. */
static bool log_has(int fd, const char *text)
{
    static char all[65536];
    ssize_t n = pread(fd, all, sizeof all - 1, 0);
    all[n > 0 ? n : 0] = 0;
    return strstr(all, text) != NULL;
}

static void wait_log(int fd, const char *text)
{
    uint64_t end = clock_boot_ns() + WAIT_MS * 1000000ull;
    while (!log_has(fd, text)) {
        ck_assert_msg(clock_boot_ns() < end, "never logged: %s", text);
        usleep(5000);
    }
}

static int catch_log(void)
{
    char name[] = "/tmp/baton-test-XXXXXX";
    int fd = mkstemp(name);
    ck_assert(fd >= 0);
    unlink(name);
    dup2(fd, 2);
    return fd;
}

START_TEST(test_another_key_is_refused)
{
    int fd = catch_log();
    uint8_t other[32];
    crypto_random(other, sizeof other);
    char err[300];
    ck_assert(start(&ends[A], key, err, sizeof err));
    ck_assert(start(&ends[B], other, err, sizeof err));
    promote(2);
    follow(2);
    wait_log(fd, "replication.refused");
    ck_assert(log_has(fd, "key_file"));
    ck_assert_uint_eq(ends[A].reports[PE_ATTACHED], 0);
    close(fd);
}
END_TEST

START_TEST(test_another_cluster_is_refused)
{
    int fd = catch_log();
    ends[B].config.cluster = (char *)(uintptr_t) "other";
    start_both();
    promote(2);
    follow(2);
    wait_log(fd, "replication.refused");
    ck_assert_uint_eq(ends[A].reports[PE_ATTACHED], 0);
    close(fd);
}
END_TEST

/* A stranger that connects and says nothing, or nonsense, keeps nobody out. */
START_TEST(test_strangers_do_no_harm)
{
    start_both();
    promote(2);
    int fds[12];
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(ports[A]),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (unsigned i = 0; i < 12; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        ck_assert(connect(fds[i], (struct sockaddr *)&a, sizeof a) == 0);
        if (i % 2)
            ck_assert(write(fds[i], "GET / HTTP/1.0\r\n\r\n", 18) == 18);
    }
    follow(2);
    wait_until(&ends[A], reported, PE_CAUGHT_UP, "caught up");
    for (unsigned i = 0; i < 12; i++)
        close(fds[i]);
}
END_TEST

START_TEST(test_port_in_use_names_it)
{
    char err[300] = "", port[16];
    ck_assert(start(&ends[A], key, err, sizeof err));
    ends[B].config.nodes[1].replication_port = ports[A];
    ck_assert(!start(&ends[B], key, err, sizeof err));
    snprintf(port, sizeof port, "%u", ports[A]);
    ck_assert_msg(strstr(err, "127.0.0.1") && strstr(err, port) && strstr(err, "replication_port"),
                  "%s", err);
}
END_TEST

START_TEST(test_foreign_address_names_it)
{
    char err[300] = "";
    ends[B].config.nodes[1].addresses[0] = (char *)(uintptr_t) "192.0.2.1";
    ck_assert(!start(&ends[B], key, err, sizeof err));
    ck_assert_msg(strstr(err, "192.0.2.1") && strstr(err, "addresses"), "%s", err);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replication_uv");
    TCase *t = tcase_create("threads");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_a_pair_over_tls);
    tcase_add_test(t, test_large_batches);
    tcase_add_test(t, test_standby_comes_back);
    tcase_add_test(t, test_every_address_is_tried);
    tcase_add_test(t, test_another_key_is_refused);
    tcase_add_test(t, test_another_cluster_is_refused);
    tcase_add_test(t, test_strangers_do_no_harm);
    tcase_add_test(t, test_port_in_use_names_it);
    tcase_add_test(t, test_foreign_address_names_it);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
