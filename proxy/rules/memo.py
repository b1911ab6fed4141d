"""Remembering results in bounded room, so that what is asked for again and again is worked out once."""

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Results by key: at most twice `room` of them, in two generations, and what is being freed.

    A key is kept from its second appearance on, so a flood of keys that never come again takes no
    room; and what is asked for while a generation fills moves on to the next.
    """

    __slots__ = ("_former", "_gone", "_room", "_seen", "recent")

    def __init__(self, room: int) -> None:
        self._room = room
        self.recent: dict[K, V] = {}  # asked directly by who is in a hurry
        self._former: dict[K, V] = {}
        self._gone: list[dict[K, V]] = []  # no longer asked; thousands freed at once would stop the loop
        self._seen: set[int] = set()  # hashes of keys that appeared once

    def get(self, key: K) -> V | None:
        """What was kept, if it was."""
        value = self.recent.get(key)
        if value is None and (value := self._former.get(key)) is not None:
            self._keep(key, value)
        return value

    def offer(self, key: K, value: V) -> None:
        """A result that had to be worked out."""
        mark = hash(key)
        if mark in self._seen:
            self._keep(key, value)
        else:
            if len(self._seen) >= 4 * self._room:
                self._seen.clear()
            self._seen.add(mark)

    def clear(self) -> None:
        """Forget everything."""
        self._gone += [self.recent, self._former]
        self.recent, self._former = {}, {}
        self._seen.clear()

    def _keep(self, key: K, value: V) -> None:
        if len(self.recent) >= self._room:
            self._gone.append(self._former)
            self._former, self.recent = self.recent, {}
        self.recent[key] = value
        for _ in range(2):
            if self._gone:
                self._free_one()

    def _free_one(self) -> None:
        if self._gone[-1]:
            self._gone[-1].popitem()
        else:
            self._gone.pop()
