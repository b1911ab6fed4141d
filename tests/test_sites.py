"""What serves a configuration, and what of it outlives a reload."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.config.load import from_upstream
from proxy.edges.buckets import LocalBuckets
from proxy.flow.gate import Full
from proxy.flow.tally import Tallies
from proxy.rules.quota import GateRule, Quota
from proxy.settings import Breaker, Settings, UpstreamTls
from proxy.sites import Sites

ONE, TWO = Quota("one", 1.0, 1.0), Quota("two", 2.0, 2.0)


def sites() -> Sites:
    def now() -> float:
        return 0.0

    return Sites(
        lambda _, quota: LocalBuckets(quota.rate, quota.burst, now),
        Tallies(now, lambda: 1.0),
        lambda: 30.0,
        lambda work, name: asyncio.create_task(work, name=name),
        now,
    )


def limited(*quotas: Quota, gate: GateRule | None = None, base: Settings | None = None) -> Settings:
    settings = base or from_upstream("http://up.test")
    return replace(settings, routes=(replace(settings.routes[0], quotas=quotas, gate=gate),))


async def closed(made: Sites) -> None:
    for upstream in made.upstreams:
        await upstream.origin.close()


async def test_a_limit_that_stays_keeps_its_buckets_and_one_that_goes_is_handed_out_to_be_closed() -> None:
    made = sites()
    first = limited(ONE, TWO)
    kept, gone = [limit.buckets for limit in made.make(first).lanes["default"].limiter.limits]  # type: ignore[union-attr]
    second = limited(ONE, replace(TWO, rate=3.0), base=first)
    limits = made.make(second).lanes["default"].limiter.limits  # type: ignore[union-attr]
    assert limits[0].buckets is kept
    assert limits[1].buckets is not gone
    assert made.retire(second) == ([], [gone])
    assert [quota.rate for _, quota, _ in made.buckets] == [1.0, 3.0]
    await closed(made)


async def test_a_gate_that_stays_still_counts_who_is_inside() -> None:
    made, rule = sites(), GateRule(1, 0)
    first = limited(gate=rule)
    gates = made.make(first).lanes["default"].gates
    assert gates is not None
    await gates.enter("me")
    again = limited(gate=rule, base=first)
    assert made.make(again).lanes["default"].gates is gates
    wider = limited(gate=replace(rule, requests=2), base=first)
    assert made.make(wider).lanes["default"].gates is gates
    assert [gates.has_room(client) for client in ("me", "you")] == [True, True]
    assert gates.rule.requests == 2
    without = limited(base=first)
    assert made.make(without).lanes["default"].gates is None
    made.retire(without)
    assert made.make(first).lanes["default"].gates is not gates, "it was forgotten"
    await closed(made)


def one(url: str = "http://one.test", **more: Any) -> Settings:  # noqa: ANN401 - the fields of Upstream
    """A configuration with one upstream."""
    settings = from_upstream(url)
    (name,) = settings.upstreams
    return replace(settings, upstreams={name: replace(settings.upstreams[name], **more)})


async def test_an_upstream_whose_settings_change_keeps_its_breaker_and_its_gate_and_they_obey_the_new_ones() -> None:
    made = sites()
    first, second = one(gate=GateRule(2, 0)), one(gate=GateRule(1, 0), timeout=7.0, breaker=Breaker(1, 9.0))
    old = made.make(first).lanes["default"].upstream
    assert old.gate is not None
    await old.gate.enter()
    new = made.make(second).lanes["default"].upstream
    gone, _ = made.retire(second)
    assert gone == [old]
    assert new.origin is not old.origin
    assert new.gate is old.gate
    with pytest.raises(Full):
        await new.gate.enter()
    old.breaker.failed(0.0, probe=False)
    assert not new.breaker.would_admit(8.9), "one failure is enough now"
    assert new.breaker.would_admit(9.0)
    assert made.make(one(timeout=8.0)).lanes["default"].upstream.gate is None
    await old.origin.close()
    await closed(made)


async def test_an_upstream_with_another_url_is_another_one() -> None:
    made = sites()
    old = made.make(one(gate=GateRule(1, 0), breaker=Breaker(1, 9.0))).lanes["default"].upstream
    assert old.gate is not None
    await old.gate.enter()
    old.breaker.failed(0.0, probe=False)
    elsewhere = one("http://two.test", gate=GateRule(1, 0), breaker=Breaker(1, 9.0))
    new = made.make(elsewhere).lanes["default"].upstream
    assert new.name == old.name
    assert new.breaker.would_admit(0.0)
    assert new.gate is not None
    await new.gate.enter()
    await closed(made)


async def test_what_cannot_be_made_changes_no_gate_and_no_breaker(tmp_path: Path) -> None:
    made = sites()
    gate = GateRule(1, 0)
    first = one(gate=gate, breaker=Breaker(2, 9.0))
    kept = made.make(first).lanes["default"].upstream
    (name,) = first.upstreams
    changed = replace(first.upstreams[name], gate=GateRule(9, 9), breaker=Breaker(1, 9.0))
    broken = replace(changed, name="broken", url="https://two.test", tls=UpstreamTls(ca=tmp_path / "none"))
    with pytest.raises(ValueError, match="No such file"):
        made.make(replace(first, upstreams={name: changed, "broken": broken}))
    assert kept.gate is not None
    assert kept.gate.rule == gate
    kept.breaker.failed(0.0, probe=False)
    assert kept.breaker.would_admit(0.0)
    await closed(made)


async def test_an_upstream_that_stays_keeps_its_connections_and_another_is_retired() -> None:
    made = sites()
    first = from_upstream("http://one.test")
    lane = made.make(first).lanes["default"]
    assert made.make(limited(gate=GateRule(1, 0), base=first)).lanes["default"].upstream is lane.upstream
    second = from_upstream("http://two.test")
    assert made.make(second).lanes["default"].upstream is not lane.upstream
    assert made.retire(second) == ([lane.upstream], [])
    await lane.upstream.origin.close()
    await closed(made)


async def test_what_cannot_be_made_changes_nothing(tmp_path: Path) -> None:
    made = sites()
    first = from_upstream("http://one.test")
    made.make(first)
    (name,) = first.upstreams
    broken = replace(first.upstreams[name], url="https://one.test", tls=UpstreamTls(ca=tmp_path / "none"))
    with pytest.raises(ValueError, match="No such file"):
        made.make(replace(first, upstreams={name: broken}))
    assert len(made.upstreams) == 1
    await closed(made)
