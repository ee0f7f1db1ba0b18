/* See auth_crypt_uv.h. */
#include "node/smtp/auth_crypt_uv.h"

#include <stdio.h>
#include <stdlib.h>

#include "node/smtp/users_crypt.h"

/* Waiting checks; at some 20 ms each on a pool of four the last one waits under a second. */
enum { CHECKS_MAX = 64 };

struct auth {
    uv_loop_t *loop;
    struct smtp_users users;
    char dummy[SMTP_HASH_MAX]; /* what an unknown user's password is held against */
    struct auth_check *checks;
};

struct auth_check {
    uv_work_t work;
    struct auth *auth;
    struct auth_check *next, **link; /* of auth->checks, NULL link: on none */
    char hash[SMTP_HASH_MAX], password[SMTP_PASSWORD_MAX + 1];
    bool known, right;
    auth_done done; /* NULL: forgotten */
    void *ctx;
};

struct auth *auth_open(uv_loop_t *loop, const char *file, char *err, size_t n)
{
    struct auth *a = xcalloc(1, sizeof *a);
    a->loop = loop;
    if (!smtp_users_load(file, &a->users, err, n)) {
        free(a);
        return NULL;
    }
    if (!smtp_users_hash("nobody has this one", a->dummy)) {
        snprintf(err, n, "this system's libcrypt has no yescrypt");
        auth_close(a);
        return NULL;
    }
    return a;
}

bool auth_reload(struct auth *a, const char *file, char *err, size_t n)
{
    struct smtp_users fresh;
    if (!smtp_users_load(file, &fresh, err, n))
        return false;
    smtp_users_free(&a->users);
    a->users = fresh;
    return true;
}

static void unlink_check(struct auth_check *c)
{
    if (!c->link)
        return;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    c->link = NULL;
}

static void on_work(uv_work_t *w)
{
    struct auth_check *c = w->data;
    struct crypt_data *data = xcalloc(1, sizeof *data);
    const char *hash = crypt_rn(c->password, c->hash, data, (int)sizeof *data);
    size_t n = strlen(c->hash);
    bool equal = hash && hash[0] == '$' && strlen(hash) == n;
    unsigned char diff = 0;
    for (size_t i = 0; equal && i < n; i++)
        diff |= (unsigned char)(hash[i] ^ c->hash[i]);
    c->right = equal && diff == 0 && c->known;
    explicit_bzero(data, sizeof *data);
    explicit_bzero(c->password, sizeof c->password);
    free(data);
}

static void on_checked(uv_work_t *w, int status)
{
    struct auth_check *c = w->data;
    unlink_check(c);
    if (c->done)
        c->done(c->ctx, status == 0 && c->right);
    explicit_bzero(c->password, sizeof c->password);
    free(c);
}

struct auth_check *auth_verify(struct auth *a, struct slice user, struct slice password,
                               auth_done done, void *ctx)
{
    unsigned waiting = 0;
    for (struct auth_check *c = a->checks; c; c = c->next)
        waiting++;
    if (waiting >= CHECKS_MAX)
        return NULL;
    char *name = slice_dup(user);
    const struct smtp_user *u = smtp_users_find(&a->users, name);
    free(name);
    struct auth_check *c = xcalloc(1, sizeof *c);
    c->auth = a;
    c->work.data = c;
    c->done = done;
    c->ctx = ctx;
    /* A password that can't be anybody's is checked as well, for the same time. */
    bool fits = password.n < sizeof c->password;
    c->known = u != NULL && fits;
    snprintf(c->hash, sizeof c->hash, "%s", u ? u->hash : a->dummy);
    memcpy(c->password, password.p, fits ? password.n : 0);
    if (uv_queue_work(a->loop, &c->work, on_work, on_checked) != 0) {
        explicit_bzero(c->password, sizeof c->password);
        free(c);
        return NULL;
    }
    c->next = a->checks;
    c->link = &a->checks;
    if (c->next)
        c->next->link = &c->next;
    a->checks = c;
    return c;
}

void auth_forget_check(struct auth_check *c)
{
    c->done = NULL;
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    while (a->checks) {
        a->checks->done = NULL;
        unlink_check(a->checks);
    }
    smtp_users_free(&a->users);
    explicit_bzero(a->dummy, sizeof a->dummy);
    free(a);
}
