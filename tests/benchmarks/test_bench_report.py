"""The arithmetic of the benchmark, and the pieces of it that need no server."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest

from tests.benchmarks import load, measure, openloop, report
from tests.benchmarks.cases import CASES, PROMISES, Case, Promise, Subject, Traffic, chosen
from tests.benchmarks.floor import answer
from tests.benchmarks.report import Result, Sample
from tests.benchmarks.upstream import ANSWERS, body
from tests.benchmarks.wire import FIELDS, request

OURS, THEIRS = Subject("ours", "readthrough"), Subject("theirs", "nginx")
CASE = Case("case", "a case", (OURS, THEIRS), Traffic("/"))


def sample(rate: float, p99: float = 0.001, **more: float) -> Sample:
    numbers = {"cpu": 1e-5, "server_busy": 1.0, "load_busy": 0.5, "foreign": 0.0, "stolen": 0.0, **more}
    return Sample(rate=rate, latencies=(p99 / 2, p99, p99 * 2), **numbers)


def test_a_percentile_is_disturbed_by_less_than_a_rate() -> None:
    little = sample(100, foreign=0.03)
    assert little.disturbed
    assert not replace(little, latencies=()).disturbed


RESULT = Result(
    CASE, {"ours": [sample(150), sample(100), sample(120)], "theirs": [sample(100), sample(50), sample(96)]}
)


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        (range(1, 101), 0.5, 50),
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.999, 100),
        (range(1, 1001), 0.999, 999),
        ([7], 0.5, 7),
        ([1, 2], 0.0, 1),
        ([1, 2, 3], 1.0, 3),
    ],
)
def test_a_percentile_is_one_of_the_values(values: list[float], part: float, expected: float) -> None:
    assert report.percentile(list(values), part) == expected


def test_a_ratio_is_taken_round_by_round() -> None:
    found = RESULT.ratio("theirs")
    assert (found.median, found.low, found.high) == (1.5, 1.25, 2.0)
    assert (str(found), found.spread) == ("1.50", "1.25-2.00")


def test_numbers_are_medians_and_disturbances_the_worst() -> None:
    result = Result(CASE, {"ours": [sample(1, 0.3, foreign=0.5), sample(2, 0.1), sample(9, 0.2)], "theirs": []})
    typical = result.medians("ours")
    assert (typical.rate, typical.latencies[1], typical.foreign) == (2, 0.2, 0.5)


def test_the_table_is_markdown_with_its_numbers_to_the_right() -> None:
    assert report.table(("name", "n"), [("a", "1"), ("bcdef", "1,000")]) == (
        "| name  |     n |\n| ----- | ----: |\n| a     |     1 |\n| bcdef | 1,000 |"
    )
    assert (
        "| a case | ours    |   120 |    10 µs | theirs  |    96 |    10 µs |  1.50 | 1.25-2.00 |"
        in report.throughput([RESULT])
    )
    assert "| 1,000 µs |" in report.latency([RESULT])


@pytest.mark.parametrize(
    ("promise", "held"),
    [
        (Promise("case", "theirs", 1.5), True),
        (Promise("case", "theirs", 1.51), False),
        (Promise("case", "theirs", 1.0, "p99"), True),
        (Promise("case", "theirs", 0.99, "p99"), False),
        (Promise("not measured", "theirs", 9.0), True),
        (Promise("case", None, RESULT.medians("ours").rate), True),
        (Promise("case", None, RESULT.medians("ours").rate + 1), False),
    ],
)
def test_a_promise_is_a_bound_on_a_ratio_or_on_a_rate(promise: Promise, held: bool) -> None:
    text, verdict = report.promises([RESULT], [promise])
    assert verdict is held
    assert ("MISSED" in text) is not held


def test_what_is_doubtful_is_said() -> None:
    assert report.doubts([RESULT]) == []
    told = report.doubts([Result(CASE, {"ours": [sample(1, foreign=0.3)], "theirs": [sample(1, server_busy=0.5)]})])
    assert len(told) == 2
    assert "30%" in told[0]
    assert "50%" in told[1]


def test_everybody_has_every_place_in_the_order() -> None:
    subjects = [OURS, THEIRS, Subject("third", "floor")]
    orders = measure.orders(subjects, 3)
    assert [list(place) for place in zip(*orders, strict=True)] == [[s, *_others(subjects, s)] for s in subjects]


def _others(subjects: list[Subject], first: Subject) -> list[Subject]:
    at = subjects.index(first)
    return [*subjects[at + 1 :], *subjects[:at]]


def test_names_are_unique_and_promises_about_something() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
    for case in CASES:
        assert len({subject.name for subject in case.subjects}) == len(case.subjects)
    for promise in PROMISES:
        (case,) = (case for case in CASES if case.name == promise.case)
        assert promise.against in [None, *(subject.name for subject in case.subjects[1:])]
        assert (promise.measure == "p99") is (case.rate is not None)


def test_a_case_brings_those_that_it_needs() -> None:
    assert [case.name for case in chosen(["latency"])] == ["hit-1k", "latency"]
    assert chosen(None) == CASES


def test_the_request_has_eleven_fields() -> None:
    raw = request("/path", (("X", "y"),))
    assert raw.startswith(b"GET /path HTTP/1.1\r\nHost: ")
    assert raw.endswith(b"\r\nX: y\r\n\r\n")
    assert raw.count(b"\r\n") == 1 + len(FIELDS) + 1 + 1
    assert len(FIELDS) == 11


def test_bodies_have_their_size() -> None:
    for size, _, _ in ANSWERS.values():
        assert len(body(size)) == size
    assert answer(200, 1024).endswith(b"\r\n\r\n" + b"x" * 1024)
    assert answer(304, 0).endswith(b"\r\n\r\n")


def test_zipf_draws_by_the_inverse_of_the_rank() -> None:
    drawn = Counter(load.zipf(100, 100_000))
    assert set(drawn) <= set(range(1, 101))
    assert 1.8 < drawn[1] / drawn[2] < 2.2
    assert 8 < drawn[1] / drawn[10] < 12


def test_arrivals_keep_the_rate_and_are_the_same_every_time() -> None:
    due = openloop.arrivals(1000, 2, seed=1)
    assert len(due) == 2000
    assert math.isclose(due[-1], 2)
    assert due == sorted(due) == openloop.arrivals(1000, 2, seed=1) != openloop.arrivals(1000, 2, seed=2)
    gaps = [later - sooner for sooner, later in itertools.pairwise(due)]
    assert 0.55 < sum(gap < 0.001 for gap in gaps) / len(gaps) < 0.71  # exponential: 1 - 1/e of them


def test_the_last_line_of_wrk_is_read() -> None:
    done = load.parse('Running…\nRESULT {"requests":100,"microseconds":2000000,"bytes":130000,"errors":0}\n')
    assert (done.rate, done.requests, done.bytes_each) == (50, 100, 1300)


@pytest.mark.parametrize(
    "output",
    [
        "unable to connect",
        'RESULT {"requests":100,"microseconds":1,"bytes":1,"errors":1}',
        'RESULT {"requests":0,"microseconds":1,"bytes":0,"errors":0}',
    ],
)
def test_a_load_with_errors_is_not_a_measurement(output: str) -> None:
    with pytest.raises(load.Failed):
        load.parse(output)
