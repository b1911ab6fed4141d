"""The body of an invalidation, read into what the log calls things by."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from proxy.admin.problems import Mistake
from proxy.flow.invalidation import Kind, Target
from proxy.flow.site import Site
from proxy.rules.keys import cache_target
from proxy.rules.policy import KeyRule
from proxy.rules.wire import Refused, canonical_host, canonical_target, valid_host

MAX_VALUES: Final = 1_000  # in one batch
MAX_LENGTH: Final = 65_536  # characters of a value; the head of a request is shorter
_AT_ONCE: Final = 16_384  # characters read before others get their turn: a few milliseconds of work
_EACH: Final = 512  # characters that a value counts for beside its own: it is routed, and keyed in several ways
_SHOWN: Final = 80  # characters of a value in a message
_UNKNOWN: Final = 100  # members that are told to be
_NAMED: Final = 3  # values of a kind that the log line names


@dataclass(frozen=True, slots=True)
class Batch:
    """What to invalidate, at once. `values` is how many were given, `told` is for the log."""

    targets: tuple[Target, ...]
    soft: bool
    values: int
    told: str


class Mistaken(Exception):
    """The body cannot be understood, or not be meant: every mistake in it."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        super().__init__("the body has mistakes")
        self.mistakes = tuple(mistakes)


class _Wrong(Exception):
    """One value is: `what`, and what to write `instead`."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what, self.instead = what, instead


@dataclass(frozen=True, slots=True)
class _Keying:
    """How requests are keyed: `rules` are all that routes have."""

    site: Site
    rules: tuple[KeyRule, ...]


async def read_batch(raw: bytes, site: Site) -> Batch:
    """The batch of a JSON body. Others get their turn meanwhile. Raises Mistaken with everything that is wrong."""
    body = _parse(raw)
    unknown = islice((name for name in body if name not in _LISTS and name not in _FLAGS), _UNKNOWN)
    instead = f"write {', '.join(_LISTS)}, all or soft"
    mistakes = [Mistake(_shown(name), "is not known here", instead) for name in unknown]
    mistakes += [
        Mistake(name, "is not true or false", "write true, or leave it out")
        for name in _FLAGS
        if not isinstance(body.get(name, False), bool)
    ]
    lists = {}
    for name in _LISTS:
        given = body.get(name, [])
        if isinstance(given, list):
            lists[name] = given
        else:
            mistakes.append(Mistake(name, "is not a list", 'write ["…", "…"]'))
    everything = body.get("all") is True
    values = sum(map(len, lists.values())) + everything
    if values > MAX_VALUES:
        raise Mistaken([Mistake("body", f"has {values} values", f"send at most {MAX_VALUES} at a time"), *mistakes])
    ignored = dict.fromkeys(route.policy.key.ignore_query for route in site.routes)
    keying = _Keying(site, tuple(KeyRule(names) for names in {(): None, **ignored}))
    work = 0
    targets: list[Target] = [(Kind.ALL, "")] if everything else []
    for name, given in lists.items():
        for i, value in enumerate(given):
            try:
                text = _text(value)
                work += len(text) + _EACH
                if work > _AT_ONCE:
                    work = 0
                    await asyncio.sleep(0)
                targets += _LISTS[name](text, keying)
            except _Wrong as wrong:
                shown = _shown(value) if isinstance(value, str) else "it"
                mistakes.append(Mistake(f"{name}[{i}]", f"{shown} {wrong.what}", wrong.instead))
    if not values and not mistakes:
        mistakes.append(Mistake("body", "names nothing to invalidate", f"write one of {', '.join(_LISTS)} or all"))
    if mistakes:
        raise Mistaken(mistakes)
    soft = body.get("soft", False)
    return Batch(tuple(dict.fromkeys(targets)), soft, values, _told(lists, everything=everything, soft=soft))


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise Mistaken([Mistake("body", "is not JSON", 'write {"urls": ["https://host/path"]}')]) from None
    if not isinstance(body, dict):
        raise Mistaken([Mistake("body", "is not an object", 'write {"urls": ["https://host/path"]}')])
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):  # the last would win, and nobody would know that the others are still there
        raise Mistaken([Mistake("body", "has a member twice", "write each once, with all of its values")])
    return made


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong("is not a text", 'write "…"')
    if len(value) > MAX_LENGTH:
        raise _Wrong("is longer than a request can be", f"write at most {MAX_LENGTH} characters")
    return value


def _url(text: str, keying: _Keying) -> Iterator[Target]:
    scheme, host, target = _split(text)
    target = _target(target)
    if scheme:
        yield Kind.URL, keying.site.keyed_url(scheme, host, target)
        return
    if "?" not in target:
        yield Kind.TARGET, target
        return
    # Which route it takes depends on the host, so every way in which it may be keyed has to go.
    for rule in keying.rules:
        yield Kind.TARGET, cache_target(target, rule)


def _prefix(text: str, _keying: _Keying) -> Iterator[Target]:
    scheme, host, path = _split(text)
    if "?" in path:
        raise _Wrong("has a query, which no prefix is compared with", "leave out the ? and what follows")
    if path.endswith("*"):
        raise _Wrong("ends with a *", "leave it out: everything below a prefix goes")
    if path.strip("/") == "" and path != "/":
        raise _Wrong("has only empty segments", "write / for every path")
    path = _target(path)
    path = path if path == "/" else path.removesuffix("/")  # as the log cuts paths
    yield Kind.PREFIX, (f"{scheme}://{host}" if scheme else "") + path


def _host(text: str, _keying: _Keying) -> Iterator[Target]:
    if "/" in text:
        raise _Wrong("is more than a host", "write it without scheme and path")
    host = _authority(text)
    # A request loses the default port of its own scheme, and both schemes are meant here.
    for form in (host, canonical_host(host, "http"), canonical_host(host, "https")):
        yield Kind.HOST, form


def _tag(text: str, _keying: _Keying) -> Iterator[Target]:
    if not text.isprintable() or text != text.strip() or not text:
        raise _Wrong("is empty, or has characters or outer spaces that no tag has", "write it as the upstream does")
    yield Kind.TAG, text
    if not text.isascii():  # header fields are read as Latin-1, whatever was written
        yield Kind.TAG, text.encode().decode("latin-1")


def _split(text: str) -> tuple[str, str, str]:
    """Scheme, host and target; without scheme and host the first two are empty."""
    if "#" in text:
        raise _Wrong("has a fragment, which no request carries", "leave out the # and what follows")
    if text.startswith("/"):
        return "", "", text
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in ("http", "https"):
        raise _Wrong("is neither a path nor an http or https URL", "write /path for every host, or https://host/path")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    target = rest[end:]
    return scheme, _authority(rest[:end], scheme), target if target.startswith("/") else f"/{target}"


def _authority(text: str, scheme: str | None = None) -> str:
    try:
        host = valid_host(text, scheme or "http")
    except Refused:
        raise _Wrong("has a host that no request can name", "write name, name:port or [IPv6]:port") from None
    return text.lower() if scheme is None else host


def _target(text: str) -> str:
    try:
        return canonical_target(text)
    except Refused as refused:
        raise _Wrong(f"is refused in requests: {refused.detail}", "write it as clients can ask for it") from None


_LISTS: Final[Mapping[str, Callable[[str, _Keying], Iterable[Target]]]] = {
    "urls": _url,
    "prefixes": _prefix,
    "tags": _tag,
    "hosts": _host,
}
_FLAGS: Final = ("all", "soft")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _told(lists: Mapping[str, list[str]], *, everything: bool, soft: bool) -> str:
    """In one line of bounded length; without queries, in which there may be secrets of clients'."""
    words = ["everything"] if everything else []
    for name, given in lists.items():
        if given:
            named = ", ".join(_shown(value.partition("?")[0]) for value in given[:_NAMED])
            words.append(f"{len(given)} {name} ({named}{', …' if len(given) > _NAMED else ''})")
    return ", ".join(words) + (" (soft)" if soft else "")
