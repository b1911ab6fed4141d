"""The invalidation log: what a record matches, and what it does to what is stored."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.edges.memory import Memory
from proxy.flow import invalidation
from proxy.flow.invalidation import InvalidationLog, Kind, Record
from proxy.rules.message import Entry, Headers
from tests.flow.kit import request
from tests.rules.build import bare

AT: Final = 1000.0


def entry(
    url: str = "http://h/a/b?c=/d",
    tags: tuple[str, ...] = (),
    *,
    seq: int = 0,
    at: float = AT,
    vary: Headers = (),
    body: bytes = b"",
) -> Entry:
    """Fresh for 60 s, usable for 60 more."""
    return bare(url, body, tags=tags, seq=seq, at=at, vary=vary, window=60.0)


@contextmanager
def marks(most: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "MAX_MARKS", most)
        yield


@pytest.mark.parametrize(
    ("kind", "value", "matches"),
    [
        (Kind.URL, "http://h/a/b?c=/d", True),
        (Kind.URL, "http://h/a/b", False),
        (Kind.URL, "https://h/a/b?c=/d", False),
        (Kind.TARGET, "/a/b?c=/d", True),
        (Kind.TARGET, "/a/b", False),
        (Kind.PREFIX, "/", True),
        (Kind.PREFIX, "/a", True),
        (Kind.PREFIX, "/a/b", True),
        (Kind.PREFIX, "http://h/", True),
        (Kind.PREFIX, "http://h/a", True),
        (Kind.PREFIX, "http://h/a/b", True),
        (Kind.PREFIX, "https://h/a", False),
        (Kind.PREFIX, "http://i/a", False),
        (Kind.PREFIX, "/a/", False),
        (Kind.PREFIX, "/a/b/c", False),
        (Kind.PREFIX, "/a/b?c=", False),
        (Kind.HOST, "h", True),
        (Kind.HOST, "i", False),
        (Kind.TAG, "t", True),
        (Kind.TAG, "T", False),
        (Kind.ALL, "", True),
    ],
)
def test_what_a_record_matches(kind: Kind, value: str, matches: bool) -> None:
    subject = entry(tags=("s", "t"))
    log = InvalidationLog()
    log.append([(kind, value)], AT + 1)
    assert log.overtaken(subject, 0) is matches
    assert (log.judge(subject, 0) is None) is matches
    assert log.judge(subject, 1) is subject, "what came before it was stored is nothing to it"


@pytest.mark.parametrize(
    ("path", "prefix", "matches"),
    [
        ("/", "/", True),
        ("/a/", "/a", True),
        ("/ab", "/a", False),
        ("//a", "/", True),
        ("/a//b", "/a", True),
        ("/a;x/b", "/a", False),
    ],
)
def test_a_prefix_is_cut_at_segment_bounds(path: str, prefix: str, matches: bool) -> None:
    log = InvalidationLog()
    log.append([(Kind.PREFIX, prefix)], AT)
    assert log.overtaken(entry(f"http://h{path}"), 0) is matches


def test_hosts_that_look_like_addresses_are_hosts() -> None:
    log = InvalidationLog()
    log.append([(Kind.PREFIX, "http://[::1]:8080/a"), (Kind.HOST, "[1:2]")], AT)
    assert log.judge(entry("http://[::1]:8080/a/b"), 0) is None
    assert log.judge(entry("http://[1:2]/"), 0) is None


def test_every_record_of_our_own_has_the_next_position() -> None:
    log = InvalidationLog()
    log.append([(Kind.ALL, ""), (Kind.HOST, "h")], AT)
    assert log.position == 2
    log.append([], AT)
    assert log.position == 2
    log.append([(Kind.ALL, "")], AT, soft=True)
    assert log.position == 3


def test_a_soft_record_makes_stale_from_its_time_on_and_no_window_longer() -> None:
    log = InvalidationLog()
    log.append([(Kind.ALL, "")], AT + 10, soft=True)
    judged = log.judge(entry(), 0)
    assert judged is not None
    assert judged.fresh_until == AT + 10
    assert (judged.stale_until, judged.error_until, judged.lost_until) == (AT + 70,) * 3
    assert log.overtaken(entry(), 0)


def test_a_soft_record_leaves_what_was_stale_before_it_as_it_was() -> None:
    log, subject = InvalidationLog(), entry()
    log.append([(Kind.ALL, "")], AT + 80, soft=True)
    assert log.judge(subject, 0) == subject


def test_a_later_soft_record_does_not_forgive_an_earlier_hard_one() -> None:
    log = InvalidationLog()
    log.append([(Kind.URL, entry().url)], AT)
    log.append([(Kind.URL, entry().url)], AT, soft=True)
    assert log.judge(entry(), 0) is None


def apply(log: InvalidationLog, number: int, kind: Kind = Kind.ALL, value: str = "", *, soft: bool = False) -> None:
    log.apply(Record(kind, value, soft, AT), number)


def is_distrusted(judged: Entry | None) -> bool:
    return judged is not None and judged.terms.distrusted and judged.lost_until <= AT


def shared(number: int = 7) -> InvalidationLog:
    """A log that has heard of a shared one."""
    log = InvalidationLog()
    log.restart("E", number)
    return log


def test_what_is_older_than_the_shared_log_is_distrusted_when_it_is_heard_of() -> None:
    log = InvalidationLog()
    before = log.position
    log.restart("E", 7)
    assert is_distrusted(log.judge(entry(), before))
    assert log.overtaken(entry(), before)
    assert log.place(before) is None
    assert log.judge(subject := entry(), log.position) is subject


def test_positions_of_the_shared_log_are_told_and_understood() -> None:
    log = shared(7)
    for number in (8, 9):
        apply(log, number, Kind.HOST, "i")
        assert log.place(log.position) == ("E", number)
        assert log.at("E", number) == log.position
    assert log.at("F", 9) == -1


def test_a_record_of_our_own_lies_between_two_of_the_shared_log() -> None:
    log = shared(7)
    before = log.position
    log.append([(Kind.ALL, "")], AT)
    assert log.judge(entry(), before) is None
    assert log.place(log.position) == ("E", 7), "others know nothing of it"
    assert log.judge(entry(), log.at("E", 7)) is None, "and what they have may be from before it"
    after = log.position
    assert log.judge(subject := entry(), after) is subject
    apply(log, 8, Kind.HOST, "i")
    assert log.judge(subject, after) is subject
    assert log.place(log.position) == ("E", 8)


def test_an_older_number_counts_from_there() -> None:
    log = shared(7)
    apply(log, 8, Kind.HOST, "h")
    apply(log, 9, Kind.HOST, "i")
    assert log.judge(entry(), log.at("E", 7)) is None
    assert log.judge(subject := entry(), log.at("E", 8)) is subject


def test_what_lies_ahead_cannot_be_judged_yet() -> None:
    log = shared(7)
    assert is_distrusted(log.judge(entry(), log.at("E", 8)))
    assert log.overtaken(entry(), log.at("E", 8))


def test_behind_a_gap_everything_from_before_is_distrusted_and_what_came_later_is_not() -> None:
    log = shared(7)
    before = log.position
    log.gap(20)
    assert is_distrusted(log.judge(entry(), before))
    assert is_distrusted(log.judge(entry(), log.at("E", 19)))
    assert log.judge(subject := entry(), log.at("E", 20)) is subject
    apply(log, 21, Kind.HOST, "i")
    assert log.place(log.position) == ("E", 21)


def test_another_epoch_distrusts_what_was_and_may_count_from_anywhere() -> None:
    log = shared(700)
    apply(log, 701, Kind.HOST, "i")
    before = log.position
    log.restart("F", 3)
    assert log.position > before
    assert is_distrusted(log.judge(entry(), before))
    assert log.place(before) is None
    apply(log, 4, Kind.HOST, "h")
    assert log.judge(entry(), log.at("F", 3)) is None
    assert log.at("E", 701) == -1
    assert log.judge(entry(), -1) is None, "the record matches, whatever else is unknown"
    assert is_distrusted(log.judge(entry("http://j/"), -1))


def test_what_is_distrusted_is_gone_where_the_operator_wants_it_so() -> None:
    log = InvalidationLog(drop=True)
    before = log.position
    log.restart("E", 7)
    assert log.judge(entry(), before) is None


def test_more_records_of_our_own_than_there_is_room_for_distrust_what_was() -> None:
    log = shared(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "STEP", 4)
        log.restart("F", 7)
        before = log.position
        for _ in range(4):
            log.append([(Kind.HOST, "i")], AT)
        assert log.place(log.position) == ("F", 7), "never a number that the shared log has not given"
        assert is_distrusted(log.judge(entry(), before))


def test_after_another_epoch_a_position_from_before_it_is_never_mistaken_for_one_in_it() -> None:
    """Numbers begin anew, positions do not: what was fetched ahead of the change is behind everything in it."""
    log = shared(1_000_000_000)
    before = [log.position]
    log.append([(Kind.HOST, "i")], AT)
    before.append(log.position)
    log.restart("F", 0)
    assert all(log.place(position) is None for position in before)
    assert all(is_distrusted(log.judge(entry(), position)) for position in before)
    apply(log, 1_000_000_000, Kind.HOST, "h")
    assert all(log.judge(entry(), position) is None for position in before)
    assert log.judge(entry(), log.at("F", 1)) is None
    assert log.place(log.position) == ("F", 1_000_000_000), "numbers may leap"


def test_a_gap_does_not_take_back_what_was_applied_of_our_own() -> None:
    log = shared(7)
    before = log.position
    log.append([(Kind.URL, entry().url)], AT)
    log.gap(8)
    assert log.judge(entry(), before) is None, "gone, and not merely distrusted"
    assert log.place(log.position) == ("E", 8)


def test_blind_an_entry_may_be_used_for_a_while_after_it_came() -> None:
    log = InvalidationLog(grace=30.0, shared=True)
    subject = replace(entry(), terms=replace(entry().terms, fetch_seconds=2.0))
    assert log.vouched(subject, AT + 27.9) is subject
    assert is_distrusted(log.vouched(subject, AT + 28.0)), "the fetch began two seconds before it came"
    log.trusted_until = AT + 40
    assert log.vouched(subject, AT + 39) is subject
    assert is_distrusted(log.vouched(subject, AT + 40))


def test_the_store_gives_nothing_that_nobody_vouches_for() -> None:
    log = InvalidationLog(grace=10.0, shared=True)
    store = Memory(1 << 20, log)
    log.trusted_until = AT + 20
    subject = entry()
    assert store.put(subject)
    key = subject.key
    assert store.fresh(key, {}, AT + 19) is subject
    assert store.fresh(key, {}, AT + 20) is None
    assert is_distrusted(store.find(key, request(), AT + 20))
    log.trusted_until = AT + 50
    assert store.fresh(key, {}, AT + 20) is subject, "nothing of it was written into the store"


def test_below_the_floor_everything_is_distrusted_and_overtaken() -> None:
    log = InvalidationLog()
    with marks(2):
        for number in range(3):
            log.append([(Kind.HOST, str(number))], AT)
    assert log.floor == 1
    judged = log.judge(entry(), 0)
    assert judged is not None
    assert judged.terms.always_validate
    assert judged.fresh_until <= AT
    assert log.overtaken(entry(), 0)
    assert log.judge(subject := entry(), 1) is subject
    assert not log.overtaken(subject, 1)


def flood(log: InvalidationLog, records: int, *, most: int, buckets: int = invalidation.BUCKETS) -> None:
    """Purges of as many other URLs."""
    with marks(most), pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "BUCKETS", buckets)
        for number in range(records):
            kind, value = (Kind.TARGET, f"/x/{number}") if number % 2 else (Kind.URL, f"http://h/x/{number}")
            log.append([(kind, value)], AT)


def test_a_flood_of_urls_leaves_what_has_nothing_to_do_with_it_as_it_is() -> None:
    log = InvalidationLog()
    subjects = [entry(f"http://h/{number}") for number in range(1000)]
    flood(log, 2000, most=100)
    judged = [log.judge(subject, 0) for subject in subjects]
    assert log.floor == 0
    touched = sum(now is not was for now, was in zip(judged, subjects, strict=True))
    assert touched < 200, "1,900 of 65,536 buckets, two look-ups each: 58 are to be expected"
    assert sum(log.overtaken(subject, 0) for subject in subjects) == touched


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("record", [(Kind.URL, entry().url), (Kind.TARGET, "/a/b?c=/d")])
def test_what_was_purged_and_forgotten_is_distrusted(record: tuple[Kind, str], soft: bool) -> None:
    log = InvalidationLog()
    log.append([record], AT, soft=soft)
    purged = log.position
    flood(log, 10, most=5)
    assert is_distrusted(log.judge(entry(), purged - 1))
    assert log.overtaken(entry(), purged - 1)


def test_what_shares_a_bucket_with_what_was_forgotten_is_distrusted_and_dropped_where_that_is_wanted() -> None:
    log = InvalidationLog()
    flood(log, 10, most=5, buckets=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "BUCKETS", 1)
        assert is_distrusted(log.judge(entry(), 4))
        assert log.judge(subject := entry(), 5) is subject, "what was forgotten is older"
        log.drop = True
        assert log.judge(entry(), 4) is None


def test_a_long_url_that_was_purged_and_forgotten_is_distrusted() -> None:
    log, subject = InvalidationLog(), entry("http://h/" + "long" * 1000)
    log.append([(Kind.URL, subject.url)], AT)
    flood(log, 10, most=5)
    assert is_distrusted(log.judge(subject, 0))


def test_a_flood_of_urls_makes_no_record_of_another_kind_forgotten() -> None:
    log = InvalidationLog()
    log.append([(Kind.TAG, "t"), (Kind.PREFIX, "/p")], AT)
    flood(log, 50, most=5)
    assert log.judge(entry(tags=("t",)), 0) is None
    assert log.judge(entry("http://h/p/1"), 0) is None
    assert log.floor == 0


def test_without_urls_the_oldest_of_the_others_raise_the_floor() -> None:
    log = InvalidationLog()
    with marks(2):
        log.append([(Kind.URL, "http://h/x"), (Kind.TAG, "s"), (Kind.TAG, "t"), (Kind.TAG, "u")], AT)
    assert log.floor == 2


def test_a_repeated_record_takes_no_more_room_and_a_new_place() -> None:
    log = InvalidationLog()
    with marks(2):
        for host in [*["h"] * 97, "i", "h", "j"]:
            log.append([(Kind.HOST, host)], AT)
    assert (log.position, log.floor) == (100, 98)


def test_a_soft_record_that_is_forgotten_raises_the_floor_too() -> None:
    log = InvalidationLog()
    with marks(1):
        log.append([(Kind.ALL, "")], AT, soft=True)
        log.append([(Kind.HOST, "i")], AT)
    assert log.floor == 1


# -- against a plain list of records and brute force


URLS: Final = ["http://h/a/b?c=/d", "http://h/ab", "https://h/a/", "http://i:81/a", "http://i:81/"]
TAGS: Final = ["s", "t", "u"]
VARY: Final = [(), (("accept-language", "en"),), (("accept-language", "fr"),)]
RECORDS: Final = [
    *((Kind.URL, url) for url in (*URLS[:3], "http://h/x")),
    *((Kind.TARGET, target) for target in ("/", "/a", "/a/b?c=/d")),
    *((Kind.PREFIX, prefix) for prefix in ("/", "/a", "/a/b", "/x", "http://h/", "http://h/a", "http://i:81/a")),
    *((Kind.HOST, host) for host in ("h", "i:81", "i")),
    *((Kind.TAG, tag) for tag in TAGS),
    (Kind.ALL, ""),
]


@dataclass(frozen=True, slots=True)
class _Written:
    n: int
    kind: Kind
    value: str
    soft: bool
    at: float


def _matches(record: _Written, subject: Entry) -> bool:
    scheme, _, rest = subject.url.partition("://")
    host, _, rest = rest.partition("/")
    target, path = f"/{rest}", f"/{rest}".split("?", maxsplit=1)[0]
    match record.kind:
        case Kind.URL:
            return record.value == subject.url
        case Kind.TARGET:
            return record.value == target
        case Kind.HOST:
            return record.value == host
        case Kind.TAG:
            return record.value in subject.tags
        case Kind.ALL:
            return True
        case Kind.PREFIX:
            prefix = record.value.removeprefix(f"{scheme}://{host}")
            return prefix in ("/", path) or path.startswith(f"{prefix}/")


class Truth(RuleBasedStateMachine):
    """The real store over the real log never gives what the plain list says is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.log = InvalidationLog()
        self.memory = Memory(1 << 30, self.log)
        self.written: list[_Written] = []
        self.gone: set[_Written] = set()  # of those, what is not known in detail any more
        self.kept: dict[tuple[str, Headers], Entry] = {}
        self.now, self.most = AT, 0
        self.bodies = 0

    @initialize(most=st.sampled_from([2, 4, 1000]), buckets=st.sampled_from([1, 3, 1 << 16]))
    def start(self, most: int, buckets: int) -> None:
        self.patch.setattr(invalidation, "MAX_MARKS", most)
        self.patch.setattr(invalidation, "BUCKETS", buckets)
        self.most = most

    def teardown(self) -> None:
        self.patch.undo()

    def after(self, subject: Entry) -> list[_Written]:
        return [record for record in self.written if record.n > subject.seq and _matches(record, subject)]

    def forget(self) -> None:
        """Beyond so many names all records of the one that was named longest ago, URLs and targets first."""
        known = {(record.kind, record.value): record for record in self.written if record not in self.gone}
        if len(known) <= self.most:
            return
        oldest = min(known.values(), key=lambda record: (record.kind not in (Kind.URL, Kind.TARGET), record.n))
        self.gone |= {r for r in self.written if (r.kind, r.value) == (oldest.kind, oldest.value)}

    def in_doubt(self, subject: Entry) -> bool:
        """Whether a forgotten record may touch it: one of another kind than URL and target touches everything."""
        target = subject.url[subject.url.index("/", 8) :]
        mine = {invalidation.bucket(Kind.URL, subject.url), invalidation.bucket(Kind.TARGET, target)}
        return any(
            record.kind not in (Kind.URL, Kind.TARGET) or invalidation.bucket(record.kind, record.value) in mine
            for record in self.gone
            if record.n > subject.seq
        )

    @rule(seconds=st.floats(0.5, 40))
    def tick(self, seconds: float) -> None:
        self.now += seconds

    @rule(record=st.sampled_from(RECORDS), soft=st.booleans())
    def write(self, record: tuple[Kind, str], soft: bool) -> None:
        self.log.append([record], self.now, soft=soft)
        self.written.append(_Written(self.log.position, *record, soft, self.now))
        self.forget()

    @rule(
        url=st.sampled_from(URLS),
        tags=st.lists(st.sampled_from(TAGS), max_size=2, unique=True).map(tuple),
        vary=st.sampled_from(VARY),
        ago=st.integers(0, 4),
    )
    def put(self, url: str, tags: tuple[str, ...], vary: Headers, ago: int) -> None:
        """The answer to a fetch that began some records ago."""
        self.bodies += 1
        new = entry(
            url, tags, seq=max(0, self.log.position - ago), at=self.now, vary=vary, body=str(self.bodies).encode()
        )
        overtaken, blind = bool(self.after(new)), self.in_doubt(new)
        old = self.kept.get((url, vary))
        older = old is not None and old.seq > new.seq
        stored = self.memory.put(new)
        assert not (stored and overtaken), "the purge wins"
        assert stored or overtaken or blind or older, "and nothing else does"
        if stored:
            self.kept[url, vary] = new

    @precondition(lambda self: self.kept)
    @rule(url=st.sampled_from(URLS), language=st.sampled_from([(), ("Accept-Language: en",), ("Accept-Language: fr",)]))
    def find(self, url: str, language: tuple[str, ...]) -> None:
        found = self.memory.find(url, request(*language), self.now)
        if found is None:
            for vary in VARY:
                held = self.kept.get((url, vary))
                if held is not None and (not vary or language == (f"Accept-Language: {vary[0][1]}",)):
                    assert any(not record.soft for record in self.after(held)), "valid, and not found"
            return
        original = self.kept[url, found.vary]
        assert found.body == original.body
        self._check(found, original)

    def _check(self, found: Entry, original: Entry) -> None:
        after = self.after(original)
        for until in ("fresh_until", "stale_until", "error_until", "lost_until"):
            assert getattr(found, until) <= getattr(original, until), "no window ever grows"
        if found.terms.always_validate:
            assert found.lost_until <= original.stored_at, "no window applies to what is distrusted"
            assert self.in_doubt(original), "distrusted for no reason"
            return
        assert all(record.soft for record in after), "gone, and served"
        if after:
            assert found.fresh_until <= after[-1].at <= self.now, "stale from the record on"
        else:
            assert found is original

    @invariant()
    def bounded(self) -> None:
        assert self.log.position == len(self.written)
        assert self.log.floor <= self.log.position
        assert len(self.log._urls) + len(self.log._marks) <= self.most  # noqa: SLF001 - memory is bounded


Truth.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTruth = Truth.TestCase


def test_the_records_that_touch_a_subject_are_named() -> None:
    log, subject = InvalidationLog(), entry(tags=("t",))
    assert log.touching(subject, 0) == []
    log.append([(Kind.TAG, "t"), (Kind.PREFIX, "/a")], AT, soft=True)
    log.append([(Kind.URL, subject.url), (Kind.TAG, "other")], AT)
    assert log.touching(subject, 0) == [(Kind.URL, False), (Kind.TAG, True), (Kind.PREFIX, True)]
    assert log.touching(subject, 2) == [(Kind.URL, False)]
    assert log.touching(subject, log.position) == []


def test_a_hard_record_is_not_taken_for_the_soft_one_behind_it() -> None:
    log, subject = InvalidationLog(), entry()
    log.append([(Kind.ALL, "")], AT)
    log.append([(Kind.ALL, "")], AT, soft=True)
    assert log.touching(subject, 0) == [(Kind.ALL, False)]
    assert log.touching(subject, 1) == [(Kind.ALL, True)]
