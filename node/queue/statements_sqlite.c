/* Every fixed statement of the store, prepared when it is first used. */
#include <assert.h>
#include <stdatomic.h>

#include "node/base/log.h"
#include "node/queue/internal_sqlite.h"

/* One recipient's values. */
#define ROW_1  "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
#define ROWS_4 ROW_1 "," ROW_1 "," ROW_1 "," ROW_1

static const char *const text[STATEMENTS] = {
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_BEGIN_READ] = "BEGIN",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_META_GET] = "SELECT meta FROM store WHERE id=1",
    [ST_META_SET] = "UPDATE store SET meta=?1 WHERE id=1",

    [ST_MESSAGE_INSERT] =
        "INSERT INTO message(" MESSAGE_COLUMNS ")VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
        "?13,?14,?15,?16,?17,?18,?19,?20,?21,?22)ON CONFLICT(id)DO NOTHING",
    [ST_MESSAGE_UPDATE] =
        "UPDATE message SET(" MESSAGE_COLUMNS ")=(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,"
        "?13,?14,?15,?16,?17,?18,?19,?20,?21,?22)WHERE id=?1",
    /* What is never changed isn't set again: its indexes stay untouched. */
    [ST_MESSAGE_DONE] = "UPDATE message SET epoch=?2,lsn=?3,mark=?4,state=?5,done_ms=?6,"
                        "born_epoch=?13,born_lsn=?14,body=NULL "
                        "WHERE id=?1 AND sha256=?16 AND recipients=?10 AND size=?8 AND sender=?17",
    [ST_MESSAGE_GET] = "SELECT " MESSAGE_COLUMNS " FROM message WHERE id=?1",
    [ST_MESSAGE_HEAD] = "SELECT " MESSAGE_HEAD " FROM message WHERE id=?1",
    [ST_MESSAGE_STATE] = "SELECT state FROM message WHERE id=?1",
    [ST_MESSAGE_CHANGES] = "SELECT " MESSAGE_COLUMNS " FROM message WHERE lsn>?1 ORDER BY lsn",
    [ST_MESSAGE_MARKED] = "SELECT " MESSAGE_COLUMNS " FROM message WHERE mark<>0 ORDER BY id",
    [ST_MESSAGE_BEYOND] = "SELECT id,epoch,lsn,born_epoch,born_lsn FROM message "
                          "WHERE lsn>?1 AND mark=0",
    [ST_MESSAGE_MARK] = "UPDATE message SET mark=?2 WHERE id=?1",
    [ST_MESSAGE_BORN] = "SELECT born_epoch,born_lsn FROM message WHERE id=?1",
    [ST_MESSAGE_DELETE] = "DELETE FROM message WHERE id=?1",
    [ST_MESSAGE_IDS] = "SELECT id FROM message WHERE id>?1 AND id<=?2 ORDER BY id LIMIT ?3",
    [ST_MESSAGE_LIVE_IDS] = "SELECT id FROM message INDEXED BY message_live WHERE state=0 AND "
                            "id>?1 AND id<=?2 ORDER BY id LIMIT ?3",
    [ST_MESSAGE_NEXT] = "SELECT id FROM message WHERE id>=?1 ORDER BY id LIMIT 1",
    [ST_MESSAGE_TWIN] = "SELECT id FROM message INDEXED BY message_twin "
                        "WHERE (id>>11)=?1 AND substr(sha256,1,6)=substr(?2,1,6) AND sha256=?2 "
                        "AND id>?3 AND size=?4 AND recipients=?5 AND sender=?6 "
                        "ORDER BY id LIMIT 1",
    [ST_MESSAGE_BOUNCES] =
        "SELECT " MESSAGE_COLUMNS " FROM message WHERE parent=?1 AND parent<>0 ORDER BY id",
    [ST_MESSAGE_TOMBSTONES] = "SELECT id,lsn FROM message WHERE state=1 AND done_ms<?1 AND mark=0 "
                              "AND lsn<?3 ORDER BY done_ms LIMIT ?2",
    [ST_MESSAGE_OLDEST] = "SELECT received_ms FROM message INDEXED BY message_live WHERE state=0 "
                          "ORDER BY id LIMIT 1",

    [ST_MESSAGE_ONLY_HERE] = "SELECT count(*) FROM message WHERE state=0 AND born_lsn>?1 AND "
                             "(lsn>?1 OR mark<>0)",

    [ST_RECIPIENT_INSERT] =
        "INSERT INTO recipient(" RECIPIENT_COLUMNS
        ")VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19)"
        "ON CONFLICT(id,idx)DO NOTHING",
    [ST_RECIPIENT_INSERT_4] = "INSERT INTO recipient(" RECIPIENT_COLUMNS ")VALUES" ROWS_4,
    [ST_RECIPIENT_INSERT_16] = "INSERT INTO recipient(" RECIPIENT_COLUMNS ")VALUES" ROWS_4
                               "," ROWS_4 "," ROWS_4 "," ROWS_4,
    [ST_RECIPIENT_UPDATE] =
        "UPDATE recipient SET epoch=?3,lsn=?4,mark=?5,state=?6,held=?7,notify=?8,in_doubt=?9,"
        "attempts=?10,next_ms=?11,last_ms=?12,code=?13,address=?14,domain=?15,orcpt=?16,"
        "enhanced=?17,reply=?18,remote=?19 WHERE id=?1 AND idx=?2",
    /* What an attempt changes: SQLite leaves the indexes of the other columns alone. */
    [ST_RECIPIENT_OUTCOME] =
        "UPDATE recipient SET epoch=?3,lsn=?4,state=?5,attempts=?6,next_ms=?7,last_ms=?8,code=?9,"
        "enhanced=?10,reply=?11,remote=?12 WHERE id=?1 AND idx=?2",
    [ST_RECIPIENT_OUTCOMES] =
        "UPDATE recipient SET epoch=?3,lsn=?4+idx-?2,state=?5,attempts=?6,next_ms=?7,last_ms=?8,"
        "code=?9,enhanced=?10,reply=?11,remote=?12 WHERE id=?1 AND idx>=?2 AND idx<=?13",
    [ST_RECIPIENT_GET] = "SELECT " RECIPIENT_COLUMNS " FROM recipient WHERE id=?1 AND idx=?2",
    [ST_RECIPIENT_AHEAD] =
        "SELECT " RECIPIENT_COLUMNS " FROM recipient WHERE id=?1 AND idx>=?2 ORDER BY idx LIMIT 16",
    [ST_RECIPIENT_CLASS] =
        "SELECT state,held,in_doubt,attempts FROM recipient WHERE id=?1 AND idx=?2",
    [ST_RECIPIENT_CLASSES] = "SELECT state,held,in_doubt,attempts FROM recipient WHERE id=?1",
    [ST_HIGHEST] = "SELECT (SELECT max(id) FROM recipient),(SELECT max(id) FROM chunk)",
    [ST_RECIPIENT_EACH] = "SELECT " RECIPIENT_COLUMNS " FROM recipient WHERE id=?1 ORDER BY idx",
    [ST_RECIPIENT_NOTED] =
        "SELECT " RECIPIENT_COLUMNS " FROM recipient INDEXED BY recipient_in_doubt "
        "WHERE in_doubt=1 AND in_doubt<>0 AND state=1 ORDER BY id,idx",
    [ST_RECIPIENT_CHANGES] =
        "SELECT " RECIPIENT_COLUMNS " FROM recipient WHERE lsn>?1 ORDER BY lsn",
    [ST_RECIPIENT_MARKED] =
        "SELECT " RECIPIENT_COLUMNS " FROM recipient WHERE mark<>0 ORDER BY id,idx",
    [ST_RECIPIENT_BEYOND] =
        "SELECT t.id,t.epoch,t.lsn,m.born_epoch,m.born_lsn,t.idx FROM recipient t "
        "LEFT JOIN message m ON m.id=t.id WHERE t.lsn>?1 AND t.mark=0",
    [ST_RECIPIENT_MARK] = "UPDATE recipient SET mark=?2 WHERE id=?1 AND idx=?3",
    /* UNMERGED_TAKEN, in the words of the index */
    [ST_RECIPIENT_TAKEN] = "UPDATE recipient SET mark=1 WHERE mark<>0 AND mark=3",
    [ST_RECIPIENT_DELETE] = "DELETE FROM recipient WHERE id=?1",

    [ST_CHUNK_PUT] = "INSERT INTO chunk(" CHUNK_COLUMNS ")VALUES(?1,?2,?3,?4,?5,?6)"
                     "ON CONFLICT(id,idx)DO UPDATE SET epoch=?3,lsn=?4,mark=?5,data=?6",
    [ST_CHUNK_GET] = "SELECT " CHUNK_COLUMNS " FROM chunk WHERE id=?1 AND idx=?2",
    [ST_CHUNK_CHANGES] = "SELECT " CHUNK_COLUMNS " FROM chunk WHERE lsn>?1 ORDER BY lsn",
    [ST_CHUNK_MARKED] = "SELECT " CHUNK_COLUMNS " FROM chunk WHERE mark<>0 ORDER BY id,idx",
    [ST_CHUNK_BEYOND] = "SELECT t.id,t.epoch,t.lsn,m.born_epoch,m.born_lsn,t.idx FROM chunk t "
                        "LEFT JOIN message m ON m.id=t.id WHERE t.lsn>?1 AND t.mark=0 "
                        "UNION ALL SELECT t.id,t.epoch,t.lsn,m.born_epoch,m.born_lsn,t.idx FROM "
                        "message m JOIN chunk t ON t.id=m.id WHERE m.lsn>?1 AND m.born_lsn>?1 AND "
                        "t.lsn<=?1 AND t.mark=0",
    [ST_CHUNK_MARK] = "UPDATE chunk SET mark=?2 WHERE id=?1 AND idx=?3",
    [ST_CHUNK_DELETE] = "DELETE FROM chunk WHERE id=?1",
    [ST_CHUNK_IDS] = "SELECT DISTINCT id FROM chunk WHERE id>?1 ORDER BY id LIMIT ?2",
    [ST_CHUNK_ORPHANS] = "DELETE FROM chunk WHERE id=?1 AND epoch<?2 AND mark=0",

    [ST_OPSTATE_PUT] = "INSERT INTO opstate(" OPSTATE_COLUMNS ")VALUES(?1,?2,?3,?4,?5)"
                       "ON CONFLICT(key)DO UPDATE SET value=?2,epoch=?3,lsn=?4,mark=?5",
    [ST_OPSTATE_GET] = "SELECT " OPSTATE_COLUMNS " FROM opstate WHERE key=?1",
    [ST_OPSTATE_CHANGES] = "SELECT " OPSTATE_COLUMNS " FROM opstate WHERE lsn>?1 ORDER BY lsn",
    [ST_OPSTATE_MARKED] = "SELECT " OPSTATE_COLUMNS " FROM opstate WHERE mark<>0 ORDER BY key",
    [ST_OPSTATE_BEYOND] = "SELECT key,epoch,lsn FROM opstate WHERE lsn>?1 AND mark=0",
    [ST_OPSTATE_MARK] = "UPDATE opstate SET mark=?2 WHERE key=?1",
    [ST_OPSTATE_PREFIX] =
        "SELECT " OPSTATE_COLUMNS
        " FROM opstate WHERE key>=?1 AND key>?2 AND substr(key,1,length(?1))=?1 ORDER BY key",
    [ST_OPSTATE_VALUE] = "SELECT value<>'' FROM opstate WHERE key=?1",

    [ST_DOMAIN_NEXT] = "SELECT domain,next_ms FROM recipient INDEXED BY recipient_due "
                       "WHERE state=1 AND held=0 AND domain>?1 ORDER BY domain,next_ms LIMIT 1",
    [ST_DUE] = "SELECT " RECIPIENT_COLUMNS " FROM recipient INDEXED BY recipient_due "
               "WHERE state=1 AND held=0 AND domain=?1 AND next_ms<=?2 AND "
               "(next_ms,id,idx)>(?3,?4,?5) AND lsn<=?6 ORDER BY next_ms,id,idx",
    [ST_BODY_INLINE] = "SELECT substr(body,?2,?3),chunks FROM message WHERE id=?1",
    [ST_NEXT_DUE] = "SELECT next_ms FROM recipient INDEXED BY recipient_due WHERE state=1 AND "
                    "held=0 AND domain=?1 AND next_ms>?2 ORDER BY next_ms LIMIT 1",
    [ST_NEXT_QUARANTINED] = "SELECT next_ms FROM recipient INDEXED BY recipient_quarantined "
                            "WHERE state=0 AND held=0 AND next_ms>?1 ORDER BY next_ms LIMIT 1",
    [ST_QUARANTINED_IDS] = "SELECT DISTINCT r.id,m.sha256 FROM recipient r JOIN message m ON "
                           "m.id=r.id WHERE r.state=0 LIMIT ?1",
    /* Is any time of a recipient beyond ?1? A step for each domain and each in doubt. What an
     * operator holds isn't looked at: to be released gives it a new time. */
    [ST_AHEAD] =
        "SELECT EXISTS(SELECT 1 FROM recipient INDEXED BY recipient_quarantined "
        "WHERE state=0 AND next_ms>?1)OR EXISTS(SELECT 1 FROM recipient INDEXED BY "
        "recipient_in_doubt WHERE in_doubt<>0 AND state=1 AND next_ms>?1)OR EXISTS("
        "WITH RECURSIVE d(name)AS(SELECT min(domain)FROM recipient INDEXED BY recipient_due "
        "WHERE state=1 AND held=0 UNION ALL SELECT(SELECT min(domain)FROM recipient "
        "INDEXED BY recipient_due WHERE state=1 AND held=0 AND domain>name)"
        "FROM d WHERE name IS NOT NULL)"
        "SELECT 1 FROM d CROSS JOIN recipient r INDEXED BY recipient_due "
        "WHERE r.state=1 AND r.held=0 AND r.domain=name AND r.next_ms>?1)",
    [ST_RELEASE_DUE] = "SELECT " RECIPIENT_COLUMNS " FROM recipient INDEXED BY "
                       "recipient_quarantined WHERE state=0 AND held=0 AND next_ms<=?1 "
                       "ORDER BY next_ms LIMIT ?2",
};

/* May it look at recipients that have gathered? */
static bool is_about_recipients(enum statement id)
{
    return (id > ST_RECIPIENT_OUTCOMES && id <= ST_RECIPIENT_DELETE && id != ST_HIGHEST) ||
           (id >= ST_DOMAIN_NEXT && id != ST_BODY_INLINE);
}

/* Or change what has been read ahead? An INSERT changes no row that is there, and whoever updates
 * one says so (sqlite_changes()). */
static bool changes_recipients(enum statement id)
{
    return id == ST_RECIPIENT_MARK || id == ST_RECIPIENT_TAKEN || id == ST_RECIPIENT_DELETE;
}

sqlite3_stmt *sqlite_statement(struct store_sqlite *x, enum statement id)
{
    assert(id < STATEMENTS && text[id]);
    assert((!x->inserts.n && !x->run) || !is_about_recipients(id));
    if (changes_recipients(id))
        x->ahead.n = 0;
    if (!x->st[id] && sqlite3_prepare_v3(x->db, text[id], -1, SQLITE_PREPARE_PERSISTENT, &x->st[id],
                                         NULL) != SQLITE_OK)
        log_error("storage.statement", "error=\"%s\" sql=\"%s\"", sqlite3_errmsg(x->db), text[id]);
    return x->st[id];
}

static _Atomic bool damage_seen;

bool store_sqlite_saw_damage(void)
{
    return atomic_exchange(&damage_seen, false);
}

int sqlite_error(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return STORE_OK;
    case SQLITE_FULL:
        return STORE_FULL;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        atomic_store(&damage_seen, true);
        return STORE_CORRUPT;
    default:
        return STORE_IO;
    }
}

int sqlite_run(sqlite3_stmt *st)
{
    int rc;
    if (!st)
        return STORE_IO;
    do
        rc = sqlite3_step(st);
    while (rc == SQLITE_ROW);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

void sqlite_bind(sqlite3_stmt *st, int i, struct slice s)
{
    sqlite3_bind_text(st, i, s.n ? (const char *)s.p : "", (int)s.n, SQLITE_STATIC);
}

struct slice sqlite_slice(sqlite3_stmt *st, int i)
{
    const void *p = sqlite3_column_blob(st, i);
    return slice_of(p, (size_t)sqlite3_column_bytes(st, i));
}
