/* How many messages a second the storage thread takes by itself: no SMTP, no peer.
 *
 *   build/tests/bench_storage DIRECTORY MESSAGES BYTES OUTSTANDING: additions, then the outcome of
 * each. */
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/storage_uv.h"

static uv_loop_t loop;
static struct mailbox *mail;
static struct storage *storage;
static unsigned long total, sent, back, window;
static size_t body_bytes;
static uint8_t *body;
static enum storage_op_type phase;

static void on_batch(void *ctx, const struct own_batch *b)
{
    (void)ctx;
    (void)b;
}
static void on_merged(void *ctx, struct pos end) {}

static void on_durable(void *ctx, struct pos end)
{
    (void)ctx;
    (void)end;
}
static void on_reply(void *ctx, const struct store_reply *r)
{
    (void)ctx;
    if (r->err)
        exit(1);
}
static void on_changed(void *ctx, const struct store_meta *m)
{
    (void)ctx;
    (void)m;
}
static void on_failed(void *ctx, int err, const char *why)
{
    (void)ctx;
    fprintf(stderr, "%d %s\n", err, why);
    exit(1);
}
static void on_opstate(void *ctx, struct slice key, struct slice value)
{
    (void)ctx;
    (void)key;
    (void)value;
}

static void send_one(void)
{
    struct storage_op *op = xcalloc(1, sizeof *op);
    uint64_t id = MESSAGE_ID(4, ++sent);
    op->type = phase;
    op->epoch = 4;
    op->reply_to = mail;
    op->rows = xcalloc(2, sizeof *op->rows);
    buf_init(&op->memory, 256);
    buf_printf(&op->memory, "user%lu@d%03lu.example", sent, sent * 7919 % 500);
    struct slice address = buf_slice(&op->memory);
    struct slice domain = slice_of(address.p + address.n - 12, 12);
    if (phase == OP_ADD) {
        struct row_message m = {.id = id,
                                .received_ms = 1700000000000 + (int64_t)sent,
                                .size = body_bytes,
                                .recipients = 1,
                                .sender = SLICE_LIT("sender@app.example"),
                                .origin = SLICE_LIT("client [192.0.2.1]"),
                                .prefix = SLICE_LIT("Received: from client by host with ESMTP\r\n"),
                                .body = {body, body_bytes}};
        memcpy(body, &id, sizeof id);
        crypto_sha256(m.body, m.sha256);
        op->rows[op->n_rows++] = (struct row){.type = ROW_MESSAGE, .message = m};
    }
    struct row_recipient p = {.id = id,
                              .state = phase == OP_ADD ? RCPT_QUEUED : RCPT_DELIVERED,
                              .attempts = phase != OP_ADD,
                              .next_ms = 1700000000000 + (int64_t)sent,
                              .address = address,
                              .domain = domain};
    op->rows[op->n_rows++] = (struct row){.type = ROW_RECIPIENT, .recipient = p};
    storage_submit(storage, op);
}

static void on_mail(void *ctx, struct mail *m)
{
    struct storage_op *op = (struct storage_op *)m;
    (void)ctx;
    if (op->result != OP_DURABLE)
        exit(1);
    storage_op_free(op);
    back++;
    if (sent < total)
        send_one();
}

static void run(enum storage_op_type what, const char *name)
{
    struct storage_stats a, z;
    storage_stats(storage, &a);
    phase = what;
    sent = back = 0;
    uint64_t start = uv_hrtime();
    while (sent < total && sent < window)
        send_one();
    while (back < total)
        uv_run(&loop, UV_RUN_ONCE);
    double s = (double)(uv_hrtime() - start) / 1e9;
    storage_stats(storage, &z);
    printf("%-8s %8.0f messages/s  %6.1f a commit  p50 %llu us  p99 %llu us\n", name,
           (double)total / s, (double)total / (double)(z.commits - a.commits),
           (unsigned long long)z.commit_p50_us, (unsigned long long)z.commit_p99_us);
}

int main(int argc, char **argv)
{
    char err[300], path[300];
    bool virgin;
    struct store_meta meta;
    if (argc != 5)
        return 2;
    snprintf(path, sizeof path, "%s/bench.db", argv[1]);
    total = strtoul(argv[2], NULL, 10);
    body_bytes = strtoul(argv[3], NULL, 10);
    window = strtoul(argv[4], NULL, 10);
    body = xmalloc(body_bytes);
    crypto_random(body, body_bytes);
    struct config c = {.store = path, .cluster = path};
    uv_loop_init(&loop);
    mail = mailbox_new(&loop, on_mail, NULL);
    storage = storage_open(&c, &meta, &virgin, err, sizeof err);
    if (!storage)
        return fprintf(stderr, "%s\n", err), 1;
    struct storage_hooks h = {NULL,       on_batch,  on_durable, on_reply,
                              on_changed, on_failed, on_opstate, on_merged};
    storage_start(storage, &h);
    storage_request(storage,
                    &(struct store_request){.type = SR_PROMOTE, .epoch = 4, .mode = MODE_SOLO});
    run(OP_ADD, "add");
    run(OP_OUTCOME, "outcome");
    storage_stop(storage);
    return 0;
}
