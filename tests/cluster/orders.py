"""Operators' orders: paused destinations and campaigns, suppressed addresses, automatic takeover."""
import json
import os
import smtplib

from case import expect, scenario, wait_until
from clients import letter

SETTINGS = {"delivery": '{ connections = 50; retry = [ "500ms", "1s" ]; }'}


def send(node, uid, to, campaign=None):
    text = letter(uid)
    if campaign:
        text = f"X-Campaign: {campaign}\r\n{text}"
    with smtplib.SMTP(*node.smtp, timeout=20) as s:
        s.sendmail("app@client.example", to, text)


def ctl(node, *words, code=0):
    got, out, err = node.ctl(*words)
    expect(got == code, f"batonctl {' '.join(words)}: exit {got}, not {code}\n{out}{err}")
    return out + err


def arrived(t, uid):
    return len(t.books().delivered.get(uid, ()))


def arrives(t, uid, times=1):
    wait_until(f"{uid} arrives", lambda: arrived(t, uid) >= times, 20, 0.05)
    expect(arrived(t, uid) == times, f"{uid} arrived {arrived(t, uid)} times, not {times}")


def listed(node, what, name):
    key = "campaign" if what == "campaign" else "destination"
    for row in json.loads(ctl(node, "--json", what, "list")):
        if row[key] == name:
            return row
    return None


@scenario
def orders_pause(t):
    """Paused destinations and campaigns stay so over a takeover; what is resumed goes out once."""
    pair = t.begin(load=False, **SETTINGS)
    primary, standby = pair.wait_in_sync()
    ctl(primary, "campaign", "pause", "spring")
    ctl(primary, "destination", "pause", "Slow.example")
    ctl(standby, "campaign", "pause", "x", code=1)
    ctl(primary, "campaign", "pause", code=2)
    send(primary, "paused-campaign", ["a@sink.example"], "spring")
    send(primary, "paused-domain", ["b@slow.example"])
    send(primary, "free", ["c@sink.example"], "summer")
    arrives(t, "free")
    row = listed(primary, "campaign", "spring")
    expect(row and row["paused"] and row["recipients"] == 1, f"campaign list: {row}")
    row = listed(primary, "destination", "slow.example")
    expect(row and row["paused"] and row["queued"] == 1 and row["why"], f"destination list: {row}")
    expect("spring" in ctl(standby, "campaign", "list"), "the standby knows as well")
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    send(standby, "free-2", ["c@sink.example"])
    send(standby, "paused-campaign-2", ["a@sink.example"], "spring")
    arrives(t, "free-2")
    expect(not arrived(t, "paused-campaign") and not arrived(t, "paused-domain") and
           not arrived(t, "paused-campaign-2"), "what is paused stays paused after a takeover")
    ctl(standby, "campaign", "resume", "spring")
    arrives(t, "paused-campaign")
    arrives(t, "paused-campaign-2")
    ctl(standby, "destination", "resume", "slow.example")
    arrives(t, "paused-domain")
    expect(not listed(standby, "campaign", "spring"), "nothing queued, nothing paused: not listed")
    primary.start()
    t.settle()


@scenario
def orders_pause_at_once(t):
    """A pause under load: but for what is on the wire nothing more goes there."""
    pair = t.begin(rate=200, sessions=5)
    primary, _ = pair.wait_in_sync()
    ctl(primary, "destination", "pause", "sink.example")

    def total():
        return sum(len(x) for x in t.books().delivered.values())
    wait_until("what was under way has ended", lambda: primary.status()["queue"]["queued"] > 50, 20)
    before = total()
    waiting = primary.status()["queue"]["queued"]
    wait_until("more mail waits", lambda: primary.status()["queue"]["queued"] > waiting + 100, 20)
    expect(total() == before, f"{total() - before} were delivered to a paused destination")
    ctl(primary, "destination", "resume", "sink.example")
    t.settle()


@scenario
def orders_suppress(t):
    """Suppressed addresses are never sent to: what is queued ends, what comes ends at once."""
    pair = t.begin(load=False, **SETTINGS)
    primary, standby = pair.wait_in_sync()
    send(primary, "queued", ["defer1@sink.example", "ok@sink.example"])
    arrives(t, "queued")
    wait_until("one is deferred", lambda: primary.status()["queue"]["deferred"] == 1, 10)
    ctl(primary, "suppress", "add", "Defer1@Sink.example")
    wait_until("the queued one ends", lambda: primary.status()["queue"]["messages"] == 0, 10)
    send(primary, "later", ["DEFER1@sink.example", "ok@sink.example"])
    arrives(t, "later")
    wait_until("it is done", lambda: primary.status()["queue"]["messages"] == 0, 10)
    path = os.path.join(t.dir, "addresses")
    with open(path, "w") as f:
        f.write("# complaints\n" + "".join(f"u{i}@far.example\r\n" for i in range(1203)))
    expect("1203 addresses" in ctl(primary, "suppress", "import", path), "import tells how many")
    with open(path, "a") as f:
        f.write("nobody\n")
    expect(f"{path}:1205" in ctl(primary, "suppress", "import", path, code=1), "a mistake has its line")
    expect(len(ctl(standby, "suppress", "list").splitlines()) == 1204, "the standby lists them all")
    ctl(primary, "switchover")
    wait_until("the other is primary", lambda: standby.banner().startswith("220"), 10)
    send(standby, "never", ["u1200@far.example"])
    wait_until("it ends at once", lambda: standby.status()["queue"]["messages"] == 0, 10)
    expect(not arrived(t, "never"), "it was sent")
    ctl(standby, "suppress", "remove", "u1200@far.example")
    send(standby, "again", ["u1200@far.example"])
    arrives(t, "again")
    events = "".join(open(os.path.join(n.dir, "events.jsonl")).read() for n in pair.nodes)
    seen = [json.loads(line)["recipient"] for line in events.splitlines() if '"suppressed"' in line]
    expect(sorted(seen) == sorted(["defer1@sink.example", "DEFER1@sink.example", "u1200@far.example"]),
           f"events: {seen}")
    t.settle()


@scenario
def orders_diverged(t):
    """Paused on one history, resumed on the other: the more restrictive wins (incident 22)."""
    pair = t.begin(load=False, **SETTINGS)
    primary, standby = pair.wait_in_sync()
    ctl(primary, "takeover", "off")
    expect("off" in ctl(standby, "status"), "takeover off is seen on the standby")
    ctl(primary, "takeover", "on")
    standby.kill()
    wait_until("the primary is alone", lambda: primary.status().get("mode") == "solo", 15)
    ctl(primary, "campaign", "pause", "spring")
    ctl(primary, "suppress", "add", "no@sink.example")
    primary.kill()
    standby.start()
    wait_until("it answers", lambda: standby.status(), 10)
    code, out, err = standby.ctl("failover", "--force")
    expect(code != 0 and "mail goes out twice" in err and "that mail is lost" in err
           and "nothing was done" in err, f"without --yes it warns: {code} {out}{err}")
    expect(standby.status()["role"] != "primary", "and does nothing")
    ctl(standby, "failover", "--force", "--yes")
    wait_until("it serves", lambda: standby.banner().startswith("220"), 15)
    ctl(standby, "campaign", "pause", "spring")
    ctl(standby, "campaign", "resume", "spring")
    primary.start()
    pair.wait_in_sync(30)
    row = listed(standby, "campaign", "spring")
    expect(row and row["paused"], f"the pause has won: {row}")
    expect("no@sink.example" in ctl(standby, "suppress", "list"), "so has the suppression")
    send(standby, "held-back", ["a@sink.example"], "spring")
    send(standby, "suppressed", ["no@sink.example"])
    send(standby, "free", ["c@sink.example"])
    arrives(t, "free")
    expect(not arrived(t, "held-back") and not arrived(t, "suppressed"), "orders of both histories hold")
    ctl(standby, "campaign", "resume", "spring")
    arrives(t, "held-back")
    t.settle()
