/* A sum of bytes that stay in memory, quick enough to be asked each time that they are used. It
 * notices what faulty memory or a stray pointer does to them; what lies on disks is known by its
 * SHA-256 (crypto_openssl.h). It may change from one version to the next: never stored, never sent.
 */
#ifndef BATON_BASE_SUM_XXHASH_H
#define BATON_BASE_SUM_XXHASH_H

#include "node/base/buf.h"

uint64_t sum_bytes(struct slice s);
/* The same, of bytes that come in pieces. */
struct sum;
struct sum *sum_new(void); /* aborts on exhausted memory */
void sum_update(struct sum *x, struct slice s);
uint64_t sum_final(struct sum *x); /* frees x */
void sum_free(struct sum *x);
#endif
