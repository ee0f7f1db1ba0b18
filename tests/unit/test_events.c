/* Delivery events: whatever strangers put into a reply, each line is JSON; order is kept; what
 * can't be written is counted; followers hear everything until they leave, and nothing after. */
#include <check.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "node/control/event.h"
#include "node/control/events_uv.h"
#include "node/control/text.h"

static char dir[] = "/tmp/baton-events-XXXXXX", file[64];

static void setup(void)
{
    memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(file, sizeof file, "%s/events.jsonl", dir);
}

static void teardown(void)
{
    unlink(file);
    rmdir(dir);
}

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    char *all = calloc(1, 16 << 20);
    *n = fread(all, 1, (16 << 20) - 1, f);
    fclose(f);
    return all;
}

static struct event plain(uint64_t id)
{
    return (struct event){.type = EVENT_DELIVERED,
                          .id = id,
                          .sender = SLICE_LIT("news@example.com"),
                          .recipient = SLICE_LIT("ann@example.net"),
                          .campaign = SLICE_LIT("spring"),
                          .remote = SLICE_LIT("mx.example.net [192.0.2.1]:25"),
                          .code = 250,
                          .enhanced = SLICE_LIT("2.0.0"),
                          .reply = SLICE_LIT("Ok: queued"),
                          .tls = SLICE_LIT("TLSv1.3"),
                          .attempt = 2,
                          .delay_ms = 1234};
}

START_TEST(test_line_has_the_contract_s_fields)
{
    struct events *e = events_open(file, 'a', (char[200]){0}, 200);
    ck_assert_ptr_nonnull(e);
    struct event ev = plain((uint64_t)4 << 40 | 10);
    events_emit(e, 4, &ev);
    events_close(e);
    size_t n;
    char *text = slurp(file, &n);
    json_t *j = json_loads(text, 0, NULL);
    ck_assert_ptr_nonnull(j);
    ck_assert_str_eq(json_string_value(json_object_get(j, "event")), "delivered");
    ck_assert_str_eq(json_string_value(json_object_get(j, "id")), "000004000000000a");
    ck_assert_str_eq(json_string_value(json_object_get(j, "sender")), "news@example.com");
    ck_assert_str_eq(json_string_value(json_object_get(j, "recipient")), "ann@example.net");
    ck_assert_str_eq(json_string_value(json_object_get(j, "campaign")), "spring");
    ck_assert_str_eq(json_string_value(json_object_get(j, "reply")), "Ok: queued");
    ck_assert_str_eq(json_string_value(json_object_get(j, "tls")), "TLSv1.3");
    ck_assert_int_eq(json_integer_value(json_object_get(j, "code")), 250);
    ck_assert_int_eq(json_integer_value(json_object_get(j, "attempt")), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(j, "epoch")), 4);
    ck_assert(json_real_value(json_object_get(j, "delay_s")) == 1.234);
    ck_assert_str_eq(json_string_value(json_object_get(j, "node")), "a");
    ck_assert_uint_eq(strlen(json_string_value(json_object_get(j, "time"))), 24);
    json_decref(j);
    free(text);
    struct stat st;
    ck_assert_int_eq(stat(file, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0137, 0);
}
END_TEST

START_TEST(test_every_field_is_there_unset_ones_are_null)
{
    struct buf b;
    buf_init(&b, 4096);
    struct event ev = {.type = EVENT_CANCELLED, .id = 1, .delay_ms = -1};
    ck_assert(event_line(&b, &ev, 0, 'b', 5));
    json_t *j = json_loadb((char *)b.data, b.len, 0, NULL);
    ck_assert_ptr_nonnull(j);
    static const char *const null[] = {"recipient", "campaign", "remote",  "code", "enhanced",
                                       "reply",     "attempt",  "delay_s", "tls"};
    for (size_t i = 0; i < sizeof null / sizeof null[0]; i++)
        ck_assert_msg(json_is_null(json_object_get(j, null[i])), "%s", null[i]);
    ck_assert_uint_eq(json_object_size(j), 15);
    ck_assert_str_eq(json_string_value(json_object_get(j, "sender")), "");
    ck_assert_str_eq(json_string_value(json_object_get(j, "time")), "1970-01-01T00:00:00.000Z");
    json_decref(j);
    buf_free(&b);
}
END_TEST

START_TEST(test_any_bytes_give_one_line_of_valid_json)
{
    /* All bytes, broken and overlong UTF-8, a surrogate, beyond U+10FFFF, a cut sequence. */
    uint8_t hostile[300];
    for (size_t i = 0; i < 256; i++)
        hostile[i] = (uint8_t)i;
    static const char odd[] = "\xC0\xAF\xED\xA0\x80\xF4\x90\x80\x80 gr\xC3\xBC\xC3\x9F \xE2\x82";
    memcpy(hostile + 256, odd, sizeof odd - 1);
    struct slice bytes = {hostile, 256 + sizeof odd - 1};
    struct buf b;
    buf_init(&b, 64 << 10);
    struct event ev = plain(1);
    ev.reply = ev.recipient = ev.sender = ev.remote = bytes;
    ck_assert(event_line(&b, &ev, 1, 'a', 4));
    ck_assert_ptr_eq(memchr(b.data, '\n', b.len), b.data + b.len - 1);
    json_error_t error;
    json_t *j = json_loadb((char *)b.data, b.len, JSON_ALLOW_NUL, &error);
    ck_assert_msg(j != NULL, "%s at %d", error.text, error.position);
    json_t *reply = json_object_get(j, "reply");
    const char *s = json_string_value(reply);
    size_t n = json_string_length(reply);
    for (size_t i = 0; i < 128; i++)
        ck_assert_uint_eq((uint8_t)s[i], i);
    /* One replacement a bad byte; good characters stay. */
    ck_assert_ptr_nonnull(memmem(s, n, "gr\xC3\xBC\xC3\x9F", 6));
    size_t bad = 0;
    for (size_t i = 0; i + 2 < n; i++)
        bad += memcmp(s + i, "\xEF\xBF\xBD", 3) == 0;
    ck_assert_uint_eq(bad, 128 + 2 + 3 + 4 + 2);
    json_decref(j);
    buf_free(&b);
}
END_TEST

START_TEST(test_order_is_kept_and_close_writes_everything)
{
    struct events *e = events_open(file, 'a', (char[200]){0}, 200);
    for (uint64_t i = 1; i <= 5000; i++) {
        struct event ev = plain(i);
        events_emit(e, 4, &ev);
    }
    events_close(e);
    size_t n;
    char *text = slurp(file, &n), *at = text;
    for (uint64_t i = 1; i <= 5000; i++) {
        char *end = strchr(at, '\n'), id[17];
        ck_assert_ptr_nonnull(end);
        ck_assert_ptr_nonnull(memmem(at, (size_t)(end - at), text_id(id, i), 16));
        at = end + 1;
    }
    ck_assert_uint_eq((size_t)(at - text), n);
    free(text);
}
END_TEST

START_TEST(test_a_full_disk_is_counted_and_mail_goes_on)
{
    struct events *e = events_open("/dev/full", 'a', (char[200]){0}, 200);
    ck_assert_ptr_nonnull(e);
    for (int i = 0; i < 10; i++) {
        struct event ev = plain(1);
        events_emit(e, 4, &ev);
    }
    for (int i = 0; i < 500 && events_dropped(e) < 10; i++)
        usleep(10000);
    ck_assert_uint_eq(events_dropped(e), 10);
    events_close(e);
}
END_TEST

/* A follower that blocks the writer's thread until it is let go. */
struct gate {
    _Atomic int entered, open;
};

static void gate_line(void *ctx, struct slice line)
{
    struct gate *g = ctx;
    atomic_store(&g->entered, 1);
    for (int i = 0; i < 1000 && !atomic_load(&g->open); i++)
        usleep(10000);
}

START_TEST(test_overflow_is_counted_not_waited_for)
{
    struct gate g = {0, 0};
    struct events *e = events_open(NULL, 'a', (char[200]){0}, 200);
    ck_assert_uint_ne(events_follow(e, gate_line, &g), 0);
    struct event ev = plain(1);
    events_emit(e, 4, &ev);
    for (int i = 0; i < 500 && !atomic_load(&g.entered); i++)
        usleep(10000);
    ck_assert_int_eq(atomic_load(&g.entered), 1);
    static uint8_t big[1024];
    memset(big, 'x', sizeof big);
    ev.reply = slice_of(big, sizeof big);
    unsigned n = 0;
    while (events_dropped(e) == 0 && n < 100000) {
        events_emit(e, 4, &ev);
        n++;
    }
    ck_assert_uint_lt(n, 20000); /* 16 MiB of 1 KiB replies */
    ck_assert_uint_gt(n, 8000);
    uint64_t dropped = events_dropped(e);
    events_emit(e, 4, &ev);
    ck_assert_uint_eq(events_dropped(e), dropped + 1);
    atomic_store(&g.open, 1);
    events_close(e);
}
END_TEST

struct heard {
    _Atomic unsigned lines;
    unsigned bad;
};

static void hear(void *ctx, struct slice line)
{
    struct heard *h = ctx;
    if (!line.n || line.p[line.n - 1] != '\n' || line.p[0] != '{')
        h->bad++;
    atomic_fetch_add(&h->lines, 1);
}

static void wait_lines(struct heard *h, unsigned n)
{
    for (int i = 0; i < 500 && atomic_load(&h->lines) < n; i++)
        usleep(10000);
    ck_assert_uint_eq(atomic_load(&h->lines), n);
}

START_TEST(test_followers_hear_until_they_leave)
{
    struct heard one = {0}, two = {0};
    struct events *e = events_open(NULL, 'a', (char[200]){0}, 200);
    uint64_t a = events_follow(e, hear, &one), b = events_follow(e, hear, &two);
    ck_assert(a && b && a != b);
    struct event ev = plain(1);
    for (int i = 0; i < 3; i++)
        events_emit(e, 4, &ev);
    wait_lines(&one, 3);
    wait_lines(&two, 3);
    events_unfollow(e, a);
    events_emit(e, 4, &ev);
    wait_lines(&two, 4);
    ck_assert_uint_eq(atomic_load(&one.lines), 3);
    ck_assert_uint_eq(one.bad + two.bad, 0);
    events_close(e);
}
END_TEST

START_TEST(test_followers_are_capped)
{
    struct heard h = {0};
    struct events *e = events_open(NULL, 'a', (char[200]){0}, 200);
    uint64_t token[100] = {0};
    unsigned n = 0;
    while (n < 100 && (token[n] = events_follow(e, hear, &h)))
        n++;
    ck_assert_uint_eq(n, 32);
    events_unfollow(e, token[7]);
    ck_assert_uint_ne(events_follow(e, hear, &h), 0);
    events_close(e);
}
END_TEST

START_TEST(test_reopen_after_logrotate)
{
    char old[80];
    snprintf(old, sizeof old, "%s.1", file);
    struct heard h = {0};
    struct events *e = events_open(file, 'a', (char[200]){0}, 200);
    events_follow(e, hear, &h);
    struct event ev = plain(1);
    events_emit(e, 4, &ev);
    wait_lines(&h, 1);
    ck_assert_int_eq(rename(file, old), 0);
    events_reopen(e);
    for (int i = 0; i < 500 && access(file, F_OK); i++)
        usleep(10000);
    ev.id = 2;
    events_emit(e, 4, &ev);
    events_close(e);
    size_t n;
    char *text = slurp(old, &n);
    ck_assert_ptr_nonnull(strstr(text, "\"0000000000000001\""));
    ck_assert_ptr_null(strstr(text, "\"0000000000000002\""));
    free(text);
    text = slurp(file, &n);
    ck_assert_ptr_nonnull(strstr(text, "\"0000000000000002\""));
    free(text);
    unlink(old);
}
END_TEST

START_TEST(test_a_file_that_cannot_be_opened_names_itself)
{
    char err[200] = "";
    ck_assert_ptr_null(events_open("/nonexistent/events.jsonl", 'a', err, sizeof err));
    ck_assert_ptr_nonnull(strstr(err, "/nonexistent/events.jsonl"));
}
END_TEST

START_TEST(test_text_forms)
{
    char out[32];
    ck_assert_str_eq(text_rfc3339(out, 1767323045678), "2026-01-02T03:04:05.678Z");
    ck_assert_str_eq(text_rfc3339(out, 951782400000), "2000-02-29T00:00:00.000Z");
    ck_assert_str_eq(text_rfc3339(out, 4107542400000), "2100-03-01T00:00:00.000Z");
    ck_assert_str_eq(text_duration(out, 850), "850 ms");
    ck_assert_str_eq(text_duration(out, 12345), "12.3 s");
    ck_assert_str_eq(text_duration(out, 245000), "4m 05s");
    ck_assert_str_eq(text_duration(out, 12000000), "3h 20m");
    ck_assert_str_eq(text_duration(out, 187200000), "2d 4h");
    ck_assert_str_eq(text_size(out, 512), "512 B");
    ck_assert_str_eq(text_size(out, 1234), "1.2 KiB");
    ck_assert_str_eq(text_size(out, 50 << 20), "50 MiB");
    uint64_t id;
    ck_assert(text_parse_id("000004000000000a", &id) && id == 0x4000000000a);
    ck_assert(text_parse_id("4000000000A", &id) && id == 0x4000000000a);
    ck_assert(!text_parse_id("", &id) && !text_parse_id("0", &id));
    ck_assert(!text_parse_id("000004000000000a0", &id) && !text_parse_id("12g", &id));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("events");
    TCase *t = tcase_create("events");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_line_has_the_contract_s_fields);
    tcase_add_test(t, test_every_field_is_there_unset_ones_are_null);
    tcase_add_test(t, test_any_bytes_give_one_line_of_valid_json);
    tcase_add_test(t, test_order_is_kept_and_close_writes_everything);
    tcase_add_test(t, test_a_full_disk_is_counted_and_mail_goes_on);
    tcase_add_test(t, test_overflow_is_counted_not_waited_for);
    tcase_add_test(t, test_followers_hear_until_they_leave);
    tcase_add_test(t, test_followers_are_capped);
    tcase_add_test(t, test_reopen_after_logrotate);
    tcase_add_test(t, test_a_file_that_cannot_be_opened_names_itself);
    tcase_add_test(t, test_text_forms);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
