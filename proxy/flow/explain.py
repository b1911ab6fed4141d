"""Why a request would be answered as it would be: the rules that a request runs, run without one.

Nothing is fetched, stored, charged or counted, and nothing is asked of other instances. Where a rule has a side
effect its question is asked without; tests/flow/test_explain.py holds the answers to what then really happens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from math import ceil
from typing import assert_never

from proxy.flow.expiring import ExpiringSet
from proxy.flow.explanation import (
    Act,
    Answer,
    AsRead,
    Decision,
    Explanation,
    InTheAir,
    Invalidation,
    Lately,
    Limiting,
    Lying,
    OverLimit,
    Purging,
    Remembered,
    Standing,
    Touched,
    Trust,
    Upstream,
    Variants,
    Way,
)
from proxy.flow.flights import Flight, Flights, Landed, Streaming
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.inventory import appraised
from proxy.flow.limiting import doorway, limiting
from proxy.flow.ports import Shelves
from proxy.flow.purge import order_of, verdict
from proxy.flow.site import Asked, Lane, Site, read, shelf_of, unrouted
from proxy.flow.steps import NEVER, arithmetic, as_read, client, compared, eligibility, keying, routing
from proxy.rules.fields import selecting, selects
from proxy.rules.lookup import (
    Fetch,
    Plan,
    Refuse,
    Serve,
    on_failure,
    on_request,
)
from proxy.rules.message import Entry, Fields, Headers, Reason, Request
from proxy.rules.purging import PurgeRule
from proxy.rules.report import Account, failure_status
from proxy.rules.respond import from_entry
from proxy.rules.wire import Refused


class Explainer:
    """Explains requests. `site` is the configuration as it is now; `shared`: there is a store of all instances."""

    def __init__(
        self,
        site: Callable[[], Site],
        store: Shelves,
        log: InvalidationLog,
        flights: Flights,
        now: Callable[[], float],
        *,
        shared: bool,
    ) -> None:
        self._site, self._store, self._log, self._flights = site, store, log, flights
        self._now, self._shared = now, shared

    def trusts(self, client: str) -> bool:
        """Whether what an address says of whom it speaks for would be believed."""
        return any(ip_address(client) in network for network in self._site().trusted)

    def explain(self, request: Request, peer: str | None = None) -> Explanation:
        """The decisions about a request that comes now; from the address `peer`, if it matters who sends it."""
        site, now = self._site(), self._now()
        trusted = peer is not None and self.trusts(peer)
        asked = read(site, request, trusted=trusted)
        steps: list[Decision] = [as_read(request), routing(site, asked)]
        lane = asked.lane
        if asked.purging is not None:
            may = peer is None or asked.purging.allows(asked.purging.asker(peer, asked.fields, trusted=trusted))
            return _purged(asked, asked.purging, steps, may=may)
        if lane is None:
            status, reason = unrouted(asked)
            return _explanation(steps, Answer(Act.REFUSE, status, reason))
        steps.append(keying(asked, lane.policy))
        look = self._look(asked, lane, now)
        plan = on_request(request, look.entry, lane.policy, now, held=look.held, roll=NEVER)
        steps.append(eligibility(request, look.entry, lane.policy))
        if lane.policy.enabled:
            steps.append(Variants(look.stored, memory_only=self._shared))
            steps.append(self._invalidation(look, now))
            if look.entry is not None:
                steps.append(arithmetic(look.entry, lane.policy, now))
            steps.append(client(request, look.entry, lane.policy, now, held=look.held))
        limits = limiting(asked, lane, plan, peer, now, shared=self._shared)
        if limits is not None:
            steps.append(limits)
        shelf = shelf_of(lane, asked.key, asked.fields)
        steps.append(self._remembered(shelf, now))
        upstream, answer = self._outcome(asked, lane, plan, look, shelf, limits, now)
        steps.append(upstream)
        return _explanation(steps, answer)

    # -- what is stored

    def _look(self, asked: Asked, lane: Lane, now: float) -> "_Look":
        """As `Store.find` and `Store.holds` would: what they would remove is `GONE`."""
        entry, lying, left = None, [], []
        found: Entry | None = None
        touched: Entry | None = None
        for variant in self._store.variants(asked.key) if lane.policy.enabled else ():
            stored = variant.entry
            same = found is None and selects(stored.vary, asked.fields)
            judged, usable, standing = appraised(self._log, variant, now)
            if same:
                touched, found, entry = stored, judged, usable
            if not (same and judged is None):
                left.append(stored)
            lying.append(
                Lying(
                    status=stored.head.status,
                    length=stored.length,
                    age=now - stored.born,
                    left=(judged or stored).fresh_until - now,
                    vary=compared(stored.vary, _selecting(asked.fields, stored)),
                    current=stored.terms.policy == lane.fingerprint,
                    standing=standing,
                    selected=same,
                )
            )
        if entry is not None and entry.terms.policy != lane.fingerprint:
            entry = None
        return _Look(
            entry=entry,
            held=entry is None and bool(left),
            touched=touched,
            standing=next((shown.standing for shown in reversed(lying) if shown.selected), None),
            variant=_selecting(asked.fields, left[0]) if left else (),
            stored=tuple(lying),
        )

    def _invalidation(self, look: "_Look", now: float) -> Invalidation:
        touching = [] if look.touched is None else self._log.touching(look.touched, look.touched.seq)
        return Invalidation(
            trust=Trust.TRUSTED if now < self._log.trusted_until else Trust.BLIND,
            grace=self._log.grace,
            standing=look.standing,
            records=tuple([Touched(kind, soft) for kind, soft in touching]),
        )

    # -- what was

    def _remembered(self, shelf: str, now: float) -> Remembered:
        return Remembered(
            unshareable=_lately(self._flights.unshareable, shelf, now, probed=True),
            failed=_lately(self._flights.failed, shelf, now, probed=False),
        )

    # -- what would be

    def _outcome(
        self, asked: Asked, lane: Lane, plan: Plan, look: "_Look", shelf: str, limits: Limiting | None, now: float
    ) -> tuple[Upstream, Answer]:
        at = lane.upstream
        gate = None if at.gate is None else doorway(at.gate.rule, at.gate)
        stays = Upstream(at.name, at.host, not at.breaker.would_admit(now), None, None, gate)
        over = None if limits is None else _over_limit(asked, lane, plan, limits, now)
        if over is not None:
            return stays, over
        match plan:
            case Serve():
                renews = plan.refresh and self._may_renew(plan.entry, shelf, now)
                return stays, _served(asked, lane, plan, now, renews=renews)
            case Refuse(status, reason):
                return stays, _refused(lane, status, Account(reason))
            case Fetch():
                failed = self._flights.failed_lately(shelf, now) if plan.base is not None else None
                if failed is not None:
                    stale = on_failure(plan.base, now, lost=failed is not Reason.UPSTREAM_ERROR)
                    if stale is not None:
                        return stays, _served(asked, lane, stale, now, renews=False)
                return self._fetched(asked, lane, plan, look, stays, limits, now)
            case _:
                assert_never(plan)

    def _may_renew(self, entry: Entry, shelf: str, now: float) -> bool:
        """As `Fill.refresh` would."""
        until = self._flights.unshareable.until(shelf)
        return (
            self._flights.failed_lately(shelf, now) is None
            and (until is None or now >= until)
            and self._flights.joinable(shelf, entry.vary, 0.0) is None
        )

    def _fetched(
        self,
        asked: Asked,
        lane: Lane,
        plan: Fetch,
        look: "_Look",
        stays: Upstream,
        limits: Limiting | None,
        now: float,
    ) -> tuple[Upstream, Answer]:
        way, reason, flight, flies = Way.ALONE, plan.reason, None, asked.request.method == "GET" and plan.keep
        if flies and (plan.shared or "range" in asked.request.fields):
            shelf = shelf_of(lane, asked.key, asked.fields)
            until, unshareable = self._flights.unshareable.until(shelf), self._flights.unshareable.reason(shelf)
            if until is not None and unshareable is not None and now < until:
                reason, flies = unshareable, False
            elif plan.shared:
                flight = self._flights.joinable(shelf, look.variant, now if plan.fresh else 0.0)
                way = Way.LEAD if flight is None else Way.JOIN if _for_all(flight) else Way.ALONE
        upstream = replace(stays, way=way, flight=None if flight is None else _in_the_air(flight, now))
        if limits is not None and limits.gate is not None and limits.gate.full and way is not Way.JOIN:
            return upstream, _refused(lane, 503, Account(Reason.CONCURRENCY_LIMITED), limits.gate.wait)
        base = plan.base
        busy = stays.gate is not None and stays.gate.full
        if (stays.breaker_open or busy) and way is not Way.JOIN:
            why = Reason.BREAKER_OPEN if stays.breaker_open else Reason.UPSTREAM_BUSY
            return upstream, _left_alone(asked, lane, plan, why, now)
        account = Account(reason, fwd=plan.fwd, collapsed=way is Way.JOIN)
        return upstream, Answer(
            Act.FETCH,
            None,
            reason,
            plan.fwd,
            _told(lane, account),
            validates=flies and base is not None and not base.head.fields.keys().isdisjoint(("etag", "last-modified")),
            stores=flies,
            bridged=on_failure(base, now, lost=True) is not None,
        )


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look-up finds. `entry` is None, too, where it was stored under another policy; `held`: there are other
    variants; `touched` is what was selected, as it lies there; `variant` the request's values of what the newest was
    selected on.
    """

    entry: Entry | None
    held: bool
    touched: Entry | None
    standing: Standing | None
    variant: Headers
    stored: tuple[Lying, ...]


def refused(given: AsRead, why: Refused) -> Explanation:
    """A request that is refused before any route is asked."""
    steps: list[Decision] = [replace(given, refused=why.detail)]
    return _explanation(steps, Answer(Act.REFUSE, why.status, why.reason))


def _purged(asked: Asked, rule: PurgeRule, steps: list[Decision], *, may: bool) -> Explanation:
    """A PURGE, by somebody who may send one, or who may not."""
    order = order_of(asked.site, asked.request)
    if order is not None:
        steps.append(Purging(order.urls, order.soft, tuple(map(str, rule.allow))))
    status, reason = verdict(order) if may else (403, Reason.NOT_ALLOWED)
    return _explanation(steps, Answer(Act.PURGE if may and order is not None else Act.REFUSE, status, reason))


def _explanation(steps: list[Decision], answer: Answer) -> Explanation:
    return Explanation(tuple(steps), answer)


def _selecting(fields: Fields, entry: Entry) -> Headers:
    return selecting(fields, tuple([name for name, _ in entry.vary]))


def _lately(known: ExpiringSet, shelf: str, now: float, *, probed: bool) -> Lately | None:
    """`probed`: when its time is over the next request finds out, and until then it is not forgotten."""
    until, reason = known.until(shelf), known.reason(shelf)
    if until is None or reason is None or (until <= now and not probed):
        return None
    return Lately(reason, max(0.0, until - now))


def _for_all(flight: Flight) -> bool:
    """Whether those who wait for it may have its answer, or get its error: not yet known is yes."""
    match flight.arrival:
        case Landed(_, _, _, reason):
            return reason is None
        case Streaming(head, _, _, draft, _, shared):
            return shared or (draft is None and head.status >= 500)
        case _:
            return True


def _in_the_air(flight: Flight, now: float) -> InTheAir:
    sent = None if flight.asked == float("inf") else now - flight.asked
    return InTheAir(sent, answered=flight.arrival is not None)


def _told(lane: Lane, account: Account) -> str | None:
    return account.cache_status() if lane.policy.enabled else None


def _served(asked: Asked, lane: Lane, plan: Serve, now: float, *, renews: bool) -> Answer:
    account = Account(plan.reason, ttl=plan.ttl(now))
    return _from_entry(asked, lane, plan.entry, account, now, renews=renews)


def _from_entry(
    asked: Asked, lane: Lane, entry: Entry, account: Account, now: float, *, renews: bool = False
) -> Answer:
    return Answer(
        Act.SERVE,
        from_entry(asked.request, entry, b"").status,
        account.reason,
        account.fwd,
        _told(lane, account),
        age=int(max(0.0, now - entry.born)),
        ttl=int((entry.fresh_until - now) // 1),
        renews=renews,
    )


def _over_limit(asked: Asked, lane: Lane, plan: Plan, limits: Limiting, now: float) -> Answer | None:
    """What is answered in place of the plan, where it cannot be paid."""
    short = [bucket for bucket in limits.buckets if not bucket.passes]
    if not short:
        return None
    if all(bucket.over_limit is OverLimit.SERVE_STALE for bucket in short):
        stored = on_failure(plan.base, now, lost=True) if isinstance(plan, Fetch) else plan
        if isinstance(stored, Serve):
            return _served(asked, lane, Serve(stored.entry, Reason.RATE_LIMITED), now, renews=False)
    return _refused(lane, 429, Account(Reason.RATE_LIMITED), max(bucket.wait for bucket in short))


def _refused(lane: Lane, status: int, account: Account, wait: float = 1.0) -> Answer:
    after = max(1, ceil(wait)) if status in (429, 503) else None
    return Answer(Act.REFUSE, status, account.reason, account.fwd, cache_status=_told(lane, account), retry_after=after)


def _left_alone(asked: Asked, lane: Lane, plan: Fetch, why: Reason, now: float) -> Answer:
    """The upstream's breaker is open, or too much is under way there: a stale answer, or an error."""
    account = Account(why, fwd=plan.fwd)
    stale = on_failure(plan.base, now, lost=True)
    if stale is not None:
        account = Account(Reason.STALE_IF_ERROR, ttl=stale.ttl(now))
        return _from_entry(asked, lane, stale.entry, account, now)
    gate = lane.upstream.gate if why is Reason.UPSTREAM_BUSY else None
    return _refused(lane, failure_status(why), account, 1.0 if gate is None else gate.rule.wait)
