"""The store in this process: a byte budget that is never exceeded, and eviction in two queues.

What is new waits in a young queue; what was asked for while it waited moves to the main one, where
whatever was asked for since the last pass gets another. So a scan passes through the young queue and
leaves the rest alone (S3-FIFO: Yang et al., SOSP 2023). The share of the young queue follows which
of the two lost what was then asked for again (CAR: Bansal and Modha, FAST 2004). A hit only sets a
flag. docs/performance.md has the figures, tests/benchmarks/eviction.py makes them.
"""

from array import array
from collections.abc import Iterator
from typing import Final

from proxy.flow.ports import InvalidationView, Variant
from proxy.rules.fields import selecting, selects
from proxy.rules.message import Entry, Fields, Headers, Request

MAX_VARIANTS: Final = 64  # per key; a field that makes more is named in `exploding`
OVERHEAD: Final = 410  # bytes of objects around one entry beside its key, head and body
_PER_TEXT: Final = 120  # bytes of objects around a text that few entries share: a tag, a value varied on
_PER_PIECE: Final = 64  # and around one of many pieces of a body
_SHARDS: Final = 256  # one large dictionary would stop the loop each time that it grows
_SPARED: Final = 32  # entries that are spared to make room once, before the next goes, wanted or not
_SLICE: Final = 1 << 20  # bytes evicted at once when the budget is made smaller
_LOOKED_AT: Final = 200  # keys at a time; a loop that stands still for them does so for about a millisecond
_GHOST_EVERY: Final = 2048  # bytes of budget for one remembered eviction


class _Slot:
    """A stored entry's place: in a queue, and among the variants of its key, the newest first."""

    __slots__ = ("asked", "checked", "entry", "newer", "older", "queue", "sibling")

    queue: "_Queue"

    def __init__(self, entry: Entry, checked: int) -> None:
        self.entry, self.checked, self.asked = entry, checked, False
        self.newer: _Slot | None = None
        self.older: _Slot | None = None
        self.sibling: _Slot | None = None


class _Ghosts:
    """What was evicted lately: four bytes each, in a table of fixed size where the newest wins.

    A word is a quarter of a key's hash, and when it was evicted, counted in shares of the table.
    """

    __slots__ = ("_evicted", "_shift", "_words")

    def __init__(self, budget: int) -> None:
        places = 1 << max(0, (budget // _GHOST_EVERY).bit_length() - 1)
        self._words = array("I", bytes(4 * places))
        self._shift = max(0, places.bit_length() - 9)
        self._evicted = 0

    def add(self, mark: int) -> None:
        """Remember one."""
        self._evicted += 1
        at = mark & (len(self._words) - 1)
        self._words[at] = (mark >> 32 & 0xFFFF) << 16 | (self._evicted >> self._shift & 0xFFFF)

    def take(self, mark: int, among: float) -> bool:
        """Whether it is among the last that many; then it is no more."""
        at = mark & (len(self._words) - 1)
        word = self._words[at]
        if not word or word >> 16 != mark >> 32 & 0xFFFF:
            return False
        self._words[at] = 0
        return ((self._evicted >> self._shift) - word & 0xFFFF) << self._shift < among


class _Queue:
    """Slots from the newest to the oldest; `size` is what their entries cost, in bytes.

    `ghosts`: what it lost.
    """

    __slots__ = ("count", "ghosts", "newest", "oldest", "size")

    def __init__(self, ghosts: _Ghosts) -> None:
        self.newest: _Slot | None = None
        self.oldest: _Slot | None = None
        self.size = self.count = 0
        self.ghosts = ghosts

    def push(self, slot: _Slot, cost: int) -> None:
        slot.queue, slot.older, slot.newer = self, self.newest, None
        if self.newest is None:
            self.oldest = slot
        else:
            self.newest.newer = slot
        self.newest = slot
        self.size += cost
        self.count += 1

    def remove(self, slot: _Slot, cost: int) -> None:
        if slot.newer is None:
            self.newest = slot.older
        else:
            slot.newer.older = slot.older
        if slot.older is None:
            self.oldest = slot.newer
        else:
            slot.older.newer = slot.newer
        slot.newer = slot.older = None
        self.size -= cost
        self.count -= 1


class Memory:
    """Entries by key and variant. `size` and `budget` are in bytes."""

    def __init__(self, budget: int, log: InvalidationView) -> None:
        self.budget, self.evictions = budget, 0
        self.exploding: str | None = None  # the request field that last made too many variants
        self._log = log
        self._shards: tuple[dict[str, _Slot], ...] = tuple([{} for _ in range(_SHARDS)])
        # The young lose more, and would crowd the others out of a table for both.
        self._young, self._main = _Queue(_Ghosts(budget)), _Queue(_Ghosts(budget))
        self._target = budget // 10  # bytes the young queue may hold before it has to give

    @property
    def size(self) -> int:
        """What is stored costs."""
        return self._young.size + self._main.size

    @property
    def count(self) -> int:
        """Entries stored."""
        return self._young.count + self._main.count

    def fresh(self, key: str, fields: Fields, now: float) -> Entry | None:
        """The newest variant for such a request, where nothing speaks against it."""
        slot = self._shards[hash(key) % _SHARDS].get(key)
        if slot is None:
            return None
        entry = slot.entry
        vary = entry.terms.vary
        if vary and not selects(vary, fields):
            slot = _selected(slot.sibling, fields)
            if slot is None:
                return None
            entry = slot.entry
        if slot.checked != self._log.position:
            judged = self._judged(slot)
            if judged is None:
                return None
            entry = judged
        if now >= entry.fresh_until or now >= self._log.trusted_until:
            return None
        slot.asked = True
        return entry

    def find(self, key: str, request: Request, now: float) -> Entry | None:
        """The newest valid variant that the request selects."""
        slot = _selected(self._first(key), request.fields)
        if slot is None:
            return None
        if slot.checked != self._log.position and self._judged(slot) is None:
            return self.find(key, request, now)
        slot.asked = True
        return slot.entry if now < self._log.trusted_until else self._log.vouched(slot.entry, now)

    def holds(self, key: str) -> bool:
        """Whether the key has any variant."""
        return key in self._shards[hash(key) % _SHARDS]

    def variant(self, key: str, request: Request) -> Headers:
        """The request's values of what the newest entry of this key was selected on."""
        slot = self._first(key)
        return selecting(request.fields, tuple([name for name, _ in slot.entry.vary])) if slot is not None else ()

    def variants(self, key: str) -> tuple[Variant, ...]:
        """All that is stored under the key, the newest first, as it lies there."""
        return tuple([Variant(slot.entry, slot.checked, slot.asked) for slot in _siblings(self._first(key))])

    def put(self, entry: Entry) -> bool:
        """Store, making room; False where it is larger than the budget, the log has overtaken it, or what is stored
        is just being shrunk.
        """
        cost = cost_of(entry)
        if cost > self.budget or self.size > self.budget or self._log.overtaken(entry, entry.seq):
            return False
        asked, queue = False, self._young
        old = self._slot(entry)
        if old is not None:
            if old.entry is entry:
                return True  # all who waited for it bring it
            if old.entry.seq > entry.seq or old.entry.stored_at > entry.stored_at:
                return False  # an older fetch never overwrites a newer one
            asked, queue = old.asked, old.queue
            self._remove(old)
        elif self._missed(_mark(entry), cost):
            queue = self._main
        self._make_room(self.budget - cost)
        slot = _Slot(entry, self._log.position)
        slot.asked = asked
        queue.push(slot, cost)
        self._chain(slot)
        return True

    def discard(self, entry: Entry) -> None:
        """Forget one variant, if it is still the one stored."""
        slot = self._slot(entry)
        if slot is not None and slot.entry.stored_at == entry.stored_at:
            self._remove(slot)

    def resize(self, budget: int) -> None:
        """Change the budget. Where that is less than what is stored `shrink` has to follow."""
        if budget != self.budget:
            self._young.ghosts, self._main.ghosts = _Ghosts(budget), _Ghosts(budget)
            self.budget, self._target = budget, budget // 10

    def shrink(self) -> bool:
        """Evict a little of what is above the budget; True where nothing more is."""
        self._make_room(max(self.budget, self.size - _SLICE))
        return self.size <= self.budget

    def reclaim(self) -> Iterator[None]:
        """Look at all that is stored, a little at each step, and let go of what the log has made gone: an entry finds
        out by itself only when it is asked for, and what was purged may never be.
        """
        looked = 0
        for shard in self._shards:
            for key in list(shard):
                for slot in list(_siblings(shard.get(key))):  # others may have come and gone since the last step
                    if slot.checked != self._log.position:
                        self._judged(slot)
                looked += 1
                if looked % _LOOKED_AT == 0:
                    yield

    def _judged(self, slot: _Slot) -> Entry | None:
        """Its entry in the light of what the log has had since it was last looked at; None: it is gone."""
        judged = self._log.judge(slot.entry, slot.checked)
        if judged is None:
            self._remove(slot)
        else:
            slot.entry, slot.checked = judged, self._log.position
        return judged

    def _first(self, key: str) -> _Slot | None:
        return self._shards[hash(key) % _SHARDS].get(key)

    def _slot(self, entry: Entry) -> _Slot | None:
        """Where this very variant is stored."""
        slot = self._first(entry.key)
        while slot is not None and slot.entry.vary != entry.vary:
            slot = slot.sibling
        return slot

    def _chain(self, slot: _Slot) -> None:
        """Make it a variant of its key, behind those that are newer."""
        entry = slot.entry
        shard, first = self._shards[hash(entry.key) % _SHARDS], self._first(entry.key)
        if first is None or first.entry.stored_at <= entry.stored_at:
            slot.sibling, shard[entry.key] = first, slot
        else:
            before = first
            while before.sibling is not None and before.sibling.entry.stored_at > entry.stored_at:
                before = before.sibling
            slot.sibling, before.sibling = before.sibling, slot
        variants = list(_siblings(shard[entry.key]))
        if len(variants) > MAX_VARIANTS:
            self.exploding = _most_diverse(variants)
            self._remove(variants[-1])

    def _missed(self, mark: int, cost: int) -> bool:
        """Whether it was evicted too early. The queue that lost it gets a larger share."""
        share, half = self._target / self.budget, self.count / 2
        if self._young.ghosts.take(mark, (1 - share) * half):
            self._target = min(self._target + 2 * cost, self.budget * 9 // 10)
        elif self._main.ghosts.take(mark, share * half):
            weight = min(4.0, max(1.0, (1 - share) / share))
            self._target = max(self._target - int(2 * cost * weight), self.budget // 10)
        else:
            return False
        return True

    def _make_room(self, limit: int) -> None:
        """Evict until what is stored is within the limit."""
        young, main = self._young, self._main
        spared = 0
        while self.size > limit:
            queue = young if young.count and (young.size > self._target or not main.count) else main
            slot = queue.oldest
            assert slot is not None, "a budget overdrawn with nothing stored"  # noqa: S101 - a bug of ours
            if not slot.asked or spared == _SPARED:
                queue.ghosts.add(_mark(slot.entry))
                self.evictions += 1
                self._remove(slot)
            else:
                spared += 1
                slot.asked = False
                cost = cost_of(slot.entry)
                queue.remove(slot, cost)
                main.push(slot, cost)

    def _remove(self, slot: _Slot) -> None:
        entry = slot.entry
        slot.queue.remove(slot, cost_of(entry))
        shard = self._shards[hash(entry.key) % _SHARDS]
        before = shard[entry.key]
        if before is not slot:
            while before.sibling is not None and before.sibling is not slot:
                before = before.sibling
            before.sibling = slot.sibling
        elif slot.sibling is None:
            del shard[entry.key]
        else:
            shard[entry.key] = slot.sibling


def cost_of(entry: Entry) -> int:
    """Bytes charged for an entry: its texts, its body, and the objects around them."""
    terms = entry.terms
    shared_by_few = 0
    if terms.vary or terms.tags or terms.aside:
        texts = (*terms.tags, *[value for _, value in (*terms.vary, *terms.aside)])
        shared_by_few = sum(map(len, texts)) + _PER_TEXT * (len(texts) + 2)
    size = len(entry.rest)
    if entry.pieces:
        size += sum([len(piece) + _PER_PIECE for piece in entry.pieces])
    return size + len(entry.key) + len(entry.lead) + shared_by_few + OVERHEAD


def _mark(entry: Entry) -> int:
    return hash((entry.key, entry.vary)) if entry.vary else hash(entry.key)


def _selected(slot: _Slot | None, fields: Fields) -> _Slot | None:
    """The first of these that a request with such fields selects. Its fields are read once for all of them."""
    read: dict[tuple[str, ...], Headers] = {}
    while slot is not None:
        vary = slot.entry.terms.vary
        names = tuple([name for name, _ in vary])
        if names not in read:
            read[names] = selecting(fields, names)
        if read[names] == vary:
            break
        slot = slot.sibling
    return slot


def _siblings(slot: _Slot | None) -> Iterator[_Slot]:
    while slot is not None:
        yield slot
        slot = slot.sibling


def _most_diverse(variants: list[_Slot]) -> str:
    """The field with the most values among the stored variants."""
    values: dict[str, set[str]] = {}
    for slot in variants:
        for name, value in slot.entry.vary:
            values.setdefault(name, set()).add(value)
    return max(values, key=lambda name: len(values[name]), default="")
