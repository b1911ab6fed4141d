"""Reads the numbers of this process into a snapshot. They are kept where things happen; nothing is counted here."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from prometheus_client import ProcessCollector

from proxy.admin.families import FAMILIES, Sample, Snapshot
from proxy.flow.flights import Flights
from proxy.flow.gate import Gates
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.ports import Buckets
from proxy.flow.site import Upstream
from proxy.flow.tally import Histogram, LimitTally, Source, Tallies
from proxy.rules.message import Reason
from proxy.rules.quota import Quota

_NAME: Final = 64  # characters of a field name that an upstream has chosen


class Memory(Protocol):
    """The store in this process. `size` and `budget` are in bytes."""

    budget: int
    evictions: int
    exploding: str | None

    @property
    def size(self) -> int: ...  # noqa: D102 - see above

    @property
    def count(self) -> int: ...  # noqa: D102 - entries


class Calls(Protocol):
    """An upstream's connections."""

    requests: int
    retries: int
    failures: dict[Reason, int]

    @property
    def connections(self) -> int: ...  # noqa: D102 - in use


class Accepted(Protocol):
    """What client connections have counted."""

    accepted: int
    timed_out: int


class Lines(Protocol):
    """The access log: lines for which there was no room, and that could not be written."""

    dropped: int
    lost: int


class Leases(Protocol):
    """What a limit has asked of Redis; see FAMILIES."""

    asked: int
    failed: int
    alone: int


class LogState(Protocol):
    """How an instance stands to the log that all share."""

    @property
    def blind_seconds(self) -> float: ...  # noqa: D102 - see FAMILIES for these

    @property
    def lag_seconds(self) -> float: ...  # noqa: D102

    @property
    def number(self) -> int: ...  # noqa: D102

    @property
    def outbox(self) -> int: ...  # noqa: D102

    @property
    def instances(self) -> int: ...  # noqa: D102

    @property
    def applied(self) -> int: ...  # noqa: D102

    @property
    def gaps(self) -> int: ...  # noqa: D102

    @property
    def restarts(self) -> int: ...  # noqa: D102


class RedisCounters(Protocol):
    """What was asked of Redis; `latency` in seconds."""

    commands: int
    errors: int
    timeouts: int
    reconnects: int
    failed_connects: int
    latency: float


@dataclass(frozen=True, slots=True)
class Redis:
    """What there is to know where there is Redis. `store` is a dataclass of integers."""

    up: Callable[[], bool]
    counters: RedisCounters
    state: Callable[[], LogState]
    store: Any


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers are. `settle` counts what has still to be, before they are read."""

    version: str
    ready: Callable[[], bool]
    settle: Callable[[], None]
    tallies: Tallies
    refusals: Mapping[Reason, int]
    flights: Flights
    memory: Memory
    log: InvalidationLog
    upstreams: Callable[[], Iterable[tuple[Upstream, Calls]]]
    limits: Callable[[], Iterable[tuple[str, Quota, Buckets, Leases | None]]]
    gates: Callable[[], Iterable[tuple[str, Gates]]]
    accepted: Accepted
    connections: Sized
    lag: Histogram
    journal: Lines | None
    redis: Redis | None


def read(sources: Sources) -> Snapshot:
    """All of them, as they are now."""
    sources.settle()
    found: dict[str, list[Sample]] = {}
    for name, value, *labels in (
        *_instance(sources),
        *_requests(sources.tallies),
        *_upstreams(sources.upstreams()),
        *_gates(sources.upstreams(), sources.gates()),
        *_limits(sources),
        *(() if sources.redis is None else _redis(sources.redis)),
        *_process(),
    ):
        full = name if name in FAMILIES else f"readthrough_{name}"
        found.setdefault(full, []).append((labels, value))
    return found


_Row = tuple[Any, ...]  # name, value and labels


def _instance(sources: Sources) -> Iterator[_Row]:
    flights, memory, accepted = sources.flights, sources.memory, sources.accepted
    yield "build_info", 1, sources.version, platform.python_version()
    yield "ready", int(sources.ready())
    for refused, count in sources.refusals.items():
        yield "unreadable_requests_total", count, refused.value
    yield "flights_started_total", flights.started
    yield "flights_in_air", len(flights)
    yield "flight_memory_bytes", flights.memory.used
    yield "flight_memory_limit_bytes", flights.memory.limit
    yield "memory_entries", memory.count
    yield "memory_used_bytes", memory.size
    yield "memory_budget_bytes", memory.budget
    yield "memory_evictions_total", memory.evictions
    if memory.exploding:
        yield "memory_exploding_vary_info", 1, memory.exploding[:_NAME]
    yield "event_loop_lag_seconds", _histogram(sources.lag)
    yield "connections", len(sources.connections)
    yield "connections_accepted_total", accepted.accepted
    yield "connections_timed_out_total", accepted.timed_out
    if sources.journal is not None:
        yield "access_log_lost_lines_total", sources.journal.dropped, "full"
        yield "access_log_lost_lines_total", sources.journal.lost, "failed"
    if sources.redis is None:
        yield "log_position", sources.log.position


def _requests(tallies: Tallies) -> Iterator[_Row]:
    sent: dict[tuple[str, str], int] = {}
    saved = dict(tallies.saved)
    durations = {(route, source): _histogram(kept) for (route, source), kept in tallies.durations.items()}
    for (route, method, status, result), tally in tallies.requests.items():
        yield "requests_total", tally.plain + tally.noted, route, method.value, f"{status}xx", result.value
        sent[route, result.value] = sent.get((route, result.value), 0) + tally.sent
        if tally.plain:
            saved[route] = saved.get(route, 0.0) + tally.saved
            quick = durations.setdefault((route, Source.CACHE), _histogram(Histogram()))
            quick[0][0] += tally.plain
    yield "followers_total", tallies.followers
    for (route, word), count in sent.items():
        yield "sent_bytes_total", count, route, word
    for route, seconds in saved.items():
        yield "saved_upstream_seconds_total", seconds, route
    for (route, source), histogram in durations.items():
        yield "request_duration_seconds", histogram, route, source.value


def _upstreams(upstreams: Iterable[tuple[Upstream, Calls]]) -> Iterator[_Row]:
    for upstream, calls in upstreams:
        name, breaker = upstream.name, upstream.breaker
        yield "upstream_requests_total", calls.requests, name
        yield "upstream_retries_total", calls.retries, name
        for reason, count in calls.failures.items():
            yield "upstream_errors_total", count, name, reason.value
        if upstream.tally.held_back:
            yield "upstream_errors_total", upstream.tally.held_back, name, Reason.BREAKER_OPEN.value
        yield "upstream_duration_seconds", _histogram(upstream.tally.durations), name
        for status, count in upstream.tally.answers.items():
            yield "upstream_responses_total", count, name, f"{status}xx"
        yield "upstream_connections", calls.connections, name
        yield "upstream_breaker_open", int(breaker.open), name
        yield "upstream_breaker_opened_total", breaker.opened, name


def _gates(upstreams: Iterable[tuple[Upstream, Calls]], gates: Iterable[tuple[str, Gates]]) -> Iterator[_Row]:
    for upstream, _ in upstreams:
        gate, name = upstream.gate, upstream.name
        if gate is not None:
            yield "upstream_gate_limit", gate.rule.requests, name
            yield "upstream_gate_inside", gate.inside, name
            yield "upstream_gate_waiting", gate.waiting, name
            yield "upstream_gate_refused_total", gate.refused, name
    for route, made in gates:
        yield "route_gate_clients", len(made), route
        yield "route_gate_refused_total", made.refused, route


def _limits(sources: Sources) -> Iterator[_Row]:
    tallies, limits = sources.tallies, list(sources.limits())
    requests = dict.fromkeys((*tallies.limits, *[route for route, *_ in limits]), 0)
    for (route, *_), tally in tallies.requests.items():
        if route in requests:
            requests[route] += tally.plain + tally.noted
    for route, count in requests.items():
        told = tallies.limits.get(route) or LimitTally()
        yield "limiter_decisions_total", count - told.refused - told.stale, route, "allowed"
        yield "limiter_decisions_total", told.refused, route, "refused"
        yield "limiter_decisions_total", told.stale, route, "stale"
    for route, quota, buckets, leases in limits:
        yield "limiter_buckets", len(buckets), route, quota.name
        if leases is not None:
            yield "limiter_round_trips_total", leases.asked, route, quota.name
            yield "limiter_round_trips_failed_total", leases.failed, route, quota.name
            yield "limiter_alone_total", leases.alone, route, quota.name


def _redis(redis: Redis) -> Iterator[_Row]:
    state, counters = redis.state(), redis.counters
    yield "log_position", state.number
    yield "log_lag_seconds", state.lag_seconds
    yield "log_blind_seconds", state.blind_seconds
    yield "log_applied_total", state.applied
    yield "log_gaps_total", state.gaps
    yield "log_restarts_total", state.restarts
    yield "log_outbox", state.outbox
    yield "log_instances", state.instances
    yield "redis_up", int(redis.up())
    yield "redis_round_trip_seconds", counters.latency
    yield "redis_commands_total", counters.commands
    yield "redis_errors_total", counters.errors, "refused"
    yield "redis_errors_total", counters.timeouts, "timeout"
    yield "redis_errors_total", counters.failed_connects, "connect"
    yield "redis_connects_total", counters.reconnects
    for event, count in asdict(redis.store).items():
        yield "shared_store_events_total", count, event.replace("_", "-")


def _process() -> Iterator[_Row]:
    for metric in ProcessCollector(registry=None).collect():
        for sample in metric.samples:
            if sample.name in FAMILIES:
                yield sample.name, sample.value


def _histogram(histogram: Histogram) -> list[Any]:
    return [list(histogram.counts), histogram.total]
