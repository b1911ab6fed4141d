"""What is measured: cases, their subjects, and what is promised about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.benchmarks.upstream import ETAG


@dataclass(frozen=True)
class Subject:
    """A server. `config` is laid over Readthrough's configuration, top-level key by key; `log` is its access log;
    `busy` is how many microseconds the floor works before it answers; `redis`: it has one, on the core of the load.
    """

    name: str
    kind: Literal["readthrough", "nginx", "floor"]
    config: Mapping[str, Any] = field(default_factory=dict)
    log: bool = False
    busy: int = 0
    redis: bool = False


@dataclass(frozen=True)
class Traffic:
    """What is asked: always the same, one of `keys` URLs drawn with Zipf's skew 1.0 or all alike, or something new each
    time.
    """

    path: str
    draw: Literal["same", "zipf", "even", "unique-url", "unique-field"] = "same"
    extra: tuple[tuple[str, str], ...] = ()  # fields beside the usual eleven
    connections: int = 64
    keys: int = 1


@dataclass(frozen=True)
class Rate:
    """Of an open loop: this part of the median that a case has measured, of `subject` or else of each for itself."""

    case: str
    subject: str | None
    part: float = 0.5


@dataclass(frozen=True)
class Case:
    """One row or more of a table: the first subject is compared with each of the others.

    `cached` says whether the answers come from the cache; the upstream counts along. With a `rate` it is latency
    that is measured.
    """

    name: str
    title: str
    subjects: tuple[Subject, ...]
    traffic: Traffic
    cached: bool = True
    status: int = 200
    size: int = 1024  # bytes of the body
    rate: Rate | None = None


@dataclass(frozen=True)
class Promise:
    """A bound on the ratio of a case's first subject to another: of rates at least, of the 99th percentile at most.
    Against nobody it is a bound on the rate itself.
    """

    case: str
    against: str | None
    bound: float
    measure: Literal["rate", "p99"] = "rate"
    aim: float | None = None


GENEROUS: Final = {"memory": {"max_size": "1GiB"}}
UNCACHED: Final = {"routes": [{"name": "all", "upstream": "api", "cache": "off"}]}
READTHROUGH: Final = Subject("readthrough", "readthrough", GENEROUS)
DEFAULT: Final = Subject("readthrough", "readthrough")
NGINX: Final = Subject("nginx", "nginx")
FLOOR: Final = Subject("floor", "floor")
MEMORY_COLD: Final = Subject("readthrough, memory cold", "readthrough", {"memory": {"max_size": "1KiB"}}, redis=True)
# Never reached: what is measured is what it costs to count.
LIMITED: Final = {
    **GENEROUS,
    "routes": [{"name": "all", "upstream": "api", "rate_limit": {"rate": "1000000/s", "burst": 1_000_000}}],
}
BUSY: Final = Subject("floor, 24 µs busy", "floor", busy=24)  # what a head costs in the process that is read anew
BOTH: Final = (READTHROUGH, NGINX)
ALL: Final = (READTHROUGH, NGINX, FLOOR)
LOGGING: Final = (
    Subject("readthrough", "readthrough", {**GENEROUS, "access_log": "json"}, log=True),
    Subject("nginx", "nginx", log=True),
)
ONE: Final = Traffic("/1k/products/1")
CONDITIONAL: Final = Traffic("/1k/products/1", extra=(("If-None-Match", ETAG),))

CASES: Final = (
    Case("hit-1k", "hit, 1 KiB", ALL, ONE),
    Case("hit-64k", "hit, 64 KiB", ALL, Traffic("/64k/products/1"), size=65536),
    Case("hit-vary-encoding", "hit, Vary: Accept-Encoding", BOTH, Traffic("/vary-encoding/products/1")),
    Case("hit-vary-language", "hit, Vary: Accept-Language", BOTH, Traffic("/vary-language/products/1")),
    Case("hit-304", "hit, If-None-Match, 304", ALL, CONDITIONAL, status=304, size=0),
    Case("hit-log", "hit, 1 KiB, access log on", LOGGING, ONE),
    Case("hit-zipf", "hit, 10,000 URLs, Zipf 1.0", BOTH, Traffic("/1k/products/", "zipf", keys=10_000)),
    Case(
        "hit-unique-field",
        "hit, each with an X-Request-Id",
        (*BOTH, BUSY),
        Traffic("/1k/products/1", "unique-field"),
    ),
    Case("hit-1000", "hit, 1,000 connections", ALL, Traffic("/1k/products/1", connections=1000)),
    Case(
        "hit-limited",
        "hit, under a rate limit",
        (Subject("readthrough, limited", "readthrough", LIMITED), READTHROUGH),
        ONE,
    ),
    Case(
        "hit-limited-redis",
        "hit, under a limit in Redis",
        (
            Subject("readthrough, limited", "readthrough", LIMITED, redis=True),
            Subject("readthrough", "readthrough", GENEROUS, redis=True),
        ),
        ONE,
    ),
    Case(
        "redis-1k",
        "read from Redis, 2,000 URLs",
        (MEMORY_COLD, READTHROUGH),
        Traffic("/1k/products/", "even", keys=2_000),
    ),
    Case("miss", "miss, each a new URL", (DEFAULT, NGINX), Traffic("/1k/products/", "unique-url"), cached=False),
    Case(
        "pass",
        "pass-through, no-store",
        (DEFAULT, Subject("readthrough, cache: off", "readthrough", UNCACHED), NGINX),
        Traffic("/nostore/account"),
        cached=False,
    ),
    Case("latency", "half of nginx's capacity", ALL, ONE, rate=Rate("hit-1k", "nginx")),
    Case("latency-own", "half of its own capacity", ALL, ONE, rate=Rate("hit-1k", None)),
)

PROMISES: Final = (
    Promise("hit-1k", "nginx", 1.2, aim=1.5),
    Promise("hit-1k", "floor", 0.65),
    Promise("hit-zipf", "nginx", 1.1),
    Promise("hit-304", "nginx", 1.2),
    Promise("hit-log", "nginx", 1.0),
    Promise("hit-limited", "readthrough", 0.9),
    Promise("hit-limited-redis", "readthrough", 0.9),
    Promise("redis-1k", None, 15_000),
    Promise("latency", "nginx", 1.0, "p99"),
)


def chosen(names: list[str] | None) -> tuple[Case, ...]:
    """The cases of these names, or all, and those that they take their rates from; in their usual order."""
    if names is None:
        return CASES
    wanted = {*names, *(case.rate.case for case in CASES if case.name in names and case.rate)}
    return tuple(case for case in CASES if case.name in wanted)
