/* The conditions of the table of roles, in the order of a node's life. Each only reads facts. Core.
 */
#ifndef BATON_HEALTH_ROLES_WHEN_H
#define BATON_HEALTH_ROLES_WHEN_H

#include "health/pair_state.h"

bool fact_silent(const struct pair *p, uint64_t since, uint64_t limit_ns);
bool fact_named(const struct pair *p);
uint32_t fact_seen(const struct pair *p);
bool fact_below_seen(const struct pair *p);
bool fact_left_behind(const struct pair *p); /* none: the primary was heard to go on alone */
bool when_superseded(const struct pair *p);
bool when_store_failed(const struct pair *p);
bool when_stopping(const struct pair *p);
bool when_standby_back(const struct pair *p);
bool when_drop_due(const struct pair *p);
bool when_changed(const struct pair *p);
bool when_refused(const struct pair *p);
bool when_not_done(const struct pair *p);
bool when_start_single(const struct pair *p);
bool when_start_own(const struct pair *p);
bool when_start_orphan(const struct pair *p);
bool when_start_follow(const struct pair *p);
bool when_orphan_over(const struct pair *p);
bool when_forced_before(const struct pair *p);
bool when_forced(const struct pair *p);
bool when_given_up(const struct pair *p);
bool when_ordered(const struct pair *p);
uint64_t fact_last_life(const struct pair *p);
bool when_primary_silent(const struct pair *p);
bool when_follow_other(const struct pair *p);
bool when_store_gone(const struct pair *p);
bool when_old_lease_over(const struct pair *p);
bool when_beaten(const struct pair *p);
bool when_store_other(const struct pair *p);
bool when_promoted_paired(const struct pair *p);
bool when_promoted_solo(const struct pair *p);
bool when_take_back_due(const struct pair *p);
bool when_take_back_lost(const struct pair *p);
bool when_take_back_ready(const struct pair *p);
bool when_solo_durable(const struct pair *p);
bool when_tail_due(const struct pair *p);
bool when_record_alone(const struct pair *p);
bool when_taken_back(const struct pair *p);
bool when_settleable(const struct pair *p);
bool when_take_back_stuck(const struct pair *p);
bool when_fence_due(const struct pair *p);
bool when_drop_again(const struct pair *p);
bool when_handover_due(const struct pair *p);
bool when_stalled(const struct pair *p);
bool when_delivery_idle(const struct pair *p);
bool when_handover_lost(const struct pair *p);
bool when_drained(const struct pair *p);
bool when_drain_late(const struct pair *p);
bool when_taken_over(const struct pair *p);
bool when_not_taken_over(const struct pair *p);
bool when_offer_due(const struct pair *p);
bool when_forced_stuck(const struct pair *p);
bool when_stop_late(const struct pair *p);
bool when_closed_stopping(const struct pair *p);
bool when_closed(const struct pair *p);
bool when_dropped_by_primary(const struct pair *p);
bool when_force_locally(const struct pair *p);
bool when_force_refused(const struct pair *p);
#endif
