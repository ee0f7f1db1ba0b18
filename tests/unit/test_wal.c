/* The write-ahead log as it reaches the disk (node/queue/wal_sqlite.h): gathered, but never behind
 * a flush, a read or an error. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "node/queue/wal_sqlite.h"

static char dir[64], path[100], database[100];
static sqlite3_file *file;

/* In place of the C library's, also for SQLite. */
static unsigned flushes;
static bool flush_fails;
int fdatasync(int fd)
{
    flushes++;
    if (flush_fails)
        errno = EIO;
    return flush_fails ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* A name as SQLite gives it: two zero bytes end its list of parameters. */
static void open_log(void)
{
    static char name[104];
    snprintf(dir, sizeof dir, "/tmp/baton-wal-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.db-wal", dir);
    memset(name, 0, sizeof name);
    memcpy(name, path, strlen(path));
    /* The log gets the mode of its database. */
    snprintf(database, sizeof database, "%s/a.db", dir);
    fclose(fopen(database, "w"));
    sqlite3_initialize();
    sqlite3_vfs *vfs = sqlite3_vfs_find(wal_sqlite_vfs());
    ck_assert_ptr_nonnull(vfs);
    file = calloc(1, (size_t)vfs->szOsFile);
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_WAL, got;
    ck_assert_int_eq(vfs->xOpen(vfs, name, file, flags, &got), SQLITE_OK);
}

static void close_log(void)
{
    ck_assert_int_eq(file->pMethods->xClose(file), SQLITE_OK);
    free(file);
    unlink(path);
    unlink(database);
    rmdir(dir);
}

static long long on_disk(void)
{
    struct stat st;
    return stat(path, &st) == 0 ? (long long)st.st_size : -1;
}

static int put(char c, int n, sqlite3_int64 at)
{
    static char page[200000];
    memset(page, c, (size_t)n);
    return file->pMethods->xWrite(file, page, n, at);
}

static char byte_at(sqlite3_int64 at)
{
    char c = 0;
    ck_assert_int_eq(file->pMethods->xRead(file, &c, 1, at), SQLITE_OK);
    return c;
}

START_TEST(test_a_flush_carries_all_of_it)
{
    open_log();
    ck_assert_int_eq(put('h', 24, 0), SQLITE_OK);
    ck_assert_int_eq(put('p', 4096, 24), SQLITE_OK);
    ck_assert_int_eq(put('h', 24, 4120), SQLITE_OK);
    ck_assert_int_eq(on_disk(), 0); /* gathered */
    ck_assert_int_eq(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
    ck_assert_int_eq(on_disk(), 4144);
    ck_assert_int_eq(byte_at(0), 'h');
    ck_assert_int_eq(byte_at(24), 'p');
    ck_assert_int_eq(byte_at(4143), 'h');
    close_log();
}
END_TEST

/* What is asked of the file is the answer of all that was written to it, in its order. */
START_TEST(test_whoever_asks_finds_what_was_written)
{
    open_log();
    sqlite3_int64 size;
    put('a', 1000, 0);
    put('b', 10, 500); /* within what is gathered */
    ck_assert_int_eq(byte_at(499), 'a');
    ck_assert_int_eq(byte_at(505), 'b');
    put('c', 10, 2000); /* behind a hole */
    ck_assert_int_eq(file->pMethods->xFileSize(file, &size), SQLITE_OK);
    ck_assert_int_eq(size, 2010);
    put('d', 10, 2010);
    ck_assert_int_eq(file->pMethods->xTruncate(file, 2015), SQLITE_OK);
    ck_assert_int_eq(on_disk(), 2015);
    put('e', 130000, 0); /* more than is ever gathered */
    put('f', 130000, 130000);
    ck_assert_int_eq(on_disk(), 260000);
    for (int i = 0; i < 100; i++)
        put((char)i, 4096, 4096 * i);
    file->pMethods->xSync(file, SQLITE_SYNC_NORMAL);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(byte_at(4096 * i + 4095), i);
    close_log();
}
END_TEST

/* A commit must not succeed because its pages were taken: the flush says what became of them. */
START_TEST(test_a_write_that_fails_fails_the_flush)
{
    open_log();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, tight;
    getrlimit(RLIMIT_FSIZE, &before);
    tight = before;
    tight.rlim_cur = 4096;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &tight), 0);
    ck_assert_int_eq(put('x', 8192, 0), SQLITE_OK);
    ck_assert_int_ne(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
    setrlimit(RLIMIT_FSIZE, &before);
    /* The next transaction writes its own. */
    ck_assert_int_eq(put('y', 100, 0), SQLITE_OK);
    ck_assert_int_eq(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
    ck_assert_int_eq(byte_at(99), 'y');
    close_log();
}
END_TEST

static int flush(void)
{
    return file->pMethods->xSync(file, SQLITE_SYNC_NORMAL);
}

/* Whoever moves the log into the database flushes it first; the commits have done that. What wasn't
 * flushed, or not by this process, is. */
START_TEST(test_nothing_is_flushed_twice)
{
    open_log();
    ck_assert_int_eq(flush(), SQLITE_OK);
    ck_assert_uint_ge(flushes, 1); /* what an earlier process may have left */
    flushes = 0;
    ck_assert_int_eq(flush(), SQLITE_OK);
    ck_assert_uint_eq(flushes, 0);
    for (int n = 100; n < 200000; n += 150000) { /* gathered, and not */
        put('x', n, 0);
        ck_assert_int_eq(flush(), SQLITE_OK);
        ck_assert_uint_eq(flushes, 1);
        flushes = 0;
    }
    file->pMethods->xTruncate(file, 50);
    put('y', 100, 0);
    flush_fails = true;
    ck_assert_int_ne(flush(), SQLITE_OK);
    ck_assert_int_ne(flush(), SQLITE_OK);
    ck_assert_uint_eq(flushes, 2);
    flush_fails = false;
    close_log();
}
END_TEST

/* A page that left the cache early is written for a read's sake, and lost: what goes on after that
 * read failed must not be committed. */
START_TEST(test_a_write_that_fails_before_the_flush_fails_it)
{
    open_log();
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, tight;
    char c;
    getrlimit(RLIMIT_FSIZE, &before);
    tight = before;
    tight.rlim_cur = 4096;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &tight), 0);
    ck_assert_int_eq(put('x', 8192, 0), SQLITE_OK);
    ck_assert_int_ne(file->pMethods->xRead(file, &c, 1, 0), SQLITE_OK);
    setrlimit(RLIMIT_FSIZE, &before);
    ck_assert_int_eq(put('y', 100, 8192), SQLITE_OK);
    ck_assert_int_ne(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
    ck_assert_int_eq(put('z', 100, 0), SQLITE_OK); /* the next transaction */
    ck_assert_int_eq(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
    close_log();
}
END_TEST

/* A commit's flush may be left to somebody else, who then covers all that was written by then;
 * never that of the head, which each log begins with. */
START_TEST(test_a_flush_that_is_deferred)
{
    open_log();
    sqlite3 *db;
    char name[100];
    snprintf(name, sizeof name, "%s/b.db", dir);
    ck_assert_int_eq(
        sqlite3_open_v2(name, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, wal_sqlite_vfs()),
        SQLITE_OK);
    ck_assert_ptr_null(wal_sqlite_log(db)); /* there is none yet */
    ck_assert_int_eq(sqlite3_exec(db,
                                  "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;"
                                  "PRAGMA wal_autocheckpoint=0;CREATE TABLE t(x)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    struct wal_log *l = wal_sqlite_log(db);
    ck_assert_ptr_nonnull(l);
    flushes = 0;
    wal_sqlite_defer(l, true);
    ck_assert_int_eq(sqlite3_exec(db, "INSERT INTO t VALUES(1)", NULL, NULL, NULL), SQLITE_OK);
    ck_assert_uint_eq(flushes, 0);
    wal_sqlite_defer(l, false);
    ck_assert_int_eq(wal_sqlite_flush(l), 0);
    ck_assert_uint_eq(flushes, 1);
    wal_sqlite_flushed(l);
    /* The log is moved: it is flushed already, only the database isn't. */
    ck_assert_int_eq(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL),
                     SQLITE_OK);
    ck_assert_uint_eq(flushes, 2);
    flushes = 0;
    wal_sqlite_defer(l, true);
    ck_assert_int_eq(sqlite3_exec(db, "INSERT INTO t VALUES(2)", NULL, NULL, NULL), SQLITE_OK);
    ck_assert_uint_eq(flushes, 1); /* it has begun anew */
    ck_assert_int_eq(sqlite3_exec(db, "INSERT INTO t VALUES(3)", NULL, NULL, NULL), SQLITE_OK);
    ck_assert_uint_eq(flushes, 1);
    wal_sqlite_defer(l, false);
    /* Not flushed by anybody: whoever moves it does. */
    ck_assert_int_eq(sqlite3_wal_checkpoint_v2(db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL),
                     SQLITE_OK);
    ck_assert_uint_eq(flushes, 3);
    wal_sqlite_defer(l, true);
    ck_assert_int_eq(sqlite3_exec(db, "INSERT INTO t VALUES(4)", NULL, NULL, NULL), SQLITE_OK);
    wal_sqlite_defer(l, false);
    flush_fails = true;
    ck_assert_int_eq(wal_sqlite_flush(l), EIO);
    flush_fails = false;
    sqlite3_close(db);
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (unsigned i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(name, sizeof name, "%s/b.db%s", dir, suffixes[i]);
        unlink(name);
    }
    close_log();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wal");
    TCase *t = tcase_create("wal");
    tcase_add_test(t, test_a_flush_carries_all_of_it);
    tcase_add_test(t, test_nothing_is_flushed_twice);
    tcase_add_test(t, test_a_flush_that_is_deferred);
    tcase_add_test(t, test_whoever_asks_finds_what_was_written);
    tcase_add_test(t, test_a_write_that_fails_fails_the_flush);
    tcase_add_test(t, test_a_write_that_fails_before_the_flush_fails_it);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
