"""Heads that were read before: what is kept, for whom, and how much of it."""

import gc
import tracemalloc

import pytest

from proxy.flow import heads as module
from proxy.flow.heads import HEADS, LONG, Heads
from proxy.rules.limits import Limits
from proxy.rules.message import Request
from proxy.rules.wire import Refused
from tests.rules.build import HOST, raw_head

LIMITS = Limits()


class Looked:
    """What is found out of a request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.plain = request.simple
        self.logged = b""


class Read:
    """Heads, and how often one had to be looked at."""

    def __init__(self) -> None:
        self.times = self.collections = 0
        self.trusted: list[bool] = []
        self.heads = Heads(self._look, self._collect)

    def _look(self, request: Request, *, trusted: bool) -> Looked:
        self.trusted.append(trusted)
        self.times += 1
        return Looked(request)

    def _collect(self) -> None:
        self.collections += 1

    def __call__(self, raw: bytes, scheme: str = "http", *, trusted: bool = False, limits: Limits = LIMITS) -> Looked:
        return self.heads.read(raw, scheme, trusted=trusted, limits=limits)


def test_a_head_is_looked_at_twice_and_then_known() -> None:
    read = Read()
    first, *others = [read(raw_head(HOST)) for _ in range(5)]
    assert read.times == 2
    assert len({id(other) for other in others}) == 1
    assert first.request == others[0].request


def test_each_kind_of_connection_reads_for_itself() -> None:
    read, raw = Read(), raw_head(HOST, "X-Forwarded-Proto: https")
    kinds = [(scheme, trusted) for scheme in ("http", "https") for trusted in (False, True)]
    for _ in range(4):
        schemes = [read(raw, scheme, trusted=trusted).request.scheme for scheme, trusted in kinds]
        assert schemes == ["http", "https", "https", "https"]
    assert read.times == 2 * len(kinds)


def test_what_is_known_is_what_connections_of_that_kind_are_given() -> None:
    read, raw = Read(), raw_head(HOST)
    known = read.heads.known("http", trusted=False)
    assert known is read.heads.known("http", trusted=False)
    for _ in range(2):
        read(raw)
    assert known.recent[raw] is read(raw)
    assert raw not in read.heads.known("https", trusted=False).recent
    assert raw not in read.heads.known("http", trusted=True).recent


def test_forgetting_makes_every_head_and_every_field_be_read_anew() -> None:
    read, raw = Read(), raw_head(HOST, "X: 1")
    known = read.heads.known("http", trusted=False)
    for _ in range(3):
        read(raw)
    read.heads.forget()
    assert known is read.heads.known("http", trusted=False), "connections hold it"
    with pytest.raises(Refused):
        read(raw, limits=Limits(max_headers=1))
    read(raw)
    assert read.times == 3


@pytest.mark.parametrize(("size", "times"), [(LONG, 2), (LONG + 1, 6)], ids=["as long as may be", "too long"])
def test_long_heads_are_read_every_time_and_not_kept(size: int, times: int) -> None:
    read = Read()
    raw = raw_head(HOST, "X: " + "x" * (size - len(raw_head(HOST, "X: "))))
    assert len(raw) == size
    for _ in range(6):
        assert len(read(raw).request.fields["x"]) > LONG // 2
    assert read.times == times
    assert (raw in read.heads.known("http", trusted=False).recent) is (times == 2)
    assert len(read.heads._sections.recent) == (times == 2)  # noqa: SLF001 - nothing else tells


def test_what_is_refused_is_refused_every_time() -> None:
    read = Read()
    for _ in range(4):
        with pytest.raises(Refused):
            read(raw_head(HOST, "A : b"))
    assert (read.times, read.heads.known("http", trusted=False).recent) == (0, {})


def test_a_flood_of_heads_that_never_come_again_keeps_none_of_them_and_pushes_none_out() -> None:
    read, hot = Read(), raw_head(HOST)
    for _ in range(2):
        read(hot)
    for number in range(20_000):
        read(raw_head(HOST, line=f"GET /{number} HTTP/1.1"))
    assert list(read.heads.known("http", trusted=False).recent) == [hot]


@pytest.mark.parametrize("targets", [1, 9], ids=["fields of their own", "fields of a few"])
def test_what_is_kept_of_heads_weighs_what_it_is_said_to(targets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever clients send: many short fields are the worst, and new ones for every head or every few."""
    room = HEADS // 16
    monkeypatch.setattr(module, "HEADS", room)
    monkeypatch.setattr(module, "SECTIONS", room // 4)
    read, limits = Read(), Limits(max_headers=100)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1500):
            fields = [f"{number}-{field}: {field}" for field in range(90)]
            for target in range(targets):
                raw = raw_head(HOST, *fields, line=f"GET /{target} HTTP/1.1")
                for _ in range(3):
                    read(raw, limits=limits)
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert room < kept < 3.5 * room, "two generations, a third being freed, and the sections"


def test_where_as_many_heads_are_freed_as_are_kept_the_collector_has_few_to_walk_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It counts what is made less what is freed, so by itself it would hardly ever look."""
    monkeypatch.setattr(module, "HEADS", 200_000)
    monkeypatch.setattr(module, "SECTIONS", 200_000)
    walked: list[int] = []

    def collect() -> None:
        walked.append(len(gc.get_objects(0)) + len(gc.get_objects(1)))
        gc.collect()

    heads = Heads(lambda request, **_: Looked(request), collect)
    gc.collect()
    for number in range(1000):
        raw = raw_head(HOST, *[f"X-{field}: {number}" for field in range(10)])
        for _ in range(2):
            heads.read(raw, "http", trusted=False, limits=LIMITS)
    assert max(walked) < 5_000


def test_heads_that_are_not_kept_need_no_collection() -> None:
    read = Read()
    for number in range(1000):
        read(raw_head(HOST, f"X-Request-Id: {number}"))
    assert read.collections == 0
