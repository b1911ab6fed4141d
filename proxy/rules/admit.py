"""The second question: what does this response change?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.rules.fields import (
    Directives,
    format_date,
    response_directives,
    response_tags,
    selecting,
    spelled_otherwise,
    vary_names,
)
from proxy.rules.freshness import Freshness, Source, freshness, initial_age
from proxy.rules.lookup import has_credentials, on_failure
from proxy.rules.message import Entry, Fields, Head, Headers, Reason, Request, Terms, fold, held_once, shared
from proxy.rules.policy import Policy
from proxy.rules.wire import field_lines, head_bytes

NAME: Final = "readthrough"
INLINE: Final = 256 << 10  # bytes; larger bodies are stored beside their heads, in pieces


@dataclass(frozen=True, slots=True)
class Fetched:
    """A response head and what was known when it was asked for.

    `asked` and `answered` are monotonic, `wall` is the wall clock at the answer. `seq`
    is where the invalidation log stood when the fetch began. `tags` are the route's.
    `length` None is a body of undeclared length.
    """

    request: Request
    key: str
    head: Head
    length: int | None
    close_delimited: bool
    asked: float
    answered: float
    wall: float
    seq: int
    fingerprint: str
    tags: tuple[str, ...]
    roll: float


@dataclass(frozen=True, slots=True)
class Store:
    """Keep it: `entry` is complete but for its bytes."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Freshen:
    """The stored entry, updated. With a `reason` why not it is not kept so: it is for the one who asked alone."""

    entry: Entry
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class UseStale:
    """The upstream answered with an error and the stored entry bridges it (RFC 5861 section 4)."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Pass:
    """Relay and forget. `shared`: those who wait may have it too, once."""

    reason: Reason
    shared: bool = False


Verdict = Store | Freshen | UseStale | Pass

# RFC 9110 section 15: what must-understand (RFC 9111 section 5.2.2.3) may assume of us.
_UNDERSTOOD: Final = frozenset(
    {200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412}
    | {413, 414, 415, 416, 417, 421, 422, 426, 500, 501, 502, 503, 504, 505}
)
# What a 304 or a HEAD may not change of a stored representation (RFC 9111 section 3.2).
_PRESERVED: Final = frozenset(
    {"content-length", "content-encoding", "content-range", "content-md5", "etag", "transfer-encoding", "vary"}
)


def on_response(got: Fetched, policy: Policy, stored: Entry | None) -> Verdict:
    """Decide. `stored` is what the request was conditional on, or would fall back on."""
    if got.head.status == 304 and stored is not None and _can_validate(stored.head.fields):
        return _freshen(got, policy, stored)
    if got.head.status >= 500 and on_failure(stored, got.answered, lost=False) is not None and stored is not None:
        return UseStale(stored)
    return _admit(got, policy, got.head)


def on_head(got: Fetched, policy: Policy, stored: Entry) -> Freshen | None:
    """What the answer to a HEAD says of a stored GET (RFC 9111 section 4.3.5); None: it is outdated."""
    fresh, old = got.head.fields, stored.head.fields
    for name in ("etag", "last-modified"):
        if name in fresh and fresh[name] != old.get(name):
            return None
    if got.head.status != stored.head.status or fresh.get("content-length", str(stored.length)) != str(stored.length):
        return None
    return _freshen(got, policy, stored)


def _freshen(got: Fetched, policy: Policy, stored: Entry) -> Freshen:
    """Update the stored head with the new fields (RFC 9111 sections 3.2 and 4.3.4)."""
    new = tuple((n, v) for n, v in got.head.headers if n.lower() not in _PRESERVED)
    if "date" not in got.head.fields:  # RFC 9110 section 6.6.1: then it is when it came
        new = (*new, ("Date", format_date(got.wall)))
    replaced = {n.lower() for n, _ in new} | {"age"}
    headers = (*((n, v) for n, v in _received(stored) if n.lower() not in replaced), *new)
    head = Head(stored.head.status, stored.head.reason, headers, fold(headers), got.head.http10)
    verdict = _admit(replace(got, length=stored.length, close_delimited=False), policy, head)
    if isinstance(verdict, Store):
        terms = replace(verdict.entry.terms, vary=stored.vary, fetch_seconds=stored.terms.fetch_seconds)
        entry, reason = replace(verdict.entry, terms=shared(terms)), None
    else:
        entry, reason = stored, verdict.reason
    return Freshen(complete(entry, head, stored.body, got.wall, policy), reason)


def _received(entry: Entry) -> Headers:
    """The stored fields as the upstream gave them: without our Via, with what clients do not get."""
    headers = entry.head.headers
    ours = max(at for at, (name, _) in enumerate(headers) if name == "Via")
    return (*headers[:ours], *headers[ours + 1 :], *entry.terms.aside)


def _admit(got: Fetched, policy: Policy, head: Head) -> Store | Pass:
    given, aimed = response_directives(head.fields)
    request = got.request
    refusal = _unstorable(got, policy, head, given)
    if refusal is not None:
        return Pass(refusal)
    age = initial_age(head.fields, got.asked, got.answered, got.wall)
    life = freshness(head, given, policy, aimed=aimed, wall=got.wall, roll=got.roll)
    if life is None and head.status >= 500:
        alone = has_credentials(request.fields) or "vary" in head.fields
        return Pass(Reason.UPSTREAM_ERROR, shared=not alone)
    if life is None:
        return Pass(Reason.NO_FRESHNESS)
    if life.always_validate and not _can_validate(head.fields):
        return Pass(Reason.MUST_VALIDATE)
    if life.source is not Source.UPSTREAM and not policy.share_credentials and has_credentials(request.fields):
        return Pass(Reason.CREDENTIALS)
    # An operator's lifetime counts from here; an Age that cannot be read leaves none of another.
    left = life.lifetime if life.source is Source.OPERATOR else 0.0 if age is None else life.lifetime - age
    windows = life.stale_while_revalidate or life.stale_if_error
    if left <= 0 and not windows and not _can_validate(head.fields):
        return Pass(Reason.NO_FRESHNESS)
    return Store(_draft(got, head, life, life.lifetime - left if age is None else age, left))


def _unstorable(got: Fetched, policy: Policy, head: Head, given: Directives) -> Reason | None:
    """RFC 9111 section 3, and what is safer than it."""
    understood = "must-understand" in given and head.status in _UNDERSTOOD
    checks = (
        (head.status == 206, Reason.PARTIAL),
        (head.status < 200 or head.status == 304, Reason.STATUS),
        ("must-understand" in given and not understood, Reason.STATUS),
        ("no-store" in given and not understood, Reason.NO_STORE),
        ("private" in given, Reason.PRIVATE),
        (_answers_authorization(got.request.fields, given, policy), Reason.AUTHORIZATION),
        (not policy.store_set_cookie and "set-cookie" in head.fields, Reason.SET_COOKIE),
        (vary_names(head.fields) is None, Reason.VARY_STAR),
        (head.fields.get("content-type", "").lower().startswith("text/event-stream"), Reason.EVENT_STREAM),
        (got.close_delimited, Reason.CLOSE_DELIMITED),
        (got.length is not None and got.length > policy.max_object_size, Reason.TOO_LARGE),
    )
    return next((reason for hit, reason in checks if hit), None)


def _answers_authorization(fields: Fields, given: Directives, policy: Policy) -> bool:
    """RFC 9111 section 3.5, unless the operator vouches for it."""
    return (
        "authorization" in fields
        and not policy.share_credentials
        and given.keys().isdisjoint(("public", "s-maxage", "must-revalidate"))
    )


def _can_validate(fields: Fields) -> bool:
    return "etag" in fields or "last-modified" in fields


def _draft(got: Fetched, head: Head, life: Freshness, age: float, left: float) -> Entry:
    fields = head.fields
    names = vary_names(fields) or ()
    if "content-encoding" in fields and "accept-encoding" not in names:
        # Upstreams that negotiate the coding and do not say so: never hand gzip to who cannot read it.
        names = tuple(sorted((*names, "accept-encoding")))
    if names:
        names += spelled_otherwise(got.request.fields, names)
    terms = Terms(
        vary=selecting(got.request.fields, names),
        tags=(*got.tags, *response_tags(fields, f"{got.request.scheme}://{got.request.host}")),
        aside=(),
        policy=got.fingerprint,
        stale_window=life.stale_while_revalidate,
        error_window=max(life.stale_if_error, life.stale_while_revalidate),
        lost_window=max(life.stale_if_lost, life.stale_while_revalidate),
        always_validate=life.always_validate,
        distrusted=False,
        never_stale=life.never_stale,
        stated=life.source is Source.UPSTREAM,
        fetch_seconds=float(f"{got.answered - got.asked:.1e}"),
    )
    return Entry(
        key=got.key,
        terms=shared(terms),
        lead=b"",
        rest=b"",
        head_end=0,
        pieces=(),
        stored_at=got.answered,
        born=got.answered - age if age else got.answered,  # one object for both in most entries
        fresh_until=got.answered + left,
        seq=got.seq,
    )


def complete(entry: Entry, head: Head, body: Sequence[bytes], wall: float, policy: Policy) -> Entry:
    """The entry with its body, and with the head that every hit will send. `wall`: when that came."""
    length = sum(map(len, body))
    headers = tuple([(n, v) for n, v in outward(head, wall, policy) if n.lower() != "age"])  # a hit writes its own
    if "content-length" not in head.fields and head.status not in (204, 304):
        headers = (*headers, ("Content-Length", str(length)))
    above = max((at for at, (n, _) in enumerate(headers, 1) if n.lower() == "cache-status"), default=0)
    lead, fields = head_bytes(head.status, head.reason, headers[:above]), field_lines(headers[above:]) + b"\r\n"
    aside = () if policy.forward_tags else tuple([(n, v) for n, v in head.headers if n.lower() in _TAG_FIELDS])
    return replace(
        entry,
        terms=shared(replace(entry.terms, aside=aside)) if aside != entry.terms.aside else entry.terms,
        lead=lead if above else held_once(lead),
        rest=b"".join((fields, *body)) if length <= INLINE else fields,
        head_end=held_once(len(fields)),
        pieces=() if length <= INLINE else tuple(body),
    )


_TAG_FIELDS: Final = frozenset({"surrogate-key", "cache-tag"})


def outward(head: Head, wall: float, policy: Policy) -> Headers:
    """The upstream's fields as a client gets them: Via added, Date where it was missing, tags
    taken off unless the route forwards them (RFC 9110 sections 6.6.1 and 7.6.3).
    """
    headers = head.headers
    if policy.enabled and not policy.forward_tags and not _TAG_FIELDS.isdisjoint(head.fields):
        headers = tuple((n, v) for n, v in headers if n.lower() not in _TAG_FIELDS)
    if "date" not in head.fields:
        headers = (*headers, ("Date", format_date(wall)))
    return (*headers, ("Via", f"1.{0 if head.http10 else 1} {NAME}"))
