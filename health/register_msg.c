/* Encodings of the register's messages and of the voter's durable row (protocol 5). Core. */
#include "health/register.h"

#include "node/base/protocol.h"

enum { VOTER_ROW_BYTES_MAX = 512 };
enum { MSG_VOTING = 1, MSG_VIRGIN = 2, MSG_FLAGS = 3 };

bool voter_state_encode(struct buf *b, const struct voter_state *v)
{
    return wire_put_u8(b, PROTOCOL) && wire_put_u64(b, v->voter_id) && wire_put_u8(b, v->voting) &&
           ballot_encode(b, v->promised) && ballot_encode(b, v->accepted) &&
           record_encode(b, &v->record);
}

bool voter_state_decode(struct slice s, struct voter_state *out)
{
    *out = (struct voter_state){0};
    if (s.n > VOTER_ROW_BYTES_MAX)
        return false;
    struct wire_reader r = wire_read(s);
    uint8_t format = wire_get_u8(&r);
    out->voter_id = wire_get_u64(&r);
    uint8_t voting = wire_get_u8(&r);
    out->voting = voting == 1;
    out->promised = ballot_decode(&r);
    out->accepted = ballot_decode(&r);
    record_decode(&r, &out->record);
    /* A voter begins to vote by taking over a record, and promises at least what it accepts. */
    return wire_done(&r) && protocol_reads(format) && voting <= 1 &&
           out->voting == (out->record.version > 0) &&
           ballot_cmp(out->promised, out->accepted) >= 0;
}

bool register_msg_encode(struct buf *b, const struct register_msg *m)
{
    uint8_t flags = (uint8_t)((m->voting ? MSG_VOTING : 0) | (m->virgin ? MSG_VIRGIN : 0));
    return wire_put_u8(b, (uint8_t)m->type) && wire_put_u64(b, m->nonce) &&
           wire_put_u64(b, m->voter_id) && wire_put_u8(b, flags) && ballot_encode(b, m->ballot) &&
           ballot_encode(b, m->accepted) && record_encode(b, &m->record);
}

bool register_msg_decode(struct wire_reader *r, struct register_msg *out)
{
    *out = (struct register_msg){0};
    uint8_t type = wire_get_u8(r);
    out->nonce = wire_get_u64(r);
    out->voter_id = wire_get_u64(r);
    uint8_t flags = wire_get_u8(r);
    out->voting = flags & MSG_VOTING;
    out->virgin = flags & MSG_VIRGIN;
    out->ballot = ballot_decode(r);
    out->accepted = ballot_decode(r);
    record_decode(r, &out->record);
    if (type < REG_PREPARE || type > REG_INIT || flags & ~MSG_FLAGS)
        r->bad = true;
    if (r->bad)
        return false;
    out->type = (enum register_msg_type)type;
    return true;
}
