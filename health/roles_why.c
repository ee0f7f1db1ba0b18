/* What a node is about, as one line for a person: the status's `why`. Core. */
#include <stdio.h>

#include "health/roles_when.h"

static void why_follow(const struct pair *p, char *out, size_t n)
{
    char peer = node_letter(pair_peer(p));
    bool alive = p->serving_rx && !fact_silent(p, p->serving_rx, p->cfg.takeover_after_ns);
    if (fact_named(p) && alive)
        snprintf(out, n, "in sync with primary %c%s", peer,
                 p->auto_takeover ? "" : "; automatic takeover is off");
    else if (fact_named(p) && !p->auto_takeover)
        snprintf(out, n, "primary %c is silent; automatic takeover is off: batonctl failover",
                 peer);
    else if (fact_named(p) && p->cfg.manual)
        snprintf(out, n,
                 "primary %c is silent, and takeover = \"manual\": see that it is off, then "
                 "batonctl failover on this node",
                 peer);
    else if (fact_named(p) && p->cfg.none)
        snprintf(out, n, "primary %c is silent; %s%s", peer, judgement_words(p->judged),
                 p->judged == JUDGED_GONE ? ": taking over"
                                          : ". Not taking over (batonctl failover decides)");
    else if (fact_named(p))
        snprintf(out, n, "primary %c is silent; taking over as soon as a majority agrees", peer);
    else if (alive)
        snprintf(out, n, "follows primary %c, not in sync yet", peer);
    else
        snprintf(out, n,
                 "waits for primary %c: this store isn't known to hold every acknowledged message",
                 peer);
}

static void why_start(const struct pair *p, char *out, size_t n)
{
    if (!p->store.open)
        snprintf(out, n, "the store is being opened and checked");
    else if (fact_below_seen(p))
        snprintf(
            out, n,
            "the voters' record (epoch %u) is older than what this node has seen (epoch %u): an "
            "arbiter from a backup? batonctl failover --force decides",
            (unsigned)p->voters.epoch, (unsigned)fact_seen(p));
    else if (p->behind)
        snprintf(out, n,
                 "the arbiter has lost the record of epoch %u that this node has seen: waits to "
                 "hear what the other node knows; if that one is dead: batonctl failover --force",
                 (unsigned)p->seen.epoch);
    else if (!p->rec_read && p->cfg.none && p->store.virgin)
        snprintf(out, n,
                 "waits for the other node: a new pair begins when both have met, or with "
                 "batonctl bootstrap");
    else if (!p->rec_read && p->cfg.none)
        snprintf(out, n,
                 "waits for the other node, which may hold more than this one; if it is gone: "
                 "batonctl start --alone");
    else if (!p->rec_read)
        snprintf(out, n,
                 "asks the voters who is primary; needs two of three (new pair: both nodes "
                 "and the witness, or batonctl bootstrap)");
    else
        snprintf(out, n, "deciding");
}

static void why_solo(const struct pair *p, char *out, size_t n)
{
    char peer = node_letter(pair_peer(p));
    if (p->cfg.single)
        snprintf(out, n, "a single node: no second copy is configured");
    else if (!p->attached)
        snprintf(out, n, "serving ALONE: %c isn't connected; new mail has one copy only%s", peer,
                 p->rec_local ? "; forced, and the voters don't know it yet" : "");
    else if (!p->caught_up)
        snprintf(out, n, "serving ALONE: %c is catching up", peer);
    else
        snprintf(out, n, "serving ALONE: %c has caught up and is watched before it counts", peer);
}

void roles_why(const struct pair *p, char *out, size_t n)
{
    static const char *const fixed[PHASES] = {
        [PH_ORPHAN] =
            "named primary by the record, but with another store: the other node has to take "
            "over (batonctl failover --force there, if it doesn't)",
        [PH_CLAIM] = "asks the voters to make this node primary",
        [PH_LEASE_WAIT] = "waits for the old primary's lease to end",
        [PH_PROMOTE] = "takes the store into the new epoch",
        [PH_TAKE_BACK] = "serving, taking the standby back",
        [PH_PAIRED] = "serving, the standby is in sync",
        [PH_DROP] = "serving, the standby is silent or slow: going on without it as soon as the "
                    "voters agree",
        [PH_RELEASE] = "serving, going on alone",
        [PH_FENCED] = "FENCED: neither the standby nor a majority of the voters answers",
        [PH_QUIESCE] = "switchover: the last deliveries end",
        [PH_DRAIN] = "switchover: the standby gets the rest",
        [PH_RELINQUISHED] = "gave up its role: the standby takes over",
        [PH_FINISH] = "clean stop: the last deliveries end",
        [PH_STEP] = "steps down",
        [PH_FAILED] = "FENCED: the store failed; restart this node to have it checked",
        [PH_LEAVING] = "clean stop: tells the primary",
        [PH_STOPPED] = "stopped",
    };
    switch (p->phase) {
    case PH_FENCED:
        if (p->cfg.none)
            snprintf(out, n,
                     "FENCED: the standby doesn't answer, and %s. It goes on by itself when either "
                     "does, or with batonctl start --alone",
                     p->cfg.manual ? "the record can't be written" : judgement_words(p->judged));
        else
            snprintf(out, n, "%s", fixed[PH_FENCED]);
        break;
    case PH_CLAIM:
        snprintf(out, n, "%s",
                 p->cfg.none && p->warrant == WARRANT_SILENT
                     ? "the primary is silent: taking over, after the fence command if there is one"
                     : fixed[PH_CLAIM]);
        break;
    case PH_START:
        why_start(p, out, n);
        break;
    case PH_FOLLOW:
        why_follow(p, out, n);
        break;
    case PH_SOLO:
        why_solo(p, out, n);
        break;
    default:
        snprintf(out, n, "%s", fixed[p->phase]);
    }
}
