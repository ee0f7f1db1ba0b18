/* See crypto_openssl.h. */
#include "node/base/crypto_openssl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A failing primitive means a broken installation; going on would send or accept unauthenticated
 * bytes. */
static void must(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "baton: OpenSSL can't do %s\n", what);
        abort();
    }
}

void crypto_random(void *out, size_t n)
{
    must(RAND_bytes(out, (int)n) == 1, "random bytes");
}

void crypto_hmac_sha256(const uint8_t key[32], struct slice data, uint8_t out[32])
{
    unsigned n = 32;
    must(HMAC(EVP_sha256(), key, 32, data.p, data.n, out, &n) != NULL, "HMAC-SHA256");
}

void crypto_derive(const uint8_t key[32], const char *label, uint8_t out[32])
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, NULL);
    size_t n = 32;
    must(c && EVP_PKEY_derive_init(c) > 0 && EVP_PKEY_CTX_set_hkdf_md(c, EVP_sha256()) > 0 &&
             EVP_PKEY_CTX_set1_hkdf_salt(c, (const uint8_t *)"baton", 5) > 0 &&
             EVP_PKEY_CTX_set1_hkdf_key(c, key, 32) > 0 &&
             EVP_PKEY_CTX_add1_hkdf_info(c, (const uint8_t *)label, (int)strlen(label)) > 0 &&
             EVP_PKEY_derive(c, out, &n) > 0,
         "HKDF");
    EVP_PKEY_CTX_free(c);
}

bool crypto_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

/* Looked up once: EVP_sha256() is looked up among the providers at each use. */
static EVP_MD *sha256_md;

static void fetch_sha256(void)
{
    sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
    must(sha256_md != NULL, "SHA-256");
}

static const EVP_MD *sha256_type(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_sha256);
    return sha256_md;
}

struct sha256 {
    EVP_MD_CTX *md;
};

struct sha256 *sha256_new(void)
{
    struct sha256 *h = xmalloc(sizeof *h);
    h->md = EVP_MD_CTX_new();
    must(h->md && EVP_DigestInit_ex(h->md, sha256_type(), NULL) == 1, "SHA-256");
    return h;
}

void sha256_update(struct sha256 *h, struct slice s)
{
    must(EVP_DigestUpdate(h->md, s.p, s.n) == 1, "SHA-256");
}

void sha256_final(struct sha256 *h, uint8_t out[32])
{
    must(EVP_DigestFinal_ex(h->md, out, NULL) == 1, "SHA-256");
    sha256_free(h);
}

void sha256_free(struct sha256 *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->md);
    free(h);
}

void crypto_sha256(struct slice s, uint8_t out[32])
{
    must(EVP_Digest(s.p, s.n, out, NULL, sha256_type(), NULL) == 1, "SHA-256");
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool crypto_key_load(const char *file, uint8_t key[CLUSTER_KEY_BYTES], char *err, size_t n)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        snprintf(err, n,
                 "%s: %s; make one with `batonctl keygen %s` and copy it to the other machines",
                 file, strerror(errno), file);
        return false;
    }
    struct stat st;
    char text[2 * CLUSTER_KEY_BYTES + 2];
    ssize_t got = -1;
    bool ok = fstat(fd, &st) == 0;
    if (ok && (st.st_mode & 077)) {
        snprintf(err, n, "%s: mode %04o lets others read the cluster key; chmod 0600 %s", file,
                 (unsigned)st.st_mode & 07777u, file);
        ok = false;
    } else if (ok && st.st_uid != geteuid() && st.st_uid != 0) {
        snprintf(err, n, "%s: belongs to user %u, neither to root nor to us; chown it", file,
                 (unsigned)st.st_uid);
        ok = false;
    } else if (ok) {
        got = read(fd, text, sizeof text);
        bool whole = got == 2 * CLUSTER_KEY_BYTES ||
                     (got == 2 * CLUSTER_KEY_BYTES + 1 && text[got - 1] == '\n');
        for (unsigned i = 0; whole && i < CLUSTER_KEY_BYTES; i++) {
            int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
            whole = hi >= 0 && lo >= 0;
            key[i] = (uint8_t)(hi << 4 | (lo & 15));
        }
        if (!whole)
            snprintf(err, n,
                     "%s: not a cluster key (one line of 64 hex digits); make one with `batonctl "
                     "keygen`",
                     file);
        ok = whole;
    } else {
        snprintf(err, n, "%s: %s", file, strerror(errno));
    }
    OPENSSL_cleanse(text, sizeof text);
    close(fd);
    return ok;
}

bool crypto_key_create(const char *file, char *err, size_t n)
{
    uint8_t key[CLUSTER_KEY_BYTES];
    char text[2 * CLUSTER_KEY_BYTES + 2];
    crypto_random(key, sizeof key);
    for (unsigned i = 0; i < sizeof key; i++)
        snprintf(text + 2 * i, 3, "%02x", key[i]);
    text[2 * CLUSTER_KEY_BYTES] = '\n';
    int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text, 2 * CLUSTER_KEY_BYTES + 1) == 2 * CLUSTER_KEY_BYTES + 1 &&
              fsync(fd) == 0;
    if (!ok)
        snprintf(err, n, "%s: %s%s", file, strerror(errno),
                 errno == EEXIST ? "; a key is never overwritten: remove it first if you mean it"
                                 : "");
    if (fd >= 0)
        close(fd);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(text, sizeof text);
    return ok;
}

bool crypto_base64_encode(struct buf *out, struct slice s)
{
    size_t n = (s.n + 2) / 3 * 4;
    if (s.n > INT_MAX / 2 || !buf_reserve(out, n + 1)) /* it ends with a NUL */
        return false;
    int made = EVP_EncodeBlock(out->data + out->len, s.p, (int)s.n);
    out->len += (size_t)made;
    return true;
}

bool crypto_base64_decode(struct buf *out, struct slice text)
{
    size_t pad = 0;
    while (pad < 2 && pad < text.n && text.p[text.n - 1 - pad] == '=')
        pad++;
    if (text.n % 4 != 0 || text.n > INT_MAX / 2 || !buf_reserve(out, text.n / 4 * 3 + 1))
        return false;
    int made = text.n ? EVP_DecodeBlock(out->data + out->len, text.p, (int)text.n) : 0;
    if (made < (int)pad)
        return false;
    out->len += (size_t)made - pad;
    return true;
}
