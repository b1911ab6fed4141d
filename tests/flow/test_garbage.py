"""What is over leaves nothing to the collector, which must have little to do beside so many entries."""

import gc
from collections.abc import Awaitable, Callable

import pytest

from proxy.rules.message import Reason
from tests.flow.kit import ETAG, FRESH, World

TIMES = 50


async def fetched(w: World, target: str) -> None:
    w.ask(target=target)
    await w.idle()
    w.last.reply(FRESH, ETAG, body=b"hello")
    await w.idle()


async def hit(w: World, target: str) -> None:
    await fetched(w, target)
    w.ask(target=target)


async def unreachable(w: World, target: str) -> None:
    w.ask(target=target)
    await w.idle()
    w.last.fail(Reason.CONNECT)
    await w.idle()


async def hung_up(w: World, target: str) -> None:
    w.ask(target=target)
    w.ask(target=target)
    await w.idle()
    w.last.answer(FRESH, length=10)
    w.last.send(b"hello")
    await w.idle()
    w.last.cut()
    await w.idle()


async def unshared(w: World, target: str) -> None:
    w.ask(target=target)
    w.ask(target=target)
    await w.idle()
    w.calls[-1].reply("Cache-Control: no-store", body=b"hello")
    await w.idle()
    w.last.reply("Cache-Control: no-store", body=b"hello")
    await w.idle()


async def posted(w: World, target: str) -> None:
    w.ask(target=target, method="POST", upload=[b"abc"])
    await w.idle()
    w.last.fail(Reason.TIMEOUT)
    await w.idle()


async def left(w: World, target: str) -> None:
    client = w.ask(target=target)
    await w.idle()
    client.leave()
    await w.idle()
    w.last.reply(FRESH)
    await w.idle()


@pytest.mark.parametrize("happens", [fetched, hit, unreachable, hung_up, unshared, posted, left])
async def test_nothing_is_left_to_the_collector(happens: Callable[[World, str], Awaitable[None]]) -> None:
    async with World() as w:
        for number in range(5):
            await happens(w, f"/warm/{number}")
        gc.collect()
        gc.disable()
        try:
            for number in range(TIMES):
                await happens(w, f"/{number}")
                for client in w.clients:
                    client.task = client.work = None
                w.clients.clear()
                w.origin.calls.clear()
                w.outcomes.clear()
            assert gc.collect() < TIMES
        finally:
            gc.enable()
