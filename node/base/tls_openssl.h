/* TLS engines over memory BIOs: bytes in, bytes out, no sockets. */
#ifndef BATON_BASE_TLS_OPENSSL_H
#define BATON_BASE_TLS_OPENSSL_H

#include "node/base/buf.h"

struct tls_ctx; /* shared settings; reference-counted, safe to swap on reload */
struct tls;     /* one session */

/* Server with certificate chain and key (PEM), TLS 1.2 and up. NULL: err (size n) holds one line
 * that names file and cause. */
struct tls_ctx *tls_ctx_server(const char *cert_file, const char *key_file, char *err, size_t n);
/* Client for opportunistic SMTP (no verification), TLS 1.2 and up, with session resumption. */
struct tls_ctx *tls_ctx_client(char *err, size_t n);
/* TLS 1.3 external PSK only (TLS_AES_128_GCM_SHA256... one suite pinned), for the replication link.
 * key: 32 bytes, already derived for this direction; identity: "cluster/from/to", both ends must
 * agree. A handshake in which the PSK was not used fails on both sides (see RFC 8446 4.2.11). */
struct tls_ctx *tls_ctx_psk(bool server, const uint8_t key[32], const char *identity, char *err,
                            size_t n);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_unref(struct tls_ctx *ctx);

/* sni: server name for a client, NULL otherwise. */
struct tls *tls_new(struct tls_ctx *ctx, const char *sni);
void tls_free(struct tls *t);

enum tls_status { TLS_OK, TLS_CLOSED /* close_notify came */, TLS_FAILED };
/* Feeds n bytes from the network; appends plaintext to `plain` and what must go to the network to
 * `out` (both capped by their buf.max; plaintext beyond the cap stays inside until the next call).
 */
enum tls_status tls_input(struct tls *t, const void *p, size_t n, struct buf *plain,
                          struct buf *out);
/* Encrypts; call only after tls_ready(). */
enum tls_status tls_output(struct tls *t, struct slice plain, struct buf *out);
/* Starts a client's handshake (a server's starts with the first input). */
enum tls_status tls_start(struct tls *t, struct buf *out);
void tls_close(struct tls *t, struct buf *out);
bool tls_ready(const struct tls *t);
/* "TLSv1.3 TLS_AES_256_GCM_SHA384"; valid while t lives. "" before ready. */
const char *tls_describe(const struct tls *t);
/* Last error as one line for a person; valid while t lives. */
const char *tls_error(const struct tls *t);
#endif
