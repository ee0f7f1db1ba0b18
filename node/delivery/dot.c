/* See dot.h. */
#include "node/delivery/dot.h"

#include "node/base/mutant.h"

bool dot_may_go(const struct dot *d)
{
    if (d->unsettled)
        return false;
    if (d->hold)
        return BATON_MUTANT(HOLD_NOTE_NOT_COMMITTED, true, d->committed);
    return d->alone || (d->note && d->note <= d->noted);
}
