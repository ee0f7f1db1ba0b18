/* What a pair does to its stores: following, gaps, adopting, promoting, merging (protocol 8, 10),
 * with the interleavings that broke earlier drafts. */
#include <check.h>
#include <stdlib.h>

#include "node/queue/store_sqlite.h"
#include "replication/notes.h"
#include "replication/own.h"
#include "support_store.h"

enum { QUARANTINE_MS = 5000, NOW = 1000000 };

static struct store *a, *b; /* a: primary of epoch 4; b: follows */
static struct own own;

static void set_up(void)
{
    a = support_store_new();
    b = support_store_new();
    own_init(&own);
}

static void tear_down(void)
{
    own_free(&own);
    support_store_free(b);
    store_sqlite_close(a);
}

static struct store_meta meta_of(struct store *s)
{
    struct store_meta m;
    s->ops->get_meta(s, &m);
    return m;
}

static struct pos promote(struct store *s, uint32_t epoch, enum history_mode mode)
{
    struct promotion p = {
        .epoch = epoch, .mode = mode, .wall_ms = NOW, .quarantine_ms = QUARANTINE_MS};
    struct promoted done;
    ck_assert_int_eq(apply_promote(s, &p, &done), STORE_OK);
    return done.end;
}

static void open_own(struct store *s)
{
    ck_assert_int_eq(own_begin(&own, s, meta_of(s).end.epoch, NOW), STORE_OK);
}

static void put(struct row r)
{
    ck_assert_int_eq(own_put(&own, &r), STORE_OK);
}

/* Commits what is open; what goes to the follower in out, which may be NULL. */
static void close_own(struct buf *out)
{
    if (out) {
        struct own_batch done = own_batch(&own, true);
        struct batch x = {.epoch = done.epoch,
                          .first = done.first,
                          .last = done.last,
                          .complete = true,
                          .rows = slice_of(done.rows->data, done.rows->n),
                          .n_rows = done.n_rows};
        buf_init(out, 16 << 20);
        ck_assert(batch_encode(out, &x));
        shared_unref(done.rows);
    }
    ck_assert_int_eq(own_commit(&own, (struct pos){0, 0}), STORE_OK);
}

static void add_message(struct store *s, uint64_t id, unsigned seed, struct buf *out)
{
    open_own(s);
    put(support_message(id, seed, 1));
    put(support_recipient(id, 0, RCPT_QUEUED));
    close_own(out);
}

static void change(struct store *s, uint64_t id, uint8_t state, struct buf *out)
{
    open_own(s);
    put(support_recipient(id, 0, state));
    ck_assert_int_eq(own_finish(&own, id), STORE_OK);
    close_own(out);
}

static int follow(struct store *s, struct buf *frame)
{
    struct batch x;
    struct wire_reader r = wire_read(buf_slice(frame));
    ck_assert(batch_decode(&r, &x));
    int err = apply_follow(s, &x, NOW);
    buf_free(frame);
    return err;
}

struct piece {
    struct buf rows;
    uint32_t n, max;
    uint64_t last;
    bool cut;
};

static bool add_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct piece *p = ctx;
    (void)mark;
    if (p->n == p->max) {
        p->cut = true;
        return false;
    }
    ck_assert(row_encode(&p->rows, r));
    p->last = row_pos(r).lsn;
    p->n++;
    return true;
}

/* One read of the feed: at most max rows of `from` after *cursor, followed by `to`. True: complete.
 */
static bool read_once(struct store *from, struct store *to, uint64_t *cursor, uint32_t max)
{
    struct piece p = {.max = max, .last = *cursor};
    struct buf history;
    buf_init(&p.rows, 16 << 20);
    buf_init(&history, 1 << 14);
    struct store_meta m = meta_of(from);
    ck_assert_int_eq(from->ops->changes_after(from, *cursor, add_row, &p), STORE_OK);
    ck_assert(history_encode(&history, &m.history));
    struct batch x = {.epoch = m.end.epoch,
                      .first = *cursor + 1,
                      .last = p.cut ? p.last : m.end.lsn,
                      .complete = !p.cut,
                      .committed = m.committed,
                      .rows = buf_slice(&p.rows),
                      .n_rows = p.n};
    if (x.complete)
        x.history = buf_slice(&history);
    ck_assert_int_eq(apply_follow(to, &x, NOW), STORE_OK);
    *cursor = x.last;
    buf_free(&p.rows);
    buf_free(&history);
    return x.complete;
}

static void catch_up(struct store *from, struct store *to)
{
    uint64_t cursor = meta_of(to).end.lsn;
    while (!read_once(from, to, &cursor, 3))
        ;
}

static void ck_same(struct store *x, struct store *y, bool positions)
{
    struct buf p, q;
    support_dump(x, &p, positions);
    support_dump(y, &q, positions);
    ck_assert_msg(slice_eq(buf_slice(&p), buf_slice(&q)), "the stores differ");
    buf_free(&p);
    buf_free(&q);
}

static struct pos adopt(struct store *s, struct store *primary)
{
    struct store_meta x = meta_of(s), y = meta_of(primary);
    struct pos shared = history_shared(&x.history, x.end, &y.history, y.end);
    struct pos known = {0, 0};
    ck_assert_int_eq(apply_adopt(s, shared, &y.history, known, (struct slice){NULL, 0}), STORE_OK);
    return shared;
}

static bool merge_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)ctx;
    ck_assert_int_eq(own_merge(&own, r, mark, QUARANTINE_MS), STORE_OK);
    return true;
}

static bool keep_key(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    return row_encode(ctx, r);
}

/* Everything unmerged in s goes to the primary; then s catches up and unmarks. */
static void merge_all(struct store *s, struct store *primary)
{
    struct buf keys;
    buf_init(&keys, 16 << 20);
    open_own(primary);
    ck_assert_int_eq(s->ops->each_unmerged(s, merge_row, NULL), STORE_OK);
    if (own_count(&own))
        close_own(NULL);
    else
        own_abort(&own);
    catch_up(primary, s);
    ck_assert_int_eq(s->ops->each_unmerged(s, keep_key, &keys), STORE_OK);
    struct wire_reader r = wire_read(buf_slice(&keys));
    ck_assert_int_eq(s->ops->begin(s), STORE_OK);
    while (r.n) {
        struct row row;
        ck_assert(row_decode(&r, &row));
        ck_assert_int_eq(s->ops->unmark(s, &row), STORE_OK);
    }
    ck_assert_int_eq(s->ops->commit(s), STORE_OK);
    buf_free(&keys);
}

START_TEST(test_following_makes_equal_stores)
{
    struct buf f;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    for (unsigned i = 1; i <= 10; i++) {
        add_message(a, MESSAGE_ID(4, i), i, &f);
        ck_assert_int_eq(follow(b, &f), STORE_OK);
    }
    change(a, MESSAGE_ID(4, 3), RCPT_DELIVERED, &f);
    ck_assert_int_eq(follow(b, &f), STORE_OK);
    ck_same(a, b, true);
    ck_assert(pos_cmp(meta_of(a).end, meta_of(b).end) == 0);
    struct row m;
    ck_assert(support_get_message(b, MESSAGE_ID(4, 3), &m));
    ck_assert_int_eq(m.message.state, MESSAGE_DONE);
}
END_TEST

START_TEST(test_a_gap_is_refused)
{
    struct buf f1, f2;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    add_message(a, MESSAGE_ID(4, 1), 1, &f1);
    add_message(a, MESSAGE_ID(4, 2), 2, &f2);
    ck_assert_int_eq(follow(b, &f2), STORE_CONFLICT);
    ck_assert_uint_eq(meta_of(b).end.lsn, 0);
    struct row m;
    ck_assert(!support_get_message(b, MESSAGE_ID(4, 2), &m));
    ck_assert_int_eq(follow(b, &f1), STORE_OK);
    catch_up(a, b);
    ck_same(a, b, true);
}
END_TEST

/* Incident 2: a row moves ahead of the reader. The standby's position stays at the last consistent
 * one until a read has come to the end. */
START_TEST(test_catching_up_with_moving_rows)
{
    struct buf f;
    promote(a, 4, MODE_SOLO);
    for (unsigned i = 1; i <= 6; i++)
        add_message(a, MESSAGE_ID(4, i), i, NULL);
    uint64_t cursor = 0;
    ck_assert(!read_once(a, b, &cursor, 4));
    change(a, MESSAGE_ID(4, 2), RCPT_DELIVERED, NULL); /* behind the reader */
    change(a, MESSAGE_ID(4, 5), RCPT_DELIVERED, NULL); /* ahead of it */
    ck_assert(!read_once(a, b, &cursor, 4));
    ck_assert_uint_eq(meta_of(b).end.lsn, 0);
    /* A batch of the ring for a row that it never got, too early: refused, not ignored. */
    change(a, MESSAGE_ID(4, 6), RCPT_DELIVERED, &f);
    ck_assert_int_eq(follow(b, &f), STORE_CONFLICT);
    while (!read_once(a, b, &cursor, 4))
        ck_assert_uint_eq(meta_of(b).end.lsn, 0);
    ck_same(a, b, true);
    ck_assert(pos_cmp(meta_of(a).end, meta_of(b).end) == 0);
}
END_TEST

START_TEST(test_a_broken_catch_up_leaves_nothing_unmerged)
{
    promote(a, 4, MODE_SOLO);
    for (unsigned i = 1; i <= 6; i++)
        add_message(a, MESSAGE_ID(4, i), i, NULL);
    uint64_t cursor = 0;
    ck_assert(!read_once(a, b, &cursor, 5));
    adopt(b, a); /* the connection was lost; the next one begins */
    bool any = false;
    struct piece p = {.max = 100};
    buf_init(&p.rows, 16 << 20);
    ck_assert_int_eq(b->ops->each_unmerged(b, add_row, &p), STORE_OK);
    any = p.n > 0;
    buf_free(&p.rows);
    ck_assert(!any);
    catch_up(a, b);
    ck_same(a, b, true);
}
END_TEST

START_TEST(test_promotion)
{
    promote(a, 4, MODE_PAIRED);
    add_message(a, MESSAGE_ID(4, 1), 1, NULL);
    catch_up(a, b);
    struct promotion p = {.epoch = 4, .mode = MODE_SOLO, .wall_ms = NOW, .quarantine_ms = 1};
    struct promoted done;
    ck_assert_int_eq(apply_promote(b, &p, &done), STORE_CONFLICT);
    p.epoch = 5;
    ck_assert_int_eq(apply_promote(b, &p, &done), STORE_OK);
    ck_assert_uint_eq(done.first, 3);
    ck_assert(done.end.epoch == 5 && done.end.lsn == 2);
    struct store_meta m = meta_of(b);
    ck_assert_int_eq(history_mode_at(&m.history, (struct pos){4, 1}), MODE_PAIRED);
    ck_assert_int_eq(history_mode_at(&m.history, (struct pos){5, 3}), MODE_SOLO);
    struct store_id fresh = {{9}};
    ck_assert_int_eq(apply_wipe(b, &fresh), STORE_OK);
    p.epoch = 7;
    ck_assert_int_eq(apply_promote(b, &p, &done), STORE_CONFLICT);
    adopt(b, a);
    catch_up(a, b);
    ck_assert(!meta_of(b).copying && meta_of(b).epoch_seen >= 5);
    ck_assert_int_eq(apply_promote(b, &p, &done), STORE_OK);
}
END_TEST

/* The rejoin: a was primary and paired; the link is cut; what it takes then is behind. */
static void diverge(void)
{
    struct buf f;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    add_message(a, MESSAGE_ID(4, 1), 1, &f);
    ck_assert_int_eq(follow(b, &f), STORE_OK);
    add_message(a, MESSAGE_ID(4, 2), 2, NULL); /* paired, never committed */
}

START_TEST(test_rejoin_uncommitted_is_quarantined)
{
    diverge();
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL); /* an outcome that b doesn't know */
    promote(b, 5, MODE_SOLO);
    add_message(b, MESSAGE_ID(5, 1), 3, NULL);
    struct pos shared = adopt(a, b);
    ck_assert(shared.epoch == 4 && shared.lsn == 2);
    merge_all(a, b);
    ck_same(a, b, true);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_QUARANTINED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 1), 0), RCPT_DELIVERED);
    struct row m;
    ck_assert(support_get_message(b, MESSAGE_ID(4, 1), &m));
    ck_assert_int_eq(m.message.state, MESSAGE_DONE);
}
END_TEST

/* A store that was rolled back doesn't know any more what was committed in its epoch: what is live
 * on the primary stays so, though its sender has tried again. */
START_TEST(test_rejoin_leaves_alone_what_is_live)
{
    diverge();
    promote(b, 5, MODE_SOLO);
    add_message(b, MESSAGE_ID(4, 2), 2, NULL); /* merged before, by a store that knew more */
    add_message(b, MESSAGE_ID(5, 1), 2, NULL); /* the same, once more */
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_QUEUED);
    ck_assert_int_eq(support_state(a, MESSAGE_ID(4, 2), 0), RCPT_QUEUED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(5, 1), 0), RCPT_QUEUED);
}
END_TEST

START_TEST(test_rejoin_solo_mail_is_queued)
{
    diverge();
    uint64_t first = meta_of(a).end.lsn + 1;
    ck_assert_int_eq(apply_mode(a, 4, MODE_SOLO, first, (struct pos){4, 2}), STORE_OK);
    add_message(a, MESSAGE_ID(4, 3), 3, NULL); /* solo: its sender has a 250 */
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    merge_all(a, b);
    ck_same(a, b, true);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_QUARANTINED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 3), 0), RCPT_QUEUED);
}
END_TEST

START_TEST(test_rejoin_committed_is_queued)
{
    diverge();
    struct store_meta m = meta_of(a);
    ck_assert_int_eq(apply_mode(a, 4, MODE_PAIRED, m.history.row[0].first_lsn, m.end), STORE_OK);
    promote(b, 5, MODE_SOLO); /* by force, say: it lacks what was committed */
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_QUEUED);
}
END_TEST

START_TEST(test_merging_again_is_harmless)
{
    diverge();
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    /* The answer to the first merge is lost with the connection. */
    open_own(b);
    ck_assert_int_eq(a->ops->each_unmerged(a, merge_row, NULL), STORE_OK);
    close_own(NULL);
    struct buf once, twice;
    support_dump(b, &once, false);
    adopt(a, b);
    merge_all(a, b);
    support_dump(b, &twice, false);
    ck_assert(slice_eq(buf_slice(&once), buf_slice(&twice)));
    buf_free(&once);
    buf_free(&twice);
    ck_same(a, b, true);
}
END_TEST

START_TEST(test_a_terminal_recipient_stays_terminal)
{
    struct buf f;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    add_message(a, MESSAGE_ID(4, 1), 1, &f);
    ck_assert_int_eq(follow(b, &f), STORE_OK);
    change(a, MESSAGE_ID(4, 1), RCPT_QUEUED, NULL); /* deferred there, later than ... */
    promote(b, 5, MODE_SOLO);
    change(b, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL); /* ... it was delivered here */
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 1), 0), RCPT_DELIVERED);
    ck_same(a, b, true);
}
END_TEST

START_TEST(test_accepted_twin_supersedes)
{
    diverge();
    promote(b, 5, MODE_SOLO);
    /* The sender of 4.2 had no 250 and has tried again: same envelope, same bytes. */
    add_message(b, MESSAGE_ID(5, 1), 2, NULL);
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_SUPERSEDED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(5, 1), 0), RCPT_QUEUED);
    struct row m;
    ck_assert(support_get_message(b, MESSAGE_ID(4, 2), &m));
    ck_assert_int_eq(m.message.state, MESSAGE_DONE);
    ck_same(a, b, true);
}
END_TEST

START_TEST(test_twin_accepted_after_the_merge_supersedes)
{
    uint64_t n = 0;
    diverge();
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_QUARANTINED);
    open_own(b);
    struct row m = support_message(MESSAGE_ID(5, 1), 2, 1);
    put(m);
    put(support_recipient(MESSAGE_ID(5, 1), 0, RCPT_QUEUED));
    ck_assert_int_eq(own_supersede(&own, MESSAGE_ID(4, 2), &m.message, &n), STORE_OK);
    close_own(NULL);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_SUPERSEDED);
    open_own(b); /* another body is another message */
    m = support_message(MESSAGE_ID(5, 2), 9, 1);
    put(m);
    ck_assert_int_eq(own_supersede(&own, MESSAGE_ID(4, 2), &m.message, &n), STORE_OK);
    close_own(NULL);
    ck_assert_uint_eq(n, 0);
}
END_TEST

/* Incident 20: what is unmerged gets new lsns when its store is promoted. */
static struct row_recipient recipient(struct store *s, uint64_t id)
{
    struct row key = {.type = ROW_RECIPIENT, .recipient.id = id}, row;
    enum unmerged_class mark;
    ck_assert_int_eq(s->ops->get(s, &key, &row, &mark), STORE_OK);
    return row.recipient;
}

/* A takeover's list: what has no outcome here, and nothing else. */
START_TEST(test_promotion_lists_what_is_in_doubt)
{
    promote(a, 4, MODE_PAIRED);
    for (unsigned i = 1; i <= 5; i++)
        add_message(a, MESSAGE_ID(4, i), i, NULL);
    change(a, MESSAGE_ID(4, 2), RCPT_DELIVERED, NULL); /* its outcome is here */
    open_own(a);
    bool done;
    ck_assert_int_eq(own_note(&own, MESSAGE_ID(4, 3), 0, DOUBT_NOTED, &done), STORE_OK);
    ck_assert(done);
    ck_assert_int_eq(own_note(&own, MESSAGE_ID(4, 2), 0, DOUBT_NOTED, &done), STORE_OK);
    ck_assert(!done); /* finished */
    close_own(NULL);
    struct buf notes;
    buf_init(&notes, 4096);
    struct note_recipient fresh = {0, 0}, tried = {0, 7};
    ck_assert(note_put(&notes, 1, MESSAGE_ID(4, 1), &fresh, 1));
    ck_assert(note_put(&notes, 2, MESSAGE_ID(4, 2), &fresh, 1));
    ck_assert(note_put(&notes, 3, MESSAGE_ID(4, 4), &tried, 1)); /* of another attempt */
    ck_assert(note_put(&notes, 4, MESSAGE_ID(4, 9), &fresh, 1)); /* not here */
    struct promotion p = {.epoch = 6,
                          .mode = MODE_SOLO,
                          .wall_ms = NOW,
                          .in_doubt_wait_ms = 30000,
                          .noted = buf_slice(&notes)};
    struct promoted out;
    uint64_t end = meta_of(a).end.lsn;
    ck_assert_int_eq(apply_promote(a, &p, &out), STORE_OK);
    ck_assert_uint_eq(out.in_doubt, 2);
    ck_assert(out.first == end + 1 && out.end.lsn == end + 2);
    struct row_recipient x = recipient(a, MESSAGE_ID(4, 1));
    ck_assert(x.in_doubt == DOUBT_YES && !x.held && x.next_ms >= NOW + 30000);
    ck_assert_uint_eq(x.pos.epoch, 6);
    x = recipient(a, MESSAGE_ID(4, 3)); /* noted durably: it waits for an operator */
    ck_assert(x.in_doubt == DOUBT_YES && x.held == HELD_IN_DOUBT); /* the standby may know more */
    ck_assert_int_eq(recipient(a, MESSAGE_ID(4, 2)).in_doubt, DOUBT_NONE);
    ck_assert_int_eq(recipient(a, MESSAGE_ID(4, 4)).in_doubt, DOUBT_NONE);
    ck_assert_int_eq(recipient(a, MESSAGE_ID(4, 5)).in_doubt, DOUBT_NONE);
    open_own(a);
    ck_assert_int_eq(own_note(&own, MESSAGE_ID(4, 3), 0, DOUBT_NOTED, &done), STORE_OK);
    ck_assert(!done); /* nobody sends it before an operator's word */
    own_abort(&own);
    buf_free(&notes);
}
END_TEST

/* An attempt that it made while it was alone: no other can settle it, though this node's row was
 * marked, and gets a new place with the promotion. */
START_TEST(test_a_promotion_knows_its_own_attempts)
{
    for (unsigned marked = 0; marked < 2; marked++) {
        struct store *s = marked ? a : b;
        bool done;
        promote(s, 4, MODE_SOLO);
        add_message(s, MESSAGE_ID(4, 1), 1, NULL);
        open_own(s);
        ck_assert_int_eq(own_note(&own, MESSAGE_ID(4, 1), 0, DOUBT_NOTED, &done), STORE_OK);
        close_own(NULL);
        if (marked) {
            struct row_recipient x = recipient(s, MESSAGE_ID(4, 1));
            struct row r = support_recipient(MESSAGE_ID(4, 1), 0, RCPT_QUEUED);
            r.recipient.in_doubt = x.in_doubt;
            r.recipient.pos = x.pos;
            ck_assert_int_eq(s->ops->begin(s), STORE_OK);
            ck_assert_int_eq(s->ops->put(s, &r, UNMERGED_QUEUED), STORE_OK);
            ck_assert_int_eq(s->ops->commit(s), STORE_OK);
        }
        promote(s, 6, MODE_SOLO);
        struct row_recipient x = recipient(s, MESSAGE_ID(4, 1));
        ck_assert(x.in_doubt == DOUBT_YES && x.held == HELD_DOUBT);
        ck_assert_uint_eq(x.pos.epoch, 6);
    }
}
END_TEST

/* Its sender has no 250, as far as the primary knows, and a receiver may have it: the quarantine
 * ends by itself, the doubt doesn't. */
START_TEST(test_rejoin_quarantined_and_in_doubt)
{
    for (unsigned promoted = 0; promoted < 2; promoted++) {
        bool done;
        if (promoted) {
            tear_down();
            set_up();
        }
        diverge();
        open_own(a);
        ck_assert_int_eq(own_note(&own, MESSAGE_ID(4, 2), 0, DOUBT_NOTED, &done), STORE_OK);
        close_own(NULL);
        promote(b, 5, MODE_SOLO);
        adopt(a, b);
        struct store *s = promoted ? a : b;
        if (promoted)
            promote(a, 6, MODE_SOLO);
        else
            merge_all(a, b);
        struct row_recipient x = recipient(s, MESSAGE_ID(4, 2));
        ck_assert_int_eq(x.state, RCPT_QUARANTINED);
        ck_assert(x.in_doubt == DOUBT_YES && x.held & HELD_IN_DOUBT);
    }
}
END_TEST

/* What was in doubt once and goes out again is noted again: the next takeover lists it anew. */
START_TEST(test_what_was_in_doubt_is_listed_anew)
{
    promote(a, 4, MODE_PAIRED);
    add_message(a, MESSAGE_ID(4, 1), 1, NULL);
    struct buf notes;
    buf_init(&notes, 4096);
    struct note_recipient fresh = {0, 0};
    ck_assert(note_put(&notes, 1, MESSAGE_ID(4, 1), &fresh, 1));
    struct promotion p = {.epoch = 6,
                          .mode = MODE_SOLO,
                          .wall_ms = NOW,
                          .in_doubt_wait_ms = 30000,
                          .noted = buf_slice(&notes)};
    struct promoted out;
    ck_assert_int_eq(apply_promote(a, &p, &out), STORE_OK);
    ck_assert_uint_eq(out.in_doubt, 1);
    p.epoch = 8;
    p.wall_ms += 60000; /* it has waited, and was on the wire again */
    ck_assert_int_eq(apply_promote(a, &p, &out), STORE_OK);
    ck_assert_uint_eq(out.in_doubt, 1);
    struct row_recipient x = recipient(a, MESSAGE_ID(4, 1));
    ck_assert(x.in_doubt == DOUBT_YES && x.next_ms >= p.wall_ms + 30000);
    ck_assert_uint_eq(x.pos.epoch, 8);
    buf_free(&notes);
}
END_TEST

START_TEST(test_promotion_takes_what_is_unmerged)
{
    diverge();
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL);
    promote(b, 5, MODE_SOLO);
    add_message(b, MESSAGE_ID(5, 1), 3, NULL);
    adopt(a, b);
    catch_up(b, a); /* everything of b's, but b dies before it took anything */
    struct pos end = promote(a, 6, MODE_SOLO);
    ck_assert_uint_gt(end.lsn, meta_of(b).end.lsn);
    ck_assert_int_eq(support_state(a, MESSAGE_ID(4, 2), 0), RCPT_QUARANTINED);
    ck_assert_int_eq(support_state(a, MESSAGE_ID(4, 1), 0), RCPT_DELIVERED);
    struct row m;
    ck_assert(support_get_message(a, MESSAGE_ID(4, 1), &m));
    ck_assert_int_eq(m.message.state, MESSAGE_DONE);
    ck_assert(
        !support_marked(a, &(struct row){.type = ROW_MESSAGE, .message.id = MESSAGE_ID(4, 2)}));
    adopt(b, a);
    merge_all(b, a);
    ck_same(a, b, true);
}
END_TEST

static void add_bounce(struct store *s, uint64_t parent, uint64_t id, const char *covers)
{
    open_own(s);
    put(support_recipient(parent, 0, RCPT_FAILED));
    ck_assert_int_eq(own_finish(&own, parent), STORE_OK);
    struct row m = support_message(id, 50 + (unsigned)(id & 7), 1);
    m.message.flags = MSG_BOUNCE;
    m.message.parent = parent;
    m.message.envid = slice_str(covers);
    put(m);
    put(support_recipient(id, 0, RCPT_QUEUED));
    close_own(NULL);
}

/* Incident 21 and its mirror. */
/* Policy `hold`: that the recipient may have it from an attempt of the other node was merged while
 * an own attempt was under way. Its outcome, a deferral, tells nothing of that one. */
START_TEST(test_a_merged_doubt_outlives_an_outcome)
{
    struct store *s = a;
    promote(s, 2, MODE_SOLO);
    add_message(s, MESSAGE_ID(2, 1), 1, NULL);
    struct row r = support_recipient(MESSAGE_ID(2, 1), 0, RCPT_QUEUED);
    r.recipient.in_doubt = DOUBT_YES;
    r.recipient.held = HELD_IN_DOUBT;
    open_own(s);
    put(r);
    close_own(NULL);
    struct row_recipient p = r.recipient;
    bool write, late;
    p.in_doubt = DOUBT_NONE;
    p.held = 0;
    p.attempts = 2;
    open_own(s);
    ck_assert_int_eq(own_outcome(&own, &p, &write, &late), STORE_OK);
    ck_assert(write && !late);
    ck_assert(p.in_doubt == DOUBT_YES && p.held == HELD_IN_DOUBT);
    p.state = RCPT_DELIVERED;
    p.in_doubt = DOUBT_NONE;
    ck_assert_int_eq(own_outcome(&own, &p, &write, &late), STORE_OK);
    ck_assert(write && p.held == 0 && p.in_doubt == DOUBT_NONE);
    own_abort(&own);
}
END_TEST

START_TEST(test_a_bounce_follows_its_parent)
{
    struct buf f;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    for (unsigned i = 1; i <= 3; i++) {
        add_message(a, MESSAGE_ID(4, i), i, &f);
        ck_assert_int_eq(follow(b, &f), STORE_OK);
    }
    add_bounce(a, MESSAGE_ID(4, 1), MESSAGE_ID(4, 11), "0"); /* failed there only */
    add_bounce(a, MESSAGE_ID(4, 2), MESSAGE_ID(4, 12), "0"); /* failed there, delivered here */
    add_bounce(a, MESSAGE_ID(4, 3), MESSAGE_ID(4, 13), "0"); /* failed on both */
    promote(b, 5, MODE_SOLO);
    change(b, MESSAGE_ID(4, 2), RCPT_DELIVERED, NULL);
    add_bounce(b, MESSAGE_ID(4, 3), MESSAGE_ID(5, 1), "0");
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 1), 0), RCPT_FAILED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 11), 0), RCPT_QUEUED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 2), 0), RCPT_DELIVERED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 12), 0), RCPT_CANCELLED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 13), 0), RCPT_CANCELLED);
    ck_assert_int_eq(support_state(b, MESSAGE_ID(5, 1), 0), RCPT_QUEUED);
    ck_same(a, b, true);
}
END_TEST

/* b failed it and queued its bounce; a had sent it all the same, and brings that home later.
 * Another recipient's bounce stays. */
static void deliver_late(void)
{
    struct buf f;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    for (unsigned i = 1; i <= 2; i++) {
        add_message(a, MESSAGE_ID(4, i), i, &f);
        ck_assert_int_eq(follow(b, &f), STORE_OK);
    }
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL); /* never got to b */
    promote(b, 5, MODE_SOLO);
    add_bounce(b, MESSAGE_ID(4, 1), MESSAGE_ID(5, 1), "0");
    add_bounce(b, MESSAGE_ID(4, 2), MESSAGE_ID(5, 2), "0");
    adopt(a, b);
}

static void ck_recalled(struct store *s)
{
    ck_assert_int_eq(support_state(s, MESSAGE_ID(4, 1), 0), RCPT_DELIVERED);
    ck_assert_int_eq(support_state(s, MESSAGE_ID(5, 1), 0), RCPT_CANCELLED);
    ck_assert_int_eq(support_state(s, MESSAGE_ID(5, 2), 0), RCPT_QUEUED);
    struct row m;
    ck_assert(support_get_message(s, MESSAGE_ID(5, 1), &m));
    ck_assert_int_eq(m.message.state, MESSAGE_DONE);
}

START_TEST(test_a_late_delivery_recalls_the_bounce)
{
    deliver_late();
    merge_all(a, b);
    ck_recalled(b);
    ck_same(a, b, true);
}
END_TEST

/* The same, but a takes over (forced back, say) before b has merged anything. */
START_TEST(test_a_promotion_recalls_the_bounce)
{
    deliver_late();
    catch_up(b, a);
    promote(a, 6, MODE_SOLO);
    ck_recalled(a);
}
END_TEST

/* Protocol 3: what has rotted on the primary comes with the rows of a later change; the good copy
 * is what it is mended from. */
START_TEST(test_a_damaged_body_replaces_no_good_one)
{
    struct buf frame;
    struct row m = support_message(MESSAGE_ID(4, 1), 1, 1), key = m, here;
    struct row c = {.type = ROW_CHUNK,
                    .chunk = {.id = MESSAGE_ID(4, 1), .data = SLICE_LIT("a good chunk")}};
    enum unmerged_class mark;
    promote(a, 4, MODE_PAIRED);
    open_own(a);
    put(c);
    put(m);
    put(support_recipient(MESSAGE_ID(4, 1), 0, RCPT_QUEUED));
    close_own(&frame);
    ck_assert_int_eq(follow(b, &frame), STORE_OK);
    ck_assert_int_eq(b->ops->get(b, &key, &here, &mark), STORE_OK);
    m.message.born = here.message.born;
    uint8_t rotten[4096];
    ck_assert_uint_le(m.message.body.n, sizeof rotten);
    memcpy(rotten, m.message.body.p, m.message.body.n);
    rotten[0] ^= 1;
    m.message.body = slice_of(rotten, m.message.body.n);
    c.chunk.data = SLICE_LIT("a bad! chunk");
    open_own(a);
    put(m); /* in the steady state */
    close_own(&frame);
    ck_assert_int_eq(follow(b, &frame), STORE_OK);
    ck_assert_int_eq(b->ops->get(b, &key, &here, &mark), STORE_OK);
    ck_assert(slice_eq(here.message.body, key.message.body));
    struct row own_pause = {
        .type = ROW_OPSTATE,
        .opstate = {.key = SLICE_LIT("pause/x"), .value = SLICE_LIT("1"), .pos = {2, 1}}};
    ck_assert_int_eq(b->ops->begin(b), STORE_OK);
    ck_assert_int_eq(b->ops->put(b, &own_pause, UNMERGED_QUEUED), STORE_OK);
    ck_assert_int_eq(b->ops->commit(b), STORE_OK);
    open_own(a);
    put(c); /* and while something here isn't merged yet */
    put(m);
    close_own(&frame);
    ck_assert_int_eq(follow(b, &frame), STORE_OK);
    ck_assert_int_eq(b->ops->get(b, &c, &here, &mark), STORE_OK);
    ck_assert(slice_eq(here.chunk.data, SLICE_LIT("a good chunk")));
    ck_assert_uint_eq(here.chunk.pos.lsn, meta_of(a).end.lsn - 1);
    ck_assert_int_eq(b->ops->get(b, &key, &here, &mark), STORE_OK);
    ck_assert(slice_eq(here.message.body, key.message.body));
    ck_assert_uint_eq(here.message.pos.lsn, meta_of(a).end.lsn);
}
END_TEST

/* Nor does it where the primary merged that message from this very store, as one that is new. */
START_TEST(test_a_damaged_body_that_was_merged_replaces_no_good_one)
{
    struct buf frame;
    struct row m = support_message(MESSAGE_ID(2, 1), 1, 1), key, here;
    struct row c = {.type = ROW_CHUNK,
                    .chunk = {.id = MESSAGE_ID(2, 1), .data = SLICE_LIT("a good chunk")}};
    enum unmerged_class mark;
    promote(a, 4, MODE_SOLO);
    open_own(a);
    put(support_message(MESSAGE_ID(4, 1), 2, 1));
    put(support_recipient(MESSAGE_ID(4, 1), 0, RCPT_QUEUED));
    close_own(&frame);
    ck_assert_int_eq(follow(b, &frame), STORE_OK);
    m.message.pos = m.message.born = c.chunk.pos = (struct pos){2, 1};
    key = m;
    ck_assert_int_eq(b->ops->begin(b), STORE_OK);
    ck_assert_int_eq(b->ops->put(b, &c, UNMERGED_NONE), STORE_OK);
    ck_assert_int_eq(b->ops->put(b, &m, UNMERGED_NONE), STORE_OK);
    ck_assert_int_eq(b->ops->commit(b), STORE_OK);
    uint8_t rotten[4096];
    ck_assert_uint_le(m.message.body.n, sizeof rotten);
    memcpy(rotten, m.message.body.p, m.message.body.n);
    rotten[0] ^= 1;
    m.message.body = slice_of(rotten, m.message.body.n);
    m.message.born = (struct pos){0, 0};
    c.chunk.data = SLICE_LIT("a bad! chunk");
    open_own(a);
    put(c);
    put(m);
    close_own(&frame);
    ck_assert_int_eq(follow(b, &frame), STORE_OK);
    ck_assert_int_eq(b->ops->get(b, &c, &here, &mark), STORE_OK);
    ck_assert(slice_eq(here.chunk.data, SLICE_LIT("a good chunk")));
    ck_assert_int_eq(b->ops->get(b, &key, &here, &mark), STORE_OK);
    ck_assert(slice_eq(here.message.body, key.message.body));
    ck_assert_uint_eq(here.message.pos.lsn, meta_of(a).end.lsn);
}
END_TEST

START_TEST(test_one_id_two_messages)
{
    promote(a, 4, MODE_SOLO);
    catch_up(a, b);
    add_message(a, MESSAGE_ID(9, 1), 1, NULL); /* as if cloned: an id that b gives out as well */
    promote(b, 5, MODE_SOLO);
    add_message(b, MESSAGE_ID(9, 1), 2, NULL);
    adopt(a, b);
    merge_all(a, b);
    merge_all(a, b);
    struct row m;
    uint64_t moved = MESSAGE_ID(9, 1) | UINT64_C(1) << 62;
    ck_assert(support_get_message(b, MESSAGE_ID(9, 1), &m));
    ck_assert(slice_eq(m.message.body, support_message(1, 2, 1).message.body));
    ck_assert(support_get_message(b, moved, &m));
    ck_assert(slice_eq(m.message.body, support_message(1, 1, 1).message.body));
    ck_assert_int_eq(support_state(b, moved, 0), RCPT_QUEUED);
    ck_assert(support_get_message(a, moved, &m));
}
END_TEST

/* Incident 22: between diverged copies the more restrictive wins. */
START_TEST(test_pauses_survive_a_merge)
{
    struct row pause = {.type = ROW_OPSTATE,
                        .opstate = {.key = SLICE_LIT("pause/campaign/x"), .value = SLICE_LIT("y")}};
    struct row resume = pause, out;
    resume.opstate.value = SLICE_LIT("");
    enum unmerged_class mark;
    promote(a, 4, MODE_PAIRED);
    open_own(a);
    put(pause);
    close_own(NULL);
    catch_up(a, b);
    open_own(a);
    put(resume); /* never reached b */
    close_own(NULL);
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    merge_all(a, b);
    ck_assert_int_eq(b->ops->get(b, &pause, &out, &mark), STORE_OK);
    ck_assert(slice_eq(out.opstate.value, SLICE_LIT("y")));
    ck_same(a, b, true);
}
END_TEST

static void order(struct store *s, const char *value, struct buf *out)
{
    open_own(s);
    put((struct row){.type = ROW_OPSTATE,
                     .opstate = {.key = SLICE_LIT("pause/campaign/x"), .value = slice_str(value)}});
    close_own(out);
}

static bool is_paused(struct store *s)
{
    struct row key = {.type = ROW_OPSTATE, .opstate.key = SLICE_LIT("pause/campaign/x")}, out;
    enum unmerged_class mark;
    ck_assert_int_eq(s->ops->get(s, &key, &out, &mark), STORE_OK);
    return out.opstate.value.n > 0;
}

/* a paused it alone, and comes back. While its row is still marked, the primary has merged the
 * pause, and then an operator lifts it there: that holds on both. */
START_TEST(test_a_pause_lifted_during_a_rejoin_is_over_on_both)
{
    struct buf merged, lifted;
    promote(a, 4, MODE_PAIRED);
    catch_up(a, b);
    order(a, "y", NULL); /* never reached b */
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    catch_up(b, a);
    open_own(b);
    ck_assert_int_eq(a->ops->each_unmerged(a, merge_row, NULL), STORE_OK);
    close_own(&merged);
    ck_assert_int_eq(follow(a, &merged), STORE_OK);
    ck_assert(is_paused(a) && is_paused(b));
    order(b, "", &lifted);
    ck_assert_int_eq(follow(a, &lifted), STORE_OK);
    ck_assert(!is_paused(a) && !is_paused(b));
    merge_all(a, b); /* MERGED arrives only now, or the connection broke and all is uploaded anew */
    ck_assert(!is_paused(a) && !is_paused(b));
    ck_same(a, b, true);
}
END_TEST

START_TEST(test_purge_on_both)
{
    promote(a, 4, MODE_PAIRED);
    for (unsigned i = 1; i <= 3; i++)
        add_message(a, MESSAGE_ID(4, i), i, NULL);
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL);
    catch_up(a, b);
    open_own(a);
    put((struct row){.type = ROW_OPSTATE,
                     .opstate = {.key = SLICE_LIT("purge"), .value = SLICE_LIT("1000001")}});
    struct buf f;
    close_own(&f);
    ck_assert_int_eq(follow(b, &f), STORE_OK);
    bool more;
    ck_assert_int_eq(apply_purge(a, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert_int_eq(apply_purge(b, UINT64_MAX, 100, &more), STORE_OK);
    struct row m;
    ck_assert(!support_get_message(a, MESSAGE_ID(4, 1), &m));
    ck_assert_int_eq(support_state(b, MESSAGE_ID(4, 1), 0), -1);
    ck_assert(support_get_message(b, MESSAGE_ID(4, 2), &m));
    ck_same(a, b, true);
}
END_TEST

static bool in_doubt(struct store *s, uint64_t id)
{
    struct row_recipient x = recipient(s, id);
    return x.in_doubt == DOUBT_YES && x.held & HELD_IN_DOUBT;
}

/* a noted a dot alone, and comes back. While its row is still marked, the primary has merged the
 * doubt, and then an operator releases it there: that holds on both. */
START_TEST(test_a_doubt_released_during_a_rejoin_is_over_on_both)
{
    struct buf merged, released;
    uint64_t id = MESSAGE_ID(4, 1);
    bool done;
    diverge();
    open_own(a);
    ck_assert_int_eq(own_note(&own, id, 0, DOUBT_NOTED, &done), STORE_OK);
    close_own(NULL);
    promote(b, 5, MODE_SOLO);
    adopt(a, b);
    catch_up(b, a);
    open_own(b);
    ck_assert_int_eq(a->ops->each_unmerged(a, merge_row, NULL), STORE_OK);
    close_own(&merged);
    ck_assert_int_eq(follow(a, &merged), STORE_OK);
    ck_assert(in_doubt(a, id) && in_doubt(b, id));
    open_own(b);
    put(support_recipient(id, 0, RCPT_QUEUED));
    close_own(&released);
    ck_assert_int_eq(follow(a, &released), STORE_OK);
    ck_assert(!in_doubt(a, id) && !in_doubt(b, id));
    /* Another primary may not know of it: what is here counts again, doubt and release alike. */
    promote(b, 7, MODE_SOLO);
    adopt(a, b);
    merge_all(a, b);
    ck_assert(!in_doubt(a, id) && !in_doubt(b, id));
    ck_same(a, b, true);
}
END_TEST

static void order_purge(const char *before_ms)
{
    put((struct row){.type = ROW_OPSTATE,
                     .opstate = {.key = SLICE_LIT("purge"), .value = slice_str(before_ms)}});
}

/* What is done after an order isn't under it, whatever the clocks say, on whichever store that is
 * carried out; and the next order, by a clock that was put right, counts again. */
START_TEST(test_an_order_is_for_what_was_done_before)
{
    promote(a, 4, MODE_SOLO);
    add_message(a, MESSAGE_ID(4, 1), 1, NULL);
    open_own(a);
    order_purge("99000000"); /* by a clock far ahead */
    close_own(NULL);
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL);
    catch_up(a, b);
    bool more;
    ck_assert_int_eq(apply_purge(a, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert_int_eq(apply_purge(b, UINT64_MAX, 100, &more), STORE_OK);
    struct row m;
    ck_assert(support_get_message(a, MESSAGE_ID(4, 1), &m));
    ck_assert(support_get_message(b, MESSAGE_ID(4, 1), &m));
    ck_same(a, b, true);
    open_own(a);
    order_purge("1000001");
    close_own(NULL);
    ck_assert_int_eq(apply_purge(a, 3, 100, &more), STORE_OK); /* not committed */
    ck_assert(support_get_message(a, MESSAGE_ID(4, 1), &m));
    ck_assert_int_eq(apply_purge(a, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert(!support_get_message(a, MESSAGE_ID(4, 1), &m));
}
END_TEST

/* A copy lacks what its primary had forgotten, and says so of itself. */
START_TEST(test_a_copy_has_forgotten_as_much)
{
    promote(a, 4, MODE_SOLO);
    add_message(a, MESSAGE_ID(4, 1), 1, NULL);
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL);
    uint64_t done = meta_of(a).end.lsn;
    open_own(a);
    order_purge("99000000");
    close_own(NULL);
    bool more;
    ck_assert_int_eq(apply_purge(a, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert_uint_eq(meta_of(a).purged, done);
    struct store_id fresh = {{9}};
    ck_assert_int_eq(apply_wipe(b, &fresh), STORE_OK);
    catch_up(a, b);
    ck_assert_uint_ge(meta_of(b).purged, done);
}
END_TEST

/* A later change of it may be on its way. */
START_TEST(test_nothing_is_forgotten_while_catching_up)
{
    struct row m;
    bool more;
    promote(a, 4, MODE_SOLO);
    add_message(a, MESSAGE_ID(4, 1), 1, NULL);
    change(a, MESSAGE_ID(4, 1), RCPT_DELIVERED, NULL);
    open_own(a);
    order_purge("99000000");
    close_own(NULL);
    catch_up(a, b);
    adopt(b, a); /* a new link */
    ck_assert_int_eq(apply_purge(b, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert(support_get_message(b, MESSAGE_ID(4, 1), &m));
    catch_up(a, b);
    ck_assert_int_eq(apply_purge(b, UINT64_MAX, 100, &more), STORE_OK);
    ck_assert(!support_get_message(b, MESSAGE_ID(4, 1), &m));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("apply");
    TCase *t = tcase_create("apply");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_following_makes_equal_stores);
    tcase_add_test(t, test_a_gap_is_refused);
    tcase_add_test(t, test_nothing_is_forgotten_while_catching_up);
    tcase_add_test(t, test_catching_up_with_moving_rows);
    tcase_add_test(t, test_a_broken_catch_up_leaves_nothing_unmerged);
    tcase_add_test(t, test_promotion);
    tcase_add_test(t, test_rejoin_uncommitted_is_quarantined);
    tcase_add_test(t, test_rejoin_quarantined_and_in_doubt);
    tcase_add_test(t, test_rejoin_leaves_alone_what_is_live);
    tcase_add_test(t, test_rejoin_solo_mail_is_queued);
    tcase_add_test(t, test_rejoin_committed_is_queued);
    tcase_add_test(t, test_merging_again_is_harmless);
    tcase_add_test(t, test_a_terminal_recipient_stays_terminal);
    tcase_add_test(t, test_accepted_twin_supersedes);
    tcase_add_test(t, test_twin_accepted_after_the_merge_supersedes);
    tcase_add_test(t, test_promotion_lists_what_is_in_doubt);
    tcase_add_test(t, test_a_promotion_knows_its_own_attempts);
    tcase_add_test(t, test_what_was_in_doubt_is_listed_anew);
    tcase_add_test(t, test_promotion_takes_what_is_unmerged);
    tcase_add_test(t, test_a_merged_doubt_outlives_an_outcome);
    tcase_add_test(t, test_a_bounce_follows_its_parent);
    tcase_add_test(t, test_a_late_delivery_recalls_the_bounce);
    tcase_add_test(t, test_a_promotion_recalls_the_bounce);
    tcase_add_test(t, test_a_damaged_body_replaces_no_good_one);
    tcase_add_test(t, test_a_damaged_body_that_was_merged_replaces_no_good_one);
    tcase_add_test(t, test_one_id_two_messages);
    tcase_add_test(t, test_pauses_survive_a_merge);
    tcase_add_test(t, test_a_pause_lifted_during_a_rejoin_is_over_on_both);
    tcase_add_test(t, test_purge_on_both);
    tcase_add_test(t, test_a_doubt_released_during_a_rejoin_is_over_on_both);
    tcase_add_test(t, test_an_order_is_for_what_was_done_before);
    tcase_add_test(t, test_a_copy_has_forgotten_as_much);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
