"""The names of metrics, and several processes as one."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.admin.families import FAMILIES, Family, Kind, Ledger, Snapshot
from proxy.admin.reading import read
from tests.admin.numbers import sources

MONITORING: Final = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
NAME: Final = re.compile(r"\b(?:readthrough|process)_[a-z_]+")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_names_follow_the_conventions(family: Family) -> None:
    assert re.fullmatch(r"(readthrough|process)(_[a-z]+)+", family.name)
    assert family.name.endswith("_total") is (family.kind is Kind.COUNTER)
    assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|ratio|count|sum|bucket|le)(_|$)", family.name)
    if family.kind is Kind.HISTOGRAM:
        assert family.name.endswith("_seconds")
    assert family.help.endswith(".")
    assert not {"le", "quantile", "worker", "job", "instance", "url", "client"} & set(family.labels)


def expressions(document: Any) -> list[str]:  # noqa: ANN401 - JSON
    if isinstance(document, dict):
        own = [value for key, value in document.items() if key in ("expr", "query") and isinstance(value, str)]
        return own + [found for value in document.values() for found in expressions(value)]
    return [found for value in document for found in expressions(value)] if isinstance(document, list) else []


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
def test_every_metric_and_label_that_is_watched_exists(file: str) -> None:
    text = (MONITORING / file).read_text()
    document = json.loads(text) if file.endswith("json") else yaml.safe_load(text)
    found = expressions(document)
    assert len(found) > 10
    series = {name for name, family in FAMILIES.items() if family.kind is not Kind.HISTOGRAM}
    series |= {
        f"{name}_{part}"
        for name, family in FAMILIES.items()
        if family.kind is Kind.HISTOGRAM
        for part in ("bucket", "count", "sum")
    }
    for expression in found:
        assert set(NAME.findall(expression)) <= series, expression
        assert expression.count("(") == expression.count(")")
        for name, given in re.findall(r"((?:readthrough|process)_[a-z_]+)\{([^}]*)\}", expression):
            family = FAMILIES[name] if name in FAMILIES else FAMILIES[name.rpartition("_")[0]]
            assert {label.rstrip("=!~") for label in re.findall(r"(\w+)[=!]~?\"", given)} <= {*family.labels, "job"}


def test_who_answers_nothing_but_5xx_sets_off_the_same_alert_as_who_does_not_answer() -> None:
    (group,) = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    (rule,) = [rule["expr"] for rule in group["rules"] if rule["alert"] == "ReadthroughUpstreamFailing"]
    failed, _, asked = rule.partition("/ ")
    assert 'readthrough_upstream_responses_total{status="5xx"}' in failed
    # A plus of two sums is nothing where one of them is: an upstream that always answers has no series of errors.
    assert re.search(r"upstream_errors_total\[5m\]\)\s+or\s+rate\(", failed)
    assert "readthrough_upstream_requests_total" in asked


def test_every_family_is_on_the_dashboard_but_for_a_few() -> None:
    text = (MONITORING / "dashboard.json").read_text() + (MONITORING / "alerts.yaml").read_text()
    missing = {name for name in FAMILIES if name not in text and not name.startswith("process_")}
    assert missing == {
        "readthrough_flight_memory_limit_bytes",
        "readthrough_log_applied_total",
        "readthrough_log_gaps_total",
        "readthrough_log_instances",
        "readthrough_log_restarts_total",
        "readthrough_redis_commands_total",
        "readthrough_redis_connects_total",
        "readthrough_upstream_breaker_opened_total",
    }


def test_of_several_processes_what_sums_is_summed_and_the_rest_says_whose_it_is() -> None:
    one, other = json.loads(json.dumps(read(sources()))), read(sources())
    merged = dict(Ledger().merged({(1, 101): one, (2, 102): other}, []))
    assert dict(merged["readthrough_upstream_requests_total"]) == {("api",): 14}
    assert dict(merged["readthrough_memory_entries"]) == {(): 20}
    assert dict(merged["readthrough_log_position"]) == {("1",): 42, ("2",): 42}
    assert dict(merged["readthrough_upstream_breaker_open"]) == {("api", "1"): 0, ("api", "2"): 0}
    ((_, (counts, total)),) = merged["readthrough_upstream_duration_seconds"]
    assert (sum(counts), total) == (2, pytest.approx(0.04))


def small(requests: int, entries: int) -> Snapshot:
    return {
        "readthrough_requests_total": [(("r", "GET", "2xx", "hit"), requests)],
        "readthrough_memory_entries": [((), entries)],
    }


def totals(snapshot: Snapshot) -> tuple[int, int]:
    return (
        sum(value for _, value in snapshot["readthrough_requests_total"]),
        sum(value for _, value in snapshot.get("readthrough_memory_entries", ())),
    )


def test_a_counter_never_falls_when_a_process_dies_or_is_late() -> None:
    ledger = Ledger()
    first, second, third = (1, 101), (2, 102), (1, 103)
    assert totals(ledger.merged({first: small(10, 1), second: small(20, 2)}, [first, second])) == (30, 3)
    assert totals(ledger.merged({second: small(25, 2)}, [first, second])) == (35, 2), "it is late"
    assert totals(ledger.merged({first: small(12, 1), second: small(25, 2)}, [first, second])) == (37, 3)
    assert totals(ledger.merged({second: small(25, 2)}, [second])) == (37, 2), "it has died"
    assert totals(ledger.merged({second: small(25, 2), third: small(1, 1)}, [second, third])) == (38, 3)
    assert totals(ledger.merged({}, [])) == (38, 0)
