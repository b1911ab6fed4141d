"""What explain says of limits: whose buckets, what is in them, and who is inside of what."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.flow.explain import Explainer
from proxy.flow.explanation import Act, Bucket, Doorway, Explanation, Limiting, OverLimit, Pays, Step, Upstream
from proxy.rules.message import Reason
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import By, GateRule
from tests.flow.kit import FRESH, FakeClient, World, request
from tests.flow.test_limiter import ME, Limited, fetched, quota


def explained(w: World, *written: str, peer: str | None = ME, shared: bool = False, **more: Any) -> Explanation:  # noqa: ANN401 - see request
    known = Explainer(lambda: w.exchange.site, w.memory, w.log, w.flights, w.clock.now, shared=shared)
    return known.explain(request(*written, **more), peer)


def step(explanation: Explanation) -> Limiting | None:
    return next((found for found in explanation.steps if isinstance(found, Limiting)), None)


def buckets(explanation: Explanation) -> tuple[Bucket, ...]:
    found = step(explanation)
    assert found is not None
    return found.buckets


async def test_it_stands_between_the_clients_wishes_and_what_is_remembered() -> None:
    async with Limited(quota()) as w:
        steps = [found.step for found in explained(w).steps]
        assert steps[-4:] == [Step.CLIENT, Step.LIMITS, Step.REMEMBERED, Step.UPSTREAM]
    async with World() as w:
        assert step(explained(w)) is None


async def test_the_bucket_is_told_with_what_the_plan_costs() -> None:
    async with Limited(quota(burst=3.0)) as w:
        await fetched(w, FRESH)
        miss, hit = step(explained(w, target="/b")), step(explained(w))
        assert miss is not None
        assert hit is not None
        assert (miss.pays, miss.reason, hit.pays, hit.reason) == (Pays.MISS, Reason.ABSENT, Pays.HIT, Reason.HIT)
        assert miss.buckets == (
            Bucket("all", "ip", ME, 0.5, 3.0, 1.0, 2.0, passes=False, wait=2.0, over_limit=OverLimit.REJECT),
        )
        (bucket,) = hit.buckets
        assert (bucket.left, bucket.cost, bucket.passes, bucket.wait) == (1.0, 0.25, True, 0.0)


async def test_of_several_each_is_told_and_the_client_waits_for_all() -> None:
    async with Limited(quota(burst=3.0), quota("day", rate=0.01, burst=3.0, serve_stale=True)) as w:
        await fetched(w, FRESH)
        said = explained(w, target="/b")
        assert [(bucket.name, bucket.wait) for bucket in buckets(said)] == [("all", 2.0), ("day", pytest.approx(100.0))]
        assert [bucket.over_limit for bucket in buckets(said)] == [OverLimit.REJECT, OverLimit.SERVE_STALE]
        assert (said.answer.act, said.answer.retry_after) == (Act.REFUSE, 100)


@pytest.mark.parametrize(
    ("peer", "whose"),
    [(ME, ME), ("2001:db8::7", "2001:db8::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), (None, None)],
)
async def test_it_is_told_whose_bucket_it_is(peer: str | None, whose: str | None) -> None:
    async with Limited(quota(burst=2.0)) as w:
        await fetched(w, FRESH)
        (bucket,) = buckets(explained(w, target="/b", peer=peer))
        assert bucket.client == whose
        assert bucket.passes == (whose != ME), "nobody else has spent anything"


async def test_a_header_is_told_by_its_hash_and_a_route_by_nothing() -> None:
    quotas = (quota(by=By.HEADER, header="x-api-key"), quota("route", by=By.ROUTE))
    async with Limited(*quotas) as w:
        said = explained(w, "X-Api-Key: s3cret", peer=None)
        hashed, shared = buckets(said)
        assert (hashed.by, len(hashed.client or ""), shared.by, shared.client) == ("header:x-api-key", 24, "route", "")
        assert "s3cret" not in repr(said)


@pytest.mark.parametrize(("trusted", "client"), [("192.0.2.0/24", "203.0.113.9"), ("198.51.100.0/24", ME)])
async def test_a_forwarded_address_counts_where_the_peer_is_trusted(trusted: str, client: str) -> None:
    async with Limited(quota(), trusted=(ip_network(trusted),)) as w:
        (bucket,) = buckets(explained(w, "X-Forwarded-For: 203.0.113.9"))
        assert bucket.client == client
        (unnamed,) = buckets(explained(w, "X-Forwarded-For: 203.0.113.9", peer=None))
        assert unnamed.client is None


@pytest.mark.parametrize("shared", [False, True])
async def test_it_says_where_others_spend_from_the_same_bucket(shared: bool) -> None:
    async with Limited(quota(), gate=GateRule(1, 0)) as w:
        said = step(explained(w, shared=shared))
        assert said is not None
        assert said.here_only is shared
    async with World(gate=GateRule(1, 0)) as w:
        said = step(explained(w, shared=True))
        assert said is not None
        assert not said.here_only, "places are counted by each instance for itself"


async def test_who_is_inside_and_waits_is_told_of_the_client_and_of_the_upstream() -> None:
    rule = GateRule(1, 1, 60.0)
    async with World(gate=rule, upstream_gate=GateRule(3, 2, 0.5)) as w:
        w.ask(target="/1")
        w.ask(target="/2")
        await w.idle()
        said = explained(w, target="/3")
        told = step(said)
        assert told is not None
        assert told.gate == Doorway(1, 1, 1, 1, 60.0, full=True, by="ip", client=ME)
        assert (said.answer.reason, said.answer.retry_after) == (Reason.CONCURRENCY_LIMITED, 60)
        (upstream,) = [found.gate for found in said.steps if isinstance(found, Upstream)]
        assert upstream == Doorway(3, 1, 2, 0, 0.5, full=False)
        for peer in ("192.0.2.99", None):
            free = explained(w, target="/3", peer=peer)
            other = step(free)
            assert other is not None
            assert other.gate == Doorway(1, 0, 1, 0, 60.0, full=False, by="ip", client=peer)
            assert free.answer.act is Act.FETCH
        for _ in range(2):
            w.last.reply(FRESH)
            await w.idle()


async def test_a_place_in_the_queue_is_no_refusal() -> None:
    async with World(gate=GateRule(1, 1, 60.0)) as w:
        w.ask(target="/1")
        await w.idle()
        said = explained(w, target="/2")
        told = step(said)
        assert told is not None
        assert told.gate is not None
        assert (told.gate.inside, told.gate.waiting, told.gate.full) == (1, 0, False)
        assert said.answer.act is Act.FETCH
        w.last.reply(FRESH)


@pytest.mark.parametrize(
    ("peer", "act", "status"),
    [(None, Act.PURGE, 200), (FakeClient.peer, Act.PURGE, 200), ("192.0.3.1", Act.REFUSE, 403)],
)
async def test_whose_purge_it_is_counts_too(peer: str | None, act: Act, status: int) -> None:
    async with World(purging=PurgeRule((ip_network("192.0.2.0/24"),))) as w:
        said = explained(w, method="PURGE", peer=peer)
        assert (said.answer.act, said.answer.status) == (act, status)


async def test_explaining_makes_no_bucket() -> None:
    async with Limited(replace(quota(), burst=2.0)) as w:
        for number in range(50):
            explained(w, peer=f"192.0.2.{number}")
        assert len(w.limits[0].buckets) == 0
