"""One tag on a hundred thousand entries: to invalidate it costs hardly more than to ask for nothing."""

import asyncio
import gc
import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import Final

import pytest

from proxy.app import App
from proxy.config.vocabulary import Address
from proxy.flow.explain import Explainer
from proxy.flow.explanation import Act
from proxy.rules.message import Entry, Fwd
from proxy.rules.policy import Policy
from proxy.rules.routes import Match, Route
from proxy.rules.wire import parse_request
from proxy.settings import Admin, Settings, Shutdown
from proxy.settings import Upstream as UpstreamSettings
from tests.e2e.harness import HOST, ask, request
from tests.e2e.process import Late, free_port, in_time
from tests.e2e.stream import Stream
from tests.e2e.upstream import Upstream, replies
from tests.fleet.harness import tell

ENTRIES: Final = 100_000
ROUNDS: Final = 7
EXPLAINED: Final = 1_000
ASKED: Final = 50
LIMIT: Final = 0.020  # seconds
AROUND: Final = 0.020  # seconds for which the loop is watched before and behind
TAGS: Final = [f"tag-{number}" for number in range(ROUNDS)]
FRESH: Final = "Cache-Control: max-age=600"


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was before an instance in this process has told it to let entries be."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@dataclass
class Storm:
    """An instance, full."""

    app: App
    upstream: Upstream
    clients: Stream
    admin: Stream

    async def invalidate(self, *tags: str) -> float:
        """Seconds to the answer. Without any tag it is the control: read and answered like others, and nothing done."""
        body = json.dumps({"tags": tags}).encode()
        fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
        began = perf_counter()
        response = await ask(
            self.admin, request("/invalidate?wait=1s", *fields, method="POST", host="localhost") + body
        )
        assert response.status == (200 if tags else 400), response
        return perf_counter() - began

    def holds(self, number: int) -> bool:
        """Whether a plain request would be answered at once."""
        return self.app.memory.fresh(f"http://{HOST}/many/{number}", {}, self.app.clock.now()) is not None

    def fill(self, like: Entry) -> None:
        """All that has the tags, and half as much that has none."""
        seq, now = self.app.log.position, self.app.clock.now()
        terms = replace(like.terms, tags=("other",))
        for number in range(ENTRIES):
            entry = replace(like, key=f"http://{HOST}/many/{number}", seq=seq, stored_at=now)
            assert self.app.memory.put(entry)
            if number % 2:
                assert self.app.memory.put(replace(entry, key=f"http://{HOST}/other/{number}", terms=terms))


@pytest.fixture
async def storm(collector: None) -> AsyncIterator[Storm]:  # noqa: ARG001 - it must be undone last
    upstream = await Upstream.start()
    upstream.on("/many/*", replies("x" * 500, FRESH, f"Surrogate-Key: {' '.join(TAGS)}"))
    upstream.on("/other/*", replies("x", FRESH))
    listen, admin = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    app = App(
        Settings(
            upstreams={"up": UpstreamSettings("up", f"http://127.0.0.1:{upstream.port}")},
            routes=(Route("all", Match(), "up", Policy()),),
            listen=listen,
            admin=Admin(admin),
            access_log=False,
            shutdown=Shutdown(0.0, 5.0),
            memory_max_size=512 << 20,
        )
    )
    await app.start()
    try:
        here = Storm(app, upstream, await Stream.open(listen.port), await Stream.open(admin.port))
        assert (await ask(here.clients, request("/many/0"))).stored
        (variant,) = app.memory.variants(f"http://{HOST}/many/0")
        here.fill(variant.entry)
        gc.collect()  # what was just stored would be walked once in any case, and frozen; not in between
        yield here
        here.clients.close()
        here.admin.close()
    finally:
        await app.close()
        await upstream.kill()


async def _tick(gaps: list[float]) -> None:
    """The time between two turns of the loop, again and again."""
    before = perf_counter()  # the loop's own time is in milliseconds
    while True:
        await asyncio.sleep(0)
        gaps.append(perf_counter() - before)
        before += gaps[-1]


async def _watched(storm: Storm, *tags: str) -> tuple[float, float]:
    """Seconds that an invalidation took, and for which the loop stood still around it."""
    gaps: list[float] = []
    ticking = asyncio.create_task(_tick(gaps))
    await asyncio.sleep(AROUND)
    took = await storm.invalidate(*tags)
    await asyncio.sleep(AROUND)
    ticking.cancel()
    assert len(gaps) > 3, "the loop was watched"
    return took, max(gaps)


@pytest.mark.clock(only=Late)
async def test_a_tag_on_a_hundred_thousand_entries_goes_without_a_stall(storm: Storm) -> None:
    chance = random.Random(5)
    assert storm.app.memory.count == ENTRIES * 3 // 2
    assert all(storm.holds(number) for number in chance.sample(range(ENTRIES), EXPLAINED))
    for number in chance.sample(range(ENTRIES), ASKED):
        assert (await ask(storm.clients, request(f"/many/{number}"))).hit
    seen = len(storm.upstream.calls)
    assert seen == 1

    pairs = [(await _watched(storm), await _watched(storm, tag)) for tag in TAGS]
    takes, stalls = ([(control[i], real[i]) for control, real in pairs] for i in (0, 1))
    for what, found in (("answered", takes), ("longest stall", stalls)):
        control, real = (median(one[i] for one in found) * 1e3 for i in (0, 1))
        worst = max(one[1] for one in found) * 1e3
        tell(f"{what}: {real:.2f} ms (median; worst {worst:.2f} ms), control {control:.2f} ms")
    assert storm.app.memory.count == ENTRIES * 3 // 2, "nothing was searched"

    app = storm.app
    explainer = Explainer(lambda: app.exchange.site, app.memory, app.log, app.flights, app.clock.now, shared=False)
    for number in chance.sample(range(ENTRIES), EXPLAINED):
        asked = parse_request(request(f"/many/{number}"), "http", trusted=False, max_headers=10)
        answer = explainer.explain(asked).answer
        assert (answer.act, answer.fwd, answer.validates, answer.bridged) == (Act.FETCH, Fwd.URI_MISS, False, False)
    for number in chance.sample(range(ENTRIES), ASKED):
        assert (await ask(storm.clients, request(f"/many/{number}"))).cache.startswith("readthrough; fwd=uri-miss")
        other = number | 1
        assert (await ask(storm.clients, request(f"/other/{other}"))).hit
    assert len(storm.upstream.calls) == seen + ASKED
    fetched = {int(call.path.rpartition("/")[2]) for call in storm.upstream.calls[1:]}
    assert {number for number in range(ENTRIES) if storm.holds(number)} == fetched
    for found in (takes, stalls):
        control, real = (median(one[i] for one in found) for i in (0, 1))
        in_time(real - control, LIMIT)
