"""What a client may ask for in a time or at once, and who the client is that is counted.

Who pays is found out in two pieces, so that each is cheap where it is needed: `client_of` depends on the request
alone and may be remembered with it; where it leaves the matter to the peer, `network_of` is asked once per connection.
"""

from dataclasses import dataclass
from enum import StrEnum, unique
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Network
from math import ceil
from typing import Final, Protocol

from proxy.rules.client import Address, Networks, address_of, forwarded, forwarded_for, spoken_for
from proxy.rules.message import Fields, Request

NOBODY: Final = "unknown"  # who has no address; neither an address nor a hash
_MANY: Final = 16_384  # addresses whose networks are remembered


@unique
class By(StrEnum):
    """Who is counted apart from others."""

    IP = "ip"
    HEADER = "header"
    ROUTE = "route"


class Counting(Protocol):
    """A limit, as far as it says who is counted."""

    @property
    def by(self) -> By:
        """Who is counted apart from others."""
        ...

    @property
    def header(self) -> str:
        """Lower-case name of the request field whose value tells clients apart; empty unless `by` is HEADER."""
        ...

    @property
    def ipv6_prefix(self) -> int:
        """Bits of an IPv6 address that tell one client from another."""
        ...


@dataclass(frozen=True, slots=True)
class Quota:
    """A token bucket of each client of a route: `rate` tokens a second, of which up to `burst` are saved.

    An answer from the cache costs `hit` tokens, one for which the upstream is asked `miss`. `name` is that of
    RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers). `serve_stale`: who has no tokens gets a stale answer,
    if there is one that may be used.
    """

    name: str
    rate: float
    burst: float
    by: By = By.IP
    header: str = ""
    hit: float = 1.0
    miss: float = 1.0
    ipv6_prefix: int = 64
    serve_stale: bool = False

    def covers(self, other: "Quota") -> bool:
        """Whether it refuses whatever the other would: the other has no effect beside it."""
        whose = self.by is By.ROUTE or (self.by, self.header, self.ipv6_prefix) == (
            other.by,
            other.header,
            other.ipv6_prefix,
        )
        cheaper = other.hit <= self.hit and other.miss <= self.miss
        wider = other.rate >= self.rate and other.burst >= self.burst
        return whose and cheaper and wider and (other.serve_stale or not self.serve_stale)


@dataclass(frozen=True, slots=True)
class GateRule:
    """At most so many `requests` at once, of a client or to an upstream; `queue` more wait, for `wait` seconds."""

    requests: int
    queue: int
    wait: float = 1.0
    by: By = By.IP
    header: str = ""
    ipv6_prefix: int = 64

    @property
    def after(self) -> int:
        """Whole seconds, at least 1, after which all that wait now have gone in or away."""
        return max(1, ceil(self.wait))


def counted_by(limit: Counting) -> str:
    """Who is counted, as the configuration says it."""
    return f"{limit.by}:{limit.header}" if limit.by is By.HEADER else str(limit.by)


def client_of(limit: Counting, request: Request, networks: Networks, *, trusted: bool) -> str | None:
    """Who pays, as far as the request says it; None: its peer, which is for `network_of` to name.

    `trusted`: the peer is in one of the trusted `networks`, so what it says of whom it speaks for is believed. A header
    is known by its hash alone, without a dot or a colon, which every address has.
    """
    if limit.by is By.ROUTE:
        return ""
    if limit.by is By.HEADER and (value := request.fields.get(limit.header)):
        return blake2b(value.encode(), digest_size=12).hexdigest()
    client = _spoken_for(request.fields, networks) if trusted else None
    return None if client is None else _network(client, limit.ipv6_prefix)


@lru_cache(maxsize=_MANY)
def network_of(peer: str, prefix: int) -> str:
    """Who pays for requests from an address: an IPv4 address itself, of an IPv6 address its first `prefix` bits."""
    address = address_of(peer)
    return NOBODY if address is None else _network(address, prefix)


def _network(address: Address, prefix: int) -> str:
    return str(address if isinstance(address, IPv4Address) else IPv6Network((address, prefix), strict=False))


def _spoken_for(fields: Fields, networks: Networks) -> Address | None:
    """Who it is, by one of the fields; what is right of a part that cannot be read is good all the same."""
    said = fields.get("x-forwarded-for")
    nodes = filter(None, forwarded_for(said)) if said else forwarded(fields.get("forwarded", ""))
    return spoken_for(nodes, networks)[0]
