"""What all instances have together: answers in Redis, and the leases that make one fetch do for the whole fleet.

An answer's place is a digest of its policy and key. All its keys share one hash tag:

    PREFIX:{H}:e            the answer, or a pointer naming the request fields that tell its variants apart
    PREFIX:{H}:eVARIANT     one of these
    PREFIX:{H}:lAVARIANT    the lease to fetch it: `token epoch n`, or `!reason` where its answers cannot be shared
    PREFIX:{H}:wAVARIANT    the instances that wait for its holder

A is 1 for requests that say who asks, which wait for nobody else, and 0 for all others.

A claim is one round trip where there is something to find or nobody to wait for. Whoever has to wait
hears a word by way of the channel `PREFIX:to:INSTANCE`: `w`, the lease's key, its token and the word, with
line feeds between them. A word that is lost costs the rest of a lease, no more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, assert_never

from redis import ResponseError

from proxy.edges import codec
from proxy.edges.codec import Packed
from proxy.edges.redis_leases import Counters, Desk, Grant, Hold, Leases, Log, Spawn
from proxy.edges.redis_link import Link
from proxy.edges.redis_look import TAKE, Look, Mode, Next, Outcome, Pointer
from proxy.edges.redis_script import Script
from proxy.flow.sharing import Alone, Apart, Broken, Claim, Found, Lease, Rest, Wanted
from proxy.rules.fields import selecting
from proxy.rules.message import Entry, Headers, Reason

LIMIT: Final = 1 << 20  # bytes of a frame; what is larger is not shared
_TTL_MAX: Final = 12 * 3600.0  # seconds; the log reaches back twice as far
_LINGER: Final = 60.0  # seconds for which an answer is still worth validating
_TURNS: Final = 8  # words a claim follows before it goes alone
_THREAD: Final = 64 << 10  # bytes of body; writing more takes longer than the loop may stand still

_TOGETHER: Final = False  # what is stored is for whoever does not say who asks, too

_FILL: Final = Script.load("fill")

# What is true of one request says nothing of what is stored for all.
_ASKERS_OWN: Final = frozenset({Reason.AUTHORIZATION, Reason.CREDENTIALS})


class RedisStore:
    """flow.sharing.SharedStore. Made inside the running loop.

    `now` gives monotonic seconds, `wall` the time of day by Redis's clock, as far as it is known, `spawn` owns the
    tasks. Whoever subscribes to `PREFIX:to:INSTANCE` hands what begins with `w` to `on_word`.
    """

    def __init__(
        self,
        link: Link,
        log: Log,
        *,
        prefix: str,
        instance: str,
        now: Callable[[], float],
        wall: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self._desk = Desk(link, log, prefix, instance, now, wall, spawn, asyncio.get_running_loop())
        self._leases = Leases(self._desk)
        link.on_lost.append(self._ask_again)
        self._looks: dict[str, tuple[Look, ...]] = {}  # by lease

    @property
    def counters(self) -> Counters:
        """What has happened so far."""
        return self._desk.counters

    async def close(self) -> None:
        """Release every lease; whoever waits goes alone."""
        for look in self._under_way():
            look.settle(Apart())
        await self._leases.close()

    def look(self, wanted: Wanted, then: Callable[[Found | Rest], None]) -> None:
        """See flow.sharing.SharedStore."""
        self._look(wanted, (), TAKE).then(wanted, then)

    def _begun(self, wanted: Wanted, look: Look, outcome: Outcome) -> Rest:
        return _Begun(partial(self._claim, wanted), look, outcome)

    async def claim(self, wanted: Wanted, within: float) -> Claim:
        """See flow.sharing.SharedStore."""
        return await self._claim(wanted, None, None, within)

    async def _claim(self, wanted: Wanted, look: Look | None, outcome: Outcome | None, within: float) -> Claim:
        """The same, of which a first look may have come to something already."""
        until, mode, turns = self._desk.loop.time() + within, TAKE, 0
        if look is not None and outcome is not None:
            outcome = look.in_time(outcome)
        while turns < _TURNS:
            if outcome is None:
                outcome = await self._look(wanted, (), mode).outcome(until)
            if isinstance(outcome, Pointer):
                outcome = await self._look(wanted, selecting(wanted.fields, outcome.names), mode).outcome(until)
            answer, outcome = outcome, None
            match answer:
                case Next.LATER:
                    continue
                case Next.AGAIN:
                    mode = TAKE
                case Next.LOOK:
                    mode = Mode.LOOK
                case Pointer():
                    break
                case _:
                    return answer
            turns += 1
        return Apart()

    def _look(self, wanted: Wanted, vary: Headers, mode: Mode) -> Look:
        """The look that is under way for this place, or a new one."""
        place = self._desk.place(wanted.policy, wanted.key, vary, wanted.apart)
        looks = self._looks.get(place.lease, ())
        for look in looks:
            if look.mode is mode and look.known == wanted.known:
                return look
        look = Look(self._desk, self._leases, place, wanted, vary, mode, self._over, self._begun)
        self._looks[place.lease] = (*looks, look)
        look.ask()
        return look

    def _over(self, look: Look) -> None:
        lease = look.place.lease
        looks = self._looks.get(lease, ())
        if looks == (look,):
            del self._looks[lease]
        elif look in looks:
            self._looks[lease] = tuple([other for other in looks if other is not look])

    def _under_way(self) -> list[Look]:
        return [look for looks in self._looks.values() for look in looks]

    def on_word(self, payload: bytes) -> None:
        """What was published to this instance: `w`, lease, token and word."""
        with suppress(ValueError):  # of another version, or none of ours
            lease, token, word = payload[1:].decode().split("\n")
            self._desk.counters.words += 1
            for look in self._looks.get(lease, ()):
                look.hear(token, word)

    def on_records(self) -> None:
        """The log has applied something: who waits for a fetch that is overtaken need not."""
        for look in self._under_way():
            look.recheck()

    def on_hearing(self, hearing: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Whether words reach this instance. Some may have been lost: whoever waits asks again."""
        self._desk.hears = hearing
        self._ask_again()

    def _ask_again(self) -> None:
        for look in self._under_way():
            look.miss()

    def keep(self, lease: Lease | None, entry: Entry, asked: float) -> None:
        """See flow.sharing.SharedStore."""
        hold = _say(lease)
        if entry.length > codec.MAX_BODY:
            self._desk.counters.refused += 1
            self._release(hold, "apart")
        elif entry.length <= _THREAD:
            self._pack(hold, entry, asked)
        else:
            self._desk.spawn(self._pack_large(hold, entry, asked), "large value")

    def give_up(self, lease: Lease, outcome: Alone | Broken | Apart) -> None:
        """See flow.sharing.SharedStore."""
        hold = _say(lease)
        if hold is None:
            return
        match outcome:
            case Alone(reason):
                word = f"alone {reason.value}"
                self._leases.release(hold, word, reason.value, drop=reason not in _ASKERS_OWN)
            case Broken(reason, status):
                self._leases.release(hold, f"broken {reason.value} {status}")
            case Apart():
                self._leases.release(hold, "apart")
            case _:
                assert_never(outcome)

    def drop(self, entry: Entry) -> None:
        """See flow.sharing.SharedStore."""
        place = self._desk.place(entry.terms.policy, entry.key, entry.vary, _TOGETHER)
        self._leases.drop(place, entry.stored_at, entry.seq)

    def _pack(self, hold: Hold | None, entry: Entry, asked: float) -> None:
        try:
            packed = codec.pack(entry)
        except (ValueError, TypeError):  # texts that are no Unicode
            self._release(hold, "apart")
        else:
            self._fill(hold, entry, packed, asked)

    async def _pack_large(self, hold: Hold | None, entry: Entry, asked: float) -> None:
        try:
            packed = await asyncio.to_thread(codec.pack, entry)
        except (ValueError, TypeError):
            self._release(hold, "apart")
        else:
            self._fill(hold, entry, packed, asked)

    def _fill(self, hold: Hold | None, entry: Entry, packed: Packed, asked: float) -> None:
        """Send it, if it may still be stored."""
        desk, terms = self._desk, entry.terms
        position = desk.log.place(entry.seq)
        if desk.log.overtaken(entry, entry.seq):
            self._release(hold, "again")
            return
        if position is None or terms.distrusted or len(packed.payload) > LIMIT:
            desk.counters.refused += len(packed.payload) > LIMIT
            self._release(hold, "apart")
            return
        now = desk.now()
        left = entry.fresh_until - now
        windows = max(terms.stale_window, terms.error_window, terms.lost_window)
        ttl = max(1.0, min(left + windows + _LINGER, _TTL_MAX))
        place = desk.place(terms.policy, entry.key, entry.vary, _TOGETHER)
        waited = place if hold is None else hold.place
        args: list[bytes | str | int] = [
            "" if hold is None else hold.token,
            round((now - asked) * 1000),
            round(ttl * 1000),
            *position,
            codec.head_of(packed, entry, position, now),
            packed.payload,
            f"{desk.prefix}:to:",
            "again" if left > 0 and not terms.always_validate else "validate",
        ]
        if entry.vary:
            names = codec.pack_pointer(tuple([name for name, _ in entry.vary]))
            args += [codec.head_of(names, entry, position, now), names.payload]
        future = desk.link.run(_FILL, (place.base, place.value, waited.lease, waited.waiters), args)
        future.add_done_callback(partial(self._filled, hold))

    def _filled(self, hold: Hold | None, future: asyncio.Future[Any]) -> None:
        error = self._desk.noting(future)
        if error is None:
            self._desk.counters.kept += future.result() == 1
            if hold is not None:
                self._leases.forget(hold)
        elif isinstance(error, ResponseError):  # Redis is full, for one
            self._release(hold, "apart")
        elif hold is not None:
            self._leases.forget(hold)  # it ends by itself

    def _release(self, hold: Hold | None, word: str) -> None:
        if hold is not None:
            self._leases.release(hold, word)


def _say(lease: Lease | None) -> Hold | None:
    """The lease that something is said of now, if it is one that nothing was said of yet."""
    if not isinstance(lease, Grant) or lease.hold.said:
        return None
    lease.hold.said = True
    return lease.hold


class _Begun:
    """flow.sharing.Rest: what a look has come to. A lease that is dropped with it is free."""

    __slots__ = ("_claim", "_look", "_outcome")

    def __init__(
        self, claim: Callable[[Look, Outcome | None, float], Coroutine[Any, Any, Claim]], look: Look, outcome: Outcome
    ) -> None:
        self._claim, self._look = claim, look
        self._outcome: Outcome | None = outcome

    def go_on(self, within: float) -> Coroutine[Any, Any, Claim]:
        """See flow.sharing.Rest."""
        outcome, self._outcome = self._outcome, None
        return self._claim(self._look, outcome, within)

    def drop(self) -> None:
        """See flow.sharing.Rest."""
        self._outcome = None
