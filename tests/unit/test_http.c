/* The HTTP port, over real connections made by libcurl: it answers, and can't be made to change or
 * hold anything. */
#include <arpa/inet.h>
#include <check.h>
#include <curl/curl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "health/http_mhd.h"

static struct http *server;
static unsigned port;
static _Atomic unsigned calls;

static int answer(void *ctx, const char *path, struct buf *body, const char **type)
{
    atomic_fetch_add(&calls, 1);
    if (strcmp(path, "/status") == 0) {
        *type = "application/json";
        buf_append_str(body, "{\"role\":\"primary\"}\n");
        return 200;
    }
    if (strcmp(path, "/primary") == 0) {
        buf_append_str(body, "standby\n");
        return 503;
    }
    return 404;
}

static unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, n), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void setup(void)
{
    char listen[40], err[200] = "";
    port = free_port();
    snprintf(listen, sizeof listen, "127.0.0.1:%u", port);
    server = http_start(listen, answer, NULL, err, sizeof err);
    ck_assert_msg(server != NULL, "%s", err);
    atomic_store(&calls, 0);
}

static void teardown(void)
{
    http_stop(server);
    server = NULL;
}

struct got {
    long code;
    char body[4096], head[4096];
    size_t body_n, head_n;
};

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct got *g = ctx;
    ck_assert_uint_lt(g->body_n + n, sizeof g->body);
    memcpy(g->body + g->body_n, p, n);
    g->body_n += n;
    return n;
}

static size_t on_head(char *p, size_t size, size_t n, void *ctx)
{
    struct got *g = ctx;
    if (g->head_n + n < sizeof g->head) {
        memcpy(g->head + g->head_n, p, n);
        g->head_n += n;
    }
    return n;
}

static struct got ask(const char *method, const char *path, const char *body)
{
    struct got g = {0};
    char url[100];
    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", port, path);
    CURL *c = curl_easy_init();
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 10L);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &g);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &g);
    if (strcmp(method, "HEAD") == 0)
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    else
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    if (body)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    ck_assert_int_eq(curl_easy_perform(c), CURLE_OK);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &g.code);
    curl_easy_cleanup(c);
    return g;
}

START_TEST(test_get_and_head)
{
    struct got g = ask("GET", "/status", NULL);
    ck_assert_int_eq(g.code, 200);
    ck_assert_str_eq(g.body, "{\"role\":\"primary\"}\n");
    ck_assert_ptr_nonnull(strcasestr(g.head, "content-type: application/json"));
    ck_assert_ptr_nonnull(strcasestr(g.head, "cache-control: no-store"));
    g = ask("HEAD", "/status", NULL);
    ck_assert_int_eq(g.code, 200);
    ck_assert_uint_eq(g.body_n, 0);
    ck_assert_ptr_nonnull(strcasestr(g.head, "content-length: 19"));
    ck_assert_int_eq(ask("GET", "/primary", NULL).code, 503);
    ck_assert_int_eq(ask("HEAD", "/primary", NULL).code, 503);
    ck_assert_int_eq(ask("GET", "/nothing", NULL).code, 404);
    ck_assert_int_eq(ask("GET", "/status?x=1", NULL).code, 200);
}
END_TEST

START_TEST(test_other_methods_are_refused_and_reach_nobody)
{
    static const char *const methods[] = {"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct got g = ask(methods[i], "/status", i < 2 ? "x=1" : NULL);
        ck_assert_msg(g.code == 405, "%s: %ld", methods[i], g.code);
        ck_assert_ptr_nonnull(strcasestr(g.head, "allow: GET, HEAD"));
    }
    ck_assert_uint_eq(atomic_load(&calls), 0);
}
END_TEST

START_TEST(test_a_body_with_get_is_ignored)
{
    struct got g = ask("GET", "/status", "some=body");
    ck_assert_int_eq(g.code, 200);
}
END_TEST

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

START_TEST(test_an_endless_header_is_cut_off)
{
    int fd = dial();
    static char junk[4096];
    memset(junk, 'a', sizeof junk);
    size_t sent = 0;
    ssize_t n = send(fd, "GET /", 5, MSG_NOSIGNAL);
    bool cut_off = n < 0;
    while (!cut_off && sent < 1 << 20) {
        n = send(fd, junk, sizeof junk, MSG_NOSIGNAL);
        cut_off = n < 0;
        sent += n > 0 ? (size_t)n : 0;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        cut_off = cut_off || poll(&p, 1, 0) > 0; /* an answer (414) or the end */
    }
    /* What it hasn't read yet may lie in the sockets' buffers. */
    struct pollfd p = {.fd = fd, .events = POLLIN};
    ck_assert(cut_off || poll(&p, 1, 10000) > 0);
    close(fd);
    ck_assert_int_eq(ask("GET", "/status", NULL).code, 200);
}
END_TEST

START_TEST(test_one_address_can_not_take_all_connections)
{
    int fd[100];
    unsigned closed = 0;
    for (unsigned i = 0; i < 100; i++)
        fd[i] = dial();
    /* Those beyond the cap are closed at once. */
    for (unsigned round = 0; round < 100 && closed < 60; round++) {
        closed = 0;
        for (unsigned i = 0; i < 100; i++) {
            char c;
            closed += recv(fd[i], &c, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
        }
        usleep(20000);
    }
    ck_assert_uint_ge(closed, 60);
    for (unsigned i = 0; i < 100; i++)
        close(fd[i]);
    for (unsigned i = 0; i < 100; i++) {
        int probe = dial();
        char c;
        usleep(20000);
        bool open = recv(probe, &c, 1, MSG_DONTWAIT) < 0;
        close(probe);
        if (open)
            break;
    }
    ck_assert_int_eq(ask("GET", "/status", NULL).code, 200);
}
END_TEST

START_TEST(test_listen_mistakes_name_the_remedy)
{
    char err[200] = "", listen[40];
    snprintf(listen, sizeof listen, "127.0.0.1:%u", port);
    ck_assert_ptr_null(http_start(listen, answer, NULL, err, sizeof err));
    ck_assert_ptr_nonnull(strstr(err, "another process"));
    ck_assert_ptr_null(http_start("nonsense", answer, NULL, err, sizeof err));
    ck_assert_ptr_nonnull(strstr(err, "address:port"));
}
END_TEST

START_TEST(test_ipv6)
{
    char listen[40], err[200] = "";
    snprintf(listen, sizeof listen, "[::1]:%u", port);
    struct http *h = http_start(listen, answer, NULL, err, sizeof err);
    /* A machine without IPv6 says so; that is all that can be asked of it. */
    ck_assert(h != NULL || strstr(err, "[::1]"));
    http_stop(h);
}
END_TEST

int main(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    Suite *s = suite_create("http");
    TCase *t = tcase_create("http");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_get_and_head);
    tcase_add_test(t, test_other_methods_are_refused_and_reach_nobody);
    tcase_add_test(t, test_a_body_with_get_is_ignored);
    tcase_add_test(t, test_an_endless_header_is_cut_off);
    tcase_add_test(t, test_one_address_can_not_take_all_connections);
    tcase_add_test(t, test_listen_mistakes_name_the_remedy);
    tcase_add_test(t, test_ipv6);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    curl_global_cleanup();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
