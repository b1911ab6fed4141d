"""Clients that dawdle (section 7 of the design: every limit is a deadline)."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.e2e.harness import Site, ask, request, site
from tests.e2e.process import eventually
from tests.e2e.stream import End, Stream, parse_head
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
FRESH = "Cache-Control: max-age=600"
CONFIG = {
    "limits": {
        "header_timeout": "1s",
        "body_timeout": "1s",
        "write_timeout": "1s",
        "idle_timeout": "2s",
    },
    "defaults": {"cache": {"max_object_size": "64MiB"}},
}


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _ended(stream: Stream, started: float, least: float, most: float) -> tuple[bytes, End]:
    """How the connection ended, which took a time between these seconds from when it started."""
    raw, end = await stream.rest()
    assert least < _now() - started < most
    stream.close()
    return raw, end


def _is_408(raw: bytes) -> None:
    answer = parse_head(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert answer.start[1] == "408"
    assert answer["content-type"] == "application/problem+json"
    assert answer["connection"].lower() == "close"


@pytest.mark.clock
@pytest.mark.parametrize(
    "part", [b"GET", request("/x")[:-2], b"GET / HTTP/1.1\r\nHost: "], ids=["method", "no-end", "half"]
)
async def test_half_a_head_is_408_in_time(here: Site, part: bytes) -> None:
    started = _now()
    stream = await here.connect()
    stream.write(part)
    raw, _ = await _ended(stream, started, 0.8, 6)
    _is_408(raw)


@pytest.mark.clock
async def test_a_head_in_drops_is_408_all_the_same(here: Site) -> None:
    stream = await here.connect()
    loop = asyncio.get_running_loop()
    started = loop.time()
    for byte in request("/x", "X: " + "y" * 200):
        if stream.end is not None:
            break
        stream.write(bytes([byte]))
        await asyncio.sleep(0.05)
    assert loop.time() - started < 6
    _is_408((await stream.rest())[0])
    stream.close()


@pytest.mark.clock
async def test_half_a_head_behind_a_served_request_is_408_too(here: Site) -> None:
    here.upstream.on("/served", replies("served", FRESH))
    stream = await here.connect()
    await ask(stream, request("/served"))
    started = _now()
    stream.write(b"GET /served HT")
    _is_408((await _ended(stream, started, 0.8, 6))[0])


@pytest.mark.clock
async def test_an_idle_connection_is_closed_without_a_word(here: Site) -> None:
    here.upstream.on("/served", replies("served", FRESH))
    stream = await here.connect()
    started = _now()
    await ask(stream, request("/served"))
    assert await _ended(stream, started, 1.5, 8) == (b"", End.FIN)


@pytest.mark.clock
async def test_a_connection_that_never_says_anything_is_closed(here: Site) -> None:
    started = _now()
    stream = await here.connect()
    raw, _ = await _ended(stream, started, 0.8, 8)
    assert raw == b"" or b" 408 " in raw


@pytest.mark.clock
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_stalls_is_408_and_never_whole_upstream(here: Site, framing: str) -> None:
    here.upstream.on("/stalled", replies("stored"))
    stream = await here.connect()
    started = _now()
    stream.write(request("/stalled", framing, method="POST") + b"5\r\nhello\r\n")
    raw, _ = await _ended(stream, started, 0.8, 6)
    _is_408(raw)
    assert not here.upstream.seen("/stalled")[-1].complete


@pytest.mark.clock
async def test_an_upstream_that_thinks_is_not_the_clients_fault(here: Site) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(3)
        call.answer("at last", "Cache-Control: no-store")

    here.upstream.on("/thinks", slow)
    stream = await here.connect()
    assert (await ask(stream, request("/thinks"))).text == "at last"
    stream.close()


@pytest.mark.clock
async def test_a_quiet_event_stream_is_not_cut(here: Site) -> None:
    async def quiet(call: Call) -> None:
        call.write(head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + b"1\r\na\r\n")
        await asyncio.sleep(3)
        call.write(b"1\r\nb\r\n0\r\n\r\n")

    here.upstream.on("/quiet", quiet)
    assert (await here.get("/quiet")).text == "ab"


def _established(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


@pytest.mark.clock
@pytest.mark.parametrize("control", [FRESH, "Cache-Control: no-store"], ids=["stored", "streamed"])
async def test_a_reader_that_stalls_is_cut(here: Site, control: str) -> None:
    path = f"/stall-{control[-3:]}"
    here.upstream.on(path, replies(b"x" * (24 * MIB), control, "Connection: close"))
    if control == FRESH:
        await here.get(path)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", here.port))
        started = loop.time()
        await loop.sock_sendall(sock, request(path))
        await eventually(lambda: not _established(sock), "it is cut", 8)
        assert loop.time() - started > 0.8


@pytest.mark.clock
async def test_a_slow_reader_that_goes_on_reading_is_not_cut(here: Site) -> None:
    body = b"x" * (8 * MIB)
    here.upstream.on("/steady", replies(body, FRESH))
    stream = await Stream.open(here.port, limit=1 << 16)
    stream.write(request("/steady"))
    head_ = await stream.head()
    got = 0
    async for piece in stream.pieces(*head_.framing()):
        got += len(piece)
        await asyncio.sleep(len(piece) / (3 * MIB))
    assert got == len(body)
    stream.close()


async def test_beyond_the_most_connections_the_rest_still_work(tmp_path: Path) -> None:
    async with site(tmp_path, {"limits": {"max_connections": 60}}) as here:
        here.upstream.on("/served", replies("served", FRESH))
        await here.get("/served")
        streams = [await here.connect() for _ in range(60)]
        answers = await asyncio.gather(*(ask(stream, request("/served")) for stream in streams[:55]))
        assert all(answer.hit for answer in answers)
        surplus = [await here.connect() for _ in range(20)]
        for stream in surplus:
            stream.write(request("/served"))
        ends = [await stream.rest() for stream in surplus[-10:]]
        assert all(raw == b"" or raw.startswith(b"HTTP/1.1 503 ") for raw, _ in ends)
        for stream in streams + surplus:
            stream.close()
        await eventually(lambda: here.proxy.fds() < 50, "they are gone")
        assert (await here.get("/served")).hit
