"""etcd servers of the tests' own: a cluster, started, killed, frozen, emptied, backed up and restored."""
import os
import shutil
import subprocess
import urllib.request

from pair import Failure, Process, wait_until


class Server(Process):
    def __init__(self, cluster, i):
        self.cluster, self.i = cluster, i
        self.dir = os.path.join(cluster.dir, f"etcd{i}")
        os.makedirs(self.dir, exist_ok=True)
        self.data = os.path.join(self.dir, "data")
        self.client = cluster.url(i, "client")
        self.peer = cluster.url(i, "peer")
        super().__init__(f"etcd{i}", None, os.path.join(self.dir, "log"))

    def start(self):
        self.command = self.cluster.place.wrap(self.cluster.host, [
            "etcd", "--name", f"e{self.i}", "--data-dir", self.data,
            "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
            "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
            "--initial-cluster", self.cluster.members(), "--heartbeat-interval", "50",
            "--election-timeout", "500", "--logger", "zap"])
        super().start()


    def healthy(self):
        """It has a leader, and a majority."""
        try:
            with urllib.request.urlopen(self.client + "/health", timeout=1) as r:
                return b"true" in r.read()
        except OSError:
            return False


class Etcd:
    """n servers, which a Pair takes for its arbiter: `arbiter` is the setting."""

    def __init__(self, dir_, place, n=1, host="w", ports=None):
        self.dir, self.place, self.host, self.n, self.more = dir_, place, host, n, []
        self.ports = ports or [2379 + 10 * i + k for i in range(n) for k in range(2)]
        self.servers = [Server(self, i) for i in range(n)]

    def url(self, i, what):
        return f"http://{self.place.address(self.host)}:{self.ports[2 * i + (what == 'peer')]}"

    def members(self):
        return ",".join(f"e{i}={self.url(i, 'peer')}" for i in range(self.n))

    @property
    def arbiter(self):
        endpoints = ", ".join(f'"{u}"' for u in [*self.more, *(self.url(i, "client") for i in range(self.n))])
        return f'{{ type = "etcd"; endpoints = [ {endpoints} ]; }}'

    def ctl(self, *words):
        command = self.place.wrap(self.host, [
            "env", "ETCDCTL_API=3", "etcdctl", "--dial-timeout=2s", "--command-timeout=3s",
            f"--endpoints={self.url(0, 'client')}", *words])
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def healthy(self):
        return any(s.alive and s.healthy() for s in self.servers)

    def start(self):
        for s in self.servers:
            s.start()
        wait_until("etcd is up", self.healthy, 30, 0.2)

    def kill(self):
        for s in self.servers:
            s.kill()

    def backup(self):
        path = os.path.join(self.dir, "backup")
        r = self.ctl("snapshot", "save", path)
        if r.returncode:
            raise Failure(f"etcdctl snapshot save: {r.stderr}")
        return path

    def empty(self):
        """All servers begin anew, with nothing."""
        self.kill()
        for s in self.servers:
            shutil.rmtree(s.data, ignore_errors=True)
        self.start()

    def restore(self, backup):
        """All servers begin anew, with what the backup holds."""
        self.kill()
        for s in self.servers:
            shutil.rmtree(s.data, ignore_errors=True)
            r = self.ctl("snapshot", "restore", backup, "--name", f"e{s.i}", "--data-dir", s.data,
                         "--initial-cluster", self.members(), "--initial-advertise-peer-urls", s.peer)
            if r.returncode:
                raise Failure(f"etcdctl snapshot restore: {r.stderr}")
        self.start()

    def close(self):
        for s in self.servers:
            if s.alive:
                s.kill()
