/* Group commit beside a slow flush (node/queue/group_uv.c): work goes on while the disk flushes,
 * and nobody is answered before the flush of what he asked for. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/queue/store_sqlite.h"
#include "support_storage.h"
#include "support_store.h"

enum { EPOCH = 4, SLOW_MS = 20 };

/* In place of the C library's: a disk that is slow, that hangs while it is held, that fails. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool slow, held, hangs, fails;
    bool instant; /* it only says that it flushed */
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

int fdatasync(int fd)
{
    pthread_mutex_lock(&disk.lock);
    disk.hangs = disk.held;
    pthread_cond_broadcast(&disk.wake);
    while (disk.held)
        pthread_cond_wait(&disk.wake, &disk.lock);
    disk.hangs = false;
    bool slow = disk.slow, fails = disk.fails, instant = disk.instant;
    pthread_mutex_unlock(&disk.lock);
    if (slow)
        usleep(SLOW_MS * 1000);
    if (fails)
        errno = EIO;
    return fails ? -1 : instant ? 0 : (int)syscall(SYS_fdatasync, fd);
}

static void hold_disk(bool held)
{
    pthread_mutex_lock(&disk.lock);
    disk.held = held;
    pthread_cond_broadcast(&disk.wake);
    pthread_mutex_unlock(&disk.lock);
}

static void wait_for_flush(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&disk.lock);
    while (!disk.hangs)
        ck_assert_int_eq(pthread_cond_timedwait(&disk.wake, &disk.lock, &until), 0);
    pthread_mutex_unlock(&disk.lock);
}

static struct rig rig;
static char dir_path[300];
static uint64_t n_added;

static void set_up(void)
{
    struct store *s = support_store_new();
    snprintf(dir_path, sizeof dir_path, "%s", support_store_path());
    store_sqlite_close(s);
    n_added = 0;
    disk.slow = true; /* a quick one's flushes aren't handed over */
}

static void tear_down(void)
{
    disk.slow = disk.fails = disk.instant = false;
    hold_disk(false);
    support_store_free(NULL);
}

static struct storage_op *add(void)
{
    n_added++;
    return rig_add(&rig, EPOCH, MESSAGE_ID(EPOCH, n_added), (unsigned)n_added, 1);
}

static void start_primary(void)
{
    rig_start(&rig, dir_path);
    rig_promote(&rig, EPOCH);
    for (int i = 0; i < 2; i++) {
        add();
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
}

/* Answered on the spot, behind all that was submitted before: the storage thread is at work. */
static void is_at_work(struct rig *r)
{
    rig_add(r, EPOCH + 8, MESSAGE_ID(EPOCH + 8, 1), 1, 1);
    ck_assert_int_eq(rig_wait(r), OP_NOT_PRIMARY);
}

static struct pos batched(void)
{
    pthread_mutex_lock(&rig.lock);
    struct pos p = rig.batched;
    pthread_mutex_unlock(&rig.lock);
    return p;
}

static struct store_reply next_reply(struct rig *r)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&r->lock);
    while (r->taken == r->n_replies)
        ck_assert_int_eq(pthread_cond_timedwait(&r->wake, &r->lock, &until), 0);
    struct store_reply p = r->replies[r->taken++];
    pthread_mutex_unlock(&r->lock);
    return p;
}

/* Nothing is under way: its clock doesn't run on. */
static void is_quiet(void)
{
    uint64_t until = clock_boot_ns() + UINT64_C(20000000000);
    while (storage_stalled_ms(rig.storage))
        ck_assert_uint_lt(clock_boot_ns(), until);
    usleep(2000); /* what began by now would show */
    ck_assert_uint_eq(storage_stalled_ms(rig.storage), 0);
}

START_TEST(test_the_next_group_is_put_together_meanwhile)
{
    struct storage_stats before, st;
    start_primary();
    storage_stats(rig.storage, &before);
    hold_disk(true);
    struct storage_op *first = add();
    wait_for_flush();
    struct pos told = batched();
    struct storage_op *rest[] = {add(), add(), add()};
    is_at_work(&rig);
    ck_assert_uint_eq(rig.n_back, 0);
    ck_assert_uint_lt(rig.durable.lsn, told.lsn);
    ck_assert_int_eq(pos_cmp(batched(), told), 0); /* theirs waits for the flush */
    hold_disk(false);
    struct storage_op *op = rig_next(&rig);
    ck_assert_ptr_eq(op, first);
    ck_assert_int_eq(op->result, OP_DURABLE);
    ck_assert_int_eq(pos_cmp(op->pos, told), 0);
    storage_op_free(op);
    for (int i = 0; i < 3; i++) {
        op = rig_next(&rig);
        ck_assert_ptr_eq(op, rest[i]);
        ck_assert_int_eq(op->result, OP_DURABLE);
        storage_op_free(op);
    }
    storage_stats(rig.storage, &st);
    ck_assert_uint_eq(st.commits, before.commits + 2);
    ck_assert(!rig.order_broken);
    rig_stop(&rig);
}
END_TEST

/* Not by the storage thread, which may be at work, or wait for a processor. */
START_TEST(test_who_flushed_it_answers)
{
    start_primary();
    ck_assert(!pthread_equal(rig.durable_by, rig.batched_by));
    disk.slow = false;
    disk.instant = true;
    uint64_t until = clock_boot_ns() + UINT64_C(20000000000);
    do { /* until the disk passes for a quick one */
        add();
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
        ck_assert_uint_lt(clock_boot_ns(), until);
    } while (!pthread_equal(rig.durable_by, rig.batched_by));
    ck_assert(!rig.order_broken);
    rig_stop(&rig);
}
END_TEST

/* Without another node nothing is handed over; its fate is as unknown. */
START_TEST(test_a_flush_that_fails_without_another_node)
{
    rig_start_alone(&rig, dir_path);
    rig_promote(&rig, EPOCH);
    for (int i = 0; i < 2; i++) {
        add();
        struct storage_op *op = rig_next(&rig);
        ck_assert_int_eq(op->result, OP_DURABLE);
        ck_assert_int_eq(pos_cmp(op->pos, rig.durable), 0);
        storage_op_free(op);
    }
    hold_disk(true);
    add();
    wait_for_flush();
    add();
    is_at_work(&rig);
    disk.fails = true;
    hold_disk(false);
    ck_assert_int_eq(rig_wait(&rig), OP_FAILED);
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    rig_stop(&rig);
}
END_TEST

/* Nobody knows what of it is on the disk. What was to follow was told to nobody. */
START_TEST(test_a_flush_that_fails)
{
    start_primary();
    hold_disk(true);
    struct storage_op *first = add();
    wait_for_flush();
    struct pos told = batched();
    struct storage_op *second = add();
    is_at_work(&rig);
    disk.fails = true;
    hold_disk(false);
    struct storage_op *op = rig_next(&rig);
    ck_assert_ptr_eq(op, first);
    ck_assert_int_eq(op->result, OP_FAILED);
    storage_op_free(op);
    op = rig_next(&rig);
    ck_assert_ptr_eq(op, second);
    ck_assert_int_eq(op->result, OP_NOT_PRIMARY);
    storage_op_free(op);
    ck_assert_int_eq(rig.failed, STORE_IO);
    ck_assert_int_eq(pos_cmp(batched(), told), 0);
    ck_assert_uint_lt(rig.durable.lsn, told.lsn);
    ck_assert(store_sqlite_marked(dir_path));
    add();
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    storage_request(rig.storage, &(struct store_request){.type = SR_CLOSE, .epoch = EPOCH});
    next_reply(&rig);
    is_quiet(); /* it waits for an operator, and isn't hung */
    rig_stop(&rig);
}
END_TEST

/* One group is flushed, another open; the disk is held. */
static void start_two(void)
{
    start_primary();
    hold_disk(true);
    add();
    wait_for_flush();
    add();
    is_at_work(&rig);
}

/* Other requests find everything before them on the disk. */
START_TEST(test_a_request_waits_for_what_is_before_it)
{
    start_two();
    storage_request(rig.storage, &(struct store_request){.type = SR_META});
    uint64_t until = clock_boot_ns() + UINT64_C(20000000000);
    while (storage_stalled_ms(rig.storage) < 30) /* the disk's fault is seen meanwhile */
        ck_assert_uint_lt(clock_boot_ns(), until);
    ck_assert_uint_eq(rig.n_replies, 0);
    hold_disk(false);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    struct storage_op *op = rig_next(&rig);
    ck_assert_int_eq(op->result, OP_DURABLE);
    struct store_reply p = next_reply(&rig);
    ck_assert_uint_eq(p.meta.end.lsn, op->pos.lsn);
    is_quiet();
    storage_op_free(op);
    rig_stop(&rig);
}
END_TEST

/* A primary that gives up its role hands nothing over any more: what it refuses is sent elsewhere,
 * what it commits alone may wait in quarantine. */
START_TEST(test_closing_refuses_what_is_open)
{
    start_two();
    struct pos told = batched();
    storage_request(rig.storage, &(struct store_request){.type = SR_CLOSE, .epoch = EPOCH});
    hold_disk(false);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    struct store_reply p = next_reply(&rig);
    ck_assert_int_eq(p.type, SR_CLOSE);
    ck_assert_int_eq(p.err, STORE_OK);
    ck_assert_int_eq(pos_cmp(p.meta.end, told), 0);
    ck_assert_int_eq(pos_cmp(batched(), told), 0);
    ck_assert_int_eq(rig.failed, 0);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_a_stop_waits_for_the_flush)
{
    start_primary();
    for (int i = 0; i < 20; i++)
        add();
    storage_stop(rig.storage);
    rig.storage = NULL;
    for (int i = 0; i < 20; i++) { /* durable or refused, none in between */
        struct storage_op *op = rig_next(&rig);
        bool is = op->result == OP_DURABLE;
        ck_assert(is ? pos_cmp(op->pos, rig.durable) <= 0 : op->result == OP_NOT_PRIMARY);
        storage_op_free(op);
    }
    ck_assert_int_eq(pos_cmp(rig.durable, rig.batched), 0);
    rig_stop(&rig);
}
END_TEST

/* --- the standby --- */

enum { PIECES = 6 };
static struct shared *pieces[PIECES];
static struct pos followed; /* as the standby said last */
static struct rig copy;

/* What a primary has, in pieces, and a standby that has followed all but its last two changes. */
static void start_standby(void)
{
    char other[400];
    snprintf(other, sizeof other, "%s.copy", dir_path);
    start_primary();
    for (int i = 0; i < 8; i++) {
        add();
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    rig_start(&copy, other);
    uint64_t at = 0;
    for (int i = 0; i < PIECES; i++) {
        if (i >= PIECES - 2) {
            add();
            ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
        }
        struct store_request q = {
            .type = SR_CHANGES, .first = at, .limit = i < PIECES - 3 ? 1200 : 1 << 20};
        struct store_reply p = rig_ask(&rig, q);
        struct batch b;
        struct wire_reader w = wire_read(slice_of(p.bytes->data, p.bytes->n));
        ck_assert(batch_decode(&w, &b));
        at = b.last;
        pieces[i] = p.bytes;
        if (i >= PIECES - 2)
            continue;
        p = rig_ask(&copy, (struct store_request){.type = SR_FOLLOW, .bytes = p.bytes});
        ck_assert_int_eq(p.err, STORE_OK);
        followed = p.meta.end;
    }
    ck_assert_uint_gt(followed.lsn, 0);
}

static void follow(int i)
{
    storage_request(
        copy.storage,
        &(struct store_request){.type = SR_FOLLOW, .bytes = pieces[i], .cookie = (uint64_t)i});
}

/* Both sent, the second while the first is flushed; the disk is held. */
static void follow_two(void)
{
    hold_disk(true);
    follow(PIECES - 2);
    wait_for_flush();
    follow(PIECES - 1);
    is_at_work(&copy);
    pthread_mutex_lock(&copy.lock);
    ck_assert_uint_eq(copy.n_replies, 0); /* no acknowledgement */
    pthread_mutex_unlock(&copy.lock);
}

START_TEST(test_a_standby_answers_behind_its_flush)
{
    start_standby();
    follow_two();
    hold_disk(false);
    for (int i = PIECES - 2; i < PIECES; i++) {
        struct store_reply p = next_reply(&copy);
        ck_assert_int_eq(p.err, STORE_OK);
        ck_assert_uint_eq(p.cookie, (uint64_t)i);
    }
    rig_stop(&rig);
    rig_stop(&copy);
}
END_TEST

START_TEST(test_a_standby_whose_flush_fails)
{
    start_standby();
    follow_two();
    disk.fails = true;
    hold_disk(false);
    for (int i = PIECES - 2; i < PIECES; i++) {
        struct store_reply p = next_reply(&copy);
        ck_assert_int_eq(p.err, STORE_IO);
        ck_assert_uint_eq(p.cookie, (uint64_t)i);
        ck_assert_int_eq(pos_cmp(p.meta.end, followed), 0); /* no word of what isn't on the disk */
    }
    ck_assert_int_eq(copy.failed, STORE_IO);
    disk.fails = false;
    rig_stop(&rig);
    rig_stop(&copy);
}
END_TEST

/* One that doesn't fit spoils its group: the others in it are taken, one by one. */
START_TEST(test_one_batch_is_refused)
{
    start_standby();
    struct batch gap = {.epoch = EPOCH, .first = 1000, .last = 1000, .complete = true};
    struct buf b;
    buf_init(&b, 1 << 16);
    ck_assert(batch_encode(&b, &gap));
    hold_disk(true);
    follow(PIECES - 2);
    wait_for_flush();
    follow(PIECES - 1);
    storage_request(copy.storage, &(struct store_request){.type = SR_FOLLOW,
                                                          .bytes = shared_new(buf_slice(&b)),
                                                          .cookie = 98});
    buf_free(&b);
    static uint8_t broken[3];
    storage_request(copy.storage, &(struct store_request){.type = SR_FOLLOW,
                                                          .bytes = shared_new(slice_of(broken, 3)),
                                                          .cookie = 99});
    hold_disk(false);
    ck_assert_int_eq(next_reply(&copy).err, STORE_OK);
    ck_assert_int_eq(next_reply(&copy).err, STORE_OK);
    struct store_reply p = next_reply(&copy);
    ck_assert_uint_eq(p.cookie, 98);
    ck_assert_int_eq(p.err, STORE_CONFLICT);
    p = next_reply(&copy);
    ck_assert_uint_eq(p.cookie, 99);
    ck_assert_int_eq(p.err, STORE_CORRUPT);
    ck_assert_int_eq(copy.failed, 0);
    rig_stop(&rig);
    rig_stop(&copy);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("group");
    TCase *t = tcase_create("group");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_the_next_group_is_put_together_meanwhile);
    tcase_add_test(t, test_a_flush_that_fails);
    tcase_add_test(t, test_who_flushed_it_answers);
    tcase_add_test(t, test_a_flush_that_fails_without_another_node);
    tcase_add_test(t, test_a_request_waits_for_what_is_before_it);
    tcase_add_test(t, test_closing_refuses_what_is_open);
    tcase_add_test(t, test_a_stop_waits_for_the_flush);
    tcase_add_test(t, test_a_standby_answers_behind_its_flush);
    tcase_add_test(t, test_a_standby_whose_flush_fails);
    tcase_add_test(t, test_one_batch_is_refused);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
