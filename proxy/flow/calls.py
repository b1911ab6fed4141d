"""Calls upstream: through the gate and the breaker of the upstream, counted, and told of where they fail."""

import logging
from functools import partial
from typing import Final

from proxy.flow import traced
from proxy.flow.gate import Full
from proxy.flow.ports import Answer, Call, Clock, OriginError
from proxy.flow.site import Upstream, Visit
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
        upstream = visit.lane.upstream
        if not upstream.breaker.would_admit(self._now()):
            raise _held_back(upstream)
        if visit.span is None:
            return await self._enter(upstream, call)
        return await traced.called(visit.span, upstream, call, partial(self._enter, upstream))

    async def _enter(self, upstream: Upstream, call: Call) -> Answer:
        """Through the gate, which is left when the answer is closed."""
        gate = upstream.gate
        if gate is None:
            return await self._fetch(upstream, call)
        try:
            await gate.enter()
        except Full:
            raise self._busy(upstream) from None
        try:
            answer = await self._fetch(upstream, call)
        except BaseException:
            gate.leave()
            raise
        answer.on_close = gate.leave
        return answer

    async def _fetch(self, upstream: Upstream, call: Call) -> Answer:
        breaker, began = upstream.breaker, self._now()
        # Behind the gate: it may have opened since, and who only waits is no probe.
        if not breaker.admits(began):
            raise _held_back(upstream)
        probe = breaker.open
        try:
            answer = await upstream.origin.fetch(call)
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

    def _busy(self, upstream: Upstream) -> OriginError:
        error = OriginError(Reason.UPSTREAM_BUSY)
        self._tell(upstream.name, error)
        return error

    def _tell(self, upstream: str, error: OriginError) -> None:
        """Say why an upstream gives no answer, to whoever runs us; not once per request."""
        now, place = self._now(), (upstream, error.reason)
        if now - self._told.get(place, -_TELL_AGAIN) >= _TELL_AGAIN:
            self._told[place] = now
            _log.warning("upstream %s: %s", upstream, error)


def _held_back(upstream: Upstream) -> OriginError:
    upstream.tally.held_back += 1
    return OriginError(Reason.BREAKER_OPEN)
