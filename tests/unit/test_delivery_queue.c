/* Delivery with the real queue and storage on a real disk, to Postfix's smtp-sink: what was queued
 * is sent once and is done on disk, also what was found there by a scan after a restart. */
#include <check.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/stream_uv.h"
#include "node/base/sum_xxhash.h"
#include "node/delivery/delivery_uv.h"
#include "replication/notes.h"

#define SINK "/usr/sbin/smtp-sink"

struct mark {
    struct mail mail;
    struct pos pos; /* durable; lsn 0: the reply to a request */
};

static uv_loop_t loop;
static char dir[64];
static struct config cfg;
static struct config_route route;
static struct config_destination dest;
static uint64_t retry[] = {1000};
static struct storage *storage;
static struct queue *queue;
static struct delivery *delivery;
static struct mailbox *mail;
static uint32_t epoch;
static bool promoted;
static pid_t sink;
static unsigned committed;

static void on_mail(void *ctx, struct mail *m)
{
    struct pos p = ((struct mark *)m)->pos;
    free(m);
    if (!p.lsn)
        promoted = true;
    else if (queue)
        queue_watermark(queue, p.epoch, p.lsn, p.lsn);
}

static void post(struct pos p)
{
    struct mark *m = xcalloc(1, sizeof *m);
    m->pos = p;
    mailbox_post(mail, &m->mail);
}

static void on_batch(void *ctx, const struct own_batch *b) {}
static void on_merged(void *ctx, struct pos end) {}

static void on_durable(void *ctx, struct pos end)
{
    post(end);
}
static void on_reply(void *ctx, const struct store_reply *r)
{
    ck_assert_int_eq(r->err, STORE_OK);
    post((struct pos){0, 0});
}
static void on_changed(void *ctx, const struct store_meta *m) {}
static void on_failed(void *ctx, int err, const char *why)
{
    ck_abort_msg("%s", why);
}
static void on_opstate(void *ctx, struct slice key, struct slice value) {}

static bool timed_out;
static void on_deadline(uv_timer_t *t)
{
    timed_out = true;
}
#define UNTIL(cond)                                                                                \
    do {                                                                                           \
        uv_timer_t deadline;                                                                       \
        uv_timer_init(&loop, &deadline);                                                           \
        timed_out = false;                                                                         \
        uv_timer_start(&deadline, on_deadline, 60000, 0);                                          \
        while (!(cond) && !timed_out)                                                              \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        ck_assert_msg(!timed_out, "not reached: %s", #cond);                                       \
        uv_close((uv_handle_t *)&deadline, NULL);                                                  \
        uv_run(&loop, UV_RUN_NOWAIT);                                                              \
    } while (0)

static bool may_deliver(void *ctx)
{
    return true;
}

static void take_note(void *ctx, struct slice frame)
{
    struct frame_note f;
    ck_assert(note_decode(frame, &f));
    delivery_noted(delivery, f.epoch, f.number);
}

static void start_node(void)
{
    static const struct storage_hooks hooks = {.batch = on_batch,
                                               .durable = on_durable,
                                               .reply = on_reply,
                                               .changed = on_changed,
                                               .failed = on_failed,
                                               .opstate = on_opstate,
                                               .merged = on_merged};
    char err[300];
    struct store_meta meta;
    bool virgin;
    mail = mailbox_new(&loop, on_mail, NULL);
    storage = storage_open(&cfg, &meta, &virgin, err, sizeof err);
    ck_assert_msg(storage != NULL, "%s", err);
    storage_start(storage, &hooks);
    epoch += 2;
    promoted = false;
    struct store_request r = {.type = SR_PROMOTE, .epoch = epoch, .mode = MODE_SOLO};
    storage_request(storage, &r);
    UNTIL(promoted);
    queue = queue_new(&loop, storage, NULL, &cfg);
    struct delivery_hooks dh = {.may_deliver = may_deliver, .note = take_note};
    delivery = delivery_new(&loop, &cfg, queue, NULL, &dh, err, sizeof err);
    ck_assert_msg(delivery != NULL, "%s", err);
    queue_serve(queue, epoch);
}

static bool closed;
static void on_closed(void *ctx)
{
    closed = true;
}

static void stop_node(void)
{
    delivery_abort(delivery);
    queue_epoch_over(queue);
    storage_stop(storage);
    closed = false;
    delivery_close(delivery, on_closed, NULL);
    UNTIL(closed);
    struct queue *q = queue;
    queue = NULL;
    queue_close(q);
    mailbox_close(mail);
    uv_run(&loop, UV_RUN_NOWAIT);
    uv_run(&loop, UV_RUN_NOWAIT);
}

static uint16_t start_sink(void)
{
    char where[64], dump[128];
    struct sockaddr_storage a;
    uv_tcp_t h;
    int n = sizeof a;
    address_parse("127.0.0.1:0", &a);
    uv_tcp_init(&loop, &h);
    uv_tcp_bind(&h, (struct sockaddr *)&a, 0);
    uv_tcp_getsockname(&h, (struct sockaddr *)&a, &n);
    uv_close((uv_handle_t *)&h, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uint16_t port = ntohs(((struct sockaddr_in *)&a)->sin_port);
    snprintf(where, sizeof where, "127.0.0.1:%u", port);
    snprintf(dump, sizeof dump, "%s/mail", dir);
    sink = fork();
    if (sink == 0) {
        if (geteuid() == 0)
            execl(SINK, "smtp-sink", "-u", "root", "-D", dump, where, "500", (char *)NULL);
        else
            execl(SINK, "smtp-sink", "-D", dump, where, "500", (char *)NULL);
        _exit(127);
    }
    return port;
}

static void setup(void)
{
    uv_loop_init(&loop);
    snprintf(dir, sizeof dir, "/tmp/baton-delivery-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    char store[128];
    snprintf(store, sizeof store, "%s/store.db", dir);
    route = (struct config_route){.domain = xstrdup("*"),
                                  .kind = ROUTE_HOST,
                                  .host = xstrdup("127.0.0.1"),
                                  .port = start_sink()};
    dest = (struct config_destination){.domain = xstrdup("*"), .connections = 20};
    cfg = (struct config){.cluster = xstrdup("test"),
                          .store = xstrdup(store),
                          .hostname = xstrdup("relay.example"),
                          .node = 'a',
                          .routes = &route,
                          .n_routes = 1,
                          .destinations = &dest,
                          .n_destinations = 1};
    cfg.queue.retention_ms = 86400000;
    cfg.queue.outcome_delay_ms = 2;
    cfg.delivery.connections = 50;
    cfg.delivery.retry_ms = retry;
    cfg.delivery.n_retry = 1;
    cfg.delivery.expire_ms = 86400000;
    epoch = 0;
    committed = 0;
}

static void teardown(void)
{
    char command[128];
    kill(sink, SIGTERM);
    waitpid(sink, NULL, 0);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    free(route.domain);
    free(route.host);
    free(dest.domain);
    free(cfg.cluster);
    free(cfg.store);
    free(cfg.hostname);
}

static void on_committed(void *ctx, enum queue_outcome o, uint64_t n)
{
    ck_assert_int_eq(o, QUEUE_OK);
    committed++;
}

static void add(unsigned number)
{
    char rcpt[64], domain[32];
    struct buf body;
    buf_init(&body, BODY_INLINE_MAX);
    snprintf(domain, sizeof domain, "d%u.example", number % 5);
    snprintf(rcpt, sizeof rcpt, "user%u@%s", number, domain);
    buf_printf(&body, "Subject: m%u\r\n\r\nbody of %u\r\n", number, number);
    struct row_message m = {.id = queue_next_id(queue),
                            .received_ms = clock_wall_ms(),
                            .size = body.len,
                            .recipients = 1,
                            .sender = SLICE_LIT("s@home.example"),
                            .prefix = SLICE_LIT("Received: by test\r\n")};
    struct row_recipient r = {.id = m.id,
                              .state = RCPT_QUEUED,
                              .next_ms = m.received_ms,
                              .address = slice_str(rcpt),
                              .domain = slice_str(domain)};
    crypto_sha256(buf_slice(&body), m.sha256);
    queue_add(queue, &m, &r, 1, &body, sum_bytes(buf_slice(&body)), on_committed, NULL);
}

static unsigned dumped(void)
{
    char command[300], line[64];
    unsigned n = 0, distinct = 0;
    snprintf(command, sizeof command,
             "grep -h '^Subject: m' %s/mail | tee %s/list | wc -l; sort -u %s/list | wc -l", dir,
             dir, dir);
    FILE *f = popen(command, "r");
    if (fgets(line, sizeof line, f))
        n = (unsigned)atoi(line);
    if (fgets(line, sizeof line, f))
        distinct = (unsigned)atoi(line);
    pclose(f);
    ck_assert_uint_eq(n, distinct); /* none twice */
    return n;
}

static uint64_t delivered(void)
{
    struct delivery_stats st;
    delivery_stats(delivery, &st);
    return st.delivered_total;
}

/* Asked of the disk, not of memory. */
static uint64_t live(void)
{
    struct queue_counts c = {0};
    ck_assert(storage_counts(storage, &c));
    return c.messages;
}

START_TEST(test_committed_mail_is_delivered_once)
{
    enum { N = 500 };
    start_node();
    delivery_start(delivery);
    for (unsigned i = 0; i < N; i++)
        add(i);
    UNTIL(committed == N && delivered() == N);
    UNTIL(live() == 0);
    ck_assert_uint_eq(dumped(), N);
    stop_node();
}
END_TEST

START_TEST(test_what_lies_on_disk_is_delivered_after_a_restart)
{
    enum { N = 700 };
    start_node();
    for (unsigned i = 0; i < N; i++)
        add(i); /* delivery isn't started: they stay */
    UNTIL(committed == N);
    ck_assert_uint_eq(delivered(), 0);
    stop_node();
    start_node();
    delivery_start(delivery);
    add(N); /* the first of this epoch makes what was before visible */
    UNTIL(delivered() == N + 1);
    UNTIL(live() == 0);
    ck_assert_uint_eq(dumped(), N + 1);
    stop_node();
}
END_TEST

int main(void)
{
    if (access(SINK, X_OK) != 0) {
        puts("skipped: smtp-sink (package postfix) isn't installed");
        return 0;
    }
    Suite *s = suite_create("delivery and queue");
    TCase *t = tcase_create("delivery and queue");
    tcase_set_timeout(t, 180);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_committed_mail_is_delivered_once);
    tcase_add_test(t, test_what_lies_on_disk_is_delivered_after_a_restart);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
