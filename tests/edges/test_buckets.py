"""Buckets in memory: what they admit, and what they take."""

import math
import random
from collections.abc import Sequence
from sys import getsizeof

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.edges.buckets import MOST, LocalBuckets
from tests.edges.bucket_kit import CLOSE, worst


def never() -> float:
    raise AssertionError("nobody asks for the time")


def buckets(rate: float, burst: float, *, most: int = MOST) -> LocalBuckets:
    return LocalBuckets(rate, burst, never, most=most)


def admitted(limit: LocalBuckets, client: str, per_second: float, seconds: float, *, start: float = 1e6) -> float:
    asked = [start + at / per_second for at in range(round(per_second * seconds))]
    return sum(limit.take(client, 1.0, now) >= 0 for now in asked)


def test_a_client_that_asks_four_times_too_much_gets_the_rate_and_one_burst() -> None:
    got = admitted(buckets(100.0, 50.0), "a", 400.0, 20)
    assert got == pytest.approx(100 * 20 + 50, rel=0.01)
    assert got <= 100 * 20 + 50


def test_two_clients_do_not_affect_one_another() -> None:
    limit, alone, together = buckets(100.0, 50.0), buckets(100.0, 50.0), 0.0
    for at in range(8000):
        now = 1000 + at / 400
        limit.take("greedy", 1.0, now)
        if at % 8 == 0:
            said = limit.take("modest", 1.0, now)
            assert said == alone.take("modest", 1.0, now)
            together += said >= 0
    assert together == 1000


def test_it_says_what_is_left_and_else_how_long_to_wait() -> None:
    limit = buckets(2.0, 3.0)
    assert limit.left("a", 10.0) == 3
    assert [limit.take("a", 1.0, 10.0) for _ in range(3)] == pytest.approx([2, 1, 0], abs=1e-6)
    assert limit.take("a", 1.0, 10.0) == pytest.approx(-0.5)
    assert limit.take("a", 2.0, 10.0) == pytest.approx(-1)
    assert limit.take("a", 1.0, 10.25) == pytest.approx(-0.25), "who was refused has paid nothing"
    assert limit.left("a", 10.25) == pytest.approx(0.5)
    assert limit.take("a", 1.0, 11.0) == pytest.approx(1)
    assert limit.left("a", 100.0) == 3


def test_a_part_of_a_token_can_be_paid() -> None:
    limit = buckets(1.0, 1.0)
    assert [limit.take("a", 0.1, 5.0) >= 0 for _ in range(11)] == [True] * 10 + [False]


def test_what_is_given_back_can_be_spent_again_and_no_more_than_that() -> None:
    limit = buckets(1.0, 5.0)
    limit.take("a", 5.0, 10.0)
    limit.give_back("a", 2.0, 10.0)
    limit.give_back("nobody", 2.0, 10.0)
    assert limit.left("a", 10.0) == pytest.approx(2)
    assert limit.take("a", 2.0, 10.0) >= 0
    assert limit.take("a", 0.1, 10.0) < 0
    limit.give_back("a", 1.0, 100.0)
    assert limit.left("a", 100.0) == 5
    assert limit.take("a", 5.0, 100.0) >= 0
    assert limit.take("a", 0.1, 100.0) < 0


async def test_to_ask_is_to_take() -> None:
    limit = LocalBuckets(1.0, 1.0, lambda: 7.0)
    assert await limit.ask("a", 1.0) == 0
    assert await limit.ask("a", 1.0) == pytest.approx(-1)


def test_waiting_as_told_is_enough_in_a_thousand_tries() -> None:
    """Retry-After has whole seconds."""
    dice = random.Random(6)
    for at in range(1000):
        rate, burst = 10 ** dice.uniform(-4, 5), dice.choice([1.0, 2.0, 7.5, 50.0])
        limit, now = buckets(rate, burst), dice.uniform(0, 1e7)
        said, cost = 0.0, 1.0
        while said >= 0:
            cost = dice.choice([1.0, 0.1, min(3.0, burst), burst])
            said = limit.take(str(at), cost, now)
            now += dice.choice([0.0, 0.5 / rate])
        now += -said if at % 2 else math.ceil(-said)
        assert limit.take(str(at), cost, now) >= 0, (rate, burst, cost, said)


@settings(max_examples=200, deadline=None)
@given(
    rate=st.sampled_from([0.1, 1.0, 30.0]),
    burst=st.sampled_from([1.0, 2.5, 40.0]),
    steps=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.4, 3.0]), st.sampled_from([0.1, 1.0]), st.integers(0, 9)), max_size=200
    ),
)
def test_no_window_has_more_than_rate_and_burst_allow(
    rate: float, burst: float, steps: Sequence[tuple[float, float, int]]
) -> None:
    limit, now, paid = buckets(rate, burst), 1000.0, list[tuple[float, float]]()
    for passes, cost, undo in steps:
        now += passes
        if limit.take("a", cost, now) >= 0:
            paid.append((now, cost))
            if not undo:
                limit.give_back("a", paid.pop()[1], now)
    assert worst(paid, rate) <= burst + CLOSE


def test_a_million_clients_take_no_more_memory_than_the_bound() -> None:
    limit = buckets(1.0, 50.0)
    for at in range(1_000_000):
        limit.take(f"2001:db8:{at >> 16:x}:{at & 0xFFFF:x}::/64", 1.0, 1000.0 + at * 1e-5)
    assert MOST - 16 <= len(limit) <= MOST
    shards = limit._shards  # noqa: SLF001 - what they take is the question
    taken = sum(getsizeof(shard) + sum(getsizeof(name) + getsizeof(0.0) for name in shard) for shard in shards)
    assert taken <= 270 * MOST, "bytes, the names of the clients too"


def test_whoever_is_full_again_is_forgotten_as_others_come() -> None:
    limit = buckets(100.0, 100.0)
    for at in range(20_000):
        assert limit.take(str(at), 1.0, 1000 + at / 1000) == pytest.approx(99)
    assert len(limit) < 500, "ten of them are not full at any time"


def test_nobody_gets_rid_of_a_debt_by_crowding_it_out() -> None:
    limit, burst = buckets(1.0, 10.0, most=64), 10
    got = [sum(limit.take(str(at), 1.0, 1000.0) >= 0 for _ in range(20)) for at in range(1000)]
    assert got[:4] == [burst] * 4
    assert len(limit) <= 64
    again = sum(limit.take(str(at), 1.0, 1000.0) >= 0 for at in range(1000))
    assert again == 0, "all are as deep in debt as those who were forgotten"
    assert limit.left("stranger", 1000.0) == pytest.approx(0, abs=1e-6)
    assert sum(limit.take("stranger", 1.0, 1005.0 + at / 10) >= 0 for at in range(10)) == 5, "and so are strangers"
    assert limit.left("stranger", 1060.0) == burst


def test_of_those_in_debt_the_least_indebted_go_first() -> None:
    limit = buckets(1.0, 1000.0, most=64)
    names = [[name for name in map(str, range(1000)) if hash(name) % 16 == shard] for shard in range(16)]
    deep = [shard.pop() for shard in names]  # the last that came, in each dictionary
    for shard, name in zip(names, deep, strict=True):
        for each in (*shard[:3], name):
            limit.take(each, 900.0 if each == name else 1.0, 1000.0)
    for at in range(1000):
        limit.take(f"shallow {at}", 1.0, 1000.0)
    assert len(limit) == 64
    assert [limit.left(name, 1000.0) for name in deep] == pytest.approx([100] * 16)
    assert limit.left("stranger", 1000.0) > 900 - 800


def test_a_refused_client_takes_no_memory() -> None:
    limit = buckets(1.0, 1.0)
    assert limit.take("a", 2.0, 1000.0) < 0
    assert len(limit) == 0
