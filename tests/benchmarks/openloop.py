"""Latency at a fixed rate: requests are sent when they are due, not when the last answer has come.

Arrivals are Poisson, from a fixed seed. Each takes a connection that is idle, or waits for one; its latency is
counted from the moment it was due to the last byte of its answer, so that all waiting counts. The generator polls
without pause; what it adds by itself is seen when it is pointed at the floor.
"""

import gc
import random
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tests.benchmarks.load import Failed
from tests.benchmarks.wire import HOST

BURST: Final = 4  # requests sent before answers are looked at again
PATIENCE: Final = 10.0  # seconds after the last arrival


@dataclass(frozen=True)
class Latencies:
    """What came of a schedule: requests per second that were answered, and each one's seconds, ascending."""

    rate: float
    ordered: Sequence[float]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds from the beginning: `rate` times `seconds` of them, the last at the end."""
    draw = random.Random(seed).expovariate
    drawn = list(accumulate(draw(1.0) for _ in range(int(rate * seconds))))
    return [at * seconds / drawn[-1] for at in drawn]


def drive(port: int, raw: bytes, body: int, due: Sequence[float], connections: int) -> Latencies:
    """Send a request at each of these times; every answer must be a 200 with a body of so many bytes."""
    sockets = [_connect(port) for _ in range(connections)]
    epoll = select.epoll()
    for sock in sockets:
        epoll.register(sock.fileno(), select.EPOLLIN)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        return _drive(sockets, epoll, raw, body, due)
    finally:
        if was_enabled:
            gc.enable()
        epoll.close()
        for sock in sockets:
            sock.close()


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def _drive(
    sockets: list[socket.socket], epoll: select.epoll, raw: bytes, body: int, offsets: Sequence[float]
) -> Latencies:
    """The loop. It is one function and looks nothing up twice, for it must be faster than the server."""
    clock, poll = time.perf_counter, epoll.poll
    send = {sock.fileno(): sock.send for sock in sockets}
    receive = {sock.fileno(): sock.recv_into for sock in sockets}
    idle = deque(send)
    since = dict.fromkeys(send, 0.0)
    missing = dict.fromkeys(send, 0)  # bytes of an answer that has begun
    buffer = bytearray(1 << 18)
    total = len(offsets)
    latencies: list[float] = []
    done = latencies.append
    sent, at, events = 0, 0.0, len(sockets)
    begun = clock() + 0.01
    due = [begun + offset for offset in offsets]
    due.append(float("inf"))
    given_up = due[total - 1] + PATIENCE
    while len(latencies) < total:
        now = clock()
        burst = BURST
        while burst and due[sent] <= now and idle:
            fd = idle.popleft()
            since[fd] = due[sent]
            send[fd](raw)
            sent += 1
            burst -= 1
        for fd, _ in poll(0, events):
            size = receive[fd](buffer)
            if missing[fd]:
                missing[fd] -= size
            else:
                head = buffer.find(b"\r\n\r\n", 0, size)
                if head < 0 or not buffer.startswith(b"HTTP/1.1 200 "):
                    raise Failed(f"an answer begins with {bytes(buffer[: min(size, 200)])!r}")
                missing[fd] = head + 4 + body - size
            if not missing[fd]:
                at = clock()
                done(at - since[fd])
                idle.append(fd)
            elif missing[fd] < 0:
                raise Failed(f"an answer is {-missing[fd]} bytes too long")
        if now > given_up:
            raise Failed(f"{total - len(latencies)} of {total} requests were not answered in time")
    return Latencies(total / (at - begun), sorted(latencies))
