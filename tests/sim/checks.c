/* The whole picture: what the voters have accepted (so what *the* record is, and which changes are
 * pending), where every acknowledged message is, and how a run has to end. Invariants 1, 5, 6, 7, 9
 * of protocol 11. */
#include <assert.h>
#include <stdlib.h>

#include "sim/sim.h"

#define ID(x) ((unsigned long long)(x))

/* --- the record --- */

static struct accept_log *log_of(struct books *b, struct ballot ballot, const struct record *r)
{
    for (unsigned i = b->n_accepts; i-- > 0;)
        if (ballot_cmp(b->accepts[i].ballot, ballot) == 0)
            return &b->accepts[i];
    if (b->n_accepts == b->cap_accepts) {
        b->cap_accepts = b->cap_accepts ? 2 * b->cap_accepts : 64;
        b->accepts = xrealloc(b->accepts, b->cap_accepts * sizeof *b->accepts);
    }
    struct accept_log *a = &b->accepts[b->n_accepts++];
    *a = (struct accept_log){.ballot = ballot, .record = *r};
    return a;
}

static const char *record_text(char out[120], const struct record *r)
{
    snprintf(out, 120, "version %llu epoch %u primary %c in_sync %s%s", ID(r->version), r->epoch,
             r->primary ? 'b' : 'a', r->in_sync[0] ? "a" : "", r->in_sync[1] ? "b" : "");
    return out;
}

/* A change that counts follows the one before it. */
static void check_successor(struct sim *s, const struct record *was, const struct record *r)
{
    char x[120], y[120];
    if (was->tag == r->tag || s->books.split)
        return;
    record_text(x, was);
    record_text(y, r);
    if (r->version != was->version + 1 || r->epoch < was->epoch)
        sim_fail(s, "2", "the record goes from %s to %s", x, y);
    else if (r->epoch == was->epoch && r->primary != was->primary)
        sim_fail(s, "2", "two primaries for one epoch: from %s to %s", x, y);
    else if (r->epoch != was->epoch && !r->forced &&
             !(was->in_sync[r->primary] &&
               store_id_eq(&was->store[r->primary], &r->store[r->primary])))
        sim_fail(s, "6", "a store outside in_sync is promoted: from %s to %s", x, y);
}

static void leave_behind(struct sim *s, unsigned node);

/* Without an arbiter both nodes may have gone on alone, in ballots that the other never saw. */
static bool above(const struct sim *s, const struct accept_log *a, const struct accept_log *than)
{
    int cmp = s->none ? record_cmp(&a->record, &than->record) : 0;
    return cmp ? cmp > 0 : ballot_cmp(a->ballot, than->ballot) > 0;
}

/* Did the other node accept a higher one, which comes to count when both meet? */
bool books_overtaken(const struct sim *s, const struct record *r)
{
    for (unsigned i = 0; i < s->books.n_accepts; i++) {
        const struct accept_log *a = &s->books.accepts[i];
        if (!a->chosen && a->voters & 1u << (1 - r->primary) && record_cmp(&a->record, r) > 0)
            return true;
    }
    return false;
}

static void choose(struct sim *s, unsigned i)
{
    struct books *b = &s->books;
    struct accept_log *a = &b->accepts[i];
    char text[120];
    /* An epoch begun by force is over before the voters heard of it. */
    if (b->forced && a->record.epoch > b->forced && !books_record_of(s, b->forced))
        leave_behind(s, a->record.primary);
    a->chosen = true;
    if (a->record.forced && a->record.epoch > b->forced)
        books_forced(s, &s->node[a->record.primary], a->record.epoch);
    if (b->chosen < 0) {
        b->chosen = (int)i;
    } else {
        const struct accept_log *was = &b->accepts[b->chosen];
        if (above(s, a, was)) {
            if (s->none) /* in line when it was proposed; the other's may have come in between */
                none_accepted(s, &a->record, false);
            check_successor(s, &was->record, &a->record);
            if (was->record.tag != a->record.tag)
                TRACE(s, "record", "is %s", record_text(text, &a->record));
            b->chosen = (int)i;
        } else if (s->none) { /* the one that is left behind went on by judgement, too */
            none_accepted(s, &a->record, false);
        } else if (a->record.version > was->record.version) {
            sim_fail(s, "2", "the register decided twice: %s", record_text(text, &a->record));
        }
    }
    b->check_all = true;
}

/* What an emptied voter had accepted, and nobody was told of yet, is only proposed again (the
 * argument stands at the top of health/register_voter.c): a late accept elsewhere doesn't complete
 * it. */
void books_voter_emptied(struct sim *s, unsigned voter)
{
    for (unsigned i = 0; i < s->books.n_accepts; i++)
        if (!s->books.accepts[i].chosen)
            s->books.accepts[i].voters &= ~(1u << voter);
    s->books.check_all = true;
}

/* That voter has accepted, or says that it has: a voter that recovered may find the row there. */
void books_accepted(struct sim *s, unsigned voter, struct ballot ballot, const struct record *r)
{
    struct books *b = &s->books;
    struct accept_log *a = log_of(b, ballot, r);
    if (a->record.tag != r->tag)
        sim_fail(s, "2", "one ballot, two records");
    if (s->none && !a->voters && b->chosen >= 0)
        none_accepted(s, r, ballot_cmp(ballot, b->accepts[b->chosen].ballot) < 0);
    if (a->voters & 1u << voter)
        return;
    a->voters |= 1u << voter;
    b->check_all = true;
    bool two = (a->voters & (a->voters - 1)) != 0;
    if (two && !a->chosen)
        choose(s, (unsigned)(a - b->accepts));
}

/* Then the voters, and the other node, may not know of it yet. */
static bool began_by_force(const struct books *b, uint32_t epoch)
{
    for (unsigned i = 0; i < b->n_forces; i++)
        if (b->force[i].epoch == epoch)
            return true;
    return false;
}

/* A put counts at once. One in the next lineage puts back what somebody had seen: of what was
 * there before, nothing counts but what that node knows, and nobody has acted on the rest. */
void books_etcd(struct sim *s, struct ballot place, const struct record *r)
{
    struct books *b = &s->books;
    bool put_back = b->chosen >= 0 && place.counter > b->accepts[b->chosen].ballot.counter;
    for (unsigned i = 0; put_back && i < b->n_owners; i++)
        if (b->owner[i].epoch > r->epoch && !began_by_force(b, b->owner[i].epoch))
            sim_fail(s, "2", "etcd is given back epoch %u, and %u was acted upon", r->epoch,
                     b->owner[i].epoch);
    if (put_back) {
        b->put_back = true;
        *log_of(b, place, r) = (struct accept_log){.ballot = place, .record = *r, .voters = 3};
        b->accepts[b->n_accepts - 1].chosen = true;
        b->chosen = (int)b->n_accepts - 1;
        b->check_all = true;
        TRACE(s, "record", "is given back to etcd");
        return;
    }
    books_accepted(s, NODE_A, place, r);
    books_accepted(s, NODE_B, place, r);
}

void books_voter(struct sim *s, unsigned voter, const struct voter_state *before,
                 const struct voter_state *after)
{
    bool first = !before->voting && after->voting && after->record.version == 1;
    bool accepts = before->voting && before->voter_id == after->voter_id &&
                   ballot_cmp(after->accepted, before->accepted) != 0;
    if (before->voting && before->voter_id == after->voter_id &&
        (ballot_cmp(after->promised, before->promised) < 0 ||
         ballot_cmp(after->accepted, before->accepted) < 0))
        sim_fail(s, "2", "voter %s goes back on its word", process_name(voter));
    TRACE(s, process_name(voter), "voter's row: promised %llu.%u, accepted %llu.%u epoch %u%s",
          ID(after->promised.counter), after->promised.node, ID(after->accepted.counter),
          after->accepted.node, after->record.epoch, after->voting ? "" : ", silent");
    if (first || accepts)
        books_accepted(s, voter, after->accepted, &after->record);
}

const struct record *books_record(const struct sim *s)
{
    return s->books.chosen < 0 ? NULL : &s->books.accepts[s->books.chosen].record;
}

const struct record *books_record_of(const struct sim *s, uint32_t epoch)
{
    const struct books *b = &s->books;
    for (unsigned i = b->n_accepts; i-- > 0;)
        if (b->accepts[i].chosen && b->accepts[i].record.epoch == epoch)
            return &b->accepts[i].record;
    return NULL;
}

/* That asks for nothing. */
static bool by_force(const struct books *b, const struct record *r)
{
    return r->forced && r->epoch > b->forced;
}

/* The record, or a change above it that may still come to count. */
static bool may_count(const struct sim *s, const struct accept_log *a)
{
    const struct books *b = &s->books;
    if (by_force(b, &a->record))
        return false;
    return a == &b->accepts[b->chosen] || (!a->chosen && above(s, a, &b->accepts[b->chosen]));
}

bool books_required(const struct sim *s, unsigned node)
{
    const struct books *b = &s->books;
    const struct store_id *id = &store_memory_meta(s->node[node].disk.store)->id;
    const struct record *r = books_record(s);
    if (b->split) /* check_copy() asks for one of both */
        return false;
    if (r && r->epoch < b->forced) /* the voters don't know it yet */
        return node == b->forced_node;
    for (unsigned i = 0; b->chosen >= 0 && i < b->n_accepts; i++)
        if (may_count(s, &b->accepts[i]) && record_names(&b->accepts[i].record, node, id))
            return true;
    const struct record *p;
    for (unsigned i = 0; (p = etcd_pending(s, i)); i++)
        if (!by_force(b, p) && record_names(p, node, id))
            return true;
    return false;
}

void books_each_countable(struct sim *s, const struct copy *c,
                          void (*fn)(struct sim *s, const struct copy *c, const struct record *r))
{
    const struct books *b = &s->books;
    for (unsigned i = 0; b->chosen >= 0 && i < b->n_accepts; i++)
        if (may_count(s, &b->accepts[i]))
            fn(s, c, &b->accepts[i].record);
    const struct record *p;
    for (unsigned i = 0; (p = etcd_pending(s, i)); i++)
        if (!by_force(b, p))
            fn(s, c, p);
}

bool books_spare(struct sim *s, unsigned node)
{
    const struct books *b = &s->books;
    const struct store_meta *m = store_memory_meta(s->node[1 - node].disk.store);
    /* What etcd lost before anybody saw it doesn't count: two losses at once need an operator. */
    if (b->chosen < 0 || m->copying || m->unfit || !etcd_spare(s))
        return false;
    if (s->node[1 - node].disk.lost) /* it was rolled back: outcomes are on the other alone */
        return false;
    for (unsigned i = 0; i < b->n_accepts; i++)
        if (may_count(s, &b->accepts[i]) && !record_names(&b->accepts[i].record, 1 - node, &m->id))
            return false;
    const struct record *p;
    for (unsigned i = 0; (p = etcd_pending(s, i)); i++)
        if (!by_force(b, p) && !record_names(p, 1 - node, &m->id))
            return false;
    for (unsigned i = 0; i < b->n_copies; i++)
        if (b->copy[i].acked && (b->copy[i].away || b->split) &&
            !books_holds(s->node[1 - node].disk.store, &b->copy[i]))
            return false;
    for (unsigned i = 0; i < b->n_copies; i++)
        if (b->copy[i].held && !orders_hold(&s->node[1 - node], &b->copy[i]))
            return false;
    return rot_spare(s, node) && operator_holds(s, 1 - node);
}

/* --- invariant 1 --- */

bool books_holds(const struct store *st, const struct copy *c)
{
    const struct row_message *m = store_memory_message(st, c->id);
    if (c->purged) /* it had ended; rows of it may still come back from a store that was away */
        return true;
    if (!m)
        return false;
    for (uint32_t i = 0; i < c->rcpts; i++)
        if (!store_memory_recipient(st, c->id, i))
            return false;
    if (m->state == MESSAGE_DONE)
        return true;
    if (!c->chunked)
        return m->body.n > 0;
    return store_memory_has_chunk(st, c->id, 0) && store_memory_has_chunk(st, c->id, 1);
}

static void check_copy(struct sim *s, struct copy *c, const bool required[NODES], const char *when)
{
    if (c->away || s->books.split) {
        bool here[NODES] = {books_holds(s->node[0].disk.store, c),
                            books_holds(s->node[1].disk.store, c)};
        if (!here[0] && !here[1])
            sim_fail(s, "1", "acknowledged %llx is on no store %s", ID(c->id), when);
        c->away = !here[0] || !here[1];
        return;
    }
    for (unsigned node = 0; node < NODES; node++)
        if (required[node] && !books_holds(s->node[node].disk.store, c)) {
            const struct record *r = books_record(s);
            char text[120] = "none";
            if (r)
                record_text(text, r);
            sim_fail(s, "1", "acknowledged %llx is not on the store of %s %s (record: %s)",
                     ID(c->id), process_name(node), when, text);
        }
}

/* Excused, and counted: a store that the record names needs not hold it, while another does. */
static void put_away(struct copy *c, uint64_t *count)
{
    *count += !c->away;
    c->away = true;
}

void books_ack(struct sim *s, struct node *n, uint64_t id)
{
    struct copy *c = books_find(s, id);
    bool required[NODES] = {books_required(s, 0), books_required(s, 1)};
    TRACE(s, process_name(n->self), "250 for message %u as %llx", c->message, ID(id));
    /* The own store need not be among them: a standby goes on acknowledging until it closes the
     * feed, and what it acknowledged it holds. */
    const struct record *r = books_record(s);
    if (s->books.forced && (n->relay.epoch < s->books.forced || n->relay.epoch < r->epoch))
        put_away(c, &s->count.away_forced); /* nobody told this node yet */
    for (unsigned i = 0; i < NODES; i++)
        if (s->node[i].disk.lost && !books_holds(s->node[i].disk.store, c)) {
            put_away(c, &s->count.away_lost); /* it had acknowledged, and was rolled back then */
            c->was_away = true;
        }
    rules_ack(s, n, c);
    c->acked = true;
    s->message[c->message].acked = true;
    s->count.acked++;
    check_copy(s, c, required, "when its 250 is sent");
}

/* What that store doesn't hold is on the other, and stays there until it comes back. */
static void leave_behind(struct sim *s, unsigned node)
{
    struct books *b = &s->books;
    for (unsigned i = 0; i < b->n_copies; i++)
        if (b->copy[i].acked && !books_holds(s->node[node].disk.store, &b->copy[i]))
            put_away(&b->copy[i], &s->count.away_forced);
}

/* The operator says that the other is dead: what only that one has is away until it comes back. */
void books_forced(struct sim *s, struct node *n, uint32_t epoch)
{
    struct books *b = &s->books;
    for (unsigned i = 0; i < b->n_forces; i++)
        if (b->force[i].epoch == epoch)
            return;
    assert(b->n_forces < sizeof b->force / sizeof b->force[0]);
    b->force[b->n_forces].epoch = epoch;
    b->force[b->n_forces++].node = n->self;
    s->count.forced++;
    if (epoch < b->forced)
        return; /* the other was forced into a higher one: what this one takes is away there */
    b->forced = epoch;
    b->forced_node = n->self;
    leave_behind(s, n->self);
}

/* What only the other copy has now must come back from there. */
void books_rolled_back(struct sim *s, struct node *n, struct pos end)
{
    struct books *b = &s->books;
    if (!n->disk.lost || pos_cmp(end, n->disk.lost_end) > 0) /* twice, before it came back */
        n->disk.lost_end = end;
    n->disk.lost = true;
    n->disk.lost_at = s->now;
    for (unsigned i = 0; i < b->n_copies; i++)
        if (b->copy[i].acked && !books_holds(n->disk.store, &b->copy[i])) {
            put_away(&b->copy[i], &s->count.away_lost);
            b->copy[i].was_away = true;
        }
    b->check_all = true;
}

static bool see_marked(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)r;
    *(bool *)ctx |= mark != UNMERGED_NONE;
    return !*(bool *)ctx;
}

/* Has it caught up, or been filled anew, and got back from the other all that it had lost? */
static void check_lost(struct sim *s, struct node *n)
{
    const struct store_meta *m = store_memory_meta(n->disk.store);
    struct store *theirs = s->node[1 - n->self].disk.store;
    bool marked = false;
    if (!n->disk.lost || m->copying || pos_cmp(m->end, store_memory_meta(theirs)->end) != 0 ||
        pos_cmp(m->end, n->disk.lost_end) < 0)
        return;
    theirs->ops->each_unmerged(theirs, see_marked, &marked);
    n->disk.lost = marked;
}

void books_check(struct sim *s)
{
    struct books *b = &s->books;
    if (!b->check_all)
        return;
    b->check_all = false;
    for (unsigned i = 0; i < NODES; i++)
        check_lost(s, &s->node[i]);
    bool required[NODES] = {books_required(s, 0), books_required(s, 1)};
    for (unsigned i = 0; i < b->n_copies && !s->failed; i++)
        if (b->copy[i].acked)
            check_copy(s, &b->copy[i], required, "any more");
    rot_check(s);
    if (!b->forced && !s->node[0].disk.lost_at && !s->node[1].disk.lost_at) {
        operator_check(s, required);
        orders_check(s, required);
    }
}

/* --- invariant 5 --- */

static bool reaches(const struct store_meta *m, uint32_t epoch, uint64_t lsn)
{
    if (m->end.epoch > epoch)
        return true; /* it has gone on to another epoch */
    return m->end.lsn >= lsn;
}

void books_watermark(struct sim *s, struct node *n, uint32_t epoch, uint64_t committed)
{
    struct books *b = &s->books;
    if (b->mark[n->self].epoch == epoch && committed < b->mark[n->self].committed)
        sim_fail(s, "5", "committed falls from %llu to %llu in epoch %u",
                 ID(b->mark[n->self].committed), ID(committed), epoch);
    b->mark[n->self].epoch = epoch;
    b->mark[n->self].committed = committed;
    const struct record *r = books_record(s);
    for (unsigned node = 0; node < NODES; node++) {
        const struct store_meta *m = store_memory_meta(s->node[node].disk.store);
        if (r && r->epoch == epoch && books_required(s, node) && !s->node[0].disk.lost &&
            !s->node[1].disk.lost && !reaches(m, epoch, committed))
            sim_fail(s, "5", "committed is %llu in epoch %u, the store of %s ends at %u:%llu",
                     ID(committed), epoch, process_name(node), m->end.epoch, ID(m->end.lsn));
    }
}

/* --- how it ends: invariants 7 and 9 --- */

static bool serving(const struct sim *s, unsigned *who)
{
    unsigned n = 0;
    for (unsigned i = 0; i < NODES; i++)
        if (s->node[i].up && s->node[i].gate && s->node[i].relay.epoch) {
            *who = i;
            n++;
        }
    return n == 1;
}

struct open_ones {
    struct sim *sim;
    unsigned n;
};

static bool count_open(void *ctx, const struct row *r, enum unmerged_class unmerged)
{
    struct open_ones *open = ctx;
    (void)unmerged;
    /* Under `hold` what may have been sent waits for an operator, of whom there is none here. */
    open->n += !rcpt_terminal(r->recipient.state) && !(r->recipient.held & HELD_IN_DOUBT) &&
               !rot_was_done(open->sim, r->recipient.id);
    return true;
}

bool books_settled_down(struct sim *s, char *why, size_t n)
{
    unsigned who = 0;
    struct open_ones open = {.sim = s};
    if (!serving(s, &who)) {
        struct pair_view v[NODES] = {{.why = "down"}, {.why = "down"}};
        for (unsigned i = 0; i < NODES; i++)
            if (s->node[i].up)
                pair_view(s->node[i].pair, node_now(s, &s->node[i]), &v[i]);
        snprintf(why, n, "9: nobody serves, or both do (a: %.100s; b: %.100s)", v[0].why, v[1].why);
        return false;
    }
    if (!clients_done(s)) {
        snprintf(why, n, "9: senders still wait");
        return false;
    }
    store_memory_each_live(s->node[who].disk.store, count_open, &open);
    if (open.n) {
        snprintf(why, n, "7: %u recipients are still queued on %s", open.n, process_name(who));
        return false;
    }
    if (s->plan.out < NODES)
        return s->node[who].relay.head == NULL; /* the other copy comes later */
    char what[240];
    if (!store_memory_equal(s->node[0].disk.store, s->node[1].disk.store, what, sizeof what)) {
        snprintf(why, n, "7: the stores differ: %s", what);
        return false;
    }
    return s->node[who].relay.head == NULL;
}

static bool has_bounce(struct sim *s, const struct store *st, const struct copy *parent,
                       uint32_t index)
{
    for (unsigned i = 0; i < s->books.n_copies; i++) {
        const struct copy *c = &s->books.copy[i];
        if (!c->bounce || c->parent != parent->id || c->message != index)
            continue;
        if (c->purged) /* it had ended before its parent did */
            return true;
        const struct row_recipient *x = store_memory_recipient(st, c->id, 0);
        if (x && x->state == RCPT_CANCELLED && c->cancelled)
            return true;
        if (x &&
            (x->state == RCPT_DELIVERED || x->state == RCPT_FAILED || x->state == RCPT_EXPIRED))
            return true;
    }
    return false;
}

/* What a rolled-back store no longer knew to be acknowledged gives way to the same message, taken
 * once more (section 8): that one must have ended well. */
static bool has_twin(const struct sim *s, const struct store *st, const struct copy *c, uint32_t i)
{
    for (unsigned k = 0; k < s->books.n_copies; k++) {
        const struct copy *t = &s->books.copy[k];
        const struct row_recipient *x = store_memory_recipient(st, t->id, i);
        if (t->id != c->id && !t->bounce && t->message == c->message && x &&
            (x->state == RCPT_DELIVERED ? t->rcpt[i].accepted
             : x->state == RCPT_QUEUED  ? t->hold && x->held & HELD_IN_DOUBT
                                        : x->state == RCPT_FAILED || x->state == RCPT_EXPIRED))
            return true;
    }
    return false;
}

static void check_end(struct sim *s, const struct store *st, struct copy *c)
{
    for (uint32_t i = 0; i < c->rcpts && !c->purged; i++) {
        const struct row_recipient *x = store_memory_recipient(st, c->id, i);
        const struct rcpt_book *k = &c->rcpt[i];
        if (!x)
            sim_fail(s, "7", "acknowledged %llx/%u is lost", ID(c->id), i);
        else if (c->hold && !rcpt_terminal(x->state) && x->held & HELD_IN_DOUBT)
            continue;
        else if (c->was_away && !c->bounce && x->state == RCPT_SUPERSEDED && has_twin(s, st, c, i))
            continue;
        else if (x->state == RCPT_CANCELLED && c->cancelled)
            continue;
        else if (x->state == RCPT_DELIVERED ? !k->accepted
                                            : x->state != RCPT_FAILED && x->state != RCPT_EXPIRED)
            sim_fail(s, "7", "acknowledged %llx/%u ends as %s, and no receiver has it", ID(c->id),
                     i, rcpt_state_name(x->state));
        else if (x->state != RCPT_DELIVERED && !c->bounce && !has_bounce(s, st, c, i))
            sim_fail(s, "7", "%llx/%u failed, and its sender was not told", ID(c->id), i);
    }
}

void books_end(struct sim *s)
{
    struct books *b = &s->books;
    const struct store *st = s->node[0].disk.store;
    for (unsigned i = 0; i < b->n_copies && !s->failed; i++) {
        struct copy *c = &b->copy[i];
        if (c->acked)
            check_end(s, st, c);
        for (unsigned k = 0; k < c->rcpts; k++)
            s->count.delivered += c->rcpt[k].accepted;
        s->count.bounced += c->bounce;
    }
    for (unsigned i = 0; i < s->plan.messages && !s->failed; i++)
        if (!s->message[i].acked && !s->message[i].abandoned)
            sim_fail(s, "9", "message %u was never taken", i);
}
