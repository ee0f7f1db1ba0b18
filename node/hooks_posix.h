/* Runs the operators' hook commands (hooks = { promoted, demoted, solo, paired }) beside the
 * service, never before it, and the fence command (arbiter = none), as the user that started
 * batond: a helper process, forked before privileges are dropped, keeps that right, and runs
 * nothing but the commands that were fixed then. One hook at a time, in the order of the events,
 * each at most limit_ms; then its process group is killed. The helper writes each result to the
 * log. It ends with the daemon. */
#ifndef BATON_NODE_HOOKS_POSIX_H
#define BATON_NODE_HOOKS_POSIX_H

#include "node/base/config.h"

enum hook { HOOK_PROMOTED, HOOK_DEMOTED, HOOK_SOLO, HOOK_PAIRED, HOOK_FENCE, HOOKS };
enum { HOOK_LIMIT_MS = 30000 };

struct hooks;
/* Call before threads start and before privileges_drop(). NULL: err (size n) has one line. */
struct hooks *hooks_start(const struct config *c, unsigned limit_ms, char *err, size_t n);
/* Any thread; never blocks. The command gets BATON_HOOK, BATON_CLUSTER, BATON_NODE, BATON_EPOCH and
 * BATON_ROLE (primary or standby; not for a fence command) and BATON_PEER (the other node) in its
 * environment and the hook's name as its argument. */
void hooks_run(struct hooks *h, enum hook which, uint32_t epoch);
/* Kills the command that runs now with its process group, and forgets those that wait. Any thread;
 * never blocks. */
void hooks_kill(struct hooks *h);
/* Has a fence command ended since the last call? *ok: with exit 0, within its time limit. One
 * thread; never blocks. */
bool hooks_fence_ended(struct hooks *h, bool *ok);
/* Lets what was asked for end, waits for that at most wait_ms, frees h. h may be NULL. */
void hooks_stop(struct hooks *h, unsigned wait_ms);
#endif
