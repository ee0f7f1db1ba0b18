/* Is this node connected to anything (arbiter = none, takeover = "auto")? One TCP connection to
 * each address; accepted or refused, something answered. (ICMP would need privileges, and UDP an
 * answer that is known beforehand.) On the health loop; nothing here waits. */
#ifndef BATON_HEALTH_PROBE_UV_H
#define BATON_HEALTH_PROBE_UV_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct probes;
/* begun_ns: when the connection was tried, in clock_boot_ns() terms. */
typedef void (*probe_result)(void *ctx, unsigned i, bool answered, uint64_t begun_ns);
/* addresses: "ip:port", copied. NULL: one can't be read; err has one line. */
struct probes *probes_new(uv_loop_t *loop, char *const *addresses, unsigned n_addresses,
                          probe_result result, void *ctx, char *err, size_t n);
/* Tries each once; a result for each, never from within, in at most half a second. Not to be called
 * before all results of the last round were told. */
void probes_run(struct probes *p);
/* Handles close on the loop; nothing is told any more. Frees itself. */
void probes_close(struct probes *p);
#endif
