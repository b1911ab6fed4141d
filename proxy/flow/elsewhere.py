"""What other instances have, for a plain request of which nothing is stored here.

Most often one of them has it, and is answered from there without a task: where memory is small that is what most
requests come to. Whatever is less simple goes on as a request does that must be fetched.
"""

from dataclasses import dataclass
from functools import partial

from proxy.flow import traced
from proxy.flow.answers import Answers, Pending
from proxy.flow.flights import Flights
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.limiter import Permit
from proxy.flow.ports import Client, Clock, Store
from proxy.flow.relay import Relay
from proxy.flow.sharing import Found, Rest, SharedStore
from proxy.flow.site import Absent, Asked, Lane, Visit, visit_of
from proxy.flow.tracing import Step, TraceSpan
from proxy.rules.message import Entry, Reason
from proxy.rules.report import Account


@dataclass(slots=True, eq=False)
class _Inquiry:
    """A request that waits to hear what others have. All but `absent` is as a Visit has it."""

    asked: Asked
    lane: Lane
    absent: Absent
    client: Client
    now: float
    seen: int
    permit: Permit | None
    span: TraceSpan | None


class Elsewhere:
    """Answers from the store of all instances; `shared` is None where there is none."""

    def __init__(
        self,
        store: Store,
        log: InvalidationLog,
        flights: Flights,
        shared: SharedStore | None,
        relay: Relay,
        answers: Answers,
        clock: Clock,
    ) -> None:
        self._store, self._log, self._flights, self._shared = store, log, flights, shared
        self._relay, self._answers, self._now = relay, answers, clock.now

    def look(self, asked: Asked, client: Client, now: float, permit: Permit | None, span: TraceSpan | None) -> bool:
        """Have it answered when word comes; False where there is nobody to ask, or more to think of."""
        shared, lane = self._shared, asked.lane
        if shared is None or lane is None or not asked.plain or self._store.holds(asked.key):
            return False
        absent = asked.absent()
        if absent is None or now >= self._log.trusted_until:  # nothing that others have stored could be judged
            return False
        until = self._flights.unshareable.until(absent.shelf)  # seen, not more: who finds out is settled at take-off
        if (until is not None and now < until) or self._flights.joinable(absent.shelf, (), 0.0) is not None:
            return False
        inquiry = _Inquiry(asked, lane, absent, client, now, self._log.position, permit, span)
        then = partial(self._looked, inquiry)
        if span is not None:
            if permit is None:  # of who has paid it is told already
                span.step(Step.LOOK_UP).end(absent.plan.reason.value)
            then = partial(traced.looked, span.step(Step.SHARED), then)
        shared.look(absent.wanted, then)
        return True

    def _looked(self, inquiry: _Inquiry, looked: Found | Rest) -> None:
        if not inquiry.client.resume(partial(self._go_on, inquiry, looked)):
            self._answers.broken_off(self._visit(inquiry), None)  # the upstream was not asked

    def _go_on(self, inquiry: _Inquiry, looked: Found | Rest) -> Pending | None:
        if isinstance(looked, Found) and self._answer(inquiry, looked.entry):
            return None
        visit, plan = self._visit(inquiry), inquiry.absent.plan
        return self._answers.watch(visit, partial(self._relay.fetch, visit, plan, looked), plan.fwd)

    def _answer(self, inquiry: _Inquiry, entry: Entry) -> bool:
        """Answer with what is fresh and leaves nothing to decide, as a hit does."""
        asked, lane, client, permit, now = inquiry.asked, inquiry.lane, inquiry.client, inquiry.permit, self._now()
        left = entry.fresh_until - now
        # This process may have stood still meanwhile.
        if left <= 0 or now >= self._log.trusted_until or not asked.takes(entry):
            return False
        reply = asked.reply(entry, lane.shared_lines % (max(0.0, now - entry.born), left))
        if reply is None:
            return False
        self._store.put(entry)
        head, tail, status, sent = reply
        if permit is not None:
            head += permit.told
            permit.refund(now)
        client.send(head, tail, sent)
        seconds, saved = self._now() - inquiry.now, entry.terms.fetch_seconds
        self._answers.tallies.shared(lane.route.name, asked.request.method, status, asked.key, sent, saved, seconds)
        if self._answers.journal is not None or inquiry.span is not None:
            own_id, account = asked.fields.get("x-request-id", ""), Account(Reason.SHARED_STORE, int(left))
            self._answers.tell(asked.request, client, lane.route.name, own_id, status, account, seconds, complete=True)
            if inquiry.span is not None:
                inquiry.span.answered(status, account, complete=True)
        return True

    def _visit(self, inquiry: _Inquiry) -> Visit:
        ids, permit, span = self._answers.request_ids, inquiry.permit, inquiry.span
        return visit_of(inquiry.asked, inquiry.lane, inquiry.client, ids, inquiry.now, inquiry.seen, permit, span)
