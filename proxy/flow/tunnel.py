"""What follows a 101: bytes both ways, until either side ends (RFC 9110 section 7.8)."""

import asyncio
from collections.abc import AsyncIterator

from proxy.flow.background import Background
from proxy.flow.ports import Client, ClientError, OriginError, Tunnel


async def carry(client: Client, inbound: AsyncIterator[bytes], upstream: Tunnel, background: Background) -> bool:
    """Carry bytes between a client and its upstream; False where a side broke off instead of ending."""
    cut = False

    async def outward() -> None:
        nonlocal cut
        try:
            while data := await upstream.read():
                await client.write(data)
        except (ClientError, OriginError):
            cut = True

    async def inward() -> None:
        nonlocal cut
        try:
            async for data in inbound:
                await upstream.write(data)
        except (ClientError, OriginError):
            cut = True

    ways = [background.spawn(outward(), "tunnel out"), background.spawn(inward(), "tunnel in")]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
    return not cut
