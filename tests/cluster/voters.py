"""Who may serve with which votes; planned changes; stores that lost something."""
import os
import shutil
import time

from books import count_lines
from case import CONNECTIONS, expect, read_store, scenario, wait_until


@scenario
def switchover(t):
    """Planned changes under load, asked for on either node: nothing doubled."""
    pair = t.begin(rate=300, sessions=10)
    for i in range(t.rounds * 2):
        primary, standby = pair.wait_in_sync(45)
        code, out, err = (primary if i % 2 else standby).ctl("switchover")
        expect(code == 0, f"switchover: exit {code} {out}{err}")
        wait_until("the standby is primary", lambda: standby.role() == "primary", 10)
        t.flows("mail flows through the new primary", 20)
    t.settle()


@scenario
def clean_stop_hands_over(t):
    """SIGTERM of a primary with a standby in sync hands over first, and exits 0."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    code = primary.stop(20)
    expect(code == 0, f"batond ended with {code}")
    wait_until("the standby serves", lambda: standby.banner().startswith("220"), 5)
    t.flows("mail flows through the new primary", 20)
    primary.start()
    t.settle()


@scenario
def clean_stop_answers(t):
    """SIGTERM of a node that serves alone: whoever's mail it has stored gets a 250, and doesn't send it again."""
    pair = t.begin(names="a", load=False, disks="a")
    pair.a.disk.slow(30)  # so that some of it waits for its commit at any moment, and for nothing else
    expect(pair.a.ctl("destination", "pause", "sink.example")[0] == 0, "deliveries are paused")
    load = t.load(sessions=30)
    for _ in range(t.rounds + 2):
        t.flows("mail flows")
        code = pair.a.stop(20)
        expect(code == 0, f"batond ended with {code}")
        stored = len(read_store(pair.a.store)["message"])
        wait_until(f"each of {stored} stored messages was answered",
                   lambda: count_lines(load.journal, "A") == stored, 5)
        pair.a.start()
        wait_until("the node serves", pair.primary, 20)
    expect(pair.a.ctl("destination", "resume", "sink.example")[0] == 0, "deliveries go on")
    t.settle()


@scenario
def witness_down(t):
    """With the witness down: mail flows, a switchover works, the primary's restart works."""
    pair = t.begin()
    pair.witness.kill()
    t.flows("mail flows without the witness", 10, 200)
    primary, standby = pair.wait_in_sync(10)
    code, out, err = primary.ctl("switchover")
    expect(code == 0, f"switchover without the witness: exit {code} {out}{err}")
    primary, standby = pair.wait_in_sync(30)
    t.flows("mail flows after the switchover", 20)
    t.disturbances += 1
    primary.kill()
    primary.start()
    pair.wait_in_sync(45)
    t.flows("mail flows after the restart", 20)
    t.settle()


@scenario
def standby_and_witness_lost_at_once(t):
    """A paired primary that loses both fences itself and says why; with one of them it goes on."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    standby.kill()
    pair.witness.kill()
    wait_until("the primary is fenced", lambda: primary.role() == "fenced", 10)
    wait_until("clients are sent away", lambda: primary.banner().startswith("421"), 5)
    expect(primary.status().get("why"), "a fenced node says why")
    expect((primary.get("/primary") or [0])[0] == 503, "/primary is 503 while fenced")
    time.sleep(2)  # the absence of a takeover needs some time to be seen
    expect(primary.role() == "fenced", "it stays fenced alone")
    pair.witness.start()
    wait_until("it serves with the witness", lambda: primary.banner().startswith("220"), 20)
    t.flows("mail flows solo", 20)
    standby.start()
    t.settle()


@scenario
def solo_goes_on_without_witness(t):
    """A primary that was solo before needs nobody's vote to go on."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    standby.kill()
    wait_until("the primary is solo", lambda: primary.status().get("mode") == "solo", 10)
    pair.witness.kill()
    t.flows("mail flows alone", 10, 300)
    expect(primary.role() == "primary", "it stays primary")
    pair.witness.start()
    standby.start()
    t.settle()


@scenario
def emptied_standby(t):
    """A standby with a new disk is copied in full, and never promoted before that is done."""
    pair = t.begin(rate=300)
    for _ in range(t.rounds):
        primary, standby = pair.wait_in_sync(45)
        t.flows("mail flows", messages=200)
        standby.kill()
        standby.empty_disk()
        t.flows("mail flows without a standby", 10)
        standby.start()
        t.flows("mail flows while it is copied", 10)
        expect(pair.wait_in_sync(60)[0] is primary, "the primary stays primary")
    t.settle()


@scenario
def emptied_standby_is_not_promoted(t):
    """The primary dies while an emptied standby isn't in sync: nobody serves until it is back."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    standby.kill()
    wait_until("the primary is solo", lambda: primary.status().get("mode") == "solo", 10)
    t.flows("mail flows solo", 10, 100)
    t.disturbances += 1
    primary.kill()
    standby.empty_disk()
    standby.start()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        expect(standby.role() != "primary" and not standby.banner().startswith("220"),
               "an emptied store must not be promoted")
        time.sleep(0.05)
    primary.start()
    wait_until("the primary serves again", lambda: primary.banner().startswith("220"), 20)
    t.settle()


@scenario
def emptied_primary(t):
    """The primary dies with its disk; its successor copies it in full."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    t.flows("mail flows", messages=100)
    at = time.monotonic()
    t.disturbances += 1
    primary.kill()
    primary.empty_disk()
    primary.start()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    t.notes.append(f"takeover from an emptied primary {time.monotonic() - at:.1f} s")
    t.settle()
    expect(pair.in_sync()[0] is standby, "the emptied node is the standby")


@scenario
def older_store_put_back(t):
    """A standby whose store is an older copy has lost what it acknowledged: copied, not promoted."""
    pair = t.begin()
    primary, standby = pair.wait_in_sync()
    t.flows("mail flows", messages=50)
    standby.stop()
    base = os.path.basename(standby.store)
    files = [f for f in os.listdir(standby.dir) if f.startswith(base) and ".voter" not in f]
    for f in files:
        shutil.copy(os.path.join(standby.dir, f), os.path.join(standby.dir, "old-" + f))
    standby.start()
    expect(pair.wait_in_sync(45)[0] is primary, "the primary stays primary")
    t.flows("mail flows", messages=100)
    standby.kill()
    for f in os.listdir(standby.dir):
        if f.startswith(base) and ".voter" not in f:
            os.unlink(os.path.join(standby.dir, f))
    for f in files:
        os.rename(os.path.join(standby.dir, "old-" + f), os.path.join(standby.dir, f))
    standby.start()
    expect(pair.wait_in_sync(60)[0] is primary, "the primary stays primary")
    t.settle()


@scenario
def both_killed(t):
    """Both nodes die at once, and the witness too: all three back, nothing lost."""
    pair = t.begin()
    for _ in range(t.rounds):
        pair.wait_in_sync(45)
        t.flows("mail flows")
        t.disturbances += 1
        for p in (*pair.nodes, pair.witness):
            p.kill()
        for p in (pair.witness, *pair.nodes):
            p.start()
        pair.wait_in_sync(60)
    t.settle()


@scenario
def slow_sink_and_greylisting(t):
    """Final dots that stay open for long when the primary dies are those in doubt, and no more."""
    pair = t.begin(rate=100, sink=("--delay-ms", "50", "--defer", "10"))
    for _ in range(t.rounds):
        primary, standby = pair.wait_in_sync(45)
        t.flows("mail flows", messages=100)
        t.disturbances += 1
        primary.kill()
        wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
        primary.start()
    t.settle()
    expect(t.books().most_connections <= 2 * CONNECTIONS, "the limit of connections is kept")


@scenario
def large_messages(t):
    """Bodies in many pieces, through a takeover."""
    pair = t.begin(load=False)
    load = t.load(messages=60, size=1_500_000, sessions=4)
    primary, standby = pair.wait_in_sync()
    t.flows("large mail flows", 30, 10)
    t.disturbances += 1
    primary.kill()
    wait_until("the standby takes over", lambda: standby.banner().startswith("220"), 20)
    primary.start()
    wait_until("all is accepted", lambda: not load.alive, 90, 0.1)
    t.settle()


@scenario
def single_node(t):
    """One node alone serves without waiting for anyone, and finds its queue again after SIGKILL."""
    pair = t.begin(names="a")
    for _ in range(t.rounds):
        t.flows("mail flows")
        t.disturbances += 1
        pair.a.kill()
        pair.a.start()
        wait_until("the node serves", pair.primary, 20)
    t.settle()
