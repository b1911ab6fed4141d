"""The public HTTP cache suite through this proxy: everything passes but what expected.toml gives a reason for."""

import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.conformance import run

REQUIRED: Final = 148  # of 157; the best of today's servers passes 120
OPTIMAL: Final = 70  # of 86; the best of today's servers passes 59


@pytest.mark.clock
def test_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = tomllib.loads((run.HERE / "expected.toml").read_text())
    environment = run.install()
    port = run.free_port()
    with run.origin(environment, tmp_path / "origin.log", port), run.proxy(tmp_path, port) as base:
        results = run.run(environment, base, tmp_path / "results.json")
    with capsys.disabled():
        print(f"\nhttp-cache-tests: {run.summary(results)}")

    listed = {(kind, test_id) for kind in ("required", "optimal") for test_id in expected[kind]}
    rated = {(result.kind, result.id): result for result in results if result.kind != "check"}
    assert listed <= rated.keys(), "expected.toml names tests that do not exist"
    assert all(reason.strip() for kind in expected.values() for reason in kind.values())
    surprises = [
        f"{result.kind} {result.id} {result.outcome}: {result.name} ({result.detail})"
        for key, result in rated.items()
        if result.passed == (key in listed)
    ]
    assert not surprises, "\n".join(["These passed though listed in expected.toml, or did not pass:", *surprises])

    by_kind = {kind: [r.passed for (k, _), r in rated.items() if k == kind] for kind in ("required", "optimal")}
    assert (len(by_kind["required"]), len(by_kind["optimal"])) == (157, 86)
    assert sum(by_kind["required"]) >= REQUIRED
    assert sum(by_kind["optimal"]) >= OPTIMAL
