"""The real clock: what kind of time each reading is."""

import time
from datetime import UTC, datetime

from proxy.edges.clock import Clock


def test_now_never_goes_back() -> None:
    clock = Clock()
    readings = [clock.now() for _ in range(1000)]
    assert readings == sorted(readings)
    assert time.monotonic() - readings[-1] < 60.0


def test_wall_is_the_time_of_day() -> None:
    assert abs(Clock().wall() - datetime.now(UTC).timestamp()) < 60.0


def test_a_roll_is_never_zero_and_may_be_one() -> None:
    """Its logarithm is taken."""
    clock = Clock()
    rolls = [clock.roll() for _ in range(10_000)]
    assert all(0.0 < roll <= 1.0 for roll in rolls)
    assert len(set(rolls)) > 9_000


def test_a_roll_of_the_dices_least_is_one() -> None:
    import random  # noqa: PLC0415
    from unittest import mock  # noqa: PLC0415

    with mock.patch.object(random, "random", return_value=0.0):
        assert Clock().roll() == 1.0
