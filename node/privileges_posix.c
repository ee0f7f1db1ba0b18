/* See privileges_posix.h. */
#include "node/privileges_posix.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

bool privileges_assume(const char *user, char *err, size_t n)
{
    if (!user || geteuid() != 0)
        return true;
    const struct passwd *pw = getpwnam(user);
    if (!pw || setegid(pw->pw_gid) != 0 || seteuid(pw->pw_uid) != 0) {
        snprintf(err, n, "can't act as user \"%s\"%s", user, pw ? "" : ": there is none here");
        return false;
    }
    return true;
}

void privileges_resume(void)
{
    /* Fails, rightly, for a process that never was root. */
    if (getuid() == 0 && (seteuid(0) != 0 || setegid(0) != 0))
        abort();
}

bool privileges_drop(const char *user, char *err, size_t n)
{
    if (!user || geteuid() != 0)
        return true;
    errno = 0;
    const struct passwd *pw = getpwnam(user);
    if (!pw) {
        snprintf(err, n, "user \"%s\": %s", user, errno ? strerror(errno) : "there is none here");
        return false;
    }
    uid_t uid = pw->pw_uid;
    gid_t gid = pw->pw_gid;
    if (initgroups(user, gid) != 0 || setgid(gid) != 0 || setuid(uid) != 0) {
        snprintf(err, n, "can't become user \"%s\": %s", user, strerror(errno));
        return false;
    }
    if (uid != 0 && setuid(0) == 0) {
        snprintf(err, n, "can't give up root for user \"%s\"", user);
        return false;
    }
    return true;
}

unsigned long privileges_raise_files(unsigned long wanted)
{
    struct rlimit have, more;
    if (getrlimit(RLIMIT_NOFILE, &have) != 0)
        return 0;
    if (have.rlim_max < wanted) {
        more = (struct rlimit){.rlim_cur = wanted, .rlim_max = wanted};
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            return wanted;
    }
    more = (struct rlimit){.rlim_cur = have.rlim_max, .rlim_max = have.rlim_max};
    return setrlimit(RLIMIT_NOFILE, &more) == 0 ? more.rlim_cur : have.rlim_cur;
}
