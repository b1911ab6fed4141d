"""Nothing grows without a bound: memory, flights, variants, upstream connections."""

import asyncio
import contextlib
import select
import socket
from functools import partial

import pytest

from tests.e2e.harness import Site, ask, receive, request
from tests.e2e.process import eventually
from tests.e2e.upstream import Call, counts, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
FRESH = "Cache-Control: max-age=600"
CONFIG = {
    "memory": {"max_size": "32MiB"},
    "limits": {"flight_memory": "4MiB"},
    "defaults": {"cache": {"max_object_size": "32MiB"}},
    "upstreams": {"origin": {"max_connections": 4}},
}


async def test_a_full_memory_evicts_and_goes_on(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.answer(call.target.encode().ljust(60_000), FRESH)

    here.upstream.on("/full", handler)
    stream = await here.connect()
    for number in range(100):
        await ask(stream, request(f"/full?{number}"))
    before = here.proxy.memory()
    here.proxy.forget_peak()
    for number in range(1500):
        response = await ask(stream, request(f"/full?{number}"))
        assert response.body.rstrip() == f"/full?{number}".encode()
    stream.close()
    assert (here.proxy.peak() - before) / MIB < 40
    assert (await here.get("/full?1499")).hit


async def test_an_answer_larger_than_flights_may_hold_is_streamed_and_not_stored(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.write(head(f"Content-Length: {24 * MIB}", FRESH))
        for at in range(24):
            await call.stream.send(bytes([at]) * MIB)

    here.upstream.on("/flight", handler)
    wanted = b"".join(bytes([at]) * MIB for at in range(24))
    before = here.proxy.memory()
    here.proxy.forget_peak()
    responses, _ = await here.at_once([request("/flight")] * 4)
    assert all(response.body == wanted for response in responses)
    assert (here.proxy.peak() - before) / MIB < 32
    assert not (await here.get("/flight")).hit


async def test_more_variants_than_are_kept_are_served_all_the_same(here: Site) -> None:
    async def handler(call: Call) -> None:
        call.answer(call.head["x-variant"], FRESH, "Vary: X-Variant")

    here.upstream.on("/variants", handler)
    stream = await here.connect()
    for _ in range(2):
        for number in range(200):
            assert (await ask(stream, request("/variants", f"X-Variant: {number}"))).text == str(number)
    stream.close()
    assert (await here.get("/variants", "X-Variant: 199")).hit


async def test_the_upstream_has_no_more_connections_than_it_may(here: Site) -> None:
    gate = asyncio.Event()
    inside, most = 0, 0

    async def handler(call: Call) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await gate.wait()
        await asyncio.sleep(0.005)
        inside -= 1
        call.answer(call.target, "Cache-Control: no-store")

    here.upstream.on("/few", handler)
    crowd = asyncio.create_task(here.at_once([request(f"/few?{number}") for number in range(40)]))
    await eventually(lambda: inside == 4, "as many as may")
    gate.set()
    responses, _ = await crowd
    assert [response.text for response in responses] == [f"/few?{number}" for number in range(40)]
    assert most == 4


async def test_one_upstream_connection_serves_many_requests(here: Site) -> None:
    here.upstream.on("/reuse", counts("Cache-Control: no-store"))
    await here.get("/reuse")
    before = here.upstream.connections
    for _ in range(20):
        await here.get("/reuse")
    assert here.upstream.connections == before


async def test_who_comes_late_reads_from_the_beginning_and_who_came_first_may_leave(here: Site) -> None:
    gate = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.stream.send(head("Content-Length: 200000", FRESH) + b"a" * 100_000)
        await gate.wait()
        await call.stream.send(b"b" * 100_000)

    here.upstream.on("/late", handler)
    first = await here.connect()
    first.write(request("/late"))
    await first.until(b"a" * 100_000)
    second = await here.connect()
    second.write(request("/late"))
    await second.until(b"a" * 100_000)  # before the upstream has sent the rest
    first.reset()
    third = await here.connect()
    third.write(request("/late"))
    gate.set()
    await second.until(b"b" * 100_000)
    assert (await receive(third)).body == b"a" * 100_000 + b"b" * 100_000
    for stream in (second, third):
        stream.close()
    assert here.upstream.count("/late") == 1
    await eventually(lambda: len(here.upstream.streams) <= 4, "no upstream connection is left behind")


async def test_a_large_field_passes_both_ways(here: Site) -> None:
    large = "x" * 16_000
    here.upstream.on("/field", replies("ok", FRESH, f"Content-Security-Policy: {large}"))
    response = await here.get("/field", f"Cookie: {large}")
    assert response.status == 200
    assert response.head["content-security-policy"] == large
    assert here.upstream.seen("/field")[0].head["cookie"] == large


async def test_many_fields_pass_back(here: Site) -> None:
    fields = [f"X-Field-{number}: {'y' * 100}" for number in range(200)]
    here.upstream.on("/fields", replies("ok", FRESH, *fields))
    for _ in range(2):
        response = await here.get("/fields")
        assert [f"{name}: {value}" for name, value in response.head.headers if name.startswith("X-Field")] == fields


@pytest.mark.parametrize("field", ["Accept: */*", "Cache-Control: max-age=99", "Range: bytes=1-"])
async def test_who_reads_slowly_holds_no_copy_of_what_is_stored(here: Site, field: str) -> None:
    size, readers = 250 << 10, 200
    here.upstream.on("/slow", replies("x" * size, FRESH))
    await here.get("/slow")
    asking, before = request("/slow", field), here.proxy.memory()
    here.proxy.forget_peak()
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(_reluctant(here.port)) for _ in range(readers)]
        for sock in sockets:
            sock.send(asking)
        for sock in sockets:
            await eventually(partial(_has_come, sock), "it is answered")
        assert (await here.get("/slow")).hit
        assert here.proxy.peak() - before < readers * size / 2


def _has_come(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def _reluctant(port: int) -> socket.socket:
    """A connection to the proxy that takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", port))
    return sock
