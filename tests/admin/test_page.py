"""An explanation as a page."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.page import plain, render
from proxy.flow.invalidation import Kind
from tests.flow.kit import ETAG, FRESH, STALEABLE, World, request
from tests.flow.test_explain import explainer
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
