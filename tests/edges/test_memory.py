"""The store in this process: its budget, its eviction, its variants."""

import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.edges.memory import MAX_VARIANTS, OVERHEAD, Memory, cost_of
from proxy.flow.invalidation import InvalidationLog, Kind
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
    return Memory(budget, InvalidationLog("epoch"))


def found(store: Memory, keys: Iterable[str]) -> list[str]:
    """Which of the keys are there; nothing is asked for by this."""
    return [key for key in keys if store.holds(key)]


def test_what_was_put_is_found_and_what_was_not_is_not() -> None:
    store, kept = memory(), entry()
    assert store.put(kept)
    assert store.find(kept.key, request()) is kept
    assert store.find("http://h/other", request()) is None
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
    """To a hundredth, and in all: dictionaries grow by leaps."""
    store = memory(1 << 30)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            assert store.put(_made(kind, number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= store.size * 1.01


# -- one key


def test_an_older_fetch_never_overwrites_a_newer_one() -> None:
    store = memory()
    new = entry(at=AT + 1)
    assert store.put(new)
    assert not store.put(entry(at=AT))
    assert store.find(new.key, request()) is new


def test_a_fetch_from_before_a_record_never_overwrites_one_from_after_it() -> None:
    log = InvalidationLog("epoch")
    store = Memory(1 << 20, log)
    log.append([(Kind.TAG, "of something else")], AT)
    new = entry(seq=1)
    assert store.put(new)
    assert not store.put(entry(seq=0, at=AT + 1))
    assert store.find(new.key, request()) is new


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
    assert store.find(new.key, request()) is new
    store.discard(new)
    assert (store.find(new.key, request()), store.count, store.size) == (None, 0, 0)


# -- variants


ENGLISH: Final = (("Accept-Language", "en"),)
FRENCH: Final = (("Accept-Language", "fr"),)


def test_each_request_finds_the_variant_it_selects() -> None:
    store = memory()
    english, french = entry(vary=(("accept-language", "en"),)), entry(vary=(("accept-language", "fr"),))
    store.put(english)
    store.put(french)
    assert store.find(english.key, request(ENGLISH)) is english
    assert store.find(english.key, request(FRENCH)) is french
    assert store.find(english.key, request()) is None
    assert store.variant(english.key, request(FRENCH)) == french.vary


def test_of_several_that_fit_the_newest_is_found() -> None:
    store = memory()
    plain, english = entry(), entry(vary=(("accept-language", "en"),), at=AT + 1)
    store.put(plain)
    store.put(english)
    assert store.find(plain.key, request(ENGLISH)) is english
    assert store.find(plain.key, request(FRENCH)) is plain
    newest = entry(at=AT + 2)
    store.put(newest)
    assert store.find(plain.key, request(ENGLISH)) is newest
    assert store.variant(plain.key, request(ENGLISH)) == ()


def test_when_the_newest_is_purged_the_next_that_fits_is_found() -> None:
    log = InvalidationLog("epoch")
    store = Memory(1 << 20, log)
    plain, newer = entry(), tagged(entry(vary=(("accept-language", "en"),), at=AT + 1), "t")
    store.put(plain)
    store.put(newer)
    log.append([(Kind.TAG, "t")], AT + 2)
    assert store.find(plain.key, request(ENGLISH)) is plain
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
    assert [store.find("http://h/", agent) is not None for agent in agents] == [False] * 10 + [True] * MAX_VARIANTS


# -- eviction


def test_without_a_hit_the_oldest_goes_first() -> None:
    store = memory(3 * UNIT)
    keys = list("abcde")
    for key in keys:
        store.put(entry(key))
    assert found(store, keys) == ["c", "d", "e"]
    assert store.evictions == 2


def test_what_was_asked_for_outlives_what_was_not() -> None:
    store = memory(3 * UNIT)
    for key in "abc":
        store.put(entry(key))
    store.find("a", request())
    store.put(entry("d"))
    assert found(store, "abcd") == ["a", "c", "d"]


def test_a_scan_does_not_wash_out_what_is_asked_for_again_and_again() -> None:
    store = memory(10 * UNIT)
    for number in range(1000):
        if not store.find("hot", request()):
            assert number < 10, "it was evicted"
            store.put(entry("hot"))
        store.put(entry(f"scan {number}"))
    assert store.holds("hot")


def test_where_everything_was_asked_for_one_still_goes() -> None:
    store = memory(3 * UNIT)
    for key in "abc":
        store.put(entry(key))
        store.find(key, request())
    assert store.put(entry("d"))
    assert store.count == 3


def test_a_smaller_budget_is_kept_at_once_and_a_larger_one_used() -> None:
    store = memory(5 * UNIT)
    for key in "abcde":
        store.put(entry(key))
    store.resize(2 * UNIT)
    assert (store.count, found(store, "abcde")) == (2, ["d", "e"])
    store.resize(3 * UNIT)
    store.put(entry("f"))
    assert store.count == 3
    store.resize(0)
    assert (store.count, store.size) == (0, 0)
    assert not store.put(entry("g"))


# -- whatever happens


KEYS: Final = [f"http://h/{name}" for name in "abcdefgh"]
LANGUAGES: Final = ["", "en", "fr"]


class Budget(RuleBasedStateMachine):
    """Puts, look-ups, purges and changes of the budget in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.log = InvalidationLog("epoch")
        self.memory = Memory(8 * UNIT, self.log)
        self.now = AT
        self.held: dict[tuple[str, Headers], Entry] = {}

    @rule(
        key=st.sampled_from(KEYS),
        language=st.sampled_from(LANGUAGES),
        size=st.sampled_from([0, 900, 900, 5000, 50_000]),
        tag=st.sampled_from("st"),
        late=st.booleans(),
    )
    def put(self, key: str, language: str, size: int, tag: str, late: bool) -> None:
        self.now += 1
        vary = (("accept-language", language),) if language else ()
        new = tagged(entry(key, size=size, vary=vary, at=self.now, seq=self.log.n - late * (self.log.n > 0)), tag)
        if self.memory.put(new):
            self.held[key, vary] = new
            assert self.memory.find(key, request((("Accept-Language", language),))) is new

    @rule(key=st.sampled_from(KEYS), language=st.sampled_from(LANGUAGES))
    def find(self, key: str, language: str) -> None:
        got = self.memory.find(key, request((("Accept-Language", language),) if language else ()))
        if got is not None:
            assert got.key == key
            assert got.vary in ((), (("accept-language", language),))
            assert got.rest is self.held[key, got.vary].rest

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        self.memory.discard(self.held[data.draw(st.sampled_from(sorted(self.held)))])

    @rule(tag=st.sampled_from("st"), soft=st.booleans())
    def purge(self, tag: str, soft: bool) -> None:
        self.log.append([(Kind.TAG, tag)], self.now, soft=soft)

    @rule(units=st.integers(0, 12))
    def resize(self, units: int) -> None:
        self.memory.resize(units * UNIT)

    @invariant()
    def sound(self) -> None:
        """The budget holds; size and count are those of what is really there, found by the keys alone."""
        assert 0 <= self.memory.size <= self.memory.budget
        there = [held for (key, vary), held in self.held.items() if self._stored(key, vary, held)]
        assert self.memory.count == len(there)
        assert self.memory.size == sum(map(cost_of, there))
        keys = {held.key for held in there}
        assert {key for key in KEYS if self.memory.holds(key)} == keys

    def _stored(self, key: str, vary: Headers, held: Entry) -> bool:
        slot = self.memory._first(key)  # noqa: SLF001 - a look-up would mark it as asked for
        while slot is not None and slot.entry.vary != vary:
            slot = slot.sibling
        return slot is not None and slot.entry.rest is held.rest


Budget.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestBudget = Budget.TestCase


@pytest.mark.parametrize("visits", [0, 1])
def test_thousands_of_puts_later_the_size_is_still_exact(visits: int) -> None:
    store = memory(50 * UNIT)
    for number in range(3000):
        store.put(entry(str(number % 97), size=number % 900, at=AT + number))
        for _ in range(visits):
            store.find(str(number % 31), request())
        assert store.size <= store.budget
    for number in range(97):
        kept = store.find(str(number), request())
        if kept is not None:
            store.discard(kept)
    assert (store.count, store.size) == (0, 0)
