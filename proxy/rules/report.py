"""What a response says about how it came to be: Cache-Status, X-Cache, and errors of our own."""

import json
from enum import Enum, unique
from typing import Final, NamedTuple

from proxy.rules.admit import NAME
from proxy.rules.message import Fwd, Headers, Reason

# What a reader of the header would ask next. The others say no more than `fwd` itself.
_SILENT: Final = frozenset(
    {
        Reason.HIT,
        Reason.ABSENT,
        Reason.VARIANT,
        Reason.EXPIRED,
        Reason.METHOD,
        Reason.STALE_WHILE_REVALIDATE,
    }
)


@unique
class XCache(Enum):
    """The one word of the X-Cache field, for people."""

    HIT = "HIT"
    STALE = "STALE"
    REVALIDATED = "REVALIDATED"
    MISS = "MISS"
    BYPASS = "BYPASS"


class Account(NamedTuple):
    """How one request was answered: the same facts for Cache-Status, the log and the counters.

    `ttl` in whole seconds is set on what was served from the cache without asking; `fwd` on all
    else, never both (RFC 9211 section 2).
    """

    reason: Reason
    ttl: int | None = None
    fwd: Fwd | None = None
    fwd_status: int | None = None
    stored: bool = False
    collapsed: bool = False

    def cache_status(self) -> str:
        """The Cache-Status member (RFC 9211)."""
        detail = "" if self.reason in _SILENT else f"; detail={self.reason.value}"
        if self.fwd is None:
            return f"{NAME}; hit; ttl={self.ttl}{detail}" if self.ttl is not None else f"{NAME}{detail}"
        status = "" if self.fwd_status is None else f"; fwd-status={self.fwd_status}"
        flags = ("; stored" if self.stored else "") + ("; collapsed" if self.collapsed else "")
        return f"{NAME}; fwd={self.fwd.value}{status}{flags}{detail}"

    def x_cache(self) -> XCache:
        """The X-Cache word."""
        if self.reason is Reason.STALE_IF_ERROR:
            return XCache.STALE
        if self.fwd is None:
            return XCache.MISS if self.ttl is None else XCache.STALE if self.ttl < 0 else XCache.HIT
        if self.fwd in (Fwd.BYPASS, Fwd.METHOD):
            return XCache.BYPASS
        return XCache.REVALIDATED if self.fwd_status == 304 else XCache.MISS

    def headers(self, *, x_cache: bool) -> Headers:
        """The fields that carry it."""
        status = ("Cache-Status", self.cache_status())
        return (status, ("X-Cache", self.x_cache().value)) if x_cache else (status,)


TITLES: Final = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

_DETAILS: Final = {
    Reason.NO_ROUTE: "No route matches this host and path.",
    Reason.METHOD: "No route takes this method here.",
    Reason.NOT_ALLOWED: "Who asks may not do this here.",
    Reason.ONLY_IF_CACHED: "The request asked for a stored answer and there is none.",
    Reason.CONNECT: "The upstream could not be reached.",
    Reason.CONNECT_TIMEOUT: "The upstream could not be reached in time.",
    Reason.TIMEOUT: "The upstream did not answer in time.",
    Reason.DISCONNECTED: "The upstream closed the connection before it answered.",
    Reason.ABORTED: "The upstream's answer broke off.",
    Reason.BAD_RESPONSE: "The upstream's answer was not valid HTTP.",
    Reason.BREAKER_OPEN: "The upstream has failed too often and is left alone for a moment.",
    Reason.UPSTREAM_ERROR: "The upstream answered with an error.",
    Reason.OVERLOADED: "Too many requests are under way.",
    Reason.RATE_LIMITED: "This client has asked for too much; Retry-After says when it may go on.",
    Reason.CONCURRENCY_LIMITED: "Too many requests of this client are under way.",
    Reason.UPSTREAM_BUSY: "Too many requests are under way to the upstream.",
    Reason.INTERNAL: "Something went wrong here; it has been logged.",
}


def failure_status(reason: Reason) -> int:
    """The status for an upstream that gave no answer."""
    if reason in (Reason.TIMEOUT, Reason.CONNECT_TIMEOUT):
        return 504
    return 503 if reason in (Reason.BREAKER_OPEN, Reason.UPSTREAM_BUSY, Reason.OVERLOADED) else 502


def problem(status: int, reason: Reason, detail: str = "") -> tuple[Headers, bytes]:
    """An `application/problem+json` answer (RFC 9457): fields and body.

    `type` is stable; nothing of the request is repeated and nothing of the inside told.
    """
    title = TITLES.get(status, "Error")
    text = detail or _DETAILS.get(reason, title + ".")
    members = {"type": f"urn:{NAME}:error:{reason.value}", "title": title, "status": status, "detail": text}
    body = json.dumps(members).encode() + b"\n"
    headers = (("Content-Type", "application/problem+json"), ("Content-Length", str(len(body))))
    return headers, body
