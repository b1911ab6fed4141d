"""Claims, fills, purges and lost leases in any order: nobody gets what was purged."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from random import Random

import pytest

from proxy.flow.sharing import Apart, Found, Lead
from tests.edges.fleet import Fleet, Instance, fleet_over
from tests.redis_servers import Server, single


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with single() as started:
        yield started


@pytest.fixture
async def fleet(server: Server) -> AsyncIterator[Fleet]:
    async with fleet_over(server) as made:
        yield made


class Walk:
    """Instances that claim, fill, give up, hear of purges late and lose their leases, at random.

    The upstream's answers are numbered; a purge is of all that were asked for before it.
    """

    def __init__(self, instances: list[Instance], seed: int) -> None:
        self.roll, self.instances = Random(seed), instances
        self.version = 0
        self.purges = [0]  # the first version that each of them leaves
        self.heard = {instance.name: 0 for instance in instances}  # purges
        self.served: set[int] = set()
        self.tasks: list[asyncio.Task[None]] = []

    async def visit(self, instance: Instance) -> None:
        claim = await instance.claim(within=1)
        if isinstance(claim, Found):
            got = int(claim.entry.rest[claim.entry.head_end :])
            assert got >= self.purges[self.heard[instance.name]]
            self.served.add(got)
        elif isinstance(claim, Lead) and claim.lease.take():
            asked, seq = instance.now(), instance.log.position
            self.version += 1
            body = b"%d" % self.version
            await asyncio.sleep(self.roll.choice([0, 0.001, 0.01, 0.06]))
            end = self.roll.random()
            if end < 0.2:
                instance.store.give_up(claim.lease, Apart())
            elif end < 0.9:
                instance.store.keep(claim.lease, replace(instance.entry(body), seq=seq), asked)

    def catch_up(self, instance: Instance) -> None:
        if self.heard[instance.name] < len(self.purges) - 1:
            self.heard[instance.name] += 1
            instance.applies(self.heard[instance.name])

    async def go(self, steps: int) -> None:
        for _ in range(steps):
            instance, act = self.roll.choice(self.instances), self.roll.random()
            if act < 0.7:
                self.tasks.append(asyncio.create_task(self.visit(instance)))
            elif act < 0.75:
                self.purges.append(self.version + 1)
            else:
                self.catch_up(instance)
            await asyncio.sleep(self.roll.choice([0, 0, 0.001, 0.002]))
        await asyncio.gather(*self.tasks)


@pytest.mark.parametrize("seed", range(6))
async def test_no_interleaving_gives_anybody_what_was_purged(
    fleet: Fleet, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.edges.redis_leases.LEASE", 0.05)
    monkeypatch.setattr("proxy.edges.redis_leases.RENEW", 0.02)
    walk = Walk(await fleet.instances(3), seed)
    await walk.go(600)
    assert walk.served
    assert len(walk.purges) > 5
    assert {instance.counters.errors for instance in walk.instances} == {0}
