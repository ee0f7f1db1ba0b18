/* Keys, hashes and random bytes. */
#ifndef BATON_BASE_CRYPTO_OPENSSL_H
#define BATON_BASE_CRYPTO_OPENSSL_H

#include "node/base/buf.h"

#define CLUSTER_KEY_BYTES 32

void crypto_random(void *out, size_t n);
void crypto_hmac_sha256(const uint8_t key[32], struct slice data, uint8_t out[32]);
/* HKDF (RFC 5869) with SHA-256 from the cluster key; label names the purpose and, for directed
 * keys, both ends. */
void crypto_derive(const uint8_t key[32], const char *label, uint8_t out[32]);
bool crypto_equal(const void *a, const void *b, size_t n); /* constant time */

struct sha256;
struct sha256 *sha256_new(void);
void sha256_update(struct sha256 *h, struct slice s);
void sha256_final(struct sha256 *h, uint8_t out[32]); /* frees h */
void sha256_free(struct sha256 *h);
void crypto_sha256(struct slice s, uint8_t out[32]);

/* Base64 (RFC 4648, section 4), appended to out. False: out's cap, or (decode) no base64. */
bool crypto_base64_encode(struct buf *out, struct slice s);
bool crypto_base64_decode(struct buf *out, struct slice text);

/* Cluster key file: one line of 64 hex digits, mode 0600 or stricter, owned by us or root.
 * False: err (size n) holds one line that names the file and the remedy. */
bool crypto_key_load(const char *file, uint8_t key[CLUSTER_KEY_BYTES], char *err, size_t n);
/* Creates the file with a new key (mode 0600); refuses to overwrite. */
bool crypto_key_create(const char *file, char *err, size_t n);
#endif
