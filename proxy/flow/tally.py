"""What became of requests, in plain numbers that are read when somebody asks.

A plain hit costs one addition, on what is known of its request; the rest is worked out when its answer is made
anew, once a second at most, or when somebody asks. Everything else is noted once, at its end.
"""

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum, unique
from typing import Final

from proxy.flow.hot import HotKeys
from proxy.rules.lookup import SAFE_METHODS
from proxy.rules.message import Fwd, Reason
from proxy.rules.report import Account

# Seconds; a histogram counts what took at most so long, and behind the last what took longer.
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SAMPLE: Final = 16  # one answer from the cache of so many is told to the hot keys, and counts for all


@unique
class Result(Enum):
    """What the cache did for a request."""

    __hash__ = object.__hash__  # Enum's own is a call into Python, and every request is counted by these

    HIT = "hit"  # fresh, from memory
    SHARED = "shared"  # fresh, from the store of all instances
    STALE = "stale"  # by one of the windows, or because the upstream failed
    REVALIDATED = "revalidated"  # the upstream said 304
    MISS = "miss"
    BYPASS = "bypass"
    ERROR = "error"  # the upstream gave no answer, not to its end, or an error
    PURGED = "purged"  # a PURGE that was done
    REFUSED = "refused"  # by us: no route, no such method, only-if-cached
    GONE = "gone"  # the client left, or its body turned out bad


@unique
class Method(Enum):
    """A class of methods, of which there are any number."""

    __hash__ = object.__hash__  # likewise

    GET = "GET"
    HEAD = "HEAD"
    SAFE = "safe"
    UNSAFE = "unsafe"


@unique
class Source(Enum):
    """Where the answer came from; durations are kept apart by it."""

    __hash__ = object.__hash__  # likewise

    CACHE = "cache"
    UPSTREAM = "upstream"
    PROXY = "proxy"


_METHODS: Final = {"GET": Method.GET, "HEAD": Method.HEAD}
_SOURCES: Final = {
    **dict.fromkeys(Result, Source.UPSTREAM),
    **dict.fromkeys((Result.HIT, Result.SHARED, Result.STALE), Source.CACHE),
    **dict.fromkeys((Result.PURGED, Result.REFUSED, Result.GONE), Source.PROXY),
}
_FRESH: Final = {Reason.SHARED_STORE: Result.SHARED, Reason.STALE_IF_ERROR: Result.STALE}
_LIMITED: Final = Reason.RATE_LIMITED  # a global is found ten times as fast as an enum's member
_LEFT: Final = frozenset({Reason.CLIENT_GONE, Reason.MALFORMED, Reason.REQUEST_TIMEOUT})


def result_of(account: Account) -> Result:
    """The account of a request in one word."""
    fwd, reason = account.fwd, account.reason
    if reason in _LEFT:
        return Result.GONE
    if account.ttl is not None and account.ttl >= 0:
        return _FRESH.get(reason) or Result.HIT
    if account.ttl is not None or reason is Reason.STALE_IF_ERROR:
        return Result.STALE
    if fwd is None:
        return Result.PURGED if reason is Reason.PURGED else Result.REFUSED
    if account.fwd_status is None or reason is Reason.UPSTREAM_ERROR:
        return Result.ERROR
    if fwd in (Fwd.BYPASS, Fwd.METHOD):
        return Result.BYPASS
    return Result.REVALIDATED if account.fwd_status == 304 else Result.MISS


def method_of(method: str) -> Method:
    """The class of a method."""
    return _METHODS.get(method) or (Method.SAFE if method in SAFE_METHODS else Method.UNSAFE)


def source_of(result: Result) -> Source:
    """Where such an answer came from."""
    return _SOURCES[result]


class Histogram:
    """How many took how long, and all of them together, in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts, self.total = [0] * (len(BOUNDS) + 1), 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Tally:
    """Requests with the same labels: `noted` one by one, `plain` ones answered in the call that received them.
    `sent` is in bytes of body; `saved` is what plain ones would have waited for the upstream, in seconds.
    """

    __slots__ = ("noted", "plain", "saved", "sent")

    def __init__(self) -> None:
        self.plain = self.noted = self.sent = 0
        self.saved = 0.0


class UpstreamTally:
    """Of one upstream: seconds to the response head, its answers by class of the status, whatever became of them, and
    calls that its breaker held back.
    """

    __slots__ = ("answers", "durations", "held_back")

    def __init__(self) -> None:
        self.durations, self.held_back = Histogram(), 0
        self.answers = dict.fromkeys((2, 3, 4, 5), 0)

    def answered(self, status: int, seconds: float) -> None:
        """One more, after so many seconds."""
        self.durations.observe(seconds)
        self.answers[status // 100] = self.answers.get(status // 100, 0) + 1


class LimitTally:
    """Requests of one route that its limits have not allowed: `stale` got a stored answer in place of a refusal.

    They are counted when they are noted, so that all that were noted less these were allowed, and never fewer.
    """

    __slots__ = ("refused", "stale")

    def __init__(self) -> None:
        self.refused = self.stale = 0


Labels = tuple[str, Method, int, Result]  # route, class of the method, of the status, and what the cache did


class Tallies:
    """All requests of a process. `roll` draws from (0, 1]. The route is empty where none took the request."""

    def __init__(self, now: Callable[[], float], roll: Callable[[], float]) -> None:
        self.hot = HotKeys(now)
        self.requests: dict[Labels, Tally] = {}
        self.durations: dict[tuple[str, Source], Histogram] = {}
        self.saved: dict[str, float] = {}  # seconds by route, beside those of plain hits
        self.limits: dict[str, LimitTally] = {}  # by route, where there was such a request
        self.refused = HotKeys(now)  # clients by their limits: route, its name and the client, a line each
        self.followers = 0  # answered with what another request had fetched
        self._roll = roll
        self._plain: dict[tuple[str, str, int], Tally] = {}
        self._shared: dict[tuple[str, str, int], tuple[Tally, Histogram]] = {}
        self._until = SAMPLE

    def of_plain(self, route: str, method: str, status: int) -> Tally:
        """Where plain hits of a kind are counted."""
        tally = self._plain.get((route, method, status))
        if tally is None:
            tally = self._plain[route, method, status] = self._of((route, method_of(method), status // 100, Result.HIT))
        return tally

    def hit(self, tally: Tally, key: str, hits: int, sent: int, saved: float) -> None:
        """So many plain hits, each of them with that much."""
        tally.plain += hits
        tally.sent += hits * sent
        tally.saved += hits * saved
        self.seen(key, hits)

    def shared(self, route: str, method: str, status: int, key: str, sent: int, saved: float, seconds: float) -> None:
        """One plain request that was answered from the store of all instances."""
        known = self._shared.get((route, method, status))
        if known is None:
            labels = route, method_of(method), status // 100, Result.SHARED
            known = self._shared[route, method, status] = self._of(labels), self._durations(route, Source.CACHE)
        tally, durations = known
        tally.noted += 1
        tally.sent += sent
        durations.observe(seconds)
        self.save(route, saved)
        self.seen(key)

    def seen(self, key: str, times: int = 1) -> None:
        """The key was asked for; a sample is told to the hot keys."""
        self._until -= times
        if self._until <= 0:
            over = -self._until
            self.hot.add(key, SAMPLE * (1 + over // SAMPLE))
            # By chance, or of keys that are asked for in turn always the same one would be seen.
            self._until = 1 + int(self._roll() * (2 * SAMPLE - 1)) - over % SAMPLE

    def note(self, route: str, method: str, status: int, account: Account, sent: int, seconds: float) -> None:
        """Any other request, at its end."""
        result = result_of(account)
        tally = self._of((route, method_of(method), status // 100, result))
        tally.noted += 1
        tally.sent += sent
        self.followers += account.collapsed
        if account.reason is _LIMITED:
            limited = self.limits.setdefault(route, LimitTally())
            limited.refused += account.ttl is None
            limited.stale += account.ttl is not None
        self._durations(route, source_of(result)).observe(seconds)

    def save(self, route: str, seconds: float) -> None:
        """What an answer from the cache that is no plain hit has saved."""
        self.saved[route] = self.saved.get(route, 0.0) + seconds

    def _durations(self, route: str, source: Source) -> Histogram:
        durations = self.durations.get((route, source))
        if durations is None:
            durations = self.durations[route, source] = Histogram()
        return durations

    def _of(self, labels: Labels) -> Tally:
        tally = self.requests.get(labels)
        if tally is None:
            tally = self.requests[labels] = Tally()
        return tally
