/* See judge.h. */
#include "replication/judge.h"

#include <stdlib.h>

#include "node/base/mutant.h"
#include "replication/apply.h"

/* --- twins: the sender of a quarantined message has no 250 and tries again (section 8) --- */

struct twin_search {
    struct slice address;
    bool accepted;
};

static bool see_twin_recipient(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct twin_search *t = ctx;
    (void)mark;
    uint8_t state = r->recipient.state;
    if (state == RCPT_QUARANTINED || state == RCPT_SUPERSEDED ||
        !slice_eq(r->recipient.address, t->address))
        return true;
    t->accepted = true;
    return false;
}

/* Has the same envelope and body been accepted later, for this recipient? */
static int has_twin(struct store *s, const struct row_recipient *p, bool *twin)
{
    *twin = false;
    struct row found;
    int err = s->ops->get_head(s, p->id, &found);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    /* find_twin() needs these fields only; the sender's bytes must outlive the next calls. */
    struct row_message m = found.message;
    char *sender = slice_dup(m.sender);
    m.sender.p = (const uint8_t *)sender;
    struct twin_search t = {p->address, false};
    uint64_t id = p->id;
    while (!err && !t.accepted) {
        err = s->ops->find_twin(s, &m, id, &id);
        if (err || !id)
            break;
        err = s->ops->each_recipient(s, id, see_twin_recipient, &t);
    }
    free(sender);
    *twin = t.accepted;
    return err;
}

/* --- bounces --- */

/* Is recipient `index` in "0-4,7"? Empty: all. (What a bounce is about stands in its envid.) */
static bool covers(struct slice list, uint32_t index)
{
    if (!list.n)
        return true;
    size_t i = 0;
    while (i < list.n) {
        uint32_t from = 0, to;
        for (; i < list.n && list.p[i] >= '0' && list.p[i] <= '9'; i++)
            from = from * 10 + (uint32_t)(list.p[i] - '0');
        to = from;
        if (i < list.n && list.p[i] == '-')
            for (i++, to = 0; i < list.n && list.p[i] >= '0' && list.p[i] <= '9'; i++)
                to = to * 10 + (uint32_t)(list.p[i] - '0');
        if (index >= from && index <= to)
            return true;
        i++; /* the comma, or whatever stands there */
    }
    return false;
}

struct bounce_search {
    struct slice list; /* of the bounce in question */
    bool seen[BOUNCES_MAX];
    uint64_t self, other[BOUNCES_MAX];
    char *lists[BOUNCES_MAX];
    unsigned n;
    bool wanted, failed_any;
};

static bool see_bounce(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct bounce_search *b = ctx;
    (void)mark;
    if (r->message.id != b->self) {
        b->other[b->n] = r->message.id;
        b->lists[b->n++] = slice_dup(r->message.envid);
    }
    return b->n < BOUNCES_MAX;
}

static bool see_live(void *ctx, const struct row *r, enum unmerged_class mark)
{
    (void)mark;
    if (r->recipient.state != RCPT_CANCELLED)
        *(bool *)ctx = true;
    return true;
}

static bool see_failed(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct bounce_search *b = ctx;
    (void)mark;
    if ((r->recipient.state != RCPT_FAILED && r->recipient.state != RCPT_EXPIRED) ||
        !covers(b->list, r->recipient.index))
        return true;
    bool covered = false;
    for (unsigned i = 0; i < b->n; i++)
        covered = covered || (b->seen[i] && covers(slice_str(b->lists[i]), r->recipient.index));
    b->wanted = b->wanted || !covered;
    return !b->wanted;
}

int apply_bounce_wanted(struct store *s, uint64_t id, bool *wanted)
{
    struct row row;
    *wanted = true;
    int err = s->ops->get_head(s, id, &row);
    if (err || !(row.message.flags & MSG_BOUNCE) || !row.message.parent)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    uint64_t parent = row.message.parent;
    char *list = slice_dup(row.message.envid);
    struct bounce_search b = {.self = id, .list = slice_str(list)};
    err = s->ops->get_head(s, parent, &row);
    if (err) {
        free(list);
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    }
    err = s->ops->each_bounce(s, parent, see_bounce, &b);
    for (unsigned i = 0; !err && i < b.n; i++)
        err = s->ops->each_recipient(s, b.other[i], see_live, &b.seen[i]);
    if (!err)
        err = s->ops->each_recipient(s, parent, see_failed, &b);
    for (unsigned i = 0; i < b.n; i++)
        free(b.lists[i]);
    free(list);
    *wanted = b.wanted;
    return err;
}

struct recalled {
    uint64_t *id;
    unsigned n;
};

static bool see_live_bounce(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct recalled *b = ctx;
    (void)mark;
    if (r->message.state == MESSAGE_LIVE)
        b->id[b->n++] = r->message.id;
    return b->n < BOUNCES_MAX;
}

int judge_recalled(struct store *s, uint64_t parent, uint64_t id[BOUNCES_MAX], unsigned *n)
{
    struct recalled b = {.id = id};
    int err = s->ops->each_bounce(s, parent, see_live_bounce, &b);
    *n = 0;
    for (unsigned i = 0; !err && i < b.n; i++) {
        bool wanted;
        err = apply_bounce_wanted(s, id[i], &wanted);
        if (!err && !wanted)
            id[(*n)++] = id[i];
    }
    return err;
}

/* --- what becomes of a divergent recipient --- */

int judge_recipient(struct store *s, struct row_recipient *p, enum unmerged_class as,
                    int64_t wall_ms, int64_t quarantine_ms)
{
    bool yes;
    if (rcpt_terminal(p->state))
        return STORE_OK;
    struct row row;
    int err = s->ops->get_head(s, p->id, &row);
    if (err)
        return err == STORE_NOT_FOUND ? STORE_OK : err;
    if (row.message.flags & MSG_BOUNCE) {
        err = apply_bounce_wanted(s, p->id, &yes);
        if (!err && BATON_MUTANT(EVERY_BOUNCE_STAYS, false, !yes))
            p->state = RCPT_CANCELLED;
        return err;
    }
    if (as != UNMERGED_QUARANTINE)
        return STORE_OK;
    err = has_twin(s, p, &yes);
    if (err)
        return err;
    p->state = yes ? RCPT_SUPERSEDED : RCPT_QUARANTINED;
    if (!yes)
        p->next_ms = wall_ms + quarantine_ms;
    return STORE_OK;
}
