/* The record's register with three votes (protocol 5; health/register*.c; incidents 9, 10, 11).
 * Voters 0 (a), 1 (b) and 2 (witness); a and b propose as well.
 *
 * A message, once sent, stays deliverable for ever: that is loss, delay, reordering and duplication
 * at once. One step writes a voter's row durably and sends what depends on it; a crash before the
 * write is as if the step had not begun, a crash behind it as if the message were lost.
 *
 * Bounds: COUNTERS of ballots, CHANGES begun, CRASHES of nodes, EMPTIED voters (each at most once). */
#ifndef COUNTERS
#define COUNTERS 3
#endif
#ifndef CHANGES
#define CHANGES 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef EMPTIED
#define EMPTIED 1
#endif
#ifndef MAY_BE_EMPTIED /* bit per voter */
#define MAY_BE_EMPTIED 7
#endif

/* Ballot: counter, node, incarnation of the node's voter (the real one draws a random id). */
#define BALLOT(c, n, i) ((c) * 4 + (n) * 2 + (i))
#define COUNTER(b) ((b) / 4)
#define PROPOSER(b) (((b) / 2) & 1)
#define BALLOTS (COUNTERS * 4 + 4)

/* FEW_READS: only where a node must read, at its start and while a change is unknown. */
#ifdef FEW_READS
#define READ_DUE(n) (known[n] == NOTHING)
#else
#define READ_DUE(n) 1
#endif
#define NOTHING 255
#define SET(mask, i) (((mask) >> (i)) & 1)

#define IDLE 0
#define PREPARE 1
#define ACCEPT 2

/* The voters' durable rows; share_*: what an emptied voter v was told by u, at [v * 3 + u], plus one. */
byte promised[3], accepted[3];
bit silent[3], incarnation[3];
byte share_promised[9], share_accepted[9];

/* Messages: the ballots of which a PREPARE is out; the record of each ACCEPT, plus one. */
unsigned prepares : 20;
byte proposed[BALLOTS];
/* Answers to the attempt under way, at [proposer * 3 + voter]: accepted ballot plus one; accepted or not. */
byte promises[6];
bit accepts[6];

/* The operation under way. A change leads from record `from` to `to`; a read has to == NOTHING. */
byte phase[2], ballot[2], from[2], to[2];
bit cast[2];
/* What the proposer has been told last: a change may only start from that. Both know record 0. */
byte known[2];

/* Records: 0 is there at the start. ancestors: the records that it was changed from, itself included. */
byte records = 1;
byte ancestors[CHANGES + 1], mine[2];

/* The books: newest record that anybody was told, when the operation began, too; records that a caller
 * was promised to hear of no more; changes that were said to be not done. */
byte newest, newest_at[2], fenced, not_done;
byte crashes, emptied;

/* Scratch, zero between steps. */
byte x, y;

#define DESCENDS(v, w) SET(ancestors[v], w)

/* Somebody is told that v is the record: done, found by a read, or found instead. */
inline tell(n, v)
{
    assert(DESCENDS(v, newest) || DESCENDS(newest, v)); /* one chain */
    assert(DESCENDS(v, newest_at[n]));                  /* what was told before is not lost */
    assert(!SET(fenced, v) && !SET(not_done, v));
    if
    :: DESCENDS(v, newest) -> newest = v
    :: else
    fi;
    fenced = fenced | (mine[n] & ~ancestors[v]);
    known[n] = v
}

inline idle(n)
{
    phase[n] = IDLE; ballot[n] = 0; from[n] = 0; to[n] = NOTHING; cast[n] = 0; newest_at[n] = 0;
    promises[(n) * 3] = 0; promises[(n) * 3 + 1] = 0; promises[(n) * 3 + 2] = 0;
    accepts[(n) * 3] = 0; accepts[(n) * 3 + 1] = 0; accepts[(n) * 3 + 2] = 0
}

/* Own promise durable, then PREPARE. The counter c may jump: refusals tell of higher ballots. */
inline attempt(n, c)
{
    promises[(n) * 3] = 0; promises[(n) * 3 + 1] = 0; promises[(n) * 3 + 2] = 0;
    accepts[(n) * 3] = 0; accepts[(n) * 3 + 1] = 0; accepts[(n) * 3 + 2] = 0;
    ballot[n] = BALLOT(c, n, incarnation[n]);
    promised[n] = ballot[n];
    prepares = prepares | (1 << ballot[n]);
    phase[n] = PREPARE
}

inline begin_change(n, c)
{
    from[n] = known[n];
    to[n] = records;
    records++;
    ancestors[to[n]] = ancestors[from[n]] | (1 << to[n]);
    mine[n] = mine[n] | (1 << to[n]);
    newest_at[n] = newest;
    attempt(n, c)
}

inline begin_read(n, c)
{
    newest_at[n] = newest;
    attempt(n, c)
}

/* One other promise: choose the record, own accept durable, then ACCEPT. */
inline on_promise(n, v)
{
    x = promises[(n) * 3 + v] - 1;
    if
    :: accepted[n] > x -> x = accepted[n]
    :: else
    fi;
    y = proposed[x] - 1;
    if
#ifdef MUTANT_read_without_accept
    :: to[n] == NOTHING -> tell(n, y); idle(n)
#endif
#ifdef MUTANT_mismatch_without_write_back
    :: to[n] != NOTHING && y != to[n] && y != from[n] -> tell(n, y); idle(n)
#endif
    :: else ->
       if
       :: to[n] != NOTHING && y == from[n] -> y = to[n]
       :: else
       fi;
       cast[n] = cast[n] || to[n] == NOTHING || y == to[n];
       assert(!SET(not_done, y));
       accepted[n] = ballot[n];
       proposed[ballot[n]] = y + 1;
       promises[(n) * 3] = 0; promises[(n) * 3 + 1] = 0; promises[(n) * 3 + 2] = 0;
       phase[n] = ACCEPT
    fi;
    x = 0; y = 0
}

inline on_accepted(n)
{
    x = proposed[ballot[n]] - 1;
    tell(n, x);
    idle(n);
    x = 0
}

inline give_up(n)
{
    if
#ifdef MUTANT_unknown_is_not_done
    :: to[n] != NOTHING ->
#else
    :: to[n] != NOTHING && !cast[n] ->
#endif
       not_done = not_done | (1 << to[n])
    :: else ->
       known[n] = NOTHING /* unknown: read before anything else */
    fi;
    idle(n)
}

#ifdef MUTANT_promise_forgotten
#define PROMISE(v, b) skip
#else
#define PROMISE(v, b) promised[v] = b
#endif
#ifdef MUTANT_accept_below_promise
#define MAY_ACCEPT(v, b) 1
#else
#define MAY_ACCEPT(v, b) (b >= promised[v])
#endif
#ifdef MUTANT_any_ballot_counts
#define COUNTS(p, b) (phase[p] == ACCEPT)
#else
#define COUNTS(p, b) (phase[p] == ACCEPT && ballot[p] == b)
#endif
#define WAITS(p, b) (phase[p] == PREPARE && ballot[p] == b)

/* Proposer p's PREPARE and ACCEPT in ballot b reach voter v. */
#define REQUESTS(v, p, b) \
    :: d_step { SET(prepares, b) && !silent[v] && b >= promised[v] && \
       (b > promised[v] || (WAITS(p, b) && promises[(p) * 3 + v] != accepted[v] + 1)) -> \
       PROMISE(v, b); \
       if \
       :: WAITS(p, b) -> promises[(p) * 3 + v] = accepted[v] + 1 \
       :: else \
       fi } \
    :: d_step { proposed[b] && !silent[v] && MAY_ACCEPT(v, b) && \
       (accepted[v] != b || (COUNTS(p, b) && !accepts[(p) * 3 + v])) -> \
       assert(!SET(not_done, proposed[b] - 1)); \
       promised[v] = b; \
       accepted[v] = b; \
       if \
       :: COUNTS(p, b) -> accepts[(p) * 3 + v] = 1 \
       :: else \
       fi }

#if EMPTIED > 0
#define BOTH_NAMES(v, p, c) REQUESTS(v, p, BALLOT(c, p, 0)) REQUESTS(v, p, BALLOT(c, p, 1))
#else
#define BOTH_NAMES(v, p, c) REQUESTS(v, p, BALLOT(c, p, 0))
#endif
#if COUNTERS == 2
#define ALL_REQUESTS(v, p) BOTH_NAMES(v, p, 1) BOTH_NAMES(v, p, 2)
#elif COUNTERS == 3
#define ALL_REQUESTS(v, p) BOTH_NAMES(v, p, 1) BOTH_NAMES(v, p, 2) BOTH_NAMES(v, p, 3)
#else
#define ALL_REQUESTS(v, p) \
    BOTH_NAMES(v, p, 1) BOTH_NAMES(v, p, 2) BOTH_NAMES(v, p, 3) BOTH_NAMES(v, p, 4)
#endif

#define ABOVE(n, c) (COUNTER(promised[n]) < (c) && (c) <= COUNTERS)
#define ATTEMPTS(n, c) \
    :: d_step { phase[n] == IDLE && !silent[n] && ABOVE(n, c) && known[n] != NOTHING && \
       records <= CHANGES -> begin_change(n, c) } \
    :: d_step { phase[n] == IDLE && !silent[n] && ABOVE(n, c) && READ_DUE(n) -> begin_read(n, c) } \
    :: d_step { phase[n] != IDLE && ABOVE(n, c) -> attempt(n, c) }

#define PROPOSER_STEPS(n, m) \
    ATTEMPTS(n, 1) ATTEMPTS(n, 2) ATTEMPTS(n, 3) ATTEMPTS(n, 4) \
    :: d_step { phase[n] == PREPARE && promised[n] == ballot[n] && promises[(n) * 3 + m] -> \
       on_promise(n, m) } \
    :: d_step { phase[n] == PREPARE && promised[n] == ballot[n] && promises[(n) * 3 + 2] -> \
       on_promise(n, 2) } \
    :: d_step { phase[n] == ACCEPT && (accepts[(n) * 3 + m] || accepts[(n) * 3 + 2]) -> \
       on_accepted(n) } \
    :: d_step { phase[n] != IDLE -> give_up(n) } \
    :: d_step { crashes < CRASHES && (phase[n] != IDLE || known[n] != NOTHING) -> \
       crashes++; known[n] = NOTHING; idle(n) }

inline lose_row(v)
{
    emptied++;
    promised[v] = 0;
    accepted[v] = 0;
#ifndef MUTANT_emptied_votes
    silent[v] = 1;
#endif
    incarnation[v] = 1;
    if
    :: v < 2 -> known[v] = NOTHING; idle(v)
    :: else
    fi;
    share_promised[v * 3] = 0; share_promised[v * 3 + 1] = 0; share_promised[v * 3 + 2] = 0;
    share_accepted[v * 3] = 0; share_accepted[v * 3 + 1] = 0; share_accepted[v * 3 + 2] = 0;
}

#define SHARE(v, u) \
    :: d_step { silent[v] && !silent[u] && !share_promised[v * 3 + u] -> \
       share_promised[v * 3 + u] = promised[u] + 1; share_accepted[v * 3 + u] = accepted[u] + 1 }

#ifdef MUTANT_one_share
#define ENOUGH(v, u, w) (share_promised[v * 3 + u] || share_promised[v * 3 + w])
#else
#define ENOUGH(v, u, w) (share_promised[v * 3 + u] && share_promised[v * 3 + w])
#endif

inline take(v, u)
{
    if
    :: share_promised[v * 3 + u] > promised[v] + 1 -> promised[v] = share_promised[v * 3 + u] - 1
    :: else
    fi;
    if
    :: share_accepted[v * 3 + u] > accepted[v] + 1 -> accepted[v] = share_accepted[v * 3 + u] - 1
    :: else
    fi;
    share_promised[v * 3 + u] = 0; share_accepted[v * 3 + u] = 0
}

inline recover(v, u, w)
{
    take(v, u);
    take(v, w);
#ifdef MUTANT_promise_not_taken
    promised[v] = accepted[v];
#endif
    silent[v] = 0;
#ifdef MUTANT_taken_counts
    if
    :: accepted[v] && PROPOSER(accepted[v]) != v && ballot[PROPOSER(accepted[v])] == accepted[v] &&
       phase[PROPOSER(accepted[v])] == ACCEPT -> accepts[PROPOSER(accepted[v]) * 3 + v] = 1
    :: else
    fi
#endif
}

#define VOTER_STEPS(v, u, w) \
    :: d_step { emptied < EMPTIED && SET(MAY_BE_EMPTIED, v) && !incarnation[v] -> lose_row(v) } \
    SHARE(v, u) \
    SHARE(v, w) \
    :: d_step { silent[v] && ENOUGH(v, u, w) -> recover(v, u, w) }

init
{
    d_step {
        proposed[0] = 1;
        ancestors[0] = 1;
        to[0] = NOTHING; to[1] = NOTHING
    }
end:
    do
    PROPOSER_STEPS(0, 1)
    PROPOSER_STEPS(1, 0)
    VOTER_STEPS(0, 1, 2)
    VOTER_STEPS(1, 0, 2)
    VOTER_STEPS(2, 0, 1)
    ALL_REQUESTS(0, 1)
    ALL_REQUESTS(1, 0)
    ALL_REQUESTS(2, 0)
    ALL_REQUESTS(2, 1)
    od
}
