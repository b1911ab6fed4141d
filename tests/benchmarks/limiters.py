"""Ways to limit a rate over several instances, in a table: `python -m tests.benchmarks.limiters`.

Every algorithm goes through the same arrivals, in a time of its own; the leased bucket is the one that is shipped,
over a model of its script. Chance has a fixed seed: two runs print the same. `docs/rate-limiting.md` has the table.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Final, Protocol

from proxy.edges.buckets import LocalBuckets
from tests.edges.bucket_kit import Model, Process, World

LIMIT: Final = 1000  # requests
WINDOW: Final = 1.0  # seconds
INSTANCES: Final = 3
CLUMP: Final = 0.05  # seconds
START: Final = 1000.0
Arrivals = Sequence[tuple[float, int]]  # moment, and instance


class Limiter(Protocol):
    """What is compared."""

    @property
    def trips(self) -> int:
        """To Redis."""
        ...

    async def asks(self, now: float, at: int) -> bool:
        """Whether this instance lets one pass."""
        ...

    def kept(self) -> int:
        """Numbers that are kept of the client, everywhere."""
        ...


class FixedWindow:
    """A counter that begins anew with each window."""

    def __init__(self) -> None:
        self.trips, self._window, self._count = 0, 0, 0

    async def asks(self, now: float, at: int) -> bool:
        del at
        self.trips += 1
        if int(now / WINDOW) != self._window:
            self._window, self._count = int(now / WINDOW), 0
        self._count += 1
        return self._count <= LIMIT

    def kept(self) -> int:
        return 1


class SlidingLog:
    """When each request of the last window was admitted."""

    def __init__(self) -> None:
        self.trips, self._log, self._longest = 0, deque[float](), 0

    async def asks(self, now: float, at: int) -> bool:
        del at
        self.trips += 1
        while self._log and self._log[0] <= now - WINDOW:
            self._log.popleft()
        if len(self._log) >= LIMIT:
            return False
        self._log.append(now)
        self._longest = max(self._longest, len(self._log))
        return True

    def kept(self) -> int:
        return self._longest


class SlidingCounter:
    """Two counters: what was admitted in the window before counts by as much of it as is still in sight."""

    def __init__(self) -> None:
        self.trips, self._window, self._count, self._before = 0, 0, 0, 0

    async def asks(self, now: float, at: int) -> bool:
        del at
        self.trips += 1
        window = int(now / WINDOW)
        if window != self._window:
            self._before = self._count if window == self._window + 1 else 0
            self._window, self._count = window, 0
        if self._count + self._before * (1 - now / WINDOW % 1) + 1 > LIMIT:
            return False
        self._count += 1
        return True

    def kept(self) -> int:
        return 2


class Bucket:
    """A token bucket in Redis that is asked for each request."""

    def __init__(self, burst: float) -> None:
        self.trips, self._bucket = 0, LocalBuckets(LIMIT / WINDOW, burst, float)

    async def asks(self, now: float, at: int) -> bool:
        del at
        self.trips += 1
        return self._bucket.take("c", 1.0, now) >= 0

    def kept(self) -> int:
        return 2


class Split:
    """A token bucket in each instance, with its share of the rate; nobody asks anybody."""

    trips = 0

    def __init__(self, burst: float) -> None:
        rate = LIMIT / WINDOW / INSTANCES
        self._buckets = [LocalBuckets(rate, burst / INSTANCES, float) for _ in range(INSTANCES)]

    async def asks(self, now: float, at: int) -> bool:
        return self._buckets[at].take("c", 1.0, now) >= 0

    def kept(self) -> int:
        return INSTANCES


class Leased:
    """The bucket that is shipped."""

    def __init__(self, burst: float) -> None:
        self._model = Model()
        self._world = World(self._model)
        self._world.now = START
        self._processes = [Process(self._world, instances=INSTANCES) for _ in range(INSTANCES)]
        self._limits = [process.buckets(LIMIT / WINDOW, burst) for process in self._processes]
        self._most = 0

    @property
    def trips(self) -> int:
        return self._world.calls

    async def asks(self, now: float, at: int) -> bool:
        await self._world.until(now)
        self._most = max(self._most, self._model.numbers())
        return await self._processes[at].asks(self._limits[at]) >= 0

    def kept(self) -> int:
        return self._most


LIMITERS: Final[dict[str, Callable[[], Limiter]]] = {
    "fixed window": FixedWindow,
    "sliding window log": SlidingLog,
    "sliding window counter": SlidingCounter,
    "token bucket, burst 1000": lambda: Bucket(1000.0),
    "token bucket, burst 200": lambda: Bucket(200.0),
    "a share for each, burst 200": lambda: Split(200.0),
    "**leased bucket, burst 1000**": lambda: Leased(1000.0),
    "**leased bucket, burst 200**": lambda: Leased(200.0),
}


def steady(per_second: Sequence[float], seconds: float) -> Arrivals:
    """So many for each instance, at random moments: regular ones would fall into step with the algorithms."""
    dice, pairs = Random(1), list[tuple[float, int]]()
    for at, rate in enumerate(per_second):
        moment = START
        while (moment := moment + dice.expovariate(rate)) < START + seconds:
            pairs.append((moment, at))
    return sorted(pairs)


def edge() -> Arrivals:
    """Nothing for a while, and then all that a limit of one window allows, just before the clock's full second and just
    behind it, over and over.
    """
    moments = [START + second + at for second in (3, 4, 5) for at in (-0.02, 0.001)]
    return sorted((moment + n * 1e-5, n % INSTANCES) for moment in moments for n in range(LIMIT))


@dataclass(frozen=True)
class Run:
    """What became of the arrivals."""

    asked: Arrivals
    admitted: Arrivals
    trips: int
    kept: int

    def most_within(self, seconds: float) -> int:
        """Admitted in whichever window of that length had most."""
        inside, most = deque[float](), 0
        for moment, _ in self.admitted:
            inside.append(moment)
            while inside[0] <= moment - seconds:
                inside.popleft()
            most = max(most, len(inside))
        return most

    def longest_pause(self) -> float:
        """Seconds for which nothing passed although somebody asked all the time."""
        return max(b - a for (a, _), (b, _) in zip(self.admitted, self.admitted[1:], strict=False))

    def worst_served(self) -> float:
        """How much of its demand the worst served instance had admitted, against all together."""
        asked, passed = _by_instance(self.asked), _by_instance(self.admitted)
        least = min(passed.get(at, 0) / number for at, number in asked.items())
        return least * len(self.asked) / len(self.admitted)

    def since(self, moment: float) -> "Run":
        """What came later."""
        later = [[pair for pair in pairs if pair[0] >= moment] for pairs in (self.asked, self.admitted)]
        return Run(later[0], later[1], self.trips, self.kept)


def _by_instance(pairs: Arrivals) -> dict[int, int]:
    ordered = sorted(pairs, key=lambda pair: pair[1])
    return {at: len(list(group)) for at, group in groupby(ordered, key=lambda pair: pair[1])}


async def run(make: Callable[[], Limiter], arrivals: Arrivals) -> Run:
    """Let them all ask."""
    limiter = make()
    admitted = [(now, at) for now, at in arrivals if await limiter.asks(now, at)]
    return Run(arrivals, admitted, limiter.trips, limiter.kept())


@dataclass(frozen=True)
class Row:
    """One algorithm."""

    name: str
    window: float  # admitted in the worst window, in limits
    clump: int  # admitted at once under four times the limit
    pause: float  # seconds
    used: float  # of what the limit allows under uneven demand of 0.9 limits
    worst_served: float  # instance, under four times the limit: its part of what it would have had of one for all
    calm: float  # round trips for each request below the limit
    busy: float  # and at four times the limit
    kept: int


async def measured(name: str, make: Callable[[], Limiter]) -> Row:
    """One algorithm through all of it."""
    attacked = await run(make, edge())
    over = await run(make, steady((2800.0, 1000.0, 200.0), 4))
    calm = await run(make, steady((700.0, 150.0, 50.0), 4))
    settled = over.since(START + 2)  # what had been saved up is spent
    return Row(
        name,
        max(attacked.most_within(WINDOW), over.most_within(WINDOW)) / LIMIT,
        settled.most_within(CLUMP),
        settled.longest_pause(),
        len(calm.admitted) / len(calm.asked),
        settled.worst_served(),
        calm.trips / len(calm.asked),
        over.trips / len(over.asked),
        max(attacked.kept, over.kept),
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = (
        "",
        "most in 1 s, limits",
        f"most in {CLUMP * 1000:.0f} ms, overload",
        "longest pause, ms",
        "passes of 0.9 limits",
        "worst served instance",
        "trips per request, 0.9 limits",
        "4 limits",
        "numbers kept",
    )
    lines = [head, ("---", *["---:"] * (len(head) - 1))]
    for row in rows:
        cells = (
            f"{row.window:.2f}",
            str(row.clump),
            f"{row.pause * 1000:.0f}",
            f"{row.used:.1%}",
            f"{row.worst_served:.2f}",
        )
        lines.append((row.name, *cells, f"{row.calm:.3f}", f"{row.busy:.3f}", str(row.kept)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


async def main() -> None:
    """Compare them all."""
    rows = [await measured(name, make) for name, make in LIMITERS.items()]
    sys.stdout.write(f"{table(rows)}\n")


if __name__ == "__main__":
    asyncio.run(main())
