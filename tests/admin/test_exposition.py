"""Numbers as text: what Prometheus' parsers read is what there was, and nobody waits long while it is written."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Final

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from proxy.admin.exposition import written
from proxy.admin.families import FAMILIES, Kind, Ledger, Snapshot
from proxy.admin.reading import read
from proxy.flow.tally import BOUNDS
from tests.admin.numbers import sources

HOSTILE: Final = 'a"b\\c\nd{e="f"} 1 é\u2028'
FORMATS: Final = pytest.mark.parametrize("form", ["text", "OpenMetrics"])


async def parsed(snapshot: Snapshot, form: str, *, several: bool = False) -> dict[str, Metric]:
    """The families by the names that their numbers have."""
    text = (await written(snapshot, several=several, open_metrics=form == "OpenMetrics")).decode()
    families = open_metrics(text) if form == "OpenMetrics" else plain_text(text)  # type: ignore[no-untyped-call]
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in families}


def samples(snapshot: Snapshot, name: str, *, several: bool = False) -> Iterator[tuple[str, dict[str, str], float]]:
    """What a family should come to."""
    family = FAMILIES[name]
    names = (*family.labels, "worker") if several and family.each else family.labels
    for values, value in snapshot[name]:
        labels = dict(zip(names, values, strict=True))
        if family.kind is not Kind.HISTOGRAM:
            yield name, labels, value
            continue
        counts, total = value
        for number, limit in enumerate([*map(str, BOUNDS), "+Inf"]):
            yield f"{name}_bucket", {**labels, "le": limit}, sum(counts[: number + 1])
        yield f"{name}_count", labels, sum(counts)
        yield f"{name}_sum", labels, total


@FORMATS
@pytest.mark.parametrize("several", [False, True], ids=["one process", "several"])
async def test_every_number_is_read_as_it_was(form: str, several: bool) -> None:
    snapshot = read(sources(3))
    if several:
        snapshot = Ledger().merged({(1, 11): json.loads(json.dumps(snapshot)), (2, 12): snapshot}, [])
    found = await parsed(snapshot, form, several=several)
    assert found.keys() == FAMILIES.keys()
    for name, family in found.items():
        assert (family.type, family.documentation) == (FAMILIES[name].kind.value, FAMILIES[name].help)
        assert [(s.name, s.labels, s.value) for s in family.samples] == list(samples(snapshot, name, several=several))


@FORMATS
async def test_whatever_a_label_is_called_it_stays_one_label(form: str) -> None:
    found = await parsed({"readthrough_sent_bytes_total": [((HOSTILE, "hit"), 5)]}, form)
    (sample,) = found["readthrough_sent_bytes_total"].samples
    assert (sample.labels, sample.value) == ({"route": HOSTILE, "cache": "hit"}, 5)


@FORMATS
@pytest.mark.parametrize("value", [0, 1 << 53, 0.1, 1e-9, 1e22, float("inf")])
async def test_numbers_of_any_size_are_read_exactly(form: str, value: float) -> None:
    found = await parsed({"readthrough_log_lag_seconds": [((), value)]}, form)
    assert found["readthrough_log_lag_seconds"].samples[0].value == value


def complaints(families: dict[str, Metric]) -> Iterator[str]:
    """What `promtool check metrics` looks for (prometheus/client_golang, testutil/promlint)."""
    units = "milliseconds|microseconds|nanoseconds|minutes|hours|days|weeks|bits|kilobytes|megabytes|gigabytes|percent"
    short = "s|ms|us|ns|sec|b|kb|mb|gb|tb|pb|m|h|d"
    for name, family in families.items():
        if not family.documentation:
            yield f"{name} has no help"
        if name.endswith("_total") is not (family.type == "counter"):
            yield f"{name} is a {family.type}"
        if family.type != "histogram" and re.search(r"_(bucket|count|sum)$", name):
            yield f"{name} looks like a part of a histogram"
        if re.search(r"counter|gauge|histogram|summary", name):
            yield f"{name} says its type"
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            yield f"{name} is not in snake case"
        if re.search(rf"_({units}|{short})(_|$)", name):
            yield f"{name} has no base unit"
        for sample in family.samples:
            for label in sample.labels:
                if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", label):
                    yield f"{name} has a label {label}"


@FORMATS
async def test_the_lint_is_clean(form: str) -> None:
    found = await parsed(read(sources(2)), form)
    assert list(complaints(found)) == []
    assert all("\n" not in family.help and "\\" not in family.help for family in FAMILIES.values())


async def test_the_lint_finds_what_it_looks_for() -> None:
    wrong = ["readthrough_a", "readthrough_b_total", "readthrough_latency_ms", "readthrough_gauge", "readthrough:c"]
    text = "# TYPE readthrough_a counter\n# HELP readthrough_a a\n" + "".join(f"{name} 1\n" for name in wrong[1:])
    said = list(complaints({family.name: family for family in plain_text(text)}))
    assert [name for name in wrong if not any(name in line for line in said)] == []


async def test_only_routes_make_more_series() -> None:
    few, many = await parsed(read(sources(1)), "text"), await parsed(read(sources(11)), "text")
    grown = {name for name, family in many.items() if len(family.samples) > len(few[name].samples)}
    assert grown == {name for name, family in FAMILIES.items() if "route" in family.labels}


async def test_others_have_their_turn_while_it_is_written() -> None:
    snapshot = read(sources(50))
    turns = 0
    task = asyncio.create_task(written(snapshot, several=False, open_metrics=False))
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    lines = (await task).count(b"\n")
    assert lines > 3_000
    assert turns > lines // 2_000
