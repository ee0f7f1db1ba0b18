/* What goes wrong with nodes, disks and clocks, and what operators do. harm.c and rollback.c. */
#ifndef BATON_SIM_HARM_H
#define BATON_SIM_HARM_H

#include "sim/sim.h"

void harm_crash(struct sim *s, unsigned self);
void harm_crash_at_step(struct sim *s, unsigned self);
void harm_disk(struct sim *s, unsigned self, enum fault_kind kind); /* F_DISK, WRITE, FSYNC, … */
void harm_thread(struct sim *s, unsigned self);
void harm_slow_peer(struct sim *s, unsigned self);
void harm_clock(struct sim *s, unsigned self);
void harm_empty_voter(struct sim *s);
void harm_empty_store(struct sim *s, unsigned self);
void harm_witness_down(struct sim *s);
void harm_witness_backup(struct sim *s);
void harm_witness_crash_at_step(struct sim *s);
void harm_witness_back(struct sim *s, struct task *t);
void harm_order(struct sim *s, unsigned self, enum fault_kind kind);    /* F_SWITCHOVER, … */
void harm_rollback(struct sim *s, unsigned self, enum fault_kind kind); /* F_ROLLBACK, F_CLONE */
void harm_ends(struct node *n); /* the store in use is about to be another */
void harm_operator(struct sim *s);
void harm_at_accept(struct sim *s, unsigned proposer, unsigned voter);
void harm_at_wipe(struct sim *s, struct node *n);
void harm_stop(struct sim *s, unsigned self);
#endif
