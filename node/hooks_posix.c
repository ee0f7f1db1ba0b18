/* See hooks_posix.h. Daemon and helper talk over a SEQPACKET socket: one request a packet, the
 * daemon's end of file without a farewell means that it died, and then no hook must go on that
 * tells the world what is no longer so. */
#include "node/hooks_posix.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/base/log.h"
#include "node/base/wire.h"

enum {
    QUEUE_MAX =
        16, /* hooks that wait; more changes of role than that in 30 s are a flapping pair */
    REQUEST_BYTES = 5, /* u8 hook or one of these, u32 epoch */
    KILL = 254,
    FAREWELL = 255,
};

static const char *const hook_names[HOOKS] = {"promoted", "demoted", "solo", "paired", "fence"};
static const char *const hook_roles[HOOKS] = {"primary", "standby", "primary", "primary", NULL};

struct hooks {
    int fd;
    pid_t helper;
    bool wanted[HOOKS]; /* a command is set */
};

/* --- the helper's side --- */

struct helper {
    int fd, signals;
    unsigned limit_ms;
    char *command[HOOKS], *cluster;
    char node;
    struct request {
        enum hook which;
        uint32_t epoch;
    } queue[QUEUE_MAX], current;
    unsigned queued;
    pid_t child; /* 0: none runs */
    uint64_t started_ns;
    const char *killed; /* why; NULL: it wasn't */
    bool farewell;
};

static void set_env(const struct helper *h, const struct request *q)
{
    char node[2] = {h->node, 0}, peer[2] = {h->node == 'a' ? 'b' : 'a', 0}, epoch[16];
    snprintf(epoch, sizeof epoch, "%u", q->epoch);
    setenv("BATON_HOOK", hook_names[q->which], 1);
    if (hook_roles[q->which])
        setenv("BATON_ROLE", hook_roles[q->which], 1);
    setenv("BATON_PEER", peer, 1);
    setenv("BATON_CLUSTER", h->cluster, 1);
    setenv("BATON_NODE", node, 1);
    setenv("BATON_EPOCH", epoch, 1);
}

static void __attribute__((noreturn)) become_hook(const struct helper *h)
{
    const struct request *q = &h->current;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    setsid(); /* a process group of its own, to be killed as a whole */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    set_env(h, q);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    char *argv[] = {h->command[q->which], (char *)(uintptr_t)hook_names[q->which], NULL};
    execv(argv[0], argv);
    log_error("hook.failed", "hook=%s error=\"%s\"", hook_names[q->which], strerror(errno));
    _exit(127);
}

/* Only a fence command's end is waited for: there a failure must never look like success. */
static void tell(const struct helper *h, bool ok)
{
    uint8_t result = ok;
    if (h->current.which == HOOK_FENCE && send(h->fd, &result, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
        log_error("hook.untold", "hook=fence ok=%d error=\"%s\"", ok, strerror(errno));
}

static void start_next(struct helper *h)
{
    assert(h->child == 0 && h->queued > 0);
    h->current = h->queue[0];
    h->queued--;
    memmove(h->queue, h->queue + 1, h->queued * sizeof *h->queue);
    h->started_ns = clock_boot_ns();
    h->killed = NULL;
    h->child = fork();
    if (h->child == 0)
        become_hook(h);
    if (h->child < 0) {
        log_error("hook.failed", "hook=%s error=\"%s\"", hook_names[h->current.which],
                  strerror(errno));
        h->child = 0;
        tell(h, false);
    }
}

static void kill_hook(struct helper *h, const char *why)
{
    /* Its group exists once it called setsid(); until then only the process itself does. */
    if (kill(-h->child, SIGKILL) != 0)
        kill(h->child, SIGKILL);
    h->killed = why;
}

static const char ended[] = "its grounds are gone";

/* By order: what waits behind a command that can't die at once isn't run, either. */
static void kill_all(struct helper *h)
{
    h->queued = 0;
    if (h->child && !h->killed)
        kill_hook(h, ended);
}

static void reap(struct helper *h)
{
    int status;
    if (h->child == 0 || waitpid(h->child, &status, WNOHANG) != h->child)
        return;
    unsigned ms = (unsigned)((clock_boot_ns() - h->started_ns) / 1000000);
    const char *name = hook_names[h->current.which];
    if (h->killed)
        log_event(h->killed == ended ? LOG_WARN_ : LOG_ERROR_, "hook.killed",
                  "hook=%s epoch=%u after_ms=%u why=\"%s\"", name, h->current.epoch, ms, h->killed);
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        log_info("hook.done", "hook=%s epoch=%u took_ms=%u", name, h->current.epoch, ms);
    else if (WIFEXITED(status))
        log_error("hook.failed", "hook=%s epoch=%u exit=%d took_ms=%u", name, h->current.epoch,
                  WEXITSTATUS(status), ms);
    else
        log_error("hook.failed", "hook=%s epoch=%u signal=%d took_ms=%u", name, h->current.epoch,
                  WTERMSIG(status), ms);
    h->child = 0;
    tell(h, !h->killed && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* One packet. False: the daemon is gone. */
static bool take_request(struct helper *h)
{
    uint8_t packet[REQUEST_BYTES];
    ssize_t n = recv(h->fd, packet, sizeof packet, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return false;
    struct wire_reader r = wire_read(slice_of(packet, (size_t)n));
    uint8_t which = wire_get_u8(&r);
    uint32_t epoch = wire_get_u32(&r);
    if (!wire_done(&r))
        return true;
    if (which == FAREWELL)
        h->farewell = true;
    else if (which == KILL)
        kill_all(h);
    else if (which < HOOKS && h->command[which])
        h->queue[h->queued++] = (struct request){(enum hook)which, epoch};
    return true;
}

static int time_left_ms(const struct helper *h)
{
    if (h->child == 0 || h->killed)
        return -1;
    uint64_t gone = (clock_boot_ns() - h->started_ns) / 1000000;
    return gone >= h->limit_ms ? 0 : (int)(h->limit_ms - gone);
}

static void __attribute__((noreturn)) helper_loop(struct helper *h)
{
    for (;;) {
        if (h->child == 0 && h->queued > 0)
            start_next(h);
        if (h->child == 0 && h->queued == 0 && h->farewell)
            _exit(0);
        bool listening = !h->farewell && h->queued < QUEUE_MAX;
        struct pollfd p[2] = {{.fd = h->signals, .events = POLLIN},
                              {.fd = listening ? h->fd : -1, .events = POLLIN}};
        int n = poll(p, 2, time_left_ms(h));
        if (time_left_ms(h) == 0)
            kill_hook(h, "over its time limit");
        if (n > 0 && (p[0].revents & POLLIN)) {
            struct signalfd_siginfo info;
            ssize_t ignored = read(h->signals, &info, sizeof info);
            (void)ignored; /* waitpid tells what happened */
        }
        reap(h);
        if (n > 0 && p[1].revents && !take_request(h)) {
            if (h->child)
                kill_hook(h, "the daemon died");
            _exit(0);
        }
    }
}

static void __attribute__((noreturn))
become_helper(const struct config *c, unsigned limit_ms, int fd)
{
    struct helper h = {
        .fd = fd, .limit_ms = limit_ms, .cluster = xstrdup(c->cluster), .node = c->node};
    const char *const commands[HOOKS] = {c->hooks.promoted, c->hooks.demoted, c->hooks.solo,
                                         c->hooks.paired, c->arbiter.fence};
    for (unsigned i = 0; i < HOOKS; i++)
        h.command[i] = commands[i] ? xstrdup(commands[i]) : NULL;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    /* A service manager or a terminal signals every process; the helper goes by the socket. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    h.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_NAME, "batond-hooks");
    if (h.signals < 0)
        _exit(1);
    helper_loop(&h);
}

/* --- the daemon's side --- */

struct hooks *hooks_start(const struct config *c, unsigned limit_ms, char *err, size_t n)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        snprintf(err, n, "hooks: socketpair: %s", strerror(errno));
        return NULL;
    }
    pid_t pid = fork();
    if (pid < 0) {
        snprintf(err, n, "hooks: fork: %s", strerror(errno));
        close(pair[0]);
        close(pair[1]);
        return NULL;
    }
    if (pid == 0) {
        close(pair[0]);
        become_helper(c, limit_ms, pair[1]);
    }
    close(pair[1]);
    struct hooks *h = xcalloc(1, sizeof *h);
    h->fd = pair[0];
    h->helper = pid;
    h->wanted[HOOK_PROMOTED] = c->hooks.promoted != NULL;
    h->wanted[HOOK_DEMOTED] = c->hooks.demoted != NULL;
    h->wanted[HOOK_SOLO] = c->hooks.solo != NULL;
    h->wanted[HOOK_PAIRED] = c->hooks.paired != NULL;
    h->wanted[HOOK_FENCE] = c->arbiter.fence != NULL;
    return h;
}

static bool send_request(const struct hooks *h, uint8_t which, uint32_t epoch)
{
    struct buf b;
    buf_init(&b, REQUEST_BYTES);
    bool ok = wire_put_u8(&b, which) && wire_put_u32(&b, epoch);
    assert(ok);
    ok = send(h->fd, b.data, b.len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)b.len;
    buf_free(&b);
    return ok;
}

void hooks_run(struct hooks *h, enum hook which, uint32_t epoch)
{
    assert((unsigned)which < HOOKS);
    if (h->wanted[which] && !send_request(h, (uint8_t)which, epoch))
        log_error("hook.dropped", "hook=%s epoch=%u error=\"%s\"", hook_names[which], epoch,
                  errno == EAGAIN ? "too many are waiting" : strerror(errno));
}

void hooks_kill(struct hooks *h)
{
    if (!send_request(h, KILL, 0))
        log_error("hook.dropped", "hook=kill error=\"%s\"", strerror(errno));
}

bool hooks_fence_ended(struct hooks *h, bool *ok)
{
    uint8_t result;
    if (recv(h->fd, &result, 1, MSG_DONTWAIT) != 1)
        return false;
    *ok = result == 1;
    return true;
}

void hooks_stop(struct hooks *h, unsigned wait_ms)
{
    if (!h)
        return;
    send_request(h, FAREWELL, 0);
    uint64_t until = clock_boot_ns() + wait_ms * 1000000ull;
    pid_t gone;
    while ((gone = waitpid(h->helper, NULL, WNOHANG)) == 0 && clock_boot_ns() < until)
        poll(NULL, 0, 10); /* the helper is no child of a loop: ask, with a bound */
    if (gone == 0)
        log_warn("hook.left", "why=\"a hook still runs\"");
    close(h->fd);
    free(h);
}
