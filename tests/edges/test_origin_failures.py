"""When there is no answer, and whom the upstream client trusts."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme

from proxy.certificates import upstream_context
from proxy.rules.message import Reason
from tests.e2e.process import Late, in_time
from tests.edges.scripted import (
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
    replies,
    server_context,
    settled,
    trusting,
    upstream,
)

# -- no answer


async def test_a_refused_connection_and_an_unknown_name_are_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://nowhere.invalid"):
        async with client(url) as origin:
            assert await failure(origin.fetch(get())) is Reason.CONNECT
            assert (origin.requests, origin.errors, origin.retries) == (1, 1, 0)


async def test_a_call_is_told_of_as_sent_when_it_is_and_only_then() -> None:
    sent: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with client(f"http://127.0.0.1:{port}") as origin:
        await failure(origin.fetch(replace(get(), sent=lambda: sent.append("to nobody"))))
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        await gate.wait()  # so long its time does not run
        yield b"x"

    async with upstream(once(b"")) as up, client(up.url, max_connections=1, timeout=0.2) as origin:
        first = asyncio.create_task(failure(origin.fetch(replace(post(body(), 1), sent=lambda: sent.append("first")))))
        await settled(lambda: sent == ["first"])
        second = replace(get(), sent=lambda: sent.append("second"))
        assert await failure(origin.fetch(second)) is Reason.OVERLOADED
        gate.set()
        assert await first is Reason.TIMEOUT
    assert sent == ["first"]


async def test_an_upstream_that_moved_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        ports = [free.getsockname()[1]]

    async def resolve(_: object, host: str, *_rest: object, **_more: object) -> list[dict[str, object]]:
        port = ports.pop(0)
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    async with upstream(replies(OK)) as up, client("http://moved.example") as origin:
        ports.append(int(up.url.rpartition(":")[2]))
        assert await failure(origin.fetch(get())) is Reason.CONNECT
        assert await ask(origin) == (200, b"ok")


async def test_a_failed_call_gives_its_place_back() -> None:
    async with upstream(replies(b"nonsense\r\n\r\n", OK)) as up, client(up.url, max_connections=1) as origin:
        assert await failure(origin.fetch(get())) is Reason.BAD_RESPONSE
        assert await ask(origin) == (200, b"ok")
    async with upstream(once(b"")) as up, client(up.url, max_connections=1, timeout=0.3) as origin:
        for _ in range(2):
            assert await failure(origin.fetch(get())) is Reason.TIMEOUT
        await settled(lambda: len(up.peers) == 2)


async def test_a_handshake_that_does_not_end_is_connect_timeout() -> None:
    async def script(peer: Peer, _: int) -> None:
        await peer.rest()

    async with upstream(script) as up, client(up.url.replace("http:", "https:"), connect_timeout=0.05) as origin:
        assert await failure(origin.fetch(get())) is Reason.CONNECT_TIMEOUT
        await up.end()


async def test_no_head_in_time_is_timeout() -> None:
    for part in (b"", b"HTTP/1.1 200 OK\r\nX: 1\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"):
        async with upstream(once(part)) as up, client(up.url, timeout=0.3) as origin:
            assert await failure(origin.fetch(get())) is Reason.TIMEOUT
            assert (origin.errors, origin.retries) == (1, 0)


@pytest.mark.clock(only=Late)
async def test_waiting_for_a_connection_counts() -> None:
    async with upstream(once(b"")) as up, client(up.url, timeout=0.5, max_connections=1) as origin:
        loop = asyncio.get_running_loop()
        began = loop.time()
        reasons = await asyncio.gather(*(failure(origin.fetch(get())) for _ in range(5)))
        # Those who never got a place say nothing of the upstream's health.
        assert sorted(reason.value for reason in reasons) == ["overloaded"] * 4 + ["timeout"]
        in_time(loop.time() - began, 2.0)  # one after the other would take 2.5 s


async def test_a_connection_closed_before_the_head_is_disconnected() -> None:
    for end in (Peer.fin, Peer.rst):
        for part in (b"", b"HTTP/1.1 200 OK\r\nX: 1\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"):
            async with upstream(once(part, end)) as up, client(up.url) as origin:
                assert await failure(origin.fetch(get())) is Reason.DISCONNECTED


async def test_a_client_that_sends_slowly_does_not_use_up_the_upstreams_time() -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for seconds in (1.0, 0.4, 0.4, 0.0, 0.0):
            await asyncio.sleep(seconds)
            yield b"x"

    async def script(peer: Peer, _: int) -> None:
        await peer.head()
        assert await peer.reader.readexactly(5) == b"xxxxx"
        await peer.send(OK)
        await peer.rest()

    async with upstream(script) as up, client(up.url, timeout=0.7) as origin:
        assert await ask(origin, post(slowly(), 5)) == (200, b"ok")


async def test_the_upstreams_time_runs_when_the_body_is_sent() -> None:
    for length in (1, None):
        async with upstream(once(b"")) as up, client(up.url, timeout=0.3) as origin:
            assert await failure(origin.fetch(post(pieces(b"x"), length))) is Reason.TIMEOUT


async def test_the_upstreams_time_runs_while_it_does_not_read_the_body() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 65536
            yield b"x" * 65536

    gate = asyncio.Event()
    got: list[bytes] = []

    async def script(peer: Peer, _: int) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await gate.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got.append(await peer.rest())

    async with upstream(script) as up, client(up.url, timeout=1.0) as origin:
        assert await failure(origin.fetch(post(endless(), None))) is Reason.TIMEOUT
        assert taken < 16 << 20, "most of it in the kernel's own buffers"
        gate.set()
        await settled(lambda: len(got) == 1)
        assert len(got[0]) < taken, "what had not left was dropped with the connection"


# -- TLS


async def test_https_asks_for_and_verifies_the_server_name() -> None:
    ca = trustme.CA()
    asked: list[str] = []
    context = server_context(ca)
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with (
        upstream(replies(OK), context) as up,
        client(up.url, tls=trusting(ca), server_name="up.example") as origin,
    ):
        for _ in range(2):
            assert await ask(origin) == (200, b"ok")
        assert asked == ["up.example"]


async def test_https_trusts_neither_other_names_nor_other_authorities() -> None:
    ca = trustme.CA()
    async with upstream(replies(OK), server_context(ca)) as up:
        for context, name in ((trusting(ca), None), (trusting(trustme.CA()), "up.example"), (None, "up.example")):
            async with client(up.url, tls=context, server_name=name) as origin:
                assert await failure(origin.fetch(get())) is Reason.CONNECT


async def test_https_shows_its_certificate(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = server_context(ca)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key")}
    mine = ca.issue_cert("me.example")
    ca.cert_pem.write_to_path(files["ca"])
    mine.cert_chain_pems[0].write_to_path(files["cert"])
    mine.private_key_pem.write_to_path(files["key"])
    async with upstream(replies(OK), context) as up:
        shown = upstream_context(*(Path(files[name]) for name in ("ca", "cert", "key")))
        async with client(up.url, tls=shown, server_name="up.example") as origin:
            assert await ask(origin) == (200, b"ok")
        async with client(up.url, tls=trusting(ca), server_name="up.example") as origin:
            assert await failure(origin.fetch(get())) in (Reason.DISCONNECTED, Reason.CONNECT)


async def test_https_bodies_that_end_short_are_errors_and_are_not_read_ahead() -> None:
    ca = trustme.CA()
    for end in (Peer.fin, Peer.rst):
        async with (
            upstream(once(H + b"Content-Length: 300000\r\n\r\n" + b"x" * 200_000, end), server_context(ca)) as up,
            client(up.url, tls=trusting(ca), server_name="up.example") as origin,
        ):
            assert await failure(ask(origin)) is Reason.ABORTED


@pytest.mark.clock(only=Late)
@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.__name__)
def test_on_the_loop_of_the_standard_library(case: Case) -> None:
    asyncio.run(case())
