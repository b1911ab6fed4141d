"""The way to Redis: commands of one loop tick share a round trip, nobody waits longer than the deadline.

Each server that holds keys has two connections: one for what is large, and one for what is urgent and must
not queue behind that. Its breaker is closed while both stand. Whoever calls while it is open is refused at
once; it closes only by `probe`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any, Final

from redis import ResponseError

from proxy.edges.redis_entrance import Entrance, connect
from proxy.edges.redis_own import Own
from proxy.edges.redis_script import Call, Prepared, Script
from proxy.edges.redis_subscription import Subscription
from proxy.edges.redis_topology import NOWHERE, Kind, Topology, parse_url
from proxy.edges.redis_wire import (
    Address,
    Counters,
    Order,
    Taker,
    Unreachable,
    Wire,
    Word,
    pack,
    unpack,
)

__all__ = ["Link", "Unreachable"]

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]

_log = logging.getLogger(__name__)

_PATIENCE: Final = 5  # deadlines that connecting may take: nobody waits for it, and TLS takes four round trips
_LOOK_AGAIN: Final = 0.1  # seconds between two looks at the topology that were caused by errors
_QUIET: Final = 10.0  # seconds after it is well again before trouble is told anew: it may come and go all the time
_ELSEWHERE: Final = frozenset(  # the server is not the one to ask, or not now
    {"MOVED", "ASK", "READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY"}
)


class Link:
    """The servers behind one URL. Made inside the running loop.

    `now` gives monotonic seconds, `spawn` owns the tasks, `deadline` is in seconds, from handing a command
    over to its reply. It begins with every breaker open. Raises ValueError where the URL is wrong.
    """

    def __init__(self, url: str, *, now: Callable[[], float], spawn: Spawn, deadline: float = 0.1) -> None:
        self.counters = Counters()
        self.trouble = "not connected yet"  # why it is not up, in words for the operator
        self.on_lost: list[Callable[[], None]] = []  # called when a server is; whoever waits for news of it need not
        self.deadline = deadline
        self._now, self._spawn = now, spawn
        self._loop = asyncio.get_running_loop()
        self._topology = Topology(parse_url(url), self._make, _PATIENCE * deadline)
        self._layout = NOWHERE
        self._wires: dict[Address, Wire] = {}
        self._urgent: dict[Address, Wire] = {}  # with the same keys
        self._only: Wire | None = None  # to the one server that holds every key
        self._own: dict[Address, Own] = {}  # likewise
        self._scripts: dict[str, Script] = {}
        self._looking = asyncio.Lock()
        self._again_at = 0.0
        self._subscriptions: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        self._told: set[str] = set()  # what the log says of this outage
        self._quiet_until = 0.0

    @property
    def up(self) -> bool:
        """Whether every server is connected."""
        return bool(self._layout.servers) and self._wires.keys() >= self._layout.servers

    def reaches(self, key: str) -> bool:
        """Whether the server that holds the key is connected: in a Cluster, others may be lost."""
        return self._wire(key, self._wires) is not None

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Word], *, urgent: bool = False
    ) -> asyncio.Future[Any]:
        """What the script returns. The server is the one that holds the first key.

        `urgent`: not behind the store's large values; small replies only. Raises Unreachable, and
        redis.ResponseError for an error reply.
        """
        wire = self._wire(keys[0], self._urgent) if urgent else self._only or self._wire(keys[0], self._wires)
        future: asyncio.Future[Any] = self._loop.create_future()
        if script.sha not in self._scripts:
            self._scripts[script.sha] = script
        self._send(wire, pack(script.call(keys, args)), future, script.source)
        return future

    def tell(self, take: Callable[[Any, Exception | None], None], call: Prepared, *args: Word) -> None:
        """Run a script as `run` does, with these as its last arguments; `take` is told what it returns, or the error,
        where the reply comes, or before this returns. It must not raise.
        """
        script = call.script
        if script.sha not in self._scripts:
            self._scripts[script.sha] = script
        wire = self._only or self._wire(call.key, self._wires)
        self._send(wire, call.packed(args), Taker(take), script.source)

    def command(self, key: str, *words: Word, urgent: bool = False) -> asyncio.Future[Any]:
        """The reply to a command, words as they are sent; `key` says to which server. Raises as `run` does."""
        wire = self._wire(key, self._urgent) if urgent else self._only or self._wire(key, self._wires)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._send(wire, pack(words), future)
        return future

    def _send(self, wire: Wire | None, packed: bytes, waiter: asyncio.Future[Any] | Taker, source: str = "") -> None:
        order = Order(packed, self._now(), waiter, source)
        if wire is None:
            order.fail(Unreachable(self.trouble))
        else:
            self.counters.commands += 1
            wire.send(order)

    async def alone(self, key: str, calls: Sequence[Call], deadline: float) -> list[Any]:
        """The replies to these commands, in order, on a connection that nobody else uses meanwhile.

        `deadline` is in seconds, for all of them, for connecting, and for waiting where too many do the same. Raises
        Unreachable, and redis.ResponseError for the first error reply; the commands behind it have run all the same.
        """
        wire = self._wire(key, self._urgent)
        if wire is None:
            closed = Unreachable(self.trouble)
            closed.sent = False
            raise closed
        self.counters.commands += len(calls)
        try:
            replies = await self._own[wire.address].run([call.words for call in calls], deadline)
        except Unreachable as error:
            error.sent = False
            wire.order("PING")  # is it the server? Then nobody answers that either
            raise
        failure = next((reply for reply in replies if isinstance(reply, BaseException)), None)
        if failure is None:
            return replies
        try:
            if isinstance(failure, ResponseError):
                raise self._meaning(failure, wire)
            wire.order("PING")
            raise failure
        finally:
            del failure, replies  # an exception holds the frames it has passed

    def listen(
        self, key: str, handlers: Mapping[str, Callable[[bytes], None]], on_hearing: Callable[[bool], None]
    ) -> None:
        """Give what is published on these channels to their handlers, from the key's server, until `close`.

        `on_hearing` is told True whenever it hears again, what was said before is lost; and False when it hears
        nothing any more. A connection that stays silent for a second and five deadlines is replaced, and so is one
        whose server is lost.
        """

        def where() -> Address | None:
            wire = self._wire(key, self._urgent)
            return None if wire is None else wire.address

        subscription = Subscription(
            handlers,
            on_hearing,
            connect=partial(self._entered, self._topology.entrance),
            where=where,
            stays=lambda address: self._layout.of(key) == address,
            patience=_PATIENCE * self.deadline,
            now=self._now,
        )

        def leave() -> None:
            if where() is None:
                subscription.leave()

        self.on_lost.append(leave)
        self._subscriptions.append(self._spawn(subscription.run(), "redis subscription"))

    async def probe(self) -> bool:
        """Look where the servers are, and connect to those without a connection; whether it is up then.

        A connection counts once it has answered within the deadline. Takes about twelve deadlines at most.
        """
        async with self._looking:
            if not self._closed:
                await self._look()
                self._tell()
        return self.up

    def probe_soon(self) -> None:
        """The same in a task of its own, where none is under way."""
        now = self._now()
        if now >= self._again_at and not self._looking.locked() and not self._closed:
            self._again_at = now + _LOOK_AGAIN
            self._spawn(self._look_again(), "redis topology")

    async def close(self) -> None:
        """Close every connection; whoever waits gets Unreachable."""
        self._closed, self.trouble = True, "closed"
        for task in self._subscriptions:
            task.cancel()
        if self._subscriptions:
            await asyncio.wait(self._subscriptions)
        for own in self._own.values():
            own.close("the link is closed", now=True)
        for address in list(self._wires):
            self._drop(address)

    def _make(self, address: Address) -> Wire:
        return Wire(address, self.counters, self._now)

    def _wire(self, key: str, wires: Mapping[Address, Wire]) -> Wire | None:
        address = self._layout.of(key)
        return None if address is None else wires.get(address)

    async def _look(self) -> None:
        try:
            layout = await self._topology.find(self._layout)
        except Unreachable as error:
            self.counters.failed_connects += 1
            self.trouble = str(error)
            return
        missing = [address for address in layout.servers if address not in self._wires]
        await asyncio.gather(*[self._join(address) for address in missing])
        if self._closed:
            return
        self._layout = layout
        for address in [address for address in self._wires if address not in layout.servers]:
            self._drop(address)
        self._only = self._wires.get(layout.only) if layout.only is not None else None
        if self.up:
            self.trouble = ""
        if self._topology.url.kind is Kind.SENTINEL and self._watching is None:
            self._watching = self._watch()
            self._subscriptions.append(self._watching)

    async def _join(self, address: Address) -> None:
        """Connect to a server for everybody, if it answers."""
        try:
            wire = await self._joined(address)
            try:
                urgent = await self._joined(address)
            except BaseException:
                wire.close()
                raise
        except Unreachable as error:
            self.counters.failed_connects += 1
            self.trouble = str(error)
            return
        if wire.lost or self._closed:
            self.trouble = self.trouble if self._closed else wire.lost
            wire.close()
            urgent.close()
            return
        for one in (wire, urgent):
            one.on_error, one.on_lost = self._refused, self._lost
        self._wires[address], self._urgent[address] = wire, urgent
        self._own[address] = Own(wire.name, partial(self._connected, address), self._now)
        self.counters.reconnects += 1

    async def _joined(self, address: Address) -> Wire:
        wire = await self._connected(address, _PATIENCE * self.deadline)
        wire.limit(self.deadline)
        await _judge(wire, master=self._topology.url.kind is Kind.SENTINEL)
        return wire

    async def _connected(self, address: Address, within: float) -> Wire:
        wire = self._make(address)
        setup = [("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
        await connect(wire, self._topology.entrance, within, *setup)
        return wire

    async def _entered(self, entrance: Entrance, address: Address) -> Wire:
        """A connection for a subscription, which judges it by itself."""
        wire = self._make(address)
        await connect(wire, entrance, _PATIENCE * self.deadline)
        return wire

    def _lost(self, wire: Wire, why: str) -> None:
        """Open the breaker of a connection's server."""
        if wire in (self._wires.get(wire.address), self._urgent.get(wire.address)):
            self.trouble = why
            self._drop(wire.address)
            self._tell()
            for tell in list(self.on_lost):
                tell()

    def _tell(self) -> None:
        """Say to whoever runs us what is wrong, each thing once until it is well again; and that it is."""
        if self._closed:
            return
        if self.up:
            if self._told:
                self._told.clear()
                self._quiet_until = self._now() + _QUIET
                _log.info("Redis is connected again")
        elif self.trouble not in self._told and (self._told or self._now() >= self._quiet_until):
            self._told.add(self.trouble)
            _log.warning("%s", self.trouble)

    def _drop(self, address: Address) -> None:
        wires = self._wires.pop(address), self._urgent.pop(address)
        if self._only is wires[0]:
            self._only = None
        self._own.pop(address).close(self.trouble)
        for wire in wires:
            wire.on_lost = None
            wire.close()

    def _refused(self, wire: Wire, order: Order, error: ResponseError) -> None:
        """An error reply on a shared connection."""
        if order.source and str(error).startswith("NOSCRIPT"):
            again = Order(pack(("EVAL", order.source, *unpack(order.packed)[2:])), order.at, order.future)
            wire.send(again)
        else:
            order.fail(self._meaning(error, wire))

    def _meaning(self, error: ResponseError, wire: Wire) -> Exception:
        code = str(error).partition(" ")[0]
        if code not in _ELSEWHERE:
            self.counters.errors += 1
            return error
        self.probe_soon()
        return Unreachable(f"{wire.name} says {code}")

    async def _look_again(self) -> None:
        await self.probe()

    def _watch(self) -> asyncio.Task[None]:
        """Look again whenever a Sentinel says that there is another master: the old one may answer for a while yet."""
        sentinels = cycle(self._topology.url.servers)

        def look(_: bytes = b"") -> None:
            self._again_at = 0.0
            self.probe_soon()

        subscription = Subscription(
            {"+switch-master": look},
            lambda hearing: look() if hearing else None,
            connect=partial(self._entered, self._topology.sentinel_entrance),
            where=lambda: next(sentinels),
            stays=lambda _: True,
            patience=_PATIENCE * self.deadline,
            now=self._now,
        )
        return self._spawn(subscription.run(), "redis sentinel")


async def _judge(wire: Wire, *, master: bool) -> None:
    """Raises Unreachable where the server does not answer in time, or has to be a master and is none."""
    try:
        await wire.order("PING")
        no = "is not the master" if master and (await wire.order("ROLE"))[0] != b"master" else ""
    except ResponseError as error:
        no = f"says {str(error).partition(' ')[0]}"
    except BaseException:
        wire.close()
        raise
    if no:
        wire.close()
        raise Unreachable(f"{wire.name} {no}")
