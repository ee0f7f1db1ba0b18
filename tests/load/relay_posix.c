/* Weather between network namespaces: a relay that carries IP packets from one to another, and on
 * the way loses, delays, reorders, doubles, slows or swallows them. For tests; nobody's
 * configuration knows of it.
 *
 *   relay SEED NAME,NUMBER,NAMESPACE…      e.g. relay 7 a,1,bt12-a b,2,bt12-b w,3,bt12-w
 *
 * In each namespace it makes a TUN device "weather"; whoever routes 10.x.y.NUMBER/32 there hands
 * its packets to the relay, which gives them to the device of the namespace with that number. (The
 * kernel cuts segments and fills in checksums for a TUN device, so packets are whole.)
 *
 * Orders, a line each on standard input; its end ends the relay:
 *
 *   set FROM TO udp|tcp KEY=VALUE…   for what goes from FROM to TO; what isn't named is off
 *       loss, dup, reorder           probabilities 0..1; a reordered datagram waits 20 ms longer
 *       delay, jitter                milliseconds; jitter is drawn evenly and adds to delay. TCP's
 *                                    packets keep their order
 *       rate                         kbit/s; what waits for it: at most `queue` KiB (256)
 *       stall=1                      connections stay open and carry nothing
 *   clear                            fair weather everywhere
 *   stats                            prints "FROM TO PROTOCOL carried lost doubled stalled" a line
 *                                    each, then "." */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    PLACES_MAX = 8,
    PACKET_MAX = 2048,    /* the devices' MTU is 1500 */
    WAITING_MAX = 100000, /* packets under way: 1 s of 1 Gbit/s; more are lost, as in any queue */
    BATCH = 64,           /* packets of one device before the others have their turn */
    REORDER_MS = 20,
    QUEUE_KIB = 256,
    LINE_BYTES = 512,
};
enum protocol { UDP, TCP, PROTOCOLS };

struct weather {
    double loss, dup, reorder, delay_ms, jitter_ms, rate_kbit, queue_kib;
    bool stall;
    uint64_t free_at, last_due; /* when the slow link has sent what it took; TCP's order */
    uint64_t carried, lost, doubled, stalled;
};

struct packet {
    uint64_t due, order;
    unsigned to;
    size_t n;
    uint8_t bytes[PACKET_MAX];
};

struct relay {
    struct place {
        char name[16];
        unsigned number;
        int fd;
    } places[PLACES_MAX];
    unsigned n_places;
    struct weather weather[PLACES_MAX][PLACES_MAX][PROTOCOLS];
    struct packet **waiting; /* a heap by (due, order) */
    size_t n_waiting;
    uint64_t order, random;
    char line[LINE_BYTES];
    size_t line_n;
};

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* splitmix64, in 0..1 */
static double draw(struct relay *r)
{
    uint64_t z = r->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (double)((z ^ (z >> 31)) >> 11) / (double)(1ull << 53);
}

/* ---- what is under way ---- */

static bool before(const struct packet *a, const struct packet *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void push(struct relay *r, struct packet *p)
{
    size_t i = r->n_waiting++;
    for (; i && before(p, r->waiting[(i - 1) / 2]); i = (i - 1) / 2)
        r->waiting[i] = r->waiting[(i - 1) / 2];
    r->waiting[i] = p;
}

static struct packet *pop(struct relay *r)
{
    struct packet *first = r->waiting[0], *last = r->waiting[--r->n_waiting];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < r->n_waiting; i = child) {
        if (child + 1 < r->n_waiting && before(r->waiting[child + 1], r->waiting[child]))
            child++;
        if (!before(r->waiting[child], last))
            break;
        r->waiting[i] = r->waiting[child];
    }
    if (r->n_waiting)
        r->waiting[i] = last;
    return first;
}

static void send_on(struct relay *r, struct weather *w, unsigned to, const uint8_t *bytes, size_t n,
                    uint64_t due)
{
    if (r->n_waiting == WAITING_MAX) {
        w->lost++;
        return;
    }
    struct packet *p = malloc(sizeof *p);
    if (!p)
        die("memory");
    p->due = due;
    p->order = r->order++;
    p->to = to;
    p->n = n;
    memcpy(p->bytes, bytes, n);
    push(r, p);
}

/* ---- weather ---- */

/* When the packet arrives; 0: never. */
static uint64_t arrival(struct relay *r, struct weather *w, enum protocol proto, size_t n)
{
    uint64_t now = now_ns(), due = now;
    if (w->stall) {
        w->stalled++;
        return 0;
    }
    if (w->loss > 0 && draw(r) < w->loss) {
        w->lost++;
        return 0;
    }
    if (w->rate_kbit > 0) {
        uint64_t start = w->free_at > now ? w->free_at : now;
        if ((double)(start - now) * w->rate_kbit / 8e6 > w->queue_kib * 1024) {
            w->lost++;
            return 0;
        }
        due = w->free_at = start + (uint64_t)((double)n * 8e6 / w->rate_kbit);
    }
    due += (uint64_t)((w->delay_ms + (w->jitter_ms > 0 ? w->jitter_ms * draw(r) : 0)) * 1e6);
    if (proto == TCP) {
        if (due < w->last_due)
            due = w->last_due;
        w->last_due = due;
    } else if (w->reorder > 0 && draw(r) < w->reorder) {
        due += REORDER_MS * 1000000ull;
    }
    w->carried++;
    return due;
}

static void carry(struct relay *r, unsigned from, const uint8_t *bytes, size_t n)
{
    if (n < 20 || bytes[0] >> 4 != 4)
        return; /* the kernel's own IPv6 chatter */
    for (unsigned to = 0; to < r->n_places; to++) {
        if (to == from || r->places[to].number != bytes[19])
            continue;
        enum protocol proto = bytes[9] == 17 ? UDP : TCP;
        struct weather *w = &r->weather[from][to][proto];
        uint64_t due = arrival(r, w, proto, n);
        if (!due)
            return;
        send_on(r, w, to, bytes, n, due);
        if (proto == UDP && w->dup > 0 && draw(r) < w->dup) {
            w->doubled++;
            send_on(r, w, to, bytes, n, due + (uint64_t)(w->jitter_ms * draw(r) * 1e6));
        }
        return;
    }
}

static void deliver_due(struct relay *r)
{
    uint64_t now = now_ns();
    while (r->n_waiting && r->waiting[0]->due <= now) {
        struct packet *p = pop(r);
        /* A full device loses it, as a full card would. */
        if (write(r->places[p->to].fd, p->bytes, p->n) < 0 && errno != EAGAIN && errno != ENOBUFS &&
            errno != EIO)
            die("write");
        free(p);
    }
}

/* ---- orders ---- */

static int place_of(const struct relay *r, const char *name)
{
    for (unsigned i = 0; name && i < r->n_places; i++)
        if (strcmp(r->places[i].name, name) == 0)
            return (int)i;
    return -1;
}

static bool set_one(struct weather *w, char *word)
{
    char *value = strchr(word, '=');
    if (!value)
        return false;
    *value++ = 0;
    const struct {
        const char *name;
        double *at;
    } keys[] = {{"loss", &w->loss},      {"dup", &w->dup},          {"reorder", &w->reorder},
                {"delay", &w->delay_ms}, {"jitter", &w->jitter_ms}, {"rate", &w->rate_kbit},
                {"queue", &w->queue_kib}};
    for (unsigned i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i].name, word) == 0) {
            *keys[i].at = atof(value);
            return true;
        }
    w->stall = atoi(value) != 0;
    return strcmp(word, "stall") == 0;
}

static void calm(struct weather *w)
{
    w->loss = w->dup = w->reorder = w->delay_ms = w->jitter_ms = w->rate_kbit = 0;
    w->queue_kib = QUEUE_KIB;
    w->stall = false;
    w->free_at = 0;
}

static bool set(struct relay *r)
{
    int from = place_of(r, strtok(NULL, " ")), to = place_of(r, strtok(NULL, " "));
    const char *proto = strtok(NULL, " ");
    if (from < 0 || to < 0 || !proto || (strcmp(proto, "udp") != 0 && strcmp(proto, "tcp") != 0))
        return false;
    struct weather *w = &r->weather[from][to][strcmp(proto, "tcp") == 0 ? TCP : UDP];
    calm(w);
    for (char *word; (word = strtok(NULL, " "));)
        if (!set_one(w, word))
            return false;
    return true;
}

static void all(struct relay *r, bool print)
{
    for (unsigned i = 0; i < r->n_places; i++)
        for (unsigned k = 0; k < r->n_places; k++)
            for (unsigned proto = 0; proto < PROTOCOLS; proto++) {
                struct weather *w = &r->weather[i][k][proto];
                if (!print)
                    calm(w);
                else if (i != k)
                    printf("%s %s %s %llu %llu %llu %llu\n", r->places[i].name, r->places[k].name,
                           proto == UDP ? "udp" : "tcp", (unsigned long long)w->carried,
                           (unsigned long long)w->lost, (unsigned long long)w->doubled,
                           (unsigned long long)w->stalled);
            }
    if (print)
        printf(".\n");
}

static void obey(struct relay *r, char *line)
{
    char copy[LINE_BYTES];
    snprintf(copy, sizeof copy, "%s", line);
    const char *verb = strtok(line, " ");
    bool ok = verb != NULL;
    if (ok && strcmp(verb, "set") == 0)
        ok = set(r);
    else if (ok && (strcmp(verb, "clear") == 0 || strcmp(verb, "stats") == 0))
        all(r, verb[0] == 's');
    else
        ok = false;
    if (!ok)
        printf("? %s\n", copy);
    else if (verb[0] != 's' || verb[1] == 'e')
        printf("ok\n");
    fflush(stdout);
}

/* False: standard input ended. */
static bool read_orders(struct relay *r)
{
    ssize_t n = read(STDIN_FILENO, r->line + r->line_n, sizeof r->line - 1 - r->line_n);
    if (n <= 0)
        return n < 0 && errno == EINTR;
    r->line_n += (size_t)n;
    r->line[r->line_n] = 0;
    for (char *end; (end = strchr(r->line, '\n'));) {
        *end = 0;
        obey(r, r->line);
        r->line_n -= (size_t)(end + 1 - r->line);
        memmove(r->line, end + 1, r->line_n + 1);
    }
    return r->line_n < sizeof r->line - 1;
}

/* ---- life ---- */

static int open_device(const char *namespace, int home)
{
    char path[128];
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
        die(path);
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq i = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(i.ifr_name, sizeof i.ifr_name, "weather");
    if (fd < 0 || ioctl(fd, TUNSETIFF, &i) < 0)
        die("/dev/net/tun");
    if (setns(home, CLONE_NEWNET) < 0)
        die("setns");
    return fd;
}

static void add_place(struct relay *r, char *text, int home)
{
    char *name = strtok(text, ","), *number = strtok(NULL, ","), *namespace = strtok(NULL, ",");
    if (!namespace || r->n_places == PLACES_MAX) {
        fprintf(stderr, "usage: relay SEED NAME,NUMBER,NAMESPACE…\n");
        exit(2);
    }
    struct place *p = &r->places[r->n_places++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->number = (unsigned)atoi(number);
    p->fd = open_device(namespace, home);
}

static void run(struct relay *r)
{
    struct pollfd polled[PLACES_MAX + 1] = {{.fd = STDIN_FILENO, .events = POLLIN}};
    for (unsigned i = 0; i < r->n_places; i++)
        polled[i + 1] = (struct pollfd){.fd = r->places[i].fd, .events = POLLIN};
    for (;;) {
        uint64_t now = now_ns(), due = r->n_waiting ? r->waiting[0]->due : now + 1000000000u;
        uint64_t wait = due > now ? due - now : 0;
        struct timespec t = {.tv_sec = (time_t)(wait / 1000000000u),
                             .tv_nsec = (long)(wait % 1000000000u)};
        if (ppoll(polled, r->n_places + 1, &t, NULL) < 0 && errno != EINTR)
            die("poll");
        if (polled[0].revents && !read_orders(r))
            return;
        for (unsigned i = 0; i < r->n_places; i++) {
            uint8_t bytes[PACKET_MAX];
            ssize_t n;
            for (int k = 0; polled[i + 1].revents && k < BATCH &&
                            (n = read(r->places[i].fd, bytes, sizeof bytes)) > 0;
                 k++)
                carry(r, i, bytes, (size_t)n);
        }
        deliver_due(r);
    }
}

int main(int argc, char **argv)
{
    static struct relay r;
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (argc < 3 || home < 0) {
        fprintf(stderr, "usage: relay SEED NAME,NUMBER,NAMESPACE…\n");
        return 2;
    }
    r.random = strtoull(argv[1], NULL, 10);
    r.waiting = calloc(WAITING_MAX, sizeof(struct packet *));
    if (!r.waiting)
        die("memory");
    for (int i = 2; i < argc; i++)
        add_place(&r, argv[i], home);
    all(&r, false);
    printf("ok\n");
    fflush(stdout);
    run(&r);
    while (r.n_waiting)
        free(pop(&r));
    free(r.waiting);
    return 0;
}
