"""Which values of clients' header fields whoever looks into the cache is told, and what of the others."""

import re
from hashlib import blake2b
from typing import Final

# Fields of which the value is told. Of all others it may be somebody's key, by whatever name a vendor has for that.
_HARMLESS: Final = re.compile(
    r"accept(-.+)?|if-.+|sec-(ch-.+|fetch-.+|gpc)|content-(type|language|encoding|length)|cache-control|pragma|range|"
    r"host|origin|user-agent|te|dnt|save-data|device-memory|dpr|ect|viewport-width|width|upgrade-insecure-requests|"
    r"x-forwarded-(proto|host|port)|x-requested-with|x-(tenant|country|device|language|locale)"
)
_ABSENT: Final = "\0"  # what `selecting` has for a field that is not there


def told(name: str, value: str | None) -> str | None:
    """The value of a client's header field, or where it may be nobody else's a mark that tells it from others."""
    if value is None or value == _ABSENT:
        return None
    if not value or _HARMLESS.fullmatch(name):
        return value
    return f"(hidden {blake2b(value.encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()})"


def told_key(key: str) -> str:
    """A cache key, without the values of keyed header fields that may be nobody else's: marks keep them apart."""
    url, *keyed = key.split("\n")
    pairs = [(name, told(name, value)) for name, _, value in (line.partition("=") for line in keyed)]
    return "\n".join([url, *(f"{name}={value}" for name, value in pairs)])
