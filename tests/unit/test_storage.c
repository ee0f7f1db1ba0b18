/* The storage thread with real threads and a real disk: what it reports as durable is there after
 * SIGKILL; batches come before their commit; operations of another epoch are never numbered. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/queue/store_sqlite.h"
#include "support_storage.h"
#include "support_store.h"

static struct rig rig;
static char dir_path[300];

static void set_up(void)
{
    struct store *s = support_store_new();
    snprintf(dir_path, sizeof dir_path, "%s", support_store_path());
    store_sqlite_close(s);
}

static void tear_down(void)
{
    support_store_free(NULL);
}

START_TEST(test_add_is_durable_and_read_back)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    uint64_t id = MESSAGE_ID(e, 1);
    rig_add(&rig, e, id, 7, 2);
    struct storage_op *op = rig_next(&rig);
    ck_assert_int_eq(op->result, OP_DURABLE);
    ck_assert_uint_eq(op->pos.lsn, rig.durable.lsn);
    ck_assert_uint_eq(op->pos.epoch, e);
    storage_op_free(op);
    struct storage_read *b = rig_get(&rig, (struct storage_read){.type = READ_BODY, .id = id});
    ck_assert_int_eq(b->err, STORE_OK);
    ck_assert(slice_eq(buf_slice(&b->bytes), support_message(id, 7, 2).message.body));
    storage_read_free(b);
    b = rig_get(&rig, (struct storage_read){.type = READ_BODY, .id = id, .offset = 9, .limit = 3});
    ck_assert(
        slice_eq(buf_slice(&b->bytes), slice_of(support_message(id, 7, 2).message.body.p + 9, 3)));
    storage_read_free(b);
    b = rig_get(&rig,
                (struct storage_read){.type = READ_DOMAINS, .due_ms = INT64_MAX, .limit = 10});
    ck_assert_uint_eq(b->n_rows, 1);
    storage_read_free(b);
    struct storage_read due = {.type = READ_DUE, .due_ms = INT64_MAX, .limit = 1};
    due.domain = xstrdup("example.net");
    b = rig_get(&rig, due);
    ck_assert_uint_eq(b->n_rows, 1);
    ck_assert(b->more);
    struct wire_reader w = wire_read(buf_slice(&b->bytes));
    struct row m, p;
    ck_assert(row_decode(&w, &m) && row_decode(&w, &p) && wire_done(&w));
    ck_assert_uint_eq(p.recipient.index, 0);
    due.domain = xstrdup("example.net");
    due.cursor.next_ms = p.recipient.next_ms;
    due.cursor.id = id;
    storage_read_free(b);
    b = rig_get(&rig, due);
    ck_assert_uint_eq(b->n_rows, 1);
    storage_read_free(b);
    due.domain = xstrdup("example.net");
    due.up_to_lsn = 1; /* the recipients are not committed yet */
    b = rig_get(&rig, due);
    ck_assert_uint_eq(b->n_rows, 0);
    storage_read_free(b);
    ck_assert(!rig.order_broken);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_only_the_open_epoch_writes)
{
    rig_start(&rig, dir_path);
    rig_add(&rig, 4, MESSAGE_ID(4, 1), 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    rig_promote(&rig, 4);
    rig_add(&rig, 6, MESSAGE_ID(6, 1), 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    rig_add(&rig, 4, MESSAGE_ID(4, 1), 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    uint64_t rows = rig.n_rows;
    struct pos committed = {4, 1};
    struct store_reply closed =
        rig_ask(&rig, (struct store_request){.type = SR_CLOSE, .epoch = 4, .committed = committed});
    ck_assert_int_eq(closed.err, STORE_OK);
    ck_assert_int_eq(pos_cmp(closed.meta.committed, committed), 0);
    rig_add(&rig, 4, MESSAGE_ID(4, 2), 2, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_NOT_PRIMARY);
    ck_assert_uint_eq(rig.n_rows, rows);
    /* An epoch that was seen is never opened again. */
    ck_assert_int_ne(
        rig_ask(&rig, (struct store_request){.type = SR_PROMOTE, .epoch = 4, .mode = MODE_SOLO})
            .err,
        STORE_OK);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_outcome_finishes_a_message)
{
    uint8_t ms = 9;
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    uint64_t id = MESSAGE_ID(e, 1), bounce = MESSAGE_ID(e, 2);
    rig_add(&rig, e, id, 7, 2);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    struct storage_op *op = rig_op(&rig, OP_OUTCOME, e);
    op->rows[op->n_rows++] = support_recipient(id, 0, RCPT_DELIVERED);
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    ck_assert_int_eq(rig_state(&rig, id, 0, &ms), RCPT_DELIVERED);
    ck_assert_int_eq(ms, MESSAGE_LIVE);
    op = rig_op(&rig, OP_OUTCOME, e);
    op->rows[op->n_rows++] = support_recipient(id, 1, RCPT_FAILED);
    op->rows[op->n_rows] = support_message(bounce, 9, 1);
    op->rows[op->n_rows].message.flags = MSG_BOUNCE;
    op->rows[op->n_rows++].message.parent = id;
    op->rows[op->n_rows++] = support_recipient(bounce, 0, RCPT_QUEUED);
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    ck_assert_int_eq(rig_state(&rig, id, 1, &ms), RCPT_FAILED);
    ck_assert_int_eq(ms, MESSAGE_DONE);
    ck_assert_int_eq(rig_state(&rig, bounce, 0, &ms), RCPT_QUEUED);
    struct storage_read *b =
        rig_get(&rig, (struct storage_read){.type = READ_MESSAGE, .id = bounce});
    struct wire_reader w = wire_read(buf_slice(&b->bytes));
    struct row m;
    ck_assert(row_decode(&w, &m) && slice_eq(m.message.envid, SLICE_LIT("1")));
    storage_read_free(b);
    b = rig_get(&rig, (struct storage_read){.type = READ_BODY, .id = id});
    ck_assert_int_eq(b->err, STORE_NOT_FOUND);
    storage_read_free(b);
    /* What is terminal is never queued again, whatever delivery still thought (invariant 4). */
    op = rig_op(&rig, OP_OUTCOME, e);
    op->rows[op->n_rows++] = support_recipient(id, 1, RCPT_QUEUED);
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    ck_assert_int_eq(rig_state(&rig, id, 1, &ms), RCPT_FAILED);
    rig_stop(&rig);
}
END_TEST

static uint64_t select_all(struct rig *r, uint32_t e, enum select_action action, const char *state)
{
    struct storage_op *op = rig_op(r, OP_SELECT, e);
    op->action = action;
    op->selector.all = true;
    snprintf(op->selector.state, sizeof op->selector.state, "%s", state);
    storage_submit(r->storage, op);
    op = rig_next(r);
    ck_assert_int_eq(op->result, OP_DURABLE);
    uint64_t n = op->n_changed;
    if (action == SELECT_CANCEL)
        ck_assert_uint_gt(op->changed.len, 0);
    storage_op_free(op);
    return n;
}

START_TEST(test_operators_select)
{
    uint8_t ms;
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    for (unsigned i = 0; i < 700; i++) { /* more than one step */
        rig_add(&rig, e, MESSAGE_ID(e, i + 1), i, 2);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    ck_assert_uint_eq(select_all(&rig, e, SELECT_HOLD, ""), 1400);
    ck_assert_uint_eq(select_all(&rig, e, SELECT_HOLD, ""), 0);
    ck_assert_uint_eq(select_all(&rig, e, SELECT_RELEASE, "queued"), 0);
    ck_assert_uint_eq(select_all(&rig, e, SELECT_RELEASE, "held"), 1400);
    struct storage_op *op = rig_op(&rig, OP_SELECT, e);
    op->action = SELECT_CANCEL;
    op->selector.id = MESSAGE_ID(e, 3);
    storage_submit(rig.storage, op);
    op = rig_next(&rig);
    ck_assert_uint_eq(op->n_changed, 2);
    storage_op_free(op);
    ck_assert_int_eq(rig_state(&rig, MESSAGE_ID(e, 3), 1, &ms), RCPT_CANCELLED);
    ck_assert_int_eq(ms, MESSAGE_DONE);
    ck_assert_uint_eq(select_all(&rig, e, SELECT_CANCEL, ""), 1398);
    struct storage_read q = {.type = READ_SUMMARY};
    q.by = xstrdup("domain");
    struct storage_read *b = rig_get(&rig, q);
    ck_assert_int_eq(b->err, STORE_OK);
    ck_assert(slice_eq(buf_slice(&b->bytes), SLICE_LIT("[]")));
    storage_read_free(b);
    rig_stop(&rig);
}
END_TEST

static uint64_t redate(struct rig *r, uint32_t e, uint64_t ahead_ms)
{
    struct storage_op *op = rig_op(r, OP_SELECT, e);
    op->action = SELECT_REDATE;
    op->selector.all = true;
    op->selector.ahead_ms = ahead_ms;
    storage_submit(r->storage, op);
    op = rig_next(r);
    ck_assert_int_eq(op->result, OP_DURABLE);
    uint64_t n = op->n_changed;
    storage_op_free(op);
    return n;
}

/* It was queued while the wall clock was six days ahead; the clock is set right, or the other node,
 * whose clock is, takes over. */
START_TEST(test_mail_put_off_by_a_wrong_clock)
{
    enum { DAY_MS = 86400000, HOUR_MS = 3600000 };
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    rig_add(&rig, e, MESSAGE_ID(e, 1), 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    /* Each of these is found alone, and all of them together. */
    static const struct row_recipient far[] = {
        {.state = RCPT_QUEUED, .domain = {(const uint8_t *)"a.example", 9}},
        {.state = RCPT_QUEUED, .domain = {(const uint8_t *)"z.example", 9}},
        {.state = RCPT_QUARANTINED, .domain = {(const uint8_t *)"m.example", 9}},
        {.state = RCPT_QUARANTINED,
         .held = HELD_OPERATOR,
         .domain = {(const uint8_t *)"m.example", 9}},
        {.state = RCPT_QUEUED,
         .held = HELD_DOUBT,
         .in_doubt = DOUBT_YES,
         .domain = {(const uint8_t *)"m.example", 9}},
    };
    enum { FAR = sizeof far / sizeof *far };
    for (unsigned i = 0; i < 2 * FAR; i++) {
        uint64_t id = MESSAGE_ID(e, i + 2);
        struct storage_op *op = rig_op(&rig, OP_ADD, e);
        op->rows[op->n_rows++] = support_message(id, i, 1);
        op->rows[op->n_rows] = support_recipient(id, 0, far[i % FAR].state);
        struct row_recipient *r = &op->rows[op->n_rows++].recipient;
        r->domain = far[i % FAR].domain;
        r->held = far[i % FAR].held;
        r->in_doubt = far[i % FAR].in_doubt;
        r->next_ms = clock_wall_ms() + (int64_t)6 * DAY_MS;
        storage_submit(rig.storage, op);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
        if (i >= FAR && i < 2 * FAR - 1)
            continue;
        ck_assert_uint_eq(redate(&rig, e, (uint64_t)7 * DAY_MS), 0);
        ck_assert_uint_eq(redate(&rig, e, HOUR_MS), i < FAR ? 1 : FAR);
        ck_assert_uint_eq(redate(&rig, e, HOUR_MS), 0);
    }
    uint8_t ms;
    ck_assert_int_eq(rig_state(&rig, MESSAGE_ID(e, 4), 0, &ms), RCPT_QUARANTINED);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_list_and_summary)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    for (unsigned i = 0; i < 5; i++) {
        rig_add(&rig, e, MESSAGE_ID(e, i + 1), i, 2);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    struct storage_read q = {.type = READ_LIST, .limit = 4};
    unsigned total = 0, pages = 0;
    for (bool more = true; more; pages++) {
        struct storage_read *b = rig_get(&rig, q);
        ck_assert_int_eq(b->err, STORE_OK);
        struct wire_reader w = wire_read(buf_slice(&b->bytes));
        struct row m, p;
        while (w.n) {
            ck_assert(row_decode(&w, &m) && row_decode(&w, &p));
            ck_assert_uint_eq(m.message.id, p.recipient.id);
            q.cursor.id = p.recipient.id;
            q.cursor.index = p.recipient.index;
            total++;
        }
        more = b->more;
        storage_read_free(b);
    }
    ck_assert_uint_eq(total, 10);
    ck_assert_uint_le(pages, 4);
    static const char *const by[] = {"domain", "sender", "campaign", "state", "age"};
    for (unsigned i = 0; i < 5; i++) {
        struct storage_read s = {.type = READ_SUMMARY};
        s.by = xstrdup(by[i]);
        struct storage_read *b = rig_get(&rig, s);
        ck_assert_int_eq(b->err, STORE_OK);
        ck_assert_uint_gt(b->bytes.len, 10);
        storage_read_free(b);
    }
    struct queue_counts c;
    for (unsigned i = 0; i < 300; i++) { /* at most 100 ms old */
        ck_assert(storage_counts(rig.storage, &c));
        if (c.messages == 5)
            break;
        usleep(10000);
    }
    ck_assert_uint_eq(c.messages, 5);
    ck_assert_uint_eq(c.queued, 5);
    ck_assert_int_gt(c.oldest_ms, 0);
    rig_stop(&rig);
}
END_TEST

/* A look that finds nothing to do is over when it is over: the node would take itself for stalled.
 */
START_TEST(test_nothing_to_write_is_no_stall)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    storage_submit(rig.storage, rig_op(&rig, OP_RELEASE_DUE, e));
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    struct batch b = {.epoch = 3, .first = 50, .last = 49, .complete = true};
    struct buf frame;
    buf_init(&frame, 1000);
    ck_assert(batch_encode(&frame, &b));
    rig_ask(&rig,
            (struct store_request){.type = SR_FOLLOW, .bytes = shared_new(buf_slice(&frame))});
    buf_free(&frame);
    rig_ask(&rig, (struct store_request){.type = SR_META});
    usleep(30000);
    struct storage_stats st;
    storage_stats(rig.storage, &st);
    ck_assert_uint_eq(st.stalled_ms, 0);
    rig_stop(&rig);
}
END_TEST

START_TEST(test_opstate_is_told)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    struct storage_op *op = rig_op(&rig, OP_OPSTATE, e);
    op->rows[op->n_rows++] = (struct row){
        .type = ROW_OPSTATE, .opstate = {.key = SLICE_LIT("takeover"), .value = SLICE_LIT("off")}};
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    rig_stop(&rig);
    ck_assert_str_eq(rig.opstate, "takeover=off");
    rig_start(&rig, dir_path);
    ck_assert_str_eq(rig.opstate, "takeover=off");
    rig_stop(&rig);
}
END_TEST

/* The feed: what one store has, read and followed, makes the other the same. */
START_TEST(test_changes_followed_make_a_copy)
{
    char other[400];
    snprintf(other, sizeof other, "%s.copy", dir_path);
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    for (unsigned i = 0; i < 20; i++) {
        rig_add(&rig, e, MESSAGE_ID(e, i + 1), i, 2);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    static struct rig copy;
    rig_start(&copy, other);
    uint64_t at = 0;
    unsigned pieces = 0;
    for (bool more = true; more; pieces++) {
        struct store_reply p =
            rig_ask(&rig, (struct store_request){.type = SR_CHANGES, .first = at, .limit = 2000});
        ck_assert_int_eq(p.err, STORE_OK);
        more = p.more;
        struct batch b;
        struct wire_reader w = wire_read(slice_of(p.bytes->data, p.bytes->n));
        ck_assert(batch_decode(&w, &b));
        ck_assert_int_eq(b.complete, !more);
        at = b.last;
        struct store_reply f =
            rig_ask(&copy, (struct store_request){.type = SR_FOLLOW, .bytes = p.bytes});
        ck_assert_int_eq(f.err, STORE_OK);
        ck_assert_uint_eq(f.meta.end.lsn, more ? 0 : at);
    }
    ck_assert_uint_gt(pieces, 3);
    ck_assert_uint_eq(at, rig.durable.lsn);
    rig_stop(&rig);
    rig_stop(&copy);
    char err[300];
    struct buf x, y;
    struct store *s = store_sqlite_open(dir_path, "test", err, sizeof err);
    struct store *c = store_sqlite_open(other, "test", err, sizeof err);
    support_dump(s, &x, true);
    support_dump(c, &y, true);
    ck_assert(slice_eq(buf_slice(&x), buf_slice(&y)));
    buf_free(&x);
    buf_free(&y);
    store_sqlite_close(s);
    store_sqlite_close(c);
}
END_TEST

/* Of all that is committed. */
static void order_purge(uint32_t e, const char *before_ms)
{
    struct store_request q = {.type = SR_COMMITTED, .epoch = e, .committed = rig.durable};
    storage_request(rig.storage, &q);
    struct storage_op *op = rig_op(&rig, OP_OPSTATE, e);
    op->rows[op->n_rows++] = (struct row){
        .type = ROW_OPSTATE, .opstate = {.key = SLICE_LIT("purge"), .value = slice_str(before_ms)}};
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
}

static bool goes(uint64_t id)
{
    uint8_t ms;
    uint64_t until = clock_boot_ns() + UINT64_C(10000000000);
    while (rig_state(&rig, id, 0, &ms) != -1)
        if (clock_boot_ns() > until)
            return false;
    return true;
}

/* A standby that catches up has read of some messages that they are done, and of others not yet:
 * these stay until it has. */
START_TEST(test_nothing_unread_is_purged)
{
    enum { N = 8 };
    uint8_t ms;
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    for (unsigned i = 1; i <= N; i++) {
        rig_add(&rig, e, MESSAGE_ID(e, i), i, 1);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    for (unsigned i = 1; i <= N; i++) {
        struct storage_op *op = rig_op(&rig, OP_OUTCOME, e);
        op->rows[op->n_rows++] = support_recipient(MESSAGE_ID(e, i), 0, RCPT_DELIVERED);
        storage_submit(rig.storage, op);
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    }
    struct store_request q = {.type = SR_CHANGES, .limit = 600};
    struct store_reply p = rig_ask(&rig, q);
    ck_assert(p.more);
    struct batch b;
    struct wire_reader w = wire_read(slice_of(p.bytes->data, p.bytes->n));
    ck_assert(batch_decode(&w, &b));
    order_purge(e, "8888888888888");
    ck_assert(goes(MESSAGE_ID(e, 1)));
    ck_assert_int_eq(rig_state(&rig, MESSAGE_ID(e, N), 0, &ms), RCPT_DELIVERED);
    struct store_reply m = rig_ask(&rig, (struct store_request){.type = SR_META});
    ck_assert_uint_gt(m.meta.purged, 0);
    ck_assert_uint_le(m.meta.purged, b.last);
    shared_unref(p.bytes);
    q = (struct store_request){.type = SR_CHANGES, .first = b.last, .limit = 1 << 20};
    p = rig_ask(&rig, q);
    ck_assert(!p.more);
    shared_unref(p.bytes);
    order_purge(e, "9999999999999");
    ck_assert(goes(MESSAGE_ID(e, N)));
    /* It has read all that there was, and says so when it doesn't go on by reading. */
    uint64_t next = MESSAGE_ID(e, N + 1);
    rig_add(&rig, e, next, N + 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    struct storage_op *op = rig_op(&rig, OP_OUTCOME, e);
    op->rows[op->n_rows++] = support_recipient(next, 0, RCPT_DELIVERED);
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    order_purge(e, "9999999999999");
    ck_assert_int_eq(rig_ask(&rig, (struct store_request){.type = SR_META}).err, STORE_OK);
    ck_assert_int_eq(rig_state(&rig, next, 0, &ms), RCPT_DELIVERED);
    q = (struct store_request){.type = SR_CHANGES, .limit = 0};
    storage_request(rig.storage, &q);
    for (unsigned i = 0; i < 100 && rig_state(&rig, next, 0, &ms) != -1; i++)
        order_purge(e, "9999999999999");
    ck_assert(goes(next));
    rig_stop(&rig);
}
END_TEST

/* What a store has forgotten, somebody who still has it must not bring back by himself. */
START_TEST(test_what_is_forgotten_is_not_merged)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    uint64_t id = MESSAGE_ID(e, 1);
    rig_add(&rig, e, id, 1, 1);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    uint64_t shared = rig.durable.lsn;
    struct storage_op *op = rig_op(&rig, OP_OUTCOME, e);
    op->rows[op->n_rows++] = support_recipient(id, 0, RCPT_DELIVERED);
    storage_submit(rig.storage, op);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    order_purge(e, "9999999999999");
    ck_assert(goes(id));
    struct buf rows;
    buf_init(&rows, 1 << 20);
    struct row lost = support_message(id, 1, 1);
    ck_assert(wire_put_u8(&rows, UNMERGED_QUEUED) && row_encode(&rows, &lost));
    struct store_request q = {.type = SR_MERGE, .epoch = e, .n_rows = 1};
    q.first = shared;
    q.bytes = shared_new(buf_slice(&rows));
    ck_assert_int_eq(rig_ask(&rig, q).err, STORE_CONFLICT);
    q.first = UINT64_MAX; /* an operator says so */
    q.bytes = shared_new(buf_slice(&rows));
    ck_assert_int_eq(rig_ask(&rig, q).err, STORE_OK);
    buf_free(&rows);
    rig_stop(&rig);
}
END_TEST

/* --- kill -9 --- */

static void child(int fd)
{
    static struct rig r;
    rig_start(&r, dir_path);
    r.fd = fd;
    uint32_t e = rig_promote(&r, 4);
    for (unsigned i = 0, out = 0;; i++) {
        rig_add(&r, e, MESSAGE_ID(e, i + 1), i, 1);
        if (++out >= 50) {
            ck_assert_int_eq(rig_wait(&r), OP_DURABLE);
            out--;
        }
    }
}

static bool last_lsn(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    ++*(uint64_t *)ctx;
    (void)r;
    return true;
}

START_TEST(test_durable_survives_sigkill)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        child(fds[1]);
        _exit(0);
    }
    close(fds[1]);
    uint64_t lsn = 0, n;
    while (lsn < 2000 && read(fds[0], &n, sizeof n) == sizeof n)
        lsn = n;
    ck_assert_uint_ge(lsn, 2000);
    kill(pid, SIGKILL);
    while (read(fds[0], &n, sizeof n) == sizeof n) /* what was said before it died */
        lsn = n;
    waitpid(pid, NULL, 0);
    close(fds[0]);
    char err[300];
    struct store *s = store_sqlite_open(dir_path, "test", err, sizeof err);
    ck_assert_msg(s != NULL, "%s", err);
    struct store_meta m;
    s->ops->get_meta(s, &m);
    ck_assert_uint_ge(m.end.lsn, lsn);
    uint64_t rows = 0;
    ck_assert_int_eq(s->ops->changes_after(s, 0, last_lsn, &rows), STORE_OK);
    ck_assert_uint_eq(rows, m.end.lsn); /* whole transactions, without gaps */
    store_sqlite_close(s);
}
END_TEST

/* --- the log --- */

/* In place of the C library's, also for SQLite. */
static _Atomic unsigned flushes;
int fdatasync(int fd)
{
    flushes++;
    return (int)syscall(SYS_fdatasync, fd);
}

static off_t size_of(const char *suffix)
{
    char path[320];
    struct stat st;
    snprintf(path, sizeof path, "%s%s", dir_path, suffix);
    return stat(path, &st) == 0 ? st.st_size : 0;
}

/* `n` chunks of a message that never comes, one commit each, or until a commit fails. */
static unsigned add_chunks(uint32_t epoch, unsigned n)
{
    static unsigned serial;
    unsigned done = 0;
    for (bool ok = true; ok && done < n; done += ok) {
        struct storage_op *op = rig_op(&rig, OP_ADD, epoch);
        buf_free(&op->memory);
        buf_init(&op->memory, BODY_CHUNK_BYTES);
        ck_assert(buf_reserve(&op->memory, BODY_CHUNK_BYTES));
        memset(op->memory.data, (int)(++serial % 251), BODY_CHUNK_BYTES);
        op->memory.len = BODY_CHUNK_BYTES;
        op->rows[op->n_rows].type = ROW_CHUNK;
        op->rows[op->n_rows++].chunk = (struct row_chunk){
            .id = MESSAGE_ID(epoch, 1), .index = serial, .data = buf_slice(&op->memory)};
        storage_submit(rig.storage, op);
        ok = rig_wait(&rig) == OP_DURABLE;
    }
    return done;
}

enum { MIB = 1 << 20, CHUNKS_A_MIB = MIB / BODY_CHUNK_BYTES };

START_TEST(test_the_log_is_moved)
{
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    unsigned before = flushes;
    add_chunks(e, 40 * CHUNKS_A_MIB);
    struct statvfs v;
    ck_assert_int_eq(statvfs(dir_path, &v), 0);
    bool room = (uint64_t)v.f_bavail * v.f_frsize > 1024ull * MIB;
    ck_assert_int_ge(size_of(""), 32 * MIB - (room ? 0 : 8 * MIB));
    if (room) {
        ck_assert_int_ge(size_of("-wal"), 40 * MIB);
        ck_assert_uint_le(flushes - before, 40 * CHUNKS_A_MIB + 2);
    }
    ck_assert_uint_ge(flushes - before, 40 * CHUNKS_A_MIB); /* the commits' */
    add_chunks(e, 120 * CHUNKS_A_MIB);
    ck_assert_int_ge(size_of(""), 150 * MIB);
    ck_assert_int_le(size_of("-wal"), (room ? 140 : 20) * MIB);
    rig_stop(&rig);
}
END_TEST

/* The commits go well, and the database can't be written: that store has failed all the same. */
START_TEST(test_a_log_that_cannot_be_moved_fails_the_store)
{
    struct rlimit old, small;
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 150 * MIB; /* more than the log ever has */
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    unsigned done = add_chunks(e, 200 * CHUNKS_A_MIB);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_uint_ge(done, 140 * CHUNKS_A_MIB);
    ck_assert_uint_lt(done, 200 * CHUNKS_A_MIB);
    ck_assert_int_eq(rig.failed, STORE_IO);
    ck_assert(store_sqlite_marked(dir_path)); /* and is checked at the next start */
    rig_stop(&rig);
}
END_TEST

START_TEST(test_what_is_committed_splits_no_group)
{
    enum { N = 200 };
    struct storage_stats st;
    rig_start(&rig, dir_path);
    uint32_t e = rig_promote(&rig, 4);
    for (unsigned i = 1; i <= N; i++) {
        rig_add(&rig, e, MESSAGE_ID(e, i), i, 1);
        storage_request(rig.storage, &(struct store_request){
                                         .type = SR_COMMITTED, .epoch = e, .committed = {e, i}});
    }
    for (unsigned i = 0; i < N; i++)
        ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    storage_stats(rig.storage, &st);
    ck_assert_uint_lt(st.commits, N / 2);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("storage");
    TCase *t = tcase_create("storage");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_add_is_durable_and_read_back);
    tcase_add_test(t, test_only_the_open_epoch_writes);
    tcase_add_test(t, test_outcome_finishes_a_message);
    tcase_add_test(t, test_operators_select);
    tcase_add_test(t, test_mail_put_off_by_a_wrong_clock);
    tcase_add_test(t, test_list_and_summary);
    tcase_add_test(t, test_nothing_to_write_is_no_stall);
    tcase_add_test(t, test_opstate_is_told);
    tcase_add_test(t, test_changes_followed_make_a_copy);
    tcase_add_test(t, test_nothing_unread_is_purged);
    tcase_add_test(t, test_what_is_forgotten_is_not_merged);
    tcase_add_test(t, test_durable_survives_sigkill);
    tcase_add_test(t, test_the_log_is_moved);
    tcase_add_test(t, test_a_log_that_cannot_be_moved_fails_the_store);
    tcase_add_test(t, test_what_is_committed_splits_no_group);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
