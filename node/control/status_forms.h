/* What the forms of a status (JSON, metrics, page) share; private to node/control. Core. */
#ifndef BATON_CONTROL_STATUS_FORMS_H
#define BATON_CONTROL_STATUS_FORMS_H

#include "node/control/status.h"

bool status_single(const struct node_status *s);      /* one node without a peer */
char status_primary(const struct node_status *s);     /* 'a', 'b'; 0: nobody is known */
const char *status_mode(const struct node_status *s); /* "paired", "solo" or NULL */
bool status_serving(const struct node_status *s);     /* a primary that serves */
bool status_standby_in_sync(const struct node_status *s);
const char *status_arbiter_type(const struct node_status *s);
/* arbiter = none, takeover = "manual": nobody takes over by himself, and nobody is to be alarmed.
 */
bool status_manual(const struct node_status *s);
/* How far the standby is behind: as primary what it hasn't acknowledged, else what isn't here. */
uint64_t status_lag_changes(const struct node_status *s);
#endif
