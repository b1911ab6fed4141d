"""One limit over three processes and a real Redis, which fails: what is admitted, and how long anybody waits."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from zlib import crc32

import pytest

from proxy.edges.redis_buckets import SHARDS, Desk, RedisBuckets
from proxy.edges.redis_link import Link
from proxy.flow.background import Background
from tests.e2e.process import Late, free_port, in_time
from tests.edges.bucket_kit import worst
from tests.edges.fleet import until
from tests.fleet import harness
from tests.fleet.harness import fresh, tell
from tests.fleet.load import Load, Order
from tests.redis_servers import Cluster, Relay, Server, single

pytestmark = pytest.mark.asyncio(loop_scope="function")

SKEWS = (-60.0, 0.0, 60.0)  # seconds
DEADLINE = 0.1
RATE, BURST = 100.0, 50.0
UNEVEN = (280.0, 100.0, 20.0)  # a second


class Holder:
    """One process' end of the limit."""

    def __init__(self, url: str, skew: float, rate: float, burst: float, deadline: float) -> None:
        self._skew = skew
        self.background = Background()
        self.link = Link(url, now=self.now, spawn=self.background.spawn, deadline=deadline)
        desk = Desk(self.link, "rt", lambda: len(SKEWS), self.now, self.background.spawn, deadline)
        self.limit = RedisBuckets(desk, "limit", rate, burst)
        self.background.spawn(self._probe(), "probe")

    def now(self) -> float:
        return time.monotonic() + self._skew

    async def _probe(self) -> None:
        while True:
            if not self.link.up:
                await self.link.probe()
            await asyncio.sleep(0.05)

    async def asks(self, client: str, cost: float = 1.0) -> float:
        said = self.limit.take(client, cost, self.now())
        return await self.limit.ask(client, cost) if said is None else said


class Fleet:
    def __init__(self, holders: Sequence[Holder]) -> None:
        self.holders = holders
        self.admitted: list[tuple[float, float]] = []
        self.longest = 0.0  # seconds that anybody waited for an answer
        self.late = 0.0  # and that the loop was late by itself: the control

    async def load(self, per_second: Sequence[float], seconds: float, client: str = "c") -> int:
        """Offer that much to each, open loop; how many were admitted."""
        before, end = len(self.admitted), time.monotonic() + seconds
        pairs = zip(self.holders, per_second, strict=True)
        await asyncio.gather(*[self._offer(holder, rate, end, client) for holder, rate in pairs])
        return len(self.admitted) - before

    async def _offer(self, holder: Holder, per_second: float, end: float, client: str) -> None:
        dice, asking = random.Random(per_second), list[asyncio.Task[None]]()
        moment = time.monotonic()
        while (moment := moment + dice.expovariate(per_second)) < end:
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            self.late = max(self.late, time.monotonic() - moment)
            asking.append(asyncio.create_task(self._one(holder, client)))
        await asyncio.gather(*asking)

    async def _one(self, holder: Holder, client: str) -> None:
        began = time.monotonic()
        said = await holder.asks(client)
        now = time.monotonic()
        self.longest = max(self.longest, now - began)
        if said >= 0:
            self.admitted.append((now, 1.0))

    async def is_exact(self, since: float) -> None:
        """It is from that moment on, but for what is saved up while the loop is late."""
        at, self.late = len(self.admitted), 0.0
        await self.load(UNEVEN, 5.0)
        later = [moment for moment, _ in self.admitted[at:] if moment > since]
        span = later[-1] - later[0]
        slack = RATE * (0.05 * span + self.late)
        assert len(later) <= RATE * span + slack
        at_least(len(later), RATE * span - slack)


def at_least(admitted: float, least: float) -> None:
    """Raise Late where no more than that was admitted: what is offered late can be too little."""
    if admitted < least:
        raise Late(f"{admitted} admitted, and not {least:.1f}")


def neighbour_of(client: str) -> str:
    """Somebody whose bucket is in the same shard."""
    return next(
        name for name in map(str, range(1000)) if crc32(name.encode()) % SHARDS == crc32(client.encode()) % SHARDS
    )


@asynccontextmanager
async def fleet(url: str, rate: float = RATE, burst: float = BURST, *, deadline: float = 2.0) -> AsyncIterator[Fleet]:
    """Three, with a deadline that nobody misses because the machine is busy."""
    holders = [Holder(url, skew, rate, burst, deadline) for skew in SKEWS]
    try:
        await until(lambda: all(holder.link.up for holder in holders))
        yield Fleet(holders)
    finally:
        for holder in holders:
            await holder.limit.close()
            await holder.link.close()
            await holder.background.drain(0)


@pytest.mark.clock(only=Late)
async def test_the_fleet_admits_the_rate_and_one_burst_whoever_is_asked(server: Server) -> None:
    async with fleet(server.url) as here:
        began = time.monotonic()
        admitted = await here.load(UNEVEN, 5.0)
        most = RATE * (time.monotonic() - began) + BURST
        trips = sum(holder.limit.counters.asked for holder in here.holders)
        tell(f"admitted {admitted} of at most {most:.1f}, {trips} round trips for 2000 requests")
        assert admitted <= most
        # A payment is timed when its answer comes, which may be a round trip and a late loop after it was made.
        assert worst(here.admitted, RATE) <= BURST + RATE * here.longest + 1e-6
        assert sum(holder.limit.counters.alone for holder in here.holders) == 0
        # What a full bucket does not take while the loop is late is lost.
        at_least(admitted, 0.97 * (RATE * 5 + BURST) - RATE * here.late)


@pytest.mark.clock(only=Late)
async def test_a_small_limit_is_exact(server: Server) -> None:
    async with fleet(server.url, 2.0, 2.0) as here:
        began = time.monotonic()
        admitted = await here.load((20.0, 10.0, 5.0), 5.2)
        # No more, and no less: on a machine that is not late both are twelve.
        assert admitted <= int(2 + 2 * (time.monotonic() - began))
        at_least(admitted, int(2 + 2 * (5.2 - here.late)))


@pytest.mark.clock(only=Late)
async def test_while_redis_hangs_nobody_waits_longer_than_the_deadline_and_the_limit_holds(server: Server) -> None:
    async with fleet(server.url, deadline=DEADLINE) as here:
        await here.load(UNEVEN, 1.0)
        server.suspend()
        here.longest = here.late = 0.0
        began = time.monotonic()
        try:
            admitted = await here.load(UNEVEN, 5.0)
        finally:
            server.resume()
        most = RATE * (time.monotonic() - began)
        alone = [holder.limit.counters.alone for holder in here.holders]
        assert all(alone), "each had to decide without Redis"
        tell(f"Redis hung: {admitted} admitted of {most:.0f}; longest wait {here.longest * 1000:.0f} ms")
        assert admitted <= 1.2 * most
        longest, late = here.longest, here.late
        back = time.monotonic()
        await until(lambda: all(holder.link.up for holder in here.holders))
        await here.is_exact(back + 2)
        at_least(admitted, 0.5 * RATE * 5)  # two of three have demand for more than their share
        in_time(longest, DEADLINE + late + 0.06)


@pytest.mark.parametrize("how", ["killed and back empty", "emptied"])
async def test_a_redis_that_has_lost_everything_gives_no_second_burst(server: Server, how: str) -> None:
    async with fleet(server.url, 5.0, 100.0) as here:
        for _ in range(34):
            for holder in here.holders:
                await holder.asks("c")
        for _ in range(100):  # it has filled again a little meanwhile
            if all([await holder.asks("c") < 0 for holder in here.holders]):
                break
        else:
            pytest.fail("there is always some left")
        assert sum(holder.limit.counters.alone for holder in here.holders) == 0
        lost = time.monotonic()
        if how == "emptied":
            server.ask("FLUSHALL")
        else:
            await asyncio.to_thread(server.restart, keep=False)
        admitted = await here.load((50.0, 50.0, 50.0), 2.0)
        # What was left to the three when it was lost, and what each may let pass before it has been told.
        assert admitted <= 5.0 * (time.monotonic() - lost) + 3
        assert await here.holders[0].asks(neighbour_of("c"), 60.0) < 0, "their buckets were lost too"


async def test_a_connection_that_is_cut_is_no_error_and_what_was_out_is_counted(server: Server) -> None:
    async with Relay(server) as relay, fleet(relay.url) as here:
        for _ in range(5):
            loading = asyncio.create_task(here.load(UNEVEN, 0.6))
            await asyncio.sleep(0.3)
            relay.reset()
            await loading
        assert worst(here.admitted, RATE) <= 1.2 * BURST + RATE * here.longest
        await until(lambda: all(holder.link.up for holder in here.holders))


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
async def test_a_redis_that_has_no_room_is_no_error_keeps_nobody_waiting_and_does_not_grow(
    policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with single({"maxmemory-policy": policy}) as server:
        async with fleet(server.url) as here:
            await here.load(UNEVEN, 1.0)
            server.ask("CONFIG", "SET", "maxmemory", 1)
            here.longest = here.late = 0.0
            began = time.monotonic()
            admitted = await here.load(UNEVEN, 3.0)
            most = RATE * (time.monotonic() - began)
            keys = server.ask("DBSIZE")
            for at in range(3000):
                assert await here.holders[at % 3].asks(f"invented {at}") >= 0
            tell(f"{policy}: {admitted} admitted of {most:.0f}; longest wait {here.longest * 1000:.0f} ms")
            assert any("OOM" in name for name in server.info("errorstats")), "it is full"
            assert server.ask("DBSIZE") <= keys
            assert admitted <= 1.2 * most
            longest, late = here.longest, here.late
            assert all(holder.link.up for holder in here.holders)
            assert len([line for line in caplog.messages if "OOM" in line]) == len(here.holders)

            server.ask("CONFIG", "SET", "maxmemory", 0)
            await here.is_exact(time.monotonic() + 2)
            at_least(admitted, 0.5 * most)
            in_time(longest, late + 0.5)  # and their deadline is two seconds


async def test_a_redis_that_may_evict_answers_has_room_for_limits_and_stays_as_large(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    room = int(server.info("memory")["used_memory"]) + (4 << 20)
    server.ask("CONFIG", "SET", "maxmemory", room)
    for at in range(60):
        server.ask("SET", f"answer {at}", b"x" * (100 << 10), "EX", 600)
    async with fleet(server.url) as here:
        for at in range(9000):
            assert await here.holders[at % 3].asks(f"invented {at}") >= 0
        began = time.monotonic()
        admitted = await here.load(UNEVEN, 2.0)
        assert admitted <= RATE * (time.monotonic() - began) + BURST
        assert int(server.info("stats")["evicted_keys"]) > 20, "it is full"
        assert int(server.info("memory")["used_memory"]) <= room + (1 << 20)
        assert sum(holder.limit.counters.alone for holder in here.holders) == 0


@pytest.mark.clock(only=Late)
async def test_processes_on_one_port_that_start_without_redis_share_the_rate(tmp_path: Path) -> None:
    rate, workers = 20, 3
    hot = {"name": "hot", "match": {"path": "/hot/*"}, "upstream": "origin"}
    limit = {"rate": f"{rate}/s", "burst": rate, "by": "route"}
    over = {"workers": workers, "routes": [{**hot, "rate_limit": limit}]}
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with harness.fleet(tmp_path, nowhere, over, size=1, join=False) as here:
        here.upstream.on("/hot/*", fresh(b"h"))
        began = time.monotonic()
        order = Order([here[0].port], 5.0, "one", 400.0, 60, 5, 0.0)
        samples = await (await Load.start(order)).samples()
        took = max(s.due + s.seconds for s in samples) - began
        told = [sum(s.status == status for s in samples) for status in (200, 429)]
        tell(f"{workers} workers that know of nobody: {told[0] / (rate * took):.2f} of the limit")
        assert sum(told) == len(samples)
        assert told[0] <= 1.2 * rate * took
        at_least(told[0], 0.3 * rate * took)


async def test_leaving_gives_everything_back(server: Server) -> None:
    async with fleet(server.url, 1.0, 3000.0) as here:
        began = time.monotonic()
        spent = await here.load((300.0, 300.0, 300.0), 0.5)
        for holder in here.holders[1:]:
            await holder.limit.close()
        await here.holders[0].limit.close()
        left = await here.holders[0].asks("c", 0.001)
        assert 3000 - spent - 3 <= left <= 3000 - spent + 3 + time.monotonic() - began


async def test_in_a_cluster_every_client_has_a_bucket_and_a_marker_beside_it(cluster: Cluster) -> None:
    async with fleet(cluster.url, 0.01, 3.0) as here:
        judged = 0
        for at in range(200):
            before = [holder.limit.counters.alone for holder in here.holders]
            said = [await here.holders[at % 3].asks(f"10.0.0.{at}") for _ in range(4)]
            if before == [holder.limit.counters.alone for holder in here.holders]:  # nodes that starve fail over
                assert [answer >= 0 for answer in said] == [True, True, True, False]
                judged += 1
        assert judged >= 50
