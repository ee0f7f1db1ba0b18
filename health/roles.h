/* The table of roles, for those who draw or check it. Core. */
#ifndef BATON_HEALTH_ROLES_H
#define BATON_HEALTH_ROLES_H

#include "node/base/buf.h"

/* The diagram in Graphviz's language, from the rows that the code runs. False: out's cap. */
bool roles_dot(struct buf *out);
/* Row i of the table; false behind the last. */
bool roles_rule(unsigned i, unsigned *from, unsigned *to);
const char *roles_phase_name(unsigned phase);
unsigned roles_last_phase(void); /* the only one without a way out; phases are 0 .. this */
#endif
