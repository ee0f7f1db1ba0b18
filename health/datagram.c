/* See datagram.h. Core. */
#include "health/datagram.h"

#include <assert.h>
#include <stdio.h>

#include "node/base/protocol.h"

static const char magic[4] = {'B', 'A', 'T', 'H'};

const char *voter_name(unsigned v)
{
    static const char *const names[VOTERS] = {"a", "b", "witness"};
    assert(v < VOTERS);
    return names[v];
}

const char *datagram_key_label(char *out, unsigned from, unsigned to)
{
    snprintf(out, 32, "health/%s>%s", voter_name(from), voter_name(to));
    return out;
}

bool datagram_begin(struct buf *b, unsigned version, enum datagram_kind kind, unsigned from,
                    unsigned to, struct slice cluster)
{
    assert(from < VOTERS && to < VOTERS && from != to && protocol_reads(version));
    return wire_put_raw(b, magic, sizeof magic) && wire_put_u8(b, (uint8_t)version) &&
           wire_put_u8(b, PROTOCOL) && wire_put_u8(b, (uint8_t)kind) &&
           wire_put_u8(b, (uint8_t)from) && wire_put_u8(b, (uint8_t)to) &&
           wire_put_bytes(b, cluster);
}

enum datagram_fault datagram_parse(struct slice bytes, struct datagram *out)
{
    *out = (struct datagram){0};
    if (bytes.n < sizeof magic + 2 + DATAGRAM_MAC_BYTES || bytes.n > DATAGRAM_BYTES_MAX ||
        memcmp(bytes.p, magic, sizeof magic) != 0)
        return DATAGRAM_NOISE;
    out->version = bytes.p[sizeof magic];
    out->speaks = bytes.p[sizeof magic + 1];
    if (!protocol_reads(out->version) || !protocol_common(out->speaks))
        return DATAGRAM_OTHER_VERSION;
    out->covered = slice_of(bytes.p, bytes.n - DATAGRAM_MAC_BYTES);
    out->mac = bytes.p + out->covered.n;
    struct wire_reader r =
        wire_read(slice_of(bytes.p + sizeof magic + 2, out->covered.n - sizeof magic - 2));
    uint8_t kind = wire_get_u8(&r);
    out->from = wire_get_u8(&r);
    out->to = wire_get_u8(&r);
    out->cluster = wire_get_bytes(&r, DATAGRAM_CLUSTER_BYTES_MAX);
    if (r.bad || out->from >= VOTERS || out->to >= VOTERS || out->from == out->to ||
        (kind != DATAGRAM_HEARTBEAT && kind != DATAGRAM_REGISTER))
        return DATAGRAM_NOISE;
    out->kind = (enum datagram_kind)kind;
    out->payload = slice_of(r.p, r.n);
    return DATAGRAM_OK;
}
