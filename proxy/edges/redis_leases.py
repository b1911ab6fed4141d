"""The right to fetch for the whole fleet, and what looks, leases and the store have in common."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, Final, Protocol

from proxy.edges.redis_link import Link
from proxy.edges.redis_script import Prepared, Script
from proxy.flow.invalidation import Subject
from proxy.flow.ports import InvalidationView
from proxy.rules.message import Headers

LEASE: Final = 2.0  # seconds that a holder may be silent
RENEW: Final = 0.6  # seconds between two renewals
UNSHAREABLE: Final = 30.0  # seconds for which nobody waits for what proved unshareable

_CLAIM: Final = Script.load("claim")
_RELEASE: Final = Script.load("release")
_RENEW: Final = Script.load("renew")

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Log(InvalidationView, Protocol):
    """What is asked of the invalidation log."""

    def place(self, position: int) -> tuple[str, int] | None:
        """What others call a position of ours: epoch and number."""
        ...

    def at(self, epoch: str, number: int) -> int:
        """The position that others call so."""
        ...

    def overtaken(self, subject: Subject, since: int) -> bool:
        """Whether a record behind `since` touches the subject, or might."""
        ...


@dataclass(slots=True)
class Counters:
    """Plain integers, read when somebody asks."""

    reads: int = 0  # questions that Redis has answered
    found: int = 0
    leads: int = 0
    waits: int = 0
    words: int = 0
    kept: int = 0
    refused: int = 0  # too large to share
    damaged: int = 0
    unknown_version: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Redis keys. `base` is the value's where there are no variants; `claim` is lua/claim.lua about them, but for what
    is different each time.
    """

    base: str
    value: str
    lease: str
    waiters: str
    claim: Prepared


@dataclass(slots=True)
class Hold:
    """A lease of ours; without a token nobody else knows of it."""

    token: str
    place: Place
    position: int  # of the log, when it was granted
    since: float  # monotonic seconds, likewise
    taken: bool = False
    said: bool = False  # what came of it


class Grant:
    """flow.sharing.Lease. One that is dropped with nothing said is released, whatever the reason."""

    __slots__ = ("_dropped", "hold")

    def __init__(self, hold: Hold, dropped: Callable[[Hold], None]) -> None:
        self.hold, self._dropped = hold, dropped

    def take(self) -> bool:
        """See flow.sharing.Lease."""
        hold = self.hold
        if hold.taken or hold.said:
            return False
        hold.taken = True
        return True

    def __del__(self) -> None:
        if not self.hold.said:
            self._dropped(self.hold)


@dataclass(slots=True)
class Desk:
    """What looks, leases and the store have in common. `now` is in monotonic seconds, `wall` Redis's time of day, as
    far as it is known.
    """

    link: Link
    log: Log
    prefix: str
    instance: str
    now: Callable[[], float]
    wall: Callable[[], float]
    spawn: Spawn
    loop: asyncio.AbstractEventLoop
    counters: Counters = field(default_factory=Counters)
    hears: bool = False  # whether words reach this instance; nobody waits for what cannot be heard
    place: Callable[[str, str, Headers, bool], Place] = field(init=False)

    def __post_init__(self) -> None:
        self.place = lru_cache(maxsize=4096)(self._place)  # whoever looks in vain stores a moment later

    def _place(self, policy: str, key: str, vary: Headers, apart: bool) -> Place:  # noqa: FBT001 - names are no keys
        """Where an answer is, or would be."""
        stem = f"{self.prefix}:{{{_digest(policy, key)}}}:"
        variant = _digest(*[f"{name}:{value}" for name, value in vary]) if vary else ""
        end = f"{'1' if apart else '0'}{variant}"
        value, lease, waiters = f"{stem}e{variant}", f"{stem}l{end}", f"{stem}w{end}"
        claim = Prepared(_CLAIM, (value, lease, waiters), (round(LEASE * 1000), self.instance))
        return Place(f"{stem}e", value, lease, waiters, claim)

    def noting(self, future: asyncio.Future[Any]) -> BaseException | None:
        """The error that a command came to, counted."""
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self.counters.errors += 1
        return error


def _digest(*texts: str) -> str:
    return blake2b("\n".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Leases:
    """The leases of this process, and the one task that renews them while there are any."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._stem, self._granted = secrets.token_hex(8), 0
        self._held: dict[str, Hold] = {}
        self._renewing = False

    def token(self) -> str:
        """One that nobody has had."""
        self._granted += 1
        return f"{self._stem}{self._granted}"

    def grant(self, token: str, place: Place) -> Grant:
        """For what Redis has let us have; with an empty token for what needs no permission."""
        hold = Hold(token, place, self._desk.log.position, self._desk.now())
        if token:
            self._held[token] = hold
            if not self._renewing:
                self._renewing = True
                self._desk.spawn(self._renew(), "lease renewals")
        return Grant(hold, self._dropped)

    def forget(self, hold: Hold) -> None:
        """It has ended."""
        self._held.pop(hold.token, None)

    def release(self, hold: Hold, word: str, reason: str = "", *, drop: bool = False) -> asyncio.Future[Any] | None:
        """End it and tell who waits. With a reason nobody queues for a while; `drop`: what was stored before goes."""
        hold.said = True
        self.forget(hold)
        if not hold.token:
            return None
        return self._release(hold.token, hold.place, word, reason, (hold.since, hold.position) if drop else None)

    def drop(self, place: Place, came: float, position: int) -> None:
        """Delete a value that came then, in monotonic seconds, or before, with the log at that position."""
        self._release("", place, "", "", (came, position))

    def _release(
        self, token: str, place: Place, word: str, reason: str, outdated: tuple[float, int] | None
    ) -> asyncio.Future[Any]:
        desk = self._desk
        known, epoch, n = "", "", 0
        if outdated is not None:
            known = str(round((desk.now() - outdated[0]) * 1000))
            epoch, n = desk.log.place(outdated[1]) or ("", 0)
        args = (token, word, f"{desk.prefix}:to:", reason, round(UNSHAREABLE * 1000), known, epoch, n)
        future = desk.link.run(_RELEASE, (place.lease, place.waiters, place.value), args)
        future.add_done_callback(desk.noting)
        return future

    async def close(self) -> None:
        """Release all, so that others need not wait for their end."""
        sent = [self.release(hold, "again") for hold in list(self._held.values()) if not hold.said]
        await asyncio.gather(*[future for future in sent if future is not None], return_exceptions=True)

    def _dropped(self, hold: Hold) -> None:
        """Whoever drops it last may be the collector, in any thread."""
        with suppress(RuntimeError):  # the loop is closed: it ends by itself
            self._desk.loop.call_soon_threadsafe(self._abandon, hold)

    def _abandon(self, hold: Hold) -> None:
        if not hold.said:
            self.release(hold, "again")

    async def _renew(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(RENEW)
                # One that somebody keeps and does not take ends by itself.
                for hold in [hold for hold in self._held.values() if hold.taken]:
                    args = (hold.token, round(LEASE * 1000))
                    future = self._desk.link.run(_RENEW, (hold.place.lease,), args)
                    future.add_done_callback(partial(self._renewed, hold))
        finally:
            self._renewing = False

    def _renewed(self, hold: Hold, future: asyncio.Future[Any]) -> None:
        if self._desk.noting(future) is None and not future.result():
            self.forget(hold)  # somebody else's by now; what it brings may be stored all the same
