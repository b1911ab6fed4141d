"""Numbers of a process, with nothing behind them."""

from dataclasses import dataclass, field

from proxy.admin.reading import Redis, Sources
from proxy.flow.breaker import Breaker
from proxy.flow.flights import FlightMemory, Flights
from proxy.flow.gate import Gate, Gates
from proxy.flow.invalidation import InvalidationLog
from proxy.flow.site import Upstream
from proxy.flow.tally import Histogram, Tallies
from proxy.rules.message import Fwd, Reason
from proxy.rules.quota import GateRule, Quota
from proxy.rules.report import Account
from tests.flow.kit import FakeOrigin


@dataclass
class Memory:
    size: int = 1000
    count: int = 10
    budget: int = 2000
    evictions: int = 3
    exploding: str | None = "user-agent"


@dataclass
class Calls:
    requests: int = 7
    retries: int = 1
    failures: dict[Reason, int] = field(default_factory=lambda: {Reason.TIMEOUT: 2})
    connections: int = 4


@dataclass
class Accepted:
    accepted: int = 12
    timed_out: int = 1


@dataclass
class Lines:
    dropped: int = 5
    lost: int = 6


@dataclass
class State:
    blind_seconds: float = 0.0
    lag_seconds: float = 0.5
    number: int = 42
    outbox: int = 2
    instances: int = 3
    applied: int = 40
    gaps: int = 1
    restarts: int = 0


@dataclass
class RedisCounters:
    commands: int = 100
    errors: int = 1
    timeouts: int = 2
    reconnects: int = 1
    failed_connects: int = 5
    latency: float = 0.001


class Buckets:
    def __len__(self) -> int:
        return 3

    def take(self, client: str, cost: float, now: float) -> float | None:
        raise NotImplementedError

    async def ask(self, client: str, cost: float) -> float:
        raise NotImplementedError

    def give_back(self, client: str, amount: float, now: float) -> None:
        raise NotImplementedError

    def left(self, client: str, now: float) -> float:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass
class Leases:
    asked: int = 20
    failed: int = 2
    alone: int = 4


@dataclass
class Store:
    reads: int = 9
    unknown_version: int = 1


def sources(routes: int = 1, memory: Memory | None = None) -> Sources:
    """Everything there is to count, of that many routes: on each all kinds of results, 1000 plain hits among them."""
    tallies, log = Tallies(lambda: 0.0, lambda: 1.0), InvalidationLog()
    for number in range(routes):
        route = f"route {number}"
        tallies.hit(tallies.of_plain(route, "GET", 200), "http://a/", 1000, 10, 0.25)
        for account in (
            Account(Reason.EXPIRED, None, Fwd.STALE, 304),
            Account(Reason.ABSENT, None, Fwd.URI_MISS, 200, collapsed=True),
            Account(Reason.CACHE_OFF, None, Fwd.BYPASS, 200),
            Account(Reason.CONNECT, None, Fwd.URI_MISS),
            Account(Reason.STALE_IF_ERROR, None, Fwd.STALE, 503),
            Account(Reason.CLIENT_GONE, None, Fwd.URI_MISS),
        ):
            tallies.note(route, "GET", 200, account, 100, 0.02)
        tallies.save(route, 0.5)
    tallies.note("", "BREW", 404, Account(Reason.NO_ROUTE), 50, 0.0001)
    tallies.refused.add("route 0\nfew\n192.0.2.1", 3)
    rule = GateRule(2, 0)
    upstream = Upstream(
        "api", "a", preserve_host=False, timeout=1.0, origin=FakeOrigin(), breaker=Breaker(5, 5.0), gate=Gate(rule)
    )
    upstream.tally.durations.observe(0.02)
    upstream.tally.held_back = 1
    upstream.tally.answers.update({2: 4, 5: 3})
    lag = Histogram()
    lag.observe(0.003)
    return Sources(
        version="1.2.3",
        ready=lambda: True,
        settle=lambda: None,
        tallies=tallies,
        refusals={Reason.MALFORMED: 2},
        flights=Flights(log, FlightMemory(500)),
        memory=Memory() if memory is None else memory,
        log=log,
        upstreams=lambda: [(upstream, Calls())],
        limits=lambda: [(f"route {n}", Quota("few", 1.0, 1.0), Buckets(), Leases()) for n in range(routes)],
        gates=lambda: [(f"route {n}", Gates(rule)) for n in range(routes)],
        accepted=Accepted(),
        connections=[1, 2],
        lag=lag,
        journal=Lines(),
        redis=Redis(lambda: True, RedisCounters(), State, Store()),
    )
