"""How many may be at something at once: a place is free, or one waits for it a short while, or is refused."""

import asyncio
from collections import OrderedDict
from typing import Final

from proxy.rules.quota import GateRule, network_of

CLIENTS: Final = 65_536  # gates of one rule that are open at once; more than connections are likely to be


class Full(Exception):
    """No place, and none to wait in. In `after` seconds, at least 1, all that wait now have gone in or away."""

    def __init__(self, after: int) -> None:
        super().__init__(f"try again in {after} s")
        self.after = after


class Gate:
    """At most `rule.requests` are inside; `rule.queue` more wait in the order they came, for `rule.wait` seconds each.

    Who has entered leaves exactly once. Nobody waits while there is room: a place that is left goes to the first who
    waits. Under a smaller rule nobody enters until enough have left.
    """

    __slots__ = ("_timer", "_waiting", "inside", "refused", "rule")

    def __init__(self, rule: GateRule) -> None:
        self.rule = rule
        self.inside = 0
        self.refused = 0  # for the counters
        self._waiting: OrderedDict[asyncio.Future[bool], float] = OrderedDict()  # until when, by loop time
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether whoever comes now is refused at once."""
        return self.inside >= self.rule.requests and len(self._waiting) >= self.rule.queue

    async def enter(self) -> None:
        """Take a place, now or within the time. Raises Full."""
        if self.inside < self.rule.requests:
            self.inside += 1
        elif len(self._waiting) >= self.rule.queue or not await self._place():
            self.refused += 1
            raise Full(self.rule.after)

    def leave(self) -> None:
        """Give the place back."""
        self.inside -= 1
        self._let_in()

    def change(self, rule: GateRule) -> None:
        """Go by another rule. Who waits goes on waiting, for no longer than that allows from now on."""
        self.rule = rule
        latest = asyncio.get_running_loop().time() + rule.wait
        for waiter, until in self._waiting.items():
            self._waiting[waiter] = min(until, latest)  # they still end in the order they came
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.inside < self.rule.requests:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():  # else it has been cancelled, and does not know yet
                waiter.set_result(True)
                self.inside += 1
        self._set_timer()

    async def _place(self) -> bool:
        """Whether one came in time."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting[waiter] = loop.time() + self.rule.wait
        self._set_timer()
        try:
            return await waiter
        except BaseException:
            if self._waiting.pop(waiter, None) is not None:
                self._set_timer()
            elif not waiter.cancelled() and waiter.result():
                self.leave()  # the place came in the very moment in which nobody wanted it any more
            raise

    def _set_timer(self) -> None:
        """One as long as anybody waits; at the end of the wait of who was first when it was set, or has gone since."""
        if self._timer is None and self._waiting:
            until = next(iter(self._waiting.values()))
            self._timer = asyncio.get_running_loop().call_at(until, self._turn_away)
        elif self._timer is not None and not self._waiting:
            self._timer.cancel()
            self._timer = None

    def _turn_away(self) -> None:
        """The time of the first, and maybe of more, may be over."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._waiting and next(iter(self._waiting.values())) <= now:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_result(False)
        self._set_timer()


class Gates:
    """A gate for each client, as long as it is inside. `room` clients are, at most, at once."""

    __slots__ = ("_open", "_room", "refused", "rule")

    def __init__(self, rule: GateRule, room: int = CLIENTS) -> None:
        self.rule, self._room = rule, room
        self._open: dict[str, Gate] = {}
        self.refused = 0  # for the counters

    def __len__(self) -> int:
        return len(self._open)

    def change(self, rule: GateRule) -> None:
        """Go by another rule, for those too who are inside."""
        self.rule = rule
        for gate in self._open.values():
            gate.change(rule)

    def client(self, guest: str | None, peer: str) -> str:
        """Who is counted; None: the peer."""
        return network_of(peer, self.rule.ipv6_prefix) if guest is None else guest

    def gate(self, client: str) -> Gate | None:
        """The client's gate, where it is inside: to be looked at."""
        return self._open.get(client)

    async def enter(self, client: str) -> None:
        """Take a place of the client's. Raises Full."""
        gate = self._open.get(client)
        if gate is None:
            if len(self._open) >= self._room:
                self.refused += 1
                raise Full(self.rule.after)
            gate = self._open[client] = Gate(self.rule)
        try:
            await gate.enter()
        except BaseException as error:
            self.refused += isinstance(error, Full)
            self._close(client, gate)  # the place may have come too late, and been the last one
            raise

    def leave(self, client: str) -> None:
        """Give it back."""
        gate = self._open[client]
        gate.leave()
        self._close(client, gate)

    def has_room(self, client: str) -> bool:
        """Whether it can enter without waiting."""
        gate = self._open.get(client)
        return len(self._open) < self._room if gate is None else gate.inside < self.rule.requests

    def _close(self, client: str, gate: Gate) -> None:
        # Whose wait ends may find that everybody else has left since, and others have come: theirs is another gate.
        if not gate.inside and self._open.get(client) is gate:
            del self._open[client]


class Place:
    """A client's place at the gates of its route, if it has any: taken when it is needed, and given back once."""

    __slots__ = ("_client", "_gates", "_taken")

    def __init__(self, gates: Gates | None, client: str) -> None:
        self._gates, self._client, self._taken = gates, client, False

    @property
    def waits(self) -> bool:
        """Whether it cannot be had at once."""
        return self._gates is not None and not self._taken and not self._gates.has_room(self._client)

    async def take(self) -> bool:
        """Have it; whether that took waiting, in which much may have happened. Raises Full."""
        if self._gates is None or self._taken:
            return False
        waits = self.waits
        await self._gates.enter(self._client)
        self._taken = True
        return waits

    def pass_on(self, task: asyncio.Future[None]) -> None:
        """It is the task's from now on, and free when that is over."""
        if self._gates is not None and self._taken:
            self._taken = False
            gates, client = self._gates, self._client
            task.add_done_callback(lambda _: gates.leave(client))

    def leave(self) -> None:
        """Give it back, if it is still here."""
        if self._gates is not None and self._taken:
            self._taken = False
            self._gates.leave(self._client)
