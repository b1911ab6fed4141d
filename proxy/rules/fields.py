"""Reading header values: Cache-Control and its targeted kin, Vary, Age, dates, tags.

A value that cannot be read never makes a response fresher: callers get None, or zero seconds.
"""

import re
from calendar import timegm
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from proxy.rules.message import Fields, Headers

Directives = Mapping[str, str | None]

MAX_DELTA: Final = 1 << 31  # RFC 9111 section 1.2.2: larger values are read as this many seconds

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_WORD: Final = re.compile(_TOKEN)
_DIRECTIVE: Final = re.compile(rf'({_TOKEN})(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?\s*(?:,|\Z)')
# RFC 9651 section 3. Possessive throughout: what does not match fails at once, however long it is.
_KEY = r"[a-z*][a-z0-9_\-.*]*+"
_BARE = (
    r'(?:-?\d{1,15}(?:\.\d{1,3})?|"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+"|:[A-Za-z0-9+/=]*+:|\?[01]'
    r"|[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*+)"
)
_PARAMETERS = rf"(?:; *+{_KEY}(?:={_BARE})?)*+"
_INNER_LIST = rf"\( *+(?:{_BARE}{_PARAMETERS}(?: ++|(?=\))))*+\)"
_SF_MEMBER: Final = re.compile(rf"[ \t]*+({_KEY})(?:=({_BARE}|{_INNER_LIST}))?{_PARAMETERS}[ \t]*+(,|\Z)")
_SF_STRING: Final = re.compile(rf'[ \t]*+"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*+)"{_PARAMETERS}[ \t]*+(,|\Z)')
_ESCAPED: Final = re.compile(r"\\(.)")
_DIGITS: Final = re.compile(r"\d+\Z", re.ASCII)

_MONTHS: Final = {
    m: i for i, m in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)
}
_CLOCK = r"(\d\d):(\d\d):(\d\d)"
_DATES: Final = (
    # RFC 9110 section 5.6.7: IMF-fixdate, then the two obsolete forms a recipient must read.
    (re.compile(rf"[a-z]{{3}}, (\d\d) ([a-z]{{3}}) (\d{{4}}) {_CLOCK} GMT\Z", re.IGNORECASE), (3, 2, 1, 4)),
    (re.compile(rf"[a-z]{{6,9}}, (\d\d)-([a-z]{{3}})-(\d\d) {_CLOCK} GMT\Z", re.IGNORECASE), (3, 2, 1, 4)),
    (re.compile(rf"[a-z]{{3}} ([a-z]{{3}}) ([ \d]\d) {_CLOCK} (\d{{4}})\Z", re.IGNORECASE), (6, 1, 2, 3)),
)


def directives(value: str | None) -> Directives:
    """Cache-Control as name to argument, None where it has none (RFC 9111 section 5.2).

    The first of repeated directives counts (section 4.2.1); what is no directive is passed over.
    """
    return _read(value)[0]


def _read(value: str | None) -> tuple[dict[str, str | None], list[str]]:
    """The directives, and what stands between them that is none, or an argument that no grammar allows."""
    found: dict[str, str | None] = {}
    unread: list[str] = []
    if value is None:
        return found, unread
    at = _skip(value, 0)
    while at < len(value):
        match = _DIRECTIVE.match(value, at)
        if match is None:  # not a directive: go on behind the next comma outside quotes
            end = _next_member(value, at)
            unread.append(value[at:end])
            at = _skip(value, end)
            if value.count('"') % 2:  # a quote that nobody closed: what it hides may forbid what is seen
                found["no-store"] = None
            continue
        name, quoted, plain = match.groups()
        if plain and _WORD.fullmatch(plain) is None:
            unread.append(plain)
        found.setdefault(name.lower(), quoted if quoted is not None else plain)
        at = _skip(value, match.end())
    return found, unread


def _skip(value: str, at: int) -> int:
    """The end of the white space and empty members that begin here."""
    while at < len(value) and value[at] in " \t,":
        at += 1
    return at


def _next_member(value: str, at: int) -> int:
    quoted = False
    while at < len(value):
        char = value[at]
        at += 1
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            break
    return at


def targeted(fields: Fields) -> Directives | None:
    """CDN-Cache-Control where it is present and well formed (RFC 9213 section 2.1), else None.

    It is a structured dictionary: one malformed member voids the whole field, and an argument
    of the wrong type voids its directive.
    """
    value = fields.get("cdn-cache-control", "").strip(" \t")
    if not value:
        return None
    found: dict[str, str | None] = {}
    at = 0
    while at < len(value):
        match = _SF_MEMBER.match(value, at)
        if match is None or (match[3] == "," and match.end() == len(value)):
            return None
        name, argument = match[1], match[2]
        at = match.end()
        if argument == "?0":
            found.pop(name, None)
        elif argument is None or argument == "?1":
            found[name] = None
        elif name in _SECONDS and _DIGITS.match(argument) is None:
            found.pop(name, None)
        else:
            found[name] = argument
    return found


_SECONDS: Final = frozenset({"max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"})


def response_directives(fields: Fields) -> tuple[Directives, bool]:
    """What governs a response here, and whether it is the targeted field (then Expires is void).

    Where what cannot be read in Cache-Control holds a word that limits, `private; max-age=60` for one, nobody can
    say how far: the response is nobody else's.
    """
    aimed = targeted(fields)
    if aimed is not None:
        return aimed, True
    found, unread = _read(fields.get("cache-control"))
    if any(not _LIMITING.isdisjoint(_WORD.findall(part.lower())) for part in unread):
        found |= {"no-store": None, "private": None}  # the second since must-understand overrules the first
    return found, False


_LIMITING: Final = frozenset(
    {"max-age", "must-revalidate", "no-cache", "no-store", "private", "proxy-revalidate", "s-maxage"}
)


def seconds(given: Directives, name: str) -> int | None:
    """A delta-seconds argument; None where the directive is absent, 0 where it is unreadable."""
    if name not in given:
        return None
    argument = given[name]
    if argument is None or _DIGITS.match(argument) is None:
        return 0
    return _bounded(argument)


def age_of(fields: Fields) -> int | None:
    """The Age field in seconds, 0 where absent, None where it is anything but one number."""
    value = fields.get("age")
    if value is None:
        return 0
    return _bounded(value) if _DIGITS.match(value) else None


def _bounded(digits: str) -> int:
    # int() takes quadratic time and, beyond some thousands of digits, refuses.
    digits = digits.lstrip("0")
    return min(int(digits or "0"), MAX_DELTA) if len(digits) < 20 else MAX_DELTA


def http_date(value: str | None) -> float | None:
    """Seconds since the epoch (RFC 9110 section 5.6.7), None where absent or malformed."""
    if value is None:
        return None
    for pattern, (year_at, month_at, day_at, clock_at) in _DATES:
        match = pattern.match(value)
        if match is None:
            continue
        year, month, day = int(match[year_at]), _MONTHS.get(match[month_at].lower()), int(match[day_at])
        hour, minute, second = (int(match[clock_at + i]) for i in range(3))
        if len(match[year_at]) == 2:
            year += 1900 if year >= 70 else 2000
        if year < 1 or month is None or not 1 <= day <= 31 or hour > 23 or minute > 59 or second > 60:
            return None
        return float(timegm((year, month, day, hour, minute, second)))
    return None


_DAY_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH_NAMES: Final = ("", *(m.title() for m in _MONTHS))


def format_date(at: float) -> str:
    """An IMF-fixdate (RFC 9110 section 5.6.7) for seconds since the epoch."""
    moment = datetime.fromtimestamp(int(at), UTC)
    return (
        f"{_DAY_NAMES[moment.weekday()]}, {moment.day:02} {_MONTH_NAMES[moment.month]} {moment.year:04} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
    )


def members(value: str | None) -> list[str]:
    """A comma-separated list without its empty members (RFC 9110 section 5.6.1)."""
    return [part for piece in (value or "").split(",") if (part := piece.strip(" \t"))]


# What upstreams get of us in these is not what the client sent: its value would tell no variant from another.
OURS: Final = frozenset({"forwarded", "traceparent", "tracestate", "via", "x-forwarded-for", "x-request-id"})
# Nor in these, but what they get is in the key.
_KEYED: Final = frozenset({"host", "x-forwarded-host", "x-forwarded-proto"})


def vary_names(fields: Fields) -> tuple[str, ...] | None:
    """The lower-case names by which variants are told apart, sorted; None for `*` (RFC 9111 section 4.1), for what
    is no name, and for fields that we write: nobody can say what it varies on.
    """
    names = {name.lower() for name in members(fields.get("vary"))}
    if "*" in names or not names.isdisjoint(OURS) or not all(map(_WORD.fullmatch, names)):
        return None
    return tuple(sorted(names - _KEYED))


_CASELESS: Final = frozenset({"accept-language", "accept-encoding", "accept-charset"})
_LISTS: Final = _CASELESS | {"accept"}
# A comma parts nothing in these, so the white space at it is the upstream's to read.
_SINGLE: Final = frozenset({"authorization", "cookie", "from", "origin", "referer", "user-agent"})


def selecting(fields: Fields, names: tuple[str, ...]) -> Headers:
    """The request's values of those names, with what says nothing set aside (RFC 9111 section 4.1): white
    space around commas; and where the field is known for a list its empty members, and case where it has none.
    """
    return tuple([(name, _selected(name, fields.get(name))) for name in names])


def selects(vary: Headers, fields: Fields) -> bool:
    """Whether `selecting` would pick these very values."""
    for name, value in vary:  # noqa: SIM110 - a hit pays for a generator
        if _selected(name, fields.get(name)) != value:
            return False
    return True


def _selected(name: str, value: str | None) -> str:
    return _normal(name, value) if value is None or len(value) <= 256 else _normal.__wrapped__(name, value)


@lru_cache(maxsize=4096)
def _normal(name: str, value: str | None) -> str:
    if value is None:
        return "\0"  # absent is not empty
    if name in _SINGLE or '"' in value:
        return value
    # An upstream may read `a,` as something else than `a`: of a list alone it is known that it does not.
    value = ",".join(members(value) if name in _LISTS else [piece.strip(" \t") for piece in value.split(",")])
    return value.lower() if name in _CASELESS else value


def spelled_otherwise(fields: Fields, names: tuple[str, ...]) -> tuple[str, ...]:
    """The other names in `fields` that CGI and its heirs read as one of `names`: they write `-` as `_`."""
    alike = {name.replace("-", "_") for name in names}
    return tuple(sorted([name for name in fields if name.replace("-", "_") in alike and name not in names]))


def response_tags(fields: Fields, origin: str) -> tuple[str, ...]:
    """Tags that an upstream gave: Surrogate-Key, Cache-Tag and, as `ORIGIN GROUP`, Cache-Groups.

    A cache group belongs to its origin alone (RFC 9875 section 2), so its tag carries it.
    """
    tags = fields.get("surrogate-key", "").replace(",", " ").split()
    tags += members(fields.get("cache-tag"))
    tags += group_tags(fields.get("cache-groups"), origin)
    return tuple(tags)


def group_tags(value: str | None, origin: str) -> list[str]:
    """The tags of the groups in a list of strings (RFC 9875 sections 2 and 3); parameters say nothing of a group.

    RFC 9651 section 4.2: a list with anything else in it is ignored.
    """
    groups: list[str] = []
    value = (value or "").strip(" \t")
    at = 0
    while at < len(value):
        match = _SF_STRING.match(value, at)
        if match is None or (match[2] and match.end() == len(value)):
            return []
        at = match.end()
        group = _ESCAPED.sub(r"\1", match[1])
        groups.append(f"{origin} {group}")
    return groups
