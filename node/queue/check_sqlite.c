/* Finding out whether a store is whole (protocol 5: "store checked"; 6: a failed fsync is final for
 * a store until it is checked). Only after an error: a start's time must not grow with the queue.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/base/log.h"
#include "node/queue/internal_sqlite.h"

enum { STEPS = 200000 /* of SQLite's machine between two looks: some milliseconds */ };

static void check_file(char *out, size_t n, const char *path)
{
    snprintf(out, n, "%s.check", path);
}

/* The folder's entry as well: the disk may be about to fail for good. */
static void sync_folder(const char *path)
{
    char *folder = xstrdup(path), *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

void store_sqlite_mark(const char *path)
{
    char file[4096];
    check_file(file, sizeof file, path);
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || fsync(fd) != 0)
        log_error("storage.mark", "file=%s error=\"%s\": the next start won't check the store",
                  file, strerror(errno));
    if (fd >= 0)
        close(fd);
    sync_folder(path);
}

bool store_sqlite_marked(const char *path)
{
    char file[4096];
    check_file(file, sizeof file, path);
    return access(file, F_OK) == 0;
}

void store_sqlite_unmark_check(const char *path)
{
    char file[4096];
    check_file(file, sizeof file, path);
    if (unlink(file) != 0 && errno != ENOENT)
        log_warn("storage.mark", "file=%s error=\"%s\"", file, strerror(errno));
    sync_folder(path);
}

struct looking {
    store_sqlite_progress_fn progress;
    void *ctx;
    const char *table;
    unsigned i, n;
};

static int look(void *ctx)
{
    struct looking *l = ctx;
    return !l->progress(l->ctx, l->table, l->i, l->n);
}

static int check_table(struct store_sqlite *x, const char *table, char *detail, size_t n)
{
    char sql[80];
    sqlite3_stmt *st;
    snprintf(sql, sizeof sql, "PRAGMA quick_check(%s)", table);
    int rc = sqlite3_prepare_v2(x->db, sql, -1, &st, NULL);
    bool good = true;
    while (rc == SQLITE_OK || rc == SQLITE_ROW) {
        rc = sqlite3_step(st);
        struct slice found = rc == SQLITE_ROW ? sqlite_slice(st, 0) : SLICE_LIT("ok");
        if (good && !slice_eq(found, SLICE_LIT("ok"))) {
            good = false;
            snprintf(detail, n, "%s: %.*s", table, (int)(found.n < 150 ? found.n : 150),
                     (const char *)found.p);
        }
    }
    if (rc != SQLITE_DONE && good)
        snprintf(detail, n, "%s: %s", table, sqlite3_errmsg(x->db));
    sqlite3_finalize(st);
    if (rc == SQLITE_INTERRUPT)
        return STORE_CONFLICT;
    /* What can't even be read is damaged as well. */
    return good && rc == SQLITE_DONE ? STORE_OK : STORE_CORRUPT;
}

int store_sqlite_check(struct store *s, store_sqlite_progress_fn progress, void *ctx, char *detail,
                       size_t n)
{
    static const char *const tables[] = {"store", "opstate", "message", "recipient", "chunk"};
    struct store_sqlite *x = sqlite_of(s);
    struct looking l = {.progress = progress, .ctx = ctx, .n = sizeof tables / sizeof *tables};
    int err = STORE_OK;
    sqlite3_progress_handler(x->db, STEPS, look, &l);
    for (; !err && l.i < l.n; l.i++) {
        l.table = tables[l.i];
        err =
            progress(ctx, l.table, l.i, l.n) ? check_table(x, l.table, detail, n) : STORE_CONFLICT;
    }
    sqlite3_progress_handler(x->db, 0, NULL, NULL);
    return err;
}
