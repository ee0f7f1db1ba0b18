#!/usr/bin/env python3
"""The next hop: a SMTP server that writes every message down before it answers 250.

Journal, one line a recipient, times are CLOCK_MONOTONIC:
  D uid t recipient id intact    id: as the relay's topmost Received line names it; intact: 1 or 0
  C t connections                the number of open connections grew to a new maximum
"""
import argparse
import asyncio
import os
import re
import time
import zlib


class Session(asyncio.Protocol):
    def __init__(self, sink):
        self.sink = sink
        self.buffer = bytearray()
        self.data = None  # bytes of the message while in DATA
        self.rcpts = []
        self.sender = False
        self.transport = None
        self.paused = False

    def connection_made(self, transport):
        self.transport = transport
        self.sink.opened(self)
        self.say("220 sink.example ESMTP")

    def connection_lost(self, exc):
        self.sink.closed(self)

    def say(self, text):
        if not self.transport.is_closing():
            self.transport.write(text.encode() + b"\r\n")

    def data_received(self, data):
        self.buffer += data
        while not self.paused:
            if self.data is None:
                end = self.buffer.find(b"\r\n")
                if end < 0:
                    return
                line = bytes(self.buffer[:end])
                del self.buffer[:end + 2]
                self.command(line)
            else:
                end = self.buffer.find(b"\r\n.\r\n")
                if self.buffer.startswith(b".\r\n"):
                    end = -2
                elif end < 0:
                    return
                self.data = bytes(self.buffer[:end + 2])
                del self.buffer[:end + 5]
                self.message()

    def command(self, line):
        verb = line[:4].upper()
        if verb == b"EHLO":
            self.say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
                     "250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600")
        elif verb == b"HELO":
            self.say("250 sink.example")
        elif verb == b"MAIL":
            self.sender, self.rcpts = True, []
            self.say("250 2.1.0 Ok")
        elif verb == b"RCPT":
            address = re.search(rb"<([^>]*)>", line)
            address = address.group(1).decode("utf-8", "replace") if address else "?"
            answer = self.sink.judge(address)
            if answer.startswith("250"):
                self.rcpts.append(address)
            self.say(answer)
        elif verb == b"DATA":
            if self.sender and self.rcpts:
                self.data = b""
                self.say("354 go on")
            else:
                self.say("503 5.5.1 no recipients")
        elif verb == b"RSET":
            self.sender, self.rcpts = False, []
            self.say("250 2.0.0 Ok")
        elif verb == b"NOOP":
            self.say("250 2.0.0 Ok")
        elif verb == b"QUIT":
            self.say("221 2.0.0 Bye")
            self.transport.close()
        else:
            self.say("502 5.5.2 unknown")

    def message(self):
        self.sink.keep(self.data, self.rcpts)
        quiet = self.sink.is_quiet(self.rcpts)
        self.data, self.sender, self.rcpts = None, False, []
        if quiet:
            self.paused = True
            self.answer_later()
        elif self.sink.delay:
            self.paused = True
            asyncio.get_running_loop().call_later(self.sink.delay, self.answer)
        else:
            self.say("250 2.0.0 Ok")

    def answer_later(self):
        if self.sink.is_quiet(["quiet"]):
            asyncio.get_running_loop().call_later(0.01, self.answer_later)
        else:
            self.answer()

    def answer(self):
        self.paused = False
        self.say("250 2.0.0 Ok")
        self.data_received(b"")


class Sink:
    def __init__(self, args):
        self.delay = args.delay_ms / 1000
        self.defer = args.defer
        self.quiet = args.quiet
        self.seen = set()
        self.sessions = set()
        self.most = 0
        self.journal = open(args.journal, "a", buffering=1)

    def opened(self, session):
        self.sessions.add(session)
        if len(self.sessions) > self.most:
            self.most = len(self.sessions)
            print("C", f"{time.monotonic():.6f}", self.most, file=self.journal)

    def closed(self, session):
        self.sessions.discard(session)

    def is_quiet(self, rcpts):
        return bool(self.quiet) and os.path.exists(self.quiet) and \
            any(r.startswith("quiet") for r in rcpts)

    def judge(self, address):
        """Recipients that begin with "reject" or "defer" are; each --defer'th is deferred once."""
        if address.startswith("reject"):
            return "550 5.1.1 no such user"
        if address.startswith("defer"):
            return "451 4.2.0 not now"
        if self.defer and zlib.crc32(address.encode()) % self.defer == 0 and address not in self.seen:
            self.seen.add(address)
            return "451 4.2.0 greylisted"
        return "250 2.1.5 Ok"

    def keep(self, data, rcpts):
        head, _, body = data.partition(b"\r\n\r\n")
        uid = re.search(rb"(?im)^X-Baton-Test: *(\S+)", head)
        sum_ = re.search(rb"(?im)^X-Baton-Sum: *(\S+)", head)
        received = re.search(rb"(?is)^Received:.*?\sid\s+([^\s;]+)", head)
        clear = body[1:] if body.startswith(b"..") else body.replace(b"\r\n..", b"\r\n.")
        intact = not sum_ or int(sum_.group(1), 16) == zlib.crc32(clear)
        uid = uid.group(1).decode() if uid else "-"
        qid = received.group(1).decode() if received else "-"
        now = f"{time.monotonic():.6f}"
        for r in rcpts or ["-"]:
            print("D", uid, now, r, qid, int(intact), file=self.journal)


async def serve(args):
    sink = Sink(args)
    host, _, port = args.listen.rpartition(":")
    server = await asyncio.get_running_loop().create_server(
        lambda: Session(sink), host.strip("[]"), int(port), backlog=1000)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--listen", required=True)
    p.add_argument("--journal", required=True)
    p.add_argument("--delay-ms", type=float, default=0, help="wait before the answer to a final dot")
    p.add_argument("--quiet", help="while this file exists, what is for quiet... is taken and not answered")
    p.add_argument("--defer", type=int, default=0, help="defer about each N-th recipient once")
    try:
        asyncio.run(serve(p.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
