"""Who is measured: each starts its processes in a cgroup of its own, with the tests' disk below them
(tests/load/disk_shim.c), which counts flushes and can make them slow, for us and for peers alike."""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "load"))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "cluster"))
from disk import SHIM, Disk  # noqa: E402
from meter import Group  # noqa: E402
from pair import Failure, Loopback, Pair, Process, can_connect, free_ports, wait_until  # noqa: E402
import places  # noqa: E402
from postfix import start_postfix, stop_postfix  # noqa: E402


class Contender:
    durable = True  # keeps a message on disk before it answers
    sink_host = "127.0.0.1"

    def __init__(self, options):
        self.options = options
        self.dir = tempfile.mkdtemp(prefix="baton-bench-")
        os.chmod(self.dir, 0o755)
        self.sink_port, self.in_port = free_ports(2)
        self.address = ("127.0.0.1", self.in_port)
        self.group = Group()
        self.disks = []

    def disk(self, name, prefix):
        if not os.path.exists(SHIM):
            raise Failure(f"{SHIM} isn't built: flushes can't be counted (BATON_BUILD names the build)")
        folder = os.path.join(self.dir, name)
        os.makedirs(folder, exist_ok=True)
        d = Disk(folder, prefix, power=False)
        os.chmod(d.control, 0o666)
        d.order(flush_ms=self.options.flush_ms, mb_s=self.options.disk_mb_s)
        self.disks.append(d)
        return d

    def flushes(self):
        return sum(d.count("syncs") for d in self.disks)

    def check_durable(self):
        """Failure if this build or set-up answers 250 without what was promised."""

    def close(self):
        self.group.close()
        shutil.rmtree(self.dir, ignore_errors=True)


class Direct(Contender):
    """The generator straight into the sink: the ceiling of the tools."""

    durable = False

    def __init__(self, options):
        super().__init__(options)
        self.address = ("127.0.0.1", self.sink_port)


class Together(Loopback):
    """All on 127.0.0.1."""

    sink_host = "127.0.0.1"

    def __init__(self, options, group):
        super().__init__()
        self.group = group

    def wrap(self, who, command):
        return self.group.into(command)

    def close(self):
        pass


class Apart(places.Namespaces):
    """Each node in a network namespace; between the nodes and the witness the relay's slow link."""

    def __init__(self, options, group):
        super().__init__(options.inside)
        self.group = group
        self.sink_host = self.address("sink")
        self.start_weather().set("*", "*", **options.link)

    def wrap(self, who, command):
        return self.group.into(super().wrap(who, command))

    def close(self):
        self.stop_weather()


class Baton(Contender):
    names = "a"
    pair = place = None

    def __init__(self, options, around=None, **settings):
        """around: what else is put between a node's process and the machine."""
        super().__init__(options)
        try:
            self.set_up(options, around, settings)
        except BaseException:
            self.close()
            raise

    def set_up(self, options, around, settings):
        self.place = (Apart if getattr(options, "link", None) else Together)(options, self.group)
        self.sink_host = self.place.sink_host
        self.pair = Pair(
            os.path.join(self.dir, "pair"), self.place, names=self.names,
            routes=f'( {{ domain = "*"; via = "smtp://{self.sink_host}:{self.sink_port}"; }} )',
            delivery="{ connections = 200; }",
            limits='{ sessions_per_address = 10000; sessions = 10000; }',
            destinations='( { domain = "*"; connections = 50; messages_per_connection = 100000; } )', **settings)
        for p in [*self.pair.nodes, *([self.pair.witness] if len(self.names) == 2 else [])]:
            d = self.disk(os.path.basename(p.dir), p.store)
            p.command = ["env", *[f"{k}={v}" for k, v in d.env.items()], *p.command]
        for p in self.pair.nodes if around else []:
            around(p)
        self.pair.start()
        if len(self.names) == 2:
            self.primary, _ = self.pair.wait_in_sync(60)
        else:
            self.primary = wait_until("the node serves", self.pair.primary, 30)
        self.address = self.primary.smtp

    def metric(self, node, name):
        text = (node.get("/metrics") or (0, ""))[1]
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise Failure(f"node {node.node} has no metric {name}")

    def check_durable(self):
        """Each commit of each node is at least one flush of its own disk, and a pair is in sync."""
        for n, d in zip(self.pair.nodes, self.disks):
            commits, syncs = self.metric(n, "baton_storage_commits_total"), d.count("syncs")
            if syncs < commits or not commits:
                raise Failure(f"node {n.node} made {commits:.0f} commits and flushed its disk {syncs} times: a build with "
                              "weaker settings; its figures would say nothing")
        if len(self.names) == 2 and not self.pair.in_sync():
            raise Failure("the pair is not in sync: only one copy was written")

    def close(self):
        for part in (self.pair, self.place):
            if part:
                part.close()
        super().close()


class BatonPair(Baton):
    names = "ab"


class Postfix(Contender):
    def __init__(self, options):
        super().__init__(options)
        top = os.path.join(self.dir, "mta")
        d = self.disk("disk", os.path.join(top, "spool"))
        self.process = start_postfix(top, "bench", self.address, [f"[127.0.0.1]:{self.sink_port}"],
                                     env=d.env, wrap=self.group.into)

    def check_durable(self):
        if not self.flushes():
            raise Failure("postfix flushed nothing: the shim isn't in its environment")

    def close(self):
        stop_postfix(self.process)
        super().close()


# Compiled into Debian's build; the machine has no such user unless the package is installed.
EXIM_USER = ("Debian-exim", 64999)
EXIM = """exim_path = {binary}
primary_hostname = bench.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = {dir}/spool
log_file_path = {dir}/log-%slog
pid_file_path = {dir}/pid
keep_environment = LD_PRELOAD:DISK_SHIM_PREFIX:DISK_SHIM_CONTROL
split_spool_directory = true
message_logs = false
smtp_accept_max = 500
smtp_connect_backlog = 500
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
queue_run_max = 10
check_spool_space = 0
host_lookup =
dns_dnssec_ok = 0
tls_advertise_hosts =
acl_smtp_rcpt = acl_rcpt
begin acl
acl_rcpt:
  accept hosts = 127.0.0.1
begin routers
sink:
  driver = manualroute
  route_list = * 127.0.0.1 byname
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {sink}
  allow_localhost
  hosts_avoid_tls = *
  connection_max_messages = 500
begin retry
* * F,1h,10s
"""


def run_setup(*command, **options):
    r = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    if r.returncode:
        raise Failure(f"{' '.join(command[:6])}: {(r.stderr or r.stdout)[-300:]}")


class Exim(Contender):
    """Debian's exim4-daemon-light, unpacked, not installed: it excludes Postfix."""

    def __init__(self, options):
        super().__init__(options)
        cache = os.path.join(options.cache, "exim")
        binary = os.path.join(cache, "usr/sbin/exim4")
        if not os.path.exists(binary):
            os.makedirs(cache, exist_ok=True)
            run_setup("apt-get", "download", "exim4-daemon-light", cwd=cache)
            run_setup("sh", "-c", "dpkg -x exim4-daemon-light_*.deb .", cwd=cache)
        conf = os.path.join(self.dir, "exim.conf")
        with open(conf, "w") as f:
            f.write(EXIM.format(port=self.in_port, dir=self.dir, sink=self.sink_port, binary=binary))
        os.makedirs(os.path.join(self.dir, "spool"))
        name, number = EXIM_USER
        shared = []
        for file, line in (("passwd", f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin"),
                           ("group", f"{name}:x:{number}:")):
            own = os.path.join(self.dir, file)
            with open(f"/etc/{file}") as f, open(own, "w") as out:
                out.write("".join(x for x in f if not x.startswith(name + ":")) + line + "\n")
            shared.append(f"mount --bind {own} /etc/{file} && ")
        for p in (self.dir, os.path.join(self.dir, "spool")):
            os.chown(p, number, number)
        d = self.disk("disk", os.path.join(self.dir, "spool"))
        self.process = Process("exim", self.group.into(
            ["unshare", "-m", "sh", "-c", "".join(shared) + 'exec "$@"', "exim", "env", *[f"{k}={v}" for k, v in d.env.items()], binary, "-C", conf, "-bdf", "-q5s"]),
            os.path.join(self.dir, "log"))
        self.process.start()
        wait_until("exim listens", lambda: can_connect(*self.address), 20)

    def close(self):
        self.process.kill()
        for pid in self.group.pids():
            os.kill(int(pid), 9)
        super().close()


HARAKA = """exports.hook_connect = (next, c) => {{ c.relaying = true; next(); }};
exports.hook_rcpt = next => next(OK);
exports.hook_get_mx = next => next(OK, {{ priority: 0, exchange: '127.0.0.1', port: {sink} }});
"""


class Haraka(Contender):
    """From npm, through its outbound queue; workers as many as cores."""

    def __init__(self, options):
        super().__init__(options)
        cache = os.path.join(options.cache, "haraka")
        top = os.path.join(cache, "node_modules", "Haraka")
        if not os.path.exists(top):
            os.makedirs(cache, exist_ok=True)
            run_setup("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", cache, "Haraka")
        etc = os.path.join(self.dir, "etc")
        for d in ("config", "plugins", "queue"):
            os.makedirs(os.path.join(etc, d))
        for name in ("connection.ini", "outbound.ini"):
            shutil.copy(os.path.join(top, "config", name), os.path.join(etc, "config"))
        files = {"config/plugins": "bench\n", "config/me": "bench.example\n", "config/queue_dir": f"{etc}/queue\n",
                 "config/log.ini": "[main]\nlevel=NOTICE\n", "config/loglevel": "NOTICE\n",
                 "config/smtp.ini": f"listen=127.0.0.1:{self.in_port}\nnodes={os.cpu_count()}\n",
                 "config/outbound.ini": "[main]\nconcurrency_max=100\nenable_tls=false\nlocal_mx_ok=true\n",
                 "plugins/bench.js": HARAKA.format(sink=self.sink_port)}
        for name, text in files.items():
            with open(os.path.join(etc, name), "w") as f:
                f.write(text)
        d = self.disk("disk", os.path.join(etc, "queue"))
        self.process = Process("haraka", self.group.into(
            ["env", *[f"{k}={v}" for k, v in d.env.items()], "node", os.path.join(top, "bin", "haraka"), "-c", etc]),
            os.path.join(self.dir, "log"))
        self.process.start()
        wait_until("haraka listens", lambda: can_connect(*self.address), 30)

    def close(self):
        self.process.kill()
        for pid in self.group.pids():
            os.kill(int(pid), 9)
        super().close()


ALL = {"direct": Direct, "single": Baton, "pair": BatonPair, "postfix": Postfix, "exim": Exim, "haraka": Haraka}
