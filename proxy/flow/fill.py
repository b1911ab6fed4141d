"""Fetch, admit, store: what a flight does, and what every call upstream has in common."""

import logging
from dataclasses import replace
from typing import Final, assert_never

from proxy.flow import traced
from proxy.flow.background import Background
from proxy.flow.calls import Calls
from proxy.flow.flights import (
    FAILED_SECONDS,
    UNSHAREABLE_SECONDS,
    Failed,
    Flight,
    Flights,
    Landed,
    Streaming,
)
from proxy.flow.gate import Place
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import Answer, Call, Clock, OriginError, Store
from proxy.flow.sharing import (
    Alone,
    Apart,
    Broken,
    Claim,
    Found,
    Lead,
    Lease,
    Rest,
    SharedLog,
    SharedStore,
    Wanted,
)
from proxy.flow.site import Visit
from proxy.flow.tracing import Step
from proxy.flow.writes import Writes, is_write
from proxy.rules import admit
from proxy.rules.admit import Fetched, Freshen, Pass, UseStale, complete, on_head, on_response
from proxy.rules.forward import forwarded_headers
from proxy.rules.lookup import Fetch, has_credentials
from proxy.rules.message import Entry, Fwd, Headers, Reason
from proxy.rules.report import failure_status

_log = logging.getLogger("readthrough")

_ASKERS_OWN: Final = frozenset({Reason.AUTHORIZATION, Reason.CREDENTIALS})  # says nothing of what others may have
_OF_THE_RESOURCE: Final = frozenset({404, 405, 410, 414})  # other 4xx speak of one request, not of what is there


class Fill:
    """Fetches, and decides what becomes of it. `shared` and `told` are what there is of other instances."""

    def __init__(
        self,
        store: Store,
        log: InvalidationLog,
        flights: Flights,
        background: Background,
        clock: Clock,
        shared: SharedStore | None = None,
        told: SharedLog | None = None,
    ) -> None:
        self._store, self._log, self._flights = store, log, flights
        self._background, self._clock = background, clock
        self.shared = shared
        self._refreshing: set[tuple[str, Headers]] = set()
        self._calls = Calls(clock)
        self._writes = Writes(self._calls, log, told, background, clock)

    def _wanted(self, visit: Visit, plan: Fetch) -> Wanted | None:
        """What is asked of other instances; None: nothing."""
        base = plan.base
        # What must be validated for every request says nothing to the next one: nobody waits for another's.
        validated = base is not None and base.terms.always_validate and not base.terms.distrusted
        if plan.fresh or validated or self._blind():
            return None
        known = base.stored_at if base is not None else float("-inf")
        fields, host, policy = visit.request.fields, visit.request.host, visit.lane.fingerprint
        return Wanted(visit.key, policy, fields, has_credentials(fields), visit.url, host, visit.tags, known)

    async def claim(self, visit: Visit, plan: Fetch, looked: Found | Rest | None = None) -> Claim:
        """What other instances have of it, or the right to fetch it for them. `looked`: what a look came to."""
        base, wanted, timeout = plan.base, self._wanted(visit, plan), visit.lane.upstream.timeout
        if self.shared is None or wanted is None:
            return Apart()
        entry = self._log.judge(looked.entry, looked.entry.seq) if isinstance(looked, Found) else None
        if entry is not None:  # by the log as it is now
            claim: Claim = Found(entry)
        else:
            begun = None if isinstance(looked, Found) else looked
            asking = self.shared.claim(wanted, timeout) if begun is None else begun.go_on(timeout)
            claim = await (asking if visit.span is None else traced.asked(asking, visit.span.step(Step.SHARED)))
        match claim:
            case Found(entry):
                if self._blind():  # this process may have stood still meanwhile
                    return Apart()
                self._store.put(entry)
            case Lead(lease, _) if self._blind():
                return Lead(lease, None)
            case Alone(reason):
                if base is not None and reason not in _ASKERS_OWN:
                    self._store.discard(base)  # from the shared store it is gone: whoever said so has seen to that
                self._flights.unshareable.add(visit.shelf, self._clock.now() + UNSHAREABLE_SECONDS, reason)
            case Broken(reason):
                self._note_failure(visit, reason)
            case _:
                pass
        return claim

    def _blind(self) -> bool:
        """Whether nothing that others have stored can be judged."""
        return self._clock.now() >= self._log.trusted_until

    def open(self, visit: Visit, base: Entry | None, variant: Headers | None, lease: Lease | None = None) -> Flight:
        """Send a flight off. With a `variant` others may find it; None keeps it private. Who holds the `lease`
        fetches for all instances.

        `base` is validated where it has a validator, and may bridge an error.
        """
        if base is not None:  # a record since the look-up may have made it stale, or no source of validators at all
            base = self._log.judge(base, visit.seen)
        tags = visit.tags if base is None else (*visit.tags, *base.tags)
        flight = Flight(visit.url, visit.request.host, tags, self._log, self._flights.memory)
        self._flights.started += 1
        if visit.span is not None:
            flight.span = visit.span.step(Step.FLIGHT)
            visit = replace(visit, span=flight.span)
        if variant is not None:
            self._flights.register(visit.shelf, variant, flight)
        flight.task = self._background.spawn(self._fly(flight, visit, base, variant, lease), "flight")
        return flight

    def refresh(self, visit: Visit, entry: Entry) -> None:
        """Renew an entry behind an answer's back: one flight at most, and none right after a failure."""
        failed = self._flights.failed.until(visit.shelf)
        if failed is not None and visit.now < failed:
            return
        if self._flights.must_go_alone(visit.shelf, visit.now) is not None:
            return  # what this one would bring is for itself alone: another's request will renew it
        if self._flights.joinable(visit.shelf, entry.vary, 0.0) is not None:
            return
        place = (entry.key, entry.vary)  # a shelf would do, were it not for requests that say who asks
        if place in self._refreshing:
            return
        self._refreshing.add(place)
        span = None if visit.span is None else visit.span.apart()
        visit = replace(visit, request=replace(visit.request, method="GET"), span=span)
        if self.shared is None:
            task = self.open(visit, entry, entry.vary).task
        else:
            task = self._background.spawn(self._refresh(visit, entry), "refresh")
        task.add_done_callback(lambda _: self._refreshing.discard(place))
        if span is not None:
            task.add_done_callback(lambda _: span.end())

    async def _refresh(self, visit: Visit, entry: Entry) -> None:
        """Renew it for all instances, unless one of them has, or is about to."""
        claim = await self.claim(visit, Fetch(Fwd.STALE, Reason.EXPIRED, shared=True, base=entry))
        match claim:
            case Lead(lease, _) if lease.take():
                await self._flown(visit, entry, lease)
            case Apart():
                await self._flown(visit, entry, None)
            case _:
                pass

    async def _flown(self, visit: Visit, entry: Entry, lease: Lease | None) -> None:
        if self._flights.joinable(visit.shelf, entry.vary, 0.0) is None:
            await self.open(visit, entry, entry.vary, lease).task
        elif lease is not None and self.shared is not None:
            self.shared.give_up(lease, Apart())

    async def _fly(
        self, flight: Flight, visit: Visit, base: Entry | None, variant: Headers | None, lease: Lease | None
    ) -> None:
        try:
            answer = await self._send(flight, visit, base)
        except OriginError as error:
            self._note_failure(visit, error.reason)
            # What this instance holds back says nothing to the others.
            ours = error.reason in (Reason.UPSTREAM_BUSY, Reason.BREAKER_OPEN)
            self._give_up(lease, Apart() if ours else Broken(error.reason, failure_status(error.reason)))
            flight.settle(Failed(error.reason))
            flight.end(error.reason)
            return
        else:
            try:
                await self._land(flight, visit, base, answer, lease)
            finally:
                answer.close()
        finally:
            self._give_up(lease, Apart())
            if variant is not None:
                self._flights.remove(visit.shelf, variant, flight)
            if flight.arrival is None:
                flight.settle(Failed(Reason.INTERNAL))
            flight.end(Reason.INTERNAL)  # cancelled, or a bug of ours: nobody may wait for ever
            if flight.span is not None:
                flight.span.end(*traced.outcome(flight))

    async def _send(self, flight: Flight, visit: Visit, base: Entry | None) -> Answer:
        headers = self._headers(visit, narrow=False, base=base)

        def sent() -> None:
            flight.asked = self._clock.now()

        return await self._calls.make(visit, Call("GET", visit.request.target, headers, sent=sent))

    def _give_up(self, lease: Lease | None, outcome: Alone | Broken | Apart) -> None:
        if lease is not None and self.shared is not None:
            self.shared.give_up(lease, outcome)

    def _keep(self, entry: Entry, asked: float, lease: Lease | None) -> None:
        """Store it here and for all others."""
        self._store.put(entry)
        if self.shared is None:
            return
        names = [name for name, _ in entry.terms.vary]
        if len({name.replace("_", "-") for name in names}) < len(names):
            self._give_up(lease, Apart())  # the names of all variants are kept once there: these would hide the usual
        else:
            self.shared.keep(lease, entry, asked)

    def _forget(self, entry: Entry) -> None:
        self._store.discard(entry)
        if self.shared is not None:
            self.shared.drop(entry)

    async def _land(
        self, flight: Flight, visit: Visit, base: Entry | None, answer: Answer, lease: Lease | None
    ) -> None:
        """The head is here: decide, tell all who wait, then take in the body."""
        policy = visit.lane.policy
        verdict = on_response(self._fetched(visit, answer, flight.asked, flight.seq), policy, base)
        match verdict:
            case Freshen(entry, reason):
                if reason is None:
                    self._keep(entry, flight.asked, lease)
                else:
                    self._give_up(lease, Alone(reason))
                    self._note_unshareable(visit, base, reason)
                flight.settle(Landed(entry, 304, stale=False, reason=reason))
                flight.end()
                return
            case UseStale(entry):
                self._note_failure(visit, Reason.UPSTREAM_ERROR)
                self._give_up(lease, Broken(Reason.UPSTREAM_ERROR, answer.head.status))
                flight.settle(Landed(entry, answer.head.status, stale=True, reason=None))
                flight.end()
                return
            case Pass(reason, shared):
                if answer.head.status >= 500:
                    self._note_failure(visit, Reason.UPSTREAM_ERROR)
                    self._give_up(lease, Broken(Reason.UPSTREAM_ERROR, answer.head.status))
                elif answer.head.status < 400 or answer.head.status in _OF_THE_RESOURCE:
                    self._note_unshareable(visit, base, reason)
                    self._give_up(lease, Alone(reason))
                else:
                    self._give_up(lease, Apart())  # before the body, which goes at its readers' pace
                streaming = Streaming(answer.head, answer.length, answer.close_delimited, None, reason, shared)
            case admit.Store(draft):
                self._flights.unshareable.discard(visit.shelf)
                streaming = Streaming(answer.head, answer.length, close=False, draft=draft, reason=None, shared=True)
            case _:
                assert_never(verdict)
        if not flight.settle(streaming):
            return
        await self._take_in(flight, visit, base, answer, streaming.draft, lease)

    async def _take_in(
        self,
        flight: Flight,
        visit: Visit,
        base: Entry | None,
        answer: Answer,
        draft: Entry | None,
        lease: Lease | None,
    ) -> None:
        policy = visit.lane.policy

        def let_go() -> None:
            """Nothing will be stored; those who wait elsewhere need not wait for this flight's readers."""
            if draft is None:
                return
            if flight.size > policy.max_object_size:
                self._note_unshareable(visit, base, Reason.TOO_LARGE)
                self._give_up(lease, Alone(Reason.TOO_LARGE))
            else:
                self._give_up(lease, Apart())

        flight.on_let_go = let_go
        try:
            async for chunk in answer.chunks():
                if not await flight.push(chunk, policy.max_object_size):
                    return
        except OriginError as error:
            self._note_failure(visit, error.reason)
            self._give_up(lease, Broken(error.reason, failure_status(error.reason)))
            flight.end(error.reason)
            return
        if draft is not None and flight.kept:
            wall = self._clock.wall() - (self._clock.now() - draft.stored_at)  # when its head came
            self._keep(complete(draft, answer.head, flight.chunks, wall, policy), flight.asked, lease)
        flight.end()

    def _note_failure(self, visit: Visit, reason: Reason) -> None:
        """For a moment nobody waits for this again where a stale answer will do."""
        self._flights.failed.add(visit.shelf, self._clock.now() + FAILED_SECONDS, reason)

    def _note_unshareable(self, visit: Visit, base: Entry | None, reason: Reason) -> None:
        """The upstream's own word that this is not for sharing: what is stored is outdated by it,
        and for a while nobody queues for it. An error (5xx) would prove neither.
        """
        if base is not None and reason not in _ASKERS_OWN:
            self._forget(base)
        self._flights.unshareable.add(visit.shelf, self._clock.now() + UNSHAREABLE_SECONDS, reason)

    async def pass_on(self, visit: Visit, place: Place, *, freshens: bool) -> Answer:
        """Send the request itself, body and all, for nobody but its client. Raises OriginError.

        What its success means for the store is settled before the head goes out. `freshens`: the answer to a HEAD
        may speak of a stored GET.
        """
        request = visit.request
        asked, seq = float("inf"), self._log.position

        def sent() -> None:
            nonlocal asked
            asked = self._clock.now()

        call = Call(
            request.method,
            request.target,
            self._headers(visit, narrow=True, base=None),
            body=None if request.length == 0 else visit.client.body(),
            length=request.length,
            upgrade=request.websocket,
            sent=sent,
        )
        if is_write(visit):
            return await self._writes.make(visit, call, place)
        answer = await self._calls.make(visit, call)
        try:
            if freshens and request.method == "HEAD":
                self._freshen_by_head(visit, self._fetched(visit, answer, asked, seq))
        except BaseException:
            answer.close()
            raise
        return answer

    def _freshen_by_head(self, visit: Visit, got: Fetched) -> None:
        """RFC 9111 section 4.3.5: renew what is stored, or drop what is shown to be outdated."""
        stored = self._store.find(visit.key, visit.request, self._clock.now())
        if stored is None or stored.terms.policy != visit.lane.fingerprint or got.head.status != 200:
            return
        verdict = on_head(got, visit.lane.policy, stored)
        if verdict is None or verdict.reason is not None or not self._store.put(verdict.entry):
            self._forget(stored)

    def _headers(self, visit: Visit, *, narrow: bool, base: Entry | None) -> Headers:
        upstream, client, request = visit.lane.upstream, visit.client, visit.request
        return forwarded_headers(
            request,
            host=request.host if upstream.preserve_host else upstream.host,
            peer=client.peer,
            trusted=client.trusted,
            request_id=visit.request_id,
            narrow=narrow,
            base=base,
        )

    def _fetched(self, visit: Visit, answer: Answer, asked: float, seq: int) -> Fetched:
        return Fetched(
            request=visit.request,
            key=visit.key,
            head=answer.head,
            length=answer.length,
            close_delimited=answer.close_delimited,
            asked=asked,
            answered=self._clock.now(),
            wall=self._clock.wall(),
            seq=seq,
            fingerprint=visit.lane.fingerprint,
            tags=visit.tags,
            roll=self._clock.roll(),
        )
