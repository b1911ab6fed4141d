"""What is traced, with a span around it: the two ways into the exchange, and all that is waited for behind them."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final

from proxy.flow.answers import Pending
from proxy.flow.flights import Flight, Landed, Streaming
from proxy.flow.ports import Answer, Call, Client, OriginError
from proxy.flow.sharing import Claim, Found, Rest
from proxy.flow.site import Asked, Upstream
from proxy.flow.tracing import Tracer, TraceSpan
from proxy.rules.forward import in_trace
from proxy.rules.message import Reason

_ABANDONED: Final = "abandoned"  # nobody waits for it any more


class Traced:
    """Decides about each request once, before it is answered: one that is not sampled takes the short way as ever,
    one that is takes the long way, where its parts can be told apart.
    """

    __slots__ = ("_begin", "_decided", "_hit", "_sampled", "_silent")

    def __init__(
        self,
        tracer: Tracer,
        hit: Callable[[Asked, Client], bool],
        begin: Callable[[Asked, Client, TraceSpan | None], Pending | None],
    ) -> None:
        self._sampled, self._silent, self._hit, self._begin = tracer.sampled, tracer.silent, hit, begin
        self._decided: tuple[Client, TraceSpan | None] | None = (
            None  # of the request that `hit` has just left to `begin`
        )

    def hit(self, asked: Asked, client: Client) -> bool:
        """As Exchange.hit."""
        lane = asked.lane
        span = self._sampled(asked.request, None if lane is None else lane.route, client.peer)
        if span is None and self._hit(asked, client):
            return True
        self._decided = client, span
        return False

    def begin(self, asked: Asked, client: Client) -> Pending | None:
        """As Exchange.begin."""
        decided, self._decided = self._decided, None
        # Who is not answered by `hit` comes here in the same breath: a second decision would sample misses too often.
        if decided is not None and decided[0] is client:
            span = decided[1]
        else:
            span = self._sampled(asked.request, None if asked.lane is None else asked.lane.route, client.peer)
        if span is None:
            return self._begin(asked, client, self._silent(asked.request))
        try:
            return self._begin(asked, client, span)
        except BaseException:
            span.end(error=Reason.INTERNAL)
            raise


async def called(span: TraceSpan, upstream: Upstream, call: Call, fetch: Callable[[Call], Awaitable[Answer]]) -> Answer:
    """A call as a part of its trace, to the end of the answer. Raises OriginError."""
    part = span.call(call.method, call.target, upstream.name, upstream.host)
    try:
        answer = await fetch(replace(call, headers=in_trace(call.headers, part.outbound)))
    except OriginError as error:
        part.end(error=error.reason)
        raise
    except BaseException:
        part.end(_ABANDONED)
        raise
    part.head(answer.head.status)
    answer.on_close = partial(_closed, part, answer.on_close)
    return answer


def _closed(part: TraceSpan, then: Callable[[], None] | None) -> None:
    part.end()
    if then is not None:
        then()


def looked(span: TraceSpan, then: Callable[[Found | Rest], None], found: Found | Rest) -> None:
    """What a look in the shared store came to."""
    span.end("found" if isinstance(found, Found) else "not found")
    then(found)


async def asked(asking: Coroutine[Any, Any, Claim], span: TraceSpan) -> Claim:
    """The answer to a question to the shared store."""
    try:
        claim = await asking
        span.end(type(claim).__name__.lower())
        return claim
    finally:
        span.end(_ABANDONED)


def outcome(flight: Flight) -> tuple[str, Reason | None]:
    """What has come of a flight, in a word, and what went wrong."""
    match flight.arrival:
        case Landed(_, _, stale, _):
            return "bridged" if stale else "validated", None
        case Streaming(_, _, _, draft, _, _) if flight.broke is None:
            return "stored" if draft is not None and flight.kept else "relayed", None
        case Streaming() if flight.broke is Reason.INTERNAL:  # the last who read it has left
            return _ABANDONED, None
        case _:
            return "failed", flight.broke
