"""The upstream client's connections: used again, sent over again, left, closed."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from proxy.edges import upstream_wire as module
from proxy.rules.message import Reason
from tests.edges.scripted import (
    EMPTY,
    OK,
    Case,
    H,
    Peer,
    Script,
    ask,
    cases,
    client,
    failure,
    get,
    once,
    pieces,
    post,
    read,
    replies,
    server_context,
    settled,
    trusting,
    upstream,
)

# -- connections


async def test_a_connection_is_used_again_when_the_body_was_read() -> None:
    async with upstream(replies(OK)) as up, client(up.url) as origin:
        for _ in range(5):
            assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 1
        assert (origin.requests, origin.retries, origin.errors, origin.connections) == (5, 0, 0, 0)


async def test_a_connection_is_used_again_when_the_whole_body_had_come_though_nobody_read_it() -> None:
    async with upstream(replies(OK)) as up, client(up.url) as origin:
        for _ in range(2):
            answer = await origin.fetch(get())
            answer.close()
            answer.close()
        assert len(up.peers) == 1


async def test_a_connection_is_aborted_when_the_body_was_left() -> None:
    rest: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(H + b"Content-Length: 10\r\n\r\n12345")
        rest.append(await peer.rest())

    async with upstream(script) as up, client(up.url) as origin:
        for _ in range(2):
            answer = await origin.fetch(get())
            assert origin.connections == 1
            assert await anext(answer.chunks()) == b"12345"
            answer.close()
            assert origin.connections == 0
        await settled(lambda: rest == [b"", b""])
        assert len(up.peers) == 2


async def test_a_connection_is_not_used_again_when_the_upstream_says_so() -> None:
    for raw in (
        H + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ):
        async with upstream(replies(raw)) as up, client(up.url) as origin:
            await ask(origin)
            await ask(origin)
            assert len(up.peers) == 2


async def test_http_1_0_with_keep_alive_is_used_again() -> None:
    raw = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(replies(raw)) as up, client(up.url) as origin:
        await ask(origin)
        await ask(origin)
        assert len(up.peers) == 1


async def test_what_comes_unasked_is_no_answer_to_the_next_request() -> None:
    stale = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\nstale"
    for extra in (stale, stale[:20], b"H", b"\r\n", b"nonsense"):
        for with_the_answer in (True, False):
            said, go_on = asyncio.Event(), asyncio.Event()

            async def script(
                peer: Peer,
                n: int,
                *,
                parts: tuple[bytes, bytes] = (extra, b"") if with_the_answer else (b"", extra),
                said: asyncio.Event = said,
                go_on: asyncio.Event = go_on,
                alive: bool = extra == b"\r\n",  # RFC 9112 section 2.2: an empty line before a message is nothing
            ) -> None:
                await peer.head()
                await peer.send(OK if n else OK + parts[0])
                await go_on.wait()
                await peer.send(b"" if n else parts[1])
                said.set()
                if n or alive:
                    await peer.head()
                    await peer.send(OK)
                await peer.rest()

            async with upstream(script) as up, client(up.url) as origin:
                if with_the_answer and extra == b"nonsense":
                    assert await failure(ask(origin)) is Reason.BAD_RESPONSE
                else:
                    assert await ask(origin) == (200, b"ok")
                go_on.set()
                await said.wait()
                await asyncio.sleep(0.02)
                assert await ask(origin, get(method="DELETE")) == (200, b"ok"), (extra, with_the_answer)
                assert origin.retries == 0


async def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    closed = asyncio.Event()

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        await peer.send(OK)
        assert await peer.rest() == b""
        closed.set()

    async with upstream(script) as up, client(up.url) as origin:
        assert await ask(origin) == (200, b"ok")
        await closed.wait()
        assert await ask(origin) == (200, b"ok")
        assert len(up.peers) == 2


async def test_there_are_never_more_connections_than_allowed() -> None:
    at_once = most = 0

    async def script(peer: Peer, _: int) -> None:
        nonlocal at_once, most
        while True:
            await peer.head()
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.005)
            at_once -= 1
            await peer.send(OK)

    async with upstream(script) as up, client(up.url, max_connections=3) as origin:
        answers = await asyncio.gather(*(ask(origin) for _ in range(30)))
        assert set(answers) == {(200, b"ok")}
        assert most == 3
        assert len(up.peers) == 3


async def test_a_place_given_to_someone_who_just_left_goes_to_the_next() -> None:
    async with upstream(replies(OK)) as up, client(up.url, max_connections=1) as origin:
        answer = await origin.fetch(get())
        first, second = asyncio.create_task(ask(origin)), asyncio.create_task(ask(origin))
        await asyncio.sleep(0.01)
        answer.close()  # wakes the first
        first.cancel()
        assert await second == (200, b"ok")
        with pytest.raises(asyncio.CancelledError):
            await first


# -- sending again


def dying(end: Callable[[Peer], None], before: bytes = b"") -> Script:
    """The first connection answers once and dies under its second request; later ones live."""

    async def script(peer: Peer, n: int) -> None:
        await peer.head()
        await peer.send(EMPTY)
        await peer.head()
        if n == 0:
            await peer.send(before)
            if before:
                await asyncio.sleep(0.02)
            end(peer)
        else:
            await peer.send(EMPTY)
            await peer.rest()

    return script


async def test_an_idempotent_request_is_sent_again_once_when_its_reused_connection_had_died() -> None:
    for end in (Peer.fin, Peer.rst):
        for method in ("GET", "HEAD", "OPTIONS"):
            async with upstream(dying(end)) as up, client(up.url) as origin:
                await ask(origin)
                status, _ = await ask(origin, get(method=method))
                assert status == 200
                assert (len(up.peers), origin.retries, origin.errors, origin.requests) == (2, 1, 0, 2)


async def test_nothing_else_is_sent_again() -> None:
    for end in (Peer.fin, Peer.rst):
        for call in (
            *(get(method=method) for method in ("POST", "PUT", "DELETE", "PATCH", "PURGE")),
            post(pieces(b"x"), 1),
            post(pieces(b"x"), 1, "GET"),
            post(pieces(b"x"), None, "PUT"),
        ):
            async with upstream(dying(end)) as up, client(up.url) as origin:
                await ask(origin)
                assert await failure(origin.fetch(call)) is Reason.DISCONNECTED
                assert (len(up.peers), origin.retries, origin.errors) == (1, 0, 1)


async def test_nothing_is_sent_again_after_a_byte_of_answer() -> None:
    for end in (Peer.fin, Peer.rst):
        for before in (b"H", b"\r\n", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n"):
            async with upstream(dying(end, before)) as up, client(up.url) as origin:
                await ask(origin)
                assert await failure(origin.fetch(get())) is Reason.DISCONNECTED
                assert (len(up.peers), origin.retries) == (1, 0)


async def test_nothing_is_sent_again_over_a_first_connection() -> None:
    for end in (Peer.fin, Peer.rst):
        async with upstream(once(b"", end)) as up, client(up.url) as origin:
            assert await failure(origin.fetch(get())) is Reason.DISCONNECTED
            assert (len(up.peers), origin.retries) == (1, 0)


async def test_nothing_is_sent_a_third_time() -> None:
    async def script(peer: Peer, n: int) -> None:
        await peer.head()
        if n == 0:
            await peer.send(OK)
            await peer.head()
        peer.fin()

    async with upstream(script) as up, client(up.url) as origin:
        await ask(origin)
        assert await failure(origin.fetch(get())) is Reason.DISCONNECTED
        assert (len(up.peers), origin.retries, origin.errors) == (2, 1, 1)


async def test_the_second_try_does_not_take_another_old_connection() -> None:
    together = asyncio.Barrier(3)

    async def script(peer: Peer, n: int) -> None:
        await peer.head()
        if n < 3:
            await together.wait()
            await peer.send(OK)
            await peer.head()
            peer.fin()
        else:
            await peer.send(OK)
            await peer.rest()

    async with upstream(script) as up, client(up.url) as origin:
        await asyncio.gather(*(ask(origin) for _ in range(3)))
        assert await ask(origin) == (200, b"ok")
        assert (len(up.peers), origin.retries) == (4, 1)


# -- cancellation and closing


async def test_cancelled_calls_leave_nothing_behind() -> None:
    chance = random.Random(1)

    async def script(peer: Peer, _: int) -> None:
        while True:
            head = await peer.head()
            if head.startswith(b"POST"):
                await peer.reader.readuntil(b"0\r\n\r\n")
            for part in (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 200000\r\n\r\n", b"x" * 100_000, b"x" * 100_000):
                await asyncio.sleep(chance.random() * 0.01)
                await peer.send(part)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(chance.random() * 0.005)
            yield b"x" * 1000

    async with upstream(script) as up, client(up.url, max_connections=20) as origin:
        before = asyncio.all_tasks()
        calls = [asyncio.create_task(ask(origin, post(body(), None) if n % 2 else get())) for n in range(100)]
        for n in chance.sample(range(100), 60):
            await asyncio.sleep(chance.random() * 0.002)
            calls[n].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        whole = [result for result in results if not isinstance(result, BaseException)]
        assert all(result == (200, b"x" * 200_000) for result in whole)
        assert len(whole) >= 40
        assert len(whole) + sum(isinstance(result, asyncio.CancelledError) for result in results) == 100
        assert origin.connections == 0
        peers = len(up.peers)
        await settled(lambda: not [t for t in asyncio.all_tasks() - before if "_run" not in repr(t.get_coro())])
        assert await asyncio.gather(*(ask(origin) for _ in range(20))) == [(200, b"x" * 200_000)] * 20
        assert len(up.peers) <= peers + 20


async def test_cancelled_handshakes_leave_nothing_behind() -> None:
    ca = trustme.CA()
    chance = random.Random(2)
    async with (
        upstream(replies(OK), server_context(ca)) as up,
        client(up.url, tls=trusting(ca), server_name="up.example") as origin,
    ):
        calls = [asyncio.create_task(ask(origin)) for _ in range(16)]
        for call in calls[:12]:
            await asyncio.sleep(chance.random() * 0.003)
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[12:] == [(200, b"ok")] * 4
        assert origin.connections == 0


async def test_closing_cuts_what_is_open() -> None:
    async with upstream(once(H + b"\r\nhello")) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        chunks = answer.chunks()
        assert await anext(chunks) == b"hello"
        ending = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        await origin.close()
        assert await failure(ending) is Reason.ABORTED
        answer.close()
        assert await failure(origin.fetch(get())) is Reason.CONNECT


async def test_who_comes_to_one_that_has_retired_is_served_and_no_connection_is_kept() -> None:
    async with upstream(replies(OK)) as up, client(up.url) as origin:
        answer = await origin.fetch(get())
        retiring = asyncio.ensure_future(origin.retire())
        await asyncio.sleep(0)
        assert await read(answer) == b"ok"
        await retiring
        for connections in (2, 3):
            assert await ask(origin) == (200, b"ok")
            assert len(up.peers) == connections
        await settled(lambda: all(peer.reader.at_eof() for peer in up.peers))


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.__name__)
def test_on_the_loop_of_the_standard_library(case: Case) -> None:
    asyncio.run(case())
