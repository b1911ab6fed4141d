"""Who a request is from: an address, as the peer has it or as trusted proxies say it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]|([0-9.]+))(?::[0-9]{1,5})?")
# RFC 7239 section 4, from right to left: what stands before a comma that is in no quotes.
_TNEMELE: Final = re.compile(r'((?:"[^"]*+"|[^",]++)*+)(?:,|\Z)')
_FOR: Final = re.compile(r'(?:^|;)[ \t]*for=("[^"]*"|[^;"\s]+)[ \t]*(?=;|$)', re.IGNORECASE)


def address_of(text: str) -> Address | None:
    """Without port, brackets and zone; IPv4 where it is mapped into IPv6 (RFC 4291 section 2.5.5.2)."""
    match = _PORT.fullmatch(text)
    try:
        address = ip_address((match[1] or match[2] if match else text).partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def within(address: Address, networks: Networks) -> bool:
    """Whether it lies in one of them."""
    return any(address in network for network in networks)


def spoken_for(nodes: Iterable[str], proxies: Networks) -> tuple[Address | None, bool]:
    """The first of these, nearest first, that is none of the `proxies`, each of which has added whom it was asked by.

    What cannot be read ends them: behind it anything may have been written by anybody. Then, and where all are
    proxies, it is the last one that could be read; and whether none was met that could not.
    """
    client = None
    for node in nodes:
        address = address_of(node)
        if address is None:
            return client, False
        client = address
        if not within(address, proxies):
            break
    return client, True


def forwarded_for(said: str) -> Iterator[str]:
    """Who is in X-Forwarded-For, the nearest first."""
    return (node.strip(" \t") for node in reversed(said.split(",")))


def forwarded(said: str) -> Iterator[str]:
    """Who is in Forwarded (RFC 7239 section 5.2), the nearest first; an empty text where it is malformed, and no more.

    Quotes are paired from the right too: one that somebody left open must not hide what was added behind it.
    """
    backwards, at = said[::-1], 0
    while at < len(backwards):
        match = _TNEMELE.match(backwards, at)
        found = _FOR.findall(match[1][::-1].strip(" \t")) if match else []
        if match is None or len(found) != 1:
            yield ""
            return
        yield found[0].strip('"')
        at = match.end()
