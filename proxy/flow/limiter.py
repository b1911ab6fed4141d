"""What a request pays before it is answered, and what the answer says of it (draft-ietf-httpapi-ratelimit-headers)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto, unique
from math import ceil
from typing import Final

from proxy.flow.hot import HotKeys
from proxy.flow.ports import Buckets
from proxy.rules.quota import Quota, network_of

_MANY: Final = 4096  # of each kind that are remembered
_COARSE: Final = -64  # of more tokens than that the last few are not told, so that what is said can be said again
_CLOSE: Final = 1e-6  # tokens or seconds that arithmetic may be wrong by: what is there is not told as one less

Payers = Sequence[str | None]  # who pays each limit of a route; None: the peer


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota with its buckets."""

    quota: Quota
    buckets: Buckets
    seconds: float = field(init=False)  # for one token

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", 1 / self.quota.rate)

    def client(self, payer: str | None, peer: str) -> str:
        """Whose bucket it is."""
        return network_of(peer, self.quota.ipv6_prefix) if payer is None else payer

    def cost(self, *, miss: bool) -> float:
        """Tokens that an answer costs."""
        return self.quota.miss if miss else self.quota.hit

    def wait(self, left: float, *, miss: bool) -> float:
        """Seconds until `left` tokens have become as many as an answer costs."""
        return max(0.0, self.cost(miss=miss) - left) * self.seconds

    def full_in(self, left: int) -> int:
        """Whole seconds until nothing is missing."""
        return ceil((self.quota.burst - left) * self.seconds - _CLOSE)


@dataclass(frozen=True, slots=True)
class Permit:
    """What came of asking for tokens. `told` are the field lines that every answer carries.

    `wait` is 0 where it was paid, else the seconds after which it could be; `stale`: until then a stored answer will
    do. `charged` are the limits that were paid, each with its client, where the upstream is to be asked; `kept` those
    that were paid, each with its client and the tokens, though others refuse.
    """

    told: bytes
    wait: float = 0.0
    stale: bool = False
    charged: tuple[tuple[Limit, str], ...] = ()
    kept: tuple[tuple[Limit, str, float], ...] = ()

    def refund(self, now: float) -> None:
        """The upstream was not asked for it after all: what that costs more than a hit is given back."""
        for limit, client in self.charged:
            more = limit.quota.miss - limit.quota.hit
            if more > 0:
                limit.buckets.give_back(client, more, now)

    def settle(self, now: float, *, served: bool) -> None:
        """A stored answer was served in place of a refusal, and costs what a hit does; or it was refused."""
        for limit, client, paid in self.kept:
            more = paid - limit.quota.hit if served else paid
            if more > 0:
                limit.buckets.give_back(client, more, now)


@unique
class _Outcome(Enum):
    """Of asking for tokens of several buckets."""

    PAID = auto()  # by all
    REFUSED = auto()  # by one at least
    UNKNOWN = auto()  # here


@dataclass(slots=True)
class _Bill:
    """What one limit asks of one request; `left` as `Buckets.take` says it, once that was asked."""

    limit: Limit
    client: str
    cost: float
    left: float | None = None

    @property
    def paid(self) -> bool:
        """Whether the tokens were there."""
        return self.left is not None and self.left >= 0


class Limiter:
    """The limits of one route. Every one of them is paid, or none; but where all that refuse would have what is stored
    served instead, the others are paid for that. `now` gives monotonic seconds.

    What most hits need is at hand for whoever answers them: `only` takes from the only limit, None where there are
    several, and `cost` is what a hit costs; `clients` has those that peers count as. `last` is what was told last, and
    is to be told again while from `low` to below `high` tokens are left.
    """

    __slots__ = (
        "_lines",
        "_now",
        "_refused",
        "_route",
        "_said",
        "clients",
        "cost",
        "high",
        "last",
        "limits",
        "low",
        "only",
    )

    def __init__(self, route: str, limits: Sequence[Limit], refused: HotKeys, now: Callable[[], float]) -> None:
        self.limits, self._refused, self._route, self._now = tuple(limits), refused, route, now
        quotas = [limit.quota for limit in limits]
        self.only, self.cost = limits[0].buckets.take if len(limits) == 1 else None, quotas[0].hit
        self.clients: dict[str, str] = {}
        self.low = self.high = -1.0
        self.last = b""
        self._said: dict[int, bytes] = {}  # by tokens left
        policy = ", ".join([f'"{q.name}";q={int(q.burst)};w={max(1, ceil(q.burst / q.rate - _CLOSE))}' for q in quotas])
        said = ", ".join(['"{}";r=%d;t=%d'.format(q.name.replace("%", "%%")) for q in quotas])
        self._lines = f"RateLimit-Policy: {policy.replace('%', '%%')}\r\nRateLimit: {said}\r\n".encode()

    def hit(self, payers: Payers, peer: str, now: float) -> bytes | None:
        """Pay for an answer from the cache: what it says of that, or None where that cannot be done here and now."""
        if self.only is None:
            bills = self._bills(payers, peer, miss=False)
            if _take(bills, now) is _Outcome.PAID:
                return self._told(bills)
            _give_back(bills, now)
            return None
        payer = payers[0]
        if payer is None:
            payer = self.clients.get(peer) or self._client(peer)
        return self.tell(self.only(payer, self.cost, now))

    def _client(self, peer: str) -> str:
        if len(self.clients) >= _MANY:
            self.clients.clear()
        client = self.clients[peer] = self.limits[0].client(None, peer)
        return client

    def tell(self, left: float | None) -> bytes | None:
        """What an answer says of that which `only` gave; None where it was not paid."""
        if left is None or left < 0:
            return None
        if left < _MANY:
            whole = int(left + _CLOSE)
            self.low, self.high = whole - _CLOSE, whole + 1 - _CLOSE
        else:
            whole = int(left) & _COARSE
            self.low, self.high = float(whole), float(whole - _COARSE)  # of floats alone they are compared fast
        self.last = self._said.get(whole) or self._say(whole)
        return self.last

    def _say(self, left: int) -> bytes:
        if len(self._said) >= _MANY:
            self._said.clear()
        said = self._said[left] = self._lines % (left, self.limits[0].full_in(left))
        return said

    def pay(self, payers: Payers, peer: str, now: float, *, miss: bool) -> Permit | None:
        """Pay, or say why not; None: only `ask` knows."""
        bills = self._bills(payers, peer, miss=miss)
        outcome = _take(bills, now)
        if outcome is not _Outcome.UNKNOWN:
            return self._permit(bills, outcome, now, miss=miss)
        _give_back(bills, now)
        return None

    async def ask(self, payers: Payers, peer: str, *, miss: bool) -> Permit:
        """Pay, or say why not, after asking whoever keeps the buckets: nobody, where one that is known here refuses."""
        bills = self._bills(payers, peer, miss=miss)
        outcome = _take(bills, self._now())
        if outcome is _Outcome.UNKNOWN:
            unknown = [bill for bill in bills if bill.left is None]
            try:  # at once, so that nobody waits for one after the other
                answers = await asyncio.gather(*[bill.limit.buckets.ask(bill.client, bill.cost) for bill in unknown])
            except BaseException:
                _give_back(bills, self._now())
                raise
            for bill, answer in zip(unknown, answers, strict=True):
                bill.left = answer
            outcome = _outcome(bills)
        return self._permit(bills, outcome, self._now(), miss=miss)

    def look(self, payers: Payers, peer: str | None, now: float) -> list[tuple[Limit, str | None, float]]:
        """Each limit with whose bucket it is and the tokens there, as far as is known here. Changes nothing.

        Where it is the peer's and `peer` is None nobody knows whose it is, and a bucket that nobody has used is full.
        """
        found = []
        for limit, payer in zip(self.limits, payers, strict=True):
            client = None if payer is None and peer is None else limit.client(payer, peer or "")
            found.append((limit, client, limit.quota.burst if client is None else limit.buckets.left(client, now)))
        return found

    def _bills(self, payers: Payers, peer: str, *, miss: bool) -> list[_Bill]:
        pairs = zip(self.limits, payers, strict=True)
        return [_Bill(limit, limit.client(payer, peer), limit.cost(miss=miss)) for limit, payer in pairs]

    def _permit(self, bills: list[_Bill], outcome: _Outcome, now: float, *, miss: bool) -> Permit:
        if outcome is _Outcome.PAID:
            charged = tuple([(bill.limit, bill.client) for bill in bills]) if miss else ()
            return Permit(self._told(bills), charged=charged)
        refusing = [bill for bill in bills if bill.left is not None and bill.left < 0]
        stale = all(bill.limit.quota.serve_stale for bill in refusing)
        kept = tuple([(bill.limit, bill.client, bill.cost) for bill in bills if bill.paid]) if stale else ()
        if not stale:
            _give_back(bills, now)
        # The longest wait of all, so that nobody comes back too early for the next one.
        wait = max([-(bill.left or 0.0) for bill in refusing])
        for bill in refusing:
            self._refused.add(f"{self._route}\n{bill.limit.quota.name}\n{bill.client}")
        for bill in bills:
            unknown, left = bill.left is None, max(0.0, bill.limit.buckets.left(bill.client, now))
            wait = max(wait, bill.limit.wait(left, miss=miss)) if unknown else wait
            bill.left = left
        return Permit(self._told(bills), wait, stale, kept=kept)

    def _told(self, bills: list[_Bill]) -> bytes:
        numbers: list[int] = []
        for bill in bills:
            left = bill.left or 0.0
            whole = int(left + _CLOSE) if left < _MANY else int(left) & _COARSE
            numbers += (whole, bill.limit.full_in(whole))
        return self._lines % tuple(numbers)


def _take(bills: list[_Bill], now: float) -> _Outcome:
    """Ask all of them."""
    for bill in bills:
        bill.left = bill.limit.buckets.take(bill.client, bill.cost, now)
    return _outcome(bills)


def _outcome(bills: list[_Bill]) -> _Outcome:
    """Who refuses for good need not wait for the others; who would have something stale served must."""
    short = [bill for bill in bills if not bill.paid]
    if any(bill.left is not None and not bill.limit.quota.serve_stale for bill in short):
        return _Outcome.REFUSED
    if any(bill.left is None for bill in short):
        return _Outcome.UNKNOWN
    return _Outcome.REFUSED if short else _Outcome.PAID


def _give_back(bills: list[_Bill], now: float) -> None:
    for bill in bills:
        if bill.paid:
            bill.limit.buckets.give_back(bill.client, bill.cost, now)
