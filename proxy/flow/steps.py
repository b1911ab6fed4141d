"""The steps of an explanation that follow from a request, an entry and the configuration alone."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import exp
from typing import Final

from proxy.flow.explanation import (
    Arithmetic,
    AsRead,
    Client,
    Compared,
    Eligibility,
    Field,
    Keying,
    Routing,
    Tried,
    Window,
    Wish,
)
from proxy.flow.site import Asked, Site
from proxy.rules.fields import directives, seconds
from proxy.rules.keys import cache_target, keyed_names
from proxy.rules.lookup import Fetch, has_credentials, not_for_cache, on_request, wishes_of
from proxy.rules.message import Entry, Fields, Headers, Reason, Request
from proxy.rules.policy import Policy
from proxy.rules.redaction import told
from proxy.rules.routes import Route, Unrouted, miss, route

NEVER: Final = 1.0  # the roll with which no early refresh begins: it changes no answer


def as_read(request: Request) -> AsRead:
    """The request."""
    return AsRead(request.method, request.scheme, request.host, request.target, body=request.length != 0)


def routing(site: Site, asked: Asked) -> Routing:
    """Every route that was tried, and why it was passed over."""
    request, tried = asked.request, []
    # A PURGE is no route's: `read` says so before it asks any.
    for candidate in site.routes if asked.lane is not None or request.method != "PURGE" else ():
        tried.append(_tried(candidate, request))
        if tried[-1].miss is None:
            break
    taken = route(site.routes, request.host, request.path, request.method)
    if asked.lane is None or isinstance(taken, Unrouted):
        return Routing(tuple(tried), None, {}, asked.allow)
    return Routing(tuple(tried), asked.lane.route.name, dict(taken.captures), ())


def _tried(candidate: Route, request: Request) -> Tried:
    match = candidate.match
    why = miss(match, request.host, request.path, request.method)
    return Tried(candidate.name, match.host, match.path, match.methods, why)


def keying(asked: Asked, policy: Policy) -> Keying:
    """The key, taken apart."""
    request, rule = asked.request, policy.key
    pairs = request.target.partition("?")[2].split("&")
    ignored = [pair.partition("=")[0] for pair in pairs if pair and not cache_target(f"?{pair}", rule)]
    return Keying(
        url=asked.url,
        scheme=request.scheme,
        host=request.host,
        target=cache_target(request.target, rule),
        ignored=tuple(ignored),
        headers=tuple([Field(name, told(name, asked.fields.get(name))) for name in keyed_names(asked.fields, rule)]),
        tags=asked.tags,
    )


def eligibility(request: Request, entry: Entry | None, policy: Policy) -> Eligibility:
    """Whether anything stored may answer: by a plan in which freshness and the client's wishes have no say."""
    credentials = has_credentials(request.fields)
    aside = not_for_cache(request, policy)
    if aside is None:
        plan = on_request(_wishing(request, None), entry, policy, 0.0, held=False, roll=NEVER)
        aside = plan if isinstance(plan, Fetch) and plan.reason is Reason.CREDENTIALS else None
    if aside is None and "no-store" in wishes_of(request.fields, policy):
        return Eligibility(may=False, reason=Reason.REQUEST_NO_STORE, credentials=credentials)
    return Eligibility(may=aside is None, reason=None if aside is None else aside.reason, credentials=credentials)


def compared(vary: Headers, asked: Headers) -> tuple[Compared, ...]:
    """What a variant was selected on, beside what a request has under the same names."""
    return tuple(
        [
            Compared(name, told(name, stored), told(name, own), stored == own)
            for (name, stored), (_, own) in zip(vary, asked, strict=True)
        ]
    )


def arithmetic(entry: Entry, policy: Policy, now: float) -> Arithmetic:
    """How old the entry is, and what may still be done with it."""
    terms, left = entry.terms, entry.fresh_until - now
    chance = 0.0
    if policy.early_refresh > 0 and terms.fetch_seconds > 0 and left > 0:
        chance = exp(-left / (terms.fetch_seconds * policy.early_refresh))
    return Arithmetic(
        age=now - entry.born,
        lifetime=entry.fresh_until - entry.born,
        left=left,
        fresh=left > 0 and not terms.always_validate,
        windows=windows(entry, now),
        must_validate=terms.always_validate,
        never_stale=terms.never_stale,
        stated=terms.stated,
        early_refresh=chance,
    )


def windows(entry: Entry, now: float) -> tuple[Window, ...]:
    """What may be done with it behind the end of its freshness."""
    terms = entry.terms
    return (
        Window(Reason.STALE_WHILE_REVALIDATE, terms.stale_window, entry.stale_until - now),
        Window(Reason.STALE_IF_ERROR, terms.error_window, entry.error_until - now),
        Window(Reason.STALE_IF_ERROR, terms.lost_window, entry.lost_until - now, unreachable=True),
    )


def client(request: Request, entry: Entry | None, policy: Policy, now: float, *, held: bool) -> Client:
    """What each directive of the client's does by itself: by asking the rule with it, and without any."""

    def decided(fields: Fields) -> Reason:
        changed = replace(request, fields=fields)
        return on_request(changed, entry, policy, now, held=held, roll=NEVER).reason

    without = decided(_wishing(request, None).fields)
    own = replace(policy, respect_request=True)
    wishes = []
    for name, argument in wishes_of(request.fields, own).items():
        written = name if argument is None else f"{name}={argument}"
        alone = decided(_wishing(request, written).fields)
        limit = seconds(directives(written), name) if name in _COMPARED and argument is not None else None
        against = None if entry is None or name not in _COMPARED else _COMPARED[name](entry, now)
        wishes.append(Wish(written, limit, against, alone, alone is not without))
    return Client(policy.respect_request, tuple(wishes), without)


_COMPARED: Final[Mapping[str, Callable[[Entry, float], float]]] = {
    "max-age": lambda entry, now: now - entry.born,
    "min-fresh": lambda entry, now: entry.fresh_until - now,
    "max-stale": lambda entry, now: now - entry.fresh_until,
}


def _wishing(request: Request, wish: str | None) -> Request:
    """The request with this one directive, or with none."""
    rest = {name: value for name, value in request.fields.items() if name not in ("cache-control", "pragma")}
    return replace(request, fields=rest if wish is None else {**rest, "cache-control": wish})
