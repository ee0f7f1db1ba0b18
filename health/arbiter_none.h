/* arbiter = none (protocol 5): the register of the two nodes' votes, with this node's judgement in
 * the witness's place (register_none.h). Core. */
#ifndef BATON_HEALTH_ARBITER_NONE_H
#define BATON_HEALTH_ARBITER_NONE_H

#include "health/arbiter.h"
#include "health/register_none.h"

struct arbiter_none {
    struct arbiter_voters voters; /* first member: it is one with other operations */
    struct arbiter_ops ops;
    struct judge *judge;
    uint64_t now;
    judge_emit driver;
    void *ctx;
};
/* reg: new, of this node; its driver's effects go through arbiter_none_took(). driver: carries out
 * PROBE, FENCE and FENCE_END, writes LOG; VOTE, GIVE_UP and JUDGED it is only told of, before they
 * are done.
 */
void arbiter_none_init(struct arbiter_none *n, struct reg *reg, const struct judge_config *c,
                       const struct arbiter_events *events, judge_emit driver, void *ctx);
/* Frees the judgement, not the register. */
void arbiter_none_done(struct arbiter_none *n);
/* True: fx was for the judgement alone. Else it is as with any register: for its driver, or a
 * result. */
bool arbiter_none_took(struct arbiter_none *n, const struct register_fx *fx, uint64_t now_ns);
#endif
