/* The relay's queue: an operation ends when its watermark has passed it, in order, and not before;
 * at the end of the epoch what waits is undecided, and what was never numbered is refused. */
#include <check.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "node/base/sum_xxhash.h"
#include "node/queue/queue_uv.h"
#include "node/queue/store_sqlite.h"
#include "support_store.h"

enum { WAIT_MS = 20000 };

static uv_loop_t loop;
static struct config config;
static struct storage *storage;
static struct queue *queue;
static _Atomic uint64_t durable, merged;
static _Atomic bool replied;
static _Atomic int reply_err;
static int outcomes[64];
static unsigned order[64], n_done, n_fresh, n_scans;
static uint64_t fresh_ids[64];

static void on_batch(void *ctx, const struct own_batch *b)
{
    (void)ctx;
    (void)b;
}
static void on_merged(void *ctx, struct pos end)
{
    (void)ctx;
    merged = end.lsn;
}

static void on_durable(void *ctx, struct pos end)
{
    (void)ctx;
    durable = end.lsn;
}
static void on_reply(void *ctx, const struct store_reply *r)
{
    (void)ctx;
    reply_err = r->err;
    replied = true;
}
static void on_changed(void *ctx, const struct store_meta *m)
{
    (void)ctx;
    (void)m;
}
static void on_failed(void *ctx, int err, const char *why)
{
    (void)ctx;
    ck_abort_msg("storage failed: %d %s", err, why);
}
static void on_opstate(void *ctx, struct slice key, struct slice value)
{
    (void)ctx;
    (void)key;
    (void)value;
}

static void wake(uv_timer_t *t)
{
    (void)t;
}

#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        uint64_t start_ = uv_hrtime();                                                             \
        while (!(condition)) {                                                                     \
            ck_assert_msg(uv_hrtime() - start_ < (uint64_t)WAIT_MS * 1000000, "%s", #condition);   \
            uv_run(&loop, UV_RUN_ONCE);                                                            \
        }                                                                                          \
    } while (0)

static uv_timer_t ticker;

static void request(enum store_request_type type, uint32_t epoch)
{
    replied = false;
    storage_request(storage,
                    &(struct store_request){.type = type, .epoch = epoch, .mode = MODE_SOLO});
    UNTIL(replied);
    ck_assert_int_eq(reply_err, STORE_OK);
}

static void on_fresh(void *ctx, struct queued *q)
{
    (void)ctx;
    ck_assert_uint_eq(q->n_rcpts, 1);
    ck_assert_uint_gt(q->message.body.n, 0);
    ck_assert_uint_eq(q->body_sum, sum_bytes(q->message.body));
    ck_assert_uint_eq(q->rcpts[0].id, q->message.id);
    fresh_ids[n_fresh++] = q->message.id;
    queued_free(q);
}

static void on_scan(void *ctx)
{
    (void)ctx;
    n_scans++;
}

static unsigned outcome_delay_ms = 2;

static void set_up(void)
{
    char err[300];
    bool virgin;
    struct store_meta meta;
    struct store *s = support_store_new();
    store_sqlite_close(s);
    uv_loop_init(&loop);
    uv_timer_init(&loop, &ticker);
    uv_timer_start(&ticker, wake, 5, 5);
    config.store = xstrdup(support_store_path());
    config.cluster = xstrdup("test");
    config.queue.outcome_delay_ms = outcome_delay_ms;
    config.queue.quarantine_ms = 1;
    storage = storage_open(&config, &meta, &virgin, err, sizeof err);
    ck_assert_msg(storage && virgin, "%s", err);
    struct storage_hooks h = {NULL,       on_batch,  on_durable, on_reply,
                              on_changed, on_failed, on_opstate, on_merged};
    storage_start(storage, &h);
    queue = queue_new(&loop, storage, NULL, &config);
    queue_on_new(queue, on_fresh, NULL);
    queue_on_scan(queue, on_scan, NULL);
}

static void set_up_patient(void)
{
    outcome_delay_ms = 60000;
    set_up();
}

static void tear_down(void)
{
    storage_stop(storage);
    uv_run(&loop, UV_RUN_NOWAIT); /* what it answered at last is the queue's to free */
    queue_close(queue);
    uv_close((uv_handle_t *)&ticker, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    free(config.store);
    free(config.cluster);
    support_store_free(NULL);
}

static void on_done(void *ctx, enum queue_outcome outcome, uint64_t n_changed)
{
    (void)n_changed;
    unsigned i = (unsigned)(uintptr_t)ctx;
    outcomes[i] = (int)outcome;
    order[n_done++] = i;
}

static uint64_t add(unsigned i)
{
    uint64_t id = queue_next_id(queue);
    struct row m = support_message(id, i, 1), p = support_recipient(id, 0, RCPT_QUEUED);
    struct buf body;
    buf_init(&body, BODY_INLINE_MAX);
    buf_append_slice(&body, m.message.body);
    m.message.body = slice_of(NULL, 0);
    queue_add(queue, &m.message, &p.recipient, 1, &body, sum_bytes(buf_slice(&body)), on_done,
              (void *)(uintptr_t)i);
    ck_assert_ptr_null(body.data);
    return id;
}

static void deliver(uint64_t id, unsigned i)
{
    struct row p = support_recipient(id, 0, RCPT_DELIVERED);
    queue_outcome(queue, &p.recipient, 1, NULL, NULL, on_done, (void *)(uintptr_t)i);
}

static void serve(uint32_t epoch)
{
    request(SR_PROMOTE, epoch);
    queue_serve(queue, epoch);
}

START_TEST(test_done_waits_for_the_watermark)
{
    serve(4);
    ck_assert_uint_ge(n_scans, 1);
    for (unsigned i = 0; i < 4; i++)
        add(i);
    UNTIL(durable == 8);
    for (unsigned i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_uint_eq(n_done, 0); /* durable here is not committed */
    queue_watermark(queue, 3, 100, 100);
    ck_assert_uint_eq(n_done, 0); /* of another epoch */
    queue_watermark(queue, 4, 3, 3);
    UNTIL(n_done == 1);
    ck_assert_uint_eq(n_fresh, 1);
    queue_watermark(queue, 4, 8, 8);
    UNTIL(n_done == 4);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_uint_eq(order[i], i);
        ck_assert_int_eq(outcomes[i], QUEUE_OK);
    }
    ck_assert_uint_eq(n_fresh, 4);
    struct queue_stats s;
    queue_stats(queue, &s);
    ck_assert_uint_eq(s.accepted_total, 4);
    ck_assert_uint_eq(s.waiting_commit, 0);
    ck_assert_uint_eq(s.waiting_bytes, 0);
}
END_TEST

START_TEST(test_outcomes_wait_until_settled)
{
    serve(4);
    uint64_t id = add(0);
    queue_watermark(queue, 4, 2, 2);
    UNTIL(n_done == 1);
    deliver(id, 1);
    UNTIL(durable == 4); /* recipient and tombstone */
    queue_watermark(queue, 4, 4, 2);
    for (unsigned i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_uint_eq(n_done, 1);
    queue_watermark(queue, 4, 4, 4);
    UNTIL(n_done == 2);
    ck_assert_int_eq(outcomes[1], QUEUE_OK);
}
END_TEST

START_TEST(test_an_outcome_goes_with_an_addition)
{
    serve(4);
    uint64_t id = add(0);
    queue_watermark(queue, 4, 2, 2);
    UNTIL(n_done == 1);
    deliver(id, 1);
    for (unsigned i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert_uint_eq(durable, 2); /* it would wait for a minute */
    add(2);
    UNTIL(durable == 6);
    queue_watermark(queue, 4, 6, 6);
    UNTIL(n_done == 3);
    ck_assert_int_eq(outcomes[1], QUEUE_OK);
}
END_TEST

START_TEST(test_end_of_the_epoch)
{
    serve(4);
    uint64_t id = add(0);
    UNTIL(durable == 2);
    for (unsigned i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_ONCE);
    deliver(id, 1); /* still waits to share a transaction */
    queue_epoch_over(queue);
    ck_assert_uint_eq(n_done, 2);
    ck_assert_int_eq(outcomes[0], QUEUE_UNDECIDED);
    ck_assert_int_eq(outcomes[1], QUEUE_UNDECIDED);
    ck_assert_uint_eq(n_fresh, 0);
    request(SR_CLOSE, 4);
    add(2);
    UNTIL(n_done == 3);
    ck_assert_int_eq(outcomes[2], QUEUE_NOT_PRIMARY);
    /* The next epoch doesn't release what an old one left. */
    serve(6);
    id = add(3);
    ck_assert_uint_eq(MESSAGE_EPOCH(id), 6);
    queue_watermark(queue, 6, 4, 4);
    UNTIL(n_done == 4);
    ck_assert_int_eq(outcomes[3], QUEUE_OK);
}
END_TEST

START_TEST(test_storage_tells_what_was_merged)
{
    serve(4);
    struct row row = {
        .type = ROW_OPSTATE,
        .opstate = {.key = SLICE_LIT("pause/campaign/c"), .value = SLICE_LIT("on"), .pos = {2, 1}}};
    struct buf b;
    buf_init(&b, 4096);
    ck_assert(wire_put_u8(&b, UNMERGED_QUEUED) && row_encode(&b, &row));
    replied = false;
    merged = 0;
    storage_request(storage, &(struct store_request){.type = SR_MERGE,
                                                     .epoch = 4,
                                                     .bytes = shared_new(buf_slice(&b)),
                                                     .n_rows = 1});
    UNTIL(replied);
    buf_free(&b);
    ck_assert_int_eq(reply_err, STORE_OK);
    ck_assert_uint_gt(merged, 0);
    ck_assert_uint_eq(merged, durable);
}
END_TEST

/* What a rejoining node brought is looked at as soon as it is committed, not a minute later. */
START_TEST(test_what_was_merged_is_looked_at)
{
    serve(4);
    add(0);
    UNTIL(durable == 2);
    queue_watermark(queue, 4, 5, 5);
    UNTIL(n_done == 1); /* nothing of before this epoch is left to look for */
    unsigned before = n_scans;
    queue_merged(queue, (struct pos){2, 9}); /* of another epoch */
    queue_merged(queue, (struct pos){4, 9});
    queue_watermark(queue, 4, 8, 8);
    ck_assert_uint_eq(n_scans, before);
    queue_watermark(queue, 4, 9, 8);
    ck_assert_uint_eq(n_scans, before + 1);
    queue_watermark(queue, 4, 12, 12);
    ck_assert_uint_eq(n_scans, before + 1);
    queue_merged(queue, (struct pos){4, 11});
    ck_assert_uint_eq(n_scans, before + 2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("queue");
    TCase *t = tcase_create("queue");
    tcase_set_timeout(t, 90);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_done_waits_for_the_watermark);
    tcase_add_test(t, test_outcomes_wait_until_settled);
    tcase_add_test(t, test_end_of_the_epoch);
    tcase_add_test(t, test_storage_tells_what_was_merged);
    tcase_add_test(t, test_what_was_merged_is_looked_at);
    suite_add_tcase(s, t);
    t = tcase_create("patient");
    tcase_set_timeout(t, 90);
    tcase_add_checked_fixture(t, set_up_patient, tear_down);
    tcase_add_test(t, test_an_outcome_goes_with_an_addition);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
