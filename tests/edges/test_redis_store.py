"""What instances find in the shared store, and what they leave there."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from proxy.edges import redis_store
from proxy.flow.invalidation import Kind
from proxy.flow.sharing import Alone, Apart, Found, Lead
from proxy.rules.freshness import distrust
from proxy.rules.message import Reason
from tests.edges.fleet import KEY, Fleet, fleet_over, until, validated, varied, wanted
from tests.redis_servers import Server, single


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as started:
        yield started


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with fleet_over(server) as made:
        yield made


async def test_what_one_stores_another_finds(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    began = time.monotonic()
    kept = a.entry(b"hello", tags=("t",))
    await a.kept(kept, await a.lead())
    found = await b.found()
    took = time.monotonic() - began
    assert (found.terms, found.lead, found.rest, found.seq) == (kept.terms, kept.lead, kept.rest, kept.seq)
    assert abs(found.fresh_until - kept.fresh_until) < 0.1 + took
    assert (a.counters.kept, b.counters.found, fleet.keys("l")) == (1, 1, [])


@pytest.mark.parametrize("skew", [60.0, -60.0])
async def test_instances_with_other_clocks_agree_on_freshness(fleet: Fleet, skew: float) -> None:
    a, b = await fleet.instance(skew=skew), await fleet.instance(skew=-skew)
    began = time.monotonic()
    await a.kept(replace(a.entry(), born=a.now() - 20, fresh_until=a.now() + 30))
    found = await b.found()
    took = time.monotonic() - began
    assert abs(found.fresh_until - b.now() - 30) < 0.25 + took
    assert abs(b.now() - found.born - 20) < 0.25 + took
    await a.kept(replace(a.entry(key="http://h/b"), fresh_until=a.now() + 0.3))
    await asyncio.sleep(0.35)
    stale = await b.claim(wanted(key="http://h/b"))
    assert isinstance(stale, Lead)
    assert stale.base is not None


async def test_every_key_ends_by_itself_and_covers_the_stale_windows(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting()
    names = fleet.keys()
    assert len(names) == 2
    assert all(0 < server.ask("PTTL", name) <= 6000 for name in names)
    await a.kept(varied(a, b"x", ("x", "y")), lead)
    assert isinstance(await waiting, Lead)  # its request has no field x
    await a.kept(a.entry(key="http://h/b", window=300.0))
    times = sorted(server.ask("PTTL", name) for name in fleet.keys("e"))
    assert [round(ms, -4) for ms in times] == [120_000, 120_000, 420_000]


async def test_no_key_outlives_half_of_the_log(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    await a.kept(replace(a.entry(), fresh_until=a.now() + 30 * 86400))
    (key,) = fleet.keys("e")
    assert 11.9 * 3600 * 1000 < server.ask("PTTL", key) <= 12 * 3600 * 1000


async def test_variants_are_found_each_by_its_own_requests(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    for language in ("en", "de"):
        await a.kept(varied(a, language.encode(), ("accept-language", language)))
    for language in ("en", "de"):
        found = await b.found(wanted({"accept-language": language.upper()}))
        assert found.rest.endswith(language.encode())
    assert isinstance(await b.claim(wanted({"accept-language": "fr"})), Lead)
    assert isinstance(await b.claim(), Lead)


async def test_one_lease_is_one_variant(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(varied(a, b"en", ("x", "en")))
    french = await a.lead(wanted({"x": "fr"}))
    german = await b.lead(wanted({"x": "de"}))
    waiting = await b.waiting(wanted({"x": "fr"}))
    await b.kept(varied(b, b"de", ("x", "de")), german)
    assert not waiting.done()
    await a.kept(varied(a, b"fr", ("x", "fr")), french)
    assert (await waiting).entry.rest.endswith(b"fr")  # type: ignore[union-attr]


async def test_who_waited_at_a_variant_follows_an_answer_that_varies_on_something_else(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(varied(a, b"old", ("x", "1")))
    asked = wanted({"x": "2", "y": "3"})
    lead = await a.lead(asked)
    waiting = await b.waiting(asked)
    await a.kept(varied(a, b"new", ("y", "3")), lead)
    assert (await waiting).entry.rest.endswith(b"new")  # type: ignore[union-attr]
    assert b.counters.leads == 0


async def test_what_has_no_variants_any_more_is_for_everybody(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(varied(a, b"en", ("x", "en")))
    await a.kept(a.entry(b"all"))
    assert (await b.found(wanted({"x": "en"}))).rest.endswith(b"all")


@pytest.mark.parametrize("kind", [Kind.URL, Kind.HOST, Kind.ALL])
async def test_a_purge_that_came_later_makes_it_gone(fleet: Fleet, kind: Kind) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry())
    await b.found()
    b.applies(1, kind, {Kind.URL: KEY, Kind.HOST: "h", Kind.ALL: ""}[kind])
    gone = await b.claim()
    assert isinstance(gone, Lead)
    assert gone.base is None


async def test_a_soft_purge_leaves_something_to_validate(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry())
    b.applies(1, soft=True)
    claim = await b.claim()
    assert isinstance(claim, Lead)
    assert claim.base is not None
    assert claim.base.fresh_until <= b.now()
    assert not claim.base.terms.distrusted


@pytest.mark.parametrize("how", ["gap", "epoch"])
async def test_what_nobody_can_vouch_for_is_only_something_to_validate(fleet: Fleet, how: str) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry())
    if how == "gap":
        b.log.gap(5)
    else:
        b.log.restart("e2", 0)
    claim = await b.claim()
    assert isinstance(claim, Lead)
    assert claim.base is not None
    assert claim.base.terms.distrusted


async def test_what_has_to_be_validated_is_never_found_fresh(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    began = time.monotonic()
    await a.kept(validated(a.entry()))
    claim = await b.claim()
    assert isinstance(claim, Lead)
    assert claim.base is not None
    assert abs(claim.base.fresh_until - b.now() - 60) < 0.2 + time.monotonic() - began


async def test_what_the_asker_has_itself_is_not_found(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    kept = a.entry()
    await a.kept(kept)
    assert isinstance(await a.claim(wanted(known=kept.stored_at)), Lead)
    await b.found(wanted(known=b.now() - 10))


async def test_an_older_fetch_never_overwrites_a_newer_one(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(1, value="http://other/")
    await a.kept(a.entry(b"after"), took=1)
    await b.kept(b.entry(b"before"))  # though it was asked for later: it had seen less
    b.applies(1, value="http://other/")
    assert (await b.found()).rest.endswith(b"after")
    await b.kept(b.entry(b"slow"), took=5)
    assert (await b.found()).rest.endswith(b"after")
    await b.kept(b.entry(b"quick"))
    assert (await b.found()).rest.endswith(b"quick")
    assert (a.counters.kept, b.counters.kept) == (1, 1)


async def test_in_another_epoch_the_later_fetch_wins(fleet: Fleet) -> None:
    a, b = await fleet.instance(number=50), await fleet.instance()
    b.log.restart("e2", 0)
    await a.kept(a.entry(b"old"), took=1)
    await b.kept(b.entry(b"new"))
    assert (await b.found()).rest.endswith(b"new")
    await a.kept(a.entry(b"slow"), took=2)
    assert (await b.found()).rest.endswith(b"new")


async def test_a_slow_variant_does_not_bring_back_an_old_pointer(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(varied(a, b"new", ("y", "1")))
    await b.kept(varied(b, b"old", ("x", "1")), took=5)
    assert (await b.found(wanted({"x": "1", "y": "1"}))).rest.endswith(b"new")


async def test_an_answer_that_a_purge_has_overtaken_is_not_stored(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    brought = a.entry()
    waiting = await b.waiting()
    a.applies(1)
    a.keep(lead, brought)
    took_over = await waiting  # though the record has not reached it yet
    assert isinstance(took_over, Lead)
    assert fleet.keys("e") == []


async def test_a_purge_that_overtakes_while_a_large_answer_is_packed_wins(fleet: Fleet) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    a.keep(lead, a.entry(b"x" * 200_000))
    a.applies(1)
    await until(lambda: fleet.keys("l") == [])
    assert fleet.keys("e") == []


async def test_what_was_fetched_before_the_log_was_heard_of_is_not_shared(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting()
    brought = replace(a.entry(), seq=0)
    a.log.floor = a.log.position = 1 << 20
    a.log.position = brought.seq  # nothing has happened since, and yet nobody else knows the place
    a.keep(lead, brought)
    assert isinstance(await waiting, Apart)
    assert fleet.keys("e") == []


async def test_what_is_distrusted_is_not_shared(fleet: Fleet) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    a.keep(lead, distrust(a.entry()))
    await until(lambda: fleet.keys() == [])


@pytest.mark.parametrize("size", [100_000, 1_000_000, 3_000_000])
async def test_a_large_answer_is_shared_if_its_frame_is_small_enough(fleet: Fleet, size: int) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting()
    body = b"0123456789" * (size // 10)
    a.keep(lead, replace(a.entry(), pieces=(body[:5000], body[5000:])))
    found = await waiting
    assert isinstance(found, Found)
    assert b"".join(found.entry.body) == body


async def test_what_is_too_large_is_refused_and_everybody_told_at_once(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting()
    a.keep(lead, replace(a.entry(), pieces=(os.urandom(redis_store.LIMIT + 1),)))
    assert isinstance(await waiting, Apart)
    assert (a.counters.refused, a.counters.kept, fleet.keys()) == (1, 0, [])


async def test_what_no_instance_would_read_is_refused_before_it_is_packed(fleet: Fleet) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    a.keep(lead, replace(a.entry(), pieces=(b"x" * (1 << 20),) * 65))
    assert a.counters.refused == 1
    await until(lambda: fleet.keys() == [])


async def test_texts_that_are_no_unicode_are_not_shared(fleet: Fleet) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    a.keep(lead, a.entry(tags=("\ud800",)))
    a.keep(None, a.entry(tags=("\ud800",)))
    await until(lambda: fleet.keys() == [])


async def test_forgetting_one_variant_leaves_the_others(fleet: Fleet) -> None:
    a = await fleet.instance()
    one, two = varied(a, b"1", ("x", "1")), varied(a, b"2", ("x", "2"))
    await a.kept(one)
    await a.kept(two)
    a.store.drop(one)
    await a.link.command("rt:log", "PING")
    assert isinstance(await a.claim(wanted({"x": "1"})), Lead)
    await a.found(wanted({"x": "2"}))


async def test_only_what_is_known_to_be_outdated_is_forgotten(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    old = replace(a.entry(b"old"), stored_at=a.now() - 10)
    await b.kept(b.entry(b"new"))
    a.store.drop(old)
    await a.link.command("rt:log", "PING")
    assert (await a.found()).rest.endswith(b"new")
    b.applies(1, value="http://h/other")
    await b.kept(b.entry(b"newer"))
    a.store.drop(a.entry(b"old"))  # which came later, and had seen less
    await a.link.command("rt:log", "PING")
    assert (await b.found()).rest.endswith(b"newer")
    a.applies(1, value="http://h/other")
    a.store.drop(await a.found())
    await a.link.command("rt:log", "PING")
    assert fleet.keys("e") == []


@pytest.mark.parametrize("heard_more", [False, True])
async def test_a_value_that_is_newer_than_a_lease_outlives_what_came_of_that(fleet: Fleet, heard_more: bool) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    if heard_more:
        b.applies(1, value="http://h/other")
        await b.kept(b.entry(b"newer"))
        a.applies(1, value="http://h/other")
    else:
        await b.kept(replace(b.entry(b"newer"), stored_at=b.now() + 1))
    a.store.give_up(lead.lease, Alone(Reason.PRIVATE))
    await a.link.command("rt:log", "PING")
    assert (await a.found()).rest.endswith(b"newer")


async def test_what_proved_unshareable_is_gone_and_nobody_waits_for_it(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instances(2)
    await a.kept(replace(a.entry(), fresh_until=a.now() - 1))
    lead = await a.lead()
    waiting = await b.waiting()
    a.store.give_up(lead.lease, Alone(Reason.PRIVATE))
    assert await waiting == Alone(Reason.PRIVATE)
    assert await b.claim() == Alone(Reason.PRIVATE)
    assert fleet.keys("e") == []
    (lease,) = fleet.keys("l")
    assert 20_000 < server.ask("PTTL", lease) <= 30_000
    server.ask("SET", lease, "!of-another-version", "PX", 1000)
    assert isinstance(await b.claim(), Apart)


async def test_what_is_true_of_one_request_leaves_what_is_stored(fleet: Fleet) -> None:
    a = await fleet.instance()
    await a.kept(replace(a.entry(), fresh_until=a.now() - 1))
    lead = await a.lead(wanted(apart=True))
    a.store.give_up(lead.lease, Alone(Reason.CREDENTIALS))
    assert await a.claim(wanted(apart=True)) == Alone(Reason.CREDENTIALS)
    assert isinstance(await a.claim(), Lead)
    assert len(fleet.keys("e")) == 1


async def test_scripts_may_be_flushed_at_any_time(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instances(2)
    server.ask("SCRIPT", "FLUSH")
    lead = await a.lead()
    server.ask("SCRIPT", "FLUSH")
    await a.kept(a.entry(), lead)
    server.ask("SCRIPT", "FLUSH")
    await b.found()
    assert a.counters.errors + b.counters.errors == 0


async def test_without_redis_everybody_goes_alone(fleet: Fleet) -> None:
    a = await fleet.instance()
    lead = await a.lead()
    await a.link.close()
    assert isinstance(await a.claim(), Apart)
    a.keep(lead, a.entry())
    a.store.drop(a.entry())
    await until(lambda: a.counters.errors == 3)


async def test_before_the_log_was_heard_of_everybody_goes_alone(fleet: Fleet) -> None:
    a = await fleet.instance()
    a.log.epoch = ""
    assert isinstance(await a.claim(), Apart)
    assert fleet.keys() == []


async def test_a_full_redis_reads_leases_and_refuses_values() -> None:
    with single({"maxmemory-policy": "noeviction"}) as full:
        async with fleet_over(full) as fleet:
            a, b = await fleet.instances(2)
            await a.kept(a.entry(key="http://h/before"))
            full.ask("CONFIG", "SET", "maxmemory", 1)
            assert isinstance(await b.claim(wanted(key="http://h/before")), Found)
            lead = await a.lead()
            waiting = await b.waiting()
            a.keep(lead, a.entry())
            assert isinstance(await waiting, Apart)
            assert (a.counters.errors, b.counters.errors) == (1, 0)
            assert fleet.keys("l") == []
