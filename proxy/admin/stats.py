"""The numbers as `GET /stats` gives them: counted since the start, nested, in seconds and bytes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypedDict

from proxy.admin.families import FAMILIES, Kind, Snapshot, Value
from proxy.flow.hot import Hot
from proxy.flow.tally import BOUNDS

_REDIS: Final = ("up", "round_trip_seconds", "commands_total", "connects_total")
_LOG: Final = (
    *("position", "lag_seconds", "blind_seconds", "outbox", "instances", "applied_total", "gaps_total"),
    "restarts_total",
)
_FROM_CACHE: Final = ("hit", "shared", "stale")
_NOT_ASKED: Final = ("purged", "refused", "gone")
_SHOWN: Final = 20  # clients that were refused
# Of several processes the one that an operator has to know of.
_WORST: Final[Mapping[str, Callable[[Iterable[Value]], Value]]] = {
    "readthrough_ready": min,
    "readthrough_redis_up": min,
    "readthrough_log_position": min,
}


class Refused(TypedDict):
    """A client that a limit refuses so many times a second; the true `rate` is at most `excess` less."""

    route: str
    limit: str
    client: str
    rate: float
    excess: float


def most_refused(clients: Iterable[Hot]) -> list[Refused]:
    """Whom one process has refused."""
    told: list[Refused] = []
    for hot in clients:
        route, limit, client = hot.key.split("\n")  # none of which can hold a line's end, or be long
        told.append({"route": route, "limit": limit, "client": client, "rate": hot.rate, "excess": hot.excess})
    return told


def _most(clients: Iterable[Refused]) -> list[Refused]:
    """The first of these, those that are the same together."""
    summed: dict[tuple[str, str, str], Refused] = {}
    for client in clients:
        place = client["route"], client["limit"], client["client"]
        known = summed.setdefault(place, {**client, "rate": 0.0, "excess": 0.0})
        known["rate"] += client["rate"]
        known["excess"] += client["excess"]
    most = sorted(summed.values(), key=lambda client: client["rate"], reverse=True)[:_SHOWN]
    return [{**client, "rate": round(client["rate"], 3), "excess": round(client["excess"], 3)} for client in most]


def stats_of(snapshot: Snapshot, refused: Iterable[Refused] = ()) -> dict[str, Any]:
    """A snapshot, of one process or of several, as nested data, and whom each of them has `refused`."""
    one, by = _Reader(snapshot).one, _Reader(snapshot).by
    results = by("requests_total", 3)
    version = next(iter(by("build_info", 0)), "")
    return {
        "version": version,
        "ready": bool(one("ready")),
        "requests": {
            "total": sum(results.values()),
            "by_result": results,
            "by_status": by("requests_total", 2),
            "unreadable": by("unreadable_requests_total", 0),
        },
        "hit_ratio": hit_ratio(results),
        "sent_bytes": one("sent_bytes_total"),
        "saved_upstream_seconds": one("saved_upstream_seconds_total"),
        "durations": {"bounds": BOUNDS, **by("request_duration_seconds", 1)},
        "routes": _routes(snapshot),
        "upstreams": _upstreams(snapshot),
        "limits": {"routes": _limits(snapshot), "refused": _most(refused)},
        "flights": {
            "in_air": one("flights_in_air"),
            "started": one("flights_started_total"),
            "followers": one("followers_total"),
            "memory_bytes": one("flight_memory_bytes"),
            "memory_limit_bytes": one("flight_memory_limit_bytes"),
        },
        "memory": {
            "entries": one("memory_entries"),
            "used_bytes": one("memory_used_bytes"),
            "budget_bytes": one("memory_budget_bytes"),
            "evictions": one("memory_evictions_total"),
            "exploding_vary": next(iter(by("memory_exploding_vary_info", 0)), None),
        },
        "log": _those(snapshot, "log", _LOG),
        "redis": {**_those(snapshot, "redis", _REDIS), "errors": by("redis_errors_total", 0)}
        if "readthrough_redis_up" in snapshot
        else None,
        "shared_store": by("shared_store_events_total", 0),
        "access_log_lost_lines": by("access_log_lost_lines_total", 0),
        "connections": {
            "open": one("connections"),
            "accepted": one("connections_accepted_total"),
            "timed_out": one("connections_timed_out_total"),
        },
        "event_loop_lag": by("event_loop_lag_seconds", None).get("", {"counts": [0] * (len(BOUNDS) + 1), "sum": 0.0}),
    }


def hit_ratio(results: Mapping[str, float]) -> float | None:
    """Of the requests that the cache could have answered or did, those it did; None before the first."""
    asked = sum(count for word, count in results.items() if word not in _NOT_ASKED)
    return sum(results.get(word, 0) for word in _FROM_CACHE) / asked if asked else None


class _Reader:
    """Questions to a snapshot. Families are named without their common beginning."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def one(self, name: str, where: str | None = None) -> Value:
        """All of a family as one number; with `where` only what has this as its first label."""
        name = f"readthrough_{name}"
        values = [value for labels, value in self._snapshot.get(name, ()) if where is None or labels[0] == where]
        if FAMILIES[name].each:
            return _WORST.get(name, max)(values) if values else None
        return sum(values)

    def by(self, name: str, label: int | None, where: str | None = None) -> dict[str, Value]:
        """A family by one of its labels, the others summed; a histogram's counts are as they are kept, by bucket."""
        family = FAMILIES[f"readthrough_{name}"]
        found: dict[str, Value] = {}
        for labels, value in self._snapshot.get(family.name, ()):
            if where is not None and labels[0] != where:
                continue
            key = "" if label is None else labels[label]
            if family.kind is Kind.HISTOGRAM:
                before = found.get(key, {"counts": [0] * len(value[0]), "sum": 0.0})
                counts = [a + b for a, b in zip(before["counts"], value[0], strict=True)]
                found[key] = {"counts": counts, "sum": before["sum"] + value[1]}
            else:
                found[key] = found.get(key, 0) + value
        return found


def _routes(snapshot: Snapshot) -> dict[str, Any]:
    reader = _Reader(snapshot)
    told = {}
    for route in reader.by("requests_total", 0):
        results = reader.by("requests_total", 3, route)
        told[route] = {
            "requests": sum(results.values()),
            "by_result": results,
            "hit_ratio": hit_ratio(results),
            "sent_bytes": reader.one("sent_bytes_total", route),
            "saved_upstream_seconds": reader.one("saved_upstream_seconds_total", route),
        }
    return told


def _upstreams(snapshot: Snapshot) -> dict[str, Any]:
    reader = _Reader(snapshot)
    return {
        name: {
            "requests": requests,
            "retries": reader.one("upstream_retries_total", name),
            "errors": reader.by("upstream_errors_total", 1, name),
            "responses": reader.by("upstream_responses_total", 1, name),
            "connections": reader.one("upstream_connections", name),
            "breaker": "open" if reader.one("upstream_breaker_open", name) else "closed",
            "breaker_opened": reader.one("upstream_breaker_opened_total", name),
            "durations": reader.by("upstream_duration_seconds", 0, name).get(name),
            "gate": _gate(reader, name),
        }
        for name, requests in reader.by("upstream_requests_total", 0).items()
    }


def _gate(reader: _Reader, upstream: str) -> dict[str, Any] | None:
    limit = reader.one("upstream_gate_limit", upstream)
    numbers = {name: reader.one(f"upstream_gate_{name}", upstream) for name in ("inside", "waiting")}
    refused = reader.one("upstream_gate_refused_total", upstream)
    return {"limit": limit, **numbers, "refused": refused} if limit else None


def _limits(snapshot: Snapshot) -> dict[str, Any]:
    """What became of requests by route, and the clients that each limit remembers."""
    reader = _Reader(snapshot)
    gates = reader.by("route_gate_refused_total", 0)
    return {
        route: {
            **reader.by("limiter_decisions_total", 1, route),
            "buckets": reader.by("limiter_buckets", 1, route),
            "alone": reader.one("limiter_alone_total", route),
            "too_many_at_once": gates.get(route, 0),
        }
        for route in {**reader.by("limiter_decisions_total", 0), **gates}
    }


def _those(snapshot: Snapshot, part: str, names: Iterable[str]) -> dict[str, Any]:
    reader = _Reader(snapshot)
    return {
        name.removesuffix("_total"): reader.one(f"{part}_{name}")
        for name in names
        if f"readthrough_{part}_{name}" in snapshot
    }
