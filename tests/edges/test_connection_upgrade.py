"""A connection that stops being HTTP: bytes both ways behind a 101."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.edges.connection import HIGH_WATER
from proxy.flow.background import Background
from proxy.flow.ports import Client, OriginError
from proxy.flow.tunnel import carry
from proxy.rules.message import Reason, Request
from tests.edges.kit import LIMITS, Rig, Wire, get, rig, turns, until

BIG = 16 << 20  # bytes: more than the kernel keeps for a client that does not read
UPGRADE = get("/", "Connection: Upgrade", "Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"


class Upstream:
    """The far end of a tunnel, and the exchange that opens it once the gate is."""

    def __init__(self) -> None:
        self.background = Background()
        self.opens, self.reads = asyncio.Event(), asyncio.Event()
        self.opens.set()
        self.reads.set()
        self.outgoing: asyncio.Queue[bytes | OriginError] = asyncio.Queue()
        self.received = bytearray()
        self.closed = 0
        self.whole: bool | None = None

    async def read(self) -> bytes:
        piece = await self.outgoing.get()
        if isinstance(piece, OriginError):
            raise piece
        return piece

    async def write(self, data: bytes) -> None:
        await self.reads.wait()
        if data == b"fail":
            raise OriginError(Reason.ABORTED)
        self.received += data

    def close(self) -> None:
        self.closed += 1

    async def __call__(self, _request: Request, client: Client) -> None:
        await self.opens.wait()
        inbound = client.upgrade(SWITCHED)
        self.whole = await carry(client, inbound, self, self.background)
        if self.whole:
            client.finish()
        else:
            client.abort()


async def opened(here: Rig) -> Wire:
    wire = await here.connect()
    await wire.send(UPGRADE)
    assert await wire.through(b"\r\n\r\n") == SWITCHED + b"\r\n"
    return wire


async def test_bytes_go_both_ways_as_they_come() -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await opened(here)
        for number in range(10):
            await wire.send(b"GET %d\r\n\r\n" % number)
            await until(lambda: upstream.received.endswith(b"GET %d\r\n\r\n" % number))  # noqa: B023 - awaited in its own round
            upstream.outgoing.put_nowait(b"pong %d" % number)
            assert await wire.exactly(6) == b"pong %d" % number
        assert here.seen == ["/"]


async def test_what_an_answer_before_it_was_like_means_nothing_to_a_tunnel() -> None:
    """A chunked answer of unknown length leaves marks on its connection."""
    upstream = Upstream()

    async def chunked(request: Request, client: Client) -> None:
        if request.target != "/":
            client.start(b"HTTP/1.1 200 OK\r\n", length=None)
            await client.write(b"abc")
            client.finish()
            return
        await upstream(request, client)

    async with rig(chunked) as here:
        wire = await here.connect()
        await wire.send(get("/chunked"))
        assert (await wire.response()).body == b"abc"
        await wire.send(UPGRADE)
        assert await wire.through(b"\r\n\r\n") == SWITCHED + b"\r\n"
        upstream.outgoing.put_nowait(b"hello")
        upstream.outgoing.put_nowait(b"")
        assert await wire.rest() == b"hello"


async def test_bytes_behind_the_request_wait_for_the_101() -> None:
    upstream = Upstream()
    upstream.opens.clear()
    async with rig(upstream) as here:
        wire = await here.connect()
        behind = bytes(range(256)) * 2000 + get("/smuggled")
        sending = asyncio.create_task(wire.send(UPGRADE + behind))
        await turns()
        assert (wire.quiet(), bytes(upstream.received), here.seen) == (True, b"", ["/"])
        assert HIGH_WATER < here.unread < HIGH_WATER + (256 << 10)
        upstream.opens.set()
        assert await wire.through(b"\r\n\r\n") == SWITCHED + b"\r\n"
        await until(lambda: len(upstream.received) == len(behind))
        await sending
        assert bytes(upstream.received) == behind
        assert here.seen == ["/"]


async def test_what_was_sent_before_the_end_arrives_before_it() -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await opened(here)
        upstream.outgoing.put_nowait(b"x" * 1000)
        upstream.outgoing.put_nowait(b"last")
        upstream.outgoing.put_nowait(b"")
        assert await wire.rest() == b"x" * 1000 + b"last"
        wire.close()
        await here.ended()
        assert upstream.whole is True


async def test_a_client_that_ends_its_half_ends_the_tunnel_cleanly() -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await opened(here)
        await wire.send(b"goodbye")
        wire.shut()
        assert await wire.closed()
        await here.ended()
        assert (bytes(upstream.received), upstream.whole) == (b"goodbye", True)


async def test_a_client_that_ended_its_half_before_the_101_ends_the_tunnel_too() -> None:
    upstream = Upstream()
    upstream.opens.clear()
    async with rig(upstream) as here:
        wire = await here.connect()
        await wire.send(UPGRADE + b"hello")
        wire.shut()
        await turns()
        upstream.opens.set()
        assert await wire.rest() == SWITCHED + b"\r\n"
        await here.ended()
        assert bytes(upstream.received) == b"hello"


@pytest.mark.parametrize(
    "fail",
    [
        lambda upstream: upstream.outgoing.put_nowait(OriginError(Reason.ABORTED)),
        lambda upstream: upstream.received.clear(),
    ],
    ids=["reading", "writing"],
)
async def test_an_upstream_that_breaks_off_is_a_reset(fail: Callable[[Upstream], None]) -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await opened(here)
        fail(upstream)
        if upstream.outgoing.empty():
            await wire.send(b"fail")
        await wire.reset()
        await here.ended()
        assert upstream.whole is False


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_client_that_resets_ends_the_tunnel(blocked: bool) -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await opened(here)
        if blocked:
            upstream.outgoing.put_nowait(bytes(BIG))
            await until(lambda: here.unsent)
        wire.break_off()
        await here.ended()
        await until(lambda: not len(upstream.background))
        assert upstream.whole is not True


async def test_neither_side_is_sent_more_than_it_reads() -> None:
    upstream = Upstream()
    upstream.reads.clear()
    pieces = 256
    async with rig(upstream) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(UPGRADE)
        await wire.through(b"\r\n\r\n")
        sending = asyncio.create_task(wire.send(bytes(BIG)))
        for _ in range(pieces):
            upstream.outgoing.put_nowait(bytes(BIG // pieces))
        await turns(100)
        assert not sending.done()
        assert HIGH_WATER < here.unread < HIGH_WATER + (256 << 10)
        assert HIGH_WATER < here.unsent <= HIGH_WATER + BIG // pieces
        assert upstream.outgoing.qsize() > pieces // 2
        await wire.exactly(BIG)
        upstream.reads.set()
        await sending
        await until(lambda: len(upstream.received) == BIG)


async def test_a_tunnel_may_be_silent_for_ever_but_not_unread() -> None:
    upstream = Upstream()
    async with rig(upstream) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(UPGRADE)
        await wire.through(b"\r\n\r\n")
        for _ in range(3):
            here.sweep(100_000.0)
            await turns()
        upstream.outgoing.put_nowait(b"still here")
        assert await wire.exactly(10) == b"still here"
        upstream.outgoing.put_nowait(bytes(BIG))
        await until(lambda: here.unsent)
        here.sweep()
        here.sweep(LIMITS.write_timeout + 0.1)
        await wire.reset()
        await here.ended()


async def test_a_tunnel_that_is_left_alone_takes_no_next_request() -> None:
    """Work that gives up the tunnel without ending it must not leave the connection in use."""

    async def work(_request: Request, client: Client) -> None:
        client.upgrade(SWITCHED)

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(UPGRADE + get("/next"))
        await wire.reset()
        await here.ended()
        assert here.seen == ["/"]
