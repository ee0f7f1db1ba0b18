/* The operator's way in: the real control thread, with hooks that a test plays, and the real
 * batonctl. What counts is what a script sees: exit codes, stdout, stderr. */
#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/control/control_uv.h"
#include "status_fixture.h"

extern char **environ;

/* The store is played below, so its operations are freed here as well. */
void storage_op_free(struct storage_op *op)
{
    free(op->rows);
    free(op->selector.domain);
    free(op->selector.sender);
    free(op->selector.campaign);
    buf_free(&op->memory);
    buf_free(&op->changed);
    free(op);
}

void storage_read_free(struct storage_read *r)
{
    free(r->domain);
    free(r->by);
    free(r->selector.domain);
    free(r->selector.sender);
    free(r->selector.campaign);
    buf_free(&r->bytes);
    free(r);
}

static char dir[40], conf[80], sock[80], batonctl[4096];
static struct config config;
static struct control *control;
static struct events *events;

/* What the node does in this test; read on the control thread. */
static struct {
    enum { ANSWER, REFUSE, SILENT } pair;
    enum op_result result;
    unsigned messages; /* in the queue */
    unsigned each;     /* recipients of each; 0: one */
    unsigned pages;    /* of listings that were read */
    bool standby;
    /* what it was asked */
    _Atomic int last_event, last_force, last_op, last_action;
    char opstate[80], domain[80];
    uint64_t older_than_ms;
} node;

/* What the test and the control thread write for each other is ordered by batonctl's run between
 * them; said with a lock so that a race detector sees it as well. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

static void take_turn(void)
{
    pthread_mutex_lock(&turn);
    pthread_mutex_unlock(&turn);
}

static void play_status(void *ctx, struct node_status *out)
{
    take_turn();
    *out = node.standby ? fixture_standby() : fixture_status();
}

static void play_operate(void *ctx, const struct pair_event *ev)
{
    take_turn();
    int how = node.pair;
    atomic_store(&node.last_force, ev->flag);
    take_turn();
    atomic_store(&node.last_event, (int)ev->type);
    if (how == ANSWER)
        control_op_done(control, ev->op, true, "b is primary now; delivery paused for 38 ms");
    else if (how == REFUSE)
        control_op_done(control, ev->op, false, "the standby is not in sync");
}

static void play_queue(void *ctx, struct storage_op *op)
{
    take_turn();
    op->result = node.result;
    op->n_changed = 3;
    atomic_store(&node.last_op, (int)op->type);
    atomic_store(&node.last_action, (int)op->action);
    node.older_than_ms = op->selector.older_than_ms;
    snprintf(node.domain, sizeof node.domain, "%s", op->selector.domain ? op->selector.domain : "");
    if (op->type == OP_OPSTATE) {
        struct row_opstate *o = &op->rows[0].opstate;
        snprintf(node.opstate, sizeof node.opstate, "%.*s=%.*s", (int)o->key.n,
                 (const char *)o->key.p, (int)o->value.n, (const char *)o->value.p);
    }
    take_turn();
    control_queue_done(control, op);
}

static struct row message_row(uint64_t id)
{
    struct row r = {.type = ROW_MESSAGE};
    r.message = (struct row_message){.id = id,
                                     .pos = {4, 10},
                                     .born = {4, 10},
                                     .received_ms = 1767323045678,
                                     .size = 200000,
                                     .chunks = 4,
                                     .recipients = 1,
                                     .sender = SLICE_LIT("news@example.com"),
                                     .prefix = SLICE_LIT("Received: here\r\n"),
                                     .origin = SLICE_LIT("client [192.0.2.9]")};
    return r;
}

static struct row recipient_row(uint64_t id)
{
    struct row r = {.type = ROW_RECIPIENT};
    r.recipient = (struct row_recipient){.id = id,
                                         .pos = {4, 10},
                                         .state = RCPT_QUEUED,
                                         .attempts = 2,
                                         .next_ms = 1767323105678,
                                         .last_ms = 1767323045678,
                                         .code = 451,
                                         .address = SLICE_LIT("ann@example.net"),
                                         .domain = SLICE_LIT("example.net"),
                                         .enhanced = SLICE_LIT("4.7.1"),
                                         .reply = SLICE_LIT("try \x1b[31mlater"),
                                         .remote = SLICE_LIT("mx.example.net [192.0.2.1]:25")};
    return r;
}

static void put_pair(struct storage_read *r, uint64_t id, uint32_t index)
{
    struct row m = message_row(id), rcpt = recipient_row(id);
    rcpt.recipient.index = index;
    ck_assert(row_encode(&r->bytes, &m) && row_encode(&r->bytes, &rcpt));
    r->n_rows += 2;
}

/* Pairs are counted from 1: pair p is recipient (p - 1) % each of message (p - 1) / each + 1. */
static void play_list(struct storage_read *r)
{
    uint64_t each = node.each ? node.each : 1, all = node.messages * each;
    uint64_t p = r->cursor.id ? (r->cursor.id - 1) * each + r->cursor.index + 1 : 0;
    for (; p < all && r->n_rows / 2 < r->limit; p++)
        put_pair(r, p / each + 1, (uint32_t)(p % each));
    r->more = p < all;
    node.pages++;
}

static void play_read(void *ctx, struct storage_read *r)
{
    take_turn();
    static const char summary[] = "[{\"domain\":\"example.net\",\"messages\":7,\"deferred\":2}]";
    static const char ages[] = "[{\"age\":\"older\",\"recipients\":7,\"oldest_s\":90061.5},"
                               "{\"age\":\"5m\",\"recipients\":2,\"oldest_s\":4.25}]";
    switch (r->type) {
    case READ_LIST:
        play_list(r);
        break;
    case READ_MESSAGE:
        if (r->id > node.messages)
            r->err = STORE_NOT_FOUND;
        else
            put_pair(r, r->id, 0);
        break;
    case READ_BODY:
        for (uint64_t i = 0; i < r->limit && r->offset + i < 200000; i++)
            buf_append(&r->bytes, &(uint8_t){(uint8_t)((r->offset + i) * 7)}, 1);
        break;
    default:
        buf_append_str(&r->bytes, strcmp(r->by, "age") ? summary : ages);
    }
    take_turn();
    control_read_done(control, r);
}

static void play_destinations(void *ctx, uint64_t op, struct slice queued)
{
    take_turn();
    control_text_done(control, op, SLICE_LIT("[{\"destination\":\"example.net\",\"queued\":7}]"));
}

static void play_reload(void *ctx, uint64_t op)
{
    take_turn();
    control_op_done(control, op, false, "baton.conf:3: unknown setting \"nod\"; meant \"node\"?");
}

static const struct control_hooks hooks = {
    .status = play_status,
    .operate = play_operate,
    .queue = play_queue,
    .read = play_read,
    .destinations = play_destinations,
    .reload = play_reload,
};

static void start_control(void)
{
    char err[300] = "";
    take_turn();
    control = control_start(&config, events, &hooks, err, sizeof err);
    ck_assert_msg(control != NULL, "%s", err);
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/baton-control-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(sock, sizeof sock, "%s/control.sock", dir);
    snprintf(conf, sizeof conf, "%s/baton.conf", dir);
    FILE *f = fopen(conf, "w");
    fprintf(f, "control = \"%s\";\nevents = \"%s/events.jsonl\";\n", sock, dir);
    fclose(f);
    ssize_t n = readlink("/proc/self/exe", batonctl, sizeof batonctl - 20);
    ck_assert_int_gt(n, 0);
    batonctl[n] = 0;
    snprintf(strrchr(batonctl, '/'), 20, "/../batonctl");
    config = *fixture_config();
    config.control = sock;
    memset(&node, 0, sizeof node);
    node.messages = 3;
    events = events_open(NULL, 'a', (char[200]){0}, 200);
    start_control();
}

static void teardown(void)
{
    control_stop(control);
    events_close(events);
    ck_assert_int_ne(access(sock, F_OK), 0); /* nothing is left over */
    unlink(conf);
    rmdir(dir);
}

struct ran {
    int code;
    char out[1 << 20], err[16384];
    size_t out_n;
};

static size_t drain(int fd, char *to, size_t max)
{
    size_t n = 0;
    ssize_t k;
    while (n < max - 1 && (k = read(fd, to + n, max - 1 - n)) > 0)
        n += (size_t)k;
    to[n] = 0;
    close(fd);
    return n;
}

/* Runs batonctl -c conf with the words of `line`; stdin gets `in`. */
static struct ran *ctl_in(const char *in, const char *line)
{
    static struct ran r;
    char words[400], *argv[20] = {batonctl, (char[]){"-c"}, conf}, *save = NULL;
    int n = 3, to[2], from[2], wrong[2], status;
    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[n++] = w;
    ck_assert(!pipe2(to, O_CLOEXEC) && !pipe2(from, O_CLOEXEC) && !pipe2(wrong, O_CLOEXEC));
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, to[0], 0);
    posix_spawn_file_actions_adddup2(&fa, from[1], 1);
    posix_spawn_file_actions_adddup2(&fa, wrong[1], 2);
    pid_t pid;
    take_turn();
    ck_assert_int_eq(posix_spawn(&pid, batonctl, &fa, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&fa);
    close(to[0]);
    close(from[1]);
    close(wrong[1]);
    if (in)
        ck_assert_int_eq(write(to[1], in, strlen(in)), (ssize_t)strlen(in));
    close(to[1]);
    r.out_n = drain(from[0], r.out, sizeof r.out);
    drain(wrong[0], r.err, sizeof r.err);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status), "batonctl ended by a signal: %s", r.err);
    take_turn();
    r.code = WEXITSTATUS(status);
    return &r;
}

static struct ran *ctl(const char *line)
{
    return ctl_in(NULL, line);
}

#define ck_code(r, c)                                                                              \
    ck_assert_msg((r)->code == (c), "exit %d; stdout: %s; stderr: %s", (r)->code, (r)->out,        \
                  (r)->err)
#define ck_has(text, part) ck_assert_msg(strstr(text, part) != NULL, "no \"%s\" in: %s", part, text)

START_TEST(test_status)
{
    struct ran *r = ctl("status");
    ck_code(r, 0);
    ck_has(r->out, "mail-1, node a: primary, paired");
    ck_has(r->out, "in sync");
    ck_has(r->out, "10 messages");
    r = ctl("--json status");
    ck_code(r, 0);
    json_t *j = json_loads(r->out, 0, NULL);
    ck_assert_str_eq(json_string_value(json_object_get(j, "role")), "primary");
    json_decref(j);
}
END_TEST

START_TEST(test_pair_operations_tell_how_they_ended)
{
    struct ran *r = ctl("switchover");
    ck_code(r, 0);
    ck_assert_str_eq(r->out, "b is primary now; delivery paused for 38 ms\n");
    ck_assert_int_eq(atomic_load(&node.last_event), PE_OP_SWITCHOVER);
    node.pair = REFUSE;
    r = ctl("switchover");
    ck_code(r, 1);
    ck_has(r->err, "refused: the standby is not in sync");
    ck_assert_str_eq(r->out, "");
    node.pair = SILENT;
    r = ctl("--timeout 200ms bootstrap");
    ck_code(r, 1);
    ck_has(r->err, "undecided");
    ck_assert_int_eq(atomic_load(&node.last_event), PE_OP_BOOTSTRAP);
}
END_TEST

START_TEST(test_forced_failover_asks_first)
{
    struct ran *r = ctl_in("no\n", "failover --force");
    ck_code(r, 1);
    ck_has(r->err, "lost");
    ck_has(r->err, "twice");
    ck_assert_int_eq(atomic_load(&node.last_event), 0);
    r = ctl_in("yes\n", "failover --force");
    ck_code(r, 0);
    ck_assert_int_eq(atomic_load(&node.last_event), PE_OP_FAILOVER);
    ck_assert_int_eq(atomic_load(&node.last_force), 1);
    atomic_store(&node.last_force, 0);
    ck_code(ctl("failover --force --yes"), 0);
    ck_assert_int_eq(atomic_load(&node.last_force), 1);
    ck_code(ctl("failover"), 0);
    ck_assert_int_eq(atomic_load(&node.last_force), 0);
}
END_TEST

START_TEST(test_takeover_is_replicated_operator_state)
{
    ck_code(ctl("takeover off"), 0);
    ck_assert_str_eq(node.opstate, "takeover=off");
    struct ran *r = ctl("takeover off --for 2h");
    ck_code(r, 0);
    ck_has(r->out, "off for 2h 00m");
    ck_has(node.opstate, "takeover=off until=");
    ck_code(ctl("takeover on"), 0);
    ck_assert_str_eq(node.opstate, "takeover=on");
    node.result = OP_NOT_PRIMARY;
    node.standby = true;
    config.node = 'b';
    r = ctl("takeover off");
    ck_code(r, 1);
    ck_has(r->err, "node a is primary");
    node.result = OP_FAILED;
    r = ctl("takeover off");
    ck_code(r, 1);
    ck_has(r->err, "undecided");
}
END_TEST

START_TEST(test_queue_selectors)
{
    struct ran *r = ctl("queue hold --domain Example.NET --older-than 4h");
    ck_code(r, 0);
    ck_assert_str_eq(r->out, "3 recipients held\n");
    ck_assert_int_eq(atomic_load(&node.last_op), OP_SELECT);
    ck_assert_int_eq(atomic_load(&node.last_action), SELECT_HOLD);
    ck_assert_str_eq(node.domain, "example.net");
    ck_assert_uint_eq(node.older_than_ms, 4 * 3600000);
    ck_code(ctl("queue cancel --all"), 0);
    ck_assert_int_eq(atomic_load(&node.last_action), SELECT_CANCEL);
    ck_code(ctl("queue release --id 4"), 0);
    ck_assert_int_eq(atomic_load(&node.last_action), SELECT_RELEASE);
    atomic_store(&node.last_op, -1);
    ck_code(ctl("queue cancel"), 2); /* never everything by accident */
    ck_code(ctl("queue hold --state odd"), 2);
    ck_code(ctl("queue hold --id xyz"), 2);
    ck_code(ctl("queue hold --older-than soon"), 2);
    ck_assert_int_eq(atomic_load(&node.last_op), -1);
}
END_TEST

START_TEST(test_queue_list_pages_and_counts_the_rest)
{
    node.messages = 1000; /* five pages */
    struct ran *r = ctl("queue list --limit 700 --json");
    ck_code(r, 0);
    json_t *j = json_loads(r->out, 0, NULL);
    ck_assert_uint_eq(json_array_size(j), 700);
    for (size_t i = 0; i < 700; i++) {
        char id[20];
        snprintf(id, sizeof id, "%016zx", i + 1);
        ck_assert_str_eq(json_string_value(json_object_get(json_array_get(j, i), "id")), id);
    }
    json_decref(j);
    ck_has(r->err, "300 more");
    r = ctl("queue list");
    ck_has(r->out, "0000000000000064");
    ck_assert_ptr_null(strstr(r->out, "0000000000000065"));
    ck_has(r->err, "900 more");
    ck_has(r->out, "deferred");
    ck_has(r->out, "news@example.com -> ann@example.net");
    ck_assert_ptr_null(strchr(r->out, '\x1b')); /* a receiver can't paint our terminal */
    node.messages = 0;
    r = ctl("queue list");
    ck_code(r, 0);
    ck_has(r->out, "no messages");
}
END_TEST

/* Ten million queued, a thousand a message: whoever looks at three of them doesn't wait until the
 * others are counted. */
START_TEST(test_a_list_counts_no_further_than_it_must)
{
    node.messages = 10000;
    node.each = 1000;
    node.pages = 0;
    struct ran *r = ctl("queue list --limit 3");
    ck_code(r, 0);
    ck_has(r->err, "at least 11 more");
    ck_assert_uint_lt(node.pages, 100);
    node.messages = node.each = 0;
}
END_TEST

START_TEST(test_queue_show_tells_why)
{
    struct ran *r = ctl("queue show 0000000000000002");
    ck_code(r, 0);
    ck_has(r->out, "tried 2 times");
    ck_has(r->out, "mx.example.net [192.0.2.1]:25 said: 451 4.7.1 try");
    r = ctl("queue show ffff");
    ck_code(r, 1);
    ck_has(r->err, "no such message");
    ck_code(ctl("queue show zz"), 2);
    ck_code(ctl("queue show"), 2);
}
END_TEST

START_TEST(test_queue_body_is_byte_for_byte)
{
    struct ran *r = ctl("queue body 1");
    ck_code(r, 0);
    ck_assert_uint_eq(r->out_n, 16 + 200000);
    ck_assert_int_eq(memcmp(r->out, "Received: here\r\n", 16), 0);
    for (size_t i = 0; i < 200000; i++)
        ck_assert_uint_eq((uint8_t)r->out[16 + i], (uint8_t)(i * 7));
}
END_TEST

START_TEST(test_summary_and_destinations)
{
    struct ran *r = ctl("queue summary --by domain");
    ck_code(r, 0);
    ck_has(r->out, "DOMAIN");
    ck_has(r->out, "example.net");
    ck_code(ctl("queue summary --by colour"), 2);
    r = ctl("queue summary --by age");
    ck_has(r->out, "OLDEST\nunder 5m           2   4.2 s\nover 21h           7   1d 1h\n");
    r = ctl("destination list");
    ck_code(r, 0);
    ck_has(r->out, "example.net");
}
END_TEST

START_TEST(test_reload_with_a_mistake)
{
    struct ran *r = ctl("reload");
    ck_code(r, 1);
    ck_has(r->err, "baton.conf:3: unknown setting");
}
END_TEST

START_TEST(test_usage)
{
    ck_code(ctl(""), 2);
    ck_code(ctl("frobnicate"), 2);
    ck_code(ctl("queue"), 2);
    ck_code(ctl("queue frobnicate"), 2);
    ck_code(ctl("status extra"), 2);
    ck_code(ctl("status --force"), 2);
    ck_code(ctl("status --frobnicate"), 2);
    ck_code(ctl("takeover maybe"), 2);
    ck_code(ctl("--timeout never status"), 2);
    ck_code(ctl("queue list --limit 0"), 2);
    ck_code(ctl("campaign pause"), 2);
    ck_code(ctl("suppress add nobody"), 2);
    ck_code(ctl("rejoin"), 2);
    struct ran *r;
    ck_code(ctl("--help"), 0);
    r = ctl("queue hold --help");
    ck_code(r, 0);
    ck_has(r->out, "--older-than");
    ck_code(ctl("--version"), 0);
    ck_code(ctl("-c /nonexistent status"), 2);
}
END_TEST

START_TEST(test_a_node_that_does_not_answer)
{
    control_stop(control);
    struct ran *r = ctl("status");
    ck_code(r, 3);
    ck_has(r->err, "does not answer");
    ck_has(r->err, sock);
    start_control();
}
END_TEST

START_TEST(test_keygen_never_overwrites)
{
    char line[100], file[80];
    snprintf(file, sizeof file, "%s/key", dir);
    snprintf(line, sizeof line, "keygen %s", file);
    ck_code(ctl(line), 0);
    struct stat st;
    ck_assert_int_eq(stat(file, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    ck_code(ctl(line), 1);
    unlink(file);
}
END_TEST

START_TEST(test_passwd_takes_one_line_and_hashes_it)
{
    char line[120], file[80], text[400] = "";
    snprintf(file, sizeof file, "%s/users", dir);
    snprintf(line, sizeof line, "passwd %s bob", file);
    ck_code(ctl_in("s3cret\n", line), 0);
    struct stat st;
    ck_assert_int_eq(stat(file, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0007, 0);
    FILE *f = fopen(file, "r");
    ck_assert_uint_gt(fread(text, 1, sizeof text - 1, f), 0);
    fclose(f);
    ck_has(text, "bob:$y$"); /* yescrypt */
    ck_assert_ptr_null(strstr(text, "s3cret"));
    struct ran *r = ctl_in("", line);
    ck_code(r, 1);
    ck_has(r->err, "nothing was changed");
    ck_code(ctl("passwd onlyfile"), 2);
    unlink(file);
}
END_TEST

START_TEST(test_stale_socket_is_replaced_a_live_one_is_not)
{
    char err[300] = "";
    ck_assert_ptr_null(control_start(&config, events, &hooks, err, sizeof err));
    ck_has(err, "another batond");
    ck_code(ctl("status"), 0); /* the first one is unharmed */
    control_stop(control);
    /* What a crash leaves: a bound socket that nobody listens on. */
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%.80s", sock);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    start_control();
    struct stat st;
    ck_assert_int_eq(stat(sock, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0660);
    ck_code(ctl("status"), 0);
    struct config wrong = config;
    wrong.control = conf; /* a plain file */
    ck_assert_ptr_null(control_start(&wrong, events, &hooks, err, sizeof err));
    ck_has(err, "no socket");
    ck_assert_int_eq(access(conf, F_OK), 0);
    wrong.control = (char[]){"/nonexistent/control.sock"};
    ck_assert_ptr_null(control_start(&wrong, events, &hooks, err, sizeof err));
    ck_has(err, "folder");
}
END_TEST

static int dial(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%.80s", sock);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* One answer line, or "" at the end of the connection. */
static void read_line(int fd, char *line, size_t max)
{
    size_t n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (n < max - 1 && poll(&p, 1, 10000) == 1 && read(fd, line + n, 1) == 1)
        if (line[n++] == '\n')
            break;
    line[n] = 0;
}

START_TEST(test_bad_requests_get_an_answer_and_harm_nobody)
{
    char line[4096];
    static const char *const bad[] = {"\n",
                                      "{}\n",
                                      "[1]\n",
                                      "{\"verb\":\"fly\"}\n",
                                      "{\"verb\":\"select\",\"action\":\"cancel\"}\n",
                                      "\xff\xfe\n",
                                      "{\"verb\":\"show\",\"id\":\"g\"}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int fd = dial();
        ck_assert_int_gt(write(fd, bad[i], strlen(bad[i])), 0);
        read_line(fd, line, sizeof line);
        ck_has(line, "\"kind\":\"usage\"");
        close(fd);
    }
    int fd = dial();
    static char big[70000];
    memset(big, ' ', sizeof big);
    ck_assert_int_gt(send(fd, big, sizeof big, MSG_NOSIGNAL), 0);
    read_line(fd, line, sizeof line);
    ck_has(line, "too long");
    close(fd);
    /* One byte at a time is a request as well; one's own side may be closed after it. */
    fd = dial();
    for (const char *c = "{\"verb\":\"status\"}\n"; *c; c++)
        ck_assert_int_eq(write(fd, c, 1), 1);
    shutdown(fd, SHUT_WR);
    read_line(fd, big, sizeof big);
    ck_has(big, "\"role\":\"primary\"");
    read_line(fd, line, sizeof line);
    ck_has(line, "\"done\":true");
    close(fd);
}
END_TEST

START_TEST(test_clients_are_capped)
{
    char line[400];
    int fd[33];
    for (unsigned i = 0; i < 33; i++)
        fd[i] = dial();
    read_line(fd[32], line, sizeof line);
    ck_has(line, "too many clients");
    for (unsigned i = 0; i < 33; i++)
        close(fd[i]);
    int code = -1;
    for (unsigned i = 0; i < 50 && code != 0; i++)
        code = ctl("status")->code;
    ck_assert_int_eq(code, 0);
}
END_TEST

START_TEST(test_a_client_that_left_is_not_missed)
{
    node.pair = SILENT;
    take_turn();
    int fd = dial();
    static const char ask[] = "{\"verb\":\"switchover\"}\n";
    ck_assert_int_gt(write(fd, ask, sizeof ask - 1), 0);
    for (int i = 0; i < 500 && !atomic_load(&node.last_event); i++)
        usleep(10000);
    ck_assert_int_eq(atomic_load(&node.last_event), PE_OP_SWITCHOVER);
    close(fd);
    control_op_done(control, 1, true, "late");
    node.pair = ANSWER;
    ck_code(ctl("switchover"), 0);
}
END_TEST

START_TEST(test_events_follow)
{
    char line[1000];
    int fd = dial(), one = dial();
    static const char all[] = "{\"verb\":\"events\"}\n";
    static const char some[] = "{\"verb\":\"events\",\"id\":\"2\"}\n";
    ck_assert_int_gt(write(fd, all, sizeof all - 1), 0);
    ck_assert_int_gt(write(one, some, sizeof some - 1), 0);
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = one, .events = POLLIN}};
    /* Followers hear from when they are there: until both do, emit both ids. */
    for (int i = 0; i < 500 && !((p[0].revents & POLLIN) && (p[1].revents & POLLIN)); i++) {
        struct event ev = {.type = EVENT_DELIVERED, .id = 1 + (uint64_t)(i & 1), .delay_ms = 5};
        events_emit(events, 4, &ev);
        poll(p, 2, 0);
        usleep(10000);
    }
    struct event last = {.type = EVENT_DELIVERED, .id = 2, .delay_ms = 5};
    events_emit(events, 4, &last); /* the loop may have ended after one line */
    for (int i = 0; i < 2; i++) {
        read_line(fd, line, sizeof line);
        json_t *j = json_loads(line, 0, NULL);
        ck_assert_str_eq(json_string_value(json_object_get(json_object_get(j, "data"), "event")),
                         "delivered");
        json_decref(j);
    }
    read_line(one, line, sizeof line);
    ck_has(line, "\"id\":\"0000000000000002\"");
    close(fd);
    close(one);
}
END_TEST

START_TEST(test_events_of_the_file)
{
    char file[80];
    snprintf(file, sizeof file, "%s/events.jsonl", dir);
    struct events *e = events_open(file, 'a', (char[200]){0}, 200);
    for (uint64_t i = 1; i <= 150; i++) {
        struct event ev = {.type = EVENT_ACCEPTED, .id = i, .delay_ms = -1};
        events_emit(e, 4, &ev);
    }
    events_close(e);
    struct ran *r = ctl("events");
    ck_code(r, 0);
    ck_assert_ptr_null(strstr(r->out, "\"0000000000000032\""));
    ck_has(r->out, "\"0000000000000033\"");
    ck_has(r->out, "\"0000000000000096\"");
    r = ctl("events --id 7");
    ck_code(r, 0);
    ck_has(r->out, "\"0000000000000007\"");
    ck_assert_ptr_eq(strchr(r->out, '\n'), r->out + r->out_n - 1);
    unlink(file);
}
END_TEST

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    Suite *s = suite_create("control");
    TCase *t = tcase_create("control");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_status);
    tcase_add_test(t, test_pair_operations_tell_how_they_ended);
    tcase_add_test(t, test_forced_failover_asks_first);
    tcase_add_test(t, test_takeover_is_replicated_operator_state);
    tcase_add_test(t, test_queue_selectors);
    tcase_add_test(t, test_queue_list_pages_and_counts_the_rest);
    tcase_add_test(t, test_a_list_counts_no_further_than_it_must);
    tcase_add_test(t, test_queue_show_tells_why);
    tcase_add_test(t, test_queue_body_is_byte_for_byte);
    tcase_add_test(t, test_summary_and_destinations);
    tcase_add_test(t, test_reload_with_a_mistake);
    tcase_add_test(t, test_usage);
    tcase_add_test(t, test_a_node_that_does_not_answer);
    tcase_add_test(t, test_keygen_never_overwrites);
    tcase_add_test(t, test_passwd_takes_one_line_and_hashes_it);
    tcase_add_test(t, test_stale_socket_is_replaced_a_live_one_is_not);
    tcase_add_test(t, test_bad_requests_get_an_answer_and_harm_nobody);
    tcase_add_test(t, test_clients_are_capped);
    tcase_add_test(t, test_a_client_that_left_is_not_missed);
    tcase_add_test(t, test_events_follow);
    tcase_add_test(t, test_events_of_the_file);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
