"""The store in this process: its budget, its eviction, its variants."""

import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.edges import memory as module
from proxy.edges.memory import MAX_VARIANTS, OVERHEAD, Memory, cost_of
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.rules.fields import selects
from proxy.rules.message import Entry, Headers, Request, fold
from tests.rules.build import bare

AT: Final = 1000.0
UNIT: Final = OVERHEAD + 1000  # bytes an entry of the size used here is charged, or a little more


def request(headers: Headers = ()) -> Request:
    return Request("GET", "/", "h", "http", False, headers, fold(headers), 0, True, False, False)


def entry(key: str = "http://h/", *, size: int = 900, vary: Headers = (), at: float = AT, seq: int = 0) -> Entry:
    return bare(key, b"x" * size, vary=vary, at=at, seq=seq)


def tagged(plain: Entry, *tags: str) -> Entry:
    return replace(plain, terms=replace(plain.terms, tags=tags))


def memory(budget: int = 1 << 20) -> Memory:
    return Memory(budget, InvalidationLog())


def found(store: Memory, keys: Iterable[str]) -> list[str]:
    """Which of the keys are there; nothing is asked for by this."""
    return [key for key in keys if store.holds(key)]


def test_what_was_put_is_found_and_what_was_not_is_not() -> None:
    store, kept = memory(), entry()
    assert store.put(kept)
    assert store.find(kept.key, request(), AT) is kept
    assert store.find("http://h/other", request(), AT) is None
    assert (store.holds(kept.key), store.holds("http://h/other")) == (True, False)


def test_what_is_larger_than_the_budget_is_not_stored_and_nothing_makes_room_for_it() -> None:
    store = memory(10 * UNIT)
    store.put(entry("a"))
    assert not store.put(entry("b", size=11 * UNIT))
    assert (store.count, store.evictions) == (1, 0)


def test_the_charge_covers_what_is_held() -> None:
    plain = cost_of(entry())
    long = "v" * 20_000
    assert cost_of(entry(size=900 + 20_000)) >= plain + 20_000
    assert cost_of(entry(vary=(("x", long),))) >= plain + 20_000, "a client chooses how long its fields are"
    assert cost_of(entry(f"http://h/\nx={long}")) >= plain + 20_000, "and those of a keyed header"


def _made(kind: str, number: int) -> Entry:
    """One of many entries that share as little as such entries may."""
    text = f"{number:08}"
    key, at = f"http://h/{text}", AT + number
    match kind:
        case "varied":
            kept = entry(key, at=at)
            return replace(kept, terms=replace(kept.terms, vary=(("accept-language", text), ("user-agent", text * 9))))
        case "tagged":
            return tagged(entry(key, at=at), *(f"{tag}{text}" for tag in range(20)))
        case "with tags aside":
            kept = tagged(entry(key, at=at), f"a{text}", f"b{text}")
            return replace(kept, terms=replace(kept.terms, aside=(("Surrogate-Key", f"a{text} b{text}"),)))
        case "large":
            pieces = tuple([bytes([number % 256]) * 700 for _ in range(20)])
            return replace(entry(key, size=0, at=at), pieces=pieces)
        case _:
            kept = entry(key, size=number % 50, at=at)
            return replace(kept, born=kept.stored_at - number % 7)


@pytest.mark.parametrize("kind", ["plain", "varied", "tagged", "with tags aside", "large"])
def test_the_charge_is_no_less_than_the_memory_that_is_taken(kind: str) -> None:
    """In all: dictionaries grow by leaps."""
    store = memory(1 << 30)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            assert store.put(_made(kind, number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= store.size


# -- one key


def test_an_older_fetch_never_overwrites_a_newer_one() -> None:
    store = memory()
    new = entry(at=AT + 1)
    assert store.put(new)
    assert not store.put(entry(at=AT))
    assert store.find(new.key, request(), AT) is new


def test_a_fetch_from_before_a_record_never_overwrites_one_from_after_it() -> None:
    log = InvalidationLog()
    store = Memory(1 << 20, log)
    log.append([(Kind.TAG, "of something else")], AT)
    new = entry(seq=1)
    assert store.put(new)
    assert not store.put(entry(seq=0, at=AT + 1))
    assert store.find(new.key, request(), AT) is new


def test_what_is_replaced_is_no_longer_charged() -> None:
    store = memory()
    store.put(entry(size=5000))
    store.put(entry(size=100, at=AT + 1))
    assert (store.count, store.size) == (1, cost_of(entry(size=100)))


def test_discard_forgets_the_entry_that_is_meant_and_no_newer_one() -> None:
    store, old = memory(), entry()
    store.put(old)
    new = entry(at=AT + 1)
    store.put(new)
    store.discard(old)
    assert store.find(new.key, request(), AT) is new
    store.discard(new)
    assert (store.find(new.key, request(), AT), store.count, store.size) == (None, 0, 0)


# -- the short way


def test_what_is_fresh_is_found_the_short_way_until_it_is_not() -> None:
    store, kept = memory(), entry()
    store.put(kept)
    assert store.fresh(kept.key, {}, kept.fresh_until - 0.001) is kept
    assert store.fresh(kept.key, {}, kept.fresh_until) is None
    assert store.fresh("http://h/other", {}, AT) is None
    store.discard(kept)
    assert store.fresh(kept.key, {}, AT) is None


@pytest.mark.parametrize(
    ("kind", "value", "soft", "again"),
    [
        pytest.param(Kind.ALL, "", False, False, id="and it is gone"),
        pytest.param(Kind.ALL, "", True, False, id="and it is stale"),
        pytest.param(Kind.TAG, "another", False, True, id="and it is as it was"),
    ],
)
def test_behind_a_record_the_short_way_is_judged_as_the_long_one_is(
    kind: Kind, value: str, soft: bool, again: bool
) -> None:
    log = InvalidationLog()
    store, kept = Memory(1 << 20, log), entry()
    store.put(kept)
    log.append([(kind, value)], AT, soft=soft)
    for _ in range(2):
        assert store.fresh(kept.key, {}, AT) is (kept if again else None)
    assert (store.find(kept.key, request(), AT) is None) is (not soft and not again)


def test_the_short_way_gives_the_variant_that_the_long_one_gives() -> None:
    store = memory()
    plain, english = entry(), entry(vary=(("accept-language", "en"),), at=AT + 1)
    store.put(plain)
    store.put(english)
    assert store.fresh(plain.key, {"accept-language": "EN"}, AT) is english
    assert store.fresh(plain.key, {"accept-language": "fr"}, AT) is plain
    assert store.fresh(plain.key, {}, AT) is plain


def test_a_newer_variant_that_is_stale_is_not_passed_over_for_an_older_one() -> None:
    store = memory()
    store.put(entry())
    newer = replace(entry(vary=(("accept-language", "en"),), at=AT + 1), fresh_until=AT + 2)
    store.put(newer)
    assert store.find(newer.key, request(ENGLISH), AT) is newer
    assert store.fresh(newer.key, {"accept-language": "en"}, AT + 3) is None


# -- variants


ENGLISH: Final = (("Accept-Language", "en"),)
FRENCH: Final = (("Accept-Language", "fr"),)
ENGLISH_ONLY: Final = (("accept-language", "en"),)
XS: Final = (("x", "x"),)


def test_each_request_finds_the_variant_it_selects() -> None:
    store = memory()
    english, french = entry(vary=(("accept-language", "en"),)), entry(vary=(("accept-language", "fr"),))
    store.put(english)
    store.put(french)
    assert store.find(english.key, request(ENGLISH), AT) is english
    assert store.find(english.key, request(FRENCH), AT) is french
    assert store.find(english.key, request(), AT) is None
    assert store.variant(english.key, request(FRENCH)) == french.vary


def test_of_several_that_fit_the_newest_is_found() -> None:
    store = memory()
    plain, english = entry(), entry(vary=(("accept-language", "en"),), at=AT + 1)
    store.put(plain)
    store.put(english)
    assert store.find(plain.key, request(ENGLISH), AT) is english
    assert store.find(plain.key, request(FRENCH), AT) is plain
    newest = entry(at=AT + 2)
    store.put(newest)
    assert store.find(plain.key, request(ENGLISH), AT) is newest
    assert store.variant(plain.key, request(ENGLISH)) == ()


def test_what_was_fetched_earlier_and_comes_later_stands_behind() -> None:
    store = memory()
    newest, oldest, middle = (entry(vary=vary, at=AT + at) for vary, at in ((ENGLISH_ONLY, 3), ((), 1), (XS, 2)))
    for one in (newest, oldest, middle):
        assert store.put(one)
    asked = request((("Accept-Language", "en"), ("X", "x")))
    for expected in (newest, middle, oldest):
        assert store.find(newest.key, asked, AT) is expected
        store.discard(expected)
    assert store.find(newest.key, asked, AT) is None


def test_of_two_of_one_moment_the_one_that_came_last_is_found() -> None:
    store = memory()
    first, last = entry(vary=ENGLISH_ONLY), entry()
    store.put(first)
    store.put(last)
    assert store.find(first.key, request(ENGLISH), AT) is last


def test_when_the_newest_is_purged_the_next_that_fits_is_found() -> None:
    log = InvalidationLog()
    store = Memory(1 << 20, log)
    plain, newer = entry(), tagged(entry(vary=(("accept-language", "en"),), at=AT + 1), "t")
    store.put(plain)
    store.put(newer)
    log.append([(Kind.TAG, "t")], AT + 2)
    assert store.find(plain.key, request(ENGLISH), AT) is plain
    assert (store.count, store.size) == (1, cost_of(plain))


def test_variants_are_bounded_the_oldest_makes_room_and_the_field_that_explodes_is_named() -> None:
    store = memory()
    for number in range(MAX_VARIANTS):
        store.put(entry(vary=(("accept", "same"), ("user-agent", str(number)))))
    assert (store.count, store.exploding) == (MAX_VARIANTS, None)
    for number in range(MAX_VARIANTS, MAX_VARIANTS + 10):
        store.put(entry(vary=(("accept", "same"), ("user-agent", str(number)))))
    assert (store.count, store.exploding) == (MAX_VARIANTS, "user-agent")
    agents = [request((("Accept", "same"), ("User-Agent", str(n)))) for n in range(MAX_VARIANTS + 10)]
    assert [store.find("http://h/", agent, AT) is not None for agent in agents] == [False] * 10 + [True] * MAX_VARIANTS


def test_of_too_many_variants_the_oldest_goes_whenever_it_came() -> None:
    store = memory()
    for number in range(MAX_VARIANTS):
        store.put(entry(vary=(("x", str(number)),), at=AT + 1 + number))
    late = entry(vary=(("x", "late"),), at=AT)
    store.put(late)
    assert store.count == MAX_VARIANTS
    assert store.find(late.key, request((("X", "late"),)), AT) is None
    assert store.find(late.key, request((("X", "0"),)), AT) is not None


# -- eviction


def test_without_a_hit_the_oldest_goes_first() -> None:
    store = memory(3 * UNIT)
    keys = list("abcde")
    for key in keys:
        store.put(entry(key))
    assert found(store, keys) == ["c", "d", "e"]
    assert store.evictions == 2


@pytest.mark.parametrize("short", [False, True], ids=["the long way", "the short way"])
def test_what_was_asked_for_outlives_what_was_not(short: bool) -> None:
    store = memory(3 * UNIT)
    for key in "abc":
        store.put(entry(key))
    assert store.fresh("a", {}, AT) if short else store.find("a", request(), AT)
    store.put(entry("d"))
    assert found(store, "abcd") == ["a", "c", "d"]


def test_a_scan_does_not_wash_out_what_is_asked_for_again_and_again() -> None:
    store = memory(10 * UNIT)
    for number in range(1000):
        if not store.find("hot", request(), AT):
            assert number < 10, "it was evicted"
            store.put(entry("hot"))
        store.put(entry(f"scan {number}"))
    assert store.holds("hot")


def scan(store: Memory, count: int, name: str = "scan", *, size: int = 900) -> None:
    """So many that nobody asks for again."""
    for number in range(count):
        store.put(entry(f"{name} {number}", size=size))


def settled(store: Memory, keys: Iterable[str]) -> None:
    """Put those keys, among others, where they are known to be wanted."""
    for key in keys:
        store.put(entry(key))
        assert store.find(key, request(), AT)
        store.put(entry(f"beside {key}"))
    scan(store, 2 * store.budget // UNIT, "before")
    assert found(store, keys) == list(keys), "asked for, and evicted"


HOT: Final = [f"hot {number}" for number in range(50)]


def test_a_scan_however_long_leaves_what_was_asked_for_before_it() -> None:
    store = memory(100 * UNIT)
    settled(store, HOT)
    scan(store, 5000)
    assert found(store, HOT) == HOT


def test_what_is_asked_for_now_and_then_outlives_a_scan() -> None:
    store = memory(100 * UNIT)
    for key in HOT:
        store.put(entry(key))
        store.put(entry(f"beside {key}"))
    lost = 0
    for number in range(5000):
        key = HOT[number % len(HOT)]
        if not store.fresh(key, {}, AT):
            lost += 1
            store.put(entry(key))
        store.put(entry(f"scan {number}"))
    assert lost == 0


def test_what_is_renewed_keeps_its_place() -> None:
    store = memory(100 * UNIT)
    settled(store, HOT)
    for key in HOT:
        assert store.put(entry(key, at=AT + 1))
    scan(store, 1000)
    assert found(store, HOT) == HOT


def test_what_is_wanted_again_soon_after_it_was_evicted_outlives_what_is_new() -> None:
    store = memory(100 * UNIT)
    settled(store, HOT)
    store.put(entry("again"))
    scan(store, 1000)
    assert not store.holds("again")
    store.put(entry("again"))
    number = 0
    while store.holds("again"):
        store.put(entry(f"then {number}"))
        number += 1
    store.put(entry("again"))
    store.put(entry("new"))
    scan(store, 200, "at last")
    assert found(store, ["again", "new"]) == ["again"]


def test_what_was_evicted_long_ago_is_new() -> None:
    store = memory(2000 * UNIT)
    settled(store, HOT)
    again = [f"again {number}" for number in range(10)]
    for times in (1, 2):
        for key in again:
            store.put(entry(key, size=20_000))
        scan(store, 300, f"time {times}", size=20_000)
        assert found(store, again) == []


def test_what_was_evicted_is_remembered_in_bounded_room() -> None:
    store = memory(100 * UNIT)
    scan(store, 1000)
    tracemalloc.start()
    try:
        scan(store, 1000, "warm")  # now everything that is stored is traced
        before, _ = tracemalloc.get_traced_memory()
        scan(store, 20_000, "flood")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 << 10


@pytest.mark.parametrize("asked", [0, 1], ids=["asked for once", "asked for again after each eviction"])
def test_an_eviction_looks_at_few_entries_however_many_were_asked_for(
    asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one request would have to wait while thousands are looked at."""
    store = memory(3000 * UNIT)
    keys: list[str] = []
    while store.size + cost_of(entry("the next")) <= store.budget:
        keys.append(str(len(keys)))
        assert store.put(entry(keys[-1]))
        assert store.fresh(keys[-1], {}, AT)
    assert len(keys) >= 3000
    moves = 0
    push = module._Queue.push  # noqa: SLF001 - what is moved is pushed

    def counted(queue: Any, slot: Any, cost: int) -> None:  # noqa: ANN401 - passed on
        nonlocal moves
        moves += 1
        push(queue, slot, cost)

    monkeypatch.setattr(module._Queue, "push", counted)  # noqa: SLF001
    for number in range(50):
        evicted, moves = store.evictions, 0
        assert store.put(entry(f"new {number}"))
        assert 1 <= store.evictions - evicted <= 2
        assert moves <= 200
        for key in keys * asked:
            store.fresh(key, {}, AT)


def test_where_everything_was_asked_for_one_still_goes() -> None:
    store = memory(3 * UNIT)
    for key in "abc":
        store.put(entry(key))
        store.find(key, request(), AT)
    assert store.put(entry("d"))
    assert store.count == 3


def shrunk(store: Memory, budget: int) -> None:
    """Resize to the end."""
    store.resize(budget)
    while not store.shrink():
        pass


def test_a_much_smaller_budget_is_reached_in_small_steps_and_nothing_stored_meanwhile() -> None:
    store = memory(1 << 26)
    for number in range(10_000):
        store.put(entry(f"http://h/{number}"))
    before, steps = store.count, 0
    store.resize(1 << 20)
    while not store.shrink():
        assert not store.put(entry("http://h/new"))
        assert before - store.count < 1000
        before = store.count
        steps += 1
    assert steps > 5
    assert store.size <= 1 << 20
    assert store.put(entry("http://h/new"))


def test_the_same_budget_again_forgets_nothing_of_what_was_learnt() -> None:
    store = memory()
    ghosts = store._young.ghosts  # noqa: SLF001 - nothing else tells soon
    store.resize(store.budget)
    assert store._young.ghosts is ghosts  # noqa: SLF001


def test_a_large_entry_finds_room_among_many_that_were_asked_for_without_a_long_walk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = memory(1 << 23)
    number = 0
    while store.size + 2 * UNIT < store.budget:
        store.put(entry(f"http://h/{number}"))
        number += 1
    found(store, [f"http://h/{n}" for n in range(number)])
    looked = 0

    def counted(subject: Entry) -> int:
        nonlocal looked
        looked += 1
        return cost_of(subject)

    monkeypatch.setattr(module, "cost_of", counted)
    assert store.put(entry("http://h/large", size=1 << 22))
    assert looked < 2 * (number - store.count)


def test_a_smaller_budget_is_kept_and_a_larger_one_used() -> None:
    store = memory(5 * UNIT)
    for key in "abcde":
        store.put(entry(key))
    shrunk(store, 2 * UNIT)
    assert (store.count, found(store, "abcde")) == (2, ["d", "e"])
    store.resize(3 * UNIT)
    store.put(entry("f"))
    assert store.count == 3
    for _ in range(2):
        shrunk(store, 0)
        assert (store.count, store.size) == (0, 0)
        assert not store.put(entry("g"))
    store.resize(3 * UNIT)
    assert store.put(entry("g"))


# -- whatever happens


KEYS: Final = [f"http://h/{name}" for name in "abcdefgh"]
VARIES: Final[list[Headers]] = [(), ENGLISH_ONLY, (("accept-language", "fr"),), XS, (*ENGLISH_ONLY, *XS)]
ASKING: Final[list[Headers]] = [(), ENGLISH, FRENCH, (("X", "x"),), (*ENGLISH, ("X", "x"))]
keys, varies, asking = st.sampled_from(KEYS), st.sampled_from(VARIES), st.sampled_from(ASKING)


class Budget(RuleBasedStateMachine):
    """Puts, look-ups, purges, scans and changes of the budget in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log = InvalidationLog()
        self.memory = Memory(8 * UNIT, self.log)
        self.now = AT
        self.scanned = 0
        self.held: dict[tuple[str, Headers], Entry] = {}  # put last; it may be gone

    @rule(
        key=keys,
        vary=varies,
        size=st.sampled_from([0, 900, 900, 5000, 50_000]),
        tag=st.sampled_from("st"),
        late=st.booleans(),
        ago=st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0]),
    )
    def put(self, key: str, vary: Headers, size: int, tag: str, late: bool, ago: float) -> None:
        self.now += 1
        seq, at = self.log.position - late * (self.log.position > 0), self.now - ago
        new = tagged(entry(key, size=size, vary=vary, at=at, seq=seq), tag)
        before = self._stored(key, vary)
        done = self.memory.put(new)
        if before is not None and (before.stored_at > at or before.seq > seq):
            assert not done, "an older fetch never overwrites a newer one"
            assert self._stored(key, vary) is before
        if done:
            self.held[key, vary] = new
            assert self._stored(key, vary) is new

    @rule(key=keys, asked=asking)
    def find(self, key: str, asked: Headers) -> None:
        fitting = [
            kept
            for vary in VARIES
            if (kept := self._stored(key, vary)) is not None
            and selects(vary, fold(asked))
            and self.log.judge(kept, self.held[key, vary].seq) is not None
        ]
        got = self.memory.find(key, request(asked), AT)
        assert (got is None) is (not fitting)
        if got is not None:
            assert got.key == key
            assert got.stored_at == max(kept.stored_at for kept in fitting), "the newest wins"
            assert got.rest is self.held[key, got.vary].rest

    @rule(key=keys, asked=asking, after=st.sampled_from([0.0, 30.0, 59.0, 60.0, 61.0]))
    def fresh(self, key: str, asked: Headers, after: float) -> None:
        """What the short way gives is what the long one gives; and behind that it gives all it may."""
        now, fields = self.now + after, fold(asked)
        short = self.memory.fresh(key, fields, now)
        long = self.memory.find(key, request(asked), AT)
        assert short is None or short is long
        usable = long if long is not None and now < long.fresh_until else None
        assert short in (None, usable)
        assert self.memory.fresh(key, fields, now) is usable

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        key, vary = data.draw(st.sampled_from(sorted(self.held)))
        self.memory.discard(self.held[key, vary])
        assert self._stored(key, vary) is None

    @rule(count=st.integers(1, 12), asked=st.booleans())
    def scan(self, count: int, asked: bool) -> None:
        """Some that are never put again."""
        for _ in range(count):
            self.scanned += 1
            new = entry(f"http://h/scan/{self.scanned}", at=self.now, seq=self.log.position)
            if self.memory.put(new):
                self.held[new.key, ()] = new
                assert not asked or self.memory.fresh(new.key, {}, self.now) is new

    @rule(tag=st.sampled_from("st"), soft=st.booleans())
    def purge(self, tag: str, soft: bool) -> None:
        self.log.append([(Kind.TAG, tag)], self.now, soft=soft)

    @rule(units=st.integers(0, 12))
    def resize(self, units: int) -> None:
        shrunk(self.memory, units * UNIT)

    @invariant()
    def sound(self) -> None:
        """The budget holds; size and count are those of what is really there, found by the keys alone."""
        assert 0 <= self.memory.size <= self.memory.budget
        there = [kept for key, vary in self.held if (kept := self._stored(key, vary)) is not None]
        assert self.memory.count == len(there)
        assert self.memory.size == sum(map(cost_of, there))
        assert {key for key in KEYS if self.memory.holds(key)} == {kept.key for kept in there} & set(KEYS)

    @invariant()
    def chained(self) -> None:
        """Every entry waits in one queue, and the variants of a key stand in the order of their age."""
        assert 0 <= self.memory._target <= self.memory.budget  # noqa: SLF001 - what must hold of it is not told outside
        waiting = []
        for queue in (self.memory._young, self.memory._main):  # noqa: SLF001
            slots = []
            slot = queue.newest
            while slot is not None:
                assert slot.queue is queue
                assert (slot.older.newer if slot.older else queue.oldest) is slot
                slots.append(slot)
                slot = slot.older
            assert (queue.count, queue.size) == (len(slots), sum(cost_of(one.entry) for one in slots))
            waiting += slots
        found_by_key = []
        for shard in self.memory._shards:  # noqa: SLF001
            for key, first in shard.items():
                variants = list(module._siblings(first))  # noqa: SLF001
                assert {one.entry.key for one in variants} == {key}
                assert len({one.entry.vary for one in variants}) == len(variants)
                ages = [one.entry.stored_at for one in variants]
                assert ages == sorted(ages, reverse=True)
                found_by_key += variants
        assert len(waiting) == len(found_by_key)
        assert set(map(id, waiting)) == set(map(id, found_by_key))

    def _stored(self, key: str, vary: Headers) -> Entry | None:
        """What is there; a look-up would mark it as asked for."""
        for slot in module._siblings(self.memory._first(key)):  # noqa: SLF001
            if slot.entry.vary == vary:
                return slot.entry
        return None


Budget.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestBudget = Budget.TestCase


@pytest.mark.parametrize("visits", [0, 1])
def test_thousands_of_puts_later_the_size_is_still_exact(visits: int) -> None:
    store = memory(50 * UNIT)
    for number in range(3000):
        store.put(entry(str(number % 97), size=number % 900, at=AT + number))
        for _ in range(visits):
            store.find(str(number % 31), request(), AT)
        assert store.size <= store.budget
    for number in range(97):
        kept = store.find(str(number), request(), AT)
        if kept is not None:
            store.discard(kept)
    assert (store.count, store.size) == (0, 0)


def test_what_was_purged_gives_its_memory_back_without_being_asked_for() -> None:
    log = InvalidationLog()
    store = Memory(1 << 24, log)
    for number in range(1000):
        plain = entry(f"http://h/{number}")
        assert store.put(tagged(plain, "even") if number % 2 == 0 else plain)
    before = store.size
    log.append([(Kind.TAG, "even")], AT)
    walk = store.reclaim()
    next(walk)
    assert 500 < store.count < 1000, "a little at each step"
    for number in range(100):  # what is done between two steps is not undone by the next
        store.put(entry(f"http://h/new{number}", seq=log.position))
        store.discard(entry(f"http://h/{2 * number + 1}"))
    for _ in walk:
        pass
    assert store.count == 500
    assert store.size < before * 0.55
    assert len(found(store, [f"http://h/{number}" for number in range(0, 1000, 2)])) == 0
    assert len(found(store, [f"http://h/new{number}" for number in range(100)])) == 100


def test_a_walk_leaves_what_a_soft_record_made_stale() -> None:
    log = InvalidationLog()
    store = Memory(1 << 24, log)
    store.put(tagged(entry(), "soft"))
    log.append([(Kind.TAG, "soft")], AT, soft=True)
    assert list(store.reclaim()) == []
    stale = store.find("http://h/", request(), AT)
    assert stale is not None
    assert stale.fresh_until <= AT


def test_a_look_at_all_variants_changes_nothing() -> None:
    log = InvalidationLog()
    store = Memory(20 * UNIT, log)
    old, new = entry(vary=(("x", "1"),)), entry(vary=(("x", "2"),), at=AT + 1)
    store.put(old)
    store.put(new)
    log.append([(Kind.ALL, "")], AT)
    assert [(lying.entry, lying.checked, lying.asked) for lying in store.variants(old.key)] == [
        (new, 0, False),
        (old, 0, False),
    ]
    assert store.count == 2, "what is gone is removed by those who ask for it"
    assert store.variants("http://h/other") == ()


def test_a_look_tells_what_was_asked_for() -> None:
    store, kept = memory(), entry()
    store.put(kept)
    store.find(kept.key, request(), AT)
    assert [lying.asked for lying in store.variants(kept.key)] == [True]
