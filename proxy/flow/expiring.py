"""Keys remembered for a while, in bounded number."""

from collections import OrderedDict

from proxy.rules.keys import short
from proxy.rules.message import Reason


class ExpiringSet:
    """At most `limit` keys, each until its time (seconds, same clock as the caller's `now`) and for a reason."""

    __slots__ = ("_limit", "_until")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._until: OrderedDict[str, tuple[float, Reason]] = OrderedDict()

    def add(self, key: str, until: float, reason: Reason) -> None:
        """Remember, in place of any earlier time; the oldest makes room."""
        key = short(key)
        self._until.pop(key, None)
        self._until[key] = until, reason
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def discard(self, key: str) -> None:
        """Forget."""
        self._until.pop(short(key), None)

    def __len__(self) -> int:
        return len(self._until)

    def until(self, key: str) -> float | None:
        """The time a key is remembered to, which may have passed; None where it is not known."""
        known = self._until.get(short(key))
        return None if known is None else known[0]

    def reason(self, key: str) -> Reason | None:
        """Why it is."""
        known = self._until.get(short(key))
        return None if known is None else known[1]
