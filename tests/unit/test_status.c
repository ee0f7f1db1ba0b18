/* What a node tells about itself: the contract's fields, the codes that balancers go by, metrics
 * that a scraper takes, and a page that shows what matters. */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>

#include "node/control/status.h"
#include "node/control/takeover.h"
#include "status_fixture.h"

static struct buf out;

static void setup(void)
{
    buf_init(&out, 1 << 20);
}

static void teardown(void)
{
    buf_free(&out);
}

static json_t *json_of(const struct node_status *s)
{
    buf_clear(&out);
    ck_assert(status_json(&out, s, false));
    json_error_t e;
    json_t *j = json_loadb((char *)out.data, out.len, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(j != NULL, "%s", e.text);
    return j;
}

static const json_t *get(const json_t *o, const char *path)
{
    char key[40];
    while (*path) {
        size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        o = json_object_get(o, key);
        path += n + (path[n] == '.');
    }
    return o;
}

static const char *str(const json_t *j, const char *path)
{
    const char *s = json_string_value(get(j, path));
    return s ? s : "(no string)";
}

START_TEST(test_json_has_every_field_of_the_contract)
{
    static const struct {
        const char *path;
        char type; /* s i r b a o */
    } field[] = {
        {"cluster", 's'},
        {"node", 's'},
        {"version", 's'},
        {"uptime_s", 'r'},
        {"role", 's'},
        {"mode", 's'},
        {"why", 's'},
        {"epoch", 'i'},
        {"primary", 's'},
        {"in_sync", 'a'},
        {"lsn", 'i'},
        {"committed", 'i'},
        {"auto_takeover", 'b'},
        {"peer.reachable", 'b'},
        {"peer.role", 's'},
        {"peer.lsn", 'i'},
        {"peer.lag_changes", 'i'},
        {"peer.lag_s", 'r'},
        {"arbiter.type", 's'},
        {"arbiter.reachable", 'b'},
        {"queue.messages", 'i'},
        {"queue.queued", 'i'},
        {"queue.deferred", 'i'},
        {"queue.held", 'i'},
        {"queue.quarantined", 'i'},
        {"queue.in_doubt", 'i'},
        {"queue.oldest_s", 'r'},
        {"smtp.sessions", 'i'},
        {"smtp.accepted_total", 'i'},
        {"smtp.refused_total", 'i'},
        {"delivery.connections", 'i'},
        {"delivery.delivered_total", 'i'},
        {"delivery.failed_total", 'i'},
        {"delivery.delivered_per_s", 'r'},
        {"takeovers", 'a'},
        {"checks", 'a'},
    };
    struct node_status s = fixture_status();
    json_t *j = json_of(&s);
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        const json_t *v = get(j, field[i].path);
        bool ok = field[i].type == 's'   ? json_is_string(v)
                  : field[i].type == 'i' ? json_is_integer(v)
                  : field[i].type == 'r' ? json_is_real(v)
                  : field[i].type == 'b' ? json_is_boolean(v)
                                         : json_is_array(v);
        ck_assert_msg(ok, "%s is missing or of another type", field[i].path);
    }
    ck_assert_str_eq(str(j, "role"), "primary");
    ck_assert_str_eq(str(j, "mode"), "paired");
    ck_assert_str_eq(str(j, "primary"), "a");
    ck_assert_int_eq(json_integer_value(get(j, "peer.lag_changes")), 4);
    ck_assert_uint_eq(json_array_size(get(j, "in_sync")), 2);
    ck_assert_uint_eq(json_array_size(get(j, "alarms")), 0);
    const json_t *t = json_array_get(get(j, "takeovers"), 0);
    ck_assert_str_eq(str(t, "from"), "b");
    ck_assert_str_eq(str(t, "to"), "a");
    ck_assert_str_eq(str(t, "at"), "2026-01-02T02:04:05.678Z");
    ck_assert_int_eq(json_integer_value(get(t, "duration_ms")), 1043);
    ck_assert_int_eq(json_integer_value(get(t, "in_doubt")), 2);
    ck_assert_str_eq(str(t, "reason"), "no heartbeat of b for 1.0 s");
    json_decref(j);
}
END_TEST

START_TEST(test_json_of_a_node_that_knows_nothing_yet)
{
    struct node_status s = {.config = fixture_config()};
    json_t *j = json_of(&s);
    ck_assert_str_eq(str(j, "role"), "starting");
    ck_assert(json_is_null(get(j, "mode")));
    ck_assert(json_is_null(get(j, "primary")));
    ck_assert_uint_eq(json_array_size(get(j, "in_sync")), 0);
    json_decref(j);
}
END_TEST

START_TEST(test_json_of_a_single_node)
{
    struct config c = *fixture_config();
    c.n_nodes = 1;
    c.arbiter.type = ARBITER_NONE;
    struct node_status s = {.config = &c, .alive = true};
    s.pair.role = ROLE_PRIMARY;
    s.pair.mode = PAIR_SOLO;
    s.pair.serving = s.pair.auto_takeover = true;
    json_t *j = json_of(&s);
    ck_assert(json_is_null(get(j, "peer")));
    ck_assert_str_eq(str(j, "primary"), "a");
    ck_assert_uint_eq(json_array_size(get(j, "in_sync")), 1);
    ck_assert_str_eq(str(j, "arbiter.type"), "none");
    ck_assert_uint_eq(json_array_size(get(j, "alarms")), 0); /* alone by configuration */
    json_decref(j);
}
END_TEST

START_TEST(test_text_that_is_not_utf8_does_not_spoil_the_json)
{
    struct node_status s = fixture_status();
    snprintf(s.pair.why, sizeof s.pair.why, "peer said: \xff\xfe \"</script>\"");
    json_t *j = json_of(&s);
    ck_assert_str_eq(str(j, "why"), "peer said: \xEF\xBF\xBD\xEF\xBF\xBD \"</script>\"");
    json_decref(j);
}
END_TEST

static int code(const char *path, const struct node_status *s)
{
    buf_clear(&out);
    int c = status_endpoint(path, s, &out);
    ck_assert_uint_gt(out.len, 1);
    ck_assert_ptr_eq(memchr(out.data, '\n', out.len), out.data + out.len - 1);
    buf_append(&out, "", 1);
    return c;
}

static void ck_codes(const struct node_status *s, int ready, int primary, int standby)
{
    ck_assert_int_eq(code("/readyz", s), ready);
    ck_assert_int_eq(code("/primary", s), primary);
    ck_assert_int_eq(code("/standby", s), standby);
    ck_assert_int_eq(code("/livez", s), 200);
    /* A browser's or a scanner's request is answered, whatever the role: it once ended the node. */
    ck_assert_int_eq(code("/favicon.ico", s), 404);
    ck_assert_int_eq(code("/primary/", s), 404);
    ck_assert_int_eq(code("", s), 404);
}

START_TEST(test_endpoints_in_every_role)
{
    for (int role = ROLE_STARTING; role <= ROLE_REJOINING; role++) {
        for (int bits = 0; bits < 8; bits++) {
            struct node_status s = fixture_status();
            s.pair.role = (enum role)role;
            s.pair.serving = bits & 1;
            s.pair.in_sync = bits & 2;
            s.refusing = bits & 4;
            bool serves = role == ROLE_PRIMARY && s.pair.serving;
            bool standby = role == ROLE_STANDBY && s.pair.in_sync;
            ck_codes(&s, serves || standby ? 200 : 503, serves && !s.refusing ? 200 : 503,
                     standby ? 200 : 503);
        }
    }
}
END_TEST

START_TEST(test_primary_that_refuses_new_mail_says_why)
{
    struct node_status s = fixture_status();
    s.pair.mode = PAIR_SOLO;
    s.refusing = true;
    snprintf(s.refusing_why, sizeof s.refusing_why, "below the disk reserve");
    ck_codes(&s, 200, 503, 503);
    code("/primary", &s);
    ck_assert_ptr_nonnull(strstr((char *)out.data, "below the disk reserve"));
}
END_TEST

START_TEST(test_a_stalled_thread_ends_livez)
{
    struct node_status s = fixture_status();
    s.alive = false;
    ck_assert_int_eq(code("/livez", &s), 503);
}
END_TEST

START_TEST(test_a_standby_that_is_not_in_sync_says_how_far_it_is)
{
    struct node_status s = fixture_standby();
    s.pair.in_sync = false;
    snprintf(s.replica.progress, sizeof s.replica.progress, "full copy: 12 of ~50 changes");
    ck_assert_int_eq(code("/readyz", &s), 503);
    ck_assert_ptr_nonnull(strstr((char *)out.data, "full copy: 12 of ~50 changes"));
}
END_TEST

static bool alarmed(const struct node_status *s, const char *name)
{
    struct status_alarm a[STATUS_ALARMS_MAX];
    unsigned n = status_alarms(s, a);
    for (unsigned i = 0; i < n; i++)
        if (strcmp(a[i].name, name) == 0)
            return true;
    return false;
}

START_TEST(test_alarms)
{
    struct node_status s = fixture_status();
    struct status_alarm a[STATUS_ALARMS_MAX];
    ck_assert_uint_eq(status_alarms(&s, a), 0);
    s.pair.mode = PAIR_SOLO;
    ck_assert(alarmed(&s, "solo"));
    s = fixture_status();
    s.pair.role = ROLE_FENCED;
    ck_assert(alarmed(&s, "fenced"));
    s = fixture_status();
    s.pair.peer_reachable = false;
    ck_assert(alarmed(&s, "peer_unreachable"));
    s.pair.silent_ns = UINT64_MAX; /* never heard */
    ck_assert(alarmed(&s, "peer_unreachable"));
    json_t *never = json_of(&s);
    ck_assert(json_is_null(get(never, "peer.silent_s")));
    json_decref(never);
    s.pair.silent_ns = 0;
    s = fixture_status();
    s.pair.auto_takeover = false;
    ck_assert(alarmed(&s, "auto_takeover_off"));
    s = fixture_status();
    s.arbiter.reachable[WITNESS] = false;
    ck_assert(alarmed(&s, "arbiter_unreachable"));
    s = fixture_status();
    s.pair.peer_wall_skew_ms = -61000;
    ck_assert(alarmed(&s, "clock_skew"));
    s = fixture_standby();
    s.pair.in_sync = false;
    ck_assert(alarmed(&s, "replication_down")); /* the record names it: it would take over */
    ck_assert(!alarmed(&s, "not_in_sync"));
    s.pair.record.in_sync[NODE_B] = false;
    ck_assert(alarmed(&s, "not_in_sync"));
    ck_assert(!alarmed(&s, "refusing_mail")); /* a standby refuses by nature */
    s = fixture_status();
    s.checks[0].ok = false;
    ck_assert(alarmed(&s, "storage"));
}
END_TEST

/* Every sample belongs to a metric with HELP and TYPE above it; counters end in _total; no metric
 * is announced twice, no sample given twice. Returns the value of `want`, or -1. */
static double ck_metrics(const struct node_status *s, const char *want)
{
    buf_clear(&out);
    ck_assert(status_metrics(&out, s));
    buf_append(&out, "", 1);
    char *all = strdup((char *)out.data), *save = NULL, help[100] = "", name[100] = "",
         type[20] = "";
    double found = -1;
    for (char *l = strtok_r(all, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (sscanf(l, "# HELP %99s", help) == 1) {
            char again[140];
            snprintf(again, sizeof again, "# HELP %s ", help);
            const char *first = strstr((char *)out.data, again);
            ck_assert_msg(!strstr(first + 1, again), "%s is announced twice", help);
            continue;
        }
        if (sscanf(l, "# TYPE %99s %19s", name, type) == 2) {
            ck_assert_str_eq(name, help);
            size_t n = strlen(name);
            bool total = n > 6 && strcmp(name + n - 6, "_total") == 0;
            ck_assert_msg(total == (strcmp(type, "counter") == 0), "%s is a %s", name, type);
            continue;
        }
        size_t n = strcspn(l, "{ ");
        ck_assert_msg(n == strlen(name) && strncmp(l, name, n) == 0, "no HELP and TYPE for %s", l);
        ck_assert(strncmp(l, "baton_", 6) == 0 || strncmp(l, "process_", 8) == 0);
        char *value = strrchr(l, ' '), *end;
        double v = strtod(value + 1, &end);
        ck_assert_msg(*end == 0, "no number in: %s", l);
        if ((size_t)(value - l) == strlen(want) && strncmp(l, want, strlen(want)) == 0) {
            ck_assert(found < 0);
            found = v;
        }
    }
    free(all);
    return found;
}

START_TEST(test_takeover_off_ends_by_itself)
{
    char value[40];
    int64_t until;
    ck_assert(takeover_is_on(slice_str(takeover_value(value, true, 0)), 5, &until));
    ck_assert(!takeover_is_on(slice_str(takeover_value(value, false, 0)), 5, &until));
    ck_assert_int_eq(until, 0);
    takeover_value(value, false, 1000);
    ck_assert(!takeover_is_on(slice_str(value), 999, &until));
    ck_assert_int_eq(until, 1000);
    ck_assert(takeover_is_on(slice_str(value), 1000, &until));
    ck_assert_int_eq(until, 0);
    ck_assert(takeover_is_on(SLICE_LIT(""), 0, &until)); /* removed: the default */
    /* What can't be read as a time keeps it off. */
    ck_assert(!takeover_is_on(SLICE_LIT("off until=soon"), 0, &until));
    ck_assert(!takeover_is_on(SLICE_LIT("off until=99999999999999999999999"), 0, &until));
    ck_assert_int_eq(until, 0);
}
END_TEST

START_TEST(test_metrics)
{
    struct node_status s = fixture_status();
    ck_assert(ck_metrics(&s, "baton_smtp_messages_accepted_total") == 100);
    ck_assert(ck_metrics(&s, "baton_queue_messages{state=\"deferred\"}") == 2);
    ck_assert(ck_metrics(&s, "baton_role{role=\"primary\"}") == 1);
    ck_assert(ck_metrics(&s, "baton_role{role=\"standby\"}") == 0);
    ck_assert(ck_metrics(&s, "baton_mode{mode=\"solo\"}") == 0);
    ck_assert(ck_metrics(&s, "baton_alarm{alarm=\"solo\",severity=\"critical\"}") == -1);
    ck_assert(ck_metrics(&s, "baton_check_ok{check=\"storage\"}") == 1);
    ck_assert(ck_metrics(&s, "baton_last_takeover_duration_seconds") == 1.043);
    ck_assert(ck_metrics(&s, "baton_storage_commit_seconds{quantile=\"0.99\"}") == 0.0042);
    s.pair.mode = PAIR_SOLO;
    ck_assert(ck_metrics(&s, "baton_mode{mode=\"solo\"}") == 1);
    ck_assert(ck_metrics(&s, "baton_alarm{alarm=\"solo\",severity=\"critical\"}") == 1);
    struct node_status standby = fixture_standby();
    ck_assert(ck_metrics(&standby, "baton_accepting_mail") == 0);
    ck_assert(ck_metrics(&standby, "baton_replication_lag_changes") == 4);
    struct config odd = *fixture_config();
    odd.cluster = (char[]){"a\"b\\c"};
    s.config = &odd;
    ck_metrics(&s, "");
    ck_assert_ptr_nonnull(strstr((char *)out.data, "cluster=\"a\\\"b\\\\c\""));
}
END_TEST

static const char *page_of(const struct node_status *s)
{
    buf_clear(&out);
    ck_assert(status_page(&out, s));
    buf_append(&out, "", 1);
    return (char *)out.data;
}

START_TEST(test_page_shows_state_and_alarms_and_fills_every_place)
{
    struct node_status s = fixture_status();
    const char *page = page_of(&s);
    ck_assert_ptr_null(strstr(page, "{{"));
    ck_assert_ptr_nonnull(strstr(page, "<h1>Primary <span class=\"mode\">paired</span></h1>"));
    ck_assert_ptr_nonnull(strstr(page, "id=\"state\" class=\"card ok\""));
    ck_assert_ptr_nonnull(strstr(page, "no heartbeat of b for 1.0 s"));
    /* Works without internet: nothing is fetched from elsewhere. */
    ck_assert_ptr_null(strstr(page, "https://"));
    ck_assert_ptr_null(strstr(page, " src="));
    ck_assert_ptr_null(strstr(page, "url("));
    s.pair.mode = PAIR_SOLO;
    page = page_of(&s);
    ck_assert_ptr_nonnull(strstr(page, "id=\"state\" class=\"card bad\""));
    ck_assert_ptr_nonnull(strstr(page, "new mail is kept on this node only"));
    s = fixture_status();
    s.pair.auto_takeover = false;
    page = page_of(&s);
    ck_assert_ptr_nonnull(strstr(page, "id=\"state\" class=\"card warn\""));
    ck_assert_ptr_nonnull(strstr(page, "automatic takeover is off"));
}
END_TEST

START_TEST(test_page_never_runs_what_strangers_wrote)
{
    struct node_status s = fixture_status();
    snprintf(s.pair.why, sizeof s.pair.why, "<script>alert(1)</script><!--<script>");
    snprintf(s.checks[0].detail, sizeof s.checks[0].detail, "\"><img src=x onerror=alert(1)>");
    snprintf(s.pair.takeovers[0].reason, 100, "</td><script>alert(2)</script>");
    const char *page = page_of(&s);
    ck_assert_ptr_null(strstr(page, "<script>alert"));
    ck_assert_ptr_null(strstr(page, "<img"));
    ck_assert_ptr_null(strstr(page, "<!--"));
    /* The page's own data element still is the whole JSON. */
    const char *json = strstr(page, "id=\"now\" data-live>") + 19;
    json_t *j = json_loadb(json, (size_t)(strstr(json, "</script>") - json), 0, NULL);
    ck_assert_ptr_nonnull(j);
    ck_assert_str_eq(str(j, "why"), "<script>alert(1)</script><!--<script>");
    json_decref(j);
}
END_TEST

START_TEST(test_a_full_buffer_is_told)
{
    struct node_status s = fixture_status();
    struct buf small;
    buf_init(&small, 1000);
    ck_assert(!status_json(&small, &s, true));
    ck_assert(!status_metrics(&small, &s));
    ck_assert(!status_page(&small, &s));
    buf_free(&small);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("status");
    TCase *t = tcase_create("status");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_json_has_every_field_of_the_contract);
    tcase_add_test(t, test_json_of_a_node_that_knows_nothing_yet);
    tcase_add_test(t, test_json_of_a_single_node);
    tcase_add_test(t, test_text_that_is_not_utf8_does_not_spoil_the_json);
    tcase_add_test(t, test_endpoints_in_every_role);
    tcase_add_test(t, test_primary_that_refuses_new_mail_says_why);
    tcase_add_test(t, test_a_stalled_thread_ends_livez);
    tcase_add_test(t, test_a_standby_that_is_not_in_sync_says_how_far_it_is);
    tcase_add_test(t, test_alarms);
    tcase_add_test(t, test_takeover_off_ends_by_itself);
    tcase_add_test(t, test_metrics);
    tcase_add_test(t, test_page_shows_state_and_alarms_and_fills_every_place);
    tcase_add_test(t, test_page_never_runs_what_strangers_wrote);
    tcase_add_test(t, test_a_full_buffer_is_told);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
