"""Redis killed or suspended under load costs accuracy, never an answer, and hardly any time.

How delay is judged on a machine that is not quiet: every instance also gets requests for something that is not cached
and so knows no Redis. A request that may have to wait for Redis is compared with those that were under way with it
at the same instance (`load.excess`), so what holds up the machine cancels out. The same is measured before the fault,
and that is what the bounds are added to. Until the breaker opens, the slowest request counts. From then on the 90th
percentile does (every miss asks for Redis, so if they waited, most would), and of the slowest that it cannot have
waited for Redis: whoever does waits for 100 ms, so half of that tells the two apart where a few milliseconds could
not. Where the control is quiet the 99.5th percentile counts too; where it is not, all is measured once more.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.process import Late, eventually, in_time, timed
from tests.e2e.upstream import Call
from tests.fleet import load
from tests.fleet.harness import Fleet, Instance, Versions, fleet, fresh, in_step, tell, uses_store
from tests.fleet.load import NEAR, Kind, Load, Order, Sample, excess, percentile
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

OPEN = 1.0  # seconds within which the breaker is
BEFORE = 0.150  # seconds by which a request may be delayed until then
AFTER = 0.005  # and from then on
WAITED = 0.050  # who takes so much longer has waited for Redis
TAIL = 0.995  # the percentile that is judged where the machine is
QUIET = 0.010  # seconds of excess at that percentile without any fault
RECOVERED = 2.0  # seconds after its return
CONFIG = {
    "upstreams": {"origin": {"max_connections": 1024}},
    "routes": [
        {"name": "own", "match": {"path": "/own/*"}, "upstream": "origin", "cache": "off"},
        {"name": "all", "match": {"path": "/*"}, "upstream": "origin"},
    ],
}


async def prepare(here: Fleet) -> list[int]:
    """The upstream knows what the load asks for, and every memory holds what is hot; the ports."""

    async def own(call: Call) -> None:
        call.answer(b"o" * 1024)

    here.upstream.on("/own/*", own)
    here.upstream.on("/new/*", fresh(b"n" * 1024))
    here.upstream.on("/hot/*", fresh(b"h" * 1024))
    for number in range(50):
        assert {r.status for r in await here.in_turn(load.hot(number))} == {200}
    return [one.port for one in here.instances]


async def capacity(ports: Sequence[int]) -> float:
    """Requests a second over all, as fast as the answers come."""
    samples = await load.run(Order(ports, seconds=2.0, name="capacity"))
    assert {sample.status for sample in samples} == {200}
    first, last = min(s.due for s in samples), max(s.due + s.seconds for s in samples)
    return len(samples) / (last - first)


def statuses(samples: Sequence[Sample]) -> Counter[int]:
    return Counter(sample.status for sample in samples)


def milliseconds(values: Sequence[float]) -> str:
    parts = {"p50": 0.5, "p99": 0.99, "p99.5": 0.995, "max": 1.0}
    return ", ".join(f"{name} {percentile(values, part) * 1e3:.1f}" for name, part in parts.items()) + " ms"


async def _until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0))


@dataclass(frozen=True)
class Outage:
    """What an outage did to a load. Excesses are those of misses in seconds: before the fault, until the breaker is
    open, and while Redis is gone.
    """

    samples: Sequence[Sample]
    control: Sequence[float]
    before: Sequence[float]
    after: Sequence[float]
    recovered: float

    @property
    def quiet(self) -> bool:
        """Whether a few milliseconds can be told from what the machine does to a load without any fault."""
        return percentile(self.control, TAIL) <= QUIET


async def _outage(here: Fleet, ports: Sequence[int], rate: float, server: Server, fault: str) -> Outage:
    gone_for = 3.0
    running = await Load.start(Order(ports, seconds=11.5, name=f"{fault}-{time.monotonic()}", rate=rate))
    try:
        await asyncio.sleep(1.5)  # until it has started
        begun = time.monotonic()
        await _until(begun + 3)
        gone = time.monotonic()
        await asyncio.to_thread(server.suspend if fault == "suspended" else server.kill)
        assert (await here[0].invalidate(tries=1, urls=["/x"])).status == 503
        await _until(gone + gone_for)
        await asyncio.to_thread(server.resume if fault == "suspended" else server.start)
        back = time.monotonic()
        recovered = await _recovery(here, back)
        samples = await running.samples()
    finally:
        await running.stop()
    outage = Outage(
        samples,
        control=excess(samples, begun, gone - NEAR),
        before=excess(samples, gone - NEAR, gone + OPEN),
        after=excess(samples, gone + OPEN, back),
        recovered=recovered,
    )
    hits = [
        [s.seconds for s in samples if s.kind is Kind.HIT and since <= s.due < until]
        for since, until in ((begun, gone), (gone, back))
    ]
    tell(f"Redis {fault} at {rate:,.0f} requests a second, half of what it can do; {len(samples)} requests")
    tell("how much longer a miss takes than what knows no Redis:")
    tell(f"  before the fault          {milliseconds(outage.control)}  ({len(outage.control)})")
    tell(f"  until the breaker is open {milliseconds(outage.before)}  ({len(outage.before)})")
    tell(f"  while Redis is gone       {milliseconds(outage.after)}  ({len(outage.after)})")
    tell(f"  once it is back           {milliseconds(excess(samples, back, back + 3))}")
    tell(f"hits: {milliseconds(hits[0])}; without Redis {milliseconds(hits[1])}")
    tell(f"recovered {recovered * 1e3:.0f} ms after its return; {'quiet' if outage.quiet else 'not quiet'}\n")
    return outage


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("fault", ["suspended", "killed"])
async def test_a_redis_that_goes_under_load_delays_hardly_anybody(tmp_path: Path, server: Server, fault: str) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        ports = await prepare(here)
        rate = await capacity(ports) / 2
        outage = await _outage(here, ports, rate, server, fault)
        if not outage.quiet:  # the control decides about that, not the result
            outage = await _outage(here, ports, rate, server, fault)
    control = outage.control
    assert statuses(outage.samples) == {200: len(outage.samples)}
    in_time(max(outage.before), BEFORE + max(control))
    if fault == "suspended" and max(outage.before) <= WAITED:
        raise Late("nobody can be seen to have waited for it: the fault was there, and so was another")
    in_time(percentile(outage.after, 0.9), AFTER + percentile(control, 0.9))
    in_time(max(outage.after), WAITED + max(control))
    if outage.quiet:
        in_time(percentile(outage.after, TAIL), AFTER + percentile(control, TAIL))
    in_time(outage.recovered, RECOVERED)


async def _recovery(here: Fleet, back: float) -> float:
    """Seconds from its return until every instance uses the store and is in step."""
    await asyncio.gather(*(_has_recovered(here, one) for one in here.instances))
    return time.monotonic() - back


async def _has_recovered(here: Fleet, one: Instance) -> None:
    await eventually(lambda: uses_store(here, one), "the store is used again")
    await eventually(lambda: in_step(here, one), "the log is in step")


async def test_a_purge_while_redis_is_gone_is_refused_and_nothing_of_it_is_applied(
    tmp_path: Path, server: Server
) -> None:
    async with fleet(tmp_path, server.url) as here:
        versions = Versions(here.upstream)
        versions.add("/kept")
        await here.in_turn("/kept")
        await asyncio.to_thread(server.kill)
        versions.change("/kept")
        for one in here.instances:
            refused = await one.invalidate(tries=1, urls=["/kept"])
            assert refused.status == 503
            assert refused.head["content-type"] == "application/problem+json"
            assert "redis" in refused.text.lower(), refused.text
        assert {r.text for r in await here.in_turn("/kept")} == {"1"}
        for one in here.instances:
            assert await one.proxy.ready() == 200
            assert await one.proxy.ready("/healthz") == 200


@pytest.mark.clock(only=Late)
async def test_what_an_unsafe_request_changed_while_redis_was_gone_reaches_the_others_when_it_is_back(
    tmp_path: Path, server: Server
) -> None:
    async with fleet(tmp_path, server.url) as here:
        versions = Versions(here.upstream)
        versions.add("/order")
        await here.in_turn("/order")
        await asyncio.to_thread(server.suspend)
        versions.change("/order")
        assert (await here[0].get("/order", method="DELETE")).status == 200
        assert (await here[0].get("/order")).text == "2"
        assert (await here[1].get("/order")).text == "1"  # it cannot know
        await asyncio.to_thread(server.resume)
        heard = eventually(lambda: _all_say(here, "/order", "2"), "everybody has heard of it")
        in_time((await timed(heard))[1], RECOVERED)


async def _all_say(here: Fleet, path: str, text: str) -> bool:
    return {r.text for r in await here.in_turn(path)} == {text}


@pytest.mark.clock(only=Late)
async def test_starting_without_redis_works_and_joins_when_it_comes(tmp_path: Path, server: Server) -> None:
    await asyncio.to_thread(server.kill)
    async with fleet(tmp_path, server.url, join=False) as here:
        here.upstream.on("/a", fresh("a"))
        assert {r.text for r in await here.in_turn("/a")} == {"a"}
        assert here.upstream.count("/a") == 3
        assert all(r.hit for r in await here.in_turn("/a"))
        await asyncio.to_thread(server.start)
        in_time((await timed(here.joined()))[1], RECOVERED)


async def test_no_herd_asks_the_upstream_when_an_empty_redis_comes_back(tmp_path: Path, server: Server) -> None:
    """All that everybody holds is in doubt at once: each thing is asked for once, by one of them."""
    async with fleet(tmp_path, server.url) as here:
        versions = Versions(here.upstream)
        paths = [f"/p/{number}" for number in range(100)]
        for path in paths:
            versions.add(path)
            await here.in_turn(path)
        assert sum(map(here.upstream.count, paths)) == 100
        await asyncio.to_thread(server.restart, keep=False)
        await here.joined()
        versions.pauses = lambda: (0.05, 0.0)
        got = await asyncio.gather(*(here.everywhere(path) for path in paths))
        assert {r.text for answers in got for r in answers} == {"1"}
        assert sum(map(here.upstream.count, paths)) == 200


async def _under_load(here: Fleet, what: Callable[[], object], times: int = 5) -> list[Sample]:
    """What a load of a third of what it can do gets while something happens again and again."""
    ports = await prepare(here)
    running = await Load.start(Order(ports, seconds=6.0, name="small", rate=await capacity(ports) / 3))
    try:
        await asyncio.sleep(1.5)
        for _ in range(times):
            await asyncio.to_thread(what)
            await asyncio.sleep(0.5)
        return await running.samples()
    finally:
        await running.stop()


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("words", ["FLUSHALL", "SCRIPT FLUSH", "CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub"])
async def test_it_is_no_error_for_anybody(tmp_path: Path, server: Server, words: str) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        samples = await _under_load(here, lambda: server.ask(*words.split()))
        assert statuses(samples) == {200: len(samples)}
        in_time((await timed(here.joined()))[1], RECOVERED)


@pytest.mark.clock(only=Late)
async def test_a_redis_that_answers_slowly_is_left_alone(tmp_path: Path, server: Server) -> None:
    """It is suspended again and again, each time for longer than the deadline."""

    def stutter() -> None:
        server.suspend()
        time.sleep(0.2)
        server.resume()

    async with fleet(tmp_path, server.url, CONFIG) as here:
        samples = await _under_load(here, stutter)
        assert statuses(samples) == {200: len(samples)}
        in_time((await timed(here.joined()))[1], RECOVERED)


async def test_readiness_tells_whether_redis_is_there(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url) as here:
        with_it = await here[0].call("/readyz")
        await asyncio.to_thread(server.kill)
        await here[0].get("/anything")

        async def told() -> bool:
            without = await here[0].call("/readyz")
            assert (with_it.status, without.status) == (200, 200)
            return "redis" in without.text and json.loads(with_it.body) != json.loads(without.body)

        await eventually(told, "it is told")
