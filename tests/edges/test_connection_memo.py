"""Heads that come again: they are read once, and answered as if they had been read each time."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Final

import pytest
import trustme

from proxy.edges.connection import HIGH_WATER, Connection
from proxy.edges.outbound import APART
from proxy.edges.shared import Shared
from proxy.flow import heads
from proxy.flow.heads import Heads
from proxy.flow.ports import Client
from proxy.rules.message import Request
from tests.edges.kit import (
    LIMITS,
    PATIENCE,
    FakeClock,
    Pending,
    Rig,
    Wire,
    chunked_post,
    echo,
    get,
    ok,
    post,
    read_all,
    rig,
    stored,
    turns,
    until,
)
from tests.flow.kit import FRESH, World

HOT: Final = get("/hot", "Accept: */*")


async def primed(here: Rig, *heads: bytes) -> Wire:
    """A client whose heads are remembered."""
    wire = await here.connect()
    for head in heads or (HOT,):
        for _ in range(2):
            await wire.send(head)
            await wire.response()
    here.reads.clear()
    here.seen.clear()
    return wire


async def told(request: Request, client: Client) -> None:
    """Answers with all that was understood of the request."""
    body = b"" if request.length == 0 else await read_all(client)
    fields = sorted(request.fields.items())
    ok(client, repr((request.method, request.target, request.host, request.scheme, fields, body)).encode())


def told_at_once(request: Request, client: Client) -> Pending | None:
    if request.length == 0:
        ok(client, repr((request.method, request.target, request.host, request.scheme, request.fields)).encode())
        return None
    return told(request, client)


# -- what is read, and how often


async def test_a_head_that_comes_again_and_again_is_read_the_first_two_times() -> None:
    async with rig() as here:
        one, other = await here.connect(), await here.connect()
        for _ in range(10):
            for wire in (one, other):
                await wire.send(HOT)
                assert (await wire.response()).body == b"/hot"
        assert (here.reads, len(here.seen)) == (["/hot"] * 2, 20)


async def test_heads_that_differ_in_a_byte_are_read_apart() -> None:
    async with rig(told_at_once) as here:
        wire = await here.connect()
        for _ in range(4):
            for accept in ("a", "b", "a "):
                await wire.send(get("/", f"Accept: {accept}"))
                assert repr({"host": "a.test", "accept": accept.strip()}).encode() in (await wire.response()).body
        assert len(here.reads) == 6


async def test_remembered_heads_are_begun_each_time() -> None:
    async with rig() as here:
        wire = await primed(here)
        for _ in range(5):
            await wire.send(HOT)
            await wire.response()
        assert (here.reads, here.seen) == ([], ["/hot"] * 5)


async def test_forgetting_makes_every_head_be_read_anew() -> None:
    async with rig() as here:
        wire = await primed(here)
        here.shared.heads.forget()
        for _ in range(5):
            await wire.send(HOT)
            await wire.response()
        assert here.reads == ["/hot"] * 2


async def test_limits_that_change_count_for_heads_that_were_remembered() -> None:
    async with rig() as here:
        wire = await primed(here)
        here.shared.limits = replace(here.limits, max_headers=1)
        here.shared.heads.forget()
        await wire.send(HOT)
        assert (await wire.response()).status == 431


async def test_a_flood_of_heads_that_never_come_again_makes_no_head_be_forgotten() -> None:
    async with rig() as here:
        wire = await primed(here)
        for number in range(300):
            await wire.send(get(f"/{number}"))
            await wire.response()
        await wire.send(HOT)
        await wire.response()
        assert "/hot" not in here.reads


@pytest.mark.parametrize(
    ("raw", "status"),
    [(get("/", "A : b"), 400), (get("/", "Expect: x"), 417), (get(version="2.0"), 505), (get("*"), 400)],
)
async def test_what_is_refused_is_refused_each_time(raw: bytes, status: int) -> None:
    async with rig() as here:
        for _ in range(4):
            wire = await here.connect()
            await wire.send(raw)
            assert (await wire.response()).status == status
            assert await wire.closed()
        assert [refused for _, refused, _ in here.refusals] == [status] * 4


# -- however it comes, the answers are those of a listener that remembers nothing


def several(*segments: bytes) -> tuple[bytes, ...]:
    return segments


NEXT: Final = get("/next")
POST: Final = post("/post", b"12345")
POST_HEAD: Final = POST.removesuffix(b"12345")
CHUNKED: Final = chunked_post("/chunked", b"12", b"345")
CHUNKED_HEAD: Final = CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4]
WAYS: Final = {
    "alone": several(HOT),
    "twice in one segment": several(HOT + HOT),
    "many in one segment": several(HOT * 50),
    "with another behind it": several(HOT + NEXT),
    "behind another": several(NEXT + HOT),
    "in two segments, cut in the request line": several(HOT[:5], HOT[5:]),
    "in two segments, cut in a field": several(HOT[:-9], HOT[-9:]),
    "in two segments, cut in its end": several(HOT[:-1], HOT[-1:]),
    "in two segments, cut before its end": several(HOT[:-2], HOT[-2:]),
    "byte by byte": several(*(HOT[at : at + 1] for at in range(len(HOT)))),
    "with a part of another behind it": several(HOT + NEXT[:10], NEXT[10:]),
    "behind a part of another": several(NEXT[:10], NEXT[10:] + HOT),
    "behind a part of itself": several(HOT + HOT[:10], HOT[10:], HOT),
    "behind an empty line": several(b"\r\n" + HOT, HOT),
    "behind an empty line that came alone": several(b"\r\n", HOT, HOT),
    "behind half of an empty line": several(b"\r", b"\n" + HOT),
    "with half of an empty line behind it": several(HOT + b"\r", b"\n" + HOT),
    "with a body": several(POST, POST),
    "with a body in the next segment": several(POST_HEAD, b"12345", HOT),
    "with a part of its body": several(POST_HEAD + b"12", b"345", HOT),
    "with a body and more behind it": several(POST_HEAD, b"12345" + HOT),
    "with a body that looks like it": several(post("/post", HOT), HOT),
    "as a body": several(get("/", f"Content-Length: {len(HOT)}", method="POST"), HOT, HOT),
    "with a body in chunks": several(CHUNKED, CHUNKED),
    "with chunks in the next segment": several(CHUNKED_HEAD, CHUNKED.removeprefix(CHUNKED_HEAD), HOT),
    "with nonsense behind it": several(HOT + b"nonsense\r\n\r\n"),
    "and then nonsense": several(HOT, b"nonsense\r\n\r\n"),
    "with nonsense before it": several(b"non" + HOT, HOT),
    "of a HEAD": several(get(method="HEAD"), HOT),
}
REMEMBERED: Final = (HOT, POST, CHUNKED, NEXT)


async def conversation(*segments: bytes, end: bytes, begin: Callable[..., Pending | None]) -> bytes:
    """All that is said to a client that sends the segments one by one and then closes its side."""
    async with rig(begin) as here:
        wire = await here.connect()
        for head in REMEMBERED * 2:
            await wire.send(head)
            await wire.response()
        for segment in segments:
            await wire.send(segment)
            await turns(5)
        await wire.send(end)
        return await wire.rest()


@pytest.mark.parametrize("begin", [told_at_once, told], ids=["at once", "later"])
@pytest.mark.parametrize("segments", WAYS.values(), ids=list(WAYS))
async def test_however_a_head_comes_it_is_answered_as_if_it_had_been_read(
    segments: tuple[bytes, ...], begin: Callable[..., Pending | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = get("/end", "Connection: close")
    remembering = await conversation(*segments, end=end, begin=begin)
    monkeypatch.setattr(heads, "LONG", 0)
    assert remembering == await conversation(*segments, end=end, begin=begin)
    assert remembering


# -- what a reading depends on


async def test_who_is_trusted_and_who_is_not_do_not_share_what_was_read() -> None:
    head = get("/", "X-Forwarded-Proto: https", "X-Forwarded-Host: b.test")
    async with rig(told_at_once, trusted=[ip_network("127.0.0.1/32")]) as here:
        trusted = await here.connect()
        untrusted = await here.connect(source="127.0.0.2")
        for _ in range(3):
            await trusted.send(head)
            assert b"('GET', '/', 'b.test', 'https'" in (await trusted.response()).body
            await untrusted.send(head)
            assert b"('GET', '/', 'a.test', 'http'" in (await untrusted.response()).body
        assert len(here.reads) == 4, "each twice"


async def test_a_change_of_who_is_trusted_is_for_open_connections_too() -> None:
    head = get("/", "X-Forwarded-Proto: https", "X-Forwarded-Host: b.test")
    doubted, believed = b"('GET', '/', 'a.test', 'http'", b"('GET', '/', 'b.test', 'https'"
    async with rig(told_at_once) as here:
        wire = await here.connect()
        for networks, expected in (((), doubted), ((ip_network("127.0.0.0/8"),), believed), ((), doubted)):
            here.shared.trust(networks)
            for _ in range(3):  # so often that its head is remembered
                await wire.send(head)
                assert expected in (await wire.response()).body


async def test_a_request_under_way_keeps_the_trust_it_was_read_with() -> None:
    gate, begun = asyncio.Event(), list[str]()

    async def begin(request: Request, client: Client) -> None:
        begun.append(request.host)
        await gate.wait()
        ok(client, f"{request.host} {client.trusted}".encode())

    async with rig(begin, trusted=[ip_network("127.0.0.0/8")]) as here:
        wire = await here.connect()
        head = get("/", "X-Forwarded-Host: b.test")
        await wire.send(head + head)
        await until(lambda: begun)
        here.shared.trust(())
        gate.set()
        assert (await wire.response()).body == b"b.test True"
        assert (await wire.response()).body == b"a.test False"


async def test_http_and_https_do_not_share_what_was_read() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("a.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)

    async with rig(told_at_once) as here:
        port = await here.listener.listen(here.host, 0, server)
        plain = await here.connect()
        reader, writer = await asyncio.open_connection(here.host, port, ssl=client, server_hostname="a.test")
        for _ in range(3):
            await plain.send(HOT)
            assert b"'a.test', 'http'," in (await plain.response()).body
            writer.write(HOT)
            async with asyncio.timeout(PATIENCE):
                length = int((await reader.readuntil(b"\r\n\r\n")).partition(b"Content-Length: ")[2].split(b"\r")[0])
                assert b"'a.test', 'https'," in await reader.readexactly(length)
        assert len(here.reads) == 4, "each twice"
        writer.transport.abort()


# -- what is said with the answer


async def test_on_a_draining_listener_a_remembered_head_is_the_last_of_its_connection() -> None:
    async with rig() as here:
        wire = await primed(here)
        here.shared.draining = True
        await wire.send(HOT)
        response = await wire.response()
        assert (response.headers["connection"], response.body) == ("close", b"/hot")
        assert await wire.closed()
        assert here.reads == []


async def test_a_listener_that_begins_to_drain_while_a_remembered_head_waits_for_its_answer_says_so() -> None:
    async with rig() as here:
        wire = await primed(here)

        async def work(request: Request, client: Client) -> None:
            here.shared.draining = True
            echo(request, client)

        here.begin = work
        await wire.send(HOT)
        assert (await wire.response()).headers["connection"] == "close"
        assert await wire.closed()


@pytest.mark.parametrize(
    ("head", "connection_field", "stays"),
    [
        (get("/"), None, True),
        (get("/", "Connection: close"), "close", False),
        (get("/", version="1.0"), "close", False),
        (get("/", "Connection: keep-alive", version="1.0"), "keep-alive", True),
    ],
    ids=["1.1", "1.1 for the last time", "1.0", "1.0 that stays"],
)
async def test_a_remembered_head_keeps_its_connection_as_a_new_one_does(
    head: bytes, connection_field: str | None, stays: bool
) -> None:
    async with rig() as here:
        wire = await here.connect()
        for _ in range(5):
            await wire.send(head)
            response = await wire.response()
            assert (response.headers.get("connection"), response.body) == (connection_field, b"/")
            if not stays:
                assert await wire.closed()
                wire = await here.connect()
        assert len(here.reads) == 2


async def test_who_closes_his_side_behind_a_remembered_head_gets_his_answer() -> None:
    async with rig() as here:
        wire = await primed(here)
        await wire.send(HOT)
        wire.shut()
        assert (await wire.response()).body == b"/hot"
        assert await wire.closed()


async def test_an_exchange_that_cannot_begin_is_500_also_for_a_remembered_head() -> None:
    async with rig() as here:
        wire = await primed(here)

        def begin(request: Request, _client: Client) -> Pending | None:
            raise KeyError(request.target)

        here.begin = begin
        await wire.send(HOT)
        assert (await wire.response()).status == 500
        assert await wire.closed()


# -- in order, and at the pace of the reader


async def test_a_remembered_head_waits_for_the_answer_before_it() -> None:
    gate = asyncio.Event()

    async def slow(request: Request, client: Client) -> None:
        await gate.wait()
        echo(request, client)

    async with rig() as here:
        wire = await primed(here)
        here.begin = slow
        for _ in range(3):
            await wire.send(HOT)
            await turns(5)
        assert (here.seen, wire.quiet()) == (["/hot"], True)
        gate.set()
        assert [(await wire.response()).body for _ in range(3)] == [b"/hot"] * 3
        assert (here.seen, here.reads) == (["/hot"] * 3, [])


async def test_a_client_that_does_not_read_is_not_answered_further_however_well_its_head_is_known() -> None:
    body = bytes(64 << 10)
    async with rig() as here:
        await primed(here)
        here.begin = lambda _request, client: ok(client, body)
        wire = await here.connect(receive_buffer=4096)
        for _ in range(100):
            await wire.send(HOT)
            await turns(2)
        assert 0 < len(here.seen) < 100
        open_ones = [one for one in here.shared.connections if isinstance(one, Connection)]
        unsent = max(one._transport.get_write_buffer_size() for one in open_ones)  # noqa: SLF001
        assert HIGH_WATER < unsent < HIGH_WATER + len(body) + 200
        assert [len((await wire.response()).body) for _ in range(100)] == [len(body)] * 100
        assert (len(here.seen), here.reads) == (100, [])


@pytest.mark.parametrize("size", [0, APART - 2, APART - 1, 10 * APART])
async def test_bodies_of_all_sizes_come_whole(size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    async with rig(lambda _request, client: ok(client, body)) as here:
        wire = await here.connect()
        for _ in range(4):
            await wire.send(HOT * 3)
            assert [(await wire.response()).body for _ in range(3)] == [body] * 3


# -- what a hit costs


class Silent:
    """A transport that takes everything and does nothing."""

    def __init__(self) -> None:
        self.written = 0

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return ("192.0.2.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def close(self) -> None:
        pass


WAYS_TO_ASK: Final = {
    "whole": HOT,
    "for the head": get("/hot", method="HEAD"),
    "conditional": get("/hot", 'If-None-Match: "1"'),
    "for a part": get("/hot", "Range: bytes=0-1"),
}


@pytest.mark.parametrize("head", WAYS_TO_ASK.values(), ids=list(WAYS_TO_ASK))
@pytest.mark.parametrize("remembered", [True, False], ids=["remembered", "read each time"])
async def test_a_hit_makes_no_task_no_future_and_no_timer(
    head: bytes, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not remembered:
        monkeypatch.setattr(heads, "LONG", 0)
    async with World(noted=False) as w:
        w.ask(target="/hot", host="a.test")
        await w.idle()
        w.last.reply(FRESH, 'ETag: "1"', body=b"hello, world")
        await w.idle()
        exchange, spawn = w.exchange, w.background.spawn
        shared = Shared(Heads(exchange.read), exchange.hit, exchange.begin, spawn, FakeClock(), LIMITS)
        here, transport = Connection(shared, "http"), Silent()
        here.connection_made(transport)  # type: ignore[arg-type]
        for _ in range(3):
            here.data_received(head)
        written, loop = transport.written, asyncio.get_running_loop()
        made: list[str] = []
        for name in ("create_task", "create_future", "call_soon", "call_later", "call_at", "call_soon_threadsafe"):
            monkeypatch.setattr(loop, name, lambda *_, name=name, **__: made.append(name))
        for _ in range(100):
            here.data_received(head)
        monkeypatch.undo()
        assert made == []
        assert transport.written == written // 3 * 103
        assert len(w.calls) == 1, "all of them were hits"


# -- answers that are put straight on the wire


async def test_a_client_that_does_not_read_its_hits_holds_little_more_than_one() -> None:
    async with rig(hit=stored) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(b"".join(get(f"/{number}") for number in range(200)))
        await until(lambda: here.unsent > 0)
        await turns()
        assert here.unsent <= HIGH_WATER + 41_000
        for number in range(200):
            assert (await wire.response()).body.rstrip(b".") == f"/{number}".encode()
        assert here.seen == []


async def test_a_client_that_stops_reading_its_hits_is_cut_off() -> None:
    async with rig(hit=stored) as here:
        wire = await here.connect(receive_buffer=4096)
        await wire.send(get("/") * 200)
        await until(lambda: here.unsent > 0)
        await turns()
        here.sweep()
        here.sweep(LIMITS.write_timeout + 1)
        await until(lambda: not here.shared.connections)


async def test_a_connection_of_hits_is_idle_between_them() -> None:
    async with rig(hit=stored) as here:
        wire = await here.connect()
        for _ in range(3):
            await wire.send(get("/"))
            assert (await wire.response()).status == 200
            here.sweep(LIMITS.idle_timeout - 1)
            assert here.shared.connections
        here.sweep(LIMITS.idle_timeout)
        assert await wire.receive() == b""


async def test_a_draining_listener_puts_nothing() -> None:
    async with rig(hit=stored) as here:
        wire = await here.connect()
        here.shared.draining = True
        await wire.send(get("/last"))
        response = await wire.response()
        assert (response.body, response.headers["connection"]) == (b"/last", "close")


async def test_what_is_put_and_what_waits_keep_their_order() -> None:
    gate = asyncio.Event()

    async def wait(request: Request, client: Client) -> None:
        await gate.wait()
        echo(request, client)

    async with rig(wait, hit=lambda request, client: request.target != "/slow" and stored(request, client)) as here:
        wire = await here.connect()
        await wire.send(get("/1") + get("/slow") + get("/2") + get("/slow") + get("/3"))
        assert (await wire.response()).body.rstrip(b".") == b"/1"
        await turns()
        assert wire.pending == b""
        gate.set()
        for expected in (b"/slow", b"/2", b"/slow", b"/3"):
            assert (await wire.response()).body.rstrip(b".") == expected
