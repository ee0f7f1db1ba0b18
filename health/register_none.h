/* The third vote where there is no third machine (protocol 5, "arbiter = none"). Core.
 *
 * Two machines can't tell a dead peer from a cut cable. So the register keeps its two voters, the
 * nodes, each with its durable row; what it sends to the witness comes here, to the node's own
 * judgement, which gives the third vote or none. It holds no state that counts: it votes for what
 * the node's own row says, and only for this node. While the other node answers, its vote decides
 * and the judgement is silent. Where it doesn't:
 *
 *   warrant    takeover = "manual"        takeover = "auto"
 *   SERVING    at once: the standby       when a probe answers, and the fence command, if there is
 *              can't take over by itself  one, has ended; else this node may be the one cut off
 *   SILENT     never                      when a probe answers and the fence command exited 0
 *   GIVEN_UP   at once: that primary said that it never serves again in the epoch that is replaced;
 *              but not while it asks for another one itself, started anew or come back
 *   ORDERED    when the other node is silent: somebody looked, and it is dead
 *   FORCED     at once
 *   NONE       never: a node that starts has to meet the other one (incident 26)
 *
 * An order isn't enough against a node that is heard: it may have gone on alone, and be starting
 * anew with a disk that is too slow for a vote.
 *
 * A probe's answer counts if it was asked for after the other node's last sign of life: a network
 * that worked before the cut proves nothing. Silence is counted from when this node could reach
 * something again, so that a switch that restarts isn't taken for a dead node; the primary waits
 * half as long as the standby, so that it moves first (incident 30).
 *
 * The fence command is run by whoever goes on without the other: a primary that only dropped its
 * standby would go on sending what a standby that shoots it then sends again. The standby's waits
 * FENCE_DELAY_MS more, so that two don't shoot each other. A primary whose command failed goes on
 * all the same, by the probe: it holds all the mail, and doubling is better than standing still; a
 * standby doesn't. A command under way is ended when the other node is heard; the next
 * silence is another one, and has a command of its own. */
#ifndef BATON_HEALTH_REGISTER_NONE_H
#define BATON_HEALTH_REGISTER_NONE_H

#include "health/register.h"

enum { JUDGE_PROBES_MAX = 8, JUDGE_FENCE_DELAY_MS = 2000 };

struct judge_config {
    bool automatic; /* takeover = "auto" */
    unsigned probes;
    bool fence; /* a command is set */
    uint64_t takeover_after_ns;
};

/* Whether the standby would be let take over from a silent primary. */
enum judgement {
    JUDGED_MANUAL,       /* takeover = "manual": an operator decides */
    JUDGED_ALIVE,        /* the other node gave a sign of life lately */
    JUDGED_CUT_OFF,      /* no probe answers: this node may be the one that is cut off */
    JUDGED_FENCE_FAILED, /* tried again later */
    JUDGED_GONE,         /* yes (the fence command, if there is one, is still to be run) */
};
const char *judgement_words(enum judgement j); /* for a person */

struct judge_fx {
    enum {
        JUDGE_FX_VOTE,      /* msg: give it to the register, as from WITNESS */
        JUDGE_FX_GIVE_UP,   /* the grounds are gone: register_give_up() */
        JUDGE_FX_PROBE,     /* try every probe once; judge_probed() for each, within a second */
        JUDGE_FX_FENCE,     /* run the command; judge_fenced() when it has ended */
        JUDGE_FX_FENCE_END, /* kill it; judge_fenced() all the same */
        JUDGE_FX_JUDGED,    /* judgement changed: tell the pair core */
        JUDGE_FX_LOG,       /* text; ok = false: a warning */
    } type;
    struct register_msg msg;
    enum judgement judgement;
    bool ok;
    const char *text;
};
typedef void (*judge_emit)(void *ctx, const struct judge_fx *fx);

struct judge;
struct judge *judge_new(const struct judge_config *c, judge_emit emit, void *ctx);
void judge_free(struct judge *j);
/* The register's next operation begins. */
void judge_begin(struct judge *j, enum warrant warrant, uint64_t now_ns);
/* It has ended. */
void judge_end(struct judge *j);
/* What the register sent to WITNESS. Never answered from within. */
void judge_ask(struct judge *j, const struct register_msg *m);
/* A proven sign of life of the other node. May emit FENCE_END, each time while a command runs. */
void judge_heard(struct judge *j, uint64_t now_ns);
/* The other node sent m: its own answer to what was asked silences the judgement. */
void judge_received(struct judge *j, const struct register_msg *m, uint64_t now_ns);
/* Probe i: answered (also by a refusal), or not. begun_ns: when it was sent. */
void judge_probed(struct judge *j, unsigned i, bool answered, uint64_t begun_ns, uint64_t now_ns);
void judge_fenced(struct judge *j, bool done, uint64_t now_ns);
/* Every 20 ms or so. */
void judge_tick(struct judge *j, uint64_t now_ns);

/* For status. */
enum fence_state { FENCE_NEVER, FENCE_RUNS, FENCE_DONE, FENCE_FAILED, FENCE_ENDED }; /* the last */
struct judge_view {
    bool automatic;
    unsigned probes, answering; /* of them, lately */
    enum judgement judgement;
    enum fence_state fence;
};
void judge_view(const struct judge *j, uint64_t now_ns, struct judge_view *out);
#endif
