"""Remembering results in bounded room, so that what is asked for again and again is worked out once."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MARKS: Final = 16_384  # keys that appeared once and are known by their hash alone


class Memo(Generic[K, V]):
    """Results by key, in two generations of `room` each, by what `weigh` says of them.

    A key is kept from its second appearance on, so a flood of keys that never come again takes no
    room; and what is asked for while a generation fills moves on to the next.
    """

    __slots__ = ("_former", "_gone", "_room", "_seen", "_weigh", "_weight", "recent")

    def __init__(self, room: int, weigh: Callable[[K, V], int]) -> None:
        self._room, self._weigh, self._weight = room, weigh, 0
        self.recent: dict[K, V] = {}  # asked directly by who is in a hurry
        self._former: dict[K, V] = {}
        self._gone: list[dict[K, V]] = []  # no longer asked; thousands freed at once would stop the loop
        self._seen: set[int] = set()

    def get(self, key: K) -> V | None:
        """What was kept, if it was."""
        value = self.recent.get(key)
        if value is None and (value := self._former.get(key)) is not None:
            self._keep(key, value)
        return value

    def offer(self, key: K, value: V) -> bool:
        """A result that had to be worked out; whether it is kept."""
        mark = hash(key)
        if mark in self._seen:
            self._keep(key, value)
            return True
        if len(self._seen) >= MARKS:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def clear(self) -> None:
        """Forget everything."""
        self._gone += [self.recent, self._former]
        self.recent, self._former, self._weight = {}, {}, 0
        self._seen.clear()

    def _keep(self, key: K, value: V) -> None:
        weight = self._weigh(key, value)
        if self._weight + weight > self._room:
            self._gone.append(self._former)
            self._former, self.recent, self._weight = self.recent, {}, 0
        self.recent[key] = value
        self._weight += weight
        self.free(2)

    def free(self, count: int) -> None:
        """Let so many go of what is no longer asked."""
        while self._gone and count:
            if self._gone[-1]:
                self._gone[-1].popitem()
                count -= 1
            else:
                self._gone.pop()
