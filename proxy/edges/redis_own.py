"""Connections to one Redis server on which a caller is alone: what blocks there holds up nobody else."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from proxy.edges.redis_wire import Order, Unreachable, Wire, Word, pack

_MOST: Final = 4  # connections; callers beyond wait their turn
_KEPT: Final = 1  # connections that stay, idle
_IDLE: Final = 10.0  # seconds after which the others are closed


class Own:
    """Up to four connections. `connect` makes one, within so many seconds or Unreachable."""

    def __init__(self, name: str, connect: Callable[[float], Awaitable[Wire]], now: Callable[[], float]) -> None:
        self._name, self._connect, self._now = name, connect, now
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(_MOST)
        self._idle: list[tuple[Wire, float]] = []  # and since when; the last is taken first
        self._busy: set[Wire] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = ""

    async def run(self, calls: Sequence[tuple[Word, ...]], deadline: float) -> list[Any]:
        """The replies and error replies, in order. Raises Unreachable where nothing was sent.

        `deadline` is in seconds, waiting for a turn and connecting included. A command without a reply by then has an
        Unreachable in its place: it may run all the same.
        """
        at = self._now()
        try:
            async with asyncio.timeout(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise Unreachable(f"{self._name} has {_MOST} calls before this one") from None
        try:
            own = self._last() or await self._connect(at + deadline - self._now())
            if self._closed:
                own.close()
                raise Unreachable(self._closed)
            own.limit(deadline)
            return await self._exchange(own, calls, at)
        finally:
            self._free.release()

    def close(self, why: str, *, now: bool = False) -> None:
        """Take no more calls; `now`: and break off those that run."""
        self._closed = why
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        for own in [*[own for own, _ in idle], *(self._busy if now else ())]:
            own.close()

    def _last(self) -> Wire | None:
        if self._closed:
            raise Unreachable(self._closed)
        while self._idle:
            own, _ = self._idle.pop()
            if not own.lost:
                return own
        return None

    async def _exchange(self, own: Wire, calls: Sequence[tuple[Word, ...]], at: float) -> list[Any]:
        self._busy.add(own)
        futures: list[asyncio.Future[Any]] = [self._loop.create_future() for _ in calls]
        for words, future in zip(calls, futures, strict=True):
            own.send(Order(pack(words), at, future))
        whole = False
        try:
            replies = await asyncio.gather(*futures, return_exceptions=True)
            whole = not any(isinstance(reply, Unreachable) for reply in replies)
        finally:
            self._busy.discard(own)
            if whole and not self._closed:
                self._idle.append((own, self._now()))
                self._watch()
            else:
                own.close()  # what is still to come belongs to nobody
        return replies

    def _watch(self) -> None:
        if self._timer is None and len(self._idle) > _KEPT:
            self._timer = self._loop.call_later(_IDLE, self._prune)

    def _prune(self) -> None:
        """Close those that were not needed for a while."""
        self._timer = None
        since = self._now() - _IDLE / 2
        while len(self._idle) > _KEPT and self._idle[0][1] <= since:
            self._idle.pop(0)[0].close()
        self._watch()
