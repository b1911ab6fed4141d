"""Calls upstream: through the breaker and the gate of the upstream, counted, and told of where they fail."""

import logging
from functools import partial
from typing import Final

from proxy.flow import traced
from proxy.flow.gate import Full, Gate
from proxy.flow.ports import Answer, Call, Clock, Origin, OriginError
from proxy.flow.site import Visit
from proxy.rules.message import Reason

_log = logging.getLogger("readthrough")

_TELL_AGAIN: Final = 10.0  # seconds before the same trouble of the same upstream is told again
# What opens the breaker. An upstream that takes a request and hangs up is there: one bad URL must not close the rest.
_OUTAGES: Final = frozenset({Reason.CONNECT, Reason.CONNECT_TIMEOUT, Reason.TIMEOUT})


class Calls:
    """Everything that goes upstream goes through here."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._told: dict[tuple[str, Reason], float] = {}

    async def make(self, visit: Visit, call: Call) -> Answer:
        """One call for a visit, up to the head of its answer. Raises OriginError."""
        upstream, began = visit.lane.upstream, self._now()
        breaker = upstream.breaker
        if not breaker.admits(began):
            upstream.tally.held_back += 1
            raise OriginError(Reason.BREAKER_OPEN)
        probe = breaker.open
        try:
            if visit.span is None:
                answer = await _fetch(upstream.origin, upstream.gate, call)
            else:
                fetch = partial(_fetch, upstream.origin, upstream.gate)
                answer = await traced.called(visit.span, upstream, call, fetch)
        except OriginError as error:
            self._tell(upstream.name, error)
            if error.reason in _OUTAGES:
                breaker.failed(self._now(), probe=probe)
            else:
                breaker.abandoned(probe=probe)
            raise
        except BaseException:
            breaker.abandoned(probe=probe)
            raise
        breaker.succeeded()
        upstream.tally.answered(answer.head.status, self._now() - began)
        return answer

    def _tell(self, upstream: str, error: OriginError) -> None:
        """Say why an upstream gives no answer, to whoever runs us; not once per request."""
        now, place = self._now(), (upstream, error.reason)
        if now - self._told.get(place, -_TELL_AGAIN) >= _TELL_AGAIN:
            self._told[place] = now
            _log.warning("upstream %s: %s", upstream, error)


async def _fetch(origin: Origin, gate: Gate | None, call: Call) -> Answer:
    """Through the gate, which is left when the answer is closed."""
    if gate is None:
        return await origin.fetch(call)
    try:
        await gate.enter()
    except Full:
        raise OriginError(Reason.UPSTREAM_BUSY) from None
    try:
        answer = await origin.fetch(call)
    except BaseException:
        gate.leave()
        raise
    answer.on_close = gate.leave
    return answer
