"""The invalidation log as this instance has applied it: who is still valid?

Every invalidation is a record with a position. An entry knows how far its filler had come when its
fetch began, so whatever came later and matches it wins, however the two raced. The same question
guards what is stored, what a fetch in the air is about to store, and who may join it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, Protocol

from proxy.rules.freshness import distrust, soften
from proxy.rules.keys import short
from proxy.rules.message import Entry

STEP: Final = 1 << 20  # positions between two records of a shared log
MAX_MARKS: Final = 100_000  # (kind, value) pairs remembered, about 20 MiB; beyond it the oldest become a floor
BUCKETS: Final = 1 << 16  # floors of single URLs, about 2.5 MiB once there are any


@unique
class Kind(Enum):
    """What a record's value names."""

    URL = "url"  # scheme://host/target, as keyed
    TARGET = "target"  # /target on every scheme and host
    PREFIX = "prefix"  # the same two forms, cut at segment bounds
    HOST = "host"
    TAG = "tag"
    ALL = "all"


Target = tuple[Kind, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One invalidation. Soft ones make stale, hard ones make gone. `at` is monotonic seconds."""

    kind: Kind
    value: str
    soft: bool
    at: float


class Subject(Protocol):
    """What a record can match: an entry, or a fetch that will become one."""

    @property
    def url(self) -> str:
        """As keyed."""
        ...

    @property
    def host(self) -> str:
        """Of the request."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Known so far."""
        ...


@dataclass(slots=True)
class _Mark:
    hard: int = 0
    soft: int = 0
    soft_at: float = 0.0


class InvalidationLog:
    """The newest hard and soft record per (kind, value), in bounded memory.

    Every record has a position, and positions only grow; comparing the last one is all that a hit pays.
    Records of a log that many instances share are numbered there, within its epoch, and lie STEP
    positions apart: room for those that this instance applies on its own, ahead of the shared log or
    without one.

    `floor`: what was applied at or before it is not known in detail. Records of single URLs, of which clients
    can cause any number, never raise it: where there are too many, those of the same hash have a floor of their
    own, and one flood touches no more than shares its buckets. `trusted_until`, in monotonic
    seconds, is how long the shared log vouches for being complete here; behind that an entry may
    be used for `grace` seconds after it came, as a purge may be missed for that long. `drop`: what
    nobody can vouch for is gone, and not validated.
    """

    __slots__ = (
        "_base",
        "_began",
        "_buckets",
        "_marks",
        "_prefixes",
        "_urls",
        "drop",
        "epoch",
        "floor",
        "grace",
        "position",
        "trusted_until",
    )

    def __init__(self, *, grace: float = 0.0, drop: bool = False, shared: bool = False) -> None:
        self.grace, self.drop = grace, drop
        self.trusted_until = 0.0 if shared else float("inf")
        self.epoch = ""  # of the shared log, once it was heard of
        self.position = self.floor = 0
        self._base = self._began = 0  # positions of the shared log's record 0, and of where it was when first heard of
        self._urls: OrderedDict[tuple[Kind, str], _Mark] = OrderedDict()  # of URL and TARGET
        self._marks: OrderedDict[tuple[Kind, str], _Mark] = OrderedDict()  # of the other kinds
        self._buckets: list[int] = []  # position of the last forgotten of `_urls`; a position may exceed 64 bits
        self._prefixes = 0  # marks of that kind: without any, no path is cut up

    def append(self, targets: Iterable[Target], now: float, *, soft: bool = False) -> None:
        """Apply a record per target here and nowhere else."""
        for kind, value in targets:
            if self.epoch and (self.position + 1 - self._base) % STEP == 0:  # the next would lie behind a shared one
                self.restart(self.epoch, (self.position - self._base) // STEP)
            self._apply(Record(kind, value, soft, now), self.position + 1)

    def apply(self, record: Record, number: int) -> None:
        """Apply the shared log's record of that number; those before have been, or lie in a gap."""
        self._apply(record, self._base + number * STEP)

    def restart(self, epoch: str, number: int) -> None:
        """The shared log is another, or is heard of for the first time; it has come to that number. Nothing
        from before can be judged by it.
        """
        self.epoch = epoch
        self._base = (self.position // STEP + 1 - number) * STEP
        self._began = self._base + number * STEP
        self.gap(number)

    def gap(self, number: int) -> None:
        """The shared log's records up to that number cannot be read any more."""
        self.floor = max(self.floor, self._base + number * STEP)
        self.position = max(self.position + 1, self.floor)

    def place(self, position: int) -> tuple[str, int] | None:
        """What others call a position of ours: the shared log's epoch and the last number at or before it; None
        where it was reached before that log was heard of.
        """
        return (self.epoch, (position - self._base) // STEP) if self.epoch and position >= self._began else None

    def at(self, epoch: str, number: int) -> int:
        """The position that others call so; -1 in an epoch that is not ours."""
        return self._base + number * STEP if epoch == self.epoch else -1

    def _apply(self, record: Record, position: int) -> None:
        """Take note of it. Nothing is searched: entries find out when they are asked for."""
        key = (record.kind, short(record.value))
        marks = self._held(record.kind)
        mark = marks.pop(key, None)
        if mark is None:
            mark = _Mark()
            self._prefixes += record.kind is Kind.PREFIX
        marks[key] = mark
        if record.soft:
            mark.soft, mark.soft_at = position, record.at
        else:
            mark.hard = position
        self.position = position
        if len(self._urls) + len(self._marks) > MAX_MARKS:
            self._forget()

    def _forget(self) -> None:
        """The oldest mark, of single URLs as long as there is one."""
        if self._urls:
            (kind, value), oldest = self._urls.popitem(last=False)
            self._buckets = self._buckets or [0] * BUCKETS
            at = bucket(kind, value)
            self._buckets[at] = max(self._buckets[at], oldest.hard, oldest.soft)
        else:
            (kind, _), oldest = self._marks.popitem(last=False)
            self._prefixes -= kind is Kind.PREFIX
            self.floor = max(self.floor, oldest.hard, oldest.soft)

    def _held(self, kind: Kind) -> OrderedDict[tuple[Kind, str], _Mark]:
        return self._urls if kind is Kind.URL or kind is Kind.TARGET else self._marks

    def _unknown(self, subject: Subject, since: int) -> bool:
        """Whether what is behind a position is not all known, as far as it may touch the subject: some is forgotten,
        or the position lies ahead.
        """
        if since < self.floor or since > self.position:
            return True
        if not self._buckets:
            return False
        names = (Kind.URL, subject.url), (Kind.TARGET, subject.url[_target(subject.url) :])
        return any(since < self._buckets[bucket(kind, short(value))] for kind, value in names)

    def overtaken(self, subject: Subject, since: int) -> bool:
        """Whether any record behind a position touches the subject, or might."""
        if since == self.position:
            return False
        if self._unknown(subject, since):
            return True
        return any(mark.hard > since or mark.soft > since for mark in self._matching(subject))

    def judge(self, entry: Entry, since: int) -> Entry | None:
        """The entry in the light of the records behind a position: itself, made stale, distrusted, or None for gone.

        A position that lies ahead was reached by somebody else: what has happened up to there is not known yet.
        """
        if since == self.position:
            return entry
        marks = list(self._matching(entry))
        if any(mark.hard > since for mark in marks):
            return None
        if self._unknown(entry, since):
            return None if self.drop else distrust(entry)
        soft = max((mark.soft_at for mark in marks if mark.soft > since), default=None)
        return entry if soft is None else soften(entry, soft)

    def touching(self, subject: Subject, since: int) -> list[tuple[Kind, bool]]:
        """The kinds of records behind a position that touch the subject, and whether they were soft."""
        marks = [(kind, self._held(kind).get((kind, short(value)))) for kind, value in self._names(subject)]
        return [(kind, m.hard <= since) for kind, m in marks if m is not None and max(m.hard, m.soft) > since]

    def vouched(self, entry: Entry, now: float) -> Entry | None:
        """The entry while nobody says what has been invalidated: itself for a while, then as behind a gap."""
        if now < self.trusted_until or now < entry.stored_at - entry.terms.fetch_seconds + self.grace:
            return entry
        return None if self.drop else distrust(entry)

    def _matching(self, subject: Subject) -> Iterator[_Mark]:
        for kind, value in self._names(subject):
            mark = self._held(kind).get((kind, short(value)))
            if mark is not None:
                yield mark

    def _names(self, subject: Subject) -> Iterator[tuple[Kind, str]]:
        """Everything a record could call the subject by."""
        target = _target(subject.url)
        origin, path = subject.url[:target], subject.url[target:].partition("?")[0]
        yield Kind.ALL, ""
        yield Kind.HOST, subject.host
        yield Kind.URL, subject.url
        yield Kind.TARGET, subject.url[target:]
        for tag in subject.tags:
            yield Kind.TAG, tag
        if self._prefixes:
            for prefix in _prefixes(path):
                yield Kind.PREFIX, prefix
                yield Kind.PREFIX, origin + prefix


def bucket(kind: Kind, value: str) -> int:
    """Of a forgotten mark of that name, as it is remembered. Nobody outside can tell which names share one."""
    return hash((kind, value)) % BUCKETS


def _target(url: str) -> int:
    """Where it begins."""
    return url.index("/", url.index("://") + 3)


def _prefixes(path: str) -> Iterator[str]:
    """The path's own prefixes at segment bounds, `/` and the whole included."""
    yield "/"
    at = path.find("/", 1)
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)
    if len(path) > 1:
        yield path.removesuffix("/")
