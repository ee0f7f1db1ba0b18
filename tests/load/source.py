#!/usr/bin/env python3
"""A SMTP client with a queue of its own, as a careful application has it.

It knows every node of the pair; when one answers 421, refuses, closes or stays silent it goes to the
next. A message is its own until the 250; one whose final dot was sent and never answered is sent
again, and written down, because it may arrive twice by no fault of the relay.

Journal, one line an event, times are CLOCK_MONOTONIC:
  A uid t recipients id    250, accepted as id
  U uid t                  final dot sent, connection lost without an answer
  R uid t code             refused for now
  F uid t code text        refused for good
"""
import argparse
import asyncio
import collections
import json
import random
import re
import signal
import sys
import time
import zlib

LINE = b"The quick brown fox jumps over the lazy dog, and the queue goes on.......\r\n"


class Lost(Exception):
    """The connection ended or the server wants it to."""


def body_of(uid, size):
    """A message of about size bytes; its checksum is in its header, one line begins with a dot."""
    text = b"..dots stay dots\r\n" + LINE * max(1, (size - 400) // len(LINE))
    clear = text.replace(b"..dots", b".dots", 1)
    head = (
        f"From: <load@client.example>\r\nTo: <r0.{uid}@sink.example>\r\nSubject: load {uid}\r\n"
        f"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{uid}@client.example>\r\n"
        f"X-Baton-Test: {uid}\r\nX-Baton-Sum: {zlib.crc32(clear):08x}\r\n\r\n"
    )
    return head.encode() + text


class Source:
    def __init__(self, args):
        self.args = args
        self.targets = [(t.rpartition(":")[0].strip("[]"), int(t.rpartition(":")[2])) for t in args.to]
        self.good = 0  # the target that took a message last
        self.again = collections.deque()
        self.made = self.accepted = self.unanswered = self.refused = self.failed = 0
        self.stopping = False
        self.last_accept = time.monotonic()
        self.next_at = time.monotonic()
        self.journal = open(args.journal, "a", buffering=1)

    def note(self, kind, uid, *more):
        print(kind, uid, f"{time.monotonic():.6f}", *more, file=self.journal)

    def done(self):
        if self.args.messages and self.made >= self.args.messages:
            return not self.again and self.accepted + self.failed >= self.made
        return self.stopping and not self.again

    async def next_message(self):
        """None: nothing to send now or ever."""
        if self.again:
            return self.again.popleft()
        if self.stopping or (self.args.messages and self.made >= self.args.messages):
            return None
        self.made += 1
        uid = f"{self.args.prefix}{self.made}"
        if self.args.rate:
            at = max(self.next_at, time.monotonic() - 0.1)
            self.next_at = at + 1 / self.args.rate
            await asyncio.sleep(max(0, at - time.monotonic()))
        return uid

    async def reply(self, reader):
        """(code, text); raises Lost on 421, end of file or silence."""
        try:
            while True:
                line = await asyncio.wait_for(reader.readline(), self.args.patience)
                if not line.endswith(b"\n"):
                    raise Lost("closed")
                if line[3:4] != b"-":
                    break
        except asyncio.TimeoutError:
            raise Lost("silent") from None
        code = int(line[:3])
        if code == 421:
            raise Lost("421")
        return code, line.decode("utf-8", "replace").strip()

    async def send(self, reader, writer, uid):
        """True: accepted or failed for good; False: refused for now."""
        rcpts = [f"r{i}.{uid}@{self.args.domain}" for i in range(self.args.recipients)]
        commands = ["MAIL FROM:<load@client.example>"] + [f"RCPT TO:<{r}>" for r in rcpts] + ["DATA"]
        writer.write("".join(c + "\r\n" for c in commands).encode())
        worst, words = 0, ""
        for _ in commands:
            code, text = await self.reply(reader)
            if code >= 400 and not worst:
                worst, words = code, text
        if worst:
            if worst < 500:
                self.refused += 1
                self.note("R", uid, worst)
            else:
                self.failed += 1
                self.note("F", uid, worst, words)
            if code == 354:
                raise Lost("half a transaction")
            writer.write(b"RSET\r\n")
            await self.reply(reader)
            return worst >= 500
        writer.write(body_of(uid, self.args.size) + b".\r\n")
        try:
            code, text = await self.reply(reader)
        except (Lost, OSError):
            self.unanswered += 1
            self.note("U", uid)
            raise
        if code == 250:
            self.accepted += 1
            self.last_accept = time.monotonic()
            found = re.search(r"queued as (\S+)", text)
            self.note("A", uid, len(rcpts), found.group(1) if found else "-")
            return True
        if code < 500:
            self.refused += 1
            self.note("R", uid, code)
            return False
        self.failed += 1
        self.note("F", uid, code, text)
        return True

    async def session(self, target):
        """One connection. False: the target does not take mail now."""
        host, port = self.targets[target]
        writer, took = None, False
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(host, port), self.args.patience)
            if (await self.reply(reader))[0] != 220:
                return False
            writer.write(b"EHLO client.example\r\n")
            if (await self.reply(reader))[0] != 250:
                return False
            for _ in range(self.args.per_connection):
                uid = await self.next_message()
                if uid is None:
                    break
                try:
                    done = await self.send(reader, writer, uid)
                except BaseException:
                    self.again.append(uid)
                    raise
                if not done:
                    self.again.append(uid)
                    return took
                self.good, took = target, True
            writer.write(b"QUIT\r\n")
            return True
        except (Lost, OSError, asyncio.TimeoutError, ValueError):
            return took
        finally:
            if writer:
                writer.close()

    async def worker(self):
        target = self.good
        misses = 0
        while not self.done():
            if not self.again and (self.stopping or (
                    self.args.messages and self.made >= self.args.messages)):
                await asyncio.sleep(0.02)  # others still have messages that may come back
                continue
            if await self.session(target):
                target, misses = self.good, 0
                continue
            target = (target + 1) % len(self.targets)
            misses += 1
            if misses % len(self.targets) == 0:
                await asyncio.sleep(random.uniform(0.02, 0.06))

    async def run(self):
        loop = asyncio.get_running_loop()

        def stop():
            self.stopping = True

        loop.add_signal_handler(signal.SIGTERM, stop)
        tasks = [asyncio.create_task(self.worker()) for _ in range(self.args.sessions)]
        stopped_at = None
        while not all(t.done() for t in tasks):
            await asyncio.wait(tasks, timeout=0.2)
            now = time.monotonic()
            stopped_at = stopped_at or (now if self.stopping else None)
            if now - self.last_accept > self.args.give_up or (
                    stopped_at and now - stopped_at > self.args.give_up):
                break
        for t in tasks:
            t.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The loop's end gives the signal its default meaning back, and it may come just then.
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        crash = [t.exception() for t in tasks if not t.cancelled() and t.exception()]
        print(json.dumps({
            "made": self.made, "accepted": self.accepted, "unanswered": self.unanswered,
            "refused": self.refused, "failed": self.failed,
            "errors": [repr(e) for e in crash]}))
        return 0 if self.accepted + self.failed >= self.made and not crash else 1


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--to", action="append", required=True, help="host:port, once a node")
    p.add_argument("--journal", required=True)
    p.add_argument("--messages", type=int, default=0, help="0: until SIGTERM")
    p.add_argument("--sessions", type=int, default=20)
    p.add_argument("--per-connection", type=int, default=200)
    p.add_argument("--size", type=int, default=1024)
    p.add_argument("--recipients", type=int, default=1)
    p.add_argument("--rate", type=float, default=0, help="messages per second, 0: as fast as it goes")
    p.add_argument("--patience", type=float, default=5, help="seconds to wait for a reply")
    p.add_argument("--give-up", type=float, default=60, help="seconds without any 250")
    p.add_argument("--prefix", default="m")
    p.add_argument("--domain", default="sink.example")
    sys.exit(asyncio.run(Source(p.parse_args()).run()))


if __name__ == "__main__":
    main()
