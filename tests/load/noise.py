#!/usr/bin/env python3
"""How much this machine itself delays things: writes, ten times a second, the worst lateness of a
5 ms sleep and of a small fsync since the last line. Usage: noise.py JOURNAL

  N t sleep_s fsync_s      t is CLOCK_MONOTONIC
"""
import os
import sys
import threading
import time


def main():
    journal = open(sys.argv[1], "a", buffering=1)
    fd = os.open(sys.argv[1] + ".probe", os.O_RDWR | os.O_CREAT, 0o600)
    worst = [0.0, 0.0]

    def disk():
        while True:
            begin = time.monotonic()
            os.pwrite(fd, b"x" * 4096, 0)
            os.fsync(fd)
            worst[1] = max(worst[1], time.monotonic() - begin)
            time.sleep(0.05)

    threading.Thread(target=disk, daemon=True).start()
    line = time.monotonic()
    while True:
        begin = time.monotonic()
        time.sleep(0.005)
        now = time.monotonic()
        worst[0] = max(worst[0], now - begin - 0.005)
        if now - line >= 0.1:
            print("N", f"{now:.6f} {worst[0]:.6f} {worst[1]:.6f}", file=journal)
            worst[0] = worst[1] = 0.0
            line = now


if __name__ == "__main__":
    main()
