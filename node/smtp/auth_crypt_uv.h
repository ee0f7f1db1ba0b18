/* Checks the passwords of SMTP AUTH against the users file on libuv's thread pool: yescrypt is
 * meant to be slow. */
#ifndef BATON_SMTP_AUTH_CRYPT_UV_H
#define BATON_SMTP_AUTH_CRYPT_UV_H

#include <uv.h>

#include "node/base/buf.h"

struct auth;
typedef void (*auth_done)(void *ctx, bool right);

/* Reads the users. NULL: err (size n) has one line that names file, line and remedy. */
struct auth *auth_open(uv_loop_t *loop, const char *file, char *err, size_t n);
/* Reads them anew, from `file`; false: nothing changed. Checks under way use what they began with.
 */
bool auth_reload(struct auth *a, const char *file, char *err, size_t n);
/* Checks off the loop; done is called on the loop, exactly once. An unknown user costs the same
 * time. Returns a ticket for auth_forget(), NULL when too many wait. */
struct auth_check *auth_verify(struct auth *a, struct slice user, struct slice password,
                               auth_done done, void *ctx);
/* done won't be called. */
void auth_forget_check(struct auth_check *check);
/* Frees a at once; checks under way end by themselves, without calling anybody. */
void auth_close(struct auth *a);
#endif
