/* A voter's memory on disk: the last row or none, never a wrong one (protocol 5, incident 9). */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "health/voter_posix.h"

static char directory[64], path[128], err[512];

static void setup(void)
{
    snprintf(directory, sizeof directory, "/tmp/baton-voter-XXXXXX");
    ck_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/a.db.voter", directory);
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    ck_assert_int_eq(system(command), 0);
}

static struct voter_state row(void)
{
    return (struct voter_state){.voter_id = 7,
                                .voting = true,
                                .promised = {9, NODE_B, 8},
                                .accepted = {5, NODE_A, 7},
                                .record = {.version = 3, .epoch = 4, .tag = 77}};
}

START_TEST(test_row_comes_back)
{
    struct voter_state w = row(), r;
    ck_assert_int_eq(voter_file_load(path, "mail-1", 42, &r, err, sizeof err), VOTER_FILE_FRESH);
    ck_assert(r.voter_id == 42 && !r.voting && r.record.version == 0);
    ck_assert_msg(voter_file_store(path, "mail-1", &w, err, sizeof err), "%s", err);
    ck_assert_int_eq(voter_file_load(path, "mail-1", 42, &r, err, sizeof err), VOTER_FILE_READ);
    ck_assert(r.voter_id == 7 && r.voting && ballot_cmp(r.promised, w.promised) == 0 &&
              ballot_cmp(r.accepted, w.accepted) == 0 && r.record.tag == 77);
}
END_TEST

/* Any single changed byte, and any cut, makes an emptied voter with a new name. */
START_TEST(test_damage_is_an_emptied_voter)
{
    struct voter_state w = row(), r;
    ck_assert(voter_file_store(path, "mail-1", &w, err, sizeof err));
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    for (off_t i = -1; i < st.st_size; i++) {
        ck_assert(voter_file_store(path, "mail-1", &w, err, sizeof err));
        int fd = open(path, O_RDWR);
        uint8_t byte;
        if (i < 0) {
            ck_assert_int_eq(ftruncate(fd, st.st_size / 2), 0);
        } else {
            ck_assert_int_eq(pread(fd, &byte, 1, i), 1);
            byte ^= 0x10;
            ck_assert_int_eq(pwrite(fd, &byte, 1, i), 1);
        }
        close(fd);
        ck_assert_int_eq(voter_file_load(path, "mail-1", 43, &r, err, sizeof err),
                         VOTER_FILE_DAMAGED);
        ck_assert(r.voter_id == 43 && !r.voting && r.record.version == 0);
        ck_assert(strstr(err, ".damaged"));
        ck_assert_int_eq(voter_file_load(path, "mail-1", 44, &r, err, sizeof err),
                         VOTER_FILE_FRESH);
    }
}
END_TEST

START_TEST(test_half_written_successor_changes_nothing)
{
    struct voter_state w = row(), r;
    ck_assert(voter_file_store(path, "mail-1", &w, err, sizeof err));
    char temp[140];
    snprintf(temp, sizeof temp, "%s.new", path);
    FILE *f = fopen(temp, "w");
    fputs("BTNV", f);
    fclose(f);
    ck_assert_int_eq(voter_file_load(path, "mail-1", 42, &r, err, sizeof err), VOTER_FILE_READ);
    ck_assert(voter_file_store(path, "mail-1", &w, err, sizeof err));
}
END_TEST

START_TEST(test_other_clusters_file_stops_the_start)
{
    struct voter_state w = row(), r;
    ck_assert(voter_file_store(path, "mail-1", &w, err, sizeof err));
    ck_assert_int_eq(voter_file_load(path, "mail-2", 42, &r, err, sizeof err), VOTER_FILE_FOREIGN);
    ck_assert(strstr(err, "mail-1") && strstr(err, "mail-2"));
    ck_assert_int_eq(access(path, F_OK), 0);
}
END_TEST

START_TEST(test_unreadable_is_not_empty)
{
    struct voter_state w = row(), r;
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(voter_file_load(path, "mail-1", 42, &r, err, sizeof err), VOTER_FILE_ERROR);
    ck_assert(!voter_file_store(path, "mail-1", &w, err, sizeof err));
}
END_TEST

START_TEST(test_boot_counter_only_rises)
{
    uint64_t c, before = 0;
    for (int i = 0; i < 5; i++) {
        ck_assert(boot_counter_next(path, 1000, &c, err, sizeof err));
        ck_assert(c > before && c >= 1000);
        before = c;
    }
    ck_assert(boot_counter_next(path, 5000, &c, err, sizeof err) && c == 5000);
    ck_assert(boot_counter_next(path, 10, &c, err, sizeof err) && c == 5001); /* clock set back */
    ck_assert_int_eq(unlink(path), 0);                                        /* a new disk */
    ck_assert(boot_counter_next(path, 6000, &c, err, sizeof err) && c == 6000);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("voter");
    TCase *t = tcase_create("voter");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_row_comes_back);
    tcase_add_test(t, test_damage_is_an_emptied_voter);
    tcase_add_test(t, test_half_written_successor_changes_nothing);
    tcase_add_test(t, test_other_clusters_file_stops_the_start);
    tcase_add_test(t, test_unreadable_is_not_empty);
    tcase_add_test(t, test_boot_counter_only_rises);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *r = srunner_create(suite());
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
