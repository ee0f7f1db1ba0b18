"""Wrong configuration, keys, ports, stores and peers: one clear line each, nothing lost."""
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import time

from books import count_lines
from case import Books, expect, scenario, wait_until
from pair import BUILD, TOP, Pair


def starts_not(node, *says, status=None):
    """batond ends by itself, not with 0, and its last words hold all of says."""
    r = subprocess.run(node.command, capture_output=True, text=True, timeout=20)
    expect(r.returncode not in (0, -11, -6), f"it ended with {r.returncode}\n{r.stderr[-800:]}")
    expect(status is None or r.returncode == status, f"exit {r.returncode}, not {status}")
    for words in says:
        expect(words in r.stderr, f"it doesn't say \"{words}\" but:\n{r.stderr[-800:]}")
    return r.stderr


def alone(t):
    """A node that was never started."""
    t.pair = Pair(os.path.join(t.dir, "pair"), t.place, "a")
    return t.pair.a


@scenario
def wrong_configuration(t):
    node = alone(t)
    node.configure(hostnam='"x.example"', health='{ leese = "1s"; }', limits="{ recipients = 0; }")
    r = subprocess.run([*node.command, "--check"], capture_output=True, text=True, timeout=20)
    expect(r.returncode == 2, f"--check of a wrong file exits 2, not {r.returncode}")
    lines = [line for line in (r.stdout + r.stderr).splitlines() if line.startswith(node.conf + ":")]
    expect(len(lines) == 3, f"three mistakes, each with file and line:\n{r.stdout}{r.stderr}")
    expect('did you mean "hostname"' in "".join(lines), "an unknown name has a remedy")
    starts_not(node, f"{node.conf}:")
    node.configure()
    r = subprocess.run([*node.command, "--check"], capture_output=True, text=True, timeout=20)
    expect(r.returncode == 0, f"--check of a right file exits 0, not {r.returncode}\n{r.stdout}{r.stderr}")


@scenario
def missing_or_open_key(t):
    node = alone(t)
    os.chmod(t.pair.key, 0o644)
    starts_not(node, "chmod 0600")
    os.unlink(t.pair.key)
    starts_not(node, "batonctl keygen")


@scenario
def port_in_use(t):
    node = alone(t)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("10.77.0.9", 2599))
        s.listen()
        # The node's own namespace is another one: run it here, where the port is taken.
        node.configure(listeners='( { address = "10.77.0.9:2599"; } )', http='{ listen = "127.0.0.1:2598"; }')
        node.command = [os.path.join(BUILD, "batond"), "-c", node.conf]
        starts_not(node, "2599", "in use")


@scenario
def store_of_another_cluster(t):
    pair = t.begin(names="a", load=False)
    t.load(messages=20)
    t.settle()
    expect(pair.a.stop() == 0, "clean stop")
    pair.a.configure(cluster='"other"')
    starts_not(pair.a, "cluster", "other")


@scenario
def store_of_a_newer_version(t):
    pair = t.begin(names="a", load=False)
    expect(pair.a.stop() == 0, "clean stop")
    db = sqlite3.connect(pair.a.store)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    db.execute(f"PRAGMA user_version = {version + 1000}")
    db.commit()
    db.close()
    starts_not(pair.a, "version")
    db = sqlite3.connect(pair.a.store)
    expect(db.execute("PRAGMA user_version").fetchone()[0] == version + 1000, "the store is left alone")
    db.close()


@scenario
def not_a_store(t):
    node = alone(t)
    with open(node.store, "w") as f:
        f.write("this is not a database, it is somebody's letter\n" * 100)
    starts_not(node, node.store)


@scenario
def peer_with_another_key(t):
    """A node with a wrong key never gets in; the others go on, and the log says why."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    standby.stop()
    wrong = os.path.join(t.dir, "wrong.key")
    with open(os.open(wrong, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write(secrets.token_hex(32) + "\n")
    standby.configure(key_file=f'"{wrong}"')
    standby.start()
    t.flows("mail flows beside a node with another key", 15, 200)
    expect(primary.role() == "primary" and not standby.banner().startswith("220"), "it stays outside")
    with open(primary.log, errors="replace") as f:
        expect("key" in f.read().lower(), "the primary's log names the key")
    standby.stop()
    standby.configure()
    standby.start()
    t.settle()


@scenario
def peer_of_another_cluster(t):
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    standby.stop()
    old = standby.store
    shutil.copytree(standby.dir, standby.dir + ".old")
    standby.empty_disk()
    standby.configure(cluster='"other"')
    standby.start()
    t.flows("mail flows beside a node of another cluster", 15, 200)
    expect(primary.role() == "primary" and not standby.banner().startswith("220"), "it stays outside")
    wait_until("the primary's log names the other cluster",
               lambda: "other" in open(primary.log, errors="replace").read(), 10)
    standby.stop()
    standby.empty_disk()
    base = os.path.basename(old)
    for f in os.listdir(standby.dir + ".old"):
        if f.startswith(base):
            shutil.copy(os.path.join(standby.dir + ".old", f), os.path.join(standby.dir, f))
    standby.configure()
    standby.start()
    t.settle()


@scenario
def reload(t):
    """A reload takes what it can, says what needs a restart, and a wrong file changes nothing."""
    pair = t.begin()
    primary, _ = pair.wait_in_sync()
    primary.configure(relay_networks='[ "127.0.0.0/8", "10.0.0.0/8", "192.0.2.0/24" ]',
                      http='{ listen = "127.0.0.1:8026"; }')
    code, out, err = primary.ctl("reload")
    expect(code == 0 and "http" in out + err, f"reload names what needs a restart: {code} {out}{err}")
    primary.configure(nonsense="1")
    code, out, err = primary.ctl("reload")
    expect(code == 1 and "nonsense" in out + err, f"a wrong file: {code} {out}{err}")
    t.flows("mail flows after a reload", 5, 100)
    expect((primary.get("/nothing") or [0])[0] == 404, "an unknown path is a 404")
    primary.configure()
    t.settle()


@scenario
def reload_without_the_other_node(t):
    """A file that names one node ends the pair with a restart; a reload doesn't: each 250 waits for both copies."""
    pair = t.begin(weather=True, health='{ standby_timeout = "30s"; }')
    primary, standby = pair.wait_in_sync()
    names, pair.names = pair.names, primary.node
    primary.configure()
    pair.names = names
    code, out, err = primary.ctl("reload")
    expect(code == 0 and "nodes" in out + err, f"reload names what needs a restart: {code} {out}{err}")
    t.flows("mail flows after the reload", 15, 100)
    t.place.weather.set(primary.node, standby.node, ["tcp"], stall=1)

    def stands_still():
        before = count_lines(pair.loads[-1].journal, "A")
        time.sleep(1)  # many messages' time
        return count_lines(pair.loads[-1].journal, "A") == before
    wait_until("no 250 while the other node has no copy", stands_still, 10)
    t.place.heal()
    t.flows("mail flows again", 15, 100)
    primary.configure()
    t.settle()


@scenario
def hooks_run(t):
    """Operators' hooks run at takeover with what they need to know, and a hanging one stops nothing."""
    script = os.path.join(t.dir, "hook")
    with open(script, "w") as f:
        f.write(f"#!/bin/sh\necho $BATON_HOOK $BATON_NODE $BATON_ROLE $BATON_EPOCH >>{t.dir}/hooks\nexec sleep 600\n")
    os.chmod(script, 0o755)
    pair = t.begin(hooks=f'{{ promoted = "{script}"; demoted = "{script}"; solo = "{script}"; }}')
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    primary.kill()
    wait_until("the promoted hook ran", lambda: os.path.exists(f"{t.dir}/hooks") and any(
        line.startswith(f"promoted {standby.node} primary") for line in open(f"{t.dir}/hooks")), 10)
    t.flows("mail flows while the hook hangs", 10)
    primary.start()
    t.settle()


@scenario
def shipped_programs(t):
    """--version and --help everywhere; wrong usage is 2."""
    for program in ("batond", "baton-witness", "batonctl"):
        path = os.path.join(BUILD, program)
        for option in ("--version", "--help"):
            r = subprocess.run([path, option], capture_output=True, text=True, timeout=10)
            expect(r.returncode == 0 and r.stdout, f"{program} {option}: {r.returncode}")
        r = subprocess.run([path, "--no-such-option"], capture_output=True, text=True, timeout=10)
        expect(r.returncode == 2, f"{program} --no-such-option: {r.returncode}")
    r = subprocess.run([os.path.join(TOP, "deploy/quickstart"), "--arbiter", "zookeeper"], capture_output=True,
                       text=True, timeout=10)
    expect(r.returncode == 2 and "zookeeper" in r.stderr and "witness, etcd" in r.stderr,
           f"quickstart with an arbiter that there isn't names those that there are: {r.returncode} {r.stderr}")


@scenario
def books_notice(t):
    """The books themselves: what is lost, doubled or damaged is found."""
    source, sink = os.path.join(t.dir, "source"), os.path.join(t.dir, "sink")
    with open(source, "w") as f:
        f.write("A whole 1.0 1 X1\nA gone 2.0 1 X2\nA half 3.0 2 X3\nU again 3.5\nA again 9.0 1 X5\n"
                "A twice 9.5 1 X6\nA cut")
    with open(sink, "w") as f:
        f.write("D whole 1.1 r0 X1 1\nD half 3.1 r0 X3 0\nD again 3.6 r0 X4 1\nD again 9.1 r0 X5 1\n"
                "D twice 9.6 r0 X6 1\nD twice 9.7 r0 X6 1\nC 1.0 4\n")
    books = Books([source], sink)
    expect(sorted(books.lost()) == ["gone", "half"], f"lost: {books.lost()}")
    expect(books.doubled() == (1, 1), f"doubled: {books.doubled()}")
    expect(books.damaged == ["half"], f"damaged: {books.damaged}")
    expect(books.most_connections == 4 and len(books.accepted) == 5, "counts")
    expect(abs(books.longest_pause(2.5) - 6.0) < 1e-6, f"pause: {books.longest_pause(2.5)}")
