"""Several processes on one port are one cache."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import request
from tests.e2e.process import eventually
from tests.e2e.stream import Cut
from tests.e2e.upstream import Call
from tests.fleet.harness import Fleet, Versions, fleet
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

CONFIG = {"workers": 2, "upstreams": {"origin": {"max_connections": 1024}}}
CROWD = 400


async def _served(here: Fleet) -> None:
    """Until both processes answer: a connection goes to either, so one key is answered by both memories."""
    await eventually(lambda: len(_workers(here)) == 2, "both run")


def _workers(here: Fleet) -> list[int]:
    pid = here[0].proxy.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if _is_worker(child)]


def _is_worker(process: str) -> bool:
    try:
        return b"resource_tracker" not in Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
        return False


async def test_a_cold_key_over_many_connections_is_one_upstream_request(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG, size=1, join=False) as here:
        await _served(here)

        async def slow(call: Call) -> None:
            await asyncio.sleep(0.5)
            call.answer(call.path, "Cache-Control: max-age=60")

        for path in ("/one", "/two", "/three"):
            here.upstream.on(path, slow)
            responses, _ = await here.at_once([request(path)] * CROWD)
            assert {r.text for r in responses} == {path}
            assert here.upstream.count(path) == 1
            # One leads, the others in its process follow it; those in the other one got it from the store.
            assert sum("collapsed" in r.cache for r in responses) < CROWD - 1


async def test_a_purge_reaches_both(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG, size=1, join=False) as here:
        await _served(here)
        versions = Versions(here.upstream)
        versions.add("/a")
        for _ in range(50):
            responses, _ = await here.at_once([request("/a")] * 20)
            assert {r.text for r in responses} == {str(versions.now("/a"))}
            versions.change("/a")
            assert (await here[0].invalidate(urls=["/a"])).status == 200


async def test_a_worker_that_dies_is_replaced_and_the_port_stays(tmp_path: Path, server: Server) -> None:
    over = {**CONFIG, "redis": {"max_blind": "1s"}}  # for so long the dead one is waited for
    async with fleet(tmp_path, server.url, over, size=1, join=False) as here:
        await _served(here)
        versions = Versions(here.upstream)
        versions.add("/a")
        await here[0].get("/a")
        before = _workers(here)
        os.kill(before[0], signal.SIGKILL)
        await eventually(lambda: len(_workers(here)) == 2 and before[0] not in _workers(here), "it is replaced")
        await eventually(lambda: _purges(here, versions), "the fleet is whole")
        assert here.upstream.count("/a") >= 2


async def _purges(here: Fleet, versions: Versions) -> bool:
    try:
        await here[0].get("/a")
        versions.change("/a")
        if (await here[0].invalidate("2s", urls=["/a"])).status != 200:
            return False
        responses, _ = await here.at_once([request("/a")] * 20)
    except (OSError, Cut):
        return False
    return {r.text for r in responses} == {str(versions.now("/a"))}
