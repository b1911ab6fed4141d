"""One HTTP/1.1 server connection.

Requests on a connection are answered strictly in order: the next head is not even looked at
before the answer to the one before is complete and the client has read most of it. So a
pipelined POST is done before the GET behind it is looked up, and a client that does not read
holds one answer in memory and no more. A fresh hit never leaves `data_received`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from typing import Final, Generic, cast

from proxy.edges.inbound import Inbound
from proxy.edges.outbound import Outbound
from proxy.edges.shared import Pending, Shared
from proxy.flow.heads import A
from proxy.rules.message import Reason
from proxy.rules.report import TITLES, problem
from proxy.rules.wire import Refused, head_bytes, refuse_early

_log = logging.getLogger(__name__)

HIGH_WATER: Final = 64 << 10  # bytes waiting in either direction before that side is paused
LINGER: Final = 2.0  # seconds a client gets to read a refusal before the connection is cut
UNASKED: Final = 1.0  # seconds for the first request of a new connection while the process stops


class _Phase(Enum):
    """What a connection is waiting for: each has its deadline and its way to end."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    BUSY = auto()
    TUNNEL = auto()
    LINGER = auto()


# A global is found ten times as fast as an enum's member.
_IDLE: Final = _Phase.IDLE
_BUSY: Final = _Phase.BUSY
_LINGERING: Final = _Phase.LINGER


class Connection(asyncio.Protocol, Generic[A]):
    """One client connection; implements `flow.ports.Client` for the exchange it is in."""

    __slots__ = (
        "_admitted",
        "_asked",
        "_buffer",
        "_deadline",
        "_endless",
        "_eof",
        "_inbound",
        "_keep",
        "_known",
        "_out",
        "_phase",
        "_reading_paused",
        "_scheme",
        "_shared",
        "_started",
        "_task",
        "_told",
        "_transport",
        "_trusting",
        "peer",
        "refused",
        "sent",
        "trusted",
    )

    def __init__(self, shared: Shared[A], scheme: str) -> None:
        self._shared, self._scheme = shared, scheme
        self._buffer = bytearray()
        self._phase, self._deadline = _IDLE, 0.0
        self._asked: A | None = None  # in the exchange under way
        self._inbound: Inbound | None = None  # its body
        self._task: asyncio.Task[None] | None = None
        self._keep = True  # until something speaks against it
        self._started = False
        self._told = False  # an exchange is under way, and notes its end itself
        self._reading_paused = self._eof = False
        self._endless = False  # the answer under way is of unknown length
        self._admitted = False
        self._trusting = shared.trusted  # the networks that the peer was judged by
        self.peer, self.trusted, self.sent = "", False, 0
        self.refused: Refused | None = None

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and refuse it where there are too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without inheriting from it
        self._out = Outbound(self._transport)
        shared = self._shared
        peername = self._transport.get_extra_info("peername")
        self.peer = str(peername[0]) if peername else ""
        self._judge_peer()
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        shared.connections.add(self)
        shared.counters.accepted += 1
        self._wait(_IDLE, shared.limits.header_timeout)
        self._admitted = shared.admitted < shared.limits.max_connections
        shared.admitted += self._admitted
        if not self._admitted:
            self._refuse(Refused(503, Reason.OVERLOADED, ""))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Take down what waits for this client."""
        self._shared.connections.discard(self)
        self._shared.admitted -= self._admitted
        self._phase = _LINGERING
        if self._inbound is not None and not self._inbound.done:
            self._inbound.end("the client left")
        self._inbound = None
        self._out.end()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._phase is _IDLE and not self._buffer and not self._out.paused:
            asked = self._known.recent.get(data) or self._known.get(data)
            if asked is not None:  # so this is one head, whole, and nothing behind it
                self._begin(asked)
                return
        if self._phase is _LINGERING:
            return
        self._buffer += data
        if self._inbound is not None and not self._inbound.done:
            self._take_body()
        self._advance()
        self.flow_inbound()

    def eof_received(self) -> bool:
        """A client may close its sending side and still wait for its answer."""
        self._eof = True
        inbound = self._inbound
        if inbound is not None and not inbound.done and self._phase is not _LINGERING:
            if self._phase is _Phase.TUNNEL:
                inbound.end()
            else:
                self._body_cut_short(inbound)
        if inbound is None:
            self._advance()  # an answer may be complete whose work has not been seen to end
        # TLS has no half-open connections.
        unanswered = self._asked is not None or (self._out.paused and bool(self._buffer))
        return unanswered and self._scheme == "http"

    def pause_writing(self) -> None:
        """The client does not read as fast as is written."""
        self._out.paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._out.resume()
        self._advance()

    def settle_trust(self) -> None:
        """Judge the peer anew. A request under way keeps the word it was read by: what would be forwarded of it
        otherwise might not be what it was looked up as.
        """
        if self._asked is None:
            self._judge_peer()

    def _judge_peer(self) -> None:
        shared = self._shared
        self._trusting = shared.trusted
        self.trusted = shared.is_trusted(self.peer)
        self._known = shared.heads.known(self._scheme, trusted=self.trusted)

    # -- requests in

    def _advance(self) -> None:
        """Answer what is complete, in order, as long as nothing has to wait."""
        while self._buffer and self._asked is None and not self._out.paused and self._phase is not _LINGERING:
            if not self._next_request():
                break
        if self._phase is _LINGERING or self._asked is not None or self._out.paused:
            return
        if self._eof:
            self._finish_writing()
        elif self._reading_paused:
            self.flow_inbound()

    def _next_request(self) -> bool:
        """Take one head off the buffer and begin its exchange; False where it is not complete."""
        buffer, limits = self._buffer, self._shared.limits
        if buffer.startswith(b"\r\n"):
            del buffer[:2]  # RFC 9112 section 2.2: one empty line before a request is ignored
            if not buffer:
                if self._phase is _Phase.HEAD:
                    self._wait(_IDLE, limits.idle_timeout)
                return False
        end = buffer.find(b"\r\n\r\n", 0, limits.max_header_bytes)
        try:
            if end < 0:
                refuse_early(buffer, limits.max_header_bytes)
                if self._phase is not _Phase.HEAD:
                    self._wait(_Phase.HEAD, limits.header_timeout)
                return False
            raw = bytes(buffer[: end + 4])
            del buffer[: end + 4]
            asked = self._shared.heads.read(raw, self._scheme, trusted=self.trusted, limits=limits)
        except Refused as refused:
            self._refuse(refused)
            return False
        self._begin(asked)
        return True

    def _begin(self, asked: A) -> None:
        shared = self._shared
        try:
            if asked.plain and not shared.draining and shared.hit(asked, self):
                return
            self._asked, self._phase, self.sent = asked, _BUSY, 0
            request = asked.request
            self._keep = request.keep_alive
            if request.length != 0:
                self._inbound = Inbound(self.body_wanted, self.flow_inbound, request)
                if not self._take_body():
                    return
                if self._eof and not self._inbound.done:
                    self._body_cut_short(self._inbound)
                    return
            self._told = True
            self._spawn(shared.begin(asked, self))
        except Exception:  # noqa: BLE001 - a bug of ours must not leave a client waiting for ever
            self._fail()

    def resume(self, step: Callable[[], Pending | None]) -> bool:
        """Go on with the request under way."""
        if self._phase is _LINGERING:
            return False
        try:
            self._spawn(step())
        except Exception:  # noqa: BLE001 - likewise
            self._fail()
        if self._buffer or self._eof:
            self._advance()
        return True

    def _spawn(self, pending: Pending | None) -> None:
        if pending is not None:
            self._task = self._shared.spawn(pending, "exchange")
            self._task.add_done_callback(self._exchange_over)

    def _fail(self) -> None:
        self._told = False
        _log.exception("a request could not be answered")
        self._refuse_or_abort(Refused(500, Reason.INTERNAL, ""))

    def _exchange_over(self, task: asyncio.Task[None]) -> None:
        """The work for a request has ended. One that answered is no longer ours: the next request may
        even have begun before this is called.
        """
        if task is not self._task:
            self._advance()
            return
        self._task = None
        if self._phase is _LINGERING:
            return
        if task.cancelled() or self._started or self._transport.is_closing():
            self.abort()
        else:  # a bug of ours, logged by whoever ran the task
            self._told = False
            self._refuse(Refused(500, Reason.INTERNAL, ""))

    def _take_body(self) -> bool:
        """Move body bytes from the buffer to whoever reads them; False where they are refused."""
        inbound = self._inbound
        if inbound is None or not self._buffer:
            return True
        if self._phase is _Phase.BODY:
            self._wait(_Phase.BODY, self._shared.limits.body_timeout)
        try:
            inbound.take(self._buffer)
        except Refused as refused:
            self._refuse_or_abort(refused)
            return False
        return True

    def _body_cut_short(self, inbound: Inbound) -> None:
        """The client closed its side before the body's end, which can never come now."""
        inbound.end("the client closed in mid-body")
        self._refuse_or_abort(Refused(400, Reason.MALFORMED, "The request body is shorter than it says."))

    def body_wanted(self) -> None:
        """The reader of the body waits for the client: its clock runs, and a client that waits to be asked is."""
        if self._phase is _Phase.TUNNEL or self._phase is _LINGERING:
            return  # a reader may go on behind an early answer: nothing of the body will come any more
        self._wait(_Phase.BODY, self._shared.limits.body_timeout)
        inbound = self._inbound
        if inbound is not None and inbound.expects and self._asked is not None and not self._started:
            inbound.expects = False
            self._out.put(b"HTTP/1.1 100 Continue\r\n\r\n")

    def flow_inbound(self) -> None:
        """Stop reading while more waits than is wanted; go on when it is used up."""
        waiting = len(self._buffer) + (self._inbound.size if self._inbound is not None else 0)
        full = waiting > HIGH_WATER and self._phase not in (_Phase.HEAD, _LINGERING)
        if full != self._reading_paused and not self._eof and not self._transport.is_closing():
            self._reading_paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- answers out: flow.ports.Client

    def put(self, head: bytes, tail: bytes) -> None:
        """The whole answer to a plain request: there is nothing to add, to wait for or to reset."""
        self._out.pair(head, tail)
        self._phase, self._deadline = _IDLE, self._shared.idle_until

    def send(self, head: bytes, tail: bytes, size: int) -> None:
        """A whole answer in one write."""
        shared, asked = self._shared, self._asked
        as_is = asked is not None and asked.plain and not shared.draining and self._trusting is shared.trusted
        if as_is and not self._transport.is_closing():  # nothing to add and nothing to reset, as in `put`
            self._asked = self._task = None
            self._told, self.sent = False, size
            self.put(head, tail)
            return
        self._open(head, tail, length=0, close=False)
        self.sent = size
        self._close_answer()

    def start(self, head: bytes, tail: bytes = b"\r\n", *, length: int | None, close: bool = False) -> None:
        """The head of an answer whose body follows."""
        self._open(head, tail, length=length, close=close)

    def _open(self, head: bytes, tail: bytes, *, length: int | None, close: bool) -> None:
        assert self._asked is not None  # noqa: S101 - exchanges answer once, while they last
        request = self._asked.request
        bodiless = request.method == "HEAD" or head[9:12] in (b"204", b"304") or head[9:10] == b"1"
        chunked = length is None and not close and not request.http10 and not bodiless
        if self._inbound is not None and not self._inbound.done:
            self._keep = False  # what is left of the body cannot be told from a next request
        if (length is None and not chunked and not bodiless) or self._shared.draining:
            self._keep = False
        connection = b"" if self._keep else b"Connection: close\r\n"
        if self._keep and request.http10:
            connection = b"Connection: keep-alive\r\n"
        self._started, self._endless, self.sent = True, length is None, 0
        self._out.start(head, connection, tail, chunked=chunked)

    async def write(self, data: bytes) -> None:
        """Some body; waits while the client has not read what was sent before."""
        self._out.give(data)
        self.sent += len(data)
        await self._out.drained()

    def finish(self) -> None:
        """The answer is complete."""
        self._out.finish()
        self._close_answer()

    def _close_answer(self) -> None:
        self._asked = self._task = None
        self._started = self._told = False
        inbound = self._inbound
        self._inbound = None
        if self._trusting is not self._shared.trusted:
            self._judge_peer()
        if self._keep and not self._shared.draining:
            self._wait(_IDLE, self._shared.limits.idle_timeout)
            if self._reading_paused:
                self.flow_inbound()
        elif self._buffer or self._reading_paused or (inbound is not None and not inbound.done):
            self._linger()
        else:
            self._finish_writing()

    def abort(self) -> None:
        """Cut the connection with a reset: a close could pass for the end of the body."""
        self._phase = _LINGERING
        self._out.reset()

    def body(self) -> AsyncIterator[bytes]:
        """The request's body."""
        assert self._inbound is not None  # noqa: S101 - asked only where the request has one
        return self._inbound

    def upgrade(self, head: bytes) -> AsyncIterator[bytes]:
        """Answer 101; what the client sends from here on is not HTTP."""
        self._keep, self._started, self._phase = False, True, _Phase.TUNNEL
        self._endless = False  # left from the answer before
        self._inbound = Inbound(self.body_wanted, self.flow_inbound)
        self._out.put(head + b"\r\n")
        self._take_body()
        if self._eof:
            self._inbound.end()
        return self._inbound

    # -- endings

    def _refuse_or_abort(self, refused: Refused) -> None:
        """A body that turned out malformed: say so if there is still room to."""
        self.refused = refused.with_traceback(None)  # its frames hold this connection
        if self._started:
            self.abort()
            return
        self._refuse(refused)
        if self._task is not None:
            self._task.cancel()

    def _refuse(self, refused: Refused) -> None:
        """Answer with an error of our own and close."""
        headers, body = problem(refused.status, refused.reason, refused.detail)
        head = head_bytes(refused.status, TITLES[refused.status], (*headers, *refused.headers, ("Connection", "close")))
        bodiless = self._asked is not None and self._asked.request.method == "HEAD"
        self._asked = None
        self._out.put(head + b"\r\n" + (b"" if bodiless else body))
        if self._shared.on_refusal is not None and not self._told:
            self._shared.on_refusal(self.peer, refused.status, refused.reason)
        self._linger()

    def _linger(self) -> None:
        """Close our side and read on for a moment: closing with unread bytes would send a reset,
        which can destroy the answer on its way (RFC 9112 section 9.6).
        """
        self._buffer.clear()
        self._wait(_LINGERING, LINGER)
        if self._transport.can_write_eof() and not self._eof:
            self._transport.write_eof()
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
        else:
            self._transport.close()

    def _finish_writing(self) -> None:
        """Close when what was written is read; the write deadline still counts."""
        self._phase, self._deadline = _LINGERING, float("inf")
        self._transport.close()

    def close_if_idle(self) -> None:
        """Close if no request is under way. The first one may be, of a client that has just connected."""
        if self._phase is _IDLE and not self._buffer:
            if self._out.used:
                self._finish_writing()
            else:
                self._deadline = min(self._deadline, self._shared.now() + UNASKED)

    def _wait(self, phase: _Phase, seconds: float) -> None:
        self._phase, self._deadline = phase, self._shared.now() + seconds

    def check(self, now: float) -> None:
        """Enforce the deadlines."""
        out = self._out
        if out.is_stuck(now, self._shared.limits.write_timeout):
            self._shared.counters.timed_out += 1
            self.abort()
            return
        if self._eof and self._endless and self._asked is not None and self._started and out.is_silent(now):
            self.abort()
            return
        if out.pending and self._phase in (_IDLE, _LINGERING):
            # Its client is still reading: what it has to do next is not due yet.
            self._deadline = max(
                self._deadline, now + (LINGER if self._phase is _LINGERING else self._shared.limits.idle_timeout)
            )
            return
        if now < self._deadline or self._phase in (_BUSY, _Phase.TUNNEL):
            return
        match self._phase:
            case _Phase.IDLE:
                self._finish_writing()
            case _Phase.HEAD:
                self._shared.counters.timed_out += 1
                self._refuse(Refused(408, Reason.REQUEST_TIMEOUT, "The request head did not arrive in time."))
            case _Phase.BODY if self._inbound is not None and self._inbound.waiting:
                self._shared.counters.timed_out += 1
                self._inbound.end("the client stalled")
                self._refuse_or_abort(Refused(408, Reason.REQUEST_TIMEOUT, "The request body did not arrive in time."))
            case _Phase.LINGER:
                self._transport.abort()
            case _:
                pass
