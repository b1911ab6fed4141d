"""The first question: may this request be answered from what is stored, and if not, why not?"""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

from proxy.rules.fields import Directives, directives, seconds
from proxy.rules.message import Entry, Fields, Fwd, Reason, Request
from proxy.rules.policy import Policy


class Serve(NamedTuple):
    """Answer from the entry now; `refresh` it behind the answer's back."""

    entry: Entry
    reason: Reason
    refresh: bool = False

    def ttl(self, now: float) -> int:
        """Whole seconds of freshness left, negative when stale."""
        return int((self.entry.fresh_until - now) // 1)


class Fetch(NamedTuple):
    """Ask the upstream.

    `shared`: may lead or join a flight; `fresh`: only one that begins after the request did.
    `keep`: the answer may be stored. `base` is what a validation may bring back to life.
    """

    fwd: Fwd
    reason: Reason
    shared: bool = False
    fresh: bool = False
    keep: bool = True
    base: Entry | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an error of our own."""

    status: int
    reason: Reason


Plan = Serve | Fetch | Refuse

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "SEARCH"})  # RFC 9110 9.2.1


def has_credentials(fields: Fields) -> bool:
    """Whether the request says who is asking."""
    return "authorization" in fields or "cookie" in fields


def is_plain(request: Request, policy: Policy) -> bool:
    """Whether the request leaves nothing to decide where the stored entry is fresh and may be used
    unvalidated: `on_request` serves it then, but for what `has_credentials` asks. Most requests are plain.
    """
    asks = policy.respect_request and ("cache-control" in request.fields or "pragma" in request.fields)
    return not asks and policy.early_refresh == 0 and not_for_cache(request, policy) is None


def on_request(request: Request, entry: Entry | None, policy: Policy, now: float, *, held: bool, roll: float) -> Plan:
    """Decide. `entry` is the stored variant that the request selects; `held` says that the key has
    variants at all; `roll` in (0, 1] draws the chance of an early refresh.
    """
    aside = not_for_cache(request, policy)
    if aside is not None:
        return aside
    wishes = wishes_of(request.fields, policy)
    unstated = policy.operator_freshness if entry is None else not entry.terms.stated
    plan: Plan
    if unstated and not policy.share_credentials and has_credentials(request.fields):
        plan = Fetch(Fwd.BYPASS, Reason.CREDENTIALS)  # only the upstream's own word makes an answer everybody's
    else:
        plan = _judge(request, entry, policy, wishes, now, held=held, roll=roll)
    if "only-if-cached" in wishes and isinstance(plan, Fetch):
        return Refuse(504, Reason.ONLY_IF_CACHED)  # RFC 9111 section 5.2.1.7
    return plan


def wishes_of(fields: Fields, policy: Policy) -> Directives:
    """What the client asks of the cache, where the route listens to that."""
    if not policy.respect_request:
        return {}
    if "cache-control" in fields:
        return directives(fields["cache-control"])
    if "pragma" in fields and "no-cache" in directives(fields["pragma"]):
        return {"no-cache": None}  # RFC 9111 section 5.4
    return {}


def not_for_cache(request: Request, policy: Policy) -> Fetch | None:
    """Why nothing stored may answer the request, whatever is stored; None where something may."""
    if not policy.enabled:
        return Fetch(Fwd.BYPASS, Reason.CACHE_OFF, keep=False)
    if request.method not in ("GET", "HEAD"):
        return Fetch(Fwd.METHOD, Reason.METHOD, keep=False)
    if request.length != 0:
        return Fetch(Fwd.BYPASS, Reason.REQUEST_BODY, keep=False)
    if request.websocket:
        return Fetch(Fwd.BYPASS, Reason.UPGRADE, keep=False)
    if "if-match" in request.fields or "if-unmodified-since" in request.fields:
        return Fetch(Fwd.BYPASS, Reason.PRECONDITION, keep=False)  # the origin's to judge: RFC 9111 section 4.3.2
    return None


def _judge(
    request: Request,
    entry: Entry | None,
    policy: Policy,
    wishes: Directives,
    now: float,
    *,
    held: bool,
    roll: float,
) -> Serve | Fetch:
    get = request.method == "GET"
    if "no-store" in wishes:
        return Fetch(Fwd.REQUEST, Reason.REQUEST_NO_STORE, keep=False)
    if entry is None:
        fwd, reason = (Fwd.VARY_MISS, Reason.VARIANT) if held else (Fwd.URI_MISS, Reason.ABSENT)
        return Fetch(fwd, reason, get, "no-cache" in wishes)
    if "no-cache" in wishes:
        return Fetch(Fwd.REQUEST, Reason.REQUEST_NO_CACHE, shared=get, fresh=True, base=entry)
    max_age = seconds(wishes, "max-age")
    if max_age is not None and now - entry.born > max_age:
        return Fetch(Fwd.REQUEST, Reason.REQUEST_MAX_AGE, shared=get, fresh=max_age == 0, base=entry)
    if entry.terms.always_validate:
        reason = Reason.DISTRUSTED if entry.terms.distrusted else Reason.MUST_VALIDATE
        return Fetch(Fwd.STALE, reason, shared=get, base=entry)
    left = entry.fresh_until - now
    min_fresh = seconds(wishes, "min-fresh")
    if min_fresh is not None and left < min_fresh:
        return Fetch(Fwd.REQUEST, Reason.REQUEST_MIN_FRESH, shared=get, base=entry)
    if left > 0:
        # XFetch (Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", 2015).
        early = policy.early_refresh > 0 and -log(roll) * entry.terms.fetch_seconds * policy.early_refresh >= left
        return Serve(entry, Reason.HIT, early)
    if now < entry.stale_until and max_age is None:  # who gives an age wants nothing stale: RFC 9111 section 5.2.1.1
        return Serve(entry, Reason.STALE_WHILE_REVALIDATE, refresh=True)
    if "max-stale" in wishes and not entry.terms.never_stale:
        allowed = seconds(wishes, "max-stale")
        if wishes["max-stale"] is None or -left <= (allowed or 0):
            return Serve(entry, Reason.MAX_STALE)
    return Fetch(Fwd.STALE, Reason.EXPIRED, shared=get, base=entry)


def on_failure(entry: Entry | None, now: float, *, lost: bool) -> Serve | None:
    """Whether a stale entry bridges an upstream that answers with an error (RFC 5861 section 4) or,
    `lost`, does not answer at all (RFC 9111 section 4.2.4).
    """
    if entry is None or entry.terms.always_validate or now >= (entry.lost_until if lost else entry.error_until):
        return None
    return Serve(entry, Reason.STALE_IF_ERROR)
