"""Buckets of a fleet, interleaving by interleaving: the real script, and the time as an argument."""

import asyncio
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.edges.redis_buckets import RedisBuckets
from tests.edges.bucket_kit import CLOSE, EXAMPLES, Process, Real, World, worst


@pytest.mark.parametrize("seed", range(10))
async def test_waiting_as_told_is_enough(world: World, seed: int) -> None:
    """A hundred tries each. Retry-After has whole seconds, and counts from when the answer came."""
    dice = random.Random(seed)
    for at in range(100):
        world.latency = dice.choice([0.0, 0.0002])
        processes = [Process(world, skew=60.0, instances=3), Process(world, skew=-60.0, instances=3)]
        rate, burst = 10 ** dice.uniform(-2, 3), dice.choice([1.0, 2.0, 7.5, 50.0, 200.0])
        limits = [process.buckets(rate, burst, name=f"l{at}") for process in processes]
        said, which, cost = 1.0, 0, 1.0
        while said >= 0:
            which = dice.choice([0, 0, 0, 1])
            cost = dice.choice([1.0, 1.0, min(3.0, burst), burst])
            said = await processes[which].asks(limits[which], "c", cost)
        await world.until(world.now + math.ceil(-said))
        assert await processes[which].asks(limits[which], "c", cost) >= 0, (rate, burst, cost, said)
        for process in processes:
            process.gone = True


class Offer:
    """Demand of one client on many processes, at moments that a fixed seed draws; what of it was admitted."""

    def __init__(self, processes: Sequence[Process], rate: float, burst: float) -> None:
        self.processes, self.rate, self.burst = processes, rate, burst
        self.limits = [process.buckets(rate, burst) for process in processes]
        self.admitted: list[tuple[float, float]] = []
        self.alone = 0.0  # beside these, without asking Redis
        self._made: list[float] = []  # answers without Redis
        for limit in self.limits:
            self.watch(limit)

    def watch(self, limit: RedisBuckets) -> None:
        real = limit._alone  # noqa: SLF001 - whose answers look like those of Redis

        def alone(holder: Any, cost: float, now: float, since: float) -> float:  # noqa: ANN401 - nobody else knows
            self._made.append(real(holder, cost, now, since))
            return self._made[-1]

        limit._alone = alone  # type: ignore[method-assign]  # noqa: SLF001

    def note(self, said: float, cost: float) -> float:
        """One was answered now."""
        if said >= 0 and any(answer is said for answer in self._made):
            self.alone += cost
        elif said >= 0:
            self.admitted.append((self.processes[0].world.now, cost))
        self._made.clear()
        return said

    async def one(self, at: int, cost: float = 1.0) -> float:
        return self.note(await self.processes[at].asks(self.limits[at], "c", cost), cost)

    async def load(self, per_second: Sequence[float], seconds: float, *, seed: int = 1) -> float:
        """Offer that much to each, nobody waiting for an answer to another; tokens admitted."""
        dice, world = random.Random(seed), self.processes[0].world
        end, total = world.now + seconds, len(self.admitted) + self.alone
        moments = [world.now + dice.expovariate(rate) for rate in per_second]
        asking: set[asyncio.Task[float]] = set()
        while min(moments) < end:
            at = moments.index(min(moments))
            await world.until(moments[at])
            process, limit = self.processes[at], self.limits[at]
            said = limit.take("c", 1.0, world.now + process.skew)
            if said is None:
                task = asyncio.create_task(limit.ask("c", 1.0))
                task.add_done_callback(lambda task: self.note(task.result(), 1.0))
                asking.add(task)
                await world.idle()
            else:
                self.note(said, 1.0)
            moments[at] += dice.expovariate(per_second[at])
        await world.until(end)
        await world.until(end + 0.01)
        assert all(task.done() for task in asking)
        return len(self.admitted) + self.alone - total

    @property
    def beyond(self) -> float:
        """Tokens above rate · t, in the window where that is most."""
        return worst(self.admitted, self.rate)


def three(world: World) -> list[Process]:
    return [Process(world, skew=skew, instances=3) for skew in (-60.0, 0.0, 60.0)]


@pytest.mark.parametrize(
    ("rate", "burst", "offered", "seconds"),
    [
        (100.0, 50.0, (280.0, 100.0, 20.0), 20),
        (100.0, 50.0, (380.0, 10.0, 10.0), 10),
        (100.0, 50.0, (134.0, 133.0, 133.0), 10),
        (1000.0, 1000.0, (2500.0, 400.0, 100.0), 4),
        (20.0, 200.0, (60.0, 20.0, 5.0), 20),
    ],
)
@pytest.mark.parametrize("latency", [0.0, 0.003])
async def test_three_instances_admit_together_what_one_would(
    world: World, latency: float, rate: float, burst: float, offered: Sequence[float], seconds: float
) -> None:
    world.latency = latency
    offer = Offer(three(world), rate, burst)
    admitted = await offer.load(offered, seconds)
    most = rate * seconds + burst
    assert offer.alone == 0
    assert offer.beyond <= burst + CLOSE
    assert 0.97 * most <= admitted <= most + CLOSE, admitted / most


async def test_a_small_limit_is_exact(world: World) -> None:
    offer = Offer(three(world), 2.0, 2.0)
    began = world.now
    assert await offer.load((5.0, 3.0, 1.0), 60.0) in (121, 122)
    assert offer.beyond <= 2 + CLOSE
    assert offer.admitted[1][0] - began < 1
    for (one, _), (next_but_one, _) in pairwise(offer.admitted[1::2]):
        assert next_but_one - one > 1 - 2e-6 - 1.1, "two in any second, and two saved up"


async def test_those_who_stop_without_a_word_cost_tokens_and_give_none(world: World) -> None:
    offer = Offer(three(world), 100.0, 100.0)
    await offer.load((90.0, 30.0, 10.0), 2.0)
    offer.processes[0].gone = True
    admitted = await offer.load((1e-9, 200.0, 100.0), 5.0)
    assert offer.beyond <= 100 + CLOSE
    assert admitted >= 0.97 * 500


async def test_while_redis_is_gone_each_admits_its_share_and_nobody_waits(world: World) -> None:
    offer = Offer(three(world), 100.0, 50.0)
    await offer.load((280.0, 100.0, 20.0), 3.0)
    for process in offer.processes:
        process.up = False
    calls = world.calls
    admitted = await offer.load((280.0, 100.0, 100.0), 10.0)
    assert offer.alone > 0
    assert world.calls == calls, "nobody asks whom they cannot reach"
    assert 0.9 * 1000 <= admitted <= 1.2 * 1000, admitted
    for process in offer.processes:
        process.up = True
    after = await offer.load((280.0, 100.0, 20.0), 2.0)
    assert after <= 1.02 * 200, "what was spent meanwhile has been told"
    assert await offer.load((280.0, 100.0, 20.0), 10.0) == pytest.approx(1000, rel=0.02)


async def test_nothing_is_saved_up_while_redis_is_gone_but_who_comes_first_is_let_pass(world: World) -> None:
    process = Process(world, instances=4)
    limit = process.buckets(4.0, 100.0)
    process.up = False
    assert limit.take("c", 1.0, world.now) is not None
    assert [await process.asks(limit) >= 0 for _ in range(3)] == [False, False, False]
    wait = -await process.asks(limit)
    assert wait == pytest.approx(1.0)
    await world.until(world.now + wait)
    assert await process.asks(limit) >= 0
    assert limit.left("c", world.now) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("burst", "cost", "passes"), [(1.0, 1.0, 0), (2.0, 1.0, 0), (3.0, 1.0, 3), (5.0, 2.0, 0), (6.0, 2.0, 3)]
)
async def test_who_comes_first_while_redis_is_gone_is_let_pass_only_where_the_burst_is_enough_for_all(
    world: World, burst: float, cost: float, passes: int
) -> None:
    rate, admitted = 1 / 60, 0
    processes = three(world)
    limits = [process.buckets(rate, burst) for process in processes]
    for process in processes:
        process.up = False
    for second in range(1200):
        for process, limit in zip(processes, limits, strict=True):
            admitted += await process.asks(limit, "c", cost) >= 0
        if not second:
            assert admitted == passes
        assert admitted * cost <= passes * cost + 1.2 * rate * second
        await world.until(world.now + 1)
    assert admitted * cost >= rate * 1200 - 3 * cost, "and nobody is shut out"


async def test_a_redis_that_is_full_is_asked_now_and_then_and_by_one_and_is_used_again_once_it_is_not(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.latency = 0.002
    offer = Offer(three(world), 100.0, 50.0)
    await offer.load((280.0, 100.0, 20.0), 3.0)
    world.fault, calls = lambda: "full", world.calls
    admitted = await offer.load((280.0, 100.0, 100.0), 10.0)
    assert offer.alone > 0
    assert 0.9 * 1000 <= admitted <= 1.2 * 1000, admitted
    assert world.calls - calls <= 3 * (10 / 0.1 + 2), "each process asks ten times a second"
    assert len(caplog.messages) == 3, "each says so once"
    world.fault = str
    await offer.load((280.0, 100.0, 20.0), 0.2)
    alone = offer.alone
    assert await offer.load((280.0, 100.0, 20.0), 10.0) == pytest.approx(1000, rel=0.05)
    assert offer.alone == alone


async def test_a_redis_that_is_full_now_and_then_is_complained_of_once_until_a_minute_was_quiet(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(world)
    limit = process.buckets(10.0, 10.0)
    for at in range(40):
        world.fault = (lambda: "full") if at % 2 else str
        await process.asks(limit, str(at))
        await world.until(world.now + 3)
    assert len(caplog.messages) == 1
    world.fault = str
    await world.until(world.now + 61)
    world.fault = lambda: "full"
    await process.asks(limit)
    assert len(caplog.messages) == 2


async def test_what_was_let_pass_while_redis_was_full_is_told_without_a_storm_of_vain_questions(world: World) -> None:
    process, other = Process(world), Process(world)
    limit = process.buckets(1.0, 10.0)
    world.fault = lambda: "full"
    names = [str(at) for at in range(600)]
    for name in names:
        assert await process.asks(limit, name) >= 0
    calls = world.calls
    await world.until(world.now + 5)
    assert world.calls - calls <= 16 * (5 / 0.1 + 2), "one for each shard"
    world.fault = str
    await world.until(world.now + 0.5)
    here = other.buckets(1.0, 10.0)
    for name in names[::50]:
        assert await other.asks(here, name) == pytest.approx(8.25, abs=0.35), "one was told, and one is paid"


async def test_while_redis_is_full_no_more_clients_are_remembered_than_else(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1.0, 10.0, most=50)
    world.fault = lambda: "full"
    said = [await process.asks(limit, str(at)) >= 0 for at in range(500)]
    assert len(limit) == 50
    assert len(limit._debts) <= 50  # noqa: SLF001 - nobody else knows
    assert sum(said) <= 52, "whoever is new then begins with nothing"


async def test_who_was_refused_last_begins_an_outage_with_nothing(world: World) -> None:
    process = Process(world, instances=4)
    limit = process.buckets(4.0, 4.0)
    for _ in range(4):
        await process.asks(limit)
    last = await process.asks(limit)
    assert last < 0
    process.up = False
    await world.until(world.now - last)
    assert await process.asks(limit) < 0, "it could pay for one by now, but so could three others"


async def test_what_was_spent_while_redis_was_gone_is_told_when_it_is_back_by_those_too_who_ask_no_more(
    world: World,
) -> None:
    process, other = Process(world, instances=2), Process(world, instances=2)
    limit, here = process.buckets(10.0, 10.0), other.buckets(10.0, 10.0)
    await process.asks(limit)
    process.up = False
    spent = 0
    for _ in range(40):
        spent += await process.asks(limit) >= 0
        await world.until(world.now + 0.05)
    assert spent == 10
    process.up = True
    await world.until(world.now + 0.15)
    assert await other.asks(here, "c", 8.0) < 0, "half a burst is what one of two may have taken of it"
    assert await other.asks(here, "c", 5.0) >= 0


async def test_those_who_are_too_many_to_be_remembered_are_not_let_pass_again_and_again(world: World) -> None:
    process = Process(world)
    limit = process.buckets(1.0, 10.0, most=20)
    process.up = False
    said = [await process.asks(limit, str(at % 50)) >= 0 for at in range(200)]
    assert said[:20] == [True] * 20
    assert sum(said) <= 22
    process.up = True
    await world.until(world.now + 0.2)
    assert await process.asks(limit, "x") >= 0
    process.up = False
    assert await process.asks(limit, "y") >= 0, "the next time is another"


async def test_a_redis_that_is_emptied_gives_nobody_a_second_burst(world: World) -> None:
    offer = Offer(three(world), 10.0, 100.0)
    for at in (0, 1, 2):
        assert await offer.one(at) >= 0
    while await offer.one(0) >= 0:
        pass
    world.keeper.lose()
    for at in (0, 1, 2):
        assert await offer.one(at) < 0
    assert await offer.load((100.0, 100.0, 100.0), 5.0) <= 51
    assert offer.beyond <= 100 + CLOSE


async def test_a_bucket_that_others_have_filled_again_is_full_for_who_heard_of_less(world: World) -> None:
    a, b = Process(world, instances=2), Process(world, instances=2)
    limit, other = a.buckets(1.0, 10.0), b.buckets(1.0, 10.0)
    for _ in range(8):
        assert await b.asks(other) >= 0
    assert await a.asks(limit) == pytest.approx(1)
    other.give_back("c", 7.2, world.now)
    assert await b.asks(other) == pytest.approx(7.2)
    await world.until(world.now + 4)
    assert await a.asks(limit, "c", 10.0) >= 0


async def test_a_bucket_that_alone_is_evicted_is_empty_for_who_remembers_it(world: World) -> None:
    offer = Offer(three(world), 10.0, 100.0)
    while await offer.one(0) >= 0:
        pass
    world.keeper.evict()
    await world.until(world.now + 1)
    assert await offer.one(0, 11.0) < 0
    assert await offer.one(0, 1.0) < 0, "it began to fill when it was missed"


async def test_a_redis_that_is_emptied_is_empty_for_clients_that_nobody_remembers(world: World) -> None:
    process = Process(world)
    limit = process.buckets(10.0, 100.0, most=1)
    names = [str(at) for at in range(64)]
    for name in names:
        assert await process.asks(limit, name, 100.0) >= 0
    world.keeper.lose()
    await world.until(world.now + 1)
    for name in names:
        await process.asks(limit, name, 50.0)
    await world.until(world.now + 1)
    for name in names:
        assert await process.asks(limit, name, 11.0) < 0
        assert await process.asks(limit, name, 8.0) >= 0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3, 0.9, 1.1, 5.0]),  # seconds that pass before
        st.integers(0, 2),  # who
        st.integers(1, 30),  # asks how often
        st.sampled_from([0.1, 1.0, 2.0]),  # for what
        st.sampled_from(["", "", "", "", "", "lost", "deaf", "late", "crash", "down", "up", "back", "undo"]),
    ),
    max_size=60,
)


@EXAMPLES
@given(
    rate=st.sampled_from([0.5, 2.0, 20.0, 300.0]),
    burst=st.sampled_from([2.0, 5.0, 40.0, 300.0]),
    latency=st.sampled_from([0.0, 0.002, 0.05]),
    told=st.sampled_from([1, 3]),
    steps=_STEPS,
)
@example(rate=20.0, burst=300.0, latency=0.002, told=1, steps=[(0.01, at % 3, 30, 1.0, "") for at in range(40)])
def test_whatever_happens_no_more_is_admitted_than_rate_and_burst_allow(
    client: redis.Redis,
    rate: float,
    burst: float,
    latency: float,
    told: int,
    steps: list[tuple[float, int, int, float, str]],
) -> None:
    """What was let pass without Redis is apart: it is bounded by the rate, and told afterwards."""

    async def scenario() -> None:
        world = World(Real(client), latency=latency)
        processes = [Process(world, skew=skew, instances=told) for skew in (-60.0, 0.0, 60.0)]
        offer = Offer(processes, rate, burst)
        for passes, at, times, cost, event in steps:
            await world.until(world.now + passes)
            process, limit = processes[at], offer.limits[at]
            world.fault = str
            if event in ("lost", "deaf", "late"):
                world.fault = lambda event=event: event  # type: ignore[misc]
            elif event == "crash":
                process.gone, process.limits = True, []
                processes[at] = Process(world, skew=process.skew, instances=told)
                offer.limits[at] = processes[at].buckets(rate, burst)
                offer.watch(offer.limits[at])
            elif event in ("down", "up"):
                process.up = event == "up"
            elif event == "back":
                world.set_back += 30.0
            elif event == "undo" and offer.admitted and offer.admitted[-1][0] == world.now:
                limit.give_back("c", offer.admitted.pop()[1], world.now + process.skew)
            for _ in range(times):
                if cost <= burst and await offer.one(at, cost) < 0:
                    break
        assert offer.beyond <= burst + CLOSE

    asyncio.run(scenario())
