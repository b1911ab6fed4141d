"""One process of several on one port: gets its configuration and its orders from the supervisor (proxy/workers.py).

The channel between them is a pair of sockets. Towards the worker it carries frames: an order, the length of what
follows, and for CONFIGURE the settings. Towards the supervisor it carries one byte, once the worker serves.
"""

import asyncio
import logging
import pickle
import shutil
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum, unique
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import uvloop

from proxy.app import App, Berth, Stopping
from proxy.flow.background import Background
from proxy.settings import Settings

_log = logging.getLogger("readthrough")

_HEAD: Final = struct.Struct("!BI")
_ORPHAN: Final = 1.0  # seconds that what is in flight has once the supervisor is gone: the next one needs the port


@unique
class Order(IntEnum):
    """What the supervisor tells: HURRY is Ctrl-C, or a second signal."""

    CONFIGURE = 1
    STOP = 2
    HURRY = 3


def frame(order: Order, settings: Settings | None = None) -> bytes:
    """An order as it goes over the channel."""
    body = b"" if settings is None else pickle.dumps(settings)
    return _HEAD.pack(order, len(body)) + body


def admin_socket(directory: Path, number: int) -> Path:
    """Where a worker answers as admin."""
    return directory / f"{number}.sock"


def work(place: str) -> int:
    """Serve at a place among others, `NUMBER:CHANNEL:DIRECTORY`, until told to stop; returns the exit code."""
    number, channel, directory = place.split(":", 2)
    # The supervisor hears these, and says what is to be done.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    form = f"%(asctime)s %(levelname)s worker {number}: %(message)s"
    logging.basicConfig(format=form, level=logging.INFO, stream=sys.stderr)
    berth = Berth(int(number), admin_socket(Path(directory), int(number)), Path(directory) / "turns")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(berth, int(channel)))


async def _work(berth: Berth, descriptor: int) -> int:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    channel = _Channel(reader)
    try:
        first = await channel.settings()
    except (EOFError, ConnectionError):
        return 0  # nobody needs us any more
    try:
        app = App(first, berth)
    except ValueError as error:  # a certificate of an upstream's that cannot be used
        _log.error("cannot start: %s", error)
        return 1
    stopping = Stopping()
    # It may come from a manager, to all, together with the supervisor's order: it is no second one.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.asked.set)
    orders = Background()  # the app's own are what it waits for when it stops
    orders.spawn(_obey(app, channel, stopping), "orders")
    try:
        await app.start()
    except (OSError, ValueError) as error:
        _log.error("cannot start: %s", error)
        await app.close()
        return 1
    else:
        writer.write(b"!")
        await stopping.asked.wait()
        return await app.stop(stopping.rush)
    finally:
        await orders.drain(within=0.0)
        if reader.at_eof():  # so nobody else tidies up
            shutil.rmtree(berth.admin.parent, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Channel:
    """The supervisor's orders."""

    reader: asyncio.StreamReader

    async def order(self) -> tuple[Order, bytes]:
        """The next one. Raises EOFError or ConnectionError where there is no supervisor any more."""
        order, length = _HEAD.unpack(await self.reader.readexactly(_HEAD.size))
        return Order(order), await self.reader.readexactly(length)

    async def settings(self) -> Settings:
        """Those to start with, which come first."""
        _, body = await self.order()
        return _settings(body)


async def _obey(app: App, channel: _Channel, stopping: Stopping) -> None:
    try:
        while True:
            order, body = await channel.order()
            match order:
                case Order.CONFIGURE:
                    await app.reload(partial(_settings, body))
                case Order.STOP:
                    stopping.asked.set()
                case Order.HURRY:
                    stopping.ask(delayed=False)
                case _:
                    assert_never(order)
    except (EOFError, ConnectionError):
        _log.error("the supervisor is gone: stopping")
        stopping.ask(delayed=False)
        asyncio.get_running_loop().call_later(_ORPHAN, stopping.rush.set)


def _settings(body: bytes) -> Settings:
    settings = pickle.loads(body)  # noqa: S301 - our parent wrote it, on a socket that nobody else has
    if not isinstance(settings, Settings):
        raise TypeError(f"settings expected, not {type(settings).__name__}")
    return settings
