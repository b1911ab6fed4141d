"""Which fields go no further than one connection."""

import pytest

from proxy.rules import hop
from proxy.rules.hop import REQUEST_KEEP, RESPONSE_KEEP, strip_hop_by_hop
from proxy.rules.message import Headers


def fields(text: str) -> Headers:
    return tuple([(name, value) for name, _, value in (line.partition(": ") for line in text.split("\n") if line)])


@pytest.mark.parametrize(
    ("sent", "forwarded"),
    [
        pytest.param("A: 1\nB: 2", "A: 1\nB: 2", id="what is end-to-end stays"),
        pytest.param("b: 2\nA: 1\nb: 3", "b: 2\nA: 1\nb: 3", id="order, spelling and repetition stay"),
        pytest.param("Connection: close\nA: 1", "A: 1", id="9110-7.6.1 Connection goes"),
        pytest.param("CONNECTION: x-a, X-B\nX-A: 1\nX-C: 3\nx-b: 2", "X-C: 3", id="9110-7.6.1 what it names goes"),
        pytest.param(
            "Connection: X-A\nConnection: X-B\nX-A: 1\nX-B: 2\nC: 3", "C: 3", id="two Connection fields count"
        ),
        pytest.param("X-A: 1\nConnection: ,\tX-A ,,", "", id="9110-5.6.1 empty members and whitespace are passed over"),
        pytest.param("Keep-Alive: timeout=5\nProxy-Connection: keep-alive\nA: 1", "A: 1", id="9110-7.6.1 Keep-Alive"),
        pytest.param(
            "Upgrade: h2c\nTE: trailers\nTrailer: X\nTransfer-Encoding: chunked", "", id="9110-7.6.1 the rest"
        ),
        pytest.param(
            "Proxy-Authenticate: a\nProxy-Authorization: b\nProxy-Authentication-Info: c\nA: 1", "A: 1", id="9110-11.7"
        ),
        pytest.param("Connection: upgrade\nUpgrade: websocket\nA: 1", "A: 1", id="an upgrade is for one connection"),
        pytest.param("X-Keep-Alive: 1\nTEA: 1", "X-Keep-Alive: 1\nTEA: 1", id="names are compared whole"),
    ],
)
def test_hop_by_hop_fields_are_removed(sent: str, forwarded: str) -> None:
    assert strip_hop_by_hop(fields(sent), REQUEST_KEEP) == fields(forwarded)
    assert strip_hop_by_hop(fields(sent), RESPONSE_KEEP) == fields(forwarded)


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Authorization",
        "Cookie",
        "Cache-Control",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Forwarded",
        "Via",
        "Content-Length",
        "Content-Type",
        "Range",
        "If-None-Match",
        "X-Request-Id",
    ],
)
def test_a_requests_connection_field_cannot_remove(name: str) -> None:
    sent = ((name, "v"), ("Connection", f"close, {name.upper()}"))
    assert strip_hop_by_hop(sent, REQUEST_KEEP) == ((name, "v"),)


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length",
        "Content-Type",
        "Content-Encoding",
        "Cache-Control",
        "CDN-Cache-Control",
        "Set-Cookie",
        "Vary",
        "Age",
        "Date",
        "ETag",
        "Expires",
        "Last-Modified",
        "Authorization",
        "Location",
        "Surrogate-Key",
    ],
)
def test_a_responses_connection_field_cannot_remove(name: str) -> None:
    sent = ((name, "v"), ("Connection", f"{name.lower()}, X-Gone"), ("X-Gone", "1"))
    assert strip_hop_by_hop(sent, RESPONSE_KEEP) == ((name, "v"),)


def test_keeping_a_name_does_not_keep_a_hop_by_hop_field() -> None:
    sent = (("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"))
    assert strip_hop_by_hop(sent, frozenset({"connection", "keep-alive"})) == ()


def test_long_connection_fields_are_kept_by_nobody() -> None:
    """A client chooses them: what is remembered of them must not grow with them."""
    before = hop._usual.cache_info().currsize  # noqa: SLF001 - nothing else tells
    for number in range(100):
        named = ",".join(f"x-{number}-{name}" for name in range(100))
        assert hop.dropped_names(named, REQUEST_KEEP) >= {f"x-{number}-99", "connection"}
    assert hop._usual.cache_info().currsize == before  # noqa: SLF001
