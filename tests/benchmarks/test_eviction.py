"""The policies of the comparison do what their papers say, and the traces are what their names say."""

import json
import random
import sys
from collections.abc import Callable, Iterable
from itertools import count, islice
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import eviction
from tests.benchmarks.eviction import Row, compared, hit_ratio, tables
from tests.benchmarks.policies import LRU, POLICIES, Clock, Policy, S3Fifo, Shipped, Sieve
from tests.benchmarks.traces import BURST, OBJECTS, REQUESTS, SIZE, Trace, in_bursts, interleaved, traces, twice


class Measured(Policy, Protocol):
    size: int


# The store that ships is too large for objects of one byte; tests/edges/test_memory.py has its invariants.
MAKERS = [pytest.param(make, id=name) for name, make in POLICIES.items() if name != "shipped"]
OPERATIONS = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=300)


def size_of(key: int) -> int:
    return 1 + key * 7 % 40


def hits(policy: Policy, keys: str) -> str:
    """Those of the letters that were hits. Each is a byte large; a small one purges its capital, a space is nothing."""
    found = ""
    for key in keys.replace(" ", ""):
        if key.islower():
            policy.remove(ord(key.upper()))
        elif policy.request(ord(key), 1):
            found += key
    return found


@pytest.mark.parametrize("make", MAKERS)
@given(operations=OPERATIONS, budget=st.integers(0, 120))
def test_the_budget_is_never_exceeded_and_a_hit_was_stored(
    make: Callable[[int], Measured], operations: list[tuple[int, bool]], budget: int
) -> None:
    policy, asked = make(budget), set[int]()
    for key, purge in operations:
        if purge:
            policy.remove(key)
            asked.discard(key)
        else:
            before = policy.size
            hit = policy.request(key, size_of(key))
            assert not hit or (key in asked and policy.size == before)
            if size_of(key) <= budget:
                asked.add(key)
                assert policy.request(key, size_of(key)), "a miss is admitted"
        assert 0 <= policy.size <= budget
        assert policy.size <= sum(map(size_of, asked))
    for key in asked:
        policy.remove(key)
    assert policy.size == 0


@given(operations=OPERATIONS, budget=st.integers(0, 120))
def test_lru_is_a_list_of_which_the_last_goes(operations: list[tuple[int, bool]], budget: int) -> None:
    policy, recent = LRU(budget), list[int]()
    for key, purge in operations:
        hit = key in recent
        if hit:
            recent.remove(key)
        if purge:
            policy.remove(key)
            continue
        assert policy.request(key, size_of(key)) == hit
        if size_of(key) <= budget:
            recent.insert(0, key)
            while sum(map(size_of, recent)) > budget:
                recent.pop()


def test_sieve_spares_what_was_hit_where_it_stands() -> None:
    # At D the hand spares A, drops B and is at C, which goes for E, then D for F: A, spared, is behind it.
    assert hits(Sieve(3), "ABCA D E F AEF D") == "AAEF"


def test_the_hand_of_sieve_outlives_what_it_points_at() -> None:
    # At D the hand spares A, drops B and is at C. Without C it is at D, which goes for F.
    assert hits(Sieve(3), "ABCA D c E F AEF D") == "AAEF"


def test_clock_spares_what_was_hit_once() -> None:
    assert hits(Clock(3), "ABCA D CAD B") == "ACAD"
    assert hits(Clock(3), "ABCA D E F DEF A") == "ADEF"


def test_s3_fifo_keeps_from_a_scan_what_was_hit_enough() -> None:
    assert hits(S3Fifo(10), "AAA BB CDEFGHIJKLMNOP AB") == "AABA"
    assert hits(S3Fifo(10, threshold=1), "AAA BB CDEFGHIJKLMNOP AB") == "AABAB"


def test_what_comes_back_soon_outlives_the_next_scan() -> None:
    letters = 4096  # bytes of each
    policy = S3Fifo(10 * letters)
    for key in [*range(11), 0, *range(100, 112)]:
        assert not policy.request(key, letters)
    assert policy.request(0, letters)


def test_the_store_that_ships_withstands_a_scan_that_lru_does_not() -> None:
    rng = random.Random("quick")
    keys = interleaved(rng, 0.8, count(OBJECTS), 0.3)[:60_000]
    trace = Trace("quick", keys, [SIZE] * (max(keys) + 1), "scan")
    row = compared(trace, {"LRU": LRU, "shipped": Shipped})[1]
    assert row.gain("shipped") > 3


def test_it_finds_how_long_the_young_must_be_kept() -> None:
    """Two thirds of the requests are keys that come exactly twice, too far apart for a share of 0.1."""
    keys = twice(random.Random("quick"), 600)[:120_000]
    trace = Trace("twice", keys, [SIZE] * (max(keys) + 1))
    assert hit_ratio(Shipped(1000 * SIZE), trace) > hit_ratio(S3Fifo(1000 * SIZE, threshold=1), trace) + 10


def test_purges_are_no_requests() -> None:
    assert hit_ratio(LRU(100), Trace("", [1, 1, ~1, 1, 1], [1, 1])) == 50


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("made", [interleaved, in_bursts])
def test_a_scan_is_its_share_and_no_part_of_the_footprint(
    made: Callable[[random.Random, float, Iterable[int], float], list[int]], share: float
) -> None:
    keys = made(random.Random(1), 0.8, count(OBJECTS), share)
    once = [key for key in keys if key >= OBJECTS]
    assert len(keys) == REQUESTS
    assert once == list(range(OBJECTS, OBJECTS + len(once)))
    assert abs(len(once) - share * REQUESTS) <= BURST
    trace = Trace("", keys, [SIZE] * (max(keys) + 1))
    assert 0.8 * OBJECTS * SIZE < trace.footprint <= OBJECTS * SIZE


def test_traces_are_the_same_each_time() -> None:
    one, other = (list(islice(traces(), 3)) for _ in range(2))
    assert one == other
    assert len({trace.name for trace in one}) == 3


def test_the_tables_say_where_a_policy_loses() -> None:
    rows = [
        Row(name, kind, share, {"LRU": 50.0, "shipped": 50 + gain})
        for name, kind, gain in (("plain", "", 1.25), ("scanned", "scan", 2.0), ("window", "hostile", -2.0))
        for share in eviction.BUDGETS
    ]
    text = tables(rows)
    assert text.count("| plain | 50.0 | 51.2 | +1.2 |") == 3
    assert "| window (hostile) | 50.0 | 48.0 | -2.0 |" in text
    assert text.endswith("| shipped | +0.42 | 3 of 9 | 3 | -2.0 (window, 1 %) | 3 of 3 | +2.0 |")


def test_the_command_prints_the_tables_and_writes_the_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = [Trace("wanted", [*range(100), *range(100)], [SIZE] * 100, "scan"), Trace("other", [1], [SIZE] * 2)]
    monkeypatch.setattr(eviction, "traces", lambda: small)
    monkeypatch.setattr(sys, "argv", ["eviction", "--only", "want", "--json", str(tmp_path / "ratios")])
    eviction.main()
    assert "| wanted |" in capsys.readouterr().out
    written = json.loads((tmp_path / "ratios").read_text())
    assert [(row["trace"], row["budget"]) for row in written] == [("wanted", share) for share in eviction.BUDGETS]
    assert all(row["ratios"].keys() == POLICIES.keys() for row in written)
