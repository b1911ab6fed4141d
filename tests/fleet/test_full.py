"""A Redis whose memory is full: clients notice nothing, and purging goes on."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.e2e.process import eventually
from tests.e2e.upstream import Call
from tests.fleet.harness import Fleet, Versions, fleet, in_step
from tests.redis_servers import single

pytestmark = pytest.mark.asyncio(loop_scope="function")

LARGE = 200 << 10


def _incompressible(here: Fleet) -> None:
    async def handler(call: Call) -> None:
        call.answer(os.urandom(LARGE), "Cache-Control: max-age=600")

    here.upstream.on("/large/*", handler)


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
async def test_nobody_notices_and_purging_goes_on(tmp_path: Path, policy: str) -> None:
    with single({"maxmemory": "24mb", "maxmemory-policy": policy}) as server:
        async with fleet(tmp_path, server.url, {"memory": {"max_size": "8MiB"}}) as here:
            _incompressible(here)
            versions = Versions(here.upstream)
            paths = [f"/p/{number}" for number in range(50)]
            for path in paths:
                versions.add(path)
                await here.in_turn(path)
            assert (await here[0].invalidate(urls=["/first"])).status == 200
            written = await asyncio.to_thread(server.ask, "XLEN", "{rt}:log")

            for number in range(0, 300, 10):
                got = await asyncio.gather(*(here[n % 3].get(f"/large/{n}") for n in range(number, number + 10)))
                assert {r.status for r in got} == {200}
                assert {len(r.body) for r in got} == {LARGE}
            await _is_full(server.info, policy)

            for path in paths:
                versions.change(path)
                assert (await here[1].invalidate(urls=[path])).status == 200
                assert {r.text for r in await here.in_turn(path)} == {"2"}
            got = await asyncio.gather(*(here[n % 3].get(f"/large/{n}") for n in range(300, 330)))
            assert {r.status for r in got} == {200}
            assert await asyncio.to_thread(server.ask, "XLEN", "{rt}:log") >= written + len(paths)
            for one in here.instances:
                await eventually(lambda one=one: in_step(here, one), "it is in step")  # type: ignore[misc]


async def _is_full(info: object, policy: str) -> None:
    """The fault is there: something was refused, or thrown out."""
    assert callable(info)
    if policy == "noeviction":
        errors = await asyncio.to_thread(info, "errorstats")
        assert any("OOM" in name for name in errors), errors
    else:
        assert int((await asyncio.to_thread(info, "stats"))["evicted_keys"]) > 50


async def test_a_log_that_was_evicted_is_another_log(tmp_path: Path) -> None:
    """Under allkeys-lru, which the documentation warns of, losing the log costs revalidation and no truth."""
    with single({"maxmemory": "24mb", "maxmemory-policy": "noeviction"}) as server:
        async with fleet(tmp_path, server.url) as here:
            versions = Versions(here.upstream)
            paths = [f"/p/{number}" for number in range(20)]
            for path in paths:
                versions.add(path)
                await here.in_turn(path)
            await asyncio.to_thread(server.ask, "DEL", "{rt}:log")
            for path in paths:
                versions.change(path)
            assert (await here[0].invalidate(urls=paths)).status in (200, 202)
            await here.joined()
            assert [{r.text for r in await here.in_turn(path)} for path in paths] == [{"2"}] * 20
            await asyncio.to_thread(server.ask, "DEL", "{rt}:meta")
            for path in paths:
                versions.change(path)
            assert (await here[0].invalidate(urls=paths)).status in (200, 202)
            await here.joined()
            assert [{r.text for r in await here.in_turn(path)} for path in paths] == [{"3"}] * 20
