/* See datagram_openssl.h. */
#include "health/datagram_openssl.h"

#include <assert.h>

#include "node/base/crypto_openssl.h"
#include "node/base/log.h"
#include "node/base/protocol.h"

void datagram_seal_init(struct datagram_seal *s, unsigned self, char *cluster,
                        const uint8_t cluster_key[32])
{
    *s = (struct datagram_seal){.self = self, .cluster = cluster};
    char label[32];
    for (unsigned v = 0; v < VOTERS; v++) {
        s->version[v] = PROTOCOL_OLDEST; /* until it says that it reads a newer one */
        if (v == self)
            continue;
        crypto_derive(cluster_key, datagram_key_label(label, self, v), s->out[v]);
        crypto_derive(cluster_key, datagram_key_label(label, v, self), s->in[v]);
    }
}

static void close_datagram(const struct datagram_seal *s, struct buf *b, unsigned to)
{
    uint8_t mac[DATAGRAM_MAC_BYTES];
    crypto_hmac_sha256(s->out[to], buf_slice(b), mac);
    bool fits = buf_append(b, mac, sizeof mac);
    assert(fits && b->len <= DATAGRAM_BYTES_MAX);
    (void)fits;
}

void datagram_seal_payload(const struct datagram_seal *s, struct buf *b, enum datagram_kind kind,
                           unsigned to, struct slice payload)
{
    assert(b->len == 0);
    bool fits = datagram_begin(b, s->version[to], kind, s->self, to, slice_str(s->cluster)) &&
                buf_append_slice(b, payload);
    assert(fits);
    (void)fits;
    close_datagram(s, b, to);
}

void datagram_seal_register(const struct datagram_seal *s, struct buf *b, unsigned to,
                            const struct register_msg *m)
{
    assert(b->len == 0);
    bool fits =
        datagram_begin(b, s->version[to], DATAGRAM_REGISTER, s->self, to, slice_str(s->cluster)) &&
        register_msg_encode(b, m);
    assert(fits);
    (void)fits;
    close_datagram(s, b, to);
}

bool datagram_open(struct datagram_seal *s, const struct datagram *d, enum datagram_refusal *why)
{
    if (!slice_eq(d->cluster, slice_str(s->cluster))) {
        *why = REFUSED_CLUSTER;
        return false;
    }
    if (d->from == s->self || d->to != s->self) {
        *why = REFUSED_NODE;
        return false;
    }
    uint8_t mac[DATAGRAM_MAC_BYTES];
    crypto_hmac_sha256(s->in[d->from], d->covered, mac);
    *why = REFUSED_KEY;
    if (!crypto_equal(mac, d->mac, sizeof mac))
        return false;
    s->version[d->from] = protocol_common(d->speaks);
    return true;
}

void datagram_refused(struct datagram_refused *r, enum datagram_refusal why, const char *source,
                      struct slice cluster, uint64_t now_ns)
{
    static const struct {
        const char *event, *text;
    } line[REFUSALS] = {
        [REFUSED_NOISE] = {"health.noise", "not a datagram of ours"},
        [REFUSED_VERSION] = {"health.other_version",
                             "it speaks a version too far from this one; upgrade one "
                             "release after the other"},
        [REFUSED_CLUSTER] = {"health.other_cluster",
                             "it belongs to another cluster; make `cluster` the same in both files "
                             "of a pair and in the witness's `clusters`, and addresses and ports "
                             "different between pairs"},
        [REFUSED_KEY] = {"health.wrong_key", "it holds another cluster key; copy the file that "
                                             "`key_file` names from one machine to all"},
        [REFUSED_NODE] = {"health.wrong_node",
                          "it takes us for another node; `node` must be \"a\" in one file and "
                          "\"b\" in the other, and `nodes` the same in both"},
    };
    enum { EVERY_S = 60 };
    r->count[why]++;
    if (r->logged_ns[why] && now_ns - r->logged_ns[why] < EVERY_S * (uint64_t)1000000000)
        return;
    r->logged_ns[why] = now_ns;
    char name[100];
    log_warn(line[why].event, "from=%s cluster=%s count=%llu turned away: %s", source,
             log_quote(name, sizeof name, cluster), (unsigned long long)r->count[why],
             line[why].text);
}
