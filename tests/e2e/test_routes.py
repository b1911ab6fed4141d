"""Routes, upstreams of their own, trusted peers, and the full configuration that is one argument."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Response, Site, ask, post, request
from tests.e2e.process import Proxy, eventually, free_port
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, Upstream, counts, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"


DEAD = free_port()
OTHER = "198.51.100.7"


def CONFIG(port: int) -> dict[str, object]:  # noqa: N802 - the name the fixture looks for
    url = f"http://127.0.0.1:{port}"
    return {
        "trusted_proxies": ["127.0.0.0/8"],
        "upstreams": {
            "based": {"url": f"{url}/base"},
            "host": {"url": url, "preserve_host": True},
            "dead": {"url": f"http://127.0.0.1:{DEAD}", "connect_timeout": "5s"},
            "slow": {"url": url, "timeout": "300ms"},
            "fragile": {"url": url, "timeout": "1s", "breaker": {"failures": 2, "open": "1h"}},
        },
        "routes": [
            {"name": "based", "match": {"path": "/based/*"}, "upstream": "based"},
            {"name": "host", "match": {"path": "/host/{id}"}, "upstream": "host"},
            {"name": "dead", "match": {"path": "/dead"}, "upstream": "dead"},
            {"name": "slow", "match": {"path": "/slow"}, "upstream": "slow"},
            {"name": "fragile", "match": {"path": "/fragile"}, "upstream": "fragile"},
            {"name": "read", "match": {"path": "/read-only", "methods": ["GET", "HEAD"]}, "upstream": "origin"},
            {"name": "put", "match": {"path": "/read-only", "methods": ["PUT"]}, "upstream": "origin"},
            {"name": "sub", "match": {"host": "*.sub.test", "path": "/sub"}, "upstream": "origin"},
            {"name": "open", "match": {"path": "/open/*"}, "upstream": "origin"},
        ],
    }


def _problem(response: Response, status: int) -> None:
    """An error of our own, in the standard form, with nothing of the inside in it."""
    assert response.status == status
    assert response.head["content-type"] == "application/problem+json"
    said = json.loads(response.body)
    assert said["status"] == status
    assert said["type"]
    text = (response.text + str(response.head)).lower()
    for secret in ("127.0.0.1", str(DEAD), "aiohttp", "errno", "traceback", "proxy/", "origin", "dead", "refused to"):
        assert secret not in text.replace("/dead", "")


async def test_no_route_is_404(here: Site) -> None:
    _problem(await here.get("/nowhere"), 404)
    _problem(await here.get("/host/1/2"), 404)
    _problem(await here.get("/sub"), 404)
    _problem(await here.get("/sub", host="sub.test"), 404)
    here.upstream.on("/sub", replies("ok"))
    assert (await here.get("/sub", host="a.b.sub.test:8080")).text == "ok"


async def test_another_method_is_405_and_says_which_would_do(here: Site) -> None:
    response = await here.send(post("/read-only", b"x"))
    _problem(response, 405)
    assert {method.strip() for method in response.head["allow"].split(",")} == {"GET", "HEAD", "PUT"}
    assert here.upstream.count("/read-only") == 0


async def test_a_base_path_comes_before_the_target(here: Site) -> None:
    here.upstream.on("/base/based/x", replies("based"))
    assert (await here.get("/based/x?y=%2F")).text == "based"
    assert here.upstream.calls[-1].target == "/base/based/x?y=%2F"


async def test_the_host_is_kept_where_that_is_asked(here: Site) -> None:
    here.upstream.on("/host/1", replies("ok"))
    await here.get("/host/1", host="Public.test:8080")
    assert here.upstream.calls[-1].head["host"].lower() == "public.test:8080"


async def test_a_refused_connection_is_502(here: Site) -> None:
    _problem(await here.get("/dead"), 502)


@pytest.mark.clock
async def test_an_upstream_that_does_not_answer_in_time_is_504(here: Site) -> None:
    async def silence(call: Call) -> None:
        await call.stream.rest()

    async def drops(call: Call) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
            call.write(bytes([byte]))
            await asyncio.sleep(0.1)
            if call.stream.end is not None:
                return

    for handler in (silence, drops):
        here.upstream.on("/slow", handler)
        started = asyncio.get_running_loop().time()
        _problem(await here.get("/slow"), 504)
        assert 0.25 < asyncio.get_running_loop().time() - started < 3
    here.upstream.on("/slow", replies("awake"))
    assert (await here.get("/slow")).text == "awake"


async def test_a_breaker_spares_an_upstream_that_does_not_answer(here: Site) -> None:
    held = asyncio.Event()

    async def silent(call: Call) -> None:
        del call
        await held.wait()

    here.upstream.on("/fragile", silent)
    for _ in range(2):
        _problem(await here.send(post("/fragile", b"x")), 504)
    for _ in range(3):
        _problem(await here.send(post("/fragile", b"x")), 503)
    held.set()
    assert here.upstream.count("/fragile") == 2
    here.upstream.on("/open/fine", replies("fine"))
    assert (await here.get("/open/fine")).text == "fine"


async def test_an_upstream_that_hangs_up_on_some_requests_is_there_for_the_others(here: Site) -> None:
    async def cut(call: Call) -> None:
        call.stream.reset()

    here.upstream.on("/open/bad", cut)
    for _ in range(8):
        _problem(await here.send(post("/open/bad", b"x")), 502)
    assert here.upstream.count("/open/bad") == 8


async def _dies_when_reused(call: Call) -> None:
    if not getattr(call.stream, "used", False):
        call.stream.used = True  # type: ignore[attr-defined]
        call.answer("first", "Cache-Control: no-store")
    else:
        call.stream.close()


@pytest.mark.parametrize(("method", "status", "asked"), [("GET", 200, 3), ("POST", 502, 2)])
async def test_a_dead_pooled_connection_is_tried_anew_only_where_that_is_safe(
    here: Site, method: str, status: int, asked: int
) -> None:
    path = f"/open/pooled-{method}"
    here.upstream.on(path, _dies_when_reused)
    raw = request(path) if method == "GET" else post(path, b"once")
    await _drop_pool(here)
    assert (await here.send(raw)).status == 200
    assert (await here.send(raw)).status == status
    assert here.upstream.count(path) == asked


async def _drop_pool(here: Site) -> None:
    """Close what the proxy holds in reserve, and wait until it knows."""
    for stream in list(here.upstream.streams):
        stream.close()
    await eventually(lambda: not here.upstream.streams, "no connection is left")
    here.upstream.on("/open/sync", replies("", "Connection: close"))
    await here.get("/open/sync")
    await eventually(lambda: not here.upstream.streams, "no connection is left")


async def test_a_trusted_peer_is_believed(here: Site) -> None:
    here.upstream.on("/open/trusted", replies("ok", "Cache-Control: no-store"))
    await here.get(
        "/open/trusted",
        *(f"X-Forwarded-For: {OTHER}", "X-Forwarded-Proto: https", "X-Forwarded-Host: pub.test"),
        *("X-Forwarded-Port: 8443", "X-Original-URL: /there"),
    )
    head = here.upstream.calls[-1].head
    assert head["x-forwarded-for"] == f"{OTHER}, 127.0.0.1"
    assert head["x-forwarded-proto"] == "https"
    assert head["x-forwarded-host"] == "pub.test"
    assert (head["x-forwarded-port"], head["x-original-url"]) == ("8443", "/there")


async def test_http_and_https_behind_a_trusted_peer_share_nothing(here: Site) -> None:
    here.upstream.on("/open/scheme", counts(FRESH))
    assert (await here.get("/open/scheme", "X-Forwarded-Proto: https")).text == "1"
    assert (await here.get("/open/scheme", "X-Forwarded-Proto: http")).text == "2"
    assert (await here.get("/open/scheme", "X-Forwarded-Proto: https")).text == "1"


async def test_an_upstream_that_comes_back_is_used_again(here: Site) -> None:
    assert (await here.get("/dead")).status == 502
    revived = await Upstream.start(DEAD)
    revived.on("/dead", replies("alive", "Cache-Control: no-store"))
    try:
        await eventually(lambda: _alive(here), "it is tried again")
    finally:
        await revived.kill()


async def _alive(here: Site) -> bool:
    return (await here.get("/dead")).text == "alive"


async def test_one_argument_is_a_full_configuration(here: Site, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, free_port(), free_port())
    here.upstream.on("/whole", counts(FRESH))
    await proxy.spawn(
        *("serve", "--upstream", f"http://127.0.0.1:{here.upstream.port}"),
        *("--listen", f"127.0.0.1:{proxy.port}", "--admin", f"127.0.0.1:{proxy.admin}"),
    )
    stream = await Stream.open(proxy.port)
    first, second = [await ask(stream, request("/whole")) for _ in range(2)]
    assert first.cache == "readthrough; fwd=uri-miss; fwd-status=200; stored"
    assert second.hit
    assert (first.text, second.text) == ("1", "1")
    stream.close()
    proxy.signal(signal.SIGINT)  # SIGTERM would serve on for the usual five seconds
    assert await proxy.exit() == 0
