/* The envelope of every health datagram, between nodes and witness (protocol 6): who speaks to whom
 * in which cluster, a payload, and a MAC over all before it. Core: the driver computes the MAC.
 *
 *   "BATH" | version u8 | speaks u8 | kind u8 | from u8 | to u8 | cluster (u32 length, bytes) |
 *   payload | MAC
 *
 * version: what it is written in; speaks: the newest that its sender reads (node/base/protocol.h).
 *
 * The key depends on both ends, so nothing can be reflected: "health/a>b", "health/a>witness". */
#ifndef BATON_HEALTH_DATAGRAM_H
#define BATON_HEALTH_DATAGRAM_H

#include "health/record.h"

enum { DATAGRAM_MAC_BYTES = 32, DATAGRAM_CLUSTER_BYTES_MAX = 64 };
/* All fit an Ethernet frame, so none is ever fragmented. */
enum { DATAGRAM_BYTES_MAX = 1200 };
enum datagram_kind { DATAGRAM_HEARTBEAT = 1, DATAGRAM_REGISTER = 2 };

struct datagram {
    unsigned version, speaks;
    enum datagram_kind kind;
    unsigned from, to; /* NODE_A, NODE_B, WITNESS */
    struct slice cluster;
    struct slice payload;
    struct slice covered; /* by the MAC */
    const uint8_t *mac;
};

enum datagram_fault {
    DATAGRAM_OK,
    DATAGRAM_NOISE,         /* not one of ours */
    DATAGRAM_OTHER_VERSION, /* ours, written in a version that this program doesn't read */
};
/* Reads the envelope; nothing of it is to be believed before the MAC was checked. */
enum datagram_fault datagram_parse(struct slice bytes, struct datagram *out);
/* Writes all up to the payload, which the caller appends, and then the MAC. version: one that the
 * receiver reads. */
bool datagram_begin(struct buf *b, unsigned version, enum datagram_kind kind, unsigned from,
                    unsigned to, struct slice cluster);
/* The label to derive the key of one direction with; out has at least 32 bytes. Returns out. */
const char *datagram_key_label(char *out, unsigned from, unsigned to);
/* "a", "b" or "witness". */
const char *voter_name(unsigned v);
#endif
