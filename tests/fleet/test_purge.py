"""What everybody has acknowledged is gone everywhere, however it raced a fetch."""

import asyncio
import json
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.e2e.harness import HOST, Response
from tests.e2e.process import Late, eventually, in_time, timed
from tests.fleet.harness import Fleet, Versions, tell
from tests.fleet.load import percentile

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"upstreams": {"origin": {"max_connections": 512}}}
ROUNDS = 1000
HEARD = 2.0  # seconds within which everybody has
_numbers = count(1)
WAYS: tuple[Callable[[str], dict[str, Any]], ...] = (
    lambda path: {"urls": [f"http://{HOST}{path}"]},
    lambda path: {"urls": [path]},
    lambda path: {"prefixes": [path.rpartition("/")[0]]},
    lambda _: {"tags": ["racing"]},
    lambda _: {"hosts": [HOST]},
    lambda _: {"all": True},
)


async def test_a_purge_that_everybody_has_acknowledged_leaves_no_older_body(here: Fleet) -> None:
    chance = random.Random(4)
    versions = Versions(here.upstream)
    versions.pauses = lambda: (chance.uniform(0, 0.006), chance.uniform(0, 0.006))
    took: list[float] = []
    raced = old = unsure = 0
    loop = asyncio.get_running_loop()
    for number in range(ROUNDS):
        path = f"/race/{number}/it"
        versions.add(path, "Surrogate-Key: other racing")
        purging, fetching, third = chance.sample(here.instances, 3)
        await asyncio.sleep(chance.uniform(0, 0.002))
        fetch = asyncio.create_task(fetching.get(path))
        await asyncio.sleep(chance.uniform(0, 0.012))
        version = versions.change(path)
        raced += not fetch.done()
        asked = loop.time()
        answer = await purging.invalidate(**WAYS[number % len(WAYS)](path))
        took.append(loop.time() - asked)
        assert answer.status in (200, 202), f"round {number}: {answer}"
        if answer.status == 202:  # where Redis gets no processor in time nobody can say who has acknowledged it
            unsure += 1
            await fetch
            continue
        seen = await asyncio.gather(*(one.get(path) for one in (third, fetching, purging)))
        assert {r.text for r in seen} == {str(version)}, f"round {number}, {path}"
        old += (await fetch).text == str(version - 1)
        unsure += here.upstream.count(path) > 3  # nor is there anybody to be asked before the upstream then
    median, most = percentile(took, 0.5), percentile(took, 0.99)
    tell(f"{ROUNDS} purges, {raced} of them while the fetch was in the air, {old} of what had changed")
    tell(f"acknowledged by all within {median * 1e3:.1f} ms (median), {most * 1e3:.1f} ms (p99)")
    assert unsure < ROUNDS / 50
    assert raced > ROUNDS / 10
    assert old > ROUNDS / 10  # it was the older body that was on its way


async def test_a_soft_purge_reaches_everybody_too(here: Fleet) -> None:
    versions = Versions(here.upstream)
    versions.add("/soft")
    assert {r.text for r in await here.in_turn("/soft")} == {"1"}
    assert here.upstream.count("/soft") == 1
    await asyncio.sleep(0.2)  # what came within a tenth of a second cannot be told apart by age
    versions.change("/soft")
    assert (await here[0].invalidate(urls=["/soft"], soft=True)).status == 200
    assert {r.text for r in await here.in_turn("/soft")} == {"2"}
    assert here.upstream.count("/soft") == 2
    assert versions.conditional["/soft"] == 1


async def test_every_variant_of_a_url_goes(here: Fleet) -> None:
    versions = Versions(here.upstream, "Vary: Accept-Language")
    versions.add("/variants")
    languages = [f"Accept-Language: {name}" for name in ("en", "de", "fr")]
    for language in languages:
        assert {r.text for r in await here.in_turn("/variants", language)} == {"1"}
    versions.change("/variants")
    assert (await here[1].invalidate(urls=["/variants"])).status == 200
    for language in languages:
        assert {r.text for r in await here.in_turn("/variants", language)} == {"2"}


async def test_a_purge_leaves_its_neighbours_alone(here: Fleet) -> None:
    versions = Versions(here.upstream)
    neighbours = ["/town/a", "/town/ab", "/town2", "/town/a/b"]
    for path in neighbours:
        versions.add(path, f"Surrogate-Key: {path}")
        assert {r.text for r in await here.in_turn(path)} == {"1"}
        versions.change(path)
    assert (await here[0].invalidate(urls=["/town/ab"], tags=["/town2"], prefixes=["/town/a"])).status == 200
    texts = {path: {r.text for r in await here.in_turn(path)} for path in neighbours}
    assert texts == {"/town/a": {"2"}, "/town/ab": {"2"}, "/town2": {"2"}, "/town/a/b": {"2"}}
    for path in neighbours:
        versions.change(path)
    assert (await here[0].invalidate(prefixes=["/town/a"])).status == 200
    texts = {path: {r.text for r in await here.in_turn(path)} for path in neighbours}
    assert texts == {"/town/a": {"3"}, "/town/ab": {"2"}, "/town2": {"2"}, "/town/a/b": {"3"}}


@pytest.mark.clock(only=Late)
async def test_an_unsafe_request_through_one_is_seen_by_all(here: Fleet) -> None:
    """RFC 9111 section 4.4, for the whole fleet."""
    path, versions = f"/order/{next(_numbers)}", Versions(here.upstream)
    versions.add(path)
    assert {r.text for r in await here.in_turn(path)} == {"1"}
    version = versions.change(path)
    assert (await here[0].get(path, method="DELETE")).status == 200
    assert (await here[0].get(path)).text == str(version)
    heard = eventually(lambda: _all_say(here, path, str(version)), "everybody has heard of it")
    in_time((await timed(heard))[1], HEARD)


async def _all_say(here: Fleet, path: str, text: str) -> bool:
    return {r.text for r in await here.in_turn(path)} == {text}


@pytest.mark.clock(only=Late)
async def test_an_account_names_everybody_and_how_long_it_took(here: Fleet) -> None:
    answer = await here[0].invalidate(urls=["/account"])
    batch, slowest = _document(answer)["id"], 0.0
    for one in here.instances:
        account = await one.call(f"/invalidations/{batch}")
        assert account.status == 200, account
        document = _document(account)
        assert not document.get("pending"), document
        assert len(document["applied"]) == len(here.instances), document
        assert all(took >= 0 for took in document["applied"].values()), document
        slowest = max(slowest, *document["applied"].values())
    assert (await here[0].call("/invalidations/unknown")).status == 404
    in_time(slowest / 1e3, HEARD)


def _document(response: Response) -> Any:  # noqa: ANN401 - JSON
    return json.loads(response.body)
