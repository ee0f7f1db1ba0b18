/* What a voter and a process must remember in files of their own (protocol 5: one durable row; 6:
 * the boot counter): written whole to a temporary file, synced, renamed, the directory synced, so
 * that a crash leaves the row before or the row after. Checked by a SHA-256 at its end. */
#ifndef BATON_HEALTH_VOTER_POSIX_H
#define BATON_HEALTH_VOTER_POSIX_H

#include "health/register.h"

enum voter_file {
    VOTER_FILE_READ,    /* *state is what was written last */
    VOTER_FILE_FRESH,   /* no file: *state is a new voter that doesn't vote yet */
    VOTER_FILE_DAMAGED, /* moved aside; *state as for FRESH; err has one line */
    VOTER_FILE_FOREIGN, /* of another cluster, or of a newer version: refuse to start; err */
    VOTER_FILE_ERROR,   /* can't be read, which isn't the same as empty: refuse to start; err */
};
/* Reads path. fresh_id: random, names the voter if it is new. */
enum voter_file voter_file_load(const char *path, const char *cluster, uint64_t fresh_id,
                                struct voter_state *state, char *err, size_t n);
/* Durable when it returns true. Blocks for as long as the disk takes. */
bool voter_file_store(const char *path, const char *cluster, const struct voter_state *state,
                      char *err, size_t n);

/* The number of this start: above all earlier ones, durable when it returns. Never below wall_s
 * (seconds since 1970), so that a node with a new disk isn't taken for an earlier life of itself.
 */
bool boot_counter_next(const char *path, uint64_t wall_s, uint64_t *counter, char *err, size_t n);
#endif
