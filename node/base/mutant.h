/* Rules of the protocol broken on purpose, to see whether the simulator notices (tests/sim). In
 * every build but the simulator's, BATON_MUTANT(NAME, wrong, right) is `right`, and nothing else is
 * left of it. Core. */
#ifndef BATON_BASE_MUTANT_H
#define BATON_BASE_MUTANT_H

#ifdef BATON_MUTANTS
#include <stdbool.h>

/* name, what is broken (the number is a row of the incidents that the rule prevents) */
#define BATON_MUTANT_LIST(X)                                                                       \
    X(REPLY_BEFORE_STANDBY, "250 before the standby has it")                                       \
    X(RECEIVED_IS_DURABLE, "the standby acknowledges what it received as durable")                 \
    X(ACK_FROM_ANY_STORE, "acknowledgements of a store that nobody waits for (8)")                 \
    X(RESTART_ALL_COMMITTED, "a restarted primary takes its own end for committed (6)")            \
    X(HISTORY_AFTER_REPLY, "released before the history row `solo` is durable (4)")                \
    X(RING_TOO_EARLY, "the feed switches to the ring after an incomplete read (2)")                \
    X(CURSOR_IS_END, "a piece of a catch-up moves the consistent end")                             \
    X(SETTLED_ALONE, "outcomes count as settled before the standby received them (17)")            \
    X(UNKNOWN_IS_REFUSED, "an unknown change taken for one that was not done (1)")                 \
    X(READ_WITHOUT_ACCEPT, "a read is answered without its accept round (11)")                     \
    X(EMPTIED_VOTER_VOTES, "an emptied voter votes after it met one other (9)")                    \
    X(ACCEPT_BELOW_PROMISE, "a voter accepts below its promise")                                   \
    X(LEASE_FROM_RECEIPT, "the lease counts from the receipt of the acknowledgement")              \
    X(NO_LEASE_WAIT, "a takeover doesn't wait for the old lease to end")                           \
    X(ANY_RELINQUISH, "a relinquish of an earlier epoch is believed (15)")                         \
    X(TAKEOVER_OUT_OF_SYNC, "a store outside in_sync takes over")                                  \
    X(SOLO_IS_QUARANTINED, "mail taken solo is merged as unacknowledged (4, 5)")                   \
    X(UNMERGED_KEEP_LSN, "promoted with unmerged rows under their old numbers (20)")               \
    X(QUEUED_WINS, "in a merge the newer row wins, terminal or not")                               \
    X(EVERY_BOUNCE_STAYS, "a merge keeps bounces that nothing failed for (21)")                    \
    X(ETCD_READ_ONLY, "a read of etcd's key doesn't put it again (11)")                            \
    X(ETCD_TAG_ONLY, "etcd's key is compared by its record, not by its revision")                  \
    X(ETCD_BACKUP_FOLLOWED, "a record restored from a backup of etcd is followed (25)")            \
    X(NOTE_AFTER_DOT, "a final dot doesn't wait until the standby has its note")                   \
    X(NOTE_NOT_RESENT, "what is noted isn't told again to a standby that attaches")                \
    X(HOLD_NOTE_NOT_COMMITTED, "under `hold` a final dot doesn't wait for its durable note")       \
    X(OWN_LEASE, "each side counts the lease by its own setting (23)")                             \
    X(FAILED_STORE_GOES_ON, "a transaction failed after it was shipped, the epoch goes on (32)")   \
    X(TAIL_UNMERGED, "a restarted primary delivers before the standby's tail is merged (17)")      \
    X(TAKE_BACK_ANY_STORE, "the take-back names whatever store is there now (7)")                  \
    X(ROLLED_BACK_IS_FINE, "a store that ends before what it acknowledged is as good (8)")         \
    X(FORCE_FORGOTTEN, "a forced epoch is forgotten at a restart (13)")                            \
    X(CLAIM_BELOW_SEEN, "an epoch is claimed below the one the peer serves in (25)")               \
    X(FORCED_STORE_OTHER, "promoted with another store than the record names (7)")

enum baton_mutant {
    MUTANT_NONE,
#define BATON_MUTANT_ENUM(name, text) MUTANT_##name,
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
