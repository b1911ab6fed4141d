"""One question to Redis, and the wait that it may lead to, for all claims in this process that have it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto, unique
from functools import partial
from typing import Any, Final
from zlib import crc32

from proxy.edges import codec
from proxy.edges.codec import Damaged, UnknownVersion
from proxy.edges.redis_leases import LEASE, Desk, Grant, Leases, Place
from proxy.edges.redis_link import Script
from proxy.flow.ports import Alone, Apart, Broken, Claim, Found, Lead, Wanted
from proxy.rules.message import Entry, Headers, Reason

_WAITERS: Final = 2.5  # leases: they ask again, and so are put down again, each time one ends
_ASKS: Final = 4  # questions in a row

_CLAIM: Final = Script.load("claim")


@unique
class Mode(Enum):
    """What to do where there is nothing fresh."""

    TAKE = "take"  # the lease, or queue up for it
    LOOK = "look"  # nothing


@unique
class Next(Enum):
    """What a claim does that has got no answer yet."""

    LATER = auto()  # the lease it waited for has ended
    AGAIN = auto()  # something has changed
    LOOK = auto()  # there is something to validate, for everybody on their own


@dataclass(frozen=True, slots=True)
class Pointer:
    """The answer has variants, which these request fields tell apart."""

    names: tuple[str, ...]


Outcome = Claim | Pointer | Next


class Look:
    """One question to Redis, and the wait that it may lead to, for any number of claims."""

    def __init__(
        self,
        desk: Desk,
        leases: Leases,
        place: Place,
        wanted: Wanted,
        vary: Headers,
        mode: Mode,
        on_over: Callable[["Look"], None],
    ) -> None:
        self.place, self.mode, self.known = place, mode, wanted.known
        self.position = 0  # of the log, when what came of it was judged
        self._desk, self._leases, self._wanted, self._vary, self._on_over = desk, leases, wanted, vary, on_over
        self._waiters: list[tuple[asyncio.Future[Outcome], float]] = []
        self._base: Entry | None = None
        self._asks = 0
        self._passed = b""  # the beginning of a value that is of no use
        self._holder: tuple[str, str, int] | None = None  # whom it waits for: token, epoch, n
        self._words: list[tuple[str, str]] = []  # that came before the answer to the question
        self._due = self._next = 0.0  # by the loop's clock: the lease's end; when to do something
        self._timer: asyncio.TimerHandle | None = None

    async def outcome(self, until: float) -> Outcome:
        """What comes of it, for one claim that waits until then, by the loop's clock."""
        outcome = await self._join(until)
        log = self._desk.log
        if self.position == log.position:
            return outcome
        match outcome:  # the log has gone on before this claim had its turn
            case Found(entry) if log.judge(entry, self.position) is not entry:
                return Next.AGAIN
            case Lead(lease, Entry() as base):
                return Lead(lease, log.judge(base, self.position))
            case _:
                return outcome

    def _join(self, until: float) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = self._desk.loop.create_future()
        self._waiters.append((future, until))
        if self._holder is not None and until < self._next:
            self._wake_at(until)
        return future

    def ask(self, overtaken: str = "") -> None:
        """Ask Redis. `overtaken`: whose lease may be taken over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._holder = None
        self._asks += 1
        here = self._desk.log.place(self._desk.log.position)
        if here is None or self._asks > _ASKS:
            self._desk.loop.call_soon(self.settle, Apart())  # the claim that asks has not joined yet
            return
        place, token, known = self.place, self._leases.token(), self.known
        args = (
            token,
            *here,
            round(LEASE * 1000),
            self._desk.instance,
            round(_WAITERS * LEASE * 1000),
            self._passed,
            round((self._desk.now() - known) * 1000) if known > float("-inf") else "",
            overtaken,
            self.mode.value,
        )
        future = self._desk.link.run(_CLAIM, (place.value, place.lease, place.waiters), args)
        future.add_done_callback(partial(self._answered, token))

    def settle(self, outcome: Outcome) -> None:
        """Tell every claim. A lease that none of them takes ends with the last that drops it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._holder = None
        self._on_over(self)
        self.position = self._desk.log.position
        waiters, self._waiters = self._waiters, []
        for future, _ in waiters:
            if not future.done():
                future.set_result(outcome)

    def recheck(self) -> None:
        """The log has gone on: has it overtaken the fetch that this waits for?"""
        if self._holder is not None and self._is_overtaken():
            self.ask(overtaken=self._holder[0])

    def miss(self) -> None:
        """A word may have been lost."""
        if self._holder is not None:
            self.settle(Next.AGAIN)

    def hear(self, token: str, word: str) -> None:
        """A word about this lease."""
        if self._holder is None:
            self._words.append((token, word))
        else:
            self._heed(token, word)

    def _answered(self, token: str, future: asyncio.Future[Any]) -> None:
        if self._desk.noting(future) is not None:
            self.settle(Apart())
            return
        self._desk.counters.reads += 1
        match future.result():
            case [b"fresh", now_ms, value]:
                self._read(value, now_ms, None)
            case [b"lead", now_ms, value]:
                lease = self._leases.grant(token if self.mode is Mode.TAKE else "", self.place)
                if value is None:
                    self._lead(lease)
                else:
                    self._read(value, now_ms, lease)
            case [b"held", holder, epoch, n, left_ms, now_ms, value]:
                self._wait((holder.decode(), epoch.decode(), int(n)), left_ms)
                self._bridge(value, now_ms)
                if self._holder is not None and not self._desk.hears:
                    self.settle(Apart())
            case [b"pointer", value]:
                self._follow(value)
            case [b"alone", reason]:
                self.settle(_alone(reason.decode()))
            case _:
                self.settle(Apart())

    def _read(self, value: bytes, now_ms: int, lease: Grant | None) -> None:
        """A value, and the lease where that is ours because the value is stale."""
        if codec.is_heavy(value):
            self._desk.spawn(self._read_heavy(value, now_ms, lease), "large value")
        else:
            self._judge(value, self._decoded(value, self._asked(now_ms)), lease)

    async def _read_heavy(self, value: bytes, now_ms: int, lease: Grant | None) -> None:
        try:
            entry = await asyncio.to_thread(self._decoded, value, self._asked(now_ms))
        except BaseException:
            self.settle(Apart())  # nobody may wait for ever
            raise
        self._judge(value, entry, lease)

    def _asked(self, now_ms: int) -> codec.Asked:
        desk, wanted = self._desk, self._wanted
        return codec.Asked(wanted.key, wanted.policy, self._vary, desk.now(), now_ms, desk.log.at)

    def _decoded(self, value: bytes, asked: codec.Asked) -> Entry | Exception:
        try:
            return codec.decode(value, asked)
        except (Damaged, UnknownVersion) as error:
            return error

    def _judge(self, value: bytes, entry: Entry | Exception, lease: Grant | None) -> None:
        self._base = self._valid(entry)
        if lease is not None:
            self._lead(lease)
        elif self._base is not None and self._base is entry:
            self._find(entry)
        else:
            self._passed = codec.identity(value)
            self.ask()

    def _valid(self, entry: Entry | Exception) -> Entry | None:
        """What the log leaves of it."""
        if isinstance(entry, Exception):
            self._note(entry)
            return None
        return self._desk.log.judge(entry, entry.seq)

    def _bridge(self, value: bytes | None, now_ms: int) -> None:
        """While somebody renews it, what may be served stale is served."""
        if self._holder is None:
            return
        if value is not None and codec.is_heavy(value):
            self._desk.spawn(self._bridge_heavy(value, now_ms), "large value")
            return
        self._serve_stale(self._base if value is None else self._valid(self._decoded(value, self._asked(now_ms))))

    async def _bridge_heavy(self, value: bytes, now_ms: int) -> None:
        entry = await asyncio.to_thread(self._decoded, value, self._asked(now_ms))
        self._serve_stale(self._valid(entry))

    def _serve_stale(self, entry: Entry | None) -> None:
        if entry is None or entry.terms.always_validate or entry.terms.never_stale:
            return
        if self._holder is not None and self._desk.now() < entry.stale_until:
            self._find(entry)

    def _find(self, entry: Entry) -> None:
        self._desk.counters.found += 1
        self.settle(Found(entry))

    def _note(self, error: Exception) -> None:
        if isinstance(error, UnknownVersion):
            self._desk.counters.unknown_version += 1
        else:
            self._desk.counters.damaged += 1

    def _lead(self, lease: Grant) -> None:
        self._desk.counters.leads += 1
        self.settle(Lead(lease, self._base))

    def _follow(self, value: bytes) -> None:
        try:
            names = codec.decode_pointer(value)
        except (Damaged, UnknownVersion) as error:
            self._note(error)
            self._passed = codec.identity(value)
            self.ask()
        else:
            self.settle(Pointer(names))

    def _wait(self, holder: tuple[str, str, int], left_ms: int) -> None:
        self._holder = holder
        if self._is_overtaken():
            self.ask(overtaken=holder[0])
            return
        self._desk.counters.waits += 1
        self._asks = 0
        # Not all at once; a lease without an end is none of ours.
        left = (left_ms if left_ms >= 0 else LEASE * 1000) + 2 + crc32(self._desk.instance.encode()) % 16
        self._due = self._desk.loop.time() + left / 1000
        self._wake_at(min(self._due, *[until for _, until in self._waiters]) if self._waiters else self._due)
        words, self._words = self._words, []
        for token, word in words:
            if self._holder is not None:
                self._heed(token, word)

    def _is_overtaken(self) -> bool:
        """Whether what the holder fetches is outdated already. One that is ahead of us knows better."""
        if self._holder is None:
            return False
        since = self._desk.log.at(self._holder[1], self._holder[2])
        return since <= self._desk.log.position and self._desk.log.overtaken(self._wanted, since)

    def _heed(self, token: str, word: str) -> None:
        kind, _, rest = word.partition(" ")
        if kind == "validate":
            self.settle(Next.LOOK)
        elif kind == "again":
            self.settle(Next.AGAIN)
        elif self._holder is None or token != self._holder[0]:
            return  # what came of a fetch that nobody here waits for any more
        elif kind == "alone":
            self.settle(_alone(rest))
        elif kind == "broken":
            self.settle(_broken(rest))
        else:
            self.settle(Apart())

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = at
        self._timer = self._desk.loop.call_at(at, self._wake)

    def _wake(self) -> None:
        """The lease has ended, or somebody has waited long enough, or has gone."""
        now = self._desk.loop.time() + 0.001  # a timer may be early by what it cannot tell apart
        left = []
        for future, until in self._waiters:
            if future.done():
                continue
            if until <= now:
                future.set_result(Apart())
            else:
                left.append((future, until))
        self._waiters = left
        if not left or self._due <= now:
            self.settle(Next.LATER)
        else:
            self._wake_at(min(self._due, *[until for _, until in left]))


def _alone(reason: str) -> Claim:
    try:
        return Alone(Reason(reason))
    except ValueError:  # another version's
        return Apart()


def _broken(words: str) -> Claim:
    reason, _, status = words.partition(" ")
    try:
        return Broken(Reason(reason), int(status))
    except ValueError:
        return Apart()
