/* Writes log lines to stderr, each with one write(2), so that lines of several threads never mix.
 * See log.h. */
#include "node/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "node/base/clock_posix.h"

static _Atomic int log_level_now = LOG_INFO_;
static char log_node[32] = "-"; /* set once, before threads start */

static const char *const level_names[] = {"debug", "info", "warn", "error"};

bool log_set_level(const char *name)
{
    for (int i = LOG_DEBUG_; i <= LOG_ERROR_; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            atomic_store(&log_level_now, i);
            return true;
        }
    }
    return false;
}

void log_set_node(const char *name)
{
    snprintf(log_node, sizeof log_node, "%s", name);
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
    if ((int)level < atomic_load_explicit(&log_level_now, memory_order_relaxed))
        return;
    char line[1200], when[32];
    int n = snprintf(line, sizeof line, "%s %s %s %s ", clock_rfc3339(when, clock_wall_ms()),
                     level_names[level], log_node, event);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    size_t len = (size_t)n + (m > 0 ? (size_t)m : 0);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    line[len++] = '\n';
    /* Nothing can be done about a log that can't be written; the service goes on. */
    ssize_t ignored = write(STDERR_FILENO, line, len);
    (void)ignored;
}

const char *log_quote(char *out, size_t n, struct slice s)
{
    bool plain = s.n > 0;
    for (size_t i = 0; i < s.n && plain; i++)
        plain = s.p[i] > ' ' && s.p[i] < 127 && s.p[i] != '"' && s.p[i] != '\\' && s.p[i] != '=';
    size_t o = 0;
    if (!plain && n > 1)
        out[o++] = '"';
    for (size_t i = 0; i < s.n && o + 6 < n; i++) {
        uint8_t c = s.p[i];
        if (c == '"' || c == '\\')
            o += (size_t)snprintf(out + o, n - o, "\\%c", c);
        else if (c < ' ' || c == 127)
            o += (size_t)snprintf(out + o, n - o, "\\x%02x", c);
        else
            out[o++] = (char)c;
    }
    if (!plain && o + 1 < n)
        out[o++] = '"';
    out[o] = 0;
    return out;
}
