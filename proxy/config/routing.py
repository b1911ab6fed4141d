"""Routes of the configuration: their keys, what must hold between them, and what they become."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from proxy.config.document import Reading
from proxy.config.kinds import BAD, Choice, Key, ListOf, MapOf, OrOff, Section
from proxy.config.limiting import QUOTA, ROUTE_GATE, build_gate, build_quotas, check_quotas
from proxy.config.vocabulary import (
    BOOLEAN,
    CAPTURE,
    HEADER,
    HOST_PATTERN,
    METHOD,
    NAMED,
    NUMBER,
    PARAMETER,
    PATH_PATTERN,
    PERCENTAGE,
    SIZE,
    STATUS,
    TAG,
    captures,
    duration,
)
from proxy.rules.policy import KeyRule, Policy
from proxy.rules.routes import Match, Route, host_matches, path_pattern

_TIME: Final = duration()
_ANY: Final = "\0"

CACHE: Final = Section(
    {
        "default_ttl": Key(_TIME, "Lifetime where the upstream gives none."),
        "override_ttl": Key(_TIME, "Lifetime in place of the upstream's; never beats no-store or private."),
        "jitter": Key(PERCENTAGE, "Part of the lifetimes given here by which they vary at random."),
        "stale_while_revalidate": Key(_TIME, "How long a stale answer is served while it is refreshed."),
        "stale_if_error": Key(_TIME, "How long a stale answer is served while the upstream fails; 0 forbids it."),
        "early_refresh": Key(NUMBER, "XFetch beta: how eagerly entries are refreshed before they expire; 0 is off."),
        "negative_ttl": Key(MapOf(STATUS, _TIME), "Lifetimes of error statuses."),
        "request_cache_control": Key(
            Choice({"respect": True, "ignore": False}),
            "Whether clients can ask for what is fresh.",
            field="respect_request",
        ),
        "unsafe_invalidates": Key(BOOLEAN, "Whether a successful POST, PUT, … invalidates its URL."),
        "set_cookie": Key(
            Choice({"bypass": False, "store": True}), "Responses with Set-Cookie.", field="store_set_cookie"
        ),
        "credentials": Key(
            Choice({"bypass": False, "share": True}),
            "Requests with Cookie or Authorization, under a lifetime given here.",
            field="share_credentials",
        ),
        "key": Key(
            Section(
                {
                    "query": Key(
                        Section({"ignore": Key(ListOf(PARAMETER), "Parameters left out; a trailing * is any rest.")}),
                        "The query's part in the key.",
                    ),
                    "headers": Key(ListOf(HEADER), "Request headers whose values are in the key."),
                }
            ),
            "What tells one entry from another, beside scheme, host and target.",
        ),
        "tags": Key(ListOf(TAG), "Tags of every entry; {name} is what the path captured."),
        "forward_tags": Key(BOOLEAN, "Whether clients see the upstream's Surrogate-Key and Cache-Tag."),
        "max_object_size": Key(SIZE, "Bodies larger than this pass through unstored."),
    },
    Policy,
)
ROUTE: Final = Section(
    {
        "name": Key(NAMED, "What logs and metrics call the route.", required=True),
        "match": Key(
            Section(
                {
                    "host": Key(HOST_PATTERN, "Host, or *. and what it ends with."),
                    "path": Key(PATH_PATTERN, "Path; {name} is one segment, * at its end any rest."),
                    "methods": Key(ListOf(METHOD, least=1), "Methods; any where left out."),
                },
                Match,
                built=True,
            ),
            "Which requests take the route; any where left out.",
        ),
        "upstream": Key(NAMED, "Which of the upstreams answers.", required=True),
        "x_cache": Key(BOOLEAN, "Whether responses carry X-Cache: HIT, MISS, …"),
        "cache": Key(OrOff(CACHE), "How answers are cached; off for not at all."),
        "rate_limit": Key(
            ListOf(QUOTA, least=1, or_one=True),
            "What each client may ask for in a time; one, or a list.",
            field="quotas",
        ),
        "max_concurrent": Key(
            ROUTE_GATE, "How many requests of one client are under way at once; a number, or a mapping.", field="gate"
        ),
    },
    Route,
)

Values = Mapping[str, Any]


def check_routes(
    routes: Sequence[Any], defaults: Values | None, upstreams: Values | None, memory: int | None, reading: Reading
) -> None:
    """Note what is wrong between routes and the rest. `upstreams` and `memory` are None where they are not known."""
    names: dict[str, int] = {}
    for i, route in enumerate(routes):
        if route is BAD:
            continue
        at = f"routes[{i}]"
        name = route["name"]
        if name in names:
            what = f"{reading.shown(f'{at}.name')} is the name of routes[{names[name]}] too"
            reading.error(f"{at}.name", what, "give each route a name of its own")
        elif name is not BAD:
            names[name] = i
        if upstreams is not None and route["upstream"] is not BAD and route["upstream"] not in upstreams:
            what = f"{reading.shown(f'{at}.upstream')} is not among the upstreams"
            known = ", ".join(key for key in upstreams if reading.given(f"upstreams.{key}"))
            reading.error(f"{at}.upstream", what, f"write one of {known}" if known else "add it under upstreams")
        _check_cache(route, at, defaults, memory, reading)
        if route.get("quotas", BAD) is not BAD:
            cached = route.get("cache") is BAD or _merged(defaults, route) is not None
            check_quotas(route["quotas"], name, f"{at}.rate_limit", reading, cached=cached)


def _check_cache(route: Values, at: str, defaults: Values | None, memory: int | None, reading: Reading) -> None:
    own = route.get("cache")
    cache = _merged(defaults, route)
    if not cache:
        return

    def place(key: str) -> str:
        own_key = own is not BAD and own is not None and key in own
        return f"{at}.cache.{key}" if own_key else f"defaults.cache.{key}"

    match = route.get("match", Match())
    tags = cache.get("tags", ())
    if match is not BAD and tags is not BAD:
        known = set(captures(match.path))
        for i, tag in enumerate(tags):
            if tag is not BAD and not known.issuperset(captures(tag)):
                spot = f"{place('tags')}[{i}]"
                what = f"{reading.shown(spot)} names what the path of {at} does not capture"
                reading.error(spot, what, "write {name} for what stands in match.path as {name}")
    size = cache.get("max_object_size", BAD)
    if size is not BAD and memory is not None and size > memory:
        spot = place("max_object_size")
        what = f"{reading.shown(spot)} is more than memory.max_size"
        reading.error(spot, what, "write less, or raise memory.max_size")


def _merged(defaults: Values | None, route: Values) -> Values | None:
    """A route's cache over the defaults', None for off."""
    if "cache" not in route:
        return defaults
    own: Values | None = route["cache"]
    return None if own is None or own is BAD else _over(defaults or {}, own)


def _over(under: Values, upper: Values) -> dict[str, Any]:
    merged = {**under, **upper}
    for key, value in upper.items():
        below = under.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = _over(below, value)
    return merged


def build_route(values: Values, defaults: Values | None, memory: int) -> Route:
    """A route of values that hold nothing BAD. Where no `max_object_size` is given it is what fits into `memory`."""
    cache = _merged(defaults, values)
    if cache is None:
        policy = Policy(enabled=False)
    else:
        key = cache.get("key", {})
        rule = KeyRule(key.get("query", {}).get("ignore", ()), key.get("headers", ()))
        size = min(Policy().max_object_size, memory)
        policy = Policy(**{"max_object_size": size, **cache, "key": rule})
    match = values.get("match", Match())
    name = values["name"]
    quotas, gate = build_quotas(values.get("quotas", ()), name), build_gate(values.get("gate"))
    return Route(name, match, values["upstream"], policy, values.get("x_cache", False), quotas, gate)


def unreachable(routes: Sequence[Route]) -> Iterator[tuple[int, int]]:
    """Positions of each route that can never match and of the first that takes all of its requests."""
    for i, route in enumerate(routes):
        for j, earlier in enumerate(routes[:i]):
            if _covers(earlier.match, route.match):
                yield i, j
                break


def _covers(wide: Match, narrow: Match) -> bool:
    if wide.methods and (not narrow.methods or not set(narrow.methods) <= set(wide.methods)):
        return False
    if narrow.host in (None, "*"):
        if wide.host not in (None, "*"):
            return False
    elif not host_matches(wide.host, narrow.host.replace("*", _ANY)):
        return False
    # A character that no pattern has is matched by wildcards only, and what matches it matches all it stands for.
    rest = narrow.path.endswith("*")
    sample = CAPTURE.sub(_ANY, narrow.path.removesuffix("*"))
    return (not rest or wide.path.endswith("*")) and path_pattern(wide.path).match(sample) is not None
