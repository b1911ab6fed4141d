"""One question to Redis, and the wait that it may lead to, for all claims in this process that have it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto, unique
from functools import partial
from typing import Any, Final
from zlib import crc32

from proxy.edges import codec
from proxy.edges.codec import Damaged, UnknownVersion
from proxy.edges.redis_leases import Desk, Grant, Leases, Place
from proxy.flow.sharing import Alone, Apart, Broken, Claim, Found, Lead, Rest, Wanted
from proxy.rules.message import Entry, Headers, Reason

_log = logging.getLogger(__name__)

_ASKS: Final = 4  # questions in a row
_AHEAD: Final = 0.05  # seconds for a record to come of which somebody else has heard already

_EVER: Final = float("-inf")


@unique
class Mode(Enum):
    """What to do where there is nothing fresh."""

    TAKE = auto()  # the lease, or queue up for it
    LOOK = auto()  # nothing


TAKE: Final = Mode.TAKE  # a global is found ten times as fast as an enum's member


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

    # Most looks are told what they want by the first answer, and need none of these for themselves.
    position = 0  # of the log, when what came of it was judged
    _base: Entry | None = None
    _asks = 0
    _late = False  # a question came too late to Redis, by its clock
    _token = _overtaken = ""
    _passed = b""  # the beginning of a value that is of no use
    _holder: tuple[str, str, int] | None = None  # whom it waits for: token, epoch, n
    _ahead: tuple[int, bytes] | None = None  # or for the log: its position, and a value
    _words: tuple[tuple[str, str], ...] = ()  # that came before the answer to the question
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        desk: Desk,
        leases: Leases,
        place: Place,
        wanted: Wanted,
        vary: Headers,
        mode: Mode,
        on_over: Callable[["Look"], None],
        go_on: Callable[[Wanted, "Look", Outcome], Rest],
    ) -> None:
        self.place, self.mode, self._wanted, self.known = place, mode, wanted, wanted.known
        self._desk, self._leases, self._vary, self._on_over, self._go_on = desk, leases, vary, on_over, go_on
        self._claims: list[asyncio.Future[Outcome]] = []
        self._takers: list[tuple[Wanted, Callable[[Found | Rest], None]]] = []

    async def outcome(self, until: float) -> Outcome:
        """What comes of it, for one claim; Apart where nothing has come of it by then, by the loop's clock."""
        claim: asyncio.Future[Outcome] = self._desk.loop.create_future()
        self._claims.append(claim)
        timer = self._desk.loop.call_at(until, _let_go, claim)
        try:
            return self.in_time(await claim)
        finally:
            timer.cancel()

    def then(self, wanted: Wanted, take: Callable[[Found | Rest], None]) -> None:
        """Tell `take` what is found or how to go on, not from within this call: for one claim that is no task. What
        Redis or a lease's end leads to is all that it waits for.

        What is `wanted` may be more than what this looks for: of all variants it is the request that selects one.
        """
        self._takers.append((wanted, take))

    def in_time(self, outcome: Outcome) -> Outcome:
        """What is left of it for a claim that has its turn only now."""
        log = self._desk.log
        if self.position == log.position:
            return outcome
        match outcome:  # the log has gone on meanwhile
            case Found(entry) if log.judge(entry, self.position) is not entry:
                return Next.AGAIN
            case Lead(lease, Entry() as base):
                return Lead(lease, log.judge(base, self.position))
            case _:
                return outcome

    def ask(self, overtaken: str = "") -> None:
        """Ask Redis. `overtaken`: whose lease may be taken over."""
        self._wait_no_more()
        self._asks += 1
        self._overtaken = overtaken
        desk = self._desk
        here = desk.log.place(desk.log.position)
        if here is None or self._asks > _ASKS:
            desk.loop.call_soon(self.settle, Apart())  # the claim that asks has not joined yet
            return
        self._token = token = self._leases.token() if self.mode is TAKE else ""
        by = "" if self._late else round((desk.wall() + desk.link.deadline) * 1000)
        claim = f"{token} {here[0]} {here[1]}" if token else ""
        if self.known == _EVER and not self._passed and not overtaken:
            desk.link.tell(self._answered, self.place.claim, claim, by)
        else:
            known = round((desk.now() - self.known) * 1000) if self.known != _EVER else ""
            desk.link.tell(self._answered, self.place.claim, claim, by, known, self._passed, overtaken)

    def settle(self, outcome: Outcome) -> None:
        """Tell every claim. A lease that none of them takes ends with the last that drops it."""
        self._wait_no_more()
        self._on_over(self)
        self.position = self._desk.log.position
        claims, takers = self._claims, self._takers
        self._claims, self._takers = [], []
        for claim in claims:
            if not claim.done():
                claim.set_result(outcome)
        for wanted, take in takers:
            try:
                take(outcome if isinstance(outcome, Found) else self._go_on(wanted, self, outcome))
            except Exception:  # noqa: BLE001 - a bug of whoever takes it, and the others wait
                _log.exception("what came of a look could not be taken")

    def recheck(self) -> None:
        """The log has gone on: has it overtaken the fetch that this waits for, or come to where somebody else was?"""
        if self._holder is not None:
            if self._is_overtaken():
                self.ask(overtaken=self._holder[0])
        elif self._ahead is not None and self._desk.log.position >= self._ahead[0]:
            self.ask()

    def miss(self) -> None:
        """A word may have been lost."""
        if self._holder is not None:
            self.settle(Next.AGAIN)

    def hear(self, token: str, word: str) -> None:
        """A word about this lease."""
        if self._holder is None:
            self._words = (*self._words, (token, word))
        else:
            self._heed(token, word)

    def _answered(self, answer: Any, error: Exception | None) -> None:  # noqa: ANN401 - RESP
        if error is not None:
            self._desk.counters.errors += 1
            self._desk.loop.call_soon(self.settle, Apart())  # the claim that asks may not have joined yet
            return
        self._desk.counters.reads += 1
        try:
            self._take_in(answer)
        except Exception:  # noqa: BLE001 - whatever Redis holds, nobody may hang because of it
            self._cannot()

    def _take_in(self, answer: Any) -> None:  # noqa: ANN401 - RESP
        match answer:
            case [b"fresh", now_ms, value]:
                self._read(value, now_ms, self._judge)
            case [b"lead", now_ms, value]:
                lease = self._leases.grant(self._token, self.place)
                if value is None:
                    self._lead(lease)
                else:
                    self._read(value, now_ms, partial(self._lead_with, lease))
            case [b"held", holder, epoch, n, left_ms, now_ms, value]:
                self._wait((holder.decode(), epoch.decode(), int(n)), left_ms)
                if value is None:
                    self._serve_stale(self._rejudged())
                elif self._holder is not None:
                    self._read(value, now_ms, self._bridge)
                if self._holder is not None and not self._desk.hears:
                    self.settle(Apart())
            case [b"pointer", value]:
                self._follow(value)
            case [b"alone", reason]:
                self.settle(_alone(reason.decode()))
            case [b"late"]:  # and yet here in time: it is the clocks that differ, or our own loop was late to send
                self._late = True
                self.ask(self._overtaken)
            case _:
                self.settle(Apart())

    def _cannot(self) -> None:
        """What is there makes no sense in a way that nobody has thought of."""
        self._desk.counters.damaged += 1
        self.settle(Apart())

    def _read(self, value: bytes, now_ms: int, then: Callable[[bytes, Entry | None], None]) -> None:
        """Go on with the entry in a value, None where that cannot be read."""
        desk, wanted = self._desk, self._wanted
        asked = codec.Asked(wanted.key, wanted.policy, self._vary, desk.now(), now_ms, desk.log.at)
        if codec.is_heavy(value):
            desk.spawn(self._read_heavy(value, asked, then), "large value")
        else:
            then(value, self._decoded(value, asked))

    async def _read_heavy(self, value: bytes, asked: codec.Asked, then: Callable[[bytes, Entry | None], None]) -> None:
        try:
            then(value, await asyncio.to_thread(self._decoded, value, asked))
        except BaseException as error:
            self._cannot()
            if not isinstance(error, Exception):
                raise

    def _decoded(self, value: bytes, asked: codec.Asked) -> Entry | None:
        try:
            return codec.decode(value, asked)
        except (Damaged, UnknownVersion) as error:
            self._note(error)
            return None

    def _judge(self, value: bytes, entry: Entry | None) -> None:
        """What is fresh by Redis's clock: is it so by the log?"""
        if entry is None:
            self._pass_over(value)
            return
        log = self._desk.log
        self._base = log.judge(entry, entry.seq)
        if self._base is entry:
            self._find(entry)
        elif entry.seq > log.position:
            self._ahead = entry.seq, codec.identity(value)
            self._wake_at(self._desk.loop.time() + _AHEAD)
        else:
            self._pass_over(value)

    def _pass_over(self, value: bytes) -> None:
        """Ask for what else there is."""
        self._passed = codec.identity(value)
        self.ask()

    def _bridge(self, _: bytes, entry: Entry | None) -> None:
        """While somebody renews it, what may be served stale is served."""
        self._serve_stale(None if entry is None else self._desk.log.judge(entry, entry.seq))

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

    def _lead_with(self, lease: Grant, _: bytes, base: Entry | None) -> None:
        self._base = base
        self._lead(lease)

    def _lead(self, lease: Grant) -> None:
        self._desk.counters.leads += 1
        self.settle(Lead(lease, self._rejudged()))

    def _rejudged(self) -> Entry | None:
        """What the log leaves of the base by now: it may be an answer or two old."""
        return None if self._base is None else self._desk.log.judge(self._base, self._base.seq)

    def _follow(self, value: bytes) -> None:
        try:
            names = codec.decode_pointer(value)
        except (Damaged, UnknownVersion) as error:
            self._note(error)
            self._pass_over(value)
        else:
            self.settle(Pointer(names))

    def _wait(self, holder: tuple[str, str, int], left_ms: int) -> None:
        self._holder = holder
        if self._is_overtaken():
            self.ask(overtaken=holder[0])
            return
        self._desk.counters.waits += 1
        self._asks = 0
        # Not all instances at once.
        self._wake_at(self._desk.loop.time() + (left_ms + 2 + crc32(self._desk.instance.encode()) % 16) / 1000)
        words, self._words = self._words, ()
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
        self._timer = self._desk.loop.call_at(at, self._wake)

    def _wake(self) -> None:
        """The lease has ended, or a record has not come in time."""
        if self._ahead is None:
            self.settle(Next.LATER)
        else:
            self._pass_over(self._ahead[1])

    def _wait_no_more(self) -> None:
        self._holder = self._ahead = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _let_go(claim: asyncio.Future[Outcome]) -> None:
    if not claim.done():
        claim.set_result(Apart())


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
