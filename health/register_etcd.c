/* See register_etcd.h. One job at a time (a look once a second, or what pair.c asked for), one
 * request at a time. Every failure leads back to the range that a job begins with, at the next
 * endpoint; the job's deadline ends it. Core. */
#include "health/register_etcd.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/mutant.h"

#define MS(n) ((uint64_t)(n)*1000000u)

enum {
    LOOK_MS = 1000,         /* protocol 5: what is there is looked at once a second */
    LOOK_PATIENCE_MS = 900, /* over before the next one */
    REACHABLE_MS = 3000,    /* three looks lost: away */
    PATIENCE_MIN_MS = 250,  /* for one request; then the next endpoint. Grows with a slow etcd */
    PATIENCE_MAX_MS = 500,  /* below half of an operation: another endpoint has to get its turn */
    PATIENCE_FACTOR = 4,    /* times what the last answer took */
    AUTHENTICATE_MIN_MS = 700, /* etcd hashes the password slowly, on purpose */
    BACKOFF_MIN_MS = 40,       /* after a failure at every endpoint; doubles */
    BACKOFF_MAX_MS = 400,
    BOOTSTRAP_MS = 5000,
};

enum job { JOB_NONE, JOB_LOOK, JOB_READ, JOB_CHANGE, JOB_BOOTSTRAP };
enum step { STEP_RANGE, STEP_PUT, STEP_PERSIST };

/* What the key was, by one answer. */
struct found {
    uint64_t revision; /* 0: there is no key */
    struct etcd_value value;
    uint8_t bytes[ETCD_VALUE_BYTES_MAX];
    size_t n;
    bool readable;
};
enum verdict { FOUND_CURRENT, FOUND_NOTHING, FOUND_BEHIND, FOUND_FOREIGN };

struct register_etcd {
    struct arbiter arbiter;
    struct register_etcd_config cfg;
    register_etcd_emit emit;
    void *ctx;
    uint64_t now_ns, random, serial;
    bool virgin, told_seen;

    struct voter_state seen; /* in memory; ahead of the disk while `writing` */
    struct voter_state row;  /* that is being written, or was written last */
    bool writing, dirty;     /* dirty: the disk may hold another row than `seen` */

    enum job job;
    enum step step;
    uint64_t from_tag, op;
    struct record to;
    bool cast;        /* a put of `to` may take effect, or have taken it */
    bool cast_before; /* the put under way */
    uint64_t deadline_ns, retry_ns, backoff_ns;
    enum register_outcome outcome; /* while it is made durable */
    struct found put;              /* PUT under way, as it will be found; PERSIST: what is there */

    uint64_t request; /* id of the one under way; 0: none */
    enum etcd_request asking;
    uint64_t sent_ns, give_up_ns, patience_ns;
    unsigned at, failures; /* endpoint; failures since the last answer */
    bool token;

    uint64_t refused_ns;                    /* newest refusal by an etcd that is there; 0: none */
    uint64_t look_ns, answered_ns, took_ns; /* next look; newest answer; how long it took */
    struct found last;
    bool looked, behind;
    char error[200];
};

/* ---- what is there ---- */

static struct found found_of(uint64_t revision, struct slice value)
{
    struct found f = {.revision = revision};
    if (revision == 0 || value.n > sizeof f.bytes)
        return f;
    memcpy(f.bytes, value.p, value.n);
    f.n = value.n;
    f.readable = etcd_value_decode(value, &f.value);
    return f;
}

static struct found found_made(const struct etcd_value *v)
{
    struct buf b;
    buf_init(&b, ETCD_VALUE_BYTES_MAX);
    bool ok = etcd_value_encode(&b, v);
    assert(ok);
    (void)ok;
    struct found f = {.value = *v, .n = b.len, .readable = true};
    memcpy(f.bytes, b.data, b.len);
    buf_free(&b);
    return f;
}

static struct ballot place(const struct found *f)
{
    return (struct ballot){.counter = f->value.lineage, .voter = f->revision};
}

/* Is what was found what this node may follow? */
static enum verdict judge(const struct register_etcd *r, const struct found *f)
{
    const struct voter_state *seen = &r->seen;
    if (f->revision && !f->readable)
        return FOUND_FOREIGN;
    if (seen->record.version == 0)
        return f->revision ? FOUND_CURRENT : FOUND_NOTHING;
    if (BATON_MUTANT(ETCD_BACKUP_FOLLOWED, f->revision != 0, false))
        return FOUND_CURRENT;
    if (f->revision == 0 || f->value.record.epoch < seen->record.epoch)
        return FOUND_BEHIND;
    int order = ballot_cmp(place(f), seen->accepted);
    bool other = order == 0 && f->value.record.tag != seen->record.tag;
    return order < 0 || other ? FOUND_BEHIND : FOUND_CURRENT;
}

/* ---- requests ---- */

static uint64_t draw(struct register_etcd *r)
{
    uint64_t z = r->random += 0x9e3779b97f4a7c15ull; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void ask(struct register_etcd *r, enum etcd_request what)
{
    assert(!r->request && r->job != JOB_NONE);
    uint64_t patience = r->patience_ns;
    if (what == ETCD_AUTHENTICATE && patience < MS(AUTHENTICATE_MIN_MS))
        patience = MS(AUTHENTICATE_MIN_MS);
    if (patience > r->deadline_ns - r->now_ns)
        patience = r->deadline_ns - r->now_ns;
    r->request = ++r->serial;
    r->asking = what;
    r->sent_ns = r->now_ns;
    r->give_up_ns = r->now_ns + patience;
    struct register_etcd_fx fx = {.type = ETCD_FX_REQUEST,
                                  .id = r->request,
                                  .endpoint = r->at,
                                  .request = what,
                                  .timeout_ns = patience};
    if (what == ETCD_PUT) {
        fx.expect_revision = r->last.revision;
        fx.expect = slice_of(r->last.bytes, r->last.n);
        fx.value = slice_of(r->put.bytes, r->put.n);
        fx.expect_any = BATON_MUTANT(ETCD_TAG_ONLY, true, false);
        r->cast_before = r->cast;
        r->cast |= r->job == JOB_CHANGE;
    }
    r->emit(r->ctx, &fx);
}

/* The next thing this job has to ask for. */
static void go_on(struct register_etcd *r)
{
    assert(r->step != STEP_PERSIST && r->now_ns < r->deadline_ns);
    r->retry_ns = 0;
    if (r->cfg.authenticate && !r->token)
        ask(r, ETCD_AUTHENTICATE);
    else
        ask(r, r->step == STEP_PUT ? ETCD_PUT : ETCD_RANGE);
}

static void cancel(struct register_etcd *r)
{
    if (!r->request)
        return;
    struct register_etcd_fx fx = {.type = ETCD_FX_CANCEL, .id = r->request, .endpoint = r->at};
    r->request = 0;
    r->emit(r->ctx, &fx);
}

/* ---- a job's end ---- */

static void tell(struct register_etcd *r, enum pair_event_type type, int outcome,
                 const struct record *record)
{
    struct pair_event ev = {.type = type, .outcome = outcome, .record = *record, .flag = true};
    r->arbiter.events.event(r->arbiter.events.ctx, &ev);
}

static void finish(struct register_etcd *r, enum register_outcome outcome,
                   const struct record *record, const char *why)
{
    enum job job = r->job;
    assert(job != JOB_NONE);
    cancel(r);
    r->job = JOB_NONE;
    r->look_ns = r->now_ns + MS(LOOK_MS);
    if (job == JOB_LOOK)
        return;
    if (job != JOB_BOOTSTRAP) {
        tell(r, PE_REGISTER, (int)outcome, record);
        return;
    }
    char text[160];
    if (outcome == REG_DONE)
        snprintf(text, sizeof text, "the first record is written: %c is primary, alone",
                 record->primary == NODE_A ? 'a' : 'b');
    else
        snprintf(text, sizeof text, "%s", why);
    r->arbiter.events.bootstrapped(r->arbiter.events.ctx, r->op, outcome == REG_DONE, text);
    if (outcome == REG_DONE)
        tell(r, PE_BOOTSTRAPPED, 0, record);
}

static void give_up(struct register_etcd *r)
{
    static const struct record none;
    finish(r, r->cast ? REG_UNKNOWN : REG_NOT_DONE, &none,
           r->error[0] ? r->error : "etcd didn't answer in time; look at the status and try again");
}

static void write_seen(struct register_etcd *r)
{
    assert(!r->writing);
    r->writing = true;
    r->row = r->seen;
    struct register_etcd_fx fx = {.type = ETCD_FX_PERSIST, .state = r->seen};
    r->emit(r->ctx, &fx);
}

/* f is there, and this is the outcome: told once f is durable as seen. */
static void conclude(struct register_etcd *r, enum register_outcome outcome, const struct found *f)
{
    assert(f->readable && f->revision && judge(r, f) == FOUND_CURRENT);
    bool same = ballot_cmp(place(f), r->seen.accepted) == 0 && !r->writing && !r->dirty;
    r->behind = false;
    r->outcome = outcome;
    r->put = *f;
    r->step = STEP_PERSIST;
    r->seen.accepted = r->seen.promised = place(f);
    r->seen.record = f->value.record;
    r->seen.voting = true;
    if (!same) /* the other node hears of it from now on, whatever becomes of this job */
        tell(r, PE_SEEN, 0, &r->seen.record);
    if (same)
        finish(r, outcome, &f->value.record, "");
    else if (!r->writing)
        write_seen(r);
}

static bool row_is_seen(const struct register_etcd *r)
{
    return ballot_cmp(r->row.accepted, r->seen.accepted) == 0 &&
           r->row.record.tag == r->seen.record.tag;
}

void register_etcd_persisted(struct register_etcd *r, bool ok, uint64_t now_ns)
{
    assert(r->writing);
    r->now_ns = now_ns;
    r->writing = false;
    r->dirty = !ok || !row_is_seen(r);
    if (r->job == JOB_NONE || r->step != STEP_PERSIST)
        return;
    if (!ok)
        r->retry_ns = now_ns + MS(BACKOFF_MAX_MS);
    else if (r->dirty) /* it was begun for an earlier job */
        write_seen(r);
    else
        finish(r, r->outcome, &r->put.value.record, "");
}

/* ---- answers ---- */

static void put(struct register_etcd *r, uint64_t lineage, const struct record *record)
{
    struct etcd_value v = {.lineage = lineage, .record = *record};
    v.seal = BATON_MUTANT(ETCD_TAG_ONLY, 0, draw(r));
    r->put = found_made(&v);
    r->step = STEP_PUT;
    go_on(r);
}

static void found_behind(struct register_etcd *r, const struct found *f)
{
    const struct voter_state *seen = &r->seen;
    const struct arbiter_events *pair = &r->arbiter.events;
    r->behind = true;
    if (r->job == JOB_READ && pair->may_give_back && pair->may_give_back(pair->ctx, r->now_ns)) {
        uint64_t lineage = f->revision && f->value.lineage > seen->accepted.counter
                               ? f->value.lineage
                               : seen->accepted.counter;
        put(r, lineage + 1, &seen->record);
        return;
    }
    bool look = r->job == JOB_LOOK;
    finish(r, r->cast ? REG_UNKNOWN : REG_BEHIND, &seen->record,
           "etcd holds less than this node has seen (restored from a backup, or emptied); if the "
           "other node is dead: batonctl failover --force");
    if (look)
        tell(r, PE_BEHIND, 0, &r->seen.record);
}

static void on_current(struct register_etcd *r, const struct found *f)
{
    const struct record *there = &f->value.record;
    r->behind = false;
    switch (r->job) {
    case JOB_LOOK:
        finish(r, REG_DONE, there, "");
        tell(r, PE_HINT, 0, there);
        break;
    case JOB_READ:
        if (BATON_MUTANT(ETCD_READ_ONLY, true, false))
            conclude(r, REG_DONE, f);
        else
            put(r, f->value.lineage, there);
        break;
    case JOB_CHANGE:
        if (there->tag == r->to.tag)
            conclude(r, REG_DONE, f);
        else if (there->tag == r->from_tag)
            put(r, f->value.lineage, &r->to);
        else /* whatever was sent before was compared with something older: it can't follow */
            conclude(r, REG_MISMATCH, f);
        break;
    case JOB_BOOTSTRAP:
        if (there->tag == r->to.tag)
            conclude(r, REG_DONE, f);
        else
            finish(r, REG_NOT_DONE, there,
                   "etcd holds a record already: this pair was started before");
        break;
    case JOB_NONE:
        break;
    }
}

/* What is there decides how the job goes on. */
static void on_found(struct register_etcd *r, const struct found *f)
{
    static const struct record none;
    r->last = *f;
    r->looked = true;
    r->step = STEP_RANGE;
    switch (judge(r, f)) {
    case FOUND_CURRENT:
        on_current(r, f);
        break;
    case FOUND_BEHIND:
        found_behind(r, f);
        break;
    case FOUND_NOTHING:
        r->behind = false;
        if (r->job == JOB_BOOTSTRAP)
            put(r, 1, &r->to);
        else
            finish(r, r->cast ? REG_UNKNOWN : REG_NOT_DONE, &none, "");
        break;
    case FOUND_FOREIGN:
        snprintf(r->error, sizeof r->error,
                 "the key holds something that isn't a record of this version");
        give_up(r);
        break;
    }
}

/* The same job again, at the next endpoint; after all of them, a little later. */
static void failed(struct register_etcd *r, const char *error, bool refused)
{
    /* What an etcd that is there complains about is worth more than that another is away. */
    if (refused || !r->refused_ns || r->now_ns - r->refused_ns > MS(REACHABLE_MS))
        snprintf(r->error, sizeof r->error, "%s: %s", r->cfg.endpoint[r->at], error);
    if (refused)
        r->refused_ns = r->now_ns;
    r->step = STEP_RANGE;
    r->at = (r->at + 1) % r->cfg.n_endpoints;
    r->failures++;
    r->retry_ns = r->now_ns;
    if (r->failures % r->cfg.n_endpoints == 0) {
        r->retry_ns += r->backoff_ns;
        r->backoff_ns =
            r->backoff_ns * 2 < MS(BACKOFF_MAX_MS) ? r->backoff_ns * 2 : MS(BACKOFF_MAX_MS);
    }
}

static void note_answer(struct register_etcd *r)
{
    r->took_ns = r->now_ns - r->sent_ns;
    r->answered_ns = r->now_ns;
    r->failures = 0;
    r->backoff_ns = MS(BACKOFF_MIN_MS);
    r->error[0] = 0;
    r->refused_ns = 0;
    uint64_t p = r->took_ns * PATIENCE_FACTOR;
    r->patience_ns = p < MS(PATIENCE_MIN_MS)   ? MS(PATIENCE_MIN_MS)
                     : p > MS(PATIENCE_MAX_MS) ? MS(PATIENCE_MAX_MS)
                                               : p;
}

static void on_answered(struct register_etcd *r, enum etcd_request asked,
                        const struct etcd_answer *a)
{
    if (asked == ETCD_AUTHENTICATE) {
        r->token = true;
        go_on(r);
        return;
    }
    note_answer(r);
    if (asked == ETCD_PUT && a->put) {
        r->put.revision = a->revision;
        r->last = r->put;
        if (judge(r, &r->put) == FOUND_CURRENT)
            conclude(r, REG_DONE, &r->put);
        else
            failed(r, "its answer makes no sense", true);
        return;
    }
    struct found f = found_of(a->revision, a->value);
    on_found(r, &f);
}

static void undo_cast(struct register_etcd *r, enum etcd_request asked)
{
    if (asked == ETCD_PUT)
        r->cast = r->cast_before;
}

void register_etcd_answer(struct register_etcd *r, uint64_t id, const struct etcd_answer *a,
                          uint64_t now_ns)
{
    if (!r->request || id != r->request)
        return;
    r->now_ns = now_ns;
    r->request = 0;
    enum etcd_request asked = r->asking;
    if (now_ns >= r->deadline_ns) {
        give_up(r);
        return;
    }
    switch (a->what) {
    case ETCD_ANSWERED:
        on_answered(r, asked, a);
        return;
    case ETCD_NO_TOKEN:
        undo_cast(r, asked);
        r->token = false;
        failed(r, a->error, true);
        if (r->cfg.authenticate && r->failures == 1) { /* it only expired */
            r->at = (r->at + r->cfg.n_endpoints - 1) % r->cfg.n_endpoints;
            r->retry_ns = now_ns;
        }
        return;
    case ETCD_NOT_SENT:
    case ETCD_REFUSED:
        undo_cast(r, asked);
        failed(r, a->error, a->what == ETCD_REFUSED);
        return;
    case ETCD_LOST:
        failed(r, a->error, false);
        return;
    }
}

/* ---- asked by pair.c ---- */

static struct register_etcd *self(const struct arbiter *a)
{
    return (struct register_etcd *)a;
}

static bool begin(struct register_etcd *r, enum job job, uint64_t until_ns, uint64_t now_ns)
{
    r->now_ns = now_ns;
    if ((r->job != JOB_NONE && r->job != JOB_LOOK) || until_ns <= now_ns)
        return false;
    cancel(r); /* a look */
    r->job = job;
    r->step = STEP_RANGE;
    r->cast = false;
    r->deadline_ns = until_ns;
    return true;
}

static bool etcd_ask(struct arbiter *a, const struct pair_effect *fx, uint64_t now_ns)
{
    struct register_etcd *r = self(a);
    if (!begin(r, fx->type == PX_READ ? JOB_READ : JOB_CHANGE, fx->until_ns, now_ns))
        return false;
    r->from_tag = fx->from_tag;
    r->to = fx->record;
    go_on(r);
    return true;
}

static void etcd_bootstrap(struct arbiter *a, const struct record *first, uint64_t op,
                           uint64_t now_ns)
{
    struct register_etcd *r = self(a);
    r->op = op;
    r->to = *first;
    if (begin(r, JOB_BOOTSTRAP, now_ns + MS(BOOTSTRAP_MS), now_ns))
        go_on(r);
    else
        a->events.bootstrapped(a->events.ctx, op, false, "another operation is under way");
}

static void grow_patience(struct register_etcd *r)
{
    uint64_t twice = r->patience_ns * 2;
    r->patience_ns = twice < MS(PATIENCE_MAX_MS) ? twice : MS(PATIENCE_MAX_MS);
}

static void etcd_tick(struct arbiter *a, uint64_t now_ns)
{
    struct register_etcd *r = self(a);
    r->now_ns = now_ns;
    if (!r->told_seen) {
        r->told_seen = true;
        tell(r, PE_SEEN, 0, &r->seen.record);
    }
    if (r->job == JOB_NONE && now_ns >= r->look_ns &&
        begin(r, JOB_LOOK, now_ns + MS(LOOK_PATIENCE_MS), now_ns))
        r->retry_ns = now_ns;
    if (r->job == JOB_NONE)
        return;
    if (r->request && (now_ns >= r->give_up_ns || now_ns >= r->deadline_ns)) {
        cancel(r);
        grow_patience(r);
        failed(r, "no answer", false); /* also at the deadline: the next job asks elsewhere */
    }
    if (now_ns >= r->deadline_ns)
        give_up(r);
    if (r->job == JOB_NONE || r->request || !r->retry_ns || now_ns < r->retry_ns)
        return;
    if (r->step != STEP_PERSIST) {
        go_on(r);
    } else if (!r->writing) {
        r->retry_ns = 0;
        write_seen(r);
    }
}

static void etcd_heard(struct arbiter *a, uint64_t now_ns)
{
    (void)a; /* the other node has no vote here */
    (void)now_ns;
}

static void etcd_set_virgin(struct arbiter *a, bool virgin)
{
    self(a)->virgin = virgin;
}

static bool answers(const struct register_etcd *r, uint64_t now_ns)
{
    return r->answered_ns && now_ns - r->answered_ns < MS(REACHABLE_MS);
}

static bool etcd_all_virgin(const struct arbiter *a, uint64_t now_ns)
{
    const struct register_etcd *r = self(a);
    return r->virgin && r->seen.record.version == 0 && r->looked && r->last.revision == 0 &&
           r->job == JOB_NONE && answers(r, now_ns);
}

static void etcd_view(const struct arbiter *a, uint64_t now_ns, struct arbiter_view *out)
{
    const struct register_etcd *r = self(a);
    bool there = answers(r, now_ns);
    *out = (struct arbiter_view){.behind = r->behind};
    out->reachable[r->cfg.self] = true;
    out->reachable[WITNESS] = there;
    out->voting[WITNESS] = there && !r->behind && r->seen.record.version;
    if (r->error[0])
        snprintf(out->detail, sizeof out->detail, "%s", r->error);
    else if (there)
        snprintf(out->detail, sizeof out->detail, "%s answers in %.1f ms", r->cfg.endpoint[r->at],
                 (double)r->took_ns / 1e6);
}

/* ---- life ---- */

struct register_etcd *register_etcd_new(const struct register_etcd_config *c,
                                        const struct arbiter_events *events,
                                        register_etcd_emit emit, void *ctx)
{
    static const struct arbiter_ops ops = {
        .ask = etcd_ask,
        .bootstrap = etcd_bootstrap,
        .tick = etcd_tick,
        .heard = etcd_heard,
        .set_virgin = etcd_set_virgin,
        .all_virgin = etcd_all_virgin,
        .view = etcd_view,
    };
    assert(c->n_endpoints > 0 && c->self < NODES);
    struct register_etcd *r = xcalloc(1, sizeof *r);
    r->arbiter = (struct arbiter){.ops = &ops, .events = *events};
    r->cfg = *c;
    r->seen = r->row = c->seen;
    r->random = c->random;
    r->emit = emit;
    r->ctx = ctx;
    r->patience_ns = MS(PATIENCE_MIN_MS);
    r->backoff_ns = MS(BACKOFF_MIN_MS);
    r->at = c->self % c->n_endpoints;
    return r;
}

void register_etcd_free(struct register_etcd *r)
{
    free(r);
}

struct arbiter *register_etcd_arbiter(struct register_etcd *r)
{
    return &r->arbiter;
}
