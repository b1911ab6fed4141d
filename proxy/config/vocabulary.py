"""The single values of a configuration: durations, sizes, addresses, URLs, patterns.

Every pattern here is also one of the JSON Schema's, so it is written in what Python's and
ECMAScript's regular expressions have in common.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from proxy.config.kinds import Leaf, Wrong
from proxy.rules.fields import OURS

MAX_SECONDS: Final = 2**31  # what delta-seconds can say: RFC 9111 section 1.2.2
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_PERIODS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_MOST_PER_PERIOD: Final = 1_000_000_000  # more than anything does, and six digits behind the point are still exact
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,6})?"
_INTEGER: Final = r"0|[1-9][0-9]{0,99}"
_MOST: Final = 10**12 - 1  # more than there is of anything that is counted here
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_IPV6: Final = r"\[[0-9A-Fa-f:.]+\]"
CAPTURE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(?:[/;]|\Z)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener listens: an IP address without brackets or a name, and a port; 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per `unit`, as it is written."""

    number: float
    unit: str

    def __str__(self) -> str:
        return f"{self.number:.6f}".rstrip("0").rstrip(".") + f"/{self.unit}"

    @property
    def per_second(self) -> float:
        """The number of one second."""
        return self.number / _PERIODS[self.unit]

    @classmethod
    def of(cls, per_second: float) -> "Rate":
        """As it may have been written: in the shortest unit that needs no more than six digits behind the point."""
        rates = (cls(round(per_second * seconds, 6), unit) for unit, seconds in _PERIODS.items())
        longest = cls(per_second * _PERIODS["d"], "d")
        return next((rate for rate in rates if rate.per_second == per_second), longest)


def _split(text: str) -> tuple[float, str]:
    match = re.match(_NUMBER, text)
    return (float(match[0]), text[match.end() :]) if match else (0.0, "")


def duration(*, positive: bool = False) -> Leaf:
    """Seconds, to the millisecond."""

    def convert(text: str) -> float:
        number, unit = _split(text)
        seconds = round(number * _MILLISECONDS.get(unit, 0)) / 1000
        if positive and not seconds:
            raise Wrong("is too short", "write 1ms or more")
        if seconds > MAX_SECONDS:
            raise Wrong("is too long", f"write at most {MAX_SECONDS // 86400}d")
        return seconds

    example = "250ms, 30s, 5m, 2h or 1d"
    native = () if positive else ({"const": 0},)
    pattern = rf"{_NUMBER}(?:ms|s|m|h|d)" + ("" if positive else "|0")
    return Leaf("a duration", f"a number and its unit, as in {example}", pattern, convert, show_duration, native)


def show_duration(seconds: float) -> str:
    """A duration as `duration` reads it, in the largest unit without a fraction."""
    milliseconds = round(seconds * 1000)
    unit = next(u for u in ("d", "h", "m", "s", "ms") if not milliseconds % _MILLISECONDS[u])
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}" if milliseconds else "0s"


def _size(text: str) -> int:
    number, unit = _split(text)
    size = int(number * _BYTES[unit])
    if not size:
        raise Wrong("is too small", "write 1B or more")
    return size


def show_size(size: int) -> str:
    """A size as SIZE reads it, in the largest unit without a fraction."""
    unit = next(u for u in ("TiB", "GiB", "MiB", "KiB", "B") if not size % _BYTES[u])
    return f"{size // _BYTES[unit]}{unit}"


def integer(least: int, most: int = _MOST) -> Leaf:
    """A whole number that is at least, and at most, this."""

    def convert(text: str) -> int:
        if int(text) < least:
            raise Wrong("is too small", f"write {least} or more")
        if int(text) > most:
            raise Wrong("is too large", f"write {most} or less")
        return int(text)

    native = {"type": "integer", "minimum": least, "maximum": most}
    range_ = f"{least} or more" if most == _MOST else f"{least} to {most}"
    return Leaf("a whole number", f"digits only, {range_}", _INTEGER, convert, int, (native,))


def _rate(text: str) -> Rate:
    number, unit = _split(text)
    if not number:
        raise Wrong("is no rate", "write 1/d or more")
    if number > _MOST_PER_PERIOD:
        raise Wrong("is too large", f"write {_MOST_PER_PERIOD}/s or less")
    return Rate(number, unit[1:])


def _percentage(text: str) -> float:
    percent = float(text.removesuffix("%"))
    if percent > 100:
        raise Wrong("is more than all", "write 0% to 100%")
    return percent / 100


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    _check_ip(host)
    return Address(host.strip("[]"), _port(port))


def _port(text: str) -> int:
    if int(text) > 65535:
        raise Wrong("has no such port", "write a port up to 65535")
    return int(text)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise Wrong("is not a network", "write an address and a prefix length, as in 10.0.0.0/8 or fd00::/8") from None
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise Wrong("has bits set beyond its prefix", "write the network's first address", f"write {network}")
    return network


def _host_pattern(text: str) -> str:
    name, colon, port = text.lower().rpartition(":")
    if colon and not text.endswith("]"):
        if _port(port) in (80, 443):
            raise Wrong("names a default port, which requests do not carry", "write the host alone", f"write {name}")
        _check_ip(name)
    else:
        _check_ip(text)
    return text.lower()


def _check_ip(host: str) -> None:
    try:
        if host.startswith("["):
            IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
    except ValueError:
        raise Wrong("has no IP address that can be", "write four numbers up to 255, or IPv6 as in [::1]") from None


def _method(text: str) -> str:
    if text in ("CONNECT", "TRACE"):
        raise Wrong("is refused before any route is asked", "leave it out")
    if text != text.upper():
        raise Wrong("is not in capitals", "write methods in capitals", f"write {text.upper()}")
    return text


def _keyed(text: str) -> str:
    name = text.lower()
    if name in OURS:
        raise Wrong("is written by this proxy: what a client sends in it says nothing of the answer", "leave it out")
    return name


def _limit_by(text: str) -> str:
    by = text.lower()
    if by in ("header:x-forwarded-for", "header:forwarded"):
        raise Wrong("can be written by any client as it likes", "write ip, which believes it of trusted_proxies only")
    return by


def captures(text: str) -> tuple[str, ...]:
    """The names in braces, in their order."""
    return tuple(CAPTURE.findall(text))


def _braced(text: str) -> str:
    if re.search(r"[{}]", CAPTURE.sub("", text)):
        raise Wrong("has a brace that is not part of a {name}", "write {name}, of letters, digits and _")
    return text


def _canonical(path: str) -> str:
    """A path as requests are compared: see the listener's canonical target. Raises Wrong."""

    def escape(match: re.Match[str]) -> str:
        if match[1] is None:
            raise Wrong("has a % that begins no escape", "write %25 for a percent sign")
        char = chr(int(match[1], 16))
        if char in "/\\\0\r\n":
            raise Wrong("has an escape that requests are refused for", "leave out %2F, %5C, %00, %0D and %0A")
        return char if _UNRESERVED.fullmatch(char) else match[0].upper()

    clean = _ESCAPE.sub(escape, path)
    if _DOT_SEGMENT.search(clean):
        raise Wrong("has a dot segment, which requests are refused for", "write the path without /./ and /../")
    if clean != path:
        raise Wrong(
            "is not escaped as requests are compared", "escape only what must be, in capitals", f"write {clean}"
        )
    return path


def _path_pattern(text: str) -> str:
    if "*" in text[:-1]:
        raise Wrong("has a * before its end", "write {name} for one segment, and * only as the last character")
    names = captures(_braced(text))
    if len(set(names)) < len(names):
        raise Wrong("gives two segments one name", "write another {name} for each")
    return _canonical(text)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Wrong("has no host and port that can be read", "write http://host:port or http://[::1]:port") from None
    if parts.scheme not in ("http", "https"):
        raise Wrong("is neither http nor https", "write http://… or https://…")
    if "@" in parts.netloc:
        raise Wrong("has a user name in it", "leave out what stands before the @")
    if "?" in text or "#" in text:
        raise Wrong("has a query or fragment", "write scheme, host, port and base path only")
    if re.fullmatch(rf"(?:{_NAME}|{_IPV6})(?::[0-9]+)?", parts.netloc) is None or port == 0:
        raise Wrong("has no host and port that can be read", "write http://host:port or http://[::1]:port")
    _check_ip(parts.netloc.rpartition(":")[0] if port is not None else parts.netloc)
    if "\\" in parts.path:
        raise Wrong("has a backslash", "write /")
    return f"{parts.scheme}://{parts.netloc.lower()}{_canonical(parts.path).rstrip('/')}"


def _show_number(number: float) -> float:
    return int(number) if number.is_integer() else number


def _either(words: Iterable[str]) -> str:
    return "|".join(words)


SIZE: Final = Leaf(
    "a size", "a number and its unit, as in 64KiB, 8MiB or 1GiB", rf"{_NUMBER}(?:{_either(_BYTES)})", _size, show_size
)
RATE: Final = Leaf("a rate", "a number per s, m, h or d, as in 50/s or 1000/m", rf"{_NUMBER}/[smhd]", _rate)
PERCENTAGE: Final = Leaf(
    "a percentage",
    "0% to 100%",
    r"[0-9]{1,3}(?:\.[0-9]{1,6})?%|0",
    _percentage,
    lambda fraction: f"{fraction * 100:g}%",
    ({"const": 0},),
)
NUMBER: Final = Leaf(
    "a number",
    "0, or a number such as 1.5",
    _NUMBER,
    float,
    _show_number,
    ({"type": "number", "minimum": 0},),
)
BOOLEAN: Final = Leaf(
    "a yes or no",
    "true or false",
    "true|false",
    lambda text: text == "true",
    bool,
    ({"type": "boolean"},),
)
ADDRESS: Final = Leaf(
    "an address",
    'HOST:PORT, as in 0.0.0.0:8080 or, in quotes, "[::1]:8080"',
    rf"(?:{_NAME}|{_IPV6}):[0-9]{{1,5}}",
    _address,
)
NETWORK: Final = Leaf(
    "a network", "an address and a prefix length, as in 10.0.0.0/8", "[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", _network
)
NAMED: Final = Leaf("a name", "letters, digits, _ and -", "[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
STATUS: Final = Leaf("an error status", "a number from 400 to 599", "[45][0-9][0-9]", int)
HOST: Final = Leaf(
    "a host", "a name or address, with or without port", rf"(?:{_NAME}|{_IPV6})(?::[0-9]{{1,5}})?", _host_pattern
)
SERVER_NAME: Final = Leaf("a host name", "a name without port", _NAME)
HOST_PATTERN: Final = Leaf(
    "a host pattern",
    'a name, or in quotes "*.example.com" for all below one; punycode where it is not ASCII',
    rf"\*|\*\.{_NAME}|{HOST.pattern}",
    _host_pattern,
)
PATH_PATTERN: Final = Leaf(
    "a path",
    "/ and visible ASCII without ? and #, the rest percent-encoded",
    r"/[\x21\x22\x24-\x3e\x40-\x5b\x5d-\x7e]*",
    _path_pattern,
)
METHOD: Final = Leaf("a method", "GET, HEAD, POST, …", "[A-Za-z][A-Za-z0-9_-]{0,31}", _method)
HEADER: Final = Leaf("a header name", "a field name such as X-Tenant", _TOKEN, _keyed)
PARAMETER: Final = Leaf("a parameter name", "a name, or with a * at its end all that begin so", r"[^*\s&=]+\*?|\*")
TAG: Final = Leaf("a tag", "visible ASCII, with {name} for what the path captures", "[!-~]+", _braced)
LIMIT_BY: Final = Leaf("a client", "ip, route or header:NAME", rf"ip|route|header:{_TOKEN}", _limit_by)
LABEL: Final = Leaf(
    "a label", 'visible ASCII without " and \\, and spaces within', r"[!#-\[\]-~](?:[ !#-\[\]-~]{0,78}[!#-\[\]-~])?"
)  # RFC 9651 section 3.3.3, without what it has to escape
BEARER: Final = Leaf("a token", "visible ASCII without spaces, at least one character", "[!-~]+", secret=True)
URL: Final = Leaf("a URL", "http://host:port/base or https://…", "[!-~]+", _url, secret=True)
REDIS_URL: Final = Leaf(
    "a Redis URL",
    "redis://host:6379/0, rediss:, redis+sentinel: or redis+cluster:",
    r"redis(?:s|\+sentinel|\+cluster)?://[!-~]+",
    secret=True,
)
