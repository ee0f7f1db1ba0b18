"""Damage in a store: bodies that rot, rows that differ, pages that break. Never sent, mended from the
other copy, reported."""
import json
import os
import smtplib
import sqlite3
import zlib

from case import Failure, expect, scenario, wait_until
from orders import arrived, arrives, ctl
from rejoin import copy_store
from source import body_of

SETTINGS = {"delivery": '{ connections = 50; retry = [ "1s" ]; }'}
SMALL, LARGE = 2000, 300000  # in the row of its message; in five chunks


def send(node, uid, size, campaign="rot"):
    """A message that waits until its campaign is resumed; the sink checks its sum."""
    body = body_of(uid, size)
    body = body.replace(b"\r\n..dots", b"\r\n.dots", 1)  # smtplib doubles the dot itself
    with smtplib.SMTP(*node.smtp, timeout=20) as s:
        found = s.sendmail("app@client.example", ["you@sink.example"],
                           f"X-Campaign: {campaign}\r\n".encode() + body)
    expect(not found, f"{uid} is accepted")


def begin(t, **more):
    pair = t.begin(load=False, **{**SETTINGS, **more})
    primary, standby = pair.wait_in_sync()
    ctl(primary, "campaign", "pause", "rot")
    for uid, size in (("small", SMALL), ("large", LARGE)):
        send(primary, uid, size)
    wait_until("both hold them", lambda: standby.status()["queue"]["messages"] == 2, 10)
    return primary, standby


def change(node, *statements):
    db = sqlite3.connect(node.store, timeout=10, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        n = [db.execute(s).rowcount for s in statements]
        db.execute("COMMIT")
        expect(all(n), f"{statements} changed {n} rows")
    finally:
        db.close()


SPOIL = ("UPDATE message SET body=CAST(replace(CAST(body AS TEXT),'lazy','busy') AS BLOB) WHERE body IS NOT NULL",
         "UPDATE chunk SET data=CAST(replace(CAST(data AS TEXT),'lazy','busy') AS BLOB) WHERE idx=2")
RESTORE = [s.replace("'lazy','busy'", "'busy','lazy'") for s in SPOIL]


def flip_in_file(node):
    """Bytes of both bodies, in the file of a node that is stopped."""
    db = sqlite3.connect(node.store)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with open(node.store, "r+b") as f:
        data = f.read()
        at, n = data.find(b"lazy dog"), 0
        while at >= 0:
            f.seek(at)
            f.write(b"L")
            n += 1
            at = data.find(b"lazy dog", at + 60000)
    expect(n >= 4, f"{n} bytes were flipped")


def verify(node, code=0):
    out = ctl(node, "--json", "verify", code=code)
    return json.loads(out[:out.rindex("}") + 1])


def all_is_well(t, node):
    ctl(node, "campaign", "resume", "rot")
    arrives(t, "small")
    arrives(t, "large")
    expect(not t.books().damaged, f"arrived damaged: {t.books().damaged}")


@scenario
def rot_on_the_primary(t):
    """A body fails its checksum when it is due: fetched from the standby, then delivered."""
    primary, standby = begin(t)
    change(primary, *SPOIL)
    all_is_well(t, primary)
    expect("storage.mended" in primary.tail(400), "the log tells of the repair")
    t.settle()


@scenario
def rot_on_the_standby(t):
    """`verify`, asked of the standby, finds and mends bodies there; after a takeover they are right."""
    primary, standby = begin(t)
    v = verify(primary)
    expect(v["compared"] == 2 and not v["differing"], f"nothing to find: {v}")
    change(standby, *SPOIL)
    v = verify(standby)
    expect(v["differing"] == 2 and v["repaired"] == 2 and not v["unrepairable"], f"{v}")
    v = verify(primary)
    expect(not v["differing"], f"all is mended: {v}")
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    all_is_well(t, standby)
    primary.start()
    t.settle()


@scenario
def rot_while_stopped(t):
    """Bytes that flipped in the file of a stopped node, on either side."""
    primary, standby = begin(t)
    expect(standby.stop() == 0, "clean stop")
    flip_in_file(standby)
    standby.start()
    t.pair.wait_in_sync(30)
    v = verify(primary)
    expect(v["repaired"] == 2 and not v["unrepairable"], f"{v}")
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    flip_in_file(primary)
    primary.start()
    t.pair.wait_in_sync(30)
    ctl(standby, "switchover")
    wait_until("it is primary again", lambda: primary.banner().startswith("220"), 10)
    t.pair.wait_in_sync(30)
    all_is_well(t, primary)
    t.settle()


@scenario
def rot_before_a_full_copy(t):
    """Bodies have rotted on the primary, unnoticed; they are whole in a store that a full copy takes the place of."""
    primary, standby = begin(t)
    expect(standby.stop() == 0, "clean stop")
    old = os.path.join(t.dir, "old", "queue.db")
    os.makedirs(os.path.dirname(old))
    copy_store(standby.store, old)
    standby.start()
    t.pair.wait_in_sync(30)
    send(primary, "newest", SMALL)
    wait_until("both hold it", lambda: standby.status()["queue"]["messages"] == 3, 10)
    standby.kill()
    standby.empty_disk()
    copy_store(old, standby.store)  # it lacks what it acknowledged: it has to be copied anew
    change(primary, *[f"{s} AND id<(SELECT max(id) FROM message)" for s in SPOIL])
    standby.start()
    wait_until("its bodies are looked at", lambda: "2 differed, 2 repaired" in primary.tail(400), 30)
    t.pair.wait_in_sync(60)
    v = verify(primary)
    expect(v["compared"] == 3 and not v["differing"], f"both are whole: {v}")
    all_is_well(t, primary)
    t.settle()


@scenario
def rot_on_both(t):
    """No copy is right: held with the reason, alarmed, never sent, never dropped."""
    primary, standby = begin(t)
    change(primary, *SPOIL)
    change(standby, *SPOIL)
    v = verify(primary, code=1)
    expect(v["unrepairable"] == 2, f"{v}")
    ctl(primary, "campaign", "resume", "rot")
    wait_until("both are held", lambda: primary.status()["queue"]["held"] == 2, 20)
    expect("damaged on both nodes" in ctl(primary, "queue", "list", "--state", "held"), "with the reason")
    expect(any(c["name"] == "bodies" and not c["ok"] for c in primary.status()["checks"]), "and a check")
    expect("damaged on both" in ctl(primary, "status"), "and an alarm")
    expect(not arrived(t, "small") and not arrived(t, "large"), "nothing damaged is sent")
    change(standby, *RESTORE)  # somebody finds a backup of one copy
    ctl(primary, "queue", "release", "--all")
    all_is_well(t, primary)
    t.settle()


@scenario
def rows_that_differ(t):
    """Rows that only one copy has, or that differ, are settled by the merge rule; mail flows meanwhile."""
    primary, standby = begin(t)
    t.load(rate=150, sessions=5)
    change(standby, "UPDATE recipient SET reply='changed by hand' WHERE id IN (SELECT id FROM message WHERE"
           " campaign='rot' AND chunks=0)")
    change(standby, "DELETE FROM chunk WHERE id IN (SELECT id FROM message WHERE campaign='rot')",
           "DELETE FROM recipient WHERE id IN (SELECT id FROM message WHERE campaign='rot' AND chunks>0)",
           "DELETE FROM message WHERE campaign='rot' AND chunks>0")
    v = verify(primary)
    expect(v["differing"] == 2 and v["repaired"] == 2, f"mail on its way is no difference: {v}")
    wait_until("both have it again", lambda: standby_has(standby), 10)
    all_is_well(t, primary)
    t.settle()


def standby_has(node):
    db = sqlite3.connect(f"file:{node.store}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute("SELECT count(*) FROM chunk").fetchone()[0] == 5
    finally:
        db.close()


def break_page(node):
    """The root of the table of recipients, in the file of a node that is stopped."""
    db = sqlite3.connect(node.store)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page, = db.execute("SELECT rootpage FROM sqlite_schema WHERE name='recipient'").fetchone()
    size, = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with open(node.store, "r+b") as f:
        f.seek((page - 1) * size)
        f.write(b"\xee" * size)


@scenario
def broken_page(t):
    """A page of a node's database is broken: the pair goes on; the node is checked at its next start,
    found unfit, merges what can be read, and gets a full copy."""
    primary, standby = begin(t)
    t.load(rate=100, sessions=5)
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    break_page(primary)
    primary.start()
    wait_until("it notices", lambda: "the store failed" in primary.status().get("why", ""), 30)
    expect(os.path.exists(primary.store + ".check"), "it is to be checked")
    t.flows("mail flows alone", 20)
    primary.kill()
    primary.start()
    t.pair.wait_in_sync(45)
    expect("storage.unfit" in primary.tail(400), "the log says that it failed its check")
    expect(not os.path.exists(primary.store + ".check"), "it isn't checked again")
    expect(os.path.exists(primary.store + ".damaged"), "what was damaged is kept")
    all_is_well(t, standby)
    t.settle()


@scenario
def checked_after_an_error(t):
    """A store that was marked by an error is checked before it counts; a whole one goes on."""
    primary, standby = begin(t)
    standby.kill()
    open(standby.store + ".check", "w").close()
    standby.start()
    t.pair.wait_in_sync(30)
    expect("storage.checked" in standby.tail(400), "it was checked")
    expect(not os.path.exists(standby.store + ".check"), "and once is enough")
    all_is_well(t, primary)
    t.settle()
