"""Token buckets of a fleet: kept in Redis, spent from leases, so that a hit does not pay a round trip.

What a client has is in its bucket or out on lease, and both together are never more than the burst. So the fleet
admits no more than rate · t + burst, whoever asks, crashes or does not answer: what is lost is lost tokens.
lua/bucket.lua has the arithmetic of the bucket; it goes by the clock of Redis alone. redis_bucket_holder.py has that
of what is out on lease or decided without Redis; it goes by the clock of this process, for how long ago it asked.
Here is who asks, when, and who waits.
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

from proxy.edges.redis_bucket_holder import NEVER, SHARE, TERM, Allowance, Balance, Holder, Statement
from proxy.edges.redis_script import Script, Word

MOST: Final = 20_000  # clients of one limit that are remembered here, about 16 MiB; Redis remembers the others
SHARDS: Final = 16
_RETURN: Final = 0.3  # seconds before the end of a lease at which what is left goes back
_SWEEP: Final = 0.1  # seconds between two looks at what is to go back
_HOLD: Final = 0.01  # seconds for which a denial stands at least: tokens gather meanwhile, for all who ask then
_TOLD: Final = 500  # debts told at one look: everybody may have one when Redis is back
_PAUSE: Final = 0.1  # seconds between two questions to a server that refuses them, for each shard
_QUIET: Final = 60.0  # seconds without a refusal after which the next one is logged again
_LATE: Final = 0.02  # seconds of waiting for another question behind which an own one has a timer
_LOOKED_AT: Final = 4  # clients looked at for each new one

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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call under way."""

    holder: Holder
    said: Statement
    groups: _Group


class RedisBuckets:
    """flow.ports.Buckets that the whole fleet shares.

    `rate` is in tokens a second, `burst` in tokens; nothing that costs more than `burst` ever passes. `name` is the
    limit's, alike everywhere. Made inside the running loop.

    While Redis is out of reach or refuses each process lets pass its share of the rate, and what is left of its lease,
    and says so afterwards. Nobody has saved anything up then but what the rate gave while Redis was asked in vain; and
    whom nothing speaks against may ask for one thing, where the burst is enough for as many as there are processes.
    """

    def __init__(self, desk: Desk, name: str, rate: float, burst: float, *, most: int = MOST) -> None:
        self.counters = Counters()
        self._desk, self._name, self._rate, self._burst, self._most = desk, name, rate, burst, most
        self._allowance = Allowance(rate, burst, desk.instances)
        self._link, self._prefix, self._now = desk.link, desk.prefix, desk.now
        self._hold = min(_HOLD, burst / (SHARE * rate))
        self._loop = asyncio.get_running_loop()
        self._stem, self._begun, self._calls = secrets.token_hex(6), 0, 0
        self._markers = [""] * SHARDS
        self._holders: OrderedDict[str, Holder] = OrderedDict()
        self._waiting: dict[Holder, _Group] = {}  # for its next call
        self._leases: dict[Holder, None] = {}  # to be given back in time
        self._debts: dict[Holder, None] = {}  # to be told, and what was given back without a lease
        self._sweeping: asyncio.Task[None] | None = None
        self._crowded = False  # somebody was forgotten who had been let pass while nobody could be asked
        self._refused_at = NEVER  # when Redis refused the script the last time
        self._again = [NEVER] * SHARDS  # when those that it refuses are asked for again, by one of them
        self._closed = False

    def take(self, client: str, cost: float, now: float) -> float | None:
        """See flow.ports.Buckets."""
        holder = self._holders.get(client)
        if holder is None:
            if cost <= 0 or self._reaches(*self._place(client), now):
                return self._burst if cost <= 0 else None
            holder = self._begin(client, now)
        elif cost <= holder.tokens and now < holder.ends:
            holder.tokens = tokens = holder.tokens - cost
            holder.spent += cost
            if tokens < holder.low and not holder.calling:
                self._top_up(holder, now)
            return tokens + holder.left
        elif cost <= 0:
            return self.left(client, now)
        elif now < holder.until and cost >= holder.refused:
            return now - holder.due - (cost - holder.refused) / self._rate
        return None if self._reaches(holder.key, holder.shard, now) else self._alone(holder, cost, now, now)

    async def ask(self, client: str, cost: float) -> float:
        """See flow.ports.Buckets. Those who ask for the same client while a question is under way share the next."""
        now = self._now()
        said = self.take(client, cost, now)
        if said is not None:
            return said
        holder = self._holders.get(client) or self._begin(client, now)
        waiter: asyncio.Future[float] = self._loop.create_future()
        self._waiting.setdefault(holder, {}).setdefault(cost, []).append(waiter)
        holder.cost = cost
        if not holder.calling:
            self._call(holder, now)
        return await waiter

    def give_back(self, client: str, amount: float, now: float) -> None:
        """See flow.ports.Buckets."""
        holder = self._holders.get(client)
        if holder is not None and holder.give_back(amount, now):
            self._tell(holder)

    def left(self, client: str, now: float) -> float:
        """See flow.ports.Buckets."""
        holder = self._holders.get(client)
        return self._burst if holder is None else holder.available(now)

    def __len__(self) -> int:
        return len(self._holders)

    def sweep(self, now: float) -> bool:
        """Give back what would end unused, and tell debts; whether there is any left to look after."""
        for holder in [holder for holder in self._leases if not holder.calling]:
            if holder.tokens <= 0:
                del self._leases[holder]
            elif now >= holder.ends - _RETURN:
                if self._reaches(holder.key, holder.shard, now):
                    self._call(holder, now, back=True)
                elif now >= holder.ends:
                    holder.tokens = 0.0
        for holder in [holder for holder in islice(self._debts, _TOLD) if not holder.calling]:
            if self._reaches(holder.key, holder.shard, now):
                self._call(holder, now)
        return bool(self._leases or self._debts)

    async def close(self) -> None:
        """Give everything back, within the deadline."""
        self._closed, now = True, self._now()
        if self._sweeping is not None:
            self._sweeping.cancel()
        idle = [holder for holder in {**self._leases, **self._debts} if not holder.calling]
        told = [self._call(holder, now, back=True) for holder in idle if self._reaches(holder.key, holder.shard, now)]
        if told:
            await asyncio.wait(told)

    def _place(self, client: str) -> tuple[str, int]:
        shard = crc32(client.encode()) % SHARDS
        return f"{self._prefix}:{{q{shard:x}}}:{self._name}:{client}", shard

    def _reaches(self, key: str, shard: int, now: float) -> bool:
        """Whether Redis is there, and had room for this shard when it was asked last, or is to be asked again."""
        return now >= self._again[shard] and self._link.reaches(key)

    def _begin(self, client: str, now: float) -> Holder:
        """Somebody new; of the oldest those who need not be remembered go, and if need be another."""
        everybody = self._holders
        full = len(everybody) >= self._most
        for _ in range(min(_LOOKED_AT, len(everybody))):
            other, holder = everybody.popitem(last=False)
            if not holder.is_idle(now) or not (full or now >= holder.full_at):
                everybody[other] = holder  # behind all others: the next look is at somebody else
        if len(everybody) >= self._most:
            _, holder = everybody.popitem(last=False)
            self._crowded = self._crowded or holder.cut_off
            self._debts.pop(holder, None)
        self._begun += 1
        key, shard = self._place(client)
        holder = everybody[client] = Holder(key, shard, f"{self._stem}{self._begun:x}", self._allowance, now)
        return holder

    def _alone(self, holder: Holder, cost: float, now: float, since: float) -> float:
        """Decide without Redis, which is to be told of what passes."""
        self.counters.alone += 1
        said = holder.decide(cost, now, since, crowded=self._crowded)
        if said >= 0:
            self._tell(holder)
        return said

    def _top_up(self, holder: Holder, now: float) -> None:
        """Ask for more before the lease is spent, so that nobody waits."""
        if holder.batch(now) > holder.tokens and self._reaches(holder.key, holder.shard, now):
            self._call(holder, now)
        else:
            holder.low = 0.0

    def _call(self, holder: Holder, now: float, *, back: bool = False) -> asyncio.Future[Any]:
        """Settle, pay for whoever waits, and lease what is worth it."""
        self._calls += 1
        self.counters.asked += 1
        if self._again[holder.shard] != NEVER:  # nobody else need ask before the answer is there
            self._again[holder.shard] = now + _PAUSE
        groups, holder.calling = self._waiting.pop(holder, {}), True
        said = holder.settle(self._calls, now, back=back)
        asked = _Asked(holder, said, groups)
        words: list[Word] = [repr(self._rate), repr(self._burst), round(TERM * 1e6), holder.name, said.serial]
        words += [holder.known, holder.lost, repr(said.kept), repr(said.returned), repr(said.told)]
        words += [repr(said.batch), repr(said.least), holder.full_us]
        words += [self._markers[holder.shard], secrets.token_hex(8)]
        for cost, waiters in groups.items():
            words += [repr(cost), len(waiters)]
        marker = f"{self._prefix}:{{q{holder.shard:x}}}"
        future = self._link.run(_SCRIPT, (holder.key, marker), words)
        future.add_done_callback(partial(self._answered, asked))
        return future

    def _answered(self, asked: _Asked, future: asyncio.Future[Any]) -> None:
        holder, now = asked.holder, self._now()
        holder.calling = False
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None or not future.result():
            self._failed(asked, error)
            return
        self._crowded, self._again[holder.shard] = False, NEVER
        self._learn(asked, future.result().decode().split(), now)
        if holder in self._waiting:
            self._next(holder, asked, now)

    def _learn(self, asked: _Asked, words: Sequence[str], now: float) -> None:
        holder = asked.holder
        self._markers[holder.shard] = words[0]
        holder.learn(asked.said, Balance(int(words[1]), *map(float, words[2:6])), now)
        if holder.debit == 0:
            self._debts.pop(holder, None)
        if holder.tokens > 0:
            self._leases[holder] = None
            self._watch()
        refused = float("inf")
        for at, (cost, waiters) in enumerate(asked.groups.items()):
            paid, wait = int(words[6 + 2 * at]), max(float(words[7 + 2 * at]), self._hold)
            waiting = [waiter for waiter in waiters if not waiter.done()]
            for waiter in waiting[:paid]:
                waiter.set_result(holder.left + holder.tokens)
            for waiter in waiting[paid:]:
                waiter.set_result(-wait)
            holder.spent += cost * paid
            if paid > len(waiting):  # who has left, or was answered without Redis
                if holder.give_back(cost * (paid - len(waiting)), now):
                    self._tell(holder)
            elif paid < len(waiting) and cost < refused:
                refused = cost
                holder.refuse(cost, wait, now)

    def _next(self, holder: Holder, before: _Asked, now: float) -> None:
        """Ask for those who came meanwhile; they have waited already."""
        groups, waited = self._waiting[holder], now - before.said.at
        self._call(holder, now)
        if waited > _LATE:
            self._loop.call_later(max(0.0, self._desk.deadline - waited), self._decide, holder, groups, now)

    def _failed(self, asked: _Asked, error: BaseException | None) -> None:
        holder, said = asked.holder, asked.said
        self.counters.failed += 1
        if isinstance(error, ResponseError):
            self._refuses(holder.shard, error)
        holder.lose(said)
        if said.debit < 0 and holder.debit == 0:
            self._debts.pop(holder, None)
        waiting = self._waiting.pop(holder, {})
        self._decide(holder, asked.groups, said.at)
        self._decide(holder, waiting, said.at)

    def _refuses(self, shard: int, error: ResponseError) -> None:
        now = self._now()
        if now - self._refused_at > _QUIET:
            _log.warning("limit %s goes without Redis, which says: %s", self._name, error)
        self._refused_at, self._again[shard] = now, now + _PAUSE

    def _decide(self, holder: Holder, groups: _Group, since: float) -> None:
        """Answer those who still wait, without Redis. That our own loop was late gives nobody more."""
        now = self._now()
        since = max(since, now - self._desk.deadline)
        for cost, waiters in groups.items():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(self._alone(holder, cost, now, since))

    def _tell(self, holder: Holder) -> None:
        """Soon, if nobody asks before."""
        self._debts[holder] = None
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
