"""Stores that come back: away for too long, copied, rolled back."""
import smtplib
import sqlite3
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
    standby.kill()
    wait_until("the primary is alone", lambda: primary.status().get("mode") == "solo", 15)
    send(primary, "alone", "defer1@sink.example")
    wait_until("it is deferred", lambda: primary.status()["queue"]["deferred"] == 2, 10)
    primary.kill()
    standby.start()
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
