"""A failover loses no purge and costs no client an error."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.process import eventually
from tests.fleet import load
from tests.fleet.harness import Fleet, Versions, fleet, in_step, tell
from tests.fleet.load import Load, Order
from tests.fleet.test_outage import CONFIG, milliseconds, prepare, statuses
from tests.redis_servers import Cluster, Sentinels

pytestmark = pytest.mark.asyncio(loop_scope="function")

RATE = 300.0  # requests a second: the servers of Redis need their share
PATHS = 40
BACK = 30.0  # seconds within which purging is possible again


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    servers = Sentinels()
    try:
        yield servers.start()
    finally:
        servers.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    servers = Cluster()
    try:
        yield servers.start()
    finally:
        servers.close()


class _Purges:
    """One after the other, through whoever is next. What was accepted must hold, whatever happens meanwhile."""

    def __init__(self, here: Fleet, versions: Versions) -> None:
        self._here, self._versions = here, versions
        self.accepted: dict[str, int] = {}  # which version was there when its purge was accepted
        self.refused = self.wrong = self.strict = 0
        self.over = asyncio.Event()

    async def run(self) -> None:
        here = self._here
        for number in itertools.count():
            if self.over.is_set():
                return
            path = f"/p/{number % PATHS}"
            version = self._versions.change(path)
            answer = await here[number % 3].invalidate("2s", tries=1, urls=[path])
            assert answer.status in (200, 202, 503), answer
            if answer.status == 503:
                self.refused += 1
                continue
            self.accepted[path] = version
            # Who cannot reach Redis is not known to live, so not waited for, and may miss it for max_blind.
            if answer.status == 200 and len(json.loads(answer.body)["applied"]) == len(here.instances):
                self.strict += 1
                seen = await here.everywhere(path)
                self.wrong += any(int(r.text) < version for r in seen)


async def _survives(directory: Path, url: str, fault: Callable[[], None]) -> None:
    """No client error and no lost purge, while a fault comes and goes under load."""
    async with fleet(directory, url, {**CONFIG, "redis": {"max_blind": "1s"}}) as here:
        versions = Versions(here.upstream)
        for number in range(PATHS):
            versions.add(f"/p/{number}")
            await here.in_turn(f"/p/{number}")
        ports = await prepare(here)
        purges = _Purges(here, versions)
        running = await Load.start(Order(ports, seconds=16.0, name="failover", rate=RATE))
        purging = asyncio.create_task(purges.run())
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(2)
            await eventually(lambda: len(purges.accepted) == PATHS, "all are purged while all is well")
            begun = loop.time()
            await asyncio.to_thread(fault)
            await eventually(lambda: purges.refused > 0, "the fault is felt")
            await eventually(lambda: _all_in_step(here), "purging is possible again", BACK)
            back = loop.time() - begun
            await asyncio.sleep(1)
            purges.over.set()
            await purging
            samples = await running.samples()
        finally:
            purging.cancel()
            await running.stop()
        tell(f"purging again after {back:.1f} s; {purges.refused} purges refused")
        tell(f"{len(samples)} requests: {dict(statuses(samples))}")
        for kind in load.Kind:
            tell(f"{kind}: {milliseconds([s.seconds for s in samples if s.kind is kind])}")
        assert statuses(samples) == {200: len(samples)}
        assert purges.strict > PATHS
        assert purges.wrong == 0
        for path, version in purges.accepted.items():
            for answer in await here.in_turn(path):
                assert int(answer.text) >= version, path


async def _all_in_step(here: Fleet) -> bool:
    for one in here.instances:
        if not await in_step(here, one):
            return False
    return True


async def test_a_sentinel_failover_loses_no_purge(tmp_path: Path, sentinels: Sentinels) -> None:
    sentinels.heal()
    await _survives(tmp_path, sentinels.url, sentinels.master.kill)


async def test_a_master_that_hangs_is_failed_over_too(tmp_path: Path, sentinels: Sentinels) -> None:
    sentinels.heal()
    await _survives(tmp_path, sentinels.url, sentinels.master.suspend)


async def test_the_loss_of_the_cluster_master_that_holds_the_log_loses_no_purge(
    tmp_path: Path, cluster: Cluster
) -> None:
    cluster.heal()
    await _survives(tmp_path, cluster.url, cluster.master_of("{rt}:log").kill)


async def test_the_loss_of_another_cluster_master_costs_nobody_an_error(tmp_path: Path, cluster: Cluster) -> None:
    """The log is where it was; a third of the answers cannot be shared for a while."""
    cluster.heal()
    for server in cluster.servers:  # or else Redis itself refuses every key until the lost ones are served again
        server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    log = cluster.master_of("{rt}:log")
    other = next(server for server in cluster.masters() if server is not log)
    async with fleet(tmp_path, cluster.url, CONFIG) as here:
        ports = await prepare(here)
        running = await Load.start(Order(ports, seconds=8.0, name="third", rate=RATE))
        try:
            await asyncio.sleep(2)
            await asyncio.to_thread(other.kill)
            for _ in range(20):
                assert (await here[0].invalidate(urls=["/x"])).status in (200, 202)
                await asyncio.sleep(0.1)
            samples = await running.samples()
        finally:
            await running.stop()
        assert statuses(samples) == {200: len(samples)}
        assert {s.kind for s in samples} == set(load.Kind)
        await here.joined()
