"""PURGE on the listener of the clients: an invalidation of its URL, by whoever may ask for one there."""

import asyncio
import json
from dataclasses import dataclass
from typing import Final

from proxy.flow.answers import Answers, Pending
from proxy.flow.background import Background
from proxy.flow.invalidation import Kind
from proxy.flow.invalidator import Denied, Invalidator
from proxy.flow.ports import Client
from proxy.flow.sharing import LogUnreachable
from proxy.flow.site import Asked, Site
from proxy.flow.tracing import TraceSpan
from proxy.rules.message import Reason, Request
from proxy.rules.purging import softly
from proxy.rules.wire import canonical_host

WAIT: Final = 1.0  # seconds for every live instance to apply it
_SHOWN: Final = 80  # characters of a URL in the log
_UNREADABLE: Final = "Nothing was invalidated: Soft-Purge is neither 1 nor 0."


@dataclass(frozen=True, slots=True)
class Order:
    """What a PURGE is to do: `urls` as they are keyed."""

    urls: tuple[str, ...]
    soft: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """Its id, and whether every live instance is known to have applied it."""

    identity: str
    everywhere: bool


def order_of(site: Site, request: Request) -> Order | None:
    """What a PURGE asks for; None where it cannot be understood.

    Whoever asks may stand before or behind whatever ends TLS, so its URL means both schemes.
    """
    soft = softly(request.fields)
    if soft is None:
        return None
    schemes = (request.scheme, "https" if request.scheme == "http" else "http")
    urls = [site.keyed_url(scheme, canonical_host(request.host, scheme), request.target) for scheme in schemes]
    return Order(tuple(urls), soft)


def verdict(order: Order | None) -> tuple[int, Reason]:
    """What is answered where nothing stands in its way but itself."""
    return (400, Reason.BAD_REQUEST) if order is None else (200, Reason.PURGED)


class Purge:
    """Answers each PURGE once: 200 when every live instance has applied it, 202 when one has not yet."""

    def __init__(self, invalidator: Invalidator, answers: Answers, background: Background) -> None:
        self._invalidator, self._answers, self._background = invalidator, answers, background

    def begin(self, asked: Asked, client: Client, now: float, span: TraceSpan | None = None) -> Pending | None:
        """Refuse now, or return what must wait for the log."""
        request, rule = asked.request, asked.purging
        who = None if rule is None else rule.asker(client.peer, request.fields, trusted=client.trusted)
        if rule is None or not rule.allows(who):
            self._answers.unrouted(request, client, 403, Reason.NOT_ALLOWED, (), now, span=span)
            return None
        order = order_of(asked.site, request)
        if order is None:
            self._answers.unrouted(request, client, *verdict(order), (), now, _UNREADABLE, span=span)
            return None
        return self._obey(order, str(who), request, client, now, span)

    async def _obey(
        self, order: Order, who: str, request: Request, client: Client, now: float, span: TraceSpan | None
    ) -> None:
        outcome: list[_Written | Denied] = []
        # A task of its own: a client that leaves takes down neither what it has begun nor the word of it in the log.
        work = self._background.spawn(self._write(order, who, outcome), "purge")
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._answers.unheard(request, client, now, span=span)
            raise
        done = outcome[0]
        if isinstance(done, Denied):
            status = 429 if done.reason is Reason.TOO_MANY_INVALIDATIONS else 503
            after = (("Retry-After", str(done.after)),)
            self._answers.unrouted(request, client, status, done.reason, after, now, done.detail, span=span)
            return
        body = json.dumps({"id": done.identity}).encode() + b"\n"
        headers = (
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Content-Length", str(len(body))),
        )
        status, reason = verdict(order)
        self._answers.own(request, client, status if done.everywhere else 202, reason, headers, body, now, span=span)

    async def _write(self, order: Order, who: str, outcome: list[_Written | Denied]) -> None:
        targets = [(Kind.URL, url) for url in order.urls]
        shown = order.urls[0].partition("?")[0]  # in a query there may be secrets of clients'
        shown = ascii(shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…")
        told = f"PURGE of {shown}{' (soft)' if order.soft else ''}"
        try:
            identity = await self._invalidator.write(targets, 1, told, who, soft=order.soft)
            outcome.append(_Written(identity, await self._everywhere(identity)))
        except Denied as denied:
            outcome.append(denied)

    async def _everywhere(self, identity: str) -> bool:
        """Whether every live instance has applied it. Where nobody knows it is written all the same."""
        try:
            progress = await self._invalidator.progress(identity, WAIT)
        except LogUnreachable:
            return False
        return progress is not None and not progress.pending
