/* The actions of the table of roles: each emits effects and begins what the new phase waits for.
 * Core. */
#ifndef BATON_HEALTH_ROLES_ACT_H
#define BATON_HEALTH_ROLES_ACT_H

#include "health/pair_state.h"

void act_nothing(struct pair *p);
void act_look_again(struct pair *p);
void act_settle_and_look(struct pair *p);
void act_not_won(struct pair *p);
void act_promote(struct pair *p);
void act_promote_single(struct pair *p);
void act_claim_restart(struct pair *p);
void act_claim_given_up(struct pair *p);
void act_claim_ordered(struct pair *p);
void act_claim_silent(struct pair *p);
void act_recall_forced(struct pair *p);
void act_claim_forced(struct pair *p);
void act_adopt_forced(struct pair *p);
void act_force_other(struct pair *p);
void act_force_stuck(struct pair *p);
void act_force_again(struct pair *p);
void act_settled(struct pair *p);
void act_follow(struct pair *p);
void act_release_tail(struct pair *p);
void act_serve_solo(struct pair *p);
void act_serve_paired(struct pair *p);
void act_take_back(struct pair *p);
void act_ask_take_back(struct pair *p);
void act_undo_take_back(struct pair *p);
void act_paired(struct pair *p);
void act_back(struct pair *p);
void act_offer(struct pair *p);
void act_ask_drop(struct pair *p);
void act_dropped(struct pair *p);
void act_alone(struct pair *p);
void act_quiesce(struct pair *p);
void act_resume(struct pair *p);
void act_drain(struct pair *p);
void act_relinquish(struct pair *p);
void act_step_down(struct pair *p);
void act_epoch_ended(struct pair *p);
void act_fail(struct pair *p);
void act_leave(struct pair *p);
void act_stopped(struct pair *p);
#endif
