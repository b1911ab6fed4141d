"""Clients that leave at any moment leave nothing behind."""

import asyncio
from hashlib import sha256
from random import Random

import pytest

from tests.e2e.harness import Site, receive, request
from tests.e2e.process import eventually
from tests.e2e.stream import Cut
from tests.e2e.upstream import Call, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 300


def _body(path: str) -> bytes:
    return sha256(path.encode()).digest() * 4096  # 128 KiB that say whose they are


@pytest.mark.parametrize("seed", range(4))
async def test_half_of_three_hundred_leave_and_nothing_leaks(here: Site, seed: int) -> None:
    random = Random(seed)
    await here.get("/warm-up", "Connection: close")
    idle = await _descriptors(here)
    gates = [asyncio.Event() for _ in range(3)]  # before the head, in mid-body, before the end

    async def handler(call: Call) -> None:
        body = _body(call.path)
        control = random.choice(["max-age=60", "max-age=60", "no-store", "private"])
        await gates[0].wait()
        call.write(head(f"Content-Length: {len(body)}", f"Cache-Control: {control}", "Connection: close"))
        await call.stream.send(body[:50_000])
        await gates[1].wait()
        await call.stream.send(body[50_000:100_000])
        await gates[2].wait()
        await call.stream.send(body[100_000:])
        call.stream.close()

    paths = [f"/{seed}/{random.randrange(60)}" for _ in range(CROWD)]
    for path in set(paths):
        here.upstream.on(path, handler)
    streams = await here.crowd(CROWD)
    leavers = random.sample(range(CROWD), CROWD // 2)
    for stream, path in zip(streams, paths, strict=True):
        stream.write(request(path))
    stayers = [i for i in range(CROWD) if i not in set(leavers)]
    answers = [asyncio.create_task(receive(streams[i])) for i in stayers]
    await eventually(lambda: len({c.path for c in here.upstream.calls} & set(paths)) == len(set(paths)), "all asked")
    for phase in range(4):
        for i in leavers[phase::4]:
            streams[i].reset() if random.random() < 0.5 else streams[i].close()
        if phase < 3:
            gates[phase].set()
            for _ in range(5):
                await here.get("/not-there")

    for i, answer in zip(stayers, answers, strict=True):
        response = await answer
        assert response.status == 200
        assert response.body == _body(paths[i])
    for stream in streams:
        stream.close()
    await eventually(lambda: not _working(here, paths), "upstream connections are given back")
    await eventually(lambda: here.proxy.fds() - len(here.upstream.streams) <= idle, "descriptors are closed")


async def _descriptors(here: Site) -> int:
    """What the proxy holds open beside upstream connections, once that no longer changes."""
    seen: list[int] = []
    while len(seen) < 5 or len(set(seen[-5:])) > 1:
        seen.append(here.proxy.fds() - len(here.upstream.streams))
        await asyncio.sleep(0.02)
    return seen[-1]


def _working(here: Site, paths: list[str]) -> bool:
    return any(call.stream in here.upstream.streams for call in here.upstream.calls if call.path in paths)


async def test_an_upstream_is_left_alone_once_nobody_wants_its_answer(here: Site) -> None:
    async def endless(call: Call) -> None:
        call.write(head("Cache-Control: no-store", "Transfer-Encoding: chunked"))
        while call.stream.end is None:
            await call.stream.send(b"4\r\ntick\r\n")
            await asyncio.sleep(0.01)
        raise Cut(call.stream.end, b"")

    here.upstream.on("/endless", endless)
    stream = await here.connect()
    stream.write(request("/endless"))
    await stream.until(b"tick")
    working = here.upstream.seen("/endless")[0].stream
    stream.reset()
    await eventually(lambda: working.end is not None, "the proxy leaves the upstream")
