"""An explanation as a page."""

import json
from ipaddress import ip_network
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.page import plain, render
from proxy.flow.invalidation import Kind
from proxy.rules.purging import PurgeRule
from proxy.rules.quota import By, GateRule
from tests.flow.kit import ETAG, FRESH, STALEABLE, World, request
from tests.flow.test_explain import explainer
from tests.flow.test_limiter import Limited, fetched, quota
from tests.rules.build import brief


def said(w: World, *asking: str, method: str = "GET", shared: bool = False) -> Any:  # noqa: ANN401 - JSON
    return json.loads(orjson.dumps(explainer(w, shared=shared).explain(request(*asking, method=method))))


def lines(members: Any) -> list[str]:  # noqa: ANN401 - JSON
    return list(render(members, bold=False))


async def test_a_hit_is_a_page() -> None:
    async with World() as w:
        await w.store(FRESH, "Vary: Accept-Encoding", asking=("Accept-Encoding: gzip",))
        w.clock.at += 10
        assert lines(said(w, "Accept-Encoding: gzip", "Cache-Control: max-age=5")) == [
            "GET http://example.com/a",
            "  would be      fetched from the upstream: request-max-age",
            "  Cache-Status  readthrough; fwd=request; detail=request-max-age, and what comes of the fetch",
            "  and           its answer is stored, if what the upstream says allows that",
            "  and           should the upstream fail, what is stored is served stale",
            "",
            "Routes",
            "  all  taken: any host, /*, any method",
            "",
            "Key",
            "  scheme  http",
            "  host    example.com",
            "  target  /a",
            "",
            "Cache",
            "  may answer  yes",
            "",
            "Stored",
            "  variant 1  selected: 200, 3 bytes, 50 s left, valid",
            "             accept-encoding: gzip, like the request's",
            "",
            "Invalidation",
            "  the log       is complete",
            "  the entry is  valid",
            "",
            "Freshness",
            "  lifetime - age          60 s - 10 s = 50 s, fresh",
            "  by                      the upstream's word",
            "  stale-while-revalidate  none",
            "  stale-if-error          none",
            "  stale if unreachable    600 s, ends in 650 s",
            "",
            "Asked by the client",
            "  max-age=5   would make it request-max-age (compared with 10 s)",
            "  without it  hit",
            "",
            "Remembered",
            "  nothing  of this key",
            "",
            "Upstream",
            "  up  up.internal",
            "  by  a fetch that others may join",
        ]


async def test_what_went_wrong_is_on_it() -> None:
    async with World() as w:
        await w.store(STALEABLE, ETAG, "Cache-Tag: t")
        w.purge(Kind.TAG, "t", soft=True)
        w.log.restart("epoch", 1)
        page = "\n".join(lines(said(w, shared=True)))
        assert "validated" in page
        assert "the entry is  distrusted" in page
        assert "invalidated   softly, by tag" in page
        assert "memory only: the shared store was not asked" in page


def part(members: Any, title: str) -> list[str]:  # noqa: ANN401 - JSON
    page = lines(members)
    at = page.index(title) + 1
    return page[at : page.index("", at)]


async def test_limits_are_on_it() -> None:
    day = quota("day", rate=0.01, burst=100.0, by=By.HEADER, header="x-key", serve_stale=True)
    async with Limited(quota(burst=3.0), day, gate=GateRule(2, 1)) as w:
        await fetched(w, FRESH)
        said = json.loads(orjson.dumps(explainer(w, shared=True).explain(request(target="/c"), "192.0.2.1")))
        assert lines(said)[1:4] == [
            "  would be      refused: 429, rate-limited",
            "  Cache-Status  readthrough; detail=rate-limited",
            "  Retry-After   2",
        ]
        assert part(said, "Limits") == [
            "  pays       for asking the upstream: absent",
            "  all        1 of 3 left, 0.5 more a second; it costs 2: refused: to wait 2 s",
            "             of 192.0.2.1, by ip",
            "  day        98 of 100 left, 0.01 more a second; it costs 2: passes",
            "             of 192.0.2.1, by header:x-key",
            "  looked at  what this instance knows: Redis was not asked",
            "  at once    0 of 2 under way, 0 of 1 waiting",
            "             of 192.0.2.1, by ip",
        ]
        unnamed = json.loads(orjson.dumps(explainer(w).explain(request())))
        assert "           of a client that is not named, who has not come before, by ip" in part(unnamed, "Limits")


async def test_what_is_under_way_to_an_upstream_is_on_it() -> None:
    async with World(upstream_gate=GateRule(1, 0)) as w:
        w.ask()
        await w.idle()
        page = lines(said(w, "Cookie: a=b"))
        assert "  at once  1 of 1 under way, 0 of 0 waiting: refused" in page
        w.last.reply(FRESH)


async def test_a_request_that_no_route_takes_is_a_short_one() -> None:
    async with World() as w:
        assert lines(said(w, method="PURGE")) == [
            "PURGE http://example.com/a",
            "  would be  refused: 405, method",
            "",
            "Routes",
            "  none        no route takes it",
            "  would take  GET, HEAD",
        ]


async def test_a_purge_says_what_would_go_and_who_may() -> None:
    async with World(purging=PurgeRule((ip_network("127.0.0.0/8"), ip_network("::1")))) as w:
        assert lines(said(w, method="PURGE")) == [
            "PURGE http://example.com/a",
            "  would be  done, for clients that may: 200, purged",
            "",
            "Routes",
            "  none  no route is asked",
            "",
            "Purge",
            "  gone     http://example.com/a",
            "  gone     https://example.com/a",
            "  allowed  127.0.0.0/8, ::1/128",
        ]
        assert "  stale    http://example.com/a" in lines(said(w, "Soft-Purge: 1", method="PURGE"))


async def test_headings_are_bold_where_somebody_sees_it() -> None:
    async with World() as w:
        page = list(render(said(w), bold=True))
        assert page[0] == "\x1b[1mGET http://example.com/a\x1b[0m"
        assert "\x1b[1mKey\x1b[0m" in page
        assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in page] == lines(said(w))


async def test_what_an_instance_says_cannot_drive_the_terminal() -> None:
    async with World() as w:
        members = said(w)
        members["steps"][0]["target"] = "/\x1b[31m\n"
        members["steps"][1]["tried"][0]["route"] = "\x07r"
        assert lines(members)[0] == "GET http://example.com/?[31m?"
        assert any(line.startswith("  ?r ") for line in lines(members))


def test_what_cannot_be_printed_is_a_question_mark() -> None:
    assert plain("a\x9bb\u202ec ä") == "a?b?c ä"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
STEPS = [
    "request",
    "route",
    "key",
    "cache",
    "variants",
    "invalidation",
    "freshness",
    "client",
    "remembered",
    "upstream",
]


@brief
@given(
    st.sampled_from(STEPS),
    st.sampled_from(
        ["tried", "stored", "vary", "wishes", "windows", "records", "headers", "left", "unshareable", "flight"]
    ),
    JSON,
)
def test_an_instance_that_says_something_else_makes_a_page_all_the_same(step: str, name: str, value: object) -> None:
    members = {"steps": [{"step": step, name: value}], "answer": {"act": value}}
    assert all(line.isprintable() for line in lines(members))


@pytest.mark.parametrize("members", [{}, {"steps": 5}, {"steps": [5], "answer": 5}])
def test_it_needs_no_more_than_an_object(members: dict[str, object]) -> None:
    assert lines(members)[0] == "? ?://??"
