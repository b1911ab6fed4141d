"""Keys remembered for a while."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.flow.expiring import ExpiringSet
from proxy.rules.message import Reason

WHY = Reason.PRIVATE


def test_a_key_is_known_with_its_time_and_reason_even_when_that_has_passed() -> None:
    known = ExpiringSet(2)
    known.add("a", 5.0, WHY)
    assert (known.until("a"), known.reason("a")) == (5.0, WHY)
    assert (known.until("b"), known.reason("b")) == (None, None)


def test_the_one_added_longest_ago_makes_room() -> None:
    known = ExpiringSet(2)
    for key in ("a", "b", "c"):
        known.add(key, 5.0, WHY)
    assert [known.until(key) for key in ("a", "b", "c")] == [None, 5.0, 5.0]


def test_adding_again_takes_the_new_time_and_a_new_place() -> None:
    known = ExpiringSet(2)
    known.add("a", 5.0, WHY)
    known.add("b", 5.0, WHY)
    known.add("a", 1.0, WHY)
    known.add("c", 5.0, WHY)
    assert [known.until(key) for key in ("a", "b", "c")] == [1.0, None, 5.0]


def test_a_discarded_key_is_forgotten_and_discarding_a_stranger_is_nothing() -> None:
    known = ExpiringSet(2)
    known.add("a", 5.0, WHY)
    known.discard("a")
    known.discard("b")
    assert known.until("a") is None
    assert len(known) == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_it_never_holds_more_than_its_limit(steps: list[tuple[str, bool]], limit: int) -> None:
    known = ExpiringSet(limit)
    for key, add in steps:
        known.add(key, 1.0, WHY) if add else known.discard(key)
        assert len(known) <= limit
        assert (known.until(key) is not None) is add


def test_long_keys_are_told_apart_though_they_are_not_kept_whole() -> None:
    keys = ExpiringSet(10)
    keys.add("a" * 30_000, 5.0, Reason.NO_STORE)
    keys.add("a" * 30_001, 6.0, Reason.PRIVATE)
    assert keys.until("a" * 30_000) == 5.0
    assert keys.reason("a" * 30_001) is Reason.PRIVATE
    keys.discard("a" * 30_000)
    assert keys.until("a" * 30_000) is None
