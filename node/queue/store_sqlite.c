/* See store_sqlite.h: opening, schema, transactions, meta. Rows: rows_sqlite.c; walks over many
 * rows: walk_sqlite.c.
 *
 * WAL with synchronous=FULL: a commit is durable when it returns, unless its flush is deferred
 * (store_sqlite_defer). No automatic checkpoint (it would
 * run inside somebody's commit) and none at close: one place, store_sqlite_checkpoint(), does them
 * between transactions. A COMMIT that failed with an I/O error may be there after reopening: the
 * caller ends the epoch, and nobody asks this connection again.
 *
 * Files: PATH (database), PATH-wal, PATH-shm, PATH.lock (who holds it). */
#include "node/queue/store_sqlite.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/protocol.h"
#include "node/queue/internal_sqlite.h"
#include "node/queue/wal_sqlite.h"

enum {
    APPLICATION_ID = 0x42746f6e, /* "Bton" */
    /* The log is moved into the database in steps of 2 MiB, by what a reader of its own has passed,
     * and begun anew at 128 MiB: who comes then waits for two flushes more, and so few do that it
     * doesn't show in the hundredth that waits longest. All of it by the writer's connection,
     * between its commits: up to 3.51 SQLite may take pages for moved that are not, where a second
     * one begins the log anew beside them (its WAL-reset bug). */
    STEP_PAGES = 256,
    CHECKPOINT_PAGES = 16384,
    /* With less room on the disk it is kept to 8 MiB: what it takes, deliveries lack. */
    SPACE_MIN = 512 << 20,
    SHORT_PAGES = 1024,
    LOG_MAX = 256 << 20,
    SHORT_LOG_MAX = 16 << 20,
    SCRATCH_MAX = 1 << 20,
};

/* Indexes are few, and partial where they can be: each insert pays for all of them.
 * message_twin is cut into buckets of 2,048 ids, so that inserts touch a few pages at its end
 * instead of one anywhere for each random hash. */
static const char *const schema[] = {
    "CREATE TABLE store(id INTEGER PRIMARY KEY CHECK(id=1),cluster TEXT NOT NULL,"
    "meta BLOB NOT NULL)",
    "CREATE TABLE message(id INTEGER PRIMARY KEY,epoch INT NOT NULL,lsn INT NOT NULL,"
    "mark INT NOT NULL,state INT NOT NULL,done_ms INT NOT NULL,received_ms INT NOT NULL,"
    "size INT NOT NULL,chunks INT NOT NULL,recipients INT NOT NULL,flags INT NOT NULL,"
    "parent INT NOT NULL,born_epoch INT NOT NULL,born_lsn INT NOT NULL,creator BLOB NOT NULL,"
    "sha256 BLOB NOT NULL,sender TEXT NOT NULL,envid TEXT NOT NULL,campaign TEXT NOT NULL,"
    "origin TEXT NOT NULL,prefix BLOB,body BLOB)",
    "CREATE INDEX message_lsn ON message(lsn)",
    "CREATE INDEX message_live ON message(id) WHERE state=0",
    "CREATE INDEX message_done ON message(done_ms) WHERE state=1",
    "CREATE INDEX message_marked ON message(id) WHERE mark<>0",
    "CREATE INDEX message_parent ON message(parent) WHERE parent<>0",
    "CREATE INDEX message_twin ON message(id>>11,substr(sha256,1,6))",
    "CREATE TABLE recipient(id INT NOT NULL,idx INT NOT NULL,epoch INT NOT NULL,lsn INT NOT NULL,"
    "mark INT NOT NULL,state INT NOT NULL,held INT NOT NULL,notify INT NOT NULL,"
    "in_doubt INT NOT NULL,attempts INT NOT NULL,next_ms INT NOT NULL,last_ms INT NOT NULL,"
    "code INT NOT NULL,address TEXT NOT NULL,domain TEXT NOT NULL,orcpt TEXT NOT NULL,"
    "enhanced TEXT NOT NULL,reply TEXT NOT NULL,remote TEXT NOT NULL,PRIMARY KEY(id,idx))"
    "WITHOUT ROWID",
    "CREATE INDEX recipient_lsn ON recipient(lsn)",
    /* With what its own condition says: else SQLite looks into the table for that. */
    "CREATE INDEX recipient_due ON recipient(domain,next_ms,id,idx,state,held) "
    "WHERE state=1 AND held=0",
    "CREATE INDEX recipient_quarantined ON recipient(next_ms) WHERE state=0",
    "CREATE INDEX recipient_held ON recipient(held) WHERE held<>0",
    "CREATE INDEX recipient_in_doubt ON recipient(in_doubt) WHERE in_doubt<>0",
    "CREATE INDEX recipient_marked ON recipient(id,idx) WHERE mark<>0",
    "CREATE TABLE chunk(id INT NOT NULL,idx INT NOT NULL,epoch INT NOT NULL,lsn INT NOT NULL,"
    "mark INT NOT NULL,data BLOB,UNIQUE(id,idx))",
    "CREATE INDEX chunk_lsn ON chunk(lsn)",
    "CREATE INDEX chunk_marked ON chunk(id,idx) WHERE mark<>0",
    "CREATE TABLE opstate(key TEXT PRIMARY KEY,value TEXT NOT NULL,epoch INT NOT NULL,"
    "lsn INT NOT NULL,mark INT NOT NULL)WITHOUT ROWID",
    "CREATE INDEX opstate_lsn ON opstate(lsn)",
};

static bool encode_meta(struct buf *b, const struct store_meta *m, const uint64_t *counts)
{
    buf_clear(b);
    bool ok = wire_put_u8(b, PROTOCOL) && wire_put_raw(b, m->id.b, STORE_ID_BYTES) &&
              wire_put_u32(b, m->end.epoch) && wire_put_u64(b, m->end.lsn) &&
              wire_put_u32(b, m->committed.epoch) && wire_put_u64(b, m->committed.lsn) &&
              wire_put_u32(b, m->epoch_seen) && wire_put_u8(b, m->copying) &&
              wire_put_u8(b, m->unfit) && wire_put_u64(b, (uint64_t)m->written_ms) &&
              wire_put_u64(b, m->purged) && history_encode(b, &m->history);
    for (unsigned i = 0; i < CLASSES; i++)
        ok = ok && wire_put_u64(b, counts[i]);
    return ok;
}

static bool decode_meta(struct slice s, struct store_meta *m, uint64_t *counts)
{
    struct wire_reader r = wire_read(s);
    if (!protocol_reads(wire_get_u8(&r)))
        return false;
    memset(m, 0, sizeof *m);
    wire_get_raw(&r, m->id.b, STORE_ID_BYTES);
    m->end.epoch = wire_get_u32(&r);
    m->end.lsn = wire_get_u64(&r);
    m->committed.epoch = wire_get_u32(&r);
    m->committed.lsn = wire_get_u64(&r);
    m->epoch_seen = wire_get_u32(&r);
    m->copying = wire_get_u8(&r) != 0;
    m->unfit = wire_get_u8(&r) != 0;
    m->written_ms = (int64_t)wire_get_u64(&r);
    m->purged = wire_get_u64(&r);
    if (!history_decode(&r, &m->history))
        return false;
    for (unsigned i = 0; i < CLASSES; i++)
        counts[i] = wire_get_u64(&r);
    return wire_done(&r);
}

static int load_meta(struct store_sqlite *x)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_META_GET);
    int err = STORE_IO;
    if (!st)
        return err;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        err = decode_meta(sqlite_slice(st, 0), &x->meta, x->counts) ? STORE_OK : STORE_CORRUPT;
    else
        err = rc == SQLITE_DONE ? STORE_CORRUPT : sqlite_error(rc);
    sqlite3_reset(st);
    return err;
}

static int save_meta(struct store_sqlite *x)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_META_SET);
    if (!st || !encode_meta(&x->encoded, &x->meta, x->counts))
        return STORE_IO;
    sqlite3_bind_blob(st, 1, x->encoded.data, (int)x->encoded.len, SQLITE_STATIC);
    return sqlite_run(st);
}

static void get_meta(struct store *s, struct store_meta *out)
{
    *out = sqlite_of(s)->meta;
}

static int set_meta(struct store *s, const struct store_meta *m)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(x->in_transaction && x->lock_fd >= 0);
    uint64_t purged = x->meta.purged;
    x->meta = *m;
    if (x->meta.purged < purged)
        x->meta.purged = purged;
    x->dirty = true;
    return STORE_OK;
}

static int begin(struct store *s)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(!x->in_transaction);
    bool writer = x->lock_fd >= 0;
    int err = sqlite_run(sqlite_statement(x, writer ? ST_BEGIN : ST_BEGIN_READ));
    if (err)
        return err;
    x->in_transaction = true;
    assert(!x->inserts.n && !x->run);
    sqlite_forget_gathered(x);
    if (writer) {
        x->saved_meta = x->meta;
        memcpy(x->saved_counts, x->counts, sizeof x->counts);
        x->dirty = false;
        return STORE_OK;
    }
    err = load_meta(x); /* of this snapshot */
    if (err) {
        x->in_transaction = false;
        sqlite_run(sqlite_statement(x, ST_ROLLBACK));
    }
    return err;
}

static void rollback(struct store *s)
{
    struct store_sqlite *x = sqlite_of(s);
    if (!x->in_transaction)
        return;
    x->in_transaction = false;
    sqlite_forget_gathered(x);
    if (!sqlite3_get_autocommit(x->db)) /* some errors have ended it already */
        sqlite_run(sqlite_statement(x, ST_ROLLBACK));
    if (x->lock_fd < 0)
        return;
    x->meta = x->saved_meta;
    memcpy(x->counts, x->saved_counts, sizeof x->counts);
    memset(x->tallies, 0, TALLIES * sizeof *x->tallies);
    x->orphans_id = 0;
}

static int commit(struct store *s)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(x->in_transaction && x->lock_fd >= 0);
    int err = sqlite_flush(x);
    if (!err && (x->dirty || memcmp(x->counts, x->saved_counts, sizeof x->counts)))
        err = save_meta(x);
    if (!err)
        err = sqlite_run(sqlite_statement(x, ST_COMMIT));
    if (err) {
        log_error("storage.commit", "error=\"%s\"", sqlite3_errmsg(x->db));
        rollback(s);
        return err;
    }
    x->in_transaction = false;
    return STORE_OK;
}

static int wipe(struct store *s, const struct store_id *fresh)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(x->in_transaction);
    sqlite_forget_gathered(x);
    int rc = sqlite3_exec(x->db,
                          "DELETE FROM message;DELETE FROM recipient;DELETE FROM chunk;"
                          "DELETE FROM opstate",
                          NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return sqlite_error(rc);
    memset(&x->meta, 0, sizeof x->meta);
    memset(x->counts, 0, sizeof x->counts);
    memset(x->tallies, 0, TALLIES * sizeof *x->tallies);
    x->meta.id = *fresh;
    x->meta.copying = true;
    x->dirty = true;
    return STORE_OK;
}

static const struct store_ops operations = {
    .get_meta = get_meta,
    .begin = begin,
    .commit = commit,
    .rollback = rollback,
    .set_meta = set_meta,
    .put = sqlite_put,
    .get = sqlite_get,
    .get_head = sqlite_get_head,
    .each_recipient = sqlite_each_recipient,
    .changes_after = sqlite_changes_after,
    .mark_unmerged = sqlite_mark_unmerged,
    .each_unmerged = sqlite_each_unmerged,
    .unmark = sqlite_unmark,
    .count_recipients = sqlite_count_recipients,
    .find_twin = sqlite_find_twin,
    .each_bounce = sqlite_each_bounce,
    .each_noted = sqlite_each_noted,
    .purge = sqlite_purge,
    .wipe = wipe,
};

void store_sqlite_counts(struct store *s, uint64_t out[CLASSES])
{
    const struct store_sqlite *x = sqlite_of(s);
    memcpy(out, x->in_transaction ? x->saved_counts : x->counts, sizeof x->counts);
}

int64_t store_sqlite_oldest(struct store *s)
{
    sqlite3_stmt *st = sqlite_statement(sqlite_of(s), ST_MESSAGE_OLDEST);
    int64_t ms = st && sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
    if (st)
        sqlite3_reset(st);
    return ms;
}

const char *store_sqlite_error(struct store *s)
{
    return sqlite3_errmsg(sqlite_of(s)->db);
}

static int count_pages(void *ctx, sqlite3 *db, const char *name, int pages)
{
    (void)db;
    (void)name;
    struct store_sqlite *x = ctx;
    if (pages < x->wal_pages) /* begun anew */
        x->wal_tried = 0;
    x->wal_pages = pages;
    return SQLITE_OK;
}

static void unpin(struct store_sqlite *x)
{
    if (x->pinned)
        sqlite3_reset(x->pin_st);
    x->pinned = false;
}

static void close_pin(struct store_sqlite *x)
{
    x->pinned = false;
    sqlite3_finalize(x->pin_st);
    sqlite3_close(x->pin);
    x->pin_st = NULL;
    x->pin = NULL;
}

/* Sees what is committed by now. Where it can't be opened the log is moved whole, or not at all. */
static void pin(struct store_sqlite *x)
{
    unpin(x);
    int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX;
    if (!x->pin_st)
        close_pin(x); /* tried in vain before */
    if (!x->pin && sqlite3_open_v2(x->path, &x->pin, flags, NULL) == SQLITE_OK) {
        sqlite3_db_config(x->pin, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
        sqlite3_prepare_v2(x->pin, "SELECT id FROM store", -1, &x->pin_st, NULL);
    }
    x->pinned = x->pin_st && sqlite3_step(x->pin_st) == SQLITE_ROW;
}

static void limit_log(struct store_sqlite *x, int bytes)
{
    char text[64];
    snprintf(text, sizeof text, "PRAGMA journal_size_limit=%d", bytes);
    sqlite3_exec(x->db, text, NULL, NULL, NULL);
}

/* A log that is longer than its limit is cut when it is begun anew. */
static bool keep_short(struct store_sqlite *x)
{
    struct statvfs v;
    bool is =
        fstatvfs(x->lock_fd, &v) != 0 || (uint64_t)v.f_bavail * v.f_frsize < (uint64_t)SPACE_MIN;
    if (is != x->log_short)
        limit_log(x, is ? SHORT_LOG_MAX : LOG_MAX);
    x->log_short = is;
    return is;
}

/* What a step has written goes on its way to the disk now, so that the flush at the end finds
 * little left to do. Only begun, and nothing relies on it. */
static void start_writing(struct store_sqlite *x)
{
    if (x->fd >= 0)
        sync_file_range(x->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

bool store_sqlite_checkpoint_overdue(const struct store *s)
{
    const struct store_sqlite *x = (const struct store_sqlite *)s;
    int most = x->log_short ? SHORT_PAGES : CHECKPOINT_PAGES;
    return x->wal_pages - x->wal_tried >= (x->wal_pages >= most ? STEP_PAGES : 4 * STEP_PAGES);
}

bool store_sqlite_defer(struct store *s, bool on)
{
    struct store_sqlite *x = sqlite_of(s);
    if (on)
        x->log = wal_sqlite_log(x->db);
    if (x->log)
        wal_sqlite_defer(x->log, on);
    return x->log != NULL;
}

int store_sqlite_flush(const struct store *s)
{
    const struct store_sqlite *x = (const struct store_sqlite *)s;
    int e = wal_sqlite_flush(x->log);
    if (e)
        log_error("storage.flush", "error=\"%s\"", strerror(e));
    return e ? STORE_IO : STORE_OK;
}

void store_sqlite_flushed(struct store *s)
{
    wal_sqlite_flushed(sqlite_of(s)->log);
}

void store_sqlite_unflushed(struct store *s, const struct store_meta *before)
{
    sqlite_of(s)->meta = *before;
}

/* What is behind the pin can't be moved yet, so SQLite moves what is before it and flushes nothing:
 * a step costs memory's time. Moved whole, the log costs three flushes in a row: the database, the
 * beginning of the new log, and the commit that waits for both. */
int store_sqlite_checkpoint(struct store *s)
{
    struct store_sqlite *x = sqlite_of(s);
    assert(!x->in_transaction);
    if (x->wal_pages - x->wal_tried < STEP_PAGES)
        return STORE_OK;
    bool whole = x->wal_pages >= (keep_short(x) ? SHORT_PAGES : CHECKPOINT_PAGES);
    int rc = SQLITE_OK;
    if (whole)
        unpin(x);
    if (whole || x->pinned)
        rc = sqlite3_wal_checkpoint_v2(x->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (rc != SQLITE_OK && rc != SQLITE_BUSY)
        log_warn("storage.checkpoint", "error=\"%s\"", sqlite3_errmsg(x->db));
    /* All moved: the next commit starts the WAL anew and says so. Else a reader holds it: don't try
     * again before it has grown by as much. */
    x->wal_tried = x->wal_pages;
    if (!whole) {
        start_writing(x);
        pin(x);
    }
    /* A failed flush is final (protocol 6). A full disk isn't: all of it is in the WAL still. */
    return rc == SQLITE_OK || rc == SQLITE_BUSY || rc == SQLITE_FULL ? STORE_OK : sqlite_error(rc);
}

/* Whoever held this store before may have been killed between a write and its flush: what is read
 * here may be in the kernel's cache only, or, after a failed flush, will never be on the disk by
 * itself. Whatever this store says it holds it says of the disk: all of the WAL is flushed, moved
 * and flushed again before anybody asks. */
static bool settle_wal(struct store_sqlite *x, const char *path, char *err, size_t n)
{
    int rc = sqlite3_wal_checkpoint_v2(x->db, NULL, SQLITE_CHECKPOINT_FULL, NULL, NULL);
    if (rc == SQLITE_OK || rc == SQLITE_FULL) /* flushed, at least; delivering frees space */
        return true;
    snprintf(err, n, "%s: can't be flushed (%s); check the disk", path, sqlite3_errmsg(x->db));
    return false;
}

static bool pragma_int(sqlite3 *db, const char *text, int *out)
{
    sqlite3_stmt *st;
    if (sqlite3_prepare_v2(db, text, -1, &st, NULL) != SQLITE_OK)
        return false;
    bool ok = sqlite3_step(st) == SQLITE_ROW;
    *out = ok ? sqlite3_column_int(st, 0) : 0;
    sqlite3_finalize(st);
    return ok;
}

static bool create(struct store_sqlite *x, const char *cluster)
{
    char text[160];
    bool ok = sqlite3_exec(x->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
    for (unsigned i = 0; ok && i < sizeof schema / sizeof *schema; i++)
        ok = sqlite3_exec(x->db, schema[i], NULL, NULL, NULL) == SQLITE_OK;
    snprintf(text, sizeof text, "PRAGMA application_id=%d;PRAGMA user_version=%d", APPLICATION_ID,
             (int)PROTOCOL);
    ok = ok && sqlite3_exec(x->db, text, NULL, NULL, NULL) == SQLITE_OK;
    memset(&x->meta, 0, sizeof x->meta);
    crypto_random(x->meta.id.b, STORE_ID_BYTES);
    sqlite3_stmt *st = NULL;
    ok = ok && encode_meta(&x->encoded, &x->meta, x->counts) &&
         sqlite3_prepare_v2(x->db, "INSERT INTO store(id,cluster,meta)VALUES(1,?1,?2)", -1, &st,
                            NULL) == SQLITE_OK;
    if (ok) {
        sqlite_bind(st, 1, slice_str(cluster));
        sqlite3_bind_blob(st, 2, x->encoded.data, (int)x->encoded.len, SQLITE_STATIC);
        ok = sqlite3_step(st) == SQLITE_DONE;
    }
    sqlite3_finalize(st);
    return ok && sqlite3_exec(x->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
}

/* From the version before, in one transaction. Statements that change the schema for a version
 * belong here. There is no way back but an empty store, which fills from the peer. */
static bool upgrade(struct store_sqlite *x, const char *path, char *err, size_t n)
{
    char text[64];
    snprintf(text, sizeof text, "PRAGMA user_version=%d", (int)PROTOCOL);
    bool ok = sqlite3_exec(x->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK &&
              sqlite3_exec(x->db, text, NULL, NULL, NULL) == SQLITE_OK &&
              save_meta(x) == STORE_OK &&
              sqlite3_exec(x->db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK;
    if (ok)
        log_info("store.upgraded", "path=%s version=%d", path, (int)PROTOCOL);
    else
        snprintf(err, n, "%s: can't be upgraded to schema version %d (%s); check space", path,
                 (int)PROTOCOL, sqlite3_errmsg(x->db));
    return ok;
}

static bool check(struct store_sqlite *x, const char *path, const char *cluster, char *err,
                  size_t n)
{
    int application, version, tables;
    if (!pragma_int(x->db, "PRAGMA application_id", &application) ||
        !pragma_int(x->db, "PRAGMA user_version", &version) ||
        !pragma_int(x->db, "SELECT count(*) FROM sqlite_schema", &tables)) {
        snprintf(err, n,
                 "%s: can't be read as a store (%s); move it away to start with an empty one, "
                 "which fills from the peer",
                 path, sqlite3_errmsg(x->db));
        return false;
    }
    if (!application && !tables) {
        if (create(x, cluster))
            return true;
        snprintf(err, n, "%s: can't create the store (%s); check space and permissions", path,
                 sqlite3_errmsg(x->db));
        return false;
    }
    if (application != APPLICATION_ID) {
        snprintf(err, n, "%s: is a database of another program; set `store` to a path of its own",
                 path);
        return false;
    }
    if (version < 0 || !protocol_reads((unsigned)version)) {
        snprintf(err, n,
                 "%s: has schema version %d, this program reads %d to %d; install the version of "
                 "Baton that wrote it, or one in between",
                 path, version, (int)PROTOCOL_OLDEST, (int)PROTOCOL);
        return false;
    }
    sqlite3_stmt *st;
    char *found = NULL;
    if (sqlite3_prepare_v2(x->db, "SELECT cluster FROM store", -1, &st, NULL) == SQLITE_OK &&
        sqlite3_step(st) == SQLITE_ROW)
        found = slice_dup(sqlite_slice(st, 0));
    sqlite3_finalize(st);
    bool ok = found && strcmp(found, cluster) == 0 && load_meta(x) == STORE_OK;
    if (!ok && found && strcmp(found, cluster) != 0)
        snprintf(err, n,
                 "%s: belongs to cluster \"%s\", not \"%s\"; correct `cluster`, or set `store` to "
                 "another path",
                 path, found, cluster);
    else if (!ok)
        snprintf(err, n,
                 "%s: is damaged (%s); move it away to start with an empty one, which "
                 "fills from the peer",
                 path, sqlite3_errmsg(x->db));
    free(found);
    return ok && (version == PROTOCOL || upgrade(x, path, err, n));
}

static int take_lock(const char *path, char *err, size_t n)
{
    char file[4096];
    snprintf(file, sizeof file, "%s.lock", path);
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        snprintf(err, n, "%s: %s; the directory must exist and be writable for this user", file,
                 strerror(errno));
        return -1;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        snprintf(err, n,
                 "%s: is in use by another process; stop that batond first, or set `store` to "
                 "another path",
                 path);
        close(fd);
        return -1;
    }
    return fd;
}

static struct store_sqlite *make(void)
{
    struct store_sqlite *x = xcalloc(1, sizeof *x);
    x->base.ops = &operations;
    x->lock_fd = x->fd = -1;
    buf_init(&x->scratch, SCRATCH_MAX);
    sqlite_gather_init(x);
    buf_init(&x->encoded, 65536);
    x->tallies = xcalloc(TALLIES, sizeof *x->tallies);
    return x;
}

static bool open_writer(struct store_sqlite *x, const char *path, char *err, size_t n)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    const char *vfs = wal_sqlite_vfs();
    x->fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
    if (!vfs || sqlite3_open_v2(path, &x->db, flags, vfs) != SQLITE_OK) {
        snprintf(err, n, "%s: %s; check path and permissions", path,
                 vfs ? sqlite3_errmsg(x->db) : "no VFS");
        return false;
    }
    sqlite3_busy_timeout(x->db, 1000);
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    /* Small blocks of its own: else the prepared statements hold them all, and some sixty
     * allocations a message go to malloc. Only a saving: it may be refused. */
    sqlite3_db_config(x->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, 1200, 800);
    int rc = sqlite3_exec(x->db,
                          "PRAGMA page_size=8192;PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;"
                          "PRAGMA secure_delete=OFF;PRAGMA wal_autocheckpoint=0;"
                          "PRAGMA cache_size=-32768;"
                          "PRAGMA foreign_keys=OFF;PRAGMA temp_store=MEMORY",
                          NULL, NULL, NULL);
    if (rc == SQLITE_OK) {
        x->log_short = false;
        limit_log(x, LOG_MAX);
        return true;
    }
    snprintf(err, n,
             "%s: can't be read as a store (%s); move it away to start with an empty one, "
             "which fills from the peer",
             path, sqlite3_errmsg(x->db));
    return false;
}

struct store *store_sqlite_open(const char *path, const char *cluster, char *err, size_t n)
{
    struct store_sqlite *x = make();
    x->path = xstrdup(path);
    x->cluster = xstrdup(cluster);
    x->lock_fd = take_lock(path, err, n);
    if (x->lock_fd < 0 || !open_writer(x, path, err, n) || !check(x, path, cluster, err, n) ||
        !settle_wal(x, path, err, n)) {
        store_sqlite_close(&x->base);
        return NULL;
    }
    sqlite3_wal_hook(x->db, count_pages, x);
    return &x->base;
}

static void close_db(struct store_sqlite *x)
{
    for (unsigned i = 0; i < STATEMENTS; i++) {
        sqlite3_finalize(x->st[i]);
        x->st[i] = NULL;
    }
    close_pin(x);
    sqlite3_close(x->db);
    x->db = NULL;
    /* Not before: a close of any descriptor of a file lets go of all this process's locks on it. */
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
}

int store_sqlite_replace(struct store *s, const struct store_meta *meta)
{
    struct store_sqlite *x = sqlite_of(s);
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char from[4096], to[4096], err[300];
    assert(!x->in_transaction && x->lock_fd >= 0);
    close_db(x);
    for (unsigned i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        snprintf(from, sizeof from, "%s%s", x->path, suffixes[i]);
        snprintf(to, sizeof to, "%s.damaged%s", x->path, suffixes[i]);
        unlink(to);
        if (rename(from, to) != 0 && errno != ENOENT)
            return STORE_IO;
    }
    x->meta.purged = 0;
    memset(x->counts, 0, sizeof x->counts);
    memset(x->tallies, 0, TALLIES * sizeof *x->tallies);
    x->orphans_id = 0;
    if (!open_writer(x, x->path, err, sizeof err) ||
        !check(x, x->path, x->cluster, err, sizeof err)) {
        log_error("storage.replace", "error=\"%s\"", err);
        return STORE_IO;
    }
    sqlite3_wal_hook(x->db, count_pages, x);
    int e = begin(s);
    if (e)
        return e;
    e = set_meta(s, meta);
    log_warn("storage.replaced", "the damaged store is kept as %s.damaged", x->path);
    return e ? e : commit(s);
}

struct store *store_sqlite_open_reader(const char *path, char *err, size_t n)
{
    struct store_sqlite *x = make();
    if (sqlite3_open_v2(path, &x->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
            SQLITE_OK ||
        sqlite3_exec(x->db, "PRAGMA cache_size=-8192;PRAGMA query_only=ON", NULL, NULL, NULL) !=
            SQLITE_OK) {
        snprintf(err, n, "%s: %s", path, sqlite3_errmsg(x->db));
        store_sqlite_close(&x->base);
        return NULL;
    }
    sqlite3_busy_timeout(x->db, 1000);
    return &x->base;
}

void store_sqlite_close(struct store *s)
{
    if (!s)
        return;
    struct store_sqlite *x = sqlite_of(s);
    rollback(s);
    close_db(x);
    free(x->path);
    free(x->cluster);
    if (x->lock_fd >= 0)
        close(x->lock_fd);
    free(x->tallies);
    buf_free(&x->scratch);
    sqlite_gather_free(x);
    buf_free(&x->encoded);
    free(x);
}
