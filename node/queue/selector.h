/* Which recipients an operator means, and what is to be done with them. Core: plain data. */
#ifndef BATON_QUEUE_SELECTOR_H
#define BATON_QUEUE_SELECTOR_H

#include <stdbool.h>
#include <stdint.h>

enum select_action { SELECT_HOLD, SELECT_RELEASE, SELECT_RETRY, SELECT_CANCEL };

struct selector { /* ANDed; unset parts match all */
    bool all;
    uint64_t id;
    char *domain, *sender, *campaign;
    char state[16]; /* "", queued, deferred, held, quarantined, in-doubt */
    uint64_t older_than_ms;
};
#endif
