"""What instances have in common, as the flow needs it: a store, and the log of what was invalidated."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.flow.invalidation import Target
from proxy.rules.message import Entry, Fields, Reason


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the shared store: an answer for a key under a policy, for a request with these fields.

    It is a subject of the invalidation log: `url`, `host`, `tags`. `apart`: the request says who asks, and
    who does not say so must not wait for it. `known`: nothing that came at or before that moment, in monotonic
    seconds, is of use.
    """

    key: str
    policy: str
    fields: Fields
    apart: bool
    url: str
    host: str
    tags: tuple[str, ...]
    known: float


class Lease(Protocol):
    """The right to fetch for the whole fleet. Whoever takes it says once, by a method of the store, what came of it."""

    def take(self) -> bool:
        """Whether it is ours: the first who asks gets it, of all who waited here for the same."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A fresh answer that another instance, or this one, has fetched; or a stale one that may be served while
    another instance renews it.
    """

    entry: Entry


@dataclass(frozen=True, slots=True)
class Lead:
    """Nobody has it or is about to. `base` is what the shared store still has of it, valid or distrusted."""

    lease: Lease
    base: Entry | None


@dataclass(frozen=True, slots=True)
class Alone:
    """Its answers have proved unshareable a short while ago."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Broken:
    """The fetch that this waited for failed elsewhere; `status` is what its own client was told."""

    reason: Reason
    status: int


@dataclass(frozen=True, slots=True)
class Apart:
    """Everybody for themselves: the shared store is out of reach, or cannot hold this."""


Claim = Found | Lead | Alone | Broken | Apart


class Rest(Protocol):
    """A claim that a look has begun: gone on with once, or dropped."""

    def go_on(self, within: float) -> Coroutine[Any, Any, Claim]:
        """As `SharedStore.claim` does."""
        ...

    def drop(self) -> None:
        """Nobody needs it any more, nor the lease that it may have got."""
        ...


class SharedStore(Protocol):
    """What all instances have together. It never raises and never waits for long: what it cannot do is Apart,
    or simply is not done.
    """

    def look(self, wanted: Wanted, then: Callable[[Found | Rest], None]) -> None:
        """Look up as `claim` does, for whoever need not be a task unless it has to wait: `then` is told once, soon and
        not from within this call, what was found, or how to go on.
        """
        ...

    async def claim(self, wanted: Wanted, within: float) -> Claim:
        """Look up, and if there is nothing fresh, take the lease or wait for whoever has it; at most `within`
        seconds. Who waits here for the same shares one look-up.
        """
        ...

    def keep(self, lease: Lease | None, entry: Entry, asked: float) -> None:
        """Store what a fetch that began at `asked`, in monotonic seconds, has brought; the lease ends."""
        ...

    def give_up(self, lease: Lease, outcome: Alone | Broken | Apart) -> None:
        """There is nothing to store; whoever waits is told so, and the lease ends. After `keep` it does nothing.

        Alone: what is stored goes too, unless it is newer.
        """
        ...

    def drop(self, entry: Entry) -> None:
        """Forget one variant, unless a newer one is stored: the upstream has said that it is outdated."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one invalidation has come: `applied` has milliseconds by instance, `pending` the live instances that
    have not applied it.
    """

    applied: Mapping[str, float]
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """How far everybody has come in the log: number of the last record applied, by live instance; None where it has
    yet to read the log. `last` is the number of the last record there is.
    """

    last: int
    reached: Mapping[str, int | None]


class LogUnreachable(Exception):
    """The log is out of reach. `sent`: an invalidation may have been written all the same, and may be applied now or
    later; else nothing of it is, anywhere.
    """

    def __init__(self, why: str = "", *, sent: bool = False) -> None:
        super().__init__(why)
        self.sent = sent


class SharedLog(Protocol):
    """The invalidation log that all instances share, or the only instance's own."""

    async def announce(self, targets: Sequence[Target], *, soft: bool = False) -> None:
        """Tell all others what was applied here already: within the deadline, or as soon as that is possible."""
        ...

    async def invalidate(self, targets: Sequence[Target], who: str, *, soft: bool) -> str:
        """Write one atomic batch and apply it here; gives its id. `who` asked is for whoever reads the log.
        Raises LogUnreachable.
        """
        ...

    async def progress(self, batch: str, within: float) -> Progress | None:
        """How far it has come once every live instance has applied it, or after `within` seconds; None: there is
        no such batch. Raises LogUnreachable.
        """
        ...


class Following(Protocol):
    """The same log, for whoever only wants to see who follows it."""

    @property
    def instance(self) -> str:
        """The name of this one."""
        ...

    async def places(self) -> Places:
        """How far everybody has come. Raises LogUnreachable."""
        ...
