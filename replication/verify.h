/* Comparing and mending two copies of one queue (protocol 3: "every body is checked before it goes
 * anywhere; a copy that fails is fetched again from the peer"). Core; private to replica.c,
 * verify.c and answer.c.
 *
 * One mechanism for three needs. `batonctl verify`: digests of both stores in chunks ordered by id;
 * a message that differs is looked at again by itself, until both nodes have settled it, so that
 * what is on its way is no difference; then it is mended. A delivery whose body fails its checksum:
 * the same mending, at once. A store that is to be emptied for a full copy: whatever has rotted at
 * the primary is mended from it first, which needs the digests of the primary only. All of it runs
 * on the primary's initiative, one message at a time.
 *
 *   own body bad, the peer's good -> rows are fetched, checked, put back under their positions
 *   the peer's bad, own good      -> sent there, likewise
 *   both bad                      -> VERIFY_NO_COPY: the relay holds the message
 *   bodies good, rows differ      -> both sides' rows through the merge rule, as new changes
 *
 * Every answer of the peer has a time limit; the rows of one message in memory have a cap. */
#ifndef BATON_REPLICATION_VERIFY_H
#define BATON_REPLICATION_VERIFY_H

#include "replication/digest.h"
#include "replication/frames.h"
#include "replication/port.h"
#include "replication/replica.h"

enum {
    VERIFY_RANGE = 256,    /* messages compared at a time: some 8 KiB of digests */
    VERIFY_TODO = 2048,    /* differing messages remembered before they are looked at again */
    VERIFY_WANTED = 1024,  /* bodies that deliveries wait for: more than connections by default */
    VERIFY_PAGE = 1 << 20, /* bytes of rows in one frame, or little more */
    VERIFY_TRIES = 20,     /* looks at a message that keeps changing */
    VERIFY_MENDS = 3,      /* attempts to mend one message */
};

enum verify_stage {
    VS_IDLE,
    VS_OWN,    /* digests of a range, here */
    VS_THEIRS, /* and there */
    VS_LOOK,   /* one message: its digest here */
    VS_SETTLE, /* until the standby has what we have */
    VS_ASK,    /* its digest there */
    VS_AGAIN,  /* and here again: unchanged meanwhile? */
    VS_FETCH,  /* its rows from there, page by page */
    VS_MEND,   /* put back here */
    VS_READ,   /* its rows from here, page by page */
    VS_SEND,   /* put back there */
    VS_MERGE   /* a page of rows through the merge rule */
};

struct verify {
    enum verify_stage stage;
    struct verify_view view;
    uint64_t after; /* ids up to here are compared */
    bool parting;   /* the run before a store is emptied: only what is bad here */
    struct shared *own;
    bool own_more;
    uint64_t own_upto;
    uint64_t todo[VERIFY_TODO], wanted[VERIFY_WANTED];
    unsigned n_todo, n_wanted;
    /* the message in hand */
    uint64_t id;
    bool for_delivery, merging, reading_own;
    unsigned tries, mends;
    uint64_t settle_lsn;
    struct digest here, there;
    bool has_here, has_there;
    uint32_t page; /* where the page asked for begins */
    struct buf rows;
    uint64_t cookie, token, asked_ns, not_before_ns;
};

/* The follower's part: one question at a time. */
struct answering {
    uint64_t cookie, token, id;
    struct buf rows; /* of a message that is being sent, page by page */
};

struct replica;
/* Primary. */
void verify_start(struct replica *r, uint64_t op);
void verify_part(struct replica *r); /* the follower asks, before its store is emptied */
void verify_mend(struct replica *r, uint64_t id); /* a delivery waits for it: RX_MENDED answers */
void verify_go(struct replica *r);                /* at each tick, and when something has moved */
bool verify_reply(struct replica *r, struct store_reply *reply);
void verify_told(struct replica *r, struct slice payload);
void verify_lost(struct replica *r, const char *why); /* the feed, or the epoch, is over */
/* Follower. */
void verify_asked(struct replica *r, struct slice payload);
bool verify_answer(struct replica *r, struct store_reply *reply);
void verify_forget(struct replica *r); /* the link is gone */
#endif
