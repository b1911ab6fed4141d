"""The verdict on a connection, by a clock and timers of the test's own. What real servers do to it: test_redis_link."""

import asyncio
import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest

from proxy.edges.redis_wire import Counters, Order, Taker, Unreachable, Wire, pack

DEADLINE = 0.1
STEP = 0.001
WINDOW = 256  # commands under way
MEBIBYTE = b"$1048576\r\n" + bytes(1 << 20) + b"\r\n"
OK = b"+OK\r\n"


class Time:
    """A loop's clock and timers, which go on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._soon: list[Callable[[], None]] = []
        self._numbers = count()
        self._cancelled: set[int] = set()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def call_later(self, seconds: float, call: Callable[..., None], *args: object) -> "Timer":
        number = next(self._numbers)
        heapq.heappush(self._timers, (self.now + seconds, number, call, args))
        return Timer(self._cancelled, number)

    def tick(self) -> None:
        """What was to be done soon is done."""
        soon, self._soon = self._soon, []
        for call in soon:
            call()

    def settle(self) -> None:
        """And what that leads to."""
        while self._soon:
            self.tick()

    def go(self, seconds: float) -> None:
        """On time, timer by timer."""
        end = self.now + seconds
        self.tick()
        while self._timers and self._timers[0][0] <= end:
            at, number, call, args = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            if number not in self._cancelled:
                call(*args)
            self.tick()
        self.now = end

    def stand(self, seconds: float) -> None:
        """Nothing is done for so long: the loop has its hands full."""
        self.now += seconds

    @property
    def timers(self) -> int:
        return len([number for _, number, _, _ in self._timers if number not in self._cancelled])


class Timer:
    def __init__(self, cancelled: set[int], number: int) -> None:
        self._cancelled, self._number = cancelled, number

    def cancel(self) -> None:
        self._cancelled.add(self._number)


class Transport:
    """What was written, and whether it was given up."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high


class Rig:
    """A wire that is connected to nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.transport, self.counters = Time(), Transport(), Counters()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", lambda: self.time)
            self.wire = Wire(("redis.test", 6379), self.counters, lambda: self.time.now)
        self.wire.connection_made(self.transport)  # type: ignore[arg-type]  # as much of one as it uses
        self.wire.limit(DEADLINE)

    def ask(self, number: int = 1) -> list[asyncio.Future[Any]]:
        """Hand over commands in one tick, and let them leave."""
        asked = [self.wire.order("ECHO", str(n)) for n in range(number)]
        self.time.tick()
        return asked

    def pour(self, data: bytes, seconds: float) -> None:
        """Let this come evenly over that time."""
        steps = round(seconds / STEP)
        piece = -(-len(data) // steps)
        for step in range(steps):
            self.time.go(STEP)
            self.wire.data_received(data[step * piece : (step + 1) * piece])


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def given_up(future: asyncio.Future[Any]) -> bool:
    return future.done() and isinstance(future.exception(), Unreachable)


async def test_large_replies_that_pour_in_are_waited_for(rig: Rig) -> None:
    asked = rig.ask(24)
    rig.pour(MEBIBYTE * 24, 6 * DEADLINE)  # 40 MiB a second
    assert [len(await one) for one in asked] == [1 << 20] * 24
    assert (rig.wire.lost, rig.counters.timeouts) == ("", 0)


async def test_a_loop_that_is_busy_with_large_replies_gives_nobody_up_for_it(rig: Rig) -> None:
    asked = rig.ask(20)
    for _ in range(10):
        rig.time.stand(DEADLINE * 0.8)
        rig.time.go(STEP)  # timers come first
        rig.wire.data_received(MEBIBYTE * 2)
    assert [len(await one) for one in asked] == [1 << 20] * 20
    assert rig.counters.timeouts == 0


async def test_replies_that_come_slowly_cost_their_callers_and_not_the_connection(rig: Rig) -> None:
    asked = rig.ask(8)
    rig.pour(MEBIBYTE, 5 * DEADLINE)  # 2 MiB a second
    assert given_up(asked[7])
    assert not rig.wire.lost
    late = rig.wire.order("PING")
    rig.wire.data_received(MEBIBYTE * 7 + b"+PONG\r\n")
    assert await late == b"PONG", "the replies that nobody waits for are dropped in their order"


async def test_a_caller_gives_up_at_its_own_deadline_while_others_are_answered(rig: Rig) -> None:
    (first,) = rig.ask()
    rig.time.go(DEADLINE * 0.6)
    rig.wire.data_received(b"$1000\r\n")  # not silent
    (second,) = rig.ask()
    rig.time.go(DEADLINE * 0.5)
    assert given_up(first)
    assert not second.done()
    assert rig.counters.timeouts == 1
    rig.wire.data_received(bytes(1000) + b"\r\n" + OK)
    assert await second == b"OK"
    assert not rig.wire.lost


async def test_silence_for_the_deadline_breaks_the_connection(rig: Rig) -> None:
    lost: list[str] = []
    rig.wire.on_lost = lambda _, why: lost.append(why)
    rig.ask(2)
    rig.wire.data_received(OK)
    (later,) = rig.ask()
    rig.time.go(DEADLINE * 0.95)
    assert lost == []
    rig.time.go(DEADLINE * 0.1)
    assert [*lost] == ["Redis at redis.test:6379 gave no answer within 100 ms"]
    assert rig.transport.aborted
    assert given_up(later)
    assert rig.time.timers == 0


async def test_silence_in_the_middle_of_large_replies_is_noticed_as_soon(rig: Rig) -> None:
    asked = rig.ask(100)
    rig.pour(MEBIBYTE * 20, 3 * DEADLINE)
    assert not rig.wire.lost
    rig.time.go(DEADLINE * 1.05)
    assert rig.transport.aborted
    assert all(given_up(one) for one in asked[20:])


async def test_a_connection_that_is_not_asked_anything_is_left_alone(rig: Rig) -> None:
    (asked,) = rig.ask()
    rig.wire.data_received(OK)
    rig.time.go(50 * DEADLINE)
    assert (await asked, rig.wire.lost, rig.time.timers) == (b"OK", "", 0)
    (asked,) = rig.ask()
    rig.time.go(DEADLINE * 0.95)
    assert not rig.wire.lost, "silence counts from the question on"
    rig.time.go(DEADLINE * 0.1)
    assert given_up(asked)


async def test_a_reply_that_is_ten_deadlines_late_breaks_the_connection(rig: Rig) -> None:
    """A server that says a little again and again is of no use either."""
    rig.ask()
    rig.wire.data_received(b"$1000000\r\n")
    for _ in range(98):
        rig.time.go(DEADLINE / 10)
        rig.wire.data_received(b"x")
    assert not rig.wire.lost
    for _ in range(4):
        rig.time.go(DEADLINE / 10)
        rig.wire.data_received(b"x")
    assert rig.wire.lost


async def test_nobody_waits_longer_than_ten_deadlines_however_much_comes(rig: Rig) -> None:
    asked = rig.ask(60)
    rig.pour(MEBIBYTE * 25, 9.8 * DEADLINE)
    assert not asked[59].done()
    rig.pour(MEBIBYTE, 0.5 * DEADLINE)
    assert given_up(asked[59])
    assert not rig.wire.lost, "it does what it can"


async def test_a_loop_that_sends_late_blames_nobody(rig: Rig) -> None:
    asked = rig.wire.order("PING")
    rig.time.stand(3 * DEADLINE)
    rig.time.tick()
    rig.time.go(DEADLINE * 0.5)
    assert not asked.done()
    rig.wire.data_received(b"+PONG\r\n")
    assert await asked == b"PONG"
    assert not rig.wire.lost


async def test_what_has_come_while_the_loop_was_busy_is_read_before_the_verdict(rig: Rig) -> None:
    (asked,) = rig.ask()
    rig.time.stand(3 * DEADLINE)
    rig.time.go(STEP)  # timers come first
    rig.wire.data_received(OK)
    assert await asked == b"OK"
    rig.time.go(DEADLINE)
    assert not rig.wire.lost


async def test_one_timer_serves_all_commands(rig: Rig) -> None:
    for _ in range(50):
        rig.ask(10)
        rig.wire.data_received(OK * 10)
    assert rig.time.timers == 1


async def test_what_is_under_way_is_bounded_and_the_rest_follows_in_order(rig: Rig) -> None:
    asked = rig.ask(WINDOW + 20)
    assert sum(write.count(b"ECHO") for write in rig.transport.writes) == WINDOW
    rig.wire.data_received(b"".join([b":%d\r\n" % n for n in range(15)]))
    rig.time.tick()
    assert sum(write.count(b"ECHO") for write in rig.transport.writes) == WINDOW + 15
    rig.wire.data_received(b"".join([b":%d\r\n" % n for n in range(15, WINDOW + 15)]))
    rig.time.tick()
    rig.wire.data_received(b"".join([b":%d\r\n" % n for n in range(WINDOW + 15, WINDOW + 20)]))
    rig.time.settle()
    assert [await one for one in asked] == list(range(WINDOW + 20))


async def test_many_replies_at_once_leave_the_loop_time_for_what_comes_of_them(rig: Rig) -> None:
    asked = rig.ask(30)
    rig.wire.data_received(b"".join([b":%d\r\n" % n for n in range(29)]))
    assert [one.done() for one in asked] == [True] * 12 + [False] * 18
    rig.wire.data_received(b":29\r\n")
    assert [one.done() for one in asked] == [True] * 12 + [False] * 18, "nobody overtakes those who came before"
    rig.time.tick()
    assert [one.done() for one in asked] == [True] * 24 + [False] * 6
    rig.time.settle()
    assert [one.result() for one in asked] == list(range(30))


async def test_replies_that_have_come_count_though_the_connection_breaks(rig: Rig) -> None:
    asked = rig.ask(30)
    rig.wire.data_received(b"".join([b":%d\r\n" % n for n in range(29)]))
    rig.wire.connection_lost(None)
    rig.time.settle()
    assert [one.result() for one in asked[:29]] == list(range(29))
    assert given_up(asked[29])


async def test_a_bug_of_whoever_takes_a_reply_keeps_nobody_else_from_theirs(rig: Rig) -> None:
    told: list[int] = []

    def take(n: int, *_: object) -> None:
        if n == 13:
            raise RuntimeError
        told.append(n)

    for n in range(20):
        rig.wire.send(Order(pack(("PING",)), rig.time.now, Taker(partial(take, n))))
    rig.time.tick()
    rig.wire.data_received(OK * 20)
    with pytest.raises(RuntimeError):
        rig.time.settle()
    rig.time.settle()
    assert told == [n for n in range(20) if n != 13]
    (late,) = rig.ask()
    rig.wire.data_received(OK)
    assert await late == b"OK"


async def test_no_more_replies_lie_here_than_may_be_under_way(rig: Rig) -> None:
    asked = rig.ask(WINDOW + 3000)
    for turn in range(12):
        rig.wire.data_received(OK * (WINDOW if turn == 0 else 12))
        rig.time.tick()
        told = sum(one.done() for one in asked)
        assert sum(write.count(b"ECHO") for write in rig.transport.writes) <= told + WINDOW


async def test_whoever_asks_for_more_where_a_reply_comes_waits_behind_those_in_the_queue(rig: Rig) -> None:
    def more(*_: object) -> None:
        rig.wire.order("PING")

    rig.wire.send(Order(pack(("GET", "k")), rig.time.now, Taker(more)))
    rig.ask(WINDOW + 5)
    rig.wire.data_received(OK * 2)
    rig.time.settle()
    assert rig.transport.writes[-1].count(b"ECHO") == 2
    assert b"PING" not in b"".join(rig.transport.writes)


async def test_who_gives_up_in_the_queue_is_never_sent(rig: Rig) -> None:
    asked = rig.ask(WINDOW + 5)
    rig.time.go(DEADLINE * 0.9)
    rig.wire.data_received(OK)
    left = rig.ask(1)
    rig.time.go(DEADLINE * 0.3)
    assert all(given_up(one) for one in asked[1:])
    assert not left[0].done()
    rig.wire.data_received(OK * (WINDOW - 1))
    rig.time.tick()
    assert sum(write.count(b"ECHO") for write in rig.transport.writes) == WINDOW + 2
    rig.wire.data_received(OK * 2)
    rig.time.settle()
    assert await left[0] == b"OK"


async def test_what_waits_for_room_is_bounded_in_bytes(rig: Rig) -> None:
    rig.ask(WINDOW)
    futures: list[asyncio.Future[Any]] = [rig.time.create_future() for _ in range(17)]
    for future in futures:
        rig.wire.send(Order(pack(("SET", "k", bytes(1 << 20))), rig.time.now, future))
    assert [future.done() for future in futures] == [False] * 15 + [True] * 2
    assert given_up(futures[16])
    assert not rig.wire.lost
    rig.wire.close()
    assert all(given_up(future) for future in futures), "nobody is forgotten"


async def test_a_server_that_does_not_take_what_is_written_is_given_no_more(rig: Rig) -> None:
    asked = rig.ask(WINDOW + 1)
    rig.wire.pause_writing()
    refused = rig.wire.order("PING")
    assert given_up(refused)
    rig.wire.data_received(OK * WINDOW)
    rig.time.tick()
    assert not asked[WINDOW].done()
    rig.wire.resume_writing()
    rig.time.tick()
    rig.wire.data_received(OK)
    rig.time.settle()
    assert await asked[WINDOW] == b"OK"


async def test_replies_are_handed_over_in_order_when_all_that_came_were_read(rig: Rig) -> None:
    """Who takes one may send, or close, at once."""
    told: list[tuple[Any, Exception | None]] = []

    def take(reply: Any, error: Exception | None) -> None:  # noqa: ANN401 - RESP
        told.append((reply, error))
        rig.wire.order("PING")
        rig.wire.close()

    for _ in range(2):
        rig.wire.send(Order(pack(("PING",)), rig.time.now, Taker(take)))
    (behind,) = rig.ask()
    rig.wire.data_received(OK * 2)
    assert told == [(b"OK", None)] * 2
    assert given_up(behind)


async def test_who_takes_a_reply_is_told_of_an_error_once(rig: Rig) -> None:
    told: list[tuple[Any, Exception | None]] = []
    rig.wire.send(Order(pack(("PING",)), rig.time.now, Taker(lambda *word: told.append(word))))
    rig.time.tick()
    rig.time.go(DEADLINE * 3)
    [(reply, error)] = told
    assert reply is None
    assert isinstance(error, Unreachable)
    rig.wire.close()
    assert len(told) == 1
