"""Many requests on one connection without waiting (RFC 9112 section 9.3.2)."""

import asyncio
import socket

import pytest

from tests.e2e.harness import Site, ask, post, receive, request
from tests.e2e.stream import Stream
from tests.e2e.upstream import Call, counts, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
BIG = bytes(range(256)) * 256
CONFIG = {"limits": {"write_timeout": "120s"}}


async def test_a_get_behind_a_post_is_not_the_hit_from_before_it(here: Site) -> None:
    here.upstream.on("/it", counts("Cache-Control: max-age=600"))
    assert (await here.get("/it")).text == "1"
    stream = await here.connect()
    stream.write(request("/it") + post("/it", b"change") + request("/it"))
    first, changed, last = [await receive(stream) for _ in range(3)]
    stream.close()
    assert (first.text, changed.text, last.text) == ("1", "2", "3")
    assert first.hit
    assert not last.hit
    assert here.upstream.seen("/it")[1].received == b"change"


async def test_answers_come_in_the_order_of_the_requests(here: Site) -> None:
    gate = asyncio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        call.answer("slow", "Cache-Control: no-store")

    here.upstream.on("/slow", slow)
    here.upstream.on("/quick", replies("quick", "Cache-Control: max-age=600"))
    await here.get("/quick")
    stream = await here.connect()
    stream.write(request("/slow") + request("/quick") * 3 + request("/slow"))
    assert (await here.get("/quick")).hit  # the proxy has read what was sent before, and waits
    assert not stream.buffer
    gate.set()
    assert [(await receive(stream)).text for _ in range(5)] == ["slow", "quick", "quick", "quick", "slow"]
    stream.close()


async def test_requests_in_single_bytes_are_requests(here: Site) -> None:
    here.upstream.on("/bytes", replies("bytes", "Cache-Control: max-age=600"))
    stream = await here.connect()
    for raw in (request("/bytes"), post("/bytes", b"ab"), request("/bytes")):
        for at in range(len(raw)):
            stream.write(raw[at : at + 1])
            await asyncio.sleep(0)
        assert (await receive(stream)).text == "bytes"
    stream.close()


async def test_a_client_that_does_not_read_costs_no_memory(here: Site) -> None:
    here.upstream.on("/big", replies(BIG, "Cache-Control: max-age=600"))
    stream = await here.connect()
    for _ in range(200):
        assert len((await ask(stream, request("/big"))).body) == len(BIG)
    stream.close()

    one = request("/big")
    times = 128 * 1024 // len(one)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", here.port))
    here.proxy.forget_peak()
    before = here.proxy.memory()
    sending = asyncio.create_task(loop.sock_sendall(sock, one * times))
    await _still(here)
    assert (here.proxy.peak() - before) / MIB < 8

    # And once it reads, every answer is there.
    reader = Stream()
    await loop.create_connection(lambda: reader, sock=sock)
    for _ in range(times):
        response = await receive(reader)
        assert response.body == BIG
    await sending
    reader.close()
    assert (here.proxy.peak() - before) / MIB < 8
    assert here.upstream.count("/big") == 1


async def _still(here: Site) -> None:
    """Wait until the proxy uses no more processor time: it has done all it can."""
    stat = f"/proc/{here.proxy.process.pid}/stat"
    used, quiet = "", 0
    while quiet < 10:
        with open(stat) as file:  # noqa: ASYNC230, PTH123
            now = " ".join(file.read().rpartition(")")[2].split()[11:13])
        quiet = quiet + 1 if now == used else 0
        used = now
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "body",
    [
        post("/other", b"hello", method="GET"),
        request("/other", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("primed", [True, False], ids=["hit", "miss"])
async def test_a_get_with_a_body_does_not_bring_the_connection_out_of_step(
    here: Site, body: bytes, primed: bool
) -> None:
    here.upstream.on("/other", replies("other", "Cache-Control: max-age=600"))
    here.upstream.on("/after", replies("after", "Cache-Control: no-store"))
    if primed:
        await here.get("/other")
    stream = await here.connect()
    stream.write(body + request("/after") + body + request("/after"))
    assert [(await receive(stream)).text for _ in range(4)] == ["other", "after", "other", "after"]
    stream.close()
    assert all(call.complete for call in here.upstream.calls)
    assert "hello" not in {call.target for call in here.upstream.calls}


async def test_a_body_that_looks_like_a_request_is_a_body(here: Site) -> None:
    here.upstream.on("/cached", replies("cached", "Cache-Control: max-age=600"))
    await here.get("/cached")
    stream = await here.connect()
    smuggled = request("/smuggled")
    for method in ("GET", "HEAD", "POST", "DELETE"):
        response = await ask(stream, post("/cached", smuggled, method=method))
        assert response.status == 200
        assert (await ask(stream, request("/cached"))).text == "cached"
    stream.close()
    assert here.upstream.count("/smuggled") == 0
