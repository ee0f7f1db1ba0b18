/* One number for all that two releases exchange or leave to each other: frames of the link, health
 * datagrams, rows, the store's schema and meta, the voter's file. Core.
 *
 * A release reads its own number and the one before; it *writes* its own into files, and to
 * others what both speak: each greeting and each datagram says, beside the form that it is
 * written in, the newest that its sender reads. So a pair is upgraded one node after the other, the
 * standby first, and goes on serving in between (deploy/docs/operating.md). Whoever changes a form
 * raises the number here, and keeps the form before for one release: writers take the
 * version to write. A build with the number raised and nothing else changed (-DBATON_PROTOCOL=2)
 * shows that nothing of the new number reaches a program that doesn't know it
 * (tests/cluster/upgrade.py). */
#ifndef BATON_BASE_PROTOCOL_H
#define BATON_BASE_PROTOCOL_H

#include <stdbool.h>

#ifndef BATON_PROTOCOL
#define BATON_PROTOCOL 1
#endif

enum { PROTOCOL = BATON_PROTOCOL, PROTOCOL_OLDEST = PROTOCOL > 1 ? PROTOCOL - 1 : 1 };

static inline bool protocol_reads(unsigned version)
{
    return version >= PROTOCOL_OLDEST && version <= PROTOCOL;
}

/* What to speak with somebody who reads up to `speaks` and the one before; 0: nothing in common. */
static inline unsigned protocol_common(unsigned speaks)
{
    unsigned version = speaks < PROTOCOL ? speaks : PROTOCOL;
    return protocol_reads(version) && version + 1 >= speaks ? version : 0;
}
#endif
