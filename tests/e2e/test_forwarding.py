"""What passes through, unchanged or changed as the contract says."""

import re

import pytest

from tests.e2e.harness import HOST, Site, ask, post, request
from tests.e2e.stream import Head
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"
DATE = "Mon, 06 Jan 2025 10:00:00 GMT"


async def _sent(here: Site, path: str, *headers: str, raw: bytes | None = None) -> Head:
    """What the upstream saw of a request."""
    here.upstream.on(path, replies("ok", "Cache-Control: no-store"))
    assert (await here.send(raw or request(path, *headers))).status == 200
    return here.upstream.seen(path)[-1].head


def _names(head_: Head) -> list[str]:
    return [name for name, _ in head_.headers]


async def test_a_request_reaches_the_upstream_as_it_was(here: Site) -> None:
    lines = ["X-Bb: 1", "x-aA: 2", "X-BB: 3", "Accept-Encoding: gzip;q=0.5", "User-Agent: me", "COOKIE: a=b; c=d"]
    head_ = await _sent(here, "/as-it-was", *lines)
    wanted = [tuple(line.split(": ", 1)) for line in lines]
    assert [pair for pair in head_.headers if pair in wanted] == wanted
    assert head_["host"] == f"127.0.0.1:{here.upstream.port}"
    assert head_.start[2] == "HTTP/1.1"


async def test_nothing_is_added_that_nobody_asked_for(here: Site) -> None:
    names = {name.lower() for name in _names(await _sent(here, "/bare"))}
    assert not names & {"accept", "accept-encoding", "user-agent", "content-type", "content-length", "cookie", "te"}


@pytest.mark.parametrize(
    "target",
    [
        "/a%20b",
        "/caf%C3%A9",
        "/x;y=z",
        "/x?a=%2F&b=%00&c=../..",
        "/x?",
        "/x??",
        "/x?a=b+c&d=%7e",
        "/x//y",
        "/*",
        "/x?q=|^",
    ],
)
async def test_a_target_is_forwarded_as_it_came(here: Site, target: str) -> None:
    path = target.partition("?")[0]
    await _sent(here, path, raw=request(target))
    assert here.upstream.seen(path)[-1].target == target


async def test_a_response_comes_back_as_it_was_also_from_the_cache(here: Site) -> None:
    lines = [
        FRESH,
        "X-Bb: 1",
        "x-aA:2",
        "X-BB: 3",
        "SERVER: it/1.0",
        f"Date: {DATE}",
        'ETag: W/"\u00fc"',
        "Location: ../b",
    ]

    async def handler(call: Call) -> None:
        call.write(head(*lines, "Content-Length: 2", "CDN-Cache-Control: max-age=99999999", status="203 So So") + b"ok")

    here.upstream.on("/came", handler)
    for hit in (False, True):
        response = await here.get("/came")
        assert response.head.start == ("HTTP/1.1", "203", "So So")
        wanted = [tuple(re.split(": ?", line, maxsplit=1)) for line in lines]
        assert [pair for pair in response.head.headers if pair in wanted] == wanted
        assert response.head["cdn-cache-control"] == "max-age=99999999"
        assert response.hit is hit


async def test_a_date_is_added_where_there_is_none(here: Site) -> None:
    here.upstream.on("/date", replies("x"))
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", (await here.get("/date")).head["date"])


async def test_via_says_the_received_version_both_ways(here: Site) -> None:
    async def old(call: Call) -> None:
        await call.body()
        call.write(b"HTTP/1.0 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 2\r\n\r\nok")
        call.stream.close()

    assert re.fullmatch(r"1\.1 \S+", (await _sent(here, "/via"))["via"])
    assert re.fullmatch(r"1\.0 first, 1\.1 \S+", (await _sent(here, "/via", "Via: 1.0 first"))["via"])
    assert re.fullmatch(r"1\.0 \S+", (await _sent(here, "/via", raw=request("/via", version="1.0")))["via"])
    assert re.fullmatch(r"1\.1 \S+", (await here.get("/via")).head["via"])
    here.upstream.on("/via-old", old)
    assert re.fullmatch(r"1\.1 inner, 1\.0 \S+", (await here.get("/via-old")).head["via"])


async def test_the_client_is_named_to_the_upstream(here: Site) -> None:
    head_ = await _sent(here, "/named")
    assert head_["x-forwarded-for"] == "127.0.0.1"
    assert head_["x-forwarded-proto"] == "http"
    assert head_["x-forwarded-host"] == HOST
    parts = {
        part.partition("=")[0].lower(): part.partition("=")[2].strip('"') for part in head_["forwarded"].split(";")
    }
    assert parts == {"for": "127.0.0.1", "proto": "http", "host": HOST} | {k: parts[k] for k in parts if k == "by"}


FORGED = (
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.test",
    "Forwarded: for=1.2.3.4;proto=https;host=evil.test",
    "x-forwarded-FOR: 5.6.7.8",
)


async def test_what_a_stranger_says_of_itself_is_replaced(here: Site) -> None:
    head_ = await _sent(here, "/forged", *FORGED)
    assert head_["x-forwarded-for"] == "127.0.0.1"
    assert head_["x-forwarded-proto"] == "http"
    assert head_["x-forwarded-host"] == HOST
    assert "1.2.3.4" not in head_["forwarded"]
    assert "evil" not in str(head_)


async def test_what_a_stranger_claims_of_its_request_reaches_nobody(here: Site) -> None:
    claims = ["X-Forwarded-Port: 666", "X-Original-URL: /evil", "X_Rewrite_URL: /evil", "X-HTTP-Method-Override: evil"]

    async def handler(call: Call) -> None:
        call.answer(str(call.head), FRESH)

    here.upstream.on("/claims", handler)
    assert not re.search("666|evil|override", (await here.get("/claims", *claims)).text, re.IGNORECASE)
    assert (await here.get("/claims")).hit


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via"])
async def test_connection_cannot_remove_what_we_say(here: Site, name: str) -> None:
    assert name in await _sent(here, f"/says-{name}", f"Connection: close, {name}", *FORGED)


@pytest.mark.parametrize("name", ["Cookie", "Authorization", "Cache-Control", "Host"])
async def test_connection_cannot_remove_what_decides(here: Site, name: str) -> None:
    line = [] if name == "Host" else [f"{name}: max-age=7"]
    head_ = await _sent(here, f"/decides-{name}", f"Connection: {name.lower()}, keep-alive", *line)
    assert name in head_
    assert name == "Host" or head_[name] == "max-age=7"


async def test_hop_by_hop_fields_stay_on_their_hop(here: Site) -> None:
    mine = [
        "Connection: close, X-Mine",
        "X-Mine: 1",
        "Keep-Alive: timeout=9",
        "TE: trailers",
        "Proxy-Connection: close",
        "Proxy-Authorization: Basic eA==",
        "Upgrade: h2c",
    ]
    head_ = await _sent(here, "/hop", *mine)
    for name in ("x-mine", "keep-alive", "te", "proxy-connection", "upgrade"):
        assert name not in head_
    assert "close" not in (head_.get("connection") or "")

    async def handler(call: Call) -> None:
        call.answer(
            "ok",
            FRESH,
            "Connection: keep-alive, X-Theirs",
            "X-Theirs: 1",
            "Keep-Alive: timeout=9",
            "Proxy-Authenticate: Basic",
            "X-Ours: 2",
        )

    here.upstream.on("/hop-back", handler)
    for _ in range(2):
        response = await here.get("/hop-back")
        assert "x-theirs" not in response.head
        assert "keep-alive" not in response.head
        assert response.head["x-ours"] == "2"


async def test_redirects_cookies_and_codings_are_the_clients_business(here: Site) -> None:
    here.upstream.on(
        "/moved",
        replies(
            b"\x1f\x8bno gzip",
            "Location: /elsewhere",
            "Set-Cookie: a=b",
            "Set-Cookie: c=d",
            "Content-Encoding: gzip",
            status="302 Found",
        ),
    )
    response = await here.get("/moved")
    assert (response.status, response.head["location"], response.body) == (302, "/elsewhere", b"\x1f\x8bno gzip")
    assert [value for name, value in response.head.headers if name == "Set-Cookie"] == ["a=b", "c=d"]
    assert here.upstream.count("/elsewhere") == 0
    assert "cookie" not in await _sent(here, "/jar")


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "204 No Content", "304 Not Modified", "299 Odd", "500 X"])
async def test_every_status_passes_and_the_connection_stays_in_step(here: Site, status: str) -> None:
    path = f"/status-{status[:3]}"
    empty = status[:3] in ("204", "304")

    async def handler(call: Call) -> None:
        if empty:
            call.write(head('ETag: "1"', status=status))
        else:
            call.answer("body", status=status)

    here.upstream.on(path, handler)
    here.upstream.on("/next", replies("next"))
    stream = await here.connect()
    for _ in range(2):
        response = await ask(stream, request(path))
        assert response.head.start[1:] == tuple(status.split(" ", 1))
        assert response.text == ("" if empty else "body")
        assert (await ask(stream, request("/next"))).text == "next"
    stream.close()


async def test_information_before_the_answer_does_not_replace_it(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        call.answer("final", FRESH)

    here.upstream.on("/early", handler)
    stream = await here.connect()
    response = await ask(stream, request("/early"))
    while response.status < 200:
        response = await ask(stream, b"")
    assert response.text == "final"
    stream.close()
    assert (await here.get("/early")).hit


async def test_an_options_goes_as_far_as_its_client_says(here: Site) -> None:
    here.upstream.on("/hops", replies("ok"))
    assert (await here.get("/hops", "Max-Forwards: 1", method="OPTIONS")).status == 200
    assert here.upstream.seen("/hops")[-1].head["max-forwards"] == "0"
    here_alone = await here.get("/hops", "Max-Forwards: 0", method="OPTIONS")
    assert (here_alone.status, here_alone.head["allow"]) == (405, "GET, HEAD, POST, PUT, DELETE")
    assert here.upstream.count("/hops") == 1


async def test_a_204_says_no_length(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.write(head("Content-Length: 5", FRESH, status="204 No Content"))

    here.upstream.on("/empty", handler)
    for hit in (False, True):
        response = await here.get("/empty")
        assert (response.status, response.hit) == (204, hit)
        assert "content-length" not in response.head


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_methods_and_bodies_pass(here: Site, method: str) -> None:
    async def echo(call: Call) -> None:
        call.answer(call.method.encode() + b":" + await call.body())

    here.upstream.on("/method", echo)
    assert (await here.send(post("/method", b"\0body", method=method))).body == method.encode() + b":\0body"
    assert (await here.send(request("/method", "Content-Length: 0", method=method))).body == method.encode() + b":"


async def test_a_trace_context_is_passed_on(here: Site) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    head_ = await _sent(here, "/trace", f"traceparent: {trace}", "tracestate: a=b")
    assert head_["traceparent"] == trace
    assert head_["tracestate"] == "a=b"
