"""From a YAML file to `Settings`: everything that is wrong with it at once, and what must hold between its keys."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from proxy.certificates import server_context, upstream_context
from proxy.config.document import ConfigError, Problem, Reading
from proxy.config.keys import ROOT
from proxy.config.kinds import BAD, Leaf, Wrong, attempt
from proxy.config.limiting import build_gate
from proxy.config.routing import build_route, check_routes, unreachable
from proxy.config.vocabulary import ADDRESS, BEARER, URL, Address
from proxy.rules.policy import Policy
from proxy.rules.routes import Match, Route
from proxy.settings import DEFAULT_MEMORY, EVERYWHERE, Admin, Redis, ServerTls, Settings, Upstream

TOKEN: Final = "READTHROUGH_TOKEN"  # the environment variable


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of a file. Raises ConfigError with everything that is wrong with it."""
    return check(path, environ)[0]


def check(path: Path, environ: Mapping[str, str]) -> tuple[Settings, tuple[Problem, ...]]:
    """The settings of a file, and what is allowed in it but hardly meant. Raises ConfigError."""
    reading = Reading(path, environ)
    node = reading.root()
    values = BAD if node is None else attempt(ROOT, node, "", reading)
    if values is not BAD:
        _check_listeners(values, reading)
        _check_upstreams(values, reading)
    if reading.problems or values is BAD:
        raise ConfigError(tuple(sorted(reading.problems, key=lambda problem: problem.line)))
    settings = replace(_build(values), varied=frozenset(reading.varied))
    return settings, tuple(sorted(_warnings(settings, reading), key=lambda problem: problem.line))


def from_upstream(url: str, token: str | None = None) -> Settings:
    """The settings that fronting one URL needs, with the operators' token from TOKEN. Raises ConfigError."""
    upstream = Upstream("upstream", _option("--upstream", URL, url))
    admin = Admin(token=None if token is None else _option(TOKEN, BEARER, token))
    return Settings({upstream.name: upstream}, (Route("default", Match(), upstream.name, Policy()),), admin=admin)


def override(settings: Settings, *, listen: str | None = None, admin: str | None = None) -> Settings:
    """The settings with listeners named on the command line in place of theirs. Raises ConfigError."""
    if listen is not None:
        settings = replace(settings, listen=_option("--listen", ADDRESS, listen))
    if admin is not None:
        settings = replace(settings, admin=replace(settings.admin, listen=_option("--admin", ADDRESS, admin)))
    option = "--listen" if admin is None else "--admin"
    give = f"add admin.token or, with --upstream, set {TOKEN}"
    if wrong := tuple(Problem(option, 0, "", *clash) for clash in _clashes(settings.listen, settings.admin, give)):
        raise ConfigError(wrong)
    return settings


def _option(name: str, leaf: Leaf, text: str) -> Any:  # noqa: ANN401
    try:
        return leaf.parse(text)
    except Wrong as wrong:
        shown = "the value" if leaf.secret else repr(text)
        raise ConfigError((Problem(name, 0, "", f"{shown} {wrong.what}", wrong.hint or wrong.instead),)) from None


def _clashes(listen: Address, admin: Admin, give: str = "add admin.token") -> Iterator[tuple[str, str]]:
    """What is wrong between the listeners, and what to write instead. `give`: a token."""
    if not admin.listen.loopback and admin.token is None:
        yield "an admin listener beyond loopback needs a token", f"{give}, or listen on 127.0.0.1"
    everywhere = {"0.0.0.0", "::"}  # noqa: S104
    hosts = {listen.host, admin.listen.host}
    if listen.port == admin.listen.port != 0 and (len(hosts) == 1 or hosts & everywhere):
        yield "the admin listener has the same port as the clients'", "give it another port"


def _check_listeners(values: Mapping[str, Any], reading: Reading) -> None:
    listen, admin = values.get("listen", EVERYWHERE), values.get("admin", Admin())
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
    size = BAD if memory is BAD else memory.get("memory_max_size", DEFAULT_MEMORY)
    return None if size is BAD else size


def _cache_defaults(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The cache section under every route's, None for off."""
    defaults = values.get("defaults", {})
    cache: Mapping[str, Any] | None = {} if defaults is BAD else defaults.get("cache", {})
    return {} if cache is BAD else cache


def _build(values: Mapping[str, Any]) -> Settings:
    """Settings of values in which nothing is BAD."""
    plain = {key: value for key, value in values.items() if key not in ("memory", "defaults", "upstreams", "routes")}
    memory = _memory(values) or DEFAULT_MEMORY
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
