"""The words everything else is said in: requests, heads, entries, and why a thing happened.

Header text is latin-1 decoded and never re-cased or reordered; `fields` is the same list folded
for questions: lower-case name to values joined by ", " (RFC 9110 section 5.3).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from functools import lru_cache
from typing import Final, TypeVar

Headers = tuple[tuple[str, str], ...]
Fields = Mapping[str, str]
T = TypeVar("T")


def fold(headers: Collection[tuple[str, str]]) -> dict[str, str]:
    """Lower-case name to combined value (RFC 9110 section 5.3)."""
    fields = {name.lower(): value for name, value in headers}
    if len(fields) == len(headers):
        return fields
    fields = {}
    for spelled, value in headers:
        name = spelled.lower()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


@unique
class Fwd(Enum):
    """Why a request went upstream: the `fwd` parameter of RFC 9211 section 2.2."""

    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    VARY_MISS = "vary-miss"
    REQUEST = "request"
    STALE = "stale"


@unique
class Reason(Enum):
    """Everything there is to say about why: one enum for headers, logs, metrics and `explain`.

    docs/reasons.md has what each means, and what to do about it.
    """

    __hash__ = object.__hash__  # Enum's own is a call into Python, and every request has a reason

    # Served without waiting for the upstream.
    HIT = "hit"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_IF_ERROR = "stale-if-error"
    MAX_STALE = "max-stale"
    SHARED_STORE = "shared-store"
    # The request asks for what only the upstream can answer.
    CACHE_OFF = "cache-off"
    METHOD = "method"
    REQUEST_BODY = "request-body"
    UPGRADE = "upgrade"
    PRECONDITION = "precondition"
    CREDENTIALS = "credentials"
    REQUEST_NO_STORE = "request-no-store"
    REQUEST_NO_CACHE = "request-no-cache"
    REQUEST_MAX_AGE = "request-max-age"
    REQUEST_MIN_FRESH = "request-min-fresh"
    ONLY_IF_CACHED = "only-if-cached"
    # Nothing stored may answer.
    ABSENT = "absent"
    VARIANT = "variant"
    EXPIRED = "expired"
    MUST_VALIDATE = "must-validate"
    DISTRUSTED = "distrusted"
    # The response may not be kept, or not be shared.
    NO_STORE = "no-store"
    PRIVATE = "private"
    NO_FRESHNESS = "no-freshness"
    AUTHORIZATION = "authorization"
    SET_COOKIE = "set-cookie"
    VARY_STAR = "vary-star"
    STATUS = "status"
    PARTIAL = "partial"
    TOO_LARGE = "too-large"
    EVENT_STREAM = "event-stream"
    CLOSE_DELIMITED = "close-delimited"
    UPSTREAM_ERROR = "upstream-error"
    # The upstream did not answer, or not to the end.
    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect-timeout"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    ABORTED = "aborted"
    BAD_RESPONSE = "bad-response"
    BREAKER_OPEN = "breaker-open"
    UPSTREAM_BUSY = "upstream-busy"
    # Done here, and nobody else is asked.
    PURGED = "purged"
    # Refused by us.
    NO_ROUTE = "no-route"
    MALFORMED = "malformed"
    TARGET_TOO_LONG = "target-too-long"
    HEADERS_TOO_LARGE = "headers-too-large"
    UNKNOWN_CODING = "unknown-coding"
    UNKNOWN_VERSION = "unknown-version"
    EXPECTATION = "expectation"
    REQUEST_TIMEOUT = "request-timeout"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate-limited"
    CONCURRENCY_LIMITED = "concurrency-limited"
    BAD_REQUEST = "bad-request"
    NOT_ALLOWED = "not-allowed"
    TOO_MANY_INVALIDATIONS = "too-many-invalidations"
    LOG_UNREACHABLE = "log-unreachable"
    CLIENT_GONE = "client-gone"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as routed, keyed and forwarded; the body travels beside it.

    `target` is canonical origin-form; `host` is lower-case without the scheme's default port.
    `length` is the body's length in bytes, 0 for none, None when chunked.
    """

    method: str
    target: str
    host: str
    scheme: str
    http10: bool
    headers: Headers
    fields: Fields
    length: int | None
    keep_alive: bool
    expects_continue: bool
    websocket: bool

    @property
    def simple(self) -> bool:
        """Whether it brings no body and leaves its connection as it is."""
        return self.keep_alive and not self.http10 and self.length == 0

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Head:
    """An upstream's response head, hop-by-hop fields already removed."""

    status: int
    reason: str
    headers: Headers
    fields: Fields
    http10: bool = False


def read_head(head: bytes) -> Head:
    """A head as it is stored, taken apart: lines that we have written ourselves."""
    return _read_usual(head) if len(head) <= _USUAL else _read(head)


def _read(head: bytes) -> Head:
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    _, status, reason = line.split(" ", 2)
    headers = tuple([(name, value) for name, _, value in [field.partition(": ") for field in fields]])
    return Head(int(status), reason, headers, fold(headers))


_USUAL: Final = 2048  # bytes; what others choose is kept only where it is short
_read_usual = lru_cache(maxsize=1024)(_read)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an entry has in common with many others, so that it is held once for all of them.

    Windows are in seconds behind the end of freshness: `error_window` for an upstream that answers
    with an error, `lost_window` for one that does not answer. `fetch_seconds` has two digits.
    """

    vary: Headers  # request field name, normalised value
    tags: tuple[str, ...]
    aside: Headers  # fields of the upstream's that are kept from clients
    policy: str
    stale_window: float
    error_window: float
    lost_window: float
    always_validate: bool  # no-cache, or distrusted: RFC 9111 section 5.2.2.4
    distrusted: bool  # nobody knows what has been invalidated since
    never_stale: bool  # must-revalidate and its kin: RFC 9111 section 4.2.4
    stated: bool  # freshness is the upstream's own word, not the operator's nor a guess
    fetch_seconds: float


@lru_cache(maxsize=4096, typed=True)
def held_once(value: T) -> T:
    """The equal value that is held already, where it is one of those in frequent use."""
    return value


def shared(terms: Terms) -> Terms:
    """The terms as other entries hold them. Long texts are nobody else's, and must not be held for longer."""
    texts = sum([len(value) for _, value in (*terms.vary, *terms.aside)]) + sum(map(len, terms.tags))
    return held_once(terms) if texts <= 256 else terms


@dataclass(slots=True)  # nobody changes one; frozen, each would take 2 µs more to make
class Entry:
    """A stored response, ready to send: `lead`, Age and Cache-Status, then `rest`.

    `lead` is the status line, with the fields through the last Cache-Status of other caches; `rest`
    the fields behind and the empty line, to `head_end`, and the body, unless that is in `pieces`
    because it is large.
    There are millions of these: what can be read off the bytes is no field, and what many share is
    in `terms`. `stored_at`, `fresh_until` and `born`, when its age was 0, are on the monotonic clock.
    """

    key: str
    terms: Terms
    lead: bytes
    rest: bytes
    head_end: int
    pieces: tuple[bytes, ...]
    stored_at: float
    born: float
    fresh_until: float
    seq: int

    @property
    def url(self) -> str:
        """What an invalidation of it names: the key without keyed header fields."""
        return self.key.partition("\n")[0]

    @property
    def host(self) -> str:
        """The authority in its URL."""
        return self.key.split("/", 3)[2]

    @property
    def vary(self) -> Headers:
        """What it was selected on."""
        return self.terms.vary

    @property
    def tags(self) -> tuple[str, ...]:
        """The upstream's and the route's."""
        return self.terms.tags

    @property
    def lost_until(self) -> float:
        """How long it bridges an upstream that does not answer."""
        return self.fresh_until + self.terms.lost_window

    @property
    def error_until(self) -> float:
        """How long it bridges an upstream that answers with an error."""
        return self.fresh_until + self.terms.error_window

    @property
    def stale_until(self) -> float:
        """How long it is served while it is renewed."""
        return self.fresh_until + self.terms.stale_window

    @property
    def head(self) -> Head:
        """What clients get of it, but for Age and our Cache-Status."""
        return read_head(self.lead + self.rest[: self.head_end])

    @property
    def body(self) -> tuple[bytes, ...]:
        """The body, in pieces."""
        return self.pieces or (self.rest[self.head_end :],)

    @property
    def length(self) -> int:
        """Of the body, in bytes."""
        return sum(map(len, self.pieces)) if self.pieces else len(self.rest) - self.head_end
