"""The invalidation log as this instance has applied it: who is still valid?

Every invalidation is a record with a number. An entry knows the number its filler had applied
when its fetch began, so whatever came later and matches it wins, however the two raced. The same
question guards what is stored, what a fetch in the air is about to store, and who may join it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, Protocol

from proxy.rules.freshness import distrust, soften
from proxy.rules.keys import short
from proxy.rules.message import Entry

MAX_MARKS: Final = 100_000  # (kind, value) pairs remembered, about 20 MiB; beyond it the oldest become the floor


@unique
class Kind(Enum):
    """What a record's value names."""

    URL = "url"  # scheme://host/target, as keyed
    TARGET = "target"  # /target on every scheme and host
    PREFIX = "prefix"  # the same two forms, cut at segment bounds
    HOST = "host"
    TAG = "tag"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Record:
    """One invalidation. Soft ones make stale, hard ones make gone. `at` is monotonic seconds."""

    epoch: str
    n: int
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

    @property
    def epoch(self) -> str:
        """Of the log when its fetch began."""
        ...


@dataclass(slots=True)
class _Mark:
    hard: int = 0
    soft: int = 0
    soft_at: float = 0.0


class InvalidationLog:
    """The newest hard and soft record per (kind, value), in bounded memory.

    `n` is the last record applied; comparing it is all that a hit pays. `floor`: what was
    applied at or before it is no longer known in detail.
    """

    __slots__ = ("_marks", "_prefixes", "epoch", "floor", "n")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.n = 0
        self.floor = 0
        self._marks: OrderedDict[tuple[Kind, str], _Mark] = OrderedDict()
        self._prefixes = 0  # marks of that kind: without any, no path is cut up

    def append(self, targets: Iterable[tuple[Kind, str]], now: float, *, soft: bool = False) -> int:
        """Write and apply one record per target; returns the last number."""
        for kind, value in targets:
            self.apply(Record(self.epoch, self.n + 1, kind, value, soft, now))
        return self.n

    def apply(self, record: Record) -> None:
        """Take note of the next record. Nothing is searched: entries find out when they are asked for."""
        key = (record.kind, short(record.value))
        mark = self._marks.pop(key, None)
        if mark is None:
            mark = _Mark()
            self._prefixes += record.kind is Kind.PREFIX
        self._marks[key] = mark
        if record.soft:
            mark.soft, mark.soft_at = record.n, record.at
        else:
            mark.hard = record.n
        self.n = record.n
        if len(self._marks) > MAX_MARKS:
            (kind, _), oldest = self._marks.popitem(last=False)
            self._prefixes -= kind is Kind.PREFIX
            self.floor = max(self.floor, oldest.hard, oldest.soft)

    def overtaken(self, subject: Subject, since: int) -> bool:
        """Whether any record after number `since` touches the subject, or might."""
        if since == self.n and subject.epoch == self.epoch:
            return False
        if since < self.floor or subject.epoch != self.epoch:
            return True
        return any(mark.hard > since or mark.soft > since for mark in self._matching(subject))

    def judge(self, entry: Entry, since: int) -> Entry | None:
        """The entry in the light of the records after `since`: itself, made stale, distrusted, or None for gone."""
        if since == self.n and entry.epoch == self.epoch:
            return entry
        marks = list(self._matching(entry))
        if any(mark.hard > since for mark in marks):
            return None
        if since < self.floor or entry.epoch != self.epoch:
            return distrust(entry)
        soft = max((mark.soft_at for mark in marks if mark.soft > since), default=None)
        return entry if soft is None else soften(entry, soft)

    def _matching(self, subject: Subject) -> Iterator[_Mark]:
        for kind, value in self._names(subject):
            mark = self._marks.get((kind, short(value)))
            if mark is not None:
                yield mark

    def _names(self, subject: Subject) -> Iterator[tuple[Kind, str]]:
        """Everything a record could call the subject by."""
        target = subject.url.index("/", subject.url.index("://") + 3)
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


def _prefixes(path: str) -> Iterator[str]:
    """The path's own prefixes at segment bounds, `/` and the whole included."""
    yield "/"
    at = path.find("/", 1)
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)
    if len(path) > 1:
        yield path.removesuffix("/")
