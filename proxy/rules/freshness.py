"""How old a response is, how long it lives, and what may be done with it when it is stale."""

from dataclasses import dataclass, replace
from enum import Enum, auto, unique
from typing import Final

from proxy.rules.fields import Directives, age_of, http_date, seconds
from proxy.rules.message import Entry, Fields, Head, shared
from proxy.rules.policy import Policy

# RFC 9110 section 15.1. 206 is left out: only wholes are stored.
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
# What the operator's TTL speaks of: answers, not errors, which have negative_ttl.
TTL_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 302, 307, 308})
# RFC 9111 section 4.2.4 lets a cache that is cut off answer stale, for as long as it sees fit.
_UNREACHABLE_WINDOW: Final = 600.0  # seconds
_DATE_SLACK: Final = 2.0  # seconds: Date counts whole ones, so less is rounding and travel, not age
HEURISTIC_FRACTION: Final = 0.1  # RFC 9111 section 4.2.2
HEURISTIC_MAX: Final = 86400.0  # seconds


@unique
class Source(Enum):
    """Whose word a lifetime is."""

    UPSTREAM = auto()
    OPERATOR = auto()
    GUESS = auto()  # RFC 9111 section 4.2.2


@dataclass(frozen=True, slots=True)
class Freshness:
    """Seconds: `lifetime` from generation, or from its arrival here where it is the operator's, then
    the stale windows behind it.
    """

    lifetime: float
    stale_while_revalidate: float
    stale_if_error: float
    stale_if_lost: float
    always_validate: bool
    never_stale: bool
    source: Source


def initial_age(fields: Fields, asked: float, answered: float, wall: float) -> float | None:
    """corrected_initial_age of RFC 9111 section 4.2.3, in seconds; None where Age is unreadable.

    `asked` and `answered` are monotonic, `wall` is the wall clock when the answer came. One
    deliberate difference: the response delay counts only behind another cache, that is where
    there is an Age to correct. An origin that thinks for two seconds has not sent a response
    that is two seconds old; its Date says when it was made.
    """
    age = age_of(fields)
    if age is None:
        return None
    date = http_date(fields.get("date"))
    apparent = 0.0 if date is None else max(0.0, wall - date)
    if apparent < _DATE_SLACK:
        apparent = 0.0
    return max(apparent, age + (answered - asked)) if "age" in fields else apparent


def freshness(
    head: Head, given: Directives, policy: Policy, *, aimed: bool, wall: float, roll: float
) -> Freshness | None:
    """What the response and the policy say together; None where nobody gives any freshness.

    `aimed`: the directives came from a targeted field, so Expires has no say (RFC 9213 section
    2.2). `roll` in [0, 1) draws the jitter, which only ever shortens a TTL of the operator's.
    """
    shorter = 1 - policy.jitter * roll
    own = _stated_lifetime(head.fields, given, aimed=aimed, wall=wall)
    overridden = policy.override_ttl is not None and head.status in TTL_STATUSES
    source = Source.OPERATOR
    if policy.override_ttl is not None and overridden:
        lifetime = policy.override_ttl * shorter
    elif own is not None:
        lifetime, source = own, Source.UPSTREAM
    elif head.status in policy.negative_ttl:
        lifetime = policy.negative_ttl[head.status] * shorter
    elif policy.default_ttl is not None and head.status in TTL_STATUSES:
        lifetime = policy.default_ttl * shorter
    elif (guess := _heuristic_lifetime(head, given, wall)) is not None:
        lifetime, source = guess, Source.GUESS
    elif "no-cache" in given:  # never fresh, and says so itself
        lifetime, source = 0.0, Source.UPSTREAM
    else:
        return None
    # RFC 9111 section 4.2.4: none of these may be answered stale, whatever the policy grants.
    never = not given.keys().isdisjoint(("must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"))
    swr, sie = seconds(given, "stale-while-revalidate"), seconds(given, "stale-if-error")
    granted = policy.stale_if_error if sie is None else float(sie)
    window = 0.0 if never or granted is None else granted
    return Freshness(
        lifetime=lifetime,
        stale_while_revalidate=0.0 if never else policy.stale_while_revalidate if swr is None else float(swr),
        stale_if_error=window,
        stale_if_lost=window if never or granted is not None else _UNREACHABLE_WINDOW,
        always_validate="no-cache" in given and not overridden,
        never_stale=never,
        source=source,
    )


def _stated_lifetime(fields: Fields, given: Directives, *, aimed: bool, wall: float) -> float | None:
    """RFC 9111 section 4.2.1: s-maxage, max-age, then Expires."""
    for name in ("s-maxage", "max-age"):
        lifetime = seconds(given, name)
        if lifetime is not None:
            return float(lifetime)
    if aimed or "expires" not in fields:
        return None
    expires = http_date(fields["expires"])
    if expires is None:
        return 0.0  # section 5.3: an invalid date is in the past
    date = http_date(fields.get("date"))
    return max(0.0, expires - (wall if date is None else date))


def _heuristic_lifetime(head: Head, given: Directives, wall: float) -> float | None:
    modified = http_date(head.fields.get("last-modified"))
    if modified is None or not (head.status in HEURISTIC_STATUSES or "public" in given):
        return None
    date = http_date(head.fields.get("date"))
    return min(max(0.0, (wall if date is None else date) - modified) * HEURISTIC_FRACTION, HEURISTIC_MAX)


def soften(entry: Entry, at: float) -> Entry:
    """The entry made stale at a moment; its windows begin then and do not grow."""
    return entry if entry.fresh_until <= at else replace(entry, fresh_until=at)


def distrust(entry: Entry) -> Entry:
    """The entry as one that only the upstream can vouch for: no window applies."""
    terms = replace(
        entry.terms,
        stale_window=0.0,
        error_window=0.0,
        lost_window=0.0,
        always_validate=True,
        distrusted=True,
        never_stale=True,
    )
    return replace(entry, terms=shared(terms), fresh_until=entry.stored_at)
