"""Token buckets of a fleet: kept in Redis, spent from leases, so that a hit does not pay a round trip.

What a client has is in its bucket or out on lease, and both together are never more than the burst. So the fleet
admits no more than rate · t + burst, whoever asks, crashes or does not answer: what is lost is lost tokens.
lua/bucket.lua has the arithmetic; it goes by the clock of Redis alone, and a holder by its own for how long ago it
asked.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol
from zlib import crc32

from redis import ResponseError

from proxy.edges.redis_link import Script, Word

TERM: Final = 1.0  # seconds from when Redis grants a lease until it counts as spent
MOST: Final = 20_000  # clients of one limit that are remembered here, about 17 MiB; Redis remembers the others
SHARDS: Final = 16
_OURS: Final = 0.8  # of the term: a holder ends it first, counting from when it asked
_RETURN: Final = 0.3  # seconds before that end at which what is left goes back
_SWEEP: Final = 0.1  # seconds between two looks at what is to go back
_HORIZON: Final = 0.1  # seconds for which a lease should last
_WORTH: Final = 4  # requests; a lease for fewer is not worth its name, and each is asked for
_SHARE: Final = 4  # all leases together may hold a burst divided by this
_HOLD: Final = 0.01  # seconds for which a denial stands at least: tokens gather meanwhile, for all who ask then
_TOLD: Final = 500  # debts told at one look: everybody may have one when Redis is back
_PAUSE: Final = 0.1  # seconds between two questions to a server that refuses them, for each shard
_QUIET: Final = 60.0  # seconds without a refusal after which the next one is logged again
_LATE: Final = 0.02  # seconds of waiting for another question behind which an own one has a timer
_LOOKED_AT: Final = 4  # clients looked at for each new one
_CLOSE: Final = 1e-9  # tokens that arithmetic may be wrong by
_NEVER: Final = float("-inf")

_SCRIPT: Final = Script.load("bucket")
_log = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
_Group = dict[float, list[asyncio.Future[float]]]  # who waits, by cost


class Way(Protocol):
    """What is asked of redis_link.Link."""

    def reaches(self, key: str) -> bool:
        """Whether the server that holds the key is connected."""
        ...

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> asyncio.Future[Any]:
        """What the script returns."""
        ...


@dataclass(slots=True)
class Counters:
    """Plain integers, read when somebody asks."""

    asked: int = 0  # round trips
    failed: int = 0  # of these, without an answer
    alone: int = 0  # decisions made here because Redis could not be asked


@dataclass(frozen=True, slots=True)
class Desk:
    """What the limits of one process have in common. `instances` says how many processes go by them, as far as is
    known; `now` gives monotonic seconds, `spawn` owns the tasks, `deadline` is the link's, in seconds.
    """

    link: Way
    prefix: str
    instances: Callable[[], int]
    now: Callable[[], float]
    spawn: Spawn
    deadline: float = 0.1


class _Held:
    """What is known here of one client. Times are monotonic seconds of this process.

    A lease: `tokens` of it are unspent, `size` is what Redis counts as out, `ends` for us. Below `low` another one is
    asked for. `holder` is nobody else's, not even for the same client: whoever is forgotten has simply gone.
    """

    __slots__ = (
        "calling",
        "cost",
        "debit",
        "due",
        "ends",
        "full_at",
        "full_us",
        "gift",
        "heard",
        "holder",
        "key",
        "known",
        "left",
        "level",
        "level_at",
        "lost",
        "low",
        "pace",
        "refused",
        "shard",
        "since",
        "size",
        "spent",
        "tokens",
        "until",
        "waiting",
    )

    def __init__(self, key: str, shard: int, holder: str, burst: float, now: float) -> None:
        self.key, self.shard, self.holder = key, shard, holder
        self.tokens = self.size = self.low = 0.0
        self.ends = _NEVER
        self.known = self.lost = 0  # calls: the last one answered, and the last one that never will be
        self.calling = False
        self.waiting: _Group = {}  # for the next call
        self.left, self.heard = burst, now  # in Redis, when it was last heard of
        self.full_us, self.full_at = 0, now  # when it is full, by Redis' clock and by ours
        self.refused = 0.0  # whatever costs that
        self.until = self.due = _NEVER  # without a question until the first, which may bring a better second
        self.pace, self.spent, self.since, self.cost = 0.0, 0.0, now, 0.0  # tokens a second, and what tells
        self.level, self.level_at = 0.0, _NEVER  # of the bucket that stands in for one out of reach
        self.gift = self.debit = 0.0

    def is_idle(self, now: float) -> bool:
        """Whether Redis knows as much of it."""
        return (
            not self.calling
            and self.debit == 0
            and self.level_at == _NEVER
            and now >= self.until
            and (self.tokens <= 0 or now >= self.ends)
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call under way."""

    held: _Held
    serial: int
    at: float
    kept: float
    debit: float
    groups: _Group


class RedisBuckets:
    """flow.ports.Buckets that the whole fleet shares.

    `rate` is in tokens a second, `burst` in tokens; nothing that costs more than `burst` ever passes. `name` is the
    limit's, alike everywhere. Made inside the running loop.

    While Redis is out of reach or refuses each process lets pass its share of the rate, and what is left of its lease,
    and says so afterwards. Nobody has saved anything up then, but whom nothing speaks against may ask for one thing,
    where the burst is enough for as many as there are processes.
    """

    def __init__(self, desk: Desk, name: str, rate: float, burst: float, *, most: int = MOST) -> None:
        self.counters = Counters()
        self._desk, self._name, self._rate, self._burst, self._most = desk, name, rate, burst, most
        self._link, self._prefix, self._now = desk.link, desk.prefix, desk.now
        self._hold = min(_HOLD, burst / (_SHARE * rate))
        self._loop = asyncio.get_running_loop()
        self._stem, self._begun, self._calls = secrets.token_hex(6), 0, 0
        self._markers = [""] * SHARDS
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._leases: dict[_Held, None] = {}  # to be given back in time
        self._debts: dict[_Held, None] = {}  # to be told, and what was given back without a lease
        self._sweeping: asyncio.Task[None] | None = None
        self._crowded = False  # somebody was forgotten who had been let pass while nobody could be asked
        self._refused_at = _NEVER  # when Redis refused the script the last time
        self._again = [_NEVER] * SHARDS  # when those that it refuses are asked for again, by one of them
        self._closed = False

    def take(self, client: str, cost: float, now: float) -> float | None:
        """See flow.ports.Buckets."""
        held = self._held.get(client)
        if held is None:
            if cost <= 0 or self._reaches(*self._place(client), now):
                return self._burst if cost <= 0 else None
            held = self._begin(client, now)
        elif cost <= held.tokens and now < held.ends:
            held.tokens = tokens = held.tokens - cost
            held.spent += cost
            if tokens < held.low and not held.calling:
                self._top_up(held, now)
            return tokens + held.left
        elif cost <= 0:
            return self.left(client, now)
        elif now < held.until and cost >= held.refused:
            return now - held.due - (cost - held.refused) / self._rate
        return None if self._reaches(held.key, held.shard, now) else self._alone(held, cost, now, now)

    async def ask(self, client: str, cost: float) -> float:
        """See flow.ports.Buckets. Those who ask for the same client while a question is under way share the next."""
        now = self._now()
        said = self.take(client, cost, now)
        if said is not None:
            return said
        held = self._held.get(client) or self._begin(client, now)
        waiter: asyncio.Future[float] = self._loop.create_future()
        held.waiting.setdefault(cost, []).append(waiter)
        held.cost = cost
        if not held.calling:
            self._call(held, now)
        return await waiter

    def give_back(self, client: str, amount: float, now: float) -> None:
        """See flow.ports.Buckets."""
        held = self._held.get(client)
        if held is not None:
            self._give_back(held, amount, now)

    def _give_back(self, held: _Held, amount: float, now: float) -> None:
        if held.level_at != _NEVER:  # it was let pass here: there is less to tell
            held.level += min(amount, max(0.0, held.debit))
        elif now < held.ends:
            room = min(amount, held.size - held.tokens)
            held.tokens += room
            amount -= room
        held.debit = max(held.debit - amount, -self._burst)
        if held.debit != 0:
            self._tell(held)
        held.until = _NEVER  # it may be enough for what was refused

    def left(self, client: str, now: float) -> float:
        """See flow.ports.Buckets."""
        held = self._held.get(client)
        if held is None:
            return self._burst
        lease = held.tokens if now < held.ends else 0.0
        if held.level_at != _NEVER:
            return lease + min(self._burst, held.level + (now - held.level_at) * self._share())
        return min(self._burst, lease + self._gathered(held, now))

    def __len__(self) -> int:
        return len(self._held)

    def sweep(self, now: float) -> bool:
        """Give back what would end unused, and tell debts; whether there is any left to look after."""
        for held in [held for held in self._leases if not held.calling]:
            if held.tokens <= 0:
                del self._leases[held]
            elif now >= held.ends - _RETURN:
                if self._reaches(held.key, held.shard, now):
                    self._call(held, now, back=True)
                elif now >= held.ends:
                    held.tokens = 0.0
        for held in [held for held in islice(self._debts, _TOLD) if not held.calling]:
            if self._reaches(held.key, held.shard, now):
                self._call(held, now)
        return bool(self._leases or self._debts)

    async def close(self) -> None:
        """Give everything back, within the deadline."""
        self._closed, now = True, self._now()
        if self._sweeping is not None:
            self._sweeping.cancel()
        idle = [held for held in {**self._leases, **self._debts} if not held.calling]
        told = [self._call(held, now, back=True) for held in idle if self._reaches(held.key, held.shard, now)]
        if told:
            await asyncio.wait(told)

    def _place(self, client: str) -> tuple[str, int]:
        shard = crc32(client.encode()) % SHARDS
        return f"{self._prefix}:{{q{shard:x}}}:{self._name}:{client}", shard

    def _reaches(self, key: str, shard: int, now: float) -> bool:
        """Whether Redis is there, and had room for this shard when it was asked last, or is to be asked again."""
        return now >= self._again[shard] and self._link.reaches(key)

    def _share(self) -> float:
        return self._rate / self._count()

    def _count(self) -> int:
        return max(1, self._desk.instances())

    def _gathered(self, held: _Held, now: float) -> float:
        return min(self._burst, held.left + (now - held.heard) * self._rate)

    def _begin(self, client: str, now: float) -> _Held:
        """Somebody new; of the oldest those who need not be remembered go, and if need be another."""
        everybody = self._held
        full = len(everybody) >= self._most
        for _ in range(min(_LOOKED_AT, len(everybody))):
            other, held = everybody.popitem(last=False)
            if not held.is_idle(now) or not (full or now >= held.full_at):
                everybody[other] = held  # behind all others: the next look is at somebody else
        if len(everybody) >= self._most:
            _, held = everybody.popitem(last=False)
            self._crowded = self._crowded or held.level_at != _NEVER
            self._debts.pop(held, None)
        self._begun += 1
        key, shard = self._place(client)
        held = everybody[client] = _Held(key, shard, f"{self._stem}{self._begun:x}", self._burst, now)
        return held

    def _alone(self, held: _Held, cost: float, now: float, since: float) -> float:
        """Decide without Redis: from our share of the rate since it could not be asked, or was asked in vain."""
        self.counters.alone += 1
        share = self._share()
        if held.level_at == _NEVER:
            known_against = self._crowded or held.left + (now - held.heard) * share < cost
            for_all = cost * self._count() <= self._burst + _CLOSE  # the others do not know, and may do the same
            held.level = held.gift = cost if for_all and not known_against else 0.0
            held.level_at = since
        held.level, held.level_at = min(self._burst, held.level + (now - held.level_at) * share), now
        if held.level < cost - _CLOSE:
            return -(cost - held.level) / share - _CLOSE
        held.level -= cost
        held.debit += cost
        self._tell(held)
        return max(0.0, held.level)

    def _batch(self, held: _Held, now: float) -> float:
        """How many tokens a lease should have, or 0 where each request had better ask."""
        elapsed = now - held.since
        if elapsed >= _HORIZON:
            held.pace, held.spent, held.since = held.spent / elapsed, 0.0, now
        batch = min(held.pace * _HORIZON, self._burst / (_SHARE * self._count()))
        return batch if batch >= _WORTH * held.cost else 0.0

    def _top_up(self, held: _Held, now: float) -> None:
        """Ask for more before the lease is spent, so that nobody waits."""
        if self._batch(held, now) > held.tokens and self._reaches(held.key, held.shard, now):
            self._call(held, now)
        else:
            held.low = 0.0

    def _call(self, held: _Held, now: float, *, back: bool = False) -> asyncio.Future[Any]:
        """Settle, pay for whoever waits, and lease what is worth it."""
        self._calls += 1
        self.counters.asked += 1
        if self._again[held.shard] != _NEVER:  # nobody else need ask before the answer is there
            self._again[held.shard] = now + _PAUSE
        groups, held.waiting, held.calling = held.waiting, {}, True
        kept, returned = held.tokens, 0.0
        if back:
            kept, returned, held.tokens = 0.0, held.tokens, 0.0
        held.size = kept
        debit, batch = held.debit, 0.0 if back else self._batch(held, now)
        asked = _Asked(held, self._calls, now, kept, debit, groups)
        told = min(debit, self._burst / self._count() + held.gift)
        words: list[Word] = [repr(self._rate), repr(self._burst), round(TERM * 1e6), held.holder, asked.serial]
        words += [held.known, held.lost, repr(kept), repr(returned), repr(told)]
        words += [repr(max(0.0, batch - kept)), repr(_WORTH * held.cost), held.full_us]
        words += [self._markers[held.shard], secrets.token_hex(8)]
        for cost, waiters in groups.items():
            words += [repr(cost), len(waiters)]
        marker = f"{self._prefix}:{{q{held.shard:x}}}"
        future = self._link.run(_SCRIPT, (held.key, marker), words)
        future.add_done_callback(partial(self._answered, asked))
        return future

    def _answered(self, asked: _Asked, future: asyncio.Future[Any]) -> None:
        held, now = asked.held, self._now()
        held.calling = False
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None or not future.result():
            self._failed(asked, error)
            return
        self._crowded, self._again[held.shard] = False, _NEVER
        self._learn(asked, future.result().decode().split(), now)
        if held.waiting:
            self._next(held, asked, now)

    def _learn(self, asked: _Asked, words: Sequence[str], now: float) -> None:
        held = asked.held
        self._markers[held.shard], held.full_us = words[0], int(words[1])
        full_in, left, kept, lease = map(float, words[2:6])
        held.known, held.heard, held.left, held.full_at = asked.serial, now, max(0.0, left), now + full_in
        held.debit, held.gift, held.level_at = held.debit - asked.debit, 0.0, _NEVER
        if held.debit == 0:
            self._debts.pop(held, None)
        held.tokens = max(0.0, held.tokens - (asked.kept - kept)) + lease
        held.size, held.ends = kept + lease, asked.at + _OURS * TERM if kept + lease > 0 else _NEVER
        held.low = (held.size if lease > 0 else held.tokens) / 2
        if held.tokens > 0:
            self._leases[held] = None
            self._watch()
        refused = float("inf")
        for at, (cost, waiters) in enumerate(asked.groups.items()):
            paid, wait = int(words[6 + 2 * at]), max(float(words[7 + 2 * at]), self._hold)
            waiting = [waiter for waiter in waiters if not waiter.done()]
            for waiter in waiting[:paid]:
                waiter.set_result(held.left + held.tokens)
            for waiter in waiting[paid:]:
                waiter.set_result(-wait)
            held.spent += cost * paid
            if paid > len(waiting):  # who has left, or was answered without Redis
                self._give_back(held, cost * (paid - len(waiting)), now)
            elif paid < len(waiting) and cost < refused:
                refused = held.refused = cost
                held.until, held.due = now + min(wait, TERM), now + wait  # others may return a lease meanwhile

    def _next(self, held: _Held, before: _Asked, now: float) -> None:
        """Ask for those who came meanwhile; they have waited already."""
        groups, waited = held.waiting, now - before.at
        self._call(held, now)
        if waited > _LATE:
            self._loop.call_later(max(0.0, self._desk.deadline - waited), self._decide, held, groups, now)

    def _failed(self, asked: _Asked, error: BaseException | None) -> None:
        """What was asked may have been done all the same; then it is lost."""
        held = asked.held
        self.counters.failed += 1
        if isinstance(error, ResponseError):
            self._refuses(held.shard, error)
        held.lost = asked.serial
        if asked.debit < 0:
            held.debit -= asked.debit
            if held.debit == 0:
                self._debts.pop(held, None)
        waiting, held.waiting = held.waiting, {}
        self._decide(held, asked.groups, asked.at)
        self._decide(held, waiting, asked.at)

    def _refuses(self, shard: int, error: ResponseError) -> None:
        now = self._now()
        if now - self._refused_at > _QUIET:
            _log.warning("limit %s goes without Redis, which says: %s", self._name, error)
        self._refused_at, self._again[shard] = now, now + _PAUSE

    def _decide(self, held: _Held, groups: _Group, since: float) -> None:
        """Answer those who still wait, without Redis."""
        now = self._now()
        for cost, waiters in groups.items():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(self._alone(held, cost, now, since))

    def _tell(self, held: _Held) -> None:
        """Soon, if nobody asks before."""
        self._debts[held] = None
        self._watch()

    def _watch(self) -> None:
        if self._sweeping is None and not self._closed:
            self._sweeping = self._desk.spawn(self._keep_sweeping(), "rate limit leases")

    async def _keep_sweeping(self) -> None:
        try:
            while True:
                await asyncio.sleep(_SWEEP)
                if not self.sweep(self._now()):
                    break
        finally:
            self._sweeping = None
