"""The one place that reads clocks and dice."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds. `now` never goes back and is for durations; `wall` is for HTTP dates; `roll` draws
    from (0, 1].
    """

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    roll: Callable[[], float] = lambda: 1.0 - random.random()  # noqa: S311 - chance, not secrecy
