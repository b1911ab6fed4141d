"""What is sent to one client over a real connection, and what is known of a client that does not take it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from proxy.edges.outbound import APART, HALF_OPEN, Outbound
from proxy.flow.ports import ClientError
from tests.edges.kit import PATIENCE, turns, until

MUCH = 16 << 20  # bytes: more than the kernel keeps for a client that does not read
LITTLE = 0.1  # seconds


class Protocol(asyncio.Protocol):
    """Hands its transport's word on, as a connection does."""

    out: Outbound

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.out = Outbound(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.out.end()

    def pause_writing(self) -> None:
        self.out.paused = True

    def resume_writing(self) -> None:
        self.out.resume()


@asynccontextmanager
async def line() -> AsyncIterator[tuple[Outbound, socket.socket]]:
    """The sending side of a connection, and the socket of its client."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.setblocking(False)
        ours, _ = server.accept()
        ours.setblocking(False)
        transport, protocol = await loop.create_connection(Protocol, sock=ours)
        try:
            yield protocol.out, client
        finally:
            transport.abort()
            await turns()


async def read(client: socket.socket, size: int) -> bytes:
    loop, read = asyncio.get_running_loop(), b""
    async with asyncio.timeout(PATIENCE):
        while len(read) < size:
            read += await loop.sock_recv(client, size - len(read))
    return read


@pytest.mark.parametrize("size", [0, APART, APART + 1])
async def test_an_answer_that_is_ready_is_sent_whole(size: int) -> None:
    async with line() as (out, client):
        before = out.used
        out.pair(b"head", b"." * size)
        assert (before, out.used) == (False, True)
        assert await read(client, 4 + size) == b"head" + b"." * size


@pytest.mark.parametrize("size", [0, APART, APART + 1])
@pytest.mark.parametrize(
    ("chunked", "coding"), [(False, b""), (True, b"Transfer-Encoding: chunked\r\n")], ids=["plain", "chunked"]
)
async def test_the_fields_of_the_connection_go_between_a_head_and_its_tail(
    size: int, chunked: bool, coding: bytes
) -> None:
    async with line() as (out, client):
        out.start(b"head\r\n", b"Connection: close\r\n", b"." * size, chunked=chunked)
        sent = b"head\r\n" + coding + b"Connection: close\r\n" + b"." * size
        assert await read(client, len(sent)) == sent


async def test_a_body_is_given_plain_or_in_chunks_of_which_none_is_empty() -> None:
    async with line() as (out, client):
        for data in (b"plain", b""):
            out.give(data)
        out.finish()
        out.start(b"", b"", b"", chunked=True)
        for data in (b"", b"x" * 17):
            out.give(data)
        sent = b"plainTransfer-Encoding: chunked\r\n11\r\n" + b"x" * 17 + b"\r\n"
        assert await read(client, len(sent)) == sent


async def test_the_last_chunk_ends_one_body_and_means_nothing_to_what_comes_next() -> None:
    async with line() as (out, client):
        out.start(b"", b"", b"", chunked=True)
        out.give(b"x")
        out.finish()
        out.give(b"tunnel")
        out.finish()
        out.put(b"!")
        sent = b"Transfer-Encoding: chunked\r\n1\r\nx\r\n0\r\n\r\ntunnel!"
        assert await read(client, len(sent)) == sent


async def test_a_writer_waits_for_its_reader() -> None:
    async with line() as (out, client):
        await out.drained()
        out.give(b"." * MUCH)
        assert out.paused
        waiting = asyncio.ensure_future(out.drained())
        await turns()
        assert not waiting.done()
        await read(client, MUCH)
        await waiting
        assert (out.paused, out.pending) == (False, 0)


async def test_a_writer_that_waits_is_told_that_its_reader_has_left() -> None:
    async with line() as (out, client):
        out.give(b"." * MUCH)
        waiting = asyncio.ensure_future(out.drained())
        await turns()
        client.close()
        with pytest.raises(ClientError):
            await waiting
        with pytest.raises(ClientError):
            out.give(b"more")
        out.put(b"more")  # of no use, and no harm
        out.start(b"more", b"", b"." * MUCH, chunked=True)  # likewise
        out.finish()
        assert out.pending == 0


async def test_a_client_is_stuck_that_takes_nothing_for_too_long() -> None:
    async with line() as (out, client):
        assert not out.is_stuck(0.0, 30.0)
        out.put(b"." * MUCH)
        assert not out.is_stuck(100.0, 30.0), "it has only just been given that"
        assert not out.is_stuck(130.0 - LITTLE, 30.0)
        out.put(b"." * MUCH)
        assert out.is_stuck(130.0 + LITTLE, 30.0), "more that it is given is no progress"
        pending = out.pending
        await read(client, MUCH)
        await until(lambda: out.pending < pending)
        assert not out.is_stuck(131.0, 30.0)
        await read(client, MUCH)
        assert not out.is_stuck(1000.0, 30.0), "it has everything"


async def test_a_client_that_only_listens_is_silent_when_nothing_was_sent_for_a_while() -> None:
    async with line() as (out, _):
        out.put(b"x")
        assert not out.is_silent(10.0)
        assert not out.is_silent(10.0 + HALF_OPEN - LITTLE)
        out.put(b"x")
        assert not out.is_silent(10.0 + HALF_OPEN + LITTLE)
        assert out.is_silent(10.0 + 2 * (HALF_OPEN + LITTLE))


async def test_a_cut_cannot_pass_for_an_end() -> None:
    async with line() as (out, client):
        out.put(b"half")
        assert await read(client, 4) == b"half"
        out.reset()
        with pytest.raises(ConnectionResetError):
            await read(client, 1)
        out.reset()  # of what is gone already
