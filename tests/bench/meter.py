"""What a contender used: CPU and memory of its processes (a cgroup of their own), the disk's counters."""
import os
import secrets
import threading

ROOTS = ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup")  # version 1, version 2


class Group:
    """A cgroup for one contender's processes; without the right to make one, None is what was used."""

    def __init__(self):
        root = next((r for r in ROOTS if os.path.exists(os.path.join(r, "cgroup.procs"))), None)
        self.dir = root and os.path.join(root, f"baton-bench-{secrets.token_hex(4)}")
        try:
            if root:
                os.mkdir(self.dir)
        except OSError:
            self.dir = None
        self.peak_kib = 0
        self.ending = threading.Event()
        self.watch = threading.Thread(target=self.sample, daemon=True)
        self.watch.start()

    def into(self, command):
        """command, run inside the group."""
        if not self.dir:
            return command
        return ["sh", "-c", f'echo $$ >{self.dir}/cgroup.procs; exec "$@"', "in", *command]

    def cpu_s(self):
        if not self.dir:
            return None
        usage = os.path.join(self.dir, "cpuacct.usage")
        if os.path.exists(usage):
            with open(usage) as f:
                return int(f.read()) / 1e9
        with open(os.path.join(self.dir, "cpu.stat")) as f:
            return int(dict(line.split() for line in f)["usage_usec"]) / 1e6

    def sample(self):
        """Twice a second: proportional set size, which doesn't count shared pages many times."""
        while self.dir and not self.ending.wait(0.5):
            kib = 0
            for pid in self.pids():
                try:
                    with open(f"/proc/{pid}/smaps_rollup") as f:
                        kib += next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
                except (OSError, StopIteration):
                    continue
            self.peak_kib = max(self.peak_kib, kib)

    def pids(self):
        try:
            with open(os.path.join(self.dir, "cgroup.procs")) as f:
                return f.read().split()
        except OSError:
            return []

    def close(self):
        self.ending.set()
        self.watch.join()
        if self.dir:
            try:
                os.rmdir(self.dir)
            except OSError:
                pass  # a process that is still ending; the empty group costs nothing


def disk_sectors():
    """Sectors of 512 bytes written by the whole machine."""
    total = 0
    for name in os.listdir("/sys/block"):
        if name.startswith(("loop", "zram", "dm-", "md", "ram")):
            continue
        with open(f"/sys/block/{name}/stat") as f:
            total += int(f.read().split()[6])
    return total
