"""`GET /entries` over HTTP."""

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from proxy.flow.site import Site
from proxy.rules.policy import KeyRule
from proxy.rules.routes import Match
from tests.admin.kit import Admin
from tests.admin.test_explain import explaining
from tests.flow.kit import FRESH, PLAIN, STALEABLE, World

VARY = "Vary: Accept-Language"


async def entries(here: Admin, *query: tuple[str, str]) -> tuple[int, Any]:
    return (await here.ask(f"/entries?{urlencode(query)}"))[:2]


async def test_the_variants_of_a_url_are_listed() -> None:
    async with World() as w, explaining(w) as here:
        await w.store(STALEABLE, VARY, "Cache-Tag: t", asking=("Accept-Language: de",))
        await w.store(FRESH, VARY, asking=("Accept-Language: en",))
        status, said = await entries(here, ("url", "http://EXAMPLE.com:80/a"))
        assert (status, said["searched"], said["not_searched"]) == (200, ["http://example.com/a"], [])
        assert [entry["vary"] for entry in said["entries"]] == [
            [{"name": "accept-language", "value": "en"}],
            [{"name": "accept-language", "value": "de"}],
        ]
        assert said["entries"][1]["tags"] == ["t"]
        assert said["entries"][1]["windows"][0] == {
            "name": "stale-while-revalidate",
            "seconds": 60.0,
            "left": 120.0,
            "unreachable": False,
        }


async def test_what_is_stored_elsewhere_is_not() -> None:
    async with World() as w, explaining(w) as here:
        await w.store(FRESH)
        for url in ("https://example.com/a", "http://example.com/a?x", "http://other.example/a"):
            assert (await entries(here, ("url", url)))[1]["entries"] == []


async def test_query_parameters_that_a_route_ignores_are_ignored_here() -> None:
    async with World(replace(PLAIN, key=KeyRule(ignore_query=("utm_*",)))) as w, explaining(w) as here:
        await w.store(FRESH)
        assert len((await entries(here, ("url", "http://example.com/a?utm_x=1")))[1]["entries"]) == 1


async def test_a_keyed_header_is_named_with_it() -> None:
    async with World(replace(PLAIN, key=KeyRule(headers=("x-tenant",)))) as w, explaining(w) as here:
        await w.store(FRESH, asking=("X-Tenant: a",))
        url = ("url", "http://example.com/a")
        assert (await entries(here, url))[1]["entries"] == []
        (entry,) = (await entries(here, url, ("header", "X-Tenant: a")))[1]["entries"]
        assert entry["headers"] == [{"name": "x-tenant", "value": "a"}]


async def test_a_target_is_looked_for_on_every_host_that_a_route_names() -> None:
    async with World(match=Match(host="example.com")) as w, explaining(w) as here:
        await w.store(FRESH)
        (lane,) = w.exchange.site.lanes.values()
        others = [replace(lane.route, name=host, match=Match(host=host)) for host in ("*.b", "c")]
        w.exchange.site = Site((lane.route, *others), {r.name: replace(lane, route=r) for r in (lane.route, *others)})
        _, said = await entries(here, ("url", "/a"))
        assert said["searched"] == ["http://c/a", "https://c/a", "http://example.com/a", "https://example.com/a"]
        assert said["not_searched"] == ["*.b"]
        assert [entry["url"] for entry in said["entries"]] == ["http://example.com/a"]


@pytest.mark.parametrize(
    ("query", "at"),
    [
        ((), ["url"]),
        ((("url", "/a"), ("url", "/b")), ["url"]),
        ((("url", "a"),), ["url"]),
        ((("url", "/a b"),), ["url"]),
        ((("url", "/a"), ("uri", "/a")), ["query"]),
        ((("url", "/a"), ("header", "X Y: 1")), ["headers[0]"]),
    ],
)
async def test_every_mistake_in_a_query_is_named(query: tuple[tuple[str, str], ...], at: list[str]) -> None:
    async with World() as w, explaining(w) as here:
        status, said = await entries(here, *query)
        assert status == 400
        assert [error["at"] for error in said["errors"]] == at


async def test_a_url_that_is_refused_in_requests_is_refused_here() -> None:
    async with World() as w, explaining(w) as here:
        status, said = await entries(here, ("url", "http://example.com/a/../b"))
        assert status == 400
        assert said["detail"].endswith("Dot segments in the path can be read in two ways.")
