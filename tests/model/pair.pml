/* Modes and takeovers over an atomic register whose changes may hang (protocol 4, 5, 8; health/roles.c,
 * replication/commit.c; incidents 1, 3 to 8, 12, 13). Nodes 0 (a) and 1 (b); the register itself is
 * register.pml's matter, time is lease.pml's: here silence may be noticed at any moment.
 *
 * Links are cut, heartbeats lost and processes slow in that their steps just don't happen. A node that
 * is down is one that takes no step; a crash forgets what isn't durable.
 *
 * Bounds: VERSIONS of the record, MESSAGES, CRASHES, SWAPS of a disk for an empty one or back. */
#ifndef VERSIONS
#define VERSIONS 4
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef SWAPS
#define SWAPS 1
#endif

#define OTHER(n) (1 - (n))
#define STORE(n, d) ((n) * 2 + (d))
#define SET(mask, i) (((mask) >> (i)) & 1)
#define ALL ((1 << MESSAGES) - 1)

/* A record names for each node no store (0) or disk d of it (d + 1). a has even, b odd epochs. */
#define PAIRED_RECORD(na, nb) ((na) && (nb))
#define PRIMARY(e) ((e) & 1)
#define NEXT_EPOCH(e, n) ((e) + 1 + ((e) + 1 + (n)) % 2)

/* What it holds, and what each node was told last (version 0: nothing yet). named: at [node]; known_*: at
 * [knower * 2 + node]. */
byte version = 1, epoch = 2;
byte named[2];
byte known_version[2], known_epoch[2];
byte known_named[4];

/* A change on its way: 1 sent, 2 it took effect; it leads from version want_from. */
byte want[2], want_from[2], want_epoch[2];
byte want_named[4];
/* What its proposer thinks of it. */
#define NONE 0
#define PENDING 1
#define UNKNOWN 2
#define SETTLED 3 /* decided, not yet acted upon */
byte change[2];

#define START 0
#define FOLLOW 1
#define CLAIM 2
#define SOLO 3
#define TAKE_BACK 4
#define PAIRED 5
#define DROP 6
#define RELEASE 7
#define RELINQUISHED 8
byte phase[2];
#define SERVES(n) (phase[n] >= SOLO && phase[n] <= RELEASE)

/* Stores, durable: which messages disk d of node n holds, which of them under a history row "solo",
 * and whether the last row says so. disk: which one is in the machine. */
byte has[4], solo_rows[4];
bit last_solo[4];
bit disk[2];

/* A primary's epoch: numbers given out, durable here, of each message (1: all there was before). */
byte own_epoch[2], numbered[2], own[2];
byte lsn[4]; /* [node * 2 + message] */
byte sessions[2]; /* messages whose sender waits for a reply */
bit waits[2], waits_for[2];
/* Its follower: attached, with which disk, what it has applied, what it has acknowledged. */
bit attached[2], follower[2];
byte applied[2], acked[2];
/* A take-back: target, row "paired" written, lost meanwhile. */
byte target[2];
bit row_paired[2], lost[2];

/* The books. */
byte messages, acknowledged, crashes, swaps;
unsigned used : 24;
bit calm; /* faults have ended */

byte x;

/* Invariant 1, a pending change counted as its stricter side. */
#define HOLDS(na, nb) \
    (((na) == 0 || (acknowledged & ~has[STORE(0, (na) - 1)]) == 0) && \
     ((nb) == 0 || (acknowledged & ~has[STORE(1, (nb) - 1)]) == 0))
#define MAY_LAND(n) (want[n] == 1 && want_from[n] == version)
inline check()
{
    assert(HOLDS(named[0], named[1]));
    assert(!MAY_LAND(0) || HOLDS(want_named[0], want_named[1]));
    assert(!MAY_LAND(1) || HOLDS(want_named[2], want_named[3]))
}

/* ---- the register ---- */

#define NAMED(n) (known_named[(n) * 2 + (n)] == disk[n] + 1)
#define KNOWN_PAIRED(n) (known_named[(n) * 2] && known_named[(n) * 2 + 1])

inline detach(p)
{
    attached[p] = 0; follower[p] = 0; applied[p] = 0;
#ifndef MUTANT_old_acknowledgement
    acked[p] = 0;
#endif
    if
    :: phase[p] == TAKE_BACK -> lost[p] = 1
    :: else
    fi
}

inline learn(n)
{
    known_version[n] = version; known_epoch[n] = epoch;
    known_named[(n) * 2] = named[0]; known_named[(n) * 2 + 1] = named[1];
    if
    :: attached[OTHER(n)] && own_epoch[OTHER(n)] != epoch -> detach(OTHER(n))
    :: else
    fi
}

inline forget_change(n)
{
    want[n] = 0; want_from[n] = 0; want_epoch[n] = 0; want_named[(n) * 2] = 0; want_named[(n) * 2 + 1] = 0
}

/* Epoch e, our own disk, and `other` as the other node's part of in_sync. */
inline ask(n, e, other)
{
    want[n] = 1; want_from[n] = known_version[n]; want_epoch[n] = e;
    want_named[(n) * 2 + n] = disk[n] + 1;
    want_named[(n) * 2 + 1 - n] = other;
    change[n] = PENDING;
    check()
}

inline land(n)
{
    want[n] = 2;
    version++; epoch = want_epoch[n];
    named[0] = want_named[(n) * 2]; named[1] = want_named[(n) * 2 + 1];
    check()
}

#define IS_OURS(n) (want[n] == 2 && version == want_from[n] + 1)

/* ---- roles ---- */

#ifdef MUTANT_restart_only_at_start
bit stepped_down[2];
#define STEPPED_DOWN(n, yes) stepped_down[n] = yes
#else
#define STEPPED_DOWN(n, yes) skip
#endif

inline end_epoch(n)
{
    STEPPED_DOWN(n, 1);
    detach(n);
    own_epoch[n] = 0; numbered[n] = 0; own[n] = 0; lsn[(n) * 2] = 0; lsn[(n) * 2 + 1] = 0;
    sessions[n] = 0; waits[n] = 0; waits_for[n] = 0; target[n] = 0; row_paired[n] = 0; lost[n] = 0;
    phase[n] = START;
    known_version[n] = 0; known_epoch[n] = 0; known_named[(n) * 2] = 0; known_named[(n) * 2 + 1] = 0
}

/* Into the epoch that the record gives us. */
inline promote(n)
{
    assert(NAMED(n));                    /* invariant 6 */
    assert(PRIMARY(known_epoch[n]) == n && !SET(used, known_epoch[n])); /* invariant 2 */
    assert((acknowledged & ~has[STORE(n, disk[n])]) == 0 || version > known_version[n]);
    used = used | (1 << known_epoch[n]);
    own_epoch[n] = known_epoch[n];
    numbered[n] = 1; own[n] = 1;
    if
    :: SET(has[STORE(n, disk[n])], 0) -> lsn[(n) * 2] = 1
    :: else
    fi;
    if
    :: SET(has[STORE(n, disk[n])], 1) -> lsn[(n) * 2 + 1] = 1
    :: else
    fi;
    if
    :: KNOWN_PAIRED(n) ->
       phase[n] = PAIRED; waits[n] = 1; waits_for[n] = known_named[(n) * 2 + OTHER(n)] - 1;
       last_solo[STORE(n, disk[n])] = 0
    :: else ->
       phase[n] = SOLO;
#ifndef MUTANT_promoted_without_row
       last_solo[STORE(n, disk[n])] = 1
#else
       last_solo[STORE(n, disk[n])] = 0
#endif
    fi
}

/* The next own epoch: for a takeover alone, for a restart with in_sync as it was. */
inline claim(n, o, keep)
{
    phase[n] = CLAIM;
    if
    :: keep -> x = known_named[(n) * 2 + o]
    :: else
    fi;
    ask(n, NEXT_EPOCH(known_epoch[n], n), x);
    x = 0
}

/* History row "solo" from committed + 1, durable; then no more waiting. */
inline go_solo(n)
{
#ifndef MUTANT_no_row_after_take_back
    last_solo[STORE(n, disk[n])] = 1;
    solo_rows[STORE(n, disk[n])] = solo_rows[STORE(n, disk[n])] | (has[STORE(n, disk[n])] & sessions[n] & ~acknowledged);
#else
    if
    :: lost[n] || row_paired[n]
    :: else ->
       last_solo[STORE(n, disk[n])] = 1;
       solo_rows[STORE(n, disk[n])] = solo_rows[STORE(n, disk[n])] | (has[STORE(n, disk[n])] & sessions[n] & ~acknowledged)
    fi;
#endif
    waits[n] = 0; waits_for[n] = 0; target[n] = 0; row_paired[n] = 0; lost[n] = 0;
    phase[n] = SOLO
}

/* The fate of the change is known, the record learned. */
inline decided(n, ours)
{
    learn(n);
    if
#ifdef MUTANT_read_without_fence
    :: change[n] == UNKNOWN && want[n] == 1 /* may still take effect */
#endif
    :: else -> forget_change(n)
    fi;
    change[n] = SETTLED;
    if
    :: phase[n] == CLAIM && ours ->
       detach(OTHER(n)); /* no acknowledgement in the old epoch from here on */
       change[n] = NONE;
       promote(n)
    :: phase[n] == CLAIM && !ours -> change[n] = NONE; phase[n] = START; known_version[n] = 0
    :: SERVES(n) && known_epoch[n] > own_epoch[n] -> change[n] = NONE; end_epoch(n)
    :: phase[n] == TAKE_BACK && known_epoch[n] == own_epoch[n] ->
       change[n] = NONE;
       if
       :: ours -> phase[n] = PAIRED; target[n] = 0; row_paired[n] = 0; lost[n] = 0
       :: else -> phase[n] = RELEASE
       fi
    :: phase[n] == DROP && known_epoch[n] == own_epoch[n] ->
       change[n] = NONE;
       if
       :: !KNOWN_PAIRED(n) -> phase[n] = RELEASE
       :: else
       fi
    :: else -> /* START or FOLLOW: a follower forgets it, a start with it waits for ever */
       if
       :: PRIMARY(known_epoch[n]) != n -> change[n] = NONE
       :: else
       fi
    fi
}

inline not_done(n)
{
    forget_change(n);
    change[n] = NONE;
    if
    :: phase[n] == CLAIM -> phase[n] = START; known_version[n] = 0
    :: phase[n] == TAKE_BACK -> phase[n] = RELEASE
    :: else
    fi
}

inline take_new_message(n)
{
    numbered[n]++;
    lsn[(n) * 2 + messages] = numbered[n];
    sessions[n] = sessions[n] | (1 << messages);
    messages++
}

inline write_own(n)
{
    own[n]++;
    if
    :: lsn[(n) * 2] == own[n] -> x = 1
    :: else
    fi;
    if
    :: lsn[(n) * 2 + 1] == own[n] -> x = x | 2
    :: else
    fi;
    has[STORE(n, disk[n])] = has[STORE(n, disk[n])] | x;
    if
    :: last_solo[STORE(n, disk[n])] -> solo_rows[STORE(n, disk[n])] = solo_rows[STORE(n, disk[n])] | x
    :: else
    fi;
    x = 0
}

/* Handshake: the follower's tail is merged, durably, under new numbers. */
inline attach(p, f)
{
    attached[p] = 1; follower[p] = disk[f];
    x = has[STORE(f, disk[f])] & ~has[STORE(p, disk[p])];
    if
    :: x ->
       numbered[p]++; own[p] = numbered[p];
       has[STORE(p, disk[p])] = has[STORE(p, disk[p])] | x;
       if
       :: x & 1 -> lsn[(p) * 2] = own[p]
       :: else
       fi;
       if
       :: x & 2 -> lsn[(p) * 2 + 1] = own[p]
       :: else
       fi
    :: else
    fi;
    x = 0
}

inline apply(p, f)
{
    applied[p]++;
    if
    :: lsn[(p) * 2] == applied[p] -> has[STORE(f, disk[f])] = has[STORE(f, disk[f])] | 1
    :: else
    fi;
    if
    :: lsn[(p) * 2 + 1] == applied[p] -> has[STORE(f, disk[f])] = has[STORE(f, disk[f])] | 2
    :: else
    fi
}

#ifdef MUTANT_any_store_acknowledges
#define FROM_STANDBY(n) attached[n]
#else
#define FROM_STANDBY(n) (attached[n] && follower[n] == waits_for[n])
#endif
#ifdef MUTANT_old_acknowledgement
#define COMMITTED(n, m) (!waits[n] || acked[n] >= lsn[(n) * 2 + m])
#else
#define COMMITTED(n, m) (!waits[n] || (FROM_STANDBY(n) && acked[n] >= lsn[(n) * 2 + m]))
#endif
#define REPLY(n, m) \
    :: d_step { SERVES(n) && SET(sessions[n], m) && !SET(acknowledged, m) && own[n] >= lsn[(n) * 2 + m] && \
       COMMITTED(n, m) -> \
       assert(waits[n] || SET(solo_rows[STORE(n, disk[n])], m)); /* or a rejoin quarantines it */ \
       acknowledged = acknowledged | (1 << m); \
       check() }

#ifdef MUTANT_take_back_of_committed
#define TARGET(n) 0
#else
#define TARGET(n) own[n]
#endif
#ifdef MUTANT_take_back_other_store
#define STILL_THERE(n) attached[n]
#define TAKEN_BACK(n) follower[n]
#else
#define STILL_THERE(n) (attached[n] && follower[n] == waits_for[n] && !lost[n])
#define TAKEN_BACK(n) waits_for[n]
#endif

inline crash(n)
{
    end_epoch(n);
    STEPPED_DOWN(n, 0);
    change[n] = NONE;
    if
    :: attached[OTHER(n)] -> detach(OTHER(n))
    :: else
    fi
}

#ifdef LIVENESS
#define FAULTS !calm
#define LIMIT (calm -> VERSIONS + 4 : VERSIONS)
#else
#define FAULTS 1
#define LIMIT VERSIONS
#endif

/* With faults ended the other node counts as silent only if it serves nobody. */
#ifdef MUTANT_any_heartbeat_is_life
#define SILENT(n, p) FAULTS
#else
#define SILENT(n, p) (FAULTS || own_epoch[p] != known_epoch[n] || !SERVES(p))
#endif
#ifdef MUTANT_restart_only_at_start
#define RESTARTS(n) !stepped_down[n]
#else
#define RESTARTS(n) 1
#endif

#define REGISTER_STEPS(n) \
    :: d_step { MAY_LAND(n) && version < LIMIT -> land(n) } \
    :: d_step { change[n] == PENDING && (want[n] == 2 || want_from[n] != version) -> \
       x = IS_OURS(n); decided(n, x); x = 0 } \
    :: d_step { FAULTS && change[n] == PENDING && want[n] == 1 -> not_done(n) } \
    UNKNOWN_OUTCOME(n) \
    :: d_step { change[n] == UNKNOWN || (change[n] == NONE && (phase[n] == START || phase[n] == FOLLOW) && \
       known_version[n] != version) -> \
       if \
       :: change[n] == UNKNOWN -> x = IS_OURS(n); decided(n, x); x = 0 \
       :: else -> FENCE(n); learn(n) \
       fi }

#define FOLLOWER_STEPS(n, o) \
    :: d_step { phase[n] == START && known_version[n] && PRIMARY(known_epoch[n]) == n && NAMED(n) && \
       RESTARTS(n) && change[n] == NONE -> claim(n, o, 1) } \
    :: d_step { phase[n] == START && known_version[n] && PRIMARY(known_epoch[n]) != n -> \
       phase[n] = FOLLOW; change[n] = (change[n] == SETTLED -> NONE : change[n]) } \
    :: d_step { phase[n] == FOLLOW && PRIMARY(known_epoch[n]) == n -> phase[n] = START } \
    :: d_step { phase[n] == FOLLOW && PRIMARY(known_epoch[n]) != n && MAY_BE_PROMOTED(n) && \
       change[n] == NONE && SILENT(n, o) -> claim(n, o, 0) }

#define WRITER_STEPS(n, o) \
    :: d_step { SERVES(n) && own_epoch[o] > own_epoch[n] && SERVES(o) -> \
       change[n] = (change[n] == SETTLED -> NONE : change[n]); end_epoch(n) } \
    :: d_step { SERVES(n) && messages < MESSAGES && numbered[n] == own[n] -> take_new_message(n) } \
    :: d_step { own_epoch[n] && own[n] < numbered[n] -> write_own(n) } \
    REPLY(n, 0) \
    REPLY(n, 1) \
    :: d_step { SERVES(n) && !attached[n] && (phase[o] == FOLLOW || phase[o] == CLAIM) && \
       known_epoch[o] == own_epoch[n] && own[n] == numbered[n] -> attach(n, o) } \
    :: d_step { attached[n] && applied[n] < numbered[n] -> apply(n, o) } \
    :: d_step { attached[n] && acked[n] < applied[n] -> acked[n] = applied[n] } \
    :: d_step { FAULTS && attached[n] -> detach(n) }

#define MODE_STEPS(n) \
    :: d_step { FAULTS && phase[n] == SOLO && attached[n] && change[n] == NONE -> \
       phase[n] = TAKE_BACK; waits[n] = 1; waits_for[n] = follower[n]; target[n] = TARGET(n) } \
    :: d_step { phase[n] == TAKE_BACK && STILL_THERE(n) && acked[n] >= target[n] && !row_paired[n] -> \
       row_paired[n] = 1; last_solo[STORE(n, disk[n])] = 0 } \
    :: d_step { phase[n] == TAKE_BACK && STILL_THERE(n) && row_paired[n] && change[n] == NONE && \
       known_version[n] == version -> ask(n, own_epoch[n], TAKEN_BACK(n) + 1) } \
    :: d_step { phase[n] == TAKE_BACK && change[n] == NONE && (lost[n] || FAULTS) -> phase[n] = RELEASE } \
    :: d_step { phase[n] == PAIRED && (FAULTS || !FROM_STANDBY(n)) -> phase[n] = DROP } \
    DROP_TOO_EARLY(n) \
    :: d_step { phase[n] == DROP && change[n] == NONE -> ask(n, own_epoch[n], 0) } \
    :: d_step { phase[n] == DROP && change[n] == NONE && FROM_STANDBY(n) -> phase[n] = PAIRED } \
    :: d_step { phase[n] == RELEASE -> go_solo(n) } \
    /* a switchover first drains, a primary that makes no progress doesn't */ \
    :: d_step { FAULTS && phase[n] == PAIRED && FROM_STANDBY(n) -> phase[n] = RELINQUISHED } \
    :: d_step { phase[n] == RELINQUISHED -> end_epoch(n) }

#define FAULT_STEPS(n) \
    :: d_step { FAULTS && crashes < CRASHES && (phase[n] != START || change[n]) -> crashes++; crash(n) } \
    :: d_step { FAULTS && swaps < SWAPS -> swaps++; crash(n); disk[n] = 1 - disk[n] }

#ifdef MUTANT_unknown_is_refused
#define UNKNOWN_OUTCOME(n) \
    :: d_step { FAULTS && change[n] == PENDING -> change[n] = NONE; \
       if \
       :: phase[n] == CLAIM -> phase[n] = START; known_version[n] = 0 \
       :: phase[n] == TAKE_BACK -> phase[n] = RELEASE \
       :: else \
       fi }
#else
#define UNKNOWN_OUTCOME(n) :: d_step { FAULTS && change[n] == PENDING -> change[n] = UNKNOWN }
#endif
#ifdef MUTANT_read_without_fence
#define FENCE(n) skip /* nor at a start */
#else
#define FENCE(n) forget_change(n)
#endif
#ifdef MUTANT_outside_in_sync
#define MAY_BE_PROMOTED(n) 1
#else
#define MAY_BE_PROMOTED(n) NAMED(n)
#endif
#ifdef MUTANT_released_before_the_record
#define DROP_TOO_EARLY(n) :: d_step { phase[n] == DROP && waits[n] -> waits[n] = 0; \
    last_solo[STORE(n, disk[n])] = 1; \
    solo_rows[STORE(n, disk[n])] = solo_rows[STORE(n, disk[n])] | (has[STORE(n, disk[n])] & ~acknowledged) }
#else
#define DROP_TOO_EARLY(n)
#endif

#define SERVED(n) ((phase[n] == SOLO && !waits[n]) || (phase[n] == PAIRED && FROM_STANDBY(n)))
/* Nobody can serve where no named store is in its machine. */
#define HOPELESS (named[0] != disk[0] + 1 && named[1] != disk[1] + 1)

init
{
    d_step { /* a serves alone */
        named[0] = 1; known_version[0] = 1; known_epoch[0] = 2; known_named[0] = 1;
        phase[0] = SOLO; own_epoch[0] = 2; used = 4; numbered[0] = 1; own[0] = 1; last_solo[0] = 1
    }
#ifdef LIVENESS
    do
#else
end:
    do
#endif
    REGISTER_STEPS(0)
    REGISTER_STEPS(1)
    FOLLOWER_STEPS(0, 1)
    FOLLOWER_STEPS(1, 0)
    WRITER_STEPS(0, 1)
    WRITER_STEPS(1, 0)
    MODE_STEPS(0)
    MODE_STEPS(1)
    FAULT_STEPS(0)
    FAULT_STEPS(1)
#ifdef LIVENESS
    :: d_step { !calm -> calm = 1 }
    :: calm && (SERVED(0) || SERVED(1) || HOPELESS) -> break
#endif
    od
}
