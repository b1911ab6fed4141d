"""Every metric there is: its name, what kind of number it is, its labels, and what it says.

A process's numbers are a snapshot, plain data that goes over a socket as JSON. Snapshots of several processes become
one: what sums is summed, what does not gets a label that says whose it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, Final

Value = Any  # a number; of a histogram [counts, total]; JSON does not tell more
Sample = tuple[Sequence[str], Value]
Snapshot = Mapping[str, Sequence[Sample]]


@unique
class Kind(Enum):
    """What a number is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """`each`: one number for each process, as their sum would say nothing."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    each: bool = False


def _counter(name: str, help_: str, *labels: str) -> Family:
    return Family(f"readthrough_{name}", Kind.COUNTER, help_, labels)


def _gauge(name: str, help_: str, *labels: str, each: bool = False) -> Family:
    return Family(f"readthrough_{name}", Kind.GAUGE, help_, labels, each)


def _histogram(name: str, help_: str, *labels: str) -> Family:
    return Family(f"readthrough_{name}", Kind.HISTOGRAM, help_, labels)


_FAMILIES: Final = (
    _gauge("build_info", "The version that runs; always 1.", "version", "python", each=True),
    _gauge("ready", "Whether it takes requests: 0 while starting or draining, or where it does not answer.", each=True),
    _counter(
        "requests_total",
        "Requests answered, by what the cache did for them. Route is empty where none took the request.",
        *("route", "method", "status", "cache"),
    ),
    _counter("sent_bytes_total", "Bytes of body sent to clients.", "route", "cache"),
    _counter("saved_upstream_seconds_total", "Upstream time that answers from the cache have saved.", "route"),
    _histogram(
        "request_duration_seconds",
        "From the complete request head to the end of the answer. Hits answered in the call that received them count"
        " as the least, and as 0 in the sum.",
        *("route", "source"),
    ),
    _counter("unreadable_requests_total", "Requests and connections refused before they were read.", "reason"),
    _counter("followers_total", "Requests answered with what another one had fetched."),
    _counter("flights_started_total", "Fetches for the cache that were begun."),
    _gauge("flights_in_air", "Fetches that others may join."),
    _gauge("flight_memory_bytes", "What fetches in the air hold in memory."),
    _gauge("flight_memory_limit_bytes", "How much they may hold: limits.flight_memory."),
    _counter("upstream_requests_total", "Calls to an upstream.", "upstream"),
    _counter("upstream_retries_total", "Calls repeated on another connection: the first had died idle.", "upstream"),
    _counter("upstream_errors_total", "Calls without an answer, or without all of it.", "upstream", "reason"),
    _histogram("upstream_duration_seconds", "From a call to the head of its answer.", "upstream"),
    _counter(
        "upstream_responses_total",
        "Answers by class of their status, whatever became of them: a 5xx may have been bridged by a stale one.",
        *("upstream", "status"),
    ),
    _gauge("upstream_connections", "Connections in use.", "upstream"),
    _gauge("upstream_breaker_open", "Whether calls are held back, as the upstream fails.", "upstream", each=True),
    _counter("upstream_breaker_opened_total", "How often the breaker has opened.", "upstream"),
    _gauge(
        "upstream_gate_limit", "Requests that may be under way to it at once: upstreams.max_concurrent.", "upstream"
    ),
    _gauge("upstream_gate_inside", "Requests that are, as that counts them.", "upstream"),
    _gauge("upstream_gate_waiting", "Requests that wait until they may.", "upstream"),
    _counter("upstream_gate_refused_total", "Requests for which there was no room to wait, or too long.", "upstream"),
    _gauge("route_gate_clients", "Clients with a request under way on a route with max_concurrent.", "route"),
    _counter("route_gate_refused_total", "Requests of clients that had too many under way.", "route"),
    _counter(
        "limiter_decisions_total",
        "Requests to a route with rate_limit, at their end: allowed, refused, or answered stale instead.",
        *("route", "decision"),
    ),
    _gauge("limiter_buckets", "Clients of a limit that are remembered.", "route", "limit"),
    _counter("limiter_round_trips_total", "Calls to Redis for tokens.", "route", "limit"),
    _counter("limiter_round_trips_failed_total", "Calls to Redis for tokens that had no answer.", "route", "limit"),
    _counter("limiter_alone_total", "Decisions made without Redis, as it could not be asked.", "route", "limit"),
    _gauge("memory_entries", "Answers in memory."),
    _gauge("memory_used_bytes", "What they take of the budget."),
    _gauge("memory_budget_bytes", "memory.max_size."),
    _counter("memory_evictions_total", "Answers that made room for others."),
    _gauge("memory_exploding_vary_info", "The request field that last made too many variants.", "field", each=True),
    _gauge("log_position", "Number of the last invalidation applied.", each=True),
    _gauge("log_lag_seconds", "For how long an invalidation has been known to be missing.", each=True),
    _gauge("log_blind_seconds", "How long nobody has vouched for the log being complete.", each=True),
    _counter("log_applied_total", "Invalidations applied from the shared log."),
    _counter("log_gaps_total", "Gaps in the log that could not be read."),
    _counter("log_restarts_total", "How often the log was another one."),
    _gauge("log_outbox", "Invalidations that others have still to be told of."),
    _gauge("log_instances", "Instances that are alive, this one included.", each=True),
    _gauge("redis_up", "Whether every Redis server is connected; its breaker is open otherwise.", each=True),
    _gauge("redis_round_trip_seconds", "A weighted mean of round trips to Redis.", each=True),
    _counter("redis_commands_total", "Commands sent to Redis."),
    _counter(
        "redis_errors_total",
        "Commands that Redis refused or did not answer, and attempts to connect that failed.",
        "reason",
    ),
    _counter("redis_connects_total", "Connections made to Redis."),
    _counter("shared_store_events_total", "What became of looks at the shared store and of writes to it.", "event"),
    _counter("access_log_lost_lines_total", "Lines of the access log that were not written.", "reason"),
    _histogram("event_loop_lag_seconds", "How much later than due the loop did what it does twice a second."),
    _gauge("connections", "Client connections that are open."),
    _counter("connections_accepted_total", "Client connections accepted."),
    _counter("connections_timed_out_total", "Client connections that ran into a deadline."),
    # By the names that every exporter has for them; read by prometheus-client.
    Family("process_cpu_seconds_total", Kind.COUNTER, "Total user and system CPU time spent.", each=True),
    *[
        Family(f"process_{name}", Kind.GAUGE, help_, each=True)
        for name, help_ in (
            ("virtual_memory_bytes", "Virtual memory size."),
            ("resident_memory_bytes", "Resident memory size."),
            ("start_time_seconds", "Start time since the epoch."),
            ("open_fds", "Open file descriptors."),
            ("max_fds", "The most file descriptors that may be open."),
        )
    ],
)
FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _FAMILIES}


def with_silent(snapshot: Snapshot, workers: Iterable[int]) -> Snapshot:
    """The numbers of several processes, and that those `workers` are not ready, which they cannot say themselves."""
    ready = [*snapshot.get("readthrough_ready", ()), *[((str(worker),), 0) for worker in workers]]
    return {**snapshot, "readthrough_ready": ready}


class Ledger:
    """Snapshots of several processes as one. What a process that has ended had counted stays counted, as Prometheus
    would take a sum that falls for a new beginning. Processes are named by their number and process id.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], Snapshot] = {}
        self._ended: Snapshot = {}

    def merged(self, told: Mapping[tuple[int, int], Snapshot], alive: Iterable[tuple[int, int]]) -> Snapshot:
        """Those that answered, and what of those that did not is known to be counted. `alive` may answer again."""
        living = {*alive, *told}
        self._last.update(told)
        for process in [process for process in self._last if process not in living]:
            counted = _counted(self._last.pop(process))
            self._ended = _sum([self._ended, counted])
        silent = [_counted(last) for process, last in self._last.items() if process not in told]
        labelled = [_labelled(snapshot, str(number)) for (number, _), snapshot in sorted(told.items())]
        return _sum([self._ended, *silent, *labelled])


def _counted(snapshot: Snapshot) -> Snapshot:
    """What only grows, and is summed."""
    return {
        name: samples
        for name, samples in snapshot.items()
        if FAMILIES[name].kind is not Kind.GAUGE and not FAMILIES[name].each
    }


def _labelled(snapshot: Snapshot, worker: str) -> Snapshot:
    return {
        name: [([*labels, worker], value) for labels, value in samples] if FAMILIES[name].each else samples
        for name, samples in snapshot.items()
    }


def _sum(snapshots: Iterable[Snapshot]) -> Snapshot:
    summed: dict[str, dict[tuple[str, ...], Value]] = {}
    for snapshot in snapshots:
        for name, samples in snapshot.items():
            family = summed.setdefault(name, {})
            for labels, value in samples:
                place = tuple(labels)
                family[place] = _added(family[place], value) if place in family else value
    return {name: list(family.items()) for name, family in summed.items()}


def _added(one: Value, other: Value) -> Value:
    if isinstance(one, list | tuple):
        return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]
    return one + other
