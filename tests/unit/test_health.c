/* The health thread with real sockets, files and processes: node b is this process, node a is
 * another run of this program (`test_health node a DIR ...`), the witness is baton-witness.
 * Replication and relay are reduced to their answers. */
#include <arpa/inet.h>
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "health/health_uv.h"
#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/log.h"

enum { KEY_RIGHT = 1, KEY_WRONG = 2 };

static char directory[64];
static unsigned ports[3]; /* a, b, witness */
static pid_t witness, node_a;
static struct health *b;

struct node {
    struct config config;
    char store[128], arbiter[64];
    struct health *health;
};

static struct store_id store_of(char name)
{
    struct store_id id;
    memset(id.b, name, sizeof id.b);
    return id;
}

static void on_effect(void *ctx, const struct pair_effect *fx)
{
    struct node *n = ctx;
    struct pair_event ev = {.epoch = fx->epoch, .follower = fx->follower};
    switch (fx->type) {
    case PX_PROMOTE:
        ev.type = PE_PROMOTED;
        break;
    case PX_SERVE: /* the other one's store is there at once, and has everything */
        ev.follower = store_of(n->config.node == 'a' ? 'b' : 'a');
        ev.type = PE_ATTACHED;
        health_post(n->health, &ev);
        ev.type = PE_MERGED;
        health_post(n->health, &ev);
        ev.type = PE_CAUGHT_UP;
        break;
    case PX_STEP_DOWN:
        ev.type = PE_CLOSED;
        break;
    case PX_DROP:
        ev.type = PE_SOLO_DURABLE;
        break;
    case PX_TAKE_BACK:
        ev.type = PE_TAKE_BACK_READY;
        break;
    case PX_LOG:
        log_info("pair", "%s", fx->text);
        return;
    default:
        return;
    }
    health_post(n->health, &ev);
}

static void on_view(void *ctx, const struct pair_view *v)
{
    (void)ctx;
    (void)v;
}

/* Two paths: 127.0.0.1 and 127.0.0.2. */
static struct node *node_start(char name, bool virgin, uint8_t key_byte, char *err, size_t err_n)
{
    static char *addresses[] = {(char *)"127.0.0.1", (char *)"127.0.0.2"};
    static struct node nodes[2]; /* live as long as the process */
    static unsigned used;
    if (used == 2)
        abort();
    struct node *n = &nodes[used++];
    n->config.cluster = (char *)"mail-1";
    n->config.node = name;
    snprintf(n->store, sizeof n->store, "%s/%c.db", directory, name);
    n->config.store = n->store;
    n->config.n_nodes = 2;
    for (unsigned i = 0; i < 2; i++) {
        n->config.nodes[i].name = (char)('a' + (char)i);
        n->config.nodes[i].n_addresses = 2;
        n->config.nodes[i].addresses[0] = addresses[0];
        n->config.nodes[i].addresses[1] = addresses[1];
        n->config.nodes[i].health_port = (uint16_t)ports[i];
    }
    snprintf(n->arbiter, sizeof n->arbiter, "localhost:%u", ports[WITNESS]);
    n->config.arbiter.type = ARBITER_WITNESS;
    n->config.arbiter.address = n->arbiter;
    n->config.health.heartbeat_ms = 100;
    n->config.health.lease_ms = 1000;
    n->config.health.takeover_after_ms = 1000;
    n->config.health.standby_timeout_ms = 1000;
    uint8_t key[32];
    memset(key, key_byte, sizeof key);
    struct health_hooks hooks = {.ctx = n, .effect = on_effect, .view = on_view};
    n->health = health_start(&n->config, key, &hooks, err, err_n);
    if (!n->health)
        return NULL;
    struct pair_event ev = {
        .type = PE_STORE,
        .store = {.open = true, .fit = true, .virgin = virgin, .id = store_of(name)}};
    health_post(n->health, &ev);
    return n;
}

static int node_main(char **argv) /* node NAME DIR PORT_A PORT_B PORT_W VIRGIN KEY */
{
    snprintf(directory, sizeof directory, "%s", argv[3]);
    for (unsigned i = 0; i < 3; i++)
        ports[i] = (unsigned)atoi(argv[4 + i]);
    log_set_node(argv[2]); /* before threads start */
    char err[512];
    if (!node_start(argv[2][0], argv[7][0] == '1', (uint8_t)atoi(argv[8]), err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    alarm(120); /* never outlives a test that was killed */
    for (;;)
        pause();
}

static pid_t spawn(char *const argv[])
{
    pid_t pid = fork();
    if (pid == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    ck_assert_int_gt(pid, 0);
    return pid;
}

static void kill_and_wait(pid_t *pid)
{
    if (*pid > 0) {
        kill(*pid, SIGCONT);
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
    }
    *pid = 0;
}

static void start_a(bool virgin, int key)
{
    char self[PATH_MAX], p[3][8], k[8];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = 0;
    for (unsigned i = 0; i < 3; i++)
        snprintf(p[i], sizeof p[i], "%u", ports[i]);
    snprintf(k, sizeof k, "%d", key);
    char *argv[] = {self,        (char *)"node",
                    (char *)"a", directory,
                    p[0],        p[1],
                    p[2],        (char *)(virgin ? "1" : "0"),
                    k,           NULL};
    node_a = spawn(argv);
}

static void start_witness(void)
{
    char self[PATH_MAX], file[128];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = 0;
    char *slash = strrchr(self, '/');
    snprintf(slash, sizeof self - (size_t)(slash - self), "/../baton-witness");
    snprintf(file, sizeof file, "%s/witness.conf", directory);
    char *argv[] = {self, (char *)"-c", file, NULL};
    witness = spawn(argv);
}

static unsigned free_port(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
    socklen_t n = sizeof a;
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, n), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void write_file(const char *name, mode_t mode, const char *text)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/baton-health-XXXXXX");
    ck_assert(mkdtemp(directory) != NULL);
    for (unsigned i = 0; i < 3; i++)
        ports[i] = free_port();
    char text[400], key[66] = "";
    for (unsigned i = 0; i < 32; i++)
        snprintf(key + 2 * i, 3, "%02x", KEY_RIGHT);
    write_file("cluster.key", 0600, key);
    snprintf(text, sizeof text,
             "listen = \"127.0.0.1:%u\"; store = \"%s/witness.db\";\n"
             "clusters = ( { name = \"mail-1\"; key_file = \"%s/cluster.key\"; } );\n",
             ports[WITNESS], directory, directory);
    write_file("witness.conf", 0644, text);
    log_set_node("b");
    alarm(100);
}

static void teardown(void)
{
    if (b)
        health_stop(b);
    kill_and_wait(&node_a);
    kill_and_wait(&witness);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

typedef bool (*condition)(const struct pair_view *v, const bool *reachable, const bool *voting);

/* Milliseconds until it held; fails the test after limit_ms. */
static unsigned wait_for(const char *what, condition holds, unsigned limit_ms)
{
    struct pair_view v;
    struct arbiter_view voters;
    uint64_t began = clock_boot_ns();
    for (;;) {
        health_view(b, &v);
        health_arbiter(b, &voters);
        unsigned ms = (unsigned)((clock_boot_ns() - began) / 1000000);
        if (holds(&v, voters.reachable, voters.voting))
            return ms;
        ck_assert_msg(
            ms < limit_ms, "after %u ms not yet: %s (role %s, %s; voters %d%d%d of %d%d%d)", ms,
            what, role_name(v.role), v.why, voters.voting[0], voters.voting[1], voters.voting[2],
            voters.reachable[0], voters.reachable[1], voters.reachable[2]);
        usleep(5000);
    }
}

static bool a_serves_solo(const struct pair_view *v, const bool *r, const bool *voting)
{
    (void)r;
    return v->peer_reachable && v->peer_role == ROLE_PRIMARY && voting[NODE_A] && voting[NODE_B] &&
           voting[WITNESS];
}

static bool paired(const struct pair_view *v, const bool *r, const bool *voting)
{
    (void)r;
    (void)voting;
    return v->in_sync && v->mode == PAIR_PAIRED;
}

static bool b_serves(const struct pair_view *v, const bool *r, const bool *voting)
{
    (void)r;
    (void)voting;
    return v->serving && v->role == ROLE_PRIMARY &&
           health_may_deliver(b, v->epoch, clock_boot_ns()) &&
           !health_may_deliver(b, v->epoch - 1, clock_boot_ns());
}

static bool a_is_standby(const struct pair_view *v, const bool *r, const bool *voting)
{
    (void)r;
    return v->peer_reachable && v->peer_role == ROLE_STANDBY && voting[NODE_A];
}

static bool a_is_away(const struct pair_view *v, const bool *r, const bool *voting)
{
    (void)voting;
    return !v->peer_reachable && !r[NODE_A];
}

static void start_b(bool virgin)
{
    char err[512] = "";
    struct node *n = node_start('b', virgin, KEY_RIGHT, err, sizeof err);
    ck_assert_msg(n != NULL, "%s", err);
    b = n->health;
}

START_TEST(test_first_start_takeover_return)
{
    start_witness();
    start_a(true, KEY_RIGHT);
    start_b(true);
    fprintf(stderr, "first record after %u ms\n", wait_for("a serves", a_serves_solo, 20000));
    fprintf(stderr, "paired after %u ms\n", wait_for("paired", paired, 30000));
    kill_and_wait(&node_a);
    unsigned ms = wait_for("b takes over", b_serves, 8000);
    fprintf(stderr, "takeover after %u ms\n", ms);
    /* Protocol 2.3: 1.03 s of lease and two heartbeats from a's last one; the machine's own noise
     * is given twice that here, for this may run beside other tests. */
    ck_assert_uint_ge(ms, 500);
    start_a(false, KEY_RIGHT);
    wait_for("a comes back as standby", a_is_standby, 20000);

    /* Its voter's memory is gone: it votes again once it has met both others. */
    kill_and_wait(&node_a);
    wait_for("a is away", a_is_away, 10000);
    char voter[128];
    snprintf(voter, sizeof voter, "%s/a.db.voter", directory);
    ck_assert_int_eq(unlink(voter), 0);
    kill(witness, SIGSTOP);
    start_a(false, KEY_RIGHT);
    struct arbiter_view voters;
    uint64_t began = clock_boot_ns();
    do {
        health_arbiter(b, &voters);
        usleep(5000);
    } while (!voters.reachable[NODE_A] && clock_boot_ns() - began < 10000000000u);
    ck_assert_msg(voters.reachable[NODE_A] && !voters.voting[NODE_A],
                  "an emptied voter voted after one share");
    kill(witness, SIGCONT);
    wait_for("a votes again", a_is_standby, 20000);
    ck_assert(health_alive(b, 1000000000));
}
END_TEST

START_TEST(test_forged_heartbeats_have_no_effect)
{
    start_witness();
    start_a(true, KEY_WRONG);
    start_b(true);
    uint64_t began = clock_boot_ns();
    while (clock_boot_ns() - began < 2000000000u) { /* what must not happen has no condition */
        struct pair_view v;
        struct arbiter_view voters;
        health_view(b, &v);
        health_arbiter(b, &voters);
        ck_assert(!v.peer_reachable && !voters.reachable[NODE_A] && v.role != ROLE_PRIMARY);
        usleep(20000);
    }
    struct arbiter_view voters;
    health_arbiter(b, &voters);
    ck_assert(voters.reachable[WITNESS]);
}
END_TEST

START_TEST(test_port_in_use_is_one_clear_line)
{
    start_b(true);
    char err[512] = "";
    ck_assert(node_start('b', true, KEY_RIGHT, err, sizeof err) == NULL);
    ck_assert_msg(strstr(err, "health port 127.0.0.1:") && strstr(err, "in use"), "%s", err);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("health");
    TCase *t = tcase_create("health");
    tcase_set_timeout(t, 110);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_first_start_takeover_return);
    tcase_add_test(t, test_forged_heartbeats_have_no_effect);
    tcase_add_test(t, test_port_in_use_is_one_clear_line);
    suite_add_tcase(s, t);
    return s;
}

int main(int argc, char **argv)
{
    if (argc == 9 && strcmp(argv[1], "node") == 0)
        return node_main(argv);
    SRunner *r = srunner_create(suite());
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
