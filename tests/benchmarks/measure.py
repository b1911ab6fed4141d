"""One case: its servers started, looked at, and measured in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks import load, openloop, verify
from tests.benchmarks.cases import Case, Subject
from tests.benchmarks.machine import Machine
from tests.benchmarks.report import PERCENTILES, Result, Sample, percentile
from tests.benchmarks.servers import Api, Server, asked, started
from tests.benchmarks.watch import Watch
from tests.benchmarks.wire import request

WARM_UP: Final = 1  # second
ATTEMPTS: Final = 3  # at one measurement
PAUSE: Final = 0.2  # seconds until what the last load left behind has been done


@dataclass(frozen=True)
class Bench:
    """What every measurement needs. `seconds` is the length of one."""

    machine: Machine
    directory: Path
    api: Api
    rounds: int
    seconds: int
    say: Callable[[str], None]

    def watch(self, server: Server) -> Watch:
        return Watch(self.machine, (server.pid, self.api.pid, *server.besides))


def orders(subjects: Sequence[Subject], rounds: int) -> list[list[Subject]]:
    """Who goes when: everybody once a round, each round beginning with the next one."""
    return [[*subjects[at:], *subjects[:at]] for at in (number % len(subjects) for number in range(rounds))]


def run(case: Case, bench: Bench, earlier: Mapping[str, Result]) -> Result:
    """All rounds of a case, with all its servers up from beginning to end."""
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in case.subjects}
    place = bench.directory / case.name
    place.mkdir()
    with ExitStack() as stack:
        servers = {
            subject.name: stack.enter_context(started(subject, case, bench.machine, place, bench.api.port))
            for subject in case.subjects
        }
        sizes = {name: verify.before(case, server, bench.api.port) for name, server in servers.items()}
        for number, order in enumerate(orders(case.subjects, bench.rounds)):
            for name in (subject.name for subject in order):
                sample = _undisturbed(case, servers[name], bench, number, sizes[name], earlier)
                samples[name].append(sample)
                bench.say(f"{case.name} {number + 1}/{bench.rounds} {sample} {name}")
    return Result(case, samples)


def _undisturbed(
    case: Case, server: Server, bench: Bench, number: int, size: int, earlier: Mapping[str, Result]
) -> Sample:
    """A measurement, repeated while others use the cores; whatever it says, the least disturbed one counts."""
    samples: list[Sample] = []
    while len(samples) < ATTEMPTS:
        nonce = f"{number}-{len(samples)}"
        load.run(bench.machine, server.port, case.traffic, WARM_UP, f"w{nonce}", bench.directory / case.name)
        server.empty_log()
        time.sleep(PAUSE)
        if case.rate is None:
            sample = _throughput(case, server, bench, f"r{nonce}", size)
        else:
            sample = _latency(case, server, bench, number, _rate(case, server.name, earlier))
        samples.append(sample)
        if not sample.disturbed:
            break
        bench.say(f"{server.name}: other processes took {sample.foreign:.0%} of a core")
        bench.machine.wait_until_quiet()
    best = min(samples, key=lambda sample: sample.foreign)
    if server.subject.kind == "floor" and not best.kept_up:
        raise load.Failed(
            f"the generator was to send {best.target:,.0f} requests a second and managed {best.rate:,.0f}"
        )
    return best


def _rate(case: Case, name: str, earlier: Mapping[str, Result]) -> float:
    """Requests per second to send."""
    assert case.rate is not None
    if case.rate.case not in earlier:
        raise load.Failed(f"its rate comes from {case.rate.case}, which was not measured")
    measured = earlier[case.rate.case]
    # By its own rate the floor would be more than the generator can do; it is there to check the first subject's.
    own = case.subjects[0].name if name == "floor" else name
    return case.rate.part * measured.medians(case.rate.subject or own).rate


def _throughput(case: Case, server: Server, bench: Bench, nonce: str, size: int) -> Sample:
    counted, watch = asked(bench.api.port), bench.watch(server)
    with watch.running():
        place = bench.directory / case.name
        done = load.run(bench.machine, server.port, case.traffic, bench.seconds, nonce, place)
    time.sleep(PAUSE)
    verify.after(case, server, done, asked(bench.api.port) - counted, size)
    verify.logged(server, done.requests)
    return watch.sample(done.rate, done.requests)


def _latency(case: Case, server: Server, bench: Bench, number: int, rate: float) -> Sample:
    due = openloop.arrivals(rate, bench.seconds, seed=number)  # every subject has the same arrivals
    raw = request(case.traffic.path, case.traffic.extra)
    watch = bench.watch(server)
    with watch.running():
        done = openloop.drive(server.port, raw, case.size, due, case.traffic.connections)
    latencies = tuple(percentile(done.ordered, part) for part in PERCENTILES.values())
    return watch.sample(done.rate, len(due), latencies, rate)
