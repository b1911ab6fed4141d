"""The bytes of HTTP/1.1 heads and chunked bodies: one strict grammar, read once (RFC 9112).

What is ambiguous is refused, never repaired: a proxy and its upstream that read the same bytes
differently are how requests are smuggled.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from proxy.rules.fields import members
from proxy.rules.hop import REQUEST_KEEP, dropped_names
from proxy.rules.memo import Memo
from proxy.rules.message import Fields, Headers, Reason, Request, fold

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE: Final = re.compile(r"([^ \r\n]*) ([^ \r\n]*) HTTP/(\d)\.(\d)\r\n", re.ASCII)
_FIELD: Final = re.compile(rf"(?m)^({_TOKEN}):([\t\x20-\x7e\x80-\xff]*)\r\n")
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9_-]{0,31}\Z")
_PATH: Final = re.compile(r"/(?:[\x21\x22\x24\x26-\x3e\x40-\x5b\x5d-\x7e]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(r"(?:\?[\x21\x22\x24-\x7e]*)?\Z")
_FORBIDDEN_IN_PATH: Final = re.compile(r"%(?:2[Ff]|5[Cc]|00|0[AaDd])")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(?:[/;]|\Z)")  # `/..;/` is a dot segment to servlet containers
_ABSOLUTE: Final = re.compile(r"(https?)://([^/?#]*)(.*)\Z", re.IGNORECASE | re.DOTALL)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]{2,45}\])(?::(\d{1,5}))?\Z", re.ASCII)
_LENGTH: Final = re.compile(r"\d{1,18}\Z", re.ASCII)
_DEFAULT_PORT: Final = {"http": ":80", "https": ":443"}
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
MAX_CHUNK_LINE: Final = 256  # bytes; nobody sends longer extensions
MAX_TRAILERS: Final = 8192  # bytes


# The names that some upstreams take the URL, host, scheme or method of a request from, in place of its own. They are
# in no key, so what a stranger says in them would come back to everybody. CGI and its heirs read `_` and `-` in names
# as one. X-Forwarded-For, -Host and -Proto are written anew.
_METHOD_CLAIM: Final = re.compile(r"x[-_](?:http[-_]method(?:[-_]override)?|method[-_]override)")
_CLAIM: Final = re.compile(
    r"x[-_](?:forwarded[-_](?!(?:for|host|proto)\Z).*|host|http[-_]host[-_]override|(?:original|rewrite)[-_]url)"
    rf"|{_METHOD_CLAIM.pattern}"
)


class Refused(Exception):
    """This request will not be served: `status`, `reason` for machines, `detail` for its sender."""

    def __init__(self, status: int, reason: Reason, detail: str, headers: Headers = ()) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail, self.headers = status, reason, detail, headers


def _malformed(detail: str) -> Refused:
    return Refused(400, Reason.MALFORMED, detail)


def _not_offered(what: str) -> Refused:
    return Refused(405, Reason.METHOD, f"{what} is not offered here.", (("Allow", "GET, HEAD, POST, PUT, DELETE"),))


@dataclass(frozen=True, slots=True)
class Section:
    """The field lines of a request head: all of them, and what of them goes further.

    `claims` names those that only a trusted peer may send.
    """

    headers: Headers
    fields: Fields
    options: frozenset[str]  # of Connection
    kept: Headers
    kept_fields: Fields
    claims: frozenset[str]


def parse_section(raw: bytes, *, max_headers: int) -> Section:
    """Everything behind the request line, up to and with the empty line. Raises Refused."""
    text = raw.decode("latin-1")
    lines = text.count("\n") - 1
    if lines > max_headers:
        raise Refused(431, Reason.HEADERS_TOO_LARGE, f"More than {max_headers} header fields.")
    found = _FIELD.findall(text)
    # Every match ends with a line feed and begins behind one, so this count proves that the
    # matches cover the section without a gap: no bare LF, no folding, no space before the colon.
    if len(found) != lines or not (text == "\r\n" or text.endswith("\r\n\r\n")):
        raise _malformed("A header line is malformed.")
    headers = tuple([(name, value.strip(" \t")) for name, value in found])
    fields = fold(headers)
    connection = fields.get("connection", "")
    dropped = dropped_names(connection, REQUEST_KEEP)
    claims = [name for name in fields if name[0] == "x" and _CLAIM.fullmatch(name)]
    return Section(
        headers,
        fields,
        options=frozenset([option.lower() for option in members(connection)]),
        # What is not forwarded must not be keyed or varied on either: one list of fields for all.
        kept=tuple([field for field in headers if field[0].lower() not in dropped]),
        kept_fields={name: value for name, value in fields.items() if name not in dropped},
        claims=frozenset(claims),
    )


def parse_request(
    raw: bytes, scheme: str, *, trusted: bool, max_headers: int, sections: Memo[bytes, Section] | None = None
) -> Request:
    """A complete request head, up to and with its empty line.

    `scheme` is the connection's; a `trusted` peer's X-Forwarded-Proto and -Host override it and Host.
    Hop-by-hop fields, and claims of a peer that is not trusted, are already off it. Depends on nothing
    else, so equal bytes may share one result; `sections` remembers what many targets are asked for with.
    Raises Refused.
    """
    at = raw.find(b"\n") + 1
    line = _REQUEST_LINE.fullmatch(raw[:at].decode("latin-1"))
    if line is None:
        raise _malformed("The request line is not METHOD SP TARGET SP HTTP/x.y.")
    method, raw_target, major, minor = line.groups()
    if major != "1" or minor not in "01":
        raise Refused(505, Reason.UNKNOWN_VERSION, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    if _METHOD.match(method) is None:
        raise _malformed("The method is not a token in upper case.")
    behind = raw[at:]
    section = None if sections is None else sections.get(behind)
    if section is None:
        section = parse_section(behind, max_headers=max_headers)
        if sections is not None:
            sections.offer(behind, section)
    headers, fields, options = section.headers, section.fields, section.options
    http10 = minor == "0"
    if trusted and fields.get("x-forwarded-proto") in ("http", "https"):
        scheme = fields["x-forwarded-proto"]
    host = _host(headers, fields, scheme)
    target = _target(method, raw_target, scheme, host)
    if method == "OPTIONS" and "0" in [member.lstrip("0") or "0" for member in members(fields.get("max-forwards"))]:
        raise _not_offered("OPTIONS of this proxy itself")  # RFC 9110 section 7.6.2: it must go no further
    if trusted and (forwarded_host := members(fields.get("x-forwarded-host"))):
        host = valid_host(forwarded_host[0], scheme)  # routed, keyed and told to the upstream alike
    expect = fields.get("expect")
    if expect is not None and expect.lower() != "100-continue":
        raise Refused(417, Reason.EXPECTATION, "The only expectation known here is 100-continue.")
    kept, kept_fields = section.kept, section.kept_fields
    if section.claims and not trusted:
        claims = section.claims
        if method not in ("GET", "HEAD"):  # nothing that answers these is shared: a POST may stand for a PATCH
            claims = frozenset([name for name in claims if not _METHOD_CLAIM.fullmatch(name)])
        kept = tuple([field for field in kept if field[0].lower() not in claims])
        kept_fields = {name: value for name, value in kept_fields.items() if name not in claims}
    length = _body_length(headers, fields, http10=http10)
    upgrades = not http10 and "upgrade" in options and fields.get("upgrade", "").lower() == "websocket"
    return Request(
        method=method,
        target=target,
        host=host,
        scheme=scheme,
        http10=http10,
        headers=kept,
        fields=kept_fields,
        length=length,
        keep_alive="close" not in options and (not http10 or "keep-alive" in options),
        expects_continue=expect is not None and not http10,
        websocket=upgrades and length == 0,  # behind a body nobody could tell where the other protocol begins
    )


def _host(headers: Headers, fields: Fields, scheme: str) -> str:
    # RFC 9112 section 3.2: missing, repeated or invalid is 400. HTTP/1.0 too: the key needs it.
    if "host" not in fields or (len(fields) != len(headers) and _count(headers, "host") != 1):
        raise _malformed("Exactly one valid Host field is needed.")
    return valid_host(fields["host"], scheme)


def _count(headers: Headers, name: str) -> int:
    return sum([spelled.lower() == name for spelled, _ in headers])


def valid_host(host: str, scheme: str) -> str:
    """The one spelling of a Host value (RFC 9110 section 7.2). Raises Refused."""
    match = _HOST.match(host)
    if match is None:
        raise _malformed("Exactly one valid Host field is needed.")
    if match[1] is not None and int(match[1]) > 65535:
        raise _malformed("The port in Host is out of range.")
    if host.startswith("["):
        try:
            IPv6Address(host[1 : host.index("]")])
        except ValueError:
            raise _malformed("The IPv6 address in Host is invalid.") from None
    return canonical_host(host, scheme)


def canonical_host(host: str, scheme: str) -> str:
    """Lower-case, without the scheme's default port (RFC 9110 section 4.2.3)."""
    return host.lower().removesuffix(_DEFAULT_PORT[scheme])


def _target(method: str, target: str, scheme: str, host: str) -> str:
    """The one canonical target: routed, keyed and forwarded alike."""
    if method in ("CONNECT", "TRACE"):
        raise _not_offered(method)
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        # A deliberate deviation from RFC 9112 section 3.2.2, which lets the target win over Host.
        if absolute[1].lower() != scheme or canonical_host(absolute[2], scheme) != host:
            raise _malformed("The target's scheme and authority differ from the connection's and Host.")
        target = absolute[3] if absolute[3].startswith("/") else f"/{absolute[3]}"
    return canonical_target(target)


def canonical_target(target: str) -> str:
    """The one spelling of a path and query (RFC 3986 section 6.2.2). Raises Refused where there are two readings."""
    path = _PATH.match(target)
    if path is None or _QUERY.match(target, path.end()) is None:
        raise _malformed("The target is not a path and query of visible ASCII, percent-encoded where needed.")
    clean = path[0]
    if "%" in clean:
        if _FORBIDDEN_IN_PATH.search(clean):
            raise _malformed("An encoded slash, backslash, NUL, CR or LF in the path can be read in two ways.")
        clean = _ESCAPE.sub(_canonical_escape, clean)
    if "/." in clean and _DOT_SEGMENT.search(clean):
        raise _malformed("Dot segments in the path can be read in two ways.")
    return clean + target[path.end() :]


def _canonical_escape(match: re.Match[str]) -> str:
    # RFC 3986 section 6.2.2: an encoded unreserved character is that character.
    char = chr(int(match[0][1:], 16))
    return char if char in _UNRESERVED else match[0].upper()


def _body_length(headers: Headers, fields: Fields, *, http10: bool) -> int | None:
    """Body length in bytes, 0 for none, None for chunked (RFC 9112 section 6.3)."""
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None or http10:
            raise _malformed("Transfer-Encoding with Content-Length, or in HTTP/1.0.")
        codings = [c.lower() for c in members(coding)]
        if coding.lower() == "chunked":
            return None
        if any(re.fullmatch(_TOKEN, c) and c != "chunked" for c in codings):
            raise Refused(501, Reason.UNKNOWN_CODING, "The only transfer coding known here is chunked.")
        raise _malformed("Transfer-Encoding is not exactly `chunked`.")
    if length is None:
        return 0
    if _LENGTH.match(length) is None or _count(headers, "content-length") != 1:
        raise _malformed("Content-Length is not one decimal number.")
    return int(length)


class SizedReader:
    """Takes one Content-Length body (RFC 9112 section 6.2) off a buffer, and nothing behind it."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        """Whether all of it has come."""
        return self._left == 0

    def feed(self, buffer: bytearray) -> bytes:
        """Take what is there off the front of `buffer`."""
        piece = bytes(buffer[: self._left])
        del buffer[: len(piece)]
        self._left -= len(piece)
        return piece


class ChunkedReader:
    """Decodes one chunked body (RFC 9112 section 7.1). Trailers are checked and dropped.

    Feed bytes in any pieces; what `feed` leaves in the buffer once `done` belongs to the next
    message.
    """

    __slots__ = ("_left", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = "size"
        self._left = 0
        self._trailers = 0

    @property
    def done(self) -> bool:
        """Whether the last chunk and the trailers have been read."""
        return self._state == "done"

    def feed(self, buffer: bytearray) -> bytes:
        """Take what is there off the front of `buffer`, framing removed. Raises Refused where that is bad."""
        pieces: list[bytes] = []
        while self._step(buffer, pieces):
            pass
        return b"".join(pieces)

    def _step(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        """One move of the machine; False when it must wait for more bytes."""
        if self._state == "data":
            if not buffer:
                return False
            piece = bytes(buffer[: self._left])
            del buffer[: len(piece)]
            pieces.append(piece)
            self._left -= len(piece)
            if not self._left:
                self._state = "end"
            return True
        if self._state == "end":
            if len(buffer) < 2:
                return False
            if buffer[:2] != b"\r\n":
                raise _malformed("A chunk does not end where its size says.")
            del buffer[:2]
            self._state = "size"
            return True
        if self._state == "size":
            line = self._line(buffer, MAX_CHUNK_LINE)
            if line is None:
                return False
            match = _CHUNK_LINE.fullmatch(line)
            if match is None:
                raise _malformed("A chunk size is malformed.")
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
            return True
        if self._state == "trailer":
            line = self._line(buffer, MAX_TRAILERS - self._trailers)
            if line is None:
                return False
            self._trailers += len(line)
            if line == b"\r\n":
                self._state = "done"
            elif _TRAILER.fullmatch(line) is None:
                raise _malformed("A trailer line is malformed.")
            return self._state != "done"
        return False

    @staticmethod
    def _line(buffer: bytearray, limit: int) -> bytes | None:
        end = buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(buffer) >= limit:
                raise _malformed("A chunk size or trailer line is too long.")
            return None
        line = bytes(buffer[: end + 1])
        del buffer[: end + 1]
        return line


def head_bytes(status: int, reason: str, headers: Headers) -> bytes:
    """A status line and fields, without the empty line that ends the head."""
    return f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1") + field_lines(headers)


def field_lines(headers: Headers) -> bytes:
    """Fields as they are sent, a line each."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


def refuse_early(partial: bytes | bytearray, limit: int) -> None:
    """Raise Refused where a head that is not complete yet can no longer become a good one.

    Else its sender would wait for the header deadline to be told. `limit` is the largest head in bytes.
    """
    end = partial.find(b"\n")
    if len(partial) > limit:
        if end < 0 or end > limit:
            raise Refused(414, Reason.TARGET_TOO_LONG, f"The request line is longer than {limit} bytes.")
        raise Refused(431, Reason.HEADERS_TOO_LARGE, f"The header section is larger than {limit} bytes.")
    if end >= 0 and partial.count(b"\n") != partial.count(b"\r\n"):
        raise _malformed("A line ends without CR.")
    if end >= 0 and _REQUEST_LINE.match(partial[: end + 1].decode("latin-1")) is None:
        raise _malformed("The request line is not METHOD SP TARGET SP HTTP/x.y.")
