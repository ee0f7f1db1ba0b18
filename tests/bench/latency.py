"""How long a client waits from its final dot to the 250, at a rate that the server keeps up with, beside a
raw flush of the same disk. The clients are one small program (tests/load/latency_posix.c): what they take
from the machine would show in what they measure."""
import json
import os
import subprocess
import time

from contenders import Failure  # noqa: I001, puts tests/load on the path
from pair import BUILD

CLIENTS = 50
SECONDS = 4


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def measure(address, rate, size):
    """(p50, p99) in ms, of all clients together at that rate."""
    client = subprocess.run([os.path.join(BUILD, "tests", "latency"), address[0], str(address[1]), str(CLIENTS),
                             str(max(1, int(rate))), str(SECONDS), str(size)], capture_output=True, text=True, timeout=120)
    if client.returncode:
        raise Failure(client.stderr.strip())
    seen = json.loads(client.stdout)
    if seen["late"] * 10 > seen["messages"]:
        raise Failure(f"{seen['late']} of {seen['messages']} messages began late: half the rate was too much")
    return seen["p50_ms"], seen["p99_ms"]


def raw_flush(directory, extra_ms, times=200):
    """(p50, p99) in ms of a write of 8 KiB and its flush, in a file that is long enough already."""
    path = os.path.join(directory, "flush")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    took = []
    try:
        os.pwrite(fd, bytes(8192 * times), 0)
        os.fsync(fd)
        for i in range(times):
            begin = time.monotonic()
            os.pwrite(fd, b"x" * 8192, 8192 * i)
            os.fdatasync(fd)
            took.append(time.monotonic() - begin)
    finally:
        os.close(fd)
        os.unlink(path)
    return percentile(took, 0.5) * 1000 + extra_ms, percentile(took, 0.99) * 1000 + extra_ms
