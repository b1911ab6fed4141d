"""A rate limit holds for the whole fleet, whatever the clocks say and whether Redis is there or not.

What is offered goes to three processes over sockets, each from a load of its own that waits for nobody's answer. Every
URL is in every memory, so all that decides is the limit.
"""

import asyncio
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import Late
from tests.fleet import load
from tests.fleet.harness import Fleet, fleet, fresh, tell
from tests.fleet.load import Load, Order, Sample
from tests.fleet.test_clocks import OFFSETS, is_wrong, wrong_clock
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

HOT = 5
MARGIN = 0.05  # seconds for an answer to be on its way


def limited(rate: str, burst: int) -> dict[str, Any]:
    limit = {"rate": rate, "burst": burst, "by": "route", "cost": {"hit": 1, "miss": 0}}
    hot = {"name": "hot", "match": {"path": "/hot/*"}, "upstream": "origin", "rate_limit": limit}
    return {"routes": [hot, {"name": "all", "upstream": "origin"}]}


async def offered(here: Fleet, seconds: float, *rates: float) -> list[Load]:
    """So many requests a second to each instance."""
    here.upstream.on("/hot/*", fresh(b"h" * 64))
    for number in range(HOT):
        assert {r.status for r in await here.in_turn(load.hot(number))} <= {200, 429}
    pairs = zip(here.instances, rates, strict=True)
    orders = [Order([one.port], seconds, f"{one.port}", rate, 16, HOT, 0.0) for one, rate in pairs]
    return [await Load.start(order) for order in orders]


async def taken(loads: list[Load]) -> list[list[Sample]]:
    return list(await asyncio.gather(*(one.samples() for one in loads)))


def admitted(samples: list[Sample], since: float = 0.0, until: float = float("inf")) -> int:
    """Answers that were on their way between these moments."""
    return sum(s.status == 200 and since - MARGIN <= s.due + s.seconds < until + MARGIN for s in samples)


def at_least(found: int, least: float) -> None:
    """Raise Late where no more than that was admitted: a load that is held up offers too little."""
    if found < least:
        raise Late(f"{found} admitted, and not {least:.1f}")


def span(samples: list[Sample]) -> tuple[float, float]:
    """From when until when anybody was under load."""
    return min(s.due for s in samples), max(s.due + s.seconds for s in samples)


def together(loads: list[list[Sample]]) -> tuple[float, float]:
    """From when until when all of them were."""
    spans = [span(samples) for samples in loads]
    return max(first for first, _ in spans), min(last for _, last in spans)


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize(
    ("rate", "burst", "least"), [("100/s", 50, 0.97), ("2/s", 2, None)], ids=["100 a second", "2 a second"]
)
async def test_instances_whose_clocks_are_wrong_admit_what_one_would(
    tmp_path: Path, server: Server, rate: str, burst: int, least: float | None
) -> None:
    per_second = int(rate.partition("/")[0])
    environment = lambda at: wrong_clock(OFFSETS[at])  # noqa: E731 - one expression
    async with fleet(tmp_path, server.url, limited(rate, burst), environment=environment) as here:
        is_wrong(here)
        await asyncio.sleep(2 + burst / per_second)  # for what joining has cost
        loads = await taken(await offered(here, 8.0, 60, 150, 400))
        samples = list(chain(*loads))
        first, last = span(samples)
        bound = per_second * (last - first) + burst
        found = admitted(samples)
        tell(f"{rate}, burst {burst}: {found} of {len(samples)} admitted in {last - first:.2f} s; bound {bound:.1f}")
        assert {s.status for s in samples} == {200, 429}
        assert found <= bound
        first, last = together(loads)
        found, due = admitted(samples, first, last), per_second * (last - first)
        tell(f"under load everywhere: {found / due:.3f} of rate * t")
        at_least(found, due - 2 if least is None else least * due)


@pytest.mark.clock(only=Late)
async def test_while_redis_is_gone_each_admits_its_share_and_afterwards_all_is_exact_again(
    tmp_path: Path, server: Server
) -> None:
    rate, burst, gone = 100, 50, 10.0
    async with fleet(tmp_path, server.url, limited(f"{rate}/s", burst)) as here:
        loads = await offered(here, 18.0, 60, 150, 400)
        await asyncio.sleep(3.0)
        server.suspend()
        left = time.monotonic()
        await asyncio.sleep(gone)
        server.resume()
        back = time.monotonic()
        answered = await taken(loads)
        samples, (_, last) = list(chain(*answered)), together(answered)
        without, after = admitted(samples, left, back), admitted(samples, back + 2.0, last)
        told = Counter(s.status for s in samples)
        tell(
            f"without Redis {without / (rate * (back - left)):.2f} of the limit; then {after / (last - back - 2):.1f}/s"
        )
        assert told.keys() == {200, 429}
        assert without <= 1.2 * rate * (back - left)
        assert after <= rate * (last - back - 2.0 + 2 * MARGIN) + burst
        at_least(without, 0.5 * rate * (back - left))  # it is no outage
        at_least(after, 0.97 * rate * (last - back - 2.0 - 2 * MARGIN))
