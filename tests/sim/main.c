/* The simulator as a program: runs many seeds, each in virtual time; a seed that breaks an
 * invariant, or an assertion of a core, is run again with a trace of who did what. Runs of many
 * seeds happen in a child, so that an abort costs one seed and not the rest. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "node/base/log.h"
#include "sim/many.h"

enum { FAILURES_MAX = 20, TAIL_LINES = 60, SEED_SECONDS = 60 };

double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void add(struct counters *sum, const struct counters *c)
{
    uint64_t *x = (uint64_t *)sum;
    const uint64_t *y = (const uint64_t *)c;
    for (size_t i = 0; i < sizeof *c / sizeof *x; i++)
        x[i] += y[i];
}

static void run_many(const struct options *o, struct shared_state *sh, uint64_t from, uint64_t to,
                     double until)
{
    for (sh->seed = from; sh->seed < to && !sh->failed; sh->seed++) {
        struct counters c;
        alarm(SEED_SECONDS);
        if (!sim_run(sh->seed, &o->run, NULL, &c, sh->verdict, sizeof sh->verdict)) {
            sh->failed = true;
            return;
        }
        add(&sh->sum, &c);
        sh->done++;
        if (until > 0 && now_s() > until)
            return;
    }
}

bool child_runs(const struct options *o, struct shared_state *sh, uint64_t from, uint64_t to,
                double until)
{
    sh->failed = false;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(1);
    }
    if (pid == 0) {
        run_many(o, sh, from, to, until);
        _exit(0);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0)) {
        sh->failed = true;
        snprintf(sh->verdict, sizeof sh->verdict, "died of signal %d (%s)",
                 WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                 WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? "goes round in circles"
                                                                    : "an assertion, see above");
    }
    return !sh->failed;
}

static void print_tail(const char *file)
{
    FILE *f = fopen(file, "re");
    if (!f)
        return;
    static char line[TAIL_LINES][256];
    unsigned n = 0;
    while (fgets(line[n % TAIL_LINES], sizeof line[0], f))
        n++;
    fclose(f);
    for (unsigned i = n > TAIL_LINES ? n - TAIL_LINES : 0; i < n; i++)
        printf("  %s", line[i % TAIL_LINES]);
}

/* The same seed once more, with a trace. */
static void trace_again(const struct options *o, uint64_t seed)
{
    char file[512];
    snprintf(file, sizeof file, "%s/sim-seed-%" PRIu64 ".trace", o->dir, seed);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct counters c;
        FILE *f = fopen(file, "we");
        if (!f)
            _exit(1);
        setvbuf(f, NULL, _IOLBF, 0);
        alarm(SEED_SECONDS);
        sim_run(seed, &o->run, f, &c, NULL, 0);
        fclose(f);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    print_tail(file);
    printf("  whole trace: %s; again: build/tests/sim --from %" PRIu64 " --seeds 1 --trace\n", file,
           seed);
}

/* Each kind of fault: how often it was ordered, and how often it then did something. */
static void print_faults(const struct counters *c)
{
    static const struct {
        const char *name, *what;
    } kinds[F_KINDS] = {
        [F_CRASH] = {"crash", "ended a node"},
        [F_CRASH_STEP] = {"crash at a durable step", "ended a node there"},
        [F_PAUSE] = {"pause", "events that waited"},
        [F_CUT] = {"cut", "datagrams and frames held up"},
        [F_WEATHER] = {"bad network", "datagrams lost"},
        [F_BREAK] = {"link breaks", "links"},
        [F_MUTE] = {"link carries nothing", "times that frames waited"},
        [F_DISK] = {"slow disk", "slow commits"},
        [F_WITNESS] = {"witness down", "ended it"},
        [F_EMPTY_VOTER] = {"voter emptied", "voters"},
        [F_EMPTY_STORE] = {"store emptied or exchanged", "stores"},
        [F_SWITCHOVER] = {"switchover", "done"},
        [F_FAILOVER] = {"failover", "done"},
        [F_WRITE] = {"failed write", "transactions or rows"},
        [F_FSYNC] = {"failed fsync", "transactions"},
        [F_FULL] = {"disk fills up", "452 or failed transactions"},
        [F_STALL] = {"disk hangs", "writes that waited"},
        [F_THREAD] = {"thread hangs", "events that waited"},
        [F_SLOW_PEER] = {"slow machine", "late events"},
        [F_CLOCK] = {"wall clock jumps", "by over a minute"},
        [F_LATE_WITNESS] = {"witness answers late", "datagrams"},
        [F_STOP] = {"clean stop", "done"},
        [F_OPERATOR] = {"operator's word", "answered"},
        [F_ROLLBACK] = {"store rolled back", "stores"},
        [F_CLONE] = {"store used elsewhere", "ids given out twice"},
        [F_ROT] = {"bit rot", "bodies damaged"},
        [F_QUEUE] = {"order about a message", "answered"},
        [F_WITNESS_BACKUP] = {"witness from a backup", "put back"},
        [F_FORCE] = {"failover --force", "done"},
    };
    printf("faults, as ordered / what they did:\n");
    for (unsigned i = 0; i < F_KINDS; i++)
        if (c->injected[i] || c->effect[i])
            printf("  %-28s %9" PRIu64 " / %" PRIu64 " %s\n", kinds[i].name, c->injected[i],
                   c->effect[i], kinds[i].what);
}

static void print_sum(const struct shared_state *sh, double took)
{
    const struct counters *c = &sh->sum;
    double hours = (double)c->virtual_ns / 3.6e12;
    printf("%" PRIu64 " seeds, %.1f virtual hours in %.1f s: %.2f virtual hours a second, "
           "%.1f million events\n",
           sh->done, hours, took, took > 0 ? hours / took : 0, (double)c->events / 1e6);
    printf("%" PRIu64 " acknowledged, %" PRIu64 " delivered, %" PRIu64 " bounced, %" PRIu64
           " expired; %" PRIu64 " epochs, %" PRIu64 " dropped, %" PRIu64 " taken back; %" PRIu64
           " faults, %" PRIu64 " crashes\n",
           c->acked, c->delivered, c->bounced, c->expired, c->epochs, c->drops, c->take_backs,
           c->faults, c->crashes);
    print_faults(c);
    printf("came to rest without a %" PRIu64 ", without b %" PRIu64 ", without the witness %" PRIu64
           ", with all three at once %" PRIu64
           "; by an operator's force, as etcd had lost what no node knew %" PRIu64 "\n",
           c->rest[0], c->rest[1], c->rest[2], c->rest[3], c->rest_forced);
    printf("without an arbiter: %" PRIu64 " runs, %" PRIu64 " votes by judgement, %" PRIu64
           " times both went on (sent twice by both: %" PRIu64 "), %" PRIu64
           " fence commands ended\n",
           c->none_runs, c->none_judged, c->none_splits, c->doubled_split, c->fence_killed);
    printf("with etcd: %" PRIu64 " runs, %" PRIu64
           " times emptied or restored from a backup, %" PRIu64 " times given back what was lost\n",
           c->etcd_runs, c->etcd_losses, c->etcd_put_back);
    printf("sent twice: %" PRIu64 " in doubt at a takeover, %" PRIu64
           " where the receiver's reply was lost, %" PRIu64 " by a primary that restarted, %" PRIu64
           " after two failures, %" PRIu64 " by a forced takeover, %" PRIu64
           " with a store that had lost its end (and %" PRIu64 " of \"at most once\"); %" PRIu64
           " listed in doubt; quarantined %" PRIu64 ", superseded %" PRIu64 "\n",
           c->doubled_in_doubt, c->doubled_reply_lost, c->doubled_restart,
           c->doubled_two_crashes + c->doubled_note_lost, c->doubled_forced, c->doubled_lost_store,
           c->hold_forgotten, c->in_doubt, c->quarantined, c->superseded);
    printf("excused that a store named by the record hadn't them, while another had: %" PRIu64
           " left behind by a forced takeover, %" PRIu64 " on a store that had lost its end\n",
           c->away_forced, c->away_lost);
    printf(
        "damaged bodies: %" PRIu64 " mended from the other copy, %" PRIu64
        " held as neither was right (the right one was on a store that had been emptied: %" PRIu64
        "); both stores compared %" PRIu64 " times\n",
        c->mended, c->damaged_held, c->damaged_gone, c->compared);
    printf("%" PRIu64 " tombstones purged, %" PRIu64
           " rejoined by an operator (sent twice as what was purged came back: %" PRIu64 ")\n",
           c->purged, c->rejoined, c->doubled_rejoin);
}

struct shared_state *share(unsigned n)
{
    struct shared_state *sh =
        mmap(NULL, n * sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return sh;
}

/* One job: its part of the seeds. Returns how many failed. */
static unsigned run_part(const struct options *o, struct shared_state *sh, uint64_t at, uint64_t to,
                         double until)
{
    unsigned failures = 0;
    while (at < to && failures < FAILURES_MAX) {
        if (child_runs(o, sh, at, to, until))
            break;
        failures++;
        printf("FAIL sim/seed-%" PRIu64 ": %s\n", sh->seed, sh->verdict);
        if (failures == 1 || o->all)
            trace_again(o, sh->seed);
        fflush(stdout);
        at = sh->seed + 1;
        if (until > 0 && now_s() > until)
            break;
    }
    return failures;
}

static int run_seeds(const struct options *o)
{
    struct shared_state *sh = share(JOBS_MAX + 1), *all = &sh[JOBS_MAX];
    double began = now_s(), until = o->seconds > 0 ? began + o->seconds : 0;
    pid_t pid[JOBS_MAX];
    bool failed = false;
    fflush(NULL);
    for (unsigned i = 0; i < o->jobs; i++) {
        uint64_t at = o->from + o->seeds * i / o->jobs, to = o->from + o->seeds * (i + 1) / o->jobs;
        pid[i] = fork();
        if (pid[i] == 0) {
            unsigned failures = run_part(o, &sh[i], at, to, until);
            fflush(NULL);
            _exit(failures > 0);
        }
    }
    for (unsigned i = 0; i < o->jobs; i++) {
        int status = 1;
        if (pid[i] < 0 || waitpid(pid[i], &status, 0) < 0 || status != 0)
            failed = true;
        add(&all->sum, &sh[i].sum);
        all->done += sh[i].done;
    }
    print_sum(all, now_s() - began);
    if (!failed)
        printf("ok sim/seeds %" PRIu64 " of %" PRIu64 " from %" PRIu64 "\n", all->done, o->seeds,
               o->from);
    return failed;
}

static int trace_one(const struct options *o)
{
    struct counters c;
    char verdict[600];
    setvbuf(stdout, NULL, _IOLBF, 0);
    bool ok = sim_run(o->from, &o->run, stdout, &c, verdict, sizeof verdict);
    printf("%s sim/seed-%" PRIu64 "%s%s\n", ok ? "ok" : "FAIL", o->from, ok ? "" : ": ", verdict);
    return !ok;
}

int main(int argc, char **argv)
{
    struct options o = {.jobs = 1, .dir = "."};
    log_set_level("error");
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(a, "--trace") == 0)
            o.trace = true;
        else if (strcmp(a, "--all-traces") == 0)
            o.all = true;
        else if (strcmp(a, "--seeds") == 0 && v)
            o.seeds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(a, "--from") == 0 && v)
            o.from = strtoull(argv[++i], NULL, 10);
        else if (strcmp(a, "--jobs") == 0 && v)
            o.jobs = (unsigned)strtoul(argv[++i], NULL, 10);
        else if (strcmp(a, "--seconds") == 0 && v)
            o.seconds = strtod(argv[++i], NULL);
        else if (strcmp(a, "--with-force") == 0)
            o.run.with_force = true;
        else if (strcmp(a, "--etcd") == 0)
            o.run.etcd = true;
        else if (strcmp(a, "--none") == 0)
            o.run.none = true;
        else if (strcmp(a, "--harsh") == 0)
            o.run.harsh = true;
        else if (strcmp(a, "--with-purge") == 0)
            o.run.with_purge = true;
        else if (strcmp(a, "--mutants") == 0)
            o.mutants = true;
        else if (strcmp(a, "--mutant") == 0 && v)
            mutant_choose(argv[++i]);
        else if (strcmp(a, "--traces-in") == 0 && v)
            o.dir = argv[++i];
        else {
            fprintf(
                stderr,
                "usage: sim [--seeds N] [--from S] [--jobs N] [--seconds T] [--trace] "
                "[--all-traces] [--traces-in DIR] [--with-force] [--with-purge] [--none] [--etcd] "
                "[--harsh] "
                "[--mutants | --mutant NAME]\n");
            return 2;
        }
    }
    if (o.jobs < 1 || o.jobs > JOBS_MAX)
        o.jobs = 1;
    if (o.mutants)
        return run_mutants(&o);
    o.from = o.from ? o.from : 1;
    o.seeds = o.seeds ? o.seeds : 1000;
    return o.trace ? trace_one(&o) : run_seeds(&o);
}
