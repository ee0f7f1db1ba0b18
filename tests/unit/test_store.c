/* The contract of replication/store.h, held against every store there is: the same random
 * operations leave the same rows behind. And what SQLite's store promises beyond it. */
#include <check.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/queue/store_sqlite.h"
#include "support_store.h"
#if __has_include("sim/store_memory.h")
#include "sim/store_memory.h"
#define HAVE_MEMORY 1
#else
#define HAVE_MEMORY 0
#endif

static unsigned seed;
static unsigned rnd(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static struct store *open_memory(void)
{
#if HAVE_MEMORY
    return store_memory_new(&(struct store_id){{1}});
#else
    return support_store_new(); /* compared with itself after reopening */
#endif
}

static void close_memory(struct store *s)
{
#if HAVE_MEMORY
    store_memory_free(s);
#else
    support_store_free(s);
#endif
}

/* A row that depends on the seed only; immutable fields depend on the id. */
static struct row random_row(uint64_t *lsn)
{
    static const char *const keys[] = {"purge", "takeover", "pause/campaign/x", "suppress/a@b"};
    static uint8_t data[300];
    uint64_t id = MESSAGE_ID(2 + rnd(2) * 2, rnd(40));
    struct row r;
    switch (rnd(8)) {
    case 0:
    case 1:
    case 2:
        r = support_message(id, (unsigned)(id % 23), 1 + (uint32_t)(id % 3));
        r.message.born = (struct pos){2, 1 + id % 50};
        if (id % 5 == 0) {
            r.message.chunks = 2;
            r.message.body = (struct slice){NULL, 0};
        }
        if (id % 4 == 0)
            r.message.parent = id - 1;
        if (rnd(3) == 0) {
            r.message.state = MESSAGE_DONE;
            r.message.done_ms = 1000 + rnd(1000);
            r.message.body = (struct slice){NULL, 0};
        }
        break;
    case 3:
    case 4:
    case 5:
        r = support_recipient(id, rnd(3), (uint8_t)rnd(8));
        r.recipient.attempts = rnd(2);
        r.recipient.held = rnd(5) == 0 ? HELD_OPERATOR : 0;
        r.recipient.in_doubt = (uint8_t)(rnd(3) ? 0 : rnd(3));
        if (r.recipient.in_doubt == DOUBT_YES && rnd(2))
            r.recipient.held |= rnd(2) ? HELD_IN_DOUBT : HELD_DOUBT;
        r.recipient.reply = rnd(2) ? SLICE_LIT("250 ok") : (struct slice){NULL, 0};
        break;
    case 6:
        memset(data, (int)rnd(256), sizeof data);
        r = (struct row){.type = ROW_CHUNK,
                         .chunk = {.id = id, .index = rnd(2), .data = {data, rnd(300)}}};
        break;
    default:
        r = (struct row){.type = ROW_OPSTATE,
                         .opstate = {.key = slice_str(keys[rnd(4)]),
                                     .value = rnd(2) ? SLICE_LIT("1234") : SLICE_LIT("")}};
    }
    row_set_pos(&r, (struct pos){2 + rnd(2), (*lsn)++});
    return r;
}

static enum unmerged_class some_class(void *ctx, struct pos pos, struct pos born)
{
    (void)ctx;
    return pos.lsn % 7 == 0 ? UNMERGED_NONE : born.lsn % 2 ? UNMERGED_QUEUED : UNMERGED_QUARANTINE;
}

static bool add_encoded(void *ctx, const struct row *r, enum unmerged_class mark)
{
    return wire_put_u8(ctx, (uint8_t)mark) && row_encode(ctx, r);
}

/* The newest of those that came whole. */
static uint64_t whole_id;

/* A message above all others, with its recipients in order, as they are accepted; at times one of
 * them is missing, and comes last. */
static void put_whole(struct store *s, uint64_t id, uint64_t *lsn)
{
    static const uint8_t orcpt[900] = {'x'};
    uint32_t n = 1 + rnd(40), last = rnd(4) ? n : rnd(n);
    struct row r = support_message(id, (unsigned)(id % 23), n);
    row_set_pos(&r, (struct pos){3, (*lsn)++});
    ck_assert_int_eq(s->ops->put(s, &r, UNMERGED_NONE), STORE_OK);
    bool long_ones = rnd(3) == 0;
    for (uint32_t i = 0; i <= n; i++) {
        uint32_t index = i == n ? last : i;
        if (i == last || index == n)
            continue;
        r = support_recipient(id, index, RCPT_QUEUED);
        if (long_ones)
            r.recipient.orcpt = slice_of(orcpt, sizeof orcpt);
        row_set_pos(&r, (struct pos){3, (*lsn)++});
        ck_assert_int_eq(s->ops->put(s, &r, UNMERGED_NONE), STORE_OK);
    }
}

/* What comes of an attempt; at times an operator's word with it. */
static void put_outcome(struct store *s, uint64_t id, uint32_t index, uint64_t *lsn,
                        struct buf *answers)
{
    struct row key = support_recipient(id, index, RCPT_QUEUED), r;
    enum unmerged_class mark;
    int err = s->ops->get(s, &key, &r, &mark);
    wire_put_u8(answers, (uint8_t)err);
    if (err)
        return;
    add_encoded(answers, &r, mark);
    if (rnd(20) == 0)
        return; /* it was only looked at */
    r.recipient.state = rnd(10) ? RCPT_DELIVERED : RCPT_QUEUED;
    r.recipient.attempts++;
    r.recipient.next_ms = rnd(20) ? 2000 : 3000;
    r.recipient.last_ms = 77;
    r.recipient.code = 250;
    r.recipient.enhanced = SLICE_LIT("2.0.0");
    r.recipient.reply = rnd(20) ? SLICE_LIT("250 taken") : SLICE_LIT("250 you again?");
    r.recipient.remote = SLICE_LIT("192.0.2.1");
    if (rnd(20) == 0)
        r.recipient.held ^= HELD_OPERATOR;
    if (mark != UNMERGED_NONE && rnd(2))
        ck_assert_int_eq(s->ops->unmark(s, &key), STORE_OK);
    row_set_pos(&r, (struct pos){3, (*lsn)++});
    ck_assert_int_eq(s->ops->put(s, &r, rnd(20) ? mark : UNMERGED_QUEUED), STORE_OK);
    if (rnd(20) == 0) { /* looked at once more, or changed once more */
        ck_assert_int_eq(s->ops->get(s, &key, &r, &mark), STORE_OK);
        add_encoded(answers, &r, mark);
    }
}

static void operate(struct store *s, uint64_t *lsn, struct buf *answers);

/* Of one message's recipients, one after the other, as an attempt brings them; at times one is left
 * out, or something comes in between. */
static void put_outcomes(struct store *s, uint64_t id, uint64_t *lsn, struct buf *answers)
{
    uint32_t index = rnd(10), end = index + rnd(40);
    for (; index < end; index++) {
        if (rnd(30) == 0)
            operate(s, lsn, answers);
        if (rnd(30))
            put_outcome(s, id, index, lsn, answers);
    }
}

/* One random operation on s; its answers go to `answers`. */
static void operate(struct store *s, uint64_t *lsn, struct buf *answers)
{
    unsigned what = rnd(26);
    if (what >= 24) {
        put_outcomes(s, whole_id, lsn, answers);
        return;
    }
    if (what >= 22) {
        whole_id = MESSAGE_ID(6, *lsn);
        put_whole(s, whole_id, lsn);
        return;
    }
    if (what >= 20) {
        put_outcome(s, whole_id, rnd(20), lsn, answers);
        return;
    }
    struct row r = random_row(lsn), out;
    enum unmerged_class mark;
    uint64_t id;
    uint32_t total, open;
    bool more = true;
    if (what < 12) {
        bool taken = r.type == ROW_RECIPIENT && rnd(2);
        enum unmerged_class as = taken ? UNMERGED_TAKEN : UNMERGED_QUEUED;
        ck_assert_int_eq(s->ops->put(s, &r, rnd(6) ? UNMERGED_NONE : as), STORE_OK);
    } else if (what < 15) {
        int err = s->ops->get(s, &r, &out, &mark);
        wire_put_u8(answers, (uint8_t)err);
        if (!err)
            add_encoded(answers, &out, mark);
    } else if (what == 15 && r.type == ROW_MESSAGE) {
        ck_assert_int_eq(s->ops->find_twin(s, &r.message, rnd(2) ? 0 : r.message.id, &id), 0);
        wire_put_u64(answers, id);
        ck_assert_int_eq(s->ops->each_bounce(s, r.message.id - 1, add_encoded, answers), 0);
    } else if (what == 16) {
        ck_assert_int_eq(s->ops->unmark(s, &r), STORE_OK);
        ck_assert_int_eq(s->ops->each_noted(s, add_encoded, answers), 0);
    } else if (what == 17 && r.type == ROW_RECIPIENT) {
        ck_assert_int_eq(s->ops->count_recipients(s, r.recipient.id, &total, &open), 0);
        wire_put_u32(answers, total);
        wire_put_u32(answers, open);
        ck_assert_int_eq(s->ops->each_recipient(s, r.recipient.id, add_encoded, answers), 0);
    } else if (what == 18 && rnd(8) == 0) {
        struct pos shared = {2, *lsn > 40 ? *lsn - 40 : 0};
        ck_assert_int_eq(s->ops->mark_unmerged(s, shared, some_class, NULL), STORE_OK);
    } else if (what == 19 && rnd(8) == 0) {
        int64_t before_ms = 1000 + (int64_t)rnd(1000);
        uint64_t below = rnd(3) ? UINT64_MAX : rnd((unsigned)*lsn);
        while (more)
            ck_assert_int_eq(s->ops->purge(s, before_ms, below, 100, &more), STORE_OK);
    }
}

static void run(struct store *s, unsigned round, struct buf *answers)
{
    uint64_t lsn = 1;
    seed = round * 7919 + 1;
    whole_id = MESSAGE_ID(6, 0);
    buf_init(answers, 64 << 20);
    for (unsigned t = 0; t < 40; t++) {
        struct store_meta m;
        s->ops->get_meta(s, &m);
        ck_assert_int_eq(s->ops->begin(s), STORE_OK);
        for (unsigned i = rnd(12); i-- > 0;)
            operate(s, &lsn, answers);
        if (rnd(6) == 0) {
            s->ops->rollback(s);
            continue;
        }
        m.end = (struct pos){3, lsn - 1};
        ck_assert_int_eq(s->ops->set_meta(s, &m), STORE_OK);
        ck_assert_int_eq(s->ops->commit(s), STORE_OK);
    }
    ck_assert_int_eq(s->ops->each_unmerged(s, add_encoded, answers), STORE_OK);
    struct store_meta end;
    s->ops->get_meta(s, &end);
    wire_put_u64(answers, end.purged);
    uint64_t after = lsn / 2;
    ck_assert_int_eq(s->ops->changes_after(s, after, add_encoded, answers), STORE_OK);
}

START_TEST(test_same_operations_same_contents)
{
    for (unsigned round = 0; round < 30; round++) {
        struct buf a1, a2, d1, d2;
        struct store *m = open_memory();
        run(m, round, &a2);
        support_dump(m, &d2, true);
        close_memory(m);
        struct store *s = support_store_new();
        run(s, round, &a1);
        s = support_store_reopen(s);
        support_dump(s, &d1, true);
        support_store_free(s);
        ck_assert_msg(slice_eq(buf_slice(&a1), buf_slice(&a2)), "round %u: answers differ", round);
        ck_assert_msg(slice_eq(buf_slice(&d1), buf_slice(&d2)), "round %u: rows differ", round);
        buf_free(&a1), buf_free(&a2), buf_free(&d1), buf_free(&d2);
    }
}
END_TEST

struct classes {
    uint64_t id[4096];
    unsigned class[4096], n;
};

static bool classify_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct classes *c = ctx;
    (void)mark;
    if (r->type != ROW_RECIPIENT || rcpt_terminal(r->recipient.state))
        return true;
    const struct row_recipient *p = &r->recipient;
    unsigned class = p->held & HELD_OPERATOR        ? CLASS_HELD
                     : p->state == RCPT_QUARANTINED ? CLASS_QUARANTINED
                     : p->in_doubt == DOUBT_YES     ? CLASS_IN_DOUBT
                     : p->attempts                  ? CLASS_DEFERRED
                                                    : CLASS_QUEUED;
    unsigned i = 0;
    while (i < c->n && c->id[i] != p->id)
        i++;
    if (i == c->n) {
        c->id[c->n] = p->id;
        c->class[c->n++] = class;
    } else if (class < c->class[i])
        c->class[i] = class;
    return true;
}

START_TEST(test_counts_are_exact)
{
    for (unsigned round = 0; round < 10; round++) {
        struct store *s = support_store_new();
        struct buf answers;
        run(s, round, &answers);
        buf_free(&answers);
        struct classes *c = xcalloc(1, sizeof *c);
        ck_assert_int_eq(s->ops->changes_after(s, 0, classify_row, c), STORE_OK);
        uint64_t expected[CLASSES] = {0}, counts[CLASSES];
        for (unsigned i = 0; i < c->n; i++)
            expected[c->class[i]]++;
        store_sqlite_counts(s, counts);
        for (unsigned i = 0; i < CLASSES; i++)
            ck_assert_uint_eq(counts[i], expected[i]);
        s = support_store_reopen(s);
        store_sqlite_counts(s, counts);
        for (unsigned i = 0; i < CLASSES; i++)
            ck_assert_uint_eq(counts[i], expected[i]);
        free(c);
        support_store_free(s);
    }
}
END_TEST

START_TEST(test_meta_survives)
{
    struct store *s = support_store_new();
    struct store_meta m, again;
    s->ops->get_meta(s, &m);
    m.end = (struct pos){4, 77};
    m.committed = (struct pos){4, 76};
    m.epoch_seen = 9;
    m.unfit = true;
    m.written_ms = 123;
    m.purged = 55;
    history_add(&m.history, (struct history_row){4, MODE_SOLO, 5});
    ck_assert_int_eq(s->ops->begin(s), STORE_OK);
    ck_assert_int_eq(s->ops->set_meta(s, &m), STORE_OK);
    ck_assert_int_eq(s->ops->commit(s), STORE_OK);
    s = support_store_reopen(s);
    m.purged = 11; /* nobody makes it remember again */
    ck_assert_int_eq(s->ops->begin(s), STORE_OK);
    ck_assert_int_eq(s->ops->set_meta(s, &m), STORE_OK);
    ck_assert_int_eq(s->ops->commit(s), STORE_OK);
    s = support_store_reopen(s);
    s->ops->get_meta(s, &again);
    ck_assert_uint_eq(again.purged, 55);
    ck_assert(store_id_eq(&m.id, &again.id) && pos_cmp(m.end, again.end) == 0 &&
              pos_cmp(m.committed, again.committed) == 0 && again.epoch_seen == 9 && again.unfit &&
              !again.copying && again.written_ms == 123 && again.history.n == 1 &&
              again.history.row[0].first_lsn == 5);
    support_store_free(s);
}
END_TEST

START_TEST(test_refusals_name_the_remedy)
{
    struct store *s = support_store_new();
    char err[300], command[600];
    ck_assert_ptr_null(store_sqlite_open(support_store_path(), "test", err, sizeof err));
    ck_assert_msg(strstr(err, "in use by another process"), "%s", err);
    store_sqlite_close(s);
    ck_assert_ptr_null(store_sqlite_open(support_store_path(), "other", err, sizeof err));
    ck_assert_msg(strstr(err, "belongs to cluster \"test\"") && strstr(err, "correct"), "%s", err);
    snprintf(command, sizeof command, "sqlite3 %s 'PRAGMA user_version=99'", support_store_path());
    if (system(command) == 0) {
        ck_assert_ptr_null(store_sqlite_open(support_store_path(), "test", err, sizeof err));
        ck_assert_msg(strstr(err, "schema version 99") && strstr(err, "install"), "%s", err);
    }
    FILE *f = fopen(support_store_path(), "w");
    for (unsigned i = 0; i < 1000; i++)
        fputs("this is no database ", f);
    fclose(f);
    ck_assert_ptr_null(store_sqlite_open(support_store_path(), "test", err, sizeof err));
    ck_assert_msg(strstr(err, "move it away"), "%s", err);
    ck_assert_ptr_null(store_sqlite_open("/nonexistent/directory/a.db", "test", err, sizeof err));
    ck_assert_msg(strstr(err, "directory must exist"), "%s", err);
    support_store_free(NULL);
}
END_TEST

START_TEST(test_reader_sees_a_snapshot)
{
    struct store *s = support_store_new();
    char err[300];
    support_put(s, support_message(MESSAGE_ID(2, 1), 1, 1), (struct pos){2, 1}, UNMERGED_NONE);
    struct store *r = store_sqlite_open_reader(support_store_path(), err, sizeof err);
    ck_assert_msg(r != NULL, "%s", err);
    struct store_meta m;
    ck_assert_int_eq(r->ops->begin(r), STORE_OK);
    r->ops->get_meta(r, &m);
    ck_assert_uint_eq(m.end.lsn, 1);
    support_put(s, support_message(MESSAGE_ID(2, 2), 2, 1), (struct pos){2, 2}, UNMERGED_NONE);
    struct row row;
    ck_assert(!support_get_message(r, MESSAGE_ID(2, 2), &row));
    r->ops->rollback(r);
    ck_assert_int_eq(r->ops->begin(r), STORE_OK);
    r->ops->get_meta(r, &m);
    ck_assert_uint_eq(m.end.lsn, 2);
    ck_assert(support_get_message(r, MESSAGE_ID(2, 2), &row));
    r->ops->rollback(r);
    store_sqlite_close(r);
    support_store_free(s);
}
END_TEST

static bool count_rows(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)r;
    (void)mark;
    ++*(unsigned *)ctx;
    return true;
}

/* Rows are written later than put() says that it took them: what fails then, for whoever happens to
 * be the next, is no reason to commit the rest. */
START_TEST(test_nothing_is_committed_without_a_row_that_was_taken)
{
    static const char *const triggers[] = {
        "CREATE TRIGGER t BEFORE UPDATE ON recipient BEGIN SELECT RAISE(FAIL,'no'); END",
        "CREATE TRIGGER t BEFORE INSERT ON recipient BEGIN SELECT RAISE(FAIL,'no'); END"};
    for (unsigned i = 0; i < 2; i++) {
        struct store *s = support_store_new();
        struct row key = support_recipient(MESSAGE_ID(2, 1), 0, RCPT_QUEUED), r;
        enum unmerged_class mark;
        sqlite3 *db;
        support_put(s, support_message(MESSAGE_ID(2, 1), 1, 1), (struct pos){2, 1}, UNMERGED_NONE);
        support_put(s, key, (struct pos){2, 2}, UNMERGED_NONE);
        ck_assert_int_eq(sqlite3_open(support_store_path(), &db), SQLITE_OK);
        ck_assert_int_eq(sqlite3_exec(db, triggers[i], NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        uint64_t before[CLASSES], after[CLASSES];
        unsigned n = 0;
        store_sqlite_counts(s, before);
        ck_assert_int_eq(s->ops->begin(s), STORE_OK);
        ck_assert_int_eq(s->ops->get(s, &key, &r, &mark), STORE_OK);
        if (i == 0)
            r.recipient.state = RCPT_DELIVERED;
        else
            r = support_recipient(MESSAGE_ID(2, 3), 0, RCPT_QUEUED);
        row_set_pos(&r, (struct pos){2, 3});
        ck_assert_int_eq(s->ops->put(s, &r, UNMERGED_NONE), STORE_OK);
        ck_assert_int_ne(s->ops->each_recipient(s, key.recipient.id, count_rows, &n), STORE_OK);
        ck_assert_uint_eq(n, 0);
        ck_assert_int_ne(s->ops->commit(s), STORE_OK);
        store_sqlite_counts(s, after);
        ck_assert_mem_eq(before, after, sizeof before);
        ck_assert_int_eq(s->ops->begin(s), STORE_OK);
        ck_assert_int_eq(s->ops->get(s, &key, &r, &mark), STORE_OK);
        ck_assert_int_eq(r.recipient.state, RCPT_QUEUED);
        ck_assert_int_eq(s->ops->commit(s), STORE_OK);
        support_store_free(s);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_same_operations_same_contents);
    tcase_add_test(t, test_counts_are_exact);
    tcase_add_test(t, test_meta_survives);
    tcase_add_test(t, test_refusals_name_the_remedy);
    tcase_add_test(t, test_reader_sees_a_snapshot);
    tcase_add_test(t, test_nothing_is_committed_without_a_row_that_was_taken);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
