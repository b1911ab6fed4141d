"""The access log: what a line says, and that writing it stalls nobody."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from proxy.edges import journal as module
from proxy.edges.journal import CAPACITY, AccessLog
from proxy.flow.ports import Outcome
from proxy.rules.message import Fwd, Reason
from proxy.rules.report import Account
from proxy.rules.wire import parse_request
from tests.edges.kit import PATIENCE, get, turns, until

WALL: Final = 1_700_000_000.25


def outcome(target: str = "/a?b", account: Account | None = None, **more: Any) -> Outcome:  # noqa: ANN401
    request = parse_request(get(target), "http", trusted=False, max_headers=10)
    usual = Outcome(
        wall=WALL,
        peer="192.0.2.7",
        request=request,
        request_id="id-1",
        route="all",
        status=200,
        account=account or Account(Reason.HIT, ttl=29),
        sent=1234,
        seconds=0.0123456,
        complete=True,
    )
    return Outcome(**({name: getattr(usual, name) for name in Outcome.__slots__} | more))


@dataclass
class Piped:
    """A log into a pipe."""

    log: AccessLog
    reading: int
    writing: int

    def lines(self) -> list[dict[str, Any]]:
        """Close the log and everything it wrote."""
        taken = bytearray()
        reader = threading.Thread(target=self._read, args=(taken,))
        reader.start()
        self.log.close()
        os.close(self.writing)
        self.writing = -1
        reader.join()
        return [json.loads(line) for line in taken.splitlines() if line]

    def fill(self) -> None:
        """Leave no room in the pipe."""
        os.set_blocking(self.writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"\n" * 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"\n")
        os.set_blocking(self.writing, True)

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The next lines as they come."""
        taken: list[bytes] = []
        rest = b""
        async with asyncio.timeout(PATIENCE):
            while len(taken) < count:
                rest += await asyncio.get_running_loop().run_in_executor(None, os.read, self.reading, 65536)
                *whole, rest = rest.split(b"\n")
                taken += filter(None, whole)
        assert rest == b""
        return [json.loads(line) for line in taken]

    def _read(self, taken: bytearray) -> None:
        while piece := os.read(self.reading, 65536):
            taken += piece


@contextmanager
def piped(wall: float = WALL) -> Iterator[Piped]:
    """A log whose clock stands at `wall`."""
    reading, writing = os.pipe()
    made = Piped(AccessLog(writing, lambda: wall), reading, writing)
    try:
        yield made
    finally:
        for descriptor in (made.reading, made.writing):
            if descriptor >= 0:
                os.close(descriptor)


HIT = {
    "time": "2023-11-14T22:13:20.250+00:00",
    "client": "192.0.2.7",
    "method": "GET",
    "host": "a.test",
    "target": "/a?b",
    "route": "all",
    "status": 200,
    "cache": "hit",
    "reason": "hit",
    "duration_ms": 12.346,
    "bytes": 1234,
    "request_id": "id-1",
}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (outcome(), {}),
        (outcome(account=Account(Reason.HIT, ttl=0)), {}),
        (outcome(account=Account(Reason.MAX_STALE, ttl=-3)), {"reason": "max-stale"}),
        (
            outcome(account=Account(Reason.NOT_STORED, fwd=Fwd.URI_MISS, fwd_status=200, stored=True)),
            {"cache": "uri-miss", "reason": "not-stored", "stored": True},
        ),
        (
            outcome(account=Account(Reason.EXPIRED, fwd=Fwd.STALE, collapsed=True)),
            {"cache": "stale", "reason": "expired", "collapsed": True},
        ),
        (
            outcome(account=Account(Reason.NO_ROUTE), route=None, status=404),
            {"cache": "none", "reason": "no-route", "route": None, "status": 404},
        ),
        (outcome(complete=False), {"complete": False}),
    ],
    ids=["hit", "hit at its last moment", "stale", "stored", "collapsed", "no route", "cut"],
)
async def test_a_line_says_how_an_exchange_went(told: Outcome, said: dict[str, Any]) -> None:
    with piped() as here:
        here.log.record(told)
        assert here.lines() == [HIT | said]


async def test_a_request_that_was_refused_has_a_line_too() -> None:
    with piped(wall=0.0) as here:
        here.log.refused("::1", 400, Reason.MALFORMED)
        time = "1970-01-01T00:00:00.000+00:00"
        line = {"time": time, "client": "::1", "status": 400, "cache": "none", "reason": "malformed"}
        assert here.lines() == [line]


async def test_every_byte_a_client_may_send_stays_within_its_line() -> None:
    with piped() as here:
        request_id = "".join(map(chr, range(256)))
        here.log.record(outcome(request_id=request_id))
        (line,) = here.lines()
        assert line["request_id"] == request_id


async def test_lines_are_written_in_order_and_soon_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.001)
    with piped() as here:
        for batch in range(3):
            for number in range(100):
                here.log.record(outcome(status=batch * 100 + number))
            statuses = [line["status"] for line in await here.take(100)]
            assert statuses == [batch * 100 + number for number in range(100)]
        assert here.log.dropped == 0
        assert here.lines() == []


async def test_lines_of_one_moment_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = os.write

    def counted(descriptor: int, data: bytes) -> int:
        writes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    with piped() as here:
        for _ in range(100):
            here.log.record(outcome())
        assert len(here.lines()) == 100
        assert len(writes) == 1


async def test_a_write_that_takes_only_some_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    with piped() as here:
        for number in range(10):
            here.log.record(outcome(status=200 + number))
        assert [line["status"] for line in here.lines()] == list(range(200, 210))


async def test_a_reader_that_does_not_read_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    one = outcome()
    with piped() as here:
        here.fill()
        for number in range(CAPACITY):
            here.log.record(one)
            if number % 1000 == 0:
                await turns(2)
        assert here.log.dropped == 0
        for _ in range(500):
            here.log.record(one)
        assert here.log.dropped == 500
        lines = here.lines()
        assert len(lines) == CAPACITY  # none torn, none twice
        assert here.log.dropped == 500


async def test_a_reader_that_reads_again_gets_lines_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    monkeypatch.setattr(module, "CAPACITY", 100)
    one = outcome()
    with piped() as here:
        here.fill()
        for _ in range(150):
            here.log.record(one)
        assert here.log.dropped == 50
        assert len(await here.take(100)) == 100
        dropped = 0
        while dropped < here.log.dropped:  # the thread may not have counted yet what it wrote
            dropped = here.log.dropped
            here.log.record(outcome(status=299))
            await asyncio.sleep(0.001)
        assert [line["status"] for line in here.lines()] == [299]


async def test_a_reader_that_is_gone_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    with piped() as here:
        os.close(here.reading)
        here.reading = -1
        for told in range(2):
            here.log.record(outcome())
            await until(lambda: here.log.lost > told)  # noqa: B023 - awaited in its own round
        assert (here.log.lost, here.log.dropped) == (2, 0)
        here.log.close()


async def test_a_close_does_not_wait_for_ever_for_a_reader() -> None:
    with piped() as here:
        here.fill()
        for _ in range(1000):
            here.log.record(outcome())
        started = asyncio.get_running_loop().time()
        here.log.close()
        assert asyncio.get_running_loop().time() - started < PATIENCE
        os.close(here.reading)  # lets go of the thread
        here.reading = -1
        await until(lambda: here.log.lost == 1000)
