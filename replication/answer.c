/* See verify.h: the follower's side. One question at a time: while its store is at one, which a
 * disk that hangs may make longer than the primary waits, the next is turned down. */
#include <assert.h>

#include "replication/replica_state.h"

static void tell(struct replica *r, const struct frame_told *t)
{
    bool ok = told_encode(&r->out, t);
    assert(ok);
    (void)ok;
    replica_send(r, r->f.link, FRAME_TOLD, NULL);
}

static void turn_down(struct replica *r, const struct frame_ask *q)
{
    tell(r, &(struct frame_told){.token = q->token, .err = STORE_FULL});
}

void verify_asked(struct replica *r, struct slice payload)
{
    struct answering *a = &r->answering;
    struct frame_ask q;
    if (!ask_decode(payload, &q)) {
        follow_lost(r, "malformed question");
        return;
    }
    if (a->cookie) {
        turn_down(r, &q);
        return;
    }
    a->token = q.token;
    struct store_request s = {.first = q.id};
    if (q.what == ASK_DIGESTS) {
        s.type = SR_DIGESTS;
        s.pos.lsn = q.upto;
        s.limit = 4 * VERIFY_RANGE;
    } else if (q.what == ASK_ROWS) {
        s.type = SR_ROWS;
        s.skip = q.from;
        s.limit = VERIFY_PAGE;
    } else {
        if (a->id != q.id || !a->rows.max) {
            buf_free(&a->rows);
            buf_init(&a->rows, r->cfg.repair_bytes);
            a->id = q.id;
        }
        if (!buf_append_slice(&a->rows, q.rows)) {
            verify_forget(r);
            turn_down(r, &q);
            return;
        }
        if (q.more) {
            tell(r, &(struct frame_told){.token = q.token});
            return;
        }
        s.type = SR_MEND;
        s.bytes = shared_new(buf_slice(&a->rows));
        verify_forget(r);
        a->token = q.token;
    }
    a->cookie = replica_store(r, &s);
}

void verify_forget(struct replica *r)
{
    buf_free(&r->answering.rows);
    r->answering = (struct answering){.cookie = 0};
}

bool verify_answer(struct replica *r, struct store_reply *reply)
{
    struct answering *a = &r->answering;
    if (reply->type != SR_DIGESTS && reply->type != SR_ROWS && reply->type != SR_MEND)
        return false;
    if (!a->cookie || reply->cookie != a->cookie || r->role != FOLLOWS || !r->f.link)
        return true; /* of a link that is gone */
    a->cookie = 0;
    tell(r, &(struct frame_told){.token = a->token,
                                 .err = (uint8_t)reply->err,
                                 .more = reply->more,
                                 .next = reply->first,
                                 .bytes = reply->bytes && !reply->err
                                              ? slice_of(reply->bytes->data, reply->bytes->n)
                                              : (struct slice){NULL, 0}});
    return true;
}
