"""The words everything else is said in: requests, heads, entries, and why a thing happened.

Header text is latin-1 decoded and never re-cased or reordered; `fields` is the same list folded
for questions: lower-case name to values joined by ", " (RFC 9110 section 5.3).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, unique

Headers = tuple[tuple[str, str], ...]
Fields = Mapping[str, str]


def fold(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Lower-case name to combined value (RFC 9110 section 5.3)."""
    fields: dict[str, str] = {}
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
    """Everything there is to say about why: one enum for headers, logs, metrics and `explain`."""

    # Served without waiting for the upstream.
    HIT = "hit"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_IF_ERROR = "stale-if-error"
    MAX_STALE = "max-stale"
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
    NOT_STORED = "not-stored"
    VARIANT = "variant"
    EXPIRED = "expired"
    MUST_VALIDATE = "must-validate"
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored response with everything a look-up compares worked out at admission.

    Times named `*_until`, `stored_at` are on the monotonic clock, in seconds; `age` is the
    corrected initial age of RFC 9111 section 4.2.3; `date` is wall-clock. A window that does
    not apply equals the time it would begin. `error_until` is for an upstream that answers with
    an error, `lost_until` for one that does not answer.
    """

    key: str
    url: str
    host: str
    vary: Headers  # request field name, normalised value
    head: Head
    wire: bytes  # status line and stored fields, ready to send but for Age, Cache-Status and the end
    body: tuple[bytes, ...]
    length: int
    stored_at: float
    age: float
    date: float
    fresh_until: float
    stale_until: float
    error_until: float
    lost_until: float
    always_validate: bool  # no-cache, or distrusted: RFC 9111 section 5.2.2.4
    never_stale: bool  # must-revalidate and its kin: RFC 9111 section 4.2.4
    stated: bool  # freshness is the upstream's own word, not the operator's nor a guess
    fetch_seconds: float
    tags: tuple[str, ...]
    epoch: str
    seq: int
    policy: str
