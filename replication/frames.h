/* The frames of the replication link as bytes (protocol 8 and 10): struct in, bytes out, and back.
 * Core. What a peer sends is read within its bounds or refused. The payload of FRAME_BATCH is an
 * encoded batch (apply.h). */
#ifndef BATON_REPLICATION_FRAMES_H
#define BATON_REPLICATION_FRAMES_H

#include "replication/apply.h"
#include "replication/port.h"

enum { CLUSTER_NAME_MAX = 64, REFUSAL_MAX = 300, FRAME_SMALL_MAX = 16384 };

/* Follower's first frame. Magic, the version that the frame is written in and the newest one that
 * its sender reads come first in every version (node/base/protocol.h): HELLO is written in the
 * oldest that its sender knows, WELCOME and all that follows in the newest that both do. */
struct frame_hello {
    uint16_t version, speaks;
    struct slice cluster;
    uint8_t node;
    uint32_t epoch; /* it follows this epoch's primary and no other */
    struct store_id store;
    struct pos end, committed;
    bool copying, unfit;
    bool unmerged;  /* rows of an earlier meeting are still to be merged */
    uint8_t rejoin; /* enum rejoin_order */
    int64_t written_ms;
    uint64_t purged; /* meta.purged */
    /* Place reached in an unfinished catch-up or copy and the epoch it was read in; 0: none. */
    struct pos reached;
    struct history history;
};

/* The operator's word about a store that was away for longer than `retention` (section 8). */
enum rejoin_order { REJOIN_NONE = 0, REJOIN_MERGE = 1, REJOIN_DISCARD = 2 };

enum frame_plan {
    PLAN_ADOPT = 1, /* adopt the history at `shared`, upload what is unmerged, follow from there */
    PLAN_RESUME,    /* adopted already: go on from `reached` */
    PLAN_COPY,      /* nothing here counts: a new store id, everything from the start */
    PLAN_UPLOAD_COPY, /* adopt and upload first, then come back for a copy */
    PLAN_WAIT, /* away for too long: nothing happens before the operator's word; the link closes */
};
struct frame_welcome {
    uint16_t version, speaks;
    uint8_t node;
    uint32_t epoch;
    uint8_t plan; /* enum frame_plan */
    struct pos shared;
    struct pos known; /* committed position known for the follower's last epoch (section 8) */
    uint64_t last;    /* newest lsn: how far it is */
    struct history history;
};

struct frame_ack {
    struct store_id store;
    uint32_t epoch;
    uint64_t received, durable; /* last consistent lsn in memory, on disk */
    uint64_t taken;             /* bytes of BATCH payloads applied on this connection: the window */
    uint64_t noted;             /* highest number of a NOTE that came on this connection */
};

struct frame_unmerged {
    uint64_t sequence; /* 1, 2, ... on this connection */
    bool last;         /* no rows: that was all */
    uint32_t n_rows;
    struct slice rows; /* n times (u8 enum unmerged_class, row) */
};

/* Questions of the primary to the follower, and its answers (verify.h). One at a time. */
enum ask_what { ASK_DIGESTS = 1, ASK_ROWS, ASK_MEND };
struct frame_ask {
    uint64_t token;
    uint8_t what; /* enum ask_what */
    uint64_t id;  /* DIGESTS: above it; else the message */
    uint64_t upto;
    uint32_t from; /* ROWS: store_request.skip */
    bool more;     /* MEND: further rows follow */
    struct slice rows;
};
struct frame_told {
    uint64_t token;
    uint8_t err; /* enum store_err */
    bool more;
    uint64_t next; /* as in store_reply.first */
    struct slice bytes;
};
bool ask_encode(struct buf *b, const struct frame_ask *a);
bool ask_decode(struct slice s, struct frame_ask *a);
bool told_encode(struct buf *b, const struct frame_told *t);
bool told_decode(struct slice s, struct frame_told *t);
bool verified_encode(struct buf *b, const struct verify_view *v);
bool verified_decode(struct slice s, struct verify_view *v);

bool hello_encode(struct buf *b, const struct frame_hello *h);
/* False with h->version set to what the frame is written in where that is no version that this
 * program reads; 0: not one of us. */
bool hello_decode(struct slice s, struct frame_hello *h);
bool welcome_encode(struct buf *b, const struct frame_welcome *w);
bool welcome_decode(struct slice s, struct frame_welcome *w);
bool ack_encode(struct buf *b, const struct frame_ack *a);
bool ack_decode(struct slice s, struct frame_ack *a);
bool committed_encode(struct buf *b, struct pos committed);
bool committed_decode(struct slice s, struct pos *committed);
bool unmerged_encode(struct buf *b, const struct frame_unmerged *u);
bool unmerged_decode(struct slice s, struct frame_unmerged *u);
bool merged_encode(struct buf *b, uint64_t sequence);
bool merged_decode(struct slice s, uint64_t *sequence);
#endif
