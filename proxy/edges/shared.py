"""What all client connections of a process have in common: who answers them, within which limits, whom they believe."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final, Generic, Protocol

from proxy.flow.heads import A, Heads
from proxy.flow.ports import Client
from proxy.flow.tally import Histogram
from proxy.rules.limits import Limits
from proxy.rules.message import Reason

SWEEP: Final = 0.5  # seconds between two looks at the deadlines

Pending = Coroutine[Any, Any, None]
Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(slots=True)
class Counters:
    """Plain integers, read when somebody asks."""

    accepted: int = 0
    timed_out: int = 0


class Held(Protocol):
    """An open connection, as those see it who watch over all of them."""

    def check(self, now: float) -> None:
        """Enforce its deadlines."""
        ...

    def settle_trust(self) -> None:
        """Find out whether its peer is believed: the networks have changed."""
        ...

    def close_if_idle(self) -> None:
        """Close if no request is under way."""
        ...

    def abort(self) -> None:
        """Cut it."""
        ...


@dataclass(slots=True)
class Shared(Generic[A]):
    """What all connections of a process share.

    `heads` reads requests, `hit` answers a plain one if it can, `begin` answers any or returns the work
    that will, `spawn` runs that work.
    `trusted` are the networks whose forwarding fields are believed; `trust` changes them.
    `admitted` of the `connections` are within the limit. `draining`: every answer says
    `Connection: close`. `idle_until` is when a connection that falls idle now will have been so for
    too long, give or take a sweep.
    """

    heads: Heads[A]
    hit: Callable[[A, Client], bool]
    begin: Callable[[A, Client], Pending | None]
    spawn: Callable[[Pending, str], asyncio.Task[None]]
    now: Callable[[], float]
    limits: Limits
    trusted: Networks = ()
    on_refusal: Callable[[str, int, Reason], None] | None = None
    counters: Counters = field(default_factory=Counters)
    connections: set[Held] = field(default_factory=set)
    admitted: int = 0
    draining: bool = False
    lag: Histogram = field(default_factory=Histogram)  # how much later than due the sweeps came
    idle_until: float = field(init=False)

    def __post_init__(self) -> None:
        self.sweep()

    def sweep(self) -> None:
        """Enforce the deadlines of all connections, and tidy up."""
        now = self.now()
        self.idle_until = now + self.limits.idle_timeout + SWEEP
        for connection in list(self.connections):
            connection.check(now)
        self.heads.tidy()

    def is_trusted(self, peer: str) -> bool:
        """Whether an address lies in the trusted networks."""
        return bool(self.trusted and peer) and any(ip_address(peer) in network for network in self.trusted)

    def trust(self, networks: Networks) -> None:
        """Believe these from now on, on the connections that are open too."""
        if networks != self.trusted:
            self.trusted = networks
            for connection in self.connections:
                connection.settle_trust()
