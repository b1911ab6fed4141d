"""The right to fetch: renewed while it is used, and given back whatever happens."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.flow.sharing import Apart, Found, Lead
from tests.edges.fleet import LONG, PATIENCE, Fleet, fleet_over, until, wanted
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
def quick_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.edges.redis_leases.RENEW", 0.05)


async def test_a_lease_says_who_holds_it_and_what_they_have_heard(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    a.applies(7)
    await a.lead()
    token, epoch, n = fleet.lease().split()
    assert (epoch, n) == (b"e1", b"7")
    assert len(token) > 16
    (key,) = fleet.keys("l")
    assert 500 < server.ask("PTTL", key) <= 2000


@pytest.mark.usefixtures("long_leases")
async def test_a_claim_that_redis_carries_out_after_its_owner_gave_up_takes_no_lease(
    fleet: Fleet, server: Server
) -> None:
    a, b = await fleet.instance(deadline=0.1), await fleet.instance()
    a.store.give_up((await a.lead()).lease, Apart())  # Redis knows the script: what is late is a claim, and no error
    await until(lambda: fleet.keys("l") == [])
    before = server.calls("evalsha")
    server.suspend()
    try:
        assert isinstance(await asyncio.wait_for(a.claim(), PATIENCE), Apart)
    finally:
        server.resume()
    await until(lambda: server.calls("evalsha") > before)
    assert fleet.keys("l") == []
    assert isinstance(await asyncio.wait_for(b.claim(within=LONG), PATIENCE), Lead)


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
async def test_who_has_another_time_than_redis_gets_a_lease_all_the_same(fleet: Fleet, skew: float) -> None:
    a, b = await fleet.instance(skew=skew), await fleet.instance()
    lead = await a.lead()
    assert lead.lease.hold.token == fleet.lease().split()[0].decode()  # type: ignore[attr-defined]
    waiting = await b.waiting()
    await a.kept(a.entry(), lead)
    assert isinstance(await waiting, Found)


@pytest.mark.usefixtures("long_leases")
async def test_when_everybody_who_asked_has_gone_the_lease_goes_at_once(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    claims = [a.claiming() for _ in range(3)]
    await asyncio.sleep(0)
    for claim in claims:
        claim.cancel()
    await until(lambda: a.counters.leads == 1)
    assert isinstance(await asyncio.wait_for(b.claim(within=LONG), PATIENCE), Lead)


@pytest.mark.usefixtures("long_leases")
async def test_a_lease_that_nobody_takes_goes_at_once(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    claim = await a.claim()
    waiting = await b.waiting(within=LONG)
    del claim
    assert isinstance(await asyncio.wait_for(waiting, PATIENCE), Lead)


@pytest.mark.usefixtures("long_leases")
async def test_a_lease_whose_holder_forgets_it_goes_at_once(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    waiting = await b.waiting(within=LONG)
    a.held.clear()
    del lead
    assert isinstance(await asyncio.wait_for(waiting, PATIENCE), Lead)


async def test_a_lease_that_only_the_collector_finds_goes_too(fleet: Fleet) -> None:
    a = await fleet.instance()
    cycle: list[object] = [await a.lead()]
    a.held.clear()
    cycle.append(cycle)
    del cycle
    await asyncio.to_thread(gc.collect)
    await until(lambda: fleet.keys("l") == [])


@pytest.mark.usefixtures("quick_renewals")
async def test_a_lease_that_is_kept_and_not_taken_is_not_renewed(fleet: Fleet) -> None:
    a = await fleet.instance()
    claim = await a.claim()
    assert isinstance(claim, Lead)
    await until(lambda: fleet.keys("l") == [])


@pytest.mark.usefixtures("quick_renewals")
async def test_leases_are_renewed_together_and_only_while_there_are_any(fleet: Fleet, server: Server) -> None:
    a = await fleet.instance()
    leads = [await a.lead(wanted(key=f"http://h/{number}")) for number in range(20)]
    before = (a.link.counters.commands, a.link.counters.batches)
    await until(lambda: a.link.counters.commands >= before[0] + 600)
    assert a.link.counters.batches - before[1] <= 35
    assert len(fleet.keys("l")) == 20
    assert all(server.ask("PTTL", key) > 600 for key in fleet.keys("l")), "after one and a half of two seconds"
    for lead in leads:
        a.store.give_up(lead.lease, Apart())
    await until(lambda: len(a.background) == 1)  # the subscription


@pytest.mark.usefixtures("quick_renewals")
async def test_a_lease_that_somebody_else_has_is_left_alone(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    server.ask("DEL", *fleet.keys("l"))
    theirs = await b.lead()
    await until(lambda: len(a.background) == 1)  # it does not renew any more
    token = fleet.lease().split()[0]
    a.store.give_up(lead.lease, Apart())
    await a.link.command("rt:log", "PING")
    assert fleet.lease().split()[0] == token
    await b.kept(b.entry(), theirs)
    assert fleet.keys("l") == []


async def test_what_a_lost_lease_brought_may_be_stored_all_the_same(fleet: Fleet, server: Server) -> None:
    a, b = await fleet.instances(2)
    lead = await a.lead()
    server.ask("DEL", *fleet.keys("l"))
    theirs = await b.lead()
    waiting = await a.waiting()
    await a.kept(a.entry(b"mine"), lead)
    assert isinstance(await waiting, Found)
    assert fleet.lease().split()[0].decode() == theirs.lease.hold.token  # type: ignore[attr-defined]


@pytest.mark.usefixtures("long_leases")
async def test_closing_gives_every_lease_back_and_lets_everybody_go(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    held = await a.lead()
    await b.lead(wanted(key="http://h/b"))
    waiting_here = await a.waiting(wanted(key="http://h/b"), LONG)
    waiting_there = await b.waiting(within=LONG)
    await a.store.close()
    assert isinstance(await waiting_here, Apart)
    assert isinstance(await asyncio.wait_for(waiting_there, PATIENCE), Lead)
    assert held.lease.take() is False


def test_a_loop_that_has_ended_needs_no_leases(server: Server) -> None:
    loop = asyncio.new_event_loop()

    async def claim() -> Lead:
        fleet = Fleet(server)
        instance = await fleet.instance()
        lead = await instance.lead()
        instance.held.clear()
        await fleet.close()
        return lead

    lead = loop.run_until_complete(claim())
    gc.collect()
    lead.lease.hold.said = False  # type: ignore[attr-defined]
    loop.close()
    del lead


@pytest.mark.parametrize(
    "lease", [b"", b"!", b"!\xff", b"t \xff 1", b"\xff e1 1", b"t e1 " + b"9" * 5000, b"t e1 -1", b"t e1"]
)
async def test_a_lease_that_none_of_us_has_written_is_nobodys(fleet: Fleet, server: Server, lease: bytes) -> None:
    a = await fleet.instance()
    server.ask("SET", a.key_of("lease"), lease, "PX", 60_000)
    claim = await asyncio.wait_for(a.claim(within=LONG), PATIENCE)
    assert isinstance(claim, Lead)
    await a.kept(a.entry(), claim)
    assert fleet.keys("l") == []


@pytest.mark.parametrize("lease", [b"t e1 0", b"!private"])
async def test_a_lease_without_an_end_is_nobodys(fleet: Fleet, server: Server, lease: bytes) -> None:
    a = await fleet.instance()
    server.ask("SET", a.key_of("lease"), lease)
    assert isinstance(await asyncio.wait_for(a.claim(within=LONG), PATIENCE), Lead)
