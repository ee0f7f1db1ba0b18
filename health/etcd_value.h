/* What the one key in etcd holds: the record, its seal and its lineage (protocol 5). Core. */
#ifndef BATON_HEALTH_ETCD_VALUE_H
#define BATON_HEALTH_ETCD_VALUE_H

#include "health/record.h"

enum { ETCD_VALUE_BYTES_MAX = 256 }; /* a record and its seal, no more */

struct etcd_value {
    uint64_t lineage; /* grows whenever a record is put back into an etcd that had lost it */
    uint64_t seal;    /* random, new with every put: the same bytes are never there twice */
    struct record record;
};
bool etcd_value_encode(struct buf *b, const struct etcd_value *v);
/* False: another version's, or nobody's. */
bool etcd_value_decode(struct slice s, struct etcd_value *out);
#endif
