"""What can be configured, as frozen data. Durations are seconds, sizes bytes. `config/` reads it from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from proxy.config.vocabulary import Address
from proxy.rules.limits import Limits
from proxy.rules.quota import GateRule
from proxy.rules.routes import Route

DEFAULT_MEMORY: Final = 256 << 20
_LOOPBACK: Final = Address("127.0.0.1", 8081)
EVERYWHERE: Final = Address("0.0.0.0", 8080)  # noqa: S104 -- a proxy is there to be reached


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of the data listener."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Shutdown:
    """`delay`: not ready but serving; `timeout`: then at most this long for what is in flight."""

    delay: float = 5.0
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin listener. `hosts` are further Host values it accepts, lower-case."""

    listen: Address = _LOOPBACK
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Redis:
    """What many instances share. While it is out of reach a purge may be missed for up to `max_blind` seconds,
    unless hits are to be `revalidate`d then. `drop`: what a gap in the log puts in doubt is not worth asking after.
    """

    url: str = field(repr=False)
    prefix: str = "rt"
    revalidate: bool = False
    max_blind: float = 30.0
    drop: bool = False


@dataclass(frozen=True, slots=True)
class PurgeMethod:
    """Who may send a PURGE to the data listener."""

    allow: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """PEM files towards an upstream, and the name its certificate must carry instead of the URL's host."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Breaker:
    """After `failures` in a row nothing is sent for `open` seconds."""

    failures: int = 5
    open: float = 5.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """One API. `url` has no slash at its end; `timeout` is to the response head."""

    name: str
    url: str
    preserve_host: bool = False
    connect_timeout: float = 1.0
    timeout: float = 30.0
    max_connections: int = 256
    tls: UpstreamTls | None = None
    breaker: Breaker = Breaker()
    gate: GateRule | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. Every route's upstream is in `upstreams`. `varied` are the secrets that came from variables."""

    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    listen: Address = EVERYWHERE
    tls: ServerTls | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    access_log: bool = True
    tracing: bool = False
    limits: Limits = field(default_factory=Limits)
    shutdown: Shutdown = Shutdown()
    admin: Admin = Admin()
    memory_max_size: int = DEFAULT_MEMORY
    redis: Redis | None = None
    purge_method: PurgeMethod | None = None
    workers: int = 1
    varied: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
