"""One connection to one Redis server, fully pipelined.

redis-py's own connection waits for each reply in a coroutine; here a reader hands every reply to the
future that waits for it, and the commands of one loop tick leave in one write. hiredis parses.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

from hiredis import Reader, pack_command
from redis import ResponseError

Address = tuple[str, int]
Word = bytes | str | int

_POLL: Final = 0.002  # seconds in which the loop surely looks at its sockets once
_LENIENCE: Final = 0.02  # seconds for which bytes that keep coming put off the verdict
_MAX_UNSENT: Final = 16 << 20  # bytes; while the server does not take them, more is refused
_WINDOW: Final = 256  # commands under way, or answered and not handed over: it bounds what their replies take
_BULK: Final = 4 << 20  # bytes a second; replies that come as fast may take their time
_LATE: Final = 0.005  # seconds after which our own loop was late to send
_LONGEST: Final = 10  # deadlines that a caller waits at most, and a connection without bulk lives
_PIECE: Final = 8 << 10  # bytes; the parser moves what is left of what it was fed with every reply that it gives
_SLICE: Final = 12  # replies handed over in one tick
_NOTHING: Final = object()


def pack(words: tuple[Word, ...]) -> bytes:
    """A command as it is sent."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]  # its stub means one word
    return packed


def unpack(packed: bytes) -> list[bytes]:
    """Its words again."""
    reader = Reader()
    reader.feed(packed)
    words: list[bytes] = reader.gets()
    return words


class Unreachable(Exception):
    """No answer in time, or no connection. It says where, and never holds a secret.

    `sent`: what was asked for may have been done all the same.
    """

    sent: bool = True


@dataclass(slots=True)
class Counters:
    """Plain integers, read when somebody asks; `latency` is a weighted mean of seconds per round trip.
    `failed_connects`: attempts of the link that came to nothing, a login that was refused among them.
    """

    commands: int = 0
    batches: int = 0
    errors: int = 0
    timeouts: int = 0
    reconnects: int = 0
    failed_connects: int = 0
    latency: float = 0.0


class Taker:
    """Takes a reply where it comes: for whoever would have to make a task to wait for a future.

    `take` gets the reply, or the error that there is instead of one. It must not raise.
    """

    __slots__ = ("_take",)

    def __init__(self, take: Callable[[Any, Exception | None], None]) -> None:
        self._take: Callable[[Any, Exception | None], None] | None = take

    def done(self) -> bool:
        """Whether it has been told."""
        return self._take is None

    def set_result(self, reply: Any) -> None:  # noqa: ANN401 - RESP
        """As of a future."""
        take, self._take = self._take, None
        if take is not None:
            take(reply, None)

    def set_exception(self, error: Exception) -> None:
        """As of a future."""
        take, self._take = self._take, None
        if take is not None:
            take(None, error)

    def exception(self) -> None:
        """As of a future: nobody need be told again."""


class Order:
    """A command under way, packed: who waits for its reply, and since when (monotonic seconds).

    `source` is the script's, where the command calls one by its hash; `excused` its wire's then.
    """

    __slots__ = ("at", "excused", "future", "packed", "source")
    excused: float

    def __init__(self, packed: bytes, at: float, future: asyncio.Future[Any] | Taker, source: str = "") -> None:
        self.packed, self.at, self.future, self.source = packed, at, future, source

    def fail(self, error: Exception) -> None:
        """Tell whoever still waits."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # who does not care for the outcome need not fetch it


class Wire(asyncio.Protocol):
    """A connection. Replies are bytes, integers, None and lists of them (RESP2), and come in order.

    `deadline`: seconds from handing a command over to its reply. Whoever waits longer is told Unreachable, and the
    reply is dropped when it comes; time in which large replies poured in, or our own loop could not send, does not
    count. Silence for as long, with something to be answered, breaks the connection; so does a reply that is ten
    deadlines late. `on_error` gets every error reply with its order, `on_lost` is called once, with words for the
    reason.
    """

    def __init__(self, address: Address, counters: Counters, now: Callable[[], float]) -> None:
        self.address, self.deadline = address, float("inf")
        self.name = f"Redis at {address[0]}:{address[1]}"
        self.lost = ""  # why, once it is
        self.on_error: Callable[[Wire, Order, ResponseError], None] = _fail
        self.on_lost: Callable[[Wire, str], None] | None = None
        self.on_push: Callable[[Any], None] | None = None  # takes every reply instead of an order
        self.heard = now()  # when bytes last came
        self._counters, self._now = counters, now
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(protocolError=ConnectionError, replyError=ResponseError, notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._batch: list[bytes] = []
        self._waiting: deque[Order] = deque()  # under way
        self._queue: deque[Order] = deque()  # behind those
        self._come: deque[tuple[Order, Any]] = deque()  # replies that have still to be handed over
        self._handing = False  # as soon as the loop comes to it
        self._queued = 0  # bytes
        self._begun = 0.0  # when the first command of this tick came
        self._silent = self.heard  # since when nothing has come of what is asked
        self._excused = 0.0  # seconds that nobody is blamed for, never more than have passed
        self._reckoned = self.heard  # up to when that is known
        self._earned = 0.0  # seconds of it that bytes have bought in advance: what is read at once is handled later
        self._timer: asyncio.TimerHandle | None = None
        self._stuffed = False

    def limit(self, deadline: float) -> None:
        """Another deadline for what follows, while nothing is under way."""
        self.deadline = deadline
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def order(self, *words: Word) -> asyncio.Future[Any]:
        """The reply to one command."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(Order(pack(words), self._now(), future))
        return future

    def send(self, order: Order) -> None:
        """Let it leave with the others of this tick, or when there is room for it."""
        if self.lost or self._stuffed:
            order.fail(Unreachable(self.lost or f"{self.name} takes no more"))
            return
        order.excused = self._excused
        waiting = self._waiting
        if len(waiting) + len(self._come) < _WINDOW and not self._queue:
            if not self._batch:
                self._begin()
            self._batch.append(order.packed)
            waiting.append(order)
        elif self._queued + len(order.packed) > _MAX_UNSENT:
            order.fail(Unreachable(f"{self.name} takes no more"))
        else:
            self._queued += len(order.packed)
            self._queue.append(order)

    def say(self, words: tuple[Word, ...]) -> None:
        """The same for what nobody waits for: with `on_push` only, or replies go to the wrong ones."""
        if not self._batch:
            self._begin()
        self._batch.append(pack(words))

    def _begin(self) -> None:
        self._begun = self._now()
        self._loop.call_soon(self._flush)

    def _refill(self) -> None:
        """Let those leave that waited for room, if they still wait."""
        while self._queue and len(self._waiting) + len(self._come) < _WINDOW and not self._stuffed and not self.lost:
            order = self._queue.popleft()
            self._queued -= len(order.packed)
            if not order.future.done():
                if not self._batch:
                    self._begin()
                self._batch.append(order.packed)
                self._waiting.append(order)

    def close(self) -> None:
        """Close it; whoever waits is told."""
        self._break("closed", tell=False)

    def _flush(self) -> None:
        batch, transport = self._batch, self._transport
        if self.lost or transport is None:
            return
        self._batch = []
        self._counters.batches += 1
        now = self._now()
        if now - self._begun > _LATE:
            self._excuse(now - self._begun, now)
        if len(self._waiting) <= len(batch):
            self._silent = now  # nothing was asked before
        transport.write(batch[0] if len(batch) == 1 else b"".join(batch))
        if self._timer is None and self.deadline < float("inf"):
            self._arm()

    def _excuse(self, seconds: float, now: float) -> float:
        """Let so much of the time until now count for nobody; not twice, so that who came first gives up first."""
        excused = min(seconds, now - self._reckoned)
        self._excused += excused
        self._reckoned = now
        return excused

    def _patience(self, order: Order) -> float:
        """When its caller gives up."""
        return order.at + min(self.deadline + self._excused - order.excused, _LONGEST * self.deadline)

    def _end(self) -> float:
        """When the connection is given up, if nothing comes."""
        oldest = self._waiting[0]
        late = oldest.at + self._excused - oldest.excused + _LONGEST * self.deadline
        return min(max(self._silent, oldest.at) + self.deadline, late)

    def _orders(self) -> Iterator[Order]:
        """Those that are waited for, oldest first."""
        return (order for order in chain(self._waiting, self._queue) if not order.future.done())

    def _next(self) -> float:
        """When something is due: a caller gives up, or the connection is given up."""
        first = next(self._orders(), None)
        return self._end() if first is None else min(self._end(), self._patience(first))

    def _arm(self) -> None:
        """Look again when something is due; one timer serves all of them."""
        left = self._next() - self._now() if self._waiting else self.deadline
        self._timer = self._loop.call_later(max(left, 0.0), self._due)

    def _due(self) -> None:
        self._timer = None
        if self._waiting:
            now = self._now()
            if self._next() > now:
                self._arm()
            else:  # our own loop may be the one that is late: let it read what has come
                self._timer = self._loop.call_later(_POLL, self._judge, now, now + _LENIENCE)

    def _judge(self, since: float, until: float) -> None:
        self._timer = None
        if not self._waiting:
            return
        now = self._now()
        if self._next() > now:
            self._arm()
        elif self.heard > since and now < until:
            self._timer = self._loop.call_later(_POLL, self._judge, self.heard, until)
        elif self._end() <= now:
            self._counters.timeouts += 1
            self._break(f"gave no answer within {self.deadline * 1000:g} ms")
        else:
            self._give_up(now)
            self._arm()

    def _give_up(self, now: float) -> None:
        """Tell those who have waited long enough. Their places in line stay, for the replies to come."""
        for order in self._orders():
            if self._patience(order) > now:
                break
            self._counters.timeouts += 1
            order.fail(Unreachable(f"{self.name} gave no answer within {self.deadline * 1000:g} ms"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=_MAX_UNSENT)
        if self.lost:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._break("reset the connection" if exc is not None else "closed the connection")

    def pause_writing(self) -> None:
        """Of asyncio."""
        self._stuffed = True

    def resume_writing(self) -> None:
        """Of asyncio."""
        self._stuffed = False
        self._refill()

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self.heard = self._silent = now = self._now()
        earned = min(self._earned + len(data) / _BULK, self.deadline)
        self._earned = earned - self._excuse(earned, now)
        reader, waiting = self._reader, self._waiting
        oldest = waiting[0].at if waiting else now
        nonsense = False
        try:
            for at in range(0, len(data), _PIECE):
                reader.feed(data, at, min(_PIECE, len(data) - at))
                while (reply := reader.gets()) is not _NOTHING:
                    if self.on_push is None:
                        self._come.append((waiting.popleft(), reply))
                    else:
                        self.on_push(reply)
        except (ConnectionError, IndexError):
            nonsense = True
        if not self._handing:
            self._hand_over()
        if nonsense:
            self._break("does not speak Redis's protocol")
            return
        if self.on_push is None:
            self._counters.latency += (now - oldest - self._counters.latency) / 16

    def _hand_over(self) -> None:
        """Give some replies to those who wait, and the others in the next tick: between them the loop writes what has
        been made of these, and clients go on while we do.
        """
        come = self._come
        try:
            for _ in range(min(_SLICE, len(come))):
                order, reply = come.popleft()
                if reply.__class__ is ResponseError:
                    self.on_error(self, order, reply)
                elif not order.future.done():
                    order.future.set_result(reply)
        finally:  # whoever takes one may have a bug, and the others wait
            self._handing = bool(come)
            if come:
                self._loop.call_soon(self._hand_over)
            if self._queue:
                self._refill()

    def _break(self, what: str, *, tell: bool = True) -> None:
        if self.lost:
            return
        self.lost = f"{self.name} {what}"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting = [*self._waiting, *self._queue]
        self._waiting, self._queue, self._queued, self._batch = deque(), deque(), 0, []
        on_lost, self.on_lost = self.on_lost, None
        if tell and on_lost is not None:  # first, so that nobody who is told tries this connection again
            on_lost(self, self.lost)
        for order in waiting:
            order.fail(Unreachable(self.lost))


def _fail(_: Wire, order: Order, error: ResponseError) -> None:
    order.fail(error)
