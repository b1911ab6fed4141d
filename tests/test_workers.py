"""The supervisor: what each process gets, the address they share, and what becomes of one that ends."""

import asyncio
import errno
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from proxy import workers as module
from proxy.config.vocabulary import Address
from proxy.rules.limits import Limits
from proxy.rules.policy import Policy
from proxy.rules.quota import GateRule
from proxy.rules.routes import Match, Route
from proxy.settings import Admin, Settings, Shutdown, Upstream
from proxy.worker import Order
from proxy.workers import LONGEST, SETTLED, Supervisor, pause_after, reserved, share
from tests.e2e.process import eventually, free_port

SETTINGS: Final = Settings(
    {"a": Upstream("a", "http://a.test", max_connections=10, gate=GateRule(4, 7))},
    (Route("r", Match(), "a", Policy()),),
    limits=Limits(max_connections=100, flight_memory=99),
    shutdown=Shutdown(0.0, 0.0),
    memory_max_size=1000,
    workers=3,
)


# -- what each gets


def test_what_is_configured_is_the_total_of_all() -> None:
    one = share(SETTINGS)
    assert one.memory_max_size == 333  # never more than was allowed
    assert (one.limits.max_connections, one.limits.flight_memory) == (34, 33)
    assert one.upstreams["a"].max_connections == 4
    assert one.upstreams["a"].gate == GateRule(2, 3, 1.0)
    assert replace(one, memory_max_size=1000, limits=SETTINGS.limits, upstreams=SETTINGS.upstreams) == SETTINGS


def test_everybody_gets_something() -> None:
    scarce = replace(SETTINGS, workers=64, memory_max_size=10, limits=Limits(max_connections=2))
    one = share(scarce)
    assert (one.memory_max_size, one.limits.max_connections, one.upstreams["a"].max_connections) == (1, 1, 1)


def test_who_dies_again_and_again_is_waited_for_longer_each_time_up_to_a_bound() -> None:
    pauses, pause = [], 0.0
    for _ in range(8):
        pause = pause_after(pause, 1.0)
        pauses.append(pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST, LONGEST]


def test_who_had_settled_is_replaced_at_once() -> None:
    assert pause_after(LONGEST, SETTLED) == 0.0


# -- the address


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "would share"])
def test_an_address_where_somebody_listens_is_an_error_that_names_it(shares: bool) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}") as raised, reserved("127.0.0.1", port):
            pass
        assert raised.value.errno == errno.EADDRINUSE


def test_an_address_that_nobody_knows_is_named_with_its_key() -> None:
    said = "^listen: no address is known for nohost.invalid: "
    with pytest.raises(OSError, match=said), reserved("nohost.invalid", 1):
        raise AssertionError


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_free_port_is_chosen_once_for_all_and_held(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with reserved(host, 0) as port:
        assert port > 0
        with socket.socket(family) as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((host, port))
        for _ in range(2):
            with socket.socket(family) as worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                worker.bind((host, port))
                worker.listen()
    with socket.socket(family) as next_one:
        next_one.bind((host, port))


# -- the processes

# What a process does, by the mark that it finds: the protocol's other end in a few lines.
SCRIPT: Final = """
import signal, socket, struct, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
number, channel, directory = sys.argv[-1].split(":", 2)
marks, channel = Path(directory), socket.socket(fileno=int(channel))
def order():
    kind, length = struct.unpack("!BI", channel.recv(5, socket.MSG_WAITALL))
    channel.recv(length, socket.MSG_WAITALL) if length else b""
    with (marks / f"told-{number}").open("a") as told:
        told.write(f"{kind} ")
    return kind
order()
if (marks / f"fails-{number}").exists():
    sys.exit(3)
channel.send(b"!")
while order() == 1 or (marks / "stubborn").exists():
    pass
sys.exit(5 if (marks / f"cuts-{number}").exists() else 0)
"""


@dataclass
class Running:
    """A supervisor of scripted processes. Marks in `directory` are what they go by, and what they were told."""

    supervisor: Supervisor
    directory: Path
    task: asyncio.Task[int]

    def told(self, number: int) -> list[Order]:
        file = self.directory / f"told-{number}"
        return [Order(int(word)) for word in file.read_text().split()] if file.exists() else []

    def processes(self) -> list[int]:
        return [member.process for member in self.supervisor._members()]  # noqa: SLF001 - what admin is told

    async def end(self) -> int:
        async with asyncio.timeout(60):
            return await self.task


@asynccontextmanager
async def running(directory: Path, *marks: str, serves: bool = True) -> AsyncIterator[Running]:
    for mark in marks:
        (directory / mark).touch()
    settings = replace(SETTINGS, listen=Address("127.0.0.1", 1), admin=Admin(Address("127.0.0.1", free_port())))
    supervisor = Supervisor(settings, (sys.executable, "-c", SCRIPT), directory)
    made = Running(supervisor, directory, asyncio.create_task(supervisor.run(lambda: settings)))
    try:
        if serves:
            await eventually(lambda: len(made.processes()) == 3, "all serve")
        yield made
    finally:
        for _ in range(2):
            supervisor.stop(Order.HURRY)
        await made.end()


async def test_all_are_told_once_to_stop_and_the_worst_exit_code_is_ours(tmp_path: Path) -> None:
    async with running(tmp_path, "cuts-2") as here:
        here.supervisor.stop(Order.STOP)
        assert await here.end() == 5
        for number in (1, 2, 3):
            assert here.told(number) == [Order.CONFIGURE, Order.STOP]


async def test_one_that_cannot_start_stops_them_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, "fails-3", serves=False) as here:
        assert await here.end() == 3
        assert "worker 3 ended with exit code 3 before all were serving" in caplog.text
        assert len(here.told(3)) == 1  # it was not started again


async def test_one_that_dies_is_replaced_and_the_others_hear_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        first, second, third = here.processes()
        os.kill(second, signal.SIGKILL)
        await eventually(lambda: second not in here.processes() and len(here.processes()) == 3, "it is replaced")
        assert [here.processes()[0], here.processes()[2]] == [first, third]
        assert [here.told(number) for number in (1, 2, 3)] == [
            [Order.CONFIGURE],
            [Order.CONFIGURE] * 2,
            [Order.CONFIGURE],
        ]


async def test_one_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    async with running(tmp_path) as here:
        (tmp_path / "fails-2").touch()
        os.kill(here.processes()[1], signal.SIGKILL)
        await eventually(lambda: len(here.told(2)) >= 4, "it was tried again")
        assert len(here.processes()) == 2
        (tmp_path / "fails-2").unlink()
        await eventually(lambda: len(here.processes()) == 3, "it serves")


async def test_one_that_cannot_be_spoken_to_is_ended_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect, refused = asyncio.open_unix_connection, list[socket.socket]()

    async def scarce(*, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if len(refused) < 2:
            refused.append(sock)
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(sock=sock)

    async with running(tmp_path) as here:
        started, create = list[Process](), asyncio.create_subprocess_exec

        async def counted(*words: str, **how: Any) -> Process:  # noqa: ANN401 - passed on
            started.append(await create(*words, **how))
            return started[-1]

        monkeypatch.setattr(asyncio, "open_unix_connection", scarce)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
        os.kill(here.processes()[1], signal.SIGKILL)
        try:
            await eventually(lambda: len(started) == 3 and len(here.processes()) == 3, "it serves")
            assert [process.returncode is None for process in started] == [False, False, True]
            assert [sock.fileno() for sock in refused] == [-1, -1]
        finally:
            for sock in refused:
                sock.close()  # who is left alone ends
        assert caplog.text.count("worker 2 cannot be started: [Errno 24] Too many open files") == 2


async def test_who_does_not_stop_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.2)
    async with running(tmp_path, "stubborn") as here:
        here.supervisor.stop(Order.STOP)
        assert await here.end() == 1


async def test_a_second_request_to_stop_means_now(tmp_path: Path) -> None:
    async with running(tmp_path, "stubborn") as here:
        here.supervisor.stop(Order.STOP)
        here.supervisor.stop(Order.STOP)
        await eventually(lambda: here.told(1) == [Order.CONFIGURE, Order.STOP, Order.HURRY], "it is told so")
        (tmp_path / "stubborn").unlink()
        for process in here.processes():
            os.kill(process, signal.SIGTERM)  # as a service manager does
        assert await here.end() == 0


async def test_an_admin_address_in_use_is_an_error_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(SETTINGS, admin=Admin(Address("127.0.0.1", taken.getsockname()[1])))
        supervisor = Supervisor(settings, (sys.executable, "-c", SCRIPT), tmp_path)
        with pytest.raises(OSError, match="in use"):
            await supervisor.run(lambda: settings)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib would count as blocking here
