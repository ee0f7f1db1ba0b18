/* DATA, BDAT and the finished message as rows. Core; see session.h. */
#include <assert.h>
#include <stdlib.h>

#include "node/smtp/session_state.h"

void text_begin(struct smtp_session *s, bool chunked)
{
    assert(s->tx && !s->tx->text);
    struct text *t = s->tx->text = xcalloc(1, sizeof *t);
    t->chunked = chunked;
    data_begin(&t->decoder, !chunked);
    header_begin(&t->header);
}

/* From here on the text is read to its end and refused with this. */
void text_doom(struct smtp_session *s, const char *reply, bool close)
{
    struct text *t = s->tx->text;
    if (t->doom && !close)
        return;
    if (!t->doom)
        session_emit(s, SMTP_FX_DISCARD, slice_of(NULL, 0));
    t->doom = reply;
    t->doom_close = close;
}

static void on_text(void *ctx, struct slice bytes)
{
    struct smtp_session *s = ctx;
    struct text *t = s->tx->text;
    if (t->doom)
        return;
    t->size += bytes.n;
    if (t->size > s->policy->message_bytes) {
        text_doom(s, "552 5.3.4 Message size exceeds the limit", false);
        return;
    }
    header_feed(&t->header, bytes);
    session_emit(s, SMTP_FX_BODY, bytes);
}

/* Bytes came: each buys time, so that a trickle runs out of it. */
static void progress(struct smtp_session *s, size_t n)
{
    uint64_t most = s->now_ms + s->policy->data_ms;
    uint64_t bought = s->deadline_ms + (uint64_t)n * 1000 / DATA_RATE_BYTES_PER_S;
    if (!s->tx || !s->tx->text || !s->tx->text->doom_close)
        s->deadline_ms = bought < most ? bought : most;
}

/* Reads over what is refused, but not for ever. False: given up. */
static bool skip(struct smtp_session *s, size_t n)
{
    struct text *t = s->tx->text;
    if (!t->doom)
        return true;
    t->skipped += n;
    if (t->skipped <= s->policy->message_bytes + SKIP_MAX_BYTES)
        return true;
    session_bye(s, true, "%s", t->doom);
    return false;
}

static void refuse_text(struct smtp_session *s)
{
    struct text *t = s->tx->text;
    const char *reply = t->doom;
    if (t->doom_close) {
        session_bye(s, false, "%s", reply);
        return;
    }
    session_forget(s);
    session_set(s, ST_COMMAND);
    session_refuse(s, reply);
}

static void check_bad(struct smtp_session *s)
{
    if (s->tx->text->decoder.bad)
        text_doom(s, "550 5.6.0 Bare CR, bare LF or NUL in the message", false);
}

static void text_end(struct smtp_session *s)
{
    struct text *t = s->tx->text;
    if (!t->doom && t->header.received >= s->policy->hops)
        text_doom(s, "554 5.4.6 Too many hops", false);
    if (t->doom) {
        refuse_text(s);
        return;
    }
    session_set(s, ST_COMMIT);
    session_emit(s, SMTP_FX_COMPLETE, slice_of(NULL, 0));
}

size_t text_data(struct smtp_session *s, struct slice in)
{
    struct text *t = s->tx->text;
    size_t n = data_decode(&t->decoder, in, on_text, s);
    check_bad(s);
    progress(s, n);
    if (t->decoder.ended)
        text_end(s);
    else
        skip(s, n);
    return n;
}

static void chunk_end(struct smtp_session *s)
{
    uint64_t size = s->bdat_size;
    session_set(s, ST_COMMAND);
    if (s->bdat_refusal) {
        session_refuse(s, s->bdat_refusal);
        return;
    }
    struct text *t = s->tx->text;
    if (s->bdat_last) {
        data_finish(&t->decoder, on_text, s);
        check_bad(s);
        text_end(s);
    } else if (t->doom_close) {
        session_bye(s, false, "%s", t->doom);
    } else if (t->doom) {
        session_error(s, t->doom); /* counted as refused when its last chunk has come */
    } else {
        session_reply(s, "250 2.0.0 %llu octets received", (unsigned long long)size);
    }
}

void text_bdat(struct smtp_session *s, uint64_t n, bool last, const char *refusal)
{
    uint64_t limit = s->policy->message_bytes;
    s->bdat_left = s->bdat_size = n;
    s->bdat_last = last;
    s->bdat_refusal = refusal;
    if (!refusal && !s->tx->text)
        text_begin(s, true);
    assert(refusal || s->tx->text->chunked);
    if (!refusal && (n > limit || s->tx->text->size > limit - n))
        text_doom(s, "552 5.3.4 Message size exceeds the limit", false);
    if (n > limit + SKIP_MAX_BYTES) {
        session_bye(s, true, "552 5.3.4 Message size exceeds the limit");
        return;
    }
    session_set(s, ST_BDAT);
    if (n == 0)
        chunk_end(s);
}

size_t text_bdat_input(struct smtp_session *s, struct slice in)
{
    size_t n = s->bdat_left < in.n ? (size_t)s->bdat_left : in.n;
    if (!s->bdat_refusal) {
        size_t used = data_decode(&s->tx->text->decoder, slice_of(in.p, n), on_text, s);
        assert(used == n);
        (void)used;
        check_bad(s);
        if (!skip(s, n))
            return n;
    }
    progress(s, n);
    s->bdat_left -= n;
    if (s->bdat_left == 0)
        chunk_end(s);
    return n;
}

static void fill_rcpts(const struct transaction *tx, struct smtp_message *out)
{
    const uint8_t *b = out->memory.data;
    out->n = tx->n;
    out->rcpts = xcalloc(tx->n, sizeof out->rcpts[0]);
    for (unsigned i = 0; i < tx->n; i++) {
        const struct rcpt_note *r = &tx->rcpts[i];
        out->rcpts[i] = (struct row_recipient){
            .id = out->row.id,
            .index = i,
            .state = RCPT_QUEUED,
            .notify = r->notify,
            .next_ms = out->row.received_ms,
            .address = slice_of(b + r->at, r->address_n),
            .domain = slice_of(b + r->at + r->address_n, r->domain_n),
            .orcpt = slice_of(b + r->at + r->address_n + r->domain_n, r->orcpt_n),
        };
    }
}

void smtp_session_message(struct smtp_session *s, uint64_t id, int64_t wall_ms, const char *date,
                          struct smtp_message *out)
{
    assert(s->state == ST_COMMIT && s->tx && s->tx->text);
    struct transaction *tx = s->tx;
    const struct header_scan *h = &tx->text->header;
    memset(out, 0, sizeof *out);
    s->message_id = id;
    out->memory = tx->arena;
    buf_init(&tx->arena, ENVELOPE_MAX_BYTES);
    struct buf *m = &out->memory;
    /* Header lines and texts for people fit besides the envelope whatever its size. */
    m->max += 2 * 16384;
    size_t campaign = m->len;
    buf_append(m, h->campaign, h->campaign_n);
    size_t origin = m->len;
    if (s->user)
        buf_printf(m, "%s, %s [%s]", s->user, s->helo, s->client.peer);
    else
        buf_printf(m, "%s [%s]", s->helo, s->client.peer);
    size_t prefix = m->len;
    struct buf lines;
    buf_init(&lines, 16384);
    struct header_origin o = {
        .helo = slice_str(s->helo),
        .peer = s->client.peer,
        .hostname = s->policy->hostname,
        .tls = s->tls ? s->tls : "",
        .date = date,
        .esmtp = s->esmtp,
        .auth = s->user != NULL,
        .utf8 = tx->flags & MSG_UTF8,
        .id = id,
        .wall_ms = wall_ms,
    };
    if (tx->n == 1)
        o.only_rcpt = slice_of(m->data + tx->rcpts[0].at, tx->rcpts[0].address_n);
    bool ok = header_prefix(&lines, h, &o) && buf_append_slice(m, buf_slice(&lines));
    assert(ok); /* every part has a cap of its own, together far below this one */
    (void)ok;
    buf_free(&lines);
    out->row = (struct row_message){
        .id = id,
        .state = MESSAGE_LIVE,
        .flags = tx->flags,
        .received_ms = wall_ms,
        .size = tx->text->size,
        .recipients = tx->n,
        .sender = slice_of(m->data, tx->sender_n),
        .envid = slice_of(m->data + tx->sender_n, tx->envid_n),
        .campaign = slice_of(m->data + campaign, origin - campaign),
        .origin = slice_of(m->data + origin, prefix - origin),
        .prefix = slice_of(m->data + prefix, m->len - prefix),
    };
    fill_rcpts(tx, out);
}

void smtp_message_free(struct smtp_message *m)
{
    free(m->rcpts);
    m->rcpts = NULL;
    buf_free(&m->memory);
}
