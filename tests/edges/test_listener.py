"""The listening socket: who is let in, how it stops, TLS, and the one timer."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest
import trustme

from proxy.edges import listener as module
from proxy.flow.ports import Client
from proxy.rules.message import Reason, Request
from tests.edges.kit import LIMITS, PATIENCE, Pending, Rig, echo, get, ok, rig, turns, until

BIG = 16 << 20  # bytes: more than the kernel keeps for a client that does not read


# -- who is let in


async def test_one_connection_too_many_is_told_so_and_takes_no_place() -> None:
    async with rig(limits=replace(LIMITS, max_connections=2)) as here:
        inside = [await here.connect(), await here.connect()]
        outside = [await here.connect() for _ in range(3)]
        for wire in outside:
            response = await wire.response()
            assert (response.status, response.headers["connection"]) == (503, "close")
            assert response.headers["content-type"] == "application/problem+json"
            assert await wire.closed()
        for wire in inside:
            await wire.send(get())
            assert (await wire.response()).status == 200
        inside[0].close()
        await until(lambda: here.shared.admitted == 1)
        assert len(here.shared.connections) == 4  # those that were refused have not gone yet
        wire = await here.connect()
        await wire.send(get())
        assert (await wire.response()).status == 200
        assert here.refusals == [("127.0.0.1", 503, Reason.OVERLOADED)] * 3


async def test_a_request_sent_with_the_refused_connection_is_not_served() -> None:
    async with rig(limits=replace(LIMITS, max_connections=1)) as here:
        await here.connect()
        wire = await here.connect()
        await wire.send(get() * 1000)
        assert (await wire.response()).status == 503
        assert await wire.closed()
        assert here.seen == []


@pytest.mark.parametrize(
    ("host", "networks", "trusted"),
    [
        ("127.0.0.1", [], False),
        ("127.0.0.1", ["127.0.0.0/8"], True),
        ("127.0.0.1", ["10.0.0.0/8", "127.0.0.1/32"], True),
        ("127.0.0.1", ["10.0.0.0/8", "::/0"], False),
        ("::1", ["::1/128"], True),
        ("::1", ["127.0.0.0/8", "0.0.0.0/0"], False),
    ],
)
async def test_whose_word_is_believed(host: str, networks: list[str], trusted: bool) -> None:
    def begin(request: Request, client: Client) -> None:
        ok(client, f"{client.peer} {client.trusted} {request.scheme}".encode())

    async with rig(begin, host=host, trusted=[ip_network(network) for network in networks]) as here:
        wire = await here.connect()
        await wire.send(get("/", "X-Forwarded-Proto: https"))
        scheme = "https" if trusted else "http"
        assert (await wire.response()).body == f"{host} {trusted} {scheme}".encode()


async def test_a_client_that_is_gone_before_it_is_let_in_harms_nobody() -> None:
    async with rig(trusted=[ip_network("127.0.0.0/8")]) as here:
        for _ in range(5):
            gone = socket.create_connection(("127.0.0.1", here.port))
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        wire = await here.connect()
        await wire.send(get())
        assert (await wire.response()).status == 200
        await until(lambda: len(here.shared.connections) == 1)
        assert here.shared.admitted == 1


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with rig() as here:
        with pytest.raises(OSError, match="in use"):
            await here.listener.listen("127.0.0.1", here.port)


# -- how it stops


class Scripted:
    """`/slow` waits before its answer, `/begun` behind its head, the rest is answered at once."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    def __call__(self, request: Request, client: Client) -> Pending | None:
        match request.target:
            case "/slow" | "/begun":
                return self._later(request, client)
            case _:
                return echo(request, client)

    async def _later(self, request: Request, client: Client) -> None:
        if request.target == "/slow":
            await self._gate.wait()
            echo(request, client)
            return
        client.start(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n", length=4)
        await client.write(b"ab")
        await self._gate.wait()
        await client.write(b"cd")
        client.finish()


async def test_a_stop_closes_who_waits_for_nothing_and_lets_the_rest_finish() -> None:
    gate = asyncio.Event()
    async with rig(Scripted(gate)) as here:
        new, idle, slow, begun, partial = [await here.connect() for _ in range(5)]
        await idle.send(get())
        await idle.response()
        await slow.send(get("/slow") + get("/behind"))
        await begun.send(get("/begun"))
        await begun.through(b"ab")
        await partial.send(get()[:-2])
        await turns()
        here.listener.stop_accepting()
        here.sweep(1.1)  # who has not asked yet gets a second
        assert await new.closed()
        assert await idle.closed()
        await partial.send(b"\r\n")
        response = await partial.response()
        assert (response.headers["connection"], response.body) == ("close", b"/")
        assert await partial.closed()
        assert (slow.quiet(), begun.quiet()) == (True, True)
        gate.set()
        response = await slow.response()
        assert (response.headers["connection"], response.body) == ("close", b"/slow")
        assert await slow.closed()
        assert await begun.rest() == b"cd"
        for wire in (new, idle, slow, begun, partial):
            wire.close()
        await here.ended()
        assert "/behind" not in here.seen


async def test_behind_a_stop_nobody_is_let_in() -> None:
    async with rig() as here:
        here.listener.stop_accepting()
        await turns()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", here.port), timeout=PATIENCE)


async def test_while_draining_every_answer_says_close() -> None:
    async with rig() as here:
        wire = await here.connect()
        here.shared.draining = True
        await wire.send(get("/1") + get("/2"))
        assert (await wire.response()).headers["connection"] == "close"
        assert await wire.closed()
        assert here.seen == ["/1"]


async def test_a_close_cuts_what_is_left_so_that_nobody_takes_it_for_whole() -> None:
    async with rig(Scripted(asyncio.Event())) as here:
        wires = [await here.connect() for _ in range(3)]
        await wires[0].send(get("/slow"))
        await wires[1].send(get("/begun"))
        await wires[1].through(b"ab")
        await turns()
        here.listener.close()
        for wire in wires:
            assert await wire.reset() == b""
        await here.ended()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", here.port), timeout=PATIENCE)


async def test_a_close_may_come_while_a_connection_is_ending() -> None:
    async with rig() as here:
        await here.connect()
        here.connection.abort()
        here.listener.close()
        await here.ended()


# -- the one timer


async def test_deadlines_are_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 0.001)
    async with rig() as here:
        for _ in range(3):
            wire = await here.connect()
            here.clock.time += LIMITS.header_timeout + 0.1
            assert await wire.closed()


# -- TLS


class Secure:
    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("a.test").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


SECURE = Secure()


@asynccontextmanager
async def secured(here: Rig) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", here.port, ssl=SECURE.client, server_hostname="a.test", limit=1 << 16
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()


async def test_tls_requests_are_answered_in_order_and_are_https() -> None:
    gate = asyncio.Event()

    async def later(request: Request, client: Client) -> None:
        await gate.wait()
        ok(client, request.scheme.encode())

    def begin(request: Request, client: Client) -> Pending | None:
        return later(request, client) if request.target == "/1" else echo(request, client)

    async with rig(begin, tls=SECURE.server) as here, secured(here) as (reader, writer):
        writer.write(get("/1") + get("/2", "Connection: close"))
        await turns()
        assert here.seen == ["/1"]
        gate.set()
        text = await reader.read()
        assert text.index(b"\r\n\r\nhttps") < text.index(b"Connection: close\r\n\r\n/2")


async def test_tls_writes_at_the_pace_of_the_reader() -> None:
    written = 0

    async def work(_request: Request, client: Client) -> None:
        nonlocal written
        client.start(b"HTTP/1.1 200 OK\r\n", length=None, close=True)
        for _ in range(BIG >> 16):
            await client.write(bytes(1 << 16))
            written += 1
        client.finish()

    async with rig(work, tls=SECURE.server) as here, secured(here) as (reader, writer):
        writer.write(get())
        await until(lambda: here.shared.connections and here.unsent)
        await turns(100)
        assert 0 < written < BIG >> 16
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.read()) == BIG


async def test_tls_takes_a_body_at_the_pace_of_its_reader() -> None:
    gate, got = asyncio.Event(), 0

    async def work(_request: Request, client: Client) -> None:
        nonlocal got
        await gate.wait()
        async for piece in client.body():
            got += len(piece)
        ok(client, b"%d" % got)

    async with rig(work, tls=SECURE.server) as here, secured(here) as (reader, writer):
        writer.write(get("/", f"Content-Length: {BIG}", "Connection: close", method="POST") + bytes(BIG))
        await turns(200)
        assert here.unread < 1 << 20
        gate.set()
        assert (await reader.read()).endswith(b"\r\n\r\n%d" % BIG)


async def test_tls_answers_before_the_end_of_the_body_arrive() -> None:
    async with rig(tls=SECURE.server) as here, secured(here) as (reader, writer):
        writer.write(get("/1", f"Content-Length: {BIG}", method="POST") + bytes(BIG // 2))
        assert (await reader.readuntil(b"\r\n\r\n/1")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_tls_abort_never_looks_like_an_end() -> None:
    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None, close=True)
        await client.write(b"abc")
        await asyncio.sleep(0)
        client.abort()

    async with rig(work, tls=SECURE.server) as here, secured(here) as (reader, writer):
        writer.write(get())
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await reader.read()


async def test_a_tls_client_that_leaves_ends_the_work_for_it() -> None:
    cancelled = asyncio.Event()

    async def work(_request: Request, _client: Client) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with rig(work, tls=SECURE.server) as here, secured(here) as (_, writer):
        writer.write(get())
        await until(lambda: here.seen)
        writer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await cancelled.wait()


async def test_tls_deadlines_hold() -> None:
    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        while True:
            await client.write(bytes(1 << 16))

    async with rig(work, tls=SECURE.server) as here:
        async with secured(here) as (reader, writer):
            writer.write(b"GET")
            await until(lambda: here.shared.connections)
            await turns()
            here.sweep(LIMITS.header_timeout + 0.1)
            assert b"408" in await reader.read()
        await here.ended()
        async with secured(here) as (reader, writer):
            writer.write(get())
            await until(lambda: here.shared.connections and here.unsent)
            here.sweep()
            here.sweep(LIMITS.write_timeout + 0.1)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await reader.read()
        await here.ended()


async def test_who_does_not_shake_hands_is_not_waited_for_longer_than_for_a_head() -> None:
    async with rig(limits=replace(LIMITS, header_timeout=0.05), tls=SECURE.server) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        assert here.shared.counters.accepted == 0


async def test_plain_text_on_a_tls_port_harms_nobody() -> None:
    async with rig(tls=SECURE.server) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(get())
        async with asyncio.timeout(PATIENCE):
            assert b"HTTP" not in await reader.read()
        writer.close()
        async with secured(here) as (reader, writer):
            writer.write(get("/", "Connection: close"))
            assert b"200 OK" in await reader.read()


# -- what the kernel holds for it


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_who_is_connected_but_not_yet_accepted_is_answered_before_it_stops(tls: bool) -> None:
    async with rig(tls=SECURE.server if tls else None) as here:
        # Without a turn of the loop: nobody accepts them.
        queued = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(20)]
        here.listener.stop_accepting()
        assert here.shared.counters.accepted == 0
        for sock in queued:
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=SECURE.client if tls else None, server_hostname="a.test" if tls else None
            )
            writer.write(get())
            async with asyncio.timeout(PATIENCE):
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_who_has_just_connected_may_still_ask_when_it_stops() -> None:
    async with rig() as here:
        asks, asks_nothing = await here.connect(), await here.connect()
        here.listener.stop_accepting()
        await asks.send(get())
        response = await asks.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        here.sweep(0.9)
        assert len(here.shared.connections) == 1
        here.sweep(0.2)
        assert await asks_nothing.closed()


async def test_several_may_listen_at_one_port_if_all_say_so() -> None:
    async with rig() as here:
        listeners = [module.Listener(here.shared) for _ in range(3)]
        port = await listeners[0].listen("127.0.0.1", 0, reuse_port=True)
        assert await listeners[1].listen("127.0.0.1", port, reuse_port=True) == port
        with pytest.raises(OSError, match="in use"):
            await listeners[2].listen("127.0.0.1", port)
        for listener in listeners:
            listener.close()
