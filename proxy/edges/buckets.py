"""Token buckets in this process: one float for each client, in bounded memory.

A bucket is kept as the moment at which it is full again (GCRA: ATM Forum, Traffic Management 4.1, section 4.4.2),
so one whose moment has passed is forgotten without loss.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

MOST: Final = 100_000  # clients of one limit; about 25 MiB, an address each
_SHARDS: Final = 16  # one large dictionary would stop the loop for 20 ms each time that it grows
_SLACK: Final = 1e-7  # seconds that arithmetic may be wrong by: whoever has waited as told is not refused for less
_LOOKED_AT: Final = 2  # clients looked at for each new one; as many come, so the idle go faster than they come
_COMPARED: Final = 4  # likewise where there is no room, and the least indebted of them goes


class LocalBuckets:
    """flow.ports.Buckets of a process that shares them with nobody.

    `rate` is in tokens a second, `burst` in tokens; nothing that costs more than `burst` ever passes. `now` gives
    monotonic seconds, for `ask`. Of more than `most` clients with a debt the least indebted is forgotten, and whoever
    is new begins with a debt like that: no one gets rid of theirs by being crowded out.
    """

    __slots__ = ("_burst", "_depth", "_level", "_most", "_now", "_rate", "_shards", "_token", "_turns")

    def __init__(self, rate: float, burst: float, now: Callable[[], float], *, most: int = MOST) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._most = max(1, most // _SHARDS)  # in each shard
        self._token = 1 / rate  # seconds
        self._depth = burst / rate  # seconds from empty to full
        self._shards: tuple[dict[str, float], ...] = tuple([{} for _ in range(_SHARDS)])
        self._turns: tuple[deque[str], ...] = tuple([deque() for _ in range(_SHARDS)])  # in which each is looked at
        self._level = float("-inf")  # when the buckets of those who are not here are full

    def take(self, client: str, cost: float, now: float) -> float:
        """See flow.ports.Buckets; it can always be said at once."""
        buckets = self._shards[hash(client) % _SHARDS]
        full_at = buckets.get(client)
        if full_at is None:
            return self._begin(client, cost, now)
        if full_at < now:  # noqa: PLR1730 - max() takes longer than all else here
            full_at = now
        full_at += cost * self._token
        over = full_at - now - self._depth
        if over > _SLACK:
            return -over
        buckets[client] = full_at
        return -over * self._rate if over < 0.0 else 0.0

    def _begin(self, client: str, cost: float, now: float) -> float:
        full_at = max(self._level, now) + cost * self._token
        over = full_at - now - self._depth
        if over > _SLACK:
            return -over
        at = hash(client) % _SHARDS
        self._forget(self._shards[at], self._turns[at], now)
        self._shards[at][client] = full_at
        self._turns[at].append(client)
        return max(0.0, -over * self._rate)

    def _forget(self, buckets: dict[str, float], turns: deque[str], now: float) -> None:
        """Make room: of the next in turn those who are full again, and if need be the least indebted."""
        owing = []
        for _ in range(min(_LOOKED_AT if len(buckets) < self._most else _COMPARED, len(buckets))):
            client = turns.popleft()
            if buckets[client] > now:
                owing.append(client)
            else:
                del buckets[client]
        if len(buckets) >= self._most:
            least = min(owing, key=buckets.__getitem__)
            self._level = max(self._level, buckets.pop(least))
            owing.remove(least)
        turns.extend(owing)

    async def ask(self, client: str, cost: float) -> float:
        """See flow.ports.Buckets: nobody else has to be asked."""
        return self.take(client, cost, self._now())

    def give_back(self, client: str, amount: float, now: float) -> None:
        """See flow.ports.Buckets."""
        buckets = self._shards[hash(client) % _SHARDS]
        full_at = buckets.get(client)
        if full_at is not None and full_at > now:
            buckets[client] = full_at - amount * self._token

    def left(self, client: str, now: float) -> float:
        """See flow.ports.Buckets."""
        full_at = self._shards[hash(client) % _SHARDS].get(client, self._level)
        return min(self._burst, max(0.0, self._burst - (full_at - now) * self._rate))

    async def close(self) -> None:
        """See flow.ports.Buckets: there is nobody to give anything to."""

    def __len__(self) -> int:
        return sum([len(buckets) for buckets in self._shards])
