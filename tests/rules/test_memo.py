"""Remembering results: what comes again is kept, what never comes again takes no room."""

from collections.abc import Hashable, Iterable
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.memo import MARKS, Memo
from tests.rules.build import brief

ROOM: Final = 8


class Worked:
    """A memo as its users use it, and what had to be worked out."""

    def __init__(self, room: int = ROOM) -> None:
        self.memo: Memo[Hashable, str] = Memo(room, lambda *_: 1)
        self.out: list[Hashable] = []

    def ask(self, key: Hashable) -> str:
        value = self.memo.get(key)
        if value is None:
            self.out.append(key)
            value = f"of {key}"
            self.memo.offer(key, value)
        return value

    def ask_all(self, keys: Iterable[Hashable], times: int = 1) -> None:
        for _ in range(times):
            for key in keys:
                assert self.ask(key) == f"of {key}"

    @property
    def held(self) -> int:
        """How many results are held."""
        memo = self.memo
        return len(memo.recent.keys() | memo._former.keys())  # noqa: SLF001 - what a bound is about

    def remembers(self, key: Hashable) -> bool:
        before = len(self.out)
        self.ask(key)
        return len(self.out) == before


def test_a_result_is_kept_from_the_second_appearance_of_its_key_on() -> None:
    w = Worked()
    w.ask_all(["a"], times=5)
    assert w.out == ["a", "a"]
    assert w.memo.recent == {"a": "of a"}


def test_a_flood_of_keys_that_never_come_again_is_not_kept_and_pushes_nothing_out() -> None:
    w = Worked()
    hot = [f"hot {number}" for number in range(ROOM)]
    w.ask_all(hot, times=2)
    w.out.clear()
    for number in range(100 * ROOM):
        w.ask(f"once {number}")
        w.ask(hot[number % ROOM])
    assert not set(w.out) & set(hot)
    assert w.held == ROOM


def test_a_flood_of_keys_leaves_few_marks() -> None:
    w = Worked()
    for number in range(3 * MARKS):
        w.ask(number)
        assert len(w.memo._seen) <= MARKS  # noqa: SLF001 - what a bound is about


def test_a_flood_between_its_appearances_delays_a_key_but_does_not_keep_it_out() -> None:
    w = Worked()
    w.ask("late")
    w.ask_all(range(10 * ROOM))
    w.ask_all(["late"], times=3)
    assert w.remembers("late")


def test_what_is_asked_for_moves_on_to_the_next_generation_and_the_rest_is_dropped() -> None:
    w = Worked()
    w.ask_all(["asked for", "forgotten"], times=2)
    for generation in range(3):
        w.ask_all([f"{generation} {number}" for number in range(ROOM)], times=2)
        assert w.remembers("asked for")
    assert not w.remembers("forgotten")


def test_what_was_cleared_is_worked_out_anew() -> None:
    w = Worked()
    w.ask_all(range(2 * ROOM), times=2)
    w.memo.clear()
    assert (w.held, w.memo.get(0)) == (0, None)
    w.out.clear()
    w.ask_all([0], times=3)
    assert w.out == [0, 0]


@brief
@given(st.lists(st.integers(0, 40) | st.just(None), max_size=300), st.integers(1, ROOM))
def test_it_gives_what_was_offered_and_holds_no_more_than_two_generations(keys: list[int | None], room: int) -> None:
    w = Worked(room)
    for key in keys:
        if key is None:
            w.memo.clear()
        else:
            assert w.ask(key) == f"of {key}"
        assert w.held <= 2 * room
        assert len(w.memo.recent) <= room


class Held:
    """Counts how many of its kind there are."""

    alive = 0

    def __init__(self) -> None:
        Held.alive += 1

    def __del__(self) -> None:
        Held.alive -= 1


@pytest.mark.parametrize("cleared", [False, True])
def test_what_is_forgotten_is_freed_a_little_at_a_time(cleared: bool) -> None:
    """Thousands at once would stop the loop."""
    room = 100
    memo: Memo[int, Held] = Memo(room, lambda *_: 1)
    most = before = 0
    for key in range(6 * room):
        if cleared and key == 3 * room:
            memo.clear()
        for _ in range(2):
            memo.offer(key, Held())
        most = max(most, before - Held.alive)
        before = Held.alive
        assert Held.alive <= 3 * room
    assert most <= 1, "one more came, two went"
    assert before == Held.alive > 0
