"""Commands relay_posix.c: delay, loss, reordering and slow links between network namespaces."""
import os
import subprocess

BUILD = os.environ.get("BATON_BUILD", os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build"))
RELAY = os.path.join(BUILD, "tests", "relay")


class Weather:
    """places: {name: (last byte of its addresses, namespace)}."""

    def __init__(self, places, seed=1):
        words = [f"{name},{number},{ns}" for name, (number, ns) in places.items()]
        self.names = list(places)
        self.child = subprocess.Popen([RELAY, str(seed), *words], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        self.expect_ok("start")

    def expect_ok(self, order):
        answer = self.child.stdout.readline().strip()
        if answer != "ok":
            raise RuntimeError(f"relay: {order}: {answer or 'ended'}")

    def say(self, order):
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()

    def set(self, source, target, protocols=("udp", "tcp"), **values):
        """For what goes from source to target ("*": all); see relay_posix.c for the keys."""
        for s in self.names if source == "*" else [source]:
            for t in self.names if target == "*" else [target]:
                for p in protocols if s != t else ():
                    order = " ".join([f"set {s} {t} {p}", *[f"{k}={v}" for k, v in values.items()]])
                    self.say(order)
                    self.expect_ok(order)

    def clear(self):
        self.say("clear")
        self.expect_ok("clear")

    def counts(self):
        """{(from, to, protocol): {carried, lost, doubled, stalled}}"""
        self.say("stats")
        out = {}
        for line in iter(lambda: self.child.stdout.readline().split(), ["."]):
            if not line:
                raise RuntimeError("relay: ended")
            out[tuple(line[:3])] = dict(zip(("carried", "lost", "doubled", "stalled"), map(int, line[3:])))
        return out

    def close(self):
        self.child.stdin.close()
        self.child.wait(10)
