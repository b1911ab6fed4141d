"""The circuit breaker: closed, open, half-open."""

import pytest

from proxy.flow.breaker import Breaker


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(failures=3, open_for=5.0)


def _open(breaker: Breaker, at: float) -> None:
    for _ in range(3):
        breaker.failed(at, probe=False)


def test_it_stays_closed_below_its_number_of_failures(breaker: Breaker) -> None:
    breaker.failed(0.0, probe=False)
    breaker.failed(0.0, probe=False)
    assert breaker.admits(0.0)
    assert breaker.opened == 0


def test_that_many_failures_in_a_row_open_it(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert not breaker.admits(10.0)
    assert not breaker.admits(14.9)
    assert breaker.opened == 1


def test_a_success_between_failures_starts_the_count_again(breaker: Breaker) -> None:
    breaker.failed(0.0, probe=False)
    breaker.failed(0.0, probe=False)
    breaker.succeeded()
    breaker.failed(0.0, probe=False)
    breaker.failed(0.0, probe=False)
    assert breaker.admits(0.0)


def test_when_the_time_is_up_one_goes_to_see_and_the_rest_wait(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert [breaker.admits(15.0) for _ in range(3)] == [True, False, False]


def test_a_probe_that_succeeds_closes_it(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert breaker.admits(15.0)
    breaker.succeeded()
    assert breaker.admits(15.0)
    assert breaker.admits(15.0)


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert breaker.admits(15.0)
    breaker.failed(16.0, probe=True)
    assert not breaker.admits(20.9)
    assert breaker.admits(21.0)


def test_a_probe_without_a_verdict_leaves_it_to_the_next(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert breaker.admits(15.0)
    breaker.abandoned(probe=True)
    assert [breaker.admits(15.0), breaker.admits(15.0)] == [True, False]


def test_a_call_without_a_verdict_is_no_failure(breaker: Breaker) -> None:
    for _ in range(10):
        breaker.abandoned(probe=False)
    assert breaker.admits(0.0)


def test_a_call_from_before_the_opening_says_nothing_of_the_probe(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    assert breaker.admits(15.0)
    breaker.abandoned(probe=False)
    breaker.failed(15.0, probe=False)
    assert not breaker.admits(15.0)
    breaker.succeeded()
    assert breaker.admits(15.0)


def test_an_open_one_stays_open_under_another_rule_which_counts_from_then_on(breaker: Breaker) -> None:
    _open(breaker, 10.0)
    breaker.change(failures=1, open_for=1.0)
    assert not breaker.admits(14.9)
    assert breaker.admits(15.0)
    breaker.failed(15.0, probe=True)
    assert breaker.admits(16.0)
    breaker.succeeded()
    breaker.failed(17.0, probe=False)
    assert not breaker.admits(17.9)
    assert breaker.opened == 2


def test_whether_it_would_admit_can_be_asked_without_a_probe() -> None:
    breaker = Breaker(1, 5.0)
    assert breaker.would_admit(0.0)
    breaker.failed(0.0, probe=False)
    assert not breaker.would_admit(4.9)
    assert breaker.would_admit(5.0)
    assert breaker.would_admit(5.0), "asking is no probe"
    assert breaker.admits(5.0)
    assert not breaker.would_admit(5.0), "one is out"
