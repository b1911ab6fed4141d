"""The upstream client's connections after a 101."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import pytest

from proxy.flow.ports import Call, OriginError
from tests.edges.scripted import HOST, OK, Case, Peer, ask, cases, client, get, once, replies, settled, upstream

UPGRADE: Final = (*HOST, ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "x"))
SWITCH: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: 1\r\n\r\n"


async def test_after_a_101_bytes_go_both_ways_and_the_early_ones_are_not_lost() -> None:
    for early in (b"", b"early", b"e" * 300_000):

        async def script(peer: Peer, _: int, *, early: bytes = early) -> None:
            head = await peer.head()
            assert head == b"GET /ws HTTP/1.1\r\n" + b"".join(f"{n}: {v}\r\n".encode() for n, v in UPGRADE) + b"\r\n"
            await peer.send(SWITCH + early)
            while data := await peer.reader.read(1000):
                await peer.send(data)
                if data.endswith(b"bye"):
                    peer.fin()
                    return

        async with upstream(script) as up, client(up.url) as origin:
            answer = await origin.fetch(get("/ws", UPGRADE, upgrade=True))
            assert answer.head.status == 101
            assert answer.length == 0
            assert answer.head.headers == (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("X", "1"))
            await asyncio.sleep(0.02)
            tunnel = answer.tunnel()
            got = b""
            while len(got) < len(early):
                got += await tunnel.read()
            assert got == early
            for word in (b"hello", b"bye"):
                await tunnel.write(word)
                assert await tunnel.read() == word
            assert await tunnel.read() == b""
            assert await tunnel.read() == b""
            with pytest.raises(OriginError):
                await tunnel.write(b"x")
            tunnel.close()
            answer.close()


async def test_a_body_that_never_came_is_not_waited_for_behind_a_tunnel() -> None:
    given_up = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            given_up.set()

    async with upstream(once(SWITCH)) as up, client(up.url) as origin:
        answer = await origin.fetch(Call("GET", "/ws", (*UPGRADE, ("Content-Length", "10")), body(), 10, upgrade=True))
        assert answer.head.status == 101
        answer.tunnel().close()
        answer.close()
        await given_up.wait()


async def test_a_tunnel_closed_here_delivers_what_was_written() -> None:
    got: list[bytes] = []
    gate = asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(SWITCH)
        await gate.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got.append(await peer.rest())

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get("/ws", UPGRADE, upgrade=True))
        tunnel = answer.tunnel()
        written = 0
        with contextlib.suppress(TimeoutError):
            while True:
                written += 10_000
                await asyncio.wait_for(tunnel.write(b"x" * 10_000), 0.2)
        tunnel.close()
        answer.close()
        gate.set()
        await settled(lambda: len(got) == 1)
        assert len(got[0]) == written


async def test_a_tunnel_waits_for_whoever_does_not_read() -> None:
    sent = written = 0
    stuck, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(SWITCH)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(512):
            peer.writer.write(b"x" * 65536)
            sent += 65536
            try:
                await asyncio.wait_for(peer.writer.drain(), 0.3)
            except TimeoutError:
                stuck.set()
                await peer.writer.drain()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await peer.reader.readexactly(32 << 20)) == 32 << 20
        go_on.set()
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get("/ws", UPGRADE, upgrade=True))
        tunnel = answer.tunnel()

        async def write() -> None:
            nonlocal written
            for _ in range(512):
                await tunnel.write(b"y" * 65536)
                written += 65536

        writing = asyncio.create_task(write())
        await stuck.wait()
        assert sent < 12 << 20
        assert written < 12 << 20
        received = 0
        while received < 32 << 20:
            received += len(await tunnel.read())
        await writing
        await go_on.wait()
        tunnel.close()
        assert await tunnel.read() == b""
        answer.close()


async def test_a_tunnel_ends_when_the_upstream_resets_it() -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(SWITCH)
        await gate.wait()
        peer.rst()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get("/ws", UPGRADE, upgrade=True))
        tunnel = answer.tunnel()
        gate.set()
        assert await tunnel.read() == b""
        answer.close()


async def test_a_tunnel_that_was_over_before_it_was_asked_for_still_has_its_bytes_or_ends() -> None:
    async with upstream(once(SWITCH + b"last words", Peer.fin)) as up, client(up.url) as origin:
        answer = await origin.fetch(get("/ws", UPGRADE, upgrade=True))
        await asyncio.sleep(0.05)
        tunnel = answer.tunnel()
        assert await tunnel.read() == b"last words"
        assert await tunnel.read() == b""
        answer.close()


async def test_an_upgrade_that_is_declined_is_an_ordinary_answer() -> None:
    async with upstream(replies(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", OK)) as up, client(up.url) as origin:
        assert await ask(origin, get("/ws", UPGRADE, upgrade=True)) == (403, b"no")
        assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 1


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.__name__)
def test_on_the_loop_of_the_standard_library(case: Case) -> None:
    asyncio.run(case())
