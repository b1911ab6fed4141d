"""What the flow needs of the outside, and nothing of how it is done."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.rules.message import Entry, Fields, Head, Headers, Reason, Request
from proxy.rules.report import Account
from proxy.rules.wire import Refused


def _nobody() -> None:
    """Whoever need not know."""


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
    sent: Callable[[], None] = _nobody  # told when its head is handed to the connection


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
    """A response whose head has come. `close` must be called exactly once, whatever happened; it calls `on_close`."""

    on_close: Callable[[], None] | None

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
        """Close every connection once all calls have ended; who comes later is served, and nothing kept for it."""
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

    def resume(self, step: Callable[[], Coroutine[Any, Any, None] | None]) -> bool:
        """Go on with an exchange that was begun and waits for something without a task: `step` answers, or gives the
        work that will. False: the client has left, and nothing was done.
        """
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


class Buckets(Protocol):
    """The buckets of one limit, one for each client: an opaque string, "" where all share one. `now` is in monotonic
    seconds.
    """

    def take(self, client: str, cost: float, now: float) -> float | None:
        """Pay, if that can be said at once: the tokens left, not negative; or, negative, minus the seconds after which
        it could be paid, and nothing was; or None: only `ask` knows.
        """
        ...

    async def ask(self, client: str, cost: float) -> float:
        """The same after asking whoever keeps the bucket. Never raises, never waits longer than the deadline."""
        ...

    def give_back(self, client: str, amount: float, now: float) -> None:
        """Undo a payment, or a part of it."""
        ...

    def left(self, client: str, now: float) -> float:
        """The tokens there are, as far as is known here. Changes nothing."""
        ...

    def __len__(self) -> int:
        """The number of buckets held."""
        ...

    async def close(self) -> None:
        """Give back what others may use. Nobody pays here any more."""
        ...
