"""Load on several instances from a process of its own, at a rate that does not wait for answers.

Run as a script it reads an `Order` from standard input and writes a line per request. Times are CLOCK_MONOTONIC,
which all processes of a machine share, so that a test can say what happened before and after its fault.
"""

import asyncio
import json
import random
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from typing import cast

import uvloop

PATIENCE = 15.0  # seconds for the last answers


@unique
class Kind(StrEnum):
    """What is asked for."""

    HIT = "hit"  # one of a few that every memory holds
    MISS = "miss"  # something new, which goes through the shared store to the upstream
    PASS = "pass"  # something that is not cached: it knows no Redis, and is what a miss is compared with


@dataclass(frozen=True)
class Order:
    """`rate` requests a second over all, or None for as many as `connections` to each port can do. `name` makes what
    is new differ from that of other runs.
    """

    ports: Sequence[int]
    seconds: float
    name: str
    rate: float | None = None
    connections: int = 64
    hot: int = 50
    share: float = 0.1  # of MISS, and of PASS


@dataclass(frozen=True)
class Sample:
    """One request. `due` is when it was to be sent, `seconds` from then to the last byte of its answer; status 0
    where there was none.
    """

    kind: Kind
    instance: int
    due: float
    seconds: float
    status: int


def hot(number: int) -> str:
    """Path of one of the few."""
    return f"/hot/{number}"


class _Connection(asyncio.Protocol):
    """Sends one request at a time; a lost connection is replaced."""

    def __init__(self, pool: "_Pool") -> None:
        self._pool = pool
        self._buffer = b""
        self._asked: tuple[Kind, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.rest(self)

    def ask(self, kind: Kind, raw: bytes, due: float) -> None:
        self._asked = kind, due
        self._transport.write(raw)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        fields = self._buffer[:end].lower()
        at = fields.find(b"\r\ncontent-length:")
        length = int(fields[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) >= end + 4 + length:
            status, self._buffer = int(self._buffer[9:12]), b""
            self._answered(status)
            self._pool.rest(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._answered(0)
        self._pool.lost(self)

    def _answered(self, status: int) -> None:
        if self._asked is not None:
            kind, due = self._asked
            self._asked = None
            self._pool.done(kind, due, status)


class _Pool:
    """Connections to one instance. What finds none of them at rest waits for one."""

    def __init__(self, load: "_Load", number: int) -> None:
        self._load, self._number = load, number
        self._resting: deque[_Connection] = deque()
        self._waiting: deque[tuple[Kind, bytes, float]] = deque()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._load.order.ports[self._number])

    def rest(self, connection: _Connection) -> None:
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        elif (more := self._load.again()) is not None:
            connection.ask(*more)
        else:
            self._resting.append(connection)

    def lost(self, connection: _Connection) -> None:
        if connection in self._resting:
            self._resting.remove(connection)
        if not self._load.over:
            self._load.spawn(self._replace())

    async def _replace(self) -> None:
        try:
            await self.connect()
        except OSError:
            while self._waiting:
                kind, _, due = self._waiting.popleft()
                self.done(kind, due, 0)
            await asyncio.sleep(0.1)
            if not self._load.over:
                self._load.spawn(self._replace())

    def ask(self, kind: Kind, raw: bytes, due: float) -> None:
        if self._resting:
            self._resting.popleft().ask(kind, raw, due)
        else:
            self._waiting.append((kind, raw, due))

    def done(self, kind: Kind, due: float, status: int) -> None:
        self._load.done(Sample(kind, self._number, due, asyncio.get_running_loop().time() - due, status))


class _Load:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.over = False
        self.samples: list[Sample] = []
        self._random = random.Random(order.name)
        self._numbers = 0
        self.pending = 0
        self._settled = asyncio.Event()
        self._until = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._pools = [_Pool(self, number) for number in range(len(order.ports))]

    def spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def done(self, sample: Sample) -> None:
        self.pending -= 1
        self.samples.append(sample)
        if not self.pending:
            self._settled.set()

    def again(self) -> tuple[Kind, bytes, float] | None:
        """For a closed loop: the next request, at once."""
        now = asyncio.get_running_loop().time()
        if self.order.rate is not None or now >= self._until:
            return None
        return self._draw(now)

    def _draw(self, due: float) -> tuple[Kind, bytes, float]:
        drawn, order = self._random.random(), self.order
        self._numbers += 1
        self.pending += 1
        if drawn < order.share:
            kind, path = Kind.MISS, f"/new/{order.name}/{self._numbers}"
        elif drawn < 2 * order.share:
            kind, path = Kind.PASS, f"/own/{order.name}/{self._numbers}"
        else:
            kind, path = Kind.HIT, hot(self._random.randrange(order.hot))
        return kind, f"GET {path} HTTP/1.1\r\nHost: api.example.test\r\n\r\n".encode(), due

    async def run(self) -> None:
        order, loop = self.order, asyncio.get_running_loop()
        begun = loop.time()
        self._until = begun + order.seconds
        await asyncio.gather(*(pool.connect() for pool in self._pools for _ in range(order.connections)))
        if order.rate is None:
            await asyncio.sleep(self._until - loop.time())
        else:
            await self._open(order.rate, loop.time())
        if self.pending:
            self._settled.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), PATIENCE)
        self.over = True

    async def _open(self, rate: float, begun: float) -> None:
        loop = asyncio.get_running_loop()
        due, until = begun, begun + self.order.seconds
        while (due := due + self._random.expovariate(rate)) < until:
            if (ahead := due - loop.time()) > 0:
                await asyncio.sleep(ahead)
            self._random.choice(self._pools).ask(*self._draw(due))


async def _main() -> None:
    load = _Load(Order(**json.load(sys.stdin)))
    await load.run()
    for one in load.samples:
        sys.stdout.write(f"{one.kind} {one.instance} {one.due:.6f} {one.seconds:.6f} {one.status}\n")
    if load.pending:  # what nobody answered must not be forgotten
        sys.stdout.write(f"miss 0 0 {PATIENCE} 0\n" * load.pending)


class Load:
    """A load that runs."""

    def __init__(self, process: asyncio.subprocess.Process, order: Order) -> None:
        self._process, self._order = process, order

    @classmethod
    async def start(cls, order: Order) -> "Load":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.fleet.load"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(order)).encode())
        process.stdin.close()
        return cls(process, order)

    async def samples(self) -> list[Sample]:
        """All of them, once it is over."""
        async with asyncio.timeout(self._order.seconds + 2 * PATIENCE):
            output, _ = await self._process.communicate()
        assert self._process.returncode == 0
        samples = []
        for line in output.decode().splitlines():
            kind, instance, due, seconds, status = line.split()
            samples.append(Sample(Kind(kind), int(instance), float(due), float(seconds), int(status)))
        return samples

    async def stop(self) -> None:
        """End it before its time."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


async def run(order: Order) -> list[Sample]:
    """A load from beginning to end."""
    return await (await Load.start(order)).samples()


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them does not exceed; 0 of none."""
    return sorted(values)[max(-int(-part * len(values) // 1) - 1, 0)] if values else 0.0


NEAR = 0.05  # seconds around a request in which others are compared with it


def excess(samples: Sequence[Sample], since: float, until: float) -> list[float]:
    """By how much each miss that was due in that time took longer than the slowest request to the same instance that
    knows no Redis and was under way with it, or was due within NEAR of it. What holds up the whole machine holds up
    both, and cancels out: also at the end of a long wait, which is why it does not suffice that they began together.
    """
    values = []
    for number in {sample.instance for sample in samples}:
        plain = sorted((s.due, s.seconds) for s in samples if s.kind is Kind.PASS and s.instance == number)
        start = 0
        for due, seconds in sorted(
            (s.due, s.seconds)
            for s in samples
            if s.kind is Kind.MISS and s.instance == number and since <= s.due < until
        ):
            while start < len(plain) and plain[start][0] < due - NEAR:
                start += 1
            near = []
            for at, took in plain[start:]:
                if at > due + max(NEAR, seconds):
                    break
                near.append(took)
            if near:
                values.append(max(seconds - max(near), 0.0))
    return values


if __name__ == "__main__":
    uvloop.run(_main())
