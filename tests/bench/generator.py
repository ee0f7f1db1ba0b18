"""The load: Postfix's smtp-source in front of a contender and its smtp-sink behind."""
import contextlib
import pwd
import subprocess
import time

from contenders import Failure, can_connect, wait_until

LIMIT_S = 240  # for one measurement


def start_sink(contender, *options):
    host, port = contender.sink_host, contender.sink_port
    user = next(u for u in ("postfix", "nobody") if any(p.pw_name == u for p in pwd.getpwall()))
    sink = subprocess.Popen(["smtp-sink", "-u", user, *options, f"{host}:{port}", "1000"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until("smtp-sink listens", lambda: can_connect(host, port), 10)
    return sink


@contextlib.contextmanager
def endless_sink(contender):
    sink = start_sink(contender)
    try:
        yield
    finally:
        sink.kill()
        sink.wait()


def load(contender, messages, size, args):
    """Seconds until all were accepted, and until all were in the sink."""
    sink = start_sink(contender, "-M", str(messages))
    try:
        begin = time.monotonic()
        host, in_port = contender.address
        source = subprocess.run(
            ["smtp-source", *([] if args.new_connections else ["-d"]), "-s", str(args.sessions), "-m", str(messages),
             "-l", str(size), "-r", str(args.recipients), "-f", "load@client.example", "-t", "you@sink.example",
             f"{host}:{in_port}"], capture_output=True, text=True, timeout=LIMIT_S)
        accepted = time.monotonic() - begin
        if source.returncode and contender.durable:  # the sink leaves before the generator's last QUIT
            raise Failure(f"smtp-source: {source.stderr.strip()[-300:]}")
        sink.wait(LIMIT_S)
        return accepted, time.monotonic() - begin
    finally:
        if sink.poll() is None:
            sink.kill()
        sink.wait()
