"""The invalidation log that all instances share, in Redis.

A record is appended and published by one script, so that it travels in a millisecond; the stream is what
makes it certain. A heartbeat asks it for what was missed, and only its answers make the log trusted.
What messages and answers mean is worked out by flow/follower.py; who has applied what is told by redis_acks.py.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from redis import ResponseError

from proxy.edges.redis_acks import Acknowledgements
from proxy.edges.redis_link import Link, Unreachable
from proxy.edges.redis_records import Layout, as_batch, read_answer, read_batch, source, write_body
from proxy.edges.redis_script import Call, Script
from proxy.flow.follower import PROMPT, Batch, Follower, Found, Heard, Outbox
from proxy.flow.invalidation import InvalidationLog, Target
from proxy.flow.ports import Clock
from proxy.flow.sharing import LogUnreachable, Places, Progress

_log = logging.getLogger(__name__)

BEAT: Final = 0.5  # seconds between two questions, give or take a quarter
PROBE: Final = 0.25  # and between two attempts to reach Redis
DEADLINE: Final = 0.1  # seconds for one append, replicated where there are replicas
PACE: Final = 0.005  # seconds between two appends of what is announced, in the long run; more goes together
CREDIT: Final = 0.1  # seconds of that which may be used up at once: nobody waits but in a flood
_REPLICATION: Final = 60  # ms of the deadline
_PAGES: Final = 200  # answers read before the others get their turn
_ACKED: Final = 60.0  # seconds after which nobody waits for a batch any more that was read late
_FIRST: Final = 1.0  # seconds that starting may wait for Redis
_REFUSED: Final = frozenset({"NOREPLICAS", "MISCONF", "OOM"})  # what Redis says before it runs a script

_Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class CorrectedClock(Clock, Protocol):
    """A clock whose wall time goes by that of Redis."""

    def correct(self, offset: float) -> None:
        """`wall` is so many seconds behind."""
        ...


@dataclass(frozen=True, slots=True)
class LogState:
    """For whoever watches. `blind_seconds`: how long nobody has vouched for the log being complete, since the start
    at most; 0 while somebody does. `lag_seconds`: for how long a record has been known to be missing. `outbox`: targets
    that the others have still to be told of. `instances`: alive, this one included.
    """

    reachable: bool
    trouble: str
    blind_seconds: float
    lag_seconds: float
    epoch: str
    number: int
    outbox: int
    instances: int
    replicas: int
    applied: int
    gaps: int
    restarts: int


class RedisLog:
    """A SharedLog. `instance` is a name without spaces that no other has; `max_blind`: seconds for which the log is
    trusted after it was asked.

    `on_applied` is called when records were applied, `on_word` with what others send to this instance alone,
    `on_hearing` with whether words can be heard; those from before it was True again are lost.
    """

    def __init__(  # noqa: PLR0913 - what it is wired to, all by name
        self,
        link: Link,
        log: InvalidationLog,
        *,
        prefix: str,
        instance: str,
        max_blind: float,
        clock: CorrectedClock,
        spawn: _Spawn,
        on_applied: Callable[[], None],
        on_word: Callable[[bytes], None],
        on_hearing: Callable[[bool], None],
    ) -> None:
        self._link, self._log, self._clock, self._spawn = link, log, clock, spawn
        self._instance, self._on_applied, self._on_word = instance, on_applied, on_word
        self._on_hearing = on_hearing
        self._follower = Follower(log, max_blind, clock.now())
        self._outbox = Outbox()
        self._turn = asyncio.Event()  # the next attempt to empty it is over
        self._sending: asyncio.Task[None] | None = None
        self._send_at = 0.0
        self._layout = Layout(prefix, instance)
        self._append_script, self._sync_script = Script(source("append")), Script(source("sync"))
        self._acks = Acknowledgements(link, self._layout, self._follower, clock.now)
        self._fleet: tuple[str, ...] = ()  # name and end of life (ms) of everybody who was alive a moment ago
        self._replicas = 0
        self._applied = 0
        self._kicked, self._first = asyncio.Event(), asyncio.Event()
        self._listening = False
        self._beating: asyncio.Task[None] | None = None
        self._complaint = ""

    async def start(self) -> None:
        """Follow the log, whenever there is one. Returns when it was read and nothing of it can be missed,
        or after a second.
        """
        layout = self._layout
        handlers = {layout.records: self._heard, layout.to(self._instance): self._told}
        self._link.listen(layout.log, handlers, self._hearing)
        self._beating = self._spawn(self._beat_on(), "invalidation log")
        await _set_within(self._first, _FIRST)

    async def close(self) -> None:
        """Stop following, and say so. What waits is told now, or never."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._send_outbox()
        if self._outbox:
            _log.warning("redis is out of reach: the others will not hear of %d invalidations", len(self._outbox))
        try:
            key = self._layout.instances
            await self._link.command(key, "HDEL", key, self._instance, urgent=True)
        except (Unreachable, ResponseError) as error:
            _log.info("redis was not told that this instance ends: %s", error)

    @property
    def instance(self) -> str:
        """The name of this one."""
        return self._instance

    @property
    def instances(self) -> int:
        """How many were alive when the log was last read, this one included; 0 if it never was."""
        return len(self._fleet) // 2

    def state(self) -> LogState:
        """How things are."""
        follower, now = self._follower, self._clock.now()
        return LogState(
            reachable=self._link.reaches(self._layout.log),
            trouble=self._link.trouble or self._complaint,
            blind_seconds=follower.blind_for(now),
            lag_seconds=follower.missing_for(now),
            epoch=follower.epoch,
            number=follower.number,
            outbox=len(self._outbox),
            instances=self.instances,
            replicas=self._replicas,
            applied=self._applied,
            gaps=follower.gaps,
            restarts=follower.restarts,
        )

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        """Tell all others what was applied here already: within the deadline, or as soon as that is possible, even if
        the caller has left.
        """
        if targets:
            self._outbox.put(targets, soft=soft)
            turn = self._turn
            self._send_soon()
            await _set_within(turn, DEADLINE)

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
        """Write one atomic batch and apply it here; gives its id.

        Raises LogUnreachable where it was not written; and, as `sent`, where that cannot be known, or where it was
        and no replica has confirmed it in time: then it is applied all the same. Raises ValueError where there is
        nothing to invalidate.
        """
        if not targets:
            raise ValueError("nothing to invalidate")
        batch, end = secrets.token_hex(8), self._clock.now() + DEADLINE
        body = write_body(targets, who, soft=soft)
        keys, args = self._layout.append(self._follower, batch, len(targets), body, self._fleet)
        copies = min(self._replicas, 1)
        calls = [Call.script(self._append_script, keys, args), Call(("WAIT", copies, _REPLICATION))]
        try:
            (head, replicas), copied = await self._link.alone(keys[0], calls, DEADLINE)
        except Unreachable as error:
            raise LogUnreachable(str(error), sent=error.sent) from None
        except ResponseError as error:
            raise LogUnreachable(str(error), sent=str(error).partition(" ")[0] not in _REFUSED) from None
        known, self._replicas = self._replicas, replicas
        if not self._hear(as_batch(head, targets, who, soft=soft)):
            # Others have written meanwhile; until that is read, ours is applied as a record of our own.
            self._log.append(targets, self._clock.now(), soft=soft)
            self._on_applied()
        if replicas and not copied and (known or not await self._copied(end)):
            raise LogUnreachable("no replica has confirmed it in time", sent=True)
        return batch

    async def _copied(self, end: float) -> bool:
        """Whether a replica has what was written: asked where nobody knew before that there is one."""
        left = max(end - self._clock.now(), 0.002)
        meta = self._layout.meta  # what is written later arrives later
        calls = [Call(("HSET", meta, "touched", "")), Call(("WAIT", 1, int(left * 600) + 1))]
        try:
            _, copied = await self._link.alone(meta, calls, left)
        except (Unreachable, ResponseError):
            return False
        return bool(copied)

    async def progress(self, batch: str, within: float) -> Progress | None:
        """How far it has come, see SharedLog."""
        return await self._acks.progress(batch, within)

    async def places(self) -> Places:
        """How far everybody has come. Raises LogUnreachable."""
        return await self._acks.places()

    # -- writing

    async def _append(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        """Write what was applied here already. Raises Unreachable, and redis.ResponseError."""
        body, batch = write_body(targets, "", soft=soft), secrets.token_hex(8)
        keys, args = self._layout.append(self._follower, batch, len(targets), body, self._fleet, asked=False)
        head, self._replicas = await self._link.run(self._append_script, keys, args, urgent=True)
        self._hear(as_batch(head, targets, "", soft=soft))

    def _send_soon(self) -> None:
        if self._sending is None and self._outbox:
            self._sending = self._spawn(self._send_on(), "announcements")

    async def _send_on(self) -> None:
        """What is put while one attempt is under way, or shortly after one, goes together with the next."""
        try:
            sent = True
            while sent and self._outbox:
                now = self._clock.now()
                await asyncio.sleep(self._send_at - now)
                self._send_at = max(self._send_at, now - CREDIT) + PACE
                turn, self._turn = self._turn, asyncio.Event()
                try:
                    sent = await self._send_outbox()
                finally:
                    turn.set()
        finally:  # where it was in vain, whoever came meanwhile need not wait either
            self._sending = None
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()

    async def _send_outbox(self) -> bool:
        """Whether all that waited is written."""
        for _ in range(2):  # the hard ones, the soft ones
            targets, soft = self._outbox.take()
            if not targets:
                break
            try:
                await self._append(targets, soft=soft)
            except BaseException as error:
                self._outbox.failed()
                if not isinstance(error, Unreachable | ResponseError):
                    raise
                return False
            self._outbox.sent()
        return True

    # -- hearing

    def _hearing(self, hearing: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """What was said before it heard again is lost."""
        self._listening = hearing
        self._kicked.set()
        self._on_hearing(hearing)

    def _heard(self, message: bytes) -> None:
        """What was published."""
        batch = read_batch(message)
        if batch is None:
            self._kicked.set()
        else:
            self._hear(batch)

    def _hear(self, batch: Batch) -> bool:
        match self._follower.hear(batch, self._clock.now()):
            case Heard.APPLIED:
                self._note([batch])
            case Heard.BEHIND:
                self._kicked.set()
                return False
            case Heard.KNOWN:
                pass
        return True

    def _told(self, message: bytes) -> None:
        """What was sent to this instance alone."""
        if not self._acks.hear(message):
            self._on_word(message)

    def _note(self, applied: Sequence[Batch]) -> None:
        """Batches were applied: tell those who wait."""
        self._applied += sum([len(batch.targets) for batch in applied])
        self._on_applied()
        self._acks.owe(applied)

    # -- the heartbeat

    async def _beat_on(self) -> None:
        while True:
            self._kicked.clear()
            good = await self._beat()
            if good and self._listening:
                self._first.set()
            pause = (BEAT if good else PROBE) * (0.75 + self._clock.roll() / 2)
            if self._link.reaches(self._layout.log):
                await _set_within(self._kicked, pause)
            else:
                await asyncio.sleep(pause)

    async def _beat(self) -> bool:
        """Ask for what was missed; whether nothing is open."""
        try:
            if not self._link.reaches(self._layout.log):
                await self._link.probe()
            elif not self._link.up:  # of a Cluster: one that hangs may take a second each time
                self._link.probe_soon()
            good = self._link.reaches(self._layout.log) and await self._catch_up()
        except Unreachable:
            good = False
        except Exception as error:  # noqa: BLE001 - an answer that makes no sense must not be the last one asked for
            good = False
            self._complain(error)
        if good:
            self._complaint = ""
            self._send_soon()
        elif self._follower.behind:
            self._follower.lose(self._clock.now())
        return good

    def _complain(self, error: Exception) -> None:
        refused = isinstance(error, ResponseError)
        code = str(error).partition(" ")[0]
        why = f"Redis says {code}" if refused else str(error)  # what follows the code may name users and keys
        if why != self._complaint:
            _log.warning("the invalidation log cannot be read: %s", error, exc_info=None if refused else error)
        self._complaint = why

    async def _catch_up(self) -> bool:
        for _ in range(_PAGES):
            done, progress = await self._ask()
            if done and not self._follower.behind:
                return True
            if not done and not progress:
                break
        return False

    async def _ask(self) -> tuple[bool, bool]:
        """One question: whether its answer leaves nothing open, and whether it has led on."""
        follower, clock = self._follower, self._clock
        was, sent = (follower.epoch, follower.number), clock.now()
        reply = await self._link.run(self._sync_script, *self._layout.sync(follower, self._fleet), urgent=True)
        now = clock.now()
        answer, self._fleet, self._replicas = read_answer(reply)
        if now - sent < PROMPT:
            clock.correct(answer.at + (now - sent) / 2 - clock.wall())
        done, applied = follower.take(answer, sent, now)
        if applied:
            self._note([batch for batch in applied if answer.at - batch.at < _ACKED])
        if answer.found is not Found.KNOWN:  # it is registered as knowing nothing
            self._on_applied()
            self._acks.send_soon()
        return done, (follower.epoch, follower.number) != was or answer.found is not Found.KNOWN


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
