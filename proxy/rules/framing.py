"""What an upstream's response head says of the body behind it (RFC 9112 section 6.3)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.rules.hop import RESPONSE_KEEP, strip_hop_by_hop
from proxy.rules.message import Head, Headers, fold

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
MAX_HEAD: Final = 64 << 10  # bytes, field names and values together


class Unreadable(Exception):
    """A response that two readers could take for two different ones; the text says why."""


@dataclass(frozen=True, slots=True)
class Framed:
    """A response head and its body: `length` in bytes, 0 where there can be none, None where it is not declared.

    `close_delimited`: only the connection's end ends the body, so that a cut cannot be seen.
    """

    head: Head
    length: int | None
    close_delimited: bool


def read_head(
    version: tuple[int, int],
    status: int,
    phrase: bytes,
    raw: Sequence[tuple[bytes, bytes]],
    *,
    method: str,
    upgrade: bool,
) -> Framed:
    """The head as it goes on, hop-by-hop fields removed but for a 101's. Raises Unreadable.

    `method` is the request's; `upgrade` is whether both sides agreed to one. The parser must have
    refused a Content-Length that is repeated, no number, or beside Transfer-Encoding.
    """
    headers: Headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEAD:
        raise Unreadable("the response head is too large")
    # The parser lets `Content-Length : 2` through and frames by it; others do not (RFC 9112 section 5.1).
    if not all(map(_TOKEN.fullmatch, [name for name, _ in raw])):
        raise Unreadable("a field name is no token")
    if version not in ((1, 0), (1, 1)) or status < 100:
        raise Unreadable("the status line is not of HTTP/1.0 or HTTP/1.1")
    if status in (101, 204):  # RFC 9110 section 8.6: they have none, and may not say one
        headers = tuple([field for field in headers if field[0].lower() != "content-length"])
    fields = fold(headers)
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None and (coding.lower() != "chunked" or version == (1, 0)):
        raise Unreadable("Transfer-Encoding is not exactly `chunked`, or in HTTP/1.0")
    if status != 101:
        headers = strip_hop_by_hop(headers, RESPONSE_KEEP)
        fields = fold(headers)
    elif not upgrade:
        raise Unreadable("101 to a request that did not ask for it")
    head = Head(status, phrase.decode("latin-1"), headers, fields, http10=version == (1, 0))
    if method == "HEAD" or status in (101, 204, 304):
        return Framed(head, 0, close_delimited=False)
    if coding is not None:
        return Framed(head, None, close_delimited=False)
    if length is not None:
        return Framed(head, int(length), close_delimited=False)
    return Framed(head, None, close_delimited=True)
