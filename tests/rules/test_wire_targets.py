"""One canonical target: what is the same is spelled the same, what could be read in two ways is refused."""

from typing import Final
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.message import Request
from tests.rules.build import HOST, attempt, brief, parse, raw_head, refusal


@pytest.mark.parametrize(
    ("target", "canonical"),
    [
        pytest.param("/", "/", id="the root"),
        pytest.param("/a?", "/a?", id="an empty query is kept"),
        pytest.param("/a?b=/../%2f\\?c", "/a?b=/../%2f\\?c", id="a query is left as it is"),
        pytest.param("/%41%7e%2D%5f", "/A~-_", id="what needs no encoding has none (RFC 3986 6.2.2.2)"),
        pytest.param("/%c3%a9%3a", "/%C3%A9%3A", id="what needs it has it in capitals (RFC 3986 6.2.2.1)"),
        pytest.param("/%252e%2525", "/%252e%2525", id="an encoded per cent sign stays (RFC 3986 2.4)"),
        pytest.param("/a;b='c'(d)*!$&,+=:@", "/a;b='c'(d)*!$&,+=:@", id="delimiters stay (RFC 3986 3.3)"),
        pytest.param("/%3b", "/%3B", id="and are not what they are encoded (RFC 3986 2.2)"),
        pytest.param("//a//b/", "//a//b/", id="empty segments stay"),
        pytest.param("/a/.b/..c/d./...", "/a/.b/..c/d./...", id="dots in names are no dot segments"),
        pytest.param("http://Example.com/a", "/a", id="absolute form (RFC 9112 3.2.2)"),
        pytest.param("HTTP://example.com:80/a?b", "/a?b", id="with the scheme's own port"),
        pytest.param("http://example.com", "/", id="without a path (RFC 9110 4.2.3)"),
        pytest.param("http://example.com?a", "/?a", id="with nothing but a query"),
    ],
)
def test_targets(target: str, canonical: str) -> None:
    assert parse(raw_head(HOST, line=f"GET {target} HTTP/1.1")).target == canonical


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("", id="none at all"),
        pytest.param("*", id="a star"),
        pytest.param("a", id="a relative path"),
        pytest.param("?a", id="a query alone"),
        pytest.param("/a#b", id="a fragment (RFC 9110 4.2.5)"),
        pytest.param("/a?b#c", id="a fragment behind a query"),
        pytest.param("/a\\b", id="a backslash"),
        pytest.param("/a%5Cb", id="an encoded backslash"),
        pytest.param("/a%5cb", id="an encoded backslash in small letters"),
        pytest.param("/a%2Fb", id="an encoded slash"),
        pytest.param("/a%2fb", id="an encoded slash in small letters"),
        pytest.param("/a%00", id="an encoded NUL"),
        pytest.param("/a%0ab", id="an encoded LF"),
        pytest.param("/a%0Db", id="an encoded CR"),
        pytest.param("/a%2", id="half an escape"),
        pytest.param("/a%", id="a per cent sign"),
        pytest.param("/a%zz", id="an escape that is no number"),
        pytest.param("/\xe9", id="a letter that is not ASCII"),
        pytest.param("/a\x7f", id="a DEL"),
        pytest.param("/a?\x01", id="a control character in the query"),
        pytest.param("/a?\xe9", id="a letter that is not ASCII in the query"),
        pytest.param("/..", id="a dot segment (RFC 3986 5.2.4)"),
        pytest.param("/a/../b", id="a dot segment in the middle"),
        pytest.param("/./a", id="a single dot"),
        pytest.param("/a/.", id="a single dot at the end"),
        pytest.param("/a/%2e%2E/b", id="an encoded dot segment"),
        pytest.param("/a/.%2e", id="a dot segment half encoded"),
        pytest.param("/a/..;x=y/b", id="a dot segment with a parameter"),
        pytest.param("/a/..?b", id="a dot segment before a query"),
        pytest.param("http://other.example/a", id="an authority that is not Host (deviates from RFC 9112 3.2.2)"),
        pytest.param("https://example.com/a", id="a scheme that is not the connection's"),
        pytest.param("http://a@example.com/a", id="user information (RFC 9110 4.2.4)"),
        pytest.param("http://example.com:81/a", id="a port that is not Host's"),
        pytest.param("http:///a", id="an empty authority"),
        pytest.param("ftp://example.com/a", id="another scheme"),
        pytest.param("http://example.com/../a", id="a dot segment in absolute form"),
    ],
)
def test_targets_that_could_be_read_in_two_ways_are_refused(target: str) -> None:
    assert refusal(raw_head(HOST, line=f"GET {target} HTTP/1.1")).status == 400


_UNRESERVED: Final = "ABYZabyz019-._~"
_RESERVED: Final = "!$&'()*+,;=:@"
_OTHERS: Final = ' "<>^`{|}\x01\x7f\xe9%?#'


@st.composite
def paths(draw: st.DrawFn) -> tuple[str, str]:
    """One path in two spellings: what needs no escape with and without, escapes in either case of letters."""
    one, other = ["/x"], ["/x"]
    for char in draw(st.text(_UNRESERVED + _RESERVED + _OTHERS + "/", max_size=12)):
        escapes = [f"%{ord(char):02X}", f"%{ord(char):02x}"]
        if char in _UNRESERVED:
            spellings = [char, *escapes]
        elif char in _OTHERS:
            spellings = escapes
        else:
            spellings = [char]
        one.append(draw(st.sampled_from(spellings)))
        other.append(draw(st.sampled_from(spellings)))
    return "".join(one), "".join(other)


def canonical(target: str) -> str | None:
    got = attempt(raw_head(HOST, line=f"GET {target} HTTP/1.1"))
    return got.target if isinstance(got, Request) else None


@brief
@given(paths())
def test_a_path_has_one_canonical_spelling(pair: tuple[str, str]) -> None:
    one, other = pair
    assert canonical(one) == canonical(other)


@brief
@given(paths())
def test_a_canonical_path_means_the_same_and_stays_as_it_is(pair: tuple[str, str]) -> None:
    once = canonical(pair[0])
    if once is not None:
        assert canonical(once) == once
        assert unquote_to_bytes(once) == unquote_to_bytes(pair[0])
        assert not {b".", b".."} & set(unquote_to_bytes(once).split(b"/"))


@pytest.mark.parametrize("char", _RESERVED)
def test_an_encoded_delimiter_is_another_path(char: str) -> None:
    """RFC 3986 section 2.2."""
    assert canonical(f"/a{char}") != canonical(f"/a%{ord(char):02X}")
