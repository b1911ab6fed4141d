"""One client's bucket as one process knows it: what may be spent, what is said of it, and what an answer changes."""

import pytest

from proxy.edges.redis_bucket_holder import TERM, Allowance, Balance, Holder, Statement

NOW = 1000.0


def holder(rate: float = 10.0, burst: float = 100.0, *, instances: int = 1) -> Holder:
    return Holder("key", 3, "h1", Allowance(rate, burst, lambda: instances), NOW)


def balance(left: float = 0.0, *, kept: float = 0.0, lease: float = 0.0) -> Balance:
    return Balance(7_000_000, 2.5, left, kept, lease)


def leasing(tokens: float = 20.0, *, left: float = 0.0, instances: int = 1) -> Holder:
    """Somebody with a lease that was asked for now."""
    one = holder(instances=instances)
    one.learn(settled(one), balance(left, lease=tokens), NOW)
    return one


def settled(one: Holder, now: float = NOW, *, back: bool = False) -> Statement:
    return one.settle(one.known + 1, now, back=back)


def busy(one: Holder, pace: float, cost: float = 1.0) -> Holder:
    """Somebody who has spent that many tokens a second, so far."""
    one.spent, one.cost = pace * 0.2, cost
    assert one.batch(NOW + 0.2) >= 0
    return one


def test_there_is_always_one_who_shares_the_rate() -> None:
    assert [Allowance(6.0, 1.0, lambda n=n: n).share() for n in (0, 1, 3)] == [6, 6, 2]  # type: ignore[misc]


def test_whoever_is_new_has_a_full_bucket_and_need_not_be_remembered() -> None:
    one = holder()
    assert one.available(NOW) == 100
    assert one.is_idle(NOW)
    assert not one.cut_off


def test_whoever_is_calling_is_not_idle() -> None:
    one = holder()
    one.calling = True
    assert not one.is_idle(NOW)


def test_whoever_was_given_something_back_is_not_idle_until_that_is_told() -> None:
    one = holder()
    one.give_back(1.0, NOW)
    assert not one.is_idle(NOW)
    one.learn(settled(one), balance(100.0), NOW)
    assert one.is_idle(NOW)


def test_whoever_was_decided_about_here_is_not_idle_until_redis_answers() -> None:
    one = holder()
    assert one.decide(1.0, NOW, NOW, crowded=False) == 0
    one.give_back(1.0, NOW)
    assert one.debit == 0
    assert not one.is_idle(NOW + 1000)
    one.learn(settled(one), balance(99.0), NOW)
    assert one.is_idle(NOW)


def test_whoever_was_refused_is_idle_once_that_may_be_over() -> None:
    one = holder()
    one.refuse(1.0, 0.25, NOW)
    assert not one.is_idle(NOW + 0.24)
    assert one.is_idle(NOW + 0.25)


def test_whoever_has_a_lease_is_idle_once_it_is_spent_or_has_ended() -> None:
    one = leasing()
    assert not one.is_idle(NOW)
    assert one.is_idle(one.ends)
    one.tokens = 0.0
    assert one.is_idle(NOW)


def test_a_lease_ends_here_before_it_does_in_redis_counted_from_when_it_was_asked_for() -> None:
    one = holder()
    one.learn(settled(one), balance(lease=5.0), NOW + 0.09)
    assert NOW + 0.5 * TERM < one.ends < NOW + 0.9 * TERM


def test_what_is_available_is_what_is_on_lease_and_what_has_gathered() -> None:
    one = leasing(20.0, left=30.0)
    assert one.available(NOW) == 50
    assert one.available(NOW + 0.5) == pytest.approx(55)
    assert one.available(one.ends) == pytest.approx(30 + 10 * (one.ends - NOW)), "the lease has ended"
    assert one.available(NOW + 1000) == 100


def test_what_is_available_is_never_more_than_the_burst() -> None:
    assert leasing(20.0, left=79.0).available(NOW + 0.5) == 100


def test_without_redis_what_is_available_gathers_at_this_process_share() -> None:
    one = leasing(20.0, left=30.0, instances=5)
    assert one.decide(24.0, NOW, NOW, crowded=False) < 0
    assert one.available(NOW) == 20
    assert one.available(NOW + 0.5) == pytest.approx(21)
    assert one.available(NOW + 10) == pytest.approx(20)
    assert one.available(NOW + 1000) == 100


def test_what_is_given_back_fills_the_lease_and_the_rest_is_told() -> None:
    one = leasing(20.0)
    one.tokens = 14.0
    assert not one.give_back(4.0, NOW)
    assert (one.tokens, one.debit) == (18, 0)
    assert one.give_back(5.0, NOW)
    assert (one.tokens, one.debit) == (20, -3)


def test_what_is_given_back_behind_the_end_of_a_lease_is_told() -> None:
    one = leasing(20.0)
    one.tokens = 14.0
    assert one.give_back(4.0, one.ends)
    assert (one.tokens, one.debit) == (14, -4)


def test_no_more_than_a_burst_is_ever_to_be_given_back() -> None:
    one = holder()
    one.give_back(90.0, NOW)
    one.give_back(90.0, NOW)
    assert one.debit == -100


def test_what_is_given_back_ends_a_denial() -> None:
    one = holder()
    one.refuse(1.0, 0.5, NOW)
    one.give_back(0.5, NOW)
    assert one.until <= NOW


def test_what_is_given_back_of_what_was_let_pass_here_can_be_spent_here_and_is_not_told() -> None:
    one = holder()
    assert one.decide(5.0, NOW, NOW, crowded=False) == 0
    assert one.give_back(2.0, NOW)
    assert (one.level, one.debit) == (2, 3)
    assert one.give_back(4.0, NOW)
    assert (one.level, one.debit) == (5, -1), "no more of it than was let pass"


def test_whoever_is_decided_about_here_is_cut_off_until_redis_answers() -> None:
    one = holder()
    said = [one.cut_off]
    one.decide(1.0, NOW, NOW, crowded=False)
    said.append(one.cut_off)
    one.learn(settled(one), balance(), NOW)
    assert [*said, one.cut_off] == [False, True, False]


def test_who_comes_first_without_redis_may_have_one_thing_and_then_the_share() -> None:
    one = holder(10.0, 100.0, instances=2)
    assert one.decide(3.0, NOW, NOW, crowded=False) == 0
    wait = -one.decide(3.0, NOW, NOW, crowded=False)
    assert wait == pytest.approx(3 / 5)
    assert one.decide(3.0, NOW + wait - 0.01, NOW, crowded=False) < 0
    assert one.decide(3.0, NOW + wait, NOW, crowded=False) >= 0
    assert one.debit == 6, "who was refused has paid nothing"


def test_the_share_counts_from_when_redis_was_asked_in_vain() -> None:
    one = holder(10.0, 100.0, instances=2)
    assert one.decide(1.0, NOW, NOW - 2, crowded=False) == pytest.approx(10)


def test_no_more_than_a_burst_is_saved_up_without_redis() -> None:
    one = holder()
    one.decide(1.0, NOW, NOW, crowded=False)
    assert one.decide(1.0, NOW + 1000, NOW, crowded=False) == 99


@pytest.mark.parametrize(("instances", "first"), [(10, True), (11, False)])
def test_who_comes_first_is_let_pass_where_the_burst_is_enough_for_all(instances: int, *, first: bool) -> None:
    assert (holder(instances=instances).decide(10.0, NOW, NOW, crowded=False) >= 0) is first


def test_who_may_have_been_forgotten_is_not_let_pass_as_the_first() -> None:
    assert holder().decide(1.0, NOW, NOW, crowded=True) == pytest.approx(-0.1)


def test_whom_redis_had_nothing_left_for_is_not_let_pass_as_the_first() -> None:
    one = holder(10.0, 100.0, instances=5)
    one.learn(settled(one), balance(0.0), NOW)
    assert one.decide(1.0, NOW + 0.4, NOW + 0.4, crowded=False) < 0
    other = holder(10.0, 100.0, instances=5)
    other.learn(settled(other), balance(0.0), NOW)
    assert other.decide(1.0, NOW + 0.6, NOW + 0.6, crowded=False) >= 0, "its share of the rate has given it"


def test_a_lease_is_what_is_spent_in_a_tenth_of_a_second() -> None:
    assert busy(holder(), 60.0).batch(NOW + 0.2) == pytest.approx(6)


def test_a_lease_is_no_more_than_its_part_of_a_quarter_of_the_burst() -> None:
    assert busy(holder(10_000.0, 240.0, instances=3), 1000.0).batch(NOW + 0.2) == 20


def test_a_lease_for_fewer_than_four_requests_is_not_worth_it() -> None:
    assert busy(holder(), 39.0).batch(NOW + 0.2) == 0
    assert busy(holder(), 39.0, cost=0.5).batch(NOW + 0.2) == pytest.approx(3.9)


def test_the_pace_is_that_of_a_tenth_of_a_second_at_least() -> None:
    one = holder()
    one.spent = one.cost = 50.0
    assert one.batch(NOW + 0.05) == 0
    assert one.pace == 0
    one.cost = 1.0
    assert one.batch(NOW + 0.1) == pytest.approx(25)
    assert one.batch(NOW + 0.19) == pytest.approx(25), "as it was last measured"
    assert one.batch(NOW + 0.2) == 0, "nothing was spent since"


def test_what_is_kept_of_a_lease_counts_towards_the_next() -> None:
    one = busy(leasing(2.0), 60.0)
    said = settled(one, NOW + 0.2)
    assert (said.kept, said.returned) == (2, 0)
    assert said.batch == pytest.approx(4)
    assert said.least == 4
    assert one.size == 2


def test_who_has_more_than_a_lease_asks_for_nothing() -> None:
    assert settled(busy(leasing(20.0), 60.0), NOW + 0.2).batch == 0


def test_what_is_returned_can_no_longer_be_spent_and_none_is_asked_for() -> None:
    one = busy(leasing(20.0), 1000.0)
    said = settled(one, NOW + 0.2, back=True)
    assert (said.kept, said.returned, said.batch) == (0, 20, 0)
    assert (one.tokens, one.size) == (0, 0)


def test_of_what_was_let_pass_no_more_is_told_than_this_process_part_of_a_burst() -> None:
    one = holder(10.0, 100.0, instances=4)
    assert one.decide(5.0, NOW, NOW, crowded=False) == 0
    for second in range(1, 21):
        assert one.decide(2.5, NOW + second, NOW, crowded=False) >= 0
    said = settled(one)
    assert (said.debit, said.told) == (55, 25 + 5), "and the one thing that came first"
    one.learn(said, balance(), NOW)
    assert one.debit == 0
    assert one.gift == 0


def test_an_answer_says_what_is_in_redis_and_when_it_is_full() -> None:
    one = holder()
    one.learn(settled(one), balance(12.0), NOW + 1)
    assert (one.left, one.heard) == (12, NOW + 1)
    assert (one.full_us, one.full_at) == (7_000_000, NOW + 3.5)
    assert one.known == 1
    one.learn(settled(one), balance(-3.0), NOW + 1)
    assert one.left == 0, "who owes has nothing"


def test_what_is_spent_while_redis_is_asked_is_not_there_again_afterwards() -> None:
    one = leasing(10.0)
    said = settled(one)
    one.tokens -= 4
    one.learn(said, balance(kept=10.0, lease=5.0), NOW)
    assert (one.tokens, one.size) == (11, 15)


def test_what_redis_does_not_know_of_a_lease_is_void() -> None:
    one = leasing(10.0)
    said = settled(one)
    one.tokens -= 4
    one.learn(said, balance(kept=3.0, lease=5.0), NOW)
    assert (one.tokens, one.size) == (5, 8)


def test_what_is_let_pass_or_given_back_while_redis_is_asked_is_for_the_next_call() -> None:
    one = holder()
    one.give_back(2.0, NOW)
    said = settled(one)
    one.give_back(3.0, NOW)
    one.learn(said, balance(), NOW)
    assert one.debit == -3
    assert settled(one).told == -3


def test_half_a_lease_is_left_when_the_next_one_is_asked_for() -> None:
    one = leasing(10.0)
    assert one.low == 5
    said = settled(one)
    one.tokens -= 6
    one.learn(said, balance(kept=10.0), NOW)
    assert one.low == 2, "and half of what is left where there was none"
    one.tokens = 0.0
    one.learn(settled(one), balance(), NOW)
    assert one.ends < 0


def test_a_denial_stands_for_a_term_at_most_and_says_the_whole_wait() -> None:
    one = holder()
    one.refuse(2.0, 30.0, NOW)
    assert (one.refused, one.until, one.due) == (2, NOW + TERM, NOW + 30)
    one.refuse(2.0, 0.25, NOW)
    assert (one.until, one.due) == (NOW + 0.25, NOW + 0.25)


def test_what_was_given_back_in_a_call_that_nobody_answers_is_not_told_again_and_what_was_let_pass_is() -> None:
    one = holder()
    one.give_back(2.0, NOW)
    said = settled(one)
    one.give_back(1.0, NOW)
    one.lose(said)
    assert (one.lost, one.known) == (1, 0)
    assert one.debit == -1
    other = holder()
    other.decide(2.0, NOW, NOW, crowded=False)
    other.lose(settled(other))
    assert other.debit == 2
