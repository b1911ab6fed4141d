"""Which routes can never match, and what a route's cache is over the defaults."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.routing import build_route, unreachable
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Match, Route, Routed, route

ANY = Match()
MEMORY = 1 << 30


def routes(*matches: Match) -> tuple[Route, ...]:
    return tuple(Route(str(i), match, "u", Policy()) for i, match in enumerate(matches))


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        (ANY, ANY, True),
        (ANY, Match("a.example", "/x", ("GET",)), True),
        (Match(path="/x"), ANY, False),
        (Match(path="/x*"), Match(path="/x/{id}"), True),
        (Match(path="/x*"), Match(path="/x"), True),
        (Match(path="/x/*"), Match(path="/x"), False),
        (Match(path="/x/{a}"), Match(path="/x/{b}"), True),
        (Match(path="/x/{a}"), Match(path="/x/1"), True),
        (Match(path="/x/1"), Match(path="/x/{a}"), False),
        (Match(path="/x/{a}"), Match(path="/x/{a}*"), False),
        (Match(path="/x/{a}*"), Match(path="/x/{a}/y*"), True),
        (Match(path="/x/{a}/*"), Match(path="/x/{a}"), False),
        (Match(path="/{a}/{b}"), Match(path="/x/*"), False),
        (Match(path="/x/{a}"), Match(path="/x/*"), False),
        (Match(path="/{a}.json"), Match(path="/x.json"), True),
        (Match(path="/{a}.json"), Match(path="/{a}"), False),
        (Match(host="*.example"), Match(host="a.example"), True),
        (Match(host="*.example"), Match(host="a.b.example"), True),
        (Match(host="*.example"), Match(host="*.b.example"), True),
        (Match(host="*.example"), Match(host="*.example"), True),
        (Match(host="*.b.example"), Match(host="*.example"), False),
        (Match(host="*.example"), Match(host="example"), False),
        (Match(host="*.example"), ANY, False),
        (Match(host="*"), ANY, True),
        (Match(host="a.example"), Match(host="a.example:8443"), True),
        (Match(host="a.example:8443"), Match(host="a.example"), False),
        (Match(methods=("GET",)), ANY, False),
        (Match(methods=("GET", "HEAD")), Match(methods=("HEAD",)), True),
        (Match(methods=("GET",)), Match(methods=("GET", "HEAD")), False),
        (Match(methods=("GET",)), Match(methods=("POST",)), False),
    ],
)
def test_a_route_is_hidden_by_an_earlier_one_that_takes_all_of_it(
    earlier: Match, later: Match, *, hidden: bool
) -> None:
    assert list(unreachable(routes(earlier, later))) == ([(1, 0)] if hidden else [])


segments = st.lists(st.sampled_from(["a", "b", "{x}", "a{x}"]), min_size=1, max_size=3, unique=True)
paths = st.builds(lambda parts, end: "/" + "/".join(parts) + end, segments, st.sampled_from(["", "*", "/*"])).filter(
    lambda path: path.count("{x}") < 2
)
hosts = st.sampled_from([None, "*", "a.example", "b.a.example", "*.example", "*.a.example"])
methods = st.sampled_from([(), ("GET",), ("GET", "POST")])
requests = st.tuples(
    st.sampled_from(["a.example", "b.a.example", "c.example:81", "other"]),
    st.lists(st.sampled_from(["a", "b", "aa", "c"]), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from(["GET", "POST", "PUT"]),
)


@given(st.lists(st.builds(Match, hosts, paths, methods), min_size=2, max_size=4), st.lists(requests, max_size=20))
def test_no_request_takes_a_route_that_is_called_unreachable(
    matches: list[Match], asked: list[tuple[str, str, str]]
) -> None:
    table = routes(*matches)
    hidden = {i for i, _ in unreachable(table)}
    for host, path, method in asked:
        match route(table, host, path, method):
            case Routed(route=taken):
                assert int(taken.name) not in hidden
            case _:
                pass


@pytest.mark.parametrize(
    ("defaults", "own", "policy"),
    [
        ({}, {}, Policy()),
        ({}, {"cache": None}, Policy(enabled=False)),
        (None, {}, Policy(enabled=False)),
        (None, {"cache": {}}, Policy()),
        ({"jitter": 0.2}, {}, Policy(jitter=0.2)),
        ({"jitter": 0.2}, {"cache": {"jitter": 0.3}}, Policy(jitter=0.3)),
        ({"jitter": 0.2}, {"cache": {"default_ttl": 5.0}}, Policy(jitter=0.2, default_ttl=5.0)),
        ({"tags": ("a",)}, {"cache": {"tags": ("b",)}}, Policy(tags=("b",))),
        (
            {"negative_ttl": {404: 1.0, 410: 2.0}},
            {"cache": {"negative_ttl": {404: 3.0}}},
            Policy(negative_ttl={404: 3.0, 410: 2.0}),
        ),
        (
            {"key": {"query": {"ignore": ("utm_*",)}}},
            {"cache": {"key": {"headers": ("x-a",)}}},
            Policy(key=KeyRule(("utm_*",), ("x-a",))),
        ),
    ],
)
def test_a_cache_lies_over_the_defaults(defaults: dict[str, Any] | None, own: dict[str, Any], policy: Policy) -> None:
    assert build_route({"name": "r", "upstream": "u", **own}, defaults, MEMORY).policy == policy


def test_the_object_size_that_nobody_named_is_what_fits() -> None:
    values = {"name": "r", "upstream": "u"}
    assert build_route(values, {}, 1 << 20).policy.max_object_size == 1 << 20
    assert build_route(values, {"max_object_size": 5}, 1 << 20).policy.max_object_size == 5
