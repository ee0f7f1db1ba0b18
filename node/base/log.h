/* One structured line per event to stderr: `2026-01-02T03:04:05.678Z info a role.changed key=value
 * ...`. Core-safe: includes no clock; the writer (log_posix.c) adds time and node and is
 * thread-safe. Values that may hold spaces or bytes from outside go through %s only after
 * log_quote(). */
#ifndef BATON_BASE_LOG_H
#define BATON_BASE_LOG_H

#include "node/base/buf.h"

enum log_level { LOG_DEBUG_, LOG_INFO_, LOG_WARN_, LOG_ERROR_ };

void log_event(enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define log_debug(...) log_event(LOG_DEBUG_, __VA_ARGS__)
#define log_info(...)  log_event(LOG_INFO_, __VA_ARGS__)
#define log_warn(...)  log_event(LOG_WARN_, __VA_ARGS__)
#define log_error(...) log_event(LOG_ERROR_, __VA_ARGS__)

/* "debug", "info", "warn" or "error"; false when it is none of them. */
bool log_set_level(const char *name);
/* Name shown in each line; copied (at most 31 bytes). */
void log_set_node(const char *name);
/* Writes s into out (size n, always terminated), quoted and escaped when it isn't a plain word.
 * Returns out. */
const char *log_quote(char *out, size_t n, struct slice s);
#endif
