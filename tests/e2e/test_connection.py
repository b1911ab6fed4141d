"""Connections: versions, keep-alive, expectations, events as they come, upgrades."""

import asyncio
import base64

import pytest

from tests.e2e.harness import Site, ask, post, receive, request
from tests.e2e.process import eventually
from tests.e2e.stream import PATIENCE, End, Framing
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRESH = "Cache-Control: max-age=600"


async def _chunked(call: Call) -> None:
    call.write(head("Cache-Control: no-store", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")


async def test_a_1_1_connection_stays_open_until_somebody_says_close(here: Site) -> None:
    here.upstream.on("/keep", replies("keep", FRESH))
    stream = await here.connect()
    for _ in range(3):
        assert "close" not in ((await ask(stream, request("/keep"))).head.get("connection") or "")
    last = await ask(stream, request("/keep", "Connection: close"))
    assert last.head["connection"].lower() == "close"
    assert await stream.rest() == (b"", End.FIN)


@pytest.mark.parametrize("path", ["/hit-1.0", "/miss-1.0"])
async def test_a_1_0_connection_closes_unless_somebody_says_keep_alive(here: Site, path: str) -> None:
    here.upstream.on(path, replies("old", FRESH if path == "/hit-1.0" else "Cache-Control: no-store"))
    await here.get(path)
    stream = await here.connect()
    for _ in range(2):
        response = await ask(stream, request(path, "Connection: keep-alive", version="1.0"))
        assert response.text == "old"
        assert "keep-alive" in response.head["connection"].lower()
    await ask(stream, request(path, version="1.0"))
    assert await stream.rest() == (b"", End.FIN)


async def test_a_1_0_client_is_never_sent_chunks(here: Site) -> None:
    here.upstream.on("/chunked", _chunked)
    stream = await here.connect()
    response = await ask(stream, request("/chunked", "Connection: keep-alive", version="1.0"))
    assert (response.framing, response.text) == (Framing.CLOSE, "abcdef")
    assert stream.end is End.FIN
    assert (await here.get("/chunked")).framing is Framing.CHUNKED


async def test_a_client_may_close_its_half_after_asking(here: Site) -> None:
    here.upstream.on("/half", replies("half", FRESH))
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    writer.write(request("/half", "Connection: close"))
    writer.write_eof()
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"half")
    writer.close()
    await writer.wait_closed()


async def test_a_body_is_asked_for_before_it_is_sent(here: Site) -> None:
    async def echo(call: Call) -> None:
        call.answer(await call.body())

    here.upstream.on("/expect", echo)
    stream = await here.connect()
    for _ in range(2):
        stream.write(request("/expect", "Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert (await receive(stream)).status == 100
        stream.write(b"hello")
        response = await receive(stream)
        assert (response.status, response.text) == (200, "hello")
    stream.close()


async def test_a_body_that_is_not_wanted_is_not_waited_for(here: Site) -> None:
    async def refuse(call: Call) -> None:
        call.answer("no", "Connection: close", status="403 Forbidden")
        call.stream.close()

    here.upstream.on("/unwanted", refuse)
    stream = await here.connect()
    stream.write(request("/unwanted", "Expect: 100-continue", "Content-Length: 500000", method="PUT"))
    response = await receive(stream)
    if response.status == 100:  # allowed: we may ask for the body before the upstream has judged
        response = await receive(stream)
    assert (response.status, response.text) == (403, "no")
    # Either the connection ends, or what comes next on it is the rest of this request.
    assert response.head.get("connection") == "close"
    assert (await stream.rest())[0] == b""
    stream.close()


async def test_an_answer_before_the_end_of_the_body_is_relayed(here: Site) -> None:
    async def early(call: Call) -> None:
        call.answer("too large", "Connection: close", status="413 Content Too Large")

    here.upstream.on("/early", early)
    here.upstream.on("/after", replies("after"))
    stream = await here.connect()
    stream.write(request("/early", "Content-Length: 100000", method="POST") + b"x" * 1000)
    response = await receive(stream, "POST")
    assert (response.status, response.text) == (413, "too large")
    stream.write(b"x" * 99_000 + request("/after"))
    raw, _ = await stream.rest() if response.head.get("connection") == "close" else (b"after", End.FIN)
    assert raw in (b"", b"after")
    stream.close()


async def test_an_event_arrives_when_it_is_sent(here: Site) -> None:
    more = [asyncio.Event() for _ in range(3)]

    async def events(call: Call) -> None:
        call.write(head("Content-Type: text/event-stream", "Cache-Control: no-cache", "Transfer-Encoding: chunked"))
        for number, go in enumerate(more):
            await go.wait()
            call.write(f"9\r\ndata: {number}\n\n\r\n".encode())
        call.write(b"0\r\n\r\n")

    here.upstream.on("/events", events)
    stream = await here.connect()
    stream.write(request("/events", "Accept: text/event-stream"))
    head_ = await stream.head()
    assert head_["content-type"] == "text/event-stream"
    pieces = stream.pieces(*head_.framing())
    for number, go in enumerate(more):
        go.set()
        async with asyncio.timeout(PATIENCE):
            assert await anext(pieces) == f"data: {number}\n\n".encode()
    assert [piece async for piece in pieces] == []
    stream.close()


async def test_two_listen_to_events_at_the_same_time(here: Site) -> None:
    go, asked = asyncio.Event(), asyncio.Event()

    async def events(call: Call) -> None:
        call.write(head("Content-Type: text/event-stream", "Cache-Control: no-store", "Transfer-Encoding: chunked"))
        call.write(b"5\r\nhello\r\n")
        if here.upstream.count("/both") == 2:
            asked.set()
        await go.wait()
        call.write(b"0\r\n\r\n")

    here.upstream.on("/both", events)
    streams = await here.crowd(2)
    for stream in streams:
        stream.write(request("/both"))
    for stream in streams:
        async with asyncio.timeout(PATIENCE):
            await stream.until(b"hello")
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    go.set()
    for stream in streams:
        stream.close()


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef").decode(),
)


async def test_an_upgrade_is_tunnelled_after_the_101_and_nothing_before_it(here: Site) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def switch(call: Call) -> None:
        assert call.head["upgrade"] == "websocket"
        assert "upgrade" in call.head["connection"].lower()
        arrived.set()
        await gate.wait()
        assert not call.stream.buffer  # nothing came behind the request
        call.write(
            head(
                "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: x", status="101 Switching Protocols"
            )
        )
        call.write(b"\x81\x02hi")
        assert await call.stream.exactly(5) == b"early"
        while call.stream.buffer or await call.stream.more():
            call.write(bytes(call.stream.buffer)[::-1])
            call.stream.buffer.clear()

    here.upstream.on("/socket", switch)
    here.upstream.on("/sync", replies("sync", "Cache-Control: no-store"))
    stream = await here.connect()
    stream.write(request("/socket", *UPGRADE) + b"early")
    async with asyncio.timeout(PATIENCE):
        await arrived.wait()
    for _ in range(5):
        await here.get("/sync")
    gate.set()
    head_ = await stream.head()
    assert head_.start[1] == "101"
    assert head_["upgrade"] == "websocket"
    assert head_["connection"].lower() == "upgrade"
    assert head_["sec-websocket-accept"] == "x"
    assert await stream.exactly(4) == b"\x81\x02hi"
    for message in (b"\0one", b"two\xff" * 10_000):
        stream.write(message)
        got = b""
        while len(got) < len(message):
            got = await stream.exactly(min(len(stream.buffer) or 1, len(message) - len(got))) + got
        assert sorted(got) == sorted(message)
    working = here.upstream.seen("/socket")[0].stream
    stream.close()
    await eventually(lambda: working.end is not None, "the upstream sees the end")


async def test_the_upstream_may_end_a_tunnel(here: Site) -> None:
    async def switch(call: Call) -> None:
        call.write(head("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols") + b"bye")
        call.stream.close()

    here.upstream.on("/bye", switch)
    stream = await here.connect()
    stream.write(request("/bye", *UPGRADE))
    assert (await stream.head()).start[1] == "101"
    assert await stream.rest() == (b"bye", End.FIN)


async def test_a_refused_upgrade_is_an_answer_like_any_other(here: Site) -> None:
    here.upstream.on("/refused", replies("no", status="403 Forbidden"))
    stream = await here.connect()
    response = await ask(stream, request("/refused", *UPGRADE))
    assert (response.status, response.text) == (403, "no")
    stream.close()
    smuggling = await here.connect()
    before = len(here.upstream.calls)
    response = await ask(smuggling, request("/refused", *UPGRADE) + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
    assert response.status == 403
    smuggling.close()
    # What stood behind it was at most a request of its own, with our marks on it; never raw bytes.
    assert all("via" in call.head for call in here.upstream.calls[before:])


async def test_a_101_that_nobody_asked_for_is_502(here: Site) -> None:
    async def switch(call: Call) -> None:
        call.write(head("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols"))
        await call.stream.rest()

    here.upstream.on("/unasked", switch)
    assert (await here.get("/unasked")).status == 502


async def test_an_upgrade_is_never_answered_from_the_cache(here: Site) -> None:
    here.upstream.on("/both-ways", replies("plain", FRESH))
    await here.get("/both-ways")
    here.upstream.on("/both-ways", replies("asked again", FRESH))
    assert (await here.get("/both-ways", *UPGRADE)).text == "asked again"


async def test_a_post_on_a_stored_url_leaves_the_connection_in_step(here: Site) -> None:
    here.upstream.on("/step", replies("step", FRESH))
    stream = await here.connect()
    for _ in range(20):
        assert (await ask(stream, request("/step"))).text == "step"
        assert (await ask(stream, post("/step", b"x" * 70_000))).text == "step"
    stream.close()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("end", [End.FIN, End.RST], ids=lambda end: end.value)
async def test_a_body_cut_by_the_client_is_never_whole_upstream(here: Site, framing: str, end: End) -> None:
    here.upstream.on("/upload", replies("taken"))
    before = here.upstream.count("/upload")
    stream = await here.connect()
    stream.write(request("/upload", framing, method="POST") + b"5\r\nhello\r\n")
    await eventually(lambda: here.upstream.count("/upload") > before, "it is on its way")
    call = here.upstream.seen("/upload")[-1]
    if end is End.RST:
        stream.reset()
    else:
        stream.close()
    await eventually(lambda: call.stream.end is not None, "the upstream sees the cut")
    assert not call.complete


ENDS = {
    "a head with a length for HEAD": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "HEAD"),
    "chunked announced for HEAD": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
    "nothing announced for HEAD": (b"HTTP/1.1 200 OK\r\n\r\n", "HEAD"),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET"),
    "204 with another length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", "GET"),
    "304 with a length": (b'HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: "1"\r\n\r\n', "GET"),
    "an empty reason": (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", "GET"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET"),
    "an empty chunked body": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_answer_without_a_body_ends_where_it_ends(here: Site, name: str) -> None:
    answer, method = ENDS[name]

    async def handler(call: Call) -> None:
        call.write(answer)

    path = f"/ends-{list(ENDS).index(name)}"
    here.upstream.on(path, handler)
    here.upstream.on("/following", replies("following", "Cache-Control: no-store"))
    stream = await here.connect()
    for _ in range(2):
        response = await ask(stream, request(path, method=method))
        assert response.status == int(answer[9:12])
        assert response.body == b""
        assert (await ask(stream, request("/following"))).text == "following"
    stream.close()
