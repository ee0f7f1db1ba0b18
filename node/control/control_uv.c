/* See control_uv.h. The socket, its clients and their time-outs. A client's handles end in their
 * close callbacks only; answers from elsewhere name a client by its token, so that one that has
 * left meanwhile is simply not found. */
#include "node/control/control_uv.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/base/log.h"
#include "node/control/control_client_uv.h"
#include "node/control/text.h"

enum mail_type { MAIL_OP = 1, MAIL_TEXT, MAIL_QUEUE, MAIL_READ, MAIL_EVENT, MAIL_STOP };

struct note { /* OP, TEXT, EVENT, STOP */
    struct mail mail;
    uint64_t token;
    bool ok;
    size_t n;
    char text[];
};

struct write {
    uv_write_t req;
    struct client *client;
    char *data;
};

static void on_expired(uv_timer_t *t);
static void maybe_close(struct control *c);

static struct client *client_of(struct control *c, uint64_t token)
{
    for (struct client *cl = c->clients; cl && token; cl = cl->next)
        if (cl->token == token && cl->phase != CLIENT_CLOSING)
            return cl;
    return NULL;
}

static void client_free(struct client *cl)
{
    struct control *c = cl->control;
    struct client **at = &c->clients;
    while (*at != cl)
        at = &(*at)->next;
    *at = cl->next;
    c->n_clients--;
    if (cl->parsed)
        control_request_free(&cl->request);
    json_decref(cl->list.message);
    free(cl->list.after);
    buf_free(&cl->in);
    free(cl);
    maybe_close(c);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct client *cl = h->data;
    if (--cl->open_handles == 0)
        client_free(cl);
}

void control_close(struct client *cl)
{
    if (cl->phase == CLIENT_CLOSING)
        return;
    cl->phase = CLIENT_CLOSING;
    if (cl->follow) {
        events_unfollow(cl->control->events, cl->follow->events_token);
        free(cl->follow);
        cl->follow = NULL;
    }
    uv_close((uv_handle_t *)&cl->pipe, on_handle_closed);
    uv_close((uv_handle_t *)&cl->deadline, on_handle_closed);
}

static void on_written(uv_write_t *req, int status)
{
    struct write *w = (struct write *)req;
    struct client *cl = w->client;
    free(w->data);
    free(w);
    assert(cl->writes > 0);
    cl->writes--;
    if (status < 0) {
        control_close(cl);
    } else if (cl->writes == 0 && cl->phase == CLIENT_FINISHING) {
        control_close(cl);
    } else if (cl->writes == 0 && cl->on_drained && cl->phase != CLIENT_CLOSING) {
        void (*drained)(struct client *) = cl->on_drained;
        cl->on_drained = NULL;
        drained(cl);
    }
}

/* Takes data (malloc). */
static void client_write(struct client *cl, char *data, size_t n)
{
    if (cl->phase == CLIENT_CLOSING ||
        uv_stream_get_write_queue_size((uv_stream_t *)&cl->pipe) + n > CONTROL_WRITE_BYTES) {
        free(data);
        control_close(cl);
        return;
    }
    struct write *w = xmalloc(sizeof *w);
    *w = (struct write){.client = cl, .data = data};
    uv_buf_t b = uv_buf_init(data, (unsigned)n);
    cl->writes++;
    if (uv_write(&w->req, (uv_stream_t *)&cl->pipe, &b, 1, on_written) != 0) {
        cl->writes--;
        free(data);
        free(w);
        control_close(cl);
    }
}

void control_send(struct client *cl, json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT);
    assert(text);
    json_decref(line);
    size_t n = strlen(text);
    text[n] = '\n'; /* the NUL's place: n + 1 bytes are ours */
    client_write(cl, text, n + 1);
}

void control_send_bytes(struct client *cl, struct slice bytes)
{
    control_send(cl, json_pack("{s:I}", "bytes", (json_int_t)bytes.n));
    char *copy = xmalloc(bytes.n + 1);
    if (bytes.n)
        memcpy(copy, bytes.p, bytes.n);
    copy[bytes.n] = '\n';
    client_write(cl, copy, bytes.n + 1);
}

void control_finish(struct client *cl, bool ok, const char *kind, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (cl->phase == CLIENT_CLOSING)
        return;
    cl->token = 0;
    cl->phase = CLIENT_FINISHING;
    uv_timer_start(&cl->deadline, on_expired, CONTROL_DRAIN_MS, 0);
    control_send(cl, control_done(ok, ok ? NULL : kind, text));
}

uint64_t control_wait(struct client *cl, uint64_t timeout_ms)
{
    cl->phase = CLIENT_WAITING;
    cl->token = cl->control->next_token++;
    uv_timer_start(&cl->deadline, on_expired, timeout_ms, 0);
    return cl->token;
}

static void on_expired(uv_timer_t *t)
{
    struct client *cl = t->data;
    if (cl->phase == CLIENT_WAITING)
        control_answer_expired(cl);
    else
        control_close(cl);
}

static void on_alloc(uv_handle_t *h, size_t wanted, uv_buf_t *out)
{
    struct client *cl = h->data;
    /* Once the request is there, whatever else comes overwrites itself. */
    if (cl->phase != CLIENT_READING)
        buf_clear(&cl->in);
    size_t room = cl->in.max - cl->in.len < 4096 ? cl->in.max - cl->in.len : 4096;
    if (!room || !buf_reserve(&cl->in, room))
        *out = uv_buf_init(NULL, 0); /* on_read gets UV_ENOBUFS */
    else
        *out = uv_buf_init((char *)cl->in.data + cl->in.len, (unsigned)room);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *b)
{
    struct client *cl = s->data;
    if (n < 0) {
        if (n == UV_EOF && cl->phase != CLIENT_READING && cl->phase != CLIENT_FOLLOWING)
            uv_read_stop(s); /* it waits for its answer with its own side closed: that's fine */
        else if (n == UV_ENOBUFS && cl->phase == CLIENT_READING)
            control_finish(cl, false, "usage", "the request is too long");
        else
            control_close(cl);
        return;
    }
    if (cl->phase != CLIENT_READING)
        return;
    cl->in.len += (size_t)n;
    uint8_t *end = cl->in.len ? memchr(cl->in.data, '\n', cl->in.len) : NULL;
    if (!end)
        return;
    char err[200] = "";
    cl->parsed = control_parse(slice_of(cl->in.data, (size_t)(end - cl->in.data)), &cl->request,
                               err, sizeof err);
    if (cl->parsed)
        control_answer_begin(cl);
    else
        control_finish(cl, false, "usage", "%s", err);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct control *c = listener->data;
    if (status < 0 || c->stopping)
        return;
    struct client *cl = xcalloc(1, sizeof *cl);
    cl->control = c;
    buf_init(&cl->in, CONTROL_REQUEST_BYTES);
    uv_pipe_init(&c->loop, &cl->pipe, 0);
    uv_timer_init(&c->loop, &cl->deadline);
    cl->pipe.data = cl->deadline.data = cl;
    cl->open_handles = 2;
    cl->next = c->clients;
    c->clients = cl;
    c->n_clients++;
    if (uv_accept(listener, (uv_stream_t *)&cl->pipe) != 0) {
        control_close(cl);
        return;
    }
    uv_timer_start(&cl->deadline, on_expired, CONTROL_REQUEST_MS, 0);
    if (c->n_clients > CONTROL_CLIENTS)
        control_finish(cl, false, "failed", "too many clients on the control socket (%u)",
                       (unsigned)CONTROL_CLIENTS);
    else if (uv_read_start((uv_stream_t *)&cl->pipe, on_alloc, on_read) != 0)
        control_close(cl);
}

/* Events writer's thread. */
static void on_event_line(void *ctx, struct slice line)
{
    struct follow *f = ctx;
    if (f->match[0] && !memmem(line.p, line.n, f->match, strlen(f->match)))
        return;
    if (atomic_load(&f->on_the_way) + line.n > CONTROL_FOLLOW_BYTES) {
        atomic_fetch_add(&f->lost, 1);
        return;
    }
    atomic_fetch_add(&f->on_the_way, line.n);
    struct note *x = xmalloc(sizeof *x + line.n);
    *x = (struct note){.mail.type = MAIL_EVENT, .token = f->client, .n = line.n};
    memcpy(x->text, line.p, line.n);
    mailbox_post(f->control->mailbox, &x->mail);
}

bool control_follow(struct client *cl)
{
    struct control *c = cl->control;
    if (!c->events)
        return false;
    struct follow *f = xcalloc(1, sizeof *f);
    f->control = c;
    f->client = control_wait(cl, CONTROL_REQUEST_MS);
    uv_timer_stop(&cl->deadline);
    char id[17];
    if (cl->request.id)
        snprintf(f->match, sizeof f->match, "\"id\":\"%s\"", text_id(id, cl->request.id));
    f->events_token = events_follow(c->events, on_event_line, f);
    if (!f->events_token) {
        free(f);
        return false;
    }
    cl->follow = f;
    cl->phase = CLIENT_FOLLOWING;
    return true;
}

static void follow_line(struct client *cl, const struct note *x)
{
    struct follow *f = cl->follow;
    atomic_fetch_sub(&f->on_the_way, x->n);
    /* A reader that is too slow loses lines, and is told how many; it never holds up the node. */
    if (uv_stream_get_write_queue_size((uv_stream_t *)&cl->pipe) > CONTROL_FOLLOW_BYTES) {
        atomic_fetch_add(&f->lost, 1);
        return;
    }
    uint64_t lost = atomic_exchange(&f->lost, 0);
    if (lost)
        control_send(cl, json_pack("{s:I}", "lost", (json_int_t)lost));
    size_t n = x->n ? x->n - 1 : 0; /* without its newline */
    char *line = xmalloc(n + 16);
    memcpy(line, "{\"data\":", 8);
    memcpy(line + 8, x->text, n);
    memcpy(line + 8 + n, "}\n", 2);
    client_write(cl, line, n + 10);
}

static void on_listener_closed(uv_handle_t *h)
{
    struct control *c = h->data;
    mailbox_close(c->mailbox);
}

static void on_stop_timer(uv_timer_t *t)
{
    struct control *c = t->data;
    if (c->out)
        log_warn("control.stop", "operations_out=%u text=\"they never came back\"", c->out);
    c->out = 0;
    maybe_close(c);
}

/* Stopping: when the last client is gone and nothing of ours is elsewhere, the loop may end. */
static void maybe_close(struct control *c)
{
    if (!c->stopping || c->closed || c->clients || c->out)
        return;
    c->closed = true;
    uv_close((uv_handle_t *)&c->stop_timer, NULL);
    uv_close((uv_handle_t *)&c->listener, on_listener_closed);
}

static void stop(struct control *c)
{
    c->stopping = true;
    uv_timer_start(&c->stop_timer, on_stop_timer, CONTROL_STOP_MS, 0);
    for (struct client *cl = c->clients; cl; cl = cl->next)
        control_close(cl);
    maybe_close(c);
}

static void on_mail(void *ctx, struct mail *m)
{
    struct control *c = ctx;
    struct client *cl;
    if (m->type == MAIL_QUEUE || m->type == MAIL_READ) {
        struct storage_op *op = (struct storage_op *)m;
        struct storage_read *r = (struct storage_read *)m;
        uint64_t token = (uint64_t)(uintptr_t)(m->type == MAIL_QUEUE ? op->ctx : r->ctx);
        cl = client_of(c, token);
        if (cl && m->type == MAIL_QUEUE)
            control_answer_queue(cl, op);
        else if (cl)
            control_answer_read(cl, r);
        if (m->type == MAIL_QUEUE)
            storage_op_free(op);
        else
            storage_read_free(r);
        c->out -= c->out > 0;
        maybe_close(c);
        return;
    }
    struct note *x = (struct note *)m;
    cl = client_of(c, x->token);
    if (m->type == MAIL_STOP)
        stop(c);
    else if (cl && m->type == MAIL_OP)
        control_answer_op(cl, x->ok, x->text);
    else if (cl && m->type == MAIL_TEXT)
        control_answer_text(cl, slice_of(x->text, x->n));
    else if (cl && m->type == MAIL_EVENT && cl->follow)
        follow_line(cl, x);
    free(x);
}

static void post(struct control *c, enum mail_type type, uint64_t token, bool ok, struct slice text)
{
    struct note *x = xmalloc(sizeof *x + text.n + 1);
    *x = (struct note){.mail.type = (int)type, .token = token, .ok = ok, .n = text.n};
    if (text.n)
        memcpy(x->text, text.p, text.n);
    x->text[text.n] = 0;
    mailbox_post(c->mailbox, &x->mail);
}

void control_op_done(struct control *c, uint64_t op, bool ok, const char *text)
{
    post(c, MAIL_OP, op, ok, slice_str(text));
}

void control_text_done(struct control *c, uint64_t op, struct slice text)
{
    post(c, MAIL_TEXT, op, true, text);
}

void control_queue_done(struct control *c, struct storage_op *op)
{
    op->mail.type = MAIL_QUEUE;
    mailbox_post(c->mailbox, &op->mail);
}

void control_read_done(struct control *c, struct storage_read *r)
{
    r->mail.type = MAIL_READ;
    mailbox_post(c->mailbox, &r->mail);
}

/* Makes room for the socket: a file that nobody listens on is left over from a crash. */
static bool clear_path(const char *path, char *err, size_t n)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat st;
    if (strlen(path) >= sizeof a.sun_path) {
        snprintf(err, n, "control socket %s: the path is longer than %zu bytes; shorten `control`",
                 path, sizeof a.sun_path - 1);
        return false;
    }
    if (lstat(path, &st) != 0)
        return true; /* bind tells what else is wrong */
    if (!S_ISSOCK(st.st_mode)) {
        snprintf(err, n, "control socket %s: a file that is no socket is there; remove it", path);
        return false;
    }
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0 ? -1 : connect(fd, (struct sockaddr *)&a, sizeof a), error = errno;
    if (fd >= 0)
        close(fd);
    if (rc == 0 || error != ECONNREFUSED) {
        snprintf(err, n,
                 "control socket %s: another batond listens on it; stop it, or give this one a "
                 "`control` of its own",
                 path);
        return false;
    }
    if (unlink(path) == 0)
        return true;
    snprintf(err, n, "control socket %s: left over and can't be removed: %s", path,
             strerror(errno));
    return false;
}

static bool bind_socket(struct control *c, char *err, size_t n)
{
    if (!clear_path(c->path, err, n))
        return false;
    int rc = uv_pipe_bind(&c->listener, c->path);
    /* Nobody can connect before listen(), so the mode is right from the first connection on. */
    if (rc == 0 && chmod(c->path, 0660) != 0)
        rc = uv_translate_sys_error(errno);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&c->listener, CONTROL_CLIENTS, on_connection);
    if (rc != 0)
        snprintf(err, n, "control socket %s: %s; its folder must be there and writable for us",
                 c->path,
                 rc == UV_EACCES ? "permission denied or no such folder" : uv_strerror(rc));
    return rc == 0;
}

static void run(void *arg)
{
    struct control *c = arg;
    uv_run(&c->loop, UV_RUN_DEFAULT);
}

struct control *control_start(const struct config *cfg, struct events *events,
                              const struct control_hooks *hooks, char *err, size_t n)
{
    struct control *c = xcalloc(1, sizeof *c);
    c->config = cfg;
    c->events = events;
    c->hooks = *hooks;
    c->path = xstrdup(cfg->control);
    c->next_token = 1;
    uv_loop_init(&c->loop);
    uv_pipe_init(&c->loop, &c->listener, 0);
    uv_timer_init(&c->loop, &c->stop_timer);
    c->listener.data = c->stop_timer.data = c;
    c->mailbox = mailbox_new(&c->loop, on_mail, c);
    int rc = -1;
    bool bound = bind_socket(c, err, n);
    if (bound && (rc = uv_thread_create(&c->thread, run, c)) != 0)
        snprintf(err, n, "control thread: %s", uv_strerror(rc));
    if (rc == 0)
        return c;
    stop(c);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    uv_loop_close(&c->loop);
    if (bound)
        unlink(c->path);
    free(c->path);
    free(c);
    return NULL;
}

void control_stop(struct control *c)
{
    if (!c)
        return;
    post(c, MAIL_STOP, 0, true, (struct slice){0});
    uv_thread_join(&c->thread);
    int rc = uv_loop_close(&c->loop);
    assert(rc == 0);
    (void)rc;
    unlink(c->path);
    free(c->path);
    free(c);
}
