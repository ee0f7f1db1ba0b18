/* See apply.h: merging, on the primary, what a returning node holds. Protocol 8. */
#include "node/base/log.h"
#include "replication/apply.h"
#include "replication/judge.h"
#include "replication/merge.h"
#include "replication/moved.h"

/* --- merging, on the primary --- */

static int emit(struct buf *out, uint32_t *n_rows, const struct row *r)
{
    if (!row_encode(out, r))
        return STORE_FULL;
    ++*n_rows;
    return STORE_OK;
}

/* The body of a moved message: chunks that were alike stayed under the old id. */
static int complete_moved(struct store *s, const struct row_message *m, struct buf *out,
                          uint32_t *n_rows)
{
    int err = STORE_OK;
    for (uint32_t i = 0; !err && i < m->chunks; i++) {
        struct row key = {.type = ROW_CHUNK, .chunk = {.id = MOVED_ID(m->id), .index = i}}, row;
        enum unmerged_class mark;
        err = s->ops->get(s, &key, &row, &mark);
        if (err != STORE_NOT_FOUND)
            continue;
        key.chunk.id = m->id;
        err = s->ops->get(s, &key, &row, &mark);
        if (err)
            return err == STORE_NOT_FOUND ? STORE_OK : err;
        row.chunk.id = MOVED_ID(m->id);
        err = emit(out, n_rows, &row);
    }
    return err;
}

static int merge_one_message(struct store *s, const struct row *theirs, struct buf *out,
                             uint32_t *n_rows)
{
    struct row here, merged = *theirs;
    bool same;
    int err = store_get_message(s, theirs->message.id, &here);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, theirs);
    if (err)
        return err;
    merge_message(&here.message, &theirs->message, &merged.message, &same);
    if (same) {
        /* Their outcomes follow as rows of their own; until then the body may be needed here. */
        if (here.message.state == MESSAGE_LIVE)
            merged = here;
        return emit(out, n_rows, &merged);
    }
    if (theirs->message.id & MOVED_BIT) {
        log_error("merge.conflict", "id=%016llx three messages with this id; rejoin stops here",
                  (unsigned long long)theirs->message.id);
        return STORE_CONFLICT;
    }
    struct row moved = *theirs;
    moved.message.id = MOVED_ID(theirs->message.id);
    log_warn("merge.moved",
             "id=%016llx new_id=%016llx why=\"two messages with one id: a store was "
             "cloned or rolled back\"",
             (unsigned long long)theirs->message.id, (unsigned long long)moved.message.id);
    err = complete_moved(s, &theirs->message, out, n_rows);
    return err ? err : merge_one_message(s, &moved, out, n_rows);
}

static int merge_one_chunk(struct store *s, const struct row *theirs, struct buf *out,
                           uint32_t *n_rows)
{
    struct row here;
    enum unmerged_class mark;
    int err = store_get_message(s, theirs->chunk.id, &here);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, theirs);
    if (err)
        return err;
    err = s->ops->get(s, theirs, &here, &mark);
    if (!err && slice_eq(here.chunk.data, theirs->chunk.data))
        return emit(out, n_rows, &here);
    if (err && err != STORE_NOT_FOUND)
        return err;
    /* Either the message is done here, and this is dropped with the next purge; or it is another
     * message, which its row will tell. */
    struct row moved = *theirs;
    moved.chunk.id = MOVED_ID(theirs->chunk.id);
    return emit(out, n_rows, &moved);
}

static int merge_one_recipient(struct store *s, const struct row *theirs, enum unmerged_class as,
                               int64_t wall_ms, int64_t quarantine_ms, struct buf *out,
                               uint32_t *n_rows)
{
    struct row own = *theirs, here, merged = *theirs;
    enum unmerged_class mark;
    int err = store_get_message(s, MOVED_ID(own.recipient.id), &here);
    if (!err)
        own.recipient.id = MOVED_ID(own.recipient.id);
    else if (err == STORE_NOT_FOUND)
        err = store_get_message(s, own.recipient.id, &here);
    if (err) /* not here: it was done, and purged */
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    /* What is live here was judged before, by a store that knew more: one that was rolled back has
     * forgotten how much of its epoch was acknowledged. */
    err = s->ops->get(s, &own, &here, &mark);
    if (!err && here.recipient.state == RCPT_QUEUED && as == UNMERGED_QUARANTINE)
        as = UNMERGED_QUEUED;
    if (!err || err == STORE_NOT_FOUND)
        err = judge_recipient(s, &own.recipient, as, wall_ms, quarantine_ms);
    if (err)
        return err;
    /* A note of a copy that follows this node is this node's own: no orphan, and its row here tells
     * whether that dot is still open. */
    if (as != UNMERGED_NONE)
        apply_orphan_note(&own.recipient);
    else if (own.recipient.in_doubt == DOUBT_NOTED)
        own.recipient.in_doubt = DOUBT_NONE;
    err = s->ops->get(s, &own, &here, &mark);
    if (err == STORE_NOT_FOUND)
        return emit(out, n_rows, &own);
    if (err)
        return err;
    merge_recipient(&here.recipient, &own.recipient, &merged.recipient);
    return emit(out, n_rows, &merged);
}

int apply_merge(struct store *s, const struct row *theirs, enum unmerged_class as, int64_t wall_ms,
                int64_t quarantine_ms, struct buf *out, uint32_t *n_rows)
{
    struct row here, merged = *theirs;
    enum unmerged_class mark;
    int err;
    switch (theirs->type) {
    case ROW_MESSAGE:
        return merge_one_message(s, theirs, out, n_rows);
    case ROW_CHUNK:
        return merge_one_chunk(s, theirs, out, n_rows);
    case ROW_RECIPIENT:
        return merge_one_recipient(s, theirs, as, wall_ms, quarantine_ms, out, n_rows);
    case ROW_OPSTATE:
        err = s->ops->get(s, theirs, &here, &mark);
        if (err && err != STORE_NOT_FOUND)
            return err;
        if (!err)
            merge_opstate(&here.opstate, &theirs->opstate, &merged.opstate);
        return emit(out, n_rows, &merged);
    }
    return STORE_CORRUPT;
}

/* --- moved ids, on the node that copies --- */

static bool collect_rows(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    return row_encode(ctx, r);
}

int moved_local(struct store *s, uint64_t id, enum unmerged_class mark)
{
    struct buf rows;
    buf_init(&rows, 64 << 20);
    struct row row;
    if (id & MOVED_BIT)
        return STORE_CONFLICT;
    log_warn("merge.moved",
             "id=%016llx new_id=%016llx why=\"two messages with one id: a store was "
             "cloned or rolled back\"",
             (unsigned long long)id, (unsigned long long)MOVED_ID(id));
    int err = store_get_message(s, id, &row);
    uint32_t chunks = row.message.chunks;
    for (uint32_t i = 0; !err && i < chunks; i++) {
        struct row key = {.type = ROW_CHUNK, .chunk = {.id = id, .index = i}}, chunk;
        enum unmerged_class m;
        err = s->ops->get(s, &key, &chunk, &m);
        chunk.chunk.id = MOVED_ID(id);
        if (!err && !row_encode(&rows, &chunk))
            err = STORE_FULL;
        if (err == STORE_NOT_FOUND)
            err = STORE_OK;
    }
    if (!err)
        err = store_get_message(s, id, &row);
    if (!err && !row_encode(&rows, &row))
        err = STORE_FULL;
    if (!err)
        err = s->ops->each_recipient(s, id, collect_rows, &rows);
    struct wire_reader r = wire_read(buf_slice(&rows));
    while (!err && r.n) {
        if (!row_decode(&r, &row)) {
            err = STORE_CORRUPT;
            break;
        }
        if (row.type == ROW_MESSAGE)
            row.message.id = MOVED_ID(id);
        if (row.type == ROW_RECIPIENT)
            row.recipient.id = MOVED_ID(id);
        err = s->ops->put(s, &row, mark);
    }
    buf_free(&rows);
    return err;
}
