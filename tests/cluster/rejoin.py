"""Stores that come back: away for too long, copied, rolled back."""
import os
import shutil
import signal
import smtplib
import sqlite3
import threading
import time

from case import expect, scenario, wait_until
from clients import letter

RETENTION_S = 6
SETTINGS = {"queue": f'{{ retention = "{RETENTION_S}s"; }}',
            "delivery": '{ connections = 50; retry = [ "500ms" ]; }'}


def send(node, uid, to="you@sink.example"):
    with smtplib.SMTP(*node.smtp, timeout=20) as s:
        s.sendmail("app@client.example", [to], letter(uid))


def arrived(t, uid):
    return len(t.books().delivered.get(uid, ()))


def comes_back_too_late(t):
    """a, alone, takes a message and dies; b is forced, forgets what it finished; a comes back."""
    pair = t.begin(load=False, **SETTINGS)
    primary, standby = pair.wait_in_sync()
    send(primary, "finished", "defer9@sink.example")
    wait_until("it waits on both", lambda: standby.status()["queue"]["messages"] == 1, 10)
    # Frozen, not killed: a process that never heard the other's clock purges nothing within an hour.
    # Cut off as well: what waits in its socket would be read when it wakes.
    t.place.cut(primary.node, standby.node)
    standby.signal(signal.SIGSTOP)
    wait_until("the primary is alone", lambda: primary.status().get("mode") == "solo", 15)
    send(primary, "alone", "defer1@sink.example")
    wait_until("it is deferred", lambda: primary.status()["queue"]["deferred"] == 2, 10)
    primary.kill()
    t.place.heal()
    standby.signal(signal.SIGCONT)
    wait_until("it answers", lambda: standby.status(), 10)
    code, out, err = standby.ctl("failover", "--force", "--yes")
    expect(code == 0, f"failover --force: {code} {out}{err}")
    wait_until("it serves", lambda: standby.banner().startswith("220"), 15)
    code, out, err = standby.ctl("queue", "cancel", "--all")
    expect(code == 0 and "1 recipient" in out, f"queue cancel: {code} {out}{err}")
    wait_until("what was finished is forgotten", lambda: not messages(standby), 30)
    primary.start()
    wait_until("the returning node waits for its operator",
               lambda: "batonctl rejoin" in primary.status().get("why", ""), 20)
    expect(any(c["name"] == "rejoin" and not c["ok"] for c in primary.status()["checks"]), "a check says so")
    code, out, err = primary.ctl("--json", "queue", "list")
    expect(code == 0 and "defer1@sink.example" in out, f"queue list there: {code} {out}{err}")
    code, out, err = primary.ctl("queue", "summary", "--by", "domain")
    expect(code == 0 and "sink.example" in out, f"queue summary there: {code} {out}{err}")
    primary.kill()
    primary.start()
    wait_until("after a restart it waits again",
               lambda: "batonctl rejoin" in primary.status().get("why", ""), 20)
    return standby, primary


def messages(node):
    db = sqlite3.connect(f"file:{node.store}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute("SELECT count(*) FROM message").fetchone()[0]
    finally:
        db.close()


@scenario
def rejoin_merge(t):
    """Away for longer than retention: waits, and `rejoin --merge` brings what only it has."""
    primary, late = comes_back_too_late(t)
    code, out, err = primary.ctl("rejoin", "--merge")
    expect(code == 1, f"nobody asked the primary: {code} {out}{err}")
    expect(late.ctl("rejoin")[0] == 2, "rejoin needs a decision")
    code, out, err = late.ctl("rejoin", "--merge")
    expect(code == 0, f"rejoin --merge: {code} {out}{err}")
    t.pair.wait_in_sync(30)
    code, out, err = primary.ctl("--json", "queue", "list")
    expect("defer1@sink.example" in out, f"what only it had is merged: {out}{err}")
    expect("defer9@sink.example" not in out, "what was finished and forgotten doesn't come back")
    t.settle()


@scenario
def rejoin_discard(t):
    """`rejoin --discard` asks, says how many messages are given up, and copies all."""
    primary, late = comes_back_too_late(t)
    code, out, err = late.ctl("rejoin", "--discard")
    expect(code == 1 and "1 unfinished message " in err, f"it asks: {code} {out}{err}")
    time.sleep(0.5)  # nothing may happen without the word
    expect("batonctl rejoin" in late.status().get("why", ""), "it still waits")
    code, out, err = late.ctl("rejoin", "--discard", "--yes")
    expect(code == 0 and "1 unfinished message " in err, f"rejoin --discard: {code} {out}{err}")
    t.pair.wait_in_sync(30)
    code, out, err = primary.ctl("--json", "queue", "list")
    expect("defer1@sink.example" not in out, f"nothing of it is merged: {out}{err}")
    t.settle()


def rows(node, sql):
    db = sqlite3.connect(f"file:{node.store}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


QUARANTINED, SUPERSEDED = 0, 6
SLOW = {"health": '{ lease = "6s"; takeover_after = "6s"; standby_timeout = "6s"; }'}


def dies_before_its_reply(t, uid):
    """The primary has the message on its disk, the standby hasn't; it dies and the sender has no 250."""
    pair = t.begin(load=False, **SLOW)
    primary, standby = pair.wait_in_sync()
    t.place.cut(primary.node, standby.node)
    replies = []

    def client():
        try:
            send(primary, uid)
            replies.append("250")
        except (OSError, smtplib.SMTPException) as e:
            replies.append(e)
    c = threading.Thread(target=client, daemon=True)
    c.start()
    wait_until("it is on the primary's disk", lambda: rows(primary, "SELECT id FROM message"), 4, 0.05)
    primary.kill()
    c.join(10)
    expect(replies and replies[0] != "250", f"nobody has a 250: {replies}")
    # Not before: the dead node's kernel goes on sending what its sockets held, the batch among it.
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 30)
    t.place.heal()
    return pair, primary, standby


def state_of(node):
    return sorted(s for s, in rows(node, "SELECT state FROM recipient"))


@scenario
def twin_of_a_retry(t):
    """A sender without a 250 tries again at the new primary; the old one's copy is superseded."""
    pair, old, new = dies_before_its_reply(t, "twin")
    send(new, "twin")
    wait_until("it arrives", lambda: arrived(t, "twin"), 20)
    old.start()
    pair.wait_in_sync(60)
    wait_until("the old copy is superseded", lambda: SUPERSEDED in state_of(new), 10)
    expect(QUARANTINED not in state_of(new), f"states {state_of(new)}")
    t.settle()
    expect(arrived(t, "twin") == 1, f"it arrived {arrived(t, 'twin')} times")


@scenario
def twin_that_waits(t):
    """The old primary is back before the sender tries again: quarantined, then superseded."""
    pair, old, new = dies_before_its_reply(t, "twin")
    old.start()
    pair.wait_in_sync(60)
    wait_until("it is quarantined", lambda: new.status()["queue"]["quarantined"] == 1, 10)
    code, out, err = new.ctl("queue", "list", "--state", "quarantined")
    expect(code == 0 and "you@sink.example" in out, f"visible: {code} {out}{err}")
    send(new, "twin")
    wait_until("it arrives", lambda: arrived(t, "twin"), 20)
    wait_until("the old copy is superseded", lambda: new.status()["queue"]["messages"] == 0, 10)
    expect(SUPERSEDED in state_of(new), f"states {state_of(new)}")
    t.settle()
    expect(arrived(t, "twin") == 1, f"it arrived {arrived(t, 'twin')} times")


def copy_store(source, target):
    for f in os.listdir(os.path.dirname(source)):
        if f.startswith(os.path.basename(source)) and not f.endswith(".lock"):
            shutil.copy(os.path.join(os.path.dirname(source), f),
                        target + f[len(os.path.basename(source)):])


def store_id(node):
    return rows(node, "SELECT substr(meta,2,16) FROM store")[0][0]


@scenario
def cloned_store(t):
    """Both nodes are started from one file: the follower's gets an id of its own."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    t.flows("mail flows")
    standby.kill()
    primary.kill()
    t.disturbances += 1
    standby.empty_disk()
    copy_store(primary.store, standby.store)
    expect(store_id(primary) == store_id(standby), "one store, two nodes")
    primary.start()
    standby.start()
    pair.wait_in_sync(45)
    expect(store_id(primary) != store_id(standby), "two stores")
    t.settle()


@scenario
def rolled_back_store(t):
    """An older copy of its store is put back under a standby, then under a primary."""
    pair = t.begin()
    for which in range(2):
        primary, standby = pair.wait_in_sync(45)
        node = primary if which else standby
        t.disturbances += 1
        node.kill()
        t.flows("mail flows", 30)
        old = os.path.join(t.dir, f"old{which}", "queue.db")
        os.makedirs(os.path.dirname(old))
        copy_store(node.store, old)
        node.start()
        pair.wait_in_sync(45)
        t.flows("mail flows with both", 20, 100)
        t.disturbances += 1
        node.kill()
        node.empty_disk()
        copy_store(old, node.store)
        node.start()
        pair.wait_in_sync(45)
        t.flows("mail flows with the older copy", 20)
    t.settle()


@scenario
def purged_while_away(t):
    """What is finished is forgotten on both after retention; a node away meanwhile forgets it, too."""
    pair = t.begin(load=False, queue='{ retention = "10s"; }')
    primary, standby = pair.wait_in_sync()
    send(primary, "first")
    wait_until("it is done on both", lambda: [1] == [n for n, in rows(standby, "SELECT state FROM message")], 10)
    time.sleep(5)  # of its retention
    standby.kill()
    send(primary, "second", "defer1@sink.example")
    wait_until("it is forgotten here", lambda: len(rows(primary, "SELECT id FROM message")) == 1, 20)
    expect(len(rows(standby, "SELECT id FROM message")) == 1, "the other one has it still")
    standby.start()
    pair.wait_in_sync(30)
    wait_until("forgotten there as well", lambda: rows(standby, "SELECT id FROM message") ==
               rows(primary, "SELECT id FROM message"), 10)
    primary.ctl("queue", "cancel", "--all")
    wait_until("all is forgotten", lambda: not rows(primary, "SELECT id FROM message") and
               not rows(standby, "SELECT id FROM message"), 30)
    t.settle()
