"""PURGE on the port of the clients, and the tags that an invalidation may name, over sockets."""

import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.harness import HOST, Response, Site, ask, merge, receive, request, site
from tests.e2e.process import eventually
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, counts, replies

FRESH: Final = "Cache-Control: max-age=600"
LOOPBACK: Final = ["127.0.0.0/8"]
SOMEWHERE: Final = ["198.51.100.0/24", "2001:db8::/32"]
XFF: Final = "X-Forwarded-For"


@asynccontextmanager
async def purging(directory: Path, over: Mapping[str, Any] | None = None) -> AsyncIterator[Site]:
    """A site whose only client may purge, unless told otherwise."""
    async with site(directory, merge({"purge_method": {"allow": LOOPBACK}}, over or {})) as here:
        here.upstream.on("/a", counts(FRESH))
        yield here


async def purge(here: Site, *written: str, path: str = "/a") -> Response:
    return await here.get(path, *written, method="PURGE")


def problem(response: Response) -> str:
    assert response.head["content-type"] == "application/problem+json"
    return str(json.loads(response.body)["type"]).removeprefix("urn:readthrough:error:")


async def test_a_purge_has_the_next_request_go_upstream(tmp_path: Path) -> None:
    async with purging(tmp_path) as here:
        assert (await here.get("/a")).text == "1"
        assert (await here.get("/a")).hit
        response = await purge(here, "X-Request-Id: mine")
        assert (response.status, response.head["content-type"]) == (200, "application/json")
        batch = json.loads(response.body)["id"]
        assert (await here.get("/a")).text == "2"
        assert [call.method for call in here.upstream.calls] == ["GET", "GET"]
        said = f"invalidation {batch}: PURGE of 'http://{HOST}/a', asked for by 127.0.0.1"
        assert said in here.proxy.stderr

        admin = await Stream.open(here.admin)
        progress = json.loads((await ask(admin, request(f"/invalidations/{batch}", host="localhost"))).body)
        assert (progress["id"], len(progress["applied"]), progress["pending"]) == (batch, 1, [])
        stats = json.loads((await ask(admin, request("/stats", host="localhost"))).body)
        assert stats["requests"]["by_result"]["purged"] == 1
        assert stats["hit_ratio"] == pytest.approx(1 / 3), "who purges has asked for no answer"
        admin.close()
        await eventually(lambda: any(line.get("request_id") == "mine" for line in here.proxy.log()), "it is logged")
        (line,) = [line for line in here.proxy.log() if line.get("request_id") == "mine"]
        assert (line["method"], line["status"]) == ("PURGE", 200)


async def test_on_one_connection_it_is_done_before_the_request_behind_it(tmp_path: Path) -> None:
    async with purging(tmp_path) as here:
        await here.get("/a")
        stream = await here.connect()
        stream.write(request("/a") + request("/a", method="PURGE") + request("/a"))
        assert [(await receive(stream)).text for _ in range(3)][::2] == ["1", "2"]
        stream.close()


@pytest.mark.parametrize(
    "body",
    [("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")],
    ids=["sized", "chunked"],
)
async def test_a_body_is_read_and_the_connection_goes_on(tmp_path: Path, body: tuple[str, bytes]) -> None:
    async with purging(tmp_path) as here:
        await here.get("/a")
        stream = await here.connect()
        stream.write(request("/a", body[0], method="PURGE") + body[1] + request("/a"))
        assert (await receive(stream)).status == 200
        assert (await receive(stream)).text == "2"
        stream.close()


async def test_a_body_that_is_not_there_ends_the_connection_and_not_the_purge(tmp_path: Path) -> None:
    async with purging(tmp_path) as here:
        await here.get("/a")
        stream = await here.connect()
        response = await ask(stream, request("/a", "Content-Length: 3", method="PURGE"))
        assert (response.status, response.head["connection"]) == (200, "close")
        stream.write(b"abc" + request("/a"))
        assert not stream.buffer
        assert not await stream.more(), "what comes behind is no request any more"
        stream.close()
        assert (await here.get("/a")).text == "2"


@pytest.mark.parametrize(
    "written",
    [
        pytest.param((), id="nothing"),
        pytest.param((f"{XFF}: 198.51.100.1",), id="X-Forwarded-For"),
        pytest.param(("Forwarded: for=198.51.100.1",), id="Forwarded"),
        pytest.param(("X-Real-IP: 198.51.100.1", "True-Client-IP: 198.51.100.1"), id="others"),
        pytest.param((f"{XFF}: 127.0.0.1", f"{XFF}: 198.51.100.1"), id="in two lines"),
    ],
)
async def test_no_header_makes_a_client_one_that_may(tmp_path: Path, written: tuple[str, ...]) -> None:
    async with purging(tmp_path, {"purge_method": {"allow": SOMEWHERE}}) as here:
        await here.get("/a")
        response = await purge(here, *written)
        assert (response.status, problem(response)) == (403, "not-allowed")
        assert (await here.get("/a")).hit


async def test_behind_a_trusted_proxy_the_client_it_has_seen_decides(tmp_path: Path) -> None:
    over = {"purge_method": {"allow": [*SOMEWHERE, *LOOPBACK]}, "trusted_proxies": LOOPBACK}
    may = [
        (),  # the proxy itself
        (f"{XFF}: 198.51.100.1",),
        (f"{XFF}: 203.0.113.9, 198.51.100.1",),
        (f"{XFF}: 203.0.113.9", f"{XFF}: [2001:db8::1]:4711, 127.0.0.2"),
        ("Forwarded: for=198.51.100.1;proto=http",),
        (f"{XFF}: 198.51.100.1", 'Forwarded: for="198.51.100.1:4711"'),
    ]
    may_not = [
        (f"{XFF}: 203.0.113.9",),
        (f"{XFF}: 198.51.100.1, 203.0.113.9",),
        (f"{XFF}: 198.51.100.1", f"{XFF}: 203.0.113.9"),
        (f"{XFF}: 203.0.113.9", "Connection: X-Forwarded-For"),
        (f"{XFF}: 203.0.113.9", "Connection: close, x-forwarded-for"),
        (f"{XFF}: 198.51.100.1, unknown",),
        (f"{XFF}:",),
        ("Forwarded: for=203.0.113.9",),
        (f"{XFF}: 203.0.113.9", "Forwarded: for=198.51.100.1"),
        (f"{XFF}: 198.51.100.1", "Forwarded: for=203.0.113.9"),
    ]
    async with purging(tmp_path, over) as here:
        for written in may_not:
            await here.get("/a")
            assert (await purge(here, *written)).status == 403, written
            assert (await here.get("/a")).hit
        for number, written in enumerate(may, 2):
            assert (await purge(here, *written)).status == 200, written
            assert (await here.get("/a")).text == str(number)
        who = [line.rpartition(" ")[2] for line in here.proxy.stderr.splitlines() if "PURGE of" in line]
        somebody = "198.51.100.1"
        assert who == ["127.0.0.1", somebody, somebody, "2001:db8::1", somebody, somebody]


async def test_a_reload_changes_who_may_on_open_connections_too(tmp_path: Path) -> None:
    async with purging(tmp_path) as here:
        stream = await here.connect()
        raw = request("/a", method="PURGE")
        for _ in range(3):  # so that its head is one that is remembered
            assert (await ask(stream, raw)).status == 200
        for change, status in (({"allow": SOMEWHERE}, 403), (None, 405)):
            config = {**here.config, "purge_method": change} if change else dict(here.config)
            if change is None:
                del config["purge_method"]
            here.proxy.write(config)
            reloads = here.proxy.stderr.count("configuration reloaded")
            here.proxy.signal(signal.SIGHUP)
            await eventually(
                lambda before=reloads: here.proxy.stderr.count("configuration reloaded") > before,  # type: ignore[misc]
                "it has reloaded",
            )
            assert (await ask(stream, raw)).status == status
        stream.close()


# -- tags


def _tagged(path: str, *, validated: bool = False) -> Any:  # noqa: ANN401 - a handler
    fields = (
        "Surrogate-Key: one two",
        "Cache-Tag: three, four five",
        'Cache-Groups: "six"',
        f"Cache-Control: max-age={0 if validated else 600}",
        'ETag: "1"',
    )

    async def handler(call: Call) -> None:
        unchanged = call.head.get("if-none-match") == '"1"'
        if unchanged:
            call.write("".join(f"{x}\r\n" for x in ("HTTP/1.1 304 Not Modified", *fields, "")).encode())
        else:
            call.answer(path, *fields)

    return handler


TAGS: Final = {
    "one": "Surrogate-Key",
    "two": "another Surrogate-Key",
    "three": "Cache-Tag",
    "four five": "Cache-Tag with a space",
    f"http://{HOST} six": "Cache-Groups",
    "shop:north": "a capture of the path",
    "shop:north:12": "two captures",
    "all": "a tag of the route",
}


def _with_tags(*, forward: bool) -> dict[str, Any]:
    tags = ["shop:{shop}", "shop:{shop}:{id}", "all"]
    match = {"path": "/shop/{shop}/{id}"}
    route = {"name": "r", "match": match, "upstream": "origin", "cache": {"tags": tags, "forward_tags": forward}}
    return {"routes": [route]}


async def test_every_kind_of_tag_takes_out_what_carries_it_and_nothing_else(tmp_path: Path) -> None:
    async with site(tmp_path, _with_tags(forward=False)) as here:
        here.upstream.on("/shop/north/12", _tagged("mine"))
        here.upstream.on("/shop/south/12", replies("other", FRESH, "Surrogate-Key: on", 'Cache-Groups: "Six"'))
        assert not (await here.get("/shop/south/12")).hit
        admin = await Stream.open(here.admin)
        for tag, what in TAGS.items():
            if tag == "all":
                assert (await here.get("/shop/south/12")).hit, "nothing so far was its tag"
            await here.get("/shop/north/12")
            assert (await here.get("/shop/north/12")).hit, what
            body = json.dumps({"tags": [tag]}).encode()
            fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
            raw = request("/invalidate?wait=1s", *fields, method="POST", host="localhost") + body
            assert (await ask(admin, raw)).status == 200
            assert not (await here.get("/shop/north/12")).hit, what
        assert not (await here.get("/shop/south/12")).hit
        admin.close()


@pytest.mark.parametrize("forward", [False, True], ids=["kept", "forwarded"])
async def test_tag_headers_are_for_clients_where_the_route_says_so(tmp_path: Path, forward: bool) -> None:
    async with site(tmp_path, _with_tags(forward=forward)) as here:
        here.upstream.on("/shop/a/1", _tagged("fresh"))
        here.upstream.on("/shop/a/2", _tagged("validated", validated=True))
        for path, caches in (("/shop/a/1", ("fwd=uri-miss", "hit")), ("/shop/a/2", ("fwd=uri-miss", "fwd=stale"))):
            for cache in caches:
                response = await here.get(path)
                assert cache in response.cache
                seen = [response.head.get(name) for name in ("surrogate-key", "cache-tag", "cache-groups")]
                # Groups are for every cache on the way (RFC 9875 section 2).
                assert seen == (["one two", "three, four five", '"six"'] if forward else [None, None, '"six"'])
