"""The steps of an explanation, each by itself."""

from dataclasses import replace
from math import exp

import pytest

from proxy.flow.explanation import Compared, Field, Tried, Wish
from proxy.flow.site import Site, read
from proxy.flow.steps import arithmetic, client, compared, eligibility, keying, routing, windows
from proxy.rules.message import Reason
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.redaction import told
from proxy.rules.routes import Match, Miss, Route
from tests.flow.kit import FRESH, PLAIN, STALEABLE, World, request


def site(w: World, *routes: tuple[str, Match]) -> Site:
    """Several routes, each a copy of the only one."""
    (lane,) = w.exchange.site.lanes.values()
    made = tuple(Route(name, match, "up", lane.policy) for name, match in routes)
    return Site(made, {one.name: replace(lane, route=one) for one in made})


async def test_every_route_is_tried_until_one_takes_it() -> None:
    async with World() as w:
        host, path, method = Match(host="h"), Match(path="/x"), Match(methods=("PUT",))
        here = site(w, ("h", host), ("p", path), ("m", method), ("a", Match(path="/{id}")), ("never", Match()))
        found = routing(here, read(here, request()))
        assert [(tried.route, tried.miss) for tried in found.tried] == [
            ("h", Miss.HOST),
            ("p", Miss.PATH),
            ("m", Miss.METHOD),
            ("a", None),
        ]
        assert found.tried[2] == Tried("m", None, "/*", ("PUT",), Miss.METHOD)
        assert (found.route, found.captures, found.allow) == ("a", {"id": "a"}, ())


async def test_where_none_takes_it_there_are_the_methods_that_would_be() -> None:
    async with World() as w:
        here = site(w, ("m", Match(methods=("PUT",))))
        found = routing(here, read(here, request()))
        assert (found.route, found.allow, len(found.tried)) == (None, ("PUT",), 1)


async def test_no_route_is_tried_for_a_purge() -> None:
    async with World() as w:
        found = routing(w.exchange.site, read(w.exchange.site, request(method="PURGE")))
        assert (found.tried, found.route) == ((), None)


async def test_the_key_is_taken_apart() -> None:
    rule = KeyRule(ignore_query=("utm_*", "t"), headers=("x-tenant", "x-api-key", "x-none"))
    policy = replace(PLAIN, key=rule, tags=("all",))
    async with World(policy) as w:
        asked = read(w.exchange.site, request("X-Tenant: a", "X-Api-Key: s3cret", target="/a?b=1&utm_x=2&&t&c"))
        key = keying(asked, policy)
        assert (key.url, key.target) == ("http://example.com/a?b=1&&c", "/a?b=1&&c")
        assert key.ignored == ("utm_x", "t")
        assert key.headers == (
            Field("x-tenant", "a"),
            Field("x-api-key", told("x-api-key", "s3cret")),
            Field("x-none", None),
        )
        assert key.tags == ("all",)


@pytest.mark.parametrize(
    ("asking", "policy", "reason"),
    [
        ((), PLAIN, None),
        ((), Policy(enabled=False), Reason.CACHE_OFF),
        (("Cookie: a=1",), PLAIN, None),
        (("Cookie: a=1",), replace(PLAIN, default_ttl=1.0), Reason.CREDENTIALS),
        (("Cookie: a=1", "Cache-Control: only-if-cached"), replace(PLAIN, default_ttl=1.0), Reason.CREDENTIALS),
        (("Cookie: a=1",), replace(PLAIN, default_ttl=1.0, share_credentials=True), None),
        (('If-Match: "1"',), PLAIN, Reason.PRECONDITION),
        (("Cache-Control: no-store",), PLAIN, Reason.REQUEST_NO_STORE),
        (("Cache-Control: no-store",), replace(PLAIN, respect_request=False), None),
    ],
)
def test_whether_anything_stored_may_answer(asking: tuple[str, ...], policy: Policy, reason: Reason | None) -> None:
    found = eligibility(request(*asking), None, policy)
    assert (found.may, found.reason) == (reason is None, reason)
    assert found.credentials == any(line.startswith("Cookie") for line in asking)


def test_what_a_variant_was_selected_on_stands_beside_what_is_asked() -> None:
    vary = ("accept", "\0"), ("x-key", "s3cret"), ("x-other", "s3cret")
    asked = ("accept", ""), ("x-key", "s3cret"), ("x-other", "s3cret2")
    one, other = told("x-key", "s3cret"), told("x-key", "s3cret2")
    assert compared(vary, asked) == (
        Compared("accept", None, "", same=False),
        Compared("x-key", one, one, same=True),
        Compared("x-other", one, other, same=False),
    )


async def test_the_arithmetic_has_the_numbers() -> None:
    policy = replace(PLAIN, early_refresh=2.0)
    async with World(policy) as w:
        entry = await w.store(STALEABLE, "Age: 20")
        found = arithmetic(entry, policy, w.clock.at + 15)
        assert (found.age, found.lifetime, found.left, found.fresh) == (35.0, 60.0, 25.0, True)
        assert [(w.seconds, w.left, w.unreachable) for w in found.windows] == [
            (60.0, 85.0, False),
            (60.0, 85.0, False),
            (60.0, 85.0, True),
        ]
        assert windows(entry, w.clock.at + 15) == found.windows
        assert (found.must_validate, found.never_stale, found.stated, found.early_refresh) == (False, False, True, 0.0)
        slow = replace(entry, terms=replace(entry.terms, fetch_seconds=5.0))
        assert arithmetic(slow, policy, w.clock.at + 15).early_refresh == exp(-2.5)
        assert not arithmetic(entry, policy, w.clock.at + 41).fresh


async def test_each_wish_is_weighed_by_itself() -> None:
    async with World() as w:
        entry = await w.store(FRESH)
        now = w.clock.at + 50
        asking = request("Cache-Control: max-age=40, min-fresh=5, max-stale, please, no-cache")
        found = client(asking, entry, PLAIN, now, held=False)
        assert found.without is Reason.HIT
        assert found.wishes == (
            Wish("max-age=40", 40, 50.0, Reason.REQUEST_MAX_AGE, changes=True),
            Wish("min-fresh=5", 5, 10.0, Reason.HIT, changes=False),
            Wish("max-stale", None, -10.0, Reason.HIT, changes=False),
            Wish("please", None, None, Reason.HIT, changes=False),
            Wish("no-cache", None, None, Reason.REQUEST_NO_CACHE, changes=True),
        )


async def test_a_route_that_does_not_listen_changes_nothing_for_any() -> None:
    async with World() as w:
        entry = await w.store(FRESH)
        deaf = replace(PLAIN, respect_request=False)
        found = client(request("Pragma: no-cache"), entry, deaf, w.clock.at, held=False)
        assert (found.respected, [(wish.directive, wish.changes) for wish in found.wishes]) == (
            False,
            [("no-cache", False)],
        )


async def test_a_wish_where_nothing_is_stored_has_nothing_to_compare_with() -> None:
    found = client(request("Cache-Control: max-age=5"), None, PLAIN, 0.0, held=False)
    assert found.wishes == (Wish("max-age=5", 5, None, Reason.ABSENT, changes=False),)
