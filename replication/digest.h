/* What two stores compare instead of whole messages: a message's rows without their positions, and
 * whether its body is what was accepted. The sums of bodies are the storage driver's, for they need
 * a cryptographic hash; this one only has to tell rows apart that should be alike. Core. */
#ifndef BATON_REPLICATION_DIGEST_H
#define BATON_REPLICATION_DIGEST_H

#include "replication/row.h"

struct digest {
    uint64_t id, sum;
    uint64_t lsn;  /* of its newest row: what the peer must have before a comparison counts */
    bool body_bad; /* it fails its checksum, or can't be read */
};
enum { DIGEST_BYTES = 25 };
/* Adds a message or recipient row to d; in order of index. */
void digest_add(struct digest *d, const struct row *r);
bool digest_encode(struct buf *b, const struct digest *d);
bool digest_decode(struct wire_reader *r, struct digest *d);
#endif
