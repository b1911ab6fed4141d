"""One large body, many readers, bounded memory."""

import asyncio
import socket
from random import Random
from typing import cast

import pytest

from tests.e2e.harness import Site, receive, request
from tests.e2e.stream import parse_head
from tests.e2e.upstream import Call, head

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
CONFIG = {
    "memory": {"max_size": "256MiB"},
    "limits": {"body_timeout": "120s", "write_timeout": "120s", "flight_memory": "128MiB"},
    "defaults": {"cache": {"max_object_size": "64MiB"}},
}
BODY = Random(1).randbytes(50 * MIB)


class Follower(asyncio.Protocol):
    """Compares what it reads with the body as it comes, and rests at `rest_at` bytes until `go`."""

    def __init__(self, body: bytes, rest_at: int) -> None:
        self._body, self._rest_at = body, rest_at
        self._head = b""
        self.first, self.done, self.resting = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.position, self.right = 0, True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self.first.is_set():
            raw, mark, data = (self._head + data).partition(b"\r\n\r\n")
            if not mark:
                self._head = raw
                return
            assert parse_head(raw + mark)["content-length"] == str(len(self._body))
            if not data:
                self._head = raw + mark
                return
            self.first.set()
        self.right = self.right and self._body.startswith(data, self.position)
        self.position += len(data)
        if self.position >= len(self._body):
            self.done.set()
        elif self._rest_at and self.position >= self._rest_at:
            self._rest_at = 0
            self.transport.pause_reading()
            self.resting.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.done.set()

    def go(self) -> None:
        self.transport.resume_reading()


async def _follow(here: Site, path: str, rest_at: int) -> Follower:
    loop = asyncio.get_running_loop()
    transport, follower = await loop.create_connection(lambda: Follower(BODY, rest_at), "127.0.0.1", here.port)
    transport.write(request(path))
    return follower


async def test_two_hundred_followers_at_different_speeds_read_one_large_fetch(here: Site) -> None:
    gate = asyncio.Event()

    async def large(call: Call) -> None:
        call.write(head(f"Content-Length: {len(BODY)}", "Cache-Control: max-age=600"))
        await call.stream.send(BODY[: 10 * MIB])
        await gate.wait()
        for at in range(10 * MIB, len(BODY), MIB):
            await call.stream.send(BODY[at : at + MIB])

    here.upstream.on("/large", large)
    await here.get("/warm-up")
    here.proxy.forget_peak()
    before = here.proxy.memory()

    # A third, with the one that came first, pauses after the first megabytes, a third half-way.
    followers = [await _follow(here, "/large", (2 * MIB, 25 * MIB, 0)[i % 3]) for i in range(201)]
    async with asyncio.timeout(60):
        for follower in followers:
            await follower.first.wait()
    assert not gate.is_set()  # the first byte is with everybody, the last has not left the upstream
    gate.set()
    for third in (2, 1, 0):
        async with asyncio.timeout(90):
            for follower in followers[third::3] if third < 2 else ():
                await follower.resting.wait()
                follower.go()
            for follower in followers[third::3]:
                await follower.done.wait()
    peak = here.proxy.peak()
    for follower in followers:
        follower.transport.close()

    assert all(follower.right and follower.position == len(BODY) for follower in followers)
    assert here.upstream.count("/large") == 1
    assert (peak - before) / MIB < 150
    again = await here.get("/large", "Range: bytes=1000-1999")
    assert (again.status, again.body) == (206, BODY[1000:2000])
    assert again.hit


async def test_a_body_beyond_max_object_size_passes_through_a_window_and_is_not_stored(here: Site) -> None:
    chunks, size = 96, MIB

    async def huge(call: Call) -> None:
        call.write(head(f"Content-Length: {chunks * size}", "Cache-Control: max-age=600"))
        for at in range(chunks):
            await call.stream.send(bytes([at]) * size)

    here.upstream.on("/huge", huge)
    here.proxy.forget_peak()
    before = here.proxy.memory()
    for _ in range(2):
        response = await here.get("/huge")
        assert response.body == b"".join(bytes([at]) * size for at in range(chunks))
        assert not response.stored
    assert here.upstream.count("/huge") == 2
    assert (here.proxy.peak() - before) / MIB < 32


async def test_a_body_of_unknown_length_beyond_max_object_size_passes_as_well(here: Site) -> None:
    async def huge(call: Call) -> None:
        call.write(head("Transfer-Encoding: chunked", "Cache-Control: max-age=600"))
        for at in range(80):
            await call.stream.send(f"{MIB:x}\r\n".encode() + bytes([at]) * MIB + b"\r\n")
        await call.stream.send(b"0\r\n\r\n")

    here.upstream.on("/endless", huge)
    here.proxy.forget_peak()
    before = here.proxy.memory()
    for _ in range(2):
        response = await here.get("/endless")
        assert response.body == b"".join(bytes([at]) * MIB for at in range(80))
    assert here.upstream.count("/endless") == 2
    # What might still have been stored is kept until it grows beyond the limit of 64 MiB.
    assert (here.proxy.peak() - before) / MIB < 150


async def test_a_large_post_is_streamed_and_waits_for_the_upstream(here: Site) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def sink(call: Call) -> None:
        arrived.set()
        await gate.wait()
        await call.body()
        call.answer("taken")

    here.upstream.on("/sink", sink)
    body = BODY[: 48 * MIB]
    here.proxy.forget_peak()
    before = here.proxy.memory()
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", here.port))
        await loop.sock_sendall(sock, request("/sink", f"Content-Length: {len(body)}", method="POST"))
        sending = asyncio.create_task(loop.sock_sendall(sock, body))
        async with asyncio.timeout(30):
            await arrived.wait()
        assert not sending.done()
        done, _ = await asyncio.wait({sending}, timeout=1)
        assert not done  # the upstream reads nothing: 48 MiB do not fit between
        assert (here.proxy.memory() - before) / MIB < 16
        gate.set()
        await asyncio.wait_for(sending, 60)
        assert b"200 OK" in await asyncio.wait_for(loop.sock_recv(sock, 4096), 20)
    assert here.upstream.seen("/sink")[0].received == body
    assert (here.proxy.peak() - before) / MIB < 32


async def test_a_chunked_post_is_relayed_whole(here: Site) -> None:
    async def echo(call: Call) -> None:
        call.answer(await call.body())

    here.upstream.on("/echo", echo)
    stream = await here.connect()
    stream.write(request("/echo", "Transfer-Encoding: chunked", method="POST"))
    for at in range(0, 4 * MIB, 100_000):
        piece = BODY[at : min(at + 100_000, 4 * MIB)]
        await stream.send(f"{len(piece):X};ext=1\r\n".encode() + piece + b"\r\n")
    stream.write(b"0\r\nX-Trailer: dropped\r\n\r\n")
    assert (await receive(stream, "POST")).body == BODY[: 4 * MIB]
    stream.write(request("/echo"))
    assert (await receive(stream)).status == 200
    stream.close()
