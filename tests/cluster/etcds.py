"""With etcd as the arbiter: takeovers, servers that stop, hang or are dead, an etcd that lost what it held."""
import os
import signal
import time

from case import expect, scenario, wait_until
from etcd import Etcd

HANGS_S = 4  # longer than a lease, a takeover and an operation on the register


def begin(t, n=3, more=(), **options):
    t.etcd = Etcd(os.path.join(t.dir, "etcd"), t.place, n)
    t.etcd.more = [*more]
    t.ends.append(t.etcd.close)
    t.etcd.start()
    return t.begin(arbiter=t.etcd.arbiter, **options)


def arbiter_check(node):
    return next((c for c in node.status().get("checks", []) if c["name"] == "arbiter"), {})


def logged(node, what):
    with open(node.log, errors="replace") as f:
        return f.read().count(what)


def stays(what, condition, seconds):
    """The absence of something needs a while to be seen."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        expect(condition(), what)
        time.sleep(0.1)


@scenario
def etcd_takeover(t):
    """kill -9 of the primary, a restart, a switchover: as with the witness."""
    pair = begin(t)
    for _ in range(t.rounds):
        primary, standby = pair.wait_in_sync(45)
        said = primary.status()["arbiter"]
        expect(said["type"] == "etcd" and said["reachable"], f"status names the arbiter: {said}")
        expect("answers" in arbiter_check(primary)["detail"], "a check names the endpoint")
        t.disturbances += 1
        since = time.monotonic()
        primary.kill()
        t.takes_over(standby, since)
        t.flows("mail flows through the new primary", 20)
        primary.start()
        pair.wait_in_sync(45)
    code, out, err = standby.ctl("switchover")
    expect(code == 0, f"switchover: {code} {out}{err}")
    t.settle()


@scenario
def etcd_one_then_two_servers_stop(t):
    """One of three away: all works. Two away: nothing changes hands, who serves goes on; back: all is well."""
    pair = begin(t)
    primary, standby = pair.wait_in_sync()
    t.etcd.servers[0].kill()
    wait_until("etcd has a leader", t.etcd.servers[1].healthy, 20, 0.2)
    t.flows("mail flows with two servers", 5)
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 10)
    primary.start()
    primary, standby = pair.wait_in_sync(45)
    t.etcd.servers[1].kill()
    wait_until("the check says so", lambda: arbiter_check(primary).get("ok") is False, 15)
    expect("http://" in arbiter_check(primary)["detail"], f"and names the endpoint: {arbiter_check(primary)}")
    t.flows("mail flows, paired, without etcd", 5, 200)
    code, out, err = primary.ctl("switchover", timeout=40)
    expect(code == 1, f"a switchover without etcd: {code} {out}{err}")
    wait_until("the primary serves again, or waits for etcd", lambda: primary.role() in ("primary", "starting"), 20)
    t.disturbances += 1
    primary.kill()
    stays("nobody takes over without etcd", lambda: not standby.banner().startswith("220"), HANGS_S)
    for s in t.etcd.servers[:2]:
        s.start()
    wait_until("somebody serves once etcd is back", pair.primary, 20)
    t.flows("mail flows again", 20)
    t.settle()


@scenario
def etcd_hangs(t):
    """All three frozen: mail flows, nothing changes hands. One frozen, the leader at times: a takeover works."""
    pair = begin(t)
    primary, standby = pair.wait_in_sync()
    epoch = primary.status()["epoch"]
    for s in t.etcd.servers:
        s.signal(signal.SIGSTOP)
    until = time.monotonic() + HANGS_S
    while time.monotonic() < until:
        t.flows("mail flows while etcd hangs", 5)
    for s in t.etcd.servers:
        s.signal(signal.SIGCONT)
    expect(primary.status()["epoch"] == epoch, "nothing changed hands")
    expect(pair.in_sync(), "both are in sync all the while")
    for s in t.etcd.servers:
        primary, standby = pair.wait_in_sync(45)
        s.signal(signal.SIGSTOP)
        t.disturbances += 1
        primary.kill()
        wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 15)
        s.signal(signal.SIGCONT)
        primary.start()
    t.settle()


@scenario
def etcd_endpoints_dead_from_the_start(t):
    """One endpoint refuses, one is a black hole: the third is found, remembered, and a takeover is as quick."""
    refuses, black_hole = f"http://{t.place.address('w')}:9", "http://10.77.0.200:2379"
    pair = begin(t, n=1, more=[black_hole, refuses])
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    since = time.monotonic()
    primary.kill()
    t.takes_over(standby, since)
    primary.start()
    t.settle()


def lost(t, lose):
    """Under a pair in sync, then under a primary alone; a takeover works afterwards."""
    pair = t.pair
    primary, standby = pair.wait_in_sync(45)
    before = logged(primary, "has lost the record") + logged(standby, "has lost the record")
    lose()
    t.flows("mail flows", 10)
    wait_until("it is noticed", lambda: logged(primary, "has lost the record")
               + logged(standby, "has lost the record") > before, 10)
    wait_until("the record is given back", lambda: arbiter_check(primary).get("ok")
               and arbiter_check(standby).get("ok"), 20)
    expect(primary.role() == "primary", "who serves goes on")
    standby.kill()
    wait_until("the primary serves alone", lambda: primary.status().get("mode") == "solo", 15)
    lose()
    t.flows("mail flows", 10)
    wait_until("the record is given back", lambda: arbiter_check(primary).get("ok"), 20)
    t.flows("mail flows, alone", 10)
    standby.start()
    primary, standby = pair.wait_in_sync(45)
    t.disturbances += 1
    since = time.monotonic()
    primary.kill()
    t.takes_over(standby, since)
    primary.start()
    t.settle()


@scenario
def etcd_restored_from_a_backup(t):
    """A backup that names the other node primary is noticed and not followed; nothing is lost."""
    pair = begin(t)
    primary, standby = pair.wait_in_sync()
    backup = t.etcd.backup()
    code, out, err = primary.ctl("switchover")
    expect(code == 0, f"switchover: {code} {out}{err}")
    pair.wait_in_sync(45)
    lost(t, lambda: t.etcd.restore(backup))


@scenario
def etcd_emptied(t):
    """An etcd that holds nothing any more is no new pair."""
    begin(t)
    lost(t, t.etcd.empty)


@scenario
def etcd_emptied_while_nobody_serves(t):
    """Both nodes start into an empty etcd: what each has seen tells them which of both goes on."""
    pair = begin(t)
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    for n in pair.nodes:
        n.kill()
    t.etcd.empty()
    standby.start()
    stays("one alone doesn't serve", lambda: not standby.banner().startswith("220"), 3)
    expect("failover --force" in standby.status().get("why", ""), f"it says why: {standby.status().get('why')}")
    primary.start()
    wait_until("the primary serves again", pair.primary, 20)
    t.settle()
