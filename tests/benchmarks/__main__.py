"""Measure Readthrough beside nginx. Exit code 1: a promise is missed; 2: something could not be measured."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks import measure, report, watch
from tests.benchmarks.cases import CASES, PROMISES, chosen
from tests.benchmarks.load import Failed
from tests.benchmarks.machine import QUIET, Machine, Missing, memory_directory
from tests.benchmarks.report import Result
from tests.benchmarks.servers import started_upstream

EXPLANATION = """\
wrk: 1 thread, keep-alive, 64 connections, eleven request fields. Medians of {rounds} rounds of {seconds} s; in each
round every subject is measured once. Ratio: the first subject by the other, median over the rounds; spread: over
the rounds. CPU each: what the server's threads ran by request, which says more than req/s where the machine is not
quiet. The floor is uvloop with one prepared answer and no HTTP. Open loop: Poisson arrivals, latency from when a
request was due; the floor's row is what the generator and the machine add by themselves.
"""


def main() -> int:
    """What the arguments ask for."""
    arguments = _arguments()
    if arguments.list:
        sys.stdout.writelines(f"{case.name:20} {case.title}\n" for case in CASES)
        return 0
    try:
        machine = Machine.find()
    except Missing as missing:
        _say(str(missing))
        return 2
    machine.prepare()
    with watch.alone(_say):
        facts = machine.describe()
        if max(busy := machine.busy()) > QUIET:
            facts["not quiet"] = "before, other processes took {:.0%} and {:.0%} of the two cores".format(*busy)
            _say(facts["not quiet"])
        results, failures = _measure(machine, arguments)
    held = _print(facts, results, failures, arguments)
    if arguments.json is not None:
        document = {"facts": facts, "failures": failures, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 2 if failures else 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=5, help="in each of which every subject is measured once")
    parser.add_argument("--seconds", type=_positive, default=4, help="of each measurement")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], metavar="CASE")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def _measure(machine: Machine, arguments: argparse.Namespace) -> tuple[list[Result], dict[str, str]]:
    """The results, and by name of the case what could not be measured and why."""
    results: dict[str, Result] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="readthrough-bench-", dir=memory_directory()) as name:
        directory = Path(name)
        with started_upstream(directory) as api:
            bench = measure.Bench(machine, directory, api, arguments.rounds, arguments.seconds, _say)
            for case in chosen(arguments.only):
                try:
                    results[case.name] = measure.run(case, bench, results)
                except Failed as failed:
                    failures[case.name] = str(failed)
                    _say(f"{case.name} not measured: {failed}")
    return list(results.values()), failures


def _print(
    facts: Mapping[str, str], results: Sequence[Result], failures: Mapping[str, str], arguments: argparse.Namespace
) -> bool:
    """The report; whether every promise was held."""
    parts = ["\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
    parts.append(EXPLANATION.format(rounds=arguments.rounds, seconds=arguments.seconds).rstrip())
    if rates := [result for result in results if result.case.rate is None]:
        parts.append(report.throughput(rates))
    if latencies := [result for result in results if result.case.rate is not None]:
        parts.append(report.latency(latencies))
    if doubts := report.doubts(results):
        parts.append("Doubtful:\n\n" + "\n".join(doubts))
    verdicts, held = report.promises(results, PROMISES)
    if verdicts:
        parts.append(verdicts)
    parts += [f"**Not measured: {name}.** {why.splitlines()[0]}" for name, why in failures.items()]
    sys.stdout.write("\n\n".join(parts) + "\n")
    return held


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
