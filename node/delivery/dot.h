/* May a final dot go out, as far as the other node is concerned (protocol 4.5 and 9)? The lease is
 * looked at beside it, right before the act. Core; delivery and the simulator ask it. */
#ifndef BATON_DELIVERY_DOT_H
#define BATON_DELIVERY_DOT_H

#include <stdbool.h>
#include <stdint.h>

struct dot {
    bool unsettled; /* earlier outcomes of this connection are on their way */
    bool hold;      /* the message's policy: at most once */
    bool committed; /* hold: the note is, on every store in in_sync */
    bool alone;     /* resend: there is no other node that could send it again */
    uint64_t note;  /* resend: number of the frame that tells the standby; 0: not yet told */
    uint64_t noted; /* the highest number that the standby is known to have, or needn't */
};
bool dot_may_go(const struct dot *d);
#endif
