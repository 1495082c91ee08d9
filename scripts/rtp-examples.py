#!/usr/bin/python3
# SPDX-License-Identifier: MPL-2.0
"""rtp-examples.py FOLDER: runs the RTP examples, those in Rust (built, in FOLDER) with those in Python, both ways, over a path that loses
packets. Fails where pictures are missing, or where a sender does not lower its bit rate."""

import pathlib
import random
import re
import selectors
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent.parent / "examples"
PATIENCE_S = 120
SOURCE = "videotestsrc is-live=true pattern=ball num-buffers=300 ! video/x-raw,width=96,height=64,framerate=25/1"
BITRATE = 30
LOSS = 0.15
# A jitter buffer takes the stream up anew, with a pause, at a packet that is later than this. On a busy machine 500 ms are not enough.
LATENCY_MS = 3000
# With this one the first packet is not lost, nor many at once.
SEED = 2


def open_pair():
    """Sockets of an even port and the next one."""
    while True:
        first = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        first.bind(("127.0.0.1", 0))
        port = first.getsockname()[1]
        second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if port % 2 == 0:
                second.bind(("127.0.0.1", port + 1))
                return first, second
        except OSError:
            pass
        first.close()
        second.close()


def free_pair():
    first, second = open_pair()
    port = first.getsockname()[1]
    first.close()
    second.close()
    return port


class Path:
    """Carries RTP and RTCP on to a receiver; loses some of the RTP packets."""

    def __init__(self, to):
        self.sockets, self.to, self.random = open_pair(), to, random.Random(SEED)
        self.port = self.sockets[0].getsockname()[1]
        self.carried, self.lost = 0, 0
        self.wake, self.is_over = socket.socketpair()
        self.thread = threading.Thread(target=self.carry)

    def carry(self):
        with selectors.DefaultSelector() as selector:
            for readable in (*self.sockets, self.is_over):
                selector.register(readable, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.is_over:
                        return
                    self.pass_on(self.sockets.index(key.fileobj))

    def pass_on(self, kind):
        packet = self.sockets[kind].recv(65536)
        if kind == 0 and self.random.random() < LOSS:
            self.lost += 1
            return
        self.carried += 1
        self.sockets[kind].sendto(packet, ("127.0.0.1", self.to + kind))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.wake.close()
        self.thread.join()
        for each in (*self.sockets, self.is_over):
            each.close()


def start(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until_ready(receiving):
    """Reads what a receiver says until it waits. Libraries may warn of something before."""
    told = ""
    for line in receiving.stdout:
        if "waiting" in line:
            return
        told += line
    sys.exit(f"the receiver does not start: {told}")


def run(sender, receiver):
    to, reports = free_pair(), free_pair()
    receiving = start([*receiver, "--port", str(to), "--reports", f"127.0.0.1:{reports}", "--latency", str(LATENCY_MS),
                       "--sink", "fakevideosink qos=false"])
    try:
        wait_until_ready(receiving)
        with Path(to) as path:
            sending = start([*sender, "--to", f"127.0.0.1:{path.port}", "--reports", str(reports), "--source", SOURCE,
                             "--bitrate", str(BITRATE)])
            try:
                sent, _ = sending.communicate(timeout=PATIENCE_S)
            finally:
                sending.kill()
            received, _ = receiving.communicate(timeout=PATIENCE_S)
    finally:
        receiving.kill()
    print(f"{sent}{received}{path.lost} packets were lost on the way, {path.carried} were not")
    check(sending.returncode == 0, "the sender failed")
    check(receiving.returncode == 0, "the receiver failed")
    check(path.lost > 0 and re.search(r"[1-9]\d* of them concealed", received), "nothing was concealed")
    rates = [int(rate) for rate in re.findall(r"(\d+) kbit/s", sent)]
    check(rates and rates[-1] < BITRATE, "the bit rate does not follow the reports")


def check(holds, fault):
    if not holds:
        sys.exit(f"rtp-examples: {fault}")


def main():
    folder = pathlib.Path(sys.argv[1])
    rust = {name: [folder / name] for name in ("rtp_send", "rtp_receive")}
    python = {name: ["/usr/bin/python3", HERE / f"{name}.py"] for name in rust}
    run(rust["rtp_send"], python["rtp_receive"])
    run(python["rtp_send"], rust["rtp_receive"])


if __name__ == "__main__":
    main()
