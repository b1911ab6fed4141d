"""The upstream dies in the middle of a body."""

import asyncio

import pytest

from tests.e2e.harness import Site, receive, request
from tests.e2e.stream import Cut, End, Framing, Stream
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = 100
FRESH = "Cache-Control: max-age=600"
PART = b"x" * 5000
BEGINNINGS = {
    Framing.LENGTH: head(FRESH, "Content-Length: 10000") + PART,
    Framing.CHUNKED: head(FRESH, "Transfer-Encoding: chunked") + b"2000\r\n" + PART,
    Framing.CLOSE: head(FRESH) + PART,
}


class Killer:
    """Sends the beginning of an answer, and cuts once `go` is set."""

    def __init__(self, framing: Framing, end: End) -> None:
        self._beginning, self._end = BEGINNINGS[framing], end
        self.go = asyncio.Event()
        self.cuts = 0

    async def __call__(self, call: Call) -> None:
        await call.stream.send(self._beginning)
        await self.go.wait()
        if self._end is End.RST:
            call.stream.reset()
        else:
            call.stream.close()
        self.cuts += 1


async def _watch(stream: Stream) -> tuple[Framing, End | None]:
    """The framing of the response, and how it was cut; None when it looked whole."""
    response_head = await stream.head()
    assert response_head.start[1] == "200"
    framing, length = response_head.framing()
    try:
        body = await stream.body(framing, length)
    except Cut as cut:
        return framing, cut.end
    assert body == PART
    return framing, None


@pytest.mark.parametrize("end", [End.FIN, End.RST], ids=lambda end: end.value)
@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE], ids=lambda f: f.value)
async def test_a_cut_body_is_never_stored_nor_passed_off_as_whole(here: Site, framing: Framing, end: End) -> None:
    for number in range(TIMES):
        path = f"/{framing.value}-{end.value}-{number}"
        killer = Killer(framing, end)
        here.upstream.on(path, killer)
        stream = await here.connect()
        stream.write(request(path))
        while b"x" not in stream.buffer.partition(b"\r\n\r\n")[2]:
            assert await stream.more()
        killer.go.set()
        seen, cut = await _watch(stream)
        assert killer.cuts == 1
        if framing is Framing.CLOSE:
            assert seen is Framing.CLOSE
            assert cut is (None if end is End.FIN else End.RST)
        else:
            assert cut is not None
        assert stream.end is not None
        stream.close()

        here.upstream.on(path, replies("whole", FRESH))
        after = await here.get(path)
        assert after.text == "whole"
        assert after.cache.startswith("readthrough; fwd=uri-miss")
        assert here.upstream.count(path) == 2


@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED], ids=lambda f: f.value)
async def test_everybody_who_streamed_a_cut_body_sees_the_cut(here: Site, framing: Framing) -> None:
    path = f"/crowd-{framing.value}"
    killer = Killer(framing, End.RST)
    here.upstream.on(path, killer)
    streams = await here.crowd(20)
    for stream in streams:
        stream.write(request(path))
    for stream in streams:
        while b"x" not in stream.buffer.partition(b"\r\n\r\n")[2]:
            assert await stream.more()
    killer.go.set()
    assert all(cut is not None for _, cut in await asyncio.gather(*map(_watch, streams)))
    assert here.upstream.count(path) == 1
    for stream in streams:
        stream.close()


async def test_a_cut_before_the_first_byte_of_a_body_is_a_cut_too(here: Site) -> None:
    async def handler(call: Call) -> None:
        await call.stream.send(head(FRESH, "Content-Length: 10"))
        call.stream.close()

    here.upstream.on("/none", handler)
    stream = await here.connect()
    stream.write(request("/none"))
    try:
        response = await receive(stream)
    except Cut:
        pass
    else:
        assert response.status == 502
    stream.close()
    here.upstream.on("/none", replies("whole", FRESH))
    assert (await here.get("/none")).text == "whole"


async def test_more_bytes_than_promised_do_not_reach_the_next_request(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.write(head(FRESH, "Content-Length: 4") + b"goodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    here.upstream.on("/surplus", handler)
    here.upstream.on("/next", replies("next", "Cache-Control: no-store"))
    assert (await here.get("/surplus")).text == "good"
    for _ in range(5):
        assert (await here.get("/next")).text == "next"


OK = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n"
NO_ANSWERS = {
    "not-http": b"SSH-2.0-OpenSSH\r\n\r\n",
    "no-answer-at-all": b"",
    "a-length-that-is-none": OK + b"Content-Length: many\r\n\r\n",
    "a-signed-length": OK + b"Content-Length: +3\r\n\r\nabc",
    "two-lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "an-unknown-coding": OK + b"Transfer-Encoding: cow\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a-field-with-nul": OK + b"X-A: b\0c\r\nContent-Length: 3\r\n\r\nabc",
    "a-field-with-cr": OK + b"X-A: b\rSet-Cookie: c\r\nContent-Length: 3\r\n\r\nabc",
    "a-space-before-the-colon": OK + b"X-A : b\r\nContent-Length: 3\r\n\r\nabc",
    "another-version": OK.replace(b"1.1", b"2.0") + b"Content-Length: 3\r\n\r\nabc",
    "an-endless-head": OK + b"X-A: b\r\n" * 50_000 + b"Content-Length: 3\r\n\r\nabc",
    "an-endless-field": OK + b"X-A: " + b"b" * 300_000 + b"\r\nContent-Length: 3\r\n\r\nabc",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Len",
}


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_what_is_no_answer_becomes_502(here: Site, name: str) -> None:
    async def handler(call: Call) -> None:
        call.write(NO_ANSWERS[name])
        call.stream.close()

    here.upstream.on(f"/{name}", handler)
    response = await here.get(f"/{name}")
    assert response.status == 502
    assert response.head["content-type"] == "application/problem+json"
    here.upstream.on(f"/{name}", replies("fine"))
    assert (await here.get(f"/{name}")).text == "fine"


@pytest.mark.parametrize(
    "bad", [b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"-1\r\n", b"0\r\nno trailer\r\n\r\n"]
)
async def test_a_chunk_that_cannot_be_read_is_a_cut(here: Site, bad: bytes) -> None:
    go = asyncio.Event()

    async def handler(call: Call) -> None:
        call.write(BEGINNINGS[Framing.CHUNKED] + b"x" * (0x2000 - len(PART)) + b"\r\n")
        await go.wait()
        call.write(bad)

    here.upstream.on("/bad-chunk", handler)
    stream = await here.connect()
    stream.write(request("/bad-chunk"))
    await stream.until(b"x")
    go.set()
    raw, _ = await stream.rest()
    stream.close()
    assert not raw.endswith(b"0\r\n\r\n")
    here.upstream.on("/bad-chunk", replies("whole", "Cache-Control: no-store"))
    assert (await here.get("/bad-chunk")).text == "whole"
