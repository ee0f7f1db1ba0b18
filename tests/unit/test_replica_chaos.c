/* Two replica cores, everything at once, by chance: what got its 250 is never lost, and the stores
 * are equal in the end. SEED=n runs one seed. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "support_replica.h"

static struct world w;

enum { A = 0, B = 1 };

static bool committed_has(unsigned node, uint64_t id)
{
    const struct row_message *m = store_memory_message(w.node[node].store, id);
    return m && m->pos.lsn <= w.node[node].committed;
}

struct chaos {
    uint64_t accepted[4000]; /* ids that got their 250 */
    unsigned n_accepted;
    uint64_t open[4000]; /* ids that wait */
    unsigned n_open;
    unsigned primary;
    uint32_t epoch;
    bool waits; /* the record is paired */
    bool asked; /* take-back under way */
};

static void collect_accepted(struct chaos *c)
{
    for (unsigned i = 0; i < c->n_open;) {
        if (committed_has(c->primary, c->open[i]) && c->n_accepted < 4000) {
            c->accepted[c->n_accepted++] = c->open[i];
            c->open[i] = c->open[--c->n_open];
        } else {
            i++;
        }
    }
}

/* Plays the pair core: answers reports as the protocol's tables have it. */
static void play_pair(struct chaos *c)
{
    struct world_node *p = &w.node[c->primary];
    while (p->up && p->seen_reports < p->n_reports) {
        const struct pair_event e = p->reports[p->seen_reports++];
        if (e.epoch != c->epoch)
            continue;
        struct pair_effect fx = {.epoch = c->epoch, .follower = e.follower};
        if (e.type == PE_CAUGHT_UP && !c->waits && !c->asked) {
            c->asked = true;
            fx.type = PX_TAKE_BACK;
        } else if (e.type == PE_TAKE_BACK_READY) {
            c->asked = false;
            c->waits = p->serving_waits = true;
            fx.type = PX_PAIRED;
        } else if (e.type == PE_TAKE_BACK_LOST || (e.type == PE_SLOW && c->waits)) {
            c->asked = c->waits = p->serving_waits = false;
            fx.type = PX_DROP;
        } else {
            continue;
        }
        world_pair(&w, c->primary, fx);
    }
}

static void take_over(struct chaos *c)
{
    unsigned old = c->primary, fresh = 1 - old;
    bool in_sync = c->waits;
    c->n_open = 0; /* undecided: no reply */
    if (rng_chance(&w.rng, 0.5) || !in_sync || !w.node[fresh].up) {
        /* The primary dies and comes back as what it was. */
        if (w.node[old].up)
            world_crash(&w, old);
        world_start(&w, old);
        c->epoch += 2;
        world_promote(&w, old, c->epoch, c->waits);
        w.node[old].serving_waits = c->waits;
        if (w.node[fresh].up)
            world_follow(&w, fresh, c->epoch);
        c->asked = false;
        return;
    }
    c->epoch += 1;
    c->primary = fresh;
    c->waits = c->asked = false;
    world_promote(&w, fresh, c->epoch, false);
    w.node[old].serving_waits = false;
    if (rng_chance(&w.rng, 0.5)) {
        world_crash(&w, old);
        world_start(&w, old);
        world_follow(&w, old, c->epoch);
    } else {
        world_follow(&w, old, c->epoch); /* steps down first, by itself */
    }
}

static void chaos_round(struct chaos *c)
{
    unsigned standby = 1 - c->primary;
    uint64_t dice = rng_below(&w.rng, 100);
    if (dice < 60 && c->n_open < 4000) {
        uint64_t id = world_add(&w, c->primary);
        if (id)
            c->open[c->n_open++] = id;
    } else if (dice < 75 && c->n_accepted) {
        world_deliver(&w, c->primary, c->accepted[rng_below(&w.rng, c->n_accepted)]);
    } else if (dice < 78) {
        world_cut(&w);
    } else if (dice < 80 && w.node[standby].up) {
        world_crash(&w, standby);
    } else if (dice < 84 && !w.node[standby].up) {
        world_start(&w, standby);
        world_follow(&w, standby, c->epoch);
    } else if (dice < 85) {
        take_over(c);
    } else if (dice < 86) {
        w.node[standby].stalled = !w.node[standby].stalled;
    }
    if (rng_chance(&w.rng, 0.2))
        world_run(&w, (unsigned)rng_below(&w.rng, 60));
    for (uint64_t i = rng_below(&w.rng, 30); i > 0; i--)
        world_step(&w);
    collect_accepted(c);
    play_pair(c);
}

static void chaos(uint64_t seed, unsigned rounds)
{
    struct chaos *c = xcalloc(1, sizeof *c);
    world_init(&w, seed, seed % 3 ? 0 : 3000);
    c->primary = A;
    c->epoch = 2;
    world_promote(&w, A, 2, false);
    world_follow(&w, B, 2);
    world_run(&w, 100);
    for (unsigned i = 0; i < rounds; i++)
        chaos_round(c);
    w.node[0].stalled = w.node[1].stalled = false;
    unsigned standby = 1 - c->primary;
    if (!w.node[standby].up) {
        world_start(&w, standby);
        world_follow(&w, standby, c->epoch);
    }
    for (unsigned i = 0; i < 20; i++) {
        world_run(&w, 200);
        play_pair(c);
        collect_accepted(c);
    }
    ck_assert_msg(world_equal(&w), "stores differ, seed %llu", (unsigned long long)seed);
    for (unsigned i = 0; i < c->n_accepted; i++)
        ck_assert_msg(world_has(&w, c->primary, c->accepted[i]), "lost %llx, seed %llu",
                      (unsigned long long)c->accepted[i], (unsigned long long)seed);
    ck_assert_uint_gt(c->n_accepted, 0);
    world_free(&w);
    free(c);
}

START_TEST(test_chaos)
{
    uint64_t from = 1000 * (uint64_t)(_i + 1), n = 15;
    const char *seed = getenv("SEED");
    if (seed) {
        from = strtoull(seed, NULL, 10);
        n = 1;
    }
    for (uint64_t s = from; s < from + n; s++)
        chaos(s, 400);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replica_chaos");
    TCase *x = tcase_create("chaos");
    tcase_set_timeout(x, 120);
    tcase_add_loop_test(x, test_chaos, 0, 4);
    suite_add_tcase(s, x);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
