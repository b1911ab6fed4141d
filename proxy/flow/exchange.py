"""One request, top to bottom: route it, key it, look it up, decide, answer."""

from dataclasses import replace
from functools import partial
from math import ceil
from typing import Final, assert_never

from proxy.flow.answers import Answers, Pending
from proxy.flow.elsewhere import Elsewhere
from proxy.flow.fill import Fill
from proxy.flow.flights import Flights
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.limiter import Limiter
from proxy.flow.ports import Client, Clock, Store
from proxy.flow.purge import Purge
from proxy.flow.relay import Relay
from proxy.flow.site import SMALL, Asked, Site, Visit, read, unrouted, visit_of
from proxy.flow.tally import Tally
from proxy.flow.tracing import Step, TraceSpan
from proxy.rules.lookup import Fetch, Plan, Refuse, Serve, on_failure, on_request
from proxy.rules.message import Entry, Reason, Request
from proxy.rules.report import Account

# Until when, head, tail, route, status, bytes of body, and where it is counted.
_Said = tuple[Entry, float, bytes, bytes, str, int, int, Tally]

_MANY: Final = 1024  # answers that are remembered until their Age or ttl changes


class Exchange:
    """Answers requests. What can be answered now is, without a task; the rest comes back as work to run."""

    def __init__(
        self,
        site: Site,
        store: Store,
        log: InvalidationLog,
        flights: Flights,
        fill: Fill,
        answers: Answers,
        clock: Clock,
        purge: Purge,
    ) -> None:
        self.site = site  # a reload puts another in its place
        self._store, self._log, self._flights = store, log, flights
        self._fill, self._answers, self._clock = fill, answers, clock
        self._now, self._fresh, self._journal = clock.now, store.fresh, answers.journal
        self._tallies, self._purge, self._background = answers.tallies, purge, answers.background
        self._said: dict[Asked, _Said] = {}
        self._relay = Relay(store, log, flights, fill, answers, clock)
        self._elsewhere = Elsewhere(store, log, flights, fill.shared, self._relay, answers, clock)

    def read(self, request: Request, *, trusted: bool = False) -> Asked:
        """What may be known of a request before it is asked, and again for the next one with the same bytes."""
        return read(self.site, request, trusted=trusted)

    def hit(self, asked: Asked, client: Client) -> bool:
        """Answer a plain request from a fresh entry, if nothing else stands in the way: what most requests come to.

        It decides nothing: `begin` would do the same.
        """
        now = self._now()
        entry = self._fresh(asked.key, asked.fields, now)
        if entry is None:
            return False
        said, kept = self._said.get(asked), True
        if said is None or said[0] is not entry or now >= said[1]:
            if said is not None:
                self._count(asked, said)
            said = self._say(asked, entry, now)
            if said is None:
                return False
            kept = self._said.get(asked) is said
        head = said[2]
        limiter = asked.limiter
        if limiter is not None:
            take, payer = limiter.only, asked.payers[0]
            if payer is None:
                payer = limiter.clients.get(client.peer)
            if take is None or payer is None:
                limits = limiter.hit(asked.payers, client.peer, now)
            else:  # as `hit` does: one call less is a twentieth of what it takes to answer
                left = take(payer, limiter.cost, now)
                limits = limiter.last if left is not None and limiter.low <= left < limiter.high else limiter.tell(left)
            if limits is None:
                return False
            head += limits
        client.put(head, said[3])
        asked.hits += 1
        if not kept:
            self._count(asked, said)
        if self._journal is not None:
            self._journal.hit(asked, client.peer, said[4], said[5], said[6], self._now() - now)
        return True

    def _say(self, asked: Asked, entry: Entry, now: float) -> _Said | None:
        """The answer, remembered where it is small: what is asked for often is often asked for within one second."""
        lane, age, left = asked.lane, now - entry.born, entry.fresh_until - now
        if lane is None or not asked.takes(entry):
            return None
        reply = asked.reply(entry, lane.hit_lines % (age, left))
        if reply is None:
            return None
        head, tail, status, sent = reply
        route = lane.route.name
        tally = self._tallies.of_plain(route, asked.request.method, status)
        said = (entry, now + min(1 - age % 1, left % 1), head, tail, route, status, sent, tally)
        if len(entry.rest) <= SMALL:
            if len(self._said) == _MANY and asked not in self._said:
                self.settle()
                self._said.clear()
            self._said[asked] = said
        return said

    def settle(self) -> None:
        """Count the hits that have still to be: to be called before the tallies are read."""
        for asked, said in self._said.items():
            if asked.hits:
                self._count(asked, said)

    def _count(self, asked: Asked, said: _Said) -> None:
        hits, asked.hits = asked.hits, 0
        if hits:
            self._tallies.hit(said[7], asked.key, hits, said[6], said[0].terms.fetch_seconds)

    def begin(self, asked: Asked, client: Client, span: TraceSpan | None = None) -> Pending | None:
        """Answer now, or return what must wait for the upstream or a slow reader; or, having done neither, when the
        shared store has said what it has.
        """
        now = self._now()
        lane = asked.lane
        if asked.purging is not None:
            return self._purge.begin(asked, client, now, span)
        if lane is None:
            self._unrouted(asked, client, now, span)
            return None
        limiter, seen = lane.limiter, self._log.position
        if limiter is None and self._elsewhere.look(asked, client, now, None, span):
            return None
        visit = visit_of(asked, lane, client, self._answers.request_ids, now, seen, None, span)
        plan = self._plan(visit, now)
        if limiter is None:
            return self._act(visit, plan)
        miss = isinstance(plan, Fetch)
        permit = limiter.pay(asked.payers, client.peer, now, miss=miss)
        if permit is not None:
            return self._permitted(asked, replace(visit, permit=permit), plan)
        self._background.spawn(self._ask(asked, visit, limiter, miss=miss), "rate limit")
        return None

    async def _ask(self, asked: Asked, visit: Visit, limiter: Limiter, *, miss: bool) -> None:
        """Go on when whoever keeps the buckets has answered."""
        try:
            permit = await limiter.ask(asked.payers, visit.client.peer, miss=miss)
        except BaseException:  # a bug of ours, or the end of the process: nobody may wait for ever
            visit.client.resume(_unasked)
            raise
        visit = replace(visit, permit=permit, seen=self._log.position)
        if not visit.client.resume(partial(self._permitted, asked, visit, None)):
            permit.settle(self._now(), served=False)
            self._answers.broken_off(visit, None)

    def _permitted(self, asked: Asked, visit: Visit, plan: Plan | None) -> Pending | None:
        """Act on the plan, if that is paid. None: make another, time has passed."""
        now, permit = self._now(), visit.permit
        if plan is None:
            plan = self._plan(visit, now)
        if permit is None or not permit.wait:
            if self._elsewhere.look(asked, visit.client, visit.now, permit, visit.span):
                return None
            return self._act(visit, plan)
        stored = (on_failure(plan.base, now, lost=True) if isinstance(plan, Fetch) else plan) if permit.stale else None
        permit.settle(now, served=isinstance(stored, Serve))
        if isinstance(stored, Serve):
            return self._serve(visit, Serve(stored.entry, Reason.RATE_LIMITED))
        self._answers.error(visit, 429, Account(Reason.RATE_LIMITED), after=ceil(permit.wait))
        return None

    def _plan(self, visit: Visit, now: float) -> Plan:
        span = None if visit.span is None else visit.span.step(Step.LOOK_UP)
        entry = self._stored(visit, now)
        held = entry is None and self._store.holds(visit.key)
        plan = on_request(visit.request, entry, visit.lane.policy, now, held=held, roll=self._clock.roll())
        if span is not None:
            span.end(plan.reason.value)
        return plan

    def _act(self, visit: Visit, plan: Plan) -> Pending | None:
        match plan:
            case Serve():
                if plan.refresh:
                    self._fill.refresh(visit, plan.entry)
                return self._serve(visit, plan)
            case Refuse(status, reason):
                self._answers.error(visit, status, Account(reason))
                return None
            case Fetch():
                stale = self._stale_after_failure(visit, plan)
                if stale is not None:
                    return self._serve(visit, stale)
                return self._answers.watch(visit, partial(self._relay.fetch, visit, plan), plan.fwd)
            case _:
                assert_never(plan)

    def _stored(self, visit: Visit, now: float) -> Entry | None:
        if not visit.lane.policy.enabled:
            return None
        entry = self._store.find(visit.key, visit.request, now)
        # Stored under another policy is not what the operator wants now.
        return entry if entry is not None and entry.terms.policy == visit.lane.fingerprint else None

    def _stale_after_failure(self, visit: Visit, plan: Fetch) -> Serve | None:
        """A stale answer at once where the upstream failed for this key a moment ago."""
        if plan.base is None:
            return None
        reason = self._flights.failed_lately(visit.shelf, visit.now)
        return None if reason is None else on_failure(plan.base, visit.now, lost=reason is not Reason.UPSTREAM_ERROR)

    def _serve(self, visit: Visit, plan: Serve) -> Pending | None:
        rest = self._answers.serve(visit, plan.entry, Account(plan.reason, ttl=plan.ttl(visit.now)))
        return None if rest is None else self._answers.watch(visit, rest, None)

    def _unrouted(self, asked: Asked, client: Client, now: float, span: TraceSpan | None) -> None:
        status, reason = unrouted(asked)
        allow = (("Allow", ", ".join(asked.allow)),) if asked.allow else ()
        self._answers.unrouted(asked.request, client, status, reason, allow, now, span=span)


def _unasked() -> None:
    raise RuntimeError("nobody has said what is in the bucket")
