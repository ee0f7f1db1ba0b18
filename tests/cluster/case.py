"""What every scenario needs: a pair under load, faults, and what must be true at the end."""
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LOAD = os.path.join(os.path.dirname(HERE), "load")
sys.path.insert(0, LOAD)
from books import Books, count_lines, noise_s  # noqa: E402
from pair import Failure, Pair, Process, wait_until  # noqa: E402

CONNECTIONS = 10  # to the sink, a node
HEARTBEAT_S, LEASE_S, TAKEOVER_AFTER_S = 0.1, 1.0, 1.0
PROMISED_S = max(TAKEOVER_AFTER_S, LEASE_S * 1.02 + 0.01) + 2 * HEARTBEAT_S

LOCAL_TABLES = {"store"}  # about one store alone
LOCAL_COLUMNS = {"mark"}  # not yet merged; no row may keep it at the end

SCENARIOS = []


def scenario(f):
    SCENARIOS.append(f)
    return f


def expect(true, what):
    if not true:
        raise Failure(what)


class Case:
    def __init__(self, name, place, rounds, seed=1):
        self.name, self.place, self.rounds, self.seed = name, place, rounds, seed
        self.rng = random.Random(seed)
        self.dir = tempfile.mkdtemp(prefix=f"baton-{name}-")
        self.pair = None
        self.noise = None
        self.disturbances = 0  # times at which open final dots may have been in doubt
        self.notes = []
        self.ends = []  # called at the end, whatever happened

    # --- beginning and end ---

    def begin(self, rate=150, sessions=8, names="ab", load=True, sink=(), weather=False, disks="", clocks="",
              small=0, start=True, **settings):
        """start: the nodes as well, until they are in sync. disks, clocks: who gets one of the tests' own, by
        name: a, b, w. small: both nodes' directories are filesystems of their own with so many MiB."""
        settings.setdefault("delivery", '{ connections = 50; retry = [ "500ms", "1s", "2s" ]; }')
        settings.setdefault("destinations", f'( {{ domain = "*"; connections = {CONNECTIONS};'
                                            ' messages_per_connection = 1000; } )')
        self.pair = Pair(os.path.join(self.dir, "pair"), self.place, names, **settings)
        for n in self.pair.nodes if small else ():
            mount(n.dir, small)
            n.configure()
        for who in "abw":
            if who in disks or who in clocks:
                self.pair.voter(who).equip(disk=who in disks, clock=who in clocks)
        if weather:
            self.place.start_weather(self.seed)
        self.noise = Process("noise", [sys.executable, os.path.join(LOAD, "noise.py"),
                                       os.path.join(self.dir, "noise")], os.path.join(self.dir, "noise.log"))
        self.noise.start()
        self.pair.start_sink(*sink)
        if not start:
            return self.pair
        self.pair.start()
        if names == "ab":
            self.pair.wait_in_sync(30)
        else:
            wait_until("the node serves", self.pair.primary, 20)
        if load:
            self.load(rate=rate, sessions=sessions)
        return self.pair

    def load(self, **options):
        load = self.pair.start_load(give_up=60, **options)
        self.flows("mail flows at the beginning")
        return load

    def flows(self, what, seconds=15, messages=20):
        """So many more messages get their 250 from now on."""
        path = self.pair.loads[-1].journal
        begin = count_lines(path, "A")
        wait_until(what, lambda: count_lines(path, "A") >= begin + messages, seconds)

    def settle(self, in_sync=True, seconds=45):
        """Ends the load and the faults; then everything that the protocol promises must hold."""
        pair = self.pair
        if hasattr(self.place, "heal"):
            self.place.heal()
        for p in [pair.witness, *pair.nodes] if pair.has_witness else pair.nodes:
            p.signal(signal.SIGCONT)
            if p.disk:
                p.disk.heal()
            if not p.alive:
                p.start()
        if in_sync and len(pair.names) == 2:
            pair.wait_in_sync(seconds)
        for load in pair.loads:
            load.signal(signal.SIGTERM)
        for load in pair.loads:
            wait_until("the client gets rid of its messages", lambda: not load.alive, 90, 0.1)
            expect(load.child.returncode == 0, f"the client gave up: {load.tail(3)}")
        self.delivered()
        if in_sync and len(pair.names) == 2:
            wait_until("both stores are equal", self.stores_equal, 30, 0.3)

    def books(self):
        return Books([load.journal for load in self.pair.loads], self.pair.sink_journal)

    def delivered(self, seconds=60):
        wait_until("all that got a 250 is delivered", lambda: not self.books().lost(), seconds, 0.3)
        books = self.books()
        relay, client = books.doubled()
        expect(not books.failed, f"refused for good: {list(books.failed.items())[:3]}")
        expect(not books.damaged, f"arrived damaged: {books.damaged[:3]}")
        most = CONNECTIONS * self.disturbances
        expect(relay <= most, f"{relay} doubled by the relay; at most {most} were in doubt")
        self.notes.append(f"{len(books.accepted)} accepted, {relay} doubled, {client} sent again by the client")

    def close(self, keep):
        if self.pair:
            self.pair.close()
        for end in self.ends:
            end()
        self.place.stop_weather()
        if self.noise:
            self.noise.kill()
        for n in self.pair.nodes if self.pair and not keep else ():
            if os.path.ismount(n.dir):
                subprocess.run(["umount", "-l", n.dir], check=True)
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    # --- measuring ---

    def takes_over(self, node, since, seconds=20, more=0.0):
        """Waits until node greets clients; judges how long that took since `since`, where the fault shows
        only after `more` seconds."""
        wait_until(f"node {node.node} takes over", lambda: node.banner().startswith("220"), seconds, 0.01)
        now = time.monotonic()
        took = now - since
        time.sleep(0.15)  # the noise's own journal is written ten times a second
        allowed = PROMISED_S + more + 2 * noise_s(os.path.join(self.dir, "noise"), since - 0.2, now) + 0.05  # we look each 10 ms
        self.notes.append(f"takeover {took * 1000:.0f} ms (allowed {allowed * 1000:.0f})")
        expect(took <= allowed, f"takeover took {took:.3f} s, promised {PROMISED_S + more:.2f} s, with this "
                                f"machine's noise {allowed:.3f} s")
        return took

    # --- stores ---

    def stores_equal(self):
        """Our own reading of both databases: every row, with its position."""
        one, other = (read_store(n.store) for n in self.pair.nodes)
        self.difference = differences(one, other)
        for name, rows in one.items():
            if name.startswith("unmerged") and rows != {(0,)}:
                self.difference.append(f"{name}: {rows}")
        return not self.difference


def mount(folder, mib):
    """A small filesystem; it is seen by the tests and what they start, and ends with them."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "small", folder], check=True)


def fill(folder, leave=0):
    """Fills the filesystem but for so many bytes."""
    with open(os.path.join(folder, "ballast"), "ab") as f:
        while (free := free_bytes(folder)) > leave:
            try:
                os.posix_fallocate(f.fileno(), f.seek(0, os.SEEK_END), min(free - leave, 1 << 20))
            except OSError:
                break  # others were quicker


def free_bytes(folder):
    v = os.statvfs(folder)
    return v.f_bavail * v.f_frsize


def unfill(folder):
    os.unlink(os.path.join(folder, "ballast"))


def read_store(path):
    """{table: set of rows} of all that the copies must have in common."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        db.execute("BEGIN")
        tables = [n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")
                  if not n.startswith("sqlite_") and n not in LOCAL_TABLES]
        out = {}
        for t in tables:
            columns = [c[1] for c in db.execute(f"PRAGMA table_info({t})") if c[1] not in LOCAL_COLUMNS]
            out[t] = set(db.execute(f"SELECT {', '.join(columns)} FROM {t}"))
            out[f"unmerged in {t}"] = set(db.execute(f"SELECT count(*) FROM {t} WHERE mark <> 0"))
        return out
    finally:
        db.close()


def differences(one, other):
    out = []
    for t in sorted(set(one) | set(other)):
        left, right = one.get(t, set()), other.get(t, set())
        if left != right:
            out.append(f"{t}: {len(left - right)} only on a, {len(right - left)} only on b, e.g. "
                       f"{str(next(iter(left ^ right)))[:300]}")
    return out

