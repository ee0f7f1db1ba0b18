/* How long a client waits from its final dot to the 250, at a rate that the server keeps up with.
 *
 *   latency ADDRESS PORT CLIENTS MESSAGES_PER_S SECONDS BYTES
 *
 * One thread with CLIENTS connections to a numeric ADDRESS: a client that costs next to nothing, as
 * whatever it takes from a small machine would show in what it measures. Each connection has its
 * own times at which it begins a message (a late one begins at once); MAIL, RCPT and DATA go in one
 * write (RFC 2920), the message with its final dot in a second one, from which the time is taken.
 * Prints
 *
 *   {"messages": N, "p50_ms": F, "p99_ms": F, "late": N}
 *
 * where late are those that began more than 10 ms after their time: if these are many, the server
 * (or the machine) did not keep up, and the waits say little. Exit 1 and a line on stderr when a
 * connection ends, something is refused, or a reply takes 30 s. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 1000,
    MESSAGES_MAX = 10 * 1000 * 1000,
    BYTES_MAX = 10 * 1024 * 1024,
    REPLY_BYTES = 1024,
    REPLY_WAIT_MS = 30000,
    LATE_NS = 10 * 1000 * 1000,
};

enum step { GREETING, HELLO, IDLE, ENVELOPE, DOT };
struct client {
    enum step step;
    unsigned replies; /* still to come before the next step */
    uint64_t next, dot;
    char line[REPLY_BYTES];
    size_t n;
};

static struct {
    struct client client[CLIENTS_MAX];
    struct pollfd poll[CLIENTS_MAX];
    unsigned n_clients;
    uint64_t interval, end; /* of one client */
    char *text;
    size_t text_n;
    uint64_t *wait; /* of each message */
    size_t n_waits, cap_waits, late;
} run;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "latency: %s: %s\n", what, why);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static long number(const char *text, long max)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > max)
        die(text, "not a number that makes sense here");
    return n;
}

/* The sockets block: what is written here fits their buffers, or the server reads it. */
static void say(unsigned i, const char *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = write(run.poll[i].fd, bytes + done, n - done);
        if (k < 0 && errno != EINTR)
            die("write", strerror(errno));
        done += k > 0 ? (size_t)k : 0;
    }
}

static void dial(unsigned i, const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof *to) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        die("connect", strerror(errno));
    run.poll[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    run.client[i] = (struct client){.step = GREETING, .replies = 1};
}

static void begin(unsigned i, uint64_t t)
{
    static const char envelope[] = "MAIL FROM:<load@client.example>\r\n"
                                   "RCPT TO:<you@sink.example>\r\nDATA\r\n";
    struct client *c = &run.client[i];
    run.late += t > c->next + LATE_NS;
    c->next += run.interval;
    c->step = ENVELOPE;
    c->replies = 3;
    say(i, envelope, sizeof envelope - 1);
}

/* All replies of a step are here. */
static void advance(unsigned i)
{
    struct client *c = &run.client[i];
    switch (c->step) {
    case GREETING:
        say(i, "EHLO client.example\r\n", 21);
        c->step = HELLO;
        c->replies = 1;
        return;
    case ENVELOPE:
        c->step = DOT;
        c->replies = 1;
        c->dot = now();
        say(i, run.text, run.text_n);
        return;
    case DOT:
        if (run.n_waits < run.cap_waits)
            run.wait[run.n_waits++] = now() - c->dot;
        c->step = IDLE;
        return;
    case HELLO:
    case IDLE:
        c->step = IDLE;
        return;
    }
}

static void reply_line(unsigned i, const char *line, size_t n)
{
    struct client *c = &run.client[i];
    if (n < 4 || (line[0] != '2' && line[0] != '3') || !c->replies)
        die("refused", line);
    if (line[3] == ' ' && --c->replies == 0)
        advance(i);
}

static void readable(unsigned i)
{
    struct client *c = &run.client[i];
    ssize_t k = read(run.poll[i].fd, c->line + c->n, sizeof c->line - 1 - c->n);
    if (k <= 0)
        die("read", k ? strerror(errno) : "the server closed the connection");
    c->n += (size_t)k;
    c->line[c->n] = '\0';
    size_t from = 0;
    for (char *end; (end = memchr(c->line + from, '\n', c->n - from));) {
        *end = '\0';
        reply_line(i, c->line + from, (size_t)(end - c->line) - from);
        from = (size_t)(end - c->line) + 1;
    }
    if (!from && c->n == sizeof c->line - 1)
        die("read", "a reply of that length");
    memmove(c->line, c->line + from, c->n - from);
    c->n -= from;
}

/* Begins what is due; when the next one is; UINT64_MAX: no more. *open: messages under way. */
static uint64_t begin_due(unsigned *open)
{
    uint64_t t = now(), next = UINT64_MAX;
    *open = 0;
    for (unsigned i = 0; i < run.n_clients; i++) {
        struct client *c = &run.client[i];
        if (c->step == IDLE && c->next <= t && c->next < run.end)
            begin(i, t);
        if (c->step != IDLE)
            ++*open;
        else if (c->next < run.end && c->next < next)
            next = c->next;
    }
    return next;
}

static void await(uint64_t until)
{
    uint64_t t = now(), limit = t + REPLY_WAIT_MS * 1000000ull;
    uint64_t wait = until < t ? 0 : (until < limit ? until : limit) - t;
    struct timespec ts = {.tv_sec = (time_t)(wait / 1000000000u),
                          .tv_nsec = (long)(wait % 1000000000u)};
    int n = ppoll(run.poll, run.n_clients, &ts, NULL);
    if (n < 0 && errno != EINTR)
        die("poll", strerror(errno));
    if (n == 0 && until > limit)
        die("reply", "none came for 30 s");
    for (unsigned i = 0; n > 0 && i < run.n_clients; i++)
        if (run.poll[i].revents)
            readable(i);
}

static void compose(size_t bytes)
{
    static const char head[] = "Subject: latency\r\n\r\n";
    enum { LINE = 72 };
    run.text = malloc(bytes + sizeof head + LINE + 8);
    run.wait = calloc(run.cap_waits, sizeof *run.wait);
    if (!run.text || !run.wait)
        die("memory", "not enough");
    memcpy(run.text, head, sizeof head - 1);
    size_t n = sizeof head - 1;
    do {
        memset(run.text + n, 'x', LINE - 2);
        memcpy(run.text + n + LINE - 2, "\r\n", 2);
        n += LINE;
    } while (n < bytes);
    memcpy(run.text + n, ".\r\n", 3);
    run.text_n = n + 3;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (argc != 7 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
        die("usage", "latency ADDRESS PORT CLIENTS MESSAGES_PER_S SECONDS BYTES");
    to.sin_port = htons((uint16_t)number(argv[2], UINT16_MAX));
    run.n_clients = (unsigned)number(argv[3], CLIENTS_MAX);
    long rate = number(argv[4], 1000000), seconds = number(argv[5], 3600);
    if (rate * seconds > MESSAGES_MAX)
        die("usage", "too many messages");
    run.cap_waits = (size_t)(rate * seconds) + run.n_clients;
    run.interval = 1000000000ull * run.n_clients / (uint64_t)rate;
    compose((size_t)number(argv[6], BYTES_MAX));

    for (unsigned i = 0; i < run.n_clients; i++)
        dial(i, &to);
    unsigned open;
    while (begin_due(&open), open) /* greetings; nothing is due yet, as `end` is 0 */
        await(UINT64_MAX);
    uint64_t start = now();
    run.end = start + (uint64_t)seconds * 1000000000u;
    for (unsigned i = 0; i < run.n_clients; i++)
        run.client[i].next = start + run.interval * i / run.n_clients;
    for (uint64_t next; (next = begin_due(&open)) != UINT64_MAX || open;)
        await(next);

    qsort(run.wait, run.n_waits, sizeof *run.wait, by_size);
    if (!run.n_waits)
        die("messages", "none was accepted");
    printf("{\"messages\": %zu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"late\": %zu}\n", run.n_waits,
           (double)run.wait[run.n_waits / 2] / 1e6, (double)run.wait[run.n_waits * 99 / 100] / 1e6,
           run.late);
    return 0;
}
