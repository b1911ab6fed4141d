"""Waiting for the upstream: alone, or with everybody else who wants the same."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, assert_never

from proxy.flow.answers import HELD_BACK, Answers
from proxy.flow.fill import Fill
from proxy.flow.flights import Failed, Flight, Flights, Landed, Reader, Streaming
from proxy.flow.gate import Full, Place
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import Clock, OriginError, Store
from proxy.flow.sharing import Alone, Apart, Broken, Claim, Found, Lead, Rest
from proxy.flow.site import Visit
from proxy.rules.fields import selecting
from proxy.rules.lookup import Fetch, Serve, has_credentials, on_failure, on_request
from proxy.rules.message import Entry, Headers, Reason
from proxy.rules.report import Account, failure_status

_TURNS: Final = 4  # flights a request tries before it goes alone


class Relay:
    """Answers that must be fetched."""

    def __init__(
        self, store: Store, log: InvalidationLog, flights: Flights, fill: Fill, answers: Answers, clock: Clock
    ) -> None:
        self._store, self._log, self._flights = store, log, flights
        self._fill, self._answers, self._clock = fill, answers, clock

    async def fetch(self, visit: Visit, plan: Fetch, looked: Found | Rest | None = None) -> None:
        """Fetch and answer, when its client has not too much under way; `looked`: what a look came to. Raises
        ClientError where the client fails; a flight goes on without it, and keeps its place.
        """
        place = Place(visit.lane.gates, visit.guest)
        try:
            if visit.request.method == "GET" and plan.keep:
                await self._fly(visit, plan, place, looked)
            else:
                await self._pass_on(visit, plan, place)
        except Full as full:
            self._answers.error(visit, 503, Account(Reason.CONCURRENCY_LIMITED), after=full.after)
        finally:
            place.leave()

    async def _fly(self, visit: Visit, plan: Fetch, place: Place, looked: Found | Rest | None) -> None:
        """Lead or join flights until one's answer is for this request, then go alone."""
        since = visit.now if plan.fresh else 0.0
        variant: Headers | None = self._store.variant(visit.key, visit.request) if plan.shared else None
        claim: Claim | None = None if plan.shared else Apart()
        waited = False
        for turn in range(_TURNS):
            alone = None
            # Asked once for each flight: whoever is told nothing is the one that finds out.
            if not waited and (claim is None or (turn == 0 and "range" in visit.request.fields)):
                alone = self._flights.must_go_alone(visit.shelf, visit.now)
            flight = None if variant is None else self._flights.joinable(visit.shelf, variant, since)
            stored = None if alone is not None or flight is not None else self._stored_meanwhile(visit, plan)
            if alone is not None or flight is not None or stored is not None:
                _let_go(looked)
                looked = None
            if alone is not None:
                plan = plan._replace(reason=alone)
                break
            if stored is not None:
                await self._serve(visit, stored.entry, Account(stored.reason, ttl=stored.ttl(self._clock.now())))
                return
            if flight is None and claim is None:
                claim = await self._fill.claim(visit, plan, looked)
                _let_go(looked)  # it may not have been asked
                looked = None
                again = await self._claimed(visit, plan, claim)
                if again is None:
                    return
                plan = again
                if isinstance(claim, Alone):
                    break
                if not plan.shared:  # what was found says that this is for its asker alone
                    variant = None
                # Others were woken with us, and one of them may have taken off.
                flight = None if variant is None else self._flights.joinable(visit.shelf, variant, since)
            if flight is None:
                if isinstance(claim, Lead) and place.waits:
                    claim = None  # the fleet must not wait for whoever waits here: its lease is free
                waited = await place.take()
                if waited:
                    continue  # much may have happened meanwhile
                lease = claim.lease if isinstance(claim, Lead) and claim.lease.take() else None
                flight = self._fill.open(visit, plan.base, variant, lease)
                place.pass_on(flight.task)
                if await self._lead(visit, plan, flight):
                    return
                if flight.ending:
                    await asyncio.wait([flight.task])  # then its places are free
                break
            claim = None  # what others had said is of the past when the flight has landed
            if await self._follow(visit, plan, flight):
                return
            behind = self._next(visit, flight)
            if behind is None:
                break
            since, variant = behind
        await self._pass_on(visit, plan, place)

    async def _claimed(self, visit: Visit, plan: Fetch, claim: Claim) -> Fetch | None:
        """What is left to fetch after other instances were asked; None where that has answered the request."""
        match claim:
            case Found(entry) | Lead(_, Entry() as entry):
                again = on_request(
                    visit.request, entry, visit.lane.policy, self._clock.now(), held=True, roll=self._clock.roll()
                )
                if isinstance(again, Serve):
                    if again.refresh:
                        self._fill.refresh(visit, entry)
                    account = Account(Reason.SHARED_STORE, ttl=again.ttl(self._clock.now()))
                    await self._serve(visit, entry, account)
                    return None
                return again if isinstance(again, Fetch) else plan
            case Broken(reason, status):
                answered = None if reason is not Reason.UPSTREAM_ERROR else status
                await self._failed(visit, plan, status, Account(reason, None, plan.fwd, answered, collapsed=True))
                return None
            case Alone(reason):
                return plan._replace(reason=reason)
            case Lead() | Apart():
                return plan
            case _:
                assert_never(claim)

    def _stored_meanwhile(self, visit: Visit, plan: Fetch) -> Serve | None:
        """Look once more before a flight takes off: one may just have landed, between the look-up and here."""
        entry = self._store.find(visit.key, visit.request, self._clock.now())
        if entry is None or entry is plan.base or entry.terms.policy != visit.lane.fingerprint:
            return None
        again = on_request(visit.request, entry, visit.lane.policy, self._clock.now(), held=True, roll=1.0)
        return again if isinstance(again, Serve) else None

    async def _lead(self, visit: Visit, plan: Fetch, flight: Flight) -> bool:
        """Answer with whatever the flight brings; False only for a range that is better asked for alone."""
        reader = flight.reader()  # now, before anything can be dropped
        assert reader is not None  # noqa: S101 - a flight that has not taken off has dropped nothing
        try:
            arrival = await flight.arrived()
            if isinstance(arrival, Streaming):
                if arrival.reason is Reason.TOO_LARGE and "range" in visit.request.fields:
                    return False
                await self._stream(visit, plan, arrival, reader, collapsed=False)
            else:
                await self._landed_or_failed(visit, plan, arrival, collapsed=False)
        finally:
            reader.close()
        return True

    async def _follow(self, visit: Visit, plan: Fetch, flight: Flight) -> bool:
        """Answer with what the flight brings if it is for this request too."""
        if visit.span is not None and flight.span is not None:
            visit.span.follow(flight.span)
        arrival = await flight.arrived()
        match arrival:
            case Failed():
                await self._landed_or_failed(visit, plan, arrival, collapsed=True)
                return True
            case Landed(entry, _, stale, reason):
                if reason is not None or self._log.overtaken(flight, flight.seq):
                    return False
                if not self._suits(visit, flight, entry, stale=stale):
                    return False
                await self._landed_or_failed(visit, plan, arrival, collapsed=True)
                return True
            case Streaming(head, _, _, draft, reason, shared):
                if draft is None and head.status >= 500 and not shared:
                    # An error reaches all who wait, once: its status does, its body is its asker's alone.
                    status = Account(reason or Reason.UPSTREAM_ERROR, None, plan.fwd, head.status, collapsed=True)
                    await self._failed(visit, plan, head.status, status)
                    return True
                if self._log.overtaken(flight, flight.seq) or not shared:
                    return False
                if draft is not None and not self._suits(visit, flight, draft, stale=None):
                    return False
                reader = flight.reader()
                if reader is None:
                    return False
                try:
                    await self._stream(visit, plan, arrival, reader, collapsed=True)
                finally:
                    reader.close()
                return True
            case _:
                assert_never(arrival)

    def _suits(self, visit: Visit, flight: Flight, entry: Entry, *, stale: bool | None) -> bool:
        """Whether what just arrived may answer a request that waited for it: by the very rules that
        a stored entry is judged by. `stale` is None for a body still on its way.

        Where the fetch began after the request came it is as new as the request can ask for.
        """
        if _variant(visit, entry) != entry.vary:
            return False
        newer = flight.asked >= visit.now
        now = self._clock.now()
        policy = visit.lane.blunt if newer else visit.lane.policy
        plan = on_request(visit.request, entry, policy, now, held=True, roll=1.0)
        if isinstance(plan, Serve):
            return True
        if stale:
            return on_failure(entry, now, lost=False) is not None
        return stale is False and newer and isinstance(plan, Fetch) and plan.base is entry  # validated just for us

    def _next(self, visit: Visit, flight: Flight) -> tuple[float, Headers] | None:
        """Where to look after a flight that was not for this request; None: alone."""
        arrival = flight.arrival
        if isinstance(arrival, Landed):
            return visit.now, _variant(
                visit, arrival.entry
            )  # a validation from before this request does not count for it
        if isinstance(arrival, Streaming) and arrival.draft is not None:
            variant = _variant(visit, arrival.draft)
            if variant != arrival.draft.vary or self._log.overtaken(flight, flight.seq):
                return 0.0, variant
        return None

    async def _landed_or_failed(self, visit: Visit, plan: Fetch, arrival: Landed | Failed, *, collapsed: bool) -> None:
        if isinstance(arrival, Failed):
            status = failure_status(arrival.reason)
            await self._failed(visit, plan, status, Account(arrival.reason, fwd=plan.fwd, collapsed=collapsed))
            return
        if arrival.stale:
            account = Account(Reason.UPSTREAM_ERROR, None, plan.fwd, arrival.status, collapsed=collapsed)
            await self._failed(visit, plan._replace(base=arrival.entry), arrival.status, account)
            return
        reason = plan.reason if arrival.reason is None else arrival.reason
        account = Account(reason, None, plan.fwd, arrival.status, collapsed=collapsed)
        await self._serve(visit, arrival.entry, account)

    async def _stream(self, visit: Visit, plan: Fetch, arrival: Streaming, reader: Reader, *, collapsed: bool) -> None:
        stored = arrival.draft is not None
        reason = plan.reason if arrival.reason is None else arrival.reason
        account = Account(reason, None, plan.fwd, arrival.head.status, stored=stored, collapsed=collapsed)
        body: AsyncIterator[bytes] = reader
        if on_failure(plan.base, self._clock.now(), lost=True) is not None:
            # As long as nothing was sent, a body that breaks off can still become a stale answer.
            try:
                body = _behind(await anext(reader, b""), reader)
            except OriginError as error:
                await self._failed(visit, plan, failure_status(error.reason), Account(error.reason, fwd=plan.fwd))
                return
        await self._answers.relay(visit, arrival.head, arrival.length, body, account, whole=True, close=arrival.close)

    async def _pass_on(self, visit: Visit, plan: Fetch, place: Place) -> None:
        """Send the request itself and relay its answer to nobody else."""
        await place.take()
        try:
            # Who asks for itself alone says nothing of what is stored for all.
            shareable = plan.keep and not has_credentials(visit.request.fields)
            answer = await self._fill.pass_on(visit, place, freshens=shareable)
        except OriginError as error:
            await self._failed(visit, plan, failure_status(error.reason), Account(error.reason, fwd=plan.fwd))
            return
        account = Account(plan.reason, None, plan.fwd, answer.head.status)
        try:
            if answer.head.status == 101:
                await self._answers.tunnel(visit, answer.head, answer.tunnel(), account)
                return
            await self._answers.relay(
                visit, answer.head, answer.length, answer.chunks(), account, whole=False, close=answer.close_delimited
            )
        finally:
            answer.close()

    async def _failed(self, visit: Visit, plan: Fetch, status: int, account: Account) -> None:
        """A stale answer where one is stored, allowed and not purged meanwhile, else the error."""
        base = None if plan.base is None else self._log.judge(plan.base, visit.seen)
        stale = on_failure(base, self._clock.now(), lost=account.fwd_status is None)
        if stale is None:
            gate = visit.lane.upstream.gate
            busy = gate if account.reason is Reason.UPSTREAM_BUSY else None
            self._answers.error(visit, status, account, after=1 if busy is None else busy.rule.after)
            return
        if account.reason in HELD_BACK:  # it was answered without asking the upstream
            account = Account(Reason.STALE_IF_ERROR, ttl=stale.ttl(self._clock.now()))
        await self._serve(visit, stale.entry, account._replace(reason=Reason.STALE_IF_ERROR))

    async def _serve(self, visit: Visit, entry: Entry, account: Account) -> None:
        rest = self._answers.serve(visit, entry, account)
        if rest is not None:
            await rest()


def _let_go(looked: Found | Rest | None) -> None:
    """The fleet must not wait for whoever will not fetch."""
    if looked is not None and not isinstance(looked, Found):
        looked.drop()


def _variant(visit: Visit, entry: Entry) -> Headers:
    return selecting(visit.request.fields, tuple(name for name, _ in entry.vary))


async def _behind(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk
