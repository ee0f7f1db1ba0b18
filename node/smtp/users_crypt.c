/* See users_crypt.h. */
#include "node/smtp/users_crypt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    USERS_FILE_MAX = 16 << 20, /* some 150,000 users */
    USER_NAME_MAX = 255,
};

static bool read_file(const char *file, char **text, struct stat *st, char *err, size_t n)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    *text = NULL;
    if (fd < 0 || fstat(fd, st) != 0) {
        snprintf(err, n, "%s: %s; make it with `batonctl passwd %s USER`", file, strerror(errno),
                 file);
    } else if (!S_ISREG(st->st_mode) || st->st_size > USERS_FILE_MAX) {
        snprintf(err, n, "%s: not a users file; make one with `batonctl passwd %s USER`", file,
                 file);
    } else {
        size_t want = (size_t)st->st_size, got = 0;
        *text = xmalloc(want + 1);
        ssize_t r = 1;
        while (got < want && (r = read(fd, *text + got, want - got)) > 0)
            got += (size_t)r;
        (*text)[got] = 0;
        if (r < 0) {
            snprintf(err, n, "%s: %s", file, strerror(errno));
            free(*text);
            *text = NULL;
        }
    }
    if (fd >= 0)
        close(fd);
    return *text != NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct smtp_user *)a)->name, ((const struct smtp_user *)b)->name);
}

static bool name_valid(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 33 || name[i] == 127 || name[i] == ':')
            return false;
    return n > 0 && n <= USER_NAME_MAX && name[0] != '#';
}

void smtp_users_free(struct smtp_users *u)
{
    free(u->text);
    free(u->list);
    *u = (struct smtp_users){0};
}

bool smtp_users_load(const char *file, struct smtp_users *out, char *err, size_t n)
{
    struct stat st;
    struct smtp_users u = {0};
    if (!read_file(file, &u.text, &st, err, n))
        return false;
    size_t lines = 1, number = 0;
    for (char *p = u.text; *p; p++)
        lines += *p == '\n';
    u.list = xcalloc(lines, sizeof u.list[0]);
    char *save = u.text, *line;
    while ((line = strsep(&save, "\n")) != NULL) {
        number++;
        if (!*line || *line == '#')
            continue;
        char *hash = strchr(line, ':');
        if (hash)
            *hash++ = 0;
        if (!hash || !name_valid(line) || strlen(hash) >= SMTP_HASH_MAX || hash[0] != '$') {
            snprintf(err, n, "%s:%zu: not `user:hash`; write it with `batonctl passwd %s USER`",
                     file, number, file);
            smtp_users_free(&u);
            return false;
        }
        u.list[u.n++] = (struct smtp_user){line, hash};
    }
    qsort(u.list, u.n, sizeof u.list[0], by_name);
    *out = u;
    return true;
}

bool smtp_users_hash(const char *password, char out[SMTP_HASH_MAX])
{
    char setting[CRYPT_GENSALT_OUTPUT_SIZE];
    struct crypt_data *data = xcalloc(1, sizeof *data);
    bool ok = crypt_gensalt_rn("$y$", 0, NULL, 0, setting, sizeof setting) != NULL;
    const char *hash = ok ? crypt_rn(password, setting, data, sizeof *data) : NULL;
    ok = hash && hash[0] == '$';
    if (ok)
        snprintf(out, SMTP_HASH_MAX, "%s", hash);
    explicit_bzero(data, sizeof *data);
    free(data);
    return ok;
}

/* The file's lines with user's replaced or added. */
static void edit(struct buf *out, const char *old, const char *user, const char *hash)
{
    size_t name_n = strlen(user);
    bool done = false;
    while (*old) {
        size_t n = strcspn(old, "\n");
        bool mine = n > name_n && old[name_n] == ':' && memcmp(old, user, name_n) == 0;
        if (mine && !done)
            buf_printf(out, "%s:%s\n", user, hash);
        else if (!mine)
            buf_append(out, old, n), buf_append(out, "\n", 1);
        done |= mine;
        old += n + (old[n] == '\n');
    }
    if (!done)
        buf_printf(out, "%s:%s\n", user, hash);
}

/* Writes beside the file, then renames over it: readers see the old or the new one, whole. */
static bool replace_file(const char *file, const struct buf *text, const struct stat *old,
                         char *err, size_t n)
{
    char *fresh = xmalloc(strlen(file) + 8);
    sprintf(fresh, "%s.XXXXXX", file);
    int fd = mkstemp(fresh);
    bool made = fd >= 0;
    bool ok = made && fchmod(fd, old ? old->st_mode & 0640 : 0640) == 0;
    if (ok && old && fchown(fd, old->st_uid, old->st_gid) != 0)
        ok = errno == EPERM && geteuid() == old->st_uid; /* its group may not be ours to give */
    size_t at = 0;
    while (ok && at < text->len) {
        ssize_t w = write(fd, text->data + at, text->len - at);
        ok = w > 0;
        at += ok ? (size_t)w : 0;
    }
    ok = ok && fsync(fd) == 0;
    if (fd >= 0 && close(fd) != 0)
        ok = false;
    ok = ok && rename(fresh, file) == 0;
    if (!ok) {
        snprintf(err, n, "%s: %s", file, strerror(errno));
        if (made)
            unlink(fresh);
    }
    free(fresh);
    return ok;
}

bool smtp_users_set(const char *file, const char *user, const char *password, char *err, size_t n)
{
    if (!name_valid(user)) {
        snprintf(err, n, "a user name has up to %d printable characters, no space, no colon",
                 USER_NAME_MAX);
        return false;
    }
    if (!*password || strlen(password) > SMTP_PASSWORD_MAX) {
        snprintf(err, n, "the password is empty or longer than %zu bytes",
                 (size_t)SMTP_PASSWORD_MAX);
        return false;
    }
    char hash[SMTP_HASH_MAX];
    if (!smtp_users_hash(password, hash)) {
        snprintf(err, n, "this system's libcrypt has no yescrypt");
        return false;
    }
    char *old = NULL;
    struct stat st;
    bool exists = access(file, F_OK) == 0;
    if (exists && !read_file(file, &old, &st, err, n))
        return false;
    struct buf text;
    buf_init(&text, USERS_FILE_MAX);
    edit(&text, old ? old : "", user, hash);
    bool ok = replace_file(file, &text, exists ? &st : NULL, err, n);
    buf_free(&text);
    free(old);
    return ok;
}

const struct smtp_user *smtp_users_find(const struct smtp_users *u, const char *name)
{
    struct smtp_user key = {.name = (char *)(uintptr_t)name};
    return bsearch(&key, u->list, u->n, sizeof key, by_name);
}
