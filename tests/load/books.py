"""Reads the journals of source.py and sink.py and says what became of every message."""
import collections
import os


class Books:
    def __init__(self, source_journals, sink_journal):
        self.accepted = {}  # uid -> (time, recipients, id)
        self.accept_times = []
        self.unanswered = collections.Counter()  # uid -> times without an answer
        self.refused = self.most_connections = 0
        self.failed = {}
        self.delivered = collections.defaultdict(list)  # uid -> [(time, recipient, id)]
        self.damaged = []
        for path in source_journals:
            for f in self.lines(path):
                if f[0] == "A":
                    self.accepted[f[1]] = (float(f[2]), int(f[3]), f[4])
                    self.accept_times.append(float(f[2]))
                elif f[0] == "U":
                    self.unanswered[f[1]] += 1
                elif f[0] == "R":
                    self.refused += 1
                elif f[0] == "F":
                    self.failed[f[1]] = " ".join(f[3:])
        for f in self.lines(sink_journal):
            if f[0] == "D":
                self.delivered[f[1]].append((float(f[2]), f[3], f[4]))
                if f[5] != "1":
                    self.damaged.append(f[1])
            elif f[0] == "C":
                self.most_connections = max(self.most_connections, int(f[2]))
        self.accept_times.sort()

    @staticmethod
    def lines(path):
        if not os.path.exists(path):
            return
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.endswith("\n"):  # the last one may be half written
                    yield line.split()

    def lost(self):
        """Accepted, and not delivered to every recipient."""
        return [uid for uid, (_, n, _) in self.accepted.items()
                if len({r for _, r, _ in self.delivered.get(uid, ())}) < n]

    def doubled(self):
        """(by the relay, by the client): deliveries too many of one queue id, and those of messages
        that the client itself had to send again because it never got an answer."""
        relay = client = 0
        for uid, all_ in self.delivered.items():
            if uid == "-":
                continue
            once = {(r, qid) for _, r, qid in all_}
            relay += len(all_) - len(once)
            extra = len(once) - len({r for r, _ in once})
            if self.unanswered.get(uid):
                client += extra
            else:
                relay += extra
        return relay, client

    def longest_pause(self, since=0.0, until=float("inf")):
        """The longest time between two 250s that ends within the window, in seconds."""
        times = [t for t in self.accept_times if t <= until]
        gaps = [b - a for a, b in zip(times, times[1:]) if b >= since]
        return max(gaps, default=0.0)


def count_lines(path, kind):
    """Cheap progress: lines of one kind so far."""
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return 0
    return data.count(b"\n" + kind.encode() + b" ") + data.startswith(kind.encode() + b" ")


def noise_s(path, since, until):
    """The machine's own worst delays in a window, as noise.py saw them: a late wake-up and a slow disk."""
    sleep = disk = 0.0
    for f in Books.lines(path):
        if since <= float(f[1]) <= until + 0.2:
            sleep, disk = max(sleep, float(f[2])), max(disk, float(f[3]))
    return sleep + disk
