"""The hottest keys, in bounded memory: Space-Saving (Metwally, Agrawal and El Abbadi, ICDT 2005), fading with time."""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappush, heapreplace
from math import log
from typing import Final

COUNTERS: Final = 1_000
HALF_LIFE: Final = 300.0  # seconds after which a request counts half
LONGEST: Final = 2_048  # characters of a key that are kept; what differs only behind them counts as one
_TOO_MUCH: Final = 2.0**64  # of growth, before all counts are brought back to earth
_LONG_AGO: Final = 1_000.0  # half-lives, after which nothing is left; a little more would be no number


@dataclass(frozen=True, slots=True)
class Hot:
    """A key and how often it is asked for, in requests a second. The true rate is at most `excess` less."""

    key: str
    rate: float
    excess: float


class HotKeys:
    """Of any stream it knows every key that makes up more than one in COUNTERS of it, and some others.

    What is not among the counted takes the place of the least, and its count: so a count is never too small, and
    too large by no more than what it began with. To fade, nothing is touched: what comes later weighs more.
    """

    __slots__ = ("_began", "_counts", "_heap", "_limit", "_now", "_since")

    def __init__(self, now: Callable[[], float], limit: int = COUNTERS) -> None:
        self._now, self._limit = now, limit
        self._since = self._began = now()
        self._counts: dict[str, list[float]] = {}  # count, and how much of it may be others'
        self._heap: list[tuple[float, str]] = []  # one for each, with a count that it has or had

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: str, weight: float = 1.0) -> None:
        """So many requests for it."""
        key = key[:LONGEST]
        weight *= self._growth()
        counts = self._counts
        known = counts.get(key)
        if known is not None:
            known[0] += weight
        elif len(counts) < self._limit:
            counts[key] = [weight, 0.0]
            heappush(self._heap, (weight, key))
        else:
            least = self._least()
            del counts[self._heap[0][1]]
            counts[key] = [least + weight, least]
            heapreplace(self._heap, (least + weight, key))

    def top(self, count: int) -> list[Hot]:
        """The hottest, first of all the first."""
        growth = self._growth()
        # A steady rate has come to rate * HALF_LIFE / ln 2 in the long run; before that, to less.
        age = max(self._now() - self._began, 1.0)
        seconds = growth * HALF_LIFE / log(2) * (1 - 2 ** (-age / HALF_LIFE))
        found = sorted(self._counts.items(), key=lambda item: item[1][0], reverse=True)[:count]
        return [Hot(key, has / seconds, excess / seconds) for key, (has, excess) in found]

    def _least(self) -> float:
        """The least count; its key is on top of the heap. Counts only grow, so what lies there is too small at most."""
        heap, counts = self._heap, self._counts
        while True:
            was, key = heap[0]
            has = counts[key][0]
            if has == was:
                return has
            heapreplace(heap, (has, key))

    def _growth(self) -> float:
        """What a request weighs now, where one at `_since` weighed 1."""
        growth: float = 2 ** min((self._now() - self._since) / HALF_LIFE, _LONG_AGO)
        if growth < _TOO_MUCH:
            return growth
        for known in self._counts.values():
            known[0], known[1] = known[0] / growth, known[1] / growth
        self._heap = [(known[0], key) for key, known in self._counts.items()]
        heapify(self._heap)
        self._since = self._now()
        return 1.0
