"""What two requests must share to share an answer."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.keys import cache_target, key_of, same_origin_target, short, url_of
from proxy.rules.policy import KeyRule
from tests.rules.build import brief, request

PLAIN: Final = KeyRule()


@pytest.mark.parametrize(
    ("target", "ignored", "kept"),
    [
        pytest.param("/a?b=1&a=2", (), "/a?b=1&a=2", id="everything counts by default, in its order (RFC 9111 2)"),
        pytest.param("/a?", (), "/a?", id="an empty query is not no query (RFC 3986 6.2.3)"),
        pytest.param("/a", ("x",), "/a", id="no query has nothing to ignore"),
        pytest.param("/a?x=1&b=2&x=3", ("x",), "/a?b=2", id="an ignored parameter goes wherever it stands"),
        pytest.param("/a?x=1", ("x",), "/a", id="with the last goes the question mark"),
        pytest.param("/a?x", ("x",), "/a", id="a parameter without a value goes too"),
        pytest.param("/a?xy=1&X=2", ("x",), "/a?xy=1&X=2", id="names are whole and case-sensitive"),
        pytest.param("/a?b=x", ("x",), "/a?b=x", id="a value is not a name"),
        pytest.param("/a?utm_a=1&utm_=2&utm=3&b=4", ("utm_*",), "/a?utm=3&b=4", id="a star is any rest, also none"),
        pytest.param("/a?b=1&c=2", ("*",), "/a", id="a star alone is any name"),
        pytest.param("/a?b=1&c=2&d=3", ("b", "d*"), "/a?c=2", id="several are ignored"),
        pytest.param("/x?b=1", ("/x?b",), "/x?b=1", id="the path is never ignored"),
        pytest.param("/a?b=1&b=2", ("x",), "/a?b=1&b=2", id="repeated parameters stay, in order"),
        pytest.param(
            "/a?b=1&x=2;b=9", ("x",), "/a?b=1&x=2;b=9", id="what may be read as two parameters is not ignored"
        ),
        pytest.param("/a?b=1;x=2", ("x",), "/a?b=1;x=2", id="nor is it parted"),
        pytest.param("/a?b=1&x;", ("*",), "/a?x;", id="whatever the second is"),
        pytest.param("/a?b=c?x=1", ("x",), "/a?b=c?x=1", id="a question mark in a value is part of it"),
    ],
)
def test_targets(target: str, ignored: tuple[str, ...], kept: str) -> None:
    assert cache_target(target, KeyRule(ignore_query=ignored)) == kept


names = st.sampled_from(["a", "b", "utm_source", "utm_x", "u"])
queries = st.lists(st.tuples(names, st.text("xy=1%", max_size=3)), min_size=1, max_size=6)


@brief
@given(queries)
def test_ignored_parameters_make_no_difference_and_others_do(pairs: list[tuple[str, str]]) -> None:
    rule = KeyRule(ignore_query=("utm_*",))
    written = "&".join(f"{name}={value}" for name, value in pairs)
    rest = "&".join(f"{name}={value}" for name, value in pairs if not name.startswith("utm_"))
    assert cache_target(f"/p?{written}", rule) == (f"/p?{rest}" if rest else "/p")
    assert cache_target(cache_target(f"/p?{written}", rule), rule) == cache_target(f"/p?{written}", rule)


def test_a_url_is_scheme_host_and_the_target_that_counts() -> None:
    """RFC 9111 section 2: the primary key is at least the target URI."""
    assert url_of("https", "a:81", "/b?x=1&c", KeyRule(ignore_query=("x",))) == "https://a:81/b?c"


def test_a_header_that_is_keyed_by_its_other_spelling_is_keyed_by_both() -> None:
    read = request("X_Tenant: a", "X-Tenant: b")
    assert key_of(read, "u", KeyRule(headers=("x_tenant",))) == "u\nx_tenant=a\nx-tenant=b"


def key(*fields: str, headers: tuple[str, ...] = ("x-tenant", "x-lang")) -> str:
    return key_of(request(*fields), "http://example.com/a", KeyRule(headers=headers))


def test_a_key_is_its_url_where_no_header_is_keyed() -> None:
    assert key("X-Tenant: a", headers=()) == "http://example.com/a"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(
            ("X-Tenant: a",), ("X-Tenant: a", "X-Else: b"), True, id="a header that is not keyed says nothing"
        ),
        pytest.param(("X-Tenant: a",), ("x-tenant: a",), True, id="its spelling says nothing (RFC 9110 5.1)"),
        pytest.param(("X-Tenant: a",), ("X-Tenant: b",), False, id="its value does"),
        pytest.param(("X-Tenant: a",), (), False, id="its absence does"),
        pytest.param(("X-Tenant:",), (), True, id="an empty one is as good as none"),
        pytest.param(("X-Tenant: a",), ("X-Lang: a",), False, id="its name does"),
        pytest.param(("X-Tenant: a", "X-Lang: b"), ("X-Lang: b", "X-Tenant: a"), True, id="order does not"),
        pytest.param(("X-Tenant: a", "X_Tenant: b"), ("X-Tenant: a",), False, id="what CGI reads as it does"),
        pytest.param(("x_tenant: b",), (), False, id="also alone"),
        pytest.param(("X_Tenant: b",), ("X-Tenant: b",), False, id="and not as the field itself"),
        pytest.param(("X_Tenant: a", "X_Lang: b"), ("X_Lang: b", "X_Tenant: a"), True, id="in whichever order"),
        pytest.param(("X_Else: a",), (), True, id="of no keyed one it does not"),
        pytest.param(
            ("X-Tenant: a", "X-Tenant: b"), ("X-Tenant: a, b",), True, id="nor how lines are parted (9110 5.3)"
        ),
    ],
)
def test_keyed_headers(one: tuple[str, ...], other: tuple[str, ...], same: bool) -> None:
    assert (key(*one) == key(*other)) is same
    assert key(*one).startswith("http://example.com/a\n")


values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12).map(str.strip)


@brief
@given(st.tuples(values, values), st.tuples(values, values))
def test_no_value_can_pass_for_another_header(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = [key(f"X-Tenant:{tenant}", f"X-Lang:{lang}") for tenant, lang in (one, other)]
    assert (keys[0] == keys[1]) is (one == other)


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        pytest.param("/b?c", "/b?c", id="an absolute path"),
        pytest.param("c", "/a/c", id="a relative one (RFC 3986 5.2)"),
        pytest.param("../c", "/c", id="one level up"),
        pytest.param("?c", "/a/b?c", id="a query alone"),
        pytest.param("", "/a/b?q", id="nothing: the target itself"),
        pytest.param("/b#c", "/b", id="a fragment is none of a server's (RFC 9110 4.2.5)"),
        pytest.param("http://example.com/b", "/b", id="the same origin (RFC 9111 4.4)"),
        pytest.param("HTTP://EXAMPLE.com/b", "/b", id="in any case of letters (RFC 9110 4.2.3)"),
        pytest.param("//example.com/b", "/b", id="without its scheme"),
        pytest.param("http://example.com", "/", id="its root, spelled without a slash (RFC 9110 4.2.3)"),
        pytest.param("http://example.com?b", "/?b", id="its root with a query"),
        pytest.param("http://other.example/b", None, id="another host (RFC 9111 4.4)"),
        pytest.param("https://example.com/b", None, id="another scheme (RFC 9111 4.4)"),
        pytest.param("http://example.com:81/b", None, id="another port (RFC 9111 4.4)"),
        pytest.param("http://example.com.evil.org/b", None, id="a host that only begins alike"),
        pytest.param("http://example.com@evil.org/b", None, id="a user that is called so"),
        pytest.param("//evil.org/b", None, id="another host, without a scheme"),
        pytest.param("mailto:a@example.com", None, id="no page at all"),
        pytest.param("http://[::1/b", None, id="half an address"),
    ],
)
def test_what_a_location_names_here(reference: str, target: str | None) -> None:
    assert same_origin_target(reference, request(target="/a/b?q")) == target


@brief
@given(st.text("/.?#:@[]%ahtp\\", max_size=20))
def test_any_reference_names_a_target_or_nothing(reference: str) -> None:
    target = same_origin_target(reference, request())
    assert target is None or (target.startswith("/") and "#" not in target)


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        pytest.param(
            "/caf%c3%a9/%7Eu", "/caf%C3%A9/~u", id="in the spelling that requests are keyed by (RFC 3986 6.2.2)"
        ),
        pytest.param("HTTP://EXAMPLE.com:80/a", "/a", id="the default port and the case of the host say nothing"),
        pytest.param("http://example.com", "/", id="no path is the root"),
        pytest.param("//other.example/a", None, id="another host's is not ours to invalidate (RFC 9111 4.4)"),
        pytest.param("https://example.com/a", None, id="nor another scheme's"),
        pytest.param("/a/../b%2fc", None, id="what no request can ask for names nothing"),
        pytest.param("http://[::1", None, id="nor does nonsense"),
    ],
)
def test_what_a_location_names(reference: str, target: str | None) -> None:
    assert same_origin_target(reference, request()) == target


def test_what_is_remembered_by_name_does_not_grow_with_names() -> None:
    assert short("/a") == "/a"
    assert len(short("/a" * 10_000)) < 100
    assert short("/a" * 10_000) != short("/a" * 10_001)
