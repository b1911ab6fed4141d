"""What the flow needs of the outside, and nothing of how it is done."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.flow.invalidation import Target
from proxy.rules.message import Entry, Fields, Head, Headers, Reason, Request
from proxy.rules.report import Account
from proxy.rules.wire import Refused


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an upstream, complete: `headers` hold Host and are sent as they are.

    `target` is origin-form without the upstream's base path and already encoded. `body` yields
    exactly `length` bytes, or is chunked where `length` is None; no body is `body=None`.
    """

    method: str
    target: str
    headers: Headers
    body: AsyncIterator[bytes] | None = None
    length: int | None = 0
    upgrade: bool = False


class OriginError(Exception):
    """The upstream gave no answer, or not all of it; `reason` says how."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


class Tunnel(Protocol):
    """The upstream's end of an upgraded connection."""

    async def read(self) -> bytes:
        """Next bytes, empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send, waiting while the upstream does not read."""
        ...

    def close(self) -> None:
        """Close both directions."""
        ...


class Answer(Protocol):
    """A response whose head has come. `close` must be called exactly once, whatever happened."""

    @property
    def head(self) -> Head:
        """Status and fields, hop-by-hop ones removed."""
        ...

    @property
    def length(self) -> int | None:
        """Body length the upstream declared; None where it did not. 0 where there can be no body."""
        ...

    @property
    def close_delimited(self) -> bool:
        """Whether only the connection's end ends the body, so that a cut cannot be seen."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises OriginError where it ends short."""
        ...

    def tunnel(self) -> Tunnel:
        """The raw connection after a 101."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else abort it."""
        ...


class Origin(Protocol):
    """One upstream."""

    async def close(self) -> None:
        """Close every connection, at once."""
        ...

    async def retire(self) -> None:
        """Close once every call has ended; nobody makes new ones."""
        ...

    async def fetch(self, call: Call) -> Answer:
        """Send and wait for the response head. Raises OriginError."""
        ...


class Store(Protocol):
    """Where entries live. Every look-up is checked against the invalidation log."""

    def fresh(self, key: str, fields: Fields, now: float) -> Entry | None:
        """The newest variant for a request with these fields, if it is fresh and nothing speaks against it;
        None says nothing about why not.
        """
        ...

    def find(self, key: str, request: Request, now: float) -> Entry | None:
        """The newest valid variant that the request selects."""
        ...

    def holds(self, key: str) -> bool:
        """Whether any variant is stored under the key."""
        ...

    def variant(self, key: str, request: Request) -> Headers:
        """The request's values of the fields that the newest stored variant was selected on."""
        ...

    def put(self, entry: Entry) -> bool:
        """Store; False where it does not fit or the log has overtaken it."""
        ...

    def discard(self, entry: Entry) -> None:
        """Forget one variant, if it is still the one stored."""
        ...


@dataclass(frozen=True, slots=True)
class Variant:
    """A stored entry as it lies there: `checked` is the position of the log it was last judged at, `asked` whether
    a hit has been counted for it since it was last passed over.
    """

    entry: Entry
    checked: int
    asked: bool


class Shelves(Protocol):
    """A store for whoever only wants to see."""

    def variants(self, key: str) -> Sequence[Variant]:
        """All that is stored under the key, the newest first, valid or not. Changes nothing."""
        ...


class InvalidationView(Protocol):
    """What a store needs to know of the invalidation log."""

    @property
    def position(self) -> int:
        """Of the last record applied."""
        ...

    @property
    def trusted_until(self) -> float:
        """Monotonic seconds; behind that it may miss records, and every entry must be `vouched` for."""
        ...

    def vouched(self, entry: Entry, now: float) -> Entry | None:
        """The entry while nobody says what has been invalidated: as it is, distrusted, or None for gone."""
        ...

    def judge(self, entry: Entry, since: int) -> Entry | None:
        """The entry in the light of the records behind `since`: as it is, stale, distrusted, or None for gone."""
        ...

    def overtaken(self, subject: Entry, since: int) -> bool:
        """Whether a record behind `since` touches the subject, or might."""
        ...


class Asked(Protocol):
    """What a listener may keep of a request it has read, for the next one with the same bytes."""

    logged: bytes  # what the journal has made of it, if it has

    @property
    def plain(self) -> bool:
        """Whether there is nothing to decide, of its connection neither, where what is stored is fresh."""
        ...

    @property
    def request(self) -> Request:
        """As read."""
        ...


class Client(Protocol):
    """The requesting end of one exchange. The connection's own fields go between a `head` and its
    `tail`, which is more fields, if any, and the empty line.
    """

    @property
    def peer(self) -> str:
        """The client's address, without port."""
        ...

    @property
    def trusted(self) -> bool:
        """Whether the peer's forwarding fields are believed."""
        ...

    @property
    def refused(self) -> Refused | None:
        """What the client was told when its request turned out bad in mid-body."""
        ...

    @property
    def sent(self) -> int:
        """Body bytes of the current answer handed over so far."""
        ...

    def put(self, head: bytes, tail: bytes) -> None:
        """The whole answer to a plain request, before anything was begun for it; `tail` holds the body."""
        ...

    def send(self, head: bytes, tail: bytes, size: int) -> None:
        """A whole answer at once, framed by its own fields; `tail` ends with the body of `size` bytes."""
        ...

    def start(self, head: bytes, tail: bytes = b"\r\n", *, length: int | None, close: bool = False) -> None:
        """Begin an answer. `length` None is a body of unknown length; `close`: the connection ends it."""
        ...

    async def write(self, data: bytes) -> None:
        """Some body, waiting while the client does not read."""
        ...

    def finish(self) -> None:
        """The body is complete."""
        ...

    def abort(self) -> None:
        """Break the connection so that nobody takes what was sent for a whole answer."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """The request's body. Raises ClientError where it is cut or malformed."""
        ...

    def upgrade(self, head: bytes) -> AsyncIterator[bytes]:
        """Send the 101 head; gives what the client sends from here on. Raises ClientError as `body` does."""
        ...


class ClientError(Exception):
    """The client's side of an exchange failed: it left, stalled, or sent nonsense; it has been told."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the log says of one exchange. `seconds` is from the complete request head to the end of the answer.

    `request_id` is the client's, or ours where the request went upstream with one, else empty.
    """

    wall: float
    peer: str
    request: Request
    request_id: str
    route: str | None
    status: int
    account: Account
    sent: int
    seconds: float
    complete: bool


class Journal(Protocol):
    """Where outcomes are told."""

    def hit(self, asked: Asked, peer: str, route: str, status: int, sent: int, seconds: float) -> None:
        """One request was answered at once from a fresh entry: the same, for the many."""
        ...

    def record(self, outcome: Outcome) -> None:
        """One exchange is over. Never blocks, never raises."""
        ...


class Clock(Protocol):
    """Time and chance as the flow asks for them."""

    @property
    def now(self) -> Callable[[], float]:
        """Monotonic seconds."""
        ...

    @property
    def wall(self) -> Callable[[], float]:
        """Seconds since the epoch."""
        ...

    @property
    def roll(self) -> Callable[[], float]:
        """A draw from (0, 1]."""
        ...


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


class SharedStore(Protocol):
    """What all instances have together. It never raises and never waits for long: what it cannot do is Apart,
    or simply is not done.
    """

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


class LogUnreachable(Exception):
    """The log is out of reach. `sent`: an invalidation may have been written all the same, and may be applied now or
    later; else nothing of it is, anywhere.
    """

    def __init__(self, why: str = "", *, sent: bool = False) -> None:
        super().__init__(why)
        self.sent = sent


class SharedLog(Protocol):
    """The invalidation log that all instances share, or the only instance's own."""

    async def announce(self, targets: Sequence[Target]) -> None:
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
