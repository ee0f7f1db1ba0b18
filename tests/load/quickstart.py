#!/usr/bin/env python3
"""What deploy/quickstart shows, after building: mail through a pair whose primary dies halfway."""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from books import Books, count_lines, noise_s
from etcd import Etcd
from pair import BUILD, Failure, Loopback, Pair, Process, free_ports, wait_until

START_S = 30      # until two new nodes have found each other
TAKEOVER_S = 30   # far more than promised: the table tells what it took
DRAIN_S = 120     # until the last message is out
STALL_S = 60      # without any progress


def say(text):
    print(text, flush=True)


def progress(what, condition, read, seconds_without):
    """Waits while read() still grows; Failure when it stands still for so long."""
    last, since = read(), time.monotonic()
    while not condition():
        now = read()
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > seconds_without:
            raise Failure(f"{what}: no progress for {seconds_without} s (at {last})")
        time.sleep(0.05)


def run(pair, messages):
    """Returns what the table shows."""
    say(f"starting nodes a and b, {'a witness' if pair.has_witness else 'etcd'}, and a sink that counts what arrives ...")
    journal = os.path.join(pair.dir, "noise.journal")
    noise = Process("noise", [sys.executable, os.path.join(HERE, "noise.py"), journal],
                    os.path.join(pair.dir, "noise.log"))
    noise.start()
    pair.loads.append(noise)  # ends with the others
    pair.start_sink()
    pair.start()
    primary, standby = pair.wait_in_sync(START_S)
    say(f"  node {primary.node} is primary, node {standby.node} is its standby and in sync")

    say(f"sending {messages} messages over SMTP ...")
    load = pair.start_load(messages=messages, sessions=20, give_up=STALL_S)
    taken = lambda: count_lines(load.journal, "A")
    progress("sending", lambda: taken() >= messages // 2 or not load.alive, taken, STALL_S)
    at = time.monotonic()
    primary.kill()
    say(f"  SIGKILL to node {primary.node}, the primary, after {taken()} messages were accepted")
    wait_until(f"node {standby.node} takes over", lambda: standby.role() == "primary", TAKEOVER_S)
    machine_s = noise_s(journal, at - 0.5, time.monotonic())
    noise.kill()
    say(f"  node {standby.node} is primary")
    progress("sending", lambda: not load.alive, taken, STALL_S)

    say(f"starting node {primary.node} again ...")
    primary.start()
    try:
        pair.wait_in_sync(START_S)
        rejoined = f"node {primary.node} rejoined by itself: standby, in sync"
    except Failure:
        rejoined = f"NOT: node {primary.node} is {primary.role() or 'not answering'}: " \
                   f"{primary.status().get('why', '')}"
    journals = [load.journal]
    arrived = lambda: count_lines(pair.sink_journal, "D")
    deadline = time.monotonic() + DRAIN_S
    while Books(journals, pair.sink_journal).lost() and time.monotonic() < deadline:
        before = arrived()
        time.sleep(1)
        if arrived() == before and not any(
                n.status().get("queue", {}).get("messages") for n in pair.nodes):
            break
    books = Books(journals, pair.sink_journal)
    takeovers = standby.status().get("takeovers") or [{}]
    return books, messages, at, takeovers[-1], machine_s, rejoined


def table(books, messages, killed_at, takeover, machine_s, rejoined):
    lost = len(books.lost())
    relay, client = books.doubled()
    ms = takeover.get("duration_ms")
    rows = [
        ("sent", messages, ""),
        ("accepted (250)", len(books.accepted), ""),
        ("delivered", len(set(books.delivered) & set(books.accepted)), ""),
        ("lost", lost, ""),
        ("damaged", len(books.damaged), ""),
        ("doubled", relay, "sent twice by the relay; no more than in doubt"),
        ("sent again", sum(books.unanswered.values()),
         f"by the client, which got no answer; {client} of them arrived twice"),
        ("takeover", "?" if ms is None else f"{ms / 1000:.1f} s",
         f"promised 1.2 s, plus this machine's own delays: {machine_s:.2f} s meanwhile"),
        ("in doubt", takeover.get("in_doubt", "?"), "deliveries under way when the primary died, listed"),
        ("accepting paused", f"{books.longest_pause(killed_at):.1f} s", "longest time between two 250s"),
        ("old primary", "", rejoined),
    ]
    say("")
    for name, value, note in rows:
        say(f"  {name:<18}{value!s:>8}  {note}".rstrip())
    say("")
    return lost == 0 and not books.damaged and len(books.accepted) == messages \
        and rejoined.startswith("node")


def keep_hint(pair, etcd):
    a, b = pair.nodes
    arbiter = etcd.servers if etcd else [pair.witness]
    pids = " ".join(str(p.child.pid) for p in (a, b, *arbiter, pair.sink) if p.alive)
    say("It is left running. Look at it:")
    for n in (a, b):
        say(f"  {os.path.join(BUILD, 'batonctl')} -c {n.conf} status")
        say(f"    page: http://{n.http[0]}:{n.http[1]}/   smtp: {n.smtp[0]}:{n.smtp[1]}   log: {n.log}")
    say(f"  what arrived at the sink: {pair.sink_journal}")
    say(f"Stop it:\n  kill {pids}; rm -r {pair.dir}")


def main():
    p = argparse.ArgumentParser(prog="deploy/quickstart")
    p.add_argument("--messages", type=int, default=10000)
    p.add_argument("--keep", action="store_true", help="leave it running")
    p.add_argument("--arbiter", choices=["witness", "etcd"], default="witness")
    args = p.parse_args()
    if args.messages < 10:
        p.error("--messages: at least 10")
    dir_ = tempfile.mkdtemp(prefix="baton-quickstart-")
    place, etcd, settings = Loopback(), None, {}
    if args.arbiter == "etcd":
        etcd = Etcd(os.path.join(dir_, "etcd"), place, ports=free_ports(2))
        settings["arbiter"] = etcd.arbiter
    pair = Pair(dir_, place, **settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    good = kept = False
    try:
        if etcd:
            etcd.start()
        good = table(*run(pair, args.messages))
        if args.keep:
            keep_hint(pair, etcd)
            kept = True
        elif good:
            say("Next: README.md (three machines), deploy/examples/, --keep to look around.")
    except Failure as e:
        say(f"\nquickstart: {e}\n{pair.explain()}")
    finally:
        if not kept:
            pair.close()
            if etcd:
                etcd.close()
            if good:
                shutil.rmtree(dir_, ignore_errors=True)
            else:
                say(f"quickstart: logs and stores are left in {dir_}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
