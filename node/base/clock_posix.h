/* The two clocks. Drivers read them and pass the time into cores. */
#ifndef BATON_BASE_CLOCK_POSIX_H
#define BATON_BASE_CLOCK_POSIX_H

#include <stdint.h>

/* CLOCK_BOOTTIME in ns: runs on while the machine sleeps; leases and silence are measured with it
 * (protocol 6). */
uint64_t clock_boot_ns(void);
/* CLOCK_REALTIME in ms since 1970: schedules, expiry and what people read. */
int64_t clock_wall_ms(void);
/* RFC 3339 in UTC with ms, "2026-01-02T03:04:05.678Z"; out has at least 32 bytes. Returns out. */
char *clock_rfc3339(char *out, int64_t wall_ms);
/* RFC 5322 date in UTC, "Fri, 02 Jan 2026 03:04:05 +0000"; out has at least 40 bytes. Returns out.
 */
char *clock_rfc5322(char *out, int64_t wall_ms);
#endif
