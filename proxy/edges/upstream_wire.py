"""A connection to an upstream as aiohttp makes and parses it, made to tell what it keeps to itself."""

import asyncio
from functools import partial
from typing import Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from proxy.flow.ports import OriginError
from proxy.rules.message import Reason

IDLE_SECONDS: Final = 15.0  # upstreams close idle connections too, and theirs would race a request
PIECE: Final = 128 << 10  # bytes of a body that are handed on at once
_LINGER_SECONDS: Final = 5.0


class UpstreamWire(ResponseHandler):
    """aiohttp's end of a connection, made to tell what it keeps to itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = False  # whether an earlier call went over it
        self.received = 0  # bytes since the current request was sent, or since it lies idle
        self.cut = False  # ended, and not by the upstream's FIN
        self._lost = False
        self._content: aiohttp.StreamReader | None = None

    def data_received(self, data: bytes) -> None:
        """Count, and parse."""
        self.received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell a reset from an end, and the reader of a body of either."""
        self.cut = self.cut or exc is not None
        super().connection_lost(exc)
        self._lost = True
        self._break_off()

    def between_messages(self) -> bool:
        """Whether no part of another message has come behind the last whole one."""
        try:
            return self._parser is None or self._parser.feed_eof() is None
        except HttpProcessingError:
            return False

    def watch(self, content: aiohttp.StreamReader | None) -> None:
        """Take the body that is arriving, so that its reader learns of the connection's end; None: it is over.

        A body knows its connection, so one that knew its body for longer would be garbage with it.
        """
        self._content = content
        if self._lost:
            self._break_off()

    def _break_off(self) -> None:
        # After a malformed chunk aiohttp drops the body without a word, and its reader would wait for ever.
        content = self._content
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection ended inside the body"))
        self._content = None


class Connector(aiohttp.TCPConnector):
    """Makes such connections, keeps those that are free, or closes them, and bounds nothing."""

    def __init__(self, *, keeps: bool) -> None:
        # The origin counts connections itself: this limit forgets to pass a freed place on when
        # the one it was given to is cancelled at that moment.
        super().__init__(limit=0, keepalive_timeout=IDLE_SECONDS if keeps else None, force_close=not keeps)
        self._factory = cast("partial[ResponseHandler]", partial(UpstreamWire, loop=asyncio.get_running_loop()))


class WireTunnel:
    """The bytes behind a 101, those that came with it included. It is its own parser to aiohttp."""

    def __init__(self, wire: UpstreamWire) -> None:
        loop = asyncio.get_running_loop()
        self._wire = wire
        self._writer = StreamWriter(wire, loop)
        self._stream = aiohttp.StreamReader(wire, PIECE, loop=loop)
        wire.set_parser(self, self._stream)
        if wire.transport is None:
            self._stream.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As aiohttp calls its parsers: bytes that came."""
        self._stream.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """Likewise: no more will."""
        self._stream.feed_eof()

    async def read(self) -> bytes:
        """Next bytes, empty at the end."""
        return await self._stream.read(PIECE)

    async def write(self, data: bytes) -> None:
        """Send, waiting while the upstream does not read. Raises OriginError."""
        try:
            await self._writer.write(data)
            await self._writer.drain()
        except (aiohttp.ClientError, OSError) as error:
            raise OriginError(Reason.ABORTED, str(error)) from without_frames(error)

    def close(self) -> None:
        """Close both directions, once what was written is on its way."""
        if self._wire.transport is not None:
            close_soon(self._wire.transport)


def without_frames(error: BaseException) -> BaseException:
    """The error, none the worse for no traceback, nor those that led to it.

    aiohttp keeps such errors with the connection, and their frames hold the connection: only the collector would
    free either.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def close_soon(transport: asyncio.Transport) -> None:
    """Close once what was written is on its way, but do not wait for ever."""
    transport.close()
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, transport.abort)
