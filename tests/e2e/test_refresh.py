"""Stale answers bridge slow and broken upstreams (RFC 5861)."""

import asyncio
import re

import pytest

from tests.e2e.harness import Response, Site, ask, request
from tests.e2e.process import eventually
from tests.e2e.upstream import Call, Handler, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {"upstreams": {"origin": {"timeout": "5s"}}}
STALE = re.compile(r"readthrough; hit; ttl=-\d+")


async def _expired(here: Site, path: str, windows: str, *headers: str) -> None:
    """Store "old" under the path and wait until it is stale; it may live one second."""
    here.upstream.on(path, replies("old", f"Cache-Control: max-age=1, {windows}", *headers))
    assert (await here.get(path)).stored
    await asyncio.sleep(1.1)


async def test_nobody_waits_for_a_refresh_and_there_is_only_one(here: Site) -> None:
    await _expired(here, "/swr", "stale-while-revalidate=60")
    gate = asyncio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        call.answer("new", "Cache-Control: max-age=60")

    here.upstream.on("/swr", slow)

    async def visitor() -> list[Response]:
        stream = await here.connect()
        answers = [await ask(stream, request("/swr")) for _ in range(5)]
        stream.close()
        return answers

    stale = [response for answers in await asyncio.gather(*(visitor() for _ in range(50))) for response in answers]
    assert {r.text for r in stale} == {"old"}
    assert all(STALE.fullmatch(r.cache) for r in stale), stale[0].cache
    await eventually(lambda: here.upstream.count("/swr") == 2, "a refresh")
    assert here.upstream.seen("/swr")[1].stream.end is None, "it is still waited for, and nobody was answered by it"
    gate.set()

    await eventually(lambda: _says(here, "/swr", "new"), "the refresh is in")
    assert re.fullmatch(r"readthrough; hit; ttl=\d+", (await here.get("/swr")).cache)
    assert here.upstream.count("/swr") == 2


async def _says(here: Site, path: str, text: str) -> bool:
    return (await here.get(path)).text == text


async def test_a_failed_refresh_keeps_the_stale_answer(here: Site) -> None:
    await _expired(here, "/broken-swr", "stale-while-revalidate=60")
    here.upstream.on("/broken-swr", replies("broken", "Cache-Control: max-age=60", status="500 Internal Server Error"))
    assert (await here.get("/broken-swr")).text == "old"
    await eventually(lambda: here.upstream.count("/broken-swr") == 2, "a refresh")
    for _ in range(3):
        assert (await here.get("/broken-swr")).text == "old"


async def _error(call: Call) -> None:
    call.answer("broken", status="503 Service Unavailable")


async def _cut(call: Call) -> None:
    call.stream.reset()


async def _silence(call: Call) -> None:
    await call.stream.rest()


async def _short(call: Call) -> None:
    call.write(head("Content-Length: 100", "Cache-Control: max-age=60"))
    call.stream.close()


@pytest.mark.parametrize(
    ("name", "failure", "says"),
    [
        ("an-error", _error, "fwd-status=503"),
        ("a-reset", _cut, ""),
        ("no-answer", _silence, ""),
        ("a-head-without-its-body", _short, ""),
    ],
)
async def test_stale_if_error_answers_for(here: Site, name: str, failure: Handler, says: str) -> None:
    path = f"/sie-{name}"
    await _expired(here, path, "stale-if-error=60")
    here.upstream.on(path, failure)

    response = await here.get(path)
    assert (response.status, response.text) == (200, "old")
    assert response.cache.startswith("readthrough; fwd=stale")
    assert "detail=stale-if-error" in response.cache
    assert "hit" not in response.cache
    assert says in response.cache
    assert response.age >= 1
    asked = here.upstream.count(path)
    assert asked - 1 in (1, 2)  # a reset on a connection that was used before is tried anew, once

    # Those who come right after do not wait out the failure again.
    again = await here.get(path)
    assert again.text == "old"
    assert here.upstream.count(path) == asked


async def test_without_a_window_the_error_is_the_answer(here: Site) -> None:
    await _expired(here, "/no-window", "public")
    here.upstream.on("/no-window", _error)
    response = await here.get("/no-window")
    assert (response.status, response.text) == (503, "broken")
    assert "fwd=stale; fwd-status=503" in response.cache


@pytest.mark.parametrize("directive", ["must-revalidate", "proxy-revalidate", "s-maxage=1", "no-cache"])
async def test_the_upstream_forbids_staleness_with(here: Site, directive: str) -> None:
    path = f"/strict-{directive.partition('=')[0]}"
    await _expired(here, path, f"stale-if-error=60, stale-while-revalidate=60, {directive}", 'ETag: "1"')
    here.upstream.on(path, _error)
    response = await here.get(path)
    assert response.text != "old"
    assert response.status >= 500


async def test_a_stale_answer_is_revalidated_with_its_validators(here: Site) -> None:
    stamp = "Mon, 06 Jan 2025 10:00:00 GMT"
    await _expired(here, "/validate", "public", 'ETag: "v1"', f"Last-Modified: {stamp}")

    async def not_modified(call: Call) -> None:
        assert call.head["if-none-match"] == '"v1"'
        assert call.head["if-modified-since"] == stamp
        call.write(head('ETag: "v1"', "Cache-Control: max-age=60", "X-New: yes", status="304 Not Modified"))

    here.upstream.on("/validate", not_modified)
    response = await here.get("/validate")
    assert (response.status, response.text) == (200, "old")
    assert "fwd=stale; fwd-status=304" in response.cache
    after = await here.get("/validate")
    assert after.hit
    assert after.head["x-new"] == "yes"
    assert here.upstream.count("/validate") == 2
