"""Request bodies: asked for, paced, cut, malformed, left unread."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from proxy.edges.connection import HIGH_WATER, LINGER
from proxy.flow.ports import Client, ClientError
from proxy.rules.message import Reason, Request
from tests.edges.kit import Pending, Wire, chunk, chunked_post, echo, get, ok, post, read_all, rig, turns, until

BIG = 16 << 20  # bytes: more than the kernel keeps for a client that does not read
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LENGTH = get("/", "Content-Length: 10", method="POST")
CHUNKED = get("/", "Transfer-Encoding: chunked", method="POST")


class Gated:
    """An exchange that waits to be let on before it reads the body, and answers with it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.errors: list[str] = []

    def __call__(self, request: Request, client: Client) -> Pending | None:
        return echo(request, client) if request.length == 0 else self._work(client)

    async def _work(self, client: Client) -> None:
        await self.gate.wait()
        try:
            body = await read_all(client)
        except ClientError as error:
            self.errors.append(str(error))
            raise
        except asyncio.CancelledError:
            self.errors.append("cancelled")
            raise
        ok(client, body)


# -- 100-continue


@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
async def test_a_body_is_asked_for_when_somebody_reads_it_and_once(framing: str) -> None:
    begin = Gated()
    pieces = (b"ab", b"cd") if "Length" in framing else (chunk(b"ab"), chunk(b"cd") + b"0\r\n\r\n")
    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/", framing, "Expect: 100-continue", method="PUT"))
        await turns()
        assert wire.quiet()
        begin.gate.set()
        assert await wire.exactly(len(CONTINUE)) == CONTINUE
        for piece in pieces:
            await wire.send(piece)
            await turns()
        assert (await wire.response()).body == b"abcd"
        begin.gate.clear()
        await wire.send(get("/", framing, "Expect: 100-continue", method="PUT"))
        await turns()
        assert wire.quiet()
        begin.gate.set()
        assert await wire.exactly(len(CONTINUE)) == CONTINUE


async def test_an_answer_that_comes_first_is_all_there_is() -> None:
    async with rig(lambda _request, client: ok(client, b"no", "413 Content Too Large")) as here:
        wire = await here.connect()
        await wire.send(get("/", "Content-Length: 4", "Expect: 100-continue", method="PUT"))
        response = await wire.response()
        assert (response.status, response.headers["connection"], response.body) == (413, "close", b"no")
        assert await wire.closed()


async def test_a_reader_behind_the_head_of_the_answer_asks_for_nothing() -> None:
    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(await read_all(client))
        client.finish()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/", "Content-Length: 4", "Expect: 100-continue", method="PUT"))
        assert (await wire.through(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        await turns()
        assert wire.quiet()
        await wire.send(b"late")
        assert await wire.rest() == b"4\r\nlate\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        post("/", b"body", "Expect: 100-continue"),
        get("/", "Content-Length: 0", "Expect: 100-continue", method="PUT"),
        get("/", "Content-Length: 4", "Expect: 100-continue", method="PUT", version="1.0") + b"body",
    ],
    ids=["already there", "empty", "HTTP/1.0"],
)
async def test_a_body_that_need_not_be_asked_for_is_not(raw: bytes) -> None:
    begin = Gated()
    begin.gate.set()
    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(raw)
        assert (await wire.response()).status == 200


async def test_an_old_client_that_expects_is_not_answered_100() -> None:
    begin = Gated()
    begin.gate.set()
    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/", "Content-Length: 4", "Expect: 100-continue", method="PUT", version="1.0"))
        await turns()
        assert wire.quiet()


# -- at the reader's pace


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_nobody_reads_stays_with_its_sender(framing: str) -> None:
    begin = Gated()
    body = hashlib.sha256(b"x").digest() * (BIG // 32)
    raw = post("/", body) if framing == "length" else chunked_post("/", body[:5], body[5:])
    async with rig(begin) as here:
        wire = await here.connect()
        sending = asyncio.create_task(wire.send(raw + get("/next")))
        await turns(100)
        held = here.unread
        await turns(100)
        assert here.unread == held
        assert HIGH_WATER < held < HIGH_WATER + (256 << 10)  # one read of the loop's more
        assert not sending.done()
        begin.gate.set()
        assert (await wire.response()).body == body
        assert (await wire.response()).body == b"/next"
        await sending


async def test_tiny_chunks_do_not_cost_an_object_each() -> None:
    gate, pieces = asyncio.Event(), list[bytes]()

    async def work(_request: Request, client: Client) -> None:
        await gate.wait()
        pieces.extend([piece async for piece in client.body()])
        ok(client)

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(chunked_post("/", *[b"ab"] * 5000))
        await until(lambda: here.shared.connections and here.unread >= 10_000)
        gate.set()
        assert (await wire.response()).status == 200
        assert b"".join(pieces) == b"ab" * 5000
        assert len(pieces) < 100


@pytest.mark.parametrize("segments", [(post("/1", b"abc"), get("/2")), (chunked_post("/1", b"abc"), get("/2"))])
async def test_a_body_may_end_where_a_segment_does(segments: tuple[bytes, bytes]) -> None:
    begin = Gated()
    async with rig(begin) as here:
        wire = await here.connect()
        for segment in segments:
            await wire.send(segment)
            await turns()
        assert here.seen == ["/1"]
        begin.gate.set()
        assert (await wire.response()).body == b"abc"
        assert (await wire.response()).body == b"/2"


# -- cut and malformed


@pytest.mark.parametrize("head", [LENGTH + b"abc", CHUNKED + b"5\r\nabc", CHUNKED + chunk(b"abc")])
@pytest.mark.parametrize("reading", [True, False])
async def test_a_client_that_closes_its_half_in_mid_body_is_told(head: bytes, reading: bool) -> None:
    begin = Gated()
    if reading:
        begin.gate.set()
    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(head)
        await turns()
        wire.shut()
        response = await wire.response()
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert await wire.closed()
        await here.ended()
        assert here.refusals == []  # the exchange tells how it ended
        if reading:
            assert len(begin.errors) == 1


@pytest.mark.parametrize("head", [LENGTH, LENGTH + b"abc", CHUNKED, CHUNKED + b"5\r\nabc", CHUNKED + chunk(b"abc")])
async def test_a_body_that_was_cut_before_its_turn_came_is_not_waited_for(head: bytes) -> None:
    gate, begun = asyncio.Event(), list[str]()

    async def begin(request: Request, client: Client) -> None:
        begun.append(request.target)
        await (gate.wait() if request.target == "/first" else read_all(client))
        ok(client, b"done")

    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/first"))
        await until(lambda: begun)
        await wire.send(head)
        wire.shut()
        await until(lambda: here.connection._eof)  # noqa: SLF001 - nothing public tells
        gate.set()
        assert (await wire.response()).status == 200
        response = await wire.response()
        assert (response.status, response.headers["connection"]) == (400, "close")
        assert await wire.closed()
        await here.ended()
        assert begun == ["/first"]  # nobody is asked with what can never come
        assert [(status, reason) for _, status, reason in here.refusals] == [(400, Reason.MALFORMED)]
        assert here.shared.counters.timed_out == 0


@pytest.mark.parametrize("raw", [post("/second", b"abc"), chunked_post("/second", b"a", b"bc")])
async def test_a_whole_body_behind_which_the_client_closed_is_read_in_its_turn(raw: bytes) -> None:
    gate = asyncio.Event()

    async def begin(request: Request, client: Client) -> None:
        if request.target == "/first":
            await gate.wait()
            ok(client)
        else:
            ok(client, await read_all(client))

    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/first") + raw)
        wire.shut()
        await until(lambda: here.connection._eof)  # noqa: SLF001 - nothing public tells
        gate.set()
        assert (await wire.response()).status == 200
        assert (await wire.response()).body == b"abc"
        assert await wire.closed()


@pytest.mark.parametrize("cut", [lambda wire: wire.shut(), lambda wire: wire.break_off()], ids=["fin", "rst"])
async def test_the_reader_of_a_cut_body_never_takes_it_for_whole(cut: Callable[[Wire], None]) -> None:
    """The reader is not the exchange's own task: nobody cancels it."""
    told = asyncio.get_running_loop().create_future()
    reading: list[asyncio.Task[None]] = []

    async def read(client: Client) -> None:
        try:
            told.set_result(await read_all(client))
        except ClientError as error:
            told.set_result(error)

    async def work(_request: Request, client: Client) -> None:
        reading.append(asyncio.create_task(read(client)))
        await asyncio.Event().wait()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(LENGTH + b"abc")
        await turns()
        cut(wire)
        assert isinstance(await told, ClientError)
        await here.ended()


@pytest.mark.parametrize("bad", [b"zz\r\n", b"3\r\nabcd\r\n", b"3\nabc", b"0\r\nX y\r\n\r\n"])
@pytest.mark.parametrize("late", [False, True], ids=["with the head", "behind it"])
async def test_a_malformed_chunk_is_400_and_closes(bad: bytes, late: bool) -> None:
    begin = Gated()
    begin.gate.set()
    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(CHUNKED if late else CHUNKED + bad)
        if late:
            await turns()
            await wire.send(bad)
        assert (await wire.response()).status == 400
        assert await wire.closed()
        wire.close()
        await here.ended()
        assert len(begin.errors) == late
        assert len(here.seen) == late


@pytest.mark.parametrize("nonsense", [b"zz\r\n", b""], ids=["malformed", "cut"])
async def test_a_body_that_fails_behind_the_head_of_the_answer_is_a_reset(nonsense: bytes) -> None:
    async def work(_request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(b"so far")
        await read_all(client)
        client.finish()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(CHUNKED)
        await wire.through(b"so far\r\n")
        if nonsense:
            await wire.send(nonsense)
        else:
            wire.shut()
        assert await wire.reset() == b""
        await here.ended()
        assert here.refusals == []


# -- left unread


@pytest.mark.parametrize("raw", [post("/1", b"GET /x HTTP/1.1\r\n"), chunked_post("/1", b"GET /x HTTP/1.1\r\n")])
async def test_a_whole_body_that_nobody_reads_is_skipped(raw: bytes) -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(raw + get("/2"))
        assert [(await wire.response()).body for _ in range(2)] == [b"/1", b"/2"]
        assert here.seen == ["/1", "/2"]


@pytest.mark.parametrize("reads", ["nothing", "some"])
async def test_an_answer_before_the_end_of_the_body_arrives_and_ends_the_connection(reads: str) -> None:
    async def work(request: Request, client: Client) -> None:
        if reads == "some":
            assert await anext(aiter(client.body())) == b"abc"
        echo(request, client)

    async with rig(echo if reads == "nothing" else work) as here:
        wire = await here.connect()
        await wire.send(get("/1", "Content-Length: 3000000", method="POST") + b"abc")
        await turns()
        await wire.send(bytes(2_999_997) + get("/2"))  # a client that first sends it all
        response = await wire.response()
        assert (response.body, response.headers["connection"]) == (b"/1", "close")
        assert await wire.closed()
        assert here.seen == ["/1"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_early_answer_is_not_cut_while_it_is_being_read(version: str) -> None:
    sent = 0

    async def work(_request: Request, client: Client) -> None:
        nonlocal sent
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        while not here.unsent:  # until the kernel takes no more
            await client.write(bytes(16 << 10))
        sent = client.sent
        client.finish()

    async with rig(work) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(get("/", "Content-Length: 10", method="POST", version=version))
        await until(lambda: sent)
        assert here.unsent
        for _ in range(3):
            here.sweep(LINGER + 1.0)
            await turns()
        assert len((await wire.response()).body) == sent


async def test_a_body_found_malformed_while_an_exchange_waits_without_a_task_is_noted_by_that_alone() -> None:
    clients: list[Client] = []

    def begin(request: Request, client: Client) -> None:  # noqa: ARG001 - as of any begin
        clients.append(client)

    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/", "Transfer-Encoding: chunked", method="POST"))
        await until(lambda: clients)
        await wire.send(b"nonsense\r\n")
        assert (await wire.response()).status == 400
        assert await wire.closed()
        assert here.refusals == []
        assert clients[0].refused is not None
        assert not clients[0].resume(lambda: pytest.fail("it is over"))


async def test_a_body_that_has_come_whole_is_there_for_who_reads_it_after_its_client_has_left() -> None:
    reading: list[asyncio.Task[bytes]] = []
    gate = asyncio.Event()

    async def later(client: Client) -> bytes:
        pieces = client.body()
        await gate.wait()
        return b"".join([piece async for piece in pieces])

    async def work(_request: Request, client: Client) -> None:
        reading.append(asyncio.ensure_future(later(client)))
        await asyncio.Event().wait()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(post("/", b"whole"))
        await until(lambda: bool(reading))
        wire.break_off()
        await here.ended()
        gate.set()
        assert await reading[0] == b"whole"
