"""Limits in the configuration: of requests per time and of requests at once."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Final

from proxy.config.document import Reading
from proxy.config.kinds import BAD, Choice, Key, OrBare, Section
from proxy.config.vocabulary import LABEL, LIMIT_BY, NUMBER, RATE, Rate, duration, integer
from proxy.rules.quota import By, GateRule, Quota

LONGEST: Final = 400 * 86_400.0  # seconds in which a burst is saved up; beyond it a figure is likely mistaken

Values = Mapping[str, Any]

_COUNT: Final = integer(1)
_WHOSE: Final[Mapping[str, Key]] = {
    "by": Key(LIMIT_BY, "Who is counted apart: ip, header:NAME or route."),
    "ipv6_prefix": Key(integer(1, 128), "Bits of an IPv6 address that tell one client from another."),
}
_AT_ONCE: Final[Mapping[str, Key]] = {
    "requests": Key(_COUNT, "Under way at once.", required=True),
    "queue": Key(integer(0), "How many more may wait; as many as requests where left out."),
    "wait": Key(duration(positive=True), "How long they may."),
}
QUOTA: Final = Section(
    {
        "rate": Key(RATE, "Tokens that come per time; a request costs one.", required=True),
        "burst": Key(_COUNT, "Tokens that can be saved up; the number in rate where left out."),
        **_WHOSE,
        "name": Key(LABEL, "What RateLimit and logs call the limit; the route's name where left out."),
        "cost": Key(
            Section(
                {
                    "hit": Key(NUMBER, "Tokens for an answer from the cache."),
                    "miss": Key(NUMBER, "Tokens for an answer for which the upstream is asked."),
                },
                Quota,
            ),
            "What an answer costs.",
        ),
        "over_limit": Key(
            Choice({"reject": False, "serve_stale": True}),
            "What a client without tokens gets: 429, or a stale answer where there is one.",
            field="serve_stale",
        ),
    },
    Quota,
)
GATE: Final = OrBare(Section(_AT_ONCE, GateRule), "requests")
ROUTE_GATE: Final = OrBare(Section({**_AT_ONCE, **_WHOSE}, GateRule), "requests")


def build_gate(values: Values | None) -> GateRule | None:
    """A concurrency limit of values that hold nothing BAD."""
    return None if values is None else GateRule(**{"queue": values["requests"], **values, **_whose(values)})


def build_quotas(limits: Sequence[Values], route: str) -> tuple[Quota, ...]:
    """A route's rate limits of values that hold nothing BAD."""
    return tuple(_quota(values, _name(values, route, i)) for i, values in enumerate(limits))


def _quota(values: Values, name: str) -> Quota:
    rate: Rate = values["rate"]
    given = {key: values[key] for key in ("ipv6_prefix", "serve_stale") if key in values}
    burst = float(values.get("burst", max(1, int(rate.number))))
    return Quota(name, rate.per_second, burst, **_whose(values), **values.get("cost", {}), **given)


def _name(values: Values, route: str, place: int) -> str:
    name: str = values.get("name", route if place == 0 else f"{route}-{place + 1}")
    return name


def _whose(values: Values) -> dict[str, Any]:
    by, _, header = values.get("by", "ip").partition(":")
    return {"by": By(by), "header": header}


def check_quotas(limits: Sequence[Any], route: str, at: str, reading: Reading, *, cached: bool) -> None:
    """Note what makes no sense in the limits of a route, which stand at `at`. `cached`: it may have stale answers."""
    sound: dict[str, Quota] = {}
    names: dict[str, str] = {}
    for i, values in enumerate(limits):
        if values is BAD or BAD in values.values() or BAD in values.get("cost", {}).values():
            continue
        place = f"{at}[{i}]" if reading.given(f"{at}[{i}]") else at
        quota = _quota(values, _name(values, route, i))
        _check_quota(quota, place, reading, cached=cached)
        if quota.name in names:
            spot = f"{place}.name" if "name" in values else place
            called = reading.shown(spot) if "name" in values else "what its route and its place call it"
            what = f"{called} is the name of {names[quota.name]} too"
            reading.error(spot, what, "write name: with another for each")
        names.setdefault(quota.name, place)
        sound[place] = quota
    covered: set[str] = set()
    for place, quota in sound.items():
        for other, wider in sound.items():
            if other != place and place not in covered and other not in covered and quota.covers(wider):
                covered.add(other)
                what = f"has no effect: whatever it would refuse, {place} refuses"
                reading.error(other, what, "leave it out, or lower its rate or its burst")


def _check_quota(quota: Quota, place: str, reading: Reading, *, cached: bool) -> None:
    cost = max(quota.hit, quota.miss)
    spot = next(key for key in (f"{place}.burst", f"{place}.rate") if reading.given(key))
    if not cost:
        reading.error(f"{place}.cost", "is nothing, so nothing is limited", "write more than 0 for hit or for miss")
    if quota.burst < cost:
        what = f"a burst of {quota.burst:g} can never pay for an answer that costs {cost:g}"
        reading.error(spot, what, f"write burst: {ceil(cost)} or more, or a lower cost")
    if quota.burst > LONGEST * quota.rate:
        what = f"it takes more than {LONGEST / 86_400:g} days to save up the burst"
        reading.error(spot, what, "write a smaller burst, or a higher rate")
    if quota.serve_stale and not cached:
        what = "this route stores nothing that could be stale"
        reading.error(f"{place}.over_limit", what, "write reject, or give the route a cache")
