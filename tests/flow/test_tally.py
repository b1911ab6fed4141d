"""What is counted of requests: once each, and of hits by one addition."""

import pytest

from proxy.flow import exchange
from proxy.flow.tally import BOUNDS, Histogram, Labels, Method, Result, Source, Tallies, method_of, result_of
from proxy.rules.message import Fwd, Reason
from proxy.rules.report import Account
from tests.documents import listed
from tests.flow.kit import FRESH, STALEABLE, FakeClient, World, request

RESULTS = {
    Account(Reason.HIT, ttl=3): Result.HIT,
    Account(Reason.SHARED_STORE, ttl=3): Result.SHARED,
    Account(Reason.SHARED_STORE, ttl=-3): Result.STALE,
    Account(Reason.STALE_WHILE_REVALIDATE, ttl=-1): Result.STALE,
    Account(Reason.STALE_IF_ERROR, None, Fwd.STALE, 503): Result.STALE,
    Account(Reason.STALE_IF_ERROR, None, Fwd.STALE): Result.STALE,
    Account(Reason.EXPIRED, None, Fwd.STALE, 304): Result.REVALIDATED,
    Account(Reason.ABSENT, None, Fwd.URI_MISS, 200): Result.MISS,
    Account(Reason.REQUEST_NO_CACHE, None, Fwd.REQUEST, 200): Result.MISS,
    Account(Reason.CACHE_OFF, None, Fwd.BYPASS, 304): Result.BYPASS,
    Account(Reason.METHOD, None, Fwd.METHOD, 201): Result.BYPASS,
    Account(Reason.UPSTREAM_ERROR, None, Fwd.URI_MISS, 500): Result.ERROR,
    Account(Reason.CONNECT, None, Fwd.BYPASS): Result.ERROR,
    Account(Reason.ABORTED, None, Fwd.URI_MISS): Result.ERROR,
    Account(Reason.NO_ROUTE): Result.REFUSED,
    Account(Reason.ONLY_IF_CACHED): Result.REFUSED,
    Account(Reason.NOT_ALLOWED): Result.REFUSED,
    Account(Reason.BAD_REQUEST): Result.REFUSED,
    Account(Reason.PURGED): Result.PURGED,
    Account(Reason.CLIENT_GONE, None, Fwd.URI_MISS): Result.GONE,
    Account(Reason.MALFORMED, None, Fwd.METHOD): Result.GONE,
}


@pytest.mark.parametrize(("account", "result"), RESULTS.items(), ids=[account.cache_status() for account in RESULTS])
def test_an_account_in_one_word(account: Account, result: Result) -> None:
    assert result_of(account) is result


def test_every_word_is_explained_once_and_no_other() -> None:
    assert sorted(listed("reasons.md", "What cache says")) == sorted(result.value for result in Result)


def test_there_is_an_account_for_every_word() -> None:
    assert set(RESULTS.values()) == set(Result)


@pytest.mark.parametrize(
    ("method", "kind"),
    [("GET", Method.GET), ("HEAD", Method.HEAD), ("OPTIONS", Method.SAFE), ("POST", Method.UNSAFE)]
    + [(f"M{number}", Method.UNSAFE) for number in range(3)],
)
def test_methods_are_classes_of_them(method: str, kind: Method) -> None:
    assert method_of(method) is kind


def test_a_duration_belongs_to_the_first_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1] + [0] * (len(BOUNDS) - 3) + [1, 1]
    assert histogram.total == pytest.approx(sum((BOUNDS[0] * 2.01, BOUNDS[-1] * 2 + 1)))


def counted(tallies: Tallies) -> dict[Labels, tuple[int, int]]:
    return {labels: (tally.plain + tally.noted, tally.sent) for labels, tally in tallies.requests.items()}


def labels(result: Result, method: Method = Method.GET, status: int = 2) -> Labels:
    return "all", method, status, result


@pytest.mark.parametrize("size", [10, 5_000], ids=["remembered", "made anew each time"])
async def test_every_request_is_counted_once(size: int) -> None:
    async with World(noted=False) as w:
        entry = await w.store(FRESH, body=b"x" * size)
        known = w.exchange.read(request())
        for step in (0.0, 0.1, 2.0, 0.0, 30.0):
            w.clock.at += step
            for _ in range(7):
                assert w.exchange.hit(known, FakeClient())
        for _ in range(2):  # whoever asks changes nothing
            w.exchange.settle()
            assert counted(w.tallies) == {labels(Result.MISS): (1, size), labels(Result.HIT): (35, 35 * size)}
        saved = sum(tally.saved for tally in w.tallies.requests.values())
        assert saved == pytest.approx(35 * entry.terms.fetch_seconds)


async def test_hits_whose_answer_is_forgotten_stay_counted() -> None:
    async with World(noted=False) as w:
        await w.store(FRESH)
        for _ in range(exchange._MANY + 10):  # noqa: SLF001 - so that what is remembered is thrown away
            known = w.exchange.read(request())
            for _ in range(3):
                assert w.exchange.hit(known, FakeClient())
        w.exchange.settle()
        assert counted(w.tallies)[labels(Result.HIT)][0] == 3 * (exchange._MANY + 10)  # noqa: SLF001


async def test_what_is_no_plain_hit_is_noted_with_its_duration() -> None:
    async with World() as w:
        await w.store(STALEABLE, body=b"hello")
        w.clock.at += 61
        stale, follower = w.ask(), w.ask("Cache-Control: no-cache")
        await w.idle()
        w.clock.at += 0.2
        w.last.reply(FRESH, body=b"new")
        await w.idle()
        assert (stale.done, follower.done) == (True, True)
        w.ask(method="POST")
        await w.idle()
        w.last.fail()
        await w.idle()
        assert {name[1:]: count for name, (count, _) in counted(w.tallies).items()} == {
            (Method.GET, 2, Result.MISS): 2,
            (Method.GET, 2, Result.STALE): 1,
            (Method.UNSAFE, 5, Result.ERROR): 1,
        }
        assert sum(w.tallies.durations["all", Source.UPSTREAM].counts) == 3
        assert w.tallies.durations["all", Source.UPSTREAM].counts[BOUNDS.index(0.25)] == 1
        assert sum(w.tallies.durations["all", Source.CACHE].counts) == 1
        assert w.flights.started == 2 + (len(w.calls) - 3)


async def test_followers_are_those_that_had_what_another_fetched() -> None:
    async with World() as w:
        for _ in range(5):
            w.ask()
        await w.idle()
        w.last.reply(FRESH, body=b"x")
        await w.idle()
        assert (w.tallies.followers, w.flights.started, len(w.calls)) == (4, 1, 1)


async def test_the_hottest_keys_are_those_of_the_hits() -> None:
    async with World(noted=False) as w:
        for target, times in (("/cold", 20), ("/hot", 2000), ("/warm", 400)):
            await w.store(FRESH, target=target)
            known = w.exchange.read(request(target=target))
            for _ in range(times):
                assert w.exchange.hit(known, FakeClient())
        w.exchange.settle()
        hottest = w.tallies.hot.top(2)
        assert [hot.key for hot in hottest] == ["http://example.com/hot", "http://example.com/warm"]
        assert hottest[0].rate / hottest[1].rate == pytest.approx(5, rel=0.1)


async def test_a_key_that_was_fetched_once_is_among_the_hottest_already() -> None:
    """Only answers from the cache are sampled: whoever looks at a quiet instance sees what was asked for."""
    async with World() as w:
        await w.store(FRESH, target="/once")
        assert [hot.key for hot in w.tallies.hot.top(2)] == ["http://example.com/once"]
