import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from proxy.edges import redis_subscription
from proxy.edges.redis_entrance import Entrance, connect
from proxy.edges.redis_subscription import Subscription
from proxy.edges.redis_wire import Address, Counters, Wire
from proxy.flow.background import Background
from tests.e2e.process import eventually
from tests.redis_servers import HOST, Relay, Server, single

LONG: Final = 90.0  # seconds: longer than any test waits


class Rig:
    """A subscription to two channels, at the port that a test says, and all that it makes of it."""

    def __init__(self, port: int | None, patience: float = LONG, entrance: Entrance | None = None) -> None:
        self.port = port
        self.stays = True
        self.heard: list[bytes] = []
        self.hearing: list[bool] = []
        self.made: list[Wire] = []
        self.looks = 0  # for a server
        self.tried: list[Address] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._entrance = entrance or Entrance()
        self.subscription = Subscription(
            {"one": self.heard.append, "two": lambda data: self.heard.append(data[::-1])},
            self.hearing.append,
            connect=self._connect,
            where=self._where,
            stays=lambda _: self.stays,
            patience=patience,
            now=asyncio.get_running_loop().time,
        )

    def _where(self) -> Address | None:
        self.looks += 1
        return None if self.port is None else (HOST, self.port)

    async def _connect(self, address: Address) -> Wire:
        self.tried.append(address)
        await self.gate.wait()
        wire = Wire(address, Counters(), asyncio.get_running_loop().time)
        await connect(wire, self._entrance, LONG)
        self.made.append(wire)
        return wire

    @property
    def open(self) -> int:
        return len([wire for wire in self.made if not wire.lost])

    async def hears(self, times: int = 1) -> None:
        await eventually(lambda: self.hearing == [True, False] * (times - 1) + [True], f"subscribed {times} times")

    async def has_heard(self, *messages: bytes) -> None:
        await eventually(lambda: self.heard == list(messages), "heard")

    async def looks_again(self, times: int) -> None:
        before = self.looks
        await eventually(lambda: self.looks >= before + times, f"{times} looks")


@asynccontextmanager
async def running(here: Rig) -> AsyncIterator[Rig]:
    background = Background()
    task = background.spawn(here.subscription.run(), "subscription")
    try:
        yield here
        assert not task.done()
    finally:
        task.cancel()
        await background.drain(5)
    assert here.open == 0, "no connection is left"
    assert here.hearing == [True, False] * (len(here.hearing) // 2), "at its end it says that it hears nothing any more"


@asynccontextmanager
async def subscribed(server: Server) -> AsyncIterator[Rig]:
    async with running(Rig(server.port)) as here:
        await here.hears()
        yield here


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life are asked for more often than otherwise."""
    monkeypatch.setattr(redis_subscription, "_PING", 0.02)


async def publish(server: Server, channel: str, data: bytes) -> None:
    await asyncio.to_thread(server.ask, "PUBLISH", channel, data)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


async def test_messages_come_to_the_handler_of_their_channel() -> None:
    with single() as server:
        async with subscribed(server) as here:
            for channel, data in [("one", b"\x00ab"), ("two", b"\x00ab"), ("three", b"?"), ("one", bytes(1 << 20))]:
                await publish(server, channel, data)
            await here.has_heard(b"\x00ab", b"ba\x00", bytes(1 << 20))
            assert here.hearing == [True], "once, when it hears every channel"


async def test_a_connection_that_is_lost_is_made_anew_and_that_is_said() -> None:
    with single() as server:
        async with Relay(server) as relay, running(Rig(relay.port)) as here:
            for turn in range(1, 4):
                await here.hears(turn)
                await publish(server, "one", b"%d" % turn)
                await here.has_heard(*[b"%d" % number for number in range(1, turn + 1)])
                relay.reset()


async def test_one_that_hears_nothing_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    with single() as server:
        async with Relay(server) as relay, running(Rig(relay.port, patience=1.0)) as here:
            await here.hears()
            relay.black_hole()
            await eventually(lambda: here.hearing == [True, False], "noticed without a word from anybody")
            await relay.restore()
            await here.hears(2)
            await publish(server, "one", b"news")
            await here.has_heard(b"news")


async def test_one_that_hears_only_its_pings_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    with single() as server:
        async with running(Rig(server.port, patience=1.0)) as here:
            await eventually(lambda: server.calls("ping") >= 4, "some pings")
            assert here.hearing == [True]
            assert len(here.made) == 1


async def test_where_nobody_is_to_be_heard_it_connects_to_nobody() -> None:
    with single() as server:
        async with running(Rig(None)) as here:
            await here.looks_again(3)
            assert here.tried == []
            here.port = server.port
            await here.hears()


async def test_another_server_is_heard_once_the_first_is_to_be_heard_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    soon(monkeypatch)
    with single() as first, single() as second:
        async with running(Rig(first.port, patience=1.0)) as here:
            await here.hears()
            here.port = second.port
            pings = first.calls("ping")
            await eventually(lambda: first.calls("ping") >= pings + 2, "some pings")
            assert here.hearing == [True], "it stays"
            here.stays = False
            await eventually(lambda: here.hearing == [True, False], "left")
            here.stays = True
            await here.hears(2)
            await publish(first, "one", b"old")
            await publish(second, "one", b"new")
            await here.has_heard(b"new")


async def test_one_that_is_left_subscribes_again() -> None:
    with single() as server:
        async with subscribed(server) as here:
            here.subscription.leave()
            await here.hears(2)
            assert [bool(wire.lost) for wire in here.made] == [True, False]


async def test_leaving_is_for_the_connection_that_stands_and_not_for_the_next() -> None:
    with single() as server:
        here = Rig(server.port)
        here.gate.clear()
        async with running(here):
            await eventually(lambda: here.looks == 1, "about to connect")
            here.subscription.leave()
            here.gate.set()
            await here.hears()
            assert len(here.made) == 1


async def test_why_there_is_none_is_logged_once_until_there_was_one(caplog: pytest.LogCaptureFixture) -> None:
    with single() as server:
        async with Relay(server) as relay:
            await relay.cut()
            async with running(Rig(relay.port)) as here:
                await here.looks_again(4)
                (why,) = said(caplog)
                assert why.startswith(f"no subscription: Redis at {HOST}:{relay.port} cannot be reached")
                await relay.restore()
                await here.hears()
                await relay.cut()
                await here.looks_again(4)
                assert said(caplog) == [why, why]
                assert here.hearing == [True, False]


async def test_one_that_is_not_permitted_is_logged_once_and_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    user = ["deaf on >hunter2 ~* resetchannels +@all", "admin on >boss ~* &* +@all"]
    with single({"user": [*user, "default off"]}, admin=("admin", "boss")) as server:
        async with running(Rig(server.port, entrance=Entrance("deaf", "hunter2"))) as here:
            await here.looks_again(4)
            assert here.hearing == []
            assert len(here.made) >= 3, "it goes on trying"
    (why,) = said(caplog)
    assert why == f"no subscription: Redis at {HOST}:{server.port} says NOPERM to SUBSCRIBE"
    assert "hunter2" not in caplog.text
