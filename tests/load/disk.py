"""A disk of the tests' own below one process: slow, hanging, failing, full, without power (disk_shim.c).

Disk(dir, prefix).env goes into the process's environment; orders take effect at once. After a SIGKILL,
lose_power() takes back what was not flushed, as if the power had failed at that moment.
"""
import errno
import os
import random
import struct

BUILD = os.environ.get("BATON_BUILD", os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build"))
SHIM = os.path.join(BUILD, "tests", "disk_shim.so")

FIELDS = ("flush_ms", "mb_s", "stall", "write_errno", "write_count", "sync_errno", "sync_count",
          "writes", "syncs", "failed", "stalled")
CONTROL_BYTES = 56
ALWAYS = 0xFFFFFFFF
RECORD = struct.Struct("=IIQQQQ")
CONTENT, SYNCED, CREATED, RENAMED, UNLINKED, NAMES_SYNCED = range(1, 7)
SECTOR = 512


class Disk:
    def __init__(self, dir_, prefix, power=True):
        """prefix: the path that all files on this disk begin with; without power no undo journal is kept."""
        self.control = os.path.join(dir_, "disk.control")
        self.journal = os.path.join(dir_, "disk.undo")
        self.directory = os.path.dirname(prefix)
        with open(self.control, "wb") as f:
            f.write(bytes(CONTROL_BYTES))
        self.env = {"LD_PRELOAD": SHIM, "DISK_SHIM_PREFIX": prefix, "DISK_SHIM_CONTROL": self.control}
        if power:
            self.env["DISK_SHIM_JOURNAL"] = self.journal

    # --- orders ---

    def order(self, **values):
        with open(self.control, "r+b") as f:
            for name, value in values.items():
                f.seek(4 * FIELDS.index(name))
                f.write(struct.pack("=I", value))

    def count(self, name):
        with open(self.control, "rb") as f:
            f.seek(4 * FIELDS.index(name))
            return struct.unpack("=I", f.read(4))[0]

    def slow(self, ms):
        self.order(flush_ms=ms)

    def stall(self, on=True):
        self.order(stall=int(on))

    def fail_writes(self, count=ALWAYS, error=errno.EIO):
        self.order(write_errno=error, write_count=count)

    def fail_flushes(self, count=ALWAYS, error=errno.EIO):
        self.order(sync_errno=error, sync_count=count)

    def heal(self):
        self.order(flush_ms=0, mb_s=0, stall=0, write_count=0, sync_count=0)

    # --- power ---

    def lose_power(self, seed=None):
        """To be called when the process is dead. Returns how many changes were forgotten. Without a seed
        all that was not flushed is gone; with one, of each file some first part of it got to the disk, the
        last write of it perhaps torn: a disk writes when it likes."""
        records = read_journal(self.journal)
        rng = random.Random(seed) if seed is not None else None
        names_upto = max([r["offset"] for r in records if r["type"] == NAMES_SYNCED], default=0)
        synced, changes, names = {}, {}, []
        for r in records:
            if r["type"] == SYNCED:
                synced[r["inode"]] = max(synced.get(r["inode"], 0), r["offset"])
        for r in records:
            if r["type"] == CONTENT and r["number"] > synced.get(r["inode"], 0):
                changes.setdefault(r["inode"], []).append(r)
            elif r["type"] in (CREATED, RENAMED, UNLINKED) and r["number"] > names_upto:
                names.append(r)
        if rng:
            names = names[rng.randint(0, len(names)):]  # entries of one directory get there in order
        paths = self.paths_of(changes, names)
        forgotten = 0
        for inode, list_ in changes.items():
            keep = rng.randint(0, len(list_)) if rng else 0
            forgotten += len(list_) - keep
            if inode in paths:
                take_back(paths[inode], list_[keep:], rng)
        for r in reversed(names):
            undo_name(r)
        self.clear()
        return forgotten + len(names)

    def unflushed(self, ending):
        """Of the files whose path ends so: those with changes that aren't on the disk."""
        changed = {}
        for r in read_journal(self.journal):
            if r["type"] == CONTENT:
                changed[r["inode"]] = r["number"]
            elif r["type"] == SYNCED and changed.get(r["inode"], 0) <= r["offset"]:
                changed.pop(r["inode"], None)
        paths = self.paths_of(changed, [])
        return [p for p in paths.values() if p.startswith(self.env["DISK_SHIM_PREFIX"]) and p.endswith(ending)]

    def paths_of(self, changes, names):
        """{inode: a path to it now}; a file that lost its name is reached by the link that keeps it."""
        found = {}
        links = [p for r in names for p in strings(r)[-1:] if p.startswith(self.journal + ".")]
        for path in [os.path.join(self.directory, f) for f in os.listdir(self.directory)] + links:
            try:
                inode = os.stat(path, follow_symlinks=False).st_ino
            except FileNotFoundError:
                continue
            if inode in changes:
                found[inode] = path
        return found

    def clear(self):
        """What is there counts as being on the disk. SQLite's -shm is the kernel's memory and goes with
        the power."""
        folder, base = os.path.split(self.journal)
        for f in os.listdir(folder):
            if f == base or f.startswith(base + "."):
                os.unlink(os.path.join(folder, f))
        for f in os.listdir(self.directory):
            path = os.path.join(self.directory, f)
            if f.endswith("-shm") and path.startswith(self.env["DISK_SHIM_PREFIX"]):
                os.unlink(path)


def read_journal(path):
    """Its whole records; the last one may have been cut by the end of the process."""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return []
    out, at = [], 0
    while at + RECORD.size <= len(data):
        type_, n, number, inode, offset, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if at + n > len(data):
            break
        out.append({"type": type_, "number": number, "inode": inode, "offset": offset, "size": size,
                    "payload": data[at:at + n]})
        at += n
    return out


def strings(record):
    return [s.decode() for s in record["payload"].split(b"\0")[:-1]]


def take_back(path, records, rng):
    """The newest first; the oldest one that goes may have got there in part."""
    with open(path, "r+b") as f:
        for i, r in reversed(list(enumerate(records))):
            old, size = r["payload"], r["size"]
            torn = 0
            if i == 0 and rng and old and rng.random() < 0.5:
                torn = rng.randint(0, len(old) // SECTOR) * SECTOR
            f.seek(r["offset"] + torn)
            f.write(old[torn:])
            f.truncate(size)


def undo_name(record):
    words = strings(record)
    if record["type"] == CREATED:
        if os.path.exists(words[0]):
            os.unlink(words[0])
    elif record["type"] == RENAMED:
        source, target, kept = words
        os.rename(target, source)
        if kept:
            os.rename(kept, target)
    elif record["type"] == UNLINKED:
        os.rename(words[1], words[0])
