"""Coalescing: one fetch in the air that many requests wait for and read from.

A flight has a task of its own, so whoever leaves does not take it down. Its chunks are kept from
the first while it may be shared or stored; once it may not, only a window of them is, and the
fetch goes at the pace of its slowest reader.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.flow.expiring import ExpiringSet
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import OriginError
from proxy.flow.tracing import TraceSpan
from proxy.rules.message import Entry, Head, Headers, Reason

WINDOW: Final = 256 << 10  # bytes a fetch may run ahead of its slowest reader when nothing is kept
UNSHAREABLE_SECONDS: Final = 30.0  # nobody queues for a key whose answer proved unshareable
FAILED_SECONDS: Final = 3.0  # a stale answer is given at once after a failed fetch


@dataclass(frozen=True, slots=True)
class Landed:
    """The answer is a whole entry: the stored one freshened by a 304, or `stale` in place of an error.

    With a `reason`, why not, what came with the 304 is not kept: it is for the one who asked.
    """

    entry: Entry
    status: int
    stale: bool
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Streaming:
    """The answer's body is on its way. `draft` is what is being stored; `reason` why nothing is.

    `shared`: whoever waited may read it too. `close`: only the connection's end will end it.
    """

    head: Head
    length: int | None
    close: bool
    draft: Entry | None
    reason: Reason | None
    shared: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """There was no answer."""

    reason: Reason


Arrival = Landed | Streaming | Failed


class FlightMemory:
    """What all flights together hold; `limit` and `used` in bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, size: int) -> bool:
        """Claim room, False where there is none."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True


class Flight:
    """One fetch. It is a subject of the invalidation log: `url`, `host`, `tags`, `seq`.

    `asked` is when it was sent, in monotonic seconds, and infinite before that; `task` does the fetching.
    """

    task: asyncio.Task[None]
    on_let_go: Callable[[], None] | None = None  # told when its chunks are no longer all kept
    span: TraceSpan | None = None  # where its leader is traced

    def __init__(self, url: str, host: str, tags: tuple[str, ...], log: InvalidationLog, memory: FlightMemory) -> None:
        self.url, self.host, self.tags = url, host, tags
        self.seq = log.position
        self.asked = float("inf")
        self.arrival: Arrival | None = None
        self.chunks: list[bytes] = []
        self.size = 0
        self._memory = memory
        self._held = 0  # bytes claimed of the shared memory
        self._dropped = 0  # chunks no longer kept
        self._kept = self._storing = True
        self._broke: Reason | None = None
        self._ended = False
        self._waiting = 0
        self._readers: set[Reader] = set()
        self._last = 0  # readers that still need the oldest chunk, once chunks go; 0: not counted
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def arrived(self) -> Arrival:
        """Wait for the head, or for the news that there is none."""
        self._waiting += 1
        try:
            while self.arrival is None:
                await self._changed.wait()
        finally:
            self._waiting -= 1
        return self.arrival

    def settle(self, arrival: Arrival) -> bool:
        """The head has come. Says once and to all what it means; False where nobody wants the body."""
        self.arrival = arrival
        if isinstance(arrival, Landed):
            self.tags = arrival.entry.tags
        elif isinstance(arrival, Streaming):
            if arrival.draft is not None:
                self.tags = arrival.draft.tags
            self._kept = arrival.draft is not None or arrival.shared
            self._storing = arrival.draft is not None
        self._notify()
        return self._wanted

    @property
    def _wanted(self) -> bool:
        """Whether anybody, or the store, wants more of it, or may when woken."""
        return bool(self._readers) or (self._kept and (self._storing or self._waiting > 0))

    @property
    def ending(self) -> bool:
        """Whether its task is over, or about to be."""
        return self._ended or not self._wanted

    async def push(self, chunk: bytes, limit: int) -> bool:
        """More body; False once nothing of it is kept and nobody reads. `limit` is the largest size kept."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self._kept:
            if self.size > limit or not self._memory.take(len(chunk)):
                self._let_go()
            else:
                self._held += len(chunk)
        self._notify()
        while not self._kept and self._readers and sum(map(len, self.chunks)) > WINDOW:
            self._room.clear()
            await self._room.wait()
        return self._wanted

    @property
    def kept(self) -> bool:
        """Whether every chunk since the first is still there."""
        return self._kept

    @property
    def broke(self) -> Reason | None:
        """Why it ended before its body did."""
        return self._broke

    def end(self, broke: Reason | None = None) -> None:
        """The body is complete, or broke off. What comes after the first call changes nothing.

        The reason alone is kept: an exception holds the frames it passed, and one of them holds this flight.
        """
        if self._ended:
            return
        self._ended, self._broke, self.on_let_go = True, broke, None
        self._release()
        self._notify()

    def reader(self) -> "Reader | None":
        """Read along from the first chunk; None where that need not be there any more."""
        return Reader(self) if self._kept else None

    def enter(self, reader: "Reader") -> None:
        """Count a reader in."""
        self._readers.add(reader)

    def leave(self, reader: "Reader") -> None:
        """Count it out; the last to leave takes down a fetch that nothing is kept of."""
        self._readers.discard(reader)
        self.advanced(reader.at)
        self._release()
        if self.arrival is not None and not self._wanted and not self._ended:
            self.task.cancel()

    async def chunk(self, at: int) -> bytes | None:
        """The chunk of that number, None behind the last. Raises OriginError where the body broke off."""
        while at >= self._dropped + len(self.chunks):
            if self._ended:
                if self._broke is not None:
                    raise OriginError(self._broke)
                return None
            await self._changed.wait()
        return self.chunks[at - self._dropped]

    def advanced(self, at: int) -> None:
        """A reader went on from the chunk of that number: with nothing kept, what all have read can go."""
        # Who goes on last from the oldest chunk looks where all the others are: once for each chunk, not each step.
        if not self._kept and at == self._dropped:
            self._last -= 1
            if self._last <= 0:
                self._trim()

    def _let_go(self) -> None:
        self._kept = False
        self._trim()
        if self.on_let_go is not None:
            self.on_let_go()

    def _trim(self) -> None:
        if self._kept:
            return
        # Without readers nothing goes: the one who will read may only be about to.
        behind = min((r.at for r in self._readers), default=self._dropped) - self._dropped
        if behind > 0:
            freed = min(self._held, sum(map(len, self.chunks[:behind])))
            self._held -= freed
            self._memory.used -= freed
            del self.chunks[:behind]
            self._dropped += behind
        self._last = sum(r.at == self._dropped for r in self._readers)
        self._room.set()

    def _release(self) -> None:
        if self._ended and not self._readers:
            self._memory.used -= self._held
            self._held = 0

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Reader:
    """One reader of a flight, at its own pace. Leave by `close`, always."""

    __slots__ = ("_flight", "at")

    def __init__(self, flight: Flight) -> None:
        self._flight, self.at = flight, 0
        flight.enter(self)

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._flight.chunk(self.at)
        if chunk is None:
            raise StopAsyncIteration
        self.at += 1
        self._flight.advanced(self.at - 1)
        return chunk

    def close(self) -> None:
        """Read no further."""
        self._flight.leave(self)


class Flights:
    """What is in the air, and what is remembered of what was."""

    def __init__(self, log: InvalidationLog, memory: FlightMemory) -> None:
        self.log, self.memory = log, memory
        self.unshareable = ExpiringSet(65_536)
        self.failed = ExpiringSet(65_536)
        self.started = 0  # flights so far, those that nobody could join too
        self._flying: dict[tuple[str, Headers], Flight] = {}

    def joinable(self, shelf: str, variant: Headers, since: float) -> Flight | None:
        """A flight for this that was sent at or after `since` and that no invalidation has overtaken."""
        flight = self._flying.get((shelf, variant))
        if flight is None or flight.asked < since or self.log.overtaken(flight, flight.seq):
            return None
        return flight

    def register(self, shelf: str, variant: Headers, flight: Flight) -> None:
        """Let others find it. One that was overtaken loses its place to it."""
        self._flying[shelf, variant] = flight

    def remove(self, shelf: str, variant: Headers, flight: Flight) -> None:
        """It is over, unless another already stands in its place."""
        if self._flying.get((shelf, variant)) is flight:
            del self._flying[shelf, variant]

    def failed_lately(self, shelf: str, now: float) -> Reason | None:
        """Why a fetch for this failed a moment ago, if one did: until that has passed a stale answer will do."""
        until = self.failed.until(shelf)
        return None if until is None or now >= until else self.failed.reason(shelf)

    def must_go_alone(self, shelf: str, now: float) -> Reason | None:
        """Why the key's answers proved unshareable a short while ago, if they did. When that is over one
        request is told nothing and finds out, while the rest still pass.
        """
        until, reason = self.unshareable.until(shelf), self.unshareable.reason(shelf)
        if until is None or reason is None:
            return None
        if now < until:
            return reason
        self.unshareable.add(shelf, now + UNSHAREABLE_SECONDS, reason)
        return None

    def __len__(self) -> int:
        return len(self._flying)
