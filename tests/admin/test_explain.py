"""`POST /explain` over HTTP. Whether it is right is settled in tests/flow/test_explain.py."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.admin.entries import Entries
from proxy.admin.explain import PAGE, Explain
from proxy.admin.page import parts
from proxy.admin.problems import Mistake
from proxy.admin.server import AdminServer, Part
from proxy.flow.explain import Explainer
from proxy.flow.inventory import Inventory
from proxy.rules.limits import Limits
from tests.admin.kit import JSON, Admin, admin
from tests.flow.kit import FRESH, World
from tests.flow.test_limiter import Limited, quota


@asynccontextmanager
async def explaining(w: World, limits: Limits | None = None) -> AsyncIterator[Admin]:
    """An admin listener in front of a world."""
    explainer = Explainer(lambda: w.exchange.site, w.memory, w.log, w.flights, w.clock.now, shared=False)
    inventory = Inventory(lambda: w.exchange.site, w.memory, w.log, w.clock.now)

    def parts(here: Admin) -> None:
        known = limits or Limits()
        served: list[Part] = [
            Explain(explainer, lambda: known),
            Entries(inventory, lambda: w.exchange.site, lambda: known),
        ]
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=served)

    async with admin(change=parts) as here:
        yield here


async def explain(here: Admin, body: object) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (await here.ask("/explain", "POST", JSON, raw))[:2]


async def test_a_request_is_explained_and_not_made() -> None:
    async with World() as w, explaining(w) as here:
        await w.store(FRESH)
        w.clock.at += 10
        status, said = await explain(here, {"url": "http://example.com/a"})
        assert status == 200
        assert [step["step"] for step in said["steps"]] == [
            *("request", "route", "key", "cache", "variants", "invalidation", "freshness", "client", "remembered"),
            "upstream",
        ]
        assert said["answer"]["cache_status"] == "readthrough; hit; ttl=50"
        assert (said["answer"]["act"], said["answer"]["status"]) == ("serve", 200)
        assert len(w.calls) == 1


@pytest.mark.parametrize(
    "headers",
    [{"Cache-Control": ["max-age=5", "max-stale"]}, [["Cache-Control", "max-age=5"], ["cache-control", "max-stale"]]],
)
async def test_a_field_may_be_repeated(headers: object) -> None:
    async with World() as w, explaining(w) as here:
        status, said = await explain(here, {"url": "http://example.com/a", "headers": headers, "method": "HEAD"})
        (client,) = [step for step in said["steps"] if step["step"] == "client"]
        assert status == 200
        assert [wish["directive"] for wish in client["wishes"]] == ["max-age=5", "max-stale"]


async def test_what_the_listener_would_refuse_is_explained_too() -> None:
    async with World() as w, explaining(w) as here:
        status, said = await explain(here, {"url": "http://example.com/a/../b"})
        assert status == 200
        assert (said["answer"]["act"], said["answer"]["status"], said["answer"]["reason"]) == (
            "refuse",
            400,
            "malformed",
        )
        assert said["steps"][0]["refused"] == "Dot segments in the path can be read in two ways."


async def test_the_listeners_limits_count() -> None:
    async with World() as w, explaining(w, Limits(max_headers=1)) as here:
        _, said = await explain(here, {"url": "http://example.com/a", "headers": {"X": "y"}})
        assert (said["answer"]["status"], said["answer"]["reason"]) == (431, "headers-too-large")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        (b"{", ["body"]),
        (b"[" * 100_000, ["body"]),
        ([], ["body"]),
        ({}, ["url"]),
        ({"url": 5}, ["url"]),
        ({"url": "/a"}, ["url"]),
        ({"url": "http://user:pw@h/"}, ["url"]),
        ({"url": "http://h/", "method": 5}, ["method"]),
        ({"url": "http://h/", "method": "GET\r\n"}, ["method"]),
        ({"url": "http://h/", "headers": "X: y"}, ["headers"]),
        ({"url": "http://h/", "headers": {"X": 5}}, ["headers"]),
        ({"url": "http://h/", "headers": [["X"]]}, ["headers"]),
        ({"url": "http://h/", "headers": {"X": "a\r\nY: b"}}, ["headers[0]"]),
        ({"url": "http://h/", "client": 5}, ["client"]),
        ({"url": "http://h/", "client": ""}, ["client"]),
        ({"url": "http://h/", "client": "192.0.2.1:80"}, ["client"]),
        ({"url": "http://h/", "client": "10.0.0.0/8"}, ["client"]),
        ({"url": "h", "client": "localhost"}, ["url", "client"]),
        ({"url": "h", "methods": "GET", "headers": {"X:": "y"}}, ["'methods'", "url", "headers[0]"]),
    ],
)
async def test_every_mistake_in_a_body_is_named(body: object, at: list[str]) -> None:
    async with World() as w, explaining(w) as here:
        status, said = await explain(here, body)
        assert (status, said["type"]) == (400, "urn:readthrough:error:bad-request")
        assert [error["at"] for error in said["errors"]] == at


async def test_a_body_longer_than_any_head_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    loads = json.loads

    def watched(raw: bytes) -> object:
        read.append(len(raw))
        return loads(raw)

    async with World() as w, explaining(w, Limits(max_header_bytes=1000)) as here:
        monkeypatch.setattr("proxy.admin.explain.json.loads", watched)
        asked = json.dumps({"url": "http://example.com/a"}).encode()
        status, said = await explain(here, asked.ljust(4001))
        assert (status, said["type"]) == (413, "urn:readthrough:error:body-too-large")
        assert "4000 bytes" in said["detail"]
        assert 4001 not in read
        assert (await explain(here, asked.ljust(4000)))[0] == 200


@pytest.mark.parametrize("headers", [{"X": ["y"] * 6}, [["X", "y"]] * 6, {f"X-{i}": "\n" for i in range(6)}])
async def test_more_fields_than_a_request_may_have_are_one_mistake(headers: object) -> None:
    async with World() as w, explaining(w, Limits(max_headers=5)) as here:
        status, said = await explain(here, {"url": "http://example.com/a", "headers": headers})
        assert status == 400
        assert [(error["at"], error["what"]) for error in said["errors"]] == [("headers", "has more than 5 fields")]


async def test_as_many_fields_as_a_request_may_have_are_explained() -> None:
    async with World() as w, explaining(w, Limits(max_headers=5)) as here:
        headers = [["Host", "example.com"], *[["X", "y"]] * 4]
        status, said = await explain(here, {"url": "http://example.com/a", "headers": headers})
        assert (status, said["answer"]["act"]) == (200, "fetch")


async def test_no_more_mistakes_are_made_out_than_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Mistake] = []

    def counted(at: str, what: str, instead: str) -> Mistake:
        made.append(Mistake(at, what, instead))
        return made[-1]

    monkeypatch.setattr("proxy.admin.explain.Mistake", counted)
    monkeypatch.setattr("proxy.admin.asking.Mistake", counted)
    async with World() as w, explaining(w, Limits(max_headers=1000)) as here:
        body = {**{f"a{i}": 0 for i in range(60)}, "url": "http://h/", "headers": [[" ", "\n"]] * 200}
        status, said = await explain(here, body)
        assert (status, len(said["errors"])) == (400, 100)
        assert len(made) == 100
        made.clear()
        assert len((await explain(here, {f"a{i}": 0 for i in range(5000)}))[1]["errors"]) == 100
        assert len(made) <= 101, "of those that are not known, and the URL"


@pytest.mark.parametrize(
    ("client", "whose", "scheme"),
    [("192.0.2.7", "192.0.2.7", "http"), ("10.0.0.1", "203.0.113.9", "https"), (None, None, "http")],
)
async def test_it_is_told_whose_request_it_would_be(client: str | None, whose: str | None, scheme: str) -> None:
    async with Limited(quota(), trusted=(ip_network("10.0.0.0/8"),)) as w, explaining(w) as here:
        headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        status, said = await explain(here, {"url": "http://example.com/a", "headers": headers, "client": client})
        assert status == 200
        assert said["steps"][0]["scheme"] == scheme, "what a trusted proxy says is believed in all it says"
        (limits,) = [step for step in said["steps"] if step["step"] == "limits"]
        assert (limits["pays"], [bucket["client"] for bucket in limits["buckets"]]) == ("miss", [whose])


async def test_a_page_is_given_what_the_command_line_would_print() -> None:
    async with World() as w, explaining(w) as here:
        await w.store(FRESH)
        raw = json.dumps({"url": "http://example.com/a"}).encode()
        _, plain, _ = await here.ask("/explain", "POST", JSON, raw)
        status, said, fields = await here.ask("/explain", "POST", {**JSON, "Accept": PAGE}, raw)
        assert (status, fields["Content-Type"]) == (200, PAGE)
        printed = [{"title": part.title, "rows": [[*row] for row in part.rows]} for part in parts(said)]
        assert said.pop("page") == printed
        assert said == plain
        assert printed[0]["title"] == "GET http://example.com/a"
