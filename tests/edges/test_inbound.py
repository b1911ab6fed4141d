"""Bodies off a connection's buffer to the exchange that reads them."""

import asyncio
from dataclasses import replace

import pytest

from proxy.edges.inbound import Inbound
from proxy.flow.ports import ClientError
from proxy.rules.message import Request
from proxy.rules.wire import Refused
from tests.edges.kit import PATIENCE, chunk
from tests.rules.build import request

SIZED = request(method="POST", length=4)
CHUNKED = request(method="POST", length=None)


class Ear:
    """Counts what the connection is told."""

    def __init__(self, asked: Request | None = None) -> None:
        self.wanted = self.taken = 0
        self.inbound = Inbound(self._wanted, self._taken, asked)

    def _wanted(self) -> None:
        self.wanted += 1

    def _taken(self) -> None:
        self.taken += 1

    async def collect(self) -> list[bytes]:
        async with asyncio.timeout(PATIENCE):
            return [piece async for piece in self.inbound]


async def test_what_came_before_the_reader_is_read_in_order_without_waiting() -> None:
    ear = Ear()
    ear.inbound.take(bytearray(b"a"))
    ear.inbound.take(bytearray(b"b"))
    ear.inbound.end()
    assert await ear.collect() == [b"a", b"b"]
    assert (ear.wanted, ear.taken) == (0, 2)


async def test_a_reader_that_waits_says_so_and_is_woken_by_bytes_and_by_the_end() -> None:
    ear = Ear()
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    assert ear.inbound.waiting
    assert ear.wanted == 1
    ear.inbound.take(bytearray(b"a"))
    await asyncio.sleep(0)
    assert (ear.wanted, ear.taken) == (2, 1)
    ear.inbound.end()
    assert await task == [b"a"]
    assert not ear.inbound.waiting


async def test_size_is_what_waits_to_be_read() -> None:
    ear = Ear()
    ear.inbound.take(bytearray(b"abc"))
    ear.inbound.take(bytearray(b"de"))
    assert ear.inbound.size == 5
    await anext(ear.inbound)
    assert ear.inbound.size == 2


async def test_a_cut_body_gives_what_came_and_then_the_error() -> None:
    ear = Ear()
    ear.inbound.take(bytearray(b"a"))
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
        inbound.take(bytearray(next(fed)))

    inbound = Inbound(wanted, lambda: None)
    assert [await anext(inbound), await anext(inbound)] == [b"a", b"b"]


async def test_a_cancelled_reader_leaves_the_bytes_to_the_next() -> None:
    ear = Ear()
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    task.cancel()
    ear.inbound.take(bytearray(b"a"))  # in the same turn: it finds nobody who will read
    await asyncio.gather(task, return_exceptions=True)
    assert not ear.inbound.waiting
    assert await anext(ear.inbound) == b"a"


# -- off the buffer


@pytest.mark.parametrize(
    ("asked", "raw"),
    [(SIZED, b"body"), (CHUNKED, chunk(b"bo") + chunk(b"dy") + b"0\r\n\r\n")],
    ids=["sized", "chunked"],
)
async def test_a_body_is_taken_off_however_it_comes_and_what_is_behind_it_is_left(asked: Request, raw: bytes) -> None:
    ear, buffer = Ear(asked), bytearray()
    for byte in raw:
        assert not ear.inbound.done
        buffer.append(byte)
        ear.inbound.take(buffer)
    assert ear.inbound.done
    whole, buffer = Ear(asked), bytearray(raw + b"GET /")
    whole.inbound.take(buffer)
    assert whole.inbound.done
    assert buffer == b"GET /"
    assert b"".join(await ear.collect()) == b"".join(await whole.collect()) == b"body"


async def test_a_tunnel_takes_all_there_is_and_goes_on() -> None:
    ear, buffer = Ear(), bytearray(b"0\r\n\r\nGET /")
    ear.inbound.take(buffer)
    assert not buffer
    assert not ear.inbound.done
    assert await anext(ear.inbound) == b"0\r\n\r\nGET /"


async def test_framing_alone_is_nothing_to_read() -> None:
    ear = Ear(CHUNKED)
    task = asyncio.create_task(ear.collect())
    await asyncio.sleep(0)
    ear.inbound.take(bytearray(b"4\r\n"))
    await asyncio.sleep(0)
    assert (ear.wanted, ear.inbound.size) == (1, 0), "its reader was not even woken"
    ear.inbound.take(bytearray(b"body\r\n0\r\n\r\n"))
    assert await task == [b"body"]


async def test_bad_framing_is_refused_and_its_reader_told_behind_what_was_good() -> None:
    ear = Ear(CHUNKED)
    ear.inbound.take(bytearray(chunk(b"good")))
    with pytest.raises(Refused) as refused:
        ear.inbound.take(bytearray(b"nonsense\r\n"))
    assert refused.value.status == 400
    assert not ear.inbound.done
    assert await anext(ear.inbound) == b"good"
    with pytest.raises(ClientError, match=refused.value.detail):
        await ear.collect()


def test_only_a_client_that_said_so_expects_to_be_told_to_go_on() -> None:
    assert Ear(replace(SIZED, expects_continue=True)).inbound.expects
    assert not Ear(SIZED).inbound.expects
    assert not Ear().inbound.expects
