/* The file of SMTP AUTH's users, as `batonctl passwd` writes it: lines `user:yescrypt hash`,
 * comments with #. Blocks on the disk; used at start, at reload and by batonctl. */
#ifndef BATON_SMTP_USERS_CRYPT_H
#define BATON_SMTP_USERS_CRYPT_H

#include <crypt.h>

#include "node/base/buf.h"

enum { SMTP_HASH_MAX = CRYPT_OUTPUT_SIZE, SMTP_PASSWORD_MAX = CRYPT_MAX_PASSPHRASE_SIZE - 1 };

struct smtp_user {
    char *name, *hash; /* both within struct smtp_users' text */
};
struct smtp_users {
    char *text;
    struct smtp_user *list; /* sorted by name */
    size_t n;
};

/* Sets user's password in file (created with mode 0640), keeping the others; the file is replaced
 * in one step, owner and group stay. False: err (size n) has one line. */
bool smtp_users_set(const char *file, const char *user, const char *password, char *err, size_t n);
/* False: err (size n) has one line that names file, line and remedy. */
bool smtp_users_load(const char *file, struct smtp_users *out, char *err, size_t n);
void smtp_users_free(struct smtp_users *u);
/* NULL: not there. */
const struct smtp_user *smtp_users_find(const struct smtp_users *u, const char *name);
/* A fresh yescrypt hash; false: libcrypt can't. */
bool smtp_users_hash(const char *password, char out[SMTP_HASH_MAX]);
#endif
