"""A value in Redis that cannot be read is a miss, and is replaced."""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest

from tests.e2e.process import eventually
from tests.fleet.harness import Fleet, fresh
from tests.redis_servers import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERSION_AT = 2  # behind "RT"
_numbers = count(1)
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda frame: frame[:0],
    "cut in its head": lambda frame: frame[:20],
    "cut in its middle": lambda frame: frame[: len(frame) // 2],
    "one byte short": lambda frame: frame[:-1],
    "one byte more": lambda frame: frame + b"x",
    "altered in its head": lambda frame: _flip(frame, 10),
    "altered in its middle": lambda frame: _flip(frame, len(frame) // 2),
    "altered in its body": lambda frame: _flip(frame, len(frame) - 1),
    "of a future version": lambda frame: frame[:VERSION_AT] + bytes([frame[VERSION_AT] + 1]) + frame[VERSION_AT + 1 :],
    "something else": lambda frame: b"x" * len(frame),
}


def _flip(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]


def _values(server: Server) -> list[bytes]:
    """Names of what the store holds."""
    return [name for name in server.ask("KEYS", "rt:*:e*") if server.ask("TYPE", name) in (b"string", "string")]


def _replace(server: Server, damage: Callable[[bytes], bytes]) -> int:
    names = _values(server)
    for name in names:
        server.ask("SET", name, damage(server.ask("GET", name)), "KEEPTTL")
    return len(names)


async def _stored(server: Server, number: int) -> None:
    """Until so many values are there: they come behind the answers."""
    await eventually(lambda: asyncio.to_thread(lambda: len(_values(server)) == number), f"{number} are stored")


async def _differs(server: Server, from_: bytes) -> bool:
    """Whether the only value is another by now."""
    names = await asyncio.to_thread(_values, server)
    return [await asyncio.to_thread(server.ask, "GET", name) for name in names] not in ([], [from_])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_it_is_a_miss_and_replaced(here: Fleet, shared_redis: Server, damage: Callable[[bytes], bytes]) -> None:
    path, body = f"/{next(_numbers)}", b"0123456789" * 300
    here.upstream.on(path, fresh(body))
    await asyncio.to_thread(shared_redis.ask, "DEL", *await asyncio.to_thread(_values, shared_redis), "none")
    assert (await here[0].get(path)).body == body
    await _stored(shared_redis, 1)
    assert await asyncio.to_thread(_replace, shared_redis, lambda frame: frame) == 1
    assert (await here[1].get(path)).hit  # it can be read as it is
    assert here.upstream.count(path) == 1

    assert await asyncio.to_thread(_replace, shared_redis, damage) == 1
    (name,) = await asyncio.to_thread(_values, shared_redis)
    damaged = await asyncio.to_thread(shared_redis.ask, "GET", name)
    third = await here[2].get(path)
    assert (third.status, third.body, third.hit) == (200, body, False)
    assert here.upstream.count(path) == 2
    await eventually(lambda: _differs(shared_redis, damaged), "it is replaced")


async def test_a_value_under_another_key_is_not_taken_for_an_answer(here: Fleet, shared_redis: Server) -> None:
    here.upstream.on("/this", fresh("this"))
    here.upstream.on("/that", fresh("that"))
    await asyncio.to_thread(shared_redis.ask, "DEL", *await asyncio.to_thread(_values, shared_redis), "none")
    await here[0].get("/this")
    await _stored(shared_redis, 1)
    this = (await asyncio.to_thread(_values, shared_redis))[0]
    await here[0].get("/that")
    await _stored(shared_redis, 2)
    that = next(name for name in await asyncio.to_thread(_values, shared_redis) if name != this)
    value = await asyncio.to_thread(shared_redis.ask, "GET", this)
    await asyncio.to_thread(partial(shared_redis.ask, "SET", that, value, "KEEPTTL"))
    assert (await here[1].get("/that")).text == "that"
