/* DNS against a real server: nsd with a zone on a loopback port. */
#include <check.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/stream_uv.h"
#include "node/delivery/hops_uv.h"

static uv_loop_t loop;
static struct dns *dns;
static pid_t nsd;
static char dir[64], server[64];
static struct hops got;
static bool answered;

static const char zone[] = "$ORIGIN example.test.\n$TTL 60\n"
                           "@ SOA ns.example.test. admin.example.test. 1 60 60 60 5\n"
                           "@ NS ns\nns A 127.0.0.1\n"
                           "mail MX 10 mx1\nmail MX 20 mx2\n"
                           "mx1 A 192.0.2.1\nmx1 AAAA 2001:db8::1\nmx2 A 192.0.2.2\n"
                           "plain A 192.0.2.3\n"
                           "null MX 0 .\n"
                           "loop MX 10 relay\nrelay A 192.0.2.9\n"
                           "broken MX 10 nowhere\n"
                           "text TXT hello\n"
                           "alias CNAME mail\n"
                           "xn--bcher-kva MX 10 mx2\n";

static uint16_t free_port(void)
{
    struct sockaddr_storage a;
    uv_udp_t h;
    int n = sizeof a;
    address_parse("127.0.0.1:0", &a);
    uv_udp_init(&loop, &h);
    uv_udp_bind(&h, (struct sockaddr *)&a, 0);
    uv_udp_getsockname(&h, (struct sockaddr *)&a, &n);
    uv_close((uv_handle_t *)&h, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static void file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static bool start_nsd(void)
{
    char conf[2000], path[128];
    if (access("/usr/sbin/nsd", X_OK) != 0)
        return false;
    snprintf(dir, sizeof dir, "/tmp/baton-dns-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    uint16_t port = free_port();
    snprintf(server, sizeof server, "127.0.0.1:%u", port);
    snprintf(conf, sizeof conf,
             "server:\n ip-address: 127.0.0.1\n port: %u\n username: \"\"\n chroot: \"\"\n"
             " zonesdir: %s\n database: \"\"\n pidfile: \"\"\n xfrdfile: %s/xfrd\n"
             " zonelistfile: %s/zonelist\n server-count: 1\n rrl-ratelimit: 0\n"
             "remote-control:\n control-enable: no\n"
             "zone:\n name: example.test\n zonefile: zone\n",
             port, dir, dir, dir);
    file("zone", zone);
    file("nsd.conf", conf);
    snprintf(path, sizeof path, "%s/nsd.conf", dir);
    nsd = fork();
    if (nsd == 0) {
        setpgid(0, 0); /* nsd has children of its own that answer */
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        execl("/usr/sbin/nsd", "nsd", "-d", "-c", path, (char *)NULL);
        _exit(127);
    }
    setpgid(nsd, nsd);
    return nsd > 0;
}

static void on_hops(void *ctx, const struct hops *h)
{
    got = *h;
    answered = true;
}

static void resolve(const char *domain, const char *host)
{
    answered = false;
    hops_resolve(dns, &loop, domain, host, 2525, "relay.example.test", 1, on_hops, NULL);
    while (!answered)
        uv_run(&loop, UV_RUN_ONCE);
}

static void is(unsigned i, const char *addr, const char *host)
{
    char text[64];
    ck_assert_uint_gt(got.n, i);
    ck_assert_str_eq(address_print(text, (struct sockaddr *)&got.hop[i].address), addr);
    ck_assert_str_eq(got.hop[i].host, host);
}

static void fails(const char *domain, const char *enhanced)
{
    resolve(domain, NULL);
    ck_assert_uint_eq(got.n, 0);
    char *text = slice_dup(slice_of(got.failure.text, got.failure.text_n));
    ck_assert_msg(!strcmp(got.failure.enhanced, enhanced), "%s: %s %s", domain,
                  got.failure.enhanced, text);
    free(text);
    ck_assert_uint_gt(got.failure.text_n, 0);
}

static void setup(void)
{
    char err[200];
    uv_loop_init(&loop);
    ck_assert(start_nsd());
    char *servers[] = {server};
    /* Until it answers. A fresh resolver each time: failures are cached for a while. */
    for (int i = 0; i < 100; i++) {
        dns = dns_new(&loop, servers, 1, err, sizeof err);
        ck_assert_msg(dns != NULL, "%s", err);
        resolve("plain.example.test", NULL);
        if (got.n)
            return;
        dns_close(dns, NULL, NULL);
        uv_run(&loop, UV_RUN_DEFAULT);
        usleep(50000);
    }
    ck_abort_msg("nsd doesn't answer");
}

static void teardown(void)
{
    char command[128];
    dns_close(dns, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    kill(-nsd, SIGTERM);
    waitpid(nsd, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(test_mail_hosts)
{
    resolve("mail.example.test", NULL);
    ck_assert_uint_eq(got.n, 3);
    is(0, "[2001:db8::1]:25", "mx1.example.test");
    is(1, "192.0.2.1:25", "mx1.example.test");
    is(2, "192.0.2.2:25", "mx2.example.test");
    resolve("plain.example.test", NULL);
    is(0, "192.0.2.3:25", "plain.example.test"); /* implicit MX */
    resolve("alias.example.test", NULL);
    ck_assert_uint_eq(got.n, 3);
    resolve("b\xc3\xbc"
            "cher.example.test",
            NULL);
    is(0, "192.0.2.2:25", "mx2.example.test");
    resolve("[192.0.2.7]", NULL);
    is(0, "192.0.2.7:25", "192.0.2.7");
    resolve("[IPv6:2001:db8::7]", NULL);
    is(0, "[2001:db8::7]:25", "2001:db8::7");
    resolve(NULL, "mx2.example.test");
    is(0, "192.0.2.2:2525", "mx2.example.test");
    resolve(NULL, "127.0.0.1");
    is(0, "127.0.0.1:2525", "127.0.0.1");
}
END_TEST

START_TEST(test_domains_without_mail)
{
    fails("null.example.test", "5.1.10");
    fails("loop.example.test", "5.4.6");
    fails("missing.example.test", "5.1.2");
    fails("text.example.test", "5.1.2"); /* exists, but has neither MX nor address */
    fails("broken.example.test", "5.4.4");
    fails("[300.1.2.3]", "5.1.3");
    fails("\xff\xfe.example.test", "5.1.2");
}
END_TEST

START_TEST(test_server_trouble_is_temporary)
{
    fails("else.where.org", "4.4.3"); /* nsd refuses what isn't its zone */
    kill(-nsd, SIGSTOP);              /* silent, not gone: the own deadline counts */
    uint64_t before = uv_hrtime();
    fails("other.example.test", "4.4.3");
    ck_assert(uv_hrtime() - before < 15000000000u);
    kill(-nsd, SIGCONT);
}
END_TEST

START_TEST(test_cancelled_queries_never_call_back)
{
    answered = false;
    struct hops_query *q =
        hops_resolve(dns, &loop, "mail.example.test", NULL, 25, "me", 1, on_hops, NULL);
    hops_cancel(q);
    hops_resolve(dns, &loop, "mx2.example.test", NULL, 25, "me", 1, on_hops, NULL);
    while (!answered)
        uv_run(&loop, UV_RUN_ONCE);
    is(0, "192.0.2.2:25", "mx2.example.test");
    /* One still under way at the close. */
    hops_cancel(hops_resolve(dns, &loop, "null.example.test", NULL, 25, "me", 1, on_hops, NULL));
}
END_TEST

int main(void)
{
    if (access("/usr/sbin/nsd", X_OK) != 0) {
        puts("skipped: nsd isn't installed");
        return 0;
    }
    Suite *s = suite_create("dns");
    TCase *t = tcase_create("dns");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_mail_hosts);
    tcase_add_test(t, test_domains_without_mail);
    tcase_add_test(t, test_server_trouble_is_temporary);
    tcase_add_test(t, test_cancelled_queries_never_call_back);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
