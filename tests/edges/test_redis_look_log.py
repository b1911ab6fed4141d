"""What the invalidation log does while a claim is under way."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from proxy.flow.invalidation import Kind
from proxy.flow.sharing import Found, Lead
from tests.e2e.process import Late, in_time
from tests.edges.fleet import KEY, LONG, Fleet, fleet_over, until
from tests.redis_servers import Server, single


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as started:
        yield started


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with fleet_over(server) as made:
        yield made


async def turns(question: Callable[[], object]) -> None:
    """Give the loop one turn, and more until the question is answered with yes: nothing else gets one in between."""
    for _ in range(1_000_000):
        await asyncio.sleep(0)
        if question():
            return
    pytest.fail("it does not come about")


@pytest.mark.parametrize("moment", ["asked", "answered"])
@pytest.mark.parametrize("how", ["gap", "epoch"])
async def test_what_was_asked_for_before_the_log_was_lost_is_not_found_behind_that(
    fleet: Fleet, moment: str, how: str
) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry())
    claiming = b.claiming()
    await turns(lambda: moment == "asked" or b.counters.found)
    assert not claiming.done()
    if how == "gap":
        b.log.gap(5)
    else:
        b.log.restart("e2", 0)
    claim = await claiming
    assert isinstance(claim, Lead)
    assert claim.base is not None
    assert claim.base.terms.distrusted


async def test_a_purge_between_two_answers_leaves_nothing_to_validate(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry(window=60.0))
    b.applies(1, soft=True)
    claiming = b.claiming()
    await turns(lambda: b.counters.reads)
    b.applies(2)  # it has been read, found stale, and asked for again
    claim = await claiming
    assert b.counters.reads == 2
    assert isinstance(claim, Lead)
    assert claim.base is None


async def test_what_others_stored_a_moment_ahead_is_found_when_its_record_comes(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(1, value="http://h/other")
    await a.kept(a.entry(b"ahead"))
    claiming = b.claiming()
    await until(lambda: b.counters.reads)
    b.applies(1, value="http://h/other")
    claim = await claiming
    assert isinstance(claim, Found)
    assert claim.entry.rest.endswith(b"ahead")
    assert fleet.keys("l") == []


async def test_what_others_stored_a_moment_ahead_may_be_purged_by_then(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(1)
    await a.kept(a.entry())
    claiming = b.claiming()
    await until(lambda: b.counters.reads)
    b.applies(2)
    claim = await claiming
    assert isinstance(claim, Lead)
    assert claim.base is None


@pytest.mark.clock(only=Late)
async def test_a_record_that_does_not_come_is_not_waited_for(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(1, value="http://h/other")
    await a.kept(a.entry())
    begun = time.monotonic()
    claim = await b.claim(within=LONG)
    took = time.monotonic() - begun
    assert took > 0.045
    assert isinstance(claim, Lead)
    assert claim.base is not None
    assert claim.base.terms.distrusted
    in_time(took, 1.0)


async def test_another_log_may_begin_while_a_record_is_waited_for(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    a.applies(3)
    await a.kept(a.entry())
    claiming = b.claiming()
    await until(lambda: b.counters.reads)
    b.log.restart("e2", 0)
    b.applies(1)
    b.applies(9, value="http://h/other")
    claim = await claiming
    assert isinstance(claim, Lead)


async def test_a_purge_between_the_answer_and_its_use_makes_it_no_answer(fleet: Fleet) -> None:
    a, b = await fleet.instances(2)
    await a.kept(a.entry())
    claiming = b.claiming()
    await asyncio.sleep(0)

    def purge() -> None:
        if b.counters.found:  # told, and its claim has not had its turn
            b.applies(1, Kind.URL, KEY)
        else:
            b.background.spawn(later(), "purge")

    async def later() -> None:
        purge()

    purge()
    assert isinstance(await claiming, Lead)
    assert b.counters.found == 1
