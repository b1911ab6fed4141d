"""Which Redis server holds a key: one server, the master that Sentinels name, or a node of a Cluster.

A URL says where to begin; what it leads to is found anew whenever there is trouble.
"""

import asyncio
import ssl as tls
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum, unique
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from redis import RedisError
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from proxy.edges.redis_entrance import Entrance, connect
from proxy.edges.redis_wire import Address, Unreachable, Wire

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@unique
class Kind(Enum):
    """What a URL leads to, by its scheme."""

    SINGLE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files to prove identities with; absent ones are the system's, or none."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    check_hostname: bool = True
    verify: bool = True


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, understood. `master` is what the Sentinels call it; `sentinel_…` is how to log in to them."""

    kind: Kind
    servers: tuple[Address, ...]
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    master: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: Tls | None = None


def parse_url(url: str) -> RedisUrl:
    """Understand one. Raises ValueError, in words for whoever wrote it and without the URL: it may hold a password.

    redis://[user:password@]host[:port][/db], rediss:// the same over TLS,
    redis+sentinel://[user:password@]host[:port],…/master[/db], redis+cluster://[user:password@]host[:port],…
    """
    scheme, separator, rest = url.partition("://")
    secure = scheme == "rediss"
    kind = Kind.SINGLE if secure else next((kind for kind in Kind if kind.value == scheme), None)
    if not separator or kind is None:
        raise ValueError("a Redis URL begins with redis://, rediss://, redis+sentinel:// or redis+cluster://")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    username, _, password = userinfo.partition(":")
    options = _options(query, kind)
    names = [unquote(part) for part in path.split("/") if part]
    master = ""
    if kind is Kind.SENTINEL:
        if not names:
            raise ValueError("redis+sentinel:// needs the master's name: redis+sentinel://host:26379/NAME")
        master = names.pop(0)
    if len(names) > 1:
        raise ValueError("there is more in the path than a database number")
    db = _db(names[0] if names else options.get("db", "0"))
    if kind is Kind.CLUSTER and db:
        raise ValueError("a Redis Cluster has database 0 only")
    port = _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT
    servers = tuple([_server(text, port) for text in hosts.split(",")])
    if kind is Kind.SINGLE and len(servers) > 1:
        raise ValueError("redis:// takes one server; redis+sentinel:// and redis+cluster:// take several")
    return RedisUrl(
        kind=kind,
        servers=servers,
        username=unquote(username),
        password=unquote(password),
        db=db,
        master=master,
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
        tls=_tls(options, secure=secure),
    )


_COMMON: Final = frozenset(
    {"tls", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
)
_KNOWN: Final[Mapping[Kind, frozenset[str]]] = {
    Kind.SINGLE: _COMMON | {"db"},
    Kind.SENTINEL: _COMMON | {"db", "sentinel_username", "sentinel_password"},
    Kind.CLUSTER: _COMMON,
}


def _options(query: str, kind: Kind) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _KNOWN[kind]:
            near = get_close_matches(name, _KNOWN[kind], n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(_KNOWN[kind]))}"
            raise ValueError(f"unknown parameter {name} in the Redis URL{hint}")
        options[name] = value
    return options


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("the path of a Redis URL is a database number, as in redis://localhost:6379/0")
    return int(text)


def _server(text: str, port: int) -> Address:
    host, separator, number = text.rpartition(":")
    if not separator or (text.startswith("[") and text.endswith("]")):
        host, number = text, str(port)
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise ValueError("a server without a host name; write host:port, several of them with commas")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise ValueError(f"the port of {host} is not a number from 1 to 65535")
    return host, int(number)


def _flag(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = options.get(name, "").lower()
    if text in {"true", "yes", "1"}:
        return True
    if text in {"false", "no", "0"}:
        return False
    if text:
        raise ValueError(f"{name} is true or false")
    return default


def _tls(options: Mapping[str, str], *, secure: bool) -> Tls | None:
    if not _flag(options, "tls", default=secure):
        if secure:
            raise ValueError("rediss:// is TLS, and tls=false says the contrary")
        if any(name.startswith("ssl_") for name in options):
            raise ValueError("parameters that begin with ssl_ need rediss:// or tls=true")
        return None
    verify = options.get("ssl_cert_reqs", "required")
    if verify not in {"required", "none"}:
        raise ValueError("ssl_cert_reqs is required or none")
    return Tls(
        ca=options.get("ssl_ca_certs"),
        certificate=options.get("ssl_certfile"),
        key=options.get("ssl_keyfile"),
        check_hostname=_flag(options, "ssl_check_hostname", default=True),
        verify=verify == "required",
    )


def tls_context(options: Tls) -> tls.SSLContext:
    """What these files make. Raises ValueError where one cannot be used."""
    try:
        context = tls.create_default_context(cafile=options.ca)
    except OSError as error:
        raise ValueError(f"ssl_ca_certs {options.ca}: {error.strerror or error}") from None
    context.check_hostname = options.check_hostname and options.verify
    if not options.verify:
        context.verify_mode = tls.CERT_NONE
    if options.certificate:
        try:
            context.load_cert_chain(options.certificate, options.key)
        except OSError as error:
            raise ValueError(f"ssl_certfile {options.certificate}: {error.strerror or error}") from None
    return context


class Layout:
    """Who holds what: `servers` all of those that hold keys, `of` the one that holds a key."""

    __slots__ = ("_slots", "only", "servers")

    def __init__(self, servers: frozenset[Address], slots: Sequence[Address | None] | None) -> None:
        self.servers, self._slots = servers, slots
        self.only = next(iter(servers)) if slots is None and servers else None  # it has every key

    def of(self, key: str) -> Address | None:
        """The server that holds the key; None where nobody does."""
        return self.only if self._slots is None else self._slots[key_slot(key.encode())]


NOWHERE: Final = Layout(frozenset(), None)


class Topology:
    """Finds servers. `make` gives an unconnected wire; a look takes about `within` seconds at most."""

    def __init__(self, url: RedisUrl, make: Callable[[Address], Wire], within: float) -> None:
        self.url = url
        ssl = tls_context(url.tls) if url.tls is not None else None
        self.entrance = Entrance(url.username, url.password, url.db, ssl)
        self.sentinel_entrance = Entrance(url.sentinel_username, url.sentinel_password, 0, ssl)
        self._make, self._within = make, within
        self._looks = 0

    async def find(self, known: Layout) -> Layout:
        """Ask anew. Raises Unreachable."""
        match self.url.kind:
            case Kind.SINGLE:
                return Layout(frozenset(self.url.servers), None)
            case Kind.SENTINEL:
                return await self._master()
            case Kind.CLUSTER:
                return await self._cluster(known)

    async def _master(self) -> Layout:
        """What the Sentinel says that knows of the latest failover."""
        replies = await self._ask(self.url.servers, self.sentinel_entrance, "SENTINEL", "MASTER", self.url.master)
        abouts = [dict(zip(reply[::2], reply[1::2], strict=False)) for _, reply in replies]
        newest = max(abouts, key=lambda about: int(about[b"config-epoch"]))
        return Layout(frozenset({(newest[b"ip"].decode(), int(newest[b"port"]))}), None)

    async def _cluster(self, known: Layout) -> Layout:
        """What some node says; another one each time, as one that is cut off does not know it."""
        nodes = sorted(known.servers | set(self.url.servers))
        self._looks += 1
        first = self._looks % len(nodes)
        replies = await self._ask([*nodes[first:], *nodes[:first]], self.entrance, "CLUSTER", "SLOTS")
        (host, _), reply = replies[0]
        slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        servers: set[Address] = set()
        for start, end, master, *_ in reply:
            address = ((master[0] or b"").decode() or host, int(master[1]))
            servers.add(address)
            slots[start : end + 1] = [address] * (end + 1 - start)
        if not servers:
            raise Unreachable(f"the Redis Cluster has no slots in use, says {host}")
        return Layout(frozenset(servers), slots)

    async def _ask(self, servers: Sequence[Address], entrance: Entrance, *words: str) -> list[tuple[Address, Any]]:
        """The replies of those that answer, in order; at least one. Raises Unreachable."""
        asked = [self._reply(server, entrance, words) for server in servers]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        answers: list[tuple[Address, Any]] = []
        for server, reply in zip(servers, replies, strict=True):
            if not isinstance(reply, BaseException):
                answers.append((server, reply))
            elif not isinstance(reply, Unreachable):
                raise reply
        if not answers:
            raise Unreachable(str(replies[0]))
        return answers

    async def _reply(self, server: Address, entrance: Entrance, words: tuple[str, ...]) -> Any:  # noqa: ANN401 - RESP
        wire = self._make(server)
        try:
            async with asyncio.timeout(self._within):
                await connect(wire, entrance, self._within)
                return await wire.order(*words)
        except TimeoutError:
            raise Unreachable(f"{wire.name} gives no answer to {words[0]}") from None
        except RedisError as error:  # what a Sentinel says to a name that it does not know is harmless
            raise Unreachable(f"{wire.name} says to {' '.join(words)}: {error}") from None
        finally:
            wire.close()
