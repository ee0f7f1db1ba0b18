/* What each verb of the control socket does: hands it to the hooks, turns what comes back into
 * lines. See control.h for the form and control_client_uv.h for the rest. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/clock_posix.h"
#include "node/control/control_client_uv.h"
#include "node/control/takeover.h"
#include "node/control/text.h"

static void begin_status(struct client *cl)
{
    struct control *c = cl->control;
    struct node_status *s = xcalloc(1, sizeof *s);
    struct buf text;
    buf_init(&text, 256 << 10);
    c->hooks.status(c->hooks.ctx, s);
    bool ok = status_json(&text, s, false);
    free(s);
    json_t *j = ok ? json_loadb((char *)text.data, text.len, 0, NULL) : NULL;
    buf_free(&text);
    assert(j);
    control_send(cl, json_pack("{s:o}", "data", j));
    control_finish(cl, true, NULL, "%s", "");
}

static void begin_pair(struct client *cl, enum pair_event_type type)
{
    struct control *c = cl->control;
    struct pair_event ev = {.type = type, .flag = cl->request.force};
    ev.op = control_wait(cl, cl->request.timeout_ms);
    c->hooks.operate(c->hooks.ctx, &ev);
}

static struct storage_op *new_op(struct client *cl, enum storage_op_type type)
{
    struct storage_op *op = xcalloc(1, sizeof *op);
    op->type = type;
    buf_init(&op->memory, 4096);
    buf_init(&op->changed, 1 << 20);
    op->ctx = (void *)(uintptr_t)control_wait(cl, cl->request.timeout_ms);
    return op;
}

static void submit(struct client *cl, struct storage_op *op)
{
    struct control *c = cl->control;
    c->out++;
    c->hooks.queue(c->hooks.ctx, op);
}

/* Automatic takeover is kept as operator state: replicated, so it survives a takeover. */
static void begin_takeover(struct client *cl)
{
    struct storage_op *op = new_op(cl, OP_OPSTATE);
    int64_t until = cl->request.for_ms ? clock_wall_ms() + (int64_t)cl->request.for_ms : 0;
    char value[40];
    takeover_value(value, cl->request.on, until);
    bool ok = buf_append_str(&op->memory, TAKEOVER_KEY) && buf_append_str(&op->memory, value);
    assert(ok);
    (void)ok;
    const size_t n = sizeof TAKEOVER_KEY - 1;
    op->rows = xcalloc(1, sizeof *op->rows);
    op->n_rows = 1;
    op->rows[0].type = ROW_OPSTATE;
    op->rows[0].opstate.key = slice_of(op->memory.data, n);
    op->rows[0].opstate.value = slice_of(op->memory.data + n, op->memory.len - n);
    submit(cl, op);
}

/* Operator's orders are rows of operator state: replicated, kept over takeovers. */
static void begin_order(struct client *cl)
{
    const struct control_request *q = &cl->request;
    struct storage_op *op = new_op(cl, OP_OPSTATE);
    char value[24] = "";
    if (q->on)
        snprintf(value, sizeof value, "%" PRId64, clock_wall_ms());
    size_t total = 0;
    for (unsigned i = 0; i < q->n_names; i++)
        total += strlen(q->names[i]) + sizeof value + 32;
    buf_free(&op->memory);
    buf_init(&op->memory, total);
    bool ok = buf_reserve(&op->memory, total); /* rows point into it */
    op->rows = xcalloc(q->n_names, sizeof *op->rows);
    for (unsigned i = 0; ok && i < q->n_names; i++) {
        size_t at = op->memory.len, mid;
        ok = opstate_key(&op->memory, q->kind, slice_str(q->names[i]));
        mid = op->memory.len;
        ok = ok && buf_append_str(&op->memory, value);
        struct row *r = &op->rows[op->n_rows++];
        r->type = ROW_OPSTATE;
        r->opstate.key = slice_of(op->memory.data + at, mid - at);
        r->opstate.value = slice_of(op->memory.data + mid, op->memory.len - mid);
    }
    assert(ok);
    submit(cl, op);
}

static void begin_select(struct client *cl)
{
    struct storage_op *op = new_op(cl, OP_SELECT);
    op->action = cl->request.action;
    op->selector = control_selector_copy(&cl->request.selector);
    submit(cl, op);
}

static struct storage_read *new_read(struct client *cl, enum read_type type, size_t bytes)
{
    struct storage_read *r = xcalloc(1, sizeof *r);
    r->type = type;
    r->id = cl->request.id;
    buf_init(&r->bytes, bytes);
    r->ctx = (void *)(uintptr_t)control_wait(cl, CONTROL_READ_MS);
    return r;
}

static void submit_read(struct client *cl, struct storage_read *r)
{
    struct control *c = cl->control;
    c->out++;
    c->hooks.read(c->hooks.ctx, r);
}

static void list_next(struct client *cl)
{
    struct storage_read *r = new_read(cl, READ_LIST, 4 << 20);
    r->selector = control_selector_copy(&cl->request.selector);
    r->limit = CONTROL_PAGE;
    r->cursor.next_ms = cl->list.next_ms;
    r->cursor.id = cl->list.id;
    r->cursor.index = cl->list.index;
    submit_read(cl, r);
}

static void body_next(struct client *cl)
{
    struct storage_read *r = new_read(cl, READ_BODY, BODY_CHUNK_BYTES * 2);
    r->offset = cl->list.offset;
    r->limit = BODY_CHUNK_BYTES;
    submit_read(cl, r);
}

static void begin_message(struct client *cl)
{
    submit_read(cl, new_read(cl, READ_MESSAGE, 16 << 20));
}

static void begin_summary(struct client *cl, const char *by, size_t limit)
{
    struct storage_read *r = new_read(cl, READ_SUMMARY, 4 << 20);
    r->by = xstrdup(by);
    r->limit = limit;
    submit_read(cl, r);
}

/* The list of suppressed addresses, page by page. */
static void suppressed_next(struct client *cl)
{
    struct storage_read *r = new_read(cl, READ_OPSTATES, 256 << 10);
    r->domain = xstrdup(opstate_prefix(OPSTATE_SUPPRESS));
    r->by = cl->list.after ? xstrdup(cl->list.after) : NULL;
    submit_read(cl, r);
}

static void begin_rejoin(struct client *cl)
{
    struct control *c = cl->control;
    if (!cl->request.count) {
        c->hooks.rejoin(c->hooks.ctx, cl->request.discard,
                        control_wait(cl, cl->request.timeout_ms));
        return;
    }
    struct node_status *s = xcalloc(1, sizeof *s);
    c->hooks.status(c->hooks.ctx, s);
    bool waits = s->replica.rejoin_waits;
    uint64_t shared = s->replica.shared_lsn;
    free(s);
    if (!waits) {
        control_finish(cl, false, "refused",
                       "this store doesn't wait for a decision; batonctl status tells what it "
                       "does");
        return;
    }
    struct storage_read *r = new_read(cl, READ_ONLY_HERE, 4096);
    r->id = shared;
    submit_read(cl, r);
}

void control_answer_begin(struct client *cl)
{
    const struct control_hooks *h = &cl->control->hooks;
    switch (cl->request.verb) {
    case CONTROL_STATUS:
        begin_status(cl);
        break;
    case CONTROL_SWITCHOVER:
        begin_pair(cl, PE_OP_SWITCHOVER);
        break;
    case CONTROL_FAILOVER:
        begin_pair(cl, PE_OP_FAILOVER);
        break;
    case CONTROL_BOOTSTRAP:
        begin_pair(cl, PE_OP_BOOTSTRAP);
        break;
    case CONTROL_START_ALONE:
        begin_pair(cl, PE_OP_START_ALONE);
        break;
    case CONTROL_TAKEOVER:
        begin_takeover(cl);
        break;
    case CONTROL_SELECT:
        begin_select(cl);
        break;
    case CONTROL_LIST:
        list_next(cl);
        break;
    case CONTROL_SHOW:
    case CONTROL_BODY:
        begin_message(cl);
        break;
    case CONTROL_SUMMARY:
        begin_summary(cl, cl->request.by, 0);
        break;
    case CONTROL_DESTINATIONS:
        begin_summary(cl, "domain", CONTROL_COUNT);
        break;
    case CONTROL_CAMPAIGNS:
        begin_summary(cl, "campaign", CONTROL_COUNT);
        break;
    case CONTROL_SUPPRESSED:
        suppressed_next(cl);
        break;
    case CONTROL_ORDER:
        begin_order(cl);
        break;
    case CONTROL_RELOAD:
        h->reload(h->ctx, control_wait(cl, cl->request.timeout_ms));
        break;
    case CONTROL_VERIFY:
        h->verify(h->ctx, control_wait(cl, cl->request.timeout_ms));
        break;
    case CONTROL_REJOIN:
        begin_rejoin(cl);
        break;
    case CONTROL_EVENTS:
        if (!control_follow(cl))
            control_finish(cl, false, "failed", "too many followers, or no events here");
        break;
    }
}

void control_answer_expired(struct client *cl)
{
    char d[32];
    switch (cl->request.verb) {
    case CONTROL_LIST:
    case CONTROL_SHOW:
    case CONTROL_BODY:
    case CONTROL_SUMMARY:
    case CONTROL_DESTINATIONS:
    case CONTROL_CAMPAIGNS:
    case CONTROL_SUPPRESSED:
        control_finish(cl, false, "failed", "the store did not answer within %s",
                       text_duration(d, CONTROL_READ_MS));
        break;
    default:
        /* It may have been done, or be done later: only a look tells. */
        control_finish(cl, false, "undecided",
                       "no decision within %s; it may still take effect: see batonctl status",
                       text_duration(d, (int64_t)cl->request.timeout_ms));
    }
}

void control_answer_op(struct client *cl, bool ok, const char *text)
{
    control_finish(cl, ok, "refused", "%s", text);
}

void control_answer_text(struct client *cl, struct slice text)
{
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_DECODE_ANY, NULL);
    if (!j) {
        control_finish(cl, false, "failed", "no list here");
        return;
    }
    control_send(cl, json_pack("{s:o}", "data", j));
    control_finish(cl, true, NULL, "%s", "");
}

/* "this node is standby": with the name of the one to ask. */
static void refuse_not_primary(struct client *cl)
{
    struct control *c = cl->control;
    struct node_status *s = xcalloc(1, sizeof *s);
    c->hooks.status(c->hooks.ctx, s);
    bool known = s->pair.record.version != 0;
    char primary = s->pair.record.primary == NODE_A ? 'a' : 'b';
    if (known && primary != c->config->node)
        control_finish(cl, false, "refused", "node %c is %s; node %c is primary: ask it",
                       c->config->node, role_name(s->pair.role), primary);
    else
        control_finish(cl, false, "refused", "node %c does not serve now: %s", c->config->node,
                       s->pair.why);
    free(s);
}

static void answer_order(struct client *cl)
{
    const struct control_request *q = &cl->request;
    if (q->kind == OPSTATE_SUPPRESS)
        control_finish(cl, true, NULL, "%u address%s %s", q->n_names, q->n_names == 1 ? "" : "es",
                       q->on ? "suppressed: never sent to" : "no longer suppressed");
    else
        control_finish(cl, true, NULL, "%s %s %s", q->names[0],
                       q->kind == OPSTATE_CAMPAIGN ? "(campaign)" : "(destination)",
                       q->on ? "is paused, on both nodes, until it is resumed" : "goes on");
}

void control_answer_queue(struct client *cl, const struct storage_op *op)
{
    static const char *const past[] = {"held", "released", "to be tried now", "cancelled"};
    if (op->result == OP_NOT_PRIMARY) {
        refuse_not_primary(cl);
    } else if (op->result == OP_FAILED) {
        control_finish(cl, false, "undecided",
                       "this node stopped serving meanwhile: it may have been done; look again");
    } else if (op->type == OP_SELECT) {
        control_send(cl, json_pack("{s:{s:I}}", "data", "changed", (json_int_t)op->n_changed));
        control_finish(cl, true, NULL, "%" PRIu64 " recipient%s %s", op->n_changed,
                       op->n_changed == 1 ? "" : "s", past[cl->request.action]);
    } else if (cl->request.verb == CONTROL_ORDER) {
        answer_order(cl);
    } else {
        char d[32];
        bool until = !cl->request.on && cl->request.for_ms;
        control_finish(cl, true, NULL, "automatic takeover is %s%s%s",
                       cl->request.on ? "on" : "off", until ? " for " : "",
                       until ? text_duration(d, (int64_t)cl->request.for_ms) : "");
    }
}

static void list_flush(struct client *cl)
{
    if (cl->list.message)
        control_send(cl, json_pack("{s:o}", "data", cl->list.message));
    cl->list.message = NULL;
}

/* One (message, recipient) pair of a page. Rows of a message are adjacent. */
static void list_pair(struct client *cl, const struct row_message *m, const struct row_recipient *r)
{
    bool same = cl->list.id == m->id && cl->list.messages;
    cl->list.beyond += cl->list.rest > 0;
    cl->list.next_ms = r->next_ms;
    cl->list.id = r->id;
    cl->list.index = r->index;
    if (!same) {
        list_flush(cl);
        if (cl->list.messages == cl->request.limit) {
            cl->list.rest++;
            return;
        }
        cl->list.messages++;
        cl->list.message = control_message_json(m, clock_wall_ms());
    }
    if (cl->list.message)
        json_array_append_new(json_object_get(cl->list.message, "recipients"),
                              control_recipient_json(r, clock_wall_ms()));
}

static void list_end(struct client *cl)
{
    list_flush(cl);
    if (cl->list.rest)
        control_finish(cl, true, NULL, "%s%" PRIu64 " more",
                       cl->list.rest_capped ? "at least " : "", cl->list.rest);
    else
        control_finish(cl, true, NULL, "%s", "");
}

static void answer_list(struct client *cl, const struct storage_read *r)
{
    struct wire_reader w = wire_read(buf_slice(&r->bytes));
    struct row m, rcpt;
    while (w.n && row_decode(&w, &m) && row_decode(&w, &rcpt) && m.type == ROW_MESSAGE &&
           rcpt.type == ROW_RECIPIENT)
        list_pair(cl, &m.message, &rcpt.recipient);
    if (w.bad || w.n) {
        control_finish(cl, false, "failed", "the store gave rows that can't be read");
        return;
    }
    bool enough = cl->list.beyond >= CONTROL_COUNT;
    cl->list.rest_capped = enough && r->more;
    if (!r->more || enough)
        list_end(cl);
    else if (cl->writes)
        cl->on_drained = list_next;
    else
        list_next(cl);
}

/* READ_MESSAGE: of `show` all of it; of `body` the header lines that go in front. */
static void answer_message(struct client *cl, const struct storage_read *r)
{
    struct wire_reader w = wire_read(buf_slice(&r->bytes));
    struct row m, rcpt;
    if (!row_decode(&w, &m) || m.type != ROW_MESSAGE) {
        control_finish(cl, false, "failed", "the store gave a row that can't be read");
        return;
    }
    if (cl->request.verb == CONTROL_BODY) {
        if (m.message.state == MESSAGE_DONE) {
            control_finish(cl, false, "failed", "the message is done: its body is gone");
            return;
        }
        control_send_bytes(cl, m.message.prefix);
        cl->list.size = m.message.size;
        body_next(cl);
        return;
    }
    int64_t now = clock_wall_ms();
    json_t *o = control_message_json(&m.message, now);
    while (w.n && row_decode(&w, &rcpt) && rcpt.type == ROW_RECIPIENT)
        json_array_append_new(json_object_get(o, "recipients"),
                              control_recipient_json(&rcpt.recipient, now));
    control_send(cl, json_pack("{s:o}", "data", o));
    control_finish(cl, true, NULL, "%s", "");
}

static void answer_body(struct client *cl, const struct storage_read *r)
{
    cl->list.offset += r->bytes.len;
    control_send_bytes(cl, buf_slice(&r->bytes));
    if (!r->bytes.len || cl->list.offset >= cl->list.size)
        control_finish(cl, true, NULL, "%s", "");
    else if (cl->writes)
        cl->on_drained = body_next;
    else
        body_next(cl);
}

static void answer_suppressed(struct client *cl, const struct storage_read *r)
{
    struct wire_reader w = wire_read(buf_slice(&r->bytes));
    struct row row;
    struct slice name;
    char since[32], *last = NULL;
    while (w.n && row_decode(&w, &row) && row.type == ROW_OPSTATE) {
        free(last);
        last = slice_dup(row.opstate.key);
        if (!row.opstate.value.n || !opstate_is(row.opstate.key, OPSTATE_SUPPRESS, &name))
            continue;
        char *value = slice_dup(row.opstate.value);
        text_rfc3339(since, strtoll(value, NULL, 10));
        json_t *o = json_pack("{s:{s:s%,s:s}}", "data", "address", name.p, name.n, "since", since);
        free(value);
        if (o) /* else: no UTF-8 */
            control_send(cl, o);
    }
    bool more = r->more && last;
    free(cl->list.after);
    cl->list.after = last;
    if (!more)
        control_finish(cl, true, NULL, "%s", "");
    else if (cl->writes)
        cl->on_drained = suppressed_next;
    else
        suppressed_next(cl);
}

void control_answer_read(struct client *cl, const struct storage_read *r)
{
    static const char *const errors[] = {
        "",
        "the store can't be read",
        "the store's disk is full",
        "the copy here is damaged",
        "no such message here",
        "the store is being replaced",
    };
    if (r->err) {
        unsigned e = (unsigned)r->err < sizeof errors / sizeof *errors ? (unsigned)r->err : 1;
        control_finish(cl, false, "failed", "%s", errors[e]);
        return;
    }
    switch (r->type) {
    case READ_LIST:
        answer_list(cl, r);
        break;
    case READ_MESSAGE:
        answer_message(cl, r);
        break;
    case READ_BODY:
        answer_body(cl, r);
        break;
    case READ_OPSTATES:
        answer_suppressed(cl, r);
        break;
    default:
        if (cl->request.verb == CONTROL_DESTINATIONS) {
            const struct control_hooks *h = &cl->control->hooks;
            h->destinations(h->ctx, control_wait(cl, CONTROL_READ_MS), buf_slice(&r->bytes));
            break;
        }
        control_answer_text(cl, buf_slice(&r->bytes));
    }
}
