"""One end of an HTTP/1 connection, byte by byte: what client and scripted upstream have in common.

asyncio's own streams drop what has been received when a reset follows it; here both are kept.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum, unique
from ssl import SSLContext
from typing import cast

Headers = tuple[tuple[str, str], ...]
PATIENCE = 20.0  # seconds before a wait counts as a hang


@unique
class End(Enum):
    """How the other side ended the connection."""

    FIN = "fin"
    RST = "rst"


@unique
class Framing(Enum):
    """What tells where a body ends."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class Cut(Exception):
    """The connection ended in the middle of something; `got` is what had come of it."""

    def __init__(self, end: End, got: bytes) -> None:
        super().__init__(f"cut by {end.value} after {len(got)} bytes: {got[-200:]!r}")
        self.end, self.got = end, got


@dataclass(frozen=True, slots=True)
class Head:
    """A start line in its three parts, and the fields as they came."""

    start: tuple[str, str, str]
    headers: Headers

    def get(self, name: str) -> str | None:
        """A field's values joined by ", ", None where there is none."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        assert value is not None, f"no {name} in {self}"
        return value

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def framing(self) -> tuple[Framing, int]:
        """How a body of this head is delimited, and its length where that is told."""
        coding, length = self.get("transfer-encoding"), self.get("content-length")
        assert coding is None or length is None, f"both framings in {self}"
        if coding is not None:
            assert coding == "chunked", self
            return Framing.CHUNKED, 0
        if length is not None:
            assert length.isascii(), self
            assert length.isdigit(), self
            return Framing.LENGTH, int(length)
        return Framing.CLOSE, 0


def parse_head(raw: bytes) -> Head:
    """Read what ends with an empty line; anything irregular is an assertion."""
    lines = raw.decode("latin-1").split("\r\n")
    assert lines[-2:] == ["", ""], raw
    assert not any("\n" in line or "\r" in line for line in lines), raw
    start = lines[0].split(" ", 2)
    assert len(start) > 1, raw
    headers = []
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        assert colon, raw
        assert name == name.strip(), raw
        headers.append((name, value.strip(" \t")))
    return Head((start[0], start[1], start[2] if len(start) > 2 else ""), tuple(headers))


class Stream(asyncio.Protocol):
    """Received bytes wait in `buffer`; beyond `limit` of them the socket is not read."""

    def __init__(self, opened: Callable[["Stream"], None] | None = None, limit: int = 1 << 20) -> None:
        self._opened, self._limit = opened, limit
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self.buffer = bytearray()
        self.end: End | None = None

    @classmethod
    async def open(
        cls, port: int, host: str = "127.0.0.1", tls: SSLContext | None = None, limit: int = 1 << 20
    ) -> "Stream":
        """Connect. `limit` bounds what is received ahead of the reader."""
        loop = asyncio.get_running_loop()
        name = "localhost" if tls else None
        _, stream = await loop.create_connection(lambda: cls(None, limit), host, port, ssl=tls, server_hostname=name)
        return stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > self._limit and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake.set()

    def eof_received(self) -> bool:
        self.end = self.end or End.FIN
        self._wake.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.end = self.end or (End.FIN if exc is None else End.RST)
        self._wake.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Queue bytes; after the end they go nowhere."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """Queue bytes and wait until the other side takes them."""
        self.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Send what is queued, then FIN."""
        self.transport.close()

    def reset(self) -> None:
        """Cut the connection with RST."""
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def more(self) -> bool:
        """Wait for further bytes; False at the end. What is already in the buffer does not count."""
        if self._paused and len(self.buffer) <= self._limit:
            self._paused = False
            self.transport.resume_reading()
        size = len(self.buffer)
        async with asyncio.timeout(PATIENCE):
            while len(self.buffer) == size and self.end is None:
                self._wake.clear()
                await self._wake.wait()
        return len(self.buffer) > size

    def _take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _cut(self) -> Cut:
        assert self.end is not None
        return Cut(self.end, bytes(self.buffer))

    async def until(self, marker: bytes) -> bytes:
        """Bytes up to and with the marker. Raises Cut."""
        while (at := self.buffer.find(marker)) < 0:
            if not await self.more():
                raise self._cut()
        return self._take(at + len(marker))

    async def exactly(self, count: int) -> bytes:
        """That many bytes. Raises Cut."""
        while len(self.buffer) < count:
            if not await self.more():
                raise self._cut()
        return self._take(count)

    async def rest(self) -> tuple[bytes, End]:
        """Everything up to the end, and which end it was."""
        while await self.more():
            pass
        assert self.end is not None
        return self._take(len(self.buffer)), self.end

    async def head(self) -> Head:
        """The next message's head. Raises Cut."""
        return parse_head(await self.until(b"\r\n\r\n"))

    async def pieces(self, framing: Framing, length: int) -> AsyncIterator[bytes]:
        """A body as it comes, transfer coding taken off. Raises Cut where it ends short."""
        if framing is Framing.CHUNKED:
            while size := int((await self.until(b"\r\n")).split(b";")[0], 16):
                yield await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
            while await self.until(b"\r\n") != b"\r\n":
                pass
        elif framing is Framing.LENGTH:
            while length:
                if not self.buffer and not await self.more():
                    raise self._cut()
                piece = self._take(min(length, len(self.buffer)))
                length -= len(piece)
                yield piece
        elif framing is Framing.CLOSE:
            while self.buffer or await self.more():
                yield self._take(len(self.buffer))
            if self.end is End.RST:
                raise self._cut()

    async def body(self, framing: Framing, length: int) -> bytes:
        """A whole body. Raises Cut with what had come."""
        got = bytearray()
        try:
            async for piece in self.pieces(framing, length):
                got += piece
        except Cut as cut:
            raise Cut(cut.end, bytes(got) + cut.got) from None
        return bytes(got)
