/* What disk_shim.c and those who command it (disk.py) agree on: the control file, mapped by both,
 * and the undo journal. All numbers are the machine's own. */
#ifndef BATON_TESTS_DISK_SHIM_H
#define BATON_TESTS_DISK_SHIM_H

#include <stdint.h>

/* The control file: orders, then what became of them. A count of UINT32_MAX: until taken back. */
struct disk_control {
    uint32_t flush_ms;    /* each fsync, fdatasync takes so much longer */
    uint32_t mb_s;        /* it takes no more MB/s, one write after the other; 0: any number */
    uint32_t stall;       /* not 0: whatever writes or flushes hangs until it is 0 */
    uint32_t write_errno; /* the next write_count writes fail with it */
    uint32_t write_count;
    uint32_t sync_errno; /* the next sync_count flushes fail with it, and what they were to */
    uint32_t sync_count; /* flush is on no disk, whatever flushes follow */
    uint32_t writes, syncs, failed, stalled; /* counted by the shim */
    uint32_t unused;
    uint64_t busy_until_ns; /* CLOCK_MONOTONIC: then all that was sent to it will be on it */
};

/* The undo journal: records one after the other, `bytes` of payload each. */
enum disk_undo_type {
    UNDO_CONTENT = 1, /* inode, offset, payload: what was there; size: the file's before */
    UNDO_SYNCED,      /* inode: all of it up to record `offset` is on disk */
    UNDO_CREATED,     /* payload, each string with its \0: the path of a file that wasn't there */
    UNDO_RENAMED,     /* payload: from, to, the link that keeps what `to` was, or "" */
    UNDO_UNLINKED,    /* payload: path, the link that keeps it */
    UNDO_NAMES_SYNCED /* directory entries up to record `offset` are on disk */
};
struct disk_undo {
    uint32_t type, bytes;
    uint64_t number; /* of this record, from 1 */
    uint64_t inode, offset, size;
};
#endif
