/* Writes a voter's row on a thread of its own: a disk that stalls must not hold up heartbeats or
 * other clusters (protocol 6). */
#ifndef BATON_HEALTH_VOTER_WRITER_UV_H
#define BATON_HEALTH_VOTER_WRITER_UV_H

#include <uv.h>

#include "health/register.h"

struct voter_writer;
/* done: on the loop's thread, once for each put. */
typedef void (*voter_written)(void *ctx, bool ok);

/* path and cluster must outlive it. */
struct voter_writer *voter_writer_new(uv_loop_t *loop, const char *path, const char *cluster,
                                      voter_written done, void *ctx);
/* At most one row at a time: not again before done. */
void voter_writer_put(struct voter_writer *w, const struct voter_state *state);
/* Loop's thread. Waits for a write that is under way (at most 5 s); done isn't called any more. */
void voter_writer_close(struct voter_writer *w);
#endif
