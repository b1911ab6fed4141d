"""`readthrough stats`: how a running instance does, once or as a table that is drawn anew every second."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from shutil import get_terminal_size
from typing import Any, Final, TextIO

from proxy.admin.client import Instance, Unanswered
from proxy.admin.page import plain

_EVERY: Final = 1.0  # seconds
_WITHIN: Final = 2.0
_HOME: Final = "\x1b[H\x1b[J"  # the first place of the screen, and nothing behind it
_FROM_CACHE: Final = ("hit", "shared", "stale")
_DECISIONS: Final = ("allowed", "refused", "stale", "too_many_at_once")
_REFUSED: Final = 5  # clients


@dataclass(frozen=True, slots=True)
class Reading:
    """What `/stats` said, and when, in monotonic seconds."""

    at: float
    stats: Mapping[str, Any]


def stats(
    instance: Instance,
    *,
    watch: bool,
    out: TextIO | None = None,
    complain: Callable[[str], None],
    now: Callable[[], float] = time.monotonic,  # noqa: TID251 - a command has no clock but this one
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Run the command and give its exit code. Who watches sees the last second, and Ctrl-C is a good end.

    Raises KeyboardInterrupt where it comes before anything was told.
    """
    before: Reading | None = None
    out = sys.stdout if out is None else out
    try:
        while True:
            try:
                answer = instance.get("/stats", _WITHIN)
            except Unanswered as silence:
                complain(f"no stats: {silence}")
                return 1
            if answer.status != 200 or "requests" not in answer.members:
                told = str(answer.members.get("detail", "nothing that can be understood"))
                complain(f"no stats: {instance} says {answer.status}: {plain(told)}")
                return 1
            reading = Reading(now(), answer.members)
            table = lines(reading, before)
            anew = watch and out.isatty()
            text = "\n".join(_fitting(table, get_terminal_size()) if anew else table) + "\n"
            out.write(f"{_HOME}{text}" if anew else text)
            out.flush()
            if not watch:
                return 0
            before = reading
            sleep(_EVERY)
    except KeyboardInterrupt:
        if before is None:
            raise
        return 0


def _fitting(table: Iterable[str], screen: os.terminal_size) -> Iterator[str]:
    """What of it the screen has room for. A line that wraps, or one too many, would scroll the first away; the last
    one stays free for the cursor.
    """
    return (line[: screen.columns] for line in islice(table, max(screen.lines - 1, 1)))


def lines(reading: Reading, before: Reading | None) -> Iterator[str]:
    """The table: since the start, or where there is a reading from before, since then."""
    stats = reading.stats
    seconds = None if before is None else max(reading.at - before.at, 0.001)
    old: Mapping[str, Any] = {} if before is None else before.stats
    results = _since(_of(stats, "requests", "by_result"), _of(old, "requests", "by_result"))
    total, memory, flights = sum(results.values()), _of(stats, "memory"), _of(stats, "flights")
    asked = total - sum(results.get(word, 0) for word in ("purged", "refused", "gone"))
    cached = sum(results.get(word, 0) for word in _FROM_CACHE)
    ratio = f"{cached / asked:.1%}" if asked else "-"
    state = "ready" if stats.get("ready") else "not ready"
    yield f"readthrough {plain(stats.get('version', ''))}, {state}" + ("" if seconds is None else ", the last second")
    yield f"requests     {_rate(total, seconds)}   hit ratio {ratio}   sent {_size(_sent(stats, old), seconds)}"
    words = [f"{plain(word)} {_rate(count, seconds)}" for word, count in results.items() if count]
    yield f"{'':<12} {'  '.join(words)}"
    for source in ("cache", "upstream"):
        counts = _counts(stats, source)
        was = _counts(old, source)
        new = [count - past for count, past in zip(counts, was or [0] * len(counts), strict=True)]
        bounds = _of(stats, "durations").get("bounds", [])
        yield f"{source:<12} " + "   ".join(f"p{int(q * 100)} {percentile(bounds, new, q)}" for q in (0.5, 0.95, 0.99))
    yield (
        f"memory       {memory.get('entries', 0):,} entries, {_size(memory.get('used_bytes', 0), None)} of"
        f" {_size(memory.get('budget_bytes', 0), None)}, {memory.get('evictions', 0):,} evicted"
    )
    yield f"flights      {flights.get('in_air', 0)} in the air, {flights.get('followers', 0):,} followers so far"
    saved = float(stats.get("saved_upstream_seconds", 0)) - float(old.get("saved_upstream_seconds", 0))
    yield f"saved        {saved:,.1f} s of upstream time"
    for name, upstream in _of(stats, "upstreams").items():
        past = _of(old, "upstreams", name)
        errors = sum(_since(_of(upstream, "errors"), _of(past, "errors")).values())
        answers = _since(_of(upstream, "responses"), _of(past, "responses"))
        asked_of = upstream.get("requests", 0) - past.get("requests", 0)
        yield (
            f"upstream     {plain(name)}: {_rate(asked_of, seconds)} requests, {_rate(errors, seconds)} errors,"
            f" {_rate(answers.get('5xx', 0), seconds)} answers 5xx, {upstream.get('connections', 0)} connections,"
            f" breaker {plain(upstream.get('breaker', '?'))}"
        )
    for name, limits in _of(stats, "limits", "routes").items():
        decided = {word: limits.get(word, 0) for word in _DECISIONS}
        decided = _since(decided, _of(old, "limits", "routes", name))
        told = [f"{word.replace('_', ' ')} {_rate(count, seconds)}" for word, count in decided.items()]
        yield f"limits       {plain(name)}: {'  '.join(told)}"
    refused = _of(stats, "limits").get("refused")
    for client in refused[:_REFUSED] if isinstance(refused, list) else ():
        who = plain(client.get("client") or "all clients")
        yield f"refused      {who}: {float(client.get('rate', 0)):,.1f}/s of late, by {plain(client.get('limit'))}"
    redis = _of(stats, "redis")
    if redis:
        log = _of(stats, "log")
        up = "up" if redis.get("up") else "unreachable"
        yield (
            f"redis        {up}, round trip {1000 * float(redis.get('round_trip_seconds') or 0):.2f} ms,"
            f" log at {log.get('position')}, blind for {float(log.get('blind_seconds') or 0):.1f} s"
        )


def percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> str:
    """The bound below which that share of them lies, in words."""
    total = sum(counts)
    if not total or len(counts) != len(bounds) + 1:
        return "-"
    for bound, below in zip(bounds, accumulate(counts), strict=False):
        if below >= share * total:
            return f"≤ {bound * 1000:g} ms" if bound < 1 else f"≤ {bound:g} s"
    return f"> {bounds[-1]:g} s"


def _of(stats: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = stats.get(name)
        stats = found if isinstance(found, dict) else {}
    return stats


def _counts(stats: Mapping[str, Any], source: str) -> list[int]:
    found = _of(stats, "durations", source).get("counts", [])
    return found if isinstance(found, list) else []


def _since(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What has come; not less than nothing, where it was started again."""
    return {name: max(count - before.get(name, 0), 0) for name, count in now.items()}


def _sent(stats: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    return max(float(stats.get("sent_bytes", 0)) - float(old.get("sent_bytes", 0)), 0.0)


def _rate(count: float, seconds: float | None) -> str:
    return f"{count:,}" if seconds is None else f"{count / seconds:,.0f}/s"


def _size(size: float, seconds: float | None) -> str:
    value, units = float(size) / (seconds or 1.0), ["TiB", "GiB", "MiB", "KiB", "B"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop()
    return f"{value:,.1f} {units[-1]}{'' if seconds is None else '/s'}"
