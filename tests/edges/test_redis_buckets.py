"""Buckets that a process leases from: what it asks, when, and what it says."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.crc import key_slot

from proxy.edges.redis_buckets import Desk, RedisBuckets
from proxy.edges.redis_link import Unreachable
from proxy.edges.redis_script import Script, Word
from proxy.flow.background import Background
from tests.edges.bucket_kit import DEADLINE, Model, Process, World, settle


async def warm(process: Process, limit: RedisBuckets, *, every: float, seconds: float, cost: float = 1.0) -> int:
    """Ask steadily; how many were told to wait for Redis."""
    waited, world = 0, process.world
    end = world.now + seconds
    while world.now < end:
        before = limit.counters.asked
        said = limit.take("c", cost, world.now)
        if said is None:
            waited += 1
            said = await process.asks(limit, "c", cost)
        assert said >= 0
        assert limit.counters.asked <= before + 1
        await world.until(world.now + every)
    return waited


async def test_who_asks_seldom_is_asked_for_each_time_and_exactly(world: World) -> None:
    process = Process(world)
    limit = process.buckets(2.0, 2.0)
    assert [round(await process.asks(limit), 3) for _ in range(2)] == [1, 0]
    assert await process.asks(limit) == pytest.approx(-0.5, abs=1e-4)
    await world.until(world.now + 0.501)
    assert await process.asks(limit) == pytest.approx(0.002, abs=0.01)


async def test_who_asks_often_waits_for_nobody(world: World) -> None:
    process = Process(world, instances=3)
    limit = process.buckets(10_000.0, 5000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    calls = limit.counters.asked
    assert await warm(process, limit, every=0.001, seconds=2) == 0
    assert limit.counters.asked - calls < 2 * 30, "a lease lasts for about a tenth of a second, and half of it is kept"


async def test_what_is_left_is_what_is_in_redis_and_on_lease(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1000.0, 1000.0)
    assert limit.left("c", world.now) == 1000
    assert await process.asks(limit) == 999
    await warm(process, limit, every=0.002, seconds=0.3)
    assert limit.left("c", world.now) == pytest.approx(1000, abs=120)
    assert limit.left("nobody", world.now) == 1000
    assert len(limit) == 1


async def test_a_lease_that_is_not_used_goes_back_before_it_ends(world: World) -> None:
    process, other = Process(world, instances=2), Process(world, instances=2)
    limit = process.buckets(1.0, 1000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    spent = 300
    here = other.buckets(1.0, 1000.0)
    assert await other.asks(here) < 1000 - spent - 10, "some are out"
    await world.until(world.now + 0.75)
    assert await other.asks(here) == pytest.approx(1000 - spent - 2 + 1, abs=1.5)


async def test_closing_gives_everything_back_at_once(world: World) -> None:
    process, other = Process(world), Process(world)
    limit, here = process.buckets(1.0, 1000.0), other.buckets(1.0, 1000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    closing = asyncio.create_task(limit.close())
    while not closing.done():
        await world.idle()
    assert await other.asks(here) == pytest.approx(1000 - 300 - 1, abs=1.5)


async def test_whoever_asks_while_a_question_is_under_way_shares_the_next(world: World) -> None:
    world.latency = 0.004
    process = Process(world)
    limit = process.buckets(1.0, 50.0)
    tasks = [asyncio.create_task(limit.ask("c", cost)) for cost in (1.0,) * 40 + (0.5,) * 10 + (1.0,) * 10]
    await settle()
    await world.until(world.now + 0.02)
    said = [task.result() for task in tasks]
    assert limit.counters.asked == 2
    assert [answer >= 0 for answer in said[:40]] == [True] * 40
    assert [answer >= 0 for answer in said].count(True) == 45 + 10 // 2 + 0 or sum(
        cost for cost, answer in zip((1.0,) * 40 + (0.5,) * 10 + (1.0,) * 10, said, strict=True) if answer >= 0
    ) == pytest.approx(50)
    assert min(said) < -0.4


async def test_a_denial_stands_until_its_wait_is_over_and_costs_nobody_a_round_trip(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1.0, 10.0)
    for _ in range(10):
        await process.asks(limit)
    wait = -await process.asks(limit)
    calls = world.calls
    for tenth in range(9):
        assert await process.asks(limit) == pytest.approx(tenth / 10 - wait, abs=1e-3)
        assert await process.asks(limit, "c", 3.0) == pytest.approx(tenth / 10 - wait - 2, abs=1e-3)
        await world.until(world.now + 0.1)
    assert world.calls == calls
    assert await process.asks(limit, "c", 0.5) >= 0, "what costs less may be had already"
    assert world.calls == calls + 1


async def test_a_denial_is_asked_about_again_after_a_term_and_says_the_whole_wait_till_then(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1 / 60, 1.0)
    assert await process.asks(limit) >= 0
    began, calls = world.now, world.calls
    for _ in range(60 * 5 - 1):
        assert await process.asks(limit) == pytest.approx(world.now - began - 60, abs=1e-3)
        await world.until(world.now + 0.2)
    assert world.calls - calls == 60
    await world.until(began + 60.001)
    assert await process.asks(limit) >= 0


async def test_a_denial_ends_soon_after_another_process_has_returned_its_lease(world: World) -> None:
    process, other = Process(world, instances=2), Process(world, instances=2)
    limit, there = process.buckets(1 / 60, 64.0), other.buckets(1 / 60, 64.0)
    await warm(other, there, every=0.01, seconds=0.3)
    while (said := await process.asks(limit)) >= 0:
        pass
    assert said < -50
    await world.until(world.now + 1.1)
    assert await process.asks(limit) >= 0


async def test_what_is_given_back_ends_a_denial(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1 / 60, 10.0)
    for _ in range(10):
        assert await process.asks(limit) >= 0
    assert await process.asks(limit) < 0
    for _ in range(10):
        limit.give_back("c", 0.9, world.now)
    assert await process.asks(limit, "c", 9.0) >= 0


async def test_what_is_given_back_can_be_spent_again(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 10.0)
    for _ in range(10):
        assert await process.asks(limit) >= 0
        limit.give_back("c", 0.9, world.now)
    assert await process.asks(limit, "c", 8.0) >= 0
    assert await process.asks(limit, "c", 2.0) < 0
    limit.give_back("nobody", 1.0, world.now)


async def test_what_is_given_back_is_told_by_those_too_who_ask_no_more(world: World) -> None:
    process, other = Process(world), Process(world)
    limit, there = process.buckets(0.001, 10.0), other.buckets(0.001, 10.0)
    for _ in range(9):
        await process.asks(limit)
    for _ in range(9):
        limit.give_back("c", 0.9, world.now)
    calls = world.calls
    await world.until(world.now + 1)
    assert world.calls == calls + 1
    assert await other.asks(there, "c", 9.1) >= 0


async def test_what_is_given_back_while_redis_is_asked_is_told_afterwards(world: World) -> None:
    world.latency = 0.01
    process, other = Process(world), Process(world)
    limit, there = process.buckets(0.001, 10.0), other.buckets(0.001, 10.0)
    await process.asks(limit, "c", 8.0)
    asking = asyncio.create_task(limit.ask("c", 1.0))
    await settle()
    limit.give_back("c", 7.2, world.now)
    await world.until(world.now + 1)
    assert asking.result() >= 0
    assert await other.asks(there, "c", 8.2) >= 0


async def test_what_is_given_back_is_told_when_a_process_ends(world: World) -> None:
    process, other = Process(world), Process(world)
    limit, there = process.buckets(0.001, 10.0), other.buckets(0.001, 10.0)
    await process.asks(limit, "c", 9.0)
    limit.give_back("c", 8.1, world.now)
    closing = asyncio.create_task(limit.close())
    while not closing.done():
        await world.idle()
    assert await other.asks(there, "c", 9.1) >= 0


async def test_what_was_given_back_in_vain_is_not_told_for_ever(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 10.0)
    await process.asks(limit, "c", 9.0)
    world.fault = lambda: "deaf"
    limit.give_back("c", 8.1, world.now)
    calls = world.calls
    await world.until(world.now + 2)
    assert world.calls == calls + 1, "it was done, for all we know"
    world.fault = str
    assert await process.asks(limit, "c", 9.1) >= 0


async def test_whoever_has_something_to_tell_is_not_forgotten_for_somebody_new(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 10.0, most=2)
    await process.asks(limit, "c", 9.0)
    await process.asks(limit, "d", 9.0)
    limit.give_back("c", 8.1, world.now)
    await process.asks(limit, "e", 9.0)
    limit.give_back("c", 0.9, world.now)
    assert await process.asks(limit, "c", 10.0) >= 0


async def test_what_is_given_back_to_a_lease_is_in_the_lease_and_never_more_than_it_was(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 1000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    paid, calls = 300, world.calls
    said = limit.take("c", 1.0, world.now)
    limit.give_back("c", 1.0, world.now)
    assert limit.take("c", 1.0, world.now) == said
    limit.give_back("c", 1.0, world.now)
    assert world.calls == calls
    limit.give_back("c", 250.0, world.now)
    await world.until(world.now + 2)
    assert await process.asks(limit) == pytest.approx(1000 - paid + 250 - 1, abs=1.5)


async def test_a_lease_of_a_redis_that_has_lost_it_is_void_as_soon_as_that_is_known(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 1000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    assert limit.take("c", 1.0, world.now) is not None
    world.keeper.lose()
    assert await process.asks(limit, "c", 200.0) < 0
    assert await process.asks(limit) < 0


async def test_what_was_granted_in_an_answer_that_never_came_is_not_lost(world: World) -> None:
    process = Process(world)
    limit = process.buckets(0.001, 1000.0)
    await warm(process, limit, every=0.001, seconds=0.3)
    world.fault, calls, paid = lambda: "deaf", world.calls, 300
    while world.calls == calls:
        paid += await process.asks(limit) >= 0
    world.fault = str
    await world.until(world.now + 0.11)
    assert limit.counters.failed == 1
    await world.until(world.now + 2)
    assert await process.asks(limit) == pytest.approx(1000 - paid - 1, abs=1.5)


async def test_who_has_left_while_redis_was_asked_pays_nothing(world: World) -> None:
    world.latency = 0.01
    process = Process(world)
    limit = process.buckets(0.001, 10.0)
    tasks = [asyncio.create_task(limit.ask("c", 2.0)) for _ in range(5)]
    await settle()
    for task in tasks[:3]:
        task.cancel()
    await world.until(world.now + 0.02)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [task.cancelled() for task in tasks] == [True, True, True, False, False]
    assert await process.asks(limit, "c", 6.0) >= 0
    assert await process.asks(limit, "c", 1.0) < 0


async def test_what_costs_nothing_is_never_asked_for(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1.0, 1.0)
    assert limit.take("c", 0.0, world.now) == 1.0
    assert await process.asks(limit) >= 0
    assert await process.asks(limit) < 0
    calls = world.calls
    assert limit.take("c", 0.0, world.now) == 0.0
    assert world.calls == calls


async def test_what_costs_nothing_says_what_has_gathered_meanwhile(world: World) -> None:
    process = Process(world)
    limit = process.buckets(5.0, 5.0)
    for _ in range(5):
        assert await process.asks(limit) >= 0
    for gathered in (0, 2, 4, 5, 5):
        assert limit.take("c", 0.0, world.now) == pytest.approx(gathered)
        await world.until(world.now + 0.4)
    process.up = False
    await process.asks(limit, "c", 5.0)
    assert limit.take("c", 0.0, world.now) == pytest.approx(0), "and no more than may be spent"


async def test_the_number_of_clients_is_bounded_and_redis_remembers_them_all(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1.0, 2.0, most=50)
    for at in range(200):
        assert await process.asks(limit, str(at), 2.0) >= 0
        assert len(limit) <= 50
    for at in range(200):
        assert await process.asks(limit, str(at), 2.0) < 0


async def test_those_whose_bucket_is_full_again_are_forgotten(world: World) -> None:
    process = Process(world)
    limit = process.buckets(100.0, 100.0)
    for at in range(400):
        await process.asks(limit, str(at))
        await world.until(world.now + 0.01)
    assert len(limit) < 10


class Slow:
    """A link whose answers come when the test says so."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[Any]] = []
        self.debits: list[Word] = []

    def reaches(self, key: str) -> bool:
        return bool(key)

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Word]) -> asyncio.Future[Any]:
        del script, keys
        self.debits.append(args[9])
        self.answers.append(asyncio.get_running_loop().create_future())
        return self.answers[-1]


async def test_nobody_waits_longer_than_the_deadline_behind_a_question_that_is_slow() -> None:
    """The first answer takes nearly all of the deadline, the second never comes."""
    link, loop, background, deadline, ahead = Slow(), asyncio.get_running_loop(), Background(), 100.0, 0.0
    desk = Desk(link, "rt", lambda: 1, lambda: loop.time() + ahead, background.spawn, deadline)
    limit = RedisBuckets(desk, "limit", 10.0, 10.0)
    first = asyncio.create_task(limit.ask("c", 1.0))
    await settle()
    second = asyncio.create_task(limit.ask("c", 1.0))
    await settle()
    ahead += deadline - DEADLINE
    link.answers[0].set_result(b"m 1 0.1 9 0 0 1 0")
    assert await first == 9
    async with asyncio.timeout(30):  # what is left of it is far less, and a second one far more
        assert await second >= 0
    assert len(link.answers) == 2
    assert not link.answers[1].done()
    link.answers[1].set_result(b"m 1 0.1 8 0 0 1 0")
    await settle()
    third = asyncio.create_task(limit.ask("c", 1.0))
    await settle()
    link.answers[2].set_result(b"m 1 0.1 7 0 0 1 0")
    assert await third >= 0
    assert link.debits[2] == "0.0", "it was let pass here, and Redis has been paid for it"
    await background.drain(0)


@pytest.mark.parametrize("late", [0.0, 1.0], ids=["", "and our own loop was late"])
async def test_those_whose_question_nobody_answers_share_what_the_rate_gave_until_the_deadline(late: float) -> None:
    link, loop, background, ahead = Slow(), asyncio.get_running_loop(), Background(), 0.0
    begun = loop.time()
    desk = Desk(link, "rt", lambda: 2, lambda: begun + ahead, background.spawn, DEADLINE)
    limit = RedisBuckets(desk, "limit", 100.0, 50.0)
    asking = [asyncio.create_task(limit.ask("c", 1.0)) for _ in range(20)]
    await settle()
    ahead += DEADLINE + late
    link.answers[0].set_exception(Unreachable("gone"))
    said = await asyncio.gather(*asking)
    passed = int(DEADLINE * 100.0 / 2) + 1  # one more, since nothing speaks against it
    assert [answer >= 0 for answer in said] == [True] * passed + [False] * (20 - passed)
    await background.drain(0)


async def test_a_lease_is_what_redis_says_it_is() -> None:
    link, loop, background = Slow(), asyncio.get_running_loop(), Background()
    limit = RedisBuckets(Desk(link, "rt", lambda: 1, loop.time, background.spawn, DEADLINE), "limit", 0.001, 1000.0)

    async def asks(cost: float, said: bytes) -> None:
        task = asyncio.create_task(limit.ask("c", cost))
        await settle()
        limit.give_back("c", 5.0, loop.time())
        link.answers[-1].set_result(said)
        assert await task >= 0

    await asks(1.0, b"m 1 0.1 0 0 50 1 0")
    assert limit.take("c", 20.0, loop.time()) == 30
    await asks(200.0, b"m 1 0.1 0 30 10 1 0")
    assert limit.left("c", loop.time()) == pytest.approx(40, abs=0.01), "what came back meanwhile is not in it"
    await asks(200.0, b"m 1 0.1 0 0 10 1 0")
    assert limit.left("c", loop.time()) == pytest.approx(10, abs=0.01), "what was kept was lost"
    assert link.debits == ["0.0", "-5.0", "-5.0"], "and what came back is told by the next"
    await background.drain(0)


@pytest.mark.parametrize("client_name", ["10.0.0.1", "2001:db8::/64", ""])
async def test_a_bucket_and_its_marker_lie_in_one_slot_of_a_cluster(client_name: str) -> None:
    world = World(Model())
    process, seen = Process(world), []
    limit = process.buckets(1.0, 1.0)
    real = world.keeper.run

    def run(script: Script, keys: Sequence[str], args: Sequence[Word], now_us: int) -> bytes:
        seen.append(keys)
        return real(script, keys, args, now_us)

    world.keeper.run = run  # type: ignore[method-assign]
    await process.asks(limit, client_name)
    ((bucket, marker),) = seen
    assert key_slot(bucket.encode()) == key_slot(marker.encode())
    assert bucket.startswith("rt:")
    assert bucket != marker
