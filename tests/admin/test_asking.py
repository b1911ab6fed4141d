"""A request in words, and what the listener's grammar makes of it."""

import pytest

from proxy.admin.asking import Described, header_mistakes, is_target, split_url
from proxy.rules.limits import Limits
from proxy.rules.wire import Refused


def described(*headers: tuple[str, str], method: str = "GET", target: str = "/a") -> Described:
    return Described(method, "https", "Shop.Example:443", target, headers)


def test_it_is_read_as_the_listener_would_read_it() -> None:
    read = described(("X-A", " 1"), ("x-a", "2"), target="/%61?q").request(Limits())
    assert (read.method, read.scheme, read.host, read.target) == ("GET", "https", "shop.example", "/a?q")
    assert read.fields == {"host": "Shop.Example:443", "x-a": "1, 2"}
    assert read.length == 0


def test_a_host_of_its_own_stands_in_for_the_urls() -> None:
    assert described(("host", "other.example")).request(Limits()).host == "other.example"


def test_forwarding_fields_are_believed_of_nobody() -> None:
    read = described(("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "x")).request(Limits())
    assert (read.scheme, read.host) == ("https", "shop.example")


def test_a_length_makes_it_a_request_with_a_body() -> None:
    assert described(("Content-Length", "3")).request(Limits()).length == 3


@pytest.mark.parametrize(
    ("asked", "limits", "status"),
    [
        (described(target="/a/../b"), Limits(), 400),
        (described(method="get"), Limits(), 400),
        (described(method="GET /x"), Limits(), 400),
        (described(method="TRACE"), Limits(), 405),
        (described(("Host", "a"), ("Host", "b")), Limits(), 400),
        (described(("Content-Length", "3"), ("Transfer-Encoding", "chunked")), Limits(), 400),
        (described(("Expect", "wonders")), Limits(), 417),
        (described(("X", "y")), Limits(max_headers=1), 431),
        (described(("X", "y" * 100)), Limits(max_header_bytes=100), 431),
        (described(target="/" + "y" * 100), Limits(max_header_bytes=100), 414),
    ],
)
def test_it_is_refused_as_the_listener_would_refuse_it(asked: Described, limits: Limits, status: int) -> None:
    with pytest.raises(Refused) as refused:
        asked.request(limits)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://h/a?b", ("http", "h", "/a?b")),
        ("HTTPS://h:81", ("https", "h:81", "/")),
        ("http://h?b", ("http", "h", "/?b")),
        ("http://[::1]:81/a", ("http", "[::1]:81", "/a")),
        ("h/a", None),
        ("/a", None),
        ("ftp://h/a", None),
        ("http:///a", None),
        ("http://user:pw@h/a", None),
        ("http://h/a b", None),
        ("http://h/a\r\nX: y", None),
        ("http://h/a#b", None),
        ("http://h/\ud800", None),
    ],
)
def test_a_url_is_scheme_authority_and_target(url: str, parts: tuple[str, str, str] | None) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(("text", "whether"), [("/a?b=/c", True), ("a", False), ("/a b", False), ("/a#b", False)])
def test_a_target_is_a_path_with_its_query(text: str, whether: bool) -> None:
    assert is_target(text) is whether


def test_what_cannot_be_sent_is_named() -> None:
    given = [("Fine", "a\tb ä"), ("X Y", "a"), ("X", "a\r\nHost: b"), ("", "\0")]
    assert [mistake.at for mistake in header_mistakes(given)] == [
        "headers[1]",
        "headers[2]",
        "headers[3]",
        "headers[3]",
    ]
