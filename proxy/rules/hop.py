"""Fields that belong to one connection and go no further (RFC 9110 section 7.6.1)."""

from functools import lru_cache
from typing import Final

from proxy.rules.message import Headers

# The proxy-* fields are between a client and its own proxy (RFC 9110 section 11.7); trailers are
# dropped on the way, so the field that announces them goes as well.
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_REPRESENTATION: Final = frozenset(
    {
        "cache-control",
        "cdn-cache-control",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "date",
        "pragma",
        "via",
    }
)

REQUEST_KEEP: Final = _REPRESENTATION | {
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "range",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
}
"""What a request's `Connection` can never name away: who asks, for what, and on whose behalf."""

RESPONSE_KEEP: Final = _REPRESENTATION | {
    "accept-ranges",
    "age",
    "authorization",
    "cache-group-invalidation",
    "cache-groups",
    "cache-status",
    "cache-tag",
    "clear-site-data",
    "content-disposition",
    "content-security-policy",
    "etag",
    "expires",
    "last-modified",
    "location",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "surrogate-control",
    "surrogate-key",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
}
"""What a response's `Connection` can never name away: what it is, who may keep it, and how long."""


_USUAL: Final = 64  # characters; what clients choose is kept only where it is short


def strip_hop_by_hop(headers: Headers, never: frozenset[str]) -> Headers:
    """The fields to forward, in their order and spelling, without those that `dropped_names` names."""
    dropped = dropped_names(",".join([value for name, value in headers if name.lower() == "connection"]), never)
    return tuple([field for field in headers if field[0].lower() not in dropped])


def dropped_names(connection: str, never: frozenset[str]) -> frozenset[str]:
    """The lower-case names of fields that go no further: the hop-by-hop ones and those named in `Connection`,
    but for the names in `never`: a sender must not be able to make a proxy lose what a message's meaning hangs on.
    """
    return _usual(connection, never) if len(connection) <= _USUAL else _dropped(connection, never)


def _dropped(connection: str, never: frozenset[str]) -> frozenset[str]:
    named = {option.strip(" \t").lower() for option in connection.split(",")}
    return frozenset((named - never) | HOP_BY_HOP)


_usual = lru_cache(maxsize=64)(_dropped)
