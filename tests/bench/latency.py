"""How long a client waits from its final dot to the 250, at a rate that the server keeps up with, beside a
raw flush of the same disk. Each client is a process with one connection, so that they don't wait for each
other in this interpreter."""
import json
import os
import socket
import subprocess
import sys
import time

CLIENTS = 16
SECONDS = 4.0


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def client(host, port, rate, size, first):
    """Seconds of each message, which is begun when its time has come (late ones at once)."""
    text = (f"Subject: {first}\r\n\r\n" + ("x" * 70 + "\r\n") * max(1, size // 72)).encode()
    waits = []
    with socket.create_connection((host, int(port)), 30) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        f = s.makefile("rb", buffering=0)
        f.readline()
        s.sendall(b"HELO client.example\r\n")
        f.readline()
        begin = time.monotonic() + first / rate / CLIENTS
        for n in range(max(1, int(rate * SECONDS))):
            time.sleep(max(0.0, begin + n / rate - time.monotonic()))
            for line in (b"MAIL FROM:<load@client.example>", b"RCPT TO:<you@sink.example>", b"DATA"):
                s.sendall(line + b"\r\n")
                if f.readline()[:1] not in (b"2", b"3"):
                    raise OSError("refused")
            s.sendall(text)
            dot = time.monotonic()
            s.sendall(b".\r\n")
            if not f.readline().startswith(b"250"):
                raise OSError("not accepted")
            waits.append(time.monotonic() - dot)
    return waits


def measure(address, rate, size):
    """(p50, p99) in ms, from all clients together at that rate."""
    command = [sys.executable, os.path.abspath(__file__), address[0], str(address[1]), str(rate / CLIENTS), str(size)]
    children = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(CLIENTS)]
    waits = []
    for c in children:
        out, _ = c.communicate(timeout=120)
        waits += json.loads(out) if c.returncode == 0 else []
    if not waits:
        raise OSError("no message was accepted")
    return percentile(waits, 0.5) * 1000, percentile(waits, 0.99) * 1000


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


if __name__ == "__main__":
    print(json.dumps(client(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))))
