/* The books: what senders were told and receivers got, kept outside of everything that is tested.
 * Checks that need no more than one event are made here (invariants 2, 3, 4, 8 and the rule on
 * doubled mail); what needs the whole picture is in checks.c. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

#define ID(x) ((unsigned long long)(x))

void body_hash(uint64_t key, uint8_t out[32])
{
    for (unsigned i = 0; i < 4; i++) {
        uint64_t x = rng_mix(key * 4 + i + 1);
        memcpy(out + 8 * i, &x, 8);
    }
}

/* --- one entry per message id --- */

static unsigned slot(const struct books *b, uint64_t id)
{
    unsigned i = (unsigned)(rng_mix(id) & (b->n_table - 1));
    while (b->table[i] && b->copy[b->table[i] - 1].id != id)
        i = (i + 1) & (b->n_table - 1);
    return i;
}

struct copy *books_find(struct sim *s, uint64_t id)
{
    struct books *b = &s->books;
    if (!b->n_table)
        return NULL;
    unsigned i = b->table[slot(b, id)];
    return i ? &b->copy[i - 1] : NULL;
}

struct copy *books_new(struct sim *s, uint64_t id, unsigned message, unsigned node, unsigned rcpts)
{
    struct books *b = &s->books;
    if (books_find(s, id))
        sim_fail(s, "3", "node %s gives out id %llx a second time", process_name(node), ID(id));
    if (2 * (b->n_copies + 1) > b->n_table) {
        free(b->table);
        b->n_table = b->n_table ? 2 * b->n_table : 256;
        b->table = xcalloc(b->n_table, sizeof *b->table);
        for (unsigned i = 0; i < b->n_copies; i++)
            b->table[slot(b, b->copy[i].id)] = i + 1;
    }
    if (b->n_copies == b->cap_copies) {
        b->cap_copies = b->cap_copies ? 2 * b->cap_copies : 128;
        b->copy = xrealloc(b->copy, b->cap_copies * sizeof *b->copy);
    }
    struct copy *c = &b->copy[b->n_copies++];
    *c = (struct copy){.id = id, .message = message, .node = node, .rcpts = rcpts};
    b->table[slot(b, id)] = b->n_copies;
    return c;
}

/* --- invariant 2: one node per epoch --- */

static void owns(struct sim *s, unsigned node, uint32_t epoch, const char *what)
{
    struct books *b = &s->books;
    for (unsigned i = b->n_owners; i-- > 0;)
        if (b->owner[i].epoch == epoch) {
            if (b->owner[i].node != node)
                sim_fail(s, "2", "node %s %s in epoch %u of the other", process_name(node), what,
                         epoch);
            return;
        }
    const struct record *r = books_record_of(s, epoch);
    bool by_force = false; /* the voters may learn of it later */
    for (unsigned i = 0; i < b->n_forces; i++)
        by_force = by_force || (b->force[i].epoch == epoch && b->force[i].node == node);
    if (!by_force && (!r || r->primary != node))
        sim_fail(s, "2", "node %s %s in epoch %u, in which the record does not name it",
                 process_name(node), what, epoch);
    assert(b->n_owners < sizeof b->owner / sizeof b->owner[0]);
    b->owner[b->n_owners].epoch = epoch;
    b->owner[b->n_owners++].node = node;
    s->count.epochs++;
}

void books_number(struct sim *s, struct node *n, uint32_t epoch)
{
    owns(s, n->self, epoch, "adds");
}

/* --- the rule on wall clocks (protocol 6, incident 27) --- */

enum { CLOCKS_APART_MS = 65000, CLOCKS_HOLD_S = 3600 };

static bool apart(int64_t skew_ms)
{
    return skew_ms > CLOCKS_APART_MS || skew_ms < -CLOCKS_APART_MS;
}

static void note_takeover(struct sim *s, struct node *n)
{
    if (s->books.server != n->self) {
        s->books.took_over_at[n->self] = s->now;
        s->books.apart[n->self] = apart(node_wall(s, &s->node[0]) - node_wall(s, &s->node[1]));
    }
    s->books.server = n->self;
}

/* What the node could know of the other's clock: its newest heartbeat in this life, or nothing. */
void books_expire(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt)
{
    bool is_apart = n->heard_peer ? apart(n->heard_skew_ms) : s->books.apart[n->self];
    s->count.expired++;
    if (is_apart && s->now - s->books.took_over_at[n->self] < CLOCKS_HOLD_S * SEC)
        sim_fail(s, "1 (protocol 6, wall clocks)",
                 "node %s expires %llx/%u within an hour after it took over with clocks apart",
                 process_name(n->self), ID(id), rcpt);
}

void books_serve(struct sim *s, struct node *n, uint32_t epoch)
{
    owns(s, n->self, epoch, "serves");
    note_takeover(s, n);
    const struct record *r = books_record_of(s, epoch);
    if (r && !store_id_eq(&r->store[n->self], &store_memory_meta(n->disk.store)->id))
        sim_fail(s, "6", "node %s serves with a store that the record of epoch %u does not name",
                 process_name(n->self), epoch);
}

/* --- invariant 8, and what may be sent twice --- */

void books_start(struct sim *s, struct node *n, uint32_t epoch)
{
    struct books *b = &s->books;
    owns(s, n->self, epoch, "delivers");
    rules_delivers(s, n, epoch);
    if (epoch < b->delivery_epoch && !b->forced &&
        !b->split) /* "may be doubled", the operator was told */
        sim_fail(s, "8", "node %s delivers in epoch %u after node %s began in epoch %u",
                 process_name(n->self), epoch, process_name(b->delivery_node), b->delivery_epoch);
    b->delivery_epoch = epoch;
    b->delivery_node = n->self;
}

/* An outcome that counts as settled was on the old primary's disk, and received by the standby. If
 * the standby lost power before it had written it, and the primary its store or its life as well,
 * that is two failures. */
static bool two_failures(const struct sim *s, const struct rcpt_book *x, unsigned node)
{
    const struct node *other = &s->node[1 - x->node];
    return !x->on_both && other->crashed_at > x->dot_at &&
           (node != x->node || s->node[node].emptied_at > x->settled_at);
}

/* It was finished, and forgotten; then a store that had been rolled back, or an operator's `rejoin
 * --merge`, brought it back: nobody is left that knows. */
static bool reborn(const struct sim *s, const struct copy *c, const struct rcpt_book *x)
{
    bool lost = s->node[0].disk.lost_at > x->settled_at || s->node[1].disk.lost_at > x->settled_at;
    return c->purged && (lost || s->books.rejoined);
}

/* A bounce tells of a failure (protocol 3): it is not queued where the mail was delivered by then.
 */
static void check_bounce(struct sim *s, const struct node *n, const struct copy *c)
{
    const struct store *st = n->disk.store;
    const struct row_recipient *x = store_memory_recipient(st, c->parent, c->message);
    const struct row_recipient *own = store_memory_recipient(st, c->id, 0);
    const struct copy *parent = books_find(s, c->parent);
    if (x && own && x->state == RCPT_DELIVERED && own->state == RCPT_QUEUED &&
        !reborn(s, parent, &parent->rcpt[c->message]))
        sim_fail(s, "7 (incident 21)", "node %s sends a bounce for %llx/%u, which was delivered",
                 process_name(n->self), ID(c->parent), c->message);
}

/* Protocol 9: the note is on the store before the dot, and the end of the delivery replaces it. A
 * store that was rolled back after either has neither, and who serves with it may send again; once
 * it has caught up it knows again. */
static bool forgot_since(const struct node *n, const struct rcpt_book *x, uint64_t at)
{
    uint64_t known = x->known_at[n->self];
    return n->disk.lost_at > at || (known && n->disk.lost_at > known);
}

static bool forgot(const struct node *n, const struct rcpt_book *x)
{
    return forgot_since(n, x, x->dot_at);
}

/* Under `hold` only what a receiver took counts. What this node is told while it delivers comes too
 * late for the dot that is next. */
void books_begin(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt)
{
    struct rcpt_book *x = &books_find(s, id)->rcpt[rcpt];
    x->unaware[n->self] = forgot_since(n, x, x->taken_at);
}

/* What is known to be in doubt dies with the process that was told; and the primary that restarts
 * in an epoch of its own knows nothing, and says so to its standby. */
static bool note_lost(const struct sim *s, const struct node *n, const struct rcpt_book *x,
                      uint32_t epoch)
{
    if (n->crashed_at > x->noted_at && n->notes_at <= n->crashed_at)
        return true;
    for (unsigned i = 0; i < s->books.n_accepts; i++) {
        const struct accept_log *a = &s->books.accepts[i];
        if (a->chosen && a->record.primary == x->node && a->record.epoch > x->epoch &&
            a->record.epoch < epoch)
            return true;
    }
    return false;
}

/* Protocol 9: sent by the other, and its outcome isn't here. */
static void check_doubt(struct sim *s, const struct node *n, const struct copy *c,
                        const struct rcpt_book *x, uint32_t epoch)
{
    unsigned long long id = ID(c->id);
    uint32_t rcpt = (uint32_t)(x - c->rcpt);
    struct counters *k = &s->count;
    bool accepted = x->newest_accepted;
    if (x->listed)
        k->doubled_in_doubt += accepted;
    else if (x->reply_lost)
        k->doubled_reply_lost += accepted;
    else if (x->node == n->self)
        k->doubled_restart += accepted;
    else if (s->books.forced)
        k->doubled_forced += accepted;
    else if (s->books.split)
        k->doubled_split += accepted;
    else if (forgot(n, x))
        k->doubled_lost_store += accepted;
    else if (note_lost(s, n, x, epoch))
        k->doubled_note_lost += accepted;
    else
        sim_fail(s, "listed",
                 "node %s sends %llx/%u again in epoch %u and had not listed it: "
                 "sent by %s in epoch %u",
                 process_name(n->self), id, rcpt, epoch, process_name(x->node), x->epoch);
}

void books_dot(struct sim *s, struct node *n, uint32_t epoch, uint64_t id, uint32_t rcpt,
               bool accepted, bool rejected)
{
    books_start(s, n, epoch);
    struct copy *c = books_find(s, id);
    if (!c) {
        sim_fail(s, "3", "node %s delivers an unknown id %llx", process_name(n->self), ID(id));
        return;
    }
    struct rcpt_book *x = &c->rcpt[rcpt];
    bool repeated = x->dots && (x->newest_accepted || x->newest_rejected);
    if (x->dots && x->state == DOT_PENDING && x->epoch == epoch && x->node == n->self)
        sim_fail(s, "8", "%llx/%u is sent while its last outcome is open", ID(id), rcpt);
    else if (c->hold && x->accepted > x->let_go && !s->books.forced && !s->books.split &&
             !reborn(s, c, x) && !x->unaware[n->self])
        sim_fail(s, "at most once", "node %s sends %llx/%u again in epoch %u, its policy is hold",
                 process_name(n->self), ID(id), rcpt, epoch);
    else if (repeated && x->state == DOT_PENDING)
        check_doubt(s, n, c, x, epoch);
    else if (repeated && !x->reply_seen)
        s->count.doubled_reply_lost += x->newest_accepted;
    else if (repeated && two_failures(s, x, n->self))
        s->count.doubled_two_crashes++;
    else if (repeated && forgot(n, x))
        s->count.doubled_lost_store++;
    else if (repeated && s->books.split)
        s->count.doubled_split++;
    else if (repeated && (s->books.rejoined || reborn(s, c, x)))
        s->count.doubled_rejoin++;
    else if (repeated && s->books.forced)
        s->count.doubled_forced++;
    else if (repeated)
        sim_fail(s, "doubled", "node %s sends %llx/%u again in epoch %u: settled by %s in epoch %u",
                 process_name(n->self), ID(id), rcpt, epoch, process_name(x->node), x->epoch);
    if (c->hold && x->unaware[n->self] && x->accepted > x->let_go) {
        /* What comes of this attempt settles the other node's doubt about the forgotten one
         * (promises.md, "Not promised"): each is one more that may go out. */
        x->let_go = x->accepted;
        s->count.hold_forgotten++;
    }
    if (c->bounce)
        check_bounce(s, n, c);
    TRACE(s, process_name(n->self), "final dot of %llx/%u in epoch %u%s", ID(id), rcpt, epoch,
          repeated ? ", again" : "");
    x->dots++;
    x->accepted += accepted;
    x->rejected += rejected;
    x->newest_accepted = accepted;
    x->newest_rejected = rejected;
    x->reply_seen = x->listed = false;
    x->state = DOT_PENDING;
    x->epoch = epoch;
    x->node = n->self;
    x->dot_at = s->now;
    if (accepted)
        x->taken_at = s->now;
    x->on_both = false;
}

void books_settled(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt)
{
    struct rcpt_book *x = &books_find(s, id)->rcpt[rcpt];
    /* The other has sent it again meanwhile: this node's epoch is over. Or the outcome is of an
     * attempt without a final dot, in a later epoch. */
    if (x->node != n->self || x->state != DOT_PENDING || x->epoch != n->relay.epoch)
        return;
    const struct row_recipient *there =
        store_memory_recipient(s->node[1 - n->self].disk.store, id, rcpt);
    x->on_both = there && rcpt_terminal(there->state);
    x->state = DOT_SETTLED;
    x->settled_at = s->now;
}

/* --- invariants 3 and 4, at every row that becomes durable --- */

static void watch_message(struct sim *s, const char *who, const struct row_message *m)
{
    const struct copy *c = books_find(s, m->id);
    uint8_t hash[32];
    if (!c) {
        sim_fail(s, "3", "the store of %s has an id %llx that nobody gave out", who, ID(m->id));
        return;
    }
    body_hash(c->bounce ? c->parent * 8 + c->message + (1ull << 60) : c->message, hash);
    if (memcmp(hash, m->sha256, 32) != 0 || m->recipients != c->rcpts)
        sim_fail(s, "3", "id %llx has other content on the store of %s", ID(m->id), who);
}

/* Since when that store knows that this recipient may have the mail. A note for another attempt, by
 * a store that doesn't, tells of nothing that was. */
static void note_known(struct sim *s, const struct node *n, const struct row_recipient *was,
                       const struct row_recipient *x)
{
    struct rcpt_book *k = &books_find(s, x->id)->rcpt[x->index];
    bool again = k->accepted && was && x->in_doubt == DOUBT_NOTED && !rcpt_terminal(was->state) &&
                 was->in_doubt == DOUBT_NONE;
    if (rcpt_terminal(x->state) || (x->in_doubt != DOUBT_NONE && !again))
        k->known_at[n->self] = s->now;
    else if (!again && !k->accepted && n->disk.lost_at <= k->known_at[n->self])
        k->known_at[n->self] = 0;
}

static void watch_recipient(struct sim *s, const struct node *n, const struct row_recipient *was,
                            const struct row_recipient *x)
{
    const char *who = process_name(n->self);
    const struct copy *c = books_find(s, x->id);
    if (was && rcpt_terminal(was->state) && !rcpt_terminal(x->state))
        sim_fail(s, "4", "%llx/%u becomes %s on the store of %s after it was %s", ID(x->id),
                 x->index, rcpt_state_name(x->state), who, rcpt_state_name(was->state));
    if (!c || x->index >= c->rcpts)
        return;
    if (x->in_doubt == DOUBT_YES)
        books_find(s, x->id)->rcpt[x->index].listed = true;
    note_known(s, n, was, x);
    /* Its doubt and its release may have become durable at once. */
    bool yes = was && was->in_doubt == DOUBT_YES;
    if (was && was->in_doubt != DOUBT_NONE && x->in_doubt == DOUBT_NONE && c->let_go &&
        /* Not where it follows, after the next dot perhaps. */
        ((yes && (x->pos.epoch & 1) == n->self) || c->rcpt[x->index].dot_at < c->let_go_at))
        books_find(s, x->id)->rcpt[x->index].let_go = c->rcpt[x->index].accepted;
    if (x->state == RCPT_DELIVERED && !c->rcpt[x->index].accepted)
        sim_fail(s, "1", "%llx/%u counts as delivered on %s, and no receiver has it", ID(x->id),
                 x->index, who);
    if (x->state == RCPT_FAILED && !c->rcpt[x->index].rejected)
        sim_fail(s, "1", "%llx/%u counts as failed on %s, and no receiver refused it", ID(x->id),
                 x->index, who);
    if (x->state == RCPT_CANCELLED && !c->cancelled && !c->bounce)
        sim_fail(s, "1", "%llx/%u counts as cancelled on %s, and nobody said so", ID(x->id),
                 x->index, who);
    if (c->acked && !c->was_away && (x->state == RCPT_QUARANTINED || x->state == RCPT_SUPERSEDED))
        sim_fail(s, "1", "acknowledged %llx/%u becomes %s on the store of %s", ID(x->id), x->index,
                 rcpt_state_name(x->state), who);
    if ((x->state == RCPT_QUARANTINED || x->state == RCPT_SUPERSEDED) &&
        (!was || was->state != x->state))
        TRACE(s, who, "%llx/%u becomes %s", ID(x->id), x->index, rcpt_state_name(x->state));
    s->count.quarantined += x->state == RCPT_QUARANTINED;
    s->count.superseded += x->state == RCPT_SUPERSEDED;
}

/* A message's row goes: with the whole store, or as a tombstone that is older than the retention.
 */
static void watch_purge(struct sim *s, struct node *n, const struct row_message *m)
{
    struct copy *c = books_find(s, m->id);
    const struct row_opstate *x = store_memory_opstate(n->disk.store, SLICE_LIT("purge"));
    char text[24] = "0";
    if (x)
        snprintf(text, sizeof text, "%.*s", (int)x->value.n, (const char *)x->value.p);
    bool due = m->state == MESSAGE_DONE && m->done_ms < strtoll(text, NULL, 10);
    if (!c || (!due && store_memory_meta(n->disk.store)->copying))
        return;
    if (!due)
        sim_fail(s, "1 (purge)", "%llx goes from the store of %s before its time", ID(m->id),
                 process_name(n->self));
    TRACE(s, process_name(n->self), "%llx is purged", ID(m->id));
    c->purged = true;
    s->count.purged++;
}

static void watch(void *ctx, const struct row *before, const struct row *after)
{
    struct task *box = ctx;
    struct sim *s = box->p;
    const char *who = process_name((unsigned)box->a);
    if (!after) {
        if (before && before->type == ROW_MESSAGE)
            watch_purge(s, &s->node[box->a], &before->message);
        return;
    }
    if (after->type == ROW_MESSAGE)
        watch_message(s, who, &after->message);
    else if (after->type == ROW_RECIPIENT)
        watch_recipient(s, &s->node[box->a], before ? &before->recipient : NULL, &after->recipient);
}

void books_watch(struct sim *s, struct node *n)
{
    store_memory_watch(n->disk.store, watch, &s->box[n->self]);
}

void books_free(struct sim *s)
{
    free(s->books.copy);
    free(s->books.table);
    free(s->books.accepts);
}
