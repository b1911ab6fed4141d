"""Writing an answer to the client, and noting how it came to be."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final

from proxy.flow.background import Background
from proxy.flow.ports import Client, ClientError, Clock, Journal, OriginError, Outcome, Tunnel
from proxy.flow.site import Visit
from proxy.flow.tally import Tallies
from proxy.flow.tracing import TraceSpan
from proxy.flow.tunnel import carry
from proxy.rules.admit import INLINE
from proxy.rules.message import Entry, Fwd, Head, Headers, Reason, Request
from proxy.rules.ranges import Span
from proxy.rules.report import TITLES, Account, problem
from proxy.rules.respond import COPIED, END, Reply, age_line, from_arrival, from_entry
from proxy.rules.wire import field_lines, head_bytes

HELD_BACK: Final = frozenset({Reason.BREAKER_OPEN, Reason.UPSTREAM_BUSY})  # the upstream was not asked

Pending = Coroutine[Any, Any, None]


class Answers:
    """Every answer of the data listener but a plain hit leaves through here, once, and is noted once."""

    def __init__(
        self,
        clock: Clock,
        journal: Journal | None,
        request_ids: Callable[[], str],
        background: Background,
        tallies: Tallies,
    ) -> None:
        self._clock, self.journal, self.request_ids, self.background = clock, journal, request_ids, background
        self.tallies = tallies

    async def watch(self, visit: Visit, work: Callable[[], Pending], fwd: Fwd | None) -> None:
        """Do the work for a client that may leave before it is done; then that is noted, once."""
        try:
            await work()
        except ClientError:
            self.broken_off(visit, fwd)
        except asyncio.CancelledError:
            self.broken_off(visit, fwd)
            raise
        finally:
            if visit.span is not None:
                visit.span.end(error=Reason.INTERNAL)  # a bug of ours, where it has not ended yet

    def broken_off(self, visit: Visit, fwd: Fwd | None) -> None:
        """Note that the client was gone before it had its answer."""
        status, reason = _ending(visit.client)
        self.note(visit, status, Account(reason, fwd=fwd), complete=False)

    def serve(self, visit: Visit, entry: Entry, account: Account) -> Callable[[], Pending] | None:
        """Answer from an entry: at once, or as work still to do where the body is large."""
        own = age_line(entry, self._clock.now()) + self._account(visit, account)
        reply = from_entry(visit.request, entry, own)
        if account.fwd is None:
            self.tallies.save(visit.lane.route.name, entry.terms.fetch_seconds)
        if reply.pieces:
            return partial(self._write, visit, reply, _pieces(reply.pieces), account)
        visit.client.send(reply.head, reply.tail, reply.sent)
        self.note(visit, reply.status, account)
        return None

    async def relay(
        self,
        visit: Visit,
        head: Head,
        length: int | None,
        body: AsyncIterator[bytes],
        account: Account,
        *,
        whole: bool,
        close: bool,
    ) -> None:
        """Answer with what is arriving; see `from_arrival`. `close`: only its connection ends the body."""
        reply = from_arrival(
            visit.request,
            head,
            length,
            self._clock.wall(),
            visit.lane.policy,
            self._account(visit, account),
            whole=whole,
        )
        if reply.span is not None:
            body = _slice(body, reply.span)
        elif reply.status != head.status or visit.request.method == "HEAD":
            body = _pieces(())
        await self._write(visit, reply, body, account, close=close and reply.status == head.status)

    async def _write(
        self, visit: Visit, reply: Reply, body: AsyncIterator[bytes], account: Account, *, close: bool = False
    ) -> None:
        client = visit.client
        client.start(reply.head, reply.tail, length=reply.length, close=close)
        try:
            async for chunk in body:
                await client.write(chunk)
        except OriginError as error:
            # The head is out: all that is left is to make sure nobody takes this for a whole answer.
            client.abort()
            self.note(visit, reply.status, Account(error.reason, fwd=account.fwd), complete=False)
            return
        client.finish()
        self.note(visit, reply.status, account)

    async def tunnel(self, visit: Visit, head: Head, upstream: Tunnel, account: Account) -> None:
        """Hand the connection over after the upstream's 101 (RFC 9110 section 15.2.2)."""
        client = visit.client
        inbound = client.upgrade(head_bytes(head.status, head.reason, head.headers))
        try:
            complete = await carry(client, inbound, upstream, self.background)
        finally:
            upstream.close()
        if complete:
            client.finish()
        else:
            client.abort()
        self.note(visit, head.status, account, complete=complete)

    def error(self, visit: Visit, status: int, account: Account, *, after: int = 1) -> None:
        """An error of our own on a cached route. One that will pass is worth another try `after` so many seconds."""
        headers, body = problem(status, account.reason)
        if status in (429, 503):
            headers = (*headers, ("Retry-After", str(after)))
        head = head_bytes(status, TITLES.get(status, "Error"), headers) + self._account(visit, account)
        body = b"" if visit.request.method == "HEAD" else body
        visit.client.send(head, END + body, len(body))
        self.note(visit, status, account)

    def unrouted(
        self,
        request: Request,
        client: Client,
        status: int,
        reason: Reason,
        extra: Headers,
        now: float,
        detail: str = "",
        *,
        span: TraceSpan | None,
    ) -> None:
        """An error for a request that no route takes."""
        headers, body = problem(status, reason, detail)
        self.own(request, client, status, reason, (*headers, *extra), body, now, span=span)

    def own(
        self,
        request: Request,
        client: Client,
        status: int,
        reason: Reason,
        headers: Headers,
        body: bytes,
        now: float,
        *,
        span: TraceSpan | None,
    ) -> None:
        """An answer of our own to a request that no route takes."""
        body = b"" if request.method == "HEAD" else body
        client.send(head_bytes(status, TITLES[status], headers), END + body, len(body))
        request_id = request.fields.get("x-request-id", "")
        self._record(request, client, None, request_id, status, Account(reason), now, complete=True)
        if span is not None:
            span.answered(status, Account(reason), complete=True)

    def unheard(self, request: Request, client: Client, now: float, *, span: TraceSpan | None) -> None:
        """Note that the client of a request that no route takes was gone before it had its answer."""
        status, reason = _ending(client)
        request_id = request.fields.get("x-request-id", "")
        self._record(request, client, None, request_id, status, Account(reason), now, complete=False)
        if span is not None:
            span.answered(status, Account(reason), complete=False)

    def note(self, visit: Visit, status: int, account: Account, *, complete: bool = True) -> None:
        """Count it, and tell the journal how it ended."""
        self.tallies.hot.add(visit.key)
        if visit.permit is not None and (account.fwd is None or account.collapsed or account.reason in HELD_BACK):
            visit.permit.refund(self._clock.now())
        route, request = visit.lane.route.name, visit.request
        # The id that went upstream with it, or the client's: another would be found in nobody else's log.
        request_id = request.fields.get("x-request-id", "") if account.fwd is None else visit.request_id
        self._record(request, visit.client, route, request_id, status, account, visit.now, complete=complete)
        if visit.span is not None:
            visit.span.answered(status, account, complete=complete)

    def _record(
        self,
        request: Request,
        client: Client,
        route: str | None,
        request_id: str,
        status: int,
        account: Account,
        began: float,
        *,
        complete: bool,
    ) -> None:
        seconds = self._clock.now() - began
        self.tallies.note(route or "", request.method, status, account, client.sent, seconds)
        self.tell(request, client, route, request_id, status, account, seconds, complete=complete)

    def tell(
        self,
        request: Request,
        client: Client,
        route: str | None,
        request_id: str,
        status: int,
        account: Account,
        seconds: float,
        *,
        complete: bool,
    ) -> None:
        """Tell the journal, of what is counted already, if there is one."""
        if self.journal is not None:
            wall, sent = self._clock.wall(), client.sent
            self.journal.record(
                Outcome(wall, client.peer, request, request_id, route, status, account, sent, seconds, complete)
            )

    def _account(self, visit: Visit, account: Account) -> bytes:
        lane, permit = visit.lane, visit.permit
        lines = field_lines(account.headers(x_cache=lane.route.x_cache)) if lane.policy.enabled else b""
        return lines if permit is None else lines + permit.told


def _ending(client: Client) -> tuple[int, Reason]:
    """How an exchange ended whose client has had no answer to it."""
    refused = client.refused
    return (499, Reason.CLIENT_GONE) if refused is None else (refused.status, refused.reason)


async def _pieces(body: tuple[bytes | memoryview, ...]) -> AsyncIterator[bytes]:
    for piece in body:
        step = INLINE if isinstance(piece, bytes) else COPIED
        for at in range(0, len(piece), step):
            yield bytes(piece[at : at + step])


async def _slice(body: AsyncIterator[bytes], span: Span) -> AsyncIterator[bytes]:
    """The span of a body as it passes; what comes behind it is not waited for."""
    at = 0
    async for chunk in body:
        begin, end = max(span.first - at, 0), min(span.last + 1 - at, len(chunk))
        if begin < end:
            yield chunk[begin:end]
        at += len(chunk)
        if at > span.last:
            return
