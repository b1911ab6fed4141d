"""What can be configured: frozen `Settings`, the table of keys they are read by, and what must hold between them.

Durations are seconds, sizes bytes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

from proxy.certificates import server_context, upstream_context
from proxy.config import effective as told
from proxy.config.document import ConfigError, Problem, Reading
from proxy.config.kinds import BAD, Choice, File, Key, Leaf, ListOf, MapOf, OrOff, Section, Wrong, attempt
from proxy.config.limiting import GATE, build_gate
from proxy.config.routing import CACHE, ROUTE, build_route, check_routes, unreachable
from proxy.config.vocabulary import (
    ADDRESS,
    BEARER,
    BOOLEAN,
    HOST,
    NAMED,
    NETWORK,
    REDIS_URL,
    SERVER_NAME,
    SIZE,
    URL,
    Address,
    duration,
    integer,
)
from proxy.rules.limits import Limits
from proxy.rules.policy import Policy
from proxy.rules.quota import GateRule
from proxy.rules.routes import Match, Route

__all__ = [
    "Address",
    "ConfigError",
    "Problem",
    "Settings",
    "check",
    "effective",
    "from_upstream",
    "json_schema",
    "load",
    "override",
]


_DEFAULT_MEMORY: Final = 256 << 20
_LOOPBACK: Final = Address("127.0.0.1", 8081)
_EVERYWHERE: Final = Address("0.0.0.0", 8080)  # noqa: S104 -- a proxy is there to be reached


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
    listen: Address = _EVERYWHERE
    tls: ServerTls | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    access_log: bool = True
    tracing: bool = False
    limits: Limits = field(default_factory=Limits)
    shutdown: Shutdown = Shutdown()
    admin: Admin = Admin()
    memory_max_size: int = _DEFAULT_MEMORY
    redis: Redis | None = None
    purge_method: PurgeMethod | None = None
    workers: int = 1
    varied: frozenset[str] = field(default=frozenset(), repr=False, compare=False)


_TIME: Final = duration()
_WAIT: Final = duration(positive=True)
_COUNT: Final = integer(1)

_UPSTREAM: Final = Section(
    {
        "url": Key(URL, "Scheme, host, port and base path.", required=True),
        "preserve_host": Key(BOOLEAN, "Whether the upstream gets the client's Host instead of its own."),
        "connect_timeout": Key(_WAIT, "For a new connection."),
        "timeout": Key(_WAIT, "To the response head."),
        "max_connections": Key(_COUNT, "Open connections to it."),
        "tls": Key(
            Section(
                {
                    "ca": Key(File(), "Who may sign the upstream's certificate; else the system's."),
                    "certificate": Key(File(), "Our certificate."),
                    "key": Key(File(), "Its key."),
                    "server_name": Key(SERVER_NAME, "Name to ask for and to verify, in place of the URL's host."),
                },
                UpstreamTls,
                built=True,
            ),
            "How to speak https to it.",
        ),
        "breaker": Key(
            Section(
                {
                    "failures": Key(_COUNT, "Failures in a row that open it."),
                    "open": Key(_WAIT, "How long nothing is sent then."),
                },
                Breaker,
                built=True,
            ),
            "When to leave a failing upstream alone.",
        ),
        "max_concurrent": Key(
            GATE, "How many requests are under way to it at once; a number, or a mapping.", field="gate"
        ),
    },
    Upstream,
)
_ROOT: Final = Section(
    {
        "listen": Key(ADDRESS, "Where clients connect."),
        "workers": Key(_COUNT, "Processes that serve on one port. More than 1 needs redis."),
        "tls": Key(
            Section(
                {
                    "certificate": Key(File(), "Certificate and chain, PEM.", required=True),
                    "key": Key(File(), "Its key, PEM.", required=True),
                },
                ServerTls,
                built=True,
            ),
            "Makes the listener https.",
        ),
        "trusted_proxies": Key(ListOf(NETWORK), "Peers whose X-Forwarded-… and Forwarded are believed."),
        "access_log": Key(Choice({"json": True, "off": False}), "One line per request on standard output, or none."),
        "tracing": Key(
            Choice({"on": True, "off": False}),
            "Spans by OpenTelemetry, which OTEL_… variables set up; needs the extra readthrough[otel].",
        ),
        "limits": Key(
            Section(
                {
                    "max_header_bytes": Key(SIZE, "Request line and headers."),
                    "max_headers": Key(_COUNT, "Header lines of a request."),
                    "header_timeout": Key(_WAIT, "From a request's first byte to the end of its head."),
                    "body_timeout": Key(
                        _WAIT,
                        "Without any byte of a body, from the client or, server-sent events apart, from the upstream.",
                    ),
                    "write_timeout": Key(_WAIT, "Without the client taking any byte."),
                    "idle_timeout": Key(_WAIT, "Between requests."),
                    "max_connections": Key(_COUNT, "Client connections."),
                    "flight_memory": Key(SIZE, "All that fetches under way hold for those that follow them."),
                },
                Limits,
                built=True,
            ),
            "What a client may ask for.",
        ),
        "shutdown": Key(
            Section(
                {
                    "delay": Key(_TIME, "Not ready but serving."),
                    "timeout": Key(_TIME, "Then at most this for what is in flight."),
                },
                Shutdown,
                built=True,
            ),
            "How it stops.",
        ),
        "admin": Key(
            Section(
                {
                    "listen": Key(ADDRESS, "Where operators connect."),
                    "token": Key(BEARER, "What they send as Authorization: Bearer."),
                    "hosts": Key(ListOf(HOST), "Host values accepted beside loopback and the listen address."),
                },
                Admin,
                built=True,
                private=True,
            ),
            "The admin listener.",
        ),
        "memory": Key(
            Section({"max_size": Key(SIZE, "All that is stored.", field="memory_max_size")}, Settings),
            "The store in memory.",
        ),
        "redis": Key(
            Section(
                {
                    "url": Key(REDIS_URL, "Where it is.", required=True),
                    "prefix": Key(NAMED, "What its keys begin with."),
                    "when_unreachable": Key(
                        Choice({"serve": False, "revalidate": True}),
                        "What hits do without it: serve for max_blind, or ask the upstream.",
                        field="revalidate",
                    ),
                    "max_blind": Key(_WAIT, "For how long a purge may be missed."),
                    "after_gap": Key(
                        Choice({"revalidate": False, "drop": True}),
                        "What becomes of entries when invalidations are lost.",
                        field="drop",
                    ),
                },
                Redis,
                built=True,
                private=True,
            ),
            "What many instances share.",
        ),
        "upstreams": Key(MapOf(NAMED, _UPSTREAM, least=1), "The APIs, by name.", required=True),
        "defaults": Key(
            Section({"cache": Key(OrOff(CACHE), "Under every route's cache.")}), "What routes need not repeat."
        ),
        "routes": Key(ListOf(ROUTE, least=1), "Which request goes where; the first match wins.", required=True),
        "purge_method": Key(
            Section(
                {"allow": Key(ListOf(NETWORK, least=1), "Addresses of clients that may.", required=True)},
                PurgeMethod,
                built=True,
            ),
            "PURGE on the data listener; absent, it is refused.",
        ),
    },
    Settings,
)


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of a file. Raises ConfigError with everything that is wrong with it."""
    return check(path, environ)[0]


def check(path: Path, environ: Mapping[str, str]) -> tuple[Settings, tuple[Problem, ...]]:
    """The settings of a file, and what is allowed in it but hardly meant. Raises ConfigError."""
    reading = Reading(path, environ)
    node = reading.root()
    values = BAD if node is None else attempt(_ROOT, node, "", reading)
    if values is not BAD:
        _check_listeners(values, reading)
        _check_upstreams(values, reading)
    if reading.problems or values is BAD:
        raise ConfigError(tuple(sorted(reading.problems, key=lambda problem: problem.line)))
    settings = replace(_build(values), varied=frozenset(reading.varied))
    return settings, tuple(sorted(_warnings(settings, reading), key=lambda problem: problem.line))


def from_upstream(url: str) -> Settings:
    """The settings that fronting one URL needs. Raises ConfigError."""
    upstream = Upstream("upstream", _option("--upstream", URL, url))
    return Settings({upstream.name: upstream}, (Route("default", Match(), upstream.name, Policy()),))


def override(settings: Settings, *, listen: str | None = None, admin: str | None = None) -> Settings:
    """The settings with listeners named on the command line in place of theirs. Raises ConfigError."""
    if listen is not None:
        settings = replace(settings, listen=_option("--listen", ADDRESS, listen))
    if admin is not None:
        settings = replace(settings, admin=replace(settings.admin, listen=_option("--admin", ADDRESS, admin)))
    option = "--listen" if admin is None else "--admin"
    if wrong := tuple(Problem(option, 0, "", *clash) for clash in _clashes(settings.listen, settings.admin)):
        raise ConfigError(wrong)
    return settings


def _option(name: str, leaf: Leaf, text: str) -> Any:  # noqa: ANN401
    try:
        return leaf.parse(text)
    except Wrong as wrong:
        shown = "the value" if leaf.secret else repr(text)
        raise ConfigError((Problem(name, 0, "", f"{shown} {wrong.what}", wrong.hint or wrong.instead),)) from None


def json_schema() -> dict[str, Any]:
    """The configuration as JSON Schema, draft 2020-12: what can be said of each value by itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Readthrough configuration",
        **_ROOT.schema(),
    }


def effective(settings: Settings) -> dict[str, Any]:
    """The configuration as it works, in its own words: defaults filled in, secrets left out."""
    return told.effective(_ROOT, settings, settings.varied)


def _clashes(listen: Address, admin: Admin) -> Iterator[tuple[str, str]]:
    """What is wrong between the listeners, and what to write instead."""
    if not admin.listen.loopback and admin.token is None:
        yield "an admin listener beyond loopback needs a token", "add admin.token, or listen on 127.0.0.1"
    everywhere = {"0.0.0.0", "::"}  # noqa: S104
    hosts = {listen.host, admin.listen.host}
    if listen.port == admin.listen.port != 0 and (len(hosts) == 1 or hosts & everywhere):
        yield "the admin listener has the same port as the clients'", "give it another port"


def _check_listeners(values: Mapping[str, Any], reading: Reading) -> None:
    listen, admin = values.get("listen", _EVERYWHERE), values.get("admin", Admin())
    if listen is not BAD and admin is not BAD:
        for what, instead in _clashes(listen, admin):
            reading.error("admin.listen" if reading.given("admin.listen") else "listen", what, instead)
    if isinstance(tls := values.get("tls"), ServerTls):
        _try_out("tls", partial(server_context, tls.certificate, tls.key), reading)
    if values.get("workers", 1) not in (1, BAD) and "redis" not in values:
        what = "more than 1 needs redis: without it every process would have purges and copies of its own"
        reading.error("workers", what, "add redis.url, or write 1")
    if values.get("tracing") is True:
        _try_out("tracing", _load_tracing, reading, "pip install 'readthrough[otel]', or write off")
    if isinstance(redis := values.get("redis"), Redis):
        from proxy.edges.redis_topology import parse_url  # noqa: PLC0415 - a client library, loaded where it is used

        _try_out("redis.url", partial(parse_url, redis.url), reading, "redis://host:6379/0 is the plain form")


def _load_tracing() -> None:
    try:
        import_module("proxy.edges.tracing")
    except ImportError:
        raise ValueError("on needs OpenTelemetry, which is not installed") from None


_PEM: Final = "name PEM files, the key without a passphrase and the certificate's own"


def _try_out(at: str, use: Callable[[], object], reading: Reading, instead: str = _PEM) -> None:
    """What cannot be used is mended more easily now than when somebody connects."""
    try:
        use()
    except ValueError as error:
        reading.error(at, str(error), instead)


def _check_upstreams(values: Mapping[str, Any], reading: Reading) -> None:
    upstreams = None if values["upstreams"] is BAD else values["upstreams"]
    for name, upstream in (upstreams or {}).items():
        tls = BAD if upstream is BAD else upstream.get("tls", BAD)
        if tls is BAD:
            continue
        at = f"upstreams.{name}.tls"
        if (tls.certificate is None) != (tls.key is None):
            reading.error(at, "has a certificate without key, or a key without certificate", "write both, or neither")
        _try_out(at, partial(upstream_context, tls.ca, tls.certificate, tls.key), reading)
        if upstream["url"] is not BAD and not upstream["url"].startswith("https:"):
            reading.error(at, "does nothing for an http URL", "write https in the URL, or leave tls out")
    if values["routes"] is not BAD:
        check_routes(values["routes"], _cache_defaults(values), upstreams, _memory(values), reading)


def _memory(values: Mapping[str, Any]) -> int | None:
    """Bytes, None where they are not known."""
    memory = values.get("memory", {})
    size = BAD if memory is BAD else memory.get("memory_max_size", _DEFAULT_MEMORY)
    return None if size is BAD else size


def _cache_defaults(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The cache section under every route's, None for off."""
    defaults = values.get("defaults", {})
    cache: Mapping[str, Any] | None = {} if defaults is BAD else defaults.get("cache", {})
    return {} if cache is BAD else cache


def _build(values: Mapping[str, Any]) -> Settings:
    """Settings of values in which nothing is BAD."""
    plain = {key: value for key, value in values.items() if key not in ("memory", "defaults", "upstreams", "routes")}
    memory = _memory(values) or _DEFAULT_MEMORY
    upstreams = {
        name: Upstream(name, **{**upstream, "gate": build_gate(upstream.get("gate"))})
        for name, upstream in values["upstreams"].items()
    }
    routes = tuple(build_route(route, _cache_defaults(values), memory) for route in values["routes"])
    return Settings(upstreams, routes, memory_max_size=memory, **plain)


def _warnings(settings: Settings, reading: Reading) -> Iterator[Problem]:
    used = {route.upstream for route in settings.routes}
    for name in sorted(settings.upstreams.keys() - used):
        at = f"upstreams.{name}"
        yield reading.problem(at, "no route names it", "remove it, or name it as a route's upstream")
    for i, network in enumerate(settings.purge_method.allow if settings.purge_method else ()):
        if network.prefixlen == 0:
            yield reading.problem(f"purge_method.allow[{i}]", "lets every client purge", "name the networks that may")
    for i, earlier in unreachable(settings.routes):
        what = f"can never match: routes[{earlier}] takes all of its requests"
        yield reading.problem(f"routes[{i}]", what, "put it first, or narrow the match of the other")
    for i, route in enumerate(settings.routes):
        if route.policy.enabled and route.policy.max_object_size > settings.limits.flight_memory:
            what = "max_object_size is more than limits.flight_memory, beyond which nothing is stored"
            yield reading.problem(f"routes[{i}]", what, "write less, or raise limits.flight_memory")
