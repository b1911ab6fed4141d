"""How many values may be invalidated in a while."""

import pytest

from proxy.admin.batch import MAX_VALUES
from proxy.flow.throttle import BURST, Throttle


def test_the_burst_goes_at_once_and_then_as_much_as_has_come_since() -> None:
    at = [100.0]
    throttle = Throttle(lambda: at[0], rate=10.0, burst=20)
    assert [throttle.take(1) for _ in range(20)] == [0.0] * 20
    assert throttle.take(1) == pytest.approx(0.1)
    at[0] += 0.5
    assert throttle.take(5) == 0.0
    assert throttle.take(5) == pytest.approx(0.5)


def test_what_was_refused_costs_nothing() -> None:
    throttle = Throttle(lambda: 0.0, rate=1.0, burst=10)
    assert throttle.take(8) == 0.0
    assert [throttle.take(5) for _ in range(3)] == [pytest.approx(3.0)] * 3
    assert throttle.take(2) == 0.0


def test_no_more_than_the_burst_is_saved_up() -> None:
    at = [0.0]
    throttle = Throttle(lambda: at[0], rate=10.0, burst=20)
    at[0] = 1e9
    assert throttle.take(20) == 0.0
    assert throttle.take(1) > 0


def test_the_largest_batch_gets_through() -> None:
    assert BURST >= MAX_VALUES
