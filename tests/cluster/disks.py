"""Power loss, and disks that are slow, hang, fail or are full. What was not flushed is really gone here,
and a full disk is a small filesystem of its own."""
import os
import signal
import time

from case import expect, fill, scenario, unfill, wait_until

STALL_TIMEOUT_S = 1.0


def some(t):
    """All that was not flushed is gone, or of each file a first part of it got there."""
    return None if t.rng.random() < 0.5 else t.rng.getrandbits(32)


def pause(t, seconds=0.4):
    """A random moment under load."""
    time.sleep(t.rng.uniform(0, seconds))


def disks_of_any_kind(t, pair):
    """A quick disk's flushes are waited for; beside a slow one's the next group of changes is put together."""
    for n in pair.nodes:
        n.disk.slow(t.rng.choice([0, 3]))


# --- power ---


@scenario
def power_loss_primary(t):
    """The primary loses power at random moments: the standby has all that was acknowledged."""
    pair = t.begin(rate=300, sessions=10, disks="ab")
    for i in range(t.rounds):
        primary, standby = pair.wait_in_sync(45)
        disks_of_any_kind(t, pair)
        t.flows("mail flows")
        pause(t)
        at = time.monotonic()
        t.disturbances += 1
        primary.lose_power(some(t))
        if i % 2:
            primary.start()  # back before the standby has noticed: it must not go on where it was
            t.flows("mail flows, whoever serves", 20, 100)
        else:
            t.takes_over(standby, at)
            primary.start()
    t.settle()


@scenario
def power_loss_standby(t):
    """The standby loses power: what it acknowledged is there when it is back."""
    pair = t.begin(rate=300, sessions=10, disks="ab")
    for i in range(t.rounds):
        primary, standby = pair.wait_in_sync(45)
        disks_of_any_kind(t, pair)
        t.flows("mail flows")
        pause(t)
        if i % 2:
            standby.kill()  # a kill flushes nothing, and what it left isn't on the disk yet
            standby.start()
            pair.wait_in_sync(45)
        standby.lose_power(some(t))
        standby.start()
        expect(pair.wait_in_sync(45)[0] is primary, "the primary stays primary")
    # What the standby holds now is all that there is.
    t.flows("mail flows")
    t.disturbances += 1
    primary.kill()
    primary.empty_disk()
    primary.start()
    t.settle()


@scenario
def power_loss_both(t):
    """Both lose power, at once or one after the other, the witness as well at times."""
    pair = t.begin(rate=300, sessions=10, disks="abw")
    for _ in range(t.rounds):
        pair.wait_in_sync(60)
        disks_of_any_kind(t, pair)
        t.flows("mail flows")
        pause(t)
        t.disturbances += 2
        order = list(pair.nodes)
        t.rng.shuffle(order)
        order[0].lose_power(some(t))
        pause(t, t.rng.choice([0, 3]))
        order[1].lose_power(some(t))
        if t.rng.random() < 0.5:
            pair.witness.lose_power(some(t))
            pair.witness.start()
        t.rng.shuffle(order)
        for n in order:
            n.start()
            pause(t)
        pair.wait_in_sync(60)
    t.settle()


@scenario
def power_loss_witness(t):
    """The witness keeps what it promised: it loses power in the middle of changes of the record."""
    pair = t.begin(disks="w")
    for _ in range(t.rounds):
        primary, standby = pair.wait_in_sync(60)
        t.flows("mail flows")
        t.disturbances += 1
        primary.kill()
        time.sleep(t.rng.uniform(0.9, 1.3))  # the change is under way at about then
        pair.witness.lose_power(some(t))
        pair.witness.start()
        primary.start()
        pair.wait_in_sync(60)
    t.settle()


@scenario
def power_loss_alone(t):
    """A single node: nothing that it acknowledged is lost."""
    pair = t.begin(names="a", rate=300, disks="a")
    for _ in range(t.rounds * 2):
        disks_of_any_kind(t, pair)
        t.flows("mail flows")
        pause(t)
        t.disturbances += 1
        pair.a.lose_power(some(t))
        pair.a.start()
        wait_until("the node serves", pair.primary, 20)
    t.settle()


def logs_begun(node):
    """How often SQLite's log was begun anew: it counts that in its head."""
    with open(node.store + "-wal", "rb") as f:
        head = f.read(16)
    return int.from_bytes(head[12:16], "big") if len(head) == 16 else 0


@scenario
def power_loss_as_the_log_moves(t):
    """A single node under large mail: its log is moved into the database all the time, unflushed, and begun anew."""
    pair = t.begin(names="a", load=False, disks="a")
    t.load(rate=250, sessions=10, size=150_000)
    gone = 0
    for i in range(t.rounds):
        if i % 2:  # for the first time by the start
            begun = logs_begun(pair.a)
            wait_until("the log is begun anew twice", lambda: logs_begun(pair.a) > begun + 1, 60)
        wait_until("much of the database isn't flushed", lambda: os.path.getsize(pair.a.disk.journal) > 16 << 20, 30)
        pause(t)
        t.disturbances += 1
        gone = max(gone, pair.a.lose_power(some(t)))
        pair.a.start()
        wait_until("the node serves", pair.primary, 20)
        t.flows("mail flows")
    expect(gone > 100, f"at most {gone} changes were forgotten: no moved pages among them")
    t.settle()


# --- a disk that hangs ---


def primary_hangs(t, pair):
    """The primary's disk hangs and the standby has taken over; returns the hanging one."""
    primary, standby = pair.wait_in_sync(60)
    t.flows("mail flows")
    at = time.monotonic()
    t.disturbances += 1
    primary.disk.stall()
    t.takes_over(standby, at, more=STALL_TIMEOUT_S)
    return primary


@scenario
def primary_disk_stalls(t):
    """The primary's disk hangs: it gives up its role, the standby takes over in the promised time."""
    pair = t.begin(disks="ab")
    for _ in range(t.rounds):
        primary = primary_hangs(t, pair)
        t.flows("mail flows through the new primary", 20)
        expect(not primary.banner().startswith("220"), "with a hanging disk it greets no clients")
        primary.disk.heal()
        pair.wait_in_sync(60)
    t.settle()


@scenario
def second_signal_and_a_hung_disk(t):
    """A stop waits for the disk, which hangs; a second signal doesn't."""
    pair = t.begin(disks="ab")
    primary = primary_hangs(t, pair)
    primary.signal(signal.SIGTERM)
    wait_until("it has heard", lambda: "signal=15" in primary.tail(200), 10)
    expect(primary.alive, "it waits for its disk")
    primary.signal(signal.SIGTERM)
    code = primary.child.wait(10)
    expect(code == 1 and "second signal" in primary.tail(200), f"ended at once, and says so: {code}")
    primary.disk.heal()
    primary.start()
    pair.wait_in_sync(60)
    t.settle()


@scenario
def standby_disk_stalls(t):
    """The standby's disk hangs: it is dropped, mail flows, and it is taken back later."""
    pair = t.begin(disks="ab")
    for _ in range(t.rounds):
        primary, standby = pair.wait_in_sync(60)
        standby.disk.stall()
        t.flows("mail flows beside a hanging standby", 10)
        expect(primary.status().get("mode") == "solo", "it is dropped")
        standby.disk.heal()
        expect(pair.wait_in_sync(60)[0] is primary, "the primary stays primary")
    t.settle()


@scenario
def both_disks_slow(t):
    """Flushes of 60 ms on both: slow, no more. Nobody is dropped, nobody gives up."""
    pair = t.begin(disks="ab")
    primary, standby = pair.wait_in_sync()
    for n in pair.nodes:
        n.disk.slow(60)
    t.flows("mail flows on slow disks", 20, 300)
    expect(pair.in_sync() == (primary, standby), "nothing changes hands")
    expect(primary.status()["takeovers"] == [], "nobody took over")
    t.settle()


# --- a disk that fails ---


def failing(name, doc, who, fault):
    """One failure, then the disk is well again: the node gives up its role, and stays out until restarted."""
    def run(t):
        pair = t.begin(disks="ab")
        primary, standby = pair.wait_in_sync(60)
        t.flows("mail flows")
        hurt, other = (primary, standby) if who == "primary" else (standby, primary)
        at = time.monotonic()
        t.disturbances += 1
        fault(hurt.disk)
        if who == "primary":
            t.takes_over(standby, at)
        t.flows("mail flows", 10, 100)
        expect(hurt.disk.count("failed") > 0, "the fault was met")
        expect(hurt.role() not in ("primary", "standby"), f"a failed store does nothing, not {hurt.role()}")
        checks = {c["name"]: c for c in hurt.status()["checks"]}
        expect(not checks["storage"]["ok"], f"the checks name it: {checks['storage']}")
        expect((hurt.get("/readyz") or [0])[0] == 503, "/readyz is 503")
        time.sleep(1)  # the absence of a come-back needs a while to be seen
        expect(hurt.role() not in ("primary", "standby"), "not before a restart")
        hurt.lose_power(some(t))
        hurt.start()
        expect(pair.wait_in_sync(60)[0] is other, "the other one is primary")
        t.settle()
    run.__name__, run.__doc__ = name, doc
    return scenario(run)


failing("primary_write_fails", "A write of the primary fails (EIO).", "primary", lambda d: d.fail_writes(1))
failing("primary_flush_fails", "An fsync of the primary fails.", "primary", lambda d: d.fail_flushes(1))
failing("standby_write_fails", "A write of the standby fails (EIO).", "standby", lambda d: d.fail_writes(1))
failing("standby_flush_fails", "An fsync of the standby fails.", "standby", lambda d: d.fail_flushes(1))


# --- a disk that is full ---

RESERVE = 32 << 20
SMALL = {"small": 96, "queue": '{ disk_reserve = "32MiB"; }'}


def refuses(t, node):
    """New mail gets 452, and what is queued is delivered."""
    before = len(t.books().accepted)
    wait_until("new mail is refused", lambda: (node.get("/primary") or [0])[0] == 503, 5)
    refused = t.books().refused
    wait_until("clients get a 452", lambda: t.books().refused > refused, 10)
    wait_until("the queue is delivered", lambda: not t.books().lost(), 20, 0.2)
    expect(node.role() == "primary", f"it stays primary, not {node.role()}")
    expect(not {c["name"]: c for c in node.status()["checks"]}["disk"]["ok"], "the checks name it")
    return before


@scenario
def disk_reserve_primary(t):
    """The primary's disk is below its reserve: 452 to new mail, delivering goes on, and it recovers."""
    pair = t.begin(**SMALL)
    primary, _ = pair.wait_in_sync()
    t.flows("mail flows")
    fill(primary.dir, RESERVE * 3 // 4)
    refuses(t, primary)
    unfill(primary.dir)
    t.flows("mail flows again", 10)
    expect(pair.wait_in_sync(10)[0] is primary, "nothing changed hands")
    t.settle()


@scenario
def disk_reserve_both(t):
    """Both disks are below their reserve, as equal queues make likely (incident 28): nobody gives up."""
    pair = t.begin(**SMALL)
    primary, _ = pair.wait_in_sync()
    t.flows("mail flows")
    for n in pair.nodes:
        fill(n.dir, RESERVE * 3 // 4)
    refuses(t, primary)
    for n in pair.nodes:
        unfill(n.dir)
    t.flows("mail flows again", 10)
    expect(pair.wait_in_sync(10)[0] is primary, "nothing changed hands")
    t.settle()


def full_to_the_brim(name, doc, who):
    def run(t):
        pair = t.begin(**SMALL)
        primary, standby = pair.wait_in_sync()
        t.flows("mail flows")
        full = {"primary": [primary], "standby": [standby], "both": [primary, standby]}[who]
        t.disturbances += 2
        for n in full:
            fill(n.dir)
        # Of two full ones the second may not get as far as serving: its vote can't be written.
        stuck = ("fenced", "promoting") if who == "both" else ("fenced",)
        for n in full:
            wait_until(f"{n.node} gives up its role", lambda: n.role() in stuck, 10)
        if who != "both":
            t.flows("mail flows through the one that has space", 20, 300)
        for n in full:
            expect(n.alive, "it waits for space")
            unfill(n.dir)
        for n in full:  # as a supervisor does
            wait_until(f"{n.node} ends, to be started anew, or goes on",
                       lambda: not n.alive or n.role() == "primary", 10)
            if n.alive and who == "both":
                continue
            expect(n.child.returncode == 75, f"with 75, not {n.child.returncode}")
            n.start()
        t.flows("mail flows again", 20)
        t.settle()
    run.__name__, run.__doc__ = name, doc
    return scenario(run)


full_to_the_brim("disk_full_primary", "Not a byte is left on the primary's disk.", "primary")
full_to_the_brim("disk_full_standby", "Not a byte is left on the standby's disk.", "standby")
full_to_the_brim("disk_full_both", "Not a byte is left on either disk, then there is space again.", "both")


def taken(now, before):
    return len(now.accepted) > len(before.accepted) + 300 or (now.refused > before.refused and not now.lost())


@scenario
def disk_full_with_a_long_log(t):
    """Not a byte is left, and much of the database isn't flushed: the log is cut and makes room, or the other takes over,
    or new mail gets 452 while what is queued goes out."""
    pair = t.begin(small=800, load=False)
    primary, _ = pair.wait_in_sync()
    t.load(rate=200, sessions=10, size=150_000)
    for _ in range(t.rounds):
        wait_until("the log is long", lambda: os.path.getsize(primary.store + "-wal") > 48 << 20, 60)
        t.disturbances += 2
        before = t.books()
        fill(primary.dir)
        wait_until("mail flows, or is refused and all of it delivered", lambda: taken(t.books(), before), 30, 0.2)
        unfill(primary.dir)
        wait_until("it ends, to be started anew, or goes on", lambda: not primary.alive or primary.role() == "primary", 10)
        if not primary.alive:
            expect(primary.child.returncode == 75, f"with 75, not {primary.child.returncode}")
            primary.start()
        pair.wait_in_sync(45)
        t.flows("mail flows again", 20)
        primary = pair.primary()
    t.settle()


@scenario
def killed_before_the_flush(t):
    """SIGKILL between a write and its flush: what the next process says it holds is on the disk."""
    pair = t.begin(disks="ab")
    primary, standby = pair.wait_in_sync()
    standby.disk.slow(400)

    def stopped_in_a_flush():
        standby.signal(signal.SIGSTOP)
        if standby.disk.unflushed("-wal"):
            return True
        standby.signal(signal.SIGCONT)
        return False

    wait_until("a flush is under way", stopped_in_a_flush, 10, 0.005)
    standby.kill()
    expect(standby.disk.unflushed("-wal"), "killed before it ended")
    t.disturbances += 1
    primary.kill()
    pair.witness.kill()
    standby.disk.heal()
    standby.start()
    wait_until("it has opened its store", standby.status, 10)
    # A row of the voter that is being written says nothing before it has its name.
    left = [f for f in standby.disk.unflushed("") if not f.endswith(".voter.new")]
    expect(not left, f"not flushed: {left}")
    t.settle()
