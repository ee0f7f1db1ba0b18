/* See merge.h. Every rule is "the maximum of a total order", which is what makes it commutative,
 * associative and idempotent. The position goes with the content that won: a later one lent to it
 * would decide the next merge. */
#include "replication/merge.h"
#include "node/base/mutant.h"

static int rank(uint8_t state)
{
    if (state == RCPT_QUARANTINED || state == RCPT_QUEUED)
        return state;
    return state == RCPT_DELIVERED ? 3 : 2;
}

static int slice_cmp(struct slice a, struct slice b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : (a.n > b.n) - (a.n < b.n);
}

static int compare_recipient(const struct row_recipient *a, const struct row_recipient *b)
{
    int c = BATON_MUTANT(QUEUED_WINS, 0, rank(a->state) - rank(b->state));
    /* Of two that are still queued, the one that knows the outcome of one more attempt: it settles
     * what is in doubt at the other (section 9), though that row is newer. */
    if (!c && !rcpt_terminal(a->state) && !rcpt_terminal(b->state))
        c = (a->attempts > b->attempts) - (a->attempts < b->attempts);
    if (!c)
        c = pos_cmp(a->pos, b->pos);
    /* The rest only decides between rows that should be equal: any order will do as long as both
     * nodes use the same. */
    if (!c)
        c = (int)a->state - (int)b->state;
    if (!c)
        c = (a->attempts > b->attempts) - (a->attempts < b->attempts);
    if (!c)
        c = (a->next_ms > b->next_ms) - (a->next_ms < b->next_ms);
    if (!c)
        c = (int)a->code - (int)b->code;
    if (!c)
        c = slice_cmp(a->reply, b->reply);
    return c;
}

/* Of two rows that know of equally many attempts the more careful doubt stays; and always the one
 * that nobody can settle. */
static void merge_doubt(const struct row_recipient *a, const struct row_recipient *b,
                        struct row_recipient *out)
{
    if ((a->held | b->held) & HELD_OWN_DOUBT) {
        out->in_doubt = DOUBT_YES;
        out->held |= HELD_DOUBT;
        return;
    }
    if (a->attempts != b->attempts || rank(a->state) != rank(b->state))
        return;
    out->in_doubt = a->in_doubt > b->in_doubt ? a->in_doubt : b->in_doubt;
    out->held |= (a->held | b->held) & HELD_IN_DOUBT;
}

bool merge_recipient(const struct row_recipient *a, const struct row_recipient *b,
                     struct row_recipient *out)
{
    bool b_wins = compare_recipient(b, a) > 0;
    struct row_recipient r = b_wins ? *b : *a;
    if (!rcpt_terminal(r.state)) {
        r.held |= (a->held | b->held) & HELD_OPERATOR; /* the more restrictive */
        merge_doubt(a, b, &r);
    }
    bool changed = b_wins || r.held != a->held || r.in_doubt != a->in_doubt;
    *out = r;
    return changed;
}

bool merge_message(const struct row_message *a, const struct row_message *b,
                   struct row_message *out, bool *same)
{
    *same = memcmp(a->sha256, b->sha256, 32) == 0 && a->size == b->size &&
            slice_eq(a->sender, b->sender) && a->recipients == b->recipients;
    struct row_message r = *a;
    bool changed = false;
    if (b->state == MESSAGE_DONE && (a->state != MESSAGE_DONE || b->done_ms > a->done_ms)) {
        r.state = MESSAGE_DONE;
        r.done_ms = b->done_ms;
        r.body = (struct slice){NULL, 0};
        changed = true;
    }
    r.pos = pos_cmp(a->pos, b->pos) >= 0 ? a->pos : b->pos;
    if (pos_cmp(b->born, a->born) < 0)
        r.born = b->born;
    *out = r;
    return changed;
}

/* How restrictive a value of that key is; higher wins. */
static int restriction(struct slice key, struct slice value)
{
    if (slice_eq(key, SLICE_LIT("takeover")))
        return slice_istarts(value, SLICE_LIT("off"));
    return value.n > 0; /* pauses and suppressions: there or not */
}

static uint64_t number(struct slice s)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++)
        v = v * 10 + (uint64_t)(s.p[i] - '0');
    return v;
}

bool merge_opstate(const struct row_opstate *a, const struct row_opstate *b,
                   struct row_opstate *out)
{
    int c;
    if (slice_eq(a->key, SLICE_LIT("purge"))) {
        uint64_t x = number(a->value), y = number(b->value);
        c = (y > x) - (y < x);
    } else {
        c = BATON_MUTANT(NEWEST_PAUSE_WINS, 0,
                         restriction(b->key, b->value) - restriction(a->key, a->value));
        if (!c)
            c = pos_cmp(b->pos, a->pos);
        if (!c)
            c = slice_cmp(b->value, a->value);
    }
    *out = c > 0 ? *b : *a;
    return c > 0 && !slice_eq(a->value, b->value);
}
