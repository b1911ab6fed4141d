"""What follows a 101."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.flow.ports import ClientError, OriginError, Tunnel
from proxy.flow.tunnel import carry
from proxy.rules.message import Reason
from tests.flow.kit import FakeClient, World


class Pipe:
    """One side of a tunnel: what comes from it, and what went to it."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.got = b""

    async def read(self) -> bytes:
        data = await self.coming.get()
        if isinstance(data, Exception):
            raise data
        return data

    async def write(self, data: bytes) -> None:
        self.got += data

    def close(self) -> None:
        raise NotImplementedError

    async def inbound(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data


class Caller(FakeClient):
    """A client whose bytes come from a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.pipe = Pipe()
        self.status = 101


async def _carrying(w: World, caller: Caller, upstream: Tunnel) -> asyncio.Task[bool]:
    task = asyncio.create_task(carry(caller, caller.pipe.inbound(), upstream, w.background))
    caller.pipe.coming.put_nowait(b"to")
    await w.idle()
    return task


async def test_a_tunnel_carries_both_ways_until_one_side_ends() -> None:
    async with World() as w:
        caller, upstream = Caller(), Pipe()
        task = await _carrying(w, caller, upstream)
        upstream.coming.put_nowait(b"fro")
        await w.idle()
        assert (upstream.got, caller.got) == (b"to", b"fro")
        upstream.coming.put_nowait(b"")
        await w.idle()
        assert task.result() is True


@pytest.mark.parametrize("side", ["upstream", "client"])
async def test_a_tunnel_that_breaks_off_says_so(side: str) -> None:
    async with World() as w:
        caller, upstream = Caller(), Pipe()
        task = await _carrying(w, caller, upstream)
        if side == "upstream":
            upstream.coming.put_nowait(OriginError(Reason.ABORTED))
        else:
            caller.pipe.coming.put_nowait(ClientError("it left"))
        await w.idle()
        assert task.result() is False


async def test_a_tunnel_that_is_ended_from_outside_leaves_no_task() -> None:
    async with World() as w:
        task = await _carrying(w, Caller(), Pipe())
        assert len(w.background) == 2
        task.cancel()
        await w.idle()
        assert task.cancelled()
        assert len(w.background) == 0
