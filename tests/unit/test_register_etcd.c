/* Transcripts of the core that keeps the record in etcd: which request goes where, what answers
 * mean, and the incidents that broke earlier drafts (1, 11, 25). */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/register_etcd.h"

#define MS(n) ((uint64_t)(n)*1000000u)

static const char *const names[] = {"one", "two"};

static struct world {
    struct register_etcd *reg;
    uint64_t now;
    /* the newest request, and copies of what it points to */
    struct register_etcd_fx request;
    uint8_t expect[ETCD_VALUE_BYTES_MAX], value[ETCD_VALUE_BYTES_MAX];
    unsigned requests, cancels;
    bool pending, writing, dead_disk, may_give_back;
    unsigned asked_for_leave;
    struct voter_state disk;
    struct pair_event result, hint, behind, seen;
    unsigned results, hints, behinds;
    /* the key */
    uint64_t revision;
    uint8_t bytes[ETCD_VALUE_BYTES_MAX];
    size_t n;
} w;

static void on_event(void *ctx, const struct pair_event *ev)
{
    (void)ctx;
    if (ev->type == PE_REGISTER) {
        w.result = *ev;
        w.results++;
    } else if (ev->type == PE_HINT) {
        w.hint = *ev;
        w.hints++;
    } else if (ev->type == PE_BEHIND) {
        w.behind = *ev;
        w.behinds++;
    } else if (ev->type == PE_SEEN) {
        w.seen = *ev;
    }
}

static bool may_give_back(void *ctx, uint64_t now_ns)
{
    (void)ctx;
    ck_assert_uint_eq(now_ns, w.now);
    w.asked_for_leave++;
    return w.may_give_back;
}

static void on_bootstrapped(void *ctx, uint64_t op, bool ok, const char *text)
{
    (void)ctx;
    (void)op;
    (void)ok;
    (void)text;
}

static void on_fx(void *ctx, const struct register_etcd_fx *fx)
{
    (void)ctx;
    if (fx->type == ETCD_FX_PERSIST) {
        ck_assert(!w.writing);
        w.writing = true;
        w.request.state = fx->state;
        return;
    }
    if (fx->type == ETCD_FX_CANCEL) {
        ck_assert(w.pending && fx->id == w.request.id);
        w.pending = false;
        w.cancels++;
        return;
    }
    ck_assert_msg(!w.pending, "two requests at once");
    w.request = *fx;
    if (fx->expect.n)
        memcpy(w.expect, fx->expect.p, fx->expect.n);
    if (fx->value.n)
        memcpy(w.value, fx->value.p, fx->value.n);
    w.request.expect.p = w.expect;
    w.request.value.p = w.value;
    w.pending = true;
    w.requests++;
}

static struct arbiter *arbiter(void)
{
    return register_etcd_arbiter(w.reg);
}

static void start(void)
{
    struct register_etcd_config c = {
        .self = NODE_A, .endpoint = names, .n_endpoints = 2, .seen = w.disk, .random = 7 + w.now};
    struct arbiter_events events = {
        .event = on_event, .may_give_back = may_give_back, .bootstrapped = on_bootstrapped};
    w.reg = register_etcd_new(&c, &events, on_fx, NULL);
    w.pending = w.writing = false;
}

static void setup(void)
{
    memset(&w, 0, sizeof w);
    w.now = MS(1000);
    w.disk.voter_id = 1;
    start();
}

static void teardown(void)
{
    register_etcd_free(w.reg);
}

/* ---- etcd ---- */

static bool compare(const struct register_etcd_fx *r)
{
    return r->expect_revision == w.revision &&
           (!w.revision || (r->expect.n == w.n && memcmp(r->expect.p, w.bytes, w.n) == 0));
}

/* The request takes effect; the answer is kept back. */
static struct etcd_answer effect(const struct register_etcd_fx *r)
{
    struct etcd_answer a = {.what = ETCD_ANSWERED};
    if (r->request == ETCD_PUT && compare(r)) {
        memcpy(w.bytes, r->value.p, r->value.n);
        w.n = r->value.n;
        w.revision++;
        a.put = true;
    }
    a.revision = w.revision;
    a.value = slice_of(w.bytes, w.revision ? w.n : 0);
    return a;
}

static void reply(const struct etcd_answer *a)
{
    ck_assert(w.pending);
    w.pending = false;
    w.now += MS(2);
    register_etcd_answer(w.reg, w.request.id, a, w.now);
}

static void fails_as(int what)
{
    struct etcd_answer a = {.what = what, .error = "no"};
    reply(&a);
}

static void write_row(bool ok)
{
    ck_assert(w.writing);
    w.writing = false;
    if (ok)
        w.disk = w.request.state;
    register_etcd_persisted(w.reg, ok, w.now);
}

/* Everything is answered and written until nothing is left to do. */
static void serve(void)
{
    for (unsigned i = 0; i < 20 && (w.pending || w.writing); i++) {
        if (w.pending) {
            struct etcd_answer a = effect(&w.request);
            reply(&a);
        }
        if (w.writing)
            write_row(true);
    }
    ck_assert(!w.pending && !w.writing);
}

static void tick(uint64_t ms)
{
    for (uint64_t until = w.now + MS(ms); w.now < until; w.now += MS(10))
        arbiter()->ops->tick(arbiter(), w.now);
}

static struct record record(uint64_t version, uint32_t epoch, uint64_t tag)
{
    return (struct record){
        .version = version, .epoch = epoch, .tag = tag, .in_sync = {true, false}};
}

static void there(uint64_t revision, uint64_t lineage, const struct record *r)
{
    struct etcd_value v = {.lineage = lineage, .seal = revision, .record = *r};
    struct buf b;
    buf_init(&b, sizeof w.bytes);
    ck_assert(etcd_value_encode(&b, &v));
    memcpy(w.bytes, b.data, b.len);
    w.n = b.len;
    w.revision = revision;
    buf_free(&b);
}

static void ask(struct pair_effect fx)
{
    fx.until_ns = w.now + MS(1000);
    w.results = 0;
    arbiter_ask(arbiter(), &fx, w.now);
}

static void read_record(bool may_give_back)
{
    w.may_give_back = may_give_back;
    ask((struct pair_effect){.type = PX_READ});
}

static void change(uint64_t from, const struct record *to)
{
    ask((struct pair_effect){.type = PX_CHANGE, .from_tag = from, .record = *to});
}

#define assert_result(expected, with_tag)                                                          \
    do {                                                                                           \
        ck_assert_uint_eq(w.results, 1);                                                           \
        ck_assert_int_eq(w.result.outcome, expected);                                              \
        ck_assert_uint_eq(w.result.record.tag, with_tag);                                          \
    } while (0)

/* ---- tests ---- */

START_TEST(a_change_is_compared_by_tag_and_revision)
{
    struct record first = record(1, 2, 11), next = record(2, 4, 12);
    there(5, 1, &first);
    change(11, &next);
    ck_assert_int_eq(w.request.request, ETCD_RANGE);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    ck_assert_int_eq(w.request.request, ETCD_PUT);
    ck_assert_uint_eq(w.request.expect_revision, 5);
    ck_assert(!w.request.expect_any);
    a = effect(&w.request);
    reply(&a);
    ck_assert_uint_eq(w.results, 0); /* told once it is durable */
    write_row(true);
    assert_result(REG_DONE, 12);
    change(11, &first);
    serve();
    assert_result(REG_MISMATCH, 12);
}
END_TEST

/* Incidents 1 and 11: a change hangs, its caller reads, the change lands later. */
START_TEST(after_a_read_an_abandoned_change_takes_no_effect)
{
    struct record first = record(1, 2, 11), next = record(2, 2, 12);
    there(5, 1, &first);
    change(11, &next);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    struct register_etcd_fx late = w.request; /* the put is on its way, for seconds */
    uint8_t expect[ETCD_VALUE_BYTES_MAX], value[ETCD_VALUE_BYTES_MAX];
    memcpy(expect, w.expect, sizeof expect);
    memcpy(value, w.value, sizeof value);
    late.expect.p = expect;
    late.value.p = value;
    tick(1200);
    assert_result(REG_UNKNOWN, 0);
    if (w.pending)
        serve(); /* a look */
    read_record(false);
    serve();
    assert_result(REG_DONE, 11);
    effect(&late);
    read_record(false);
    serve();
    assert_result(REG_DONE, 11);
}
END_TEST

START_TEST(a_change_that_landed_is_found_by_the_read)
{
    struct record first = record(1, 2, 11), next = record(2, 2, 12);
    there(5, 1, &first);
    change(11, &next);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    effect(&w.request); /* done, and nobody is told */
    fails_as(ETCD_LOST);
    while (w.results == 0) {
        if (w.pending)
            fails_as(ETCD_LOST);
        tick(10);
    }
    assert_result(REG_UNKNOWN, 0);
    read_record(false);
    serve();
    assert_result(REG_DONE, 12);
}
END_TEST

START_TEST(a_lost_answer_is_asked_for_within_the_operation)
{
    struct record first = record(1, 2, 11), next = record(2, 2, 12);
    there(5, 1, &first);
    change(11, &next);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    effect(&w.request);
    unsigned at = w.request.endpoint;
    fails_as(ETCD_LOST);
    tick(20);
    ck_assert_uint_ne(w.request.endpoint, at); /* elsewhere */
    ck_assert_int_eq(w.request.request, ETCD_RANGE);
    serve();
    assert_result(REG_DONE, 12);
    ck_assert_uint_eq(w.revision, 6);
}
END_TEST

START_TEST(what_etcd_refuses_was_not_done)
{
    struct record first = record(1, 2, 11), next = record(2, 2, 12);
    there(5, 1, &first);
    change(11, &next);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    while (w.results == 0) {
        if (w.pending)
            fails_as(ETCD_REFUSED);
        tick(10);
    }
    assert_result(REG_NOT_DONE, 0);
}
END_TEST

/* A black hole takes a part of an operation, never one after the other. */
START_TEST(a_dead_endpoint_costs_one_time_out)
{
    struct record first = record(1, 2, 11);
    there(5, 1, &first);
    for (unsigned round = 0; round < 4; round++) {
        read_record(false);
        for (unsigned i = 0; i < 100 && w.results == 0; i++) {
            if (w.pending && w.request.endpoint == 1)
                serve();
            if (w.results == 0)
                tick(10);
        }
        assert_result(REG_DONE, 11);
        ck_assert_msg(round == 0 || w.cancels == 1, "the good one is remembered");
        tick(10);
    }
}
END_TEST

/* Incident 25. */
START_TEST(a_backup_is_not_followed)
{
    struct record old = record(3, 2, 11), now = record(4, 4, 12);
    there(9, 1, &now);
    read_record(false);
    serve();
    assert_result(REG_DONE, 12);
    there(5, 1, &old); /* last week's */
    tick(1100);
    serve();
    ck_assert_uint_eq(w.behinds, 1);
    ck_assert_uint_eq(w.behind.record.tag, 12);
    struct record next = record(5, 6, 13);
    change(12, &next);
    serve();
    assert_result(REG_BEHIND, 12);
    change(11, &next); /* nor changed */
    serve();
    assert_result(REG_BEHIND, 12);
    read_record(false);
    serve();
    assert_result(REG_BEHIND, 12);
    ck_assert_uint_eq(w.revision, 5);
    /* After a restart as well: what was seen is durable. */
    register_etcd_free(w.reg);
    start();
    read_record(false);
    serve();
    assert_result(REG_BEHIND, 12);
    /* Given back, once pair.c knows that it is the newest: in the next lineage, so that its
     * revision counts although it is a lower one. */
    read_record(true);
    serve();
    assert_result(REG_DONE, 12);
    ck_assert_uint_eq(w.revision, 6);
    struct etcd_value v;
    ck_assert(etcd_value_decode(slice_of(w.bytes, w.n), &v));
    ck_assert_uint_eq(v.lineage, 2);
    change(12, &next);
    serve();
    assert_result(REG_DONE, 13);
}
END_TEST

START_TEST(an_emptied_etcd_is_no_new_pair)
{
    struct record now = record(4, 4, 12);
    arbiter()->ops->set_virgin(arbiter(), true);
    tick(20);
    serve();
    ck_assert(arbiter()->ops->all_virgin(arbiter(), w.now));
    there(9, 1, &now);
    read_record(false);
    serve();
    w.revision = 0;
    tick(1100);
    serve();
    ck_assert_uint_eq(w.behinds, 1);
    ck_assert(!arbiter()->ops->all_virgin(arbiter(), w.now));
    read_record(true);
    serve();
    assert_result(REG_DONE, 12);
}
END_TEST

/* Between two tries the other node may have taken over, by what the first one gave back, and etcd
 * have been emptied once more. */
START_TEST(leave_to_give_back_is_asked_for_when_it_is_used)
{
    struct record now = record(4, 4, 12);
    there(9, 1, &now);
    read_record(false);
    serve();
    ck_assert_uint_eq(w.asked_for_leave, 0);
    w.revision = 0;
    read_record(true);
    struct etcd_answer a = effect(&w.request);
    reply(&a);
    ck_assert_int_eq(w.request.request, ETCD_PUT);
    ck_assert_uint_eq(w.asked_for_leave, 1);
    fails_as(ETCD_LOST);
    w.may_give_back = false;
    tick(20);
    serve();
    assert_result(REG_BEHIND, 12);
    ck_assert_uint_eq(w.revision, 0);
    ck_assert_uint_eq(w.asked_for_leave, 2);
}
END_TEST

START_TEST(a_lower_epoch_is_followed_in_no_lineage)
{
    struct record low = record(9, 2, 11), now = record(4, 4, 12);
    there(9, 1, &now);
    read_record(false);
    serve();
    there(20, 5, &low);
    read_record(false);
    serve();
    assert_result(REG_BEHIND, 12);
}
END_TEST

START_TEST(an_outcome_waits_for_the_disk)
{
    struct record first = record(1, 2, 11);
    there(5, 1, &first);
    read_record(false);
    for (unsigned i = 0; i < 2; i++) {
        struct etcd_answer a = effect(&w.request);
        reply(&a);
    }
    write_row(false);
    ck_assert_uint_eq(w.results, 0);
    tick(450);
    write_row(true); /* tried again */
    assert_result(REG_DONE, 11);
    read_record(false);
    for (unsigned i = 0; i < 2; i++) {
        struct etcd_answer a = effect(&w.request);
        reply(&a);
    }
    tick(1100); /* the disk hangs for longer than the operation may last */
    ck_assert_uint_eq(w.results, 1);
    ck_assert_int_eq(w.result.outcome, REG_NOT_DONE);
}
END_TEST

/* The other node has to hear of it: it might give an older record back to an etcd that has lost
 * this one. */
START_TEST(what_was_put_is_seen_while_the_disk_hangs)
{
    struct record first = record(1, 2, 11), mine = record(2, 4, 12);
    there(5, 1, &first);
    read_record(false);
    serve();
    ck_assert_uint_eq(w.seen.record.tag, 11);
    change(11, &mine);
    for (unsigned i = 0; i < 2; i++) {
        struct etcd_answer a = effect(&w.request);
        reply(&a);
    }
    ck_assert(w.writing);
    ck_assert_uint_eq(w.results, 0);
    ck_assert_uint_eq(w.seen.record.tag, 12);
    tick(1100);
    ck_assert_int_eq(w.result.outcome, REG_UNKNOWN);
    ck_assert_uint_eq(w.seen.record.tag, 12);
}
END_TEST

START_TEST(once_a_second_it_looks_and_writes_nothing)
{
    struct record first = record(1, 2, 11);
    there(5, 1, &first);
    for (unsigned i = 0; i < 50; i++) {
        tick(100);
        if (w.pending)
            serve();
    }
    ck_assert_uint_ge(w.hints, 4);
    ck_assert_uint_le(w.hints, 6);
    ck_assert(w.hint.flag && w.hint.record.tag == 11);
    ck_assert_uint_eq(w.revision, 5);
}
END_TEST

START_TEST(nonsense_in_the_key_is_neither_followed_nor_overwritten)
{
    w.revision = 7;
    memcpy(w.bytes, "hello", 5);
    w.n = 5;
    read_record(true);
    serve();
    assert_result(REG_NOT_DONE, 0);
    struct record first = record(1, 2, 11);
    arbiter()->ops->bootstrap(arbiter(), &first, 1, w.now);
    serve();
    ck_assert_uint_eq(w.revision, 7);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("register_etcd");
    TCase *t = tcase_create("core");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_change_is_compared_by_tag_and_revision);
    tcase_add_test(t, after_a_read_an_abandoned_change_takes_no_effect);
    tcase_add_test(t, a_change_that_landed_is_found_by_the_read);
    tcase_add_test(t, a_lost_answer_is_asked_for_within_the_operation);
    tcase_add_test(t, what_etcd_refuses_was_not_done);
    tcase_add_test(t, a_dead_endpoint_costs_one_time_out);
    tcase_add_test(t, a_backup_is_not_followed);
    tcase_add_test(t, an_emptied_etcd_is_no_new_pair);
    tcase_add_test(t, leave_to_give_back_is_asked_for_when_it_is_used);
    tcase_add_test(t, a_lower_epoch_is_followed_in_no_lineage);
    tcase_add_test(t, an_outcome_waits_for_the_disk);
    tcase_add_test(t, what_was_put_is_seen_while_the_disk_hangs);
    tcase_add_test(t, once_a_second_it_looks_and_writes_nothing);
    tcase_add_test(t, nonsense_in_the_key_is_neither_followed_nor_overwritten);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
