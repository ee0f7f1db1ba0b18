"""How long a client waits from its final dot to the 250, at a rate that the server keeps up with, beside a
raw flush of the same disk. The clients are one small program (tests/load/latency_posix.c): what they take
from the machine would show in what they measure."""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "load"))
from pair import BUILD, Failure  # noqa: E402

CLIENTS = 50


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def measure(address, rate, size, seconds):
    """(p50, p99) in ms, of all clients together at that rate."""
    client = subprocess.run([os.path.join(BUILD, "tests", "latency"), address[0], str(address[1]), str(CLIENTS),
                             str(max(1, int(rate))), str(seconds), str(size)], capture_output=True, text=True,
                            timeout=120 + seconds)
    if client.returncode:
        raise Failure(client.stderr.strip())
    seen = json.loads(client.stdout)
    if seen["late"] * 10 > seen["messages"]:
        raise Failure(f"{seen['late']} of {seen['messages']} messages began late: half the rate was too much")
    return seen["p50_ms"], seen["p99_ms"]


def raw_flush(disk):
    """(p50, p99) in ms of a write and its flush, on that disk with all that it was ordered to do."""
    path = disk.env["DISK_SHIM_PREFIX"] + "-flush"
    flush = subprocess.run([sys.executable, os.path.abspath(__file__), path], env={**os.environ, **disk.env},
                           capture_output=True, text=True, timeout=120, check=True)
    return json.loads(flush.stdout)


def flush_times(path, times=200, size=32768):
    """size: about what the commit of one message writes, to a file that is long enough already."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    took = []
    try:
        os.pwrite(fd, bytes(size * times), 0)
        os.fsync(fd)
        for i in range(times):
            begin = time.monotonic()
            os.pwrite(fd, b"x" * size, size * i)
            os.fdatasync(fd)
            took.append((time.monotonic() - begin) * 1000)
    finally:
        os.close(fd)
        os.unlink(path)
    return percentile(took, 0.5), percentile(took, 0.99)


if __name__ == "__main__":
    print(json.dumps(flush_times(sys.argv[1])))
