"""Small parts for the tests of the rules: each call says only what its test is about."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from proxy.rules.admit import Fetched, Store, complete, on_response
from proxy.rules.fields import format_date
from proxy.rules.hop import REQUEST_KEEP, strip_hop_by_hop
from proxy.rules.message import Entry, Head, Headers, Request, Terms, fold, held_once
from proxy.rules.policy import Policy
from proxy.rules.wire import Refused, parse_request

HOST: Final = "Host: example.com"
NOW: Final = 1000.0  # monotonic, when the upstream answered
WALL: Final = 1_700_000_000.0  # the same moment on the wall
BODY: Final = b"hello, world"
PLAIN: Final = Policy(jitter=0.0)

T = TypeVar("T")

brief: Final = settings(max_examples=80, deadline=None)


def date(after: float = 0.0) -> str:
    """An HTTP date so many seconds after WALL."""
    return format_date(WALL + after)


def lines(*written: str) -> Headers:
    """Fields as they are written in a message."""
    return tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in written))


def request(
    *written: str, method: str = "GET", target: str = "/a", host: str = "example.com", length: int | None = 0
) -> Request:
    headers = strip_hop_by_hop((("Host", host), *lines(*written)), REQUEST_KEEP)
    return Request(
        method=method,
        target=target,
        host=host,
        scheme="http",
        http10=False,
        headers=headers,
        fields=fold(headers),
        length=length,
        keep_alive=True,
        expects_continue=False,
        websocket=False,
    )


def head(*written: str, status: int = 200, reason: str = "OK") -> Head:
    headers = lines(*written)
    return Head(status, reason, headers, fold(headers))


def fetched(response: Head, *asked_by: str, at: float = NOW, took: float = 0.0, roll: float = 0.0) -> Fetched:
    """A response that came `at`, `took` seconds after it was asked for by a GET with those fields."""
    return Fetched(
        request=request(*asked_by),
        key="http://example.com/a",
        head=response,
        length=len(BODY),
        close_delimited=False,
        asked=at - took,
        answered=at,
        wall=WALL + at - NOW,
        seq=7,
        fingerprint="policy",
        tags=(),
        roll=roll,
    )


def stored(got: Fetched, policy: Policy = PLAIN) -> Entry:
    """What is kept of a response that has to be kept."""
    verdict = on_response(got, policy, None)
    assert isinstance(verdict, Store), verdict
    return complete(verdict.entry, got.head, (BODY,), got.wall, policy)


def entry(*written: str, policy: Policy = PLAIN) -> Entry:
    """The stored 200 with those fields."""
    return stored(fetched(head(*written)), policy)


def bare(
    key: str = "http://h/",
    body: bytes = b"",
    *,
    vary: Headers = (),
    tags: tuple[str, ...] = (),
    at: float = NOW,
    window: float = 0.0,
    seq: int = 0,
) -> Entry:
    """An entry that no upstream sent: fresh for 60 s, usable stale for `window` seconds more."""
    terms = Terms(
        vary=vary,
        tags=tags,
        aside=(),
        policy="",
        stale_window=window,
        error_window=window,
        lost_window=window,
        always_validate=False,
        distrusted=False,
        never_stale=False,
        stated=True,
        fetch_seconds=0.0,
    )
    return Entry(
        key=key,
        terms=held_once(terms),
        lead=b"HTTP/1.1 200 OK\r\n",
        rest=b"\r\n" + body,
        head_end=2,
        pieces=(),
        stored_at=at,
        born=at,
        fresh_until=at + 60,
        seq=seq,
    )


def raw_head(*fields: str, line: str = "GET / HTTP/1.1") -> bytes:
    """A request head as it is sent, complete."""
    return "".join(f"{each}\r\n" for each in (line, *fields, "")).encode("latin-1")


def parse(raw: bytes, scheme: str = "http", *, trusted: bool = False, max_headers: int = 100) -> Request:
    return parse_request(raw, scheme, trusted=trusted, max_headers=max_headers)


def attempt(raw: bytes) -> Request | Refused:
    try:
        return parse(raw)
    except Refused as refused:
        return refused


def refusal(raw: bytes) -> Refused:
    got = attempt(raw)
    assert isinstance(got, Refused), got
    return got


def reading(raw: bytes) -> tuple[str, Headers]:
    """A serialised head without its end as start line and fields."""
    start, *rest = raw.decode("latin-1").removesuffix("\r\n").split("\r\n")
    return start, tuple((name, value) for name, _, value in (line.partition(": ") for line in rest))


def slowness(suspect: Callable[[], object], control: Callable[[], object]) -> float:
    """How many times as long the suspect takes as the control, each at its best of three."""

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            begun = perf_counter()
            run()
            times.append(perf_counter() - begun)
        return min(times)

    return best(suspect) / best(control)


# What responses, requests and operators may say, mixed at random.

seconds = st.integers(0, 200)
ttls = st.none() | seconds.map(float)

policies = st.builds(
    Policy,
    default_ttl=ttls,
    override_ttl=ttls,
    jitter=st.sampled_from([0.0, 0.1, 1.0]),
    stale_while_revalidate=seconds.map(float),
    stale_if_error=ttls,
    early_refresh=st.sampled_from([0.0, 1.0, 100.0]),
    negative_ttl=st.dictionaries(st.sampled_from([404, 410, 500, 503]), seconds.map(float), max_size=2),
    respect_request=st.booleans(),
    store_set_cookie=st.booleans(),
    share_credentials=st.booleans(),
)

statuses = st.sampled_from([200, 200, 200, 203, 204, 301, 302, 404, 410, 418, 500, 501, 503])


def _cache_control(bare: list[str], counted: list[str]) -> st.SearchStrategy[str]:
    number = seconds.map(str) | st.sampled_from(["", "x", "-1", '"30"', "9" * 30])
    with_number = st.builds("{}={}".format, st.sampled_from(counted), number)
    return st.lists(st.sampled_from(bare) | with_number, max_size=5).map(", ".join)


_LENGTHS: Final = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"]
BINDING: Final = ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=60"]

response_cache_control = _cache_control([*BINDING, "public", "immutable", "x"], _LENGTHS)
request_cache_control = _cache_control(
    ["no-cache", "no-store", "only-if-cached", "max-stale", "no-transform"], ["max-age", "min-fresh", "max-stale"]
)

response_fields = st.lists(
    st.sampled_from(
        [
            'ETag: "a"',
            f"Last-Modified: {date(-1000)}",
            f"Expires: {date(60)}",
            "Expires: 0",
            f"Date: {date()}",
            f"Date: {date(-30)}",
            "Age: 20",
            "Age: x",
            "Vary: Accept-Language",
            "Content-Encoding: gzip",
        ]
    ),
    max_size=4,
    unique=True,
)

credentials = st.sampled_from([(), ("Cookie: a=b",), ("Authorization: Basic x",)])


@dataclass(frozen=True, slots=True)
class Case:
    """A response to a request, under a policy."""

    got: Fetched
    policy: Policy


@st.composite
def cases(draw: st.DrawFn, cache_control: st.SearchStrategy[str] = response_cache_control) -> Case:
    fields = [*draw(response_fields), f"Cache-Control: {draw(cache_control)}"]
    response = head(*fields, status=draw(statuses))
    took, roll = draw(st.sampled_from([0.0, 0.5, 10.0])), draw(st.floats(0, 1))
    got = fetched(response, *draw(credentials), took=took, roll=roll)
    return Case(got, draw(policies))


@st.composite
def admitted(draw: st.DrawFn, cache_control: st.SearchStrategy[str] = response_cache_control) -> tuple[Entry, Policy]:
    """An entry that a policy let in, and the policy."""
    kept = draw(cases(cache_control).map(_kept).filter(lambda pair: pair[0] is not None))
    assert kept[0] is not None
    return kept[0], kept[1]


def _kept(case: Case) -> tuple[Entry | None, Policy]:
    verdict = on_response(case.got, case.policy, None)
    draft = verdict.entry if isinstance(verdict, Store) else None
    return draft and complete(draft, case.got.head, (BODY,), WALL, case.policy), case.policy


@st.composite
def wishes(draw: st.DrawFn) -> Request:
    """A request for what is stored, with all it may wish of a cache."""
    asked = request(
        f"Cache-Control: {draw(request_cache_control)}",
        *draw(credentials),
        method=draw(st.sampled_from(["GET", "HEAD"])),
    )
    return replace(asked, http10=draw(st.booleans()))


def _mostly(usual: T, *others: T) -> st.SearchStrategy[T]:
    return st.sampled_from([usual] * 8 * len(others) + list(others))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request for what is stored: most are plain, and every way not to be is among them."""
    asking = st.sampled_from(
        [
            'If-None-Match: "a"',
            f"If-Modified-Since: {date()}",
            "Range: bytes=0-3",
            'If-Range: "a"',
            "Accept-Language: en",
            "Expect: 100-continue",
            *(
                "Cache-Control: no-cache",
                "Cache-Control: max-age=0",
                "Cache-Control: only-if-cached",
                "Cache-Control: x",
            ),
            *("Pragma: no-cache", "Pragma: x", 'If-Match: "a"', f"If-Unmodified-Since: {date()}"),
        ]
    )
    asked = request(
        *draw(st.lists(asking, max_size=3, unique=True)),
        *draw(credentials),
        method=draw(_mostly("GET", "HEAD", "POST", "OPTIONS")),
        length=draw(_mostly(0, 5, None)),
    )
    return replace(asked, http10=draw(st.booleans()), websocket=draw(_mostly(False, True)))
