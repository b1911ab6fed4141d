"""The upstream client: aiohttp's connector, TLS and response parser under request bytes of our own.

aiohttp's ClientSession is left out on purpose. It reorders and adds fields, encodes values as
UTF-8, resends on its own account, and hides whether a connection was reused, whether a byte of
answer had come, and whether the end of a body was a FIN or a reset.
"""

import asyncio
import ssl as tls
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from proxy.edges.upstream_wire import PIECE, Connector, UpstreamWire, WireTunnel, close_soon, without_frames
from proxy.flow.ports import Answer, Call, ClientError, OriginError, Tunnel
from proxy.rules.framing import Unreadable, read_head
from proxy.rules.message import Reason

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

_MAX_LINE: Final = 32 << 10  # bytes
_MAX_FIELDS: Final = 256
_RESENDABLE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_UNTIMED: Final = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)


class HttpOrigin:
    """One upstream over HTTP/1.1. Made inside the running loop.

    `url` is scheme://authority[/base]; the base path goes in front of every target. Durations are
    seconds: `connect_timeout` for address, TCP and TLS together, `timeout` from the call to the
    head, waiting for one of the `max_connections` included, `body_timeout` between two pieces of
    the body, asked for each. `server_name` replaces the host of `url` in SNI and verification. `spawn` owns the
    tasks that send request bodies.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout: float,
        timeout: float,
        max_connections: int,
        ssl: tls.SSLContext | None,
        server_name: str | None,
        body_timeout: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        scheme, _, rest = url.partition("://")
        authority, slash, base = rest.partition("/")
        self._base = f"{slash}{base}".rstrip("/")
        self._connect_timeout = connect_timeout
        self.timeout, self.body_timeout, self.spawn = timeout, body_timeout, spawn
        self._slots = asyncio.Semaphore(max_connections)
        self._connector = Connector(keeps=True)
        # What the connector asks of a request is only where to connect to.
        self._destination = aiohttp.ClientRequest(
            "GET",
            URL(f"{scheme}://{authority}"),
            loop=asyncio.get_running_loop(),
            ssl=True if ssl is None else ssl,
            server_hostname=server_name,
        )
        self.open: set[_Exchange] = set()
        self._calls = 0  # from the start of `fetch` to the end of the answer
        self._quiet = asyncio.Event()  # set whenever there are none left
        self.requests = self.retries = 0
        self.failures: dict[Reason, int] = {}  # how often there was no answer, or not all of one

    @property
    def connections(self) -> int:
        """How many connections are in use."""
        return len(self.open)

    @property
    def errors(self) -> int:
        """How often there was no answer, or not all of one."""
        return sum(self.failures.values())

    def count(self, reason: Reason) -> None:
        """One more failure."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    async def fetch(self, call: Call) -> Answer:
        """Send and wait for the response head.

        Raises OriginError, and whatever ClientError the request's body raised.
        """
        head = self._head(call)
        self.requests += 1
        self._calls += 1
        try:
            return await self._within_deadline(call, head)
        except BaseException:
            self._call_over()
            raise

    async def _within_deadline(self, call: Call, head: bytes) -> "_Exchange":
        queued = self._slots.locked()
        try:
            async with asyncio.timeout(self.timeout) as due:
                await self._slots.acquire()
                try:
                    return await self._exchange(call, head, due)
                except BaseException:
                    self._slots.release()
                    raise
        except TimeoutError:
            self.count(Reason.OVERLOADED if queued else Reason.TIMEOUT)
            if queued:  # no word on the upstream's health: it was asked too late, or never
                raise OriginError(Reason.OVERLOADED, "no connection to it became free soon enough") from None
            raise OriginError(Reason.TIMEOUT, f"no response head within {self.timeout:g} s") from None
        except OriginError as error:
            self.count(error.reason)
            raise

    def _head(self, call: Call) -> bytes:
        lines = [f"{call.method} {self._base}{call.target} HTTP/1.1\r\n", *[f"{n}: {v}\r\n" for n, v in call.headers]]
        if call.body is not None and call.length is None:
            lines.append("Transfer-Encoding: chunked\r\n")
        text = "".join(lines)
        if text.count("\n") != len(lines) or text.count("\r") != len(lines):
            raise ValueError("a line break inside a request line or field")
        return f"{text}\r\n".encode("latin-1")

    async def _exchange(self, call: Call, head: bytes, due: asyncio.Timeout) -> "_Exchange":
        retrying = False
        while True:
            conn, wire = await self._connect(fresh=retrying)
            reused, wire.used = wire.used, True
            exchange = _Exchange(self, conn, wire, due)
            self.open.add(exchange)
            try:
                await exchange.run(call, head)
            except OriginError as error:
                exchange.abort()
                # RFC 9112 section 9.3.1: an idle connection may close just as a request is sent.
                died_idle = error.reason is Reason.DISCONNECTED and reused and not wire.received
                if retrying or not died_idle or call.method not in _RESENDABLE or call.body is not None:
                    raise
                self.retries += 1
                retrying = True
            except BaseException:
                exchange.abort()
                raise
            else:
                return exchange

    async def _connect(self, *, fresh: bool) -> tuple[Connection, UpstreamWire]:
        while True:
            limit = asyncio.timeout(self._connect_timeout)
            try:
                async with limit:
                    conn = await self._connector.connect(self._destination, traces=[], timeout=_UNTIMED)
            except (aiohttp.ClientError, OSError) as error:
                self._connector.clear_dns_cache()  # perhaps the upstream has moved
                reason = Reason.CONNECT_TIMEOUT if limit.expired() else Reason.CONNECT
                raise OriginError(reason, str(error)) from without_frames(error)
            wire = conn.protocol
            if not isinstance(wire, UpstreamWire):
                raise TypeError("aiohttp no longer makes connections with BaseConnector._factory")
            # Bytes that came while it lay idle would be taken for the answer to the next request.
            if not wire.used or not (fresh or wire.received or wire.should_close):
                return conn, wire
            conn.close()

    def finished(self, exchange: "_Exchange") -> None:
        """An answer was closed: its place is free."""
        self.open.discard(exchange)
        self._slots.release()
        self._call_over()

    def _call_over(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._quiet.set()

    async def retire(self) -> None:
        """Close all connections once every answer is closed, and keep none from then on.

        Who was sent here before still may come, even seconds later, and is served. Nobody needs to close this again.
        """
        while self._calls:
            self._quiet.clear()
            await self._quiet.wait()
        kept, self._connector = self._connector, Connector(keeps=False)
        await kept.close()

    async def close(self) -> None:
        """Close all connections; answers still open are cut."""
        for exchange in tuple(self.open):
            exchange.abort()
        await self._connector.close()


class _Exchange:
    """One call on one connection, and its answer."""

    def __init__(self, origin: HttpOrigin, conn: Connection, wire: UpstreamWire, due: asyncio.Timeout) -> None:
        self._origin, self._conn, self._wire = origin, conn, wire
        self._due: asyncio.Timeout | None = due
        self._upload: asyncio.Task[None] | None = None
        self._unsent = False  # whether some of the request's body is still to be sent
        self._client_error: ClientError | None = None
        self._closed = False
        self.on_close: Callable[[], None] | None = None

    async def run(self, call: Call, head: bytes) -> None:
        """Send the request, its body concurrently, and wait for the final response head."""
        wire = self._wire
        wire.set_response_params(
            skip_payload=call.method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=PIECE,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            max_headers=_MAX_FIELDS,
        )
        transport = wire.transport
        if transport is None or transport.is_closing():  # uvloop raises RuntimeError where asyncio only warns
            raise OriginError(Reason.DISCONNECTED, "the connection closed before the request was sent")
        call.sent()
        transport.write(head)
        if call.body is not None:
            self._unsent = True
            self._upload = self._origin.spawn(self._send_body(call.body, call.length), "upload")
        message, self._content = await self._final()
        self._due = None
        try:
            framed = read_head(
                message.version,
                message.code,
                message.reason.encode("utf-8", "surrogateescape"),
                message.raw_headers,
                method=call.method,
                upgrade=call.upgrade and wire.upgraded,
            )
        except Unreadable as error:
            raise OriginError(Reason.BAD_RESPONSE, str(error)) from error
        self.head, self.length, self.close_delimited = framed.head, framed.length, framed.close_delimited
        wire.watch(self._content)

    async def _final(self) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        try:
            while True:
                message, content = await self._wire.read()
                if not 100 <= message.code < 200 or message.code == 101:  # RFC 9110 section 15.2
                    return message, content
        except HttpProcessingError as error:
            raise OriginError(Reason.BAD_RESPONSE, error.message.partition("\n")[0]) from without_frames(error)
        except (aiohttp.ClientError, OSError) as error:
            if self._client_error is not None:
                clients, self._client_error = self._client_error, None  # kept, it would keep this with its frames
                try:
                    raise clients from None
                finally:
                    del clients
            raise OriginError(Reason.DISCONNECTED, str(error)) from without_frames(error)

    async def _send_body(self, body: AsyncIterator[bytes], length: int | None) -> None:
        writer = StreamWriter(self._wire, asyncio.get_running_loop())
        writer.length = length  # what is longer is clipped, not taken for a next request
        if length is None:
            writer.enable_chunking()
        try:
            self._expect(None)
            async for piece in body:
                self._expect(self._origin.timeout)
                await writer.write(piece)
                self._expect(None)
            if writer.length:
                self._client_error = ClientError("the request's body ended short of its length")
                return
            self._expect(self._origin.timeout)
            await writer.write_eof()
            self._unsent = False
        except ClientError as error:
            self._client_error = error.with_traceback(None)  # whose frames hold this very exchange
        except (aiohttp.ClientError, OSError):
            return  # who waits for the answer hears of it from the connection
        finally:
            if self._unsent:
                self._cut()  # never ended in a way that makes what was sent look whole

    def _expect(self, seconds: float | None) -> None:
        """Move the deadline for the head, which stands still while it is the client that is waited for."""
        if self._due is not None and not self._due.expired():
            when = None if seconds is None else asyncio.get_running_loop().time() + seconds
            self._due.reschedule(when)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces of at most 128 KiB."""
        while data := await self._piece():
            yield data
        if self.close_delimited and self._wire.cut:  # aiohttp takes a reset for the end
            self._origin.count(Reason.ABORTED)
            raise OriginError(Reason.ABORTED, "the connection was reset inside the body")

    async def _piece(self) -> bytes:
        # Server-sent events are silent for as long as nothing happens.
        events = self.head.fields.get("content-type", "").lower().startswith("text/event-stream")
        limit = asyncio.timeout(None if events else self._origin.body_timeout())
        try:
            async with limit:
                return await self._content.read(PIECE)
        except (aiohttp.ClientError, OSError) as error:
            self._origin.count(Reason.TIMEOUT if limit.expired() else Reason.ABORTED)
            if limit.expired():
                raise OriginError(Reason.TIMEOUT, "the body stalled") from None
            raise OriginError(Reason.ABORTED, str(error)) from without_frames(error)

    def tunnel(self) -> Tunnel:
        """The raw connection after a 101."""
        return WireTunnel(self._wire)

    def close(self) -> None:
        """Give the connection back if both bodies are through, else abort it."""
        if self._closed:
            return
        self._closed = True
        if self.on_close is not None:
            self.on_close()
        transport = self._wire.transport
        if self._wire.upgraded:
            if self._upload is not None:
                self._upload.cancel()
            if transport is not None:
                close_soon(transport)
            self._conn.close()
        elif (
            transport is not None
            and self._content.is_eof()
            and not self._unsent
            and not transport.get_write_buffer_size()
            and self._wire.between_messages()
        ):
            self._wire.received = 0
            self._wire.watch(None)
            self._conn.release()
        else:
            self.abort()
        self._origin.finished(self)

    def abort(self) -> None:
        """End the connection at once, whatever is under way on it."""
        self._due = None
        if self._upload is not None:
            self._upload.cancel()
        self._cut()
        self._conn.close()
        self._origin.open.discard(self)

    def _cut(self) -> None:
        # Not close(): that would first wait for an upstream that reads no more.
        self._wire.cut = True
        if self._wire.transport is not None:
            self._wire.transport.abort()
