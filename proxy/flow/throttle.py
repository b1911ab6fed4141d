"""How many values may be invalidated in a while, so that whoever may do it cannot empty every cache by haste."""

from collections.abc import Callable
from typing import Final

RATE: Final = 200.0  # values a second
BURST: Final = 2_000  # values at once: two batches as large as one may be


class Throttle:
    """A bucket of `burst` tokens that fills by `rate` a second of `now`, monotonic."""

    __slots__ = ("_at", "_burst", "_left", "_now", "_rate")

    def __init__(self, now: Callable[[], float], rate: float = RATE, burst: int = BURST) -> None:
        self._now, self._rate, self._burst = now, rate, burst
        self._left, self._at = float(burst), now()

    def take(self, count: int) -> float:
        """Take that many, all or none: 0 where they were there, else after how many seconds they will be."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < count:
            return (count - self._left) / self._rate
        self._left -= count
        return 0.0
