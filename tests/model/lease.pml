/* The lease and the wait for it, in ticks (protocol 5, 6, 7; health/pair.c, health/roles.c; incidents 14,
 * 15, 16, 23). Nodes 0 (a) and 1 (b), an atomic register whose changes may hang, heartbeats that are
 * late, lost or come twice. No store: who holds which message is pair.pml's matter.
 *
 * Time is only in counters: how long ago, by one node's clock, something happened. At each tick one of
 * both clocks may stand still, at most once in RATE ticks. All else takes no time, or any: a step that
 * is not taken is a slow network, a paused loop or a dead process. Silence may be noticed at any moment,
 * whatever takeover_after is.
 *
 * Bounds: VERSIONS of the record, CRASHES; one heartbeat and one acknowledgement in flight each way. */
#ifndef VERSIONS
#define VERSIONS 4
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef RATE
#define RATE 3
#endif
/* Each node's setting of `lease`. */
#ifndef LEASE_A
#define LEASE_A 3
#endif
#ifndef LEASE_B
#define LEASE_B 3
#endif

#define MIN(x, y) ((x) < (y) ? (x) : (y))
#if LEASE_A < LEASE_B
#define SHORTER LEASE_A
#define LONGER LEASE_B
#else
#define SHORTER LEASE_B
#define LONGER LEASE_A
#endif
#define OWN_LEASE(n) ((n) * LEASE_B + (1 - (n)) * LEASE_A)

#ifdef MUTANT_own_lease_setting
#define LEASE(n) OWN_LEASE(n)
#define WAIT(n) (OWN_LEASE(n) + 1)
#elif defined(MUTANT_no_margin)
#define LEASE(n) SHORTER
#define WAIT(n) LONGER
#else
#define LEASE(n) SHORTER
#define WAIT(n) (LONGER + 1) /* for the rates; 1 tick in RATE >= LEASE */
#endif
#define NEVER (LONGER + 1) /* as long ago as matters */

#define PRIMARY(e) ((e) & 1)
#define NEXT_EPOCH(e, n) ((e) + 1 + ((e) + 1 + (n)) % 2)

byte version = 1, epoch = 2;
bit both; /* in_sync names both nodes, else the primary alone */
byte known_version[2], known_epoch[2];
bit known_both[2];

byte want[2], want_from[2], want_epoch[2]; /* a change: 1 on its way, 2 took effect */
bit want_both[2];
#define NONE 0
#define PENDING 1
#define UNKNOWN 2
byte change[2];

#define START 0
#define FOLLOW 1
#define CLAIM 2
#define LEASE_WAIT 3
#define SOLO 4
#define TAKE_BACK 5
#define PAIRED 6 /* and while the standby is being dropped */
#define QUIESCE 7
#define RELINQUISHED 8
byte phase[2];
byte own_epoch[2];
byte promoted[2]; /* durable, the history: the last epoch that this node was promoted in */
bit no_wait[2];

/* Since the newest acknowledged heartbeat was sent; since the newest that was acknowledged came, or
 * since the start. Each by its own node's clock. */
byte sent[2], came[2];
/* In flight, from node n: a heartbeat (epoch 0: none) and since when; to node n: an acknowledgement and
 * since when the heartbeat that it is for was sent. Both ages by the clock of the heartbeat's sender. */
byte beat_epoch[2], beat_age[2], ack_epoch[2], ack_age[2];
/* Epoch given up, as sent at any time and not yet lost; as heard from the other node. */
byte given_up[2], heard_given_up[2];
bit cached[2];

byte steady, crashes; /* ticks since a clock stood still */
byte x;

#define HAS_LEASE(n) (sent[n] < LEASE(n))
#ifdef MUTANT_take_back_without_lease
#define ALONE(n) (phase[n] == SOLO || phase[n] == TAKE_BACK)
#else
#define ALONE(n) (phase[n] == SOLO)
#endif
#define UNDER_LEASE(n) (phase[n] == TAKE_BACK || phase[n] == PAIRED || phase[n] == QUIESCE)
#ifdef MUTANT_lease_cached
#define MAY_DELIVER(n) (ALONE(n) || (UNDER_LEASE(n) && cached[n]))
#else
#define MAY_DELIVER(n) (ALONE(n) || (UNDER_LEASE(n) && HAS_LEASE(n)))
#endif
#define SERVES(n) (phase[n] >= SOLO && phase[n] <= QUIESCE)
/* Invariant 8. Evaluated after every step that could break it. */
inline check()
{
    assert(!(MAY_DELIVER(0) && MAY_DELIVER(1)))
}

#ifdef MUTANT_unknown_stops_waiting_early
#define ACKNOWLEDGES(n) (phase[n] == FOLLOW || phase[n] == CLAIM || phase[n] == LEASE_WAIT)
#define COUNTS_FROM(n) (phase[n] == FOLLOW)
#else
#define ACKNOWLEDGES(n) (phase[n] == FOLLOW || phase[n] == CLAIM)
#define COUNTS_FROM(n) 1
#endif

inline learn(n)
{
    known_version[n] = version; known_epoch[n] = epoch; known_both[n] = both
}

inline forget_change(n)
{
    want[n] = 0; want_from[n] = 0; want_epoch[n] = 0; want_both[n] = 0; change[n] = NONE
}

inline ask(n, e, b)
{
    want[n] = 1; want_from[n] = known_version[n]; want_epoch[n] = e; want_both[n] = b;
    change[n] = PENDING
}

inline land(n)
{
    want[n] = 2; version++; epoch = want_epoch[n]; both = want_both[n]
}

inline forget_record(n)
{
    known_version[n] = 0; known_epoch[n] = 0; known_both[n] = 0
}

inline end_epoch(n)
{
    own_epoch[n] = 0; sent[n] = NEVER; phase[n] = START; cached[n] = 0; no_wait[n] = 0;
    forget_record(n)
}

inline promote(n)
{
    own_epoch[n] = known_epoch[n];
    promoted[n] = known_epoch[n];
    sent[n] = NEVER;
    no_wait[n] = 0;
    phase[n] = (known_both[n] -> PAIRED : SOLO);
    check()
}

inline decided(n, ours)
{
    learn(n);
    forget_change(n);
    if
    :: phase[n] == CLAIM && ours -> phase[n] = LEASE_WAIT
    :: phase[n] == CLAIM && !ours -> phase[n] = START; no_wait[n] = 0; forget_record(n)
    :: SERVES(n) && known_epoch[n] != own_epoch[n] -> end_epoch(n)
    :: (phase[n] == PAIRED || phase[n] == TAKE_BACK) && known_epoch[n] == own_epoch[n] ->
       phase[n] = (known_both[n] -> PAIRED : SOLO)
    :: else
    fi;
    check()
}

inline not_done(n)
{
    forget_change(n);
    if
    :: phase[n] == CLAIM -> phase[n] = START; no_wait[n] = 0; forget_record(n)
    :: phase[n] == TAKE_BACK -> phase[n] = SOLO
    :: else
    fi;
    check()
}

inline crash(n)
{
    end_epoch(n);
    change[n] = NONE; came[n] = 0; heard_given_up[n] = 0;
    check()
}

/* Time passes for node n's clock. */
#define OLDER(age) age = (age < NEVER -> age + 1 : NEVER)
inline pass(n)
{
    OLDER(sent[n]);
    OLDER(came[n]);
    if
    :: beat_epoch[n] -> OLDER(beat_age[n])
    :: else
    fi;
    if
    :: ack_epoch[n] -> OLDER(ack_age[n])
    :: else
    fi;
    /* What is older than any lease changes nothing any more. */
    if
    :: ack_epoch[n] && ack_age[n] >= LONGER -> ack_epoch[n] = 0; ack_age[n] = 0
    :: else
    fi;
    if
    :: beat_epoch[n] && beat_age[n] >= LONGER -> beat_epoch[n] = 0; beat_age[n] = 0
    :: else
    fi
}

#ifdef MUTANT_relinquish_of_any_epoch
#define GIVEN_UP(n) heard_given_up[n]
#else
#define GIVEN_UP(n) (heard_given_up[n] == known_epoch[n])
#endif
#ifdef MUTANT_restart_without_wait
#define OLD_LEASE_WAS_OURS(n) 1
#else
#define OLD_LEASE_WAS_OURS(n) (promoted[n] == known_epoch[n])
#endif
#ifdef MUTANT_start_counts_as_long_ago
#define STARTED NEVER
#else
#define STARTED 0
#endif

#define REGISTER_STEPS(n) \
    :: d_step { want[n] == 1 && want_from[n] == version && version < VERSIONS -> land(n) } \
    :: d_step { change[n] == PENDING && (want[n] == 2 || want_from[n] != version) -> \
       x = (want[n] == 2 && version == want_from[n] + 1); decided(n, x); x = 0 } \
    :: d_step { change[n] == PENDING && want[n] == 1 -> not_done(n) } \
    :: d_step { change[n] == PENDING -> change[n] = UNKNOWN } \
    :: d_step { change[n] == UNKNOWN -> \
       x = (want[n] == 2 && version == want_from[n] + 1); decided(n, x); x = 0 } \
    :: d_step { change[n] == NONE && (phase[n] == START || phase[n] == FOLLOW || phase[n] == LEASE_WAIT) && \
       known_version[n] != version -> forget_change(n); learn(n) }

#define FOLLOWER_STEPS(n, o) \
    :: d_step { phase[n] == START && known_version[n] && PRIMARY(known_epoch[n]) == n && change[n] == NONE -> \
       no_wait[n] = OLD_LEASE_WAS_OURS(n); phase[n] = CLAIM; \
       ask(n, NEXT_EPOCH(known_epoch[n], n), known_both[n]) } \
    :: d_step { phase[n] == START && known_version[n] && PRIMARY(known_epoch[n]) != n && change[n] == NONE -> \
       phase[n] = FOLLOW } \
    :: d_step { phase[n] == FOLLOW && PRIMARY(known_epoch[n]) == n -> phase[n] = START } \
    :: d_step { phase[n] == FOLLOW && PRIMARY(known_epoch[n]) != n && known_both[n] && change[n] == NONE -> \
       no_wait[n] = 0; phase[n] = CLAIM; ask(n, NEXT_EPOCH(known_epoch[n], n), 0) } \
    :: d_step { phase[n] == FOLLOW && PRIMARY(known_epoch[n]) != n && known_both[n] && change[n] == NONE && \
       GIVEN_UP(n) -> \
       no_wait[n] = 1; phase[n] = CLAIM; ask(n, NEXT_EPOCH(known_epoch[n], n), 0) } \
    :: d_step { phase[n] == LEASE_WAIT && PRIMARY(known_epoch[n]) != n -> \
       phase[n] = START; no_wait[n] = 0; forget_record(n) } \
    :: d_step { phase[n] == LEASE_WAIT && PRIMARY(known_epoch[n]) == n && \
       (no_wait[n] || came[n] >= WAIT(n)) -> promote(n) }

#ifdef MUTANT_lease_from_receipt
#define AGE(n) 0
#else
#define AGE(n) ack_age[n]
#endif

#define HEARTBEAT_STEPS(n, o) \
    :: d_step { SERVES(n) && (beat_epoch[n] != own_epoch[n] || beat_age[n]) -> \
       beat_epoch[n] = own_epoch[n]; beat_age[n] = 0 } \
    /* it comes to the other node, maybe more than once; the answer leaves at once, and may be late */ \
    :: d_step { beat_epoch[n] && ACKNOWLEDGES(o) && PRIMARY(known_epoch[o]) == n && \
       known_epoch[o] == beat_epoch[n] && \
       (came[o] || ack_epoch[n] != beat_epoch[n] || ack_age[n] > beat_age[n]) -> \
       came[o] = (COUNTS_FROM(o) -> 0 : came[o]); \
       ack_epoch[n] = beat_epoch[n]; ack_age[n] = beat_age[n] } \
    :: d_step { ack_epoch[n] && ack_epoch[n] == own_epoch[n] && SERVES(n) && AGE(n) < sent[n] -> \
       sent[n] = AGE(n); cached[n] = HAS_LEASE(n); check() } \
    :: d_step { given_up[n] && heard_given_up[o] != given_up[n] -> heard_given_up[o] = given_up[n] } \
    CACHE(n)
#ifdef MUTANT_lease_cached
#define CACHE(n) :: d_step { cached[n] && !HAS_LEASE(n) -> cached[n] = 0 }
#else
#define CACHE(n)
#endif

#ifdef MUTANT_relinquish_before_the_end
#define TELLS(n) (phase[n] == QUIESCE)
#else
#define TELLS(n) (phase[n] == RELINQUISHED)
#endif
#ifdef MUTANT_resumes_in_its_epoch
#define RESUME(n) :: d_step { phase[n] == RELINQUISHED -> phase[n] = PAIRED; check() }
#else
#define RESUME(n)
#endif

#define PRIMARY_STEPS(n, o) \
    /* another epoch: heard of, or read */ \
    :: d_step { SERVES(n) && own_epoch[o] > own_epoch[n] && SERVES(o) && change[n] == NONE -> end_epoch(n) } \
    :: d_step { phase[n] == PAIRED && change[n] == NONE -> ask(n, own_epoch[n], 0) } \
    :: d_step { phase[n] == SOLO && change[n] == NONE && HAS_LEASE(n) -> phase[n] = TAKE_BACK } \
    :: d_step { phase[n] == TAKE_BACK && change[n] == NONE && HAS_LEASE(n) -> ask(n, own_epoch[n], 1) } \
    :: d_step { phase[n] == TAKE_BACK && change[n] == NONE -> phase[n] = SOLO; check() } \
    :: d_step { phase[n] == PAIRED && change[n] == NONE && HAS_LEASE(n) -> phase[n] = QUIESCE } \
    :: d_step { phase[n] == QUIESCE -> phase[n] = RELINQUISHED } \
    :: d_step { TELLS(n) && given_up[n] != own_epoch[n] -> given_up[n] = own_epoch[n] } \
    :: d_step { phase[n] == RELINQUISHED -> end_epoch(n) } \
    RESUME(n) \
    :: d_step { crashes < CRASHES && (phase[n] != START || change[n]) -> crashes++; crash(n); came[n] = STARTED }

init
{
    d_step { /* a serves alone */
        sent[0] = NEVER; sent[1] = NEVER; came[0] = NEVER; came[1] = NEVER;
        phase[0] = SOLO; own_epoch[0] = 2; promoted[0] = 2; learn(0)
    }
end:
    do
    REGISTER_STEPS(0)
    REGISTER_STEPS(1)
    FOLLOWER_STEPS(0, 1)
    FOLLOWER_STEPS(1, 0)
    HEARTBEAT_STEPS(0, 1)
    HEARTBEAT_STEPS(1, 0)
    PRIMARY_STEPS(0, 1)
    PRIMARY_STEPS(1, 0)
    :: d_step { pass(0); pass(1); steady = (steady < RATE -> steady + 1 : RATE); check() }
    :: d_step { steady >= RATE -> steady = 0; pass(0); check() }
    :: d_step { steady >= RATE -> steady = 0; pass(1); check() }
    od
}
