/* Many runs, each part of them in a child: an abort costs one seed and not the rest. */
#ifndef BATON_SIM_MANY_H
#define BATON_SIM_MANY_H

#include "sim/sim.h"

enum { JOBS_MAX = 16 };

struct shared_state { /* with the child */
    uint64_t seed;    /* under way */
    uint64_t done;
    bool failed;
    char verdict[600];
    struct counters sum;
};

struct options {
    uint64_t from, seeds; /* 0: not said */
    unsigned jobs;
    double seconds; /* 0: no bound */
    bool trace, all, mutants;
    const char *dir; /* for traces */
    struct sim_options run;
};

double now_s(void);
/* n of them, shared with children. */
struct shared_state *share(unsigned n);
/* Runs seeds in a child until one fails; true: all held, false: sh->seed failed. */
bool child_runs(const struct options *o, struct shared_state *sh, uint64_t from, uint64_t to,
                double until);

/* --- mutants.c --- */
/* Switches that one on for all runs; exits with 2 and a list if there is none of that name. */
void mutant_choose(const char *name);
/* Each until a seed notices it. Returns the exit status. */
int run_mutants(const struct options *o);
#endif
