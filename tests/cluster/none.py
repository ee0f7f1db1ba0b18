"""Without an arbiter: an operator who decides, or probes and a fence command; start --alone."""
import os
import signal
import time

from case import TAKEOVER_AFTER_S, expect, scenario, wait_until

MANUAL = '{ type = "none"; takeover = "manual"; }'
BOTH_ALONE_S = 3  # long enough for both to send


def auto(t, fence=None):
    """Probes ask the witness's machine, which refuses the connection: that is an answer."""
    more = f' fence = "{fence}";' if fence else ""
    return f'{{ type = "none"; takeover = "auto"; probes = [ "{t.place.address("w")}:9" ];{more} }}'


def script(t, text):
    path = os.path.join(t.dir, "fence")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\n{text}\n")
    os.chmod(path, 0o755)
    return path


def stays(what, condition, seconds):
    """The absence of something needs a while to be seen."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        expect(condition(), what)
        time.sleep(0.1)


def not_serving(node):
    return node.role() not in ("promoting", "primary") and not node.banner().startswith("220")


def both_alone(t):
    """Two primaries are what this arbiter can't exclude: what both send counts as theirs."""
    t.disturbances += 1_000_000


@scenario
def none_manual_takeover(t):
    """takeover = "manual": the standby waits and says so; batonctl failover serves; the old one rejoins."""
    pair = t.begin(arbiter=MANUAL)
    primary, standby = pair.wait_in_sync()
    expect(standby.status()["arbiter"]["type"] == "none", "status names the arbiter")
    expect(standby.status()["auto_takeover"] is False, "status says that nobody takes over by himself")
    code, out, err = primary.ctl("start", "--alone")
    expect(code == 1 and "answers" in err, f"start --alone beside a living pair: {code} {out}{err}")
    t.disturbances += 1
    primary.kill()
    wait_until("the standby says what to do", lambda: "batonctl failover" in standby.status().get("why", ""), 10)
    stays("the standby waits for a word", lambda: not_serving(standby), 3)
    code, out, err = standby.ctl("failover")
    expect(code == 0 and "nobody can tell" in out, f"failover: {code} {out}{err}")
    t.flows("mail flows through the new primary", 20)
    primary.start()
    t.settle()
    expect(pair.primary() is standby, "the old primary came back as standby")


@scenario
def none_manual_primary_alone(t):
    """takeover = "manual": the primary goes on without its standby; switchover, restart, both dead."""
    pair = t.begin(arbiter=MANUAL)
    primary, standby = pair.wait_in_sync()
    standby.kill()
    t.flows("mail flows without the standby", 10, 200)
    standby.start()
    primary, standby = pair.wait_in_sync(45)
    code, out, err = standby.ctl("switchover")
    expect(code == 0, f"switchover: {code} {out}{err}")
    primary, standby = pair.wait_in_sync(45)
    t.disturbances += 1
    primary.kill()
    primary.start()
    t.flows("mail flows after the primary's restart", 30)
    t.settle()


@scenario
def none_both_off(t):
    """Both were off: the stale one boots first and waits (incident 26); with its peer all is well."""
    pair = t.begin(arbiter=MANUAL)
    primary, standby = pair.wait_in_sync()
    standby.kill()
    t.flows("mail flows that the standby never sees", 10, 200)
    t.disturbances += 1
    primary.kill()
    standby.start()
    wait_until("the stale one says what to do", lambda: "start --alone" in standby.status().get("why", ""), 10)
    stays("the stale one waits", lambda: not_serving(standby), 4)
    code, out, err = standby.ctl("failover")
    expect(code == 1 and "start --alone" in err, f"failover before any meeting: {code} {out}{err}")
    primary.start()
    t.flows("mail flows once they have met", 30)
    t.settle()
    expect(pair.primary() is primary, "the complete one is primary")


@scenario
def none_start_alone(t):
    """The other is gone: start --alone serves; when it comes back with mail of its own, that merges."""
    pair = t.begin(arbiter=MANUAL)
    primary, standby = pair.wait_in_sync()
    standby.kill()
    t.flows("mail flows that the standby never sees", 10, 200)
    t.disturbances += 1
    primary.kill()
    standby.start()
    wait_until("it waits", lambda: "start --alone" in standby.status().get("why", ""), 10)
    code, out, err = standby.ctl("start", "--alone")
    expect(code == 0, f"start --alone: {code} {out}{err}")
    both_alone(t)  # what the old one sent alone, and the stale one still had
    t.flows("mail flows alone", 20)
    expect(standby.status()["epoch"] > 1000, "far above any epoch that it may not know of")
    primary.start()
    t.settle()
    expect(pair.primary() is standby, "the one that was started alone stays primary")


@scenario
def none_auto_takeover(t):
    """takeover = "auto": killed and frozen primaries are replaced in the promised time."""
    pair = t.begin(arbiter=auto(t))
    for number in (signal.SIGKILL, signal.SIGSTOP):
        primary, standby = pair.wait_in_sync(45)
        wait_until("the probes answer", lambda: standby.status()["arbiter"]["reachable"], 10)
        t.flows("mail flows")
        t.disturbances += 1
        since = time.monotonic()
        primary.signal(number)
        t.takes_over(standby, since)
        primary.signal(signal.SIGCONT)
        if number == signal.SIGKILL:
            primary.kill()
            primary.start()
    t.settle()


@scenario
def none_auto_standby_cut_off(t):
    """The standby's cables are cut, its probes too: it doesn't take over, and the primary goes on."""
    pair = t.begin(arbiter=auto(t))
    primary, standby = pair.wait_in_sync()
    t.place.cut_both(standby.node, "w")  # first: cutting takes a while by itself
    t.place.cut_both(standby.node, primary.node)
    wait_until("the primary goes on alone", lambda: primary.status().get("mode") == "solo", 10)
    wait_until("the standby says why it waits", lambda: "no probe answers" in standby.status().get("why", ""), 10)
    stays("it doesn't take over", lambda: not_serving(standby), 3)
    t.flows("mail flows", 10)
    t.settle()
    expect(pair.primary() is primary, "the primary stayed")


@scenario
def none_auto_primary_cut_off(t):
    """The primary is cut off from both: it is fenced, and the standby takes over."""
    pair = t.begin(arbiter=auto(t))
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    t.place.cut_both(primary.node, "w")
    t.place.cut(standby.node, primary.node)
    t.place.cut(primary.node, standby.node)
    since = time.monotonic()
    t.takes_over(standby, since)
    wait_until("the old one is fenced", lambda: primary.role() == "fenced", 10)
    expect(not primary.banner().startswith("220"), "a fenced node sends clients away")
    expect("no probe answers" in primary.status()["why"], "and says why")
    t.flows("mail flows through the new primary", 20)
    t.settle()
    expect(pair.primary() is standby, "the new primary stayed")


@scenario
def none_auto_both_primary(t):
    """A cut that leaves both their probes: both are primary; healed, one is, and nothing is lost."""
    pair = t.begin(arbiter=auto(t), rate=200)
    primary, standby = pair.wait_in_sync()
    both_alone(t)
    t.place.cut_both(standby.node, primary.node)
    wait_until("both serve", lambda: primary.role() == "primary" and standby.role() == "primary", 15)
    t.flows("mail flows through both", 20, 300)
    stays("both go on", lambda: primary.role() == standby.role() == "primary", BOTH_ALONE_S)
    expect(primary.status()["epoch"] % 2 != standby.status()["epoch"] % 2, "in epochs of their own")
    t.place.heal()
    wait_until("one demotes", lambda: primary.role() != "primary", 10)
    t.settle()
    expect(pair.primary() is standby, "the higher epoch goes on")


@scenario
def none_fence(t):
    """The fence command exits 0: it was run after 2 s more, with the other node's name, and is believed."""
    done = os.path.join(t.dir, "fenced")
    pair = t.begin(arbiter=auto(t, script(t, f'echo "$1 $BATON_PEER $BATON_NODE" >>{done}')))
    primary, standby = pair.wait_in_sync()
    wait_until("the probes answer", lambda: standby.status()["arbiter"]["reachable"], 10)
    t.disturbances += 1
    since = time.monotonic()
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    took = time.monotonic() - since
    expect(took > TAKEOVER_AFTER_S + 2, f"the standby's fence command waits, so that two don't shoot each other: {took}")
    with open(done) as f:
        expect(f.read() == f"fence {primary.node} {standby.node}\n", "what the command was told")
    t.flows("mail flows through the new primary", 20)
    primary.start()
    t.settle()


@scenario
def none_fence_fails(t):
    """A fence command that exits 1 isn't believed: nobody takes over, and the status says why."""
    pair = t.begin(arbiter=auto(t, script(t, "exit 1")))
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    primary.kill()
    wait_until("the standby says why it waits", lambda: "fence command failed" in standby.status().get("why", ""), 15)
    stays("it doesn't take over", lambda: not standby.banner().startswith("220"), 3)
    checks = {c["name"]: c for c in standby.status()["checks"]}
    expect("FAILED" in checks["probes"]["detail"], f"the check tells the last fence command: {checks['probes']}")
    primary.start()
    t.flows("mail flows when the primary is back", 30)
    t.settle()


@scenario
def none_fence_hangs(t):
    """A fence command that hangs is killed at its time limit, and isn't believed; failover still works."""
    pair = t.begin(arbiter=auto(t, script(t, "sleep 600")))
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    primary.kill()
    wait_until("the fence command runs", lambda: "fence command" in standby.status().get("why", ""), 15)
    stays("it isn't believed", lambda: not standby.banner().startswith("220"), 25)
    wait_until("it is killed", lambda: "fence command failed" in standby.status().get("why", ""), 25)
    code, out, err = standby.ctl("failover")
    expect(code == 0, f"an operator may: {code} {out}{err}")
    t.flows("mail flows", 20)
    primary.start()
    t.settle()


@scenario
def none_fence_ended(t):
    """The primary stands still and comes back: the fence command under way doesn't shoot it any more."""
    started, shot = os.path.join(t.dir, "started"), os.path.join(t.dir, "shot")
    pair = t.begin(arbiter=auto(t, script(t, f"echo $$ >{started}.new; mv {started}.new {started}; sleep 25; touch {shot}")))
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    primary.signal(signal.SIGSTOP)
    wait_until("the standby's fence command runs", lambda: os.path.exists(started), 15)
    with open(started) as f:
        command = int(f.read())
    primary.signal(signal.SIGCONT)
    wait_until("it is ended", lambda: not os.path.exists(f"/proc/{command}"), 10)
    expect(not os.path.exists(shot), "before it had shot")
    t.flows("mail flows", 20)
    wait_until("the status says so", lambda: "ended" in {c["name"]: c for c in standby.status()["checks"]}["probes"]["detail"], 5)
    t.settle()
    expect(primary.alive, "nobody shot it")  # it may have voted for the other's takeover when it woke


@scenario
def none_fenced_by_primary(t):
    """The primary's fence command comes first: the standby is off, and no second primary begins."""
    done = os.path.join(t.dir, "fenced")
    fence = script(t, f'echo "$BATON_NODE" >>{done}; [ -f {t.dir}/$BATON_PEER.pid ] && kill -9 $(cat {t.dir}/$BATON_PEER.pid)')
    pair = t.begin(arbiter=auto(t, fence))
    primary, standby = pair.wait_in_sync()
    for n in pair.nodes:
        with open(f"{t.dir}/{n.node}.pid", "w") as f:
            f.write(str(n.child.pid))
    t.place.cut_both(standby.node, primary.node)
    wait_until("the standby is off", lambda: not standby.alive, 15)
    t.flows("mail flows through the primary", 20)
    with open(done) as f:
        expect(f.read() == f"{primary.node}\n", "only the primary shot")
    t.place.heal()
    standby.start()
    t.settle()
    expect(pair.primary() is primary, "the primary stayed")


@scenario
def none_bootstrap(t):
    """One virgin node alone waits for bootstrap; the other joins later, in the same history."""
    pair = t.begin(start=False, arbiter=MANUAL)
    pair.a.start()
    wait_until("it says what to do", lambda: "bootstrap" in pair.a.status().get("why", ""), 15)
    stays("it waits", lambda: not_serving(pair.a), 2)
    code, out, err = pair.a.ctl("start", "--alone")
    expect(code == 1 and "bootstrap" in err, f"start --alone of a virgin: {code} {out}{err}")
    code, out, err = pair.a.ctl("bootstrap")
    expect(code == 0, f"bootstrap: {code} {out}{err}")
    wait_until("it serves", lambda: pair.a.banner().startswith("220"), 15)
    t.load()
    pair.b.start()
    t.settle()
