"""What follows on what, and what waits to be told; the interleavings are in tests/edges/test_redis_log_scripts.py."""

import pytest

from proxy.flow import follower
from proxy.flow.follower import Answer, Batch, Follower, Found, Heard, Outbox
from proxy.flow.invalidation import InvalidationLog, Kind, Target

X, Y, Z = ((Kind.TAG, name) for name in "xyz")
ALL = (Kind.ALL, "")


def batch(before: int, number: int, name: str = "", before_id: str = "", epoch: str = "E") -> Batch:
    return Batch(epoch, before, before_id or f"b{before}", number, number, name or f"b{number}", "a", 0.0, [X])


def many(number: int) -> list[Target]:
    return [(Kind.TAG, f"m{at}") for at in range(number)]


def standing(number: int = 7) -> tuple[InvalidationLog, Follower]:
    log = InvalidationLog(shared=True)
    one = Follower(log, 30.0)
    one.take(Answer(0.0, Found.OTHER, "E", number, f"b{number}", number, []), 10.0, 10.0)
    return log, one


def test_who_has_heard_of_no_log_follows_nothing() -> None:
    log = InvalidationLog(shared=True)
    one = Follower(log, 30.0)
    assert one.hear(batch(0, 1, before_id="-"), 10.0) is Heard.BEHIND
    assert one.behind
    assert log.position == 0


def test_numbers_may_leap_where_the_batch_before_is_the_last_one() -> None:
    log, one = standing()
    assert one.hear(batch(7, 1_000_000_000), 10.0) is Heard.APPLIED
    assert log.place(log.position) == ("E", 1_000_000_000)


@pytest.mark.parametrize(
    "other",
    [batch(8, 9), batch(6, 8), batch(7, 8, before_id="other"), batch(7, 8, epoch="F"), batch(6, 7, "other")],
    ids=["a gap", "another past", "another batch before it", "another log", "the number of another"],
)
def test_what_does_not_follow_is_not_applied(other: Batch) -> None:
    log, one = standing()
    before = log.position
    assert one.hear(other, 10.0) is Heard.BEHIND
    assert log.position == before


def test_what_came_long_ago_is_asked_for_rather_than_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_REMEMBERED", 2)
    _, one = standing()
    batches = [batch(number - 1, number) for number in (8, 9, 10)]
    assert [one.hear(known, 10.0) for known in batches] == [Heard.APPLIED] * 3
    assert [one.hear(known, 10.0) for known in batches] == [Heard.BEHIND, Heard.KNOWN, Heard.KNOWN]


def test_an_answer_that_does_not_fit_together_vouches_for_nothing() -> None:
    log, one = standing()
    log.trusted_until = 0.0
    done, applied = one.take(Answer(0.0, Found.KNOWN, "E", 7, "b7", 9, [batch(8, 9)]), 20.0, 20.0)
    assert (done, applied) == (False, [])
    assert log.trusted_until == 0.0


def test_trust_never_shrinks_by_an_answer_and_ends_when_a_gap_cannot_be_read() -> None:
    log, one = standing()
    assert log.trusted_until == 40.0
    one.take(Answer(0.0, Found.KNOWN, "E", 7, "b7", 7, []), 5.0, 11.0)
    assert log.trusted_until == 40.0
    one.lose(12.0)
    assert log.trusted_until == 0.0


def test_who_is_blind_counts_from_when_trust_ended_or_from_the_start() -> None:
    log = InvalidationLog(shared=True)
    one = Follower(log, 30.0, 1000.0)
    assert one.blind_for(1000.5) == 0.5
    one.lose(1001.0)
    assert one.blind_for(1002.0) == 2.0, "it was blind before"
    one.take(Answer(0.0, Found.OTHER, "E", 7, "b7", 7, []), 1010.0, 1010.0)
    assert [one.blind_for(now) for now in (1010.0, 1039.5, 1040.0, 1041.0)] == [0.0, 0.0, 0.0, 1.0]
    one.lose(1050.0)
    assert one.blind_for(1051.0) == 11.0, "trust had run out by itself"
    one.take(Answer(0.0, Found.KNOWN, "E", 7, "b7", 7, []), 1060.0, 1060.0)
    for again in (1070.0, 1070.5):
        one.lose(again)
    assert one.blind_for(1071.0) == 1.0


def test_an_answer_that_took_long_does_not_tell_the_time() -> None:
    """Who was suspended meanwhile cannot know when in between it was given."""
    log, one = standing()
    one.take(Answer(60.0, Found.KNOWN, "E", 7, "b7", 7, []), 10.0, 130.0)
    one.hear(Batch("E", 7, "b7", 8, 8, "b8", "a", 125.0, [X], soft=True), 200.0)
    position = log.position
    assert position
    marks = [mark.soft_at for mark in log._marks.values()]  # noqa: SLF001 - no entry would tell it so plainly
    assert marks == [135.0]


def test_what_waits_goes_out_in_order_and_together() -> None:
    box = Outbox()
    box.put([X])
    box.put([Y, Z])
    assert len(box) == 3
    assert box.take() == ((X, Y, Z), False)
    assert box.take() == ((), False), "one attempt at a time"
    box.sent()
    assert len(box) == 0
    assert box.take() == ((), False)


def test_what_waits_twice_goes_out_once() -> None:
    box = Outbox()
    box.put([X, Y, X])
    box.put([Y, Z])
    assert box.take() == ((X, Y, Z), False)
    box.put([X])
    assert len(box) == 4, "it may have happened after the one on its way was written"
    box.failed()
    assert box.take() == ((X, Y, Z), False)


def test_what_was_put_during_an_attempt_goes_behind_it() -> None:
    box = Outbox()
    box.put([X])
    box.take()
    box.put([Y])
    box.failed()
    assert box.take() == ((X, Y), False)
    box.put([Z])
    box.sent()
    assert box.take() == ((Z,), False)


def test_soft_and_hard_go_out_apart_and_hard_counts_for_both() -> None:
    box = Outbox()
    box.put([X, Y], soft=True)
    box.put([Y, Z])
    assert box.take() == ((Y, Z), False)
    box.put([Y], soft=True)
    box.failed()
    assert box.take() == ((Y, Z), False)
    box.put([Y], soft=True)
    box.sent()
    assert box.take() == ((X, Y), True), "what comes later may have happened later"
    box.put([X])
    box.failed()
    assert box.take() == ((X,), False)
    box.sent()
    assert box.take() == ((Y,), True)


def test_more_than_there_is_room_for_is_one_soft_all() -> None:
    box = Outbox()
    box.put(many(1000))
    assert len(box) == 1000
    box.put([Y])
    box.put([Z])
    assert box.take() == ((ALL,), True)


def test_an_all_on_its_way_does_not_cover_what_comes_behind_it() -> None:
    box = Outbox()
    box.put(many(1001))
    box.take()
    box.put([Y])
    box.sent()
    assert box.take() == ((Y,), False)


def test_what_failed_and_what_came_meanwhile_may_be_too_much_together() -> None:
    box = Outbox()
    box.put(many(1001)[:600])
    box.take()
    box.put(many(1001)[600:])
    box.failed()
    assert box.take() == ((ALL,), True)
    box.put([Y])
    box.failed()
    assert box.take() == ((ALL,), True)
