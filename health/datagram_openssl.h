/* Seals and opens health datagrams with the keys of one cluster (protocol 6: forged and foreign
 * ones have no effect), and says in the log, seldom, why one was turned away and what to do. */
#ifndef BATON_HEALTH_DATAGRAM_OPENSSL_H
#define BATON_HEALTH_DATAGRAM_OPENSSL_H

#include "health/datagram.h"
#include "health/register.h"

enum datagram_refusal {
    REFUSED_NOISE,
    REFUSED_VERSION,
    REFUSED_CLUSTER,
    REFUSED_KEY,
    REFUSED_NODE, /* its sender takes us for another, or itself for us */
    REFUSALS
};

struct datagram_seal {
    unsigned self;
    char *cluster; /* borrowed */
    uint8_t out[VOTERS][32], in[VOTERS][32];
    unsigned version[VOTERS]; /* to write in, to each: the newest that both have shown to read */
};
void datagram_seal_init(struct datagram_seal *s, unsigned self, char *cluster,
                        const uint8_t cluster_key[32]);

/* Appends a whole datagram to an empty buffer. */
void datagram_seal_register(const struct datagram_seal *s, struct buf *b, unsigned to,
                            const struct register_msg *m);
/* payload already encoded. */
void datagram_seal_payload(const struct datagram_seal *s, struct buf *b, enum datagram_kind kind,
                           unsigned to, struct slice payload);

/* Is this datagram, parsed already, from one who holds the key, and for us? Then what its sender
 * reads is remembered. */
bool datagram_open(struct datagram_seal *s, const struct datagram *d, enum datagram_refusal *why);

struct datagram_refused { /* counts, and when the last line was written */
    uint64_t count[REFUSALS], logged_ns[REFUSALS];
};
/* One line at most each minute for each reason; source: text of the sender's address. */
void datagram_refused(struct datagram_refused *r, enum datagram_refusal why, const char *source,
                      struct slice cluster, uint64_t now_ns);
#endif
