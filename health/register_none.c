/* See register_none.h: who may go on without the other node. Core: messages, signs of life, results
 * of probes and of the fence command in; votes out. */
#include "health/register_none.h"

#include <assert.h>
#include <stdlib.h>

#include "node/base/mutant.h"

#define MS(n) ((uint64_t)(n)*1000000u)

enum {
    GRACE_MS = 150,       /* for the other node's own answer: two sendings and a disk's write */
    PROBE_MS = 5000,      /* while the other node is heard: for the status */
    PROBE_SOON_MS = 200,  /* while it isn't */
    SILENT_MS = 250,      /* two heartbeats lost and a bit: look whether the network is there */
    PATIENCE_MS = 1000,   /* of an operation whose grounds are gone: the other node may vote */
    PROBE_FRESH_MS = 600, /* an answer asked for longer ago says nothing about now */
    PROBE_SHOWN_MS = 10000,
    FENCE_AGAIN_MS = 10000, /* after one that failed */
    FENCE_LOST_MS = 35000,  /* its own time limit is 30 s; by then nobody will tell */
};

struct judge {
    struct judge_config cfg;
    judge_emit emit;
    void *ctx;
    /* the operation under way */
    enum warrant warrant;
    uint64_t begun;
    bool answered; /* by the other node: its vote decides */
    bool asked;
    struct register_msg pending;
    /* the other node */
    uint64_t heard, started;
    uint64_t rival_at; /* it asked for votes itself; 0: never */
    /* probes: one round at a time */
    unsigned waiting;                    /* for results of this round */
    bool any;                            /* answered in this round */
    unsigned failed;                     /* rounds in a row that nobody answered */
    uint64_t probe_at, cut_at;           /* cut_at: the newest of several of those */
    uint64_t ok_begun[JUDGE_PROBES_MAX]; /* newest answered; 0: never */
    uint64_t ok_at[JUDGE_PROBES_MAX];
    bool last_ok[JUDGE_PROBES_MAX];
    /* the fence command */
    bool fencing, fenced, fence_failed; /* the last two: about this silence */
    uint64_t fence_begun, fence_ended;
    enum fence_state fence_shown;
    enum judgement told;
};

const char *judgement_words(enum judgement j)
{
    static const char *const words[] = {
        [JUDGED_MANUAL] = "takeover = \"manual\": an operator decides",
        [JUDGED_ALIVE] = "the other node gives signs of life",
        [JUDGED_CUT_OFF] = "no probe answers: this node may be the one that is cut off",
        [JUDGED_FENCE_FAILED] = "the fence command failed, so the other node may still be running",
        [JUDGED_GONE] = "a probe answers, the other node doesn't",
    };
    assert((unsigned)j < sizeof words / sizeof words[0]);
    return words[j];
}

struct judge *judge_new(const struct judge_config *c, judge_emit emit, void *ctx)
{
    assert(c->probes <= JUDGE_PROBES_MAX);
    struct judge *j = xcalloc(1, sizeof *j);
    j->cfg = *c;
    j->emit = emit;
    j->ctx = ctx;
    j->told = JUDGED_MANUAL;
    return j;
}

void judge_free(struct judge *j)
{
    free(j);
}

static void say(struct judge *j, bool ok, const char *text)
{
    struct judge_fx fx = {.type = JUDGE_FX_LOG, .ok = ok, .text = text};
    j->emit(j->ctx, &fx);
}

/* ---- what is known ---- */

static bool silent_for(uint64_t since, uint64_t ns, uint64_t now)
{
    return now >= since + ns;
}

static bool probe_answers(const struct judge *j, uint64_t now)
{
    for (unsigned i = 0; i < j->cfg.probes; i++)
        if (j->ok_begun[i] > j->heard && !silent_for(j->ok_begun[i], MS(PROBE_FRESH_MS), now))
            return true;
    return false;
}

/* Since when the other node is silent although this one wasn't cut off. */
static uint64_t silent_since(const struct judge *j)
{
    uint64_t since = j->heard > j->started ? j->heard : j->started;
    return j->cut_at > since ? j->cut_at : since;
}

static enum judgement judge_now(const struct judge *j, uint64_t now)
{
    if (!j->cfg.automatic)
        return JUDGED_MANUAL;
    if (!silent_for(j->heard, j->cfg.takeover_after_ns, now))
        return JUDGED_ALIVE;
    if (!probe_answers(j, now) || !silent_for(silent_since(j), j->cfg.takeover_after_ns, now))
        return JUDGED_CUT_OFF;
    if (j->fence_failed && !silent_for(j->fence_ended, MS(FENCE_AGAIN_MS), now))
        return JUDGED_FENCE_FAILED;
    return JUDGED_GONE;
}

/* ---- the fence command ---- */

/* True once this silence needs no more of it: there is none, or it exited 0. */
static bool fence_settled(struct judge *j, uint64_t not_before, uint64_t now)
{
    if (!j->cfg.fence || j->fenced)
        return true;
    if (j->fencing || now < not_before)
        return false;
    if (j->fence_failed && !silent_for(j->fence_ended, MS(FENCE_AGAIN_MS), now))
        return false;
    j->fencing = true;
    j->fence_failed = false;
    j->fence_begun = now;
    j->fence_shown = FENCE_RUNS;
    say(j, false, "the other node is silent and a probe answers: the fence command is run");
    struct judge_fx fx = {.type = JUDGE_FX_FENCE};
    j->emit(j->ctx, &fx);
    return false;
}

void judge_fenced(struct judge *j, bool done, uint64_t now_ns)
{
    if (!j->fencing)
        return;
    j->fencing = false;
    j->fence_ended = now_ns;
    /* A node that was heard after the command began wasn't switched off by it, or is back. */
    bool about_now = j->heard < j->fence_begun;
    j->fenced = done && about_now;
    j->fence_failed = !done && about_now;
    j->fence_shown = done ? FENCE_DONE : about_now ? FENCE_FAILED : FENCE_ENDED;
    say(j, j->fenced,
        done        ? about_now ? "the fence command exited 0: the other node is off"
                                : "the fence command exited 0, but the other node was heard since"
        : about_now ? "the fence command failed: the other node may still be running"
                    : "the fence command was ended, as the other node was heard");
    judge_tick(j, now_ns);
}

/* ---- the vote ---- */

static bool granted(struct judge *j, uint64_t now)
{
    uint64_t half = j->cfg.takeover_after_ns / 2;
    bool silent = silent_for(j->heard, half, now);
    if (j->answered || (!silent && !silent_for(j->begun, MS(GRACE_MS), now)))
        return false; /* its own vote decides, or may still come */
    switch (j->warrant) {
    case WARRANT_NONE:
        return false;
    case WARRANT_GIVEN_UP:
        return !j->rival_at || silent_for(j->rival_at, MS(PATIENCE_MS), now);
    case WARRANT_FORCED:
        return true;
    case WARRANT_ORDERED: /* nor before it could be heard */
        return silent && silent_for(j->started, half, now);
    case WARRANT_SERVING:
        if (!j->cfg.automatic)
            return true;
        if (!silent || !probe_answers(j, now) || !silent_for(silent_since(j), half, now))
            return false;
        return fence_settled(j, 0, now) || j->fence_failed;
    case WARRANT_SILENT:
        return judge_now(j, now) == JUDGED_GONE &&
               fence_settled(
                   j, silent_since(j) + j->cfg.takeover_after_ns + MS(JUDGE_FENCE_DELAY_MS), now);
    }
    return false;
}

/* Votes for what is asked: the promise of one who never accepted anything, so that the node's own
 * row is what counts. */
static void vote(struct judge *j)
{
    struct judge_fx fx = {.type = JUDGE_FX_VOTE, .msg = j->pending};
    fx.msg.type = j->pending.type == REG_PREPARE ? REG_PROMISE : REG_ACCEPTED;
    fx.msg.accepted = j->pending.type == REG_PREPARE ? (struct ballot){0} : j->pending.ballot;
    fx.msg.voter_id = 0;
    fx.msg.voting = true;
    if (j->pending.type == REG_PREPARE)
        fx.msg.record = (struct record){.version = 1};
    j->asked = false;
    j->emit(j->ctx, &fx);
}

void judge_begin(struct judge *j, enum warrant warrant, uint64_t now_ns)
{
    j->warrant = warrant;
    j->begun = now_ns;
    j->answered = j->asked = false;
}

void judge_end(struct judge *j)
{
    j->warrant = WARRANT_NONE;
    j->asked = false;
}

void judge_ask(struct judge *j, const struct register_msg *m)
{
    if (m->type != REG_PREPARE && m->type != REG_ACCEPT)
        return;
    j->asked = true;
    j->pending = *m;
}

void judge_received(struct judge *j, const struct register_msg *m, uint64_t now_ns)
{
    if (m->type == REG_PREPARE || m->type == REG_ACCEPT)
        j->rival_at = now_ns;
    bool an_answer = m->type == REG_PROMISE || m->type == REG_ACCEPTED || m->type == REG_REFUSED;
    if (an_answer && m->nonce == j->pending.nonce)
        j->answered = true;
}

void judge_heard(struct judge *j, uint64_t now_ns)
{
    j->heard = now_ns;
    j->fenced = j->fence_failed = false; /* whatever comes next is another silence */
    if (!j->fencing || BATON_MUTANT(FENCE_GOES_ON, true, false))
        return;
    /* It may take as long as it likes to come through, and would shoot a node that is well. */
    struct judge_fx fx = {.type = JUDGE_FX_FENCE_END};
    j->emit(j->ctx, &fx);
}

/* ---- probes ---- */

void judge_probed(struct judge *j, unsigned i, bool answered, uint64_t begun_ns, uint64_t now_ns)
{
    assert(i < j->cfg.probes);
    j->last_ok[i] = answered;
    if (answered) {
        j->ok_begun[i] = begun_ns;
        j->ok_at[i] = now_ns;
        j->any = true;
    }
    if (j->waiting == 0 || --j->waiting > 0)
        return;
    j->failed = j->any ? 0 : j->failed + 1;
    if (j->failed >= 2) /* one alone may be a lost packet */
        j->cut_at = now_ns;
}

static void probe_if_due(struct judge *j, uint64_t now)
{
    bool silent = silent_for(j->heard, MS(SILENT_MS), now);
    uint64_t every = silent ? MS(PROBE_SOON_MS) : MS(PROBE_MS);
    if (j->cfg.probes == 0 || j->waiting > 0 || (j->probe_at && now < j->probe_at + every))
        return;
    j->probe_at = now;
    j->waiting = j->cfg.probes;
    j->any = false;
    struct judge_fx fx = {.type = JUDGE_FX_PROBE};
    j->emit(j->ctx, &fx);
}

/* ---- time ---- */

void judge_tick(struct judge *j, uint64_t now_ns)
{
    if (!j->started)
        j->started = now_ns;
    if (j->fencing && silent_for(j->fence_begun, MS(FENCE_LOST_MS), now_ns))
        judge_fenced(j, false, now_ns);
    probe_if_due(j, now_ns);
    enum judgement is = judge_now(j, now_ns);
    if (is != j->told) {
        j->told = is;
        struct judge_fx fx = {.type = JUDGE_FX_JUDGED, .judgement = is};
        j->emit(j->ctx, &fx);
    }
    if (!j->asked)
        return;
    if (granted(j, now_ns)) {
        vote(j);
    } else if (j->warrant == WARRANT_SILENT && is != JUDGED_GONE &&
               silent_for(j->begun, MS(PATIENCE_MS), now_ns)) {
        /* A takeover may wait long for its fence command: don't let it come true in a world that
         * has changed meanwhile. */
        struct judge_fx fx = {.type = JUDGE_FX_GIVE_UP};
        j->asked = false;
        j->emit(j->ctx, &fx);
    }
}

void judge_view(const struct judge *j, uint64_t now_ns, struct judge_view *out)
{
    *out = (struct judge_view){.automatic = j->cfg.automatic,
                               .probes = j->cfg.probes,
                               .judgement = j->told,
                               .fence = j->fence_shown};
    for (unsigned i = 0; i < j->cfg.probes; i++)
        out->answering += j->last_ok[i] && !silent_for(j->ok_at[i], MS(PROBE_SHOWN_MS), now_ns);
}
