/* Giving up what only the start needed. */
#ifndef BATON_NODE_PRIVILEGES_POSIX_H
#define BATON_NODE_PRIVILEGES_POSIX_H

#include "node/base/buf.h"

/* Makes files as user, until privileges_resume(): before threads start, where binding still needs
 * root. NULL, or not started as root: changes nothing. False: err (size n) has one line. */
bool privileges_assume(const char *user, char *err, size_t n);
void privileges_resume(void);
/* Becomes user for good, with that user's groups and nothing kept; call after binding and before
 * files are made. NULL, or not started as root: changes nothing. False: err (size n) has one line.
 */
bool privileges_drop(const char *user, char *err, size_t n);
/* As many open files as allowed, at least `wanted` where we may raise the limit. Returns what is
 * possible now. */
unsigned long privileges_raise_files(unsigned long wanted);
#endif
