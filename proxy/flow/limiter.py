"""What a request pays before it is answered, and what the answer says of it (draft-ietf-httpapi-ratelimit-headers)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from proxy.flow.hot import HotKeys
from proxy.flow.ports import Buckets
from proxy.rules.quota import Quota, network_of

_MANY: Final = 4096  # of each kind that are remembered
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

    `wait` is 0 where it was paid, else the seconds after which it could be; `stale`: until then a stale answer will
    do. `charged` are the limits that were paid, each with its client, where the upstream is to be asked.
    """

    told: bytes
    wait: float = 0.0
    stale: bool = False
    charged: tuple[tuple[Limit, str], ...] = ()

    def refund(self, now: float) -> None:
        """The upstream was not asked for it after all: what that costs more than a hit is given back."""
        for limit, client in self.charged:
            more = limit.quota.miss - limit.quota.hit
            if more > 0:
                limit.buckets.give_back(client, more, now)


class Limiter:
    """The limits of one route. Every one of them is paid, or none. `now` gives monotonic seconds."""

    __slots__ = ("_clients", "_hit", "_lines", "_now", "_refused", "_route", "_said", "_take", "limits")

    def __init__(self, route: str, limits: Sequence[Limit], refused: HotKeys, now: Callable[[], float]) -> None:
        self.limits, self._refused, self._route, self._now = tuple(limits), refused, route, now
        quotas = [limit.quota for limit in limits]
        # What every hit asks for, and what most of them are answered with.
        self._take, self._hit = limits[0].buckets.take if len(limits) == 1 else None, quotas[0].hit
        self._clients: dict[str, str] = {}  # by peer
        self._said: dict[int, bytes] = {}  # by tokens left
        policy = ", ".join([f'"{q.name}";q={int(q.burst)};w={max(1, ceil(q.burst / q.rate))}' for q in quotas])
        said = ", ".join(['"{}";r=%d;t=%d'.format(q.name.replace("%", "%%")) for q in quotas])
        self._lines = f"RateLimit-Policy: {policy.replace('%', '%%')}\r\nRateLimit: {said}\r\n".encode()

    def hit(self, payers: Payers, peer: str, now: float) -> bytes | None:
        """Pay for an answer from the cache: what it says of that, or None where that cannot be done here and now."""
        take = self._take
        if take is None:
            permit = self.pay(payers, peer, now, miss=False)
            return None if permit is None or permit.wait else permit.told
        payer = payers[0]
        if payer is None:
            payer = self._clients.get(peer) or self._client(peer)
        left = take(payer, self._hit, now)
        if left is None or left < 0:
            return None
        whole = int(left + _CLOSE)
        return self._said.get(whole) or self._say(whole)

    def _client(self, peer: str) -> str:
        if len(self._clients) >= _MANY:
            self._clients.clear()
        client = self._clients[peer] = self.limits[0].client(None, peer)
        return client

    def _say(self, left: int) -> bytes:
        if len(self._said) >= _MANY:
            self._said.clear()
        said = self._said[left] = self._lines % (left, self.limits[0].full_in(left))
        return said

    def pay(self, payers: Payers, peer: str, now: float, *, miss: bool) -> Permit | None:
        """Pay, or say why not; None: only `ask` knows."""
        paid: list[tuple[Limit, str]] = []
        left: list[float] = []
        for limit, payer in zip(self.limits, payers, strict=True):
            client = limit.client(payer, peer)
            tokens = limit.buckets.take(client, limit.cost(miss=miss), now)
            if tokens is None or tokens < 0:
                self._give_back(paid, now, miss=miss)
                return None if tokens is None else self._refuse(payers, peer, limit, tokens, now, miss=miss)
            paid.append((limit, client))
            left.append(tokens)
        return self._permit(paid, left, miss=miss)

    async def ask(self, payers: Payers, peer: str, *, miss: bool) -> Permit:
        """Pay, or say why not, after asking whoever keeps the buckets."""
        paid: list[tuple[Limit, str]] = []
        left: list[float] = []
        try:
            for limit, payer in zip(self.limits, payers, strict=True):
                client, cost = limit.client(payer, peer), limit.cost(miss=miss)
                tokens = limit.buckets.take(client, cost, self._now())
                if tokens is None:
                    tokens = await limit.buckets.ask(client, cost)
                if tokens < 0:
                    self._give_back(paid, self._now(), miss=miss)
                    return self._refuse(payers, peer, limit, tokens, self._now(), miss=miss)
                paid.append((limit, client))
                left.append(tokens)
        except BaseException:
            self._give_back(paid, self._now(), miss=miss)
            raise
        return self._permit(paid, left, miss=miss)

    def look(self, payers: Payers, peer: str | None, now: float) -> list[tuple[Limit, str | None, float]]:
        """Each limit with whose bucket it is and the tokens there, as far as is known here. Changes nothing.

        Where it is the peer's and `peer` is None nobody knows whose it is, and a bucket that nobody has used is full.
        """
        found = []
        for limit, payer in zip(self.limits, payers, strict=True):
            client = None if payer is None and peer is None else limit.client(payer, peer or "")
            found.append((limit, client, limit.quota.burst if client is None else limit.buckets.left(client, now)))
        return found

    def _permit(self, paid: list[tuple[Limit, str]], left: list[float], *, miss: bool) -> Permit:
        numbers: list[int] = []
        for (limit, _), tokens in zip(paid, left, strict=True):
            whole = int(tokens + _CLOSE)
            numbers += (whole, limit.full_in(whole))
        return Permit(self._lines % tuple(numbers), charged=tuple(paid) if miss else ())

    def _refuse(self, payers: Payers, peer: str, by: Limit, tokens: float, now: float, *, miss: bool) -> Permit:
        """The longest of what each limit asks to wait, so that nobody comes back too early for the next one."""
        numbers: list[int] = []
        wait = -tokens
        for limit, payer in zip(self.limits, payers, strict=True):
            client = limit.client(payer, peer)
            left = max(0.0, limit.buckets.left(client, now))
            whole = int(left + _CLOSE)
            numbers += (whole, limit.full_in(whole))
            if limit is by:
                self._refused.add(f"{self._route}\n{limit.quota.name}\n{client}")
            else:
                wait = max(wait, limit.wait(left, miss=miss))
        return Permit(self._lines % tuple(numbers), wait, by.quota.serve_stale)

    def _give_back(self, paid: Sequence[tuple[Limit, str]], now: float, *, miss: bool) -> None:
        for limit, client in paid:
            limit.buckets.give_back(client, limit.cost(miss=miss), now)
