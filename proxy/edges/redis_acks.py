"""Who has applied which batch of the invalidation log: what this instance acknowledges, and what it hears of others.

An acknowledgement stays in Redis for a while, for whoever asks, and is sent to the instance that wrote the batch, where
somebody may be waiting for it. It also says how far who sends it has come in the log.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from redis import ResponseError

from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_records import Layout, read_places
from proxy.edges.redis_script import Script
from proxy.flow.follower import Batch, Follower
from proxy.flow.sharing import LogUnreachable, Places, Progress

AT_ONCE: Final = 1000  # batches
ASK_AGAIN: Final = (0.005, 0.25)  # seconds between two looks at a batch's progress: at first, and at most


@dataclass(slots=True)
class _Watch:
    """Who waits here for a batch to be applied everywhere."""

    applied: dict[str, float] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Acknowledgements:
    """Those that one instance sends, and those that are sent to it. `at` is where it stands in the log, `now` gives
    monotonic seconds.
    """

    def __init__(self, link: Link, layout: Layout, at: Follower, now: Callable[[], float]) -> None:
        self._link, self._layout, self._at, self._now = link, layout, at, now
        self._ack_script, self._progress_script = Script.load("ack"), Script.load("progress")
        self._places_script = Script.load("places")
        self._owed: list[Batch] = []
        self._soon = False
        self._watches: dict[str, list[_Watch]] = {}

    # -- ours

    def owe(self, applied: Sequence[Batch]) -> None:
        """Batches were applied here: tell, once for all of this tick, those who wait."""
        self._owed += [batch for batch in applied if batch.sender]
        if self._owed:
            self.send_soon()

    def send_soon(self) -> None:
        """Say in the next tick how far this instance has come, and acknowledge what it owes."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._soon = False
        batches, self._owed = self._owed[-AT_ONCE:], []
        keys, args = self._layout.ack(self._at, batches)
        self._link.run(self._ack_script, keys, args, urgent=True)  # where it fails, the next question says as much

    # -- those of others

    def hear(self, message: bytes) -> bool:
        """Take what was sent to this instance alone; whether it is an acknowledgement, even one that makes no sense."""
        words = message.split(b" ")
        if words[0] != b"ack" or len(words) != 4:
            return False
        _, batch, instance, milliseconds = words
        try:
            took = float(milliseconds)
        except ValueError:  # nobody of ours has said so
            return True
        for watch in self._watches.get(_name(batch), ()):
            watch.applied[_name(instance)] = took
            watch.news.set()
        return True

    async def progress(self, batch: str, within: float) -> Progress | None:
        """How far a batch has come once every live instance has applied it, or after `within` seconds; None: there is
        no such batch. Acknowledgements to this instance are waited for, those to others are looked for again and again.
        Raises LogUnreachable.
        """
        watch, end, pause = _Watch(), self._now() + within, ASK_AGAIN[0]
        self._watches.setdefault(batch, []).append(watch)
        try:
            while True:
                watch.news.clear()
                progress = await self._look_at(batch)
                if progress is None or not progress.pending:
                    return progress
                missing = set(progress.pending)
                left = end - self._now()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        while missing:
                            await watch.news.wait()
                            watch.news.clear()
                            missing -= watch.applied.keys()
                if not missing or left <= pause:  # not by the clock again: a timer may come a little early
                    pending = tuple([name for name in progress.pending if name in missing])
                    return Progress({**progress.applied, **watch.applied}, pending)
                pause = min(pause * 2, ASK_AGAIN[1])
        finally:
            watches = self._watches[batch]
            watches.remove(watch)
            if not watches:
                del self._watches[batch]

    async def _look_at(self, batch: str) -> Progress | None:
        try:
            reply = await self._link.run(self._progress_script, self._layout.progress(batch), [], urgent=True)
        except (Unreachable, ResponseError) as error:
            raise LogUnreachable(str(error)) from None
        if reply is None:
            return None
        applied, pending = reply
        milliseconds = {_name(name): float(ms) for name, ms in zip(applied[::2], applied[1::2], strict=True)}
        return Progress(milliseconds, tuple(sorted(map(_name, pending))))

    async def places(self) -> Places:
        """How far everybody has come in the log. Raises LogUnreachable."""
        try:
            return read_places(await self._link.run(self._places_script, self._layout.places(), [], urgent=True))
        except (Unreachable, ResponseError) as error:
            raise LogUnreachable(str(error)) from None


def _name(word: bytes) -> str:
    return word.decode(errors="replace")
