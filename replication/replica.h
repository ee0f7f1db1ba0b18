/* One node's part in replication: the primary's commit rule, ring and feed, the follower's rejoin
 * and apply, the handshake between them (protocol 4, 5 "order" columns, 8, 10). Core: events in,
 * effects out, time passed in; no I/O.
 *
 * Happy path of a message: storage hands over an own batch -> ring, BATCH frame to the follower;
 * own transaction durable -> own = last; follower: batch in one transaction -> ACK(store, epoch,
 * received, durable) -> committed = waiting ? min(own, ack) : own -> watermark to the relay, which
 * sends 250. */
#ifndef BATON_REPLICATION_REPLICA_H
#define BATON_REPLICATION_REPLICA_H

#include "health/pair.h"
#include "replication/port.h"

struct replica_config {
    unsigned self;
    uint64_t standby_timeout_ns, retention_ms, quarantine_ms;
    size_t ring_bytes;     /* cap of the ring of own batches; default 64 MiB */
    size_t catch_up_bytes; /* of one read; default 1 MiB */
    size_t window_bytes;   /* of batches sent and not yet applied there; default 8 MiB */
    size_t repair_bytes;   /* rows of one message that is mended; default 64 MiB */
    bool single;           /* there is no other node: no RE_BATCH comes */
    uint8_t random[16];    /* of this process: store ids for full copies are made from it */
};

enum replica_event_type {
    RE_PAIR,    /* fx: PX_PROMOTE, SERVE, FOLLOW, STEP_DOWN, DROP, TAKE_BACK, PAIRED, DRAIN,
                   EPOCH_SEEN, EMPTY */
    RE_STORE,   /* reply of the storage thread */
    RE_BATCH,   /* own batch handed over, not yet durable */
    RE_DURABLE, /* own transactions up to pos are durable */
    RE_NOTES,   /* payload: a frame of notes.h, as delivery makes them in the running epoch */
    RE_LINK_UP, /* an authenticated connection with the peer: outgoing (we follow) or incoming;
                   `link` names it */
    RE_LINK_DOWN,
    RE_FRAME,       /* one frame, type and payload, from `link` */
    RE_DRAINED_OUT, /* `link` has handed all to the kernel: the feed may go on (back-pressure) */
    RE_TICK,        /* every 50 ms or so */
    RE_VERIFY,      /* an operator wants both stores compared; answered by RX_OP_DONE with op */
    RE_MEND,        /* a delivery found the body of message id damaged; answered by RX_MENDED */
    RE_REJOIN,      /* the operator's word about a store that was away for too long. flag: discard;
                       answered by RX_OP_DONE with op */
};
struct replica_event {
    enum replica_event_type type;
    const struct pair_effect *fx;
    struct store_reply *reply;
    struct own_batch *batch;
    struct pos pos;
    uint64_t link;
    bool outgoing;
    uint8_t frame;
    struct slice payload;
    bool flag;
    uint64_t op, id;
};

/* What became of a message whose body failed its checksum. */
enum verify_mended {
    VERIFY_MENDED,  /* put back from the other copy */
    VERIFY_SAME,    /* nothing is wrong (any more) */
    VERIFY_NO_COPY, /* neither node has it as it was accepted */
    VERIFY_AWAY     /* the other node can't be asked now */
};

enum replica_effect_type {
    RX_SEND,       /* frame, payload on link */
    RX_DIAL,       /* try to connect to the peer, again and again (back-off 50 ms .. 1 s), until
                      RX_HANG_UP */
    RX_HANG_UP,    /* no more dialling */
    RX_CLOSE,      /* close link; text says why */
    RX_STORE,      /* request for the storage thread (or its reader) */
    RX_WATERMARK,  /* epoch, committed, settled (protocol 4.3, 4.5), noted (9) */
    RX_EPOCH_OVER, /* the epoch has ended here: whatever waits in it stays undecided */
    RX_REPORT,     /* an event for the pair core */
    RX_MENDED,     /* id, mended: also for what a comparison found; the relay holds NO_COPY */
    RX_OP_DONE,    /* op, ok, text: the answer to an operator */
    RX_LOG,        /* text, for the log; ok = false: warning */
};
struct replica_effect {
    enum replica_effect_type type;
    uint64_t link;
    uint8_t frame;
    struct slice payload; /* valid during the call */
    struct shared
        *shared; /* SEND: payload continues with these bytes (not copied; borrowed), may be NULL */
    struct store_request *request; /* copied by the driver */
    uint32_t epoch;
    uint64_t committed, settled, noted;
    struct pair_event report;
    uint64_t op, id;
    uint8_t mended; /* enum verify_mended */
    bool ok;
    char text[200];
};
typedef void (*replica_emit)(void *ctx, const struct replica_effect *fx);

/* Frames on the link: u32 length (capped, FRAME_MAX), u8 type, payload. Versioned in HELLO. */
enum frame_type {
    FRAME_HELLO = 1, /* follower: version, cluster, node, store meta with history */
    FRAME_WELCOME,   /* primary: version, epoch, history; plan: adopt at `shared`, resume, or full
                        copy */
    FRAME_REFUSED,   /* text; the connection closes */
    FRAME_BATCH,     /* encoded batch; without rows where only the history has grown */
    FRAME_ACK, /* store id, epoch, received lsn, durable lsn, bytes applied, notes received. The
                  first one on a link says that the follower has adopted, and is now attached */
    FRAME_COMMITTED, /* epoch, committed: when there is no batch to carry it */
    FRAME_UNMERGED,  /* follower: sequence, n rows as (class, row); empty and last = true: that was
                        all. The next one only after MERGED */
    FRAME_MERGED,    /* primary: up to this sequence durable (and committed as the mode asks) */
    FRAME_NOTE,      /* deliveries about to get their final dot (section 9); the first one after
                        the attachment replaces all that was noted */
    FRAME_PING,
    FRAME_ASK,      /* primary: a question about the follower's store (verify.h) */
    FRAME_TOLD,     /* follower: its answer */
    FRAME_VERIFY,   /* follower: its operator wants both stores compared; or, before it is attached,
                       its store is to be emptied (verify.h) */
    FRAME_VERIFIED, /* primary: how that stands */
};
enum { FRAME_MAX = 16 << 20 };

struct replica_view { /* for status */
    bool attached, caught_up, waiting;
    bool rejoin_waits;   /* away for too long: batonctl rejoin --merge | --discard */
    uint64_t shared_lsn; /* then: what it shares with the primary ends here */
    uint64_t own_lsn, committed, standby_received, standby_durable;
    uint64_t lag_changes, lag_ns;
    struct store_id follower;
    struct verify_view verify;
    char progress[120]; /* "full copy: 1234 of ~5000 changes" */
};

struct replica;
struct replica *replica_new(const struct replica_config *c, const char *cluster,
                            const struct store_meta *meta, replica_emit emit, void *ctx);
void replica_free(struct replica *r);
void replica_step(struct replica *r, const struct replica_event *ev, uint64_t now_ns,
                  int64_t wall_ms);
void replica_view(const struct replica *r, uint64_t now_ns, struct replica_view *out);
#endif
