import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import redis

from proxy.edges import redis_own
from proxy.edges.redis_entrance import Entrance, connect
from proxy.edges.redis_own import Own
from proxy.edges.redis_wire import Counters, Unreachable, Wire
from tests.e2e.process import eventually
from tests.redis_servers import HOST, Server, single

MOST: Final = 4
PING: Final = [("PING",)]


class Rig:
    """Connections to a server, all that were made, and a gate for making them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.made: list[Wire] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.ahead = 0.0  # seconds
        self.own = Own("Redis at test", self.connect, self.now)

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    async def connect(self, within: float) -> Wire:
        await self.gate.wait()
        wire = Wire((HOST, self.server.port), Counters(), self.now)
        await connect(wire, Entrance(), within)
        self.made.append(wire)
        return wire

    @property
    def open(self) -> int:
        return len([wire for wire in self.made if not wire.lost])


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    with single() as server:
        here = Rig(server)
        yield here
        here.own.close("over", now=True)
        assert here.open == 0, "no connection is left"


async def under_way(here: Rig, number: int, deadline: float = 20.0) -> list[asyncio.Task[list[Any]]]:
    """Callers whose commands block in the server."""
    blocked = [asyncio.create_task(here.own.run([("BLPOP", "list", 20)], deadline)) for _ in range(number)]
    await eventually(lambda: int(here.server.info("clients")["blocked_clients"]) >= min(number, MOST), "blocked")
    return blocked


async def test_callers_beyond_the_fourth_wait_their_turn() -> None:
    async with rig() as here:
        blocked = await under_way(here, MOST + 3)
        assert len(here.made) == MOST
        for _ in blocked:
            await asyncio.to_thread(here.server.ask, "RPUSH", "list", "x")
        assert await asyncio.gather(*blocked) == [[[b"list", b"x"]]] * (MOST + 3)
        assert len(here.made) == MOST


async def test_a_caller_gives_up_its_place_in_the_queue_at_its_own_deadline() -> None:
    async with rig() as here:
        blocked = await under_way(here, MOST)
        with pytest.raises(Unreachable, match="4 calls before this one"):
            await here.own.run([("SET", "k", "v")], 0.05)
        for _ in blocked:
            await asyncio.to_thread(here.server.ask, "RPUSH", "list", "x")
        await asyncio.gather(*blocked)
        assert here.server.ask("GET", "k") is None, "nothing was sent"
        assert await here.own.run(PING, 5.0) == [b"PONG"]


async def test_the_time_in_the_queue_counts() -> None:
    async with rig() as here:
        blocked = await under_way(here, MOST, 1000.0)
        waiting = asyncio.create_task(here.own.run([("BLPOP", "other", 20)], 100.0))
        await asyncio.sleep(0)
        here.ahead += 99.9
        for _ in blocked:
            await asyncio.to_thread(here.server.ask, "RPUSH", "list", "x")
        await asyncio.gather(*blocked)
        async with asyncio.timeout(30):  # what is left of it is far less, and all of it far more
            (reply,) = await waiting
        assert isinstance(reply, Unreachable)


async def test_a_connection_with_a_late_reply_is_not_used_again() -> None:
    async with rig() as here:
        replies = await here.own.run([("BLPOP", "list", 20)], 0.05)
        assert isinstance(replies[0], Unreachable)
        assert here.open == 0
        assert await here.own.run([("ECHO", "mine")], 5.0) == [b"mine"]


async def test_an_error_reply_is_a_reply() -> None:
    async with rig() as here:
        error, pong = await here.own.run([("NOSUCH",), ("PING",)], 5.0)
        assert isinstance(error, redis.ResponseError)
        assert pong == b"PONG"
        assert await here.own.run(PING, 5.0) == [b"PONG"]
        assert len(here.made) == 1, "it is used again"


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async with rig() as here:
        await here.own.run(PING, 5.0)
        here.server.ask("CLIENT", "KILL", "TYPE", "normal")
        await eventually(lambda: here.open == 0, "noticed")
        assert await here.own.run(PING, 5.0) == [b"PONG"]


async def test_a_caller_that_leaves_makes_room_for_the_next() -> None:
    async with rig() as here:
        blocked = await under_way(here, MOST)
        waiting = [asyncio.create_task(here.own.run(PING, 5.0)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        blocked[0].cancel()
        assert await waiting[1] == [b"PONG"]
        for task in blocked:
            task.cancel()
        await asyncio.gather(*blocked, return_exceptions=True)
        assert here.open == 1


async def test_connections_that_nobody_needs_are_closed_but_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_own, "_IDLE", 0.05)
    async with rig() as here:
        await asyncio.gather(*[here.own.run(PING, 5.0) for _ in range(40)])
        assert here.open == MOST
        await eventually(lambda: here.open == 1, "closed")
        assert await here.own.run(PING, 5.0) == [b"PONG"]
        assert len(here.made) == MOST, "that one is used"


async def closing(close: Callable[[Own], None]) -> None:
    """Whoever is on the way to a connection when all of it is closed leaves none behind."""
    async with rig() as here:
        here.gate.clear()
        running = [asyncio.create_task(here.own.run(PING, 20.0)) for _ in range(MOST + 2)]
        await asyncio.sleep(0)
        close(here.own)
        here.gate.set()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(outcome, Unreachable)
            assert str(outcome) == "gone"
        assert here.open == 0
        with pytest.raises(Unreachable, match="gone"):
            await here.own.run(PING, 5.0)


async def test_a_connection_that_comes_about_after_the_end_is_closed() -> None:
    await closing(lambda own: own.close("gone"))


async def test_who_is_busy_at_the_end_may_finish_and_its_connection_is_closed() -> None:
    async with rig() as here:
        (blocked,) = await under_way(here, 1)
        here.own.close("gone")
        await asyncio.to_thread(here.server.ask, "RPUSH", "list", "x")
        assert await blocked == [[b"list", b"x"]]
        assert here.open == 0


async def test_who_is_busy_at_the_end_is_told_where_nothing_may_go_on() -> None:
    async with rig() as here:
        (blocked,) = await under_way(here, 1)
        here.own.close("gone", now=True)
        (reply,) = await blocked
        assert isinstance(reply, Unreachable)
