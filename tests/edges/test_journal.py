"""The access log: what a line says, and that writing it stalls nobody."""

import asyncio
import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.edges import journal as module
from proxy.edges.journal import CAPACITY, AccessLog
from proxy.flow.ports import Outcome
from proxy.flow.site import Asked, Site
from proxy.rules.message import Fwd, Reason
from proxy.rules.report import Account
from proxy.rules.wire import parse_request
from tests.documents import listed
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
def piped(wall: Callable[[], float] = lambda: WALL) -> Iterator[Piped]:
    reading, writing = os.pipe()
    made = Piped(AccessLog(writing, wall), reading, writing)
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
        (outcome(account=Account(Reason.MAX_STALE, ttl=-3)), {"cache": "stale", "reason": "max-stale"}),
        (
            outcome(account=Account(Reason.STALE_IF_ERROR, fwd=Fwd.STALE, fwd_status=503)),
            {"cache": "stale", "fwd": "stale", "reason": "stale-if-error"},
        ),
        (
            outcome(account=Account(Reason.CONNECT, fwd=Fwd.URI_MISS), status=502),
            {"cache": "error", "fwd": "uri-miss", "reason": "connect", "status": 502},
        ),
        (
            outcome(account=Account(Reason.ABSENT, fwd=Fwd.URI_MISS, fwd_status=200, stored=True)),
            {"cache": "miss", "fwd": "uri-miss", "reason": "absent", "stored": True},
        ),
        (
            outcome(account=Account(Reason.EXPIRED, fwd=Fwd.STALE, fwd_status=304, collapsed=True)),
            {"cache": "revalidated", "fwd": "stale", "reason": "expired", "collapsed": True},
        ),
        (
            outcome(account=Account(Reason.NO_ROUTE), route=None, status=404),
            {"cache": "refused", "reason": "no-route", "route": None, "status": 404},
        ),
        (outcome(complete=False), {"complete": False}),
    ],
    ids=["hit", "hit at its last moment", "stale", "bridged", "failed", "stored", "collapsed", "no route", "cut"],
)
async def test_a_line_says_how_an_exchange_went(told: Outcome, said: dict[str, Any]) -> None:
    with piped() as here:
        here.log.record(told)
        assert here.lines() == [HIT | said]


async def test_every_member_of_a_line_is_explained_and_no_other() -> None:
    everything = Account(Reason.ABSENT, fwd=Fwd.URI_MISS, fwd_status=200, stored=True, collapsed=True)
    with piped() as here:
        here.log.record(outcome(account=everything, complete=False))
        here.log.refused(PEER, 400, Reason.MALFORMED)
        line, refused = here.lines()
    assert sorted(listed("reasons.md", "A line of the access log")) == sorted(line)
    assert refused.keys() <= line.keys()


def read(*headers: str, target: str = "/a?b", host: str = "a.test") -> Asked:
    request = parse_request(get(target, *headers), "http", trusted=False, max_headers=10)
    return Asked(replace(request, host=host), Site((), {}), None)


PEER: Final = "192.0.2.7"


async def test_a_hit_has_the_line_of_any_other_exchange() -> None:
    with piped() as here:
        here.log.hit(read(), PEER, "all", 200, 1234, 0.0123456)
        assert here.lines() == [{name: value for name, value in HIT.items() if name != "request_id"}]


async def test_a_hit_is_told_the_id_that_its_client_gave_it() -> None:
    with piped() as here:
        here.log.hit(read("X-Request-Id: id-1"), PEER, "all", 200, 1234, 0.0123456)
        assert here.lines() == [HIT]


TEXTS: Final = st.text(st.characters(codec="latin-1"), max_size=9) | st.sampled_from(
    ['"', "%", "%b", "\\", "\n", "}", "é"]
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            *(TEXTS, TEXTS, TEXTS, TEXTS),
            st.sampled_from(["192.0.2.7", "2001:db8::1", "fe80::1%eth0", ""]),
            st.integers(200, 599),
            st.floats(0, 100),
            st.integers(0, 1 << 40),
            st.integers(0, 4_000_000_000_000),
        ),
        max_size=5,
    )
)
def test_a_line_of_a_hit_is_the_line_of_its_outcome(
    hits: list[tuple[str, str, str, str, str, int, float, int, int]],
) -> None:
    async def both() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        wall = 0.0
        with piped(lambda: wall) as one, piped(lambda: wall) as other:
            for target, host, request_id, route, peer, status, seconds, sent, milliseconds in hits:
                wall = milliseconds / 1000 + 0.0005
                asked = read()
                asked.request = replace(
                    asked.request,
                    target=target,
                    host=host,
                    fields={"x-request-id": request_id} if request_id else {},
                )
                for _ in range(2):  # what was made for the first line serves the second
                    one.log.hit(asked, peer, route, status, sent, seconds)
                    other.log.record(
                        outcome(
                            wall=wall,
                            peer=peer,
                            request=asked.request,
                            request_id=request_id,
                            route=route,
                            status=status,
                            sent=sent,
                            seconds=seconds,
                        )
                    )
            return one.lines(), other.lines()

    told, known = asyncio.run(both())
    assert told == known
    assert len(told) == 2 * len(hits)


async def test_the_stamps_of_hits_follow_the_clock() -> None:
    walls = [0.0, 0.0004, 0.0009, 0.001, 0.9994, 0.9996, 1.0, 59.9999, 60.0, 86399.9995, 86400.0, 1e9 + 0.5, 0.0]
    at = iter(walls)
    with piped(lambda: next(at)) as here:
        for _ in walls:
            here.log.hit(read(), PEER, "all", 200, 1234, 0.0)
        stamps = [line["time"] for line in here.lines()]
    assert [(stamp[:10], stamp[11:23]) for stamp in stamps] == [
        *(("1970-01-01", f"00:00:00.{ms}") for ms in ("000", "000", "000", "001", "999", "999")),
        *(("1970-01-01", time) for time in ("00:00:01.000", "00:00:59.999", "00:01:00.000", "23:59:59.999")),
        *(("1970-01-02", "00:00:00.000"), ("2001-09-09", "01:46:40.500"), ("1970-01-01", "00:00:00.000")),
    ]


async def test_many_hits_are_one_timer_and_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def counted(delay: float, *rest: Any) -> asyncio.TimerHandle:  # noqa: ANN401 - whatever the loop takes
        timers.append(delay)
        return call_later(delay, *rest)

    monkeypatch.setattr(loop, "call_later", counted)
    with piped() as here:
        asked = read()
        for _ in range(1000):
            here.log.hit(asked, PEER, "all", 200, 1234, 0.0)
        assert len(here.lines()) == 1000
    assert len(timers) == 1


async def test_what_a_hit_says_of_its_request_is_made_once() -> None:
    asked = read()
    with piped() as here:
        here.log.hit(asked, PEER, "all", 200, 1234, 0.0)
        made = asked.logged
        here.log.hit(asked, PEER, "all", 200, 1234, 0.0)
        assert made
        assert asked.logged is made
        assert len(here.lines()) == 2


async def test_hits_that_find_no_room_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with piped() as here:
        here.log.hit(read(), PEER, "all", 200, 1234, 0.0)
        monkeypatch.setattr(module, "CAPACITY", 10 * here.log._taken)  # noqa: SLF001 - how long a line is
        for _ in range(14):
            here.log.hit(read(), PEER, "all", 200, 1234, 0.0)
        assert here.log.dropped == 5
        assert len(here.lines()) == 10


async def test_long_lines_take_the_room_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 100_000)
    with piped() as here:
        for _ in range(20):
            here.log.hit(read(target="/" + "x" * 30_000), PEER, "all", 200, 1234, 0.0)
        assert here.log.dropped == 16
        assert len(here.lines()) == 4


async def test_a_request_that_was_refused_has_a_line_too() -> None:
    with piped(lambda: 0.0) as here:
        here.log.refused("::1", 400, Reason.MALFORMED)
        time = "1970-01-01T00:00:00.000+00:00"
        line = {"time": time, "client": "::1", "status": 400, "cache": "refused", "reason": "malformed"}
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
    one, count = outcome(), 0
    with piped() as here:
        here.fill()
        while not here.log.dropped:
            here.log.record(one)
            count += 1
            if count % 1000 == 0:
                await turns(2)
        assert count * 200 < CAPACITY < count * 400
        for _ in range(500):
            here.log.record(one)
        assert here.log.dropped == 501
        lines = here.lines()
        assert len(lines) == count - 1  # none torn, none twice
        assert here.log.dropped == 501


async def test_a_pipe_that_somebody_made_non_blocking_is_waited_for() -> None:
    with piped() as here:
        here.fill()
        os.set_blocking(here.writing, False)
        for number in range(3000):
            here.log.record(outcome(status=number))
        assert [line["status"] for line in here.lines()] == list(range(3000))
        assert (here.log.lost, here.log.dropped) == (0, 0)


async def test_a_write_that_fails_within_a_line_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is full for a while."""
    write, full = os.write, [False, True]

    def failing(descriptor: int, data: bytes) -> int:
        if full and full.pop(0):
            raise OSError(errno.ENOSPC, "")
        return write(descriptor, data[:10] if full else data)

    monkeypatch.setattr(os, "write", failing)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    with piped() as here:
        here.log.record(outcome(status=201))
        await until(lambda: here.log.lost)
        here.log.record(outcome(status=202))
        here.log.record(outcome(status=203))
        here.log.close()
        os.close(here.writing)
        here.writing = -1
        torn, *whole = os.read(here.reading, 65536).splitlines()
        assert len(torn) == 10
        assert [json.loads(line)["status"] for line in whole] == [202, 203]
        assert here.log.lost == 1


async def test_a_reader_that_reads_again_gets_lines_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    one = outcome()
    with piped() as here:
        here.fill()
        here.log.record(one)
        monkeypatch.setattr(module, "CAPACITY", 100 * here.log._taken)  # noqa: SLF001 - how long a line is
        for _ in range(149):
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


# -- several processes, one pipe


async def test_lines_of_several_that_write_to_one_pipe_stay_whole(tmp_path: Path) -> None:
    """Lines of up to 20 KB: a pipe takes 4 KiB in one piece."""
    with piped() as here:
        others = [AccessLog(here.writing, lambda: WALL, tmp_path / "turns") for _ in range(4)]
        targets = [f"/{at}-{'x' * (at * 997 % 20_000)}" for at in range(200)]
        for at, target in enumerate(targets):
            others[at % 4].record(outcome(target))
            if at % 40 == 0:
                await asyncio.sleep(module.INTERVAL)  # so that each has several batches
        assert sorted(line["target"] for line in await here.take(len(targets))) == sorted(targets)
        for other in others:
            other.close()
        assert (tmp_path / "turns").stat().st_size == 0


async def test_who_dies_in_the_middle_of_a_line_spoils_only_that_one(tmp_path: Path) -> None:
    with piped() as here:
        (tmp_path / "turns").write_bytes(b"!")
        os.write(here.writing, b'{"time":"20')
        log = AccessLog(here.writing, lambda: WALL, tmp_path / "turns")
        for _ in range(2):
            log.record(outcome())
            log._hand_over()  # noqa: SLF001 - two batches
        log.close()
        torn, first, second, rest = os.read(here.reading, 65536).split(b"\n")
        assert (torn, rest) == (b'{"time":"20', b"")
        assert json.loads(first) == json.loads(second)
        assert (tmp_path / "turns").stat().st_size == 0
