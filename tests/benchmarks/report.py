"""The numbers as people read them: medians, ratios by round, the tables, and what was promised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.benchmarks.cases import Case, Promise

PERCENTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Sample:
    """One measurement of one subject. Shares are 0 to 1, times seconds."""

    rate: float  # requests a second that were answered
    cpu: float  # time that all threads of the server ran, by request
    server_busy: float  # how much of its time the server's core worked
    load_busy: float  # likewise the load's
    foreign: float  # what processes that are not of the benchmark had of the two cores, in cores
    stolen: float  # how much of its time a core was taken by other guests of the host
    latencies: tuple[float, ...] = ()  # by PERCENTILES
    target: float = 0  # of an open loop: requests a second that were sent

    @property
    def disturbed(self) -> bool:
        """Whether others had enough of the cores to be seen in the numbers: of a 99th percentile, one hundredth."""
        return self.foreign > (0.01 if self.latencies else 0.05)

    @property
    def kept_up(self) -> bool:
        """Whether as much was answered as was to be sent."""
        return not self.target or abs(self.rate - self.target) <= 0.01 * self.target

    def __str__(self) -> str:
        latencies = "".join(
            f", {name} {microseconds(value)}" for name, value in zip(PERCENTILES, self.latencies, strict=False)
        )
        return f"{self.rate:8,.0f}/s, {microseconds(self.cpu)} of CPU each{latencies}"


@dataclass(frozen=True)
class Result:
    """A case's samples: of each subject, in the order of the case, one a round."""

    case: Case
    samples: Mapping[str, Sequence[Sample]]

    def medians(self, name: str) -> Sample:
        """A subject's typical measurement: each number's median over the rounds."""
        samples = self.samples[name]
        return Sample(
            rate=median(sample.rate for sample in samples),
            cpu=median(sample.cpu for sample in samples),
            server_busy=median(sample.server_busy for sample in samples),
            load_busy=median(sample.load_busy for sample in samples),
            foreign=max(sample.foreign for sample in samples),
            stolen=max(sample.stolen for sample in samples),
            latencies=tuple(map(median, zip(*(sample.latencies for sample in samples), strict=True))),
            target=median(sample.target for sample in samples),
        )

    def ratio(self, other: str, measure: str = "rate") -> "Ratio":
        """The first subject by another, round by round, in rates or in a percentile of the latencies."""
        first = next(iter(self.samples))
        ours, theirs = ([_number(sample, measure) for sample in self.samples[name]] for name in (first, other))
        return ratio(ours, theirs)


def _number(sample: Sample, measure: str) -> float:
    return sample.rate if measure == "rate" else sample.latencies[list(PERCENTILES).index(measure)]


@dataclass(frozen=True)
class Ratio:
    """Of one round both numbers, since what disturbs a round disturbs both: the rounds' median and extremes."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}"

    @property
    def spread(self) -> str:
        return f"{self.low:.2f}-{self.high:.2f}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    each = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Ratio(median(each), min(each), max(each))


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest of the ascending values that at least this part (0 to 1) of them does not exceed."""
    return ordered[max(-int(-part * len(ordered) // 1) - 1, 0)]


def microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.1f} µs" if value < 10 else f"{value:,.0f} µs"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, with columns as wide as they must be, and numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1].isdigit() or not cell for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, right, strict=True)
        return f"| {' | '.join(cell.rjust(width) if to else cell.ljust(width) for cell, width, to in pairs)} |"

    rule = [f"{'-' * (width - 1)}{':' if to else '-'}" for width, to in zip(widths, right, strict=True)]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def throughput(results: Sequence[Result]) -> str:
    """A row for each comparison: the case's first subject with another."""
    header = ("case", "subject", "req/s", "CPU each", "against", "req/s", "CPU each", "ratio", "spread")
    rows = []
    for result in results:
        first, *others = result.samples
        for other in others:
            ours, theirs, found = result.medians(first), result.medians(other), result.ratio(other)
            ours_cells = (first, f"{ours.rate:,.0f}", microseconds(ours.cpu))
            theirs_cells = (other, f"{theirs.rate:,.0f}", microseconds(theirs.cpu))
            rows.append((result.case.title, *ours_cells, *theirs_cells, str(found), found.spread))
    return table(header, rows)


def latency(results: Sequence[Result]) -> str:
    """A row for each subject, and how the first's 99th percentile compares with it."""
    header = ("open loop", "subject", "req/s", *PERCENTILES, "p99 ratio", "spread")
    rows = []
    for result in results:
        first = next(iter(result.samples))
        for name in result.samples:
            found, compared = result.medians(name), result.ratio(name, "p99")
            against = ("", "") if name == first else (str(compared), compared.spread)
            cells = (f"{found.rate:,.0f}", *map(microseconds, found.latencies), *against)
            rows.append((result.case.title, name, *cells))
    return table(header, rows)


def doubts(results: Sequence[Result]) -> list[str]:
    """What makes numbers doubtful, a line for each subject of each case."""
    return [
        f"- {result.case.title}, {name}: {'; '.join(found)}"
        for result in results
        for name in result.samples
        if (found := _doubts(result, name))
    ]


def _doubts(result: Result, name: str) -> list[str]:
    typical, found = result.medians(name), []
    if result.case.rate is None and typical.server_busy < 0.93:
        found.append(
            f"its core was busy for {typical.server_busy:.0%} of the time, the load's for {typical.load_busy:.0%}"
        )
    if result.case.rate is not None and not typical.kept_up:
        found.append(f"it was sent {typical.target:,.0f} requests a second")
    if typical.disturbed:
        found.append(f"other processes took up to {typical.foreign:.0%} of a core")
    if typical.stolen > 0.02:
        found.append(f"other guests of the host took up to {typical.stolen:.0%} of a core")
    return found


def promises(results: Sequence[Result], promised: Sequence[Promise]) -> tuple[str, bool]:
    """The table of what was promised about these results, and whether all of it was held."""
    by_name = {result.case.name: result for result in results}
    rows = []
    for promise in promised:
        if (result := by_name.get(promise.case)) is None:
            continue
        if promise.against is None:
            rate = result.medians(next(iter(result.samples))).rate
            verdict = "held" if rate >= promise.bound else "MISSED"
            rows.append((result.case.title, f"at least {promise.bound:,.0f} req/s", f"{rate:,.0f}", verdict))
            continue
        found = result.ratio(promise.against, promise.measure).median
        held = found >= promise.bound if promise.measure == "rate" else found <= promise.bound
        what = f"{result.case.title}{'' if promise.measure == 'rate' else f', {promise.measure}'}"
        sign = "at least" if promise.measure == "rate" else "at most"
        aim = f" (aim: {promise.aim:.2f})" if promise.aim is not None else ""
        bound = f"{sign} {promise.bound:.2f} x {promise.against}{aim}"
        rows.append((what, bound, f"{found:.2f}", "held" if held else "MISSED"))
    if not rows:
        return "", True
    return table(("promise", "bound", "measured", "verdict"), rows), all(row[-1] == "held" for row in rows)
