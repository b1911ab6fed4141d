"""The upstream client's bodies, both ways, and what cuts them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Final

import pytest

from proxy.flow.ports import ClientError
from proxy.rules.message import Reason
from tests.edges.scripted import (
    LONG,
    OK,
    Case,
    H,
    Peer,
    ask,
    cases,
    client,
    failure,
    get,
    once,
    pieces,
    post,
    read,
    settled,
    upstream,
)

# -- bodies

CUT: Final = {
    "content-length": H + b"Content-Length: 10\r\n\r\n12345",
    "content-length, nothing yet": H + b"Content-Length: 10\r\n\r\n",
    "chunked": H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    "inside a chunk": H + b"Transfer-Encoding: chunked\r\n\r\n9\r\n12345",
    "inside a chunk size": H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n1",
    "without the end of trailers": H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n12345",
}


async def test_a_body_that_ends_short_is_an_error() -> None:
    for end in (Peer.fin, Peer.rst):
        for name, raw in CUT.items():
            async with upstream(once(raw, end)) as up, client(up.url) as origin:
                answer = await origin.fetch(get())
                assert answer.close_delimited is False
                assert await failure(read(answer)) is Reason.ABORTED, (name, end)
                assert origin.errors == 1


async def test_a_chunk_that_turns_out_malformed_is_an_error_at_once() -> None:
    gate = asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        await gate.wait()
        await peer.send(b"ZZ\r\n")
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        chunks = answer.chunks()
        assert await anext(chunks) == b"12345"
        gate.set()
        assert await failure(anext(chunks)) is Reason.ABORTED
        answer.close()


async def test_a_close_delimited_body_ends_with_a_fin() -> None:
    for raw in (H + b"\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello", H + b"Connection: close\r\n\r\nhello"):
        async with upstream(once(raw, Peer.fin)) as up, client(up.url) as origin:
            answer = await origin.fetch(get())
            assert (answer.length, answer.close_delimited) == (None, True)
            assert answer.head.http10 is raw.startswith(b"HTTP/1.0")
            assert await read(answer) == b"hello"
            assert await ask(origin) == (200, b"hello")
            assert len(up.peers) == 2


async def test_a_close_delimited_body_does_not_end_with_a_reset() -> None:
    async with upstream(once(H + b"\r\nhello", Peer.rst)) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        assert answer.close_delimited
        assert await failure(read(answer)) is Reason.ABORTED


async def test_a_large_close_delimited_body_that_is_read_slowly_arrives_whole() -> None:
    size = 3 << 20

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"\r\n" + b"x" * size)
        peer.fin()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        total = 0
        async for piece in answer.chunks():
            total += len(piece)
            await asyncio.sleep(0.001)
        answer.close()
        assert total == size


async def test_a_body_that_stalls_is_a_timeout() -> None:
    for raw in (*CUT.values(), H + b"\r\nhello"):
        async with upstream(once(raw)) as up, client(up.url, body_timeout=lambda: 0.05) as origin:
            assert await failure(ask(origin)) is Reason.TIMEOUT


async def test_a_body_timeout_that_changes_is_for_what_is_waited_for_next() -> None:
    seconds = [LONG]

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"Content-Length: 10\r\n\r\nhello")
        await peer.rest()

    async with upstream(script) as up, client(up.url, body_timeout=lambda: seconds[0]) as origin:
        answer = await origin.fetch(get())
        chunks = answer.chunks()
        assert await anext(chunks) == b"hello"
        seconds[0] = 0.02
        assert await failure(anext(chunks)) is Reason.TIMEOUT
        answer.close()


async def test_each_event_is_handed_on_as_it_comes() -> None:
    more = asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for n in range(3):
            await more.wait()
            more.clear()
            await peer.send(b"9\r\ndata: %d\n\n\r\n" % n)
        await peer.send(b"0\r\n\r\n")
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        seen = []
        more.set()
        async for piece in answer.chunks():
            seen.append(piece)
            more.set()
        answer.close()
        assert seen == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_reader_that_does_not_read_stops_the_upstream() -> None:
    block = b"x" * 65536
    sent = 0
    for framing in (b"Content-Length: %d\r\n\r\n" % (64 << 20), b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        sent, stuck = 0, asyncio.Event()
        chunked = framing.startswith(b"Transfer")

        async def script(
            peer: Peer, _: int, *, framing: bytes = framing, chunked: bool = chunked, stuck: asyncio.Event = stuck
        ) -> None:
            nonlocal sent
            await peer.head()
            raw = peer.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            await peer.send(H + framing)
            while sent < 64 << 20:
                peer.writer.write(b"10000\r\n" + block + b"\r\n" if chunked else block)
                sent += len(block)
                try:
                    await asyncio.wait_for(peer.writer.drain(), 0.3)
                except TimeoutError:
                    stuck.set()
                    await peer.writer.drain()
            await peer.send(b"0\r\n\r\n" if chunked else b"")
            peer.fin()

        async with upstream(script) as up, client(up.url) as origin:
            answer = await origin.fetch(get())
            chunks = answer.chunks()
            total = len(await anext(chunks))
            await stuck.wait()
            assert sent < 12 << 20, "most of it in the kernel's own buffers"
            async for piece in chunks:
                assert len(piece) <= 256 << 10
                total += len(piece)
            answer.close()
            assert total == sent == 64 << 20


# -- request bodies that do not go well


class Gone(ClientError):
    pass


async def vanishing(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    raise Gone


async def test_when_the_client_vanishes_the_upstream_never_sees_a_clean_end() -> None:
    for length in (None, 10):
        rest: list[bytes] = []

        async def script(peer: Peer, _: int, *, rest: list[bytes] = rest) -> None:
            await peer.head()
            rest.append(await peer.rest())

        async with upstream(script) as up, client(up.url) as origin:
            with pytest.raises(Gone):
                await origin.fetch(post(vanishing(b"abc", b"def"), length))
            await settled(lambda rest=rest: len(rest) == 1)  # type: ignore[misc]
            assert b"0\r\n\r\n" not in rest[0]
            whole = b"abcdef" if length else b"3\r\nabc\r\n3\r\ndef\r\n"
            assert whole.startswith(rest[0])
            assert origin.errors == 0


async def test_when_the_client_vanishes_behind_the_head_the_answer_breaks_off() -> None:
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await gate.wait()
        raise Gone

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"\r\nhello")
        assert b"0\r\n\r\n" not in await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(post(body(), None))
        chunks = answer.chunks()
        assert await anext(chunks) == b"hello"
        gate.set()
        assert await failure(anext(chunks)) is Reason.ABORTED
        answer.close()


async def test_a_body_shorter_than_its_length_is_never_completed() -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        assert b"abc".startswith(await peer.rest())

    async with upstream(script) as up, client(up.url) as origin:
        with pytest.raises(ClientError):
            await origin.fetch(post(pieces(b"abc"), 5))


async def test_a_body_longer_than_its_length_never_becomes_another_request() -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        assert await peer.reader.readexactly(3) == b"abc"
        await peer.send(OK)
        assert await peer.head() == b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
        await peer.send(OK)
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        await ask(origin, post(pieces(b"ab", b"cGET /evil HTTP/1.1\r\n\r\n", b"more"), 3))
        assert await ask(origin) == (200, b"ok")


async def test_an_answer_before_the_whole_body_is_delivered_and_the_connection_not_used_again() -> None:
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await gate.wait()
        yield b"def"

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.reader.readexactly(3)
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        assert await peer.rest() == b""

    async with upstream(script) as up, client(up.url) as origin:
        for _ in range(2):
            assert await ask(origin, post(body(), 6)) == (413, b"no")
        assert len(up.peers) == 2


async def test_a_connection_whose_request_has_not_left_completely_is_not_used_again() -> None:
    sent = asyncio.Event()

    async def script(peer: Peer, n: int) -> None:
        await peer.head()
        if n == 0:
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await sent.wait()
        await peer.send(OK)
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:

        async def body() -> AsyncIterator[bytes]:
            (exchange,) = origin.open
            transport = exchange._wire.transport  # noqa: SLF001 - only the transport knows what has left
            assert transport is not None
            while not transport.get_write_buffer_size():
                yield b"x" * 16_384

        fetching = asyncio.create_task(origin.fetch(post(body(), None)))
        await settled(lambda: any(not exchange._unsent for exchange in origin.open))  # noqa: SLF001
        sent.set()
        assert await read(await fetching) == b"ok"
        assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 2


async def test_an_answer_and_a_close_before_the_whole_body_is_delivered() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        while True:
            await asyncio.sleep(0.01)
            yield b"x"

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        peer.fin()

    async with upstream(script) as up, client(up.url) as origin:
        assert await ask(origin, post(body(), None)) == (413, b"no")


async def test_request_and_answer_may_stream_at_the_same_time() -> None:
    word = asyncio.Queue[bytes]()

    async def body() -> AsyncIterator[bytes]:
        while piece := await word.get():
            yield piece

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"Transfer-Encoding: chunked\r\n\r\n")
        while (line := await peer.reader.readuntil(b"\r\n")) != b"0\r\n":
            await peer.send(line + await peer.reader.readuntil(b"\r\n"))
        await peer.reader.readuntil(b"\r\n")
        await peer.send(b"0\r\n\r\n")
        assert await peer.head() == b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
        await peer.send(OK)
        await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        answer = await origin.fetch(post(body(), None))
        chunks = answer.chunks()
        for n in range(20):
            word.put_nowait(b"%d" % n)
            assert await anext(chunks) == b"%d" % n
        word.put_nowait(b"")
        assert [piece async for piece in chunks] == []
        answer.close()
        assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 1


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.__name__)
def test_on_the_loop_of_the_standard_library(case: Case) -> None:
    asyncio.run(case())
