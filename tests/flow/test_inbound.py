"""Bytes from a connection to the exchange that reads them."""

import asyncio

import pytest

from proxy.flow.inbound import Inbound
from proxy.flow.ports import ClientError


class Ear:
    """Counts what the connection is told."""

    def __init__(self) -> None:
        self.wanted = self.taken = 0
        self.inbound = Inbound(self._wanted, self._taken)

    def _wanted(self) -> None:
        self.wanted += 1

    def _taken(self) -> None:
        self.taken += 1

    async def collect(self) -> list[bytes]:
        return [chunk async for chunk in self.inbound]


async def test_what_came_before_the_reader_is_read_in_order_without_waiting() -> None:
    ear = Ear()
    ear.inbound.feed(b"a")
    ear.inbound.feed(b"b")
    ear.inbound.end()
    assert await ear.collect() == [b"a", b"b"]
    assert (ear.wanted, ear.taken) == (0, 2)


async def test_a_reader_that_waits_says_so_and_is_woken_by_bytes_and_by_the_end() -> None:
    ear = Ear()
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    assert ear.inbound.waiting
    assert ear.wanted == 1
    ear.inbound.feed(b"a")
    await asyncio.sleep(0)
    assert (ear.wanted, ear.taken) == (2, 1)
    ear.inbound.end()
    assert await task == [b"a"]
    assert not ear.inbound.waiting


async def test_size_is_what_waits_to_be_read() -> None:
    ear = Ear()
    ear.inbound.feed(b"abc")
    ear.inbound.feed(b"de")
    assert ear.inbound.size == 5
    await anext(ear.inbound)
    assert ear.inbound.size == 2


async def test_a_cut_body_gives_what_came_and_then_the_error() -> None:
    ear = Ear()
    ear.inbound.feed(b"a")
    ear.inbound.end("the client left")
    assert await anext(ear.inbound) == b"a"
    with pytest.raises(ClientError, match="the client left"):
        await anext(ear.inbound)
    assert not ear.inbound.done


async def test_a_reader_that_waits_is_told_of_the_cut() -> None:
    ear = Ear()
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    ear.inbound.end("stalled")
    with pytest.raises(ClientError, match="stalled"):
        await task


async def test_bytes_fed_while_being_asked_for_are_not_lost() -> None:
    inbound: Inbound
    fed = iter([b"a", b"b"])

    def wanted() -> None:
        inbound.feed(next(fed))

    inbound = Inbound(wanted, lambda: None)
    assert [await anext(inbound), await anext(inbound)] == [b"a", b"b"]


async def test_a_cancelled_reader_leaves_the_bytes_to_the_next() -> None:
    ear = Ear()
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    task.cancel()
    ear.inbound.feed(b"a")  # in the same turn: it finds nobody who will read
    await asyncio.gather(task, return_exceptions=True)
    assert not ear.inbound.waiting
    assert await anext(ear.inbound) == b"a"
