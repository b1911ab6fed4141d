"""Eviction policies by their papers, and the one that ships, for the comparison in eviction.py."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from proxy.edges.memory import OVERHEAD, Memory
from proxy.flow.invalidation import InvalidationLog
from proxy.rules.message import Entry, Terms


class Policy(Protocol):
    """A cache of nothing but keys and sizes."""

    def request(self, key: int, size: int) -> bool:
        """Whether it is a hit. A miss is admitted, if the object fits in the budget at all."""
        ...

    def remove(self, key: int) -> None:
        """Forget a key, which may not be there: a purge."""
        ...


class LRU:
    """The least recently used goes. A hit moves its entry. `size` and `budget` are in bytes, here and below."""

    def __init__(self, budget: int) -> None:
        self.budget, self.size = budget, 0
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def request(self, key: int, size: int) -> bool:
        if key in self._sizes:
            self._sizes.move_to_end(key)
            return True
        if size <= self.budget:
            while self.size + size > self.budget:
                self.size -= self._sizes.popitem(last=False)[1]
            self._sizes[key] = size
            self.size += size
        return False

    def remove(self, key: int) -> None:
        self.size -= self._sizes.pop(key, 0)


class _Slot:
    __slots__ = ("hits", "key", "newer", "older", "size")

    def __init__(self, key: int, size: int) -> None:
        self.key, self.size, self.hits = key, size, 0
        self.newer: _Slot | None = None
        self.older: _Slot | None = None


class Sieve:
    """SIEVE (Zhang et al., NSDI 2024): a hand walks from the oldest to the newest, clears flags, and drops what
    has none. What it has spared stays where it is, older than all that comes after it.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.size = budget, 0
        self._slots: dict[int, _Slot] = {}
        self._newest: _Slot | None = None
        self._oldest: _Slot | None = None
        self._hand: _Slot | None = None

    def request(self, key: int, size: int) -> bool:
        slot = self._slots.get(key)
        if slot is not None:
            slot.hits = 1
            return True
        if size <= self.budget:
            while self.size + size > self.budget:
                self._evict()
            slot = self._slots[key] = _Slot(key, size)
            slot.older, self._newest = self._newest, slot
            if slot.older is None:
                self._oldest = slot
            else:
                slot.older.newer = slot
            self.size += size
        return False

    def remove(self, key: int) -> None:
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        if slot is self._hand:
            self._hand = slot.newer
        if slot.newer is None:
            self._newest = slot.older
        else:
            slot.newer.older = slot.older
        if slot.older is None:
            self._oldest = slot.newer
        else:
            slot.older.newer = slot.newer
        self.size -= slot.size

    def _evict(self) -> None:
        hand = self._hand or self._oldest
        while hand is not None and hand.hits:
            hand.hits = 0
            hand = hand.newer or self._oldest
        if hand is None:
            raise AssertionError("a budget overdrawn with nothing stored")
        self._hand = hand
        self.remove(hand.key)


class _Queue:
    """Slots, first in first out, any of which can be removed."""

    def __init__(self) -> None:
        self.size = 0
        self.slots: OrderedDict[int, _Slot] = OrderedDict()

    def push(self, slot: _Slot) -> None:
        self.slots[slot.key] = slot
        self.size += slot.size

    def pop(self) -> _Slot:
        slot = self.slots.popitem(last=False)[1]
        self.size -= slot.size
        return slot

    def remove(self, key: int) -> None:
        slot = self.slots.pop(key, None)
        if slot is not None:
            self.size -= slot.size


class Clock:
    """FIFO where what was hit gets a second round: the usual stand-in for LRU that moves nothing on a hit."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._queue = _Queue()

    @property
    def size(self) -> int:
        return self._queue.size

    def request(self, key: int, size: int) -> bool:
        queue = self._queue
        slot = queue.slots.get(key)
        if slot is not None:
            slot.hits = 1
            return True
        if size <= self.budget:
            while queue.size + size > self.budget:
                while (slot := queue.pop()).hits:
                    slot.hits = 0
                    queue.push(slot)
            queue.push(_Slot(key, size))
        return False

    def remove(self, key: int) -> None:
        self._queue.remove(key)


class _TwoQueues:
    """What S3-FIFO and its relatives share: a queue of the young on trial, and one of those that have passed."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.young, self.main = _Queue(), _Queue()

    @property
    def size(self) -> int:
        return self.young.size + self.main.size

    def remove(self, key: int) -> None:
        self.young.remove(key)
        self.main.remove(key)


class S3Fifo(_TwoQueues):
    """S3-FIFO (Yang et al., SOSP 2023): the young have a tenth of the budget, and pass with `threshold` hits or if
    they were evicted not long ago. Counters go to 3. The ghosts are exact, as many as 0.9 of the entries.
    """

    def __init__(self, budget: int, threshold: int = 2) -> None:
        super().__init__(budget)
        self._target, self._threshold = 0.1 * budget, threshold
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def request(self, key: int, size: int) -> bool:
        slot = self.main.slots.get(key) or self.young.slots.get(key)
        if slot is not None:
            slot.hits = min(slot.hits + 1, 3)
            return True
        if size <= self.budget:
            queue = self.young
            if key in self._ghosts:
                del self._ghosts[key]
                queue = self.main
            while self.size + size > self.budget:
                self._evict()
            queue.push(_Slot(key, size))
        return False

    def _evict(self) -> None:
        young, main = self.young, self.main
        while young.slots and (young.size > self._target or not main.slots):
            slot = young.pop()
            if slot.hits < self._threshold:
                self._ghosts[slot.key] = None
                while len(self._ghosts) > 0.9 * (len(young.slots) + len(main.slots)):
                    self._ghosts.popitem(last=False)
                return
            slot.hits = 0
            main.push(slot)
        while (slot := main.pop()).hits:
            slot.hits -= 1
            main.push(slot)


class _Weight(bytes):
    """Bytes that are as long as they say and take no room."""

    weight: int

    def __len__(self) -> int:
        return self.weight


class Shipped:
    """The store itself: proxy/edges/memory.py. Its fixed cost of an entry is more than the smallest object, so
    everything is a power of two larger there.
    """

    _SCALE: Final = 16
    _TERMS: Final = Terms((), (), (), "", 0.0, 0.0, 0.0, False, False, False, True, 0.0)

    def __init__(self, budget: int) -> None:
        self._memory = Memory(budget * self._SCALE, InvalidationLog())

    def request(self, key: int, size: int) -> bool:
        name = f"http://h/{key}"
        if self._memory.fresh(name, {}, 0.0) is not None:
            return True
        rest = _Weight()
        rest.weight = size * self._SCALE - len(name) - OVERHEAD
        self._memory.put(Entry(name, self._TERMS, b"", rest, 0, (), 0.0, 0.0, math.inf, 0))
        return False

    def remove(self, key: int) -> None:
        entry = self._memory.fresh(f"http://h/{key}", {}, 0.0)
        if entry is not None:
            self._memory.discard(entry)


POLICIES: Final[Mapping[str, Callable[[int], Policy]]] = {
    "LRU": LRU,
    "CLOCK": Clock,
    "SIEVE": Sieve,
    "S3-FIFO": S3Fifo,
    "S3-FIFO, 1 hit": lambda budget: S3Fifo(budget, threshold=1),
    "shipped": Shipped,
}
