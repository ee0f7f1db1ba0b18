/* See batonctl.h: the connection to the node's control socket, and the terminal. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/control/batonctl.h"

enum {
    LINE_BYTES = 32 << 20, /* an answer line: the listing of a message with many recipients */
    EXTRA_MS = 3000,       /* beyond the node's own time-out: then the node itself is stuck */
    FLOOR_MS = 35000,      /* a listing's page may take 30 s on a busy disk */
};

struct link {
    int fd;
    struct buf in;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    bool over;            /* the node closed, or time is up */
};

static int connect_to(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        fd = -1;
    }
    return fd;
}

static bool send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* Waits for more bytes. False: the end, or time is up. */
static bool fill(struct link *l)
{
    for (;;) {
        int wait = -1;
        if (l->deadline_ns != UINT64_MAX) {
            uint64_t now = clock_boot_ns();
            wait = now >= l->deadline_ns ? 0 : (int)((l->deadline_ns - now) / 1000000 + 1);
        }
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        int rc = poll(&p, 1, wait);
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc <= 0 || !buf_reserve(&l->in, 64 << 10))
            return false;
        ssize_t n = read(l->fd, l->in.data + l->in.len, 64 << 10);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        l->in.len += (size_t)n;
        return true;
    }
}

/* The next line as JSON, owned; NULL: no more. */
static json_t *next_line(struct link *l)
{
    uint8_t *end;
    size_t seen = 0;
    while (!(end = l->in.len > seen ? memchr(l->in.data + seen, '\n', l->in.len - seen) : NULL)) {
        seen = l->in.len;
        if (!fill(l))
            return NULL;
    }
    size_t n = (size_t)(end - l->in.data);
    json_t *j = json_loadb((const char *)l->in.data, n, JSON_ALLOW_NUL, NULL);
    buf_consume(&l->in, n + 1);
    return j;
}

/* n raw bytes and a newline to stdout. */
static bool copy_bytes(struct link *l, uint64_t n)
{
    while (l->in.len < n + 1)
        if (n >= LINE_BYTES - 1 || !fill(l))
            return false;
    bool ok = fwrite(l->in.data, 1, n, stdout) == n;
    buf_consume(&l->in, n + 1);
    return ok;
}

static int report(const struct cli *c, const json_t *done)
{
    const char *kind = json_string_value(json_object_get(done, "kind"));
    const char *text = json_string_value(json_object_get(done, "text"));
    if (json_is_true(json_object_get(done, "ok")))
        return EXIT_DONE;
    if (c->json) {
        char *all = json_dumps(done, JSON_INDENT(2));
        fprintf(stderr, "%s\n", all ? all : "");
        free(all);
    } else {
        fprintf(stderr, "batonctl %s: %s: ", c->verb, kind ? kind : "failed");
        put_text(stderr, text ? text : "");
        fputc('\n', stderr);
    }
    return kind && strcmp(kind, "usage") == 0 ? EXIT_USAGE : EXIT_REFUSED;
}

static int silent(const struct cli *c, const char *why)
{
    fprintf(stderr, "batonctl %s: the node does not answer on %s: %s\n", c->verb, c->control, why);
    return EXIT_SILENT;
}

int cli_ask(const struct cli *c, json_t *request, bool endless, cli_line_fn fn, void *ctx,
            json_t **done)
{
    struct link l = {.fd = connect_to(c->control), .deadline_ns = UINT64_MAX};
    int error = errno;
    buf_init(&l.in, LINE_BYTES);
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    assert(text);
    if (done)
        *done = NULL;
    if (l.fd < 0) {
        free(text);
        return silent(c, error == ECONNREFUSED || error == ENOENT
                             ? "is batond running with this configuration?"
                         : error == EACCES
                             ? "permission denied: be root, or in the group of batond's user"
                             : strerror(error));
    }
    if (!endless) {
        uint64_t ms = c->timeout_ms + EXTRA_MS;
        l.deadline_ns = clock_boot_ns() + (ms > FLOOR_MS ? ms : FLOOR_MS) * 1000000;
    }
    size_t n = strlen(text);
    text[n] = '\n';
    int code = -1;
    if (!send_all(l.fd, text, n + 1))
        code = silent(c, strerror(errno));
    free(text);
    while (code < 0) {
        json_t *line = next_line(&l), *data = json_object_get(line, "data");
        if (!line) {
            code = silent(c, l.deadline_ns <= clock_boot_ns() ? "time is up"
                                                              : "it closed the connection");
        } else if (json_is_true(json_object_get(line, "done"))) {
            code = report(c, line);
            if (done)
                *done = json_incref(line);
        } else if (json_is_integer(json_object_get(line, "bytes"))) {
            if (!copy_bytes(&l, (uint64_t)json_integer_value(json_object_get(line, "bytes"))))
                code = silent(c, "the answer was cut off");
        } else if (json_object_get(line, "lost")) {
            fprintf(stderr, "batonctl %s: %lld lines were left out: reading is too slow\n", c->verb,
                    (long long)json_integer_value(json_object_get(line, "lost")));
        } else if (data && fn) {
            fn(ctx, data);
        }
        json_decref(line);
    }
    buf_free(&l.in);
    close(l.fd);
    return code;
}

static void keep(void *ctx, json_t *data)
{
    json_t **one = ctx;
    json_decref(*one);
    *one = json_incref(data);
}

json_t *cli_ask_one(const struct cli *c, json_t *request, int *code)
{
    json_t *one = NULL;
    *code = cli_ask(c, request, false, keep, &one, NULL);
    if (*code == EXIT_DONE && !one)
        *code = silent(c, "an answer without content");
    if (*code == EXIT_DONE)
        return one;
    json_decref(one);
    return NULL;
}

static void add(json_t *o, const char *key, const char *value)
{
    if (value)
        json_object_set_new(o, key, json_string(value));
}

json_t *cli_request(const struct cli *c, const char *verb)
{
    json_t *o = json_pack("{s:s}", "verb", verb);
    add(o, "id", c->id);
    add(o, "domain", c->domain);
    add(o, "sender", c->sender);
    add(o, "campaign", c->campaign);
    add(o, "state", c->state);
    if (c->all)
        json_object_set_new(o, "all", json_true());
    if (c->older_than_ms)
        json_object_set_new(o, "older_than_ms", json_integer((json_int_t)c->older_than_ms));
    json_object_set_new(o, "timeout_ms", json_integer((json_int_t)c->timeout_ms));
    return o;
}

bool cli_colour(FILE *f)
{
    const char *no = getenv("NO_COLOR");
    return isatty(fileno(f)) && !(no && *no);
}

bool cli_read_secret(const char *prompt, char *out, size_t n)
{
    struct termios before, quiet;
    bool tty = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &before) == 0;
    if (tty) {
        quiet = before;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
        fputs(prompt, stderr);
        fflush(stderr);
    }
    bool ok = fgets(out, (int)n, stdin) != NULL;
    if (tty) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        fputc('\n', stderr);
    }
    if (ok)
        out[strcspn(out, "\r\n")] = 0;
    return ok;
}

void cli_sleep_ms(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}
