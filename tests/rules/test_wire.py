"""One strict grammar for request heads: what is read, what is refused, and that nothing is read in two ways."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules import wire
from proxy.rules.hop import REQUEST_KEEP, strip_hop_by_hop
from proxy.rules.memo import Memo
from proxy.rules.message import Reason, Request
from proxy.rules.report import problem
from proxy.rules.wire import Refused, Section, head_bytes, parse_request, parse_section, refuse_early
from tests.rules.build import HOST, attempt, brief, lines, parse, raw_head, refusal, slowness


def test_a_request_head_is_read() -> None:
    raw = raw_head(HOST, "X-One:  a b\t", "x-one:", "Accept:text/html", line="GET /a%20b?c=%2f HTTP/1.1")
    assert parse(raw) == Request(
        method="GET",
        target="/a%20b?c=%2f",
        host="example.com",
        scheme="http",
        http10=False,
        headers=lines(HOST, "X-One: a b", "x-one:", "Accept: text/html"),
        fields={"host": "example.com", "x-one": "a b, ", "accept": "text/html"},
        length=0,
        keep_alive=True,
        expects_continue=False,
        websocket=False,
    )


@pytest.mark.parametrize(
    ("raw", "status", "reason"),
    [
        pytest.param(raw_head(HOST, line="GET /"), 400, Reason.MALFORMED, id="no version (RFC 9112 3)"),
        pytest.param(raw_head(HOST, line="GET  / HTTP/1.1"), 400, Reason.MALFORMED, id="two spaces (RFC 9112 3)"),
        pytest.param(
            raw_head(HOST, line="GET / a HTTP/1.1"), 400, Reason.MALFORMED, id="a space in the target (9112 3.2)"
        ),
        pytest.param(raw_head(HOST, line="GET\t/ HTTP/1.1"), 400, Reason.MALFORMED, id="a tab between (RFC 9112 3)"),
        pytest.param(raw_head(HOST, line=" GET / HTTP/1.1"), 400, Reason.MALFORMED, id="a space in front (RFC 9112 3)"),
        pytest.param(raw_head(HOST, line="GET / HTTP/1.1 "), 400, Reason.MALFORMED, id="a space behind (RFC 9112 3)"),
        pytest.param(
            raw_head(HOST, line="GET / http/1.1"), 400, Reason.MALFORMED, id="http in small letters (9112 2.3)"
        ),
        pytest.param(
            raw_head(HOST, line="GET / HTTP/1.10"), 400, Reason.MALFORMED, id="a version of three digits (2.3)"
        ),
        pytest.param(
            raw_head(HOST, line="GET / HTTP/2.0"), 505, Reason.UNKNOWN_VERSION, id="HTTP/2.0 (RFC 9110 15.6.6)"
        ),
        pytest.param(
            raw_head(HOST, line="GET / HTTP/1.2"), 505, Reason.UNKNOWN_VERSION, id="HTTP/1.2 (RFC 9110 15.6.6)"
        ),
        pytest.param(raw_head(HOST, line="get / HTTP/1.1"), 400, Reason.MALFORMED, id="a method in small letters"),
        pytest.param(raw_head(HOST, line="gET / HTTP/1.1"), 400, Reason.MALFORMED, id="a method with a small letter"),
        pytest.param(
            raw_head(HOST, line="G@T / HTTP/1.1"), 400, Reason.MALFORMED, id="a method that is no token (9110 9.1)"
        ),
        pytest.param(raw_head(HOST, line=" / HTTP/1.1"), 400, Reason.MALFORMED, id="no method (RFC 9112 3)"),
        pytest.param(raw_head(HOST, line=f"{'A' * 33} / HTTP/1.1"), 400, Reason.MALFORMED, id="a method without end"),
        pytest.param(raw_head(HOST, line="CONNECT a:1 HTTP/1.1"), 405, Reason.METHOD, id="CONNECT (RFC 9110 9.3.6)"),
        pytest.param(raw_head(HOST, line="TRACE / HTTP/1.1"), 405, Reason.METHOD, id="TRACE (RFC 9110 9.3.8)"),
        pytest.param(raw_head(), 400, Reason.MALFORMED, id="no Host (RFC 9112 3.2)"),
        pytest.param(
            raw_head(line="GET / HTTP/1.0"), 400, Reason.MALFORMED, id="no Host in HTTP/1.0: the key needs it"
        ),
        pytest.param(raw_head(HOST, HOST), 400, Reason.MALFORMED, id="two Hosts, even of one value (RFC 9112 3.2)"),
        pytest.param(
            raw_head(HOST, "hOST: b"), 400, Reason.MALFORMED, id="two Hosts, spelled differently (RFC 9112 3.2)"
        ),
        pytest.param(raw_head("Host:"), 400, Reason.MALFORMED, id="an empty Host"),
        pytest.param(raw_head("Host: a, b"), 400, Reason.MALFORMED, id="a list of Hosts"),
        pytest.param(raw_head("Host: a b"), 400, Reason.MALFORMED, id="a Host with a space"),
        pytest.param(raw_head("Host: a/b"), 400, Reason.MALFORMED, id="a Host with a path"),
        pytest.param(raw_head("Host: a@b"), 400, Reason.MALFORMED, id="a Host with user information (RFC 9110 4.2.4)"),
        pytest.param(raw_head("Host: .a"), 400, Reason.MALFORMED, id="a Host that begins with a dot"),
        pytest.param(raw_head("Host: a:"), 400, Reason.MALFORMED, id="a Host with an empty port"),
        pytest.param(raw_head("Host: a:b"), 400, Reason.MALFORMED, id="a Host with a port that is no number"),
        pytest.param(raw_head("Host: a:65536"), 400, Reason.MALFORMED, id="a Host with a port out of range"),
        pytest.param(raw_head("Host: [::1"), 400, Reason.MALFORMED, id="a Host with half a bracket"),
        pytest.param(raw_head("Host: [:::1]"), 400, Reason.MALFORMED, id="a Host that is no IPv6 address (3986 3.2.2)"),
        pytest.param(
            raw_head("Host: [1.2.3.4]"), 400, Reason.MALFORMED, id="a Host with IPv4 in brackets (3986 3.2.2)"
        ),
        pytest.param(raw_head("Host: \xe9"), 400, Reason.MALFORMED, id="a Host that is not ASCII"),
        pytest.param(raw_head(HOST, "A : b"), 400, Reason.MALFORMED, id="a space before the colon (RFC 9112 5.1)"),
        pytest.param(raw_head(HOST, "A"), 400, Reason.MALFORMED, id="a line without a colon (RFC 9112 5)"),
        pytest.param(raw_head(HOST, ": b"), 400, Reason.MALFORMED, id="a field without a name (RFC 9112 5)"),
        pytest.param(raw_head(HOST, "A b: c"), 400, Reason.MALFORMED, id="a space in a name (RFC 9110 5.1)"),
        pytest.param(raw_head(HOST, "A: b", " c"), 400, Reason.MALFORMED, id="a folded line (RFC 9112 5.2)"),
        pytest.param(
            raw_head(HOST, "A: b", "\tc: d"), 400, Reason.MALFORMED, id="a line folded by a tab (RFC 9112 5.2)"
        ),
        pytest.param(
            raw_head(" A: b", HOST), 400, Reason.MALFORMED, id="a space before the first field (RFC 9112 2.2)"
        ),
        pytest.param(raw_head(HOST, "A: b\nC: d"), 400, Reason.MALFORMED, id="a bare LF (RFC 9112 2.2)"),
        pytest.param(raw_head(HOST + "\n"), 400, Reason.MALFORMED, id="a bare LF at a line's end (RFC 9112 2.2)"),
        pytest.param(raw_head(HOST, "A: b\rC: d"), 400, Reason.MALFORMED, id="a bare CR (RFC 9112 2.2)"),
        pytest.param(raw_head(HOST, "A: b\r"), 400, Reason.MALFORMED, id="a second CR (RFC 9112 2.2)"),
        pytest.param(raw_head(HOST, "A: b\x00c"), 400, Reason.MALFORMED, id="a NUL in a value (RFC 9110 5.5)"),
        pytest.param(
            raw_head(HOST, "A: b\x0bc"), 400, Reason.MALFORMED, id="a control character in a value (9110 5.5)"
        ),
        pytest.param(raw_head(HOST, "A: b\x7fc"), 400, Reason.MALFORMED, id="a DEL in a value (RFC 9110 5.5)"),
        pytest.param(raw_head(HOST, "A\x00: b"), 400, Reason.MALFORMED, id="a NUL in a name"),
        pytest.param(raw_head(HOST, "A\xe9: b"), 400, Reason.MALFORMED, id="a name that is not ASCII"),
        pytest.param(
            raw_head(HOST, "Expect: x"), 417, Reason.EXPECTATION, id="an unknown expectation (RFC 9110 10.1.1)"
        ),
        pytest.param(raw_head(HOST, "Expect:"), 417, Reason.EXPECTATION, id="an empty expectation"),
        pytest.param(
            raw_head(HOST, "Expect: 100-continue", "Expect: 100-continue"),
            417,
            Reason.EXPECTATION,
            id="two expectations",
        ),
    ],
)
def test_heads_that_are_refused(raw: bytes, status: int, reason: Reason) -> None:
    refused = refusal(raw)
    assert (refused.status, refused.reason) == (status, reason)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param(("Content-Length: 3", "Transfer-Encoding: chunked"), 400, id="both (RFC 9112 6.1)"),
        pytest.param(("Transfer-Encoding: chunked", "Content-Length: 0"), 400, id="both, the other way round"),
        pytest.param(
            ("Content-Length: 3", "Content-Length: 3"), 400, id="two lengths, even of one value (RFC 9112 6.3)"
        ),
        pytest.param(("Content-Length: 3", "content-length: 4"), 400, id="two lengths (RFC 9112 6.3)"),
        pytest.param(("Content-Length: 3, 3",), 400, id="a list of lengths (RFC 9112 6.3)"),
        pytest.param(("Content-Length: +3",), 400, id="a signed length (RFC 9110 8.6)"),
        pytest.param(("Content-Length: -1",), 400, id="a negative length (RFC 9110 8.6)"),
        pytest.param(("Content-Length: 0x3",), 400, id="a hexadecimal length (RFC 9110 8.6)"),
        pytest.param(("Content-Length: 1_0",), 400, id="a length with an underscore"),
        pytest.param(("Content-Length: 3 3",), 400, id="a length with a space"),
        pytest.param(("Content-Length:",), 400, id="an empty length (RFC 9110 8.6)"),
        pytest.param(("Content-Length: \xb2",), 400, id="a length in superscript"),
        pytest.param((f"Content-Length: {'9' * 19}",), 400, id="a length that nobody has"),
        pytest.param(("Transfer-Encoding: chunked, chunked",), 400, id="chunked twice (RFC 9112 7)"),
        pytest.param(("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400, id="chunked in two lines"),
        pytest.param(("Transfer-Encoding: chunked,",), 400, id="chunked and a comma"),
        pytest.param(("Transfer-Encoding:",), 400, id="an empty coding"),
        pytest.param(("Transfer-Encoding: \xe9chunked",), 400, id="a coding that is no token"),
        pytest.param(("Transfer-Encoding: chunked;a=b",), 400, id="chunked with a parameter (RFC 9112 7.1)"),
        pytest.param(("Transfer-Encoding: gzip, chunked",), 501, id="another coding (RFC 9112 6.1)"),
        pytest.param(("Transfer-Encoding: identity",), 501, id="identity, of old (RFC 9112 7)"),
        pytest.param(("Transfer-Encoding: chunked, gzip",), 501, id="another coding last"),
        pytest.param(("Transfer-Encoding: xchunked",), 501, id="a coding that only ends so"),
    ],
)
def test_bodies_that_could_be_read_in_two_ways_are_refused(fields: tuple[str, ...], status: int) -> None:
    refused = refusal(raw_head(HOST, *fields, line="POST / HTTP/1.1"))
    assert refused.status == status
    assert refused.reason is (Reason.MALFORMED if status == 400 else Reason.UNKNOWN_CODING)


def test_a_transfer_coding_in_http_1_0_is_refused() -> None:
    """RFC 9112 section 6.1."""
    assert refusal(raw_head(HOST, "Transfer-Encoding: chunked", line="POST / HTTP/1.0")).status == 400


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        pytest.param((), 0, id="no body (RFC 9112 6.3)"),
        pytest.param(("Content-Length: 0",), 0, id="a body of nothing"),
        pytest.param(("Content-Length: 0042 ",), 42, id="a body of that length"),
        pytest.param((f"Content-Length: {'9' * 18}",), 10**18 - 1, id="a body of great length"),
        pytest.param(("Transfer-Encoding: Chunked",), None, id="a chunked body, in any case (RFC 9112 7)"),
    ],
)
def test_body_lengths(fields: tuple[str, ...], length: int | None) -> None:
    assert parse(raw_head(HOST, *fields)).length == length


def test_header_fields_are_counted() -> None:
    raw = raw_head(HOST, *(f"A: {n}" for n in range(4)))
    assert len(parse(raw, max_headers=5).headers) == 5
    with pytest.raises(Refused) as caught:
        parse(raw, max_headers=4)
    assert (caught.value.status, caught.value.reason) == (431, Reason.HEADERS_TOO_LARGE)


@pytest.mark.parametrize(
    ("host", "scheme", "expected"),
    [
        pytest.param("Example.COM", "http", "example.com", id="in small letters (RFC 9110 4.2.3)"),
        pytest.param("a:80", "http", "a", id="without the scheme's own port (RFC 9110 4.2.3)"),
        pytest.param("a:443", "https", "a", id="without that of https"),
        pytest.param("a:443", "http", "a:443", id="with another's"),
        pytest.param("a:8080", "http", "a:8080", id="with any other"),
        pytest.param("[::1]:80", "http", "[::1]", id="an IPv6 address without its port"),
        pytest.param("[::80]", "http", "[::80]", id="an IPv6 address that only looks as if it had one"),
        pytest.param("[::FFFF:1.2.3.4]:81", "http", "[::ffff:1.2.3.4]:81", id="an IPv6 address in small letters"),
        pytest.param("a_b-c.d.", "http", "a_b-c.d.", id="letters, digits, and what people use"),
        pytest.param("127.0.0.1:65535", "http", "127.0.0.1:65535", id="the last port there is"),
    ],
)
def test_hosts(host: str, scheme: str, expected: str) -> None:
    assert parse(raw_head(f"Host: {host}"), scheme).host == expected


@pytest.mark.parametrize(
    ("proto", "trusted", "scheme"),
    [
        pytest.param("https", True, "https", id="a trusted peer says how it was asked"),
        pytest.param("https", False, "http", id="another peer does not"),
        pytest.param("ftp", True, "http", id="a scheme that is not spoken here is not believed"),
        pytest.param("https, http", True, "http", id="nor a list of them"),
    ],
)
def test_schemes(proto: str, trusted: bool, scheme: str) -> None:
    got = parse(raw_head("Host: a:443", f"X-Forwarded-Proto: {proto}"), trusted=trusted)
    assert got.scheme == scheme
    assert got.host == ("a" if scheme == "https" else "a:443")


def test_a_trusted_peer_may_say_that_it_was_asked_in_the_clear() -> None:
    assert parse(raw_head(HOST, "X-Forwarded-Proto: http"), "https", trusted=True).scheme == "http"


@pytest.mark.parametrize(
    ("version", "fields", "keep", "continues", "websocket"),
    [
        pytest.param("1.1", (), True, False, False, id="HTTP/1.1 goes on (RFC 9112 9.3)"),
        pytest.param("1.1", ("Connection: x, Close",), False, False, False, id="until it says close (RFC 9112 9.6)"),
        pytest.param("1.1", ("Connection: x", "Connection: close"), False, False, False, id="in any of its lines"),
        pytest.param("1.0", (), False, False, False, id="HTTP/1.0 ends (RFC 9112 9.3)"),
        pytest.param("1.0", ("Connection: Keep-Alive",), True, False, False, id="unless it says not (RFC 9112 C.2.2)"),
        pytest.param("1.0", ("Connection: keep-alive, close",), False, False, False, id="close is stronger (9112 9.3)"),
        pytest.param("1.1", ("Expect: 100-Continue",), True, True, False, id="Expect, in any case (RFC 9110 10.1.1)"),
        pytest.param("1.0", ("Expect: 100-continue",), False, False, False, id="not in HTTP/1.0 (RFC 9110 10.1.1)"),
        pytest.param(
            "1.1", ("Connection: Upgrade", "Upgrade: WebSocket"), True, False, True, id="an upgrade (9110 7.8)"
        ),
        pytest.param(
            "1.1",
            ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"),
            True,
            False,
            True,
            id="an upgrade that says it has no body",
        ),
        *[
            pytest.param(
                "1.1", ("Connection: Upgrade", "Upgrade: websocket", body), True, False, False, id=f"not with {body}"
            )
            for body in ("Content-Length: 10", "Transfer-Encoding: chunked")
        ],
        pytest.param("1.1", ("Upgrade: websocket",), True, False, False, id="not without Connection (RFC 9110 7.8)"),
        pytest.param("1.1", ("Connection: upgrade",), True, False, False, id="not without Upgrade"),
        pytest.param("1.1", ("Connection: upgrade", "Upgrade: h2c"), True, False, False, id="not to anything else"),
        pytest.param(
            "1.0", ("Connection: upgrade", "Upgrade: websocket"), False, False, False, id="not in 1.0 (9110 7.8)"
        ),
    ],
)
def test_what_a_connection_is_told(
    version: str, fields: tuple[str, ...], keep: bool, continues: bool, websocket: bool
) -> None:
    got = parse(raw_head(HOST, *fields, line=f"GET / HTTP/{version}"))
    assert (got.keep_alive, got.expects_continue, got.websocket) == (keep, continues, websocket)
    assert got.http10 is (version == "1.0")


# -- any bytes at all

_START: Final = st.sampled_from(["GET / HTTP/1.1", "POST /a%20?b HTTP/1.1", "HEAD http://example.com/ HTTP/1.0"])
_LINE: Final = st.sampled_from(
    [
        HOST,
        HOST,
        HOST,
        "host: b",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "X:",
        "A : b",
        " folded",
        "Expect: 100-continue",
        "Upgrade: websocket",
        "Connection: upgrade",
        "Cookie: \xc3\xa9",
        "a\tb: c",
    ]
)
_NOISE: Final = st.sampled_from(
    [b"", b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\xff", b"\x7f", b"%2f", b"/../"]
)


def first_head(raw: bytes) -> bytes:
    return raw[: raw.index(b"\r\n\r\n") + 4]


def outcome(read: Callable[[], Request]) -> Request | tuple[int, str]:
    """What is read, or how it is refused."""
    try:
        return read()
    except Refused as refused:
        return refused.status, refused.detail


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head up to its first empty line, as likely good as not, with something in it that should not be."""
    raw = "\r\n".join([draw(_START), *draw(st.lists(_LINE, max_size=5)), "", ""]).encode("latin-1")
    at = draw(st.integers(0, len(raw) - 4))
    raw = raw[:at] + draw(_NOISE) + raw[at + draw(st.integers(0, 1)) :]
    return first_head(raw + b"\r\n\r\n")


@brief
@given(st.binary() | st.builds(bytes.__add__, st.binary(), st.just(b"\r\n\r\n")) | heads())
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    got = attempt(raw)
    if isinstance(got, Refused):
        assert 400 <= got.status <= 505
        _, body = problem(got.status, got.reason, got.detail)
        assert json.loads(body)["detail"] == got.detail


@brief
@given(heads())
def test_a_reader_who_parts_lines_anywhere_reads_the_same(raw: bytes) -> None:
    got = attempt(raw)
    if isinstance(got, Request):
        naive = raw.replace(b"\r", b"\n").replace(b"\0", b"\n").replace(b"\n\n", b"\n").decode("latin-1")
        fields = [line.partition(":") for line in naive.strip("\n").split("\n")[1:]]
        headers = tuple((name, value.strip(" \t")) for name, _, value in fields)
        assert got.headers == strip_hop_by_hop(headers, REQUEST_KEEP)
        assert sum(name.lower() == "host" for name, _ in got.headers) == 1


@brief
@given(heads())
def test_what_is_accepted_means_the_same_when_written_again(raw: bytes) -> None:
    got = attempt(raw)
    if isinstance(got, Request):
        start = f"{got.method} {got.target} HTTP/1.{0 if got.http10 else 1}"
        again = parse(raw_head(*(f"{name}: {value}" for name, value in got.headers), line=start))
        here = replace(again, keep_alive=got.keep_alive, websocket=got.websocket)  # what is of this connection alone
        assert here == (got if got.length is not None else replace(got, length=0))  # as is the framing


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(raw_head(HOST)[:-2], id="without its empty line"),
        pytest.param(raw_head(HOST)[:-1], id="without the end of it"),
        pytest.param(raw_head(HOST)[:-2] + b"X\r\n", id="with nonsense in its place"),
        pytest.param(raw_head(HOST)[:-2] + b"\n", id="with half of it"),
        pytest.param(raw_head(HOST).replace(b"\r\n", b"\n"), id="with other ends of lines"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="its first line alone"),
        pytest.param(b"GET / HTTP/1.1", id="not even that"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_head_that_is_not_complete_is_not_read(raw: bytes) -> None:
    assert refusal(raw).status == 400


@brief
@given(st.lists(heads(), min_size=1, max_size=4), st.permutations(["http", "https"] * 2), st.booleans())
def test_a_section_that_is_remembered_reads_the_same_under_any_request_line(
    raws: list[bytes], schemes: list[str], trusted: bool
) -> None:
    """Three times: what is remembered from the second time on answers the third."""
    sections: Memo[bytes, Section] = Memo(8, lambda *_: 1)
    lines_of = [raw.partition(b"\n")[0] + b"\n" for raw in raws]
    for _ in range(3):
        for raw, scheme in zip(raws, schemes, strict=False):
            for line in lines_of:
                mixed = line + raw.partition(b"\n")[2]
                read = outcome(lambda: parse_request(mixed, scheme, trusted=trusted, max_headers=9))  # noqa: B023
                again = outcome(
                    lambda: parse_request(mixed, scheme, trusted=trusted, max_headers=9, sections=sections)  # noqa: B023
                )
                assert read == again


def test_a_section_is_read_once_for_many_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []

    def counted(raw: bytes, *, max_headers: int) -> Section:
        reads.append(raw)
        return parse_section(raw, max_headers=max_headers)

    monkeypatch.setattr(wire, "parse_section", counted)
    sections: Memo[bytes, Section] = Memo(8, lambda *_: 1)
    for number in range(10):
        raw = raw_head(HOST, "X: 1", line=f"GET /{number} HTTP/1.1")
        got = parse_request(raw, "http", trusted=False, max_headers=9, sections=sections)
        assert (got.target, got.fields["x"]) == (f"/{number}", "1")
    assert len(reads) == 2, "it is kept from the second time on"


def test_a_section_that_is_refused_is_not_remembered() -> None:
    sections: Memo[bytes, Section] = Memo(8, lambda *_: 1)
    for _ in range(4):
        with pytest.raises(Refused):
            parse_request(raw_head(HOST, "A : b"), "http", trusted=False, max_headers=9, sections=sections)
    assert sections.recent == {}


# -- before the head is complete

LIMIT: Final = 1000


def refused_early(partial: bytes, limit: int = LIMIT) -> Refused | None:
    try:
        refuse_early(bytearray(partial), limit)
    except Refused as refused:
        return refused
    return None


@pytest.mark.parametrize(
    ("partial", "status"),
    [
        pytest.param(b"", None, id="nothing yet"),
        pytest.param(b"GET / HT", None, id="a request line that goes on"),
        pytest.param(b"GET / HTTP/1.1\r", None, id="a request line that is about to end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA", None, id="a field that goes on"),
        pytest.param(b"GET / HTTP/1.1\n", 400, id="a request line that ends without CR (RFC 9112 2.2)"),
        pytest.param(b"GET / HTTP/1.1\r\nA: b\nC", 400, id="a field line that ends without CR (RFC 9112 2.2)"),
        pytest.param(b"\x16\x03\x01\x02\x00\n", 400, id="something that is not HTTP"),
        pytest.param(b"GET /\r\n", 400, id="a request line that is none (RFC 9112 3)"),
        pytest.param(b"GET /" + b"a" * (LIMIT - 5), None, id="a request line as long as may be"),
        pytest.param(b"GET /" + b"a" * LIMIT, 414, id="a request line that is too long (RFC 9110 15.5.15)"),
        pytest.param(b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\n", 414, id="also when its end has come"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"b" * LIMIT, 431, id="a header section that is too large (6585 5)"),
    ],
)
def test_what_can_become_no_good_head_any_more(partial: bytes, status: int | None) -> None:
    got = refused_early(partial)
    assert (got.status if got else None) == status


@brief
@given(heads(), st.data())
def test_no_beginning_of_a_good_head_is_refused_early(raw: bytes, data: st.DataObject) -> None:
    if isinstance(attempt(raw), Request):
        assert refused_early(raw[: data.draw(st.integers(0, len(raw)))]) is None


@brief
@given(heads(), heads() | st.binary(), st.data())
def test_what_is_refused_early_would_be_refused_whatever_came(raw: bytes, rest: bytes, data: st.DataObject) -> None:
    partial = raw[: data.draw(st.integers(0, len(raw) - 4))]
    whole = partial + rest + b"\r\n\r\n"
    if refused_early(partial):
        assert isinstance(attempt(first_head(whole)), Refused)
        assert refused_early(partial + rest)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(" " * 8_000 + "\x01", id="white space before something forbidden"),
        pytest.param("\t " * 4_000 + "\r", id="white space before a bare CR"),
        pytest.param("a " * 4_000 + "\x01", id="words before something forbidden"),
        pytest.param("a" * 8_000 + "\x01", id="a word before something forbidden"),
    ],
)
def test_no_head_takes_longer_than_its_length_accounts_for(value: str) -> None:
    hostile, harmless = raw_head(HOST, f"X:{value}"), raw_head(HOST, *["X: abc"] * 1_000)
    assert slowness(lambda: attempt(hostile), lambda: parse(harmless, max_headers=2_000)) < 20


# -- the way back


def test_a_head_is_written_up_to_its_empty_line() -> None:
    headers = (("A", "b"), ("c-D", ""), ("E", "\xe9"))
    assert head_bytes(299, "All right", headers) == b"HTTP/1.1 299 All right\r\nA: b\r\nc-D: \r\nE: \xe9\r\n"
    assert head_bytes(200, "", ()) == b"HTTP/1.1 200 \r\n"


def test_what_is_not_forwarded_is_not_there_to_be_keyed_either() -> None:
    """A client must not store its answer under a field that the upstream never saw."""
    asked = parse(raw_head(HOST, "X-Tenant: acme", "Connection: X-Tenant, close", "TE: trailers"))
    assert "x-tenant" not in asked.fields
    assert asked.headers == (("Host", "example.com"),)
    assert not asked.keep_alive


@pytest.mark.parametrize(
    ("claimed", "trusted", "host"),
    [
        pytest.param("Public.Example:80", True, "public.example", id="a trusted proxy's is the host"),
        pytest.param("public.example, inner.example", True, "public.example", id="of several the client's"),
        pytest.param("public.example", False, "example.com", id="a stranger's is not"),
    ],
)
def test_who_is_believed_about_the_host(claimed: str, trusted: bool, host: str) -> None:
    assert parse(raw_head(HOST, f"X-Forwarded-Host: {claimed}"), trusted=trusted).host == host


def test_a_claimed_host_is_held_to_what_a_host_is() -> None:
    with pytest.raises(Refused, match="Host"):
        parse(raw_head(HOST, "X-Forwarded-Host: a b/c"), trusted=True)


CLAIMS = (
    *("X-Forwarded-Port: 666", "X-Forwarded-Prefix: //evil", "x-forwarded-SERVER: evil", "X-Forwarded-: a"),
    *("X-Original-URL: /admin", "X-Rewrite-URL: /admin", "X-Host: evil", "X-HTTP-Host-Override: evil"),
    *("X_Original_URL: /admin", "X-Forwarded_Port: 666"),
)
METHOD_CLAIMS = ("X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE")


@pytest.mark.parametrize("claim", [*CLAIMS, *METHOD_CLAIMS])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_a_stranger_claims_of_a_request_is_not_there_to_be_forwarded(claim: str, method: str) -> None:
    got = parse(raw_head(HOST, "X-Original: a", claim, line=f"{method} / HTTP/1.1"))
    assert got.headers == (("Host", "example.com"), ("X-Original", "a"))
    assert got.fields == {"host": "example.com", "x-original": "a"}


@pytest.mark.parametrize("claim", [*CLAIMS, *METHOD_CLAIMS])
def test_what_a_trusted_peer_claims_of_a_request_goes_on(claim: str) -> None:
    assert parse(raw_head(HOST, claim), trusted=True).headers[1] == tuple(claim.split(": "))


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_stranger_may_not_claim_another_url_of_what_nobody_shares_either(claim: str) -> None:
    assert parse(raw_head(HOST, claim, line="POST / HTTP/1.1")).headers == (("Host", "example.com"),)


@pytest.mark.parametrize("claim", METHOD_CLAIMS)
def test_a_post_may_stand_for_another_method(claim: str) -> None:
    """Its answer is nobody else's."""
    assert parse(raw_head(HOST, claim, line="POST / HTTP/1.1")).headers[1] == tuple(claim.split(": "))


def test_one_section_is_read_for_whoever_sends_it() -> None:
    sections: Memo[bytes, Section] = Memo(8, lambda *_: 1)
    for trusted, line in [(False, "GET / HTTP/1.1"), (True, "GET / HTTP/1.1"), (False, "POST / HTTP/1.1")] * 2:
        raw = raw_head(HOST, CLAIMS[0], METHOD_CLAIMS[0], line=line)
        got = parse_request(raw, "http", trusted=trusted, max_headers=9, sections=sections)
        assert ("x-forwarded-port" in got.fields) is trusted
        assert ("x-http-method-override" in got.fields) is (trusted or line.startswith("POST"))


@pytest.mark.parametrize("hops", ["0", "00", "5, 0"])
def test_an_options_that_may_go_no_further_is_answered_here(hops: str) -> None:
    """RFC 9110 section 7.6.2."""
    got = refusal(raw_head(HOST, f"Max-Forwards: {hops}", line="OPTIONS / HTTP/1.1"))
    assert (got.status, got.reason, got.headers) == (405, Reason.METHOD, (("Allow", "GET, HEAD, POST, PUT, DELETE"),))


@pytest.mark.parametrize("hops", ["1", "10", "x", "", "-0"])
def test_an_options_that_may_go_further_does(hops: str) -> None:
    assert parse(raw_head(HOST, f"Max-Forwards: {hops}", line="OPTIONS / HTTP/1.1")).method == "OPTIONS"


def test_how_far_others_may_go_says_nothing() -> None:
    """RFC 9110 section 7.6.2 speaks of OPTIONS and TRACE alone."""
    assert parse(raw_head(HOST, "Max-Forwards: 0")).fields["max-forwards"] == "0"
