"""However many ask, and whatever becomes of Redis or of the instance that fetches: the upstream is asked once or so."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.harness import Response, receive, request
from tests.e2e.process import Late, eventually, in_time
from tests.e2e.stream import Cut, Stream
from tests.e2e.upstream import Call
from tests.fleet.harness import LEASE, Fleet, Instance, fleet, tell
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="function")

CROWD = 3000
UPSTREAM = 1.0  # seconds that it takes
BODY = bytes(range(256)) * 16
CONFIG = {
    "limits": {"header_timeout": "60s"},  # a crowd is connected for a while before it asks
    "upstreams": {"origin": {"max_connections": 2048, "timeout": "30s"}},
}


def _slow(here: Fleet, path: str) -> None:
    async def handler(call: Call) -> None:
        await asyncio.sleep(UPSTREAM)
        call.answer(BODY, "Cache-Control: max-age=60")

    here.upstream.on(path, handler)


async def _crowd(here: Fleet, path: str) -> float:
    """So many at once for one key; seconds until the last was answered. Every answer must be whole."""
    _slow(here, path)
    responses, started = await here.at_once([request(path)] * CROWD)
    assert {r.status for r in responses} == {200}
    assert {r.body for r in responses} == {BODY}
    return max(r.at for r in responses) - started


async def test_three_thousand_requests_for_a_cold_key_are_one_upstream_request(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        took = await _crowd(here, "/cold")
        tell(f"{CROWD} requests over 3 instances: {took:.2f} s, upstream asked {here.upstream.count('/cold')} times")
        assert here.upstream.count("/cold") == 1


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("fault", ["suspended", "killed"])
async def test_without_redis_they_are_at_most_one_for_each_instance(tmp_path: Path, server: Server, fault: str) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        control = await _crowd(here, "/before")
        assert here.upstream.count("/before") == 1
        await asyncio.to_thread(server.suspend if fault == "suspended" else server.kill)
        took = await _crowd(here, "/cold")
        tell(f"Redis {fault}: {took:.2f} s ({control:.2f} with it), asked {here.upstream.count('/cold')} times")
        assert 1 < here.upstream.count("/cold") <= 3  # more than one: the fault was there
        if fault == "suspended":
            await asyncio.to_thread(server.resume)
        in_time(took, 2 * control)


@pytest.mark.clock(only=Late)
async def test_the_death_of_who_fetches_costs_one_lease_time(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        holder, *living = here.instances
        _slow(here, "/control")
        responses, started = await here.at_once([request("/control")] * (CROWD // 3 * 2), living)
        overhead = max(r.at for r in responses) - started - UPSTREAM

        gate = asyncio.Event()

        async def handler(call: Call) -> None:
            if here.upstream.count("/orphan") == 1:
                await gate.wait()
            else:
                await asyncio.sleep(UPSTREAM)
            call.answer(BODY, "Cache-Control: max-age=60")

        here.upstream.on("/orphan", handler)
        leader = await holder.connect()
        leader.write(request("/orphan"))
        await eventually(lambda: here.upstream.count("/orphan") == 1, "the holder fetches")
        lost = await holder.crowd(CROWD // 3)
        streams = [stream for one in living for stream in await one.crowd(CROWD // 3)]
        for stream in (*lost, *streams):
            stream.write(request("/orphan"))
        waiting = [asyncio.create_task(receive(stream)) for stream in streams]
        await _read(living)
        assert here.upstream.count("/orphan") == 1  # they wait for the holder
        assert not any(task.done() for task in waiting)

        killed = asyncio.get_running_loop().time()
        await holder.kill()
        responses = await asyncio.gather(*waiting)
        took = max(r.at for r in responses) - killed
        gate.set()
        asked = here.upstream.count("/orphan")
        tell(f"holder killed: the others answered within {took:.2f} s ({overhead:.2f} s of that is the crowd)")
        assert {r.body for r in responses} == {BODY}
        assert asked == 2
        for stream in (leader, *lost, *streams):
            stream.close()
        in_time(took, LEASE + UPSTREAM + 2 * overhead + 0.2)


async def _read(instances: list[Instance]) -> None:
    """Until they have read what came before this: what is answered at once, asked after it, is answered."""
    for one in instances:
        for _ in range(CROWD // 3 // 25):
            assert (await one.get("/not-there")).status == 404


async def test_a_refresh_of_something_stale_is_one_upstream_request_too(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        gate = asyncio.Event()

        async def handler(call: Call) -> None:
            number = here.upstream.count("/stale")
            if number > 1:
                await gate.wait()
            call.answer(str(number), f"Cache-Control: max-age={1 if number == 1 else 60}, stale-while-revalidate=60")

        here.upstream.on("/stale", handler)
        assert {r.text for r in await here.in_turn("/stale")} == {"1"}
        await asyncio.sleep(1.1)
        for _ in range(3):
            assert {r.text for r in await here.everywhere("/stale")} == {"1"}
        await eventually(lambda: here.upstream.count("/stale") == 2, "one of them refreshes it")
        assert {r.text for r in await here.everywhere("/stale")} == {"1"}
        gate.set()
        await eventually(lambda: _all_say(here, "/stale", "2"), "everybody has the new one")
        assert here.upstream.count("/stale") == 2


async def _all_say(here: Fleet, path: str, text: str) -> bool:
    return {r.text for r in await here.everywhere(path)} >= {text}


async def test_a_reset_client_does_not_take_the_fetch_of_the_fleet_down(tmp_path: Path, server: Server) -> None:
    async with fleet(tmp_path, server.url, CONFIG) as here:
        gate = asyncio.Event()

        async def handler(call: Call) -> None:
            await gate.wait()
            call.answer("kept", "Cache-Control: max-age=60")

        here.upstream.on("/left", handler)
        leader = await here[0].connect()
        leader.write(request("/left"))
        await eventually(lambda: here.upstream.count("/left") == 1, "it is asked for")
        waiting = [asyncio.create_task(one.get("/left")) for one in here.instances[1:]]
        leader.reset()
        await asyncio.sleep(LEASE * 1.5)  # longer than a lease that nobody renews
        gate.set()
        assert {(await task).text for task in waiting} == {"kept"}
        assert here.upstream.count("/left") == 1


async def test_an_upstream_that_dies_under_the_holder_is_an_error_for_nobody_twice(
    tmp_path: Path, server: Server
) -> None:
    """Its connection is cut in mid-body: nothing is stored, those who wait elsewhere are told at once."""
    async with fleet(tmp_path, server.url, CONFIG) as here:

        async def handler(call: Call) -> None:
            if here.upstream.count("/cut") == 1:
                call.write(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nhalf")
                await asyncio.sleep(0.3)
                call.stream.reset()
            else:
                call.answer("whole", "Cache-Control: max-age=60")

        here.upstream.on("/cut", handler)
        first = asyncio.create_task(_outcome(here[0]))
        await eventually(lambda: here.upstream.count("/cut") == 1, "it is asked for")
        others = await asyncio.gather(*(_outcome(one) for one in here.instances[1:]))
        assert isinstance(await first, Cut)
        for other in others:
            assert isinstance(other, Response)
            assert (other.status, other.text) == (200, "whole") or other.status == 502
        assert {r.text for r in await here.in_turn("/cut")} == {"whole"}


async def _outcome(one: Instance) -> Response | Cut:
    stream: Stream = await one.connect()
    try:
        stream.write(request("/cut"))
        return await receive(stream)
    except Cut as cut:
        return cut
    finally:
        stream.close()
