"""A fleet of buckets in a time of its own: its script in a real Redis or as a model, its network as told."""

import asyncio
import heapq
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any, Final, Protocol

import redis
from hypothesis import HealthCheck, settings
from redis import ResponseError

from proxy.edges.redis_buckets import Desk, RedisBuckets
from proxy.edges.redis_link import Unreachable
from proxy.edges.redis_script import Script, Word

EXAMPLES: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CLOSE: Final = 1e-6  # tokens that the sum of many payments may be off by
DEADLINE: Final = 0.1
SWEEP: Final = 0.1  # seconds between two looks
START: Final = 1_700_000_000.0  # seconds, by the clock of Redis, when a world begins
_SHADOW: Final = """
local real, moment = redis, 'test:now'
local redis = {call = function(name, key, value, _, ms)
  local now = tonumber(real.call('GET', moment))
  if name == 'TIME' then return {tostring(math.floor(now / 1000000)), tostring(now % 1000000)} end
  local due = real.call('GET', 'due:' .. key)
  if due and tonumber(due) <= now then real.call('DEL', key, 'due:' .. key) end
  if name == 'SET' then
    real.call('SET', key, value)
    if ms then real.call('SET', 'due:' .. key, string.format('%.0f', ms * 1000)) end
    return
  end
  if name == 'PEXPIRETIME' then return due and tonumber(due) > now and tonumber(due) / 1000 or -2 end
  return real.call(name, key)
end}
"""


class Keeper(Protocol):
    """Who runs the script."""

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word], now_us: int) -> bytes: ...

    def lose(self) -> None:
        """Everything, at once."""
        ...

    def evict(self) -> None:
        """Every bucket, and nothing else."""
        ...


class Real:
    """A Redis that believes whatever time it is told, when keys expire too."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.lose()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word], now_us: int) -> bytes:
        shebang, _, rest = script.source.partition("\n")
        pipe = self._client.pipeline(transaction=False)
        pipe.set("test:now", now_us)
        pipe.eval(f"{shebang}{_SHADOW}{rest}", len(keys), *keys, *args)
        said = pipe.execute()[1]
        assert isinstance(said, bytes)
        return said

    def lose(self) -> None:
        self._client.flushall()

    def evict(self) -> None:
        self._client.delete(*self._client.keys("*:limit:*"))


@dataclass
class _Lease:
    holder: str
    serial: int
    kept: float
    granted: float
    ends: int

    @property
    def size(self) -> float:
        return self.kept + self.granted


class Model:
    """lua/bucket.lua said once more, for simulations without a server; a property test holds the two together."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, int, list[_Lease], int]] = {}
        self._markers: dict[str, tuple[str, int]] = {}

    def lose(self) -> None:
        self._buckets.clear()
        self._markers.clear()

    def evict(self) -> None:
        self._buckets.clear()

    def numbers(self) -> int:
        """How many are kept."""
        return sum(2 + 4 * len(leases) for _, _, leases, _ in self._buckets.values())

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word], now_us: int) -> bytes:
        del script
        rate, burst, term = float(args[0]), float(args[1]), int(args[2])
        holder, (serial, known, lost) = str(args[3]), map(int, args[4:7])
        kept, back, debit, batch, least = map(float, args[7:12])
        full, marker, fresh = int(args[12]), str(args[13]), str(args[14])
        since = self._since(keys[1], marker, fresh, now_us)
        tokens, at, leases, due = self._buckets.get(keys[0], (0.0, 0, [], 0))
        here = due > now_us
        if not here:
            leases, at = [], now_us
            gathered = rate * (now_us - since) / 1e6 if since else math.inf
            tokens = 0.0 if now_us < full else min(burst, gathered)
        tokens, leases = _refilled(rate, burst, tokens, min(at, now_us), leases, now_us, term)
        mine = next((lease for lease in leases if lease.holder == holder), None)
        total = 0.0
        if mine is not None:
            if serial <= mine.serial:
                return b""
            total = mine.size
            if known < mine.serial <= lost:
                total, tokens = mine.kept, tokens + mine.granted
            leases.remove(mine)
        back = min(back, total)
        kept = min(kept, total - back)
        tokens += back
        out = sum(lease.size for lease in leases) + kept
        if debit > 0:
            tokens = max(tokens - debit, min(tokens, -burst))
        else:
            tokens = max(tokens, min(tokens - debit, burst - out))
        paid: list[tuple[float, int, bool]] = []
        for cost, number in zip(map(float, args[15::2]), map(int, args[16::2]), strict=True):
            n = max(0, min(number, math.floor((tokens + 1e-9) / cost)))
            tokens -= n * cost
            paid.append((cost, n, n < number))
        lease = min(batch, tokens / 2)
        if any(short for _, _, short in paid) or lease < least or lease <= 0:
            lease = 0.0
        tokens -= lease
        if kept + lease > 0:
            leases.append(_Lease(holder, serial, kept, lease, now_us + term))
        full = (leases[-1].ends if leases else now_us) + math.ceil(max(0.0, burst - tokens) / rate * 1e6)
        if here or full > now_us:
            due = max(due if here else 0, 1000 * (math.ceil(full / 1000) + 1))
            self._buckets[keys[0]] = (tokens, now_us, leases, due)
        else:
            self._buckets.pop(keys[0], None)
        said = [self._markers[keys[1]][0], str(full), f"{(full - now_us) / 1e6:.6f}", repr(tokens), repr(kept)]
        said.append(repr(lease))
        for cost, n, short in paid:
            seconds = _wait(cost, rate, burst, tokens, leases, now_us) + 1e-6 if short else 0.0
            said += [str(n), f"{seconds:.6f}"]
        return " ".join(said).encode()

    def _since(self, key: str, known: str, fresh: str, now: int) -> int:
        found = self._markers.get(key)
        if found is None:
            found = (fresh, now if known else 0)
        elif (known and known != found[0] and not found[1]) or found[1] > now:
            found = (found[0], now)
        self._markers[key] = found
        return found[1]


def _refilled(
    rate: float, burst: float, tokens: float, at: int, leases: Iterable[_Lease], now: int, term: int
) -> tuple[float, list[_Lease]]:
    left = [_Lease(one.holder, one.serial, one.kept, one.granted, min(one.ends, now + term)) for one in leases]
    left.sort(key=lambda lease: lease.ends)
    for moment in [*[lease.ends for lease in left if lease.ends <= now], now]:
        out = sum(lease.size for lease in left)
        tokens = min(tokens + rate * max(0, moment - at) / 1e6, max(0.0, burst - out))
        at = max(at, moment)
        if left and left[0].ends <= moment:
            left.pop(0)
    return tokens, left


def _wait(cost: float, rate: float, burst: float, tokens: float, leases: Iterable[_Lease], now: int) -> float:
    held = list(leases)
    moment = float(now)
    while held:
        room = max(0.0, burst - sum(lease.size for lease in held))
        ready = moment + max(0.0, cost - tokens) / rate * 1e6
        ends = held[0].ends
        if cost <= room and ready <= ends:
            return (ready - now) / 1e6
        tokens = max(tokens, min(room, tokens + rate * (ends - moment) / 1e6))
        moment = ends
        held.pop(0)
    return (moment - now + max(0.0, cost - tokens) / rate * 1e6) / 1e6


class World:
    """Time, which passes when the test says so, and what happens in it.

    `fault` says what becomes of a call: "" it is answered, "lost" before it was run, "deaf" afterwards, "late": it is
    run only after the caller has given up, "full": it is refused.
    """

    def __init__(self, keeper: Keeper, *, latency: float = 0.0) -> None:
        self.keeper, self.latency = keeper, latency
        self.now = 1000.0
        self.set_back = 0.0  # seconds by which the clock of Redis was
        self.fault: Callable[[], str] = str
        self.calls = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    @property
    def now_us(self) -> int:
        return round((START + self.now - self.set_back) * 1e6)

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._number), action))

    async def until(self, moment: float) -> None:
        """Let time pass, and everything that is due meanwhile happen, with what follows from it."""
        while self._agenda and self._agenda[0][0] <= moment:
            due, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, due)
            action()
            await settle()
        self.now = max(self.now, moment)

    async def idle(self) -> None:
        """Let what is under way end, as far as it takes no time."""
        await settle()
        await self.until(self.now)
        await settle()


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


class Process:
    """One of the fleet, with a clock that is wrong."""

    def __init__(self, world: World, *, skew: float = 0.0, instances: int = 1, prefix: str = "rt") -> None:
        self.world, self.skew, self.up, self.gone = world, skew, True, False
        self._loop = asyncio.get_running_loop()
        self.desk = Desk(self, prefix, lambda: instances, lambda: world.now + skew, self._spawn, DEADLINE)
        self.limits: list[RedisBuckets] = []
        self._sweeps = False

    def buckets(self, rate: float, burst: float, *, name: str = "limit", most: int = 1000) -> RedisBuckets:
        limit = RedisBuckets(self.desk, name, rate, burst, most=most)
        self.limits.append(limit)
        return limit

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Only sweeps are spawned; they sleep in the time of the loop, so they are done here."""
        del name
        work.close()
        if not self._sweeps:
            self._sweeps = True
            self.world.at(self.world.now + SWEEP, self._sweep)
        return self._loop.create_task(asyncio.sleep(0))

    def _sweep(self) -> None:
        self._sweeps = False
        for limit in self.limits:
            busy = limit.sweep(self.world.now + self.skew)
            limit._sweeping = None  # noqa: SLF001 - as at the end of its task
            if busy and not self.gone:
                limit._watch()  # noqa: SLF001 - as in its loop

    def reaches(self, key: str) -> bool:
        del key
        return self.up

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> asyncio.Future[Any]:
        world, future = self.world, self._loop.create_future()
        fault = world.fault()
        world.calls += 1

        def execute() -> None:
            said = world.keeper.run(script, keys, args, world.now_us)
            if not fault:
                world.at(world.now + world.latency / 2, lambda: answer(said))

        def answer(said: bytes) -> None:
            if not future.done():
                future.set_result(said)

        def fail() -> None:
            if not future.done():
                future.set_exception(Unreachable("in vain"))

        if not self.up:
            fail()
        elif fault == "full":
            refusal = ResponseError("OOM, it says")
            world.at(world.now + world.latency, lambda: future.set_exception(refusal))
        elif fault:
            world.at(world.now + DEADLINE, fail)
        if self.up and fault not in ("lost", "full"):
            world.at(world.now + (3 * DEADLINE if fault == "late" else world.latency / 2), execute)
        return future

    async def asks(self, limit: RedisBuckets, client: str = "c", cost: float = 1.0) -> float:
        """What it is told; time passes where that takes some."""
        said = limit.take(client, cost, self.world.now + self.skew)
        if said is None:
            task = self._loop.create_task(limit.ask(client, cost))
            await self.world.idle()
            while not task.done():
                await self.world.until(self.world.now + 0.001)
            said = task.result()
        return said


def worst(admitted: Sequence[tuple[float, float]], rate: float) -> float:
    """What was admitted beyond rate · t in whichever window that is most, in tokens. The pairs are moment and cost, in
    order.
    """
    most, total, lowest = 0.0, 0.0, math.inf
    for moment, group in groupby(admitted, key=lambda pair: pair[0]):
        lowest = min(lowest, total - rate * moment)
        total += sum(cost for _, cost in group)
        most = max(most, total - rate * moment - lowest)
    return most
