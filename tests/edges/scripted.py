"""A scripted upstream for the client's tests: the test decides and sees every byte."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from proxy.certificates import upstream_context
from proxy.edges.origin import HttpOrigin
from proxy.flow.background import Background
from proxy.flow.ports import Answer, Call, OriginError
from proxy.rules.message import Headers, Reason

HOST: Final = (("Host", "up"),)
H: Final = b"HTTP/1.1 200 OK\r\n"
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EMPTY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PATIENCE: Final = 60.0
LONG: Final = 90.0  # seconds: longer than any test waits


class Peer:
    """One connection as the upstream sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything until the other side ends the connection, however it does."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                data += piece
        return bytes(data)

    def fin(self) -> None:
        self.writer.close()

    def rst(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer, int], Awaitable[None]]


class Upstream:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.peers: list[Peer] = []
        self.url = ""

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._tasks.add(asyncio.create_task(self._run(peer, len(self.peers) - 1)))

    async def _run(self, peer: Peer, number: int) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._script(peer, number)

    async def end(self) -> None:
        """Stop, and fail where the script failed."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            peer.writer.transport.abort()
        for result in results:
            if isinstance(result, Exception):
                raise result


@contextlib.asynccontextmanager
async def upstream(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
    up = Upstream(script)
    server = await asyncio.start_server(up.connected, "127.0.0.1", 0, ssl=tls, limit=1 << 20)
    scheme = "https" if tls else "http"
    up.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield up
    finally:
        server.close()
        await up.end()


@contextlib.asynccontextmanager
async def client(
    url: str,
    *,
    connect_timeout: float = LONG,
    timeout: float = LONG,  # noqa: ASYNC109 - it is the origin's
    max_connections: int = 16,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
    body_timeout: Callable[[], float] = lambda: LONG,
) -> AsyncIterator[HttpOrigin]:
    background = Background()
    origin = HttpOrigin(
        url,
        connect_timeout=connect_timeout,
        timeout=timeout,
        max_connections=max_connections,
        ssl=tls,
        server_name=server_name,
        body_timeout=body_timeout,
        spawn=background.spawn,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield origin
        await settled(lambda: not len(background))
        assert origin.connections == 0
    finally:
        await origin.close()


async def settled(true: Callable[[], bool]) -> None:
    """Wait for what the loop still has to do."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - nobody sets an event when a loop falls silent
            await asyncio.sleep(0.005)


def get(target: str = "/", headers: Headers = HOST, method: str = "GET", *, upgrade: bool = False) -> Call:
    return Call(method, target, headers, upgrade=upgrade)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def post(body: AsyncIterator[bytes], length: int | None, method: str = "POST") -> Call:
    declared = () if length is None else (("Content-Length", str(length)),)
    return Call(method, "/", HOST + declared, body, length)


async def read(answer: Answer) -> bytes:
    try:
        return b"".join([piece async for piece in answer.chunks()])
    finally:
        answer.close()


async def ask(origin: HttpOrigin, call: Call | None = None) -> tuple[int, bytes]:
    answer = await origin.fetch(call or get())
    return answer.head.status, await read(answer)


async def failure(work: Awaitable[object]) -> Reason:
    with pytest.raises(OriginError) as caught:
        await work
    return caught.value.reason


def replies(*responses: bytes) -> Script:
    """Each connection answers request after request, the last response for ever."""
    left = list(responses)

    async def script(peer: Peer, _: int) -> None:
        while True:
            await peer.head()
            await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def once(response: bytes, end: Callable[[Peer], None] | None = None) -> Script:
    """Every connection answers one request, and ends as told."""

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(response)
        if end is not None:
            if end is Peer.rst:
                await asyncio.sleep(0.02)  # a reset overtakes what the other side has not read yet
            end(peer)
        await peer.rest()

    return script


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("up.example",))).configure_cert(context)
    return context


def trusting(ca: trustme.CA) -> ssl.SSLContext:
    with ca.cert_pem.tempfile() as path:
        return upstream_context(Path(path), None, None)


Case = Callable[[], Coroutine[Any, Any, None]]


def cases(names: Mapping[str, object]) -> list[Case]:
    """The async tests of a module that need no fixture, to be run on another loop as well."""
    found = [case for name, case in names.items() if name.startswith("test_") and asyncio.iscoroutinefunction(case)]
    return [case for case in found if not case.__code__.co_argcount]
