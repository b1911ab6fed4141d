"""Which route a request takes."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.policy import Policy
from proxy.rules.routes import Match, Miss, Route, Routed, Unrouted, host_matches, miss, path_pattern, route
from tests.rules.build import brief

segments = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/?"), min_size=1, max_size=8
)


def test_a_route_that_says_nothing_takes_everything_and_sends_no_x_cache() -> None:
    found = route([to("all", Match())], "any", "/any/path", "ANY")
    assert found == Routed(Route("all", Match(None, "/*", ()), "upstream", Policy(), x_cache=False), {})


def to(name: str, match: Match) -> Route:
    return Route(name, match, "upstream", Policy())


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        pytest.param("/a", "/a", {}, id="a path without wildcards matches itself"),
        pytest.param("/a", "/a/", None, id="a trailing slash is another path"),
        pytest.param("/a", "/ab", None, id="a path is matched to its end"),
        pytest.param("/a", "/x/a", None, id="a path is matched from its beginning"),
        pytest.param("/a.b", "/axb", None, id="a dot is a dot"),
        pytest.param("/A", "/a", None, id="paths are case-sensitive (RFC 3986 6.2.2.1)"),
        pytest.param("/p/{id}", "/p/7", {"id": "7"}, id="braces capture one segment"),
        pytest.param("/p/{id}", "/p/", None, id="a captured segment is not empty"),
        pytest.param("/p/{id}", "/p/7/8", None, id="a captured segment has no slash"),
        pytest.param("/{a}/x-{b}", "/1/x-2", {"a": "1", "b": "2"}, id="several are captured, also within a segment"),
        pytest.param("/*", "/", {}, id="a star matches nothing"),
        pytest.param("/a/*", "/a/b/c", {}, id="a star matches the rest across slashes"),
        pytest.param("/a/*", "/a", None, id="what stands before the star must be there"),
        pytest.param("/a*", "/ab/c", {}, id="a star may end a segment that has begun"),
        pytest.param("/{id}/*", "/7/8/9", {"id": "7"}, id="a capture and a star go together"),
        pytest.param("/a*b", "/axb", None, id="a star in the middle is a star"),
        pytest.param("/a*b", "/a*b", {}, id="a star in the middle matches itself"),
    ],
)
def test_paths(pattern: str, path: str, captures: Mapping[str, str] | None) -> None:
    found = path_pattern(pattern).match(path)
    assert (found and found.groupdict()) == captures


@brief
@given(st.lists(segments, min_size=1, max_size=4))
def test_a_pattern_of_captures_takes_any_path_apart(parts: list[str]) -> None:
    pattern = "".join(f"/{{p{at}}}" for at in range(len(parts)))
    found = path_pattern(pattern).match("/" + "/".join(parts))
    assert found is not None
    assert list(found.groups()) == parts


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        pytest.param(None, "example.com", True, id="no pattern is any host"),
        pytest.param("*", "example.com:8080", True, id="a star is any host"),
        pytest.param("example.com", "example.com", True, id="a host matches itself"),
        pytest.param("example.com", "example.com:8080", True, id="a pattern without port matches on any port"),
        pytest.param("example.com:8080", "example.com:8080", True, id="a pattern may name the port"),
        pytest.param("example.com:8080", "example.com", False, id="a named port must be there"),
        pytest.param("example.com", "a.example.com", False, id="a host is not its subdomain"),
        pytest.param("*.example.com", "a.example.com", True, id="a wildcard is one label"),
        pytest.param("*.example.com", "a.b.example.com:81", True, id="a wildcard is several labels, on any port"),
        pytest.param("*.example.com", "example.com", False, id="a wildcard is not the bare domain"),
        pytest.param("*.example.com", ".example.com", False, id="a wildcard is not an empty label"),
        pytest.param("*.example.com", "aexample.com", False, id="a wildcard ends at a dot"),
        pytest.param("*.example.com", "a.example.com.evil.org", False, id="a wildcard is matched to the end"),
        pytest.param("[::1]", "[::1]", True, id="an IPv6 literal matches itself"),
        pytest.param("[::1]", "[::1]:8080", True, id="an IPv6 literal matches on any port"),
        pytest.param("[::1]", "[::]", False, id="the last group of an IPv6 literal is no port"),
    ],
)
def test_hosts(pattern: str | None, host: str, matches: bool) -> None:
    assert host_matches(pattern, host) is matches


ROUTES = (
    to("product", Match(host="shop.example", path="/p/{id}", methods=("GET", "HEAD"))),
    to("orders", Match(path="/orders", methods=("POST",))),
    to("more-orders", Match(path="/orders", methods=("POST", "PUT"))),
    to("shop", Match(host="shop.example", path="/p/*", methods=("GET", "DELETE"))),
    to("rest", Match(host="*.example", path="/rest/*")),
)


@pytest.mark.parametrize(
    ("host", "path", "method", "name", "captures"),
    [
        pytest.param("shop.example", "/p/7", "GET", "product", {"id": "7"}, id="the first match wins"),
        pytest.param("shop.example", "/p/7", "DELETE", "shop", {}, id="a route of another method is passed over"),
        pytest.param("shop.example", "/p/7/8", "GET", "shop", {}, id="a route of another path is passed over"),
        pytest.param("a.example", "/rest/", "BREW", "rest", {}, id="a route without methods takes every method"),
    ],
)
def test_the_route_of_a_request(host: str, path: str, method: str, name: str, captures: dict[str, str]) -> None:
    found = route(ROUTES, host, path, method)
    assert isinstance(found, Routed)
    assert found.route.name == name
    assert found.captures == captures


@pytest.mark.parametrize(
    ("host", "path", "method", "allow"),
    [
        pytest.param("shop.example", "/nowhere", "GET", (), id="no route of that path"),
        pytest.param("other.test", "/p/7", "GET", (), id="no route of that host"),
        pytest.param("any.test", "/orders", "GET", ("POST", "PUT"), id="each method is offered once (RFC 9110 10.2.1)"),
        pytest.param("shop.example", "/p/7", "PUT", ("GET", "HEAD", "DELETE"), id="all routes of the path are heard"),
    ],
)
def test_no_route(host: str, path: str, method: str, allow: tuple[str, ...]) -> None:
    assert route(ROUTES, host, path, method) == Unrouted(allow)


hosts = st.sampled_from([None, "*", "a.example", "*.example", "a.example:81"])
paths = st.sampled_from(["/*", "/a", "/{x}", "/a/*", "/{x}/b"])
methods = st.sampled_from([(), ("GET",), ("GET", "HEAD"), ("POST",)])
matches = st.builds(Match, hosts, paths, methods)


@brief
@given(
    st.lists(matches, max_size=4),
    st.sampled_from(["a.example", "a.example:81", "example", "b"]),
    st.sampled_from(["/a", "/a/b", "/"]),
    st.sampled_from(["GET", "POST"]),
)
def test_why_a_route_is_passed_over_is_told_as_it_is_decided(
    given: list[Match], host: str, path: str, method: str
) -> None:
    """The two are written apart, for the sake of the requests."""
    made = [to(str(i), match) for i, match in enumerate(given)]
    why = [miss(one.match, host, path, method) for one in made]
    found = route(made, host, path, method)
    if isinstance(found, Routed):
        assert why.index(None) == made.index(found.route)
    else:
        assert None not in why
        assert bool(found.allow) == (Miss.METHOD in why)


@pytest.mark.parametrize(
    ("match", "why"),
    [
        (Match("other", "/x", ("POST",)), Miss.HOST),
        (Match("h", "/x", ("POST",)), Miss.PATH),
        (Match("h", "/a", ("POST",)), Miss.METHOD),
        (Match("h", "/a", ("GET",)), None),
    ],
)
def test_the_first_part_that_does_not_fit_is_told(match: Match, why: Miss | None) -> None:
    assert miss(match, "h", "/a", "GET") is why
