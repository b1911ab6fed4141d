"""The configuration as the flow uses it."""

from dataclasses import replace
from typing import Final

import pytest

from proxy.flow.breaker import Breaker
from proxy.flow.site import Asked, Lane, Site, Upstream, read
from proxy.rules.message import Reason, Request
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.purging import PurgeRule
from proxy.rules.report import Account
from proxy.rules.routes import Match, Route
from proxy.rules.wire import field_lines
from tests.flow.kit import PLAIN, FakeOrigin, request

UPSTREAM = Upstream(
    "up", "up.internal", preserve_host=False, timeout=30.0, origin=FakeOrigin(), breaker=Breaker(5, 5.0)
)


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


# -- what may be known of a request beforehand


def _asked(request_: Request, policy: Policy = PLAIN, match: Match | None = None) -> Asked:
    return read(_site(Route("all", match or Match(), "up", policy)), request_)


def test_a_request_is_routed_and_keyed() -> None:
    rule = KeyRule(ignore_query=("utm_*",), headers=("x-tenant",))
    policy = replace(PLAIN, key=rule, tags=("site", "user-{user}"))
    got = _asked(request("X-Tenant: one", target="/u/7?utm_x=1&a=2"), policy, Match(path="/u/{user}"))
    assert got.lane is not None
    assert (got.lane.route.name, got.allow) == ("all", ())
    assert got.url == "http://example.com/u/7?a=2"
    assert got.key.startswith(got.url)
    assert got.key == _asked(request("X-Tenant: one", target="/u/7?a=2"), policy, Match(path="/u/{user}")).key
    assert got.key != _asked(request("X-Tenant: two", target="/u/7?a=2"), policy, Match(path="/u/{user}")).key
    assert got.tags == ("site", "user-7")


@pytest.mark.parametrize(
    ("asked", "match", "allow"),
    [
        pytest.param(request(), Match(path="/other"), (), id="another path"),
        pytest.param(request(), Match(methods=("POST", "PUT")), ("POST", "PUT"), id="another method"),
        pytest.param(request(method="PURGE"), Match(), ("GET", "HEAD"), id="a PURGE, which is never the upstream's"),
    ],
)
def test_what_no_route_takes_has_no_lane_and_is_not_plain(asked: Request, match: Match, allow: tuple[str, ...]) -> None:
    got = _asked(asked, match=match)
    assert (got.lane, got.allow, got.plain) == (None, allow, False)


def test_where_some_may_purge_a_purge_is_theirs_to_ask_for_and_still_no_routes() -> None:
    rule = PurgeRule(())
    route = Route("all", Match(), "up", PLAIN)
    site = replace(_site(route), purging=rule)
    got = read(site, request(method="PURGE"))
    assert (got.lane, got.purging, got.plain) == (None, rule, False)
    assert read(site, request()).purging is None


SHARING: Final = replace(PLAIN, share_credentials=True)


@pytest.mark.parametrize(
    ("asked", "policy", "known"),
    [
        pytest.param(request(), PLAIN, (True, False, True, None), id="a GET"),
        pytest.param(request(method="HEAD"), PLAIN, (True, False, False, None), id="a HEAD"),
        pytest.param(request("Cookie: a=b"), PLAIN, (True, True, True, None), id="who asks"),
        pytest.param(request("Cookie: a=b"), SHARING, (True, False, True, None), id="who asks, where that is shared"),
        pytest.param(request("Range: bytes=0-1"), PLAIN, (True, False, False, None), id="a part"),
        pytest.param(request('If-None-Match: "a"'), PLAIN, (True, False, False, '"a"'), id="unless it is the same"),
        pytest.param(request("Cache-Control: no-cache"), PLAIN, (False, False, True, None), id="anew"),
        pytest.param(request(method="POST"), PLAIN, (False, False, False, None), id="a POST"),
    ],
)
def test_what_is_known_of_a_request_whatever_is_stored(
    asked: Request, policy: Policy, known: tuple[bool, bool, bool, str | None]
) -> None:
    got = _asked(asked, policy)
    assert (got.plain, got.personal, got.whole, got.condition) == known


@pytest.mark.parametrize("x_cache", [False, True])
def test_a_lane_has_the_lines_of_a_hit_ready(x_cache: bool) -> None:
    lane = Lane(Route("all", Match(), "up", PLAIN, x_cache), UPSTREAM, "")
    told = Account(Reason.HIT, ttl=29).headers(x_cache=x_cache)
    assert lane.hit_lines % (31.9, 29.9) == b"Age: 31\r\n" + field_lines(told)
    told = Account(Reason.SHARED_STORE, ttl=7).headers(x_cache=x_cache)
    assert lane.shared_lines % (31.9, 7) == b"Age: 31\r\n" + field_lines(told)
