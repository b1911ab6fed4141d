"""Which route a request takes: the first whose host, path and method match.

Host patterns are exact or begin with `*.`, which stands for one or more labels. In a path
pattern `{name}` matches one segment and a trailing `*` the rest.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from functools import lru_cache

from proxy.rules.policy import Policy
from proxy.rules.quota import GateRule, Quota


@dataclass(frozen=True, slots=True)
class Match:
    """`host` None means any host; empty `methods` means any method."""

    host: str | None = None
    path: str = "/*"
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One rule of the configuration: what it matches, where it goes, how it is cached and limited."""

    name: str
    match: Match
    upstream: str
    policy: Policy
    x_cache: bool = False
    quotas: tuple[Quota, ...] = ()
    gate: GateRule | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """A route that matched, and what its `{name}` captured."""

    route: Route
    captures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Unrouted:
    """No route: `allow` holds the methods other routes take at that host and path, if any."""

    allow: tuple[str, ...]


@unique
class Miss(Enum):
    """The first part of a route's match that a request does not fit."""

    HOST = "host"
    PATH = "path"
    METHOD = "method"


@lru_cache(maxsize=4096)
def path_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a path pattern of the configuration. Anchored at both ends."""
    rest = pattern.endswith("*")
    pieces = re.split(r"\{(\w+)\}", pattern.removesuffix("*"))
    regex = "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>[^/]+)" for i, p in enumerate(pieces))
    return re.compile(regex + (".*" if rest else "") + r"\Z", re.DOTALL)


def host_matches(pattern: str | None, host: str) -> bool:
    """Whether a request's host, with or without its port, fits a route's pattern."""
    if pattern is None or pattern in ("*", host):
        return True
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return pattern == name


def route(routes: Iterable[Route], host: str, path: str, method: str) -> Routed | Unrouted:
    """The first route that matches, or the methods that would have."""
    allow: list[str] = []
    for candidate in routes:
        match = candidate.match
        if not host_matches(match.host, host):
            continue
        found = path_pattern(match.path).match(path)
        if found is None:
            continue
        if match.methods and method not in match.methods:
            allow.extend(m for m in match.methods if m not in allow)
            continue
        return Routed(candidate, found.groupdict())
    return Unrouted(tuple(allow))


def miss(match: Match, host: str, path: str, method: str) -> Miss | None:
    """Why `route` passes a route over, None where it takes it: for whoever asks afterwards."""
    if not host_matches(match.host, host):
        return Miss.HOST
    if path_pattern(match.path).match(path) is None:
        return Miss.PATH
    return Miss.METHOD if match.methods and method not in match.methods else None
