"""The instruments themselves: a relay that lost nothing, or a disk that forgot nothing, would prove nothing."""
import json
import os
import signal
import subprocess
import sys
import time

from case import expect, scenario, wait_until
from clock import Clock
from disk import ALWAYS, Disk


def read(path):
    with open(path, "rb") as f:
        return f.read()


def below(disk, script, *args):
    """Runs a Python script with the disk below it; its exit status."""
    env = {**os.environ, **disk.env, "ASAN_OPTIONS": "verify_asan_link_order=0"}
    return subprocess.Popen([sys.executable, "-c", "import os, sys, signal\n" + script, *args], env=env,
                            stderr=subprocess.PIPE, stdout=subprocess.PIPE)


DIE = "\nos.kill(os.getpid(), signal.SIGKILL)"


def power_lost(t, script, seed=None, again=None):
    """The files after script ran and was killed (and another one after it), and the power failed."""
    folder = os.path.join(t.dir, f"d{time.monotonic_ns()}")
    os.makedirs(os.path.join(folder, "disk"))
    base = os.path.join(folder, "disk", "x")
    with open(base + ".old", "w") as f:
        f.write("old")
    disk = Disk(folder, base)
    for text in (script, again) if again else (script,):
        child = below(disk, f"base = {base!r}; folder = {os.path.dirname(base)!r}\n" + text + DIE)
        _, err = child.communicate(timeout=20)
        expect(child.returncode == -signal.SIGKILL, f"the script ended with {child.returncode}: {err.decode()}")
    disk.lose_power(seed)
    return {f: read(os.path.join(folder, "disk", f)) for f in os.listdir(os.path.join(folder, "disk"))}


SYNC_FOLDER = "d = os.open(folder, os.O_RDONLY); os.fsync(d)\n"
NEW = "f = os.open(base + '.new', os.O_RDWR | os.O_CREAT | os.O_TRUNC)\n"


@scenario
def shim_forgets(t):
    """The shim: what wasn't flushed is gone after power loss, what was is there; names as well."""
    files = power_lost(t, NEW + SYNC_FOLDER + "os.write(f, b'one'); os.fsync(f); os.write(f, b'two')")
    expect(files == {"x.old": b"old", "x.new": b"one"}, f"written after the flush: {files}")
    files = power_lost(t, NEW + "os.write(f, b'one'); os.fsync(f)")
    expect(files == {"x.old": b"old"}, f"created, its directory not flushed: {files}")
    files = power_lost(t, "f = os.open(base + '.old', os.O_RDWR); os.pwrite(f, b'NEW+', 1); os.ftruncate(f, 2)")
    expect(files == {"x.old": b"old"}, f"overwritten and cut: {files}")
    files = power_lost(t, NEW + "os.write(f, b'one'); os.fsync(f); os.rename(base + '.new', base + '.old')")
    expect(files == {"x.old": b"old"}, f"renamed over, the directory not flushed: {files}")
    files = power_lost(t, NEW + "os.write(f, b'one'); os.fsync(f); os.rename(base + '.new', base + '.old')\n"
                       + SYNC_FOLDER)
    expect(files == {"x.old": b"one"}, f"renamed over, the directory flushed: {files}")
    files = power_lost(t, "os.unlink(base + '.old')")
    expect(files == {"x.old": b"old"}, f"removed, the directory not flushed: {files}")
    files = power_lost(t, "os.unlink(base + '.old')\n" + SYNC_FOLDER)
    expect(files == {}, f"removed, the directory flushed: {files}")
    files = power_lost(t, "f = os.open(base + '.old', os.O_RDWR | os.O_TRUNC); os.write(f, b'x')")
    expect(files == {"x.old": b"old"}, f"emptied at opening: {files}")
    write = "f = os.open(base + '.old', os.O_RDWR); os.pwrite(f, b'N', 0)"
    files = power_lost(t, write, again="")
    expect(files == {"x.old": b"old"}, f"written, killed, started again: {files}")
    files = power_lost(t, write, again="f = os.open(base + '.old', os.O_RDWR); os.fsync(f)")
    expect(files == {"x.old": b"Nld"}, f"written, killed, flushed by the next process: {files}")
    seen = {power_lost(t, "f = os.open(base + '.old', os.O_RDWR)\nfor i in range(3): os.pwrite(f, b'%d' % i, i)",
                       seed)["x.old"] for seed in range(12)}
    expect(seen == {b"old", b"0ld", b"01d", b"012"}, f"any first part may have got to the disk: {seen}")


@scenario
def shim_fails(t):
    """The shim: slow, hanging, failing and full, when told and no longer."""
    base = os.path.join(t.dir, "x")
    disk = Disk(t.dir, base)
    script = NEW + ("for line in sys.stdin:\n"
                    "    try: os.write(f, b'x'); os.fsync(f); print('ok', flush=True)\n"
                    "    except OSError as e: print(e.errno, flush=True)\n")
    child = subprocess.Popen([sys.executable, "-c", f"import os, sys\nbase = {base!r}\n" + script],
                             env={**os.environ, **disk.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def once():
        child.stdin.write("\n")
        child.stdin.flush()
        begin = time.monotonic()
        return child.stdout.readline().strip(), time.monotonic() - begin

    try:
        expect(once()[0] == "ok", "a disk that works")
        disk.slow(80)
        answer, took = once()
        expect(answer == "ok" and took >= 0.08, f"a slow flush: {answer} after {took:.3f} s")
        disk.heal()
        disk.fail_writes(1, 28)
        expect([once()[0] for _ in range(2)] == ["28", "ok"], "one write fails")
        disk.fail_flushes(ALWAYS)
        expect([once()[0] for _ in range(2)] == ["5", "5"], "every flush fails")
        disk.heal()
        expect(once()[0] == "ok", "and no longer")
        disk.stall()
        child.stdin.write("\n")
        child.stdin.flush()
        wait_until("it hangs", lambda: disk.count("stalled"), 5)
        disk.heal()
        expect(child.stdout.readline().strip() == "ok", "and goes on")
    finally:
        child.kill()
        child.wait()
    disk.lose_power()
    # Two flushes had failed: what they were to flush is not made good by the one that came later.
    expect(not os.path.exists(base + ".new"), "the directory was never flushed")


ECHO = """
import socket, sys
u, l = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
u.bind(("10.77.0.2", 7999)); l.bind(("10.77.0.2", 7999)); l.listen()
print("ok", flush=True)
if sys.argv[1] == "udp":
    while True:
        u.sendto(*u.recvfrom(100))
c = l.accept()[0]
while c.send(c.recv(65536)): pass
"""
ASK = """
import json, socket, sys, time
kind, n = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.settimeout(0.8)
begin = time.monotonic()
got = []
try:
    s.connect(("10.77.0.2", 7999))
    if kind == "udp":
        for i in range(n): s.send(b"%d" % i)
        while True:
            got.append(int(s.recv(100)))
            last = time.monotonic()
            if len(got) >= 2 * n: break
    else:
        s.sendall(bytes(n))
        while sum(got) < n: got.append(len(s.recv(65536)))
        last = time.monotonic()
except TimeoutError:
    pass
print(json.dumps((got, (last if got else time.monotonic()) - begin)))
"""


def through(t, kind, n):
    """What comes back of n datagrams, or bytes, sent from a to b and back: (list, seconds)."""
    echo = subprocess.Popen(t.place.wrap("b", [sys.executable, "-c", ECHO, kind]), stdout=subprocess.PIPE)
    try:
        echo.stdout.readline()
        out = subprocess.run(t.place.wrap("a", [sys.executable, "-c", ASK, kind, str(n)]), capture_output=True,
                             text=True, timeout=30)
        return json.loads(out.stdout)
    finally:
        echo.kill()
        echo.wait()


@scenario
def relay_weather(t):
    """The relay: carries all in fair weather; loses, doubles, reorders, delays, slows and swallows when told."""
    weather = t.place.start_weather(t.seed)
    try:
        got, _ = through(t, "udp", 100)
        expect(sorted(got) == list(range(100)), f"fair weather: {len(got)} of 100")
        weather.set("a", "b", ["udp"], loss=0.5)
        got, _ = through(t, "udp", 200)
        expect(60 < len(got) < 140, f"loss of a half: {len(got)} of 200 came back")
        weather.set("a", "b", ["udp"], dup=0.5)
        got, _ = through(t, "udp", 100)
        expect(120 < len(got) < 180 and len(set(got)) == 100, f"a half doubled: {len(got)} of 100")
        weather.set("a", "b", ["udp"], reorder=0.3)
        got, _ = through(t, "udp", 100)
        expect(sorted(got) == list(range(100)) and got != sorted(got), "reordered, nothing lost")
        weather.clear()
        weather.set("a", "b", delay=150)
        weather.set("b", "a", delay=50, jitter=20)
        for kind in ("udp", "tcp"):
            got, took = through(t, kind, 1)
            expect(0.2 <= took < 1, f"{kind} with 200 ms: {took:.3f} s")
        weather.clear()
        weather.set("b", "a", ["tcp"], rate=8000)
        got, took = through(t, "tcp", 500_000)
        expect(sum(got) == 500_000 and 0.45 < took < 1.5, f"4 Mbit over 8 Mbit/s: {sum(got)} in {took:.2f} s")
        weather.clear()
        weather.set("a", "b", ["tcp"], stall=1)
        got, _ = through(t, "tcp", 1)
        expect(not got and weather.counts()["a", "b", "tcp"]["stalled"], "a stalled link carries nothing")
        expect(through(t, "udp", 1)[0] == [0], "of the protocol that it was told of")
        expect(weather.counts()["a", "b", "udp"]["doubled"] > 10, "it counts")
    finally:
        t.place.stop_weather()
    expect(sorted(through(t, "udp", 10)[0]) == list(range(10)), "without it the wires carry all")


@scenario
def clock_shifts(t):
    """The clock: wall time differs as told, also while a process runs; monotonic clocks don't."""
    clock = Clock(t.dir)
    clock.shift(-86400)
    child = subprocess.Popen([sys.executable, "-c", "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(),"
                              " time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)"],
                             env={**os.environ, **clock.env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def differs():
        child.stdin.write("\n")
        child.stdin.flush()
        wall, mono, boot = map(float, child.stdout.readline().split())
        expect(abs(mono - time.monotonic()) < 1 and abs(boot - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1,
               "monotonic clocks stay")
        return wall - time.time()

    try:
        expect(abs(differs() + 86400) < 2, "a day behind")
        clock.shift(6 * 86400)
        wait_until("six days ahead", lambda: abs(differs() - 6 * 86400) < 2, 5)
    finally:
        child.kill()
        child.wait()
        clock.clean(child.pid)
