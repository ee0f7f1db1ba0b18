/* Rules of the protocol broken on purpose, to see whether the simulator notices (tests/sim). In
 * every build but the simulator's, BATON_MUTANT(NAME, wrong, right) is `right`, and nothing else is
 * left of it. Core. */
#ifndef BATON_BASE_MUTANT_H
#define BATON_BASE_MUTANT_H

#ifdef BATON_MUTANTS
#include <stdbool.h>

/* name, row of the incidents that the rule prevents ("-": none of them), what is broken */
#define BATON_MUTANT_LIST(X)                                                                       \
    X(REPLY_BEFORE_STANDBY, "-", "250 before the standby has it")                                  \
    X(RECEIVED_IS_DURABLE, "-", "the standby acknowledges what it received as durable")            \
    X(ACK_FROM_ANY_STORE, "8", "acknowledgements of a store that nobody waits for")                \
    X(RESTART_ALL_COMMITTED, "6", "a restarted primary takes its own end for committed")           \
    X(HISTORY_AFTER_REPLY, "4", "released before the history row `solo` is durable")               \
    X(RING_TOO_EARLY, "2", "the feed switches to the ring after an incomplete read")               \
    X(CURSOR_IS_END, "-", "a piece of a catch-up moves the consistent end")                        \
    X(SETTLED_ALONE, "17", "outcomes count as settled before the standby received them")           \
    X(UNKNOWN_IS_REFUSED, "1", "an unknown change taken for one that was not done")                \
    X(READ_WITHOUT_ACCEPT, "11", "a read is answered without its accept round")                    \
    X(EMPTIED_VOTER_VOTES, "9", "an emptied voter votes after it met one other")                   \
    X(ACCEPT_BELOW_PROMISE, "-", "a voter accepts below its promise")                              \
    X(LEASE_FROM_RECEIPT, "-", "the lease counts from the receipt of the acknowledgement")         \
    X(NO_LEASE_WAIT, "-", "a takeover doesn't wait for the old lease to end")                      \
    X(ANY_RELINQUISH, "15", "a relinquish of an earlier epoch is believed")                        \
    X(TAKEOVER_OUT_OF_SYNC, "-", "a store outside in_sync takes over")                             \
    X(SOLO_IS_QUARANTINED, "4, 5", "mail taken solo is merged as unacknowledged")                  \
    X(UNMERGED_KEEP_LSN, "20", "promoted with unmerged rows under their old numbers")              \
    X(QUEUED_WINS, "-", "in a merge the newer row wins, terminal or not")                          \
    X(EVERY_BOUNCE_STAYS, "21", "a merge keeps bounces that nothing failed for")                   \
    X(ETCD_READ_ONLY, "11", "a read of etcd's key doesn't put it again")                           \
    X(ETCD_TAG_ONLY, "-", "etcd's key is compared by its record, not by its revision")             \
    X(ETCD_BACKUP_FOLLOWED, "25", "a record restored from a backup of etcd is followed")           \
    X(NOTE_AFTER_DOT, "-", "a final dot doesn't wait until the standby has its note")              \
    X(NOTE_NOT_RESENT, "-", "what is noted isn't told again to a standby that attaches")           \
    X(HOLD_NOTE_NOT_COMMITTED, "-", "under `hold` a final dot doesn't wait for its durable note")  \
    X(OWN_LEASE, "23", "each side counts the lease by its own setting")                            \
    X(FAILED_STORE_GOES_ON, "32", "a transaction failed after it was shipped, the epoch goes on")  \
    X(TAIL_UNMERGED, "17", "a restarted primary delivers before the standby's tail is merged")     \
    X(TAKE_BACK_UNCHECKED, "7", "the take-back names a store before it was found to hold all")     \
    X(ROLLED_BACK_IS_FINE, "8", "a store that ends before what it acknowledged is as good")        \
    X(FORCE_FORGOTTEN, "13", "a forced epoch is forgotten at a restart")                           \
    X(CLAIM_BELOW_SEEN, "25", "an epoch is claimed below the one the peer serves in")              \
    X(SEEN_IS_A_VOTE, "10", "a row that was only seen counts as an acceptance")                    \
    X(ANY_LIFE, "12", "a node that is heard but serves nobody counts as alive")                    \
    X(RESUMES_IN_ITS_EPOCH, "14", "having given up, it delivers on with a fresh acknowledgement")  \
    X(RELINQUISH_FIRST, "16", "the own lease runs on after the role was given up")                 \
    X(ANY_AGE_IS_MERGED, "19", "a store is merged however long it was away")                       \
    X(PURGED_EARLY, "19", "a tombstone goes before its time")                                      \
    X(PURGED_UNREAD, "19", "a standby reads on behind what was purged before it came to it")       \
    X(FORGOT_IS_FINE, "19", "a store that forgot what the other one has only catches up")          \
    X(NEWEST_PAUSE_WINS, "22", "of two operators' words the newer wins in a merge")                \
    X(OWN_SILENCE, "24", "a node that was frozen counts the time as the other's silence")          \
    X(ANY_CLOCK_EXPIRES, "27", "mail expires by a clock that is apart from the other's")           \
    X(EMPTIED_UNSEEN, "-", "a store is emptied though a body is whole only there")                 \
    X(FENCE_GOES_ON, "-", "a fence command isn't ended when the other node is heard")              \
    X(EPOCH_USED_AGAIN, "31", "without an arbiter an epoch is taken that the other has used")

enum baton_mutant {
    MUTANT_NONE,
#define BATON_MUTANT_ENUM(name, incidents, text) MUTANT_##name,
    BATON_MUTANT_LIST(BATON_MUTANT_ENUM)
#undef BATON_MUTANT_ENUM
        MUTANTS
};
extern enum baton_mutant baton_mutant; /* the one that is switched on */
#define BATON_MUTANT(name, wrong, right) (baton_mutant == MUTANT_##name ? (wrong) : (right))
#else
#define BATON_MUTANT(name, wrong, right) (right)
#endif
#endif
