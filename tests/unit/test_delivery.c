/* Delivery over real sockets to a small SMTP server in this process, with a queue in memory that
 * settles outcomes when the test says so. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/crypto_openssl.h"
#include "node/base/stream_uv.h"
#include "node/base/sum_xxhash.h"
#include "node/delivery/delivery_uv.h"
#include "replication/notes.h"

/* --- a queue in memory --- */

enum { ROWS_MAX = 20000 };

struct stored {
    struct row_message m;
    struct row_recipient r[4];
    char *text[4][3]; /* enhanced, reply, remote of the last outcome */
    unsigned n;
    bool dead;
    uint8_t *body;
};
struct pending {
    struct pending *next;
    queue_done done;
    void *ctx;
    unsigned n;
};
static struct {
    struct stored *list;
    unsigned n, outcomes, waiting;
    unsigned notes, taken_back, refuse_notes; /* under `hold` */
    queue_new_fn fresh;
    queue_scan_fn scan;
    void *fresh_ctx, *scan_ctx;
    bool hold_settle, hold_due, hold_next;
    struct pending *pending;
    struct storage_read *reads;
    uv_idle_t idle;
    uint64_t next_id;
} q;
static uv_loop_t loop;

void queued_free(struct queued *m)
{
    buf_free(&m->memory);
    free(m->rcpts);
    free(m);
}
void queue_on_new(struct queue *x, queue_new_fn fn, void *ctx)
{
    q.fresh = fn;
    q.fresh_ctx = ctx;
}
void queue_on_scan(struct queue *x, queue_scan_fn fn, void *ctx)
{
    q.scan = fn;
    q.scan_ctx = ctx;
}
uint32_t queue_epoch(const struct queue *x)
{
    return 2;
}
uint64_t queue_next_id(struct queue *x)
{
    return MESSAGE_ID(2, ++q.next_id);
}
void storage_read_free(struct storage_read *r)
{
    free(r->domain);
    buf_free(&r->bytes);
    free(r);
}

void storage_op_free(struct storage_op *op)
{
    free(op);
}

static void on_idle(uv_idle_t *h);

/* Answers come from the loop; it doesn't spin while there are none to give. */
static void kick(void)
{
    uv_idle_start(&q.idle, on_idle);
}

static struct stored *find(uint64_t id)
{
    for (unsigned i = 0; i < q.n; i++)
        if (q.list[i].m.id == id)
            return &q.list[i];
    return NULL;
}

/* A hold by delivery itself: the store has it at once. */
void queue_operate(struct queue *x, struct storage_op *op)
{
    struct stored *s = find(op->selector.id);
    ck_assert(s && op->type == OP_SELECT && op->action == SELECT_HOLD && op->reason.n);
    for (unsigned i = 0; i < s->n; i++)
        s->r[i].held = 1;
    op->result = OP_DURABLE;
    op->n_changed = s->n;
    op->done(op);
}

static char **kept; /* bytes of stored rows, until the test's end */
static unsigned n_kept;

static struct slice keep(struct slice s)
{
    if (n_kept % 4096 == 0)
        kept = xrealloc(kept, (n_kept + 4096) * sizeof *kept);
    kept[n_kept] = slice_dup(s);
    return slice_of(kept[n_kept++], s.n);
}

static struct stored *store(const struct row_message *m, const struct row_recipient *r, unsigned n)
{
    struct stored *s = &q.list[q.n++];
    ck_assert(q.n < ROWS_MAX && n <= 4);
    s->m = *m;
    s->m.sender = keep(m->sender);
    s->m.prefix = keep(m->prefix);
    s->m.body = keep(m->body);
    s->n = n;
    for (unsigned i = 0; i < n; i++) {
        s->r[i] = r[i];
        s->r[i].address = keep(r[i].address);
        s->r[i].domain = keep(r[i].domain);
    }
    return s;
}

static void set_text(struct stored *s, unsigned i, unsigned k, struct slice *v)
{
    free(s->text[i][k]);
    s->text[i][k] = slice_dup(*v);
    *v = slice_of(s->text[i][k], v->n);
}

static void answer_later(queue_done done, void *ctx, unsigned n)
{
    struct pending *p = calloc(1, sizeof *p), **last = &q.pending;
    *p = (struct pending){NULL, done, ctx, n};
    while (*last)
        last = &(*last)->next;
    *last = p;
    q.waiting++;
    kick();
}

void queue_outcome(struct queue *x, const struct row_recipient *rcpts, unsigned n,
                   const struct row_message *bounce, const struct row_recipient *bounce_rcpt,
                   queue_done done, void *ctx)
{
    q.outcomes++;
    for (unsigned i = 0; i < n; i++) {
        struct stored *s = find(rcpts[i].id);
        ck_assert(s && rcpts[i].index < s->n);
        struct row_recipient *r = &s->r[rcpts[i].index];
        ck_assert_msg(!rcpt_terminal(r->state), "a finished recipient was delivered again");
        struct row_recipient fresh = rcpts[i];
        fresh.address = r->address;
        fresh.domain = r->domain;
        fresh.orcpt = r->orcpt;
        *r = fresh;
        set_text(s, fresh.index, 0, &r->enhanced);
        set_text(s, fresh.index, 1, &r->reply);
        set_text(s, fresh.index, 2, &r->remote);
    }
    if (bounce)
        store(bounce, bounce_rcpt, 1);
    answer_later(done, ctx, 1);
}

void queue_note(struct queue *x, const struct row_recipient *rcpts, unsigned n, bool noted,
                queue_done done, void *ctx)
{
    q.notes += noted ? n : 0;
    q.taken_back += noted ? 0 : n;
    for (unsigned i = 0; i < n; i++)
        find(rcpts[i].id)->r[rcpts[i].index].in_doubt = noted ? DOUBT_NOTED : DOUBT_NONE;
    answer_later(done, ctx, n - q.refuse_notes);
}

static bool put_pair(struct buf *b, const struct stored *s, unsigned i)
{
    struct row m = {.type = ROW_MESSAGE, .message = s->m};
    struct row r = {.type = ROW_RECIPIENT, .recipient = s->r[i]};
    m.message.body = slice_of(NULL, 0);
    return row_encode(b, &m) && row_encode(b, &r);
}

static bool due(const struct row_recipient *r, int64_t now)
{
    return r->state == RCPT_QUEUED && !r->held && r->next_ms <= now;
}

static int slice_cmp(struct slice a, struct slice b)
{
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

/* The earliest above after_ms; 0: none. */
static int64_t next_due(int64_t after_ms)
{
    int64_t best = 0;
    for (unsigned i = 0; i < q.n; i++)
        for (unsigned k = 0; k < q.list[i].n; k++) {
            const struct row_recipient *c = &q.list[i].r[k];
            if (due(c, INT64_MAX) && c->next_ms > after_ms && (!best || c->next_ms < best))
                best = c->next_ms;
        }
    return best;
}

static void answer(struct storage_read *r)
{
    buf_init(&r->bytes, 64 << 20);
    struct stored *s;
    switch ((int)r->type) {
    case READ_BODY:
        s = find(r->id);
        ck_assert(s && r->offset + r->limit <= s->m.size);
        buf_append(&r->bytes, (s->body ? s->body : s->m.body.p) + r->offset, r->limit);
        break;
    case READ_DOMAINS: /* in order, above r->domain */
        for (;;) {
            struct slice best = {NULL, 0};
            for (unsigned i = 0; i < q.n; i++)
                for (unsigned k = 0; k < q.list[i].n; k++) {
                    const struct row_recipient *c = &q.list[i].r[k];
                    if (due(c, r->due_ms) && slice_cmp(c->domain, slice_str(r->domain)) > 0 &&
                        (!best.n || slice_cmp(c->domain, best) < 0))
                        best = c->domain;
                }
            if (!best.n)
                break;
            wire_put_bytes(&r->bytes, best);
            wire_put_u64(&r->bytes, 0);
            free(r->domain);
            r->domain = slice_dup(best);
        }
        break;
    case READ_DUE: /* the cursor is (next_ms, id, index); here rows lie in the order of id */
        for (unsigned i = 0; i < q.n; i++)
            for (unsigned k = 0; k < q.list[i].n; k++) {
                struct row_recipient *c = &q.list[i].r[k];
                if (!due(c, r->due_ms) || !slice_ieq(c->domain, slice_str(r->domain)) ||
                    c->id < r->cursor.id ||
                    (c->id == r->cursor.id && c->index <= r->cursor.index && r->cursor.id))
                    continue;
                if (r->n_rows == r->limit) {
                    r->more = true;
                    return;
                }
                r->n_rows++;
                put_pair(&r->bytes, &q.list[i], k);
                r->cursor.next_ms = c->next_ms;
                r->cursor.id = c->id;
                r->cursor.index = c->index;
            }
        break;
    case READ_NEXT_DUE:
        r->due_ms = next_due(r->due_ms);
        break;
    default:
        r->err = STORE_NOT_FOUND;
    }
}

void queue_read(struct queue *x, unsigned lane, struct storage_read *r)
{
    answer(r); /* as of now, delivered later: as a reader thread's snapshot */
    r->mail.next = (struct mail *)q.reads;
    q.reads = r;
    kick();
}

static void on_idle(uv_idle_t *h)
{
    uv_idle_stop(h);
    while (q.reads && !(q.hold_due && q.reads->type == READ_DUE) &&
           !(q.hold_next && q.reads->type == READ_NEXT_DUE)) {
        struct storage_read *r = q.reads;
        q.reads = (struct storage_read *)r->mail.next;
        r->done(r);
    }
    while (q.pending && !q.hold_settle) {
        struct pending *p = q.pending;
        q.pending = p->next;
        q.waiting--;
        p->done(p->ctx, QUEUE_OK, p->n);
        free(p);
    }
}

static struct events *no_events = NULL;

/* --- an SMTP server --- */

struct session {
    struct stream *s;
    struct buf in;
    bool data;
    char rcpts[400], sender[200];
};
static struct {
    uv_tcp_t listener;
    uint16_t port;
    unsigned sessions, messages, dots_seen, rcpts_seen, connects;
    size_t ahead;           /* text of a message whose final dot isn't here */
    size_t drop_before_dot; /* so much of it; 0: never */
    struct buf last;        /* message */
    char last_rcpts[400];
    bool drop_after_dot, hold_reply, broken_tls, refuse_all, reject_greeting;
    struct session *held;
    struct tls_ctx *tls;
    char secured[80]; /* how the last message came */
    unsigned *seen;   /* by number in the recipient's local part u<number> */
} srv;

/* In place of the C library's, also for libuv: a kernel that has no room for a final dot. */
static bool keep_dots;
static unsigned dots_kept;
ssize_t write(int fd, const void *p, size_t n)
{
    static const char dot[] = {'\r', '\n', '.', '\r', '\n'};
    bool has = keep_dots && n >= 3 && memcmp((const char *)p + n - 3, dot + 2, 3) == 0 &&
               (n == 3 || (n >= 5 && memcmp((const char *)p + n - 5, dot, 5) == 0));
    if (has) {
        dots_kept++;
        if (n == 3) {
            errno = EAGAIN;
            return -1;
        }
        n -= 3;
    }
    return syscall(SYS_write, fd, p, n);
}

static bool no_room;
static unsigned room_asked;
int poll(struct pollfd *fds, nfds_t n, int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    room_asked++;
    return no_room ? 0 : (int)syscall(SYS_ppoll, fds, n, ms < 0 ? NULL : &t, NULL, 0);
}

static void line(struct session *x, const char *text)
{
    stream_write(x->s, slice_str(text));
}

static void end_of_data(struct session *x, size_t n)
{
    srv.dots_seen++;
    snprintf(srv.secured, sizeof srv.secured, "%s", stream_tls_describe(x->s));
    buf_clear(&srv.last);
    buf_append(&srv.last, x->in.data, n);
    snprintf(srv.last_rcpts, sizeof srv.last_rcpts, "%s", x->rcpts);
    x->data = false;
    if (srv.drop_after_dot) {
        stream_close(x->s, "dropped");
        return;
    }
    srv.messages++;
    for (const char *p = x->rcpts; (p = strstr(p, "<u")); p++)
        if (srv.seen)
            srv.seen[atoi(p + 2)]++;
    x->rcpts[0] = 0;
    if (srv.hold_reply)
        srv.held = x;
    else
        line(x, "250 2.0.0 taken\r\n");
}

static void command(struct session *x, const char *l)
{
    if (!strncmp(l, "EHLO", 4)) {
        line(x,
             srv.broken_tls || (srv.tls && !stream_tls_describe(x->s)[0])
                 ? "250-sink.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
                 : "250-sink.example\r\n250-PIPELINING\r\n250-SIZE 10000000\r\n250 8BITMIME\r\n");
    } else if (!strncmp(l, "STARTTLS", 8) && srv.tls) {
        line(x, "220 go\r\n");
        stream_start_tls(x->s, srv.tls, true, NULL);
    } else if (!strncmp(l, "STARTTLS", 8)) {
        line(x, "220 go\r\nthis is no handshake at all, but long enough to be one record\r\n");
    } else if (!strncmp(l, "RCPT", 4)) {
        srv.rcpts_seen++;
        if (strstr(l, "<bad"))
            line(x, "550 5.1.1 no such user here\r\n");
        else if (strstr(l, "<later"))
            line(x, "451 4.3.2 come back\r\n");
        else {
            strncat(x->rcpts, l, sizeof x->rcpts - strlen(x->rcpts) - 1);
            line(x, "250 2.1.5 ok\r\n");
        }
    } else if (!strncmp(l, "DATA", 4)) {
        if (!x->rcpts[0]) {
            line(x, "554 5.5.1 no valid recipients\r\n");
        } else {
            x->data = true;
            line(x, "354 go\r\n");
        }
    } else if (!strncmp(l, "QUIT", 4)) {
        line(x, "221 bye\r\n");
        stream_shutdown(x->s, 1000);
    } else {
        line(x, "250 2.0.0 ok\r\n");
    }
}

static void srv_data(void *ctx, struct stream *s, struct slice d)
{
    struct session *x = ctx;
    buf_append_slice(&x->in, d);
    for (;;) {
        if (x->data) {
            uint8_t *end = x->in.len < 5 ? NULL : memmem(x->in.data, x->in.len, "\r\n.\r\n", 5);
            srv.ahead = end ? 0 : x->in.len;
            if (!end && srv.drop_before_dot && x->in.len >= srv.drop_before_dot)
                stream_close(x->s, "dropped");
            if (!end)
                return;
            size_t n = (size_t)(end - x->in.data) + 2;
            end_of_data(x, n);
            buf_consume(&x->in, n + 3);
            continue;
        }
        uint8_t *eol = x->in.len ? memchr(x->in.data, '\n', x->in.len) : NULL;
        if (!eol)
            return;
        size_t n = (size_t)(eol - x->in.data) + 1;
        char *l = slice_dup(slice_of(x->in.data, n));
        buf_consume(&x->in, n);
        command(x, l);
        free(l);
    }
}

static void srv_close(void *ctx, struct stream *s, const char *why)
{
    struct session *x = ctx;
    srv.sessions--;
    if (srv.held == x)
        srv.held = NULL;
    buf_free(&x->in);
    free(x);
}

static void srv_accept(uv_stream_t *l, int status)
{
    static const struct stream_events ev = {.on_data = srv_data, .on_close = srv_close};
    struct session *x = calloc(1, sizeof *x);
    buf_init(&x->in, 16 << 20);
    srv.sessions++;
    srv.connects++;
    x->s = stream_accept(l, NULL, &ev, x);
    ck_assert_ptr_nonnull(x->s);
    if (srv.reject_greeting)
        line(x, "554 5.7.1 we don't like you\r\n");
    else
        line(x, "220 sink.example\r\n");
}

/* --- the bench --- */

static struct config cfg;
static struct config_route route;
static struct config_destination dest;
static uint64_t retry[] = {60000, 300000};
static struct delivery *d;
static bool may;
static enum delivery_mend mend_answer; /* of the other node */
static unsigned mends;
static void mend(void *ctx, uint64_t id);

static bool may_deliver(void *ctx)
{
    return may;
}

/* What delivery has told the standby; by default it has all at once. */
static struct {
    struct notes set;
    uint64_t number;
    unsigned frames, most;
    bool withheld;
} standby;

static void take_note(void *ctx, struct slice frame)
{
    struct frame_note f;
    ck_assert(note_decode(frame, &f));
    ck_assert_uint_eq(f.number, standby.number + 1);
    standby.number = f.number;
    standby.frames++;
    ck_assert(notes_take(&standby.set, &f));
    if (standby.set.n > standby.most)
        standby.most = (unsigned)standby.set.n;
    if (!standby.withheld)
        delivery_noted(d, f.epoch, f.number);
}

static bool alone; /* there is no standby */

static void setup(void)
{
    signal(SIGPIPE, SIG_IGN); /* as the daemon has it */
    notes_clear(&standby.set);
    memset(&standby, 0, sizeof standby);
    memset(&q, 0, sizeof q);
    memset(&srv, 0, sizeof srv);
    q.list = calloc(ROWS_MAX, sizeof *q.list);
    q.next_id = 1000000;
    may = true;
    uv_loop_init(&loop);
    uv_idle_init(&loop, &q.idle);
    struct sockaddr_storage a;
    address_parse("127.0.0.1:0", &a);
    ck_assert_int_eq(stream_listen(&loop, &srv.listener, (struct sockaddr *)&a, 100, srv_accept),
                     0);
    int n = sizeof a;
    uv_tcp_getsockname(&srv.listener, (struct sockaddr *)&a, &n);
    srv.port = ntohs(((struct sockaddr_in *)&a)->sin_port);
    buf_init(&srv.last, 16 << 20);
    route = (struct config_route){
        .domain = xstrdup("*"), .kind = ROUTE_HOST, .host = xstrdup("127.0.0.1"), .port = srv.port};
    dest = (struct config_destination){
        .domain = xstrdup("*"), .connections = 1, .messages_per_connection = 100};
    cfg = (struct config){.hostname = xstrdup("relay.example"),
                          .routes = &route,
                          .n_routes = 1,
                          .destinations = &dest,
                          .n_destinations = 1};
    cfg.delivery.connections = 50;
    cfg.delivery.retry_ms = retry;
    cfg.delivery.n_retry = 2;
    cfg.delivery.expire_ms = 86400000;
    cfg.delivery.tls = TLS_POLICY_OPPORTUNISTIC;
    struct delivery_hooks hooks = {
        .may_deliver = may_deliver, .note = take_note, .alone = alone, .mend = mend};
    char err[200];
    d = delivery_new(&loop, &cfg, NULL, no_events, &hooks, err, sizeof err);
    ck_assert_msg(d != NULL, "%s", err);
}

static bool timed_out;
static void on_deadline(uv_timer_t *t)
{
    timed_out = true;
}
/* Turns the loop until cond, at most `seconds`. */
#define UNTIL(cond)                                                                                \
    do {                                                                                           \
        uv_timer_t deadline;                                                                       \
        uv_timer_init(&loop, &deadline);                                                           \
        kick();                                                                                    \
        timed_out = false;                                                                         \
        uv_timer_start(&deadline, on_deadline, 50000, 0);                                          \
        while (!(cond) && !timed_out)                                                              \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        ck_assert_msg(!timed_out, "not reached: %s", #cond);                                       \
        uv_close((uv_handle_t *)&deadline, NULL);                                                  \
        uv_run(&loop, UV_RUN_NOWAIT);                                                              \
    } while (0)

static void turn(unsigned times)
{
    kick();
    for (unsigned i = 0; i < times; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static bool closed;
static void on_closed(void *ctx)
{
    closed = true;
}

static void teardown(void)
{
    alone = false;
    closed = false;
    q.hold_settle = q.hold_due = q.hold_next = false;
    delivery_close(d, on_closed, NULL);
    UNTIL(closed && srv.sessions == 0);
    turn(3);
    uv_idle_stop(&q.idle);
    uv_close((uv_handle_t *)&q.idle, NULL);
    uv_close((uv_handle_t *)&srv.listener, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    for (unsigned i = 0; i < q.n; i++) {
        free(q.list[i].body);
        for (unsigned k = 0; k < 12; k++)
            free(q.list[i].text[k / 3][k % 3]);
    }
    while (n_kept)
        free(kept[--n_kept]);
    free(kept);
    kept = NULL;
    free(q.list);
    buf_free(&srv.last);
    free(route.domain);
    free(route.host);
    free(dest.domain);
    free(cfg.hostname);
}

static struct stored *message(uint64_t id, const char *body, size_t n, const char *const *rcpts,
                              unsigned n_rcpts)
{
    struct row_message m = {.id = id,
                            .flags = 0,
                            .received_ms = clock_wall_ms(),
                            .size = n,
                            .recipients = n_rcpts,
                            .sender = SLICE_LIT("sender@home.example"),
                            .prefix = SLICE_LIT("Received: by test\r\n")};
    if (n <= BODY_CHUNK_BYTES)
        m.body = slice_of(body, n);
    else
        m.chunks = (uint32_t)((n + BODY_CHUNK_BYTES - 1) / BODY_CHUNK_BYTES);
    crypto_sha256(slice_of(body, n), m.sha256);
    struct row_recipient r[4];
    for (unsigned i = 0; i < n_rcpts; i++) {
        r[i] = (struct row_recipient){.id = id,
                                      .index = i,
                                      .state = RCPT_QUEUED,
                                      .next_ms = 1,
                                      .address = slice_str(rcpts[i]),
                                      .domain = slice_str(strchr(rcpts[i], '@') + 1)};
    }
    struct stored *s = store(&m, r, n_rcpts);
    if (m.chunks) {
        s->body = xmalloc(n);
        memcpy(s->body, body, n);
    }
    return s;
}

static struct stored *simple(uint64_t id, const char *rcpt)
{
    return message(id, "Subject: hi\r\n\r\nhello\r\n", 22, &rcpt, 1);
}

/* As the queue hands it to delivery when it is committed. */
static struct queued *queued(const struct stored *s)
{
    struct queued *x = calloc(1, sizeof *x);
    buf_init(&x->memory, 1 << 20);
    x->message = s->m;
    x->n_rcpts = s->n;
    x->rcpts = calloc(s->n, sizeof *x->rcpts);
    memcpy(x->rcpts, s->r, s->n * sizeof *x->rcpts);
    x->body_sum = sum_bytes(s->m.body);
    return x;
}

static void fresh(const struct stored *s)
{
    q.fresh(q.fresh_ctx, queued(s));
}

START_TEST(test_fresh_message_goes_out)
{
    delivery_start(d);
    struct stored *s = simple(1, "u1@x.example");
    fresh(s);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    char *got = slice_dup(buf_slice(&srv.last));
    ck_assert_str_eq(got, "Received: by test\r\nSubject: hi\r\n\r\nhello\r\n");
    free(got);
    ck_assert_str_eq(s->text[0][0], "2.0.0");
    ck_assert_str_eq(s->text[0][1], "taken");
    ck_assert_uint_eq(s->r[0].attempts, 1);
    char remote[64];
    snprintf(remote, sizeof remote, "127.0.0.1 [127.0.0.1]:%u", srv.port);
    ck_assert_str_eq(s->text[0][2], remote);
    turn(20);
    ck_assert_uint_eq(srv.messages, 1);
}
END_TEST

START_TEST(test_disk_is_scanned_and_large_bodies_are_streamed)
{
    size_t n = 3000000;
    char *body = xmalloc(n);
    for (size_t i = 0; i < n; i++)
        body[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : i % 50 == 0 ? '.' : 'a';
    const char *rcpts[] = {"u1@x.example", "u2@y.example", "bad@x.example"};
    struct stored *s = message(1, body, n, rcpts, 3);
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED && s->r[1].state == RCPT_DELIVERED &&
          s->r[2].state == RCPT_FAILED);
    ck_assert_uint_eq(srv.last.len, 19 + n + n / 50); /* each line's dot doubled */
    free(body);
}
END_TEST

START_TEST(test_refused_recipient_bounces_once)
{
    const char *rcpts[] = {"bad@x.example", "u1@x.example", "later@x.example"};
    struct stored *s = message(1, "Subject: hi\r\n\r\nhello\r\n", 22, rcpts, 3);
    delivery_start(d);
    fresh(s);
    UNTIL(s->r[0].state == RCPT_FAILED && s->r[1].state == RCPT_DELIVERED && s->r[2].attempts == 1);
    ck_assert_int_eq(s->r[2].state, RCPT_QUEUED);
    ck_assert(s->r[2].next_ms > clock_wall_ms() + 50000);
    ck_assert_str_eq(s->text[2][1], "come back");
    ck_assert_uint_eq(s->r[0].code, 550);
    /* The notification is mail like any other, found on disk. */
    UNTIL(q.n == 2 && q.list[1].r[0].state == RCPT_DELIVERED);
    ck_assert(q.list[1].m.flags & MSG_BOUNCE);
    ck_assert_uint_eq(q.list[1].m.parent, 1);
    ck_assert_uint_eq(q.list[1].m.sender.n, 0);
    ck_assert_ptr_nonnull(strstr(srv.last_rcpts, "<sender@home.example>"));
    char *text = slice_dup(buf_slice(&srv.last));
    ck_assert_ptr_nonnull(strstr(text,
                                 "Final-Recipient: rfc822; bad@x.example\r\nAction: failed\r\n"
                                 "Status: 5.1.1\r\n"));
    ck_assert_ptr_nonnull(strstr(text, "Subject: hi\r\n"));
    ck_assert_ptr_null(strstr(text, "u1@x.example"));
    free(text);
}
END_TEST

START_TEST(test_no_bounce_for_a_bounce)
{
    struct stored *s = simple(1, "bad@x.example");
    s->m.sender = slice_of("", 0);
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_FAILED);
    turn(50);
    ck_assert_uint_eq(q.n, 1);
}
END_TEST

START_TEST(test_no_reply_after_the_final_dot)
{
    srv.drop_after_dot = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_ptr_nonnull(strstr(s->text[0][1], "it may have been delivered"));
    ck_assert_uint_eq(srv.dots_seen, 1); /* not tried again at once */
}
END_TEST

static unsigned idles;
static void on_quiet(void *ctx)
{
    idles++;
}

START_TEST(test_final_dot_waits_for_its_note)
{
    standby.withheld = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(srv.rcpts_seen == 1 && standby.number == 1);
    turn(100);
    ck_assert_uint_eq(srv.dots_seen, 0);
    ck_assert(standby.set.n == 1 && standby.set.at[0]->id == 1);
    ck_assert(standby.set.at[0]->n == 1 && standby.set.at[0]->rcpts[0].attempts == 0);
    delivery_noted(d, 4, 1); /* of another epoch: counts for nothing */
    turn(50);
    ck_assert_uint_eq(srv.dots_seen, 0);
    standby.withheld = false;
    delivery_noted(d, 2, 1);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    UNTIL(standby.set.n == 0); /* withdrawn once the outcome is settled */
}
END_TEST

START_TEST(test_a_note_stands_until_its_outcome_is_settled)
{
    q.hold_settle = true;
    simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(q.outcomes == 1);
    turn(100);
    ck_assert_uint_eq(standby.set.n, 1);
    q.hold_settle = false;
    UNTIL(standby.set.n == 0);
}
END_TEST

START_TEST(test_a_hand_over_withdraws_what_has_no_dot)
{
    idles = 0;
    standby.withheld = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(srv.rcpts_seen == 1 && standby.set.n == 1);
    delivery_quiesce(d, on_quiet, NULL);
    ck_assert_uint_eq(standby.set.n, 0);
    ck_assert_uint_eq(idles, 1); /* nobody waits for what isn't there */
    standby.withheld = false;
    delivery_start(d); /* given up: it is noted anew, and goes on */
    UNTIL(s->r[0].state == RCPT_DELIVERED && standby.set.n == 0);
    ck_assert_uint_eq(standby.most, 1);
}
END_TEST

/* Policy `hold`: the note is a change of the row, committed before the dot. */
START_TEST(test_hold_waits_for_its_durable_note)
{
    q.hold_settle = true;
    struct stored *s = simple(1, "u1@x.example");
    s->m.flags |= MSG_IN_DOUBT_HOLD;
    delivery_start(d);
    UNTIL(srv.rcpts_seen == 1);
    turn(100);
    ck_assert_uint_eq(q.notes, 1);
    ck_assert_uint_eq(srv.dots_seen, 0);
    ck_assert_uint_eq(standby.frames, 0);
    q.hold_settle = false;
    kick();
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_int_eq(s->r[0].in_doubt, DOUBT_NONE);
    ck_assert_uint_eq(q.taken_back, 0);
}
END_TEST

START_TEST(test_alone_nobody_is_told)
{
    standby.withheld = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(standby.frames, 0);
}
END_TEST

static void setup_alone(void)
{
    alone = true;
    setup();
}

START_TEST(test_hold_sends_nothing_that_cant_be_noted)
{
    q.refuse_notes = 1; /* the row is in doubt already, or finished */
    struct stored *s = simple(1, "u1@x.example");
    s->m.flags |= MSG_IN_DOUBT_HOLD;
    delivery_start(d);
    UNTIL(q.notes >= 1 && q.taken_back >= 1);
    turn(50);
    ck_assert_uint_eq(srv.dots_seen, 0);
    ck_assert_uint_eq(q.outcomes, 0);
}
END_TEST

START_TEST(test_hold_is_not_sent_again_when_the_reply_was_lost)
{
    srv.drop_after_dot = true;
    struct stored *s = simple(1, "u1@x.example");
    s->m.flags |= MSG_IN_DOUBT_HOLD;
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_int_eq(s->r[0].in_doubt, DOUBT_YES);
    ck_assert_int_eq(s->r[0].held, HELD_DOUBT);
}
END_TEST

START_TEST(test_nothing_moves_without_the_lease)
{
    may = false;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    fresh(s);
    UNTIL(srv.connects == 1);
    turn(50);
    ck_assert_uint_eq(srv.rcpts_seen, 0);
    may = true;
    delivery_wake(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
}
END_TEST

START_TEST(test_next_dot_waits_for_the_last_outcome)
{
    q.hold_settle = true;
    struct stored *a = simple(1, "u1@x.example"), *b = simple(2, "u2@x.example");
    delivery_start(d);
    UNTIL(srv.rcpts_seen == 2 && q.outcomes == 1);
    turn(100);
    /* The second envelope is ahead, its final dot is not; a small body waits to leave with it. */
    ck_assert_uint_eq(srv.dots_seen, 1);
    ck_assert_uint_eq(srv.ahead, 0);
    may = false; /* and when the outcome is settled, the lease still counts */
    q.hold_settle = false;
    turn(50);
    ck_assert_uint_eq(srv.dots_seen, 1);
    may = true;
    delivery_wake(d);
    UNTIL(a->r[0].state == RCPT_DELIVERED && b->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.connects, 1);
}
END_TEST

static char *lines(size_t n)
{
    char *body = xmalloc(n);
    for (size_t i = 0; i < n; i++)
        body[i] = i % 50 == 48 ? '\r' : i % 50 == 49 ? '\n' : 'a';
    return body;
}

static void body_and_dot(size_t n, bool together)
{
    q.hold_settle = true;
    char *body = lines(n);
    const char *rcpts[] = {"u2@x.example"};
    struct stored *a = simple(1, "u1@x.example"), *b = message(2, body, n, rcpts, 1);
    delivery_start(d);
    UNTIL(srv.rcpts_seen == 2 && q.outcomes == 1);
    turn(200); /* not when the wait for the dot is given up */
    ck_assert(together ? srv.ahead == 0 : srv.ahead >= n);
    ck_assert_uint_eq(srv.dots_seen, 1);
    q.hold_settle = false;
    UNTIL(a->r[0].state == RCPT_DELIVERED && b->r[0].state == RCPT_DELIVERED);
    free(body);
}

START_TEST(test_a_long_body_is_ahead_of_its_dot)
{
    body_and_dot(20000, false);
}
END_TEST

START_TEST(test_a_short_body_leaves_with_its_dot)
{
    body_and_dot(12000, true);
}
END_TEST

/* The kernel takes all but the dot: it must not leave later, when the lease may be over. */
START_TEST(test_a_dot_that_stays_here_never_leaves)
{
    struct stored *s = simple(1, "u1@x.example");
    dots_kept = 0;
    keep_dots = true;
    delivery_start(d);
    UNTIL(dots_kept >= 1);
    keep_dots = false;
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.dots_seen, 1);
    ck_assert_uint_ge(srv.connects, 2);
    ck_assert_uint_eq(s->r[0].attempts, 1);
}
END_TEST

/* Too long to leave with its dot, for a receiver's host that has no room. */
static struct stored *long_without_room(void)
{
    char *body = lines(20000);
    const char *rcpts[] = {"u1@x.example"};
    struct stored *s = message(1, body, 20000, rcpts, 1);
    free(body);
    no_room = true;
    room_asked = 0;
    return s;
}

START_TEST(test_a_dot_waits_for_room)
{
    struct stored *s = long_without_room();
    delivery_start(d);
    UNTIL(srv.ahead >= 20000 && room_asked >= 3);
    ck_assert_uint_eq(srv.dots_seen, 0);
    no_room = false;
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.connects, 1);
}
END_TEST

/* Its own fault: such a receiver isn't tried for ever. */
START_TEST(test_a_receiver_that_goes_before_the_dot_is_an_attempt)
{
    struct stored *s = long_without_room();
    srv.drop_before_dot = 20000;
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_uint_le(srv.connects, 4);
    ck_assert_uint_eq(srv.dots_seen, 0);
}
END_TEST

START_TEST(test_a_fresh_body_in_chunks_comes_from_the_disk)
{
    enum { N = 300000 };
    char *body = lines(N);
    const char *rcpts[] = {"u1@x.example"};
    struct stored *s = message(1, body, N, rcpts, 1);
    mends = 0;
    delivery_start(d);
    fresh(s);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(mends, 0);
    ck_assert_uint_eq(srv.connects, 1);
    free(body);
}
END_TEST

START_TEST(test_reconnecting_does_not_get_around_unsettled_outcomes)
{
    dest.messages_per_connection = 1;
    delivery_reload(d, &cfg, NULL, 0);
    q.hold_settle = true;
    simple(1, "u1@x.example");
    struct stored *b = simple(2, "u2@x.example");
    delivery_start(d);
    UNTIL(q.outcomes == 1 && srv.sessions == 0); /* worn out: closed */
    turn(100);
    ck_assert_uint_eq(srv.connects, 1);
    q.hold_settle = false;
    UNTIL(b->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.connects, 2);
}
END_TEST

START_TEST(test_next_hop_down)
{
    uint16_t port = srv.port;
    route.port = 1; /* nobody listens on tcpmux */
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_ptr_nonnull(strstr(s->text[0][1], "refused"));
    struct stored *c = simple(2, "u2@x.example");
    fresh(c); /* left alone while it is known to be down */
    turn(50);
    ck_assert_uint_eq(c->r[0].attempts, 0);
    struct buf b;
    buf_init(&b, 10000);
    delivery_destinations(d, "[]", &b);
    buf_append(&b, "", 1);
    ck_assert_ptr_nonnull(strstr((char *)b.data, "refused"));
    buf_free(&b);
    route.port = port;
}
END_TEST

START_TEST(test_greeting_refusal_is_not_the_messages_fault)
{
    srv.reject_greeting = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_ptr_nonnull(strstr(s->text[0][1], "554"));
}
END_TEST

START_TEST(test_broken_tls_falls_back_to_plaintext)
{
    srv.broken_tls = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.connects, 2);
}
END_TEST

START_TEST(test_tls_is_used_where_offered)
{
    char name[] = "/tmp/baton-tls-XXXXXX", command[300], err[200];
    int fd = mkstemp(name);
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 "
             "-subj /CN=sink.example -keyout %s.key -out %s.pem >%s 2>&1",
             name, name, name);
    ck_assert_int_eq(system(command), 0);
    char pem[64], key[64];
    snprintf(pem, sizeof pem, "%s.pem", name);
    snprintf(key, sizeof key, "%s.key", name);
    srv.tls = tls_ctx_server(pem, key, err, sizeof err);
    ck_assert_msg(srv.tls != NULL, "%s", err);
    unlink(name);
    unlink(pem);
    unlink(key);
    struct stored *a = simple(1, "u1@x.example"), *b = simple(2, "u2@x.example");
    delivery_start(d);
    UNTIL(a->r[0].state == RCPT_DELIVERED && b->r[0].state == RCPT_DELIVERED);
    ck_assert_int_eq(strncmp(srv.secured, "TLSv1.3", 7), 0);
    ck_assert_uint_eq(srv.connects, 1);
    tls_ctx_unref(srv.tls);
}
END_TEST

START_TEST(test_abort_forgets_and_a_start_begins_anew)
{
    srv.hold_reply = true;
    struct stored *s = simple(1, "u1@x.example");
    delivery_start(d);
    UNTIL(srv.held != NULL);
    delivery_abort(d);
    struct delivery_stats st;
    delivery_stats(d, &st);
    ck_assert_uint_eq(st.active, 0);
    UNTIL(srv.sessions == 0);
    turn(50);
    ck_assert_uint_eq(q.outcomes, 0);
    srv.hold_reply = false;
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(srv.messages, 2); /* as seen by the server: it had it before the abort */
}
END_TEST

START_TEST(test_quiesce_waits_for_open_dots_and_their_outcomes)
{
    idles = 0;
    srv.hold_reply = true;
    q.hold_settle = true;
    struct stored *s = simple(1, "u1@x.example"), *b = simple(2, "u2@x.example");
    delivery_start(d);
    UNTIL(srv.held != NULL);
    delivery_quiesce(d, on_quiet, NULL);
    turn(100);
    ck_assert_uint_eq(idles, 0);
    srv.hold_reply = false;
    line(srv.held, "250 2.0.0 taken\r\n");
    UNTIL(q.outcomes == 1);
    turn(100);
    ck_assert_uint_eq(idles, 0);
    q.hold_settle = false;
    UNTIL(idles == 1);
    turn(100);
    ck_assert_int_eq(s->r[0].state, RCPT_DELIVERED);
    ck_assert_uint_eq(srv.dots_seen, 1);
    delivery_start(d); /* given up: goes on */
    UNTIL(b->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(idles, 1);
}
END_TEST

START_TEST(test_held_mail_in_memory_is_let_go)
{
    srv.hold_reply = true;
    simple(1, "u1@x.example");
    struct stored *b = simple(2, "u2@x.example");
    delivery_start(d);
    UNTIL(srv.held != NULL);
    b->r[0].held = 1; /* an operator's word, then the queue says: look again */
    q.scan(q.scan_ctx);
    srv.hold_reply = false;
    line(srv.held, "250 2.0.0 taken\r\n");
    UNTIL(q.outcomes == 1);
    turn(200);
    ck_assert_uint_eq(srv.dots_seen, 1);
    b->r[0].held = 0;
    q.scan(q.scan_ctx);
    UNTIL(b->r[0].state == RCPT_DELIVERED);
}
END_TEST

START_TEST(test_a_read_older_than_the_outcome_sends_nothing_again)
{
    struct stored *s = simple(1, "u1@x.example");
    q.hold_due = true;
    delivery_start(d);
    UNTIL(q.reads && q.reads->type == READ_DUE); /* has seen it as due, and takes its time */
    fresh(s);
    UNTIL(s->r[0].state == RCPT_DELIVERED && !q.waiting);
    turn(20);
    q.hold_due = false;
    turn(200);
    ck_assert_uint_eq(srv.messages, 1);
    struct delivery_stats st;
    delivery_stats(d, &st);
    ck_assert_uint_eq(st.active, 0);
}
END_TEST

/* It came due between the snapshot and the answer: nothing else would look for a minute. */
START_TEST(test_due_while_the_disk_is_read)
{
    struct stored *s = simple(1, "u1@x.example");
    s->r[0].next_ms = clock_wall_ms() + 3600000;
    delivery_start(d);
    turn(100); /* the passes of the start are over */
    ck_assert_ptr_null(q.reads);
    q.hold_next = true;
    q.scan(q.scan_ctx);
    s->r[0].next_ms = clock_wall_ms() + 300;
    UNTIL(q.reads && q.reads->type == READ_NEXT_DUE);
    while (clock_wall_ms() <= s->r[0].next_ms) /* a reader thread takes its time */
        turn(1);
    ck_assert_uint_eq(srv.messages, 0);
    q.hold_next = false;
    UNTIL(s->r[0].state == RCPT_DELIVERED);
}
END_TEST

START_TEST(test_damaged_body_is_not_sent)
{
    struct stored *s = simple(1, "u1@x.example");
    s->m.sha256[0] ^= 1;
    mend_answer = MEND_LATER;
    delivery_start(d);
    UNTIL(s->r[0].attempts == 1);
    ck_assert_int_eq(s->r[0].state, RCPT_QUEUED);
    ck_assert_ptr_nonnull(strstr(s->text[0][1], "damaged"));
    ck_assert_uint_eq(srv.dots_seen, 0);
}
END_TEST

static void mend(void *ctx, uint64_t id)
{
    struct stored *s = find(id);
    ck_assert_ptr_nonnull(s);
    mends++;
    if (mend_answer == MEND_RETRY) /* the other copy was right */
        crypto_sha256(s->m.body, s->m.sha256);
    delivery_mended(d, id, mend_answer);
}

START_TEST(test_damaged_body_comes_from_the_other_copy)
{
    struct stored *s = simple(1, "u1@x.example");
    s->m.sha256[0] ^= 1;
    mends = 0;
    mend_answer = MEND_RETRY;
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(mends, 1);
    ck_assert_uint_eq(s->r[0].attempts, 1);
    ck_assert_uint_eq(srv.dots_seen, 1);
}
END_TEST

/* What lies on the disk is sent instead; the other node isn't asked. */
START_TEST(test_body_damaged_in_memory_comes_from_the_disk)
{
    struct stored *s = simple(1, "u1@x.example");
    mends = 0;
    q.hold_due = true; /* the disk isn't read before */
    delivery_start(d);
    struct queued *x = queued(s);
    x->message.body = SLICE_LIT("Subject: hi\r\n\r\nhallo\r\n");
    q.fresh(q.fresh_ctx, x);
    UNTIL(q.reads && q.reads->type == READ_DUE && srv.rcpts_seen == 1);
    q.hold_due = false;
    UNTIL(s->r[0].state == RCPT_DELIVERED);
    ck_assert_uint_eq(mends, 0);
    ck_assert_uint_eq(s->r[0].attempts, 1);
    ck_assert_uint_eq(srv.dots_seen, 1);
    ck_assert_ptr_nonnull(memmem(srv.last.data, srv.last.len, "hello", 5));
}
END_TEST

START_TEST(test_body_damaged_everywhere_is_held)
{
    struct stored *s = simple(1, "u1@x.example");
    s->m.sha256[0] ^= 1;
    mends = 0;
    mend_answer = MEND_HOLD;
    delivery_start(d);
    UNTIL(s->r[0].held);
    turn(50);
    struct delivery_stats st;
    delivery_stats(d, &st);
    ck_assert_uint_eq(st.damaged, 1);
    ck_assert_uint_eq(mends, 1);
    ck_assert_uint_eq(s->r[0].attempts, 0);
    ck_assert_uint_eq(srv.dots_seen, 0);
}
END_TEST

START_TEST(test_old_mail_expires)
{
    struct stored *s = simple(1, "u1@x.example");
    s->m.received_ms -= 2 * 86400000;
    s->r[0].attempts = 3;
    delivery_start(d);
    UNTIL(s->r[0].state == RCPT_EXPIRED);
    ck_assert_uint_eq(s->r[0].attempts, 3);
    UNTIL(q.n == 2); /* with a notification */
}
END_TEST

START_TEST(test_many_messages_each_once)
{
    enum { N = 4500 }; /* more than one next hop may hold in memory */
    dest.connections = 20;
    delivery_reload(d, &cfg, NULL, 0);
    srv.seen = calloc(N + 1, sizeof *srv.seen);
    for (unsigned i = 1; i <= N; i++) {
        char rcpt[64];
        snprintf(rcpt, sizeof rcpt, "u%u@d%u.example", i, i % 7);
        simple(i, rcpt);
    }
    delivery_start(d);
    for (unsigned i = 0; i < N; i += 3)
        fresh(&q.list[i]); /* some also come as committed just now */
    UNTIL(srv.messages >= N && q.outcomes >= N && !q.waiting);
    turn(100);
    for (unsigned i = 1; i <= N; i++)
        ck_assert_uint_eq(srv.seen[i], 1);
    ck_assert_uint_eq(srv.messages, N);
    struct delivery_stats st;
    delivery_stats(d, &st);
    ck_assert_uint_eq(st.delivered_total, N);
    ck_assert_uint_eq(st.active, 0);
    free(srv.seen);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("delivery");
    TCase *t = tcase_create("delivery");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_fresh_message_goes_out);
    tcase_add_test(t, test_disk_is_scanned_and_large_bodies_are_streamed);
    tcase_add_test(t, test_refused_recipient_bounces_once);
    tcase_add_test(t, test_no_bounce_for_a_bounce);
    tcase_add_test(t, test_no_reply_after_the_final_dot);
    tcase_add_test(t, test_final_dot_waits_for_its_note);
    tcase_add_test(t, test_a_note_stands_until_its_outcome_is_settled);
    tcase_add_test(t, test_a_hand_over_withdraws_what_has_no_dot);
    tcase_add_test(t, test_hold_waits_for_its_durable_note);
    tcase_add_test(t, test_hold_sends_nothing_that_cant_be_noted);
    tcase_add_test(t, test_hold_is_not_sent_again_when_the_reply_was_lost);
    tcase_add_test(t, test_nothing_moves_without_the_lease);
    tcase_add_test(t, test_next_dot_waits_for_the_last_outcome);
    tcase_add_test(t, test_a_long_body_is_ahead_of_its_dot);
    tcase_add_test(t, test_a_short_body_leaves_with_its_dot);
    tcase_add_test(t, test_a_dot_that_stays_here_never_leaves);
    tcase_add_test(t, test_a_dot_waits_for_room);
    tcase_add_test(t, test_a_receiver_that_goes_before_the_dot_is_an_attempt);
    tcase_add_test(t, test_a_fresh_body_in_chunks_comes_from_the_disk);
    tcase_add_test(t, test_reconnecting_does_not_get_around_unsettled_outcomes);
    tcase_add_test(t, test_next_hop_down);
    tcase_add_test(t, test_greeting_refusal_is_not_the_messages_fault);
    tcase_add_test(t, test_broken_tls_falls_back_to_plaintext);
    tcase_add_test(t, test_tls_is_used_where_offered);
    tcase_add_test(t, test_abort_forgets_and_a_start_begins_anew);
    tcase_add_test(t, test_quiesce_waits_for_open_dots_and_their_outcomes);
    tcase_add_test(t, test_held_mail_in_memory_is_let_go);
    tcase_add_test(t, test_a_read_older_than_the_outcome_sends_nothing_again);
    tcase_add_test(t, test_due_while_the_disk_is_read);
    tcase_add_test(t, test_damaged_body_is_not_sent);
    tcase_add_test(t, test_damaged_body_comes_from_the_other_copy);
    tcase_add_test(t, test_body_damaged_in_memory_comes_from_the_disk);
    tcase_add_test(t, test_body_damaged_everywhere_is_held);
    tcase_add_test(t, test_old_mail_expires);
    suite_add_tcase(s, t);
    t = tcase_create("alone");
    tcase_add_checked_fixture(t, setup_alone, teardown);
    tcase_add_test(t, test_alone_nobody_is_told);
    tcase_add_test(t, test_hold_waits_for_its_durable_note);
    suite_add_tcase(s, t);
    t = tcase_create("load");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_many_messages_each_once);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
