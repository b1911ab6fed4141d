"""Answering conditions and byte ranges from a stored whole (RFC 9110 sections 13 and 14)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from proxy.rules.fields import http_date, members
from proxy.rules.message import Fields

_RANGE: Final = re.compile(r"bytes=\s*(\d*)-(\d*)\s*\Z", re.ASCII | re.IGNORECASE)
_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `first` to `last`, both included, of a body of `total`."""

    first: int
    last: int
    total: int

    @property
    def content_range(self) -> str:
        """The Content-Range value (RFC 9110 section 14.4)."""
        return f"bytes {self.first}-{self.last}/{self.total}"


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A range that begins behind the end: 416."""

    total: int


def asked_span(fields: Fields, response: Fields, total: int) -> Span | Unsatisfiable | None:
    """What of a whole the request's Range asks for; None for all of it.

    Several ranges, other units and malformed ones are ignored, as section 14.2 allows; so is a
    Range whose If-Range does not match (section 13.1.5).
    """
    match = _RANGE.match(fields.get("range", ""))
    if match is None or not range_applies(fields, response):
        return None
    first, last = match.groups()
    if not (first or last) or len(first) > _MAX_DIGITS or len(last) > _MAX_DIGITS:
        return None
    if not first:
        length = min(int(last), total)
        return Span(total - length, total - 1, total) if length else Unsatisfiable(total)
    if last and int(last) < int(first):
        return None
    if int(first) >= total:
        return Unsatisfiable(total)
    return Span(int(first), min(int(last), total - 1) if last else total - 1, total)


def range_applies(fields: Fields, response: Fields) -> bool:
    """If-Range: a strong entity tag or the exact Last-Modified (section 13.1.5)."""
    condition = fields.get("if-range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition == response.get("etag")
    stamp = http_date(condition)
    return stamp is not None and stamp == http_date(response.get("last-modified"))


def not_modified(fields: Fields, response: Fields) -> bool:
    """Whether the client's own copy will do: 304 (sections 13.1.2, 13.1.3; RFC 9111 section 4.3.2).

    If-None-Match compares weakly and silences If-Modified-Since. Where the response has no
    Last-Modified its Date stands in.
    """
    tags = fields.get("if-none-match")
    if tags is not None:
        own = response.get("etag")
        if tags == "*":
            return True
        return own is not None and (tags == own or _opaque(own) in map(_opaque, _entity_tags(tags)))
    since = http_date(fields.get("if-modified-since"))
    if since is None:
        return False
    modified = http_date(response.get("last-modified"))
    if modified is None:
        modified = http_date(response.get("date"))
    return modified is not None and modified <= since


_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[^"]*"')


def _entity_tags(value: str) -> list[str]:
    return _ENTITY_TAG.findall(value) or members(value)


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")


def cut(body: Sequence[bytes | memoryview], span: Span) -> list[memoryview]:
    """The span's bytes out of a body in pieces, of which nothing is copied."""
    pieces: list[memoryview] = []
    at = 0
    for chunk in body:
        begin, end = max(span.first - at, 0), min(span.last + 1 - at, len(chunk))
        if begin < end:
            pieces.append(memoryview(chunk)[begin:end])
        at += len(chunk)
        if at > span.last:
            break
    return pieces
