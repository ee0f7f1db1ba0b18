"""Network namespaces for two nodes, a witness and the clients, on one bridge; each direction between
two of them can be cut by itself.

The namespaces belong to one run and are named after it; clients, sink and the tests themselves run
in namespace c, so nothing of it is seen from the machine's own network.
"""
import os
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "load"))
from weather import Weather  # noqa: E402

HOSTS = {"a": 1, "b": 2, "w": 3, "c": 9}
PATHS = ("10.77.0", "10.78.0")  # two subnets, as two cables
VOTERS = ("a", "b", "w")  # what they send to each other may go through the weather


def sh(*words, check=True):
    r = subprocess.run(words, capture_output=True, text=True)
    if check and r.returncode:
        raise RuntimeError(f"{' '.join(words)}: {r.stderr.strip()}")
    return r


def build(prefix):
    switch = f"{prefix}-sw"
    sh("ip", "netns", "add", switch)
    for i, _ in enumerate(PATHS):
        sh("ip", "-n", switch, "link", "add", f"br{i}", "type", "bridge")
        sh("ip", "-n", switch, "link", "set", f"br{i}", "up")
    for host, number in HOSTS.items():
        ns = f"{prefix}-{host}"
        sh("ip", "netns", "add", ns)
        sh("ip", "-n", ns, "link", "set", "lo", "up")
        for i, path in enumerate(PATHS):
            port = f"{host}{i}"
            sh("ip", "link", "add", f"eth{i}", "netns", ns, "type", "veth", "peer", "name", port,
               "netns", switch)
            sh("ip", "-n", switch, "link", "set", port, "master", f"br{i}", "up")
            sh("ip", "-n", ns, "addr", "add", f"{path}.{number}/24", "dev", f"eth{i}")
            sh("ip", "-n", ns, "link", "set", f"eth{i}", "up")
        sh("ip", "netns", "exec", ns, "nft",
           "add table inet cut; add chain inet cut in { type filter hook input priority 0; }")


def remove(prefix):
    for name in [*HOSTS, "sw"]:
        sh("ip", "netns", "del", f"{prefix}-{name}", check=False)


class Namespaces:
    """A Place of tests/load/pair.py: addresses of its own for each, the same ports everywhere."""

    PORTS = {"smtp": 25, "http": 8025, "replication": 7625, "health": 7626, "witness": 7627, "sink": 2525}

    def __init__(self, prefix):
        self.prefix = prefix
        self.weather = None

    @staticmethod
    def host(who):
        return {"sink": "c", "load": "c"}.get(who, who)

    def address(self, who):
        return self.addresses(who)[0]

    def addresses(self, who):
        return [f"{path}.{HOSTS[self.host(who)]}" for path in PATHS]

    def port(self, what, who):
        return self.PORTS[what]

    def wrap(self, who, command):
        return ["ip", "netns", "exec", f"{self.prefix}-{self.host(who)}", *command]

    def cut(self, source, target):
        """From now on nothing from source arrives at target."""
        sources = ", ".join(self.addresses(source))
        sh("ip", "netns", "exec", f"{self.prefix}-{self.host(target)}", "nft",
           f"add rule inet cut in ip saddr {{ {sources} }} drop")

    def cut_both(self, one, other):
        self.cut(one, other)
        self.cut(other, one)

    def start_weather(self, seed=1):
        """From now on what nodes and witness send to each other goes through a relay; the switch's
        wires carry what clients and sink send and get."""
        self.weather = Weather({v: (HOSTS[v], f"{self.prefix}-{v}") for v in VOTERS}, seed)
        for v in VOTERS:
            ns = f"{self.prefix}-{v}"
            sh("ip", "-n", ns, "link", "set", "weather", "up")
            for path in PATHS:
                for other in VOTERS:
                    if other != v:
                        sh("ip", "-n", ns, "route", "add", f"{path}.{HOSTS[other]}/32", "dev", "weather",
                           "src", f"{path}.{HOSTS[v]}")
        return self.weather

    def stop_weather(self):
        """Its devices and routes go with it."""
        if self.weather:
            self.weather.close()
            self.weather = None

    def heal(self):
        if self.weather:
            self.weather.clear()
        for host in HOSTS:
            sh("ip", "netns", "exec", f"{self.prefix}-{host}", "nft", "flush chain inet cut in")


def run_inside(prefix, program, args):
    """Builds the namespaces, runs `program --inside PREFIX args` in namespace c, takes all away again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    child = None
    try:
        build(prefix)
        child = subprocess.Popen(["ip", "netns", "exec", f"{prefix}-c", sys.executable, program,
                                  "--inside", prefix, *args])
        return child.wait()
    finally:
        if child and child.poll() is None:
            child.terminate()
            child.wait(60)
        remove(prefix)
