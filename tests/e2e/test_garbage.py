"""What is over leaves nothing of ours to the collector: a whole instance in this process, over real sockets."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from types import CodeType
from typing import Any, Final

import pytest
import uvloop

import proxy
from proxy.app import App
from proxy.config.vocabulary import Address
from proxy.rules.limits import Limits
from proxy.rules.policy import Policy
from proxy.rules.routes import Match, Route
from proxy.settings import Admin, Breaker, Settings, Shutdown
from proxy.settings import Upstream as UpstreamSettings
from tests.e2e.harness import ask, post, receive, request
from tests.e2e.process import eventually, free_port
from tests.e2e.stream import PATIENCE, Cut, Stream
from tests.e2e.upstream import Call, Upstream, head, message, replies

FRESH: Final = "Cache-Control: max-age=600"
STALE: Final = ("Cache-Control: max-age=60, stale-while-revalidate=600, stale-if-error=600", "Age: 100", 'ETag: "1"')
BIG: Final = bytes(4 << 20)  # more than the sockets between us hold
PACKAGE: Final = Path(proxy.__file__).parent
TIMES: Final = 3  # with the first round behind it, that each scenario is played


class World:
    """One instance, the upstream behind it, and paths that nobody has asked for before. In seconds: how long it waits
    for the head of an answer, and for more of a body.
    """

    def __init__(self, upstream: Upstream, head_within: float, body_within: float) -> None:
        self.upstream, self._numbers = upstream, count()
        origin = f"http://127.0.0.1:{upstream.port}"
        breaker = Breaker(failures=1_000_000)
        self.app = App(
            Settings(
                upstreams={
                    "up": UpstreamSettings("up", origin, timeout=head_within, breaker=breaker),
                    "gone": UpstreamSettings("gone", f"http://127.0.0.1:{free_port()}", breaker=breaker),
                },
                routes=(
                    Route("gone", Match(path="/gone/*"), "gone", Policy()),
                    Route("rest", Match(), "up", Policy()),
                ),
                listen=Address("127.0.0.1", free_port()),
                admin=Admin(Address("127.0.0.1", free_port())),
                access_log=False,
                shutdown=Shutdown(delay=0.0, timeout=10.0),
                limits=Limits(body_timeout=body_within, max_connections=100),
            )
        )

    def path(self, handler: Callable[[Call], Awaitable[None]] | None = None) -> str:
        path = f"/{next(self._numbers)}"
        if handler is not None:
            self.upstream.on(path, handler)
        return path

    @asynccontextmanager
    async def client(self, limit: int = 1 << 20) -> AsyncIterator[Stream]:
        stream = await Stream.open(self.app.settings.listen.port, limit=limit)
        try:
            yield stream
        finally:
            stream.close()

    async def send(self, raw: bytes) -> int:
        """One request on a connection of its own: its status, 0 where its answer was cut."""
        async with self.client() as stream:
            try:
                return (await ask(stream, raw)).status
            except Cut:
                return 0

    async def settled(self) -> None:
        """Wait until nothing is under way any more."""
        await eventually(lambda: not self.app.shared.connections and not len(self.app.background), "all is over")
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def world(head_within: float, body_within: float) -> AsyncIterator[World]:
    upstream = await Upstream.start()
    made = World(upstream, head_within, body_within)
    await made.app.start()
    try:
        yield made
    finally:
        made.app.listener.stop_accepting()
        await made.app.close()
        await upstream.kill()


# -- what may happen


async def miss(w: World) -> None:
    assert await w.send(request(w.path(replies("x", FRESH)))) == 200


async def hit(w: World) -> None:
    raw = request(w.path(replies("x", FRESH)))
    async with w.client() as stream:
        for _ in range(4):
            assert (await ask(stream, raw)).status == 200
    assert len(w.upstream.calls) == 1


async def hit_of_a_large_body(w: World) -> None:
    raw = request(w.path(replies(BIG, FRESH)))
    for _ in range(2):
        assert await w.send(raw) == 200
    assert len(w.upstream.calls) == 1


async def not_modified(w: World) -> None:
    path = w.path(replies("x", FRESH, 'ETag: "1"'))
    assert await w.send(request(path)) == 200
    assert await w.send(request(path, 'If-None-Match: "1"')) == 304


async def part_of_a_body(w: World) -> None:
    path = w.path(replies("0123456789", FRESH))
    for _ in range(2):
        assert await w.send(request(path, "Range: bytes=2-4")) == 206


async def refresh_behind_an_answer(w: World) -> None:
    path = w.path(replies("x", *STALE))
    for _ in range(2):
        assert await w.send(request(path)) == 200
    await eventually(lambda: len(w.upstream.calls) == 2, "it is refreshed")


async def stale_instead_of_an_error(w: World) -> None:
    path = w.path(replies("x", "Cache-Control: max-age=60, stale-if-error=600", "Age: 100"))
    assert await w.send(request(path)) == 200
    w.upstream.on(path, replies("y", status="503 Service Unavailable"))
    assert await w.send(request(path)) == 200


async def crowd(w: World) -> None:
    gate = asyncio.Event()

    async def handler(call: Call) -> None:
        await gate.wait()
        call.answer("x", FRESH)

    raw = request(w.path(handler))
    asking = asyncio.gather(*(w.send(raw) for _ in range(5)))
    await eventually(lambda: len(w.upstream.calls) == 1 and len(w.app.shared.connections) == 5, "all have asked")
    gate.set()
    assert await asking == [200] * 5


async def crowd_that_may_not_share(w: World) -> None:
    raw = request(w.path(replies("x", "Cache-Control: no-store")))
    assert await asyncio.gather(*(w.send(raw) for _ in range(5))) == [200] * 5


async def pipelined(w: World) -> None:
    async with w.client() as stream:
        stream.write(b"".join(request(w.path(replies("x", FRESH))) for _ in range(5)))
        for _ in range(5):
            assert (await receive(stream)).status == 200


async def upload(w: World) -> None:
    assert await w.send(post(w.path(replies("x")), b"abc")) == 200
    raw = request(w.path(replies("x")), "Transfer-Encoding: chunked", method="POST")
    assert await w.send(raw + b"3\r\nabc\r\n0\r\n\r\n") == 200


async def upload_that_is_asked_for(w: World) -> None:
    async with w.client() as stream:
        stream.write(request(w.path(replies("x")), "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert (await receive(stream)).status == 100
        stream.write(b"abc")
        assert (await receive(stream)).status == 200


async def client_that_leaves_before_the_answer(w: World) -> None:
    gate = asyncio.Event()

    async def handler(call: Call) -> None:
        await gate.wait()
        call.answer("x", FRESH)

    for cut in (Stream.close, Stream.reset):
        async with w.client() as stream:
            calls = len(w.upstream.calls)
            stream.write(request(w.path(handler)))
            await eventually(lambda calls=calls: len(w.upstream.calls) > calls, "asked")  # type: ignore[misc]
            cut(stream)
    gate.set()


async def client_that_leaves_in_mid_answer(w: World) -> None:
    for control in (FRESH, "Cache-Control: no-store"):
        for cut in (Stream.close, Stream.reset):
            async with w.client(limit=1000) as stream:
                stream.write(request(w.path(replies(BIG, control))))
                await stream.head()
                cut(stream)


async def client_that_leaves_in_mid_hit(w: World) -> None:
    raw = request(w.path(replies(BIG, FRESH)))
    assert await w.send(raw) == 200
    async with w.client(limit=1000) as stream:
        stream.write(raw)
        await stream.head()
        stream.reset()


async def client_that_leaves_in_mid_body(w: World) -> None:
    for cut in (Stream.close, Stream.reset):
        async with w.client() as stream:
            calls = len(w.upstream.calls)
            stream.write(post(w.path(replies("x")), bytes(1000))[:-10])
            await eventually(lambda calls=calls: len(w.upstream.calls) > calls, "asked")  # type: ignore[misc]
            cut(stream)


async def client_that_closes_its_side_in_mid_body(w: World) -> None:
    async with w.client() as stream:
        stream.write(post(w.path(replies("x")), bytes(1000))[:-10])
        stream.transport.write_eof()
        assert (await receive(stream)).status == 400


async def client_that_stalls_in_mid_body(w: World) -> None:
    assert await w.send(post(w.path(replies("x")), bytes(1000))[:-10]) == 408


async def malformed_heads(w: World) -> None:
    assert await w.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n") == 400
    assert await w.send(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n") == 505
    assert await w.send(request("/", *(f"X{n}: y" for n in range(200)))) == 431
    assert await w.send(b"\n") == 400


async def malformed_bodies(w: World) -> None:
    raw = request(w.path(replies("x")), "Transfer-Encoding: chunked", method="POST")
    assert await w.send(raw + b"zz\r\n") == 400
    async with w.client() as stream:
        stream.write(raw + b"3\r\nabc\r\n")
        await eventually(lambda: len(w.upstream.calls) > 1 or bool(w.app.shared.connections), "asked")
        stream.write(b"3\r\nabcd\r\n")
        assert (await receive(stream)).status == 400


async def upstream_that_closes_after_each_answer(w: World) -> None:
    async def handler(call: Call) -> None:
        call.answer("x", FRESH, "Connection: close")
        call.stream.close()

    async def without_a_word(call: Call) -> None:
        call.answer("x", FRESH)
        call.stream.close()

    async def chunked(call: Call) -> None:
        call.write(head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        call.stream.close()

    for each in (handler, without_a_word, chunked):
        assert await w.send(request(w.path(each))) == 200
        assert await w.send(post(w.path(each), b"abc")) == 200


async def upstream_whose_end_ends_the_body(w: World) -> None:
    async def handler(call: Call) -> None:
        call.write(head(FRESH) + b"abc")
        call.stream.close()

    assert await w.send(request(w.path(handler))) == 200


async def upstream_that_is_cut_in_mid_body(w: World) -> None:
    async def by_length(call: Call) -> None:
        call.write(head("Content-Length: 10", FRESH) + b"abc")

    async def chunked(call: Call) -> None:
        call.write(head("Transfer-Encoding: chunked", FRESH) + b"5\r\nabc")

    async def endless(call: Call) -> None:
        call.write(head(FRESH) + b"abc")

    for begin in (by_length, chunked, endless):
        for cut in (Stream.close, Stream.reset):

            async def handler(
                call: Call,
                begin: Callable[[Call], Awaitable[None]] = begin,
                cut: Callable[[Stream], None] = cut,
            ) -> None:
                await begin(call)
                await asyncio.sleep(0.01)  # a reset overtakes what the other side has not read yet
                cut(call.stream)

            expected = 200 if begin is endless and cut is Stream.close else 0
            assert await w.send(request(w.path(handler))) == expected


async def upstream_that_hangs_up(w: World) -> None:
    async def handler(call: Call) -> None:
        call.stream.close()

    assert await w.send(request(w.path(handler))) == 502
    assert await w.send(post(w.path(handler), b"abc")) == 502


async def upstream_that_hangs_up_on_a_used_connection(w: World) -> None:
    path = w.path(replies("x"))
    died: list[Call] = []

    async def handler(call: Call) -> None:
        if died:
            call.answer("x")
        else:
            died.append(call)
            call.stream.close()

    assert await w.send(request(path)) == 200
    assert await w.send(request(w.path(handler))) == 200
    died.clear()


async def upstream_that_talks_nonsense(w: World) -> None:
    for raw in (b"nonsense\r\n\r\n", head("Content-Length: 3", "Content-Length: 4"), head("Content-Length: x")):

        async def handler(call: Call, raw: bytes = raw) -> None:
            call.write(raw)

        assert await w.send(request(w.path(handler))) == 502


async def upstream_with_a_malformed_chunk(w: World) -> None:
    async def handler(call: Call) -> None:
        call.write(head("Transfer-Encoding: chunked", FRESH) + b"3\r\nabc\r\n")
        await asyncio.sleep(0.01)
        call.write(b"zz\r\n")

    assert await w.send(request(w.path(handler))) == 0


async def upstream_that_does_not_answer(w: World) -> None:
    async def handler(call: Call) -> None:
        await call.stream.rest()

    assert await w.send(request(w.path(handler))) == 504
    assert await w.send(post(w.path(handler), b"abc")) == 504


async def upstream_that_stalls_in_mid_body(w: World) -> None:
    async def handler(call: Call) -> None:
        call.write(head("Content-Length: 10", FRESH) + b"abc")
        await call.stream.rest()

    assert await w.send(request(w.path(handler))) == 0


async def upstream_that_answers_before_the_body_is_sent(w: World) -> None:
    async def handler(call: Call) -> None:
        call.write(message("x", "Connection: close"))
        call.stream.close()

    async with w.client() as stream:
        stream.write(post(w.path(handler), bytes(1000))[:-10])
        assert (await receive(stream)).status == 200


async def upstream_that_is_not_there(w: World) -> None:
    path = w.path()
    assert await w.send(request(f"/gone{path}")) == 502
    assert await w.send(post(f"/gone{path}", b"abc")) == 502


async def upstream_of_another_opinion(w: World) -> None:
    """An informational answer, an error with a body, and a body that nobody may have."""

    async def hints(call: Call) -> None:
        call.write(head(status="103 Early Hints") + message("x", FRESH))

    assert await w.send(request(w.path(hints))) == 200
    assert await w.send(request(w.path(replies("x", status="500 Internal Server Error")))) == 500
    assert await w.send(request(w.path(replies("x", FRESH)), method="HEAD")) == 200
    assert await w.send(request(w.path(replies("", status="204 No Content")))) == 204


async def tunnel(w: World) -> None:
    async def handler(call: Call) -> None:
        call.complete = True
        call.write(head("Connection: Upgrade", "Upgrade: websocket", status="101 Switching Protocols"))
        call.write(await call.stream.exactly(3))
        await call.stream.rest()

    raw = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
    for cut in (Stream.close, Stream.reset):
        async with w.client() as stream:
            stream.write(request(w.path(handler), *raw))
            assert (await stream.head()).start[1] == "101"
            stream.write(b"abc")
            assert await stream.exactly(3) == b"abc"
            cut(stream)


async def events(w: World) -> None:
    async def handler(call: Call) -> None:
        call.write(head("Content-Type: text/event-stream") + b"data: x\n\n")
        await call.stream.rest()

    async with w.client() as stream:
        stream.write(request(w.path(handler)))
        await stream.until(b"data: x")
        stream.reset()


SCENARIOS: Final = (
    miss,
    hit,
    hit_of_a_large_body,
    not_modified,
    part_of_a_body,
    refresh_behind_an_answer,
    stale_instead_of_an_error,
    crowd,
    crowd_that_may_not_share,
    pipelined,
    upload,
    upload_that_is_asked_for,
    client_that_leaves_before_the_answer,
    client_that_leaves_in_mid_answer,
    client_that_leaves_in_mid_hit,
    client_that_leaves_in_mid_body,
    client_that_closes_its_side_in_mid_body,
    client_that_stalls_in_mid_body,
    malformed_heads,
    malformed_bodies,
    upstream_that_closes_after_each_answer,
    upstream_whose_end_ends_the_body,
    upstream_that_is_cut_in_mid_body,
    upstream_that_hangs_up,
    upstream_that_hangs_up_on_a_used_connection,
    upstream_that_talks_nonsense,
    upstream_with_a_malformed_chunk,
    upstream_that_does_not_answer,
    upstream_that_stalls_in_mid_body,
    upstream_that_answers_before_the_body_is_sent,
    upstream_that_is_not_there,
    upstream_of_another_opinion,
    tunnel,
    events,
)

SOON: Final = 0.2  # seconds


# -- what is left of it


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """No collection but those that are asked for; afterwards nothing that was kept here stays."""
    gc.collect()
    gc.disable()
    thresholds = gc.get_threshold()
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.enable()
        gc.collect()


def left_behind() -> Counter[str]:
    """What of ours only the collector could free: objects of our classes, and our code in mid-run."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(name for thing in gc.garbage if (name := _ours(thing)))
    gc.garbage.clear()
    return found


def _ours(thing: object) -> str:
    """Its name, empty where it is not ours."""
    for place in ("f_code", "cr_code", "ag_code", "gi_code", "__code__"):
        code = getattr(thing, place, None)
        if isinstance(code, CodeType):
            return f"{place} {code.co_qualname}" if Path(code.co_filename).is_relative_to(PACKAGE) else ""
    kind = type(thing)
    return kind.__qualname__ if kind.__module__.startswith("proxy.") else ""


async def played(scenario: Callable[[World], Awaitable[None]]) -> Counter[str]:
    # Where something hangs, only what hangs is not waited for: all else may take its time.
    head_within = SOON if scenario is upstream_that_does_not_answer else PATIENCE
    body_hangs = scenario in (client_that_stalls_in_mid_body, upstream_that_stalls_in_mid_body)
    async with asyncio.timeout(3 * PATIENCE), world(head_within, SOON if body_hangs else PATIENCE) as w:
        for again in range(1 + TIMES):
            w.upstream.calls.clear()
            await scenario(w)
            await w.settled()
            if not again:
                gc.collect()
        return left_behind()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nothing_is_left_to_the_collector(scenario: Callable[[World], Awaitable[None]]) -> None:
    with collected_by_hand(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(played(scenario)) == {}


def test_what_is_left_would_be_noticed() -> None:
    source = "class Ring: pass\ndef make():\n    def inner(): return inner\n    return inner\n"
    made: dict[str, Any] = {"__name__": "proxy.made"}
    exec(compile(source, str(PACKAGE / "made.py"), "exec"), made)
    with collected_by_hand():
        assert left_behind() == {}
        made["make"]()
        ring = made["Ring"]()
        ring.it = ring
        del ring
        assert left_behind() == {"__code__ make.<locals>.inner": 1, "Ring": 1}
