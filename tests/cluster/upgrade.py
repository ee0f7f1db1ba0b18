"""From one release to the next, one machine after the other, while mail flows.

The next release is this one with the number of its formats raised (node/base/protocol.h): it writes its
own number into files, and to others what both read, so whatever of the new number reached a program of
the old one would be turned away by it.
"""
import sqlite3
import subprocess

from case import expect, scenario, wait_until
from pair import BUILD, TOP

NEXT = BUILD + "-next"
OLD, NEW = 1, 2


def build_next():
    """Before any scenario begins: their time is limited."""
    log = NEXT + ".log"
    with open(log, "w") as f:
        for command in (["cmake", "-S", TOP, "-B", NEXT, "-G", "Ninja", f"-DBATON_PROTOCOL={NEW}", "-DBATON_TESTS=OFF"],
                        ["cmake", "--build", NEXT]):
            r = subprocess.run(command, stdout=f, stderr=f, timeout=900)
            expect(r.returncode == 0, f"the build of the next release failed, see {log}")


def schema(node):
    db = sqlite3.connect(f"file:{node.store}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        db.close()


def upgrade(t, node):
    """As an operator does it with the standby: stop, install, start, wait until it is in sync."""
    expect(node.stop() == 0, f"node {node.node} stops cleanly")
    node.install(NEXT)
    node.start()
    t.pair.wait_in_sync(30)
    expect(schema(node) == NEW, "its store is upgraded")


def switch(t):
    primary, standby = t.pair.wait_in_sync(30)
    code, out, err = standby.ctl("switchover")
    expect(code == 0, f"switchover: {out}{err}")
    t.disturbances += 1
    wait_until("the other one is primary", lambda: t.pair.in_sync() == (standby, primary), 30, 0.05)
    t.flows(f"mail flows through {standby.node}")
    return standby


@scenario
def rolling_upgrade(t):
    """Witness, standby, switchover, the other one; then a kill with old and new at work together."""
    pair = t.begin()
    expect(schema(pair.a) == OLD and schema(pair.b) == OLD, "both begin with the old release")
    pair.witness.stop()
    pair.witness.install(NEXT)
    pair.witness.start()
    primary, standby = pair.wait_in_sync()
    upgrade(t, standby)
    t.flows("an old primary feeds a new standby")
    new = switch(t)
    t.flows("a new primary feeds an old standby")
    # The new primary dies: the old one takes over, and gets what only the new one has in its own form.
    t.disturbances += 1
    new.kill()
    wait_until("the old release takes over", lambda: pair.primary() is pair.other(new), 20, 0.05)
    t.flows("mail flows again")
    new.start()
    pair.wait_in_sync(30)
    expect(switch(t) is new, "the new release is primary again")
    upgrade(t, pair.other(new))
    t.settle()


@scenario
def no_way_back_to_an_older_release(t):
    """A store that was upgraded is left alone by the release before, with the remedy."""
    pair = t.begin(names="a", load=False)
    expect(pair.a.stop() == 0, "clean stop")
    pair.a.install(NEXT)
    pair.a.start()
    wait_until("the new release serves", pair.primary, 20)
    expect(pair.a.stop() == 0, "clean stop")
    pair.a.install(BUILD)
    r = subprocess.run(pair.a.command, capture_output=True, text=True, timeout=20)
    expect(r.returncode == 1 and f"schema version {NEW}" in r.stderr and "install" in r.stderr,
           f"it says what to do:\n{r.stderr[-500:]}")
    expect(schema(pair.a) == NEW, "the store is left alone")
    pair.a.install(NEXT)
    pair.a.start()
    t.load(messages=20)
    t.settle()
