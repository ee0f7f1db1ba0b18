/* Rows, batches and histories on the wire: what goes in comes out; what a peer or a disk garbles is
 * refused, never read beyond. */
#include <check.h>
#include <stdlib.h>

#include "node/base/protocol.h"
#include "replication/apply.h"
#include "support_store.h"

static void some_rows(struct row *rows)
{
    rows[0] = support_message(MESSAGE_ID(4, 7), 3, 2);
    rows[0].message.pos = (struct pos){4, 9};
    rows[0].message.born = (struct pos){4, 8};
    rows[0].message.flags = MSG_8BIT | MSG_BOUNCE;
    rows[0].message.parent = 99;
    rows[1] = support_recipient(MESSAGE_ID(4, 7), 1, RCPT_EXPIRED);
    rows[1].recipient.pos = (struct pos){4, 10};
    rows[1].recipient.code = 421;
    rows[1].recipient.reply = SLICE_LIT("4.7.0 later");
    rows[2] =
        (struct row){.type = ROW_CHUNK,
                     .chunk = {.id = 5, .index = 3, .pos = {4, 11}, .data = SLICE_LIT("x\0y")}};
    rows[3] = (struct row){
        .type = ROW_OPSTATE,
        .opstate = {.key = SLICE_LIT("takeover"), .value = SLICE_LIT("off"), .pos = {4, 12}}};
}

START_TEST(test_round_trip)
{
    struct row rows[4], out;
    struct buf one, again;
    some_rows(rows);
    buf_init(&one, 1 << 20);
    buf_init(&again, 1 << 20);
    for (unsigned i = 0; i < 4; i++)
        ck_assert(row_encode(&one, &rows[i]));
    struct wire_reader r = wire_read(buf_slice(&one));
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(row_decode(&r, &out));
        ck_assert_int_eq(out.type, rows[i].type);
        ck_assert(pos_cmp(row_pos(&out), row_pos(&rows[i])) == 0);
        ck_assert(row_encode(&again, &out));
    }
    ck_assert(wire_done(&r));
    ck_assert(slice_eq(buf_slice(&one), buf_slice(&again)));
    buf_free(&one);
    buf_free(&again);
}
END_TEST

START_TEST(test_every_cut_and_flip_is_survived)
{
    struct row rows[4], out;
    some_rows(rows);
    for (unsigned i = 0; i < 4; i++) {
        struct buf b;
        buf_init(&b, 1 << 20);
        ck_assert(row_encode(&b, &rows[i]));
        for (size_t n = 0; n < b.len; n++) {
            uint8_t *exact = malloc(n ? n : 1); /* ASan sees a step beyond */
            memcpy(exact, b.data, n);
            struct wire_reader r = wire_read(slice_of(exact, n));
            ck_assert(!row_decode(&r, &out));
            free(exact);
        }
        for (size_t n = 0; n < b.len; n++)
            for (unsigned bit = 0; bit < 8; bit++) {
                b.data[n] ^= (uint8_t)(1 << bit);
                struct wire_reader r = wire_read(buf_slice(&b));
                row_decode(&r, &out);
                b.data[n] ^= (uint8_t)(1 << bit);
            }
        buf_free(&b);
    }
}
END_TEST

START_TEST(test_batch)
{
    struct row rows[4];
    struct buf encoded, frame;
    uint64_t next = 20;
    some_rows(rows);
    rows[0].message.born = (struct pos){0, 0};
    buf_init(&encoded, 1 << 20);
    buf_init(&frame, 1 << 20);
    ck_assert(apply_number(&encoded, rows, 4, 6, &next));
    ck_assert_uint_eq(next, 24);
    ck_assert(rows[0].message.born.epoch == 6 && rows[0].message.born.lsn == 20);
    struct batch b = {.epoch = 6,
                      .first = 20,
                      .last = 23,
                      .complete = true,
                      .committed = {6, 19},
                      .rows = buf_slice(&encoded),
                      .n_rows = 4},
                 out;
    ck_assert(batch_encode(&frame, &b));
    struct wire_reader r = wire_read(buf_slice(&frame));
    ck_assert(batch_decode(&r, &out) && wire_done(&r));
    ck_assert(out.epoch == 6 && out.first == 20 && out.last == 23 && out.complete &&
              out.committed.lsn == 19 && out.n_rows == 4 && slice_eq(out.rows, b.rows));
    for (size_t n = 0; n < frame.len; n++) {
        r = wire_read(slice_of(frame.data, n));
        ck_assert(!batch_decode(&r, &out));
    }
    buf_free(&encoded);
    buf_free(&frame);
}
END_TEST

/* For a peer of the release before: every row names the form that it reads. */
START_TEST(test_rows_in_an_older_form)
{
    struct row rows[4], out;
    struct buf newest, classed, older;
    some_rows(rows);
    buf_init(&newest, 100000);
    buf_init(&classed, 100000);
    buf_init(&older, 100000);
    for (unsigned i = 0; i < 4; i++) {
        ck_assert(row_encode(&newest, &rows[i]));
        ck_assert(wire_put_u8(&classed, UNMERGED_QUEUED) && row_encode(&classed, &rows[i]));
    }
    ck_assert(rows_recode(&older, buf_slice(&newest), false, PROTOCOL));
    ck_assert(slice_eq(buf_slice(&older), buf_slice(&newest)));
    buf_clear(&older);
    ck_assert(rows_recode(&older, buf_slice(&classed), true, PROTOCOL + 1));
    ck_assert_uint_eq(older.len, classed.len);
    ck_assert(older.data[0] == UNMERGED_QUEUED && older.data[2] == PROTOCOL + 1);
    struct wire_reader r = wire_read(slice_of(older.data + 1, older.len - 1));
    ck_assert(!row_decode(&r, &out)); /* of a release that this one doesn't know */
    buf_clear(&older);
    ck_assert(!rows_recode(&older, slice_of(newest.data, newest.len - 1), false, PROTOCOL));
    buf_free(&newest);
    buf_free(&classed);
    buf_free(&older);
}
END_TEST

START_TEST(test_number_is_all_or_nothing)
{
    struct row rows[4];
    struct buf b;
    uint64_t next = 5;
    some_rows(rows);
    buf_init(&b, 300); /* the first fits */
    ck_assert(!apply_number(&b, rows, 4, 6, &next));
    ck_assert_uint_eq(b.len, 0);
    ck_assert_uint_eq(next, 5);
    buf_free(&b);
}
END_TEST

START_TEST(test_history)
{
    struct history a = {0}, b = {0}, c;
    history_add(&a, (struct history_row){4, MODE_PAIRED, 1});
    history_add(&a, (struct history_row){4, MODE_SOLO, 50});
    history_add(&a, (struct history_row){4, MODE_PAIRED, 80});
    history_add(&a, (struct history_row){4, MODE_SOLO, 70}); /* a take-back given up: incident 5 */
    ck_assert_int_eq(history_mode_at(&a, (struct pos){4, 49}), MODE_PAIRED);
    ck_assert_int_eq(history_mode_at(&a, (struct pos){4, 75}), MODE_SOLO);
    ck_assert_int_eq(history_mode_at(&a, (struct pos){4, 90}), MODE_SOLO);
    ck_assert_int_eq(history_mode_at(&a, (struct pos){5, 90}), MODE_UNKNOWN);
    b = a;
    history_add(&b, (struct history_row){5, MODE_SOLO, 61});
    struct pos shared = history_shared(&a, (struct pos){4, 100}, &b, (struct pos){5, 130});
    ck_assert(shared.epoch == 4 && shared.lsn == 60);
    struct buf e;
    buf_init(&e, 10000);
    ck_assert(history_encode(&e, &b));
    struct wire_reader r = wire_read(buf_slice(&e));
    ck_assert(history_decode(&r, &c) && wire_done(&r));
    ck_assert_uint_eq(c.n, b.n);
    e.data[0] = 0xff;
    r = wire_read(buf_slice(&e));
    ck_assert(!history_decode(&r, &c));
    buf_free(&e);
    for (unsigned i = 0; i < 2 * HISTORY_MAX; i++)
        history_add(&a, (struct history_row){6 + 2 * i, MODE_PAIRED, 1000 + i});
    ck_assert_uint_eq(a.n, HISTORY_MAX);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("row");
    TCase *t = tcase_create("row");
    tcase_add_test(t, test_round_trip);
    tcase_add_test(t, test_every_cut_and_flip_is_survived);
    tcase_add_test(t, test_batch);
    tcase_add_test(t, test_rows_in_an_older_form);
    tcase_add_test(t, test_number_is_all_or_nothing);
    tcase_add_test(t, test_history);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
