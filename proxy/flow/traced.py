"""The two ways into the exchange, with a span around what is sampled."""

from collections.abc import Callable

from proxy.flow.answers import Pending
from proxy.flow.ports import Client
from proxy.flow.site import Asked
from proxy.flow.tracing import Tracer, TraceSpan
from proxy.rules.message import Reason


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
