"""A subscription to channels of a Redis server, on a connection of its own that is made anew whenever it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from redis import ResponseError

from proxy.edges.redis_wire import Address, Unreachable, Wire

_log = logging.getLogger(__name__)

_PING: Final = 1.0  # seconds between two signs of life asked of a subscription
_RETRY: Final = 0.1  # seconds between two attempts to subscribe


class Subscription:
    """Gives what is published on channels to their handlers, from one server at a time.

    `on_hearing` is told True whenever it hears again, what was said before is lost; and False when it hears nothing
    any more. `connect` makes a connection to a server, or raises Unreachable. `where` names the server to subscribe
    to now, None for nobody; while `stays` is true of that server, it is not left. A connection that stays silent for
    a second and `patience`, in seconds, is replaced; `now` gives monotonic seconds.
    """

    def __init__(
        self,
        handlers: Mapping[str, Callable[[bytes], None]],
        on_hearing: Callable[[bool], None],
        *,
        connect: Callable[[Address], Awaitable[Wire]],
        where: Callable[[], Address | None],
        stays: Callable[[Address], bool],
        patience: float,
        now: Callable[[], float],
    ) -> None:
        self._handlers, self._on_hearing = handlers, on_hearing
        self._connect, self._where, self._stays = connect, where, stays
        self._patience, self._now = patience, now
        self._over = asyncio.Event()  # of the connection that stands

    async def run(self) -> None:
        """Subscribe, again and again, until this is cancelled. The log is told once why that fails."""
        told: set[str] = set()
        while True:
            address = self._where()
            if address is not None:
                try:
                    await self._hear(address)
                    told.clear()
                except Unreachable as error:
                    if str(error) not in told:
                        told.add(str(error))
                        _log.warning("no subscription: %s", error)
            await asyncio.sleep(_RETRY)

    def leave(self) -> None:
        """Close the connection that stands, if one does, and look again in a while where to subscribe."""
        self._over.set()

    async def _hear(self, address: Address) -> None:
        """Hear until the connection is lost, silent, or not where it should be. Raises Unreachable before that."""
        own = await self._connect(address)
        over, missing, refusal = asyncio.Event(), set(self._handlers), list[str]()
        self._over = over

        def take(reply: Any) -> None:  # noqa: ANN401 - RESP
            if isinstance(reply, ResponseError):
                refusal.append(f"{own.name} says {str(reply).partition(' ')[0]} to SUBSCRIBE")
                over.set()
            elif reply[0] == b"message":
                self._handlers[reply[1].decode()](reply[2])
            elif reply[0] == b"subscribe":
                missing.discard(reply[1].decode())
                if not missing:
                    self._on_hearing(True)  # noqa: FBT003 - the one thing that it says

        own.on_push, own.on_lost = take, lambda *_: over.set()
        try:
            own.say(("SUBSCRIBE", *self._handlers))
            while self._stays(address):
                sent = self._now()
                own.say(("PING",))
                if await _set_within(over, self._patience) or own.heard < sent:
                    break
                if await _set_within(over, sent + _PING - self._now()):
                    break
        finally:
            own.close()
            if not missing:
                self._on_hearing(False)  # noqa: FBT003 - likewise
        if refusal:
            raise Unreachable(refusal[0])


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
