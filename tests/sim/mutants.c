/* Rules broken on purpose (node/base/mutant.h): each must be noticed, by an invariant, in a seed
 * that holds without it. Where a mutant is looked for first is a hint: when that seed doesn't
 * notice it any more, since draws have shifted, the search goes on from there. */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/mutant.h"
#include "sim/many.h"

enum { SEEDS_MAX = 20000 /* for each, when nothing is said; a minute and a half */ };

enum baton_mutant baton_mutant;

static const struct {
    const char *name, *incidents, *text;
} mutants[] = {{"NONE", "", ""},
#define MUTANT_ROW(name, incidents, text) {#name, incidents, text},
               BATON_MUTANT_LIST(MUTANT_ROW)
#undef MUTANT_ROW
};

/* A seed that noticed it, and the kind of run in which there is something to notice. */
static const struct {
    uint64_t seed;
    struct sim_options run;
} hints[MUTANTS] = {
    [MUTANT_ACK_FROM_ANY_STORE] = {.seed = 107},
    [MUTANT_TAIL_UNMERGED] = {.seed = 113},
    [MUTANT_HOLD_NOTE_NOT_COMMITTED] = {.seed = 114},
    [MUTANT_LEASE_FROM_RECEIPT] = {.seed = 140},
    [MUTANT_EVERY_BOUNCE_STAYS] = {.seed = 252},
    [MUTANT_EMPTIED_UNSEEN] = {.seed = 319},
    [MUTANT_NOTE_NOT_RESENT] = {.seed = 357},
    [MUTANT_SEEN_IS_A_VOTE] = {.seed = 712},
    [MUTANT_NEWEST_PAUSE_WINS] = {.seed = 885},
    [MUTANT_OWN_LEASE] = {.seed = 1876},
    [MUTANT_FENCE_GOES_ON] = {22, {.none = true}},
    [MUTANT_EPOCH_USED_AGAIN] = {373, {.none = true, .harsh = true}},
    [MUTANT_UNMERGED_KEEP_LSN] = {1, {.with_force = true}},
    [MUTANT_SOLO_IS_QUARANTINED] = {1, {.with_force = true}},
    [MUTANT_FORCE_FORGOTTEN] = {1, {.with_force = true}},
    [MUTANT_CLAIM_BELOW_SEEN] = {1, {.with_force = true}},
    [MUTANT_ETCD_READ_ONLY] = {448, {.etcd = true}},
    [MUTANT_ETCD_TAG_ONLY] = {1, {.etcd = true}},
    [MUTANT_ETCD_BACKUP_FOLLOWED] = {1, {.etcd = true}},
    [MUTANT_ANY_AGE_IS_MERGED] = {1, {.with_purge = true}},
    [MUTANT_PURGED_EARLY] = {1, {.with_purge = true}},
    [MUTANT_PURGED_UNREAD] = {1, {.with_purge = true}},
    [MUTANT_FORGOT_IS_FINE] = {1, {.with_purge = true}},
};

static void print_kind(const struct sim_options *run, char out[64])
{
    snprintf(out, 64, "%s%s%s%s%s", run->etcd ? " --etcd" : "", run->none ? " --none" : "",
             run->with_force ? " --with-force" : "", run->with_purge ? " --with-purge" : "",
             run->harsh ? " --harsh" : "");
}

/* The seed that notices it, and holds without it; 0: none does. */
static uint64_t noticed_by(const struct options *o, struct shared_state *sh, enum baton_mutant m)
{
    uint64_t to = o->from + o->seeds;
    char verdict[sizeof sh->verdict];
    for (uint64_t at = o->from; at < to; at = sh->seed + 1) {
        baton_mutant = m;
        if (child_runs(o, sh, at, to, 0))
            return 0;
        uint64_t seed = sh->seed;
        memcpy(verdict, sh->verdict, sizeof verdict);
        baton_mutant = MUTANT_NONE;
        bool holds = child_runs(o, sh, seed, seed + 1, 0);
        sh->seed = seed;
        memcpy(sh->verdict, verdict, sizeof verdict);
        if (holds)
            return seed;
    }
    return 0;
}

static bool look_for(const struct options *o, struct shared_state *sh, enum baton_mutant m)
{
    struct options x = *o;
    x.run.with_force = o->run.with_force || hints[m].run.with_force;
    x.run.with_purge = o->run.with_purge || hints[m].run.with_purge;
    x.run.etcd = o->run.etcd || hints[m].run.etcd;
    x.run.harsh = o->run.harsh || hints[m].run.harsh;
    x.run.none = o->run.none || hints[m].run.none;
    x.from = o->from ? o->from : hints[m].seed ? hints[m].seed : 1;
    x.seeds = o->seeds ? o->seeds : SEEDS_MAX;
    char kind[64];
    print_kind(&x.run, kind);
    uint64_t seed = noticed_by(&x, sh, m);
    if (seed)
        printf("ok sim/mutant %s (incident %s: %s): seed %" PRIu64 "%s, %s\n", mutants[m].name,
               mutants[m].incidents, mutants[m].text, seed, kind, sh->verdict);
    else
        printf("FAIL sim/mutant %s (incident %s: %s) survives %" PRIu64 " seeds from %" PRIu64
               "%s\n",
               mutants[m].name, mutants[m].incidents, mutants[m].text, x.seeds, x.from, kind);
    fflush(stdout);
    return seed != 0;
}

int run_mutants(const struct options *o)
{
    struct shared_state *sh = share(JOBS_MAX + 1);
    uint64_t *next = &sh[JOBS_MAX].seed; /* whose turn it is */
    double began = now_s();
    pid_t pid[JOBS_MAX];
    int survivors = 0;
    *next = 1;
    fflush(NULL);
    for (unsigned i = 0; i < o->jobs; i++) {
        pid[i] = fork();
        if (pid[i] != 0)
            continue;
        int n = 0;
        uint64_t m;
        while ((m = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < MUTANTS)
            n += !look_for(o, &sh[i], (enum baton_mutant)m);
        _exit(n);
    }
    for (unsigned i = 0; i < o->jobs; i++) {
        int status = 1;
        if (pid[i] < 0 || waitpid(pid[i], &status, 0) < 0 || !WIFEXITED(status))
            survivors++;
        else
            survivors += WEXITSTATUS(status);
    }
    printf("%d of %d mutants noticed in %.0f s\n", MUTANTS - 1 - survivors, MUTANTS - 1,
           now_s() - began);
    return survivors > 0;
}

void mutant_choose(const char *name)
{
    for (unsigned m = 1; m < MUTANTS; m++)
        if (strcmp(mutants[m].name, name) == 0) {
            baton_mutant = (enum baton_mutant)m;
            return;
        }
    fprintf(stderr, "no mutant %s; there are:\n", name);
    for (unsigned m = 1; m < MUTANTS; m++)
        fprintf(stderr, "  %-24s %-4s %s\n", mutants[m].name, mutants[m].incidents,
                mutants[m].text);
    exit(2);
}
