"""What a request looks like when it goes upstream."""

from dataclasses import replace
from typing import Final

import pytest

from proxy.rules.forward import forwarded_headers, in_trace
from proxy.rules.message import Entry, Headers, Request
from tests.rules.build import date, entry, lines, request

OURS: Final = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "x-request-id"}
STAMP: Final = date(-9)


def sent(
    asked: Request, *, peer: str = "192.0.2.1", trusted: bool = False, narrow: bool = False, base: Entry | None = None
) -> Headers:
    return forwarded_headers(
        asked, host="upstream:81", peer=peer, trusted=trusted, request_id="id-1", narrow=narrow, base=base
    )


def theirs(headers: Headers) -> Headers:
    """Without what is added about the way it came."""
    return tuple(field for field in headers if field[0].lower() not in OURS)


def values(headers: Headers, name: str) -> list[str]:
    return [value for spelled, value in headers if spelled.lower() == name]


def test_everything_that_is_added_is_added_once_and_in_order() -> None:
    assert sent(request("B: 1", "a: 2", "B: 3")) == lines(
        "Host: upstream:81",
        "B: 1",
        "a: 2",
        "B: 3",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: example.com",
        'Forwarded: for=192.0.2.1;host="example.com";proto=http',
        "Via: 1.1 readthrough",
        "X-Request-Id: id-1",
    )


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    ("fields", "length", "left"),
    [
        pytest.param(("Connection: x, Keep-Alive", "X: 1", "Keep-Alive: 5"), 0, (), id="hop-by-hop (RFC 9110 7.6.1)"),
        pytest.param(("TE: trailers", "Trailer: a", "Upgrade: h2c"), 0, (), id="hop-by-hop by name (RFC 9110 7.6.1)"),
        pytest.param(("Connection: Cookie", "Cookie: a"), 0, ("Cookie: a",), id="no sender can hide who asks"),
        pytest.param(("Expect: 100-continue",), 0, (), id="Expect is settled here (RFC 9110 10.1.1)"),
        pytest.param(("Content-Length: 3",), 3, ("Content-Length: 3",), id="the length of a body (RFC 9110 8.6)"),
        pytest.param(("Content-Length: 0",), 0, ("Content-Length: 0",), id="also of none, where it was said"),
        pytest.param(("Content-Length: 03",), 3, ("Content-Length: 3",), id="written in one way"),
        pytest.param(("Transfer-Encoding: chunked",), None, (), id="chunks are made anew (RFC 9112 6.1)"),
        pytest.param(
            ("traceparent: 00-a-b-01", "tracestate: c"), 0, ("traceparent: 00-a-b-01", "tracestate: c"), id="trace"
        ),
        pytest.param(("Accept-Encoding: br",), 0, ("Accept-Encoding: br",), id="codings are the client's to ask for"),
        pytest.param(("Cache-Control: no-cache",), 0, ("Cache-Control: no-cache",), id="wishes go on (RFC 9111 5.2.1)"),
    ],
)
def test_what_goes_on(fields: tuple[str, ...], length: int | None, left: tuple[str, ...], narrow: bool) -> None:
    assert theirs(sent(request(*fields, length=length), narrow=narrow)) == lines("Host: upstream:81", *left)


NARROWING: Final = (
    "Range: bytes=0-1",
    'If-Range: "a"',
    'If-None-Match: "b"',
    f"If-Modified-Since: {STAMP}",
    'If-Match: "c"',
    f"If-Unmodified-Since: {STAMP}",
)


@pytest.mark.parametrize("field", NARROWING)
def test_a_flight_asks_for_the_whole(field: str) -> None:
    """RFC 9111 section 4.3.1: the conditions sent are the cache's own."""
    assert theirs(sent(request(field))) == lines("Host: upstream:81")


@pytest.mark.parametrize("field", NARROWING)
def test_a_request_that_goes_alone_goes_as_it_is(field: str) -> None:
    assert theirs(sent(request(field), narrow=True)) == lines("Host: upstream:81", field)


@pytest.mark.parametrize(
    ("fields", "conditions"),
    [
        pytest.param(('ETag: W/"a"',), ('If-None-Match: W/"a"',), id="by tag (RFC 9111 4.3.1)"),
        pytest.param((f"Last-Modified: {STAMP}",), (f"If-Modified-Since: {STAMP}",), id="by date (RFC 9111 4.3.1)"),
        pytest.param(
            (f"Last-Modified: {STAMP}", 'ETag: "a"'),
            ('If-None-Match: "a"', f"If-Modified-Since: {STAMP}"),
            id="by both (RFC 9111 4.3.1)",
        ),
        pytest.param((), (), id="not at all"),
    ],
)
def test_a_flight_validates_what_is_stored(fields: tuple[str, ...], conditions: tuple[str, ...]) -> None:
    base = entry("Cache-Control: max-age=60", *fields)
    asked = request('If-None-Match: "client"', f"If-Modified-Since: {date()}")
    assert theirs(sent(asked, base=base)) == lines("Host: upstream:81", *conditions)


def test_a_request_that_goes_alone_validates_nothing_of_ours() -> None:
    base = entry("Cache-Control: max-age=60", 'ETag: "a"')
    assert theirs(sent(request(), narrow=True, base=base)) == lines("Host: upstream:81")


def test_an_upgrade_is_asked_for_anew() -> None:
    """RFC 9110 section 7.8."""
    asked = replace(request("Connection: Upgrade, x", "Upgrade: WebSocket", "Sec-WebSocket-Key: k"), websocket=True)
    assert theirs(sent(asked, narrow=True)) == lines(
        "Host: upstream:81", "Sec-WebSocket-Key: k", "Connection: Upgrade", "Upgrade: websocket"
    )


@pytest.mark.parametrize(
    ("method", "said", "left"),
    [
        pytest.param("OPTIONS", "2", "1", id="each hop takes one"),
        pytest.param("OPTIONS", "010", "9", id="however it is written"),
        pytest.param("OPTIONS", "1", "0", id="the next one answers"),
        pytest.param("OPTIONS", "many", "many", id="what is no number is nothing that we know"),
        pytest.param("OPTIONS", "9" * 5000, "9" * 5000, id="nor is one that nobody can count"),
        pytest.param("GET", "2", "2", id="of other methods it says nothing"),
    ],
)
@pytest.mark.parametrize("narrow", [False, True])
def test_how_far_an_options_goes(method: str, said: str, left: str, narrow: bool) -> None:
    """RFC 9110 section 7.6.2."""
    asked = request(f"max-FORWARDS: {said}", method=method)
    assert theirs(sent(asked, narrow=narrow)) == lines("Host: upstream:81", f"max-FORWARDS: {left}")


CLAIMS: Final = (
    "X-Forwarded-For: 198.51.100.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: public.example",
    'Forwarded: for=198.51.100.7;host="evil.example";proto=gopher',
)


def test_claims_of_a_stranger_are_replaced() -> None:
    headers = sent(request(*CLAIMS))
    assert values(headers, "x-forwarded-for") == ["192.0.2.1"]
    assert values(headers, "x-forwarded-proto") == ["http"]
    assert values(headers, "x-forwarded-host") == ["example.com"]
    assert values(headers, "forwarded") == ['for=192.0.2.1;host="example.com";proto=http']


def test_claims_of_a_trusted_proxy_are_added_to() -> None:
    asked = replace(request(*CLAIMS, "X-Forwarded-For: 203.0.113.9"), scheme="https", host="public.example")
    headers = sent(asked, trusted=True)
    assert values(headers, "x-forwarded-for") == ["198.51.100.7, 203.0.113.9, 192.0.2.1"]
    assert values(headers, "x-forwarded-proto") == ["https"]
    assert values(headers, "x-forwarded-host") == ["public.example"]
    assert values(headers, "forwarded") == ['for=198.51.100.7, for=192.0.2.1;host="public.example";proto=https']


def test_a_trusted_proxy_that_claims_nothing() -> None:
    headers = sent(request("X-Forwarded-For:"), trusted=True)
    assert values(headers, "x-forwarded-for") == ["192.0.2.1"]
    assert values(headers, "x-forwarded-host") == ["example.com"]


def test_an_ipv6_peer_is_quoted_where_it_must_be() -> None:
    """RFC 7239 section 6."""
    headers = sent(request(), peer="2001:db8::1")
    assert values(headers, "x-forwarded-for") == ["2001:db8::1"]
    assert values(headers, "forwarded") == ['for="[2001:db8::1]";host="example.com";proto=http']


def test_a_forged_field_does_not_pass_by_its_spelling() -> None:
    """CGI and its heirs read X_Forwarded_For as X-Forwarded-For."""
    forged = ("X_Forwarded_For: 6.6.6.6", "x_forwarded-host: evil", "Transfer_Encoding: chunked", "content_length: 1")
    names = [name for name, _ in sent(request(*forged, "X_Other: a"))]
    assert "X_Other" in names
    assert not {written.partition(":")[0] for written in forged} & set(names)


def test_via_says_which_version_was_received_behind_what_others_wrote() -> None:
    """RFC 9110 section 7.6.3."""
    assert values(sent(request("Via: 1.1 far")), "via") == ["1.1 far", "1.1 readthrough"]
    assert values(sent(replace(request(), http10=True)), "via") == ["1.0 readthrough"]


def test_a_request_id_is_taken_over_or_made() -> None:
    assert values(sent(request("X-Request-ID: theirs")), "x-request-id") == ["theirs"]
    assert values(sent(request()), "x-request-id") == ["id-1"]


def test_the_fields_of_a_trace_stand_in_place_of_the_clients_however_spelled() -> None:
    headers = (("Host", "a"), ("TraceParent", "theirs"), ("X", "1"), ("tracestate", "theirs"), ("tracestate", "more"))
    assert in_trace(headers, (("traceparent", "ours"),)) == (("Host", "a"), ("X", "1"), ("traceparent", "ours"))
