/* See etcd_value.h. */
#include "health/etcd_value.h"

enum { VALUE_FORMAT = 1 };
static const char magic[4] = {'B', 'T', 'N', 'E'};

bool etcd_value_encode(struct buf *b, const struct etcd_value *v)
{
    return wire_put_raw(b, magic, sizeof magic) && wire_put_u8(b, VALUE_FORMAT) &&
           wire_put_u64(b, v->lineage) && wire_put_u64(b, v->seal) && record_encode(b, &v->record);
}

bool etcd_value_decode(struct slice s, struct etcd_value *out)
{
    *out = (struct etcd_value){0};
    char found[sizeof magic];
    struct wire_reader r = wire_read(s);
    wire_get_raw(&r, found, sizeof found);
    bool known = memcmp(found, magic, sizeof magic) == 0 && wire_get_u8(&r) == VALUE_FORMAT;
    out->lineage = wire_get_u64(&r);
    out->seal = wire_get_u64(&r);
    return record_decode(&r, &out->record) && wire_done(&r) && known && out->record.version > 0;
}
