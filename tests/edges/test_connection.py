"""Requests on one connection: taken apart, answered in order, framed, and ended."""

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from proxy.edges.connection import HIGH_WATER
from proxy.flow.ports import Client
from proxy.rules.message import Reason, Request
from tests.edges.kit import (
    Pending,
    chunked_post,
    echo,
    get,
    ok,
    post,
    read_all,
    rig,
    turns,
    until,
)

BIG = 16 << 20  # bytes: more than the kernel keeps for a client that does not read


async def answer_with_body(request: Request, client: Client) -> None:
    body = b"" if request.length == 0 else await read_all(client)
    ok(client, request.target.encode() + b"=" + body)


# -- however the bytes come


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (get("/a", "Accept: */*"), b"/a="),
        (post("/b", b"\r\n\r\nGET"), b"/b=\r\n\r\nGET"),
        (chunked_post("/c", b"12", b"\r\n3"), b"/c=12\r\n3"),
    ],
    ids=["get", "content-length", "chunked"],
)
async def test_a_request_may_be_cut_anywhere(raw: bytes, body: bytes) -> None:
    async with rig(answer_with_body) as here:
        wire = await here.connect()
        for cut in range(1, len(raw)):
            await wire.send(raw[:cut])
            await turns(3)
            await wire.send(raw[cut:])
            assert (await wire.response()).body == body


async def test_requests_may_come_byte_by_byte() -> None:
    async with rig(answer_with_body) as here:
        wire = await here.connect()
        for byte in get("/1") + post("/2", b"ab") + chunked_post("/3", b"c", b"d") + get("/4"):
            await wire.send(bytes([byte]))
            await turns(3)
        assert [(await wire.response()).body for _ in range(4)] == [b"/1=", b"/2=ab", b"/3=cd", b"/4="]


async def test_empty_lines_before_a_request_are_ignored() -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(b"\r\n" + get("/1") + b"\r\n" + get("/2"))
        assert [(await wire.response()).body for _ in range(2)] == [b"/1", b"/2"]


# -- in order


async def test_a_segment_of_requests_is_answered_in_order_whoever_answers() -> None:
    async def later(request: Request, client: Client) -> None:
        await turns(int(request.target[1:]) % 3)
        echo(request, client)

    def begin(request: Request, client: Client) -> Pending | None:
        return later(request, client) if int(request.target[1:]) % 3 else echo(request, client)

    async with rig(begin) as here:
        wire = await here.connect()
        targets = [f"/{number}" for number in range(100)]
        await wire.send(b"".join(map(get, targets)))
        assert [(await wire.response()).body.decode() for _ in targets] == targets
        assert here.seen == targets


async def test_bodies_between_pipelined_requests_stay_apart() -> None:
    async with rig(answer_with_body) as here:
        wire = await here.connect()
        await wire.send(post("/1", b"GET /x") + get("/2") + chunked_post("/3", b"POST", b" /y") + post("/4", b"z") * 2)
        bodies = [(await wire.response()).body for _ in range(5)]
        assert bodies == [b"/1=GET /x", b"/2=", b"/3=POST /y", b"/4=z", b"/4=z"]


async def test_a_request_is_not_looked_at_before_the_answer_before_it_is_complete() -> None:
    head, tail = asyncio.Event(), asyncio.Event()

    async def slow(client: Client) -> None:
        await head.wait()
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        await client.write(b"one")
        await tail.wait()
        client.finish()

    def begin(request: Request, client: Client) -> Pending | None:
        return slow(client) if request.target == "/1" else echo(request, client)

    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2") + b"GET / HTTP/1.1\nHost: a\r\n\r\n")
        await turns()
        assert (here.seen, wire.quiet()) == (["/1"], True)
        head.set()
        assert (await wire.through(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await wire.exactly(8) == b"3\r\none\r\n"
        await turns()
        assert (here.seen, here.refusals, wire.quiet()) == (["/1"], [], True)
        tail.set()
        assert await wire.exactly(5) == b"0\r\n\r\n"
        assert (await wire.response()).body == b"/2"
        assert (await wire.response()).status == 400
        assert await wire.closed()


async def test_work_that_goes_on_behind_its_answer_does_not_touch_the_next_request() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def work(request: Request, client: Client) -> None:
        if request.target == "/1":
            ok(client, b"1")
            await first.wait()
            raise RuntimeError("behind its answer")
        await second.wait()
        ok(client, b"2")

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1"))
        assert (await wire.response()).body == b"1"
        await wire.send(get("/2"))
        await until(lambda: here.seen == ["/1", "/2"])
        first.set()
        await until(lambda: len(here.background) == 1)
        assert wire.quiet()
        second.set()
        assert (await wire.response()).body == b"2"


# -- a client that does not read, or sends more than is asked for


@pytest.mark.parametrize("half_closed", [False, True], ids=["", "half-closed"])
async def test_a_client_that_does_not_read_holds_one_answer_and_loses_none(half_closed: bool) -> None:
    body = bytes(64 << 10)
    count = 400

    async with rig(lambda request, client: ok(client, request.target.encode() + body)) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(b"".join(get(f"/{number:03}") for number in range(count)))
        if half_closed:
            wire.shut()
        await turns()
        assert 0 < len(here.seen) < count
        assert HIGH_WATER < here.unsent < HIGH_WATER + len(body) + 200
        for number in range(count):
            assert (await wire.response()).body == b"/%03d" % number + body
            assert here.unsent < HIGH_WATER + len(body) + 200 if here.shared.connections else number > count // 2
        assert len(here.seen) == count
        if half_closed:
            assert await wire.closed()


async def test_a_body_is_written_at_the_pace_of_its_reader() -> None:
    pieces = [hashlib.sha256(b"%d" % number).digest() * 2048 for number in range(256)]
    written = 0

    async def work(_request: Request, client: Client) -> None:
        nonlocal written
        client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        for piece in pieces:
            await client.write(piece)
            written += 1
        client.finish()

    def begin(request: Request, client: Client) -> Pending | None:
        return work(request, client) if request.target == "/1" else echo(request, client)

    async with rig(begin) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(get("/1") + get("/2"))
        await turns()
        assert 0 < written < len(pieces)
        assert here.unsent < HIGH_WATER + len(pieces[0]) + 20
        assert (await wire.response()).body == b"".join(pieces)
        assert (await wire.response()).body == b"/2"


async def test_requests_behind_a_slow_answer_are_left_in_the_kernel() -> None:
    gate = asyncio.Event()

    async def slow(client: Client) -> None:
        await gate.wait()
        ok(client)

    def begin(request: Request, client: Client) -> Pending | None:
        return slow(client) if request.target == "/slow" else ok(client)

    count = 400_000 // len(get("/x"))
    async with rig(begin) as here:
        wire = await here.connect()
        sending = asyncio.create_task(wire.send(get("/slow") + get("/x") * count))
        await turns()
        held = here.unread
        await turns()
        assert HIGH_WATER < here.unread == held < HIGH_WATER + (256 << 10)  # one read of the loop's more
        gate.set()
        for _ in range(count + 1):
            assert (await wire.response()).status == 200
        await sending


# -- framing


@pytest.mark.parametrize(
    ("head", "connection", "stays"),
    [
        (get(), None, True),
        (get("/", "Connection: close"), "close", False),
        (get("/", "Connection: Keep-Alive, CLOSE"), "close", False),
        (get(version="1.0"), "close", False),
        (get("/", "Connection: keep-alive", version="1.0"), "keep-alive", True),
    ],
)
async def test_who_keeps_the_connection(head: bytes, connection: str | None, stays: bool) -> None:
    async with rig(lambda _request, client: ok(client, b"x")) as here:
        wire = await here.connect()
        await wire.send(head)
        response = await wire.response()
        assert (response.headers.get("connection"), response.body) == (connection, b"x")
        if stays:
            await wire.send(get())
            assert (await wire.response()).status == 200
        else:
            assert await wire.closed()


def streamed(length: int | None, *, close: bool = False, status: str = "200 OK") -> Callable[..., Pending]:
    async def work(request: Request, client: Client) -> None:
        declared = b"" if length is None else b"Content-Length: %d\r\n" % length
        client.start(f"HTTP/1.1 {status}\r\n".encode() + declared, length=length, close=close)
        if request.method != "HEAD" and status == "200 OK":
            await client.write(b"abc")
            await client.write(b"")
            await client.write(b"def")
        assert client.sent == (6 if request.method != "HEAD" and status == "200 OK" else 0)
        client.finish()

    return work


@pytest.mark.parametrize(
    ("begin", "request_", "wanted", "stays"),
    [
        (streamed(None), get(), b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", True),
        (streamed(6), get(), b"Content-Length: 6\r\n\r\nabcdef", True),
        (streamed(None), get(version="1.0"), b"Connection: close\r\n\r\nabcdef", False),
        (
            streamed(None),
            get("/", "Connection: keep-alive", version="1.0"),
            b"Connection: close\r\n\r\nabcdef",
            False,
        ),
        (
            streamed(6),
            get("/", "Connection: keep-alive", version="1.0"),
            b"Content-Length: 6\r\nConnection: keep-alive\r\n\r\nabcdef",
            True,
        ),
        (streamed(None, close=True), get(), b"Connection: close\r\n\r\nabcdef", False),
        (streamed(None), get(method="HEAD"), b"\r\n", True),
        (streamed(6), get(method="HEAD"), b"Content-Length: 6\r\n\r\n", True),
        (streamed(None, close=True), get(method="HEAD"), b"\r\n", True),
        (streamed(None, status="204 No Content"), get(), b"\r\n", True),
        (streamed(None, status="304 Not Modified"), get(), b"\r\n", True),
    ],
    ids=[
        "unknown length is chunked",
        "known length is not",
        "unknown length to 1.0 ends with the connection",
        "unknown length to 1.0 cannot keep alive",
        "known length to 1.0 can",
        "relayed close-delimited",
        "HEAD, unknown length",
        "HEAD, known length",
        "HEAD, close-delimited",
        "204",
        "304",
    ],
)
async def test_how_an_answer_ends(begin: Callable[..., Pending], request_: bytes, wanted: bytes, stays: bool) -> None:
    async with rig(
        lambda request, client: echo(request, client) if request.target == "/next" else begin(request, client)
    ) as here:
        wire = await here.connect()
        await wire.send(request_ + get("/next"))
        line = await wire.through(b"\r\n")
        assert line.startswith(b"HTTP/1.1 ")
        assert await wire.exactly(len(wanted)) == wanted
        if stays:
            assert (await wire.response()).body == b"/next"
        else:
            assert await wire.closed()
            assert here.seen == ["/"]


# -- endings


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("sent", ["nothing", "head", "body"])
async def test_an_abort_never_looks_like_an_end(version: str, sent: str) -> None:
    async def work(_request: Request, client: Client) -> None:
        if sent != "nothing":
            client.start(b"HTTP/1.1 200 OK\r\n", length=None)
        if sent == "body":
            await client.write(b"abc")
        client.abort()
        client.abort()

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1", version=version) + get("/2"))
        await wire.reset()
        await here.ended()
        assert here.seen == ["/1"]


@pytest.mark.parametrize("sync", [True, False])
async def test_a_client_may_close_its_half_and_still_gets_every_answer(sync: bool) -> None:
    gate = asyncio.Event()

    async def later(request: Request, client: Client) -> None:
        await gate.wait()
        echo(request, client)

    async with rig(echo if sync else later) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2") + b"GET /3 HTTP/1.1\r\n")
        wire.shut()
        await turns()
        gate.set()
        assert (await wire.response()).body == b"/1"
        assert (await wire.response()).body == b"/2"
        assert await wire.closed()


async def test_an_end_that_comes_right_behind_an_answer_does_not_lose_the_next() -> None:
    """The work for the first answer has not been seen to end when the end of the client's half is read."""
    gate, stays = asyncio.Event(), list[bool]()

    async def later(request: Request, client: Client) -> None:
        await gate.wait()
        echo(request, client)
        if request.target == "/1":
            stays.append(here.connection.eof_received())

    async with rig(later) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2"))
        await until(lambda: here.seen)
        gate.set()
        assert (await wire.response()).body == b"/1"
        assert (await wire.response()).body == b"/2"
        assert stays == [True]
        assert await wire.closed()


async def test_a_bug_on_the_short_way_is_answered_too(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_request: Request, _client: Client) -> bool:
        raise ZeroDivisionError

    async with rig(hit=broken) as here:
        wire = await here.connect()
        await wire.send(get("/"))
        assert (await wire.response()).status == 500
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("waits_for", ["nothing", "reader"])
async def test_a_client_that_resets_ends_the_work_for_it(waits_for: str) -> None:
    ended: list[str] = []

    async def work(request: Request, client: Client) -> None:
        try:
            client.start(b"HTTP/1.1 200 OK\r\n", length=None)
            await client.write(b"x" * (1 if waits_for == "nothing" else BIG))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(request.target)
            raise

    async with rig(work) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(get("/1") + get("/2"))
        await wire.through(b"\r\n\r\n")
        wire.break_off()
        await here.ended()
        assert (ended, here.seen) == (["/1"], ["/1"])


@pytest.mark.parametrize("fails", ["raises", "returns"])
async def test_work_that_ends_without_an_answer_is_500(fails: str) -> None:
    async def work(request: Request, _client: Client) -> None:
        await asyncio.sleep(0)
        if fails == "raises":
            raise KeyError(request.target)

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2"))
        response = await wire.response()
        assert (response.status, response.headers["connection"]) == (500, "close")
        assert response.headers["content-type"] == "application/problem+json"
        assert b"/1" not in response.body
        assert await wire.closed()
        assert here.seen == ["/1"]


@pytest.mark.parametrize("sent", ["head", "body"])
@pytest.mark.parametrize("fails", ["raises", "returns"])
async def test_work_that_ends_in_mid_answer_is_a_reset(sent: str, fails: str) -> None:
    async def work(request: Request, client: Client) -> None:
        client.start(b"HTTP/1.1 200 OK\r\n", length=None, close=True)
        if sent == "body":
            await client.write(b"abc")
        if fails == "raises":
            raise KeyError(request.target)

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2"))
        await wire.reset()
        await here.ended()
        assert here.seen == ["/1"]


@pytest.mark.parametrize("target", ["/1", "/2"])
async def test_an_exchange_that_cannot_begin_is_500_and_nothing_hangs(target: str) -> None:
    def begin(request: Request, client: Client) -> Pending | None:
        if request.target == target:
            raise KeyError(request.target)
        return answer_with_body(request, client)

    async with rig(begin) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2"))
        if target == "/2":
            assert (await wire.response()).body == b"/1="
        assert (await wire.response()).status == 500
        assert await wire.closed()


# -- exchanges that wait without a task


class Waiting:
    """Begins exchanges and leaves them there; the test goes on with them."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    def __call__(self, request: Request, client: Client) -> Pending | None:  # noqa: ARG002 - as of any begin
        self.clients.append(client)
        return None


async def test_an_exchange_that_waits_without_a_task_is_answered_in_its_turn_and_the_next_follows() -> None:
    waiting = Waiting()
    async with rig(waiting) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/2"))
        await until(lambda: waiting.clients)
        await turns()
        assert here.seen == ["/1"], "the next one is not looked at"
        assert waiting.clients[0].resume(lambda: ok(waiting.clients[0], b"one"))
        assert (await wire.response()).body == b"one"
        assert here.seen == ["/1", "/2"]

        async def later() -> None:
            ok(waiting.clients[1], b"two")

        assert waiting.clients[1].resume(later)
        assert (await wire.response()).body == b"two"


async def test_an_exchange_whose_client_has_left_does_not_go_on() -> None:
    waiting = Waiting()
    async with rig(waiting) as here:
        wire = await here.connect()
        await wire.send(get("/1"))
        await until(lambda: waiting.clients)
        wire.break_off()
        await here.ended()
        assert not waiting.clients[0].resume(lambda: pytest.fail("nobody is there"))


async def test_an_exchange_that_cannot_go_on_is_500() -> None:
    waiting = Waiting()

    def fail() -> None:
        raise KeyError("a bug")

    async with rig(waiting) as here:
        wire = await here.connect()
        await wire.send(get("/1"))
        await until(lambda: waiting.clients)
        assert waiting.clients[0].resume(fail)
        assert (await wire.response()).status == 500
        assert await wire.closed()


async def test_a_client_that_closed_its_side_gets_the_answer_that_it_waits_for_without_a_task() -> None:
    waiting = Waiting()
    async with rig(waiting) as here:
        wire = await here.connect()
        await wire.send(get("/1"))
        await until(lambda: waiting.clients)
        wire.shut()
        await turns()
        assert waiting.clients[0].resume(lambda: ok(waiting.clients[0], b"one"))
        assert (await wire.response()).body == b"one"
        assert await wire.closed()


# -- refused before they are whole


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\n", 400),
        (b"GET /\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400),
        (b"GET /" + b"x" * 4096, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 4096, 431),
        (get("/", *["A: b"] * 20), 431),
        (get("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
        (get("/", "Transfer-Encoding: gzip"), 501),
        (get(version="1.2"), 505),
        (get("/", "Expect: more"), 417),
    ],
)
@pytest.mark.parametrize("behind", [b"", get("/before")], ids=["first", "behind"])
async def test_what_cannot_become_a_request_is_refused_at_once(raw: bytes, status: int, behind: bytes) -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(behind + raw)
        if behind:
            assert (await wire.response()).body == b"/before"
        response = await wire.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert response.headers["content-type"] == "application/problem+json"
        assert await wire.closed()
        assert here.seen == ["/before"] * bool(behind)
        assert [(peer, refused) for peer, refused, _ in here.refusals] == [("127.0.0.1", status)]


async def test_a_head_of_exactly_the_largest_size_is_served() -> None:
    async with rig() as here:
        wire = await here.connect()
        filler = "x" * (here.limits.max_header_bytes - len(get("/", "X: ")))
        await wire.send(get("/", f"X: {filler}"))
        assert (await wire.response()).status == 200
        await wire.send(get("/", f"X: {filler}x"))
        assert (await wire.response()).status == 431
        assert here.refusals == [("127.0.0.1", 431, Reason.HEADERS_TOO_LARGE)]


async def test_what_comes_behind_a_refusal_is_not_served_and_does_not_destroy_it() -> None:
    async with rig() as here:
        wire = await here.connect()
        await wire.send(b"nonsense\r\n\r\n" + get("/1"))
        await turns()
        await wire.send(get("/2") * 10_000)
        assert (await wire.response()).status == 400
        assert await wire.closed()
        assert here.seen == []


async def test_bytes_behind_the_last_answer_do_not_destroy_it() -> None:
    gate = asyncio.Event()
    body = bytes(200_000)

    async def work(_request: Request, client: Client) -> None:
        await gate.wait()
        ok(client, body)

    async with rig(work) as here:
        wire = await here.connect()
        await wire.send(get("/1", "Connection: close"))
        sending = asyncio.create_task(wire.send(get("/2") * 20_000))
        await turns()
        gate.set()
        assert (await wire.response()).body == body
        sending.cancel()
        assert here.seen == ["/1"]
