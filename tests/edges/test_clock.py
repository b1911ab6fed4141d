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


def test_a_correction_moves_the_wall_clock_for_everybody_who_holds_it() -> None:
    clock = Clock()
    wall, before = clock.wall, clock.wall() - clock.now()
    clock.correct(-60.0)
    assert abs(wall() - clock.now() - before + 60.0) < 1.0
    clock.correct(60.5)
    assert abs(wall() - clock.now() - before - 0.5) < 0.4
    clock.correct(1e6)
    assert wall() - clock.now() - before > 9e5, "how far off a clock may be is not limited"


def test_what_may_be_jitter_does_not_move_the_wall_clock() -> None:
    clock = Clock()
    before = clock._offset  # noqa: SLF001 - the time of day would not tell it
    for offset in (0.049, -0.049, 0.0):
        clock.correct(offset)
    assert clock._offset == before  # noqa: SLF001
    clock.correct(0.05)
    assert clock._offset == before + 0.05  # noqa: SLF001


def test_a_correction_does_not_move_what_durations_are_measured_by() -> None:
    clock = Clock()
    clock.correct(1e6)
    assert abs(clock.now() - time.monotonic()) < 60.0
