/* What the storage driver does for a comparison of both copies: digests, rows by pages, and putting
 * a body back that came from the other node (replication/verify.h). */
#include <check.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/queue/store_sqlite.h"
#include "replication/digest.h"
#include "support_storage.h"
#include "support_store.h"

enum { ID = 1 };

static struct rig rig;
static char path[300];

static void set_up(void)
{
    struct store *s = support_store_new();
    snprintf(path, sizeof path, "%s", support_store_path());
    store_sqlite_close(s);
    rig_start(&rig, path);
}

static void tear_down(void)
{
    rig_stop(&rig);
    support_store_free(NULL);
}

static uint64_t add(unsigned seed, unsigned recipients)
{
    uint64_t id = MESSAGE_ID(4, ID);
    rig_promote(&rig, 4);
    rig_add(&rig, 4, id, seed, recipients);
    ck_assert_int_eq(rig_wait(&rig), OP_DURABLE);
    return id;
}

/* As a disk does it: behind the program's back. */
static void rot(uint64_t id)
{
    sqlite3 *db;
    char sql[200];
    snprintf(sql, sizeof sql, "UPDATE message SET body = x'00' || substr(body, 2) WHERE id = %lld",
             (long long)id);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    char *why = NULL;
    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK, "%s", why);
    ck_assert_int_eq(sqlite3_changes(db), 1);
    sqlite3_close(db);
}

static bool body_bad(uint64_t id)
{
    struct store_reply p =
        rig_ask(&rig, (struct store_request){
                          .type = SR_DIGESTS, .first = id - 1, .pos = {.lsn = id}, .limit = 1});
    ck_assert_int_eq(p.err, STORE_OK);
    struct wire_reader r = wire_read(slice_of(p.bytes->data, p.bytes->n));
    struct digest d;
    ck_assert(digest_decode(&r, &d) && d.id == id);
    shared_unref(p.bytes);
    return d.body_bad;
}

static int mend(uint64_t id, struct row theirs)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    ck_assert(row_encode(&b, &theirs));
    struct store_reply p = rig_ask(
        &rig,
        (struct store_request){.type = SR_MEND, .first = id, .bytes = shared_new(buf_slice(&b))});
    buf_free(&b);
    return p.err;
}

START_TEST(test_a_body_is_put_back)
{
    uint64_t id = add(1, 1);
    rot(id);
    ck_assert(body_bad(id));
    struct row theirs = support_message(id, 1, 1), worse = theirs;
    uint8_t bytes[64];
    memcpy(bytes, theirs.message.body.p, theirs.message.body.n);
    bytes[3] ^= 1;
    worse.message.body.p = bytes;
    ck_assert_int_eq(mend(id, worse), STORE_CORRUPT); /* that copy is bad, too */
    ck_assert(body_bad(id));
    ck_assert_int_eq(mend(id, theirs), STORE_OK);
    ck_assert(!body_bad(id));
}
END_TEST

/* A cloned store may have given the id to another message: whole as it is, that one's body must not
 * go to these recipients. */
START_TEST(test_another_messages_body_is_refused)
{
    uint64_t id = add(1, 1);
    rot(id);
    ck_assert_int_eq(mend(id, support_message(id, 2, 1)), STORE_CONFLICT);
    ck_assert_int_eq(mend(id, support_message(id + 1, 1, 1)), STORE_CONFLICT);
    ck_assert(body_bad(id));
    ck_assert_int_eq(mend(id, support_message(id, 1, 1)), STORE_OK);
    ck_assert(!body_bad(id));
}
END_TEST

/* However many recipients there are and however long their replies: all of them come, in pages. */
START_TEST(test_recipients_come_in_pages)
{
    enum { N = 14, LIMIT = 400 };
    uint64_t id = add(1, N);
    uint32_t skip = ROWS_WITHOUT_CHUNKS, seen = 0;
    unsigned pages = 0, messages = 0;
    for (bool more = true; more; pages++) {
        struct store_reply p = rig_ask(
            &rig,
            (struct store_request){.type = SR_ROWS, .first = id, .skip = skip, .limit = LIMIT});
        ck_assert_int_eq(p.err, STORE_OK);
        ck_assert_uint_le(p.bytes->n, 2 * LIMIT);
        struct wire_reader r = wire_read(slice_of(p.bytes->data, p.bytes->n));
        struct row row;
        while (r.n && row_decode(&r, &row)) {
            if (row.type == ROW_MESSAGE)
                messages++;
            else
                ck_assert_uint_eq(row.recipient.index, seen++);
        }
        ck_assert(!r.bad);
        more = p.more;
        skip = (uint32_t)p.first;
        shared_unref(p.bytes);
    }
    ck_assert_uint_eq(seen, N);
    ck_assert_uint_eq(messages, 1);
    ck_assert_uint_gt(pages, 3);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mend");
    TCase *t = tcase_create("mend");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_a_body_is_put_back);
    tcase_add_test(t, test_another_messages_body_is_refused);
    tcase_add_test(t, test_recipients_come_in_pages);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
