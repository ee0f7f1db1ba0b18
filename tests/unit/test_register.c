/* Three voters and two proposers under a seeded scheduler: messages are lost, doubled and late,
 * processes crash with a write half done, a voter is emptied, both nodes propose at once. What a
 * caller was told must be the story of one single register (protocol 5; incidents 1, 9, 10, 11). */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/register.h"

enum { FLIGHT_MAX = 48, PAST_MAX = 64, OPS_MAX = 600, SEEDS = 1000, STEPS = 1500 };
#define MS(n) ((uint64_t)(n)*1000000u)

struct flight {
    unsigned from, to;
    struct register_msg msg;
};

struct change { /* every change ever asked for, by tag - 1 */
    uint64_t from_tag;
    unsigned node;
    bool dead;    /* must not be in effect after this */
    bool pending; /* not answered, or unknown */
};

struct process {
    struct reg *reg;
    struct voter_state disk, writing;
    bool has_disk, write_out;
    uint64_t down_until_ns;
    bool must_read; /* after a crash */
    struct record known;
    bool op, op_is_read;
    uint64_t op_tag, op_began;
    unsigned first_pending;
};

static struct world {
    uint64_t seed, now_ns, clock; /* clock: order of calls and answers */
    struct process p[VOTERS];
    struct flight flight[FLIGHT_MAX];
    unsigned n_flight;
    struct flight past[PAST_MAX]; /* what the network may bring once more, long after */
    unsigned n_past, empty_percent;
    uint64_t down_ns, patience_ns;
    struct change change[OPS_MAX];
    unsigned n_changes;
    struct ballot top; /* of the newest answer */
    uint64_t top_tag;
    unsigned done, reads, not_done, unknown, mismatch, emptied;
    bool calm, cut[VOTERS][VOTERS];
    bool write_fails;
} w;

static uint64_t draw(void)
{
    uint64_t z = w.seed += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool chance(unsigned percent)
{
    return draw() % 100 < percent;
}

/* Is `tag` what `of` came from, or `of` itself? Tag 1 is the first record. */
static bool descends(uint64_t of, uint64_t tag)
{
    for (; of; of = w.change[of - 1].from_tag)
        if (of == tag)
            return true;
    return false;
}

static uint64_t start_seed;

/* Two proposers' answers, ordered by ballot, must be one chain; nothing that was given up returns.
 */
static void observe(uint64_t tag, struct ballot b)
{
    ck_assert_msg(tag >= 1 && tag <= w.n_changes, "seed %lu: tag", start_seed);
    if (ballot_cmp(b, w.top) > 0) {
        ck_assert_msg(descends(tag, w.top_tag), "seed %lu: %lu doesn't come from %lu", start_seed,
                      tag, w.top_tag);
        w.top = b;
        w.top_tag = tag;
    } else {
        ck_assert_msg(descends(w.top_tag, tag), "seed %lu: %lu was lost before %lu", start_seed,
                      tag, w.top_tag);
    }
    for (uint64_t t = w.top_tag; t; t = w.change[t - 1].from_tag)
        ck_assert_msg(!w.change[t - 1].dead, "seed %lu: %lu took effect after all", start_seed, t);
}

static void answered(unsigned node, const struct register_fx *fx)
{
    struct process *p = &w.p[node];
    ck_assert(p->op);
    p->op = false;
    if (fx->outcome == REG_NOT_DONE || fx->outcome == REG_UNKNOWN) {
        if (!p->op_is_read && fx->outcome == REG_NOT_DONE)
            w.change[p->op_tag - 1].dead = true;
        if (fx->outcome == REG_UNKNOWN)
            p->must_read = true;
        w.unknown += fx->outcome == REG_UNKNOWN;
        w.not_done += fx->outcome == REG_NOT_DONE;
        return;
    }
    observe(fx->record.tag, fx->ballot);
    if (!p->op_is_read && fx->outcome == REG_DONE)
        ck_assert(fx->record.tag == p->op_tag);
    if (!p->op_is_read && fx->outcome == REG_MISMATCH)
        ck_assert(fx->record.tag != p->op_tag);
    /* The fence: what this node asked for earlier is in effect now, or never will be. */
    for (unsigned i = p->first_pending; i < w.n_changes; i++)
        if (w.change[i].node == node && !descends(fx->record.tag, i + 1))
            w.change[i].dead = true;
    p->first_pending = w.n_changes;
    p->known = fx->record;
    p->must_read = false;
    w.done += fx->outcome == REG_DONE && !p->op_is_read;
    w.reads += p->op_is_read;
    w.mismatch += fx->outcome == REG_MISMATCH;
}

static void on_fx(void *ctx, const struct register_fx *fx)
{
    unsigned self = (unsigned)((struct process *)ctx - w.p);
    struct process *p = ctx;
    switch (fx->type) {
    case REG_FX_SEND:
        if (w.cut[self][fx->to])
            break;
        if (w.n_flight == FLIGHT_MAX)
            w.flight[draw() % FLIGHT_MAX] = w.flight[--w.n_flight];
        w.flight[w.n_flight++] = (struct flight){self, fx->to, fx->msg};
        w.past[w.n_past < PAST_MAX ? w.n_past++ : draw() % PAST_MAX] = w.flight[w.n_flight - 1];
        break;
    case REG_FX_PERSIST:
        ck_assert_msg(!p->write_out, "one write at a time");
        p->write_out = true;
        p->writing = fx->state;
        break;
    case REG_FX_RESULT:
        answered(self, fx);
        break;
    case REG_FX_HINT:
    case REG_FX_BOOTSTRAPPED:
        break;
    }
}

static void start(unsigned v)
{
    struct process *p = &w.p[v];
    struct voter_state s = {.voter_id = draw()};
    if (p->has_disk)
        s = p->disk;
    /* Through the encoding, as a real restart. */
    struct buf b;
    buf_init(&b, 512);
    ck_assert(voter_state_encode(&b, &s) && voter_state_decode(buf_slice(&b), &s));
    buf_free(&b);
    p->disk = s;
    p->has_disk = true;
    p->reg = register_new(v, &s, !s.voting, draw(), on_fx, p);
    p->must_read = true;
}

static void crash(unsigned v, bool empty)
{
    struct process *p = &w.p[v];
    if (!p->reg)
        return;
    if (p->write_out && chance(50))
        p->disk = p->writing;
    if (empty)
        p->has_disk = false;
    p->write_out = p->op = false;
    register_free(p->reg);
    p->reg = NULL;
    p->down_until_ns = w.now_ns + draw() % w.down_ns;
}

static void deliver(void)
{
    if (!w.calm && w.n_past && w.n_flight < FLIGHT_MAX && chance(4))
        w.flight[w.n_flight++] = w.past[draw() % w.n_past];
    if (w.n_flight == 0)
        return;
    unsigned i = (unsigned)(draw() % w.n_flight);
    struct flight f = w.flight[i];
    if (!chance(w.calm ? 0 : 15)) /* else it comes again, later */
        w.flight[i] = w.flight[--w.n_flight];
    struct process *p = &w.p[f.to];
    if (!p->reg || chance(w.calm ? 0 : 10))
        return;
    struct buf b;
    buf_init(&b, 512);
    struct register_msg m;
    ck_assert(register_msg_encode(&b, &f.msg));
    struct wire_reader r = wire_read(buf_slice(&b));
    ck_assert(register_msg_decode(&r, &m) && wire_done(&r));
    buf_free(&b);
    register_receive(p->reg, f.from, &m, w.now_ns);
}

static void finish_write(unsigned v)
{
    struct process *p = &w.p[v];
    if (!p->reg || !p->write_out)
        return;
    bool fails = w.write_fails && !w.calm && chance(20);
    if (!fails || chance(50))
        p->disk = p->writing;
    p->write_out = false;
    register_persisted(p->reg, !fails, w.now_ns);
}

static void propose(unsigned node)
{
    struct process *p = &w.p[node];
    if (!p->reg || p->op || w.n_changes == OPS_MAX)
        return;
    uint64_t timeout = MS(50) + draw() % w.patience_ns;
    p->op_is_read = p->must_read || chance(30);
    p->op = true; /* the answer may come from within the call */
    if (p->op_is_read) {
        if (!register_read(p->reg, timeout, w.now_ns))
            p->op = false;
        return;
    }
    w.change[w.n_changes] = (struct change){.from_tag = p->known.tag, .node = node};
    p->op_tag = ++w.n_changes;
    struct record to = p->known;
    to.version++;
    to.tag = p->op_tag;
    to.primary = (uint8_t)node;
    ck_assert(register_change(p->reg, p->known.tag, &to, timeout, w.now_ns));
}

static void tick(void)
{
    w.now_ns += draw() % MS(12);
    for (unsigned v = 0; v < VOTERS; v++) {
        struct process *p = &w.p[v];
        if (p->reg)
            register_tick(p->reg, w.now_ns);
        else if (w.now_ns >= p->down_until_ns)
            start(v);
    }
}

static bool all_vote(void)
{
    bool all = true;
    for (unsigned v = 0; v < VOTERS; v++)
        all &= w.p[v].has_disk && w.p[v].disk.voting;
    return all;
}

static void faults(void)
{
    unsigned v = (unsigned)(draw() % VOTERS);
    if (chance(20))
        crash(v, false);
    if (chance(w.empty_percent) &&
        all_vote()) { /* one emptied voter at a time: two need the operator */
        crash(v, true);
        w.emptied++;
    }
    unsigned to = (unsigned)(draw() % VOTERS);
    if (chance(30))
        w.cut[v][to] = chance(60);
    if (chance(10))
        memset(w.cut, 0, sizeof w.cut);
}

static void step(unsigned fault_permille)
{
    unsigned what = (unsigned)(draw() % 100);
    if (what < 45)
        deliver();
    else if (what < 70)
        finish_write((unsigned)(draw() % VOTERS));
    else if (what < 90)
        tick();
    else
        propose((unsigned)(draw() % NODES));
    if (draw() % 1000 < fault_permille)
        faults();
}

static void world_begin(uint64_t seed)
{
    memset(&w, 0, sizeof w);
    w.seed = start_seed = seed;
    w.now_ns = MS(5000);
    w.write_fails = chance(30);
    w.down_ns = chance(50) ? MS(10) : MS(300);
    w.patience_ns = chance(50) ? MS(600) : MS(3000);
    w.empty_percent = chance(50) ? 12 : 60;
    w.change[w.n_changes++] = (struct change){.node = VOTERS}; /* tag 1: the first record */
    w.top_tag = 1;
    for (unsigned v = 0; v < VOTERS; v++)
        start(v);
}

static void world_end(void)
{
    for (unsigned v = 0; v < VOTERS; v++)
        if (w.p[v].reg)
            register_free(w.p[v].reg);
}

static void bootstrap(void)
{
    w.calm = true;
    unsigned node = (unsigned)(draw() % NODES);
    for (unsigned i = 0; i < 3000 && !register_all_virgin(w.p[node].reg, w.now_ns); i++)
        chance(50) ? tick() : deliver();
    ck_assert(register_all_virgin(w.p[node].reg, w.now_ns));
    char why[200] = "";
    struct record first = {.version = 1, .epoch = 2, .tag = 1};
    ck_assert_msg(register_bootstrap(w.p[node].reg, &first, why, sizeof why, w.now_ns), "%s", why);
    finish_write(node); /* its crash before this is the operator's to repeat */
    w.calm = false;
}

/* Faults end: every voter votes again, both nodes read, and agree. */
static void settle(void)
{
    w.calm = true;
    memset(w.cut, 0, sizeof w.cut);
    unsigned reads[NODES] = {0};
    for (unsigned i = 0; i < 60000; i++) {
        unsigned what = (unsigned)(draw() % 100);
        if (what < 60)
            deliver();
        else if (what < 80)
            finish_write((unsigned)(draw() % VOTERS));
        else
            tick();
        for (unsigned n = 0; n < NODES; n++) {
            struct process *p = &w.p[n];
            if (p->reg && !p->op && all_vote() && reads[n] < 2) {
                if (!p->must_read && p->op_is_read)
                    reads[n]++;
                p->must_read = p->op = true;
                p->op_is_read = true;
                if (!register_read(p->reg, MS(2000), w.now_ns))
                    p->op = false;
            }
        }
        if (reads[0] >= 2 && reads[1] >= 2)
            break;
    }
    ck_assert_msg(reads[0] >= 2 && reads[1] >= 2, "seed %lu: nobody could read after all faults",
                  start_seed);
    ck_assert_msg(w.p[0].known.tag == w.top_tag || w.p[1].known.tag == w.top_tag, "seed %lu",
                  start_seed);
}

START_TEST(test_one_register_whatever_happens)
{
    const char *more = getenv("REGISTER_SEEDS"); /* for a long search */
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    unsigned done = 0, reads = 0, not_done = 0, unknown = 0, mismatch = 0, emptied = 0;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        world_begin(seed * 7919);
        bootstrap();
        unsigned permille = (unsigned)(draw() % 40);
        for (unsigned i = 0; i < STEPS; i++)
            step(permille);
        settle();
        done += w.done;
        reads += w.reads;
        not_done += w.not_done;
        unknown += w.unknown;
        mismatch += w.mismatch;
        emptied += w.emptied;
        world_end();
    }
    fprintf(stderr, "done %u, reads %u, not done %u, unknown %u, mismatch %u, emptied %u\n", done,
            reads, not_done, unknown, mismatch, emptied);
    /* The scheduler visits all outcomes, often. */
    ck_assert(done > SEEDS && reads > SEEDS && not_done > SEEDS / 10 && unknown > SEEDS / 10 &&
              mismatch > SEEDS / 10 && emptied > SEEDS / 10);
}
END_TEST

/* ---- told by hand ---- */

static void write_all_rows(void)
{
    for (unsigned v = 0; v < VOTERS; v++)
        finish_write(v);
}

static bool take_flight(unsigned from, unsigned to, enum register_msg_type type, struct flight *out)
{
    for (unsigned i = 0; i < w.n_flight; i++) {
        if (w.flight[i].from == from && w.flight[i].to == to && w.flight[i].msg.type == type) {
            *out = w.flight[i];
            w.flight[i] = w.flight[--w.n_flight];
            return true;
        }
    }
    return false;
}

static void bring(const struct flight *f)
{
    register_receive(w.p[f->to].reg, f->from, &f->msg, w.now_ns);
    write_all_rows();
}

static void hand(unsigned from, unsigned to, enum register_msg_type type)
{
    struct flight f;
    ck_assert_msg(take_flight(from, to, type, &f), "no message %d from %u to %u", type, from, to);
    bring(&f);
}

static void pass_time(unsigned v, uint64_t ms)
{
    w.now_ns += MS(ms);
    register_tick(w.p[v].reg, w.now_ns);
    write_all_rows();
}

static void begin_change(unsigned node)
{
    w.p[node].known = (struct record){.version = 1, .epoch = 2, .tag = 1};
    w.p[node].must_read = w.write_fails = false;
    w.p[node].op = true;
    w.p[node].op_is_read = false;
    w.change[w.n_changes] = (struct change){.from_tag = 1, .node = node};
    w.p[node].op_tag = ++w.n_changes;
    struct record to = {.version = 2, .epoch = 2, .tag = w.p[node].op_tag};
    ck_assert(register_change(w.p[node].reg, 1, &to, MS(10000), w.now_ns));
    write_all_rows();
}

/* A fresh pair in which every voter votes, with nothing on the way. */
static void begin_by_hand(void)
{
    world_begin(1);
    w.write_fails = false;
    bootstrap();
    w.calm = true;
    for (int i = 0; i < 5000 && !all_vote(); i++) {
        chance(50) ? tick() : deliver();
        write_all_rows();
    }
    ck_assert(all_vote());
    w.n_flight = 0;
}

/* Incidents 9 and 10. B's change is accepted by B alone when A asks for a higher ballot and gets
 * the witness's promise; the witness is emptied, and takes over from both that B's record was
 * accepted and A's ballot promised. B's late request must then be refused: the record is known
 * there, but the witness, as it is now, never accepted it, and A may not hear of it any more. */
START_TEST(test_emptied_voter_keeps_what_it_promised)
{
    struct flight late_accept, late_promise;
    begin_by_hand();
    begin_change(NODE_B);
    hand(NODE_B, WITNESS, REG_PREPARE);
    hand(WITNESS, NODE_B, REG_PROMISE); /* B accepts its own */
    ck_assert(take_flight(NODE_B, WITNESS, REG_ACCEPT, &late_accept));
    w.n_flight = 0;

    begin_change(NODE_A);
    hand(NODE_A, WITNESS, REG_PREPARE); /* the same counter: below B's */
    hand(WITNESS, NODE_A, REG_REFUSED);
    w.n_flight = 0;
    pass_time(NODE_A, 60);
    hand(NODE_A, WITNESS, REG_PREPARE);
    ck_assert(take_flight(WITNESS, NODE_A, REG_PROMISE, &late_promise));
    w.n_flight = 0;

    w.down_ns = 1;
    crash(WITNESS, true);
    start(WITNESS);
    pass_time(WITNESS, 1);
    hand(WITNESS, NODE_A, REG_PEEK);
    hand(NODE_A, WITNESS, REG_SHARE);
    ck_assert(!w.p[WITNESS].disk.voting); /* one share isn't enough */
    bring(&late_accept);
    hand(WITNESS, NODE_B, REG_PEEK);
    hand(NODE_B, WITNESS, REG_SHARE);
    ck_assert(w.p[WITNESS].disk.voting);
    ck_assert_uint_eq(w.p[WITNESS].disk.record.tag, w.p[NODE_B].op_tag);
    w.n_flight = 0;

    bring(&late_accept);
    struct flight f;
    ck_assert(!take_flight(WITNESS, NODE_B, REG_ACCEPTED, &f));
    hand(WITNESS, NODE_B, REG_REFUSED);
    bring(&late_promise); /* A accepts its own */
    hand(NODE_A, WITNESS, REG_ACCEPT);
    hand(WITNESS, NODE_A, REG_ACCEPTED);
    ck_assert(!w.p[NODE_A].op && w.top_tag == w.p[NODE_A].op_tag);
    ck_assert(w.p[NODE_B].op); /* not told "done" */
    settle();
    world_end();
}
END_TEST

/* Incident 1. A's change hangs; A reads; the change arrives: it has no effect any more. */
START_TEST(test_read_fences_a_change_that_hangs)
{
    begin_by_hand();
    begin_change(NODE_A);
    hand(NODE_A, WITNESS, REG_PREPARE);
    hand(WITNESS, NODE_A, REG_PROMISE);
    struct flight to_witness, to_b;
    ck_assert(take_flight(NODE_A, WITNESS, REG_ACCEPT, &to_witness));
    ck_assert(take_flight(NODE_A, NODE_B, REG_ACCEPT, &to_b));
    w.n_flight = 0;
    pass_time(NODE_A, 10000);
    ck_assert_uint_eq(w.unknown, 1);
    w.n_flight = 0;

    w.p[NODE_A].op = w.p[NODE_A].op_is_read = true;
    ck_assert(register_read(w.p[NODE_A].reg, MS(10000), w.now_ns));
    write_all_rows();
    hand(NODE_A, WITNESS, REG_PREPARE);
    hand(WITNESS, NODE_A, REG_PROMISE);
    ck_assert(w.p[NODE_A].op); /* a read without its accept round would answer now */
    hand(NODE_A, WITNESS, REG_ACCEPT);
    hand(WITNESS, NODE_A, REG_ACCEPTED);
    ck_assert(!w.p[NODE_A].op);
    uint64_t there = w.top_tag;
    bring(&to_witness);
    bring(&to_b);
    settle();
    ck_assert_uint_eq(w.top_tag, there);
    world_end();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("register");
    TCase *t = tcase_create("register");
    tcase_set_timeout(t, 600);
    tcase_add_test(t, test_emptied_voter_keeps_what_it_promised);
    tcase_add_test(t, test_read_fences_a_change_that_hangs);
    tcase_add_test(t, test_one_register_whatever_happens);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *r = srunner_create(suite());
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
