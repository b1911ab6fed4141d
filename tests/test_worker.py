"""One process of several, as its supervisor sees it: orders in, a byte out."""

import asyncio
import pickle
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from proxy.config.vocabulary import Address
from proxy.rules.policy import Policy
from proxy.rules.routes import Match, Route
from proxy.settings import Settings, Shutdown, Upstream
from proxy.worker import Order, admin_socket, frame
from tests.e2e.process import ROOT, free_port

SETTINGS: Final = Settings(
    {"a": Upstream("a", "http://127.0.0.1:9")},
    (Route("r", Match(), "a", Policy()),),
    listen=Address("127.0.0.1", 0),
    shutdown=Shutdown(30.0, 30.0),
)


def test_a_frame_is_an_order_a_length_and_the_settings() -> None:
    sent = frame(Order.CONFIGURE, SETTINGS)
    assert sent[0] == Order.CONFIGURE
    assert int.from_bytes(sent[1:5], "big") == len(sent) - 5
    assert pickle.loads(sent[5:]) == SETTINGS
    assert frame(Order.STOP) == b"\x02\0\0\0\0"


@asynccontextmanager
async def worker(directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, socket.socket]]:
    """A real one, and our end of its channel."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.0)
    with ours:
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "serve", "--worker", f"7:{theirs.fileno()}:{directory}"),
                cwd=ROOT,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        try:
            yield process, ours
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def end(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Exit code, and what it said."""
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def serves(channel: socket.socket) -> bool:
    async with asyncio.timeout(60):
        return bool(await asyncio.get_running_loop().sock_recv(channel, 10))


async def test_it_ends_in_silence_if_its_supervisor_is_gone_before_it_begins(tmp_path: Path) -> None:
    async with worker(tmp_path) as (process, channel):
        channel.close()
        assert await end(process) == (0, "")


async def test_it_serves_under_the_settings_it_is_sent_and_hurries_when_told(tmp_path: Path) -> None:
    async with worker(tmp_path) as (process, channel):
        port = free_port()
        channel.sendall(frame(Order.CONFIGURE, replace(SETTINGS, listen=Address("127.0.0.1", port))))
        assert await serves(channel)
        for connected in (
            asyncio.open_connection("127.0.0.1", port),
            asyncio.open_unix_connection(admin_socket(tmp_path, 7)),
        ):
            _, writer = await connected
            writer.close()
            await writer.wait_closed()
        assert process.stderr is not None
        channel.sendall(frame(Order.STOP))
        async with asyncio.timeout(60):
            assert b"worker 7: not ready any more; serving for another 30 s" in await process.stderr.readline()
        channel.sendall(frame(Order.HURRY))
        assert await end(process) == (0, "")


async def test_it_stops_without_delay_and_tidies_up_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    async with worker(place) as (process, channel):
        channel.sendall(frame(Order.CONFIGURE, SETTINGS))
        assert await serves(channel)
        channel.close()
        code, said = await end(process)
        assert code == 0
        assert "the supervisor is gone" in said
        assert not await asyncio.to_thread(place.exists)


@pytest.mark.parametrize("bad", [Address("192.0.2.1", 1)])
async def test_it_says_why_it_cannot_start(tmp_path: Path, bad: Address) -> None:
    async with worker(tmp_path) as (process, channel):
        channel.sendall(frame(Order.CONFIGURE, replace(SETTINGS, listen=bad)))
        code, said = await end(process)
        assert code == 1
        assert "worker 7: cannot start" in said
        assert "192.0.2.1" in said
