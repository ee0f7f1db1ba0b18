/* Selectors as queries (queue list, hold, release, retry, cancel, summary). They may look at every
 * live message, so they run on readers; what changes is written by the storage thread, row by row,
 * after another look at it. */
#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/queue/internal_sqlite.h"
#include "node/queue/selector.h"
#include "node/queue/storage_uv.h"

#define LIVE_JOIN                                                                                  \
    "message m INDEXED BY message_live CROSS JOIN recipient r ON r.id=m.id "                       \
    "WHERE m.state=0 AND r.state<2"

/* In the terms of selector_state(). */
static const struct {
    const char *name, *condition, *from;
} states[] = {
    {"queued", "r.held=0 AND r.state=1 AND r.in_doubt<2 AND r.attempts=0", NULL},
    {"deferred", "r.held=0 AND r.state=1 AND r.in_doubt<2 AND r.attempts>0", NULL},
    {"held", "r.held&1",
     "recipient r INDEXED BY recipient_held CROSS JOIN message m ON m.id=r.id "
     "WHERE r.held<>0 AND r.state<2"},
    {"quarantined", "NOT r.held&1 AND r.state=0",
     "recipient r INDEXED BY recipient_quarantined CROSS JOIN message m ON m.id=r.id "
     "WHERE r.state=0"},
    {"in-doubt", "NOT r.held&1 AND r.state=1 AND r.in_doubt=2",
     "recipient r INDEXED BY recipient_in_doubt CROSS JOIN message m ON m.id=r.id "
     "WHERE r.in_doubt<>0 AND r.state<2"},
};
static_assert(HELD_OPERATOR == 1 && DOUBT_YES == 2, "as the conditions say");
enum { STATES = sizeof states / sizeof *states };

/* SELECT columns FROM ... for the selector, after (id, index), in that order. NULL: error. */
static sqlite3_stmt *query(struct store_sqlite *x, const char *columns, const struct selector *s,
                           int64_t now_ms, uint64_t id, uint32_t index, unsigned limit)
{
    char sql[1600];
    const char *from = LIVE_JOIN, *condition = "1";
    for (unsigned i = 0; i < STATES; i++)
        if (strcmp(s->state, states[i].name) == 0) {
            condition = states[i].condition;
            from = states[i].from ? states[i].from : from;
        }
    if (s->id)
        from = "message m CROSS JOIN recipient r ON r.id=m.id WHERE m.id=?5 AND r.state<2";
    int n = snprintf(
        sql, sizeof sql,
        "SELECT %s FROM %s AND m.id>=?1 AND (m.id>?1 OR r.idx>?2) AND "
        "%s%s%s%s%s%s "
        "ORDER BY m.id,r.idx LIMIT ?4",
        columns, from, condition, s->domain ? " AND r.domain=?6" : "",
        s->sender ? " AND m.sender=?7 COLLATE NOCASE" : "", s->campaign ? " AND m.campaign=?8" : "",
        s->older_than_ms ? " AND m.received_ms<=?3" : "", s->ahead_ms ? " AND r.next_ms>?9" : "");
    assert(n > 0 && (size_t)n < sizeof sql);
    sqlite3_stmt *st;
    if (sqlite3_prepare_v2(x->db, sql, n, &st, NULL) != SQLITE_OK)
        return NULL;
    sqlite3_bind_int64(st, 1, (int64_t)id);
    /* From the beginning: also index 0 of id 0. */
    sqlite3_bind_int64(st, 2, id || index ? (int64_t)index : -1);
    sqlite3_bind_int64(st, 3, now_ms - (int64_t)s->older_than_ms);
    sqlite3_bind_int64(st, 4, limit);
    if (s->id)
        sqlite3_bind_int64(st, 5, (int64_t)s->id);
    if (s->domain)
        sqlite_bind(st, 6, slice_str(s->domain));
    if (s->sender)
        sqlite_bind(st, 7, slice_str(s->sender));
    if (s->campaign)
        sqlite_bind(st, 8, slice_str(s->campaign));
    if (s->ahead_ms)
        sqlite3_bind_int64(st, 9, now_ms + (int64_t)s->ahead_ms);
    return st;
}

/* Almost never is there one, and to look at every recipient would take the machine's time just when
 * a node takes over. */
static int any_ahead(struct store_sqlite *x, int64_t limit_ms, bool *yes)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_AHEAD);
    if (!st)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, limit_ms);
    int rc = sqlite3_step(st);
    *yes = rc == SQLITE_ROW && sqlite3_column_int(st, 0);
    sqlite3_reset(st);
    return sqlite_error(rc);
}

int store_sqlite_select(struct store *s, const struct selector *what, int64_t now_ms, uint64_t *id,
                        uint32_t *index, unsigned limit, struct buf *keys, bool *more)
{
    *more = false;
    if (what->ahead_ms && !*id) {
        bool yes;
        int err = any_ahead(sqlite_of(s), now_ms + (int64_t)what->ahead_ms, &yes);
        if (err || !yes)
            return err;
    }
    sqlite3_stmt *st = query(sqlite_of(s), "m.id,r.idx", what, now_ms, *id, *index, limit);
    if (!st)
        return STORE_IO;
    int rc;
    unsigned n = 0;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        *id = (uint64_t)sqlite3_column_int64(st, 0);
        *index = (uint32_t)sqlite3_column_int64(st, 1);
        if (!wire_put_u64(keys, *id) || !wire_put_u32(keys, *index))
            break;
        n++;
    }
    *more = n == limit;
    sqlite3_finalize(st);
    return rc == SQLITE_ROW ? STORE_FULL : sqlite_error(rc);
}

/* Message heads and recipients of a list, as READ_DUE gives them. */
static const char list_columns[] =
    "m.id,m.epoch,m.lsn,m.mark,m.state,m.done_ms,m.received_ms,m.size,m.chunks,m.recipients,"
    "m.flags,m.parent,m.born_epoch,m.born_lsn,m.creator,m.sha256,m.sender,m.envid,m.campaign,"
    "m.origin,m.prefix,r.id,r.idx,r.epoch,r.lsn,r.mark,r.state,r.held,r.notify,r.in_doubt,"
    "r.attempts,r.next_ms,r.last_ms,r.code,r.address,r.domain,r.orcpt,r.enhanced,r.reply,r.remote";

int sqlite_read_list(struct store_sqlite *x, struct storage_read *r, int64_t now_ms)
{
    unsigned limit = r->limit && r->limit < 10000 ? (unsigned)r->limit : 10000;
    sqlite3_stmt *st =
        query(x, list_columns, &r->selector, now_ms, r->cursor.id, r->cursor.index, limit);
    if (!st)
        return STORE_IO;
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct row m, rcpt;
        enum unmerged_class mark;
        size_t start = r->bytes.len;
        sqlite_read_message(st, 0, false, &m, &mark);
        sqlite_read_recipient(st, MESSAGE_HEAD_N, &rcpt, &mark);
        if (!row_encode(&r->bytes, &m) || !row_encode(&r->bytes, &rcpt)) {
            r->bytes.len = start;
            break;
        }
        r->n_rows++;
    }
    r->more = rc == SQLITE_ROW || r->n_rows == limit;
    sqlite3_finalize(st);
    return r->n_rows || rc != SQLITE_ROW ? sqlite_error(rc) : STORE_FULL;
}

/* qshape's buckets, in minutes. */
#define AGE                                                                                        \
    "CASE WHEN ?1-m.received_ms<300000 THEN '5m' WHEN ?1-m.received_ms<1200000 THEN '20m' "        \
    "WHEN ?1-m.received_ms<4800000 THEN '80m' WHEN ?1-m.received_ms<19200000 THEN '320m' "         \
    "WHEN ?1-m.received_ms<76800000 THEN '1280m' ELSE 'older' END"

static const struct {
    const char *name, *expression;
} groups[] = {
    {"domain", "r.domain"},
    {"sender", "m.sender"},
    {"campaign", "m.campaign"},
    {"state", "CASE WHEN r.held&1 THEN 'held' WHEN r.state=0 THEN 'quarantined' WHEN r.in_doubt=2 "
              "THEN 'in-doubt' WHEN r.attempts>0 THEN 'deferred' ELSE 'queued' END"},
    {"age", AGE},
};

/* What is paused, of one kind, beside what is queued for it. */
struct orders {
    enum opstate_kind kind;
    json_t *names; /* object: name -> true */
};

static void orders_load(struct store_sqlite *x, struct orders *o)
{
    sqlite3_stmt *st = sqlite_statement(x, ST_OPSTATE_PREFIX);
    o->names = json_object();
    if (!st)
        return;
    sqlite_bind(st, 1, slice_str(opstate_prefix(o->kind)));
    sqlite_bind(st, 2, slice_str(""));
    while (sqlite3_step(st) == SQLITE_ROW) {
        struct slice key = sqlite_slice(st, 0), name;
        if (!sqlite_slice(st, 1).n || !opstate_is(key, o->kind, &name))
            continue;
        char *text = slice_dup(name);
        json_object_set_new(o->names, text, json_true());
        free(text);
    }
    sqlite3_reset(st);
}

static bool orders_take(struct orders *o, struct slice name)
{
    char *text = slice_dup(name);
    bool here = json_object_get(o->names, text) != NULL;
    json_object_del(o->names, text);
    free(text);
    return here;
}

/* Paused, and nothing is queued for it. */
static void orders_rest(struct orders *o, const char *by, json_t *all)
{
    const char *name;
    json_t *yes;
    json_object_foreach(o->names, name, yes)
    {
        json_array_append_new(all, json_pack("{s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:b}", by, name,
                                             "recipients", 0, "queued", 0, "deferred", 0, "held", 0,
                                             "quarantined", 0, "in_doubt", 0, "oldest_s", 0.0,
                                             "paused", 1));
    }
    json_decref(o->names);
}

int sqlite_read_summary(struct store_sqlite *x, struct storage_read *r, int64_t now_ms)
{
    char sql[1600];
    const char *by = r->by ? r->by : "domain", *expression = NULL;
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++)
        if (strcmp(by, groups[i].name) == 0)
            expression = groups[i].expression;
    if (!expression)
        return STORE_NOT_FOUND;
    int n = snprintf(
        sql, sizeof sql,
        "SELECT %s AS g,count(*),sum(%s),sum(%s),sum(%s),sum(%s),sum(%s),min(m.received_ms) "
        "FROM " LIVE_JOIN " GROUP BY g ORDER BY 2 DESC,g LIMIT ?2",
        expression, states[0].condition, states[1].condition, states[2].condition,
        states[3].condition, states[4].condition);
    assert(n > 0 && (size_t)n < sizeof sql);
    sqlite3_stmt *st;
    if (sqlite3_prepare_v2(x->db, sql, n, &st, NULL) != SQLITE_OK)
        return STORE_IO;
    sqlite3_bind_int64(st, 1, now_ms);
    sqlite3_bind_int64(st, 2, r->limit ? (int64_t)r->limit : 1000);
    json_t *all = json_array();
    int rc;
    struct orders o = {.kind = strcmp(by, "domain") == 0 ? OPSTATE_DESTINATION : OPSTATE_CAMPAIGN};
    bool pausable = o.kind == OPSTATE_DESTINATION || strcmp(by, "campaign") == 0;
    if (pausable)
        orders_load(x, &o);
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct slice g = sqlite_slice(st, 0);
        json_t *name = json_stringn((const char *)g.p, g.n);
        double oldest_s = (double)(now_ms - sqlite3_column_int64(st, 7)) / 1000.0;
        json_t *row = json_pack(
            "{s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:f}", by, name ? name : json_string("?"), "recipients",
            (json_int_t)sqlite3_column_int64(st, 1), "queued",
            (json_int_t)sqlite3_column_int64(st, 2), "deferred",
            (json_int_t)sqlite3_column_int64(st, 3), "held",
            (json_int_t)sqlite3_column_int64(st, 4), "quarantined",
            (json_int_t)sqlite3_column_int64(st, 5), "in_doubt",
            (json_int_t)sqlite3_column_int64(st, 6), "oldest_s", oldest_s > 0 ? oldest_s : 0.0);
        if (pausable)
            json_object_set_new(row, "paused", json_boolean(orders_take(&o, g)));
        json_array_append_new(all, row);
    }
    sqlite3_finalize(st);
    if (pausable)
        orders_rest(&o, by, all);
    char *text = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    bool ok = text && buf_append_str(&r->bytes, text);
    free(text);
    return sqlite_error(rc) ? sqlite_error(rc) : ok ? STORE_OK : STORE_FULL;
}
