"""Stopping without a loss, and reloading."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.e2e.harness import Response, Site, ask, merge, receive, request, site
from tests.e2e.process import eventually, free_port
from tests.e2e.stream import End, Stream
from tests.e2e.upstream import Call, head, replies

pytestmark = pytest.mark.asyncio(loop_scope="function")

FRESH = "Cache-Control: max-age=600"
BODY = b"0123456789" * 20_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
async def test_a_stop_cuts_nothing(tmp_path: Path, number: signal.Signals) -> None:
    async with site(tmp_path, {"shutdown": {"delay": "6s", "timeout": "30s"}}) as here:
        gate = asyncio.Event()

        async def waiting(call: Call) -> None:
            await gate.wait()
            call.answer(BODY, "Cache-Control: no-store")

        async def half(call: Call) -> None:
            call.write(head(f"Content-Length: {len(BODY)}", "Cache-Control: no-store") + BODY[:50_000])
            await gate.wait()
            call.write(BODY[50_000:])

        here.upstream.on("/waiting", waiting)
        here.upstream.on("/half", half)
        here.upstream.on("/hit", replies("hit", FRESH))
        idle = await here.crowd(50)
        for stream in idle:
            assert (await ask(stream, request("/hit"))).status == 200
        busy = await here.crowd(200)
        for at, stream in enumerate(busy):
            stream.write(request(f"/{'half' if at % 2 else 'waiting'}?{at}"))
        answers = [asyncio.create_task(receive(stream)) for stream in busy]
        await eventually(
            lambda: here.upstream.count("/waiting") == 100 == here.upstream.count("/half"), "all in flight"
        )

        here.proxy.signal(number)
        if number is signal.SIGTERM:  # at a terminal there is no balancer to wait for
            await _serves_while_not_ready(here, idle[:10])
        await eventually(lambda: _refuses(here), "it no longer listens")
        for stream in idle[10:]:
            assert await stream.rest() == (b"", End.FIN)
        assert not any(answer.done() for answer in answers)
        gate.set()
        responses: list[Response] = await asyncio.gather(*answers)
        assert all(response.body == BODY for response in responses)
        assert await here.proxy.exit() == 0
        for stream in [*idle, *busy]:
            stream.close()


async def _serves_while_not_ready(here: Site, idle: list[Stream]) -> None:
    """For as long as the delay lasts, and with a word to go elsewhere."""
    await eventually(lambda: _draining(here), "it is no longer ready")
    assert await here.proxy.ready() == 503
    assert await here.proxy.ready("/healthz") == 200
    late = await here.get("/hit")
    assert late.hit
    assert late.head["connection"].lower() == "close"
    for stream in idle:
        response = await ask(stream, request("/hit"))
        assert response.head["connection"].lower() == "close"
        assert await stream.rest() == (b"", End.FIN)


async def _draining(here: Site) -> bool:
    return await here.proxy.ready() != 200


async def _unknown(here: Site, path: str) -> bool:
    return (await here.get(path)).status == 404


async def _refuses(here: Site) -> bool:
    try:
        stream = await here.connect()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it waited to be accepted at the close
        return True
    stream.close()
    return False


@pytest.mark.clock
async def test_a_stop_ends_in_time_whatever_is_in_flight(tmp_path: Path) -> None:
    async with site(tmp_path, {"shutdown": {"delay": "0s", "timeout": "1s"}}) as here:

        async def never(call: Call) -> None:
            await call.stream.rest()

        here.upstream.on("/never", never)
        stream = await here.connect()
        stream.write(request("/never"))
        await eventually(lambda: here.upstream.count("/never") == 1, "in flight")
        here.proxy.signal(signal.SIGTERM)
        assert await here.proxy.exit(8) in (0, 1)
        raw, _ = await stream.rest()
        assert raw == b"" or raw.startswith(b"HTTP/1.1 50")
        stream.close()


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with site(tmp_path, {"shutdown": {"delay": "30s", "timeout": "30s"}}) as here:
        here.proxy.signal(signal.SIGTERM)
        await eventually(lambda: _draining(here), "it is no longer ready")
        here.proxy.signal(signal.SIGINT)
        assert await here.proxy.exit() == 0


def _routes(*paths: str) -> list[dict[str, object]]:
    return [{"name": f"r{at}", "match": {"path": path}, "upstream": "origin"} for at, path in enumerate(paths)]


async def test_sighup_brings_a_changed_route_and_drops_nobody(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.upstream.on("/a", replies("a", FRESH))
        here.upstream.on("/b", replies("b", FRESH))
        gate = asyncio.Event()

        async def slow(call: Call) -> None:
            await gate.wait()
            call.answer("slow")

        here.upstream.on("/slow", slow)
        open_one, busy = await here.crowd(2)
        assert (await ask(open_one, request("/a"))).text == "a"
        busy.write(request("/slow"))
        await eventually(lambda: here.upstream.count("/slow") == 1, "in flight")

        here.proxy.write(merge(here.config, {"routes": _routes("/b")}))
        here.proxy.signal(signal.SIGHUP)
        await eventually(lambda: _unknown(here, "/a"), "the change is in effect")
        assert (await here.get("/b")).text == "b"
        assert (await ask(open_one, request("/a"))).status == 404
        gate.set()
        assert (await receive(busy)).text == "slow"
        for stream in (open_one, busy):
            stream.close()


async def test_sighup_with_mistakes_keeps_what_was_and_names_every_one(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.upstream.on("/a", replies("a", FRESH))
        await here.get("/a")
        here.proxy.file.write_text("listen: nowhere\naccess_log: loud\nmemory: {max_size: much}\nroots: []\n")
        here.proxy.signal(signal.SIGHUP)
        name = here.proxy.file.name
        await eventually(
            lambda: all(f"{name}:{line}" in here.proxy.stderr + here.proxy.stdout for line in (1, 2, 3, 4)),
            "every mistake is named",
        )
        assert (await here.get("/a")).hit
        assert await here.proxy.ready() == 200


async def test_sighup_names_what_cannot_change_while_running(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        other = free_port()
        here.upstream.on("/b", replies("b", FRESH))
        change = {"listen": f"127.0.0.1:{other}", "routes": _routes("/b")}
        here.proxy.write(merge(here.config, change))
        here.proxy.signal(signal.SIGHUP)
        await eventually(lambda: "listen" in here.proxy.stderr + here.proxy.stdout, "it is named")
        await eventually(lambda: _unknown(here, "/a"), "the change is in effect")
        assert (await here.get("/b")).text == "b"
        with pytest.raises(ConnectionRefusedError):
            await Stream.open(other)


async def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with site(first) as here:
        with pytest.raises(AssertionError, match="stopped while starting") as failed:
            async with site(second, {"listen": f"127.0.0.1:{here.port}"}):
                pass
        assert str(here.port) in str(failed.value)
        assert "Traceback" not in str(failed.value)
