/* The witness: the third voter of many clusters, behind one UDP socket (protocol 1 and 5). No
 * queue, no proposals, a few hundred bytes of state for each cluster in `STORE.CLUSTER`. */
#ifndef BATON_HEALTH_WITNESS_UV_H
#define BATON_HEALTH_WITNESS_UV_H

#include <uv.h>

#include "node/base/config.h"

struct witness;
/* Binds and loads the keys: both may need root. NULL: err has one line. c must outlive it. */
struct witness *witness_new(uv_loop_t *loop, const struct witness_config *c, char *err, size_t n);
/* Reads or makes the voters' files, as the user that will write them, and begins to answer. */
bool witness_start(struct witness *w, char *err, size_t n);
/* Loop's thread. Ends writes that are under way, closes the handles; frees w once they are. */
void witness_close(struct witness *w);
#endif
