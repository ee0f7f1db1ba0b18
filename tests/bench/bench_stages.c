/* What each stage of a message's way costs by itself, beside what it can't do without, measured in
 * the same run: bytes copied and hashed, rows inserted into plain SQLite, a write and its flush.
 *
 *   build/tests/bench_stages DIRECTORY MESSAGES BYTES [BATCH]
 *
 * One thread, no network; stores are made in DIRECTORY, which stays as it was. */
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/store_sqlite.h"
#include "node/smtp/session.h"
#include "replication/own.h"
#include "tests/bench/bench_stages.h"

#define NOW INT64_C(1700000000000)

static const char *directory;
static unsigned long total, batch_size = 100;
static struct buf text; /* a message */
static struct buf sink;

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "bench_stages: %s\n", what);
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void tell(const char *stage, double us, const char *against, double limit_us)
{
    printf("%-22s %9.2f us a message   %-34s %9.2f us   %6.1f x\n", stage, us / (double)total,
           against, limit_us / (double)total, us / limit_us);
}

/* --- receiving --- */

struct receiver {
    struct smtp_session *session;
    struct sha256 *sha;
    struct buf body;
    bool complete;
};

static void on_effect(void *ctx, const struct smtp_effect *fx)
{
    struct receiver *r = ctx;
    if (fx->type == SMTP_FX_BODY) {
        sha256_update(r->sha, fx->bytes);
        buf_append_slice(&r->body, fx->bytes);
    }
    r->complete |= fx->type == SMTP_FX_COMPLETE;
}

static void say(struct receiver *r, struct slice s)
{
    smtp_session_input(r->session, s, 1);
}

static void receive_one(struct receiver *r, uint64_t id)
{
    struct smtp_message m;
    uint8_t hash[32];
    r->sha = sha256_new();
    buf_clear(&r->body);
    r->complete = false;
    say(r, SLICE_LIT("MAIL FROM:<sender@app.example>\r\n"));
    say(r, SLICE_LIT("RCPT TO:<you@sink.example>\r\n"));
    say(r, SLICE_LIT("DATA\r\n"));
    say(r, buf_slice(&text));
    say(r, SLICE_LIT(".\r\n"));
    must(r->complete, "the session took no message");
    smtp_session_message(r->session, id, NOW, "Fri, 02 Jan 2026 03:04:05 +0000", &m);
    sha256_final(r->sha, hash);
    smtp_message_free(&m);
    smtp_session_fate(r->session, SMTP_COMMITTED, 1);
}

static void receive(void)
{
    struct smtp_policy policy = {.hostname = "mx.test",
                                 .message_bytes = 64 << 20,
                                 .recipients = 10,
                                 .hops = 30,
                                 .errors = 20,
                                 .greeting_ms = 30000,
                                 .command_ms = 300000,
                                 .data_ms = 300000};
    struct smtp_client client = {.peer = "192.0.2.9", .may_relay = true};
    struct receiver r = {.complete = false};
    buf_init(&r.body, 64 << 20);
    r.session = smtp_session_new(&policy, &client, on_effect, &r, 1);
    smtp_session_greet(r.session, SMTP_ADMIT, 1);
    say(&r, SLICE_LIT("HELO client.example\r\n"));
    double begin = now_us();
    for (unsigned long i = 0; i < total; i++)
        receive_one(&r, MESSAGE_ID(4, i + 1));
    double took = now_us() - begin;
    uint8_t hash[32];
    begin = now_us();
    for (unsigned long i = 0; i < total; i++) {
        crypto_sha256(buf_slice(&text), hash);
        buf_clear(&sink);
        buf_append_slice(&sink, buf_slice(&text));
    }
    tell("receive", took, "hash and copy of the same bytes", now_us() - begin);
    smtp_session_free(r.session);
    buf_free(&r.body);
}

static void deliver(void)
{
    double begin = now_us();
    must(bench_deliver(total, buf_slice(&text)), "the client did not send");
    double took = now_us() - begin;
    uint8_t hash[32];
    begin = now_us();
    for (unsigned long i = 0; i < total; i++) {
        crypto_sha256(buf_slice(&text), hash);
        buf_clear(&sink);
        buf_append_slice(&sink, buf_slice(&text));
    }
    tell("deliver", took, "hash and copy of the same bytes", now_us() - begin);
}

/* --- rows --- */

static unsigned rows_of(struct row rows[2], unsigned long i, uint8_t state)
{
    static char address[64];
    uint64_t id = MESSAGE_ID(4, i + 1);
    snprintf(address, sizeof address, "user%lu@d%03lu.example", i, i * 7919 % 500);
    struct slice a = slice_str(address);
    struct row_recipient p = {.id = id,
                              .state = state,
                              .attempts = state != RCPT_QUEUED,
                              .next_ms = NOW + (int64_t)i,
                              .address = a,
                              .domain = slice_of(a.p + a.n - 12, 12)};
    struct row_message m = {.id = id,
                            .received_ms = NOW + (int64_t)i,
                            .size = text.len,
                            .recipients = 1,
                            .sender = SLICE_LIT("sender@app.example"),
                            .origin = SLICE_LIT("client [192.0.2.1]"),
                            .prefix = SLICE_LIT("Received: from client by host with ESMTP\r\n"),
                            .body = buf_slice(&text)};
    memcpy(m.sha256, &id, sizeof id);
    rows[0] = (struct row){.type = ROW_MESSAGE, .message = m};
    rows[1] = (struct row){.type = ROW_RECIPIENT, .recipient = p};
    return 2;
}

static void encode(void)
{
    uint64_t next = 1;
    size_t bytes = 0;
    struct buf rows, head;
    buf_init(&rows, OWN_CAP);
    buf_init(&head, 1 << 20);
    double begin = now_us();
    for (unsigned long i = 0; i < total; i++) {
        struct row r[2];
        if (i % batch_size == 0)
            buf_clear(&rows);
        must(apply_number(&rows, r, rows_of(r, i, RCPT_QUEUED), 4, &next),
             "a batch grew too large");
        if ((i + 1) % batch_size)
            continue;
        struct batch b = {.epoch = 4, .complete = true, .rows = buf_slice(&rows)};
        buf_clear(&head);
        must(batch_encode_head(&head, &b), "no head");
        bytes = rows.len;
    }
    double took = now_us() - begin;
    begin = now_us();
    for (unsigned long i = 0; bytes && i < total / batch_size; i++) {
        buf_clear(&sink);
        buf_append(&sink, rows.data, bytes < rows.len ? bytes : rows.len);
    }
    tell("feed, encode", took, "copy of the same bytes", now_us() - begin);
    buf_free(&rows);
    buf_free(&head);
}

static char *path_of(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/bench-stages-%s", directory, name);
    return path;
}

static void remove_all(const char *name)
{
    static const char *const suffix[] = {"", "-wal", "-shm", ".lock"};
    for (unsigned i = 0; i < 4; i++) {
        char file[4200];
        snprintf(file, sizeof file, "%s%s", path_of(name), suffix[i]);
        unlink(file);
    }
}

static struct store *store_new(const char *name)
{
    char err[300];
    remove_all(name);
    struct store *s = store_sqlite_open(path_of(name), "bench", err, sizeof err);
    must(s != NULL, err);
    return s;
}

/* Plain SQLite, as durable: one table, the same bytes. */
static double raw_insert(void)
{
    sqlite3 *db;
    sqlite3_stmt *st;
    remove_all("raw.db");
    must(
        sqlite3_open(path_of("raw.db"), &db) == SQLITE_OK &&
            sqlite3_exec(db,
                         "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA secure_delete=OFF;"
                         "CREATE TABLE t(id INTEGER PRIMARY KEY,a TEXT,body BLOB)",
                         NULL, NULL, NULL) == SQLITE_OK &&
            sqlite3_prepare_v2(db, "INSERT INTO t VALUES(?1,?2,?3)", -1, &st, NULL) == SQLITE_OK,
        "plain SQLite");
    double begin = now_us();
    for (unsigned long i = 0; i < total; i++) {
        if (i % batch_size == 0)
            sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
        sqlite3_bind_int64(st, 1, (sqlite3_int64)i);
        sqlite3_bind_text(st, 2, "user@d123.example", -1, SQLITE_STATIC);
        sqlite3_bind_blob(st, 3, text.data, (int)text.len, SQLITE_STATIC);
        must(sqlite3_step(st) == SQLITE_DONE, "plain insert");
        sqlite3_reset(st);
        if ((i + 1) % batch_size == 0)
            sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    }
    double took = now_us() - begin;
    sqlite3_finalize(st);
    sqlite3_close(db);
    remove_all("raw.db");
    return took;
}

/* What no store can be faster than: the bytes of a batch written and flushed. */
static double raw_write(void)
{
    int fd = open(path_of("raw"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0, "raw file");
    double begin = now_us();
    for (unsigned long i = 0; i < total; i++) {
        must(write(fd, text.data, text.len) == (ssize_t)text.len, "raw write");
        if ((i + 1) % batch_size == 0)
            must(fdatasync(fd) == 0, "raw flush");
    }
    double took = now_us() - begin;
    close(fd);
    remove_all("raw");
    return took;
}

/* The primary's transactions; each batch goes to the standby's store as well, timed by itself. */
static void both_stores(uint8_t state, const char *own_name, const char *follow_name,
                        struct store *a, struct store *b, double insert_us)
{
    struct own own;
    double took_own = 0, took_follow = 0;
    own_init(&own);
    for (unsigned long i = 0; i < total;) {
        double begin = now_us();
        must(own_begin(&own, a, 4, NOW) == STORE_OK, "own_begin");
        for (unsigned long k = 0; k < batch_size && i < total; k++, i++) {
            struct row r[2];
            rows_of(r, i, state);
            if (state == RCPT_QUEUED)
                must(own_put(&own, &r[0]) == STORE_OK, "own_put");
            must(own_put(&own, &r[1]) == STORE_OK, "own_put");
            if (state != RCPT_QUEUED)
                must(own_finish(&own, r[1].recipient.id) == STORE_OK, "own_finish");
        }
        struct batch x = {.epoch = 4,
                          .first = own.first,
                          .last = own.next - 1,
                          .complete = true,
                          .n_rows = own_count(&own),
                          .rows = buf_slice(&own.rows)};
        must(own_commit(&own, (struct pos){0, 0}) == STORE_OK &&
                 store_sqlite_checkpoint(a) == STORE_OK,
             "own_commit");
        double middle = now_us();
        must(apply_follow(b, &x, NOW) == STORE_OK && store_sqlite_checkpoint(b) == STORE_OK,
             "apply_follow");
        took_own += middle - begin;
        took_follow += now_us() - middle;
    }
    tell(own_name, took_own, "plain SQLite, one insert", insert_us);
    tell(follow_name, took_follow, "plain SQLite, one insert", insert_us);
    own_free(&own);
}

static void store_both(void)
{
    struct store *a = store_new("a.db"), *b = store_new("b.db");
    struct promotion p = {.epoch = 4, .mode = MODE_SOLO, .wall_ms = NOW};
    struct promoted promoted;
    struct store_meta meta;
    double insert_us = raw_insert();
    must(apply_promote(a, &p, &promoted) == STORE_OK, "promote");
    a->ops->get_meta(a, &meta);
    must(apply_adopt(b, (struct pos){0, 0}, &meta.history, (struct pos){0, 0},
                     (struct slice){NULL, 0}) == STORE_OK,
         "adopt");
    both_stores(RCPT_QUEUED, "store, new", "feed, apply new", a, b, insert_us);
    both_stores(RCPT_DELIVERED, "store, outcome", "feed, apply outcome", a, b, insert_us);
    tell("plain SQLite", insert_us, "write and flush of the same bytes", raw_write());
    store_sqlite_close(a);
    store_sqlite_close(b);
    remove_all("a.db");
    remove_all("b.db");
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "bench_stages DIRECTORY MESSAGES BYTES [BATCH]\n");
        return 2;
    }
    directory = argv[1];
    if (argc > 4)
        batch_size = strtoul(argv[4], NULL, 10);
    must(batch_size > 0, "BATCH");
    total = strtoul(argv[2], NULL, 10) / batch_size * batch_size;
    must(total > 0, "MESSAGES must be at least BATCH");
    unsigned long bytes = strtoul(argv[3], NULL, 10);
    buf_init(&text, 16 << 20);
    buf_init(&sink, 32 << 20);
    buf_append_str(&text, "Subject: bench\r\nDate: Fri, 02 Jan 2026 03:04:05 +0000\r\n\r\n");
    while (text.len < bytes)
        buf_append_str(
            &text, "0123456789012345678901234567890123456789012345678901234567890123456789\r\n");
    receive();
    encode();
    store_both();
    deliver();
    buf_free(&text);
    buf_free(&sink);
    return 0;
}
