"""What an eviction algorithm keeps, by hit ratio: `python -m tests.benchmarks.eviction [--json FILE] [--only TEXT]`.

Every policy is asked for the same traces with a budget in bytes. None but LRU moves anything on a hit. The traces
are made here from fixed seeds, and the store's ghosts go by the hashes of its keys, so the command runs itself with
a fixed seed for those: two runs print the same numbers. Hits are counted from the empty cache on, over all requests,
those of scans too, which nothing can hit.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.policies import POLICIES, Policy
from tests.benchmarks.traces import Trace, traces

BUDGETS: Final = (0.01, 0.05, 0.2)  # shares of a trace's footprint
NOISE: Final = 0.1  # points by which a policy may be below LRU and is still called equal
SCAN_GAIN: Final = 3.0  # points by which a policy is to be better than LRU where there is a scan
WINNER: Final = "shipped"
SEED: Final = {"PYTHONHASHSEED": "0"}


@dataclass(frozen=True)
class Row:
    """Hit ratios in percent by policy, for one trace and one budget, which is a share of the footprint."""

    trace: str
    kind: str
    budget: float
    ratios: Mapping[str, float]

    def gain(self, policy: str) -> float:
        """Points above LRU."""
        return self.ratios[policy] - self.ratios["LRU"]


def hit_ratio(policy: Policy, trace: Trace) -> float:
    """Percent of the requests."""
    request, sizes, hits, asked = policy.request, trace.sizes, 0, 0
    for key in trace.keys:
        if key < 0:
            policy.remove(~key)
        else:
            asked += 1
            hits += request(key, sizes[key])
    return 100 * hits / asked


def compared(trace: Trace, policies: Mapping[str, Callable[[int], Policy]] = POLICIES) -> list[Row]:
    """A trace with each budget."""
    footprint = trace.footprint
    return [
        Row(
            trace.name,
            trace.kind,
            share,
            {name: hit_ratio(make(int(share * footprint)), trace) for name, make in policies.items()},
        )
        for share in BUDGETS
    ]


def tables(rows: Sequence[Row]) -> str:
    """Markdown: a table for each budget, and what the policies lose and gain in all."""
    names = list(rows[0].ratios)
    parts = []
    for share in BUDGETS:
        parts += [f"## Cache of {100 * share:.0f} % of the footprint", ""]
        parts += _head("hit ratio, %", *names, f"{WINNER} - LRU")
        for row in rows:
            if row.budget == share:
                mark = " (hostile)" if row.kind == "hostile" else ""
                ratios = [f"{ratio:.1f}" for ratio in row.ratios.values()]
                parts.append(_line(row.trace + mark, *ratios, f"{row.gain(WINNER):+.1f}"))
        parts.append("")
    parts += ["## All rows, points against LRU", ""]
    parts += _head(
        "", "mean", f"below -{NOISE}", "of these hostile", "worst", f"scans below +{SCAN_GAIN:g}", "worst scan"
    )
    parts += [_line(name, *_verdict(rows, name)) for name in names if name != "LRU"]
    return "\n".join(parts)


def _verdict(rows: Sequence[Row], name: str) -> list[str]:
    losses = [row for row in rows if row.gain(name) < -NOISE]
    scans = [row.gain(name) for row in rows if row.kind == "scan"]
    worst = min(rows, key=lambda row: row.gain(name))
    return [
        f"{sum(row.gain(name) for row in rows) / len(rows):+.2f}",
        f"{len(losses)} of {len(rows)}",
        str(sum(row.kind == "hostile" for row in losses)),
        f"{worst.gain(name):+.1f} ({worst.trace}, {100 * worst.budget:.0f} %)",
        f"{sum(gain < SCAN_GAIN for gain in scans)} of {len(scans)}",
        f"{min(scans):+.1f}" if scans else "",
    ]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_line(*cells), _line("---", *["---:"] * (len(cells) - 1))]


def main() -> None:
    """Compare, telling on stderr how far it is."""
    parser = argparse.ArgumentParser(description="Compare eviction algorithms by hit ratio.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios here too")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the traces with this in their names")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for trace in traces():
        if arguments.only in trace.name:
            sys.stderr.write(f"{trace.name}\n")
            rows += compared(trace)
    if not rows:
        parser.error(f"no trace has {arguments.only!r} in its name")
    sys.stdout.write(f"{tables(rows)}\n")
    if arguments.json is not None:
        found = [{"trace": r.trace, "kind": r.kind, "budget": r.budget, "ratios": dict(r.ratios)} for r in rows]
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    if SEED.items() <= os.environ.items():
        main()
    else:
        again = [sys.executable, "-m", "tests.benchmarks.eviction", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **SEED})
