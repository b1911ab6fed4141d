"""HTTP as the admin listener speaks it: bodies, and what goes wrong."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import pytest
from aiohttp import StreamReader, web

from proxy.admin import listener
from proxy.admin.listener import Bounds, Door
from proxy.flow.invalidation import Target
from tests.admin.kit import JSON, Admin, FakeLog, admin
from tests.admin.test_access import raw
from tests.e2e.process import eventually, free_port

POST = b"POST /invalidate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"


async def test_a_body_too_large_is_refused_by_what_it_says() -> None:
    async with admin() as here:
        body = io.BytesIO(b" " * (listener.MAX_BODY + 1))
        status, said, _ = await here.ask("/invalidate", "POST", JSON, data=body)
        assert (status, said["type"]) == (413, "urn:readthrough:error:body-too-large")


async def test_a_body_just_not_too_large_is_read() -> None:
    async with admin() as here:
        body = b'{"all":true}'.ljust(listener.MAX_BODY)
        assert (await here.ask("/invalidate", "POST", JSON, data=io.BytesIO(body)))[0] == 202


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_BODY_TIMEOUT", 0.05)
    async with admin() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b'Content-Length: 12\r\n\r\n{"all"')
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        assert here.log.batches == []


@pytest.mark.parametrize("body", [b'c\r\n{"all":true}\r\n0\r\n\r\n', b'c\r\n{"all"'])
async def test_a_body_that_does_not_say_how_long_it_is_changes_nothing(body: bytes) -> None:
    async with admin() as here:
        answer = await raw(here, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 411 ")
        assert b"urn:readthrough:error:length-required" in answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert here.log.batches == []


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b'Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\nc\r\n{"all":true}\r\n0\r\n\r\n',
        b'Content-Length: 12 \r\nContent-Length: 12\r\n\r\n{"all":true}',
        b"Content-Length: x\r\n\r\n" + b"x" * 100_000,
    ],
)
async def test_a_badly_framed_body_changes_nothing(rest: bytes) -> None:
    async with admin() as here:
        answer = await raw(here, POST + rest)
        assert b" 400 " in answer.partition(b"\r\n")[0]
        assert answer.count(b"urn:readthrough:error:malformed") == 1
        assert here.log.batches == []


async def test_a_client_that_leaves_in_mid_body_changes_nothing_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with admin() as here:
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b'Content-Length: 100\r\n\r\n{"all":true}')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await here.ask("/healthz"))[0] == 200
        assert here.log.batches == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_who_waits_to_be_asked_for_the_body_is_asked() -> None:
    async with admin() as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 12\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"all":true}')
        assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
        writer.close()
        await writer.wait_closed()


async def test_a_body_is_not_unpacked() -> None:
    async with admin() as here:
        headers = {**JSON, "Content-Encoding": "gzip"}
        assert (await here.ask("/invalidate", "POST", headers, data=b"\x1f\x8b"))[0] == 400


async def test_a_fault_of_ours_is_logged_and_nothing_of_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeLog):
        async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
            raise KeyError("inside", targets, who, soft)

    def broken(here: Admin) -> None:
        here.log = Broken()
        here.__post_init__()

    async with admin(change=broken) as here:
        status, said, _ = await here.invalidate({"all": True})
        assert (status, said["type"]) == (500, "urn:readthrough:error:internal")
        assert "inside" not in str(said)
    assert "POST /invalidate failed" in caplog.text
    assert "KeyError: ('inside'" in caplog.text


async def test_many_requests_share_a_connection() -> None:
    async with admin() as here:
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        answer = await raw(here, (head + b"\r\n") * 2 + head + b"Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 ") == 3


PATIENCE: Final = 30.0  # real seconds after which a test that hangs fails
LONG: Final = 3600.0


@asynccontextmanager
async def door(bounds: Bounds, handle: listener.Handler | None = None) -> AsyncIterator[tuple[Door, int]]:
    """A listener with such bounds, and its port."""

    async def alive(_request: web.BaseRequest) -> web.Response:
        return listener.json_answer({"status": "alive"})

    made, port = Door(handle or alive, bounds), free_port()
    runner = web.ServerRunner(made, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield made, port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()


async def is_cut(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


ALIVE: Final = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("begun", [b"GET /", ALIVE[:-2], b"POST / HTTP/1.1\r\nHost: localhost\r\nX: "])
@pytest.mark.parametrize("after", [False, True], ids=["at once", "after an answer"])
async def test_a_head_that_does_not_end_is_cut_however_its_bytes_trickle(begun: bytes, after: bool) -> None:
    async with door(Bounds(idle=LONG, head=0.3)) as (_, port), connected(port) as (reader, writer):
        if after:
            writer.write(ALIVE)
            assert b"alive" in await reader.readuntil(b"}")
        cut = asyncio.create_task(is_cut(reader))
        writer.write(begun)
        while not cut.done():
            await asyncio.sleep(0.02)
            if not writer.transport.is_closing():
                writer.write(b"x")
        assert await cut


@pytest.mark.clock
async def test_who_says_nothing_is_cut_later_and_who_asks_again_is_not() -> None:
    async with door(Bounds(idle=1.0, head=LONG)) as (made, port), connected(port) as (reader, writer):
        async with connected(port) as (silent, _):
            cut = asyncio.create_task(is_cut(silent))
            while not cut.done():
                await asyncio.sleep(0.05)
                writer.write(ALIVE)
                assert b"alive" in await reader.readuntil(b"}")
            assert await cut
        assert await is_cut(reader)
        assert made.waiting == {}


async def test_a_whole_head_ends_the_time_for_it() -> None:
    go = asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.Response:
        await go.wait()
        return listener.json_answer({})

    async with door(Bounds(idle=LONG, head=0.5), slow) as (_, port), connected(port) as (reader, writer):
        writer.write(ALIVE)
        await asyncio.sleep(0.8)
        go.set()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_an_answer_that_nobody_takes_is_cut() -> None:
    async def large(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * (32 << 20))

    async with door(Bounds(write=0.1), large) as (made, port), connected(port) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(ALIVE)
        await eventually(lambda: made.requests_count == 1 and not made.connections, "it is cut")
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(32 << 20)


async def test_however_many_come_to_stay_a_probe_gets_in() -> None:
    async with door(Bounds(connections=8)) as (made, port), AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(port)) for _ in range(20)]
        for _, writer in idle[10:]:
            writer.write(b"GET /")
        async with connected(port) as (reader, writer):
            writer.write(ALIVE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await eventually(lambda: len(made.connections) <= 8, "there is room again")
        assert all(await asyncio.gather(*[is_cut(reader) for reader, _ in idle[:12]]))


@pytest.mark.parametrize(("count", "status"), [(60, b"200"), (70, b"400")])
async def test_the_fields_of_a_head_are_counted(count: int, status: bytes) -> None:
    async with door(Bounds()) as (_, port), connected(port) as (reader, writer):
        writer.write(ALIVE[:-2] + b"".join([b"X-%d: y\r\n" % number for number in range(count)]) + b"\r\n")
        assert (await reader.readline()).split(b" ")[1] == status


async def test_who_has_asked_is_not_cut_for_others() -> None:
    go = asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.Response:
        await go.wait()
        return listener.json_answer({})

    async with door(Bounds(connections=2), slow) as (made, port), AsyncExitStack() as stack:
        asking = [await stack.enter_async_context(connected(port)) for _ in range(2)]
        for _, writer in asking:
            writer.write(ALIVE)
        await eventually(lambda: made.requests_count == 2, "both have asked")
        async with connected(port) as (reader, _):
            assert await is_cut(reader)
        go.set()
        for reader, _ in asking:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE: Final = ALIVE[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"


@pytest.mark.parametrize(
    ("before", "statuses"),
    [
        (b"", [b"411"]),
        (ALIVE * 2, [b"200", b"200", b"411"]),
        (ALIVE * 100, [*[b"200"] * 100, b"411"]),
        (UPGRADE, [b"200"]),
    ],
    ids=["alone", "behind others", "behind more than are read ahead", "behind an upgrade"],
)
async def test_of_a_body_in_chunks_hardly_any_are_read(
    before: bytes, statuses: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[bytes] = []
    monkeypatch.setattr(StreamReader, "feed_data", lambda _, data, _length=0: fed.append(data))
    async with door(Bounds(linger=0.1)) as (made, port), connected(port) as (reader, writer):
        writer.write(before + CHUNKED + b"1\r\nx\r\n" * 100_000)
        answers = await reader.read()
        assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == statuses
        await eventually(lambda: not made.connections, "it is cut")
    assert len(fed) <= listener.AT_ONCE // len(b"1\r\nx\r\n")


@pytest.mark.parametrize("length", [5, 10_000_000_000])
async def test_who_is_answered_without_the_body_gets_the_answer_and_what_is_left_is_not_read(length: int) -> None:
    async with door(Bounds(linger=LONG)) as (_, port), connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length)
        answer = await reader.readuntil(b"}")
        assert b"connection: close" in answer.lower()
        assert await reader.read() == b""
        writer.write(b"x" * (64 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.3)


async def test_who_is_answered_without_the_body_is_cut_soon_and_at_once_for_others() -> None:
    async with door(Bounds(linger=0.1)) as (made, port), connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        assert b"alive" in await reader.read()
        await eventually(lambda: not made.connections, "it is cut")
    async with door(Bounds(linger=LONG, connections=1)) as (made, port), connected(port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        assert b"alive" in await reader.read()
        async with connected(port) as (other, asks):
            asks.write(ALIVE)
            assert b"alive" in await other.readuntil(b"}")
            assert len(made.connections) == 1


@pytest.mark.parametrize(
    "bodies",
    [[0] * 2_000, [*[0] * 40, 40_000, *[3] * 1_000], [500_000, 0, listener.MAX_BODY, 0, 100_000], [100_000] * 20],
    ids=["many", "many and one that is larger", "large ones and none", "large ones"],
)
async def test_however_much_comes_at_once_all_of_it_is_read_in_order(bodies: list[int]) -> None:
    sizes: list[int] = []

    async def sized(request: web.BaseRequest) -> web.Response:
        sizes.append(len(await listener.body_of(request)))
        return listener.json_answer({})

    async with door(Bounds(), sized) as (_, port), connected(port) as (reader, writer):
        for size in bodies:
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        for _ in bodies:
            assert (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200 ")
    assert sizes == bodies
