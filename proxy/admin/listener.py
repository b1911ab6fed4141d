"""HTTP as the admin listener speaks it: JSON bodies in and out, and every error a problem document."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.admin.problems import Refusal, Trouble

_log = logging.getLogger("readthrough")

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]

MAX_BODY: Final = 1 << 20  # bytes; what aiohttp takes at most too
_MAX_FIELDS: Final = 64  # of at most 8 KiB each: heads that do not end take 64 MiB at the most
_BODY_TIMEOUT: Final = 10.0  # seconds for all of it
AT_ONCE: Final = 16 << 10  # bytes that are read, and parsed, before it is looked at what they are
_FIELDS: Final = {
    hdrs.SERVER: "readthrough",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
}


def json_answer(members: Mapping[str, Any], *, status: int = 200) -> web.Response:
    """An answer of plain data."""
    return web.json_response(members, status=status)


def peer_of(request: web.BaseRequest) -> str:
    """The address of whoever asks. Behind a Unix socket there is only the process that answers for several."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    told = None if isinstance(name, tuple) else request.headers.get(hdrs.X_FORWARDED_FOR)
    return told or request.remote or "unknown"


async def body_of(request: web.BaseRequest, most: int = MAX_BODY) -> bytes:
    """The body of a request. Raises Refusal where it has more than `most` bytes, is too slow, or breaks off."""
    if (request.content_length or 0) > min(most, MAX_BODY):
        raise _too_large(min(most, MAX_BODY))
    try:
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        async with asyncio.timeout(_BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise Refusal(Trouble.BODY_TIMEOUT, f"The body did not come within {_BODY_TIMEOUT:g} s.") from None
    except (HttpProcessingError, web.RequestPayloadError, ConnectionError):
        raise Refusal(Trouble.MALFORMED, "The body broke off or is badly framed.") from None


def _too_large(most: int) -> Refusal:
    return Refusal(Trouble.BODY_TOO_LARGE, f"The body is larger than {most} bytes, which is the most taken here.")


async def answer(request: web.BaseRequest, handle: Handler) -> web.Response:
    """What the handler answers, or what went wrong there."""
    try:
        response = await handle(request)
    except Refusal as refusal:
        response = refusal.response()
    except Exception:  # noqa: BLE001 - it is logged, and whoever asked is told
        _log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        response = Refusal(Trouble.INTERNAL, "Something went wrong here; it has been logged.").response()
    response.headers.update(_FIELDS)
    return response


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may take, in seconds: until its first byte or the next one's, from there to a whole head, and to
    take all of an answer. One that was answered before its body had come has `linger` to take that. `connections` may
    be open at once.
    """

    idle: float = 75.0
    head: float = 10.0
    write: float = 30.0
    linger: float = 1.0
    connections: int = 128


class Connection(web.RequestHandler):
    """One client, to whom what aiohttp cannot read is explained like everything else. It is cut where it takes
    longer than it may: aiohttp has one limit for idling and a head that does not end, and none for an answer that
    nobody takes.

    What comes is parsed in the loop that serves everybody, so nothing is parsed that nobody will read: neither the
    chunks of a body, which need no token and may be a byte each, nor what is left of one when it has its answer.
    """

    __slots__ = ("_bounds", "_deaf", "_door", "_gone", "_late", "_waits", "_wire")

    def __init__(self, door: "Door", bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            door,
            loop=loop,
            keepalive_timeout=86_400.0,  # ours comes first, and does not wait for what nobody takes
            access_log=None,  # type: ignore[arg-type]  # none is kept
            auto_decompress=False,
            max_headers=_MAX_FIELDS,
            lingering_time=0.0,  # it would read on meanwhile
        )
        self._door, self._bounds = door, bounds
        self._late: asyncio.TimerHandle | None = None
        self._waits = False  # for a head, of which nothing has come yet
        self._deaf = False  # nothing is read any more; what was read before is answered yet
        self._gone = asyncio.Event()
        self._wire: asyncio.Transport | None = None  # until it is lost; aiohttp forgets its own when it closes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._wait()
        self._door.make_room()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the transport."""
        self._wire = None
        self._gone.set()
        self._cut_after(None)
        self._door.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the transport; without data by aiohttp, when it has room again."""
        if self._deaf:
            return
        super().data_received(data)
        if self._upgraded or any(getattr(head, "chunked", True) for head, _ in self._messages):  # an error has none
            self._stop_reading()
        if self._waits:
            self._waits = False
            self._cut_after(self._bounds.head)

    def begun(self) -> None:
        """A whole head has come; how long its body and its answer may take is settled where they are made."""
        self._waits = False
        self._cut_after(None)
        self._door.waiting.pop(self, None)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Writes an answer; whether the client has left meanwhile. Called by aiohttp."""
        ends = not request.content.is_eof() or _is_chunked(request) or (self._deaf and not self._messages)
        if ends:
            self._stop_reading()
            resp.force_close()
        try:
            async with asyncio.timeout(self._bounds.write):
                finished = await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.cut()
            return resp, True
        finally:
            self._wait()
        if ends:
            await self._linger()
        return finished

    async def _linger(self) -> None:
        """Let the client take its answer: to close with something unread would take that away from it."""
        if self._wire is None:
            return
        self._stop_reading()  # again: aiohttp may have had room meanwhile
        if self._wire.can_write_eof() and not self._wire.is_closing():
            self._wire.write_eof()
        self._cut_after(self._bounds.linger)
        await self._gone.wait()

    def _stop_reading(self) -> None:
        self._deaf = True
        if self._wire is not None:
            self._wire.pause_reading()

    def cut(self) -> None:
        """End it at once, whatever is still unsent."""
        self._door.waiting.pop(self, None)
        if self._wire is not None:
            self._wire.abort()

    def _wait(self) -> None:
        if self._wire is not None:
            self._waits = True
            self._door.waiting[self] = None
            self._cut_after(self._bounds.idle)

    def _cut_after(self, seconds: float | None) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = None if seconds is None else self._loop.call_later(seconds, self.cut)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to bytes that are no request. What they were is in `exc`: the token too, where a head has it."""
        del message
        level = logging.ERROR
        if isinstance(exc, HttpProcessingError):
            exc, level = None, logging.INFO
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        _log.log(level, "a request of %s could not be read: status %d", request.remote, status, exc_info=exc)
        trouble, detail = (
            (Trouble.INTERNAL, "Something went wrong here; it has been logged.")
            if status >= 500
            else (Trouble.MALFORMED, "This is not an HTTP request that can be read.")
        )
        response = Refusal(trouble, detail).response()
        response.headers.update(_FIELDS)
        response.force_close()
        return response


def _is_chunked(request: web.BaseRequest) -> bool:
    return hdrs.TRANSFER_ENCODING in request.headers


async def _refuse_chunked(_request: web.BaseRequest) -> web.Response:
    raise Refusal(Trouble.LENGTH_REQUIRED, "A body comes with a Content-Length here, not in chunks.")


class _Reader(asyncio.BufferedProtocol):
    """Has a connection read little at a time: one that is given all there is parses it before anybody can look."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._space = connection, memoryview(bytearray(AT_ONCE))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the transport."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._connection.resume_writing()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Called by the transport."""
        return self._space

    def buffer_updated(self, size: int) -> None:
        """Called by the transport."""
        self._connection.data_received(bytes(self._space[:size]))


class Door(web.Server):
    """Makes a Connection of whatever connects. `waiting` are those that have not asked yet, or not again: the first
    has waited longest.
    """

    def __init__(self, handle: Handler, bounds: Bounds | None = None) -> None:
        async def answered(request: web.BaseRequest) -> web.Response:
            connection = request.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - nothing else is made here
            connection.begun()
            return await answer(request, _refuse_chunked if _is_chunked(request) else handle)

        super().__init__(answered)
        self.waiting: dict[Connection, None] = {}
        self._bounds = bounds or Bounds()

    def make_room(self) -> None:
        """Cut who has waited longest where there are too many: whoever comes to ask, as a probe does, gets in however
        many come to stay. Where all of them have asked it is the newest, which has not yet.
        """
        if len(self.connections) > self._bounds.connections:
            next(iter(self.waiting)).cut()

    def __call__(self) -> asyncio.BufferedProtocol:  # type: ignore[override]  # it is for the transport alone
        """A new connection."""
        return _Reader(Connection(self, self._bounds, asyncio.get_running_loop()))
