/* Private to replica.c, commit.c, feed.c and follow.c: the state of one node's replication.
 *
 * A node is IDLE, PROMOTING, PRIMARY or CLOSING (its writer is being closed), or it FOLLOWS. In
 * PRIMARY there is at most one incoming link, the feed; in FOLLOWS at most one outgoing. */
#ifndef BATON_REPLICATION_REPLICA_STATE_H
#define BATON_REPLICATION_REPLICA_STATE_H

#include "replication/frames.h"
#include "replication/notes.h"
#include "replication/replica.h"
#include "replication/ring.h"
#include "replication/verify.h"

enum {
    WINDOW_BYTES = 8 << 20, /* of batches sent and not yet applied: bounds the follower's memory */
    UPLOAD_BYTES = 512 << 10,
    WAIT_DIAL_NS = 1000000000, /* until the primary is asked again: the operator hasn't decided, or
                                  it couldn't look its bodies over */
    PARTING_MS_MAX = 60000,    /* without a word of that; each of its steps has a time limit */
    COMMITTED_EVERY_NS = 20000000, /* bounded delay of a committed lsn that no batch carries */
    NOTE_FRAMES_MAX = 1024,        /* on their way; then all is told anew when these have come */
};

enum replica_role { IDLE, PROMOTING, PRIMARY, CLOSING, FOLLOWS };

enum feed_state {
    FEED_NONE,     /* no link */
    FEED_HELLO,    /* connected; its HELLO is due */
    FEED_WELCOMED, /* the plan was sent; its first acknowledgement is due */
    FEED_UPLOAD,   /* only uploads; it comes back for a full copy */
    FEED_READING,  /* catches up from the store */
    FEED_RING,     /* caught up: gets what the ring has */
};
struct feed {
    enum feed_state state;
    uint64_t link;
    uint16_t version; /* that both read; rows are recoded where it isn't this program's newest */
    struct store_id store; /* as told in HELLO; after PLAN_COPY as told by the first ACK */
    uint8_t plan;
    bool unfit;         /* as told in HELLO: its store is damaged */
    bool copies;        /* a full copy, not complete yet: what was purged before is no news to it */
    uint64_t remembers; /* its rows are merged while nothing done above that lsn is forgotten */
    uint64_t since_ns;  /* attached */
    uint64_t start;     /* where reading began */
    uint64_t cursor;    /* last lsn sent */
    uint64_t read;      /* cookie of the read under way; 0: none */
    uint64_t received, durable; /* acknowledged on this link */
    uint64_t sent, taken;       /* bytes of BATCH payloads */
    uint64_t notes_sent, noted; /* newest NOTE sent and acknowledged */
    bool notes_due;             /* all of them, anew */
    uint64_t committed_sent;
    bool history_due;    /* a history row was written since the last batch with a history */
    uint64_t history_at; /* `sent` after that batch: it is durable there once taken is as high */
    uint64_t merge_sequence; /* last UNMERGED that came */
    uint64_t merge_cookie;   /* SR_MERGE under way; 0: none */
    uint64_t merge_lsn;      /* the rows of the last merge are at or below */
    struct shared *merging;  /* its rows; NULL: none */
    bool merge_waits;        /* for that lsn to be committed */
    bool merge_last, merged;
};

enum take_back { TB_NONE, TB_DURABLE, TB_MODE, TB_BOTH, TB_READY };

struct primary {
    uint32_t epoch;
    uint64_t first;         /* of the epoch */
    uint64_t own, numbered; /* durable here; given out */
    uint64_t committed, settled;
    /* The newest NOTE of delivery, and up to which one final dots may go (section 9). */
    uint64_t note_number, noted;
    bool waiting; /* paired, or a change of the record is pending (protocol 4.5) */
    struct store_id waits_for;
    uint64_t waiting_since_ns;
    bool slow_told;
    uint64_t detached_ns;
    uint32_t in_doubt;          /* at its beginning */
    uint64_t purged;            /* meta.purged, as far as storage told it by now */
    struct store_id copy_store; /* which got the newest full copy, or a part of it */
    uint64_t copy_purged;       /* meta.purged when that began */
    struct pos known;           /* committed in the epoch before: the old primary must hold it */
    /* Highest lsn that a store acknowledged in this epoch. */
    struct store_id acked_store;
    uint64_t acked;
    uint64_t drop_cookie; /* SR_MODE(solo) under way; 0: none */
    enum take_back take_back;
    uint64_t take_back_target; /* own durable end when the waiting began */
    uint64_t take_back_notes;  /* and the newest NOTE: its dots may be out already */
    uint64_t take_back_cookie;
    bool draining, drained; /* writer closing for a hand-over; standby has everything */
    uint64_t drain_cookie;
    bool writer_closed;
    uint64_t committed_told_ns;
    uint64_t committed_kept;   /* told to the own store */
    struct shared *told_again; /* of what was merged last: see upload.c; NULL: nothing */
    struct store_id told_store;
    struct ring ring;
    struct feed feed;
};

/* What a primary that keeps to its window can have sent ahead. */
enum { HELD_MAX = WINDOW_BYTES + FRAME_MAX };

enum follow_state {
    FOLLOW_SEEN,    /* the epoch becomes durable here before any handshake */
    FOLLOW_DIAL,    /* no link */
    FOLLOW_SETTLE,  /* linked; writes of an earlier link are still under way */
    FOLLOW_HELLO,   /* WELCOME is due */
    FOLLOW_ADOPT,   /* adopting, or emptying the store for a copy */
    FOLLOW_UPLOAD,  /* uploads before a full copy */
    FOLLOW_ATTACHED /* applies batches; uploads beside it */
};
struct follow {
    enum follow_state state;
    uint32_t epoch;
    uint8_t primary; /* NODE_A or NODE_B */
    uint64_t link;
    uint16_t version; /* as the primary's WELCOME says */
    uint64_t session; /* new with each link: replies of older requests don't count */
    uint64_t cookie;  /* of the step under way (EPOCH_SEEN, ADOPT, WIPE, UNMERGED, UNMARK) */
    uint64_t received, durable, taken, noted;
    uint64_t held;         /* bytes of batches under way */
    uint64_t primary_last; /* its newest lsn, as far as told */
    struct pos committed;
    uint64_t upload_sequence;
    uint32_t upload_skip;     /* an unfit store's rows that the primary has already */
    struct shared *uploading; /* (class, row)s on their way: unmarked when MERGED */
    uint32_t uploading_rows;
    bool uploaded;        /* nothing unmerged is left */
    uint64_t told_purged; /* in HELLO */
    bool copy_after;      /* PLAN_UPLOAD_COPY */
    bool parting;         /* the primary takes what is whole only here; then: asks_to_empty */
    uint64_t parting_ns;  /* when it last told of that */
    bool asks_to_empty;   /* PE_EMPTY was said, as `session`, and isn't answered */
    uint64_t dial_at_ns;  /* hung up until then, waiting for the operator; 0: not */
};

/* A batch on its way into the follower's store; replies come in the same order. */
struct pending {
    uint64_t session, last, bytes;
    uint32_t epoch;
    bool complete;
};

struct replica {
    struct replica_config cfg;
    char cluster[CLUSTER_NAME_MAX + 1];
    replica_emit emit;
    void *ctx;
    struct store_meta meta; /* after the last reply of the storage thread */
    enum replica_role role;
    uint64_t now;
    int64_t wall_ms;
    uint64_t cookies; /* last one given out */
    uint64_t ids;     /* store ids made */
    struct buf out;   /* scratch for frames */
    uint64_t closing_cookie, promote_cookie;
    bool promote_paired;
    struct store_id promote_waits_for;
    struct primary p;
    struct follow f;
    struct pos reached; /* follower: see frame_hello */
    struct verify verify;
    struct answering answering;
    bool waits; /* follower: away for too long, the operator has to decide */
    struct pos waits_shared;
    bool blank;        /* follower: emptied by this process, and nothing came since */
    uint64_t emptying; /* follower: the session whose SR_WIPE was posted last */
    enum rejoin_order order;
    /* What is noted: a primary's own, or what the followed one told. It stays when the epoch ends,
     * for the takeover that may follow, until a primary tells anew. */
    struct notes notes;
    uint32_t noted_in; /* epoch */
    struct pending *pending;
    size_t n_pending, cap_pending, head_pending;
    unsigned writes; /* follower: requests under way that change the store, of any session */
    uint64_t sessions;
    bool follow_later; /* PX_FOLLOW came while the writer was closing */
    struct record follow_record;
};

/* replica.c */
void replica_emit_fx(struct replica *r, const struct replica_effect *fx);
void replica_log(struct replica *r, bool ok, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void replica_report(struct replica *r, enum pair_event_type type, const struct store_id *store);
void replica_close_link(struct replica *r, uint64_t link, const char *why);
/* Sends r->out as payload; clears it. */
void replica_send(struct replica *r, uint64_t link, enum frame_type type, struct shared *rest);
/* `before`, and behind it all that is noted as records: what is in doubt (section 9). */
struct shared *replica_noted(const struct replica *r, struct slice before);
/* Posts the request with a fresh cookie, which it returns. Takes q->bytes. */
uint64_t replica_store(struct replica *r, struct store_request *q);

/* commit.c: the commit rule, drop, take back, drain (protocol 4, 5). */
void commit_begin(struct replica *r, const struct store_reply *promoted);
void commit_update(struct replica *r); /* after any move of own or of the standby */
void commit_take_back(struct replica *r, const struct store_id *store);
void commit_paired(struct replica *r, const struct store_id *store);
void commit_drop(struct replica *r);
void commit_drain(struct replica *r);
bool commit_reply(struct replica *r, const struct store_reply *reply);
void commit_feed_lost(struct replica *r); /* the feed ended or another store attached */
void commit_tick(struct replica *r);
bool commit_standby(const struct primary *p); /* the store that is waited for is attached */

/* feed.c: the primary's side of the link (protocol 8, 10). */
void feed_link_up(struct replica *r, uint64_t link);
void feed_lost(struct replica *r, const char *why); /* why: close it; NULL: it is gone already */
void feed_frame(struct replica *r, uint8_t type, struct slice payload);
void feed_pump(struct replica *r);
/* Then nothing was delivered without that store. */
static inline bool feed_waited_for(const struct replica *r, const struct store_id *store)
{
    return r->p.waiting && store_id_eq(&r->p.waits_for, store);
}
void feed_committed(struct replica *r); /* tell the committed lsn where it is due */
bool feed_reply(struct replica *r, struct store_reply *reply);
void feed_note(struct replica *r, struct slice frame); /* a NOTE that delivery has just made */
void feed_send_notes(struct replica *r);               /* all that is noted, anew */

/* upload.c: merging what only the follower has (protocol 8). At the primary: */
void upload_frame(struct replica *r, struct slice payload);
bool upload_reply(struct replica *r, struct store_reply *reply);
void upload_noted(struct replica *r); /* a note was made, maybe while a merge is under way */
void upload_epoch_over(struct replica *r);
void upload_merged(struct replica *r); /* what was merged may be durable and committed now */
/* At the follower: */
void upload_more(struct replica *r);                            /* begins, or goes on */
void upload_rows(struct replica *r, struct store_reply *reply); /* of upload_more() */
void upload_taken(struct replica *r, struct slice payload);     /* MERGED */
void upload_forget(struct replica *r);

/* follow.c: the follower's side. */
void follow_begin(struct replica *r, const struct record *record);
void follow_stop(struct replica *r);
void follow_link_up(struct replica *r, uint64_t link);
void follow_lost(struct replica *r, const char *why);
void follow_tick(struct replica *r);
void follow_part(struct replica *r); /* this store is to be emptied */
void follow_may_empty(struct replica *r, uint64_t session);
/* A request that changes the store: HELLO waits for all of them. */
uint64_t follow_write(struct replica *r, struct store_request *q);
void follow_rejoin(struct replica *r, bool discard, uint64_t op);
void follow_frame(struct replica *r, uint8_t type, struct slice payload);
bool follow_reply(struct replica *r, struct store_reply *reply);
#endif
