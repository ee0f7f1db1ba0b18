/* A store that becomes what it was some time ago: a snapshot that was put back, a disk from a
 * backup (protocol 8: it ends before what it once acknowledged). */
#include "sim/harm.h"

/* Where that store had come to: the one in use may be another by now. */
static struct pos newest_end(const struct node *n, const struct store_id *id)
{
    struct pos end = store_memory_meta(n->disk.store)->end;
    const struct store_meta *old = n->disk.old ? store_memory_meta(n->disk.old) : NULL;
    if (old && store_id_eq(&old->id, id) && pos_cmp(old->end, end) > 0)
        end = old->end;
    return pos_cmp(n->disk.snapshot_end, end) > 0 ? n->disk.snapshot_end : end;
}

void harm_ends(struct node *n)
{
    const struct store_meta *m = store_memory_meta(n->disk.store);
    if (n->disk.snapshot && store_id_eq(&m->id, &store_memory_meta(n->disk.snapshot)->id) &&
        pos_cmp(m->end, n->disk.snapshot_end) > 0)
        n->disk.snapshot_end = m->end;
}

/* The first time a snapshot is taken, the next time it is put back, if the other copy holds all. */
void harm_rollback(struct sim *s, unsigned self, enum fault_kind kind)
{
    struct node *n = &s->node[self];
    if (!n->disk.snapshot) {
        n->disk.snapshot = store_memory_copy(n->disk.store);
        n->disk.snapshot_end = (struct pos){0, 0};
        TRACE(s, process_name(self), "a snapshot of its store is taken");
        return;
    }
    if (s->books.forced || !books_spare(s, self))
        return;
    s->count.effect[kind]++;
    node_crash(s, self, true, "and its store is rolled back to a snapshot");
    struct pos end = newest_end(n, &store_memory_meta(n->disk.snapshot)->id);
    store_memory_free(n->disk.store);
    n->disk.store = n->disk.snapshot;
    n->disk.snapshot = NULL;
    books_watch(s, n);
    books_rolled_back(s, n, end);
    rot_apart(s, n);
    faults_restart_later(s, self);
}
