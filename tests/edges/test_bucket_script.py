"""lua/bucket.lua, call by call, in a real Redis that is told the time; and its model, which says the same."""

from collections.abc import Sequence
from typing import Any, Final

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from proxy.edges.redis_script import Script, Word
from tests.edges.bucket_kit import EXAMPLES, Keeper, Model, Real

SCRIPT: Final = Script.load("bucket")


def call(  # noqa: PLR0913 - the script's own arguments
    keeper: Keeper,
    now: float,
    *costs: tuple[float, int],
    rate: float = 10.0,
    burst: float = 100.0,
    holder: str = "h",
    serial: int = 1,
    heard: tuple[int, int] = (0, 0),
    kept: float = 0.0,
    back: float = 0.0,
    debit: float = 0.0,
    batch: float = 0.0,
    least: float = 0.0,
    full: int = 0,
    marker: str = "",
    fresh: str = "m",
) -> list[float | str]:
    """The marker and the numbers it gives; nothing where it was overtaken."""
    args: list[Word] = [repr(rate), repr(burst), 1_000_000, holder, serial, *heard, repr(kept), repr(back)]
    args += [repr(debit), repr(batch), repr(least), full, marker, fresh]
    for cost, number in costs:
        args += [repr(cost), number]
    said = keeper.run(SCRIPT, ("rt:{q0}:limit:c", "rt:{q0}"), args, round(now * 1e6)).decode().split()
    return [*said[:1], *map(float, said[1:])]


def left(said: Sequence[float | str]) -> float:
    assert isinstance(said[3], float)
    return said[3]


def granted(said: Sequence[float | str]) -> float:
    assert isinstance(said[5], float)
    return said[5]


def wait(said: Sequence[float | str]) -> float:
    assert isinstance(said[7], float)
    return said[7]


def test_a_bucket_that_nobody_has_used_is_full(keeper: Keeper) -> None:
    assert left(call(keeper, 1000)) == 100
    assert left(call(keeper, 1000, (1.0, 30))) == 70


def test_of_what_costs_the_same_as_many_are_paid_as_there_are_tokens(keeper: Keeper) -> None:
    said = call(keeper, 1000, (30.0, 4), (0.5, 1000))
    assert said[6::2] == [3.0, 20.0]
    assert said[7] == pytest.approx(3.0, abs=1e-5), "seconds until thirty more"


def test_it_refills_with_the_clock_of_redis_and_stops_at_the_burst(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 100))
    assert left(call(keeper, 1003)) == pytest.approx(30)
    assert left(call(keeper, 1100)) == 100


def test_what_is_out_on_lease_is_no_room_for_refill(keeper: Keeper) -> None:
    said = call(keeper, 1000, (1.0, 40), batch=20)
    assert (left(said), granted(said)) == (40, 20)
    assert left(call(keeper, 1000.9, holder="other", rate=1000.0)) == 80


def test_a_lease_that_ends_unreturned_is_spent_and_caps_the_refill_no_longer(keeper: Keeper) -> None:
    call(keeper, 1000, batch=20)
    assert left(call(keeper, 1001.5, holder="other")) == pytest.approx(85), "it began at 80 when the lease ended"


def test_what_comes_back_of_a_lease_can_be_spent_again_at_once(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 80), batch=10)
    said = call(keeper, 1000, (1.0, 15), serial=2, heard=(1, 0), kept=2, back=5)
    assert (said[6], left(said), said[4]) == (15, 0, 2)


def test_nobody_gives_back_more_than_was_granted(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 80), batch=10)
    assert left(call(keeper, 1000, serial=2, heard=(1, 0), kept=50, back=50)) == 20
    assert left(call(keeper, 1000, serial=3, heard=(2, 0), kept=50, back=50)) == 20


def test_what_was_granted_and_never_heard_of_comes_back_with_the_next_call(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 80), batch=5)
    call(keeper, 1000, serial=2, heard=(1, 0), kept=5, batch=5)
    said = call(keeper, 1000, serial=3, heard=(1, 2), kept=3)
    assert (said[4], left(said)) == (3, 15), "two were spent, five not heard of"


def test_what_was_heard_of_does_not_come_back_because_a_later_call_was_lost(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 80), batch=5)
    said = call(keeper, 1000, serial=3, heard=(1, 2), kept=3)
    assert (said[4], left(said)) == (3, 15)


def test_what_was_granted_and_may_have_been_heard_of_is_spent(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 80), batch=5)
    assert left(call(keeper, 1000, serial=2)) == 15


def test_a_call_that_a_later_one_has_overtaken_changes_nothing(keeper: Keeper) -> None:
    call(keeper, 1000, serial=7, batch=10)
    assert call(keeper, 1000, (1.0, 50), serial=6, back=10, heard=(7, 0)) == []
    assert left(call(keeper, 1000, holder="other")) == 90


def test_a_debit_is_paid_before_anything_else_and_is_never_more_than_a_burst(keeper: Keeper) -> None:
    said = call(keeper, 1000, (1.0, 1), debit=130)
    assert (said[6], left(said)) == (0, -30)
    assert wait(said) == pytest.approx(3.1, abs=1e-5)
    assert left(call(keeper, 1000, debit=1000)) == -100


def test_a_refund_stops_at_the_burst(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 10), batch=4)
    assert left(call(keeper, 1000, holder="other", debit=-3)) == 89
    assert left(call(keeper, 1000, holder="other", serial=2, debit=-30)) == 96, "four are out on lease"


def test_a_clock_that_goes_back_costs_nothing_and_gives_nothing(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 50), batch=10)
    assert left(call(keeper, 940, holder="other")) == 40
    assert left(call(keeper, 940.5, holder="other", serial=2)) == pytest.approx(45)
    assert left(call(keeper, 941, holder="other", serial=3)) == pytest.approx(50), "the lease still caps it at 90"
    assert left(call(keeper, 950, holder="other", serial=4)) == 100, "and has ended"


def test_a_lease_is_no_more_than_half_of_what_is_left_and_none_where_somebody_was_refused(keeper: Keeper) -> None:
    assert granted(call(keeper, 1000, (1.0, 80), batch=30)) == 10
    assert granted(call(keeper, 1000, holder="b", batch=30, least=6)) == 0, "five are not worth one"
    assert granted(call(keeper, 1000, (50.0, 1), holder="b", batch=30, serial=2)) == 0


def test_the_wait_that_is_told_knows_of_leases(keeper: Keeper) -> None:
    call(keeper, 1000, (1.0, 10), batch=40, rate=100.0)
    said = call(keeper, 1000, (95.0, 1), holder="b", rate=100.0)
    assert wait(said) == pytest.approx(1.35, abs=1e-5), "60 are the most until the lease has ended"
    said = call(keeper, 1000 + wait(said), (95.0, 1), holder="b", serial=2, rate=100.0)
    assert said[6] == 1


def test_a_bucket_that_was_full_later_than_it_is_missing_was_lost(keeper: Keeper) -> None:
    full = call(keeper, 1000, (1.0, 10))[1]
    assert full == pytest.approx(1001e6)
    keeper.evict()
    assert left(call(keeper, 1000.5, full=int(full), marker="m")) == 0
    assert left(call(keeper, 1001.0, marker="m")) == pytest.approx(5)


@pytest.mark.parametrize("refund", [50, 40])
def test_a_bucket_that_is_full_before_somebody_thinks_was_not_lost_and_later_on_is(
    keeper: Keeper, refund: float
) -> None:
    full = int(call(keeper, 1000, (1.0, 50))[1])
    assert full == 1_005_000_000
    call(keeper, 1000, holder="other", debit=-refund)
    call(keeper, 1002, holder="new")
    assert left(call(keeper, 1004, full=full, serial=2)) == 100
    keeper.evict()
    assert left(call(keeper, 1004.9, full=full, serial=3)) == 0


def test_a_clock_that_is_set_back_behind_a_loss_does_not_keep_buckets_empty_until_then(keeper: Keeper) -> None:
    call(keeper, 1000)
    keeper.lose()
    call(keeper, 1000, marker="m", fresh="n")
    keeper.evict()
    assert left(call(keeper, 940, marker="n")) == 0
    keeper.evict()
    assert left(call(keeper, 942, marker="n")) == pytest.approx(20)


def test_what_others_have_lost_begins_empty_for_who_never_saw_it(keeper: Keeper) -> None:
    call(keeper, 1000)
    keeper.lose()
    call(keeper, 1000, marker="m", fresh="n", full=1)
    assert call(keeper, 1000, holder="new", burst=100.0)[0] == "n"
    other = ("rt:{q0}:limit:d", "rt:{q0}")
    words: list[Word] = ["10.0", "100.0", 1_000_000, "h", 1, 0, 0, "0", "0", "0", "0", "0", 0, "", "x"]
    assert float(keeper.run(SCRIPT, other, words, 1_003_000_000).split()[3]) == pytest.approx(30)


def test_who_knew_another_marker_says_so_to_a_server_that_new_ones_have_used(keeper: Keeper) -> None:
    call(keeper, 1000)
    keeper.lose()
    assert left(call(keeper, 1000, holder="new", fresh="n")) == 100, "it cannot know"
    assert left(call(keeper, 1002, holder="new", serial=2, marker="m")) == 0, "whatever is missing now was lost"
    other = ("rt:{q0}:limit:d", "rt:{q0}")
    words: list[Word] = ["10.0", "100.0", 1_000_000, "h", 1, 0, 0, "0", "0", "0", "0", "0", 0, "n", "x"]
    assert float(keeper.run(SCRIPT, other, words, 1_003_000_000).split()[3]) == pytest.approx(10)


def test_a_state_that_cannot_be_read_is_an_empty_bucket(client: redis.Redis) -> None:
    keeper = Real(client)
    for state in ("", "x", "100", "100 1e15 h 1 x 3 5", "a b c d e f g"):
        client.set("rt:{q0}:limit:c", state)
        client.delete("due:rt:{q0}:limit:c")
        assert left(call(keeper, 1000)) == 0, state


def test_a_bucket_lives_until_it_is_full_and_its_marker_for_ever(client: redis.Redis) -> None:
    words: list[Word] = ["10", "100", 1_000_000, "h", 1, 0, 0, "0", "0", "0", "20", "1", 0, "", "m", "1", 50]
    client.eval(SCRIPT.source, 2, "rt:{q0}:limit:c", "rt:{q0}", *words)
    assert 7_900 < int(client.pttl("rt:{q0}:limit:c")) <= 8_002, "a second for the lease, seven for what is missing"
    assert client.ttl("rt:{q0}") == -1
    client.eval(SCRIPT.source, 2, "rt:{q0}:limit:c", "rt:{q0}", *words[:3], "i", *words[4:9], "-50", "0", *words[11:15])
    assert 7_500 < int(client.pttl("rt:{q0}:limit:c")) <= 8_002, "the first has heard of that"
    words[15:] = []
    assert client.eval(SCRIPT.source, 2, "rt:{q0}:limit:other", "rt:{q0}", *[*words[:10], "0", *words[11:]])
    assert not client.exists("rt:{q0}:limit:other"), "what is full need not be kept"


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
def test_a_redis_that_is_full_refuses_it_whoever_asks(client: redis.Redis, policy: str) -> None:
    words: list[Word] = ["10", "100", 1_000_000, "h", 1, 0, 0, "0", "0", "0", "0", "1", 0, "", "m", "1", 1]
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.eval(SCRIPT.source, 2, "rt:{q0}:limit:c", "rt:{q0}", *words)
        assert client.dbsize() == 0
    finally:
        client.config_set("maxmemory", 0)
    assert client.eval(SCRIPT.source, 2, "rt:{q0}:limit:c", "rt:{q0}", *words)


_COSTS = st.lists(st.tuples(st.sampled_from([0.1, 1.0, 3.0, 20.0]), st.integers(1, 40)), max_size=2)
_TOKENS = st.one_of(st.just(0.0), st.floats(0, 60))
_CALLS = st.fixed_dictionaries(
    {
        "holder": st.sampled_from("abc"),
        "serial": st.integers(1, 9),
        "heard": st.tuples(st.integers(0, 9), st.integers(0, 9)),
        "kept": _TOKENS,
        "back": _TOKENS,
        "debit": st.one_of(st.just(0.0), st.floats(-50, 150)),
        "batch": _TOKENS,
        "least": st.sampled_from([0.0, 4.0]),
        "full": st.sampled_from([0, 1_002_000_000]),
        "marker": st.sampled_from(["", "m", "n"]),
        "fresh": st.sampled_from(["m", "n"]),
    }
)


@EXAMPLES
@given(steps=st.lists(st.tuples(st.floats(-2, 4), _CALLS, _COSTS, st.integers(0, 12)), min_size=1, max_size=25))
def test_the_model_that_simulations_go_by_is_the_script(
    client: redis.Redis, steps: list[tuple[float, dict[str, Any], list[tuple[float, int]], int]]
) -> None:
    real, model, now = Real(client), Model(), 1000.0
    for passes, words, costs, dice in steps:
        now += passes
        if dice == 0:
            real.lose()
            model.lose()
        said = [call(one, now, *costs, **words) for one in (real, model)]
        assert said[0][:1] == said[1][:1], words
        assert said[0][1:] == pytest.approx(said[1][1:], abs=1e-4), words
