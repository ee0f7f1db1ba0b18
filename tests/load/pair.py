"""Two nodes and a witness as real processes: started, killed, frozen, asked.

Where they live is a Place: loopback with ports of their own (Loopback), or network namespaces with
addresses of their own (netns.py of tests/cluster).
"""
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from clock import Clock
from disk import Disk

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("BATON_BUILD", os.path.join(TOP, "build"))


class Failure(Exception):
    """What a test or the quickstart tells a person."""


def wait_until(what, condition, seconds, pause=0.02):
    """Returns the condition's first true value; Failure names what after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(pause)


def free_ports(n):
    """Ports below the range of outgoing connections that nobody listens on, TCP and UDP."""
    found = []
    while len(found) < n:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as s, socket.socket(type=socket.SOCK_DGRAM) as u:
            try:
                s.bind(("127.0.0.1", port))
                u.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def quoted(words):
    return ", ".join(f'"{w}"' for w in words)


class Loopback:
    """Everything on 127.0.0.1, told apart by ports."""

    def __init__(self):
        names = [f"{p}_{n}" for n in "ab" for p in ("smtp", "http", "replication", "health")]
        self.ports = dict(zip(names + ["witness", "sink"], free_ports(len(names) + 2)))

    def address(self, who):
        return "127.0.0.1"

    def addresses(self, who):
        return [self.address(who)]

    def port(self, what, who):
        return self.ports.get(f"{what}_{who}") or self.ports[what]

    def wrap(self, who, command):
        return command


class Process:
    """A child with a log file; only ever signalled by its own PID."""

    def __init__(self, name, command, log):
        self.name, self.command, self.log = name, command, log
        self.child = None

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def alive(self):
        return self.child is not None and self.child.poll() is None

    def signal(self, number):
        if self.alive:
            self.child.send_signal(number)

    def kill(self):
        """SIGKILL, and gone when this returns."""
        self.signal(signal.SIGKILL)
        if self.child:
            self.child.wait(10)

    def stop(self, seconds=20):
        """SIGTERM; the exit status. Failure when it does not end."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds) if self.child else 0
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} did not end within {seconds} s of SIGTERM") from None

    def tail(self, n=15):
        try:
            with open(self.log, errors="replace") as f:
                return "".join(f.readlines()[-n:])
        except FileNotFoundError:
            return ""


class Daemon(Process):
    """One of ours. equip() puts a disk or a clock of the tests' own below it, from its next start on."""

    def __init__(self, pair, who, name, program):
        self.place, self.who, self.program = pair.place, who, program
        self.disk = self.clock = None
        super().__init__(name, None, os.path.join(self.dir, "log"))
        self.install(BUILD)

    def install(self, build):
        """Runs that build from its next start on."""
        self.build = build
        parts = [p for p in (self.disk, self.clock) if p]
        env = {k: v for p in parts for k, v in p.env.items()}
        env["LD_PRELOAD"] = " ".join(p.env["LD_PRELOAD"] for p in parts)
        env["ASAN_OPTIONS"] = "verify_asan_link_order=0"
        words = ["env", *[f"{k}={v}" for k, v in env.items()]] if parts else []
        self.command = self.place.wrap(
            self.who, [*words, os.path.join(build, self.program), "-c", self.conf])

    def equip(self, disk=False, clock=False):
        self.disk = Disk(self.dir, self.store) if disk else self.disk
        self.clock = Clock(self.dir) if clock else self.clock
        self.install(self.build)

    def kill(self):
        super().kill()
        if self.clock and self.child:
            self.clock.clean(self.child.pid)

    def lose_power(self, seed=None):
        """Dead at once, and what was not flushed is gone. Returns how many changes that were."""
        self.kill()
        return self.disk.lose_power(seed)

    def empty_disk(self):
        """As after a new disk: all that the store owns is in files that begin with its path."""
        for f in os.listdir(self.dir):
            if f.startswith(os.path.basename(self.store)):
                os.unlink(os.path.join(self.dir, f))
        if self.disk:
            self.disk.clear()


class Node(Daemon):
    def __init__(self, pair, name):
        self.pair, self.node = pair, name
        self.dir = os.path.join(pair.dir, name)
        self.conf = os.path.join(self.dir, "baton.conf")
        self.store = os.path.join(self.dir, "queue.db")
        os.makedirs(self.dir, exist_ok=True)
        place = pair.place
        self.smtp = (place.address(name), place.port("smtp", name))
        self.http = (place.address(name), place.port("http", name))
        super().__init__(pair, name, name, "batond")

    def configure(self, extra="", **settings):
        """Writes the configuration; settings replace whole top-level settings by name."""
        place, dir_ = self.pair.place, self.dir
        nodes = " ".join(
            f'{n} = {{ addresses = [ {quoted(place.addresses(n))} ]; replication_port = {place.port("replication", n)};'
            f' health_port = {place.port("health", n)}; }};' for n in self.pair.names)
        arbiter = (f'{{ type = "witness"; address = "{place.address("w")}:{place.port("witness", "w")}"; }}'
                   if len(self.pair.names) == 2 else '{ type = "none"; }')
        sink = f"{place.address('sink')}:{place.port('sink', 'sink')}"
        values = {
            "cluster": '"test"', "node": f'"{self.node}"', "hostname": f'"{self.node}.baton.example"',
            "key_file": f'"{self.pair.key}"', "store": f'"{self.store}"',
            "control": f'"{dir_}/control.sock"', "events": f'"{dir_}/events.jsonl"',
            "nodes": f"{{ {nodes} }}", "arbiter": arbiter,
            "http": f'{{ listen = "{self.http[0]}:{self.http[1]}"; }}',
            "listeners": f'( {{ address = "{self.smtp[0]}:{self.smtp[1]}"; }} )',
            "relay_networks": '[ "127.0.0.0/8", "10.0.0.0/8" ]',
            "limits": '{ sessions_per_address = 1000; }',
            "routes": f'( {{ domain = "*"; via = "smtp://{sink}"; }} )',
            "delivery": '{ connections = 50; retry = [ "1s", "2s", "5s" ]; }',
            "destinations": '( { domain = "*"; connections = 20; messages_per_connection = 1000; } )',
        }
        values.update(self.pair.settings)
        values.update(settings)
        with open(self.conf, "w") as f:
            f.write("".join(f"{k} = {v};\n" for k, v in values.items() if v is not None) + extra)

    def get(self, path, timeout=1.0):
        """(status code, body), or None when nobody answers."""
        url = f"http://{self.http[0]}:{self.http[1]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode(errors="replace")
        except OSError:
            return None

    def status(self):
        """The status document, or {} when the node does not answer."""
        got = self.get("/status")
        try:
            return json.loads(got[1]) if got else {}
        except ValueError:
            return {}

    def role(self):
        return self.status().get("role")

    def ctl(self, *words, timeout=30):
        """batonctl's (exit status, stdout, stderr)."""
        command = self.pair.place.wrap(
            self.node, [os.path.join(self.build, "batonctl"), "-c", self.conf, *words])
        r = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                           stdin=subprocess.DEVNULL)
        return r.returncode, r.stdout, r.stderr

    def banner(self, timeout=0.5):
        """The first line a client gets, "" when refused or silent."""
        try:
            with socket.create_connection(self.smtp, timeout) as s:
                return s.recv(500).decode(errors="replace").strip()
        except OSError:
            return ""


class Witness(Daemon):
    def __init__(self, pair):
        self.dir = os.path.join(pair.dir, "witness")
        self.conf = os.path.join(self.dir, "witness.conf")
        self.store = os.path.join(self.dir, "witness.db")
        os.makedirs(self.dir, exist_ok=True)
        place = pair.place
        with open(self.conf, "w") as f:
            f.write(f'listen = "{place.address("w")}:{place.port("witness", "w")}";\nstore = "{self.store}";\n'
                    f'clusters = ( {{ name = "test"; key_file = "{pair.key}"; }} );\n')
        super().__init__(pair, "w", "witness", "baton-witness")


class Pair:
    def __init__(self, dir_, place=None, names="ab", **settings):
        self.dir, self.place, self.names, self.settings = dir_, place or Loopback(), names, settings
        os.makedirs(dir_, exist_ok=True)
        self.key = os.path.join(dir_, "cluster.key")
        if not os.path.exists(self.key):
            with open(os.open(self.key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
                f.write(secrets.token_hex(32) + "\n")
        self.a, self.b = Node(self, "a"), Node(self, "b")
        self.nodes = [n for n in (self.a, self.b) if n.node in names]
        self.witness = Witness(self)
        self.loads = []
        self.sink_journal = os.path.join(dir_, "sink.journal")
        self.sink = None
        for n in self.nodes:
            n.configure()

    # --- processes ---

    @property
    def has_witness(self):
        return len(self.names) == 2 and "etcd" not in self.settings.get("arbiter", "")

    def start(self):
        if self.has_witness:
            self.witness.start()
        for n in self.nodes:
            n.start()

    def start_sink(self, *options):
        listen = f"{self.place.address('sink')}:{self.place.port('sink', 'sink')}"
        self.sink = Process("sink", self.place.wrap("sink", [
            sys.executable, os.path.join(HERE, "sink.py"), "--listen", listen, "--journal",
            self.sink_journal, *options]), os.path.join(self.dir, "sink.log"))
        self.sink.start()
        host, port = listen.rsplit(":", 1)
        wait_until("the sink listens", lambda: can_connect(host, int(port)), 10)

    def start_load(self, **options):
        """A source.py; its journal counts for the books. Stop it with stop_load()."""
        n = len(self.loads)
        journal = os.path.join(self.dir, f"source{n}.journal")
        command = [sys.executable, os.path.join(HERE, "source.py"), "--journal", journal,
                   "--prefix", f"s{n}-"]
        for node in self.nodes:
            command += ["--to", f"{node.smtp[0]}:{node.smtp[1]}"]
        for k, v in options.items():
            command += ["--" + k.replace("_", "-"), str(v)]
        load = Process("load", self.place.wrap("load", command), os.path.join(self.dir, f"source{n}.log"))
        load.journal = journal
        load.start()
        self.loads.append(load)
        return load

    def close(self):
        """Ends every process that was started here, gently first for none: they are tests' own."""
        for p in [*self.loads, *self.nodes, self.witness, self.sink]:
            if p and p.alive:
                p.kill()

    # --- questions ---

    def voter(self, who):
        return {"a": self.a, "b": self.b, "w": self.witness}[who]

    def other(self, node):
        return self.b if node is self.a else self.a

    def primary(self):
        """The node that takes mail now, or None."""
        for n in self.nodes:
            if n.alive and (n.get("/primary") or (0,))[0] == 200:
                return n
        return None

    def in_sync(self):
        """(primary, standby) when all is well, else None."""
        p = self.primary()
        if not p:
            return None
        s = self.other(p)
        ok = s.alive and (s.get("/standby") or (0,))[0] == 200 and p.status().get("mode") == "paired"
        return (p, s) if ok else None

    def wait_in_sync(self, seconds=30):
        return wait_until("a primary with a standby in sync", self.in_sync, seconds, 0.05)

    def explain(self):
        """For a failure: what everybody said last."""
        out = []
        for n in self.nodes:
            s = n.status()
            brief = {k: s.get(k) for k in ("role", "mode", "why", "epoch", "primary", "in_sync", "lsn",
                                           "committed", "peer", "queue")} if s else "no answer"
            out.append(f"--- node {n.node}: {'up' if n.alive else 'down'} {json.dumps(brief)}\n{n.tail()}")
        if self.has_witness:
            out.append(f"--- witness: {'up' if self.witness.alive else 'down'}\n{self.witness.tail(5)}")
        return "\n".join(out)


def can_connect(host, port, timeout=0.5):
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False
