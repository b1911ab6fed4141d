"""Space-Saving, and how it fades."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.hot import HALF_LIFE, LONGEST, HotKeys


class Time:
    at = 0.0

    def now(self) -> float:
        return self.at


@given(st.lists(st.integers(0, 30), max_size=300))
def test_a_count_is_never_too_small_and_its_excess_says_how_much_it_may_be_too_large(stream: list[int]) -> None:
    time = Time()
    hot, true = HotKeys(time.now, limit=8), Counter(map(str, stream))
    for number in stream:
        hot.add(str(number))
    assert len(hot) == min(8, len(true))
    scale = sum(true.values()) / max(sum(key.rate for key in hot.top(8)), 1e-9)  # no time has passed: rates to counts
    for key in hot.top(8):
        assert key.rate * scale >= true[key.key] - 1e-6
        assert (key.rate - key.excess) * scale <= true[key.key] + 1e-6
    found = {key.key for key in hot.top(8)}
    assert {key for key, count in true.items() if count > len(stream) / 8} <= found


def test_it_is_bounded_whatever_comes() -> None:
    hot = HotKeys(Time().now, limit=10)
    for number in range(10_000):
        hot.add(f"{number}" + "x" * 5_000)
        hot.add("hot")
    assert len(hot) == 10
    assert hot.top(1)[0].key == "hot"
    assert all(len(key.key) <= LONGEST for key in hot.top(10))


def test_a_steady_rate_is_told_from_the_first_minute_on() -> None:
    time = Time()
    hot = HotKeys(time.now)
    for second in range(3000):
        time.at = float(second + 1)
        hot.add("a", 5)
        if second in (59, 600, 2999):
            assert hot.top(1)[0].rate == pytest.approx(5, rel=0.02)


def test_what_nobody_asks_for_any_more_fades() -> None:
    time = Time()
    hot = HotKeys(time.now)
    hot.add("then", 1000)
    time.at = 3 * HALF_LIFE
    hot.add("now", 200)
    assert [key.key for key in hot.top(2)] == ["now", "then"]


def test_it_counts_on_after_years() -> None:
    time = Time()
    hot = HotKeys(time.now, limit=2)
    for _ in range(50):
        hot.add("a", 2)
        hot.add("b")
        time.at += HALF_LIFE * 63
    hot.add("a", 2)
    hot.add("c")
    assert [key.key for key in hot.top(2)] == ["a", "c"]


@pytest.mark.parametrize("silence", [3 * 86_400.0, 4 * 86_400.0, 10 * 365 * 86_400.0])
def test_after_a_silence_of_any_length_it_counts_on(silence: float) -> None:
    time = Time()
    hot = HotKeys(time.now)
    hot.add("before", 1e9)
    time.at += silence
    hot.add("a", 3)
    hot.add("b", 2)
    assert [key.key for key in hot.top(2)] == ["a", "b"]
    time.at += silence
    assert all(key.rate < 1e-6 for key in hot.top(3))
