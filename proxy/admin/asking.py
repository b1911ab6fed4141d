"""A request as somebody describes it, read by the very grammar that the data listener reads requests with."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from proxy.admin.problems import Mistake
from proxy.rules.limits import Limits
from proxy.rules.message import Headers, Request
from proxy.rules.wire import parse_request, refuse_early

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSENDABLE: Final = re.compile(r"[\0-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_NO_URL: Final = re.compile(r"[\0- \x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Described:
    """A request in words: nothing of it is checked but that it can be sent."""

    method: str
    scheme: str
    authority: str
    target: str
    headers: Headers

    def request(self, limits: Limits, *, trusted: bool = False) -> Request:
        """As the data listener would read it from a client that is nobody's proxy, or one that is `trusted`. Raises
        Refused.

        A Host among the headers stands in for the URL's.
        """
        headers = self.headers
        if all(name.lower() != "host" for name, _ in headers):
            headers = (("Host", self.authority), *headers)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        raw = f"{self.method} {self.target} HTTP/1.1\r\n{lines}\r\n".encode()
        if len(raw) > limits.max_header_bytes:
            refuse_early(raw, limits.max_header_bytes)
        return parse_request(raw, self.scheme, trusted=trusted, max_headers=limits.max_headers)


def split_url(text: str) -> tuple[str, str, str] | None:
    """Scheme, authority and target of a URL that can be asked for, None where it is none."""
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() not in ("http", "https") or _NO_URL.search(text) or "#" in text:
        return None
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    if not authority or "@" in authority:
        return None
    return scheme.lower(), authority, target if target.startswith("/") else f"/{target}"


def is_target(text: str) -> bool:
    """Whether it is a path with or without query, and no more."""
    return text.startswith("/") and not _NO_URL.search(text) and "#" not in text


def header_mistakes(headers: Iterable[tuple[str, str]]) -> Iterator[Mistake]:
    """What of these cannot be sent."""
    for i, (name, value) in enumerate(headers):
        if _NAME.fullmatch(name) is None:
            yield Mistake(f"headers[{i}]", "has a name that no header field has", "write letters, digits and -")
        if _UNSENDABLE.search(value):
            yield Mistake(f"headers[{i}]", "has a value with a line end or control character", "leave that out")
