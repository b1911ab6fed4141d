"""The comparison of limiters says what the documentation prints."""

from pathlib import Path

import pytest

from tests.benchmarks.limiters import LIMITERS, Arrivals, FixedWindow, Run, measured, run, table

DOCS = Path(__file__).parents[2] / "docs" / "rate-limiting.md"


async def test_the_table_in_the_documentation_is_what_the_simulation_prints() -> None:
    rows = [await measured(name, make) for name, make in LIMITERS.items()]
    assert table(rows) in DOCS.read_text()
    best = {row.name.strip("*"): row for row in rows}
    leased, asked = best["leased bucket, burst 200"], best["token bucket, burst 200"]
    assert leased.window <= 1.2, "rate and burst, in the worst second"
    assert leased.used == 1
    assert leased.calm < 0.2 * asked.calm
    assert leased.busy < 0.4 * asked.busy


async def test_a_run_counts_what_was_admitted() -> None:
    arrivals: Arrivals = [(1000 + at / 512, at % 2) for at in range(1500)]
    result = await run(FixedWindow, arrivals)
    assert (len(result.admitted), result.trips, result.kept) == (1500, 1500, 1), "three windows"
    assert result.most_within(100 / 512) == 100
    assert result.longest_pause() == 1 / 512
    assert result.worst_served() == pytest.approx(1)
    uneven = Run(arrivals, [pair for pair in arrivals if pair[1] or pair[0] < 1000.75], 0, 0)
    assert uneven.worst_served() == pytest.approx(192 / 750 * 1500 / 942)
    assert len(uneven.since(1000.75).admitted) == 558
