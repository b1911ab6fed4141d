"""The store in this process: a byte budget that is never exceeded, and SIEVE eviction.

SIEVE (Zhang et al., NSDI 2024): new entries go to the head of a list, a hit only sets a flag,
and a hand walks from the tail, clearing flags, until it finds an entry that was not asked for.
"""

from dataclasses import dataclass, field
from typing import Final

from proxy.flow.ports import InvalidationView
from proxy.rules.fields import selecting
from proxy.rules.message import Entry, Headers, Request

MAX_VARIANTS: Final = 64  # per key; a field that makes more is named in `exploding`
OVERHEAD: Final = 1400  # bytes of objects around one entry beside its texts, fields and body
_PER_FIELD: Final = 250  # bytes of objects around one field: two texts, a pair, a place in the folded fields


class _Slot:
    """A stored entry's place: in the list that the hand walks, and in its key's variants."""

    __slots__ = ("checked", "cost", "entry", "newer", "older", "visited")

    def __init__(self, entry: Entry, cost: int, checked: int) -> None:
        self.entry, self.cost, self.checked = entry, cost, checked
        self.visited = False
        self.newer: _Slot | None = None
        self.older: _Slot | None = None


@dataclass(slots=True)
class _Variants:
    """The entries of one key by what they were selected on, the newest set of names last."""

    slots: dict[Headers, _Slot] = field(default_factory=dict)
    names: list[tuple[str, ...]] = field(default_factory=list)


class Memory:
    """Entries by key and variant. `size` and `budget` are in bytes."""

    def __init__(self, budget: int, log: InvalidationView) -> None:
        self.budget, self.size, self.count, self.evictions = budget, 0, 0, 0
        self.exploding: str | None = None  # the request field that last made too many variants
        self._log = log
        self._keys: dict[str, _Variants] = {}
        self._newest: _Slot | None = None
        self._oldest: _Slot | None = None
        self._hand: _Slot | None = None

    def find(self, key: str, request: Request) -> Entry | None:
        """The newest valid variant that the request selects."""
        variants = self._keys.get(key)
        if variants is None:
            return None
        best: _Slot | None = None
        for names in variants.names:
            slot = variants.slots.get(selecting(request.fields, names) if names else ())
            if slot is not None and (best is None or slot.entry.stored_at >= best.entry.stored_at):
                best = slot
        if best is None:
            return None
        if best.checked != self._log.n:
            judged = self._log.judge(best.entry, best.checked)
            if judged is None:
                self._remove(best)
                return self.find(key, request)
            best.entry, best.checked = judged, self._log.n
        best.visited = True
        return best.entry

    def holds(self, key: str) -> bool:
        """Whether the key has any variant."""
        return key in self._keys

    def variant(self, key: str, request: Request) -> Headers:
        """The request's values of what the newest names of this key select on."""
        variants = self._keys.get(key)
        return selecting(request.fields, variants.names[-1]) if variants and variants.names[-1] else ()

    def put(self, entry: Entry) -> bool:
        """Store, making room; False where it is larger than the budget or the log has overtaken it."""
        cost = cost_of(entry)
        if cost > self.budget or self._log.overtaken(entry, entry.seq):
            return False
        variants = self._keys.get(entry.key)
        if variants is not None and (old := variants.slots.get(entry.vary)) is not None:
            if old.entry.seq > entry.seq or old.entry.stored_at > entry.stored_at:
                return False  # an older fetch never overwrites a newer one
            self._remove(old)
        while self.size + cost > self.budget:
            self._evict()
        # The removals above may have emptied and dropped the key's variants.
        variants = self._keys.setdefault(entry.key, _Variants())
        if len(variants.slots) >= MAX_VARIANTS:
            self.exploding = _most_diverse(variants)
            self._remove(next(iter(variants.slots.values())))
            variants = self._keys.setdefault(entry.key, variants)
        names = tuple(name for name, _ in entry.vary)
        if names in variants.names:
            variants.names.remove(names)
        variants.names.append(names)
        slot = _Slot(entry, cost, self._log.n)
        variants.slots[entry.vary] = slot
        slot.older, self._newest = self._newest, slot
        if slot.older is None:
            self._oldest = slot
        else:
            slot.older.newer = slot
        self.size += cost
        self.count += 1
        return True

    def discard(self, entry: Entry) -> None:
        """Forget one variant, if it is still the one stored."""
        variants = self._keys.get(entry.key)
        slot = variants.slots.get(entry.vary) if variants else None
        if slot is not None and slot.entry.stored_at == entry.stored_at:
            self._remove(slot)

    def resize(self, budget: int) -> None:
        """Change the budget, evicting down to it."""
        self.budget = budget
        while self.size > self.budget:
            self._evict()

    def _evict(self) -> None:
        hand = self._hand or self._oldest
        while hand is not None and hand.visited:
            hand.visited = False
            hand = hand.newer or self._oldest
        if hand is None:
            raise AssertionError("a budget overdrawn with nothing stored")
        self._hand = hand.newer
        self.evictions += 1
        self._remove(hand)

    def _remove(self, slot: _Slot) -> None:
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
        slot.newer = slot.older = None
        self.size -= slot.cost
        self.count -= 1
        variants = self._keys[slot.entry.key]
        del variants.slots[slot.entry.vary]
        if not variants.slots:
            del self._keys[slot.entry.key]
            return
        names = tuple(name for name, _ in slot.entry.vary)
        if not any(tuple(name for name, _ in vary) == names for vary in variants.slots):
            variants.names.remove(names)


def cost_of(entry: Entry) -> int:
    """Bytes charged for an entry: its texts as often as they are held, its body, and the objects around them."""
    fields = len(entry.head.headers)
    vary = sum(2 * len(value) + _PER_FIELD for _, value in entry.vary)
    names = len(entry.key) + len(entry.url) + sum(map(len, entry.tags)) + _PER_FIELD * len(entry.tags)
    return entry.length + 64 * len(entry.body) + 3 * len(entry.wire) + _PER_FIELD * fields + vary + names + OVERHEAD


def _most_diverse(variants: _Variants) -> str:
    """The field with the most values among the stored variants."""
    values: dict[str, set[str]] = {}
    for vary in variants.slots:
        for name, value in vary:
            values.setdefault(name, set()).add(value)
    return max(values, key=lambda name: len(values[name]), default="")
