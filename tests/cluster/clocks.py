"""Wall clocks that are wrong by days: nothing expires, nothing is lost, and somebody is told."""
from case import expect, scenario, wait_until

DAY = 86400


def clock_check(node):
    return {c["name"]: c for c in node.status().get("checks", [])}.get("clock", {"ok": True})


@scenario
def clock_ahead_at_takeover(t):
    """Incident 27: the standby's clock is six days ahead, half of the queue has been tried; it takes over, and
    nothing bounces."""
    pair = t.begin(clocks="ab", sink=("--defer", "1"), rate=60,
                   delivery='{ connections = 50; retry = [ "3s", "3s", "3s" ]; expire = "1d"; }')
    primary, standby = pair.wait_in_sync()
    standby.stop()
    standby.clock.shift(6 * DAY)
    standby.start()
    primary, standby = pair.wait_in_sync(45)
    wait_until("both say that the clocks differ", lambda: all(not clock_check(n)["ok"] for n in pair.nodes), 10)
    t.flows("mail flows", messages=100)
    t.disturbances += 1
    primary, standby = pair.wait_in_sync(45)
    primary.kill()
    wait_until("it takes over", lambda: standby.banner().startswith("220"), 20)
    primary.start()
    t.settle()
    expect("expired" not in open(f"{standby.dir}/events.jsonl").read(), "nothing has expired")


@scenario
def clock_jumps(t):
    """The primary's clock jumps while it runs, days ahead and back: no takeover, nothing expires, no lease ends."""
    pair = t.begin(clocks="ab")
    primary, standby = pair.wait_in_sync()
    for shift in (3 * DAY, -3 * DAY, 0)[:t.rounds + 1]:
        primary.clock.shift(shift)
        wait_until("the other one sees it", lambda: clock_check(standby)["ok"] == (shift == 0), 10)
        t.flows("mail flows", 10, 100)
        expect(pair.wait_in_sync(20) == (primary, standby), "nothing changes hands")
    primary.clock.shift(0)
    for n in pair.nodes:
        expect('"expired"' not in open(f"{n.dir}/events.jsonl").read(), "nothing has expired")
        expect(not n.status()["takeovers"], "nobody took over")
    t.settle()


@scenario
def clock_put_off(t):
    """What the node with the wrong clock has put off doesn't wait for that clock's time when the other is primary."""
    pair = t.begin(clocks="ab", load=False, sink=("--defer", "1"),
                   delivery='{ connections = 50; retry = [ "1h", "1h" ]; }')
    primary, standby = pair.wait_in_sync()
    standby.stop()
    standby.clock.shift(6 * DAY)
    standby.start()
    pair.wait_in_sync(45)
    expect(primary.ctl("switchover")[0] == 0, "the node whose clock is ahead becomes primary")
    pair.wait_in_sync(45)
    pair.start_load(messages=20, rate=50)
    wait_until("all of it has been tried", lambda: standby.status()["queue"]["deferred"] == 20, 20)
    expect(standby.ctl("switchover")[0] == 0, "the other one again")
    t.delivered(30)
