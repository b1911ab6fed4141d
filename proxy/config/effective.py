"""The configuration as it works, said in its own words: defaults filled in, secrets left out."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, Final

from proxy.config.keys import ROOT
from proxy.config.kinds import OFF, Key, Kind, Leaf, ListOf, MapOf, OrBare, OrOff, Section
from proxy.config.vocabulary import REDIS_URL, URL, Rate
from proxy.rules.policy import Policy
from proxy.rules.quota import GateRule, Quota, counted_by
from proxy.settings import Settings

HIDDEN: Final = "(hidden)"

Values = Mapping[str, Any]


def effective(settings: Settings) -> dict[str, Any]:
    """The configuration as it works. None is what is not configured.

    What lies under every route's cache (`defaults`) is said with each route. Of secrets that came from variables,
    no more is said than where they lead.
    """
    hidden = frozenset(_plain(text) for text in settings.varied)
    keys = {name: key for name, key in ROOT.keys.items() if name != "defaults"}
    return _section(keys, _values(settings), hidden)


def _section(keys: Mapping[str, Key], values: Values, hidden: AbstractSet[str]) -> dict[str, Any]:
    return {name: _shown(key.kind, name, key, values, hidden) for name, key in keys.items()}


def _shown(kind: Kind, name: str, key: Key, values: Values, hidden: AbstractSet[str]) -> Any:  # noqa: ANN401
    if isinstance(kind, Section) and not kind.built and (key.field or name) not in values:
        return _section(kind.keys, values, hidden)  # its keys are fields of what it stands in
    return _value(kind, values[key.field or name], hidden)


def _value(kind: Kind, value: Any, hidden: AbstractSet[str]) -> Any:  # noqa: ANN401
    if value is None:
        return None
    match kind:
        case OrOff():
            return OFF[0] if not value.enabled else _value(kind.kind, value, hidden)
        case OrBare():
            return _value(kind.section, value, hidden)
        case Section():
            return _section(kind.keys, _values(value), hidden)
        case MapOf(_, Section() as inner):
            return {str(name): _value(inner, item, hidden) for name, item in value.items()}
        case ListOf(Section() as inner):
            return [_value(inner, item, hidden) for item in value]
        case Leaf(secret=True):
            return _masked(kind, value, hidden)
        case _:
            return kind.show(value)


def _values(source: object) -> dict[str, Any]:
    """A dataclass by its fields; a policy and a limit as the keys of their sections are called."""
    assert is_dataclass(source)  # noqa: S101 - what is configured is read into nothing else
    values = {f.name: getattr(source, f.name) for f in fields(source)}
    if isinstance(source, Policy):
        values |= {"ignore": source.key.ignore_query, "headers": source.key.headers}
        del values["key"]
    elif isinstance(source, Quota | GateRule):
        values["by"] = counted_by(source)
        if isinstance(source, Quota):
            values["rate"] = Rate.of(source.rate)
    elif "policy" in values:
        values["cache"] = values.pop("policy")
    return values


def _masked(kind: Leaf, value: str, hidden: AbstractSet[str]) -> str:
    """A secret, as far as it can be said: of a URL scheme, host and, where it is written in the file, path."""
    if kind not in (URL, REDIS_URL):
        return HIDDEN
    scheme, _, rest = value.partition("://")
    rest, query, _ = rest.partition("?")  # first: what is behind it may have an @ and a slash of its own
    at, rest = _behind_user(rest, anywhere=kind is REDIS_URL)
    host, slash, path = rest.partition("/")
    if slash and path and _plain(value) in hidden and not (kind is REDIS_URL and path.isdigit()):
        path = HIDDEN
    return f"{scheme}://{HIDDEN + at if at else ''}{host}{slash}{path}{query and query + HIDDEN}"


def _behind_user(rest: str, *, anywhere: bool) -> tuple[str, str]:
    """`@` where there is a user before it, and what follows. `anywhere`: it may have a slash that nobody encoded."""
    end = len(rest) if anywhere else len(rest.partition("/")[0])
    _, at, host = rest[:end].rpartition("@")
    return at, host + rest[end:]


def _plain(text: str) -> str:
    """A URL's text as it can be compared with what was read from it."""
    return text.rstrip("/").lower()
