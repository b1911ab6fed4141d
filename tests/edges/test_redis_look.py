"""Claims that share a look, and claims that wait for somebody else's fetch."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from proxy.flow.invalidation import Kind
from proxy.flow.sharing import Alone, Apart, Broken, Found, Lead, Rest
from proxy.rules.message import Reason
from tests.e2e.process import Late, in_time, timed
from tests.edges.fleet import KEY, LONG, PATIENCE, Fleet, fleet_over, until, validated, varied, wanted
from tests.redis_servers import Server, single


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as started:
        yield started


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with fleet_over(server) as made:
        yield made


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr("proxy.edges.redis_leases.LEASE", 0.3)
    monkeypatch.setattr("proxy.edges.redis_leases.RENEW", 0.1)
    return 0.3


async def test_many_claims_at_once_are_one_question_and_one_lease(fleet: Fleet) -> None:
    a = await fleet.instance()
    claims = await asyncio.gather(*[a.claim() for _ in range(1000)])
    assert a.counters.reads == 1
    leases = {id(claim.lease): claim.lease for claim in claims if isinstance(claim, Lead)}
    assert len(leases) == 1
    (lease,) = leases.values()
    assert [lease.take() for _ in range(3)] == [True, False, False]


async def test_who_leaves_does_not_take_the_others_down(fleet: Fleet) -> None:
    a = await fleet.instance()
    first, second, third = (a.claiming() for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is await third
    assert a.counters.reads == 1


async def test_many_who_wait_all_get_what_the_holder_brings(fleet: Fleet) -> None:
    a, b, c = await fleet.instances(3)
    lead = await a.lead()
    waiting = [each.claiming() for each in (a, b, c) for _ in range(200)]
    await until(lambda: [each.counters.waits for each in (a, b, c)] == [1, 1, 1])
    await a.kept(a.entry(b"brought"), lead)
    for claim in await asyncio.gather(*waiting):
        assert isinstance(claim, Found)
        assert claim.entry.rest.endswith(b"brought")
    assert sum(each.counters.leads for each in (a, b, c)) == 1
    assert fleet.keys("w") == []


async def test_who_says_who_asks_waits_for_nobody_else(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    anonymous = await a.lead()
    personal = await b.lead(wanted(apart=True))
    await a.kept(a.entry(), anonymous)
    assert isinstance(await b.claim(wanted(apart=True)), Found)
    assert personal.lease.take() is False


async def test_an_error_reaches_all_who_wait_once(fleet: Fleet) -> None:
    a, b, c = await fleet.instances(3)
    lead = await a.lead()
    waiting = [await each.waiting() for each in (b, c)]
    a.store.give_up(lead.lease, Broken(Reason.UPSTREAM_ERROR, 503))
    assert await asyncio.gather(*waiting) == [Broken(Reason.UPSTREAM_ERROR, 503)] * 2
    assert isinstance(await b.claim(), Lead)


async def test_what_cannot_be_shared_lets_everybody_go_at_once(fleet: Fleet) -> None:
    a, b, c = await fleet.instances(3)
    lead = await a.lead()
    waiting = [await each.waiting() for each in (b, c)]
    a.store.give_up(lead.lease, Alone(Reason.NO_STORE))
    assert await asyncio.gather(*waiting) == [Alone(Reason.NO_STORE)] * 2


async def test_a_second_outcome_of_the_same_lease_means_nothing(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    await a.kept(a.entry(), lead)
    a.store.give_up(lead.lease, Alone(Reason.NO_STORE))
    assert isinstance(await b.claim(), Found)
    assert fleet.keys("l") == []


async def test_what_has_to_be_validated_by_each_lets_everybody_go_at_once_with_something_to_validate(
    fleet: Fleet,
) -> None:
    instances = await fleet.instances(4)
    a, *others = instances
    lead = await a.lead()
    waiting = [await each.waiting() for each in others]
    await a.kept(validated(a.entry()), lead)
    claims = await asyncio.gather(*waiting)
    for claim in claims:
        assert isinstance(claim, Lead)
        assert claim.base is not None
        assert [claim.lease.take(), claim.lease.take()] == [True, False]
    assert fleet.keys("l") == []  # nobody waits for any of these
    for each, claim in zip(others, claims, strict=True):
        assert isinstance(claim, Lead)
        await each.kept(validated(each.entry()), claim)
        assert each.counters.kept == 1


async def test_what_is_stale_may_be_served_while_another_instance_renews_it(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    stale = replace(a.entry(b"old", window=60.0), fresh_until=a.now() - 1)
    await a.kept(stale)
    lead = await a.lead()
    assert lead.base is not None
    claim = await b.claim()
    assert isinstance(claim, Found)
    assert claim.entry.fresh_until < b.now()
    await a.kept(a.entry(b"new"), lead)
    assert (await b.found()).rest.endswith(b"new")


@pytest.mark.parametrize("window", [0.0, 0.5])
async def test_what_may_not_be_served_stale_is_waited_for(fleet: Fleet, window: float) -> None:
    a, b = await fleet.instances(2)
    await a.kept(replace(a.entry(window=window), fresh_until=a.now() - 1))
    lead = await a.lead()
    waiting = await b.waiting()
    await a.kept(a.entry(b"new"), lead)
    assert isinstance(await waiting, Found)


async def test_what_was_purged_softly_may_be_served_while_it_is_renewed(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry(window=60.0))
    for each in (a, b):
        each.applies(1, soft=True)
    await a.lead()
    assert isinstance(await b.claim(), Found)
    b.applies(2)
    assert isinstance(await b.claim(), Lead)  # what the holder fetches is outdated as well


async def test_a_large_stale_value_is_served_while_it_is_renewed(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    large = replace(a.entry(window=60.0), pieces=(b"0123456789" * 200_000,), fresh_until=a.now() - 1)
    a.keep(None, large)
    await until(lambda: a.counters.kept)
    lead = await a.lead()
    assert lead.base is not None
    assert lead.base.length == 2_000_000
    assert isinstance(await b.claim(), Found)


async def test_a_purge_frees_who_waits_for_what_it_has_overtaken(fleet: Fleet) -> None:
    a, b, c = await fleet.instances(3)
    old = await a.lead()
    brought = a.entry(b"old")
    waiting = [await each.waiting() for each in (b, c)]
    b.applies(1, Kind.URL)
    took_over = await waiting[0]
    assert isinstance(took_over, Lead)
    assert took_over.lease.take()
    c.applies(1, Kind.URL)
    await until(lambda: c.counters.waits == 2)  # now for the one who took over
    await a.kept(brought, old)  # which has not heard of it
    await until(lambda: c.counters.words == 1)
    assert not waiting[1].done() or isinstance(waiting[1].result(), Lead)
    await b.kept(b.entry(b"new"), took_over)
    claim = await waiting[1]
    assert isinstance(claim, Found)
    assert claim.entry.rest.endswith(b"new")
    a.applies(1)
    assert (await a.found()).rest.endswith(b"new")


async def test_a_purge_of_something_else_frees_nobody(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    waiting = await b.waiting()
    b.applies(1, Kind.URL, "http://h/other")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert b.counters.reads == 1


async def test_a_holder_that_has_heard_more_is_waited_for(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(1)
    lead = await a.lead()
    waiting = await b.waiting()
    b.applies(1)
    await a.kept(a.entry(), lead)
    assert isinstance(await waiting, Found)


@pytest.mark.clock(only=Late)
async def test_a_holder_that_dies_costs_one_lease_time(fleet: Fleet, short_leases: float) -> None:
    a, b = await fleet.instances(2)
    begun = time.monotonic()
    await a.lead()
    await a.die()
    claim, took = await timed(b.claim())
    assert isinstance(claim, Lead)
    assert time.monotonic() - begun > 0.9 * short_leases
    in_time(took, 2 * short_leases)


async def test_a_holder_that_lives_is_waited_for_beyond_its_lease(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.edges.redis_leases.LEASE", 1.5)
    monkeypatch.setattr("proxy.edges.redis_leases.RENEW", 0.1)
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting(within=LONG)
    await asyncio.sleep(2.0)
    assert not waiting.done()
    await a.kept(a.entry(), lead)
    assert isinstance(await waiting, Found)


@pytest.mark.clock
async def test_nobody_waits_for_longer_than_they_wish(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    patient = await b.waiting(within=5)
    begun = time.monotonic()
    assert isinstance(await b.claim(within=0.1), Apart)
    assert 0.09 < time.monotonic() - begun < 1
    assert not patient.done()
    patient.cancel()


@pytest.mark.clock
async def test_nobody_waits_for_longer_than_they_wish_beyond_a_lease(fleet: Fleet, short_leases: float) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    begun = time.monotonic()
    assert isinstance(await b.claim(within=2.5 * short_leases), Apart)
    assert 2 * short_leases < time.monotonic() - begun < 5 * short_leases


@pytest.mark.clock(only=Late)
async def test_a_lost_word_costs_the_rest_of_a_lease(fleet: Fleet, short_leases: float) -> None:
    a, b = await fleet.instance(), await fleet.instance(deaf=True)
    lead = await a.lead()
    waiting = await b.waiting()
    await a.kept(a.entry(), lead)
    claim, took = await timed(waiting)
    assert isinstance(claim, Found)
    in_time(took, 2 * short_leases)


@pytest.mark.usefixtures("long_leases")
async def test_who_cannot_hear_waits_for_nobody(fleet: Fleet) -> None:
    a, b = await fleet.instance(), await fleet.instance()
    lead = await a.lead()
    waiting = await b.waiting(within=LONG)
    b.store.on_hearing(False)
    assert isinstance(await asyncio.wait_for(waiting, PATIENCE), Apart)
    assert isinstance(await asyncio.wait_for(b.claim(within=LONG), PATIENCE), Apart)
    await a.kept(a.entry(), lead)
    found = await asyncio.wait_for(b.claim(within=LONG), PATIENCE)
    assert isinstance(found, Found), "what is there is read all the same"


@pytest.mark.usefixtures("long_leases")
async def test_who_waits_when_the_server_is_lost_waits_no_more(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instance(), await fleet.instance()
    await a.lead()
    waiting = await b.waiting(within=LONG)
    server.kill()
    try:
        assert isinstance(await asyncio.wait_for(waiting, PATIENCE), Apart)
    finally:
        server.start()


@pytest.mark.usefixtures("long_leases")
async def test_who_hears_again_asks_again(fleet: Fleet) -> None:
    a, b = await fleet.instance(), await fleet.instance(deaf=True)
    lead = await a.lead()
    waiting = await b.waiting(within=LONG)
    await a.kept(a.entry(), lead)
    b.store.on_hearing(True)
    assert isinstance(await asyncio.wait_for(waiting, PATIENCE), Found)


async def test_a_word_that_overtakes_the_answer_to_the_question_is_not_lost(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instance(), await fleet.instance(deaf=True)
    lead = await a.lead()
    token, (name,) = fleet.lease().split()[0].decode(), fleet.keys("l")
    claiming = b.claiming()
    await asyncio.sleep(0)  # asked, and not answered
    assert b.counters.reads == 0
    b.store.on_word(f"w{name}\n{token}\nbroken upstream-error 500".encode())
    assert await claiming == Broken(Reason.UPSTREAM_ERROR, 500)
    assert server.ask("EXISTS", name)
    a.store.give_up(lead.lease, Apart())


async def test_a_word_about_another_holder_is_no_outcome(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    (name,) = fleet.keys("l")
    waiting = await b.waiting()
    b.store.on_word(f"w{name}\nsomebody\napart".encode())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await a.kept(a.entry(), lead)
    assert isinstance(await waiting, Found)


@pytest.mark.parametrize("payload", [b"w", b"w\xff", b"wa\nb", b"wa\nb\nc\nd", b"wrt:x:l0\nt\napart"])
async def test_words_that_mean_nothing_here_are_passed_over(fleet: Fleet, payload: bytes) -> None:
    a = await fleet.instance()
    a.store.on_word(payload)
    assert isinstance(await a.claim(), Lead)


@pytest.mark.parametrize("word", ["alone of-another-version", "broken no-such 500", "broken timeout x", "something"])
async def test_an_outcome_of_another_version_is_everybody_for_themselves(fleet: Fleet, word: str) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    token, (name,) = fleet.lease().split()[0].decode(), fleet.keys("l")
    waiting = await b.waiting()
    b.store.on_word(f"w{name}\n{token}\n{word}".encode())
    assert isinstance(await waiting, Apart)


async def test_words_without_end_are_not_followed_without_end(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    (name,) = fleet.keys("l")
    waiting = await b.waiting()
    for _ in range(8):
        waits = b.counters.waits
        b.store.on_word(f"w{name}\nt\nagain".encode())
        await until(lambda before=waits: waiting.done() or b.counters.waits > before)  # type: ignore[misc]
    assert isinstance(await waiting, Apart)


async def test_nobody_waits_for_longer_than_they_wish_though_nothing_is_ever_said(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await fleet.instance()
    monkeypatch.setattr("proxy.edges.redis_look.Look._answered", lambda *_: None)
    claims = [a.claiming(within=0.1), a.claiming(within=0.2)]
    begun = time.monotonic()
    assert await asyncio.wait_for(asyncio.gather(*claims), PATIENCE) == [Apart(), Apart()]
    assert time.monotonic() - begun > 0.19


async def test_an_error_of_ours_is_counted_and_everybody_goes_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await fleet.instance()
    await a.kept(a.entry())
    large = a.entry(key="http://h/large")
    await a.kept(replace(large, pieces=(b"0123456789" * 200_000,)))
    await until(lambda: a.counters.kept == 2)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.edges.codec.decode", broken)
    for key in (KEY, "http://h/large"):
        assert isinstance(await asyncio.wait_for(a.claim(wanted(key=key), LONG), PATIENCE), Apart)
    assert a.counters.damaged == 2


async def test_who_looks_together_is_told_of_their_own_variant(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(varied(a, b"deutsch", ("x", "de")))
    await a.kept(varied(a, b"english", ("x", "en")))
    told: list[Found | Rest] = []
    for spoken in ("de", "en"):
        b.store.look(wanted({"x": spoken}), told.append)
    await until(lambda: len(told) == 2)
    assert b.counters.reads == 1
    claims = [await one.go_on(LONG) for one in told if not isinstance(one, Found)]
    assert [claim.entry.body for claim in claims if isinstance(claim, Found)] == [(b"deutsch",), (b"english",)]


async def test_a_lease_that_is_taken_over_while_records_come_is_the_one_that_ends(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    waiting, reads = await b.waiting(), b.counters.reads
    b.applies(1)
    b.applies(2, value="http://h/other")
    claim = await waiting
    assert isinstance(claim, Lead)
    assert claim.lease.take()
    assert b.counters.reads == reads + 1, "it was asked for once"
    await b.kept(b.entry(b"new"), claim)
    assert fleet.keys("l") == []


async def test_whoever_cannot_take_what_came_of_a_look_keeps_nobody_else_from_it(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    (b,) = await fleet.instances(1)
    told: list[Found | Rest] = []

    def bug(_: Found | Rest) -> None:
        raise RuntimeError

    for take in (bug, told.append):
        b.store.look(wanted(), take)
    await until(lambda: bool(told))
    assert "could not be taken" in caplog.text


async def test_looks_of_two_kinds_for_the_same_are_told_apart_and_forgotten(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.lead()
    asked, newer = wanted(), wanted(known=b.now())
    claims = [await b.waiting(asked), await b.waiting(newer)]
    assert len(b.store._under_way()) == 2  # noqa: SLF001 - nobody else knows
    await a.kept(a.entry(), a.held[0])
    for claim in claims:
        await claim
    await until(lambda: not b.store._looks)  # noqa: SLF001
