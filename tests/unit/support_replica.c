/* See support_replica.h. */
#include "support_replica.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "replication/apply.h"
#include "replication/own.h"
#include "replication/replica_state.h"

enum { HISTORY_BYTES = 16384, BODY_BYTES = 200 };

enum job_type {
    JOB_REQUEST,
    JOB_OWN,
    JOB_COMMIT,
    JOB_REPLY,
    JOB_BATCH,
    JOB_DURABLE,
    JOB_EMPTY,
    JOB_FRAME
};
struct job {
    struct job *next;
    enum job_type type;
    struct store_request request;
    struct store_reply reply;
    struct own_batch batch;
    struct pos pos;
    uint64_t id;     /* OWN: message; FRAME: link; EMPTY: the question */
    uint8_t outcome; /* the state that its recipient gets; 0: a new message */
    uint8_t frame;
    struct slice key, value; /* OWN: operator state; of the program's own text */
    struct shared *bytes;
};

static struct job *push(struct job ***end, enum job_type type)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->type = type;
    **end = j;
    *end = &j->next;
    return j;
}

static struct job *pop(struct job **head, struct job ***end)
{
    struct job *j = *head;
    *head = j->next;
    if (!*head)
        *end = head;
    return j;
}

static void job_free(struct job *j)
{
    shared_unref(j->request.bytes);
    shared_unref(j->reply.bytes);
    shared_unref(j->batch.rows);
    shared_unref(j->bytes);
    free(j);
}

static void drop_all(struct job **head, struct job ***end)
{
    while (*head)
        job_free(pop(head, end));
    *end = head;
}

static int64_t wall(const struct world *w)
{
    return 1700000000000 + (int64_t)(w->now / 1000000);
}

const struct store_meta *world_meta(const struct world *w, unsigned node)
{
    return store_memory_meta(w->node[node].store);
}

struct store_id world_store_id(const struct world *w, unsigned node)
{
    return world_meta(w, node)->id;
}

/* ---- invariants that hold after every step ---- */

static void check(const struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        const struct world_node *n = &w->node[i];
        if (!n->up || !n->epoch || n->writer != n->epoch)
            continue;
        assert(n->committed <= world_meta(w, i)->end.lsn);
        /* Invariant 5: while the other's store is in in_sync it has all that is committed. */
        if (n->serving_waits)
            assert(n->committed <= world_meta(w, 1 - i)->end.lsn);
    }
}

/* ---- the core's effects ---- */

static void core_step(struct world_node *n, struct replica_event *ev)
{
    if (n->up)
        replica_step(n->core, ev, n->world->now, wall(n->world));
}

static void on_send(struct world_node *n, const struct replica_effect *fx)
{
    struct world *w = n->world;
    if (!w->linked || w->id[n->self] != fx->link)
        return;
    struct buf b;
    buf_init(&b, FRAME_MAX * 2);
    buf_append_slice(&b, fx->payload);
    if (fx->shared)
        buf_append(&b, fx->shared->data, fx->shared->n);
    unsigned to = 1 - n->self;
    struct job *j = push(&w->wire_end[to], JOB_FRAME);
    j->frame = fx->frame;
    j->bytes = shared_new(buf_slice(&b));
    j->id = w->id[to];
    buf_free(&b);
}

static void emit(void *ctx, const struct replica_effect *fx)
{
    struct world_node *n = ctx;
    struct world *w = n->world;
    switch (fx->type) {
    case RX_SEND:
        on_send(n, fx);
        break;
    case RX_DIAL:
        n->dialling = true;
        break;
    case RX_HANG_UP:
        n->dialling = false;
        break;
    case RX_CLOSE:
        if (w->linked && w->id[n->self] == fx->link)
            w->cut = true;
        break;
    case RX_STORE: {
        bool read = fx->request->type == SR_CHANGES || fx->request->type == SR_DIGESTS ||
                    fx->request->type == SR_ROWS;
        struct job *j = push(read ? &n->reads_end : &n->jobs_end, JOB_REQUEST);
        j->request = *fx->request;
        break;
    }
    case RX_WATERMARK:
        assert(n->epoch != fx->epoch || fx->committed >= n->committed);
        assert(n->epoch != fx->epoch || fx->settled >= n->settled);
        n->epoch = fx->epoch;
        n->committed = fx->committed;
        n->settled = fx->settled;
        n->noted = fx->noted;
        break;
    case RX_EPOCH_OVER:
        n->epoch_overs++;
        n->serving_waits = false;
        break;
    case RX_REPORT:
        if (fx->report.type == PE_EMPTY) {
            n->wants_to_empty = fx->report.flag;
            if (n->wants_to_empty && !n->keeps_store)
                push(&n->inbox_end, JOB_EMPTY)->id = fx->report.op;
            break;
        }
        assert(n->n_reports < WORLD_REPORTS);
        n->reports[n->n_reports++] = fx->report;
        break;
    case RX_MENDED:
        n->mended_id = fx->id;
        n->mended = (enum verify_mended)fx->mended;
        n->n_mended++;
        break;
    case RX_OP_DONE:
        n->op_ok = fx->ok;
        n->op_answers++;
        break;
    case RX_LOG:
        n->logs++;
        if (getenv("WORLD_LOG"))
            fprintf(stderr, "%c: %s\n", 'a' + n->self, fx->text);
        break;
    }
}

/* ---- the storage thread ---- */

static void own_hand_over(struct world_node *n)
{
    push(&n->inbox_end, JOB_BATCH)->batch = own_batch(n->own, true);
}

void world_body(uint8_t *p, size_t n, uint64_t from)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(rng_mix(from + i / 8) >> 8 * (i % 8));
}

int world_put_message(struct world_node *n, uint64_t id, size_t body_bytes)
{
    uint8_t *body = xmalloc(body_bytes);
    uint32_t recipients = n->recipients ? n->recipients : 1;
    world_body(body, body_bytes, id);
    struct row m = {.type = ROW_MESSAGE,
                    .message = {.id = id,
                                .creator = store_memory_meta(n->store)->id,
                                .received_ms = wall(n->world),
                                .size = body_bytes,
                                .recipients = recipients,
                                .sender = SLICE_LIT("from@example.com"),
                                .body = slice_of(body, body_bytes)}};
    world_body(m.message.sha256, 32, ~id);
    int err = own_put(n->own, &m);
    free(body);
    for (uint32_t i = 0; !err && i < recipients; i++) {
        struct row r = {.type = ROW_RECIPIENT,
                        .recipient = {.id = id,
                                      .index = i,
                                      .state = RCPT_QUEUED,
                                      .address = SLICE_LIT("to@example.net"),
                                      .domain = SLICE_LIT("example.net")}};
        err = own_put(n->own, &r);
    }
    return err;
}

static int put_outcome(struct world_node *n, uint64_t id, uint8_t state)
{
    const struct row_recipient *here = store_memory_recipient(n->store, id, 0);
    if (!here || rcpt_terminal(here->state))
        return STORE_NOT_FOUND;
    struct row r = {.type = ROW_RECIPIENT,
                    .recipient = {.id = id,
                                  .state = state,
                                  .attempts = here->attempts + 1,
                                  .code = state == RCPT_DELIVERED ? 250 : 451,
                                  .address = SLICE_LIT("to@example.net"),
                                  .domain = SLICE_LIT("example.net")}};
    int err = own_put(n->own, &r);
    return err ? err : own_finish(n->own, id);
}

/* Hands over, and leaves the transaction open: it is committed at the next turn. */
static void do_own(struct world_node *n, struct job *j)
{
    if (!n->writer || own_begin(n->own, n->store, n->writer, wall(n->world)))
        return;
    struct row said = {.type = ROW_OPSTATE, .opstate = {.key = j->key, .value = j->value}};
    int err = j->key.n     ? own_put(n->own, &said)
              : j->outcome ? put_outcome(n, j->id, j->outcome)
                           : world_put_message(n, j->id, BODY_BYTES);
    if (err) {
        own_abort(n->own);
        return;
    }
    own_hand_over(n);
    n->own_open = true;
    store_memory_suspend(n->store);
}

static void purge(struct world_node *n)
{
    for (bool more = true; more;)
        if (apply_purge(n->store, UINT64_MAX, 100, &more))
            assert(!"memory doesn't fail");
}

static void do_commit(struct world_node *n)
{
    n->own_open = false;
    store_memory_resume(n->store);
    if (n->fail_commit) {
        n->fail_commit = false;
        own_abort(n->own);
        n->writer = 0; /* the storage thread takes nothing more until it was checked */
        struct job *j = push(&n->inbox_end, JOB_DURABLE);
        j->pos = (struct pos){0, 0};
        return;
    }
    int err = own_commit(n->own, n->remembered);
    assert(!err);
    (void)err;
    purge(n);
    push(&n->inbox_end, JOB_DURABLE)->pos = store_memory_meta(n->store)->end;
}

static int do_merge(struct world_node *n, const struct store_request *q)
{
    struct wire_reader in = wire_read(slice_of(q->bytes->data, q->bytes->n));
    if (store_memory_meta(n->store)->purged > q->first)
        return STORE_CONFLICT;
    int err = own_begin(n->own, n->store, n->writer, wall(n->world));
    while (!err && in.n) {
        uint8_t as = wire_get_u8(&in);
        struct row row;
        err = row_decode(&in, &row) ? own_merge(n->own, &row, (enum unmerged_class)as, 3600000)
                                    : STORE_CORRUPT;
    }
    if (err) {
        own_abort(n->own);
        return err;
    }
    if (!own_count(n->own)) {
        own_abort(n->own);
        return 0;
    }
    own_hand_over(n);
    err = own_commit(n->own, n->remembered);
    purge(n);
    push(&n->inbox_end, JOB_DURABLE)->pos = store_memory_meta(n->store)->end;
    return err;
}

struct collect {
    struct buf b;
    uint32_t n;
    size_t limit;
    uint64_t first, last;
    bool more, classes;
};

static bool collect_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct collect *c = ctx;
    if (c->n && c->b.len >= c->limit) {
        c->more = true;
        return false;
    }
    bool ok = (!c->classes || wire_put_u8(&c->b, (uint8_t)mark)) && row_encode(&c->b, r);
    assert(ok);
    (void)ok;
    c->n++;
    c->last = row_pos(r).lsn;
    return true;
}

static void do_unmerged(struct world_node *n, const struct store_request *q, struct store_reply *r)
{
    struct collect c = {.limit = q->limit, .classes = true};
    buf_init(&c.b, FRAME_MAX);
    r->err = n->store->ops->each_unmerged(n->store, collect_row, &c);
    r->n_rows = c.n;
    r->more = c.more;
    r->bytes = shared_new(buf_slice(&c.b));
    buf_free(&c.b);
}

static int do_unmark(struct world_node *n, const struct store_request *q)
{
    struct wire_reader in = wire_read(slice_of(q->bytes->data, q->bytes->n));
    int err = n->store->ops->begin(n->store);
    while (!err && in.n) {
        struct row row;
        err = row_decode(&in, &row) ? n->store->ops->unmark(n->store, &row) : STORE_CORRUPT;
    }
    if (!err)
        return n->store->ops->commit(n->store);
    n->store->ops->rollback(n->store);
    return err;
}

static int do_seen(struct world_node *n, uint32_t epoch)
{
    struct store_meta m = *store_memory_meta(n->store);
    if (epoch > m.epoch_seen)
        m.epoch_seen = epoch;
    int err = n->store->ops->begin(n->store);
    if (!err)
        err = n->store->ops->set_meta(n->store, &m);
    return err ? err : n->store->ops->commit(n->store);
}

static int do_adopt(struct world_node *n, const struct store_request *q)
{
    struct history h;
    struct wire_reader in = wire_read(slice_of(q->bytes->data, q->bytes->n));
    if (!history_decode(&in, &h))
        return STORE_CORRUPT;
    return apply_adopt(n->store, q->pos, &h, q->committed, slice_of(in.p, in.n));
}

static int do_follow(struct world_node *n, const struct store_request *q)
{
    struct batch x;
    struct wire_reader in = wire_read(slice_of(q->bytes->data, q->bytes->n));
    if (!batch_decode(&in, &x))
        return STORE_CORRUPT;
    int err = apply_follow(n->store, &x, wall(n->world));
    if (!err)
        purge(n);
    return err;
}

static void do_changes(struct world_node *n, const struct store_request *q, struct store_reply *r)
{
    struct collect c = {.limit = q->limit};
    buf_init(&c.b, FRAME_MAX);
    r->err = n->store->ops->changes_after(n->store, q->first, collect_row, &c);
    struct store_meta m;
    n->store->ops->get_meta(n->store, &m);
    struct buf h, out;
    buf_init(&h, HISTORY_BYTES);
    buf_init(&out, FRAME_MAX);
    history_encode(&h, &m.history);
    struct batch x = {.epoch = q->epoch,
                      .first = q->first + 1,
                      .last = c.more ? c.last : m.end.lsn,
                      .complete = !c.more,
                      .rows = buf_slice(&c.b),
                      .n_rows = c.n,
                      .history = buf_slice(&h)};
    bool ok = batch_encode(&out, &x);
    assert(ok);
    (void)ok;
    r->bytes = shared_new(buf_slice(&out));
    r->n_rows = c.n;
    r->more = c.more;
    buf_free(&h);
    buf_free(&out);
    buf_free(&c.b);
}

static void do_promote(struct world_node *n, const struct store_request *q, struct store_reply *r)
{
    struct promotion p = {.epoch = q->epoch,
                          .mode = q->mode,
                          .wall_ms = wall(n->world),
                          .quarantine_ms = 3600000,
                          .in_doubt_wait_ms = 30000};
    struct promoted done;
    if (q->bytes)
        p.noted = slice_of(q->bytes->data, q->bytes->n);
    r->err = apply_promote(n->store, &p, &done);
    r->first = done.first;
    r->n_rows = done.in_doubt;
    if (!r->err)
        n->writer = q->epoch;
}

void world_note(struct world *w, unsigned node, uint64_t number, uint64_t key, uint64_t id)
{
    struct buf b;
    buf_init(&b, 256);
    bool ok = note_encode_head(&b, w->node[node].epoch, false, number) &&
              (id ? note_put(&b, key, id, &(struct note_recipient){0, 0}, 1)
                  : note_put_withdrawn(&b, key));
    assert(ok);
    (void)ok;
    core_step(&w->node[node], &(struct replica_event){.type = RE_NOTES, .payload = buf_slice(&b)});
    buf_free(&b);
}

bool world_serve(struct world_node *n, const struct store_request *q, struct store_reply *r)
{
    *r = (struct store_reply){.type = q->type, .cookie = q->cookie};
    switch (q->type) {
    case SR_PROMOTE:
        do_promote(n, q, r);
        break;
    case SR_MODE:
        r->err = apply_mode(n->store, q->epoch, q->mode, q->first, q->committed);
        break;
    case SR_CLOSE:
        n->writer = 0;
        r->err = apply_committed(n->store, q->committed);
        break;
    case SR_FOLLOW:
        r->err = do_follow(n, q);
        break;
    case SR_ADOPT:
        r->err = do_adopt(n, q);
        break;
    case SR_WIPE:
        r->err = apply_wipe(n->store, &q->store);
        break;
    case SR_MERGE:
        r->err = n->writer == q->epoch ? do_merge(n, q) : STORE_CONFLICT;
        break;
    case SR_UNMARK:
        r->err = do_unmark(n, q);
        break;
    case SR_UNMERGED:
        do_unmerged(n, q, r);
        break;
    case SR_EPOCH_SEEN:
        r->err = do_seen(n, q->epoch);
        break;
    case SR_COMMITTED:
        if (pos_cmp(q->committed, n->remembered) > 0)
            n->remembered = q->committed;
        return false; /* remembered with the next transaction; not answered */
    case SR_CHANGES:
        if (!q->limit)
            return false; /* not answered */
        do_changes(n, q, r);
        break;
    case SR_DIGESTS:
    case SR_ROWS:
    case SR_MEND:
        world_compare(n, q, r);
        break;
    default:
        break;
    }
    r->meta = *store_memory_meta(n->store);
    return true;
}

static void serve(struct world_node *n, const struct store_request *q)
{
    struct store_reply r;
    if (world_serve(n, q, &r))
        push(&n->inbox_end, JOB_REPLY)->reply = r;
}

static bool storage_turn(struct world_node *n)
{
    if (n->stalled)
        return false;
    if (n->own_open) {
        do_commit(n);
        return true;
    }
    if (!n->jobs)
        return false;
    struct job *j = pop(&n->jobs, &n->jobs_end);
    if (j->type == JOB_OWN)
        do_own(n, j);
    else
        serve(n, &j->request);
    job_free(j);
    return true;
}

void world_storage(struct world *w, unsigned node)
{
    storage_turn(&w->node[node]);
}

static bool reader_turn(struct world_node *n)
{
    if (!n->reads || n->reads_stalled)
        return false;
    struct job *j = pop(&n->reads, &n->reads_end);
    serve(n, &j->request);
    job_free(j);
    return true;
}

static bool core_turn(struct world_node *n)
{
    if (!n->inbox)
        return false;
    struct job *j = pop(&n->inbox, &n->inbox_end);
    struct replica_event ev = {0};
    if (j->type == JOB_REPLY) {
        ev = (struct replica_event){.type = RE_STORE, .reply = &j->reply};
        core_step(n, &ev); /* takes the bytes */
    } else if (j->type == JOB_BATCH) {
        ev = (struct replica_event){.type = RE_BATCH, .batch = &j->batch};
        core_step(n, &ev);
    } else if (j->type == JOB_EMPTY) {
        struct pair_effect fx = {.type = PX_EMPTY, .op = j->id};
        ev = (struct replica_event){.type = RE_PAIR, .fx = &fx};
        core_step(n, &ev);
    } else if (j->pos.lsn) {
        ev = (struct replica_event){.type = RE_DURABLE, .pos = j->pos};
        core_step(n, &ev);
    } else {
        struct pair_event failed = {.type = PE_STORAGE_FAILED};
        n->reports[n->n_reports++] = failed;
    }
    job_free(j);
    return true;
}

/* ---- the link ---- */

static void disconnect(struct world *w)
{
    if (!w->linked)
        return;
    w->linked = w->cut = false;
    for (unsigned i = 0; i < 2; i++)
        drop_all(&w->wire[i], &w->wire_end[i]);
    for (unsigned i = 0; i < 2; i++) {
        struct replica_event ev = {.type = RE_LINK_DOWN, .link = w->id[i]};
        core_step(&w->node[i], &ev);
    }
}

void world_cut(struct world *w)
{
    disconnect(w);
}

static bool connect_turn(struct world *w)
{
    for (unsigned i = 0; i < 2 && !w->linked; i++) {
        if (!w->node[i].up || !w->node[i].dialling || !w->node[1 - i].up)
            continue;
        w->linked = true;
        w->cut = false;
        w->dialler = i;
        w->id[0] = ++w->ids;
        w->id[1] = ++w->ids;
        struct replica_event in = {.type = RE_LINK_UP, .link = w->id[1 - i]};
        struct replica_event out = {.type = RE_LINK_UP, .link = w->id[i], .outgoing = true};
        core_step(&w->node[1 - i], &in);
        core_step(&w->node[i], &out);
        return true;
    }
    return false;
}

static bool wire_turn(struct world *w, unsigned to)
{
    if (!w->wire[to] || w->hold[to])
        return false;
    struct job *j = pop(&w->wire[to], &w->wire_end[to]);
    struct replica_event ev = {.type = RE_FRAME,
                               .link = j->id,
                               .frame = j->frame,
                               .payload = slice_of(j->bytes->data, j->bytes->n)};
    w->frames[to]++;
    core_step(&w->node[to], &ev);
    job_free(j);
    return true;
}

/* ---- the world ---- */

static bool turn(struct world *w, unsigned which)
{
    unsigned i = which & 1;
    switch (which >> 1) {
    case 0:
        return storage_turn(&w->node[i]);
    case 1:
        return reader_turn(&w->node[i]);
    case 2:
        return core_turn(&w->node[i]);
    case 3:
        return wire_turn(w, i);
    default:
        if (i == 0 && w->cut && !w->wire[0] && !w->wire[1]) {
            disconnect(w);
            return true;
        }
        return false;
    }
}

bool world_step(struct world *w)
{
    enum { TURNS = 10 };
    unsigned start = (unsigned)rng_below(&w->rng, TURNS);
    bool moved = false;
    w->now += 1000 * (1 + rng_below(&w->rng, 50));
    if (w->cut && rng_chance(&w->rng, 0.3)) {
        disconnect(w);
        moved = true;
    }
    for (unsigned i = 0; i < TURNS && !moved; i++)
        moved = turn(w, (start + i) % TURNS);
    check(w);
    return moved;
}

void world_run(struct world *w, unsigned ms)
{
    uint64_t end = w->now + ms * 1000000ull;
    while (w->now < end) {
        connect_turn(w);
        unsigned steps = 0;
        while (world_step(w))
            assert(++steps < 1000000);
        w->now += 20000000;
        for (unsigned i = 0; i < 2; i++) {
            struct replica_event ev = {.type = RE_TICK};
            core_step(&w->node[i], &ev);
        }
        check(w);
    }
}

static struct store_id random_id(struct world *w)
{
    struct store_id id;
    for (unsigned i = 0; i < STORE_ID_BYTES; i++)
        id.b[i] = (uint8_t)rng_u64(&w->rng);
    return id;
}

void world_start(struct world *w, unsigned node)
{
    struct world_node *n = &w->node[node];
    assert(!n->up);
    n->up = true;
    n->dialling = n->stalled = n->serving_waits = false;
    n->epoch = 0;
    n->committed = n->settled = 0;
    n->remembered = (struct pos){0, 0};
    for (unsigned i = 0; i < 16; i++)
        n->cfg.random[i] = (uint8_t)rng_u64(&w->rng);
    n->core = replica_new(&n->cfg, "test", store_memory_meta(n->store), emit, n);
}

void world_crash(struct world *w, unsigned node)
{
    struct world_node *n = &w->node[node];
    n->up = false;
    n->writer = 0;
    if (n->own_open) {
        store_memory_resume(n->store);
        own_abort(n->own);
        n->own_open = false;
    }
    drop_all(&n->jobs, &n->jobs_end);
    drop_all(&n->reads, &n->reads_end);
    drop_all(&n->inbox, &n->inbox_end);
    replica_free(n->core);
    n->core = NULL;
    n->dialling = false;
    n->store->cursor = 0; /* volatile */
    disconnect(w);
}

void world_new_disk(struct world *w, unsigned node)
{
    struct world_node *n = &w->node[node];
    assert(!n->up);
    struct store_id id = random_id(w);
    store_memory_free(n->store);
    n->store = store_memory_new(&id);
}

void world_init(struct world *w, uint64_t seed, size_t ring_bytes)
{
    memset(w, 0, sizeof *w);
    if (getenv("WORLD_LOG"))
        fprintf(stderr, "== seed %llu\n", (unsigned long long)seed);
    w->rng.s = seed;
    w->now = 1000000000;
    for (unsigned i = 0; i < 2; i++) {
        struct world_node *n = &w->node[i];
        n->world = w;
        n->self = i;
        n->cfg = (struct replica_config){.self = i,
                                         .standby_timeout_ns = 1000000000,
                                         .retention_ms = 7 * 86400000ull,
                                         .quarantine_ms = 3600000,
                                         .ring_bytes = ring_bytes,
                                         .window_bytes = ring_bytes,
                                         .catch_up_bytes = 2000};
        struct store_id id = random_id(w);
        n->store = store_memory_new(&id);
        n->own = xcalloc(1, sizeof *n->own);
        own_init(n->own);
        n->jobs_end = &n->jobs;
        n->reads_end = &n->reads;
        n->inbox_end = &n->inbox;
        w->wire_end[i] = &w->wire[i];
        world_start(w, i);
    }
}

void world_free(struct world *w)
{
    for (unsigned i = 0; i < 2; i++) {
        if (w->node[i].up)
            world_crash(w, i);
        own_free(w->node[i].own);
        free(w->node[i].own);
        store_memory_free(w->node[i].store);
    }
}

void world_pair(struct world *w, unsigned node, struct pair_effect fx)
{
    struct replica_event ev = {.type = RE_PAIR, .fx = &fx};
    core_step(&w->node[node], &ev);
}

void world_promote(struct world *w, unsigned node, uint32_t epoch, bool paired)
{
    struct pair_effect fx = {.type = PX_PROMOTE,
                             .epoch = epoch,
                             .mode = paired ? PAIR_PAIRED : PAIR_SOLO,
                             .record = {.version = 1, .epoch = epoch, .primary = (uint8_t)node}};
    for (unsigned i = 0; i < 2; i++) {
        fx.record.in_sync[i] = paired || i == node;
        fx.record.store[i] = world_store_id(w, i);
    }
    w->node[node].sequence = 0;
    world_pair(w, node, fx);
}

void world_follow(struct world *w, unsigned node, uint32_t epoch)
{
    struct pair_effect fx = {
        .type = PX_FOLLOW,
        .epoch = epoch,
        .record = {.version = 1, .epoch = epoch, .primary = (uint8_t)(1 - node)}};
    world_pair(w, node, fx);
}

uint64_t world_add(struct world *w, unsigned node)
{
    struct world_node *n = &w->node[node];
    if (!n->up || !n->writer)
        return 0;
    struct job *j = push(&n->jobs_end, JOB_OWN);
    j->id = MESSAGE_ID(n->writer, ++n->sequence);
    return j->id;
}

static void outcome(struct world *w, unsigned node, uint64_t id, uint8_t state)
{
    struct world_node *n = &w->node[node];
    if (!n->up || !n->writer)
        return;
    struct job *j = push(&n->jobs_end, JOB_OWN);
    j->id = id;
    j->outcome = state;
}

void world_deliver(struct world *w, unsigned node, uint64_t id)
{
    outcome(w, node, id, RCPT_DELIVERED);
}

void world_defer(struct world *w, unsigned node, uint64_t id)
{
    outcome(w, node, id, RCPT_QUEUED);
}

void world_say(struct world *w, unsigned node, const char *key, const char *value)
{
    struct world_node *n = &w->node[node];
    if (!n->up || !n->writer)
        return;
    struct job *j = push(&n->jobs_end, JOB_OWN);
    j->key = slice_str(key);
    j->value = slice_str(value);
}

const struct pair_event *world_report(struct world *w, unsigned node, enum pair_event_type type)
{
    struct world_node *n = &w->node[node];
    while (n->seen_reports < n->n_reports) {
        const struct pair_event *e = &n->reports[n->seen_reports++];
        if (e->type == type)
            return e;
    }
    return NULL;
}

unsigned world_count(const struct world *w, unsigned node, enum pair_event_type type)
{
    unsigned c = 0;
    for (unsigned i = 0; i < w->node[node].n_reports; i++)
        c += w->node[node].reports[i].type == type;
    return c;
}

bool world_has(const struct world *w, unsigned node, uint64_t id)
{
    return store_memory_message(w->node[node].store, id) != NULL;
}

int world_state(const struct world *w, unsigned node, uint64_t id)
{
    const struct row_recipient *r = store_memory_recipient(w->node[node].store, id, 0);
    return r ? r->state : -1;
}

struct dump {
    struct buf b;
    bool unmerged;
};

static bool dump_row(void *ctx, const struct row *r, enum unmerged_class mark)
{
    struct dump *d = ctx;
    bool ok = row_encode(&d->b, r);
    assert(ok);
    (void)ok;
    d->unmerged |= mark != UNMERGED_NONE;
    return true;
}

bool world_stores_equal(const struct store *a, const struct store *b)
{
    const struct store *both[2] = {a, b};
    struct dump d[2];
    for (unsigned i = 0; i < 2; i++) {
        d[i].unmerged = false;
        buf_init(&d[i].b, 256 << 20);
        store_memory_each(both[i], dump_row, &d[i]);
    }
    bool equal =
        slice_eq(buf_slice(&d[0].b), buf_slice(&d[1].b)) && !d[0].unmerged && !d[1].unmerged;
    buf_free(&d[0].b);
    buf_free(&d[1].b);
    return equal;
}

bool world_equal(const struct world *w)
{
    return world_stores_equal(w->node[0].store, w->node[1].store);
}
