"""The configuration as the flow uses it."""

from dataclasses import replace

import pytest

from proxy.flow.breaker import Breaker
from proxy.flow.site import Lane, Site, Upstream
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Match, Route
from tests.flow.kit import PLAIN, FakeOrigin

UPSTREAM = Upstream("up", "up.internal", preserve_host=False, origin=FakeOrigin(), breaker=Breaker(5, 5.0))


def _site(*routes: Route) -> Site:
    return Site(routes, {route.name: Lane(route, UPSTREAM, route.policy.fingerprint()) for route in routes})


def _ignoring(*names: str) -> Policy:
    return replace(PLAIN, key=KeyRule(ignore_query=names))


@pytest.mark.parametrize(
    ("target", "keyed"),
    [
        pytest.param("/get?a=1&utm_x=2", "http://h/get?a=1", id="what the route of a GET ignores is not in the URL"),
        pytest.param("/other?utm_x=2", "http://h/other?utm_x=2", id="where no route takes a GET nothing is left out"),
    ],
)
def test_a_url_is_keyed_by_the_route_that_a_get_of_it_takes(target: str, keyed: str) -> None:
    site = _site(
        Route("post", Match(path="/*", methods=("POST",)), "up", _ignoring("a")),
        Route("get", Match(path="/get"), "up", _ignoring("utm_*")),
    )
    assert site.keyed_url("http", "h", target) == keyed


def test_a_lane_gives_its_routes_policy_and_one_that_is_deaf_to_requests() -> None:
    policy = replace(PLAIN, default_ttl=3.0)
    lane = _site(Route("all", Match(), "up", policy)).lanes["all"]
    assert lane.policy is policy
    assert lane.blunt == replace(policy, respect_request=False)
