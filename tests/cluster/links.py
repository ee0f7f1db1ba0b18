"""Links that are slow, lossy, one-way, or open and carry nothing; cuts at random; long freezes."""
import itertools
import signal
import time

from case import expect, scenario, wait_until


def takeovers(pair):
    return sum(len(n.status().get("takeovers", [])) for n in pair.nodes)


def count_log(pair, words):
    """How often the nodes' logs say it."""
    total = 0
    for n in pair.nodes:
        with open(n.log, errors="replace") as f:
            total += f.read().count(words)
    return total


@scenario
def cuts_at_random(t):
    """Each link is cut in each direction, again and again, at random, overlapping."""
    pair = t.begin(rate=200)
    directions = list(itertools.permutations("abw", 2))
    t.rng.shuffle(directions)
    for source, target in directions * max(1, t.rounds // 2):
        t.place.cut(source, target)
        t.disturbances += 1
        time.sleep(t.rng.uniform(0.1, 2.0))  # the length of the fault
        if t.rng.random() < 0.6:
            t.place.heal()
            t.flows("mail flows between cuts", 30)
    t.settle(seconds=90)


@scenario
def heartbeats_in_light_weather(t):
    """5 % loss, 30 ms and jitter, reordering and doubles on every link: nobody takes over or is dropped."""
    pair = t.begin(weather=True)
    primary, standby = pair.wait_in_sync()
    dropped = count_log(pair, "the standby is silent")
    t.place.weather.set("*", "*", ["udp"], loss=0.05, delay=30, jitter=30, reorder=0.1, dup=0.1)
    t.place.weather.set("*", "*", ["tcp"], delay=5)
    begin = time.monotonic()
    t.flows("mail flows", 20, 300)
    wait_until("ten seconds of it", lambda: time.monotonic() - begin > 10, 15, 0.1)
    counts = t.place.weather.counts()
    expect(counts["a", "b", "udp"]["lost"] and counts["a", "b", "udp"]["doubled"], f"it was there: {counts}")
    expect(pair.in_sync() == (primary, standby), "nothing changed hands")
    expect(not takeovers(pair) and count_log(pair, "the standby is silent") == dropped, "needlessly")
    t.settle()


@scenario
def heavy_weather(t):
    """Half of all datagrams lost, up to 600 ms late; TCP slow and late: whatever happens, nothing is lost."""
    pair = t.begin(weather=True)
    for _ in range(t.rounds):
        pair.wait_in_sync(90)
        t.flows("mail flows")
        t.disturbances += 4
        t.place.weather.set("*", "*", ["udp"], loss=0.5, delay=100, jitter=500, reorder=0.2, dup=0.2)
        t.place.weather.set("*", "*", ["tcp"], delay=100, jitter=100)
        time.sleep(6)  # the length of the fault
        t.place.heal()
    t.settle(seconds=90)


@scenario
def link_carries_nothing(t):
    """The replication connection stays open and carries nothing, one way or both; heartbeats arrive. The
    standby is dropped in bounded time, and taken back when it carries again."""
    pair = t.begin(weather=True)
    for way in ("to", "from", "both")[:t.rounds + 1]:
        primary, standby = pair.wait_in_sync(90)
        t.flows("mail flows")
        for s, d in ((primary, standby), (standby, primary)):
            if way == "both" or (way == "to") == (s is primary):
                t.place.weather.set(s.node, d.node, ["tcp"], stall=1)
        t.flows(f"mail flows beside a dead link ({way})", 10, 100)
        expect(primary.role() == "primary", "the primary stays primary")
        t.place.heal()
        expect(pair.wait_in_sync(90)[0] is primary, "and stays it")
    t.settle(seconds=90)


@scenario
def slow_link(t):
    """40 ms and 8 Mbit/s between the nodes: mail flows, paired, nobody flaps."""
    pair = t.begin(weather=True, sessions=20)
    primary, standby = pair.wait_in_sync()
    for s, d in ((primary, standby), (standby, primary)):
        t.place.weather.set(s.node, d.node, delay=20, jitter=2)
        t.place.weather.set(s.node, d.node, ["tcp"], delay=20, rate=8000)
    t.flows("mail flows over a slow link", 30, 500)
    expect(pair.in_sync() == (primary, standby), "nothing changed hands, the standby is in sync")
    t.settle(seconds=90)


@scenario
def one_way_udp_block(t):
    """Datagrams one way are lost, TCP works (incident 29): whoever serves goes on serving, and doesn't drop
    and take back the standby for ever."""
    pair = t.begin(weather=True)
    for s, d in itertools.permutations(pair.nodes):
        pair.wait_in_sync(90)
        t.flows("mail flows")
        t.disturbances += 1
        backs = count_log(pair, "(take-back)")
        taken = takeovers(pair)
        t.place.weather.set(s.node, d.node, ["udp"], loss=1)
        t.flows("mail flows in spite of it", 20, 100)
        begin = time.monotonic()
        wait_until("eight seconds of it", lambda: time.monotonic() - begin > 8, 20, 0.2)
        backs, taken = count_log(pair, "(take-back)") - backs, takeovers(pair) - taken
        t.notes.append(f"{backs} take-backs, {taken} takeovers in 8 s")
        expect(backs <= 1 and taken <= 1, f"flapping: {backs} take-backs, {taken} takeovers")
        expect(pair.primary(), "somebody serves")
        t.place.heal()
    t.settle(seconds=120)


@scenario
def freeze_beyond_everything(t):
    """SIGSTOP of a node for longer than every time-out while others write to it, then SIGCONT: its
    sockets are full of yesterday, and it follows."""
    pair = t.begin(rate=300)
    primary, standby = pair.wait_in_sync()
    t.disturbances += 1
    for node in (standby, primary):
        at = time.monotonic()
        node.signal(signal.SIGSTOP)
        if node is primary:
            t.takes_over(standby, at)
        wait_until("twelve seconds", lambda: time.monotonic() - at > 12, 20, 0.1)
        t.flows("mail flows meanwhile", 10)
        serving = pair.other(node)
        node.signal(signal.SIGCONT)
        expect(pair.wait_in_sync(60)[0] is serving, "who served goes on")
    t.settle()
