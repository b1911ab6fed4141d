"""One line of JSON a request, and what it says."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Site, ask, post, request, site
from tests.e2e.process import eventually
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"
CONFIG = {
    "access_log": "json",
    "routes": [
        {"name": "things", "match": {"path": "/things/*"}, "upstream": "origin"},
        {"name": "raw", "match": {"path": "/raw/*"}, "upstream": "origin", "cache": "off"},
    ],
}


async def _line(here: Site, request_id: str) -> dict[str, Any]:
    """The one log line of a request."""
    await eventually(
        lambda: any(line.get("request_id") == request_id for line in here.proxy.log()), f"{request_id} logged"
    )
    lines = [line for line in here.proxy.log() if line.get("request_id") == request_id]
    assert len(lines) == 1
    return lines[0]


async def test_a_line_says_route_status_cache_duration_bytes_and_id(here: Site) -> None:
    here.upstream.on("/things/1", replies("x" * 1000, FRESH))
    for number, cache in enumerate(["miss", "hit"]):
        await here.get("/things/1?token=t", f"X-Request-Id: plain-{number}")
        line = await _line(here, f"plain-{number}")
        assert (line["route"], line["status"], line["method"]) == ("things", 200, "GET")
        assert line["bytes"] >= 1000
        assert any(key.startswith("duration") and 0 <= value < 10_000 for key, value in line.items())
        assert ("hit" in str(line["cache"])) is (cache == "hit")


@pytest.mark.parametrize(
    ("name", "raw", "status", "route"),
    [
        ("post", post("/things/2", b"x", "X-Request-Id: post"), 200, "things"),
        ("head", request("/things/2", "X-Request-Id: head", method="HEAD"), 200, "things"),
        ("off", request("/raw/2", "X-Request-Id: off"), 200, "raw"),
        ("nowhere", request("/nowhere", "X-Request-Id: nowhere"), 404, None),
    ],
)
async def test_every_kind_of_request_has_its_line(
    here: Site, name: str, raw: bytes, status: int, route: str | None
) -> None:
    for path in ("/things/2", "/raw/2"):
        here.upstream.on(path, replies("ok", FRESH))
    await here.send(raw)
    line = await _line(here, name)
    assert line["status"] == status
    assert line.get("route") == route


async def test_a_refused_request_has_a_line_as_well(here: Site) -> None:
    before = len(here.proxy.log())
    stream = await here.connect()
    stream.write(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    await stream.rest()
    stream.close()
    await eventually(lambda: len(here.proxy.log()) > before, "it is logged")
    assert here.proxy.log()[before]["status"] == 400


async def test_what_a_client_sends_cannot_forge_a_line(here: Site) -> None:
    here.upstream.on("/things/3", replies("ok", FRESH))
    before = len(here.proxy.log())
    await here.get('/things/3?a="}%0a{"status":1}', 'X-Request-Id: a"b', 'User-Agent: "}{')
    await eventually(lambda: len(here.proxy.log()) > before, "it is logged")
    assert [line["status"] for line in here.proxy.log()[before:]] == [200]


async def test_a_client_that_left_has_a_line(here: Site) -> None:
    async def never(call: Call) -> None:
        call.write(head("Content-Length: 10", "Cache-Control: no-store") + b"part")
        await call.stream.rest()

    here.upstream.on("/things/never", never)
    stream = await here.connect()
    stream.write(request("/things/never", "X-Request-Id: left"))
    await stream.until(b"part")
    stream.reset()
    assert (await _line(here, "left"))["route"] == "things"


async def test_a_request_id_is_taken_over_or_made_and_passed_on(here: Site) -> None:
    here.upstream.on("/things/id", replies("ok", "Cache-Control: no-store"))
    await here.get("/things/id", "X-Request-Id: mine-1")
    assert here.upstream.calls[-1].head["x-request-id"] == "mine-1"
    made = set()
    for _ in range(2):
        await here.get("/things/id")
        made.add(here.upstream.calls[-1].head["x-request-id"])
    assert len(made) == 2
    for request_id in made:
        assert re.fullmatch(r"[\w.-]{8,64}", request_id)
        await _line(here, request_id)


async def test_a_thousand_requests_are_a_thousand_lines(here: Site) -> None:
    here.upstream.on("/things/many", replies("ok", FRESH))
    stream = await here.connect()
    for number in range(1000):
        await ask(stream, request("/things/many", f"X-Request-Id: many-{number}"))
    stream.close()
    wanted = {f"many-{number}" for number in range(1000)}
    await eventually(lambda: wanted <= {line.get("request_id") for line in here.proxy.log()}, "all are logged")


async def test_the_log_can_be_off(tmp_path: Path) -> None:
    async with site(tmp_path, {"access_log": "off"}) as here:
        here.upstream.on("/", replies("ok", FRESH))
        await here.get("/")
        await here.get("/nowhere")
        await here.proxy.stop()
        assert here.proxy.log() == []
