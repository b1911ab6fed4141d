"""What is read of a process, and from where."""

import json
import sys

from proxy.admin.families import FAMILIES, Kind
from proxy.admin.reading import read
from proxy.flow.tally import BOUNDS
from tests.admin.numbers import Memory, sources


def test_every_family_is_read_and_fits_its_definition() -> None:
    snapshot = read(sources())
    assert snapshot.keys() == FAMILIES.keys()
    for name, samples in snapshot.items():
        family = FAMILIES[name]
        assert len({tuple(labels) for labels, _ in samples}) == len(samples), f"{name} has the same labels twice"
        for labels, value in samples:
            assert len(labels) == len(family.labels)
            assert all(isinstance(label, str) for label in labels)
            if family.kind is Kind.HISTOGRAM:
                assert len(value[0]) == len(BOUNDS) + 1
            else:
                assert value >= 0


def test_it_survives_its_way_over_a_socket() -> None:
    snapshot = read(sources())
    assert {name: [[list(labels), value] for labels, value in samples] for name, samples in snapshot.items()} == (
        json.loads(json.dumps(snapshot))
    )


def test_nothing_is_counted_twice() -> None:
    snapshot = read(sources())
    requests = sum(value for _, value in snapshot["readthrough_requests_total"])
    durations = sum(sum(value[0]) for _, value in snapshot["readthrough_request_duration_seconds"])
    assert requests == durations == 1007
    assert sum(value for _, value in snapshot["readthrough_sent_bytes_total"]) == 10 * 1000 + 600 + 50
    assert snapshot["readthrough_saved_upstream_seconds_total"] == [(["route 0"], 250.5)]


def test_no_label_says_what_a_client_wrote() -> None:
    assert "BREW" not in str(read(sources()))


def test_reading_takes_the_same_work_however_much_is_stored() -> None:
    def work(memory: Memory) -> int:
        made, calls = sources(50, memory), 0

        def count(_frame: object, event: str, _arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        read(made)  # what is imported or opened for the first time
        sys.setprofile(count)
        try:
            read(made)
        finally:
            sys.setprofile(None)
        return calls

    few, many = work(Memory(count=1)), work(Memory(count=1_000_000))
    assert abs(few - many) <= few // 20
    assert many < 10_000
