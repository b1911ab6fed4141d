"""What a request looks like when it goes upstream."""

import re
from typing import Final

from proxy.rules.admit import NAME
from proxy.rules.hop import HOP_BY_HOP
from proxy.rules.message import Entry, Headers, Request

_FORWARDING: Final = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"})
# Ours to say, or settled between the client and us.
_REWRITTEN: Final = _FORWARDING | HOP_BY_HOP | {"host", "content-length", "expect"}
_FORWARDED_FOR: Final = re.compile(r'(?:^|[;,])[ \t]*for=("[^"]*"|[^;,"\s]+)', re.IGNORECASE)
_HOPS: Final = re.compile(r"\d{1,9}", re.ASCII)
_TRACE: Final = frozenset({"traceparent", "tracestate"})
# What would make the answer less than the whole current representation.
_NARROWING: Final = frozenset(
    {"range", "if-range", "if-none-match", "if-modified-since", "if-match", "if-unmodified-since"}
)


def forwarded_headers(
    request: Request, *, host: str, peer: str, trusted: bool, request_id: str, narrow: bool, base: Entry | None
) -> Headers:
    """The fields to send. `host` is the Host to send; `peer` the client's address.

    A `trusted` peer's forwarding fields are added to, anybody else's are replaced. `narrow` keeps
    the client's Range and conditions; a flight's request is without them, and conditional on
    `base` instead (RFC 9111 section 4.3.1).
    """
    out = [("Host", host)]
    dropped = _REWRITTEN if narrow else _REWRITTEN | _NARROWING
    # CGI and its heirs read `_` and `-` in names as one: a forged field must not pass by its spelling.
    out += [(n, v) for n, v in request.headers if n.lower().replace("_", "-") not in dropped]
    if request.method == "OPTIONS" and "max-forwards" in request.fields:
        out = [(n, _one_less(v) if n.lower() == "max-forwards" else v) for n, v in out]
    if request.length:
        out.append(("Content-Length", str(request.length)))
    elif request.length == 0 and "content-length" in request.fields:
        out.append(("Content-Length", "0"))
    if request.websocket:
        out += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    if not narrow and base is not None:
        stored = base.head.fields
        if "etag" in stored:
            out.append(("If-None-Match", stored["etag"]))
        if "last-modified" in stored:
            out.append(("If-Modified-Since", stored["last-modified"]))
    out += _forwarding(request, peer, trusted=trusted)
    out.append(("Via", f"1.{0 if request.http10 else 1} {NAME}"))
    if "x-request-id" not in request.fields:
        out.append(("X-Request-Id", request_id))
    return tuple(out)


def _one_less(hops: str) -> str:
    # RFC 9110 section 7.6.2: one that is used up does not come here, what is no number says nothing.
    return str(int(hops) - 1) if _HOPS.fullmatch(hops) and int(hops) else hops


def in_trace(headers: Headers, trace: Headers) -> Headers:
    """The fields to send as part of our own trace, in place of the client's (W3C Trace Context section 3.4)."""
    return (*[(n, v) for n, v in headers if n.lower() not in _TRACE], *trace)


def _forwarding(request: Request, peer: str, *, trusted: bool) -> Headers:
    fields = request.fields if trusted else {}
    node = f'"[{peer}]"' if ":" in peer else peer  # RFC 7239 section 6
    # Of what came before only who it was for: host and scheme are the ones that were keyed.
    clients = [f"for={client}" for client in _FORWARDED_FOR.findall(fields.get("forwarded", ""))]
    return (
        ("X-Forwarded-For", ", ".join(filter(None, (fields.get("x-forwarded-for"), peer)))),
        ("X-Forwarded-Proto", request.scheme),
        ("X-Forwarded-Host", request.host),
        ("Forwarded", ", ".join((*clients, f'for={node};host="{request.host}";proto={request.scheme}'))),
    )
