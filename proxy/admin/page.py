"""An explanation as a page for a terminal. Standard library only, like all that the command line loads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_BOLD: Final = ("\x1b[1m", "\x1b[0m")
_WIDEST: Final = 28  # characters of a name that others are aligned with

Row = tuple[str, str]
Members = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A heading and, beneath it, names and what there is to say of them."""

    title: str
    rows: Sequence[Row]


def plain(text: object) -> str:
    """What somebody else has said, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def render(members: Members, *, bold: bool) -> Iterator[str]:
    """The lines of the page. `bold`: a terminal shows them."""
    on, off = _BOLD if bold else ("", "")
    for i, part in enumerate(parts(members)):
        if i:
            yield ""
        yield f"{on}{plain(part.title)}{off}"
        width = max((len(plain(name)) for name, _ in part.rows if len(name) <= _WIDEST), default=0)
        for name, value in part.rows:
            yield f"  {plain(name):<{width}}  {plain(value)}".rstrip()


def parts(members: Members) -> Iterator[Part]:
    """What is to be said, the answer first. Members that are not known here are left out."""
    steps = {step.get("step"): step for step in _mappings(members.get("steps"))}
    answer = members.get("answer")
    asked = steps.get("request", {})
    title = "{} {}://{}{}".format(*(asked.get(name, "?") for name in ("method", "scheme", "host", "target")))
    yield Part(title, list(_answer(answer if isinstance(answer, dict) else {}, asked)))
    for name, rows in _STEPS.items():
        if name in steps:
            yield Part(_TITLES[name], list(rows(steps[name])))


def _answer(answer: Members, asked: Members) -> Iterator[Row]:
    status, reason = answer.get("status"), answer.get("reason", "?")
    match answer.get("act"):
        case "serve":
            yield "would be", f"served from what is stored: {status}, {reason}"
        case "fetch":
            yield "would be", f"fetched from the upstream: {reason}"
        case "purge":
            yield "would be", f"done, for clients that may: {status}, {reason}"
        case _:
            yield "would be", f"refused: {status}, {reason}"
    if asked.get("refused"):
        yield "because", str(asked["refused"])
    if answer.get("cache_status"):
        more = ", and what comes of the fetch" if answer.get("act") == "fetch" else ""
        yield "Cache-Status", f"{answer['cache_status']}{more}"
    if answer.get("retry_after") is not None:
        yield "Retry-After", str(answer["retry_after"])
    if answer.get("age") is not None:
        yield "Age", str(answer["age"])
    for name, said in (
        ("renews", "it is renewed behind the client's back"),
        ("validates", "what is stored is validated, and lives on if it has not changed"),
        ("stores", "its answer is stored, if what the upstream says allows that"),
        ("bridged", "should the upstream fail, what is stored is served stale"),
    ):
        if answer.get(name) is True:
            yield "and", said


def _route(step: Members) -> Iterator[Row]:
    for tried in _mappings(step.get("tried")):
        host, path, methods = tried.get("host") or "any host", tried.get("path"), tried.get("methods")
        takes = f"{host}, {path}, {', '.join(map(str, methods)) if methods else 'any method'}"
        miss = tried.get("miss")
        yield str(tried.get("route")), f"{f'passed over, another {miss}' if miss else 'taken'}: {takes}"
    if step.get("route") is None:
        asked = step.get("tried") or step.get("allow")
        yield "none", "no route takes it" if asked else "no route is asked"
    captures = step.get("captures")
    for name, value in captures.items() if isinstance(captures, dict) else ():
        yield f"{{{name}}}", str(value)
    if step.get("allow"):
        yield "would take", _listed(step["allow"])


def _purge(step: Members) -> Iterator[Row]:
    for url in step.get("urls") or ():
        yield "stale" if step.get("soft") is True else "gone", str(url)
    yield "allowed", _listed(step.get("allow") or ())


def _key(step: Members) -> Iterator[Row]:
    for name in ("scheme", "host", "target"):
        yield name, str(step.get(name))
    if step.get("ignored"):
        yield "ignored", f"query parameters {_listed(step['ignored'])}"
    for header in _mappings(step.get("headers")):
        yield "header", f"{header.get('name')}: {_value(header.get('value'))}"
    if step.get("tags"):
        yield "tags", _listed(step["tags"])


def _cache(step: Members) -> Iterator[Row]:
    yield "may answer", "yes" if step.get("may") is True else f"no: {step.get('reason')}"
    if step.get("credentials") is True:
        yield "credentials", "the request says who asks"


def _variants(step: Members) -> Iterator[Row]:
    stored = _mappings(step.get("stored"))
    if not stored:
        yield "nothing", "is stored under this key"
    for i, entry in enumerate(stored, 1):
        words = [
            "selected" if entry.get("selected") is True else "not selected",
            f"{entry.get('status')}, {entry.get('length')} bytes, {_left(entry.get('left'))}, {entry.get('standing')}",
        ]
        if entry.get("current") is False:
            words.append("stored under another policy")
        yield f"variant {i}", ": ".join(words[:2]) + "".join(f", {word}" for word in words[2:])
        for field in _mappings(entry.get("vary")):
            name, there, own = field.get("name"), _value(field.get("stored")), _value(field.get("asked"))
            yield (
                "",
                f"{name}: {there}"
                + (", like the request's" if field.get("same") is True else f", and the request's is {own}"),
            )
    if step.get("memory_only") is True:
        yield "looked at", "memory only: the shared store was not asked"


def _invalidation(step: Members) -> Iterator[Row]:
    blind = step.get("trust") != "trusted"
    yield (
        "the log",
        f"nobody vouches for it; entries are used for {_seconds(step.get('grace'))}" if blind else "is complete",
    )
    if step.get("standing") is not None:
        yield "the entry is", str(step["standing"])
    for record in _mappings(step.get("records")):
        yield "invalidated", f"{'softly' if record.get('soft') is True else 'hard'}, by {record.get('kind')}"


def _freshness(step: Members) -> Iterator[Row]:
    lifetime, age, left = (_seconds(step.get(name)) for name in ("lifetime", "age", "left"))
    yield "lifetime - age", f"{lifetime} - {age} = {left}, {'fresh' if step.get('fresh') is True else 'not fresh'}"
    yield "by", "the upstream's word" if step.get("stated") is True else "the route's configuration, or a guess"
    for window in _mappings(step.get("windows")):
        name = "stale if unreachable" if window.get("unreachable") is True else str(window.get("name"))
        yield name, _window(window, over=step.get("must_validate") is True)
    if step.get("must_validate") is True:
        yield "validated", "before every use"
    if step.get("never_stale") is True:
        yield "stale", "never, says the response or what was lost of the log"
    chance = step.get("early_refresh")
    if isinstance(chance, int | float) and chance > 0:
        yield "renewed early", f"by a chance of {chance:.2g}"


def _window(window: Members, *, over: bool) -> str:
    rest = window.get("left")
    if not window.get("seconds"):
        return "none"
    ends = "over" if over or not isinstance(rest, int | float) or rest <= 0 else f"ends in {_seconds(rest)}"
    return f"{_seconds(window.get('seconds'))}, {ends}"


def _client(step: Members) -> Iterator[Row]:
    wishes = _mappings(step.get("wishes"))
    if not wishes:
        yield "nothing", "is asked of the cache"
    for wish in wishes:
        compared = wish.get("compared")
        against = f" (compared with {_seconds(compared)})" if compared is not None else ""
        effect = f"would make it {wish.get('alone')}" if wish.get("changes") is True else "changes nothing"
        yield str(wish.get("directive")), f"{effect}{against}"
    if wishes and step.get("respected") is not True:
        yield "respected", "no: the route does not listen to clients"
    elif wishes:
        yield "without it", str(step.get("without"))


def _limits(step: Members) -> Iterator[Row]:
    pays = "for asking the upstream" if step.get("pays") == "miss" else "for an answer without asking the upstream"
    buckets = _mappings(step.get("buckets"))
    if buckets:
        yield "pays", f"{pays}: {step.get('reason')}"
    for bucket in buckets:
        left, burst, rate, cost = (_number(bucket.get(name)) for name in ("left", "burst", "rate", "cost"))
        passes = "passes" if bucket.get("passes") is True else f"refused: to wait {_seconds(bucket.get('wait'))}"
        stale = (
            "" if bucket.get("over_limit") != "serve_stale" or bucket.get("passes") is True else ", or a stale answer"
        )
        yield str(bucket.get("name")), f"{left} of {burst} left, {rate} more a second; it costs {cost}: {passes}{stale}"
        yield "", _whose(bucket)
    if step.get("here_only") is True:
        yield "looked at", "what this instance knows: Redis was not asked"
    gate = step.get("gate")
    if isinstance(gate, dict):
        yield "at once", _at_once(gate)
        yield "", _whose(gate)


def _whose(counted: Members) -> str:
    client = counted.get("client")
    of = "a client that is not named, who has not come before" if client is None else client or "all clients together"
    return f"of {of}, by {counted.get('by')}"


def _at_once(gate: Members) -> str:
    inside, requests, waiting, queue = (gate.get(name) for name in ("inside", "requests", "waiting", "queue"))
    said = f"{inside} of {requests} under way, {waiting} of {queue} waiting"
    return f"{said}: refused" if gate.get("full") is True else said


def _remembered(step: Members) -> Iterator[Row]:
    known = False
    for name, said in (("unshareable", "its answers are not for sharing"), ("failed", "a fetch has failed")):
        lately = step.get(name)
        if isinstance(lately, dict):
            known = True
            left = lately.get("left")
            how = f"for another {_seconds(left)}" if left else "the next request finds out"
            yield name, f"{said}: {lately.get('reason')}, {how}"
    if not known:
        yield "nothing", "of this key"


def _upstream(step: Members) -> Iterator[Row]:
    yield str(step.get("name")), str(step.get("host"))
    if step.get("breaker_open") is True:
        yield "left alone", "it has failed too often"
    ways = {"lead": "a fetch that others may join", "join": "the fetch in the air", "alone": "a fetch of its own"}
    yield "by", ways.get(str(step.get("way")), "none: it is not asked")
    if isinstance(step.get("gate"), dict):
        yield "at once", _at_once(step["gate"])
    flight = step.get("flight")
    if isinstance(flight, dict):
        sent = "not sent yet" if flight.get("sent") is None else f"sent {_seconds(flight['sent'])} ago"
        yield "in the air", f"{sent}, {'answered' if flight.get('answered') is True else 'not answered yet'}"


_STEPS: Final = {
    "route": _route,
    "purge": _purge,
    "key": _key,
    "cache": _cache,
    "variants": _variants,
    "invalidation": _invalidation,
    "freshness": _freshness,
    "client": _client,
    "limits": _limits,
    "remembered": _remembered,
    "upstream": _upstream,
}
_TITLES: Final = {
    "route": "Routes",
    "purge": "Purge",
    "key": "Key",
    "cache": "Cache",
    "variants": "Stored",
    "invalidation": "Invalidation",
    "freshness": "Freshness",
    "client": "Asked by the client",
    "limits": "Limits",
    "remembered": "Remembered",
    "upstream": "Upstream",
}


def _mappings(given: object) -> list[Members]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _listed(given: object) -> str:
    return ", ".join(map(str, given)) if isinstance(given, Iterable) else str(given)


def _value(given: object) -> str:
    return "(absent)" if given is None else str(given)


def _seconds(given: object) -> str:
    return f"{_number(given)} s" if isinstance(given, int | float) else "?"


def _number(given: object) -> str:
    return f"{given:.3f}".rstrip("0").rstrip(".") if isinstance(given, int | float) else "?"


def _left(given: object) -> str:
    if not isinstance(given, int | float):
        return "?"
    return f"{_seconds(given)} left" if given > 0 else f"over for {_seconds(-given)}"
