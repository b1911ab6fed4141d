"""A listener on loopback with scripted exchanges behind it, a clock that only tests move, and a raw client."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from proxy.edges.connection import Connection
from proxy.edges.listener import Listener
from proxy.edges.shared import Shared
from proxy.flow.background import Background
from proxy.flow.heads import Heads
from proxy.flow.ports import Client
from proxy.rules.limits import Limits
from proxy.rules.message import Reason, Request

PATIENCE: Final = 30.0  # real seconds after which a test that hangs fails
Pending = Coroutine[Any, Any, None]
Begin = Callable[[Request, Client], Pending | None]
LIMITS: Final = Limits(
    max_header_bytes=4096,
    max_headers=20,
    header_timeout=10.0,
    body_timeout=30.0,
    write_timeout=31.0,
    idle_timeout=75.0,
    max_connections=100,
)


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def turns(count: int = 20) -> None:
    """Let the loop do what it can do now: what was sent over loopback is received in the next turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - what is waited for is not ours to announce
            await asyncio.sleep(0.001)


def get(path: str = "/", *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    return "".join(f"{x}\r\n" for x in (f"{method} {path} HTTP/{version}", "Host: a.test", *headers, "")).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request with a Content-Length body."""
    return get(path, f"Content-Length: {len(body)}", *headers, method="POST") + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked_post(path: str, *pieces: bytes) -> bytes:
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def ok(client: Client, body: bytes = b"", status: str = "200 OK") -> Pending | None:
    """A whole answer at once."""
    client.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode(), b"\r\n" + body, len(body))
    return None


async def read_all(client: Client) -> bytes:
    return b"".join([piece async for piece in client.body()])


@dataclass(slots=True, eq=False)
class Read:
    """What is kept of a request that was read."""

    request: Request
    logged: bytes = b""

    @property
    def plain(self) -> bool:
        return self.request.simple


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A client that sends and receives exactly when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = bytearray()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, size: int = 65536) -> bytes:
        """What has come, empty at a clean end. Raises ConnectionResetError at any other."""
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.sock, size)

    async def _more(self) -> None:
        piece = await self.receive()
        if not piece:
            raise EOFError(f"the connection ended behind {bytes(self.pending[-200:])!r}")
        self.pending += piece

    async def exactly(self, size: int) -> bytes:
        while len(self.pending) < size:
            await self._more()
        return self._take(size)

    async def through(self, mark: bytes) -> bytes:
        while (end := self.pending.find(mark)) < 0:
            await self._more()
        return self._take(end + len(mark))

    def _take(self, size: int) -> bytes:
        data = bytes(self.pending[:size])
        del self.pending[:size]
        return data

    async def response(self, method: str = "GET") -> Response:
        """The next response, by its own framing; raises EOFError where the connection cuts it short."""
        head = (await self.through(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = [line.partition(": ")[::2] for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), head
        status = int(first.split(" ")[1])
        if method == "HEAD" or status in (204, 304) or status < 200:
            body = b""
        elif "transfer-encoding" in headers:
            assert headers["transfer-encoding"] == "chunked"
            assert "content-length" not in headers
            body = await self._chunks()
        elif "content-length" in headers:
            body = await self.exactly(int(headers["content-length"]))
        else:
            assert headers["connection"] == "close"
            body = await self.rest()
        return Response(status, headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.through(b"\r\n"), 16):
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        assert await self.exactly(2) == b"\r\n"
        return body

    async def rest(self) -> bytes:
        """Everything up to a clean end."""
        while piece := await self.receive():
            self.pending += piece
        return self._take(len(self.pending))

    async def closed(self) -> bool:
        """The connection ends cleanly and nothing more comes."""
        return await self.rest() == b""

    async def reset(self) -> bytes:
        """What came before the connection was reset; a clean end is a failure."""
        with contextlib.suppress(ConnectionResetError):
            clean = await self.rest()
            raise AssertionError(f"a clean end behind {clean[-200:]!r}")
        return self._take(len(self.pending))

    def quiet(self) -> bool:
        """Whether nothing has come that was not taken."""
        try:
            return not self.pending and not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    def shut(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def break_off(self) -> None:
        """Reset the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@dataclass
class Rig:
    """A running listener. `begin` and `hit` may be replaced at any time; `seen` holds the targets that `begin` was
    given, in order, `reads` those of the heads that had to be read.
    """

    begin: Begin
    hit: Callable[[Request, Client], bool] | None = None
    limits: Limits = LIMITS
    trusted: Sequence[IPv4Network | IPv6Network] = ()
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    clock: FakeClock = field(default_factory=FakeClock)
    background: Background = field(default_factory=Background)
    seen: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    refusals: list[tuple[str, int, Reason]] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self.shared: Shared[Read] = Shared(
            Heads(self._read),
            lambda asked, client: self.hit is not None and self.hit(asked.request, client),
            self._begin,
            self.background.spawn,
            self.clock,
            self.limits,
            self.trusted,
            lambda *refusal: self.refusals.append(refusal),
        )
        self.listener = Listener(self.shared)

    def _read(self, request: Request, *, trusted: bool) -> Read:  # noqa: ARG002 - it reads all alike
        self.reads.append(request.target)
        return Read(request)

    def _begin(self, asked: "Read", client: Client) -> Pending | None:
        self.seen.append(asked.request.target)
        return self.begin(asked.request, client)

    async def connect(self, *, receive_buffer: int | None = None, source: str | None = None) -> Wire:
        """A connected client that the listener knows of; `receive_buffer` bounds what waits unread on its side,
        `source` is its address.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            sock.bind((source, 0))
        accepted = self.shared.counters.accepted
        await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        wire = Wire(sock)
        self.wires.append(wire)
        await until(lambda: self.shared.counters.accepted > accepted)
        return wire

    @property
    def connection(self) -> "Connection[Read]":
        """The only connection there is."""
        (only,) = self.shared.connections
        assert isinstance(only, Connection)
        return only

    @property
    def unsent(self) -> int:
        """Bytes of answers in our memory that the kernel did not take yet."""
        return self.connection._transport.get_write_buffer_size()  # noqa: SLF001 - nothing public tells

    @property
    def unread(self) -> int:
        """Bytes of requests in our memory that no exchange took yet."""
        connection = self.connection
        inbound = connection._inbound  # noqa: SLF001 - nothing public tells
        return len(connection._buffer) + (inbound.size if inbound is not None else 0)  # noqa: SLF001

    async def ended(self) -> None:
        """Wait for every connection and task to be gone."""
        await until(lambda: not self.shared.connections and not len(self.background))

    def sweep(self, seconds: float = 0.0) -> None:
        """Let time pass and look at the deadlines."""
        self.clock.time += seconds
        self.shared.sweep()


def echo(request: Request, client: Client) -> Pending | None:
    """Answers at once with the target."""
    return ok(client, request.target.encode())


def stored(request: Request, client: Client) -> bool:
    """Puts an answer with the target and much behind it."""
    body = request.target.encode().ljust(40_000, b".")
    client.put(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body), b"\r\n" + body)
    return True


@asynccontextmanager
async def rig(begin: Begin = echo, **more: Any) -> AsyncIterator[Rig]:  # noqa: ANN401 - the fields of Rig
    """A listener that leaves no task and no connection behind, and no error that nobody handled."""
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    made = Rig(begin, **more)
    made.port = await made.listener.listen(made.host, 0, made.tls)
    try:
        yield made
    finally:
        made.listener.stop_accepting()
        made.listener.close()
        for wire in made.wires:
            wire.close()
        await made.ended()
    assert not failures, failures
