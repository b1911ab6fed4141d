"""The one place that reads clocks and dice."""

import random
import time
from typing import Final

JITTER: Final = 0.05  # seconds of error in telling what time it is elsewhere


class Clock:
    """Seconds. `now` never goes back and is for durations; `wall` is for HTTP dates; `roll` draws
    from (0, 1].
    """

    __slots__ = ("_offset", "now")

    def __init__(self) -> None:
        self.now = time.monotonic
        self._offset = 0.0

    def roll(self) -> float:
        """Chance."""
        return 1.0 - random.random()  # noqa: S311 - chance, not secrecy

    def wall(self) -> float:
        """Seconds since the epoch, as corrected."""
        return time.time() + self._offset

    def correct(self, offset: float) -> None:
        """What `wall` says is so many seconds behind the clock that all go by; what may be jitter is ignored."""
        if abs(offset) >= JITTER:
            self._offset += offset
