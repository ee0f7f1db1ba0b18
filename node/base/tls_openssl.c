/* See tls_openssl.h. The PSK set-up follows RFC 8446 4.2.11 with one suite, because the PSK's hash
 * must be the suite's. */
#include "node/base/tls_openssl.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct tls_ctx {
    _Atomic unsigned refs;
    SSL_CTX *ssl;
    bool server, psk;
    uint8_t key[32];
    char identity[128];
};

struct tls {
    struct tls_ctx *ctx;
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    bool ready;
    char error[160], describe[80];
};

static void openssl_error(char *err, size_t n, const char *what)
{
    char text[200];
    unsigned long e = ERR_get_error();
    ERR_error_string_n(e, text, sizeof text);
    const char *reason = ERR_reason_error_string(e);
    snprintf(err, n, "%s: %s", what, e ? (reason ? reason : text) : "unknown TLS error");
    ERR_clear_error();
}

static struct tls_ctx *ctx_new(bool server, int min_version)
{
    struct tls_ctx *c = xcalloc(1, sizeof *c);
    atomic_init(&c->refs, 1);
    c->server = server;
    c->ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    if (!c->ssl)
        abort(); /* out of memory, or no usable OpenSSL */
    SSL_CTX_set_min_proto_version(c->ssl, min_version);
    SSL_CTX_set_mode(c->ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_options(c->ssl, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                    SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_app_data(c->ssl, c);
    /* A server that verifies refuses every session, also one from a PSK, without this. */
    if (server)
        SSL_CTX_set_session_id_context(c->ssl, (const uint8_t *)"baton", 5);
    return c;
}

struct tls_ctx *tls_ctx_server(const char *cert_file, const char *key_file, char *err, size_t n)
{
    struct tls_ctx *c = ctx_new(true, TLS1_2_VERSION);
    ERR_clear_error();
    const char *at = cert_file;
    bool ok = SSL_CTX_use_certificate_chain_file(c->ssl, cert_file) == 1;
    if (ok) {
        at = key_file;
        ok = SSL_CTX_use_PrivateKey_file(c->ssl, key_file, SSL_FILETYPE_PEM) == 1;
    }
    if (ok)
        ok = SSL_CTX_check_private_key(c->ssl) == 1;
    if (!ok) {
        openssl_error(err, n, at);
        tls_ctx_unref(c);
        return NULL;
    }
    return c;
}

struct tls_ctx *tls_ctx_client(char *err, size_t n)
{
    (void)err;
    (void)n;
    struct tls_ctx *c = ctx_new(false, TLS1_2_VERSION);
    SSL_CTX_set_verify(c->ssl, SSL_VERIFY_NONE, NULL); /* opportunistic, RFC 7435 */
    return c;
}

static const uint8_t psk_suite_id[2] = {0x13, 0x01}; /* TLS_AES_128_GCM_SHA256 */

static SSL_SESSION *psk_session(SSL *ssl, const struct tls_ctx *c)
{
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, psk_suite_id);
    SSL_SESSION *s = SSL_SESSION_new();
    if (!s || !cipher || SSL_SESSION_set1_master_key(s, c->key, sizeof c->key) != 1 ||
        SSL_SESSION_set_cipher(s, cipher) != 1 ||
        SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(s);
        return NULL;
    }
    return s;
}

static int psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_n,
                   SSL_SESSION **session)
{
    const struct tls_ctx *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    (void)md;
    *session = psk_session(ssl, c);
    *id = (const uint8_t *)c->identity;
    *id_n = strlen(c->identity);
    return *session != NULL;
}

static int psk_find(SSL *ssl, const unsigned char *id, size_t id_n, SSL_SESSION **session)
{
    const struct tls_ctx *c = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    *session = NULL;
    if (id_n == strlen(c->identity) && memcmp(id, c->identity, id_n) == 0)
        *session = psk_session(ssl, c);
    return 1; /* an unknown identity ends as a handshake without the PSK, which is refused */
}

struct tls_ctx *tls_ctx_psk(bool server, const uint8_t key[32], const char *identity, char *err,
                            size_t n)
{
    struct tls_ctx *c = ctx_new(server, TLS1_3_VERSION);
    memcpy(c->key, key, 32);
    snprintf(c->identity, sizeof c->identity, "%s", identity);
    c->psk = true;
    SSL_CTX_set_num_tickets(c->ssl, 0);
    SSL_CTX_set_session_cache_mode(c->ssl, SSL_SESS_CACHE_OFF);
    /* An empty trust store: a certificate in place of the PSK never verifies. */
    SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    if (SSL_CTX_set_ciphersuites(c->ssl, "TLS_AES_128_GCM_SHA256") != 1) {
        openssl_error(err, n, "replication TLS");
        tls_ctx_unref(c);
        return NULL;
    }
    if (server)
        SSL_CTX_set_psk_find_session_callback(c->ssl, psk_find);
    else
        SSL_CTX_set_psk_use_session_callback(c->ssl, psk_use);
    return c;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
    if (ctx)
        atomic_fetch_add(&ctx->refs, 1);
    return ctx;
}

void tls_ctx_unref(struct tls_ctx *ctx)
{
    if (!ctx || atomic_fetch_sub(&ctx->refs, 1) != 1)
        return;
    SSL_CTX_free(ctx->ssl);
    OPENSSL_cleanse(ctx->key, sizeof ctx->key);
    free(ctx);
}

struct tls *tls_new(struct tls_ctx *ctx, const char *sni)
{
    struct tls *t = xcalloc(1, sizeof *t);
    t->ctx = tls_ctx_ref(ctx);
    t->ssl = SSL_new(ctx->ssl);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    if (!t->ssl || !t->in || !t->out)
        abort(); /* out of memory */
    SSL_set_bio(t->ssl, t->in, t->out);
    if (ctx->server) {
        SSL_set_accept_state(t->ssl);
    } else {
        SSL_set_connect_state(t->ssl);
        if (sni)
            SSL_set_tlsext_host_name(t->ssl, sni);
    }
    return t;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    SSL_free(t->ssl);
    tls_ctx_unref(t->ctx);
    free(t);
}

static bool drain(struct tls *t, struct buf *out)
{
    char *p;
    long n = BIO_get_mem_data(t->out, &p);
    if (n <= 0)
        return true;
    if (!buf_append(out, p, (size_t)n))
        return false;
    (void)BIO_reset(t->out);
    return true;
}

static enum tls_status fail(struct tls *t, struct buf *out, const char *what)
{
    openssl_error(t->error, sizeof t->error, what);
    drain(t, out); /* the alert */
    return TLS_FAILED;
}

static enum tls_status handshake(struct tls *t, struct buf *out)
{
    if (t->ready)
        return TLS_OK;
    ERR_clear_error();
    int rc = SSL_do_handshake(t->ssl);
    if (rc != 1) {
        int e = SSL_get_error(t->ssl, rc);
        if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE)
            return fail(t, out, "TLS handshake");
        return drain(t, out) ? TLS_OK : TLS_FAILED;
    }
    if (t->ctx->psk && !SSL_session_reused(t->ssl)) {
        snprintf(t->error, sizeof t->error, "TLS handshake: the peer doesn't hold our cluster key");
        drain(t, out);
        return TLS_FAILED;
    }
    t->ready = true;
    snprintf(t->describe, sizeof t->describe, "%s %s", SSL_get_version(t->ssl),
             SSL_get_cipher_name(t->ssl));
    return drain(t, out) ? TLS_OK : TLS_FAILED;
}

enum tls_status tls_start(struct tls *t, struct buf *out)
{
    return handshake(t, out);
}

enum tls_status tls_input(struct tls *t, const void *p, size_t n, struct buf *plain,
                          struct buf *out)
{
    if (n && BIO_write(t->in, p, (int)n) != (int)n)
        return fail(t, out, "TLS input");
    enum tls_status st = handshake(t, out);
    if (st != TLS_OK || !t->ready)
        return st;
    for (;;) {
        size_t room = plain->max - plain->len;
        if (room > 16384)
            room = 16384;
        if (room == 0 || !buf_reserve(plain, room))
            break;
        size_t got = 0;
        ERR_clear_error();
        if (SSL_read_ex(t->ssl, plain->data + plain->len, room, &got) == 1) {
            plain->len += got;
            continue;
        }
        int e = SSL_get_error(t->ssl, 0);
        if (e == SSL_ERROR_ZERO_RETURN) {
            drain(t, out);
            return TLS_CLOSED;
        }
        if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE)
            return fail(t, out, "TLS");
        break;
    }
    return drain(t, out) ? TLS_OK : TLS_FAILED;
}

enum tls_status tls_output(struct tls *t, struct slice plain, struct buf *out)
{
    while (plain.n) {
        size_t done = 0;
        ERR_clear_error();
        if (SSL_write_ex(t->ssl, plain.p, plain.n, &done) != 1)
            return fail(t, out, "TLS");
        plain.p += done;
        plain.n -= done;
        if (!drain(t, out)) {
            snprintf(t->error, sizeof t->error, "TLS output beyond its cap");
            return TLS_FAILED;
        }
    }
    return TLS_OK;
}

void tls_close(struct tls *t, struct buf *out)
{
    if (t->ready && !(SSL_get_shutdown(t->ssl) & SSL_SENT_SHUTDOWN)) {
        SSL_shutdown(t->ssl);
        drain(t, out);
    }
}

bool tls_ready(const struct tls *t)
{
    return t->ready;
}

const char *tls_describe(const struct tls *t)
{
    return t->describe;
}

const char *tls_error(const struct tls *t)
{
    return t->error;
}
