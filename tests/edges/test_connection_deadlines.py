"""How long a connection may take for what it is at: the clock is moved, nothing waits."""

import asyncio
from dataclasses import replace

import pytest

from proxy.edges.connection import LINGER
from proxy.edges.outbound import APART, HALF_OPEN
from proxy.edges.shared import SWEEP
from proxy.flow.ports import Client, ClientError
from proxy.rules.message import Reason, Request
from tests.edges.kit import (
    LIMITS,
    Pending,
    Rig,
    chunk,
    echo,
    get,
    ok,
    read_all,
    rig,
    turns,
    until,
)

BIG = 16 << 20  # bytes: more than the kernel keeps for a client that does not read
LITTLE = 0.1  # seconds
LENGTH = get("/", "Content-Length: 10", method="POST")
CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")


async def still_open(here: Rig) -> bool:
    await turns()
    return len(here.shared.connections) == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_client_that_says_nothing_is_closed_without_a_word(sent: bytes) -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(sent)
        await turns()
        here.sweep(LIMITS.header_timeout - LITTLE)
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        assert await wire.closed()
        await here.ended()
        assert (here.refusals, here.shared.counters.timed_out) == ([], 0)


async def test_a_head_that_came_in_parts_leaves_an_idle_connection_and_no_408() -> None:
    async with rig() as here:
        wire = await here.connect()
        raw = get("/")
        await wire.send(raw[:20])
        await until(lambda: here.unread)
        await wire.send(raw[20:])
        assert (await wire.response()).status == 200
        here.sweep(LIMITS.header_timeout + 1)
        assert here.shared.connections
        here.sweep(LIMITS.idle_timeout)
        assert await wire.receive() == b""
        assert here.refusals == []


@pytest.mark.parametrize("before", [b"", get("/before")], ids=["first", "behind"])
async def test_a_head_that_does_not_become_whole_is_408_however_it_drips(before: bytes) -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(before + b"G")
        if before:
            assert (await wire.response()).body == b"/before"
        await turns()
        for byte in b"ET /12345":
            here.sweep(LIMITS.header_timeout / 10)
            await wire.send(bytes([byte]))
            assert await still_open(here)
        here.sweep(LIMITS.header_timeout / 10 - LITTLE)
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        response = await wire.response()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert await wire.closed()
        assert here.refusals == [("127.0.0.1", 408, Reason.REQUEST_TIMEOUT)]
        assert here.shared.counters.timed_out == 1


async def test_the_time_for_a_head_begins_with_its_first_byte() -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(get("/1"))
        await wire.response()
        here.sweep(LIMITS.idle_timeout - LITTLE)
        await wire.send(b"GET /2")
        await turns()
        here.sweep(LIMITS.header_timeout - LITTLE)
        await wire.send(get("/2").removeprefix(b"GET /2"))
        assert (await wire.response()).body == b"/2"


@pytest.mark.parametrize("since", [0.0, SWEEP], ids=["right behind a sweep", "right before the next"])
@pytest.mark.parametrize("sync", [True, False])
async def test_an_idle_connection_is_closed_when_its_time_is_up_or_two_sweeps_later(sync: bool, since: float) -> None:
    async def later(request: Request, client: Client) -> None:
        await asyncio.sleep(0)
        echo(request, client)

    async with rig(echo if sync else later) as here:
        wire = await here.connect()
        for _ in range(3):
            here.clock.time += since
            await wire.send(get())
            assert (await wire.response()).status == 200
            await turns()
            here.sweep(LIMITS.idle_timeout - LITTLE)
            assert await still_open(here)
        here.sweep(LITTLE + 2 * SWEEP)
        assert await wire.closed()
        assert here.shared.counters.timed_out == 0


async def test_an_answer_that_takes_long_is_not_the_clients_fault() -> None:
    gate = asyncio.Event()

    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(b"a")
        await gate.wait()
        client.finish()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1") + b"GET")
        await wire.through(b"a\r\n")
        here.sweep(100_000.0)
        assert await still_open(here)
        gate.set()
        assert await wire.exactly(5) == b"0\r\n\r\n"
        await turns()
        here.sweep(LIMITS.header_timeout - LITTLE)
        assert await still_open(here)


# -- bodies


class Reader:
    """Reads the body when it is told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.error: ClientError | None = None

    async def __call__(self, _request: Request, client: Client) -> None:
        await self.gate.wait()
        try:
            ok(client, await read_all(client))
        except ClientError as error:
            self.error = error


@pytest.mark.parametrize(
    ("head", "pieces", "end"),
    [(LENGTH, b"123456789", b"0"), (CHUNKED, b"123456789", b"")],
    ids=["length", "chunked"],
)
async def test_a_body_may_take_its_time_but_not_stop(head: bytes, pieces: bytes, end: bytes) -> None:
    reader = Reader()
    reader.gate.set()
    async with rig(reader) as here:
        wire = await here.connect()
        await wire.send(head)
        await turns()
        for byte in pieces:
            here.sweep(LIMITS.body_timeout - LITTLE)
            await wire.send(bytes([byte]) if end else chunk(bytes([byte])))
            assert await still_open(here)
        here.sweep(LIMITS.body_timeout - LITTLE)
        await wire.send(end or b"0\r\n\r\n")
        assert (await wire.response()).body == pieces + end


@pytest.mark.parametrize("sent", [b"", b"abc"])
async def test_a_body_that_stops_is_408(sent: bytes) -> None:
    reader = Reader()
    reader.gate.set()
    async with rig(reader) as here:
        wire = await here.connect()
        await wire.send(LENGTH + sent)
        await turns()
        here.sweep(LIMITS.body_timeout - LITTLE)
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        assert (await wire.response()).status == 408
        assert await wire.closed()
        await until(lambda: not len(here.background))
        assert here.refusals == []  # the exchange tells how it ended
        assert here.shared.counters.timed_out == 1


async def test_only_who_waits_for_the_body_may_lose_patience() -> None:
    reader = Reader()
    async with rig(reader) as here:
        wire = await here.connect()
        await wire.send(LENGTH + b"abc")
        await turns()
        here.sweep(100_000.0)
        assert await still_open(here)
        reader.gate.set()
        await turns()
        here.sweep(LIMITS.body_timeout - LITTLE)
        assert await still_open(here)
        await wire.send(b"defghij")
        assert (await wire.response()).body == b"abcdefghij"


async def test_a_reader_that_stops_waiting_stops_the_clock() -> None:
    gate = asyncio.Event()

    async def work(_request: Request, client: Client) -> None:
        body = aiter(client.body())
        first = await anext(body)
        await gate.wait()
        ok(client, first + b"".join([piece async for piece in body]))

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(LENGTH)
        await turns()
        here.sweep(LIMITS.body_timeout - LITTLE)
        await wire.send(b"abc")
        await turns()
        here.sweep(100_000.0)
        assert await still_open(here)
        gate.set()
        await wire.send(b"defghij")
        assert (await wire.response()).body == b"abcdefghij"
        await turns()
        here.sweep(LIMITS.idle_timeout - LITTLE)
        assert await still_open(here)


async def test_a_body_that_stops_behind_the_head_of_the_answer_is_a_reset() -> None:
    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(b"so far")
        await read_all(client)
        client.finish()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(LENGTH)
        await wire.through(b"so far\r\n")
        here.sweep(LIMITS.body_timeout + LITTLE)
        assert await wire.reset() == b""


# -- answers


def large(request: Request, client: Client) -> Pending | None:
    match request.target:
        case "/streamed":
            return stream(client)
        case "/at-once":
            return ok(client, bytes(BIG))
        case _:
            return echo(request, client)


async def stream(client: Client) -> None:
    client.start(b"HTTP/1.1 200 OK\r\n", length=None)
    for _ in range(BIG >> 16):
        await client.write(bytes(1 << 16))
    client.finish()


@pytest.mark.parametrize("head", [get("/at-once"), get("/streamed"), get("/at-once", "Connection: close")])
async def test_a_reader_that_stops_is_reset(head: bytes) -> None:
    async with rig(large) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(head)
        await turns()
        here.sweep()
        here.sweep(LIMITS.write_timeout - LITTLE)
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        await wire.reset()
        await here.ended()
        assert here.shared.counters.timed_out == 1


@pytest.mark.parametrize("size", [4096, 4 * APART], ids=["in one write", "in two"])
async def test_further_answers_are_no_progress_of_a_reader_that_stopped(size: int) -> None:
    async with rig(lambda request, client: ok(client, bytes(size if request.target == "/fill" else 10))) as here:
        wire = await here.connect(receive_buffer=4096)
        while not here.unsent:
            await wire.send(get("/fill"))
            await turns(5)
        here.sweep()
        for _ in range(4):
            here.sweep((LIMITS.write_timeout - LITTLE) / 4)
            answered, unsent = len(here.seen), here.unsent
            await wire.send(get("/more"))
            await turns(5)
            assert (len(here.seen), here.unsent > unsent) in {(answered + 1, True), (answered, False)}
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        await wire.reset()
        await here.ended()
        assert here.shared.counters.timed_out == 1


@pytest.mark.parametrize("target", ["/at-once", "/streamed"])
async def test_a_reader_that_is_slow_is_not_and_loses_nothing(target: str) -> None:
    """20 KB/s, for longer than any deadline: what is pipelined behind is answered too."""
    limits = replace(LIMITS, idle_timeout=20.0)
    async with rig(large, limits=limits) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(get(target) + get("/next"))
        assert b"200 OK" in await wire.through(b"\r\n\r\n")
        for _ in range(BIG // 310_000):
            here.sweep(limits.write_timeout / 2)
            await wire.exactly(310_000)
            assert await still_open(here)
        assert (await wire.through(get("/next")[4:9])).endswith(b"/next")


# -- after the end


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", LENGTH], ids=["refused", "answered early"])
async def test_a_client_that_does_not_close_is_cut_after_a_moment(raw: bytes) -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(raw)
        await wire.response()
        assert await wire.closed()
        here.sweep(LINGER - LITTLE)
        await wire.send(b"more")
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        await here.ended()


async def test_who_reads_on_behind_an_early_answer_does_not_keep_its_client() -> None:
    async def work(_request: Request, client: Client) -> None:
        body = client.body()
        ok(client, b"early")
        reading = asyncio.ensure_future(anext(body))
        await turns()
        reading.cancel()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(LENGTH)
        assert (await wire.response()).body == b"early"
        assert await wire.closed()
        await until(lambda: not len(here.background))
        here.sweep(LINGER + LITTLE)
        await here.ended()


@pytest.mark.parametrize("sent", [b"", b"GET", LENGTH, get()], ids=["idle", "head", "body", "busy"])
async def test_a_sweep_may_come_between_the_end_and_the_news_of_it(sent: bytes) -> None:
    async def work(request: Request, client: Client) -> None:
        await read_all(client) if request.length else await asyncio.Event().wait()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(sent)
        await turns()
        connection = here.connection
        connection.abort()
        connection.check(here.clock() + 100_000.0)
        connection.close_if_idle()
        connection.abort()
        await here.ended()
        connection.check(here.clock() + 100_000.0)
        connection.abort()


async def test_who_closed_its_side_of_a_silent_stream_is_gone_after_a_moment() -> None:
    ended = asyncio.Event()

    async def stream(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(b"first")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with rig(stream) as here:
        wire = await here.connect()
        await wire.send(get("/events"))
        await wire.through(b"first\r\n")
        here.sweep(HALF_OPEN * 2)
        assert await still_open(here)
        wire.shut()
        await turns()
        here.sweep(LITTLE)
        here.sweep(HALF_OPEN - LITTLE)
        assert await still_open(here)
        here.sweep(2 * LITTLE)
        await ended.wait()
        assert await wire.reset() == b""
        await here.ended()
