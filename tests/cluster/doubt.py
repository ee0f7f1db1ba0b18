"""Deliveries in doubt (protocol 9): the receiver has the mail and hasn't said so when the primary dies."""
import collections
import json
import os
import smtplib
import sqlite3
import time

from books import Books
from case import expect, scenario, wait_until

N = 5
QUIET = [f"quiet-{i}@example.net" for i in range(N)]
OTHERS = [f"other-{i}@example.net" for i in range(20)]


def send(node, addresses):
    """One message to each; their ids."""
    ids = {}
    with smtplib.SMTP(*node.smtp, timeout=20) as s:
        s.ehlo()
        for a in addresses:
            s.mail("sender@example.com")
            s.rcpt(a)
            code, text = s.data(f"Subject: to {a}\r\n\r\nhello\r\n".encode())
            expect(code == 250, f"{code} {text}")
            ids[text.decode().split()[-1]] = a
    return ids


def arrivals(t):
    """recipient -> times at which it arrived at the sink"""
    out = collections.defaultdict(list)
    for f in Books.lines(t.pair.sink_journal):
        if f[0] == "D":
            out[f[3]].append(float(f[2]))
    return out


def listed(node, *selector):
    """Ids that the operator sees in doubt."""
    code, out, err = node.ctl("--json", "queue", "list", "--state", "in-doubt", *selector)
    expect(code == 0, f"queue list: exit {code} {out}{err}")
    found = json.loads(out)
    found = found["messages"] if isinstance(found, dict) else found
    return {m["id"] for m in found}


def begin(t, queue, names="ab", **settings):
    t.quiet = os.path.join(t.dir, "quiet")
    open(t.quiet, "w").close()
    return t.begin(load=False, names=names, sink=("--quiet", t.quiet), queue=queue, **settings)


def hang(t, node):
    """Mail whose final dots are out, and not answered."""
    ids = send(node, QUIET)
    wait_until("the sink has taken it", lambda: all(arrivals(t)[a] for a in QUIET), 20)
    return ids


def dies(t, primary, standby, ids):
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    s = standby.status()
    expect(s["takeovers"][0]["in_doubt"] == N, f"takeovers: {s['takeovers'][0]}")
    wait_until("status counts them", lambda: standby.status()["queue"]["in_doubt"] == N, 5)
    expect(listed(standby) == set(ids), f"listed in doubt: {listed(standby)}, sent: {sorted(ids)}")


@scenario
def in_doubt_waits_and_goes_out(t):
    """What may have been sent is listed, all else goes out first; then it goes out by itself."""
    pair = begin(t, '{ in_doubt_wait = "5s"; }')
    primary, standby = pair.wait_in_sync()
    ids = hang(t, primary)
    at = time.monotonic()
    dies(t, primary, standby, ids)
    os.unlink(t.quiet)
    send(standby, OTHERS)
    wait_until("the others go out", lambda: all(arrivals(t)[a] for a in OTHERS), 4)
    expect(all(len(arrivals(t)[a]) == 1 for a in QUIET), "what is in doubt waits")
    wait_until("it goes out by itself", lambda: all(len(arrivals(t)[a]) == 2 for a in QUIET), 15)
    expect(min(arrivals(t)[a][1] for a in QUIET) - at >= 5, "it waits in_doubt_wait first")
    wait_until("nothing is in doubt any more", lambda: not listed(standby), 5)
    primary.start()
    pair.wait_in_sync(45)
    wait_until("both stores are equal", t.stores_equal, 30, 0.3)


def delivered_here(node):
    db = sqlite3.connect(f"file:{node.store}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute("SELECT count(*) FROM recipient WHERE state = 7").fetchone()[0]
    finally:
        db.close()


@scenario
def in_doubt_is_settled_by_the_old_primary(t):
    """Its outcomes never reached the standby; it comes back in time, and nothing is sent twice."""
    pair = begin(t, '{ in_doubt_wait = "60s"; }',
                 health='{ lease = "4s"; takeover_after = "4s"; standby_timeout = "4s"; }')
    primary, standby = pair.wait_in_sync()
    ids = hang(t, primary)
    t.place.cut_both(primary.node, standby.node)
    os.unlink(t.quiet)
    wait_until("the old primary knows", lambda: delivered_here(primary) == N, 2.5, 0.01)
    dies(t, primary, standby, ids)
    t.place.heal()
    primary.start()
    wait_until("it has settled them", lambda: not listed(standby), 30, 0.1)
    pair.wait_in_sync(45)
    expect(all(len(arrivals(t)[a]) == 1 for a in QUIET), "sent twice all the same")
    wait_until("both stores are equal", t.stores_equal, 30, 0.3)


@scenario
def in_doubt_hold_waits_for_an_operator(t):
    """At most once: it stays until it is released or cancelled, whatever else an operator says."""
    pair = begin(t, '{ in_doubt = "hold"; in_doubt_wait = "0s"; }')
    primary, standby = pair.wait_in_sync()
    ids = hang(t, primary)
    dies(t, primary, standby, ids)
    os.unlink(t.quiet)
    standby.ctl("queue", "retry", "--all")
    send(standby, OTHERS)
    wait_until("the others go out", lambda: all(arrivals(t)[a] for a in OTHERS), 10)
    expect(all(len(arrivals(t)[a]) == 1 for a in QUIET), "sent without a word")
    again = sorted(ids)[0]
    code, out, err = standby.ctl("queue", "release", "--state", "in-doubt", "--id", again)
    expect(code == 0, f"release: {out}{err}")
    wait_until("what was released goes out", lambda: len(arrivals(t)[ids[again]]) == 2, 10)
    code, out, err = standby.ctl("queue", "cancel", "--state", "in-doubt")
    expect(code == 0, f"cancel: {out}{err}")
    wait_until("nothing is in doubt any more", lambda: not listed(standby), 5)
    primary.start()
    pair.wait_in_sync(45)
    expect(sum(len(arrivals(t)[a]) for a in QUIET) == N + 1, "sent twice without a word")
    wait_until("both stores are equal", t.stores_equal, 30, 0.3)


@scenario
def in_doubt_hold_over_a_restart(t):
    """A single node dies with final dots open: under `hold` it asks before it sends again."""
    begin(t, '{ in_doubt = "hold"; }', names="a")
    node = t.pair.a
    ids = hang(t, node)
    node.kill()
    os.unlink(t.quiet)
    node.start()
    wait_until("the node serves", t.pair.primary, 20)
    expect(listed(node) == set(ids), f"listed in doubt: {listed(node)}, sent: {sorted(ids)}")
    send(node, OTHERS)
    wait_until("the others go out", lambda: all(arrivals(t)[a] for a in OTHERS), 10)
    expect(all(len(arrivals(t)[a]) == 1 for a in QUIET), "sent without a word")
