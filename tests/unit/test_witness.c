/* baton-witness as a process, spoken to over its socket: many clusters, each with its key and its
 * file; what is forged or foreign gets no answer; what it answered survives SIGKILL. */
#include <arpa/inet.h>
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "health/datagram_openssl.h"
#include "node/base/crypto_openssl.h"

static char directory[64], program[PATH_MAX], config[128];
static unsigned port;
static pid_t witness;
static int fd;

static void write_file(const char *path, mode_t mode, const char *text)
{
    int f = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    ck_assert_int_ge(f, 0);
    ck_assert_int_eq(write(f, text, strlen(text)), (ssize_t)strlen(text));
    close(f);
}

static void write_key(const char *name, uint8_t byte)
{
    char path[160], text[66] = "";
    snprintf(path, sizeof path, "%s/%s", directory, name);
    for (unsigned i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", byte);
    write_file(path, 0600, text);
}

static pid_t run(const char *option, int *out)
{
    int p[2] = {-1, -1};
    if (out)
        ck_assert_int_eq(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (out) {
            dup2(p[1], 1);
            dup2(p[1], 2);
        }
        execl(program, program, "-c", config, option, (char *)NULL);
        _exit(127);
    }
    if (out) {
        close(p[1]);
        *out = p[0];
    }
    return pid;
}

static int exit_code(pid_t pid)
{
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void read_all(int f, char *text, size_t n)
{
    size_t got = 0;
    for (ssize_t k; got < n - 1 && (k = read(f, text + got, n - 1 - got)) > 0;)
        got += (size_t)k;
    text[got] = 0;
    close(f);
}

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/baton-witness-XXXXXX");
    ck_assert(mkdtemp(directory) != NULL);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 20);
    ck_assert_int_gt(n, 0);
    program[n] = 0;
    strcpy(strrchr(program, '/'), "/../baton-witness");
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof a;
    int probe = socket(AF_INET, SOCK_DGRAM, 0);
    ck_assert_int_eq(bind(probe, (struct sockaddr *)&a, size), 0);
    ck_assert_int_eq(getsockname(probe, (struct sockaddr *)&a, &size), 0);
    close(probe);
    port = ntohs(a.sin_port);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, size), 0);
    write_key("1.key", 1);
    write_key("2.key", 2);
    char text[512];
    snprintf(config, sizeof config, "%s/witness.conf", directory);
    snprintf(text, sizeof text,
             "listen = \"127.0.0.1:%u\"; store = \"%s/witness.db\";\n"
             "clusters = ( { name = \"mail-1\"; key_file = \"%s/1.key\"; },\n"
             "             { name = \"mail-2\"; key_file = \"%s/2.key\"; } );\n",
             port, directory, directory, directory);
    write_file(config, 0644, text);
    alarm(60);
}

static void teardown(void)
{
    if (witness > 0) {
        kill(witness, SIGKILL);
        waitpid(witness, NULL, 0);
        witness = 0;
    }
    close(fd);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

static struct datagram_seal seal_of(const char *cluster, uint8_t key_byte)
{
    struct datagram_seal s;
    uint8_t key[32];
    memset(key, key_byte, sizeof key);
    datagram_seal_init(&s, NODE_A, (char *)cluster, key);
    return s;
}

static void send_msg(const struct datagram_seal *s, const struct register_msg *m, int flip)
{
    struct buf b;
    buf_init(&b, DATAGRAM_BYTES_MAX);
    datagram_seal_register(s, &b, WITNESS, m);
    if (flip >= 0)
        b.data[(size_t)flip % b.len] ^= 1;
    (void)!send(fd, b.data, b.len, 0); /* refused while it isn't up yet: like loss */
    buf_free(&b);
}

static bool receive_answer(struct datagram_seal *s, struct register_msg *out, int wait_ms)
{
    uint8_t bytes[DATAGRAM_BYTES_MAX + 1];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, wait_ms) != 1)
        return false;
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    struct datagram d;
    enum datagram_refusal why;
    if (n <= 0 || datagram_parse(slice_of(bytes, (size_t)n), &d) != DATAGRAM_OK ||
        !datagram_open(s, &d, &why))
        return false;
    struct wire_reader r = wire_read(d.payload);
    return register_msg_decode(&r, out) && wire_done(&r);
}

/* Asks until the answer with this nonce comes. */
static struct register_msg ask(struct datagram_seal *s, struct register_msg m,
                               enum register_msg_type wanted)
{
    static uint64_t nonce = 100;
    struct register_msg answer;
    for (int i = 0; i < 500; i++) {
        m.nonce = ++nonce;
        send_msg(s, &m, -1);
        while (receive_answer(s, &answer, 100))
            if (answer.type == wanted && (answer.nonce == m.nonce || wanted == REG_PEEK))
                return answer;
        usleep(10000); /* a socket that nobody listens on says so at once */
    }
    ck_abort_msg("the witness doesn't answer");
    return m;
}

static const struct register_msg peek = {.type = REG_PEEK, .voting = true};

static void initialise(struct datagram_seal *s)
{
    struct register_msg answer = ask(s, peek, REG_PEEKED);
    ck_assert(!answer.voting && answer.virgin);
    struct register_msg init = {.type = REG_INIT,
                                .voter_id = answer.voter_id,
                                .voting = true,
                                .ballot = {1, NODE_A, 5},
                                .record = {.version = 1, .epoch = 2, .tag = 55}};
    send_msg(s, &init, -1);
    for (int i = 0; i < 100 && !answer.voting; i++)
        answer = ask(s, peek, REG_PEEKED);
    ck_assert(answer.voting && answer.record.tag == 55);
}

START_TEST(test_votes_for_many_clusters_and_remembers)
{
    struct datagram_seal one = seal_of("mail-1", 1), two = seal_of("mail-2", 2);
    witness = run(NULL, NULL);
    initialise(&one);
    struct register_msg m = {.type = REG_PREPARE, .ballot = {7, NODE_A, 5}};
    ask(&one, m, REG_PROMISE);
    /* Killed the moment it answered: the promise holds. */
    kill(witness, SIGKILL);
    waitpid(witness, NULL, 0);
    witness = run(NULL, NULL);
    m.ballot.counter = 6;
    struct register_msg refused = ask(&one, m, REG_REFUSED);
    ck_assert_uint_eq(refused.ballot.counter, 7);
    m = (struct register_msg){.type = REG_ACCEPT,
                              .ballot = {8, NODE_A, 5},
                              .record = {.version = 2, .epoch = 4, .tag = 66}};
    ask(&one, m, REG_ACCEPTED);
    kill(witness, SIGKILL);
    waitpid(witness, NULL, 0);
    witness = run(NULL, NULL);
    ck_assert_uint_eq(ask(&one, peek, REG_PEEKED).record.tag, 66);
    /* The other cluster knows nothing of all that. */
    ck_assert(!ask(&two, peek, REG_PEEKED).voting);
}
END_TEST

/* Any bit changed, another key, another cluster's key, another name: silence. */
START_TEST(test_no_answer_to_what_is_not_authentic)
{
    struct datagram_seal one = seal_of("mail-1", 1), wrong = seal_of("mail-1", 2),
                         other = seal_of("mail-3", 1);
    witness = run(NULL, NULL);
    ask(&one, peek, REG_PEEKED);
    struct register_msg answer;
    for (int i = 0; i < 200; i++)
        send_msg(&one, &peek, i);
    send_msg(&wrong, &peek, -1);
    send_msg(&other, &peek, -1);
    send(fd, "EHLO", 4, 0);
    /* It has read all that before this one; only this one is answered. */
    struct register_msg last = peek;
    last.nonce = 4242;
    send_msg(&one, &last, -1);
    while (receive_answer(&one, &answer, 1000) && answer.type != REG_PEEKED)
        ck_assert_int_eq(answer.type, REG_PEEK); /* its own looking for the others */
    ck_assert_uint_eq(answer.nonce, 4242);
}
END_TEST

START_TEST(test_stops_cleanly_and_keeps_its_files)
{
    struct datagram_seal one = seal_of("mail-1", 1);
    witness = run(NULL, NULL);
    uint64_t id = ask(&one, peek, REG_PEEKED).voter_id;
    kill(witness, SIGTERM);
    ck_assert_int_eq(exit_code(witness), 0);
    witness = run(NULL, NULL);
    ck_assert(ask(&one, peek, REG_PEEKED).voter_id == id);
}
END_TEST

START_TEST(test_mistakes_are_one_clear_line)
{
    char text[4096];
    int out;
    ck_assert_int_eq(exit_code(run("--check", NULL)), 0);
    witness = run(NULL, NULL);
    struct datagram_seal one = seal_of("mail-1", 1);
    ask(&one, peek, REG_PEEKED);
    pid_t second = run(NULL, &out);
    read_all(out, text, sizeof text);
    ck_assert_int_eq(exit_code(second), 1);
    ck_assert_msg(strstr(text, "another baton-witness") != NULL, "%s", text);
    kill(witness, SIGTERM);
    exit_code(witness);
    char file[160];
    snprintf(file, sizeof file, "%s/1.key", directory);
    ck_assert_int_eq(chmod(file, 0644), 0);
    witness = 0;
    second = run(NULL, &out);
    read_all(out, text, sizeof text);
    ck_assert_int_ne(exit_code(second), 0);
    ck_assert_msg(strstr(text, "chmod") != NULL, "%s", text);
    write_file(config, 0644, "listen = \"127.0.0.1:1\"; stroe = \"/x\";\n");
    second = run("--check", &out);
    read_all(out, text, sizeof text);
    ck_assert_int_eq(exit_code(second), 2);
    ck_assert_msg(strstr(text, "witness.conf:1:") && strstr(text, "stroe"), "%s", text);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("witness");
    TCase *t = tcase_create("witness");
    tcase_set_timeout(t, 70);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_votes_for_many_clusters_and_remembers);
    tcase_add_test(t, test_no_answer_to_what_is_not_authentic);
    tcase_add_test(t, test_stops_cleanly_and_keeps_its_files);
    tcase_add_test(t, test_mistakes_are_one_clear_line);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *r = srunner_create(suite());
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
