/* See row.h. Each row: u8 type, u8 version, fields. A version that this program doesn't read
 * is refused: what a link speaks is agreed in HELLO. */
#include "replication/row.h"

#include <assert.h>

#include "node/base/protocol.h"

/* Caps of single fields; what SMTP lets in is smaller (RFC 5321 4.5.3.1), the rest is ours. */
enum {
    ADDRESS_MAX = 1024,
    TEXT_MAX = 2048,
    PREFIX_MAX = 16384,
    OPVALUE_MAX = 4096,
    HISTORY_ROW_BYTES = 13
};

const char *rcpt_state_name(uint8_t state)
{
    static const char *const names[] = {"quarantined", "queued",     "failed",     "expired",
                                        "cancelled",   "suppressed", "superseded", "delivered"};
    return state <= RCPT_DELIVERED ? names[state] : "unknown";
}

struct pos row_pos(const struct row *r)
{
    switch (r->type) {
    case ROW_MESSAGE:
        return r->message.pos;
    case ROW_RECIPIENT:
        return r->recipient.pos;
    case ROW_CHUNK:
        return r->chunk.pos;
    case ROW_OPSTATE:
        return r->opstate.pos;
    }
    return (struct pos){0, 0};
}

void row_set_pos(struct row *r, struct pos p)
{
    switch (r->type) {
    case ROW_MESSAGE:
        r->message.pos = p;
        return;
    case ROW_RECIPIENT:
        r->recipient.pos = p;
        return;
    case ROW_CHUNK:
        r->chunk.pos = p;
        return;
    case ROW_OPSTATE:
        r->opstate.pos = p;
        return;
    }
    assert(!"row type");
}

static bool put_pos(struct buf *b, struct pos p)
{
    return wire_put_u32(b, p.epoch) && wire_put_u64(b, p.lsn);
}

static struct pos get_pos(struct wire_reader *r)
{
    struct pos p;
    p.epoch = wire_get_u32(r);
    p.lsn = wire_get_u64(r);
    return p;
}

static bool put_message(struct buf *b, const struct row_message *m)
{
    return wire_put_u64(b, m->id) && put_pos(b, m->pos) && put_pos(b, m->born) &&
           wire_put_raw(b, m->creator.b, STORE_ID_BYTES) && wire_put_u8(b, m->state) &&
           wire_put_u32(b, m->flags) && wire_put_u64(b, (uint64_t)m->received_ms) &&
           wire_put_u64(b, (uint64_t)m->done_ms) && wire_put_u64(b, m->size) &&
           wire_put_u32(b, m->chunks) && wire_put_u32(b, m->recipients) &&
           wire_put_u64(b, m->parent) && wire_put_raw(b, m->sha256, 32) &&
           wire_put_bytes(b, m->sender) && wire_put_bytes(b, m->envid) &&
           wire_put_bytes(b, m->campaign) && wire_put_bytes(b, m->origin) &&
           wire_put_bytes(b, m->prefix) && wire_put_bytes(b, m->body);
}

static void get_message(struct wire_reader *r, struct row_message *m)
{
    m->id = wire_get_u64(r);
    m->pos = get_pos(r);
    m->born = get_pos(r);
    wire_get_raw(r, m->creator.b, STORE_ID_BYTES);
    m->state = wire_get_u8(r);
    m->flags = wire_get_u32(r);
    m->received_ms = (int64_t)wire_get_u64(r);
    m->done_ms = (int64_t)wire_get_u64(r);
    m->size = wire_get_u64(r);
    m->chunks = wire_get_u32(r);
    m->recipients = wire_get_u32(r);
    m->parent = wire_get_u64(r);
    wire_get_raw(r, m->sha256, 32);
    m->sender = wire_get_bytes(r, ADDRESS_MAX);
    m->envid = wire_get_bytes(r, ADDRESS_MAX);
    m->campaign = wire_get_bytes(r, ADDRESS_MAX);
    m->origin = wire_get_bytes(r, TEXT_MAX);
    m->prefix = wire_get_bytes(r, PREFIX_MAX);
    m->body = wire_get_bytes(r, BODY_INLINE_MAX);
    if (m->state > MESSAGE_DONE || (m->body.n && (m->chunks || m->state == MESSAGE_DONE)))
        r->bad = true;
}

static bool put_recipient(struct buf *b, const struct row_recipient *p)
{
    return wire_put_u64(b, p->id) && wire_put_u32(b, p->index) && put_pos(b, p->pos) &&
           wire_put_u8(b, p->state) && wire_put_u8(b, p->held) && wire_put_u8(b, p->notify) &&
           wire_put_u8(b, p->in_doubt) && wire_put_u32(b, p->attempts) &&
           wire_put_u64(b, (uint64_t)p->next_ms) && wire_put_u64(b, (uint64_t)p->last_ms) &&
           wire_put_u16(b, p->code) && wire_put_bytes(b, p->address) &&
           wire_put_bytes(b, p->domain) && wire_put_bytes(b, p->orcpt) &&
           wire_put_bytes(b, p->enhanced) && wire_put_bytes(b, p->reply) &&
           wire_put_bytes(b, p->remote);
}

static void get_recipient(struct wire_reader *r, struct row_recipient *p)
{
    p->id = wire_get_u64(r);
    p->index = wire_get_u32(r);
    p->pos = get_pos(r);
    p->state = wire_get_u8(r);
    p->held = wire_get_u8(r);
    p->notify = wire_get_u8(r);
    p->in_doubt = wire_get_u8(r);
    p->attempts = wire_get_u32(r);
    p->next_ms = (int64_t)wire_get_u64(r);
    p->last_ms = (int64_t)wire_get_u64(r);
    p->code = wire_get_u16(r);
    p->address = wire_get_bytes(r, ADDRESS_MAX);
    p->domain = wire_get_bytes(r, ADDRESS_MAX);
    p->orcpt = wire_get_bytes(r, ADDRESS_MAX);
    p->enhanced = wire_get_bytes(r, 32);
    p->reply = wire_get_bytes(r, TEXT_MAX);
    p->remote = wire_get_bytes(r, TEXT_MAX);
    if (p->state > RCPT_DELIVERED || p->held > (HELD_OPERATOR | HELD_DOUBT) ||
        p->in_doubt > DOUBT_YES || p->notify > 15)
        r->bad = true;
}

static bool encode_as(struct buf *b, const struct row *r, unsigned version)
{
    size_t start = b->len;
    bool ok = wire_put_u8(b, (uint8_t)r->type) && wire_put_u8(b, (uint8_t)version);
    switch (r->type) {
    case ROW_MESSAGE:
        ok = ok && put_message(b, &r->message);
        break;
    case ROW_RECIPIENT:
        ok = ok && put_recipient(b, &r->recipient);
        break;
    case ROW_CHUNK:
        ok = ok && wire_put_u64(b, r->chunk.id) && wire_put_u32(b, r->chunk.index) &&
             put_pos(b, r->chunk.pos) && wire_put_bytes(b, r->chunk.data);
        break;
    case ROW_OPSTATE:
        ok = ok && put_pos(b, r->opstate.pos) && wire_put_bytes(b, r->opstate.key) &&
             wire_put_bytes(b, r->opstate.value);
        break;
    }
    if (!ok)
        b->len = start; /* never half a row */
    return ok;
}

bool row_encode(struct buf *b, const struct row *r)
{
    return encode_as(b, r, PROTOCOL);
}

bool rows_recode(struct buf *b, struct slice rows, bool classed, unsigned version)
{
    struct wire_reader r = wire_read(rows);
    struct row row;
    while (r.n) {
        uint8_t as = classed ? wire_get_u8(&r) : 0;
        if (!row_decode(&r, &row) || (classed && !wire_put_u8(b, as)) ||
            !encode_as(b, &row, version))
            return false;
    }
    return true;
}

bool row_decode(struct wire_reader *r, struct row *out)
{
    memset(out, 0, sizeof *out);
    uint8_t type = wire_get_u8(r);
    if (!protocol_reads(wire_get_u8(r)))
        r->bad = true;
    out->type = (enum row_type)type;
    switch (type) {
    case ROW_MESSAGE:
        get_message(r, &out->message);
        break;
    case ROW_RECIPIENT:
        get_recipient(r, &out->recipient);
        break;
    case ROW_CHUNK:
        out->chunk.id = wire_get_u64(r);
        out->chunk.index = wire_get_u32(r);
        out->chunk.pos = get_pos(r);
        out->chunk.data = wire_get_bytes(r, BODY_CHUNK_BYTES);
        break;
    case ROW_OPSTATE:
        out->opstate.pos = get_pos(r);
        out->opstate.key = wire_get_bytes(r, TEXT_MAX);
        out->opstate.value = wire_get_bytes(r, OPVALUE_MAX);
        break;
    default:
        r->bad = true;
    }
    return !r->bad;
}

bool history_encode(struct buf *b, const struct history *h)
{
    bool ok = wire_put_u16(b, (uint16_t)h->n);
    for (unsigned i = 0; i < h->n; i++)
        ok = ok && wire_put_u32(b, h->row[i].epoch) && wire_put_u8(b, h->row[i].mode) &&
             wire_put_u64(b, h->row[i].first_lsn);
    return ok;
}

bool history_decode(struct wire_reader *r, struct history *h)
{
    memset(h, 0, sizeof *h);
    unsigned n = wire_get_u16(r);
    if (n > HISTORY_MAX || (size_t)n * HISTORY_ROW_BYTES > r->n)
        r->bad = true;
    for (unsigned i = 0; i < n && !r->bad; i++) {
        struct history_row *x = &h->row[i];
        x->epoch = wire_get_u32(r);
        x->mode = wire_get_u8(r);
        x->first_lsn = wire_get_u64(r);
        if (x->mode > MODE_FORCED ||
            (i && (x->epoch < x[-1].epoch ||
                   (x->epoch == x[-1].epoch && x->first_lsn <= x[-1].first_lsn))))
            r->bad = true;
    }
    h->n = r->bad ? 0 : n;
    return !r->bad;
}

void history_add(struct history *h, struct history_row row)
{
    while (h->n && h->row[h->n - 1].epoch == row.epoch &&
           h->row[h->n - 1].first_lsn >= row.first_lsn)
        h->n--;
    assert(!h->n || h->row[h->n - 1].epoch <= row.epoch);
    if (h->n && h->row[h->n - 1].epoch == row.epoch && h->row[h->n - 1].mode == row.mode)
        return;
    if (h->n == HISTORY_MAX) {
        /* The oldest is forgotten: what it covered becomes "unknown mode", which is merged as
         * queued: the safe side. */
        memmove(h->row, h->row + 1, (HISTORY_MAX - 1) * sizeof h->row[0]);
        h->n--;
    }
    h->row[h->n++] = row;
}

enum history_mode history_mode_at(const struct history *h, struct pos p)
{
    enum history_mode mode = MODE_UNKNOWN;
    for (unsigned i = 0; i < h->n; i++)
        if (h->row[i].epoch == p.epoch && h->row[i].first_lsn <= p.lsn)
            mode = (enum history_mode)h->row[i].mode;
    return mode;
}

uint32_t history_forced(const struct history *h)
{
    unsigned i = h->n;
    while (i && h->row[i - 1].epoch == h->row[h->n - 1].epoch)
        i--;
    return i < h->n && h->row[i].mode == MODE_FORCED ? h->row[i].epoch : 0;
}

uint64_t history_epoch_end(const struct history *h, uint32_t epoch, struct pos end)
{
    bool found = false;
    for (unsigned i = 0; i < h->n; i++) {
        if (h->row[i].epoch == epoch)
            found = true;
        else if (found)
            return h->row[i].first_lsn - 1 < end.lsn ? h->row[i].first_lsn - 1 : end.lsn;
    }
    return found ? end.lsn : 0;
}

static bool has_epoch(const struct history *h, uint32_t epoch)
{
    for (unsigned i = 0; i < h->n; i++)
        if (h->row[i].epoch == epoch)
            return true;
    return false;
}

struct pos history_shared(const struct history *a, struct pos a_end, const struct history *b,
                          struct pos b_end)
{
    for (unsigned i = a->n; i-- > 0;) {
        uint32_t epoch = a->row[i].epoch;
        if (!has_epoch(b, epoch))
            continue;
        uint64_t x = history_epoch_end(a, epoch, a_end), y = history_epoch_end(b, epoch, b_end);
        return (struct pos){epoch, x < y ? x : y};
    }
    return (struct pos){0, 0};
}
